"""Halos: chunks that reach into their neighbours. Only the tasks that are asked for are made, however large the array.

Dask's own ``overlap`` (and indexing) spells out every chunk's neighbours at once, which takes a minute and gigabytes for a state. Here each axis is a Blockwise layer
of three arguments: a chunk, the end of the one before, and the beginning of the one after; whose they are is told when a task is made.
"""

from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.base import annotate, tokenize
from dask.blockwise import BlockwiseDep, blockwise
from dask.highlevelgraph import HighLevelGraph
from dask.layers import ArrayBlockIdDep

try:
    from dask._task_spec import TaskRef
except ImportError:  # Dask before 2024.12 has keys stand for themselves
    TaskRef = tuple  # type: ignore[assignment,misc]

__all__ = ["BLOCK", "MANY", "in_blocks", "part_of", "shared", "with_halo"]

BLOCK = 2048
"""Side of the chunks of what has none of its own, such as files and what is in memory, pixels."""
MANY = 10_000
"""Blocks beyond which no graph is made of all of them."""

Array = npt.NDArray[Any]


def with_halo(array: da.Array, depth: dict[int, int]) -> da.Array:
    """Let every chunk reach into its neighbours, as ``da.overlap.overlap(array, depth, boundary="none")`` does.

    Parameters
    ----------
    array : dask array
        Its chunks are at least as long as the halo.
    depth : dict of int to int
        Halo along each axis, pixels.

    Returns
    -------
    dask array
        As many chunks as before, longer by the halo on the sides where there is a neighbour.
    """
    for axis, pixels in depth.items():
        if pixels and array.numblocks[axis] > 1:
            array = _along(array, axis, pixels)
    return array


def in_blocks(array: xr.DataArray) -> xr.DataArray:
    """Return an array in chunks: its own, or blocks along y and x where it is in memory, so that no task copies the whole of it."""
    return array if array.chunks is not None else array.chunk({"y": BLOCK, "x": BLOCK})


def shared(array: da.Array, chunks: dict[int, tuple[int, ...]]) -> da.Array:
    """Give several blocks the same chunk, laid out lazily: each reads it, and it is computed once.

    Parameters
    ----------
    array : dask array
        With one chunk for several blocks.
    chunks : dict of int to tuple of int
        By axis, the number of each block's chunk.
    """
    index = tuple(range(array.ndim))
    of = [chunks.get(axis, tuple(range(count))) for axis, count in enumerate(array.numblocks)]
    name = f"shared-{tokenize(array.name, of)}"
    with annotate(misoxr="shared chunks"):  # as for ends: it does not follow block by block
        layer = blockwise(_same, name, index, _Of(array, of), index, numblocks={})
    sizes = tuple(tuple(array.chunks[axis][at] for at in mine) for axis, mine in enumerate(of))
    sources: list[Any] = [array]
    graph = HighLevelGraph.from_collections(name, layer, dependencies=sources)
    return da.Array(graph, name, sizes, dtype=array.dtype, meta=np.empty((0,) * array.ndim, array.dtype))


def _same(block: Array) -> Array:
    return block


def part_of(array: da.Array, part: int | slice) -> da.Array:
    """Take a part along the first axis, as indexing does, but laid out lazily."""
    array = array.rechunk({0: -1})
    at = range(array.shape[0])[part]
    meta = np.empty((0,) * (array.ndim - isinstance(at, int)), array.dtype)
    if isinstance(at, int):
        taken: da.Array = da.map_blocks(_taken, array, part=at, drop_axis=0, dtype=array.dtype, meta=meta)
    else:
        taken = da.map_blocks(_taken, array, part=part, chunks=((len(at),), *array.chunks[1:]), dtype=array.dtype, meta=meta)
    return taken


def _taken(block: Array, part: int | slice) -> Array:
    taken = block[part]
    return taken if 2 * taken.nbytes >= block.nbytes else taken.copy()  # a slice holds all of the block


def _along(array: da.Array, axis: int, depth: int) -> da.Array:
    # Corners come with the second axis, whose chunks have the first one's halo already.
    first, last = (_ends(array, axis, depth, side) for side in (slice(None, depth), slice(-depth, None)))
    count = array.numblocks[axis]
    index = tuple(range(array.ndim))
    name = f"halo-{tokenize(array.name, axis, depth)}"
    layer = blockwise(
        partial(_joined, axis=axis, count=count),
        name,
        index,
        array.name,
        index,
        _Neighbour(last, axis, -1),
        index,
        _Neighbour(first, axis, 1),
        index,
        ArrayBlockIdDep(array.chunks),
        index,
        numblocks={array.name: array.numblocks},
    )
    sources: list[Any] = [array, first, last]
    graph = HighLevelGraph.from_collections(name, layer, dependencies=sources)
    sizes = tuple(size + depth * ((at > 0) + (at < count - 1)) for at, size in enumerate(array.chunks[axis]))
    chunks = (*array.chunks[:axis], sizes, *array.chunks[axis + 1 :])
    return da.Array(graph, name, chunks, dtype=array.dtype, meta=np.empty((0,) * array.ndim, array.dtype))


def _ends(array: da.Array, axis: int, depth: int, side: slice) -> da.Array:
    """Return the beginning or the end of every chunk: copies, as slices would hold all of it."""
    chunks = (*array.chunks[:axis], (depth,) * array.numblocks[axis], *array.chunks[axis + 1 :])
    where = (slice(None),) * axis + (side,)
    # Dask fuses layers that follow each other block by block, as these seem to and do not: an annotation keeps them apart.
    with annotate(misoxr="ends of chunks"):
        ends: da.Array = da.map_blocks(
            _cut, array, where=where, chunks=chunks, dtype=array.dtype, meta=np.empty((0,) * array.ndim, array.dtype)
        )
    return ends


def _cut(block: Array, where: tuple[slice, ...]) -> Array:
    return np.ascontiguousarray(block[where])


class _Neighbour(BlockwiseDep):
    """The key of the chunk before or after; a chunk at the edge, which has none, gets its own."""

    produces_tasks = False

    def __init__(self, array: da.Array, axis: int, step: int) -> None:
        self.name, self.numblocks, self.axis, self.step = array.name, array.numblocks, axis, step

    @property
    def produces_keys(self) -> bool:
        """What it gives are keys of another layer."""
        return True

    def __getitem__(self, place: tuple[int, ...]) -> Any:
        at = place[self.axis] + self.step
        near = at if 0 <= at < self.numblocks[self.axis] else place[self.axis]
        return TaskRef((self.name, *place[: self.axis], near, *place[self.axis + 1 :]))


class _Of(BlockwiseDep):
    """The key of the chunk that a block shares."""

    produces_tasks = False

    def __init__(self, array: da.Array, of: list[tuple[int, ...]]) -> None:
        self.name, self.of, self.numblocks = array.name, of, tuple(map(len, of))

    @property
    def produces_keys(self) -> bool:
        """What it gives are keys of another layer."""
        return True

    def __getitem__(self, place: tuple[int, ...]) -> Any:
        return TaskRef((self.name, *(mine[at] for mine, at in zip(self.of, place, strict=True))))


def _joined(block: Array, before: Array, after: Array, place: tuple[int, ...], *, axis: int, count: int) -> Array:
    parts = [before] * (place[axis] > 0) + [block] + [after] * (place[axis] < count - 1)
    joined: Array = np.concatenate(parts, axis=axis)
    return joined
