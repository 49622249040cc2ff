"""Training points in a space of features: what new pixels are compared with, and how unlike each other the points are themselves."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from misoxr.errors import PointsError, note
from misoxr.spec.numbers import is_rounding
from misoxr.uncertainty.nearest import nearest

__all__ = ["Training", "listed"]

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Folds = Sequence[tuple[Indices, Indices]]

LEAST = 3
"""Points of which quartiles tell something, at the least."""
AT_ONCE = 2**22
"""Distances between training points that are in memory at once."""
TIES = 1e-9
"""Share by which two distances may differ and are the same: rounding must not tell which is below the other."""


@dataclass(frozen=True, eq=False)
class Training:
    """Training points, standardised and weighted, and the figures of their area of applicability.

    Attributes
    ----------
    layers : array of int (feature,)
        Which features of the space count: those that vary between the points.
    mean, factor : array (feature,)
        What is taken from a feature, and what it is then multiplied by: its weight over its standard deviation.
    table : array (point, feature)
        The points' features, so standardised.
    mean_distance : float
        Mean over points of the mean distance to all others.
    dissimilarity : array (point,)
        Each point's least distance to the points that it is compared with, over the mean distance.
    """

    layers: Indices
    mean: Floats
    factor: Floats
    table: Floats
    mean_distance: float
    dissimilarity: Floats

    @classmethod
    def of(cls, names: Sequence[str], values: Array, weights: Floats, folds: Folds = ()) -> Self:
        """Standardise the features of training points, and measure how far apart these lie.

        Parameters
        ----------
        names : sequence of str
            Names of the features.
        values : array (feature, point)
            Finite, but for features that are missing at all points.
        weights : array (feature,)
            What each feature is multiplied by when it is standardised.
        folds : sequence of (train, test), optional
            A point is compared with the training points of the folds that test it, on average; one that none tests, with all others.

        Raises
        ------
        PointsError
            If there are fewer than three points, no feature varies or counts, or most points have the features of another one.

        Warns
        -----
        MisoxrWarning
            If features do not vary, and are left out.
        """
        count = values.shape[1]
        if count < LEAST:
            raise PointsError(f"{count} points have valid bands, and {LEAST} or more are needed; give more points.")
        wide = values.astype("float64")
        deviation = wide.std(axis=1, ddof=1)
        varies = np.isfinite(deviation) & ~is_rounding(deviation, np.abs(wide).max(axis=1), "float32")
        layers = np.flatnonzero(varies)
        _check_features(names, count, varies, weights)
        mean, factor = wide[layers].mean(axis=1), weights[layers] / deviation[layers]
        table = np.ascontiguousarray(((wide[layers] - mean[:, None]) * factor[:, None]).T)
        distance, least = _apart(table, folds)
        found = cls(layers, mean, factor, table, distance, least / distance)
        if found.threshold == 0:
            raise PointsError(
                f"{int((least == 0).sum())} of {count} points have the features of another point that they are compared with, as points of one "
                "pixel do, and the threshold would be 0; give folds that keep them together (cv=), or one point for each pixel."
            )
        return found

    @cached_property
    def threshold(self) -> float:
        """The greatest dissimilarity that belongs to the area of applicability: the upper whisker of the points' own."""
        low, high = np.quantile(self.dissimilarity, [0.25, 0.75])
        return float(min(high + 1.5 * (high - low), self.dissimilarity.max()))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of all that the answers follow from."""
        parts = (self.layers.astype("int64"), self.mean, self.factor, self.table, np.array([self.mean_distance, self.threshold]))
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()

    def __dask_tokenize__(self) -> str:
        """What a graph does depends on the points' features."""
        return self.sha256

    def answer(self, values: Array) -> Array:
        """Compare pixels (feature, pixel), whose features are not missing: dissimilarity, density, and whether it is inside (3, pixel)."""
        mine = np.ascontiguousarray(values[self.layers], dtype="float32")
        least, count = np.empty((2, mine.shape[1]))
        below = (self.threshold * self.mean_distance * (1 - TIES)) ** 2
        nearest(mine, self.mean, self.factor, self.table, below, least, count)
        index = np.sqrt(least) / self.mean_distance
        return np.stack([index, count, index <= self.threshold * (1 + TIES)]).astype("float32")


def listed(names: Iterable[Any]) -> str:
    """Name the first few of many."""
    several = [str(name) for name in names]
    return f"{several}" if len(several) <= 6 else f"{several[:6]} and {len(several) - 6} more"


def _check_features(names: Sequence[str], count: int, varies: npt.NDArray[np.bool_], weights: Floats) -> None:
    """Refuse spaces without features that count; name those that do not vary."""
    left, still = ([name for name, here in zip(names, varies, strict=True) if here == kind] for kind in (True, False))
    if not left:
        raise PointsError(f"{listed(names)} have the same value at all {count} points, or none; give points that differ.")
    if still:
        note(
            f"{listed(still)} have the same value at all {count} training points, or none, and are left out: how far the map departs from "
            "the points in these is not seen."
        )
    if not (weights[varies] > 0).any():
        raise PointsError(
            f"The weights of {listed(left)}, which vary between the points, are all 0; give one of them a weight above 0."
        )


def _apart(points: Floats, folds: Folds) -> tuple[float, Floats]:
    """Return the mean distance between points (point, feature), and the least of each to those that it is compared with."""
    count = len(points)
    total, least = 0.0, np.empty(count)
    for rows in _groups(np.arange(count), count):
        distance = cdist(points[rows], points)
        total += float(distance.sum())
        distance[np.arange(len(rows)), rows] = np.inf
        least[rows] = distance.min(axis=1)
    summed, times = np.zeros((2, count))
    for train, test in folds:
        for rows in _groups(test, len(train)):
            summed[rows] += cdist(points[rows], points[train]).min(axis=1)
            times[rows] += 1
    return total / (count * (count - 1)), np.where(times > 0, summed / np.maximum(times, 1), least)


def _groups(rows: Indices, columns: int) -> Iterator[Indices]:
    side = max(1, AT_ONCE // columns)
    return (rows[first : first + side] for first in range(0, len(rows), side))
