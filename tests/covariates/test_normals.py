"""Climate from monthly normals: as catalogues of normals store them, in their units, on an image's grid, corrected for elevation."""

import numpy as np
import pandas as pd
import pyproj
import pytest
import rasterio
import rioxarray  # noqa: F401
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

import misoxr
from misoxr.covariates import climate
from misoxr.cube.stack import stack
from misoxr.errors import AssetError, BandError, GridError, MisoxrWarning, SpecError
from misoxr.grid.geobox import assign, geobox_of, same_grid
from misoxr.spec import COVARIATES

MEANS = np.array([-22, -18, -12, -1.5, 7, 14, 16.5, 13, 6, -4, -15, -20.0])
"""Monthly means, degC; what is above 0 sums up to 56.5."""
RAIN = np.array([15, 10, 9, 7, 15, 35, 55, 50, 28, 20, 17, 16.0])
"""Monthly precipitation, mm; 277 in all."""
COLD = MEANS - 6.25
BOX = GeoBox((6, 8), Affine(0.5, 0, -150, 0, -0.5, 66), "EPSG:4326")
STEP = np.arange(48.0).reshape(6, 8) / 100
"""What is added to temperatures, so that no two pixels are alike."""
DAYS = [31, 28.25, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]


def normals(months, units, step=STEP, box=BOX, dim="month", **coords):
    """An array (month, y, x) of values by month, that differ from pixel to pixel."""
    values = np.asarray(months)[:, None, None] + step
    array = xr.DataArray(values.astype("float32"), dims=(dim, "y", "x"), coords=coords, attrs={"units": units} if units else {})
    return assign(array, box)


def expected_warmth(step=STEP):
    """Month by month, plainly."""
    total = np.zeros(step.shape)
    for month in MEANS:
        at = month + step
        total += np.where(at > 0, at, 0)
    return total


@pytest.fixture
def temperature():
    return normals(MEANS, "degC")


@pytest.fixture
def rain():
    return normals(RAIN, "mm", 0 * STEP)


# What is computed


def test_the_three_covariates_of_the_presets(temperature, rain, no_compute):
    with no_compute():
        lazy = climate(temperature, rain, minimum=normals(COLD, "degC"))
    assert all(array.chunks for array in lazy.values())
    found = lazy.compute()
    np.testing.assert_allclose(found.annual_precipitation, 277, rtol=1e-6)
    np.testing.assert_allclose(found.summer_warmth_index, expected_warmth(), rtol=1e-5)
    assert found.summer_warmth_index.values[0, 0] == pytest.approx(7 + 14 + 16.5 + 13 + 6)
    np.testing.assert_allclose(found.january_minimum_temperature, -28.25 + STEP, rtol=1e-6)
    units = {band.name: band.units for band in COVARIATES}
    assert {name: array.attrs["units"] for name, array in found.items()} == {name: units[name] for name in found}
    assert all(array.dtype == "float32" and array.dims == ("y", "x") for array in found.values())
    assert geobox_of(found) == BOX


def test_a_mean_is_no_minimum(temperature, rain):
    assert list(climate(temperature, rain)) == ["annual_precipitation", "summer_warmth_index"]


def test_nodata_of_a_month_is_nodata_of_the_year():
    step = STEP.copy()
    step[2, 3] = np.nan
    found = climate(normals(MEANS, "degC", step), normals(RAIN, "mm", 0 * STEP), minimum=normals(COLD, "degC")).compute()
    np.testing.assert_array_equal(np.isnan(found.summer_warmth_index), np.isnan(step))
    assert not np.isnan(found.january_minimum_temperature).any()
    holed = normals(MEANS, "degC")
    holed[0, 1, 1] = np.nan
    assert np.isnan(climate(holed, normals(RAIN, "mm")).summer_warmth_index.values[1, 1])


def test_any_chunks_give_the_same(temperature, rain):
    whole = climate(temperature, rain).compute()
    for chunks in ({"month": 1, "y": 4, "x": 3}, {"month": 5}, {"y": 1, "x": 8}):
        parts = climate(temperature.chunk(chunks), rain.chunk({"month": 12})).compute()
        xr.testing.assert_identical(parts, whole)


@pytest.mark.parametrize("which", ["temperature", "precipitation", "minimum", "like", "elevation"])
def test_what_is_simulated_stays_marked(which, temperature, rain, tmp_path):
    mark = {"simulated": 1, "simulator_version": "2"}
    given = {"temperature": temperature, "precipitation": rain, "minimum": normals(COLD, "degC")}
    given |= {"like": dem(STEP), "elevation": dem(STEP), "lapse_rate": 6.5}
    assert climate(**given).attrs == {}
    assert climate(**{**given, which: given[which].assign_attrs(mark)}).attrs == mark
    whole = given[which].to_dataset(name="elevation").assign_attrs(mark)
    assert climate(**{**given, which: whole}).attrs == mark
    whole.to_zarr(tmp_path / "one.zarr")
    assert climate(**{**given, which: tmp_path / "one.zarr"}).attrs == mark


# Units


@pytest.mark.parametrize(
    ("units", "values"),
    [
        ("K", MEANS + 273.15),
        ("kelvin", MEANS + 273.15),
        ("Celsius", MEANS),
        ("°C", MEANS),
        ("℃", MEANS),
        ("deg. C", MEANS),
        ("0.1 degC", MEANS * 10),
        ("0.1*K", (MEANS + 273.15) * 10),
        ("K/10", (MEANS + 273.15) * 10),
        ("degF", MEANS * 1.8 + 32),
    ],
)
def test_temperatures_in_other_units(units, values, rain):
    found = climate(normals(values, units, 0 * STEP), rain).summer_warmth_index
    np.testing.assert_allclose(found, 56.5, atol=2e-3)


@pytest.mark.parametrize(
    ("units", "each"),
    [
        ("mm", 1),
        ("mm/month", 1),
        ("mm mon-1", 1),
        ("kg m-2", 1),
        ("kg m-2 month-1", 1),
        ("cm", 0.1),
        ("m", 0.001),
        ("0.1 mm", 10),
        ("mm/day", 1 / np.array(DAYS)),
        ("mm d-1", 1 / np.array(DAYS)),
        ("m/day", 1e-3 / np.array(DAYS)),
        ("kg m-2 s-1", 1 / np.array(DAYS) / 86_400),
        ("kg m**-2 s**-1", 1 / np.array(DAYS) / 86_400),
        ("mm/s", 1 / np.array(DAYS) / 86_400),
        ("mm hr-1", 1 / np.array(DAYS) / 24),
        ("inches", 1 / 25.4),
        ("m of water equivalent", 0.001),
        ("mm w.e.", 1),
        ("m of water equivalent per day", 1e-3 / np.array(DAYS)),
        ("kg.m-2.s-1", 1 / np.array(DAYS) / 86_400),
        ("mm*day-1", 1 / np.array(DAYS)),
    ],
)
def test_precipitation_in_other_units(units, each, temperature):
    found = climate(temperature, normals(RAIN * each, units, 0 * STEP)).annual_precipitation
    np.testing.assert_allclose(found, 277, rtol=1e-5)


def test_units_that_are_missing_or_wrong_are_passed(rain):
    bare = normals(MEANS * 10, None, 0 * STEP)
    with pytest.raises(BandError, match=r"temperature has no units. Pass them: units=\{'temperature': ...\}.*tenths"):
        climate(bare, rain)
    found = climate(bare, rain.assign_attrs(units="m"), units={"temperature": "0.1 degC", "precipitation": "mm"})
    np.testing.assert_allclose(found.summer_warmth_index, 56.5, rtol=1e-5)
    np.testing.assert_allclose(found.annual_precipitation, 277, rtol=1e-5)


@pytest.mark.parametrize("units", ["mm/year", "mm yr-1", "fathom", "degC", "1"])
def test_other_units_of_precipitation_are_refused(units, temperature):
    with pytest.raises(BandError, match="precipitation is in .* need mm"):
        climate(temperature, normals(RAIN, units))


@pytest.mark.parametrize("units", ["degR", "mm", "degC month", "degC*10", "degC/month"])
def test_other_units_of_temperature_are_refused(units, rain):
    with pytest.raises(BandError, match="temperature is in .* need degC"):
        climate(normals(MEANS, units), rain)


def test_values_that_no_month_on_earth_has_are_refused(temperature, rain):
    with pytest.raises(BandError, match=r"A month of temperature is 2\d\d.* degC.*Pass the units that hold"):
        climate(normals(MEANS + 273.15, "degC"), rain).compute()
    for fill in (-9999, -99.9, -99):
        with pytest.raises(BandError, match=f"A month of temperature is {fill} degC.*nodata value"):
            climate(temperature.where(temperature.x > -149, fill), rain).compute()
    with pytest.raises(BandError, match="A month of precipitation is -9999 mm"):
        climate(temperature, rain.where(rain.x > -149, -9999)).compute()


def test_scaled_integers_with_nodata(rain):
    """As CHELSA and WorldClim store them: tenths of kelvins with scale and offset, -32768 for the sea."""
    stored = np.rint((MEANS[:, None, None] + np.zeros((6, 8)) + 273.15) * 10).astype("int16")
    stored[:, 0, 0] = -32768
    attrs = {"units": "degC", "scale_factor": 0.1, "add_offset": -273.15, "_FillValue": np.int16(-32768)}
    array = assign(xr.DataArray(stored, dims=("month", "y", "x"), attrs=attrs), BOX)
    found = climate(array, rain).summer_warmth_index.values
    assert np.isnan(found[0, 0])
    np.testing.assert_allclose(found.ravel()[1:], 56.5, atol=0.3)  # five months, rounded to 0.05 each


# Months


def test_months_are_told_by_coordinates(temperature, rain):
    expected = climate(temperature, rain).compute()
    order = [6, 0, 11, 3, 4, 9, 8, 7, 5, 2, 10, 1]
    numbered = temperature.assign_coords(month=range(1, 13)).isel(month=order)
    days = temperature.rename(month="time").assign_coords(time=pd.date_range("1991-01-16", periods=12, freq="30D")).isel(time=order)
    named = temperature.assign_coords(
        month=["Jan", "February", "mar", "Apr", "May", "June", "Jul", "Aug", "Sept", "Oct", "Nov", "Dec"]
    )
    beside = temperature.rename(month="layer").assign_coords(month=("layer", np.arange(1, 13))).isel(layer=order)
    water_year = temperature.isel(month=[9, 10, 11, *range(9)]).rename(month="time")
    water_year = water_year.assign_coords(time=pd.date_range("2019-10-01", periods=12, freq="MS"))
    cold = normals(COLD, "degC").assign_coords(month=range(1, 13)).isel(month=order)
    for one in (numbered, days, named.isel(month=order), beside, water_year, temperature.rename(month="anything")):
        found = climate(one, rain, minimum=cold).compute()
        np.testing.assert_allclose(found.summer_warmth_index, expected.summer_warmth_index, rtol=1e-6)
        np.testing.assert_allclose(found.january_minimum_temperature, -28.25 + STEP, rtol=1e-6)
    for one in (numbered, days, named, beside):
        january = climate(temperature, rain, minimum=one).january_minimum_temperature
        np.testing.assert_allclose(january, -22 + STEP, rtol=1e-6)


def at_their_ends(array, name):
    """A Dataset whose months have the time at which they end, as climate models write them, with bounds."""
    ends = pd.date_range("2001-02-01", periods=12, freq="MS")
    bounds = np.stack([pd.date_range("2001-01-01", periods=12, freq="MS"), ends], axis=1)
    ds = array.rename(month="time").assign_coords(time=("time", ends, {"bounds": "time_bnds"})).to_dataset(name=name)
    return ds.assign(time_bnds=(("time", "nbnd"), bounds))


def test_months_that_have_the_time_of_their_end_are_told_by_bounds(tmp_path, rain, temperature):
    expected = climate(temperature, rain, minimum=normals(COLD, "degC")).compute()
    warm, cold, wet = (at_their_ends(one, "t") for one in (temperature, normals(COLD, "degC"), rain))
    warm.to_netcdf(tmp_path / "warm.nc")
    cold.to_zarr(tmp_path / "cold.zarr", consolidated=False)
    for minimum in (cold, str(tmp_path / "cold.zarr")):
        xr.testing.assert_allclose(climate(str(tmp_path / "warm.nc"), wet, minimum=minimum), expected)
    parts = [cold.isel(time=[at]) for at in (5, 0, *range(1, 5), *range(6, 12))]
    np.testing.assert_allclose(climate(warm, wet, minimum=parts).january_minimum_temperature, -28.25 + STEP, rtol=1e-6)


def test_bounds_of_a_climatology_go_from_the_first_year_to_the_last(rain, temperature):
    def thirty_years(array, name):
        ds = at_their_ends(array, name)
        bounds = ds.time_bnds.values - [np.timedelta64(365 * 29 + 8, "D"), np.timedelta64(0, "D")]  # 1972 to 2001
        ds["time"].attrs = {"climatology": "time_bnds"}
        return ds.assign(time_bnds=(("time", "nbnd"), bounds))

    found = climate(thirty_years(temperature, "t"), thirty_years(rain, "p"), minimum=thirty_years(normals(COLD, "degC"), "t"))
    xr.testing.assert_allclose(found.compute(), climate(temperature, rain, minimum=normals(COLD, "degC")).compute())


def test_bounds_that_an_array_has_lost_are_told(temperature, rain):
    with pytest.warns(MisoxrWarning, match="may be the ends of months. Their 'time_bnds' would tell: give the Dataset"):
        climate(at_their_ends(temperature, "t").t, rain)


def test_means_of_amounts_need_their_time(temperature):
    """As ERA5 writes monthly means of total precipitation: metres, and of a day."""
    daily = normals(RAIN / 1000 / np.array(DAYS), "m", 0 * STEP)
    daily.attrs["GRIB_stepType"] = "avgad"
    with pytest.raises(BandError, match=r"in 'm', and its GRIB_stepType 'avgad' says that it is a mean.*'precipitation': 'm/day'"):
        climate(temperature, daily)
    found = climate(temperature, daily, units={"precipitation": "m/day"})
    np.testing.assert_allclose(found.annual_precipitation, 277, rtol=1e-5)
    del daily.attrs["units"]
    with pytest.raises(BandError, match=r"in None, .*'precipitation': 'm/day'"):
        climate(temperature, daily)
    daily.attrs["units"] = "m day-1"  # a rate needs nothing
    np.testing.assert_allclose(climate(temperature, daily).annual_precipitation, 277, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: xr.concat([a, a], "month"), r"dimensions \{'month': 24.*groupby\(\"time.month\"\)\.mean\(\)\.$"),
        (lambda a: a.isel(month=slice(11)), "dimensions {'month': 11"),
        (lambda a: a.isel(month=0), r"dimensions \{'y': 6, 'x': 8\}"),
        (lambda a: a.expand_dims(model=3), "dimensions {'model': 3"),
        (
            lambda a: a.expand_dims(expver=2),
            r"and \['expver'\] beside its months. Select or reduce them first, such as .isel\(expver=0\)",
        ),
        (lambda a: a.assign_coords(month=range(12)), r"does not tell twelve months of a year: \[0, 1.*range\(1, 13\)"),
        (lambda a: a.assign_coords(month=[1] * 12), "does not tell twelve months"),
        (
            lambda a: a.rename(month="time").assign_coords(time=pd.date_range("1990", periods=12, freq="QS")),
            "does not tell twelve months",
        ),
        (lambda a: [a.isel(month=at) for at in range(11)], "has 11 layers"),
        (lambda a: a.to_dataset(name="t").assign(u=a), r"has the variables \['t', 'u'\]"),
        (lambda a: a.to_dataset("month").rename({at: f"v{'abcdefghijkl'[at]}" for at in range(12)}), "whose names tell the month"),
    ],
)
def test_what_is_not_twelve_months_is_refused(change, words, temperature, rain):
    with pytest.raises(BandError, match=words):
        climate(change(temperature), rain)


def test_amounts_of_days_are_summed_before_their_mean(temperature, rain):
    """A temperature is never summed."""
    with pytest.raises(BandError, match=r"groupby.* Sum amounts of days to months before that: \.resample"):
        climate(temperature, xr.concat([rain, rain], "month"))


# Files


def bands(path, values, units, box=BOX, nodata=None, descriptions=None):
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        crs=str(box.crs),
        transform=box.affine,
        height=6,
        width=8,
        count=len(values),
        dtype="float32",
        nodata=nodata,
    ) as file:
        file.write(np.asarray(values, "float32"))
        file.units = [units or ""] * len(values)
        if descriptions:
            file.descriptions = descriptions
    return path


def test_geotiffs_of_twelve_bands(tmp_path, rain):
    values = MEANS[:, None, None] + STEP
    values[:, 5, 7] = -9999
    stack = bands(tmp_path / "tavg.tif", values, "degC", nodata=-9999)
    expected = expected_warmth()
    expected[5, 7] = np.nan
    np.testing.assert_allclose(climate(stack, rain).summer_warmth_index, expected, rtol=1e-5)
    # Names in the order of the alphabet: 1, 10, 11, 12, 2, ... as a shell sorts them
    order = sorted(range(1, 13), key=str)
    mixed = bands(
        tmp_path / "mixed.tif", values[np.array(order) - 1], None, nodata=-9999, descriptions=[f"tavg_{m}" for m in order]
    )
    found = climate(mixed, rain, minimum=mixed, units={"temperature": "degC", "minimum": "degC"}).compute()
    np.testing.assert_allclose(found.summer_warmth_index, expected, rtol=1e-5)
    np.testing.assert_allclose(found.january_minimum_temperature.values[0], -22 + STEP[0], rtol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "wc2.1_30s_tavg_{:02}.tif",
            "CHELSA_tas_{:02}_1981-2010_V.2.1.tif",
            "PRISM_tmean_30yr_normal_800mM4_{:02}_bil.tif",
            "t{}.tif",
        ),
        *(
            "tmin{word}.tif",
            "tmin_{word}_mean.tif",
            "TMIN-{word}.tif",
            "tmin_2019{:02}.tif",
            "tmin_2019{:02}15_v2.tif",
            "swe_{:02}_2021{delivered:02}15.tif",
            "tmin_{from_0}.tif",
        ),
    ],
)
def test_twelve_files_in_any_order(name, tmp_path, rain):
    words = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    paths = [
        bands(
            tmp_path / name.format(month, word=words[month - 1], from_0=month - 1, delivered=(month + 3) % 12 + 1),
            [value + STEP],
            None,
        )
        for month, value in enumerate(MEANS, 1)
    ]
    for several in (paths, sorted(map(str, paths)), paths[::-1]):
        found = climate(several, rain, minimum=several, units={"temperature": "degC", "minimum": "degC"}).compute()
        np.testing.assert_allclose(found.summer_warmth_index, expected_warmth(), rtol=1e-5)
        np.testing.assert_allclose(found.january_minimum_temperature, -22 + STEP, rtol=1e-5)


def test_files_whose_names_and_times_tell_other_months_are_refused(tmp_path, temperature, rain):
    """Numbers of runs are none of months."""
    times = pd.date_range("2001-01-16", periods=12, freq="30D")
    parts = [temperature.isel(month=at).expand_dims(time=times[[at]]).to_dataset(name="t") for at in range(12)]
    runs, right = ([tmp_path / f"run{(at + shift) % 12 + 1:02d}.nc" for at in range(12)] for shift in (6, 0))
    for path, part in zip(runs, parts, strict=True):
        part.to_netcdf(path)
    with pytest.raises(BandError, match="file 'run07.nc' of temperature is of month 7 by its name, and of month 1 by its time"):
        climate(runs, rain)
    ends = pd.date_range("2001-02-01", periods=12, freq="MS")
    for path, part, end in zip(right, parts, ends, strict=True):
        part.assign_coords(time=[end]).to_netcdf(tmp_path / f"end_{path.name}")  # of the end of the month that its name tells
        part.to_netcdf(path)
    named = [tmp_path / f"end_{path.name}" for path in right]
    xr.testing.assert_allclose(climate(named, rain).summer_warmth_index, climate(right, rain).summer_warmth_index)
    found = climate(right[::-1], rain).summer_warmth_index
    np.testing.assert_allclose(found, climate(temperature, rain).summer_warmth_index, rtol=1e-6)


def test_files_whose_names_tell_no_month_are_in_the_order_given_and_it_is_told(tmp_path, rain):
    paths = [bands(tmp_path / f"{name}.tif", [value + STEP], None) for name, value in zip("abcdefghijkl", MEANS, strict=True)]
    with pytest.warns(
        MisoxrWarning, match=r"files of temperature do not tell their months by their names: 'a.tif' is taken for January"
    ):
        found = climate(paths, rain, units={"temperature": "degC"}).compute()
    np.testing.assert_allclose(found.summer_warmth_index, expected_warmth(), rtol=1e-5)


@pytest.mark.parametrize("told", ["by number", "by time", "by a time of length 1", "by name"])
def test_arrays_in_a_list_tell_their_months(told, temperature, rain):
    layers = [temperature.isel(month=at, drop=True).rename("t") for at in range(12)]
    if told == "by number":
        layers = [layer.assign_coords(month=month) for month, layer in enumerate(layers, 1)]
    elif told == "by name":
        layers = [layer.rename(f"tavg_{month}") for month, layer in enumerate(layers, 1)]
    else:
        layers = [layer.assign_coords(time=np.datetime64(f"2001-{month:02}-15", "ns")) for month, layer in enumerate(layers, 1)]
    if told == "by a time of length 1":
        layers = [layer.expand_dims("time") for layer in layers]
    found = climate(layers, rain, minimum=[layer - 5 for layer in layers[::-1]], units={"minimum": "degC"})
    np.testing.assert_allclose(found.summer_warmth_index, expected_warmth(), rtol=1e-5)
    np.testing.assert_allclose(found.january_minimum_temperature, -27 + STEP, rtol=1e-5)


def test_arrays_in_a_list_are_in_the_order_of_the_list(temperature, rain):
    found = climate([temperature.isel(month=at, drop=True) for at in range(12)], rain).summer_warmth_index
    np.testing.assert_allclose(found, expected_warmth(), rtol=1e-5)
    other = assign(temperature.isel(month=3).copy(), BOX.pad(1)[1:7, 0:8])
    with pytest.raises(GridError, match="Month 1 of temperature covers .* and month 4"):
        climate([other if at == 3 else temperature.isel(month=at) for at in range(12)], rain)


def as_netcdf(values, units, longitudes=BOX.coordinates["longitude"].values):
    """As many write them: lat and lon, no CRS, times in the middle of months, bounds beside."""
    latitudes = BOX.coordinates["latitude"].values
    times = pd.to_datetime([f"2000-{month:02}-15" for month in range(1, 13)])
    ds = xr.Dataset(
        {"tas": (("time", "lat", "lon"), values.astype("float32"), {"units": units})},
        {
            "time": times,
            "lat": ("lat", latitudes, {"units": "degrees_north"}),
            "lon": ("lon", longitudes, {"units": "degrees_east"}),
        },
    )
    bounds = np.stack([latitudes + 0.25, latitudes - 0.25], -1)
    return ds.assign(lat_bnds=(("lat", "bnds"), bounds))


@pytest.mark.parametrize("kind", ["nc", "zarr", "nc4"])
def test_netcdf_and_zarr_with_latitudes_and_longitudes(kind, tmp_path, rain):
    ds = as_netcdf(MEANS[:, None, None] + STEP + 273.15, "K")
    path = tmp_path / f"tas.{kind}"
    if kind == "zarr":
        ds.to_zarr(path)
    elif kind == "nc":
        ds.to_netcdf(path, engine="scipy")
    else:
        pytest.importorskip("h5netcdf")
        ds.to_netcdf(path, engine="h5netcdf")
    for source in (path, str(path), ds, ds.tas, ds.isel(lat=slice(None, None, -1))):
        found = climate(source, rain, like=rain.isel(month=0)).summer_warmth_index
        np.testing.assert_allclose(found, expected_warmth(), atol=2e-3)


def test_a_file_that_cannot_be_read_is_named(tmp_path, rain):
    (tmp_path / "bad.nc").write_bytes(b"nothing")
    for name in ("bad.nc", "none.tif", "none.zarr"):
        with pytest.raises(AssetError, match=name):
            climate(tmp_path / name, rain)


def test_a_grid_mapping_of_parameters_alone(rain):
    """As Daymet writes it: Lambert's projection without WKT."""
    mapping = {
        "grid_mapping_name": "lambert_conformal_conic",
        "standard_parallel": [25.0, 60.0],
        "longitude_of_central_meridian": -100.0,
        "latitude_of_projection_origin": 42.5,
        "semi_major_axis": 6378137.0,
        "inverse_flattening": 298.257223563,
    }
    crs = "+proj=lcc +lat_1=25 +lat_2=60 +lat_0=42.5 +lon_0=-100 +ellps=WGS84"
    x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(-148, 64.5)
    side = 1000 * (np.arange(200) - 99.5)
    values = MEANS[:, None, None] + np.zeros((200, 200))
    ds = xr.Dataset(
        {
            "tmean": (("time", "y", "x"), values.astype("float32"), {"units": "degrees C", "grid_mapping": "lambert"}),
            "lambert": ((), 0, mapping),
        },
        {"y": y - side, "x": x + side, "time": pd.date_range("1980-01-16", periods=12, freq="30D")},
    )
    near = GeoBox((2, 2), Affine(0.1, 0, -148.1, 0, -0.1, 64.6), "EPSG:4326")
    found = climate(ds, rain, like=assign(xr.DataArray(np.zeros((2, 2)), dims=("y", "x")), near)).summer_warmth_index
    np.testing.assert_allclose(found, 56.5, rtol=1e-5)


# On the grid of an image


def image(origin=(250_000.0, 1_650_000.0), shape=(30, 40), crs="EPSG:3338", pixel=10.0, chunk=None):
    box = GeoBox(shape, Affine(pixel, 0, origin[0], 0, -pixel, origin[1]), crs)
    ds = assign(xr.Dataset({"red": (("y", "x"), np.full(shape, 0.1, "float32"), {"units": "1"})}), box)
    return ds.chunk(chunk) if chunk else ds


def lonlat(ds):
    turn = pyproj.Transformer.from_crs(str(geobox_of(ds).crs), "EPSG:4326", always_xy=True)
    return turn.transform(*np.meshgrid(ds.x, ds.y))


def plane(lon, lat):
    """A field that bilinear weights give exactly, on either side of 180 degrees."""
    return 0.2 * ((lon % 360) - 150) + 0.1 * (lat - 60)


def world(longitudes):
    """Monthly means of half degrees that are all above 0 and follow the plane; precipitation is twelve times the same."""
    latitudes = np.arange(89.75, -90, -0.5)
    field = plane(longitudes[None, :], latitudes[:, None])
    coords = {"lat": ("lat", latitudes), "lon": ("lon", longitudes)}
    values = np.broadcast_to(field, (12, *field.shape)).astype("float32")
    mean = xr.DataArray(values, dims=("month", "lat", "lon"), coords=coords, attrs={"units": "degC"})
    return mean, (0 * mean + 10).assign_attrs(units="mm")


EAST = np.arange(0.25, 360, 0.5)


@pytest.mark.parametrize("longitudes", [EAST, np.arange(-179.75, 180, 0.5), EAST[380:440]], ids=["0..360", "-180..180", "part"])
@pytest.mark.parametrize("up", [1, -1])
def test_normals_of_half_degrees_joined_to_pixels_of_ten_metres(longitudes, up, no_compute):
    cube = image(chunk={"y": 16, "x": 16})
    mean, rain = (one.isel(lat=slice(None, None, up)) for one in world(longitudes))
    with no_compute():
        joined = cube.miso.add(climate=climate(mean, rain))
    assert joined.summer_warmth_index.chunks == cube.red.chunks
    lon, lat = lonlat(cube)
    np.testing.assert_allclose(joined.summer_warmth_index, 12 * plane(lon, lat), rtol=2e-4)
    np.testing.assert_allclose(joined.annual_precipitation, 120, rtol=1e-6)
    spec = misoxr.ModelSpec.preset("miso-nano", sat=["red"], cov=["annual_precipitation", "summer_warmth_index"])
    np.testing.assert_array_equal(stack(joined, spec)[2], joined.summer_warmth_index)  # in the model's units, without a warning
    np.testing.assert_allclose(climate(mean, rain, like=cube).summer_warmth_index, joined.summer_warmth_index, rtol=1e-5)


@pytest.mark.parametrize("longitudes", [EAST, np.arange(-179.75, 180, 0.5)], ids=["0..360", "-180..180"])
def test_an_image_across_the_antimeridian(longitudes):
    """UTM zone 1 and its west: no seam, and each pixel its own value."""
    cube = image((200_000.0, 5_800_000.0), (20, 1200), "EPSG:32601", 500.0)
    lon, lat = lonlat(cube)
    assert lon.min() < -175
    assert lon.max() > 175
    mean, rain = world(longitudes)
    found = climate(mean, rain, like=cube).summer_warmth_index
    np.testing.assert_allclose(found, 12 * plane(lon, lat), rtol=1e-3)


def test_beyond_the_normals_is_nodata_and_far_away_is_refused(temperature, rain):
    box = GeoBox((4, 4), Affine(0.25, 0, -150.5, 0, -0.25, 66), "EPSG:4326")
    edge = assign(xr.Dataset({"red": (("y", "x"), np.zeros((4, 4), "float32"))}), box)
    with pytest.warns(MisoxrWarning, match="'temperature' covers .* nodata beyond"):
        found = climate(temperature, rain, like=edge).summer_warmth_index.values
    np.testing.assert_array_equal(np.isnan(found), [[True, True, False, False]] * 4)
    # Half a pixel beside the outer centres, nothing is extrapolated: the corner has the corner pixel's value.
    assert found[0, 2] == pytest.approx(56.5)
    with pytest.raises(GridError, match="do not overlap"):
        climate(temperature, rain, like=image((2_000_000.0, 300_000.0)))


def test_grids_that_differ_need_an_image(temperature):
    other = normals(RAIN, "mm", 0 * STEP, GeoBox((6, 8), Affine(0.5, 0, -150, 0, -0.5, 65.5), "EPSG:4326"))
    with pytest.raises(GridError, match="temperature covers .* and precipitation .*like=image"):
        climate(temperature, other)
    found = climate(temperature, other, like=image())
    np.testing.assert_allclose(found.annual_precipitation, 277, rtol=1e-6)


# Elevation


def dem(values, units="m", box=BOX):
    return assign(xr.DataArray(np.asarray(values, "float32"), dims=("y", "x"), attrs={"units": units} if units else {}), box)


def test_temperatures_are_corrected_before_the_threshold(rain):
    """500 m higher at 6.5 degC per km is 3.25 degC colder: months of 7, 14, 16.5, 13 and 6 degC become 3.75, 10.75, 13.25, 9.75 and 2.75."""
    flat = 0 * STEP
    found = climate(
        normals(MEANS, "degC", flat),
        rain,
        minimum=normals(COLD, "degC", flat),
        like=dem(flat + 800),
        elevation=dem(flat + 300),
        lapse_rate=6.5,
    ).compute()
    np.testing.assert_allclose(found.summer_warmth_index, 3.75 + 10.75 + 13.25 + 9.75 + 2.75, rtol=1e-5)
    np.testing.assert_allclose(found.january_minimum_temperature, -28.25 - 3.25, rtol=1e-6)
    np.testing.assert_allclose(found.annual_precipitation, 277, rtol=1e-6)
    assert "6.5 degC per km" in found.summer_warmth_index.attrs["comment"]
    assert "comment" not in found.annual_precipitation.attrs
    # 1500 m higher, September and May are below 0: the index is no difference of 5 times 9.75 degC.
    higher = climate(normals(MEANS, "degC", flat), rain, like=dem(flat + 1800), elevation=dem(flat + 300), lapse_rate=6.5)
    np.testing.assert_allclose(higher.summer_warmth_index, 4.25 + 6.75 + 3.25, rtol=1e-5)
    # 1000 m lower at 2 degC per km: April is -1.5 + 2 = 0.5 degC, and counts.
    lower = climate(normals(MEANS, "degC", flat), rain, like=dem(flat), elevation=dem(flat + 1000), lapse_rate=2)
    np.testing.assert_allclose(lower.summer_warmth_index, 56.5 + 5 * 2 + 0.5, rtol=1e-5)


def test_rates_of_each_month(rain):
    """Cold air lies in the valley in January; July falls by 8 degC per km."""
    rates = [-3, 0, 4, 6, 7, 8, 8, 8, 7, 5, 2, -1]
    flat = 0 * STEP
    found = climate(
        normals(MEANS, "degC", flat),
        rain,
        minimum=normals(COLD, "degC", flat),
        like=dem(flat + 500),
        elevation=dem(flat),
        lapse_rate=rates,
    ).compute()
    np.testing.assert_allclose(found.summer_warmth_index, 56.5 - 0.5 * (7 + 8 + 8 + 8 + 7), rtol=1e-5)
    np.testing.assert_allclose(found.january_minimum_temperature, -28.25 + 1.5, rtol=1e-6)


def test_the_correction_on_a_fine_grid(no_compute):
    """Coarse normals whose elevation follows a plane; the image has its own heights, in feet."""
    cube = image(chunk={"y": 16, "x": 16})
    lon, lat = lonlat(cube)
    heights = np.random.default_rng(0).uniform(0, 900, (30, 40)).astype("float32")
    cube = cube.assign(elevation=(("y", "x"), heights / np.float32(0.3048), {"units": "ft"})).chunk({"y": 16, "x": 16})
    mean, rain = world(EAST)
    base = (100 * mean.isel(month=0)).assign_attrs(units="m")
    with no_compute():
        lazy = climate(mean, rain, like=cube, elevation=base, lapse_rate=6)
    assert lazy.summer_warmth_index.chunks == ((16, 14), (16, 16, 8))
    month = plane(lon, lat) - 6 * (heights - 100 * plane(lon, lat)) / 1000
    np.testing.assert_allclose(lazy.summer_warmth_index, 12 * np.maximum(month, 0), atol=0.02)
    assert (month > 0).all()
    holed = cube.assign(elevation=cube.elevation.where(cube.elevation > 1000))
    there = climate(mean, rain, like=holed, elevation=base, lapse_rate=6).compute()
    np.testing.assert_array_equal(np.isnan(there.summer_warmth_index), np.isnan(holed.elevation))
    assert not np.isnan(there.annual_precipitation).any()


def test_elevations_in_files(tmp_path, rain):
    """A DEM by its path is the grid, too."""
    fine = GeoBox((10, 10), Affine(0.1, 0, -149, 0, -0.1, 65), "EPSG:4326")
    high, low = tmp_path / "dem.tif", tmp_path / "low.tif"
    dem(np.full((10, 10), 800), box=fine).rio.write_crs("EPSG:4326").rio.to_raster(high)
    dem(0 * STEP + 300).rio.write_crs("EPSG:4326").rio.to_raster(low)
    mean = normals(MEANS, "degC", 0 * STEP)
    found = climate(mean, rain, like=high, elevation=low, lapse_rate=6.5).compute()
    assert same_grid(geobox_of(found), fine)
    np.testing.assert_allclose(found.summer_warmth_index, 40.25, rtol=1e-5)


def test_elevations_without_units_are_metres_with_a_warning(temperature, rain):
    with pytest.warns(MisoxrWarning, match="like has no units.*\n*.*elevation has no units"):
        climate(temperature, rain, like=dem(STEP, None), elevation=dem(STEP, None), lapse_rate=6.5)
    with pytest.raises(BandError, match="like is in 'degC', and elevations are needed in metres"):
        climate(temperature, rain, like=dem(STEP, "degC"), elevation=dem(STEP), lapse_rate=6.5)


@pytest.mark.parametrize("which", ["like", "elevation"])
def test_undeclared_nodata_are_no_elevations(which, rain):
    """At -9999 m and 6.5 degC per km, January would be 65 degC warmer."""
    heights = {"like": dem(STEP + 100), "elevation": dem(STEP)}
    heights[which][2, 3] = -9999
    found = normals(np.full(12, -5.0), "degC")
    for lazy in (False, True):
        one = {**heights, which: heights[which].chunk(y=3)} if lazy else heights
        with pytest.raises(BandError, match=f"{which} has elevations of -9999 m.*undeclared nodata"):
            climate(found, rain, minimum=found, **one, lapse_rate=6.5).compute()
    declared = {**heights, which: heights[which].assign_attrs(_FillValue=np.float32(-9999))}
    warm = climate(found, rain, **declared, lapse_rate=6.5).summer_warmth_index.values
    assert np.argwhere(np.isnan(warm)).tolist() == [[2, 3]]


@pytest.mark.parametrize("integers", [False, True])
def test_elevations_are_in_the_units_of_the_vertical_crs(integers, rain):
    """A DEM of 1000 US survey feet, by its CRS, is 304.8 m high: 1.98 degC colder at 6.5 degC per km."""
    box = GeoBox((6, 8), Affine(1000, 0, 250_000, 0, -1000, 1_650_000), pyproj.CRS("EPSG:3338+6360").to_wkt())
    high = assign(xr.DataArray(np.full((6, 8), 1000, "int16" if integers else "float32"), dims=("y", "x")), box)
    flat = normals(MEANS, "degC", 0 * STEP)
    found = climate(flat, rain, like=high, elevation=dem(0 * STEP), lapse_rate=6.5).summer_warmth_index
    np.testing.assert_allclose(found, 56.5 - 5 * 6.5 * 0.3048006, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"lapse_rate": 6.5}, SpecError, "without like"),
        ({"lapse_rate": 6.5, "like": dem(STEP)}, SpecError, "without elevation"),
        ({"elevation": dem(STEP)}, SpecError, "elevation is given without lapse_rate"),
        ({"lapse_rate": 0.0065}, SpecError, r"in degC per km"),
        ({"lapse_rate": -6.5}, SpecError, "positive where it gets colder upward"),
        ({"lapse_rate": 65}, SpecError, "degC per km"),
        ({"lapse_rate": [6.5] * 11}, SpecError, "one number or twelve"),
        ({"lapse_rate": "6.5"}, SpecError, "one number or twelve"),
        ({"lapse_rate": np.nan}, SpecError, "one number or twelve"),
        ({"lapse_rate": 6.5, "like": image()}, BandError, "no 'elevation'"),
        ({"like": 3, "elevation": None}, SpecError, "like is a int"),
        ({"units": "degC"}, SpecError, "units is 'degC'"),
        ({"units": {"temprature": "degC"}}, SpecError, 'Did you mean "temperature"'),
    ],
)
def test_arguments_that_do_not_go_together(arguments, error, words, temperature, rain):
    both = {"like": dem(STEP), "elevation": dem(STEP)} if len(arguments) == 1 and "degC" in words or "one number" in words else {}
    if words == "no 'elevation'":
        both = {"elevation": dem(STEP)}
    if words.startswith("positive"):
        both = {"like": dem(STEP), "elevation": dem(STEP)}
    with pytest.raises(error, match=words):
        climate(temperature, rain, **{**both, **arguments})


def test_normals_without_a_crs_are_refused(rain):
    with pytest.raises(GridError, match="no CRS"):
        climate(
            normals(MEANS, "degC").drop_vars("spatial_ref").drop_attrs().assign_attrs(units="degC").assign_coords(x=range(8)), rain
        )


def test_a_minimum_above_the_mean_is_refused(temperature, rain):
    climate(temperature, rain, minimum=normals(MEANS, "degC")).compute()  # as coarse normals may be
    with pytest.raises(BandError, match=r"January has a minimum of -17 degC where its mean is -22 degC.*minimum="):
        climate(temperature, rain, minimum=normals(MEANS + 5, "degC")).compute()
