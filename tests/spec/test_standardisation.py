"""Labels of regressions are learnt in no units."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from misoxr.errors import CheckpointError
from misoxr.spec import PERMAFROST, Task
from misoxr.spec.standardisation import Standardisation

SOC = Task("soc", "regression", units="kg m-2")


def labels_of(seed: int, count: int = 50) -> np.ndarray:
    labels = np.random.default_rng(seed).normal(size=count)
    labels[::7] = np.nan
    return labels


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 100), st.integers(-30, 30), st.sampled_from([-1.0, 1.0]), st.sampled_from([0.0, 1.0, -1e3, 1e6]))
def test_units_of_labels_change_nothing(seed, power, sign, offset):
    """Labels y and y * a + b, an offset of up to a million deviations, are learnt as the same numbers, and turned back to their own."""
    labels, factor = labels_of(seed), sign * 10.0**power
    others = labels * factor + offset * abs(factor)
    one, other = Standardisation.fit(labels), Standardisation.fit(others)
    np.testing.assert_allclose(sign * other.apply(others), one.apply(labels), atol=1e-15 * (abs(offset) + 10))
    np.testing.assert_allclose(other.invert(other.apply(others)), others, rtol=1e-14, atol=1e-14 * abs(factor))
    known = one.apply(labels)[np.isfinite(labels)]
    assert known.mean() == pytest.approx(0, abs=1e-12)
    assert known.std() == pytest.approx(1)


@pytest.mark.parametrize("value", [0.0, 0.1 + 0.2, -1e9, 5e-30, 1e30])
def test_equal_labels_are_answered_by_themselves(value):
    """Sums that are equal but for rounding are equal; whatever a network answers, the map is their value."""
    labels = np.array([value, np.nan, value * (1 + 2e-16), value])
    found = Standardisation.fit(labels)
    assert found.scale == 0
    np.testing.assert_array_equal(found.apply(labels), [0, np.nan, 0, 0])
    np.testing.assert_allclose(found.invert(np.array([-3.0, 0.0, 7.0])), value, rtol=1e-15)


def test_tensors_and_arrays_are_treated_alike():
    labels = labels_of(0) * 3 + 1e9
    found = Standardisation.fit(labels)
    np.testing.assert_array_equal(found.apply(torch.from_numpy(labels)).numpy(), found.apply(labels))


def test_no_labels_leave_values_as_they_are():
    assert Standardisation.fit(np.full(3, np.nan)) == Standardisation() == Standardisation(0.0, 1.0)


def test_what_a_checkpoint_keeps():
    found = Standardisation.fit(labels_of(1) * 1e-6 + 2e-6)
    assert Standardisation.from_dict(json.loads(json.dumps(found.to_dict())), SOC) == found
    for values in ({"shift": 1.0, "scale": -1.0}, {"shift": "much"}, {"shift": 0.0, "spread": 1.0}, [1.0], {"scale": float("nan")}):
        with pytest.raises(CheckpointError, match="standardisation of 'soc' cannot be read"):
            Standardisation.from_dict(values, SOC)
    with pytest.raises(CheckpointError, match="labels of 'permafrost' are standardised, and it is binary"):
        Standardisation.from_dict(found.to_dict(), PERMAFROST)
