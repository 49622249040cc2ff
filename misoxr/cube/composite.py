"""Composites: reduce a time cube to one image."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import reduce
from operator import or_
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import xarray as xr

from misoxr.cube.check import check_dataset
from misoxr.cube.decode import decoded, is_class, is_told, may_lack
from misoxr.cube.season import days_of, in_season, span_of, years_of
from misoxr.errors import BandError, GridError, SpecError, did_you_mean, gathered, note
from misoxr.grid.geobox import assign, geobox_of

__all__ = ["composite", "reduce_time"]

OBSERVATIONS = "observations"
"""The variable of a composite that counts what is behind each pixel."""

Cube = npt.NDArray[np.float32]


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
        raise SpecError(f"Unknown method {method!r} to reduce time; use one of {sorted(METHODS)}.")
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
        Bands (time, y, x), NaN where nothing was observed. Nodata, scale and offset in the attributes are applied. Variables without a time
        stay as they are; variables along time alone, such as a cloud cover, are dropped.
    season : (str, str), optional
        First and last day as "MM-DD", both inclusive; the whole year by default. A season may wrap over new year.
    years : int or iterable of int, optional
        Years in which the season starts; all by default.
    method : {"median", "mean"}, optional
        How to reduce. Classes are never averaged: their most frequent code is taken, the least of several that are as frequent. Classes are
        variables with flags, booleans, names such as "scl" or "landcover", and bytes without units.

    Returns
    -------
    Dataset
        Bands (y, x) float32 with their attributes, and ``observations`` (y, x) uint16: the number of times at which at least one band is valid.
        Where the cube has ``observations`` of its own, these are summed.

    Raises
    ------
    GridError
        If there is no time dimension or no usable grid.
    SpecError
        If no time lies in the season, or the season, years, times or method is malformed.
    BandError
        If no variable has a time, or one holds no numbers.

    Examples
    --------
    >>> summer = cube.miso.composite(season=("06-20", "08-20"), years=range(2019, 2024))
    """
    geobox = geobox_of(check_dataset(ds))
    if "time" not in ds.dims or "time" not in ds.coords:
        raise GridError(f"The dataset has dimensions {tuple(ds.dims)} and no time to reduce; it may be a composite already.")
    if not isinstance(method, str) or method not in METHODS:
        raise SpecError(
            f"Unknown method {method!r} to reduce time; use one of {sorted(METHODS)}.{did_you_mean(str(method), METHODS)}"
        )
    days = days_of(ds)
    asked = None if years is None else years_of(years)
    chosen = np.flatnonzero(in_season(days, season, asked))
    if not len(days.year):
        raise SpecError("The cube has no times; give one with at least one time.")
    if not chosen.size:
        asked_for = " of ".join([f"season {season}"] * (season is not None) + [f"years {asked}"] * (asked is not None))
        raise SpecError(f"None of the {len(days.year)} times of the cube, from {span_of(days)}, lies in {asked_for}; widen them.")
    cube = ds.isel(time=chosen)
    held = {name: array for name, array in cube.data_vars.items() if {"time", "y", "x"} <= set(array.dims) and name != OBSERVATIONS}
    if not held:
        raise BandError(f"No variable of {list(cube.data_vars)} has the dimensions time, y and x.")
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
