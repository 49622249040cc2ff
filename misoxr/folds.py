"""Splitting points by where they lie, in the manner of scikit-learn's splitters."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from misoxr.errors import MisoxrWarning, PointsError

__all__ = ["BlockKFold", "separate"]

Indices = npt.NDArray[np.intp]


class BlockKFold:
    """K folds of whole square blocks, with about as many points in each.

    A splitter of scikit-learn, split by coordinates: ``cv=list(BlockKFold(10_000).split(xy))``.

    Parameters
    ----------
    size : float
        Side of a block, in units of the coordinates. Blocks lie on a lattice through the origin of the CRS.
    n_splits : int, optional
        Number of folds.
    shuffle : bool, optional
        Whether blocks of equally many points are shuffled before they are dealt to the folds.
    random_state : int, optional
        Seed of the shuffling.

    Notes
    -----
    Blocks are dealt from the fullest to the emptiest, each to the fold with the fewest points so far. After
    ``verde.BlockKFold`` (Uieda 2018), which balances by partitioning instead.
    """

    def __init__(self, size: float, n_splits: int = 5, shuffle: bool = True, random_state: int = 0) -> None:
        if n_splits < 2:
            raise PointsError(f"{n_splits} folds leave nothing to hold out; use 2 or more.")
        _check_size(size)
        self.size = size
        self.n_splits = n_splits
        self.shuffle = shuffle
        self.random_state = random_state

    def __repr__(self) -> str:
        return f"BlockKFold({self.size:g}, n_splits={self.n_splits}, shuffle={self.shuffle}, random_state={self.random_state})"

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of folds; the arguments are there for scikit-learn and play no part."""
        return self.n_splits

    def split(self, X: npt.ArrayLike, y: Any = None, groups: Any = None) -> Iterator[tuple[Indices, Indices]]:
        """Yield the training and the test indices of each fold.

        Parameters
        ----------
        X : array_like, shape (point, 2)
            Coordinates.
        y, groups : optional
            There for scikit-learn; they play no part.

        Raises
        ------
        PointsError
            If the points lie in fewer blocks than there are folds.
        """
        blocks, counts = _blocks(X, self.size)
        if len(counts) < self.n_splits:
            raise PointsError(
                f"The points lie in {len(counts)} blocks of {self.size:g}, too few for {self.n_splits} folds; use smaller blocks."
            )
        order = np.random.default_rng(self.random_state).permutation(len(counts)) if self.shuffle else np.arange(len(counts))
        order = order[np.argsort(-counts[order], kind="stable")]
        fold_of, filled = np.empty(len(counts), dtype="int64"), np.zeros(self.n_splits, dtype="int64")
        for block in order:
            fold_of[block] = filled.argmin()
            filled[fold_of[block]] += counts[block]
        folds = fold_of[blocks]
        for fold in range(self.n_splits):
            yield np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)


def separate(xy: npt.ArrayLike, *, fraction: float, size: float, seed: int) -> npt.NDArray[np.bool_]:
    """Choose a spatially separate validation set: whole square blocks, drawn at random.

    Parameters
    ----------
    xy : array_like, shape (point, 2)
        Coordinates.
    fraction : float
        Share of the points to choose, roughly; at least one point is chosen and one is left.
    size : float
        Side of a block, in units of the coordinates.
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

    Warns
    -----
    MisoxrWarning
        If all points lie in one block; the blocks are then halved until they do not.
    """
    if not 0 < fraction < 1:
        raise PointsError(f"A validation fraction of {fraction:g} leaves one side empty; use one between 0 and 1.")
    _check_size(size)
    blocks, counts = _blocks(xy, size)
    if len(counts) == 1:
        blocks, counts, smaller = _halved(xy, size)
        warnings.warn(
            f"All {len(blocks)} points lie in one block of {size:g}; blocks of {smaller:g} separate the validation points instead.",
            MisoxrWarning,
            stacklevel=2,
        )
    target, total = fraction * len(blocks), 0
    chosen = np.zeros(len(counts), dtype=bool)
    for block in np.random.default_rng(seed).permutation(len(counts)):
        after = total + counts[block]
        if after < len(blocks) and abs(after - target) < abs(total - target):
            chosen[block], total = True, after
    if not chosen.any():
        chosen[counts.argmin()] = True
    return np.asarray(chosen[blocks], dtype=bool)


def _halved(xy: npt.ArrayLike, size: float) -> tuple[Indices, Indices, float]:
    points = np.asarray(xy, dtype="float64")
    if (points == points[:1]).all():
        raise PointsError(f"All {len(points)} points lie at one place, so none can be held apart; give points of several places.")
    blocks, counts = _blocks(points, size)
    while len(counts) == 1:
        size /= 2
        blocks, counts = _blocks(points, size)
    return blocks, counts, size


def _check_size(size: float) -> None:
    if not (size > 0 and np.isfinite(size)):
        raise PointsError(f"A block's side is {size:g}; it must be positive, in units of the coordinates.")


def _blocks(xy: npt.ArrayLike, size: float) -> tuple[Indices, Indices]:
    """Return the number of each point's block, and the number of points in each block."""
    points = np.asarray(xy, dtype="float64")
    if points.ndim != 2 or points.shape[1] != 2 or not len(points) or not np.isfinite(points).all():
        raise PointsError(f"Points are split by finite coordinates of shape (point, 2); these have shape {points.shape}.")
    _, blocks, counts = np.unique(np.floor(points / size), axis=0, return_inverse=True, return_counts=True)
    return blocks.ravel(), counts
