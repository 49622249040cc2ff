"""Scores of predicted probabilities against labels."""

import numpy as np
import numpy.typing as npt

from misoxr.errors import PointsError, require
from misoxr.spec import Task

__all__ = ["scores"]

Floats = npt.NDArray[np.float64]


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
        Binary: accuracy, balanced_accuracy, precision, recall, f1, roc_auc, pr_auc (average precision), with a threshold of
        0.5. Multiclass: accuracy, balanced_accuracy, macro_precision, macro_recall, macro_f1 (means over the classes that
        occur in the truth), weighted_f1, micro_f1. Regression: rmse, mae, r2. NaN where a score is not defined.

    Raises
    ------
    PointsError
        If no truth is known, the shapes differ, or a prediction of a known point is missing.
    """
    labels, predicted = np.asarray(truth, dtype="float64"), np.asarray(probability, dtype="float64")
    expected = (len(labels), len(task.classes)) if task.kind == "multiclass" else (len(labels),)
    if labels.ndim != 1 or predicted.shape != expected:
        raise PointsError(f"Predictions of {task.name!r} have shape {predicted.shape}, and {labels.shape} labels need {expected}.")
    known = np.isfinite(labels)
    if not known.any():
        raise PointsError(f"None of {len(labels)} points has a label of {task.name!r}, so nothing can be scored.")
    labels, predicted = labels[known], predicted[known]
    missing = ~np.isfinite(predicted.reshape(len(labels), -1)).all(axis=1)
    if missing.any():
        raise PointsError(
            f"{int(missing.sum())} of {len(labels)} labelled points have no prediction of {task.name!r} (nodata); leave them out first."
        )
    by_kind = {"binary": _binary, "multiclass": _multiclass, "regression": _regression}
    return by_kind[task.kind](labels, predicted)


def _binary(truth: Floats, probability: Floats) -> dict[str, float]:
    metrics = require("sklearn.metrics", "train")
    predicted = (probability >= 0.5).astype("float64")
    return {
        "accuracy": float(metrics.accuracy_score(truth, predicted)),
        "balanced_accuracy": float(metrics.recall_score(truth, predicted, average="macro", labels=np.unique(truth))),
        "precision": float(metrics.precision_score(truth, predicted, zero_division=0)),
        "recall": float(metrics.recall_score(truth, predicted, zero_division=0)),
        "f1": float(metrics.f1_score(truth, predicted, zero_division=0)),
        "roc_auc": float(metrics.roc_auc_score(truth, probability)) if len(np.unique(truth)) == 2 else np.nan,
        "pr_auc": float(metrics.average_precision_score(truth, probability)) if truth.any() else np.nan,
    }


def _multiclass(truth: Floats, probability: Floats) -> dict[str, float]:
    metrics = require("sklearn.metrics", "train")
    predicted = probability.argmax(axis=1).astype("float64")
    present = {"labels": np.unique(truth), "zero_division": 0}
    recall = float(metrics.recall_score(truth, predicted, average="macro", **present))
    return {
        "accuracy": float(metrics.accuracy_score(truth, predicted)),
        "balanced_accuracy": recall,
        "macro_precision": float(metrics.precision_score(truth, predicted, average="macro", **present)),
        "macro_recall": recall,
        "macro_f1": float(metrics.f1_score(truth, predicted, average="macro", **present)),
        "weighted_f1": float(metrics.f1_score(truth, predicted, average="weighted", **present)),
        "micro_f1": float(metrics.f1_score(truth, predicted, average="micro")),
    }


def _regression(truth: Floats, predicted: Floats) -> dict[str, float]:
    error = predicted - truth
    spread = float(np.square(truth - truth.mean()).sum())
    return {
        "rmse": float(np.sqrt(np.mean(np.square(error)))),
        "mae": float(np.mean(np.abs(error))),
        "r2": 1 - float(np.square(error).sum()) / spread if spread > 0 else np.nan,
    }
