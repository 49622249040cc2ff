"""Areas of a large map: pixels a second and peak memory of counting it, alone, by polygons, and beside reference sites.

    python benchmarks/areas.py [--size 10000] [--chunk 2048] [--crs EPSG:3338] [--workers 2]

The map lies in a Zarr store, in chunks: a class map of four classes and the probability of each of two. Each step runs in a process of its own; its memory is the process's
greatest, libraries included. A line of JSON at the end.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import geopandas as gpd
import numpy as np
import shapely
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

STEPS = ("area", "area, by polygons", "areas", "areas, by polygons", "mean")
ORIGINS = {"EPSG:3338": (300_000.0, 1_500_000.0), "EPSG:3857": (-16_500_000.0, 9_500_000.0)}
CLASSES = ("water", "bare", "shrub", "forest")
SITES = 1000


def greatest() -> float:
    """Return the greatest size that this process had in memory, GB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e6


def write(store: str, size: int, chunk: int, crs: str) -> None:
    """Write a map block by block."""
    from misoxr.grid.geobox import assign

    def block(block_info: Any = None) -> np.ndarray:
        rng = np.random.default_rng(block_info[None]["chunk-location"])
        return rng.random(block_info[None]["chunk-shape"], dtype="float32")

    shape = (size, size)
    probability = da.map_blocks(
        block, chunks=da.core.normalize_chunks(chunk, shape), dtype="float32", meta=np.empty((0, 0), "float32")
    )
    attrs = {"flag_values": [0, 1], "flag_meanings": "absent present", "_FillValue": np.uint8(255)}
    cover = {"flag_values": [0, 1, 2, 3], "flag_meanings": " ".join(CLASSES), "_FillValue": np.uint8(255)}
    maps = xr.Dataset(
        {
            "permafrost": (("y", "x"), (probability >= 0.5).astype("uint8"), attrs),
            "permafrost_probability": (("y", "x"), probability, {"units": "1"}),
            "cover": (("y", "x"), (probability * 4).astype("uint8"), cover),
        }
    )
    x, y = ORIGINS[crs]
    with dask.config.set(scheduler="threads", num_workers=2):
        assign(maps, GeoBox(shape, Affine(10, 0, x, 0, -10, y), crs)).miso.to_zarr(store, progress=False)


def reference(maps: xr.Dataset, name: str) -> gpd.GeoDataFrame:
    """Sites at random places, as a probability sample of one stratum; half of their labels are the map's."""
    rng, size = np.random.default_rng(0), maps.sizes["y"]
    rows, columns = rng.integers(size, size=(2, SITES))
    labels = rng.random(SITES) if name == "permafrost_probability" else rng.choice(CLASSES, SITES)
    table = {name: labels, "stratum": "all", "inclusion_probability": SITES / size**2}
    return gpd.GeoDataFrame(
        table, geometry=gpd.points_from_xy(maps.x.values[columns], maps.y.values[rows]), crs=maps.spatial_ref.attrs["crs_wkt"]
    )


def zones(maps: xr.Dataset) -> gpd.GeoDataFrame:
    """25 round polygons."""
    x, y = (np.linspace(float(maps[dim][0]), float(maps[dim][-1]), 5) for dim in ("x", "y"))
    radius = abs(x[1] - x[0]) * 0.6
    circles = [shapely.Point(one, other).buffer(radius, 64) for one in x for other in y]
    return gpd.GeoDataFrame({"name": range(25)}, geometry=circles, crs=maps.spatial_ref.attrs["crs_wkt"])


def measure(step: str, store: str, workers: int, out: Any) -> None:
    """Run one step and send what it took."""
    import misoxr

    maps = misoxr.open_maps(store)
    by = zones(maps) if "polygons" in step else None
    with dask.config.set(scheduler="threads", num_workers=workers):
        start = time.perf_counter()
        if step.startswith("areas"):
            misoxr.sampling.areas(maps.cover, reference(maps, "cover"), by=by)
        elif step == "mean":
            misoxr.sampling.mean(maps.permafrost_probability, reference(maps, "permafrost_probability"))
        else:
            maps.miso.area(by=by)
        seconds = time.perf_counter() - start
    out.put(
        {
            "step": step,
            "seconds": round(seconds, 1),
            "pixels_a_second": round(maps.sizes["y"] ** 2 / seconds),
            "peak_gb": round(greatest(), 2),
        }
    )


def main() -> None:
    """Write the map and run each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=10_000)
    parser.add_argument("--chunk", type=int, default=2048)
    parser.add_argument("--crs", choices=ORIGINS, default="EPSG:3338")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    context, found = multiprocessing.get_context("spawn"), []
    with tempfile.TemporaryDirectory() as directory:
        store = f"{directory}/maps.zarr"
        writer = context.Process(target=write, args=(store, asked.size, asked.chunk, asked.crs))
        writer.start()
        writer.join()
        for step in STEPS:
            out = context.Queue()
            process = context.Process(target=measure, args=(step, store, asked.workers, out))
            process.start()
            found.append(out.get(timeout=1800))
            process.join()
            print(found[-1], flush=True)
    print(json.dumps({**vars(asked), "steps": found}))


if __name__ == "__main__":
    main()
