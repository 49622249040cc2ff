"""Maps in Zarr: back as they were, with their CRS for every reader, and never at the cost of what is there."""

import hashlib
import json
import warnings
from functools import partial
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import rioxarray  # noqa: F401
import xarray as xr
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.xr import ODCExtensionDs  # noqa: F401

from misoxr.cube.variables import FILL
from misoxr.errors import AssetError, GridError, MisoxrWarning, StoreError
from misoxr.grid.geobox import geobox_of, same_grid
from misoxr.io import blocks
from misoxr.io.layout import SIDECAR, open_maps
from misoxr.io.zarr import to_zarr
from misoxr.mapping.predict import predict
from misoxr.spec import SENTINEL2, ModelSpec
from tests.conftest import make_cube, make_model, tiny_spec

pytestmark = pytest.mark.filterwarnings("error::zarr.errors.ZarrUserWarning")


@pytest.fixture(scope="module")
def maps(model, spec: ModelSpec) -> xr.Dataset:
    """A predicted map with a hole, computed but in chunks that no Zarr grid could hold."""
    cube = make_cube((50, 41), spec.bands)
    for name in ("red", "nir"):
        cube[name][10:14, 20:30] = np.nan
    return predict(cube, model, device="cpu").compute().chunk({"y": (9, 20, 1, 20), "x": (30, 11)})


@pytest.fixture(scope="module")
def stored(maps, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("stored") / "maps.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_zarr(maps, path, progress=False)
    return path


def plain(path: object) -> xr.Dataset:
    """What a user of plain xarray sees, without a warning."""
    return xr.open_zarr(str(path), consolidated=False)


# Back as they were


def test_plain_xarray_reads_the_values(maps, stored):
    again = plain(stored)
    assert set(again.data_vars) == set(maps.data_vars)
    for name in ("permafrost_probability", "taxonomy_probability"):
        assert again[name].dtype == "float32"
        assert again[name].dims == maps[name].dims
        np.testing.assert_array_equal(again[name], maps[name])
        assert again[name].isnull().any()
    np.testing.assert_array_equal(again.taxon, maps.taxon)
    for name in ("y", "x"):
        np.testing.assert_array_equal(again[name], maps[name])


def test_class_maps_are_floats_as_in_plain_xarray_or_codes_where_they_are_asked_for(maps, stored):
    floats, codes = open_maps(stored), open_maps(stored, codes=True)
    for name in ("permafrost", "taxonomy"):
        xr.testing.assert_identical(floats[name], plain(stored)[name])
        assert floats[name].dtype == "float32"
        assert codes[name].dtype == "uint8"
        np.testing.assert_array_equal(codes[name], maps[name])
        np.testing.assert_array_equal(floats[name].isnull(), maps[name] == FILL)
        np.testing.assert_array_equal(floats[name].fillna(FILL), maps[name])
        assert codes[name].attrs["_FillValue"] == FILL
        assert codes[name].attrs["flag_meanings"] == maps[name].attrs["flag_meanings"]
        np.testing.assert_array_equal(codes[name].attrs["flag_values"], maps[name].attrs["flag_values"])


def test_open_maps_keeps_nan_and_stays_lazy(maps, stored, no_compute):
    with no_compute():
        codes = open_maps(stored)
    assert isinstance(codes.taxonomy.data, da.Array)
    np.testing.assert_array_equal(codes.permafrost_probability, maps.permafrost_probability)


@pytest.mark.parametrize("opened", [open_maps, partial(open_maps, codes=True), plain], ids=["floats", "codes", "plain"])
def test_what_is_opened_is_written_alike(opened, stored, tmp_path):
    to_zarr(opened(stored), tmp_path / "again.zarr", progress=False)
    again = zarr.open_group(tmp_path / "again.zarr", mode="r")
    assert again["taxonomy"].dtype == "uint8"
    assert again["taxonomy"].attrs["_FillValue"] == again["taxonomy"].fill_value == FILL
    xr.testing.assert_equal(open_maps(tmp_path / "again.zarr"), open_maps(stored))
    if opened is not plain:  # which leaves the provenance in its group
        xr.testing.assert_identical(open_maps(tmp_path / "again.zarr"), open_maps(stored))


def test_what_plain_xarray_gives_can_be_written(maps, stored, tmp_path):
    to_zarr(plain(stored)[["permafrost_probability"]], tmp_path / "again.zarr", progress=False)
    np.testing.assert_array_equal(open_maps(tmp_path / "again.zarr").permafrost_probability, maps.permafrost_probability)


@pytest.mark.parametrize("opened", [open_maps, plain], ids=["open_maps", "plain"])
def test_maps_with_coordinates_of_two_dimensions_are_read_written_and_mapped_again(opened, tmp_path):
    """Stores chunk such coordinates otherwise than the maps."""
    spec = tiny_spec()
    cube = make_cube((96, 80), spec.bands).chunk({"y": 32, "x": 40})
    latitude = xr.DataArray(np.arange(96.0 * 80).reshape(96, 80), dims=("y", "x"))
    to_zarr(cube.assign_coords(latitude=latitude), tmp_path / "cube.zarr", progress=False)
    again = opened(tmp_path / "cube.zarr")
    assert again.latitude.variable.chunksizes != again.red.variable.chunksizes
    to_zarr(again, tmp_path / "again.zarr", progress=False)
    xr.testing.assert_equal(open_maps(tmp_path / "again.zarr"), open_maps(tmp_path / "cube.zarr"))
    again.miso.to_pyramid(tmp_path / "pyramid.zarr", levels=1, progress=False)
    np.testing.assert_array_equal(open_maps(tmp_path / "pyramid.zarr/0").latitude, latitude)
    model = make_model(spec)
    np.testing.assert_array_equal(*(ds.miso.predict(model, device="cpu").permafrost_probability for ds in (again, cube)))
    name = spec.bands[-1].name
    joined = again.drop_vars(name).miso.add(**{name: cube[name]})
    assert joined[name].variable.chunksizes == again.red.variable.chunksizes


# Georeferencing


def test_rioxarray_and_odc_geo_find_the_grid(maps, stored):
    again = plain(stored)
    assert again.rio.crs.to_epsg() == 3338
    assert again.permafrost_probability.rio.crs.to_epsg() == 3338
    assert again.rio.transform().almost_equals(geobox_of(maps).affine)
    assert again.odc.geobox == geobox_of(maps)
    assert same_grid(geobox_of(again), geobox_of(maps))
    assert again.rio.bounds() == pytest.approx((300_000, 1_499_000, 300_820, 1_500_000))


def test_rioxarray_reprojects_and_clips_codes(maps, stored):
    for each in (open_maps(stored, codes=True), maps.compute()):
        assert each.taxonomy.rio.nodata == FILL
        moved = each[["permafrost", "permafrost_probability"]].rio.reproject("EPSG:4326")
        assert moved.permafrost.dtype == "uint8"
        assert set(np.unique(moved.permafrost)) <= {0, 1, FILL}
        assert FILL in moved.permafrost
        assert each.permafrost.rio.clip_box(300_100, 1_499_100, 300_500, 1_499_500).dtype == "uint8"


def test_geozarr_attributes(stored):
    attrs = zarr.open_group(stored, mode="r").attrs.asdict()
    assert attrs["proj:code"] == "EPSG:3338"
    assert "Alaska Albers" in attrs["proj:wkt2"]
    assert attrs["spatial:dimensions"] == ["y", "x"]
    assert attrs["spatial:shape"] == [50, 41]
    assert attrs["spatial:transform"] == [20.0, 0.0, 300_000.0, 0.0, -20.0, 1_500_000.0]
    assert attrs["spatial:bbox"] == [300_000.0, 1_499_000.0, 300_820.0, 1_500_000.0]
    assert attrs["spatial:registration"] == "pixel"
    assert [convention["name"] for convention in attrs["zarr_conventions"]] == ["proj", "spatial"]


def test_every_map_names_its_grid_mapping(stored):
    group = zarr.open_group(stored, mode="r")
    for name in ("permafrost", "permafrost_probability", "taxonomy", "taxonomy_probability"):
        assert group[name].attrs["grid_mapping"] == "spatial_ref"
    assert "Alaska Albers" in group["spatial_ref"].attrs["crs_wkt"]


def test_a_grid_mapping_in_the_encoding_is_kept(tmp_path):
    """Where xarray puts it with decode_coords="all", and rioxarray with write_crs."""
    cube = make_cube((8, 6), SENTINEL2[:1])
    to_zarr(cube, tmp_path / "one.zarr", progress=False)
    decoded = xr.open_zarr(tmp_path / "one.zarr", consolidated=False, decode_coords="all")
    assert "grid_mapping" not in decoded.red.attrs
    to_zarr(decoded, tmp_path / "other.zarr", progress=False)
    assert zarr.open_group(tmp_path / "other.zarr", mode="r")["red"].attrs["grid_mapping"] == "spatial_ref"


# Format


def test_zarr_v3_with_nan_and_255_as_fill(stored):
    group = zarr.open_group(stored, mode="r")
    assert group.metadata.zarr_format == 3
    assert np.isnan(group["permafrost_probability"].fill_value)
    assert group["taxonomy"].dtype == "uint8"
    assert group["taxonomy"].attrs["_FillValue"] == FILL


def test_irregular_chunks_become_one_size(maps, stored):
    group = zarr.open_group(stored, mode="r")
    assert maps.permafrost.chunks == ((9, 20, 1, 20), (30, 11))
    assert group["permafrost"].chunks == (20, 30)
    assert group["taxonomy_probability"].chunks == (7, 20, 30)


def chunks_of(length: int) -> st.SearchStrategy[tuple[int, ...]]:
    cuts = st.sets(st.integers(1, length - 1), max_size=5)
    return cuts.map(lambda inner: tuple(int(n) for n in np.diff([0, *sorted(inner), length])))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(y=chunks_of(23), x=chunks_of(17), other=chunks_of(23))
def test_any_chunks_are_written_right(tmp_path_factory, y, x, other):
    cube = make_cube((23, 17), SENTINEL2[:3])
    chunked = cube.assign(red=cube.red.chunk({"y": y, "x": x}), green=cube.green.chunk({"y": other}))
    path = tmp_path_factory.mktemp("chunks") / "cube.zarr"
    to_zarr(chunked, path, progress=False)
    again = plain(path)
    for band in SENTINEL2[:3]:
        np.testing.assert_array_equal(again[band.name], cube[band.name])


def test_each_block_is_computed_once(tmp_path):
    cube = make_cube((40, 30), SENTINEL2[:1])
    seen: list[tuple[int, ...]] = []

    def watch(block: np.ndarray) -> np.ndarray:
        seen.append(block.shape)
        return block

    lazy = da.map_blocks(watch, da.from_array(cube.red.values, chunks=(20, 15)), dtype="float32", meta=np.empty((0, 0), "float32"))
    with dask.config.set(scheduler="sync"):
        to_zarr(cube.assign(red=(("y", "x"), lazy)), tmp_path / "cube.zarr", progress=False)
    assert seen == [(20, 15)] * 4


@pytest.mark.parametrize("kind", [str, Path, lambda path: f"{path}/", lambda path: f"file://{path}"])
def test_paths_and_urls(kind, tmp_path):
    cube = make_cube((8, 6), SENTINEL2[:1])
    target = kind(tmp_path / "deep" / "er" / "cube.zarr")
    to_zarr(cube, target, progress=False)
    np.testing.assert_array_equal(open_maps(target).red, cube.red)


def test_numpy_backed_and_integer_and_time(tmp_path):
    cube = make_cube((8, 6), SENTINEL2[:1])
    cube["count"] = (("y", "x"), np.arange(48, dtype="int16").reshape(8, 6))
    times = xr.concat([cube.red, cube.red * np.nan], pd.Index(pd.to_datetime(["2020-07-01", "2021-07-01"]), name="time"))
    cube["series"] = times.transpose("time", "y", "x")
    to_zarr(cube, tmp_path / "cube.zarr", progress=False)
    again = plain(tmp_path / "cube.zarr")
    assert again["count"].dtype == "int16"
    np.testing.assert_array_equal(again["count"], cube["count"])
    np.testing.assert_array_equal(again.series, cube.series)
    np.testing.assert_array_equal(again.time, cube.time)


def test_the_encoding_of_another_file_does_not_disturb(tmp_path):
    """Packed integers with chunks of their own, opened lazily and chunked otherwise."""
    cube = make_cube((40, 30), SENTINEL2[:1])
    cube["red"][3, 4] = np.nan
    cube["count"] = (("y", "x"), np.arange(1200, dtype="int16").reshape(40, 30))
    packed = {"dtype": "int16", "scale_factor": 1e-4, "_FillValue": -9999, "chunks": (16, 16)}
    cube.to_zarr(tmp_path / "packed.zarr", consolidated=False, encoding={"red": packed, "count": {"chunks": (16, 16)}})
    source = plain(tmp_path / "packed.zarr")
    to_zarr(source.chunk({"y": 13, "x": 30}), tmp_path / "lazy.zarr", progress=False)
    to_zarr(source.compute(), tmp_path / "eager.zarr", progress=False)
    for name in ("lazy.zarr", "eager.zarr"):
        again = open_maps(tmp_path / name)
        assert np.issubdtype(again.red.dtype, np.floating)
        np.testing.assert_array_equal(again.red, source.red)
        np.testing.assert_array_equal(again["count"], cube["count"])


def test_no_crs_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(GridError, match="no CRS"):
        to_zarr(make_cube((8, 6), SENTINEL2[:1]).drop_vars("spatial_ref"), tmp_path / "cube.zarr", progress=False)
    assert not list(tmp_path.iterdir())


# Provenance


def test_provenance_lies_beside_the_maps(maps, stored, model):
    again = plain(stored)
    sidecar = xr.open_zarr(stored, group=SIDECAR, consolidated=False).attrs
    assert "provenance" not in again.attrs
    assert sidecar["model_sha256"] == model.sha256 == again.attrs["model_sha256"]
    assert sidecar["windows"]["size"] == model.spec.windows.size
    text = json.dumps(sidecar, sort_keys=True)
    assert text == open_maps(stored).attrs["provenance"] == maps.attrs["provenance"]
    assert hashlib.sha256(text.encode()).hexdigest() == again.attrs["provenance_sha256"] == maps.attrs["provenance_sha256"]


def test_a_dataset_without_provenance_has_no_sidecar(tmp_path):
    cube = make_cube((8, 6), SENTINEL2[:1]).assign_attrs(provenance="from my drawer")
    to_zarr(cube, tmp_path / "cube.zarr", progress=False)
    assert not (tmp_path / "cube.zarr" / SIDECAR).exists()
    assert plain(tmp_path / "cube.zarr").attrs["provenance"] == "from my drawer"


# What is there


@pytest.fixture
def there(tmp_path: Path) -> Path:
    path = tmp_path / "cube.zarr"
    to_zarr(make_cube((8, 6), SENTINEL2[:1]), path, progress=False)
    return path


def test_an_existing_store_is_kept(there):
    with pytest.raises(
        StoreError,
        match=r"cube\.zarr exists, and was written with other values: .*grid\.shape was \[8, 6\] and is \[5, 5\].* give another path, or overwrite=True",
    ):
        to_zarr(make_cube((5, 5), SENTINEL2[:2]), there, progress=False)
    xr.testing.assert_equal(plain(there).compute(), make_cube((8, 6), SENTINEL2[:1]))


@pytest.mark.parametrize("memory", [False, True])
def test_overwrite_replaces_all_of_it(there, memory):
    store = "memory://replaced.zarr" if memory else there
    if memory:
        to_zarr(make_cube((8, 6), SENTINEL2[:1]), store, progress=False)
    other = make_cube((5, 5), SENTINEL2[1:3], seed=1)
    to_zarr(other, store, overwrite=True, progress=False)
    xr.testing.assert_equal(plain(store).compute(), other)
    assert sorted(path.name for path in there.parent.iterdir()) == ["cube.zarr", "cube.zarr.progress"]


def test_what_lies_beside_the_maps_is_written_too(tmp_path):
    cube = make_cube((8, 6), SENTINEL2[:1]).assign(profile=("depth", [1.0, 2.0]), year=2021)
    cube = cube.assign_coords(longitude=(("y", "x"), np.arange(48.0).reshape(8, 6)))
    for name, ds in (("memory", cube), ("lazy", cube.chunk({"y": 4}))):
        to_zarr(ds, tmp_path / name, progress=False)
        xr.testing.assert_equal(open_maps(tmp_path / name).compute(), cube)


def test_overwrite_of_nothing_is_a_first_write(tmp_path):
    to_zarr(make_cube((8, 6), SENTINEL2[:1]), tmp_path / "new.zarr", overwrite=True, progress=False)
    assert (plain(tmp_path / "new.zarr").red > 0).all()


def test_a_store_can_be_replaced_by_what_is_read_from_it(there):
    before = make_cube((8, 6), SENTINEL2[:1])
    to_zarr(plain(there) * 2, there, overwrite=True, progress=False)
    np.testing.assert_allclose(plain(there).red, before.red * 2)


def test_a_failure_keeps_what_was_to_be_replaced(there):
    def fail(block: np.ndarray) -> np.ndarray:
        raise ValueError("no such luck")

    cube = make_cube((8, 6), SENTINEL2[:1])
    lazy = da.map_blocks(fail, da.zeros((8, 6), dtype="float32"), dtype="float32", meta=np.empty((0, 0), "float32"))
    with pytest.raises(ValueError, match="no such luck"):
        to_zarr(cube.assign(red=(("y", "x"), lazy)), there, overwrite=True, progress=False)
    xr.testing.assert_equal(plain(there).compute(), cube)


def test_an_unfinished_store_says_so(spec, tmp_path):
    ds = make_cube((40, 40), spec.bands)

    def refuse(values):
        raise RuntimeError("a worker died")

    lazy = ds.assign(
        red=ds.red.copy(data=da.from_array(ds.red.values, 20).map_blocks(refuse, dtype="float32", meta=np.empty((0, 0))))
    )
    with pytest.raises(RuntimeError, match="a worker died"):
        to_zarr(lazy, tmp_path / "a.zarr", progress=False)
    with pytest.warns(MisoxrWarning, match="is not finished: 0 of its blocks"):
        assert open_maps(tmp_path / "a.zarr").red.isnull().all()
    with pytest.raises(
        StoreError, match=r"a\.zarr exists, and was written with other values: block was \[20, 20\] and is \[40, 40\]"
    ):
        to_zarr(ds, tmp_path / "a.zarr", progress=False)
    to_zarr(ds, tmp_path / "a.zarr", overwrite=True, progress=False)
    np.testing.assert_array_equal(open_maps(tmp_path / "a.zarr").red, ds.red)


def test_overwrite_never_deletes_what_is_no_store(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("more work")
    for name in ("home", "file"):
        with pytest.raises(StoreError, match=f"{name} exists and is no Zarr v3 store"):
            to_zarr(make_cube((8, 6), SENTINEL2[:1]), tmp_path / name, overwrite=True, progress=False)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "more work"


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"file/cube\.zarr cannot be written"):
        to_zarr(make_cube((8, 6), SENTINEL2[:1]), tmp_path / "file" / "cube.zarr", progress=False)


def test_an_input_that_cannot_be_read_is_not_the_store_s_fault(tmp_path):
    def fail(block: np.ndarray) -> np.ndarray:
        raise AssetError("the asset cannot be read")

    lazy = da.map_blocks(fail, da.zeros((8, 6), dtype="float32"), dtype="float32", meta=np.empty((0, 0), "float32"))
    cube = make_cube((8, 6), SENTINEL2[:1]).assign(red=(("y", "x"), lazy))
    with pytest.raises(AssetError, match="the asset cannot be read"):
        to_zarr(cube, tmp_path / "cube.zarr", progress=False)


def test_opening_what_is_no_store(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("nothing", "empty"):
        with pytest.raises(StoreError, match=f"no store of maps at .*{name}"):
            open_maps(tmp_path / name)


# Progress


def test_progress_is_shown_and_can_be_silent(tmp_path, capsys):
    cube = make_cube((8, 6), SENTINEL2[:1]).chunk({"y": 4})
    to_zarr(cube, tmp_path / "one.zarr", progress=False)
    assert "".join(capsys.readouterr()) == ""
    to_zarr(cube, tmp_path / "other.zarr")
    out, err = capsys.readouterr()
    assert out == ""
    assert "to_zarr: 100%" in err
    assert "2/2 blocks" in err


def test_one_bar_tells_all_that_is_done_from_the_plan_to_the_seal(tmp_path, capsys):
    cube = make_cube((8, 6), SENTINEL2[:1]).chunk({"y": 4})
    for what in (cube, cube):  # the second time, all is there
        to_zarr(what, tmp_path / "cube.zarr")
        err = capsys.readouterr().err
        places = [err.index(words) for words in ("to_zarr, planning", "to_zarr, looking", "to_zarr: ", "to_zarr, sealing: 100%")]
        assert places == sorted(places)
        assert err.count("\n") == 1
        assert err.rpartition("\r")[2].startswith("to_zarr: 100%")


def test_a_dask_client_writes_too(tmp_path, capsys):
    distributed = pytest.importorskip("distributed")
    cube = make_cube((8, 6), SENTINEL2[:1])
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None):
        to_zarr(cube.chunk({"y": 4}), tmp_path / "cube.zarr")
    np.testing.assert_array_equal(plain(tmp_path / "cube.zarr").red, cube.red)


@pytest.mark.filterwarnings("error:Sending large graph")
def test_an_array_in_memory_is_sent_to_a_cluster_once(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    sent, kept = [], blocks.kept
    monkeypatch.setattr(blocks, "LARGE", 100)
    monkeypatch.setattr(blocks, "kept", lambda client, make: sent.append(1) or kept(client, make))
    cube = make_cube((16, 12), SENTINEL2[:1])
    doubled = (cube.chunk({"y": 4}) * 2).assign_attrs(cube.attrs)
    doubled["again"] = doubled.red + 1
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None):
        to_zarr(doubled, tmp_path / "cube.zarr", progress=False)
    np.testing.assert_array_equal(open_maps(tmp_path / "cube.zarr").red, cube.red * 2)
    assert len(sent) == 4  # a chunk each, for both variables


def test_variables_keep_their_order(tmp_path):
    cube = make_cube((8, 6), SENTINEL2[:3])[["red", "blue", "green"]]
    to_zarr(cube, tmp_path / "cube.zarr", progress=False)
    assert list(open_maps(tmp_path / "cube.zarr").data_vars) == ["red", "blue", "green"]
    to_zarr(open_maps(tmp_path / "cube.zarr")[["green", "red"]], tmp_path / "other.zarr", progress=False)
    assert list(open_maps(tmp_path / "other.zarr").data_vars) == ["green", "red"]
    assert "misoxr_variables" not in open_maps(tmp_path / "other.zarr").attrs
