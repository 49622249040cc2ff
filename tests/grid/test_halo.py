"""Chunks with a halo: what Dask's overlap gives, and no task that was not asked for."""

import time

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from misoxr.grid.halo import part_of, with_halo


def sizes(least: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(least, 9), min_size=1, max_size=4).map(tuple)


@settings(max_examples=60, deadline=None)
@given(y=sizes(3), x=sizes(2), down=st.integers(0, 3), across=st.integers(0, 2), bands=st.integers(1, 2))
def test_it_is_what_overlap_gives(y, x, down, across, bands):
    shape = (bands, sum(y), sum(x))
    array = da.from_array(np.arange(np.prod(shape)).reshape(shape), chunks=(bands, y, x)) + 1
    expected = da.overlap.overlap(array, depth={0: 0, 1: down, 2: across}, boundary="none")
    found = with_halo(array, {1: down, 2: across})
    assert found.chunks == expected.chunks
    doubled = (found * 2).map_blocks(lambda block: block + 1)  # layers that fuse with it
    with dask.config.set(scheduler="sync"):
        np.testing.assert_array_equal(doubled, expected * 2 + 1)
        np.testing.assert_array_equal(found.blocks[0, -1, -1], expected.blocks[0, -1, -1])


def test_a_chunk_of_a_huge_array_is_a_handful_of_tasks():
    array = da.ones((1, 240_000, 370_000), chunks=(1, 1024, 1024), dtype="float32")
    start = time.process_time()
    found = with_halo(array, {1: 200, 2: 200}) * 2
    (one,) = dask.optimize(found.blocks[0, 100, 200])
    assert len(dict(one.__dask_graph__())) < 30
    assert time.process_time() - start < 20  # da.overlap takes minutes of it
    assert one.compute(scheduler="sync").shape == (1, 1424, 1424)


def test_a_cluster_gives_the_same():
    distributed = pytest.importorskip("distributed")
    array = da.random.default_rng(0).random((2, 30, 40), chunks=(2, 10, 10)).astype("float32")
    found = with_halo(array, {1: 3, 2: 4}) * 2
    expected = found.compute(scheduler="sync")
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None):
        np.testing.assert_array_equal(found.compute(), expected)


@pytest.mark.parametrize(("part", "held"), [(0, False), (slice(1, 3), False), (slice(1, 6), True)])
def test_a_small_part_does_not_hold_the_whole_block_and_a_large_one_is_not_copied(part, held):
    block = np.random.default_rng(0).random((6, 4, 5))
    found = part_of(da.from_array(block, chunks=(2, 4, 5)), part)
    np.testing.assert_array_equal(found.compute(), block[part])
    (taken,) = dask.compute(found.to_delayed().ravel()[0])
    assert (taken.base is not None) == held
