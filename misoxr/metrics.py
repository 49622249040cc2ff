"""Scores of predicted probabilities against labels: totals, class by class, confusion and reliability."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from misoxr.errors import PointsError, require
from misoxr.spec import Task
from misoxr.spec.numbers import is_rounding

__all__ = ["check_codes", "class_scores", "confusion", "most_probable", "predicted_codes", "reliability", "scores"]

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]

ROUNDING = 1e-6
"""How far a probability may lie outside 0 to 1: blended maps in float32 do. It is clipped."""
LEAK = 0.01
"""How far the probabilities of a point's classes may sum from 1: rounded ones do. More is no distribution."""
BINS = 10
"""Bins of the expected calibration error."""


def scores(task: Task, truth: npt.ArrayLike, probability: npt.ArrayLike) -> dict[str, float]:
    """Score predictions of a task.

    Parameters
    ----------
    task : Task
        What was predicted.
    truth : array_like, shape (point,)
        Class codes or values, NaN where unknown; those points play no part.
    probability : array_like
        Binary tasks: probability of the second class, (point,). Multiclass: (point, class). Regression: values, (point,).

    Returns
    -------
    dict of str to float
        Binary and multiclass: accuracy, balanced_accuracy, macro_precision, macro_recall, macro_f1, micro_precision, micro_recall,
        micro_f1, weighted_precision, weighted_recall, weighted_f1, roc_auc, pr_auc (average precision), brier, brier_skill,
        log_loss, ece. Binary also: precision, recall, f1, of the second class, as roc_auc and pr_auc are. Regression: rmse, mae,
        r2, bias (mean of predicted minus true).

    Raises
    ------
    PointsError
        If no truth is known, the shapes differ, a label is no class code, a prediction of a known point is missing, or
        probabilities lie outside 0 to 1 or do not sum to 1.

    Notes
    -----
    The predicted class is the most probable one, as in maps: the later of two that are as probable, and so the second of a binary task
    from a probability of 0.5.

    Macro scores and balanced_accuracy are means over the classes that occur in the truth; a class among them that is never
    predicted has precision 0. Multiclass roc_auc and pr_auc are means of one class against the rest, over the classes for which
    :func:`class_scores` gives them.

    brier is the mean squared error of the probability, in multiclass tasks summed over the classes (Brier 1950), and brier_skill
    is 1 - brier / reference, where the reference always predicts the class shares of this very truth. log_loss is in nats;
    probabilities of 0 and 1 count as the nearest ones in float64. ece is the expected calibration error over ten bins of
    :func:`reliability` (Guo et al. 2017, arXiv 1706.04599). The rest is scikit-learn's.

    NaN stands for a score that is not defined: precision, recall, f1, roc_auc and pr_auc by the rules of :func:`class_scores`;
    multiclass roc_auc and any brier_skill where the truth has one class only; r2 where the truth has one value only. All
    others are finite.

    Examples
    --------
    >>> found = metrics.scores(PERMAFROST, [0, 1, 1], [0.2, 0.9, 0.4])["roc_auc"]
    """
    labels, predicted = _checked(task, truth, probability)
    if task.kind == "regression":
        return _regression(labels, predicted)
    return _classification(task, labels.astype(np.intp), predicted)


def class_scores(task: Task, truth: npt.ArrayLike, probability: npt.ArrayLike) -> pd.DataFrame:
    """Score each class of a binary or multiclass task against the rest.

    Parameters
    ----------
    task, truth, probability
        As in :func:`scores`.

    Returns
    -------
    DataFrame
        A row for every class of the task, in its order, indexed by name ("class"). Columns precision, recall, f1, roc_auc, pr_auc,
        support (points of the class in the truth) and predicted (points predicted to be of the class).

    Raises
    ------
    PointsError
        As in :func:`scores`, and for a regression.

    Notes
    -----
    NaN where not defined: recall and pr_auc of a class without support; roc_auc also of a class that is the whole truth;
    precision and f1 of a class neither in the truth nor predicted. A class in the truth that is never predicted has precision 0;
    one predicted but not in the truth has precision and f1 0.

    Examples
    --------
    >>> table = metrics.class_scores(PERMAFROST, [0, 1, 1], [0.2, 0.9, 0.4])
    """
    return _by_class(task, *_classified(task, truth, probability))


def confusion(task: Task, truth: npt.ArrayLike, probability: npt.ArrayLike) -> pd.DataFrame:
    """Count the points of each class by the class predicted.

    Parameters
    ----------
    task, truth, probability
        As in :func:`scores`.

    Returns
    -------
    DataFrame
        Counts (class, class), names of all classes of the task on the index ("truth") and the columns ("predicted").

    Raises
    ------
    PointsError
        As in :func:`class_scores`.

    Examples
    --------
    >>> counts = metrics.confusion(PERMAFROST, [0, 1, 1], [0.2, 0.9, 0.4])
    """
    codes, checked = _classified(task, truth, probability)
    metrics = require("sklearn.metrics", "train")
    counts = metrics.confusion_matrix(codes, predicted_codes(task, checked), labels=np.arange(len(task.classes)))
    names = list(task.classes)
    return pd.DataFrame(counts, pd.Index(names, name="truth"), pd.Index(names, name="predicted"))


def reliability(task: Task, truth: npt.ArrayLike, probability: npt.ArrayLike, bins: int = BINS) -> pd.DataFrame:
    """Compare predicted probabilities with how often they come true.

    Parameters
    ----------
    task, truth, probability
        As in :func:`scores`.
    bins : int, optional
        Number of bins of equal width over 0 to 1.

    Returns
    -------
    DataFrame
        A row per bin: its edges lower and upper, probability (mean predicted), frequency (share of points for which it came
        true) and count of points. Binary tasks: of the second class. Multiclass: of the predicted class, that is, confidence and
        accuracy. A bin holds its upper edge, and the first also 0. An empty bin has count 0, and NaN for means.

    Raises
    ------
    PointsError
        As in :func:`class_scores`, and if there is less than one bin.

    References
    ----------
    Guo et al. 2017, "On calibration of modern neural networks", arXiv 1706.04599.

    Examples
    --------
    >>> curve = metrics.reliability(PERMAFROST, [0, 1, 1], [0.2, 0.9, 0.4], bins=5)
    """
    if bins < 1:
        raise PointsError(f"bins is {bins}; give 1 or more.")
    return _reliability(task, *_classified(task, truth, probability), bins)


def _checked(task: Task, truth: npt.ArrayLike, probability: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return the labels (point,) and predictions (point,) or (point, class) of the points whose truth is known."""
    labels, predicted = np.asarray(truth, dtype="float64"), np.asarray(probability, dtype="float64")
    expected = (labels.size, len(task.classes)) if task.kind == "multiclass" else (labels.size,)
    if labels.ndim != 1 or predicted.shape != expected:
        raise PointsError(f"Predictions of {task.name!r} have shape {predicted.shape}, and {labels.shape} labels need {expected}.")
    known = ~np.isnan(labels)
    if not known.any():
        raise PointsError(f"None of {len(labels)} points has a label of {task.name!r}, so nothing can be scored.")
    labels, predicted = labels[known], predicted[known]
    missing = ~np.isfinite(predicted.reshape(len(labels), -1)).all(axis=1)
    if missing.any():
        raise PointsError(
            f"{int(missing.sum())} of {len(labels)} labelled points have no prediction of {task.name!r} (nodata); leave them out first."
        )
    if task.kind == "regression":
        if np.isinf(labels).any():
            raise PointsError(f"{int(np.isinf(labels).sum())} labels of {task.name!r} are infinite; set unknown ones to NaN.")
        return labels, predicted
    check_codes(task, labels)
    _check_probabilities(task, predicted)
    return labels, np.clip(predicted, 0, 1)


def check_codes(task: Task, labels: Floats) -> None:
    """Refuse labels that are no class codes."""
    wrong = ~np.isin(labels, np.arange(len(task.classes)))
    if wrong.any():
        raise PointsError(
            f"{int(wrong.sum())} labels of {task.name!r} are no class code, {labels[wrong][0]:g} the first; "
            f"use 0 to {len(task.classes) - 1}, and NaN where unknown."
        )


def _check_probabilities(task: Task, predicted: Floats) -> None:
    low, high = float(predicted.min()), float(predicted.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise PointsError(
            f"Probabilities of {task.name!r} reach from {low:g} to {high:g}, outside 0 to 1; apply the sigmoid or softmax to logits."
        )
    if task.kind == "multiclass":
        total = predicted.sum(axis=1)
        worst = float(total[np.abs(total - 1).argmax()])
        if abs(worst - 1) > LEAK:
            raise PointsError(f"The probabilities of {task.name!r} sum to {worst:g} at a point; divide them by their sum.")


def _classified(task: Task, truth: npt.ArrayLike, probability: npt.ArrayLike) -> tuple[Codes, Floats]:
    """Return the class codes (point,) and probabilities of the points whose truth is known."""
    if task.kind == "regression":
        raise PointsError(f"Task {task.name!r} is a regression and has no classes; use scores.")
    labels, checked = _checked(task, truth, probability)
    return labels.astype(np.intp), checked


def predicted_codes(task: Task, probability: Floats) -> Codes:
    """Return the most probable classes, as maps have them."""
    return most_probable(probability, 1 if task.kind == "multiclass" else None)


def most_probable(probability: npt.NDArray[Any], axis: int | None) -> Codes:
    """Return the most probable classes along an axis, the later of two that are as probable.

    Without an axis, the probability is that of the second of two classes, which is taken from one half on.
    """
    if axis is None:
        return np.asarray(probability >= 0.5, dtype=np.intp)
    return np.asarray(probability.shape[axis] - 1 - np.flip(probability, axis).argmax(axis=axis), dtype=np.intp)


def _classification(task: Task, codes: Codes, probability: Floats) -> dict[str, float]:
    metrics = require("sklearn.metrics", "train")
    every, occurring, predicted = np.arange(len(task.classes)), np.unique(codes), predicted_codes(task, probability)
    table = _by_class(task, codes, probability)
    found = {"accuracy": float(metrics.accuracy_score(codes, predicted)), "balanced_accuracy": float(table["recall"].mean())}
    if task.kind == "binary":
        found |= {name: float(table[name].iloc[1]) for name in ("precision", "recall", "f1")}
    for average, labels in (("macro", occurring), ("micro", every), ("weighted", occurring)):
        three = metrics.precision_recall_fscore_support(codes, predicted, labels=labels, average=average, zero_division=0)[:3]
        found |= {f"{average}_{name}": float(value) for name, value in zip(("precision", "recall", "f1"), three, strict=True)}
    for name in ("roc_auc", "pr_auc"):
        found[name] = float(table[name].iloc[1] if task.kind == "binary" else table[name].mean())
    return found | _probabilistic(task, codes, probability)


def _by_class(task: Task, codes: Codes, probability: Floats) -> pd.DataFrame:
    metrics = require("sklearn.metrics", "train")
    every, predicted = np.arange(len(task.classes)), predicted_codes(task, probability)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        codes, predicted, labels=every, average=None, zero_division=np.nan
    )
    precision[np.isnan(precision) & (support > 0)] = 0
    # The first class of a binary task ranks by -p: 1 - p would round small probabilities to ties.
    ranking = probability if task.kind == "multiclass" else np.stack([-probability, probability], axis=1)  # (point, class)
    roc_auc, pr_auc = np.full((2, len(every)), np.nan)
    for code in np.flatnonzero(support):
        mine = codes == code
        pr_auc[code] = metrics.average_precision_score(mine, ranking[:, code])
        if support[code] < len(codes):
            roc_auc[code] = metrics.roc_auc_score(mine, ranking[:, code])
    columns = {"precision": precision, "recall": recall, "f1": f1, "roc_auc": roc_auc, "pr_auc": pr_auc, "support": support}
    columns["predicted"] = np.bincount(predicted, minlength=len(every))
    return pd.DataFrame(columns, index=pd.Index(list(task.classes), name="class"))


def _probabilistic(task: Task, codes: Codes, probability: Floats) -> dict[str, float]:
    """Score the probabilities themselves, not the class they lead to."""
    metrics = require("sklearn.metrics", "train")
    every = np.arange(len(task.classes))
    if task.kind == "multiclass":
        outcome, given = np.eye(len(every))[codes], probability  # (point, class)
        distribution = probability / probability.sum(axis=1, keepdims=True)
    else:
        outcome, given = codes[:, None].astype("float64"), probability[:, None]  # (point, 1)
        distribution = probability
    brier = float(np.square(given - outcome).sum(axis=1).mean())
    reference = float(np.square(outcome.mean(axis=0) - outcome).sum(axis=1).mean())
    bins = _reliability(task, codes, probability, BINS)
    gap = (bins["probability"] - bins["frequency"]).abs() * bins["count"]
    return {
        "brier": brier,
        "brier_skill": 1 - brier / reference if reference > 0 else np.nan,
        "log_loss": float(metrics.log_loss(codes, distribution, labels=every)),
        "ece": float(gap.sum() / len(codes)),
    }


def _reliability(task: Task, codes: Codes, probability: Floats, bins: int) -> pd.DataFrame:
    if task.kind == "multiclass":
        stated, true = probability.max(axis=1), predicted_codes(task, probability) == codes
    else:
        stated, true = probability, codes == 1
    edges = np.arange(bins + 1) / bins
    # A bin holds its upper edge, also where a share such as 0.3 has come through float32, which rounds it up.
    at = np.searchsorted(edges[1:-1] + np.finfo("float32").eps, stated)  # (point,)
    count = np.bincount(at, minlength=bins)
    means = [
        np.divide(np.bincount(at, values, bins), count, out=np.full(bins, np.nan), where=count > 0)
        for values in (stated, true.astype("float64"))
    ]
    columns = {"lower": edges[:-1], "upper": edges[1:], "probability": means[0], "frequency": means[1], "count": count}
    return pd.DataFrame(columns, index=pd.RangeIndex(bins, name="bin"))


def _regression(truth: Floats, predicted: Floats) -> dict[str, float]:
    metrics = require("sklearn.metrics", "train")
    return {
        "rmse": float(metrics.root_mean_squared_error(truth, predicted)),
        "mae": float(metrics.mean_absolute_error(truth, predicted)),
        "r2": float(metrics.r2_score(truth, predicted))
        if not is_rounding(np.ptp(truth), np.abs(truth).max(), "float64")
        else np.nan,
        "bias": float(np.mean(predicted - truth)),
    }
