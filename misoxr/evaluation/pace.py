"""How long a cross-validation still takes: models take unlike long, so each is judged by its own folds."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from misoxr.evaluation.cache import Unit
from misoxr.records.bars import spoken

__all__ = ["in_turns", "time_left"]


def in_turns(units: Sequence[Unit]) -> list[Unit]:
    """Return units fold by fold, so that the first round tells how long each model takes."""
    return sorted(units, key=lambda unit: (unit.seed, unit.fold))


def time_left(found: Mapping[Unit, pd.DataFrame | None], at_once: int = 1) -> str:
    """Say how long the folds take that are left, by the mean of each model's own.

    Parameters
    ----------
    found : mapping of Unit to DataFrame or None
        Answers with their "seconds", cached ones among them; None where a fold is left.
    at_once : int, optional
        Folds that run at the same time.

    Examples
    --------
    >>> words = time_left({Unit("rf-11", 0, 0): None})  # 'time left not known yet'
    """
    taken: defaultdict[str, list[float]] = defaultdict(list)
    left: defaultdict[str, int] = defaultdict(int)
    for unit, answers in found.items():
        if answers is None:
            left[unit.model] += 1
        elif len(answers):
            taken[unit.model].append(float(answers["seconds"].iloc[0]))
    if not left:
        return "0 s left"
    means = {name: float(np.mean(taken[name])) for name in left if name in taken}
    if not means:
        return "time left not known yet"
    # However many run at once, the last one takes its time.
    seconds = max(sum(means[name] * left[name] for name in means) / at_once, *means.values())
    return f"about {spoken(seconds)} left" if len(means) == len(left) else f"more than {spoken(seconds)} left"
