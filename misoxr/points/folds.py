"""Splitters of cross-validation: folds of points by where they lie, in scikit-learn's form."""

import json
import os
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.spatial import cKDTree

from misoxr.errors import PointsError, note
from misoxr.paths import expanded
from misoxr.points.clusters import blocks_of, chained, check_crs, coordinates_of, dealt, polygon_of
from misoxr.points.polygons import names_of
from misoxr.spec.numbers import is_number, is_whole

__all__ = [
    "BlockKFold",
    "ClusterKFold",
    "KFold",
    "LeaveOneRegionOut",
    "PredefinedFolds",
    "Splitter",
    "briefly",
    "check_apart",
    "separate",
]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Sides = Iterable[tuple[Indices, Indices]]
HALVED = 30
"""Times that a length is halved to find one that gives enough groups."""


class Splitter:
    """Base of all splitters. Where features are not coordinates, use ``cv=list(splitter.split(xy))``.

    Attributes
    ----------
    buffer : float
        Training points nearer than this to a test point of their fold are dropped. In units of the coordinates.
    """

    n_splits: int
    buffer: float

    def __post_init__(self) -> None:
        if not (is_number(self.buffer) and 0 <= self.buffer < np.inf):
            raise PointsError(f"The buffer is {self.buffer!r}; it must be a number, 0 or more, in units of the coordinates.")
        count = getattr(self, "n_splits", 2)  # regions and given folds are counted, not asked for
        if not is_whole(count) or count < 2:
            raise PointsError(f"{count!r} folds leave nothing to hold out; use 2 or more.")

    def __repr__(self) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        sizes = {k: f"<{len(v)}>" for k, v in values.items() if hasattr(v, "__len__") and not isinstance(v, str)}
        return f"{type(self).__name__}({', '.join(f'{k}={sizes.get(k, repr(v))}' for k, v in values.items())})"

    def _repr_html_(self) -> str:
        """Show in a notebook what it does, in a line, and its parameters."""
        return str(import_module("misoxr.reprs.tables").splitter(self))  # by name: it stands on a higher floor

    def plot(self, points: Any, image: Any = None, *, fold: int | None = None, ax: Any = None) -> Any:
        """Draw the folds on the map: which fold tests each point, and which points a buffer leaves out.

        Parameters
        ----------
        points : GeoDataFrame or array_like, shape (point, 2)
            As for :meth:`split`. With an image, points are moved to its CRS first.
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

        Examples
        --------
        >>> axes = misoxr.BlockKFold(500, 3, buffer=100).plot(points, image)
        """
        return import_module("misoxr.plot.folds").folds(self, points, image, fold=fold, ax=ax)

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of folds; the arguments are there for scikit-learn and play no part."""
        return self.n_splits

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[Indices, Indices]]:
        """Yield the training and the test indices of each fold.

        Parameters
        ----------
        X : array_like, shape (point, 2), or GeoDataFrame
            Coordinates, or points in a projected CRS.
        y, groups : optional
            There for scikit-learn; they play no part.

        Raises
        ------
        PointsError
            If the points cannot be split so, lie in degrees where distances count, or the buffer leaves a fold no training points.
        """
        xy = self._xy(X) if self.buffer else np.empty((0, 2))
        for fold, (train, test) in enumerate(buffered(xy, self._sides(X), self.buffer)):
            if not len(train):
                raise PointsError(f"A buffer of {self.buffer:g} leaves fold {fold} no training points; use a smaller one.")
            yield train, test

    def _xy(self, X: Any) -> Floats:
        return coordinates_of(X)

    def _sides(self, X: Any) -> Sides:
        return sides_of(self._fold_numbers(X))

    def _fold_numbers(self, X: Any) -> Indices:
        """Return the fold that tests each point, -1 where none does."""
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class KFold(Splitter):
    """K folds of points drawn at random; parameters as for :class:`BlockKFold`.

    Examples
    --------
    >>> folds = list(misoxr.KFold(3).split(points.to_crs("EPSG:3338")))
    """

    n_splits: int = 5
    random_state: int = 0
    buffer: float = 0.0

    def _fold_numbers(self, X: Any) -> Indices:
        return dealt(np.arange(len(X)), self.n_splits, self.random_state)


@dataclass(frozen=True, repr=False)
class BlockKFold(Splitter):
    """K folds of whole square blocks, with about as many points in each.

    Parameters
    ----------
    size : float
        Side of a block, in units of the coordinates. Blocks lie on a lattice through the origin of the CRS.
    n_splits : int, optional
        Number of folds.
    shuffle : bool, optional
        Whether blocks of equally many points are shuffled before they are dealt to the folds.
    random_state : int, optional
        Seed of what is drawn at random.
    buffer : float, optional
        Least distance of training points from the test points of their fold, in units of the coordinates.

    Notes
    -----
    Blocks are dealt from the fullest to the emptiest, each to the fold with the fewest points so far. After
    ``verde.BlockKFold`` (Uieda 2018), which balances by partitioning instead.

    Examples
    --------
    >>> scores = image.miso.cross_validate("rf-11", points, cv=misoxr.BlockKFold(500, 3))
    """

    size: float
    n_splits: int = 5
    shuffle: bool = True
    random_state: int = 0
    buffer: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_length(self.size, "A block's side")

    def _fold_numbers(self, X: Any) -> Indices:
        xy = self._xy(X)
        groups = _grouped(
            xy, self.size, self.n_splits, lambda side: blocks_of(xy, side)[0], ("block", "of {:g}", "smaller blocks", "a size")
        )
        _warn_alone(xy, groups, self.size, "blocks")
        return dealt(groups, self.n_splits, self.random_state if self.shuffle else None)


@dataclass(frozen=True, repr=False)
class ClusterKFold(Splitter):
    """K folds of whole clusters, so that points of different folds lie more than a distance apart.

    Parameters
    ----------
    distance : float
        Points joined by steps of at most this length are one cluster, as in DBSCAN with ``min_samples=1``.
    n_splits, shuffle, random_state, buffer : optional
        As for :class:`BlockKFold`, with clusters for blocks.

    Examples
    --------
    >>> cv = misoxr.ClusterKFold(10_000, 3, buffer=1_000)
    """

    distance: float
    n_splits: int = 5
    shuffle: bool = True
    random_state: int = 0
    buffer: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_length(self.distance, "The distance between clusters")

    def _fold_numbers(self, X: Any) -> Indices:
        xy = self._xy(X)
        words = ("cluster", "{:g} apart", "a smaller distance", "a distance")
        groups = _grouped(xy, self.distance, self.n_splits, lambda distance: chained(xy, distance), words)
        _warn_alone(xy, groups, self.distance, "clusters")
        return dealt(groups, self.n_splits, self.random_state if self.shuffle else None)


@dataclass(frozen=True, repr=False, eq=False)
class LeaveOneRegionOut(Splitter):
    """One fold for each region that holds points. Points in no region always train.

    Parameters
    ----------
    regions : GeoDataFrame
        Polygons. Points are moved to their CRS, arrays taken to be in it. Where regions overlap, the first has the point.
    column : str, optional
        Names of the regions; by default the column "name", the index without one. Rows of one name are one region, and rows without a name none.
    buffer : float, optional
        As for :class:`BlockKFold`.

    Examples
    --------
    >>> cv = misoxr.LeaveOneRegionOut(gpd.read_file("zones.gpkg"), "name")
    >>> names = cv.names(points)
    """

    regions: gpd.GeoDataFrame
    column: str | None = None
    buffer: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.regions, gpd.GeoDataFrame):
            raise PointsError(
                f"The regions are a {type(self.regions).__name__}; give a GeoDataFrame (geopandas.read_file reads files)."
            )
        if not len(self.regions) or not self.regions.geom_type.isin(["Polygon", "MultiPolygon"]).all():
            raise PointsError(f"The {len(self.regions)} regions are of {set(map(str, self.regions.geom_type))}; give polygons.")
        check_crs(self.regions.crs, "regions", projected=self.buffer > 0)
        if self.column is not None and self.column not in self.regions:
            raise PointsError(f"The regions have no column {self.column!r}; the columns are {list(self.regions)}.")

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of regions that hold points of X."""
        if X is None:
            raise PointsError("The folds are the regions that hold points; give get_n_splits the points.")
        return len(self.names(X))

    def names(self, X: Any) -> list[Hashable]:
        """Return the name of the region that each fold tests."""
        return self._tested(X)[1]

    def _xy(self, X: Any) -> Floats:
        return coordinates_of(X, self.regions.crs)

    def _tested(self, X: Any) -> tuple[Indices, list[Hashable]]:
        """Return the fold that tests each point, -1 for points in no region, and the name of each fold's region."""
        xy, column = self._xy(X), names_of(self.regions, self.column)
        named = np.asarray(pd.notna(column))
        codes, names = pd.factorize(column[named])
        first = polygon_of(xy, np.asarray(self.regions.geometry)[named], self.regions.crs, names[codes])
        if (first < 0).all():
            ours, theirs = (", ".join(f"{v:.10g}" for v in box) for box in ([*xy.min(0), *xy.max(0)], self.regions.total_bounds))
            extents = f"the points cover ({ours}) and the regions ({theirs}) in {self.regions.crs.name}"
            raise PointsError(f"No point lies in a region: {extents}. Check the CRS of both.")
        region = np.append(codes, -1)[first]
        if (region == region[0]).all():
            raise PointsError(f"All {len(xy)} points lie in region {str(names[region[0]])!r}; give regions that divide the points.")
        found, folds = np.unique(region, return_inverse=True)
        return folds - int(found[0] < 0), list(names[found[found >= 0]])

    def _fold_numbers(self, X: Any) -> Indices:
        return self._tested(X)[0]


@dataclass(frozen=True, repr=False, eq=False)
class PredefinedFolds(Splitter):
    """Folds that are given as indices, or in the authors' JSON.

    Parameters
    ----------
    folds : sequence of (train, test)
        Indices of points; a point may be in neither.
    buffer : float, optional
        As for :class:`BlockKFold`.

    Examples
    --------
    >>> cv = misoxr.PredefinedFolds([([0, 1, 2], [3, 4]), ([3, 4, 2], [0, 1])])
    """

    folds: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]]
    buffer: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.folds):
            raise PointsError("There are no folds; give a pair of training and test indices for each.")
        for fold, pair in enumerate(self.folds):
            try:
                sides = [np.asarray(side) for side in pair]
            except TypeError:
                sides = []
            if len(sides) != 2:
                raise PointsError(f"Fold {fold} is {pair!r}; give a pair of training and test indices for each.")
            if any(len(side) and (side.dtype.kind not in "iu" or side.min() < 0) for side in sides):
                raise PointsError(f"Fold {fold} is of {sides[0].dtype} and {sides[1].dtype}; give indices, integers from 0.")
            check_apart(f"Fold {fold}", *sides)
        object.__setattr__(self, "n_splits", len(self.folds))

    @classmethod
    def from_json(cls, path: str | os.PathLike[str], ids: npt.ArrayLike, *, buffer: float = 0.0) -> Self:
        """Read ``{"fold_0": {"train": [id, ...], "test": [id, ...]}, ...}``, or one such pair of lists.

        Parameters
        ----------
        path : path
            The file. Lists beside "train" and "test", such as "val", are left out.
        ids : array_like, shape (point,)
            Identifiers of the points, compared as text (17.0 as "17"). Others in the file are skipped with a MisoxrWarning.
        buffer : float, optional
            As for :class:`BlockKFold`.
        """
        folds, keys = _read_folds(Path(expanded(path))), _keys(np.asarray(ids).tolist())
        held = {key for sides in folds for side in sides for key in side}
        if absent := held - set(keys):
            message = f"{len(absent)} of {len(held)} identifiers in {str(path)!r} are not among the {len(keys)} points"
            if absent == held:
                raise PointsError(f"{message}, such as {min(absent)!r}; give ids of the kind in the file.")
            note(f"{message} and are skipped.")
        places = [[np.flatnonzero(np.isin(keys, side)) for side in sides] for sides in folds]
        return cls([(train, test) for train, test in places], buffer)

    def _sides(self, X: Any) -> Sides:
        last = max(int(np.max(side)) for sides in self.folds for side in sides)
        if last >= len(X):
            raise PointsError(f"The folds hold index {last} and there are {len(X)} points; give the points they were made for.")
        return [(np.asarray(train, dtype=np.intp), np.asarray(test, dtype=np.intp)) for train, test in self.folds]


def briefly(cv: object) -> str:
    """Return a splitter, or what scores tell of one, in words without the usual settings.

    Examples
    --------
    >>> briefly(misoxr.BlockKFold(500, 3))
    'BlockKFold(size=500, n_splits=3)'
    """
    return re.sub(r", (shuffle=True|random_state=0|buffer=0(\.0)?)(?=[,)])", "", str(cv))


def separate(xy: npt.ArrayLike, *, fraction: float, size: float, seed: int) -> npt.NDArray[np.bool_]:
    """Choose a spatially separate validation set: whole square blocks, drawn at random.

    Parameters
    ----------
    xy : array_like, shape (point, 2)
        Coordinates.
    fraction : float
        Share of the points to choose, roughly; at least one point is chosen and one is left.
    size : float
        Side of a block, in units of the coordinates; with a MisoxrWarning it is halved until not all points lie in one block.
    seed : int
        Seed of the draw.

    Returns
    -------
    ndarray of bool, shape (point,)
        True where a point is chosen.

    Raises
    ------
    PointsError
        If all points lie at one place, or the fraction is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise PointsError(f"A validation fraction of {fraction:g} leaves one side empty; use one between 0 and 1.")
    _check_length(size, "A block's side")
    points, smaller = coordinates_of(xy), size
    low, high = points.min(axis=0), points.max(axis=0)
    if (low == high).all():
        raise PointsError(f"All {len(points)} points lie at one place, so none can be held apart; give points of several places.")
    while (np.floor(low / smaller) == np.floor(high / smaller)).all():
        smaller /= 2
    if smaller < size:
        text = (
            f"All {len(points)} points lie in one block of {size:g}; blocks of {smaller:g} separate the validation points instead."
        )
        note(text)
    blocks, counts = blocks_of(points, smaller)
    target, total = fraction * len(blocks), 0
    chosen = np.zeros(len(counts), dtype=bool)
    for block in np.random.default_rng(seed).permutation(len(counts)):
        after = total + counts[block]
        if after < len(blocks) and abs(after - target) < abs(total - target):
            chosen[block], total = True, after
    if not chosen.any():
        chosen[counts.argmin()] = True
    return np.asarray(chosen[blocks], dtype=bool)


def _check_length(length: float, what: str) -> None:
    if not (is_number(length) and 0 < length < np.inf):
        raise PointsError(f"{what} is {length!r}; it must be a positive number, in units of the coordinates.")


def _grouped(
    xy: Floats, length: float, n_splits: int, group: Callable[[float], Indices], words: tuple[str, str, str, str]
) -> Indices:
    """Return groups of points by a length; where they are fewer than the folds, refuse, and say which length gives enough."""
    groups = group(length)
    count = int(groups.max()) + 1
    if count >= n_splits:
        return groups
    kind, size, remedy, name = words
    found, works = count, length
    for _ in range(HALVED):
        works = float(f"{works / 2:.2g}")
        found = int(group(works).max()) + 1
        if found >= n_splits:
            remedy += f", such as {name} of {works:g}, which gives {found},"
            break
    wide, high = np.ptp(xy, axis=0)
    raise PointsError(
        f"The {len(xy)} points, which cover {wide:,.4g} x {high:,.4g} in units of the coordinates, lie in {count} {kind}{'s' * (count != 1)} "
        f"{size.format(length)}, too few for {n_splits} folds; use {remedy} or fewer folds."
    )


def _warn_alone(xy: Floats, groups: Indices, length: float, what: str) -> None:
    """Warn where every point is a group of its own because the length is in other units than the coordinates."""
    if groups.max() + 1 < len(xy) or len(xy) < 2:
        return
    gap = float(np.median(np.asarray(cKDTree(xy).query(xy, k=2)[0])[:, 1]))
    if gap > 100 * length:
        words = f"Every point is one of the {what} of {length:g}, as points lie {gap:.3g} apart: the folds are random ones."
        note(f"{words} Give a length in units of the coordinates, metres as a rule.")


def check_apart(fold: str, train: Iterable[Any], test: Iterable[Any]) -> None:
    """Refuse a fold without training or test points, or with points in both."""
    sides = {"training": set(train), "test": set(test)}
    if empty := [name for name, side in sides.items() if not side]:
        raise PointsError(f"{fold} has no {empty[0]} points; leave it out.")
    if both := sides["training"] & sides["test"]:
        raise PointsError(f"{fold} has {len(both)} points in both training and test, such as {min(both)}; leave them in one.")


def sides_of(folds: Indices) -> Sides:
    return ((np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in range(int(folds.max()) + 1))


def buffered(xy: Floats, sides: Sides, buffer: float) -> Sides:
    for train, test in sides:
        yield train[cKDTree(xy[test]).query(xy[train])[0] >= buffer] if buffer else train, test


def _keys(ids: Iterable[Any]) -> list[str]:
    return [str(int(value)) if isinstance(value, float) and value.is_integer() else str(value) for value in ids]


def _read_folds(path: Path) -> list[tuple[list[str], list[str]]]:
    try:
        content = json.loads(path.read_text("utf-8"))
        named = {"The fold": content} if "train" in content else content
        folds = {name: (_keys(fold["train"]), _keys(fold["test"])) for name, fold in named.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise PointsError(f'{str(path)!r} holds no folds, {{"fold_0": {{"train": [], "test": []}}}}: {error!r}') from error
    for name, sides in folds.items():
        check_apart(f"{name} of {str(path)!r}", *sides)
    return list(folds.values())
