"""Error profiles: how a model's score falls as points become unlike the training points."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import isotonic_regression

from misoxr.errors import PointsError, SpecError, did_you_mean, note
from misoxr.metrics import predicted_codes, scores
from misoxr.spec import Task
from misoxr.spec.numbers import is_whole

__all__ = ["error_profile"]

Floats = npt.NDArray[np.float64]
Answers = Callable[[pd.DataFrame, Task], tuple[Any, Any]]

KNOWN = {"classes": ("error", "accuracy", "macro_f1", "macro_recall", "brier"), "regression": ("rmse", "mae", "r2")}
"""Metrics by the kind of task, the default one first."""
RISING = ("error", "brier", "rmse", "mae")
"""Those that are greater where a model is worse."""
WINDOWS = 50
"""Windows of a profile, at the most."""
GROUPS = 10
"""Groups of points that are left out in turn to tell how sure a score is that is no mean over points."""
FEW = 20
"""Points of a profile, at the least."""


def error_profile(
    rows: pd.DataFrame, task: Task, answers: Answers, dissimilarity: pd.Series, metric: str | None, window: int | None
) -> pd.DataFrame:
    """Score predictions in moving windows over the dissimilarity of their points, as :meth:`misoxr.Scores.error_profile` tells.

    Parameters
    ----------
    rows : DataFrame
        Predictions of one model and task.
    task : Task
        The task.
    answers : callable
        Returns truth and answers of such rows.
    dissimilarity, metric, window
        As for :meth:`misoxr.Scores.error_profile`.
    """
    named = _metric(task, metric)
    index = _dissimilarity(rows, dissimilarity)
    size = _window(window, len(index))
    rows = rows[rows["point"].isin(index.index)]
    scores(task, *answers(rows, task))  # refuses what cannot be scored
    found = (_others if named in _WHOLE else _means)(rows, task, answers, index, named, size)
    table = pd.DataFrame(found, columns=["dissimilarity", "score", "standard_error"]).assign(points=size)
    known = np.isfinite(table["score"].to_numpy())
    if not known.any():
        raise PointsError(
            f"{named!r} of {task.name!r} is not defined in any window of {size} points; give wider ones, or another metric."
        )
    fit = isotonic_regression(table["score"][known], increasing=named in RISING).x
    table["fitted"] = np.interp(table["dissimilarity"], table["dissimilarity"][known], fit)
    table.attrs = {"metric": named, "task": task.name, "window": size, **dissimilarity.attrs}
    return table


def _metric(task: Task, metric: str | None) -> str:
    """Return the metric by its name, or the default one."""
    known = KNOWN["regression" if task.kind == "regression" else "classes"]
    if metric is not None and metric not in known:
        raise SpecError(f"metric is {metric!r}; of {task.name!r} use one of {list(known)}.{did_you_mean(str(metric), known)}")
    return metric or known[0]


def _dissimilarity(rows: pd.DataFrame, dissimilarity: Any) -> pd.Series:
    """Return the dissimilarity of the points that were predicted, ascending; those without any are left out."""
    if not isinstance(dissimilarity, pd.Series):
        raise PointsError(
            f"dissimilarity is a {type(dissimilarity).__name__}; give a Series by point, such as "
            "misoxr.uncertainty.training_dissimilarity(image, model, points, cv=cv)."
        )
    points = pd.Index(rows["point"].unique())
    lacking = points.difference(dissimilarity.index, sort=False)
    if not dissimilarity.index.is_unique or len(lacking):
        words = f"lacks {len(lacking)} of {len(points)} points of the scores" if len(lacking) else "has points twice"
        raise PointsError(f"dissimilarity {words}; compute it from the points that were given to cross_validate.")
    found = dissimilarity.loc[points].astype("float64")
    known: pd.Series = found[np.isfinite(found)].sort_values(kind="stable")
    if len(known) < len(found):
        note(f"{len(found) - len(known)} of {len(found)} points have no dissimilarity, and are left out of the profile.")
    if len(known) < FEW:
        raise PointsError(
            f"{len(known)} points have scores and a dissimilarity, and a profile needs {FEW} or more; give more points."
        )
    return known


def _window(window: Any, count: int) -> int:
    """Return the points of a window: a tenth of all and 20 or more, but at most half of all."""
    if window is None:
        return max(min(20, count // 2), count // 10)
    if not is_whole(window) or not 5 <= window <= count // 2:
        raise SpecError(f"window is {window!r}; give a whole number of points, 5 to {count // 2}, half of the {count} points.")
    return int(window)


def _starts(count: int, size: int) -> npt.NDArray[np.intp]:
    return np.unique(np.linspace(0, count - size, min(count - size + 1, WINDOWS)).round().astype(np.intp))


def _means(
    rows: pd.DataFrame, task: Task, answers: Answers, index: pd.Series, metric: str, size: int
) -> list[tuple[float, float, float]]:
    """Score windows by a mean over points, or the root of one, with its standard error."""
    losses = _losses(task, *answers(rows, task))[metric]
    each = pd.Series(losses, rows["point"].to_numpy()).groupby(level=0).mean().loc[index.index].to_numpy()
    found = []
    for start in _starts(len(index), size):
        mine = each[start : start + size]
        score, error = float(mine.mean()), float(mine.std(ddof=1) / len(mine) ** 0.5)
        if metric == "rmse":
            score = score**0.5
            error = error / (2 * score) if score else 0.0
        found.append((float(index.iloc[start : start + size].mean()), score, error))
    return found


def _losses(task: Task, truth: Floats, answers: Floats) -> Mapping[str, Floats]:
    """Return by metric what each row adds to a mean."""
    if task.kind == "regression":
        return {"rmse": (answers - truth) ** 2, "mae": np.abs(answers - truth)}
    right = (predicted_codes(task, answers) == truth).astype("float64")
    known = np.eye(len(task.classes))[truth.astype(np.intp)]
    brier = ((answers - known) ** 2).sum(axis=1) if task.kind == "multiclass" else (answers - truth) ** 2
    return {"error": 1 - right, "accuracy": right, "brier": brier}


def _others(
    rows: pd.DataFrame, task: Task, answers: Answers, index: pd.Series, metric: str, size: int
) -> list[tuple[float, float, float]]:
    """Score windows as a whole, the mean over seeds, with a standard error by leaving out groups of points in turn (jackknife)."""
    place = pd.Series(np.arange(len(index)), index.index).loc[rows["point"]].to_numpy()
    seeds = [np.flatnonzero(rows["seed"] == seed) for seed in rows["seed"].unique()]
    truth, given = answers(rows, task)
    score_of = _WHOLE[metric]
    told: Any = given if task.kind == "regression" else predicted_codes(task, given)

    def score(mask: npt.NDArray[np.bool_]) -> float:
        parts = [mine[mask[mine]] for mine in seeds]
        return float(np.mean([score_of(truth[part], told[part]) for part in parts if len(part)]))

    found = []
    for start in _starts(len(index), size):
        inside = (place >= start) & (place < start + size)
        each = np.array([score(inside & (place % GROUPS != group)) for group in range(GROUPS)])
        error = float(np.sqrt((GROUPS - 1) / GROUPS * ((each - each.mean()) ** 2).sum()))
        found.append((float(index.iloc[start : start + size].mean()), score(inside), error))
    return found


def _macro_recall(truth: Floats, predicted: Floats) -> float:
    """Mean over the classes that occur, as :func:`misoxr.metrics.scores` has it, which takes too long for each of many windows."""
    return float(np.mean([(predicted[truth == code] == code).mean() for code in np.unique(truth)]))


def _macro_f1(truth: Floats, predicted: Floats) -> float:
    each = [
        2 * ((truth == code) & (predicted == code)).sum() / ((truth == code).sum() + (predicted == code).sum())
        for code in np.unique(truth)
    ]
    return float(np.mean(each))


def _r2(truth: Floats, answers: Floats) -> float:
    spread = ((truth - truth.mean()) ** 2).sum()
    return float(1 - ((answers - truth) ** 2).sum() / spread) if spread > 0 else np.nan


_WHOLE: dict[str, Callable[[Floats, Floats], float]] = {"macro_f1": _macro_f1, "macro_recall": _macro_recall, "r2": _r2}
"""Metrics that are no mean over points."""
