"""Folds as verbs take them: what splits points, by number, list or splitter, and what of each fold can be used."""

from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd

from misoxr.errors import MisoxrError, PointsError, SpecError
from misoxr.points.folds import KFold, PredefinedFolds, Splitter, check_apart
from misoxr.points.read import read_points
from misoxr.spec.numbers import is_whole

__all__ = ["folds_of", "read_for", "splitter_of", "told_apart"]

Indices = npt.NDArray[np.intp]


def read_for(points: Any, cv: Any) -> gpd.GeoDataFrame:
    """Read the points; refuse folds that are given by place where places have moved.

    Raises
    ------
    PointsError
        As :func:`misoxr.read_points`; or if ``cv`` is a list of folds, and points were dropped.
    """
    found = read_points(points)
    if isinstance(splitter_of(cv), PredefinedFolds) and isinstance(points, pd.DataFrame) and len(found) < len(points):
        raise PointsError(
            f"{len(points) - len(found)} of {len(points)} points are dropped when they are read, so the folds that cv gives would shift; "
            "make the folds of points = misoxr.read_points(points), and give both."
        )
    return found


def told_apart(points: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Return points with an index that tells them apart, in Parquet, too."""
    if isinstance(points.index, pd.MultiIndex) or points.index.inferred_type.startswith("mixed"):
        points = points.set_axis(points.index.map(str))
    return points if points.index.is_unique else points.reset_index(drop=True)


def folds_of(cv: Any, points: gpd.GeoDataFrame, usable: Indices) -> list[tuple[Indices, Indices]]:
    """Split all points, and return each fold's training and test points as places among the usable ones.

    Parameters
    ----------
    cv : splitter, int or list
        As for :func:`misoxr.evaluation.cross_validate.cross_validate`.
    points : GeoDataFrame
        All points, in the cube's CRS.
    usable : array of int
        Places of those that can be used.

    Raises
    ------
    SpecError
        If ``cv`` is nothing that splits points by their coordinates.
    PointsError
        If a fold has a point on both sides, none that can be used on one, or one that is not there; or if the splitter was made for another
        number of points.
    """
    splitter = splitter_of(cv)
    place_of = np.full(len(points), -1)
    place_of[usable] = np.arange(len(usable))
    folds = _split(splitter, points)
    for number, fold in enumerate(folds):
        check_apart(f"Fold {number}", *fold)
    found = [tuple(place_of[side][place_of[side] >= 0] for side in fold) for fold in folds]
    for number, (train, test) in enumerate(found):
        if not len(train) or not len(test):
            raise PointsError(f"Fold {number} has {len(train)} training and {len(test)} test points with imagery; use other folds.")
    return [(train, test) for train, test in found]


def _split(splitter: Any, points: gpd.GeoDataFrame) -> list[tuple[Indices, Indices]]:
    """Split points: misoxr's own splitters see them whole, those of others their x and y (point, 2)."""
    made_for = getattr(splitter, "test_fold", None)  # of scikit-learn's PredefinedSplit
    if made_for is not None and len(made_for) != len(points):
        raise PointsError(
            f"{type(splitter).__name__} was made for {len(made_for)} points, and there are {len(points)}; make it for "
            "points = misoxr.read_points(points), and give both."
        )
    seen = points if isinstance(splitter, Splitter) else np.stack([points.geometry.x, points.geometry.y], axis=-1)
    try:
        folds = [(np.asarray(train), np.asarray(test)) for train, test in splitter.split(seen)]
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        if isinstance(error, MisoxrError):
            raise
        raise SpecError(f"{splitter!r} cannot split points by coordinates alone ({error}); give the list of its folds.") from error
    return [(_indices(splitter, train, len(points)), _indices(splitter, test, len(points))) for train, test in folds]


def _indices(splitter: Any, side: npt.NDArray[Any], count: int) -> Indices:
    """Return a side of a fold as indices; refuse what is none, and those of points that are not there."""
    if len(side) and side.dtype.kind not in "iu":
        raise PointsError(f"A fold of {splitter!r} is of {side.dtype}; give indices, integers from 0.")
    if len(side) and not 0 <= side.min() <= side.max() < count:
        wrong = side.min() if side.min() < 0 else side.max()
        raise PointsError(
            f"A fold of {type(splitter).__name__} holds index {wrong}, and there are {count} points; give a splitter that was made for these."
        )
    return side.astype(np.intp)


def splitter_of(cv: Any) -> Any:
    """Return what splits points: random folds for a number, given ones for a list."""
    if is_whole(cv):
        return KFold(int(cv))
    if isinstance(cv, list | tuple):
        return PredefinedFolds(cv)
    if isinstance(cv, str | type) or not hasattr(cv, "split"):
        raise SpecError(
            f"cv is {cv!r}; give a number of folds, a list of folds, or a splitter such as misoxr.ClusterKFold(distance), in units of the cube's CRS."
        )
    return cv
