"""What the two experiments of cross-validation share: tables, the line of JSON, and processes that run folds."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from misoxr.evaluation.scores import Scores, compared

__all__ = ["at_equal_alarms", "json_line", "paired", "table", "with_averages", "workers"]


@contextmanager
def workers(count: int) -> Iterator[Any]:
    """Give a client of so many processes with a thread each, which run a fold at a time; none for 1."""
    if count == 1:
        yield None
        return
    from distributed import Client, LocalCluster

    local = {"host": "127.0.0.1", "dashboard_address": None}
    with LocalCluster(n_workers=count, threads_per_worker=1, processes=True, **local) as cluster, Client(cluster) as client:
        yield client


def table(found: Mapping[str, Scores], task: str, metrics: tuple[str, ...]) -> pd.DataFrame:
    """Tabulate pooled scores, the mean over seeds, of every set of folds and model."""
    rows = []
    for folds, scores in found.items():
        tidy = scores.whole(task=task).query("fold == 'pooled'")
        for model in scores.models:
            mine = tidy[tidy.model == model]
            row = {"folds": folds, "model": model, "seeds": mine.seed.nunique(), "points": int(mine.points.max())}
            rows.append(row | {metric: mine[mine.metric == metric].value.mean() for metric in metrics})
    return pd.DataFrame(rows)


def with_averages(scores: Scores, model: str, each: int) -> Scores:
    """Put averages of so many seeds of a model beside it, as a model of its own."""
    one = Scores(scores.predictions[scores.predictions.model == model], scores.tasks, scores.about)
    mine = one.averaged(each).predictions.assign(model=f"{model}, {each} averaged")
    return Scores.joined([scores.predictions, mine], scores.tasks, scores.about)


def paired(scores: Scores, task: str, ours: Sequence[str], baselines: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """Tabulate differences of two models in pairs of fold and seed, with their standard errors."""
    rows = []
    for one in ours:
        for other in baselines:
            for metric in metrics:
                found = scores.compare(one, other, metric, task)
                rows.append({"model": one, "minus": other, "metric": metric, **found.to_dict()})
    return pd.DataFrame(rows)


def at_equal_alarms(scores: Scores, task: str, ours: Sequence[str], baselines: Sequence[str]) -> pd.DataFrame:
    """Tabulate differences in recall of a binary task's second class at equal shares of false alarms, in pairs of fold and seed.

    A difference is the mean of two: ours at the false alarms of the baseline's map (from 0.5 on) less that map's recall, and our map's recall
    less the baseline's at our false alarms, so that equals differ by 0. It compares how models rank points, by the labels of the test
    points; nobody can choose these probabilities beforehand. Folds of one class are left out.
    """
    mine = scores.predictions[scores.predictions.task == task]
    parts = {key: part for key, part in mine.groupby(["model", "fold", "seed"]) if part.truth.nunique() == 2}
    rows = []
    for one, other in product(ours, baselines):
        keys = [key[1:] for key in parts if key[0] == one and (other, *key[1:]) in parts]
        pairs = [(parts[one, *key], parts[other, *key]) for key in keys]
        leads = pd.Series(
            [(_lead(a, b) - _lead(b, a)) / 2 for a, b in pairs], pd.MultiIndex.from_tuples(keys, names=["fold", "seed"])
        )
        rows.append({"model": one, "minus": other, "metric": "recall at equal false alarms", **compared(leads).to_dict()})
    return pd.DataFrame(rows)


def _lead(one: pd.DataFrame, other: pd.DataFrame) -> float:
    """Recall of one where it gives as many false alarms as the other's map, less that map's recall."""
    alarms, recall = ((other.p0[other.truth == truth] >= 0.5).mean() for truth in (0, 1))
    false, true, _ = roc_curve(one.truth, one.p0, drop_intermediate=False)
    return float(np.interp(alarms, false, true) - recall)


def json_line(data: str, found: Mapping[str, Scores], task: str, recall: str, f1: str) -> str:
    """Return the line of JSON: one entry for each set of folds, model and seed, with the scores named; seconds are those of all folds."""
    entries = []
    for folds, scores in found.items():
        tidy = scores.whole(task=task).query("fold == 'pooled'")
        taken = scores.predictions.groupby(["model", "seed", "fold"]).seconds.first().groupby(["model", "seed"]).sum()
        for (model, seed), mine in tidy.groupby(["model", "seed"], sort=False):
            value = mine.set_index("metric").value
            entry = {"data": data, "folds": folds, "model": model, "seed": int(seed)}
            entry |= {name: round(float(value[key]), 4) for name, key in (("recall", recall), ("f1", f1), ("accuracy", "accuracy"))}
            entries.append(entry | {"seconds": round(float(taken[model, seed]), 1)})
    return json.dumps(entries)
