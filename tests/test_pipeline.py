"""The main job on a small simulated scene: STAC API, HTTP, training, and a map from a cluster of processes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from servers import range_server, stac_api

import misoxr
from misoxr import simulate
from misoxr.errors import MisoxrWarning
from misoxr.spec import SENTINEL2
from tests.conftest import make_cube, make_model, tiny_spec


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A simulated scene behind real servers: the lazy cube with covariates, the points and the truth."""
    directory = tmp_path_factory.mktemp("scene")
    with range_server(directory) as files:
        written = simulate.write(directory, shape=(256, 300), n_points=400, base_url=f"{files}/")
        with stac_api(written.items) as api:
            options = {"collections": ["sentinel-2-l2a-simulated"], "years": range(2019, 2024), "season": ("06-20", "08-20")}
            image = misoxr.open_stac(api, reduce="median", crs="EPSG:3338", resolution=20, chunks=256, **options)
            covariates = {name: f"{files}/covariates/{path.name}" for name, path in written.covariates.items()}
            yield image.miso.add(**covariates), written, (api, options)


def test_composites_agree_and_know_where_they_come_from(scene):
    image, _, (api, options) = scene
    cube = misoxr.open_stac(api, crs="EPSG:3338", resolution=20, chunks=256, bands=["red", "nir"], **options)
    both = cube.miso.composite()
    np.testing.assert_array_equal(both.red, image.red)
    np.testing.assert_array_equal(both.nir, image.nir)
    assert (image.attrs["simulated"], image.attrs["simulator_version"]) == (1, simulate.SIMULATOR_VERSION)
    assert len(image.attrs["stac_item_ids"]) >= 6


def test_the_composite_is_the_lands_reflectance(scene):
    image, _, _ = scene
    land = simulate.landscape((256, 300))
    for band in ("red", "nir"):
        difference = np.abs(image[band].values - land[band].values)
        assert np.nanmedian(difference) < 0.03


def test_train_predict_and_write_on_a_cluster_of_processes(forked, scene, tmp_path):
    image, written, _ = scene
    cube = image[[band.name for band in SENTINEL2] + ["aspect", "elevation", "slope"]]
    points = misoxr.read_points(written.points, labels={"permafrost": "permafrost", "taxonomy": "taxonomy"})
    with pytest.warns(MisoxrWarning, match="7 of 400 points lie where the cube has no valid imagery"):
        model = cube.miso.fit("miso-nano", points, steps=4, progress=False, device="cpu")
    assert model.record["simulated"] == 1
    maps = cube.miso.predict(model, device="cpu")
    maps.miso.to_zarr(tmp_path / "threads.zarr", progress=False)
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster, Client(cluster):
        maps.miso.to_zarr(tmp_path / "processes.zarr", progress=False)
    one, other = (misoxr.open_maps(tmp_path / f"{name}.zarr").compute() for name in ("threads", "processes"))
    np.testing.assert_allclose(one.permafrost_probability, other.permafrost_probability, atol=1e-5)
    np.testing.assert_allclose(one.taxonomy_probability, other.taxonomy_probability, atol=1e-5)
    # What was clouded or snow at every date stays without a value to the end, and nothing else does.
    never = np.all([cube[band.name].isnull().values for band in SENTINEL2], axis=0)
    np.testing.assert_array_equal(one.permafrost_probability.isnull(), never)
    np.testing.assert_array_equal(one.taxonomy.isnull(), never)
    assert 0 < never.mean() < 0.05
    assert (one.attrs["simulated"], one.attrs["simulator_version"]) == (1, simulate.SIMULATOR_VERSION)
    plain = xr.open_zarr(tmp_path / "processes.zarr", consolidated=False, decode_coords="all")
    assert plain.rio.crs == "EPSG:3338"


def test_the_example_of_a_local_cluster(tmp_path):
    """As a user runs it, on a small cube."""
    spec = tiny_spec()
    cube = make_cube((40, 60), spec.bands)
    model = make_model(spec)
    model.save(tmp_path / "model.safetensors")
    cube.chunk({"y": 20, "x": 20}).miso.to_zarr(tmp_path / "cube.zarr", progress=False)
    script = Path(__file__).resolve().parents[1] / "examples" / "clusters" / "local.py"
    command = [sys.executable, script, tmp_path / "cube.zarr", tmp_path / "model.safetensors", tmp_path / "maps.zarr", "20"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "6 blocks of 20 x 20 pixels" in ended.stdout
    expected = cube.chunk({"y": 20, "x": 20}).miso.predict(model, device="cpu").permafrost_probability
    np.testing.assert_array_equal(misoxr.open_maps(tmp_path / "maps.zarr").permafrost_probability, expected)
