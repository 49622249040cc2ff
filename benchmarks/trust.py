"""What maps promise of themselves, checked in remote areas of SIMULATED landscapes: prediction sets, and the area of applicability.

    python benchmarks/trust.py 11-16 [--random 11-14] [--models miso-nano …] [--workers 2] [--store demo/trust] [--csv FOLDER]

Landscapes, points, 10 km folds and remote pixels are those of ``landscapes.py``. Sets are calibrated on the answers of a cross-validation: over 10 km
folds and, on the landscapes that ``--random`` names, over random ones. They are then asked for at the remote pixels, which a model of all points answers.
A class counts where it has 50 calibration points and 50 remote pixels or more. The area of applicability is that of the points, with the 10 km folds.
A landscape is one replicate, so errors are over landscapes.

Landscapes 11 to 16 chose the method; 31 to 38 are looked at once. With ``--store``, folds that are there are not run again.
"""

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from experiment import workers
from landscapes import numbers
from spatial_cv_simulated import FAR_FOLDS, World, world

from misoxr import KFold
from misoxr.errors import MisoxrWarning
from misoxr.evaluation.scores import Scores
from misoxr.spec import Task
from misoxr.uncertainty import calibrated, evaluated, training_dissimilarity

COVERAGE, ENOUGH = 0.9, 50
METHODS = ("plain", "aps", "raps")
MODELS = ("miso-nano", "rf-neighbourhood", "vote-neighbourhood")
SPACES = ("bands", "neighbourhood")
PARTS = 4
"""Groups of the remote pixels by their dissimilarity, equally many in each."""


def answered(one: World, number: int, model: str, kind: str, store: Path | None, client: Any) -> Scores:
    """Answer at the test points of the folds, or at the remote pixels."""
    where, cv = {"remote": (one.everything, one.remote), "10 km": (one.points, FAR_FOLDS), "random": (one.points, KFold(3))}[kind]
    folder = None if store is None else store / model / kind.replace(" ", "_") / f"landscape_{number}"
    return one.cube.miso.cross_validate({model: model}, where, cv=cv, store=folder, client=client, progress=False)


def sets(learnt: Scores, remote: Scores) -> pd.DataFrame:
    """Tabulate coverage and size at the remote pixels by method, task and class; the number of calibration points beside them."""
    rows = []
    counts = learnt.predictions.groupby(["task", "truth"]).size()
    for method in METHODS:
        for by in (None, "class"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", MisoxrWarning)  # random folds, and classes without points
                found = evaluated(calibrated(learnt, by=by, method=method), remote, COVERAGE).reset_index()
            rows.append(found.assign(method=method, by=by or "all"))
    table = pd.concat(rows, ignore_index=True)
    codes = {(task.name, name): code for task in learnt.tasks for code, name in enumerate(task.classes)}
    table["calibration"] = [
        counts.get((task, codes.get((task, name))), counts[task].sum()) if name == "all" or (task, name) in codes else 0
        for task, name in zip(table["task"], table["class"], strict=True)
    ]
    return table


def over_landscapes(table: pd.DataFrame, keys: list[str], values: list[str]) -> pd.DataFrame:
    """Return means over landscapes, with their standard errors."""
    each = table.groupby(["landscape", *keys], sort=False)[values].mean()
    groups = each.groupby(keys, sort=False)
    mean, error = groups.mean(), groups.std(ddof=1) / np.sqrt(groups.count())
    both = mean.join(error.add_suffix("_error"))
    return both[[name for value in values for name in (value, f"{value}_error")]].assign(landscapes=groups.size()).reset_index()


def applicability(one: World, model: str, learnt: Scores, remote: Scores) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tabulate errors at remote pixels inside and outside the area of applicability, and by dissimilarity; and error profiles of the folds."""
    forest = one.cube.miso.fit(
        "rf-neighbourhood", one.points
    )  # whose bands and features are compared; what it answers plays no part
    rows, profiles = [], []
    places = {axis: xr.DataArray(getattr(one.far.geometry, axis).to_numpy(), dims="point") for axis in ("x", "y")}
    for space in SPACES:
        applies = one.cube.miso.applicability(forest, one.points, cv=FAR_FOLDS, space=space)
        there = applies.sel(**places, method="nearest").compute()
        index = pd.Series(there.dissimilarity_index.to_numpy(), one.everything.index[-len(one.far) :])
        own = training_dissimilarity(one.cube, forest, one.points, cv=FAR_FOLDS, space=space)
        for task in remote.tasks:
            mine = remote.predictions[remote.predictions.task == task.name]
            wrong = pd.Series((answer_codes(mine, task) != mine.truth).to_numpy(dtype=float), mine.point.map(index).to_numpy())
            outside = wrong.index.to_numpy() > applies.attrs["threshold"]
            row = {"space": space, "task": task.name, "outside": outside.mean(), "error inside": wrong[~outside].mean()}
            row |= {"error outside": wrong[outside].mean() if outside.any() else np.nan}
            parts = np.array_split(wrong.sort_index(kind="stable").to_numpy(), PARTS)
            rows.append(row | {f"error {at + 1} of {PARTS}": part.mean() for at, part in enumerate(parts)})
            profile = learnt.error_profile(own, task=task.name, name=model)
            off = ((profile.score - profile.fitted).abs() / profile.standard_error.replace(0, np.nan)).dropna()
            told = {
                "rise": profile.fitted.iloc[-1] - profile.fitted.iloc[0],
                "within two errors": (off <= 2).mean(),
                "farthest, errors": off.max(),
            }
            profiles.append({"space": space, "task": task.name, **told})
    inside = pd.DataFrame(rows)
    return inside.assign(difference=inside["error outside"] - inside["error inside"]), pd.DataFrame(profiles)


def answer_codes(rows: pd.DataFrame, task: Task) -> pd.Series:
    """Return the class of the map at each row."""
    if task.kind == "binary":
        return (rows.p0 >= 0.5).astype(float)
    return pd.Series(rows[[f"p{code}" for code in range(len(task.classes))]].to_numpy().argmax(axis=1), rows.index).astype(float)


def main(landscapes: list[int], random: list[int], models: list[str], store: Path | None, csv: Path | None, processes: int) -> None:
    """Run, and print the tables."""
    covered, errors, profiles = [], [], []
    with workers(processes) as client:
        for number in landscapes:
            one = world(number, 800, 1500)
            for model in models:
                remote = answered(one, number, model, "remote", store, client)
                for kind in ("10 km", "random") if number in random else ("10 km",):
                    learnt = answered(one, number, model, kind, store, client)
                    covered.append(sets(learnt, remote).assign(landscape=number, model=model, folds=kind))
                    if kind == "10 km":
                        inside, profile = applicability(one, model, learnt, remote)
                        errors.append(inside.assign(landscape=number, model=model))
                        profiles.append(profile.assign(landscape=number, model=model))
    print("\nSIMULATED. Means over landscapes with their standard errors. Sets at remote pixels, asked for a coverage of 0.9")
    report(pd.concat(covered, ignore_index=True), pd.concat(errors, ignore_index=True), pd.concat(profiles, ignore_index=True), csv)


def report(covered: pd.DataFrame, errors: pd.DataFrame, profiles: pd.DataFrame, csv: Path | None) -> None:
    """Print and keep the tables."""
    enough = covered[(covered["class"] == "all") | ((covered.calibration >= ENOUGH) & (covered.points >= ENOUGH))]
    keys = ["folds", "model", "task", "method", "by", "class"]
    tables = {
        "sets": over_landscapes(enough, keys, ["coverage", "size", "empty"]),
        "applicability": over_landscapes(
            errors, ["model", "space", "task"], [name for name in errors if name not in ("landscape", "model", "space", "task")]
        ),
        "profiles": over_landscapes(profiles, ["model", "space", "task"], ["rise", "within two errors", "farthest, errors"]),
    }
    with pd.option_context("display.width", 250, "display.max_columns", None, "display.max_rows", None):
        for name, table in tables.items():
            print(f"\n{name}\n{table.to_string(index=False, float_format='%.3f')}")
            if csv is not None:
                csv.mkdir(parents=True, exist_ok=True)
                table.round(4).to_csv(csv / f"trust-{name}.csv", index=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("landscapes", type=numbers)
    parser.add_argument("--random", type=numbers, default=[])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    main(given.landscapes, given.random, list(given.models), given.store, given.csv, given.workers)
