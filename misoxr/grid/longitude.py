"""Numbers on the circle of longitude. Areas on it are in :mod:`misoxr.grid.footprints`.

A place has the same x after a whole turn, in degrees and in cylindrical projections. Whoever compares, interpolates or joins
such x asks here, and so finds 180 degrees and Greenwich to be like any other meridian.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyproj
from pyproj.exceptions import ProjError

from misoxr.errors import GridError

__all__ = ["Circle", "circle_of", "columns_of_turn", "gathered", "near", "transformer", "unwrapped"]

Floats = npt.NDArray[np.float64]

SLACK = 1e-9
"""How near two places count as one, in turns: less than a decimetre."""
ROUND = 0.5
"""Columns by which a raster may miss a whole turn and still go round: pixel sizes are written with few digits."""


class Circle(NamedTuple):
    """The x of a CRS, where it is a longitude.

    Attributes
    ----------
    turn : float
        How far x grows once round the Earth.
    west : float
        Where the CRS begins to count.
    """

    turn: float
    west: float


@lru_cache(maxsize=256)
def transformer(source: str, target: str) -> pyproj.Transformer | None:
    """Return what transforms coordinates, (x, y) in both; None where the two CRS are one. Kept, for it takes long to build.

    Raises
    ------
    GridError
        If no transformation leads from one to the other.
    """
    try:
        one, other = pyproj.CRS(source), pyproj.CRS(target)
        return None if one.equals(other, ignore_axis_order=True) else pyproj.Transformer.from_crs(one, other, always_xy=True)
    except ProjError as error:
        names = " to ".join(text if len(text) < 40 else pyproj.CRS(text).name for text in (source, target))
        raise GridError(f"No transformation leads from {names} ({error}); give another CRS.") from error


@lru_cache(maxsize=256)
def circle_of(crs: str) -> Circle | None:
    """Return the circle that x of a CRS runs on: degrees, and cylindrical projections; None for all others."""
    found = pyproj.CRS(crs)
    unit = found.axis_info[0].unit_conversion_factor if found.axis_info else 1.0
    if found.is_geographic:
        turn = round(2 * np.pi / unit, 6)
        return Circle(turn, -turn / 2)
    base = found.geodetic_crs
    degrees = None if base is None or not found.is_projected else circle_of(base.to_wkt())
    forward = None if degrees is None or base is None else transformer(base.to_wkt(), crs)
    if degrees is None or forward is None:
        return None
    # x is a longitude where equal steps along two parallels are equal steps in x, but for the one across the CRS's own edge
    meridians, parallels = np.meshgrid(degrees.west + degrees.turn * np.arange(24) / 24, [0.0, degrees.turn / 8])
    x, _ = forward.transform(meridians, parallels)
    with np.errstate(invalid="ignore"):
        steps = np.diff(x, append=x[:, :1])
        turn = float(24 * np.median(steps))
        if not (turn > 0 and (np.abs(near(steps - turn / 24, 0.0, turn)) < 1e-6 * turn).all()):
            return None
    operation = found.coordinate_operation
    shifts = [part for part in (operation.params if operation else ()) if part.name == "False easting"]
    return Circle(turn, (float(shifts[0].value) * shifts[0].unit_conversion_factor / unit if shifts else 0.0) - turn / 2)


def near(x: Any, middle: Any, turn: float | None) -> Any:
    """Move x by whole turns to within half a turn of a middle; as it is where there is no circle."""
    if turn is None:
        return x
    with np.errstate(invalid="ignore"):
        return x - turn * np.floor((x - middle) / turn + 0.5)


def unwrapped(x: Floats, turn: float, jump: npt.NDArray[np.bool_] | None = None) -> Floats:
    """Move x along a line by whole turns, so that each step is the shorter way; or only the steps that are a jump."""
    turns = np.floor(np.diff(x) / turn + 0.5)
    if jump is not None:
        turns = np.where(jump, turns, 0.0)
    return np.asarray(x - turn * np.concatenate([[0.0], np.cumsum(turns)]), dtype="float64")


def columns_of_turn(crs: str, pixel: float, width: int) -> float | None:
    """Return how many columns of a raster make a whole turn; exactly its width where the raster goes round, None where x is no longitude."""
    circle = circle_of(crs)
    if circle is None:
        return None
    turn = circle.turn / abs(pixel)
    return float(width) if abs(turn - width) < ROUND else turn


def gathered(west: npt.ArrayLike, east: npt.ArrayLike, circle: Circle) -> Floats:
    """Return by how much to move intervals, whole turns, so that they lie side by side.

    They begin behind the widest gap between them, and the first begins within the CRS's own range.
    """
    west, width = np.asarray(west, dtype="float64"), np.asarray(east, dtype="float64") - np.asarray(west, dtype="float64")
    shift = -circle.turn * np.floor((west - circle.west) / circle.turn + SLACK)
    order = np.argsort(west + shift, kind="stable")
    first = (west + shift)[order]
    last = np.maximum.accumulate(first + width[order])
    last = np.maximum(last, last[-1] - circle.turn)  # the last interval may run on beyond the beginning
    gaps = first - np.append(last[-1] - circle.turn, last[:-1])
    widest = int(np.argmax(gaps))
    if gaps[widest] > gaps[0] + SLACK * circle.turn:
        shift[order[:widest]] += circle.turn
    return np.asarray(shift, dtype="float64")
