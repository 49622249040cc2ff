"""What ends up in a cube: numbers as the item, the file or a known product tells; classes as they are; nothing that is only assumed."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr

from misoxr.errors import AssetError, BandError, CatalogError, MisoxrWarning
from misoxr.grid.geobox import geobox_of
from misoxr.stac import open_stac
from tests.stac_scenes import plain_item, write_collection

ENGINES = [{}, {"engine": "odc"}, {"reduce": "median"}]


def full(value: float, dtype: str = "uint16") -> np.ndarray:
    return np.full((8, 10), value, dtype)


def named(common: str) -> dict[str, Any]:
    return {"eo:bands": [{"name": common, "common_name": common}]}


def values(cube: xr.Dataset, band: str) -> list[float]:
    found = cube[band].values
    return np.unique(found[np.isfinite(found)].astype("float64").round(5)).tolist()


def cube_of(directory: Path, *items: dict[str, Any], **options: Any) -> xr.Dataset:
    return open_stac(write_collection(directory / "items.json", list(items)), **{"mask": None, **options})


# ---- identity


@pytest.fixture
def hls(tmp_path: Path) -> list[dict[str, Any]]:
    """An item of each sensor; B05 is the red edge of the one and near infrared of the other."""
    bands = {"B04": (full(400, "int16"), named("red")), "B05": (full(900, "int16"), named("rededge071"))}
    s30 = plain_item(tmp_path, "HLS.S30.T05WNR", "2022-06-29T21:00:00Z", bands, collection="hls2-s30", nodata=-9999)
    bands = {"B04": (full(420, "int16"), named("red")), "B05": (full(3200, "int16"), named("nir"))}
    l30 = plain_item(tmp_path, "HLS.L30.T05WNR", "2022-06-30T21:00:00Z", bands, collection="hls2-l30", nodata=-9999)
    return [s30, l30]


@pytest.mark.parametrize("options", ENGINES, ids=str)
def test_a_key_is_no_band_of_another_sensor(tmp_path, hls, options):
    with pytest.warns(
        MisoxrWarning, match=r"^1 of 2 items have none of the bands and are left out, such as 'HLS.L30.T05WNR'.$"
    ) as told:
        cube = cube_of(tmp_path, *hls, bands=["rededge071"], **options)
    assert [one.filename for one in told if one.category is MisoxrWarning] == [__file__]
    assert values(cube, "rededge071") == [0.09]
    with pytest.warns(MisoxrWarning, match="1 of 2 items lack the band 'rededge071', such as 'HLS.L30.T05WNR'"):
        both = cube_of(tmp_path, *hls, bands=["red", "rededge071"], **options)
    assert values(both, "rededge071") == [0.09]
    with pytest.raises(BandError, match=r"No item has the band 'rededge071'; the items have \['B04', 'B05', 'nir08', 'red'\]"):
        cube_of(tmp_path, *hls, bands=["rededge071"], collections="hls2-l30", **options)
    with pytest.raises(BandError, match="'B05' is 'rededge071' in item .* and 'nir08' in item"):
        cube_of(tmp_path, *hls, bands=["B05"], **options)
    with pytest.raises(BandError, match="Did you mean .rededge071."):
        cube_of(tmp_path, *hls, bands=["rededge71"], **options)


def test_items_that_lack_everything_need_no_classification(tmp_path):
    whole = plain_item(tmp_path, "a", "2020-07-01T21:00:00Z", {"red": (full(1500), named("red")), "scl": (full(4, "uint8"), {})})
    other = plain_item(tmp_path, "b", "2020-07-02T21:00:00Z", {"vv": (full(1), {})}, collection="sentinel-1-grd")
    with pytest.warns(MisoxrWarning, match="left out, such as 'b'"):
        cube = cube_of(tmp_path, whole, other, bands=["red"], mask="scl")
    assert values(cube, "red") == [0.15]


# ---- classes


def test_a_classification_is_whole_codes(tmp_path):
    scl = np.tile(np.array([4, 5, 6, 8, 9, 11, 3, 2, 1, 7], "uint8"), (8, 1))
    told = {"raster:bands": [{"nodata": 0, "data_type": "uint8"}]}
    assets = {"red": (full(2500), named("red")), "scl": (scl, told), "cloud": (full(57, "uint8"), told)}
    item = plain_item(tmp_path, "s2", "2020-07-01T21:00:00Z", assets, properties={"s2:processing_baseline": "05.09"})
    for options in ENGINES[:2]:
        cube = cube_of(tmp_path, item, bands=["red", "scl", "cloud"], **options)
        assert values(cube, "scl") == [1, 2, 3, 4, 5, 6, 7, 8, 9, 11]
        assert values(cube, "cloud") == [57]
        assert values(cube, "red") == [0.15]
        assert "units" not in cube.scl.attrs
        assert "standard_name" not in cube.scl.attrs
        assert cube.scl.attrs["flag_meanings"].split()[cube.scl.attrs["flag_values"].index(4)] == "vegetation"
        assert cube.cloud.attrs["units"] == "%"
        for grid in ({"crs": "EPSG:3338", "resolution": 7}, {"crs": "EPSG:3338", "resolution": 10}, {"resolution": 35}):
            moved = cube_of(tmp_path, item, bands=["scl"], **grid, **options)
            assert set(values(moved, "scl")) <= {1, 2, 3, 4, 5, 6, 7, 8, 9, 11}
            assert len(values(moved, "scl")) >= 3
    with pytest.raises(BandError, match=r"\['scl'\] hold classes, and reduce='median' of classes is no class"):
        cube_of(tmp_path, item, bands=["red", "scl"], reduce="median")


def test_bits_are_whole_and_say_what_they_mean(tmp_path):
    bits = [{"name": "cloud", "offset": 3, "length": 1, "classes": [{"value": 0, "name": "no"}, {"value": 1, "name": "yes"}]}]
    assets = {"qa_pixel": (full(21824), {"classification:bitfields": bits}), "qa_radsat": (full(3), {})}
    item = plain_item(tmp_path, "L9", "2020-07-01T21:00:00Z", assets, collection="landsat-c2-l2", nodata=1)
    cube = cube_of(tmp_path, item, bands=["qa_pixel", "qa_radsat"])
    assert values(cube, "qa_pixel") == [21824]
    assert values(cube, "qa_radsat") == [3]
    assert cube.qa_pixel.attrs["flag_masks"] == [8, 8]
    assert cube.qa_pixel.attrs["flag_values"] == [0, 8]
    assert cube.qa_pixel.attrs["flag_meanings"] == "cloud_no cloud_yes"


# ---- numbers


@pytest.mark.parametrize("options", ENGINES, ids=str)
def test_what_the_files_hold_is_what_comes(tmp_path, options):
    def found(
        value: float, dtype: str, key: str, fields: Any, collection: str, tags: Any = None
    ) -> tuple[list[float], dict[str, Any]]:
        item = plain_item(
            tmp_path, "one", "2021-04-22T00:00:00Z", {key: (full(value, dtype), fields)}, collection=collection, nodata=None
        )
        with rasterio.open(tmp_path / "one" / f"{key}.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
            file.scales, file.offsets, file.nodata = tags or ((1.0,), (0.0,), None)
        cube = cube_of(tmp_path, item, bands=[key], **options)
        return values(cube, key), cube[key].attrs

    numbers, attrs = found(812.5, "float32", "data", {"title": "N64"}, "cop-dem-glo-30")
    assert (numbers, attrs["units"]) == ([812.5], "m")
    assert "standard_name" not in attrs
    numbers, attrs = found(0.0734, "float32", "red", named("red"), "mosaics")
    assert numbers == [pytest.approx(0.0734)]
    assert attrs["units"] == "1"
    assert "standard_name" not in attrs  # nothing tells of what surface or level
    tags = (2.75e-5,), (-0.2,), 0
    assert found(10_000, "uint16", "red", named("red"), "mosaics", tags)[0] == [0.075]
    numbers, attrs = found(10_000, "uint16", "red", named("red"), "landsat-c2l2-sr")
    assert numbers == [0.075]
    assert attrs["standard_name"] == "surface_bidirectional_reflectance"
    with pytest.raises(
        AssetError, match=r"Item 'one', band 'red'.*holds uint16, and neither the item, nor the file, nor a known product"
    ):
        found(10_000, "uint16", "red", named("red"), "mosaics")


def test_a_modifier_tells_what_nothing_else_does(tmp_path):
    item = plain_item(tmp_path, "one", "2021-04-22T00:00:00Z", {"red": (full(10_000), named("red"))}, collection="mosaics")

    def tell(item: Any) -> None:
        item.assets["red"].extra_fields["raster:bands"] = [{"scale": 2.75e-5, "offset": -0.2}]

    assert values(cube_of(tmp_path, item, bands=["red"], modifier=tell), "red") == [0.075]


def test_things_of_different_kinds_do_not_mix(tmp_path):
    metres = plain_item(tmp_path, "m", "2020-07-01T00:00:00Z", {"height": (full(5, "float32"), {"unit": "m"})})
    feet = plain_item(tmp_path, "ft", "2020-07-02T00:00:00Z", {"height": (full(5, "float32"), {"unit": "ft"})})
    with pytest.raises(CatalogError, match=r"different things as band 'height'.*\['ft', 'm'\]"):
        cube_of(tmp_path, metres, feet, bands=["height"])


def test_one_warning_names_all_bands_at_the_callers_line(tmp_path):
    bands = ("red", "green", "blue", "nir")
    whole = plain_item(tmp_path, "a", "2020-07-01T21:00:00Z", {band: (full(1500), named(band)) for band in bands})
    part = plain_item(tmp_path, "b", "2020-07-02T21:00:00Z", {"red": (full(1500), named("red"))})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", MisoxrWarning)
        cube_of(tmp_path, whole, part, bands=bands)
    told = [one for one in told if issubclass(one.category, MisoxrWarning)]
    assert len(told) == 1
    assert told[0].filename == __file__
    assert all(f"the band {band!r}" in str(told[0].message) for band in bands[1:])


@pytest.mark.parametrize("code", [32605, "32605", "EPSG:32605", "epsg:32605"])
def test_the_code_of_a_crs_however_it_is_spelt(tmp_path, code):
    properties = {"proj:code": None, "proj:epsg": code}
    item = plain_item(tmp_path, "i", "2020-07-01T21:00:00Z", {"red": (full(1500), named("red"))}, properties=properties)
    cube = cube_of(tmp_path, item, bands=["red"])
    assert geobox_of(cube).crs.epsg == 32605
    assert values(cube, "red") == [0.15]
