"""Tables of polygons: how their regions are named, and the frozen value that a model's file holds of them."""

from collections.abc import Sequence
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyproj
import shapely

from misoxr.errors import PointsError, note
from misoxr.grid.polygons import Polygons
from misoxr.points.clusters import check_crs
from misoxr.points.readers import is_missing, require_once

__all__ = ["NAME", "names_of", "note_overlaps", "polygons_of"]

NAME = "name"
"""Column with the regions' names."""
SLIVER = 1e-3
"""Share of the smaller of two polygons that they may have in common, since borders are drawn twice."""


def names_of(regions: gpd.GeoDataFrame | gpd.GeoSeries, column: str | None = None) -> pd.Series:
    """Return the name of each polygon's region: of a column, by default "name"; without one, of the index, its levels joined by commas.

    It is None where it is missing or blank, also in one level. Floats that are all whole are integers, as they were before some were missing.

    Raises
    ------
    PointsError
        If there are several columns of that name.
    """
    if column is None and isinstance(regions, gpd.GeoDataFrame) and NAME in regions:
        column = NAME
    if column is not None:
        require_once(regions, [column])
    values = list(regions.index if column is None else regions[column])
    if column is None and isinstance(regions.index, pd.MultiIndex):
        values = [None if any(map(is_missing, levels)) else ", ".join(map(str, levels)) for levels in values]
    known = [value for value in values if not is_missing(value)]
    whole = all(isinstance(value, float) and value.is_integer() for value in known)
    return pd.Series([None if is_missing(value) else int(value) if whole else value for value in values], dtype=object)


def polygons_of(regions: gpd.GeoDataFrame | gpd.GeoSeries) -> Polygons:
    """Take polygons and the names of their regions (:func:`names_of`).

    Rows of one name are one region, and rows without a name none. Polygons that are not valid are mended.

    Raises
    ------
    PointsError
        If there are no polygons, none has a name, or they have no CRS.
    """
    if not isinstance(regions, gpd.GeoDataFrame | gpd.GeoSeries):
        raise PointsError(f"The regions are a {type(regions).__name__}; give a GeoDataFrame (geopandas.read_file reads files).")
    check_crs(regions.crs, "regions", projected=False)
    names = names_of(regions)
    there = np.array([shape is not None and not shape.is_empty for shape in regions.geometry], dtype=bool)
    there &= names.notna().to_numpy(dtype=bool)
    named = regions.geometry[there]
    if not len(named) or not named.geom_type.isin(["Polygon", "MultiPolygon"]).all():
        raise PointsError(f"The {len(named)} regions are of {set(map(str, named.geom_type))}; give polygons.")
    shapes = [_multipolygon(shape) for shape in named]
    held = [number for number, shape in enumerate(shapes) if not shape.is_empty]
    if not held:
        raise PointsError(f"The {len(named)} regions have no area; give polygons.")
    told, kept = names[there].astype(str).iloc[held], np.array([shapes[one] for one in held])
    note_overlaps(list(told), kept)
    codes, found = pd.factorize(told)
    return Polygons(tuple(found), codes.astype(np.intp), kept, pyproj.CRS(regions.crs).to_wkt())


def note_overlaps(names: Sequence[str], shapes: npt.NDArray[Any]) -> None:
    """Warn where polygons of several names share more than slivers of ground, as borders that were drawn twice have.

    Parameters
    ----------
    names : sequence of str
        The region of each polygon.
    shapes : array of polygons
        Valid ones, in one CRS.
    """
    told = np.asarray(names, dtype=object)
    shapes = np.where(shapely.is_valid(shapes), shapes, shapely.make_valid(shapes))  # rounding may have crossed edges
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    pairs = np.array([one, other])[:, (one < other) & (told[one] != told[other])]
    shared = shapely.area(shapely.intersection(shapes[pairs[0]], shapes[pairs[1]]))
    share = shared / np.maximum(np.minimum(*shapely.area(shapes[pairs])), np.finfo(float).tiny)
    if (share > SLIVER).any():
        most = int(share.argmax())
        first, second = told[pairs[:, most]]
        note(
            f"Regions overlap in {int((share > SLIVER).sum())} pairs of polygons, such as {first!r} and {second!r}, which share {share[most]:.1%} of the "
            "smaller one: what lies in several counts for the first. Give regions that do not overlap, or put the one that is to count first."
        )


def _multipolygon(shape: Any) -> Any:
    """Return the area of a polygon, valid and in two dimensions."""
    flat = shapely.force_2d(shape)
    valid = flat if shapely.is_valid(flat) else shapely.make_valid(flat)
    parts = shapely.get_parts(shapely.get_parts(valid))
    return shapely.MultiPolygon(list(parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]))
