"""Files of fitted estimators: what they hold comes back bit by bit, the same fit is the same file, and strangers' files do no harm."""

import io
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skops.io
import torch
from hypothesis import given, settings
from servers import range_server
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier, TweedieRegressor
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures, SplineTransformer, StandardScaler
from sklearn.random_projection import SparseRandomProjection
from sklearn.svm import SVC, SVR
from sklearn.tree import DecisionTreeClassifier

import misoxr
from misoxr.cube.scaling import Scaling
from misoxr.errors import CheckpointError, MisoxrWarning, SpecError
from misoxr.estimators.files import ALLOWED
from misoxr.estimators.pixel_model import PixelModel
from misoxr.model.checkpoint import Model
from misoxr.spec import PERMAFROST, TAXONOMY, ModelSpec, Task
from tests.conftest import make_cube
from tests.test_hostile import ANYWHERE, CHANGES, FUZZ, changed, damaged, disguised, only, peak

HEIGHT = Task("height", "regression")
RNG = np.random.default_rng(0)
TABLE = np.abs(RNG.normal(size=(80, 4))).astype("float32")
LABELS = {"permafrost": (TABLE[:, 0] > 0.6).astype(int), "taxonomy": np.arange(80) % 7, "height": TABLE[:, 1] * 10}


def fitted(spec: ModelSpec, *tasks: Task, **estimators) -> PixelModel:
    """Estimators of tasks, fitted on a table of noise."""
    found = {task.name: estimators[task.name].fit(TABLE, LABELS[task.name]) for task in tasks}
    return PixelModel(replace(spec, tasks=tasks), found, "pixel", None, (0.1, 0.2, 0.3, 0.4), {"estimator": "x", "points": 80})


@pytest.fixture(scope="module")
def both(spec) -> PixelModel:
    """Small forests of two tasks, on scaled bands: a channel more, as aspect has two."""
    cube = make_cube((32, 32), spec.bands)
    scaling = Scaling.fit(spec, np.stack([cube[band.name].values.ravel() for band in spec.bands]))
    table, tasks = np.hstack([TABLE, TABLE[:, :1]]), (PERMAFROST, TAXONOMY)
    forests = {task.name: RandomForestClassifier(4, max_depth=4, random_state=0).fit(table, LABELS[task.name]) for task in tasks}
    return PixelModel(replace(spec, tasks=tasks), forests, "pixel", scaling, (0.1, 0.2, 0.3, 0.4, 0.5), {"points": 80})


CLASSIFIERS = [
    AdaBoostClassifier(n_estimators=2),
    BaggingClassifier(KNeighborsClassifier(), 2),
    CalibratedClassifierCV(LogisticRegression(), cv=2),
    DecisionTreeClassifier(),
    ExtraTreesClassifier(2),
    GaussianNB(),
    GaussianProcessClassifier(),
    GradientBoostingClassifier(n_estimators=2),
    GridSearchCV(LogisticRegression(), {"C": [1, 2]}, cv=2),
    HistGradientBoostingClassifier(max_iter=2, categorical_features=[3]),
    KNeighborsClassifier(algorithm="ball_tree"),
    KNeighborsClassifier(algorithm="kd_tree", metric="manhattan"),
    make_pipeline(FunctionTransformer(np.log1p), SplineTransformer(), PolynomialFeatures(), LogisticRegression()),
    make_pipeline(SparseRandomProjection(2, random_state=0), LogisticRegression()),
    make_pipeline(StandardScaler(), MLPClassifier((4,), max_iter=3, solver="sgd")),
    OneVsRestClassifier(LogisticRegression()),
    SGDClassifier(loss="log_loss"),
    StackingClassifier([("a", GaussianNB()), ("b", DecisionTreeClassifier(max_depth=2))], cv=2),
    SVC(probability=True),
    VotingClassifier([("a", GaussianNB()), ("b", DecisionTreeClassifier(max_depth=2))], voting="soft"),
]
REGRESSORS = [
    GaussianProcessRegressor(),
    GradientBoostingRegressor(n_estimators=2),
    HistGradientBoostingRegressor(max_iter=2),
    KNeighborsRegressor(),
    LinearRegression(),
    RandomForestRegressor(2),
    SVR(),
    TweedieRegressor(power=1.5),
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("estimator", [*CLASSIFIERS, *REGRESSORS], ids=lambda one: str(one)[:40])
def test_estimators_of_scikit_learn_come_back_bit_by_bit(spec, tmp_path, estimator):
    task = HEIGHT if any(estimator is one for one in REGRESSORS) else PERMAFROST
    table = np.where(np.arange(4) == 3, TABLE.round(), TABLE) if "categorical" in str(estimator) else TABLE
    model = fitted(spec, task, **{task.name: estimator})
    model.save(tmp_path / "model")
    again = misoxr.load(tmp_path / "model")
    np.testing.assert_array_equal(model.answer(table), again.answer(table))
    assert again.sha256 == model.sha256
    assert (again.spec, again.features, again.fill, again.record) == (model.spec, model.features, model.fill, model.record)
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "model").read_bytes()


def test_a_file_tells_what_it_is_by_its_content(both, model, tmp_path):
    with pytest.warns(MisoxrWarning, match=r"named as safetensors and holds skops.*Call it one\.skops"):
        both.save(tmp_path / "one.safetensors")
    with pytest.warns(MisoxrWarning, match=r"named as skops and holds safetensors.*Call it other\.safetensors"):
        model.save(tmp_path / "other.skops")
    assert isinstance(misoxr.load(tmp_path / "one.safetensors"), PixelModel)
    assert isinstance(misoxr.load(tmp_path / "other.skops"), Model)
    with pytest.raises(
        CheckpointError, match=r"one\.safetensors holds fitted estimators, and no network; read it with misoxr\.load"
    ):
        Model.load(tmp_path / "one.safetensors")
    torch.save({"a": torch.zeros(2)}, tmp_path / "weights.skops")
    with pytest.raises(CheckpointError, match=r"no safetensors file.*Model\.from_published"):
        misoxr.load(tmp_path / "weights.skops")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.filterwarnings("ignore:.*lie far outside:misoxr.errors.MisoxrWarning")
def test_a_file_maps_by_its_path_alone_and_with_others(spec, both, model, tmp_path, monkeypatch, no_compute):
    monkeypatch.setenv("HOME", str(tmp_path))
    both.save("~/forest.skops")
    cube = make_cube((24, 24), spec.bands).chunk({"y": 10})
    wanted = cube.miso.predict(both)
    for path in ("~/forest.skops", tmp_path / "forest.skops", (tmp_path / "forest.skops").as_uri()):
        with no_compute():
            maps = cube.miso.predict(path)
        assert maps.permafrost_probability.data.name == wanted.permafrost_probability.data.name
        assert maps.attrs == wanted.attrs
    np.testing.assert_array_equal(maps.taxonomy_probability, wanted.taxonomy_probability)
    points = {"x": cube.x.values[:5], "y": cube.y.values[:5]}
    at = cube.miso.predict_at(tmp_path / "forest.skops", points)
    np.testing.assert_array_equal(at.permafrost_probability, wanted.permafrost_probability.values[np.arange(5), np.arange(5)])
    mean = cube.miso.predict([model, str(tmp_path / "forest.skops")])
    assert mean.attrs["model_sha256"] == f"{model.sha256} {both.sha256}"
    assert mean.permafrost_std.data.name == cube.miso.predict([model, both]).permafrost_std.data.name


def test_a_file_is_read_from_a_server(both, tmp_path):
    both.save(tmp_path / "forest")
    with range_server(tmp_path) as address:
        assert misoxr.load(f"{address}/forest").sha256 == both.sha256


def test_another_process_finds_the_same_names(spec, both, tmp_path):
    """A map that is begun in one process goes on in another: the graph's names and the file's bytes are those of the fit."""
    both.save(tmp_path / "forest.skops")
    code = f"""if True:
        import hashlib, misoxr
        from tests.conftest import make_cube
        from misoxr.estimators.files import pack
        model = misoxr.load({str(tmp_path / "forest.skops")!r})
        maps = make_cube((24, 24), model.spec.bands).chunk(y=10).miso.predict(model, tasks=["taxonomy"])
        print(maps.taxonomy_probability.data.name, hashlib.sha256(pack(model._header(), model.estimators)).hexdigest())
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    maps = make_cube((24, 24), spec.bands).chunk(y=10).miso.predict(both, tasks=["taxonomy"])
    assert run.stdout.split() == [maps.taxonomy_probability.data.name, both.sha256]


def test_what_differs_has_another_name(both):
    others = [
        replace(both, fill=(0.1, 0.2, 0.3, 0.4, 0.6)),
        replace(both, scaling=None),
        replace(both, estimators={**both.estimators, "permafrost": DecisionTreeClassifier().fit(TABLE, LABELS["permafrost"])}),
    ]
    assert len({one.sha256 for one in (both, *others)}) == 4


def test_functions_of_no_module_are_told_apart_and_not_written(spec, tmp_path):
    def halved(values):
        return values / 2

    plus = [
        make_pipeline(FunctionTransformer(function), LinearRegression()) for function in (lambda x: x + 1, lambda x: x * 3, halved)
    ]
    models = [fitted(spec, HEIGHT, height=one) for one in plus]
    assert len({model.sha256 for model in models}) == 3
    for model in models:
        with pytest.raises(SpecError, match="which no other process finds; write it in a module"):
            model.save(tmp_path / "model.skops")
    assert not list(tmp_path.iterdir())


# ---- types


class Other(LinearRegression):
    """An estimator that no list knows."""


def test_a_type_of_no_list_is_named_and_loaded_if_it_is_trusted(spec, tmp_path):
    model, name = fitted(spec, HEIGHT, height=Other()), f"{Other.__module__}.Other"
    model.save(tmp_path / "other.skops")
    with pytest.raises(CheckpointError, match=rf"holds \['{name}'\].*misoxr\.load\('.*other\.skops', trusted=\['{name}'\]\)"):
        make_cube((8, 8), spec.bands).miso.predict(tmp_path / "other.skops")
    again = misoxr.load(tmp_path / "other.skops", trusted=[name])
    np.testing.assert_array_equal(again.answer(TABLE), model.answer(TABLE))
    with pytest.raises(SpecError, match="trusted is 'all'; give a list of names"):
        misoxr.load(tmp_path / "other.skops", trusted="all")


def test_no_type_of_the_list_runs_what_it_is_told():
    assert not [name for name in ALLOWED if name.startswith(("builtins", "os", "subprocess", "operator", "numpy.f2py"))]


def test_no_pickle_is_run(tmp_path):
    marker = tmp_path / "ran"
    for kind, data in disguised(marker).items():
        (tmp_path / "model.skops").write_bytes(data)
        with pytest.raises(CheckpointError):
            misoxr.load(tmp_path / "model.skops")
        assert not marker.exists(), kind


# ---- files of strangers


def opened(data: bytes) -> dict[str, bytes]:
    """The members of a file."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def closed(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A file of members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


@pytest.fixture(scope="module")
def small(spec) -> dict[str, bytes]:
    return opened(fitted(spec, PERMAFROST, permafrost=DecisionTreeClassifier(max_depth=2)).to_bytes())


def works(model: PixelModel) -> None:
    """Ask for what is promised."""
    assert model.answer(TABLE).shape == (80, sum(task.outputs for task in model.spec.tasks))
    assert "PixelModel" in repr(model)


@settings(FUZZ, max_examples=100)
@given(changes=CHANGES)
def test_any_schema_gives_estimators_or_an_error(small, changes):
    schema = changed(json.loads(small["schema.json"]), changes)
    found = only(CheckpointError, lambda: PixelModel.from_bytes(closed({**small, "schema.json": json.dumps(schema).encode()})))
    if found is not None:
        works(found)


@settings(FUZZ, max_examples=100)
@given(changes=CHANGES)
def test_any_header_gives_estimators_or_an_error(small, changes):
    header = changed(json.loads(small["misoxr.json"]), changes)
    step = lambda: PixelModel.from_bytes(closed({**small, "misoxr.json": json.dumps(header).encode()}))  # noqa: E731
    found = only(CheckpointError, step, silent=False)
    if found is not None:
        works(found)


@settings(FUZZ, max_examples=100)
@given(changes=ANYWHERE)
def test_any_bytes_give_estimators_or_an_error(small, changes):
    found = only(CheckpointError, lambda: PixelModel.from_bytes(damaged(closed(small), changes, 200)))
    if found is not None:
        works(found)


def test_bombs_are_refused_before_they_are_read(small):
    bomb = closed({**small, "more.bin": bytes(2**28)}, zipfile.ZIP_DEFLATED)
    before = peak()
    with pytest.raises(CheckpointError, match="its members are compressed"):
        PixelModel.from_bytes(bomb)
    first, second = sorted(name for name in small if name.endswith(".npy"))[:2]
    giant = io.BytesIO()
    np.lib.format.write_array_header_1_0(giant, {"descr": "<f8", "fortran_order": False, "shape": (2**40,)})
    with pytest.raises(CheckpointError, match=r"an array of \(1099511627776,\) float64 in 0 bytes"):
        PixelModel.from_bytes(closed({**small, first: giant.getvalue()}))
    twice = small["schema.json"].replace(second.encode(), first.encode())
    with pytest.raises(CheckpointError, match="two objects have one file"):
        PixelModel.from_bytes(closed({**small, "schema.json": twice}))
    numbered = json.loads(small["schema.json"]) | {"__id__": 5}
    with pytest.raises(CheckpointError, match="its objects have numbers"):
        PixelModel.from_bytes(closed({**small, "schema.json": json.dumps(numbered).encode()}))
    assert peak() - before < 100e6


@pytest.mark.parametrize(
    ("estimator", "task", "edit", "message"),
    [
        (RandomForestClassifier(2), PERMAFROST, ("left_child", 10**6), "nodes point outside"),
        (RandomForestClassifier(2), PERMAFROST, ("right_child", 0), "nodes point outside"),
        (RandomForestClassifier(2), PERMAFROST, ("feature", 4), "unknown features"),
        (RandomForestClassifier(2), PERMAFROST, ("feature", -5), "unknown features"),
        (HistGradientBoostingClassifier(max_iter=1), PERMAFROST, ("left", 10**6), "nodes point outside"),
        (HistGradientBoostingClassifier(max_iter=1), PERMAFROST, ("feature_idx", 4), "unknown features"),
        (KNeighborsClassifier(algorithm="kd_tree"), PERMAFROST, ("idx_end", 10**6), "points that are none"),
        (KNeighborsRegressor(algorithm="ball_tree"), HEIGHT, ("is_leaf", 0), "nodes point outside"),
    ],
)
def test_an_index_that_points_nowhere_is_refused(spec, estimator, task, edit, message):
    members = opened(fitted(spec, task, **{task.name: estimator}).to_bytes())
    field, value = edit
    for name, content in members.items():
        if name.endswith(".npy"):
            array = np.load(io.BytesIO(content))
            if field in (array.dtype.names or ()):
                array[field][array["is_leaf"] != 0 if field == "is_leaf" else slice(0, 1)] = value
                file = io.BytesIO()
                np.save(file, array)
                members[name] = file.getvalue()
    with pytest.raises(CheckpointError, match=message):
        PixelModel.from_bytes(closed(members), "strange")


def test_what_contradicts_itself_or_is_no_file_of_ours_is_refused(small, spec, tmp_path):
    header = json.loads(small["misoxr.json"])

    def edited(**changes) -> bytes:
        return closed({**small, "misoxr.json": json.dumps({**header, **changes}).encode()})

    for changes, message in (
        ({"features": "colour"}, "features is 'colour'"),
        ({"features": "neighbourhood"}, "4 values for 20 features"),
        ({"features": "coordinates", "fill": []}, "the estimator of 'permafrost' does not answer"),
        ({"fill": [1.0]}, "1 values for 4 features"),
        (
            {"spec": {**header["spec"], "tasks": [header["spec"]["tasks"][0] | {"name": "ice"}]}},
            r"\['permafrost'\] for the tasks \['ice'\]",
        ),
        ({"surprise": 1}, "surprise.*newer misoxr"),
    ):
        with pytest.raises(CheckpointError, match=message):
            PixelModel.from_bytes(edited(**changes), "strange")
    skops.io.dump(LinearRegression().fit(TABLE, LABELS["height"]), tmp_path / "plain.skops")
    with pytest.raises(CheckpointError, match=r"without misoxr\.json, which tells the bands.*ds\.miso\.fit"):
        misoxr.load(tmp_path / "plain.skops")
    for lost in ("schema.json", *sorted(small)[:1]):
        with pytest.raises(CheckpointError, match="damaged"):
            PixelModel.from_bytes(closed({name: content for name, content in small.items() if name != lost}), "lost")
    with pytest.raises(CheckpointError, match="damaged"):
        PixelModel.from_bytes(closed(small)[:-100], "cut")
    newer = json.loads(small["schema.json"]) | {"protocol": 99}
    with pytest.raises(CheckpointError, match="damaged.*protocol"):
        PixelModel.from_bytes(closed({**small, "schema.json": json.dumps(newer).encode()}), "newer")
    with pytest.warns(MisoxrWarning, match="written with scikit-learn 0.1, and .* may answer otherwise"):
        PixelModel.from_bytes(edited(sklearn_version="0.1"), "old")
