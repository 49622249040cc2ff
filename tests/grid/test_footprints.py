import json

import geopandas
import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from misoxr.errors import CatalogError, GridError
from misoxr.grid.footprints import DEGREES, as_read, bounds_of, bounds_on, footprint, meeting, meets, moved, split
from misoxr.grid.longitude import transformer
from misoxr.stac.filters import area_of
from misoxr.stac.target import target_grid

ACROSS = (179.95, 51.99, 180.05, 52.01)
"""15 square kilometres of the Aleutians."""


def ring(*corners: tuple[float, float], crs: str = "EPSG:4326") -> shapely.Polygon:
    """A polygon through corners in degrees, in any CRS."""
    return shapely.Polygon(
        np.column_stack(pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(*zip(*corners, strict=True)))
    )


CORNERS = ((179.95, 51.99), (-179.95, 51.99), (-179.95, 52.01), (179.95, 52.01))
HALVES = (shapely.box(179.95, 51.99, 180, 52.01), shapely.box(-180, 51.99, -179.95, 52.01))


@pytest.mark.parametrize(
    "area",
    [
        {"bbox": (179.95, 51.99, -179.95, 52.01)},
        {"bbox": (179.95, 51.99, 180.05, 52.01)},
        {"bbox": (-180.05, 51.99, -179.95, 52.01)},
        {"bbox": (179.95, 51.99, 0.0, 180.05, 52.01, 100.0)},
        {"intersects": shapely.box(179.95, 51.99, 180.05, 52.01)},
        {"intersects": shapely.box(-180.05, 51.99, -179.95, 52.01)},
        {"intersects": shapely.box(899.95, 51.99, 900.05, 52.01)},
        {"intersects": shapely.MultiPolygon(HALVES)},
        {"intersects": shapely.Polygon(CORNERS)},
        {"intersects": shapely.Polygon([(lon % 360, lat, 8.0) for lon, lat in CORNERS])},
        {"intersects": shapely.geometry.mapping(shapely.Polygon(CORNERS))},
        {
            "intersects": {
                "type": "FeatureCollection",
                "features": [{"geometry": shapely.geometry.mapping(half)} for half in HALVES],
            }
        },
        {"intersects": geopandas.GeoDataFrame(geometry=list(HALVES), crs="EPSG:4326")},
        {"intersects": geopandas.GeoSeries([shapely.Polygon(CORNERS)], crs="EPSG:4269")},
        {"intersects": geopandas.GeoSeries([ring(*CORNERS, crs="EPSG:3338")], crs="EPSG:3338")},
        {"intersects": geopandas.GeoSeries([ring(*CORNERS, crs="EPSG:3338")], crs="EPSG:3338").to_crs("EPSG:4326")},
        {"intersects": geopandas.GeoSeries([ring(*CORNERS, crs="EPSG:32660")], crs="EPSG:32660")},
        {"intersects": geopandas.GeoSeries([ring(*CORNERS, crs="EPSG:3857")], crs="EPSG:3857")},
        {"intersects": geopandas.GeoSeries([ring(*CORNERS, crs="EPSG:3832")], crs="EPSG:3832")},
    ],
    ids=str,
)
def test_an_area_across_180_degrees_however_it_is_written(area):
    found = area_of(**{"bbox": None, "intersects": None, **area})
    np.testing.assert_allclose(found.bounds, ACROSS, atol=2e-5)
    asked = split(found)
    west, _, east, _ = shapely.bounds(list(asked.geoms)).T
    assert sorted(np.round(np.concatenate([west, east]), 4)) == [-180, -179.95, 179.95, 180]
    assert all(part.exterior.is_ccw for part in asked.geoms)


@pytest.mark.parametrize(
    ("area", "bounds"),
    [
        (shapely.box(359, 1, 361, 2), (-1, 1, 1, 2)),
        (shapely.Polygon([(359, 1), (1, 1), (1, 2), (359, 2)]), (-1, 1, 1, 2)),
        (shapely.box(190, 50, 200, 60), (-170, 50, -160, 60)),
        (shapely.box(-180, 50, 180, 80), (-180, 50, 180, 80)),
        (shapely.box(0, 50, 360, 80), (0, 50, 360, 80)),
        (shapely.box(-179, 60, 179, 75), (-179, 60, 179, 75)),  # as wide as it says
        (shapely.box(-179, 0, 179, 75, ccw=False), (-179, 0, 179, 75)),  # no scene
        (shapely.Point(190, 50), (-170, 50, -170, 50)),
        (shapely.LineString([(179, 50), (-179, 51)]), (179, 50, 181, 51)),
        (shapely.Polygon([(0, 80), (90, 80), (180, 80), (-90, 80)]), (0, 80, 360, 90)),  # round the pole
    ],
    ids=str,
)
def test_areas_in_degrees_as_people_write_them(area, bounds):
    assert area_of(None, area).bounds == pytest.approx(bounds)


def test_areas_that_are_none():
    for area in (shapely.Polygon(), shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])):
        with pytest.raises(CatalogError, match="empty|not valid"):
            area_of(None, area)
        with pytest.raises(CatalogError, match="empty|not valid"):
            area_of(None, geopandas.GeoSeries([area], crs="EPSG:3338"))
    for box in ((0, 5, 1, 4), (0, 0, 1e9, 1), (0, 0, np.nan, 1), (0, 0, 1)):
        with pytest.raises(CatalogError, match=r"is not \(west, south, east, north\)"):
            area_of(box, None)
    with pytest.raises(GridError, match="does not lie within"):
        moved(shapely.box(0, 0, 1e9, 1e9), "EPSG:3338", DEGREES)


def test_a_hole_stays_one():
    shell = shapely.box(170, 50, 190, 60).difference(shapely.box(179, 54, 181, 56))
    halves = split(as_read(shell))
    assert halves.area == pytest.approx(shell.area)
    for area in (shell, halves, shapely.affinity.translate(shell, -720)):
        found = as_read(area)
        assert found.area == pytest.approx(shell.area)
        assert not meets(found, shapely.Point(-179.5, 55))
        assert not meets(found, shapely.Point(179.5, 55))
        assert meets(found, shapely.Point(-178.5, 55))
    ring = shapely.Point(0, 0).buffer(2e6).difference(shapely.Point(0, 0).buffer(5e5))
    around = moved(ring, "EPSG:3413", DEGREES)
    for longitude in (-180, -90, 0, 44, 46, 179):
        assert meets(around, shapely.Point(longitude, 80))
        assert not meets(around, shapely.Point(longitude, 88))


@pytest.mark.parametrize(
    ("origin", "touches"),
    [((-500_000, 500_000), True), ((0, 1_000_000), True), ((-500_000, 1_500_000), False)],
    ids=["in", "at", "beside"],
)
def test_grids_about_a_pole(origin, touches):
    grid = GeoBox((100, 100), Affine(10_000, 0, origin[0], 0, -10_000, origin[1]), "EPSG:3413")
    area = footprint(grid)
    assert meets(area, shapely.Point(17, 90)) == touches
    x, y = np.random.default_rng(0).uniform(-2e6, 2e6, (2, 300))
    within = (x > origin[0]) & (x < origin[0] + 1e6) & (y > origin[1] - 1e6) & (y < origin[1])
    places = pyproj.Transformer.from_crs("EPSG:3413", "EPSG:4326", always_xy=True).transform(x, y)
    met = np.array([meets(area, shapely.Point(place)) for place in zip(*places, strict=True)])
    assert met[within].all()
    if origin[0]:
        np.testing.assert_array_equal(met, within)


@settings(max_examples=200, deadline=None)
@given(
    place=st.tuples(st.floats(-180, 180), st.floats(-70, 70)),
    size=st.tuples(st.floats(0.01, 8), st.floats(0.01, 4)),
    other=st.tuples(st.floats(-10, 10), st.floats(-5, 5)),
    turns=st.tuples(st.integers(-2, 2), st.integers(-2, 2)),
    crs=st.sampled_from(["EPSG:4326", "EPSG:3857", "EPSG:6933", "UTM"]),
)
def test_two_areas_meet_wherever_they_lie(place, size, other, turns, crs):
    """As they do on a plane, at any longitude, in any turn, and moved through any CRS."""
    plane = [shapely.box(-size[0], -size[1], size[0], size[1]), shapely.box(*other, other[0] + 1, other[1] + 1)]
    there = [shapely.affinity.translate(area, place[0] + 360 * by, place[1]) for area, by in zip(plane, turns, strict=True)]
    if abs(plane[0].exterior.distance(plane[1].exterior)) < 1e-3:
        return
    if crs == "UTM":
        crs = f"EPSG:{32601 + int((place[0] + 180) // 6) % 60}"
    areas = [as_read(area) for area in there]
    around = [moved(moved(area, DEGREES, crs, 0.2), crs, DEGREES) for area in areas]
    expected = plane[0].intersects(plane[1])
    assert meets(*areas) == meets(*around) == meets(areas[1], areas[0]) == expected
    assert (meeting(shapely.STRtree([areas[0]]), areas[1]).size > 0) == expected
    for area, again, wanted in zip(areas, around, plane, strict=True):
        assert -180 <= area.bounds[0] < 180
        assert area.area == pytest.approx(wanted.area)
        assert again.area == pytest.approx(wanted.area, rel=1e-3)
        assert split(area).area == pytest.approx(wanted.area)
        assert -180 <= split(area).bounds[0] < split(area).bounds[2] <= 180


@settings(max_examples=200, deadline=None)
@given(
    west=st.floats(-180, 180), turns=st.integers(-2, 2), ours=st.integers(-2, 2), at=st.tuples(st.floats(-3, 9), st.floats(-3, 9))
)
def test_bounds_on_a_grid_in_any_turn(west, turns, ours, at):
    grid = GeoBox((60, 60), Affine(0.1, 0, west + 360 * ours, 0, -0.1, 6), "EPSG:4326")
    here, there = shapely.box(*at, at[0] + 2, at[1] + 2), shapely.box(0, 0, 6, 6)
    if not here.intersects(there):
        return
    area = as_read(shapely.affinity.translate(here, west + 360 * turns))
    found = bounds_on(area, grid)
    exact = np.array(shapely.affinity.translate(here.intersection(there), west + 360 * ours).bounds)
    assert (np.array(found[:2]) <= exact[:2] + 1e-6).all()
    assert (np.array(found[2:]) >= exact[2:] - 1e-6).all()
    assert np.abs(found - exact).max() < 1.5  # a little beyond


def test_bounds_together_are_the_shortest_way_round():
    boxes = [shapely.box(179, 0, 180, 1), shapely.box(-180, 0, -179, 2)]
    assert bounds_of(boxes, "EPSG:4326") == (179, 0, 181, 2)
    assert bounds_of([shapely.box(-180 + k, 0, -179 + k, 1) for k in range(360)], "EPSG:4326") == (-180, 0, 180, 1)
    assert bounds_of(boxes, "EPSG:3338") == (-180, 0, 180, 2)


def test_an_area_that_names_its_crs_is_of_it():
    from odc.geo.geom import Geometry

    box = shapely.box(500_000, 7_190_000, 510_000, 7_200_000)
    frame = geopandas.GeoDataFrame(geometry=[box], crs="EPSG:32605")
    expected = area_of(None, frame)
    for one in (Geometry(box, "EPSG:32605"), json.loads(frame.to_json())):
        assert area_of(None, one).symmetric_difference(expected).area < 1e-9
    empty = {"type": "Feature", "properties": {}, "geometry": None}
    other = frame.to_crs(4326).to_json()
    both = json.loads(other)
    both["features"].append(empty)
    assert area_of(None, both).symmetric_difference(area_of(None, json.loads(other))).area < 1e-9
    with pytest.raises(CatalogError, match="of the GeoJSON cannot be read"):
        area_of(None, json.loads(other) | {"crs": {"type": "name", "properties": {"name": "Mars"}}})


@pytest.mark.parametrize("crs", [5773, 4978])
def test_a_crs_without_a_map_is_refused(crs):
    with pytest.raises(GridError, match="is no map's"):
        target_grid([], shapely.box(0, 0, 1, 1), crs, 10)


def test_a_crs_that_is_of_another_body_is_refused():
    with pytest.raises(GridError, match="No transformation leads from IAU_2015:30100 to EPSG:4326"):
        transformer("IAU_2015:30100", "EPSG:4326")


def test_metres_without_a_crs_are_no_degrees():
    with pytest.raises(CatalogError, match="carries no CRS, and its bounds .* are no degrees; give a GeoSeries"):
        area_of(None, shapely.box(500_000, 7_190_000, 510_000, 7_200_000))
