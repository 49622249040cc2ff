"""A map by a fitted Random Forest: misoxr against sklearn-raster, side by side in one run, each in a process of its own.

    pip install --no-deps --target /tmp/sklearn-raster sklearn-raster==0.1.0.dev2 typing_extensions
    python benchmarks/estimators.py /tmp/sklearn-raster [--pixels 1024] [--chunk 512] [--repeats 3]

sklearn-raster is no dependency of misoxr: it lies in a folder of its own, which is the first argument. Both map the same forest
(253 trees, depth 16) over the same cube of 19 bands of smooth noise with Dask chunks, for one task of two that the models know, on two cores. Whoever goes first
changes from run to run. Seconds are those of the map alone; the peak of resident memory is the whole process's, imports and the cube
in it. The probabilities must be the same. The last line is JSON: medians, and the ratios of misoxr to sklearn-raster.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CORES = 2
WHO = ("misoxr", "sklearn-raster")


def prepare(folder: Path, pixels: int, trees: int) -> None:
    """Write a cube, and a forest for each task that is fitted on some of its pixels."""
    import joblib
    import xarray as xr
    from affine import Affine
    from odc.geo.geobox import GeoBox
    from scipy.ndimage import gaussian_filter
    from sklearn.ensemble import RandomForestClassifier

    from misoxr.estimators.pixel_model import PixelModel
    from misoxr.grid.geobox import assign
    from misoxr.spec import COVARIATES, SENTINEL2, ModelSpec

    rng = np.random.default_rng(0)
    bands = (*SENTINEL2, *COVARIATES)
    cube = np.stack([gaussian_filter(rng.standard_normal((pixels, pixels)), 4) * 12 for _ in bands]).astype("float32")
    cube[:, : pixels // 16] = np.nan  # nodata, as a scene's edge is
    np.save(folder / "cube.npy", cube)
    rows, columns = rng.integers(pixels // 16, pixels, (2, 2000))
    table = cube[:, rows, columns].T
    noisy = table[:, :4] + rng.normal(size=(2000, 4))
    labels = {"permafrost": (noisy.sum(1) > 0).astype(int), "taxonomy": np.digitize(noisy @ [1, -1, 1, -1], [-3, -2, -1, 1, 2, 3])}
    forests = {
        name: RandomForestClassifier(trees, max_depth=16, min_samples_split=5, random_state=0).fit(table, values)
        for name, values in labels.items()
    }
    spec = ModelSpec.preset("miso-nano")
    PixelModel(spec, forests, record={"estimator": "RandomForestClassifier"}).save(folder / "forest.skops")
    joblib.dump((table, labels), folder / "table.joblib")
    grid = assign(xr.Dataset(), GeoBox((pixels, pixels), Affine(10, 0, 300_000, 0, -10, 1_500_000), "EPSG:3338"))
    grid.to_netcdf(folder / "grid.nc", engine="scipy")


def by_misoxr(folder: Path, chunk: int, trees: int) -> tuple[np.ndarray, float]:
    """Map with misoxr: the probability of the second class, and seconds."""
    import xarray as xr

    import misoxr
    from misoxr.spec import COVARIATES, SENTINEL2

    cube = np.load(folder / "cube.npy")
    image = xr.open_dataset(folder / "grid.nc", engine="scipy", decode_coords="all").load()
    for band, values in zip((*SENTINEL2, *COVARIATES), cube, strict=True):
        image[band.name] = (("y", "x"), values, {"units": band.units})
    model = misoxr.load(folder / "forest.skops")
    start = time.perf_counter()
    maps = image.chunk({"y": chunk, "x": chunk}).miso.predict(model, tasks=["permafrost"])
    return maps.permafrost_probability.values, time.perf_counter() - start


def by_sklearn_raster(folder: Path, chunk: int, trees: int) -> tuple[np.ndarray, float]:
    """Map with sklearn-raster: the probability of the second class, and seconds."""
    import joblib
    import xarray as xr
    from sklearn.base import clone
    from sklearn.ensemble import RandomForestClassifier
    from sklearn_raster import FeatureArrayEstimator

    table, labels = joblib.load(folder / "table.joblib")
    forest = RandomForestClassifier(trees, max_depth=16, min_samples_split=5, random_state=0)
    models = {name: FeatureArrayEstimator(clone(forest)).fit(table, values) for name, values in labels.items()}
    image = xr.DataArray(np.load(folder / "cube.npy"), dims=("band", "y", "x")).chunk({"y": chunk, "x": chunk})
    start = time.perf_counter()
    return models["permafrost"].predict_proba(image)[1].values, time.perf_counter() - start


def run(who: str, folder: Path, chunk: int, trees: int) -> None:
    """Map on two cores, leave the map behind, and print seconds and the process's peak memory."""
    import dask

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    with dask.config.set(num_workers=CORES):
        found, seconds = (by_misoxr if who == WHO[0] else by_sklearn_raster)(folder, chunk, trees)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    np.save(folder / f"{who}.npy", found)
    print(json.dumps([seconds, peak]))


def main(place: Path, pixels: int, chunk: int, trees: int, repeats: int) -> None:
    """Measure both in turn and print."""
    measured: dict[str, list[list[float]]] = {who: [] for who in WHO}
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        # A process's peak begins with that of the one that started it, which is kept small.
        process = multiprocessing.get_context("spawn").Process(target=prepare, args=(folder, pixels, trees))
        process.start()
        process.join()
        for turn in range(repeats):
            for who in WHO if turn % 2 == 0 else WHO[::-1]:
                path = os.pathsep.join([str(Path(__file__).parents[1]), str(place)])
                command = [sys.executable, __file__, str(place), "--run", who, "--folder", directory, "--chunk", str(chunk)]
                done = subprocess.run(
                    [*command, "--trees", str(trees)],
                    env=os.environ | {"PYTHONPATH": path},
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode:
                    raise SystemExit(done.stderr)
                measured[who].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"{who}: {measured[who][-1][0]:.1f} s, peak {measured[who][-1][1]:.0f} MiB")
        ours, theirs = (np.load(folder / f"{who}.npy") for who in WHO)
    both = np.isfinite(ours)
    assert np.array_equal(both, np.isfinite(theirs)), "nodata differ"
    difference = float(np.abs(ours[both] - theirs[both].astype("float32")).max())
    assert difference == 0, f"the maps differ by {difference}"
    seconds, memory = ({who: statistics.median(one[at] for one in measured[who]) for who in WHO} for at in (0, 1))
    ratios = {"seconds": seconds[WHO[0]] / seconds[WHO[1]], "memory": memory[WHO[0]] / memory[WHO[1]]}
    # Round by round, too: what else runs on the machine hits both of a round alike.
    rounds = [round(one[0] / other[0], 2) for one, other in zip(*measured.values(), strict=True)]
    print(
        json.dumps(
            {
                "seconds": seconds,
                "peak_mib": memory,
                "ratio": {key: round(value, 2) for key, value in ratios.items()},
                "rounds": rounds,
            }
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sklearn_raster", type=Path, help="folder that sklearn-raster was installed to")
    parser.add_argument("--pixels", type=int, default=1024, help="side of the cube")
    parser.add_argument("--chunk", type=int, default=512, help="side of a chunk, pixels")
    parser.add_argument("--trees", type=int, default=253)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--run", choices=WHO, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run(arguments.run, arguments.folder, arguments.chunk, arguments.trees)
    else:
        main(arguments.sklearn_raster, arguments.pixels, arguments.chunk, arguments.trees, arguments.repeats)
