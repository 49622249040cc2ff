"""Cross-validation on a SIMULATED landscape with known truth: MISO against Random Forests, and the best that can be reached.

    python benchmarks/spatial_cv_simulated.py [--seeds 3] [--points 800] [--landscapes 0] [--workers 2] [--store demo/cv_simulated]

A landscape of 1,500 x 1,500 pixels of 40 m (60 x 60 km), and points clustered along roads and a river, as soil surveys are. Folds: three of random points; three
of points chained within 1 km; five of blocks of 20 km with a buffer of 10 km, so that every test point is 10 km or more from every training
point. Beside them, models of all points are scored against the truth in remote areas: 4,000 pixels drawn 10 km or more from every point.
The simulator was tuned so that the neighbourhood tells more than a pixel; a lead over a pixel's forest is by design, and says nothing of Alaska. "Bayes"
is what no model can beat by more than chance.

With ``--landscapes 8``, instead: 10 km folds and remote areas of landscapes 1 to 8, one seed each, in pairs of fold and landscape. Seeds of one
landscape say nothing of other places.

A table, paired differences over folds and seeds, and a line of JSON (recall of "present", macro F1) are printed. With ``--store``, an interrupted run goes on where it was.
"""

import argparse
import warnings
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr
from experiment import at_equal_alarms, json_line, paired, table, workers
from scipy.spatial import cKDTree
from scipy.special import expit, logit

from misoxr import BlockKFold, ClusterKFold, KFold, simulate
from misoxr.cube.presets import spec_for
from misoxr.errors import MisoxrWarning
from misoxr.estimators.baselines import Baseline, baseline
from misoxr.evaluation.scores import Scores
from misoxr.grid.geobox import geobox_of
from misoxr.points.folds import PredefinedFolds
from misoxr.points.read import place
from misoxr.spec import COVARIATES, PERMAFROST, SENTINEL2, SOIL_ORDERS, LossSpec

REMOTE, REMOTE_PIXELS = 10_000.0, 4000
FAR_FOLDS = BlockKFold(20_000, buffer=10_000)
SETTINGS = {"teacher": None, "max_epochs": 5, "val": 0.1}
CONTRAST = LossSpec((("visual", "location", 0.1), ("sat", "cov", 0.1)))
"""The paper's."""
OWN = {"transfer": False}
"""Every model of this experiment learns the labels of points alone; ``landscapes.py`` has teachers and transferred labels."""
OURS = ("MISO", "MISO with contrast")
BASELINES = ("RF-11", "RF-11 balanced", "RF balanced, neighbourhood, whitened")
METRICS = {
    "permafrost": ("accuracy", "recall", "macro_recall", "pr_auc", "roc_auc", "macro_f1", "ece"),
    "taxonomy": ("accuracy", "macro_recall", "pr_auc", "macro_f1", "ece"),
}
JUDGED = {"permafrost": ("recall", "macro_recall", "pr_auc", "macro_f1"), "taxonomy": ("macro_recall", "pr_auc", "macro_f1")}
"""Recall of "present" alone is bought by answering "present" everywhere; macro recall is the mean over both classes."""
CAUTIOUS = 0.2
"""From which probability on "present" is mapped where missing permafrost is worse than a false alarm; not tuned."""


def models(cube: xr.Dataset, points: gpd.GeoDataFrame) -> dict[str, object]:
    """The baselines, by the names of the table."""
    spec = spec_for("miso-nano", cube, points)
    forest, balanced = (baseline(name).estimator for name in ("rf-11", "rf-11-balanced"))
    return {
        "MISO": (spec, SETTINGS),
        "MISO with contrast": (replace(spec, losses=CONTRAST), {**SETTINGS, "unlabelled": 0.25}),
        "RF-11": (Baseline(forest), OWN),
        "RF-11 balanced": (Baseline(balanced), OWN),
        "RF balanced, neighbourhood, whitened": (Baseline(balanced, "neighbourhood", "whiten"), OWN),
        "coordinates alone": (Baseline(forest, "coordinates"), OWN),
    }


def remote_pixels(truth: xr.Dataset, points: gpd.GeoDataFrame, seed: int = 0) -> gpd.GeoDataFrame:
    """Draw pixels of dry ground far from every point, with the truth as labels."""
    step = 4
    x, y = np.meshgrid(truth.x.values[::step], truth.y.values[::step])
    distance, _ = cKDTree(np.stack([points.geometry.x, points.geometry.y], 1)).query(np.stack([x.ravel(), y.ravel()], 1))
    far = np.flatnonzero((distance >= REMOTE) & (truth.surface.values[::step, ::step].ravel() == 0))
    chosen = np.random.default_rng(seed).choice(far, min(REMOTE_PIXELS, len(far)), replace=False)
    row, column = np.unravel_index(chosen, x.shape)
    return gpd.GeoDataFrame(
        {
            "permafrost": truth.permafrost.values[::step, ::step][row, column].astype(float),
            "taxonomy": np.array(SOIL_ORDERS, dtype=object)[truth.taxonomy.values[::step, ::step][row, column]],
        },
        geometry=gpd.points_from_xy(x.ravel()[chosen], y.ravel()[chosen]),
        crs=points.crs,
    )


class World(NamedTuple):
    """A landscape, its points, its imagery, and the split of its points and remote pixels."""

    truth: xr.Dataset
    points: gpd.GeoDataFrame
    cube: xr.Dataset
    far: gpd.GeoDataFrame
    everything: gpd.GeoDataFrame
    remote: PredefinedFolds


def world(seed: int, count: int, side: int) -> World:
    """Simulate a landscape and points, and draw its remote pixels."""
    truth = simulate.landscape((side, side), pixel_size=40.0, seed=seed)
    points = simulate.points(truth, count, seed=seed)
    cube = truth[[band.name for band in (*SENTINEL2, *COVARIATES)]]
    far = remote_pixels(truth, points)
    placed, _, _ = place(points, geobox_of(cube))
    print(f"SIMULATED, seed {seed}: {side} x {side} pixels of 40 m, {len(points)} points, {len(far)} remote pixels", flush=True)
    everything = pd.concat([placed, far], ignore_index=True)
    split = PredefinedFolds([(np.arange(len(placed)), np.arange(len(placed), len(everything)))])
    return World(truth, points, cube, far, everything, split)


def over_landscapes(landscapes: int, count: int, side: int, store: Path | None, processes: int) -> None:
    """Print scores and paired differences over 10 km folds and in the remote areas of several landscapes, and the line of JSON."""
    parts: dict[str, list[pd.DataFrame]] = {"remote": [], "10 km": []}
    with workers(processes) as client:
        for seed in range(1, landscapes + 1):
            one = world(seed, count, side)
            splits = {"remote": (one.everything, one.remote), "10 km": (one.points, FAR_FOLDS)}
            for name, (where, cv) in splits.items():
                folder = None if store is None else store / name.replace(" ", "_") / f"landscape_{seed}"
                scores = one.cube.miso.cross_validate(models(one.cube, one.points), where, cv=cv, store=folder, client=client)
                parts[name].append(scores.predictions.assign(landscape=seed))
    report({name: Scores.joined(mine, scores.tasks, scores.about) for name, mine in parts.items()})


def report(found: dict[str, Scores]) -> None:
    """Print what landscapes came to."""
    # Scores are pooled over a landscape's folds. In differences a landscape stands for a fold, and its folds for seeds: so the error over
    # folds is one over landscapes, each the mean of its folds.
    pooled = {name: replace(one, predictions=one.predictions.assign(seed=one.predictions.landscape)) for name, one in found.items()}
    pairs = {
        name: replace(one, predictions=one.predictions.assign(fold=one.predictions.landscape, seed=one.predictions.fold))
        for name, one in found.items()
    }
    for task, metrics in JUDGED.items():
        print(f"\n{task}, SIMULATED labels; pooled over folds, mean over landscapes (seeds)")
        print(table(pooled, task, METRICS[task]).to_string(index=False, float_format="%.3f"))
        for name, one in pairs.items():
            print(f"\n{task}, {name}: differences in pairs of landscape and fold; fold_error is over landscapes")
            both = pd.concat([paired(one, task, OURS, BASELINES, metrics), paired(one, task, OURS[1:], OURS[:1], metrics)])
            print(both.to_string(index=False, float_format="%.4f"))
    for name, one in pairs.items():
        print(f"\npermafrost, {name}: recall at as many false alarms as the baseline's")
        print(at_equal_alarms(one, PERMAFROST.name, OURS, BASELINES).to_string(index=False, float_format="%.4f"))
    print(json_line("simulated", pooled, PERMAFROST.name, "recall", "macro_f1"))


def bayes(truth: xr.Dataset, points: gpd.GeoDataFrame) -> dict[str, float]:
    """The best scores, rounded."""
    return {name: round(value, 3) for name, value in simulate.bayes_scores(truth, points).items()}


def cautious(scores: Scores) -> Scores:
    """Add every model as it is where "present" is mapped from a lower probability than 0.5 on.

    Odds are moved by one factor, as ``Model.with_prevalence`` does; ranks stay, and so do ROC-AUC and PR-AUC.
    """
    mine = scores.predictions[scores.predictions.task == PERMAFROST.name]
    moved = expit(logit(mine.p0.clip(1e-7, 1 - 1e-7)) - logit(CAUTIOUS))
    named = mine.assign(p0=moved, model=[cautiously(model) for model in mine.model])
    return Scores.joined([mine, named], [scores.task(PERMAFROST.name)], scores.about)


def cautiously(model: str) -> str:
    """The name of a model whose "present" begins at the lower probability."""
    return f"{model}, from {CAUTIOUS}"


def main(seeds: int, count: int, side: int, store: Path | None, processes: int) -> None:
    """Run, and print the tables, the differences and the line of JSON."""
    truth, points, cube, far, everything, remote = world(0, count, side)
    splits = {
        "10 km": (points, FAR_FOLDS),
        "remote": (everything, remote),
        "1 km": (points, ClusterKFold(1_000, n_splits=3)),
        "random": (points, KFold(3)),
    }
    found: dict[str, Scores] = {}
    with workers(processes) as client:
        for name, (where, cv) in splits.items():
            folder = None if store is None else store / name.replace(" ", "_")
            found[name] = cube.miso.cross_validate(
                models(cube, points), where, cv=cv, seeds=range(seeds), store=folder, client=client
            )
    averaged = {f"{name}, {seeds} seeds averaged": one.averaged() for name, one in found.items()}
    for task, metrics in METRICS.items():
        print(f"\n{task}, SIMULATED labels; pooled over folds, mean over seeds")
        print(table({**found, **averaged}, task, metrics).to_string(index=False, float_format="%.3f"))
    print(f"\nBayes, at the points: {bayes(truth, points)}; remote: {bayes(truth, far)}")
    for task, metrics in JUDGED.items():
        for name, one in found.items():
            print(f"\n{task}, {name}: differences in pairs of fold and seed")
            compared = pd.concat([paired(one, task, OURS, BASELINES, metrics), paired(one, task, OURS[1:], OURS[:1], metrics)])
            print(compared.to_string(index=False, float_format="%.4f"))
    print(f"\npermafrost, SIMULATED labels; 'present' from 0.5 and from {CAUTIOUS} on; pooled over folds, mean over seeds")
    both = {name: cautious(found[name]) for name in ("10 km", "remote")}
    shown = ("recall", "precision", "macro_recall", "pr_auc", "macro_f1")
    print(table(both, PERMAFROST.name, shown).to_string(index=False, float_format="%.3f"))
    for name, one in both.items():
        print(
            f"\npermafrost, {name}: 'present' from {CAUTIOUS} on against 0.5, and recall at as many false alarms as the baseline's"
        )
        ours = [cautiously(model) for model in OURS]
        compared = paired(one, PERMAFROST.name, ours, (*BASELINES, *map(cautiously, BASELINES)), JUDGED["permafrost"])
        print(
            pd.concat([compared, at_equal_alarms(one, PERMAFROST.name, OURS, BASELINES)]).to_string(
                index=False, float_format="%.4f"
            )
        )
    print(json_line("simulated", found, PERMAFROST.name, "recall", "macro_f1"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--points", type=int, default=800)
    parser.add_argument("--side", type=int, default=1500)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--landscapes", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", MisoxrWarning)
    where = arguments.points, arguments.side, arguments.store, arguments.workers
    if arguments.landscapes:
        over_landscapes(arguments.landscapes, *where)
    else:
        main(arguments.seeds, *where)
