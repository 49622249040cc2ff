"""Regions as a value: which one holds a place, in any CRS and on either side of 180 degrees, and what a file holds of them."""

import copy

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely

from misoxr.errors import CheckpointError, PointsError
from misoxr.points.clusters import polygon_of
from misoxr.points.polygons import Polygons


def regions():
    """A square with a hole, and two islands of one name, one of which lies over the square."""
    square = shapely.box(0, 0, 10, 10) - shapely.box(4, 4, 6, 6)
    return gpd.GeoDataFrame(
        geometry=[square, shapely.box(9, 0, 12, 3), shapely.box(20, 0, 22, 2)], index=["land", "isles", "isles"], crs=3338
    )


def test_the_first_polygon_has_a_place():
    found = Polygons.of(regions())
    assert found.names == ("land", "isles")
    np.testing.assert_array_equal(found.at([1, 5, 9.5, 11, 21, 15], [1, 5, 1, 1, 1, 1], "EPSG:3338"), [0, -1, 0, 1, 1, -1])
    grid = found.at(np.arange(3.0)[None] + 8, np.arange(2.0)[:, None], "EPSG:3338")
    np.testing.assert_array_equal(grid, [[0, 0, 0], [0, 0, 0]])


def test_places_in_another_crs_are_moved_and_edges_are_not():
    """A box in degrees, asked in EPSG:3338: the middle of its northern edge is not where a straight line in metres would be."""
    box = gpd.GeoDataFrame(geometry=[shapely.box(-160, 60, -140, 65)], index=["interior"], crs=4326)
    turn = pyproj.Transformer.from_crs(4326, 3338, always_xy=True)
    x, y = turn.transform([-150, -150, -141, -139.9], [64.999, 65.001, 60.001, 62])
    np.testing.assert_array_equal(Polygons.of(box).at(x, y, "EPSG:3338"), [0, -1, 0, -1])
    np.testing.assert_array_equal(Polygons.of(box).at([np.inf, np.nan], [0, 0], "EPSG:3338"), [-1, -1])


def test_longitude_is_a_circle():
    aleutians = gpd.GeoDataFrame(geometry=[shapely.box(170, 50, 190, 55)], index=["aleutians"], crs=4326)
    np.testing.assert_array_equal(Polygons.of(aleutians).at([175, -175, 185, -165], [52] * 4, "EPSG:4326"), [0, 0, 0, -1])


def test_many_places_are_as_each_alone():
    rng = np.random.default_rng(0)
    shapes = [shapely.Point(*centre).buffer(200) for centre in rng.random((15, 2)) * 2000]
    found = Polygons.of(gpd.GeoDataFrame(geometry=shapes, crs=3338))
    xy = rng.random((3000, 2)) * 2000
    wanted = np.append(found.region, -1)[polygon_of(xy, found.shapes, pyproj.CRS(3338))]
    np.testing.assert_array_equal(found.at(*xy.T, "EPSG:3338"), wanted)
    for part in np.array_split(np.arange(3000), 40):
        np.testing.assert_array_equal(found.at(*xy[part].T, "EPSG:3338"), wanted[part])
    inside = np.asarray(shapes[0].centroid.coords[0]) + rng.random((9, 2))
    np.testing.assert_array_equal(found.at(*inside.T, "EPSG:3338"), found.at(*inside[0], "EPSG:3338"))


def test_what_a_file_holds_is_exact():
    found = Polygons.of(regions().to_crs(4326))
    again = Polygons.from_dict(copy.deepcopy(found.to_dict()))
    assert again.to_dict() == found.to_dict()
    assert all(one.equals_exact(other) for one, other in zip(again.shapes, found.shapes, strict=True))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ([1], "are a list; give a GeoDataFrame"),
        (regions().set_crs(None, allow_override=True), "carry no CRS"),
        (gpd.GeoDataFrame(geometry=[shapely.Point(0, 0)], crs=3338), "of {'Point'}; give polygons"),
        (regions().iloc[:0], "The 0 regions"),
        (regions().set_axis([None, None, None]), "The 0 regions"),
    ],
)
def test_what_are_no_regions_is_refused(wrong, words):
    with pytest.raises(PointsError, match=words):
        Polygons.of(wrong)


def test_rows_without_a_name_or_area_are_no_region():
    table = regions().set_axis(["land", None, "empty"])
    table.loc["empty", "geometry"] = shapely.Polygon()
    assert Polygons.of(table).names == ("land",)


@pytest.mark.parametrize("key", ["names", "crs", "coordinates", "region", "rings", "polygons", "parts"])
@pytest.mark.parametrize("value", [None, 3, [], "", "AAAA", "AAAAAAAAAAA=", "\ud800", [1], {}])
def test_damaged_regions_are_refused(key, value):
    values = Polygons.of(regions()).to_dict()
    with pytest.raises(CheckpointError):
        Polygons.from_dict({**values, key: value})


def test_offsets_that_do_not_add_up_are_refused():
    """Each number of the offsets changed to each of some others never crashes: it is refused, or gives polygons."""
    values, refused = Polygons.of(regions()).to_dict(), 0
    from misoxr.spec.build import array_of, text_of

    for key in ("rings", "polygons", "parts", "region"):
        whole = array_of(values[key], "int64")
        for at in range(len(whole)):
            for number in (-1, 0, 1, 3, 2**31, 2**62, -(2**63)):
                changed = whole.copy()
                changed[at] = number
                try:
                    Polygons.from_dict({**values, key: text_of(changed)}).at([1.0, 5.0], [1.0, 5.0], "EPSG:3338")
                except CheckpointError:
                    refused += 1
    assert refused > 60
    for other in (None, [], {}, {**values, "more": 1}):
        with pytest.raises(CheckpointError):
            Polygons.from_dict(other)
