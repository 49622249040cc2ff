"""The true areas of a grid's pixels, on the ellipsoid of its CRS: what a projection distorts is put right.

An area is a whole number of parts of the largest pixel. Sums of whole numbers are exact, so they do not depend on chunks or on order.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
from odc.geo.geobox import GeoBox

from misoxr.errors import GridError
from misoxr.grid.longitude import near, transformer

__all__ = ["PARTS", "PixelAreas"]

Floats = npt.NDArray[np.float64]

PARTS = 2**32
"""Parts of the largest pixel that areas are counted in."""
LATTICE = 2_000.0
"""Metres, about, between the places where a projection's distortion is worked out; it is linear between them."""
STEP = 500.0
"""Metres, about, over which the distortion is measured: PROJ inverts projections to a millimetre, so shorter ones tell less."""
EVEN = 1e-6
"""Differences between pixels' areas, relative, below which they are all equal."""
NODES = 17
"""Places along each side of a grid at which its distortion is looked at first."""


@dataclass(frozen=True)
class PixelAreas:
    """The true areas of the pixels of a grid, m2.

    Attributes
    ----------
    crs : str
        The grid's CRS.
    origin : (float, float)
        Its upper left corner.
    pixel : (float, float)
        Width and height of a pixel, in the CRS's unit, with the sign that the coordinates have.
    largest : float
        At least the area of the largest pixel, m2; exactly where all are equal.
    even : bool
        Whether all pixels have that area, as in equal-area projections.
    lattice : int
        Pixels between the places where the distortion is worked out.
    """

    crs: str
    origin: tuple[float, float]
    pixel: tuple[float, float]
    largest: float
    even: bool
    lattice: int

    @classmethod
    def of(cls, geobox: GeoBox) -> "PixelAreas":
        """Return the areas of a grid's pixels.

        Raises
        ------
        GridError
            If the grid does not lie on Earth.

        Notes
        -----
        In degrees the area of a pixel follows from the ellipsoid's authalic latitude. In projections it is the pixel's size times the
        determinant of the inverse projection, from differences over a kilometre. Those of the CRS's own ellipsoid count, also where the
        projection is one of the sphere, as EPSG:3857 is.
        """
        affine, crs = geobox.affine, pyproj.CRS(str(geobox.crs))
        own = cls(str(geobox.crs), (affine.c, affine.f), (affine.a, affine.e), 1.0, False, 1)
        sides = [np.linspace(0, size, min(NODES, size + 1)) for size in geobox.shape]
        found = own._exact(*np.meshgrid(*sides, indexing="ij"))
        known = found[np.isfinite(found) & (found > 0)]
        if not known.size:
            raise GridError(f"No pixel of the grid lies on Earth in {crs.name}; check its coordinates and CRS.")
        flat, side = abs(affine.a * affine.e) * own._unit**2, math.sqrt(known.max())
        if not crs.is_geographic and np.abs(known / flat - 1).max() < EVEN:
            return cls(own.crs, own.origin, own.pixel, flat, True, 1)
        lattice = 2 ** int(np.clip(math.log2(LATTICE / side), 0, 8))
        return cls(own.crs, own.origin, own.pixel, float(known.max()) * 1.25, False, lattice)

    def parts(self, rows: npt.ArrayLike, columns: npt.ArrayLike) -> Floats:
        """Return the areas of pixels in parts of the largest, broadcast over rows and columns (whole, from 0).

        They are whole numbers, and NaN where a pixel does not lie on Earth.
        """
        rows, columns = np.asarray(rows), np.asarray(columns)
        if self.even:
            return np.full(np.broadcast_shapes(rows.shape, columns.shape), float(PARTS))
        if pyproj.CRS(self.crs).is_geographic:
            areas = np.broadcast_to(self._in_degrees(rows + 0.5), np.broadcast_shapes(rows.shape, columns.shape))
        else:
            areas = self._between(rows + 0.5, columns + 0.5)
        whole: Floats = np.rint(areas * (PARTS / self.largest))
        return whole

    def metres(self, parts: Any) -> Any:
        """Return a sum of parts as square metres; sums may be Python's integers, which have no end."""
        return np.vectorize(lambda one: int(one) / PARTS * self.largest, otypes=["float64"])(parts)

    def at(self, rows: npt.ArrayLike, columns: npt.ArrayLike) -> Floats:
        """Return the areas of pixels, m2, broadcast over rows and columns."""
        return np.asarray(self.parts(rows, columns) * (self.largest / PARTS))

    @property
    def _unit(self) -> float:
        """Return the metres or radians in a unit of the CRS."""
        return float(pyproj.CRS(self.crs).axis_info[0].unit_conversion_factor)

    def _exact(self, rows: Floats, columns: Floats) -> Floats:
        """Return the area of pixels whose centres lie at fractional rows and columns."""
        crs = pyproj.CRS(self.crs)
        return self._in_degrees(rows) if crs.is_geographic else self._projected(rows, columns)

    def _in_degrees(self, rows: Floats) -> Floats:
        """Return the area between two parallels and two meridians: exact on the ellipsoid, and 0 beyond the poles."""
        crs = pyproj.CRS(self.crs)
        south, north = (self._unit * (self.origin[1] + self.pixel[1] * (rows + half)) for half in (0.5, -0.5))
        zones = _to_equator(north, crs.ellipsoid) - _to_equator(south, crs.ellipsoid)
        return np.asarray(np.abs(zones * self.pixel[0] * self._unit))

    def _projected(self, rows: Floats, columns: Floats) -> Floats:
        """Return areas from the determinant of the inverse projection: its differences over some distance around each place."""
        degrees = pyproj.CRS(self.crs).geodetic_crs
        back = None if degrees is None else transformer(self.crs, degrees.to_wkt())
        if degrees is None or back is None:
            raise GridError(
                f"The CRS {pyproj.CRS(self.crs).name!r} has no degrees, so pixels have no true area; reproject the map."
            )
        radian = float(degrees.axis_info[0].unit_conversion_factor)
        x, y = (first + size * at for first, size, at in zip(self.origin, self.pixel, (columns, rows), strict=True))
        step = max(STEP / self._unit, abs(self.pixel[0]) / 2)
        east, west, north, south = (
            np.stack(back.transform(x + across, y + up)) * radian
            for across, up in ((step, 0.0), (-step, 0.0), (0.0, step), (0.0, -step))
        )
        with np.errstate(invalid="ignore"):
            across, up = ((one - other) / (2 * step) for one, other in ((east, west), (north, south)))
            for part, (one, other) in ((across, (east, west)), (up, (north, south))):
                part[0] = near(one[0] - other[0], 0.0, 2 * np.pi) / (2 * step)
            latitude = np.stack([east[1], west[1], north[1], south[1]]).mean(axis=0)
            determinant = np.abs(across[0] * up[1] - across[1] * up[0])
            areas = determinant * _curvature(latitude, degrees.ellipsoid) * abs(self.pixel[0] * self.pixel[1])
        return np.where(np.isfinite(areas), areas, np.nan)

    def _between(self, rows: Floats, columns: Floats) -> Floats:
        """Return areas between the nodes of a lattice that is anchored in the grid, so that every block has the same ones."""
        shape = np.broadcast_shapes(rows.shape, columns.shape)
        if len(shape) == 1:  # single places, far from each other
            return self._projected(*np.broadcast_arrays(rows, columns))
        nodes = [np.arange(int(at.min() // self.lattice), int(at.max() // self.lattice) + 2) for at in (rows, columns)]
        known = self._projected(*(np.asarray(self.lattice * part, "float64") for part in np.meshgrid(*nodes, indexing="ij")))
        (first, down), (left, across) = (
            (np.floor(at / self.lattice).astype(np.intp).ravel() - int(mine[0]), (at / self.lattice % 1).ravel())
            for at, mine in zip((rows, columns), nodes, strict=True)
        )
        known = known[:, left] * (1 - across) + known[:, left + 1] * across  # (node, x)
        return np.asarray(known[first] * (1 - down[:, None]) + known[first + 1] * down[:, None])


def _to_equator(latitude: Floats, ellipsoid: Any) -> Floats:
    """Return the area between a parallel (radians) and the equator over one radian of longitude, m2 (Snyder 1987, 3-12)."""
    sine = np.sin(np.clip(latitude, -np.pi / 2, np.pi / 2))
    squared = _eccentricity(ellipsoid)
    if squared == 0:
        return np.asarray(ellipsoid.semi_major_metre**2 * sine)
    e = math.sqrt(squared)
    q = (1 - squared) * (sine / (1 - squared * sine**2) + np.arctanh(e * sine) / e)
    return np.asarray(ellipsoid.semi_major_metre**2 * q / 2)


def _curvature(latitude: Floats, ellipsoid: Any) -> Floats:
    """Return the area of a radian of longitude by one of latitude, m2: the radii of curvature times the cosine."""
    squared = _eccentricity(ellipsoid)
    return np.asarray(ellipsoid.semi_major_metre**2 * (1 - squared) * np.cos(latitude) / (1 - squared * np.sin(latitude) ** 2) ** 2)


def _eccentricity(ellipsoid: Any) -> float:
    """Return the square of an ellipsoid's eccentricity."""
    return 1 - float(ellipsoid.semi_minor_metre / ellipsoid.semi_major_metre) ** 2
