"""Cutouts of a lazy cube in a temporary file: each chunk is read once, and the cube is never in memory whole."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.delayed import delayed

from misoxr.clusters import computed
from misoxr.cube.augment import padded
from misoxr.errors import StoreError
from misoxr.grid.windows import Cut, cuts
from misoxr.paths import reserve, workspace

__all__ = ["Cutouts", "PointCutouts", "cutouts_of", "read_cutouts"]

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

AT_ONCE = 2**26
"""Bytes of cutouts that are in memory at once while a cube is read."""


@dataclass(frozen=True)
class Cutouts:
    """Cutouts of raw bands, all of one shape, in a file that worker processes share.

    Attributes
    ----------
    path : Path
        The file: float32 (cutout, band, row, column).
    starts : array (cutout, 2)
        Row and column of each cutout's first pixel in the cube.
    shape : (int, int, int)
        Bands, rows and columns of a cutout.
    """

    path: Path
    starts: Integers
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.starts)

    def open(self, mode: str = "r") -> "np.memmap[tuple[int, ...], np.dtype[np.float32]]":
        """Map the file. Let the map go soon: as long as it is there, what was read counts as this process's memory."""
        return np.memmap(self.path, np.float32, mode, shape=(len(self), *self.shape))  # type: ignore[call-overload,no-any-return]

    def cut(self, cutout: int, row: int, column: int, size: int) -> Array:
        """Copy the window at a row and column of a cutout: (band, size, size), or what there is of it."""
        window: Array = np.array(self.open()[cutout, :, row : row + size, column : column + size])
        return window


@contextmanager
def cutouts_of(
    bands: da.Array | Sequence[da.Array],
    starts: npt.ArrayLike,
    side: int,
    layers: Integers | None = None,
    *,
    say: Callable[[str], None] | None = None,
) -> Iterator[Cutouts]:
    """Read cutouts of a lazy cube to a temporary file, which is gone with the context.

    Every chunk that holds a part of a cutout is computed once, in groups whose cutouts fit in little memory.

    Parameters
    ----------
    bands : dask array or sequence of these
        Raw bands (band, y, x), one chunk along band; or those of several layers of one grid, such as years.
    starts : array_like, shape (cutout, 2)
        Row and column of each cutout's first pixel.
    side : int
        Side of a cutout; less where the cube is smaller.
    layers : array (cutout,), optional
        The layer of each cutout; the first by default.
    say : callable, optional
        Is told in words how much is read.

    Raises
    ------
    StoreError
        If the disk has no room for the cutouts.
    """
    several = [bands] if isinstance(bands, da.Array) else list(bands)
    count, *lengths = several[0].shape
    height, width = (min(side, length) for length in lengths)
    with workspace() as directory:
        cutouts = Cutouts(directory / "cutouts", np.asarray(starts, dtype="int64"), (count, height, width))
        needed, room = 4 * len(cutouts) * int(np.prod(cutouts.shape)), shutil.disk_usage(directory).free
        try:
            if needed > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            reserve(cutouts.path, needed)
        except OSError as error:
            raise StoreError(
                f"The windows to learn from take {needed / 1e6:,.1f} MB in {directory}, which has {room / 1e6:,.1f} MB left ({error}); "
                "set TMPDIR to a larger disk, or use fewer points, bands or unlabelled windows."
            ) from error
        own = np.zeros(len(cutouts), dtype="int64") if layers is None else layers
        for number in np.unique(own) if needed else ():
            _read(several[number], cutouts, np.flatnonzero(own == number), say)
        yield cutouts


def _read(bands: da.Array, cutouts: Cutouts, chosen: npt.NDArray[np.intp], say: Callable[[str], None] | None) -> None:
    """Read some of the cutouts from the bands of their layer."""
    edges = [np.cumsum([0, *sizes]) for sizes in bands.chunks[1:]]
    wanted: dict[tuple[int, int], list[tuple[int, Cut]]] = {}
    for cutout, (row, column) in zip(chosen.tolist(), cutouts.starts[chosen].tolist(), strict=True):
        for place, cut in cuts(edges, (row, column), cutouts.shape[1:]):
            wanted.setdefault(place, []).append((cutout, cut))
    blocks, done = bands.to_delayed(), 0
    for places in _groups(wanted, bands.shape[0]):
        if say is not None:
            say(f"reading windows, {done} of {len(wanted)} chunks")
        done += len(places)
        cut_tasks = [delayed(partial(_cut, here=[cut.here for _, cut in wanted[at]]), pure=False)(blocks[0, *at]) for at in places]
        parts = computed(*cut_tasks, of=bands)
        file = cutouts.open("r+")
        for place, mine in zip(places, parts, strict=True):
            for (cutout, cut), part in zip(wanted[place], mine, strict=True):
                file[cutout, :, *cut.there] = part
        file.flush()
        del parts, mine, part, file  # or they would be there beside the next ones


def _groups(wanted: dict[tuple[int, int], list[tuple[int, Cut]]], bands: int) -> Iterator[list[tuple[int, int]]]:
    """Gather chunks, row by row, until their parts fill what may be in memory at once."""
    group: list[tuple[int, int]] = []
    filled = 0
    for place in sorted(wanted):
        size = sum(4 * bands * (here[0].stop - here[0].start) * (here[1].stop - here[1].start) for _, (_, here, _) in wanted[place])
        if group and filled + size > AT_ONCE:
            yield group
            group, filled = [], 0
        group.append(place)
        filled += size
    if group:
        yield group


def _cut(block: Array, here: Sequence[tuple[slice, slice]]) -> list[Array]:
    """Copy parts of a chunk: slices would hold all of it until the last of them is used."""
    return [block[:, *part].copy() for part in here]


@dataclass(frozen=True)
class PointCutouts:
    """Cutouts of raw bands that hold every window around the points, and unlabelled ones from anywhere.

    Attributes
    ----------
    file : Cutouts
        Raw bands, up to twice a window's side; those around points first.
    labelled : int
        Number of cutouts around points.
    cutout : array (point,)
        The cutout of each point.
    rows, columns : array (point,)
        Fractional pixel positions in the cube, a centre at +0.5.
    size : int
        Side of a window, pixels.
    layers : array (cutout,)
        The layer of each cutout, such as its year.
    """

    file: Cutouts
    labelled: int
    cutout: Integers
    rows: Floats
    columns: Floats
    size: int
    layers: Integers

    def first(self, cutout: int, centre: tuple[float, float]) -> tuple[int, int]:
        """Return the first pixel, in its cutout, of the window around a position of the cube, as near to it as the cutout has room."""
        row, column = (
            int(np.clip(round(at - origin - self.size / 2), 0, max(0, length - self.size)))
            for at, origin, length in zip(centre, self.file.starts[cutout], self.file.shape[1:], strict=True)
        )
        return row, column

    def window(self, cutout: int, start: tuple[int, int]) -> Array:
        """Cut a window from a cutout: raw bands (band, size, size), NaN beyond a dataset smaller than a window."""
        window = self.file.cut(cutout, *start, self.size)
        return padded(window, self.size)

    def inside(self, candidates: Integers, cutout: int, start: tuple[int, int]) -> tuple[Integers, Floats]:
        """Return which candidates of its layer lie in the window at ``start`` of a cutout, and their x and y in -1..1 of it."""
        row, column = self.file.starts[cutout] + start
        y = (self.rows[candidates] - row) * 2 / self.size - 1
        x = (self.columns[candidates] - column) * 2 / self.size - 1
        inside = (np.abs(y) <= 1) & (np.abs(x) <= 1) & (self.layers[self.cutout[candidates]] == self.layers[cutout])
        return candidates[inside], np.stack([x, y], axis=-1)[inside]

    def values(self) -> Array:
        """Return the raw bands (band, point) of each point's own pixel."""
        cutouts = self.cutout
        inside = (np.stack([self.rows, self.columns]).astype(int).T - self.file.starts[cutouts]).T
        found = [
            self.file.open()[cutout, :, rows, columns]
            for cutout, rows, columns in zip(
                *(np.array_split(part, len(cutouts) // 500 + 1) for part in (cutouts, *inside)), strict=True
            )
        ]
        return np.array(np.concatenate(found).T)

    def squares(self, cutout: int, rows: Integers, columns: Integers, reach: int) -> Array:
        """Cut the square around each of N pixels of the cube from a cutout: raw bands (N, side, side, band), NaN beyond it."""
        bands = np.pad(self.file.open()[cutout], [(0, 0), (reach, reach), (reach, reach)], constant_values=np.nan)
        offset, (row, column) = np.arange(2 * reach + 1), self.file.starts[cutout]
        down, across = (rows - row)[:, None, None] + offset[:, None], (columns - column)[:, None, None] + offset
        return np.ascontiguousarray(np.moveaxis(bands[:, down, across], 0, -1))

    def only(self, mask: npt.NDArray[np.bool_]) -> Self:
        """Return the cutouts of some of the points."""
        return type(self)(self.file, self.labelled, self.cutout[mask], self.rows[mask], self.columns[mask], self.size, self.layers)

    def pixels(self, count: int, rng: np.random.Generator) -> Array:
        """Draw raw pixels (band, pixel) with any valid band from all cutouts, about ``count`` in all."""
        each = max(1, count // len(self.file))
        drawn = []
        for cutout in range(len(self.file)):
            rows, columns = (rng.integers(0, length, each) for length in self.file.shape[1:])
            drawn.append(np.array(self.file.open()[cutout][:, rows, columns]))
        pixels: Array = np.concatenate(drawn, axis=1)
        return pixels[:, np.isfinite(pixels).any(axis=0)]


@contextmanager
def read_cutouts(
    bands: da.Array | Sequence[da.Array],
    rows: npt.ArrayLike,
    columns: npt.ArrayLike,
    size: int,
    *,
    unlabelled: float = 0.0,
    least: int = 0,
    seed: int = 0,
    layer: Integers | None = None,
    say: Callable[[str], None] | None = None,
) -> Iterator[PointCutouts]:
    """Read the cutouts around points, and unlabelled ones from anywhere, to a file that is gone with the context.

    Parameters
    ----------
    bands : dask array or sequence of these
        Raw bands (band, y, x); every chunk is computed at most once. Or those of several layers of one grid.
    rows, columns : array_like (point,)
        Fractional pixel positions.
    size : int
        Side of a window, pixels.
    unlabelled : float, optional
        Number of further cutouts, drawn uniformly from the cube, in proportion to those around points. They are chosen without
        regard to any label.
    least : int, optional
        The least number of these.
    seed : int, optional
        Seed of that draw.
    layer : array (point,), optional
        The layer of each point; the first by default. Cutouts from anywhere are of all layers alike.
    say : callable, optional
        Is told in words how much is read.
    """
    several = [bands] if isinstance(bands, da.Array) else list(bands)
    positions = np.stack([np.asarray(rows, dtype="float64"), np.asarray(columns, dtype="float64")], axis=-1)
    room = np.maximum(0, np.array(several[0].shape[1:]) - 2 * size)
    own = np.zeros(len(positions), dtype="int64") if layer is None else layer
    cells, cutout = np.unique(np.c_[own, (positions // size).astype("int64")], axis=0, return_inverse=True)
    # A point lies in the middle half of its cutout, so a window around it has room to move by a quarter and more.
    starts = np.clip(cells[:, 1:] * size - size // 2, 0, room)
    free = max(round(unlabelled * len(starts)), least)
    rng = np.random.default_rng([seed, 1])
    anywhere = rng.integers(0, room + 1, (free, 2))
    layers = np.concatenate([cells[:, 0], rng.integers(0, len(several), free)])
    with cutouts_of(several, np.concatenate([starts, anywhere]), 2 * size, layers, say=say) as cutouts:
        yield PointCutouts(cutouts, len(starts), cutout.reshape(-1), positions[:, 0], positions[:, 1], size, layers)
