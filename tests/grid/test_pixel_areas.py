"""True areas of pixels, against polygons on the ellipsoid."""

from dataclasses import replace

import numpy as np
import pyproj
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from misoxr.errors import GridError
from misoxr.grid.pixel_areas import PARTS, PixelAreas

SHAPE = (1000, 1000)
GRIDS = {
    "Albers": ("EPSG:3338", Affine(30, 0, 300_000, 0, -30, 1_500_000)),
    "web Mercator": ("EPSG:3857", Affine(30, 0, -16_500_000, 0, -30, 9_500_000)),
    "web Mercator, coarse": ("EPSG:3857", Affine(1000, 0, -16_500_000, 0, -1000, 10_500_000)),
    "degrees": ("EPSG:4326", Affine(0.05, 0, 170, 0, -0.05, 80)),
    "degrees, from the south": ("EPSG:4326", Affine(0.001, 0, -150, 0, 0.001, 67)),
    "other ellipsoid": ("EPSG:4267", Affine(0.001, 0, -150, 0, -0.001, 68)),
    "UTM": ("EPSG:32606", Affine(30, 0, 400_000, 0, -30, 7_200_000)),
    "feet": ("EPSG:2263", Affine(100, 0, 900_000, 0, -100, 250_000)),
    "polar": ("EPSG:3413", Affine(300, 0, -1_500_000, 0, -300, -500_000)),
}


def on_the_ellipsoid(crs, affine, row, column):
    """Return the area of a pixel whose edges are followed in small steps."""
    steps = np.linspace(0, 1, 40, endpoint=False)
    one, none = np.ones(40), np.zeros(40)
    x = affine.c + affine.a * (column + np.concatenate([steps, one, 1 - steps, none]))
    y = affine.f + affine.e * (row + np.concatenate([none, steps, one, 1 - steps]))
    degrees = pyproj.Transformer.from_crs(crs, pyproj.CRS(crs).geodetic_crs, always_xy=True).transform(x, y)
    return abs(pyproj.CRS(crs).get_geod().polygon_area_perimeter(*degrees)[0])


@pytest.mark.parametrize("name", GRIDS)
def test_areas_are_those_on_the_ellipsoid(name):
    crs, affine = GRIDS[name]
    areas = PixelAreas.of(GeoBox(SHAPE, affine, crs))
    rows, columns = np.array([(10, 10), (500, 700), (900, 100)]).T
    expected = [on_the_ellipsoid(crs, affine, row, column) for row, column in zip(rows, columns, strict=True)]
    np.testing.assert_allclose(areas.at(rows, columns), expected, rtol=1e-6)
    whole = areas.parts(np.arange(SHAPE[0])[:, None], np.arange(SHAPE[1])[None])
    np.testing.assert_allclose(areas.metres(whole[rows, columns]), expected, rtol=1e-6)
    assert (whole == np.rint(whole)).all()
    assert whole.max() <= PARTS
    assert areas.even == (name == "Albers")


POLES = {
    "EPSG:3031, 30 m": ("EPSG:3031", 30),
    "EPSG:3031, 500 m": ("EPSG:3031", 500),
    "EPSG:3031, 1 km": ("EPSG:3031", 1000),
    "EPSG:3413, 300 m": ("EPSG:3413", 300),
    "EPSG:3413, 25 km": ("EPSG:3413", 25_000),
}


@pytest.mark.parametrize("name", POLES)
def test_areas_around_a_pole_are_those_on_the_ellipsoid(name):
    crs, size = POLES[name]
    affine = Affine(size, 0, -50 * size, 0, -size, 50 * size)
    areas = PixelAreas.of(GeoBox((100, 100), affine, crs))
    rows, columns = np.array([(49, 49), (50, 50), (50, 51), (47, 50), (10, 90)]).T
    expected = [on_the_ellipsoid(crs, affine, row, column) for row, column in zip(rows, columns, strict=True)]
    whole = areas.at(np.arange(100)[:, None], np.arange(100)[None])
    # The polygons themselves are known to some cm2.
    np.testing.assert_allclose(areas.at(rows, columns), expected, rtol=2e-7, atol=0.01)
    np.testing.assert_allclose(whole[rows, columns], expected, rtol=2e-7, atol=0.01)


@pytest.mark.parametrize(("crs", "size"), [("EPSG:6931", 25_000), ("EPSG:6932", 25_000), ("EPSG:8857", 100_000)])
def test_an_equal_area_grid_is_even_with_a_pole_and_with_corners_beyond_the_earth(crs, size):
    count = 18_000_000 // size
    areas = PixelAreas.of(GeoBox((count, count), Affine(size, 0, -9_000_000, 0, -size, 9_000_000), crs))
    assert areas.even
    assert areas.at([0, count // 2], [count // 2] * 2) == pytest.approx(size**2, rel=1e-12)


def test_an_equal_area_projection_of_the_sphere_is_not_even_on_the_ellipsoid():
    areas = PixelAreas.of(GeoBox((180, 360), Affine(100_000, 0, -18_000_000, 0, -100_000, 9_000_000), "ESRI:54009"))
    assert not areas.even


def test_the_cuts_of_an_interrupted_map_distort_no_area():
    size, sphere = 1_000, "+proj=igh +R=6371007.181 +type=crs"
    cut = pyproj.Transformer.from_crs("+proj=longlat +R=6371007.181", sphere, always_xy=True).transform(-40 + 1e-9, 0.5)[0]
    geobox = GeoBox((20, 200), Affine(size, 0, cut - 100_300, 0, -size, 70_000), sphere)
    areas = PixelAreas.of(geobox)
    assert areas.even
    found = replace(areas, even=False).at(np.arange(20)[:, None], np.arange(200)[None])
    np.testing.assert_allclose(found[np.isfinite(found)], size**2, rtol=1e-5)


@pytest.mark.parametrize("size", [500, 10_000])
def test_every_pixel_on_earth_has_an_area_also_at_the_edge_of_a_world_map(size):
    affine = Affine(size, 0, -17_050_000, 0, -size, 50 * size)
    areas = PixelAreas.of(GeoBox((100, 100), affine, "ESRI:54030"))
    rows, columns = np.indices((100, 100)) + 0.5
    back = pyproj.Transformer.from_crs("ESRI:54030", "EPSG:4326", always_xy=True)
    longitude, _ = back.transform(affine.c + size * columns, affine.f - size * rows)
    whole = areas.at(np.arange(100)[:, None], np.arange(100)[None])
    np.testing.assert_array_equal(np.isfinite(whole), np.isfinite(longitude))
    assert 0 < np.isnan(whole).mean() < 1
    row, column = 30, int(np.argmax(np.isfinite(whole[30])))
    expected = on_the_ellipsoid("ESRI:54030", affine, row, column + 1)
    assert whole[row, column : column + 2] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["web Mercator", "degrees", "polar"])
def test_a_block_has_the_areas_of_the_whole(name):
    crs, affine = GRIDS[name]
    areas = PixelAreas.of(GeoBox(SHAPE, affine, crs))
    whole = areas.parts(np.arange(SHAPE[0])[:, None], np.arange(SHAPE[1])[None])
    block = areas.parts(np.arange(130, 400)[:, None], np.arange(77, 78)[None])
    np.testing.assert_array_equal(block, np.broadcast_to(whole[130:400, 77:78], block.shape))


def test_a_globe_has_the_area_of_the_ellipsoid():
    areas = PixelAreas.of(GeoBox((180, 360), Affine(1, 0, -180, 0, -1, 90), "EPSG:4326"))
    parts = areas.parts(np.arange(180)[:, None], np.arange(360)[None])
    assert float(areas.metres(int(parts.sum()))) == pytest.approx(5.10065621724e14, rel=1e-9)


def test_a_grid_beyond_the_earth_is_refused():
    with pytest.raises(GridError, match="No pixel of the grid lies on Earth"):
        PixelAreas.of(GeoBox((10, 10), Affine(1, 0, 0, 0, -1, 120), "EPSG:4326"))
