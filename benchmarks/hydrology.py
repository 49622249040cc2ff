"""Hydrology of a DEM in chunks, against the same in one chunk: time, memory and differences; and beside pyflwdir, where that is installed."""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from state import greatest

import misoxr
from misoxr.grid.geobox import assign

PIXEL = 10.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the benchmark."""
    parser.add_argument("--size", type=int, default=4096, help="pixels along an edge")
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--filled", action="store_true", help="fill pits first")
    parser.add_argument("--folder", type=Path, help="where the DEM and the results lie; by default a temporary folder")
    parser.add_argument("--one", choices=["rest", "ours", "pyflwdir"], help=argparse.SUPPRESS)


def main(given: argparse.Namespace) -> None:
    """Run each in a process of its own, and print what they took."""
    if given.one:
        print(json.dumps(one(given)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        write(folder / "dem.zarr", given.size, given.chunk)
        run(folder, 64, 32, "ours", given.filled)  # compiles, where nothing is cached
        rest = run(folder, 64, 64, "rest", given.filled)
        whole = run(folder, given.size, given.size, "ours", given.filled)
        chunks = run(folder, given.size, given.chunk, "ours", given.filled)
        found = {"pixels": given.size**2, "libraries_gb": rest["gb"], "whole": whole, "chunks": chunks}
        found |= {"time": chunks["s"] / whole["s"], "memory": chunks["gb"] / whole["gb"]}
        found |= {"memory_above_libraries": (chunks["gb"] - rest["gb"]) / (whole["gb"] - rest["gb"])}
        found |= {"largest_difference": difference(folder / f"{given.size}.zarr", folder / f"{given.chunk}.zarr")}
        if importlib.util.find_spec("pyflwdir"):
            found["pyflwdir"] = run(folder, given.size, given.size, "pyflwdir", given.filled)
        print(json.dumps(found, indent=1))


def run(folder: Path, size: int, chunk: int, what: str, filled: bool) -> dict[str, float]:
    """Run one in a process of its own."""
    options = [
        "--one",
        what,
        "--size",
        str(size),
        "--chunk",
        str(chunk),
        "--folder",
        str(folder),
        *(["--filled"] if filled else []),
    ]
    entry = Path(__file__).with_name("covariates.py")
    done = subprocess.run([sys.executable, entry, "hydrology", *options], check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def one(given: argparse.Namespace) -> dict[str, float]:
    """Do one thing, and tell its time and the greatest size of the process, libraries included."""
    dem = xr.open_zarr(given.folder / "dem.zarr", consolidated=False, decode_coords="all", chunks={}).elevation[
        : given.size, : given.size
    ]
    if given.one == "rest":
        misoxr.covariates.hydrology(dem[:64, :64], progress=False)
    start = time.perf_counter()
    if given.one == "ours":
        dem = dem.chunk({"y": given.chunk, "x": given.chunk})
        store = given.folder / f"{given.chunk}.zarr"
        misoxr.covariates.hydrology(dem, store=store, filled=given.filled, overwrite=True, progress=False)
    if given.one == "pyflwdir":
        import pyflwdir

        directions = pyflwdir.from_dem(
            dem.values, nodata=np.nan, transform=Affine(PIXEL, 0, 0, 0, -PIXEL, 0)
        )  # one direction a cell, filled
        directions.upstream_area(unit="m2")
    return {"s": time.perf_counter() - start, "gb": greatest()}


def difference(one: Path, other: Path) -> float:
    """Return the largest relative difference of two results."""
    first, second = (xr.open_zarr(place) for place in (one, other))
    apart = [abs(first[name] - second[name]) / abs(first[name]).clip(1e-30) for name in first.data_vars]
    return max(float(value.max()) for value in apart)


def write(place: Path, size: int, chunk: int) -> None:
    """Write a made-up DEM with pits and nodata."""
    rng = np.random.default_rng(0)
    waves = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    waves[0, 0] = np.inf
    z = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size, size))) * waves**-2.2, (size, size))
    z = (500 * z / z.std()).astype("float32")
    z[size // 3 : size // 3 + 20, size // 2 : size // 2 + 30] = np.nan
    dem = xr.Dataset({"elevation": (("y", "x"), z, {"units": "m"})})
    box = GeoBox((size, size), Affine(PIXEL, 0, 300_000, 0, -PIXEL, 1_500_000), "EPSG:3338")
    assign(dem, box).chunk({"y": chunk, "x": chunk}).drop_encoding().to_zarr(place, mode="w", consolidated=False)
