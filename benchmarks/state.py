"""The plan for a state: 370,000 x 240,000 pixels opened, planned, and its first block computed, both ways.

    python benchmarks/state.py [zarr|items ...]

"zarr": a cube in a Zarr store of that size, of which only the chunks of the first block were written. "items": a table of 100,000 items
(stac-geoparquet; 1,000 tiles of 110 km, 100 dates each), of which those of the first block have assets behind a local HTTP server; composite, median.
Each runs in a process of its own. The time is that from ``open`` to the end of the first block of 512 pixels, and the memory the process's
greatest, libraries included; loading the model is left out of the time. A line of JSON at the end.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

SHAPE = (240_000, 370_000)
CHUNK = 512
FIRST = (100 * CHUNK, 150 * CHUNK)
"""First row and column of the block that is computed: in the middle of the state."""
DATES = 100
BANDS = ("blue", "green", "red", "rededge071", "rededge075", "rededge078", "nir", "swir16", "swir22")


def grid() -> GeoBox:
    """Alaska's extent in Alaska Albers, at 10 m."""
    return GeoBox(SHAPE, Affine(10, 0, -1_850_000, 0, -10, 2_400_000), "EPSG:3338")


def greatest() -> float:
    """Return the greatest size that this process had in memory, GB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e6


def a_model() -> object:
    """A model with random weights and scaling."""
    import torch

    from misoxr.cube.scaling import Scaling
    from misoxr.model.checkpoint import Model
    from misoxr.model.network import Miso
    from misoxr.spec import ModelSpec

    torch.manual_seed(0)
    spec = ModelSpec.preset("miso-nano", cov=())
    pixels = np.random.default_rng(0).uniform(0.01, 0.4, (len(spec.bands), 5000)).astype("float32")
    model = Model(spec, Scaling.fit(spec, pixels), Miso(spec))
    model.address()
    return model


def zarr_cube(directory: Path) -> Path:
    """A store of the whole state, with data around the first block alone: absent chunks are nodata."""
    import dask.array as da

    from misoxr.grid.geobox import assign

    path = directory / "cube.zarr"
    empty = da.zeros(SHAPE, chunks=SHAPE, dtype="float32")
    cube = assign(xr.Dataset({name: (("y", "x"), empty, {"units": "1"}) for name in BANDS}), grid())
    encoding = {name: {"chunks": (CHUNK, CHUNK), "_FillValue": np.float32(np.nan)} for name in BANDS}
    cube.to_zarr(path, zarr_format=3, consolidated=False, compute=False, encoding=encoding, safe_chunks=False)
    import zarr

    group = zarr.open_group(path, mode="r+")
    rows, columns = (slice(first - CHUNK, first + 2 * CHUNK) for first in FIRST)
    for at, name in enumerate(BANDS):
        group[name][rows, columns] = np.random.default_rng(at).uniform(0.01, 0.4, (3 * CHUNK, 3 * CHUNK)).astype("float32")
    return path


def degrees(part: GeoBox) -> tuple[float, float, float, float]:
    """West, south, east and north of a tile; west of its east, too, where it lies across the antimeridian."""
    import pyproj

    along = np.linspace(0, 1, 9)
    left, bottom, right, top = part.boundingbox.bbox
    x, y = np.meshgrid(left + (right - left) * along, bottom + (top - bottom) * along)
    longitude, latitude = pyproj.Transformer.from_crs("EPSG:3338", "EPSG:4326", always_xy=True).transform(x, y)
    west, east = (float((value + 180) % 360 - 180) for value in ((longitude % 360).min(), (longitude % 360).max()))
    return west, float(latitude.min()), east, float(latitude.max())


def item_table(directory: Path, address: str) -> Path:
    """A table of 100,000 items; 100 of them, on the first block, with assets that can be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import shapely

    from misoxr.stac.filters import area_of
    from tests.stac_scenes import write_cog

    box = grid()
    side, rows, columns = 11_000, 25, 40
    ys = np.linspace(0, SHAPE[0] - side, rows).astype(int)
    xs = np.linspace(0, SHAPE[1] - side, columns).astype(int)
    records: dict[str, list[object]] = {
        key: [] for key in ("type", "stac_version", "id", "collection", "datetime", "bbox", "geometry", "assets")
    }
    for key in ("proj:code", "s2:processing_baseline"):
        records[key] = []
    dates = np.datetime64("2023-06-01T21:00", "ms") + np.arange(DATES).astype("timedelta64[D]")
    for i, top in enumerate(ys):
        for j, left in enumerate(xs):
            part = box[int(top) : int(top) + side, int(left) : int(left) + side]
            west, south, east, north = degrees(part)
            near = all(first - CHUNK < at + side and first + 2 * CHUNK > at for first, at in zip(FIRST, (top, left), strict=True))
            if near:
                noise = np.random.default_rng(i * columns + j).integers(300, 4000, (side // 10, side // 10))
                values = noise.repeat(10, 0).repeat(10, 1).astype("uint16")
                write_cog(directory / f"{i}_{j}" / "band.tif", values, part.affine, "EPSG:3338", tile=512)
                clear = np.full((side // 2, side // 2), 4, "uint8")
                write_cog(directory / f"{i}_{j}" / "scl.tif", clear, part.affine * Affine.scale(2), "EPSG:3338", tile=512)
            outline = shapely.to_wkb(area_of((west, south, east, north), None))
            for k, date in enumerate(dates):
                root = f"{address}/{i}_{j}" if near else f"{address}/absent/{i}_{j}/{k}"
                assets = {
                    name: {
                        "href": f"{root}/{'band' if near else name}.tif",
                        "eo:bands": [{"name": name, "common_name": name}],
                        "proj:transform": list(part.affine)[:6],
                        "proj:shape": [side, side],
                    }
                    for name in BANDS
                }
                twice = part.affine * Affine.scale(2)
                assets["scl"] = {
                    "href": f"{root}/scl.tif",
                    "eo:bands": None,
                    "proj:transform": list(twice)[:6],
                    "proj:shape": [side // 2] * 2,
                }
                row = (
                    "Feature",
                    "1.1.0",
                    f"S2_{i}_{j}_{k}",
                    "sentinel-2-l2a",
                    date,
                    dict(xmin=west, ymin=south, xmax=east, ymax=north),
                    outline,
                )
                for key, value in zip(records, (*row, assets, "EPSG:3338", "05.00"), strict=True):
                    records[key].append(value)
    path = directory / "items.parquet"
    pq.write_table(pa.table(records), path, row_group_size=10_000)
    return path


def first_block(kind: str, source: str, answers: "multiprocessing.SimpleQueue[dict[str, float]]") -> None:
    """Open, plan, and compute the first block."""
    import misoxr

    model = a_model()
    from misoxr.model.checkpoint import resolve

    resolve(model.address(), "cpu")
    at_rest = greatest()
    start = time.perf_counter()
    if kind == "zarr":
        image = xr.open_zarr(source, consolidated=False, chunks={})
    else:
        image = misoxr.open_stac(source, bands=BANDS, reduce="median", geobox=grid(), chunks=CHUNK, allow_private=True)
    opened = time.perf_counter()
    maps = image.miso.predict(model)
    planned = time.perf_counter()
    rows, columns = (slice(first, first + CHUNK) for first in FIRST)
    block = maps.isel(y=rows, x=columns).compute(scheduler="threads")
    assert float(np.isfinite(block.permafrost_probability).mean()) == 1.0
    end = time.perf_counter()
    answers.put(
        {
            "open_s": opened - start,
            "plan_s": planned - opened,
            "block_s": end - opened,
            "peak_gb": greatest(),
            "libraries_gb": at_rest,
        }
    )


def main(kinds: list[str]) -> None:
    """Run, and print."""
    from servers import range_server

    found: dict[str, dict[str, float]] = {}
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name, range_server(Path(name)) as address:
        for kind in kinds:
            source = zarr_cube(Path(name)) if kind == "zarr" else item_table(Path(name), address)
            answers = spawn.SimpleQueue()
            process = spawn.Process(target=first_block, args=(kind, str(source), answers))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{kind} failed")
            found[kind] = answers.get()
            print(f"{kind}: " + ", ".join(f"{key} {value:.2f}" for key, value in found[kind].items()), flush=True)
    print(json.dumps({f"{kind}_{key}": round(value, 2) for kind, one in found.items() for key, value in one.items()}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kinds", nargs="*", help="zarr, items; both by default")
    main(parser.parse_args().kinds or ["zarr", "items"])
