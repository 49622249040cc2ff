"""Which windows cover an extent, which of them a block needs, and how they are weighted: a pure plan on integers."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from misoxr.spec import WindowSpec

__all__ = ["Axis", "Plan", "plan"]

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

    def meeting(self, start: int, stop: int) -> tuple[int, ...]:
        """Return the starts of windows that meet pixels ``start`` to ``stop`` (exclusive)."""
        return tuple(s for s in self.starts if s < stop and s + self.size > start)

    def halo(self, start: int, stop: int) -> tuple[int, int]:
        """Return the extent (first, last + 1) of all windows that meet pixels ``start`` to ``stop``."""
        starts = self.meeting(start, stop)
        return starts[0], starts[-1] + self.size

    def weight(self, start: int, position: npt.ArrayLike) -> Floats:
        """Return the weight of the window at ``start`` at fractional pixel positions (a centre at +0.5).

        The ramps fall to 0 at the window's borders, except at the dataset's own edge, where the weight stays up.
        """
        inside = np.asarray(position, dtype="float64") - start
        if self.spec.taper == "gaussian":
            centres = np.arange(self.spec.size) + 0.5
            return np.asarray(np.interp(inside, centres, _gaussian(self.spec.size)), dtype="float64")
        ramp = min(self.spec.size - self.spec.stride, self.spec.size / 2)
        rise = np.ones_like(inside) if start == 0 else inside / ramp
        fall = np.ones_like(inside) if start + self.size == self.length else (self.size - inside) / ramp
        linear = np.clip(np.minimum(rise, fall), 0.0, 1.0)
        return linear if self.spec.taper == "linear" else np.sin(np.pi / 2 * linear) ** 2


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

    def windows(self, rows: tuple[int, int], columns: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """Yield (row, column) of the first pixel of each window that meets the block ``rows`` x ``columns``."""
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
