"""Run a network for prediction: device, precision, threads and batches."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from misoxr.clusters import cores as _cores
from misoxr.errors import SpecError, did_you_mean
from misoxr.model.calibration import Calibration
from misoxr.model.checkpoint import Model
from misoxr.model.network import Miso
from misoxr.spec import ModelSpec
from misoxr.spec.standardisation import Standardisation

__all__ = [
    "Precision",
    "Run",
    "activate",
    "answer",
    "block_size",
    "choose_device",
    "choose_precision",
    "group_size",
    "in_batches",
    "inference",
    "locate",
    "logits_at",
]

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Precision = Literal["auto", "float32", "bfloat16", "float64"]
Item = TypeVar("Item")
Result = TypeVar("Result")

_LOCKS: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
_BLOCK = {"cpu": 2**18, "cuda": 2**26}
"""Points answered at once, times the widest layer: few enough for a core's cache, many enough to fill a GPU."""
_WINDOWS = 8
"""Windows in a batch on a CPU, at the least."""
_GROUP = 2**14
"""Pixels that a CPU's core encodes at once, where windows are small; a larger window is encoded by itself."""
_ROWS = 64
"""Blocks of points are a multiple of it: matrix products may round the rows that are left over differently."""


def choose_device(device: str) -> str:
    """Resolve "auto" to "cuda" where there is one, else "cpu".

    Raises
    ------
    SpecError
        If the device is neither a CPU nor CUDA, or torch cannot reach it.
    """
    if not isinstance(device, str):
        raise SpecError(f"The device is {device!r}; use 'auto', 'cpu', 'cuda' or 'cuda:<number>'.")
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{torch.cuda.current_device()}"  # one name for one device: it has one lock and one model
    if device == "auto":
        return "cpu"
    if device.split(":")[0] not in _BLOCK:
        raise SpecError(f"The device {device!r} is not known here; use 'auto', 'cpu', 'cuda' or 'cuda:<number>'.")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SpecError(f"The device {device!r} cannot be reached ({error}); use 'auto' or 'cpu'.") from error
    return device


def choose_precision(precision: str, device: str) -> torch.dtype:
    """Resolve "auto" to bfloat16 on CUDA and float32 elsewhere: on a CPU, bfloat16 is beyond the tolerance of a map (1e-5)."""
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
    kinds["auto"] = torch.bfloat16 if device.startswith("cuda") else torch.float32
    if not isinstance(precision, str) or precision not in kinds:
        raise SpecError(f"Unknown precision {precision!r}; use one of {sorted(kinds)}.{did_you_mean(str(precision), kinds)}")
    return kinds[precision]


@dataclass(frozen=True)
class Run:
    """A device held for one inference: applies a function to items, in order, on all its workers at once."""

    device: str
    precision: torch.dtype
    workers: int
    pool: ThreadPoolExecutor | None
    batch_size: int | None = None

    @property
    def kind(self) -> str:
        """The device without its number."""
        return self.device.split(":")[0]

    @property
    def dtype(self) -> str:
        """NumPy's name of the answers' precision."""
        return "float64" if self.precision == torch.float64 else "float32"

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Return the function's results."""

        def call(item: Item) -> Result:
            # Both hold only in the thread that enters them.
            with torch.inference_mode(), torch.autocast(self.kind, torch.bfloat16, enabled=self.precision == torch.bfloat16):
                return function(item)

        return list(self.pool.map(call, items) if self.pool else map(call, items))

    def tensor(self, values: npt.NDArray[Any]) -> Tensor:
        """Put values on the device."""
        return torch.from_numpy(values).to(self.device)


@contextmanager
def inference(device: str, precision: torch.dtype, batch_size: int | None = None) -> Iterator[Run]:
    """Hold a device for one inference, with as many windows in a batch as given.

    On a CPU, each core takes whole batches of windows and blocks of points, with torch on one thread: cores that share a
    block wait for each other at every layer, and each has caches of its own.
    """
    with _LOCKS[device]:
        if device.startswith("cuda"):
            yield Run(device, precision, 1, None, batch_size)
            return
        threads, cores = torch.get_num_threads(), _cores()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield Run(device, precision, cores, pool, batch_size)
        finally:
            torch.set_num_threads(threads)


def in_batches(function: Callable[[Sequence[Item]], Result], items: Sequence[Item], run: Run, group: int = 1) -> Iterator[Result]:
    """Apply a function to batches of items.

    Without a size, a CPU takes batches of 8 items or a group for each core, whichever is more, and CUDA as many as fit in its
    free memory by what one item took. Where CUDA runs out of memory, the batch is halved.
    """
    device = run.device
    measured = device.startswith("cuda") and run.batch_size is None
    size = run.batch_size or (1 if measured else max(_WINDOWS, group * run.workers))
    start = 0
    while start < len(items):
        before = _reset_peak(device) if measured else 0
        try:
            result = function(items[start : start + size])
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size = (size + 1) // 2
            torch.cuda.empty_cache()
            continue
        yield result
        start += size
        if measured:
            taken = max(torch.cuda.max_memory_allocated(device) - before, 1)
            size, measured = max(1, min(256, int(0.8 * torch.cuda.mem_get_info(device)[0] / taken))), False


def _reset_peak(device: str) -> int:
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def activate(
    spec: ModelSpec,
    logits: Mapping[str, Tensor],
    calibration: Mapping[str, Calibration] | None = None,
    standardisation: Mapping[str, Standardisation] | None = None,
) -> Tensor:
    """Concatenate the tasks' probabilities (regression: values) along the last axis, in the order of the specification.

    Logits are calibrated first, task by task, where a calibration is given. Where labels were standardised, values are in the
    labels' units, and all in float64: an offset may take more digits than float32 has.
    """
    parts = []
    for task in spec.tasks:
        values = logits[task.name]
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        found = (calibration or {}).get(task.name)
        if found is not None:
            values = values / found.temperature + values.new_tensor(found.bias or 0.0)
        learnt_as = (standardisation or {}).get(task.name)
        if learnt_as is not None:
            values = learnt_as.invert(values.double())
        if task.kind == "regression":
            values = values.expm1() if task.loss == "mse_log1p" else values
        else:
            values = values.softmax(-1) if task.kind == "multiclass" else values.sigmoid()
        parts.append(values)
    return torch.cat(parts, dim=-1)


def block_size(network: Miso, kind: str) -> int:
    """Return how many points go through a network at once on a kind of device."""
    widest = max(module.out_features for module in network.modules() if isinstance(module, nn.Linear))
    return max(256, min(_BLOCK[kind] // widest, 65536) // _ROWS * _ROWS)


def group_size(spec: ModelSpec, batch_size: int | None = None) -> int:
    """Return how many windows a CPU's core encodes at once: 1, 2 or 4, and no more than are asked for.

    It does not depend on how many cores there are. A matrix product may round differently in another shape, so the map would
    depend on them, too.
    """
    pixels = spec.windows.input_size**2
    size = next((size for size in (4, 2) if size * pixels <= _GROUP), 1)
    return size if batch_size is None else min(size, batch_size)


def answer(
    model: Model, windows: Sequence[Mapping[str, Array]], points: Sequence[Floats], run: Run, *, embeds: bool = False
) -> list[Array]:
    """Encode windows, and answer each at its points.

    The shapes that enter the network depend on the model, the windows and their points alone. All groups of windows have one
    size, and so have all blocks of a group's points but the last, which is a multiple of 64; zeros fill them up.

    Parameters
    ----------
    windows : sequence of mapping of str to array
        For each window, scaled inputs (channel, size, size) by modality.
    points : sequence of array
        For each window, points (N, 2), x and y in -1..1 of the window.
    run : Run
        The device.
    embeds : bool, optional
        Return the network's embedding, as its heads see it, instead of the tasks' outputs.

    Returns
    -------
    list of array
        For each window, (N, output), all outputs of one member after those of another; of an embedding (N, width).
    """
    network = model.network
    # A GPU encodes the whole batch at once.
    size = len(windows) if run.kind == "cuda" else group_size(model.spec, run.batch_size)
    groups = [slice(start, start + size) for start in range(0, len(windows), size)]

    def encode(group: slice) -> Any:
        stacked = {name: _filled(np.stack([window[name] for window in windows[group]]), size) for name in windows[0]}
        return network.project({name: run.tensor(values).to(network.dtype) for name, values in stacked.items()})

    def one(block: Any) -> Array:
        cells, left, sample, here = block
        if embeds:
            answers = network.embed(cells, sample, here)["visual"]
            answers = answers.to(torch.promote_types(answers.dtype, torch.float32))
        else:
            answers = activate(model.spec, network(cells, sample, here), model.calibration, model.standardisation)
        values: Array = answers[:left].flatten(1).cpu().numpy()
        return values

    at_once = block_size(network, run.kind)
    blocks = []
    for group, cells in zip(groups, run(encode, groups), strict=True):
        sample = np.repeat(np.arange(len(points[group])), [len(part) for part in points[group]])
        left = range(len(sample), 0, -at_once)
        parts = (_split(values, at_once, run) for values in (sample, np.concatenate(points[group])))
        blocks += [(cells, *block) for block in zip(left, *parts, strict=True)]
    return np.split(np.concatenate(run(one, blocks)), np.cumsum([len(part) for part in points])[:-1])


def _filled(values: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    """Fill values up to a length along the first axis, by zeros."""
    missing = length - len(values)
    return np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)]) if missing else values


def _split(values: npt.NDArray[Any], size: int, run: Run) -> tuple[Tensor, ...]:
    """Put values on the device in blocks of a size; the last one is filled up to a multiple of 64."""
    blocks: tuple[Tensor, ...] = run.tensor(_filled(values, -(-len(values) // _ROWS) * _ROWS)).split(size)
    return blocks


def locate(model: Model, location: Floats, run: Run) -> Array:
    """Answer from scaled locations (N, 2) alone: (N, output)."""
    network = model.network

    def one(block: Tensor) -> Array:
        values: Array = activate(model.spec, network.locate(block), standardisation=model.standardisation).cpu().numpy()
        return values

    blocks = _split(location, block_size(network, run.kind), run)
    return np.concatenate(run(one, blocks))[: len(location)]


def logits_at(network: Miso, batches: Iterable[tuple[Mapping[str, Array], Array]], device: str) -> dict[str, Floats]:
    """Return logits by task of batches of windows with one point each: scaled inputs (B, ...) and points (B, 2).

    (N, output), or (N, member, output) of several members.
    """
    found: defaultdict[str, list[Array]] = defaultdict(list)
    with inference(device, torch.float32) as run:

        def ask(batch: tuple[Mapping[str, Array], Array]) -> dict[str, Tensor]:
            inputs, points = batch
            cells = network.project({name: run.tensor(values) for name, values in inputs.items()})
            return network(cells, run.tensor(np.arange(len(points))), run.tensor(points))  # type: ignore[no-any-return]

        waiting = iter(batches)
        while group := list(islice(waiting, run.workers)):
            for logits in run(ask, group):
                for name, values in logits.items():
                    found[name].append(values.cpu().numpy())
    return {name: np.concatenate(parts).astype("float64") for name, parts in found.items()}
