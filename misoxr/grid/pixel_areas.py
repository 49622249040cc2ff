"""The true areas of a grid's pixels, on the ellipsoid of its CRS: what a projection distorts is put right.

An area is a whole number of parts of the largest pixel. Sums of whole numbers are exact, so they do not depend on chunks or on order.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
from odc.geo.geobox import GeoBox

from misoxr.errors import GridError
from misoxr.grid.longitude import transformer

__all__ = ["PARTS", "PixelAreas"]

Floats = npt.NDArray[np.float64]

PARTS = 2**32
"""Parts of the largest pixel that areas are counted in."""
LATTICE = 2_000.0
"""Metres, about, between the places where a projection's distortion is worked out; it is linear between them."""
STEP = 1_000.0
"""Metres, about, over which the distortion is measured: PROJ inverts projections to a millimetre, so shorter ones tell less."""
COARSE = 12_000.0
"""Metres of a pixel's side, above which the distortion differs within."""
TORN = 1.05
"""How much longer a step on one side may be than on the other, where a map has no edge."""
EVEN = 1e-6
"""Differences between pixels' areas, relative, below which they are all equal."""
EQUAL_AREA = ("Equal Area", "Equal Earth", "Mollweide", "Sinusoidal", "Homolosine", "Eckert II", "Eckert IV", "Eckert VI", "Bonne")
"""In the names of projections that keep areas. On an ellipsoid not all of them do, so the areas of most places must agree, too."""
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
        In degrees the area of a pixel follows from the ellipsoid's authalic latitude. In projections it is the pixel's size times what the
        inverse projection makes of it, from differences over two kilometres between places in space. The CRS's own ellipsoid counts, also
        where the projection is one of the sphere, as EPSG:3857 is. The name of an equal-area projection counts where most places agree.
        """
        affine, crs = geobox.affine, pyproj.CRS(str(geobox.crs))
        own = cls(str(geobox.crs), (affine.c, affine.f), (affine.a, affine.e), 1.0, False, 1)
        sides = [np.linspace(0, size, min(NODES, size + 1)) for size in geobox.shape]
        found = own._exact(*np.meshgrid(*sides, indexing="ij"))
        known = found[np.isfinite(found) & (found > 0)]
        if not known.size:
            raise GridError(f"No pixel of the grid lies on Earth in {crs.name}; check its coordinates and CRS.")
        flat, side = abs(affine.a * affine.e) * own._unit**2, math.sqrt(known.max())
        off = np.abs(known / flat - 1)
        method = crs.coordinate_operation.method_name if crs.coordinate_operation else ""
        keeps = any(name in method for name in EQUAL_AREA) and np.median(off) < EVEN
        if not crs.is_geographic and (keeps or off.max() < EVEN):
            return cls(own.crs, own.origin, own.pixel, flat, True, 1)
        lattice = 2 ** int(np.clip(round(math.log2(LATTICE / side)), 0, 8))
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
        """Return the area of pixels whose centres lie at fractional rows and columns, broadcast."""
        crs = pyproj.CRS(self.crs)
        return self._in_degrees(rows) if crs.is_geographic else self._projected(*np.broadcast_arrays(rows, columns))

    def _in_degrees(self, rows: Floats) -> Floats:
        """Return the area between two parallels and two meridians: exact on the ellipsoid, and 0 beyond the poles."""
        crs = pyproj.CRS(self.crs)
        south, north = (self._unit * (self.origin[1] + self.pixel[1] * (rows + half)) for half in (0.5, -0.5))
        zones = _to_equator(north, crs.ellipsoid) - _to_equator(south, crs.ellipsoid)
        return np.asarray(np.abs(zones * self.pixel[0] * self._unit))

    def _projected(self, rows: Floats, columns: Floats) -> Floats:
        """Return the areas of pixels, those of large ones from four places within (Gauss): what bends between them counts, too."""
        size = abs(self.pixel[0] * self.pixel[1])
        if max(map(abs, self.pixel)) * self._unit <= COARSE:
            return np.asarray(self._density(rows, columns) * size)
        off = 0.5 / math.sqrt(3)
        areas = np.mean([self._density(rows + up, columns + across) for up in (-off, off) for across in (-off, off)], axis=0)
        edge = np.isnan(areas)  # of the Earth: there, the centre stands for the pixel
        areas[edge] = self._density(rows[edge], columns[edge])
        return np.asarray(areas * size)

    def _density(self, rows: Floats, columns: Floats) -> Floats:
        """Return square metres on the ellipsoid by squared unit of the CRS; NaN where a place does not lie on Earth.

        Differences are taken between places in space. There, unlike in degrees, neither poles nor meridians are special.
        """
        degrees = pyproj.CRS(self.crs).geodetic_crs
        back = None if degrees is None else transformer(self.crs, degrees.to_wkt())
        if degrees is None or back is None:
            raise GridError(
                f"The CRS {pyproj.CRS(self.crs).name!r} has no degrees, so pixels have no true area; reproject the map."
            )
        radian = float(degrees.axis_info[0].unit_conversion_factor)
        x, y = (first + size * at for first, size, at in zip(self.origin, self.pixel, (columns, rows), strict=True))
        step = STEP / self._unit

        def place(across: float, up: float) -> Floats:
            longitude, latitude = back.transform(x + across, y + up)
            return _in_space(radian * np.asarray(longitude), radian * np.asarray(latitude), degrees.ellipsoid)

        with np.errstate(invalid="ignore"):
            here = place(0.0, 0.0)
            known = np.isfinite(here).all(axis=0)
            if not known.all():
                density = np.full(known.shape, np.nan)
                if known.any():
                    density[known] = self._density(rows[known], columns[known])
                return density
            across, up = _slope(lambda far: place(far, 0.0), here, step), _slope(lambda far: place(0.0, far), here, step)
            density = np.linalg.norm(np.cross(across, up, axis=0), axis=0)
        return np.where(np.isfinite(density), density, np.nan)

    def _between(self, rows: Floats, columns: Floats) -> Floats:
        """Return areas between the nodes of a lattice that is anchored in the grid, so that every block has the same ones.

        Single places, and large pixels, are worked out one by one. So are pixels beside a node that does not lie on Earth.
        """
        shape = np.broadcast_shapes(rows.shape, columns.shape)
        if len(shape) == 1 or self.lattice == 1:
            return self._projected(*np.broadcast_arrays(rows, columns))
        nodes = [np.arange(int(at.min() // self.lattice), int(at.max() // self.lattice) + 2) for at in (rows, columns)]
        known = self._projected(*(np.asarray(self.lattice * part, "float64") for part in np.meshgrid(*nodes, indexing="ij")))
        (first, down), (left, across) = (
            (np.floor(at / self.lattice).astype(np.intp).ravel() - int(mine[0]), (at / self.lattice % 1).ravel())
            for at, mine in zip((rows, columns), nodes, strict=True)
        )
        known = known[:, left] * (1 - across) + known[:, left + 1] * across  # (node, x)
        found = np.asarray(known[first] * (1 - down[:, None]) + known[first + 1] * down[:, None])
        beside = np.isnan(found)
        if beside.any():
            found[beside] = self._projected(*(np.broadcast_to(at, shape)[beside] for at in (rows, columns)))
        return found


def _slope(place: Callable[[float], Floats], here: Floats, step: float) -> Floats:
    """Return how places change along a line; where it leaves the Earth or jumps to another part of the map, from the other side."""
    before, after = place(-step), place(step)
    slope = (after - before) / (2 * step)
    ahead, behind = (np.linalg.norm(one - here, axis=0) for one in (after, before))
    torn = ~(np.maximum(ahead, behind) <= TORN * np.minimum(ahead, behind))
    if torn.any():
        least = np.full(torn.shape, np.inf)
        for side, one in ((step, after), (-step, before)):
            other = place(2 * side)
            bend = np.linalg.norm(other - 2 * one + here, axis=0)  # least on the side without a jump
            straight = torn & (bend < least)
            slope = np.where(straight, (4 * one - 3 * here - other) / (2 * side), slope)
            least = np.where(straight, bend, least)
    return slope


def _in_space(longitude: Floats, latitude: Floats, ellipsoid: Any) -> Floats:
    """Return places on an ellipsoid (radians) from its centre, m: (3, ...)."""
    squared = _eccentricity(ellipsoid)
    radius = ellipsoid.semi_major_metre / np.sqrt(1 - squared * np.sin(latitude) ** 2)
    level = radius * np.cos(latitude)
    return np.stack([level * np.cos(longitude), level * np.sin(longitude), (1 - squared) * radius * np.sin(latitude)])


def _to_equator(latitude: Floats, ellipsoid: Any) -> Floats:
    """Return the area between a parallel (radians) and the equator over one radian of longitude, m2 (Snyder 1987, 3-12)."""
    sine = np.sin(np.clip(latitude, -np.pi / 2, np.pi / 2))
    squared = _eccentricity(ellipsoid)
    if squared == 0:
        return np.asarray(ellipsoid.semi_major_metre**2 * sine)
    e = math.sqrt(squared)
    q = (1 - squared) * (sine / (1 - squared * sine**2) + np.arctanh(e * sine) / e)
    return np.asarray(ellipsoid.semi_major_metre**2 * q / 2)


def _eccentricity(ellipsoid: Any) -> float:
    """Return the square of an ellipsoid's eccentricity."""
    return 1 - float(ellipsoid.semi_minor_metre / ellipsoid.semi_major_metre) ** 2
