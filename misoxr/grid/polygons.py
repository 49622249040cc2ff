"""Named regions as a frozen value: which region a place lies in, and what a file holds of the polygons."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyproj
import shapely

from misoxr.errors import CheckpointError, SpecError
from misoxr.grid.footprints import as_read
from misoxr.grid.longitude import circle_of, near, transformer
from misoxr.spec.build import array_of, text_of

__all__ = ["Polygons"]

Floats = npt.NDArray[np.float64]
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

    def __reduce__(self) -> tuple[Any, ...]:
        """Send what it is alone: indices are built anew where it arrives."""
        return type(self), (self.names, self.region, self.shapes, self.crs)

    @cached_property
    def _indexed(self) -> tuple[npt.NDArray[Any], Floats]:
        """Polygons with an index of their edges, and their bounds; without jumps where x is a longitude."""
        circle = circle_of(self.crs)
        shapes = self.shapes if circle is None else np.array([as_read(shape, circle, boxes=True) for shape in self.shapes])
        bounds = shapely.bounds(shapes)
        with _ONE_AT_A_TIME:
            shapely.prepare(shapes)
            shapely.intersects_xy(shapes, bounds[:, [0, 2]].mean(axis=1), bounds[:, [1, 3]].mean(axis=1))
        return shapes, bounds

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

    def _first(self, xy: Floats) -> Integers:
        """Return the first polygon that holds each place (place, [x, y]), -1 for those in none."""
        circle, copies = circle_of(self.crs), [xy]
        if circle is not None:
            xy = np.column_stack([near(xy[:, 0], circle.west + circle.turn / 2, circle.turn), xy[:, 1]])
            copies = [xy, xy + (circle.turn, 0.0)]  # polygons begin within the CRS's own range, and may go on beyond it
        none = len(self.shapes)
        first = np.min([self._first_of(copy, none) for copy in copies], axis=0)
        return np.where(first < none, first, -1).astype(np.intp)

    def _first_of(self, xy: Floats, none: int) -> Integers:
        shapes, bounds = self._indexed
        first, (x, y) = np.full(len(xy), none, dtype=np.intp), np.ascontiguousarray(xy.T)
        west, south, east, north = bounds.T
        left = np.arange(len(xy))
        for number in np.flatnonzero((west <= x.max()) & (east >= x.min()) & (south <= y.max()) & (north >= y.min())):
            near_by = (x >= west[number]) & (x <= east[number]) & (y >= south[number]) & (y <= north[number])
            asked = np.flatnonzero(near_by)
            inside = asked[shapely.intersects_xy(shapes[number], x[asked], y[asked])]
            if len(inside):
                first[left[inside]] = number
                rest = np.ones(len(left), dtype=bool)
                rest[inside] = False
                left, x, y = left[rest], x[rest], y[rest]
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
