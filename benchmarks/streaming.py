"""A composite streamed over HTTP, against the same windows read and decoded bare by GDAL, side by side in one run.

    python benchmarks/streaming.py
    python benchmarks/streaming.py --latency 0.1 --threads 8

Real COGs on a server on this machine, which waits before every answer: four bands and a scene classification at a number of dates. The
composite reads, masks and takes medians, one task a block; bare GDAL reads the same windows of the same files through
/vsicurl/, and does nothing with them: "bare" with as many threads as Dask has, "bare, all" with as many as read in the composite, whose
tasks read in several. They take turns, and medians of their times are compared. CPU seconds are this process's own, without the
server's. The last line is JSON.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import numpy as np
import rasterio
import rasterio.warp
from affine import Affine
from rasterio.windows import Window
from scipy.ndimage import gaussian_filter

import misoxr
from misoxr.stac.composite import READERS

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from servers import range_server

BANDS = ("blue", "green", "red", "nir")
CRS = "EPSG:32605"
WEST, NORTH = 500_000.0, 7_200_000.0
MARGIN = 5
"""Pixels around a block's classification that cloud masks need."""
GDAL = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "VSI_CACHE": "TRUE",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".tif",
}
"""What is commonly advised for COGs."""


def write(directory: Path, size: int, dates: int, compress: str, bands: Sequence[str] = BANDS, files: int | None = None) -> None:
    """Write the files of all dates: every date has clear ground and clouds in every block. With ``files``, so many dates differ."""
    rng = np.random.default_rng(0)
    ground = {band: 3000 + 800 * gaussian_filter(rng.standard_normal((size, size)), 3) for band in bands}
    for date in range(dates):
        if files is not None and date >= files:
            (directory / f"{date}").symlink_to(f"{date % files}")
            continue
        for band in bands:
            noise = rng.integers(-40, 40, (size, size))
            _cog(directory / f"{date}" / f"{band}.tif", (ground[band] + noise + 20 * date).astype("uint16"), 10, compress)
        clouds = gaussian_filter(rng.standard_normal((size // 2, size // 2)), 20)
        classes = np.where(clouds > np.quantile(clouds, 0.8), 9, 4).astype("uint8")
        _cog(directory / f"{date}" / "scl.tif", classes, 20, compress)


def _cog(path: Path, values: Any, pixel: float, compress: str) -> None:
    path.parent.mkdir(exist_ok=True)
    profile = {"driver": "COG", "count": 1, "height": values.shape[0], "width": values.shape[1], "dtype": values.dtype.name}
    profile |= {"crs": CRS, "transform": Affine(pixel, 0, WEST, 0, -pixel, NORTH), "nodata": 0, "compress": compress}
    with rasterio.open(path, "w", **profile, predictor="yes", blocksize=512) as file:
        file.write(values, 1)


def items(address: str, size: int, dates: int, bands: Sequence[str] = BANDS) -> list[dict[str, Any]]:
    """Return the dates as STAC items."""
    to_degrees = rasterio.warp.transform(CRS, "EPSG:4326", [WEST, WEST + 10 * size], [NORTH, NORTH - 10 * size])
    (west, east), (north, south) = to_degrees
    ring = [[west, north], [west, south], [east, south], [east, north], [west, north]]
    return [
        {
            "type": "Feature",
            "stac_version": "1.0.0",
            "stac_extensions": [],
            "id": f"{date}",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "bbox": [west, south, east, north],
            "properties": {"datetime": f"{np.datetime64('2021-06-01') + date}T21:00:00Z", "proj:epsg": int(CRS[5:])},
            "links": [],
            "assets": {
                name: {
                    "href": f"{address}/{date}/{name}.tif",
                    "proj:transform": [pixel, 0, WEST, 0, -pixel, NORTH],
                    "proj:shape": [10 * size // pixel] * 2,
                    **(
                        {}
                        if name == "scl"
                        else {"eo:bands": [{"common_name": name}], "raster:bands": [{"scale": 1e-4, "offset": 0}]}
                    ),
                }
                for name, pixel in (*((band, 10) for band in bands), ("scl", 20))
            },
        }
        for date in range(dates)
    ]


def windows(size: int, dates: int, chunk: int) -> list[list[tuple[str, Window]]]:
    """Return what each block reads: files and their windows."""
    half, names = size // 2, ("scl", *BANDS)
    blocks = []
    for row in range(0, size, chunk):
        for column in range(0, size, chunk):
            ten = Window(column, row, chunk, chunk)
            top, left = max(row // 2 - MARGIN, 0), max(column // 2 - MARGIN, 0)
            bottom, right = min((row + chunk) // 2 + MARGIN, half), min((column + chunk) // 2 + MARGIN, half)
            twenty = Window(left, top, right - left, bottom - top)
            blocks.append([(f"{date}/{name}.tif", twenty if name == "scl" else ten) for name in names for date in range(dates)])
    return blocks


def bare(address: str, size: int, dates: int, chunk: int, threads: int) -> None:
    """Read and decode the windows, and do nothing with them."""

    def read(block: list[tuple[str, Window]]) -> None:
        with rasterio.Env(**GDAL):
            for path, window in block:
                with rasterio.open(f"/vsicurl/{address}/{path}") as file:
                    file.read(1, window=window)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, windows(size, dates, chunk)))


def streamed(address: str, size: int, dates: int, chunk: int, threads: int) -> None:
    """Make the composite."""
    cube = misoxr.open_stac(items(address, size, dates), bands=BANDS, reduce="median", chunks=chunk, allow_private=True)
    with dask.config.set(scheduler="threads", num_workers=threads):
        composite = cube.compute()
    assert composite.sizes == {"y": size, "x": size}
    assert all(np.isfinite(composite[band]).all() for band in BANDS)


def measure(side: Callable[..., None], directory: Path, latency: float, **options: int) -> tuple[float, float, int, int]:
    """Return one run's seconds, CPU seconds, requests, and bytes; each has a server of its own, so that no cache knows the addresses."""
    with tempfile.NamedTemporaryFile() as log, range_server(directory, log=Path(log.name), latency=latency) as address:
        start, busy = time.perf_counter(), time.process_time()
        side(address, **options)
        seconds, cpu = time.perf_counter() - start, time.process_time() - busy
        lines = [line.split() for line in Path(log.name).read_text().splitlines()]
    return seconds, cpu, len(lines), sum(int(line[-1]) for line in lines)


def main() -> None:
    """Run both in turns, and print times, requests, bytes and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2048, help="pixels along an edge")
    parser.add_argument("--chunk", type=int, default=1024)
    parser.add_argument("--dates", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--latency", type=float, default=0.03, help="seconds before an answer; object stores take 0.02 to 0.1")
    parser.add_argument("--compress", choices=["deflate", "zstd"], default="deflate")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    options = {name: getattr(given, name) for name in ("size", "dates", "chunk", "threads")}
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), given.size, given.dates, given.compress)
        sides = {"bare": (bare, 1), "bare, all": (bare, READERS), "streamed": (streamed, 1)}
        runs: dict[str, list[tuple[float, float, int, int]]] = {side: [] for side in sides}
        for _ in range(given.runs):
            for side, (work, times) in sides.items():
                mine = options | {"threads": times * given.threads}
                runs[side].append(measure(work, Path(name), given.latency, **mine))
                print("{:10s}{:8.2f} s{:8.2f} s CPU{:8d} requests{:14,d} bytes".format(side, *runs[side][-1]), flush=True)
    seconds = {side: statistics.median(run[0] for run in each) for side, each in runs.items()}
    pixels = given.size**2 * given.dates * (len(BANDS) + 0.25)
    print(
        json.dumps(
            {f"throughput_ratio to {side}": seconds[side] / seconds["streamed"] for side in ("bare", "bare, all")}
            | {f"{side}_megapixels_per_second": pixels / 1e6 / value for side, value in seconds.items()}
            | {f"{side}_cpu_seconds": statistics.median(run[1] for run in each) for side, each in runs.items()}
            | {f"{side}_requests": each[0][2] for side, each in runs.items()}
            | {f"{side}_bytes": each[0][3] for side, each in runs.items()}
        )
    )


if __name__ == "__main__":
    main()
