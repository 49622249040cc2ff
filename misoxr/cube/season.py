"""Seasons: which times lie in a season of some years, and of which year's they are, in any calendar."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from numbers import Real
from reprlib import repr as short
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from misoxr.errors import SpecError, note
from misoxr.spec.components import check as check_spec

__all__ = [
    "TIME",
    "Days",
    "days_of",
    "first_days",
    "in_season",
    "note_without",
    "season_years",
    "span_of",
    "with_middles",
    "years_of",
]

Integers = npt.NDArray[np.int64]

TIME = {"standard_name": "time", "long_name": "first day of the season of each year"}
"""Attributes of the times of composites by year."""


_EITHER = re.compile(r"\s*(\d{1,2})[-/. ](\d{1,2})[-/. ](\d{4}|\d{2})\b")
"""Dates as text that begin with the day, or with the month."""


class Days(NamedTuple):
    """Days of any calendar, as far as a season needs to know them."""

    year: Integers
    month: Integers
    day: Integers


def in_season(
    times: pd.DatetimeIndex | Days, season: tuple[str, str] | None = None, years: int | Iterable[int] | None = None
) -> npt.NDArray[np.bool_]:
    """Return which times lie in a season of some years.

    Parameters
    ----------
    times : DatetimeIndex or Days
        Times, in UTC where they carry no time zone.
    season : (str, str), optional
        First and last day as "MM-DD", both inclusive; the whole year by default. A season that ends before it starts wraps
        over new year and belongs to the year it starts in.
    years : int or iterable of int, optional
        Years to keep; all by default.

    Returns
    -------
    ndarray of bool, shape (time,)

    Raises
    ------
    SpecError
        If a day is not a day of the calendar in the form "MM-DD", or a year is none.
    """
    inside = np.ones(len(times.year), dtype=bool)
    if season is not None:
        first, last = _ends(season)
        place = _places(times)
        inside = (place >= first) & (place <= last) if first <= last else (place >= first) | (place <= last)
    if years is not None:
        inside = inside & np.isin(season_years(times, season), years_of(years))
    return inside


def season_years(times: pd.DatetimeIndex | Days, season: tuple[str, str] | None = None) -> Integers:
    """Return the year in which each time's season starts; times are taken to lie in the season."""
    year: Integers = np.asarray(times.year, dtype="int64")
    if season is None:
        return year
    first, last = _ends(season)
    wrapped: Integers = year - (_places(times) <= last) * (first > last)
    return wrapped


def first_days(years: Iterable[int], season: tuple[str, str] | None = None) -> pd.DatetimeIndex:
    """Return the first day of each year's season, which lies in the season itself; 1 January for whole years."""
    month, day = divmod(101 if season is None else _month_day(_pair(season)[0]), 100)
    months = np.array([12 * (year - 1970) + month - 1 for year in years], dtype="datetime64[M]")
    # 29 February may be no day of the year: then such a season begins on 1 March
    days = pd.DatetimeIndex((months.astype("datetime64[D]") + (day - 1)).astype("datetime64[s]"))
    try:
        return days.as_unit("ns")
    except pd.errors.OutOfBoundsDatetime:  # nanoseconds reach from 1678 to 2261
        return days


def note_without(asked: Iterable[int] | None, found: Iterable[int]) -> None:
    """Warn of years that are asked for, and of which there is nothing."""
    without = sorted(set(asked or ()) - set(found))
    if without:
        note(f"Nothing is of the years {without}; they are left out.")


def years_of(years: Any) -> list[int]:
    """Return the years that are asked for: one, or several, as whole numbers or text.

    Raises
    ------
    SpecError
        If one is no year, or there is none.
    """
    several = np.array([years]).ravel().tolist() if isinstance(years, str | Real | np.ndarray) else years
    words = f"years is {short(years)}; give a year, or several, such as range(2019, 2024)."
    check_spec(isinstance(several, Iterable) and not isinstance(several, Mapping), words)
    found = []
    for year in several:
        digits = str(year).removesuffix(".0")
        check_spec(bool(re.fullmatch(r"\d{1,4}", digits)), words)
        found.append(int(digits))
    check_spec(bool(found), words)
    return found


def _places(times: pd.DatetimeIndex | Days) -> Integers:
    places: Integers = np.asarray(times.month, dtype="int64") * 100 + np.asarray(times.day, dtype="int64")
    return places


def _ends(season: Any) -> tuple[int, int]:
    """Return the first and last day as month * 100 + day; 29 February ends the month also where that has 30 days, as in a year of 360."""
    first, last = (_month_day(text) for text in _pair(season))
    return first, 230 if last == 229 else last


def _pair(season: Any) -> tuple[str, str]:
    if isinstance(season, str) or not isinstance(season, Sequence) or len(season) != 2:
        raise SpecError(f'The season {season!r} is not a pair of days; write (first, last), such as ("06-20", "08-20").')
    return season[0], season[1]


def _month_day(text: str) -> int:
    """Return "MM-DD" as month * 100 + day; 29 February is a day."""
    try:
        if not re.fullmatch(r"\d\d-\d\d", text):
            raise ValueError(text)
        day = datetime.strptime(f"2000-{text}", "%Y-%m-%d")
    except (TypeError, ValueError):
        raise SpecError(f'{text!r} is not a day of the year; write "MM-DD", such as "06-20".') from None
    return day.month * 100 + day.day


def span_of(days: Days) -> str:
    """Return the first and the last day, in words."""
    found = sorted(zip(*days, strict=True))
    return (
        "none at all"
        if not found
        else " to ".join(f"{year:04d}-{month:02d}-{day:02d}" for year, month, day in (found[0], found[-1]))
    )


def with_middles(ds: xr.Dataset) -> xr.Dataset:
    """Return a dataset in which no time is the end of its own bounds, but their middle: the end of a month lies in the next one.

    CF's bounds of a climatology go from the first year to the last: their end is taken back by a day.
    """
    for name, times in ds.coords.items():
        told = times.attrs | {key: value for key, value in times.encoding.items() if key in ("bounds", "climatology")}
        bounds = ds.variables.get(str(told.get("climatology", told.get("bounds"))))
        if times.ndim != 1 or bounds is None or bounds.shape != (times.size, 2) or not (_are_dates(times) and _are_dates(bounds)):
            continue
        first, last = bounds.values.T
        ends = times.values >= last
        if ends.any():
            day = np.timedelta64(1, "D") if last.dtype.kind == "M" else timedelta(days=1)  # of cftime
            within = last - day if "climatology" in told else first + (last - first) / 2
            ds = ds.assign_coords({name: (times.dims, np.where(ends, within, times.values), times.attrs)})
    return ds


def _are_dates(times: xr.DataArray | xr.Variable) -> bool:
    return times.dtype.kind == "M" or (times.dtype.kind == "O" and all(hasattr(one, "calendar") for one in times.values.ravel()))


def days_of(ds: xr.Dataset) -> Days:
    """Return the days of a cube's times, which may have a time zone, be of another calendar (cftime), or text."""
    ds = with_middles(ds)
    index = ds.indexes.get("time")
    values = ds["time"].values
    dayfirst = _dayfirst(values)
    try:
        if values.dtype.kind not in "MOUT":
            raise ValueError(f"they are {values.dtype}")
        if values.dtype.kind == "M":
            held: Any = pd.DatetimeIndex(values)
        else:  # what has a zone would come as numbers
            held = index if isinstance(index, pd.DatetimeIndex) else values
        dates = [date if hasattr(date, "month") else _parsed(str(date), dayfirst=dayfirst) for date in held]
        return Days(*(np.array([getattr(date, part) for date in dates], dtype="int64") for part in Days._fields))
    except (TypeError, ValueError) as error:
        raise SpecError(
            f"The {len(values)} times of the cube, such as {values[:1]}, are not dates, or some are missing ({error}); "
            "give dates: ds.assign_coords(time=pd.to_datetime([...])), or leave some out: ds.sel(time=ds.time.notnull())."
        ) from error


def _parsed(text: str, *, dayfirst: bool) -> pd.Timestamp:
    found: pd.Timestamp = pd.to_datetime(text, dayfirst=dayfirst) if _EITHER.match(text) else pd.Timestamp(text)
    return found


def _dayfirst(values: npt.NDArray[Any]) -> bool:
    """Return whether dates as text begin with the day, which one beyond 12 tells of all."""
    either = [found for found in (_EITHER.match(text) for text in values.tolist() if isinstance(text, str)) if found]
    days, months = (any(int(found[part]) > 12 for found in either) for part in (1, 2))
    unlike = next((found for found in either if len(found[3]) == 2 or (days == months and found[1] != found[2])), None)
    if unlike is not None:
        what = "its year" if len(unlike[3]) == 2 else "its day or with its month"
        raise SpecError(
            f"The time {unlike.string!r} of the cube may begin with {what}; write dates: "
            "ds.assign_coords(time=pd.to_datetime(ds.time.values, dayfirst=True)), or with dayfirst=False, or format=."
        )
    return days
