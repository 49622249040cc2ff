"""Composites in time, rasters joined to a cube, and the check of a cube against a model."""

import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from misoxr.cube.check import check
from misoxr.cube.composite import composite
from misoxr.cube.join import add
from misoxr.cube.reductions import reduce_time
from misoxr.cube.season import Days, first_days, in_season, season_years
from misoxr.errors import BandError, GridError, MisoxrWarning, SpecError
from misoxr.grid.geobox import assign, geobox_of, same_grid
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


# --- seasons ---------------------------------------------------------------------------------------------------------------

DAYS = pd.date_range("2018-01-01", "2021-12-31", freq="D")
TEXT = DAYS.strftime("%m-%d")


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


@settings(deadline=None)
@given(st.dates(), st.dates())
def test_a_wrapping_season_is_the_complement_of_the_rest_of_the_year(one, other):
    first, last = f"{one:%m-%d}", f"{other:%m-%d}"
    inside = in_season(DAYS, (first, last))
    expected = (first <= TEXT) & (last >= TEXT) if first <= last else (first <= TEXT) | (last >= TEXT)
    assert (inside == expected).all()
    by_year = [in_season(DAYS, (first, last), [year]) for year in range(2017, 2022)]
    assert (np.sum(by_year, axis=0) == inside).all()  # each day belongs to one year's season


@pytest.mark.parametrize("season", [("6-20", "08-20"), ("06-20", "08-32"), ("2020-06-20", "08-20"), ("02-30", "03-01"), (620, 820)])
def test_a_day_that_is_none_is_refused(season):
    with pytest.raises(SpecError, match="not a day of the year"):
        in_season(DAYS, season)


def test_february_ends_with_its_last_day_in_every_calendar():
    days = Days(*(np.array(part) for part in ([2019] * 3, [2, 2, 3], [28, 30, 1])))  # of years of 360 days
    assert in_season(days, ("12-01", "02-29")).tolist() == [True, True, False]
    assert season_years(days, ("12-01", "02-29"))[:2].tolist() == [2018, 2018]


@pytest.mark.parametrize("season", ["06-20", ("06-20",)])
def test_a_season_is_a_pair(season):
    with pytest.raises(SpecError, match="not a pair of days"):
        in_season(DAYS, season)


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
@pytest.mark.parametrize("method", ["median", "mean", "p10", "geomedian", "count"])
@pytest.mark.parametrize("by", [None, "year"])
def test_a_lazy_composite_computes_nothing_and_is_the_same(no_compute, chunks, method, by):
    with no_compute():
        lazy = composite(time_cube(chunks), ("06-20", "08-20"), method=method, by=by)
    assert all(lazy[name].chunks is not None for name in ("red", "nir", "observations", "dem"))
    assert lazy["red"].chunksizes["x"][0] == min(chunks["x"], 50)
    xr.testing.assert_identical(lazy.compute(), composite(time_cube(), ("06-20", "08-20"), method=method, by=by))


def test_a_composite_takes_every_reduction():
    ds = time_cube().isel(time=slice(0, 5))
    values = ds[["red", "nir"]].to_array().values.astype("float64")  # (band, time, y, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        expected = {"mean": np.nanmean(values, axis=1), "p25": np.nanpercentile(values, 25, axis=1)}
    for method, found in expected.items():
        out = composite(ds, method=method)
        assert out["red"].attrs["units"] == "1"
        np.testing.assert_allclose(out[["red", "nir"]].to_array(), found, rtol=0, atol=1e-6)
    counts = composite(ds, method="count")
    np.testing.assert_array_equal(counts[["red", "nir"]].to_array(), (~np.isnan(values)).sum(axis=1))
    assert counts["red"].dtype == "uint16"
    assert counts["red"].attrs["standard_name"] == "number_of_observations"
    assert counts["red"][3, 4] == 0
    with pytest.raises(BandError, match="'red' holds numbers of observations"):
        check(counts, SPEC)
    centres = composite(ds, method="geomedian")
    np.testing.assert_array_equal(
        centres[["red", "nir"]].to_array(), reduce_time(values.swapaxes(0, 1).astype("float32"), "geomedian")
    )
    np.testing.assert_array_equal(centres["observations"], composite(ds)["observations"])


@pytest.mark.parametrize("lazy", [False, True])
def test_a_variable_of_several_layers_is_several_bands_of_a_geometric_median(lazy):
    ds = time_cube()
    layered = ds[["red", "nir"]].to_array("wavelength").drop_vars("wavelength").transpose("y", "time", "wavelength", "x")
    one = assign(xr.Dataset({"reflectance": layered.assign_attrs(units="1"), "scl": ds["red"].round()}), BOX)
    out = composite(one.chunk({"time": 2, "wavelength": 1, "y": 17}) if lazy else one, method="geomedian")
    assert out["reflectance"].dims == ("wavelength", "y", "x")
    np.testing.assert_array_equal(out["reflectance"], composite(ds, method="geomedian")[["red", "nir"]].to_array())
    np.testing.assert_array_equal(out["scl"], composite(one)["scl"])


def test_a_geometric_median_of_bands_of_several_units_is_refused():
    ds = time_cube()
    ds["nir"].attrs["units"] = "percent"
    with pytest.raises(BandError, match=r"'geomedian' measures one distance.*\{'red': '1', 'nir': '%'\}; reduce bands of one unit"):
        composite(ds, method="geomedian")
    composite(ds[["red", "spatial_ref"]], method="geomedian")
    del ds["nir"].attrs["units"]
    with pytest.raises(BandError, match="write missing units down"):
        composite(ds, method="geomedian")


def test_classes_keep_their_most_frequent_code_whatever_the_bands_do():
    for method in ("median", "count", "geomedian", "p99"):
        out = composite(masked(flags=BESIDE["flags"], n=(DIMS, np.ones((2, 4, 5), "float32"), {"units": "1"})), method=method)
        assert (out["flags"] == 4).all()
        assert "flag_values" in out["flags"].attrs


@pytest.mark.parametrize(("season", "days"), [(("06-20", "08-20"), "06-20"), (("12-01", "02-28"), "12-01"), (None, "01-01")])
@pytest.mark.parametrize("chunks", [None, {"time": 1, "y": 16}])
def test_a_composite_by_year_is_one_for_each_year(season, days, chunks):
    ds = time_cube(chunks)
    yearly = composite(ds, season, by="year")
    years = {"06-20": [2019, 2020, 2021], "12-01": [2019], "01-01": [2019, 2020, 2021]}[days]
    assert [str(time)[:10] for time in yearly["time"].values] == [f"{year}-{days}" for year in years]
    assert yearly["dem"].dims == ("y", "x")
    assert yearly["red"].dims == yearly["observations"].dims == ("time", "y", "x")
    assert "cloud" not in yearly.variables
    for at, year in enumerate(years):
        one = composite(ds, season, year)
        for name in ("red", "nir", "observations", "dem"):
            assert one[name].attrs == yearly[name].attrs
        xr.testing.assert_equal(
            one[["red", "nir", "observations", "dem"]], yearly.isel(time=at, drop=True)[["red", "nir", "observations", "dem"]]
        )
        again = composite(yearly, season, year)  # each year's is found by its season
        xr.testing.assert_equal(one[["red", "nir"]], again[["red", "nir"]])
    with pytest.warns(MisoxrWarning, match=r"Nothing is of the years \[2017, 2035\]; they are left out\."):
        assert list(composite(ds, season, [2035, 2019, 2017, 2017], by="year")["time"].dt.year) == [2019]


@pytest.mark.parametrize("kind", ["datetime64[s]", "str"])
@pytest.mark.parametrize("years", [(2999, 3000), (1500, 2020), (2019, 2020)])
def test_years_of_any_age_are_composed(kind, years):
    """Nanoseconds reach from 1678 to 2261."""
    times = np.array([f"{year}-07-0{day}" for year in years for day in (1, 3)], kind)
    red = np.repeat(np.arange(4, dtype="float32"), 6).reshape(4, 2, 3)
    ds = assign(xr.Dataset({"red": (("time", "y", "x"), red)}, {"time": times}), box_at(0, 0, 10, (2, 3)))
    yearly = composite(ds, ("06-20", "08-20"), by="year")
    assert [str(day)[:10] for day in yearly["time"].values] == [f"{year}-06-20" for year in years]
    np.testing.assert_array_equal(yearly["red"], np.repeat([0.5, 2.5], 6).reshape(2, 2, 3))
    assert list(composite(yearly, ("06-20", "08-20"), years[1], by="year")["time"].dt.year) == [years[1]]


def test_the_first_day_of_a_season_lies_in_it():
    for season in (None, ("02-29", "03-05"), ("02-29", "02-10"), ("12-31", "12-31"), ("07-01", "06-30")):
        days = first_days([2019, 2020], season)
        assert in_season(days, season).all()
        assert season_years(days, season).tolist() == [2019, 2020]
    assert str(first_days([2019], ("02-29", "03-05"))[0].date()) == "2019-03-01"


def test_counts_with_a_nodata_value_are_masked_before_the_median():
    box = box_at(0, 0, 10, (2, 2))
    counts = np.array([[[0, 5], [0, 7]], [[4, 6], [0, 9]], [[0, 9], [0, 8]]], "uint16")
    ds = assign(xr.Dataset({"red": (("time", "y", "x"), counts, {"nodata": 0})}, {"time": pd.date_range("2020", periods=3)}), box)
    out = composite(ds)
    np.testing.assert_array_equal(out["red"], [[4, 6], [np.nan, 8]])
    np.testing.assert_array_equal(out["observations"], [[1, 3], [0, 3]])
    assert "nodata" not in out["red"].attrs


@pytest.mark.parametrize("lazy", [False, True])
def test_what_is_infinite_is_not_seen(lazy):
    """-inf, -12, -10 dB; and infinite twice beside it."""
    values = np.array([-np.inf, -12, -10, np.inf, np.nan, -np.inf], "float32").reshape(2, 3).T[:, None]
    codes = np.array([[np.inf, np.inf, 4]] * 2, "float32").T[:, None]
    times = pd.date_range("2022-07-01", periods=3)
    held = {"vv": (("time", "y", "x"), values, {"units": "dB"}), "scl": (("time", "y", "x"), codes)}
    ds = assign(xr.Dataset(held, {"time": times}), box_at(0, 0, 10, (1, 2)))
    for method, expected in {"median": -11, "mean": -11, "p1": -11.98, "geomedian": -11, "count": 2}.items():
        out = composite(ds.chunk(time=1) if lazy else ds, method=method)
        np.testing.assert_allclose(out["vv"], [[expected, 0 if method == "count" else np.nan]], rtol=1e-5)
        np.testing.assert_array_equal(out["observations"], [[2, 0]])
        np.testing.assert_array_equal(out["scl"], [[4, 4]])


def test_a_composite_that_cannot_be_made_is_refused():
    with pytest.raises(
        SpecError, match=r"6 times of the cube, from 2019-07-01 to 2021-09-01.*season \('01-01', '02-01'\).*\[2019\]"
    ):
        composite(time_cube(), ("01-01", "02-01"), (year for year in [2019]))
    with pytest.raises(SpecError, match="Unknown method 'max'.*a percentile from 'p1' to 'p99'"):
        composite(time_cube(), method="max")
    for by in ("month", 2020, ["year"]):
        with pytest.raises(SpecError, match="by=.* is unknown; use 'year'"):
            composite(time_cube(), by=by)
    with pytest.raises(GridError, match="no time to reduce"):
        composite(image())
    with pytest.raises(BandError, match="has the dimensions time, y and x"):
        composite(time_cube()[["dem"]].assign_coords(time=time_cube().time))
    with pytest.raises(GridError, match="no CRS"):
        composite(time_cube().drop_vars("spatial_ref"))


def masked(**beside: object) -> xr.Dataset:
    """A band that is seen twice but for the last pixel, which is never seen, and what stands beside it."""
    red = np.stack([np.full((4, 5), value, "float32") for value in (1, 2)])
    red[:, 3, 4] = np.nan
    coords = {"time": pd.DatetimeIndex(["2020-07-01", "2020-07-15"])}
    return assign(xr.Dataset({"red": (DIMS, red, {"units": "1"}), **beside}, coords), box_at(0, 0, 10, (4, 5)))


DIMS = ("time", "y", "x")
SCL = np.stack([np.full((4, 5), code, "uint8") for code in (4, 9)])
BESIDE = {
    "cover": ("time", [10.0, 20.0]),
    "id": ("time", np.array(["a", "b"], dtype=object)),
    "scl": (DIMS, SCL),
    "flags": (DIMS, SCL.astype("float32"), {"flag_values": [4, 9], "flag_meanings": "vegetation cloud"}),
    "classified": (DIMS, SCL.astype("int16"), {"classification:classes": "4, 9"}),
    "clear": (DIMS, np.zeros((2, 4, 5), bool)),
    "n_seen": (DIMS, np.zeros((2, 4, 5), "uint16"), {"units": "1"}),
    "rows": (("time", "y"), np.zeros((2, 4))),
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("lazy", [False, True])
def test_only_bands_are_observations(name, lazy):
    ds = masked(**{name: BESIDE[name]})
    out = composite(ds.chunk(time=1) if lazy else ds)
    assert out["observations"].values[3, 4] == 0
    assert (out["observations"].values[:3] == 2).all()
    assert (name in out) == ({"time", "y", "x"} <= set(ds[name].dims))


def test_classes_of_a_composite_are_whole_codes():
    codes = np.array([[[4, 9, 0]], [[9, 9, 0]], [[9, 4, 7]], [[4, 5, 0]]], "uint8")
    times = {"time": pd.date_range("2020-07-01", periods=4)}
    dims = {"scl": {"nodata": 0}, "landcover": {}, "qa_pixel": {"scale_factor": 0.5, "_FillValue": 0}}
    ds = xr.Dataset({name: (DIMS, codes.astype("float32" if attrs else "uint8"), attrs) for name, attrs in dims.items()}, times)
    out = composite(assign(ds, box_at(0, 0, 10, (1, 3))), method="mean")
    np.testing.assert_array_equal(out["scl"], [[4, 9, 7]])  # the least of two that are as frequent, and nodata is no code
    np.testing.assert_array_equal(out["landcover"], [[4, 9, 0]])
    np.testing.assert_array_equal(out["qa_pixel"], [[4, 9, 7]])  # a class is never scaled
    np.testing.assert_array_equal(out["observations"], [[4, 4, 1]])


def test_bytes_without_units_are_classes_with_a_warning():
    with pytest.warns(MisoxrWarning, match=r"\['cover', 'kind'\] hold bytes without units.*ds\[\"cover\"\]") as warned:
        out = composite(masked(cover=(DIMS, SCL), kind=(DIMS, SCL), blue=(DIMS, SCL), share=(DIMS, SCL, {"units": "%"})))
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert [float(out[name][0, 0]) for name in ("cover", "kind", "blue", "share")] == [4, 4, 6.5, 6.5]


def test_observations_of_composites_are_those_behind_them():
    first, second = composite(masked()), composite(masked().isel(time=[0]))
    both = xr.concat([first, second], dim=pd.DatetimeIndex(["2019-07-15", "2020-07-15"], name="time"))
    seen = composite(both)["observations"]
    assert seen.dtype == "uint16"
    assert (seen.values[:3] == 3).all()
    assert seen.values[3, 4] == 0
    holed = both.assign(red=both.red.where(both.time.dt.year == 2019))
    assert (composite(holed)["observations"].values[:3] == 2).all()


def test_a_count_in_a_cube_is_masked_and_scaled_before_the_median():
    counts = np.full((3, *BOX.shape), 1500, "uint16")
    counts[0] = 0
    attrs = {"scale_factor": "0.0001", "add_offset": -0.1, "nodatavals": (0.0,), "units": "1", "valid_range": [1, 20_000]}
    ds = assign(xr.Dataset({"red": (DIMS, counts, attrs)}, {"time": pd.date_range("2020", periods=3)}), BOX)
    for cube in (ds, ds.chunk(time=1, y=9)):
        out = composite(cube)
        np.testing.assert_allclose(out["red"], 0.05, atol=1e-7)
        assert set(out["red"].attrs) == {"units", "grid_mapping"}
        assert (out["observations"] == 2).all()


class Noleap:
    """A day of a calendar without leap years, as cftime has them."""

    def __init__(self, year: int, month: int, day: int) -> None:
        self.year, self.month, self.day = year, month, day


@pytest.mark.parametrize(
    "times",
    [
        [Noleap(2019, 12, 31), Noleap(2020, 7, 1)],
        [pd.Timestamp("2019-12-31", tz="UTC"), pd.Timestamp("2020-07-01", tz="UTC")],
        [pd.Timestamp("2019-12-31").date(), pd.Timestamp("2020-07-01").date()],
        ["2019-12-31", "2020-07-01T21:00:00Z"],
    ],
)
def test_times_of_any_kind_are_dates(times):
    index = np.empty(2, dtype=object)
    index[:] = times
    ds = masked().assign_coords(time=("time", index if not isinstance(times[0], str) else times))
    assert (composite(ds, ("06-20", "08-20"))["red"].values[0] == 2).all()
    assert (composite(ds, years=2019)["red"].values[0] == 1).all()
    with pytest.raises(SpecError, match="2 times of the cube, from 2019-12-31 to 2020-07-01"):
        composite(ds, years=2030)


def test_dates_of_another_name_are_told():
    dates = pd.date_range("2021-06-01", periods=2)
    ds = xr.concat([image()] * 2, "valid_time").assign_coords(valid_time=dates)
    with pytest.raises(GridError, match=r"no time to reduce; rename its dates: ds.rename\(valid_time='time'\)"):
        composite(ds)


def test_a_month_that_has_the_time_of_its_end_is_told_by_its_bounds():
    ends = pd.date_range("2021-06-01", periods=4, freq="MS")  # May to August
    ds = xr.concat([image() * 0 + at for at in range(5, 9)], "time").assign_coords(time=("time", ends, {"bounds": "time_bnds"}))
    bounds = np.stack([ends - pd.DateOffset(months=1), ends], axis=1)
    summer = ("06-01", "08-31")
    bare = composite(ds, summer, method="mean")
    told = composite(ds.assign(time_bnds=(("time", "nv"), bounds)), summer, method="mean")
    begins = composite(ds.assign(time_bnds=(("time", "nv"), bounds + np.timedelta64(31, "D"))), summer, method="mean")
    for found, month in ((bare, 6), (told, 7), (begins, 6)):
        assert (found["red"] == month).all()
        assert (found["observations"] == 3).all()


@pytest.mark.parametrize("times", [[2019, 2020], [0.5, 1.5], ["soon", "later"], pd.DatetimeIndex(["2020-07-01", "NaT"])])
def test_times_that_are_no_dates_are_refused(times):
    with pytest.raises(SpecError, match="2 times of the cube.*are not dates.*pd.to_datetime"):
        composite(masked().assign_coords(time=("time", times)))


def test_times_with_a_zone_have_the_days_of_their_zone():
    times = pd.to_datetime(["2021-06-30T23:30", "2021-07-05T12:00", "2021-08-09T12:00"], utc=True).tz_convert("Etc/GMT-2")
    ds = xr.concat([image()] * 3, "time").assign_coords(time=times)
    assert int(ds.miso.composite(season=("07-01", "07-31")).observations.max()) == 2


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (["01/07/2021", "13/07/2021"], 2),
        (["13.06.2021", "01.07.2021"], 1),
        (["07/13/2021", "07/01/2021"], 2),
        (["07/07/2021"] * 2, 2),
    ],
)
def test_one_day_beyond_12_tells_the_order_of_all(text, count):
    ds = xr.concat([image()] * 2, "time").assign_coords(time=text)
    assert int(ds.miso.composite(season=("07-01", "07-31")).observations.max()) == count


@pytest.mark.parametrize("text", ["01/07/2021", "1.7.21", "01-07-2021", "21-07-13"])
def test_text_that_may_begin_with_day_or_month_is_refused(text):
    ds = xr.concat([image()] * 2, "time").assign_coords(time=[text, "2021-07-13"])
    with pytest.raises(
        SpecError, match=f"The time {text!r} of the cube may begin with its (day or with its month|year); .*dayfirst=True"
    ):
        ds.miso.composite(season=("07-01", "07-31"))
    written = ds.assign_coords(time=["1 July 2021", "20210713"])
    assert int(written.miso.composite(season=("07-01", "07-31")).observations.max()) == 2


@pytest.mark.parametrize(
    "years", [2020, np.int64(2020), "2020", ["2020"], range(2020, 2021), np.array([2020]), {2020.0}, np.array(2020)]
)
def test_years_in_any_form(years):
    ds = masked().assign_coords(time=pd.DatetimeIndex(["2019-07-01", "2020-07-01"]))
    assert (composite(ds, years=years)["red"].values[0] == 2).all()


@pytest.mark.parametrize("years", ["2019-2021", 2020.5, [], [None], "last", pd.Timestamp("2020"), True, {"a": 1}])
def test_what_is_no_year_is_refused(years):
    with pytest.raises(SpecError, match=r"years is .*give a year, or several, such as range\(2019, 2024\)"):
        composite(masked(), years=years)


def test_other_arguments_of_a_composite_are_checked():
    for season in (620, slice("06-20", "08-20"), {"06-20", "08-20"}):
        with pytest.raises(SpecError, match="not a pair of days"):
            composite(masked(), season)
    for method, hint in (("medain", 'Did you mean "median"'), (["median"], ""), (None, "")):
        with pytest.raises(SpecError, match=f"Unknown method .*{hint}"):
            composite(masked(), method=method)
    with pytest.raises(GridError, match="The cube is a DataArray; give a Dataset"):
        composite(masked()["red"])
    with pytest.raises(BandError, match="'text' holds <U1 and not numbers"):
        composite(masked(text=(DIMS, np.full((2, 4, 5), "a"))))


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
    with pytest.raises(BandError, match=r"'nir' has dimensions \('y20', 'x20'\).*share one grid \(y, x\): join it"):  # y is taken
        refused(image().assign(nir=(("y20", "x20"), np.zeros((20, 25)))))
    for dims in (("lat", "lon"), ("longitude", "latitude")):
        rows, columns = sorted(dims)
        with pytest.raises(BandError, match=rf"ds\.rename\({{'{rows}': 'y', '{columns}': 'x'}}\); else join"):
            refused(image().transpose(*(("y", "x") if dims[0] == "lat" else ("x", "y"))).rename(y=rows, x=columns))
    alone = image()[["red", "nir"]].to_array("band").to_dataset(name="bands")
    with pytest.raises(BandError, match=r"'bands' has them along 'band'; .* ds\['bands'\]\.to_dataset\('band'\)\.$"):
        refused(alone)
    beside = alone.assign(elevation=layer(units="m"))
    with pytest.raises(BandError, match=r"\.to_dataset\('band'\)\.merge\(ds\.drop_vars\('bands'\)\)\.$"):
        refused(beside)
    refused(beside["bands"].to_dataset("band").merge(beside.drop_vars("bands")))
    with pytest.raises(BandError, match=r"'elevation' has dimensions \('y', 'x', 'level'\)"):
        refused(image().assign(elevation=layer().expand_dims(level=2, axis=2)))
    with pytest.raises(GridError, match="no CRS"):
        refused(image().drop_vars("spatial_ref"))
    with pytest.raises(GridError, match="pixels are 20 m, and the model reads pixels of 10 m"):
        refused(image(box_at(0, 0, 20, (5, 5))))
    with pytest.raises(GridError, match="not north-up.*sortby"):
        refused(image().isel(y=slice(None, None, -1)))
    with pytest.raises(GridError, match="US survey foot.*wrong CRS"):
        refused(image(GeoBox((5, 5), Affine(10, 0, 1e6, 0, -10, 1e6), "EPSG:2964")))
    with pytest.raises(GridError, match="in degrees .*wrong CRS.*estimate_utm_crs"):
        refused(image(GeoBox((5, 5), Affine(1e-4, 0, -150, 0, -1e-4, 64), "EPSG:4326")))
    for step, crs, told in ((1e-4, "EPSG:4326", "in degrees"), (1, "+proj=stere +lat_0=90 +units=km", "counts in kilometre")):
        own, grid = replace(SPEC, pixel_size=step), GeoBox((5, 5), Affine(step, 0, 9, 0, -step, 64), crs)
        with pytest.raises(GridError, match=rf"{told}.* for pixels in metres; .*estimate_utm_crs\(\)\)\.$"):
            check(image(grid), own)
    with pytest.raises(GridError, match="irregular"):
        refused(image().assign_coords(y=image().y + np.arange(40) ** 2 * 0.01))


def test_directions_are_told_to_be_reduced_as_numbers(no_compute):
    days = pd.date_range("2020-07-01", periods=2)
    towards = layer(units="degree").expand_dims(time=days)
    with pytest.warns(MisoxrWarning, match=r"\['wind_direction'\] are directions, .*mean of 359 and 1 is 180"):
        composite(xr.Dataset({"red": layer(units="1").expand_dims(time=days), "wind_direction": towards}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        composite(xr.Dataset({name: towards.assign_attrs(units="1") for name in ("cos_aspect", "aspect_sine", "aspect_sd")}))
        composite(xr.Dataset({"red": towards.assign_attrs(units="1", standard_name="surface_bidirectional_reflectance")}))
