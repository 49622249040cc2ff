"""Features of pixels: means and deviations of their neighbourhood, in any units."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from misoxr.cube.features import SIDES, _around, _moments

EPS = float(np.finfo("float32").eps)


def direct(values: np.ndarray, side: int) -> np.ndarray:
    """Mean and standard deviation around each pixel of (y, x), by definition, in two passes."""
    reach = side // 2
    padded = np.pad(values.astype("float64"), reach, constant_values=np.nan)
    squares = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
    known = np.isfinite(squares).any((-2, -1))
    out = np.full((2, *values.shape), np.nan)
    out[:, known] = np.nanmean(squares[known], axis=(-2, -1)), np.nanstd(squares[known], axis=(-2, -1))
    return out


def scene(seed: int, shape: tuple[int, int] = (9, 11)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape)
    values[rng.random(shape) < 0.3] = np.nan
    values[:3, :3] = np.nan
    return values


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 50),
    st.sampled_from([1, 2, 3, 4, 5, 15]),
    st.integers(-18, 18),
    st.sampled_from([0.0, 3.0, -1e3, 1e5]),
)
def test_units_change_nothing_in_neighbourhoods(seed, side, power, offset):
    """Values times a factor plus an offset have means and deviations in these units, as far as float32 holds the values."""
    values, factor = scene(seed), 10.0**power
    other = ((values + offset) * factor).astype("float32")
    side |= 1
    mean, spread = _around(other[None], side)
    expected = direct(values, side)
    # A deviation of 4 steps between floats counts as rounding, and storing the values rounds them by half a step.
    room = 4.5 * EPS * (abs(offset) + 3)
    np.testing.assert_allclose(mean / factor - offset, expected[0], atol=room)
    np.testing.assert_allclose(spread / factor, expected[1], atol=room)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("value", [0.529, 1e6 + 0.25, -1e-12])
def test_flat_ground_does_not_deviate(side, value):
    """Beside steep ground, an outlier and gaps, too; nor where values waver by rounding."""
    values = np.full((40, 50), value, "float32")
    values[20:] = 1e9 * np.random.default_rng(0).random((20, 50))
    values[3:6, 4] = np.nan
    values[10, ::2] = np.nextafter(values[10, ::2], np.float32(np.inf))
    mean, spread = _around(values[None], side)
    flat = slice(0, 20 - side // 2)
    assert not spread[flat].any()
    np.testing.assert_allclose(mean[flat], value, rtol=1e-6)
    np.testing.assert_allclose(spread, direct(values, side)[1], rtol=1e-6, atol=4 * EPS * abs(value))


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_maps_and_points_have_the_same_neighbourhood(offset):
    values = (scene(3, (15, 15)) + offset).astype("float32")
    mean, spread = _around(values[None], 15)
    for found, expected in zip(_moments(values), (mean[7, 7], spread[7, 7]), strict=True):
        assert found == pytest.approx(expected, rel=1e-6)
