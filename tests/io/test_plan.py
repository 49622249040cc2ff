"""What a map will take: counted without computing, and measured on one block."""

import numpy as np
import pytest
import xarray as xr

from misoxr.errors import StoreError
from misoxr.mapping.predict import predict
from tests.conftest import make_cube, make_model, tiny_spec


@pytest.fixture(scope="module")
def maps() -> xr.Dataset:
    spec = tiny_spec()
    return predict(make_cube((80, 96), spec.bands).chunk({"y": 32, "x": 32}), make_model(spec), device="cpu")


def test_counts_need_no_computation(maps, no_compute):
    with no_compute():
        plan = maps.miso.plan(timed=False)
    assert plan.blocks == (3, 3)
    assert plan.block == (32, 32)
    assert plan.bytes_written == sum(maps[name].nbytes for name in maps.data_vars)
    assert maps.miso.plan(timed=False, compact=True).bytes_written == 80 * 96 * (1 + 7 + 1 + 1)
    assert plan.seconds is plan.memory is None
    assert plan.windows is not None
    assert plan.windows > (80 // 12) * (96 // 12)


def test_windows_are_those_that_are_encoded(maps, monkeypatch):
    from misoxr.model import field

    seen = []
    answer = field.answer

    def counted(model, crop, points, counts, *rest, **options):
        seen.append(len(counts))
        return answer(model, crop, points, counts, *rest, **options)

    monkeypatch.setattr(field, "answer", counted)
    maps.permafrost_probability.compute()
    assert sum(seen) == maps.miso.plan(timed=False).windows


def test_a_timed_block_tells_time_bytes_and_memory(maps):
    plan = maps.miso.plan(timed=(0, 2))
    assert 0 < plan.block_seconds < 60
    assert plan.seconds == pytest.approx(9 * plan.block_seconds)
    assert plan.bytes_read >= 9 * 32 * 32 * 4
    assert plan.memory >= 0
    text = str(plan)
    for words in ("9 blocks of 32 x 32", "windows", "MB to write", "s on one process"):
        assert words in text


def test_a_block_needs_no_less_than_is_written_of_it(maps, monkeypatch):
    """A process that takes again what it has freed is not seen to grow."""
    monkeypatch.setattr("misoxr.io.plan._resident", lambda: 10**9)
    found = maps.miso.plan()
    assert found.memory > found.bytes_written / np.prod(found.blocks)


def test_a_dataset_that_no_network_made_has_no_windows():
    cube = make_cube((40, 40), tiny_spec().bands).chunk({"y": 20})
    plan = cube.miso.plan()
    assert plan.windows is None
    assert np.prod(plan.blocks) == 2


def test_a_block_that_is_not_there(maps):
    with pytest.raises(StoreError, match=r"no block \(3, 0\); the dataset has 3 x 3"):
        maps.miso.plan(timed=(3, 0))
    for timed in ("yes", 1, (0,), (0, 1, 2), (0.5, 0), {"row": 0}):
        with pytest.raises(StoreError, match="give True, False, or the row and column of a block"):
            maps.miso.plan(timed=timed)


@pytest.mark.parametrize("chunks", [{}, {"y": 64, "x": 64}], ids=["as stored", "joined"])
def test_what_is_read_of_a_store_is_counted(tmp_path, chunks):
    spec = tiny_spec()
    make_cube((64, 64), spec.bands).chunk({"y": 32, "x": 32}).miso.to_zarr(tmp_path / "cube.zarr", progress=False)
    cube = xr.open_zarr(tmp_path / "cube.zarr", decode_coords="all", chunks=chunks)
    whole = len(spec.bands) * 64 * 64 * 4
    assert cube.miso.plan().bytes_read == whole
    plan = cube.miso.predict(make_model(spec), device="cpu").miso.plan()
    assert plan.bytes_read == whole * (4 if not chunks else 1)  # each block reads its neighbours, too
    assert "MB to read into memory" in str(plan)
