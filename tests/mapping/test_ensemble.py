"""Several models at once: means, spreads, and what cannot be averaged."""

from dataclasses import replace

import numpy as np
import pytest

from misoxr.errors import SpecError
from misoxr.mapping.ensemble import averaged
from misoxr.spec import PERMAFROST, TAXONOMY, Task
from misoxr.spec.standardisation import Standardisation
from tests.conftest import make_cube, make_model


@pytest.fixture(scope="module")
def models(spec):
    return [make_model(spec, seed) for seed in (0, 1, 2)]


def test_the_mean_and_spread_of_models(spec, models, no_compute):
    cube = make_cube((40, 50), spec.bands).chunk({"y": 20, "x": 30})
    with no_compute():
        lazy = cube.miso.predict(models, device="cpu")
    found = lazy.compute()
    each = [cube.miso.predict(model, device="cpu").compute() for model in models]
    present = np.stack([one.permafrost_probability for one in each])
    np.testing.assert_allclose(found.permafrost_probability, present.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.permafrost_std, present.std(0), atol=1e-6)
    np.testing.assert_array_equal(found.permafrost, present.mean(0) >= 0.5)
    orders = np.stack([one.taxonomy_probability for one in each]).mean(0)
    np.testing.assert_allclose(found.taxonomy_probability, orders, atol=1e-6)
    np.testing.assert_allclose(found.taxonomy_entropy, -(orders * np.log(orders)).sum(0), atol=1e-5)
    np.testing.assert_array_equal(found.taxonomy, orders.argmax(0))
    assert found.taxonomy.attrs["_FillValue"] == 255
    assert found.attrs["title"].startswith("mean of 3 models")
    assert found.attrs["model_sha256"].split() == [model.sha256 for model in models]


def test_at_points_too(spec, models):
    cube = make_cube((40, 50), spec.bands)
    points = {"x": [300_100.0, 300_500.0], "y": [1_499_900.0, 1_499_500.0]}
    found = cube.miso.predict_at(models, points, device="cpu").compute()
    each = np.stack([cube.miso.predict_at(model, points, device="cpu").permafrost_probability for model in models])
    np.testing.assert_allclose(found.permafrost_probability, each.mean(0), atol=1e-6)
    assert found.permafrost_std.dims == ("point",)


@pytest.mark.parametrize("shift", [0.1, 1e5 + 0.1, 1e9])
def test_models_that_agree_have_no_spread(spec, shift):
    """However large the values: the mean of three that are equal is that value."""
    cube = make_cube((40, 50), spec.bands)
    model = make_model(replace(spec, tasks=(Task("soc", "regression"),)))
    model = replace(model, standardisation={"soc": Standardisation(shift, 0.3)})
    one, three = (cube.miso.predict(which, device="cpu").compute() for which in (model, [model] * 3))
    np.testing.assert_array_equal(three.soc, one.soc)
    assert not three.soc_std.any()


def test_only_like_models_are_averaged(spec, models):
    cube = make_cube((40, 50), spec.bands)
    with pytest.raises(SpecError, match="no models to average"):
        cube.miso.predict([])
    other = make_model(replace(spec, tasks=(PERMAFROST,)))
    with pytest.raises(SpecError, match="only models with the same tasks"):
        cube.miso.predict([models[0], other])
    turned = replace(TAXONOMY, classes=TAXONOMY.classes[::-1])
    with pytest.raises(SpecError, match="only models with the same tasks and classes"):
        cube.miso.predict([models[0], make_model(replace(spec, tasks=(PERMAFROST, turned)))])
    found = cube.miso.predict([models[0], other], tasks=["permafrost"], device="cpu")
    assert set(found.data_vars) == {"permafrost_probability", "permafrost_std", "permafrost"}


def test_answers_in_other_units_are_not_averaged(spec):
    cube = make_cube((40, 50), spec.bands)
    several = [make_model(replace(spec, tasks=(Task("thaw", "regression", units=units),))) for units in ("cm", "m")]
    with pytest.raises(
        SpecError, match="The models answer 'thaw' in 'cm' and in 'm'; only answers in the same units can be averaged"
    ):
        cube.miso.predict(several)
    alike = [make_model(replace(spec, tasks=(Task("thaw", "regression", units=units),))) for units in ("m", "metre")]
    assert "thaw_std" in cube.miso.predict(alike)


def test_answers_for_other_depths_are_not_averaged(spec):
    cube = make_cube((40, 50), spec.bands)
    several = [make_model(replace(spec, tasks=(replace(PERMAFROST, depth=depth),))) for depth in (1.0, 0.5)]
    with pytest.raises(SpecError, match="answer 'permafrost_probability' within 1.0 m and within 0.5 m"):
        cube.miso.predict(several)
    unknown = make_model(replace(spec, tasks=(replace(PERMAFROST, depth=None),)))
    maps = cube.miso.predict([several[0], unknown])
    assert maps.permafrost_probability.attrs["depth"] == 1.0


def test_answers_at_other_places_are_not_averaged(spec, models):
    cube = make_cube((40, 50), spec.bands)
    maps = cube.miso.predict(models[0], device="cpu")
    for other in (maps.isel(x=slice(None, None, -1)), maps.assign_coords(y=maps.y - 100)):
        with pytest.raises(SpecError, match="The models answer at other places: their '[xy]' differ, or are in another order"):
            averaged([maps, other])
    near = maps.assign_coords(x=maps.x + 1e-9, run=("x", np.arange(maps.sizes["x"])))
    assert set(averaged([maps, near.assign_coords(run=near.run[::-1])])) >= {"permafrost", "taxonomy"}
    points = {"x": [300_100.0, 300_500.0], "y": [1_499_900.0, 1_499_500.0]}
    found = cube.miso.predict_at(models[0], points, device="cpu")
    with pytest.raises(SpecError, match="The models answer at other places"):
        averaged([found, found.isel(point=[1, 0])])


def test_a_task_that_is_named_like_a_spread_is_averaged(spec):
    """Beside classes, ``taxonomy_std`` is a task; beside a regression it would be the spread, and is refused."""
    cube = make_cube((40, 50), spec.bands)
    tasks = (TAXONOMY, Task("taxonomy_std", "regression"), Task("permafrost_probability", "regression"))
    several = [make_model(replace(spec, tasks=tasks), seed) for seed in (0, 1)]
    each = [cube.miso.predict(model, device="cpu", location=True).compute() for model in several]
    both = cube.miso.predict(several, device="cpu", location=True).compute()
    added = {"taxonomy_entropy", "taxonomy_std_std", "permafrost_probability_std"}
    assert set(both) == set(each[0]) | added
    for name in ("taxonomy_std", "permafrost_probability"):
        values = np.stack([one[name] for one in each])
        np.testing.assert_allclose(both[name], values.mean(0), rtol=1e-5)
        np.testing.assert_allclose(both[f"{name}_std"], values.std(0), rtol=1e-4, atol=1e-6)
