"""Cubes in hand: composites in time, joining rasters, and checking a cube against a model."""

import os
import re
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import datetime
from functools import reduce
from operator import or_
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr.errors import AssetError, BandError, GridError, MisoxrWarning, SpecError
from misoxr.grid import assign, crs_of, geobox_of
from misoxr.paths import expanded
from misoxr.resample import RESAMPLINGS, on_grid, pixel_ratio
from misoxr.spec import ModelSpec

__all__ = ["add", "check", "composite", "in_season", "named", "reduce_time"]

BLOCK = 2048
"""Chunks of files, and of what is put on an image without chunks, in pixels."""

Cube = npt.NDArray[np.float32]


def in_season(
    times: pd.DatetimeIndex, season: tuple[str, str] | None = None, years: Iterable[int] | None = None
) -> npt.NDArray[np.bool_]:
    """Return which times lie in a season of some years.

    Parameters
    ----------
    times : DatetimeIndex
        Times, in UTC where they carry no time zone.
    season : (str, str), optional
        First and last day as "MM-DD", both inclusive; the whole year by default. A season that ends before it starts wraps
        over new year and belongs to the year it starts in.
    years : iterable of int, optional
        Years to keep; all by default.

    Returns
    -------
    ndarray of bool, shape (time,)

    Raises
    ------
    SpecError
        If a day is not a day of the calendar in the form "MM-DD".
    """
    year = np.asarray(times.year, dtype="int64")
    inside = np.ones(len(times), dtype=bool)
    if season is not None:
        first, last = (_month_day(day) for day in _pair(season))
        day = np.asarray(times.month, dtype="int64") * 100 + np.asarray(times.day, dtype="int64")
        if first <= last:
            inside = (day >= first) & (day <= last)
        else:
            inside = (day >= first) | (day <= last)
            year = year - (day <= last)
    if years is not None:
        inside = inside & np.isin(year, [int(value) for value in years])
    return inside


def _pair(season: tuple[str, str]) -> tuple[str, str]:
    if isinstance(season, str) or len(season) != 2:
        raise SpecError(f'The season {season!r} is not a pair of days; write (first, last), such as ("06-20", "08-20").')
    return season


def _month_day(text: str) -> int:
    """Return "MM-DD" as month * 100 + day; 29 February is a day."""
    try:
        if not re.fullmatch(r"\d\d-\d\d", text):
            raise ValueError(text)
        day = datetime.strptime(f"2000-{text}", "%Y-%m-%d")
    except (TypeError, ValueError):
        raise SpecError(f'{text!r} is not a day of the year; write "MM-DD", such as "06-20".') from None
    return day.month * 100 + day.day


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


def composite(
    ds: xr.Dataset, season: tuple[str, str] | None = None, years: Iterable[int] | None = None, method: str = "median"
) -> xr.Dataset:
    """Reduce a time cube to one image, lazily.

    Parameters
    ----------
    ds : Dataset
        Bands (time, y, x), NaN where nothing was observed; variables without a time are kept as they are.
    season : (str, str), optional
        First and last day as "MM-DD"; see :func:`in_season`.
    years : iterable of int, optional
        Years in which the season starts.
    method : {"median", "mean"}, optional
        How to reduce.

    Returns
    -------
    Dataset
        Bands (y, x) float32 with their attributes, and ``observations`` (y, x) uint16: the number of times at which at
        least one band is valid.

    Raises
    ------
    GridError
        If there is no time dimension or no usable grid.
    SpecError
        If no time lies in the season, or the season or method is malformed.
    """
    geobox = geobox_of(ds)
    if "time" not in ds.dims or "time" not in ds.coords:
        raise GridError(f"The dataset has dimensions {tuple(ds.dims)} and no time to reduce; it may be a composite already.")
    if method not in METHODS:
        raise SpecError(f"Unknown way {method!r} to reduce time; use one of {sorted(METHODS)}.")
    times = pd.DatetimeIndex(ds["time"].values)
    years = None if years is None else list(years)
    chosen = np.flatnonzero(in_season(times, season, years))
    if not chosen.size:
        span = f"from {times.min():%Y-%m-%d} to {times.max():%Y-%m-%d}" if len(times) else "none at all"
        raise SpecError(f"No time of the cube ({len(times)} times, {span}) lies in season {season} of years {years}; widen them.")
    cube = ds.isel(time=chosen)
    bands = {name: _masked(array) for name, array in cube.data_vars.items() if "time" in array.dims}
    if not bands:
        raise BandError(f"No variable of {list(cube.data_vars)} has a time to reduce.")
    out = cube.drop_vars([name for name, array in cube.variables.items() if "time" in array.dims])
    out = out.assign({name: _reduced(array, method) for name, array in bands.items()})
    seen = reduce(or_, (array.notnull() for array in bands.values()))
    count = seen.sum("time", dtype="uint16", keep_attrs=False).variable
    count.attrs = {"long_name": "times with at least one valid band", "units": "1"}
    return assign(out.assign(observations=count), geobox)  # type: ignore[no-any-return]


def _reduced(array: xr.DataArray, method: str) -> xr.Variable:
    lazy = array.transpose("time", ...)
    dims = lazy.dims[1:]
    if lazy.chunks is None:
        return xr.Variable(dims, reduce_time(lazy.values, method), array.attrs)
    data = lazy.chunk(time=-1).data
    empty = np.empty((0,) * len(dims), dtype="float32")
    return xr.Variable(dims, data.map_blocks(reduce_time, method=method, drop_axis=0, dtype="float32", meta=empty), array.attrs)


Raster = str | os.PathLike[str] | xr.DataArray | xr.Dataset


def add(ds: xr.Dataset, resampling: str | Mapping[str, str] = "auto", **rasters: Raster) -> xr.Dataset:
    """Join rasters to a dataset on its grid, lazily.

    Parameters
    ----------
    ds : Dataset
        The image, with dimensions y and x and a CRS.
    resampling : str or mapping of variable name to str, optional
        "nearest", "bilinear" or "average"; "auto" (also for names that a mapping leaves out) takes nearest for classes (flags,
        and integers without units) and for compass directions, average where a raster's pixel is less than half the
        image's, and bilinear else.
    **rasters : path, URL, DataArray or Dataset
        A raster file (its bands become ``name``, or ``name_<description or number>`` where there are several), a Zarr
        store ending in ``.zarr``, or data in hand. A DataArray becomes the variable ``name``; a Dataset's variables
        keep their own names.

    Returns
    -------
    Dataset
        The image with the new variables (y, x), float32 with NaN as nodata, in the image's chunks.

    Raises
    ------
    GridError
        If a raster has no CRS, no y and x, an irregular grid, or does not overlap the image.
    BandError
        If a name is taken, or a variable has dimensions other than y and x.
    AssetError
        If a file or store cannot be opened.
    """
    geobox = geobox_of(ds)
    sizes = _chunks(ds)
    joined: dict[Hashable, xr.Variable] = {}
    for label, raster in rasters.items():
        for name, array in _layers(label, raster).items():
            if name in ds.variables or name in joined:
                raise BandError(f"The dataset has a variable {name!r} already; join the raster under another name.")
            joined[name] = _joined(name, array, geobox, resampling, sizes)
    return assign(ds.assign(joined), geobox)  # type: ignore[no-any-return]


def _chunks(ds: xr.Dataset) -> Mapping[str, tuple[int, ...]] | None:
    """Return the chunks along y and x of the first lazy variable, or None where all are in memory."""
    lazy = (array.chunksizes for array in ds.data_vars.values() if array.chunks is not None)
    return next(({dim: sizes[dim] for dim in ("y", "x")} for sizes in lazy if {"y", "x"} <= set(sizes)), None)


def _layers(label: str, raster: Raster) -> dict[Hashable, xr.DataArray]:
    """Return a raster's variables by the names they are to have, each with its CRS."""
    if isinstance(raster, (str, os.PathLike)):
        raster = _open(expanded(raster))
    if isinstance(raster, xr.Dataset):
        mapping = {v.encoding.get("grid_mapping", v.attrs.get("grid_mapping")) for v in raster.data_vars.values()}
        raster = raster.set_coords([name for name in {*mapping, "spatial_ref", "crs"} if name in raster.data_vars])
        box = geobox_of(raster)
        return {name: assign(array, box) for name, array in raster.data_vars.items()}
    if "band" not in raster.dims:
        return {label: raster}
    return {
        (label if raster.sizes["band"] == 1 else f"{label}_{_band_name(raster, at)}"): _band(raster, at)
        for at in range(raster.sizes["band"])
    }


def _open(path: str) -> xr.Dataset | xr.DataArray:
    import rioxarray

    blocks = {"band": 1, "y": BLOCK, "x": BLOCK}
    try:
        if path.rstrip("/").endswith(".zarr"):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Failed to open Zarr store with consolidated metadata", RuntimeWarning)
                return xr.open_zarr(path, decode_coords="all")  # type: ignore[no-any-return]
        raster = rioxarray.open_rasterio(path, chunks=blocks, mask_and_scale=True, lock=False)
    except (OSError, ValueError, ImportError) as error:  # Zarr's and fsspec's own are among them
        raise AssetError(f"The raster {path} cannot be opened: {error}") from error
    if isinstance(raster, list):
        raise GridError(f"{path} holds {len(raster)} rasters of different grids; open the one you mean and give it as a Dataset.")
    return raster


def _band_name(raster: xr.DataArray, at: int) -> str:
    described = raster.attrs.get("long_name")
    if isinstance(described, (tuple, list)) and described[at]:
        return str(described[at]).strip().replace(" ", "_")
    return str(raster["band"].values[at]) if "band" in raster.coords else str(at + 1)


def _band(raster: xr.DataArray, at: int) -> xr.DataArray:
    """Select one band, with its own of the attributes that list one value for each band."""
    one = raster.isel(band=at, drop=True)
    listed = {key: value for key, value in raster.attrs.items() if isinstance(value, (tuple, list))}
    one.attrs.update({key: value[at] for key, value in listed.items() if len(value) == raster.sizes["band"]})
    one.attrs = {key: value for key, value in one.attrs.items() if value is not None}
    return one


def _joined(
    name: Hashable,
    array: xr.DataArray,
    geobox: GeoBox,
    resampling: str | Mapping[str, str],
    sizes: Mapping[str, tuple[int, ...]] | None,
) -> xr.Variable:
    """Put one layer on the grid, in the image's chunks; in memory where both the image and the layer are."""
    if set(array.dims) != {"y", "x"}:
        raise BandError(f"Variable {name!r} has dimensions {array.dims}, not (y, x); rename, select or reduce the others first.")
    if crs_of(array) is None:
        raise GridError(
            f'Raster {name!r} carries no CRS. Write one, for example with raster.rio.write_crs("EPSG:3338") of rioxarray.'
        )
    asked = resampling if isinstance(resampling, str) else resampling.get(str(name), "auto")
    if asked not in ("auto", *RESAMPLINGS):
        raise GridError(f"Unknown resampling {asked!r} of {name!r}; use 'auto' or one of {RESAMPLINGS}.")
    method = _resampling(name, array, geobox) if asked == "auto" else asked
    block = (BLOCK, BLOCK) if sizes is None else (max(sizes["y"]), max(sizes["x"]))
    out = on_grid(_masked(array), geobox, method, block)
    if sizes is not None:
        out = out.chunk({"y": sizes["y"], "x": sizes["x"]})
    elif array.chunks is None:
        out = out.load()
    return out.transpose("y", "x").variable


def _resampling(name: Hashable, array: xr.DataArray, geobox: GeoBox) -> str:
    stored = np.dtype(array.encoding.get("rasterio_dtype", array.encoding.get("dtype", array.dtype)))
    scaled = array.encoding.get("scale_factor", 1) != 1
    words = f"{name} {array.attrs.get('standard_name', '')} {array.attrs.get('long_name', '')}".lower()
    # DEM tools write aspect without units; in degrees or without, 359 and 1 have no middle.
    compass = str(array.attrs.get("units", "degree")).lower() in ("degree", "degrees", "deg", "°") and any(
        word in words for word in ("aspect", "direction")
    )
    classes = "flag_values" in array.attrs or "flag_meanings" in array.attrs
    integers = stored.kind in "iub" and not scaled and "units" not in array.attrs
    if compass or classes or integers:
        return "nearest"
    return "average" if pixel_ratio(geobox_of(array), geobox) > 2 else "bilinear"


def _masked(array: xr.DataArray) -> xr.DataArray:
    """Return float32 with NaN where the attributes' nodata value stands, and without those attributes."""
    values = [array.attrs[key] for key in ("_FillValue", "missing_value", "nodata") if key in array.attrs]
    out = array.astype("float32")
    for value in values:
        # Compared as stored: -3e38 in float64 is another number than in float32.
        if array.dtype.kind == "f" or _fits(float(value), array.dtype):
            out = out.where(array != np.asarray(value, dtype=array.dtype))
    out.attrs = {key: value for key, value in array.attrs.items() if key not in ("_FillValue", "missing_value", "nodata")}
    out.encoding = {}
    return out


def _fits(value: float, dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iu" and value.is_integer() and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


def named(ds: xr.Dataset, spec: ModelSpec) -> xr.Dataset:
    """Return the dataset with a model's bands under the model's names, where it has them under an alias."""
    found = {alias: band.name for band in spec.bands if band.name not in ds for alias in band.aliases[::-1] if alias in ds}
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
            f"The dataset lacks {missing}, which model {spec.name!r} needs; it has {list(ds.data_vars)}. "
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
        warnings.warn(
            f"The dataset lacks the optional bands {absent} of model {spec.name!r}, which enter as the network's zero. "
            "Join them with ds.miso.add under these names.",
            MisoxrWarning,
            stacklevel=4,
        )
    return geobox
