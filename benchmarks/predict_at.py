"""Answers at 10,000 points spread over a lazy cube of 20,000 x 20,000 pixels: time and memory.

    python benchmarks/predict_at.py

19 bands (30 GB if they were held), made chunk by chunk from noise as they are asked for; ``miso-nano`` with random weights. The
last line is JSON; peak memory is the process's own, libraries included.
"""

import argparse
import json
import resource
import time

import dask.array as da
import numpy as np
import torch
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from misoxr.cube.scaling import Scaling
from misoxr.grid.geobox import assign
from misoxr.model.checkpoint import Model
from misoxr.model.network import Miso
from misoxr.spec import ModelSpec


def main(side: int, count: int, chunk: int) -> None:
    """Build the cube, answer and print."""
    spec = ModelSpec.preset("miso-nano")
    rng = np.random.default_rng(0)
    tile = rng.uniform(0.05, 0.6, (chunk, chunk)).astype("float32")

    def make(block_info: dict) -> np.ndarray:
        height, width = block_info[None]["chunk-shape"]
        return np.roll(tile, block_info[None]["chunk-location"], (0, 1))[:height, :width]

    chunks = tuple(da.core.normalize_chunks(chunk, (side, side)))
    layers = {
        band.name: da.map_blocks(make, chunks=chunks, dtype="float32", meta=np.empty((0, 0), "float32")) for band in spec.bands
    }
    cube = xr.Dataset({band.name: (("y", "x"), layers[band.name], {"units": band.units}) for band in spec.bands})
    cube = assign(cube, GeoBox((side, side), Affine(10, 0, 0, 0, -10, 2_000_000), "EPSG:3338"))
    torch.manual_seed(0)
    model = Model(spec, Scaling.fit(spec, rng.uniform(0.05, 0.6, (len(spec.bands), 10_000)).astype("float32")), Miso(spec))
    points = {"x": rng.uniform(0, 10 * side, count), "y": 2_000_000 - rng.uniform(0, 10 * side, count)}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    start = time.perf_counter()
    lazy = cube.miso.predict_at(model, points, device="cpu")
    built = time.perf_counter() - start
    found = lazy.compute()
    seconds = time.perf_counter() - start
    assert found.permafrost_probability.notnull().all()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(
        f"{count} points in {side} x {side} pixels: {seconds:.0f} s, of which the graph {built:.1f} s; {count / seconds:.0f} points a second"
    )
    print(f"peak memory {peak:.2f} GB, of which {before:.2f} GB before the first answer")
    print(json.dumps({"peak_gb": round(peak, 2), "seconds": round(seconds, 1), "points": count}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--chunk", type=int, default=512)
    arguments = parser.parse_args()
    main(arguments.side, arguments.points, arguments.chunk)
