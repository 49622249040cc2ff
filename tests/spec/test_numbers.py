"""What is a number, and what is rounding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from misoxr.spec.numbers import is_number, is_rounding, is_whole


@pytest.mark.parametrize(
    ("value", "whole", "number"),
    [
        (3, True, True),
        (np.int16(3), True, True),
        (3.0, False, True),
        (np.float32(3), False, True),
        (True, False, False),
        (np.bool_(True), False, False),
        ("3", False, False),
        (3j, False, False),
        (None, False, False),
    ],
)
def test_true_and_false_are_no_numbers(value, whole, number):
    assert (is_whole(value), is_number(value)) == (whole, number)


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-20, 1e20), st.integers(0, 30))
def test_rounding_is_judged_by_the_size_of_values(size, seed):
    """Neighbouring floats differ by rounding; a thousandth of a value does not."""
    values = np.full(100, np.float32(size))
    neighbours = np.where(np.random.default_rng(seed).random(100) < 0.5, values, np.nextafter(values, np.float32(np.inf)))
    assert is_rounding(neighbours.astype("float64").std(), size, "float32")
    assert not is_rounding(size / 1000, size, "float32")
    assert not is_rounding(size * 1e-7, size, "float64")
