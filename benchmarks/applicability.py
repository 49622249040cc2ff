"""The area of applicability: pixels a second, and memory as the area grows.

    python benchmarks/applicability.py [--side 4096] [--base 512] [--points 1000] [--chunk 1024]

19 bands of noise that is made block by block, of which nothing is in memory, and training points anywhere in it, are compared in the space of the
bands, and written by ``to_zarr``, on two cores. Bands are "smooth" (noise of 8 pixels, each band for itself, which is harder than imagery, whose
bands resemble each other) or "rough" (every pixel for itself, the worst there is). memory: greatest size of a process that maps 4, 16 and 64
times ``--base`` x ``--base`` pixels, in chunks of 256. speed: pixels a second for ``--side`` (10000 is the promise: 300,000 a second), with what the noise and the store cost, of the map
alone, and by a core's own time, which tells what a core does where others use it, too. The last line is JSON.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from functools import partial
from typing import Any

import numpy as np

CORES = 2
BANDS = 19


def noise(seed: int, *, rough: bool, block_info: Any = None) -> np.ndarray:
    """Make a block of noise that follows from its place."""
    (top, bottom), (left, right) = block_info[None]["array-location"]
    shape, rng = (bottom - top, right - left), np.random.default_rng([seed, top, left])
    if rough:
        return rng.standard_normal(shape, dtype="float32")
    coarse = rng.standard_normal((shape[0] // 8 + 2, shape[1] // 8 + 2), dtype="float32")
    for axis, length in enumerate(shape):
        at = np.arange(length, dtype="float32") / 8
        first, part = at.astype(int), (at % 1).reshape([-1, 1][:: 1 if axis == 0 else -1])
        coarse = np.take(coarse, first, axis) * (1 - part) + np.take(coarse, first + 1, axis) * part
    return coarse


def image(side: int, chunk: int, *, rough: bool) -> Any:
    """A cube of noise."""
    import dask.array as da
    import xarray as xr
    from affine import Affine
    from odc.geo.geobox import GeoBox

    from misoxr.grid.geobox import assign
    from misoxr.spec import COVARIATES, SENTINEL2

    chunks = da.core.normalize_chunks(chunk, (side, side))
    data = {}
    for seed, band in enumerate((*SENTINEL2, *COVARIATES)):
        layers = da.map_blocks(partial(noise, seed, rough=rough), chunks=chunks, dtype="float32", meta=np.empty((0, 0), "f4"))
        data[band.name] = (("y", "x"), layers, {"units": band.units})
    return assign(xr.Dataset(data), GeoBox((side, side), Affine(10, 0, 300_000, 0, -10, 1_500_000), "EPSG:3338"))


def model_of() -> Any:
    """Estimators that see the bands; what they answer is of no matter here."""
    from sklearn.tree import DecisionTreeClassifier

    from misoxr.estimators.pixel_model import PixelModel
    from misoxr.spec import ModelSpec

    spec = ModelSpec.preset("miso-nano")
    assert len(spec.bands) == BANDS
    plain = DecisionTreeClassifier().fit(np.eye(BANDS), np.arange(BANDS) % 2)
    return PixelModel(spec, {task.name: plain for task in spec.tasks})


def points_in(cube: Any, count: int) -> Any:
    """Points at random pixels."""
    import geopandas as gpd

    rng = np.random.default_rng(1)
    x, y = (rng.choice(cube[name].values, count) for name in ("x", "y"))
    return gpd.GeoDataFrame(geometry=gpd.points_from_xy(x, y), crs="EPSG:3338")


def greatest() -> float:
    """Return the greatest size that this process had in memory, MB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1e3


def run(side: int, count: int, chunk: int, kind: str, answer: Any) -> None:
    """Map a square in this process, and tell seconds, the cores' own seconds and the greatest size."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    import dask

    import misoxr  # noqa: F401
    from misoxr.uncertainty.applicability import applicability

    cube = image(side, chunk, rough=kind == "rough")
    model = model_of()
    small = image(256, 256, rough=True)
    with dask.config.set(num_workers=CORES), tempfile.TemporaryDirectory() as folder:
        applicability(small, model, points_in(small, 50)).miso.to_zarr(
            f"{folder}/small.zarr", progress=False
        )  # compiles, and imports
        found = applicability(cube, model, points_in(cube, count))
        times = []
        for step in (lambda: _read(cube), lambda: found.miso.to_zarr(f"{folder}/map.zarr", progress=False)):
            wall, own = time.perf_counter(), time.process_time()
            step()
            times.append((time.perf_counter() - wall, time.process_time() - own))
    answer.send([times, greatest(), found.attrs["threshold"]])


def _read(cube: Any) -> None:
    """Make all the noise, and keep nothing of it."""
    import dask

    dask.compute([array.data.map_blocks(lambda block: np.zeros((1, 1)), chunks=(1, 1)).sum() for array in cube.data_vars.values()])


def measured(side: int, count: int, chunk: int, kind: str) -> dict[str, float]:
    """Map a square in a process of its own."""
    context = multiprocessing.get_context("spawn")
    mine, other = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(side, count, chunk, kind, other))
    process.start()
    other.close()
    (read, mapped), memory, threshold = mine.recv()
    process.join()
    pixels = side * side
    told = {
        "pixels_a_second": pixels / mapped[0],
        "of_the_map_alone": pixels / max(mapped[0] - read[0], 1e-9),
        "by_a_cores_own_time": pixels / max(mapped[1] - read[1], 1e-9),
        "peak_mb": memory,
    }
    print(
        f"{kind} {side} x {side}: "
        + ", ".join(f"{name} {value:,.0f}" for name, value in told.items())
        + f", threshold {threshold:.3f}"
    )
    return told


def main(side: int, base: int, count: int, chunk: int) -> None:
    """Measure and print."""
    memory = [measured(base * times, count, 256, "smooth")["peak_mb"] for times in (2, 4, 8)]
    speed = {kind: measured(side, count, chunk, kind) for kind in ("smooth", "rough")}
    print(json.dumps({"memory_ratio": round(max(memory) / memory[0], 3), "memory_mb": memory, "speed": speed}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=4096, help="side of the square whose speed is measured, pixels")
    parser.add_argument(
        "--base", type=int, default=512, help="side of the square of which multiples are mapped for the memory, pixels"
    )
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--chunk", type=int, default=1024, help="side of a chunk, pixels")
    arguments = parser.parse_args()
    main(arguments.side, arguments.base, arguments.points, arguments.chunk)
