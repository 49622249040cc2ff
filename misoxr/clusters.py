"""What a task of a Dask cluster may ask of Dask: it must not wait for other tasks, because it occupies a thread that they need."""

import multiprocessing
import os
import warnings
from asyncio import CancelledError
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import dask.base

__all__ = ["computed", "cores", "here", "holds_futures", "in_task", "is_closed", "kept", "shared_out", "take_share", "while_open"]

LARGE = 2**22
"""Bytes from which cores share work: to begin threads takes as long as to copy a tenth of them."""
_share: int | None = None
"""Cores that this process was told to keep to, by ``take_share``."""

Item = TypeVar("Item")


def in_task() -> bool:
    """Return whether this code runs inside a task of a cluster."""
    return _threads() is not None


def here() -> dict[str, Any]:
    """Return Dask's arguments for computing in this process: by threads, in a task as many as its worker has, and no more than its share."""
    threads = _threads() or _share
    return {"scheduler": "threads"} | ({} if threads is None else {"num_workers": threads})


def computed(*lazy: Any, of: Any = None) -> tuple[Any, ...]:
    """Compute collections on Dask's scheduler, or, inside a task of a cluster, in this process.

    A task that asks its own cluster sends along all that its graph holds, and leaves its place to the next task meanwhile. It does so only
    for what ``persist`` left on the workers: the collections, or the one that they are ``of`` (parts by ``to_delayed`` do not tell).
    """
    own = in_task() and not holds_futures(*(lazy if of is None else [of]))
    return tuple(dask.base.compute(*lazy, **(here() if own else {})))


def holds_futures(*lazy: Any) -> bool:
    """Return whether collections refer to data on a cluster's workers."""
    try:
        from distributed.client import futures_of
    except ImportError:
        return False
    return bool(futures_of(list(lazy)))


def is_closed(client: Any) -> bool:
    """Return whether a client was closed, after which its cluster cannot be asked."""
    return getattr(client, "status", "running") in ("closing", "closed")


@contextmanager
def while_open(client: Any, closed: Exception) -> Iterator[None]:
    """Raise ``closed`` where something fails since the client was closed meanwhile: distributed raises errors of many kinds."""
    try:
        yield
    except (Exception, CancelledError) as error:
        if not is_closed(client):
            raise
        raise closed from error


def kept(client: Any, make: Callable[[], Any]) -> Any:
    """Have a cluster keep what a function returns: it is sent once, and made again where the worker that holds it is lost."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sending large graph", UserWarning)  # large it may be, but it goes once
        return client.submit(make, pure=False)


def cores() -> int:
    """Return the cores that this process may use: a Dask worker's threads; in a process of a pool its share, one if nobody told; else all."""
    threads = _threads()
    if threads is not None:
        return threads
    if multiprocessing.parent_process() is not None:
        return _share or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def take_share(count: int) -> None:
    """Keep this process, one of a pool's, to so many cores; scikit-learn, too, which asks joblib how many there are."""
    global _share
    _share = count
    os.environ["LOKY_MAX_CPU_COUNT"] = str(count)


def shared_out(function: Callable[[Item], None], items: Sequence[Item], size: int) -> None:
    """Call a function that NumPy does the work of with each item, on all cores where the items have many bytes together."""
    workers = min(cores(), len(items)) if size >= LARGE else 1
    if workers <= 1:
        for item in items:
            function(item)
        return
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(function, items):
            pass


def _threads() -> int | None:
    """Return the number of threads of the worker that runs this code; None outside of a task."""
    try:
        from distributed import get_worker

        return int(get_worker().state.nthreads)
    except (ImportError, ValueError):
        return None
