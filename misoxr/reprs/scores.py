"""A cross-validation in a notebook: a table for each task, with errors, baselines and the difference to the best of these."""

from math import isfinite
from typing import Any

import pandas as pd

from misoxr.evaluation.scores import SHOWN, Scores
from misoxr.points.folds import briefly
from misoxr.reprs.cards import HTML, bold, card, fold, full, joined, line, named, numbers, short, table
from misoxr.spec import Task

__all__ = ["scores"]

MAIN = {"binary": "macro_f1", "multiclass": "macro_f1", "regression": "r2"}
"""The metric whose difference to the best baseline stands in the table."""


def scores(found: Scores) -> HTML:
    """Return scores as a card."""
    about, summary = found.about, found.summary()
    differences = found.differences()
    seeds = list(dict.fromkeys(found.predictions["seed"]))
    words = [
        f"{summary['folds'].max()} folds",
        f"{summary['points'].max():,} test points ({_labels(found)})",
        f"{len(seeds)} seed{'s' * (len(seeds) != 1)}",
    ]
    title = f"{briefly(about.get('cv', ''))}: {', '.join(words)}" if about.get("cv") else ", ".join(words)
    note = "Pooled over folds and averaged over seeds, ± the standard error over folds. The best of each column is bold."
    if len(differences):
        note += " Differences are taken fold by fold and averaged, so they are not those of the pooled scores."
    parts = [_task(found, task, summary, differences) for task in found.tasks]
    folded = [_differences(differences)] if len(differences) else []
    return card(
        "Scores", title, *parts, line(full(note), soft=True), *folded, _fits(found, summary), simulated=bool(about.get("simulated"))
    )


def _labels(found: Scores) -> str:
    """Return how many points have a label of each task."""
    counts = found.predictions.groupby("task")["point"].nunique()
    return ", ".join(f"{counts.get(task.name, 0):,} labels of {short(task.name, 30)}" for task in found.tasks[:4])


def _task(found: Scores, task: Task, summary: pd.DataFrame, differences: pd.DataFrame) -> HTML:
    """Return the scores of a task: a row for each model."""
    metrics = [metric for metric in SHOWN[task.kind] if f"{task.name} {metric}" in summary]
    if not metrics:
        return line(f"{task.name}: no scores", soft=True)
    errors = {metric: found.errors(metric, task.name) for metric in metrics}
    pooled = {metric: summary[f"{task.name} {metric}"] for metric in metrics}
    best = {metric: column.min() if metric == "rmse" else column.max() for metric, column in pooled.items()}
    ahead = _ahead(differences, task.name, MAIN[task.kind])
    rows = []
    for model in summary.index:
        cells: list[Any] = [_name(found, model)]
        for metric in metrics:
            told = _with_error(float(pooled[metric][model]), float(errors[metric][model]))
            cells.append(bold(told) if pooled[metric][model] == best[metric] else told)
        rows.append([*cells, *([ahead.get(model, "")] if ahead else [])])
    lead = [f"{MAIN[task.kind]} less best baseline"] if ahead else []
    headers = ["model", *[f"{metric}{' (least is best)' if metric == 'rmse' else ''}" for metric in metrics], *lead]
    return table(
        headers, rows, right=range(1, len(headers)), caption=f"{task.name}{f', {task.units}' if task.units != '1' else ''}"
    )


def _name(found: Scores, model: Any) -> HTML:
    mark = HTML(' <span class="mx-soft">baseline</span>') if model in found.about.get("baselines", ()) else ""
    return joined([named(model), mark])


def _with_error(value: float, error: float, sign: str = "") -> HTML:
    if not isfinite(value):
        return HTML("–")
    return numbers(f"{value:{sign}.3f}", *(["±", f"{error:.3f}"] if isfinite(error) else []))


def _ahead(differences: pd.DataFrame, task: str, metric: str) -> dict[str, HTML]:
    """Return by model how much better it is than the best baseline, in pairs of fold and seed."""
    if differences.empty:
        return {}
    mine = differences[(differences["task"] == task) & (differences["metric"] == metric)]
    rows = zip(mine["model"], mine["difference"], mine["fold_error"], strict=True)
    return {model: _with_error(float(difference), float(error), "+") for model, difference, error in rows}


def _differences(differences: pd.DataFrame) -> HTML:
    rows = [
        (
            named(one["model"]),
            one["task"],
            one["metric"],
            named(one["baseline"]),
            _with_error(float(one["difference"]), float(one["fold_error"]), "+"),
            f"{int(one['pairs'])}",
        )
        for one in differences.to_dict("records")
    ]
    headers = ("model", "task", "score", "best baseline", "difference", "pairs of fold and seed")
    note = line("Means of the differences in each fold, ± their standard error over folds.", soft=True)
    return fold("All differences to the best baseline", table(headers, rows, right=(4, 5)), note)


def _fits(found: Scores, summary: pd.DataFrame) -> HTML:
    rows = [
        (_name(found, model), int(one["folds"]), int(one["seeds"]), f"{int(one['points']):,}", f"{one['seconds']:,.1f} s")
        for model, one in summary.iterrows()
    ]
    return fold(
        "Models, and the mean time that a fold took", table(("model", "folds", "seeds", "points", "time"), rows, right=(1, 2, 3, 4))
    )
