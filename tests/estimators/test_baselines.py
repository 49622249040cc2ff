"""Baselines: what they see, that they answer lazily wherever a model does, and what they refuse."""

import io
import os
import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    ExtraTreesRegressor,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    StackingRegressor,
)
from sklearn.feature_selection import RFE
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge, RidgeClassifier
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV, TunedThresholdClassifierCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

import misoxr
from misoxr.cube.features import features, features_at
from misoxr.cube.scaling import Scaling
from misoxr.cube.stack import stack
from misoxr.display.scored import mapped_model
from misoxr.errors import BandError, CheckpointError, GridError, MisoxrWarning, PointsError, SpecError, StoreError
from misoxr.estimators.baselines import Baseline, baseline
from misoxr.estimators.embedded import EmbeddedModel
from misoxr.estimators.fitting import fit_baseline, fit_estimator, fit_table
from misoxr.estimators.identity import identity
from misoxr.estimators.pixel_model import PixelModel
from misoxr.evaluation.scores import Scores
from misoxr.grid.geobox import geobox_of
from misoxr.points.labelled import Labelled
from misoxr.points.read import place
from misoxr.spec import PERMAFROST, TAXONOMY, Task
from misoxr.spec.presets import BASELINES
from misoxr.training import embedded as training_embedded
from tests.conftest import make_model, tiny_spec
from tests.training.test_fit import scene  # noqa: F401

QUICK = {"max_epochs": 1, "teacher": None, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def forest(scene, spec):  # noqa: F811
    cube, points = scene
    return fit_baseline(cube, "rf-11", points, spec, seed=0)


def test_the_published_forest_by_name():
    found = baseline("rf-11").estimator.get_params()
    assert (found["max_depth"], found["min_samples_split"], found["class_weight"]) == (16, 5, None)
    code = "from misoxr.estimators.baselines import baseline; print(baseline('rf-11').estimator.n_estimators)"  # tests grow fewer trees
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == ["253"]
    assert baseline("rf-11-balanced").estimator.class_weight == "balanced"
    assert [baseline(name).features for name in ("rf-neighbourhood", "rf-coordinates")] == ["neighbourhood", "coordinates"]
    assert [baseline(name).scaling for name in ("rf-11", "rf-neighbourhood", "vote-neighbourhood")] == ["none", "whiten", "whiten"]
    with pytest.raises(SpecError, match=r"Unknown baseline 'rf-12'; use one of \['rf-11'"):
        baseline("rf-12")


@pytest.mark.filterwarnings("default::misoxr.errors.MisoxrWarning")
def test_maps_tell_by_their_identity_what_made_them_with_any_seed(scene, spec):  # noqa: F811
    cube, points = scene
    maps = cube.miso.predict(fit_baseline(cube, "rf-11", points, spec, seed=3))
    predictions = pd.DataFrame({"model": ["rf-neighbourhood", "rf-11"]})
    about = {"identities": {name: identity(name, spec) for name in predictions["model"]}}
    assert mapped_model(maps, Scores(predictions, spec.tasks, about)) == ("rf-11", True)


def test_a_forest_maps_lazily_and_learns(scene, forest, no_compute):  # noqa: F811
    cube, _ = scene
    with no_compute():
        maps = cube.chunk({"y": 50, "x": 70}).miso.predict(forest)
    red = cube.red.values
    found = maps.compute()
    sure = np.abs(np.log(red / np.median(red))) > 0.3
    assert ((found.permafrost_probability.values > 0.5) == (red > np.median(red)))[sure].mean() > 0.9
    assert found.taxonomy.dtype == "uint8"
    np.testing.assert_allclose(found.taxonomy_probability.sum("taxon"), 1, atol=1e-5)
    assert found.attrs["model_sha256"] == forest.sha256
    assert "RandomForestClassifier" in found.attrs["title"]
    # One key of the graph holds the estimators, however many chunks there are.
    held = [key for key, task in dict(maps.__dask_graph__()).items() if "PixelModel" in repr(task)[:200]]
    assert len(held) <= 1


@pytest.mark.parametrize("name", BASELINES)
def test_every_named_baseline_maps_what_scikit_learn_answers_and_comes_back_from_its_file(scene, name, tmp_path):  # noqa: F811
    cube, points = scene
    carbon = Task("carbon", "regression", units="kg m-2")
    points = points.assign(carbon=points.geometry.x / 1000)
    spec = tiny_spec(tasks=(PERMAFROST, carbon))
    model = cube.miso.fit(name, points, like=spec)
    model.save(tmp_path / "model.skops")
    one, other = (cube.miso.predict(what).compute() for what in (model, str(tmp_path / "model.skops")))
    xr.testing.assert_identical(one.drop_attrs(), other.drop_attrs())
    table = (
        features(model.features, model.scaling, spec, stack(cube, spec), geobox_of(cube)).compute()[:-1, :9, :9].reshape(-1, 81).T
    )
    expected = model.estimators["permafrost"].predict_proba(table)[:, 1]
    np.testing.assert_allclose(one.permafrost_probability[:9, :9].values.ravel(), expected, rtol=1e-5, atol=1e-7)
    expected = model.standardisation["carbon"].invert(model.estimators["carbon"].predict(table))
    np.testing.assert_allclose(one.carbon[:9, :9].values.ravel(), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["rf-11", "vote-neighbourhood", "boosting-neighbourhood", "logistic-neighbourhood"])
def test_labels_that_others_tell_are_learnt_by_their_certainty(scene, spec, name):  # noqa: F811
    """Points without a label of permafrost get one from their soil order; without them, a model is another."""
    cube, points = scene
    points = points.assign(permafrost=np.where(points.taxonomy == "Gelisols", 1.0, np.where(points.taxonomy.isna(), np.nan, 0.0)))
    points.loc[points.index[40:], "permafrost"] = np.nan
    told, own = (cube.miso.fit(name, points, like=spec, transfer=transfer) for transfer in ("auto", False))
    (table,) = told.record["transfer"]
    assert (table["source"], table["target"]) == ("taxonomy", "permafrost")
    assert own.record["transfer"] == []
    nir = cube.nir.values
    sure = np.abs(np.log(nir / np.median(nir))) > 0.3
    right = [
        ((cube.miso.predict(m).permafrost_probability.values > 0.5) == (nir > np.median(nir)))[sure].mean() for m in (told, own)
    ]
    assert right[0] >= right[1]
    assert told.sha256 != own.sha256
    last = StackingClassifier([("tree", DecisionTreeClassifier())], KNeighborsClassifier(), cv=2)
    for weightless in (make_pipeline(StandardScaler(), KNeighborsClassifier()), last):
        assert cube.miso.fit(weightless, points, like=spec).record["transfer"] == []
    with pytest.raises(SpecError, match="transfer is True"):
        cube.miso.fit(name, points, like=spec, transfer=True)


@pytest.mark.parametrize("count", [1.0, 0.1])
def test_a_label_that_counts_less_is_no_source_of_others(count):
    """The last two have "absent" alone. A tree's root counts what was learnt: an order is transferred where the label is certain."""
    labels = {"permafrost": np.array([1.0] * 30 + [0.0] * 32), "taxonomy": np.array([2.0] * 30 + [3.0] * 30 + [np.nan] * 2)}
    found = np.stack([np.arange(62.0), np.ones(62)]).astype("float32")
    spec, chosen = tiny_spec(tasks=(PERMAFROST, TAXONOMY)), Baseline(DecisionTreeClassifier())
    counts = {"permafrost": np.where(np.arange(62) == 61, count, 1.0)}
    model = fit_table(chosen, spec, found, labels, None, seed=0, weights=counts)
    learnt = {name: int(one.tree_.n_node_samples[0]) for name, one in model.estimators.items()}
    assert learnt == {"permafrost": 62, "taxonomy": 62 if count == 1 else 61}


def test_only_the_tasks_that_are_asked_for_are_answered(scene, forest, monkeypatch):  # noqa: F811
    cube, points = scene
    whole, at = cube.miso.predict(forest), cube.miso.predict_at(forest, points)

    def refused(*_):
        raise AssertionError("nobody asked")

    monkeypatch.setattr(forest.estimators["permafrost"], "predict_proba", refused)
    for tasks in (["taxonomy"], ["taxonomy", "taxonomy"]):
        one = cube.miso.predict(forest, tasks=tasks)
        assert list(one) == ["taxonomy_probability", "taxonomy"]
        one, some = one.compute(), cube.miso.predict_at(forest, points, tasks=tasks).compute()
        assert one.attrs["model_sha256"] == forest.sha256
    monkeypatch.undo()
    np.testing.assert_array_equal(one.taxonomy_probability, whole.taxonomy_probability)
    np.testing.assert_array_equal(some.taxonomy_probability, at.taxonomy_probability)
    assert list(cube.miso.predict(forest, tasks=["taxonomy", "permafrost"])) == list(whole)
    with pytest.raises(SpecError, match="no task 'ice'"):
        cube.miso.predict(forest, tasks=["ice"])


def test_a_map_is_what_scikit_learn_answers(scene, forest):  # noqa: F811
    cube, _ = scene
    table = stack(cube, forest.spec).compute().reshape(len(forest.spec.bands), -1).T
    wanted = forest.estimators["taxonomy"].predict_proba(table).astype("float32").T.reshape(-1, 160, 160)
    codes, filters = forest.estimators["taxonomy"].classes_, list(warnings.filters)
    for chunks in ({}, {"y": 50, "x": 70}):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = cube.chunk(chunks).miso.predict(forest, tasks=["taxonomy"]).taxonomy_probability.compute()
        np.testing.assert_array_equal(found.values[codes], wanted)
    assert warnings.filters == filters, "scikit-learn's threads leave none"
    rows = np.abs(np.random.default_rng(0).normal(size=(50, 4))).astype("float32")
    grown = ExtraTreesRegressor(5, random_state=0).fit(rows, rows[:, 0])
    model = PixelModel(replace(forest.spec, tasks=(Task("t", "regression"),)), {"t": grown})
    np.testing.assert_array_equal(model.answer(rows)[:, 0], grown.predict(rows).astype("float32"))


@pytest.mark.parametrize("kind", ["pixel", "neighbourhood", "coordinates"])
def test_the_same_estimators_make_the_same_graph(scene, spec, kind, tmp_path):  # noqa: F811
    """Then to_zarr goes on with what another call has begun."""
    cube, points = scene
    chosen = Baseline(DecisionTreeClassifier(max_depth=3), kind)
    model, same, other = (fit_baseline(cube, chosen, points, spec, seed=seed) for seed in (0, 0, 1))
    model.save(tmp_path / "model.skops")
    lazy = cube.chunk({"y": 80})
    names = [
        (lazy.miso.predict(one).permafrost.data.name, lazy.miso.predict_at(one, points[:9]).permafrost.data.name)
        for one in (model, model, same, tmp_path / "model.skops", other)
    ]
    assert len(set(names[:4])) == 1
    assert names[4] != names[0]
    part = lazy.isel(x=slice(0, 80))
    part.miso.predict(model).miso.to_zarr(tmp_path / "maps.zarr", progress=False)
    part.miso.predict(tmp_path / "model.skops").miso.to_zarr(tmp_path / "maps.zarr", progress=False)


def test_estimators_need_no_torch(tmp_path):
    """Imports of it take seconds, and more memory than a forest."""
    code = """if True:
        import sys, geopandas as gpd, numpy as np
        import xarray as xr, misoxr
        from odc.geo.geobox import GeoBox
        from affine import Affine
        from misoxr.grid.geobox import assign
        from sklearn.tree import DecisionTreeClassifier
        noise = np.random.default_rng(0).random((20, 20))
        cube = xr.Dataset({name: (("y", "x"), noise.astype("f4"), {"units": "1"}) for name in ("red", "nir")})
        cube = assign(cube, GeoBox((20, 20), Affine(10, 0, 300_000, 0, -10, 1_500_000), "EPSG:3338"))
        at = gpd.points_from_xy(cube.x.values, cube.y.values)
        points = gpd.GeoDataFrame({"permafrost": noise.diagonal() > 0.5}, geometry=at, crs="EPSG:3338")
        cube.miso.fit(DecisionTreeClassifier(), points).save("tree.skops")
        assert (cube.miso.predict("tree.skops").permafrost.values == (noise > 0.5)).mean() > 0.7
        assert cube.miso.predict_at("tree.skops", points).permafrost.values.tolist() == points.permafrost.tolist()
        assert not {"torch", "timm"} & set(sys.modules)
    """
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(root)})


def test_chunks_change_nothing_neighbourhood_included(scene, spec):  # noqa: F811
    cube, points = scene
    wide = fit_baseline(cube, Baseline(DecisionTreeClassifier(max_depth=4), "neighbourhood", "whiten"), points, spec)
    one = cube.miso.predict(wide).compute()
    for chunks in ({"y": 50, "x": 70}, {"y": 9, "x": 160}):
        other = cube.chunk(chunks).miso.predict(wide).compute()
        np.testing.assert_allclose(one.permafrost_probability, other.permafrost_probability, atol=1e-6)


def test_at_points_it_answers_as_on_the_map(scene, forest):  # noqa: F811
    cube, points = scene
    maps = cube.miso.predict(forest).compute()
    at = cube.miso.predict_at(forest, points).compute()
    box = geobox_of(cube)
    column = ((points.geometry.x - box.affine.c) / 20).astype(int)
    row = ((box.affine.f - points.geometry.y) / 20).astype(int)
    np.testing.assert_array_equal(at.permafrost_probability, maps.permafrost_probability.values[row, column])
    with pytest.warns(MisoxrWarning, match="1 of 2 points lie outside"):
        answers = cube.miso.predict_at(forest, {"x": [300_110.0, 0.0], "y": [1_499_890.0, 0.0]}).compute()
    np.testing.assert_array_equal(np.isnan(answers.permafrost_probability), [False, True])


def test_neighbourhoods_are_means_and_deviations_of_what_is_valid(scene, spec):  # noqa: F811
    cube, _ = scene
    cube = cube.assign(red=cube.red.where(cube.x > 300_400).assign_attrs(units="1"))
    bands = stack(cube, spec)
    seen = features("neighbourhood", None, spec, bands, geobox_of(cube)).compute()
    assert seen.shape == (4 * 5 + 1, 160, 160)
    raw = bands.compute()[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for side, first in ((5, 4), (15, 12)):
            half = side // 2
            for row, column in ((0, 0), (80, 19), (80, 22), (159, 159), (40, 100)):
                window = raw[max(0, row - half) : row + half + 1, max(0, column - half) : column + half + 1]
                np.testing.assert_allclose(seen[first, row, column], np.nanmean(window), rtol=1e-4)
                np.testing.assert_allclose(seen[first + 4, row, column], np.nanstd(window), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("chunks", [{"y": 160, "x": 160}, {"y": 50, "x": 9}])
@pytest.mark.parametrize("kind", ["pixel", "neighbourhood", "coordinates"])
@pytest.mark.parametrize("scaled", [False, True])
def test_features_at_points_are_those_of_the_map(scene, spec, kind, scaled, chunks):  # noqa: F811
    cube, _ = scene
    holed = cube.assign({name: cube[name].where(cube.x > 300_400).assign_attrs(units=cube[name].units) for name in cube})
    bands, box = stack(holed.chunk(chunks), spec), geobox_of(cube)
    scaling = Scaling.fit(spec, bands.compute().reshape(4, -1)[:, ::7]) if scaled else None
    rng = np.random.default_rng(0)
    rows, columns = rng.uniform(0, 160, (2, 300))
    rows[:4], columns[:4] = (0, 0, 159.9, 159.9), (0, 159.9, 0, 159.9)
    wanted = features(kind, scaling, spec, bands, box).compute()[:, rows.astype(int), columns.astype(int)]
    found = features_at(kind, scaling, spec, bands, box, rows, columns)
    assert found.ndim == 2
    np.testing.assert_allclose(found.compute(), wanted, rtol=1e-4, atol=2e-4)


def test_coordinates_alone_know_no_imagery(scene, spec):  # noqa: F811
    cube, points = scene
    control = fit_baseline(cube, "rf-coordinates", points, spec)
    noise = cube.map(lambda a: (a * 0 + 0.3).assign_attrs(a.attrs))
    one, other = (each.miso.predict(control).compute() for each in (cube, noise))
    np.testing.assert_array_equal(one.permafrost_probability, other.permafrost_probability)


def test_nodata_has_no_answer(scene, forest):  # noqa: F811
    cube, _ = scene
    holed = cube.assign({name: cube[name].where(cube.x > 300_400).assign_attrs(units="1") for name in ("red", "nir")})
    found = holed.miso.predict(forest).compute()
    assert np.isnan(found.permafrost_probability.values[:, :20]).all()
    assert (found.permafrost.values[:, :20] == 255).all()
    assert np.isfinite(found.permafrost_probability.values[:, 20:]).all()


@pytest.mark.parametrize("estimator", [LogisticRegression(max_iter=200), RidgeClassifier()])
def test_any_classifier_will_do(scene, spec, estimator):  # noqa: F811
    cube, points = scene
    model = cube.miso.fit(estimator, points)
    assert isinstance(model, PixelModel)
    found = cube.miso.predict(model).compute().permafrost_probability.values
    assert ((found > 0.5) == (cube.red.values > np.median(cube.red.values))).mean() > 0.8


STACK = StackingClassifier([("tree", DecisionTreeClassifier(max_depth=3)), ("linear", LogisticRegression())], cv=2)


@pytest.mark.parametrize(
    "estimator",
    [
        STACK,
        make_pipeline(StandardScaler(), STACK),
        GridSearchCV(STACK, {"tree__max_depth": [2, 3]}, cv=2),
        RFE(STACK, importance_getter=lambda stack: np.arange(stack.n_features_in_)[::-1]),
        SelfTrainingClassifier(STACK),
    ],
    ids=["stack", "pipeline", "search", "elimination", "self-training"],
)
def test_stacks_show_their_predict_once_they_are_fitted(scene, estimator):  # noqa: F811
    cube, points = scene
    found = cube.miso.predict(cube.miso.fit(estimator, points)).compute().permafrost_probability.values
    assert ((found > 0.5) == (cube.red.values > np.median(cube.red.values))).mean() > 0.8


def test_stacks_of_regressors_come_back_from_their_file(scene, spec, tmp_path):  # noqa: F811
    cube, points = scene
    stack_of = StackingRegressor([("tree", DecisionTreeRegressor(max_depth=3)), ("linear", Ridge())], cv=2)
    like = replace(spec, tasks=(Task("soc", "regression"),))
    model = cube.miso.fit(make_pipeline(StandardScaler(), stack_of), points.assign(soc=np.arange(len(points)) / 10), like=like)
    model.save(tmp_path / "stack.skops")
    maps = [cube.miso.predict(what).compute().soc for what in (model, str(tmp_path / "stack.skops"))]
    np.testing.assert_array_equal(*maps)


FIXED = FixedThresholdClassifier(LogisticRegression(), threshold=0.2)
TUNED = TunedThresholdClassifierCV(LogisticRegression(), cv=2)


@pytest.mark.parametrize(
    ("estimator", "name"),
    [
        (FIXED, "FixedThresholdClassifier"),
        (TUNED, "TunedThresholdClassifierCV"),
        (make_pipeline(StandardScaler(), FIXED), "FixedThresholdClassifier"),
        (GridSearchCV(TUNED, {"estimator__C": [0.1, 1.0]}, cv=2), "TunedThresholdClassifierCV"),
        (Baseline(StackingClassifier([("a", LogisticRegression())], FIXED, cv=2), "coordinates"), "FixedThresholdClassifier"),
        (FixedThresholdClassifier(LogisticRegression(), threshold="auto"), None),
        (FixedThresholdClassifier(RidgeClassifier(), threshold=0.1), None),  # has no probabilities: its classes are taken
    ],
)
def test_a_threshold_that_is_not_used_is_told(scene, estimator, name):  # noqa: F811
    cube, points = scene
    points = points[points.permafrost.notna()][["permafrost", "geometry"]]
    for run in (
        lambda: cube.miso.fit(estimator, points),
        lambda: cube.miso.cross_validate(estimator, points, cv=2, progress=False),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
        words = [str(one.message) for one in caught if "threshold of its own" in str(one.message)]
        assert len(words) == (name is not None)
        assert not words or f"{name} has a threshold of its own, which is not used" in words[0]
        assert not words or "maps.permafrost_probability >= 0.3" in words[0]


def test_regressors_answer_values(scene, spec):  # noqa: F811
    cube, points = scene
    task = Task("thickness", "regression", units="cm")
    labelled = points.assign(thickness=np.arange(len(points)) * 0.1)
    model = fit_baseline(cube, RandomForestRegressor(5, random_state=0), labelled, replace(spec, tasks=(task,)))
    found = cube.miso.predict(model).compute().thickness
    assert found.attrs["units"] == "cm"
    assert 0 <= float(found.min()) < float(found.max()) <= 40


@pytest.mark.parametrize(("factor", "offset"), [(1e-6, 2e-6), (1.0, 1e5), (1e6, -1e9), (0.0, 0.1 + 0.2)])
def test_named_regressors_learn_labels_in_any_units(scene, spec, factor, offset):  # noqa: F811
    """Also by sums of squares, whose digits an offset would eat."""
    cube, points = scene
    spec = replace(spec, tasks=(Task("soc", "regression"),))
    labels = np.sin(np.arange(len(points)) / 30)
    for name in ("rf-11", "logistic-neighbourhood"):
        one, other = (
            cube.miso.predict(fit_baseline(cube, name, points.assign(soc=soc), spec)).soc.values
            for soc in (labels, labels * factor + offset)
        )
        expected = one.astype("float64") * factor + offset
        np.testing.assert_allclose(other, expected, rtol=1e-7, atol=1e-3 * factor)


class Hurdle(RegressorMixin, BaseEstimator):
    """Whether there is any, and how much there is where there is some."""

    def fit(self, X, y):
        self.any_, self.some_ = DecisionTreeClassifier(max_depth=2).fit(X, y > 0), Ridge().fit(X[y > 0], y[y > 0])
        return self

    def predict(self, X):
        return np.where(self.any_.predict(X), self.some_.predict(X), 0.0)


@pytest.mark.parametrize(
    "estimator",
    [
        Hurdle(),
        TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1),
        SVR(epsilon=2.0),
        make_pipeline(StandardScaler(), PoissonRegressor()),
        HistGradientBoostingRegressor(loss="poisson", max_iter=5),
        RandomForestRegressor(5, criterion="poisson", random_state=0),
        GridSearchCV(Ridge(), {"alpha": [0.1, 10.0]}, cv=2),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_regressors_learn_the_labels_themselves(scene, spec, estimator):  # noqa: F811
    """What they do depends on zeros, signs and units: answers are scikit-learn's own, and so are they in a fold."""
    cube, points = scene
    spec = replace(spec, tasks=(Task("ice", "regression"),))
    points = points.assign(ice=np.clip(np.sin(np.arange(len(points)) / 9) * 20, 0, None))
    model = fit_baseline(cube, estimator, points, spec)
    assert not model.standardisation
    placed, rows, columns = place(points, geobox_of(cube))
    table = features_at("pixel", None, spec, stack(cube, spec), geobox_of(cube), rows, columns).compute()[:-1].T
    own = clone(estimator).fit(table, placed.ice)
    found = cube.miso.predict_at(model, placed).compute().ice
    np.testing.assert_allclose(found, own.predict(table), rtol=1e-5, atol=1e-6)
    assert ((found == 0).any() and isinstance(estimator, Hurdle)) or not isinstance(estimator, Hurdle)
    half = np.arange(len(placed)) % 2 == 0
    folds = [(np.flatnonzero(half), np.flatnonzero(~half))]
    scored = cube.miso.cross_validate((estimator, {"like": spec}), placed, cv=folds, progress=False).predictions
    own = clone(estimator).fit(table[half], placed.ice[half])
    np.testing.assert_allclose(scored.p0, own.predict(table[~half]), rtol=1e-5, atol=1e-6)


def test_labels_far_from_nought_keep_their_digits(scene, spec):  # noqa: F811
    cube, points = scene
    spec = replace(spec, tasks=(Task("day", "regression"),))
    points = points.assign(day=2_460_000.0 + (np.arange(len(points)) % 8) / 8)
    model = fit_baseline(cube, DecisionTreeRegressor(random_state=0), points, spec)
    assert set(model.estimators["day"].tree_.value.ravel() % 1 * 8 // 1) == set(range(8))


def test_an_estimator_put_into_a_named_baseline_learns_the_labels_themselves():
    assert baseline("rf-11").standardises
    assert not replace(baseline("rf-11"), regressor=SVR()).standardises
    assert not Baseline(baseline("rf-11").estimator).standardises


@pytest.mark.parametrize("scaling", ["log", "whiten", "standard"])
def test_a_band_of_one_value_takes_no_part(scene, spec, scaling):  # noqa: F811
    """0.529 has a logarithm that means round by 1e-16, which is no deviation to divide by."""
    cube, points = scene
    maps = []
    for value in (0.5, 0.529):
        flat = cube.assign(nir=cube.nir.copy(data=np.full(cube.nir.shape, value, "float32")))
        flat.nir[3, 3] = 0.2  # beyond the percentiles
        fitted = fit_baseline(flat, Baseline(LogisticRegression(), "neighbourhood", scaling), points, spec)
        maps.append(flat.miso.predict(fitted).permafrost_probability.values)
    np.testing.assert_allclose(*maps, atol=1e-3)
    assert ((maps[0] > 0.5) == (cube.red.values > np.median(cube.red.values))).mean() > 0.8


def test_labels_that_no_map_can_hold_are_refused(scene, spec):  # noqa: F811
    cube, points = scene
    spec = replace(spec, tasks=(Task("soc", "regression"),))
    for value, size in ((1e39, r"1e\+39"), (1e-40, "1e-40")):
        with pytest.raises(
            PointsError, match=f"labels of 'soc' reach {size}, and maps hold values of .*; give them in other units"
        ):
            fit_baseline(cube, RandomForestRegressor(2), points.assign(soc=value), spec)


def test_seeds_reach_into_pipelines(scene, spec):  # noqa: F811
    cube, points = scene
    within = make_pipeline(StandardScaler(), RandomForestClassifier(3, random_state=7))
    one, same, other = (fit_baseline(cube, within, points, spec, seed=seed).sha256 for seed in (0, 0, 1))
    assert one == same != other
    spread = make_pipeline(StandardScaler(), RandomForestClassifier(3, n_jobs=2))
    model = fit_baseline(cube, spread, points, spec)
    assert {fitted[-1].n_jobs for fitted in model.estimators.values()} == {1}  # Dask's threads share the cores


def test_points_without_imagery_are_left_out_with_a_warning(scene, spec):  # noqa: F811
    cube, points = scene
    holed = cube.map(lambda band: band.where(cube.x > 301_000).assign_attrs(band.attrs))
    with pytest.warns(MisoxrWarning, match="points lie where the cube has no valid imagery, and are left out"):
        model = holed.miso.fit(RandomForestClassifier(2), points, like=spec)
    assert model.record["points"] < len(points)


def test_what_does_not_fit_is_refused(scene, spec, forest):  # noqa: F811
    cube, points = scene
    with pytest.raises(SpecError, match="does not fit task 'permafrost', a binary; give a classifier"):
        fit_baseline(cube, RandomForestRegressor(), points, spec)
    with pytest.raises(SpecError, match="give a regressor"):
        fit_baseline(cube, RandomForestClassifier(), points, replace(spec, tasks=(Task("t", "regression"),)))
    with pytest.raises(SpecError, match="no scikit-learn estimator"):
        cube.miso.fit(3, points)
    with pytest.raises(SpecError, match=r"LogisticRegression is a class; give an estimator, LogisticRegression\(\)"):
        cube.miso.fit(LogisticRegression, points)
    with pytest.raises(SpecError, match="like is 'miso-small'; give a ModelSpec"):
        cube.miso.fit("rf-11", points, like="miso-small")
    with pytest.raises(SpecError, match="coordinates alone have no bands to scale"):
        cube.miso.fit("rf-coordinates", points, scaling="whiten")
    pixels = np.stack([cube[band.name].values.ravel() for band in spec.bands])
    scaling = Scaling.fit(spec, pixels)
    with pytest.raises(SpecError, match="coordinates alone have no bands to scale"):
        cube.miso.fit("rf-coordinates", points, like=spec, scaling=scaling)
    with pytest.raises(SpecError, match=r"The scaling lacks \['cov'\]"):
        cube.miso.fit("rf-11", points, like=spec, scaling=Scaling({"sat": scaling.modalities["sat"]}))
    with pytest.raises(SpecError, match=r"seed is 4294967296; scikit-learn takes whole numbers from 0 to 2\*\*32 - 1"):
        cube.miso.fit("rf-11", points, seed=2**32)
    with pytest.raises(SpecError, match="features is 'colour'"):
        Baseline(LogisticRegression(), "colour")
    with pytest.raises(SpecError, match=r"no settings \['max_epochs'\]"):
        cube.miso.fit("rf-11", points, max_epochs=3)
    with pytest.raises(PointsError, match="All .* labels of 'permafrost' are 'present'"):
        fit_baseline(cube, "rf-11", points[points.permafrost == 1], replace(spec, tasks=(PERMAFROST,)))
    with pytest.raises(PointsError, match="No point with valid imagery has a label of 'permafrost'"):
        fit_baseline(cube, "rf-11", points.assign(permafrost=np.nan), replace(spec, tasks=(PERMAFROST, TAXONOMY)))
    for option in ({"location": True}, {"batch_size": 3}, {"device": "cpu"}, {"compile": True}):
        with pytest.raises(SpecError, match="settings of a network"):
            cube.miso.predict(forest, **option)
    with pytest.raises(SpecError, match="resolution is 5"):
        cube.miso.predict(forest, resolution=5)


def test_settings_of_networks_that_say_nothing_are_known_by_their_value(scene, spec):  # noqa: F811
    """Also where they are made at run time, or are NumPy's."""
    cube, points = scene
    idle = {"device": "".join(["au", "to"]), "devices": np.int64(1), "members": 1, "workers": np.int8(0), "calibrate": True}
    assert cube.miso.fit("rf-11", points, like=spec, **idle).record["points"] > 0
    wrong = {"devices": True, "members": 2, "workers": False, "calibrate": 1, "val": points, "device": "cpu", "resume": None}
    for name, value in wrong.items():
        with pytest.raises(SpecError, match=rf"no settings \['{name}'\]"):
            fit_estimator(cube, "rf-11", points, like=spec, **{name: value})


# The embedding of a network


@pytest.fixture(scope="module")
def embedded(scene, spec):  # noqa: F811
    cube, points = scene
    chosen = Baseline(LogisticRegression(max_iter=200), features="embedding", network=spec)
    return cube.miso.fit(chosen, points, max_epochs=3, teacher=None, learning_rate=4e-3, device="cpu", progress=False)


def test_an_embedding_is_cross_fitted(scene, embedded):  # noqa: F811
    """Each half of the points teaches a network, and the other half the estimators on its embedding."""
    _, points = scene
    assert isinstance(embedded, EmbeddedModel)
    one, other = embedded.pairs
    assert one.network.sha256 != other.network.sha256
    assert embedded.record["cross_fitted"]
    assert embedded.record["points"] == one.estimators.record["points"] + other.estimators.record["points"]
    for pair in embedded.pairs:
        learnt = pair.network.record["points"] + pair.network.record["validation_points"]
        labelled = points[["permafrost", "taxonomy"]].notna().any(axis=1).sum()
        assert learnt + pair.estimators.record["points"] == labelled
        assert abs(learnt - labelled / 2) < labelled / 4


def test_no_point_teaches_a_network_and_its_estimators(scene, spec, monkeypatch):  # noqa: F811
    cube, points = scene
    seen = {"networks": [], "estimators": []}
    whole, table = Labelled.of, training_embedded.fit_table

    def watched(points, *args, **options):
        found = whole(points, *args, **options)
        seen["networks"].append({tuple(place) for place in found.xy})
        return found

    monkeypatch.setattr(Labelled, "of", watched)
    monkeypatch.setattr(
        training_embedded, "fit_table", lambda *args, **options: seen["estimators"].append(1) or table(*args, **options)
    )
    cube.miso.fit(Baseline(LogisticRegression(), features="embedding", network=spec), points, **QUICK)
    network, estimators, other_network, other_estimators = seen["networks"]
    assert not network & estimators
    assert network == other_estimators
    assert estimators == other_network
    assert len(seen["estimators"]) == 2


def test_the_answer_is_what_the_estimators_say_of_the_embedding(scene, embedded, no_compute):  # noqa: F811
    cube, points = scene
    lazy = cube.chunk({"y": 60, "x": 70})
    with no_compute():
        maps = lazy.miso.predict(embedded, device="cpu")
    found = maps.compute()
    answers = []
    for network, estimators in embedded.pairs:
        features = cube.miso.embed(network, device="cpu").embedding.values.reshape(network.spec.width, -1).T
        answers.append(estimators.estimators["permafrost"].predict_proba(features)[:, 1])
    np.testing.assert_allclose(found.permafrost_probability.values.ravel(), np.mean(answers, axis=0), atol=1e-4)
    assert list(found) == ["permafrost_probability", "permafrost", "taxonomy_probability", "taxonomy"]
    assert found.attrs["model_sha256"] == embedded.sha256
    assert found.attrs["title"].startswith("LogisticRegression")
    red = cube.red.values
    sure = np.abs(np.log(red / np.median(red))) > 0.3
    assert ((found.permafrost_probability.values > 0.5) == (red > np.median(red)))[sure].mean() > 0.8
    at = cube.miso.predict_at(embedded, {"x": cube.x.values[:9], "y": cube.y.values[20:29]}, device="cpu").compute()
    wanted = found.permafrost_probability.values[np.arange(20, 29), np.arange(9)]
    np.testing.assert_allclose(at.permafrost_probability, wanted, atol=1e-4)
    only = cube.miso.predict(embedded, tasks=["taxonomy"], resolution=40, device="cpu")
    assert (list(only), only.taxonomy.shape) == (["taxonomy_probability", "taxonomy"], (80, 80))


def test_members_of_a_network_leave_its_embedding_s_estimators_alone(scene, spec, tmp_path):  # noqa: F811
    cube, points = scene
    chosen = Baseline(LogisticRegression(), features="embedding", network=spec, regressor=Ridge())
    fitted = cube.miso.fit(chosen, points, members=3, **{**QUICK, "teacher": None})
    assert [pair.network.spec.members for pair in fitted.pairs] == [3, 3]
    assert (fitted.spec, fitted.record["regressor"]) == (replace(fitted.pairs[0].network.spec, members=1), "Ridge()")
    fitted.save(tmp_path / "members.zip")
    assert (tmp_path / "members.zip").read_bytes() == fitted.to_bytes()
    loaded = misoxr.load(tmp_path / "members.zip")
    assert (loaded.spec, loaded.sha256) == (fitted.spec, fitted.sha256)
    part = cube.isel(y=slice(0, 40), x=slice(0, 40))
    assert list(part.miso.predict(loaded, device="cpu").compute()) == [
        "permafrost_probability",
        "permafrost",
        "taxonomy_probability",
        "taxonomy",
    ]


def test_parts_that_do_not_belong_together_are_no_model(embedded, model, spec):
    network, estimators = embedded.pairs[0]
    scaling = Scaling.fit(estimators.spec, np.random.default_rng(0).random((16, 50)))
    for pair, words in (
        (embedded.pairs[0]._replace(network=make_model(replace(spec, width=8))), "Network 0 is .*; give networks of one kind"),
        (embedded.pairs[0]._replace(estimators=replace(estimators, features="coordinates")), "'coordinates' of 16 bands"),
        (embedded.pairs[0]._replace(estimators=replace(estimators, scaling=scaling)), "see scaled features 'pixel'"),
    ):
        with pytest.raises(SpecError, match=words):
            EmbeddedModel(embedded.spec, (pair,))
    with pytest.raises(SpecError, match="There is no network"):
        EmbeddedModel(embedded.spec, ())
    pairs = (embedded.pairs[0]._replace(estimators=replace(estimators, scaling=scaling)),)
    wrong = object.__new__(EmbeddedModel)
    wrong.__dict__.update(spec=embedded.spec, pairs=pairs, record={})
    with pytest.raises(CheckpointError, match="do not belong together .*see scaled features"):
        EmbeddedModel.from_bytes(wrong.to_bytes(), "scaled.zip")


def test_nodata_and_points_outside_have_no_answer_of_an_embedding(scene, embedded):  # noqa: F811
    cube, _ = scene
    holed = cube.assign({name: cube[name].where(cube.x > 300_400).assign_attrs(units="1") for name in ("red", "nir")})
    found = holed.miso.predict(embedded, device="cpu").compute()
    assert np.isnan(found.permafrost_probability.values[:, :20]).all()
    assert np.isfinite(found.permafrost_probability.values[:, 20:]).all()
    with pytest.warns(MisoxrWarning, match="1 of 2 points lie outside"):
        answers = cube.miso.predict_at(embedded, {"x": [300_110.0, 0.0], "y": [1_499_890.0, 0.0]}, device="cpu").compute()
    np.testing.assert_array_equal(np.isnan(answers.permafrost_probability), [False, True])


def test_networks_and_estimators_come_back_from_one_file(scene, embedded, tmp_path):  # noqa: F811
    cube, _ = scene
    path = tmp_path / "embedded.zip"
    embedded.save(path)
    loaded = misoxr.load(path)
    assert (loaded.sha256, loaded.spec, loaded.record) == (embedded.sha256, embedded.spec, embedded.record)
    loaded.save(tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == path.read_bytes()
    part = cube.isel(y=slice(0, 40), x=slice(0, 40))
    one, other = (part.miso.predict(what, device="cpu") for what in (embedded, str(path)))
    assert one.permafrost.data.name == other.permafrost.data.name
    xr.testing.assert_equal(one.compute(), other.compute())
    data = path.read_bytes()
    members = {name: content for name, content in _members(data).items() if not name.startswith("1.")}
    for wrong, words in (
        (data[:-500], "damaged"),
        (_zipped(members), r"tells of 2 networks and holds \['0.safetensors', '0.skops'\]"),
        (_zipped({**_members(data), "misoxr-embedded.json": b"[]"}), "header of .* cannot be read"),
        *(
            (
                _zipped({**_members(data), "misoxr-embedded.json": b'{"pairs": %s, "record": {}}' % count}),
                "tells of .* networks, and there are 1 to 16",
            )
            for count in (b"Infinity", b"NaN", b"17", b"0", b"-1", b"true", b'"2"', b"[2]", b"1e300", b"null")
        ),
        (_zipped({**_members(data), "1.skops": b"PK"}), "1.skops"),
        (_zipped(_members(data), zipfile.ZIP_DEFLATED), "compressed"),
    ):
        path.write_bytes(wrong)
        with pytest.raises(CheckpointError, match=words):
            misoxr.load(path)


def _members(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zipped(members, how=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, content in sorted(members.items(), key=lambda member: member[0] != "misoxr-embedded.json"):
            archive.writestr(name, content)
    return file.getvalue()


def test_a_network_in_hand_is_taken_as_it_is(scene, model):  # noqa: F811
    cube, points = scene
    points = points[points[["permafrost", "taxonomy"]].notna().any(axis=1)]
    chosen = Baseline(make_pipeline(StandardScaler(), LogisticRegression()), features="embedding", network=model)
    fitted = cube.miso.fit(chosen, points, device="cpu")
    ((network, estimators),) = fitted.pairs
    assert network is model
    assert not fitted.record["cross_fitted"]
    assert fitted.record["points"] == estimators.record["points"]
    rows, columns = (150 - 0.5 * np.arange(9)).astype(int), np.arange(9)
    at = cube.miso.predict_at(fitted, {"x": cube.x.values[columns], "y": cube.y.values[rows]}, device="cpu").compute()
    features = cube.miso.embed(model, device="cpu").embedding.values[:, rows, columns].T
    wanted = estimators.estimators["permafrost"].predict_proba(features)[:, 1]
    np.testing.assert_allclose(at.permafrost_probability, wanted, atol=1e-4)
    scores = cube.miso.cross_validate({"embedded": (chosen, {"device": "cpu"}), "rf": "rf-11"}, points, cv=2, progress=False)
    assert scores.models == ["embedded", "rf"]
    assert scores.about["baselines"] == ["rf"]
    with pytest.raises(SpecError, match="device 'tpu' is not known"):
        cube.miso.cross_validate([chosen], points, cv=2, device="tpu", progress=False)
    with pytest.raises(SpecError, match=r"settings \['max_epochs'\] are for networks"):
        cube.miso.cross_validate([chosen], points, cv=2, device="cpu", max_epochs=1, progress=False)


def test_a_network_that_has_seen_labels_is_not_cross_validated(scene, embedded):  # noqa: F811
    cube, points = scene
    taught = embedded.pairs[0].network
    chosen = Baseline(LogisticRegression(), features="embedding", network=taught)
    assert cube.miso.fit(chosen, points, device="cpu").pairs[0].network is taught
    with pytest.raises(
        SpecError, match=r"network of 'LogisticRegression \(embedding\)' was trained on .* labelled points.*network=model.spec"
    ):
        cube.miso.cross_validate([chosen], points, cv=2, progress=False)


def _folds(few):
    """Two folds, each with two labels or one of the rare class."""
    odd = np.arange(len(few)) % 2 == 1
    return [(np.flatnonzero(~side), np.flatnonzero(side)) for side in (odd, ~odd)]


def test_folds_train_networks_of_their_own(scene, spec, tmp_path, monkeypatch):  # noqa: F811
    cube, points = scene
    points = points[points[["permafrost", "taxonomy"]].notna().any(axis=1)]
    chosen = {"embedded": (Baseline(LogisticRegression(), features="embedding", network=spec), QUICK)}
    options = {"cv": 2, "store": tmp_path / "folds", "progress": False}
    found = cube.miso.cross_validate(chosen, points, **options)
    again = cube.miso.cross_validate(chosen, points, **options)
    pd.testing.assert_frame_equal(found.predictions, again.predictions)
    other = {"embedded": (Baseline(LogisticRegression(), features="embedding", network=replace(spec, width=8)), QUICK)}
    with pytest.raises(StoreError, match="model 'embedded'"):
        cube.miso.cross_validate(other, points, **options)
    common = {name: value for name, value in QUICK.items() if name != "progress"}
    rare = points.permafrost == 1
    few = pd.concat([points[rare][:3], points[~rare]])
    with monkeypatch.context() as patch:
        patch.setattr("misoxr.evaluation.cross_validate.fit", None)
        with pytest.raises(PointsError, match="In fold . of 'embedded', seed 0: "):
            cube.miso.cross_validate(chosen, few, **{**options, "cv": _folds(few), "store": None})
    named = {"embedded": Baseline(LogisticRegression(), features="embedding", network="miso-nano")}
    with pytest.raises(GridError, match="less than a window of 'miso-nano'"):
        cube.isel(y=slice(0, 50)).miso.cross_validate(named, points, cv=2, progress=False, **common)


def test_regressions_learn_from_an_embedding(scene, model):  # noqa: F811
    cube, points = scene
    regression = replace(model.spec, tasks=(Task("soc", "regression"),))
    chosen = Baseline(LogisticRegression(), "embedding", regressor=Ridge(), network=make_model(regression))
    found = cube.miso.predict(cube.miso.fit(chosen, points.assign(soc=1e5 + np.arange(400.0)), device="cpu"), device="cpu")
    assert 99_000 < float(found.soc.mean()) < 101_000


def test_what_is_no_network_s_embedding_is_refused(scene, spec, model, embedded):  # noqa: F811
    cube, points = scene
    for wrong, words in (
        ({"features": "embedding"}, "needs a network, and it is None; give one of"),
        ({"features": "embedding", "network": "miso-nan"}, 'Did you mean "miso-nano"'),
        ({"features": "embedding", "network": 3}, "network is a int; give a Model"),
        ({"features": "embedding", "network": spec, "scaling": "whiten"}, "an embedding has no bands to scale"),
        ({"network": spec}, "network is given, and features is 'pixel'"),
    ):
        with pytest.raises(SpecError, match=words):
            Baseline(LogisticRegression(), **wrong)
    chosen = Baseline(LogisticRegression(), features="embedding", network=model)
    with pytest.raises(SpecError, match=r"settings \['max_epochs'\] are of training, and the network 'miso-nano' is trained"):
        cube.miso.fit(chosen, points, max_epochs=1)
    with pytest.raises(SpecError, match="like gives a baseline its bands"):
        cube.miso.fit(chosen, points, like=spec)
    with pytest.raises(SpecError, match="val is a table"):
        cube.miso.fit(replace(chosen, network=spec), points, val=points)
    with pytest.raises(SpecError, match="it teaches no network"):
        cube.miso.fit(spec, points, teacher=chosen, **{key: value for key, value in QUICK.items() if key != "teacher"})
    with pytest.raises(SpecError, match="sees coordinates alone"):
        cube.miso.fit(replace(chosen, network=replace(spec, modalities=())), points)
    few = points[points.permafrost.notna()]
    few = pd.concat([few[few.permafrost == 1][:30], few[few.permafrost == 0][:1]])
    with pytest.raises(PointsError, match="An embedding is cross-fitted: the network learns from .* With one half: "):
        cube.miso.fit(replace(chosen, network=spec), few, **QUICK)
    for option in ({"location": True}, {"compile": True}):
        with pytest.raises(SpecError, match="settings of a network's heads"):
            cube.miso.predict(embedded, **option)
    with pytest.raises(SpecError, match=r"estimators on embeddings of 2 networks; give one of these"):
        cube.miso.embed(embedded)


@pytest.mark.parametrize("name", ["rf-11", "vote-neighbourhood"])
def test_fill_values_that_nothing_declares_are_not_learnt(scene, name):  # noqa: F811
    cube, points = scene
    holes = cube.assign(
        elevation=cube.elevation.where(cube.elevation.notnull() & (cube.red > float(cube.red.quantile(0.2))), -9999)
    )
    with pytest.raises(BandError, match="Band 'elevation' is -9999 in .*write_nodata"):
        holes.miso.fit(name, points)


@pytest.mark.parametrize("name", ["rf-11", "rf-neighbourhood"])
def test_fill_values_that_nothing_declares_are_not_mapped(scene, name):  # noqa: F811
    cube, points = scene
    fitted = cube.miso.fit(name, points)
    holes = cube.assign(elevation=cube.elevation.where(np.arange(cube.sizes["x"]) > 1, -9999))
    with pytest.raises(BandError, match="Band 'elevation' is -9999 in .*write_nodata"):
        holes.miso.predict(fitted).compute()
    with pytest.raises(BandError, match="Band 'elevation' is -9999 in .*write_nodata"):
        holes.miso.predict_at(fitted, {"x": [float(cube.x[0])], "y": [float(cube.y[0])]}).compute()
    cube.miso.predict(fitted).compute()


def test_fill_values_where_nothing_is_mapped_are_no_matter(scene):  # noqa: F811
    """A DEM may go beyond the imagery."""
    cube, points = scene
    fitted, outside = cube.miso.fit("rf-11", points), np.arange(cube.sizes["x"]) < 2
    images = [band.name for part in fitted.spec.modalities if part.required for band in part.bands]
    part = cube.assign({name: cube[name].where(~outside) for name in images})
    maps = part.assign(elevation=part.elevation.where(~outside, -9999)).miso.predict(fitted).compute()
    xr.testing.assert_equal(maps, part.miso.predict(fitted).compute())


def test_estimators_say_why_they_have_no_with_prevalence(spec):
    with pytest.raises(SpecError, match=r"Forest\(\) has no with_prevalence: it takes shares of the classes for granted"):
        PixelModel(spec, {task.name: None for task in spec.tasks}, record={"estimator": "Forest()"}).with_prevalence(permafrost=0.3)


def test_maps_of_regressions_are_titled_by_the_regressor(spec):
    from misoxr.mapping.provenance import attributes

    record = {"estimator": "Classifier()", "regressor": "Regressor()"}
    carbon = Task("soc", "regression")
    for tasks, title in (((carbon,), "Regressor(): soc"), ((PERMAFROST, carbon), "Classifier() and Regressor(): ")):
        made = PixelModel(replace(spec, tasks=tasks), {task.name: None for task in tasks}, record=record)
        assert attributes(xr.Dataset(), made, None)["title"].startswith(title)
