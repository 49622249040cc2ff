"""Folds are drawn where their points lie, each in a colour of its own."""

import geopandas as gpd
import matplotlib
import numpy as np
import pytest
import shapely
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

import misoxr
from misoxr.errors import PointsError
from misoxr.grid.geobox import assign

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _closed():
    yield
    matplotlib.pyplot.close("all")


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(0)
    x, y = 300_000 + 3000 * rng.random(90), 1_500_000 - 2000 * rng.random(90)
    return gpd.GeoDataFrame(geometry=gpd.points_from_xy(x, y), crs="EPSG:3338")


def groups(axes):
    """Return places (point, 2) and colour of what is drawn, by its words."""
    return {
        one.get_label().rpartition(" (")[0]: (np.asarray(one.get_offsets()), one.get_facecolor()[:1], one.get_edgecolor()[:1])
        for one in axes.collections
    }


def test_each_fold_has_its_test_points_in_a_colour_of_its_own(points):
    cv = misoxr.BlockKFold(500, 4)
    axes = cv.plot(points)
    found = groups(axes)
    assert list(found) == ["fold 0", "fold 1", "fold 2", "fold 3"]
    for (_, test), (places, _, _) in zip(cv.split(points), found.values(), strict=True):
        np.testing.assert_allclose(places, points.get_coordinates().to_numpy()[test] / 1000)
    assert len({tuple(color[0]) for _, color, _ in found.values()}) == 4
    assert axes.get_xlabel() == "x (km)"
    assert (
        axes.get_title().replace("\n", " ") == "BlockKFold(size=500, n_splits=4): test points of 4 folds, in NAD83 / Alaska Albers"
    )
    assert {text.get_text() for text in axes.texts} == {"", "N", "1 km"}


def test_points_that_a_buffer_leaves_out_are_grey(points):
    cv = misoxr.BlockKFold(500, 4, buffer=200)
    left = [np.setdiff1d(np.arange(90), [*train, *test]) for train, test in cv.split(points)]
    ring, _, edge = groups(cv.plot(points))["left out of a fold's training"]
    assert len(ring) == len(set(np.concatenate(left)))
    assert np.ptp(edge[0][:3]) == 0, "grey"
    one = groups(cv.plot(points, fold=2))
    assert list(one) == ["test", "training", "left out"]
    assert len(one["left out"][0]) == len(left[2]) > 0
    assert np.ptp(one["left out"][1][0][:3]) == 0
    for fold in (4, -1, 1.5):
        with pytest.raises(PointsError, match="There is no fold"):
            cv.plot(points, fold=fold)


def test_regions_are_named_and_points_of_none_are_told(points):
    west = shapely.box(299_000, 1_490_000, 301_000, 1_510_000)
    east = shapely.box(301_000, 1_490_000, 302_000, 1_510_000)
    zones = gpd.GeoDataFrame({"name": ["west", "east"]}, geometry=[west, east], crs="EPSG:3338")
    found = groups(misoxr.LeaveOneRegionOut(zones).plot(points.to_crs("EPSG:4326")))
    assert list(found) == ["west", "east", "never tested"]
    assert (found["never tested"][0][:, 0] < -147).all(), "points in degrees are drawn in degrees"


def test_folds_lie_on_the_image_in_its_crs(points):
    bands = {name: (("y", "x"), np.random.default_rng(0).random((30, 40))) for name in ("red", "green", "blue")}
    image = assign(xr.Dataset(bands), GeoBox((30, 40), Affine(100, 0, 299_500, 0, -100, 1_500_500), "EPSG:3338"))
    axes = misoxr.ClusterKFold(100, 3).plot(points.to_crs("EPSG:4326"), image)
    assert len(axes.images) == 1
    places = np.concatenate([places for places, _, _ in groups(axes).values()])
    expected = points.get_coordinates().to_numpy() / 1000
    np.testing.assert_allclose(places[np.lexsort(places.T)], expected[np.lexsort(expected.T)], atol=1e-5)


def test_arrays_and_given_axes_will_do():
    _, ax = matplotlib.pyplot.subplots()
    xy = np.random.default_rng(0).random((60, 2))
    assert misoxr.KFold(25).plot(xy, ax=ax) is ax
    found = groups(ax)
    assert len({tuple(color[0]) for _, color, _ in found.values()}) == 25
    assert ax.get_xlabel() == "x"
