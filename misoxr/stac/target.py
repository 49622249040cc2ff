"""Find the grid of the result: given, that of another dataset, or worked out from items and area."""

import math
from collections.abc import Sequence
from typing import Any

import shapely
import xarray as xr
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from misoxr.errors import CatalogError, GridError
from misoxr.grid.footprints import DEGREES, bounds_of, footprint, moved
from misoxr.grid.geobox import geobox_of, located
from misoxr.stac.items import Scene

__all__ = ["area_on", "given_grid", "meridian_of", "target_grid"]

LARGEST = 50_000_000
"""Rows or columns beyond which a grid is taken for a mistake of units."""
COARSEST = 1.0
"""Degrees of a pixel beyond which a grid of one pixel is taken for such a mistake."""


def given_grid(geobox: Any, like: Any, crs: Any, resolution: float | None) -> GeoBox | None:
    """Return the grid that the caller gives in full; None where it is to be worked out.

    Raises
    ------
    GridError
        If two grids are given, or the grid is not north-up.
    """
    if geobox is None and like is None:
        return None
    if sum(value is not None for value in (geobox, like)) == 2 or crs is not None or resolution is not None:
        raise GridError("The grid is given twice; give one of geobox, like, or crs and resolution.")
    grid = geobox if geobox is not None else geobox_of(located(like)) if isinstance(like, xr.Dataset | xr.DataArray) else like
    if not isinstance(grid, GeoBox):
        raise GridError(f"The grid is a {type(grid).__name__}; geobox is an odc.geo GeoBox, like is a Dataset or DataArray.")
    affine = grid.affine
    if grid.crs is None:
        raise GridError("The grid has no CRS; give a GeoBox that has one.")
    if affine.b or affine.d:
        raise GridError(f"The grid is not north-up: its transform {tuple(affine)[:6]} is rotated. Reproject it first.")
    if affine.a <= 0 or affine.e >= 0:
        raise GridError(
            f"The grid is not north-up: its transform is {tuple(affine)[:6]}. Let x ascend and y descend: "
            'like.sortby("x").sortby("y", ascending=False), or turn the GeoBox with flipx() and flipy().'
        )
    return grid


def target_grid(scenes: Sequence[Scene], area: BaseGeometry | None, crs: Any, resolution: float | None) -> GeoBox:
    """Work out the grid from CRS and resolution, as far as given, and the items' own.

    Its edges are multiples of the resolution where that is given, else they follow the items' pixels.

    Parameters
    ----------
    scenes : sequence of Scene
        Items with the bands that are wanted.
    area : shapely geometry, optional
        Degrees, as :mod:`misoxr.grid.footprints` has them; the union of the items by default.
    crs : str, int or CRS, optional
        The items' by default.
    resolution : float, optional
        Pixel size in units of the CRS; the smallest of the bands by default.

    Raises
    ------
    CatalogError
        If items lie in several CRS, or lack projection metadata, and the call does not settle it.
    GridError
        If CRS or resolution make no sense.
    """
    target = _common_crs(scenes) if crs is None else _read_crs(crs)
    if resolution is None:
        native = _finest(scenes, target)
        step, anchor = (native.affine.a, -native.affine.e), (native.affine.c, native.affine.f)
    else:
        if not (math.isfinite(resolution) and resolution > 0):
            raise GridError(f"The resolution {resolution!r} is not a positive number of the CRS's units.")
        step, anchor = (float(resolution), float(resolution)), (0.0, 0.0)
    try:
        areas = [scene.extent(str(target)) for scene in scenes] if area is None else [moved(area, DEGREES, str(target))]
    except GridError as error:
        raise CatalogError(str(error)) from error
    return _snapped(bounds_of(areas, str(target)), step, anchor, target)


def area_on(target: GeoBox) -> BaseGeometry:
    """Return the box in degrees that a grid lies in, beyond 180 where it crosses the antimeridian."""
    try:
        return shapely.box(*footprint(target).bounds)
    except GridError as error:
        raise CatalogError(str(error)) from error


def meridian_of(target: GeoBox) -> float:
    """Return the meridian in a grid's middle, from which solar days are counted on; 0 where a grid goes round the Earth."""
    west, _, east, _ = area_on(target).bounds
    return (west + east) / 2 if east - west < 359 else 0.0


def _read_crs(crs: Any) -> CRS:
    try:
        found = CRS(f"EPSG:{crs}" if isinstance(crs, int) else crs)
    except (ValueError, TypeError, RuntimeError) as error:
        raise GridError(f"The CRS {crs!r} cannot be read; write it as 'EPSG:3338'.") from error
    if not (found.projected or found.geographic):
        raise GridError(
            f"The CRS {crs!r} ({found.proj.name}) is no map's: it has no x and y; give a projected one, such as 'EPSG:3338'."
        )
    return found


def _common_crs(scenes: Sequence[Scene]) -> CRS:
    """Return the one CRS of all items."""
    found: dict[str, CRS] = {}
    for scene in scenes:
        crs = _own_grid(scene).crs
        assert crs is not None
        found[str(crs)] = crs
    if len(found) > 1:
        raise CatalogError(f"The items lie in several CRS, {sorted(found)}; choose one with crs and resolution, geobox or like.")
    return next(iter(found.values()))


def _own_grid(scene: Scene) -> GeoBox:
    grid = scene.finest()
    if grid is None:
        raise CatalogError(
            f"Item {scene.id!r} lacks projection metadata (proj:code or proj:epsg, proj:transform and proj:shape), so no grid follows "
            "from it; give crs and resolution, geobox or like."
        )
    return grid


def _finest(scenes: Sequence[Scene], target: CRS) -> GeoBox:
    """Return the items' grid with the smallest pixels, which has to be in the target CRS."""
    grid = min((_own_grid(scene) for scene in scenes), key=lambda box: float(box.affine.a))
    if grid.crs != target:
        raise GridError(f"The items lie in {grid.crs}, so {target} needs a resolution in its own units.")
    return grid


def _snapped(bounds: tuple[float, float, float, float], step: tuple[float, float], anchor: tuple[float, float], crs: CRS) -> GeoBox:
    """Return the smallest grid on the lattice of steps from the anchor that covers the bounds, to a thousandth of a pixel."""
    first, last = [], []
    for axis in (0, 1):
        low, high = ((bounds[end] - anchor[axis]) / step[axis] for end in (axis, axis + 2))
        first.append(math.floor(low + 1e-3))
        last.append(max(math.ceil(high - 1e-3), first[axis] + 1))
    shape = last[1] - first[1], last[0] - first[0]
    if max(shape) > LARGEST:
        raise GridError(f"The grid would have {shape[0]} x {shape[1]} pixels; is the resolution {step[0]:g} in units of {crs}?")
    wide, high = bounds[2] - bounds[0], bounds[3] - bounds[1]
    if crs.geographic and step[0] > COARSEST and max(wide, high) < step[0]:
        raise GridError(
            f"The resolution is {step[0]:g} degrees, and the area is {wide:.4g} x {high:.4g} degrees: less than a pixel. Give a projected crs, whose units "
            "are metres, or a resolution in degrees."
        )
    west, north = anchor[0] + first[0] * step[0], anchor[1] + last[1] * step[1]
    return GeoBox(shape, Affine(step[0], 0.0, west, 0.0, -step[1], north), crs)
