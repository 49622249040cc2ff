"""Rasters on grids either side of 180 degrees and of Greenwich; what else resampling does is in test_cube.py."""

from functools import cache

import dask
import numpy as np
import pyproj
import pytest
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from misoxr.cube.join import add
from misoxr.grid.geobox import assign
from misoxr.grid.resample import on_grid

RESAMPLINGS = ("nearest", "bilinear", "average")


def raster(
    values: np.ndarray, west: float, size: float, *, tall: float | None = None, north: float = 60.0, chunk: int | None = None
) -> xr.DataArray:
    """A raster in degrees."""
    box = GeoBox(values.shape, Affine(size, 0, west, 0, -(tall or size), north), "EPSG:4326")
    array: xr.DataArray = assign(xr.DataArray(values.astype("float32"), dims=("y", "x"), attrs={"units": "1"}), box)
    return array if chunk is None else array.chunk({"y": 7, "x": chunk})


def noise(shape: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1, 2, shape).astype("float32")


@cache
def found_at_home(seed: int, pixel: float, offset: float, method: str) -> tuple[np.ndarray, np.ndarray]:
    """A raster that goes round in columns of 5 degrees, from 0, and what a grid east of 40 degrees gets of it."""
    values = noise((8, 72), seed)
    values[2:4, 10:14] = np.nan
    grid = GeoBox((6, 9), Affine(pixel, 0, 40.0 + offset, 0, -3.0, 55.0), "EPSG:4326")
    return values, on_grid(raster(values, 0.0, 5.0), grid, method, (20, 40)).values


@settings(max_examples=200, deadline=None)
@given(
    home=st.tuples(
        st.integers(0, 2), st.sampled_from([1.25, 5.0, 12.0]), st.sampled_from([0.0, 0.3, 2.5]), st.sampled_from(RESAMPLINGS)
    ),
    first=st.integers(0, 71),
    turns=st.tuples(st.integers(-2, 2), st.integers(-2, 2)),
    place=st.integers(0, 71),
    chunk=st.sampled_from([None, 5, 24, 72]),
    chunks=st.sampled_from([(4, 3), (20, 40)]),
)
def test_a_raster_round_the_earth_has_no_seam(home, first, turns, place, chunk, chunks):
    """Where its columns begin, in which turn, and how it is chunked changes nothing; nor does turning all of it with the grid."""
    values, expected = found_at_home(*home)
    assert np.isfinite(expected).mean() > 0.4
    _, pixel, offset, method = home
    grid = GeoBox((6, 9), Affine(pixel, 0, 40.0 + offset + 5.0 * place + 360 * turns[0], 0, -3.0, 55.0), "EPSG:4326")
    turned = raster(np.roll(values, place - first, axis=1), 5.0 * first + 360 * turns[1], 5.0, chunk=chunk)
    with dask.config.set(scheduler="synchronous"):
        np.testing.assert_allclose(on_grid(turned, grid, method, chunks).values, expected, rtol=1e-6)


@settings(max_examples=200, deadline=None)
@given(
    west=st.floats(-180, 180).map(lambda value: round(value, 3)),
    turns=st.tuples(st.integers(-2, 2), st.integers(-2, 2)),
    method=st.sampled_from(RESAMPLINGS),
)
def test_a_raster_of_a_part_lies_where_it_lies_in_any_turn(west, turns, method):
    found = []
    for ours, theirs in ((5.0, 5.0), (west + 360 * turns[0], west + 360 * turns[1])):
        grid = GeoBox((6, 9), Affine(1.3, 0, ours, 0, -3.0, 55.0), "EPSG:4326")
        with dask.config.set(scheduler="synchronous"):
            found.append(on_grid(raster(noise((8, 20), 1), theirs - 0.91, 0.6, north=57.0, tall=2.5), grid, method, (4, 9)).values)
    np.testing.assert_array_equal(*map(np.isnan, found))
    np.testing.assert_allclose(*found, rtol=1e-5)


ALEUTIANS = GeoBox((12, 20), Affine(4000, 0, -1_820_000, 0, -4000, 640_000), "EPSG:3338")
"""Across 180 degrees."""
LONDON = GeoBox((12, 20), Affine(4000, 0, -40_000 + 708_000, 0, -4000, 5_760_000), "EPSG:32630")
"""Across Greenwich."""
POLE = GeoBox((20, 20), Affine(20_000, 0, -200_000, 0, -20_000, 200_000), "EPSG:3413")


@pytest.mark.parametrize("grid", [ALEUTIANS, LONDON, POLE], ids=["Aleutians", "London", "pole"])
@pytest.mark.parametrize("method", RESAMPLINGS)
@pytest.mark.parametrize("west", [-180.0, 0.0, -0.125])
def test_climate_of_the_whole_earth_has_no_gap(grid, method, west):
    """ERA5's longitudes are 0..359.75, the centres of pixels from -0.125 to 359.875."""
    x = grid.affine.c + grid.affine.a * (np.arange(grid.shape.x) + 0.5)
    y = grid.affine.f + grid.affine.e * (np.arange(grid.shape.y) + 0.5)
    longitude, latitude = pyproj.Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True).transform(*np.meshgrid(x, y))
    north = 90.0 if grid is POLE else np.ceil(latitude.max() + 1)
    centres = west + 0.25 * (np.arange(1440) + 0.5)
    waves = np.broadcast_to(np.sin(np.deg2rad(centres)), (int(4 * (north - latitude.min() + 1)), 1440))
    image = assign(xr.Dataset({"red": (("y", "x"), np.zeros(grid.shape, "float32"))}), grid)
    wave = add(image, method, wave=raster(waves, west, 0.25, north=north, chunk=400))["wave"].values
    assert np.isfinite(wave).all()
    far = np.hypot(*np.meshgrid(x, y)) > 80_000  # a pixel at the pole holds all longitudes
    np.testing.assert_allclose(wave[far], np.sin(np.deg2rad(longitude))[far], atol=0.15 if grid is POLE else 0.005)


def test_a_projection_of_the_whole_earth_has_no_seam_either():
    """EASE-Grid 2.0, whose x is a longitude in metres."""
    turn = 34735060.890322745
    size = turn / 1440
    box = GeoBox((60, 1440), Affine(size, 0, -turn / 2, 0, -size, 7_000_000), "EPSG:6933")
    centres = 360 * (np.arange(1440) + 0.5) / 1440 - 180
    values = np.broadcast_to(np.cos(np.deg2rad(centres)), box.shape).astype("float32")
    world = assign(xr.DataArray(values, dims=("y", "x"), attrs={"units": "1"}), box)
    for method in RESAMPLINGS:
        wave = on_grid(world, ALEUTIANS, method, (5, 7)).values
        np.testing.assert_allclose(wave, -1, atol=1e-3)


def test_a_gap_of_the_circle_stays_one():
    """A raster of 350 degrees: a pixel over the gap is not the mean of what lies between its ends the long way round."""
    values = np.ones((8, 70))
    values[:, 30:40] = 100  # the raster's middle, opposite to the gap
    grid = GeoBox((4, 6), Affine(8.0, 0, 156.0, 0, -3, 55.0), "EPSG:4326")
    for west in (-175.0, 185.0, -535.0):
        found = on_grid(raster(values, west, 5.0), grid, "average", (4, 6)).values
        assert np.nanmax(found) == 1
        assert np.isfinite(found[:, [0, 1, 4, 5]]).all()


@pytest.mark.parametrize("method", RESAMPLINGS)
def test_what_is_infinite_is_a_gap(method):
    values = noise((12, 12), 5)
    values[4, 5], values[8, 3] = np.inf, -np.inf
    grid = GeoBox((9, 9), Affine(1.1 if method != "average" else 2.2, 0, 10.7, 0, -1.1, 59.0), "EPSG:4326")
    gaps = np.where(np.isinf(values), np.nan, values)
    found, expected = (on_grid(raster(some, 10, 1.0, chunk=7), grid, method, (5, 5)).values for some in (values, gaps))
    assert np.isfinite(expected).any()
    np.testing.assert_array_equal(found, expected)
