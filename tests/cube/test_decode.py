"""How variables are stored changes no number: spellings, types, byte orders, and writing and opening again."""

import itertools
import warnings
from dataclasses import replace

import dask.array as da
import geopandas as gpd
import numpy as np
import pytest
import xarray as xr
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from misoxr.cube.decode import PLAIN, coding_of, decode, decoded, flags_of, is_class, note_unapplied
from misoxr.cube.stack import stack, stack_with_halo
from misoxr.errors import BandError, MisoxrWarning
from misoxr.grid.geobox import assign
from tests.conftest import make_cube, make_model, tiny_spec

SPEC = tiny_spec()
BOX = GeoBox((5, 6), Affine(20, 0, 300_000, 0, -20, 1_500_000), "EPSG:3338")
SCALES = (0.0, 0.001, 0.5)


def held(values, dtype="float32", encoding=None, **attrs):
    array = xr.DataArray(np.array(values, dtype), dims="x", attrs=attrs)
    array.encoding = encoding or {}
    return array


NAN = np.nan
STORED = {
    "nothing": (held([1, 2]), [1, 2]),
    "_FillValue": (held([1, -9999], _FillValue=-9999), [1, NAN]),
    "missing_value, several": (held([1, -9, -8], missing_value=np.array([-9.0, -8.0])), [1, NAN, NAN]),
    "nodatavals": (held([1, 0], "uint16", nodatavals=(0.0,)), [1, NAN]),
    "nodata as text": (held([1, -9999], "int16", NODATA="-9999"), [1, NAN]),
    "no_data_value": (held([1, 255], "uint8", no_data_value=255, units="1"), [1, NAN]),
    "fewer digits": (held([1, -3.4028235e38], nodata="-3.40282e+38"), [1, NAN]),
    "single precision": (held([1, 0.1], nodata=0.1), [1, NAN]),
    "None and nan": (held([1, 0], nodata=None, nodatavals=(None, "nan"), missing_value=np.nan), [1, 0]),
    "beyond its type": (held([1, 0], "uint8", nodata=-9999, units="1"), [1, 0]),
    "between integers": (held([1, 0], "int16", nodata=0.5), [1, 0]),
    "infinite": (held([1, 0], "int16", nodata=np.inf), [1, 0]),
    "False is no number": (held([1, 0], nodata=False), [1, 0]),
    "scale": (held([1500, 0], "uint16", scale_factor=1e-4, add_offset=-0.1, _FillValue=0), [0.05, NAN]),
    "scale as text": (held([1500, 0], "uint16", scale_factor="0.0001", add_offset="-0.1", nodata="0"), [0.05, NAN]),
    "scales of GDAL": (held([1500, 0], "uint16", scales=(1e-4,), offsets=[-0.1], nodatavals=(0,)), [0.05, NAN]),
    "scale of STAC": (held([1500, 0], "uint16", scale=1e-4, offset=-0.1, nodata=0), [0.05, NAN]),
    "scale of a map": (held([1, 2], scale=24_000, offset=3), [1, 2]),
    "masked, not yet scaled": (held([1500, NAN], "float32", {"_FillValue": 0.0}, scale_factor=1e-4, add_offset=-0.1), [0.05, NAN]),
    "decoded": (held([0.05, 0.0], "float32", {"_FillValue": 0, "scale_factor": 1e-4, "add_offset": -0.1}), [0.05, 0.0]),
    "decoded, with stale attributes": (held([0.05], "float32", {"scale_factor": 1e-4}, scale_factor=1e-4), [0.05]),
    "decoded, other nodata": (held([5, 20], "float32", {"scale_factor": 0.1}, nodata=200), [5, NAN]),
    "filled again": (held([1, -9999], "float32", {"_FillValue": -9999}), [1, NAN]),
    "integers to be filled": (held([1, -9999], "int16", {"_FillValue": -9999}), [1, NAN]),
    "_Unsigned": (held([-1, -56], "int8", _Unsigned="true", _FillValue=-1, scale_factor=0.5), [NAN, 100]),
    "not _Unsigned": (held([255, 3], "uint8", _Unsigned="false", _FillValue=255, scale_factor=2), [NAN, 6]),
    "valid_range": (held([2000, -30000, 20000], "int16", scale_factor=1e-4, valid_range=np.array([-100, 16000])), [0.2, NAN, NAN]),
    "valid_range as text": (held([2000, 16001], "int16", valid_range="-100, 16000", units="1"), [2000, NAN]),
    "valid_min": (held([0, 1], "uint8", valid_min=1, units="1"), [NAN, 1]),
    "valid_max, not signed": (held([-2, -1], "int8", _Unsigned="true", valid_max=-2, units="1"), [254, NAN]),
    "valid_range in words": (held([0, 1], "uint8", valid_range="0 to 1", units="1"), [0, 1]),
    "valid_range that is crossed": (held([0, 1], "uint8", valid_range=[5, 0], units="1"), [0, 1]),
    "valid_range of scaled values": (held([0, 2500, 9000], "int16", scale_factor=1e-4, valid_range=[-1.0, 1.0]), [0, 0.25, 0.9]),
    "valid_min of scaled values": (held([7500, 15000], "uint16", scale_factor=0.02, valid_min=150.0, valid_max=350.0), [150, 300]),
    "valid_max, infinite": (held([1, 2], "int8", _Unsigned="true", valid_max=np.inf, units="1"), [1, 2]),
    "valid_range beyond the type": (held([1, -1], "int8", _Unsigned="true", valid_range=[0, 256], units="1"), [1, 255]),
    "valid_range of classes": (held([4, 250], "uint8", valid_range=[0, 100], flag_values=[4, 250]), [4, 250]),
    "_Unsigned, nodata of neither type": (held([-15, 1], "int8", _Unsigned="true", nodata=-9999, units="1"), [241, 1]),
    "valid_range of floats, stale": (held([0.2, 20000], valid_range=[-100, 16000]), [0.2, 20000]),
    "byte order": (held([1, -9999], ">i4", nodata=-9999), [1, NAN]),
    "precise": (held([123_456_789], "int32", scale_factor=1e-7, add_offset=-12), [0.3456789]),
    "huge": (held([1, -1.7e308], "float64", nodata=-1.7e308), [1, NAN]),
    "booleans": (held([True, False], "bool", nodata=0), [1, 0]),
    "classes are not scaled": (held([4, 255], "uint8", scale_factor=0.5, nodata=255, flag_values=[4]), [4, NAN]),
}


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("lazy", [False, True])
def test_variables_are_decoded_wherever_they_tell_how(name, lazy):
    array, expected = STORED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "'red' holds floats and has the attributes")
        out = decoded("red", array.chunk(x=1) if lazy else array)
        np.testing.assert_allclose(out.values, expected, rtol=1e-6)
    assert out.dtype == "float32"
    assert out.encoding == {}
    assert decoded("red", out).equals(out)  # nothing is left to be done twice
    np.testing.assert_array_equal(decoded("red", out), out)


def test_a_scale_that_stayed_beside_floats_is_told():
    """Arithmetic keeps attributes: counts that were scaled by hand would be scaled again."""
    counts = held([1500, 0], "uint16", scale_factor=1e-4, add_offset=0.0)
    with pytest.warns(MisoxrWarning, match=r"\['scale_factor', 'add_offset'\].*If it is scaled already.*remove them"):
        decoded("red", (counts * 1e-4).assign_attrs(counts.attrs))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded("red", counts)
        decoded("red", held([1500.0, 0], scale_factor=1.0, add_offset=0.0))


def test_nodata_that_only_the_dataset_tells_is_told():
    """``open_rasterio(...).to_dataset("band")`` keeps a file's attributes at the dataset."""
    counts = make_cube((8, 8), SPEC.bands[:1]).astype("uint16")
    told = counts.assign_attrs(_FillValue=np.uint16(0), scale_factor=1e-4, add_offset=0.0)
    image, words = (
        make_cube((8, 8), SPEC.bands[1:2]),
        r"\['red'\] hold whole numbers, .*'_FillValue': .*, 'scale_factor': 0.0001}.*not applied",
    )
    for verb in (lambda: image.miso.add(more=told), told.expand_dims(time=[np.datetime64("2020-07-01", "ns")]).miso.composite):
        with pytest.warns(MisoxrWarning, match=words):
            verb()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        note_unapplied(told.assign(red=told.red.assign_attrs(_FillValue=0)), ["red"])
        note_unapplied(told.astype("float32"), ["red"])
        note_unapplied(counts.assign_attrs(_FillValue=np.nan), ["red"])
        note_unapplied(counts.rename(red="scl").assign_attrs(scale_factor=1e-4), ["scl"])
        note_unapplied(counts.assign_attrs(scale_factor=1.0, add_offset=0.0, nodata="none", NODATA="see the manual"), ["red"])


def test_what_needs_nothing_costs_nothing():
    array = xr.DataArray(da.zeros(4, chunks=2, dtype="float32"), dims="x", attrs={"units": "1"})
    assert decoded("red", array).data is array.data
    values = np.zeros(3, "float32")
    assert decode(values, PLAIN) is values


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (held([1], scale_factor=0.0), r"scalefactor \[0.0\]; set the attribute to one number"),
        (held([1], scale_factor=(0.1, 0.2)), r"scalefactor \[0.1, 0.2\]"),
        (held([1], add_offset=np.inf), r"addoffset \[inf\]"),
        (held([1], nodata="nothing here"), "nodata 'nothing here', which is no number"),
        (held(["a"], "U1"), "'red' holds <U1 and not numbers"),
        (held([0], "M8[ns]"), "holds datetime64"),
        (held([1], object), "holds object and not numbers"),
        (held([1j], complex), "holds complex128"),
    ],
)
def test_what_cannot_be_decoded_is_refused(array, words):
    with pytest.raises(BandError, match=words):
        decoded("red", array)


@pytest.mark.parametrize("lazy", [False, True])
def test_codes_that_floats_do_not_hold_are_refused(lazy):
    array = held([2**24, 2**24 + 1], "int32")
    with pytest.raises(
        BandError, match=r"'ecoregion' holds classes, and the code 1677721[67]; float32 tells codes apart below 16777216"
    ):
        decoded("ecoregion", array.chunk(x=1) if lazy else array).compute()
    np.testing.assert_allclose(decoded("people", array), [2**24, 2**24 + 1], rtol=1e-6)
    smaller = (array - 1).assign_attrs(nodata=2**24)
    np.testing.assert_array_equal(decoded("ecoregion", smaller), [2**24 - 1, np.nan])
    for dtype, code in (("int64", 2**53 + 1), ("uint64", 2**64 - 1)):
        with pytest.raises(BandError, match=f"the code {code}"):
            decoded("ecoregion", held([code], dtype))


@pytest.mark.parametrize(
    ("name", "array", "yes"),
    [
        ("scl", held([1.0]), True),
        ("S2_SCL", held([1.0]), True),
        ("land_cover", held([1], "int64"), True),
        ("anything", held([1.0], flag_meanings="a b"), True),
        ("anything", held([True], "bool"), True),
        ("anything", held([1], "uint8"), True),
        ("anything", held([1.0], "float32", {"dtype": "uint8", "_FillValue": 255}), True),
        ("red", held([1], "uint8"), False),
        ("B04", held([1], "uint8"), False),
        ("anything", held([1], "uint8", units="%"), False),
        ("anything", held([1], "uint8", scale_factor=0.5), False),
        ("anything", held([1], "uint16"), False),
        ("masked_red", held([1.0]), False),
        ("slope", held([1.0]), False),
        ("class_probability", held([1.0]), False),
        ("landform_slope", held([1.0]), False),
        ("temperature_qa", held([1], "uint16"), True),
        ("snow_depth_flag", held([1], "uint16"), True),
        ("slope_class", held([1], "uint16"), True),
        ("anything", held([1.0], n_classes=5), False),
        ("anything", held([1], "uint16", class_descriptions="a b"), True),
        ("anything", held([1], "uint16", COLLECTION_CATEGORY="T1"), False),
        ("anything", held([1], "uint16", UNCLASSIFIED_PERCENTAGE="3.2"), False),
        ("anything", held([1.0], CLASSIFICATION="UNCLASSIFIED"), False),
        ("anything", held([1.0], topic_category="elevation"), False),
        ("anything", held([1], "uint16", landcover_class_names="water; land"), True),
        ("anything", held([1], "uint16", **{"classification:classes": [{"value": 1}]}), True),
        ("anything", held([1], "uint16", category_names=["water", "land"]), True),
    ],
)
def test_classes_are_known(name, array, yes):
    assert is_class(name, array) is yes


# --- metamorphic: the stack that fit, predict and cross_validate read ---------------------------------------------------------

PACKINGS = ["plain", "attributes", "spelt otherwise", "nodata alone"]
UNITS = {
    "elevation": [("m", 1.0), ("km", 1000.0), ("feet", 0.3048), ("Metres", 1.0)],
    "aspect": [("degree", 1.0), ("rad", 57.29578), ("degrees_T", 1.0)],
}


def truth() -> xr.Dataset:
    """A cube of whole numbers of eighths, which any storage below can hold, with a pixel missing in each band."""
    rng = np.random.default_rng(1)
    bands = {band.name: (("y", "x"), rng.integers(1, 300, BOX.shape) / 8, {"units": band.units}) for band in SPEC.bands}
    ds = assign(xr.Dataset(bands).astype("float32"), BOX)
    for at, name in enumerate(ds.data_vars):
        ds[name][at, at] = np.nan
    return ds


TRUTH = truth()
EXPECTED = stack(TRUTH, SPEC).compute()


def packed(array: xr.DataArray, packing: str, dtype: str, order: str, offset: int) -> xr.DataArray:
    """Store a band in another way."""
    if packing == "plain":
        return array.astype(f"{order}f8", keep_attrs=True)
    scale = 1.0 if packing == "nodata alone" else 0.125
    stored = np.rint((array / scale - offset) if packing != "nodata alone" else array * 1.0)
    kind = dtype if packing != "nodata alone" else "f4"
    values = stored if packing != "nodata alone" else array
    out = values.fillna(-999).astype(f"{order}{kind}", keep_attrs=True)
    keys = ("scales", "offsets", "nodatavals") if packing == "spelt otherwise" else ("scale_factor", "add_offset", "_FillValue")
    told = dict(zip(keys, (scale, offset * scale, -999), strict=True)) if packing != "nodata alone" else {"missing_value": [-999.0]}
    told = {key: (value,) for key, value in told.items()} if packing == "spelt otherwise" else told
    return out.assign_attrs(array.attrs | told)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.filterwarnings("ignore:.*holds floats and has the attributes")
def test_no_storage_changes_what_is_read(data):
    ds = TRUTH
    for name in TRUTH.data_vars:
        unit, factor = data.draw(st.sampled_from(UNITS.get(name, [("1", 1.0), ("reflectance", 1.0), ("percent", 0.01)])))
        storage = [data.draw(st.sampled_from(part)) for part in (PACKINGS, ["i2", "i4", "f4", "i8"], "<>", [0, 7])]
        array = packed(TRUTH[name], *storage)
        if array.dtype.kind == "f" and storage[0] == "plain":
            array = array / factor
        else:
            unit = TRUTH[name].attrs["units"]
        ds = ds.assign({name: array.assign_attrs(TRUTH[name].attrs | array.attrs | {"units": unit}).drop_encoding()})
    if data.draw(st.booleans()):  # as xarray gives it when it has decoded what it knows
        ds = xr.decode_cf(ds, decode_coords="all") if data.draw(st.booleans()) else ds.chunk(y=3)
    np.testing.assert_allclose(stack(ds, SPEC).compute(), EXPECTED, rtol=1e-5, atol=1e-6)
    spans = [[((0, length), (0, length))] for length in BOX.shape]
    np.testing.assert_array_equal(stack_with_halo(ds, SPEC, *spans).compute(), stack(ds, SPEC).compute())


@pytest.mark.parametrize(("packing", "masked"), list(itertools.product(PACKINGS, [True, False])))
def test_written_and_opened_again_it_is_the_same(tmp_path, packing, masked):
    ds = TRUTH.assign({name: packed(TRUTH[name], packing, "i2", "<", 7).drop_encoding() for name in TRUTH.data_vars})
    ds.to_zarr(tmp_path / "c.zarr", consolidated=False)
    opened = xr.open_zarr(tmp_path / "c.zarr", consolidated=False, mask_and_scale=masked)
    np.testing.assert_allclose(stack(opened, SPEC).compute(), EXPECTED, rtol=1e-6)


def test_every_verb_reads_measurements():
    cube = make_cube((32, 32), SPEC.bands)
    cube["red"][4:9, 4:9] = np.nan
    cube["nir"][4:9, 4:9] = np.nan
    stored = cube.assign({name: packed_counts(cube[name]) for name in ("red", "nir")})
    clean = cube.assign({name: decoded(name, stored[name]) for name in ("red", "nir")})
    model = make_model(SPEC)
    maps, expected = (ds.chunk(y=16).miso.predict(model, device="cpu").compute() for ds in (stored, clean))
    np.testing.assert_array_equal(maps["permafrost_probability"], expected["permafrost_probability"])
    assert maps["permafrost_probability"][6, 6].isnull()
    points = {"x": cube.x.values[[2, 6]], "y": cube.y.values[[2, 6]]}
    at = stored.miso.predict_at(model, points, device="cpu")["permafrost_probability"].values
    assert np.isnan(at).tolist() == [False, True]


def test_estimators_learn_from_measurements():
    from sklearn.tree import DecisionTreeClassifier

    cube = make_cube((40, 40), SPEC.bands)
    cube["red"][4:9, 4:9] = cube["nir"][4:9, 4:9] = np.nan
    stored = cube.assign({name: packed_counts(cube[name]) for name in ("red", "nir")})
    clean = cube.assign({name: decoded(name, stored[name]) for name in ("red", "nir")})
    x, y = (part.ravel() for part in np.meshgrid(cube.x.values[2::4], cube.y.values[2::4]))
    labels = {"permafrost": (np.arange(len(x)) // 3) % 2}
    points = gpd.GeoDataFrame(labels, geometry=gpd.points_from_xy(x, y), crs="EPSG:3338")
    tree, spec = DecisionTreeClassifier(random_state=0), replace(SPEC, tasks=SPEC.tasks[:1])
    found = []
    for ds in (stored, clean):
        with pytest.warns(MisoxrWarning, match="1 of 100 points lie where the cube has no valid imagery"):
            model = ds.miso.fit(tree, points, like=spec)
        with pytest.warns(MisoxrWarning, match="1 of 100 points have no label, or no valid imagery"):
            scores = ds.miso.cross_validate([(tree, {"like": spec})], points, cv=2, progress=False)
        found.append((ds.miso.predict(model)["permafrost_probability"].values, scores.predictions["p0"].to_numpy()))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def packed_counts(array: xr.DataArray) -> xr.DataArray:
    counts = np.rint((array + 0.1) * 1e4).fillna(-9999).astype("int32")
    return counts.assign_attrs(array.attrs | {"nodata": "-9999", "scale_factor": 1e-4, "add_offset": -0.1})


def test_coding_is_read_once_for_all_of_an_attribute_s_spellings():
    array = held([1, 2, 3], _FillValue=1, missing_value=[2, None], nodata="3")
    assert coding_of("red", array).nodata == (1, 2, 3)


@pytest.mark.parametrize("values", [[0, 1, 7], (0.0, 1.0, 7.0), np.array([0, 1, 7], "uint8"), "0 1 7", "0, 1, 7", ["0", "1", "7"]])
@pytest.mark.parametrize(
    "meanings",
    ["sandy_loam clay peat", ["sandy loam", "clay", "peat"], np.array(["sandy_loam", "clay", "peat"]), "sandy loam, clay, peat"],
)
def test_flags_are_read_in_every_form(values, meanings):
    found = flags_of(held([0], flag_values=values, flag_meanings=meanings))
    assert found == ([0, 1, 7], ["sandy_loam", "clay", "peat"])


@pytest.mark.parametrize("values", [[False, True], np.array([False, True]), "0b, 1b", b"0 1"])
@pytest.mark.parametrize("meanings", ["dry,wet", "dry, wet,", b"dry wet", "['dry', 'wet']"])
def test_two_flags_are_read_in_other_forms(values, meanings):
    assert flags_of(held([0], flag_values=values, flag_meanings=meanings)) == ([0, 1], ["dry", "wet"])


@pytest.mark.parametrize("names", [["(0,_10]", "(10,_20]", "(20,_30]"], ["(dry)", "moist_(a)", "[b]"], ["[0,1)", "[1,2)", "[2,3]"]])
def test_names_with_brackets_are_no_lists(names):
    assert flags_of(held([0], flag_values=[0, 1, 2], flag_meanings=" ".join(names))) == ([0, 1, 2], names)
    assert flags_of(held([0], flag_values=[0, 1, 2], flag_meanings=str(names))) == ([0, 1, 2], names)


def test_flags_that_are_none_are_told():
    assert flags_of(held([0], flag_values=np.array(3), flag_meanings=None)) == ([3], [])
    assert flags_of(held([0])) == ([], [])
    assert flags_of(held([0], flag_values=3, flag_meanings="silt,loam")) == ([3], ["silt,loam"])
    for wrong in ("a b", [0.5, 1]):
        with pytest.raises(BandError, match="flag_values"):
            flags_of(held([0], flag_values=wrong))
