"""``~`` is the home directory, wherever a path is asked for."""

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rioxarray  # noqa: F401

import misoxr
from misoxr.mapping.predict import predict
from misoxr.model.checkpoint import Model
from misoxr.model.files import sha256_of
from misoxr.paths import cache, expanded
from misoxr.points.folds import PredefinedFolds
from misoxr.points.read import read_points
from misoxr.spec import SENTINEL2
from tests.conftest import make_cube


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home directory; the process runs elsewhere, where nothing must appear."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "home"
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_and_a_url(home, kind):
    assert expanded(kind("~/maps.zarr")) == str(home / "maps.zarr")
    assert expanded(kind("maps/~x")) == "maps/~x"
    assert expanded("s3://bucket/~/maps.zarr") == "s3://bucket/~/maps.zarr"


def test_stores_and_files_of_maps(home):
    cube = make_cube((8, 6), SENTINEL2[:1])
    cube.miso.to_zarr("~/maps.zarr", progress=False)
    cube.miso.to_zarr(Path("~/maps.zarr"), progress=False)
    cube.miso.to_pyramid("~/pyramid.zarr", levels=1, progress=False)
    assert cube.miso.to_cog("~/geotiffs", progress=False) == [str(home / "geotiffs" / "red.tif")]
    for path in ("~/maps.zarr", Path("~/pyramid.zarr/0")):
        np.testing.assert_array_equal(misoxr.open_maps(path).red, cube.red)
    for raster in ("~/geotiffs/red.tif", Path("~/geotiffs/red.tif")):
        np.testing.assert_array_equal(cube.miso.add(again=raster).again, cube.red)


def test_checkpoints(home, model):
    model.save("~/model.safetensors")
    assert (home / "model.safetensors").exists()
    assert Model.load(Path("~/model.safetensors")).sha256 == model.sha256 == sha256_of("~/model.safetensors")
    cube = make_cube((24, 24), model.spec.bands)
    for path in ("~/model.safetensors", Path("~/model.safetensors")):
        assert predict(cube, path).attrs["model_sha256"] == model.sha256


def test_points_folds_and_the_cache(home, monkeypatch):
    points = gpd.GeoDataFrame({"id": [1, 2]}, geometry=gpd.points_from_xy([0, 1], [0, 1]), crs="EPSG:3338")
    points.to_file(home / "points.gpkg")
    assert len(read_points("~/points.gpkg")) == 2
    (home / "folds.json").write_text('{"fold_0": {"train": [1], "test": [2]}}')
    assert PredefinedFolds.from_json("~/folds.json", [1, 2]).n_splits == 1
    monkeypatch.setenv("MISOXR_CACHE", "~/cache")
    assert cache("models") == home / "cache" / "models"
