"""Plan a write: blocks, windows and bytes, and time and memory from a timed block."""

import ctypes
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from operator import index
from typing import Any

import dask.base
import dask.threaded
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask._task_spec import DataNode
from dask.callbacks import Callback
from dask.highlevelgraph import HighLevelGraph

from misoxr.errors import StoreError
from misoxr.grid.geobox import geobox_of, lattice_offset
from misoxr.grid.windows import plan as plan_windows
from misoxr.io.blocks import parts_of, tasks_of
from misoxr.io.layout import Layout, layout_of
from misoxr.records.ledger import Block
from misoxr.spec import WindowSpec

__all__ = ["Plan", "plan"]


@dataclass(frozen=True)
class Plan:
    """What :func:`misoxr.io.zarr.to_zarr` will do with a dataset.

    Attributes
    ----------
    blocks : (int, int)
        Number of blocks along y and x.
    block : (int, int)
        Rows and columns of a block, pixels.
    windows : int or None
        Windows that the network will answer; those on the border of two blocks count for each. None where there is no network.
    bytes_written : int
        Size of the variables before compression.
    tasks : int
        Tasks of the timed block.
    block_seconds, seconds : float or None
        Time of the timed block in this process, loading of the model included, and of all blocks at that pace. None without a timed block.
    bytes_read : int or None
        Bytes that all blocks read into memory, estimated from the timed block; neighbours that read the same count it twice. None without a
        timed block, and where workers of a cluster compute it, which do not tell.
    memory : int or None
        Bytes by which this process grew while it computed the timed block: what a worker needs for each of its threads, beside its libraries.
        Memory that the process had at hand already is not seen, so it differs between calls. It is never less than what is written of a
        block and the greatest part that is read for it.

    Examples
    --------
    >>> plan = maps.miso.plan(timed=False)
    >>> gigabytes = plan.bytes_written / 1e9
    """

    blocks: tuple[int, int]
    block: tuple[int, int]
    windows: int | None
    bytes_written: int
    tasks: int
    block_seconds: float | None = None
    seconds: float | None = None
    bytes_read: int | None = None
    memory: int | None = None

    def __str__(self) -> str:
        return "\n".join(self.described().values())

    def described(self) -> dict[str, str]:
        """Return what it says in words, by what it is about."""
        count = self.blocks[0] * self.blocks[1]
        size = f"{self.block[0]:,} x {self.block[1]:,} pixels"
        told = {"blocks": f"{count:,} block{'s' * (count != 1)} of {size}, {self.tasks:,} tasks each"}
        if self.windows is not None:
            told["network"] = f"{self.windows:,} windows"
        told["result"] = f"{_bytes(self.bytes_written)} to write before compression"
        if self.bytes_read is not None:
            told["input"] = f"{_bytes(self.bytes_read)} to read into memory"
        if self.seconds is not None and self.memory is not None:
            told |= {
                "time": f"about {_time(self.seconds)} on one process like this one ({self.block_seconds:,.1f} s a block)",
                "memory": f"{_bytes(self.memory)} of memory for each thread of a worker, beside its libraries",
            }
        return told

    def _repr_html_(self) -> str:
        """Show the plan in a notebook, as a table."""
        return str(import_module("misoxr.reprs.tables").plan(self))  # by name: it stands on a higher floor


def _bytes(count: float) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.2f} MB"


def _time(seconds: float) -> str:
    return f"{seconds / 3600:,.2f} hours" if seconds >= 3600 else f"{seconds:,.1f} s"


def plan(ds: xr.Dataset, *, timed: bool | Block = True, compact: bool = False) -> Plan:
    """Estimate what writing a dataset will take.

    Parameters
    ----------
    ds : Dataset
        As :func:`misoxr.io.zarr.to_zarr` takes it.
    timed : bool or (int, int), optional
        Compute one block to tell time and memory: the one in the middle, or the one at a row and column of the blocks. With False nothing is
        computed.
    compact : bool, optional
        As for :func:`misoxr.io.zarr.to_zarr`.

    Returns
    -------
    Plan
        Blocks, windows and bytes, and with a timed block also time and memory.

    Raises
    ------
    GridError
        If the dataset has no regular grid or CRS.
    StoreError
        If there is no such block, or ``timed`` is none of these.

    Examples
    --------
    >>> print(maps.miso.plan())  # computes one block
    >>> blocks = maps.miso.plan(timed=False).blocks  # computes nothing
    """
    if not isinstance(compact, bool):
        raise StoreError(f"compact is {compact!r}; give True or False.")
    layout = layout_of(ds, compact=compact)
    rows, columns = layout.shape
    try:
        block = (rows // 2, columns // 2) if isinstance(timed, bool) else tuple(map(index, timed))
        row, column = block
    except (TypeError, ValueError) as error:
        raise StoreError(f"timed is {timed!r}; give True, False, or the row and column of a block.") from error
    if not (0 <= row < rows and 0 <= column < columns):
        raise StoreError(f"There is no block {block}; the dataset has {rows} x {columns} of them.")
    graph = HighLevelGraph.merge(*(layout.ds[name].data.__dask_graph__() for name in layout.blocked))
    keys: list[Any] = [key for key, _, _ in parts_of(layout, (row, column))]
    tasks = tasks_of(graph, keys, layout)
    written = sum(
        layout.ds[name].size * (1 if layout.is_packed(name) else layout.ds[name].dtype.itemsize) for name in layout.blocked
    )
    base = Plan(layout.shape, layout.block, _windows(layout), written, len(tasks))
    if timed is False:
        return base
    seconds, read, grown = _timed(tasks, keys)
    count = rows * columns
    # What a process has freed and takes again is no growth: a block needs no less than what is written of it and the greatest part that it reads.
    memory = max(grown, written // count + max(read, default=0))
    return replace(base, block_seconds=seconds, seconds=seconds * count, bytes_read=sum(read) * count or None, memory=memory)


def _windows(layout: Layout) -> int | None:
    """Count the windows that blocks ask, by the provenance that predict leaves."""
    if "provenance_sha256" not in layout.ds.attrs:
        return None
    provenance = json.loads(layout.ds.attrs.get("provenance", "{}"))
    total = 0
    for one in provenance.get("models", [provenance]):
        if not one.get("windows"):
            return None
        geobox = geobox_of(layout.ds)
        windows = plan_windows(geobox.shape.yx, WindowSpec(**one["windows"]), lattice_offset(geobox))
        along = []
        for axis, side in zip((windows.y, windows.x), layout.block, strict=True):
            starts = range(0, axis.length, side)
            along.append(sum(len(axis.meeting(start, min(start + side, axis.length))) for start in starts))
        total += along[0] * along[1]
    return total


def _timed(tasks: dict[Any, Any], keys: list[Any]) -> tuple[float, list[int], int]:
    """Compute a block; return seconds, the bytes that each of its first tasks gave, and bytes by which the process grew."""
    read: list[int] = []
    tasks = {key: _counting(key, node, read) for key, node in tasks.items()}

    def after(key: Any, result: Any, dsk: Any, *_: Any) -> None:
        if not getattr(dsk[key], "dependencies", True) and not isinstance(dsk[key], DataNode):
            read.append(getattr(result, "nbytes", 0))

    get = dask.base.get_scheduler() or dask.threaded.get
    with Callback(posttask=after), _watched() as grown:
        start = time.perf_counter()
        get(tasks, keys)
        seconds = time.perf_counter() - start
    return seconds, read, grown()


def _counting(key: Any, node: Any, read: list[int]) -> Any:
    """Return a task as it is; what lies in memory is counted, and an array in a store counts what is read of it."""
    value = getattr(node, "value", None) if isinstance(node, DataNode) else None
    if isinstance(value, np.ndarray):
        read.append(value.nbytes)
    elif all(hasattr(value, name) for name in ("shape", "dtype", "__getitem__")):
        return DataNode(key, _Counting(value, read))
    return node


class _Counting:
    """An array in a store, such as of Zarr, that counts the bytes that are read of it. Tasks cut it first, and some make an array of it then."""

    def __init__(self, array: Any, read: list[int]) -> None:
        self._array, self._read = array, read
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, len(array.shape)

    def __getitem__(self, key: Any) -> Any:
        part = self._array[key]
        if not isinstance(part, np.ndarray):
            return _Counting(part, self._read)
        self._read.append(part.nbytes)
        return part

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        values = np.asarray(self._array, dtype=dtype)
        self._read.append(values.nbytes)
        return values


@contextmanager
def _watched() -> Iterator[Any]:
    """Watch how large the process gets; what is yielded tells by how many bytes it grew at the most."""
    _give_back()
    first = most = _resident()
    stop = threading.Event()

    def watch() -> None:
        nonlocal most
        while not stop.wait(0.01):
            most = max(most, _resident())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: most - first
    finally:
        stop.set()
        thread.join()


def _give_back() -> None:
    """Give freed memory back to the system, where its C library can: a process that takes it again would not be seen to grow."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _resident() -> int:
    """Return the process's size in memory, bytes; the greatest so far where the system does not tell more."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if os.uname().sysname == "Darwin" else 1024)
