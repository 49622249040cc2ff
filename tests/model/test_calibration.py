"""Temperatures and prior shifts against data whose answer is known."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from scipy.stats import norm

from misoxr.errors import CheckpointError, PointsError, SpecError
from misoxr.model.calibration import Calibration, fit_temperature, prevalence_bias
from misoxr.spec import PERMAFROST, TAXONOMY, Task

DEPTH = Task("depth", "regression")
COVER = Task("cover", "multiclass", ("forest", "shrub", "tundra"))


def loss(task: Task, logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Negative log-likelihood, point by point."""
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        if not np.isnan(label):
            row = np.array([0, row[0]]) if task.kind == "binary" else row
            total += np.logaddexp.reduce(row / temperature) - row[int(label)] / temperature
    return total


def test_apply_divides_and_adds():
    logits = np.array([[1.0, 2.0, np.nan], [4.0, -2.0, 0.0]])
    np.testing.assert_array_equal(Calibration().apply(logits), logits)
    found = Calibration(2.0, (1.0, 0.0, -1.0)).apply(logits)
    np.testing.assert_array_equal(found, [[1.5, 1.0, np.nan], [3.0, -1.0, -1.0]])
    assert Calibration(2.0, (1.0,)).apply(np.ones((4, 1), "float32")).dtype == "float32"
    np.testing.assert_array_equal(Calibration(2.0).apply([[1], [3]]), [[0.5], [1.5]])


def test_probabilities_have_the_shape_of_the_task():
    rng = np.random.default_rng(0)
    binary, multiclass = rng.normal(0, 3, (5, 1)), rng.normal(0, 3, (5, 3))
    np.testing.assert_allclose(Calibration(2, (0.5,)).probabilities(PERMAFROST, binary), expit(binary[:, 0] / 2 + 0.5))
    calibration = Calibration(0.5, (0.0, 1.0, 2.0))
    np.testing.assert_allclose(calibration.probabilities(COVER, multiclass), softmax(multiclass * 2 + [0, 1, 2], axis=1))


def test_nodata_stays_nodata():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Calibration(2.0).probabilities(COVER, [[np.nan] * 3, [0.0] * 3])
        one = Calibration(2.0).probabilities(PERMAFROST, [[np.nan], [0.0]])
    np.testing.assert_allclose(found, [[np.nan] * 3, [1 / 3] * 3])
    np.testing.assert_array_equal(one, [np.nan, 0.5])


@pytest.mark.parametrize("true", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("task", [PERMAFROST, COVER], ids=lambda task: task.kind)
def test_a_known_temperature_is_recovered(task, true):
    rng = np.random.default_rng(7)
    logits = rng.normal(0, 2, (20_000, task.outputs))
    chance = softmax((np.hstack([0 * logits, logits]) if task.kind == "binary" else logits) / true, axis=1)
    labels = (rng.random((len(logits), 1)) > chance.cumsum(axis=1)[:, :-1]).sum(axis=1).astype(float)
    labels[::10] = np.nan
    logits[::20] = np.nan  # nodata where nothing is known
    assert fit_temperature(task, logits, labels) == pytest.approx(true, rel=0.05)


@settings(deadline=None, max_examples=60)
@given(
    task=st.sampled_from([PERMAFROST, COVER]),
    seed=st.integers(0, 10_000),
    n=st.integers(2, 30),
    scale=st.sampled_from([0.0, 0.1, 1.0, 30.0, 1000.0]),
)
@example(task=PERMAFROST, seed=2, n=4, scale=1000.0)  # the best is the upper bound
def test_the_likelihood_never_gets_worse(task, seed, n, scale):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(0, 1, (n, task.outputs)) * scale, rng.integers(0, len(task.classes), n).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fit_temperature(task, logits, labels)
    assert 0.05 <= found <= 20
    if len(set(labels)) < 2:
        assert found == 1  # labels of one class would only make it surer of that class
        return
    before, after = loss(task, logits, labels), loss(task, logits, labels, found)
    assert after <= before * (1 + 1e-12)
    for other in np.geomspace(0.05, 20, 30):
        # The most probable one, with the prior on its logarithm.
        assert after + np.log(found) ** 2 / 2 <= loss(task, logits, labels, other) + np.log(other) ** 2 / 2 + 1e-4


def test_no_temperature_without_labels_or_for_a_regression():
    assert fit_temperature(PERMAFROST, [[3.0], [2.0]], [np.nan, np.nan]) == 1
    assert fit_temperature(PERMAFROST, [[3.0], [2.0]], [1, np.nan]) == 1
    assert fit_temperature(PERMAFROST, np.empty((0, 1)), []) == 1
    assert fit_temperature(PERMAFROST, [[0.0], [0.0]], [1, 0]) == 1
    assert fit_temperature(DEPTH, [[3.0], [2.0]], [1.0, 2.0]) == 1


def test_few_labels_do_not_move_it_far():
    logits = [[3.0], [2.0], [-4.0]]
    assert 0.2 < fit_temperature(PERMAFROST, logits, [1, 1, 0]) < 1
    assert 1 < fit_temperature(PERMAFROST, logits, [0, 0, 1]) < 8
    assert fit_temperature(PERMAFROST, [[0.3], [0.2], [0.5]], [1, 1, 1]) > 0.3


@pytest.mark.parametrize(
    ("task", "logits", "labels", "error", "message"),
    [
        (PERMAFROST, [1.0, 2.0], [0, 1], SpecError, r"shape \(2,\); give \(point, 1\)"),
        (COVER, [[1.0], [2.0]], [0, 1], SpecError, r"give \(point, 3\)"),
        (PERMAFROST, [[1.0], [2.0]], [0], PointsError, "give one label a point"),
        (PERMAFROST, [[1.0], [2.0]], [0, 2], PointsError, "1 labels of 'permafrost' are no class code, 2 the first; use 0 to 1"),
        (COVER, [[1.0, 2.0, 3.0]] * 2, [0.5, -1], PointsError, "2 labels of 'cover' are no class code, 0.5 the first"),
        (PERMAFROST, [[1.0], [np.nan]], [0, 1], PointsError, "1 labelled points have no logits"),
    ],
)
def test_what_a_temperature_cannot_be_fitted_on_is_refused(task, logits, labels, error, message):
    with pytest.raises(error, match=message):
        fit_temperature(task, logits, labels)


@pytest.mark.parametrize(("assumed", "wanted"), [(0.5, 0.1), (0.3, 0.8), (0.02, 0.02)])
def test_a_binary_prior_shift_is_bayes_rule(assumed, wanted):
    x = np.linspace(-4, 4, 33)
    absent, present = norm.pdf(x, -1), norm.pdf(x, 1)
    posterior = assumed * present / (assumed * present + (1 - assumed) * absent)
    logits = np.log(posterior / (1 - posterior))[:, None]
    found = Calibration(bias=prevalence_bias(PERMAFROST, assumed, wanted)).probabilities(PERMAFROST, logits)
    np.testing.assert_allclose(found, wanted * present / (wanted * present + (1 - wanted) * absent))


def test_a_multiclass_prior_shift_is_bayes_rule():
    x = np.linspace(-4, 4, 33)
    likelihood = np.stack([norm.pdf(x, mean) for mean in (-1, 0, 2)], axis=1)  # (point, class)
    assumed, wanted = np.array([0.2, 0.3, 0.5]), np.array([0.6, 0.3, 0.1])
    by_name = [dict(zip(COVER.classes[::-1], shares[::-1].tolist(), strict=True)) for shares in (assumed, wanted)]
    assert prevalence_bias(COVER, by_name[0], pd.Series(by_name[1])) == prevalence_bias(COVER, *by_name)
    found = Calibration(bias=prevalence_bias(COVER, *by_name)).probabilities(COVER, np.log(likelihood * assumed))
    expected = likelihood * wanted
    np.testing.assert_allclose(found, expected / expected.sum(axis=1, keepdims=True))


def test_shares_are_normalised_and_a_class_never_seen_is_left_alone():
    third = {"forest": 0.3333333, "shrub": 0.3333333, "tundra": 0.3333333}
    wanted = {"forest": 0.5, "shrub": 0.25, "tundra": 0.25}
    assert prevalence_bias(COVER, third, wanted) == pytest.approx(np.log([1.5, 0.75, 0.75]))
    before, after = {"forest": 0.5, "shrub": 0.5, "tundra": 0}, {"forest": 0.8, "shrub": 0.2, "tundra": 0}
    assert prevalence_bias(COVER, before, after) == pytest.approx([np.log(1.6), np.log(0.4), 0])


THIRDS = dict.fromkeys(COVER.classes, 1 / 3)


@pytest.mark.parametrize(
    ("task", "assumed", "wanted", "message"),
    [
        (PERMAFROST, 0.5, 0.0, r"The wanted share of 'present' is 0.0; give a number above 0 and below 1"),
        (PERMAFROST, 0.5, 1, "The wanted share of 'present' is 1"),
        (PERMAFROST, 0.0, 0.5, "The assumed share of 'present' is 0.0"),
        (PERMAFROST, 0.5, np.nan, "The wanted share of 'present' is nan"),
        (PERMAFROST, 0.5, {"present": 0.5}, "give a number above 0"),
        (COVER, THIRDS, 0.5, "The wanted shares of 'cover' are 0.5; give one for each of"),
        (COVER, {"forest": 1.0}, THIRDS, "The assumed shares of 'cover'"),
        (COVER, THIRDS, THIRDS | {"ice": 0.0}, "give one for each of"),
        (COVER, THIRDS, THIRDS | {"forest": 0.5}, "with a sum of 1.16667"),
        (COVER, THIRDS, {"forest": 1.2, "shrub": -0.2, "tundra": 0.0}, "shares of 0 or more"),
        (COVER, THIRDS, THIRDS | {"forest": np.nan}, "with a sum of nan"),
        (COVER, THIRDS, {"forest": 1, "shrub": 0, "tundra": 0}, "A share of 0 is given for class 'shrub', .* give a small share"),
        (COVER, {"forest": 0.5, "shrub": 0.5, "tundra": 0}, THIRDS, "'tundra', which was never seen in training; train with it"),
        (DEPTH, 0.5, 0.4, "'depth' is a regression and has no probabilities"),
    ],
)
def test_shares_that_cannot_be_are_refused(task, assumed, wanted, message):
    with pytest.raises(SpecError, match=message):
        prevalence_bias(task, assumed, wanted)


@pytest.mark.parametrize(
    ("temperature", "bias"),
    [(0, ()), (-1, ()), (np.nan, ()), (np.inf, ()), ("1", ()), (None, ()), (1, (np.nan,)), (1, ("a",)), (1, None), (10**400, ())],
)
def test_a_calibration_that_cannot_be_is_refused(temperature, bias):
    with pytest.raises(SpecError, match="give a positive number, and a tuple of finite numbers"):
        Calibration(temperature, bias)


def test_logits_that_do_not_fit_are_refused():
    for logits in (np.zeros(3), np.zeros((2, 3))):
        with pytest.raises(SpecError, match="do not fit a calibration with 2 biases"):
            Calibration(1.0, (0.0, 1.0)).apply(logits)
    with pytest.raises(SpecError, match=r"give \(point, 3\)"):
        Calibration().probabilities(COVER, np.zeros((2, 1)))
    with pytest.raises(SpecError, match="'depth' is a regression"):
        Calibration().probabilities(DEPTH, np.zeros((2, 1)))


@pytest.mark.parametrize("task", [PERMAFROST, COVER])
def test_the_temperature_of_members_is_that_of_their_mean_probabilities(task):
    """Members that are sure of different things are unsure together: their mean logits are not what a map has."""
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 2, 400)
    logits = rng.normal(0, 5, (400, 4, task.outputs))
    if task.kind == "binary":
        logits[..., 0] += 3 * (2 * codes[:, None] - 1)
    else:
        logits[np.arange(400), :, codes] += 4
    found = fit_temperature(task, logits, codes)

    def likelihood(temperature):
        each = logits / temperature
        shares = expit(each) if task.kind == "binary" else softmax(each, axis=-1)
        mean = shares.mean(axis=1)
        told = np.where(codes == 1, mean[:, 0], 1 - mean[:, 0]) if task.kind == "binary" else mean[np.arange(400), codes]
        return np.log(told).mean()

    assert all(likelihood(found) > likelihood(found * other) for other in (0.9, 1.1))
    assert abs(found - fit_temperature(task, logits.mean(axis=1), codes)) > 0.05
    assert fit_temperature(task, logits[:, :1], codes) == fit_temperature(task, logits[:, 0], codes)


@pytest.mark.parametrize("calibration", [Calibration(), Calibration(1.7, (0.1, -2.5, 1 / 3)), Calibration(np.float32(2))])
def test_a_calibration_goes_through_json(calibration):
    found = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())), COVER)
    assert found == calibration
    assert hash(found) == hash(calibration)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 1.0}, r"has temperature and bias, not \['temperature'\]"),
        ({"temperature": 1.0, "bias": [], "slope": 2}, "'slope'"),
        ([1.0], r"not \[1.0\]"),
        ({"temperature": 0.0, "bias": []}, "cannot be read.*positive number"),
        ({"temperature": 1.0, "bias": None}, "cannot be read"),
        ({"temperature": 1.0, "bias": [0.5]}, "The calibration of 'taxonomy' has 1 biases, and the task 7 outputs"),
    ],
)
def test_a_damaged_calibration_is_refused(values, message):
    with pytest.raises(CheckpointError, match=message):
        Calibration.from_dict(values, TAXONOMY)


def test_calibration_needs_neither_torch_nor_scikit_learn():
    code = "import sys, misoxr.model.calibration; print([name for name in ('torch', 'sklearn') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
