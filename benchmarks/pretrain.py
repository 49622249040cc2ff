"""miso-nano from pre-trained encoders against random ones, on SIMULATED landscapes, in remote areas.

    python benchmarks/pretrain.py 11 [--points 800 200] [--steps 1000] [--store demo/pretrain] [--csv FILE]

Landscapes, points and remote pixels are those of ``spatial_cv_simulated.py``; fewer points are drawn from the 800 at random. Encoders are pre-trained
once a landscape on windows from anywhere, those of remote areas among them. Each model is fitted with its default teacher and without one.
Landscapes 11 to 13 may choose settings; 14 and later may not. A landscape is one replicate: the values of one alone have no error.
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from landscapes import JUDGED, numbers, pooled
from spatial_cv_simulated import World, world

from misoxr.errors import MisoxrWarning
from misoxr.points.folds import PredefinedFolds


def models(weights: dict[str, Path]) -> dict[str, object]:
    """The four models, by the names of the table."""
    return {
        "no teacher": ("miso-nano", {"teacher": None}),
        "no teacher, pre-trained": ("miso-nano", {"teacher": None, "pretrained": weights}),
        "teacher": "miso-nano",
        "teacher, pre-trained": ("miso-nano", {"pretrained": weights}),
    }


def fewer(one: World, count: int) -> PredefinedFolds:
    """The remote split with so many of its training points."""
    ((train, test),) = one.remote.folds
    return PredefinedFolds([(np.sort(np.random.default_rng(0).permutation(train)[:count]), test)])


def main(landscapes: list[int], counts: list[int], steps: int, store: Path | None, csv: Path | None) -> None:
    """Run, and print the table."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(store or temporary)
        for number in landscapes:
            one = world(number, 800, 1500)
            start = time.perf_counter()
            weights = one.cube.miso.pretrain("miso-nano", folder / f"landscape_{number}/encoders", steps=steps, progress=False)
            print(f"landscape {number}: encoders in {time.perf_counter() - start:.0f} s", flush=True)
            for count in counts:
                kept = folder / f"landscape_{number}/{count}"
                scores = one.cube.miso.cross_validate(
                    models(weights), one.everything, cv=fewer(one, count), store=kept, progress=False
                )
                seconds = scores.summary().seconds
                found = {f"{task} {metric}": pooled(scores, task, metric) for task, metric in JUDGED}
                rows.append(pd.DataFrame({**found, "seconds": seconds}).assign(landscape=number, points=count))
                print(rows[-1].to_string(float_format="%.3f"), flush=True)
    table = pd.concat(rows).rename_axis("model").reset_index()
    if csv is not None:
        table.round(4).to_csv(csv, index=False)
    print("\nSIMULATED. Remote areas, means over landscapes")
    print(table.groupby(["points", "model"]).mean(numeric_only=True).drop(columns="landscape").to_string(float_format="%.3f"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("landscapes", type=numbers)
    parser.add_argument("--points", type=int, nargs="+", default=[800, 200])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--csv", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore", MisoxrWarning)
    main(given.landscapes, given.points, given.steps, given.store, given.csv)
