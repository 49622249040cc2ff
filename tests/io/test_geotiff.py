"""Maps for other programs: the same pixels in valid files, with their names, colours and origin, and no more memory than a few blocks."""

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import dask.array as da
import fsspec
import numpy as np
import pytest
import rasterio
import rioxarray
import xarray as xr
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox
from rio_cogeo import cog_validate

from misoxr.cube.variables import FILL
from misoxr.errors import BandError, GridError, SpecError, StoreError
from misoxr.grid.geobox import assign, geobox_of
from misoxr.io.geotiff import to_cog
from misoxr.io.layout import open_maps
from misoxr.io.pyramid import to_pyramid
from misoxr.io.zarr import to_zarr
from misoxr.mapping.predict import predict
from misoxr.spec import SENTINEL2, ModelSpec
from tests.conftest import make_cube

pytestmark = pytest.mark.filterwarnings("error::zarr.errors.ZarrUserWarning")
SHAPE = (75, 61)
BLOCK = 128


@pytest.fixture(scope="module")
def maps(model, spec: ModelSpec) -> xr.Dataset:
    """A predicted map with a hole, of odd sizes and in odd chunks, and words that XML would trip over."""
    cube = make_cube(SHAPE, spec.bands).assign_attrs(simulated=1)
    for name in ("red", "nir"):
        cube[name][10:14, 20:31] = np.nan
        cube[name][32:64, 32:61] = np.nan
    found = predict(cube, model, device="cpu").compute().chunk({"y": (9, 20, 21, 25), "x": (30, 31)})
    found.permafrost.attrs["note"] = "a < b & c, 5 °C"
    return found


@pytest.fixture(scope="module")
def wide(maps) -> xr.Dataset:
    """The map repeated to a size of several tiles, which can be halved twice."""
    again = maps.isel(y=np.arange(260) % SHAPE[0], x=np.arange(384) % SHAPE[1])
    return assign(again, GeoBox((260, 384), geobox_of(maps).affine, "EPSG:3338")).chunk({"y": 90, "x": 200})


@pytest.fixture(scope="module")
def files(wide, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("cogs")
    paths = wide.miso.to_cog(directory, blocksize=BLOCK, progress=False)
    assert paths == [str(directory / f"{name}.tif") for name in wide.data_vars]
    return directory


def halved(values: np.ndarray) -> np.ndarray:
    """Average the valid of every four pixels (…, y, x)."""
    array = xr.DataArray(values.astype("float64"), dims=("class", "y", "x")[-values.ndim :])
    return array.coarsen(y=2, x=2, boundary="pad").mean().values


def four(values: np.ndarray) -> np.ndarray:
    """The pixels (4, y, x) below each of a level; missing beyond an odd edge."""
    padded = np.pad(values, [(0, size % 2) for size in values.shape], constant_values=FILL)
    return np.stack([padded[row::2, column::2] for row in (0, 1) for column in (0, 1)])


def are_most_frequent(found: np.ndarray, values: np.ndarray) -> bool:
    below = four(values)
    votes = np.where(below == FILL, 0, (below == below[:, None]).sum(1))
    own = np.where(found == FILL, 0, (below == found).sum(0))
    return bool((own == votes.max(0)).all())


def overview(path: Path, level: int) -> np.ndarray:
    with rasterio.open(path, OVERVIEW_LEVEL=level) as file:
        return file.read()


def faults(path: Path) -> list[str]:
    """What makes a file no cloud-optimised GeoTIFF of its own."""
    valid, errors, warnings = cog_validate(path, strict=True, quiet=True)
    with rasterio.open(path) as file:
        beside = file.files[1:]
    return [*errors, *warnings, *beside, *([] if valid else ["not valid"])]


# GeoTIFFs: pixels and grid


def test_pixels_and_grid_are_the_map_s(wide, files):
    for name, array in wide.items():
        with rasterio.open(files / f"{name}.tif") as file:
            np.testing.assert_array_equal(file.read().squeeze(), array)
            assert file.crs.to_epsg() == 3338
            assert file.transform == geobox_of(wide).affine
            assert file.shape == (260, 384)
            assert set(file.dtypes) == {array.dtype.name}
        lazily = rioxarray.open_rasterio(files / f"{name}.tif", masked=True)
        np.testing.assert_allclose(lazily.x, wide.x)
        assert lazily.isnull().any()


def test_nodata(files):
    with rasterio.open(files / "taxonomy.tif") as file:
        assert file.nodata == FILL
    with rasterio.open(files / "taxonomy_probability.tif") as file:
        assert all(np.isnan(file.nodatavals))


def test_files_are_cloud_optimised(wide, files):
    for name in wide.data_vars:
        path = files / f"{name}.tif"
        assert faults(path) == []
        with rasterio.open(path) as file:
            assert file.overviews(1) == [2, 4]
            assert set(file.block_shapes) == {(BLOCK, BLOCK)}
            assert file.compression.name == "deflate"
    assert sorted(path.name for path in files.iterdir()) == sorted(f"{name}.tif" for name in wide.data_vars)


def test_overviews_of_probabilities_are_means_of_valid_pixels(wide, files):
    for name in ("permafrost_probability", "taxonomy_probability"):
        want = wide[name].values
        for level in range(2):
            want = halved(want)
            np.testing.assert_allclose(overview(files / f"{name}.tif", level).squeeze(), want, rtol=1e-6)


def test_overviews_of_classes(wide, files, tmp_path):
    found = overview(files / "taxonomy.tif", 0)[0]
    assert are_most_frequent(found, wide.taxonomy.values)
    (path,) = to_cog(wide, tmp_path, variables=["taxonomy"], classes="nearest", blocksize=BLOCK, progress=False)
    nearest = overview(Path(path), 0)[0]
    assert (four(wide.taxonomy.values) == nearest).any(0).all()
    assert (nearest != found).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 37), (128, 128), (129, 3), (131, 257)])
def test_any_size(shape, tmp_path):
    cube = make_cube(shape, SENTINEL2[:1])
    cube["stack"] = (("class", "y", "x"), np.arange(7 * np.prod(shape), dtype="float32").reshape(7, *shape))
    to_cog(cube, tmp_path, blocksize=BLOCK, progress=False)
    for name in ("red", "stack"):
        assert faults(tmp_path / f"{name}.tif") == []
        with rasterio.open(tmp_path / f"{name}.tif") as file:
            np.testing.assert_array_equal(file.read().squeeze(), cube[name].values.squeeze())
            assert file.transform == geobox_of(cube).affine
            assert max(shape) // (file.overviews(1) or [1])[-1] <= BLOCK


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "int64", "float64"])
def test_any_type(dtype, tmp_path):
    cube = make_cube((40, 37), SENTINEL2[:1])
    values = (np.arange(40 * 37) % 100).reshape(40, 37).astype(dtype)
    cube["count"] = (("y", "x"), values, {} if dtype.startswith("float") else {"_FillValue": np.dtype(dtype).type(99)})
    (path,) = to_cog(cube, tmp_path, variables=["count"], blocksize=BLOCK, progress=False)
    with rasterio.open(path) as file:
        assert file.dtypes == (dtype,)
        np.testing.assert_array_equal(file.read(1), values)
        assert np.isnan(file.nodata) if dtype.startswith("float") else file.nodata == 99


def test_integers_without_a_fill_value_have_no_nodata(tmp_path):
    cube = make_cube((17, 130), SENTINEL2[:1])
    cube["count"] = (("y", "x"), np.zeros((17, 130), "int16"))
    (path,) = to_cog(cube, tmp_path, variables=["count"], blocksize=BLOCK, progress=False)
    with rasterio.open(path) as file:
        assert file.nodata is None
    assert (overview(Path(path), 0) == 0).all()


def test_a_map_without_any_valid_pixel(tmp_path):
    (path,) = to_cog(make_cube((40, 260), SENTINEL2[:1]) * np.nan, tmp_path, blocksize=BLOCK, progress=False)
    assert np.isnan(overview(Path(path), 1)).all()


def test_y_and_x_need_not_come_last(maps, tmp_path):
    turned = maps[["taxonomy_probability"]].transpose("x", "taxon", "y")
    (path,) = to_cog(turned, tmp_path, progress=False)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(), maps.taxonomy_probability)


def test_class_maps_that_plain_xarray_has_read_are_codes_again(maps, tmp_path):
    to_zarr(maps, tmp_path / "maps.zarr", progress=False)
    floats = xr.open_zarr(tmp_path / "maps.zarr", consolidated=False)
    assert floats.taxonomy.dtype == "float32"
    (path,) = to_cog(floats, tmp_path, variables=["taxonomy"], blocksize=BLOCK, progress=False)
    with rasterio.open(path) as file:
        assert file.dtypes == ("uint8",)
        assert file.nodata == FILL
        np.testing.assert_array_equal(file.read(1), maps.taxonomy)


# GeoTIFFs: what they say


def test_bands_and_units(maps, files):
    with rasterio.open(files / "taxonomy_probability.tif") as file:
        assert file.descriptions == tuple(maps.taxon.values)
        assert set(file.units) == {"1"}
    with rasterio.open(files / "permafrost_probability.tif") as file:
        assert file.descriptions == (maps.permafrost_probability.attrs["long_name"],)


def test_tags_say_where_a_map_comes_from(maps, files):
    for name, array in maps.items():
        with rasterio.open(files / f"{name}.tif") as file:
            tags = file.tags()
        assert tags["simulated"] == "1"
        assert "simulator" in tags["comment"]
        assert tags["provenance_sha256"] == maps.attrs["provenance_sha256"]
        assert tags["model_sha256"] == maps.attrs["model_sha256"]
        assert tags["long_name"] == array.attrs["long_name"]
        assert "provenance" not in tags
    with rasterio.open(files / "permafrost.tif") as file:
        assert file.tags()["note"] == "a < b & c, 5 °C"


def test_classes_have_a_palette_and_names_inside_the_file(maps, files):
    with rasterio.open(files / "taxonomy.tif") as file:
        palette, tags = file.colormap(1), file.tags()
    colors = [tuple(bytes.fromhex(color[1:])) for color in maps.taxonomy.attrs["flag_colors"].split()]
    names = maps.taxonomy.attrs["flag_meanings"].split()
    assert [palette[code][:3] for code in range(7)] == colors
    assert tags["flag_meanings"].split() == names
    assert tags["flag_values"] == "0 1 2 3 4 5 6"
    with rasterio.open(files / "taxonomy.tif", OVERVIEW_LEVEL=1) as file:
        assert file.colormap(1) == palette
        assert file.colorinterp == (rasterio.enums.ColorInterp.palette,)


def test_classes_without_colours(maps, tmp_path):
    plain = maps[["permafrost"]].copy()
    plain["permafrost"] = plain.permafrost.assign_attrs(flag_colors="")
    (path,) = to_cog(plain, tmp_path, blocksize=BLOCK, progress=False)
    with rasterio.open(path) as file:
        assert file.colorinterp == (rasterio.enums.ColorInterp.gray,)
        np.testing.assert_array_equal(file.read(1), maps.permafrost)


# GeoTIFFs: how they are written


def test_each_block_is_computed_once_for_all_variables(tmp_path):
    cube = make_cube((80, 60), SENTINEL2[:1])
    seen: list[tuple[int, ...]] = []

    def watch(block: np.ndarray) -> np.ndarray:
        seen.append(block.shape)
        return block

    lazy = da.map_blocks(watch, da.from_array(cube.red.values, chunks=(40, 30)), dtype="float32", meta=np.empty((0, 0), "float32"))
    both = cube.assign(red=(("y", "x"), lazy), half=(("y", "x"), lazy / 2))
    with dask.config.set(scheduler="sync"):
        to_cog(both, tmp_path, progress=False)
    assert seen == [(40, 30)] * 4


def test_memory_does_not_grow_with_the_map(tmp_path):
    command = [sys.executable, "-m", "tests.export_memory", str(tmp_path)]
    environment = {**os.environ, "MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=Path(__file__).parents[2])
    found = {verb: (float(grown), float(size)) for verb, grown, size in map(str.split, run.stdout.splitlines())}
    assert found.keys() == {"to_pyramid", "to_cog"}
    for grown, size in found.values():
        assert grown < size / 3


def test_a_dask_client_writes_the_same(wide, files, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None):
        to_cog(wide, tmp_path, variables=["taxonomy_probability", "taxonomy"], blocksize=BLOCK, progress=False)
    for name in ("taxonomy_probability.tif", "taxonomy.tif"):
        assert faults(tmp_path / name) == []
        with rasterio.open(tmp_path / name) as one, rasterio.open(files / name) as other:
            np.testing.assert_array_equal(one.read(), other.read())


def failing(maps: xr.Dataset, name: str = "permafrost") -> xr.Dataset:
    def fail(block: np.ndarray) -> np.ndarray:
        raise RuntimeError("a worker died")

    return maps.assign(
        {name: maps[name].copy(data=maps[name].data.map_blocks(fail, dtype="uint8", meta=np.empty((0, 0), "uint8")))}
    )


def test_a_failure_leaves_what_was_there_and_nothing_else(maps, tmp_path):
    with pytest.raises(RuntimeError, match="a worker died"):
        to_cog(failing(maps), tmp_path / "new", progress=False)
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "permafrost.tif").write_text("an older map")
    with pytest.raises(RuntimeError, match="a worker died"):
        to_cog(failing(maps), tmp_path, variables=["permafrost"], overwrite=True, progress=False)
    assert (tmp_path / "permafrost.tif").read_text() == "an older map"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "permafrost.tif"]


def test_an_existing_file_is_kept_or_replaced(maps, tmp_path, no_compute):
    (tmp_path / "permafrost.tif").write_text("an older map")
    with no_compute(), pytest.raises(StoreError, match=r"\['permafrost.tif'\] exist in .*overwrite=True"):
        to_cog(maps, tmp_path, variables=["taxonomy", "permafrost"])
    assert not (tmp_path / "taxonomy.tif").exists()
    (path,) = to_cog(maps, tmp_path, variables=["permafrost"], overwrite=True, progress=False)
    assert faults(Path(path)) == []


def test_a_place_that_cannot_be_written(maps, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"file/deeper\S* cannot be written"):
        to_cog(maps, tmp_path / "file" / "deeper", progress=False)


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_full_disk_is_told_and_leaves_nothing(share, tmp_path):
    cube = make_cube((512, 512), SENTINEL2[:1]).chunk(128)
    cube["red"] = cube.red.copy(data=da.random.default_rng(0).random((512, 512), "float32", chunks=128))
    (path,) = to_cog(cube, tmp_path, blocksize=BLOCK, progress=False)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * Path(path).stat().st_size), before[1]))
    try:
        with pytest.raises(StoreError, match="again cannot be written"):
            to_cog(cube, tmp_path / "again", blocksize=BLOCK, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "again").iterdir()) == []


def test_progress_is_shown_and_can_be_silent(maps, tmp_path, capsys):
    to_cog(maps, tmp_path / "one", variables=["permafrost"], progress=False)
    assert "".join(capsys.readouterr()) == ""
    to_cog(maps, tmp_path / "other", variables=["permafrost"])
    assert "to_cog: 100%" in "".join(capsys.readouterr())


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An empty bucket of a local server."""
    pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        with pytest.MonkeyPatch.context() as patch:
            for key, value in settings.items():
                patch.setenv(key, value)
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:
                with socket.socket() as knock:
                    if knock.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.2)
            fsspec.filesystem("s3").mkdir("maps")
            yield "s3://maps"
        server.terminate()


def test_files_in_a_bucket(maps, bucket, tmp_path):
    (path,) = to_cog(maps, f"{bucket}/tanana/", variables=["taxonomy"], progress=False)
    assert path == f"{bucket}/tanana/taxonomy.tif"
    filesystem = fsspec.filesystem("s3")
    filesystem.invalidate_cache()
    assert filesystem.find("maps/tanana") == ["maps/tanana/taxonomy.tif"]
    filesystem.get_file(path, str(tmp_path / "copy.tif"))
    assert faults(tmp_path / "copy.tif") == []
    with rasterio.open(tmp_path / "copy.tif") as file:
        np.testing.assert_array_equal(file.read(1), maps.taxonomy)
    with pytest.raises(StoreError, match=r"exist in s3://maps/tanana"):
        to_cog(maps, f"{bucket}/tanana", variables=["taxonomy"])


def test_a_pyramid_in_a_bucket(maps, bucket):
    store = f"{bucket}/pyramid.zarr"
    to_pyramid(maps[["taxonomy"]].compute(), store, levels=1, progress=False)
    np.testing.assert_array_equal(open_maps(f"{store}/0", codes=True).taxonomy, maps.taxonomy)
    assert open_maps(f"{store}/1").taxonomy.shape == (38, 31)
    to_pyramid(open_maps(f"{store}/1"), store, levels=0, overwrite=True, progress=False)
    assert open_maps(f"{store}/0").taxonomy.shape == (38, 31)
    filesystem = fsspec.filesystem("s3")
    filesystem.invalidate_cache()
    assert not filesystem.exists("maps/pyramid.zarr/1")
    assert not filesystem.exists("maps/pyramid.zarr.new")


# Errors of both, before anything is computed or written


@pytest.mark.parametrize("verb", [to_cog, to_pyramid])
def test_what_the_metadata_tell_is_said_at_once(verb, maps, tmp_path, no_compute):
    series = maps[["taxonomy_probability"]].expand_dims(time=[2020, 2021])
    cases = [
        (maps.drop_vars("spatial_ref"), {}, GridError, "no CRS"),
        (series, {}, GridError, r"'taxonomy_probability' has dimensions \('time', 'taxon', 'y', 'x'\)"),
        (maps[[]], {}, BandError, "no map"),
        (maps, {"classes": "median"}, SpecError, "classes is 'median'"),
    ]
    for ds, options, error, words in cases:
        with no_compute(), pytest.raises(error, match=words):
            verb(ds, tmp_path / "there", **options)
    assert list(tmp_path.iterdir()) == []


def test_errors_of_geotiffs(maps, tmp_path, no_compute):
    bands = maps.assign(day=maps.permafrost.astype("datetime64[s]"), profile=("depth", [1.0, 2.0]))
    painted = maps.assign(permafrost=maps.permafrost.assign_attrs(flag_colors="red blue"))
    cases = [
        (maps, {"variables": ["permafrost", "soil"]}, BandError, r"no variables \['soil'\]; its maps are \['permafrost"),
        (maps, {"variables": "permafrost"}, BandError, r"give a list of names, \['permafrost'\]"),
        (maps, {"variables": []}, BandError, "no map"),
        (bands, {"variables": ["profile"]}, GridError, r"'profile' has dimensions \('depth',\)"),
        (bands, {"variables": ["day"]}, BandError, r"'day' is datetime64\[s\], which GDAL does not know"),
        (painted, {}, BandError, "#rrggbb"),
        (maps, {"blocksize": 136}, SpecError, "multiple of 16"),
        (maps, {"blocksize": 64}, SpecError, "at least 128"),
        (maps, {"classes": "probability"}, SpecError, "must be 'mode' or 'nearest'"),
    ]
    for ds, options, error, words in cases:
        with no_compute(), pytest.raises(error, match=words):
            to_cog(ds, tmp_path / "there", **options)
    assert list(tmp_path.iterdir()) == []


# Pyramids


@pytest.fixture(scope="module")
def pyramid(maps, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pyramid") / "maps.zarr"
    maps.miso.to_pyramid(path, levels=3, classes="probability", progress=False)
    return path


def test_level_0_is_the_dataset(maps, pyramid, tmp_path):
    to_zarr(maps, tmp_path / "maps.zarr", progress=False)
    xr.testing.assert_identical(open_maps(pyramid / "0"), open_maps(tmp_path / "maps.zarr"))


def test_every_level_has_its_own_grid(maps, pyramid):
    box = geobox_of(maps)
    for level in range(4):
        plain = xr.open_zarr(pyramid, group=str(level), consolidated=False)
        assert plain.rio.crs.to_epsg() == 3338
        assert plain.permafrost_probability.rio.crs.to_epsg() == 3338
        assert plain.rio.transform()[:6] == (20.0 * 2**level, 0.0, box.affine.c, 0.0, -20.0 * 2**level, box.affine.f)
        assert plain.permafrost.shape == (-(-SHAPE[0] // 2**level), -(-SHAPE[1] // 2**level))
        np.testing.assert_allclose(plain.x[0], box.affine.c + 10 * 2**level)
        attrs = zarr.open_group(pyramid / str(level), mode="r").attrs
        assert attrs["spatial:transform"][0] == 20.0 * 2**level
        assert attrs["spatial:shape"] == list(plain.permafrost.shape)


def test_levels_are_means_and_most_probable_classes(maps, pyramid):
    want = {name: maps[name].values for name in ("permafrost_probability", "taxonomy_probability")}
    for level in range(1, 4):
        want = {name: halved(values) for name, values in want.items()}
        found = open_maps(pyramid / str(level), codes=True).compute()
        for name, values in want.items():
            assert found[name].dtype == "float32"
            np.testing.assert_allclose(found[name], values, rtol=1e-6)
        np.testing.assert_allclose(found.taxonomy_probability.sum("taxon").where(found.taxonomy != FILL, 1), 1, rtol=1e-5)
        binary = np.where(np.isnan(want["permafrost_probability"]), FILL, want["permafrost_probability"] >= 0.5)
        np.testing.assert_array_equal(found.permafrost, binary)
        several = want["taxonomy_probability"]
        np.testing.assert_array_equal(
            found.taxonomy, np.where(np.isnan(several[0]), FILL, np.argmax(np.nan_to_num(several), axis=0))
        )
        assert found.taxonomy.dtype == "uint8"
        assert found.taxonomy.attrs == open_maps(pyramid / "0", codes=True).taxonomy.attrs


def test_classes_alone_go_by_mode_and_by_nearest(maps, tmp_path):
    to_pyramid(maps[["taxonomy"]], tmp_path / "mode.zarr", levels=2, progress=False)
    to_pyramid(maps, tmp_path / "nearest.zarr", levels=2, classes="nearest", progress=False)
    for level in (1, 2):
        below, found = (open_maps(tmp_path / "mode.zarr" / str(each), codes=True).taxonomy.values for each in (level - 1, level))
        assert are_most_frequent(found, below)
        below, found = (open_maps(tmp_path / "nearest.zarr" / str(each), codes=True).taxonomy.values for each in (level - 1, level))
        np.testing.assert_array_equal(found, below[::2, ::2])
    assert (found != open_maps(tmp_path / "mode.zarr" / "2", codes=True).taxonomy).any()


def test_any_chunks_give_the_same_levels(maps, pyramid, tmp_path):
    to_pyramid(
        maps.chunk({"y": 27, "x": 30, "taxon": 3}), tmp_path / "chunked.zarr", levels=3, classes="probability", progress=False
    )
    to_pyramid(maps.compute(), tmp_path / "whole.zarr", levels=3, classes="probability", progress=False)
    for name in ("chunked.zarr", "whole.zarr"):
        for level in "123":
            xr.testing.assert_identical(open_maps(tmp_path / name / level), open_maps(pyramid / level))


def test_the_multiscales_convention(maps, pyramid):
    attrs = json.loads((pyramid / "zarr.json").read_text())["attributes"]
    assert [convention["name"] for convention in attrs["zarr_conventions"]] == ["proj", "spatial", "multiscales"]
    assert attrs["zarr_conventions"][2]["uuid"] == "d35379db-88df-4056-af3a-620245f8e347"
    layout = attrs["multiscales"]["layout"]
    assert [entry["asset"] for entry in layout] == ["0", "1", "2", "3"]
    assert [entry.get("derived_from") for entry in layout] == [None, "0", "1", "2"]
    assert "transform" not in layout[0]
    assert all(entry["transform"] == {"scale": [2.0, 2.0], "translation": [0.0, 0.0]} for entry in layout[1:])
    assert [entry["spatial:shape"] for entry in layout] == [[75, 61], [38, 31], [19, 16], [10, 8]]
    assert [entry["spatial:transform"][0] for entry in layout] == [20.0, 40.0, 80.0, 160.0]
    assert attrs["proj:code"] == "EPSG:3338"
    assert attrs["simulated"] == 1


def test_every_level_knows_where_it_comes_from(maps, pyramid):
    for level in "0123":
        again = open_maps(pyramid / level)
        assert again.attrs["simulated"] == 1
        assert again.attrs["provenance"] == maps.attrs["provenance"]


def test_a_pyramid_holds_its_levels_and_no_records(pyramid):
    assert sorted(path.name for path in pyramid.iterdir()) == ["0", "1", "2", "3", "zarr.json"]
    assert [path.name for path in pyramid.parent.iterdir()] == [pyramid.name]


def test_a_tree_of_all_levels_opens(pyramid):
    tree = xr.open_datatree(pyramid, engine="zarr", consolidated=False)
    assert tree["2"].ds.permafrost.shape == (19, 16)


@pytest.mark.parametrize(("shape", "count"), [((1, 1), 0), ((3, 512), 0), ((1, 513), 1), ((1025, 2), 2)])
def test_levels_until_the_map_fits_in_512_pixels(shape, count, tmp_path):
    to_pyramid(make_cube(shape, SENTINEL2[:1]), tmp_path / "cube.zarr", progress=False)
    assert len(zarr.open_group(tmp_path / "cube.zarr", mode="r").attrs["multiscales"]["layout"]) == count + 1
    assert max(open_maps(tmp_path / "cube.zarr" / str(count)).red.shape) <= 512


def test_as_many_levels_as_there_can_be(tmp_path, no_compute):
    cube = make_cube((5, 9), SENTINEL2[:1])
    to_pyramid(cube, tmp_path / "cube.zarr", levels=np.int64(4), progress=False)
    assert open_maps(tmp_path / "cube.zarr" / "4").red.shape == (1, 1)
    for levels in (-1, 5, True, 1.0):
        with no_compute(), pytest.raises(SpecError, match=f"levels is {levels}; a map of 5 x 9 pixels can have 0 to 4"):
            to_pyramid(cube, tmp_path / "other.zarr", levels=levels)


def test_other_variables_are_kept(tmp_path):
    cube = make_cube((8, 6), SENTINEL2[:1]).assign(profile=("depth", [1.0, 2.0]), year=2021)
    to_pyramid(cube, tmp_path / "cube.zarr", levels=1, progress=False)
    again = open_maps(tmp_path / "cube.zarr" / "1")
    np.testing.assert_array_equal(again.profile, [1.0, 2.0])
    assert again.year == 2021


def test_an_existing_pyramid_is_kept_or_replaced(maps, tmp_path, no_compute):
    path = tmp_path / "maps.zarr"
    to_pyramid(maps, path, levels=1, progress=False)
    with no_compute(), pytest.raises(StoreError, match=r"maps\.zarr exists; give another path, or overwrite=True"):
        to_pyramid(maps, path)
    with pytest.raises(RuntimeError, match="a worker died"):
        to_pyramid(failing(maps), path, overwrite=True, progress=False)
    np.testing.assert_array_equal(open_maps(path / "0", codes=True).permafrost, maps.permafrost)
    # From the store that is replaced, over what the failure has left beside it.
    to_pyramid(open_maps(path / "0")[["permafrost"]], path, levels=2, overwrite=True, progress=False)
    assert [each.name for each in tmp_path.iterdir()] == ["maps.zarr"]
    assert open_maps(path / "2").permafrost.shape == (19, 16)


def test_an_unfinished_pyramid_is_none(maps, tmp_path):
    with pytest.raises(RuntimeError, match="a worker died"):
        to_pyramid(failing(maps), tmp_path / "maps.zarr", progress=False)
    with pytest.raises(StoreError, match="no store of maps"):
        open_maps(tmp_path / "maps.zarr")
    to_pyramid(maps, tmp_path / "maps.zarr", levels=1, progress=False)
    assert [each.name for each in tmp_path.iterdir()] == ["maps.zarr"]


def test_overwrite_never_deletes_what_is_no_store(maps, tmp_path):
    for name in ("home", "home.new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match="home exists and is no Zarr v3 store"):
        to_pyramid(maps, tmp_path / "home", overwrite=True, progress=False)
    shutil.rmtree(tmp_path / "home")
    to_pyramid(maps, tmp_path / "home", levels=1, overwrite=True, progress=False)
    assert (tmp_path / "home.new" / "thesis.txt").read_text() == "years of work"


def test_class_maps_read_from_geotiffs_serve_every_verb(maps, tmp_path):
    rioxarray = pytest.importorskip("rioxarray")
    pytest.importorskip("matplotlib").use("Agg")
    expected = maps[["permafrost"]].miso.area()
    (path,) = maps.miso.to_cog(tmp_path / "first", variables=["permafrost"], blocksize=BLOCK, progress=False)
    for masked in (False, True):
        read = rioxarray.open_rasterio(path, masked=masked).to_dataset(name="permafrost")
        assert read.miso.area().equals(expected)
        assert read.miso.plot().axes[0].get_images()
        read.miso.report(tmp_path / "report.html", overwrite=True)
        flat = read.squeeze("band", drop=True)
        flat.miso.to_pyramid(tmp_path / "pyramid.zarr", levels=1, overwrite=True, progress=False)
        assert open_maps(tmp_path / "pyramid.zarr/0").miso.area().equals(expected)
        (again,) = flat.miso.to_cog(tmp_path / "second", blocksize=BLOCK, overwrite=True, progress=False)
        with rasterio.open(path) as one, rasterio.open(again) as other:
            assert other.tags()["flag_values"] == one.tags()["flag_values"]
            assert other.colormap(1) == one.colormap(1)


def test_names_of_classes_in_a_list_are_one_tag(maps, tmp_path):
    listed = maps[["permafrost"]].copy()
    listed["permafrost"] = listed.permafrost.assign_attrs(flag_meanings=["no ice", "ice"])
    (path,) = listed.miso.to_cog(tmp_path, blocksize=BLOCK, progress=False)
    with rasterio.open(path) as file:
        assert file.tags()["flag_meanings"] == "no_ice ice"


def test_directions_are_not_averaged_in_coarser_levels(tmp_path):
    """The middle of 359 and 1 is no south."""
    aspect = np.where(np.arange(1100) % 2, 359.0, 1.0)[None].repeat(520, 0).astype("float32")
    box = GeoBox(aspect.shape, Affine(10, 0, 300_000, 0, -10, 1_500_000), "EPSG:3338")
    ds = assign(xr.Dataset({"aspect": (("y", "x"), aspect, {"units": "degree"})}), box).chunk(y=260, x=550)
    (path,) = ds.miso.to_cog(tmp_path / "cogs", blocksize=BLOCK, progress=False)
    to_pyramid(ds, tmp_path / "pyramid.zarr", levels=2, progress=False)
    for level in (0, 1):
        assert set(np.unique(overview(Path(path), level))) <= {1.0, 359.0}
        assert set(np.unique(open_maps(tmp_path / f"pyramid.zarr/{level + 1}").aspect)) <= {1.0, 359.0}
