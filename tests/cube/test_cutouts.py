"""Cutouts on disk: what they hold, that each chunk is read once, and that a full disk is told."""

import errno
import os
import subprocess
import sys
from collections import namedtuple

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from misoxr.cube import cutouts as module
from misoxr.cube.cutouts import cutouts_of
from misoxr.errors import StoreError
from misoxr.paths import reserve


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
        pytest.raises(StoreError, match=r"MB in .*TMPDIR"),
        cutouts_of(da.zeros((2, 50, 50), dtype="float32"), [(0, 0)], 20),
    ):
        pass


ON_A_SMALL_DISK = """
import os, sys, tempfile
import dask.array as da, numpy as np
from misoxr.cube.cutouts import cutouts_of
tempfile.tempdir = sys.argv[1]
def fill(block):
    with open(f"{sys.argv[1]}/others", "wb", buffering=0) as file:
        try:
            while True: file.write(bytes(1 << 12))
        except OSError: pass
    return block
cube = da.ones((1, 600, 600), chunks=(1, 600, 600), dtype="float32").map_blocks(fill, dtype="float32", meta=np.empty((0, 0, 0), "f4"))
starts = [(0, 0)] * int(sys.argv[2])
with cutouts_of(cube, starts, 500) as found:
    print(float(found.open().sum()))
"""


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 8 MB of its own."""
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("needs the right to mount a disk")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_a_disk_that_fills_while_the_cube_is_read_does_not_end_the_process(small_disk):
    """Room was there when it was looked for, and others take it meanwhile."""
    command = [sys.executable, "-c", ON_A_SMALL_DISK, small_disk, "5"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, f"{5 * 500 * 500:.1f}\n"), run.stderr
    assert [path.name for path in small_disk.iterdir()] == ["others"]


def test_a_disk_without_reservations_is_filled_with_zeros_at_first(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", none)
    reserve(tmp_path / "file", 3 << 20)
    assert (tmp_path / "file").stat().st_blocks * 512 >= 3 << 20


def test_quotas_and_disks_that_others_fill_are_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with (
        pytest.raises(StoreError, match=r"take 0\.0 MB in .*quota.*set TMPDIR to a larger disk"),
        cutouts_of(da.zeros((2, 50, 50), dtype="float32"), [(0, 0)], 20),
    ):
        pass
