"""The embedding: lazy, the same for any chunking, what the heads see, and a cube that other estimators learn from."""

import json
import pickle
from dataclasses import replace

import dask
import dask.array as da
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import misoxr
from misoxr.errors import BandError, CheckpointError, MisoxrWarning, SpecError
from misoxr.estimators.pixel_model import PixelModel
from misoxr.grid.geobox import geobox_of
from misoxr.mapping import embed as module
from misoxr.mapping import job
from misoxr.model import field
from misoxr.spec import WindowSpec
from tests.conftest import make_cube, make_model, tiny_spec

SHAPE = (61, 47)


@pytest.fixture(scope="module")
def cube(spec):
    return make_cube(SHAPE, spec.bands)


@pytest.fixture(scope="module")
def whole(cube, model):
    return cube.miso.embed(model, device="cpu").compute()


def chunks_of(length):
    return st.sets(st.integers(1, length - 1), max_size=4).map(lambda inner: tuple(np.diff([0, *sorted(inner), length]).tolist()))


def test_a_window_alone_has_the_embedding_of_the_network(model, spec):
    """Where a dataset is one window, nothing is blended."""
    cube = make_cube((16, 16), spec.bands)
    bands = np.stack([cube[band.name].values for band in spec.bands])
    inputs = {name: torch.from_numpy(values[None]) for name, values in model.scaling.apply(spec, bands).items()}
    centres = torch.from_numpy((2 * np.arange(16) + 1) / 16 - 1).float()
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    with torch.no_grad():
        cells = model.network.project(inputs)
        expected = model.network.embed(cells, torch.zeros(256, dtype=torch.long), torch.stack([x.ravel(), y.ravel()], -1))["visual"]
    found = cube.miso.embed(model, device="cpu").embedding.values
    np.testing.assert_allclose(found.reshape(16, -1).T, expected, atol=1e-5)
    with torch.no_grad():
        logits = model.network.answer(torch.from_numpy(found.reshape(16, -1).T))
    maps = cube.miso.predict(model, device="cpu").permafrost_probability.values
    np.testing.assert_allclose(logits["permafrost"].sigmoid().reshape(16, 16), maps, atol=1e-5)


def test_names_dims_and_attributes(whole, model, cube):
    assert list(whole.data_vars) == ["embedding"]
    assert (whole.embedding.dims, whole.embedding.dtype) == (("feature", "y", "x"), "float32")
    assert list(whole.feature.values) == list(range(model.spec.width))
    assert whole.embedding.attrs["grid_mapping"] == "spatial_ref"
    assert whole.attrs["model_sha256"] == model.sha256
    assert whole.attrs["title"] == "miso-nano: embedding (16 features)"
    assert json.loads(whole.attrs["provenance"])["windows"]["size"] == 16
    np.testing.assert_array_equal(whole.x, cube.x)
    assert whole.embedding.std("feature").min() > 0.1
    assert whole.embedding.std(("y", "x")).mean() > 0.1


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(y=chunks_of(61), x=chunks_of(47), batch=st.sampled_from([1, 3, 8]))
def test_any_chunking_gives_the_same_embedding(cube, model, whole, y, x, batch):
    found = cube.chunk({"y": y, "x": x}).miso.embed(model, device="cpu", batch_size=batch).compute()
    np.testing.assert_allclose(found.embedding, whole.embedding, atol=1e-5)


def test_nothing_is_computed_while_building_and_no_weights_are_in_the_graph(cube, model, no_compute):
    with no_compute():
        lazy = cube.chunk({"y": 20, "x": 20}).miso.embed(model)
    assert isinstance(lazy.embedding.data, da.Array)
    graph = pickle.dumps(dict(lazy.drop_vars("spatial_ref").__dask_graph__()))
    weights = next(value for value in model.network.state_dict().values() if value.numel() > 200)
    assert weights.numpy().tobytes()[:400] not in graph


def test_blocks_of_many_features_are_cut(cube, model, whole, monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 4 * 16 * 24**2)
    monkeypatch.setattr(job, "SIDE", 8)
    lazy = cube.chunk({"y": 61, "x": 47}).miso.embed(model, device="cpu")
    assert lazy.embedding.chunksizes == {"feature": (16,), "y": (21, 21, 19), "x": (24, 23)}
    np.testing.assert_allclose(lazy.embedding, whole.embedding, atol=1e-5)
    small = cube.chunk({"y": 20, "x": 20}).miso.embed(model, device="cpu")
    assert small.embedding.chunksizes["y"][0] == 20


@pytest.mark.parametrize(("positions", "resolution"), [(7, None), (15, None), (15, 10), (9, 28), (40, 5)])
def test_blocks_below_a_window_have_the_same_embedding(cube, model, monkeypatch, positions, resolution):
    """They share the chunk that their windows lie in."""
    expected = cube.miso.embed(model, device="cpu", resolution=resolution).compute()
    monkeypatch.setattr(module, "LARGEST", 4 * 16 * positions**2)
    for chunks in ({"y": 61, "x": 47}, {"y": 5, "x": 30}):
        lazy = cube.chunk(chunks).miso.embed(model, device="cpu", resolution=resolution)
        assert max(lazy.embedding.data.chunksize[1:]) <= positions
        np.testing.assert_allclose(lazy.embedding, expected.embedding, atol=1e-5)


@pytest.mark.parametrize(("width", "side"), [(64, 1024), (256, 512), (1024, 256), (1100, 247), (16, 2048)])
def test_no_block_takes_more_than_its_bytes(width, side):
    spec = replace(tiny_spec(), width=width)
    land = make_cube((2048, 64), spec.bands[:1])  # its values are of no matter
    zeros = da.zeros((2048, 64), chunks=2048, dtype="float32")
    large = land.drop_vars("red").assign({band.name: (("y", "x"), zeros, {"units": band.units}) for band in spec.bands})
    model = make_model(spec)
    assert large.miso.embed(model).embedding.chunksizes["y"][0] == min(side, 2048 // -(-2048 // side) + (2048 % side > 0))
    for resolution in (None, 100, 7, 2):
        for precision in ("float32", "float64", "bfloat16"):
            array = large.miso.embed(model, resolution=resolution, precision=precision).embedding
            assert np.prod(array.data.chunksize) * array.dtype.itemsize <= module.LARGEST == 2**28
            assert array.sizes["y"] == 2048 if resolution is None else round(2048 * 20 / resolution)
    with pytest.raises(SpecError, match="a pixel of the cube would hold more positions than a block may; use .* or more"):
        large.miso.embed(model, resolution=0.001)


def test_no_valid_input_is_nan(cube, model):
    holed = cube.copy(deep=True)
    for name in ("red", "nir"):
        holed[name][20:25, 10:14] = np.nan
    found = holed.chunk({"y": 30, "x": 30}).miso.embed(model, device="cpu").embedding.compute()
    empty = np.zeros(SHAPE, dtype=bool)
    empty[20:25, 10:14] = True
    np.testing.assert_array_equal(np.isnan(found), np.broadcast_to(empty, found.shape))


def test_it_is_written_resumed_and_read_again(cube, model, whole, tmp_path, monkeypatch):
    lazy = cube.chunk({"y": 20, "x": 47}).miso.embed(model, device="cpu")
    assert lazy.miso.plan(timed=False).blocks == (3, 1)
    answered, asked = field.answer_positions, []

    def failing(*args, **options):
        asked.append(args)
        if len(asked) == 2:
            raise OSError("the disk is gone")
        return answered(*args, **options)

    with monkeypatch.context() as patch, dask.config.set(scheduler="synchronous"):
        patch.setattr(field, "answer_positions", failing)
        with pytest.raises(OSError, match="the disk is gone"):
            lazy.miso.to_zarr(tmp_path / "embedding.zarr", progress=False)
    lazy.miso.to_zarr(tmp_path / "embedding.zarr", progress=False)
    model.save(tmp_path / "model.safetensors")
    again = cube.chunk({"y": 20, "x": 47}).miso.embed(tmp_path / "model.safetensors", device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(field, "answer_positions", None)  # all blocks are there: nothing is embedded again
        again.miso.to_zarr(tmp_path / "embedding.zarr", progress=False)
    stored = misoxr.open_maps(tmp_path / "embedding.zarr")
    np.testing.assert_allclose(stored.embedding, whole.embedding, atol=1e-5)
    assert stored.attrs["model_sha256"] == model.sha256
    assert geobox_of(stored) == geobox_of(cube)
    assert json.loads(stored.attrs["provenance"])["settings"]["device"] == "cpu"


def test_finer_pixels_other_windows_and_precisions(cube, model, whole):
    finer = cube.miso.embed(model, resolution=10, device="cpu")
    assert finer.embedding.shape == (16, 122, 94)
    other = cube.miso.embed(model, windows=WindowSpec(16, 16, 8), device="cpu").embedding
    assert 0 < np.abs(other - whole.embedding).max() < 3
    exact = cube.miso.embed(model, precision="float64", device="cpu").embedding
    assert exact.dtype == "float64"
    np.testing.assert_allclose(exact, whole.embedding, atol=1e-4)


def test_it_joins_a_cube_as_bands(cube, model, whole):
    joined = cube.chunk({"y": 30, "x": 30}).miso.add(embedding=whole.embedding)
    assert [name for name in joined if name.startswith("embedding")] == [f"embedding_{k}" for k in range(16)]
    np.testing.assert_array_equal(joined.embedding_3, whole.embedding[3])


def test_standardised_regressions_do_not_change_it(cube, model, whole):
    from misoxr.spec import Task
    from misoxr.spec.standardisation import Standardisation

    spec = replace(model.spec, tasks=(Task("soc", "regression"),))
    plain = make_model(spec)
    other = replace(plain, standardisation={"soc": Standardisation(1e5, 10.0)})
    one, two = (cube.miso.embed(each, device="cpu").embedding for each in (plain, other))
    assert two.dtype == "float32"
    np.testing.assert_array_equal(one, two)


def test_what_has_no_embedding_is_refused(cube, model, spec, no_compute):
    alone = replace(model, spec=replace(spec, modalities=()))
    with no_compute():
        with pytest.raises(SpecError, match="sees coordinates alone and has no embedding"):
            cube.miso.embed(alone)
        with pytest.raises(SpecError, match="There are 2 models; give one. Embeddings of different networks cannot be averaged"):
            cube.miso.embed([model, model])
        with pytest.raises(SpecError, match="has no embedding: it is made of estimators"):
            cube.miso.embed(PixelModel(spec, {}))
        with pytest.raises(SpecError, match="must be trained first"):
            cube.miso.embed("miso-nano")
        with pytest.raises(CheckpointError, match="cannot be read"):
            cube.miso.embed("nowhere.safetensors")
        with pytest.raises(BandError, match="nir"):
            cube.drop_vars("nir").miso.embed(model)
        with pytest.raises(SpecError, match="windows is 64; give a WindowSpec"):
            cube.miso.embed(model, windows=64)
        with pytest.raises(SpecError, match="resolution is True"):
            cube.miso.embed(model, resolution=True)
    with pytest.warns(MisoxrWarning, match="lacks the optional bands"):
        cube.drop_vars("aspect").miso.embed(model)
