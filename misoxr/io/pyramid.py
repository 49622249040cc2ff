"""Coarser levels of maps: pixels twice as large, by the mean of valid pixels, and classes by what is most probable or most frequent."""

from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from misoxr.cube.variables import class_map
from misoxr.grid.geobox import assign, geobox_of
from misoxr.io.layout import fill_of

__all__ = ["coarser", "is_map"]


def is_map(array: xr.DataArray) -> bool:
    """Whether an array lies on the pixel grid."""
    return {"y", "x"} <= set(array.dims)


def coarser(ds: xr.Dataset, classes: str) -> xr.Dataset:
    """Return a dataset, lazily, with pixels twice as large, in chunks of the same size."""
    sides = {dim: ds.chunksizes[dim][0] for dim in ("y", "x")}
    # Even chunks are halved one by one, and four together are a chunk again.
    even = ds.drop_vars(["y", "x"]).chunk({dim: side + side % 2 for dim, side in sides.items()})
    data = {name: _half(array, classes) if is_map(array) else ds[name].variable for name, array in even.data_vars.items()}
    kept = {name: coord.variable for name, coord in ds.coords.items() if not {"y", "x"} & set(coord.dims)}
    out: xr.Dataset = assign(xr.Dataset(data, kept, ds.attrs), geobox_of(ds).zoom_out(2)).chunk(sides)
    if classes == "probability":
        for name, array in out.data_vars.items():
            if "flag_values" in array.attrs and array.dtype.kind in "iu" and f"{name}_probability" in out:
                out[name] = class_map(out[f"{name}_probability"], array)
    return out


def _half(array: xr.DataArray, classes: str) -> xr.Variable:
    if array.dtype.kind == "f":
        data = array.coarsen(y=2, x=2, boundary="pad").mean().data
    elif classes == "nearest":
        data = array.isel(y=slice(None, None, 2), x=slice(None, None, 2)).data
    else:
        fill, odd = fill_of(array), [(0, 0)] * (array.ndim - 2) + [(0, size % 2) for size in array.shape[-2:]]
        padded = da.pad(array.data, odd, "edge") if fill is None else da.pad(array.data, odd, constant_values=fill)
        data = da.coarsen(_most_frequent, padded, {array.ndim - 2: 2, array.ndim - 1: 2}, fill=fill)
    return xr.Variable(array.dims, data, array.attrs)


def _most_frequent(values: npt.NDArray[Any], axis: tuple[int, int] = (0, 1), fill: float | None = None) -> npt.NDArray[Any]:
    """Reduce the two axes of every four pixels; of several as frequent, the upper or left one counts."""
    four = np.concatenate(list(np.moveaxis(values, axis, (0, 1))))  # (4, …, y, x)
    votes = sum((four == other).astype("uint8") for other in four)
    votes = votes if fill is None else np.where(four == fill, 0, votes)
    found: npt.NDArray[Any] = np.take_along_axis(four, np.argmax(votes, axis=0)[None], axis=0)[0]
    return found
