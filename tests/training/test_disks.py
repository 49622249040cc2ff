"""Points whose place is known to some metres are asked over a disk; censored labels count less in training."""

import math
from dataclasses import replace

import geopandas as gpd
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from misoxr.cube.cutouts import read_cutouts
from misoxr.cube.scaling import Scaling
from misoxr.cube.stack import stack
from misoxr.errors import MisoxrWarning, SpecError
from misoxr.estimators.baselines import Baseline
from misoxr.grid.geobox import geobox_of, locations
from misoxr.model.losses import task_loss
from misoxr.points.labelled import Labelled
from misoxr.spec import PERMAFROST, TAXONOMY, LossSpec, Task
from misoxr.training.disks import DRAWS, Disks, averaged, drawn
from misoxr.training.loop import _Loop
from misoxr.training.teaching import taught, teachers_of
from misoxr.training.windows import Draw, TrainingWindows
from tests.conftest import make_cube, tiny_spec

QUICK = {"teacher": None, "progress": False, "device": "cpu", "max_epochs": 1}
DRAW = Draw(size=6, unlabelled=0.0, labels=6, random=2, regular=4, augment="dihedral", power=0.5)


@pytest.fixture(scope="module")
def spec():
    return tiny_spec(tasks=(PERMAFROST, TAXONOMY))


@pytest.fixture(scope="module")
def cube(spec):
    return make_cube((80, 80), spec.bands)


@pytest.fixture(scope="module")
def points(cube):
    rng = np.random.default_rng(3)
    rows, columns = rng.integers(0, 80, (2, 60))
    red = cube.red.values[rows, columns]
    labels = {"permafrost": (red > np.median(red)) * 1.0, "taxonomy": np.where(rng.random(60) < 0.8, "Gelisols", "Histosols")}
    places = gpd.points_from_xy(300_010 + 20.0 * columns, 1_499_990 - 20.0 * rows)
    return gpd.GeoDataFrame(labels, geometry=places, crs="EPSG:3338")


def windows_of(cube, spec, points, cutouts, censored="drop"):
    labelled = Labelled.of(points, spec, geobox_of(cube), censored)
    scaling = Scaling.fit(spec, cutouts.pixels(500, np.random.default_rng(0)))
    return TrainingWindows(spec, scaling, cutouts, labelled, geobox_of(cube))


@pytest.fixture
def cutouts(cube, spec, points):
    labelled = Labelled.of(points, spec, geobox_of(cube))
    with read_cutouts(stack(cube, spec), labelled.rows, labelled.columns, 16, least=5) as found:
        yield found


def batch_of(data, seed=0, draw=DRAW):
    every = np.arange(len(data.labelled))
    return data.draw(every, data.balance(every, draw.power), draw, np.random.default_rng(seed))


def test_places_fill_the_disk_evenly():
    """Of a uniform disk, a quarter of the places lie within half of the radius, and their mean is the centre."""
    rng = np.random.default_rng(0)
    found = drawn(np.zeros((5000, 2)) + [0.2, -0.1], np.full(5000, 0.5), np.ones((16, 16), bool), rng)
    assert found.shape == (5000, DRAWS, 2)
    distance = np.linalg.norm(found - [0.2, -0.1], axis=-1)
    assert distance.max() <= 0.5
    assert (distance < 0.25).mean() == pytest.approx(0.25, abs=0.01)
    np.testing.assert_allclose(found.mean((0, 1)), [0.2, -0.1], atol=0.01)
    np.testing.assert_allclose(found.std((0, 1)), 0.25, atol=0.01)  # half of the radius along each axis


def test_places_lie_in_the_window_and_on_valid_pixels():
    valid = np.ones((16, 16), bool)
    valid[:, 8:] = False  # the east has no imagery
    rng = np.random.default_rng(0)
    found = drawn(np.array([[-0.1, 0.9], [-0.9, -0.9]]), np.array([0.6, 50.0]), valid, rng)
    assert (found[..., 0] < 0).all()
    assert np.abs(found).max() <= 1
    nothing = drawn(np.array([[0.3, 0.4]]), np.array([0.2]), np.zeros((16, 16), bool), rng)
    np.testing.assert_array_equal(nothing, np.broadcast_to([0.3, 0.4], (1, DRAWS, 2)))


@pytest.mark.parametrize(
    ("task", "logits", "mean"),
    [
        (PERMAFROST, [[0.0], [math.log(3)], [math.log(1 / 3)], [0.0]], [0.5]),  # of 1/2, 3/4, 1/4, 1/2
        (Task("soc", "regression"), [[1.0], [2.0], [3.0], [6.0]], [3.0]),
        (
            Task("cover", "multiclass", ("a", "b", "c")),
            [[math.log(one) for one in row] for row in ((0.2, 0.2, 0.6), (0.4, 0.2, 0.4), (0.6, 0.2, 0.2), (0.4, 0.2, 0.4))],
            [0.4, 0.2, 0.4],
        ),
    ],
)
def test_the_mean_is_of_probabilities_and_values(task, logits, mean):
    """The second of three points is a disk; the others stay as they are."""
    values = torch.tensor(logits, dtype=torch.float64).float()
    others = torch.full_like(values[:1], 0.3)
    first = torch.cat([others, values[:1], others])
    found = averaged([task], {task.name: first}, {task.name: values[1:]}, torch.tensor([1]), {})[task.name]
    shown = found if task.kind == "regression" else found.sigmoid() if task.kind == "binary" else found.softmax(-1)
    np.testing.assert_allclose(shown[1], mean, rtol=1e-5)
    torch.testing.assert_close(found[[0, 2]], first[[0, 2]])


def test_members_are_averaged_each_by_itself():
    logits = torch.randn(DRAWS, 3, 1)  # place, member, output
    found = averaged([PERMAFROST], {"permafrost": logits[:1]}, {"permafrost": logits[1:]}, torch.tensor([0]), {})["permafrost"]
    torch.testing.assert_close(found[0].sigmoid(), logits.sigmoid().mean(0))


def test_batches_ask_over_disks(cube, spec, points, cutouts):
    """Each place leads back, by its location, to within the accuracy of a point with the label that stands in its slot."""
    accuracy = np.where(np.arange(60) % 2, 60.0, 5.0)  # 3 pixels, and a quarter of one
    data = windows_of(cube, spec, points.assign(accuracy=accuracy), cutouts)
    batch = batch_of(data)
    of = batch["disks"]["of"]
    assert batch["disks"]["points"].shape == batch["disks"]["location"].shape == (len(of), DRAWS - 1, 2)
    assert np.abs(batch["disks"]["points"]).max() <= 1
    label = batch["labels"]["permafrost"].reshape(-1)
    first = batch["location"].reshape(-1, 2)
    assert np.isfinite(label[of]).all()
    own = locations(data.geobox, data.labelled.rows, data.labelled.columns, spec.location)
    west, south, east, north = spec.location.extent
    metres = np.array([east - west, north - south]) / 2
    for slot, others in zip(of, batch["disks"]["location"], strict=True):
        places = np.concatenate([first[slot][None], others])
        assert len(np.unique(places, axis=0)) == DRAWS
        near = (np.linalg.norm((own[:, None] - places) * metres, axis=-1) <= 60.1).all(axis=1) & (data.labelled.radius > 0)
        assert label[slot] in data.labelled.labels["permafrost"][near]
    exact = np.setdiff1d(np.flatnonzero(np.isfinite(label)), of)
    assert len(exact)
    assert all(np.abs(own - first[slot]).sum(axis=1).min() < 1e-6 for slot in exact)


def test_windows_turn_with_their_disks(cube, spec, points, cutouts):
    """The pixel under a place, in a turned window, is the one that its location names."""
    data = windows_of(cube, spec, points.assign(accuracy=100.0), cutouts)
    batch = batch_of(data, seed=2)
    box, (west, south, east, north) = data.geobox, spec.location.extent
    scaled = data.scaling.apply(spec, stack(cube, spec).compute())["sat"][0]
    count, checked = batch["points"].shape[1], 0
    for slot, xy, at in zip(batch["disks"]["of"], batch["disks"]["points"], batch["disks"]["location"], strict=True):
        window = batch["inputs"]["sat"][slot // count, 0]
        for (x, y), (u, v) in zip(xy, at, strict=True):
            row = (box.affine.f - (north - (v + 1) / 2 * (north - south))) / 20
            column = (west + (u + 1) / 2 * (east - west) - box.affine.c) / 20
            if min(row % 1, column % 1, 1 - row % 1, 1 - column % 1) < 0.05:
                continue  # at a pixel's edge, rounding decides
            i, j = int((y + 1) * 8), int((x + 1) * 8)
            assert window[i, j] == pytest.approx(scaled[int(row), int(column)], abs=1e-4)
            checked += 1
    assert checked > 20


def test_without_accuracy_batches_are_what_they_were(cube, spec, points, cutouts):
    """An accuracy of at most half a pixel, or none, changes nothing, down to the last bit."""
    plain = batch_of(windows_of(cube, spec, points, cutouts))
    fine = batch_of(windows_of(cube, spec, points.assign(accuracy=np.where(np.arange(60) % 2, 10.0, np.nan)), cutouts))
    assert "disks" not in plain
    assert plain.keys() == fine.keys()
    for name in ("points", "valid", "location"):
        np.testing.assert_array_equal(plain[name], fine[name])


def test_only_known_points_of_a_batch_are_asked():
    """Slots 1 and 4 of six are disks. Without slots 0 and 4, slot 1 is the first, and 4 is gone."""
    batch = {
        "points": torch.zeros(2, 3, 2),
        "disks": {"of": torch.tensor([1, 4]), "points": torch.arange(2.0 * (DRAWS - 1) * 2).reshape(2, DRAWS - 1, 2)},
    }
    every = Disks.of_batch(batch, None)
    assert every.of.tolist() == [1, 4]
    assert every.sample.tolist() == [0] * (DRAWS - 1) + [1] * (DRAWS - 1)
    some = Disks.of_batch(batch, torch.tensor([False, True, True, True, False, True]))
    assert some.of.tolist() == [0]
    assert some.points.tolist() == batch["disks"]["points"][0].tolist()
    assert Disks.of_batch({"points": torch.zeros(2, 3, 2)}, None) is None


def test_the_teachers_pool_knows_the_disks(cube, spec, points, cutouts):
    data = windows_of(cube, spec, points.assign(accuracy=np.where(np.arange(60) < 10, 60.0, np.nan)), cutouts)
    teachers = teachers_of(Baseline(LogisticRegression(max_iter=20)), spec)
    lessons = taught(data, np.arange(60), teachers, seed=0, calibrate=False)
    assert (lessons.data.pool.radius == 3).sum() == 20  # each training point stands there twice
    batch = batch_of(replace(lessons.data, scaling=data.scaling), draw=replace(DRAW, labels=400))
    assert len(batch["disks"]["of"])


def test_a_teacher_fills_what_a_censored_label_leaves_open(cube, spec, points, cutouts):
    """At a depth of 0.25 m, the network is taught a quarter of the label and three quarters of the teacher's answer."""
    shallow = points.assign(permafrost=0.0, depth=0.25)
    shallow.loc[shallow.index[30:], ["permafrost", "depth"]] = [1.0, 0.5]
    with pytest.warns(MisoxrWarning, match="30 labels"):
        data = windows_of(cube, spec, shallow, cutouts, "weight")
    teachers = teachers_of(Baseline(LogisticRegression(max_iter=200)), spec)
    pool = taught(data, np.arange(60), teachers, seed=0, calibrate=False, transfer=False).data.pool
    whole = taught(replace(data, labelled=replace(data.labelled, weights={})), np.arange(60), teachers, seed=0, calibrate=False)
    for point in (0, 1, 45):
        mine = (pool.rows == data.labelled.rows[point]) & (pool.columns == data.labelled.columns[point])
        told = pool.answers["permafrost"][mine, 0]
        if point == 45:
            assert 1 in told
        else:
            assert 0 < told.max() < 0.75  # of a teacher that is never certain
            there = (whole.data.pool.rows == data.labelled.rows[point]) & (whole.data.pool.columns == data.labelled.columns[point])
            assert 0 in whole.data.pool.answers["permafrost"][there, 0]


def test_labels_count_as_much_as_was_seen():
    """By hand: of losses a and b with counts 1 and 1/4, the mean is (a + b / 4) / 1.25."""
    logits, labels = torch.tensor([[1.0], [2.0], [0.0]]), torch.tensor([0.0, 0.0, math.nan])
    a, b = math.log(1 + math.e), math.log(1 + math.e**2)
    found = task_loss(PERMAFROST, logits, labels, counts=torch.tensor([1.0, 0.25, 1.0]))
    assert float(found) == pytest.approx((a + b / 4) / 1.25, rel=1e-6)
    weighted = task_loss(PERMAFROST, logits, labels, weights=torch.tensor([2.0, 1.0]), counts=torch.tensor([1.0, 0.25, 1.0]))
    assert float(weighted) == pytest.approx(float(found), rel=1e-6)


def test_batches_tell_what_labels_count_and_validation_leaves_them_out(cube, spec, points, cutouts):
    depth = np.where(np.arange(60) % 3 == 0, 0.5, 1.5)
    with pytest.warns(MisoxrWarning, match="censored"):
        data = windows_of(cube, spec, points.assign(depth=depth), cutouts, "weight")
    batch = batch_of(data)
    known = np.isfinite(batch["labels"]["permafrost"])
    assert set(batch["counts"]["permafrost"][known]) == {0.5, 1.0}
    censored = np.flatnonzero(data.labelled.weights["permafrost"] < 1)
    assert (data.labelled.labels["permafrost"][censored] == 0).all()
    held = data.centred(censored)
    assert np.isnan(held["labels"]["permafrost"]).all()
    assert np.isfinite(held["labels"]["taxonomy"]).all()
    shares = data.label_shares(np.arange(60))["permafrost"]
    absent = (data.labelled.labels["permafrost"] == 0).sum() - len(censored) / 2
    assert shares[0] == pytest.approx(absent / (absent + (data.labelled.labels["permafrost"] == 1).sum()))


@pytest.mark.parametrize(("power", "shares"), [(1.0, (4.5 / 29, 10 / 29, 1 / 2)), (0.0, (4.5 / 34.5, 10 / 34.5, 20 / 34.5))])
def test_points_are_drawn_by_what_their_labels_count(cube, power, shares):
    """By hand: 90 labels of 0.05 and 10 of 1 are 14.5 "absent", beside 20 "present". With a power of 1 the classes are drawn alike."""
    kind = np.repeat([0, 1, 2], [90, 10, 20])
    columns = {"permafrost": np.array([0.0, 0.0, 1.0])[kind], "depth": np.array([0.05, 1.5, 0.05])[kind]}
    places = gpd.points_from_xy(300_010 + 10.0 * np.arange(120), np.full(120, 1_499_990.0))
    spec, many = tiny_spec(tasks=(PERMAFROST,)), gpd.GeoDataFrame(columns, geometry=places, crs="EPSG:3338")
    with pytest.warns(MisoxrWarning, match="90 labels"):
        labelled = Labelled.of(many, spec, geobox_of(cube), "weight")
    drawn_so = TrainingWindows(spec, None, None, labelled, None).balance(np.arange(120), power)
    np.testing.assert_allclose(np.bincount(kind, drawn_so), shares, rtol=1e-12)


@pytest.mark.filterwarnings("ignore::misoxr.errors.MisoxrWarning")
def test_fits_record_what_was_censored_and_asked_over_disks(cube, spec, points, tmp_path, capsys, monkeypatch):
    """The same seed draws the same places, also in a run that is killed after its first epoch and goes on."""
    noisy = points.assign(accuracy=50.0, depth=np.where(np.arange(60) % 3 == 0, 0.5, 1.5))
    absent = int(((noisy.permafrost == 0) & (noisy.depth < 1)).sum())
    told = {"teacher": None, "device": "cpu", "seed": 1, "max_epochs": 2}
    model = cube.miso.fit(spec, noisy, **told)
    said = capsys.readouterr().out
    assert f"{absent} censored labels of permafrost are left out" in said
    assert "are asked over the disk of the accuracy" in said
    assert model.record["censored"] == {"permafrost": {"rule": "drop", "depth": 1.0, "censored": absent, "without_depth": 0}}
    assert model.record["disks"] == model.record["points"]
    quiet = {**told, "progress": False}
    assert cube.miso.fit(spec, noisy, **quiet).sha256 == model.sha256
    step = _Loop.training_step

    def killed(self, batch, index):
        if self.current_epoch == 1:
            raise KeyError("killed")
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(_Loop, "training_step", killed)
        with pytest.raises(KeyError, match="killed"):
            cube.miso.fit(spec, noisy, directory=tmp_path, **quiet)
    assert cube.miso.fit(spec, noisy, directory=tmp_path, **quiet).sha256 == model.sha256
    with pytest.raises(SpecError, match="another points"):
        cube.miso.fit(spec, noisy.assign(accuracy=60.0), directory=tmp_path, **quiet)
    other = cube.miso.fit(spec, points, **quiet)
    assert other.record["censored"] == {}
    assert other.record["disks"] == 0
    weights = [dict(one.network.state_dict()) for one in (model, other)]
    assert any(not torch.equal(values, weights[1][name]) for name, values in weights[0].items())


def test_members_and_contrast_ask_over_disks(cube, points):
    contrast, noisy = LossSpec(contrast=(("visual", "location", 0.1),)), points.assign(accuracy=50.0)
    ways = ({"losses": contrast}, {}), ({}, {"members": 2}), ({}, {"teacher": "auto", "steps": 2})
    for changed, more in ways:
        spec = tiny_spec(tasks=(PERMAFROST, TAXONOMY), **changed)
        model = cube.miso.fit(spec, noisy, **{**QUICK, **more})
        assert all(bool(values.isfinite().all()) for values in model.network.state_dict().values())


@pytest.mark.filterwarnings("ignore::misoxr.errors.MisoxrWarning")
def test_estimators_learn_by_the_same_rule(cube, spec, points):
    """What is left out is as if it had no label; what is weighted moves the answer from there towards what stands."""
    depth = np.where(np.arange(60) % 2, 0.5, 1.5)
    stopped = points.assign(depth=depth)
    forest = Baseline(LogisticRegression(max_iter=200))
    answers = {}
    for rule in ("drop", "weight", "keep"):
        model = cube.miso.fit(forest, stopped, censored=rule, transfer=False)
        assert model.record["censored"]["permafrost"]["rule"] == rule
        answers[rule] = float(cube.miso.predict(model).permafrost_probability.mean())
    without = points.assign(permafrost=points.permafrost.where((points.permafrost == 1) | (depth > 1)))
    by_hand = float(cube.miso.predict(cube.miso.fit(forest, without, transfer=False)).permafrost_probability.mean())
    assert answers["drop"] == pytest.approx(by_hand, abs=1e-6)
    assert answers["drop"] > answers["weight"] > answers["keep"]
