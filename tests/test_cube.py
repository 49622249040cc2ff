"""Composites in time, rasters joined to a cube, and the check of a cube against a model."""

import warnings
from functools import partial

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from odc.geo.geobox import GeoBox

from misoxr.cube import add, check, composite, in_season, reduce_time
from misoxr.errors import AssetError, BandError, GridError, MisoxrWarning, SpecError
from misoxr.grid import assign, geobox_of, same_grid
from misoxr.spec import ModelSpec

BOX = GeoBox((40, 50), Affine(10, 0, 300_000, 0, -10, 1_500_000), "EPSG:3338")


def layer(box: GeoBox = BOX, seed: int = 0, **attrs: object) -> xr.DataArray:
    rng = np.random.default_rng(seed)
    return assign(xr.DataArray(rng.random(box.shape, dtype="float32"), dims=("y", "x"), attrs=attrs), box)


def image(box: GeoBox = BOX, chunks: dict[str, object] | None = None) -> xr.Dataset:
    ds = assign(xr.Dataset({"red": layer(box, 1, units="1"), "nir": layer(box, 2, units="1")}), box)
    return ds if chunks is None else ds.chunk(chunks)


def box_at(west: float, north: float, size: float, shape: tuple[int, int], crs: str = "EPSG:3338") -> GeoBox:
    return GeoBox(shape, Affine(size, 0, west, 0, -size, north), crs)


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


# --- seasons ---------------------------------------------------------------------------------------------------------------

DAYS = pd.date_range("2018-01-01", "2021-12-31", freq="D")


def test_both_days_of_a_season_belong_to_it():
    times = pd.DatetimeIndex(["2020-06-19T23:59", "2020-06-20", "2020-08-20T23:59", "2020-08-21", "2021-07-01"])
    assert in_season(times, ("06-20", "08-20"), None).tolist() == [False, True, True, False, True]
    assert in_season(times, ("06-20", "08-20"), [2020]).tolist() == [False, True, True, False, False]
    assert in_season(times, None, range(2021, 2022)).tolist() == [False, False, False, False, True]
    assert in_season(times).all()


def test_a_season_over_new_year_belongs_to_the_year_it_starts_in():
    times = pd.DatetimeIndex(["2020-01-15", "2020-11-30", "2020-12-01", "2021-02-28", "2021-03-01", "2021-12-25"])
    assert in_season(times, ("12-01", "02-28"), [2020]).tolist() == [False, False, True, True, False, False]
    assert in_season(times, ("12-01", "02-28")).tolist() == [True, False, True, True, False, True]


@given(st.dates(), st.dates())
def test_a_wrapping_season_is_the_complement_of_the_rest_of_the_year(one, other):
    first, last = f"{one:%m-%d}", f"{other:%m-%d}"
    inside = in_season(DAYS, (first, last))
    text = DAYS.strftime("%m-%d")
    expected = (text >= first) & (text <= last) if first <= last else (text >= first) | (text <= last)
    assert (inside == expected).all()
    by_year = [in_season(DAYS, (first, last), [year]) for year in range(2017, 2022)]
    assert (np.sum(by_year, axis=0) == inside).all()  # each day belongs to one year's season


@pytest.mark.parametrize("season", [("6-20", "08-20"), ("06-20", "08-32"), ("2020-06-20", "08-20"), ("02-30", "03-01"), (620, 820)])
def test_a_day_that_is_none_is_refused(season):
    with pytest.raises(SpecError, match="not a day of the year"):
        in_season(DAYS, season)


@pytest.mark.parametrize("season", ["06-20", ("06-20",)])
def test_a_season_is_a_pair(season):
    with pytest.raises(SpecError, match="not a pair of days"):
        in_season(DAYS, season)


# --- reducing --------------------------------------------------------------------------------------------------------------

cubes = arrays(
    "float32",
    array_shapes(min_dims=3, max_dims=3, max_side=8),
    elements=st.one_of(st.just(float("nan")), st.floats(-1e4, 1e4, width=32)),
)


@given(cubes, st.sampled_from(["median", "mean"]))
def test_reductions_equal_numpys(values, method):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        expected = getattr(np, f"nan{method}")(values.astype("float64"), axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = reduce_time(values, method)
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-3)


def test_no_time_at_all_is_nan_and_unknown_methods_are_named():
    assert np.isnan(reduce_time(np.empty((0, 2, 3), "float32"), "median")).all()
    with pytest.raises(SpecError, match=r"Unknown way 'medoid'.*\['mean', 'median'\]"):
        reduce_time(np.zeros((1, 1, 1), "float32"), "medoid")


# --- composite -------------------------------------------------------------------------------------------------------------


def time_cube(chunks: dict[str, object] | None = None) -> xr.Dataset:
    rng = np.random.default_rng(3)
    times = pd.DatetimeIndex(["2019-07-01", "2019-12-24", "2020-06-25", "2020-07-15", "2021-07-10", "2021-09-01"])
    values = rng.random((2, len(times), *BOX.shape)).astype("float32")
    values[rng.random(values.shape) < 0.4] = np.nan
    values[:, :, 3, 4] = np.nan
    dims = ("time", "y", "x")
    data = {name: (dims, part, {"units": "1", "long_name": name}) for name, part in zip(("red", "nir"), values, strict=True)}
    coords = {"time": times, "cloud": ("time", np.arange(len(times)))}
    ds = assign(xr.Dataset({**data, "dem": (("y", "x"), values[0, 0])}, coords, {"made": "by hand"}), BOX)
    return ds if chunks is None else ds.chunk(chunks)


def test_a_composite_is_the_median_of_the_season():
    ds = time_cube()
    out = composite(ds, ("06-20", "08-20"), range(2019, 2021))
    kept = ds.isel(time=[0, 2, 3])
    assert out["red"].dtype == "float32"
    np.testing.assert_allclose(out["red"], kept["red"].median("time", skipna=True), rtol=1e-6)
    seen = (kept["red"].notnull() | kept["nir"].notnull()).sum("time")
    assert out["observations"].dtype == "uint16"
    np.testing.assert_array_equal(out["observations"], seen)
    assert out["observations"][3, 4] == 0
    assert np.isnan(out["red"][3, 4])
    assert out["observations"].max() == 3


def test_a_composite_keeps_what_describes_the_data():
    ds = time_cube()
    out = composite(ds)
    assert same_grid(geobox_of(out), BOX)
    assert out["nir"].attrs["units"] == "1"
    assert out["nir"].attrs["long_name"] == "nir"
    assert out.attrs == {"made": "by hand"}
    assert "time" not in out.coords
    assert "cloud" not in out.coords
    np.testing.assert_array_equal(out["dem"], ds["dem"])


@pytest.mark.parametrize("chunks", [{"time": 1, "y": 16, "x": 25}, {"time": 4, "y": -1, "x": 7}])
@pytest.mark.parametrize("method", ["median", "mean"])
def test_a_lazy_composite_computes_nothing_and_is_the_same(no_compute, chunks, method):
    with no_compute():
        lazy = composite(time_cube(chunks), ("06-20", "08-20"), method=method)
    assert all(lazy[name].chunks is not None for name in ("red", "nir", "observations", "dem"))
    assert lazy["red"].chunksizes["x"][0] == min(chunks["x"], 50)
    xr.testing.assert_identical(lazy.compute(), composite(time_cube(), ("06-20", "08-20"), method=method))


def test_counts_with_a_nodata_value_are_masked_before_the_median():
    box = box_at(0, 0, 10, (2, 2))
    counts = np.array([[[0, 5], [0, 7]], [[4, 6], [0, 9]], [[0, 9], [0, 8]]], "uint16")
    ds = assign(xr.Dataset({"red": (("time", "y", "x"), counts, {"nodata": 0})}, {"time": pd.date_range("2020", periods=3)}), box)
    out = composite(ds)
    np.testing.assert_array_equal(out["red"], [[4, 6], [np.nan, 8]])
    np.testing.assert_array_equal(out["observations"], [[1, 3], [0, 3]])
    assert "nodata" not in out["red"].attrs


def test_a_composite_that_cannot_be_made_is_refused():
    with pytest.raises(SpecError, match=r"6 times, from 2019-07-01 to 2021-09-01.*season \('01-01', '02-01'\).*\[2019\]"):
        composite(time_cube(), ("01-01", "02-01"), (year for year in [2019]))
    with pytest.raises(SpecError, match="Unknown way 'max'"):
        composite(time_cube(), method="max")
    with pytest.raises(GridError, match="no time to reduce"):
        composite(image())
    with pytest.raises(BandError, match="has a time to reduce"):
        composite(time_cube()[["dem"]].assign_coords(time=time_cube().time))
    with pytest.raises(GridError, match="no CRS"):
        composite(time_cube().drop_vars("spatial_ref"))


# --- add -------------------------------------------------------------------------------------------------------------------


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
    with pytest.raises(BandError, match=r"'dem' has dimensions \('lat', 'lon'\)"):
        add(ds, dem=layer().drop_vars(["x", "y"]).rename(y="lat", x="lon"))
    with pytest.raises(BandError, match=r"'rain' has dimensions \('month', 'y', 'x'\)"):
        add(ds, climate=assign(xr.Dataset({"rain": layer().expand_dims(month=3)}), BOX))
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


# --- check -----------------------------------------------------------------------------------------------------------------

SPEC = ModelSpec.preset("miso-nano", sat=["red", "nir"], cov=["elevation"], pixel_size=10)


def test_a_cube_that_fits_gives_its_grid(no_compute):
    with no_compute(), pytest.warns(MisoxrWarning, match=r"optional bands \['elevation'\]"):
        assert same_grid(check(image(chunks={"y": 7}), SPEC), BOX)  # elevation is not required
    assert same_grid(check(add(image(), elevation=layer(units="m")), SPEC), BOX)
    assert same_grid(check(add(image(), elevation=layer(units="m")).transpose("x", "y"), SPEC), BOX)


def test_cubes_that_do_not_fit_are_refused():
    refused = partial(check, spec=SPEC)
    with pytest.raises(BandError, match=r"lacks \['nir'\].*it has \['red', 'blue'\]"):
        refused(image().rename(nir="blue"))
    with pytest.raises(BandError, match=r"\('time', 'y', 'x'\); reduce the time with ds.miso.composite"):
        refused(time_cube())
    with pytest.raises(BandError, match=r"'nir' has dimensions \('y20', 'x20'\).*share one grid"):
        refused(image().assign(nir=(("y20", "x20"), np.zeros((20, 25)))))
    with pytest.raises(BandError, match=r"'elevation' has dimensions \('y', 'x', 'level'\)"):
        refused(image().assign(elevation=layer().expand_dims(level=2, axis=2)))
    with pytest.raises(GridError, match="no CRS"):
        refused(image().drop_vars("spatial_ref"))
    with pytest.raises(GridError, match="pixels are 20 m and model 'miso-nano' reads pixels of 10 m"):
        refused(image(box_at(0, 0, 20, (5, 5))))
    with pytest.raises(GridError, match="not north-up.*sortby"):
        refused(image().isel(y=slice(None, None, -1)))
    with pytest.raises(GridError, match="US survey foot.*wrong CRS"):
        refused(image(GeoBox((5, 5), Affine(10, 0, 1e6, 0, -10, 1e6), "EPSG:2964")))
    with pytest.raises(GridError, match="in degrees .*wrong CRS.*EPSG:3338"):
        refused(image(GeoBox((5, 5), Affine(1e-4, 0, -150, 0, -1e-4, 64), "EPSG:4326")))
    with pytest.raises(GridError, match="irregular"):
        refused(image().assign_coords(y=image().y + np.arange(40) ** 2 * 0.01))
