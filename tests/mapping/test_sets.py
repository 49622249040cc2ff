"""Sets and intervals in maps and at points: by hand, lazily, for any chunks, and through every store."""

import json
import warnings
from dataclasses import replace

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import xarray as xr

import misoxr
from misoxr.cube.variables import answers_in
from misoxr.errors import MisoxrWarning, SpecError
from misoxr.estimators.embedded import EmbeddedModel, Pair, embedding_spec
from misoxr.estimators.pixel_model import PixelModel
from misoxr.mapping.ensemble import averaged
from misoxr.model.conformal import draws, nonconformity
from misoxr.spec import PERMAFROST, TAXONOMY, ModelSpec, Task
from tests.conftest import ORIGIN, make_cube, make_model, tiny_spec
from tests.uncertainty.made import CARBON, TASKS, make_scores

SHAPE = (40, 50)
"""Of the cube, in pixels of 20 m."""


class Rule:
    """An estimator whose answers follow from the first band, in many distinct and some equal values."""

    def __init__(self, task: Task) -> None:
        self.task, self.classes_ = task, np.arange(len(task.classes))

    def predict_proba(self, table):
        count = len(self.task.classes)
        odds = np.exp(3 * np.sin(table[:, :1] * (1 + np.arange(count)) * 5)) + 0.1
        return odds / odds.sum(axis=1, keepdims=True)

    def predict(self, table):
        return 10 * table[:, 0]


@pytest.fixture(scope="module")
def spec():
    return tiny_spec(tasks=TASKS)


@pytest.fixture(scope="module")
def rule(spec):
    """Answers of pixels alone: any chunks give the same bits."""
    return PixelModel(spec, {task.name: Rule(task) for task in TASKS})


@pytest.fixture(scope="module")
def cube(spec):
    cube = make_cube(SHAPE, spec.bands)
    for band in cube.data_vars:
        cube[band].values[3:6, 7:12] = np.nan
    return cube


@pytest.fixture(scope="module")
def halves():
    """Two regions that leave the north of the map free."""
    west, south = ORIGIN[0], ORIGIN[1] - 800
    boxes = [
        shapely.box(west - 1e4, south - 1e4, west + 440, south + 600),
        shapely.box(west + 440, south - 1e4, west + 1e4, south + 600),
    ]
    return gpd.GeoDataFrame(geometry=boxes, index=["west", "east"], crs="EPSG:3338")


@pytest.fixture(scope="module")
def scores():
    return make_scores(200, tasks=TASKS)


def by_hand(found, task, errors, coverage, scores, region=None):
    """Sets and p-values of a map in plain NumPy: counts over all calibration points, one by one."""
    rows = scores.predictions[scores.predictions.task == task.name]
    values = rows[[f"p{k}" for k in range(task.outputs)]].to_numpy("float64")
    known = np.concatenate([1 - values, values], axis=1) if task.kind == "binary" else values
    truth = rows.truth.to_numpy(int)
    theirs = nonconformity(known, errors.method, draws(rows.x, rows.y, "EPSG:3338"))[np.arange(len(rows)), truth]
    probability = found[f"{task.name}_probability"].values.astype("float64")
    probability = np.stack([1 - probability, probability]) if task.kind == "binary" else probability
    x, y = np.meshgrid(found.x, found.y)
    ours = nonconformity(probability.reshape(len(task.classes), -1).T, errors.method, draws(x.ravel(), y.ravel(), "EPSG:3338"))
    p = np.empty(ours.shape)
    for code in range(len(task.classes)):
        mine = theirs[truth == code] if errors.by == "class" else theirs
        p[:, code] = [(np.sum(mine >= one) + 1) / (len(mine) + 1) for one in ours[:, code]]
    p = p.T.reshape(probability.shape)
    valid = np.isfinite(probability[0])
    return np.where(valid, p > 1 - coverage, False), np.where(valid, p, np.nan)


@pytest.mark.parametrize("method", ["plain", "aps", "raps"])
@pytest.mark.parametrize("by", [None, "class"])
def test_sets_and_p_values_are_those_by_hand(cube, rule, scores, method, by, no_compute):
    calibrated = rule.with_conformal(scores, "m", by=by, method=method)
    with no_compute():
        lazy = cube.chunk({"y": 17, "x": 23}).miso.predict(calibrated, coverage=0.815)
    assert sum(str(key).startswith("conformal-") for key in lazy.__dask_graph__()) == 1
    found = lazy.compute()
    for task in (PERMAFROST, TAXONOMY):
        held, p = by_hand(found, task, calibrated.conformal, 0.815, scores)
        np.testing.assert_array_equal(found[f"{task.name}_set"], held)
        np.testing.assert_array_equal(found[f"{task.name}_set_size"], np.where(np.isnan(p[0]), 255, held.sum(axis=0)))
        np.testing.assert_allclose(found[f"{task.name}_credibility"], p.max(axis=0), rtol=1e-6)
        np.testing.assert_allclose(found[f"{task.name}_confidence"], 1 - np.sort(p, axis=0)[-2], rtol=1e-5, atol=1e-7)
        assert {1, 2} <= set(np.unique(found[f"{task.name}_set_size"]))
    errors = np.sort(np.abs(scores.predictions.query("task == 'carbon'").truth - scores.predictions.query("task == 'carbon'").p0))
    width = errors[int(np.ceil(201 * 0.815)) - 1]
    np.testing.assert_allclose(found.carbon_upper - found.carbon, np.where(np.isnan(found.carbon), np.nan, width), rtol=1e-5)
    np.testing.assert_allclose(found.carbon - found.carbon_lower, np.where(np.isnan(found.carbon), np.nan, width), rtol=1e-5)


def test_names_types_and_nodata(cube, rule, scores):
    found = cube.miso.predict(rule.with_conformal(scores, "m"), coverage=0.9).compute()
    assert found.taxonomy_set.dims == ("taxon", "y", "x")
    assert found.permafrost_set.dims == ("permafrost_class", "y", "x")
    assert found.permafrost_class.values.tolist() == list(PERMAFROST.classes)
    kinds = {name: str(found[name].dtype) for task in TASKS for name in task.conformal}
    assert set(kinds.values()) == {"bool", "uint8", "float32"}
    nothing = np.isnan(found.permafrost_probability)
    assert nothing.sum() == 15
    for task in (PERMAFROST, TAXONOMY):
        assert not found[f"{task.name}_set"].values[:, nothing].any()
        assert (found[f"{task.name}_set_size"].values[nothing] == 255).all()
        assert np.isnan(found[f"{task.name}_credibility"].values[nothing]).all()
        assert np.isnan(found[f"{task.name}_confidence"].values[nothing]).all()
    assert np.isnan(found.carbon_lower.values[nothing]).all()
    attrs = found.taxonomy_set_size.attrs
    assert (attrs["coverage"], attrs["conformal_method"], attrs["calibration_points"]) == (0.9, "plain", 200)
    assert attrs["calibration_folds"] == "ClusterKFold(distance=1000)"
    assert found.carbon_lower.attrs["units"] == "kg m-2"
    assert "simulated" not in attrs
    told = json.loads(found.attrs["provenance"])
    assert (told["coverage"], told["conformal"]["name"], told["conformal"]["method"]) == (0.9, "m", "plain")
    simulated = rule.with_conformal(make_scores(tasks=TASKS, simulated=True), "m")
    assert cube.miso.predict(simulated, coverage=0.9).taxonomy_set.attrs["simulated"] == 1


def test_a_map_without_coverage_has_nothing_of_it(cube, rule, scores):
    plain, calibrated = (cube.miso.predict(one).compute() for one in (rule, rule.with_conformal(scores, "m")))
    xr.testing.assert_equal(plain, calibrated)
    assert list(plain) == list(calibrated)
    added = cube.miso.predict(rule.with_conformal(scores, "m"), coverage=0.9).compute()
    xr.testing.assert_identical(
        added[list(plain)].drop_attrs(deep=False).drop_vars("permafrost_class", errors="ignore"), plain.drop_attrs(deep=False)
    )


@pytest.mark.parametrize("method", ["plain", "aps"])
def test_any_chunks_and_points_have_the_same_sets(cube, rule, scores, halves, method):
    with pytest.warns(MisoxrWarning, match="'permafrost' lie in no region"):
        calibrated = rule.with_conformal(scores, "m", by=halves.to_crs(4326), method=method)
    whole = cube.miso.predict(calibrated, coverage=0.8).compute()
    cut = cube.chunk({"y": 7, "x": 11}).miso.predict(calibrated, coverage=0.8).compute()
    xr.testing.assert_identical(whole, cut)
    x, y = (part.ravel() for part in np.meshgrid(cube.x, cube.y))
    at = cube.chunk({"y": 9, "x": 50}).miso.predict_at(calibrated, {"x": x, "y": y}, coverage=0.8).compute()
    for task in TASKS:
        for name in task.conformal:
            flat = whole[name].values.reshape(*whole[name].shape[:-2], -1)
            np.testing.assert_array_equal(at[name].values, flat)
            assert at[name].dims[-1] == "point"


def test_each_region_has_its_own_quantile_and_the_rest_that_of_all(cube, rule, halves):
    """Errors in the east are ten times those in the west: intervals are, too, and beyond both they are those of all points."""
    scores = make_scores(150, tasks=(CARBON,))
    rows = scores.predictions
    east, inside = rows.x > ORIGIN[0] + 440, rows.y <= ORIGIN[1] - 200
    rows.loc[east, "p0"] = (rows.truth + 10 * (rows.p0 - rows.truth))[east].astype("float32")
    with pytest.warns(MisoxrWarning, match="lie in no region; (.|\n)*needs tasks="):
        calibrated = rule.with_conformal(scores, "m", by=halves)
    found = cube.miso.predict(calibrated, coverage=0.8, tasks=["carbon"]).compute()
    widths = (found.carbon_upper - found.carbon_lower) / 2
    errors = np.abs(rows.truth - rows.p0)
    groups = {"west": inside & ~east, "east": inside & east, "all": np.isfinite(errors)}
    wanted = {name: np.sort(errors[mine])[int(np.ceil((mine.sum() + 1) * 0.8 - 1e-9)) - 1] for name, mine in groups.items()}
    assert wanted["east"] > 5 * wanted["west"]
    north = found.y > ORIGIN[1] - 200
    expected = xr.where(north, wanted["all"], xr.where(found.x < ORIGIN[0] + 440, wanted["west"], wanted["east"])).transpose(
        "y", "x"
    )
    np.testing.assert_allclose(widths, expected.where(found.carbon.notnull()), rtol=1e-5)
    assert "beyond all regions" in found.carbon_lower.attrs["coverage_holds_for"]


def test_a_network_with_members_and_an_embedding(cube, scores, spec):
    """Sets are of the probabilities that stand beside them, the members' mean, and these stay as they are."""
    members = make_model(tiny_spec(tasks=TASKS, members=2))
    rules = PixelModel(embedding_spec(spec), {task.name: Rule(task) for task in TASKS})
    embedded = EmbeddedModel(spec, (Pair(make_model(spec), rules),))
    for model in (members, embedded):
        plain, calibrated = cube.miso.predict(model, device="cpu").compute(), model.with_conformal(scores, "m", method="aps")
        found = cube.miso.predict(calibrated, coverage=0.9, device="cpu").compute()
        held, p = by_hand(found, TAXONOMY, calibrated.conformal, 0.9, scores)
        np.testing.assert_array_equal(found.taxonomy_set, held)
        np.testing.assert_allclose(found.taxonomy_credibility, p.max(axis=0), rtol=1e-6)
        xr.testing.assert_equal(found[list(plain)].drop_vars("permafrost_class", errors="ignore"), plain)


def test_what_cannot_be_covered_is_refused_when_the_graph_is_built(cube, rule, scores, no_compute):
    calibrated = rule.with_conformal(scores, "m")
    with no_compute():
        for wrong in (0, 1, 1.5, -0.1, True, "0.9", float("nan")):
            with pytest.raises(SpecError, match="give a number between 0 and 1"):
                cube.miso.predict(calibrated, coverage=wrong)
        with pytest.raises(SpecError, match=r"no calibration scores: .*with_conformal\(scores\)"):
            cube.miso.predict(rule, coverage=0.9)
        with pytest.raises(SpecError, match="no calibration scores"):
            cube.miso.predict_at(rule, {"x": cube.x[:1], "y": cube.y[:1]}, coverage=0.9)
        with pytest.raises(SpecError, match="average of 2 models has no calibration scores; give one model"):
            cube.miso.predict([calibrated, calibrated], coverage=0.9)
        with pytest.raises(SpecError, match="average of 2 models"):
            cube.miso.predict_at([calibrated, calibrated], {"x": cube.x[:1], "y": cube.y[:1]}, coverage=0.9)
        with pytest.warns(MisoxrWarning, match="no points of .*carbon"):
            part = rule.with_conformal(make_scores(), "m")
        with pytest.raises(SpecError, match=r"no calibration scores of \['carbon'\]; name the other tasks, tasks=\['permafrost'"):
            cube.miso.predict(part, coverage=0.9)
        assert "taxonomy_set" in cube.miso.predict(part, tasks=["taxonomy"], coverage=0.9)


def test_too_few_points_are_told_and_leave_everything_in(cube, rule):
    calibrated = rule.with_conformal(make_scores(30, tasks=TASKS), "m")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cube.miso.predict(calibrated, coverage=0.9)
    with pytest.warns(
        MisoxrWarning, match="'permafrost' needs 99 calibration points, and there are 30: sets hold all.*\n.*\n.*infinite"
    ) as told:
        found = cube.miso.predict(calibrated, coverage=0.99).compute()
    assert len(told) == 1
    valid = found.carbon.notnull().values
    assert (found.taxonomy_set_size.values[valid] == 7).all()
    assert found.taxonomy_set.values[:, valid].all()
    assert np.isneginf(found.carbon_lower.values[valid]).all()
    assert np.isposinf(found.carbon_upper.values[valid]).all()
    assert np.isnan(found.carbon_upper.values[~valid]).all()


def test_new_names_are_no_tasks_and_no_task_has_them(cube, rule, scores):
    found = cube.miso.predict(rule.with_conformal(scores, "m"), coverage=0.9)
    assert [one.task for one in answers_in(found)] == [one.task for one in answers_in(cube.miso.predict(rule))]
    assert "carbon_lower" not in averaged([found, found]).data_vars
    assert set(averaged([found, found])) == set(cube.miso.predict([rule, rule]))
    base = tiny_spec()
    for task, other in (
        (CARBON, "carbon_lower"),
        (CARBON, "carbon_upper"),
        (PERMAFROST, "permafrost_set"),
        (PERMAFROST, "permafrost_class"),
    ):
        with pytest.raises(SpecError, match=f"has '{other}', which is a task's name"):
            replace(base, tasks=(task, Task(other, "regression")))
    assert isinstance(replace(base, tasks=(PERMAFROST, Task("permafrost_lower", "regression"))), ModelSpec)


def test_masks_leave_sets_out(cube, rule, scores):
    mask = xr.zeros_like(cube.red, dtype=bool)
    mask[:, 20:] = True
    found = cube.miso.predict(rule.with_conformal(scores, "m"), coverage=0.9, exclude={"water": mask}).compute()
    assert not found.taxonomy_set.values[:, :, 20:].any()
    assert (found.taxonomy_set_size.values[:, 20:] == 255).all()
    assert np.isnan(found.carbon_upper.values[:, 20:]).all()
    assert found.taxonomy_set.values[:, :, :20].any()


@pytest.fixture(scope="module")
def maps(cube, rule, scores):
    return cube.chunk({"y": 20, "x": 25}).miso.predict(rule.with_conformal(scores, "m"), coverage=0.9)


def test_stores_keep_sets(maps, tmp_path):
    found = maps.compute()
    maps.miso.plan(timed=False)
    maps.miso.to_zarr(tmp_path / "maps.zarr", progress=False, on_error="mask")
    assert misoxr.check(tmp_path / "maps.zarr").empty
    codes = misoxr.open_maps(tmp_path / "maps.zarr", codes=True).compute()
    for name in found.data_vars:
        np.testing.assert_array_equal(codes[name], found[name])
        assert codes[name].dtype == found[name].dtype
    assert codes.permafrost_class.values.tolist() == list(PERMAFROST.classes)
    floats = misoxr.open_maps(tmp_path / "maps.zarr").compute()
    assert floats.taxonomy_set.dtype == bool
    size = found.taxonomy_set_size.astype(float).where(found.taxonomy_set_size != 255)
    np.testing.assert_array_equal(floats.taxonomy_set_size, size)
    assert [one.task for one in answers_in(floats)] == [one.task for one in answers_in(found)]
    floats.miso.to_zarr(tmp_path / "again.zarr", progress=False)
    again = misoxr.open_maps(tmp_path / "again.zarr", codes=True)
    assert again.taxonomy_set_size.dtype == "uint8"
    np.testing.assert_array_equal(again.taxonomy_set, found.taxonomy_set)
    plain = xr.open_zarr(tmp_path / "maps.zarr")
    assert plain.taxonomy_set.dtype == bool


def test_another_coverage_is_another_map(cube, rule, scores, maps, tmp_path):
    maps.miso.to_zarr(tmp_path / "maps.zarr", progress=False)
    calibrated, chunked = rule.with_conformal(scores, "m"), cube.chunk({"y": 20, "x": 25})
    chunked.miso.predict(calibrated, coverage=0.9).miso.to_zarr(tmp_path / "maps.zarr", progress=False)  # nothing is left to do
    for other in (
        chunked.miso.predict(calibrated, coverage=0.8),
        chunked.miso.predict(rule.with_conformal(scores, "m", method="aps"), coverage=0.9),
    ):
        with pytest.raises(misoxr.errors.StoreError):
            other.miso.to_zarr(tmp_path / "maps.zarr", progress=False)


def test_geotiffs_keep_sets(maps, tmp_path):
    found = maps.compute()
    maps.miso.to_cog(
        tmp_path, variables=["taxonomy_set", "taxonomy_set_size", "taxonomy_credibility", "carbon_lower"], progress=False
    )
    with rasterio.open(tmp_path / "taxonomy_set.tif") as file:
        np.testing.assert_array_equal(file.read(), found.taxonomy_set)
        assert file.descriptions == TAXONOMY.classes
        assert file.tags()["coverage"] == "0.9"
    with rasterio.open(tmp_path / "taxonomy_set_size.tif") as file:
        np.testing.assert_array_equal(file.read(1), found.taxonomy_set_size)
        assert file.nodata == 255
    with rasterio.open(tmp_path / "carbon_lower.tif") as file:
        np.testing.assert_array_equal(file.read(1), found.carbon_lower)


def test_overviews_have_the_most_frequent_sizes_and_mean_credibilities(maps, tmp_path):
    maps.miso.to_pyramid(tmp_path / "maps.zarr", levels=1, progress=False)
    fine, coarse = maps.compute(), misoxr.open_maps(tmp_path / "maps.zarr/1", codes=True).compute()
    assert coarse.taxonomy_set.dtype == bool
    assert coarse.taxonomy_set_size.dtype == "uint8"
    four = fine.taxonomy_set_size.values.reshape(20, 2, 25, 2).transpose(1, 3, 0, 2).reshape(4, 20, 25)
    assert (coarse.taxonomy_set_size.values == four).any(axis=0).all()
    votes = fine.taxonomy_set.values.reshape(7, 20, 2, 25, 2).sum(axis=(2, 4))
    held = coarse.taxonomy_set.values
    assert held[votes >= 3].all()
    assert not held[votes <= 1].any()
    np.testing.assert_allclose(coarse.carbon_lower, fine.carbon_lower.coarsen(y=2, x=2).mean(), rtol=1e-6)
    np.testing.assert_allclose(coarse.taxonomy_credibility, fine.taxonomy_credibility.coarsen(y=2, x=2).mean(), rtol=1e-6)
