"""The plan of windows: which windows cover an extent, which of them a block needs, and their weights."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from misoxr.spec import WindowSpec

__all__ = ["Axis", "Cut", "Plan", "cuts", "plan"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Axis:
    """Windows along one axis of a dataset.

    Attributes
    ----------
    length : int
        Pixels of the dataset along the axis.
    starts : tuple of int
        First pixel of each window, ascending.
    spec : WindowSpec
        Size and taper.
    """

    length: int
    starts: tuple[int, ...]
    spec: WindowSpec

    @property
    def size(self) -> int:
        """Pixels of a window that lie in the dataset: its size, or the dataset's length where that is less."""
        return min(self.spec.size, self.length)

    def support(self, start: int) -> tuple[float, float]:
        """Return between which positions the window at ``start`` has weight.

        Two windows hand over to each other by ramps in the middle of their overlap; a window at the dataset's own edge goes
        up to it.
        """
        low, high = float(start), float(start + self.size)
        if self.spec.taper == "gaussian":
            return low, high
        at = bisect_left(self.starts, start)
        if at > 0:
            low = (start + self.starts[at - 1] + self.size - self._ramp) / 2
        if at + 1 < len(self.starts):
            high = (start + self.starts[at + 1] + self.size + self._ramp) / 2
        return low, high

    @property
    def _ramp(self) -> int:
        return self.spec.size - self.spec.stride if self.spec.ramp is None else self.spec.ramp

    def meeting(self, low: float, high: float) -> tuple[int, ...]:
        """Return the starts of the windows that have weight between two positions."""
        first = max(0, bisect_right(self.starts, low - self.size) - 1)
        last = bisect_left(self.starts, high)
        spans = ((start, self.support(start)) for start in self.starts[first:last])
        return tuple(start for start, span in spans if span[0] < high and span[1] > low)

    def halo(self, low: float, high: float) -> tuple[int, int]:
        """Return the extent (first, last + 1) of all windows that have weight between two positions."""
        starts = self.meeting(low, high)
        return starts[0], starts[-1] + self.size

    def weight(self, start: int, position: npt.ArrayLike) -> Floats:
        """Return the weight of the window at ``start`` at fractional pixel positions (a centre at +0.5).

        It falls to 0 at the ends of the window's support, except at the dataset's own edge, where it stays up.
        """
        position = np.asarray(position, dtype="float64")
        low, high = self.support(start)
        inside = (position >= low) & ((position < high) | ((position == high) & (start == self.starts[-1])))
        if self.spec.taper == "gaussian":
            centres = start + np.arange(self.spec.size) + 0.5
            return np.asarray(np.interp(position, centres, _gaussian(self.spec.size)) * inside)
        if self._ramp == 0:
            return np.asarray(inside, dtype="float64")
        rise = np.ones_like(position) if start == self.starts[0] else (position - low) / self._ramp
        fall = np.ones_like(position) if start == self.starts[-1] else (high - position) / self._ramp
        linear = np.where(inside, np.clip(np.minimum(rise, fall), 0.0, 1.0), 0.0)
        return linear if self.spec.taper == "linear" else np.sin(np.pi / 2 * linear) ** 2


@lru_cache
def _gaussian(size: int) -> Floats:
    """Return one axis of the published window: a centred unit impulse under ``scipy.ndimage.gaussian_filter`` (reflecting)."""
    from scipy.ndimage import gaussian_filter1d

    impulse = np.zeros(size)
    impulse[size // 2] = 1.0
    weights: Floats = gaussian_filter1d(impulse, size / 4)
    return weights


@dataclass(frozen=True)
class Plan:
    """Windows over a dataset: the product of the windows along y and along x."""

    y: Axis
    x: Axis

    def windows(self, rows: tuple[float, float], columns: tuple[float, float]) -> Iterator[tuple[int, int]]:
        """Yield (row, column) of the first pixel of each window that has weight in the block ``rows`` x ``columns``."""
        for row in self.y.meeting(*rows):
            for column in self.x.meeting(*columns):
                yield row, column


def plan(shape: tuple[int, int], spec: WindowSpec, offset: tuple[int, int] = (0, 0)) -> Plan:
    """Plan the windows of a dataset.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the dataset.
    spec : WindowSpec
        Size, stride, taper and anchor.
    offset : (int, int)
        Row and column of the dataset's first pixel on the lattice of the CRS, pixels; not used with ``anchor="dataset"``.

    Returns
    -------
    Plan
        Every window of the lattice that fits inside the dataset, and windows flush with each edge. A dataset smaller than
        a window has one window, at its first pixel.
    """
    starts = []
    for length, first in zip(shape, offset, strict=True):
        room = length - spec.size
        lattice = (-first) % spec.stride if spec.anchor == "crs" else 0
        inner = range(lattice, room + 1, spec.stride) if room > 0 else ()
        starts.append(tuple(sorted({0, max(room, 0), *inner})))
    return Plan(Axis(shape[0], starts[0], spec), Axis(shape[1], starts[1], spec))


class Cut(NamedTuple):
    """The part of a window in a chunk: the window, by its first pixel, and where the part lies in the chunk and in the window."""

    window: tuple[int, int]
    here: tuple[slice, slice]
    there: tuple[slice, slice]


def cuts(
    edges: Sequence[npt.NDArray[Any]], window: tuple[int, int], shape: tuple[int, int]
) -> Iterator[tuple[tuple[int, int], Cut]]:
    """Yield the chunks (row, column) that a window meets, and its part in each.

    Parameters
    ----------
    edges : sequence of array
        First pixel of each chunk, and the end, along y and x.
    window, shape : (int, int)
        The window's first row and column, and its rows and columns.
    """
    spans = []
    for edge, start, length in zip(edges, window, shape, strict=True):
        stop = start + length
        first, last = np.searchsorted(edge, start, side="right") - 1, np.searchsorted(edge, stop, side="left")
        spans.append([(int(k), max(start, edge[k]), min(stop, edge[k + 1]), int(edge[k])) for k in range(first, last)])
    for row, top, bottom, north in spans[0]:
        for column, left, right, west in spans[1]:
            here = slice(top - north, bottom - north), slice(left - west, right - west)
            there = slice(top - window[0], bottom - window[0]), slice(left - window[1], right - window[1])
            yield (row, column), Cut(window, here, there)
