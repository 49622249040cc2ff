"""What lies on the ground: the area to stay in, points that exist, roads, and what it costs to get to a pixel."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import shapely
import shapely.affinity
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from misoxr.cube.decode import decoded
from misoxr.errors import BandError, GridError, PointsError, SpecError
from misoxr.grid.footprints import as_read, moved
from misoxr.grid.geobox import beside, crs_of, extent, pixels
from misoxr.grid.longitude import circle_of
from misoxr.grid.resample import on_grid
from misoxr.points.clusters import coordinates_of

__all__ = ["Area", "area_of", "centres", "cost_layer", "distances", "is_degrees", "numbers", "places", "positions", "roads_of"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
EARTH = 6_371_008.8
"""Mean radius of the Earth, m."""


@dataclass(frozen=True)
class Area:
    """Polygons in a map's CRS.

    Attributes
    ----------
    polygons : tuple of bytes
        Polygons as WKB.
    """

    polygons: tuple[bytes, ...]

    @cached_property
    def geometry(self) -> npt.NDArray[np.object_]:
        """Return the polygons."""
        return np.asarray(shapely.from_wkb(list(self.polygons)), dtype=object)

    def holds(self, box: GeoBox, rows: Integers, columns: Integers) -> npt.NDArray[np.bool_]:
        """Return which pixels of a block have their centres in the area; rows and columns are numbers of the grid's pixels that follow each other."""
        from rasterio.features import rasterize  # heavy to import

        transform = box.affine * Affine.translation(int(columns[0]), int(rows[0]))
        shape = len(rows), len(columns)
        corners = [transform * corner for corner in ((0, 0), (shape[1], shape[0]))]
        (west, east), (south, north) = (sorted(side) for side in zip(*corners, strict=True))
        here = shapely.intersects(self.geometry, shapely.box(west, south, east, north))
        if not here.any():
            return np.zeros(shape, bool)
        burnt = rasterize(list(self.geometry[here]), shape, transform=transform, dtype="uint8")
        return np.asarray(burnt, dtype=bool)


def area_of(polygons: Any, box: GeoBox) -> Area:
    """Check an area to stay in, and return it in a map's CRS.

    Raises
    ------
    PointsError
        If it is no GeoDataFrame of polygons with a CRS, or does not meet the map.
    """
    if not isinstance(polygons, gpd.GeoDataFrame | gpd.GeoSeries):
        raise PointsError(f"within is a {type(polygons).__name__}; give a GeoDataFrame of polygons.")
    if polygons.crs is None:
        raise PointsError("The polygons of within carry no CRS; set it with set_crs.")
    geometry = [one for one in polygons.geometry if one is not None and not one.is_empty]
    if not geometry or any(one.geom_type not in ("Polygon", "MultiPolygon") for one in geometry):
        kinds = sorted({one.geom_type for one in geometry}) or ["nothing"]
        raise PointsError(f"within holds {', '.join(kinds)}; give polygons of the area to stay in.")
    source, target = str(polygons.crs.to_wkt()), str(box.crs)
    degrees, circle = circle_of(source), circle_of(target)
    read = [one if degrees is None else as_read(one, degrees, boxes=True) for one in geometry]
    there = [one if polygons.crs == box.crs.proj else moved(one, source, target) for one in read] if box.crs else read
    turns = (0.0,) if circle is None else (-circle.turn, 0.0, circle.turn)
    copies = [shapely.affinity.translate(one, by) if by else one for one in there for by in turns]
    map_ = shapely.box(*box.boundingbox.bbox)
    met = [one for one in copies if one.intersects(map_)]
    if not met:
        west, south, east, north = (float(value) for value in shapely.total_bounds(np.array(there, dtype=object)))
        raise PointsError(
            f"The area of within covers ({west:.10g}, {south:.10g}, {east:.10g}, {north:.10g}) and the map {extent(box)}: they do not meet. "
            "Give an area on the map, and check its CRS."
        )
    return Area(tuple(shapely.to_wkb(one) for one in met))


def is_degrees(box: GeoBox) -> bool:
    """Return whether a map is in degrees."""
    return bool(box.crs is not None and box.crs.geographic)


def centres(index: Integers, box: GeoBox) -> Floats:
    """Return the centres of numbered pixels, (pixel, [x, y])."""
    rows, columns = index // box.shape.x, index % box.shape.x
    affine = box.affine
    return np.column_stack([affine.c + affine.a * (columns + 0.5), affine.f + affine.e * (rows + 0.5)])


def places(points: Any, box: GeoBox) -> Floats:
    """Return where points are in a map's CRS, on its side of the Earth: (point, [x, y]).

    Raises
    ------
    PointsError
        If they are no points with a CRS.
    """
    if not isinstance(points, gpd.GeoDataFrame | gpd.GeoSeries):
        raise PointsError(f"existing is a {type(points).__name__}; give a GeoDataFrame of points, or leave it out.")
    if points.crs is None:
        raise PointsError("The points of existing carry no CRS; set it with set_crs.")
    if not len(points):
        return np.empty((0, 2))
    xy = coordinates_of(points, box.crs.proj if box.crs else None)
    return np.column_stack([beside(box, xy[:, 0]), xy[:, 1]])


def numbers(xy: Floats, box: GeoBox) -> Integers:
    """Return the numbers of the pixels that hold places, sorted, each once; places beyond the map have none."""
    row, column = (np.floor(part).astype("int64") for part in pixels(box, xy[:, 0], xy[:, 1]))
    inside = (row >= 0) & (row < box.shape.y) & (column >= 0) & (column < box.shape.x)
    return np.unique(row[inside] * box.shape.x + column[inside])


def positions(xy: Floats, box: GeoBox) -> Floats:
    """Return coordinates whose distances are lengths: x and y, or, of degrees, those of points on a sphere, m."""
    if not is_degrees(box):
        return xy
    longitude, latitude = np.deg2rad(xy.T)
    around = np.cos(latitude)
    return EARTH * np.column_stack([around * np.cos(longitude), around * np.sin(longitude), np.sin(latitude)])


def roads_of(roads: Any, box: GeoBox) -> shapely.STRtree:
    """Return roads, or other places to start from, in a map's CRS.

    Raises
    ------
    PointsError
        If they carry no CRS, or there are none.
    """
    if roads.crs is None:
        raise PointsError("The roads of cost carry no CRS; set it with set_crs.")
    moved_ = roads.geometry if box.crs is None else roads.geometry.to_crs(box.crs.proj)
    found = [one for one in moved_ if one is not None and not one.is_empty]
    if not found:
        raise PointsError("The roads of cost hold no geometry; give some, or a raster of costs.")
    return shapely.STRtree(found)


def distances(roads: shapely.STRtree, xy: Floats) -> Floats:
    """Return the distance of places to the nearest road."""
    points = np.asarray(shapely.points(xy), dtype=object)
    _, found = roads.query_nearest(points, return_distance=True, all_matches=False)
    return np.asarray(found, dtype="float64")


def cost_layer(cost: Any, box: GeoBox, chunks: tuple[int, int]) -> xr.DataArray:
    """Return a raster of costs on a map's grid, by the nearest pixel, lazily.

    Raises
    ------
    SpecError
        If it is no DataArray.
    BandError
        If it has other dimensions than y and x, or holds no numbers.
    GridError
        If it has no CRS, or does not overlap the map.
    """
    if not isinstance(cost, xr.DataArray):
        raise SpecError(f"cost is a {type(cost).__name__}; give a DataArray with y, x and a CRS, or a GeoDataFrame of roads.")
    flat = cost.squeeze([dim for dim in cost.dims if dim not in ("y", "x") and cost.sizes[dim] == 1], drop=True)
    if set(flat.dims) != {"y", "x"}:
        raise BandError(f"The raster of costs has dimensions {flat.dims}, not (y, x); select or reduce the others first.")
    if crs_of(flat) is None:
        raise GridError(
            'The raster of costs carries no CRS. Write one, for example with cost.rio.write_crs("EPSG:3338") of rioxarray.'
        )
    return on_grid(decoded("cost", flat), box, "nearest", chunks).transpose("y", "x")
