"""Share slabs of pixels between all cores of a process, whichever of Dask's threads asks."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from misoxr.clusters import cores
from misoxr.errors import require

__all__ = ["in_slabs"]

SLAB = 2**15
"""Pixels answered at once: few enough for a core's cache, many enough for the way to an answer to cost nothing."""


def in_slabs(function: Callable[[npt.NDArray[np.intp]], Any], pixels: npt.NDArray[np.intp]) -> None:
    """Apply a function to slabs of pixels, on as many cores as the process may use, in all its threads together."""
    slabs = np.split(pixels, range(SLAB, len(pixels), SLAB)) if len(pixels) else []
    for _ in _pool(os.getpid(), cores()).map(function, slabs):
        pass


@cache
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    """Return the threads of a process; a forked one has none of its parent's."""
    return ThreadPoolExecutor(workers, "misoxr-estimators", _alone)


def _alone() -> None:
    """Keep a library that starts threads of its own, as boosting does by OpenMP, from starting any in this thread."""
    require("threadpoolctl", "train").threadpool_limits(1, user_api="openmp")
