"""Visits to windows of tiles: in the order of a plain definition, with the same work each however many tiles there are."""

import math

import numpy as np
import pytest

from misoxr.covariates import tiles as module
from misoxr.covariates.tiles import BLOCK, FIRST, MOST, Tiles, settled, side_of
from misoxr.records.ledger import Ledger


class Counted(Tiles):
    """Tiles that count how often they are looked at."""

    looks = 0

    def inside(self, window):
        Counted.looks += 1
        return super().inside(window)

    def holding(self, tile):
        Counted.looks += 1
        return super().holding(tile)


def made_up(rows, columns, tmp_path, kind=Tiles):
    return kind(Ledger(str(tmp_path)), (rows * 16, columns * 16 - 5), (16, 16))


def looks_each(side, tmp_path, workers, monkeypatch):
    """Return how many windows and tiles are looked at for each empty visit."""
    monkeypatch.setattr(module, "cores", lambda: workers)
    Counted.looks = 0
    visits = settled(made_up(side, side, tmp_path, Counted), lambda window: np.zeros((4, 4), np.int64), "empty", progress=False)
    assert side**2 / 4 <= visits <= side**2  # each tile once at least, by windows that have some that were not visited
    return Counted.looks / visits


@pytest.mark.parametrize("workers", [1, 4, 8])
def test_a_visit_costs_the_same_among_many_tiles_as_among_few(tmp_path, monkeypatch, workers):
    few, many = (looks_each(side, tmp_path, workers, monkeypatch) for side in (16, 64))
    assert many < 1.5 * few  # the fewest have edges, where less overlaps
    assert many < 300


def visits_of(tiles, seed):
    """Return what visits find: news that get less, the same for the same count of visits of a window."""
    seen = {}

    def visit(window):
        seen[window] = seen.get(window, 0) + 1
        rng = np.random.default_rng([seed, *window, seen[window]])
        found = rng.integers(0, 4, (4, 4)) * (rng.random((4, 4)) < 0.9 / seen[window])
        for row in range(4):
            for column in range(4):
                at = window[0] + row - 1, window[1] + column - 1
                if not (0 <= at[0] < tiles.counts[0] and 0 <= at[1] < tiles.counts[1]) or seen[window] > 5:
                    found[row, column] = 0
        return found

    return visit


def plain_order(tiles, visit):
    """Look at all windows before each visit; the first of those with the most news, and half as much for what was given."""
    news, given, order = dict.fromkeys(tiles, FIRST), {}, []
    height, width = (max(count - 1, 1) for count in tiles.counts)
    windows = [(row, column) for row in range(height) for column in range(width)]
    while news:
        scores = {}
        for window in windows:
            inside = [(window[0] + row, window[1] + column) for row in range(2) for column in range(2)]
            if any(tile in news for tile in inside):
                scores[window] = sum(news.get(tile, 0) + 0.5 * given.get(tile, 0) for tile in inside)
        window = min(scores, key=lambda one: (-scores[one], one))
        inside = {(window[0] + row, window[1] + column) for row in range(2) for column in range(2)}
        for tile in inside:
            news.pop(tile, None)
            given.pop(tile, None)
        order.append(window)
        found = visit(window)
        for row, column in np.argwhere(found):
            tile = window[0] + row - 1, window[1] + column - 1
            of = given if tile in inside else news
            of[tile] = of.get(tile, 0) + float(found[row, column])
    return order


@pytest.mark.parametrize("counts", [(1, 1), (1, 7), (6, 1), (2, 2), (7, 9)])
@pytest.mark.parametrize("seed", [0, 1])
def test_windows_come_in_the_order_of_their_news(tmp_path, monkeypatch, counts, seed):
    monkeypatch.setattr(module, "cores", lambda: 1)
    tiles, order = made_up(*counts, tmp_path), []
    visit = visits_of(tiles, seed)
    visits = settled(tiles, lambda window: order.append(window) or visit(window), "made up", progress=False)
    assert order == plain_order(tiles, visits_of(tiles, seed))
    assert visits == len(order) >= math.ceil(counts[0] / 2) * math.ceil(counts[1] / 2)


def chunks_of(shape, rows, columns):
    return tuple(
        (size,) * (whole // size) + ((whole % size,) if whole % size else ())
        for whole, size in zip(shape, (rows, columns), strict=True)
    )


@pytest.mark.parametrize(
    ("shape", "chunk", "side"),
    [
        ((4096, 4096), (512, 512), (256, 256)),  # few enough: a chunk is 2 x 2 tiles
        ((4096, 4096), (4096, 4096), (2048, 2048)),
        ((150, 190), (1, 190), (16, 95)),
        ((40_960, 40_960), (512, 512), (768, 768)),  # 640 would do; three halves of a chunk
        ((200_000, 200_000), (256, 256), (1024, 1024)),
        ((40_960, 40_960), (1, 40_960), (32, 20_480)),  # rows that are long enough alone
        ((40_960, 40_960), (4096, 4096), (2048, 2048)),
    ],
)
def test_small_chunks_of_a_large_raster_are_joined(shape, chunk, side):
    assert side_of(shape, chunks_of(shape, *chunk)) == side
    count = math.prod(-(-whole // own) for whole, own in zip(shape, side, strict=True))
    assert count <= MOST or math.prod(side) >= (BLOCK // 2) ** 2


def test_a_raster_without_chunks_has_windows_of_a_block():
    assert side_of((10_000, 5_000), None) == (BLOCK // 2, BLOCK // 2)
    assert side_of((10, 5_000), None) == (16, BLOCK // 2)
