"""Masked windows and their reconstruction: which pixels count, and that each step repeats itself."""

from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from misoxr.cube.cutouts import read_cutouts
from misoxr.cube.scaling import Scaling
from misoxr.model.network import Miso
from misoxr.spec import ModelSpec, Pretraining
from misoxr.training.masking import MaskedWindows, Reconstruction, masks, patch_of
from tests.conftest import make_cube, tiny_spec

SETTINGS = Pretraining(batch_size=6, points=40, patch=4, augment="none")


def windows_of(cube, spec, settings=SETTINGS, count=6):
    bands = np.stack([cube[band.name].values for band in spec.bands])
    with read_cutouts(da.from_array(bands), [], [], spec.windows.size, least=count) as cutouts:
        scaling = Scaling.fit(spec, cutouts.pixels(4000, np.random.default_rng(0)))
        data = MaskedWindows(spec, scaling, cutouts, np.arange(count), settings, 3)
        return [data[step] for step in (0, 1, 0)]


def tensors(batch):
    return {part: {name: torch.from_numpy(value) for name, value in of.items()} for part, of in batch.items()}


@settings(max_examples=60, deadline=None)
@given(size=st.integers(2, 40), patch=st.integers(1, 39), share=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_whole_patches_are_masked_and_never_all_or_none(size, patch, share, seed):
    patch = min(patch, size - 1)
    flags = masks(3, size, patch, share, np.random.default_rng(seed))
    assert flags.shape == (3, size, size)
    side = -(-size // patch)
    grid = flags[:, ::patch, ::patch]
    np.testing.assert_array_equal(grid.repeat(patch, 1).repeat(patch, 2)[:, :size, :size], flags)
    assert (grid.sum(axis=(1, 2)) == np.clip(round(share * side**2), 1, side**2 - 1)).all()


def test_a_batch_follows_from_seed_and_step():
    first, second, again = windows_of(make_cube((60, 70), tiny_spec().bands), tiny_spec())
    for part, of in first.items():
        for name, values in of.items():
            np.testing.assert_array_equal(values, again[part][name])
    assert not np.array_equal(first["inputs"]["sat"], second["inputs"]["sat"])
    assert not np.array_equal(first["masks"]["sat"], first["masks"]["cov"]), "each modality is masked by itself"
    assert first["inputs"]["sat"].shape == (6, 2, 16, 16)
    assert first["masks"]["sat"].shape == first["valid"]["sat"].shape == (6, 16, 16)
    assert first["pixels"]["sat"].shape == (3, 6 * 40)


def test_pixels_without_a_band_are_never_asked():
    spec = tiny_spec()
    cube = make_cube((60, 60), spec.bands)
    cube["red"][:, ::2] = np.nan
    cube["elevation"][:] = np.nan  # which says nothing of a pixel: aspect is there
    for batch in windows_of(cube, spec):
        assert 0.4 < batch["valid"]["sat"].mean() < 0.6
        assert batch["valid"]["cov"].all()
        window, row, column = batch["pixels"]["sat"]
        assert batch["valid"]["sat"][window, row, column].all()
        assert len(window) == 6 * 40


def test_masked_and_valid_pixels_alone_count():
    """Bands at other pixels change no target, and the loss is that of a loop over the pixels."""
    spec = replace(tiny_spec(), modalities=tiny_spec().modalities[:1])
    torch.manual_seed(0)
    network = Reconstruction(Miso(spec), spec).eval()
    batch = tensors(windows_of(make_cube((60, 60), spec.bands), spec)[0])
    with torch.no_grad():
        loss = network(batch)
        (answers,) = network._answers(batch)["sat"]
        errors = []
        for answer, window, row, column in zip(answers, *batch["pixels"]["sat"], strict=True):
            if batch["masks"]["sat"][window, row, column]:
                errors.append(float((answer - batch["inputs"]["sat"][window, :, row, column]).abs().mean()))
        assert float(loss["masked"]) == pytest.approx(np.mean(errors), rel=1e-4)
        assert 0 < len(errors) < len(answers)
        assert float(loss["crossed"]) == 0
        # What is masked is not seen: another value there changes no answer.
        hidden = dict(batch, inputs={"sat": torch.where(batch["masks"]["sat"][:, None], 9.0, batch["inputs"]["sat"])})
        torch.testing.assert_close(network._answers(hidden)["sat"][0], answers)
        seen = dict(batch, inputs={"sat": torch.where(batch["masks"]["sat"][:, None], batch["inputs"]["sat"], 9.0)})
        assert (network._answers(seen)["sat"][0] - answers).abs().max() > 0.1


def test_the_other_modality_counts_where_it_is_valid():
    spec = tiny_spec()
    torch.manual_seed(0)
    network = Reconstruction(Miso(spec), spec).eval()
    batch = tensors(windows_of(make_cube((60, 60), spec.bands), spec)[0])
    batch["valid"]["cov"][:, :8] = False
    changed = dict(batch, inputs=dict(batch["inputs"]))
    changed["inputs"]["cov"] = batch["inputs"]["cov"].clone()
    changed["inputs"]["cov"][:, :, :8] = 50.0
    only = {"pixels": {"sat": batch["pixels"]["sat"], "cov": torch.zeros((3, 0), dtype=torch.int64)}}
    with torch.no_grad():
        one, other = (network({**some, **only}) for some in (batch, changed))
    assert float(one["crossed"]) > 0.1
    assert float(one["crossed"]) == float(other["crossed"])


def test_a_batch_of_nodata_teaches_nothing():
    spec = tiny_spec()
    network = Reconstruction(Miso(spec), spec)
    batch = tensors(windows_of(make_cube((60, 60), spec.bands), spec)[0])
    batch["pixels"] = {name: torch.zeros((3, 0), dtype=torch.int64) for name in batch["pixels"]}
    losses = network(batch)
    sum(losses.values()).backward()
    assert {name: float(loss) for name, loss in losses.items()} == {"masked": 0.0, "crossed": 0.0}
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in network.parameters())


def test_patches_go_by_the_first_stage():
    nano = ModelSpec.preset("miso-nano")
    assert patch_of(Miso(nano), nano) == 8
    halved = replace(nano, windows=replace(nano.windows, input_size=128))
    assert patch_of(Miso(halved), halved) == 4
    assert patch_of(Miso(tiny_spec()), tiny_spec()) == 8  # half of a window of 16
