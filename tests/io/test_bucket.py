"""Writing to a bucket: a local S3 server, some of whose requests end with 500."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pytest

from misoxr.errors import StoreError
from misoxr.io import blocks
from misoxr.io.layout import open_maps
from misoxr.io.zarr import to_zarr
from misoxr.records.ledger import COMPLETE, Ledger, progress_of
from misoxr.spec import SENTINEL2
from tests.bucket import NAME, bucket, make
from tests.conftest import make_cube
from tests.writer import noted, slow_map

pytest.importorskip("moto")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def served():
    with bucket(rate=0.04) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setitem(fsspec.config.conf, "s3", {"endpoint_url": environment["FSSPEC_S3_ENDPOINT_URL"]})
        make(environment)
        yield environment


def test_a_killed_write_to_a_bucket_goes_on(served, tmp_path):
    """Two processes begin, one is killed, the other finishes, and no block that was recorded is computed again."""
    store, log = f"s3://{NAME}/maps.zarr", tmp_path / "log"
    environment = os.environ | served | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.writer", store, str(log), "0.2", "40"]
    one, other = (subprocess.Popen(command, cwd=ROOT, env=environment) for _ in range(2))
    end = time.monotonic() + 300
    while len(noted(log)) < 4 or len({process for process, _, _ in noted(log)}) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    one.send_signal(signal.SIGKILL)
    one.wait()
    recorded = set(Ledger(progress_of(store)).done())
    assert other.wait(180) == 0
    ledger = Ledger(progress_of(store))
    assert ledger.has(COMPLETE)
    assert sorted(ledger.done()) == list(np.ndindex(2, 6))
    times = Counter(block[1:] for block in noted(log))
    assert all(times[block] == 1 for block in recorded)
    assert max(times.values()) <= 2
    to_zarr(slow_map(log, rows=40), tmp_path / "here.zarr", progress=False)
    here, there = open_maps(tmp_path / "here.zarr"), open_maps(store)
    for name in here.data_vars:
        np.testing.assert_array_equal(there[name], here[name])


def test_of_a_bucket_one_writer_gets_a_block(served):
    ledgers = [Ledger(f"s3://{NAME}/many.progress") for _ in range(4)]
    for ledger in ledgers:
        ledger._begin()
    blocks = list(np.ndindex(2, 3))
    got = [ledger.claim(blocks, 2) for ledger in ledgers]
    assert sorted(block for mine in got for block in mine) == blocks
    assert got[3] == []


def test_a_store_in_a_bucket_is_replaced(served):
    store = f"s3://{NAME}/replaced.zarr"
    one, other = make_cube((20, 20), SENTINEL2[:1]), make_cube((16, 12), SENTINEL2[:2], seed=1)
    to_zarr(one.chunk({"y": 10}), store, progress=False)
    with pytest.raises(StoreError, match="was written with other values"):
        to_zarr(other, store, progress=False)
    to_zarr(other, store, overwrite=True, progress=False)
    found = open_maps(store)
    assert set(found.data_vars) == {band.name for band in SENTINEL2[:2]}
    for band in SENTINEL2[:2]:
        np.testing.assert_array_equal(found[band.name], other[band.name])


def test_plain_xarray_opens_a_finished_store_without_a_warning(served):
    from tests.io.test_storable import cube, plainly

    store = f"s3://{NAME}/plain.zarr"
    codes = (np.arange(48, dtype="uint8") % 3).reshape(8, 6)
    flags = {"flag_values": [0, 1, 2], "flag_meanings": "a b c", "_FillValue": np.uint8(255)}
    to_zarr(cube(k=(codes, flags)), store, progress=False)
    plainly(store, **served)


def test_a_bucket_that_is_not_there(served):
    with pytest.raises(StoreError, match="cannot be written"):
        to_zarr(make_cube((8, 6), SENTINEL2[:1]), "s3://nobody/maps.zarr", progress=False)


@pytest.fixture
def obstore(served, monkeypatch):
    """Addresses of S3 are served by obstore."""
    register = pytest.importorskip("obstore.fsspec").register
    before = fsspec.get_filesystem_class("s3")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    register("s3")
    yield
    fsspec.register_implementation("s3", before, clobber=True)


def test_by_obstore_one_writer_gets_a_block(obstore):
    ledgers = [Ledger(f"s3://{NAME}/obstore.progress") for _ in range(3)]
    for ledger in ledgers:
        ledger._begin()
    blocks = list(np.ndindex(2, 2))
    assert [ledger.claim(blocks, 2) for ledger in ledgers] == [blocks[:2], blocks[2:], []]
    assert ledgers[0].create("once", 1)
    assert not ledgers[1].create("once", 2)
    assert ledgers[1].read("once") == 1


def test_by_obstore_a_store_is_written_and_replaced(obstore):
    store = f"s3://{NAME}/obstore.zarr"
    cube = make_cube((20, 20), SENTINEL2[:1]).chunk({"y": 10})
    to_zarr(cube, store, progress=False)
    with pytest.raises(StoreError, match="was written with other input"):
        to_zarr(cube * 2, store, progress=False)
    to_zarr(cube * 2, store, overwrite=True, progress=False)
    np.testing.assert_array_equal(open_maps(store).red, 2 * cube.red)
    assert Ledger(progress_of(store)).done() == {(0, 0): "written", (1, 0): "written"}


def test_by_obstore_a_bucket_that_is_not_there(obstore):
    with pytest.raises(StoreError, match=r"nobody/maps\.zarr cannot be written"):
        to_zarr(make_cube((8, 6), SENTINEL2[:1]), "s3://nobody/maps.zarr", progress=False)


def test_errors_of_obstore_are_those_of_a_store(tmp_path, monkeypatch):
    """Of a block, and of its record."""
    BaseError = pytest.importorskip("obstore.exceptions").BaseError

    def fail(*_: object) -> None:
        raise BaseError("no answer")

    monkeypatch.setattr(blocks, "_opened", fail)
    with pytest.raises(StoreError, match=r"cannot be written \(no answer\)"):
        blocks._put("s3://nobody/maps.zarr", Ledger("memory://nobody"), np.zeros(1), "red", (slice(1),), False)
    ledger = Ledger(str(tmp_path / "p"))
    monkeypatch.setattr(Ledger, "complete", fail)
    with pytest.raises(StoreError, match="records .* cannot be written: no answer"):
        blocks._record([], ledger, (0, 0))
