"""The continuous field: answers of overlapping windows at any positions, blended by the windows' weights."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from misoxr.cube.augment import AUGMENTATIONS, augmented, augmented_points, padded
from misoxr.cube.scaling import valid_pixels
from misoxr.grid.geobox import locations
from misoxr.grid.windows import Axis, Plan
from misoxr.model.checkpoint import Model
from misoxr.model.inference import Run, answer, group_size, in_batches, locate
from misoxr.spec import ModelSpec

__all__ = ["Block", "Crops", "Grid", "Positions", "Scatter", "Source", "Window", "blend", "from_location"]

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]
Window = tuple[int, int]
"""A window by its first pixel: row and column in the dataset."""


class Share(NamedTuple):
    """What one window answers: which of the positions (N,), their (x, y) in -1..1 of the window, and its weight there."""

    at: Integers
    points: Floats
    weight: Floats


def _local(axis: Axis, start: int, positions: Floats) -> Floats:
    return (positions - start) * (2 / axis.spec.size) - 1


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

    def windows(self, plan: Plan) -> list[Window]:
        """Return the windows, by their first pixels, that have weight between the first and the last position."""
        return list(plan.windows(*self.extent))

    def __len__(self) -> int:
        return len(self.every()[0])

    @abstractmethod
    def every(self) -> tuple[Floats, Floats]:
        """Row and column of each position."""

    @abstractmethod
    def share(self, plan: Plan, window: Window, mask: Mask) -> Share:
        """Return what a window, given by its first pixel, answers of the wanted positions."""


class Scatter(Positions):
    """Positions anywhere: row and column of each."""

    def windows(self, plan: Plan) -> list[Window]:
        """Return the windows, by their first pixels, that have weight at a position."""
        starts = [axis.meeting(*span) for axis, span in zip((plan.y, plan.x), self.extent, strict=True)]
        down = np.array([plan.y.weight(start, self.rows) > 0 for start in starts[0]])
        across = np.array([plan.x.weight(start, self.columns) > 0 for start in starts[1]])
        return [(starts[0][i], starts[1][j]) for i, j in zip(*np.nonzero(down.astype("float32") @ across.T), strict=True)]

    def every(self) -> tuple[Floats, Floats]:
        """Row and column of each position."""
        return self.rows, self.columns

    def share(self, plan: Plan, window: Window, mask: Mask) -> Share:
        """Return what a window, given by its first pixel, answers of the wanted positions."""
        near = self.near(window[0], window[0] + plan.y.size)
        weight = plan.y.weight(window[0], self.rows[near]) * plan.x.weight(window[1], self.columns[near])
        here = (weight > 0) & mask[near]
        index = near[here]
        points = [_local(plan.x, window[1], self.columns[index]), _local(plan.y, window[0], self.rows[index])]
        return Share(index, np.stack(points, axis=-1), weight[here])

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

    def every(self) -> tuple[Floats, Floats]:
        """Row and column of each position."""
        return np.repeat(self.rows, len(self.columns)), np.tile(self.columns, len(self.rows))

    def share(self, plan: Plan, window: Window, mask: Mask) -> Share:
        """Return what a window, given by its first pixel, answers of the wanted positions."""
        rows, columns = plan.y.weight(window[0], self.rows), plan.x.weight(window[1], self.columns)
        down, across = np.flatnonzero(rows), np.flatnonzero(columns)
        row, column = np.nonzero(mask.reshape(len(rows), -1)[np.ix_(down, across)])
        row, column = down[row], across[column]
        points = [_local(plan.x, window[1], self.columns)[column], _local(plan.y, window[0], self.rows)[row]]
        return Share(row * len(columns) + column, np.stack(points, axis=-1), rows[row] * columns[column])


class Source(ABC):
    """Raw bands (band, y, x) of a part of the dataset."""

    @abstractmethod
    def crop(self, plan: Plan, window: Window) -> Array:
        """Return the bands of a window, as far as it lies in the dataset."""

    @abstractmethod
    def wanted(self, spec: ModelSpec, positions: Positions) -> Mask:
        """Return which positions (N,) lie in a pixel with valid input."""


@dataclass(frozen=True)
class Block(Source):
    """A block of the dataset with all windows that are needed, and its first pixel (row, column)."""

    bands: Array
    origin: tuple[int, int]

    def crop(self, plan: Plan, window: Window) -> Array:
        """Return the bands of a window."""
        row, column = window[0] - self.origin[0], window[1] - self.origin[1]
        return self.bands[:, row : row + plan.y.size, column : column + plan.x.size]

    def wanted(self, spec: ModelSpec, positions: Positions) -> Mask:
        """Return which positions of a grid lie in a pixel with valid input."""
        rows, columns = (
            np.floor(part).astype(np.intp) - first
            for part, first in zip((positions.rows, positions.columns), self.origin, strict=True)
        )
        return valid_pixels(spec, self.bands)[np.ix_(rows, columns)].ravel()


@dataclass(frozen=True)
class Crops(Source):
    """The windows around points, by their first pixels."""

    windows: Mapping[Window, Array]

    def crop(self, plan: Plan, window: Window) -> Array:
        """Return the bands of a window."""
        return self.windows[window]

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


def blend(
    model: Model,
    source: Source,
    plan: Plan,
    positions: Positions,
    mask: Mask,
    run: Run,
    *,
    embeds: bool = False,
) -> Array:
    """Answer at positions from imagery: the average of the windows around them, by their weights.

    Parameters
    ----------
    source : Source
        Raw bands in the order of the specification.
    plan : Plan
        The windows over the dataset.
    positions : Positions
        Where to answer.
    mask : array
        (N,) which of the positions are wanted; a window is asked only there, and only where it has weight.
    run : Run
        The device.
    embeds : bool, optional
        Return the network's embedding instead of the tasks' outputs.

    Returns
    -------
    array
        (output, N), all outputs of one member after those of another; of an embedding (width, N). NaN where not wanted.
    """

    def ask(windows: Sequence[Window]) -> list[tuple[Share, Array]]:
        shares = [positions.share(plan, window, mask) for window in windows]
        crops = [padded(source.crop(plan, window), plan.y.spec.size) for window in windows]
        views = []
        for way in AUGMENTATIONS[plan.y.spec.tta]:
            inputs = [model.scaling.apply(model.spec, augmented(crop, model.spec, *way)) for crop in crops]
            views.append(answer(model, inputs, [augmented_points(share.points, *way) for share in shares], run, embeds=embeds))
        answers = [sum(others, start=first) / len(views) for first, *others in zip(*views, strict=True)]
        return list(zip(shares, answers, strict=True))

    # Values with an offset are summed in float64; see activate.
    kind = "float64" if model.standardisation and not embeds else run.dtype
    total = np.zeros((len(mask), model.spec.width if embeds else model.spec.members * model.spec.outputs), dtype=kind)
    weights = np.zeros((len(mask), 1), dtype=kind)
    windows = [window for window in positions.windows(plan) if len(positions.share(plan, window, mask).at)]
    for batch in in_batches(ask, windows, run, group_size(model.spec, run.batch_size)):
        for share, answers in batch:
            weight = share.weight[:, None].astype(kind)
            total[share.at] += answers * weight
            weights[share.at] += weight
    # Nobody answered where nobody asked: 0/0 is nodata.
    with np.errstate(invalid="ignore"):
        return np.divide(total, weights, out=total).astype(run.dtype, copy=False).T


def from_location(model: Model, geobox: GeoBox, positions: Positions, mask: Mask, run: Run) -> Array:
    """Answer at positions of a grid from their locations alone: (output, N), NaN where not wanted."""
    assert model.spec.location is not None, "the model has no location branch"
    rows, columns = positions.every()
    out = np.full((model.spec.outputs, len(mask)), np.nan, dtype=run.dtype)
    if mask.any():
        scaled = locations(geobox, rows[mask], columns[mask], model.spec.location)
        out[:, mask] = locate(model, scaled, run).T
    return out
