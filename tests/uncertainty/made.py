"""Scores of models that never were: probabilities drawn at random, and truths drawn by them, so that all points are exchangeable."""

import numpy as np
import pandas as pd

from misoxr.evaluation.scores import Scores
from misoxr.spec import PERMAFROST, TAXONOMY, Task

CARBON = Task("carbon", "regression", units="kg m-2")
TASKS = (PERMAFROST, TAXONOMY, CARBON)


def rows(task, n, seed=0, model="m", fold_seed=0, side=1000.0, origin=(300_000.0, 1_499_000.0)):
    """The rows of a task in a square of so many metres."""
    rng = np.random.default_rng([seed, TASKS.index(task)])
    if task.kind == "regression":
        truth = rng.normal(10, 3, n)
        values = (truth + rng.normal(0, 1, n))[:, None]
    elif task.kind == "binary":
        values = rng.random((n, 1))
        truth = (rng.random(n) < values[:, 0]).astype(float)
    else:
        logits = 2 * rng.normal(size=(n, len(task.classes)))
        values = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        truth = (values.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=len(task.classes) - 1).astype(float)
    x, y = (start + side * rng.random(n) for start in origin)
    table = {"model": model, "seed": fold_seed, "fold": np.arange(n) % 3, "task": task.name, "point": np.arange(n), "x": x, "y": y}
    answers = {f"p{k}": values[:, k].astype("float32") if k < task.outputs else np.full(n, np.nan, "float32") for k in range(7)}
    return pd.DataFrame({**table, "region": None, "truth": truth, **answers, "seconds": 1.0})


def make_scores(n=200, seed=0, tasks=(PERMAFROST, TAXONOMY), identities=None, **about):
    """Scores of spatial folds; ``identities`` as ``cross_validate`` tells them."""
    table = pd.concat([rows(task, n, seed) for task in tasks], ignore_index=True)
    distance = {"least": 900.0, "median": 2000.0, "between": 100.0}
    told = {"cv": "ClusterKFold(distance=1000)", "crs": "EPSG:3338", "distance": distance, "identities": identities or {}}
    return Scores(table, tuple(tasks), told | about)
