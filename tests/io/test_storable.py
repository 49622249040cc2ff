"""What is written is what was given, whatever attributes are left over on it; what Zarr cannot hold is named."""

import datetime
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyproj
import pytest
import rasterio
import rioxarray  # noqa: F401
import xarray as xr
import zarr
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from misoxr.cube.decode import decoded
from misoxr.errors import MisoxrWarning, StoreError
from misoxr.io.layout import open_maps
from misoxr.io.storable import storable
from misoxr.io.zarr import to_zarr
from misoxr.spec import SENTINEL2
from tests.conftest import make_cube

RED = SENTINEL2[:1]
SHAPE = (8, 6)


def cube(**variables: object) -> xr.Dataset:
    """A small cube with further variables, in two blocks."""
    ds = make_cube(SHAPE, RED)
    return ds.assign({name: (("y", "x"), *value) for name, value in variables.items()}).chunk({"y": 4})


def written(ds: xr.Dataset, path: Path) -> xr.Dataset:
    """What is read again, after nothing was warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_zarr(ds, path, progress=False)
    return open_maps(path)


# Names


@pytest.mark.parametrize("name", ["B4/B8", "a\\b", ".", "..", "", "__x", "provenance", "zarr.json", "../up", "/root"])
@pytest.mark.parametrize("verb", ["to_zarr", "to_cog", "to_pyramid", "plan"])
def test_a_name_that_is_a_path_is_refused_before_anything_is_written(name, verb, tmp_path, no_compute):
    ds = cube().assign({name: cube().red})
    arguments = {"timed": False} if verb == "plan" else {"": tmp_path / "there"}
    with no_compute(), pytest.raises(StoreError, match=r"rename it: ds\.rename"):
        getattr(ds.miso, verb)(*[arguments.pop("")] if "" in arguments else [], **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(StoreError, match="variable 4 has a int for its name; rename it to text, such as 'band_4'"):
        to_zarr(cube().assign({4: cube().red}), tmp_path / "there")


def test_names_that_only_look_odd_are_kept(tmp_path):
    ds = cube().assign({"B4-B8 (ratio)": cube().red, "ä.b": cube().red})
    assert set(written(ds, tmp_path / "there").data_vars) == set(ds.data_vars)


# What Zarr cannot hold


class Spec:
    """An object among attributes, as stackstac leaves one."""


LOST = {
    "an Affine": ("attribute", Affine.identity(), "Affine"),
    "a CRS": ("attribute", pyproj.CRS(4326), "CRS"),
    "an object": ("attribute", Spec(), "Spec"),
    "a moment": ("attribute", datetime.datetime(2020, 1, 1), "datetime"),
    "a NumPy moment": ("attribute", np.datetime64("2020-01-01"), "datetime64"),
    "bytes": ("attribute", b"x", "bytes"),
    "a complex number": ("attribute", 1j, "complex"),
    "a mapping with an object": ("attribute", {"a": {"b": Spec()}}, "dict"),
    "a mapping by numbers": ("attribute", {1: "a"}, "dict"),
    "a list with a moment": ("attribute", [1, datetime.date(2020, 1, 1)], "list"),
    "objects along time": ("coordinate", ("time", np.array([{"a": 1}, None], object)), "dict"),
    "text and none": ("coordinate", ("time", np.array(["a", None], object)), "NoneType"),
    "numbers as objects": ("coordinate", ("time", np.array([1, 2.5], object)), "int"),
    "one object": ("coordinate", ((), np.array({"a": 1}, object)), "dict"),
}


@pytest.mark.parametrize("kind", LOST)
def test_what_zarr_cannot_hold_is_left_out_with_a_warning_that_names_it(kind, tmp_path):
    where, value, word = LOST[kind]
    ds = cube()
    ds = ds.assign_attrs(odd=value) if where == "attribute" else ds.assign_coords(odd=value)
    with pytest.warns(MisoxrWarning, match=rf"cannot hold the {where} 'odd' \({word}\)") as told:
        to_zarr(ds, tmp_path / "there", progress=False)
    assert [(each.filename, len(told)) for each in told] == [(__file__, 1)]
    xr.testing.assert_equal(open_maps(tmp_path / "there"), cube())


def test_all_that_is_left_out_is_in_one_warning_at_the_user_s_line(tmp_path):
    ds = cube().assign_attrs(transform=Affine.identity(), spec=Spec()).assign_coords(a=((), np.array({}, object)))
    ds.red.attrs["when"] = datetime.datetime(2020, 1, 1)
    for verb in ("to_zarr", "to_cog", "to_pyramid"):
        with pytest.warns(MisoxrWarning, match="'when' of 'red' .*'a' .*'transform' .*'spec'") as told:
            getattr(ds.miso, verb)(tmp_path / verb, progress=False)
        assert [each.filename for each in told if each.category is MisoxrWarning] == [__file__]


def test_an_index_of_several_levels_is_left_out(tmp_path):
    levels = pd.MultiIndex.from_product([[2019, 2020], ["a"]], names=["year", "season"])
    ds = cube().assign(s=(("when", "y", "x"), np.ones((2, *SHAPE), "f4")))
    ds = ds.assign_coords(xr.Coordinates.from_pandas_multiindex(levels, "when"))
    with pytest.warns(MisoxrWarning, match="coordinate 'when'"):
        to_zarr(ds, tmp_path / "there", progress=False)
    assert open_maps(tmp_path / "there").s.dims == ("when", "y", "x")


def test_what_stackstac_leaves_is_written(tmp_path):
    """Its coordinates hold mappings and tuples, its attributes a RasterSpec and an Affine."""
    ds = cube().assign_attrs(spec=Spec(), crs="epsg:3338", transform=Affine.identity(), resolution=20)
    ds = ds.assign_coords({"proj:shape": ((), np.array({8, 6}, object)), "gsd": 10, "title": "Band 4", "epsg": 3338})
    with pytest.warns(MisoxrWarning):
        to_zarr(ds, tmp_path / "there", progress=False)
    found = open_maps(tmp_path / "there")
    assert (int(found.gsd), str(found.title.values)) == (10, "Band 4")
    assert found.attrs == {"crs": "epsg:3338", "resolution": 20}


def test_text_of_any_type_is_kept(tmp_path):
    ds = (
        cube()
        .assign(words=("n", np.array(["a", "bc"])))
        .assign_coords(n=np.array(["p", "q"]), kind=("n", pd.Categorical(["u", "v"])), objects=("n", np.array(["x", "y"], object)))
    )
    found = written(ds, tmp_path / "there")
    for name in ("words", "n", "kind", "objects"):
        assert found[name].values.tolist() == np.asarray(ds[name]).tolist()


def test_attributes_of_numpy_and_numbers_that_json_lacks(tmp_path):
    attrs = {
        "count": np.int64(3), "range": np.array([0.0, np.inf]), "low": -np.inf, "none": None, "nan": float("nan"), "deep": {"a": [np.nan]},
        "flag": np.bool_(True), "pair": (1, 2), "names": np.array(["a", "b"]),
    }  # fmt: skip
    found = written(cube().assign_attrs(attrs), tmp_path / "there").attrs
    assert np.isnan(found.pop("nan"))
    assert np.isnan(found.pop("deep")["a"][0])
    assert found == {
        "count": 3, "range": [0.0, np.inf], "low": -np.inf, "none": None, "flag": True, "pair": [1, 2], "names": ["a", "b"]
    }  # fmt: skip
    for file in (tmp_path / "there").rglob("zarr.json"):
        json.loads(file.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


# Fill values, scales


FLOATS = np.linspace(0, 1, 48, dtype="float32").reshape(SHAPE)


@pytest.mark.parametrize("fill", [np.nan, np.float32(np.nan), -9999, np.uint8(255), "none", None, [1, 2], np.inf])
@pytest.mark.parametrize("key", ["_FillValue", "missing_value"])
def test_a_fill_value_that_is_left_over_on_floats_does_no_harm(fill, key, tmp_path):
    values = FLOATS.copy()
    values[0, 0] = np.nan
    values[1, 1] = 255
    found = written(cube(a=(values, {key: fill, "units": "1"})), tmp_path / "there")
    np.testing.assert_array_equal(found.a, values)
    assert {key: value for key, value in found.a.attrs.items() if key != "grid_mapping"} == {"units": "1"}
    np.testing.assert_array_equal(xr.open_zarr(tmp_path / "there").a, values)


def test_floats_at_a_fill_value_of_their_own_are_missing(tmp_path):
    """As rioxarray opens a raster with nodata."""
    values = FLOATS.copy()
    values[2, 3] = -9999
    for key in ("_FillValue", "missing_value"):
        found = written(cube(a=(values, {key: -9999.0})), tmp_path / key)
        np.testing.assert_array_equal(found.a, np.where(values == -9999, np.nan, values))
    (path,) = cube(a=(values, {"_FillValue": -9999.0}))[["a"]].miso.to_cog(tmp_path / "cog", progress=False)
    with rasterio.open(path) as file:
        assert np.isnan(file.nodata)
        assert np.isnan(file.read(1)[2, 3])


@pytest.mark.parametrize(
    ("dtype", "fill", "kept"),
    [
        ("int8", 255, None), ("int8", -1, -1), ("bool", 255, None), ("bool", True, None), ("uint8", -9999, None), ("uint8", np.nan, None),
        ("uint8", 255.0, 255), ("int16", -9999.0, -9999), ("int16", "-1", -1), ("uint16", 65535, 65535), ("int32", np.inf, None),
        ("uint8", None, None), ("int64", np.int8(-1), -1), ("uint8", 0.5, None),
    ],
)  # fmt: skip
def test_a_fill_value_on_integers_stays_if_they_can_hold_it(dtype, fill, kept, tmp_path):
    values = np.arange(48).reshape(SHAPE).astype(dtype)
    found = written(cube(a=(values, {"_FillValue": fill})), tmp_path / "there").a
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)
    assert found.attrs.get("_FillValue") == kept


def test_a_fill_value_in_the_encoding_of_integers_is_kept(tmp_path):
    ds = cube(a=(np.arange(48, dtype="int16").reshape(SHAPE),))
    ds.a.encoding = {"_FillValue": -1, "dtype": "int16", "chunks": (3, 3)}
    assert written(ds, tmp_path / "there").a.attrs["_FillValue"] == -1


def test_moved_maps_are_written(tmp_path):
    """rioxarray leaves fill values on what it moves, and no grid mapping."""
    codes = (np.arange(48, dtype="uint8") % 3).reshape(SHAPE)
    ds = cube(k=(codes, {"flag_values": [0, 1, 2], "flag_meanings": "a b c", "_FillValue": np.uint8(255)}), a=(FLOATS,)).compute()
    moved = ds.rio.reproject("EPSG:32606")
    found = written(moved, tmp_path / "there")
    np.testing.assert_array_equal(found.a, moved.a)
    np.testing.assert_array_equal(open_maps(tmp_path / "there", codes=True).k, moved.k)
    assert len(moved.miso.to_cog(tmp_path / "cog", progress=False)) == 3
    moved.miso.to_pyramid(tmp_path / "pyramid.zarr", levels=1, progress=False)


NODATA = {
    "text": ("float32", {"missing_value": "-9999"}),
    "a whole number": ("float32", {"_FillValue": -9999}),
    "several": ("float32", {"missing_value": np.array([-9999.0, -1.0])}),
    "odc-stac's": ("float32", {"nodata": -9999.0}),
    "rasterio's": ("float32", {"nodatavals": (-9999.0,)}),
    "one of two": ("int16", {"_FillValue": -1, "missing_value": -9999}),
    "several integers": ("int16", {"missing_value": np.array([-1, -9999], "int16")}),
    "nodata of integers": ("int16", {"nodata": -9999.0}),
    "out of range, and no fill": ("int16", {"valid_range": [0, 16000]}),
    "out of range": ("int16", {"_FillValue": -1, "valid_range": [0, 16000]}),
}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("told", NODATA)
def test_what_is_missing_stays_missing_however_it_is_told(told, lazy, tmp_path):
    """What the verbs that read take for nodata is nodata of the store and of the file."""
    dtype, attrs = NODATA[told]
    values = np.arange(2, 50).reshape(SHAPE).astype(dtype)
    values[:2, 3] = -9999
    ds = cube(a=(values, {**attrs, "units": "1"}))
    ds = ds.chunk(x=4) if lazy else ds
    missing = np.isnan(decoded("a", ds.a))
    assert missing.sum() == 2
    found = written(ds, tmp_path / "there").a
    np.testing.assert_array_equal(np.isnan(decoded("a", found)), missing)
    if "range" not in told:  # which plain xarray does not know
        np.testing.assert_array_equal(np.isnan(xr.open_zarr(tmp_path / "there").a), missing)
    (path,) = ds[["a"]].miso.to_cog(tmp_path / "cog", progress=False)
    with rasterio.open(path) as file:
        band = file.read(1, masked=True).astype("float64").filled(np.nan)
    np.testing.assert_array_equal(np.isnan(band), missing)


@pytest.mark.parametrize(("dtype", "unsigned", "fill"), [("int8", "true", -1), ("uint8", "false", 255), ("int16", "true", None)])
def test_a_sign_that_is_told_beside_the_type_is_kept(dtype, unsigned, fill, tmp_path):
    values = (np.arange(48) - 24).reshape(SHAPE).astype(dtype)
    ds = cube(a=(values, {"_Unsigned": unsigned, "units": "1"} | ({} if fill is None else {"_FillValue": fill})))
    expected = decoded("a", ds.a)
    assert expected.max() > 200 or expected.min() < 0
    np.testing.assert_array_equal(decoded("a", written(ds, tmp_path / "there").a), expected)
    (path,) = ds[["a"]].miso.to_cog(tmp_path / "cog", progress=False)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1, masked=True).astype("float64").filled(np.nan), expected)


def test_codes_and_ranges_move_with_the_sign(tmp_path):
    values = np.full(SHAPE, -100, "int8")
    values[0, :3] = -50, -1, 5
    ds = cube(a=(values, {"_Unsigned": "true", "_FillValue": -1, "valid_range": [-128, -2], "units": "1"}))
    ds["k"] = ds.a.assign_attrs(flag_values=[-100, -50, 5], flag_meanings="a b c")
    found = written(ds, tmp_path / "there")
    np.testing.assert_array_equal(decoded("a", found.a), decoded("a", ds.a))
    assert float(found.a[1, 0]) == 156
    assert int((found.a == 255).sum()) == 2
    assert list(found.k.attrs["flag_values"]) == [156, 206, 5]


def test_what_is_no_map_keeps_what_it_has(tmp_path):
    ds = cube().assign_coords(
        level=((), 10, {"scale": 30}),
        place=("place", [0, 1, 2], {"valid_range": [1, 2], "_FillValue": -1, "missing_value": "none given"}),
    )
    found = written(ds, tmp_path / "there")
    assert int(found.level) == 10
    np.testing.assert_array_equal(found.place, [0, 1, 2])


@pytest.mark.parametrize(("key", "dtype"), [("nodata", "float32"), ("missing_value", "int16")])
def test_words_where_nodata_should_be_are_told_and_hide_no_fill_value(key, dtype, tmp_path):
    values = np.arange(48).reshape(SHAPE).astype(dtype)
    values[0, 0] = -9999
    ds = cube(a=(values, {"_FillValue": np.dtype(dtype).type(-9999), key: "see documentation"}))
    with pytest.warns(
        MisoxrWarning, match=f"'a' has {key} 'see documentation', which is no number.*passed over in what is written"
    ):
        to_zarr(ds, tmp_path / "there", progress=False)
    found = open_maps(tmp_path / "there").a
    assert int((found.isnull() | (found == found.attrs.get("_FillValue"))).sum()) == 1


def test_a_scale_of_classes_is_refused(tmp_path):
    with pytest.raises(StoreError, match="'mask' has the attributes scale_factor 0.01"):
        to_zarr(cube(mask=(np.ones(SHAPE, "uint8"), {"scale_factor": 0.01})), tmp_path / "there", progress=False)


@pytest.mark.parametrize("attrs", [{"scales": (1e-4,), "offsets": (-0.1,)}, {"scale": 1e-4, "offset": -0.1}])
def test_values_that_others_than_cf_say_are_to_be_scaled_are_refused(attrs, tmp_path):
    ds = cube(t=(np.full(SHAPE, 2500, "uint16"), attrs))
    with pytest.raises(
        StoreError, match=r"'t' has the attributes scale_factor 0.0001 and add_offset -0.1, or others of this meaning"
    ):
        ds[["t"]].miso.to_cog(tmp_path / "cog", progress=False)


@pytest.mark.parametrize(("scale", "offset"), [(0.1, -273.15), (1.0, -5.0), (0.5, None), (None, 3)])
def test_values_that_are_yet_to_be_scaled_are_refused(scale, offset, tmp_path, no_compute):
    attrs = {key: value for key, value in (("scale_factor", scale), ("add_offset", offset)) if value is not None}
    ds = cube(t=(np.full(SHAPE, 2500, "int16"), attrs))
    with no_compute(), pytest.raises(StoreError, match=r"'t' has the attributes scale_factor .* xr\.decode_cf"):
        to_zarr(ds, tmp_path / "there")
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_allclose(written(xr.decode_cf(ds), tmp_path / "there").t, 2500 * (scale or 1) + (offset or 0), rtol=1e-5)


def test_a_scale_of_one_is_none(tmp_path):
    """As rioxarray leaves it on every raster."""
    found = written(cube(a=(FLOATS, {"scale_factor": "1.0", "add_offset": 0.0})), tmp_path / "there")
    np.testing.assert_array_equal(found.a, FLOATS)


def test_attributes_that_tell_how_a_file_was_encoded_do_no_harm(tmp_path):
    left = {
        "coordinates": "lat lon",
        "_Unsigned": "false",
        "dtype": "bool",
        "units": "days since 2020-01-01",
        "calendar": "standard",
    }
    times = pd.to_datetime(["2020-07-01", "2021-07-01"])
    ds = cube(
        a=(np.arange(48, dtype="int8").reshape(SHAPE) - 20, {key: left[key] for key in ("coordinates", "_Unsigned", "dtype")})
    )
    ds = ds.assign_coords(time=("time", times, {key: left[key] for key in ("units", "calendar")})).assign_attrs(
        coordinates="lat lon"
    )
    found = written(ds, tmp_path / "there")
    np.testing.assert_array_equal(found.a, ds.a)
    np.testing.assert_array_equal(found.time, ds.time)


def test_words_that_stand_for_numbers_are_told_from_numbers(tmp_path):
    attrs = {"text": "NaN", "slash": "\\NaN", "number": -np.inf, "list": ["Infinity", np.inf], "plain": "not a number"}
    for path in ("one", "two"):
        ds = cube().assign_attrs(attrs) if path == "one" else open_maps(tmp_path / "one")
        assert written(ds, tmp_path / path).attrs == attrs
    cube().assign_attrs(attrs).miso.to_pyramid(tmp_path / "pyramid", levels=0, progress=False)
    assert open_maps(tmp_path / "pyramid" / "0").attrs == attrs


def test_what_is_written_once_is_not_changed_again():
    ds = cube(a=(FLOATS, {"_FillValue": 0.0, "x": np.arange(2)}), b=(np.ones(SHAPE, "i2"), {"_FillValue": 3}))
    xr.testing.assert_identical(storable(storable(ds)), storable(ds))


# Round trips


NUMBERS = st.floats(width=32, allow_infinity=True) | st.just(np.nan)
ATTRS = st.dictionaries(
    st.sampled_from(["units", "long_name", "source", "valid_range"]),
    st.text(max_size=4) | st.integers(-5, 5) | st.lists(st.floats(allow_nan=False), max_size=3) | st.dictionaries(st.text(max_size=2), st.none()),
    max_size=3,
)  # fmt: skip


@st.composite
def maps(draw: st.DrawFn) -> xr.DataArray:
    kind = draw(st.sampled_from(["float32", "float64", "bool", "int8", "uint8", "int16", "int32", "classes"]))
    attrs = draw(ATTRS)
    size = 6
    if kind == "classes":
        codes = draw(st.lists(st.sampled_from([0, 1, 2, 255]), min_size=size, max_size=size))
        attrs |= {"flag_values": [0, 1, 2], "flag_meanings": "a b c", "_FillValue": np.uint8(255)}
        return xr.DataArray(np.array(codes, "uint8").reshape(2, 3), dims=("y", "x"), attrs=attrs)
    if kind.startswith("float"):
        values = draw(st.lists(NUMBERS, min_size=size, max_size=size))
        attrs |= draw(st.sampled_from([{}, {"_FillValue": np.nan}, {"_FillValue": np.uint8(255)}]))
    elif kind == "bool":
        values = draw(st.lists(st.booleans(), min_size=size, max_size=size))
        attrs |= draw(st.sampled_from([{}, {"_FillValue": 255}]))
    else:
        limits = np.iinfo(kind)
        values = draw(st.lists(st.integers(int(limits.min), int(limits.max)), min_size=size, max_size=size))
        attrs |= draw(st.sampled_from([{}, {"_FillValue": np.dtype(kind).type(limits.max)}]))
    return xr.DataArray(np.array(values, kind).reshape(2, 3), dims=("y", "x"), attrs=attrs)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    variables=st.lists(maps(), min_size=1, max_size=2),
    attrs=ATTRS,
    lazy=st.booleans(),
    opened=st.sampled_from(["once", "once", "codes", "floats"]),
)
def test_writing_and_opening_again_changes_nothing(variables, attrs, lazy, opened, tmp_path_factory):
    """And so does writing what was opened."""
    ds = make_cube((2, 3), RED).drop_vars("red").assign({f"v{at}": one for at, one in enumerate(variables)}).assign_attrs(attrs)
    folder = tmp_path_factory.mktemp("trips")
    to_zarr(ds.chunk({"x": 2}) if lazy else ds, folder / "one.zarr", progress=False)
    if opened != "once":
        to_zarr(open_maps(folder / "one.zarr", codes=opened == "codes"), folder / "two.zarr", progress=False)
    for path in ["one.zarr"] if opened == "once" else ["one.zarr", "two.zarr"]:
        found = open_maps(folder / path, codes=True)
        assert found.attrs == attrs
        for name, given_one in ds.data_vars.items():
            assert found[name].dtype == given_one.dtype
            np.testing.assert_array_equal(found[name], given_one)
            wanted = {key: value for key, value in given_one.attrs.items() if key != "_FillValue" or given_one.dtype.kind in "iu"}
            assert {key: value for key, value in found[name].attrs.items() if key != "grid_mapping"} == wanted
        floats = open_maps(folder / path)
        for name, given_one in ds.data_vars.items():
            if "flag_values" in given_one.attrs:
                assert floats[name].dtype == "float32"
                np.testing.assert_array_equal(floats[name], given_one.where(given_one != 255))


# Opened plainly


PLAIN = """
import sys, xarray as xr
ds = xr.open_zarr(sys.argv[1])
assert ds.red.shape == (8, 6), ds
assert float(ds.k.max()) == 2
print("plain")
"""


def plainly(address: str, **environment: str) -> None:
    """Open a store with plain xarray in a process where warnings are errors."""
    # What other packages warn of when they are imported is not the store's.
    command = [
        sys.executable,
        "-W",
        "error::RuntimeWarning",
        "-W",
        "error::UserWarning",
        "-W",
        "error::FutureWarning",
        "-c",
        PLAIN,
        address,
    ]
    ended = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert ended.stdout == "plain\n", ended.stderr


def test_plain_xarray_opens_a_finished_store_without_a_warning(tmp_path):
    codes = (np.arange(48, dtype="uint8") % 3).reshape(SHAPE)
    ds = cube(k=(codes, {"flag_values": [0, 1, 2], "flag_meanings": "a b c", "_FillValue": np.uint8(255)}), b=(codes > 1,))
    ds = ds.assign_coords(word=("n", ["a", "b"]), time=("t", pd.to_datetime(["2020-07-01"])))
    to_zarr(ds, tmp_path / "maps.zarr", progress=False)
    ds.drop_vars("b").miso.to_pyramid(tmp_path / "pyramid.zarr", levels=1, progress=False)
    plainly(str(tmp_path / "maps.zarr"))
    plainly(str(tmp_path / "pyramid.zarr" / "0"))
    assert set(zarr.open_group(tmp_path / "pyramid.zarr", mode="r").metadata.consolidated_metadata.metadata) >= {"0", "1"}


def test_netcdf_takes_what_open_maps_gives(tmp_path):
    codes = (np.arange(48, dtype="uint8") % 3).reshape(SHAPE)
    ds = cube(
        k=(codes, {"flag_values": [0, 1, 2], "flag_meanings": "a b c", "_FillValue": np.uint8(255)}),
        a=(FLOATS, {"_FillValue": np.nan}),
    )
    to_zarr(ds, tmp_path / "maps.zarr", progress=False)
    for move in (lambda ds: ds, lambda ds: ds.rio.reproject("EPSG:32606")):
        opened = move(open_maps(tmp_path / "maps.zarr"))
        opened.to_netcdf(tmp_path / "maps.nc")
        again = xr.open_dataset(tmp_path / "maps.nc")
        for name in ("k", "a", "red"):
            np.testing.assert_array_equal(again[name], opened[name])
        again.close()
