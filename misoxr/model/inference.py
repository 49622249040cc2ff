"""Running a network: device, precision, threads, and the one place of inference mode."""

import multiprocessing
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from misoxr.errors import SpecError
from misoxr.model.miso import Miso
from misoxr.spec import ModelSpec

__all__ = ["Precision", "activate", "choose_device", "choose_precision", "inference", "locate", "query_grid"]

Array = npt.NDArray[np.float32]
Precision = Literal["auto", "float32", "bfloat16"]
_LOCK = threading.RLock()
_POINTS = {"cpu": 1024, "cuda": 65536}
"""Points answered at once: few enough to stay in a CPU's cache, many enough to fill a GPU."""


def choose_device(device: str) -> str:
    """Resolve "auto" to "cuda" where there is one, else "cpu".

    Raises
    ------
    SpecError
        If the device is neither a CPU nor CUDA, or torch cannot reach it.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.split(":")[0] not in _POINTS:
        raise SpecError(f"The device {device!r} is not known here; use 'auto', 'cpu', 'cuda' or 'cuda:<number>'.")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SpecError(f"The device {device!r} cannot be reached ({error}); use 'auto' or 'cpu'.") from error
    return device


def choose_precision(precision: str, device: str) -> torch.dtype:
    """Resolve "auto" to bfloat16 on CUDA and float32 elsewhere."""
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    kinds["auto"] = torch.bfloat16 if device.startswith("cuda") else torch.float32
    if precision not in kinds:
        raise SpecError(f"Unknown precision {precision!r}; use one of {sorted(kinds)}.")
    return kinds[precision]


def _cores() -> int:
    """Cores that this process may use: a Dask worker's threads, one in a worker of a process pool, else all."""
    try:
        from distributed import get_worker

        return int(get_worker().state.nthreads)
    except (ImportError, ValueError):
        if multiprocessing.parent_process() is not None:
            return 1
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def inference(device: str, precision: torch.dtype) -> Iterator[None]:
    """Hold the device for one inference: no gradients, bounded threads, mixed precision."""
    with _LOCK:
        threads = torch.get_num_threads()
        torch.set_num_threads(_cores())
        try:
            with torch.inference_mode(), torch.autocast(device.split(":")[0], precision, enabled=precision != torch.float32):
                yield
        finally:
            torch.set_num_threads(threads)


def activate(spec: ModelSpec, logits: Mapping[str, Tensor]) -> Tensor:
    """Concatenate the tasks' probabilities (regression: values) along the last axis, in the order of the specification."""
    parts = []
    for task in spec.tasks:
        values = logits[task.name].float()
        if task.kind != "regression":
            values = values.softmax(-1) if task.kind == "multiclass" else values.sigmoid()
        parts.append(values)
    return torch.cat(parts, dim=-1)


def query_grid(
    network: Miso,
    spec: ModelSpec,
    inputs: Mapping[str, Array],
    positions: Sequence[tuple[Array, Array]],
    device: str,
) -> list[Array]:
    """Encode a batch of windows, and answer each at a grid of points.

    Parameters
    ----------
    inputs : mapping of str to array
        Scaled windows (B, channel, size, size) by modality.
    positions : sequence of (array, array)
        For each window, y and x of the grid's rows and columns, in -1..1 of the window.

    Returns
    -------
    list of array
        For each window, (output, rows, columns).
    """
    cells = network.project({name: torch.from_numpy(values).to(device) for name, values in inputs.items()})
    out = []
    for sample, (y, x) in enumerate(positions):
        grid = torch.meshgrid(torch.from_numpy(y).to(device), torch.from_numpy(x).to(device), indexing="ij")
        points = torch.stack([grid[1], grid[0]], dim=-1).reshape(-1, 2)  # (rows * columns, [x, y])
        index = torch.full((len(points),), sample, device=device)
        blocks = zip(*(part.split(_POINTS[points.device.type]) for part in (index, points)), strict=True)
        answers = torch.cat([activate(spec, network(cells, *block)) for block in blocks])
        out.append(answers.T.reshape(-1, len(y), len(x)).cpu().numpy())
    return out


def locate(network: Miso, spec: ModelSpec, location: npt.NDArray[np.float64], device: str) -> Array:
    """Answer from scaled locations (..., 2) alone: (output, ...)."""
    flat = torch.from_numpy(location.reshape(-1, 2)).float().to(device)
    answers = torch.cat([activate(spec, network.locate(block)) for block in flat.split(_POINTS[flat.device.type])])
    values: Array = answers.T.reshape(-1, *location.shape[:-1]).cpu().numpy()
    return values
