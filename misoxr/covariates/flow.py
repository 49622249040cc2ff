"""What one window of a DEM does with water: hand it down, and spread what is greater among neighbours. Compiled.

A window of up to 2 x 2 tiles comes with rings of cells around it. What a function writes is the cells inside, and it tells for which tiles
around that is news. Every cell's result is one expression of its neighbours' results, summed in one order. So the results are the same
bits for any tiles, in any order.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["COLUMNS", "ROWS", "accumulate", "compiled", "outlets", "spread"]

Floats = npt.NDArray[np.float64]
P = ParamSpec("P")
R = TypeVar("R")

ROWS = np.array([-1, -1, -1, 0, 0, 1, 1, 1])
COLUMNS = np.array([-1, 0, 1, -1, 1, -1, 0, 1])
"""Steps to the 8 neighbours, in the one order of every sum."""
STEPS = np.array([np.sqrt(2.0), 1.0, np.sqrt(2.0), 1.0, 1.0, np.sqrt(2.0), 1.0, np.sqrt(2.0)])
"""Their lengths, in cells."""
CONVERGENCE = 1.1
"""Power of the angle by which water is shared out."""


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function when it is first called; what was compiled is kept for other processes, where there is a place for it."""
    try:
        kernel: Callable[P, R] = njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither the package's directory nor the user's cache can be written
        kernel = njit(nogil=True)(function)
    return kernel


@compiled
def accumulate(z: Floats, area: Floats, side: float, split: tuple[int, int]) -> Any:
    """Give cells their catchment area, where all their higher neighbours have theirs; each cell once, whoever calls how often.

    Parameters
    ----------
    z : ndarray (rows + 4, columns + 4)
        Elevation in m, with 2 rings; NaN is nodata.
    area : ndarray (rows + 2, columns + 2)
        Catchment area in m2, with 1 ring; NaN where it is not known yet. It is filled in.
    side : float
        Side of a cell in m.
    split : (int, int)
        Rows and columns of the window's first tile.

    Returns
    -------
    news : ndarray (4, 4) of int
        By tile, of those in the window and around it, how many cells got a neighbour beyond the window's border that they waited for. In
        the tiles of the window, how many gave it.
    """
    rows, columns = area.shape
    shared = np.full((rows, columns), np.nan)  # area by weight of the lower neighbours, of cells that were asked for it
    waits = np.zeros((rows, columns), np.uint8)
    news = np.zeros((4, 4), np.int64)
    for row in range(1, rows - 1):
        for column in range(1, columns - 1):
            own = z[row + 1, column + 1]
            if np.isnan(own) or not np.isnan(area[row, column]):
                continue
            for k in range(8):
                r, c = row + ROWS[k], column + COLUMNS[k]
                if z[r + 1, c + 1] > own and np.isnan(area[r, c]):
                    waits[row, column] += 1
    ready = np.empty(1024, np.int64)
    for first_row in range(1, rows - 1):
        for first_column in range(1, columns - 1):
            free = waits[first_row, first_column] == 0 and np.isnan(area[first_row, first_column])
            if not free or np.isnan(z[first_row + 1, first_column + 1]):
                continue
            ready[0], count = first_row * columns + first_column, 1
            while count:
                count -= 1
                row, column = ready[count] // columns, ready[count] % columns
                area[row, column] = _received(z, area, shared, row, column, side)
                if count + 8 > ready.size:
                    longer = np.empty(2 * ready.size, np.int64)
                    longer[:count] = ready[:count]
                    ready = longer
                own = z[row + 1, column + 1]
                for k in range(8):
                    r, c = row + ROWS[k], column + COLUMNS[k]
                    if not z[r + 1, c + 1] < own:
                        continue
                    if 0 < r < rows - 1 and 0 < c < columns - 1:
                        waits[r, c] -= 1
                        if waits[r, c] == 0:
                            ready[count] = r * columns + c
                            count += 1
                    else:
                        _tell(news, row, column, r, c, rows, columns, split)
    return news


@compiled
def _received(z: Floats, area: Floats, shared: Floats, row: int, column: int, side: float) -> float:
    """Return a cell's own area and what its higher neighbours hand down to it."""
    own = z[row + 1, column + 1]
    total = side * side
    for k in range(8):
        r, c = row + ROWS[k], column + COLUMNS[k]
        above = z[r + 1, c + 1]
        if not above > own:
            continue
        if np.isnan(shared[r, c]):
            weights = 0.0
            for j in range(8):
                below = z[r + 1 + ROWS[j], c + 1 + COLUMNS[j]]
                if below < above:
                    weights += _weight(above - below, STEPS[j] * side)
            shared[r, c] = area[r, c] / weights
        total += shared[r, c] * _weight(above - own, STEPS[k] * side)
    return total


@compiled
def _weight(fall: float, length: float) -> float:
    return float(np.arctan(fall / length) ** CONVERGENCE)


@compiled
def spread(values: Floats, own: Floats, drop: float, split: tuple[int, int]) -> Any:
    """Raise cells to what their neighbours' values allow, until nothing changes in the window.

    With ``drop`` 0, a neighbour's value v allows ``own * v``: ``own`` is the suction. Otherwise it allows v less ``drop`` for each cell of
    distance, and at most ``own``: with elevations turned upside down, pits fill up to a surface that falls by so much to its outlets.

    Parameters
    ----------
    values : ndarray (rows + 2, columns + 2)
        With 1 ring; NaN is nodata. It is raised.
    own : ndarray (rows + 2, columns + 2)
        What limits each cell.
    drop : float
        Least fall from a cell to the next, m; 0 for suction.
    split : (int, int)
        Rows and columns of the window's first tile.

    Returns
    -------
    news : ndarray (4, 4) of int
        By tile, of those in the window and around it, how many cells beyond the window's border are to be raised. In the tiles of the
        window, by how many.
    """
    rows, columns = values.shape
    changed = 1
    for forward in (True, False, True, False):  # most of it, in long strides; the queue does the rest
        changed = 0
        for i in range(1, rows - 1):
            for j in range(1, columns - 1):
                row, column = (i, j) if forward else (rows - 1 - i, columns - 1 - j)
                changed += _raised(values, own, drop, row, column)
        if not changed:
            break
    if changed:
        _settle(values, own, drop)
    news = np.zeros((4, 4), np.int64)
    for row in range(1, rows - 1):
        inner = 1 if row in (1, rows - 2) else max(columns - 3, 1)
        for column in range(1, columns - 1, inner):
            for k in range(8):
                r, c = row + ROWS[k], column + COLUMNS[k]
                beyond = not (0 < r < rows - 1 and 0 < c < columns - 1)
                if beyond and _allowed(values[row, column], own[r, c], drop, STEPS[k]) > values[r, c]:
                    _tell(news, row, column, r, c, rows, columns, split)
    return news


@compiled
def _settle(values: Floats, own: Floats, drop: float) -> None:
    """Look at every cell, and again at those whose neighbours changed."""
    rows, columns = values.shape
    waiting = np.zeros((rows, columns), np.bool_)
    ring = np.empty(1024, np.int64)
    for first_row in range(1, rows - 1):
        for first_column in range(1, columns - 1):
            ring[0], at, count = first_row * columns + first_column, 0, 1
            while count:
                row, column = ring[at] // columns, ring[at] % columns
                at, count = (at + 1) % ring.size, count - 1
                waiting[row, column] = False
                if not _raised(values, own, drop, row, column):
                    continue
                if count + 8 > ring.size:
                    longer = np.empty(2 * ring.size, np.int64)
                    for k in range(count):
                        longer[k] = ring[(at + k) % ring.size]
                    ring, at = longer, 0
                for k in range(8):
                    r, c = row + ROWS[k], column + COLUMNS[k]
                    inside = 0 < r < rows - 1 and 0 < c < columns - 1
                    if inside and not waiting[r, c] and _allowed(values[row, column], own[r, c], drop, STEPS[k]) > values[r, c]:
                        waiting[r, c] = True
                        ring[(at + count) % ring.size] = r * columns + c
                        count += 1


@compiled
def _raised(values: Floats, own: Floats, drop: float, row: int, column: int) -> bool:
    """Raise a cell, and return whether its value changed."""
    before = values[row, column]
    for k in range(8):
        allowed = _allowed(values[row + ROWS[k], column + COLUMNS[k]], own[row, column], drop, STEPS[k])
        if allowed > values[row, column]:
            values[row, column] = allowed
    return bool(values[row, column] > before)


@compiled
def _allowed(value: float, own: float, drop: float, cells: float) -> float:
    """Return what a neighbour's value allows; NaN where either is nodata."""
    if drop == 0.0:
        return own * value
    lower = value - drop * cells
    return own if own < lower or np.isnan(own) else lower


@compiled
def _tell(news: Any, row: int, column: int, r: int, c: int, rows: int, columns: int, split: tuple[int, int]) -> None:
    """Count that a cell has news for another one in the ring, in the tiles of both."""
    news[_tile(row, rows, split[0]), _tile(column, columns, split[1])] += 1
    news[_tile(r, rows, split[0]), _tile(c, columns, split[1])] += 1


@compiled
def _tile(at: int, whole: int, split: int) -> int:
    """Return the number of a tile along one axis: 1 and 2 in the window, 0 and 3 outside."""
    if at == 0:
        return 0
    if at == whole - 1:
        return 3
    return 1 if at <= split else 2


@compiled
def outlets(z: Floats, values: Floats) -> None:
    """Give cells at edges and beside nodata their elevation upside down: there water leaves the DEM.

    Parameters
    ----------
    z, values : ndarray (rows + 2, columns + 2)
        Elevation in m, and the values to write, with 1 ring.
    """
    rows, columns = z.shape
    for row in range(1, rows - 1):
        for column in range(1, columns - 1):
            for k in range(8):
                if np.isnan(z[row + ROWS[k], column + COLUMNS[k]]):
                    values[row, column] = -z[row, column]
