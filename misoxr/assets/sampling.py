"""Which pixels of a raster a block's pixels come from.

It depends on the raster and the grid, never on the block: reading a block gives what reading the whole and cutting gives.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyproj
from affine import Affine
from odc.geo.geobox import GeoBox

from misoxr.grid.longitude import circle_of, columns_of_turn, near, transformer

__all__ = ["Indices", "Sampling", "Window", "sampling_of", "stretches"]

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]
Positions = npt.NDArray[np.float64]

LATTICE = 16
"""Positions in another CRS are exact every so many pixels, and linear between where that is exact enough."""
BENT = 1e-3
"""Pixels of the raster by which the middle of four exact positions may miss the exact one; else each pixel's own is worked out."""
FINEST = 2.0**20
"""Parts of a pixel to which positions are rounded, so that a tie falls the same way in every block. A power of two: whole turns leave it as it is."""


class Window(NamedTuple):
    """Rows and columns to read, each the first and the last + 1; columns of a raster that goes round run on beyond its edges."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    goes_round: bool


@dataclass(frozen=True)
class Sampling:
    """Which pixels of a raster a block's pixels come from. Arrays broadcast to the block's shape.

    Attributes
    ----------
    window : Window
        What to read.
    shrink : int
        So many of the raster's pixels are averaged first, along each axis; indices count the averaged ones.
    inside : ndarray of bool
        Whether the pixel's centre lies in the raster.
    rows, columns : ndarray of intp
        The raster's pixel that holds the centre.
    around : tuple, optional
        Rows above and below, columns left and right of the centre, and its distance from the first of each; None where every
        centre is the centre of a pixel of the raster.
    """

    window: Window
    shrink: int
    inside: npt.NDArray[np.bool_]
    rows: Indices
    columns: Indices
    around: tuple[Indices, Indices, Indices, Indices, Floats, Floats] | None


def stretches(first: int, last: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches of a raster's columns that a window which may run beyond its edges is made of."""
    while first < last:
        start = first % width
        count = min(width - start, last - first)
        yield start, start + count
        first += count


def sampling_of(
    block: GeoBox, whole: GeoBox, wkt: str, transform: Affine, shape: tuple[int, int], *, shrinks: bool = True
) -> Sampling | None:
    """Return what to read of a raster for a block of a grid, and how to sample it; None where they do not meet.

    Parameters
    ----------
    block, whole : GeoBox
        The block, and the grid that it is of.
    wkt, transform, shape
        The raster's CRS, transform, and height and width.
    shrinks : bool, optional
        Whether pixels are averaged where the grid's are at least twice as large.
    """
    height, width = shape
    turn = columns_of_turn(wkt, transform.a, width) if transform.b == transform.d == 0 else None
    back = transformer(str(block.crs), wkt)
    rows, columns = _positions(block, back, transform, turn, width)
    shrink = _shrink(_ratio(whole, back, transform, turn, shape), turn, width) if shrinks else 1
    circle = circle_of(wkt) if turn == width else None
    if circle is None:
        return _sampling(_rounded(rows / shrink), _rounded(columns / shrink), shrink, shape)
    # squares are counted from where the CRS begins, not from where the raster does
    first = round((circle.west - transform.c) / transform.a)
    columns = _rounded(near(columns - first, width / 2, width) / shrink)
    known = columns[np.isfinite(columns)]
    columns = near(columns, known[known.size // 2] if known.size else 0.0, width // shrink)
    return _sampling(_rounded(rows / shrink), columns, shrink, shape, first)


def _rounded(positions: Positions) -> Positions:
    return np.asarray(np.round(positions * FINEST) / FINEST)


def _positions(
    block: GeoBox, back: pyproj.Transformer | None, transform: Affine, turn: float | None, width: int
) -> tuple[Positions, Positions]:
    """Return where a block's pixel centres lie in a raster: fractional rows and columns, a centre at +0.5.

    (y, 1) and (1, x) in the raster's own CRS, else (y, x). Columns lie within half a turn of the raster's middle.
    """
    x, y = (
        np.asarray(start + size * (np.arange(length) + 0.5), dtype="float64")
        for start, size, length in (
            (block.affine.c, block.affine.a, block.shape.x),
            (block.affine.f, block.affine.e, block.shape.y),
        )
    )
    if back is None and transform.b == transform.d == 0:
        rows, columns = (y[:, None] - transform.f) / transform.e, (x[None, :] - transform.c) / transform.a
        return rows, near(columns, width / 2, turn)

    def exact(x: Positions, y: Positions) -> tuple[Positions, Positions]:
        columns, rows = _apply(~transform, *((x, y) if back is None else back.transform(x, y)))
        rows, columns = (np.where(np.isfinite(part), part, np.nan) for part in (rows, columns))
        return rows, near(columns, width / 2, turn)

    step = LATTICE * abs(block.affine.a), LATTICE * abs(block.affine.e)
    first = int(np.floor(x.min() / step[0])), int(np.floor(y.min() / step[1]))
    count = int(np.floor(x.max() / step[0])) - first[0] + 2, int(np.floor(y.max() / step[1])) - first[1] + 2
    # the lattice is anchored in the CRS, so that every block interpolates between the same exact positions
    along, down = (np.asarray(axis / s - f, dtype="float64") for axis, s, f in zip((x, y), step, first, strict=True))
    nodes = exact(*np.meshgrid(*(step[axis] * (first[axis] + np.arange(count[axis])) for axis in (0, 1))))
    middles = exact(*np.meshgrid(*(step[axis] * (first[axis] + np.arange(count[axis] - 1) + 0.5) for axis in (0, 1))))
    turns = (None, turn)
    rows, columns = (_between(part, along, down, way) for part, way in zip(nodes, turns, strict=True))
    # about a pole, and across the edge of the raster's projection, nothing is linear
    bent = np.logical_or(*map(_bent, nodes, middles, turns))
    if bent.any():
        at = np.nonzero(bent[np.floor(down).astype(int)[:, None], np.floor(along).astype(int)])
        rows[at], columns[at] = exact(x[at[1]], y[at[0]])
    return rows, near(columns, width / 2, turn)


def _apply(transform: Affine, x: Any, y: Any) -> tuple[Any, Any]:
    return transform.a * x + transform.b * y + transform.c, transform.d * x + transform.e * y + transform.f


def _between(nodes: Positions, x: Positions, y: Positions, turn: float | None) -> Positions:
    """Interpolate values at the nodes of a lattice linearly to (y, x), the shorter way round."""
    i, j = np.floor(y).astype(int), np.floor(x).astype(int)
    v, u = (y - i)[:, None], x - j
    along = nodes[:, j] + u * near(nodes[:, j + 1] - nodes[:, j], 0.0, turn)
    return np.asarray(along[i] + v * near(along[i + 1] - along[i], 0.0, turn))


def _bent(nodes: Positions, middles: Positions, turn: float | None) -> npt.NDArray[np.bool_]:
    """Return in which cells of a lattice positions are not linear enough, or not all known."""
    corner = nodes[:-1, :-1]
    others = (near(part - corner, 0.0, turn) for part in (nodes[:-1, 1:], nodes[1:, :-1], nodes[1:, 1:]))
    return np.asarray(~(np.abs(near(corner + sum(others) / 4 - middles, 0.0, turn)) <= BENT))


def _ratio(whole: GeoBox, back: pyproj.Transformer | None, transform: Affine, turn: float | None, shape: tuple[int, int]) -> float:
    """Return the size of the grid's pixels in pixels of the raster, at the raster's place nearest to the grid's middle."""
    row, column = shape[0] / 2, shape[1] / 2
    x, y = _apply(whole.affine, whole.shape.x / 2, whole.shape.y / 2)
    middle = _apply(~transform, *((x, y) if back is None else back.transform(x, y)))
    if np.isfinite(middle).all():
        row, column = np.clip(middle[1], 0, shape[0]), np.clip(near(middle[0], column, turn), 0, shape[1])
    corners = np.array([(column, row), (column + 1, row), (column, row + 1)]).T
    east, north = _apply(transform, *corners)
    x, y = (east, north) if back is None else back.transform(east, north, direction="INVERSE")
    across = np.hypot((x[1] - x[0]) / whole.affine.a, (y[1] - y[0]) / whole.affine.e)
    down = np.hypot((x[2] - x[0]) / whole.affine.a, (y[2] - y[0]) / whole.affine.e)
    return float(1 / max(across, down))


def _shrink(ratio: float, turn: float | None, width: int) -> int:
    """Return how far a raster is shrunk so that no pixel is skipped; squares of one that goes round fit into the circle."""
    shrink = max(1, int(ratio + 1e-3)) if np.isfinite(ratio) else 1
    return next(size for size in range(shrink, 0, -1) if width % size == 0) if turn == width else shrink


def _sampling(
    rows: Positions, columns: Positions, shrink: int, shape: tuple[int, int], first_column: int | None = None
) -> Sampling | None:
    """Return what to read, and how to sample it, for positions in a shrunk raster; None where all lie outside.

    Of one that goes round, columns are counted on from a first one, with no end.
    """
    axes = []
    inside = np.ones((1, 1), dtype=bool)
    for positions, length, endless in ((rows, shape[0], False), (columns, shape[1], first_column is not None)):
        count = -(-length // shrink)
        within = np.isfinite(positions) if endless else (positions >= 0) & (positions < count)
        inside = inside & within
        if not within.any():
            return None
        low, high = positions[within].min(), positions[within].max()
        first, last = int(np.floor(low - 0.5)), int(np.ceil(high - 0.5)) + 1
        first, last = (first, last) if endless else (max(first, 0), min(last, count))
        # what lies outside is moved to the edge, and masked
        local = np.clip(np.where(within, positions, first) - first, 0, last - first)
        read = (first * shrink, last * shrink if endless else min(last * shrink, length))
        axes.append((read, last - first, local))
    (down, height, i), ((left, right), width, j) = axes
    start = first_column or 0
    window = Window(down, (left + start, right + start), first_column is not None)
    (above, below, low), (before, after, along) = _neighbours(i, height), _neighbours(j, width)
    around = (above, below, before, after, low, along) if low.any() or along.any() else None
    return Sampling(window, shrink, inside, np.floor(i).astype(np.intp), np.floor(j).astype(np.intp), around)


def _neighbours(positions: Positions, length: int) -> tuple[Indices, Indices, Floats]:
    """Return the pixels whose centres lie before and after each position, and its distance from the first, pixels."""
    first = np.floor(positions - 0.5)
    distance = (positions - 0.5 - first).astype("float32")
    before, after = (np.clip(first + step, 0, length - 1).astype(np.intp) for step in (0, 1))
    return before, after, distance
