"""Keep sites apart: which candidates may still be chosen."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

__all__ = ["Spacing"]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
ROUNDING = 1e-9
"""Share of the least distance by which two sites may be nearer: pixels that are as far apart as asked for are far enough."""


class Spacing:
    """Candidates, of which those that are chosen rule out their neighbours.

    Parameters
    ----------
    xy : array
        Where candidates are, (candidate, 2).
    least : float or None
        Least distance between sites.
    existing : array
        Where sites are that exist, (site, 2): they rule out their neighbours from the beginning.
    """

    def __init__(self, xy: Floats, least: float | None, existing: Floats) -> None:
        self.xy, self.least = xy, None if least is None else least * (1 - ROUNDING)
        self.free: Mask = np.ones(len(xy), dtype=bool)
        self.tree = None if least is None else cKDTree(xy)
        if self.least is not None and len(existing):
            self.free = np.isinf(cKDTree(existing).query(xy, distance_upper_bound=self.least)[0])
        self.taken: list[int] = []

    def take(self, at: int) -> None:
        """Choose a candidate."""
        self.taken.append(int(at))
        self.free[at] = False
        if self.tree is not None and self.least is not None:
            self.free[self.tree.query_ball_point(self.xy[at], self.least)] = False

    def take_in_order(self, order: Iterable[int], count: int) -> None:
        """Choose the first candidates that are free, until there are so many sites."""
        for at in order:
            if len(self.taken) >= count:
                return
            if self.free[at]:
                self.take(int(at))
