"""Cross-validation: no leak, resumption, regions, tidy tables, and what is refused."""

import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import dask.array as da
import geopandas as gpd
import numpy as np
import pandas as pd
import psutil
import pytest
import xarray as xr
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from joblib import cpu_count
from odc.geo.geobox import GeoBox
from shapely.geometry import box
from sklearn.ensemble import BaggingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold, PredefinedSplit, ShuffleSplit, StratifiedKFold
from sklearn.model_selection import KFold as SklearnKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

import misoxr.evaluation.cross_validate as module
from misoxr.clusters import cores, here
from misoxr.cube.cutouts import read_cutouts
from misoxr.errors import CheckpointError, MisoxrError, MisoxrWarning, PointsError, SpecError, StoreError, note
from misoxr.estimators.baselines import Baseline, baseline
from misoxr.evaluation.cache import squares_seen
from misoxr.evaluation.scores import Scores
from misoxr.grid.geobox import geobox_of
from misoxr.io.layout import open_maps
from misoxr.io.zarr import to_zarr
from misoxr.metrics import scores
from misoxr.model import checkpoint
from misoxr.points.folds import BlockKFold, ClusterKFold, KFold, PredefinedFolds
from misoxr.points.read import place
from misoxr.spec import PERMAFROST, TAXONOMY, Modality, Task, WindowSpec
from misoxr.training.fit import fit
from misoxr.training.settings import held_out
from tests.training.test_fit import scene  # noqa: F401

FAST = {"max_epochs": 1, "teacher": None, "device": "cpu"}
CV = BlockKFold(800, n_splits=3)
CONTROL = Baseline(LogisticRegression(), "coordinates")


@pytest.fixture(scope="module")
def estimators(spec):
    return {
        "miso": (spec, FAST),
        "logistic": LogisticRegression(max_iter=50),
        "control": Baseline(LogisticRegression(), "coordinates"),
    }


@pytest.fixture(scope="module")
def found(scene, estimators):  # noqa: F811
    cube, points = scene
    zones = gpd.GeoDataFrame({"zone": ["west", "far"]}, geometry=[box(300_000, 0, 301_600, 2e6), box(0, 0, 1, 1)], crs=3338)
    options = {
        "cv": CV,
        "seeds": (0, 1),
        "regions": zones.set_geometry(zones.segmentize(1000)).to_crs(4326),
        "region": "zone",
        "progress": False,
    }
    with pytest.warns(MisoxrWarning, match="have no label"):
        return cube.miso.cross_validate(estimators, points, **options)


def same(one, other, **tolerance):
    """Whether two scores have the same predictions, whatever time they took."""
    pd.testing.assert_frame_equal(*(scores.predictions.drop(columns="seconds") for scores in (one, other)), **tolerance)


class Weighted(LogisticRegression):
    """An estimator with an array among its parameters."""

    def __init__(self, weights=None, C=1.0):
        super().__init__(C=C)
        self.weights = weights


def labelled(points):
    return points[points.permafrost.notna() | points.taxonomy.notna()]


def test_every_point_is_predicted_once_by_each_model_and_seed(scene, found):  # noqa: F811
    _, points = scene
    for _, part in found.predictions.groupby(["model", "seed", "task"]):
        assert part.point.is_unique
    each = found.predictions.groupby(["model", "seed"]).point.apply(set)
    assert len(each) == 6
    assert all(one == set(labelled(points).index) for one in each)


def test_the_table_names_models_folds_and_seeds(found):
    table = found.to_dataframe()
    assert list(table.columns) == ["model", "seed", "cv", "fold", "region", "task", "metric", "class", "value", "points"]
    assert set(table.cv) == {repr(CV)}
    assert set(table.region) == {"all", "west", "none"}
    assert set(table.fold) == {0, 1, 2, "pooled"}
    pooled = table[(table.fold == "pooled") & (table.region == "all") & (table.task == "permafrost") & (table.metric == "roc_auc")]
    part = found.predictions.query("model == 'logistic' and seed == 1 and task == 'permafrost'")
    value = pooled[(pooled.model == "logistic") & (pooled.seed == 1) & (pooled["class"] == "")].value.item()
    assert value == pytest.approx(scores(PERMAFROST, part.truth, part.p0)["roc_auc"])
    west = table[(table.region == "west") & (table.metric == "accuracy")].points
    assert (west < pooled.points.max()).all()
    summary = found.summary()
    assert summary.loc["miso", ["folds", "seeds"]].tolist() == [3, 2]
    assert summary.loc["logistic", "permafrost roc_auc"] > 0.9 > 0.7 > summary.loc["control", "permafrost roc_auc"]
    assert "control" in repr(found)
    assert repr(CV) in repr(found)


def test_confusion_and_reliability(found):
    counts = found.confusion("logistic", "taxonomy")
    assert counts.to_numpy().sum() == len(found.predictions.query("model == 'logistic' and task == 'taxonomy'"))
    curve = found.reliability("logistic", "permafrost", bins=5)
    assert curve["count"].sum() == len(found.predictions.query("model == 'logistic' and task == 'permafrost'"))
    with pytest.raises(PointsError, match="no model 'forest'"):
        found.confusion("forest", "taxonomy")
    with pytest.raises(PointsError, match="Name one of the tasks"):
        found.confusion("logistic")


def test_the_mean_of_models_stands_beside_them(found):
    both = found.with_mean("miso", "logistic")
    assert both.models == [*found.models, "miso + logistic"]
    keys = ["seed", "fold", "task", "point"]
    one, other, mean = (
        both.predictions[both.predictions.model == model].set_index(keys) for model in ("miso", "logistic", "miso + logistic")
    )
    np.testing.assert_allclose(mean.p0, (one.p0 + other.p0.reindex(one.index)).reindex(mean.index) / 2, rtol=1e-6)
    np.testing.assert_allclose(mean.seconds, (one.seconds + other.seconds.reindex(one.index)).reindex(mean.index))
    assert both.compare("miso + logistic", "control", "roc_auc", "permafrost").pairs == 6
    with pytest.raises(PointsError, match="two models or more"):
        found.with_mean("miso")
    with pytest.raises(PointsError, match="no model 'forest'"):
        found.with_mean("miso", "forest")


def test_seeds_are_averaged_and_models_compared(found):
    mean = found.averaged()
    assert set(mean.predictions.seed) == {"mean"}
    keys = ["fold", "task", "point"]
    each = found.predictions.query("model == 'miso' and task == 'permafrost'").groupby(keys).p0.mean()
    one = mean.predictions.query("model == 'miso' and task == 'permafrost'").set_index(keys).p0
    np.testing.assert_allclose(one.sort_index(), each.sort_index())
    two = found.averaged(each=2)
    assert set(two.predictions.seed) == {0}
    np.testing.assert_array_equal(two.predictions.p0, mean.predictions.p0)
    single = found.averaged(each=1).to_dataframe()
    pd.testing.assert_frame_equal(single.drop(columns="seed"), found.to_dataframe().drop(columns="seed"))
    with pytest.raises(PointsError, match="has 2 seeds, so 3 cannot be averaged"):
        found.averaged(each=3)
    difference = found.compare("logistic", "control", "roc_auc", "permafrost")
    assert difference.pairs == 6
    assert difference.difference > 3 * difference.standard_error > 0
    each = found.whole("roc_auc", "permafrost").query("fold != 'pooled'").set_index(["model", "fold", "seed"]).value
    folds = (each["logistic"] - each["control"]).groupby("fold").mean()
    assert difference.fold_error == pytest.approx(folds.std() / 3**0.5)
    assert found.summary().seconds["miso"] == pytest.approx(
        found.predictions.query("model == 'miso'").groupby(["seed", "fold"]).seconds.first().mean()
    )
    apart = Scores(
        pd.concat([found.predictions.query("model == 'miso'"), mean.predictions.query("model == 'control'")]), found.tasks
    )
    with pytest.raises(PointsError, match=r"'miso' and 'control' have no pair .* seeds are \['0', '1'\] and \['mean'\]"):
        apart.compare("miso", "control", "roc_auc", "permafrost")
    with pytest.raises(PointsError, match="no score 'f1macro' of 'permafrost'; there are"):
        found.compare("logistic", "control", "f1macro", "permafrost")


def test_every_network_is_compared_with_the_best_baseline(found):
    table = found.differences()
    assert set(table.model) == {"miso"}
    summary, shown = found.summary(), found.task("permafrost")
    for row in table.itertuples():
        assert row.baseline == summary.loc[["logistic", "control"], f"{row.task} {row.metric}"].idxmax()
        expected = found.compare("miso", row.baseline, row.metric, row.task)
        assert (row.difference, row.fold_error) == (expected["difference"], expected["fold_error"])
    assert set(table[table.task == shown.name].metric) == {"roc_auc", "pr_auc", "recall", "macro_f1"}
    row = table.query("task == 'permafrost' and metric == 'macro_f1'").iloc[0]
    assert f"{row.difference:+.3f} ± {row.fold_error:.3f} (logistic)" in repr(found)
    alone = Scores.joined([found.predictions[found.predictions.model == "miso"]], found.tasks, found.about)
    assert alone.differences().empty
    assert "best baseline" not in repr(alone)


def test_the_best_of_regressions_has_the_least_error(scene, spec):  # noqa: F811
    cube, points = scene
    carbon = Task("carbon", "regression")
    points = points.assign(carbon=points.geometry.x / 100)
    spec = replace(spec, tasks=(carbon,))
    found = cube.miso.cross_validate(
        {"miso": (spec, FAST), "place": Baseline(Ridge(), "coordinates"), "ridge": Ridge()}, points, cv=2, progress=False
    )
    assert set(found.differences().baseline) == {"place"}


def test_transfer_holds_for_all_models(scene, spec, monkeypatch):  # noqa: F811
    cube, points = scene
    told = []
    whole = module.fit
    monkeypatch.setattr(module, "fit", lambda *args, **given: told.append(given.get("transfer")) or whole(*args, **given))
    cube.miso.cross_validate({"miso": (spec, FAST), "rf": "rf-11"}, labelled(points), cv=2, transfer=False, progress=False)
    assert told == [False] * 4
    cube.miso.cross_validate(["rf-11"], labelled(points), cv=2, transfer=False, progress=False)
    assert told == [False] * 6


def test_scores_survive_parquet(found, tmp_path):
    found.save(tmp_path / "scores.parquet")
    again = Scores.load(tmp_path / "scores.parquet")
    assert again.tasks == found.tasks
    assert again.about == found.about
    pd.testing.assert_frame_equal(again.predictions, found.predictions)
    plain = Scores(found.predictions.assign(region=None), found.tasks, found.about)
    plain.save(tmp_path / "plain.parquet")
    pd.testing.assert_frame_equal(Scores.load(tmp_path / "plain.parquet").predictions, plain.predictions)
    with pytest.raises(StoreError, match="cannot be read"):
        Scores.load(tmp_path / "none.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(StoreError, match="without misoxr's header"):
        Scores.load(tmp_path / "other.parquet")


def test_labels_of_test_points_steer_nothing(scene, spec, estimators):  # noqa: F811
    """Turn every label of one fold: what is predicted for that fold must not change."""
    cube, points = scene
    estimators = estimators | {"taught": (spec, {"max_epochs": 1, "steps": 4, "device": "cpu"})}
    points = labelled(points)
    options = {"cv": CV, "seeds": (3,), "progress": False}
    folds = list(CV.split(np.stack([points.geometry.x, points.geometry.y], axis=1)))
    turned = points.copy()
    at = turned.index[folds[1][1]]
    turned.loc[at, "permafrost"] = 1 - turned.loc[at, "permafrost"]
    swapped = {"Gelisols": "Histosols", "Histosols": "Gelisols"}
    turned.loc[at, "taxonomy"] = turned.loc[at, "taxonomy"].map(swapped)
    one, other = (cube.miso.cross_validate(estimators, each, **options).predictions for each in (points, turned))
    held = one.fold == 1
    answers = [f"p{k}" for k in range(7)]
    pd.testing.assert_frame_equal(one.loc[held, answers], other.loc[held, answers])
    assert not one.loc[~held, answers].equals(other.loc[~held, answers])


def test_training_and_validation_lie_apart_from_test(scene, spec, monkeypatch):  # noqa: F811
    """With a buffer, no point that is learnt from or validated with is nearer to a test point than that."""
    cube, points = scene
    points, buffer, seen = labelled(points), 200.0, []

    def fit(ds, what, given, **options):
        seen.append(np.stack([given.geometry.x, given.geometry.y], axis=1))
        return module_fit(ds, what, given, **options)

    module_fit = module.fit
    monkeypatch.setattr(module, "fit", fit)
    cv = BlockKFold(800, n_splits=3, buffer=buffer)
    found = cube.miso.cross_validate({"miso": (spec, FAST)}, points, cv=cv, progress=False)
    assert len(seen) == 3
    for fold, learnt in enumerate(seen):
        test = points.loc[found.predictions[found.predictions.fold == fold].point.unique()].geometry
        near = np.hypot(test.x.to_numpy()[:, None] - learnt[:, 0], test.y.to_numpy()[:, None] - learnt[:, 1]).min()
        assert buffer <= near < 3 * buffer


def test_an_interrupted_run_goes_on_at_its_fold(scene, estimators, tmp_path, monkeypatch):  # noqa: F811
    cube, points = scene
    points, answers, calls = labelled(points), module._answers, []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return answers(*arguments)

    options = {"cv": CV, "store": tmp_path / "run", "progress": False}
    monkeypatch.setattr(module, "_answers", failing)
    with pytest.raises(KeyboardInterrupt):
        cube.miso.cross_validate(estimators, points, **options)
    resumed = cube.miso.cross_validate(estimators, points, **options)
    assert len(calls) == 5 + 9 - 4
    same(resumed, cube.miso.cross_validate(estimators, points, cv=CV, progress=False))
    # A model more is run alone; other points, folds or settings are refused.
    calls.clear()
    cube.miso.cross_validate({**estimators, "tree": DecisionTreeClassifier()}, points, **options)
    assert len(calls) == 3
    with pytest.raises(StoreError, match="another folds"):
        cube.miso.cross_validate(estimators, points, **{**options, "cv": BlockKFold(900, 3)})
    with pytest.raises(StoreError, match="another folds, points"):
        cube.miso.cross_validate(estimators, points.iloc[:-9], **options)
    with pytest.raises(StoreError, match="model 'miso'"):
        cube.miso.cross_validate({"miso": (estimators["miso"][0], FAST | {"noise": 0.5})}, points, **options)


@pytest.mark.filterwarnings("ignore:.*have no label:misoxr.errors.MisoxrWarning")
def test_folds_run_on_a_cluster(forked, scene, estimators, found):  # noqa: F811
    """More fits than places for them, of a cube in memory and one that the workers hold."""
    from distributed import Client, LocalCluster

    cube, points = scene
    pixelwise = {name: estimators[name] for name in ("logistic", "control")}
    options = {"cv": CV, "seeds": (0, 1), "progress": False}
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        persisted = cube.chunk({"y": 32}).persist()
        held = [persisted.miso.cross_validate(pixelwise, points, client=one, **options) for one in (client, None)]
        there = cube.miso.cross_validate({"miso": estimators["miso"]}, points, client=client, **options)
        assert os.getpid() not in client.run(os.getpid).values()
    here = found.predictions.assign(region=None)  # the same in this process, there by region
    for one in held:
        same(one, replace(found, predictions=here[here.model != "miso"].reset_index(drop=True)))
    network = replace(found, predictions=here[here.model == "miso"].reset_index(drop=True))
    same(there, network, atol=1e-3)  # other numbers of threads round otherwise


@pytest.mark.filterwarnings("ignore:.*have no label:misoxr.errors.MisoxrWarning")
def test_folds_run_beside_each_other(scene, estimators, found, tmp_path):  # noqa: F811
    """In processes of this machine, as on a cluster; of a cube in memory, and of one that is read again in each."""
    cube, points = scene
    to_zarr(cube.chunk({"y": 32}), tmp_path / "cube.zarr", progress=False)
    lazy = open_maps(tmp_path / "cube.zarr").drop_vars("spatial_ref")
    pixelwise = {name: estimators[name] for name in ("logistic", "control")}
    options = {"cv": CV, "seeds": (0, 1), "progress": False, "n_jobs": 2}
    here = found.predictions.assign(region=None)
    for one, jobs in ((cube, 2), (lazy.assign_coords(cube.coords), -1)):
        expected = replace(found, predictions=here[here.model != "miso"].reset_index(drop=True))
        same(one.miso.cross_validate(pixelwise, points, **options | {"n_jobs": jobs}), expected)
    there = cube.miso.cross_validate({"miso": estimators["miso"]}, points, **options)
    network = replace(found, predictions=here[here.model == "miso"].reset_index(drop=True))
    same(there, network, atol=1e-3)  # other numbers of threads round otherwise


class Odd(Exception):
    """An error that cannot be sent: it is made of two values, and tells one."""

    def __init__(self, one, two):
        super().__init__(one)


class Telling(LogisticRegression):
    """Tells of the process that it runs in, by our means and by others', and ends as it is told to."""

    def __init__(self, home=None, end="", C=1.0):
        super().__init__(C=C)
        self.home, self.end = home, end

    def fit(self, X, y, sample_weight=None):
        if self.end == "killed":
            time.sleep(8)
            os._exit(9)
        if self.end == "shares":
            note(f"{cores()} cores, {cpu_count()} for forests, {here().get('num_workers')} for Dask", "cores")
        note(f"here is {os.getpid() == self.home}", "where")
        warnings.warn("of others", UserWarning, stacklevel=2)
        if self.end == "fails":
            raise ValueError("its own failure")
        if self.end == "fails oddly":
            raise Odd("its own failure", "of two parts")
        return super().fit(X, y, sample_weight)

    def __setstate__(self, state):
        if state.get("end") == "stays" and state["home"] != os.getpid():
            raise ImportError("only at home")
        super().__setstate__(state)


def telling(end=""):
    return {"telling": Baseline(Telling(os.getpid(), end), "coordinates")}


@pytest.mark.filterwarnings("ignore:of others", "ignore:.*have no label:misoxr.errors.MisoxrWarning")
def test_what_processes_say_is_heard_once(scene):  # noqa: F811
    cube, points = scene
    with pytest.warns() as told:
        cube.miso.cross_validate(telling(), points, cv=CV, n_jobs=2, progress=False)
    said = [str(one.message) for one in told]
    assert (said.count("here is False"), said.count("of others")) == (1, 1)
    with pytest.raises(ValueError, match="its own failure") as raised:
        cube.miso.cross_validate(telling("fails"), points, cv=CV, n_jobs=2, progress=False)
    assert sum("here is False" in one for one in raised.value.__notes__) == 1
    assert any("It was raised by 'telling', seed 0, fold " in one for one in raised.value.__notes__)
    with pytest.raises((Odd, MisoxrError), match="its own failure") as raised:  # tblib, where it is loaded, knows how to send it
        cube.miso.cross_validate(telling("fails oddly"), points, cv=CV, n_jobs=2, progress=False)
    assert any("It was raised by 'telling', seed 0, fold " in one for one in raised.value.__notes__)


@pytest.mark.filterwarnings("ignore:.*have no label:misoxr.errors.MisoxrWarning")
def test_a_process_that_ends_is_told_and_what_is_done_is_kept(scene, tmp_path):  # noqa: F811
    cube, points = scene
    options = {"cv": CV, "n_jobs": 2, "progress": False, "store": tmp_path / "run"}
    both = {"control": CONTROL, **telling("killed")}
    with pytest.raises(SpecError, match="was ended from outside, most likely because memory ran out: there were 2 at once"):
        cube.miso.cross_validate(both, points, **options)
    assert len(list((tmp_path / "run").glob("control-*.parquet"))) >= 1


@pytest.mark.filterwarnings("ignore:.*have no label:misoxr.errors.MisoxrWarning")
def test_models_that_cannot_be_sent(scene):  # noqa: F811
    cube, points = scene
    with pytest.raises(SpecError, match=r"A model cannot be sent to another process .*Define it in a module"):
        cube.miso.cross_validate(telling("stays"), points, cv=CV, n_jobs=2, progress=False)


@pytest.mark.filterwarnings("ignore:.*have no label:misoxr.errors.MisoxrWarning")
def test_processes_leave_nothing_behind(scene):  # noqa: F811
    """Neither memory that they shared, nor themselves."""
    cube, points = scene
    large = cube.assign(beside=(("beside_y", "beside_x"), np.zeros((512, 512))))  # more than is sent through pipes
    large.miso.cross_validate({"control": CONTROL}, points, cv=CV, n_jobs=2, progress=False)
    shared = [file for file in Path("/dev/shm").glob(f"joblib*_{os.getpid()}_*/*") if file.is_file()]
    workers = [child for child in psutil.Process().children() if "popen_loky" in " ".join(child.cmdline())]
    assert (shared, workers) == ([], [])


@pytest.mark.filterwarnings("ignore:of others", "ignore:.*have no label:misoxr.errors.MisoxrWarning")
@pytest.mark.parametrize(
    ("count", "shares"), [(2, "1 cores, 1 for forests, 1 for Dask"), (7, "3 cores, [123] for forests, 3 for Dask")]
)
def test_processes_share_the_cores(scene, monkeypatch, count, shares):  # noqa: F811
    """Forests have no more than the machine has."""
    cube, points = scene
    monkeypatch.setattr(module, "cores", lambda: count)
    with pytest.warns(MisoxrWarning, match=shares):
        cube.miso.cross_validate(telling("shares"), points, cv=CV, n_jobs=2, progress=False)


def test_a_task_of_a_cluster_fits_and_writes(scene, spec, tmp_path):  # noqa: F811
    """Where the one place is the task's own, and while the process fits something itself."""
    from distributed import Client

    cube, points = scene
    points = labelled(points)

    def fitted(cube):
        return fit(cube, spec, points, progress=False, **FAST).sha256

    def written(cube, name):
        to_zarr(cube.chunk({"y": 32}), tmp_path / name, progress=False)

    with Client(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as client:
        persisted = cube.chunk({"y": 32}).persist()
        futures = [client.submit(fitted, one, pure=False) for one in (cube, persisted, cube)]
        mine = fitted(cube)
        assert [future.result(120) for future in futures] == [mine] * 3
        client.submit(written, cube, "maps.zarr", pure=False).result(60)
    xr.testing.assert_equal(open_maps(tmp_path / "maps.zarr").drop_vars("spatial_ref"), cube.drop_vars("spatial_ref"))


def test_names_numbers_and_splitters_of_others(scene):  # noqa: F811
    cube, points = scene
    points = labelled(points)
    found = cube.miso.cross_validate([LogisticRegression(), "rf-coordinates"], points, cv=2, progress=False)
    assert found.models == ["LogisticRegression", "rf-coordinates"]
    other = cube.miso.cross_validate(CONTROL, points, cv=SklearnKFold(2, shuffle=True, random_state=0), progress=False)
    assert "KFold(n_splits=2" in other.about["cv"]


class Halves:
    """A splitter of others: by the median of x, by what a mask tells, or by any indices."""

    def __init__(self, sides=None):
        self.sides = sides

    def split(self, X, y=None, groups=None):
        self.seen = X
        west = X[:, 0] <= np.median(X[:, 0])
        yield self.sides or (np.flatnonzero(west), np.flatnonzero(~west))


def test_splitters_of_others_get_x_and_y(scene):  # noqa: F811
    """And no labels, whichever columns come first."""
    cube, points = scene
    points = labelled(points)[["permafrost", "taxonomy", "geometry"]]
    cv = Halves()
    found = cube.miso.cross_validate(CONTROL, points, cv=cv, progress=False).predictions
    moved = points.to_crs("EPSG:3338")
    assert type(cv.seen) is np.ndarray
    np.testing.assert_array_equal(cv.seen, np.stack([moved.geometry.x, moved.geometry.y], axis=-1))
    assert found.x.min() > np.median(cv.seen[:, 0])


def test_splitters_that_were_made_for_other_points_are_refused(scene):  # noqa: F811
    cube, points = scene
    points = labelled(points)
    count = len(points)

    def run(cv):
        return cube.miso.cross_validate(CONTROL, points, cv=cv, progress=False)

    for other in (count + 5, count - 60):
        with pytest.raises(PointsError, match=f"PredefinedSplit was made for {other} points, and there are {count}; make it for"):
            run(PredefinedSplit(np.arange(other) % 3))
    most = np.arange(count) % 3 - (np.arange(count) > 100)  # -1 always trains
    assert (run(PredefinedSplit(most)).predictions.groupby("fold").size() > 0).all()
    at = np.arange(count + 1)
    for sides, index in (((at[:50], at[50:]), count), ((at[1:50] - 2, at[50:-1]), -1)):
        with pytest.raises(PointsError, match=f"A fold of Halves holds index {index}, and there are {count} points"):
            run(Halves(sides))
    with pytest.raises(PointsError, match="is of bool; give indices, integers from 0"):
        run(Halves((at[:-1] < 50, at[:-1] >= 50)))
    some = run(ShuffleSplit(2, train_size=0.3, test_size=0.2, random_state=0))  # leaves points out on purpose
    assert len(set(some.predictions.point)) < count


def test_what_cannot_be_scored_is_refused(scene, spec, estimators):  # noqa: F811
    cube, points = scene
    points = labelled(points)
    run = cube.miso.cross_validate
    options = {"progress": False, "cv": CV}
    with pytest.raises(PointsError, match="folds"):
        run("rf-11", points, cv=ClusterKFold(10_000), progress=False)
    with pytest.raises(SpecError, match="named alike"):
        run(["rf-11", "rf-11"], points, **options)
    with pytest.raises(SpecError, match="need the same tasks"):
        run({"a": spec, "b": replace(spec, tasks=(TAXONOMY,))}, points, **options)
    with pytest.raises(SpecError, match="cv is 'blocks'"):
        run("rf-11", points, cv="blocks", progress=False)
    far = gpd.GeoDataFrame(geometry=[box(0, 0, 1, 1)], crs=3338)
    with pytest.raises(PointsError, match="None of .* points lies in a region"):
        run("rf-11", points, regions=far, **options)
    west, south, east, north = points.to_crs(3338).total_bounds
    for name in ("all", "none"):
        some = gpd.GeoDataFrame(geometry=[box(west, south, (west + east) / 2, north)], index=[name], crs=3338)
        with pytest.raises(PointsError, match=f"named '{name}'"):
            run("rf-11", points, regions=some, **options)
    with pytest.raises(PointsError, match=r"no column \['zone'\]"):
        run("rf-11", points, regions=gpd.GeoDataFrame(geometry=[box(0, 0, 1, 1)], crs=3338), region="zone", **options)
    with pytest.raises(PointsError, match="in fold 0 are all 'present'"):
        run(LogisticRegression(), points[points.permafrost == 1][["permafrost", "geometry"]], **options)
    with pytest.raises(SpecError, match="no models to compare"):
        run({}, points, **options)
    with pytest.raises(SpecError, match="nothing to run"):
        run("rf-11", points, seeds=[], **options)
    for what in ("rf-11", spec):
        with pytest.raises(SpecError, match="no argument 'stroe'. Did you mean \"store\""):
            run(what, points, stroe="x", **options)
        with pytest.raises(SpecError, match=r"settings \['zzz'\]"):
            run(what, points, zzz="x", **options)
    with pytest.raises(SpecError, match=r"\['directory'\] of 'miso-nano' cannot be set here"):
        run(spec, points, directory="x", **options)
    with pytest.raises(SpecError, match="val of 'miso-nano' is a GeoDataFrame, whose points may be test points of a fold"):
        run(spec, points, val=points, **options)
    with pytest.raises(SpecError, match="no pair"):
        run(("rf-11", "rf-coordinates"), points, **options)
    for cv in (GroupKFold(3), StratifiedKFold(3)):
        with pytest.raises(SpecError, match="cannot split points by coordinates alone"):
            run("rf-11", points, cv=cv, progress=False)
    with pytest.raises(PointsError, match="region is 'zone' and there are no regions"):
        run("rf-11", points, region="zone", **options)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (DecisionTreeRegressor(), "give a classifier"),
        (("rf-11", {"n_estimators": 3}), r"no settings \['n_estimators'\]"),
        (("miso-nano", {"scaling": "minmax"}), "Unknown scaling 'minmax'"),
        (("miso-nano", {"val": 2.0}), "fraction of 2"),
        (("miso-small", {"pretrained": {"sat": "/no/such.pth"}}), r"The file /no/such\.pth cannot be read"),
        (("miso-nano", {"device": "gpu"}), "gpu"),
        (("miso-nano", {"freeze": ("dem",)}), "freeze names"),
        (("rf-11", {"like": "miso-nano"}), "like of 'second' is 'miso-nano'; give a ModelSpec"),
    ],
)
def test_models_that_cannot_be_fitted_are_refused_before_others_are(scene, monkeypatch, second, message):  # noqa: F811
    cube, points = scene
    monkeypatch.setattr(module, "_answers", lambda *_: pytest.fail("a model was fitted"))
    with pytest.raises((SpecError, PointsError, CheckpointError), match=message):
        cube.miso.cross_validate({"first": "rf-coordinates", "second": second}, labelled(points), cv=CV, progress=False)


def test_validation_points_that_leave_nothing_are_refused_before_any_fit(scene, spec, monkeypatch):  # noqa: F811
    """Which points are held out follows from fold and seed, long before a fold's turn comes."""
    cube, points = scene
    points = labelled(points).reset_index(drop=True)
    xy = np.stack([points.geometry.x, points.geometry.y], axis=-1)
    held = held_out(spec, xy[:200], None, 1, spared=False)
    points["permafrost"] = (~np.append(held, np.zeros(len(points) - 200, bool))).astype(float)  # absent where seed 1 validates
    points.loc[200:, "permafrost"] = np.arange(len(points) - 200) % 2
    at = np.arange(len(points))
    monkeypatch.setattr(module, "_answers", lambda *_: pytest.fail("a model was fitted"))
    with pytest.raises(PointsError, match="In fold 0 of 'miso-nano', seed 1: All .* labels of 'permafrost' are 'present' when"):
        cube.miso.cross_validate(spec, points, cv=[(at[:200], at[200:])], seeds=2, progress=False, **FAST)


def test_given_folds_are_refused_where_reading_drops_points(scene):  # noqa: F811
    cube, points = scene
    points = labelled(points).reset_index(drop=True)[["permafrost", "geometry"]].astype({"permafrost": object})
    points.at[0, "permafrost"] = [0, 1]
    at = np.arange(len(points))
    with pytest.raises(PointsError, match="1 of .* points are dropped .* folds that cv gives would shift") as raised:
        cube.miso.cross_validate(CONTROL, points, cv=[(at[:200], at[200:])], progress=False)
    assert "Observations of one place differ" in raised.value.__notes__[0]


def test_models_of_the_same_bands_see_them_each_in_its_way(scene, spec, tmp_path):  # noqa: F811
    """In windows of other sizes; and where one needs imagery and the other takes any band."""
    cube, points = scene
    points, options = labelled(points).reset_index(drop=True), {"cv": CV, "progress": False}
    wide = replace(spec, windows=WindowSpec(32, 32, 24))
    together = replace(spec, modalities=(Modality("all", spec.bands, spec.modalities[0].encoder),))
    one, two = (CONTROL, {"like": spec}), (CONTROL, {"like": wide})
    cube.miso.cross_validate({"one": one}, points, store=tmp_path, **options)
    cube.miso.cross_validate({"one": one, "two": two}, points, store=tmp_path, **options)
    row, column = (int(part[0]) for part in place(points.iloc[:1], geobox_of(cube))[1:])
    holed = cube.copy(deep=True)
    for name in ("red", "nir"):
        holed[name][row, column] = np.nan
    for order in (("one", "all"), ("all", "one")):
        estimators = {name: {"one": one, "all": (CONTROL, {"like": together})}[name] for name in order}
        with pytest.warns(MisoxrWarning, match="have no label, or no valid imagery"):
            found = holed.miso.cross_validate(estimators, points, **options)
        assert 0 not in set(found.predictions.point)


def test_a_store_knows_what_no_text_shows(scene, tmp_path):  # noqa: F811
    """Long arrays among an estimator's parameters; and files of other settings are not read where two runs lost one of them."""
    cube, points = scene
    points, options = labelled(points), {"cv": CV, "store": tmp_path, "progress": False}

    def estimator(last):
        weights = np.append(np.ones(5000), last)[:, None]
        return {"own": Baseline(Weighted(weights))}

    first = cube.miso.cross_validate(estimator(1.0), points, **options)
    with pytest.raises(StoreError, match="another model 'own'"):
        cube.miso.cross_validate(estimator(2.0), points, **options)
    bags = {
        count: {"bags": BaggingClassifier(LogisticRegression(), n_estimators=count)} for count in (2, 3)
    }  # has an estimator, too
    cube.miso.cross_validate(bags[2], points, **options)
    with pytest.raises(StoreError, match="another model 'bags'"):
        cube.miso.cross_validate(bags[3], points, **options)
    (tmp_path / "run.json").unlink()
    second = cube.miso.cross_validate(estimator(2.0), points, **options)
    assert len(list(tmp_path.glob("own*.parquet"))) == 6
    assert set(first.predictions.seconds).isdisjoint(second.predictions.seconds)
    with pytest.raises(SpecError, match="'own' cannot be described in a store"):
        cube.miso.cross_validate(
            {"own": Baseline(make_pipeline(FunctionTransformer(lambda x: x), LogisticRegression()))}, points, **options
        )


def test_models_of_folds_do_not_stay(scene, spec):  # noqa: F811
    cube, points = scene
    before = set(checkpoint._LOADED)
    cube.miso.cross_validate(spec, labelled(points), cv=2, progress=False, **FAST)
    assert set(checkpoint._LOADED) == before


def test_folds_and_seeds_as_others_write_them(scene, monkeypatch):  # noqa: F811
    cube, points = scene
    points = labelled(points)
    options = {"progress": False}
    folds = list(SklearnKFold(2).split(np.zeros(len(points))))
    found = cube.miso.cross_validate(CONTROL, points, cv=folds, seeds=np.int64(1), **options)
    assert found.about["seeds"] == [0]
    assert cube.miso.cross_validate(CONTROL, points, cv=np.int64(2), seeds=np.array([3]), **options).about["seeds"] == [3]
    monkeypatch.setattr(module, "_answers", lambda *_: pytest.fail("a model was fitted"))
    for seeds in ((0, 0), (-1,), "12", None, [0.5]):
        with pytest.raises(SpecError, match="give a number of seeds, or different whole numbers from 0"):
            cube.miso.cross_validate(CONTROL, points, cv=2, seeds=seeds, **options)
    with pytest.raises(SpecError, match="store is 5; give a path or a URL"):
        cube.miso.cross_validate(CONTROL, points, cv=2, **options | {"store": 5})
    with pytest.raises(SpecError, match="client is 'local'; give a distributed.Client"):
        cube.miso.cross_validate(CONTROL, points, cv=2, client="local", **options)
    closed = SimpleNamespace(submit=None, status="closed")
    with pytest.raises(SpecError, match="The client is closed"):
        cube.miso.cross_validate(CONTROL, points, cv=2, client=closed, **options)
    for jobs in (0, -2, 1.5, "all", True):
        with pytest.raises(SpecError, match="n_jobs is .*; give the number of folds to run at once, or -1"):
            cube.miso.cross_validate(CONTROL, points, cv=2, n_jobs=jobs, **options)
    with pytest.raises(SpecError, match="n_jobs is 2 beside a client"):
        cube.miso.cross_validate(CONTROL, points, cv=2, n_jobs=2, client=ThreadPoolExecutor(1), **options)
    with pytest.raises(SpecError, match=r"\['seed'\] of 'all' cannot be set here: give seeds="):
        cube.miso.cross_validate(CONTROL, points, cv=2, seed=1, **options)
    with pytest.raises(SpecError, match="cross_validate itself takes .*'regions'"):
        cube.miso.cross_validate(CONTROL, points, cv=2, zzz=1, **options)
    with pytest.raises(SpecError, match="cross_validate has no argument 'regoins'. Did you mean \"regions\""):
        cube.miso.cross_validate(CONTROL, points, cv=2, regoins=1, **options)

    class Both:
        def split(self, X):
            yield np.arange(len(X)), np.arange(10)

    with pytest.raises(PointsError, match="Fold 0 has 10 points in both training and test"):
        cube.miso.cross_validate(CONTROL, points, cv=Both(), **options)


def test_other_folds_of_the_same_points_are_another_run(scene, tmp_path):  # noqa: F811
    """Also where one side goes on where the other had ended."""
    cube, points = scene
    points, options = labelled(points), {"store": tmp_path, "progress": False}
    at = np.arange(len(points))
    cube.miso.cross_validate(CONTROL, points, cv=PredefinedFolds([(at[:200], at[200:])]), **options)
    with pytest.raises(StoreError, match="another folds"):
        cube.miso.cross_validate(CONTROL, points, cv=PredefinedFolds([(at[:150], at[150:])]), **options)


def test_a_damaged_store_names_its_file(scene, tmp_path):  # noqa: F811
    cube, points = scene
    points, options = labelled(points), {"store": tmp_path / "cv", "cv": CV, "progress": False}
    cube.miso.cross_validate(CONTROL, points, **options)
    file = next((tmp_path / "cv").glob("*fold1-*.parquet"))
    file.write_bytes(b"")
    with pytest.warns(MisoxrWarning, match=f"{file.name} is damaged, and is run again"):
        cube.miso.cross_validate(CONTROL, points, **options)
    (tmp_path / "cv" / "run.json").write_text("")
    with pytest.raises(StoreError, match="run.json is damaged"):
        cube.miso.cross_validate(CONTROL, points, **options)
    with pytest.raises(StoreError, match="cannot be made"):
        cube.miso.cross_validate(CONTROL, points, **{**options, "store": next((tmp_path / "cv").glob("*.parquet"))})


def test_an_index_of_words_and_numbers_can_be_saved(scene, tmp_path):  # noqa: F811
    cube, points = scene
    points = labelled(points)
    mixed = points.set_axis([*range(len(points) - 1), "last"])
    found = cube.miso.cross_validate(CONTROL, mixed, cv=2, progress=False)
    found.save(tmp_path / "scores.parquet")
    same(Scores.load(tmp_path / "scores.parquet"), found)
    with pytest.raises(StoreError, match=r"give what Scores\.save wrote"):
        Scores.load(tmp_path)


def test_given_folds_are_of_the_points_given(scene):  # noqa: F811
    """Points that are left out do not shift the others between folds."""
    cube, points = scene
    points = points.reset_index(drop=True)
    at = np.arange(len(points))
    cv = PredefinedFolds([(at[at % 3 != k], at[at % 3 == k]) for k in range(3)])
    with pytest.warns(MisoxrWarning, match="left out"):
        found = cube.miso.cross_validate(CONTROL, points, cv=cv, progress=False)
    assert len(set(found.predictions.point)) < len(points)
    assert (found.predictions.fold == found.predictions.point % 3).all()


def test_seeds_change_estimators(scene):  # noqa: F811
    cube, points = scene
    forest = baseline("rf-11").estimator.set_params(n_estimators=9)
    found = cube.miso.cross_validate(Baseline(forest), labelled(points), cv=CV, seeds=2, progress=False)
    one, other = (found.predictions[found.predictions.seed == seed].p0.to_numpy() for seed in (0, 1))
    assert not np.array_equal(one, other)


def changed(cube, points, *, near, far):
    """Return a cube that differs in one pixel in four, at least ``near`` pixels from all points, and at most ``far`` from one."""
    at = np.stack([np.floor((1_500_000 - points.geometry.y) / 20), np.floor((points.geometry.x - 300_000) / 20)], axis=-1)
    rows, columns = np.indices(cube.red.shape)
    away = np.min([np.maximum(abs(rows - row), abs(columns - column)) for row, column in at], axis=0)
    chosen = (away >= near) & (away <= far) & (rows % 2 == 0) & (columns % 2 == 0)
    assert chosen.any()
    return cube.assign(red=xr.where(chosen, cube.red * 1.5, cube.red).astype("float32").assign_attrs(cube.red.attrs))


@pytest.mark.parametrize(
    ("estimator", "seen"),
    [
        (LogisticRegression(), 0),
        (Baseline(DecisionTreeClassifier(), "neighbourhood"), 7),
        (Baseline(DecisionTreeClassifier(), scaling="whiten"), 16),
        ((DecisionTreeClassifier(), {"scaling": "log"}), 16),
        ("miso", 16),
    ],
    ids=["pixel", "neighbourhood", "whitened", "scaled", "network"],
)
def test_other_imagery_where_a_model_sees_it_is_not_the_same_run(scene, spec, tmp_path, estimator, seen):  # noqa: F811
    """Any pixel of what it sees counts, in any chunks; beyond, nothing does."""
    cube, points = scene
    points = (
        labelled(points).cx[300_400:302_800, 1_497_200:1_499_600].iloc[::10]
    )  # not at the edge, where squares reach further inward
    estimator = (spec, {**FAST, "steps": 1}) if estimator == "miso" else estimator
    cv = [(np.arange(0, len(points), 2), np.arange(1, len(points), 2))]

    def run(cube):
        like = {} if isinstance(estimator, tuple) and estimator[0] is spec else {"like": spec}
        return cube.miso.cross_validate({"own": estimator}, points, cv=cv, store=tmp_path, progress=False, **like).predictions

    first = run(cube).seconds
    for same_for_it in (cube.chunk(y=48, x=37), changed(cube, points, near=seen + 1, far=8) if seen < 8 else cube.copy(deep=True)):
        assert (run(same_for_it).seconds == first).all()
    for near in {0, min(1, seen), min(3, seen), min(9, seen)}:
        other = changed(cube, points, near=near, far=seen) if near else cube.assign(red=(cube.red * 1.1).assign_attrs(units="1"))
        with pytest.raises(StoreError, match="model 'own'"):
            run(other)


@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    size=st.integers(2, 16),
    reach=st.none() | st.integers(0, 7),
    seed=st.integers(0, 99),
)
def test_squares_hold_all_that_is_read_around_points(shape, size, reach, seed):
    rng = np.random.default_rng(seed)
    rows, columns = (rng.uniform(0, length, 5) for length in shape)
    layer, cube = rng.integers(0, 2, 5), da.zeros((1, *shape), dtype="float32")
    squares, side = squares_seen(rows, columns, layer, GeoBox(shape, Affine.identity(), 3338), reach, size)
    held = np.zeros((2, *shape), dtype=bool)
    for number, row, column in squares:
        held[number, row : row + side, column : column + side] = True
    read = np.zeros_like(held)
    for number, row, column in zip(layer, rows.astype(int), columns.astype(int), strict=True):
        around = size - 1 if reach is None else reach
        read[number, max(0, row - around) : row + around + 1, max(0, column - around) : column + around + 1] = True
    if reach is None:
        with read_cutouts([cube, cube], rows, columns, size, layer=layer) as cutouts:
            _, high, wide = cutouts.file.shape
            for number, (row, column) in zip(cutouts.layers, cutouts.file.starts, strict=True):
                read[number, row : row + high, column : column + wide] = True
    assert not (read & ~held).any()


def test_another_regressor_or_number_of_members_is_another_run(scene, spec, tmp_path):  # noqa: F811
    cube, points = scene
    options = {"cv": CV, "store": tmp_path, "progress": False}
    soc = labelled(points).assign(soc=np.arange(len(labelled(points)), dtype=float))
    like = {"like": replace(spec, tasks=(PERMAFROST, Task("soc", "regression")))}
    for number, regressor in enumerate((Ridge(), Ridge(50), None)):
        model = {"both": (Baseline(DecisionTreeClassifier(), regressor=regressor), like)}
        if number == 0:
            cube.miso.cross_validate(model, soc, **options)
        else:
            with pytest.raises((StoreError, SpecError), match="model 'both'" if regressor else "does not fit task"):
                cube.miso.cross_validate(model, soc, **options)
    options["store"], known = tmp_path / "members", points[points.permafrost.notna()]
    network = {"teacher": None, "max_epochs": 1, "steps": 1}
    one = replace(spec, tasks=(PERMAFROST,))
    cube.miso.cross_validate({"net": (one, {**network, "members": 2})}, known, **options)
    with pytest.raises(StoreError, match="model 'net'"):
        cube.miso.cross_validate({"net": (one, {**network, "members": 3})}, known, **options)


def test_regressors_with_tasks_of_their_own(scene, spec):  # noqa: F811
    cube, points = scene
    depth = points.assign(depth=np.arange(len(points)) * 0.1)[["depth", "geometry"]]
    like = replace(spec, tasks=(Task("depth", "regression", units="cm"),))
    found = cube.miso.cross_validate({"tree": (DecisionTreeRegressor(), {"like": like})}, depth, cv=CV, progress=False)
    assert "depth rmse" in found.summary()
    assert found.compare("tree", "tree", "r2").difference == 0


def test_points_in_another_crs_are_moved(scene):  # noqa: F811
    cube, points = scene
    points = labelled(points)
    one = cube.miso.cross_validate(CONTROL, points, cv=CV, progress=False)
    other = cube.miso.cross_validate(CONTROL, points.to_crs(4326), cv=CV, progress=False)
    pd.testing.assert_frame_equal(one.predictions[["point", "fold"]], other.predictions[["point", "fold"]])
    assert np.abs(one.predictions.p0 - other.predictions.p0).median() < 0.02


def test_censored_labels_are_never_scored(scene):  # noqa: F811
    """The same points are scored for all models; what a model learns may differ. One warning tells of them."""
    cube, points = scene
    points = labelled(points).iloc[:200].drop(columns="taxonomy")
    points = points[points.permafrost.notna()]
    depth = np.where(np.arange(len(points)) % 3 == 0, 0.5, 1.5)
    stopped = (points.permafrost == 0).to_numpy() & (depth < 1)
    models = {"learns": (LogisticRegression(max_iter=50), {"censored": "weight"}), "drops": LogisticRegression(max_iter=50)}
    options = {"cv": BlockKFold(800, n_splits=3), "progress": False}
    with pytest.warns(MisoxrWarning) as told:
        found = cube.miso.cross_validate(models, points.assign(depth=depth), **options)
    words = "\n".join(str(one.message) for one in told)
    assert words.count(f"{stopped.sum()} labels 'absent' of 'permafrost' are censored") == 1
    assert words.count("censored:") == 1
    for _, part in found.predictions.groupby("model"):
        assert set(part.point) == set(points.index[~stopped])
    answers = [part.sort_values("point").p0.to_numpy() for _, part in found.predictions.groupby("model")]
    assert not np.allclose(*answers)
    # Where all drop them, it is as if they had never been there.
    alone = cube.miso.cross_validate({"drops": models["drops"]}, points[~stopped], cv=KFold(3), progress=False)
    with pytest.warns(MisoxrWarning, match="are left out"):
        dropped = cube.miso.cross_validate({"drops": models["drops"]}, points.assign(depth=depth), cv=KFold(3), progress=False)
    assert set(dropped.predictions.point) == set(alone.predictions.point)
    kept = cube.miso.cross_validate(models["drops"], points.assign(depth=depth), censored="keep", cv=KFold(3), progress=False)
    assert set(kept.predictions.point) == set(points.index)


def test_a_store_is_of_the_depths_and_accuracies_it_was_made_of(scene, tmp_path):  # noqa: F811
    cube, points = scene
    points = labelled(points).iloc[:120].assign(accuracy=5.0)
    options = {"cv": KFold(2), "progress": False, "store": tmp_path}
    first = cube.miso.cross_validate({"control": CONTROL}, points, **options)
    same(cube.miso.cross_validate({"control": CONTROL}, points, **options), first)
    with pytest.raises(StoreError, match="folds of another points"):
        cube.miso.cross_validate({"control": CONTROL}, points.assign(accuracy=90.0), **options)


@pytest.mark.filterwarnings("ignore::misoxr.errors.MisoxrWarning")
def test_a_store_is_of_the_labels_that_are_learnt_and_not_scored(scene, tmp_path):  # noqa: F811
    """A censored "absent" is never scored: whether it is there, and how deep, is learnt with censored="weight"."""
    cube, points = scene
    points = labelled(points).iloc[:120]
    absent = np.flatnonzero(points.permafrost == 0)[0]
    points = points.assign(depth=np.where(np.arange(120) == absent, 0.5, 1.5))
    models = {"tree": (DecisionTreeClassifier(), {"censored": "weight"})}
    options = {"cv": KFold(2), "progress": False, "store": tmp_path}
    first = cube.miso.cross_validate(models, points, **options)
    same(cube.miso.cross_validate(models, points, **options), first)
    column = points.columns.get_loc("permafrost")
    for other in (None, 1.0):
        changed = points.copy()
        changed.iloc[absent, column] = other
        with pytest.raises(StoreError, match="folds of another points"):
            cube.miso.cross_validate(models, changed, **options)


def test_rules_for_censored_labels_are_checked_before_a_cube_is_read(scene):  # noqa: F811
    cube, points = scene
    with pytest.raises(SpecError, match="censored is 'drops'; use one of"):
        cube.miso.cross_validate(CONTROL, points, censored="drops", progress=False)


def test_tasks_and_bands_are_given_to_all(scene, spec):  # noqa: F811
    cube, points = scene
    carbon = points.assign(soc=np.linspace(0.5, 20, len(points)))
    trees = {"tree": DecisionTreeRegressor(max_depth=2)}
    found = cube.miso.cross_validate(trees, carbon, cv=CV, tasks=["soc"], progress=False)
    assert [task.name for task in found.tasks] == ["soc"]
    bright = replace(spec, modalities=spec.modalities[:1])
    found = cube.miso.cross_validate(trees, carbon, cv=CV, like=bright, tasks=[Task("soc", "regression")], progress=False)
    assert [task.name for task in found.tasks] == ["soc"]
    with pytest.raises(SpecError, match="like gives baselines their bands and tasks, and there is none among"):
        cube.miso.cross_validate(spec, points, cv=CV, like=spec, **FAST)
    with pytest.raises(SpecError, match="tasks of 'tree' cannot be set apart"):
        cube.miso.cross_validate({"tree": (trees["tree"], {"tasks": ["soc"]})}, carbon, cv=CV)


def test_one_bar_counts_folds_and_tells_the_time_left(scene, tmp_path, capsys):  # noqa: F811
    cube, points = scene
    run = {"cv": CV, "tasks": ["permafrost"], "store": tmp_path / "folds"}
    with pytest.warns(MisoxrWarning, match="have no label"):
        cube.miso.cross_validate({"one": CONTROL}, points, **run)
    first = capsys.readouterr().err
    assert "cross_validate, one, seed 0, fold 0:   0%" in first
    with pytest.warns(MisoxrWarning, match="have no label"):
        cube.miso.cross_validate({"one": CONTROL, "two": DecisionTreeClassifier(max_depth=2)}, points, **run)
    err = capsys.readouterr().err
    assert "cross_validate:  50%" in err
    assert err.count("\n") == first.count("\n") == 1
    assert "6/6 fits" in err.rpartition("\r")[2]
    assert "0 s left" in err.rpartition("\r")[2]


def test_a_client_that_is_closed_meanwhile_is_told(scene, monkeypatch):  # noqa: F811
    distributed = pytest.importorskip("distributed")
    cube, points = scene
    with distributed.Client(n_workers=1, processes=False, dashboard_address=None, set_as_default=False) as client:
        there = module.kept
        monkeypatch.setattr(module, "kept", lambda *arguments: client.close() or there(*arguments))
        with pytest.raises(SpecError, match="client was closed before all folds were done. Start one"):
            cube.miso.cross_validate(CONTROL, labelled(points), cv=2, client=client, progress=False)
