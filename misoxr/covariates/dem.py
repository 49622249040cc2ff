"""Read a DEM: elevations in metres with NaN as nodata, lazily, and the size of its cells on the ground."""

import re
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyproj
import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr.cube.decode import decoded
from misoxr.cube.join import Raster, layers_of, mark_of
from misoxr.cube.units import conversion
from misoxr.errors import BandError, GridError, note
from misoxr.grid.geobox import assign, crs_of, geobox_of
from misoxr.grid.longitude import transformer
from misoxr.spec import Band

__all__ = ["Cell", "cell_of", "is_in_degrees", "opened"]

ELEVATION = Band("elevation", "m")
LOWEST, HIGHEST = -11_500.0, 9_000.0
"""Elevations of the Earth are within, m."""
NEAR = 100.0
"""Metres by which a fill value lies apart from all elevations: no depth of the sea stands so alone."""
STRETCHED = 0.05
"""By how much a metre of the CRS may miss a metre on the ground without a word."""


_ABOVE = re.compile(
    r"(?<=\w)\s*(\babove\b.*|\((above|international|egm|navd|ngvd|cgvd|evrf|wgs|a?msl|geoid|ellips|orthom|mean sea|sea level)[^()]*\))$",
    re.IGNORECASE,
)
"""What units of elevations say of where they are counted from: "m above EGM2008", "metres (EGM96)"; and of which foot."""
_DEPTH = re.compile(r"(^|_)depth(_|$)", re.IGNORECASE)
"""In CF's standard names of depths, such as "sea_floor_depth_below_geoid"."""


class Cell(NamedTuple):
    """Steps from a row to the next one and from a column to the next one, m: north and east count as positive."""

    down: float
    across: float


def opened(dem: Raster, what: str = "The DEM") -> xr.DataArray:
    """Read the elevations of a DEM, lazily.

    Parameters
    ----------
    dem : path, URL, DataArray or Dataset
        A raster file or a Zarr store ending in ``.zarr``, or data in hand. Of several variables, the one named ``elevation`` is taken.
    what : str, optional
        What errors and warnings call it.

    Returns
    -------
    DataArray (y, x)
        Named ``elevation``, m; float32, or float64 where the DEM is stored more finely. NaN is nodata.

    Raises
    ------
    AssetError
        If a file cannot be opened.
    BandError
        If there are several bands, other dimensions than y and x, no numbers, or unknown units; and where values are read, if elevations
        are none of the Earth's, such as an undeclared -9999.
    GridError
        If there is no CRS, no y and x, or an irregular grid.

    Warns
    -----
    MisoxrWarning
        If neither attributes nor a vertical CRS tell the units.
    """
    found = layers_of("dem", dem)
    name = "elevation" if "elevation" in found else next(iter(found))
    array = found[name]
    if len(found) > 1 and name != "elevation":
        raise BandError(f"{what} has the variables {list(found)}; give the one with the elevations alone, or name it 'elevation'.")
    if set(array.dims) != {"y", "x"}:
        raise BandError(f"{what} has dimensions {array.dims}, not (y, x); select or reduce the others first.")
    geobox = geobox_of(array)
    array = array.transpose("y", "x")
    plain = decoded(name, array, str(np.result_type(array.dtype, "float32")) if array.dtype.kind in "iuf" else "float32")
    work = partial(_checked, factor=_metres(array, crs_of(array) or "", what), what=what)
    data = plain.data
    if plain.chunks is None:
        out = plain.copy(data=work(data))
    else:
        out = plain.copy(data=data.map_blocks(work, dtype=data.dtype, meta=np.empty((0, 0), data.dtype)))
    out.attrs = {"long_name": "elevation", "units": "m"} | mark_of(array.attrs)
    return assign(out.reset_coords(drop=True).rename("elevation"), geobox)  # type: ignore[no-any-return]


def _metres(array: xr.DataArray, crs: str, what: str) -> float:
    """Return what turns elevations into metres, upward: by the attributes, else by the vertical axis of the CRS."""
    units, vertical = array.attrs.get("units"), pyproj.CRS(crs).axis_info[2:]
    told = str(array.attrs.get("positive", "")).lower() or (vertical[0].direction if vertical else "")
    if not told and _DEPTH.search(standard := str(array.attrs.get("standard_name", ""))):
        told = "down"
        note(
            f"{what} has the standard_name {standard!r}: its values are taken for depths, and elevations are below zero. If it has elevations, "
            "say so: its attrs['positive'] = 'up'."
        )
    sign = -1.0 if told == "down" else 1.0
    try:
        known = conversion(_ABOVE.sub("", units) if isinstance(units, str) else units, ELEVATION)
    except BandError:
        raise BandError(
            f"{what} is in {units!r}, and elevations are needed in metres. Convert it, and set its attribute units to 'm'."
        ) from None
    if known is not None:
        return sign * known[0]
    if vertical:
        return sign * float(vertical[0].unit_conversion_factor)
    note(f"{what} has no units and is taken to be in metres. Write them down: its attrs['units'] = 'm'.")
    return sign


def _checked(values: npt.NDArray[Any], factor: float, what: str) -> npt.NDArray[Any]:
    """Turn elevations into metres, and refuse those that must be nodata of which nothing tells: slopes beside them would be cliffs."""
    metres = values if factor == 1 else values * values.dtype.type(factor)
    endless = np.isinf(metres)
    if endless.any():
        metres = np.where(endless, np.nan, metres)
    strange = (metres < LOWEST) | (metres > HIGHEST) | (values == -9999)
    # Beyond those, fill values might pass for elevations in metres or feet. In smaller units they are as good as any.
    for fill in (-999, -32767, -32768) if abs(factor) > 0.3 else ():
        void = values == fill
        if void.any() and not (np.abs(metres[~void] - fill * factor) < NEAR).any():
            strange |= void
    if strange.any():
        raise BandError(
            f"{what} has elevations of {metres[strange].flat[0]:g} m, which must be an undeclared nodata value. Declare it, for example with "
            "dem.rio.write_nodata(...), or replace it: dem.where(dem > ...)."
        )
    return metres


def is_in_degrees(geobox: GeoBox) -> bool:
    """Return whether a grid counts in degrees."""
    return bool(pyproj.CRS(str(geobox.crs)).is_geographic)


def cell_of(geobox: GeoBox) -> Cell:
    """Return the size of a DEM's cells, m.

    Raises
    ------
    GridError
        If the DEM is in degrees.

    Warns
    -----
    MisoxrWarning
        If a metre of the CRS is far from a metre on the ground, as in web maps.
    """
    crs = pyproj.CRS(str(geobox.crs))
    if is_in_degrees(geobox):
        raise GridError(
            f"The DEM is in degrees ({crs.name}), and cells are needed in metres. Move it to the image's CRS, "
            'with misoxr.covariates.moved(dem, image), or reproject it, for example with dem.rio.reproject("EPSG:3338").'
        )
    unit = float(crs.axis_info[0].unit_conversion_factor) if crs.axis_info else 1.0
    cell = Cell(geobox.affine.e * unit, geobox.affine.a * unit)
    _note_stretch(geobox, crs, cell)
    return cell


def _note_stretch(geobox: GeoBox, crs: pyproj.CRS, cell: Cell) -> None:
    """Warn where the middle cell of a DEM is longer or shorter on the ground than its CRS says."""
    base = crs.geodetic_crs
    forward = None if base is None else transformer(str(geobox.crs), base.to_wkt())
    globe = None if base is None else base.get_geod()
    if forward is None or globe is None:
        return
    column, row = geobox.shape.x / 2, geobox.shape.y / 2
    x, y = zip(*(geobox.affine * (column + right, row + down) for down, right in ((0, 0), (1, 0), (0, 1))), strict=True)
    lon, lat = forward.transform(x, y)
    if not np.isfinite([*lon, *lat]).all():
        return
    _, _, lengths = globe.inv([lon[0]] * 2, [lat[0]] * 2, lon[1:], lat[1:])
    ratios = [length / abs(step) for length, step in zip(lengths, cell, strict=True)]
    worst = max(ratios, key=lambda ratio: abs(np.log(ratio)))
    if abs(worst - 1) > STRETCHED:
        note(
            f"A metre of the DEM's CRS ({crs.name}) is {worst:.2f} m on the ground, so slopes and curvatures are off by as much. "
            "Reproject the DEM to a CRS made for its area, such as UTM or EPSG:3338."
        )
