"""The demo's scores with covariates that are computed from its DEM, and with those that its simulator knows. All is SIMULATED.

    python benchmarks/demo_covariates.py [--seeds 3] [--directory demo/covariates]

One landscape, the demo's; "miso-nano" is fitted with each seed to both cubes. Scores are those of the demo, on blocks 10 km or more from every training point; differences
have their standard error over seeds. The stream power and wetness indices differ by definition: the simulator fills pits and routes water to one neighbour.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
import xarray as xr

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from demo import SHAPE, answers, composite, observed, split, step, with_covariates
from servers import range_server, stac_api

import misoxr
from misoxr import simulate
from misoxr.metrics import scores
from misoxr.points.read import encode
from misoxr.spec import PERMAFROST, TAXONOMY


def cubes(directory: Path) -> tuple[dict[str, xr.Dataset], Path]:
    """Make both cubes, and the path of the points."""
    directory.mkdir(parents=True, exist_ok=True)
    with range_server(directory) as files:
        written = simulate.write(directory / "scene", shape=SHAPE, pixel_size=20.0, n_points=5000, base_url=f"{files}/scene/")
        rasters = {name: str(path) for name, path in written.covariates.items()}
        with stac_api(written.items) as api:
            image = composite(api)
            for name, cube in {"simulator": image.miso.add(**rasters), "computed": with_covariates(image, rasters)}.items():
                cube.miso.to_zarr(directory / f"{name}.zarr", progress=False)
    return {
        name: xr.open_zarr(directory / f"{name}.zarr", consolidated=False) for name in ("simulator", "computed")
    }, written.points


def main(directory: Path, seeds: int) -> None:
    """Fit and score, and print both and their difference."""
    with step("simulate, composite, and make both cubes"):
        both, path = cubes(directory)
    points = misoxr.read_points(path, labels={"permafrost": "permafrost", "taxonomy": "taxonomy"})
    train, test = split(observed(points, both["simulator"]), west=float(both["simulator"].x[0]))
    labels, rows = encode(test, [PERMAFROST, TAXONOMY]), []
    for seed in range(seeds):
        for name, cube in both.items():
            with step(f"seed {seed}, {name}"):
                found = answers(cube.miso.predict_at(cube.miso.fit("miso-nano", train, seed=seed, progress=False), test))
            for task in (PERMAFROST, TAXONOMY):
                for metric, value in scores(task, labels[task.name], found[task.name]).items():
                    if metric in ("pr_auc", "roc_auc", "macro_f1"):
                        rows.append({"score": f"{task.name} {metric}", "seed": seed, "covariates": name, "value": float(value)})
    table = pd.DataFrame(rows).pivot_table(index="score", columns=["covariates", "seed"], values="value")
    difference = table["computed"] - table["simulator"]
    shown = table.T.groupby("covariates").mean().T.assign(difference=difference.mean(axis=1), error=difference.sem(axis=1))
    print(f"SIMULATED; {len(test)} test points, means over {seeds} seeds\n{shown.round(4).to_string()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path(__file__).resolve().parents[1] / "demo" / "covariates")
    given = parser.parse_args()
    main(given.directory, given.seeds)
