"""Monthly normals: twelve layers in the order of the months, in known units, on one grid."""

import os
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from misoxr.cube.decode import decoded
from misoxr.cube.join import Raster, layers_of, open_raster
from misoxr.cube.units import canonical, factor_and_summand
from misoxr.errors import BandError, GridError, note
from misoxr.grid.geobox import extent, geobox_of, same_grid
from misoxr.grid.halo import in_blocks

__all__ = ["MONTHS", "PRECIPITATION", "TEMPERATURE", "Quantity", "months_of"]

MONTHS = 12
DAYS = (31, 28.25, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
"""Days of the months, of February in the mean over leap years."""
_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WORD = re.compile(rf"(?:(?<![A-Za-z])(?i:{'|'.join(_NAMES)}))|(?:(?<=[a-z])(?:{'|'.join(name.title() for name in _NAMES)}))")
"""Names of months: at the beginning of a word, or with a capital within one, as in "tminJan"."""
_DATE = re.compile(r"(?<!\d)(?:18|19|20|21)\d\d(0[1-9]|1[0-2])(?:[0-3]\d)?(?!\d)")
"""Months of dates without punctuation, such as 201907 or 20190715."""
_PERIOD = r"second|sec|s|hour|hr|h|day|d|month|mon|mo|year|yr|y|a"
_RATE = re.compile(rf"(?P<amount>.+?)(?:(?:/|per)(?P<per>{_PERIOD})|(?P<power>{_PERIOD})-1)")


_WATER = re.compile(r"\s*\b(of\s+)?(water[\s_-]*equivalent|w\.?e\b\.?)", re.IGNORECASE)
"""What units of precipitation say of water; rates and sums may follow."""


class Quantity(NamedTuple):
    """What normals measure: the units that they are turned into, and between what values of a month they lie on Earth."""

    units: str
    least: float
    most: float


TEMPERATURE = Quantity("degC", -90.0, 70.0)  # -99 and -99.9 are fill values
PRECIPITATION = Quantity("mm", 0.0, 15_000.0)


# ---- which layer is which month


def months_of(what: str, source: Raster | Sequence[Raster], quantity: Quantity, units: str | None = None) -> list[xr.DataArray]:
    """Return the normals of January to December, lazily: (y, x) float32 each, NaN as nodata, in the quantity's units.

    Parameters
    ----------
    what : str
        The argument, for errors.
    source : path, DataArray, Dataset, or sequence of twelve of them
        The normals.
    quantity : Quantity
        What they measure.
    units : str, optional
        Their units; those of the metadata by default.

    Raises
    ------
    BandError
        If they are not twelve months, or in units that are unknown; and where values are read, if no month on Earth has such values.
    GridError
        If a layer has no CRS, or the layers are on several grids.
    """
    layers = _in_order(what, source)
    boxes = [geobox_of(layer) for layer in layers]
    for number, box in enumerate(boxes):
        if not same_grid(box, boxes[0]):
            raise GridError(
                f"Month 1 of {what} covers {extent(boxes[0])} and month {number + 1} {extent(box)}, or in other pixels; "
                "give twelve months on one grid."
            )
    return [_physical(what, layer, quantity, units, days) for layer, days in zip(layers, DAYS, strict=True)]


def _in_order(what: str, source: Any) -> list[xr.DataArray]:
    """Return twelve layers over (y, x), January first."""
    if isinstance(source, list | tuple):
        layers = [_only(what, one) for one in source]
        names = [PurePosixPath(os.fspath(one)).name for one in source if isinstance(one, str | os.PathLike)]
        named, timed = _told(names or [str(layer.name) for layer in layers]), _by_times(layers)
        if (
            names and named and timed and named != timed and [month % MONTHS + 1 for month in named] != timed
        ):  # not the ends of months
            at = next(at for at in range(MONTHS) if named[at] != timed[at])
            raise BandError(
                f"The file {names[at]!r} of {what} is of month {named[at]} by its name, and of month {timed[at]} by its time. Rename the files, "
                'or give arrays that tell: array.drop_vars("time").assign_coords(month=1).'
            )
        told = named or timed
        if len(names) == len(layers) == MONTHS and told is None:
            note(
                f"The files of {what} do not tell their months by their names: {names[0]!r} is taken for January, and so on in the order given."
            )
        return _sorted(what, layers, told)
    found = _layers(what, source)
    if len(found) == 1:
        return _split(what, next(iter(found.values())))
    deep = {name: array for name, array in found.items() if array.ndim > 2}
    if len(deep) == 1:
        return _split(what, next(iter(deep.values())))
    told = _told(map(str, found))
    if deep or (told is None and not _are_bands(source, found)):
        raise BandError(
            f"{what} has the variables {list(found)}; give the one with twelve months, or twelve whose names tell the month, such as tavg_01."
        )
    return _sorted(what, list(found.values()), told)


def _are_bands(source: Any, found: Mapping[Hashable, Any]) -> bool:
    """Whether layers are the bands of a file or an array, which have an order."""
    return not isinstance(source, xr.Dataset) and len(found) == MONTHS


def _layers(what: str, source: Any) -> dict[Hashable, xr.DataArray]:
    if isinstance(source, str | os.PathLike):
        source = open_raster(what, os.fspath(source))
    return layers_of(what, source)


def _only(what: str, source: Any) -> xr.DataArray:
    """Return the only layer of one month's raster."""
    found = list(_layers(what, source).values())
    if len(found) != 1:
        raise BandError(f"A month of {what} has {len(found)} layers; give a raster of one for each month.")
    flat: xr.DataArray = found[0].squeeze([dim for dim in found[0].dims if dim not in ("y", "x") and found[0].sizes[dim] == 1])
    if flat.ndim != 2:
        raise BandError(f"A month of {what} has the dimensions {dict(found[0].sizes)}; give a raster over (y, x) for each month.")
    return flat


def _sorted(what: str, layers: Sequence[xr.DataArray], told: Sequence[int] | None) -> list[xr.DataArray]:
    """Return layers in the order that was told, else in theirs."""
    if len(layers) != MONTHS:
        raise BandError(f"{what} has {len(layers)} layers; give twelve, January to December.")
    return list(layers) if told is None else [layers[told.index(month)] for month in range(1, MONTHS + 1)]


def _split(what: str, array: xr.DataArray) -> list[xr.DataArray]:
    """Return the twelve layers of an array along its dimension of months."""
    others = [dim for dim in array.dims if dim not in ("y", "x") and array.sizes[dim] > 1]
    more = [dim for dim in others if array.sizes[dim] != MONTHS]
    if len(more) == len(others) - 1 > 0:
        raise BandError(
            f"{what} has the dimensions {dict(array.sizes)}, and {more} beside its months. Select or reduce them first, such as "
            f".isel({more[0]}=0), or .max({more[0]!r}) where they fill each other's gaps."
        )
    if len(others) != 1 or array.sizes[others[0]] != MONTHS:
        days = (
            ' Sum amounts of days to months before that: .resample(time="MS").sum(min_count=28).' if what == "precipitation" else ""
        )
        raise BandError(
            f"{what} has the dimensions {dict(array.sizes)}; give twelve months. Of several years, take the mean first: "
            f'.groupby("time.month").mean().{days}'
        )
    array = array.squeeze([dim for dim in array.dims if dim not in ("y", "x") and array.sizes[dim] == 1], drop=True)
    layers = [array.isel({others[0]: at}, drop=True) for at in range(MONTHS)]
    return _sorted(what, layers, _by_coordinate(what, array, others[0]))


def _by_coordinate(what: str, array: xr.DataArray, dim: Hashable) -> list[int] | None:
    """Return the months that a coordinate tells, one called ``month`` before that of the dimension; None where there is none."""
    coordinate = next((array.coords[name] for name in ("month", dim) if name in array.coords), None)
    if coordinate is None:
        return None
    values = coordinate.values.ravel()
    if coordinate.dtype.kind == "M" or hasattr(values[0], "calendar"):
        counted = coordinate.dt.year.values * MONTHS + coordinate.dt.month.values - 1
        months = (counted % MONTHS + 1).tolist() if np.ptp(counted) == MONTHS - 1 else []
        bounds = coordinate.attrs.get("bounds", coordinate.encoding.get("bounds"))
        if bounds and counted.min() % MONTHS == 1 and not np.any(coordinate.dt.day != 1):
            note(
                f"The times of {what} run from 1 February to 1 January, and may be the ends of months. Their {bounds!r} would tell: "
                "give the Dataset that has them."
            )
    elif coordinate.dtype.kind in "iuf":
        months = values.tolist()
    else:
        months = _told(map(str, values)) or []
    if sorted(months) != list(range(1, MONTHS + 1)):
        raise BandError(
            f"The coordinate {coordinate.name!r} of {what} does not tell twelve months of a year: {values.tolist()}. Number them: "
            f'.assign_coords(month=("{dim}", range(1, 13))).'
        )
    return [int(month) for month in months]


def _by_times(layers: Sequence[xr.DataArray]) -> list[int] | None:
    """Return the months that twelve layers tell, each by a time or a number from 1 to 12 of its own; None where they do not."""
    for name in ("month", "time", "valid_time"):
        held = [layer.coords[name] for layer in layers if name in layer.coords and layer.coords[name].size == 1]
        told = [one.dt.month if one.dtype.kind == "M" or hasattr(one.values.item(), "calendar") else one for one in held]
        if len(told) == MONTHS and {one.values.item() for one in told} == set(range(1, MONTHS + 1)):
            return [int(one) for one in told]
    return None


def _told(names: Iterable[str]) -> list[int] | None:
    """Return the months that names tell: by words, dates, or the one number in them that goes from 1 to 12, or from 0 to 11; None where they do not."""
    texts, every = list(names), list(range(1, MONTHS + 1))
    words = [[_NAMES.index(word[:3].lower()) + 1 for word in _WORD.findall(text)] for text in texts]
    dates = [[int(month) for month in _DATE.findall(text)] for text in texts]
    numbers = [[int(number) for number in re.findall(r"\d+", text)] for text in texts]
    counted = [[number + 1 for number in some] for some in numbers]
    for told in (words, numbers, dates, counted):
        columns = zip(*told, strict=True) if len({len(one) for one in told}) == 1 else ()
        found = [list(column) for column in columns if sorted(column) == every]
        if found and all(column == found[0] for column in found):
            return found[0]
    return None


# ---- in which units


def _physical(what: str, layer: xr.DataArray, quantity: Quantity, units: str | None, days: float) -> xr.DataArray:
    """Return a month's layer in the quantity's units."""
    told = units if units is not None else layer.attrs.get("units")
    step = str(layer.attrs.get("GRIB_stepType", ""))
    if units is None and quantity is PRECIPITATION and step.startswith("avg") and not _rate(str(told)):
        unit = told or "m"
        raise BandError(
            f"{what} is in {told!r}, and its GRIB_stepType {step!r} says that it is a mean. Pass the time that it is of: "
            f"units={{{what!r}: '{unit}/day'}} for ERA5's monthly means, '{unit}/hour' for those by hour of day."
        )
    factor, summand = _conversion(what, "" if told is None else str(told).strip(), quantity, days)
    plain = in_blocks(decoded(what, layer).transpose("y", "x"))
    work = partial(_checked, factor=factor, summand=summand, what=what, quantity=quantity)
    out: xr.DataArray = plain.copy(data=plain.data.map_blocks(work, dtype="float32", meta=np.empty((0, 0), "float32")))
    return out


def _conversion(what: str, units: str, quantity: Quantity, days: float) -> tuple[float, float]:
    """Return factor and summand that turn values of a month into the quantity's units."""
    if not units or units.lower() in ("none", "unknown", "n/a"):
        tenths = '"degC", "K", or "0.1 degC" for tenths' if quantity is TEMPERATURE else '"mm", "kg m-2 s-1" or "m/day"'
        raise BandError(f"{what} has no units. Pass them: units={{{what!r}: ...}}, such as {tenths}; or set the attribute units.")
    part = re.fullmatch(r"([\d.]+(?:e[+-]?\d+)?)\s*\*?\s*(\D.*)", units, re.IGNORECASE) or re.fullmatch(r"()(.+?)/10", units)
    share, plain = (float(part[1] or 0.1), part[2].strip()) if part else (1.0, units)
    each = 1.0
    if quantity is PRECIPITATION:
        plain = _WATER.sub("", plain)
        rate = _rate(plain)
        if rate:
            plain, each = rate["amount"], _times(rate["per"] or rate["power"], days)
    known = factor_and_summand(canonical(plain), quantity.units) if each else None
    if known is None:
        raise BandError(
            f"{what} is in {units!r}, and months of {what} need {quantity.units}. Convert the values and set their attribute units, or pass "
            f"what holds: units={{{what!r}: ...}}."
        )
    return known[0] * share * each, known[1]


def _rate(units: str) -> re.Match[str] | None:
    """Return the amount and the period of a rate, None of other units."""
    return _RATE.fullmatch(re.sub(r"[\s_^.*·]", "", units.lower()))


def _times(period: str, days: float) -> float:
    """Return how often a period fits into a month; 0 for a year, of which a month's share is not known."""
    return {"s": 86_400 * days, "h": 24 * days, "d": days, "m": 1.0}.get(period[0], 0.0)


def _checked(values: npt.NDArray[Any], factor: float, summand: float, what: str, quantity: Quantity) -> npt.NDArray[np.float32]:
    """Turn values into the quantity's units, and refuse what no month on Earth has: other units, or nodata of which nothing tells."""
    out = (values.astype("float64") * factor + summand).astype("float32")
    strange = (out < quantity.least - 0.01) | (out > quantity.most)
    if strange.any():
        raise BandError(
            f"A month of {what} is {out[strange].flat[0]:g} {quantity.units} ({values[strange].flat[0]:g} before it was converted), which no "
            f"month on Earth has. Pass the units that hold: units={{{what!r}: ...}}; or declare the nodata value, as the attribute _FillValue."
        )
    return out
