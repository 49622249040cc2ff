"""Run a network for prediction: device, precision, threads and batches."""

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Generic, Literal, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from misoxr.clusters import cores as _cores
from misoxr.cube.augment import AUGMENTATIONS
from misoxr.errors import SpecError, did_you_mean
from misoxr.model.calibration import Calibration
from misoxr.model.checkpoint import Model
from misoxr.model.inputs import moved
from misoxr.model.network import Miso
from misoxr.spec import ModelSpec
from misoxr.spec.components import Augmentation
from misoxr.spec.standardisation import Standardisation

__all__ = [
    "Precision",
    "Run",
    "activate",
    "answer",
    "block_size",
    "choose_device",
    "choose_precision",
    "fetch",
    "group_size",
    "in_batches",
    "inference",
    "joined",
    "locate",
    "logits_at",
    "packed",
    "place",
    "send",
    "unpacked",
]

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Precision = Literal["auto", "float32", "bfloat16", "float64"]
Item = TypeVar("Item")
Result = TypeVar("Result")

_LOCKS: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
"""By device, held while it computes for one."""
_SENDING: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
"""By device, held while something is given memory there beside what computes. Who holds both took the other one first."""
_PLACES: defaultdict[str, threading.BoundedSemaphore] = defaultdict(partial(threading.BoundedSemaphore, 2))
"""By device, places for blocks: of the one that is computed, and of the next."""
_TAKEN: "WeakKeyDictionary[nn.Module, dict[tuple[str, torch.dtype], int]]" = WeakKeyDictionary()
"""Bytes that a window takes on a device, by network, device and precision."""
_BLOCK = {"cpu": 2**18, "cuda": 2**26}
"""Points answered at once, times the widest layer: few enough for a core's cache, many enough to fill a GPU."""
_AHEAD = 2
"""Items for each core of a CPU that are worked on ahead of those that were taken."""
_ALIGNED = 16
"""Bytes of which the place of an array in a transfer is a multiple."""
_GROUP = 2**14
"""Pixels that a CPU's core encodes at once, where windows are small; a larger window is encoded by itself."""
_PIXELS = 2**16
"""Pixels of windows that a CPU's core cuts and scales together."""
_BLOCKS = 16
"""Blocks of points that a CPU's core asks in one job."""
_ROWS = 64
"""Blocks of points are a multiple of it: matrix products may round the rows that are left over differently."""


class Part(NamedTuple):
    """Where an array lies among bytes that are sent together, its type and its shape."""

    bytes: slice
    dtype: torch.dtype
    shape: tuple[int, ...]


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
    kind = device.split(":")[0]
    if kind not in _BLOCK:
        raise SpecError(f"The device {device!r} is not known here; use 'auto', 'cpu', 'cuda' or 'cuda:<number>'.")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SpecError(f"The device {device!r} cannot be reached ({error}); use 'auto' or 'cpu'.") from error
    return "cpu" if kind == "cpu" else device  # "cpu:0" is the same one


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
    room: int = 0
    """Bytes that are to be left free on a GPU, for what is sent there meanwhile."""

    @property
    def kind(self) -> str:
        """The device without its number."""
        return self.device.split(":")[0]

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the answers."""
        return torch.float64 if self.precision == torch.float64 else torch.float32

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the function's results. On a CPU, some items ahead of those that were taken are worked on."""

        def call(item: Item) -> Result:
            # Both hold only in the thread that enters them.
            with torch.inference_mode(), torch.autocast(self.kind, torch.bfloat16, enabled=self.precision == torch.bfloat16):
                return function(item)

        if self.pool is None:
            yield from map(call, items)
            return
        waiting: deque[_Job[Result]] = deque()
        try:
            for item in items:
                waiting.append(_Job(partial(call, item)))
                self.pool.submit(waiting[-1].done)
                if len(waiting) > _AHEAD * self.workers:
                    yield _first(waiting)
            while waiting:
                yield _first(waiting)
        finally:
            for job in waiting:
                job.taken.acquire(blocking=False)


class _Job(Generic[Result]):
    """Work that is done by whoever comes first: a thread of the pool, or the caller, who would only wait meanwhile."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self.work, self.taken, self.found = work, threading.Lock(), Future[Result]()

    def done(self) -> bool:
        """Do it, and return True; False where someone else has taken it."""
        if not self.taken.acquire(blocking=False):
            return False
        try:
            self.found.set_result(self.work())
        except BaseException as error:
            self.found.set_exception(error)
            raise
        return True


def _first(waiting: "deque[_Job[Result]]") -> Result:
    """Take the first job's result; while another thread works on it, do those behind it."""
    job = waiting.popleft()
    if not job.done():
        while not job.found.done() and any(other.done() for other in waiting):
            pass
    return job.found.result()


def place(device: str) -> AbstractContextManager[Any]:
    """Wait for a place for a block on a device, and keep it. However many threads ask, a GPU holds two blocks; a CPU has them already."""
    return nullcontext() if device == "cpu" else _PLACES[device]


def send(device: str, arrays: Sequence[npt.NDArray[Any]]) -> list[Tensor]:
    """Put arrays on a device: on a CPU as they are, else in one transfer, from pinned memory and beside what is computed there.

    The tensors are not to be written to.
    """
    if device == "cpu":
        return [torch.from_numpy(_read_only(array)) for array in arrays]
    buffer, parts = packed(arrays, pin=True)
    try:
        with _SENDING[device]:
            there = _carried(device, buffer)
    except torch.OutOfMemoryError:
        there = None
    if there is None:
        with _LOCKS[device], _SENDING[device]:  # once nothing is computed there
            torch.cuda.empty_cache()
            there = _carried(device, buffer)
    return unpacked(there, parts)


def packed(arrays: Sequence[npt.NDArray[Any]], *, pin: bool) -> tuple[Tensor, list[Part]]:
    """Copy arrays one behind another into bytes, in pinned memory where asked for, and return which part is each."""
    given = [torch.from_numpy(_read_only(np.ascontiguousarray(array))) for array in arrays]
    ends = np.cumsum([0, *(-(-one.nbytes // _ALIGNED) * _ALIGNED for one in given)]).tolist()
    buffer = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=pin)
    parts = [Part(slice(first, first + one.nbytes), one.dtype, one.shape) for first, one in zip(ends, given, strict=False)]
    for part, one in zip(parts, given, strict=True):
        buffer[part.bytes].view(part.dtype).copy_(one.view(-1))
    return buffer, parts


def unpacked(buffer: Tensor, parts: Sequence[Part]) -> list[Tensor]:
    """Return views of bytes as the arrays that were packed."""
    return [buffer[part.bytes].view(part.dtype).view(part.shape) for part in parts]


def _carried(device: str, buffer: Tensor) -> Tensor:
    """Carry bytes to a GPU by the stream that carries, and wait for them."""
    stream = _stream(device)
    with torch.cuda.stream(stream):
        there = buffer.to(device, non_blocking=True)
    there.record_stream(torch.cuda.current_stream(device))  # its memory is not given to the next while this one is computed
    stream.synchronize()
    return there


@cache
def _stream(device: str) -> Any:
    """Return the stream that carries to a device. One serves all threads: torch keeps freed memory by stream, and others cannot use it."""
    return torch.cuda.Stream(device)


def fetch(answers: Tensor) -> npt.NDArray[Any]:
    """Return what was answered on a device, in one transfer."""
    values: npt.NDArray[Any] = answers.cpu().numpy()
    return values


class _MarkedWriteable:
    """A read-only array that says it can be written to, so that torch does not warn. Whoever writes to the tensor writes to the array, or crashes."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array = array
        self.__array_interface__ = {**array.__array_interface__, "data": (array.__array_interface__["data"][0], False)}


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array that torch takes; the tensor is only to be read."""
    array = array.copy() if min(array.strides, default=0) < 0 else array  # torch knows no way back
    return array if array.flags.writeable else np.asarray(_MarkedWriteable(array))


@contextmanager
def inference(device: str, precision: torch.dtype, batch_size: int | None = None, room: int = 0) -> Iterator[Run]:
    """Hold a device for one inference, with as many windows in a batch as given, and so many bytes left free on a GPU.

    On a CPU, each core takes whole groups of windows and blocks of points, with torch on one thread: cores that share a
    block wait for each other at every layer, and each has caches of its own.
    """
    with _LOCKS[device]:
        if device.startswith("cuda"):
            yield Run(device, precision, 1, None, batch_size, room)
            return
        threads, cores = torch.get_num_threads(), _cores()
        torch.set_num_threads(1)
        try:
            others = (
                nullcontext() if cores == 1 else ThreadPoolExecutor(cores - 1, initializer=torch.set_num_threads, initargs=(1,))
            )
            with others as pool:
                yield Run(device, precision, cores, pool, batch_size)
        finally:
            torch.set_num_threads(threads)


def in_batches(function: Callable[[range, int], Result], count: int, most: int, run: Run, network: nn.Module) -> Iterator[Result]:
    """Call a function with batches of windows, by their numbers, and how many points it may ask at once.

    Without a size in the run, a batch has as many windows as fit in the device's free memory: what one takes is measured once for a network.
    Where memory runs out, the batch is halved, and a batch of one has its points halved.

    Raises
    ------
    OutOfMemoryError
        If one window and the fewest points do not fit.
    """
    start, size = 0, run.batch_size or _fitting(run, network)
    while start < count:
        numbers = range(start, min(start + (size or 1), count))
        last = len(numbers) == 1 and most <= _ROWS
        call = partial(function, numbers, most)
        found = _tried(call if size else partial(_measured, call, run, network), last=last)
        if found is None:  # by now, what the batch held is free
            torch.cuda.empty_cache()
            size, most = (len(numbers) // 2, most) if len(numbers) > 1 else (size, max(_ROWS, most // 2 // _ROWS * _ROWS))
            continue
        yield found
        start = numbers.stop
        size = size or _fitting(run, network)


def _tried(call: Callable[[], Result], *, last: bool) -> Result | None:
    """Return what a call gives; None where the device's memory runs out, unless it is the last try."""
    try:
        return call()
    except RuntimeError as error:
        # Libraries below torch, which want memory of their own, say it in words.
        if last or not (isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error)):
            raise
    return None


def _measured(call: Callable[[], Result], run: Run, network: nn.Module) -> Result:
    """Call, and keep what it took of the device's memory; nothing is sent there meanwhile."""
    with _SENDING[run.device]:
        torch.cuda.reset_peak_memory_stats(run.device)
        before = torch.cuda.memory_allocated(run.device)
        found = call()
        taken = torch.cuda.max_memory_allocated(run.device) - before
    _TAKEN.setdefault(network, {})[run.device, run.precision] = max(taken, 1)
    return found


def _fitting(run: Run, network: nn.Module) -> int:
    """Return how many windows fit in the device's free memory, 256 at the most; 0 where it is not known what one takes."""
    taken = _TAKEN.get(network, {}).get((run.device, run.precision))
    if taken is None:
        return 0
    # What torch keeps and has given to nobody is free, too.
    kept = torch.cuda.memory_reserved(run.device) - torch.cuda.memory_allocated(run.device)
    free = torch.cuda.mem_get_info(run.device)[0] + kept
    return max(1, min(256, int((0.8 * free - run.room) / taken)))


def activate(
    spec: ModelSpec,
    logits: Mapping[str, Tensor],
    calibration: Mapping[str, Calibration] | None = None,
    standardisation: Mapping[str, Standardisation] | None = None,
) -> Tensor:
    """Concatenate the tasks' probabilities (regression: values) in the order of the specification: (output, N), of members (member, output, N).

    Logits (N, output) or (N, member, output) are calibrated first, task by task, where a calibration is given. Where labels were standardised,
    values are in the labels' units, and all in float64: an offset may take more digits than float32 has.
    """
    parts = []
    for task in spec.tasks:
        # Points come last: along another axis than that, a softmax of few classes is eight times faster on a CPU.
        values = logits[task.name].movedim(0, -1)
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        found = (calibration or {}).get(task.name)
        if found is not None:
            values = values / found.temperature
            if found.bias:
                values = torch.stack([one + bias for one, bias in zip(values.unbind(-2), found.bias, strict=True)], -2)
        learnt_as = (standardisation or {}).get(task.name)
        if learnt_as is not None:
            values = learnt_as.invert(values.double())
        if task.kind == "regression":
            values = values.expm1() if task.loss == "mse_log1p" else values
        else:
            values = values.softmax(-2) if task.kind == "multiclass" else values.sigmoid()
        parts.append(values)
    return torch.cat(parts, dim=-2)


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


class _Group(NamedTuple):
    """Windows that were encoded at once: their cells, and for each point its window, x and y in it, and weight."""

    cells: Any
    sample: Tensor
    points: Tensor
    weight: Tensor


class _Block(NamedTuple):
    """Some points of a group: what enters the network, their weights, how many there are before it was filled up, and whether no others follow."""

    cells: Any
    sample: Tensor
    points: Tensor
    weight: Tensor
    known: int
    last: bool


@dataclass(frozen=True)
class _Way:
    """How windows are encoded and asked. What enters the network has one shape, whatever is scaled or activated together.

    No job of a pool waits for another: what is encoded and asked ahead is taken by the caller, in order.
    """

    model: Model
    crop: Callable[[range], Tensor]
    points: Callable[[range], tuple[Tensor, Tensor, Tensor]]
    counts: Sequence[int]
    run: Run
    ways: Sequence[tuple[bool, int]]
    embeds: bool

    def encode(self, item: tuple[Sequence[range], int, tuple[bool, int]]) -> list[_Group]:
        """Encode some groups of windows: they are cut and scaled together, and each enters the network by itself."""
        groups, size, way = item
        numbers, network = range(groups[0].start, groups[-1].stop), self.model.network
        dtype = network.dtype
        inputs = self.model.inputs(_filled(self.crop(numbers), size * len(groups)), *way)
        sample, xy, weight = self.points(numbers)
        xy, weight, found, first = moved(xy, *way), weight / len(self.ways) if len(self.ways) > 1 else weight, [], 0
        for place, group in zip(range(0, size * len(groups), size), groups, strict=True):
            cells = network.project({name: values[place : place + size].to(dtype) for name, values in inputs.items()})
            mine = slice(first, first + sum(self.counts[group.start : group.stop]))
            found.append(_Group(cells, sample[mine] - place if place else sample[mine], xy[mine], weight[mine]))
            first = mine.stop
        return found

    @staticmethod
    def blocks(group: _Group, most: int) -> Iterator[_Block]:
        """Yield a group's points in blocks of so many; the last is a multiple of 64, filled up by zeros that have no weight."""
        count = len(group.sample)
        whole = -(-count // _ROWS) * _ROWS
        parts = (_filled(part, whole).split(most) for part in group[1:])
        for first, (sample, xy, weight) in zip(range(0, whole, most), zip(*parts, strict=True), strict=True):
            yield _Block(group.cells, sample, xy, weight, min(most, count - first), first + most >= count)

    def ask(self, blocks: Sequence[_Block]) -> list[tuple[Tensor, bool]]:
        """Ask the network block by block, and activate what it answered together: (output, N) times the weights, for each group, and whether that is all."""
        network, weight = self.model.network, torch.cat([block.weight for block in blocks])
        if self.embeds:
            answers = torch.cat([network.embed(*block[:3])["visual"] for block in blocks]).T
            answers = answers.to(torch.promote_types(answers.dtype, torch.float32))
        else:
            each = [network(*block[:3]) for block in blocks]
            # Points lie last in memory, too, as activate wants them: to turn them there would take longer than a softmax.
            logits = {name: torch.cat([one[name].movedim(0, -1) for one in each], -1).movedim(-1, 0) for name in each[0]}
            answers = activate(self.model.spec, logits, self.model.calibration, self.model.standardisation).flatten(0, -2)
        answers, found, first, end, count = answers.mul_(weight.to(answers.dtype)), [], 0, 0, 0
        for number, block in enumerate(blocks):
            end, count = end + len(block.weight), count + block.known
            if block.last or number == len(blocks) - 1:
                found.append((answers[:, first : first + count], block.last))
                first, count = end, 0
        return found

    def __call__(self, chunks: Sequence[Sequence[range]], size: int, most: int, together: int) -> Iterator[tuple[range, Tensor]]:
        """Yield the answers of groups of windows: some groups of so many windows are encoded, and some blocks of so many points asked, in one job."""
        asked = [(groups, size, way) for groups in chunks for way in self.ways]

        def jobs() -> Iterator[list[_Block]]:
            for groups in self.run(self.encode, asked):
                blocks = [block for group in groups for block in self.blocks(group, most)]
                yield from (blocks[first : first + together] for first in range(0, len(blocks), together))

        answers = (part for parts in self.run(self.ask, jobs()) for part in parts)
        for group in (group for groups, *_ in asked for group in groups):
            found, last = [], False
            while not last:
                part, last = next(answers)
                found.append(part)
            yield group, torch.cat(found, 1) if len(found) > 1 else found[0]


def answer(
    model: Model,
    crop: Callable[[range], Tensor],
    points: Callable[[range], tuple[Tensor, Tensor, Tensor]],
    counts: Sequence[int],
    run: Run,
    *,
    augmentation: Augmentation = "none",
    embeds: bool = False,
) -> Iterator[tuple[range, Tensor]]:
    """Encode windows, and answer each at its points, times the points' weights.

    The shapes that enter the network depend on the model, the windows and their points alone. All groups of windows have one
    size, and so have all blocks of a group's points but the last, which is a multiple of 64; zeros fill them up.

    Parameters
    ----------
    crop : callable
        Gives the raw bands (B, band, size, size) of some of the windows, by their numbers, on the device.
    points : callable
        Gives their points, window after window: (N,) the window of each, counted from the first asked for; (N, 2) x and y in -1..1 of it; and
        (N,) its weight.
    counts : sequence of int
        How many points each window has.
    run : Run
        The device.
    augmentation : str
        The ways in which each window is seen; their answers are averaged.
    embeds : bool, optional
        Return the network's embedding, as its heads see it, instead of the tasks' outputs.

    Yields
    ------
    (range, Tensor)
        Numbers of windows, in order, and the answers at their points (output, N), all outputs of one member after those of another; of an
        embedding (width, N). There are as many for the same windows as ways to see them, and their sum counts.
    """
    network, count = model.network, len(counts)
    way = _Way(model, crop, points, counts, run, AUGMENTATIONS[augmentation], embeds)
    if run.kind == "cpu":
        size = group_size(model.spec, run.batch_size)
        groups = [range(first, min(first + size, count)) for first in range(0, count, size)]
        # Threads share Python: the work around the network is shared by two of them where a step takes some tens of microseconds.
        many = max(1, min(_PIXELS // (size * model.spec.windows.input_size**2), len(groups) // (_AHEAD * run.workers)))
        yield from way(
            [groups[first : first + many] for first in range(0, len(groups), many)], size, block_size(network, "cpu"), _BLOCKS
        )
        return
    # A GPU encodes the whole batch at once.
    most = block_size(network, run.kind)
    for found in in_batches(lambda batch, most: list(way([[batch]], len(batch), most, 1)), count, most, run, network):
        yield from found


def _filled(values: Tensor, length: int) -> Tensor:
    """Fill values up to a length along the first axis, by zeros."""
    missing = length - len(values)
    return torch.cat([values, values.new_zeros((missing, *values.shape[1:]))]) if missing else values


def locate(model: Model, location: Tensor, run: Run) -> Tensor:
    """Answer from scaled locations (N, 2) alone: (output, N)."""
    network = model.network

    def one(block: Tensor) -> Tensor:
        return activate(model.spec, network.locate(block), standardisation=model.standardisation)

    blocks = _filled(location, -(-len(location) // _ROWS) * _ROWS).split(block_size(network, run.kind))
    return torch.cat(list(run(one, blocks)), 1)[:, : len(location)]


def joined(answers: Tensor, spec: ModelSpec) -> Tensor:
    """Average what members answered, and append their spread in each task: (member x output, N) -> (output + task, N).

    The answers of a single member stay as they are.
    """
    if spec.members == 1:
        return answers
    each = answers.unflatten(0, (spec.members, spec.outputs))
    mean = each.mean(dim=0, dtype=torch.float64)
    beside, ends = [], np.cumsum([0, *(task.outputs for task in spec.tasks)]).tolist()
    for task, first, end in zip(spec.tasks, ends, ends[1:], strict=False):
        several = task.kind == "multiclass"
        found = torch.special.entr(mean[first:end]).sum(dim=0) if several else each[:, first].double().std(dim=0, correction=0)
        beside.append(found)
    return torch.cat([mean, torch.stack(beside)]).to(answers.dtype)


def logits_at(network: Miso, batches: Iterable[tuple[Mapping[str, Array], Array]], device: str) -> dict[str, Floats]:
    """Return logits by task of batches of windows with one point each: scaled inputs (B, ...) and points (B, 2).

    (N, output), or (N, member, output) of several members.
    """
    found: defaultdict[str, list[Array]] = defaultdict(list)
    with inference(device, torch.float32) as run:

        def ask(batch: tuple[Mapping[str, Array], Array]) -> dict[str, Tensor]:
            inputs, points = batch
            cells = network.project(dict(zip(inputs, send(device, list(inputs.values())), strict=True)))
            return network(cells, torch.arange(len(points), device=device), *send(device, [points]))  # type: ignore[no-any-return]

        for logits in run(ask, batches):
            for name, values in logits.items():
                found[name].append(fetch(values))
    return {name: np.concatenate(parts).astype("float64") for name, parts in found.items()}
