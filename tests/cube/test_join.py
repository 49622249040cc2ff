"""Rasters joined to a cube: names, resampling, nodata and scale, and what is refused."""

import warnings

import dask.array as da
import numpy as np
import pyproj
import pytest
import rasterio
import rioxarray
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from misoxr.cube.decode import is_guessed
from misoxr.cube.join import add, is_direction
from misoxr.errors import AssetError, BandError, GridError, MisoxrWarning, SpecError
from misoxr.grid.geobox import assign, geobox_of, same_grid
from tests.cube.test_composite import BOX, box_at, image, layer


def write_tiff(path, values: np.ndarray, box: GeoBox, **profile: object) -> str:
    values = values[None] if values.ndim == 2 else values
    descriptions, units = profile.pop("descriptions", None), profile.pop("units", None)
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[1], width=values.shape[2], count=len(values), dtype=values.dtype,
        crs=str(box.crs), transform=box.affine, **profile,
    ) as file:  # fmt: skip
        file.write(values)
        if descriptions:
            file.descriptions = descriptions
        if units:
            file.units = units
    return str(path)


def test_a_raster_of_the_same_grid_is_joined_exactly():
    dem = layer(seed=5, units="m")
    nearly = dem.assign_coords(x=dem.x + 1e-4, y=dem.y - 1e-4)  # floating-point noise must not empty the join
    out = add(image(), dem=nearly)
    np.testing.assert_array_equal(out["dem"], dem)
    np.testing.assert_array_equal(out["x"], image()["x"])
    assert out["dem"].attrs["units"] == "m"
    assert not out["dem"].isnull().any()
    assert same_grid(geobox_of(out["dem"]), BOX)


def test_a_larger_raster_of_the_same_lattice_keeps_its_values():
    wide = box_at(299_900, 1_500_200, 10, (90, 90))
    dem = layer(wide, 6)
    np.testing.assert_allclose(add(image(), dem=dem)["dem"], dem[20:60, 10:60], rtol=1e-6)


def test_files_stores_arrays_and_datasets_are_joined_lazily(tmp_path, no_compute):
    coarse = box_at(299_000, 1_501_000, 30, (100, 100))
    rng = np.random.default_rng(0)
    elevation = rng.random(coarse.shape).astype("float32") * 100
    elevation[40, 40] = -9999
    one = write_tiff(tmp_path / "dem.tif", elevation, coarse, nodata=-9999, units=("m",))
    two = write_tiff(
        tmp_path / "wet.tif",
        np.stack([elevation, np.where(elevation == -9999, -9999, 2 * elevation)]),
        coarse,
        nodata=-9999,
        descriptions=("spi", "wetness index"),
        units=("1", "m"),
    )
    bare = write_tiff(tmp_path / "bare.tif", np.stack([elevation, elevation * 3]), coarse)
    climate = assign(xr.Dataset({"rain": layer(coarse, 7, units="mm"), "warmth": layer(coarse, 8)}), coarse)
    climate.to_zarr(tmp_path / "climate.zarr", consolidated=False)
    climate.drop_vars("spatial_ref").assign(spatial_ref=climate.spatial_ref.variable).rename(
        rain="rain2", warmth="warmth2"
    ).to_zarr(tmp_path / "variable.zarr", consolidated=False)
    ds = image(chunks={"y": 16, "x": (20, 30)})
    with no_compute():
        out = add(
            ds, dem=one, wet=two, bare=bare, climate=tmp_path / "climate.zarr", other=str(tmp_path / "variable.zarr"),
            soil=layer(coarse, 9, units="1"), both=climate.rename(rain="rain3", warmth="warmth3"),
        )  # fmt: skip
    names = {
        "dem",
        "wet_spi",
        "wet_wetness_index",
        "bare_1",
        "bare_2",
        "rain",
        "warmth",
        "rain2",
        "warmth2",
        "rain3",
        "warmth3",
        "soil",
    }
    assert set(out.data_vars) == {"red", "nir"} | names
    assert all(out[name].chunksizes == ds["red"].chunksizes for name in names)
    assert all(out[name].dtype == "float32" for name in names)
    assert [out[name].attrs.get("units") for name in ("dem", "wet_spi", "wet_wetness_index", "rain", "warmth")] == [
        "m",
        "1",
        "m",
        "mm",
        None,
    ]
    values = out.compute()
    assert np.isnan(values["dem"]).any()
    assert values["dem"].min() >= 0
    assert values["dem"].max() <= 100
    np.testing.assert_allclose(values["wet_wetness_index"], 2 * values["dem"], rtol=1e-6)
    np.testing.assert_array_equal(values["rain"], values["rain2"])
    np.testing.assert_array_equal(values["rain"], values["rain3"])


def test_in_memory_data_stay_in_memory():
    out = add(image(), dem=layer(box_at(299_000, 1_501_000, 30, (100, 100))))
    assert isinstance(out["dem"].data, np.ndarray)
    assert not out["dem"].isnull().any()


def ramp(box: GeoBox, **attrs: object) -> xr.DataArray:
    """A plane in x and y: bilinear must reproduce it exactly."""
    blank = assign(xr.DataArray(np.zeros(box.shape, "float32"), dims=("y", "x")), box)
    plane = ((blank.x - 300_000) * 0.01 + (1_500_000 - blank.y) * 0.02).transpose("y", "x").astype("float32")
    plane.attrs = attrs
    return assign(plane, box)


def test_bilinear_reproduces_a_plane():
    out = add(image(), dem=ramp(box_at(299_003, 1_501_011, 30, (100, 100)), units="m"))
    np.testing.assert_allclose(out["dem"], ramp(BOX), atol=2e-4)


def test_fine_rasters_are_averaged_over_the_pixel():
    fine = box_at(300_000, 1_500_000, 2, (200, 250))
    dem = layer(fine, 11, units="m")
    expected = dem.values.reshape(40, 5, 50, 5).mean(axis=(1, 3))
    np.testing.assert_allclose(add(image(), dem=dem)["dem"], expected, rtol=1e-5)
    holed = dem.where(dem > 0.5)
    expected = np.nanmean(holed.values.reshape(40, 5, 50, 5), axis=(1, 3))
    np.testing.assert_allclose(add(image(), dem=holed)["dem"], expected, rtol=1e-5)


def test_classes_and_compass_directions_are_not_mixed():
    coarse = box_at(299_000, 1_501_000, 30, (100, 100))
    rng = np.random.default_rng(1)
    codes = assign(xr.DataArray(rng.integers(0, 9, coarse.shape).astype("uint8"), dims=("y", "x")), coarse)
    flags = codes.astype("float32")
    flags.attrs = {"flag_values": list(range(9))}
    aspect = (codes.astype("float32") * 40).assign_attrs(units="degree")
    height = codes.assign_attrs(units="m")  # integers with units are quantities
    out = add(image(), geology=codes, flags=flags, aspect=aspect, slope=aspect, height=height)
    bare = add(image(), aspect=aspect.drop_attrs(deep=False).assign_attrs(grid_mapping="spatial_ref"))
    np.testing.assert_array_equal(bare["aspect"], out["aspect"])  # as DEM tools write it, without units
    assert set(np.unique(out["geology"])) <= set(range(9))
    assert set(np.unique(out["flags"])) <= set(range(9))
    assert set(np.unique(out["aspect"])) <= set(np.arange(9) * 40.0)
    assert len(np.unique(out["slope"])) > 9
    assert len(np.unique(out["height"])) > 9


def test_a_resampling_that_is_asked_for_is_used():
    codes = layer(box_at(299_000, 1_501_000, 30, (100, 100)), units="1")
    every = add(image(), "nearest", a=codes, b=codes)
    one = add(image(), {"a": "nearest"}, a=codes, b=codes)
    np.testing.assert_array_equal(every["a"], one["a"])
    assert np.isin(one["a"], codes).all()
    assert not np.isin(one["b"], codes).all()
    with pytest.raises(GridError, match="Unknown resampling 'cubic'"):
        add(image(), "cubic", a=codes)


def utm_box() -> GeoBox:
    return box_at(300_000, 1_500_000, 10, (40, 50)).to_crs("EPSG:32606", resolution=30).pad(30)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(3, 40),
    st.integers(3, 50),
    st.integers(5, 60),
    st.integers(5, 60),
    st.sampled_from(["nearest", "bilinear", "average"]),
)
def test_no_chunking_changes_a_value(down, across, source_down, source_across, resampling):
    box = utm_box()
    dem = layer(box, 12, units="m").where(layer(box, 13) > 0.1)
    whole = add(image(), resampling, dem=dem)["dem"]
    lazy = add(image(chunks={"y": down, "x": across}), resampling, dem=dem.chunk(y=source_down, x=source_across))
    np.testing.assert_array_equal(lazy["dem"].compute(), whole)
    assert whole.notnull().mean() > 0.8


@pytest.mark.parametrize(("size", "resampling"), [(30, "bilinear"), (30, "nearest"), (3, "average")])
def test_reprojection_agrees_with_gdal(size, resampling):
    import rioxarray  # noqa: F401
    from rasterio.enums import Resampling
    from scipy.ndimage import gaussian_filter

    box = BOX.to_crs("EPSG:32606", resolution=size).pad(1200 // size)
    smooth = gaussian_filter(np.random.default_rng(2).standard_normal(box.shape), 60 / size).astype("float32")
    dem = assign(xr.DataArray(smooth, dims=("y", "x")), box)
    ours = add(image(), resampling, dem=dem)["dem"]
    theirs = dem.rio.reproject("EPSG:3338", shape=tuple(BOX.shape), transform=BOX.affine, resampling=Resampling[resampling])
    assert float(ours.std()) > 0.01
    # GDAL approximates positions to an eighth of a pixel, which moves single pixels of the nearest.
    assert float(np.abs(ours - theirs.values).mean()) < 0.01 * float(ours.std())


@pytest.mark.parametrize("west", [-180.0, 0.0])
def test_longitudes_of_either_convention_and_across_the_antimeridian(west):
    world = GeoBox((100, 720), Affine(0.5, 0, west, 0, -0.5, 80), "EPSG:4326")
    east = assign(xr.DataArray(np.zeros(world.shape, "float32"), dims=("y", "x")), world)
    sines = np.sin(np.deg2rad(east.x)).broadcast_like(east).astype("float32").assign_attrs(units="1")
    aleutians = box_at(-2_100_000, 500_000, 20_000, (20, 30))
    lon = xr.DataArray(np.zeros(aleutians.shape, "float32"), dims=("y", "x"))
    out = add(assign(xr.Dataset({"red": lon}), aleutians), wave=assign(sines, world))["wave"]
    import pyproj

    grid = np.meshgrid(out.x, out.y)
    longitude, _ = pyproj.Transformer.from_crs("EPSG:3338", "EPSG:4326", always_xy=True).transform(*grid)
    assert longitude.min() < -175
    assert longitude.max() > 175
    inside = np.abs(np.abs(longitude) - 180) > 1
    np.testing.assert_allclose(out.values[inside], np.sin(np.deg2rad(longitude))[inside], atol=1e-3)
    assert not out.isnull().any()


def test_outside_the_raster_is_nodata():
    with pytest.warns(MisoxrWarning, match=r"'dem' covers \(300100, .* and the image \(300000, .*nodata beyond"):
        out = add(image(), dem=layer(box_at(300_100, 1_499_900, 30, (200, 200)), units="m"))["dem"]
    assert out[:10].isnull().all()
    assert out[:, :10].isnull().all()
    assert out[10:, 10:].notnull().all()


def test_nodata_in_attributes_is_masked_as_it_is_stored():
    values = layer(seed=3).values.copy()
    values[5, 6] = np.float32(-3e38)
    dem = assign(xr.DataArray(values, dims=("y", "x"), attrs={"_FillValue": np.float64(-3e38), "units": "m"}), BOX)
    counts = assign(
        xr.DataArray(np.arange(2000, dtype="int16").reshape(40, 50), dims=("y", "x"), attrs={"nodata": 0, "units": "1"}), BOX
    )
    out = add(image(), dem=dem, counts=counts)
    for name, hole in (("dem", (5, 6)), ("counts", (0, 0))):
        assert np.isnan(out[name].values[hole])
        assert out[name].isnull().sum() == 1
        assert not {"_FillValue", "nodata"} & set(out[name].attrs)


def test_rasters_that_do_not_fit_are_refused():
    ds = image()
    with pytest.raises(GridError, match="carries no CRS"):
        add(ds, dem=layer().drop_vars("spatial_ref"))
    with pytest.raises(GridError, match=r"\(900000, .* and the image \(300000, 1499600, 300500, 1500000\).*do not overlap"):
        add(ds, dem=layer(box_at(900_000, 1_500_000, 10, (20, 20))))
    with pytest.raises(GridError, match=r"covers \(10, .*do not overlap"):
        add(ds, dem=layer(GeoBox((9, 9), Affine(1, 0, 10, 0, -1, 50), "EPSG:4326")))
    with pytest.raises(BandError, match="variable 'red' already"):
        add(ds, red=layer())
    with pytest.raises(BandError, match="variable 'dem' already"):
        add(ds, dem=layer(), more=assign(xr.Dataset({"dem": layer()}), BOX))
    with pytest.raises(BandError, match=r"'dem' has dimensions \('up', 'along'\)"):
        add(ds, dem=layer().drop_vars(["x", "y"]).rename(y="up", x="along"))
    with pytest.raises(BandError, match=r"'rain' has dimensions \('month', 'y', 'x'\)"):
        add(ds, climate=assign(xr.Dataset({"rain": layer().expand_dims(month=3)}), BOX))
    with pytest.raises(SpecError, match=r"'dem' is a list; .*join tiles before"):
        add(ds, dem=[layer(), layer()])
    with pytest.raises(GridError, match="irregular"):
        add(ds, dem=layer().assign_coords(x=layer().x + np.arange(50) ** 2 * 0.01))
    with pytest.raises(GridError, match="no CRS"):
        add(ds.drop_vars("spatial_ref"), dem=layer())
    for absent in ("absent.tif", "absent.zarr", "nosuch://x/absent.zarr"):
        with pytest.raises(AssetError, match=f"The raster {absent} cannot be opened"):
            add(ds, dem=absent)


def test_a_reprojection_graph_grows_with_the_chunks_only(no_compute):
    import pickle

    box = box_at(300_000, 1_500_000, 10, (4096, 4096))
    ds = assign(xr.Dataset({"red": (("y", "x"), da.zeros((4096, 4096), "float32", chunks=256))}), box)
    coarse = box_at(299_000, 1_501_000, 30, (1500, 1500))
    dem = assign(xr.DataArray(da.zeros((1500, 1500), chunks=256, dtype="float32"), dims=("y", "x"), attrs={"units": "m"}), coarse)
    with no_compute():
        out = add(ds, dem=dem)["dem"]
    tasks = [len(pickle.dumps(task)) for task in dict(out.__dask_graph__()).values()]
    assert max(tasks) < 4000


# --- how rasters are stored -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opening", [{}, {"masked": True}, {"mask_and_scale": True}])
def test_scale_and_offset_of_a_file_are_applied_once_however_it_is_opened(tmp_path, opening):
    path = write_tiff(tmp_path / "t.tif", np.full(BOX.shape, 2500, "int16"), BOX, nodata=-9999)
    with rasterio.open(path, "r+") as file:
        file.write(np.full((1, 1), -9999, "int16"), 1, window=((0, 1), (0, 1)))
        file.scales, file.offsets = (0.1,), (-273.15,)
    cube = add(image(), t=rioxarray.open_rasterio(path, **opening), by_path=path)
    for name in ("t", "by_path"):
        np.testing.assert_allclose(cube[name].values[1:], -23.15, atol=1e-4)
        assert np.isnan(cube[name].values[0, 0])
        assert not {"scale_factor", "add_offset", "_FillValue"} & set(cube[name].attrs)
    cube.miso.to_zarr(tmp_path / "c.zarr", progress=False)
    np.testing.assert_array_equal(xr.open_zarr(tmp_path / "c.zarr", consolidated=False)["t"], cube["t"])


def test_a_file_of_several_bands_has_each_band_s_own_scale(tmp_path):
    path = write_tiff(tmp_path / "two.tif", np.full((2, *BOX.shape), 100, "int16"), BOX, descriptions=("cold", "warm"))
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (0.1, 1.0), (0.0, 7.0)
    out = add(image(), t=path)
    np.testing.assert_allclose(out["t_cold"], 10, rtol=1e-6)
    np.testing.assert_allclose(out["t_warm"], 107, rtol=1e-6)


def test_a_band_of_a_file_in_hand_has_its_own_nodata():
    both = layer().expand_dims(band=[1, 2]).copy()
    both[:, 0, 0], both[:, 0, 1] = -1, -2
    both.attrs |= {"nodatavals": (-1.0, -2.0), "scales": (1.0, 1.0)}
    out = add(image(), both=both, second=both.isel(band=1))  # its coordinate tells which band of the file it is
    assert set(add(image(), file=both.to_dataset(name="band_data"))) == {"red", "nir", "band_data_1", "band_data_2"}
    assert [out[name].isnull().values[0, :2].tolist() for name in ("both_1", "both_2", "second")] == [
        [True, False],
        *[[False, True]] * 2,
    ]
    with pytest.raises(BandError, match=r"has the scales \[0.1, 1.0\]; set the attribute to one number"):
        add(image(), one=layer().assign_attrs(scales=(0.1, 1.0)))


ASPECT = [
    (1.0, {}),
    (1.0, {"units": "degree"}),
    (1.0, {"units": "m"}),
    (1.0, {"units": "degree_true"}),
    (1.0, {"units": "degrees_T"}),
    (np.pi / 180, {"units": "radian"}),
]


@pytest.mark.parametrize(
    ("name", "words"), [("aspect", {}), ("exposure", {"long_name": "Aspect of the slope"}), ("wind_direction", {})]
)
@pytest.mark.parametrize(("unit", "attrs"), ASPECT)
@pytest.mark.parametrize("size", [4, 23])  # finer and coarser than the image
def test_slopes_that_face_north_face_north_on_any_grid(name, words, unit, attrs, size):
    box = box_at(299_900, 1_500_100, size, (800 // size, 900 // size))
    turn = np.indices(box.shape).sum(axis=0) % 2
    north = xr.DataArray(np.where(turn, 359 * unit, unit).astype("float32"), dims=("y", "x"), attrs={**attrs, **words})
    out = add(image(), **{name: assign(north, box)})[name]
    assert (np.cos(out / unit * np.pi / 180) > 0.999).all()


def test_classes_by_their_name_are_not_mixed():
    fine = box_at(300_000, 1_500_000, 4, (110, 130))
    codes = assign(xr.DataArray(np.where(np.indices(fine.shape).sum(axis=0) % 2, 9, 1).astype("float32"), dims=("y", "x")), fine)
    for name in ("landcover", "SCL", "land_cover_2021", "qa_pixel", "nlcd"):
        assert set(np.unique(add(image(), **{name: codes})[name])) == {1, 9}
    assert abs(add(image(), depth=codes)["depth"] - 5).max() < 0.2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("catchment_area", "catchment area, by multiple flow directions"),
        ("strength", "bearing capacity of soil"),
        ("u10", "u component of wind (eastward direction)"),
        ("snow", "snow depth, corrected for wind direction"),
        ("b04", "surface_bidirectional_reflectance"),
        ("b08", "hemispherical-directional reflectance"),
        ("cosine", "cosine of aspect"),
    ],
)
def test_what_is_measured_by_directions_is_none(name, words):
    plane = layer(box_at(299_000, 1_501_000, 30, (100, 100)), units="1").assign_attrs(long_name=words)
    expected = add(image(), **{name: plane.assign_attrs(long_name="")})
    xr.testing.assert_equal(add(image(), **{name: plane}), expected)
    assert len(np.unique(expected[name])) > 1000


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wind", "Wind direction at 10 m height"),
        ("wind", "Direction of maximum wind speed"),
        ("current_direction_depth_10m", ""),
        ("wind_direction_10m_height", ""),
        ("slope_face", "Surface; aspect"),
        ("face", "(circular) direction"),
    ],
)
def test_directions_at_some_place_are_directions(name, words):
    assert is_direction(name, xr.DataArray(0.0, attrs={"long_name": words}))


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        *(
            (name, True)
            for name in ("soil_temperature_regime", "slope_position", "age_group", "depth_code", "elevation_zone", "soil")
        ),
        *((name, False) for name in ("dem", "ndvi", "precip", "soil_temperature", "snow_days", "treecover", "elevation", "red")),
    ],
)
def test_whole_numbers_are_codes_unless_their_name_is_that_of_a_quantity(name, codes):
    assert is_guessed(name, xr.DataArray(np.uint8([[1]]), dims=("y", "x"))) == codes


@pytest.mark.parametrize("opening", ["path", "mask_and_scale", "masked", "memory"])
def test_bytes_without_units_are_codes_however_they_come(tmp_path, opening):
    box = box_at(299_000, 1_501_000, 30, (100, 100))
    codes = np.where(np.indices(box.shape).sum(axis=0) % 2, 20, 10).astype("uint8")
    path = write_tiff(tmp_path / "soil.tif", codes, box, nodata=0)
    given = {
        "path": path,
        "memory": assign(xr.DataArray(codes, dims=("y", "x")), box),
        **{way: rioxarray.open_rasterio(path, **{way: True}).squeeze(drop=True) for way in ("mask_and_scale", "masked")},
    }[opening]
    with pytest.warns(MisoxrWarning, match="'soil' holds whole numbers without units and is taken for classes"):
        assert set(np.unique(add(image(), soil=given)["soil"])) == {10, 20}
    assert len(np.unique(add(image(), soil_depth=given)["soil_depth"])) > 2


@pytest.mark.parametrize("ratio", [5, 3, 9, 40, 2.5])
def test_an_average_is_the_mean_of_all_that_lies_under_a_pixel(ratio):
    side = 10 / ratio
    fine = box_at(300_000, 1_500_000, side, (int(20 * ratio), int(20 * ratio)))
    values = np.random.default_rng(0).random(fine.shape).astype("float32")
    values[: int(2 * ratio), : int(2 * ratio)] = np.nan
    out = add(image(BOX[:20, :20]), q=assign(xr.DataArray(values, dims=("y", "x"), attrs={"units": "1"}), fine))["q"].values
    parts = np.kron(values, np.ones((2, 2)))  # halves, of which every ratio has a whole number
    each = parts.reshape(20, int(2 * ratio), 20, int(2 * ratio))
    valid = np.isfinite(each)
    with np.errstate(invalid="ignore"):
        expected = np.where(valid, each, 0).sum((1, 3)) / valid.sum((1, 3))
    np.testing.assert_allclose(out, expected, rtol=1e-6)
    assert np.isnan(out[:2, :2]).all()
    assert np.isfinite(out[2:]).all()


# --- what is asked for ------------------------------------------------------------------------------------------------------


def test_resampling_by_name_meets_a_name():
    codes = layer(box_at(299_000, 1_501_000, 30, (100, 100)), units="1")
    with pytest.raises(SpecError, match=r"resampling names 'landcovr', .*\['landcover'\]. Did you mean \"landcover\"\?"):
        add(image(), {"landcovr": "nearest"}, landcover=codes)
    with pytest.raises(GridError, match=r"Unknown resampling 'nearst' of 'a'.*Did you mean \"nearest\""):
        add(image(), {"a": "nearst"}, a=codes)
    with pytest.raises(SpecError, match="resampling is 3"):
        add(image(), 3, a=codes)
    climate = assign(xr.Dataset({"rain": codes, "warmth": codes}), geobox_of(codes))
    out = add(image(), {"climate": "nearest", "warmth": "bilinear"}, climate=climate)
    assert np.isin(out["rain"], codes).all()
    assert not np.isin(out["warmth"], codes).all()


def test_what_is_no_raster_is_refused():
    for unnamed in (layer(), layer().to_dataset(name="dem")):
        with pytest.raises(SpecError, match=f"A {type(unnamed).__name__} was given without a name; name each raster"):
            add(image(), unnamed)
    with pytest.raises(SpecError, match="'dem' is a list.*name each of several"):
        add(image(), dem=["a.tif", "b.tif"])
    with pytest.raises(SpecError, match="'dem' is a ndarray.*values alone have no grid"):
        add(image(), dem=np.ones(BOX.shape))
    for nothing in (None, 5, layer().variable):
        with pytest.raises(SpecError, match=f"'dem' is a {type(nothing).__name__}; give a path"):
            add(image(), dem=nothing)
    with pytest.raises(AssetError, match='Did you mean "resampling"'):
        add(image(), resampeling="nearest")
    with pytest.raises(GridError, match="The cube is a DataArray; give a Dataset.*to_dataset"):
        add(layer(), dem=layer())
    with pytest.raises(BandError, match="holds <U3 and not numbers"):
        add(image(), dem=assign(xr.DataArray(np.full(BOX.shape, "abc"), dims=("y", "x")), BOX))


@pytest.mark.parametrize("crs", ["Alaska Albers", "EPSG:0", {"init": "nowhere"}])
def test_a_crs_that_cannot_be_read_is_told(crs):
    bare = layer().drop_vars("spatial_ref").drop_attrs().assign_attrs(crs=crs)
    with pytest.raises(GridError, match="CRS .* cannot be read .*write_crs"):
        add(image(), dem=bare)


@pytest.mark.parametrize("crs", [3338, "3338", "epsg:3338", {"init": "epsg:3338"}, np.int64(3338)])
def test_a_crs_is_read_in_its_usual_spellings(crs):
    bare = layer().drop_vars("spatial_ref").drop_attrs().assign_attrs(crs=crs)
    np.testing.assert_array_equal(add(image(), dem=bare)["dem"], layer())


@pytest.mark.parametrize(
    ("descriptions", "names"),
    [
        (("B4/B8", "plain"), ["r_B4_B8", "r_plain"]),
        (("a\\b", " "), ["r_a_b", "r_2"]),
        (("same", "same"), ["r_1", "r_2"]),
        (("B4/B8", "B4_B8"), ["r_B4_B8_1", "r_B4_B8_2"]),
        (("../x", ".y"), ["r__x", "r_y"]),
    ],
)
def test_descriptions_of_bands_become_names_that_a_store_keeps(tmp_path, descriptions, names):
    path = write_tiff(tmp_path / "two.tif", np.full((2, *BOX.shape), 0.5, "float32"), BOX, descriptions=descriptions)
    cube = add(image(), r=path)
    assert [name for name in cube.data_vars if name not in ("red", "nir")] == names
    cube.miso.to_zarr(tmp_path / "c.zarr", progress=False)
    assert set(xr.open_zarr(tmp_path / "c.zarr", consolidated=False).data_vars) == {"red", "nir", *names}


@pytest.mark.parametrize("name", ["B4/B8", "", "a b", ".hidden", 5])
def test_names_that_a_store_cannot_keep_are_refused(name):
    with pytest.raises(BandError, match="a name that a store cannot keep; rename it"):
        add(image(), more=assign(xr.Dataset({name: layer()}), BOX))


def test_variables_that_are_no_maps_are_not_joined():
    more = assign(xr.Dataset({"dem": layer(units="m"), "bounds": ("corner", np.zeros(4)), "title": ((), "a")}), BOX)
    assert set(add(image(), more=more).data_vars) == {"red", "nir", "dem"}
    with pytest.raises(BandError, match="none over y and x"):
        add(image(), more=more.drop_vars("dem"))


@pytest.mark.parametrize("kind", ["array", "dataset", "netcdf"])
def test_latitudes_and_longitudes_are_rows_and_columns(tmp_path, kind):
    """Plain CF: dimensions lat and lon in degrees, and no CRS."""
    box = GeoBox((40, 60), Affine(0.01, 0, -154.1, 0, -0.01, 63.6), "EPSG:4326")
    plain = assign(xr.DataArray(np.arange(2400.0, dtype="float32").reshape(40, 60), dims=("y", "x")), box)
    named = plain.drop_vars("spatial_ref").rename(y="lat", x="lon").rename("dem")
    named.encoding, named.attrs = {}, {}
    near = assign(xr.Dataset({"red": (("y", "x"), np.ones((50, 50), "float32"))}), box_around(box))
    expected = add(near, dem=plain).dem.compute()
    given = named if kind == "array" else named.to_dataset()
    if kind == "netcdf":
        given.to_netcdf(tmp_path / "dem.nc", engine="scipy")
        given = tmp_path / "dem.nc"
    assert expected.notnull().any()
    np.testing.assert_array_equal(add(near, dem=given).dem, expected)


def box_around(box: GeoBox) -> GeoBox:
    """50 x 50 pixels of 100 m about the middle of a box in degrees."""
    x, y = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:3338", always_xy=True).transform(*box.extent.centroid.coords[0])
    return GeoBox((50, 50), Affine(100, 0, x - 2500, 0, -100, y + 2500), "EPSG:3338")


def test_fine_pixels_in_degrees_without_a_crs_are_told():
    """Datums of Alaska lie up to some 100 m apart, which is several of these pixels."""
    box = GeoBox((400, 600), Affine(0.0003, 0, -154.05, 0, -0.0003, 63.4), "EPSG:4326")
    plain = assign(xr.DataArray(np.ones((400, 600), "float32"), dims=("y", "x")), box).drop_vars("spatial_ref")
    near = assign(xr.Dataset({"red": (("y", "x"), np.ones((50, 50), "float32"))}), box_around(box))
    with pytest.warns(MisoxrWarning, match="has no CRS and is taken to be in EPSG:4326"):
        assert add(near, dem=plain.rename(y="lat", x="lon")).dem.notnull().all()


def test_dimensions_of_length_1_are_dropped():
    """As catalogues give the one time of an item, and NetCDF the one level or member."""
    one = layer(units="m")
    for more in (one.expand_dims(time=[np.datetime64("2020-07-01", "ns")]), one.expand_dims(band=[1], member=["r1"])):
        np.testing.assert_array_equal(add(image(), dem=more).dem, one)
        assert "time" not in add(image(), all=more.to_dataset(name="dem")).coords


def test_shares_that_kept_the_flags_of_their_classes_are_told():
    """Arithmetic keeps attributes: a share of forest would be that of one pixel."""
    cover = layer(box_at(300_000, 1_500_000, 2, (200, 250))).round().astype("uint8")
    cover.attrs |= {"flag_values": [0, 1], "flag_meanings": "grass forest"}
    forest = (cover == 1).astype("float32").assign_attrs(cover.attrs)
    with pytest.warns(
        MisoxrWarning, match=r"'forest' holds floats and has \['flag_values', 'flag_meanings'\].*remove these attributes"
    ):
        add(image(), forest=forest)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MisoxrWarning)
        share = add(image(), resampling={"forest": "average"}, forest=forest).forest
        add(image(), cover=cover)
    np.testing.assert_allclose(share[:40, :50], forest.coarsen(y=5, x=5).mean(), atol=1e-6)
