"""Polygons on a map's grid: which region each pixel's centre lies in, block by block."""

import warnings
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import dask.array as da
import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyproj
import shapely
import shapely.affinity
from affine import Affine
from dask.delayed import delayed
from odc.geo.geobox import GeoBox

from misoxr.errors import GridError, PointsError, SpecError
from misoxr.grid.footprints import DEGREES, as_read, footprint, moved
from misoxr.grid.longitude import circle_of, near
from misoxr.points.polygons import NAME, names_of, note_overlaps

__all__ = ["NONE", "Regions", "regions_on"]

NONE = "none"
"""Name of what lies in no region."""
MOST = 65_000
"""Regions that are told apart, at the most."""
FINEST = 2.0**20
"""Parts of a pixel to which corners are rounded, so that they are exact in every block."""
STRAIGHT = 0.05
"""Pixels that an edge may be off, which is straight in the regions' own CRS."""
EARTH = 6.4e6
"""Radius of the Earth, m."""

_ONE = Lock()
"""Held while polygons are burnt: rasterio silences a warning meanwhile, which one thread can do at a time."""


@dataclass(frozen=True)
class Regions:
    """Regions on a grid.

    Attributes
    ----------
    names : tuple of str
        Their names; the last is that of what lies in none.
    polygons : ndarray of object
        What they cover, in pixels of the grid: columns and rows.
    numbers : ndarray of int
        The region of each polygon.
    """

    names: tuple[str, ...]
    polygons: npt.NDArray[np.object_]
    numbers: npt.NDArray[np.intp]

    def lazily(self, rows: da.Array, columns: da.Array) -> da.Array:
        """Return the number of each pixel's region (y, x), the last for none, where rows and columns are numbers of pixels, in chunks."""
        held = delayed(self, pure=True, traverse=False)
        with warnings.catch_warnings():  # of two lines that make many blocks
            warnings.simplefilter("ignore", da.PerformanceWarning)
            burnt: da.Array = da.blockwise(
                _burnt, "yx", rows, "y", columns, "x", regions=held, dtype="uint16", meta=np.empty((0, 0), "uint16")
            )
        return burnt


def regions_on(by: Any, geobox: GeoBox) -> Regions:
    """Put polygons on a grid.

    Parameters
    ----------
    by : GeoDataFrame or GeoSeries
        Polygons in their own CRS. They are named by a column "name", by the index without one; rows of one name are one region, and rows
        without a name none. Where regions overlap, the first has the pixel.
    geobox : GeoBox
        The grid.

    Raises
    ------
    SpecError
        If ``by`` is no table of polygons.
    PointsError
        If there are none, they have no CRS, or none has a name.
    GridError
        If none of them meets the grid.
    """
    by = by.to_frame("geometry") if isinstance(by, gpd.GeoSeries) else by
    if not isinstance(by, gpd.GeoDataFrame):
        raise SpecError(f"by is a {type(by).__name__}; give polygons as a GeoDataFrame (geopandas.read_file reads files).")
    if by.crs is None:
        raise PointsError("The polygons of by carry no CRS; set it with by.set_crs(...).")
    if not len(by) or not by.geom_type.isin(["Polygon", "MultiPolygon"]).all():
        raise PointsError(f"The {len(by)} geometries of by are of {set(map(str, by.geom_type))}; give polygons.")
    column = names_of(by)
    numbers, names = pd.factorize(
        column.astype(object).where(column.notna(), None).map(lambda one: None if one is None else str(one))
    )
    if not len(names) or len(names) > MOST:
        raise PointsError(f"by has {len(names)} names of polygons; give 1 to {MOST}, in a column {NAME!r} or as the index.")
    if NONE in names:
        raise PointsError(f"A polygon of by is called {NONE!r}, as what lies in no polygon is; give it another name.")
    polygons, of = [], []
    for number, polygon in zip(numbers, by.geometry, strict=True):
        if number >= 0:
            parts = _on_grid(polygon, by.crs, geobox)
            polygons += parts
            of += [int(number)] * len(parts)
    if not polygons:
        raise GridError("No polygon of by meets the map; check the CRS of both.")
    held = np.empty(len(polygons), object)
    held[:] = polygons
    note_overlaps([str(names[one]) for one in of], held)
    return Regions((*map(str, names), NONE), held, np.array(of, np.intp))


def _on_grid(polygon: Any, crs: Any, geobox: GeoBox) -> list[Any]:
    """Return the parts of a polygon that meet a grid, in its pixels."""
    wkt, target = crs.to_wkt(), str(geobox.crs)
    circle, other = circle_of(wkt), circle_of(target)
    polygon = polygon if shapely.is_valid(polygon) else shapely.make_valid(polygon)
    if circle is not None:
        polygon = as_read(polygon, circle, boxes=True)
    parts = [polygon] if crs == target else _near(polygon, wkt, circle.turn if circle else None, geobox)
    middle = geobox.affine.c + geobox.affine.a * geobox.shape.x / 2
    out = []
    for part in (part for part in parts if not part.is_empty):
        put = moved(part, wkt, target, _step(crs, geobox, part))
        turns = [0.0]
        if other is not None:
            centre = (put.bounds[0] + put.bounds[2]) / 2
            turns = [float(near(centre, middle, other.turn)) - centre + by * other.turn for by in (-1, 0, 1)]
        for by in turns:
            here = shapely.transform(put, partial(_in_pixels, geobox=geobox, by=by))
            west, south, east, north = here.bounds
            if west < geobox.shape.x and east > 0 and south < geobox.shape.y and north > 0:
                out.append(here)
    return out


def _in_pixels(xy: npt.NDArray[np.float64], geobox: GeoBox, by: float) -> npt.NDArray[np.float64]:
    """Return columns and rows of coordinates that are moved along x, rounded to little of a pixel."""
    inverse, xy = ~geobox.affine, xy + (by, 0.0)
    return np.round(np.column_stack([inverse.a * xy[:, 0] + inverse.c, inverse.e * xy[:, 1] + inverse.f]) * FINEST) / FINEST


def _near(polygon: Any, crs: str, turn: float | None, geobox: GeoBox) -> list[Any]:
    """Cut what lies far from the grid off a polygon, which another CRS may have no place for."""
    here = moved(footprint(geobox, 16 + 0.02 * max(geobox.shape)), DEGREES, crs)
    copies = [polygon] if turn is None else [shapely.affinity.translate(polygon, by) for by in (-turn, 0.0, turn)]
    return [part for copy in copies if not (part := shapely.intersection(copy, here)).is_empty and part.area > 0]


def _step(crs: Any, geobox: GeoBox, part: Any) -> float:
    """Return the length, in units of the polygon's CRS, in which an edge is followed, so that it is off by little of a pixel."""
    degree = np.pi / 180 * EARTH
    pixel = abs(geobox.affine.a) * (degree if pyproj.CRS(str(geobox.crs)).is_geographic else 1.0)
    metres = np.sqrt(8 * EARTH * STRAIGHT * pixel)
    west, south, east, north = part.bounds
    return float(max(metres / (degree if crs.is_geographic else 1.0), max(east - west, north - south) / 10_000))


def _burnt(rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], regions: Regions) -> npt.NDArray[np.uint16]:
    """Return the regions of a block of pixels; the first polygon that holds a pixel's centre counts."""
    from rasterio.features import rasterize

    shape, first = (len(rows), len(columns)), (int(rows[0]), int(columns[0]))
    nothing = len(regions.names) - 1
    left, top, right, bottom = shapely.bounds(regions.polygons).T
    meets = (left < first[1] + shape[1]) & (right > first[1]) & (top < first[0] + shape[0]) & (bottom > first[0])
    found = np.flatnonzero(meets)[::-1]  # what is burnt last stays
    if not len(found):
        return np.full(shape, nothing, "uint16")
    shapes = zip(regions.polygons[found], regions.numbers[found].tolist(), strict=True)
    with _ONE:
        burnt = rasterize(shapes, shape, nothing, transform=Affine.translation(first[1], first[0]), dtype="uint16")
    return np.asarray(burnt, "uint16")
