"""A quadric fitted to the square of cells around each one: what slope, aspect and curvatures are made of.

z = a x² + b y² + k xy + d x + e y + f, by least squares, x east and y north in metres from the middle. On a whole square of cells the
terms but f are orthogonal, when x² and y² are taken less their means: each coefficient is one filter along x and one along y.

References
----------
Wood 1996, "The geomorphological characterisation of digital elevation models", PhD thesis, University of Leicester.
"""

from collections.abc import Sequence
from functools import partial

import dask.array as da
import numpy as np
import numpy.typing as npt

from misoxr.covariates.dem import Cell
from misoxr.covariates.moving import Doubles, Floats, in_windows

__all__ = ["FLAT", "aspect", "bends", "curvature", "gradient", "profile_curvature", "slope"]

FLAT = -1.0
"""Aspect where there is no way down. Negative directions enter networks as none."""


def gradient(cells: da.Array, radius: int, cell: Cell) -> da.Array:
    """Return d and e: the slopes to the east and to the north, (2, y, x), lazily. NaN where a cell of the square is missing."""
    return in_windows(partial(_gradient, radius=radius, cell=cell), cells, radius, 2)


def bends(cells: da.Array, radius: int, cell: Cell) -> da.Array:
    """Return a, b and k: the terms of the second order, (3, y, x), m-1, lazily. NaN where a cell of the square is missing."""
    return in_windows(partial(_bends, radius=radius, cell=cell), cells, radius, 3)


def _gradient(z: Doubles, radius: int, cell: Cell) -> Doubles:
    at = np.arange(1, radius + 1)
    ones, squares = np.ones(radius), 2 * int((at**2).sum())
    side = 2 * radius + 1
    d = _even(_odd(z, at, 1), 1, ones, 0) / (side * squares * cell.across)
    e = _odd(_even(z, 1, ones, 1), at, 0) / (side * squares * cell.down)
    d[np.isnan(z[radius:-radius, radius:-radius])] = np.nan  # the one cell that neither of them weighs
    return np.stack([d, e])


def _bends(z: Doubles, radius: int, cell: Cell) -> Doubles:
    at = np.arange(1, radius + 1)
    ones, squares = np.ones(radius), 2 * int((at**2).sum())
    side = 2 * radius + 1
    # Three times the squares less their mean: whole numbers, so that sums of cells are exact.
    middle, curved = -radius * (radius + 1), 3 * at**2 - radius * (radius + 1)
    length = side * (middle**2 + 2 * int((curved**2).sum())) / 3
    a = _even(_even(z, middle, curved, 1), 1, ones, 0) / (length * cell.across**2)
    b = _even(_even(z, 1, ones, 1), middle, curved, 0) / (length * cell.down**2)
    k = _odd(_odd(z, at, 1), at, 0) / (squares**2 * cell.across * cell.down)
    return np.stack([a, b, k])


def _even(z: Doubles, middle: float, weights: Sequence[float] | npt.NDArray[np.generic], axis: int) -> Doubles:
    """Weigh a cell by ``middle``, and both cells at distance i along an axis by ``weights[i - 1]``."""
    reach = len(weights)
    out = _shifted(z, 0, reach, axis) * middle
    pair = np.empty_like(out)
    for at, weight in enumerate(weights, start=1):
        np.add(_shifted(z, at, reach, axis), _shifted(z, -at, reach, axis), out=pair)
        if weight != 1:
            pair *= weight
        out += pair
    return out


def _odd(z: Doubles, weights: Sequence[float] | npt.NDArray[np.generic], axis: int) -> Doubles:
    """Weigh the difference of the cells at distance i ahead and behind along an axis by ``weights[i - 1]``."""
    reach = len(weights)
    out = np.zeros_like(_shifted(z, 0, reach, axis))
    pair = np.empty_like(out)
    for at, weight in enumerate(weights, start=1):
        np.subtract(_shifted(z, at, reach, axis), _shifted(z, -at, reach, axis), out=pair)
        if weight != 1:
            pair *= weight
        out += pair
    return out


def _shifted(z: Doubles, by: int, reach: int, axis: int) -> Doubles:
    part = slice(reach + by, z.shape[axis] - reach + by)
    return z[part] if axis == 0 else z[:, part]


def slope(gradient: Floats) -> Floats:
    """Return the slope, degree, of d and e."""
    d, e = gradient
    steep: Floats = np.degrees(np.arctan(np.sqrt(d * d + e * e)))
    return steep


def aspect(gradient: Floats) -> Floats:
    """Return the azimuth of the way down, degree, clockwise from the grid's north, from 0 to below 360; -1 where it is flat."""
    d, e = gradient
    azimuth: Floats = np.degrees(np.arctan2(-d, -e)) % np.float32(360)
    azimuth[azimuth >= 360] = 0  # a step below 0 is 360 in single precision
    azimuth[(d == 0) & (e == 0)] = FLAT
    return azimuth


def curvature(bends: Floats, sign: int) -> Floats:
    """Return the greatest (sign 1) or the least curvature (sign -1), m-1; ridges are positive."""
    a, b, k = bends.astype("float64")
    bent: Floats = (-(a + b) + sign * np.sqrt((a - b) ** 2 + k**2)).astype("float32")
    return bent


def profile_curvature(gradient: Floats, bends: Floats) -> Floats:
    """Return the curvature along the way down, m-1; 0 where there is none."""
    (d, e), (a, b, k) = gradient.astype("float64"), bends.astype("float64")
    steep = d**2 + e**2
    with np.errstate(invalid="ignore", divide="ignore"):
        bent: Floats = np.where(steep == 0, 0.0, -2 * (a * d**2 + b * e**2 + k * d * e) / (steep * (1 + steep) ** 1.5)).astype(
            "float32"
        )
    return bent
