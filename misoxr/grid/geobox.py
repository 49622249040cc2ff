"""A dataset's pixel grid (geobox): from pixels to coordinates, and from coordinates to scaled locations."""

import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from misoxr.errors import GridError, note
from misoxr.grid.longitude import circle_of, near
from misoxr.spec import LocationSpec

__all__ = [
    "assign",
    "beside",
    "code_of",
    "crs_of",
    "extent",
    "geobox_of",
    "lattice_offset",
    "located",
    "locations",
    "pixels",
    "same_grid",
    "with_mappings",
]

_UNREADABLE = 'The CRS {crs!r} cannot be read ({error}); write one, for example with .rio.write_crs("EPSG:3338") of rioxarray.'
_ROTATED = "The grid is rotated ({affine!r}); reproject it onto a north-up grid first."
_CRS_KEYS = ("crs", "proj:code", "proj:epsg", "proj:wkt2", "proj:projjson")
"""Attributes that tell a CRS."""
_LATITUDES, _LONGITUDES = ("lat", "latitude"), ("lon", "longitude", "long")

DATUMS = 0.002
"""Degrees, some 200 m, below which it matters of which datum coordinates are."""
_LENGTHS = {
    unit: factor
    for factor, names in (
        (1e3, ("km", "kilometer", "kilometre")),
        (1e-2, ("cm", "centimeter", "centimetre")),
        (1e-3, ("mm", "millimeter", "millimetre")),
    )
    for name in names
    for unit in (name, f"{name}s")
}
"""Metres in units of length that coordinates may be in, whatever the CRS is in."""
FARTHEST = 3e7
"""Metres from the origin beyond which no projection has a place."""
_ANGLES = ("rad", "radian", "radians", "microradian", "microradians")

GRID_TOLERANCE = 1e-3
"""Largest departure from a regular grid, and between two equal grids, in pixels."""
ROUNDED = 0.05
"""Part of a pixel by which its coordinates may be rounded."""


def crs_of(obj: xr.Dataset | xr.DataArray) -> str | None:
    """Return the CRS as WKT (or authority code), or None where the object carries none.

    Looked for in the CF grid mapping (``spatial_ref`` or the variable that ``grid_mapping`` names; as WKT, else by its parameters), then in an ``epsg`` or
    ``proj:epsg`` coordinate (stackstac), then in the attributes ``crs`` and ``proj:code``, ``proj:epsg``, ``proj:wkt2`` or ``proj:projjson``
    (GeoZarr) of the object and of its variables.
    """
    arrays = [obj] if isinstance(obj, xr.DataArray) else list(obj.data_vars.values())
    for name in [*(name for array in arrays for name in _mappings(array)), "spatial_ref", "crs"]:
        variable = _variable(obj, name)
        if variable is not None:
            for key in ("crs_wkt", "spatial_ref"):
                if variable.attrs.get(key):
                    return str(variable.attrs[key])
            if (written := _written_crs(variable)) is not None:
                return written
    for name in ("epsg", "proj:epsg"):
        if name in obj.coords and obj.coords[name].size == 1 and obj.coords[name].dtype.kind in "iu":
            return f"EPSG:{int(obj.coords[name])}"
    own, *others = (_declared_crs(one.attrs) for one in (obj, *arrays))
    return own or next((crs for crs in others if crs and _is_readable(crs)), None)


def _declared_crs(attrs: Mapping[Any, Any]) -> str | None:
    """Return the CRS that attributes tell: a code, WKT or PROJ JSON; None where they tell none."""
    for value in (attrs[key] for key in _CRS_KEYS if attrs.get(key)):
        if isinstance(value, Mapping) and "init" not in value:
            with suppress(pyproj.exceptions.CRSError):
                return str(pyproj.CRS.from_json_dict(dict(value)).to_wkt())
            continue
        # As rasterio wrote it once: {"init": "epsg:3338"}.
        code = str((value["init"] or "") if isinstance(value, Mapping) else value)
        if code:
            return f"EPSG:{code}" if code.isdecimal() else code
    return None


def _is_readable(crs: str) -> bool:
    """Return whether text is a CRS: what variables call theirs may be a remark."""
    try:
        pyproj.CRS(crs)
    except pyproj.exceptions.CRSError:
        return False
    return True


def _mappings(array: xr.DataArray) -> list[Hashable]:
    """Return the grid mappings that an array names; of several, as in "one: x y other: lat lon", first that of x and y."""
    told = array.encoding.get("grid_mapping", array.attrs.get("grid_mapping"))
    if not isinstance(told, str) or ":" not in told:
        return [told]
    pairs = re.findall(r"(\S+):((?:\s+[^\s:]+(?!\S))*)", told)
    return [name for name, _ in sorted(pairs, key=lambda pair: not {"x", "y"} & set(pair[1].split()))]


def _lost_mapping(obj: xr.Dataset | xr.DataArray) -> str:
    """Say how to keep the grid mapping that an array names, and that was left behind when it was selected."""
    arrays = [obj] if isinstance(obj, xr.DataArray) else list(obj.data_vars.values())
    lost = next((name for array in arrays for name in _mappings(array) if name and _variable(obj, name) is None), None)
    return f" Its grid mapping {lost!r} was left behind: give the Dataset that has it, ds[[name, {lost!r}]]." if lost else ""


def with_mappings(ds: xr.Dataset) -> xr.Dataset:
    """Return a dataset with the variables that tell its CRS as coordinates, which a selection of variables keeps."""
    names = {name for array in ds.data_vars.values() for name in _mappings(array)}
    return ds.set_coords(
        [name for name in {*names, "spatial_ref", "crs"} if name in ds.data_vars and not {"y", "x"} & set(ds[name].dims)]
    )


def _written_crs(variable: xr.DataArray) -> str | None:
    """Return the CRS that a CF grid mapping tells by its parameters alone, as Daymet and climate models write it."""
    if "grid_mapping_name" not in variable.attrs:
        return None
    try:
        return str(pyproj.CRS.from_cf(variable.attrs).to_wkt())
    except (KeyError, pyproj.exceptions.CRSError):  # parameters are missing
        return None


def _variable(obj: xr.Dataset | xr.DataArray, name: Hashable | None) -> xr.DataArray | None:
    if name is None:
        return None
    if name in obj.coords:
        return obj.coords[name]
    return obj[name] if isinstance(obj, xr.Dataset) and name in obj.data_vars else None


def geobox_of(obj: xr.Dataset | xr.DataArray) -> GeoBox:
    """Return the pixel grid of an object with dimensions y and x.

    Parameters
    ----------
    obj : Dataset or DataArray
        Coordinates y and x are pixel centres, regular to a thousandth of a pixel. Rounding to decimals may add a twentieth. The CRS is in
        ``spatial_ref``. Where their units are kilometres, and those of the CRS metres, they are converted.

    Raises
    ------
    GridError
        If y or x is missing, the coordinates are irregular or angles of a projection, or there is no CRS, or none that can be read.
    """
    for dim in ("y", "x"):
        if dim not in obj.dims or dim not in obj.coords:
            _refuse_warped(obj)
            raise GridError(
                f"The dataset has dimensions {tuple(obj.dims)} and no {dim!r} coordinate; name its pixel-centre coordinates 'y' and 'x'."
            )
    crs = crs_of(obj)
    if crs is None:
        raise GridError(
            f'The dataset carries no CRS.{_lost_mapping(obj)} Write one, for example with ds.rio.write_crs("EPSG:3338") of rioxarray.'
        )
    try:
        factors = _factors([obj.coords[dim] for dim in ("y", "x")], crs)
    except pyproj.exceptions.CRSError as error:
        raise GridError(_UNREADABLE.format(crs=crs, error=error)) from error
    y, x = (np.asarray(obj.coords[dim].values, dtype="float64") * factor for dim, factor in zip(("y", "x"), factors, strict=True))
    if not (y.size and x.size):
        raise GridError(f"The dataset has {y.size} x {x.size} pixels; give one that is not empty.")
    transform = _written_transform(obj, y, x) or _transform_of(
        y, x, [partial(_rounding, obj.coords[dim], factor) for dim, factor in zip(("y", "x"), factors, strict=True)]
    )
    try:
        return GeoBox((y.size, x.size), transform, crs)
    except pyproj.exceptions.CRSError as error:
        raise GridError(_UNREADABLE.format(crs=crs, error=error)) from error


def _factors(coordinates: Sequence[xr.DataArray], crs: str) -> list[float]:
    """Return what turns coordinates into the units of their CRS: 1, unless they say that they are in another length."""
    units = [str(coordinate.attrs.get("units", "")).strip().lower() for coordinate in coordinates]
    if not {*_LENGTHS, *_ANGLES} & set(units) or (told := pyproj.CRS(crs)).is_geographic:
        return [1.0] * len(units)
    axis = told.axis_info[0]
    for coordinate, unit in zip(coordinates, units, strict=True):
        if unit in _ANGLES:
            raise GridError(
                f"The {coordinate.name!r} coordinates are angles ({unit}), and the CRS is in {axis.unit_name}; multiply them by the "
                "perspective_point_height of the grid mapping."
            )
    metres = [_LENGTHS.get(unit, axis.unit_conversion_factor) for unit in units]
    ends = [float(np.abs(np.asarray(coordinate.values, dtype="float64")).max(initial=0)) for coordinate in coordinates]
    if any(end * metre > FARTHEST for end, metre in zip(ends, metres, strict=True)):
        return [1.0] * len(units)  # attributes stay where coordinates are multiplied by hand
    return [metre / axis.unit_conversion_factor for metre in metres]


def _affine_of(variable: xr.DataArray) -> Affine | None:
    """Return the transform that GDAL wrote; None where there is none that can be read."""
    try:
        return Affine.from_gdal(*(float(part) for part in str(variable.attrs["GeoTransform"]).split()))
    except (KeyError, TypeError, ValueError):
        return None


def _refuse_warped(obj: xr.Dataset | xr.DataArray) -> None:
    """Refuse a grid that is rotated, or known by ground control points alone; it has no coordinates along y and x."""
    variable = _variable(obj, "spatial_ref")
    attrs = {} if variable is None else variable.attrs
    if attrs.get("gcps"):
        raise GridError(
            "The raster has ground control points and no grid; warp it first, for example with gdalwarp, or .rio.reproject of rioxarray."
        )
    affine = None if variable is None else _affine_of(variable)
    if affine is not None and (affine.b or affine.d):
        raise GridError(_ROTATED.format(affine=affine))


def _written_transform(obj: xr.Dataset | xr.DataArray, y: npt.NDArray[np.float64], x: npt.NDArray[np.float64]) -> Affine | None:
    """Return the transform that GDAL or odc wrote, where the coordinates still agree with it (slicing leaves it stale)."""
    variable = _variable(obj, "spatial_ref")
    if variable is None:
        return None
    affine = _affine_of(variable)
    if affine is None:
        return None
    if affine.b or affine.d:
        raise GridError(_ROTATED.format(affine=affine))
    expected_x = affine.c + affine.a * (np.arange(x.size) + 0.5)
    expected_y = affine.f + affine.e * (np.arange(y.size) + 0.5)
    agree = np.abs(x - expected_x).max(initial=0) <= GRID_TOLERANCE * abs(affine.a) and np.abs(y - expected_y).max(
        initial=0
    ) <= GRID_TOLERANCE * abs(affine.e)
    return affine if agree else None


def _transform_of(y: npt.NDArray[np.float64], x: npt.NDArray[np.float64], rounding: Sequence[Callable[[], float]]) -> Affine:
    steps = []
    for name, values, off in zip(("y", "x"), (y, x), rounding, strict=True):
        if values.size < 2:
            raise GridError(
                f"The dataset has {values.size} pixel along {name!r} and no GeoTransform of its own, so its pixel size is unknown; "
                "take two pixels or more along it."
            )
        step = (values[-1] - values[0]) / (values.size - 1)
        if step == 0 or not np.isfinite(step):
            raise GridError(f"The {name!r} coordinates do not advance; give pixel centres of a regular grid.")
        error = np.abs(values - (values[0] + step * np.arange(values.size))).max() / abs(step)
        if error > GRID_TOLERANCE and error > GRID_TOLERANCE + off() / abs(step):
            raise GridError(
                f"The {name!r} coordinates are irregular, by up to {error:.3g} pixels; put the data on a regular grid first."
            )
        steps.append(step)
    dy, dx = steps
    return Affine(dx, 0.0, x[0] - dx / 2, 0.0, dy, y[0] - dy / 2)


def _rounding(coordinate: xr.DataArray, factor: float) -> float:
    """Return how far two coordinates may be off by rounding, in the CRS's units: in single precision, or to decimals of which a few make a pixel.

    Longitudes are often in single precision, and stay rounded where their type is changed.
    """
    values = np.asarray(coordinate.values, dtype="float64")
    single = values.astype("float32")
    found = float(np.spacing(np.abs(single).max())) if (single == values).all() else 0.0
    step = abs(values[-1] - values[0]) / (values.size - 1)
    digits = next((unit for unit in 10.0 ** -np.arange(9) if unit <= ROUNDED * step and _are_multiples(values, unit)), 0.0)
    return max(found if coordinate.dtype == single.dtype else min(found, ROUNDED * step), digits) * factor


def _are_multiples(values: npt.NDArray[np.float64], unit: float) -> bool:
    return bool((np.abs(values / unit - np.round(values / unit)) <= 1e-15 * np.abs(values / unit) + 1e-9).all())


def same_grid(one: GeoBox, other: GeoBox) -> bool:
    """Return whether two grids have the same CRS, shape and pixel centres, to a thousandth of a pixel."""
    if one.shape != other.shape or one.crs != other.crs:
        return False
    ours, theirs = (np.array(box.boundingbox.bbox).reshape(2, 2) for box in (one, other))
    size = np.array([abs(one.affine.a), abs(one.affine.e)])
    same_way = one.affine.a * other.affine.a > 0 and one.affine.e * other.affine.e > 0
    return bool(same_way and (np.abs(ours - theirs) <= GRID_TOLERANCE * size).all())


def extent(box: GeoBox) -> str:
    """Return the extent of a grid in words, for messages."""
    west, south, east, north = box.boundingbox
    return f"({west:.10g}, {south:.10g}, {east:.10g}, {north:.10g}) in {pyproj.CRS(str(box.crs)).name}"


def assign(obj: Any, geobox: GeoBox) -> Any:
    """Return the object with exactly this grid's coordinates, ``spatial_ref`` and ``grid_mapping``.

    The y and x dimensions must have the grid's shape. Nothing is resampled.
    """
    y = geobox.affine.f + geobox.affine.e * (np.arange(geobox.shape.y) + 0.5)
    x = geobox.affine.c + geobox.affine.a * (np.arange(geobox.shape.x) + 0.5)
    projected = geobox.crs is None or not geobox.crs.geographic
    names = ("projection_y_coordinate", "projection_x_coordinate") if projected else ("latitude", "longitude")
    length = geobox.crs.proj.axis_info[0].unit_name if geobox.crs and projected else ""
    length = {"metre": "m", "": "1"}.get(length, length)
    units = (length, length) if projected else ("degrees_north", "degrees_east")
    stale = {name for name in obj.coords if name in ("spatial_ref", "y", "x", "epsg", "proj:epsg")}
    coords: dict[str, xr.Variable] = {
        "y": xr.Variable("y", y, {"standard_name": names[0], "units": units[0], "axis": "Y"}),
        "x": xr.Variable("x", x, {"standard_name": names[1], "units": units[1], "axis": "X"}),
        "spatial_ref": xr.Variable((), code_of(_epsg(geobox)), _grid_mapping(geobox)),
    }
    out = obj.drop_vars(stale).assign_coords(coords)
    arrays = [out] if isinstance(out, xr.DataArray) else out.data_vars.values()
    for array in arrays:
        if {"y", "x"} <= set(array.dims):
            array.encoding.pop("grid_mapping", None)
            array.attrs["grid_mapping"] = "spatial_ref"
    return out


@lru_cache(maxsize=64)
def code_of(epsg: int) -> npt.NDArray[np.int64]:
    """Return the value of ``spatial_ref``: one array for all datasets of a CRS, so that xarray merges them without a look at values, and a warning."""
    code = np.array(epsg, "int64")
    code.setflags(write=False)
    return code


def _epsg(geobox: GeoBox) -> int:
    return int(geobox.crs.epsg or 0) if geobox.crs else 0


def _grid_mapping(geobox: GeoBox) -> dict[str, Any]:
    """CF grid mapping attributes, with the WKT and transform that GDAL, rioxarray and odc-geo read."""
    if geobox.crs is None:
        raise GridError("The grid has no CRS; give one, such as 'EPSG:3338'.")
    attrs = pyproj.CRS(geobox.crs.wkt).to_cf()
    affine = geobox.affine
    transform = " ".join(repr(float(value)) for value in affine.to_gdal())
    return {**attrs, "spatial_ref": attrs["crs_wkt"], "GeoTransform": transform}


def lattice_offset(geobox: GeoBox) -> tuple[int, int]:
    """Return row and column of the grid's first pixel, counted in whole pixels from the origin of the CRS.

    Two grids of one pixel size agree on it where they overlap; half-pixel grids (centres at multiples of the pixel size)
    are counted without wavering at the half.
    """
    columns, rows = geobox.affine.c / geobox.affine.a, geobox.affine.f / geobox.affine.e
    return math.floor(rows + 0.25), math.floor(columns + 0.25)


def beside(geobox: GeoBox, x: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return x of a grid's CRS, moved by whole turns to the grid's side of the Earth where x is a longitude."""
    circle, middle = circle_of(str(geobox.crs)), geobox.affine.c + geobox.affine.a * geobox.shape.x / 2
    return np.asarray(near(np.asarray(x, dtype="float64"), middle, circle.turn if circle else None))


def pixels(geobox: GeoBox, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return fractional pixel (row, column) of coordinates in the grid's CRS; a pixel's centre is at +0.5. Longitudes may be of any turn."""
    inverse = ~geobox.affine
    x, y = beside(geobox, x), np.asarray(y, dtype="float64")
    columns = inverse.a * x + inverse.b * y + inverse.c
    rows = inverse.d * x + inverse.e * y + inverse.f
    return rows, columns


def locations(geobox: GeoBox, rows: npt.ArrayLike, columns: npt.ArrayLike, location: LocationSpec) -> npt.NDArray[np.float64]:
    """Return scaled locations (..., 2) of fractional pixels: x from west to east and y from north to south, -1..1.

    Parameters
    ----------
    geobox : GeoBox
        The grid the pixels belong to; its coordinates are transformed to the CRS of ``location``.
    rows, columns : array_like
        Fractional pixel positions, a centre at +0.5; broadcast against each other.
    location : LocationSpec
        CRS and extent.
    """
    rows, columns = np.broadcast_arrays(np.asarray(rows, dtype="float64"), np.asarray(columns, dtype="float64"))
    x, y = geobox.affine.a * columns + geobox.affine.c, geobox.affine.e * rows + geobox.affine.f
    source, target = pyproj.CRS(str(geobox.crs)), pyproj.CRS(location.crs)
    if source != target:
        x, y = pyproj.Transformer.from_crs(source, target, always_xy=True).transform(x, y)
    west, south, east, north = location.extent
    circle = circle_of(location.crs)
    x = near(x, (west + east) / 2, circle.turn if circle else None)
    return np.stack([2 * (x - west) / (east - west) - 1, 2 * (north - y) / (north - south) - 1], axis=-1)


def located(obj: Any) -> Any:
    """Return an array or Dataset with dimensions y and x, where it calls them latitude and longitude, and their CRS where it has none.

    Without a CRS, degrees are taken to be those of EPSG:4326. Other datums lie up to some 100 m away, so a warning tells where pixels are as small.
    """
    names = {dim: axis for dim in obj.dims for axis, known in (("y", _LATITUDES), ("x", _LONGITUDES)) if str(dim).lower() in known}
    out = obj.rename({dim: axis for dim, axis in names.items() if axis not in obj.dims})
    if isinstance(out, xr.Dataset):  # bounds of cells stand along one of them
        out = out.drop_vars([name for name, array in out.data_vars.items() if len({"y", "x"} & set(array.dims)) == 1])
    if not {"y", "x"} <= set(out.coords) or crs_of(out) is not None:
        return out
    units = {str(out.coords[dim].attrs.get("units", "")).lower() for dim in ("y", "x")}
    if len(names) == 2 or all(unit.startswith("degree") for unit in units):
        if min(out.sizes["y"], out.sizes["x"]) > 1 and float(abs(out.y[1] - out.y[0])) < DATUMS:
            note(
                'A raster in degrees has no CRS and is taken to be in EPSG:4326. Write it down: raster.rio.write_crs("EPSG:4326").'
            )
        out = out.assign_attrs(crs="EPSG:4326")
    return out
