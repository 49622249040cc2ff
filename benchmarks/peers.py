"""Maps, forests and composites beside those of other packages: the same raster, model and overlap, side by side in one run.

    python benchmarks/peers.py [--preset miso-nano] [--side 1024] [--rounds 3] [--only networks forests composites]

- networks: the same weights and the same windows and overlap, answered at every pixel by a plain loop over tiles in PyTorch, by the tiled inference of
  terratorch 1.2.13, and by ``predict``. All scale the bands themselves, and blend. The greatest difference in the middle is told; terratorch's ramps differ.
- forests: a forest of 100 trees on the bands, by sklearn-raster 0.1.0.dev2, which parts a lazy raster into blocks, and by ``predict``.
- composites: the medians of the same simulated files over HTTP, by odc-stac 0.5, by stackstac, and by ``open_stac``, of four bands without clouds, on the
  files' own grid. The server waits for 0.03 s before each answer.

Seconds are the least of some rounds in turns. The packages are fetched with pip into a cache, and nothing of them is installed. The last line is JSON.
"""

import argparse
import ast
import importlib.util
import json
import sys
import tempfile
import time
import types
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rioxarray  # noqa: F401
import streaming
import torch
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from predict import noise, random_model
from sklearn.ensemble import RandomForestClassifier

import misoxr
from misoxr import simulate
from misoxr.grid.geobox import geobox_of
from misoxr.mapping.job import plan_of
from misoxr.model.inference import activate
from misoxr.spec import PERMAFROST, TAXONOMY, ModelSpec

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from real_scene import cache_directory, download
from servers import range_server

TERRATORCH = (
    "terratorch==1.2.13",
    "terratorch-1.2.13-py3-none-any.whl",
    "e1826ccdf8cdef8ddcd417375473ae6eacea2f56949df4c7f9ae476e4823d437",
)
SKLEARN_RASTER = (
    "sklearn-raster==0.1.0.dev2",
    "sklearn_raster-0.1.0.dev2-py3-none-any.whl",
    "38584c74badfb5ee2144d0504c1a985ae1971e59049c33425670c5db3c7c0e49",
)
BATCH = 16
"""Tiles in a batch, of the plain loop and of terratorch, whose default it is."""


def unpacked(package: tuple[str, str, str]) -> Path:
    """Fetch a package, and return where its modules lie."""
    cache = cache_directory()
    wheel, folder = download(*package, cache), cache / package[0]
    if not folder.exists():
        zipfile.ZipFile(wheel).extractall(folder)
    return folder


def tiled_inference() -> Callable[..., Any]:
    """Load terratorch's tiled inference: one module, and the one function it needs of another, which would import all of terratorch."""
    folder = unpacked(TERRATORCH) / "terratorch"
    text = (folder / "models/utils.py").read_text()
    found = next(node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and node.name == "pad_images")
    utils = types.ModuleType("terratorch.models.utils")
    exec(compile(ast.Module([found], []), "utils.py", "exec"), utils.__dict__ | {"torch": torch}, utils.__dict__)
    for name in ("terratorch", "terratorch.models"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["terratorch.models.utils"] = utils
    place = importlib.util.spec_from_file_location("tiled_inference", folder / "tasks/tiled_inference.py")
    module = importlib.util.module_from_spec(place)
    sys.modules["tiled_inference"] = module
    place.loader.exec_module(module)
    return module.tiled_inference


def in_turns(ways: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Run all in turns: least seconds, after a first round, and what they return."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    found = {}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            found[name] = way()
            times[name].append(time.perf_counter() - start)
    return {name: min(taken[1:]) for name, taken in times.items()}, found


def told(title: str, times: dict[str, float], unit: str, count: float) -> dict[str, float]:
    """Print a table of seconds, and return them with how many times faster misoxr is than the fastest other."""
    print(title)
    for name, seconds in times.items():
        print(f"  {name:28s}{seconds:8.2f} s{seconds / count:12.3g} {unit}")
    others = min(seconds for name, seconds in times.items() if name != "misoxr")
    ratio = others / times["misoxr"]
    print(f"  misoxr is {ratio:.2f} times as fast as the fastest other", flush=True)
    return {name: float(f"{seconds:.4g}") for name, seconds in times.items()} | {"ratio": round(ratio, 2)}


def networks(preset: str, side: int, rounds: int) -> dict[str, float]:
    """Map a raster with a network."""
    spec = ModelSpec.preset(preset, tasks=(PERMAFROST, TAXONOMY))
    cube = noise(spec, (side, side))
    model = random_model(spec, cube)
    network, windows = model.network, spec.windows
    raw = torch.from_numpy(np.stack([cube[band.name].values for band in spec.bands]))
    axis = -1 + (2 * torch.arange(windows.size) + 1) / windows.size
    lattice = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)

    def dense(tiles: torch.Tensor) -> torch.Tensor:
        """Answer at every pixel of tiles (B, band, y, x)."""
        with torch.inference_mode():
            cells = network.project(model.inputs(tiles))
            parts = []
            for index in range(len(tiles)):  # all tiles at once would take gigabytes
                sample = torch.full((len(lattice),), index)
                parts.append(activate(spec, network(cells, sample, lattice)).reshape(-1, windows.size, windows.size))
            return torch.stack(parts)

    planned = plan_of(geobox_of(cube), spec, None)
    starts = [(row, column) for row in planned.y.starts for column in planned.x.starts]
    weights = [
        {start: axis.weight(start, start + np.arange(windows.size) + 0.5) for start in axis.starts}
        for axis in (planned.y, planned.x)
    ]

    def plain() -> np.ndarray:
        total, weight = np.zeros((spec.outputs, side, side), "float32"), np.zeros((side, side), "float32")
        for first in range(0, len(starts), BATCH):
            mine = starts[first : first + BATCH]
            tiles = torch.stack([raw[:, row : row + windows.size, column : column + windows.size] for row, column in mine])
            for (row, column), answer in zip(mine, dense(tiles).numpy(), strict=True):
                here = slice(row, row + windows.size), slice(column, column + windows.size)
                taper = np.outer(weights[0][row], weights[1][column]).astype("float32")
                total[:, *here] += answer * taper
                weight[here] += taper
        return total / weight

    theirs = tiled_inference()

    def tiled() -> np.ndarray:
        options = {"crop": windows.size, "stride": windows.stride, "delta": 0, "padding": False, "batch_size": BATCH}
        return theirs(lambda tiles, **_: dense(tiles), raw[None], **options)[0].numpy()

    lazy = cube.miso.predict(model, device="cpu")[["permafrost_probability", "taxonomy_probability"]]

    def ours() -> np.ndarray:
        found = lazy.compute()
        return np.concatenate([found.permafrost_probability.values[None], found.taxonomy_probability.values])

    times, found = in_turns({"plain loop in PyTorch": plain, "terratorch 1.2.13": tiled, "misoxr": ours}, rounds)
    middle = slice(windows.size, -windows.size)
    for name in ("plain loop in PyTorch", "terratorch 1.2.13"):
        difference = np.abs(found[name] - found["misoxr"])[:, middle, middle]
        print(f"  {name}: greatest difference {difference.max():.1e}, mean {difference.mean():.1e}")
    return told(f"{preset}, {side} x {side} pixels, windows of {windows.size} every {windows.stride}", times, "s a pixel", side**2)


def forests(side: int, rounds: int) -> dict[str, float]:
    """Map a raster with a forest on its bands."""
    sys.path.insert(0, str(unpacked(SKLEARN_RASTER)))
    from sklearn_raster import FeatureArrayEstimator

    land = simulate.landscape((side, side), seed=1)
    points = simulate.points(land, 600, seed=1)[["taxonomy", "geometry"]].dropna()
    forest = RandomForestClassifier(100, random_state=0, n_jobs=1)
    fitted = land.miso.fit(forest, points)
    bands = [band.name for band in fitted.spec.bands]
    rows = {axis: xr.DataArray(getattr(points.to_crs(land.rio.crs).geometry, axis).values, dims="point") for axis in ("x", "y")}
    table = np.stack([land[name].sel(method="nearest", **rows).values for name in bands], axis=1)
    known = np.isfinite(table).all(axis=1)
    theirs = FeatureArrayEstimator(RandomForestClassifier(100, random_state=0, n_jobs=1)).fit(
        table[known], points.taxonomy.values[known].astype(str)
    )
    lazy = land[bands].drop_vars("spatial_ref", errors="ignore").chunk({"y": side // 2, "x": side // 2})
    ours = land.chunk({"y": side // 2, "x": side // 2}).miso.predict(fitted)
    ways = {
        "sklearn-raster 0.1.0.dev2": lambda: theirs.predict_proba(lazy).compute(),
        "misoxr": lambda: ours.taxonomy_probability.compute(),
    }
    times, _ = in_turns(ways, rounds)
    return told(f"a forest of 100 trees, {side} x {side} pixels, {len(bands)} bands", times, "s a pixel", side**2)


def composites(rounds: int, size: int = 2048, dates: int = 16, latency: float = 0.03) -> dict[str, float]:
    """Stream a composite over HTTP, with GDAL as it is commonly advised for the others."""
    import odc.stac
    import pystac
    import rasterio
    import stackstac

    found: dict[str, Any] = {}
    box = GeoBox((size, size), Affine(10, 0, streaming.WEST, 0, -10, streaming.NORTH), streaming.CRS)
    with tempfile.TemporaryDirectory() as directory:
        streaming.write(Path(directory), size, dates, "deflate")

        def by_odc(items: list[dict[str, Any]]) -> None:
            with rasterio.Env(**streaming.GDAL):
                bands = [*streaming.BANDS, "scl"]
                there = [pystac.Item.from_dict(item) for item in items]
                cube = odc.stac.load(there, bands=bands, chunks={"x": 1024, "y": 1024}, geobox=box)
                seen = cube.scl == 4
                found["odc-stac"] = cube[list(streaming.BANDS)].where(seen).median("time").compute().red.values * 1e-4

        def by_stackstac(items: list[dict[str, Any]]) -> None:
            cube = stackstac.stack(
                [pystac.Item.from_dict(item) for item in items],
                assets=[*streaming.BANDS, "scl"],
                epsg=int(streaming.CRS[5:]),
                resolution=10,
                bounds=tuple(box.boundingbox),
                chunksize=1024,
                gdal_env=stackstac.DEFAULT_GDAL_ENV.updated(always=streaming.GDAL),
            )
            seen = cube.sel(band="scl") == 4
            made = cube.sel(band=list(streaming.BANDS)).where(seen).median("time").compute()
            found["stackstac"] = made.sel(band="red").values

        def ours(items: list[dict[str, Any]]) -> None:
            cube = misoxr.open_stac(items, bands=streaming.BANDS, reduce="median", chunks=1024, allow_private=True)
            found["misoxr"] = cube.compute().red.values

        def served(way: Callable[[list[dict[str, Any]]], None]) -> None:
            # Each has a server of its own, so that no cache knows the addresses.
            with range_server(directory, latency=latency) as address:
                way(streaming.items(address, size, dates))

        ways = {name: partial(served, way) for name, way in (("odc-stac", by_odc), ("stackstac", by_stackstac), ("misoxr", ours))}
        times, _ = in_turns(ways, rounds)
    difference = np.abs(found["odc-stac"] - found["misoxr"])
    print(
        f"  medians of odc-stac and misoxr, which also leaves out what lies beside clouds, differ by {np.nanmedian(difference):.1e} in the middle"
    )
    return told(f"a median composite, {dates} dates, {size} x {size} pixels, four bands", times, "s a pixel", size**2)


def main(preset: str, side: int, rounds: int, only: list[str]) -> None:
    """Run what is asked for, and print."""
    warnings.simplefilter("ignore")
    rows = {
        "networks": lambda: networks(preset, side, rounds),
        "forests": lambda: forests(side, rounds),
        "composites": lambda: composites(rounds),
    }
    print(json.dumps({name: rows[name]() for name in only}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="miso-nano")
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only", nargs="+", choices=("networks", "forests", "composites"), default=["networks", "forests", "composites"]
    )
    given = parser.parse_args()
    main(given.preset, given.side, given.rounds, given.only)
