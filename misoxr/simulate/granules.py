"""Sentinel-2 passes over a simulated landscape, written as cloud-optimised GeoTIFFs and STAC items."""

import json
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from scipy import ndimage

from misoxr.grid.geobox import geobox_of
from misoxr.paths import write
from misoxr.simulate.nature import CLEAR_SUN, SIMULATOR_VERSION, incidence
from misoxr.simulate.terrain import Floats, generator, noise
from misoxr.spec import COVARIATES, SENTINEL2

__all__ = ["ACQUISITIONS", "COLLECTION", "Acquisition", "write_covariates", "write_granules"]

COLLECTION = "sentinel-2-l2a-simulated"
"""Collection of the items."""
OVERLAP = 0.1
"""Share of the area's width that both granules of a pass cover."""
OFFSET = 1000
"""Counts that processing baseline 04.00 and later add."""

_CLOUD = (0.52, 0.51, 0.53, 0.53, 0.54, 0.55, 0.56, 0.42, 0.33)
_PHENOLOGY = (0.30, 0.12, 0.10, 0.15, -0.16, -0.20, -0.20, 0.16, 0.25)
"""Relative change of each band a month and a half from the height of summer."""
_HAZE = (0.5, 0.7, 1.0, 0.4, 0.3, 0.25, 0.2, 0.1, 0.05)
_BANDS = {"red": "B04", "green": "B03", "blue": "B02", "rededge071": "B05", "rededge075": "B06", "rededge078": "B07"}
_BANDS |= {"nir": "B08", "swir16": "B11", "swir22": "B12"}
_WAVELENGTHS = (0.665, 0.56, 0.49, 0.704, 0.74, 0.783, 0.842, 1.61, 2.19)


@dataclass(frozen=True)
class Acquisition:
    """One pass of the satellite, and how its granules are processed and described.

    Attributes
    ----------
    time : datetime
        UTC, without a zone.
    baseline : str
        Processing baseline.
    offset : bool
        Whether the counts in the files are 1000 too high, as ESA delivers them since baseline 04.00.
    applied : bool or None
        ``earthsearch:boa_offset_applied``; None leaves it out.
    declared : float or None
        Offset that ``raster:bands`` declares; None leaves ``raster:bands`` out.
    clouds : float
        Share of the area under cloud.
    edge : float
        Where the swath ends: share of the area's northern edge that it leaves out in the west; 0 if it covers all.
    """

    time: datetime
    baseline: str
    offset: bool
    applied: bool | None = None
    declared: float | None = None
    clouds: float = 0.25
    edge: float = 0.0

    @property
    def name(self) -> str:
        """Date of the pass in names of files and items."""
        return f"{self.time:%Y%m%d}"

    @property
    def zenith(self) -> float:
        """Zenith of the sun in degrees, near the Tanana at noon."""
        return 64.8 - 23.44 * math.cos(2 * math.pi * (self.time.timetuple().tm_yday - 172) / 365)

    @property
    def late(self) -> float:
        """Periods of 45 days after the height of summer; negative before."""
        return (self.time.timetuple().tm_yday - 196) / 45


ACQUISITIONS = (
    Acquisition(datetime(2019, 7, 3, 21, 35, 19), "02.12", offset=False, clouds=0.30),
    Acquisition(datetime(2020, 7, 19, 21, 45, 31), "02.14", offset=False, applied=False, declared=0.0, clouds=0.18, edge=0.12),
    Acquisition(datetime(2021, 8, 6, 21, 35, 29), "05.00", offset=True, applied=False, clouds=0.25),
    Acquisition(datetime(2022, 6, 28, 21, 45, 41), "04.00", offset=False, applied=True, declared=-0.1, clouds=0.35),
    Acquisition(datetime(2022, 8, 15, 21, 35, 21), "04.00", offset=True, clouds=0.20, edge=0.2),
    Acquisition(datetime(2023, 7, 12, 21, 45, 39), "05.09", offset=True, applied=False, declared=-0.1, clouds=0.28),
)
"""Six passes in five summers. They hold what catalogues hold: reprocessed images of before 2022, counts that the catalogue has put
right while ``raster:bands`` still declares the offset (Earth Search, its issue 66), and items that only name the baseline."""


def write_covariates(directory: Path, truth: xr.Dataset) -> dict[str, Path]:
    """Write each covariate of a simulated landscape as a COG, its name and units in the band's metadata."""
    directory.mkdir(parents=True, exist_ok=True)
    geobox = geobox_of(truth)
    paths = {band.name: directory / f"{band.name}.tif" for band in COVARIATES}
    for band in COVARIATES:
        _write_cog(paths[band.name], truth[band.name].values, geobox, band.name, band.units, float("nan"))
    return paths


def write_granules(
    directory: Path, truth: xr.Dataset, acquisitions: Iterable[Acquisition], *, seed: int, base_url: str | None = None
) -> Path:
    """Write two overlapping granules per pass, and the items that describe them.

    Parameters
    ----------
    directory : Path
        Gets ``items.json`` and a directory per granule.
    truth : Dataset
        From :func:`misoxr.simulate.nature`.
    acquisitions : iterable of Acquisition
        The passes.
    seed : int
        Seed of clouds, haze and sensor noise.
    base_url : str, optional
        What hrefs start with; by default they are relative to ``items.json``.

    Returns
    -------
    Path
        The items.
    """
    geobox = geobox_of(truth)
    items = []
    for acquisition in acquisitions:
        scene, classes = _scene(truth, acquisition, seed)
        tasks = []
        for tile, columns in _tiles(geobox.shape.x).items():
            box = geobox[:, columns]
            name = f"SIM_{tile}_{acquisition.name}_L2A"
            (directory / name).mkdir(exist_ok=True)
            items.append(_item(name, tile, acquisition, box, classes[:, columns], base_url))
            tasks.append((directory / name, columns, box))
        with ThreadPoolExecutor(2) as pool:
            for path, columns, box in tasks:
                _write_cog(path / "scl.tif", classes[:, columns], box, "scl", "1", 0)
            done = [pool.submit(_band, index, scene, classes, tasks) for index in range(len(SENTINEL2))]
            for future in done:
                future.result()
    path = directory / "items.json"
    write(path, json.dumps({"type": "FeatureCollection", "features": items}, indent=1).encode())
    return path


def _tiles(width: int) -> dict[str, slice]:
    """Return the columns of the western and the eastern granule."""
    half = max(1, round(width * OVERLAP / 2))
    return {"W": slice(0, width // 2 + half), "E": slice(width // 2 - half, width)}


@dataclass(frozen=True)
class _Scene:
    """What is common to the bands of one pass, (y, x)."""

    truth: xr.Dataset
    acquisition: Acquisition
    seed: int
    cloud: Floats
    shadow: Floats
    lit: Floats

    def generator(self, part: str) -> np.random.Generator:
        return generator(self.seed, f"{self.acquisition.name} {part}")


def _scene(truth: xr.Dataset, acquisition: Acquisition, seed: int) -> tuple[_Scene, npt.NDArray[np.uint8]]:
    """Return clouds, their shadows and the light of one pass, and its scene classification."""
    pixel = abs(geobox_of(truth).affine.a)
    shape = truth["elevation"].shape
    # taller than the area, so that shadows of clouds south of the area fall into it
    north = round(1_300 / pixel)
    field = noise(seed, f"{acquisition.name} clouds", (shape[0] + north, shape[1]), pixel, 9_000, 250, 3.2)
    level = np.quantile(field[::4, ::4], 1 - acquisition.clouds)
    opacity = np.clip((field - level + 0.12) / 0.6, 0, 1)
    cloud, shadow = opacity[: shape[0]], opacity[north:]
    slope, aspect = truth["slope"].values, truth["aspect"].values
    lit = incidence(slope, aspect, acquisition.zenith, CLEAR_SUN[1]) / incidence(slope, aspect, *CLEAR_SUN)
    scene = _Scene(truth, acquisition, seed, cloud, np.asarray(ndimage.uniform_filter(shadow, 5)), lit)
    return scene, _classes(scene)


def _classes(scene: _Scene) -> npt.NDArray[np.uint8]:
    """Return the scene classification (SCL) as Sen2Cor's codes; the thin rims of clouds escape it, as they do."""
    red, nir = scene.truth["red"].values, scene.truth["nir"].values
    surface = scene.truth["surface"].values
    classes = np.where((nir - red) / (nir + red) < 0.35, 5, 4).astype("uint8")
    classes[surface == 1] = 6
    classes[surface == 2] = 11
    classes[scene.generator("speckle").random(classes.shape, dtype="float32") < 0.002] = 7
    classes[scene.shadow > 0.3] = 3
    classes[scene.cloud > 0.12] = 8
    classes[scene.cloud > 0.45] = 9
    rows, columns = (np.arange(n, dtype="float32") / n for n in classes.shape)
    outside = columns[None, :] < scene.acquisition.edge * (1 - rows[:, None])
    classes[outside] = 0
    return classes


def _band(index: int, scene: _Scene, classes: npt.NDArray[np.uint8], tiles: Sequence[tuple[Path, slice, GeoBox]]) -> None:
    """Render one band of one pass and write it into its granules."""
    name, acquisition = SENTINEL2[index].name, scene.acquisition
    random = scene.generator(name)
    season = 1 + _PHENOLOGY[index] * acquisition.late**2
    gain, haze = random.normal(1, 0.015), _HAZE[index] * scene.generator("haze").uniform(0.001, 0.008)
    land = np.where(classes == 6, np.float32(1), np.float32(season)) * scene.lit
    value = scene.truth[name].values * land * float(gain) * (1 - 0.55 * scene.shadow) + haze
    value += scene.cloud * (_CLOUD[index] - value)
    value += random.standard_normal(value.shape, dtype="float32") * (0.0012 + 0.012 * value)
    counts = np.rint(value * 10_000) + (OFFSET if acquisition.offset else 0)
    counts = np.where(classes == 0, 0, np.clip(counts, 1, 65_535)).astype("uint16")
    for path, columns, box in tiles:
        _write_cog(path / f"{name}.tif", counts[:, columns], box, name, "DN", 0)


def _write_cog(path: Path, values: npt.NDArray[Any], geobox: GeoBox, name: str, units: str, nodata: float) -> None:
    """Write a file; one that is the same already stays, so that what was made of it is known to be."""
    from rasterio.io import MemoryFile

    options: dict[str, Any] = {"compress": "DEFLATE", "level": 1, "blocksize": 512, "overviews": "NONE", "num_threads": 1}
    options["predictor"] = 3 if values.dtype.kind == "f" else 2
    with MemoryFile() as made:
        with made.open(
            driver="COG", width=values.shape[1], height=values.shape[0], count=1, dtype=values.dtype, nodata=nodata,
            crs=str(geobox.crs), transform=geobox.affine, **options,
        ) as file:  # fmt: skip
            file.write(values, 1)
            file.set_band_description(1, name)
            file.units = (units,)
            file.update_tags(MISOXR_SIMULATED="1", MISOXR_SIMULATOR_VERSION=SIMULATOR_VERSION)
        data = bytes(made.getbuffer())
    if not (path.is_file() and path.read_bytes() == data):
        write(path, data)


def _item(
    name: str, tile: str, acquisition: Acquisition, box: GeoBox, classes: npt.NDArray[np.uint8], base_url: str | None
) -> dict[str, Any]:
    """Return the STAC item of a granule."""
    outline = _outline(box)
    time = acquisition.time + timedelta(seconds=0 if tile == "W" else 4)
    valid = classes[classes > 0]
    properties: dict[str, Any] = {
        "datetime": f"{time:%Y-%m-%dT%H:%M:%SZ}",
        "title": f"Simulated Sentinel-2 granule, {acquisition.time:%Y-%m-%d}, {tile}",
        "description": "Simulated by misoxr: no satellite took this image.",
        "misoxr:simulated": True,
        "misoxr:simulator_version": SIMULATOR_VERSION,
        "platform": "simulated",
        "gsd": abs(box.affine.a),
        "processing:level": "L2A",
        "s2:processing_baseline": acquisition.baseline,
        "eo:cloud_cover": round(100 * float(np.isin(valid, (8, 9)).mean()), 2) if valid.size else 100.0,
        "view:sun_elevation": round(90 - acquisition.zenith, 2),
        "view:sun_azimuth": CLEAR_SUN[1],
        "proj:code": str(box.crs),
        "proj:shape": list(box.shape.yx),
        "proj:transform": list(box.affine)[:6],
    }
    if acquisition.applied is not None:
        properties["earthsearch:boa_offset_applied"] = acquisition.applied
    root = f"{base_url.rstrip('/')}/{name}" if base_url else f"./{name}"
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [f"https://stac-extensions.github.io/{part}/schema.json" for part in _EXTENSIONS],
        "id": name,
        "collection": COLLECTION,
        "geometry": {"type": "Polygon", "coordinates": [outline.round(7).tolist()]},
        "bbox": [*outline.min(0).round(7).tolist(), *outline.max(0).round(7).tolist()],
        "properties": properties,
        "links": [],
        "assets": _assets(root, acquisition, box.affine, box.shape.yx),
    }


_EXTENSIONS = ("eo/v1.1.0", "projection/v2.0.0", "raster/v1.1.0", "view/v1.0.0", "processing/v1.1.0")


def _assets(root: str, acquisition: Acquisition, affine: Affine, shape: tuple[int, int]) -> dict[str, Any]:
    cog = "image/tiff; application=geotiff; profile=cloud-optimized"
    grid = {"proj:shape": list(shape), "proj:transform": list(affine)[:6]}
    assets: dict[str, Any] = {}
    for band, wavelength in zip(SENTINEL2, _WAVELENGTHS, strict=True):
        described = {"name": _BANDS[band.name], "common_name": band.name, "center_wavelength": wavelength}
        asset = {"href": f"{root}/{band.name}.tif", "type": cog, "roles": ["data", "reflectance"], "eo:bands": [described], **grid}
        if acquisition.declared is not None:
            asset["raster:bands"] = [{"nodata": 0, "data_type": "uint16", "scale": 1e-4, "offset": acquisition.declared}]
        assets[band.name] = asset
    classified = [{"nodata": 0, "data_type": "uint8"}]
    assets["scl"] = {"href": f"{root}/scl.tif", "type": cog, "roles": ["data"], "raster:bands": classified, **grid}
    return assets


def _outline(box: GeoBox) -> npt.NDArray[np.float64]:
    """Return the footprint as a closed ring of longitudes and latitudes, counterclockwise."""
    west, south, east, north = box.boundingbox.bbox
    steps = np.linspace(0, 1, 9)[:-1]
    x = np.concatenate([west + (east - west) * steps, np.full(8, east), east - (east - west) * steps, np.full(8, west)])
    y = np.concatenate([np.full(8, south), south + (north - south) * steps, np.full(8, north), north - (north - south) * steps])
    lonlat = pyproj.Transformer.from_crs(str(box.crs), "EPSG:4326", always_xy=True).transform(x, y)
    ring = np.stack(lonlat, axis=1)
    return np.concatenate([ring, ring[:1]])
