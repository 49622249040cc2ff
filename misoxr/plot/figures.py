"""Put the maps of a dataset side by side in one figure."""

from collections.abc import Sequence
from math import ceil
from typing import Any

import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr.cube.decode import flags_of
from misoxr.display.pictures import Legend, legend_of
from misoxr.display.thinned import as_drawn, drawn, groups_of, names_in, read, same_scale, step_of
from misoxr.errors import BandError, did_you_mean
from misoxr.grid.geobox import geobox_of
from misoxr.plot.canvas import grid_of
from misoxr.plot.cartography import Frame, furnish
from misoxr.plot.panels import LONGEST, SIDE, bands_of, layer, room, true_colour
from misoxr.plot.sets import combined, is_set

__all__ = ["plot"]

ACROSS = 3
"""Panels in a row, at the most."""
WIDTH = 4.2
"""Of a map, in inches, without its legend."""
TALLEST = 4.2
"""Of a panel whose legend has names of several lines, in inches, at the least."""
_BESIDE = ("_location", "_location_probability", "_credibility", "_confidence", "local_point_density")
"""Endings of maps that are drawn when they are named."""


def plot(maps: xr.Dataset, *, variables: Sequence[str] | None = None, image: xr.Dataset | None = None, **figure: Any) -> Any:
    """Draw the maps of a dataset side by side, with legends, a scale bar and an arrow to true north.

    By default there is a panel for each class map of several classes, binary probability and regression; then what is said of it: spread
    (``_std``) or entropy, the size of prediction sets, or the ends of an interval; and last where maps are left out or not to be believed.

    Parameters
    ----------
    maps : Dataset
        From ``predict`` or :func:`misoxr.open_maps`. Lazy maps are computed once; of more than 800 rows or columns every n-th is read.
    variables : sequence of str, optional
        Names of the maps to draw, in this order. Of probabilities (class, y, x) the greatest is drawn, of a prediction set
        (class, y, x) which classes it holds.
    image : Dataset, optional
        With red, green and blue, for a panel in true colour.
    **figure
        Passed on to ``matplotlib.pyplot.subplots``, such as ``figsize`` and ``dpi``.

    Returns
    -------
    matplotlib.figure.Figure
        A notebook shows it once. In a script, ``figure.savefig(path)`` writes it, and ``matplotlib.pyplot.show()`` shows it.

    Raises
    ------
    BandError
        If there is no map, or none of a name; or its classes and colours do not go together.
    GridError
        If the maps have no regular grid or CRS.
    SpecError
        If ``variables`` are no names, or matplotlib does not know an argument.

    Examples
    --------
    >>> figure = maps.miso.plot(image=image)
    >>> figure = maps.miso.plot(variables=["taxonomy", "taxonomy_probability"], dpi=150)
    """
    if not isinstance(image, xr.Dataset | None):
        raise BandError(f"image is a {type(image).__name__}; give a Dataset with red, green and blue.")
    variables = names_in(variables)
    maps = as_drawn(maps, variables)
    names = _default(maps) if variables is None else _named(maps, variables)
    if image is not None:
        bands_of(image)
    box = geobox_of(maps)
    canvas, axes = _canvas(box, len(names) + (image is not None), [_legend(maps, name) for name in names], figure)
    if image is not None:
        true_colour(image, axes.pop(0))
    for name, axis, (few, legend) in zip(names, axes, _read(maps, names), strict=True):
        layer(few, legend, axis, box, step_of(maps[name], SIDE))
    if image is None:
        furnish(axes[0], box)
    if maps.attrs.get("simulated"):
        canvas.suptitle("SIMULATED landscape", fontsize=10)
    return canvas


def _default(maps: xr.Dataset) -> list[str]:
    """Return the maps that are drawn where none is named.

    Raises
    ------
    BandError
        If there are none, or bands alone.
    """
    told = any("flag_meanings" in one.attrs or str(name).endswith("_probability") for name, one in maps.data_vars.items())
    if not told and "provenance_sha256" not in maps.attrs:
        raise BandError(
            f"There is no probability and no class map among {list(maps.data_vars)}; plot what predict or open_maps gives, or name "
            "what to draw: variables=[...]."
        )
    groups = groups_of(maps)
    return [name for group, names in groups.items() for name in names if not _is_left_out(maps, name, group)]


def _is_left_out(maps: xr.Dataset, name: str, group: str) -> bool:
    """Whether a map is drawn only where it is named: a binary class map says less than its probability."""
    array = maps[name]
    binary = len(flags_of(array)[1]) == 2
    return array.ndim > 2 or name.endswith(_BESIDE) or (bool(group) and binary and f"{name}_probability" in maps)


def _named(maps: xr.Dataset, variables: Sequence[str]) -> list[str]:
    """Return the names of maps to draw; refuse those that are none."""
    known = list(map(str, maps.data_vars))
    for name in variables:
        if name not in known:
            raise BandError(f"There is no variable {name!r} among {known}.{did_you_mean(str(name), known)}")
        array = maps[name]
        third = is_set(array) or str(name).endswith("_probability")
        if not {"y", "x"} <= set(array.dims) or array.ndim > 2 + third or array.dtype.kind not in "fiub":
            raise BandError(f"{name!r} has dimensions {array.dims} and the type {array.dtype}; name maps (y, x) of numbers.")
    return list(variables)


def _read(maps: xr.Dataset, names: Sequence[str]) -> list[tuple[xr.DataArray, Legend]]:
    """Read all maps in one go, thinned, and return each with its legend."""
    plain = [name for name in names if not is_set(maps[name])]
    pictures, _ = read(drawn(maps, plain, SIDE), {})
    arrays = {name: one.array.rename(name) for name, one in pictures.items()}
    found = []
    for name in names:
        if name in arrays:
            beside = [arrays[other] for other in same_scale(name, plain)]
            found.append((arrays[name], legend_of(arrays[name], beside)))
        else:
            few = combined(maps, name, SIDE)
            found.append((few, legend_of(few)))
    return found


def _legend(maps: xr.Dataset, name: str) -> list[str]:
    """Return names as long as those in a map's legend, before it is read; those of sets are several classes' names."""
    if is_set(maps[name]):
        return ["x" * LONGEST]
    return list(legend_of(maps[name]).names) if "flag_meanings" in maps[name].attrs else []


def _canvas(box: GeoBox, count: int, legends: Sequence[Sequence[str]], given: dict[str, Any]) -> tuple[Any, list[Any]]:
    """Return a figure with so many axes, in rows of three at the most, wide and high enough for maps and legends."""
    columns = count if count <= ACROSS else 2 if count == 4 else ACROSS
    rows = ceil(count / columns)
    rooms = [room(names) for names in legends]
    width, height = Frame.of(box).size(WIDTH, max([beside for beside, _ in rooms], default=room([])[0]))
    has_lines = any(len(name) >= LONGEST for names in legends for name in names)
    height = max([height, *(least for _, least in rooms), *([TALLEST] if has_lines else [])])
    size = columns * width, rows * height
    options = {"figsize": size, "layout": "compressed"}
    canvas, axes = grid_of(rows, columns, options, given, ["variables", "image"])
    flat = list(axes.ravel())
    for spare in flat[count:]:
        spare.remove()
    return canvas, flat[:count]
