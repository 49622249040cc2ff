"""Footprints and areas: read, reprojected and compared, on either side of 180 degrees and of Greenwich.

An area here is a shapely geometry without a jump: what crosses the antimeridian goes on beyond 180. It begins within the range of
its CRS, -180..180 for degrees.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyproj
import shapely
import shapely.affinity
from shapely.geometry.base import BaseGeometry

from misoxr.errors import GridError
from misoxr.grid.longitude import Circle, circle_of, gathered, near, transformer, unwrapped

if TYPE_CHECKING:  # with Dask, which frozen values do without
    from odc.geo.geobox import GeoBox

__all__ = ["DEGREES", "as_read", "bounds_of", "bounds_on", "checked", "footprint", "meeting", "meets", "moved", "split", "turned"]

DEGREES = "EPSG:4326"

DEGREE = Circle(360.0, -180.0)
WRITTEN = 1e-3
"""Degrees by which an edge once round the Earth may miss the whole turn."""
TALL = 30.0
"""Degrees of latitude beyond which an area is no scene, but a part of the Earth."""
STEPS = 100
"""Steps in which the longer side of an area is followed into another CRS."""
EARTH = 1e6
"""A radius of curvature, metres, that no parallel's undercuts on any but a polar map."""

NEAR_POLE = 80.0
"""Latitude from which a ring may pass by a pole."""

Positions = npt.NDArray[np.float64]
Change = Callable[[Positions], Positions]


def as_read(area: BaseGeometry, circle: Circle = DEGREE, *, boxes: bool = False, strict: bool = False) -> BaseGeometry:
    """Return an area in degrees, as people write it, without a jump.

    An edge that is longer than half a turn goes the other way round, as of rings from 179 to -179. It stays where it goes round
    the whole Earth, or where the area is taller than 30 degrees.

    Parameters
    ----------
    area : shapely geometry
        Longitude, of any number of turns, and latitude.
    circle : Circle, optional
        That of another CRS than degrees.
    boxes : bool, optional
        Whether a box whose ring runs counterclockwise is as wide as it says, as ``shapely.box`` makes them.
    strict : bool, optional
        Whether what is not valid is refused, or repaired.

    Raises
    ------
    GridError
        If ``strict``, and it is empty or not valid.
    """
    degree = circle.turn / DEGREE.turn

    def straight(ring: Positions) -> Positions:
        x, y = ring.T
        steps = np.abs(np.diff(x))
        if not len(steps) or np.ptp(y) > TALL * degree or (boxes and _is_box(ring)):
            return ring
        jump = (steps > circle.turn / 2) & (np.abs(steps - circle.turn) > WRITTEN * degree)
        return _closed(unwrapped(x, circle.turn, jump), y, circle, circle.turn / 4)

    parts = [_rebuilt(part, straight, circle) for part in _parts(shapely.force_2d(area)) if not part.is_empty]
    if strict:
        checked(shapely.GeometryCollection(parts))
    return _joined(parts, circle)


def moved(area: BaseGeometry, source: str, target: str, step: float | None = None) -> BaseGeometry:
    """Return an area in another CRS; edges are followed, not only corners.

    Parameters
    ----------
    area : shapely geometry
        Without a jump.
    source, target : str
        CRS.
    step : float, optional
        Length, in units of the source, after which an edge is followed anew; a hundredth of the area's longer side by default.

    Raises
    ------
    GridError
        If it does not lie within the target.
    """
    forward, circle = transformer(source, target), circle_of(target)
    if forward is None:
        return _joined(_parts(area), circle)
    west, south, east, north = area.bounds
    step = step or max(east - west, north - south) / STEPS or 1.0
    pole = circle.turn / 4 if circle and pyproj.CRS(target).is_geographic else np.inf

    def across(ring: Positions) -> Positions:
        x, y = (np.asarray(part, dtype="float64") for part in forward.transform(ring[:, 0], ring[:, 1]))
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise GridError(
                f"The area {tuple(round(float(value), 4) for value in area.bounds)} in {source} does not lie within {target}; "
                "choose another crs, or a smaller area."
            )
        if circle is None:
            return np.column_stack([x, y])
        capped = _cap(ring, y, forward, circle, step) if target == DEGREES else None
        return _closed(unwrapped(x, circle.turn), y, circle, pole) if capped is None else capped

    parts = [_rebuilt(part, across, circle) for part in _parts(shapely.segmentize(area, step))]
    return _joined(parts, circle)


def checked(area: BaseGeometry) -> BaseGeometry:
    """Return the area.

    Raises
    ------
    GridError
        If it is empty, or a part of it is not valid.
    """
    wrong = next((part for part in _parts(area) if not shapely.is_valid(part)), None)
    if wrong is not None or area.is_empty:
        raise GridError(f"The area is {'empty' if wrong is None else 'not valid: ' + shapely.is_valid_reason(wrong)}.")
    return area


def _joined(parts: Sequence[BaseGeometry], circle: Circle | None) -> BaseGeometry:
    """Join parts, side by side on the circle; rings that touch by rounding, or cross themselves, are repaired."""
    parts = [part if shapely.is_valid(part) else shapely.make_valid(part) for part in parts]
    if circle is not None:
        west, _, east, _ = shapely.bounds(np.array(parts, dtype=object)).T
        parts = [_shifted(part, by) for part, by in zip(parts, gathered(west, east, circle), strict=True)]
    return parts[0] if len(parts) == 1 else shapely.union_all(parts)


@lru_cache(maxsize=4096)
def footprint(box: "GeoBox", margin: float = 0.0) -> BaseGeometry:
    """Return what a grid covers, grown by a margin in pixels, in degrees; edges are followed to half a pixel.

    Raises
    ------
    GridError
        If the grid does not lie on Earth.
    """
    width, height = (abs(size) for size in (box.affine.a, box.affine.e))
    west, south, east, north = box.boundingbox.bbox
    outline = shapely.box(west - margin * width, south - margin * height, east + margin * width, north + margin * height)
    longest = max(outline.bounds[2] - outline.bounds[0], outline.bounds[3] - outline.bounds[1])
    metres = box.crs is None or not box.crs.geographic
    step = min(longest / 8, np.sqrt(4 * EARTH * min(width, height))) if metres else longest / STEPS
    return moved(outline, str(box.crs), DEGREES, max(step, longest / 1000))


def turned(area: BaseGeometry) -> npt.NDArray[np.object_]:
    """Return an area in degrees, and copies of it 360 degrees west and east: one of them meets whatever the area meets."""
    return np.array([_shifted(area, by) for by in (-DEGREE.turn, 0.0, DEGREE.turn)], dtype=object)


def meets(one: BaseGeometry, other: BaseGeometry) -> bool:
    """Return whether two areas in degrees meet."""
    return any(shapely.intersects(area, other) for area in _beside(one, other))


def meeting(tree: shapely.STRtree, area: BaseGeometry) -> npt.NDArray[np.intp]:
    """Return which areas of a tree, in degrees, an area meets, in their order."""
    return np.unique(tree.query(turned(area), predicate="intersects")[1])


def split(area: BaseGeometry) -> BaseGeometry:
    """Return an area in degrees as GeoJSON has it (RFC 7946, 3.1.9): within -180..180, in two parts where it crosses the antimeridian."""
    south, north = area.bounds[1], area.bounds[3]
    whole_turn = shapely.box(DEGREE.west, south - 1, DEGREE.west + DEGREE.turn, north + 1)
    parts = _parts(shapely.GeometryCollection(list(shapely.intersection(turned(area), whole_turn))))
    most = max(shapely.get_dimensions(part) for part in parts)  # what only touches the antimeridian is no part
    joined = shapely.union_all([part for part in parts if shapely.get_dimensions(part) == most])
    return shapely.reverse(shapely.normalize(joined))  # counterclockwise


def bounds_of(areas: Sequence[BaseGeometry] | npt.NDArray[np.object_], crs: str) -> tuple[float, float, float, float]:
    """Return the bounds of areas in a CRS, together: the shortest way round."""
    west, south, east, north = shapely.bounds(np.asarray(areas, dtype=object)).T
    circle = circle_of(crs)
    shift = np.zeros(len(west)) if circle is None else gathered(west, east, circle)
    return float((west + shift).min()), float(south.min()), float((east + shift).max()), float(north.max())


def bounds_on(area: BaseGeometry, box: "GeoBox") -> tuple[float, float, float, float]:
    """Return the bounds, on a grid, of an area in degrees that meets it, as far as it lies there or a little beyond."""
    crs, circle = str(box.crs), circle_of(str(box.crs))
    here = footprint(box, 8 + 0.01 * max(box.shape))
    middle = (box.boundingbox.left + box.boundingbox.right) / 2
    parts = [shapely.intersection(one, here) for one in _beside(area, here)]
    found = [moved(part, DEGREES, crs).bounds for part in parts if not part.is_empty]
    west, south, east, north = np.array(found).T
    if circle is not None:
        shift = near((west + east) / 2, middle, circle.turn) - (west + east) / 2
        west, east = west + shift, east + shift
    return float(west.min()), float(south.min()), float(east.max()), float(north.max())


def _beside(area: BaseGeometry, other: BaseGeometry) -> Iterator[BaseGeometry]:
    """Yield an area in degrees in the turns, of the three, in which its bounds meet another's."""
    (west, _, east, _), (first, _, last, _) = area.bounds, other.bounds
    for by in (-DEGREE.turn, 0.0, DEGREE.turn):
        if west + by <= last and east + by >= first:
            yield _shifted(area, by)


def _shifted(area: BaseGeometry, by: float) -> BaseGeometry:
    return shapely.affinity.translate(area, by) if by else area


def _parts(area: BaseGeometry) -> list[BaseGeometry]:
    """Return the points, lines and polygons that an area is made of."""
    parts = shapely.get_parts(area)
    while (shapely.get_num_geometries(parts) != 1).any() or shapely.get_type_id(parts).max(initial=0) > 3:
        parts = shapely.get_parts(parts)
    return list(parts)


def _is_box(ring: Positions) -> bool:
    if len(ring) != 5 or (ring[0] != ring[-1]).any():
        return False
    shell = shapely.LinearRing(ring)
    return bool(shapely.is_ccw(shell) and shapely.equals(shapely.Polygon(shell), shapely.envelope(shell)))


def _rebuilt(part: BaseGeometry, change: Change, circle: Circle | None) -> BaseGeometry:
    """Return a point, line or polygon with its lines changed, each on its own."""
    if part.geom_type != "Polygon":
        return shapely.transform(part, change)
    shell: BaseGeometry
    shell, *holes = (shapely.Polygon(change(shapely.get_coordinates(ring))) for ring in shapely.get_rings(part))
    for hole in holes:  # its ring may have begun in another turn than the shell's, or run round a pole from elsewhere
        middle, own = ((one.bounds[0] + one.bounds[2]) / 2 for one in (shell, hole))
        for turns in (0,) if circle is None else (-1, 0, 1):
            by = 0.0 if circle is None else near(own, middle, circle.turn) - own + turns * circle.turn
            shell = shapely.difference(shell, _shifted(hole, by))
    return shell


def _closed(x: Positions, y: Positions, circle: Circle, pole: float) -> Positions:
    """Return a ring's positions; one that runs round a pole is closed through it, or as near to it as the ring goes where it is infinite."""
    if abs(x[-1] - x[0]) > circle.turn / 2 and y[0] == y[-1]:
        pole = float(np.copysign(min(pole, np.abs(y).max()) if np.isinf(pole) else pole, y.mean()))
        x, y = np.append(x, [x[-1], x[0], x[0]]), np.append(y, [pole, pole, y[0]])
    return np.column_stack([x, y])


def _cap(ring: Positions, y: Positions, back: pyproj.Transformer, circle: Circle, step: float) -> Positions | None:
    """Return all around a pole, as far from it as a ring goes, where the ring passes by so near that it cannot be followed."""
    if np.abs(y).max() < NEAR_POLE:
        return None
    pole = np.copysign(90.0, y[np.abs(y).argmax()])
    here = back.transform(0.0, pole, direction="INVERSE")
    if not np.hypot(ring[:, 0] - here[0], ring[:, 1] - here[1]).min() <= step:
        return None
    far, east = (y.min() if pole > 0 else y.max()), circle.west + circle.turn
    return np.array([(circle.west, far), (east, far), (east, pole), (circle.west, pole), (circle.west, far)])
