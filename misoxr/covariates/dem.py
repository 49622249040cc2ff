"""A DEM that covariates are computed from: opened, decoded, in metres, and on a grid that their formulas hold for."""

import os
from typing import Any

import numpy as np
import xarray as xr

from misoxr.cube.decode import decoded
from misoxr.cube.join import Raster, layers_of
from misoxr.cube.units import conversion
from misoxr.errors import BandError, GridError, note
from misoxr.grid.geobox import assign, geobox_of
from misoxr.spec import COVARIATES

__all__ = ["opened"]

_ELEVATION = next(band for band in COVARIATES if band.name == "elevation")
SQUARE = 1e-3
"""Largest difference of a pixel's sides, by its side."""


def opened(dem: Raster) -> xr.DataArray:
    """Open a DEM, lazily where it is lazy.

    Parameters
    ----------
    dem : path, DataArray or Dataset
        One band over y and x in a projected CRS in metres, with square pixels: a raster file, a Zarr store, or data in hand. Nodata, scale,
        offset and units in the attributes are applied.

    Returns
    -------
    DataArray
        ``elevation`` (y, x) in m, NaN where there is none. float64 where the DEM's numbers need it, else float32.

    Raises
    ------
    GridError
        If it has no CRS, no regular grid, a CRS that is not in metres, or pixels that are not square.
    BandError
        If it has several variables, other dimensions, no numbers, or units that are no length.
    AssetError, SpecError
        If it cannot be opened, or is nothing of the kind.
    """
    found = layers_of("dem", dem)
    if len(found) != 1:
        raise BandError(
            f"The DEM has the variables {list(map(str, found))}; give the one that is the elevation, such as ds[['elevation']]."
        )
    (array,) = found.values()
    if set(array.dims) != {"y", "x"}:
        raise BandError(f"The DEM has the dimensions {array.dims}, not (y, x); rename, select or reduce the others first.")
    array = array.transpose("y", "x")
    box = geobox_of(array)
    _check_grid(box)
    wide = array.dtype.itemsize > (4 if array.dtype.kind == "f" else 2)
    z = decoded(_ELEVATION.name, array, "float64" if wide else "float32")
    factor, summand = _to_metres(array)
    values = z * z.dtype.type(factor) + z.dtype.type(summand) if (factor, summand) != (1.0, 0.0) else z
    values = values.where(np.isfinite(values))
    given = {} if isinstance(dem, str | os.PathLike) else dem.attrs
    simulated = {key: value for key in ("simulated",) if (value := given.get(key, array.attrs.get(key)))}
    out: xr.DataArray = assign(values.drop_vars(set(values.coords) - {"y", "x"}).rename(_ELEVATION.name), box)
    out.attrs = {"units": _ELEVATION.units, "long_name": "elevation", "grid_mapping": "spatial_ref"} | simulated
    return out


def _check_grid(box: Any) -> None:
    dx, dy = abs(box.affine.a), abs(box.affine.e)
    unit = "degree" if box.crs.geographic else box.crs.proj.axis_info[0].unit_name
    if unit not in ("metre", "meter", "m"):
        raise GridError(
            f"The DEM's CRS {box.crs} is in {unit}s, and slopes need metres; project it first, for example with "
            'dem.rio.reproject("EPSG:3338", resolution=10) of rioxarray.'
        )
    if abs(dx - dy) > SQUARE * dx:
        raise GridError(
            f"The DEM's pixels are {dx:g} m by {dy:g} m, and must be square; resample it first, for example with "
            f"dem.rio.reproject(dem.rio.crs, resolution={min(dx, dy):g}) of rioxarray."
        )


def _to_metres(array: xr.DataArray) -> tuple[float, float]:
    """Return factor and summand that turn elevations into metres."""
    found = conversion(array.attrs.get("units"), _ELEVATION)
    if found is None:
        note("The DEM's elevations have no units, and are taken to be metres; set its attribute units to 'm', or 'ft', to say so.")
    return found or (1.0, 0.0)
