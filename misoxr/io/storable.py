"""Make a dataset storable in Zarr: its names, attributes, fill values and coordinates."""

import math
import re
from collections.abc import Hashable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from misoxr.cube.decode import PLAIN, RANGES, XARRAYS, Coding, as_meant, coding_of, decode, meant_type, plain_key, scale_of
from misoxr.errors import BandError, StoreError, note
from misoxr.grid.geozarr import unreferenced
from misoxr.spec.numbers import is_number

__all__ = ["numbers", "refuse_names", "spelt", "storable"]

RESERVED = ("provenance", "progress", "zarr.json")
"""What a store has beside its variables."""
_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""Numbers that JSON lacks, by what Zarr calls them among fill values."""
_OF_STORED = ("_FillValue", "missing_value", "scale_factor", "add_offset", "coordinates", "dtype", "_Unsigned", "_ARRAY_DIMENSIONS")
"""Attributes that tell how to decode what a file holds; a store gets those that it needs."""


def storable(ds: xr.Dataset, *, keeps_ranges: bool = True) -> xr.Dataset:
    """Return a dataset as Zarr holds it; what it cannot hold is left out, with one warning that names it.

    An integer's fill value stands among its attributes, if its type can hold it; where several are told, the others are turned into it. Floats are NaN instead of a
    fill value of their own. What is told is read as everywhere (:func:`misoxr.cube.decode.coding_of`).

    Parameters
    ----------
    ds : Dataset
        What is to be written.
    keeps_ranges : bool, optional
        Whether attributes are written, too, and among them the range of valid integers. If not, those beyond it get the fill value.

    Raises
    ------
    StoreError
        If a name would be a path in the store, or values are yet to be scaled.
    BandError
        If what an attribute says of a scale is no number.
    """
    refuse_names(ds.variables)
    lost: list[str] = []
    held: dict[Hashable, xr.Variable] = {}
    for name, variable in ds.variables.items():
        data = None if isinstance(ds.indexes.get(name), pd.MultiIndex) else _typed(variable)
        if data is None:
            lost.append(f"the {'coordinate' if name in ds.coords else 'variable'} {name!r} ({_kind(variable)})")
        else:
            _refuse_scaled(name, ds[name], is_map=name in ds.data_vars and {"y", "x"} <= set(variable.dims))
            coding = _coding_of(name, ds[name]) if name in ds.data_vars else PLAIN
            if keeps_ranges and not coding.turned:
                coding = coding._replace(valid=None)
            held[name] = _filled(data, coding, _json(_own(variable), f" of {name!r}", lost))
    attrs = _json({key: value for key, value in ds.attrs.items() if key != "coordinates"}, "", lost)
    if lost:
        note(
            f"Zarr cannot hold {', '.join(lost)}: left out of what is written. Turn what you need into text, numbers, or lists and "
            "mappings of these."
        )
    data_vars = {name: variable for name, variable in held.items() if name in ds.data_vars}
    return xr.Dataset(data_vars, {name: variable for name, variable in held.items() if name in ds.coords}, attrs)


def refuse_names(names: Iterable[Hashable]) -> None:
    """Refuse names that are paths in a store or on a disk, or that a store needs for itself.

    Raises
    ------
    StoreError
        If there is one.
    """
    for name in names:
        if not isinstance(name, str):
            raise StoreError(
                f"The variable {name!r} has a {type(name).__name__} for its name; rename it to text, such as 'band_{name}'."
            )
        if not name.strip(".") or re.search(r"[/\\]", name) or name.startswith("__") or name in RESERVED:
            plain = re.sub(r"[/\\]+", "_", name).strip("._") or "band"
            better = f"{plain}_" if plain in RESERVED else plain
            raise StoreError(
                f"The variable {name!r} has a name that is a path, or taken, in a store; rename it: ds.rename({{{name!r}: {better!r}}})."
            )


def spelt(value: Any) -> Any:
    """Return attributes with the numbers that JSON lacks as words; text that is such a word gets a backslash."""
    if isinstance(value, list):
        return [spelt(item) for item in value]
    if isinstance(value, dict):
        return {key: spelt(item) for key, item in value.items()}
    if isinstance(value, str) and value.lstrip("\\") in _NUMBERS:
        return f"\\{value}"
    if isinstance(value, float) and not math.isfinite(value):
        return {repr(number): word for word, number in _NUMBERS.items()}[repr(float(value))]
    return value


def numbers(value: Any) -> Any:
    """Return what :func:`spelt` was given."""
    if isinstance(value, list):
        return [numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, str) and value.lstrip("\\") in _NUMBERS:
        return value[1:] if value.startswith("\\") else _NUMBERS[value]
    return value


# ---- attributes


def _own(variable: xr.Variable) -> dict[Any, Any]:
    """Return a variable's attributes without those of other files and grids."""
    left_out = (*_OF_STORED, *(("units", "calendar") if variable.dtype.kind in "mM" else ()))
    return {key: value for key, value in unreferenced(variable.attrs).items() if key not in left_out}


def _json(attrs: Mapping[Any, Any], where: str, lost: list[str]) -> dict[str, Any]:
    """Return attributes as JSON has them, and note those that it cannot have."""
    found = {}
    for key, value in attrs.items():
        try:
            found.update(_plain({key: value}))
        except TypeError:
            lost.append(f"the attribute {key!r}{where} ({type(value).__name__})")
    return found


def _plain(value: Any) -> Any:
    """Turn a value into what JSON has, or raise TypeError."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufUTO":
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if type(value) in (list, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str(key): _plain(item) for key, item in value.items()}
    raise TypeError


# ---- values


def _typed(variable: xr.Variable) -> xr.Variable | None:
    """Return a variable in a type that Zarr specifies, text as objects; None where it has none."""
    kind = getattr(variable.dtype, "kind", "O")
    if kind in "UT":
        return variable.astype(object)
    if kind != "O" and not isinstance(variable.dtype, pd.api.extensions.ExtensionDtype):
        return variable if kind in "biufcmM" else None
    values = np.asarray(variable.values, dtype=object)
    known = all(isinstance(value, str) or hasattr(value, "calendar") for value in values.flat)
    return xr.Variable(variable.dims, values, variable.attrs, variable.encoding) if known else None


def _kind(variable: xr.Variable) -> str:
    """Say what a variable consists of that Zarr cannot hold."""
    values = np.asarray(variable.values, dtype=object).ravel().tolist() if variable.dtype == object else []
    return next((type(value).__name__ for value in values if not isinstance(value, str)), str(variable.dtype))


def _refuse_scaled(name: Hashable, array: xr.DataArray, *, is_map: bool) -> None:
    """Refuse values that are not yet what they stand for: readers would scale them again, or not at all."""
    scale, offset = scale_of(name, array, spelt=() if is_map else XARRAYS) if array.dtype.kind in "fiu" else (1.0, 0.0)
    if (scale, offset) != (1.0, 0.0):
        raise StoreError(
            f"{name!r} has the attributes scale_factor {scale:g} and add_offset {offset:g}, or others of this meaning: are its values scaled "
            f"already? If not, take xr.decode_cf(ds), or multiply and add; if so, delete both from ds[{name!r}].attrs."
        )


def _coding_of(name: Hashable, array: xr.DataArray) -> Coding:
    """Return how a variable is stored, as the verbs that read take it; but for words, which these refuse."""
    if array.dtype.kind not in "fiu":
        return PLAIN
    try:
        return coding_of(name, array)
    except BandError as error:
        note(f"{error} It is passed over in what is written.")
        held = array.copy(deep=False)
        held.attrs = {key: value for key, value in array.attrs.items() if not isinstance(value, str | bytes)}
        return coding_of(name, held)


def _filled(variable: xr.Variable, coding: Coding, attrs: dict[str, Any]) -> xr.Variable:
    """Return a variable without encoding, and with one fill value that its type can hold, or none."""
    kind, work = variable.dtype.kind, None
    if kind == "f":
        # A whole number from 0 on floats is left over from the integers that they were computed from.
        nodata = tuple(value for value in coding.nodata if not (isinstance(value, int) and value >= 0))
        work = partial(decode, coding=Coding(nodata), dtype=variable.dtype.name) if nodata else None
        dtype = variable.dtype
    elif kind in "iu":
        dtype = meant_type(variable.dtype, turned=coding.turned)
        given = (
            variable.attrs.get("_FillValue"),
            variable.encoding.get("_FillValue"),
            variable.attrs.get("missing_value"),
            *coding.nodata,
        )
        fitting = [fill for fill in (_fitting(fill, variable.dtype, dtype) for fill in given) if fill is not None]
        if coding.valid is not None and not fitting:  # a value beyond the range is free
            limits = np.iinfo(dtype)
            fitting = [dtype.type(limits.max if coding.valid[1] < limits.max else limits.min)]
        attrs |= {"_FillValue": fitting[0]} if fitting else {}
        others = tuple(sorted({int(fill) for fill in fitting} - {int(fill) for fill in fitting[:1]}))
        if coding.turned:
            attrs = _turned(attrs, variable.dtype, dtype)
        if others or coding.turned or coding.valid:
            work = partial(_with_one_fill, dtype=dtype, fill=fitting[0] if fitting else None, others=others, valid=coding.valid)
    out = variable.copy(deep=False)
    if work is not None:
        data = variable.data
        out = variable.copy(data=data.map_blocks(work, dtype=dtype) if hasattr(data, "dask") else work(data))
    out.attrs, out.encoding = attrs, {}
    return out


def _with_one_fill(
    values: npt.NDArray[Any], dtype: np.dtype[Any], fill: Any, others: tuple[int, ...], valid: tuple[float, float] | None
) -> npt.NDArray[Any]:
    """Return integers in the type that they are meant in, and with one fill value instead of others."""
    out = values.astype(values.dtype.newbyteorder("=")).view(dtype)
    if others:
        out[np.isin(out, others)] = fill
    if valid is not None:
        out[(out < valid[0]) | (out > valid[1])] = fill
    return out


def _turned(attrs: dict[str, Any], stored: np.dtype[Any], meant: np.dtype[Any]) -> dict[str, Any]:
    """Return attributes for integers in the type that they are meant in: codes by their numbers there, and no range of the other type."""
    out = {key: value for key, value in attrs.items() if plain_key(key) not in RANGES}
    for key in {"flag_values", "flag_masks"} & out.keys():
        codes = out[key] if isinstance(out[key], list) else [out[key]]
        if all(map(is_number, codes)):
            out[key] = [as_meant(code, stored, meant) for code in codes]
    return out


def _fitting(fill: Any, stored: np.dtype[Any], meant: np.dtype[Any]) -> Any:
    """Return a fill value in an integer's type, None where it does not fit."""
    try:
        number = np.asarray(fill).item()
        found = as_meant(number, stored, meant) if number == int(number) else None
        return None if found is None else meant.type(found)
    except (TypeError, ValueError, OverflowError):  # None, several, text, NaN, infinity
        return None
