"""Years and intervals of time, in any of the forms in which Python, NumPy and pandas write them. A day, month or year is whole."""

import re
from collections.abc import Iterable
from datetime import date, datetime, time
from reprlib import repr as short
from typing import Any

import numpy as np
import pandas as pd

from misoxr.errors import CatalogError

__all__ = ["Interval", "days", "interval_of", "utc", "years_of"]

Interval = tuple[pd.Timestamp | None, pd.Timestamp | None]

FIRST, LAST = 1900, 2199
"""Years that imagery may be of."""
_OPEN = ("", "..")
_YEAR = re.compile(r"(19|20|21)\d\d", re.ASCII)
_FIRST, _MONTH = re.compile(r"\s*\d{4}", re.ASCII), re.compile(r"[a-z]{3}", re.IGNORECASE | re.ASCII)
"""A year that stands first, a month by its name."""
_CLOCK = re.compile(r":|\dt\d", re.IGNORECASE)


def years_of(years: Any) -> tuple[int, ...] | None:
    """Return years, each once, in order, from one or several of 2020, "2020", NumPy's and pandas' kinds, dates.

    Raises
    ------
    CatalogError
        If one is no year, or there is none.
    """
    if years is None:
        return None
    several = isinstance(years, Iterable) and not isinstance(years, str) and getattr(years, "shape", None) != ()
    found = sorted({_year(year) for year in (years if several else [years])})
    if not found:
        raise CatalogError(f"years={short(years)} holds no year; leave it away, or give years such as 2020 or range(2019, 2024).")
    return tuple(found)


def _year(value: Any) -> int:
    plain = value[()] if isinstance(value, np.ndarray) else value
    if isinstance(plain, np.generic):
        plain = pd.Timestamp(plain) if isinstance(plain, np.datetime64) else plain.item()
    if isinstance(plain, date | pd.Period):
        plain = plain.year
    if isinstance(plain, str) and re.fullmatch(r"\s*\d{4}\s*", plain, re.ASCII):
        plain = int(plain)
    if isinstance(plain, float) and plain.is_integer():
        plain = int(plain)
    if not isinstance(plain, int) or isinstance(plain, bool) or not FIRST <= plain <= LAST:
        raise CatalogError(
            f"years: {short(value)} is not a year from {FIRST} to {LAST}; give years such as 2020, [2020, 2022] or range(2019, 2024)."
        )
    return plain


def interval_of(when: Any) -> Interval:
    """Return the first and last moment, in UTC without a zone.

    Parameters
    ----------
    when : str, date, datetime, Period, datetime64, pair of these, slice or index of times, optional
        "2020", "2020-06", "2020-06-01/2020-08-31", "../2020" and their like. Days, months, years and periods are whole; so are
        times at midnight without a zone, which are how most libraries write days.

    Raises
    ------
    CatalogError
        If it is neither a moment nor an interval, or ends before it starts.
    """
    start, end = _ends(when)
    first = None if _open(start) else days(start)[0]
    last = None if _open(end) else days(end)[1]
    if first is not None and last is not None and first > last:
        raise CatalogError(f"The datetime {short(when)} ends before it starts.")
    return first, last


def _ends(when: Any) -> tuple[Any, Any]:
    """Return the first and the last of what is given."""
    if isinstance(when, str):
        parts = when.split("/")
    elif isinstance(when, slice):
        parts = [when.start, when.stop] if when.step is None else [when.start, when.stop, when.step]
    elif isinstance(when, list | tuple):
        parts = list(when)
    elif getattr(when, "ndim", 0):
        parts = _spaced(when)
    else:
        parts = [when]
    if len(parts) not in (1, 2):
        raise CatalogError(
            f"The datetime {short(when)} is neither a moment nor an interval of two; give the first and the last, or years= and season=."
        )
    return parts[0], parts[-1]


def _spaced(when: Any) -> list[Any]:
    """Return the ends of an index of times, where nothing is left out between them."""
    try:
        index = when if isinstance(when, pd.PeriodIndex) else pd.DatetimeIndex(when)
        if len(index) and not isinstance(index, pd.PeriodIndex) and np.asarray(when).dtype.kind in "iufb":
            raise TypeError
    except (TypeError, ValueError) as error:
        raise CatalogError(f"The datetime {short(when)} holds no times.") from error
    if len(index) > 2 and isinstance(index, pd.DatetimeIndex) and pd.infer_freq(index):
        return [index[0], index[-1]]
    if len(index) > 2 and isinstance(index, pd.PeriodIndex) and index.is_full:
        return [index[0], index[-1]]
    return list(index)


def _open(end: Any) -> bool:
    return end is None or (isinstance(end, str) and end in _OPEN)


def days(value: Any) -> tuple[pd.Timestamp, pd.Timestamp]:
    """Return the first and last moment of a year, a month, a day, a period, or a moment."""
    if getattr(value, "shape", None) == () and not isinstance(value, np.generic):
        value = np.asarray(value)[()]
    try:
        period = _period(value)
        if period is not None:
            return period.start_time, period.end_time
        if isinstance(value, bool | int | float | np.number):
            raise TypeError
        moment = utc(pd.Timestamp(value.isoformat() if hasattr(value, "calendar") else value))
        if pd.isna(moment):
            raise ValueError
    except (ValueError, TypeError) as error:
        raise CatalogError(f"{value!r} is not a date; write it as 2020-06-20.") from error
    return moment, moment


def _period(value: Any) -> pd.Period | None:
    """Return what a value spans, where it is more than a moment."""
    if isinstance(value, pd.Period):
        return value
    if value is pd.NaT:
        raise ValueError(value)
    if isinstance(value, str):
        if not _YEAR.search(value):  # pandas would also read "now", or a day without a year
            raise ValueError(value)
        if not (_FIRST.match(value) or _MONTH.search(value)):  # 05-06-2020 is May or June
            raise ValueError(value)
        return None if _CLOCK.search(value) else pd.Period(value.strip())
    if isinstance(value, np.datetime64):
        unit = np.datetime_data(value.dtype)[0]
        if unit in ("Y", "M"):
            return pd.Period(str(value), freq=unit)
        value = pd.Timestamp(value)
    if hasattr(value, "calendar"):  # cftime, which pandas does not know
        value = pd.Timestamp(value.isoformat())
    if isinstance(value, datetime):
        return pd.Period(value, freq="D") if value.time() == time() and value.tzinfo is None else None
    return pd.Period(value, freq="D") if isinstance(value, date) else None


def utc(moment: pd.Timestamp) -> pd.Timestamp:
    """Return a moment in UTC, without a zone."""
    return moment if moment.tzinfo is None else moment.tz_convert("UTC").tz_localize(None)
