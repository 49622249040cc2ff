"""Years and intervals in the forms in which people write them."""

import datetime as dt

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from misoxr.errors import CatalogError
from misoxr.stac.dates import interval_of, years_of

DAY = np.timedelta64(1, "D")
INDEX = pd.date_range("2020-08-20", "2020-08-22")


@pytest.mark.parametrize(
    "when",
    [
        ("2020-08-20", "2020-08-22"),
        "2020-08-20/2020-08-22",
        ["2020-08-20", dt.date(2020, 8, 22)],
        (dt.date(2020, 8, 20), dt.date(2020, 8, 22)),
        (dt.datetime(2020, 8, 20), dt.datetime(2020, 8, 22)),
        (pd.Timestamp("2020-08-20"), pd.Timestamp("2020-08-22")),
        (np.datetime64("2020-08-20"), np.datetime64("2020-08-22")),
        (np.datetime64("2020-08-20", "ns"), np.datetime64("2020-08-22", "ns")),
        (pd.Period("2020-08-20"), pd.Period("2020-08-22")),
        slice("2020-08-20", "2020-08-22"),
        INDEX,
        INDEX[[0, 2]],
        INDEX.values,
        INDEX.to_series(),
        INDEX.to_period("D"),
        np.array(["2020-08-20", "2020-08-22"], "M8[D]"),
        xr.DataArray(INDEX),
        tuple(xr.DataArray(INDEX)[[0, 2]]),
    ],
    ids=lambda when: f"{type(when).__name__} {when}"[:60],
)
def test_days_are_whole_however_they_are_written(when):
    assert interval_of(when) == interval_of(("2020-08-20", "2020-08-22"))
    assert interval_of(when)[1] == pd.Timestamp("2020-08-23") - pd.Timedelta(1, "ns")


@pytest.mark.parametrize(
    "when",
    [dt.date(2020, 8, 21), np.datetime64("2020-08-21"), pd.Period("2020-08-21"), pd.Timestamp("2020-08-21"), "20200821"],
    ids=repr,
)
def test_one_day(when):
    assert interval_of(when) == interval_of("2020-08-21")


def test_months_years_moments_and_open_ends():
    for month in (np.datetime64("2020-08"), pd.Period("2020-08"), "Aug 2020"):
        assert interval_of(month) == interval_of("2020-08")
    assert interval_of(np.datetime64("2020")) == interval_of("2020") == interval_of(pd.Period("2020"))
    assert interval_of(("2020-06", None))[1] is None
    assert interval_of("../2020")[0] is None
    assert interval_of(None) == interval_of("../..") == (None, None)
    noon = pd.Timestamp("2020-08-21T12:00")
    for moment in (noon, noon.to_pydatetime(), noon.to_datetime64(), "2020-08-21T12:00:00Z", "2020-08-21T14:00:00+02:00"):
        assert interval_of(moment) == (noon, noon)
    assert interval_of(pd.Timestamp("2020-08-21", tz="UTC")) == (pd.Timestamp("2020-08-21"),) * 2


class Cftime:
    """As cftime's times of the standard calendar are."""

    calendar = "standard"

    def isoformat(self) -> str:
        return "2020-08-21T00:00:00"


def test_cftime():
    assert interval_of(Cftime()) == interval_of("2020-08-21")


@pytest.mark.parametrize(
    "when",
    [
        5,
        True,
        2020.0,
        "last summer",
        "now",
        "12",
        "2020-13",
        b"2020",
        pd.NaT,
        np.datetime64("NaT"),
        {},
        [],
        ("a", "b", "c"),
        slice("2020", "2021", 2),
        np.array([1, 2]),
        pd.DatetimeIndex([]),
        pd.DatetimeIndex(["2020-01-01", "2020-01-05", "2020-03-01"]),
        ("2021", "2020"),
    ],
    ids=repr,
)
def test_what_is_no_time_is_refused(when):
    with pytest.raises(CatalogError, match=r"is not a date|neither a moment nor|holds no times|ends before it starts"):
        interval_of(when)


def test_years():
    one = [
        2020,
        np.int64(2020),
        np.uint16(2020),
        "2020",
        2020.0,
        dt.date(2020, 1, 1),
        pd.Period("2020"),
        np.datetime64("2020"),
        np.array(2020),
    ]
    assert {years_of(year) for year in one} == {(2020,)}
    several = [
        range(2019, 2021),
        [2020, "2019"],
        (2019, np.int32(2020)),
        {2019, 2020},
        np.arange(2019, 2021),
        pd.Index([2019, 2020]),
    ]
    several += [pd.date_range("2019", "2020", freq="YS"), (year for year in (2020, 2019, 2020)), np.array(["2019", "2020"])]
    assert {years_of(years) for years in several} == {(2019, 2020)}
    assert years_of(None) is None


@pytest.mark.parametrize(
    "years", [20, True, "2019-2021", "2019/2021", "two", [2020.5], [], {"a": 1}, len, np.datetime64("NaT")], ids=repr
)
def test_what_is_no_year_is_refused(years):
    with pytest.raises(CatalogError, match=r"years.*range\(2019, 2024\)"):
        years_of(years)


@pytest.mark.parametrize("when", ["05-06-2020", "5/6/2020 12:00", "20.06.2020"])
def test_a_day_that_could_be_another_is_refused(when):
    with pytest.raises(CatalogError, match="is not a date; write it as 2020-06-20"):
        interval_of([when])
    assert interval_of("June 2020")[0] == pd.Timestamp("2020-06-01")
