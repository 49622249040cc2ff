"""Which asset is which band: an item's own names first; keys mean what they mean for the item's own instrument."""

from typing import Any

import pytest

from misoxr.errors import BandError
from misoxr.sensors.bands import check_bands, named_assets
from misoxr.sensors.known import surface_of
from misoxr.sensors.sensor import short_key


def item(name: str = "item", collection: str | None = None, properties: Any = None, **assets: Any) -> dict[str, Any]:
    """An item of assets, each with its common name, its fields, or nothing."""
    made = {
        key: {"href": f"{key}.tif", **({"eo:bands": [{"name": key, "common_name": one}]} if isinstance(one, str) else one or {})}
        for key, one in assets.items()
    }
    return {"id": name, "collection": collection, "properties": properties or {}, "assets": made}


def key_of(made: dict[str, Any], band: str) -> str | None:
    found = named_assets(made, [band])
    return found[band].key if found else None


HLS = {"name": "HLS.S30.T05WNR.2022180T213911.v2.0", "collection": "hls2-s30"}
PLAIN = dict.fromkeys(["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"])


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (item(collection="sentinel-2-l2a", **PLAIN), {"rededge071": "B05", "nir": "B08", "nir08": "B8A", "swir22": "B12"}),
        (item(properties={"platform": "sentinel-2b"}, **PLAIN), {"rededge071": "B05", "nir": "B08"}),
        (item(properties={"platform": "S2A"}, **PLAIN), {"rededge071": "B05"}),
        (item(properties={"constellation": "Sentinel-2"}, **PLAIN), {"rededge071": "B05"}),
        (item(properties={"instruments": ["msi"]}, **PLAIN), {"rededge071": "B05"}),
        (item(properties={"s2:mgrs_tile": "05WNR"}, **PLAIN), {"rededge071": "B05"}),
        (item("S2A_MSIL1C_20220701T213911_N0400_R043_T05WNR_20220702T010203", **PLAIN), {"rededge071": "B05"}),
        (item(**HLS, **PLAIN), {"rededge071": "B05", "nir08": "B8A"}),
        (item("HLS.S30.T05WNR", "HLSS30_2.0", {"platform": "sentinel-2a"}, **PLAIN), {"rededge071": "B05"}),
        (
            item("HLS.L30.T05WNR", "HLSL30_2.0", {"platform": "LANDSAT_9"}, **PLAIN),
            {"rededge071": None, "nir08": "B05", "nir": None},
        ),
        (item(properties={"platform": "landsat-8"}, **PLAIN), {"rededge071": None, "nir08": "B05", "pan": "B08", "coastal": "B01"}),
        (item("LT05_L2SP_067015_20050701_20200902_02_T1", **PLAIN), {"red": "B03", "nir08": "B04", "rededge071": None}),
        (item(SR_B4=None, ST_B10=None, properties={"platform": "LANDSAT_8"}), {"red": "SR_B4", "lwir11": "ST_B10"}),
        (item(**PLAIN), {"rededge071": None, "nir": None, "red": None, "B04": "B04", "b4": "B04"}),
        (item(properties={"platform": "landsat-8"}, B08="pan", B05="nir08"), {"nir": None, "nir08": "B05", "pan": "B08"}),
        (item(collection="sentinel-2-l2a", B8A="rededge", B05="rededge"), {"nir08": "B8A", "rededge071": "B05"}),
        (item(collection="sentinel-2-l2a", B05="red", B04="rededge071"), {"red": "B05", "rededge071": "B04"}),
        # Earth Search's keys are common names
        (
            item(collection="sentinel-2-l2a", red="red", nir="nir", nir08="nir08"),
            {"B04": "red", "B8": "nir", "B8A": "nir08", "B05": None},
        ),
        (item(collection="hls2-l30", red="red", nir="nir08"), {"B04": "red", "B05": "nir", "B8A": None}),
        (item(red="red"), {"B04": None}),
    ],
    ids=lambda made: f"{made['id']} {made['collection']} {made['properties']}" if "assets" in made else "",
)
def test_keys_mean_what_they_mean_for_their_own_sensor(made, expected):
    assert {band: key_of(made, band) for band in expected} == expected


def test_own_common_names_in_any_spelling():
    forms: list[dict[str, Any]] = [
        {"eo:bands": [{"name": "x", "common_name": "nir"}]},
        {"bands": [{"name": "x", "eo:common_name": "nir"}]},
        {"bands": [{"name": "x", "common_name": "nir"}]},
        {"bands": [{"name": "x"}], "eo:bands": [{"common_name": "nir"}]},
        {"eo:common_name": "nir"},
        {"common_name": "nir"},
    ]
    for form in forms:
        assert key_of(item(asset=form, B08={}, collection="sentinel-2-l2a"), "nir") == "asset"
    assert key_of(item(asset={"bands": [{"name": "N2"}]}), "N2") == "asset"
    assert key_of(item(visual={"eo:bands": [{"common_name": "red"}, {"common_name": "nir"}]}), "red") is None


def test_the_finest_of_several_forms_is_taken_and_jpeg_last():
    made = item(
        B04_60m={"eo:bands": [{"name": "B04", "common_name": "red"}], "proj:transform": [60, 0, 0, 0, -60, 0]},
        B04_10m={"bands": [{"name": "B04", "eo:common_name": "red", "gsd": 10}]},
        B04_20m={"eo:bands": [{"name": "B04", "common_name": "red"}], "gsd": 20},
    )
    assert key_of(made, "red") == "B04_10m"
    made["assets"]["B04_10m"]["href"] = "B04.jp2"
    assert key_of(made, "red") == "B04_20m"
    assert key_of(item(SCL_20m={"gsd": 20}, SCL_60m={"gsd": 60}), "scl") == "SCL_20m"
    assert key_of(item(thumbnail={"roles": ["thumbnail"]}, qa_aerosol={"roles": ["metadata"]}), "qa_aerosol") == "qa_aerosol"


def test_a_name_of_several_bands_is_refused():
    made = item(B05="rededge", B06="rededge", B8A="rededge", collection="sentinel-2-l2a")
    with pytest.raises(BandError, match=r"several bands 'rededge', in the assets \['B05', 'B06', 'B8A'\]; give the key"):
        named_assets(made, ["rededge"])


def names(items: list[dict[str, Any]], bands: list[str]) -> list[dict[str, str | None]]:
    return [{band: one.common for band, one in named_assets(made, bands).items()} for made in items]


def test_what_no_item_has_is_answered_with_what_they_have():
    items = [item("a", collection="sentinel-2-l2a", B04=None, B08="nir"), item("b", scl=None, preview={"roles": ["overview"]})]
    with pytest.raises(BandError, match=r"band 'nit'; the items have \['B04', 'B08', 'nir', 'red', 'scl'\]. Did you mean .nir.\?"):
        check_bands(items, names(items, ["nit"]), ["nit"])
    check_bands(items, names(items, ["nir", "red", "scl"]), ["nir", "red", "scl"])


def test_a_key_that_means_two_bands_is_refused():
    items = [item("HLS.S30.T05WNR", B05=None), item("HLS.L30.T05WNR", B05="nir")]
    with pytest.raises(
        BandError, match=r"band 'B05' is 'rededge071' in item 'HLS.S30.T05WNR' and 'nir08' in item 'HLS.L30.T05WNR'"
    ):
        check_bands(items, names(items, ["B05"]), ["B05"])


def test_short_keys():
    spelt = {
        "B04": "b4",
        "b4": "b4",
        "B8A": "b8a",
        "SR_B4": "b4",
        "red-jp2": "red",
        "SCL_20m": "scl",
        "B11": "b11",
        "ST_B10": "b10",
    }
    assert {key: short_key(key) for key in spelt} == spelt


@pytest.mark.parametrize(
    ("collection", "properties", "expected"),
    [
        ("sentinel-2-l2a", {}, True),
        ("sentinel-2-l1c", {}, False),
        ("winter", {"processing:level": "L2A"}, True),
        ("winter", {"processing:level": "1C"}, False),
        ("winter", {"s2:product_type": "S2MSI2A"}, True),
        ("winter", {"product:type": "S2MSI1C"}, False),
        ("landsat-c2-l2", {}, True),
        ("hls2-l30", {}, True),
        ("landsat-c2-l1", {}, False),
        ("mosaics", {}, None),
        ("sentinel-2", {}, None),
    ],
)
def test_whether_reflectance_is_that_of_the_surface(collection, properties, expected):
    assert surface_of(item(collection=collection, properties=properties)) is expected


def test_a_picture_is_no_place_of_a_band():
    made = item(visual={"roles": ["visual"], "eo:bands": [{"name": "B04"}, {"name": "B03"}]}, odd={"bands": ["red", "green"]})
    with pytest.raises(BandError, match=r"No item has the band 'B04'; the items have \['odd'\](?!.*gdal)"):
        check_bands([made], [{}], ["B04"])


@pytest.mark.parametrize(("key", "name", "common"), [("nir", "B8A", "nir08"), ("swir16", "B12", "swir22"), ("red", None, "red")])
def test_a_band_s_own_name_goes_before_a_key_that_is_a_common_name(key, name, common):
    made = item(collection="sentinel-2-l2a", **{key: {"eo:bands": [{"name": name}] if name else [{}]}})
    assert named_assets(made, [key])[key].common == common


@pytest.mark.parametrize("field", ["eo:bands", "bands"])
def test_a_band_among_several_of_one_asset_is_refused_with_its_number(field):
    prefix = "eo:" if field == "bands" else ""
    made = item(image={field: [{"name": "B1", f"{prefix}common_name": "red"}, {"name": "B2", f"{prefix}common_name": "green"}]})
    for band in ("green", "B2"):
        with pytest.raises(BandError, match="It is the 2. of 2 bands of the asset 'image' in item 'item', .* gdal_translate -b 2"):
            check_bands([made], [{}], [band])
