"""Regions as a value: which one holds a place, in any CRS and on either side of 180 degrees, and what a file holds of them."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import pytest
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from misoxr.errors import CheckpointError, MisoxrWarning, PointsError
from misoxr.grid.polygons import Polygons
from misoxr.points.clusters import polygon_of
from misoxr.points.folds import LeaveOneRegionOut
from misoxr.points.polygons import polygons_of
from misoxr.points.read import regions_of
from misoxr.sampling.regions import regions_on

pytestmark = pytest.mark.filterwarnings("ignore:Regions overlap")


def regions():
    """A square with a hole, and two islands of one name, one of which lies over the square."""
    square = shapely.box(0, 0, 10, 10) - shapely.box(4, 4, 6, 6)
    return gpd.GeoDataFrame(
        geometry=[square, shapely.box(9, 0, 12, 3), shapely.box(20, 0, 22, 2)], index=["land", "isles", "isles"], crs=3338
    )


def test_the_first_polygon_has_a_place():
    found = polygons_of(regions())
    assert found.names == ("land", "isles")
    np.testing.assert_array_equal(found.at([1, 5, 9.5, 11, 21, 15], [1, 5, 1, 1, 1, 1], "EPSG:3338"), [0, -1, 0, 1, 1, -1])
    grid = found.at(np.arange(3.0)[None] + 8, np.arange(2.0)[:, None], "EPSG:3338")
    np.testing.assert_array_equal(grid, [[0, 0, 0], [0, 0, 0]])


def test_places_in_another_crs_are_moved_and_edges_are_not():
    """A box in degrees, asked in EPSG:3338: the middle of its northern edge is not where a straight line in metres would be."""
    box = gpd.GeoDataFrame(geometry=[shapely.box(-160, 60, -140, 65)], index=["interior"], crs=4326)
    turn = pyproj.Transformer.from_crs(4326, 3338, always_xy=True)
    x, y = turn.transform([-150, -150, -141, -139.9], [64.999, 65.001, 60.001, 62])
    np.testing.assert_array_equal(polygons_of(box).at(x, y, "EPSG:3338"), [0, -1, 0, -1])
    np.testing.assert_array_equal(polygons_of(box).at([np.inf, np.nan], [0, 0], "EPSG:3338"), [-1, -1])


def test_longitude_is_a_circle():
    aleutians = gpd.GeoDataFrame(geometry=[shapely.box(170, 50, 190, 55)], index=["aleutians"], crs=4326)
    np.testing.assert_array_equal(polygons_of(aleutians).at([175, -175, 185, -165], [52] * 4, "EPSG:4326"), [0, 0, 0, -1])


def test_places_beyond_one_turn_are_as_those_before():
    shapes = [
        shapely.box(170, 50, 190, 55),
        shapely.Polygon([(179, 60), (-179, 60), (-179, 65), (179, 65)]),
        shapely.box(-185, 70, -170, 72),
    ]
    found = polygons_of(gpd.GeoDataFrame(geometry=shapes, index=["a", "b", "c"], crs=4326))
    rng = np.random.default_rng(0)
    xy = np.column_stack([rng.uniform(160, 200, 2000), rng.uniform(48, 74, 2000)])
    wanted = np.append(found.region, -1)[polygon_of(xy, found.shapes, pyproj.CRS(4326))]
    assert set(wanted) == {0, 1, 2, -1}
    for turns in (-1, 0, 1):
        np.testing.assert_array_equal(found.at(xy[:, 0] + 360 * turns, xy[:, 1], "EPSG:4326"), wanted)


def test_threads_and_copies_give_the_same():
    rng = np.random.default_rng(1)
    centres = rng.random((60, 2)) * 3000
    table = gpd.GeoDataFrame(geometry=[shapely.Point(*one).buffer(150, 64) for one in centres], crs=3338)
    x, y = np.meshgrid(np.arange(0, 3000, 20.0), np.arange(0, 3000, 20.0))
    wanted = polygons_of(table).at(x, y, "EPSG:3338")
    found = polygons_of(table)
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda row: found.at(x[row], y[row], "EPSG:3338"), range(len(x))))
    np.testing.assert_array_equal(np.array(rows), wanted)
    again = pickle.loads(pickle.dumps(found))
    assert set(vars(again)) == {"names", "region", "shapes", "crs"}
    np.testing.assert_array_equal(again.at(x, y, "EPSG:3338"), wanted)


def test_polygons_that_cross_themselves_are_mended():
    """A bow tie holds its two wings."""
    tie = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    line = shapely.Polygon([(0, 0), (1, 1), (2, 2)])
    found = polygons_of(gpd.GeoDataFrame(geometry=[line, tie], index=["line", "tie"], crs=3338))
    assert found.names == ("tie",)
    np.testing.assert_array_equal(found.at([1, 9, 5, 5], [5, 5, 1, 9], "EPSG:3338"), [0, 0, -1, -1])
    with pytest.raises(PointsError, match="The 1 regions have no area"):
        polygons_of(gpd.GeoDataFrame(geometry=[line], crs=3338))


def test_regions_are_named_alike_wherever_they_are_taken():
    """A column "name" before the index; a column that is given before both."""
    table = regions().assign(name=["x", "y", None], zone=["p", "q", "r"])
    assert polygons_of(table).names == ("x", "y")
    points = gpd.GeoDataFrame(geometry=gpd.points_from_xy([1, 11, 21], [1, 1, 1]), crs=3338)
    assert LeaveOneRegionOut(table).names(points) == ["x", "y"]
    assert regions_of(points, table)[0].tolist() == ["x", "y", "none"]
    assert regions_of(points, table, "zone")[0].tolist() == ["p", "q", "r"]
    assert regions_of(points, regions())[0].tolist() == ["land", "isles", "isles"]


def test_many_places_are_as_each_alone():
    rng = np.random.default_rng(0)
    shapes = [shapely.Point(*centre).buffer(200) for centre in rng.random((15, 2)) * 2000]
    found = polygons_of(gpd.GeoDataFrame(geometry=shapes, crs=3338))
    xy = rng.random((3000, 2)) * 2000
    wanted = np.append(found.region, -1)[polygon_of(xy, found.shapes, pyproj.CRS(3338))]
    np.testing.assert_array_equal(found.at(*xy.T, "EPSG:3338"), wanted)
    for part in np.array_split(np.arange(3000), 40):
        np.testing.assert_array_equal(found.at(*xy[part].T, "EPSG:3338"), wanted[part])
    inside = np.asarray(shapes[0].centroid.coords[0]) + rng.random((9, 2))
    np.testing.assert_array_equal(found.at(*inside.T, "EPSG:3338"), found.at(*inside[0], "EPSG:3338"))


def test_what_a_file_holds_is_exact():
    found = polygons_of(regions().to_crs(4326))
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
        polygons_of(wrong)


def test_rows_without_a_name_or_area_are_no_region():
    table = regions().set_axis(["land", None, "empty"])
    table.loc["empty", "geometry"] = shapely.Polygon()
    assert polygons_of(table).names == ("land",)


@pytest.mark.parametrize(
    ("names", "known"),
    [
        (["north", " ", ""], ["north"]),
        (pd.array([1, 2, None], "Int64"), ["1", "2"]),
        ([1, 2, np.nan], ["1", "2"]),
        ([1.5, 2, np.nan], ["1.5", "2.0"]),
        (pd.Categorical(["b", None, "a"]), ["b", "a"]),
    ],
)
def test_names_are_as_they_were_before_some_were_missing(names, known):
    shapes = [shapely.box(at, 0, at + 1, 1) for at in (0, 1, 2)]
    table = gpd.GeoDataFrame({"name": names}, geometry=shapes, crs=3338)
    points = gpd.GeoDataFrame(geometry=gpd.points_from_xy([0.5, 1.5, 2.5], [0.5] * 3), crs=3338)
    assert polygons_of(table).names == tuple(known)
    groups, found = regions_of(points, table)
    assert found == [*known, *(["none"] if pd.isna(np.asarray(names, object)).any() or "" in list(names) else [])]
    assert set(groups) == set(found)
    if len(known) > 1:
        assert [str(name) for name in LeaveOneRegionOut(table, "name").names(points)] == known


def test_levels_of_an_index_are_one_name():
    shapes = [shapely.box(at, 0, at + 1, 1) for at in (0, 1, 2)]
    table = gpd.GeoDataFrame({"zone": ["w", "e", "e"], "age": [1, 2, 2]}, geometry=shapes, crs=3338).dissolve(by=["zone", "age"])
    assert polygons_of(table).names == ("e, 2", "w, 1")
    grid = GeoBox((1, 3), Affine(1, 0, 0, 0, -1, 1), "EPSG:3338")
    assert regions_on(table, grid).names == ("e, 2", "w, 1", "none")


@pytest.mark.parametrize("key", ["names", "crs", "coordinates", "region", "rings", "polygons", "parts"])
@pytest.mark.parametrize("value", [None, 3, [], "", "AAAA", "AAAAAAAAAAA=", "\ud800", [1], {}])
def test_damaged_regions_are_refused(key, value):
    values = polygons_of(regions()).to_dict()
    with pytest.raises(CheckpointError):
        Polygons.from_dict({**values, key: value})


def test_offsets_that_do_not_add_up_are_refused():
    """Each number of the offsets changed to each of some others never crashes: it is refused, or gives polygons."""
    values, refused = polygons_of(regions()).to_dict(), 0
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


def test_overlaps_are_told_with_their_counts():
    points = gpd.GeoDataFrame(geometry=gpd.points_from_xy([1, 9.5, 9.6, 11, 21], [1, 1, 2, 1, 1]), crs=3338)
    told = "Regions overlap: 2 of 5 points lie in several, such as 'land' and 'isles', and count for the first"
    with pytest.warns(MisoxrWarning, match=told):
        groups, _ = regions_of(points, regions())
    assert groups.tolist() == ["land", "land", "land", "isles", "isles"]
    with pytest.warns(MisoxrWarning, match=told):
        LeaveOneRegionOut(regions()).names(points)
    told = "Regions overlap in 1 pairs of polygons, such as 'land' and 'isles', which share 33.3% of the smaller one"
    with pytest.warns(MisoxrWarning, match=told):
        polygons_of(regions())
    with pytest.warns(MisoxrWarning, match=told):
        regions_on(regions(), GeoBox((12, 24), Affine(1, 0, 0, 0, -1, 12), "EPSG:3338"))


@pytest.mark.filterwarnings("error::misoxr.errors.MisoxrWarning")
def test_borders_that_touch_and_parts_of_one_region_are_no_overlap():
    apart = regions().assign(geometry=[shapely.box(0, 0, 10, 10), shapely.box(10 - 1e-6, 0, 12, 3), shapely.box(11, 0, 13, 3)])
    points = gpd.GeoDataFrame(geometry=gpd.points_from_xy([1, 11.5], [1, 1]), crs=3338)
    assert regions_of(points, apart)[0].tolist() == ["land", "isles"]
    polygons_of(apart)
