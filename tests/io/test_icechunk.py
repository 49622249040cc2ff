"""Maps in an Icechunk repository: one commit a batch, and only whole commits count."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from zarr.storage import MemoryStore

from misoxr.errors import AssetError, MisoxrWarning, StoreError
from misoxr.io import icechunk as repository
from misoxr.io.layout import open_maps
from misoxr.io.zarr import to_zarr
from misoxr.mapping.predict import predict
from misoxr.spec import SENTINEL2
from tests.conftest import make_cube, make_model, tiny_spec
from tests.io.test_zarr import BROKEN, broken, positions, rows, wait_for
from tests.writer import BLOCKS, noted, slow_cube, slow_map

icechunk = pytest.importorskip("icechunk")
ROOT = Path(__file__).resolve().parents[2]
BATCH = 8


@pytest.fixture
def repo():
    return icechunk.Repository.create(icechunk.in_memory_storage())


@pytest.fixture
def batches(monkeypatch):
    """Small batches, of one thread's blocks."""
    monkeypatch.setattr(repository, "AT_ONCE", BATCH)
    with dask.config.set(num_workers=2):
        yield


def on_disk(path: Path):
    return icechunk.Repository.open_or_create(icechunk.local_filesystem_storage(str(path)))


def messages(repo, branch: str = "main") -> list[str]:
    return [snapshot.message for snapshot in repo.ancestry(branch=branch)][::-1]


def recorded(repo, branch: str = "main") -> np.ndarray:
    import zarr

    return zarr.open_array(repo.readonly_session(branch).store, path="progress/blocks", mode="r")[...]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> xr.Dataset:
    """The cube, in a store on disk."""
    path = tmp_path_factory.mktemp("whole")
    to_zarr(slow_cube(path / "log"), path / "cube.zarr", progress=False)
    return open_maps(path / "cube.zarr").load()


def test_a_map_is_that_of_a_path_in_a_commit_a_batch(repo, batches, tmp_path):
    to_zarr(slow_map(tmp_path / "log"), tmp_path / "maps.zarr", progress=False)
    whole = open_maps(tmp_path / "maps.zarr").load()
    to_zarr(slow_map(tmp_path / "log"), repo, progress=False)
    found = open_maps(repo)
    xr.testing.assert_identical(found.load(), whole)
    assert len(messages(repo)) == 1 + 1 + -(-BLOCKS // BATCH)  # the repository's own, the layout, and the batches
    assert [message.rsplit(": ")[-1] for message in messages(repo)[1:]] == [
        "layout of 30 blocks",
        *(f"{done} of 30 blocks" for done in (8, 16, 24, 30)),
    ]
    session = repo.readonly_session("main")
    plain = xr.open_zarr(session.store, consolidated=False)
    np.testing.assert_array_equal(plain.permafrost_probability, whole.permafrost_probability)
    xr.testing.assert_identical(open_maps(session.store).load(), whole)
    to_zarr(slow_map(tmp_path / "again"), repo, progress=False)
    assert noted(tmp_path / "again") == []
    assert repo.lookup_branch("main") == session.snapshot_id


WRITER = """
import sys, dask, icechunk
from pathlib import Path
from misoxr.io import icechunk as repository
from misoxr.io.zarr import to_zarr
from tests.writer import slow_cube
repository.AT_ONCE = 8
dask.config.set(num_workers=2)
repo = icechunk.Repository.open_or_create(icechunk.local_filesystem_storage(sys.argv[1]))
to_zarr(slow_cube(Path(sys.argv[2]), 0.05), repo, progress=False)
"""


def test_a_killed_write_goes_on_from_its_last_commit(whole, batches, tmp_path):
    log = tmp_path / "log"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "repo", log], cwd=ROOT, env=environment)
    wait_for(lambda: len(noted(log)) > BATCH + 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    repo = on_disk(tmp_path / "repo")
    done = recorded(repo).astype(bool)
    assert 0 < done.sum() < BLOCKS
    assert done.sum() % BATCH == 0
    with pytest.warns(MisoxrWarning, match=f"is not finished: {done.sum()} of its blocks"):
        half = open_maps(repo).red
    within = np.kron(done, np.ones((16, 16), bool))
    np.testing.assert_array_equal(half.where(within), whole.red.where(within))
    before = len(noted(log))
    to_zarr(slow_cube(log), repo, progress=False)
    assert Counter(block[1:] for block in noted(log)[before:]) == dict.fromkeys(map(tuple, np.argwhere(~done)), 1)
    xr.testing.assert_identical(open_maps(repo).load(), whole)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"batch_size": 2}, r"provenance\.settings\.batch_size was null and is 2"),
        ({"seed": 1}, r"provenance\.model_sha256 was"),
        ({"cube": 1}, r"other input, where a file that was written again counts as another: permafrost\. Call"),
        ({"compact": True}, r"compact was false and is true"),
        ({"resume": False}, "exists, and resume=False"),
    ],
)
def test_another_input_model_or_setting_is_refused_and_said(repo, changes, told):
    spec = tiny_spec()

    def write(seed: int = 0, cube: int = 0, compact: bool = False, resume: bool = True, **settings: object) -> None:
        maps = predict(make_cube((32, 32), spec.bands, seed=cube), make_model(spec, seed), device="cpu", **settings)
        to_zarr(maps[["permafrost"]], repo, progress=False, compact=compact, resume=resume)

    write(resume=False)
    tip = repo.lookup_branch("main")
    with pytest.raises(StoreError, match=f"{told}.*overwrite=True"):
        write(**changes)
    assert repo.lookup_branch("main") == tip
    write()


def test_a_masked_block_is_nodata_and_recorded_and_tried_again(repo, batches, monkeypatch):
    cube = rows(make_cube((24, 24), SENTINEL2[:1]), broken)
    monkeypatch.setitem(BROKEN, "value", True)
    with pytest.raises(AssetError, match="Item 'S2_"):
        to_zarr(cube, repo, progress=False)
    bad = np.zeros((3, 3), int)
    bad[0, 1] = bad[2, 0] = 1
    ended = recorded(repo).sum()  # before the first of them; it is committed, and nothing else is begun
    assert ended < BATCH - 2
    to_zarr(cube, repo, progress=False, on_error="mask")
    np.testing.assert_array_equal(recorded(repo), 1 + bad)
    found = open_maps(repo)
    np.testing.assert_array_equal(np.isnan(found.red), np.kron(bad, np.ones((8, 8))))
    assert json.loads(found.attrs["masked_blocks"]) == [
        {"block": [0, 1], "rows": [0, 8], "columns": [8, 16], "error": "Item 'S2_0', band 'red': its server answers 503."},
        {"block": [2, 0], "rows": [16, 24], "columns": [0, 8], "error": "Item 'S2_2', band 'red': its server answers 503."},
    ]
    monkeypatch.setitem(BROKEN, "value", False)
    to_zarr(cube, repo, progress=False)
    again = open_maps(repo)
    assert "masked_blocks" not in again.attrs
    np.testing.assert_array_equal(again.red, make_cube((24, 24), SENTINEL2[:1]).red)


def test_the_bar_moves_as_blocks_end(repo, monkeypatch):
    seen = positions(monkeypatch)
    with dask.config.set(scheduler="sync"):
        to_zarr(rows(make_cube((24, 24), SENTINEL2[:1]), seen), repo)
    assert seen.found == list(range(9))


def test_compact_is_a_byte(repo):
    spec = tiny_spec()
    maps = predict(make_cube((32, 32), spec.bands), make_model(spec), device="cpu").compute()
    to_zarr(maps, repo, compact=True, progress=False)
    raw = xr.open_zarr(repo.readonly_session("main").store, consolidated=False, mask_and_scale=False)
    assert raw.permafrost_probability.dtype == "uint8"
    np.testing.assert_allclose(open_maps(repo).permafrost_probability, maps.permafrost_probability, atol=0.002)


# Replaced


def test_a_map_is_replaced_when_the_new_one_is_whole_and_stays_in_the_history(repo, batches, monkeypatch):
    old = make_cube((24, 24), SENTINEL2[:2], seed=1)
    to_zarr(old, repo, progress=False)
    tip = repo.lookup_branch("main")
    new = rows(make_cube((24, 24), SENTINEL2[:1]), broken)
    monkeypatch.setitem(BROKEN, "value", True)
    with pytest.raises(AssetError):
        to_zarr(new, repo, progress=False, overwrite=True)
    assert repo.lookup_branch("main") == tip
    begun = messages(repo, "main.new")
    monkeypatch.setitem(BROKEN, "value", False)
    to_zarr(new, repo, progress=False, overwrite=True)
    assert messages(repo)[: len(begun)] == begun
    assert repo.list_branches() == {"main"}
    assert set(open_maps(repo).data_vars) == {"red"}
    np.testing.assert_array_equal(open_maps(repo).red, make_cube((24, 24), SENTINEL2[:1]).red)
    before = repo.readonly_session(snapshot_id=tip)
    np.testing.assert_array_equal(open_maps(before.store)[SENTINEL2[1].name], old[SENTINEL2[1].name])


def test_commits_to_a_map_that_is_being_replaced_are_not_lost(repo, batches, monkeypatch):
    to_zarr(make_cube((24, 24), SENTINEL2[:2]), repo, progress=False)
    new = rows(make_cube((24, 24), SENTINEL2[:1]), broken)
    monkeypatch.setitem(BROKEN, "value", True)
    with pytest.raises(AssetError):
        to_zarr(new, repo, progress=False, overwrite=True)
    monkeypatch.setitem(BROKEN, "value", False)
    commit_beside(repo)
    tip = repo.lookup_branch("main")
    with pytest.raises(StoreError, match=r"Others have committed to the branch main since main\.new was begun"):
        to_zarr(new, repo, progress=False, overwrite=True)
    assert repo.lookup_branch("main") == tip
    repo.delete_branch("main.new")
    to_zarr(new, repo, progress=False, overwrite=True)
    np.testing.assert_array_equal(open_maps(repo).red, make_cube((24, 24), SENTINEL2[:1]).red)


def test_other_data_is_not_written_over(repo):
    commit_beside(repo)
    with pytest.raises(StoreError, match="holds other data in its branch main; .*overwrite=True"):
        to_zarr(make_cube((8, 6), SENTINEL2[:1]), repo, progress=False)


# Shared


def commit_beside(repo) -> None:
    session = repo.writable_session("main")
    xr.Dataset({"slope": ("point", np.arange(3.0))}).to_zarr(session.store, group="beside", zarr_format=3, consolidated=False)
    session.commit("beside")


def test_of_two_writers_of_a_batch_one_is_told_and_nothing_is_lost(whole, batches, tmp_path):
    repo = on_disk(tmp_path / "repo")
    log, errors = tmp_path / "log", []

    def write() -> None:
        try:
            to_zarr(slow_cube(log, 0.02), on_disk(tmp_path / "repo"), progress=False)
        except StoreError as error:
            errors.append(str(error))

    commit_layout(repo, log)  # so that both begin with the same batch
    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(errors) == 1
    # On a disk, whose commits are not atomic, Icechunk now and then finds another's file before it finds a conflict.
    assert "Another writer has committed" in errors[0] or "Object at location" in errors[0]
    assert "All commits stay valid" in errors[0]
    assert recorded(repo).all()
    xr.testing.assert_identical(open_maps(repo).load(), whole)


def commit_layout(repo, log: Path) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repository, "_write", stop)
        with pytest.raises(KeyboardInterrupt):
            to_zarr(slow_cube(log), repo, progress=False)


def test_what_others_commit_beside_is_kept(repo, batches, tmp_path):
    """Another group is committed while a batch is computed."""
    from misoxr.io.icechunk import _commit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            repository, "_commit", lambda *args: (commit_beside(repo) if len(messages(repo)) == 3 else None, _commit(*args))
        )
        to_zarr(slow_cube(tmp_path / "log"), repo, progress=False)
    assert "beside" in messages(repo)
    np.testing.assert_array_equal(
        xr.open_zarr(repo.readonly_session("main").store, group="beside", consolidated=False).slope, [0, 1, 2]
    )
    assert recorded(repo).all()


# Elsewhere


@pytest.mark.parametrize("processes", [True, False])
def test_workers_write_to_forks_that_are_merged(forked, whole, batches, tmp_path, processes):
    distributed = pytest.importorskip("distributed")
    repo = on_disk(tmp_path / "repo")
    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": processes, "dashboard_address": None}
    settings |= {"host": "127.0.0.1"} if processes else {}
    with distributed.LocalCluster(**settings) as cluster, distributed.Client(cluster) as client:
        to_zarr(slow_cube(tmp_path / "log"), repo, client=client, progress=False)
    assert (os.getpid() in {process for process, _, _ in noted(tmp_path / "log")}) is not processes
    assert len(messages(repo)) == 1 + 1 + -(-BLOCKS // BATCH)
    xr.testing.assert_identical(open_maps(repo).load(), whole)


def test_workers_elsewhere_need_the_checkpoint(repo, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    from misoxr.io import staging

    maps = slow_map(tmp_path / "log")
    monkeypatch.setattr(staging, "elsewhere", lambda client: True)
    with (
        distributed.LocalCluster(1, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        monkeypatch.setenv("MISOXR_CACHE", str(tmp_path / "theirs"))
        with pytest.raises(StoreError, match="have no copy of the checkpoint.*MISOXR_CACHE"):
            to_zarr(maps, repo, client=client, progress=False)
    assert len(messages(repo)) == 1


@pytest.mark.parametrize(
    "place", [lambda repo: repo.writable_session("main"), lambda repo: MemoryStore()], ids=["session", "store"]
)
def test_what_is_no_repository_is_refused(repo, place):
    with pytest.raises(StoreError, match=r"give a path, a URL .*, or an icechunk\.Repository"):
        to_zarr(make_cube((8, 6), SENTINEL2[:1]), place(repo), progress=False)
