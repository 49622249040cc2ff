"""Fits of `miso-nano` an hour in `cross_validate`, one after another and side by side, beside another checkout of misoxr.

    python benchmarks/fits.py [--old CHECKOUT] [--turns 1] [--teacher]

The landscape, points and settings of ``spatial_cv_simulated.py``, all simulated, and its five folds 10 km apart with two seeds: ten fits, one after another, and with
``n_jobs=-1`` where the checkout has it. Each run is a process of its own, in turns; the fastest counts. With ``--teacher``,
networks also learn from a forest, as by default. Pooled scores stand beside, for a faster fit is worth nothing if it learns less.
The last line is JSON.
"""

import argparse
import inspect
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

from spatial_cv_simulated import FAR_FOLDS, SETTINGS

from misoxr import simulate
from misoxr.evaluation.cross_validate import cross_validate
from misoxr.spec import COVARIATES, SENTINEL2


def run(side: int, n_jobs: int | None, teacher: bool) -> dict[str, float]:
    """Cross-validate, and tell fits an hour and macro F1 of each task; nothing where a checkout cannot do it."""
    if n_jobs is not None and "n_jobs" not in inspect.signature(cross_validate).parameters:
        return {}
    truth = simulate.landscape((side, side), pixel_size=40.0)
    points = simulate.points(truth, 800)
    cube = truth[[band.name for band in (*SENTINEL2, *COVARIATES)]]
    options = {"progress": False, **({} if teacher else SETTINGS), **({} if n_jobs is None else {"n_jobs": n_jobs})}
    start = time.perf_counter()
    scores = cube.miso.cross_validate("miso-nano", points, cv=FAR_FOLDS, seeds=2, **options)
    seconds = time.perf_counter() - start
    found = {"fits_an_hour": len(scores.predictions.groupby(["fold", "seed"])) * 3600 / seconds}
    for task in scores.tasks:
        pooled = scores.whole(task=task.name).query("fold == 'pooled' and metric == 'macro_f1'")
        found[f"{task.name}_macro_f1"] = float(pooled.value.mean())
    return found


def main(old: Path | None, turns: int, side: int, teacher: bool) -> None:
    """Run all in turns, and print the best of each."""
    here = Path(__file__).parent
    checkouts = {"new": here.parent} | ({} if old is None else {"old": old})
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(turns):
        for name, root in checkouts.items():
            for n_jobs in (None, -1):
                code = f"import json, warnings, fits; warnings.simplefilter('ignore'); print(json.dumps(fits.run({side}, {n_jobs}, {teacher})))"
                paths = os.pathsep.join(map(str, (root.resolve(), here)))
                done = subprocess.run(
                    [sys.executable, "-c", code],
                    env={**os.environ, "PYTHONPATH": paths},
                    stdout=subprocess.PIPE,
                    check=True,
                    cwd=here,
                )
                found.setdefault(f"{name}, n_jobs={n_jobs}", []).append(json.loads(done.stdout.splitlines()[-1]))
    best = {name: max(runs, key=lambda one: one["fits_an_hour"]) for name, runs in found.items() if runs[0]}
    for name, one in best.items():
        print(name, {key: round(value, 3 if value < 1 else 0) for key, value in one.items()})
    print(json.dumps({name: round(one["fits_an_hour"], 1) for name, one in best.items()}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--old", type=Path, help="another checkout")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--side", type=int, default=1500)
    parser.add_argument("--teacher", action="store_true", help="learn from a forest, too")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    main(arguments.old, arguments.turns, arguments.side, arguments.teacher)
