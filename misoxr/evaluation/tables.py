"""Tables of scores: means of answers, errors over folds, and differences in words."""

from typing import Any

import numpy as np
import pandas as pd

from misoxr.spec import Task

__all__ = ["arrays_of", "fold_errors", "in_words", "mean_answers"]


def in_words(differences: pd.DataFrame) -> pd.DataFrame:
    """Return differences as text: a row for each model, a column for each score."""
    parts = zip(differences["difference"], differences["fold_error"], differences["baseline"], strict=True)
    words = [f"{mean:+.3f} {f'± {error:.3f} ' if np.isfinite(error) else ''}({baseline})" for mean, error, baseline in parts]
    named = differences.assign(score=differences["task"] + " " + differences["metric"], words=words)
    table: pd.DataFrame = named.pivot(index="model", columns="score", values="words")[list(dict.fromkeys(named["score"]))]
    return table.loc[list(dict.fromkeys(named["model"]))].rename_axis(None).rename_axis(None, axis=1)


def fold_errors(table: pd.DataFrame) -> pd.Series:
    """Return the standard error of each model's score over folds, a fold's seeds averaged first; NaN of one fold.

    Parameters
    ----------
    table : DataFrame
        Of one score: ``model``, ``fold`` and ``value``; rows pooled over folds play no part.
    """
    folds = table[table["fold"] != "pooled"].groupby(["model", "fold"], sort=False)["value"].mean().groupby("model", sort=False)
    return folds.std(ddof=1) / folds.count() ** 0.5


def mean_answers(predictions: pd.DataFrame) -> pd.DataFrame:
    """Average answers that differ in nothing but the model or seed they came from; their times add up."""
    answers = [name for name in predictions if str(name).startswith("p") and str(name)[1:].isdigit()]
    places = [name for name in ("x", "y") if name in predictions]
    groups = predictions.groupby(["model", "seed", "fold", "task", "point", *places, "region", "truth"], sort=False, dropna=False)
    mean = groups[answers].mean().assign(seconds=groups["seconds"].sum()).reset_index()
    return mean[predictions.columns]


def arrays_of(part: pd.DataFrame, task: Task) -> tuple[Any, Any]:
    """Return truth (point,) and answers (point,), or (point, class) of several classes."""
    answers = part[[f"p{k}" for k in range(task.outputs)]].to_numpy(dtype="float64")
    return part["truth"].to_numpy(dtype="float64"), answers if task.kind == "multiclass" else answers[:, 0]
