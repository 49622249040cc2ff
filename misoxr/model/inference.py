"""Run a network for prediction: windows are encoded in groups, and their points asked in blocks."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from misoxr.cube.augment import AUGMENTATIONS
from misoxr.model.calibration import Calibration
from misoxr.model.checkpoint import Model
from misoxr.model.devices import AHEAD, ROWS, Run, fetch, in_batches, inference, send
from misoxr.model.inputs import moved
from misoxr.model.network import Miso
from misoxr.spec import ModelSpec
from misoxr.spec.components import Augmentation
from misoxr.spec.standardisation import Standardisation

__all__ = ["activate", "answer", "block_size", "group_size", "joined", "locate", "logits_at"]

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

_BLOCK = {"cpu": 2**18, "cuda": 2**26}
"""Points answered at once, times the widest layer: few enough for a core's cache, many enough to fill a GPU."""
_FEWEST = 512
"""Points answered at once, at the least: each time takes some microseconds of Python, and a wide layer has left the cache anyway."""
_GROUP = 2**14
"""Pixels that a CPU's core encodes at once, where windows are small; a larger window is encoded by itself."""
_PIXELS = 2**16
"""Pixels of windows that a CPU's core cuts and scales together."""
_BLOCKS = 16
"""Blocks of points that a CPU's core asks in one job."""


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
    return max(_FEWEST, min(_BLOCK[kind] // widest, 65536) // ROWS * ROWS)


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
        whole = -(-count // ROWS) * ROWS
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
        many = max(1, min(_PIXELS // (size * model.spec.windows.input_size**2), len(groups) // (AHEAD * run.workers)))
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

    blocks = _filled(location, -(-len(location) // ROWS) * ROWS).split(block_size(network, run.kind))
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
