"""Export a map and then a larger one with two threads, and print by how much peak memory and the map grew, in MiB."""

import resource
import sys
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

import misoxr  # noqa: F401
from misoxr.grid.geobox import assign

SIDE = 1024


def block(block_info: dict) -> np.ndarray:
    """A block of one value, another one for each: cheap to make and to compress."""
    return np.full(block_info[None]["chunk-shape"], sum(block_info[None]["chunk-location"]), "float32")


def lazy(bands: int, side: int) -> xr.Dataset:
    sizes = (SIDE,) * (side // SIDE) + ((side % SIDE,) if side % SIDE else ())
    data = da.map_blocks(block, chunks=((bands,), sizes, sizes), dtype="float32", meta=np.empty((0, 0, 0), "float32"))
    ds = xr.Dataset(
        {"soil_probability": (("soil", "y", "x"), data)}, {"soil": np.array([f"class {n}" for n in range(bands)], object)}
    )
    return assign(ds, GeoBox((side, side), Affine(10, 0, 0, 0, -10, 0), "EPSG:3338"))


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    target = Path(sys.argv[1])
    # GeoTIFFs come last: they take more, GDAL's cache above all, which the first one fills.
    for verb, first, side in (("to_pyramid", 2048, 4096), ("to_cog", 4096, 6656)):
        with dask.config.set(num_workers=2):
            getattr(lazy(1, first).miso, verb)(target / f"{verb}-first", progress=False)
            before = peak()
            getattr(lazy(1, side).miso, verb)(target / verb, progress=False)
        print(verb, peak() - before, (side**2 - first**2) * 4 / 2**20)
