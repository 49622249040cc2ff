import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pystac
import pytest
import rasterio
import xarray as xr
from scipy import fft, ndimage
from scipy.spatial import cKDTree
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import f1_score, roc_auc_score

import misoxr
from misoxr import simulate
from misoxr.errors import GridError, PointsError
from misoxr.grid.geobox import geobox_of, pixels
from misoxr.simulate import SIMULATOR_VERSION, TRUTH, Simulation, bayes_scores, landscape, points
from misoxr.simulate.granules import ACQUISITIONS, COLLECTION, write_granules
from misoxr.simulate.terrain import gradient
from misoxr.spec import COVARIATES, SENTINEL2, SOIL_ORDERS

SMALL = (96, 160)
RANGES = {
    "aspect": (-1, 360),
    "elevation": (0, 2000),
    "max_curvature": (-0.2, 0.2),
    "slope": (0, 70),
    "stream_power_index": (0, 1e7),
    "wetness_index": (0, 30),
    "topographic_position_index": (-12, 12),
    "annual_precipitation": (200, 900),
    "summer_warmth_index": (5, 60),
    "january_minimum_temperature": (-40, -15),
}

FROZEN = {
    "elevation": 200.314,
    "slope": 9.72626,
    "wetness_index": 7.74389,
    "summer_warmth_index": 44.6465,
    "red": 0.0508439,
    "nir": 0.245871,
    "swir22": 0.100317,
    "permafrost_probability": 0.425085,
    "permafrost": 0.426237,
    "taxonomy": 2.73809,
}
"""Means of one landscape. A change here is another SIMULATOR_VERSION."""


@pytest.fixture(scope="module")
def small() -> xr.Dataset:
    return landscape(SMALL, seed=3)


@pytest.fixture(scope="module")
def large() -> xr.Dataset:
    return landscape((800, 800), seed=1)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    return simulate.write(tmp_path_factory.mktemp("simulated"), shape=SMALL, seed=3, n_points=60)


def digest(dataset: xr.Dataset) -> str:
    value = hashlib.sha256()
    for name in sorted(dataset.data_vars):
        value.update(np.ascontiguousarray(dataset[name].values).tobytes())
    return value.hexdigest()


def files(directory: Path) -> Iterator[tuple[Path, bytes]]:
    for path in sorted(directory.rglob("*.tif")):
        yield path.relative_to(directory), path.read_bytes()


def test_same_seed_same_landscape_whatever_the_threads(small: xr.Dataset):
    with fft.set_workers(2):
        again = landscape(SMALL, seed=3)
    assert digest(again) == digest(small)
    assert digest(landscape(SMALL, seed=4)) != digest(small)


def test_version_2_is_frozen(small: xr.Dataset):
    assert SIMULATOR_VERSION == "2"
    means = {name: float(small[name].mean()) for name in FROZEN}
    assert means == pytest.approx(FROZEN, rel=2e-3)


def test_topographic_position_is_standardised_over_the_landscape(small: xr.Dataset):
    """As the paper's is: it has the unit 1, and no metres."""
    position = small["topographic_position_index"]
    assert float(position.mean(dtype="float64")) == pytest.approx(0, abs=1e-5)
    assert float(position.std(dtype="float64")) == pytest.approx(1, abs=1e-5)


def test_names_units_and_marks_are_the_spec_s(small: xr.Dataset):
    for band in (*SENTINEL2, *COVARIATES):
        assert small[band.name].attrs["units"] == band.units
        assert small[band.name].dtype == "float32"
        assert small[band.name].dims == ("y", "x")
    assert list(small["taxon"].values) == list(SOIL_ORDERS)
    assert {name: small.attrs[name] for name in ("simulated", "simulator_version", "seed")} == {
        "simulated": 1,
        "simulator_version": "2",
        "seed": 3,
    }
    assert all(variable.attrs["simulated"] == 1 for variable in small.data_vars.values())
    assert geobox_of(small).crs.epsg == 3338
    assert set(small.data_vars) == {band.name for band in (*SENTINEL2, *COVARIATES)} | set(TRUTH)


@pytest.mark.parametrize("pixel_size", [10.0, 30.0])
def test_values_are_plausible(pixel_size: float):
    data = landscape((200, 150), pixel_size=pixel_size, seed=5)
    assert all(np.isfinite(data[name].values).all() for name in data.data_vars)
    for name, (low, high) in RANGES.items():
        assert low <= float(data[name].min()) <= float(data[name].max()) <= high, name
    for band in SENTINEL2:
        assert 0 < float(data[band.name].min()) <= float(data[band.name].max()) <= 1
    ground = data["surface"].values == 0
    ndvi = ((data["nir"] - data["red"]) / (data["nir"] + data["red"])).values
    assert 0.4 < np.median(ndvi[ground]) < 0.9
    assert np.median(data["nir"].values[data["surface"].values == 1]) < 0.1


def test_aspect_points_downhill(small: xr.Dataset):
    east, north = gradient(small["elevation"].values, 20.0)
    aspect = np.radians(small["aspect"].values)
    steep = small["slope"].values > 5
    downhill = -(east * np.sin(aspect) + north * np.cos(aspect)) / np.hypot(east, north)
    assert downhill[steep] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("pixel", [20.0, 40.0])
def test_covariates_of_water_have_the_units_of_those_from_the_dem(pixel: float):
    land = landscape((160, 160), pixel_size=pixel)
    dem = land[["elevation"]]
    computed = misoxr.covariates.hydrology(dem, progress=False)
    assert land["stream_power_index"].attrs["units"] == computed["stream_power_index"].attrs["units"] == "m2"
    ratio = float(land["stream_power_index"].median() / computed["stream_power_index"].median())
    assert 0.6 < ratio < 1.6  # routed otherwise, but no side of a pixel apart
    apart = float(land["wetness_index"].median() - computed["wetness_index"].median())
    assert abs(apart) < 1  # ln 20 were 3
    slope = misoxr.covariates.terrain(dem)["slope"].compute()
    assert float(land["slope"].median() / slope.median()) == pytest.approx(1, abs=0.2)


def test_truth_is_consistent(large: xr.Dataset):
    frozen, orders = large["permafrost_probability"].values, large["taxonomy_probability"].values
    assert np.allclose(orders.sum(0), 1, atol=1e-5)
    assert 0.3 < frozen.mean() < 0.5
    gelisols = SOIL_ORDERS.index("Gelisols")
    assert (large["permafrost"].values[large["taxonomy"].values == gelisols] == 1).all()
    for code in range(len(SOIL_ORDERS)):
        drawn, expected = (large["taxonomy"].values == code).mean(), orders[code].mean()
        assert drawn == pytest.approx(expected, abs=0.003)
        assert drawn > 0.02
    assert large["permafrost"].values.mean() == pytest.approx(frozen.mean(), abs=0.003)
    cold_side = np.cos(np.radians(large["aspect"].values)) > 0.5
    warm_side = (np.cos(np.radians(large["aspect"].values)) < -0.5) & (large["aspect"].values >= 0)
    assert frozen[cold_side].mean() > frozen[warm_side].mean() + 0.15


def test_points_are_clustered_labelled_and_inside(large: xr.Dataset):
    table = points(large, 1500, seed=2)
    assert len(table) == 1500
    assert table.crs == "EPSG:3338"
    west, south, east, north = geobox_of(large).boundingbox.bbox
    assert table.geometry.x.between(west, east).all()
    assert table.geometry.y.between(south, north).all()
    assert 0.35 < table["permafrost"].notna().mean() < 0.45
    assert 0.82 < table["taxonomy"].notna().mean() < 0.90
    assert (table["permafrost"].notna() | table["taxonomy"].notna()).all()
    assert set(table["permafrost"].dropna()) == {0.0, 1.0}
    assert (table["taxonomy"].value_counts(normalize=True).reindex(SOIL_ORDERS).fillna(0) > 0.015).all()
    assert table["simulated"].all()
    assert set(table["simulator_version"]) == {SIMULATOR_VERSION}
    random = np.random.default_rng(0).uniform((west, south), (east, north), (1500, 2))
    mean_nearest = [cKDTree(xy).query(xy, k=2)[0][:, 1].mean() for xy in (table.geometry.get_coordinates().values, random)]
    assert mean_nearest[0] < 0.7 * mean_nearest[1]
    assert points(large, 1500, seed=2).equals(table)
    assert not points(large, 1500, seed=3).geometry.equals(table.geometry)


def test_labels_are_noisy_at_the_documented_rates(large: xr.Dataset):
    table = points(large, 20_000, seed=4)
    rows, columns = (np.floor(v).astype(int) for v in pixels(geobox_of(large), table.geometry.x, table.geometry.y))
    assert (large["surface"].values[rows, columns] == 0).mean() > 0.98
    # both the drawn pixel and its probability differ a little where jitter moves a point to the next pixel
    probability = large["permafrost_probability"].values[rows, columns]
    known = table["permafrost"].notna().to_numpy()
    sure = known & ((probability < 0.003) | (probability > 0.997))
    wrong = (table["permafrost"].to_numpy()[sure] == 1) != (probability[sure] > 0.5)
    assert 0.02 < wrong.mean() < 0.06


def test_points_refuse_nonsense(small: xr.Dataset):
    with pytest.raises(PointsError, match="0 points were asked for"):
        points(small, 0)
    with pytest.raises(GridError, match="64 or more rows"):
        landscape((20, 200))
    far = points(small, 5).translate(1e6)
    with pytest.raises(PointsError, match="5 of 5 points lie outside"):
        bayes_scores(small, points(small, 5).set_geometry(far))
    with pytest.raises(PointsError, match="The mask has shape"):
        bayes_scores(small, np.ones((3, 3), dtype=bool))


def test_bayes_scores_equal_scikit_learn_s(large: xr.Dataset):
    table = points(large, 2000, seed=6)
    scores = bayes_scores(large, table)
    rows, columns = (np.floor(v).astype(int) for v in pixels(geobox_of(large), table.geometry.x, table.geometry.y))
    known = table["permafrost"].notna().to_numpy()
    auc = roc_auc_score(table["permafrost"][known], large["permafrost_probability"].values[rows, columns][known])
    assert scores["permafrost_roc_auc"] == pytest.approx(auc)
    described = table["taxonomy"].notna().to_numpy()
    best = np.array(SOIL_ORDERS)[large["taxonomy_probability"].values[:, rows, columns].argmax(0)][described]
    assert scores["taxonomy_macro_f1"] == pytest.approx(f1_score(table["taxonomy"][described], best, average="macro"))
    assert scores["taxonomy_accuracy"] == pytest.approx((best == table["taxonomy"][described]).mean())
    every = bayes_scores(large, large["surface"].values == 0)
    assert every["permafrost_roc_auc"] > scores["permafrost_roc_auc"]


def test_the_neighbourhood_tells_more_than_the_pixel_and_less_than_the_truth(large: xr.Dataset):
    random = np.random.default_rng(0)
    ground = large["surface"].values == 0
    rows, columns = np.nonzero(ground)
    west, east = (random.choice(np.flatnonzero(side), 1200, False) for side in (columns < 350, columns >= 450))
    own, around = [], []
    for band in (*SENTINEL2, *COVARIATES):
        values = large[band.name].values.astype("float64")
        own.append(values[rows, columns])
        fields = [values] if band.kind == "linear" else [np.sin(np.radians(values)), np.cos(np.radians(values))]
        for field in fields:
            for size in (5, 15, 31):
                mean = ndimage.uniform_filter(field, size)
                around.append(mean[rows, columns])
                around.append((field - mean)[rows, columns])
    scores = {}
    for name, features in (("pixel", own), ("neighbourhood", own + around)):
        table = np.stack(features, axis=1)
        forest = RandomForestClassifier(120, max_depth=16, min_samples_split=5, random_state=0, n_jobs=2)
        frozen = large["permafrost"].values[rows, columns]
        scores[name] = roc_auc_score(frozen[east], forest.fit(table[west], frozen[west]).predict_proba(table[east])[:, 1])
    test = np.zeros(ground.shape, dtype=bool)
    test[rows[east], columns[east]] = True
    best = bayes_scores(large, test)["permafrost_roc_auc"]
    assert 0.6 < scores["pixel"] < scores["neighbourhood"] - 0.02 < best - 0.04


def test_items_are_stac_and_say_that_they_are_simulated(written: Simulation):
    collection = json.loads(written.items.read_text())
    assert len(collection["features"]) == 2 * len(ACQUISITIONS)
    boxes = []
    for feature in collection["features"]:
        item = pystac.Item.from_dict(feature)
        assert item.collection_id == COLLECTION
        assert item.properties["misoxr:simulated"] is True
        assert item.properties["misoxr:simulator_version"] == SIMULATOR_VERSION
        assert set(item.assets) == {*(band.name for band in SENTINEL2), "scl"}
        assert item.datetime.year in range(2019, 2024)
        assert (item.datetime.month, item.datetime.day) >= (6, 20)
        assert (item.datetime.month, item.datetime.day) <= (8, 20)
        for name, asset in item.assets.items():
            path = written.directory / asset.href
            with rasterio.open(path) as file:
                assert file.crs.to_epsg() == 3338
                assert file.nodata == 0
                assert file.dtypes[0] == ("uint8" if name == "scl" else "uint16")
                assert list(file.shape) == asset.extra_fields["proj:shape"]
                assert list(file.transform)[:6] == asset.extra_fields["proj:transform"]
                assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
                assert file.tags()["MISOXR_SIMULATED"] == "1"
                assert file.tags()["MISOXR_SIMULATOR_VERSION"] == "2"
            if name != "scl":
                assert asset.extra_fields["eo:bands"][0]["common_name"] == name
        transform, shape = item.properties["proj:transform"], item.properties["proj:shape"]
        boxes.append((transform[2], transform[2] + shape[1] * transform[0]))
    assert boxes[0][1] - boxes[1][0] == 16 * 20.0  # a tenth of the width in both granules
    assert len(pystac.ItemCollection.from_dict(collection).items) == 12


def test_hrefs_start_with_the_address(small: xr.Dataset, tmp_path: Path):
    path = write_granules(tmp_path, small, ACQUISITIONS[:1], seed=0, base_url="http://127.0.0.1:1234/data/")
    asset = json.loads(path.read_text())["features"][0]["assets"]["red"]
    assert asset["href"] == "http://127.0.0.1:1234/data/SIM_W_20190703_L2A/red.tif"


def test_counts_with_and_without_the_offset_are_the_same_reflectance(small: xr.Dataset, tmp_path: Path):
    raw, taken_off = (replace(ACQUISITIONS[2], offset=offset) for offset in (True, False))
    for name, acquisition in (("raw", raw), ("off", taken_off)):
        (tmp_path / name).mkdir()
        write_granules(tmp_path / name, small, [acquisition], seed=0)
    for path, _ in files(tmp_path / "raw"):
        with rasterio.open(tmp_path / "raw" / path) as one, rasterio.open(tmp_path / "off" / path) as other:
            added = 0 if path.name == "scl.tif" else 1000
            counts, fewer = one.read(1).astype(int), other.read(1).astype(int)
        valid = fewer > 1
        assert valid.mean() > 0.9
        assert (counts[valid] - fewer[valid] == added).all()


def offset_of(item: pystac.Item) -> float:
    """What an item says: by its flag, then by its baseline."""
    taken_off = item.properties.get("earthsearch:boa_offset_applied") is True
    return 0.0 if taken_off or float(item.properties["s2:processing_baseline"]) < 4 else -0.1


def test_every_pass_shows_the_same_ground(written: Simulation, small: xr.Dataset):
    items = pystac.ItemCollection.from_file(str(written.items)).items
    assert {offset_of(item) for item in items} == {0.0, -0.1}
    assert any(
        item.properties.get("earthsearch:boa_offset_applied") and "raster:bands" in item.assets["red"].extra_fields
        for item in items
    )
    skies, clear = set(), np.zeros(SMALL, dtype=int)
    for item in items:
        start = round((item.properties["proj:transform"][2] - float(small["x"][0]) + 10) / 20)
        columns = slice(start, start + item.properties["proj:shape"][1])
        with rasterio.open(written.directory / item.id / "scl.tif") as file:
            classes = file.read(1)
        assert set(np.unique(classes)) <= {0, 3, 4, 5, 6, 7, 8, 9, 11}
        skies.add(hashlib.sha256(classes.tobytes()).hexdigest())
        seen = np.isin(classes, (4, 5))
        clear[:, columns] += np.isin(classes, (4, 5, 6))
        for name in ("red", "nir", "swir16"):
            with rasterio.open(written.directory / item.id / f"{name}.tif") as file:
                counts = file.read(1)
            assert (counts[classes > 0] > 0).all()
            assert (counts[classes == 0] == 0).all()
            if seen.sum() > 500:
                error = counts[seen] * 1e-4 + offset_of(item) - small[name].values[:, columns][seen]
                assert abs(np.median(error)) < 0.25 * small[name].values.mean()
                assert np.corrcoef(counts[seen], small[name].values[:, columns][seen])[0, 1] > 0.7
    assert len(skies) == len(items)
    assert (clear > 0).mean() > 0.9


def test_overlapping_granules_agree(written: Simulation):
    for acquisition in ACQUISITIONS:
        parts = []
        for tile, columns in (("W", slice(-16, None)), ("E", slice(None, 16))):
            with rasterio.open(written.directory / f"SIM_{tile}_{acquisition.name}_L2A" / "nir.tif") as file:
                parts.append(file.read(1)[:, columns])
        assert np.array_equal(*parts)


def test_covariates_points_and_truth_are_written_with_their_marks(written: Simulation, small: xr.Dataset):
    assert set(written.covariates) == {band.name for band in COVARIATES}
    for band in COVARIATES:
        with rasterio.open(written.covariates[band.name]) as file:
            assert file.descriptions == (band.name,)
            assert file.units == (band.units,)
            assert file.crs.to_epsg() == 3338
            assert file.tags()["MISOXR_SIMULATOR_VERSION"] == "2"
            assert np.array_equal(file.read(1), small[band.name].values)
    table = gpd.read_file(written.points)
    assert len(table) == 60
    assert table["simulated"].all()
    assert set(table["simulator_version"]) == {SIMULATOR_VERSION}
    with xr.open_zarr(written.truth, consolidated=False, mask_and_scale=False) as truth:
        assert truth.attrs["simulated"] == 1
        assert truth.attrs["simulator_version"] == SIMULATOR_VERSION
        assert list(truth["taxon"].values) == list(SOIL_ORDERS)
        for name in TRUTH:
            assert np.array_equal(truth[name].values, small[name].values)
        assert geobox_of(truth) == geobox_of(small)
        assert bayes_scores(truth, table) == pytest.approx(bayes_scores(small, table))


def test_writing_again_gives_the_same_images(written: Simulation, tmp_path: Path):
    again = simulate.write(tmp_path, shape=SMALL, seed=3, n_points=60)
    assert dict(files(again.directory)) == dict(files(written.directory))
    assert again.items.read_text() == written.items.read_text()
    before = {path: path.stat().st_mtime_ns for path in again.directory.rglob("*.tif")}
    simulate.write(tmp_path, shape=SMALL, seed=3, n_points=60)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was made of a file that stays is known to be of it"
