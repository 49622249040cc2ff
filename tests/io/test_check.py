"""Nothing of a store is lost or changed in silence: check and a second call of to_zarr tell it, and what can be mended is."""

import json
import random
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec

import misoxr
from misoxr.errors import MisoxrWarning, StoreError
from misoxr.io import layout as layout_module
from misoxr.io.check import COMPRESSORS, SUMS
from misoxr.io.layout import open_maps
from misoxr.io.zarr import to_zarr
from misoxr.records.ledger import COMPLETE, Ledger, progress_of
from misoxr.spec import SENTINEL2
from tests.conftest import make_cube

BEFORE = Path(__file__).parents[1] / "data" / "before"
SIDE = 16


def maps(shape: tuple[int, int] = (40, 32)) -> xr.Dataset:
    """Floats, classes and probabilities of 3 x 2 blocks, the last ones smaller; coordinates, a table, provenance; a block of nodata."""
    ds = make_cube(shape, SENTINEL2[:1])
    ds["red"][:SIDE, :SIDE] = np.nan
    codes = (np.arange(ds.red.size, dtype="uint8") % 3).reshape(shape)
    flags = {"flag_values": np.arange(3, dtype="uint8"), "flag_meanings": "a b c", "_FillValue": np.uint8(255)}
    ds["order"] = (("y", "x"), codes, flags)
    ds["p"] = (("taxon", "y", "x"), np.stack([ds.red, ds.red * 0]))
    ds = ds.assign(area=("taxon", [1.0, 2.0]), year=0)
    ds = ds.assign_coords(taxon=["gelisols", "histosols"], far=(("y", "x"), np.arange(ds.red.size, dtype="f4").reshape(shape)))
    ds.attrs = {"title": "a map", "provenance": json.dumps({"model": "m", "seed": 1}), "provenance_sha256": "0"}
    return ds.chunk({"y": SIDE, "x": SIDE})


def record(ledger: Ledger, row: int, column: int) -> str:
    """The record that a block is written."""
    return f"{ledger._name('blocks', (row, column))}.written"


@pytest.fixture(scope="module", params=["chunks", "shards"])
def finished(request, tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout_module, "TILE", SIDE // 2 if request.param == "shards" else 512)
        store = tmp_path_factory.mktemp(request.param) / "maps.zarr"
        to_zarr(maps(), store, progress=False)
    assert bool(zarr.open_group(store, mode="r")["red"].shards) == (request.param == "shards")
    return store


@pytest.fixture
def store(finished, tmp_path) -> Path:
    """A finished store, and its records."""
    for path in (finished, Path(progress_of(str(finished)))):
        shutil.copytree(path, tmp_path / path.name)
    return tmp_path / finished.name


def bytes_of(store: Path) -> dict[str, bytes]:
    """The files of a store, without the words of some versions of Zarr that there are no copies."""
    files = (path for path in sorted(store.rglob("*")) if path.is_file())
    return {str(path.relative_to(store)): path.read_bytes().replace(b'\n  "consolidated_metadata": null,', b"") for path in files}


def again(store: Path | str) -> list[str]:
    """Call to_zarr again, and return what it says."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", MisoxrWarning)
        to_zarr(maps(), store, progress=False)
    return [str(one.message) for one in told if issubclass(one.category, MisoxrWarning)]


def flip(data: bytes, rng: random.Random) -> bytes:
    """One bit is another."""
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def says_the_same(one: bytes, other: bytes) -> bool:
    """Whether two files of metadata differ in how they are spelt alone, such as 1e5 and 1E5."""
    with suppress(ValueError):
        return json.dumps(json.loads(one), sort_keys=True) == json.dumps(json.loads(other), sort_keys=True)
    return False


# Sound


def test_nothing_is_told_of_a_sound_store(store):
    before = bytes_of(store)
    found = misoxr.check(store)
    assert list(found.columns) == ["path", "state", "detail"]
    assert found.empty
    assert again(store) == []
    assert bytes_of(store) == before
    xr.testing.assert_equal(open_maps(store, codes=True).compute(), maps().compute())


def test_all_chunks_are_written_also_those_of_nodata_and_carry_a_checksum(store):
    for name, array in zarr.open_group(store, mode="r").members(max_depth=None):
        if isinstance(array, zarr.Array):
            last = array.metadata.codecs[-1]
            assert isinstance(last.codecs[-1] if array.shards else last, Crc32cCodec), name
            assert array.nchunks_initialized >= array.nchunks // (4 if array.shards else 1), name
    assert (store / "red/c/0/0").exists()
    assert (store / "year/c").exists()


def test_the_attributes_of_a_map_do_not_tell_of_hashes(store, tmp_path):
    assert SUMS in zarr.open_group(store, mode="r").attrs
    found = open_maps(store).drop_vars("far")
    assert set(found.attrs) == {"title", "provenance", "provenance_sha256"}
    to_zarr(found, tmp_path / "other.zarr", progress=False)
    assert misoxr.check(tmp_path / "other.zarr").empty


# A bit flips, a file is lost


@pytest.mark.parametrize("seed", range(2))
def test_each_of_many_flipped_bits_is_found_by_check_and_by_to_zarr(store, seed):
    """100 flips in all, over both layouts: in turn in every file of the store."""
    rng, sound = random.Random(seed), bytes_of(store)
    files = sorted(sound)
    for turn in range(25):
        file = files[(turn * 7 + seed * 3) % len(files)]
        bad = flip(sound[file], rng)
        if file.endswith("zarr.json") and says_the_same(bad, sound[file]):
            continue
        (store / file).write_bytes(bad)
        what = f"seed {seed}, turn {turn}, {file}"
        found = misoxr.check(store)
        assert file in set(found.path), f"{what}: {found}"
        copy = found.state.tolist() == ["damaged copy"]
        if file == "zarr.json" and not copy:
            with pytest.raises(StoreError, match=r"zarr\.json|is not the one that .* records"):
                again(store)
            (store / file).write_bytes(sound[file])
        else:
            assert len(again(store)) == 1, what
            assert bytes_of(store) == sound, what
        assert misoxr.check(store).empty, what


def kinds(store: Path) -> dict[str, str]:
    """A file of each kind, by what it is."""
    files = {"/".join(part for part in Path(file).parts if not part.isdigit()): file for file in bytes_of(store)}
    assert {
        "zarr.json",
        "red/zarr.json",
        "red/c",
        "order/c",
        "p/c",
        "y/c",
        "taxon/c",
        "spatial_ref/c",
        "far/c",
        "provenance/zarr.json",
    } <= set(files)
    return files


@pytest.mark.parametrize("how", ["deleted", "cut off"])
def test_each_kind_of_file_that_is_lost_is_found_and_mended_where_it_can_be(store, how):
    sound = bytes_of(store)
    for turn, file in enumerate(kinds(store).values()):
        if how == "deleted":
            (store / file).unlink()
        else:
            (store / file).write_bytes(sound[file][: len(sound[file]) // 2 if turn % 2 else 0])
        found = misoxr.check(store).set_index("path").state
        assert found[file] == ("missing" if how == "deleted" else "damaged")
        if file == "zarr.json":
            with pytest.raises(
                StoreError, match=r"The file zarr\.json of the store .*maps\.zarr is damaged: .*Put it back from a copy"
            ):
                again(store)
            (store / file).write_bytes(sound[file])
        else:
            (told,) = again(store)
            assert file in told
        assert bytes_of(store) == sound, file


def test_all_damaged_blocks_are_computed_again_and_no_others(store):
    sound, computed = bytes_of(store), []
    for file in ("red/c/0/0", "red/c/2/1", "p/c/1/2/1" if "p/c/1/2/1" in sound else "p/c/0/2/1"):
        (store / file).unlink()
    given = maps()

    def noted(block: np.ndarray, block_info=None) -> np.ndarray:
        computed.append(tuple(block_info[0]["chunk-location"]))
        return block

    noted.__dask_tokenize__ = lambda: "noted"
    ledger = Ledger(progress_of(str(store)))
    with pytest.warns(
        MisoxrWarning, match=r"chunks of 2 blocks were missing or damaged, such as .*; these blocks are computed again"
    ):
        to_zarr(given, store, progress=False)
    assert ledger.has(COMPLETE)
    assert sorted(ledger.done()) == list(np.ndindex(3, 2))
    assert bytes_of(store) == sound


def test_a_write_that_goes_on_looks_at_what_was_there_before_it_ends(store):
    """Blocks that were recorded, and lost since; one whose record is not there is computed anyway, whatever lies in its place."""
    sound, ledger = bytes_of(store), Ledger(progress_of(str(store)))
    ledger.clear(COMPLETE, record(ledger, 2, 1))
    (store / "red/c/2/1").write_bytes(b"half a chunk")
    (store / "order/c/1/0").unlink()
    (store / "red/c/0/1").write_bytes(flip(sound["red/c/0/1"], random.Random(0)))
    found = misoxr.check(store).set_index("path").state
    assert found.to_dict() == {"": "unfinished", "order/c/1/0": "missing", "red/c/0/1": "damaged", "red/c/2/1": "damaged"}
    (told,) = again(store)
    assert "chunks of 2 blocks" in told
    assert bytes_of(store) == sound
    assert ledger.has(COMPLETE)


def test_what_is_not_written_yet_is_not_missing(store):
    ledger = Ledger(progress_of(str(store)))
    ledger.clear(COMPLETE, record(ledger, 2, 1), record(ledger, 0, 0))
    for file in ("red/c/2/1", "order/c/0/0"):
        (store / file).unlink()
    found = misoxr.check(store)
    assert found.state.tolist() == ["unfinished"]
    assert "4 blocks" in found.detail[0]


def test_metadata_of_an_unfinished_store_are_compared_with_their_hashes(store):
    """There are no copies yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("misoxr.io.zarr.write_blocks", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            to_zarr(maps(), store.parent / "begun.zarr", progress=False)
    begun = store.parent / "begun.zarr"
    text = (begun / "order/zarr.json").read_text()
    (begun / "order/zarr.json").write_text(text.replace("a b c", "a b d"))
    assert {"order/zarr.json"} == set(misoxr.check(begun).query("state == 'damaged'").path)
    with pytest.raises(StoreError, match=r"order/zarr\.json of the store .*begun\.zarr is damaged"):
        to_zarr(maps(), begun, progress=False)
    (begun / "order/zarr.json").write_text(text)
    to_zarr(maps(), begun, progress=False)
    assert misoxr.check(begun).empty


def test_masked_blocks_are_under_the_hashes(store):
    ledger = Ledger(progress_of(str(store)))
    ledger.clear(record(ledger, 1, 0), COMPLETE)
    with ledger.alive():
        ledger.complete((1, 0), "its server answers 503")
    to_zarr(maps(), store, progress=False, on_error="mask")
    assert misoxr.check(store).empty
    assert json.loads(open_maps(store).attrs["masked_blocks"])[0]["block"] == [1, 0]
    text = (store / "zarr.json").read_text()
    (store / "zarr.json").write_text(text.replace("answers 503", "answers 404", 1))
    assert misoxr.check(store).path.tolist() == ["zarr.json"]


# Read


def test_an_error_of_a_lazy_read_names_the_store_the_array_and_the_chunk(store):
    file = store / "red/c/1/1"
    data = file.read_bytes()
    file.write_bytes(data[:5] + bytes([data[5] ^ 4]) + data[6:])
    told = r"array 'red' of the store .*maps\.zarr cannot be read: red/c/1/1 is damaged .*misoxr\.check"
    for lazy in (open_maps(store).red, open_maps(store).red[20:, ::3], open_maps(store).red.isel(y=[1, 20], x=[31, 20])):
        with pytest.raises(StoreError, match=told):
            lazy.compute()
    assert open_maps(store).red[:SIDE].notnull().any()
    with pytest.raises(StoreError, match=told):
        to_zarr(open_maps(store).drop_vars("far"), store.parent / "other.zarr", progress=False)
    with pytest.raises(StoreError, match=told):
        open_maps(store)[["red"]].drop_vars("far").miso.to_cog(store.parent / "cogs", progress=False)
    with pytest.raises(StoreError, match=told):
        open_maps(store)[["red", "order"]].drop_vars("far").miso.to_pyramid(store.parent / "p.zarr", levels=1, progress=False)


def test_names_of_a_graph_are_those_of_plain_xarray(store):
    """Maps that are computed from a store go on under the names that they were begun with."""
    assert open_maps(store).p.data.name == xr.open_zarr(str(store), consolidated=False, mask_and_scale=False).p.data.name


def of_metadata(data: bytes) -> dict[str, bytes]:
    return {"nothing": b"", "cut off": data[: len(data) // 2], "null": b"null", "a list": b"[]", "an empty object": b"{}", "noise": bytes(range(128, 256))}  # fmt: skip


@pytest.mark.parametrize("what", of_metadata(b""))
@pytest.mark.parametrize("file", ["zarr.json", "red/zarr.json", "y/zarr.json", "provenance/zarr.json"])
def test_metadata_that_are_none_are_an_error_of_the_package(store, file, what):
    (store / file).write_bytes(of_metadata((store / file).read_bytes())[what])
    assert file in set(misoxr.check(store).path)
    with pytest.raises((StoreError, MisoxrWarning), match=r"maps\.zarr"):  # zarr takes an empty object for a group
        open_maps(store)
    with pytest.raises(StoreError, match="maps.zarr"):
        maps().miso.to_pyramid(store, progress=False)
    if file == "zarr.json":
        with pytest.raises(StoreError, match=r"zarr\.json of the store"):
            again(store)
    else:
        assert file in again(store)[0]


def test_a_damaged_coordinate_is_an_error_when_the_store_is_opened(store):
    data = (store / "y/c/0").read_bytes()
    (store / "y/c/0").write_bytes(flip(data, random.Random(1)))
    with pytest.raises(StoreError, match=r"maps\.zarr cannot be opened .*misoxr\.check"):
        open_maps(store)


def test_metadata_that_changed_are_told_when_the_store_is_opened(store):
    text = (store / "order/zarr.json").read_text()
    (store / "order/zarr.json").write_text(text.replace("a b c", "a b d"))
    with pytest.warns(MisoxrWarning, match=r"Metadata of the store .*maps\.zarr are not what was written: order/zarr\.json"):
        assert open_maps(store).order.attrs["flag_meanings"] == "a b d"


def test_what_is_no_store(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "file").write_text("notes")
    with pytest.raises(StoreError, match=r"There is no store at .*nothing"):
        misoxr.check(tmp_path / "nothing")
    for name in ("notes", "file"):
        assert misoxr.check(tmp_path / name).state.tolist() == ["missing"]
        with pytest.raises(StoreError, match=name):
            open_maps(tmp_path / name)
        with pytest.raises(StoreError, match=name):
            to_zarr(maps(), tmp_path / name, progress=False)


# Other stores


def test_a_store_without_checksums_says_so_opens_and_goes_on(tmp_path):
    """As misoxr wrote them before: chunks of nodata have no file, and nothing is mended that may be sound."""
    given, path = maps(), tmp_path / "before.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("misoxr.io.zarr.seal", lambda uri, attrs=None: None)
        patch.setattr(layout_module, "COMPRESSORS", COMPRESSORS[:1])
        to_zarr(given, path, progress=False)
    (path / "red/c/0/0").unlink()
    ledger = Ledger(progress_of(str(path)))
    ledger.clear(COMPLETE, record(ledger, 1, 1))
    to_zarr(given, path, progress=False)
    assert not (path / "red/c/0/0").exists()
    xr.testing.assert_equal(open_maps(path, codes=True).compute(), given.compute())
    found = misoxr.check(path)
    assert set(found.state) == {"no checksum", "no file"}
    assert found[found.state == "no file"].values.tolist() == [
        ["red", "no file", "1 of 6 chunks have no file: they are nodata, or lost"]
    ]
    (path / "order/c/2/0").write_bytes(b"no chunk")
    assert "order/c/2/0" in set(misoxr.check(path).query("state == 'damaged'").path)
    (told,) = again(path)
    assert "order/c/2/0" in told
    xr.testing.assert_equal(open_maps(path, codes=True).compute(), given.compute())


def test_a_store_of_the_version_before_is_checked(tmp_path):
    shutil.copytree(BEFORE, tmp_path / "before")
    found = misoxr.check(tmp_path / "before" / "finished.zarr")
    assert set(found.state) == {"no checksum"}
    assert "zarr.json" in set(found.path)


def test_a_store_of_another_writer_is_checked(tmp_path):
    given = make_cube((8, 6), SENTINEL2[:2]).chunk({"y": 4})
    given.to_zarr(tmp_path / "v2.zarr", zarr_format=2)
    given.to_zarr(tmp_path / "v3.zarr", zarr_format=3, consolidated=False)
    for name in ("v2.zarr", "v3.zarr"):
        assert set(misoxr.check(tmp_path / name).state) <= {"no checksum", "no file"}
    (tmp_path / "v2.zarr/red/0.0").write_bytes(b"none")
    assert "red/0.0" in set(misoxr.check(tmp_path / "v2.zarr").query("state == 'damaged'").path)
    (tmp_path / "v3.zarr/red/c/0/0").write_bytes(b"none")
    assert "red/c/0/0" in set(misoxr.check(tmp_path / "v3.zarr").query("state == 'damaged'").path)


def test_a_pyramid_is_checked_with_all_its_levels(tmp_path):
    path = tmp_path / "pyramid.zarr"
    maps()[["red", "order"]].drop_vars("far").miso.to_pyramid(path, levels=2, progress=False)
    assert misoxr.check(path).empty
    assert misoxr.check(path / "1").empty
    sound = bytes_of(path)
    files = {"zarr.json", *(f"{level}/zarr.json" for level in range(3)), *sorted(sound)[::4]}
    for turn, file in enumerate(sorted(files)):
        bad = flip(sound[file], random.Random(turn))
        if file.endswith("zarr.json") and says_the_same(bad, sound[file]):
            continue
        (path / file).write_bytes(bad)
        assert set(misoxr.check(path).path) >= {file}, f"{turn} {file}"
        (path / file).unlink()
        assert file in set(misoxr.check(path).query("state == 'missing'").path)
        (path / file).write_bytes(sound[file])


def test_a_store_at_a_url_is_checked_and_mended(request):
    store = f"memory://{request.node.name}/maps.zarr"
    to_zarr(maps(), store, progress=False)
    assert misoxr.check(store).empty
    system, path = fsspec.core.url_to_fs(store)
    system.rm(f"{path}/red/c/0/1")
    system.pipe_file(f"{path}/order/c/0/0", flip(system.cat_file(f"{path}/order/c/0/0"), random.Random(0)))
    system.rm(f"{path}/x/zarr.json")
    found = misoxr.check(store).set_index("path").state.to_dict()
    assert found == {"order/c/0/0": "damaged", "red/c/0/1": "missing", "x/zarr.json": "missing"}
    assert len(again(store)) == 2
    assert misoxr.check(store).empty
    xr.testing.assert_equal(open_maps(store, codes=True).compute(), maps().compute())


def test_a_repository_is_checked(tmp_path):
    """Icechunk tells of a chunk that is lost, and passes a flipped bit on."""
    icechunk = pytest.importorskip("icechunk")
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repo")))
    given = make_cube((128, 64), SENTINEL2[:1]).chunk({"y": 64})
    to_zarr(given, repo, progress=False)
    assert misoxr.check(repo).empty
    chunks = sorted((tmp_path / "repo/chunks").iterdir(), key=lambda path: path.stat().st_size)
    data = chunks[-1].read_bytes()
    chunks[-1].write_bytes(flip(data, random.Random(0)))
    assert misoxr.check(repo).state.tolist() == ["damaged"]
    with pytest.raises(StoreError, match="array 'red' .* is damaged"):
        open_maps(repo).red.compute()
    chunks[-1].unlink()
    assert misoxr.check(repo).state.tolist() == ["unreadable"]


READERS: dict[str, Callable[[Path], xr.Dataset]] = {
    "xarray": lambda path: xr.open_zarr(path),
    "xarray, not consolidated": lambda path: xr.open_zarr(path, consolidated=False),
    "zarr": lambda path: xr.Dataset({"red": (("y", "x"), zarr.open_group(path, mode="r")["red"][...])}),
}


@pytest.mark.parametrize("reader", READERS)
def test_other_readers_read_what_is_written(store, reader):
    np.testing.assert_array_equal(READERS[reader](store).red, maps().red)


def test_files_are_read_a_few_at_once(store, monkeypatch):
    """However many there are."""
    from misoxr.io import check as module

    assert isinstance(misoxr.check(store), pd.DataFrame)
    monkeypatch.setattr(module, "AT_ONCE", 2)
    (store / "p/c/0/2/1").unlink()
    assert misoxr.check(store).path.tolist() == ["p/c/0/2/1"]
