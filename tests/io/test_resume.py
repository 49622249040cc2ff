"""A store that is called again goes on with what it was begun with, and with nothing else; and it packs probabilities alone."""

import shutil
from pathlib import Path

import dask.array as da
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rioxarray  # noqa: F401
import xarray as xr

from misoxr.errors import StoreError
from misoxr.io.layout import open_maps
from misoxr.io.zarr import to_zarr
from misoxr.spec import SENTINEL2
from tests.conftest import make_cube, make_model, tiny_spec


def bytes_of(store: Path) -> dict[str, bytes]:
    """Every file of a store."""
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


# What is written is what the store was begun with


def in_years() -> xr.Dataset:
    """Red of two years, with a table, in two blocks."""
    ds = make_cube((8, 6), SENTINEL2[:1]).chunk({"y": 4})
    red = xr.concat([ds.red, ds.red], pd.Index([2019, 2020], name="year"))
    ds = ds.assign(series=red.transpose("year", "y", "x"), area=("region", [1.0, np.nan]))
    ds = ds.assign_coords(region=["north", "south"], when=("year", pd.to_datetime(["2019-07-01", "2020-07-01"])))
    ds.red.attrs |= {"flag_colors": "#ff0000 #0000ff", "range": np.array([0.0, np.inf]), "a": {"b": 1, "c": 2}}
    return ds.assign_attrs(title="a map", history="2020-01-01 made", created="now")


CHANGES = {
    "an index": (lambda ds: ds.assign_coords(year=[2021, 2022]), r"tables\.year was \"\[2019, 2020\]\" and is \"\[2021, 2022\]\""),
    "an index the other way": (lambda ds: ds.assign_coords(year=[2020, 2019]), r"tables\.year was"),
    "names": (lambda ds: ds.assign_coords(region=["south", "north"]), r"tables\.region was \"\['north', 'south'\]\" and is"),
    "times": (lambda ds: ds.assign_coords(when=("year", pd.to_datetime(["2019-07-01", "2020-07-02"]))), r"tables\.when was"),
    "a table": (lambda ds: ds.assign(area=("region", [1.0, 3.0])), r"tables\.area was \"\[1\.0, nan\]\" and is \"\[1\.0, 3\.0\]\""),
    "a lazy table": (lambda ds: ds.assign(area=("region", da.from_array([1.0, 3.0]))), r"tables\.area was"),
    "a table more": (lambda ds: ds.assign(more=1), r"tables\.more was null and is"),
    "a table less": (lambda ds: ds.drop_vars("area"), r"tables\.area was .* and is null"),
    "an attribute": (lambda ds: ds.assign_attrs(title="b map"), r"attributes\.title was \"a map\" and is \"b map\""),
    "an attribute more": (lambda ds: ds.assign_attrs(units="m"), r"attributes\.units was null and is \"m\""),
    "colours": (lambda ds: ds.assign(red=ds.red.assign_attrs(flag_colors="#00ff00")), r"attributes_of\.red\.flag_colors was .* is \"#00ff00\""),
    "a range": (lambda ds: ds.assign(red=ds.red.assign_attrs(range=[0.0, 1.0])), r"attributes_of\.red\.range was \[0\.0, \"Infinity\"\] and is"),
    "a mapping": (lambda ds: ds.assign(red=ds.red.assign_attrs(a={"b": 1, "c": 3})), r"attributes_of\.red\.a\.c was 2 and is 3"),
    "words of a coordinate": (lambda ds: ds.assign_coords(year=ds.year.assign_attrs(long_name="y")), r"attributes_of\.year\.long_name was"),
    "a fill value": (lambda ds: ds.assign(mask=ds.mask.assign_attrs(_FillValue=7)), r"attributes_of\.mask\._FillValue was null and is 7"),
}  # fmt: skip


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("begun") / "maps.zarr"
    to_zarr(with_mask(in_years()), path, progress=False)
    return path


def with_mask(ds: xr.Dataset) -> xr.Dataset:
    return ds.assign(mask=(ds.red > 0.2).astype("uint8"))


@pytest.mark.parametrize("what", CHANGES)
def test_another_coordinate_table_or_attribute_is_refused_and_said(what, begun):
    change, told = CHANGES[what]
    before = bytes_of(begun)
    with pytest.raises(StoreError, match=rf"was written with other values: {told}.*overwrite=True"):
        to_zarr(change(with_mask(in_years())), begun, progress=False)
    assert bytes_of(begun) == before


def test_the_order_of_attributes_and_when_something_was_made_are_no_difference(begun):
    ds = with_mask(in_years())
    ds.attrs = dict(reversed(ds.attrs.items())) | {"history": "2021-01-01 made again", "created": "later"}
    ds.red.attrs = dict(reversed(ds.red.attrs.items())) | {"a": {"c": 2, "b": 1}}
    to_zarr(ds, begun, progress=False)
    to_zarr(ds.assign_coords(region=np.array(["north", "south"], object)), begun, progress=False)


def test_a_map_of_an_estimator_goes_on(tmp_path, no_compute):
    """In another call of predict, and beside a network's."""
    tree = pytest.importorskip("sklearn.tree").DecisionTreeClassifier(random_state=0)
    spec = tiny_spec()
    cube = make_cube((32, 32), spec.bands).chunk({"y": 16})
    rng = np.random.default_rng(0)
    x, y = 300_000 + rng.uniform(0, 640, 60), 1_500_000 - rng.uniform(0, 640, 60)
    labels = {task.name: rng.choice(task.classes[:2], 60) for task in spec.tasks if task.kind != "regression"}
    points = gpd.GeoDataFrame(labels, geometry=gpd.points_from_xy(x, y), crs="EPSG:3338")
    fitted = cube.miso.fit(tree, points, like=spec)
    other = cube.miso.fit(tree.set_params(max_depth=1), points, like=spec)
    for name, one in {"one": fitted, "two": [make_model(spec), fitted]}.items():
        to_zarr(cube.miso.predict(one), tmp_path / name, progress=False)
        with no_compute():
            to_zarr(cube.miso.predict(one), tmp_path / name, progress=False)
    assert cube.miso.predict(fitted).permafrost.data.name != cube.miso.predict(other).permafrost.data.name
    with pytest.raises(StoreError, match=r"provenance\.model_sha256 was"):
        to_zarr(cube.miso.predict(other), tmp_path / "one", progress=False)


@pytest.mark.parametrize(
    "opened", [open_maps, lambda path: xr.open_zarr(path, consolidated=False) * 2, lambda path: xr.open_zarr(path, chunks=None)]
)
@pytest.mark.parametrize("memory", [False, True])
def test_a_store_that_is_read_from_is_not_written_onto(opened, memory, tmp_path, monkeypatch):
    store = f"memory://{tmp_path.name}/cube.zarr" if memory else tmp_path / "cube.zarr"
    monkeypatch.chdir(tmp_path)
    cube = make_cube((8, 6), SENTINEL2[:1])
    to_zarr(cube, store, progress=False)
    found = opened(store if memory else "cube.zarr")
    with pytest.raises(
        StoreError,
        match=r"You opened this very store: the dataset is read from .*cube\.zarr, onto which it would be written.*overwrite=True",
    ):
        to_zarr(found, store, progress=False)
    wanted = found.red.values
    to_zarr(found, store, overwrite=True, progress=False)
    np.testing.assert_array_equal(open_maps(store).red, wanted)


def test_reading_from_a_store_that_begins_alike_is_no_hindrance(tmp_path):
    to_zarr(make_cube((8, 6), SENTINEL2[:1]), tmp_path / "cube", progress=False)
    to_zarr(open_maps(tmp_path / "cube"), tmp_path / "cube2", progress=False)
    to_zarr(open_maps(tmp_path / "cube"), tmp_path / "cube2", progress=False)


# Written by the version before


BEFORE = Path(__file__).parents[1] / "data" / "before"
"""A store of 6 x 5 pixels with a class map, in two blocks, and its records, by the version that knew nothing of coordinates and attributes."""


def from_before() -> xr.Dataset:
    """What it was given."""
    cube = make_cube((6, 5), SENTINEL2[:1])
    cube["red"][2, 3] = np.nan
    codes = np.arange(30, dtype="uint8").reshape(6, 5) % 3
    codes[0, 0] = 255
    flags = {"flag_values": np.arange(3, dtype="uint8"), "flag_meanings": "a b c", "_FillValue": np.uint8(255)}
    return cube.assign(order=(("y", "x"), codes, flags)).chunk({"y": 3})


@pytest.fixture
def before(tmp_path) -> Path:
    shutil.copytree(BEFORE, tmp_path / "before")
    return tmp_path / "before" / "finished.zarr"


def test_a_store_of_the_version_before_opens(before):
    given = from_before()
    xr.testing.assert_equal(open_maps(before, codes=True), given)
    np.testing.assert_array_equal(open_maps(before).order, given.order.where(given.order != 255))
    assert open_maps(before).attrs == {}
    assert open_maps(before).rio.crs.to_epsg() == 3338


def test_a_store_of_the_version_before_is_not_gone_on_with_and_can_be_replaced(before):
    with pytest.raises(StoreError, match=r"finished\.zarr was begun by another version of misoxr.*overwrite=True to replace it"):
        to_zarr(from_before(), before, progress=False)
    xr.testing.assert_equal(open_maps(before, codes=True), from_before())
    to_zarr(from_before(), before, overwrite=True, progress=False)
    to_zarr(from_before(), before, progress=False)
    xr.testing.assert_equal(open_maps(before, codes=True), from_before())


# Compact, of what is no probability


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda p: p * 100, "from [0-9.]+ to [0-9.]+"),
        (lambda p: p - 0.5, "from -0.4[0-9]+ to"),
        (lambda p: np.log(p / (1 - p)), "from [-0-9.inf]+ to [-0-9.inf]+"),
        (lambda p: p / 0, "from inf to inf"),
    ],
)
@pytest.mark.parametrize("repository", [False, True])
def test_compact_refuses_what_is_no_probability(change, told, repository, tmp_path):
    cube = make_cube((8, 6), SENTINEL2[:1]).chunk({"y": 4}).drop_vars("red")
    values = np.linspace(0, 1, 48, dtype="float32").reshape(8, 6)
    values[0, 0] = np.nan
    p = change(xr.DataArray(da.from_array(values, chunks=(4, 6)), dims=("y", "x"))).assign_attrs(units="percent")
    store = tmp_path / "maps.zarr"
    if repository:
        icechunk = pytest.importorskip("icechunk")
        store = icechunk.Repository.open_or_create(icechunk.in_memory_storage())
    with (
        np.errstate(all="ignore"),
        pytest.raises(StoreError, match=f"probabilities, 0 to 1, and 'a_probability' holds values {told}"),
    ):
        to_zarr(cube.assign(a_probability=p), store, compact=True, progress=False)
    with np.errstate(all="ignore"):
        to_zarr(cube.assign(a_probability=p), store, overwrite=True, progress=False)
        np.testing.assert_array_equal(open_maps(store).a_probability, p)
    assert open_maps(store).a_probability.attrs["units"] == "percent"


def test_compact_takes_the_rounding_of_floats(tmp_path):
    values = np.full((8, 6), np.float32(1 + 1e-6))
    values[0] = -1e-6
    cube = make_cube((8, 6), SENTINEL2[:1]).assign(a_probability=(("y", "x"), values))
    to_zarr(cube, tmp_path / "maps.zarr", compact=True, progress=False)
    np.testing.assert_array_equal(open_maps(tmp_path / "maps.zarr").a_probability, np.clip(np.rint(values), 0, 1))
