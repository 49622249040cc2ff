"""What sampling from a large lazy map takes: seconds, CPU seconds and the greatest size of the process.

    python benchmarks/sampling.py sites --size 10000 [--method kmeans] [--n 100]
    python benchmarks/sampling.py stratified --size 10000 [--n 1000]

The image has 19 bands, and the map 6 classes; both are made of waves, block by block, as they are read, so the time of reading is in the seconds. Libraries
count in the size. The last line is JSON.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import dask.array as da
import geopandas as gpd
import numpy as np
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from state import greatest

import misoxr
from misoxr.grid.geobox import assign

BANDS, CLASSES, CHUNK, PIXEL = 19, 6, 1024, 10.0


def waves(rows: np.ndarray, columns: np.ndarray, number: int) -> np.ndarray:
    """One band of a block: waves of its own length, and noise that depends on the place alone; a corner of each block of 4096 is nodata."""
    row, column = rows[:, None].astype("float32"), columns[None].astype("float32")
    length = np.float32(40 * 1.6**number % 3000 + 50)
    out = np.sin(row / length) + np.cos(column / (length + 17)) + 0.1 * np.sin(row * column + number)
    out[(rows[:, None] % 4096 < 256) & (columns[None] % 4096 < 256)] = np.nan
    return out


def band(size: int, number: int) -> da.Array:
    """A lazy band."""
    places = [da.arange(size, chunks=CHUNK) for _ in range(2)]
    return da.blockwise(
        waves, "yx", places[0], "y", places[1], "x", number=number, dtype="float32", meta=np.empty((0, 0), "float32")
    )


def on_grid(arrays: dict[str, Any], size: int) -> xr.Dataset:
    """Arrays (y, x) on a grid of Alaska Albers."""
    box = GeoBox((size, size), Affine(PIXEL, 0, 200_000, 0, -PIXEL, 1_800_000), "EPSG:3338")
    return assign(xr.Dataset({name: (("y", "x"), array) for name, array in arrays.items()}), box)


def image_of(size: int) -> xr.Dataset:
    """A lazy image."""
    return on_grid({f"band_{number}": band(size, number) for number in range(BANDS)}, size)


def map_of(size: int) -> xr.DataArray:
    """A lazy class map, of which some classes are rare."""
    codes = da.map_blocks(
        lambda values: np.where(np.isnan(values), 255, np.digitize(values, [-1.9, -1, 0.2, 1, 1.95])).astype("uint8"),
        band(size, 3),
        dtype="uint8",
        meta=np.empty((0, 0), "uint8"),
    )
    array = on_grid({"soil": codes}, size).soil
    names = " ".join(f"class_{number}" for number in range(CLASSES))
    return array.assign_attrs(flag_values=list(range(CLASSES)), flag_meanings=names, _FillValue=np.uint8(255))


def sites(arguments: argparse.Namespace) -> Any:
    """Choose sites beside 1,000 points that exist."""
    image, random = image_of(arguments.size), np.random.default_rng(0)
    x, y = (random.choice(image[dim].values, 1000) for dim in ("x", "y"))
    existing = gpd.GeoDataFrame(geometry=gpd.points_from_xy(x, y), crs="EPSG:3338")
    return lambda: misoxr.sampling.next_sites(image, arguments.n, method=arguments.method, existing=existing, least_distance=500)


def stratified(arguments: argparse.Namespace) -> Any:
    """Draw a probability sample."""
    array = map_of(arguments.size)
    return lambda: misoxr.sampling.stratified(array, arguments.n, allocation="neyman", expected_accuracy=0.8)


def timed(work: Callable[[], Any]) -> dict[str, float]:
    """Run, and tell time and size."""
    rest, start, busy = greatest(), time.perf_counter(), time.process_time()
    work()
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - busy,
        "gb": greatest(),
        "libraries_gb": rest,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for function, n in ((sites, 100), (stratified, 1000)):
        command = commands.add_parser(function.__name__, help=function.__doc__)
        command.add_argument("--size", type=int, default=10_000, help="rows and columns")
        command.add_argument("--n", type=int, default=n, help="sites")
        command.set_defaults(of=function)
        if function is sites:
            command.add_argument("--method", default="kmeans")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", da.PerformanceWarning)  # two lines make many blocks
    told = {key: value for key, value in vars(arguments).items() if key != "of"}
    print(json.dumps(told | timed(arguments.of(arguments))))


if __name__ == "__main__":
    main()
