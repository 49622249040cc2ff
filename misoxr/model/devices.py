"""A device for prediction: its choice and precision, what it holds, what is sent there and back, its threads and batches."""

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from misoxr.errors import SpecError, did_you_mean

__all__ = [
    "AHEAD",
    "ROWS",
    "Precision",
    "Run",
    "choose_device",
    "choose_precision",
    "fetch",
    "in_batches",
    "inference",
    "packed",
    "place",
    "send",
    "unpacked",
]

Precision = Literal["auto", "float32", "bfloat16", "float64"]
Item = TypeVar("Item")
Result = TypeVar("Result")

_KINDS = ("cpu", "cuda")
_LOCKS: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
"""By device, held while it computes for one."""
_SENDING: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
"""By device, held while something is given memory there beside what computes. Who holds both took the other one first."""
_PLACES: defaultdict[str, threading.BoundedSemaphore] = defaultdict(partial(threading.BoundedSemaphore, 2))
"""By device, places for blocks: of the one that is computed, and of the next."""
_TAKEN: "WeakKeyDictionary[nn.Module, dict[tuple[str, torch.dtype], int]]" = WeakKeyDictionary()
"""Bytes that a window takes on a device, by network, device and precision."""
AHEAD = 2
"""Items for each core of a CPU that are worked on ahead of those that were taken."""
ROWS = 64
"""Blocks of points are a multiple of it: matrix products may round the rows that are left over differently."""
_ALIGNED = 16
"""Bytes of which the place of an array in a transfer is a multiple."""


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
    if kind not in _KINDS:
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
                if len(waiting) > AHEAD * self.workers:
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
        last = len(numbers) == 1 and most <= ROWS
        call = partial(function, numbers, most)
        found = _tried(call if size else partial(_measured, call, run, network), last=last)
        if found is None:  # by now, what the batch held is free
            torch.cuda.empty_cache()
            size, most = (len(numbers) // 2, most) if len(numbers) > 1 else (size, max(ROWS, most // 2 // ROWS * ROWS))
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
