"""Slopes of one block, and what the SAGA wetness index and the stream power index make of them. Compiled."""

from typing import Any

import numpy as np
import numpy.typing as npt

from misoxr.covariates.flow import COLUMNS, ROWS, compiled

__all__ = ["indices", "suction"]

Floats = npt.NDArray[np.float64]

SUCTION = 10.0
"""The weight of a slope in the suction."""
OFFSET = np.deg2rad(0.01)
"""Added to the slope of the wetness index, which is not defined without slope."""


@compiled
def suction(z: Floats, side: float) -> Any:
    """Return which share of a neighbour's catchment area each cell takes at least.

    Parameters
    ----------
    z : ndarray (rows + 2, columns + 2)
        Elevation in m, with 1 ring; NaN is nodata.
    side : float
        Side of a cell in m.

    Returns
    -------
    ndarray (rows, columns)
        0 to 1, and 1 where there is no slope; NaN in nodata.
    """
    rows, columns = z.shape
    out = np.empty((rows - 2, columns - 2))
    for row in range(1, rows - 1):
        for column in range(1, columns - 1):
            power = np.log(SUCTION) * _slope(z, row, column, side)
            out[row - 1, column - 1] = np.exp(-power * np.exp(np.exp(power)))  # (1 / d) ** exp(d), d = SUCTION ** slope
    return out


@compiled
def indices(z: Floats, area: Floats, modified: Floats, side: float) -> Any:
    """Return the stream power index and the wetness index.

    Parameters
    ----------
    z, area, modified : ndarray (rows + 2, columns + 2)
        Elevation in m, catchment area and the raised one in m2, with 1 ring; NaN is nodata.
    side : float
        Side of a cell in m.

    Returns
    -------
    ndarray (2, rows, columns)
        Stream power index in m2, NaN in cells without a whole facet; wetness index.
    """
    rows, columns = z.shape
    out = np.full((2, rows - 2, columns - 2), np.nan)
    for row in range(1, rows - 1):
        for column in range(1, columns - 1):
            if np.isnan(z[row, column]):
                continue
            out[0, row - 1, column - 1] = area[row, column] * _steepest(z, row, column, side)
            wet = _smoothed(area, modified, row, column)
            out[1, row - 1, column - 1] = np.log(wet / side / np.tan(_slope(z, row, column, side) + OFFSET))
    return out


@compiled
def _smoothed(area: Floats, modified: Floats, row: int, column: int) -> float:
    """Return the mean of the raised area over 3 x 3 cells where any of them was raised, else the cell's own."""
    total, count, raised = modified[row, column], 1, modified[row, column] > area[row, column]
    for k in range(8):
        value = modified[row + ROWS[k], column + COLUMNS[k]]
        if not np.isnan(value):
            total, count = total + value, count + 1
            raised |= value > area[row + ROWS[k], column + COLUMNS[k]]
    return float(total / count if raised else modified[row, column])


@compiled
def _slope(z: Floats, row: int, column: int, side: float) -> float:
    """Return the slope by central differences in radians, one-sided where a neighbour is missing."""
    down = _difference(z[row - 1, column], z[row, column], z[row + 1, column])
    right = _difference(z[row, column - 1], z[row, column], z[row, column + 1])
    return float(np.arctan(np.sqrt(down * down + right * right) / side))


@compiled
def _difference(before: float, own: float, after: float) -> float:
    """Return the difference of a cell, from both neighbours, or the one that is there; 0 where both are missing."""
    if np.isnan(own):
        return np.nan
    if np.isnan(before):
        return 0.0 if np.isnan(after) else after - own
    return own - before if np.isnan(after) else (after - before) / 2.0


@compiled
def _steepest(z: Floats, row: int, column: int, side: float) -> float:
    """Return the fall by distance of the steepest of 8 facets (Tarboton 1997), at least 0; NaN where none is whole."""
    own, best = z[row, column], np.nan
    for down in (-1, 1):
        for right in (-1, 1):
            diagonal = z[row + down, column + right]
            for orthogonal in (z[row + down, column], z[row, column + right]):
                first, second = own - orthogonal, orthogonal - diagonal
                if np.isnan(first + second):
                    continue
                if second < 0.0:  # the way down leaves the facet on its orthogonal side
                    fall = first
                elif second > first:  # on its diagonal side
                    fall = (own - diagonal) / np.sqrt(2.0)
                else:
                    fall = np.sqrt(first * first + second * second)
                if not fall / side <= best:
                    best = fall / side
    return best if np.isnan(best) else max(best, 0.0)
