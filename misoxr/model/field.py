"""The continuous field: answers of overlapping windows at any positions, blended by the windows' weights."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from odc.geo.geobox import GeoBox
from torch import Tensor
from torch.nn import functional as F

from misoxr.cube.scaling import Scaling, valid_pixels
from misoxr.errors import BandError
from misoxr.grid.geobox import locations
from misoxr.grid.windows import Axis, Plan
from misoxr.model.checkpoint import Model
from misoxr.model.devices import Run, fetch, inference, place, send
from misoxr.model.inference import answer, joined, locate
from misoxr.spec import ModelSpec

__all__ = ["Block", "Crops", "Grid", "Positions", "Scatter", "Source", "Window", "answer_positions"]

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]
Window = tuple[int, int]
"""A window by its first pixel: row and column in the dataset."""
PART = 2**28
"""Bytes of windows around points that are in memory at once."""
GROUPS = 4
"""Windows of which a part has a multiple: the most that a CPU's core encodes at once."""


class Asked(ABC):
    """What windows are asked: each some of the wanted positions, with weights that sum to 1 at every position.

    Attributes
    ----------
    windows : list of Window
        The windows that are asked.
    counts : list of int
        How many positions each of them is asked.
    arrays : list of array
        What the points are made of. They are sent to a device, and :meth:`points` and :meth:`add` get the tensors.
    reached : array, optional
        (N,) the positions at which a window has weight; None where that is all.
    """

    windows: list[Window]
    counts: list[int]
    arrays: list[npt.NDArray[Any]]
    reached: Mask | None = None

    @cached_property
    def first(self) -> list[int]:
        """The number of the first point of each window among those of all, and the end."""
        return np.cumsum([0, *self.counts]).tolist()  # type: ignore[no-any-return]

    @abstractmethod
    def points(self, numbers: range, arrays: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the points of some windows: (N,) the window, counted from the first; (N, 2) x and y in -1..1 of it; and (N,) its weight."""

    @abstractmethod
    def add(self, total: Tensor, number: int, answers: Tensor, arrays: Sequence[Tensor]) -> None:
        """Add what a window answered (layer, N) to the sum (layer, position)."""


class _Anywhere(Asked):
    """Scattered positions: of each window the positions (N,), x and y in the window (N, 2), and its weight there (N,)."""

    def __init__(self, windows: list[Window], parts: Sequence[tuple[Integers, Floats, Floats]], count: int) -> None:
        self.windows, self.counts = windows, [len(at) for at, *_ in parts]
        at, points, weight = (np.concatenate(part) for part in zip(*parts, strict=True))
        total = np.bincount(at, weight, minlength=count)
        self.arrays, self.reached = [at, points, weight / total[at], np.repeat(np.arange(len(parts)), self.counts)], total > 0

    def points(self, numbers: range, arrays: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the points of some windows."""
        _, points, weight, number = (array[self.first[numbers.start] : self.first[numbers.stop]] for array in arrays)
        return number - numbers.start, points, weight

    def add(self, total: Tensor, number: int, answers: Tensor, arrays: Sequence[Tensor]) -> None:
        """Add what a window answered."""
        at, *_ = arrays
        total[:, at[self.first[number] : self.first[number + 1]]] += answers


def _local(axis: Axis, start: int, positions: Floats) -> Floats:
    """Return where positions lie in the window at ``start``, -1..1."""
    return (positions - start) * (2 / axis.spec.size) - 1


class _Side:
    """What the windows along one axis answer of a line of positions: which of them, where in the window, and their share of the weight."""

    def __init__(self, axis: Axis, positions: Floats, extent: tuple[float, float]) -> None:
        self.spans: dict[int, slice] = {}
        weights, total = [], np.zeros(len(positions))
        for start in axis.meeting(*extent):
            weight = axis.weight(start, positions)
            there = np.flatnonzero(weight)
            if len(there):
                span = self.spans[start] = slice(int(there[0]), int(there[-1]) + 1)
                weights.append(weight[span])
                total[span] += weight[span]
        spans = self.spans.items()
        self.local = np.concatenate([_local(axis, start, positions[span]) for start, span in spans])
        self.weight = np.concatenate([weight / total[span] for weight, span in zip(weights, self.spans.values(), strict=True)])
        ends = np.cumsum([0, *map(len, weights)]).tolist()
        self.first = dict(zip(self.spans, ends, strict=False))


class _Crossings(Asked):
    """Crossings of rows and columns, row by row: points are made on the device, from those along the two axes.

    A line is what a window is asked along one row.
    """

    def __init__(self, y: _Side, x: _Side, mask: Mask) -> None:
        self.windows, self.spans, self.columns = [], [], mask.shape[1]
        lines: list[tuple[npt.NDArray[Any], ...]] = []
        columns: list[npt.NDArray[Any]] = []
        self.whole = bool(mask.all())
        for (row, down), (column, across) in product(y.spans.items(), x.spans.items()):
            high, wide = down.stop - down.start, across.stop - across.start
            wanted = None if self.whole else mask[down, across]
            number = np.full(high, wide) if wanted is None else wanted.sum(axis=1)
            if not number.any():
                continue
            which = np.arange(y.first[row], y.first[row] + high)
            lines.append(
                (np.full(high, len(self.windows)), y.local[which], y.weight[which], np.full(high, x.first[column]), number)
            )
            if wanted is not None:
                columns.append(np.nonzero(wanted)[1].astype("int32"))
            self.windows.append((row, column))
            self.spans.append((down, across))
        window, local, weight, first, number = (np.concatenate(part) for part in zip(*lines, strict=True))
        self.lines = np.cumsum([0, *(down.stop - down.start for down, _ in self.spans)]).tolist()
        self.counts = np.add.reduceat(number, self.lines[:-1]).tolist()
        self.arrays = [window, local, weight, first, number, x.local, x.weight]
        if not self.whole:  # else columns are counted on the device
            self.arrays.append(np.concatenate(columns))

    def points(self, numbers: range, arrays: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the points of some windows."""
        mine = slice(self.lines[numbers.start], self.lines[numbers.stop])
        window, y, down, begin, number = (of[mine] for of in arrays[:5])
        x, across, *columns = arrays[5:]
        first, stop = self.first[numbers.start], self.first[numbers.stop]
        line = torch.repeat_interleave(number, output_size=stop - first)
        if columns:
            at = columns[0][first:stop] + begin.index_select(0, line)
        else:
            at = torch.arange(stop - first, device=x.device) + (begin - number.cumsum(0) + number).index_select(0, line)
        # Rows are selected six times faster than by indexing.
        points = torch.stack([x.index_select(0, at), y.index_select(0, line)], -1)
        weight = down.index_select(0, line).mul_(across.index_select(0, at))
        return (window - numbers.start).index_select(0, line), points, weight

    def add(self, total: Tensor, number: int, answers: Tensor, arrays: Sequence[Tensor]) -> None:
        """Add what a window answered."""
        down, across = self.spans[number]
        here = total.unflatten(1, (-1, self.columns))[:, down, across]
        if self.whole:
            here += answers.view(here.shape)
        else:
            wanted, columns = arrays[4][self.lines[number] : self.lines[number + 1]], arrays[7]
            row = torch.repeat_interleave(wanted, output_size=self.counts[number])
            here[:, row, columns[self.first[number] : self.first[number + 1]].long()] += answers


@dataclass(frozen=True)
class Positions(ABC):
    """Where the field is asked for, in fractional pixels of the dataset, a pixel's centre at +0.5."""

    rows: Floats
    columns: Floats

    @property
    def extent(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """First position and the next number after the last, along y and x."""
        rows, columns = ((float(part.min()), float(np.nextafter(part.max(), np.inf))) for part in (self.rows, self.columns))
        return rows, columns

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def every(self) -> tuple[Floats, Floats]:
        """Row and column of each position."""

    @abstractmethod
    def asked(self, plan: Plan, mask: Mask) -> Asked:
        """Return which windows are asked the wanted positions (N,), at least one of which is wanted."""


class Scatter(Positions):
    """Positions anywhere: row and column of each."""

    def __len__(self) -> int:
        return len(self.rows)

    def windows(self, plan: Plan) -> list[Window]:
        """Return the windows, by their first pixels, that have weight at a position."""
        starts = [axis.meeting(*span) for axis, span in zip((plan.y, plan.x), self.extent, strict=True)]
        down = np.array([plan.y.weight(start, self.rows) > 0 for start in starts[0]])
        across = np.array([plan.x.weight(start, self.columns) > 0 for start in starts[1]])
        return [(starts[0][i], starts[1][j]) for i, j in zip(*np.nonzero(down.astype("float32") @ across.T), strict=True)]

    def every(self) -> tuple[Floats, Floats]:
        """Row and column of each position."""
        return self.rows, self.columns

    def asked(self, plan: Plan, mask: Mask) -> Asked:
        """Return which windows are asked the wanted positions."""
        shares = [(window, self._share(plan, window, mask)) for window in self.windows(plan)]
        shares = [(window, share) for window, share in shares if len(share[0])]
        return _Anywhere([window for window, _ in shares], [share for _, share in shares], len(mask))

    def _share(self, plan: Plan, window: Window, mask: Mask) -> tuple[Integers, Floats, Floats]:
        """Return which of the wanted positions a window answers, their x and y in it, and its weight there."""
        near = self.near(window[0], window[0] + plan.y.size)
        weight = plan.y.weight(window[0], self.rows[near]) * plan.x.weight(window[1], self.columns[near])
        here = (weight > 0) & mask[near]
        index = near[here]
        points = [_local(plan.x, window[1], self.columns[index]), _local(plan.y, window[0], self.rows[index])]
        return index, np.stack(points, axis=-1), weight[here]

    @cached_property
    def _down(self) -> tuple[npt.NDArray[np.intp], Floats]:
        order = np.argsort(self.rows, kind="stable")
        return order, self.rows[order]

    def near(self, low: float, high: float) -> npt.NDArray[np.intp]:
        """Return the positions from one row to another, in their order: a window need not look at all the others."""
        order, rows = self._down
        return np.sort(order[np.searchsorted(rows, low) : np.searchsorted(rows, high, side="right")])


class Grid(Positions):
    """Positions at the crossings of rows and columns, row by row."""

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def every(self) -> tuple[Floats, Floats]:
        """Row and column of each position."""
        return np.repeat(self.rows, len(self.columns)), np.tile(self.columns, len(self.rows))

    def asked(self, plan: Plan, mask: Mask) -> Asked:
        """Return which windows are asked the wanted positions."""
        rows, columns = self.extent
        sides = _Side(plan.y, self.rows, rows), _Side(plan.x, self.columns, columns)
        return _Crossings(*sides, mask.reshape(len(self.rows), -1))


class Source(ABC):
    """Raw bands of a part of the dataset."""

    @abstractmethod
    def parts(self, windows: Sequence[Window]) -> list[range]:
        """Return the numbers of the windows whose bands are sent to a device together."""

    @abstractmethod
    def array(self, windows: Sequence[Window]) -> Array:
        """Return the bands of a part's windows: (band, y, x), or (window, band, y, x)."""

    @abstractmethod
    def crop(self, bands: Any, plan: Plan, window: Window, number: int) -> Any:
        """Return the bands of a window, as far as it lies in the dataset, from the array or its tensor; ``number`` counts within the part."""

    @abstractmethod
    def refuse_fills(self, scaling: Scaling, spec: ModelSpec, plan: Plan, windows: Sequence[Window]) -> None:
        """Refuse usual fill values in windows that are asked."""

    @abstractmethod
    def wanted(self, spec: ModelSpec, positions: Positions) -> Mask:
        """Return which positions (N,) lie in a pixel with valid input."""


@dataclass(frozen=True)
class Block(Source):
    """A block of the dataset with all windows that are needed, and its first pixel (row, column)."""

    bands: Array
    origin: tuple[int, int]

    def parts(self, windows: Sequence[Window]) -> list[range]:
        """Return one part: windows overlap, and the block has all of them."""
        return [range(len(windows))]

    def array(self, windows: Sequence[Window]) -> Array:
        """Return all bands."""
        return self.bands

    def refuse_fills(self, scaling: Scaling, spec: ModelSpec, plan: Plan, windows: Sequence[Window]) -> None:
        """Refuse usual fill values in windows that are asked. Elsewhere a block may hold any, and whether there is one depends on the chunks."""
        try:
            scaling.refuse_fills(spec, self.bands)
        except BandError:
            for number, window in enumerate(windows):
                scaling.refuse_fills(spec, self.crop(self.bands, plan, window, number))

    def crop(self, bands: Any, plan: Plan, window: Window, number: int) -> Any:
        """Return the bands of a window."""
        row, column = window[0] - self.origin[0], window[1] - self.origin[1]
        return bands[:, row : row + plan.y.size, column : column + plan.x.size]

    def wanted(self, spec: ModelSpec, positions: Positions) -> Mask:
        """Return which positions of a grid lie in a pixel with valid input."""
        axes = zip((positions.rows, positions.columns), self.origin, strict=True)
        rows, columns = (np.floor(part).astype(np.intp) - first for part, first in axes)
        down, across = (slice(int(part[0]), int(part[-1]) + 1) for part in (rows, columns))
        valid = valid_pixels(spec, self.bands[:, down, across])
        every = valid.shape == (len(rows), len(columns))  # positions of a map at the dataset's own pixels
        return (valid if every else valid[np.ix_(rows - rows[0], columns - columns[0])]).ravel()


@dataclass(frozen=True)
class Crops(Source):
    """The windows around points, by their first pixels."""

    windows: Mapping[Window, Array]

    def parts(self, windows: Sequence[Window]) -> list[range]:
        """Return parts of a bounded size: the windows may be views of a file that does not fit into memory."""
        size = max(PART // next(iter(self.windows.values())).nbytes // GROUPS * GROUPS, GROUPS)
        return [range(first, min(first + size, len(windows))) for first in range(0, len(windows), size)]

    def array(self, windows: Sequence[Window]) -> Array:
        """Return the windows."""
        return np.stack([self.windows[window] for window in windows])

    def refuse_fills(self, scaling: Scaling, spec: ModelSpec, plan: Plan, windows: Sequence[Window]) -> None:
        """Refuse usual fill values in windows that are asked."""
        for window in windows:
            scaling.refuse_fills(spec, self.windows[window])

    def crop(self, bands: Any, plan: Plan, window: Window, number: int) -> Any:
        """Return the bands of a window."""
        return bands[number]

    def wanted(self, spec: ModelSpec, positions: Positions) -> Mask:
        """Return which scattered positions lie in a pixel with valid input."""
        mask = np.zeros(len(positions.rows), dtype=bool)
        assert isinstance(positions, Scatter)
        for (row, column), bands in self.windows.items():
            near = positions.near(row, row + bands.shape[1])
            down = np.floor(positions.rows[near]).astype(np.intp) - row
            across = np.floor(positions.columns[near]).astype(np.intp) - column
            inside = (down >= 0) & (down < bands.shape[1]) & (across >= 0) & (across < bands.shape[2])
            mask[near[inside]] = valid_pixels(spec, bands[:, down[inside], across[inside]])
        return mask


def answer_positions(
    model: Model,
    source: Source,
    plan: Plan,
    positions: Positions,
    *,
    device: str,
    precision: torch.dtype = torch.float32,
    batch_size: int | None = None,
    geobox: GeoBox | None = None,
    embeds: bool = False,
) -> npt.NDArray[Any]:
    """Answer at positions on a device: what is needed goes there once, and the answers come back once.

    The device is held for computing alone: another thread prepares and sends what it needs meanwhile.

    Parameters
    ----------
    model : Model
        On the device, in the precision.
    source : Source
        Raw bands in the order of the specification.
    plan : Plan
        The windows over the dataset. They are asked where they have weight, and where there is valid input.
    positions : Positions
        Where to answer.
    device, precision, batch_size : str, dtype, int, optional
        As for :func:`misoxr.model.devices.inference`.
    geobox : GeoBox, optional
        Grid of the dataset, for the answers of the location head, too; a model without imagery needs it.
    embeds : bool, optional
        Return the network's embedding instead of the tasks' outputs.

    Returns
    -------
    array
        ``spec.layers()`` by position: the tasks' outputs, the spread between members, and the location head's outputs; or an embedding. NaN where
        there is no valid input.
    """
    spec = model.spec
    mask = source.wanted(spec, positions)
    if not mask.any():
        shape = spec.layers(location=geobox is not None and bool(spec.modalities), embeds=embeds), len(mask)
        return np.full(shape, np.nan, "float64" if precision == torch.float64 else "float32")
    asked = positions.asked(plan, mask) if spec.modalities else None
    if asked is not None:
        source.refuse_fills(model.scaling, spec, plan, asked.windows)
        mask = mask if asked.reached is None else mask & asked.reached
    located: list[npt.NDArray[Any]] = []
    if geobox is not None:
        assert spec.location is not None, "the model has no location branch"
        rows, columns = (part[mask] for part in positions.every())
        located = [np.flatnonzero(mask), locations(geobox, rows, columns, spec.location)]
    with place(device):
        answers = _computed(model, source, plan, asked, located, len(mask), device, precision, batch_size, embeds=embeds)
    if not mask.all():
        answers[:, ~mask] = np.nan
    return answers


def _computed(
    model: Model,
    source: Source,
    plan: Plan,
    asked: Asked | None,
    located: Sequence[npt.NDArray[Any]],
    count: int,
    device: str,
    precision: torch.dtype,
    batch_size: int | None,
    *,
    embeds: bool,
) -> npt.NDArray[Any]:
    """Send what is needed, compute, and return what was answered at so many positions: 0 where nothing is asked."""
    spec = model.spec
    parts = [] if asked is None else source.parts(asked.windows)
    arrays = list(located)
    if asked is not None:
        arrays += [source.array(asked.windows[: parts[0].stop]), *asked.arrays]
    sent = send(device, arrays)
    locating, seen = sent[: len(located)], sent[len(located) :]
    # As much may be sent for the next block meanwhile.
    with torch.inference_mode(), inference(device, precision, batch_size, sum(one.nbytes for one in arrays)) as run:
        heads = []
        if asked is not None:
            bands, *made_of = seen
            total = _zeros(model, count, run, embeds=embeds)
            for part in parts:
                windows = asked.windows[part.start : part.stop]
                bands = bands if part.start == 0 else send(device, [source.array(windows)])[0]
                _add_windows(total, model, partial(source.crop, bands, plan), plan, asked, part, made_of, run, embeds=embeds)
            heads.append(total.to(run.dtype) if embeds else joined(total, spec).to(run.dtype))
        if locating:
            at, places = locating
            empty = torch.zeros((spec.outputs, count), dtype=run.dtype, device=device)
            heads.append(empty.index_copy_(1, at, locate(model, places, run).to(run.dtype)))
        return fetch(heads[0] if len(heads) == 1 else torch.cat(heads))


def _zeros(model: Model, count: int, run: Run, *, embeds: bool) -> Tensor:
    """Return the sum of no answers at so many positions: (layer, position)."""
    # Values with an offset are summed in float64; see activate.
    kind = torch.float64 if model.standardisation and not embeds else run.dtype
    layers = model.spec.width if embeds else model.spec.members * model.spec.outputs
    if run.device == "cpu":  # NumPy asks for large pages, which are zero as they come
        return torch.from_numpy(np.zeros((layers, count), "float64" if kind == torch.float64 else "float32"))
    return torch.zeros((layers, count), dtype=kind, device=run.device)


def _add_windows(
    total: Tensor,
    model: Model,
    crop: Callable[[Window, int], Tensor],
    plan: Plan,
    asked: Asked,
    part: range,
    arrays: Sequence[Tensor],
    run: Run,
    *,
    embeds: bool,
) -> None:
    """Add what a part of the windows answers, by their weights, to the sum (layer, position)."""
    size = plan.y.spec.size
    missing = (0, size - plan.x.size, 0, size - plan.y.size)  # where the dataset is smaller than a window

    def crops(numbers: range) -> Tensor:
        windows = torch.stack([crop(asked.windows[part.start + number], number) for number in numbers])
        return F.pad(windows, missing, value=math.nan) if any(missing) else windows

    def points(numbers: range) -> tuple[Tensor, Tensor, Tensor]:
        return asked.points(part[numbers.start : numbers.stop], arrays)

    counts = asked.counts[part.start : part.stop]
    for numbers, found in answer(model, crops, points, counts, run, augmentation=plan.y.spec.tta, embeds=embeds):
        here = part[numbers.start : numbers.stop]
        for number, answers in zip(here, found.split(asked.counts[here.start : here.stop], 1), strict=True):
            asked.add(total, number, answers, arrays)
