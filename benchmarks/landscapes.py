"""MISO with its defaults against every baseline with a name, on SIMULATED landscapes: over 10 km folds and in remote areas.

    python benchmarks/landscapes.py 14-16 [--folds remote "10 km"] [--workers 2] [--store demo/landscapes] [--csv FILE]

Landscapes, points, folds and remote pixels are those of ``spatial_cv_simulated.py``. Nothing is set but the defaults of ``fit``: "miso-nano" learns
from its teacher. Labels are transferred for every model, but for "rf-neighbourhood, own labels" and RF-11. A landscape is one
replicate: scores are pooled over its folds first, and the standard error is over landscapes. Beside the network stands its mean with its
teacher, as ``predict([network, teacher])`` maps it.

Landscapes 11 to 13 chose the settings, 14 to 16 confirm them, and 21 to 28 are looked at once, when the design is fixed.
"""

import argparse
import time
from itertools import product
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr
from experiment import workers
from spatial_cv_simulated import FAR_FOLDS, world

from misoxr.evaluation.scores import Scores

MODELS = {
    "miso-nano": "miso-nano",
    "RF-11": ("rf-11", {"transfer": False}),
    "rf-neighbourhood, own labels": ("rf-neighbourhood", {"transfer": False}),
    "rf-neighbourhood": "rf-neighbourhood",
    "vote-neighbourhood": "vote-neighbourhood",
    "boosting-neighbourhood": "boosting-neighbourhood",
    "rf-coordinates": "rf-coordinates",
}
OURS, TEACHER = "miso-nano", "vote-neighbourhood"
TOGETHER = f"{OURS} + {TEACHER}"
"""The mean of the network's and its teacher's answers, which needs no fit more."""
JUDGED = [("permafrost", "pr_auc"), ("permafrost", "macro_f1"), ("taxonomy", "macro_f1"), ("taxonomy", "macro_recall")]
BESIDE = [("permafrost", "ece"), ("permafrost", "brier"), ("taxonomy", "pr_auc")]


def map_costs(cube: xr.Dataset, points: gpd.GeoDataFrame) -> pd.Series:
    """Microseconds of a map's pixel by model, on all cores: the same 512 x 512 pixels, in memory. Weights do not matter, so training is short."""
    part = cube.isel(y=slice(0, 512), x=slice(0, 512)).compute()
    costs = {}
    for name, one in MODELS.items():
        estimator, options = one if isinstance(one, tuple) else (one, {})
        short = {"max_epochs": 1, "steps": 4, "progress": False} if estimator == OURS else {}
        model = cube.miso.fit(estimator, points, **options, **short)
        part.isel(y=slice(0, 128), x=slice(0, 128)).miso.predict(model).compute()
        start = time.perf_counter()
        part.miso.predict(model).compute()
        costs[name] = (time.perf_counter() - start) / 512**2 * 1e6
    return pd.Series(costs, name="microseconds")


def tabulated(found: dict[str, dict[int, Scores]]) -> pd.DataFrame:
    """Tabulate each score of each model, pooled over a landscape's folds, its mean over landscapes, and our lead with its error."""
    rows = []
    for folds, by_landscape in found.items():
        for task, metric in JUDGED + BESIDE:
            values = pd.DataFrame({number: pooled(one, task, metric) for number, one in by_landscape.items()}).T
            for ours, model in product((OURS, TOGETHER), values):
                lead = values[ours] - values[model]
                rows.append(
                    {
                        "folds": folds,
                        "task": task,
                        "metric": metric,
                        "model": model,
                        "landscapes": len(values),
                        "value": values[model].mean(),
                        "ours": ours,
                        "lead": lead.mean(),
                        "lead_error": lead.std(ddof=1) / len(lead) ** 0.5,
                    }
                )
    return pd.DataFrame(rows)


def pooled(scores: Scores, task: str, metric: str) -> pd.Series:
    """A score of each model, pooled over folds."""
    whole = scores.whole(metric, task)
    return whole[whole.fold == "pooled"].groupby("model").value.mean()


def main(landscapes: list[int], kinds: list[str], store: Path | None, csv: Path | None, processes: int) -> None:
    """Run, and print the table."""
    found: dict[str, dict[int, Scores]] = {kind: {} for kind in kinds}
    seconds: list[pd.Series] = []
    with workers(processes) as client:
        for number in landscapes:
            one = world(number, 800, 1500)
            splits = {"remote": (one.everything, one.remote), "10 km": (one.points, FAR_FOLDS)}
            for kind in kinds:
                where, cv = splits[kind]
                folder = None if store is None else store / kind.replace(" ", "_") / f"landscape_{number}"
                scores = one.cube.miso.cross_validate(MODELS, where, cv=cv, store=folder, client=client, progress=False)
                scores = scores.with_mean(OURS, TEACHER)
                found[kind][number] = scores
                seconds.append(scores.summary().seconds)
                print(f"landscape {number}, {kind}\n{scores}", flush=True)
    mapped = map_costs(one.cube, one.points)
    mapped[TOGETHER] = mapped[OURS] + mapped[TEACHER]
    costs = pd.concat([pd.DataFrame(seconds).mean().rename("seconds"), mapped], axis=1)
    table = tabulated(found).merge(costs, left_on="model", right_index=True)
    if csv is not None:
        table.round(4).to_csv(csv, index=False)
    print(
        "\nSIMULATED. Pooled over folds, means over landscapes; lead is ours less the model, with its standard error over landscapes. "
        "Seconds of a fit with its answers at test points; microseconds of a map's pixel"
    )
    with pd.option_context("display.width", 200):
        print(table.to_string(index=False, float_format="%.3f"))


def numbers(text: str) -> list[int]:
    """Read "14-16" or "3"."""
    first, _, last = text.partition("-")
    return np.arange(int(first), int(last or first) + 1).tolist()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("landscapes", type=numbers)
    parser.add_argument("--folds", nargs="+", choices=("remote", "10 km"), default=("remote", "10 km"))
    parser.add_argument("--store", type=Path)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    main(given.landscapes, list(given.folds), given.store, given.csv, given.workers)
