"""The splitter KNNDM: folds whose test points lie as far from training points as the places to be mapped."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial import cKDTree
from scipy.stats import wasserstein_distance

from misoxr.errors import PointsError, note
from misoxr.points.clusters import coordinates_of, dealt, merged
from misoxr.points.folds import Floats, Indices, Splitter, buffered, sides_of

__all__ = ["KNNDM"]

MOST_CENTRES = 4000
"""Most points that are clustered by Ward's method, whose memory grows with their square."""


@dataclass(frozen=True, repr=False, eq=False)
class KNNDM(Splitter):
    """K folds whose test points lie as far from training points as targets lie from points.

    Parameters
    ----------
    targets : array_like, shape (target, 2), or GeoDataFrame
        Where predictions will be made, in the CRS of the points; a GeoDataFrame is moved to it.
    max_share : float, optional
        Largest share of the points in a fold.
    n_splits, random_state, buffer : optional
        As for :class:`BlockKFold`; distances are matched with the buffer.

    Notes
    -----
    k-fold nearest neighbour distance matching (Linnenbrink et al. 2024, https://doi.org/10.5194/gmd-17-5897-2024), after its R
    package CAST. Points are clustered by Ward's method (4000 of them if there are more, which the others join) into some 60
    numbers of clusters. A cluster of the size of a fold is one; the others are dealt in turn along the first principal axis. Of
    these folds, and random ones, those are taken whose distances from test to training points differ least from the targets', by
    the Wasserstein distance.

    Examples
    --------
    >>> cv = misoxr.KNNDM(gpd.read_file("zones.gpkg").sample_points(100, rng=0).explode())
    """

    targets: Any
    n_splits: int = 5
    max_share: float = 0.5
    random_state: int = 0
    buffer: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 / self.n_splits < self.max_share <= 1:
            raise PointsError(
                f"A max_share of {self.max_share:g} does not suit {self.n_splits} folds; use more than {1 / self.n_splits:g}, up to 1."
            )

    def match(self, X: Any) -> tuple[Indices, float]:
        """Return the fold of each point, and the Wasserstein distance that remains, in units of the coordinates."""
        xy = self._xy(X)
        wanted = np.asarray(cKDTree(xy).query(coordinates_of(self.targets, getattr(X, "crs", None)))[0])
        found = [(self._difference(xy, folds, wanted), folds) for folds in self._candidates(xy)]
        least, best = min(found, key=lambda pair: pair[0])
        if least == np.inf:
            limits = f"max_share={self.max_share:g} and buffer={self.buffer:g}"
            raise PointsError(f"No {self.n_splits} folds of {len(xy)} points keep to {limits}; raise the first or lower the other.")
        return best, least

    def _fold_numbers(self, X: Any) -> Indices:
        folds, left = self.match(X)
        extent = float(np.hypot(*np.ptp(self._xy(X), axis=0)))
        if left > extent:
            words = f"The targets lie farther from the points ({left:.3g}, after matching) than these reach ({extent:.3g})"
            note(f"{words}; check that the targets are in the CRS of the points.")
        return folds

    def _candidates(self, xy: Floats) -> Iterator[Indices]:
        yield dealt(np.arange(len(xy)), self.n_splits, self.random_state)
        rng = np.random.default_rng(self.random_state)
        centres = xy if len(xy) <= MOST_CENTRES else xy[rng.choice(len(xy), MOST_CENTRES, replace=False)]
        tree, (_, nearest) = linkage(centres, "ward"), cKDTree(centres).query(xy)
        for number in np.unique(np.geomspace(self.n_splits, len(centres), 60).astype("int64")):
            _, clusters = np.unique(fcluster(tree, number, "maxclust")[nearest], return_inverse=True)
            if clusters.max() + 1 >= self.n_splits:  # points of one place are one cluster
                yield merged(xy, clusters, self.n_splits)

    def _difference(self, xy: Floats, folds: Indices, wanted: Floats) -> float:
        sides = list(buffered(xy, sides_of(folds), self.buffer))
        if np.bincount(folds).max() > self.max_share * len(xy) or not all(len(train) for train, _ in sides):
            return np.inf  # never the least
        return float(wasserstein_distance(np.concatenate([cKDTree(xy[a]).query(xy[b])[0] for a, b in sides]), wanted))
