"""Class maps as codes or as floats: floats become codes only where they are known to be codes."""

from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from misoxr.cube.decode import flags_of
from misoxr.cube.variables import FILL
from misoxr.errors import StoreError
from misoxr.grid.halo import BLOCK

__all__ = ["READ", "as_codes", "with_known_codes", "codes_of", "float_classes", "read_from", "with_all_codes"]

Array = npt.NDArray[Any]
READ = "codes"
"""Encoding of floats that were read from codes: type and fill value. Other formats pass over it: not all have bytes without a sign."""
_UINT8 = np.dtype("uint8")


def float_classes(ds: xr.Dataset) -> list[str]:
    """Return the names of class maps that are floats: read by plain xarray, masked, or means."""
    return [str(name) for name, array in ds.data_vars.items() if "flag_values" in array.attrs and array.dtype.kind == "f"]


def with_known_codes(ds: xr.Dataset) -> xr.Dataset:
    """Return a dataset with class maps as codes, where that is known before anything is computed.

    It is known of floats in memory by their values. It is known of lazy floats by an encoding that says they were read from codes; a
    block that holds anything else is an error when it is computed. Other lazy floats may be means, and stay as they are.
    """
    codes = {}
    for name in float_classes(ds):
        array = ds[name]
        read = read_from(array)
        dtype, fill = read or (_UINT8, FILL)
        in_memory = array.variable._in_memory
        if not in_memory and not (read and _on_its_grid(array)):
            continue
        if in_memory and _other(array.values, dtype, fill, None if read else _classes(array)) is not None:
            continue
        codes[name] = as_codes(array, dtype, fill)
    return ds.assign(codes)


def with_all_codes(ds: xr.Dataset) -> xr.Dataset:
    """Return a dataset with class maps as codes wherever all values are codes; to see it, lazy floats are read once."""
    ds = with_known_codes(ds)
    codes = {}
    for name in float_classes(ds):
        array = _chunked(ds[name])
        one = (1,) * array.ndim
        others = array.data.map_blocks(
            _has_other, known=_classes(array), dtype=bool, chunks=one, meta=np.empty((0,) * array.ndim, bool)
        )
        if not others.any().compute():
            codes[name] = as_codes(array)
    return ds.assign(codes)


def as_codes(array: xr.DataArray, dtype: np.dtype[Any] = _UINT8, fill: int = FILL) -> xr.DataArray:
    """Return a class map of floats as codes, and a fill value where it is NaN; lazily, unless it is in memory.

    Raises
    ------
    StoreError
        If a value is no whole number that the type holds; where it is lazy, when it is computed.
    """
    name = str(array.name)
    if array.variable._in_memory:
        data: Any = codes_of(array.values, name, dtype, fill)
    else:
        array, meta = _chunked(array), np.empty((0,) * array.ndim, dtype)
        data = da.map_blocks(codes_of, array.data, name, dtype, fill, dtype=dtype, meta=meta)
    return array.copy(data=data).drop_encoding().assign_attrs(_FillValue=dtype.type(fill))


def codes_of(values: Array, name: str, dtype: np.dtype[Any] = _UINT8, fill: int = FILL) -> Array:
    """Return the codes of a block of floats, and the fill value for NaN.

    Raises
    ------
    StoreError
        If a value is no whole number that the type holds.
    """
    other = _other(values, dtype, fill)
    if other is not None:
        raise StoreError(
            f"The class map {name!r} holds {other:g}, which is no code ({dtype}, {fill} for nodata). Was it averaged? Make it coarser by "
            f"the most frequent class or the nearest; to keep its floats, take ds[{name!r}].drop_encoding(), and open stores without codes=True."
        )
    return np.where(np.isnan(values), fill, values).astype(dtype)


def _other(values: Array, dtype: np.dtype[Any], fill: int, known: Array | None = None) -> float | None:
    """Return a value that is no code of this type (or, where they are known, of these classes); None where there is none."""
    limits = np.iinfo(dtype)
    valid = values[~np.isnan(values)]
    codes = (valid >= limits.min) & (valid <= limits.max) & (valid == np.floor(valid)) & (valid != fill)
    if known is not None:
        codes &= np.isin(valid, known)
    return None if codes.all() else float(valid[~codes][0])


def _has_other(values: Array, known: Array) -> Array:
    """Whether a block holds a value that is no code of these classes, in an array of one element."""
    return np.full((1,) * values.ndim, _other(values, _UINT8, FILL, known) is not None)


def read_from(array: xr.DataArray) -> tuple[np.dtype[Any], int] | None:
    """Return the type and fill value of the codes that floats were read from, as :func:`misoxr.open_maps` or xarray notes them."""
    dtype, fill = array.encoding.get(READ, (array.encoding.get("dtype"), array.encoding.get("_FillValue")))
    if dtype is None or fill is None or np.dtype(dtype).kind not in "iu" or "scale_factor" in array.encoding:
        return None
    return np.dtype(dtype), int(fill)


def _on_its_grid(array: xr.DataArray) -> bool:
    """Whether pixels lie where they lay when they were read: xarray keeps the encoding of a dataset that it makes coarser."""
    written = str(array.coords["spatial_ref"].attrs.get("GeoTransform", "")) if "spatial_ref" in array.coords else ""
    if not written or not {"y", "x"} <= set(array.coords):
        return False
    left, width, _, top, _, height = (float(part) for part in written.split())
    for dim, origin, step in (("y", top, height), ("x", left, width)):
        at = (array.coords[dim].values - origin) / step - 0.5
        if not np.allclose(at, np.round(at[:1]) + np.arange(len(at)), atol=1e-3):
            return False
    return True


def _classes(array: xr.DataArray) -> Array:
    return np.array(flags_of(array)[0])


def _chunked(array: xr.DataArray) -> xr.DataArray:
    """Return an array in Dask chunks: those it has, or blocks."""
    return array if array.chunks is not None else array.chunk({dim: BLOCK for dim in ("y", "x") if dim in array.dims})
