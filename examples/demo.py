"""The main job, end to end, on a simulated landscape: STAC search, lazy cube, training, prediction, Zarr, a picture.

    python examples/demo.py [--directory demo]

Imagery, covariates, labels and truth are simulated (no Alaska data can be had), and every output says so. What is real is the
way: a STAC API is started and searched, cloud-optimised GeoTIFFs are streamed from it over HTTP, and the maps go to Zarr.
"""

import argparse
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import geopandas as gpd
import matplotlib
import numpy as np
import xarray as xr
from scipy.spatial import cKDTree
from servers import range_server, stac_api

import misoxr
from misoxr import simulate
from misoxr.grid.geobox import geobox_of
from misoxr.metrics import scores
from misoxr.plot import classes, probability, true_colour
from misoxr.points.read import encode, place
from misoxr.spec import PERMAFROST, SENTINEL2, TAXONOMY

matplotlib.use("Agg")

SHAPE = (1600, 2200)
"""Rows and columns of 20 m: 32 x 44 km."""
CLIMATE = ("annual_precipitation", "summer_warmth_index", "january_minimum_temperature")
TRAIN_KM, GAP_KM = 20.0, 10.0
"""Training points lie in the first kilometres from the west; test points at least the gap further east."""


@contextmanager
def step(words: str):
    """Say what is done, and how long it took."""
    print(f"\n-- {words}", flush=True)
    start = time.perf_counter()
    yield
    print(f"   {time.perf_counter() - start:.0f} s", flush=True)


def composite(api: str) -> xr.Dataset:
    """The median of five summers, lazily."""
    return misoxr.open_stac(
        api,
        collections=["sentinel-2-l2a-simulated"],
        years=range(2019, 2024),
        season=("06-20", "08-20"),
        reduce="median",
        crs="EPSG:3338",
        resolution=20,
    )


def with_covariates(image: xr.Dataset, rasters: dict[str, str]) -> xr.Dataset:
    """Add the climate as it is, and terrain and hydrology as they follow from the DEM."""
    climate = {name: rasters[name] for name in CLIMATE}
    return image.miso.add(**climate).miso.add_terrain(rasters["elevation"])


def observed(points: gpd.GeoDataFrame, cube: xr.Dataset) -> gpd.GeoDataFrame:
    """Leave out the points that lie under clouds or snow at every date: no model has imagery there."""
    placed, rows, columns = place(points, geobox_of(cube))
    at = {name: xr.DataArray(np.floor(part).astype(int), dims="point") for name, part in (("y", rows), ("x", columns))}
    pixels = cube[[band.name for band in SENTINEL2]].isel(at).to_dataarray()
    seen = pixels.notnull().any("variable").to_numpy()
    print(f"   {(~seen).sum()} of {len(seen)} points lie under clouds or snow at every date; they are left out for all")
    return placed[seen]


def split(points: gpd.GeoDataFrame, west: float) -> tuple[gpd.GeoDataFrame, gpd.GeoDataFrame]:
    """Training points in the west, and test points in 10 km blocks that lie 10 km or more from every training point."""
    x, y = points.geometry.x.to_numpy(), points.geometry.y.to_numpy()
    train = x < west + 1000 * TRAIN_KM
    distance, _ = cKDTree(np.stack([x[train], y[train]], 1)).query(np.stack([x, y], 1))
    blocks = np.floor((x - west) / 10_000)
    # A block is held out whole, or not at all.
    near = np.unique(blocks[distance < 1000 * GAP_KM])
    test = ~np.isin(blocks, near)
    print(f"   {train.sum()} training points, {test.sum()} test points; the nearest are {distance[test].min() / 1000:.1f} km apart")
    return points[train], points[test]


def answers(found: xr.Dataset) -> dict[str, np.ndarray]:
    """Probabilities at the test points, by task."""
    found = found.compute()
    return {
        "permafrost": found.permafrost_probability.values,
        "taxonomy": found.taxonomy_probability.transpose("point", "taxon").values,
    }


def report(truth: xr.Dataset, test: gpd.GeoDataFrame, compared: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, float]]:
    """Print the held-out scores, each model beside the others and beside the best that can be reached."""
    labels = encode(test, [PERMAFROST, TAXONOMY])
    table = {}
    for name, answers in compared.items():
        permafrost, taxonomy = (scores(task, labels[task.name], answers[task.name]) for task in (PERMAFROST, TAXONOMY))
        table[name] = {"roc_auc": permafrost["roc_auc"], "macro_f1": taxonomy["macro_f1"]}
    best = simulate.bayes_scores(truth, test)
    table["best reachable (Bayes)"] = {"roc_auc": best["permafrost_roc_auc"], "macro_f1": best["taxonomy_macro_f1"]}
    print(f"\nHeld out, SIMULATED labels, 10 km blocks 10 km or more from every training point ({len(test)} points):")
    print(f"{'':40s}permafrost ROC-AUC   taxonomy macro F1")
    for name, row in table.items():
        print(f"{name:40s}{row['roc_auc']:18.3f}{row['macro_f1']:20.3f}")
    return table


def picture(cube: xr.Dataset, maps: xr.Dataset, truth: xr.Dataset, path: Path) -> None:
    """Imagery, both maps and both truths, side by side."""
    from matplotlib import pyplot

    canvas, axes = pyplot.subplots(2, 3, figsize=(19, 9), layout="constrained")
    true_colour(cube, axes[0, 0])
    probability(maps.permafrost_probability, axes[0, 1])
    classes(maps.taxonomy, axes[0, 2])
    probability(truth.permafrost_probability, axes[1, 1])
    classes(truth.taxonomy_probability.argmax("taxon").assign_attrs(truth.taxonomy.attrs), axes[1, 2])
    axes[1, 0].axis("off")
    axes[1, 0].text(0.5, 0.5, "SIMULATED landscape\nabove: predicted\nbelow: truth", ha="center", va="center", fontsize=16)
    titles = {(0, 0): "Composite (RGB)", (0, 1): "Permafrost, predicted", (0, 2): "Soil order, predicted"}
    titles |= {(1, 1): "Permafrost, truth", (1, 2): "Most probable soil order, truth"}
    for at, title in titles.items():
        axes[at].set(title=title, xlabel="x (km)", ylabel="y (km)")
    canvas.savefig(path, dpi=80)


def main(directory: Path) -> None:
    """Run the demo and leave its outputs in the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("scene", "cube.zarr", "maps.zarr"):
        shutil.rmtree(directory / name, ignore_errors=True)
    with range_server(directory) as files:
        with step("simulate a landscape, and write imagery as COGs with STAC items"):
            written = simulate.write(directory / "scene", shape=SHAPE, pixel_size=20.0, n_points=5000, base_url=f"{files}/scene/")
        covariates = {name: f"{files}/scene/covariates/{path.name}" for name, path in written.covariates.items()}
        with (
            stac_api(written.items) as api,
            step(
                "search the STAC API, composite five summers over HTTP, add climate, compute terrain and hydrology of the DEM, keep the cube"
            ),
        ):
            image = composite(api)
            with_covariates(image, covariates).miso.to_zarr(directory / "cube.zarr")
    cube = xr.open_zarr(directory / "cube.zarr", consolidated=False)
    truth = xr.open_zarr(written.truth, consolidated=False)
    points = misoxr.read_points(written.points, labels={"permafrost": "permafrost", "taxonomy": "taxonomy"})
    points = observed(points, cube)
    train, test = split(points, west=float(cube.x[0]))
    with step("train miso-nano on the labelled points"):
        model = cube.miso.fit("miso-nano", train)
        model.save(directory / "model.safetensors")
    with step("predict the whole area into Zarr"):
        start = time.perf_counter()
        cube.miso.predict(directory / "model.safetensors").miso.to_zarr(directory / "maps.zarr")
        seconds = time.perf_counter() - start
    maps = misoxr.open_maps(directory / "maps.zarr")
    compared = {"MISO (miso-nano)": answers(cube.miso.predict_at(model, test))}
    with step("train the baselines"):
        for name in ("rf-11", "rf-neighbourhood", "vote-neighbourhood"):
            compared[name] = answers(cube.miso.predict_at(cube.miso.fit(name, train), test))
    picture(cube, maps, truth, directory / "maps.png")
    report(truth, test, compared)
    pixels = maps.sizes["y"] * maps.sizes["x"]
    print(f"\n{pixels} pixels predicted and written in {seconds:.0f} s: {pixels / seconds:.0f} pixels a second on {model_device()}")
    print(f"Left in {directory}/: maps.zarr, model.safetensors, maps.png, cube.zarr. All of it is SIMULATED.")


def model_device() -> str:
    """The device that prediction took."""
    from misoxr.model.devices import choose_device

    return choose_device("auto")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--directory", type=Path, default=Path(__file__).resolve().parents[1] / "demo")
    main(parser.parse_args().directory)
