"""Layers of a raster on the disk, block by block, and visits to blocks until none has anything to tell another."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from misoxr.clusters import cores
from misoxr.records.ledger import Block, Ledger
from misoxr.records.writers import put_through

__all__ = ["Blocks", "Visit", "settled"]

Floats = npt.NDArray[np.float64]
Visit = Callable[[Block], npt.NDArray[np.int64]]
"""Does what there is to do in a block, and returns for each of the 9 blocks of 3 x 3 around it how much that is news to."""

WORKERS = 8
"""The most blocks that are visited at the same time: each is in memory."""
FIRST = 1 << 60
"""More than any news: blocks that were not visited yet come first."""


@dataclass(frozen=True)
class Blocks:
    """Layers of a raster as files of float64, one a block, each there whole or not at all.

    Attributes
    ----------
    ledger : Ledger
        The records, in whose directory the layers lie, and by way of which they are written.
    shape : (int, int)
        Rows and columns of the raster.
    side : (int, int)
        Rows and columns of a block; the last ones may have less.
    """

    ledger: Ledger
    shape: tuple[int, int]
    side: tuple[int, int]

    def __iter__(self) -> Iterator[Block]:
        rows, columns = self.counts
        return ((row, column) for row in range(rows) for column in range(columns))

    @property
    def counts(self) -> tuple[int, int]:
        """Number of blocks along y and x."""
        return -(-self.shape[0] // self.side[0]), -(-self.shape[1] // self.side[1])

    def slices(self, block: Block) -> tuple[slice, slice]:
        """Rows and columns of a block."""
        rows, columns = (slice(at * n, min((at + 1) * n, whole)) for at, n, whole in zip(block, self.side, self.shape, strict=True))
        return rows, columns

    def write(self, layer: str, block: Block, values: Floats) -> None:
        """Put a block of a layer on the disk."""
        assert self.ledger.own is not None
        put_through(self.ledger.own, self._file(layer, block), memoryview(np.ascontiguousarray(values)).cast("B"))

    def has(self, layer: str, block: Block) -> bool:
        """Whether a block of a layer is on the disk, whole: a power loss may cut off what was not flushed."""
        try:
            return self._file(layer, block).stat().st_size == 8 * int(np.prod(self._shape(block)))
        except FileNotFoundError:
            return False

    def is_done(self, layer: str) -> bool:
        """Whether nothing is left to do for a layer. Blocks of it that are not whole are removed, and are done again."""
        torn = [block for block in self if not self.has(layer, block)]
        for block in torn:
            self._file(layer, block).unlink(missing_ok=True)
        return not torn and self.ledger.has(f"{layer}.done")

    def set_done(self, layer: str) -> None:
        """Record that nothing is left to do for a layer."""
        self.ledger.create(f"{layer}.done", True, flush=True)

    def window(self, block: Block, rings: int, *layers: str, fill: float = np.nan) -> Floats:
        """Read a block with rings of cells around it: of the first of the layers that has them, else ``fill``, also beyond the raster."""
        spans = [(part.start - rings, part.stop + rings) for part in self.slices(block)]
        out = np.full([stop - start for start, stop in spans], fill)
        meets = [
            range(max(start, 0) // n, (min(stop, whole) - 1) // n + 1)
            for (start, stop), n, whole in zip(spans, self.side, self.shape, strict=True)
        ]
        for other in ((row, column) for row in meets[0] for column in meets[1]):
            layer = next((layer for layer in layers if self._file(layer, other).exists()), None)
            if layer is None:
                continue
            values = np.memmap(self._file(layer, other), np.float64, "r", shape=self._shape(other))
            there, here = [], []
            for part, (start, stop) in zip(self.slices(other), spans, strict=True):
                first, last = max(part.start, start), min(part.stop, stop)
                there.append(slice(first - part.start, last - part.start))
                here.append(slice(first - start, last - start))
            out[tuple(here)] = values[tuple(there)]
        return out

    def _file(self, layer: str, block: Block) -> Path:
        return Path(self.ledger.uri, layer, f"{block[0]}.{block[1]}")

    def _shape(self, block: Block) -> tuple[int, int]:
        rows, columns = self.slices(block)
        return rows.stop - rows.start, columns.stop - columns.start


def settled(blocks: Blocks, visit: Visit, words: str, *, progress: bool) -> int:
    """Visit every block, and again those for which others have news, until there are none; return the number of visits.

    Blocks with the most news come first. No block is visited twice at the same time. A visit that began before another block wrote
    is repeated, because the news come after the writing.
    """
    news = dict.fromkeys(blocks, FIRST)
    running: dict[Future[npt.NDArray[np.int64]], Block] = {}
    visits, workers = 0, max(1, min(cores(), WORKERS))
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(news), desc=words, unit="block", disable=not progress) as bar:
        while news or running:
            while len(running) < workers and (free := news.keys() - set(running.values())):
                block = max(free, key=lambda one: (news[one], (-one[0], -one[1])))
                del news[block]
                running[pool.submit(visit, block)] = block
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                row, column = running.pop(future)
                for at, count in enumerate(_result(future, pool)):
                    other = row + at // 3 - 1, column + at % 3 - 1
                    if count:
                        news[other] = news.get(other, 0) + int(count)
                visits += 1
                bar.total = visits + len(news) + len(running)
                bar.update()
    return visits


def _result(future: "Future[npt.NDArray[np.int64]]", pool: ThreadPoolExecutor) -> Sequence[int]:
    """Return what a visit found; where one failed, begin no more."""
    try:
        return [int(count) for count in future.result()]
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
