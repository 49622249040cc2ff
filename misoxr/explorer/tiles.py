"""Tiles of a web map: which pixels of a grid lie under theirs."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import atan, ceil, degrees, exp, pi
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from misoxr.errors import GridError
from misoxr.grid.geobox import extent, pixels
from misoxr.grid.longitude import transformer, unwrapped

__all__ = ["DEEPEST", "SIDE", "Ground", "Tile"]

Floats = npt.NDArray[np.float64]
SIDE = 256
"""Rows and columns of a tile, pixels."""
DEEPEST = 24
"""The most that one can zoom in."""
NODES = 16
"""Parts of a tile's sides at whose ends coordinates are transformed first."""
OFF = 0.1
"""How far off a position may be that is interpolated between nodes, in pixels of the grid."""
LATITUDE = degrees(2 * atan(exp(pi)) - pi / 2)
"""Where web Mercator ends."""
_WEB, _LONLAT = "EPSG:3857", "EPSG:4326"
_HALF = pi * 6_378_137.0
_EDGE = 1e-6
"""Degrees by which a place may lie outside of a grid by rounding."""


class Tile(NamedTuple):
    """A tile by zoom, column from west and row from north, of a world of 2**zoom x 2**zoom tiles."""

    zoom: int
    column: int
    row: int

    @property
    def pixel(self) -> float:
        """Side of a pixel, metres of web Mercator."""
        return 2 * _HALF / SIDE / 2.0**self.zoom

    def mercator(self, steps: int, *, edges: bool) -> tuple[Floats, Floats]:
        """Return x and y, web Mercator, of steps along the sides: their centres, or with ``edges`` their ends, one more."""
        at = (np.arange(steps + edges, dtype="float64") + (0.0 if edges else 0.5)) * (SIDE / steps)
        return (self.column * SIDE + at) * self.pixel - _HALF, _HALF - (self.row * SIDE + at) * self.pixel


@dataclass(frozen=True)
class Ground:
    """Where a grid lies, and how to find its pixels.

    Attributes
    ----------
    box : GeoBox
        The grid, in any direction of rows and columns.
    """

    box: GeoBox

    @cached_property
    def outline(self) -> Floats:
        """Longitudes and latitudes around the grid, (point, 2), without a jump at 180 degrees."""
        height, width = self.box.shape.yx
        steps = np.linspace(0, 1, 65)
        columns = width * np.concatenate([steps, np.ones(65), steps[::-1], np.zeros(65)])
        rows = height * np.concatenate([np.zeros(65), steps, np.ones(65), steps[::-1]])
        affine = self.box.affine
        x, y = affine.c + affine.a * columns, affine.f + affine.e * rows
        found = transformer(str(self.box.crs), _LONLAT)
        lon, lat = (x, y) if found is None else found.transform(x, y)
        known = np.isfinite(lon) & np.isfinite(lat)
        if not known.any():
            raise GridError(f"The grid {extent(self.box)} lies nowhere on the Earth; check its CRS and coordinates.")
        # Of a CRS in degrees x goes on beyond 180 as it is; of others longitudes jump there.
        line = lon[known] if found is None else unwrapped(lon[known], 360.0)
        line = line - 360.0 * np.floor(((line.min() + line.max()) / 2 + 180) / 360)
        return np.stack([line, lat[known]], axis=-1)

    @cached_property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east and north, degrees; east may lie beyond 180, and a grid around a pole takes the whole circle."""
        (west, south), (east, north) = self.outline.min(axis=0), self.outline.max(axis=0)
        for pole in (-90.0, 90.0):
            if self._holds(0.0, pole):
                west, east = -180.0, 180.0
                south, north = min(south, pole), max(north, pole)
        return float(west), max(float(south), -LATITUDE), float(east), min(float(north), LATITUDE)

    def _holds(self, lon: float, lat: float) -> bool:
        rows, columns = self.at(lon, lat)
        height, width = self.box.shape.yx
        return bool(0 <= rows < height and 0 <= columns < width) and self.box.crs is not None and not self.box.crs.geographic

    def at(self, lon: float, lat: float) -> tuple[float, float]:
        """Return the fractional row and column of a place; infinite where the CRS does not reach it."""
        rows, columns = _transformed(self.box, _LONLAT, np.array([lon]), np.array([lat]))
        return float(rows[0]), float(columns[0])

    def place(self, lon: float, lat: float) -> tuple[float, float]:
        """Return x and y of a place in the grid's CRS."""
        rows, columns = self.at(lon, lat)
        affine = self.box.affine
        return affine.c + affine.a * columns, affine.f + affine.e * rows

    def under(self, tile: Tile) -> tuple[Floats, Floats]:
        """Return the fractional row and column under each pixel of a tile, (y, x); NaN outside of the grid."""
        x, y = tile.mercator(SIDE, edges=False)
        inside = self._meets(x, y)
        if not inside.any():
            return np.full((SIDE, SIDE), np.nan), np.full((SIDE, SIDE), np.nan)
        rows, columns = _interpolated(self.box, tile) or _transformed(self.box, _WEB, *np.meshgrid(x, y))
        height, width = self.box.shape.yx
        with np.errstate(invalid="ignore"):
            inside &= (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        return np.where(inside, rows, np.nan), np.where(inside, columns, np.nan)

    def _meets(self, x: Floats, y: Floats) -> npt.NDArray[np.bool_]:
        """Whether places of web Mercator, y along the first axis, lie within the bounds: beyond them, a CRS may lead back onto its grid."""
        west, south, east, north = self.bounds
        lon, lat = x / _HALF * 180, np.degrees(2 * np.arctan(np.exp(y / _HALF * pi)) - pi / 2)
        wide, edge = east - west, _EDGE
        within = (lon - west + edge) % 360 <= wide + 2 * edge if wide < 360 else np.ones(lon.shape, bool)
        inside: npt.NDArray[np.bool_] = np.logical_and.outer((lat >= south - edge) & (lat <= north + edge), within)
        return inside

    def scale(self, zoom: int) -> tuple[float, float]:
        """Return how many rows and columns a pixel of a tile takes in the grid's middle: along the way that takes fewer of each."""
        west, south, east, north = self.bounds
        height, width = self.box.shape.yx
        middle = _to_lonlat(self.box, height / 2, width / 2) or ((west + east) / 2, (south + north) / 2)
        size = Tile(zoom, 0, 0).pixel
        x = middle[0] / 180 * _HALF
        y = float(np.log(np.tan(np.radians(np.clip(middle[1], -LATITUDE, LATITUDE)) / 2 + pi / 4))) / pi * _HALF
        # Steps of a fortieth of a pixel: a large one would leave small grids.
        xs, ys = x + np.array([0, size, 0]) / 40, y - np.array([0, 0, size]) / 40
        rows, columns = _transformed(self.box, _WEB, xs, ys)
        steps = 40 * np.array([[rows[1] - rows[0], rows[2] - rows[0]], [columns[1] - columns[0], columns[2] - columns[0]]])
        if not np.isfinite(steps).all():
            return size / abs(self.box.affine.e), size / abs(self.box.affine.a)
        return float(np.hypot(*steps[0])), float(np.hypot(*steps[1]))

    def fitting(self) -> int:
        """Return the zoom at which a pixel of the grid is about one of a tile."""
        finest = min(self.scale(0))
        return int(np.clip(ceil(np.log2(max(finest, 1e-9))), 0, DEEPEST))


def _to_lonlat(box: GeoBox, row: float, column: float) -> tuple[float, float] | None:
    affine = box.affine
    x, y = affine.c + affine.a * column, affine.f + affine.e * row
    found = transformer(str(box.crs), _LONLAT)
    lon, lat = (x, y) if found is None else found.transform(x, y)
    return (float(lon), float(lat)) if np.isfinite([lon, lat]).all() else None


def _transformed(box: GeoBox, crs: str, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return fractional rows and columns of places in a CRS; infinite or NaN where the grid's CRS does not reach them."""
    found = transformer(crs, str(box.crs))
    x, y = (x, y) if found is None else found.transform(x, y)
    with np.errstate(invalid="ignore"):
        return pixels(box, x, y)


def _interpolated(box: GeoBox, tile: Tile) -> tuple[Floats, Floats] | None:
    """Return rows and columns under a tile's pixels, interpolated between nodes; None where that is not good enough."""
    nodes = _transformed(box, _WEB, *np.meshgrid(*tile.mercator(2 * NODES, edges=True)))
    weights, found = _weights(2 * NODES), []
    for values in nodes:  # (node, node)
        if not np.isfinite(values).all():
            return None
        # Every other node, interpolated from its neighbours, shows by how much twice as wide a net would miss.
        middle = (values[:-2:2] + values[2::2]) / 2
        across = (values[:, :-2:2] + values[:, 2::2]) / 2
        if max(np.abs(middle - values[1::2]).max(), np.abs(across - values[:, 1::2]).max()) > OFF:
            return None
        found.append(weights @ values @ weights.T)
    return found[0], found[1]


@lru_cache(maxsize=4)
def _weights(steps: int) -> Any:
    """Return what each node counts at each pixel's centre along a side, (pixel, node)."""
    at = (np.arange(SIDE) + 0.5) * steps / SIDE
    return np.maximum(0.0, 1 - np.abs(at[:, None] - np.arange(steps + 1)))
