"""Masks in a map: nodata in every output, the reason beside, on any grid, lazily, and through every store."""

import json
import warnings

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from sklearn.ensemble import RandomForestClassifier

import misoxr
from misoxr.errors import BandError, GridError, MisoxrWarning, SpecError
from misoxr.grid.geobox import assign
from misoxr.grid.resample import covers
from misoxr.spec import Task
from tests.conftest import ORIGIN, make_cube, make_model, tiny_spec

SHAPE = (40, 50)
"""Of the cube, in pixels of 20 m."""


@pytest.fixture(scope="module")
def cube(spec):
    return make_cube(SHAPE, spec.bands)


@pytest.fixture(scope="module")
def plain(cube, model):
    return cube.miso.predict(model, device="cpu").compute()


def on(values, pixel=20.0, origin=ORIGIN, crs="EPSG:3338"):
    """An array on a grid that begins at an origin."""
    box = GeoBox(np.shape(values), Affine(pixel, 0, origin[0], 0, -pixel, origin[1]), crs)
    return assign(xr.DataArray(np.asarray(values), dims=("y", "x")), box)


def classes(seed=0):
    return np.random.default_rng(seed).choice([10, 50, 70, 80], SHAPE)


def check_masked(found, plain, expected):
    """Compare a map with the one without masks, and the reasons with what was worked out by hand."""
    np.testing.assert_array_equal(found.excluded, expected)
    for name, array in plain.data_vars.items():
        kept = np.broadcast_to(expected == 0, array.shape)
        np.testing.assert_array_equal(found[name].values[kept], array.values[kept])
        gone = found[name].values[~kept]
        assert np.isnan(gone).all() if array.dtype.kind == "f" else (gone == 255).all()
        assert found[name].dtype == array.dtype
        xr.testing.assert_identical(found[name].isel(y=[], x=[]), array.isel(y=[], x=[]))


def test_masked_pixels_are_nodata_everywhere_and_the_first_reason_counts(cube, model, plain, no_compute):
    cover = on(classes())
    high = on(np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) % 3 == 0)
    with no_compute():
        maps = cube.chunk({"y": 17, "x": 50}).miso.predict(
            model, device="cpu", exclude={"water": cover.chunk({"y": 9, "x": 11}) == 80, "glacier": cover == 70, "high land": high}
        )
    expected = np.select([classes() == 80, classes() == 70, high], [1, 2, 3], 0)
    found = maps.compute()
    for name, array in plain.data_vars.items():
        if array.dtype.kind == "f":
            kept = np.broadcast_to(expected == 0, array.shape)
            np.testing.assert_allclose(found[name].values[kept], array.values[kept], atol=1e-5)
            assert np.isnan(found[name].values[~kept]).all()
    assert (found.taxonomy.values[expected > 0] == 255).all()
    assert (found.taxonomy.values[expected == 0] != 255).all()
    np.testing.assert_array_equal(found.excluded, expected)
    assert found.excluded.dtype == "uint8"
    assert found.excluded.attrs["flag_values"].tolist() == [0, 1, 2, 3]
    assert found.excluded.attrs["flag_meanings"] == "not_excluded water glacier high_land"
    assert maps.excluded.chunks == maps.permafrost.chunks
    told = json.loads(found.attrs["provenance"])
    assert told["excluded"] == ["water", "glacier", "high_land"]
    assert found.attrs["provenance_sha256"] != plain.attrs["provenance_sha256"]


def test_without_masks_nothing_is_added(cube, model, plain):
    assert "excluded" not in plain
    xr.testing.assert_identical(cube.miso.predict(model, device="cpu", exclude=None).compute(), plain)


def test_a_mask_on_another_grid_is_put_on_the_map_by_the_nearest_pixel(cube, model, plain):
    """Pixels of 60 m that begin 20 m further west and north: by hand, pixel (r, c) lies in ((r + 1) // 3, (c + 1) // 3)."""
    coarse = np.random.default_rng(1).random((15, 18)) < 0.4
    mask = on(coarse, 60.0, (ORIGIN[0] - 20, ORIGIN[1] + 20))
    rows, columns = np.meshgrid(np.arange(SHAPE[0]), np.arange(SHAPE[1]), indexing="ij")
    expected = coarse[(rows + 1) // 3, (columns + 1) // 3].astype(int)
    for one in (mask, mask.isel(y=slice(None, None, -1)), mask.transpose("x", "y"), mask.expand_dims(band=[1])):
        check_masked(cube.miso.predict(model, device="cpu", exclude={"lake": one}).compute(), plain, expected)


def test_a_mask_in_degrees_falls_where_it_lies(cube, model):
    """The corners of the map, transformed to degrees and looked up there by their own coordinates, agree."""
    import pyproj

    turn = pyproj.Transformer.from_crs("EPSG:3338", "EPSG:4326", always_xy=True)
    x, y = np.meshgrid(cube.x, cube.y)
    east, north = turn.transform(x, y)
    west, top, step = east.min() - 0.0103, north.max() + 0.0104, 0.001
    held = np.random.default_rng(2).random((int((top - north.min()) / step) + 10, int((east.max() - west) / step) + 10)) < 0.5
    expected = held[np.floor((top - north) / step).astype(int), np.floor((east - west) / step).astype(int)]
    masks = [on(held, step, (west + shift, top), "EPSG:4326") for shift in (0, 360)]
    masks.append(masks[0].drop_vars("spatial_ref").drop_attrs().rename(y="latitude", x="longitude"))  # as NetCDF has them
    for mask in masks:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "A raster in degrees has no CRS")
            found = cube.miso.predict(model, device="cpu", exclude={"lake": mask}).compute()
        np.testing.assert_array_equal(found.excluded, expected)


def test_other_pixel_sizes_of_the_map(cube, model):
    mask = on(classes() == 80)
    maps = cube.miso.predict(model, device="cpu", resolution=40, exclude={"water": mask}).compute()
    # The centre of a pixel of 40 m is the corner of four of 20 m; the nudge takes the lower right one.
    np.testing.assert_array_equal(maps.excluded, mask.values[1::2, 1::2])
    np.testing.assert_array_equal(np.isnan(maps.permafrost_probability), mask.values[1::2, 1::2])
    finer = cube.miso.predict(model, device="cpu", resolution=10, exclude={"water": mask}).compute()
    np.testing.assert_array_equal(finer.excluded, np.kron(mask.values, np.ones((2, 2))))


def test_several_models_members_and_estimators(cube, model, spec):
    mask = on(classes() == 80)
    both = cube.miso.predict([model, make_model(spec, 1)], device="cpu", exclude={"water": mask}).compute()
    assert {"permafrost_std", "taxonomy_entropy", "excluded"} <= set(both)
    assert json.loads(both.attrs["provenance"])["excluded"] == ["water"]
    members = make_model(tiny_spec(members=2, tasks=(Task("carbon", "regression"), *spec.tasks)))
    located = cube.miso.predict(members, device="cpu", location=True, exclude={"water": mask}).compute()
    assert {"carbon", "carbon_std", "carbon_location", "taxonomy_location_probability"} <= set(located)
    points = misoxr.read_points(_table(cube), labels={"permafrost": "ice"}, crs="EPSG:3338", x="x", y="y")
    forest = cube.miso.fit(RandomForestClassifier(5, random_state=0), points)
    by_trees = cube.miso.predict(forest, exclude={"water": mask}).compute()
    for maps in (both, located, by_trees):
        np.testing.assert_array_equal(maps.excluded, mask)
        for name, array in maps.data_vars.items():
            if name != "excluded":
                gone = np.isnan(array) if array.dtype.kind == "f" else array == 255
                np.testing.assert_array_equal(gone, np.broadcast_to(mask, array.shape))


def _table(cube):
    import pandas as pd

    rows, columns = np.meshgrid(np.arange(2, 40, 4), np.arange(2, 50, 4), indexing="ij")
    rows, columns = rows.ravel(), columns.ravel()
    return pd.DataFrame({"x": cube.x.values[columns], "y": cube.y.values[rows], "ice": (rows + columns) // 4 % 2})


def test_stores_geotiffs_and_pictures_keep_the_reasons(cube, model, tmp_path):
    pytest.importorskip("matplotlib")
    cover = on(classes())
    masks = {"water": cover == 80, "glacier": cover == 70}
    lazy = cube.chunk({"y": 20, "x": 25}).miso.predict(model, device="cpu", exclude=masks)
    found = lazy.compute()
    lazy.miso.to_zarr(tmp_path / "maps.zarr", progress=False, on_error="mask")
    codes = misoxr.open_maps(tmp_path / "maps.zarr", codes=True).compute()
    for name in found.data_vars:
        np.testing.assert_array_equal(codes[name], found[name])
    assert codes.excluded.dtype == "uint8"
    floats = misoxr.open_maps(tmp_path / "maps.zarr").compute()
    np.testing.assert_array_equal(floats.excluded, found.excluded)
    assert floats.excluded.attrs["flag_meanings"] == "not_excluded water glacier"
    floats.miso.plot()
    floats.miso.to_zarr(tmp_path / "again.zarr", progress=False)
    again = misoxr.open_maps(tmp_path / "again.zarr", codes=True)
    assert again.excluded.dtype == "uint8"
    np.testing.assert_array_equal(again.excluded, found.excluded)
    lazy.miso.to_cog(tmp_path / "cogs", variables=["excluded", "permafrost_probability"], progress=False)
    with rasterio.open(tmp_path / "cogs" / "excluded.tif") as file:
        np.testing.assert_array_equal(file.read(1), found.excluded)
        assert (file.nodata, file.colormap(1)[1][:3]) == (255, (79, 129, 189))
    with rasterio.open(tmp_path / "cogs" / "permafrost_probability.tif") as file:
        np.testing.assert_array_equal(np.isnan(file.read(1)), found.excluded > 0)


@pytest.mark.parametrize("how", ["mode", "probability"])
def test_pyramids_keep_the_reasons(cube, model, tmp_path, how):
    """Four pixels of one reason are a pixel of it; by hand, in blocks of 2 x 2 pixels."""
    blocks = np.kron(np.random.default_rng(3).random((20, 25)) < 0.4, np.ones((2, 2))).astype(bool)
    maps = cube.chunk({"y": 20, "x": 26}).miso.predict(model, device="cpu", exclude={"water": on(blocks)})
    maps.miso.to_pyramid(tmp_path / "maps.zarr", levels=2, classes=how, progress=False)
    coarse = misoxr.open_maps(tmp_path / "maps.zarr/1", codes=True).compute()
    np.testing.assert_array_equal(coarse.excluded, blocks[::2, ::2])
    np.testing.assert_array_equal(np.isnan(coarse.permafrost_probability), blocks[::2, ::2])
    np.testing.assert_array_equal(coarse.taxonomy == 255, blocks[::2, ::2])


def test_another_mask_is_another_map(cube, model, tmp_path):
    """A store that was begun with one mask is not gone on with by another."""
    masks = [on(classes(seed) == 80) for seed in (0, 1)]
    maps = [cube.chunk({"y": 20, "x": 25}).miso.predict(model, device="cpu", exclude={"water": mask}) for mask in masks]
    maps[0].miso.to_zarr(tmp_path / "maps.zarr", progress=False)
    same = cube.chunk({"y": 20, "x": 25}).miso.predict(model, device="cpu", exclude={"water": masks[0].copy()})
    same.miso.to_zarr(tmp_path / "maps.zarr", progress=False)  # is finished: nothing is left to do
    with pytest.raises(misoxr.errors.StoreError):
        maps[1].miso.to_zarr(tmp_path / "maps.zarr", progress=False)


def test_a_mask_that_does_not_cover_the_map_is_told(cube, model):
    part = on(np.ones((40, 30), bool))
    with pytest.warns(MisoxrWarning, match="mask 'lake' covers .*nothing is left out beyond the mask"):
        maps = cube.miso.predict(model, device="cpu", exclude={"lake": part})
    np.testing.assert_array_equal(maps.excluded.values, np.arange(50) < 30 * np.ones((40, 1)))
    with pytest.raises(GridError, match="do not overlap"):
        cube.miso.predict(model, device="cpu", exclude={"lake": on(np.ones((9, 9), bool), origin=(0.0, 0.0))})


def test_what_covers_a_grid():
    box = GeoBox((10, 10), Affine(20, 0, 0, 0, -20, 200), "EPSG:3338")
    assert covers(box, box)
    assert covers(GeoBox((2, 2), Affine(100, 0, 0, 0, 100, 0), "EPSG:3338"), box)  # ascending
    assert not covers(GeoBox((10, 9), Affine(20, 0, 0, 0, -20, 200), "EPSG:3338"), box)
    assert not covers(GeoBox((9, 10), Affine(20, 0, 0, 0, -20, 200), "EPSG:3338"), box)
    world = GeoBox((18, 36), Affine(10, 0, 0, 0, -10, 90), "EPSG:4326")
    assert covers(world, GeoBox((4, 4), Affine(1, 0, 178, 0, -1, 60), "EPSG:4326"))
    assert covers(world, GeoBox((4, 4), Affine(1, 0, -182, 0, -1, 60), "EPSG:4326"))


@pytest.mark.parametrize(
    ("exclude", "error", "words"),
    [
        (lambda m: m, SpecError, "exclude is a DataArray; give masks by their reasons"),
        (lambda m: {}, SpecError, "exclude is {}"),
        (lambda m: {"water": "water.tif"}, SpecError, "mask 'water' is a str; give a boolean DataArray"),
        (lambda m: {"water": m.values}, SpecError, "mask 'water' is a ndarray"),
        (lambda m: {"water": m.astype("uint8")}, BandError, "mask 'water' holds uint8 and not True and False.*raster == 80"),
        (lambda m: {"water": m.expand_dims(time=2)}, BandError, r"has dimensions \('time', 'y', 'x'\), not \(y, x\)"),
        (lambda m: {"water": m.drop_vars("spatial_ref").drop_attrs()}, GridError, "mask 'water' carries no CRS"),
        (lambda m: {" ": m}, SpecError, "reason ' '"),
        (lambda m: {1: m}, SpecError, "reason 1"),
        (lambda m: {"a b": m, "a_b": m}, SpecError, "reason 'a_b'"),
        (lambda m: {"not excluded": m}, SpecError, "reason 'not excluded', which stands for pixels with an answer; name it after"),
        (lambda m: {"water": m, "not_excluded": m}, SpecError, "reason 'not_excluded', which stands for"),
    ],
)
def test_what_is_no_mask_is_refused_before_anything_is_laid_out(cube, model, exclude, error, words, no_compute):
    mask = on(np.ones(SHAPE, bool))
    with no_compute(), pytest.raises(error, match=words):
        cube.miso.predict("no-such-model.safetensors", exclude=exclude(mask))


def test_a_task_of_the_variable_s_name_is_refused(cube, spec):
    model = make_model(tiny_spec(tasks=(Task("excluded", "binary", ("no", "yes")),)))
    with pytest.raises(SpecError, match="A task of the model is called 'excluded'"):
        cube.miso.predict(model, device="cpu", exclude={"water": on(classes() == 80)})
