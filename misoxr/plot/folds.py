"""Draw the folds of a splitter on the map."""

import textwrap
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from misoxr.errors import PointsError, require
from misoxr.grid.geobox import geobox_of
from misoxr.plot.canvas import axes_of, plain
from misoxr.plot.cartography import Frame, furnish
from misoxr.plot.panels import BESIDE, WIDE, true_colour
from misoxr.points.clusters import coordinates_of
from misoxr.points.folds import LeaveOneRegionOut, Splitter, briefly
from misoxr.spec.numbers import is_whole

__all__ = ["folds"]

GREY = "#8a8a8a"
FEW = 10
"""Folds that have a colour of tab10."""
MARGIN = 0.06
"""Of the points' extent, on each side."""


class _Group(NamedTuple):
    """Points that are drawn alike."""

    words: str
    points: npt.NDArray[np.intp]
    look: dict[str, Any]


def folds(splitter: Splitter, points: Any, image: xr.Dataset | None = None, *, fold: int | None = None, ax: Any = None) -> Any:
    """Draw the folds of a splitter on the map: which fold tests each point, and which points a buffer leaves out.

    Parameters
    ----------
    splitter : Splitter
        Such as :class:`misoxr.BlockKFold`.
    points : GeoDataFrame or array_like, shape (point, 2)
        As for ``split``. With an image, points are moved to its CRS first, as ``cross_validate`` does.
    image : Dataset, optional
        Its CRS is that of the picture; red, green and blue are drawn beneath the points, where it has them.
    fold : int, optional
        Draw this fold alone: its test points, its training points, and in grey those that the buffer leaves out. By default all folds are
        drawn, and points that are left out of any fold's training have a grey ring.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure of pyplot.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    PointsError
        If the points cannot be split so, or there is no such fold.
    """
    box = None if image is None else geobox_of(image)
    coloured = image is not None and {"red", "green", "blue"} <= set(image.data_vars)
    if box is not None and isinstance(points, gpd.GeoDataFrame):
        points = points.to_crs(str(box.crs))
    sides = list(splitter.split(points))
    if fold is not None and not (is_whole(fold) and 0 <= fold < len(sides)):
        raise PointsError(f"There is no fold {fold!r}; there are {len(sides)}, from 0.")
    xy = coordinates_of(points) if not _in_degrees(points) else np.column_stack([points.geometry.x, points.geometry.y])
    groups = _all(splitter, points, sides, len(xy)) if fold is None else _single(sides, int(fold), len(xy))

    ground = _around(points, xy) if box is None else box
    axis = axes_of(ax, Frame.of(ground).size(WIDE, BESIDE))
    if image is not None and coloured:
        true_colour(image, axis)
    elif ground.crs is not None:
        Frame.of(ground).apply(axis)
        furnish(axis, ground)
    else:
        axis.set(aspect="equal", xlabel="x", ylabel="y")
    unit = Frame.of(ground).unit
    for words, some, look in groups:
        if len(some):
            label = plain(f"{words} ({len(some):,} points)")
            axis.scatter(*(xy[some] / unit).T, label=label, **{"s": 22, "linewidths": 0.5, "edgecolors": "white", **look})
    key = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "borderaxespad": 0, "frameon": False, "fontsize": 8}
    axis.legend(ncols=1 + (len(groups) - 1) // 22, **key)
    where = f", in {ground.crs.proj.name}" if ground.crs is not None else ""
    title = (
        f"{briefly(splitter)}: "
        + (f"test points of {len(sides)} folds" if fold is None else f"fold {fold} of {len(sides)}")
        + where
    )
    axis.set_title(textwrap.fill(plain(title), 60), fontsize=10)
    return axis


def _in_degrees(points: Any) -> bool:
    return isinstance(points, gpd.GeoDataFrame) and points.crs is not None and points.crs.is_geographic


def _all(splitter: Splitter, points: Any, sides: Sequence[Any], count: int) -> list[_Group]:
    """Return the test points of each fold, those that none tests, and those that a buffer leaves out of a fold."""
    colors = _colours(len(sides))
    names: Sequence[Hashable] = splitter.names(points) if isinstance(splitter, LeaveOneRegionOut) else range(len(sides))
    tested, left = np.zeros(count, bool), np.zeros(count, bool)
    groups = []
    for at, (train, test) in enumerate(sides):
        tested[test] = True
        left |= ~np.isin(np.arange(count), [*train, *test])
        word = "" if isinstance(names[at], str) else "fold "
        groups.append(_Group(f"{word}{names[at]}", np.asarray(test), {"color": colors[at], "zorder": 3}))
    never = {"facecolors": "none", "edgecolors": GREY, "zorder": 2, "linewidths": 1}
    ring = {"facecolors": "none", "edgecolors": "#555555", "zorder": 2, "linewidths": 1, "s": 70}
    # Points that are in no fold at all are not left out by a buffer.
    dropped = left if splitter.buffer else np.zeros(count, bool)
    return [
        *groups,
        _Group("never tested", np.flatnonzero(~tested), never),
        _Group("left out of a fold's training", np.flatnonzero(dropped), ring),
    ]


def _single(sides: Sequence[Any], fold: int, count: int) -> list[_Group]:
    """Return training and test points of a fold, and those in neither."""
    train, test = (np.asarray(side) for side in sides[fold])
    left = np.setdiff1d(np.arange(count), [*train, *test])
    return [
        _Group("test", test, {"color": "#d1495b", "zorder": 4}),
        _Group("training", train, {"color": "#1f4e66", "zorder": 3}),
        _Group("left out", left, {"color": GREY, "zorder": 2}),
    ]


def _colours(count: int) -> list[Any]:
    """Return colours that differ, as far as so many can."""
    colormaps = require("matplotlib", "plot").colormaps
    if count <= FEW:
        return [colormaps["tab10"](at) for at in range(count)]
    if count <= 2 * FEW:
        return [colormaps["tab20"](at) for at in range(count)]
    return [colormaps["gist_ncar"](0.04 + 0.9 * at / count) for at in range(count)]


def _around(points: Any, xy: npt.NDArray[np.float64]) -> GeoBox:
    """Return a grid around points, in their CRS, where they have one."""
    low, high = xy.min(axis=0), xy.max(axis=0)
    room = max(float((high - low).max()) * MARGIN, 1e-6)
    (left, bottom), (right, top) = low - room, high + room
    crs = getattr(points, "crs", None)
    affine = Affine((right - left) / 100, 0, left, 0, (bottom - top) / 100, top)
    return GeoBox((100, 100), affine, None if crs is None else str(crs))
