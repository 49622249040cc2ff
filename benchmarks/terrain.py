"""Terrain of a DEM in chunks: pixels a second and memory, beside xarray-spatial's slope, where that is installed."""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

MEASURED = """
import json, resource, sys, time
import dask, dask.array as da, numpy as np, xarray as xr
{imports}

path, chunk, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
z = np.load(path, mmap_mode="r")


def dem(z):
    y, x = (300_000 + 10.0 * np.arange(length) for length in z.shape)
    chunks = (min(chunk, z.shape[0]), min(chunk, z.shape[1]))
    return xr.DataArray(da.from_array(z, chunks=chunks), dims=("y", "x"), coords={{"y": y[::-1], "x": x}}, attrs={{"units": "m"}})


def found(dem):
    return {found}


with dask.config.set(scheduler="threads", num_workers=threads):
    found(dem(z[:512, :512])).compute()  # imports and compiles
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    found(dem(z)).compute()
    s = time.perf_counter() - start
after = resource.getrusage(resource.RUSAGE_SELF)
cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
print(json.dumps({{"s": s, "cpu_s": cpu, "gb": after.ru_maxrss / 1e6, "gb_more": (after.ru_maxrss - before.ru_maxrss) / 1e6}}))
"""
"""What a process of its own does: another environment may have xarray-spatial, and not misoxr."""

OURS = "import misoxr, rioxarray\nfrom misoxr.covariates import Moments"
GIVEN = "Moments(4, 0.0, 1.0, 0.0, 1.0)"
ONES = {
    "slope, radius 1": (OURS, 'misoxr.covariates.terrain(dem.rio.write_crs("EPSG:3338"), radius=1).slope'),
    "slope, radius 4": (OURS, f'misoxr.covariates.terrain(dem.rio.write_crs("EPSG:3338"), moments={GIVEN}).slope'),
    "all but multi-scale, radius 4": (
        OURS,
        f'misoxr.covariates.terrain(dem.rio.write_crs("EPSG:3338"), moments={GIVEN}).drop_vars("topographic_position_index")',
    ),
    "multi-scale position and its moments": (
        OURS,
        'misoxr.covariates.terrain(dem.rio.write_crs("EPSG:3338")).topographic_position_index',
    ),
    "xarray-spatial's slope": ("import xrspatial", "xrspatial.slope(dem)"),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the benchmark."""
    parser.add_argument("--size", type=int, default=8192, help="pixels along an edge")
    parser.add_argument("--chunk", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has xarray-spatial, where this one has not")


def main(given: argparse.Namespace) -> None:
    """Let all take turns, each time in a process of its own, and print the medians."""
    names = list(ONES)
    if given.python == sys.executable and not importlib.util.find_spec("xrspatial"):
        names.pop()
    pixels = given.size**2
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dem.npy"
        rng = np.random.default_rng(0)
        np.save(path, 100 * rng.random((given.size, given.size), dtype="float32"))
        for _ in range(given.rounds):
            for name in names:
                imports, found = ONES[name]
                code = MEASURED.format(imports=imports, found=found)
                python = given.python if "xrspatial" in imports else sys.executable
                options = [str(path), str(given.chunk), str(given.threads)]
                done = subprocess.run([python, "-c", code, *options], check=True, stdout=subprocess.PIPE, text=True)
                taken[name].append(json.loads(done.stdout.splitlines()[-1]))
    out = {}
    print(
        f"{given.size} x {given.size} pixels in chunks of {given.chunk}, {given.threads} threads; medians of {given.rounds} rounds"
    )
    for name, runs in taken.items():
        middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        out[name] = {"mpixels_per_s": pixels / middle["s"] / 1e6, "mpixels_per_cpu_s": pixels / middle["cpu_s"] / 1e6, **middle}
        print(
            f"{name:34s} {out[name]['mpixels_per_s']:7.1f} Mpixel/s, {out[name]['mpixels_per_cpu_s']:6.1f} in a CPU second, {middle['gb']:5.2f} GB"
        )
    print(json.dumps(out))
