"""Teaching: estimators answer pixels of the whole cube, and the network learns these answers."""

from dataclasses import replace

import geopandas as gpd
import numpy as np
import pytest
import torch
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsClassifier

from misoxr.cube.cutouts import read_cutouts
from misoxr.cube.features import features
from misoxr.cube.scaling import ModalityScaling, Scaling
from misoxr.cube.stack import stack
from misoxr.errors import PointsError, SpecError
from misoxr.estimators.baselines import Baseline, baseline
from misoxr.grid.geobox import geobox_of
from misoxr.model.losses import task_loss
from misoxr.points.labelled import Labelled
from misoxr.spec import PERMAFROST, TAXONOMY, ModelSpec, Recipe, Task, WindowSpec
from misoxr.training import teaching
from misoxr.training.settings import described
from misoxr.training.teaching import taught, teachers_of
from misoxr.training.windows import TrainingWindows
from tests.conftest import make_cube, tiny_spec

QUICK = {"progress": False, "device": "cpu"}


class Bright(ClassifierMixin, BaseEstimator):
    """Says "present" where the first band is bright, whatever it is told."""

    def __init__(self, limit=0.2):
        self.limit = limit

    def fit(self, X, y):
        self.classes_ = np.array([0, 1])
        return self

    def predict(self, X):
        return (X[:, 0] > self.limit).astype(int)

    def predict_proba(self, X):
        share = np.where(X[:, 0] > self.limit, 0.9, 0.1)
        return np.stack([1 - share, share], axis=1)


@pytest.fixture(scope="module")
def spec():
    return tiny_spec(tasks=(PERMAFROST, TAXONOMY))


@pytest.fixture(scope="module")
def scene(spec):
    """A cube, and points whose labels are coins."""
    cube = make_cube((120, 130), spec.bands)
    rng = np.random.default_rng(5)
    rows, columns = rng.integers(0, 120, (2, 90))
    taxonomy = np.array(["Gelisols", "Histosols", "Mollisols"], dtype=object)[rng.integers(0, 3, 90)]
    points = gpd.GeoDataFrame(
        {"permafrost": np.where(rng.random(90) < 0.8, rng.integers(0, 2, 90), np.nan), "taxonomy": taxonomy},
        geometry=gpd.points_from_xy(300_010 + 20.0 * columns, 1_499_990 - 20.0 * rows),
        crs="EPSG:3338",
    )
    return cube, points


@pytest.fixture
def windows(spec, scene):
    cube, points = scene
    geobox = geobox_of(cube)
    labelled = Labelled.of(points, spec, geobox)
    with read_cutouts(stack(cube, spec), labelled.rows, labelled.columns, spec.windows.size, least=5) as cutouts:
        scaling = Scaling.fit(spec, cutouts.pixels(500, np.random.default_rng(0)))
        yield TrainingWindows(spec, scaling, cutouts, labelled, geobox)


def test_the_network_learns_what_the_teacher_says_and_not_the_labels(scene):
    cube, points = scene
    limit = float(np.median(cube.red))
    spec = tiny_spec(tasks=(PERMAFROST,))
    model = cube.miso.fit(spec, points, teacher=Bright(limit), max_epochs=4, steps=160, learning_rate=4e-3, **QUICK)
    found = cube.miso.predict(model, device="cpu").permafrost_probability.values
    sure = np.abs(np.log(cube.red.values / limit)) > 0.3
    assert ((found > 0.5) == (cube.red.values > limit))[sure].mean() > 0.9


@pytest.mark.parametrize("kind", ["pixel", "neighbourhood", "coordinates"])
def test_features_in_cutouts_are_those_of_the_cube(spec, scene, windows, kind):
    cube, _ = scene
    cutout, rows, columns = teaching._pixels(windows, 7, 0)
    table = teaching._features(windows, Baseline(KNeighborsClassifier(), kind), None, cutout, rows, columns)
    whole = features(kind, None, spec, stack(cube, spec), geobox_of(cube)).compute()
    np.testing.assert_allclose(table, whole[:, rows.astype(int), columns.astype(int)], rtol=1e-5, atol=1e-6)
    assert len(np.unique(np.stack([rows, columns]), axis=1).T) > 100


def test_answers_belong_to_their_pixels(scene, windows, monkeypatch):
    cube, _ = scene
    monkeypatch.setattr(teaching, "OWN", 0)
    limit = float(np.median(cube.red))
    data = replace(windows, spec=replace(windows.spec, tasks=(PERMAFROST,)))
    pool = taught(data, np.arange(len(windows.labelled)), [Baseline(Bright(limit))], seed=0).data.pool
    bright = cube.red.values[pool.rows.astype(int), pool.columns.astype(int)] > limit
    np.testing.assert_allclose(pool.answers["permafrost"][:, 0], np.where(bright, 0.9, 0.1), rtol=1e-6)
    for cutout, (row, column) in enumerate(windows.cutouts.file.starts):
        mine = slice(pool.first[cutout], pool.first[cutout + 1])
        assert ((pool.rows[mine] > row) & (pool.rows[mine] < row + 32)).all()
        assert ((pool.columns[mine] > column) & (pool.columns[mine] < column + 32)).all()
    assert pool.first[-1] == len(pool)


def test_at_its_points_the_network_is_told_the_labels(windows):
    """Of what has no label, it is told what the teacher says."""
    data = replace(windows, spec=replace(windows.spec, tasks=(PERMAFROST, TAXONOMY)))
    train = np.arange(0, len(windows.labelled), 2)
    pool = taught(data, train, [baseline("rf-11")], seed=0).data.pool
    for point in train:
        at = told_at(pool, windows, point)
        order, present = (windows.labelled.labels[name][point] for name in ("taxonomy", "permafrost"))
        if (windows.labelled.xy[train] == windows.labelled.xy[point]).all(axis=1).sum() == 1:
            assert (pool.answers["taxonomy"][at] == np.eye(7)[int(order)]).all(axis=1).sum() == 2
            answers = pool.answers["permafrost"][at]
            assert (answers == present).sum() == 2 if np.isfinite(present) else np.isfinite(answers).all()


def told_at(pool, windows, point):
    """Return which pixels of the pool lie at a point, in its own cutout."""
    cutout = windows.cutouts.cutout[point]
    at = (pool.rows == windows.labelled.rows[point]) & (pool.columns == windows.labelled.columns[point])
    return np.flatnonzero(at[pool.first[cutout] : pool.first[cutout + 1]]) + pool.first[cutout]


def test_each_member_is_told_the_labels_of_its_draw(windows):
    data = replace(windows, spec=replace(windows.spec, tasks=(PERMAFROST,), members=2))
    known = np.flatnonzero(np.isfinite(windows.labelled.labels["permafrost"]))
    draws = [np.arange(len(known) // 2), np.arange(len(known) // 2, len(known))]
    never = [Baseline(Bright(1e9))]  # answers .1 everywhere
    pool = taught(data, known, never, seed=0, draws=draws, calibrate=False).data.pool
    assert pool.answers["permafrost"].shape[1:] == (2, 1)
    for number, point in enumerate(known):
        at = told_at(pool, windows, point)
        own = int(number >= len(known) // 2)
        assert windows.labelled.labels["permafrost"][point] in pool.answers["permafrost"][at][:, own]
        if (windows.labelled.xy[known] == windows.labelled.xy[point]).all(axis=1).sum() == 1:
            np.testing.assert_allclose(pool.answers["permafrost"][at][:, 1 - own], 0.1, rtol=1e-6)


def test_teachers_are_averaged(windows, monkeypatch):
    monkeypatch.setattr(teaching, "OWN", 0)
    data = replace(windows, spec=replace(windows.spec, tasks=(PERMAFROST,)))
    both = [Baseline(Bright(-1.0)), Baseline(Bright(1e9))]
    pool = taught(data, np.arange(len(windows.labelled)), both, seed=0).data.pool
    np.testing.assert_allclose(pool.answers["permafrost"], 0.5, rtol=1e-6)


def test_no_label_of_a_validation_point_reaches_the_teacher(scene, spec):
    cube, points = scene
    held = points.iloc[60:]
    other = held.assign(permafrost=1 - held.permafrost, taxonomy="Mollisols")
    options = {"max_epochs": 1, "steps": 2, "calibrate": False, **QUICK}
    one, two = (cube.miso.fit(spec, points.iloc[:60], val=val, **options) for val in (held, other))
    for name, values in one.network.state_dict().items():
        torch.testing.assert_close(values, two.network.state_dict()[name], rtol=0, atol=0)
    assert one.record["teacher"] == two.record["teacher"]


def test_all_points_teach_and_the_teacher_calibrates(scene, spec):
    cube, points = scene
    model = cube.miso.fit(spec, points, max_epochs=2, steps=6, **QUICK)
    assert (model.record["points"], model.record["validation_points"], model.record["validation"]) == (90, 0, [])
    assert model.record["best_epoch"] == 1
    assert model.record["teacher"]["pixels"] > 500
    assert "VotingClassifier" in model.record["teacher"]["estimators"][0]["estimator"]
    # Labels are coins: what the teacher foretells of other blocks is too sure.
    assert all(one.temperature > 1.05 for one in model.calibration.values())
    assert cube.miso.fit(spec, points, max_epochs=1, steps=2, calibrate=False, **QUICK).calibration == {}


def test_the_shares_of_a_balanced_teacher_are_alike(scene, spec):
    """What a model takes for granted is what ``with_prevalence`` corrects."""
    cube, points = scene
    rare = points.assign(permafrost=(np.arange(90) % 9 == 0).astype(float))
    options = {"max_epochs": 1, "steps": 2, "calibrate": False, **QUICK}
    balanced = cube.miso.fit(spec, rare, **options).record
    assert balanced["prevalence"]["permafrost"] == 0.5
    assert balanced["label_prevalence"]["permafrost"] == pytest.approx(1 / 9)
    assert sorted(balanced["prevalence"]["taxonomy"].values()) == pytest.approx([0] * 4 + [1 / 3] * 3)
    plain = cube.miso.fit(spec, rare, teacher="rf-11", **options).record
    assert plain["prevalence"]["permafrost"] == pytest.approx(1 / 9)


@pytest.mark.parametrize(("size", "shape", "most"), [(64, (1500, 1500), 600), (256, (20_000, 20_000), 38), (64, (128, 128), 4)])
def test_places_from_anywhere_are_bounded_in_pixels_and_by_the_cube(spec, monkeypatch, size, shape, most):
    geobox = GeoBox(shape, Affine(20, 0, 0, 0, -20, 0), "EPSG:3338")
    spec = replace(spec, windows=WindowSpec(size, size, size // 2))
    recipe, teachers = Recipe.of(spec, taught=True), [baseline("rf-11")]
    monkeypatch.setattr(teaching, "ANYWHERE", 600)
    assert 0 < teaching.anywhere(teachers, recipe, spec, geobox) <= most
    assert teaching.anywhere(teachers, replace(recipe, unlabelled=0.0), spec, geobox) == 0
    assert teaching.anywhere([], recipe, spec, geobox) == 0


def test_points_of_a_class_that_a_fold_does_not_know_leave_the_temperature_alone(scene, windows):
    """A teacher answers exactly 0 there; the teacher of all points knows the class."""
    labels = {"taxonomy": np.where(windows.labelled.xy[:, 0] < 301_300, 2.0, np.arange(90) % 2)}  # one class lies in the west alone
    data = replace(windows, spec=replace(windows.spec, tasks=(TAXONOMY,)), labelled=replace(windows.labelled, labels=labels))
    found = taught(data, np.arange(90), [baseline("rf-coordinates")], seed=0)
    assert found.calibration["taxonomy"].temperature < 3


def test_validation_points_that_are_none_are_refused_with_a_teacher_too(scene, spec):
    cube, points = scene
    held = points.iloc[60:].assign(permafrost=np.nan, taxonomy=None)
    with pytest.raises(PointsError):
        cube.miso.fit(spec, points.iloc[:60], val=held, max_epochs=1, **QUICK)


def test_an_epoch_that_validation_chooses_has_validation_points(scene, spec):
    cube, points = scene
    model = cube.miso.fit(spec, points, max_epochs=2, steps=6, criterion="loss", **QUICK)
    assert model.record["validation_points"] > 0
    assert len(model.record["validation"]) == 2


def test_the_record_has_the_teachers_of_every_member(scene, spec):
    """Each is fitted to points of its own, and tells what labels were moved among these."""
    cube, points = scene
    points = points.assign(permafrost=np.where(points.taxonomy == "Gelisols", 1.0, 0.0))
    points.loc[points.index[:20], "permafrost"] = np.nan
    record = cube.miso.fit(spec, points, members=3, teacher=["rf-11", "rf-coordinates"], max_epochs=1, steps=1, **QUICK).record
    told = record["teacher"]["estimators"]
    assert [one["member"] for one in told] == [0, 0, 1, 1, 2, 2]
    tables = [table for one in told for table in one["transfer"] if table["target"] == "permafrost"]
    assert len({str(table) for table in tables}) == 3
    assert "labels of permafrost are filled by taxonomy" in record["summary"]


def test_what_is_done_is_said_in_a_line(scene, spec, capsys):
    cube, points = scene
    options = {"max_epochs": 1, "steps": 2, "device": "cpu"}
    model = cube.miso.fit(spec, points, teacher=[Bright(0.1), "rf-11"], augment="flips", members=2, transfer=False, **options)
    line = model.record["summary"]
    assert line in capsys.readouterr().out
    pixels = model.record["teacher"]["pixels"]
    assert line == (
        f"{spec.name} learns permafrost and taxonomy from what Bright and rf-11 answer at {pixels} pixels, and from the labels of 90 points; "
        "no label of taxonomy is Andisols, Entisols, Inceptisols or Spodosols; 2 members; inputs are whitened; 2 steps with batches of 8 windows, flipped at random."
    )
    model = cube.miso.fit(spec, points, teacher=None, scaling="log", max_epochs=1, **QUICK)
    assert model.record["summary"].startswith(f"{spec.name} learns permafrost and taxonomy from the labels of ")
    assert model.record["summary"].endswith(
        "points validate; no label of taxonomy is Andisols, Entisols, Inceptisols or Spodosols; inputs are logarithms (sat), standardised (cov); 1 epoch with batches of 16 windows, mirrored at random."
    )
    assert line not in capsys.readouterr().out


def test_the_line_goes_by_the_scaling_and_the_weights_that_are_used(spec):
    recipe = replace(Recipe.of(spec, taught=False), max_epochs=6, augment="none")
    channels = [modality.channels for modality in spec.modalities]

    def line(shift, scale, *pretrained):
        parts = [ModalityScaling((-9.0,) * n, (9.0,) * n, (False,) * n, (shift,) * n, (scale,) * n) for n in channels]
        scaling = Scaling(dict(zip([modality.name for modality in spec.modalities], parts, strict=True)))
        return described(spec, recipe, [], scaling, pretrained, {}, 1, 1)

    assert "the labels of 1 point; 1 point validates; inputs are as they are; 6 epochs with" in line(0.0, 1.0)
    assert f"pre-trained weights of cov; inputs are standardised; 6 epochs with batches of {recipe.batch_size} " in line(
        0.5, 1.0, "cov"
    )
    assert line(0.0, 1.0).endswith("windows, as they lie.")


def test_labels_are_learnt_without_a_teacher(scene, spec):
    cube, points = scene
    model = cube.miso.fit(spec, points, teacher=None, max_epochs=1, **QUICK)
    assert model.record["teacher"] == {}
    assert model.record["validation_points"] > 0


def test_transferred_labels_are_in_the_record(scene, spec):
    cube, points = scene
    points = points.assign(permafrost=np.where(points.taxonomy == "Gelisols", 1.0, 0.0))
    points.loc[points.index[:20], "permafrost"] = np.nan
    told, not_told = (
        cube.miso.fit(spec, points, transfer=transfer, max_epochs=1, steps=1, **QUICK) for transfer in ("auto", False)
    )
    (table,) = told.record["teacher"]["estimators"][0]["transfer"]
    assert (table["source"], table["target"], sum(table["points"])) == ("taxonomy", "permafrost", 70)
    assert not_told.record["teacher"]["estimators"][0]["transfer"] == []


def test_regressions_are_taught(scene):
    cube, points = scene
    carbon = Task("carbon", "regression", loss="mse_log1p")
    points = points.assign(carbon=100 * cube.red.values[0, 0] + np.arange(90.0))
    model = cube.miso.fit(tiny_spec(tasks=(carbon,)), points, max_epochs=2, steps=60, learning_rate=4e-3, **QUICK)
    found = cube.miso.predict(model, device="cpu").carbon.values
    assert points.carbon.min() < np.median(found) < points.carbon.max()
    trees = cube.miso.fit(tiny_spec(tasks=(carbon,)), points, teacher=ExtraTreesRegressor(5), max_epochs=1, steps=2, **QUICK)
    assert "ExtraTreesRegressor" in trees.record["teacher"]["estimators"][0]["estimator"]


def test_values_of_a_teacher_stay_within_those_of_the_labels(scene, windows):
    """A linear one goes on beyond them, to values that have no logarithm."""
    _, points = scene
    carbon = Task("carbon", "regression", loss="mse_log1p")
    labels = {"carbon": np.where(np.arange(90) < 80, 0.0, 90.0)}
    data = replace(windows, spec=replace(windows.spec, tasks=(carbon,)), labelled=replace(windows.labelled, labels=labels))
    answers = taught(data, np.arange(90), [Baseline(LinearRegression())], seed=0).data.pool.answers["carbon"]
    assert (answers.min(), answers.max() <= 90) == (0, True)


def test_a_cube_with_valid_pixels_at_the_points_alone_is_taught(scene, spec):
    cube, points = scene
    rows, columns = ((1_500_000 - points.geometry.y) // 20).astype(int), ((points.geometry.x - 300_000) // 20).astype(int)
    seen = np.zeros((120, 130), dtype=bool)
    seen[rows.iloc[:6], columns.iloc[:6]] = True
    sparse = cube.where(xr.DataArray(seen, dims=("y", "x")))
    model = sparse.miso.fit(spec, points.iloc[:6].assign(permafrost=[0.0, 1.0] * 3), max_epochs=1, steps=2, **QUICK)
    assert model.record["teacher"]["pixels"] < 200


def test_rare_classes_and_places_do_not_stop_it(scene, spec):
    """A class of two points may lack in what is left of the points when a block is foretold."""
    cube, points = scene
    rare = points.iloc[:12].assign(permafrost=[1.0, 1.0, *[0.0] * 10], taxonomy=["Gelisols"] * 11 + ["Histosols"])
    model = cube.miso.fit(spec, rare, max_epochs=1, steps=2, **QUICK)
    assert set(model.calibration) == {"permafrost", "taxonomy"}


class Killed(Exception):
    """Stands for a kill in the middle of an epoch."""


def test_a_killed_run_of_a_taught_network_goes_on_as_if_nothing_had_been(scene, spec, tmp_path, monkeypatch):
    from misoxr.training.loop import _Loop

    cube, points = scene
    options = {"max_epochs": 3, "steps": 9, **QUICK}
    whole = cube.miso.fit(spec, points, **options)
    assert cube.miso.fit(spec, points, workers=2, **options).sha256 == whole.sha256

    def killed(self, batch, index):
        if (self.current_epoch, index) == (1, 2):
            raise Killed
        return step(self, batch, index)

    step = _Loop.training_step
    monkeypatch.setattr(_Loop, "training_step", killed)
    with pytest.raises(Killed):
        cube.miso.fit(spec, points, directory=tmp_path, **options)
    monkeypatch.undo()
    assert cube.miso.fit(spec, points, directory=tmp_path, **options).sha256 == whole.sha256


def test_two_devices_share_the_steps_of_a_taught_network(scene, spec):
    cube, points = scene
    both = cube.miso.fit(spec, points, devices=2, max_epochs=1, steps=4, **QUICK)
    assert both.record["validation"] == []
    assert both.sha256 != cube.miso.fit(spec, points, max_epochs=1, steps=4, **QUICK).sha256


def test_bfloat16_learns_what_a_teacher_says(scene, spec):
    cube, points = scene
    model = cube.miso.fit(spec, points, precision="bfloat16", max_epochs=1, steps=2, **QUICK)
    assert all(bool(values.isfinite().all()) for values in model.network.state_dict().values())


def test_a_stopped_run_goes_on_with_the_same_teacher(scene, spec, tmp_path):
    cube, points = scene
    options = {"max_epochs": 2, "steps": 6, **QUICK}
    whole = cube.miso.fit(spec, points, directory=tmp_path / "whole", **options)
    again = cube.miso.fit(spec, points, directory=tmp_path / "whole", **options)
    assert again.sha256 == whole.sha256
    with pytest.raises(SpecError, match="teacher"):
        cube.miso.fit(spec, points, directory=tmp_path / "whole", teacher="rf-neighbourhood", **options)


def test_a_schedule_of_steps_does_not_depend_on_the_number_of_points(spec):
    from misoxr.training.loop import steps_of

    recipe = Recipe.of(spec, taught=True)
    assert {6 * steps_of(recipe, count, 1) for count in (20, 200, 5000)} == {recipe.steps}
    assert steps_of(recipe, 200, 2) == recipe.steps // 12
    assert Recipe.of(spec, taught=True, max_epochs=1).steps == 0


def test_imagery_alone_is_turned_and_learnt_from_for_longer():
    whole, imagery = ModelSpec.preset("miso-nano"), ModelSpec.preset("miso-nano", cov=[])
    assert (Recipe.of(whole, taught=True).steps, Recipe.of(whole, taught=True).augment) == (600, "mirror")
    assert (Recipe.of(imagery, taught=True).steps, Recipe.of(imagery, taught=True).augment) == (1500, "dihedral")
    assert Recipe.of(imagery, taught=True, max_epochs=1).steps == 0
    assert Recipe.of(imagery, taught=True, steps=8).steps == 8
    assert Recipe.of(imagery, taught=False) == Recipe.of(whole, taught=False)


@pytest.mark.parametrize("teacher", [[], "rf-99", 7, ["rf-11", tiny_spec()], False, "miso-nano"])
def test_what_cannot_teach_is_refused_before_a_cube_is_read(scene, spec, teacher, no_compute):
    cube, points = scene
    with pytest.raises(SpecError), no_compute():
        cube.chunk().miso.fit(spec, points, teacher=teacher, **QUICK)


def test_networks_of_the_published_width_have_no_teacher_of_their_own(spec):
    assert teachers_of("auto", replace(spec, width=1024)) == []
    assert len(teachers_of("auto", spec)) == 1
    assert len(teachers_of(["rf-11", baseline("rf-neighbourhood")], replace(spec, width=1024))) == 2


@pytest.mark.parametrize("task", [PERMAFROST, TAXONOMY, replace(TAXONOMY, loss="focal"), replace(PERMAFROST, loss="focal")])
@pytest.mark.parametrize("weighted", [False, True])
def test_sure_answers_cost_what_labels_cost(task, weighted):
    rng = torch.Generator().manual_seed(0)
    classes = len(task.classes)
    logits = torch.randn(9, task.outputs, generator=rng)
    codes = torch.arange(9) % classes
    answers = torch.eye(classes)[codes]
    answers = answers[:, 1:] if task.kind == "binary" else answers
    answers = torch.cat([answers, torch.full((1, task.outputs), torch.nan)])
    weights = torch.rand(classes, generator=rng) + 0.5 if weighted else None
    soft = task_loss(task, torch.cat([logits, logits[:1]]), answers, weights=weights)
    hard = task_loss(task, logits, codes.double(), weights=weights)
    torch.testing.assert_close(soft.double(), hard.double(), rtol=1e-5, atol=1e-6)
