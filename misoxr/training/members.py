"""Draw the points that each member of a model learns from."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from misoxr.points.clusters import blocks_of
from misoxr.spec import Task

__all__ = ["resampled"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LEAST = 10
"""Blocks to draw from, at the least: of fewer, members would draw the same ones."""


def resampled(
    tasks: Sequence[Task], labels: Mapping[str, Floats], xy: Floats, members: int, *, size: float, seed: int
) -> list[Integers]:
    """Draw as many square blocks as there are, with replacement, for each member: all points of a block together.

    Points cluster, and neighbours tell the same. Draws of single points would hold nearly all places, and members would agree more than they
    should. Where points lie apart, each is a block of its own. Every member gets two points, where there are, of each class that any has, so
    that it can answer all of them.

    Parameters
    ----------
    labels : mapping of str to array (point,)
        Codes or values by task, NaN where unknown.
    xy : array (point, 2)
        Coordinates.
    size : float
        Side of a block, in units of the coordinates; it is halved until there are ten blocks, or as many as there are places.

    Returns
    -------
    list of array
        By member, the points in order; those drawn twice stand there twice.

    References
    ----------
    Breiman 1996, "Bagging predictors", where single samples are drawn; here it is blocks.
    """
    block, counts = blocks_of(xy, size, least=LEAST)
    inside = np.split(np.argsort(block, kind="stable"), np.cumsum(counts)[:-1])
    rng = np.random.default_rng([seed, 4])
    draws = []
    for _ in range(members):
        drawn = np.concatenate([inside[one] for one in rng.integers(0, len(counts), len(counts))])
        for task in tasks:
            codes = labels[task.name]
            kinds = np.isfinite(codes).astype(float) if task.kind == "regression" else codes
            for code in np.unique(kinds[np.isfinite(kinds)]):
                own = np.flatnonzero(kinds == code)
                missing = min(2, len(own)) - len(np.unique(drawn[kinds[drawn] == code]))
                if missing > 0:
                    drawn = np.append(drawn, rng.choice(np.setdiff1d(own, drawn), missing, replace=False))
        draws.append(np.sort(drawn))
    return draws
