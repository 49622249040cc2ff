"""Inside a task of a Dask cluster, as folds of a cross-validation are: nothing there may wait for the places that tasks hold."""

import multiprocessing
import os
from typing import Any

import dask.base

__all__ = ["computed", "cores", "here", "holds_futures", "in_task"]


def in_task() -> bool:
    """Whether this is a task that a worker of a cluster runs."""
    return _threads() is not None


def here() -> dict[str, Any]:
    """Return the arguments by which Dask computes in this process: with threads, and in a task with as many as its worker has."""
    threads = _threads()
    return {"scheduler": "threads"} | ({} if threads is None else {"num_workers": threads})


def computed(*lazy: Any, of: Any = None) -> tuple[Any, ...]:
    """Compute collections on Dask's scheduler, or, inside a task of a cluster, in this process.

    A task that asks its own cluster sends along all that its graph holds, and leaves its place to the next task meanwhile. It does so only
    for what ``persist`` left on the workers: the collections, or the one that they are ``of`` (parts by ``to_delayed`` do not tell).
    """
    own = in_task() and not holds_futures(*(lazy if of is None else [of]))
    return tuple(dask.base.compute(*lazy, **(here() if own else {})))


def holds_futures(*lazy: Any) -> bool:
    """Whether collections refer to what lies on a cluster's workers."""
    try:
        from distributed.client import futures_of
    except ImportError:
        return False
    return bool(futures_of(list(lazy)))


def cores() -> int:
    """Return the cores that this process may use: a Dask worker's threads, one in a worker of a process pool, else all."""
    threads = _threads()
    if threads is not None:
        return threads
    if multiprocessing.parent_process() is not None:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads() -> int | None:
    """Return how many threads the worker has that runs this; None outside of a task."""
    try:
        from distributed import get_worker

        return int(get_worker().state.nthreads)
    except (ImportError, ValueError):
        return None
