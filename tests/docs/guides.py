"""Files that the documentation's code may use: small, SIMULATED, under the names that the guides give them."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import matplotlib
import numpy as np
import pandas as pd
import rioxarray  # noqa: F401
import shapely
import xarray as xr
from affine import Affine
from servers import range_server, stac_api

import misoxr
from misoxr import simulate
from misoxr.spec import COVARIATES, SENTINEL2
from tests.stac_scenes import outline, write_cog, write_collection

SIDE = 144
"""Rows and columns of 20 m: a little more than two windows of miso-nano."""


BLOCK = re.compile(r"(?:^% not run: (?P<reason>[^\n]*)\n)?^```python\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)

matplotlib.use("Agg")


@dataclass(frozen=True)
class Data:
    """A folder of files, and texts of the guides that stand for something else here."""

    folder: Path
    texts: dict[str, str]

    def here(self, code: str) -> str:
        """Return code with the addresses and lengths of this machine's data."""
        for text, other in self.texts.items():
            code = code.replace(text, other)
        return code

    def copy(self, folder: Path) -> None:
        """Put the files into a guide's own folder."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)


def make(folder: Path, servers: ExitStack) -> Data:
    """Write the files, and start the servers that the guides need."""
    served = folder / "served"
    files = servers.enter_context(range_server(folder))
    written = simulate.write(served, shape=(SIDE, SIDE), pixel_size=20.0, n_points=240, base_url=f"{files}/served/")
    data = folder / "data"
    data.mkdir()
    land = simulate.landscape((SIDE, SIDE), pixel_size=20.0)
    cube = land[[band.name for band in (*SENTINEL2, *COVARIATES)]]
    cube.chunk({"y": 72, "x": 72}).miso.to_zarr(data / "cube.zarr", progress=False)
    counts = (cube[[band.name for band in SENTINEL2]].to_dataarray("band") * 10_000).round().astype("uint16")
    counts.attrs = {"_FillValue": 0}
    counts.rio.write_crs("EPSG:3338").rio.to_raster(data / "scene.tif")
    for covariate, name in (("elevation", "dem"), ("slope", "slope"), ("wetness_index", "wetness")):
        cube[covariate].rio.write_crs("EPSG:3338").rio.to_raster(data / f"{name}.tif")
    cube.elevation.rio.write_crs("EPSG:3338").rio.reproject("EPSG:4326").rio.to_raster(data / "copernicus.tif")
    _normals(cube, data)
    cube[["stream_power_index", "wetness_index"]].miso.to_zarr(data / "hydrology.zarr", progress=False)
    _embedding(cube).rio.to_raster(data / "alphaearth.tif")
    _points(written.points, cube, data)
    west, south, east, north = cube.rio.bounds()
    halves = [shapely.box(west, south, (west + east) / 2, north), shapely.box((west + east) / 2, south, east, north)]
    gpd.GeoDataFrame({"name": ["west", "east"]}, geometry=halves, crs="EPSG:3338").to_file(data / "zones.gpkg")
    whole = gpd.GeoDataFrame(geometry=[shapely.box(west, south, east, north)], crs="EPSG:3338")
    whole.to_file(data / "tanana.gpkg")
    road = shapely.LineString([(west, south), ((west + east) / 2, north), (east, south)])
    gpd.GeoDataFrame({"name": ["loop"]}, geometry=[road], crs="EPSG:3338").to_file(data / "roads.gpkg")
    _items(written.items, data)
    _other_sensors(cube, data)
    api = servers.enter_context(stac_api(written.items))
    return Data(
        data,
        {
            "https://earth-search.aws.element84.com/v1": api,
            "sentinel-2-l2a": "sentinel-2-l2a-simulated",
            "ClusterKFold(10_000": "ClusterKFold(80",
            "https://planetarycomputer.microsoft.com/api/stac/v1": "planetary.json",
            "import planetary_computer\n": "\n",
            "planetary_computer.sign": "None",
            "n_jobs=-1": "n_jobs=1",  # other processes would not train for few steps alone
        },
    )


def _normals(cube: xr.Dataset, data: Path) -> None:
    """Monthly normals of about a kilometre around the cube, and three years of months; they are simulated, too."""
    west, south, east, north = cube.rio.transform_bounds("EPSG:4326")
    coords = {"y": np.arange(north + 0.05, south - 0.05, -0.01), "x": np.arange(west - 0.05, east + 0.05, 0.01)}
    month = xr.DataArray(np.arange(1, 13), dims="band", coords={"band": np.arange(1, 13)})
    flat = xr.DataArray(0.0, coords, ("y", "x"))
    mean = 14 - 1.1 * (month - 7) ** 2 + flat
    layers = {"tavg": mean, "tmin": mean - 6, "prec": 50 - (month - 7) ** 2 + flat, "normals_elevation": flat + 300}
    for name, layer in layers.items():
        layer.astype("float32").rio.write_crs("EPSG:4326").rio.to_raster(data / f"{name}.tif")
    times = pd.date_range("1991-01-01", periods=36, freq="MS")
    years = xr.concat([mean] * 3, "band").rename(band="time").assign_coords(time=times).assign_attrs(units="degC")
    years.rename("tmean").to_dataset().rio.write_crs("EPSG:4326").to_zarr(data / "monthly.zarr")


def _embedding(cube: xr.Dataset) -> xr.DataArray:
    """Unit vectors that follow from the bands, stored as AlphaEarth's files store theirs; they are simulated."""
    bands = cube.to_dataarray("band").values
    standard = (bands - bands.mean((1, 2), keepdims=True)) / bands.std((1, 2), keepdims=True)
    mixed = np.einsum("fb,byx->fyx", np.random.default_rng(0).standard_normal((64, len(bands))), standard)
    vectors = mixed / np.linalg.norm(mixed, axis=0)
    stored = np.rint(np.sign(vectors) * np.sqrt(np.abs(vectors)) * 127.5).astype("int8")
    array = xr.DataArray(stored, dims=("band", "y", "x"), coords={"y": cube.y, "x": cube.x}, attrs={"_FillValue": -128})
    return array.rio.write_crs("EPSG:3338")


def _other_sensors(cube: xr.Dataset, data: Path) -> None:
    """Items of HLS, Landsat, Sentinel-1 and a drone, of the same ground; they are simulated."""
    hls = {"B02": "blue", "B03": "green", "B04": "red"}
    s30 = hls | {"B8A": "nir", "B11": "swir16", "B12": "swir22"}
    l30 = hls | {"B05": "nir", "B06": "swir16", "B07": "swir22"}
    fmask, clear = ("Fmask", np.uint8(0b01000000)), ("qa_pixel", np.uint16(21824))
    kelvin = np.full(cube.red.shape, 44_000, "uint16")
    items = [
        _item(data, "hls2-s30", "HLS.S30.T05WNR.2022190", 9, {key: _counts(cube[band], 1e-4) for key, band in s30.items()}, fmask),
        _item(data, "hls2-l30", "HLS.L30.T05WNR.2022191", 10, {key: _counts(cube[band], 1e-4) for key, band in l30.items()}, fmask),
        _item(
            data,
            "landsat-c2-l2",
            "LC09_L2SP_067015_20220711_02_T1",
            11,
            {"red": _counts(cube.red, 2.75e-5, -0.2), "nir08": _counts(cube.nir, 2.75e-5, -0.2), "lwir11": kelvin},
            clear,
        ),
    ]
    for orbit, day in (("ascending", 12), ("descending", 13)):
        values = {"vv": cube.nir.values.astype("float32"), "vh": cube.red.values.astype("float32")}
        items.append(_item(data, "sentinel-1-rtc", f"S1A_{orbit}", day, values, None, {"sat:orbit_state": orbit}))
    write_collection(data / "planetary.json", items)
    bands = {"band_1": _counts(cube.red, 1 / 32768), "band_2": _counts(cube.nir, 1 / 32768)}
    write_collection(data / "flights.json", [_item(data, "drones", "flight", 14, bands, ("quality", np.uint8(0)))])


def _counts(band: xr.DataArray, scale: float, offset: float = 0.0) -> np.ndarray:
    return ((band.values - offset) / scale).round().astype("uint16")


def _item(
    data: Path, collection: str, name: str, day: int, bands: dict, quality: tuple | None, properties: dict | None = None
) -> dict:
    """Write an item's files on the landscape's grid, and return it."""
    shape = SIDE, SIDE
    bands = bands if quality is None else bands | {quality[0]: np.full(shape, quality[1])}
    sides = xr.open_zarr(data / "cube.zarr", decode_coords="all").rio.bounds()
    transform = Affine(20, 0, sides[0], 0, -20, sides[3])
    grid = {"proj:code": "EPSG:3338", "proj:transform": list(transform)[:6], "proj:shape": list(shape)}
    for key, values in bands.items():
        write_cog(data / name / f"{key}.tif", values, transform, "EPSG:3338", None)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": collection,
        **outline((sides[0], sides[3]), (2 * SIDE, 2 * SIDE), "EPSG:3338"),
        "properties": {"datetime": f"2022-07-{day:02d}T21:00:00Z", "misoxr:simulated": True, **grid, **(properties or {})},
        "links": [],
        "assets": {key: {"href": f"{name}/{key}.tif"} for key in bands},
    }


def _points(path: Path, cube: xr.Dataset, data: Path) -> None:
    """Points with the columns that the guides name; carbon and drainage follow from the covariates, and are simulated, too."""
    points = gpd.read_file(path)
    at = {"x": xr.DataArray(points.geometry.x), "y": xr.DataArray(points.geometry.y)}
    wet = cube.wetness_index.sel(at, method="nearest").values
    points = points.rename(columns={"permafrost": "pf1m", "taxonomy": "tax_order"})
    points["site"] = np.arange(len(points))
    points["depth_cm"], points["gps_m"] = np.where(points.site % 4, 120, 60), np.where(points.site % 3, 5, 40)
    points["seen"] = np.where(points.site % 2, "2019-07-15", "2022-08-01")
    points["region"] = np.where(points.geometry.x > points.geometry.x.median(), "east", "west")
    points.to_file(data / "pedons.gpkg")
    dry, moist = np.quantile(wet, [0.3, 0.7])
    classes = np.select([wet < dry, wet < moist], ["dry", "moist"], "wet")
    places = points[["geometry"]]
    places.assign(drainage=classes).to_file(data / "drainage.gpkg")
    carbon = np.exp(0.3 * (wet - wet.mean()) / wet.std() + 2.5)
    lonlat = places.to_crs("EPSG:4326")
    lonlat.assign(soc_kg_m2=carbon, lon=lonlat.geometry.x, lat=lonlat.geometry.y).drop(columns="geometry").to_csv(
        data / "carbon.csv", index=False
    )


def _items(items: Path, data: Path) -> None:
    collection = json.loads(items.read_text())
    gpd.GeoDataFrame.from_features(collection["features"])  # they are items with geometries
    shutil.copy(items, data / "items.json")


def prepare_model(data: Data) -> None:
    """Train the model that guides load, for one epoch."""
    image = xr.open_zarr(data.folder / "cube.zarr", decode_coords="all", chunks={})
    points = misoxr.read_points(data.folder / "pedons.gpkg", labels={"permafrost": "pf1m", "taxonomy": "tax_order"})
    model = image.miso.fit("miso-nano", points, progress=False)
    model.save(data.folder / "model.safetensors")
    _visited(image.miso.predict(model, tasks=["permafrost"]).permafrost.compute(), data.folder)


def _visited(array: xr.DataArray, data: Path) -> None:
    """A stratified sample of a map with what was seen, most of it what the map says; it is simulated, too."""
    rng, parts = np.random.default_rng(0), []
    for code, name in enumerate(array.attrs["flag_meanings"].split()):
        places = np.flatnonzero(array.values == code)
        drawn = rng.choice(places, min(60, len(places)), replace=False)
        table = {"stratum": name, "inclusion_probability": len(drawn) / max(len(places), 1)}
        parts.append(pd.DataFrame({"at": drawn, "code": np.where(rng.random(len(drawn)) < 0.15, 1 - code, code), **table}))
    sites = pd.concat(parts, ignore_index=True)
    rows, columns = np.unravel_index(sites.pop("at"), array.shape)
    sites["permafrost"] = np.array(array.attrs["flag_meanings"].split())[sites.pop("code")]
    places = gpd.points_from_xy(array.x.values[columns], array.y.values[rows], crs="EPSG:3338")
    gpd.GeoDataFrame(sites, geometry=places).to_file(data / "visited.gpkg")


def blocks(path: Path) -> Iterator[tuple[int, str, str | None]]:
    """Yield each Python block's first line, code, and the reason why it is not run."""
    text = path.read_text()
    for found in BLOCK.finditer(text):
        yield text[: found.start("code")].count("\n") + 1, found["code"], found["reason"]


def run(path: Path, data: Data) -> None:
    """Run a page's blocks, one after the other, in the current folder."""
    if 'to_zarr("cube.zarr")' in path.read_text():  # the page makes its own
        shutil.rmtree("cube.zarr")
    names = {"__name__": "__main__"}
    for line, code, reason in blocks(path):
        if reason is None:
            exec(compile("\n" * (line - 1) + data.here(code), str(path), "exec"), names)
