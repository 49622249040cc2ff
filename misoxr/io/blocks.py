"""Write the blocks of a store: tasks that compute, write and record them, in graphs of bounded size, here or on a cluster."""

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any, Protocol

import cloudpickle
import dask
import dask.array as da
import dask.base
import dask.threaded
import numpy as np
import numpy.typing as npt
import zarr
from dask._task_spec import Alias, DataNode, Task, TaskRef, convert_legacy_graph
from dask.callbacks import Callback
from dask.highlevelgraph import HighLevelGraph
from dask.system import CPU_COUNT

from misoxr.clusters import here, in_task, is_closed, kept
from misoxr.errors import AssetError, StoreError
from misoxr.grid.halo import MANY
from misoxr.io.check import with_empty_chunks
from misoxr.io.layout import Layout, packed
from misoxr.io.mend import remove_damaged
from misoxr.io.origins import Files, writable
from misoxr.records.bars import Bar
from misoxr.records.ledger import Block, Ledger, in_order
from misoxr.records.writers import unreachable

__all__ = [
    "Runner",
    "Sink",
    "Target",
    "batch_of",
    "graph_of",
    "parts_of",
    "put_nodata",
    "runner_of",
    "start",
    "tasks_of",
    "write_blocks",
]

TASKS, BYTES = 20_000, 10_000_000
"""The most tasks and bytes of a graph: with more, planning takes longer than the work."""
LARGE = 100_000
"""Bytes of an array in memory that is sent to workers once."""
AT_ONCE = 64
"""Blocks claimed at once, at the most, or two for each thread: neighbours share what they read, and who dies loses no more."""
WAIT = 1.0
"""Seconds between looks at what other writers have left to do."""

Array = npt.NDArray[Any]
Batch = tuple[dict[Any, Any], dict[Any, Block]]
"""A graph, and its last tasks with the blocks that they finish."""
Ended = Callable[[Block, Any], None]
"""Called with every block that ended, and what its last task returned or its AssetError. What it raises ends the write."""


class Sink(Protocol):
    """Where blocks are written. Tasks carry its functions alone, which are small and can be sent to workers."""

    @property
    def layout(self) -> Layout:
        """What is written."""

    @property
    def name(self) -> str:
        """A part of the names of tasks: a scheduler may have those of several stores."""

    @property
    def put(self) -> Callable[[Array, str, tuple[slice, ...], bool], Any]:
        """Write values to a region of a variable, packed or as they are."""

    def end(self, block: Block) -> Callable[[Sequence[Any]], Any]:
        """Return what ends a block, given what its puts returned."""


@dataclass(frozen=True)
class Target:
    """A store at an address, and where it is recorded what of it is written."""

    uri: str
    layout: Layout
    ledger: Ledger

    @property
    def name(self) -> str:
        """The address."""
        return self.uri

    @property
    def put(self) -> Callable[[Array, str, tuple[slice, ...], bool], None]:
        """Write a part of a variable."""
        return partial(_put, self.uri, self.ledger)

    def end(self, block: Block) -> Callable[[Sequence[None]], None]:
        """Record a block."""
        return partial(_record, ledger=self.ledger, block=block)


def _put(uri: str, ledger: Ledger, values: Array, name: str, region: tuple[slice, ...], pack: bool) -> None:
    stored = packed(values, name) if pack else values
    try:
        ledger.check()
        array = _opened(uri, ledger.own, ledger.edition, name)
        try:
            array[region] = stored
        except ValueError:  # what a shard at the edge holds is read first, and may be damaged
            remove_damaged(Files(writable(uri, ledger.own)), array, region)
            array[region] = stored
    except unreachable() as error:
        raise StoreError(
            f"The store {uri} cannot be written ({error}). What is written stays valid; when the cause is mended, the same call "
            "does what is left."
        ) from error


@lru_cache(maxsize=64)
def _opened(uri: str, own: Path | None, edition: str | None, name: str) -> Any:  # a plan of its own may come to the same address
    return with_empty_chunks(zarr.open_array(writable(uri, own), path=name, mode="r+"))


def _record(parts: Sequence[None], ledger: Ledger, block: Block) -> None:
    try:
        ledger.complete(block)
    except unreachable() as error:
        raise StoreError(f"The records {ledger.uri} cannot be written: {error}") from error


def write_blocks(target: Target, runner: "Runner", bar: Bar, *, mask: bool) -> bool:
    """Claim blocks and write them, until all are done, by this writer or others.

    Parameters
    ----------
    target : Target
        A store that is laid out.
    runner : Runner
        Where to compute.
    bar : Bar
        Where blocks are counted.
    mask : bool
        If True, write nodata in blocks whose assets cannot be read.

    Returns
    -------
    bool
        Whether the store is still there; another writer may have finished it, and put it in another one's place.
    """
    layout, ledger, graph = target.layout, target.ledger, graph_of(target.layout)
    order, enough = in_order(layout.shape), ("written", "masked") if mask else ("written",)

    def ended(block: Block, outcome: Any) -> None:
        if isinstance(outcome, AssetError):
            if not mask:
                raise outcome
            _mask(target, block, str(outcome))
        bar.update()

    while True:
        done = ledger.done()
        if not ledger.current():
            return False
        left = [block for block in order if done.get(block) not in enough]
        bar.reach(len(order) - len(left), len(order))  # with what others wrote
        if not left:
            return True
        free = [block for block in left if block not in runner.waiting]
        mine = ledger.claim(free, runner.share(len(free)))
        start(target, graph, mine, runner, ended)
        if not mine and not runner.waiting:
            time.sleep(WAIT)
        runner.wait(ended, everything=not mine)


def start(sink: Sink, graph: HighLevelGraph, blocks: Sequence[Block], runner: "Runner", ended: Ended) -> None:
    """Hand blocks to a runner, in graphs that are small enough for it."""

    def build(some: Sequence[Block]) -> Batch:
        tasks, ends = batch_of(sink, graph, some, shared=runner.remote)
        return runner.placed(tasks), ends

    for tasks, ends in _batches(blocks, build, measured=runner.remote):
        runner.start(tasks, ends, ended)


def _mask(target: Target, block: Block, error: str) -> None:
    """Write nodata for a block that could not be read, which only the holder of its lease can."""
    try:
        put_nodata(target, block)
        target.ledger.complete(block, error)
    except StoreError:
        if target.ledger.own is None:  # in a bucket nodata may have come after another writer's data
            target.ledger.withdraw(block)
        raise


def put_nodata(sink: Sink, block: Block) -> None:
    """Write nodata for a block."""
    layout = sink.layout
    for _, name, region in parts_of(layout, block):
        shape = tuple(part.stop - part.start for part in region)
        sink.put(np.full(shape, layout.nodata(name), layout.ds[name].dtype), name, region, layout.is_packed(name))


# ---- graphs


def graph_of(layout: Layout) -> HighLevelGraph:
    """Return the graph of all that is written block by block."""
    return HighLevelGraph.merge(*(layout.ds[name].data.__dask_graph__() for name in layout.blocked))


def batch_of(sink: Sink, graph: HighLevelGraph, blocks: Sequence[Block], *, shared: bool = False) -> Batch:
    """Return the graph that computes, writes and records some blocks."""
    parts = {block: list(parts_of(sink.layout, block)) for block in blocks}
    tasks = tasks_of(graph, [key for some in parts.values() for key, _, _ in some], sink.layout, shared=shared)
    ends = {}
    for block, some in parts.items():
        for key, name, region in some:
            tasks["put", sink.name, name, *key] = (sink.put, key, name, region, sink.layout.is_packed(name))
        end = ("block", sink.name, *block)
        tasks[end] = (sink.end(block), [("put", sink.name, name, *key) for key, name, _ in some])
        ends[end] = block
    return tasks, ends


def tasks_of(graph: HighLevelGraph, keys: Sequence[Any], layout: Layout, *, shared: bool = False) -> dict[Any, Any]:
    """Return the tasks that compute some chunks.

    With ``shared``, a task that other chunks need, too, is the same in every graph, as a cluster wants it that has several of them at once;
    else chains of tasks are made one, which differ from graph to graph.
    """
    # Dask optimises layers before it looks which of their tasks are asked for, and makes all to fuse some; of a large map, they are
    # picked first, which leaves it less to fuse.
    large = layout.shape[0] * layout.shape[1] > MANY
    with dask.config.set({"optimization.fuse.active": False} if shared else {}):
        return dict(da.optimize(dict(graph.cull(set(keys))) if large else graph, list(keys)))


def parts_of(layout: Layout, block: Block) -> Iterator[tuple[tuple[Hashable, ...], str, tuple[slice, ...]]]:
    """Yield key, variable and region of every chunk of a block."""
    place = dict(zip(("y", "x"), block, strict=True))
    for name in layout.blocked:
        variable = layout.ds[name]
        counts = [[place[str(d)]] if d in place else range(n) for d, n in zip(variable.dims, variable.data.numblocks, strict=True)]
        edges = [np.cumsum([0, *sizes]).tolist() for sizes in variable.data.chunks]
        for index in product(*counts):
            region = tuple(slice(edge[i], edge[i + 1]) for edge, i in zip(edges, index, strict=True))
            yield (variable.data.name, *index), name, region


def _batches(blocks: Sequence[Block], build: Callable[[Sequence[Block]], Batch], *, measured: bool) -> Iterator[Batch]:
    """Yield graphs that are small enough for a scheduler: of half the blocks, where all would be too much."""
    if not blocks:
        return
    tasks, ends = build(blocks)
    if len(blocks) > 1 and (len(tasks) > TASKS or (measured and len(cloudpickle.dumps(tasks)) > BYTES)):
        middle = len(blocks) // 2
        yield from _batches(blocks[:middle], build, measured=measured)
        yield from _batches(blocks[middle:], build, measured=measured)
    else:
        yield tasks, ends


# ---- where they run


class Runner:
    """Dask's local scheduler."""

    remote = False
    """Whether graphs are sent anywhere, so that their size counts."""

    def __init__(self) -> None:
        self.waiting: set[Block] = set()

    def threads(self) -> int:
        """Return how many blocks are computed at once."""
        return int(here().get("num_workers") or dask.config.get("num_workers", None) or CPU_COUNT)

    def share(self, left: int) -> int:
        """Return how many blocks to claim at once: half of what is left, as long as it is much, so that others find some, too."""
        return min(max(AT_ONCE, 2 * self.threads()), left if left <= 4 * self.threads() else ceil(left / 2))

    def placed(self, tasks: dict[Any, Any]) -> dict[Any, Any]:
        """Return a graph with its arrays where they are computed with; here they are."""
        return tasks

    def start(self, tasks: dict[Any, Any], ends: Mapping[Any, Block], ended: Ended) -> None:
        """Compute a graph, and tell of its blocks as they end."""

        def after(key: Any, result: Any, *_: Any) -> None:
            if key in ends:
                ended(ends[key], result)

        own = partial(dask.threaded.get, num_workers=self.threads())
        get = own if in_task() else dask.base.get_scheduler() or dask.threaded.get
        with Callback(posttask=after):
            get(_passing_on(tasks), list(ends))

    def wait(self, ended: Ended, *, everything: bool) -> None:
        """Wait until there could be too little to do, or for everything; here nothing is on its way once it is started."""


def _passing_on(tasks: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a graph in which an AssetError is a value that tasks pass on, as a local scheduler ends all of a graph for an error."""
    graph: dict[Any, Any] = convert_legacy_graph(tasks)
    for key, task in graph.items():
        if not isinstance(task, Alias | DataNode):
            needs = tuple(task.dependencies)
            graph[key] = Task(key, partial(_attempt, task, needs), *map(TaskRef, needs), _data_producer=task.data_producer)
    return graph


def _attempt(task: Task, needs: Sequence[Any], *values: Any) -> Any:
    """Do a task, unless it needs what could not be read."""
    for value in values:
        if isinstance(value, AssetError):
            return value
    try:
        return task(dict(zip(needs, values, strict=True)))
    except AssetError as error:
        return error


class ClusterRunner(Runner):
    """The workers of a client, always with more to do than threads to do it."""

    remote = True

    def __init__(self, client: Any, resources: Mapping[str, float] | None) -> None:
        super().__init__()
        self._client, self._resources = client, dict(resources or {}) or None
        self._blocks: dict[Any, Block] = {}
        self._sent: dict[int, tuple[Any, Any]] = {}

    def placed(self, tasks: dict[Any, Any]) -> dict[Any, Any]:
        """Send each array that lies in memory to the workers once, and not with every graph."""
        return {key: self._place(node) for key, node in tasks.items()}

    def _place(self, node: Any) -> Any:
        value = node.value if isinstance(node, DataNode) else node
        if not isinstance(value, np.ndarray) or value.nbytes < LARGE:
            return node
        if id(value) not in self._sent:  # the array is kept with its future, or another one could get its number
            self._sent[id(value)] = (value, kept(self._client, partial(np.asarray, value)))
        return self._sent[id(value)][1]

    def threads(self) -> int:
        """Return the threads of all workers."""
        return sum(self._client.nthreads().values()) or 1

    def start(self, tasks: dict[Any, Any], ends: Mapping[Any, Block], ended: Ended) -> None:
        """Hand a graph to the scheduler; :meth:`wait` tells of its blocks."""
        futures = self._client.get(tasks, list(ends), sync=False, resources=self._resources)
        self._blocks.update(zip(futures, ends.values(), strict=True))
        self.waiting.update(ends.values())

    def wait(self, ended: Ended, *, everything: bool) -> None:
        """Wait until workers could run out of work, or for everything; tell of the blocks that ended."""
        from distributed import as_completed

        enough = 0 if everything else self.threads()
        if len(self._blocks) <= enough:
            return
        try:
            for future in as_completed(list(self._blocks)):
                block = self._blocks.pop(future)
                self.waiting.discard(block)
                try:
                    outcome = future.result()
                except AssetError as error:
                    outcome = error
                ended(block, outcome)
                if len(self._blocks) <= enough:
                    return
        except BaseException:
            if not is_closed(self._client):
                self._client.cancel(list(self._blocks))
            raise


def runner_of(client: Any, resources: Mapping[str, float] | None) -> Runner:
    """Return what runs on a client's workers, or here where there is none."""
    return Runner() if client is None else ClusterRunner(client, resources)
