"""What an item declares of its numbers, however it is spelt, and what the file and known products tell where it does not."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from misoxr.errors import AssetError, CatalogError
from misoxr.sensors.bands import named_assets
from misoxr.sensors.declared import Content, content_of
from misoxr.sensors.decoding import Encoding, Stored, codes, decoded
from misoxr.sensors.sensor import Counts, Sensor


def item(collection: str = "made-up", key: str = "red", name: str = "item", properties: Any = None, **asset: Any) -> dict[str, Any]:
    fields = {"href": f"{key}.tif", **{field.replace("__", ":"): value for field, value in asset.items()}}
    return {"id": name, "collection": collection, "properties": {**(properties or {})}, "assets": {key: fields}}


def content(made: dict[str, Any]) -> Content:
    (key,) = made["assets"]
    return content_of(made, named_assets(made, [key])[key])


def read(made: dict[str, Any], values: np.ndarray, **tags: Any) -> np.ndarray:
    """What a file with these values and tags is decoded to."""
    stored = Stored(values.dtype.newbyteorder("="), **tags)
    return decoded(values, content(made).encoding.counts(stored))


RED = {"eo__bands": [{"name": "B04", "common_name": "red"}]}


# ---- the same counts, spelt in any way


@st.composite
def spellings(draw: st.DrawFn, scale: float, offset: float, nodata: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """An item and a file's tags that tell one scale, offset and nodata, each at any one place, or at several."""
    text = draw(st.sampled_from([float, str, lambda value: value]))
    asset: dict[str, Any] = {"raster__bands": [{}], "bands": [{"name": "x", "eo:common_name": "red"}]}
    properties, tags = {}, {}
    for value, names, tag in (
        (scale, ("scale", "raster:scale", "scale_factor"), "scale"),
        (offset, ("offset", "raster:offset", "add_offset"), "offset"),
        (nodata, ("nodata", "file:nodata", "nodata"), "nodata"),
    ):
        for where in draw(st.sets(st.sampled_from(["raster", "bands", "asset", "item", "file"]), min_size=1)):
            spelt = draw(st.sampled_from(names))
            spelt_value = [text(value)] if "nodata" in spelt and draw(st.booleans()) else text(value)
            if where == "raster":
                asset["raster__bands"][0][spelt] = spelt_value
            elif where == "bands":
                asset["bands"][0][spelt] = spelt_value
            elif where == "asset":
                asset[spelt] = spelt_value
            elif where == "item":
                own = st.sampled_from(["nodata", "raster:nodata", "file:nodata"])
                properties[draw(own) if tag == "nodata" else f"raster:{tag}"] = spelt_value
            else:
                tags[tag] = value
    return item(properties=properties, **asset), tags


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_equivalent_metadata_types_and_byte_orders_give_the_same_numbers(data):
    scale, offset = data.draw(st.sampled_from([(1e-4, 0.0), (1e-4, -0.1), (2.75e-5, -0.2), (1e-3, 0.05), (0.5, 0.0)]))
    nodata = data.draw(st.sampled_from([0, -9999, 32767]))
    counts = np.array(data.draw(st.lists(st.integers(1, 30_000), min_size=1, max_size=8)))
    expected = np.append(counts * scale + offset, np.nan)
    types = ["i2", "i4", "i8", "f4", "f8", *(["u2", "u4"] if nodata >= 0 else [])]
    stored = np.append(counts, nodata).astype(data.draw(st.sampled_from("<>")) + data.draw(st.sampled_from(types)))
    made, tags = data.draw(spellings(scale, offset, nodata))
    np.testing.assert_allclose(read(made, stored, **tags), expected, rtol=3e-6, atol=1e-7)


BASELINES = (
    st.sampled_from(["03.01", "N0301", "0301", 3.01, 301]),
    st.sampled_from(["05.09", "N0509", "0509", 5.09, 509, "04.00", 4]),
)
NAMESPACES = st.sampled_from(["s2", "sentinel", "sentinel2", "sentinel-2", "eodata"])


@st.composite
def sentinel2(draw: st.DrawFn, raised: bool) -> dict[str, Any]:
    """A Sentinel-2 item without a scale, that tells in any way whether its counts are 1000 too high."""
    collection = draw(
        st.sampled_from(["sentinel-2-l2a", "sentinel-2-c1-l2a", "sentinel-s2-l2a-cogs", "S2MSI2A", "s2_l2a", "sentinel-2-l1c"])
    )
    key, asset = draw(st.sampled_from([("red", RED), ("B04", {}), ("B04_10m", {}), ("red-jp2", RED), ("B4", {})]))
    code = "0509" if raised else "0301"
    product = f"S2A_MSIL2A_20220701T213911_N{code}_R043_T05WNR_20220702T010203"
    made, properties = item(collection, key, **asset), {}
    way = draw(st.sampled_from(["property", "id", "uri", "version", "href", "flag", *([] if raised else ["collection"])]))
    if way == "property":
        word = draw(st.sampled_from(["processing_baseline", "processingBaseline", "processing-baseline"]))
        properties[f"{draw(NAMESPACES)}:{word}"] = draw(BASELINES[raised])
    elif way == "id":
        made["id"] = product
    elif way == "uri":
        properties[draw(st.sampled_from(["s2:product_uri", "sentinel:product_id", "title"]))] = f"{product}.SAFE"
    elif way == "version":
        properties["processing:version"] = f"{code[:2]}.{code[2:]}"
    elif way == "href":
        made["assets"][key]["href"] = f"https://example.org/{product}.SAFE/B04.tif"
    elif way == "collection":
        made["collection"], made["id"] = f"{collection}-harmonized", product.replace("N0301", "N0509")
    else:
        properties |= {"s2:processing_baseline": "05.09", f"{draw(NAMESPACES)}:boa_offset_applied": not raised}
    if way in ("property", "flag") and not raised and draw(st.booleans()):  # such catalogues may declare an offset all the same
        properties["earthsearch:boa_offset_applied"] = True
        made["assets"][key]["raster:bands"] = [{"scale": 1e-4, "offset": -0.1, "data_type": "uint16"}]
    elif way == "flag" and raised and draw(st.booleans()):  # and others declare none, in the same words for every item
        made["assets"][key]["raster:bands"] = [{"scale": 1e-4, "offset": 0, "data_type": "uint16"}]
    return made | {"properties": properties}


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_the_offset_of_sentinel2_is_found_in_any_spelling(data):
    raised = data.draw(st.booleans())
    made = data.draw(sentinel2(raised))
    counts = np.array([0, 1500 + 1000 * raised, 10_000 + 1000 * raised], data.draw(st.sampled_from(["u2", ">u2", "i4"])))
    found = content(made)
    assert (found.kind, found.units) == ("reflectance", "1")
    np.testing.assert_allclose(read(made, counts), [np.nan, 0.15, 1.0], rtol=1e-6)


@pytest.mark.parametrize("value", ["new", "N9", [], "5.9.1", float("nan")])
def test_a_baseline_that_is_none_is_refused_or_passed_over(value):
    made = item("sentinel-2-l2a", properties={"s2:processing_baseline": value}, **RED)
    if value == "N9":
        assert read(made, np.uint16([2000])) == pytest.approx(0.1)
    else:
        with pytest.raises(CatalogError, match="Item 'item' declares the s2:processing_baseline"):
            content(made)
    version = item("sentinel-2-l2a", properties={"processing:version": value}, **RED)
    assert read(version, np.uint16([1000])) == pytest.approx(0.0 if value == "N9" else 0.1)


# ---- what is not known is not assumed


def test_floats_are_what_they_are():
    for made in (item(**RED), item("sentinel-2-l2a", properties={"s2:processing_baseline": "05.09"}, **RED), item(key="data")):
        values = np.float32([0, 0.0734, -3, np.nan])
        np.testing.assert_array_equal(read(made, values), values)
    low = np.finfo("float32").min
    assert np.isnan(read(item(nodata=float(low)), np.float32([low]))).all()
    assert np.isnan(read(item(nodata="-3.4028235e+38"), np.float32([low]))).all()
    assert np.isnan(read(item(), np.float32([low]), nodata=float(low))).all()


@pytest.mark.parametrize("made", [item(**RED), item(key="data"), item(collection="sentinel-2-mosaics", **RED)], ids=str)
def test_integers_of_which_nothing_tells_the_scale_are_refused(made):
    with pytest.raises(AssetError, match=r"holds int16, and neither the item, nor the file, nor a known product .*modifier="):
        read(made, np.int16([1500]))


def test_the_file_tells_what_the_item_does_not():
    landsat = {"scale": 2.75e-5, "offset": -0.2, "nodata": 0.0}
    np.testing.assert_allclose(read(item(**RED), np.uint16([0, 10_000]), **landsat), [np.nan, 0.075], rtol=1e-6)
    named = item("landsat-c2l2-sr", properties={"platform": "LANDSAT_9"}, **RED)
    np.testing.assert_allclose(read(named, np.uint16([0, 10_000])), [np.nan, 0.075], rtol=1e-6)
    # the item goes before the file, but for the scale of 1 that tools write where they know none
    declared = item(raster__bands=[{"scale": 1e-4, "offset": 0}], **RED)
    assert read(declared, np.uint16([10_000]), **landsat) == pytest.approx(1.0)
    unknowing = item(raster__bands=[{"scale": 1, "offset": 0, "data_type": "uint16"}], **RED)
    assert read(unknowing, np.uint16([10_000]), **landsat) == pytest.approx(0.075)
    assert read(unknowing, np.uint16([812])) == 812
    assert content(unknowing).kind == "numbers"
    assert content(unknowing).units is None


def test_either_nodata_counts_as_far_as_the_type_holds_it():
    made = item(raster__bands=[{"nodata": [0, None, -9999], "scale": 0.5}])
    np.testing.assert_array_equal(read(made, np.int16([0, -9999, 7, 3]), nodata=3.0), [np.nan, np.nan, 3.5, np.nan])
    np.testing.assert_array_equal(read(made, np.uint16([0, 55537, 7])), [np.nan, 55537 / 2, 3.5])
    none = item(raster__bands=[{"nodata": None, "scale": 2}], key="dem")
    np.testing.assert_array_equal(read(none, np.int16([0, -5])), [0, -10])


def test_elevations_have_metres_and_keep_their_zeros():
    made = item("cop-dem-glo-30", "data", raster__bands=[{"data_type": "float32"}])
    assert (content(made).kind, content(made).units) == ("numbers", "m")
    np.testing.assert_array_equal(read(made, np.float32([-2, 0, 1.5])), [-2, 0, 1.5])
    np.testing.assert_array_equal(read(item("nasadem", "elevation"), np.int16([-2, 0, 812])), [-2, 0, 812])
    np.testing.assert_array_equal(read(item(key="height", unit="m"), np.int16([-2, 0, 812])), [-2, 0, 812])
    np.testing.assert_array_equal(read(item(key="height"), np.int16([812]), units="metre"), [812])


@pytest.mark.parametrize("collection", ["cop-dem-glo-30", "nasadem", "alos-dem", "3dep-seamless"])
@pytest.mark.parametrize("fill", [-32767, -32768, -9999, -999999])
def test_an_undeclared_fill_value_is_no_elevation(collection, fill):
    expected = [np.nan, -2, 812]
    np.testing.assert_array_equal(read(item(collection, "data"), np.float32([fill, -2, 812])), expected)
    np.testing.assert_array_equal(read(item(collection, "data"), np.int32([fill, -2, 812])), expected)


@pytest.mark.parametrize(
    ("collection", "name", "key", "counts", "expected"),
    [
        ("sentinel-2-l2a", "S2A_1", "B04", [2000, 0], [0.1, np.nan]),
        ("landsat-c2-l2", "LC08_L2SP_1", "SR_B4", [10_000, 0], [0.075, np.nan]),
        ("hls2-l30", "HLS.L30.T05WNR.2022181T213911.v2.0", "B04", [1000, -9999], [0.1, np.nan]),
    ],
)
@pytest.mark.parametrize("scaled", [True, False])
def test_a_key_that_is_a_common_name_is_the_sensors_band(collection, name, key, counts, expected, scaled):
    scale = {"sentinel-2-l2a": 1e-4, "landsat-c2-l2": 2.75e-5, "hls2-l30": 1e-4}[collection]
    fields = {"raster__bands": [{"scale": scale}]} if scaled else {}
    for one in (key, "red"):
        made = item(collection, one, name=name, properties={"s2:processing_baseline": "05.09"}, **fields)
        np.testing.assert_allclose(read(made, np.array(counts, "int32")), expected, rtol=1e-6)
        assert content(made).units == "1"


def test_a_key_that_is_a_common_name_has_the_counts_that_a_described_sensor_gives():
    drone = Sensor("drone", counts={"reflectance": Counts(1 / 32768, nodata=(65535,))})
    made = item(key="red")
    found = content_of(made, named_assets(made, ["red"], drone)["red"], drone)
    assert found.kind == "reflectance"
    np.testing.assert_allclose(decoded(np.uint16([16384, 65535]), found.encoding.counts(Stored(np.dtype("uint16")))), [0.5, np.nan])


def test_hls_and_landsat_thermal():
    hls = item("hls2-l30", "B10", name="HLS.L30.T05WNR.2022181T213911.v2.0")
    assert content(hls).units == "degC"
    np.testing.assert_allclose(read(hls, np.int16([-9999, 1250])), [np.nan, 12.5])
    assert read(item("HLSS30_2.0", "B8A"), np.int16([2500])) == pytest.approx(0.25)
    thermal = item("landsat-c2-l2", "lwir11", eo__bands=[{"common_name": "lwir11"}])
    assert content(thermal).units == "K"
    assert read(thermal, np.uint16([40_000])) == pytest.approx(285.72, abs=0.01)


@pytest.mark.parametrize(
    "band", [{"scale": 1e-4, "offset": -1000}, {"scale": 10_000}, {"scale": 1, "offset": -1000}, {"offset": 5}]
)
def test_reflectance_that_cannot_be_one_is_refused(band):
    with pytest.raises(CatalogError, match=r"Item 'item' declares the scale .* of a reflectance"):
        content(item("sentinel-2-l2a", raster__bands=[band], **RED))


def test_metadata_that_contradict_the_file():
    made = item(raster__bands=[{"scale": 1e-4, "data_type": "uint16"}], **RED)
    with pytest.raises(AssetError, match="declares uint16 with the scale 0.0001, and the file holds float32"):
        read(made, np.float32([0.0734]))
    with pytest.raises(AssetError, match="tells the offset -1000 of a reflectance"):
        read(item("sentinel-2-l2a", **RED), np.uint16([1500]), offset=-1000.0)


# ---- classes


CLASSES = [{"value": 1, "name": "tundra"}, {"value": 2, "description": "open water"}]
BITS = [{"name": "cloud", "offset": 3, "length": 1, "classes": [{"value": 0, "name": "no"}, {"value": 1, "name": "yes"}]}]


@pytest.mark.parametrize(
    "made",
    [
        item(key="scl"),
        item("sentinel-2-l2a", "SCL_20m"),
        item("sentinel-2-l2a", "SCL", raster__bands=[{"scale": 1, "offset": 0, "nodata": 0}]),
        item("landsat-c2-l2", "qa_pixel"),
        item("landsat-c2-l2", "QA_RADSAT"),
        item("HLSL30_2.0", "Fmask"),
        item(key="cloud_mask"),
        item(key="watermask"),
        item(key="sur_refl_qc_500m"),
        item(key="map", classification__classes=CLASSES),
        item(key="map", bands=[{"name": "map", "classification:classes": CLASSES}]),
        item(key="map", raster__bands=[{"classification:bitfields": BITS}]),
        item(key="map", file__values=[{"values": [1], "summary": "tundra"}]),
        item(key="layer", roles=["data", "land-cover"]),
        item("io-lulc-annual-v02", "data"),
        item("esa-worldcover", "map"),
    ],
    ids=lambda made: f"{made['collection']} {next(iter(made['assets'].items()))}",
)
def test_classes_are_known_by_what_declares_or_names_them(made):
    found = content(made)
    assert (found.kind, found.units) == ("classes", None)


@pytest.mark.parametrize(
    "made",
    [
        item("sentinel-2-c1-l2a", "snow", roles=["data", "snow-ice"]),
        item("sentinel-2-l2a", "cloud", roles=["data", "cloud"]),
        item(key="water", roles=["water-mask"], unit="%"),
        item(key="mask_probability", data_type="float32"),
        item("landsat-c2-l2", "red", roles=["data", "saturation"], **RED),
        item(key="unmasked", scale=0.5),
        item("landsat-c2-l2", "ST_QA", scale=0.01),
    ],
    ids=str,
)
def test_what_only_looks_like_classes(made):
    assert content(made).kind != "classes"


def test_percentages_are_no_reflectance():
    made = item("sentinel-2-l2a", "cloud", properties={"s2:processing_baseline": "05.09"}, raster__bands=[{"nodata": 0}])
    assert (content(made).kind, content(made).units) == ("numbers", "%")
    np.testing.assert_array_equal(read(made, np.uint8([0, 57])), [np.nan, 57])
    assert read(item("sentinel-2-l2a", "wvp"), np.uint16([1234])) == pytest.approx(1.234)


def test_meanings_of_classes_and_bits():
    assert content(item(key="map", classification__classes=CLASSES)).flags == ((0, 1, "tundra"), (0, 2, "open_water"))
    assert content(item(key="qa", classification__bitfields=BITS)).flags == ((8, 0, "cloud_no"), (8, 8, "cloud_yes"))
    assert content(item(key="scl")).flags[4] == (0, 4, "vegetation")
    strange = [{"value": "x"}, {"value": None}, {}, {"value": 2.5}, {"value": 7}]
    assert content(item(key="map", classification__classes=strange)).flags == ((0, 7, "class_7"),)


def test_codes_stay_whole_or_are_refused():
    bits = np.array([21824, 1, 65535], "u2")
    np.testing.assert_array_equal(codes(bits, (1.0,)), [21824, np.nan, 65535])
    assert Encoding(usual=Counts(nodata=(1.0,))).code_nodata(Stored(bits.dtype)) == (1.0,)
    np.testing.assert_array_equal(codes(np.array([2**24, 2**31]), ()), [2**24, 2**31])
    with pytest.raises(AssetError, match="codes that float32 does not hold, such as 16777217"):
        codes(np.array([2**24 + 1]), ())


# ---- what other words say


@pytest.mark.parametrize("unit", ["bit index", "class", "Flags", "rank"])
def test_units_of_codes_are_those_of_classes(unit):
    made = item("landsat-c2-l2", "qa", raster__bands=[{"unit": unit, "data_type": "uint16"}])
    assert content(made).kind == "classes"


def test_a_band_in_other_units_is_not_scaled_as_reflectance():
    made = item("sentinel-2-l2a", **RED, raster__bands=[{"scale": 1, "offset": 0, "unit": "%"}])
    np.testing.assert_allclose(read(made, np.array([15], "uint16")), 15)
    assert content(made).units == "%"


@pytest.mark.parametrize("unit", ["DN", "counts"])
def test_counts_are_no_units(unit):
    made = item("sentinel-2-l2a", **RED, raster__bands=[{"unit": unit}])
    np.testing.assert_allclose(read(made, np.array([1500], "uint16"), units=unit), 0.15)
    assert (content(made).kind, content(made).units) == ("reflectance", "1")
    with pytest.raises(AssetError, match="neither the item, nor the file, nor a known product tells its scale"):
        read(item(**RED), np.array([1500], "uint16"), units=unit)


def test_an_offset_of_counts_that_is_to_be_added():
    made = item("sentinel-2-l2a", properties={"s2:boa_add_offset": -1000}, **RED)
    np.testing.assert_allclose(read(made, np.array([1500], "uint16")), 0.05, atol=1e-7)
    with pytest.raises(CatalogError, match="boa_add_offset 'all', a number of counts is needed".replace(",", ";")):
        content(item("sentinel-2-l2a", properties={"boa_add_offset": "all"}, **RED))


@pytest.mark.parametrize("baseline", ["03.01", "99.99", None])
def test_a_declared_offset_of_0_is_believed_where_no_baseline_contradicts_it(baseline):
    properties = {"earthsearch:boa_offset_applied": False} | ({} if baseline is None else {"s2:processing_baseline": baseline})
    made = item("sentinel-2-l2a", properties=properties, **RED, raster__bands=[{"scale": 1e-4, "offset": 0}])
    np.testing.assert_allclose(read(made, np.uint16([0, 1500])), [np.nan, 0.15], rtol=1e-6)


@pytest.mark.parametrize("baseline", ["99.99", "N9999"])
def test_a_baseline_of_ones_own_tells_no_offset(baseline):
    properties = {"s2:processing_baseline": baseline}
    with pytest.raises(AssetError, match="99.99, is one of a processor of one's own, and tells no offset"):
        read(item("sentinel-2-l2a", properties=properties, **RED), np.array([1500], "uint16"))
    told = item("sentinel-2-l2a", properties=properties, **RED, raster__bands=[{"scale": 1e-4, "offset": -0.1}])
    np.testing.assert_allclose(read(told, np.array([1500], "uint16")), 0.05, atol=1e-7)


@pytest.mark.parametrize("field", ["scale", "offset", "nodata"])
def test_true_is_no_number(field):
    with pytest.raises(CatalogError, match=f"declares the {field} True, which is no number"):
        content(item(**RED, raster__bands=[{field: True}]))


@pytest.mark.parametrize("word", ["", "none", "null", None])
def test_what_is_said_to_be_nothing_is_not_told(word):
    made = item("sentinel-2-l2a", **RED, raster__bands=[{"scale": word, "offset": word, "nodata": word, "unit": word}])
    np.testing.assert_allclose(read(made, np.array([1500, 0], "uint16")), [0.15, np.nan])
