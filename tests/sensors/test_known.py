"""Which sensor an item is of, by the names that catalogues give it; and what the documentation says of each."""

import re
from pathlib import Path
from typing import Any

import pytest

from misoxr.errors import CatalogError
from misoxr.sensors import SENSORS, Sensor
from misoxr.sensors.known import sensor_named, sensor_of

CONVENTIONS = Path(__file__).resolve().parents[2] / "docs/reference/conventions.md"


def item(collection: str | None = None, name: str = "item", **properties: Any) -> dict[str, Any]:
    return {
        "id": name,
        "collection": collection,
        "properties": {key.replace("__", ":"): value for key, value in properties.items()},
    }


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (item("sentinel-2-c1-l2a"), "sentinel-2-l2a"),
        (item("sentinel-2-l1c"), "sentinel-2-l1c"),
        (item("mine", "S2A_MSIL2A_20220701T213531_N0400_R086_T05WNR_20220702T003500"), "sentinel-2-l2a"),
        (item("mine", "S2A_MSIL1C_20220701T213531_N0400_R086_T05WNR_20220702T003500"), "sentinel-2-l1c"),
        (item("mine", s2__product_type="S2MSI1C"), "sentinel-2-l1c"),
        (item("mine", s2__product_type="S2MSI2A"), "sentinel-2-l2a"),
        (item("mine", platform="sentinel-2a"), "sentinel-2"),
        (item("HLSS30.v2.0", platform="sentinel-2a"), "hls-s30"),
        (item("hlsl30_2.0", platform="landsat-8"), "hls-l30"),
        (item(None, "HLS.S30.T05WNR.2022182T213529.v2.0"), "hls-s30"),
        (item("landsat-c2l2-st", platform="LANDSAT_7"), "landsat-c2-l2"),
        (item("mine", "LT05_L2SP_067015_20050701_20200902_02_T1"), "landsat-c2-l2"),
        (item("landsat-c2-l1", platform="landsat-8"), "landsat-8-9"),
        (item("sentinel-1-rtc", "S1A_IW_GRDH_1SDV_20220701T170000_rtc"), "sentinel-1-rtc"),
        (item("sentinel1-rtc-aws", platform="sentinel-1a"), "sentinel-1-rtc"),
        (item("sentinel-1-grd", platform="SENTINEL-1A"), "sentinel-1"),
        (item("cop-dem-glo-30-dged-cog"), "cop-dem"),
        (item("arcticdem-mosaics-v3.0-10m"), "arcticdem"),
        (item("arcticdem-strips-s2s041-2m"), "arcticdem"),
        (item("nasadem"), "elevation"),
        (item("esa-worldcover", platform="sentinel-1a, sentinel-2a", instruments=["c-sar", "msi"]), "esa-worldcover"),
        (item("urn:eop:VITO:ESA_WorldCover_10m_2021_AWS_V2"), "esa-worldcover"),
        (item("naip"), "unknown"),
        (item(None), "unknown"),
    ],
    ids=lambda made: str(made),
)
def test_an_item_is_known_by_its_names(made, expected):
    assert sensor_of(made).name == expected


def test_keys_of_landsat_depend_on_the_platform():
    assert sensor_of(item("landsat-c2-l2", platform="landsat-9")).bands["b5"] == "nir08"
    assert sensor_of(item("landsat-c2-l2", platform="landsat-5")).bands["b5"] == "swir16"
    assert sensor_of(item("landsat-c2-l2", platform="landsat-5")).mask is SENSORS["landsat-c2-l2"].mask
    assert sensor_of(item("mine", platform="landsat-5"), SENSORS["landsat-c2-l2"]).bands["b3"] == "red"


def test_a_sensor_is_named_by_itself_or_by_its_collection():
    assert sensor_named(None) is None
    assert sensor_named("HLS-S30") is sensor_named("hls2-s30") is SENSORS["hls-s30"]
    own = Sensor("own")
    assert sensor_named(own) is own
    assert sensor_of(item("sentinel-2-l2a"), own).name == "own"
    with pytest.raises(CatalogError, match="sensor='hls' is unknown; use one of"):
        sensor_named("hls")


def test_the_conventions_tell_of_every_sensor_its_collections_bands_and_mask():
    rows = {
        row.split("|")[1].strip(" `"): set(re.findall(r"`([^`]+)`", row))
        for row in CONVENTIONS.read_text().splitlines()
        if row.startswith("| `")
    }
    for sensor in SENSORS.values():
        told = {sensor.name, *sensor.collections, *([sensor.mask.asset] if sensor.mask else [])}
        told |= {"lwir11"} if not sensor.bands else set()
        assert told <= rows[sensor.name], sensor.name
    for name in ("sentinel-2-l2a", "hls-l30", "sentinel-1-rtc", "cop-dem", "arcticdem", "elevation", "esa-worldcover"):
        assert set(SENSORS[name].bands.values()) - {"cirrus"} <= rows[name], name
