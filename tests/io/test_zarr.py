"""Writing that is killed, shared and refused: nothing lost, nothing written twice, and the same bytes in the end."""

import hashlib
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from fsspec.implementations.memory import MemoryFileSystem
from tqdm.std import tqdm

import misoxr.io.replace as replace_module
import misoxr.io.zarr as module
from misoxr.errors import AssetError, MisoxrWarning, StoreError
from misoxr.io import blocks
from misoxr.io.layout import layout_of, open_maps
from misoxr.io.zarr import _plan, to_zarr
from misoxr.mapping.predict import predict
from misoxr.model.devices import choose_device
from misoxr.records import bars
from misoxr.records.ledger import COMPLETE, Ledger, progress_of
from misoxr.spec import SENTINEL2
from tests.conftest import make_cube, make_model, tiny_spec
from tests.writer import BLOCKS, noted, slow_map, write

ROOT = Path(__file__).resolve().parents[2]


def bytes_of(store: Path) -> dict[str, str]:
    """Hash of every file of a store."""
    files = (path for path in store.rglob("*") if path.is_file())
    return {str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def start(store: Path, log: Path, pause: float) -> BaseProcess:
    process = get_context("forkserver").Process(target=write, args=(str(store), log, pause))
    process.start()
    return process


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The map, written without interruption."""
    path = tmp_path_factory.mktemp("whole")
    to_zarr(slow_map(path / "log"), path / "maps.zarr", progress=False)
    assert Counter(block[1:] for block in noted(path / "log")) == dict.fromkeys(np.ndindex(5, 6), 1)
    return path / "maps.zarr"


# Killed


def test_a_killed_write_goes_on_to_the_same_bytes(forked, whole, tmp_path):
    """Three kills at moments drawn from a seed; ``benchmarks/kills.py`` tries twenty."""
    rng = random.Random(0)
    store, log = tmp_path / "maps.zarr", tmp_path / "log"
    for kill in range(3):
        before = len(noted(log))
        process = start(store, log, pause=0.05)
        wanted = before + rng.randrange(0, 8)
        wait_for(lambda wanted=wanted: len(noted(log)) > wanted)
        time.sleep(rng.random() * 0.1)
        process.kill()
        process.join()
        assert not Ledger(progress_of(str(store))).has(COMPLETE), f"kill {kill} came too late to try anything"
    recorded = set(Ledger(progress_of(str(store))).done())
    assert 0 < len(recorded) < BLOCKS
    before = len(noted(log))
    to_zarr(slow_map(log), store, progress=False)
    again = [block[1:] for block in noted(log)[before:]]
    assert sorted(again) == sorted(set(np.ndindex(5, 6)) - recorded)
    assert bytes_of(store) == bytes_of(whole)


def test_killed_workers_of_a_cluster_are_made_up_for(forked, whole, tmp_path, monkeypatch):
    """Also for what they held of a cube in memory."""
    monkeypatch.setattr("misoxr.io.blocks.LARGE", 100)
    distributed = pytest.importorskip("distributed")
    store, log = tmp_path / "maps.zarr", tmp_path / "log"
    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None, "host": "127.0.0.1"}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 10}),
        distributed.LocalCluster(**settings) as cluster,
        distributed.Client(cluster) as client,
    ):
        options = {"progress": False, "client": client}
        writing = threading.Thread(target=to_zarr, args=(slow_map(log, 0.1), store), kwargs=options)
        writing.start()
        for count in (3, 12):
            wait_for(lambda count=count: len(noted(log)) > count)
            os.kill(noted(log)[-1][0], signal.SIGKILL)
        writing.join(120)
    assert not writing.is_alive()
    assert len({process for process, _, _ in noted(log)}) > 2
    assert bytes_of(store) == bytes_of(whole)


def test_a_finished_store_is_left_alone(whole, tmp_path):
    before = bytes_of(whole)
    to_zarr(slow_map(tmp_path / "log"), whole, progress=False)
    assert noted(tmp_path / "log") == []
    assert bytes_of(whole) == before


# Shared


def test_two_processes_finish_one_map_and_write_no_block_twice(forked, whole, tmp_path):
    store, log = tmp_path / "maps.zarr", tmp_path / "log"
    both = [start(store, log, pause=0.3) for _ in range(2)]
    for process in both:
        process.join(180)
    assert [process.exitcode for process in both] == [0, 0]
    assert Counter(block[1:] for block in noted(log)) == dict.fromkeys(np.ndindex(5, 6), 1)
    assert {process for process, _, _ in noted(log)} == {process.pid for process in both}
    assert bytes_of(store) == bytes_of(whole)


def test_one_of_many_gets_a_block(tmp_path):
    ledgers = [Ledger(str(tmp_path / "p")) for _ in range(8)]
    blocks = list(np.ndindex(4, 5))
    for ledger in ledgers:
        ledger._begin()
    got: list[list[tuple[int, int]]] = [[] for _ in ledgers]

    def take(at: int) -> None:
        got[at] = ledgers[at].claim(blocks, 20)

    threads = [threading.Thread(target=take, args=(at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(block for mine in got for block in mine) == blocks


def test_a_block_that_was_finished_since_it_was_looked_for_is_not_claimed(tmp_path):
    one, other = (Ledger(str(tmp_path / "p"), edition="one") for _ in range(2))
    with one.alive(), other.alive():
        one.complete((0, 0))
        assert other.claim([(0, 0), (0, 1)], 2) == [(0, 1)]


# The same everywhere


@pytest.mark.parametrize("scheduler", ["threads", "sync"])
def test_every_local_scheduler_gives_the_same_bytes(whole, tmp_path, scheduler):
    with dask.config.set(scheduler=scheduler, num_workers=2):
        to_zarr(slow_map(tmp_path / "log"), tmp_path / "maps.zarr", progress=False)
    assert bytes_of(tmp_path / "maps.zarr") == bytes_of(whole)


def test_processes_give_the_same_bytes(forked, whole, tmp_path):
    with ProcessPoolExecutor(2, get_context("forkserver")) as pool, dask.config.set(scheduler=pool):
        to_zarr(slow_map(tmp_path / "log"), tmp_path / "maps.zarr", progress=False)
    assert os.getpid() not in {process for process, _, _ in noted(tmp_path / "log")}
    assert bytes_of(tmp_path / "maps.zarr") == bytes_of(whole)


# Settings


def rows(ds: xr.Dataset, function, name: str = "red", chunk: int = 8) -> xr.Dataset:
    lazy = da.map_blocks(function, da.from_array(ds[name].values, chunks=chunk), dtype="float32", meta=np.empty((0, 0), "float32"))
    return ds.assign({name: ds[name].copy(data=lazy)})


class Positions:
    """Passes blocks on, and notes where the bar stands when each is computed."""

    def __init__(self) -> None:
        self.bar, self.found = None, []

    def __call__(self, block: np.ndarray) -> np.ndarray:
        self.found.append(self.bar.n)
        return block


def positions(monkeypatch: pytest.MonkeyPatch) -> Positions:
    noted = Positions()

    def bar(**settings: object) -> tqdm:
        noted.bar = tqdm(**settings)
        return noted.bar

    monkeypatch.setattr(bars, "_class", lambda: (bar, sys.stderr))
    return noted


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"batch_size": 2}, r"provenance\.settings\.batch_size was null and is 2"),
        ({"precision": "float64"}, r"provenance\.settings\.precision was \"auto\" and is \"float64\""),
        ({"seed": 1}, r"provenance\.model_sha256 was"),
        ({"cube": 1}, r"other input, where a file that was written again counts as another: permafrost\. Call"),
        ({"compact": True}, r"compact was false and is true"),
    ],
)
def test_another_input_model_or_setting_is_refused_and_said(tmp_path, changes, told):
    spec = tiny_spec()

    def write(seed: int = 0, cube: int = 0, compact: bool = False, **settings: object) -> None:
        maps = predict(make_cube((32, 32), spec.bands, seed=cube), make_model(spec, seed), device="cpu", **settings)
        to_zarr(maps[["permafrost"]], tmp_path / "maps.zarr", progress=False, compact=compact)

    write()
    before = bytes_of(tmp_path / "maps.zarr")
    with pytest.raises(StoreError, match=f"{told}.*overwrite=True"):
        write(**changes)
    assert bytes_of(tmp_path / "maps.zarr") == before
    write()


def test_without_resume_a_store_is_an_error(tmp_path):
    cube = make_cube((8, 6), SENTINEL2[:1])
    to_zarr(cube, tmp_path / "cube.zarr", progress=False, resume=False)
    with pytest.raises(StoreError, match="exists, and resume=False"):
        to_zarr(cube, tmp_path / "cube.zarr", progress=False, resume=False)


def test_records_of_a_store_that_is_gone_do_not_count(tmp_path):
    cube = make_cube((8, 6), SENTINEL2[:1])
    to_zarr(cube, tmp_path / "cube.zarr", progress=False)
    shutil.rmtree(tmp_path / "cube.zarr")
    to_zarr(cube, tmp_path / "cube.zarr", progress=False)
    np.testing.assert_array_equal(open_maps(tmp_path / "cube.zarr").red, cube.red)


def test_records_do_not_speak_for_another_store_of_that_name(tmp_path):
    cube = make_cube((8, 6), SENTINEL2[:1])
    to_zarr(cube, tmp_path / "cube.zarr", progress=False)
    shutil.rmtree(tmp_path / "cube.zarr")
    (cube * 2).to_zarr(tmp_path / "cube.zarr", consolidated=False)
    with pytest.raises(StoreError, match="is not the one that .* records"):
        to_zarr(cube, tmp_path / "cube.zarr", progress=False)


@pytest.mark.parametrize("on_error", ["ignore", None])
def test_on_error_is_one_of_two(tmp_path, on_error):
    with pytest.raises(StoreError, match="use 'raise' or 'mask'"):
        to_zarr(make_cube((8, 6), SENTINEL2[:1]), tmp_path / "cube.zarr", on_error=on_error)


def test_resources_need_a_client(tmp_path):
    with pytest.raises(StoreError, match="there is no client"):
        to_zarr(make_cube((8, 6), SENTINEL2[:1]), tmp_path / "cube.zarr", resources={"GPU": 1})


# Assets that cannot be read


BROKEN = {"value": True}


def broken(block: np.ndarray, block_id: tuple[int, int]) -> np.ndarray:
    if BROKEN["value"] and block_id in ((0, 1), (2, 0)):
        raise AssetError(f"Item 'S2_{block_id[0]}', band 'red': its server answers 503.")
    return block


def test_a_masked_block_is_nodata_and_recorded_and_tried_again(tmp_path):
    cube = make_cube((24, 24), SENTINEL2[:1])
    cube["classes"] = (("y", "x"), np.ones((24, 24), "uint8"), {"_FillValue": np.uint8(255)})
    cube = rows(cube, broken)
    BROKEN["value"] = True
    with pytest.raises(AssetError, match="Item 'S2_"):
        to_zarr(cube, tmp_path / "cube.zarr", progress=False)
    to_zarr(cube, tmp_path / "cube.zarr", progress=False, on_error="mask")
    found = open_maps(tmp_path / "cube.zarr")
    hole = np.zeros((24, 24), bool)
    hole[:8, 8:16] = hole[16:, :8] = True
    np.testing.assert_array_equal(np.isnan(found.red), hole)
    np.testing.assert_array_equal(found.classes == 255, hole)
    assert json.loads(found.attrs["masked_blocks"]) == [
        {"block": [0, 1], "rows": [0, 8], "columns": [8, 16], "error": "Item 'S2_0', band 'red': its server answers 503."},
        {"block": [2, 0], "rows": [16, 24], "columns": [0, 8], "error": "Item 'S2_2', band 'red': its server answers 503."},
    ]
    BROKEN["value"] = False
    to_zarr(cube, tmp_path / "cube.zarr", progress=False)
    again = open_maps(tmp_path / "cube.zarr")
    assert "masked_blocks" not in again.attrs
    np.testing.assert_array_equal(again.red, make_cube((24, 24), SENTINEL2[:1]).red)


@pytest.mark.parametrize("scheduler", ["threads", "sync"])
def test_a_block_that_cannot_be_read_ends_a_write_soon_and_stops_no_other_when_masked(tmp_path, scheduler):
    """Of 64 blocks that are claimed at once."""
    begun, most, now, lock = Counter(), [0], [0], threading.Lock()

    def read(block: np.ndarray, block_id: tuple[int, int]) -> np.ndarray:
        with lock:
            first = not begun
            begun[block_id] += 1
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        with lock:
            now[0] -= 1
        if first:
            raise AssetError("Item 'S2_0', band 'red': its server answers 503.")
        return block

    def cube() -> xr.Dataset:
        begun.clear()
        return rows(make_cube((64, 64), SENTINEL2[:1]), read)

    with dask.config.set(scheduler=scheduler, num_workers=2):
        with pytest.raises(AssetError, match="503"):
            to_zarr(cube(), tmp_path / "raised.zarr", progress=False)
        time.sleep(0.1)
        assert sum(begun.values()) < 10
        most[0] = 0
        to_zarr(cube(), tmp_path / "masked.zarr", progress=False, on_error="mask")
    assert begun == dict.fromkeys(np.ndindex(8, 8), 1)
    assert most[0] == (2 if scheduler == "threads" else 1)
    assert len(json.loads(open_maps(tmp_path / "masked.zarr").attrs["masked_blocks"])) == 1


def test_the_bar_moves_as_blocks_end(tmp_path, monkeypatch):
    seen = positions(monkeypatch)
    with dask.config.set(scheduler="sync"):
        to_zarr(rows(make_cube((24, 24), SENTINEL2[:1]), seen), tmp_path / "cube.zarr")
    assert seen.found == list(range(9))


def test_what_has_no_nodata_cannot_be_masked(tmp_path):
    cube = make_cube((24, 24), SENTINEL2[:1])
    cube["count"] = (("y", "x"), np.ones((24, 24), "int16"))
    BROKEN["value"] = True
    with pytest.raises(StoreError, match="'count' .int16. has no _FillValue"):
        to_zarr(rows(cube, broken), tmp_path / "cube.zarr", progress=False, on_error="mask")
    assert not list(tmp_path.iterdir())


# In the place of another store


class Killed(BaseException):
    """Stands for a kill."""


@pytest.fixture
def pair(tmp_path):
    """A store, what it holds, and what is to replace it."""
    before, after = (make_cube((24, 24), SENTINEL2[:1], seed=seed).chunk({"y": 8, "x": 8}) for seed in (0, 1))
    to_zarr(before, tmp_path / "cube.zarr", progress=False)
    return str(tmp_path / "cube.zarr"), before, after


def same(store: str, ds: xr.Dataset) -> bool:
    return bool((open_maps(store).red == ds.red).all())


@pytest.mark.parametrize("again", ["the same call", "without overwrite"])
@pytest.mark.parametrize("moment", ["the old one is gone", "store, before", "store, after", "records, before", "records, after"])
def test_a_replacement_killed_on_its_way_arrives(pair, monkeypatch, moment, again):
    store, _, after = pair
    what, _, when = moment.partition(", ")
    create, name = Ledger.create, "_move_records" if what == "records" else "move"
    move = getattr(replace_module, name)

    def killed_create(ledger, name, content, **options):
        if name == replace_module.MOVING and what == "the old one is gone":
            raise Killed
        return create(ledger, name, content, **options)

    def killed_move(system, source, target):
        if when == "before":
            raise Killed
        move(system, source, target)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "create", killed_create)
        if what != "the old one is gone":
            patch.setattr(replace_module, name, killed_move)
        with pytest.raises(Killed):
            to_zarr(after, store, overwrite=True, progress=False)
    to_zarr(after, store, overwrite=again == "the same call", progress=False)
    assert same(store, after)
    assert sorted(path.name for path in Path(store).parent.iterdir()) == ["cube.zarr", "cube.zarr.progress"]


@pytest.mark.parametrize("last", [0, 5, 16, 17, 26, 27, 28])
def test_a_replacement_killed_between_two_objects_arrives(monkeypatch, last):
    """In a bucket objects move one by one; nobody else takes over meanwhile."""
    before, after = (make_cube((24, 24), SENTINEL2[:1], seed=seed).chunk({"y": 8, "x": 8}) for seed in (0, 1))
    store = f"memory://replaced-{last}.zarr"
    to_zarr(before, store, progress=False)
    mv, moved = MemoryFileSystem.mv, []

    def killed_mv(system, source, target, **options):
        second = Ledger(progress_of(f"{store}.new"))
        assert not second.take("place")
        if len(moved) == last:
            raise Killed
        moved.append(source)
        mv(system, source, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "mv", killed_mv)
        with pytest.raises(Killed):
            to_zarr(after, store, overwrite=True, progress=False)
    to_zarr(after, store, progress=False)
    assert same(store, after)
    system = MemoryFileSystem()
    assert not system.find(f"/replaced-{last}.zarr.new")
    assert Ledger(progress_of(store)).done() == dict.fromkeys(np.ndindex(3, 3), "written")


def test_a_bucket_s_store_is_replaced_by_maps_of_other_chunks_and_types():
    """All are written to one address, in one process."""
    store = "memory://replaced-again.zarr"
    for side, kind in ((8, "f4"), (12, "f8"), (6, "f4")):
        after = make_cube((24, 24), SENTINEL2[:1], seed=side).astype(kind).chunk({"y": side, "x": side})
        to_zarr(after, store, overwrite=True, progress=False)
        found = open_maps(store).red
        assert found.dtype == kind
        assert found.chunks[0][0] % side == 0
        np.testing.assert_array_equal(found, after.red)


def test_of_two_that_replace_a_store_one_moves_it(pair, monkeypatch):
    """A second writer of the same map comes to its end while the first one moves it."""
    store, _, after = pair
    move, waited = replace_module.move, []

    def slow_move(system, source, target):
        if not waited:
            second = Ledger(progress_of(f"{store}.new"))
            thread = threading.Thread(target=replace_module.put_in_place, args=(store, lambda: waited.append("finished"), second))
            waited.append(thread)
            thread.start()
            thread.join(0.5)
            assert thread.is_alive()
        move(system, source, target)

    monkeypatch.setattr(replace_module, "move", slow_move)
    to_zarr(after, store, overwrite=True, progress=False)
    waited[0].join(30)
    assert len(waited) == 1
    assert same(store, after)


def test_a_store_that_is_being_written_is_not_replaced(pair):
    store, before, after = pair
    with (
        Ledger(progress_of(store)).alive(),
        pytest.raises(StoreError, match="Another process writes to the store .*cube.zarr, which"),
    ):
        to_zarr(after, store, overwrite=True, progress=False)
    assert same(store, before)
    to_zarr(after, store, overwrite=True, progress=False)
    assert same(store, after)


def test_what_lies_where_the_replacement_would_is_left_alone(pair):
    store, before, after = pair
    before.to_zarr(f"{store}.new", consolidated=False)
    with pytest.raises(StoreError, match=r"cube\.zarr\.new exists and was not begun here; move it away"):
        to_zarr(after, store, overwrite=True, progress=False)
    assert (xr.open_zarr(f"{store}.new", consolidated=False).red == before.red).all()


def test_records_without_a_store_are_no_hindrance_to_overwrite(pair):
    store, _, after = pair
    shutil.rmtree(store)
    to_zarr(after, store, overwrite=True, progress=False)
    assert same(store, after)


def test_the_device_of_every_model_counts():
    spec = tiny_spec()
    maps = predict(make_cube((32, 32), spec.bands), [make_model(spec, 0), make_model(spec, 1)])
    models = _plan(layout_of(maps), None, compact=False)["provenance"]["models"]
    assert [one["settings"]["device"] for one in models] == [choose_device("auto").partition(":")[0]] * 2


# As users have them


def test_masked_maps_and_maps_of_plain_xarray_keep_their_codes(tmp_path):
    spec = tiny_spec()
    maps = predict(make_cube((32, 32), spec.bands), make_model(spec), device="cpu").chunk({"y": 16})
    likely = maps.permafrost_probability > float(maps.permafrost_probability.mean())
    to_zarr(maps.where(likely), tmp_path / "masked.zarr", progress=False)
    to_zarr(xr.open_zarr(tmp_path / "masked.zarr", consolidated=False), tmp_path / "again.zarr", progress=False)
    expected = maps.permafrost.where(likely, 255).astype("uint8")
    for name in ("masked", "again"):
        found = open_maps(tmp_path / f"{name}.zarr", codes=True)
        assert found.permafrost.dtype == found.taxonomy.dtype == "uint8"
        np.testing.assert_array_equal(found.permafrost, expected)


def test_bytes_are_read_as_float32(tmp_path):
    spec = tiny_spec()
    maps = predict(make_cube((32, 32), spec.bands), make_model(spec), device="cpu")
    to_zarr(maps, tmp_path / "maps.zarr", compact=True, progress=False)
    ours, plain = open_maps(tmp_path / "maps.zarr"), xr.open_zarr(tmp_path / "maps.zarr", consolidated=False)
    assert ours.permafrost_probability.dtype == ours.taxonomy_probability.dtype == "float32"
    for found in (ours, plain):
        np.testing.assert_allclose(found.permafrost_probability, maps.permafrost_probability, atol=0.002)


def test_with_and_without_a_client_it_is_the_same_map(tmp_path):
    distributed = pytest.importorskip("distributed")
    spec = tiny_spec()
    maps = predict(make_cube((32, 32), spec.bands), make_model(spec)).chunk({"y": 16})
    to_zarr(maps, tmp_path / "maps.zarr", progress=False)
    with distributed.Client(n_workers=1, processes=False, dashboard_address=None) as client:
        to_zarr(maps, tmp_path / "maps.zarr", client=client, progress=False)
    with pytest.raises(StoreError, match="The client is closed"):
        to_zarr(maps, tmp_path / "maps.zarr", client=client, progress=False)
    with pytest.raises(StoreError, match="client is a str; give a distributed.Client"):
        to_zarr(maps, tmp_path / "maps.zarr", client="tcp://127.0.0.1:8786")


def test_a_client_that_is_closed_meanwhile_is_told(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    spec = tiny_spec()
    maps = predict(make_cube((32, 32), spec.bands), make_model(spec)).chunk({"y": 16})
    for name in ("_have_a_worker", "_staged", "write_blocks"):
        with (
            distributed.Client(n_workers=1, processes=False, dashboard_address=None, set_as_default=False) as client,
            monkeypatch.context() as patch,
        ):
            there = getattr(module, name)
            patch.setattr(
                module, name, lambda *arguments, there=there, client=client, **named: client.close() or there(*arguments, **named)
            )
            with pytest.raises(StoreError, match="client was closed before all blocks were written. Start one, and call again"):
                to_zarr(maps, tmp_path / "maps.zarr", client=client, progress=False)
    to_zarr(maps, tmp_path / "maps.zarr", progress=False)
    assert open_maps(tmp_path / "maps.zarr").permafrost.notnull().any()


def test_a_cluster_that_starts_workers_on_demand_writes_and_resumes(tmp_path):
    """It has none when the map is laid out, and which device blocks are computed on is asked of workers."""
    distributed = pytest.importorskip("distributed")
    spec = tiny_spec()
    maps = predict(make_cube((32, 32), spec.bands), make_model(spec)).chunk({"y": 16})
    settings = {"n_workers": 0, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(**settings) as cluster, distributed.Client(cluster) as client:
        cluster.adapt(minimum=0, maximum=1, interval="100ms")
        to_zarr(maps, tmp_path / "maps.zarr", client=client, progress=False)
    assert open_maps(tmp_path / "maps.zarr").permafrost_probability.notnull().all()
    to_zarr(maps, tmp_path / "maps.zarr", progress=False)  # the same map


@pytest.mark.parametrize("address", ["nothing://bucket/maps.zarr", "gs://bucket/maps.zarr"])
def test_an_address_that_nothing_serves(address):
    if address.startswith("gs") and importlib.util.find_spec("gcsfs"):
        pytest.skip("gcsfs serves it")
    cube = make_cube((8, 6), SENTINEL2[:1])
    for call in (lambda: to_zarr(cube, address), lambda: open_maps(address), lambda: cube.miso.to_cog(address)):
        with pytest.raises(StoreError, match=f"The address {address} cannot be used .*install what serves it"):
            call()


def test_what_is_no_place_for_maps(tmp_path):
    cube = make_cube((8, 6), SENTINEL2[:1])
    with pytest.raises(StoreError, match="not opened from a int"):
        open_maps(3)
    with pytest.raises(StoreError, match="The store is a int"):
        cube.miso.to_pyramid(3)
    cube.miso.to_pyramid(tmp_path / "pyramid.zarr", levels=1, progress=False)
    with pytest.raises(StoreError, match=r"pyramid\.zarr is a pyramid; open one of its levels, such as .*pyramid\.zarr/0"):
        open_maps(tmp_path / "pyramid.zarr")
    (tmp_path / "notes").mkdir()
    with pytest.raises(StoreError, match=r"notes exists and was not begun here; give another path\.$"):
        to_zarr(cube, tmp_path / "notes")


# Disks


def test_a_full_disk_is_told_and_what_is_written_stays(tmp_path, monkeypatch):
    """A limit on the size of files stands in for a full disk, in a process of its own."""
    cube = make_cube((64, 64), SENTINEL2[:1])
    to_zarr(cube.chunk({"y": 16, "x": 64}), tmp_path / "whole.zarr", progress=False)
    script = f"""
import resource, signal, numpy as np
from tests.conftest import make_cube
from misoxr.spec import SENTINEL2
from misoxr.io.zarr import to_zarr
import dask.array as da, os
cube = make_cube((64, 64), SENTINEL2[:1]).chunk({{"y": 16, "x": 64}})
full = {{"at": 2}}
class Disk(Exception): pass
def fill(block, block_id):
    if block_id[0] == 2:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return block
import dask
red = cube.red.data.map_blocks(fill, dtype="float32", meta=np.empty((0, 0), "float32"))
with dask.config.set(scheduler="sync"):
    to_zarr(cube.assign(red=cube.red.copy(data=red)), {str(tmp_path / "cube.zarr")!r}, progress=False)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "StoreError" in ended.stderr
    assert "cannot be written" in ended.stderr
    assert "What is written stays valid" in ended.stderr
    with pytest.warns(MisoxrWarning, match="is not finished"):
        found = open_maps(tmp_path / "cube.zarr").red.load()
    done = Ledger(progress_of(str(tmp_path / "cube.zarr"))).done()
    assert done
    for row, _ in done:
        np.testing.assert_array_equal(found[16 * row : 16 * row + 16], cube.red[16 * row : 16 * row + 16])


def test_a_store_that_cannot_be_written_to(tmp_path):
    if os.geteuid() == 0:
        place = Path("/proc/maps.zarr")  # root may write anywhere but here
    else:
        (tmp_path / "closed").mkdir(mode=0o500)
        place = tmp_path / "closed" / "maps.zarr"
    with pytest.raises(StoreError, match=r"maps\.zarr cannot be written"):
        to_zarr(make_cube((8, 6), SENTINEL2[:1]), place, progress=False)


# Compact


def test_compact_is_a_byte_and_hardly_off(tmp_path):
    spec = tiny_spec()
    cube = make_cube((40, 40), spec.bands)
    for name in ("red", "nir"):
        cube[name][3:9, 4:12] = np.nan
    maps = predict(cube, make_model(spec), device="cpu").compute()
    to_zarr(maps, tmp_path / "maps.zarr", compact=True, progress=False)
    raw = zarr.open_group(tmp_path / "maps.zarr", mode="r")
    assert raw["permafrost_probability"].dtype == raw["taxonomy_probability"].dtype == "uint8"
    for found in (open_maps(tmp_path / "maps.zarr"), xr.open_zarr(tmp_path / "maps.zarr", consolidated=False)):
        for name in ("permafrost_probability", "taxonomy_probability"):
            assert np.issubdtype(found[name].dtype, np.floating)
            np.testing.assert_array_equal(np.isnan(found[name]), np.isnan(maps[name]))
            assert float(abs(found[name] - maps[name]).max()) <= 0.002
    assert raw["permafrost"].dtype == "uint8"
    np.testing.assert_array_equal(open_maps(tmp_path / "maps.zarr", codes=True).taxonomy, maps.taxonomy)


# Shards and graphs


def test_a_large_block_is_one_shard_of_many_chunks(tmp_path):
    cube = make_cube((1500, 2048), SENTINEL2[:1]).chunk({"y": 1024, "x": 1024})
    to_zarr(cube, tmp_path / "cube.zarr", progress=False)
    array = zarr.open_group(tmp_path / "cube.zarr", mode="r")["red"]
    assert array.chunks == (512, 512)
    assert array.shards == (1024, 1024)
    np.testing.assert_array_equal(open_maps(tmp_path / "cube.zarr").red, cube.red)


def test_graphs_stay_below_their_bound(tmp_path, monkeypatch):
    sizes: list[int] = []
    get = blocks.dask.threaded.get
    monkeypatch.setattr(blocks, "TASKS", 200)
    monkeypatch.setattr(blocks.dask.threaded, "get", lambda tasks, keys: (sizes.append(len(tasks)), get(tasks, keys)))
    to_zarr(slow_map(tmp_path / "log"), tmp_path / "maps.zarr", progress=False)
    assert 0 < max(sizes) <= 200
    assert len(sizes) > 3


def test_records_are_read_by_people(whole):
    plan = json.loads((Path(progress_of(str(whole))) / "plan.json").read_text())
    assert plan["provenance"]["settings"]["device"] == "cpu"
    assert plan["version"]
    record = json.loads((Path(progress_of(str(whole))) / "blocks" / plan["edition"] / "0.0.written").read_text())
    assert record["edition"] == plan["edition"]
    assert plan["edition"].startswith(plan["fingerprint"][:16])


# Workers elsewhere


def test_workers_without_the_clients_files_fetch_the_model_once_a_host(forked, whole, tmp_path, monkeypatch):
    """Workers with a cache of their own stand for another machine; the client's path of the model does not exist there."""
    distributed = pytest.importorskip("distributed")
    from misoxr.io import staging
    from misoxr.model.checkpoint import Address, Model, cached_at

    monkeypatch.setattr(staging, "elsewhere", lambda client: True)
    address = Model.address
    monkeypatch.setattr(Model, "address", lambda model: Address("/nowhere/model.safetensors", address(model).sha256))
    maps = slow_map(tmp_path / "log")
    sha256 = maps.attrs["model_sha256"]
    theirs = {"MISOXR_CACHE": str(tmp_path / "theirs")}
    settings = {
        "env": theirs,
        "n_workers": 2,
        "threads_per_worker": 1,
        "processes": True,
        "dashboard_address": None,
        "host": "127.0.0.1",
    }
    with distributed.LocalCluster(**settings) as cluster, distributed.Client(cluster) as client:
        monkeypatch.undo()
        monkeypatch.setattr(staging, "elsewhere", lambda client: True)
        assert cached_at(sha256).exists()
        to_zarr(maps, tmp_path / "maps.zarr", client=client, progress=False)
    assert (tmp_path / "theirs" / "models" / f"{sha256}.safetensors").exists()
    assert bytes_of(tmp_path / "maps.zarr") == bytes_of(whole)


def test_hosts_that_join_fetch_the_model_from_the_store_that_is_written(tmp_path, monkeypatch):
    """A worker with another cache stands for a host that joins; the first store's records are gone by then."""
    distributed = pytest.importorskip("distributed")
    from misoxr.io.staging import staged
    from misoxr.model.checkpoint import cached_at

    monkeypatch.setenv("MISOXR_CACHE", str(tmp_path / "ours"))
    sha256 = hashlib.sha256(b"a model").hexdigest()
    cached_at(sha256).parent.mkdir(parents=True)
    cached_at(sha256).write_bytes(b"a model")
    settings = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(**settings) as cluster, distributed.Client(cluster) as client:
        before = set(cluster.scheduler.worker_plugins)
        with staged(client, str(tmp_path / "one.progress"), [sha256]):
            assert set(cluster.scheduler.worker_plugins) != before
        shutil.rmtree(tmp_path / "one.progress")
        with staged(client, str(tmp_path / "other.progress"), [sha256]):
            monkeypatch.setenv("MISOXR_CACHE", str(tmp_path / "theirs"))
            cluster.scale(2)
            client.wait_for_workers(2, timeout=30)
            assert cached_at(sha256).read_bytes() == b"a model"
        assert set(cluster.scheduler.worker_plugins) == before


def test_a_staged_model_is_checked_by_its_hash(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    from misoxr.errors import CheckpointError
    from misoxr.io.staging import keep

    monkeypatch.setenv("MISOXR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="has changed"):
        keep(str(tmp_path / "model"), "0" * 64)


def test_variables_that_share_their_data_are_all_written(tmp_path):
    """Their chunks have the same keys."""
    cube = make_cube((16, 16), SENTINEL2[:1]).chunk({"y": 8})
    to_zarr(cube.assign(other=cube.red), tmp_path / "cube.zarr", progress=False)
    for name in ("red", "other"):
        np.testing.assert_array_equal(open_maps(tmp_path / "cube.zarr")[name], cube.red)


def test_the_memory_of_this_process_is_not_written_from_others(no_compute):
    maps = make_cube((8, 6), SENTINEL2[:1])[["red"]].chunk({"y": 4})
    with (
        no_compute(),
        dask.config.set(scheduler="processes"),
        pytest.raises(StoreError, match="lies in the memory of this process"),
    ):
        to_zarr(maps, "memory://elsewhere/maps.zarr", progress=False)
