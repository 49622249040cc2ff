"""Members: heads that share the encoders and learn from points of their own draw."""

from dataclasses import replace

import geopandas as gpd
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from misoxr import Model
from misoxr.errors import SpecError
from misoxr.estimators.baselines import Baseline
from misoxr.mapping.ensemble import joined
from misoxr.model.inference import activate
from misoxr.model.losses import joint
from misoxr.model.network import Miso
from misoxr.spec import PERMAFROST, TAXONOMY, LossSpec, Recipe, Task
from misoxr.spec.standardisation import Standardisation
from misoxr.training import fit, loop
from misoxr.training.members import resampled
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
    state = {}
    for key, values in model.network.state_dict().items():
        name, inside, rest = key.partition(f".members.{member}.")
        if ".members." not in key or inside:
            state[f"{name}.{rest}" if inside else key] = values
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


def test_each_member_learns_its_own_points(spec, cube, points):
    """Of two points that contradict each other at one place, a member learns the one that it has drawn."""
    tasks = (PERMAFROST,)
    labels = {"permafrost": points.permafrost.to_numpy()}
    draws = resampled(tasks, labels, 20, 0)
    assert [len(draw) for draw in draws] == [80] * 20
    assert len({draw.tobytes() for draw in draws}) == 20
    assert 0.6 < np.mean([len(np.unique(draw)) for draw in draws]) / 80 < 0.66
    again = resampled(tasks, labels, 20, 0)
    assert all(np.array_equal(one, other) for one, other in zip(draws, again, strict=True))


def test_every_member_draws_every_class():
    codes = np.array([0.0] * 60 + [1.0] * 2 + [2.0] + [np.nan] * 5)
    for draw in resampled([TAXONOMY], {"taxonomy": codes}, 30, 1):
        assert {61, 60} <= set(draw)
        assert 62 in draw


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
    answers = activate(spec, logits, None, standards).numpy().reshape(50, 3 * sum(sizes))
    mean = joined(answers.T, spec)[: spec.outputs].T
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
        shares = activate(spec, logits).mean(dim=1).double().numpy()
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
