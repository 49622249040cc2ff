"""Where a block's pixels come from, either side of 180 degrees and of Greenwich; reading itself is tested in test_assets.py."""

from pathlib import Path

import numpy as np
import pyproj
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from misoxr.assets.read import Asset, Reader
from misoxr.assets.sampling import sampling_of, stretches
from misoxr.sensors.decoding import Encoding
from tests.stac_scenes import write_cog

DEGREES = pyproj.CRS("EPSG:4326").to_wkt()
ALEUTIANS = GeoBox((40, 60), Affine(1000, 0, -1_790_000, 0, -1000, 600_000), "EPSG:3338")
LONDON = GeoBox((40, 60), Affine(1000, 0, 680_000, 0, -1000, 5_730_000), "EPSG:32630")
POLE = GeoBox((40, 60), Affine(5000, 0, -150_000, 0, -5000, 100_000), "EPSG:3413")
REFLECTANCE = Encoding(scale=1e-4, offset=0.0, nodata=(0.0,))
GRIDS = {"Aleutians": ALEUTIANS, "London": LONDON, "pole": POLE}


def positions(grid: GeoBox, crs: str = "EPSG:4326") -> tuple[np.ndarray, np.ndarray]:
    x = grid.affine.c + grid.affine.a * (np.arange(grid.shape.x) + 0.5)
    y = grid.affine.f + grid.affine.e * (np.arange(grid.shape.y) + 0.5)
    return pyproj.Transformer.from_crs(grid.crs, crs, always_xy=True).transform(*np.meshgrid(x, y))


@given(st.integers(-50, 50), st.integers(0, 60), st.integers(1, 20))
def test_stretches_are_the_columns_of_the_circle(first, count, width):
    columns = np.concatenate([[], *(np.arange(*part) for part in stretches(first, first + count, width))])
    np.testing.assert_array_equal(columns, np.arange(first, first + count) % width)


@settings(max_examples=200, deadline=None)
@given(
    grid=st.sampled_from(list(GRIDS.values())),
    start=st.integers(-720, 720),
    pixel=st.sampled_from([0.05, 0.1, 0.25]),
    part=st.tuples(st.integers(0, 39), st.integers(0, 59)),
)
def test_each_pixel_comes_from_its_own_place(grid, start, pixel, part):
    """Of a raster that goes round from any longitude: the column that holds the exact position, at most a thousandth beside it."""
    width = round(360 / pixel)
    transform, shape = Affine(pixel, 0, start, 0, -pixel, 90), (round(60 / pixel), width)
    block = grid[part[0] : part[0] + 20, part[1] : part[1] + 20]
    sampling = sampling_of(block, grid, DEGREES, transform, shape)
    longitude, latitude = positions(block)
    size = pixel * sampling.shrink
    rows, columns = ((90 - latitude) / size, (longitude - start) / size)
    found_rows = sampling.window.rows[0] / sampling.shrink + sampling.rows + 0.5
    found_columns = sampling.window.columns[0] / sampling.shrink + sampling.columns + 0.5
    turn = width / sampling.shrink
    beside = np.abs(np.remainder(found_columns - columns + turn / 2, turn) - turn / 2)
    assert sampling.inside.all()
    assert np.abs(found_rows - rows).max() < 0.502
    assert beside.max() < 0.502
    if grid is not POLE:
        assert np.diff(sampling.window.columns) < 70  # never all round the Earth


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[float, Asset]:
    """The same counts in half degrees, in files that begin at several longitudes."""
    directory = tmp_path_factory.mktemp("worlds")
    values = np.random.default_rng(0).integers(1000, 5000, (360, 720)).astype("uint16")
    values[60:70, 712:718] = 0
    found = {}
    for west in (-180.0, 0.0, 100.0, 180.0, 300.0):
        path = Path(directory) / f"{west:g}.tif"
        write_cog(path, np.roll(values, -int(2 * west), axis=1), Affine(0.5, 0, west, 0, -0.5, 90), "EPSG:4326")
        found[west] = Asset("item", "red", str(path), root=str(directory), encoding=REFLECTANCE)
    return found


@pytest.mark.parametrize("name", [*GRIDS, "degrees", "degrees of 0..360", "coarse", "all"])
def test_a_raster_of_the_whole_earth_reads_the_same_from_wherever_it_begins(worlds, name):
    grid = {
        **GRIDS,
        "degrees": GeoBox((40, 60), Affine(0.3, 0, -9, 0, -0.3, 60), "EPSG:4326"),
        "degrees of 0..360": GeoBox((40, 60), Affine(0.3, 0, 351, 0, -0.3, 60), "EPSG:4326"),
        "coarse": GeoBox((8, 12), Affine(1.6, 0, 171, 0, -1.6, 60), "EPSG:4326"),  # three pixels are averaged
        "all": GeoBox((20, 90), Affine(4.0, 0, -180, 0, -4.0, 60), "EPSG:4326"),
    }[name]
    read = {}
    for west, asset in worlds.items():
        with Reader(grid) as reader:
            read[west] = reader.read(asset)
    assert np.isfinite(read[0.0]).mean() > 0.9
    for west, values in read.items():
        np.testing.assert_allclose(values, read[0.0], rtol=1e-5, err_msg=str(west))
    height, width = grid.shape
    for west, asset in worlds.items():
        for block in (np.s_[: height // 2, : width // 2], np.s_[height // 3 :, width // 2 - 3 : width // 2 + 4]):
            with Reader(grid[block], whole=grid) as reader:
                np.testing.assert_allclose(reader.read(asset), read[west][block], rtol=2e-7)


def test_clouds_grow_across_the_seam(tmp_path):
    classes = np.full((40, 360), 4, dtype="uint8")
    classes[10:20, 355:] = 9  # up to the raster's eastern edge
    read = []
    for west, values in ((-180.0, classes), (-100.0, np.roll(classes, -80, axis=1))):
        path = tmp_path / f"{west:g}.tif"
        write_cog(path, values, Affine(1, 0, west, 0, -1, 60), "EPSG:4326", nodata=None)
        with Reader(GeoBox((40, 30), Affine(1, 0, 170, 0, -1, 60), "EPSG:4326")) as reader:
            read.append(reader.read(Asset("item", "clear", str(path), root=str(tmp_path), kind="clear")))
    np.testing.assert_array_equal(*read)
    assert (read[0][15, 10:12] == 0).all()  # two pixels over


@pytest.mark.parametrize("crs", ["EPSG:6933", "ESRI:54008"], ids=["EASE-Grid", "sinusoidal"])
def test_projections_of_the_whole_earth_have_no_seam(tmp_path, crs):
    """Between positions either side of the projection's edge nothing is interpolated through its middle."""
    transform, shape = Affine(5000, 0, -20_020_000, 0, -5000, 7_000_000), (300, 8008)
    x = transform.c + transform.a * (np.arange(shape[1]) + 0.5)
    write_cog(tmp_path / "a.tif", np.broadcast_to(np.where(np.abs(x) > 9e6, 2000, 500), shape).astype("uint16"), transform, crs)
    grid = GeoBox((40, 60), ALEUTIANS.affine, "EPSG:3338")
    with Reader(grid) as reader:
        values = reader.read(Asset("item", "red", str(tmp_path / "a.tif"), root=str(tmp_path), encoding=REFLECTANCE))
    longitude, latitude = positions(grid)
    if crs == "EPSG:6933":
        assert np.isfinite(values).all()
    np.testing.assert_allclose(values[np.isfinite(values)], 0.2, rtol=1e-5)
