"""Pictures of maps: PNG images of at most 256 colours, with legends, colour bars and scale bars in HTML."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import cos, floor, log10, radians
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyproj
import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr.cube.decode import flags_of
from misoxr.display.tables import decimals_for, number
from misoxr.errors import BandError, require
from misoxr.io.layout import fill_of

__all__ = [
    "NODATA",
    "Ground",
    "Legend",
    "composite",
    "figure",
    "floats",
    "floats_of",
    "indices",
    "indices_of",
    "key",
    "legend_of",
    "limits_of",
    "png",
    "stretch",
    "stretched",
]

Codes = npt.NDArray[np.uint8]
NODATA = 255
"""The colour of a picture that is transparent."""
SHADES = 255
FEW = 12
"""Different whole numbers, at most, that have a colour each."""
SIZES = 8
"""Sizes of sets, at the least, that have the same colours in every map."""
GREATEST = "greatest "
"""Begins the title of what is left of the probabilities of several classes."""
CERTAIN = ("_probability", "_credibility", "_confidence")
DOUBT = ("_std", "_entropy", "_set_size", "dissimilarity_index")
OUTSIDE, PALE = "#c0504d", "#dde7ea"
"""Where a map is not to be believed, and where nothing is said against it."""
DISTORTED = 0.03
"""Share by which a length on the map may differ from that on the ground before it counts."""
_DEGREE = 111_320.0
"""Metres of a degree along a meridian, nearly."""


@dataclass(frozen=True)
class Ground:
    """How large the ground of a map is, and how its rows and columns lie.

    Attributes
    ----------
    width, height : float
        Metres, of a map in degrees at its middle latitude.
    down, right : bool
        Whether rows go south and columns east.
    """

    width: float
    height: float
    down: bool
    right: bool

    @classmethod
    def of(cls, box: GeoBox) -> Self:
        """Measure a grid."""
        affine, (rows, columns) = box.affine, box.shape.yx
        wide, high = abs(affine.a) * columns, abs(affine.e) * rows
        if box.crs is not None and box.crs.geographic:
            middle = affine.f + affine.e * rows / 2
            along, across = _DEGREE, _DEGREE * max(cos(radians(middle)), 1e-3)
        else:
            axes = box.crs.proj.axis_info if box.crs is not None else []
            along = across = axes[0].unit_conversion_factor if axes else 1.0
            along, across = along * (true := _true_length(box)), across * true
        return cls(wide * across, high * along, affine.e < 0, affine.a > 0)

    def upright(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return values (y, x, …) with north up and east on the right."""
        return values[:: 1 if self.down else -1, :: 1 if self.right else -1]

    def scale(self) -> tuple[float, str]:
        """Return the share of the width that a scale bar takes, a third at most, and its length in words."""
        most = self.width / 3
        unit = 10.0 ** floor(log10(most))
        length = max(step * unit for step in (1, 2, 5) if step * unit <= most)
        words = f"{length / 1000:,g} km" if length >= 1000 else f"{length:,g} m" if length >= 1 else f"{length * 100:,g} cm"
        return length / self.width, words


def _true_length(box: GeoBox) -> float:
    """Return how long a grid's metre is on the ground, in the middle of the map; 1 where that is nearly so, as in most projections of a country.

    In Web Mercator it is half a metre at 60 degrees.
    """
    geod = None if box.crs is None else box.crs.proj.get_geod()
    if box.crs is None or geod is None or box.crs.proj.geodetic_crs is None:
        return 1.0
    crs, (left, bottom, right, top) = box.crs.proj, box.boundingbox
    x, y, step = (left + right) / 2, (bottom + top) / 2, (right - left) / 100
    longitude, latitude = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform([x - step, x + step], [y, y])
    if not np.isfinite([*longitude, *latitude]).all():
        return 1.0
    true = geod.inv(longitude[0], latitude[0], longitude[1], latitude[1])[2]
    found = true / (2 * step * crs.axis_info[0].unit_conversion_factor)
    return float(found) if abs(found - 1) > DISTORTED else 1.0


@dataclass(frozen=True)
class Legend:
    """What the values of a map stand for: names with colours, or the ends of a range.

    Attributes
    ----------
    colors : array, shape (color, 3)
        Red, green and blue of each colour of the picture, uint8.
    codes : sequence of int or None
        Values of the classes; None where values are shades between two ends.
    names : sequence of str
        Names of the classes.
    ends : (float, float)
        Least and greatest value that have a shade of their own.
    """

    colors: Codes
    codes: Sequence[int] | None = None
    names: Sequence[str] = ()
    ends: tuple[float, float] = (0.0, 1.0)


def limits_of(name: str, arrays: Sequence[xr.DataArray]) -> tuple[float, float]:
    """Return the ends of a colour bar: 0 and 1 of what is a share of one, else the 2 and 98 percentiles of all arrays that share it."""
    if name.endswith(CERTAIN):
        return 0.0, 1.0
    known = [values[np.isfinite(values)] for values in map(floats_of, arrays)]
    whole = np.concatenate(known)
    if not whole.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(whole, [2, 98]))
    low = 0.0 if name.endswith(DOUBT) and low >= 0 else low
    return low, high if high > low else low + (abs(low) or 1.0)


def legend_of(array: xr.DataArray, beside: Sequence[xr.DataArray] = ()) -> Legend:
    """Return the legend of a map (y, x), of its attributes; ``beside`` has the maps that share its colour bar.

    Raises
    ------
    BandError
        If its classes, their names and their colours do not go together.
    """
    if "flag_meanings" in array.attrs:
        return _flagged(array)
    name, fill = str(array.name), fill_of(array)
    colormaps = require("matplotlib", "plot").colormaps
    if array.dtype.kind in "iub":
        found = [int(value) for value in np.unique(array.values) if fill is None or value != fill]
        if len(found) <= FEW:
            words = [("no", "yes")[code] if array.dtype.kind == "b" else str(code) for code in found]
            return Legend(_shades(colormaps["YlGnBu"], max(len(found), 1)), found, words)
    ends = limits_of(name, beside or [array])
    one_of_two = name.endswith("_probability") and not str(array.attrs.get("long_name", "")).startswith(GREATEST)
    shade = "RdYlBu" if one_of_two else "YlOrBr" if name.endswith(DOUBT) else "viridis"
    return Legend(_shades(colormaps[shade], SHADES), ends=ends)


def _flagged(array: xr.DataArray) -> Legend:
    colors = require("matplotlib.colors", "plot")
    codes, names = flags_of(array)
    codes = codes if "flag_values" in array.attrs else list(range(len(names)))
    wanted = _words(array.attrs.get("flag_colors", "")).split()
    try:
        # A colour may say anything, and goes into the page: matplotlib reads it, and hands on three numbers.
        rgb = [colors.to_rgb(color) for color in wanted or _usual(str(array.name), len(names))]
    except ValueError as error:
        raise BandError(f"A colour of {array.name!r} cannot be read ({error}); give flag_colors as #rrggbb.") from error
    if len(names) > NODATA:
        raise BandError(
            f"{array.name!r} has {len(names)} classes, and a picture has colours for {NODATA}, the most that can be drawn. Keep those that occur in "
            "flag_values and flag_meanings, or merge classes."
        )
    if not len(names) == len(codes) == len(rgb) or not names:
        raise BandError(
            f"{array.name!r} has {len(codes)} flag_values, {len(names)} flag_meanings and {len(rgb)} flag_colors; give a name and a "
            "colour for each value."
        )
    return Legend(np.rint(np.array(rgb) * 255).astype("uint8"), codes, names)


def _usual(name: str, count: int) -> list[Any]:
    """Return colours of a map with flags that tells none."""
    colormaps = require("matplotlib", "plot").colormaps
    if name.endswith("_set_size"):  # in order, unlike classes
        return [tuple(shade / 255) for shade in _shades(colormaps["YlOrBr"], max(count, SIZES))[:count]]
    if name == "applicable" and count == 2:
        return [OUTSIDE, PALE]
    found = [colormaps["tab20"](at % 20)[:3] for at in range(count)]
    return [PALE, *found[:-1]] if name == "excluded" else found


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, np.ndarray | list | tuple) else str(value)


def _shades(colormap: Any, count: int) -> Codes:
    """Return colours of a colour map, from its one end to the other."""
    shades: Codes = np.rint(colormap(np.linspace(0, 1, count))[:, :3] * 255).astype("uint8")
    return shades


def floats(values: npt.NDArray[Any], fill: Any) -> npt.NDArray[np.float64]:
    """Return values as floats, NaN where there are none."""
    out = values.astype("float64")
    return out if fill is None else np.where(out == fill, np.nan, out)


def floats_of(array: xr.DataArray) -> npt.NDArray[np.float64]:
    """Return an array's values as floats, NaN where there are none."""
    return floats(array.values, fill_of(array))


def indices_of(array: xr.DataArray, legend: Legend) -> Codes:
    """Return the colour of each pixel of an array, as its number in the legend."""
    return indices(floats_of(array), legend)


def indices(values: npt.NDArray[np.float64], legend: Legend) -> Codes:
    """Return the colour of each pixel, as its number in the legend; ``NODATA`` where there is no value."""
    if legend.codes is not None:
        out = np.full(values.shape, NODATA, "uint8")
        for at, code in enumerate(legend.codes):
            out[values == code] = at
        return out
    low, high = legend.ends
    shade = np.clip((values - low) / (high - low), 0, 1) * (SHADES - 1)
    return np.where(np.isfinite(values), np.rint(np.nan_to_num(shade)), NODATA).astype("uint8")


def png(numbers: Codes, colors: Codes) -> bytes:
    """Return an image of numbered colours, of which ``NODATA`` is transparent."""
    image = require("PIL.Image", "plot").fromarray(np.ascontiguousarray(numbers))
    palette = np.zeros((256, 3), "uint8")
    palette[: len(colors)] = colors
    image.putpalette(palette.tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", transparency=NODATA)
    return file.getvalue()


def _uri(numbers: Codes, colors: Codes) -> str:
    """Return an image as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(png(numbers, colors)).decode()}"


def stretch(rgb: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the 2 and 98 percentiles of each band of pixels (..., 3), by which imagery is stretched."""
    valid = np.isfinite(rgb).all(axis=-1)
    low, high = np.percentile(rgb[valid], [2, 98], axis=0) if valid.any() else (np.zeros(3), np.ones(3))
    return low, np.where(high > low, high, low + 1)


def stretched(red: xr.DataArray, green: xr.DataArray, blue: xr.DataArray) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return three bands in memory as a picture (y, x, 3) from 0 to 1, each between its 2 and 98 percentiles, and where all have data."""
    rgb = np.stack([band.values.astype("float64") for band in (red, green, blue)], axis=-1)
    valid = np.isfinite(rgb).all(axis=-1)
    low, high = stretch(rgb)
    return np.clip((np.nan_to_num(rgb) - low) / (high - low), 0, 1), valid


# ---- HTML


def figure(array: xr.DataArray, legend: Legend, ground: Ground, note: str) -> str:
    """Return a map (y, x) that is in memory as a figure: its title, picture, scale bar and legend, and a note."""
    numbers = ground.upright(indices_of(array, legend))
    missing = bool((numbers == NODATA).any())
    title, units = str(array.attrs.get("long_name") or array.name), str(array.attrs.get("units", ""))
    unit = "" if units in ("", "1") else units
    sharp = legend.codes is not None or max(numbers.shape) < 300
    words = f"Map of {title}: {_told(array, legend, numbers, unit)}"
    values = floats_of(array)
    beyond = bool((values < legend.ends[0]).any()), bool((values > legend.ends[1]).any())
    shown = key(legend, unit, missing=missing, beyond=beyond)
    heading = f"{title}{f', {unit}' if unit else ''}"
    return _framed(heading, str(array.name), _uri(numbers, legend.colors), words, ground, shown, note, sharp)


def composite(red: xr.DataArray, green: xr.DataArray, blue: xr.DataArray, ground: Ground, note: str) -> str:
    """Return three bands in memory as a figure in true colour, each stretched between its 2 and 98 percentiles."""
    rgb, valid = stretched(red, green, blue)
    image = require("PIL.Image", "plot").fromarray(np.rint(rgb * 255).astype("uint8")).quantize(SHADES, dither=0)
    numbers = ground.upright(np.where(valid, np.asarray(image), NODATA).astype("uint8"))
    colors: Codes = np.array(image.getpalette(), "uint8").reshape(-1, 3)[:SHADES]
    shown = _names([None], ["no data"]) if not valid.all() else ""
    words = "The imagery in true colour, each band stretched between its 2 and 98 percentiles"
    return _framed(
        "imagery in true colour", "red, green, blue", _uri(numbers, colors), words, ground, shown, note, max(valid.shape) < 300
    )


def _framed(title: str, name: str, uri: str, words: str, ground: Ground, key: str, note: str, sharp: bool) -> str:
    share, length = ground.scale()
    ratio = ground.width / ground.height
    kind, said = ' class="sharp"' if sharp else "", f'<p class="note">{escape(note)}</p>' if note else ""
    return (
        f"<figure><figcaption><strong>{escape(title)}</strong> <code>{escape(name)}</code></figcaption>"
        f'<div class="map" style="max-width:{max(26 * min(ratio, 4), 6):.4g}rem">'
        f'<img{kind} src="{uri}" alt="{escape(words)}" style="aspect-ratio:{ratio:.5g}">'
        f'<div class="scale"><span style="width:{share:.2%}"></span>{escape(length)}</div></div>'
        f"{key}{said}</figure>"
    )


def key(legend: Legend, unit: str, *, missing: bool, beyond: tuple[bool, bool] = (False, False)) -> str:
    """Return what colours stand for: names of classes, or a bar with its ends; and "no data" where some are missing.

    Where values lie below or above the ends of a bar, these say so.
    """
    gone: list[Any] = [None] if missing else []
    if legend.codes is None:
        return _colour_bar(legend, unit, beyond) + (_names(gone, ["no data"]) if missing else "")
    return _names([*legend.colors, *gone], [*legend.names, *["no data"] * len(gone)])


def _names(colors: Sequence[Any], names: Sequence[str]) -> str:
    items = []
    for color, name in zip(colors, names, strict=True):
        look = 'class="none"' if color is None else f'style="background:#{bytes(map(int, color)).hex()}"'
        items.append(f"<li><i {look}></i>{escape(name)}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def _colour_bar(legend: Legend, unit: str, beyond: tuple[bool, bool]) -> str:
    stops = legend.colors[np.linspace(0, len(legend.colors) - 1, 11).round().astype(int)]
    low, high = legend.ends
    ticks = (low, (low + high) / 2, high)
    places = decimals_for([high - low], 3)
    signs = ("≤ " if beyond[0] else "", "", "≥ " if beyond[1] else "")
    words = "".join(f"<span>{sign}{escape(number(tick, places))}</span>" for sign, tick in zip(signs, ticks, strict=True))
    gradient = ",".join(f"#{bytes(map(int, color)).hex()}" for color in stops)
    return f'<div class="bar"><div style="background:linear-gradient(to right,{gradient})"></div><p>{words}</p></div>'


def _told(array: xr.DataArray, legend: Legend, numbers: Codes, unit: str) -> str:
    """Describe a picture for who does not see it."""
    if legend.codes is not None:
        shares = {name: float((numbers == at).mean()) for at, name in enumerate(legend.names)}
        told = [f"{name} {share:.0%}" for name, share in sorted(shares.items(), key=lambda pair: -pair[1]) if share > 0]
        missing = float((numbers == NODATA).mean())
        return f"{', '.join(told + ([f'no data {missing:.0%}'] if missing else [])) or 'no data'} of the pixels drawn."
    values = floats_of(array)
    known = values[np.isfinite(values)]
    if not known.size:
        return "no data."
    places = decimals_for([known.max() - known.min() or known.max()], 3)
    least, middle, most = (number(float(value), places) for value in (known.min(), np.median(known), known.max()))
    return f"values from {least} to {most}{f' {unit}' if unit else ''}, median {middle}."
