"""Cutouts on disk: what they hold, that each chunk is read once, and that a full disk is told."""

from collections import namedtuple

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from misoxr.cube import cutouts as module
from misoxr.cube.cutouts import cutouts_of
from misoxr.errors import StoreError


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(3, 40), st.integers(3, 40)),
    chunks=st.tuples(st.integers(2, 20), st.integers(2, 20)),
    side=st.integers(1, 24),
    places=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8),
    at_once=st.sampled_from([1, 500, 2**28]),
)
def test_tiles_hold_what_the_cube_has(shape, chunks, side, places, at_once):
    cube = np.arange(2 * shape[0] * shape[1], dtype="float32").reshape(2, *shape)
    room = np.maximum(0, np.array(shape) - side)
    starts = np.round(np.array(places) * room).astype(int)
    before, module.AT_ONCE = module.AT_ONCE, at_once
    try:
        with cutouts_of(da.from_array(cube, chunks=(2, *chunks)), starts, side) as found:
            assert len(found) == len(starts)
            for cutout, (row, column) in enumerate(starts):
                np.testing.assert_array_equal(found.cut(cutout, 0, 0, side), cube[:, row : row + side, column : column + side])
            path = found.path
    finally:
        module.AT_ONCE = before
    assert not path.exists()


@pytest.mark.parametrize("at_once", [1, 2**28])
def test_every_chunk_is_computed_once(monkeypatch, at_once):
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    calls = []

    def block(block_info=None):
        calls.append(block_info[None]["chunk-location"])
        return np.zeros((1, 20, 20), "float32")

    lazy = da.map_blocks(block, chunks=((1,), (20,) * 3, (20,) * 3), dtype="float32", meta=np.empty((0, 0, 0), "float32"))
    starts = np.random.default_rng(0).integers(0, 60 - 16, (100, 2))
    with cutouts_of(lazy, starts, 16):
        assert len(calls) == len(set(calls)) == 9


def test_a_disk_without_room_is_told_at_once(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage(1, 1, 1000))
    with (
        pytest.raises(StoreError, match=r"0\.0 GB in .*TMPDIR"),
        cutouts_of(da.zeros((2, 50, 50), dtype="float32"), [(0, 0)], 20),
    ):
        pass
