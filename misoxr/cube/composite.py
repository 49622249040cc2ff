"""Composites: reduce a time cube to one image."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.base import is_dask_collection

from misoxr.cube.check import check_dataset
from misoxr.cube.decode import decoded, is_class, is_told, may_lack, note_unapplied
from misoxr.cube.join import is_direction
from misoxr.cube.reductions import COUNTED, Reduction, reduction_of, refuse_units
from misoxr.cube.season import TIME, Days, days_of, first_days, in_season, note_without, season_years, span_of, years_of
from misoxr.errors import BandError, GridError, SpecError, gathered, note
from misoxr.grid.geobox import assign, geobox_of

__all__ = ["composite"]

OBSERVATIONS = "observations"
"""The variable of a composite that counts what is behind each pixel."""

Cube = npt.NDArray[np.float32]


def _mode(values: Cube) -> Cube:
    """Return the most frequent code, the least of those that are as frequent."""
    found = np.full(values.shape[1:], np.nan, dtype="float32")
    most = np.zeros(values.shape[1:], dtype="int64")
    for code in np.unique(values[np.isfinite(values)]):
        count = (values == code).sum(axis=0)
        better = count > most
        found[better], most[better] = code, count[better]
    return found


@gathered
def composite(
    ds: xr.Dataset,
    season: tuple[str, str] | None = None,
    years: int | Iterable[int] | None = None,
    method: str = "median",
    by: Literal["year"] | None = None,
) -> xr.Dataset:
    """Reduce a time cube to one image, or to one a year, lazily.

    Parameters
    ----------
    ds : Dataset
        Bands (time, y, x), NaN where nothing was observed; infinity is no value either. Nodata, scale and offset in the attributes are applied. Variables without a time
        stay as they are; variables along time alone, such as a cloud cover, are dropped.
    season : (str, str), optional
        First and last day as "MM-DD", both inclusive; the whole year by default. A season may wrap over new year.
    years : int or iterable of int, optional
        Years in which the season starts; all by default.
    method : {"median", "mean", "geomedian", "count", "p1" to "p99"}, optional
        How to reduce, as :func:`misoxr.cube.reductions.reduce_time` does: a percentile, the geometric median of all bands, which takes only
        times with all of them, or the number of valid values. Classes are never averaged: their most frequent code is taken, the least of several that are as
        frequent. Classes are variables with flags, booleans, names such as "scl" or "landcover", and bytes without units.
    by : {None, "year"}, optional
        ``"year"`` makes an image for each year that has times in the season. Years that have none are left out, with a warning.

    Returns
    -------
    Dataset
        Bands (y, x) float32 with their attributes, or uint16 for counts, and ``observations`` (y, x) uint16: the number of times at which at
        least one band is valid. Where the cube has ``observations`` of its own, these are summed. By year, all of these are (time, y, x), and a time is the
        first day of the year's season.

    Raises
    ------
    GridError
        If there is no time dimension or no usable grid.
    SpecError
        If no time lies in the season, or the season, years, times, method or ``by`` is malformed.
    BandError
        If no variable has a time, one holds no numbers, or a geometric median would mix units.

    Examples
    --------
    >>> summer = cube.miso.composite(season=("06-20", "08-20"), years=range(2019, 2024))
    >>> yearly = cube.miso.composite(season=("06-20", "08-20"), by="year")
    """
    geobox = geobox_of(check_dataset(ds))
    if "time" not in ds.dims or "time" not in ds.coords:
        dates = [str(dim) for dim in ds.dims if dim in ds.coords and (ds[dim].dtype.kind == "M" or dim in ("t", "valid_time"))]
        remedy = f"rename its dates: ds.rename({dates[0]}='time')" if dates else "it may be a composite already"
        raise GridError(f"The dataset has dimensions {tuple(ds.dims)} and no time to reduce; {remedy}.")
    reduction = reduction_of(method)
    if by not in (None, "year"):
        raise SpecError(f"by={by!r} is unknown; use 'year', or leave it out for one image.")
    days = days_of(ds)
    asked = None if years is None else years_of(years)
    chosen = np.flatnonzero(in_season(days, season, asked))
    if not len(days.year):
        raise SpecError("The cube has no times; give one with at least one time.")
    if not chosen.size:
        asked_for = " of ".join([f"season {season}"] * (season is not None) + [f"years {asked}"] * (asked is not None))
        raise SpecError(f"None of the {len(days.year)} times of the cube, from {span_of(days)}, lies in {asked_for}; widen them.")
    cube, days = ds.isel(time=chosen), Days(*(part[chosen] for part in days))
    held = {name: array for name, array in cube.data_vars.items() if {"time", "y", "x"} <= set(array.dims) and name != OBSERVATIONS}
    if not held:
        raise BandError(f"No variable of {list(cube.data_vars)} has the dimensions time, y and x.")
    note_unapplied(ds, held)
    values = {name: decoded(name, array) for name, array in held.items()}
    classes = [name for name, array in held.items() if is_class(name, array)]
    _note_bytes({name: held[name] for name in classes})
    _note_directions([name for name in held if name not in classes and is_direction(name, held[name])])
    bands = [name for name in held if name not in classes] or classes
    if reduction.together:
        refuse_units({str(name): held[name].attrs.get("units") for name in held if name not in classes}, method)
    lacking = [name for name in bands if may_lack(name, held[name])] or bands

    def image(at: Any) -> dict[Hashable, xr.Variable]:
        some = {name: array.isel(time=at) for name, array in values.items()}
        before = cube[OBSERVATIONS].isel(time=at) if "time" in getattr(cube.get(OBSERVATIONS), "dims", ()) else None
        return _reduced(some, classes, reduction) | {OBSERVATIONS: _count([some[name] for name in lacking], before)}

    out = cube.drop_vars([name for name, array in cube.variables.items() if "time" in array.dims])
    if by is None:
        return assign(out.assign(image(slice(None))), geobox)  # type: ignore[no-any-return]
    of = season_years(days, season)
    note_without(asked, of.tolist())
    each = {int(year): image(np.flatnonzero(of == year)) for year in np.unique(of)}
    yearly = {name: xr.Variable.concat([one[name] for one in each.values()], "time") for name in (*held, OBSERVATIONS)}
    told = TIME | {"season": " to ".join(season or ("01-01", "12-31"))}
    return assign(out.assign(yearly).assign_coords(time=("time", first_days(each, season), told)), geobox)  # type: ignore[no-any-return]


def _reduced(
    bands: Mapping[Hashable, xr.DataArray], classes: Sequence[Hashable], reduction: Reduction
) -> dict[Hashable, xr.Variable]:
    """Reduce bands one by one or together, and classes to their most frequent code."""
    measured = {name: array for name, array in bands.items() if name not in classes}
    found = _together(measured, reduction) if reduction.together and measured else {}
    for name, array in bands.items():
        if name not in found:
            found[name] = _alone(array, Reduction(_mode) if name in classes else reduction)
    if reduction.dtype == "uint16":
        for name in measured:
            found[name].attrs = COUNTED | {"long_name": f"{name}: number of valid values"}
    return {name: found[name] for name in bands}


def _alone(array: xr.DataArray, reduction: Reduction) -> xr.Variable:
    lazy = array.transpose("time", ...)
    return xr.Variable(lazy.dims[1:], _over_time(lazy.data, reduction), array.attrs)


def _together(bands: Mapping[Hashable, xr.DataArray], reduction: Reduction) -> dict[Hashable, xr.Variable]:
    """Reduce all bands at once; a variable of more dimensions, such as one over wavelengths, is several bands."""
    several = {name: array.transpose("time", ..., "y", "x") for name, array in bands.items()}
    layers = [array.data.reshape(len(array), -1, *array.shape[-2:]) for array in several.values()]
    whole = _over_time(np.concatenate(layers, axis=1), reduction)
    ends = np.cumsum([layer.shape[1] for layer in layers])
    return {
        name: xr.Variable(array.dims[1:], whole[end - layer.shape[1] : end].reshape(array.shape[1:]), array.attrs)
        for (name, array), layer, end in zip(several.items(), layers, ends, strict=True)
    }


def _over_time(data: Any, reduction: Reduction) -> Any:
    """Reduce an array over its first axis, lazily where it is lazy; where bands are reduced together, the second is theirs."""
    if not is_dask_collection(data):
        return reduction.work(data)
    whole = data.rechunk({0: -1, 1: -1} if reduction.together else {0: -1})
    empty = np.empty((0,) * (data.ndim - 1), reduction.dtype)
    return whole.map_blocks(reduction.work, drop_axis=0, dtype=reduction.dtype, meta=empty)


def _count(bands: Sequence[xr.DataArray], before: xr.DataArray | None) -> xr.Variable:
    """Count the times with a valid value in any band; where these are composites, the observations behind them."""
    seen = reduce(
        or_, (xr.ufuncs.isfinite(array).any([dim for dim in array.dims if dim not in ("time", "y", "x")]) for array in bands)
    )
    if before is not None and set(before.dims) == {"time", "y", "x"}:
        seen = decoded(OBSERVATIONS, before).where(seen, 0).fillna(0)
    count: xr.Variable = seen.sum("time", dtype="uint16", keep_attrs=False).transpose("y", "x").variable
    count.attrs = COUNTED | {"long_name": "times with at least one valid band"}
    count.encoding = {}
    return count


def _note_directions(names: Sequence[Hashable]) -> None:
    """Warn of compass directions, which no reduction knows to be on a circle."""
    if names:
        note(
            f"{names} are directions, and are reduced as plain numbers: the mean of 359 and 1 is 180. Reduce their sine and cosine, "
            f"or leave them out: ds.drop_vars({names})."
        )


def _note_bytes(classes: Mapping[Hashable, xr.DataArray]) -> None:
    """Warn of variables whose type alone tells that they are classes."""
    guessed = [name for name, array in classes.items() if not is_told(name, array)]
    if guessed:
        note(
            f"{guessed} hold bytes without units and are taken for classes, of which the most frequent is kept. "
            f'If they are measured, write so: ds["{guessed[0]}"].attrs["units"] = "1".'
        )
