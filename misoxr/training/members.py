"""Draw the points that each member of a model learns from."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from misoxr.spec import Task

__all__ = ["resampled"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def resampled(tasks: Sequence[Task], labels: Mapping[str, Floats], members: int, seed: int) -> list[Integers]:
    """Draw as many points as there are, with replacement, for each member: the bootstrap.

    Every member gets two points, where there are, of each class that any has, so that it can answer all of them.

    Parameters
    ----------
    labels : mapping of str to array (point,)
        Codes or values by task, NaN where unknown.

    Returns
    -------
    list of array
        By member, the points in order; those drawn twice stand there twice.

    References
    ----------
    Breiman 1996, "Bagging predictors".
    """
    count = len(next(iter(labels.values())))
    rng = np.random.default_rng([seed, 4])
    draws = []
    for _ in range(members):
        drawn = rng.integers(0, count, count)
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
