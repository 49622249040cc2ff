"""The continuous field: windows of raw bands answered at any positions, and blended."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from misoxr.grid import locations
from misoxr.model.checkpoint import Model
from misoxr.model.inference import Run, answer, in_batches, locate
from misoxr.scaling import valid_pixels
from misoxr.windows import Axis, Plan

__all__ = ["Grid", "Positions", "Scatter", "blend", "from_location", "wanted"]

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]


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

    @abstractmethod
    def pixels(self, origin: tuple[int, int]) -> tuple[Integers, ...]:
        """Index, counted from an origin (row, column), of the pixels that hold the positions."""

    @abstractmethod
    def every(self) -> tuple[Floats, Floats]:
        """Row and column of each position."""

    @abstractmethod
    def share(self, plan: Plan, window: tuple[int, int], mask: Mask) -> Share:
        """Return what a window, given by its first pixel, answers of the wanted positions."""


def _pixel(positions: Floats, origin: int) -> Integers:
    return np.floor(positions).astype(np.intp) - origin


class Scatter(Positions):
    """Positions anywhere: row and column of each."""

    def pixels(self, origin: tuple[int, int]) -> tuple[Integers, ...]:
        """Index of the pixels that hold the positions."""
        return _pixel(self.rows, origin[0]), _pixel(self.columns, origin[1])

    def every(self) -> tuple[Floats, Floats]:
        """Row and column of each position."""
        return self.rows, self.columns

    def share(self, plan: Plan, window: tuple[int, int], mask: Mask) -> Share:
        """Return what a window, given by its first pixel, answers of the wanted positions."""
        weight = plan.y.weight(window[0], self.rows) * plan.x.weight(window[1], self.columns)
        index = np.flatnonzero((weight > 0) & mask)
        points = [_local(plan.x, window[1], self.columns[index]), _local(plan.y, window[0], self.rows[index])]
        return Share(index, np.stack(points, axis=-1), weight[index])


class Grid(Positions):
    """Positions at the crossings of rows and columns, row by row."""

    def pixels(self, origin: tuple[int, int]) -> tuple[Integers, ...]:
        """Index of the pixels that hold the positions, to broadcast."""
        return np.ix_(_pixel(self.rows, origin[0]), _pixel(self.columns, origin[1]))

    def every(self) -> tuple[Floats, Floats]:
        """Row and column of each position."""
        return np.repeat(self.rows, len(self.columns)), np.tile(self.columns, len(self.rows))

    def share(self, plan: Plan, window: tuple[int, int], mask: Mask) -> Share:
        """Return what a window, given by its first pixel, answers of the wanted positions."""
        rows, columns = plan.y.weight(window[0], self.rows), plan.x.weight(window[1], self.columns)
        down, across = np.flatnonzero(rows), np.flatnonzero(columns)
        row, column = np.nonzero(mask.reshape(len(rows), -1)[np.ix_(down, across)])
        row, column = down[row], across[column]
        points = [_local(plan.x, window[1], self.columns)[column], _local(plan.y, window[0], self.rows)[row]]
        return Share(row * len(columns) + column, np.stack(points, axis=-1), rows[row] * columns[column])


def wanted(model: Model, bands: Array, origin: tuple[int, int], positions: Positions) -> Mask:
    """Return which positions (N,) lie in a pixel with valid input; ``origin`` is the first pixel of the bands (band, y, x)."""
    return valid_pixels(model.spec, bands)[positions.pixels(origin)].ravel()


def blend(
    model: Model,
    bands: Array,
    origin: tuple[int, int],
    plan: Plan,
    positions: Positions,
    mask: Mask,
    run: Run,
    batch_size: int | None = None,
) -> Array:
    """Answer at positions from imagery: the average of the windows around them, by their weights.

    Parameters
    ----------
    bands : array
        Raw bands (band, y, x) in the order of the specification, with all the windows that are needed.
    origin : (int, int)
        Row and column of the bands' first pixel in the dataset.
    plan : Plan
        The windows over the dataset.
    positions : Positions
        Where to answer.
    mask : array
        (N,) which of the positions are wanted; a window is asked only there, and only where it has weight.
    run : Run
        The device.
    batch_size : int, optional
        Windows encoded at once.

    Returns
    -------
    array
        (output, N), NaN where not wanted.
    """

    def ask(windows: Sequence[tuple[int, int]]) -> list[tuple[Share, Array]]:
        shares = [positions.share(plan, window, mask) for window in windows]
        crops = [_scaled(model, bands, plan, (row - origin[0], column - origin[1])) for row, column in windows]
        answers = answer(model.network, model.spec, crops, [share.points for share in shares], run)
        return list(zip(shares, answers, strict=True))

    total = np.zeros((len(mask), sum(task.outputs for task in model.spec.tasks)), dtype=run.dtype)
    weights = np.zeros((len(mask), 1), dtype=run.dtype)
    windows = [window for window in plan.windows(*positions.extent) if len(positions.share(plan, window, mask).at)]
    for batch in in_batches(ask, windows, batch_size, run.device):
        for share, answers in batch:
            weight = share.weight[:, None].astype(run.dtype)
            total[share.at] += answers * weight
            weights[share.at] += weight
    # Nobody answered where nobody asked: 0/0 is nodata.
    with np.errstate(invalid="ignore"):
        return np.divide(total, weights, out=total).T


def _scaled(model: Model, bands: Array, plan: Plan, corner: tuple[int, int]) -> dict[str, Array]:
    """Cut a window by its first pixel in the bands, and scale it; where the dataset is smaller, it is padded with 0."""
    row, column = corner
    inputs = model.scaling.apply(model.spec, bands[:, row : row + plan.y.size, column : column + plan.x.size])
    missing = (plan.y.spec.size - plan.y.size, plan.x.spec.size - plan.x.size)
    if not any(missing):
        return inputs
    return {name: np.pad(values, ((0, 0), (0, missing[0]), (0, missing[1]))) for name, values in inputs.items()}


def from_location(model: Model, geobox: GeoBox, positions: Positions, mask: Mask, run: Run) -> Array:
    """Answer at positions of a grid from their locations alone: (output, N), NaN where not wanted."""
    assert model.spec.location is not None, "the model has no location branch"
    rows, columns = positions.every()
    out = np.full((sum(task.outputs for task in model.spec.tasks), len(mask)), np.nan, dtype=run.dtype)
    if mask.any():
        scaled = locations(geobox, rows[mask], columns[mask], model.spec.location)
        out[:, mask] = locate(model.network, model.spec, scaled, run).T
    return out
