"""Cutouts of a lazy cube in a temporary file: each chunk is read once, and the cube is never in memory whole."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.delayed import delayed

from misoxr.clusters import computed
from misoxr.errors import StoreError
from misoxr.grid.windows import Cut, cuts

__all__ = ["Cutouts", "cutouts_of"]

Array = npt.NDArray[np.float32]
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
def cutouts_of(bands: da.Array, starts: npt.ArrayLike, side: int) -> Iterator[Cutouts]:
    """Read cutouts of a lazy cube to a temporary file, which is gone with the context.

    Every chunk that holds a part of a cutout is computed once, in groups whose cutouts fit in little memory.

    Parameters
    ----------
    bands : dask array
        Raw bands (band, y, x), one chunk along band.
    starts : array_like, shape (cutout, 2)
        Row and column of each cutout's first pixel.
    side : int
        Side of a cutout; less where the cube is smaller.

    Raises
    ------
    StoreError
        If the disk has no room for the cutouts.
    """
    height, width = (min(side, length) for length in bands.shape[1:])
    with tempfile.TemporaryDirectory(prefix="misoxr-") as directory:
        cutouts = Cutouts(Path(directory) / "cutouts", np.asarray(starts, dtype="int64"), (bands.shape[0], height, width))
        needed, room = 4 * len(cutouts) * int(np.prod(cutouts.shape)), shutil.disk_usage(directory).free
        if needed > room:
            raise StoreError(
                f"The windows around the points take {needed / 1e9:.1f} GB in {directory}, which has {room / 1e9:.1f} GB left; "
                "set TMPDIR to a larger disk, or use fewer points, bands or unlabelled windows."
            )
        cutouts.path.touch()
        if needed:
            cutouts.open("w+").flush()
            _read(bands, cutouts)
        yield cutouts


def _read(bands: da.Array, cutouts: Cutouts) -> None:
    edges = [np.cumsum([0, *sizes]) for sizes in bands.chunks[1:]]
    wanted: dict[tuple[int, int], list[tuple[int, Cut]]] = {}
    for cutout, (row, column) in enumerate(cutouts.starts.tolist()):
        for place, cut in cuts(edges, (row, column), cutouts.shape[1:]):
            wanted.setdefault(place, []).append((cutout, cut))
    blocks = bands.to_delayed()
    for places in _groups(wanted, bands.shape[0]):
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
