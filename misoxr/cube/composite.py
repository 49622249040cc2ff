"""Cubes in hand: composites in time, and checking a cube against a model."""

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import reduce
from numbers import Real
from operator import or_
from reprlib import repr as short
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr.cube.decode import decoded, is_class, is_told, may_lack
from misoxr.errors import BandError, GridError, SpecError, did_you_mean
from misoxr.grid.geobox import assign, geobox_of
from misoxr.notes import gathered, note
from misoxr.spec import ModelSpec
from misoxr.spec.components import check as check_spec

__all__ = ["check", "check_dataset", "composite", "in_season", "named", "reduce_time", "years_of"]

OBSERVATIONS = "observations"
"""The variable of a composite that counts what is behind each pixel."""

Integers = npt.NDArray[np.int64]
Cube = npt.NDArray[np.float32]


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
    year, month, day = (np.asarray(part, dtype="int64") for part in (times.year, times.month, times.day))
    inside = np.ones(len(year), dtype=bool)
    if season is not None:
        first, last = (_month_day(text) for text in _pair(season))
        place = month * 100 + day
        if first <= last:
            inside = (place >= first) & (place <= last)
        else:
            inside = (place >= first) | (place <= last)
            year = year - (place <= last)
    if years is not None:
        inside = inside & np.isin(year, years_of(years))
    return inside


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


def _days(ds: xr.Dataset) -> Days:
    """Return the days of a cube's times, which may be of another calendar (cftime), or text."""
    values = ds["time"].values
    try:
        if values.dtype.kind not in "MOUT":
            raise ValueError(f"they are {values.dtype}")
        held = pd.DatetimeIndex(values) if values.dtype.kind == "M" else values
        dates = [date if hasattr(date, "month") else pd.Timestamp(str(date)) for date in held]
        return Days(*(np.array([getattr(date, part) for date in dates], dtype="int64") for part in Days._fields))
    except (TypeError, ValueError) as error:
        raise SpecError(
            f"The {len(values)} times of the cube, such as {values[:1]}, are no dates, or some are missing ({error}); "
            "give dates: ds.assign_coords(time=pd.to_datetime([...])), or leave some out: ds.sel(time=ds.time.notnull())."
        ) from error


def _span(days: Days) -> str:
    """Return the first and the last day, in words."""
    found = sorted(zip(*days, strict=True))
    return (
        "none at all"
        if not found
        else " to ".join(f"{year:04d}-{month:02d}-{day:02d}" for year, month, day in (found[0], found[-1]))
    )


def _median(values: Cube) -> Cube:
    """NaN sorts last, so the middle of the valid values follows from their count (np.nanmedian takes ten times as long).

    A pixel's values lie beside each other for the sort: many times of them sort in half the time.
    """
    ordered = np.ascontiguousarray(np.moveaxis(values, 0, -1))
    ordered.sort(axis=-1)
    count = np.count_nonzero(~np.isnan(values), axis=0)
    low, high = (np.take_along_axis(ordered, k[..., None], axis=-1)[..., 0] for k in (np.maximum(count - 1, 0) // 2, count // 2))
    return np.asarray((low + high) / 2, dtype="float32")


def _mean(values: Cube) -> Cube:
    valid = ~np.isnan(values)
    total = np.where(valid, values, 0).sum(axis=0, dtype="float64")
    count = valid.sum(axis=0)
    return np.where(count, total / np.maximum(count, 1), np.nan).astype("float32")


def _mode(values: Cube) -> Cube:
    """Return the most frequent code, the least of those that are as frequent."""
    found = np.full(values.shape[1:], np.nan, dtype="float32")
    most = np.zeros(values.shape[1:], dtype="int64")
    for code in np.unique(values[~np.isnan(values)]):
        count = (values == code).sum(axis=0)
        better = count > most
        found[better], most[better] = code, count[better]
    return found


METHODS: Mapping[str, Callable[[Cube], Cube]] = MappingProxyType({"median": _median, "mean": _mean})
"""How a cube is reduced in time."""


def reduce_time(values: Cube, method: str) -> Cube:
    """Reduce a block over its first axis, time; NaN is missing.

    Parameters
    ----------
    values : ndarray of float32, shape (time, y, x)
        Values, NaN where nothing was observed.
    method : {"median", "mean"}
        How to reduce.

    Returns
    -------
    ndarray of float32, shape (y, x)
        NaN where no time is valid. A median of an even number of values is the mean of the middle two.

    Raises
    ------
    SpecError
        If the method is unknown.
    """
    if method not in METHODS:
        raise SpecError(f"Unknown way {method!r} to reduce time; use one of {sorted(METHODS)}.")
    if len(values) == 0:
        return np.full(values.shape[1:], np.nan, dtype="float32")
    return METHODS[method](values)


@gathered
def composite(
    ds: xr.Dataset, season: tuple[str, str] | None = None, years: int | Iterable[int] | None = None, method: str = "median"
) -> xr.Dataset:
    """Reduce a time cube to one image, lazily.

    Parameters
    ----------
    ds : Dataset
        Bands (time, y, x), NaN where nothing was observed; nodata, scale and offset that attributes tell of are honoured.
        Variables without a time are kept as they are, and variables along time alone, such as a cloud cover, are dropped.
    season : (str, str), optional
        First and last day as "MM-DD"; see :func:`in_season`.
    years : int or iterable of int, optional
        Years in which the season starts.
    method : {"median", "mean"}, optional
        How to reduce. Classes are never averaged: of variables with flags, booleans, those with names such as "scl" or
        "landcover", and bytes without units, the most frequent code is kept, the least where two are as frequent.

    Returns
    -------
    Dataset
        Bands (y, x) float32 with their attributes, and ``observations`` (y, x) uint16: the number of times at which at
        least one band is valid. Classes, and variables that cannot be missing beside some that can, are no bands in this. Where
        the cube has ``observations`` of its own, as composites of several years have, these are summed.

    Raises
    ------
    GridError
        If there is no time dimension or no usable grid.
    SpecError
        If no time lies in the season, or the season, years, times or method is malformed.
    BandError
        If no variable has a time, or one holds no numbers.
    """
    geobox = geobox_of(check_dataset(ds))
    if "time" not in ds.dims or "time" not in ds.coords:
        raise GridError(f"The dataset has dimensions {tuple(ds.dims)} and no time to reduce; it may be a composite already.")
    if not isinstance(method, str) or method not in METHODS:
        raise SpecError(f"Unknown way {method!r} to reduce time; use one of {sorted(METHODS)}.{did_you_mean(str(method), METHODS)}")
    days = _days(ds)
    asked = None if years is None else years_of(years)
    chosen = np.flatnonzero(in_season(days, season, asked))
    if not chosen.size:
        span = f"{len(days.year)} times, from {_span(days)}" if len(days.year) else "no times"
        raise SpecError(f"No time of the cube ({span}) lies in season {season} of years {asked}; widen them.")
    cube = ds.isel(time=chosen)
    held = {name: array for name, array in cube.data_vars.items() if {"time", "y", "x"} <= set(array.dims) and name != OBSERVATIONS}
    if not held:
        raise BandError(f"No variable of {list(cube.data_vars)} has a time to reduce, beside y and x.")
    values = {name: decoded(name, array) for name, array in held.items()}
    classes = [name for name, array in held.items() if is_class(name, array)]
    _note_bytes({name: held[name] for name in classes})
    out = cube.drop_vars([name for name, array in cube.variables.items() if "time" in array.dims])
    out = out.assign({name: _reduced(array, _mode if name in classes else METHODS[method]) for name, array in values.items()})
    bands = [name for name in held if name not in classes] or classes
    lacking = [name for name in bands if may_lack(name, held[name])] or bands
    count = _count([values[name] for name in lacking], cube.get(OBSERVATIONS))
    return assign(out.assign({OBSERVATIONS: count}), geobox)  # type: ignore[no-any-return]


def _count(bands: Sequence[xr.DataArray], before: xr.DataArray | None) -> xr.Variable:
    """Count the times with a valid value in any band; where these are composites, the observations behind them."""
    seen = reduce(or_, (array.notnull().any([dim for dim in array.dims if dim not in ("time", "y", "x")]) for array in bands))
    if before is not None and set(before.dims) == {"time", "y", "x"}:
        seen = decoded(OBSERVATIONS, before).where(seen, 0).fillna(0)
    count: xr.Variable = seen.sum("time", dtype="uint16", keep_attrs=False).transpose("y", "x").variable
    count.attrs = {"long_name": "times with at least one valid band", "units": "1"}
    count.encoding = {}
    return count


def _note_bytes(classes: Mapping[Hashable, xr.DataArray]) -> None:
    """Warn of variables whose type alone tells that they are classes."""
    guessed = [name for name, array in classes.items() if not is_told(name, array)]
    if guessed:
        note(
            f"{guessed} hold bytes without units and are taken for classes, of which the most frequent is kept. "
            f'If they are measured, write so: ds["{guessed[0]}"].attrs["units"] = "1".'
        )


def _reduced(array: xr.DataArray, work: Callable[[Cube], Cube]) -> xr.Variable:
    lazy = array.transpose("time", ...)
    dims = lazy.dims[1:]
    if lazy.chunks is None:
        return xr.Variable(dims, work(lazy.values), array.attrs)
    data = lazy.chunk(time=-1).data
    empty = np.empty((0,) * len(dims), dtype="float32")
    return xr.Variable(dims, data.map_blocks(work, drop_axis=0, dtype="float32", meta=empty), array.attrs)


def check_dataset(ds: Any) -> xr.Dataset:
    """Return what is a Dataset; refuse the rest."""
    if isinstance(ds, xr.Dataset):
        return ds
    remedy = ", such as array.to_dataset(name=...)" if isinstance(ds, xr.DataArray) else ""
    raise GridError(f"The cube is a {type(ds).__name__}; give a Dataset with a variable for each band{remedy}.")


def named(ds: xr.Dataset, spec: ModelSpec) -> xr.Dataset:
    """Return the dataset with a model's bands under the model's names, where it has them under an alias."""
    here = check_dataset(ds).data_vars
    found = {alias: band.name for band in spec.bands if band.name not in here for alias in band.aliases[::-1] if alias in here}
    return ds.rename_vars(found)


def check(ds: xr.Dataset, spec: ModelSpec) -> GeoBox:
    """Check that a dataset can feed a model, as far as its metadata tell, and return its grid.

    Raises
    ------
    BandError
        If a band of a required modality is missing, or a band has dimensions other than y and x.
    GridError
        If the grid is irregular, carries no CRS, is not north-up, is not in metres, or has another pixel size than the model.

    Warns
    -----
    MisoxrWarning
        If bands of a modality that is not required are missing.
    """
    needed = [band.name for modality in spec.modalities if modality.required for band in modality.bands]
    missing = [name for name in needed if name not in ds.data_vars]
    if missing:
        raise BandError(
            f"The dataset lacks {missing}, which model {spec.name!r} needs; it has {list(ds.data_vars)}.{did_you_mean(missing[0], map(str, ds.data_vars))} "
            "Rename its variables, or join the rasters with ds.miso.add."
        )
    for band in spec.bands:
        dims = ds[band.name].dims if band.name in ds.data_vars else ("y", "x")
        if "time" in dims:
            raise BandError(f"Band {band.name!r} has dimensions {dims}; reduce the time with ds.miso.composite first.")
        if set(dims) != {"y", "x"}:
            raise BandError(
                f"Band {band.name!r} has dimensions {dims}; all bands must share one grid (y, x): join it with ds.miso.add."
            )
    geobox = geobox_of(ds)
    if geobox.crs is not None and geobox.crs.geographic:
        raise GridError(
            f"The dataset is in degrees ({geobox.crs.proj.name}), the wrong CRS for pixels of {spec.pixel_size:g} m; "
            'reproject it to a projected CRS, such as "EPSG:3338".'
        )
    if geobox.affine.e > 0 or geobox.affine.a < 0:
        raise GridError(
            "The dataset is not north-up (y must descend and x ascend), and a model would see it mirrored; "
            'sort it with ds.sortby("y", ascending=False).sortby("x").'
        )
    axis = geobox.crs.proj.axis_info[0] if geobox.crs is not None else None
    if axis is not None and axis.unit_conversion_factor != 1:
        raise GridError(
            f"The dataset's CRS counts in {axis.unit_name}, the wrong CRS for pixels of {spec.pixel_size:g} m; "
            'reproject it to one in metres, such as "EPSG:3338".'
        )
    for size in (abs(geobox.affine.a), abs(geobox.affine.e)):
        if abs(size / spec.pixel_size - 1) > 1e-3:
            raise GridError(
                f"The dataset's pixels are {size:g} m and model {spec.name!r} reads pixels of {spec.pixel_size:g} m; "
                "open the imagery at the model's resolution, or train a model for this one."
            )
    absent = [band.name for band in spec.bands if band.name not in ds.data_vars]
    if absent:
        note(
            f"The dataset lacks the optional bands {absent} of model {spec.name!r}, which enter as the network's zero. "
            "Join them with ds.miso.add under these names."
        )
    return geobox
