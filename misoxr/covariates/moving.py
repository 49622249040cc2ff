"""Apply functions of a moving window to a raster, lazily: the same for any chunks, to the last bit."""

from collections.abc import Callable
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.base import annotate

from misoxr.errors import SpecError
from misoxr.grid.halo import with_halo
from misoxr.spec.numbers import is_whole

__all__ = ["Doubles", "Floats", "by_rows", "checked_radius", "filled", "in_windows"]

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

TILE = (128, 512)
"""Rows and columns that are computed at once: what is made of them stays in a core's cache."""
ROWS = 32
"""Rows at once where no window is needed."""


def checked_radius(radius: Any) -> int:
    """Return a radius in cells, or refuse what is none."""
    if not is_whole(radius) or radius < 1:
        raise SpecError(f"radius is {radius!r}; give a whole number of cells, 1 or more.")
    return int(radius)


def in_windows(function: Callable[[Doubles], Any], raster: da.Array, radius: int, count: int) -> da.Array:
    """Apply a function of the cells within a radius to a raster (y, x), lazily.

    Parameters
    ----------
    function : callable
        Takes cells (y, x), NaN where there is none, and returns (count, y - 2 radius, x - 2 radius).
    raster : dask array (y, x)
        Its chunks are to be no shorter than the radius (:func:`filled`).
    radius : int
        Half the window's side, in cells; the window reaches so far beyond a cell.
    count : int
        Number of layers that the function returns.

    Returns
    -------
    dask array (count, y, x)
        float32.
    """
    # Whose neighbours a halo joins is told for layers of two axes; Dask would fuse them into layers of others, but for the annotation.
    with annotate(misoxr="halos of windows"):
        cells = with_halo(raster, {0: radius, 1: radius})
    found: da.Array = da.map_blocks(
        partial(_block, function=function, radius=radius, count=count, numblocks=raster.numblocks),
        cells,
        new_axis=0,
        chunks=((count,), *raster.chunks),
        dtype="float32",
        meta=np.empty((0, 0, 0), "float32"),
    )
    return found


def by_rows(*layers: Any, function: Callable[..., Any]) -> Floats:
    """Apply a function of layers (layer, y, x), cell by cell, some rows at once: what is made on the way stays small. Returns (y, x)."""
    out = np.empty(layers[0].shape[1:], "float32")
    for top in range(0, len(out), ROWS):
        rows = slice(top, top + ROWS)
        out[rows] = function(*(layer[:, rows] for layer in layers))
    return out


def filled(raster: da.Array, radius: int) -> da.Array:
    """Join chunks that are shorter than a radius with those beside them."""
    joined: da.Array = raster.rechunk(tuple(_no_shorter(sizes, radius) for sizes in raster.chunks))
    return joined


def _no_shorter(sizes: tuple[int, ...], least: int) -> tuple[int, ...]:
    edges = [0]
    for edge in accumulate(sizes):
        if edge - edges[-1] >= least:
            edges.append(edge)
    if edges[-1] < sum(sizes):  # the rest goes to the last one
        edges[-1 if len(edges) > 1 else 1 :] = [sum(sizes)]
    return tuple(after - before for before, after in pairwise(edges))


def _block(
    block: npt.NDArray[Any],
    *,
    function: Callable[[Doubles], Any],
    radius: int,
    count: int,
    numblocks: tuple[int, int],
    block_id: tuple[int, ...],
) -> Floats:
    """Compute a block, tile by tile; beyond the raster's edges there are no cells."""
    edges = [(radius * (at == 0), radius * (at == many - 1)) for at, many in zip(block_id[-2:], numblocks, strict=True)]
    cells = np.pad(block, edges, constant_values=np.nan)
    high, wide = (length - 2 * radius for length in cells.shape)
    out = np.empty((count, high, wide), "float32")
    for top in range(0, high, TILE[0]):
        for left in range(0, wide, TILE[1]):
            down, right = min(top + TILE[0], high), min(left + TILE[1], wide)
            tile = cells[top : down + 2 * radius, left : right + 2 * radius].astype("float64")
            out[:, top:down, left:right] = function(tile)
    return out
