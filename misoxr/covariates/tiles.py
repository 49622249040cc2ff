"""Layers of a raster on the disk, tile by tile, and visits to windows of tiles until none has anything to tell another."""

import heapq
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from misoxr.clusters import cores
from misoxr.grid.halo import BLOCK
from misoxr.records.bars import Bar
from misoxr.records.ledger import Block, Ledger
from misoxr.records.writers import put_through

__all__ = ["Tiles", "Visit", "settled", "side_of"]

Floats = npt.NDArray[np.float64]
Visit = Callable[[Block], npt.NDArray[np.int64]]
"""Does what there is to do in a window, and returns for each of the 4 x 4 tiles in it and around it how much that is news to."""

WORKERS = 8
"""The most windows that are visited at the same time: each is in memory."""
SMALLEST = 16
"""Fewest rows and columns of a tile: windows reach 2 cells into their neighbours."""
MOST = 4096
"""Tiles beyond which a raster gets larger ones, up to windows of ``BLOCK``: each is a file a layer."""
FIRST = 1e12
"""More than any news: tiles that were not visited yet come first."""


@dataclass(frozen=True)
class Tiles:
    """Layers of a raster as files of float64, one a tile, each there whole or not at all.

    A window is 2 x 2 tiles, named by its first one. Windows overlap, so that every border of tiles lies in the middle of one: water
    that runs along a border, and crosses it at every step, is followed in one visit.

    Attributes
    ----------
    ledger : Ledger
        The records, in whose directory the layers lie, and by way of which they are written.
    shape : (int, int)
        Rows and columns of the raster.
    side : (int, int)
        Rows and columns of a tile; the last ones may have less.
    """

    ledger: Ledger
    shape: tuple[int, int]
    side: tuple[int, int]

    @property
    def counts(self) -> tuple[int, int]:
        """Number of tiles along y and x."""
        return -(-self.shape[0] // self.side[0]), -(-self.shape[1] // self.side[1])

    def __iter__(self) -> Iterator[Block]:
        return ((row, column) for row in range(self.counts[0]) for column in range(self.counts[1]))

    def apart(self) -> list[Block]:
        """Return windows that do not overlap, and are the whole raster."""
        return [tile for tile in self if tile[0] % 2 == tile[1] % 2 == 0]

    def holding(self, tile: Block) -> set[Block]:
        """Return the windows that have a tile."""
        rows, columns = (
            {min(max(at - 1, 0), max(n - 2, 0)), min(at, max(n - 2, 0))} for at, n in zip(tile, self.counts, strict=True)
        )
        return {(row, column) for row in rows for column in columns}

    def inside(self, window: Block) -> list[Block]:
        """Return the tiles of a window."""
        rows, columns = (range(at, min(at + 2, n)) for at, n in zip(window, self.counts, strict=True))
        return [(row, column) for row in rows for column in columns]

    def slices(self, window: Block, tiles: int = 2) -> tuple[slice, slice]:
        """Rows and columns of a window, or with ``tiles=1`` of a tile."""
        rows, columns = (
            slice(at * n, min((at + tiles) * n, whole)) for at, n, whole in zip(window, self.side, self.shape, strict=True)
        )
        return rows, columns

    # ---- layers

    def read(self, window: Block, rings: int, *layers: str, fill: float = np.nan) -> Floats:
        """Read a window with rings of cells around it: of the first of the layers that has them, else ``fill``, also beyond the raster."""
        spans = [(part.start - rings, part.stop + rings) for part in self.slices(window)]
        out = np.full([stop - start for start, stop in spans], fill)
        rows, columns = (
            range(max(start, 0) // n, (min(stop, whole) - 1) // n + 1)
            for (start, stop), n, whole in zip(spans, self.side, self.shape, strict=True)
        )
        for tile in ((row, column) for row in rows for column in columns):
            there, here = [], []
            for part, (start, stop) in zip(self.slices(tile, 1), spans, strict=True):
                first, last = max(part.start, start), min(part.stop, stop)
                there.append(slice(first - part.start, last - part.start))
                here.append(slice(first - start, last - start))
            for layer in layers:
                with suppress(FileNotFoundError):
                    out[tuple(here)] = self._part(layer, tile, tuple(there))
                    break
        return out

    def write(self, layer: str, window: Block, values: Floats) -> None:
        """Put a window of a layer on the disk, the tiles that changed."""
        assert self.ledger.own is not None
        for tile in self.inside(window):
            part = tuple(
                slice(own.start - whole.start, own.stop - whole.start)
                for own, whole in zip(self.slices(tile, 1), self.slices(window), strict=True)
            )
            mine = np.ascontiguousarray(values[part])
            with suppress(FileNotFoundError):
                if np.array_equal(self._part(layer, tile, (slice(None),)).view("int64"), mine.view("int64")):
                    continue
            put_through(self.ledger.own, Path(self._file(layer, tile)), mine.data.cast("B"))

    def is_done(self, layer: str) -> bool:
        """Whether nothing is left to do for a layer. Tiles that a power loss cut off are removed, and are done again."""
        torn = [tile for tile in self if not self._is_whole(layer, tile)]
        for tile in torn:
            Path(self._file(layer, tile)).unlink(missing_ok=True)
        return not torn and self.ledger.has(f"{layer}.done")

    def set_done(self, layer: str, told: Any = True) -> None:
        """Record that nothing is left to do for a layer, and what is to be known of it."""
        self.ledger.create(f"{layer}.done", told, flush=True)

    def told(self, layer: str) -> Any:
        """Return what is to be known of a layer; None where something is left to do."""
        return self.ledger.read(f"{layer}.done")

    def forget(self, *layers: str) -> None:
        """Remove layers, and that they are done."""
        self.ledger.clear(*layers)
        self.reopen(*layers)

    def reopen(self, *layers: str) -> None:
        """Record no more that nothing is left to do for layers."""
        self.ledger.clear(*(f"{layer}.done" for layer in layers))

    def _part(self, layer: str, tile: Block, part: tuple[slice, ...]) -> Floats:
        with open(self._file(layer, tile), "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            return np.frombuffer(data).reshape(self._shape(tile))[part].copy()

    def _is_whole(self, layer: str, tile: Block) -> bool:
        try:
            return os.stat(self._file(layer, tile)).st_size == 8 * int(np.prod(self._shape(tile)))
        except FileNotFoundError:
            return False

    def _file(self, layer: str, tile: Block) -> str:
        return f"{self.ledger.uri}/{layer}/{tile[0]}.{tile[1]}"

    def _shape(self, tile: Block) -> tuple[int, int]:
        rows, columns = self.slices(tile, 1)
        return rows.stop - rows.start, columns.stop - columns.start


def side_of(shape: tuple[int, int], chunks: tuple[tuple[int, ...], ...] | None) -> tuple[int, int]:
    """Return rows and columns of a tile: a chunk, or what stands for one, is a window of 2 x 2 tiles.

    Small chunks of a large raster are joined, so that there are about ``MOST`` tiles, or a window has 2048 x 2048 cells. Tiles are joined
    whole, so that windows still begin where chunks do, and each chunk is read once.
    """
    sizes = [max(-(-min(max(one), whole) // 2), SMALLEST) for one, whole in zip(chunks or ((BLOCK,), (BLOCK,)), shape, strict=True)]
    least = min(BLOCK // 2, math.ceil(math.sqrt(math.prod(shape) / MOST)))
    for own, other in ((0, 1), (1, 0)):
        wanted = min(least, -(-(least**2) // sizes[other]))
        sizes[own] *= -(-wanted // sizes[own])
    return sizes[0], sizes[1]


class _Queue:
    """Windows that have news, the one with the most first. What changes is counted again for the windows around it, and for no others."""

    def __init__(self, tiles: Tiles) -> None:
        self.tiles = tiles
        self.news: dict[Block, float] = dict.fromkeys(tiles, FIRST)
        self.given: dict[Block, float] = {}
        self.scores: dict[Block, float] = {}
        self.heap: list[tuple[float, Block]] = []
        self._count(self.news)

    def clear(self, window: Block) -> None:
        """Forget the news of a window, which is visited now."""
        inside = self.tiles.inside(window)
        for tile in inside:
            self.news.pop(tile, None)
            self.given.pop(tile, None)
        self._count(inside)

    def add(self, window: Block, found: npt.NDArray[np.int64]) -> None:
        """Add what a visit of a window found: what it gave, and to whom that is news."""
        inside = self.tiles.inside(window)
        changed = [(window[0] + int(row) - 1, window[1] + int(column) - 1) for row, column in np.argwhere(found)]
        for tile in changed:
            of = self.given if tile in inside else self.news
            of[tile] = of.get(tile, 0) + float(found[tile[0] - window[0] + 1, tile[1] - window[1] + 1])
        self._count(changed)

    def next(self, busy: set[Block]) -> Block | None:
        """Return the first window with none of these tiles. Those that have some are put back: no more than overlap the windows at work."""
        blocked: set[tuple[float, Block]] = set()
        found = None
        while self.heap and found is None:
            entry = heapq.heappop(self.heap)
            if self.scores.get(entry[1]) != -entry[0]:
                continue  # counted again since
            if busy.isdisjoint(self.tiles.inside(entry[1])):
                found = entry[1]
            else:
                blocked.add(entry)
        for entry in blocked:
            heapq.heappush(self.heap, entry)
        return found

    def _count(self, changed: Iterable[Block]) -> None:
        for window in {window for tile in changed for window in self.tiles.holding(tile)}:
            inside = self.tiles.inside(window)
            score = sum(self.news.get(tile, 0.0) + 0.5 * self.given.get(tile, 0.0) for tile in inside)
            if not any(tile in self.news for tile in inside):
                self.scores.pop(window, None)
            elif self.scores.get(window) != score:
                self.scores[window] = score
                heapq.heappush(self.heap, (-score, window))


def settled(tiles: Tiles, visit: Visit, words: str, *, progress: bool) -> int:
    """Visit windows until no tile has news, and return the number of visits.

    The window with the most news comes first, and of those with as many the one that also holds the tiles where they come from: it has the
    border that they cross in its middle. No two windows that overlap are visited at the same time. A visit that began before another one
    wrote is repeated, because news come after the writing.
    """
    queue, whole = _Queue(tiles), math.prod(tiles.counts)
    running: dict[Future[npt.NDArray[np.int64]], Block] = {}
    visits, workers = 0, max(1, min(cores(), WORKERS))
    with ThreadPoolExecutor(workers) as pool, Bar(f"hydrology, {words}", "tiles", shown=progress) as bar:
        while queue.news or running:
            busy = {tile for window in running.values() for tile in tiles.inside(window)}
            window = queue.next(busy) if len(running) < workers else None
            if window is not None:
                queue.clear(window)
                running[pool.submit(visit, window)] = window
                continue
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                window = running.pop(future)
                queue.add(window, _result(future, pool))
                visits += 1
                bar.reach(whole - len(queue.news), whole)
    return visits


def _result(future: "Future[npt.NDArray[np.int64]]", pool: ThreadPoolExecutor) -> npt.NDArray[np.int64]:
    """Return what a visit found; where one failed, begin no more."""
    try:
        return future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
