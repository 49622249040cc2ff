"""Members: heads that share the encoders and learn from points of their own draw."""

from dataclasses import replace

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import logit
from sklearn.linear_model import LogisticRegression

from misoxr import Model
from misoxr.cube.cutouts import read_cutouts
from misoxr.cube.stack import stack
from misoxr.errors import MisoxrWarning, SpecError
from misoxr.estimators.baselines import Baseline
from misoxr.grid.geobox import geobox_of
from misoxr.model.inference import activate, joined
from misoxr.model.losses import joint
from misoxr.model.network import Miso
from misoxr.points.labelled import Labelled
from misoxr.spec import PERMAFROST, TAXONOMY, LossSpec, Recipe, Task
from misoxr.spec.standardisation import Standardisation
from misoxr.training import fit, loop
from misoxr.training.members import resampled
from misoxr.training.windows import Draw, TrainingWindows
from tests.conftest import make_cube, make_model, tiny_spec

QUICK = {"progress": False, "device": "cpu"}
SOC = Task("soc", "regression", units="kg m-2")


@pytest.fixture(scope="module")
def spec():
    return tiny_spec(tasks=(PERMAFROST, TAXONOMY, SOC))


@pytest.fixture(scope="module")
def cube(spec):
    return make_cube((96, 110), spec.bands)


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(5)
    rows, columns = rng.integers(0, 96, (2, 80))
    taxonomy = np.array(["Gelisols", "Histosols", "Mollisols"], dtype=object)[rng.integers(0, 3, 80)]
    return gpd.GeoDataFrame(
        {"permafrost": rng.integers(0, 2, 80).astype(float), "taxonomy": taxonomy, "soc": rng.normal(20, 5, 80)},
        geometry=gpd.points_from_xy(300_010 + 20.0 * columns, 1_499_990 - 20.0 * rows),
        crs="EPSG:3338",
    )


@pytest.fixture(scope="module", params=["taught", "labels"])
def model(request, spec, cube, points):
    teacher = {"taught": "auto", "labels": None}[request.param]
    return cube.miso.fit(spec, points, members=3, teacher=teacher, max_epochs=1, steps=3, **QUICK)


def test_the_map_is_the_mean_of_the_members_and_has_their_spread(spec, cube, model, no_compute):
    lazy = cube.chunk({"y": 50, "x": 60})
    with no_compute():
        maps = lazy.miso.predict(model, device="cpu")
    assert list(maps) == [
        "permafrost_probability",
        "permafrost",
        "permafrost_std",
        "taxonomy_probability",
        "taxonomy",
        "taxonomy_entropy",
        "soc",
        "soc_std",
    ]
    maps = maps.compute()
    each = [cube.miso.predict(alone(model, member), device="cpu").compute() for member in range(3)]
    present, orders, soc = (
        np.stack([one[name] for one in each]) for name in ("permafrost_probability", "taxonomy_probability", "soc")
    )
    np.testing.assert_allclose(maps.permafrost_probability, present.mean(0), atol=1e-6)
    np.testing.assert_allclose(maps.permafrost_std, present.std(0), atol=1e-6)
    np.testing.assert_allclose(maps.taxonomy_entropy, -(orders.mean(0) * np.log(orders.mean(0))).sum(0), atol=1e-5)
    np.testing.assert_allclose(maps.soc, soc.mean(0), rtol=1e-5)
    np.testing.assert_allclose(maps.soc_std, soc.std(0), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(maps.permafrost, present.mean(0) >= 0.5)
    assert float(maps.permafrost_std.min()) > 0
    assert maps.soc_std.attrs["units"] == "kg m-2"
    assert "3 members" in maps.soc_std.attrs["long_name"]


def alone(model, member):
    """Return one of the members as a model of its own."""
    spec = replace(model.spec, members=1)
    network = Miso(spec)
    layers = {"shared.0": "0", f"members.{member}.0": "2", f"members.{member}.2": "4"}
    state = {}
    for key, values in model.network.state_dict().items():
        kept = [key.replace(there, here) for there, here in layers.items() if there in key]
        if kept or not (".shared." in key or ".members." in key):
            state[kept[0] if kept else key] = values
    network.load_state_dict(state)
    return Model(spec, model.scaling, network, {}, model.calibration, model.standardisation)


def test_at_points_and_through_a_file(cube, points, model, tmp_path):
    model.save(tmp_path / "model.safetensors")
    again = Model.load(tmp_path / "model.safetensors")
    assert again.sha256 == model.sha256
    assert again.spec.members == 3
    maps = cube.miso.predict(again, device="cpu", location=True).compute()
    found = cube.miso.predict_at(again, points, device="cpu", location=True).compute()
    at = maps.sel(x=found.x, y=found.y, method="nearest")
    for name in maps:
        np.testing.assert_allclose(found[name].values, at[name].values, rtol=1e-4, atol=1e-5)
    assert "permafrost_location_probability" in maps


def test_members_of_several_models_vary_within_and_between(cube, model):
    other = replace(model, standardisation={"soc": replace(model.standardisation["soc"], shift=0.0)})
    both = cube.miso.predict([model, other], device="cpu").compute()
    one, two = (cube.miso.predict(which, device="cpu").compute() for which in (model, other))
    between = np.stack([one.soc, two.soc]).var(0, dtype="float64")
    within = (one.soc_std.astype("float64") ** 2 + two.soc_std.astype("float64") ** 2) / 2
    np.testing.assert_allclose(both.soc_std, np.sqrt(between + within), rtol=1e-5)
    np.testing.assert_allclose(both.soc, (one.soc + two.soc) / 2, rtol=1e-5)
    assert sorted(both) == sorted(one)
    assert both.soc_std.attrs["long_name"].endswith("between and within 2 models")


def test_a_model_with_members_beside_one_without(cube, model):
    single = make_model(replace(model.spec, members=1))
    single = replace(single, standardisation=model.standardisation)
    for order in ([model, single], [single, model]):
        maps = cube.miso.predict(order, device="cpu").compute()
        assert float(maps.permafrost_std.min()) > 0
        assert maps.permafrost_std.attrs["long_name"].endswith("between and within 2 models")
        each = [cube.miso.predict(one, device="cpu").permafrost_probability for one in order]
        np.testing.assert_allclose(maps.permafrost_probability, (each[0] + each[1]) / 2, atol=1e-6)  # each model counts once
        assert sorted(maps) == sorted(cube.miso.predict(model, device="cpu"))


def test_each_member_learns_its_own_points(cube, points, monkeypatch):
    """Two sets of points lie at the same places and contradict each other: a member learns the one that it has drawn."""
    spec = tiny_spec(tasks=(PERMAFROST,))
    both = pd.concat([points.assign(permafrost=1.0), points.assign(permafrost=0.0)], ignore_index=True)
    monkeypatch.setattr(fit, "resampled", lambda *_, **__: [np.arange(80), np.arange(80, 160)])
    quick = {"val": points.iloc[:10], "max_epochs": 1, "steps": 80, "learning_rate": 4e-3, "ema": 0.5, "calibrate": False, **QUICK}
    with pytest.warns(MisoxrWarning, match="places are among both"):
        model = cube.miso.fit(spec, both, members=2, teacher=None, **quick)
    present, absent = (cube.miso.predict(alone(model, member), device="cpu").permafrost_probability for member in (0, 1))
    assert float(present.min()) > 0.5 > float(absent.max())
    assert float(present.mean()) > 0.8 > 0.2 > float(absent.mean())


def test_windows_have_for_each_member_the_labels_of_its_draw(spec, cube, points):
    geobox = geobox_of(cube)
    labelled = Labelled.of(points, spec, geobox)
    with read_cutouts(stack(cube, spec), labelled.rows, labelled.columns, spec.windows.size) as cutouts:
        plain = TrainingWindows(spec, make_model(spec).scaling, cutouts, labelled, geobox)
        draws = [np.arange(0, 50), np.repeat(np.arange(30, 80), 2)]  # points 30 to 49 are in both
        data = plain.of_members(draws)
        for member, draw in enumerate(draws):
            inside = np.isin(np.arange(80), draw)
            for name, values in labelled.labels.items():
                np.testing.assert_array_equal(data.drawn[name][:, member], np.where(inside, values, np.nan))
        every = np.arange(80)
        one, two = (
            kind.draw(every, np.full(80, 1 / 80), Draw(8, 0.0, 6, 0, 0, "none", 0.0), np.random.default_rng(0))
            for kind in (plain, data)
        )
        assert two["labels"]["soc"].shape == (8, 6, 2)
        met, told = one["labels"]["soc"], two["labels"]["soc"]
        for window, query in zip(*np.nonzero(np.isfinite(met)), strict=True):
            (point,) = np.flatnonzero(labelled.labels["soc"] == met[window, query])
            wanted = [met[window, query] if point in draw else np.nan for draw in draws]
            np.testing.assert_array_equal(told[window, query], wanted)


def test_whole_blocks_are_drawn():
    """Points of a block come together, and as many blocks are drawn as there are."""
    rng = np.random.default_rng(0)
    centres = np.stack(np.meshgrid(np.arange(6), np.arange(5)), axis=-1).reshape(-1, 2) * 100.0 + 50
    block = rng.integers(0, 30, 200)
    block[:30] = np.arange(30)
    xy = centres[block] + rng.uniform(-20, 20, (200, 2))
    labels = {"permafrost": rng.integers(0, 2, 200).astype(float)}
    draws = resampled([PERMAFROST], labels, xy, 40, size=100.0, seed=0)
    shares = []
    for draw in draws:
        times = np.bincount(draw, minlength=200)
        of_block = [set(times[block == one]) for one in range(30)]
        assert all(len(one) == 1 for one in of_block)
        assert sum(max(one) for one in of_block) == 30
        shares.append(np.mean([max(one) > 0 for one in of_block]))
    assert 0.6 < np.mean(shares) < 0.66
    assert len({draw.tobytes() for draw in draws}) == 40
    again = resampled([PERMAFROST], labels, xy, 40, size=100.0, seed=0)
    assert all(np.array_equal(one, other) for one, other in zip(draws, again, strict=True))
    other = resampled([PERMAFROST], labels, xy, 40, size=100.0, seed=1)
    assert not any(np.array_equal(one, other) for one, other in zip(draws, other, strict=True))


def test_points_that_lie_in_few_blocks_are_still_drawn():
    """Blocks are halved until there are ten; points at fewer places are drawn place by place."""
    rng = np.random.default_rng(0)
    labels = {"permafrost": np.arange(60) % 2.0}
    near = rng.uniform(0, 100, (60, 2))
    draws = resampled([PERMAFROST], labels, near, 20, size=1e6, seed=0)
    assert len({draw.tobytes() for draw in draws}) == 20
    same = np.repeat(rng.uniform(0, 100, (4, 2)), 15, axis=0)
    for draw in resampled([PERMAFROST], labels, same, 20, size=1e6, seed=0):
        assert all(len(set(np.bincount(draw, minlength=60)[15 * k : 15 * k + 15])) == 1 for k in range(4))
    far = rng.uniform(0, 1e9, (60, 2))
    assert {len(draw) for draw in resampled([PERMAFROST], labels, far, 20, size=100.0, seed=0)} == {60}


def test_every_member_draws_every_class():
    codes = np.array([0.0] * 60 + [1.0] * 2 + [2.0] + [np.nan] * 5)
    xy = np.random.default_rng(0).uniform(0, 1000, (68, 2))
    for draw in resampled([TAXONOMY], {"taxonomy": codes}, xy, 30, size=100.0, seed=1):
        assert {61, 60} <= set(draw)
        assert 62 in draw


class Killed(Exception):
    """Stands for a kill in the middle of an epoch."""


def test_a_killed_run_of_members_goes_on_as_if_nothing_had_been(cube, points, tmp_path, monkeypatch):
    spec = tiny_spec(tasks=(PERMAFROST,))
    options = {"members": 2, "teacher": None, "criterion": "loss", "max_epochs": 3, **QUICK}
    whole = cube.miso.fit(spec, points, **options)
    step = loop._Loop.training_step

    def killed(self, batch, index):
        if self.current_epoch == 1:
            raise Killed
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Loop, "training_step", killed)
        with pytest.raises(Killed):
            cube.miso.fit(spec, points, directory=tmp_path, **options)
    assert cube.miso.fit(spec, points, directory=tmp_path, **options).sha256 == whole.sha256
    with pytest.raises(SpecError, match=r"another spec \(members 2 there, 3 here\)|another .*spec"):
        cube.miso.fit(spec, points, directory=tmp_path, **{**options, "members": 3})


def test_class_weights_with_members(cube, points):
    spec = tiny_spec(tasks=(PERMAFROST,))
    rare = points.assign(permafrost=(np.arange(80) % 8 == 0).astype(float))
    options = {
        "members": 2,
        "teacher": None,
        "power": 0.0,
        "max_epochs": 1,
        "steps": 80,
        "learning_rate": 4e-3,
        "noise": 5.0,  # nothing can be learnt by heart
        "calibrate": False,
    }
    plain, even = (cube.miso.fit(spec, rare, class_weight=weight, **options, **QUICK) for weight in ("none", "balanced"))
    assert even.record["prevalence"]["permafrost"] == 0.5
    for member in (0, 1):
        one, two = (cube.miso.predict(alone(model, member), device="cpu").permafrost_probability for model in (plain, even))
        assert float(two.mean()) > 1.3 * float(one.mean())


def test_another_prevalence_moves_each_member(cube, model):
    local = model.with_prevalence(permafrost=0.9)
    assumed = model.record["prevalence"]["permafrost"]
    each = [cube.miso.predict(alone(local, member), device="cpu").permafrost_probability for member in range(3)]
    before = [cube.miso.predict(alone(model, member), device="cpu").permafrost_probability for member in range(3)]
    for one, other in zip(each, before, strict=True):
        moved = float(np.median(logit(one) - logit(other)))  # windows are blended as probabilities
        assert moved == pytest.approx(logit(0.9) - logit(assumed), abs=1e-3)
    maps = cube.miso.predict(local, device="cpu")
    np.testing.assert_allclose(maps.permafrost_probability, np.mean(each, axis=0), atol=1e-6)
    np.testing.assert_allclose(maps.permafrost_std, np.std(each, axis=0), atol=1e-6)


@pytest.mark.parametrize("teacher", ["auto", None])
def test_the_location_head_learns_what_any_member_does(cube, points, monkeypatch, teacher):
    """Labels that some member has drawn, each once; of teachers the mean of their answers."""
    seen = []
    own = loop._Loop._own
    monkeypatch.setattr(loop._Loop, "_own", lambda self, *given: seen.append(given[1]) or own(self, *given))
    spec = tiny_spec(tasks=(PERMAFROST, TAXONOMY))
    cube.miso.fit(spec, points, members=3, teacher=teacher, max_epochs=1, steps=2, **QUICK)
    assert len(seen) == 8  # two steps of three members and the location head
    for step in (seen[:4], seen[4:]):
        for name in ("permafrost", "taxonomy"):
            each = np.stack([labels[name].numpy() for labels in step[:3]])
            known = np.isfinite(each).any(axis=0)
            assert known.any()
            located = step[3][name].numpy()
            np.testing.assert_array_equal(np.isfinite(located), known)
            np.testing.assert_allclose(located[known], np.nanmean(each[:, known], axis=0), rtol=1e-6)
            if teacher is None:
                assert (np.isnan(each[:, known]) | (each[:, known] == located[known])).all()


def test_teachers_differ_between_members(cube, points):
    """A teacher of few points is sure of what it has seen; its members are not of one mind."""
    few = points.iloc[:14]
    spec = tiny_spec(tasks=(PERMAFROST,))
    teacher = LogisticRegression(C=1e3)
    model = cube.miso.fit(
        spec, few, members=4, teacher=teacher, max_epochs=1, steps=60, learning_rate=4e-3, calibrate=False, **QUICK
    )
    assert float(cube.miso.predict(model, device="cpu").permafrost_std.mean()) > 0.03


def test_members_with_contrast_and_noise(cube, points):
    spec = tiny_spec(tasks=(PERMAFROST, TAXONOMY), losses=LossSpec(contrast=(("visual", "location", 0.1),)))
    model = cube.miso.fit(spec, points, members=2, max_epochs=1, steps=2, unlabelled=0.5, label_smoothing=0.1, **QUICK)
    assert all(torch.isfinite(values).all() for values in model.network.state_dict().values())
    assert model.spec.members == 2


def test_members_in_a_specification_are_the_default(cube, points):
    spec = tiny_spec(tasks=(PERMAFROST,))
    model = cube.miso.fit(replace(spec, members=2), points, teacher=None, max_epochs=1, steps=1, **QUICK)
    assert model.spec.members == 2
    assert cube.miso.fit(replace(spec, members=2), points, members=1, teacher=None, max_epochs=1, steps=1, **QUICK).spec == spec


@pytest.mark.parametrize("loss", ["mse", "mse_log1p"])
def test_what_validates_is_what_a_map_has(loss):
    """The loss of members at validation points is that of their mean answer, to which their logits do not lead in the mean."""
    tasks = (PERMAFROST, TAXONOMY, replace(SOC, loss=loss))
    spec, rng = tiny_spec(tasks=tasks, members=3), np.random.default_rng(2)
    sizes = [task.outputs for task in tasks]
    logits = {task.name: torch.from_numpy(rng.normal(0, 3, (50, 3, task.outputs))).float() for task in tasks}
    standards = {"soc": Standardisation(2.0, 0.4)}
    answers = activate(spec, logits, None, standards)
    assert answers.shape == (3, sum(sizes), 50)
    mean = joined(answers.flatten(0, 1), spec)[: spec.outputs]
    told = {task.name: joint(task, logits[task.name], standards.get(task.name)) for task in tasks}
    np.testing.assert_allclose(activate(spec, told, None, standards), mean, rtol=1e-4, atol=1e-6)
    assert not np.allclose(
        activate(spec, {name: values.mean(1) for name, values in logits.items()}, None, standards), mean, rtol=0.01
    )


def test_validation_scores_the_mean_answer():
    spec = tiny_spec(tasks=(PERMAFROST, TAXONOMY), members=3)
    network = make_model(spec).network
    trained = loop._Loop(network, spec, Recipe.of(spec, taught=False), 1, {}, 0)
    rng = np.random.default_rng(1)
    codes = {"permafrost": rng.integers(0, 2, (40, 1)), "taxonomy": rng.integers(0, 7, (40, 1))}
    batch = {
        "inputs": {one.name: torch.from_numpy(rng.normal(size=(40, one.channels, 16, 16))).float() for one in spec.modalities},
        "points": torch.from_numpy(rng.uniform(-1, 1, (40, 1, 2))).float(),
        "labels": {name: torch.from_numpy(values).float() for name, values in codes.items()},
    }
    with torch.inference_mode():
        trained.validation_step(batch, 0)
        logits = network(network.project(batch["inputs"]), torch.arange(40), batch["points"][:, 0])
        shares = activate(spec, logits).mean(dim=0).T.double().numpy()
    present, orders = shares[:, 0], shares[:, 1:]
    truth, order = codes["permafrost"][:, 0], codes["taxonomy"][:, 0]
    likelihood = np.log(np.where(truth == 1, present, 1 - present)).mean() + np.log(orders[np.arange(40), order]).mean()
    found = trained.validated()
    assert found["loss"] == pytest.approx(-likelihood, rel=1e-4)
    assert found["accuracy"] == pytest.approx(np.mean([((present > 0.5) == truth).mean(), (orders.argmax(1) == order).mean()]))


def test_the_temperature_is_of_the_mean_answer(cube, points, monkeypatch):
    """All members' logits are handed on, point by point."""
    seen = []
    fitted = fit.fit_temperature
    monkeypatch.setattr(fit, "fit_temperature", lambda task, logits, codes: seen.append(logits) or fitted(task, logits, codes))
    spec = tiny_spec(tasks=(PERMAFROST,))
    options = {"members": 3, "teacher": None, "val": points.iloc[50:], "max_epochs": 2, "criterion": "loss"}
    model = cube.miso.fit(spec, points.iloc[:50], **options, **QUICK)
    assert [logits.shape for logits in seen] == [(30, 3, 1)]
    assert (seen[0].std(axis=1) > 0).all()
    assert len(model.record["validation"]) == 2
    losses = [epoch["loss"] for epoch in model.record["validation"]]
    assert losses[model.record["best_epoch"]] == min(losses)


@pytest.mark.parametrize("wrong", [0, 1.5, "3", True])
def test_a_wrong_number_of_members(cube, points, wrong):
    with pytest.raises(SpecError, match="members is .*whole number, 1 or more"):
        cube.miso.fit(tiny_spec(), points, members=wrong, **QUICK)


def test_baselines_have_no_members(cube, points):
    with pytest.raises(SpecError, match="members"):
        cube.miso.fit("rf-11", points, members=3, like=tiny_spec())


def test_members_in_cross_validation(cube, points):
    spec = tiny_spec(tasks=(PERMAFROST,))
    models = {"three": (spec, {"members": 3, "teacher": None, "max_epochs": 1, "steps": 1})}
    scores = cube.miso.cross_validate(models, points, cv=2, progress=False)
    assert np.isfinite(scores.whole("pr_auc", "permafrost").value).all()


def test_members_beside_a_baseline_in_cross_validation(cube, points):
    """A baseline takes bands and tasks of the network, and none of its members."""
    spec = tiny_spec(tasks=(PERMAFROST,), members=3)
    network = (spec, {"teacher": None, "max_epochs": 1, "steps": 1})
    for forest in ("rf-11", ("rf-11", {"like": spec})):
        scores = cube.miso.cross_validate({"three": network, "forest": forest}, points, cv=2, progress=False)
        assert np.isfinite(scores.whole("pr_auc", "permafrost").value).all()
        assert set(scores.predictions.model) == {"three", "forest"}


def test_estimators_of_a_specification_with_members_are_mapped(cube, points):
    spec = tiny_spec(tasks=(PERMAFROST, TAXONOMY), members=3)
    forest = cube.miso.fit("rf-11", points, like=spec)
    embedded = Baseline(LogisticRegression(max_iter=200), features="embedding", network=make_model(spec))
    for model in (forest, cube.miso.fit(embedded, points, device="cpu")):
        maps = cube.miso.predict(model).compute()
        assert list(maps) == ["permafrost_probability", "permafrost", "taxonomy_probability", "taxonomy"]
        found = cube.miso.predict_at(model, points.iloc[:5]).compute()
        at = maps.sel(x=found.x, y=found.y, method="nearest")
        np.testing.assert_allclose(found.permafrost_probability.values, at.permafrost_probability.values, rtol=1e-5)
    assert forest.spec.members == 1
