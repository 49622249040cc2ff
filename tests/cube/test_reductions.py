"""Reductions in time, against NumPy's; and the geometric median, against a plain minimisation."""

import warnings

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from misoxr.cube import reductions
from misoxr.cube.reductions import reduce_time
from misoxr.errors import BandError, MisoxrWarning, SpecError

cubes = arrays(
    "float32",
    array_shapes(min_dims=3, max_dims=3, max_side=8),
    elements=st.one_of(st.just(float("nan")), st.floats(-1e4, 1e4, width=32)),
)
NUMPYS = {
    "median": lambda values: np.nanmedian(values, axis=0),
    "mean": lambda values: np.nanmean(values, axis=0),
    "count": lambda values: (~np.isnan(values)).sum(axis=0),
} | {f"p{percent}": lambda values, percent=percent: np.nanpercentile(values, percent, axis=0) for percent in range(1, 100)}


def numpys(values: np.ndarray, method: str) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return NUMPYS[method](values.astype("float64"))


@settings(deadline=None)
@given(cubes, st.sampled_from(list(NUMPYS)))
def test_reductions_equal_numpys(values, method):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = reduce_time(values, method)
    assert found.dtype == ("uint16" if method == "count" else "float32")
    np.testing.assert_allclose(found, numpys(values, method), rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("method", NUMPYS)
def test_reductions_of_random_reflectance_equal_numpys(method):
    rng = np.random.default_rng(0)
    values = rng.random((13, 3, 6, 7), dtype="float32")
    values[rng.random(values.shape) < 0.4] = np.nan
    values[:, 1, 2, 3] = np.nan
    np.testing.assert_allclose(reduce_time(values, method), numpys(values, method), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["median", "mean", "count", "p1", "p10", "p99"])
def test_what_is_infinite_is_missing(method):
    rng = np.random.default_rng(1)
    values = rng.normal(-12, 3, (9, 5, 6)).astype("float32")
    for fill in (np.nan, -np.inf, np.inf):
        values[rng.random(values.shape) < 0.2] = fill
    values[:, 0, 0] = [-np.inf, np.inf, np.nan] * 3
    values[:, 0, 1] = np.inf
    values[:, 0, 2] = [-np.inf] * 8 + [-10]
    plain = np.where(np.isinf(values), np.nan, values)
    np.testing.assert_allclose(reduce_time(values, method), numpys(plain, method), rtol=1e-6)


@pytest.mark.parametrize("method", ["median", "mean", "count", "p90", "geomedian"])
@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 0, 1), (3, 2, 1, 0)])
def test_a_reduction_leaves_what_it_is_given(method, axes):
    held = np.random.default_rng(2).random((7, 2, 4, 5), dtype="float32")
    held[0, 0, 0, :3] = [np.nan, np.inf, -np.inf]
    values = np.ascontiguousarray(held.transpose(axes)).transpose(np.argsort(axes))  # in another order in memory
    values.flags.writeable = False
    reduce_time(values, method)
    np.testing.assert_array_equal(values, held)


def test_no_time_at_all_is_nan_or_none_and_unknown_methods_are_named():
    assert np.isnan(reduce_time(np.empty((0, 2, 3), "float32"), "median")).all()
    assert np.isnan(reduce_time(np.empty((0, 2, 2, 3), "float32"), "geomedian")).all()
    assert (reduce_time(np.empty((0, 2, 3), "float32"), "count") == 0).all()
    for method in ("medoid", "p0", "p100", "p05", "p2.5", "P50", None, 50, ["p50"]):
        with pytest.raises(
            SpecError, match=r"Unknown method .* use 'median', 'mean', 'geomedian', 'count', or a percentile from 'p1'"
        ):
            reduce_time(np.zeros((1, 1, 1), "float32"), method)
    with pytest.raises(SpecError, match=r"shape \(1, 1, 1\), and 'geomedian' needs all bands"):
        reduce_time(np.zeros((1, 1, 1), "float32"), "geomedian")


# ---- the geometric median


def excess(found: np.ndarray, observations: np.ndarray) -> float:
    """Return how much larger the sum of distances (per observation) at a point is than at the best of those that plain searches find."""
    whole = observations[~np.isnan(observations).any(axis=1)].astype("float64")

    def total(place: np.ndarray) -> float:
        return float(np.sqrt(((whole - place) ** 2).sum(axis=1)).mean())

    options = {"xatol": 1e-12, "fatol": 1e-15, "maxiter": 10_000, "maxfev": 10_000}
    searched = scipy.optimize.minimize(total, whole.mean(axis=0), method="Nelder-Mead", options=options).x
    return total(found) - min(total(place) for place in (*whole, searched, weiszfeld(whole)))


def weiszfeld(whole: np.ndarray) -> np.ndarray:
    """Iterate as Weiszfeld did, in float64, until nothing changes."""
    place = whole.mean(axis=0)
    for _ in range(20_000):
        weights = 1 / np.maximum(np.sqrt(((whole - place) ** 2).sum(axis=1)), 1e-300)
        moved = weights @ whole / weights.sum()
        if np.abs(moved - place).max() < 1e-15 * np.abs(whole).max():
            break
        place = moved
    return place


def noisy(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Reflectance as clouds and shadows leave it: bright or dark in all bands together."""
    ground = np.linspace(0.05, 0.3, shape[1])[:, None, None]
    light = rng.lognormal(0, 0.3, (shape[0], 1, *shape[2:]))
    return ground * light + rng.normal(0, 0.01, shape)


DRAWN = {
    "alike in all directions": lambda rng, shape: rng.standard_normal(shape),
    "bright or dark in all bands": noisy,
    "with outliers": lambda rng, shape: rng.standard_t(1.2, shape),
}


@pytest.mark.parametrize("drawn", DRAWN)
@pytest.mark.parametrize(("times", "bands"), [(100, 6), (40, 2), (7, 3), (3, 3)])
def test_a_geometric_median_is_the_plain_one(drawn, times, bands):
    rng = np.random.default_rng(times + bands)
    values = DRAWN[drawn](rng, (times, bands, 3, 5)).astype("float32")
    values[rng.random(values.shape) < 0.02] = np.nan
    values[:1, :, 0, 0] = np.nan
    found = reduce_time(values, "geomedian")
    assert found.dtype == "float32"
    for y, x in np.ndindex(found.shape[1:]):
        whole = values[~np.isnan(values[:, :, y, x]).any(axis=1), :, y, x].astype("float64")
        spread = np.sqrt(((whole - whole.mean(axis=0)) ** 2).sum(axis=1)).mean()
        assert excess(found[:, y, x], values[:, :, y, x]) <= 1e-7 * spread
        if len(whole) > 2:
            nearest = whole[np.argmin(((whole - found[:, y, x]) ** 2).sum(axis=1))]
            if (
                np.abs(nearest - found[:, y, x]).max() > 1e-3 * spread
            ):  # where it is an observation, Weiszfeld's own comes only near
                np.testing.assert_allclose(found[:, y, x], weiszfeld(whole), rtol=1e-6, atol=1e-6 * spread)


def one_pixel(*observations: tuple[float, ...]) -> np.ndarray:
    return np.array(observations, "float32")[:, :, None, None]


@pytest.mark.parametrize(
    ("observations", "expected"),
    [
        ([(0, 0), (0, 0), (5, 1)], (0, 0)),  # two of three are the same
        ([(0, 0), (2, 0), (0, 2), (2, 2)], (1, 1)),  # where the diagonals of a square cross
        ([(1, 1), (0, 0), (2, 0), (0, 2), (2, 2)], (1, 1)),  # it is the mean, and an observation
        ([(0, 0), (1, 0.1), (10, 0)], (1, 0.1)),  # an angle of more than 120 degrees
        ([(0, 0), (1, 2), (3, 6)], (1, 2)),  # on one line
        ([(3, 4)], (3, 4)),
        ([(3, 4), (5, 6)], (4, 5)),  # as a median of two
        ([(3, 4), (3, 4), (3, 4)], (3, 4)),
        ([(3, 4), (np.nan, 9), (3, 4), (9, np.nan)], (3, 4)),  # what lacks a band does not count
        ([(np.nan, 4), (3, np.nan)], (np.nan, np.nan)),
        ([(0, 0), (4, 0), (2, 2 * 3**0.5)], (2, 2 / 3**0.5)),  # Fermat's point of a triangle of equal sides
    ],
)
def test_geometric_medians_that_are_known(observations, expected):
    found = reduce_time(one_pixel(*observations), "geomedian")[:, 0, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_the_mean_may_be_an_observation_that_is_not_the_geometric_median():
    observations = one_pixel((0, 0), (-1, 0), (-1, 0.1), (-1, -0.1), (3, 0))
    assert np.abs(observations.mean(axis=0)).max() < 1e-7
    found = reduce_time(observations, "geomedian")[:, 0, 0]
    assert found[0] < -0.5
    assert excess(found, observations[..., 0, 0]) < 1e-7


def test_a_geometric_median_of_one_band_is_the_median():
    values = np.random.default_rng(0).random((6, 1, 4, 5), dtype="float32")
    np.testing.assert_array_equal(reduce_time(values, "geomedian"), reduce_time(values, "median"))


def test_units_and_origin_move_a_geometric_median_with_them():
    values = noisy(np.random.default_rng(5), (30, 4, 3, 3)).astype("float32")
    found = reduce_time(values, "geomedian")
    np.testing.assert_allclose(reduce_time(values * 10_000, "geomedian"), found * 10_000, rtol=1e-5)
    np.testing.assert_allclose(reduce_time(values.astype("float64") * 1e-6, "geomedian"), found * 1e-6, rtol=1e-5)


def test_a_geometric_median_does_not_depend_on_the_pixels_beside(monkeypatch):
    values = noisy(np.random.default_rng(8), (9, 3, 12, 14)).astype("float32")
    values[np.random.default_rng(9).random(values.shape) < 0.1] = np.nan
    whole = reduce_time(values, "geomedian")
    np.testing.assert_array_equal(reduce_time(values[:, :, 3:, 5:9], "geomedian"), whole[:, 3:, 5:9])
    monkeypatch.setattr(reductions, "SLAB", 100)
    np.testing.assert_array_equal(reduce_time(values, "geomedian"), whole)


def test_a_search_that_does_not_end_is_nodata_and_told(monkeypatch):
    values = noisy(np.random.default_rng(6), (30, 4, 3, 3)).astype("float32")
    values[1:, :, 0, 0] = np.nan
    monkeypatch.setattr(reductions, "STEPS", 1)
    with pytest.warns(MisoxrWarning, match="did not converge in 1 steps are NaN") as warned:
        found = reduce_time(values, "geomedian")
    assert len(warned) == 1
    assert np.isnan(found).sum() == 4 * 8
    np.testing.assert_array_equal(found[:, 0, 0], values[0, :, 0, 0])  # of one observation, nothing is searched


def test_units_are_one_however_they_are_spelt():
    reductions.refuse_units({"red": "1", "nir": "reflectance", "blue": ""}, "geomedian")
    reductions.refuse_units({"red": None, "nir": None}, "geomedian")
    for units in ({"red": "1", "lst": "K"}, {"red": "1", "nir": None}, {"red": "%", "nir": "1"}):
        with pytest.raises(BandError, match="'geomedian' measures one distance over all bands, and these have the units"):
            reductions.refuse_units(units, "geomedian")
