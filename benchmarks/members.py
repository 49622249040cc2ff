"""What members cost in a map, and what their spread tells, beside several models that share nothing. SIMULATED.

    python benchmarks/members.py [--landscape 11] [--members 5] [--models 3] [--cost]

A map by a model with members against one by a model without, the same 768 x 768 pixels in memory, in turns; the ratio is of the least times. Weights do
not matter there. ``--cost`` ends here. Then models with the defaults of ``fit`` answer remote pixels of a landscape: one model, one with members, and
the mean of several. "Spread tells" is the area under the ROC curve with which the spread of permafrost tells wrong answers from right ones; a single
model has none, so how near its probability is to one half stands there.
"""

import argparse
import time

import numpy as np
import pandas as pd
import xarray as xr
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from spatial_cv_simulated import world

from misoxr.points.read import encode
from misoxr.spec import PERMAFROST, TAXONOMY

SIDE, TURNS = 768, 5


def ratio(cube: xr.Dataset, points: pd.DataFrame, members: int) -> tuple[float, float]:
    """Seconds of a map without members, and how many times longer it takes with them."""
    part = cube.isel(y=slice(0, SIDE), x=slice(0, SIDE)).compute()
    models = [cube.miso.fit("miso-nano", points, members=n, max_epochs=1, steps=2, progress=False) for n in (1, members)]
    times = np.full((TURNS, 2), np.inf)
    for turn in range(TURNS):
        for which, model in enumerate(models):
            start = time.perf_counter()
            part.miso.predict(model).compute()
            times[turn, which] = time.perf_counter() - start
    least = times.min(axis=0)
    return float(least[0]), float(least[1] / least[0])


def told(answers: xr.Dataset, labels: dict[str, np.ndarray]) -> dict[str, float]:
    """Scores of answers at points, and how well their spread tells what is wrong."""
    present, truth = answers.permafrost_probability.values, labels["permafrost"]
    orders, order = answers.taxonomy_probability.transpose("point", ...).values, labels["taxonomy"]
    known, classed = np.isfinite(truth) & np.isfinite(present), np.isfinite(order) & np.isfinite(orders).all(axis=1)
    wrong = (present >= 0.5) != (truth == 1)
    spread = answers.permafrost_std.values if "permafrost_std" in answers else -np.abs(present - 0.5)
    return {
        "permafrost PR-AUC": average_precision_score(truth[known], present[known]),
        "permafrost macro F1": f1_score(truth[known], present[known] >= 0.5, average="macro"),
        "taxonomy macro F1": f1_score(order[classed], orders[classed].argmax(axis=1), average="macro"),
        "spread tells": roc_auc_score(wrong[known], spread[known]),
    }


def main(landscape: int, members: int, models: int, cost: bool) -> None:
    """Print the ratio, and the table."""
    one = world(landscape, 800, 1500)
    seconds, times = ratio(one.cube, one.points, members)
    print(f"A map of {SIDE}² pixels: {seconds:.2f} s; with {members} members {times:.2f} times as long")
    if cost:
        return
    labels, rows = encode(one.far, [PERMAFROST, TAXONOMY]), {}
    start = time.perf_counter()
    several = [one.cube.miso.fit("miso-nano", one.points, seed=seed, progress=False) for seed in range(models)]
    between = time.perf_counter()
    shared = one.cube.miso.fit("miso-nano", one.points, members=members, progress=False)
    took = {
        "one model": (between - start) / models,
        f"{members} members": time.perf_counter() - between,
        f"{models} models": between - start,
    }
    for (name, fitted), model in zip(took.items(), (several[0], shared, several), strict=True):
        answers = one.cube.miso.predict_at(model, one.far[["geometry"]]).compute()
        rows[name] = told(answers, labels) | {"seconds of fits": fitted}
    print(f"SIMULATED: remote pixels of landscape {landscape}, no errors: a single landscape")
    print(pd.DataFrame(rows).T.round(3).to_string())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--landscape", type=int, default=11)
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--models", type=int, default=3)
    parser.add_argument("--cost", action="store_true")
    given = parser.parse_args()
    main(given.landscape, given.members, given.models, given.cost)
