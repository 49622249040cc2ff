"""Raw bands to network inputs on a device: as the arrays of training are scaled and augmented."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from misoxr.cube.augment import AUGMENTATIONS, augmented, augmented_points
from misoxr.cube.scaling import METHODS, Scaling
from misoxr.model.inputs import Inputs, moved
from misoxr.spec import Modality, embedding
from tests.conftest import make_cube, tiny_spec

SPEC = tiny_spec()
SPECS = {
    "two modalities": SPEC,
    "a unit vector": replace(SPEC, modalities=(*SPEC.modalities, embedding("alphaearth", 3, encoder=SPEC.modalities[0].encoder))),
    "logarithms apart": replace(
        SPEC,
        modalities=(
            replace(SPEC.modalities[0], bands=(SPEC.bands[0], replace(SPEC.bands[3], name="height"), SPEC.bands[1])),
            SPEC.modalities[1],
        ),
    ),
}


@pytest.fixture(params=SPECS)
def spec(request):
    return SPECS[request.param]


def bands_of(spec, seed=0):
    """Raw bands (band, y, x), some of them missing in some pixels."""
    cube = make_cube((16, 16), spec.bands, seed=seed)
    bands = np.stack([cube[band.name].values for band in spec.bands])
    bands[np.random.default_rng(seed).random(bands.shape) < 0.1] = np.nan
    bands[:, :2] = np.nan
    aspect = [band.kind for band in spec.bands].index("circular")
    bands[aspect, 4:6] = -1  # flat
    return bands


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", AUGMENTATIONS["dihedral"])
def test_windows_are_scaled_and_turned_as_arrays_are(spec, method, way):
    windows = [bands_of(spec, seed) for seed in range(3)]
    scaling = Scaling.fit(spec, np.concatenate([one.reshape(len(one), -1) for one in windows], axis=1), method)
    raw = torch.from_numpy(np.stack(windows))
    found = Inputs(spec, scaling)(raw, *way)
    for index, one in enumerate(windows):
        expected = scaling.apply(spec, augmented(one, spec, *way))
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert found[name].dtype == torch.float32
            np.testing.assert_allclose(found[name][index], values, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_what_is_infinite_is_missing(spec, method, value):
    """As the logarithm of zero power is."""
    bands = bands_of(spec)
    infinite = np.where(np.isnan(bands), np.float32(value), bands)
    scaling, same = (Scaling.fit(spec, one.reshape(len(one), -1), method) for one in (bands, infinite))
    assert same == scaling
    for name, expected in scaling.apply(spec, bands).items():
        np.testing.assert_array_equal(scaling.apply(spec, infinite)[name], expected)
        windows = [Inputs(spec, scaling)(torch.from_numpy(one[None]))[name] for one in (bands, infinite)]
        np.testing.assert_array_equal(*windows)


@pytest.mark.parametrize("way", AUGMENTATIONS["dihedral"])
def test_points_move_with_their_window(way):
    points = np.random.default_rng(0).uniform(-1, 1, (20, 2))
    np.testing.assert_array_equal(moved(torch.from_numpy(points), *way), augmented_points(points, *way))


def test_nothing_is_rounded_to_bfloat16():
    """Elevations of some thousand metres differ by less than three digits tell."""
    spec = SPEC
    bands = bands_of(spec)
    scaling = Scaling.fit(spec, bands.reshape(len(bands), -1))
    inputs, raw = Inputs(spec, scaling), torch.from_numpy(bands)[None]
    with torch.autocast("cpu", torch.bfloat16):
        found = inputs(raw.clone())
    for name, values in inputs(raw).items():
        torch.testing.assert_close(found[name], values, atol=0, rtol=0)


def test_modalities_without_circular_bands_keep_their_channels():
    modality = Modality("sat", SPEC.modalities[0].bands, SPEC.modalities[0].encoder)
    spec = replace(SPEC, modalities=(modality,))
    bands = make_cube((8, 8), spec.bands)
    raw = np.stack([bands[band.name].values for band in spec.bands])
    scaling = Scaling.fit(spec, raw.reshape(len(raw), -1), "standard")
    expected = scaling.apply(spec, raw)["sat"]
    np.testing.assert_allclose(Inputs(spec, scaling)(torch.from_numpy(raw)[None])["sat"][0], expected, atol=1e-6)
