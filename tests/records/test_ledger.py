"""Records, leases and masks: they belong to a plan, and of a writer that was taken for dead nothing arrives."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from dask.callbacks import Callback
from fsspec.implementations.memory import MemoryFileSystem

from misoxr.errors import MisoxrWarning, StoreError
from misoxr.io import blocks
from misoxr.io.blocks import Target
from misoxr.io.layout import layout_of, open_maps
from misoxr.io.origins import writable
from misoxr.io.zarr import to_zarr
from misoxr.records import writers
from misoxr.records.ledger import COMPLETE, PLAN, Ledger, progress_of
from misoxr.spec import SENTINEL2
from tests.conftest import make_cube
from tests.elsewhere import served_cube
from tests.writer import noted, slow_cube

ROOT = Path(__file__).resolve().parents[2]
ENDED = "Another process took this one for dead, or replaced its store"


def small(seed: int = 0) -> xr.Dataset:
    return make_cube((24, 24), SENTINEL2[:1], seed=seed).chunk({"y": 8, "x": 8})


def wait_for(condition, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def files_of(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


class Stop(BaseException):
    """Stands for a kill."""


def interrupted(ds: xr.Dataset, store: Path | str, after: int = 3, **options) -> None:
    """Begin a store, and be killed with some blocks written."""
    ended: list[object] = []

    def stop(key, *_):
        if len(ended) == after:
            raise Stop
        if key[0] == "block":
            ended.append(key)

    with pytest.raises(Stop), Callback(pretask=stop):
        to_zarr(ds, store, progress=False, **options)
    assert 0 < len(Ledger(progress_of(f"{store}.new" if options else str(store))).done()) < 9


# Records of another plan


@pytest.mark.parametrize("removal", [1, 12])
def test_records_that_were_half_forgotten_do_not_count(removal, tmp_path):
    """A store was removed. The call that forgets its records is killed within that."""
    store = tmp_path / "cube.zarr"
    to_zarr(small(), store, progress=False)
    shutil.rmtree(store)
    script = f"""
import os, signal
from misoxr.io.zarr import to_zarr
from tests.records.test_ledger import small
left, unlink = [{removal}], os.unlink
def dying(*args, **options):
    if not left[0]: os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    unlink(*args, **options)
os.unlink = os.remove = dying
to_zarr(small(), {str(store)!r}, progress=False)
"""
    killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert killed.returncode == -signal.SIGKILL
    to_zarr(small(), store, progress=False)
    np.testing.assert_array_equal(open_maps(store).red, small().red)


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_records_leases_and_completions_of_another_plan_do_not_count(place, tmp_path):
    store = str(tmp_path / "cube.zarr") if place == "disk" else f"memory://{tmp_path.name}/cube.zarr"
    to_zarr(small(), store, progress=False)
    ledger = Ledger(progress_of(store))
    system, path = ledger._at
    system.rm(store.removeprefix("memory:/"), recursive=True)
    system.rm(f"{path}/{PLAN}")
    interrupted(small(), store)
    assert not ledger.finished()
    with pytest.warns(MisoxrWarning, match="is not finished"):
        assert bool(open_maps(store).red.isnull().any())
    to_zarr(small(), store, progress=False)
    np.testing.assert_array_equal(open_maps(store).red, small().red)
    assert ledger.finished()


def test_a_plan_that_was_lost_is_told(tmp_path):
    store = tmp_path / "cube.zarr"
    interrupted(small(), store)
    before = files_of(store)
    (Path(progress_of(str(store))) / PLAN).unlink()
    with pytest.raises(StoreError, match=r"cube\.zarr\.progress .* are damaged: the plan is not there.*overwrite=True, or remove"):
        to_zarr(small(), store, progress=False)
    assert files_of(store) == before


@pytest.mark.parametrize("content", [b"", b'{"attributes": {}, "blo', b"null", b'["plan"]', b'{"format": 3}', "no edition"])
@pytest.mark.timeout(60)
def test_a_damaged_plan_is_told_and_nothing_is_laid_out_again(content, tmp_path):
    store = tmp_path / "cube.zarr"
    interrupted(small(), store)
    file, before = Path(progress_of(str(store))) / PLAN, files_of(store)
    if isinstance(content, str):
        content = json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != "edition"}).encode()
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"cube\.zarr\.progress .* are damaged: .*overwrite=True, or remove it and the records"):
        to_zarr(small(), store, progress=False)
    assert files_of(store) == before
    with pytest.warns(MisoxrWarning, match="are damaged"):
        open_maps(store)
    to_zarr(small(1), store, overwrite=True, progress=False)
    np.testing.assert_array_equal(open_maps(store).red, small(1).red)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cube.zarr", "cube.zarr.progress"]


def test_a_replacement_whose_plan_is_damaged_is_begun_anew(tmp_path):
    store = tmp_path / "cube.zarr"
    to_zarr(small(), store, progress=False)
    interrupted(small(1), store, overwrite=True)
    Path(f"{store}.new.progress", PLAN).write_bytes(b"")
    to_zarr(small(1), store, overwrite=True, progress=False)
    np.testing.assert_array_equal(open_maps(store).red, small(1).red)


def test_of_two_records_of_a_block_data_win(tmp_path):
    """A process was killed between the record of data and the removal of the mask's."""
    ledger = Ledger(str(tmp_path), edition="one")
    with ledger.alive():
        ledger.complete((0, 0), "the server fails")
        ledger.complete((0, 1), "the server fails")
        (tmp_path / "blocks/one/0.0.written").write_text("")
        ledger.complete((0, 1))
        ledger.complete((0, 1), "the server fails")
    assert ledger.done() == {(0, 0): "written", (0, 1): "written"}
    assert ledger.masked() == {}


def test_a_layout_that_was_killed_before_its_plan_goes_on(tmp_path, monkeypatch):
    create = Ledger.create

    def killed(ledger, name, content, **options):
        if name == PLAN:
            raise Stop
        return create(ledger, name, content, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "create", killed)
        with pytest.raises(Stop):
            to_zarr(small(), tmp_path / "cube.zarr", progress=False)
    with pytest.raises(StoreError, match="cannot be written"):
        to_zarr(small().astype("float64"), tmp_path / "cube.zarr", progress=False)
    to_zarr(small(), tmp_path / "cube.zarr", progress=False)
    np.testing.assert_array_equal(open_maps(tmp_path / "cube.zarr").red, small().red)


def test_what_a_record_tells_of_is_on_the_disk_before_it_has_a_name(tmp_path, monkeypatch):
    """The real calls, in their order."""
    flushed, named, fsync = set(), {}, os.fsync

    def noted_fsync(descriptor: int) -> None:
        flushed.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def noting(call):
        def name(source, target):
            named[str(target)] = str(source) in flushed
            call(source, target)

        return name

    monkeypatch.setattr(writers.os, "fsync", noted_fsync)
    monkeypatch.setattr(writers.os, "replace", noting(os.replace))
    monkeypatch.setattr(writers.os, "link", noting(os.link))
    store = tmp_path / "cube.zarr"
    to_zarr(small(), store, progress=False)
    assert {str(store / "red/c/0/0"), str(Path(progress_of(str(store))) / PLAN), f"{progress_of(str(store))}/{COMPLETE}"} <= set(
        named
    )
    assert [
        name for name in named if not named[name] and "/writers/" not in name and "/leases/" not in name and "/blocks/" not in name
    ] == []
    assert progress_of(str(store)) in flushed


# Who lives


@contextmanager
def elsewhere(uri: str, monkeypatch, limit: float):
    """A writer on another machine that gives signs of life."""
    ledger, here = Ledger(uri, limit=limit, edition="one"), writers._machine
    monkeypatch.setattr(
        Ledger, "_life", lambda self, life=Ledger._life: life(self) | ({"machine": "elsewhere"} if self is ledger else {})
    )
    with ledger.alive():
        yield ledger
    assert here() != "elsewhere"


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_blocks_of_a_dead_writer_elsewhere_are_taken_over_in_time(place, tmp_path, monkeypatch):
    """Of one on another machine nothing is known but its sign of life, and its clock may be hours off."""
    uri = str(tmp_path / "p") if place == "disk" else f"memory://{tmp_path.name}/p"
    monkeypatch.setattr(Ledger, "current", lambda self: True)
    with elsewhere(uri, monkeypatch, limit=1.5) as gone, Ledger(uri, edition="one").alive():
        here = Ledger(uri, edition="one")
        with here.alive():
            assert gone.claim([(0, 0), (0, 1)], 2) == [(0, 0), (0, 1)]
            end = time.monotonic() + 2.0
            while time.monotonic() < end:  # longer than its limit, but it gives signs
                gone._sign()
                assert here.claim([(0, 0), (0, 1)], 2) == []
                time.sleep(0.05)
            monkeypatch.setattr(Ledger, "_sign", lambda self: None)  # its machine stops
            assert here.claim([(0, 0), (0, 1), (0, 2)], 3) == [(0, 2)]
            taken, end = [], time.monotonic() + 15  # a busy machine looks late
            while len(taken) < 2 and time.monotonic() < end:
                time.sleep(0.2)
                taken += here.claim([(0, 0), (0, 1)], 2)
            assert taken == [(0, 0), (0, 1)]
            with pytest.raises(StoreError, match=ENDED):
                gone.complete((0, 0))
            assert here.done() == {}


def test_signs_of_life_go_on_after_any_error(tmp_path, monkeypatch):
    sign, tried = Ledger._sign, []

    def fail_once(ledger: Ledger) -> None:
        tried.append(time.time())
        if len(tried) == 2:
            raise RuntimeError("no answer")
        sign(ledger)

    monkeypatch.setattr(Ledger, "_sign", fail_once)
    with Ledger(str(tmp_path / "p"), limit=0.1).alive():
        wait_for(lambda: len(tried) > 2, seconds=10)


def test_a_writer_that_is_ended_gives_no_sign_any_more(tmp_path):
    one, other = (Ledger(str(tmp_path / "p"), limit=0.1) for _ in range(2))
    with one.alive(), other.alive():
        other._end(one.owner)
        time.sleep(0.2)
        assert not one.own.exists()
        assert not other._lives(one.owner)


def test_machines_of_one_name_are_told_apart(monkeypatch):
    """By what each machine draws when it starts, and by the container."""
    here = writers._machine()
    assert Path("/proc/sys/kernel/random/boot_id").read_text().strip() in here
    assert str(os.stat("/proc/self/ns/pid").st_ino) in here
    read = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path: "another\n" if path.name == "boot_id" else read(path))
    assert writers._machine() != here


def test_which_processes_run():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    sign = {"pid": process.pid, "born": writers._born(process.pid)}
    assert writers._runs(sign)
    assert not writers._runs(sign | {"born": "1"})  # its number is in use again
    process.kill()
    wait_for(lambda: not writers._runs(sign))  # though nobody has waited for it yet
    process.communicate()
    assert not writers._runs(sign)


def test_the_process_of_another_user_runs(monkeypatch):
    def refuse(*_):
        raise PermissionError

    sign = {"pid": os.getpid(), "born": writers._born(os.getpid())}
    monkeypatch.setattr(writers.os, "kill", refuse)
    assert writers._runs(sign)


# Taken for dead


@pytest.fixture
def started(tmp_path):
    """Starts writers elsewhere, which end with the test."""
    running = []

    def start(store: Path, *, limit: float, on_error: str = "raise") -> subprocess.Popen:
        command = [sys.executable, "-m", "tests.elsewhere", str(store), str(tmp_path / "log"), str(limit), on_error]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        running.append(subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def told(process: subprocess.Popen) -> str:
    """Let a stopped process go on, and return what it says in the end."""
    process.send_signal(signal.SIGCONT)
    return process.communicate(timeout=180)[1]


def test_a_writer_elsewhere_is_not_replaced_while_it_lives_and_writes_no_more_when_it_was(started, tmp_path):
    """It lives, is stopped for longer than its limit, and wakes up in another one's store."""
    store, other = tmp_path / "cube.zarr", slow_cube(tmp_path / "here") * 2
    process = started(store, limit=0.9)
    wait_for(lambda: noted(tmp_path / "log"))
    with pytest.raises(StoreError, match=r"Another process writes to the store .*cube\.zarr, which"):
        to_zarr(other, store, overwrite=True, progress=False)
    with pytest.raises(StoreError, match=r"Another process writes to the store .*cube\.zarr, which"):
        small().miso.to_pyramid(store, overwrite=True, progress=False)
    process.send_signal(signal.SIGSTOP)
    assert process.poll() is None
    to_zarr(other, store, overwrite=True, progress=False)
    before = files_of(store)
    assert ENDED in told(process).splitlines()[-1]
    assert process.returncode == 1
    assert files_of(store) == before
    np.testing.assert_array_equal(open_maps(store).red, other.red)
    ledger = Ledger(progress_of(str(store)))
    assert {record.name for record in Path(ledger.uri, "blocks").iterdir()} == {ledger.plan()["edition"]}


def test_a_mask_that_comes_late_is_not_put_over_data(started, tmp_path):
    """The server of a block went away while the writer slept, and another one wrote the block meanwhile."""
    store, ledger = tmp_path / "cube.zarr", Ledger(progress_of(str(tmp_path / "cube.zarr")))
    process = started(store, limit=0.6, on_error="mask")
    wait_for(lambda: ledger.done())
    process.send_signal(signal.SIGSTOP)
    assert (1, 1) not in ledger.done()
    to_zarr(served_cube(tmp_path / "here"), store, progress=False, on_error="mask")
    assert ledger.done()[1, 1] == "written"
    assert ENDED in told(process).splitlines()[-1]
    found = open_maps(store)
    np.testing.assert_array_equal(found.red, served_cube(tmp_path / "here").red)
    assert "masked_blocks" not in found.attrs
    assert ledger.done() == dict.fromkeys(np.ndindex(5, 6), "written")


ACTIONS = {
    "a chunk": lambda target: blocks._put(target.uri, target.ledger, np.ones((8, 8), "f4"), "red", np.s_[8:16, 8:16], False),
    "nodata": lambda target: blocks.put_nodata(target, (1, 1)),
    "metadata": lambda target: zarr.open_group(writable(target.uri, target.ledger.own), mode="r+").attrs.update(title="late"),
    "a record": lambda target: target.ledger.complete((1, 1)),
    "a mask": lambda target: target.ledger.complete((7, 7), "the server fails"),
    "a lease": lambda target: target.ledger.claim([(7, 7)], 1),
    "a sign of life": lambda target: target.ledger._sign(),
    "the end": lambda target: target.ledger.finish(),
}


STEPS = {"a lease": ["link", "mkdir"], "a sign of life": ["replace"]}


@pytest.mark.parametrize(("action", "moment"), [(name, step) for name in ACTIONS for step in STEPS.get(name, ["replace", "mkdir"])])
def test_nothing_arrives_of_a_writer_that_is_ended_between_its_look_and_its_write(action, moment, tmp_path, monkeypatch):
    """It is stopped just before a step of the file system, for as long as the other one likes."""
    store = tmp_path / "cube.zarr"
    to_zarr(small(), store, progress=False)
    records = Path(progress_of(str(store)))
    ledger, other = (Ledger(str(records), edition=Ledger(str(records)).plan()["edition"]) for _ in range(2))
    place, late = Path if moment in ("rename", "mkdir") else os, []
    step = getattr(place, moment)

    def stopped(*args, **options):
        if not late:
            late.append(args)
            other._end(ledger.owner)
        return step(*args, **options)

    def there() -> dict[str, bytes]:
        return files_of(store) | {name: data for name, data in files_of(records).items() if not name.startswith("writers/")}

    with ledger.alive(), other.alive():
        target = Target(str(store), layout_of(small()), ledger)
        before = there()
        monkeypatch.setattr(place, moment, stopped)
        with pytest.raises(StoreError, match=ENDED):
            ACTIONS[action](target)
        monkeypatch.undo()
        assert late
        assert there() == before
        assert not ledger.own.exists()


# In a bucket


@pytest.fixture
def bucket(tmp_path):
    """A store in a bucket, and a writer that was taken for dead by another."""
    store = f"memory://{tmp_path.name}/cube.zarr"
    to_zarr(small(), store, progress=False)
    edition = Ledger(progress_of(store)).plan()["edition"]
    late, other = (Ledger(progress_of(store), edition=edition) for _ in range(2))
    with late.alive(), other.alive():
        yield Target(store, layout_of(small()), late), other


@pytest.mark.parametrize("action", ["a chunk", "a record", "a mask", "a lease", "a sign of life", "the end", "nodata"])
@pytest.mark.parametrize("how", ["taken for dead", "replaced"])
def test_in_a_bucket_a_writer_looks_before_it_writes(action, how, bucket):
    target, other = bucket
    if how == "taken for dead":
        other._end(target.ledger.owner)
    else:
        target.ledger.edition = "another"
    system = MemoryFileSystem()
    before = {path: system.cat(path) for path in system.find(target.uri.removeprefix("memory:/"))}
    with pytest.raises(StoreError, match=ENDED):
        ACTIONS[action](target)
    assert {path: system.cat(path) for path in system.find(target.uri.removeprefix("memory:/"))} == before


def test_in_a_bucket_nodata_that_came_late_has_the_block_computed_again(bucket, monkeypatch):
    """The writer is stopped between its look and its write, and looks again before the record."""
    target, other = bucket
    put = blocks.put_nodata

    def late(*args):
        put(*args)
        other._end(target.ledger.owner)

    monkeypatch.setattr(blocks, "put_nodata", late)
    with pytest.raises(StoreError, match=ENDED):
        blocks._mask(target, (1, 1), "the server fails")
    assert (1, 1) not in other.done()
    to_zarr(small(), target.uri, progress=False)
    np.testing.assert_array_equal(open_maps(target.uri).red, small().red)
