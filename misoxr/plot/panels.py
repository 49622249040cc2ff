"""Draw one map: a class map with its legend, a probability, values, or imagery in true colour."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr.cube.decode import decoded
from misoxr.display.pictures import NODATA, Legend, floats_of, indices_of, legend_of, stretched
from misoxr.display.thinned import as_drawn, drawn, step_of, thin
from misoxr.errors import BandError, require
from misoxr.grid.geobox import geobox_of
from misoxr.plot.canvas import axes_of, plain
from misoxr.plot.cartography import Frame, furnish

__all__ = ["BESIDE", "LONGEST", "SIDE", "WIDE", "bands_of", "classes", "layer", "probability", "room", "true_colour", "values"]

SIDE = 800
"""Rows or columns that a picture has, at the most: maps of any size are thinned to them."""
EMPTY = {"facecolor": "#f6f6f6", "edgecolor": "#b5b5b5", "hatch": "////", "linewidth": 0}
"""What stands where there are no data."""
WIDE, BESIDE = 5.0, 2.1
"""Of the picture of one map, and its legend, in inches."""
LONGEST, ROWS = 30, 20
"""Letters in a line of a legend, and names in a column, at the most."""


def classes(array: xr.DataArray, ax: Any = None) -> Any:
    """Draw a class map in the colours of its attributes, with a legend of the classes, a scale bar and north.

    Plain xarray knows nothing of these colours.

    Parameters
    ----------
    array : DataArray (y, x)
        With ``flag_meanings``, as class maps of ``predict`` and :func:`misoxr.open_maps` have them; ``flag_values`` and ``flag_colors`` tell
        codes and colours. Of more than 800 rows or columns every n-th is read.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure of pyplot.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    BandError
        If it has no classes, or its classes and colours do not go together.
    GridError
        If it has no regular grid or CRS.

    Examples
    --------
    >>> axes = misoxr.plot.classes(maps.taxonomy)
    """
    if "flag_meanings" not in array.attrs:
        raise BandError(
            f"{array.name!r} has no flag_meanings, so its classes are not known; draw values with misoxr.plot.values, or a variable of maps."
        )
    return _one(array, "", ax)


def probability(array: xr.DataArray, ax: Any = None) -> Any:
    """Draw a probability from 0 to 1, with a colour bar, a scale bar and north.

    Parameters
    ----------
    array : DataArray (y, x)
        Values of 0 to 1, NaN where there are none.
    ax : matplotlib.axes.Axes, optional
        As for :func:`misoxr.plot.classes`.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    GridError
        If it has no regular grid or CRS.

    Examples
    --------
    >>> axes = misoxr.plot.probability(maps.permafrost_probability)
    """
    return _one(array, "_probability", ax)


def values(array: xr.DataArray, ax: Any = None) -> Any:
    """Draw values in the colours of their kind, with a colour bar or a legend, a scale bar and north.

    The name tells the kind: spread and entropy, sizes of sets, credibility and confidence, applicability; others are a quantity. The ends of a colour bar
    are the 2 and 98 percentiles.

    Parameters
    ----------
    array : DataArray (y, x)
        Numbers; of a map of classes, see :func:`misoxr.plot.classes`.
    ax : matplotlib.axes.Axes, optional
        As for :func:`misoxr.plot.classes`.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    GridError
        If it has no regular grid or CRS.

    Examples
    --------
    >>> axes = misoxr.plot.values(image.elevation)
    """
    return _one(array, "", ax)


def true_colour(image: xr.Dataset, ax: Any = None) -> Any:
    """Draw red, green and blue, each stretched between its 2 and 98 percentiles, with a scale bar and north.

    Parameters
    ----------
    image : Dataset
        With red, green and blue (y, x).
    ax : matplotlib.axes.Axes, optional
        As for :func:`misoxr.plot.classes`.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    BandError
        If a band is missing, or has several times.
    GridError
        If the image has no regular grid or CRS.

    Examples
    --------
    >>> axes = misoxr.plot.true_colour(image)
    """
    bands, box = bands_of(image), geobox_of(image["red"])
    rgb, valid = stretched(*(thin(band, SIDE).compute() for band in bands))
    axis = axes_of(ax, Frame.of(box).size(WIDE, BESIDE))
    picture = np.dstack([rgb, valid])  # what has no data is transparent
    _placed(axis, picture, box, step_of(bands[0], SIDE), title="true colour", sharp=False)
    furnish(axis, box)
    return axis


def bands_of(image: xr.Dataset) -> Sequence[xr.DataArray]:
    """Return red, green and blue as reflectance, lazily.

    Raises
    ------
    BandError
        If one is missing, or has several times.
    """
    missing = [name for name in ("red", "green", "blue") if name not in image]
    if missing:
        raise BandError(
            f"True colour needs red, green and blue; {missing} are missing. Leave image out, or rename three bands to these."
        )
    if image["red"].ndim != 2:
        raise BandError(f"red has the dimensions {image['red'].dims}; give one image (y, x), such as image.miso.composite().")
    return [decoded(name, image[name]).transpose("y", "x") for name in ("red", "green", "blue")]


def _one(array: xr.DataArray, ending: str, ax: Any) -> Any:
    """Draw a map of any size on its own, as maps are drawn whose name has an ending."""
    if not isinstance(array, xr.DataArray):
        raise BandError(f"The map is a {type(array).__name__}; give one variable, such as maps.taxonomy.")
    name = str(array.name)
    array = as_drawn(array.to_dataset(name=name))[name]
    box = geobox_of(array)
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise BandError(f"{array.name!r} has dimensions {array.dims} and the type {array.dtype}; give a map (y, x) of numbers.")
    few = drawn(array.to_dataset(), [name], SIDE)[name].array.compute()
    legend = legend_of(few.rename(f"{name}{ending}"))
    beside, least = room(legend.names)
    wide, high = Frame.of(box).size(WIDE, max(BESIDE, beside))
    axis = axes_of(ax, (wide, max(high, least)))
    layer(few, legend, axis, box, step_of(array, SIDE))
    furnish(axis, box)
    return axis


def layer(few: xr.DataArray, legend: Legend, axis: Any, box: GeoBox, step: int) -> None:
    """Draw a map that is in memory, with its legend or colour bar.

    Parameters
    ----------
    few : DataArray (y, x)
        Every ``step``-th pixel of the map.
    legend : Legend
        Its colours.
    axis : matplotlib.axes.Axes
        Where to draw.
    box : GeoBox
        The grid of the whole map.
    step : int
        From one pixel that is drawn to the next.
    """
    colors, patches = require("matplotlib.colors", "plot"), require("matplotlib.patches", "plot")
    title, units = title_of(few), str(few.attrs.get("units", ""))
    unit = "" if units in ("", "1") else units
    table = colors.ListedColormap(legend.colors / 255)
    if legend.codes is None:
        shown = np.ma.masked_invalid(floats_of(few))
        options = {"cmap": table, "norm": colors.Normalize(*legend.ends)}
        picture = _placed(axis, shown, box, step, title=title, sharp=max(shown.shape) < 300, **options)
        outside = [bool((shown < legend.ends[0]).any()), bool((shown > legend.ends[1]).any())]
        extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get((outside[0], outside[1]), "neither")
        beside = axis.inset_axes((1.015, 0.08, 0.03, 0.84))  # a part of these axes, so that it stands where their legend would
        bar = axis.figure.colorbar(picture, cax=beside, extend=extend)
        bar.ax.tick_params(labelsize=8)
        bar.set_label(plain(unit), fontsize=8)
        return
    indices = indices_of(few, legend)
    options = {"cmap": table, "norm": colors.NoNorm()}
    _placed(axis, np.ma.masked_equal(indices, NODATA), box, step, title=title, sharp=True, **options)
    names = [textwrap.fill(plain(name.replace("_", " ")), LONGEST) for name in legend.names]
    handles = [
        patches.Patch(facecolor=color / 255, edgecolor="#999999", linewidth=0.5, label=name)
        for color, name in zip(legend.colors, names, strict=True)
    ]
    if (indices == NODATA).any():
        handles.append(patches.Patch(**EMPTY, label="no data"))
    box_of_key = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "borderaxespad": 0, "frameon": False, "fontsize": 8}
    axis.legend(handles=handles, ncols=1 + (len(handles) - 1) // ROWS, **box_of_key)


def room(names: Sequence[str]) -> tuple[float, float]:
    """Return width and height, in inches, that a legend of names takes beside a map: all of its columns, and the labels of the map's axis."""
    columns = 1 + len(names) // ROWS  # with one more name, of what has no data
    longest = min(max(map(len, names), default=0), LONGEST)
    return 0.6 + columns * (0.65 + 0.067 * max(longest, 4)), 0.7 + 0.17 * min(len(names) + 1, ROWS)


def title_of(array: xr.DataArray) -> str:
    """Return what a map shows, and of what alone where it is a part, such as one class or year."""
    parts = []
    for name, one in array.coords.items():
        if one.ndim == 0 and name not in ("x", "y", "spatial_ref"):
            value = one.item() if one.dtype.kind != "M" else np.datetime_as_string(one.values, "D")
            parts.append(str(value) if isinstance(value, str) else f"{name} {value}")
    return ": ".join([str(array.attrs.get("long_name") or array.name), *([", ".join(parts)] if parts else [])])


def _placed(axis: Any, picture: Any, box: GeoBox, step: int, *, title: str, sharp: bool, **colours: Any) -> Any:
    """Put a picture of every n-th pixel where its grid lies, north up and east on the right."""
    frame, affine, (rows, columns) = Frame.of(box), box.affine, picture.shape[:2]
    edges = affine.c, affine.c + affine.a * step * columns, affine.f + affine.e * step * rows, affine.f
    extent = [edge / frame.unit for edge in edges]
    drawing = axis.imshow(picture, extent=extent, interpolation="nearest" if sharp else "auto", **colours)
    axis.patch.set(**EMPTY)
    axis.set_title(textwrap.fill(plain(title), 44), fontsize=10)
    frame.apply(axis)
    return drawing
