"""Blocks of maps: read or computed when a tile or a click needs them, once, and kept within a bound of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from misoxr.clusters import computed
from misoxr.grid.halo import in_blocks

__all__ = ["KEPT", "Blocks", "Raster"]

Key = tuple[Any, int, int]
"""The identity of a raster, and row and column of a block."""
KEPT = 1_000_000_000
"""Bytes of blocks that are kept."""
TOGETHER = 24
"""Blocks of rasters that are computed together must fit so often among those that are kept."""


@dataclass(frozen=True, eq=False)
class Raster:
    """Values (..., y, x) in blocks, or in memory.

    Attributes
    ----------
    data : array or dask array
        The values.
    rows, columns : array of int
        Where blocks begin, and where the last ends; of what is in memory there is one.
    """

    data: Any
    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]

    @classmethod
    def of(cls, array: xr.DataArray) -> "Raster":
        """Take a map: in its chunks, in memory as it is, and of a file that is read lazily in blocks."""
        array = array.transpose(..., "y", "x")
        if array.chunks is None and array.variable._in_memory:
            return cls(array.data, *(np.array([0, array.sizes[dim]]) for dim in ("y", "x")))
        data = in_blocks(array).data
        rows, columns = (np.concatenate([[0], np.cumsum(sizes)]) for sizes in data.chunks[-2:])
        return cls(data, rows, columns)

    @property
    def in_memory(self) -> bool:
        """Whether nothing is to be read."""
        return not isinstance(self.data, da.Array)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of blocks along y and x."""
        return len(self.rows) - 1, len(self.columns) - 1

    @property
    def count(self) -> int:
        """Number of blocks; none where nothing is to be read."""
        return 0 if self.in_memory else self.shape[0] * self.shape[1]

    @property
    def block_bytes(self) -> int:
        """Size of the largest block."""
        sides = int(np.diff(self.rows).max()) * int(np.diff(self.columns).max())
        return int(sides * np.prod(self.data.shape[:-2], dtype=int) * self.data.dtype.itemsize)

    @property
    def is_stored(self) -> bool:
        """Whether blocks are read from a file or store as they are, and decoded at the most, rather than computed."""
        layers = () if self.in_memory else self.data.__dask_graph__().layers
        return 0 < len(layers) <= 3 and any(str(name).startswith("original-") for name in layers)  # as xarray opens them

    def meeting(self, rows: tuple[float, float], columns: tuple[float, float]) -> int:
        """Return how many blocks meet a rectangle of pixels."""
        if self.in_memory:
            return 0
        numbers = 1
        for (first, last), edges in ((rows, self.rows), (columns, self.columns)):
            inside = (edges[:-1] < last) & (edges[1:] > first)
            numbers *= int(inside.sum())
        return numbers

    def block(self, row: int, column: int) -> Any:
        """Return a block, lazily."""
        return self.data.blocks[..., row, column]


class Blocks:
    """Blocks that were read, the last ones used within a bound of bytes. Several threads may ask at once.

    Parameters
    ----------
    kept : int
        Bytes, at most; the last block is kept whatever its size.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._kept, self._size = kept, 0
        self._blocks: OrderedDict[Key, npt.NDArray[Any]] = OrderedDict()
        self._coming: dict[Key, Future[None]] = {}
        self._lock = threading.Lock()
        self._together: dict[int, Sequence[Raster]] = {}
        self.read: set[Key] = set()

    def share(self, rasters: Sequence[Raster]) -> None:
        """Note which rasters are computed together: those whose graphs share tasks, as what one network answers."""
        lazy = [one for one in rasters if not one.in_memory]
        layers = [set(one.data.__dask_graph__().layers) for one in lazy]
        for one, own in zip(lazy, layers, strict=True):
            same = [
                other
                for other, theirs in zip(lazy, layers, strict=True)
                if own & theirs and np.array_equal(other.rows, one.rows) and np.array_equal(other.columns, one.columns)
            ]
            size = sum(other.block_bytes for other in same)
            self._together[id(one)] = same if size * TOGETHER <= self._kept else [one]

    def has(self, raster: Raster, row: int, column: int) -> bool:
        """Whether a block is at hand."""
        with self._lock:
            return (id(raster), row, column) in self._blocks

    def block(self, raster: Raster, row: int, column: int) -> npt.NDArray[Any]:
        """Return a block: of those kept, or else read it; where another thread is reading it, wait."""
        key = (id(raster), row, column)
        while True:
            with self._lock:
                if key in self._blocks:
                    self._blocks.move_to_end(key)
                    return self._blocks[key]
                coming = self._coming.get(key)
                mine = [one for one in self._together.get(id(raster), [raster]) if not self._is_here((id(one), row, column))]
                if coming is None:
                    done: Future[None] = Future()
                    self._coming |= {(id(one), row, column): done for one in mine}
            if coming is None:
                return self._read(mine, raster, row, column, done)
            coming.result()

    def forget(self) -> None:
        """Let go of all blocks that are kept, as if none had been read."""
        with self._lock:
            self._blocks.clear()
            self._size = 0
            self.read.clear()

    def _is_here(self, key: Key) -> bool:
        return key in self._blocks or key in self._coming

    def _read(self, rasters: Sequence[Raster], wanted: Raster, row: int, column: int, done: "Future[None]") -> npt.NDArray[Any]:
        keys = [(id(one), row, column) for one in rasters]
        try:
            # Copies: a part of a larger array would hold all of it.
            found = dict(zip(keys, map(np.array, computed(*[one.block(row, column) for one in rasters])), strict=True))
        except BaseException as error:
            with self._lock:
                for key in keys:
                    del self._coming[key]
            done.set_exception(error)
            raise
        with self._lock:
            for key, values in found.items():
                del self._coming[key]
                self._put(key, values)
            self.read |= set(keys)
        done.set_result(None)
        return found[id(wanted), row, column]

    def _put(self, key: Key, values: npt.NDArray[Any]) -> None:
        self._blocks[key] = values
        self._size += values.nbytes
        while self._size > self._kept and len(self._blocks) > 1:
            _, gone = self._blocks.popitem(last=False)
            self._size -= gone.nbytes

    def at(
        self,
        raster: Raster,
        rows: npt.NDArray[np.int64],
        columns: npt.NDArray[np.int64],
        *,
        wanted: Callable[[int, int], bool] = lambda row, column: True,
        go_on: Callable[[], bool] = lambda: True,
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Return the values (..., n) at n pixels, and of which pixels they are known: those in blocks that are wanted.

        ``go_on`` is asked before each block; the others are left out once it says no.
        """
        if raster.in_memory:
            return raster.data[..., rows, columns], np.ones(len(rows), bool)
        down = np.searchsorted(raster.rows, rows, side="right") - 1
        right = np.searchsorted(raster.columns, columns, side="right") - 1
        numbers = down * raster.shape[1] + right
        order = np.argsort(numbers, kind="stable")
        found, starts = np.unique(numbers[order], return_index=True)
        values = np.zeros((*raster.data.shape[:-2], len(rows)), raster.data.dtype)
        known = np.zeros(len(rows), bool)
        for number, here in zip(found.tolist(), np.split(order, starts[1:]), strict=True):
            row, column = divmod(number, raster.shape[1])
            if not wanted(row, column):
                continue
            if not go_on():
                break
            block = self.block(raster, row, column)
            values[..., here] = block[..., rows[here] - raster.rows[row], columns[here] - raster.columns[column]]
            known[here] = True
        return values, known
