"""The area of applicability: by the formula in plain NumPy, in every space, for any chunks and cores, and through every store."""

import geopandas as gpd
import numpy as np
import pytest

from misoxr.errors import MisoxrWarning
from misoxr.uncertainty import training_dissimilarity
from tests.conftest import make_cube

SHAPE = (48, 60)
COUNT = 40
FOLDS = [(np.arange(COUNT)[np.arange(COUNT) % 4 != fold], np.arange(fold, COUNT, 4)) for fold in range(3)]
"""Of which the last fourth of the points is never tested."""


@pytest.fixture(scope="module")
def cube(spec):
    return make_cube(SHAPE, spec.bands)


def points_of(cube, count=COUNT, seed=0):
    """Points at the centres of pixels of their own, with labels."""
    rng = np.random.default_rng(seed)
    at = rng.choice(SHAPE[0] * SHAPE[1], count, replace=False)
    row, column = np.divmod(at, SHAPE[1])
    labels = {"permafrost": rng.integers(0, 2, count), "taxonomy": rng.integers(0, 3, count)}
    return gpd.GeoDataFrame(labels, geometry=gpd.points_from_xy(cube.x.values[column], cube.y.values[row]), crs="EPSG:3338")


@pytest.fixture(scope="module")
def points(cube):
    return points_of(cube)


def pixels_of(cube, points):
    row = [int(np.abs(cube.y.values - y).argmin()) for y in points.geometry.y]
    column = [int(np.abs(cube.x.values - x).argmin()) for x in points.geometry.x]
    return np.array(row), np.array(column)


def formula(table, pixels, folds=None, weights=None):
    """Meyer & Pebesma (2021) as CAST 1.1 has it, of features (point, feature) and (pixel, feature), all in float64."""
    mean, deviation = table.mean(0), table.std(0, ddof=1)
    weights = np.ones(table.shape[1]) if weights is None else np.clip(weights, 0, None)
    table, pixels = ((part - mean) / deviation * weights for part in (table, pixels))
    apart = np.sqrt(((table[:, None] - table[None]) ** 2).sum(-1))
    count = len(table)
    mean_distance = (apart.sum(1) / (count - 1)).mean()
    trained = np.empty(count)
    for point in range(count):
        tested = [train for train, test in folds or [] if point in test]
        others = tested[0] if tested else np.delete(np.arange(count), point)
        trained[point] = apart[point, others].min() / mean_distance
    low, high = np.quantile(trained, [0.25, 0.75])
    threshold = min(high + 1.5 * (high - low), trained.max())
    distance = np.sqrt(((pixels[:, None] - table[None]) ** 2).sum(-1)) / mean_distance
    index, density = distance.min(1), (distance < threshold).sum(1).astype(float)
    density[np.isnan(index)] = np.nan
    return {"index": index, "density": density, "threshold": threshold, "mean_distance": mean_distance, "trained": trained}


def check_same(found, expected, shape=SHAPE):
    """Compare a computed map with what the formula gives."""
    for name in ("threshold", "mean_distance"):
        assert found.attrs[name] == pytest.approx(expected[name], abs=1e-6)
        assert all(array.attrs[name] == found.attrs[name] for array in found.data_vars.values())
    index, density = (expected[name].reshape(shape) for name in ("index", "density"))
    np.testing.assert_allclose(found.dissimilarity_index, index, atol=1e-6)
    np.testing.assert_array_equal(found.local_point_density, density)
    inside = np.where(np.isnan(index), 255, index <= expected["threshold"])
    np.testing.assert_array_equal(found.applicable, inside)
    assert {name: array.dtype.name for name, array in found.data_vars.items()} == {
        "dissimilarity_index": "float32",
        "local_point_density": "float32",
        "applicable": "uint8",
    }


def raw(cube, spec):
    """The model's bands, (pixel, band)."""
    return np.stack([cube[band.name].values.astype("float64").ravel() for band in spec.bands], axis=-1)


@pytest.mark.parametrize("folds", [None, FOLDS], ids=["all others", "folds"])
@pytest.mark.parametrize("weights", [None, {"red": 2.0, "nir": 0.5, "aspect": 0.0, "elevation": 1.25}], ids=["alike", "weighted"])
def test_the_map_is_the_formula(cube, model, points, folds, weights, no_compute):
    gaps = cube.assign(nir=cube.nir.where(np.arange(SHAPE[1]) > 3))
    points = points.assign(extra=1)
    pixels = raw(gaps, model.spec)
    row, column = pixels_of(cube, points)
    at = row * SHAPE[1] + column
    there = np.flatnonzero(np.isfinite(pixels[at]).all(1))
    assert 30 < len(there) < COUNT, "some points lack a band"
    place_of = np.full(COUNT, -1)
    place_of[there] = np.arange(len(there))
    mine = [tuple(place_of[side][place_of[side] >= 0] for side in fold) for fold in folds] if folds else None
    ordered = None if weights is None else np.array([weights[band.name] for band in model.spec.bands])
    expected = formula(pixels[at[there]], pixels, mine, ordered)
    with pytest.warns(MisoxrWarning, match=f"{COUNT - len(there)} of {COUNT} points lack valid bands"):
        found = gaps.miso.applicability(model, points, cv=folds, weights=weights)
    with no_compute(), pytest.raises(AssertionError, match="computed"):
        found.compute()
    computed = found.compute()
    check_same(computed, expected)
    assert (computed.applicable == 1).any()
    assert computed.attrs["training_points"] == len(there)
    np.testing.assert_allclose(computed.dissimilarity_index.values[row[there], column[there]], 0, atol=0)
    with pytest.warns(MisoxrWarning, match="lack valid bands"):
        series = training_dissimilarity(gaps, model, points, cv=folds, weights=weights)
    np.testing.assert_allclose(series.to_numpy()[there], expected["trained"], atol=1e-6)
    assert series.isna().sum() == COUNT - len(there)
