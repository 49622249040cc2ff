"""Tiles of a web map hold the nearest pixels of any grid, across 180 degrees and in any direction of rows."""

import numpy as np
import pyproj
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.transform import from_origin
from rasterio.warp import Resampling, reproject

from misoxr.errors import GridError
from misoxr.explorer import tiles
from misoxr.explorer.tiles import SIDE, Ground, Tile

HALF = np.pi * 6_378_137.0
GRIDS = {
    "Alaska": (GeoBox((300, 400), Affine(200, 0, 300_000, 0, -200, 1_500_000), "EPSG:3338"), (-146.9, 63.0)),
    "south up": (GeoBox((300, 400), Affine(200, 0, 300_000, 0, 200, 1_440_000), "EPSG:3338"), (-146.9, 63.0)),
    "degrees": (GeoBox((300, 400), Affine(0.01, 0, -150, 0, -0.01, 66), "EPSG:4326"), (-148.0, 64.5)),
    "east to west": (GeoBox((300, 400), Affine(-0.01, 0, -146, 0, -0.01, 66), "EPSG:4326"), (-148.0, 64.5)),
    "UTM": (GeoBox((300, 400), Affine(200, 0, 450_000, 0, -200, 7_200_000), "EPSG:32606"), (-146.6, 64.6)),
    "polar": (GeoBox((400, 400), Affine(20_000, 0, -4_000_000, 0, -20_000, 4_000_000), "EPSG:3413"), (-150.0, 70.0)),
}


def tile_at(lon, lat, zoom):
    """The tile that holds a place, by the formula of the OpenStreetMap wiki."""
    across = 2**zoom
    column = int((lon + 180) / 360 * across)
    return Tile(zoom, column, int((1 - np.arcsinh(np.tan(np.radians(lat))) / np.pi) / 2 * across))


def nearest(box, tile):
    """The number of the nearest pixel by GDAL, -1 outside."""
    size = 2 * HALF / 2**tile.zoom / SIDE
    there = from_origin(tile.column * SIDE * size - HALF, HALF - tile.row * SIDE * size, size, size)
    numbers = np.arange(box.shape.y * box.shape.x, dtype="int32").reshape(box.shape)
    out = np.full((SIDE, SIDE), -1, "int32")
    target = {"dst_transform": there, "dst_crs": "EPSG:3857", "dst_nodata": -1}
    reproject(numbers, out, src_transform=box.affine, src_crs=str(box.crs), src_nodata=-2, resampling=Resampling.nearest, **target)
    return out


@pytest.mark.parametrize("zoom", [4, 7, 9, 13])
@pytest.mark.parametrize("name", GRIDS)
def test_a_tile_holds_the_nearest_pixels(name, zoom):
    box, place = GRIDS[name]
    tile = tile_at(*place, zoom)
    rows, columns = Ground(box).under(tile)
    ours = np.where(np.isfinite(rows), np.floor(np.nan_to_num(rows)) * box.shape.x + np.floor(np.nan_to_num(columns)), -1)
    theirs = nearest(box, tile)
    assert (theirs >= 0).mean() > 0.0001
    differing = ours != theirs
    # Our positions are right to a tenth of a pixel, and GDAL's to an eighth: what differs lies as near to a pixel's edge.
    edge = np.minimum(np.abs(rows - np.round(rows)), np.abs(columns - np.round(columns)))
    near = np.where(np.isfinite(edge), edge, 0) <= 0.125
    assert not (differing & ~near).any()
    assert differing.mean() < 0.05


def test_positions_are_interpolated_to_a_tenth_of_a_pixel(monkeypatch):
    box, place = GRIDS["Alaska"]
    exact, taken = {}, 0
    for zoom in range(3, 15):
        tile = tile_at(*place, zoom)
        found = tiles._interpolated(box, tile)
        exact[zoom] = tiles._transformed(box, "EPSG:3857", *np.meshgrid(*tile.mercator(SIDE, edges=False)))
        if found is not None:
            taken += 1
            assert max(np.abs(one - other).max() for one, other in zip(found, exact[zoom], strict=True)) < tiles.OFF
    assert 3 <= taken < len(exact)  # where a tile is as wide as Alaska it is not good enough


@pytest.mark.parametrize(("west", "places"), [(170.0, (-178.0, 175.0)), (-190.0, (-178.0, 175.0)), (530.0, (-178.0, 175.0))])
def test_a_grid_in_degrees_across_180_is_drawn_on_both_sides(west, places):
    box = GeoBox((200, 400), Affine(0.05, 0, west, 0, -0.05, 60), "EPSG:4326")
    ground = Ground(box)
    for place in places:
        tile = tile_at(place, 55.0, 8)
        rows, columns = ground.under(tile)
        x, y = tile.mercator(SIDE, edges=False)
        lon, lat = pyproj.Transformer.from_crs("EPSG:3857", "EPSG:4326", always_xy=True).transform(*np.meshgrid(x, y))
        np.testing.assert_allclose(columns, (lon - west) % 360 / 0.05, atol=1e-6)
        np.testing.assert_allclose(rows, (60 - lat) / 0.05, atol=1e-3)
    bounds = ground.bounds
    assert (bounds[0] % 360, *bounds[1:]) == pytest.approx((170, 50, bounds[0] + 20, 60))
    assert -190 <= bounds[0] <= 170
    assert np.isnan(ground.under(tile_at(0.0, 55.0, 8))[0]).all()


def test_the_aleutians_in_albers_lie_side_by_side():
    box = GeoBox((100, 400), Affine(5_000, 0, -2_400_000, 0, -5_000, 800_000), "EPSG:3338")
    west, south, east, north = Ground(box).bounds
    assert west < -180 < east
    assert east - west < 60
    for lon in (-178.0, 178.5):
        tile = tile_at(lon, 51.9, 7)
        assert (nearest(box, tile) >= 0).any()
        assert np.isfinite(Ground(box).under(tile)[0]).any()


def test_a_map_is_not_drawn_on_the_other_side_of_the_earth():
    box, _ = GRIDS["UTM"]
    drawn = [
        (column, row) for column in range(16) for row in range(16) if np.isfinite(Ground(box).under(Tile(4, column, row))[0]).any()
    ]
    assert drawn == [(tile := tile_at(-146.6, 64.6, 4)).column and (tile.column, tile.row)]


def test_a_grid_around_the_pole_takes_the_whole_circle():
    west, south, east, north = Ground(GRIDS["polar"][0]).bounds
    assert (west, east) == (-180, 180)
    assert north == pytest.approx(85.0511, abs=1e-3)
    assert south < 60


def test_scale_and_zoom_fit_the_pixels():
    ground = Ground(GRIDS["Alaska"][0])
    zoom = ground.fitting()
    assert 0.5 < ground.scale(zoom)[0] <= 1.01
    assert ground.scale(zoom - 3)[0] == pytest.approx(8 * ground.scale(zoom)[0], rel=0.01)
    # At 63 degrees north, a pixel of web Mercator is smaller on the ground by the cosine of the latitude.
    assert ground.scale(10)[1] == pytest.approx(Tile(10, 0, 0).pixel * np.cos(np.radians(63.2)) / 200, rel=0.02)


def test_places_and_pixels_agree():
    box, (lon, lat) = GRIDS["south up"]
    x, y = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:3338", always_xy=True).transform(lon, lat)
    ground = Ground(box)
    assert ground.place(lon, lat) == pytest.approx((x, y))
    assert ground.at(lon, lat) == pytest.approx(((y - 1_440_000) / 200, (x - 300_000) / 200))


def test_a_grid_that_lies_nowhere_is_refused():
    box = GeoBox((10, 10), Affine(1e9, 0, 1e12, 0, -1e9, 1e12), "EPSG:3338")
    with pytest.raises(GridError, match="nowhere on the Earth"):
        Ground(box).bounds  # noqa: B018
