"""Write Zarr pyramids: coarser levels for zooming out, by the mean of valid pixels and the mode of classes."""

import os
from collections.abc import Hashable
from math import ceil, log2
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from fsspec.implementations.local import LocalFileSystem

from misoxr.cube.join import is_direction
from misoxr.cube.variables import class_map
from misoxr.errors import SpecError, StoreError
from misoxr.grid.geobox import assign, geobox_of
from misoxr.grid.geozarr import pyramid
from misoxr.io.check import seal
from misoxr.io.codes import float_classes, with_all_codes, with_known_codes
from misoxr.io.geotiff import as_stored, chosen_maps, is_map, naming
from misoxr.io.layout import OWN, consolidate, fill_of, open_maps
from misoxr.io.replace import forget, located, move
from misoxr.io.zarr import write
from misoxr.paths import restore, scratch, settle
from misoxr.records.bars import Bar
from misoxr.records.ledger import Ledger, progress_of
from misoxr.spec.numbers import is_whole

__all__ = ["coarser", "to_pyramid"]


def coarser(ds: xr.Dataset, classes: str) -> xr.Dataset:
    """Return a dataset, lazily, with pixels twice as large, in chunks of the same size."""
    ds = ds.drop_vars(
        [name for name, coord in ds.coords.items() if coord.ndim > 1]
    )  # chunks of their own, and they are not made coarser
    sides = {dim: ds.chunksizes[dim][0] for dim in ("y", "x")}
    # Even chunks are halved one by one, and four together are a chunk again.
    even = ds.drop_vars(["y", "x"]).chunk({dim: side + side % 2 for dim, side in sides.items()})
    data = {name: _half(name, array, classes) if is_map(array) else ds[name].variable for name, array in even.data_vars.items()}
    kept = {name: coord.variable for name, coord in ds.coords.items() if not {"y", "x"} & set(coord.dims)}
    out: xr.Dataset = assign(xr.Dataset(data, kept, ds.attrs), geobox_of(ds).zoom_out(2)).chunk(sides)
    return out.assign(_most_probable(out)) if classes == "probability" else out


def _most_probable(maps: xr.Dataset) -> dict[Hashable, xr.DataArray]:
    """Return the class maps of the probabilities beside them."""
    return {
        name: class_map(maps[f"{name}_probability"], array)
        for name, array in maps.data_vars.items()
        if "flag_values" in array.attrs and array.dtype.kind in "iu" and f"{name}_probability" in maps
    }


def _half(name: Hashable, array: xr.DataArray, classes: str) -> xr.Variable:
    if array.dtype.kind == "f" and not is_direction(name, array):
        data = array.coarsen(y=2, x=2, boundary="pad").mean().data
    elif array.dtype.kind == "f" or classes == "nearest":
        data = array.isel(y=slice(None, None, 2), x=slice(None, None, 2)).data
    else:
        fill, odd = fill_of(array), [(0, 0)] * (array.ndim - 2) + [(0, size % 2) for size in array.shape[-2:]]
        padded = da.pad(array.data, odd, "edge") if fill is None else da.pad(array.data, odd, constant_values=fill)
        data = da.coarsen(_most_frequent, padded, {array.ndim - 2: 2, array.ndim - 1: 2}, fill=fill)
    return xr.Variable(array.dims, data, array.attrs)


def _most_frequent(values: npt.NDArray[Any], axis: tuple[int, ...] = (0, 1), fill: float | None = None) -> npt.NDArray[Any]:
    """Reduce the axes of every four pixels, of which those of other dimensions have one; of several as frequent, the upper or left one counts."""
    moved = np.moveaxis(values, axis, range(len(axis)))
    four = moved.reshape(-1, *moved.shape[len(axis) :])  # (4, …, y, x)
    votes = sum((four == other).astype("uint8") for other in four)
    votes = votes if fill is None else np.where(four == fill, 0, votes)
    found: npt.NDArray[Any] = np.take_along_axis(four, np.argmax(votes, axis=0)[None], axis=0)[0]
    return found


_SMALLEST = 512
"""A pyramid ends with the level that is at most so long, pixels."""


def to_pyramid(
    ds: xr.Dataset,
    store: str | os.PathLike[str],
    *,
    levels: int | None = None,
    classes: str = "mode",
    overwrite: bool = False,
    progress: bool = True,
) -> None:
    """Compute a dataset block by block and write it with coarser levels, as a Zarr v3 group of groups ``0``, ``1``, ....

    Level 0 is the dataset as :func:`misoxr.io.zarr.to_zarr` writes it. Each further level has pixels twice as large, and is computed from the stored
    level below. Every level opens by itself (``open_maps(f"{store}/2")``), with coordinates and CRS of its own. The store's attributes follow the Zarr
    conventions multiscales, proj and spatial.

    Parameters
    ----------
    ds : Dataset
        Lazy or not, on a grid with CRS.
    store : str or path
        A local path or a URL of fsspec.
    levels : int, optional
        Number of coarser levels; by default as many as make the map fit into 512 pixels.
    classes : {"mode", "nearest", "probability"}, optional
        How class maps are made coarser: the most frequent of four pixels' classes; the upper left one; or the most probable class of the mean
        ``<task>_probability``, by the names of its classes. Other maps are means of valid pixels. Directions, such as
        ``aspect``, take the upper left pixel. Integers without ``flag_values`` are treated as classes, and so are True and
        False; where two pixels of four differ from two, the upper left one counts.
    overwrite : bool, optional
        Replace a Zarr store that exists, once the new one is complete. Otherwise a store that exists is an error.
    progress : bool, optional
        Show progress bars.

    Raises
    ------
    BandError
        If GDAL does not know the type of a map's values.
    GridError
        If the dataset has no regular grid or CRS.
    SpecError
        If ``levels`` or ``classes`` is not valid, or with "probability" the probabilities are of other classes than a map's.
    StoreError
        If the store exists, is to be replaced and is not a Zarr store, or cannot be written.

    Examples
    --------
    >>> maps.miso.to_pyramid("pyramid.zarr")
    >>> finest = misoxr.open_maps("pyramid.zarr/0")
    """
    if classes not in ("probability", "mode", "nearest"):
        raise SpecError(f"classes is {classes!r}; it must be 'probability', 'mode' or 'nearest'.")
    maps = as_stored(ds.assign(chosen_maps(ds, None).data_vars))
    if classes == "probability":
        _most_probable(maps)  # probabilities that are of other classes are refused before anything is written
    box = geobox_of(maps)
    most = ceil(log2(max(box.shape)))
    count = max(0, ceil(log2(max(box.shape) / _SMALLEST))) if levels is None else levels
    if not is_whole(count) or not 0 <= count <= most:
        raise SpecError(f"levels is {levels!r}; a map of {box.shape.y} x {box.shape.x} pixels can have 0 to {most} coarser levels.")
    uri, system, path = located(store)
    if isinstance(system, LocalFileSystem):
        restore(Path(path))
    there = system.exists(path)
    if there and not overwrite:
        raise StoreError(f"The store {uri} exists; give another path, or overwrite=True to replace it.")
    local = isinstance(system, LocalFileSystem)
    # What is to be replaced, and may be read from, stays until the new one is complete; on a disk, a name is taken last.
    suffix = ".new" if there and not local else ""
    for each in {path, path + suffix}:
        if system.exists(each) and not system.exists(f"{each}/zarr.json"):
            raise StoreError(f"{each} exists and is no Zarr v3 store, so it is not replaced; give another path.")
    bar = Bar("to_pyramid", "blocks", shown=progress, stage="planning")
    with bar, naming(uri):
        if local:
            with scratch(Path(path), directory=True) as aside:
                _store(maps, f"{aside}/store", count, classes, bar)
                if there:
                    forget(uri)  # of maps that to_zarr wrote, and may be writing
                settle(aside / "store", Path(path))
            return
        if suffix and system.exists(path + suffix):
            system.rm(path + suffix, recursive=True)
        _store(maps, uri + suffix, count, classes, bar)
        if there:
            forget(uri)
            system.rm(path, recursive=True)
            move(system, path + suffix, path)


def _store(ds: xr.Dataset, uri: str, count: int, classes: str, bar: Bar) -> None:
    """Write a pyramid."""
    zarr.open_group(uri, mode="w", zarr_format=3)
    _store_levels(ds, uri, count, classes, bar)
    seal(uri, pyramid([_attributes(f"{uri}/{level}") for level in range(count + 1)]))
    consolidate(uri)


def _store_levels(ds: xr.Dataset, uri: str, count: int, classes: str, bar: Bar) -> None:
    """Write a dataset and coarser levels of it as the groups 0, 1, … of a store, each from the one below as it is stored."""
    for level in range(count + 1):
        place = f"{uri}/{level}"
        if level:
            ds = coarser(with_known_codes(open_maps(f"{uri}/{level - 1}")), classes)
        bar.name = f"to_pyramid, level {level} of {count}"
        write(ds, place, bar)
        if not level and float_classes(maps := with_all_codes(open_maps(place))) != float_classes(ds):
            write(maps, place, bar, overwrite=True)  # lazy floats that turned out to be codes
        # Levels are not resumed, and in a pyramid records would be files that are no part of it.
        Ledger(progress_of(place)).clear()


def _attributes(level: str) -> dict[str, Any]:
    """Return the attributes of a level that hold for all of a pyramid."""
    attrs = zarr.open_group(level, mode="r", use_consolidated=False).attrs.asdict()
    return {key: value for key, value in attrs.items() if key not in (*OWN, "coordinates")}
