"""Climate covariates from monthly normals, on their own grid, or on an image's with a correction for elevation."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr.covariates.dem import opened
from misoxr.covariates.months import MONTHS, PRECIPITATION, TEMPERATURE, months_of
from misoxr.cube.join import Raster, chunks_of_image, mark_of, note_uncovered, open_raster, smooth
from misoxr.errors import BandError, GridError, SpecError, did_you_mean, gathered
from misoxr.grid.geobox import assign, extent, geobox_of, located, same_grid
from misoxr.grid.halo import BLOCK, in_blocks
from misoxr.grid.resample import on_grid
from misoxr.spec import COVARIATES
from misoxr.spec.numbers import is_number

__all__ = ["climate"]

ROUNDED = 0.5
"""Degrees by which a minimum may lie above the mean of its month: normals are rounded."""

Array = npt.NDArray[np.float32]
Sizes = tuple[tuple[int, ...], tuple[int, ...]]
_UNITS = {band.name: band.units for band in COVARIATES}
_WORDS = {
    "annual_precipitation": "annual precipitation",
    "summer_warmth_index": "summer warmth index: sum of the monthly mean temperatures above 0 degC",
    "january_minimum_temperature": "mean daily minimum temperature of January",
}
_STEEPEST, _FLATTEST = 20.0, 0.1
"""Lapse rates in degC per km are within, unless they are 0; those in degC per m are below."""


@gathered
def climate(
    temperature: Raster | Sequence[Raster],
    precipitation: Raster | Sequence[Raster],
    *,
    minimum: Raster | Sequence[Raster] | None = None,
    units: Mapping[str, str] | None = None,
    like: Raster | None = None,
    elevation: Raster | None = None,
    lapse_rate: float | Sequence[float] | None = None,
) -> xr.Dataset:
    """Compute the presets' climate covariates from monthly normals, lazily.

    Parameters
    ----------
    temperature : path, DataArray, Dataset, or sequence of twelve of them
        Monthly mean temperatures. A raster file of twelve bands, a NetCDF file or Zarr store, or data in hand with twelve months along a
        dimension. Months are told by times of one year, by a coordinate ``month`` (1 to 12), or by names of bands, variables or files,
        such as ``tavg_01``; else they are January to December, in order.
    precipitation : path, DataArray, Dataset, or sequence of twelve of them
        Monthly precipitation: a sum, or a rate a day or second, which is multiplied by the days of the month.
    minimum : path, DataArray, Dataset, or sequence of twelve of them, optional
        Monthly means of the daily minimum temperature. Without them there is no ``january_minimum_temperature``: a mean is no minimum.
    units : mapping of str to str, optional
        By argument, units that the metadata lack or that are wrong, such as ``{"temperature": "0.1 degC", "precipitation": "m/day"}``.
    like : path, DataArray or Dataset, optional
        Compute on the grid of this image or DEM. By default the result is on the normals' grid.
    elevation : path or DataArray, optional
        Elevation of the normals' own cells: the DEM that they were made with. For ``lapse_rate``.
    lapse_rate : float or sequence of 12 float, optional
        By how many degC temperatures fall with each km of height, one rate or one for each month: those of winter are often smaller, or
        negative where cold air lies in valleys. ``like`` must then be a DEM, or a Dataset with ``elevation``. Units of both are told by
        attributes or a vertical CRS.

    Returns
    -------
    Dataset
        (y, x) float32, lazy, NaN where a month is nodata: ``annual_precipitation`` (mm), ``summer_warmth_index`` (degC month) and, with
        ``minimum``, ``january_minimum_temperature`` (degC).

    Raises
    ------
    BandError
        If normals are not twelve months, or in unknown units; and where values are read, if no month or elevation on Earth has such
        values, as an undeclared -9999.
    GridError
        If a raster has no CRS, the normals are on several grids and there is no ``like``, or they do not overlap with it.
    SpecError
        If an argument is not valid, or needs another one.
    AssetError
        If a file cannot be opened.

    Warns
    -----
    MisoxrWarning
        If an elevation has no units; it is taken to be in metres. If normals do not cover ``like``; the result is nodata beyond.

    Notes
    -----
    The correction adds ``lapse_rate * (elevation of the normals - elevation of the DEM)`` to each month, both on the DEM's grid. It comes before
    the sum, because the index is not linear: a month that is above 0 degC in the valley adds nothing on the summit. Precipitation is not
    corrected.

    References
    ----------
    Raynolds et al. (2008), Remote Sensing of Environment 112, for the summer warmth index.

    Examples
    --------
    >>> month = xr.DataArray(range(1, 13), dims="month", coords={"month": range(1, 13)})
    >>> mean = (12 - (month - 7) ** 2 * 1.0 + 0 * image.elevation).assign_attrs(units="degC")
    >>> rain = (30 + 0 * month * image.elevation).assign_attrs(units="mm")
    >>> normals = misoxr.covariates.climate(mean, rain, minimum=mean - 5, units={"minimum": "degC"})
    >>> bands = image[["red", "nir", "elevation"]].miso.add(climate=normals)
    """
    _check(units, like, elevation, lapse_rate)
    rates = _rates(lapse_rate)
    told = dict(units or {})
    means = months_of("temperature", temperature, TEMPERATURE, told.get("temperature"))
    rain = months_of("precipitation", precipitation, PRECIPITATION, told.get("precipitation"))
    coldest = None if minimum is None else months_of("minimum", minimum, TEMPERATURE, told.get("minimum"))[0]
    if like is None:
        geobox = _common_grid(means[0], precipitation=rain[0], minimum=coldest)
        sizes = means[0].data.chunks
    else:
        like = _opened("like", like)
        geobox, sizes = geobox_of(like), _sizes(like)
    put = partial(_put, geobox=geobox, sizes=sizes)
    heights = [] if lapse_rate is None else _heights(like, elevation)
    sources = {
        "temperature": means,
        "precipitation": rain,
        "minimum": [] if coldest is None else [coldest],
        "elevation": heights[1:],
    }
    for name, layers in sources.items():
        for layer in layers[:1]:
            note_uncovered(name, geobox_of(layer), geobox)
    rise = _rise(*map(put, heights)) if heights else None
    found = {"annual_precipitation": _of_layers(_total, [put(month) for month in rain])}
    warmed = [put(month) for month in means] + ([] if rise is None else [rise])
    found["summer_warmth_index"] = _of_layers(partial(_warmth, rates=rates), warmed)
    if coldest is not None:
        january = put(coldest)
        if same_grid(geobox_of(coldest), geobox_of(means[0])):  # a coarser mean may well be colder than a valley's minimum
            january = _of_layers(_checked_minimum, [january, put(means[0])])
        found["january_minimum_temperature"] = (
            january if rise is None else _of_layers(partial(_cooled, rate=rates[0]), [january, rise])
        )
    comment = {} if lapse_rate is None else {"comment": f"moved to the DEM's elevation by {_spelt(rates)} degC per km"}
    out = xr.Dataset(
        {
            name: (("y", "x"), data, {"long_name": _WORDS[name], "units": _UNITS[name]} | (comment if "prec" not in name else {}))
            for name, data in found.items()
        },
        attrs=mark_of(*(layer.attrs for layers in [*sources.values(), heights] for layer in layers)),
    )
    return assign(out, geobox)  # type: ignore[no-any-return]


# ---- arguments


def _check(units: Any, like: Any, elevation: Any, lapse_rate: Any) -> None:
    names = ("temperature", "precipitation", "minimum")
    if not isinstance(units, Mapping | None) or not all(isinstance(text, str) for text in dict(units or {}).values()):
        raise SpecError(f'units is {units!r}; give a mapping of arguments to units, such as {{"temperature": "degC"}}.')
    for name in units or {}:
        if name not in names:
            raise SpecError(f"units names {name!r}, which is none of {names}.{did_you_mean(str(name), names)}")
    if lapse_rate is None:
        if elevation is not None:
            raise SpecError("elevation is given without lapse_rate; say by how many degC temperatures fall with each km of height.")
        return
    for name, value in (("like", like), ("elevation", elevation)):
        if value is None:
            what = "the DEM to correct to" if name == "like" else "the elevation of the normals' own cells"
            raise SpecError(f"lapse_rate is given without {name}; give {what}.")


def _rates(lapse_rate: Any) -> tuple[float, ...]:
    """Return a rate for each month; zeros where there is none."""
    several = isinstance(lapse_rate, Sequence | np.ndarray) and not isinstance(lapse_rate, str)
    rates = list(lapse_rate) if several else [0.0 if lapse_rate is None else lapse_rate] * MONTHS
    if len(rates) != MONTHS or not all(is_number(rate) and np.isfinite(rate) for rate in rates):
        raise SpecError(f"lapse_rate is {lapse_rate!r}; give one number or twelve, in degC per km.")
    largest = max(abs(rate) for rate in rates)
    if largest > _STEEPEST or 0 < largest < _FLATTEST or sum(rates) < 0:
        raise SpecError(
            f"lapse_rate is {lapse_rate!r}; it is in degC per km, positive where it gets colder upward, such as 6.5. Over the year, it is "
            "positive everywhere."
        )
    return tuple(float(rate) for rate in rates)


def _spelt(rates: Sequence[float]) -> str:
    return f"{rates[0]:g}" if len(set(rates)) == 1 else ", ".join(f"{rate:g}" for rate in rates)


def _opened(what: str, raster: Any) -> xr.Dataset | xr.DataArray:
    if isinstance(raster, str | os.PathLike):
        raster = open_raster(what, os.fspath(raster))
    if not isinstance(raster, xr.Dataset | xr.DataArray):
        raise SpecError(f"{what} is a {type(raster).__name__}; give a path, a DataArray or a Dataset with y, x and a CRS.")
    found: xr.Dataset | xr.DataArray = located(raster)
    return found


def _common_grid(first: xr.DataArray, **others: xr.DataArray | None) -> GeoBox:
    geobox = geobox_of(first)
    for name, layer in others.items():
        if layer is not None and not same_grid(geobox_of(layer), geobox):
            raise GridError(
                f"temperature covers {extent(geobox)} and {name} {extent(geobox_of(layer))}, or in other pixels. Give an image, to whose grid "
                "both are brought: like=image."
            )
    return geobox


def _sizes(like: xr.Dataset | xr.DataArray) -> Sizes:
    """Return the chunks of an image along y and x, or blocks."""
    ds = like if isinstance(like, xr.Dataset) else like.to_dataset(name="like")
    lazy = chunks_of_image(ds)
    chunks = ("auto", "auto") if lazy is None else (lazy["y"], lazy["x"])
    shape = ds.sizes["y"], ds.sizes["x"]
    rows, columns = da.core.normalize_chunks(chunks, shape, dtype="float32", limit=4 * BLOCK**2)
    return rows, columns


# ---- layers on the grid


def _put(layer: xr.DataArray, geobox: GeoBox, sizes: Sizes) -> da.Array:
    """Put a layer on the grid, in its chunks."""
    found = on_grid(layer, geobox, smooth(geobox_of(layer), geobox), (max(sizes[0]), max(sizes[1])))
    out: da.Array = found.transpose("y", "x").data.rechunk(sizes)
    return out


def _heights(like: Any, elevation: Any) -> list[xr.DataArray]:
    """Return the elevations of the DEM and of the normals' own cells, m."""
    if isinstance(like, xr.Dataset) and "elevation" not in like.data_vars:
        raise BandError(f"like has the variables {list(like.data_vars)} and no 'elevation', to which temperatures are corrected.")
    return [in_blocks(opened(raster, what)) for what, raster in (("like", like), ("elevation", _opened("elevation", elevation)))]


def _rise(above: da.Array, below: da.Array) -> da.Array:
    """Return by how many km a DEM lies above another one."""
    out: da.Array = ((above - below) / 1000).astype("float32")
    return out


def _of_layers(work: Any, layers: Sequence[da.Array]) -> da.Array:
    """Apply a function of layers, one task a block for all of them."""
    out: da.Array = da.map_blocks(work, *layers, dtype="float32", meta=np.empty((0, 0), "float32"))
    return out


def _total(*months: Array) -> Array:
    return np.asarray(sum(month.astype("float64") for month in months), dtype="float32")


def _warmth(*layers: Array, rates: Sequence[float]) -> Array:
    """Sum what is above 0 degC of twelve months, which a layer of km to rise may follow; NaN where a month is."""
    months, rise = layers[:MONTHS], layers[MONTHS] if len(layers) > MONTHS else np.float32(0)
    warm = (np.maximum(month.astype("float64") - rate * rise, 0) for month, rate in zip(months, rates, strict=True))
    return np.asarray(sum(warm), dtype="float32")


def _checked_minimum(minimum: Array, mean: Array) -> Array:
    """Refuse a minimum above the mean of its month: the two are of other months, or mixed up."""
    above = minimum > mean + np.float32(ROUNDED)
    if above.any():
        raise BandError(
            f"January has a minimum of {minimum[above].flat[0]:g} degC where its mean is {mean[above].flat[0]:g} degC. Give monthly means of the "
            "daily minimum as minimum=, and means as temperature=, both of the same months."
        )
    return minimum


def _cooled(month: Array, rise: Array, rate: float) -> Array:
    return month - np.float32(rate) * rise
