"""Terrain of a DEM: equal to SAGA's, to a plain least-squares fit, and for any chunks; and what DEMs are in the field."""

from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pyproj
import pytest
import rioxarray
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from misoxr.covariates import Moments, position_moments, terrain
from misoxr.errors import AssetError, BandError, GridError, MisoxrWarning, SpecError
from misoxr.grid.geobox import assign, geobox_of, same_grid

GOLDEN = Path(__file__).parents[1] / "data" / "terrain_golden.npz"
SAGA = {
    "slope": "slope_deg",
    "max_curvature": "max_curvature",
    "min_curvature": "min_curvature",
    "profile_curvature": "profile_curvature",
    "position_index": "tpi",
    "topographic_position_index": "tpi_multiscale",
}
QUADRIC = ("slope", "aspect", "max_curvature", "min_curvature", "profile_curvature")
POSITION = ("position_index", "topographic_position_index")
UNITS = {
    "elevation": "m",
    "slope": "degree",
    "aspect": "degree",
    "max_curvature": "m-1",
    "min_curvature": "m-1",
    "profile_curvature": "m-1",
    "position_index": "m",
    "topographic_position_index": "1",
}


def dem(z, size=(10.0, 10.0), crs="EPSG:3338", **attrs):
    """Make a DEM of rows that run south, with cells of some height and width."""
    z = np.asarray(z)
    box = GeoBox(z.shape, Affine(size[1], 0, 300_000, 0, -size[0], 1_500_000), crs)
    return assign(xr.DataArray(z, dims=("y", "x"), attrs={"units": "m", **attrs}), box)


def hills(shape=(40, 50), seed=0, base=0.0, dtype="float32"):
    """Smooth hills with some noise, m."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    rough = np.random.default_rng(seed).standard_normal(shape)
    return (base + 40 * np.sin(x / 9) * np.cos(y / 7) + 3 * x - 2 * y + rough).astype(dtype)


def fitted(z, radius, height, width):
    """Return what a plain least-squares fit says of each cell whose window is whole: (variable, y, x) in the order of QUADRIC."""
    at = np.arange(-radius, radius + 1)
    north, east = np.meshgrid(-at * height, at * width, indexing="ij")
    x, y = east.ravel(), north.ravel()
    design = np.stack([x**2, y**2, x * y, x, y, np.ones_like(x)], axis=1)
    out = np.full((5, *z.shape), np.nan)
    for row in range(radius, z.shape[0] - radius):
        for column in range(radius, z.shape[1] - radius):
            window = z[row - radius : row + radius + 1, column - radius : column + radius + 1].astype("float64")
            if not np.isfinite(window).all():
                continue
            (a, b, k, d, e, _), *_ = np.linalg.lstsq(design, window.ravel() - window[radius, radius], rcond=None)
            root, steep = np.sqrt((a - b) ** 2 + k**2), d**2 + e**2
            out[:, row, column] = (
                np.degrees(np.arctan(np.sqrt(steep))),
                np.degrees(np.arctan2(-d, -e)) % 360,
                -(a + b) + root,
                -(a + b) - root,
                -2 * (a * d**2 + b * e**2 + k * d * e) / (steep * (1 + steep) ** 1.5),
            )
    return out


def positioned(z, radius):
    """Return cells less the mean of the disc around them, by going through it cell by cell."""
    out = np.full(z.shape, np.nan)
    for row, column in zip(*np.nonzero(np.isfinite(z)), strict=True):
        disc = [
            float(z[row + i, column + j])
            for i in range(-radius, radius + 1)
            for j in range(-radius, radius + 1)
            if i * i + j * j <= radius * radius and 0 <= row + i < z.shape[0] and 0 <= column + j < z.shape[1]
        ]
        out[row, column] = float(z[row, column]) - np.nanmean(disc)
    return out


def multi_scale(small, large):
    small, large = ((scale - np.nanmean(scale)) / np.nanstd(scale) for scale in (small, large))
    return np.where(np.abs(small) > np.abs(large), small, large)


def assert_near(found, expected, share=1e-5):
    """Assert that values are within a share of the expected ones' spread, and missing in the same places."""
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=share * np.nanstd(expected))


def assert_same_direction(found, expected, within):
    np.testing.assert_allclose((np.asarray(found) - expected + 180) % 360, 180, atol=within)


# --- what SAGA computes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, 64, (37, 200)], ids=str)
def test_it_equals_saga(chunks):
    with np.load(GOLDEN) as golden:
        saga = dict(golden)
    z = saga["dem"]
    source = dem(z, (float(saga["cell"]),) * 2)
    out = terrain(source if chunks is None else source.chunk(dict(zip("yx", np.broadcast_to(chunks, 2).tolist(), strict=True))))
    out = out.compute()
    whole = np.lib.stride_tricks.sliding_window_view(np.pad(np.isfinite(z), 4), (9, 9)).all((2, 3))
    for name, theirs in SAGA.items():
        found, expected = out[name].values, saga[theirs]
        both = np.isfinite(found) & np.isfinite(expected)
        np.testing.assert_allclose(found[both], expected[both], rtol=0, atol=1e-4 * np.nanstd(expected), err_msg=name)
    steep = whole & (saga["slope_deg"] > 0.1)
    assert_same_direction(out.aspect.values[steep], saga["aspect_deg"][steep], 0.01)
    for name in QUADRIC:
        np.testing.assert_array_equal(np.isfinite(out[name]), whole)
    for name in ("elevation", *POSITION):
        np.testing.assert_array_equal(np.isfinite(out[name]), np.isfinite(z))


def test_variables_have_their_names_units_and_grid():
    source = dem(hills()).chunk(20)
    out = terrain(source)
    assert {name: array.attrs["units"] for name, array in out.data_vars.items()} == UNITS
    assert {array.dtype.name for array in out.data_vars.values()} == {"float32"}
    assert same_grid(geobox_of(out), geobox_of(source))
    assert "spatial_ref" in out.coords


# --- other DEMs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size", "radius", "base"),
    [
        ((23, 31), (10.0, 10.0), 4, 0.0),
        ((12, 17), (2.0, 2.0), 1, 4321.0),
        ((19, 16), (30.0, 20.0), 3, 100.0),
        ((9, 9), (5.0, 5.0), 4, 0.0),
    ],
    ids=["plain", "high", "oblong", "one window"],
)
@pytest.mark.parametrize("up", [False, True], ids=["descending", "ascending"])
def test_it_equals_a_least_squares_fit(shape, size, radius, base, up):
    z = hills(shape, 1, base)
    z[0, 3] = z[shape[0] // 2, -1] = np.nan
    source = dem(z, size)
    out = terrain(source.sortby("y") if up else source, radius=radius).sortby("y", ascending=False).compute()
    for name, expected in zip(QUADRIC, fitted(z, radius, *size), strict=True):
        if name == "aspect":
            whole = np.isfinite(expected)
            np.testing.assert_array_equal(np.isfinite(out.aspect), whole)
            assert_same_direction(out.aspect.values[whole], expected[whole], 0.01)
        elif np.isfinite(expected).sum() > 1:
            assert_near(out[name], expected, 2e-5)
        else:
            np.testing.assert_allclose(out[name], expected, rtol=1e-4)
    small, large = positioned(z, 1), positioned(z, radius)
    assert_near(out.position_index, large)
    assert_near(out.topographic_position_index, multi_scale(small, large))


def test_columns_may_run_west():
    source = dem(hills())
    mirrored = terrain(source.sortby("x", ascending=False)).sortby("x")
    xr.testing.assert_allclose(mirrored.compute(), terrain(source).compute(), atol=1e-5)


def test_directions_and_bends_are_those_of_known_surfaces():
    y, x = np.mgrid[:15, :15] * 10.0
    down_east = terrain(dem(500 - 0.5 * x)).compute()
    np.testing.assert_allclose(down_east.slope[7, 7], np.degrees(np.arctan(0.5)), rtol=1e-6)
    np.testing.assert_allclose(down_east.aspect[7, 7], 90)
    assert float(terrain(dem(500 - 0.5 * y)).aspect[7, 7]) == 180  # rows run south
    assert float(terrain(dem(500 + 0.5 * y)).aspect[7, 7]) == 0
    ridge = terrain(dem(900 - 0.01 * (x - 70) ** 2)).compute()  # along north, bent across
    np.testing.assert_allclose([ridge.max_curvature[7, 7], ridge.min_curvature[7, 7]], [0.02, 0.0], atol=1e-7)
    assert ridge.profile_curvature[7, 7] == 0  # there is no way down on its top
    assert ridge.profile_curvature[7, 9] > 0.01


def test_a_plain_is_level_whatever_its_elevation():
    for height in (0.1, 4321.7, 1000 * 0.3048):
        out = terrain(dem(np.full((30, 30), height))).compute()
        assert set(out.aspect.values[4:-4, 4:-4].ravel()) == {-1}  # no direction, as bands of directions have it
        for name in ("slope", "profile_curvature", *POSITION):
            assert set(out[name].values[4:-4, 4:-4].ravel()) == {0}, name
        np.testing.assert_allclose(out.max_curvature[4:-4, 4:-4], 0, atol=1e-12)
        assert not out.topographic_position_index.any()


def test_digits_are_not_lost_high_up():
    y, x = np.mgrid[:40, :40] * 1.0
    low = 1e-3 * x**2 + 2e-3 * x * y
    high = terrain(dem(low + 8000, (1.0, 1.0))).compute()
    np.testing.assert_allclose(high.max_curvature[4:-4, 4:-4], terrain(dem(low, (1.0, 1.0))).max_curvature[4:-4, 4:-4], rtol=1e-6)


# --- chunks ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [{"y": 7, "x": 64}, {"y": (1, 30, 2, 12), "x": (3, 40, 21)}, {"y": 45, "x": 5}], ids=str)
def test_any_chunks_give_the_same(chunks):
    z = hills((45, 64), 2, 300)
    z[10:14, 20:30] = np.nan
    whole = terrain(dem(z), radius=6).compute()
    out = terrain(dem(z).chunk(chunks), radius=6)
    for name in whole:
        alone = out[name].compute()  # graphs of one variable are other graphs than those of all
        if name == "topographic_position_index":
            np.testing.assert_allclose(alone, whole[name], rtol=0, atol=1e-6)
        else:
            np.testing.assert_array_equal(alone, whole[name])
    xr.testing.assert_allclose(out.compute(), whole, atol=1e-6)
    part = out.isel(y=slice(20, 31), x=slice(30, 60)).compute()
    xr.testing.assert_allclose(part, whole.isel(y=slice(20, 31), x=slice(30, 60)), atol=1e-6)


def test_nothing_is_computed_before_it_is_asked_for(no_compute):
    with no_compute():
        out = terrain(dem(hills()).chunk(16))
        terrain(dem(hills()), moments=Moments(4, 0.0, 1.0, 0.0, 1.0))
    assert all(dask.is_dask_collection(array.data) for array in out.data_vars.values())


def test_a_block_reads_no_more_than_the_blocks_around_it():
    read = []

    def block(block_info=None):
        read.append(block_info[None]["chunk-location"])
        return hills((20, 20))

    data = da.map_blocks(block, dtype="float32", chunks=((20,) * 8, (20,) * 8), meta=np.empty((0, 0), "float32"))
    source = dem(np.zeros((160, 160))).copy(data=data)
    moments = Moments(4, 0.0, 1.0, 0.0, 1.0)
    terrain(source, moments=moments)[["slope", "topographic_position_index"]].isel(y=slice(40, 60), x=slice(40, 60)).compute()
    assert sorted(set(read)) == [(i, j) for i in (1, 2, 3) for j in (1, 2, 3)]
    assert len(read) == 9


# --- moments -----------------------------------------------------------------------------------------------------------------


def test_moments_are_those_of_the_whole_raster():
    z = hills((60, 50), 3, 800)
    z[:9, :11] = np.nan
    small, large = positioned(z, 1), positioned(z, 5)
    for source in (dem(z), dem(z).chunk(9)):
        found = position_moments(source, radius=5)
        assert found.radius == 5
        expected = [np.nanmean(small), np.nanstd(small), np.nanmean(large), np.nanstd(large)]
        np.testing.assert_allclose(found[1:], expected, rtol=1e-6, atol=1e-6)


def test_a_tile_with_the_moments_of_the_whole_is_a_part_of_the_whole():
    source = dem(hills((60, 50), 4)).chunk(16)
    whole = terrain(source)
    tile = source.isel(y=slice(10, 50), x=slice(5, 45))
    inner = {"y": slice(10, 30), "x": slice(10, 30)}
    expected = whole.isel(y=slice(20, 40), x=slice(15, 35)).compute()
    given = terrain(tile, moments=position_moments(source)).isel(inner).compute()
    xr.testing.assert_allclose(given, expected, atol=1e-6)
    alone = terrain(tile).topographic_position_index.isel(inner)
    assert np.abs(alone - expected.topographic_position_index).max() > 0.01


@pytest.mark.parametrize(
    ("moments", "words"),
    [((0, 1, 0, 1), "what misoxr.covariates.position_moments returns"), (Moments(3, 0.0, 1.0, 0.0, 1.0), "the same radius"),
     (Moments(4, 0.0, -1.0, 0.0, 1.0), "not below 0"), (Moments(4, np.nan, 1.0, 0.0, 1.0), "position_moments")],
)  # fmt: skip
def test_moments_that_do_not_fit_are_refused(moments, words):
    with pytest.raises(SpecError, match=words):
        terrain(dem(hills()), moments=moments)


# --- what DEMs are in the field ------------------------------------------------------------------------------------------------


def test_a_file_of_whole_numbers_in_feet_is_opened_with_its_nodata(tmp_path):
    feet = np.round(hills((30, 40), 5, 1000) / 0.3048).astype("int16")
    feet[12, 20] = -32768
    source = dem(feet, units="ft", _FillValue=-32768)
    source.rio.to_raster(tmp_path / "feet.tif")
    expected = np.where(feet == -32768, np.nan, feet * 0.3048)
    out = terrain(tmp_path / "feet.tif", radius=2)
    assert out.slope.chunks is not None
    np.testing.assert_allclose(out.elevation, expected, rtol=1e-6)
    slope = fitted(expected, 2, 10, 10)[0]
    assert np.isnan(slope[10:15, 18:23]).all()
    assert_near(out.slope, slope)
    with rioxarray.open_rasterio(tmp_path / "feet.tif", mask_and_scale=True) as array:  # (band, y, x), and nodata in the encoding
        np.testing.assert_array_equal(terrain(array, radius=2).slope, out.slope)


def test_stores_datasets_and_arrays_are_read_alike(tmp_path):
    source = dem(hills())
    expected = terrain(source).slope.compute()
    several = source.to_dataset(name="elevation").assign(wetness=source * 2)
    several.to_zarr(tmp_path / "dem.zarr", consolidated=False)
    for other in (several, source.to_dataset(name="height"), tmp_path / "dem.zarr", source.transpose("x", "y")):
        np.testing.assert_array_equal(terrain(other).slope, expected)


def test_a_crs_in_feet_has_cells_in_metres():
    z = hills()
    feet = terrain(dem(z, (10 * 3937 / 1200,) * 2, "EPSG:2225")).compute()  # US survey feet
    xr.testing.assert_allclose(
        feet.drop_vars(("y", "x", "spatial_ref")), terrain(dem(z)).drop_vars(("y", "x", "spatial_ref")), rtol=1e-4
    )


def test_a_vertical_crs_tells_the_units():
    source = dem(hills(), crs=pyproj.CRS("EPSG:3338+6360").to_wkt())  # NAVD88 height in US survey feet
    del source.attrs["units"]
    np.testing.assert_allclose(terrain(source).elevation, hills() * (1200 / 3937), rtol=1e-6)


@pytest.mark.parametrize("units", ["m above EGM2008", "metres (EGM96)", "m a.s.l.", "meters above mean sea level"])
def test_units_may_tell_where_elevations_are_counted_from(units):
    np.testing.assert_array_equal(terrain(dem(hills(), units=units)).elevation, terrain(dem(hills())).elevation)
    for other in ("m (depth)", "m (x 0.1)", "m (tenths)", "hPa above ground"):
        with pytest.raises(BandError, match="elevations are needed in metres"):
            terrain(dem(hills(), units=other))


def test_depths_are_elevations_below_zero():
    expected = terrain(dem(-hills())).compute()
    depth = dem(hills())
    depth.attrs["positive"] = "down"
    below = dem(hills(), crs=pyproj.CRS("EPSG:3338+5715").to_wkt())  # depth below mean sea level, m
    named = dem(hills()).assign_attrs(standard_name="sea_floor_depth_below_mean_sea_level")
    bare = below.copy()
    del bare.attrs["units"]
    with pytest.warns(MisoxrWarning, match="'sea_floor_depth_below_mean_sea_level': its values are taken for depths"):
        np.testing.assert_array_equal(terrain(named).elevation, expected.elevation)
    for one in (depth, below, bare):
        np.testing.assert_array_equal(terrain(one).elevation, expected.elevation)
        np.testing.assert_array_equal(terrain(one).aspect, expected.aspect)
    below.attrs["positive"] = "up"
    np.testing.assert_array_equal(terrain(below).elevation, -expected.elevation)


def test_unknown_units_are_noted_and_wrong_ones_refused():
    source = dem(hills())
    del source.attrs["units"]
    with pytest.warns(MisoxrWarning, match=r"no units and is taken to be in metres.*its attrs\['units'\] = 'm'"):
        terrain(source)
    with pytest.raises(BandError, match="The DEM is in 'degC', and elevations are needed in metres"):
        terrain(dem(hills(), units="degC"))


def test_undeclared_nodata_are_refused_when_they_are_read():
    for value in (-9999, -32768, 3.4e38):
        z = hills()
        z[3, 3] = value
        lazy = terrain(dem(z).chunk(20))
        with pytest.raises(BandError, match="undeclared nodata"):
            lazy.slope.compute()
        np.testing.assert_array_equal(np.isnan(terrain(dem(z, _FillValue=value)).position_index[3, 3]), True)


def test_endless_elevations_are_nodata():
    z = hills()
    z[20, 20], z[5, 30] = np.inf, -np.inf
    out = terrain(dem(z), radius=2).compute()
    z[~np.isfinite(z)] = np.nan
    xr.testing.assert_identical(out, terrain(dem(z), radius=2).compute())
    assert np.isnan(out.elevation[20, 20])


def test_a_dem_in_degrees_is_refused_with_the_remedy():
    box = GeoBox((20, 20), Affine(1e-3, 0, -150, 0, -1e-3, 65), "EPSG:4326")
    source = assign(xr.DataArray(hills((20, 20)), dims=("y", "x"), attrs={"units": "m"}), box)
    with pytest.raises(GridError, match=r"in degrees \(WGS 84\).*covariates.moved.*rio.reproject"):
        terrain(source)
    with pytest.raises(GridError, match="degrees"):
        position_moments(source)


def test_a_web_map_s_metres_are_noted():
    box = GeoBox((20, 20), Affine(10, 0, -16_700_000, 0, -10, 9_600_000), "EPSG:3857")  # 65 degrees north
    with pytest.warns(MisoxrWarning, match=r"A metre of the DEM's CRS .* is 0.42 m on the ground"):
        terrain(assign(xr.DataArray(hills((20, 20)), dims=("y", "x"), attrs={"units": "m"}), box))


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        (lambda: dem(hills()).drop_vars("spatial_ref"), GridError, "no CRS"),
        (lambda: dem(hills()).expand_dims(time=[1, 2]), BandError, "dimensions"),
        (lambda: xr.Dataset({"one": dem(hills()), "two": dem(hills())}), BandError, "name it 'elevation'"),
        (lambda: hills(), SpecError, "ndarray"),
        (lambda: "no-such-dem.tif", AssetError, "cannot be opened"),
    ],
    ids=["no CRS", "dates", "two", "bare values", "no file"],
)
def test_what_is_no_dem_is_refused(source, error, words):
    with pytest.raises(error, match=words):
        terrain(source())


@pytest.mark.parametrize("radius", [0, -1, 1.5, True, "4"])
def test_a_radius_that_is_none_is_refused(radius):
    with pytest.raises(SpecError, match="radius is"):
        terrain(dem(hills()), radius=radius)


def test_rasters_smaller_than_a_window_have_positions_alone():
    z = hills((1, 30))
    source = dem(np.repeat(z, 2, axis=0)).isel(y=[0])
    source.rio.write_transform(Affine(10, 0, 300_000, 0, -10, 1_500_000), inplace=True)
    out = terrain(source.chunk(x=7)).compute()
    assert out.slope.isnull().all()
    np.testing.assert_allclose(out.position_index, positioned(z, 4), rtol=1e-5, atol=1e-5)


def test_a_dem_of_nodata_alone_is_nodata():
    out = terrain(dem(np.full((20, 20), np.nan)).chunk(10)).compute()
    assert all(array.isnull().all() for array in out.data_vars.values())


def test_what_is_simulated_stays_marked():
    assert terrain(dem(hills(), simulated=1)).attrs == {"simulated": 1}
    assert terrain(dem(hills())).attrs == {}
