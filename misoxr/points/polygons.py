"""Named regions as a frozen value: which region a place lies in, and what a file holds of the polygons."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any, Self

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyproj
import shapely

from misoxr.errors import CheckpointError, PointsError, SpecError
from misoxr.grid.longitude import circle_of, transformer
from misoxr.points.clusters import check_crs, polygon_of
from misoxr.spec.build import array_of, text_of

__all__ = ["Polygons"]

Integers = npt.NDArray[np.intp]
_ONE_AT_A_TIME = Lock()
"""Prepared polygons build their index when they are first asked, which two threads cannot do at once."""
_OFFSETS = ("rings", "polygons", "parts")
"""Where rings begin among coordinates, polygons among rings, and multipolygons among polygons."""


@dataclass(frozen=True, eq=False)
class Polygons:
    """Polygons, each of a region with a name. Where they overlap, the first has the place.

    Attributes
    ----------
    names : tuple of str
        The regions.
    region : array of int (polygon,)
        The region of each polygon.
    shapes : array of object (polygon,)
        Multipolygons in two dimensions.
    crs : str
        Their CRS, as WKT. Edges are straight there.
    """

    names: tuple[str, ...]
    region: Integers
    shapes: npt.NDArray[Any]
    crs: str

    @classmethod
    def of(cls, regions: gpd.GeoDataFrame) -> Self:
        """Take polygons and the names of their regions, the index. Rows of one name are one region, and rows without a name none.

        Raises
        ------
        PointsError
            If there are no polygons, none has a name, or they have no CRS.
        """
        if not isinstance(regions, gpd.GeoDataFrame | gpd.GeoSeries):
            raise PointsError(f"The regions are a {type(regions).__name__}; give a GeoDataFrame (geopandas.read_file reads files).")
        check_crs(regions.crs, "regions", projected=False)
        there = np.array([shape is not None and not shape.is_empty for shape in regions.geometry], dtype=bool)
        named = regions[there & np.asarray(pd.notna(regions.index))]
        if not len(named) or not named.geom_type.isin(["Polygon", "MultiPolygon"]).all():
            raise PointsError(f"The {len(named)} regions are of {set(map(str, named.geom_type))}; give polygons.")
        codes, names = pd.factorize(named.index.astype(str))
        flat = [shapely.force_2d(shape) for shape in named.geometry]
        shapes = np.array([shape if shape.geom_type == "MultiPolygon" else shapely.MultiPolygon([shape]) for shape in flat])
        return cls(tuple(names), codes.astype(np.intp), shapes, pyproj.CRS(regions.crs).to_wkt())

    @cached_property
    def _crs(self) -> pyproj.CRS:
        return pyproj.CRS.from_wkt(self.crs)

    def at(self, x: npt.ArrayLike, y: npt.ArrayLike, crs: str) -> Integers:
        """Return the region of each place, -1 for those in none, in the shape of the coordinates.

        A place belongs to itself alone: the answer does not depend on which others are asked for with it.

        Parameters
        ----------
        x, y : array_like
            Coordinates, broadcast against each other.
        crs : str
            Their CRS.
        """
        across, up = np.broadcast_arrays(np.asarray(x, dtype="float64"), np.asarray(y, dtype="float64"))
        forward, shape = transformer(crs, self.crs), across.shape
        if forward is not None:
            across, up = forward.transform(across, up)
        xy = np.stack([np.ravel(across), np.ravel(up)], axis=-1)
        found, there = np.full(len(xy), -1, dtype=np.intp), np.isfinite(xy).all(axis=1)
        if there.any():
            found[there] = np.append(self.region, -1)[self._first(xy[there])]
        return found.reshape(shape)

    def _first(self, xy: npt.NDArray[np.float64]) -> Integers:
        """Return the first polygon that holds each place (place, [x, y]), -1 for those in none; quickly, where all lie in one."""
        if circle_of(self.crs) is not None:
            return polygon_of(xy, self.shapes, self._crs)
        around, first = shapely.box(*xy.min(axis=0), *xy.max(axis=0)), np.full(len(xy), -1, dtype=np.intp)
        with _ONE_AT_A_TIME:
            shapely.prepare(self.shapes)
            for number in np.flatnonzero(shapely.intersects(self.shapes, around)):
                left = np.flatnonzero(first < 0)
                whole = around.area > 0 and shapely.covers(self.shapes[number], around)
                first[left if whole else left[shapely.intersects_xy(self.shapes[number], *xy[left].T)]] = number
                if whole:
                    break
        return first

    def to_dict(self) -> dict[str, Any]:
        """Return names and polygons as JSON values, exactly."""
        _, coordinates, offsets = shapely.to_ragged_array(self.shapes)
        arrays = {"coordinates": coordinates.ravel(), "region": self.region.astype("int64")}
        arrays |= {name: np.asarray(one, dtype="int64") for name, one in zip(_OFFSETS, offsets, strict=True)}
        return {"names": list(self.names), "crs": self.crs, **{name: text_of(array) for name, array in arrays.items()}}

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Rebuild regions from :meth:`to_dict`.

        Raises
        ------
        CheckpointError
            If a key is missing or unknown, or a value cannot be used.
        """
        wanted = {"names", "crs", "coordinates", "region", *_OFFSETS}
        if not isinstance(values, Mapping) or set(values) != wanted:
            found = sorted(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
            raise CheckpointError(f"Regions have {sorted(wanted)}, not {found}; were they written by another misoxr?")
        try:
            names, region = values["names"], array_of(values["region"], "int64").astype(np.intp)
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise SpecError("the names are no texts")
            pyproj.CRS.from_wkt(values["crs"])
            shapes = _shapes(array_of(values["coordinates"], "float64"), [array_of(values[name], "int64") for name in _OFFSETS])
            if len(shapes) != len(region) or not ((region >= 0) & (region < len(names))).all():
                raise SpecError(f"{len(shapes)} polygons are of {len(region)} regions, and there are {len(names)} names")
        except (pyproj.exceptions.CRSError, TypeError, ValueError, shapely.errors.ShapelyError) as error:
            raise CheckpointError(f"The regions cannot be read: {error}") from error
        return cls(tuple(names), region, shapes, values["crs"])


def _shapes(coordinates: npt.NDArray[np.float64], offsets: list[npt.NDArray[np.int64]]) -> npt.NDArray[Any]:
    """Build multipolygons, if every ring is closed and all that is counted is there: the numbers may come from a stranger."""
    length = len(coordinates) // 2
    if len(coordinates) % 2:
        raise SpecError("a coordinate has no partner")
    for name, one, least in zip(_OFFSETS, offsets, (4, 1, 1), strict=True):
        if len(one) < 2 or one[0] != 0 or one[-1] != length or np.diff(one).min() < least:
            raise SpecError(f"the {name} do not add up")
        length = len(one) - 1
    xy, rings = coordinates.reshape(-1, 2), offsets[0]
    if not (xy[rings[:-1]] == xy[rings[1:] - 1]).all():
        raise SpecError("a ring is not closed")
    return np.asarray(shapely.from_ragged_array(shapely.GeometryType.MULTIPOLYGON, xy, tuple(offsets)))
