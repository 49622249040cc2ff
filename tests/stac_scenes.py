"""Small Sentinel-2-like items with COG assets, for the tests of reading STAC."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import rasterio
from affine import Affine

TEN = ("red", "nir")
TWENTY = ("swir16",)
ORIGIN = (500_000.0, 7_200_000.0)
SIZE = (128, 160)


def write_cog(path: Path, values: npt.NDArray[Any], transform: Affine, crs: str, nodata: float | None = 0, tile: int = 64) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "count": 1, "height": values.shape[0], "width": values.shape[1], "dtype": values.dtype.name}
    profile |= {"crs": crs, "transform": transform, "nodata": nodata, "compress": "deflate"}
    profile |= {"tiled": True, "blockxsize": tile, "blockysize": tile}
    with rasterio.open(path, "w", **profile) as file:
        file.write(values, 1)


def counts(shape: tuple[int, int], seed: int) -> npt.NDArray[np.uint16]:
    """Smooth counts between 200 and 5000, and a corner without data."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    values = (2500 + 1500 * noise / np.abs(noise).max()).astype("uint16")
    values[: shape[0] // 8, : shape[1] // 8] = 0
    return values


def make_item(
    directory: Path,
    name: str,
    time: str = "2020-07-01T21:00:00Z",
    *,
    baseline: str | None = "03.00",
    properties: Mapping[str, Any] | None = None,
    origin: tuple[float, float] = ORIGIN,
    size: tuple[int, int] = SIZE,
    crs: str = "EPSG:32605",
    seed: int = 0,
    scl: npt.NDArray[np.uint8] | None = None,
    raise_counts: int = 0,
    prefix: str = "",
    collection: str = "sentinel-2-l2a",
) -> dict[str, Any]:
    """Write an item's assets below ``directory / name`` and return the item; its hrefs are ``prefix`` and the relative path.

    The 10 m grid starts at ``origin``; the 20 m grid starts 5 m south-east of it.
    """
    ten = Affine(10, 0, origin[0], 0, -10, origin[1])
    twenty = Affine(20, 0, origin[0] + 5, 0, -20, origin[1] - 5)
    half = size[0] // 2, size[1] // 2
    rasters: dict[str, tuple[npt.NDArray[Any], Affine]] = {}
    for index, band in enumerate(TEN):
        rasters[band] = counts(size, 10 * seed + index), ten
    for index, band in enumerate(TWENTY):
        rasters[band] = counts(half, 10 * seed + 5 + index), twenty
    rasters["scl"] = np.full(half, 4, dtype="uint8") if scl is None else scl, twenty
    assets = {}
    for band, (values, transform) in rasters.items():
        if band != "scl" and raise_counts:
            values = np.where(values == 0, 0, values + raise_counts).astype("uint16")
        write_cog(directory / name / f"{band}.tif", values, transform, crs)
        assets[band] = {
            "href": f"{prefix}{name}/{band}.tif",
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "roles": ["data"],
            "proj:transform": list(transform)[:6],
            "proj:shape": list(values.shape),
        } | ({} if band == "scl" else {"eo:bands": [{"name": band, "common_name": band}]})
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": name,
        "collection": collection,
        **outline(origin, size, crs),
        "properties": {
            "datetime": time,
            "proj:epsg": int(crs.partition(":")[2]),
            **({} if baseline is None else {"s2:processing_baseline": baseline}),
            **(properties or {}),
        },
        "links": [],
        "assets": assets,
    }


def outline(origin: tuple[float, float], size: tuple[int, int], crs: str) -> dict[str, Any]:
    """Return geometry and bbox, longitude and latitude."""
    west, north = origin
    east, south = west + 10 * size[1] + 10, north - 10 * size[0] - 10
    corners = [(west, north), (west, south), (east, south), (east, north), (west, north)]
    transformer = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    ring = [list(transformer.transform(*corner)) for corner in corners]
    x, y = zip(*ring, strict=True)
    return {"geometry": {"type": "Polygon", "coordinates": [ring]}, "bbox": [min(x), min(y), max(x), max(y)]}


def plain_item(
    directory: Path,
    name: str,
    time: str,
    assets: Mapping[str, tuple[npt.NDArray[Any], Mapping[str, Any]]],
    *,
    collection: str = "sentinel-2-l2a",
    properties: Mapping[str, Any] | None = None,
    nodata: float | None = 0,
    crs: str = "EPSG:32605",
) -> dict[str, Any]:
    """Write any rasters of 10 m, a few pixels large, and return their item; each asset is its values and further fields."""
    transform = Affine(10, 0, ORIGIN[0], 0, -10, ORIGIN[1])
    for key, (values, _) in assets.items():
        write_cog(directory / name / f"{key}.tif", values, transform, crs, nodata, tile=16)
    shape = max(values.shape for values, _ in assets.values())
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": name,
        "collection": collection,
        **outline(ORIGIN, shape, crs),
        "properties": {"datetime": time, "proj:code": crs, **(properties or {})},
        "links": [],
        "assets": {
            key: {"href": f"{name}/{key}.tif", "proj:transform": list(transform)[:6], "proj:shape": list(values.shape), **fields}
            for key, (values, fields) in assets.items()
        },
    }


def write_collection(path: Path, items: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return path
