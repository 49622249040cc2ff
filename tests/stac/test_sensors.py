"""Items of every known sensor, written as its catalogues write them: their physical values, and clouds masked by their own bits.

Expected values are worked out by hand: counts * scale + offset, and masks pixel by pixel.
"""

import warnings

import numpy as np
import pytest
import xarray as xr

from misoxr.errors import BandError, MisoxrWarning
from misoxr.stac import open_stac
from tests.sensor_items import (
    EAST,
    GRID,
    SHAPE,
    UTM,
    WAYS,
    WEST,
    clear_by_hand,
    cube_of,
    eo,
    full,
    hls,
    landsat_files,
    landsat_look,
    landsat_planetary_computer,
    made,
    one_time,
    radar,
    sentinel2_cdse,
    sentinel2_earth_search,
    sentinel2_planetary_computer,
    write_table,
)
from tests.stac_scenes import write_cog, write_collection


def test_what_the_bits_of_these_values_are():
    """Values of USGS's table, LSDS-1619 table 6-3, and of the HLS user guide, table 9."""
    assert [value >> 3 & 1 for value in (21824, 22280, 23888, 30048)] == [0, 1, 0, 0]
    assert (23888 >> 4 & 1, 30048 >> 5 & 1, 21826 >> 1 & 1, 21824 >> 6 & 1) == (1, 1, 1, 1)


OPTICAL = {
    # values of red and nir08: counts * scale + offset
    "sentinel-2 of Earth Search": (sentinel2_earth_search, 0.15, 0.27),
    "sentinel-2 of the Planetary Computer": (sentinel2_planetary_computer, 0.15, 0.27),
    "sentinel-2 of CDSE": (sentinel2_cdse, 0.15, 0.27),
    "landsat of the Planetary Computer": (landsat_planetary_computer, 0.075, 0.35),
    "landsat of LandsatLook": (landsat_look, 0.075, 0.35),
    "landsat 7 by its files": (landsat_files, 0.075, 0.35),
    "hls s30 of the Planetary Computer": (lambda folder: hls(folder, "S30", "pc"), 0.075, 0.35),
    "hls l30 of the Planetary Computer": (lambda folder: hls(folder, "L30", "pc"), 0.075, 0.35),
    "hls s30 of LP DAAC": (lambda folder: hls(folder, "S30", "lpdaac"), 0.075, 0.35),
    "hls l30 of LP DAAC, numbered": (lambda folder: hls(folder, "L30", "numbered"), 0.075, 0.35),
}


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", OPTICAL)
def test_optical_values_where_their_own_bits_say_that_it_is_clear(tmp_path, name, way):
    make, red, nir = OPTICAL[name]
    cube = cube_of(tmp_path, make(tmp_path), bands=["red", "nir08"], **GRID, **way)
    for band, value in (("red", red), ("nir08", nir)):
        np.testing.assert_allclose(one_time(cube, band), np.where(clear_by_hand(), value, np.nan), rtol=2e-6)
        assert cube[band].attrs["units"] == "1"
        assert cube[band].attrs["standard_name"] == "surface_bidirectional_reflectance"
    if not way:
        return
    kept = cube_of(tmp_path, make(tmp_path), bands="red", snow=True, **GRID, **way)
    np.testing.assert_allclose(one_time(kept, "red"), np.where(clear_by_hand(snow=True), red, np.nan), rtol=2e-6)
    bare = cube_of(tmp_path, make(tmp_path), bands="red", mask=None, **GRID, **way)
    np.testing.assert_allclose(one_time(bare, "red"), red, rtol=2e-6)


@pytest.mark.parametrize("make", [landsat_planetary_computer, landsat_look, landsat_files])
def test_surface_temperature_is_in_kelvin(tmp_path, make):
    band = "lwir" if make is landsat_files else "lwir11"
    cube = cube_of(tmp_path, make(tmp_path), bands=band)
    assert cube[band].attrs["units"] == "K"
    # 44000 * 0.00341802 + 149 = 299.39288
    np.testing.assert_allclose(one_time(cube, band), np.where(clear_by_hand(), 299.39288, np.nan), rtol=1e-6)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_top_of_atmosphere_has_no_mask_and_says_so(tmp_path, way):
    assets = {"B04": (full(2500, "uint16"), 0, eo("B04", "red"))}
    item = made(tmp_path, "S2B_MSIL1C_20220701T213529_N0400_R086_T05WNR_20220702T003500", "sentinel-2-l1c", assets)
    with pytest.warns(MisoxrWarning, match=r"1 of 1 items have no quality band .* not masked, such as 'S2B_MSIL1C.*sentinel-2-l1c"):
        cube = cube_of(tmp_path, item, bands="red", **way)
    np.testing.assert_allclose(one_time(cube, "red"), 0.15, rtol=2e-6)
    assert cube.red.attrs["standard_name"] == "toa_bidirectional_reflectance"
    with warnings.catch_warnings():
        warnings.simplefilter("error", MisoxrWarning)
        cube_of(tmp_path, item, bands="red", mask=None, **way)


def test_saturation_hides_in_the_bands_that_are_asked_for(tmp_path):
    item = landsat_planetary_computer(tmp_path)
    radsat = full(0, "uint16")
    radsat[7, 7], radsat[8, 8], radsat[10, 1], radsat[12, 1] = 1 << 3, 1 << 4, 1 << 1, 1 << 9  # bands 4, 5, 2; a dropped pixel
    write_cog(tmp_path / item["id"] / "qa_radsat.tif", radsat, UTM, "EPSG:32605", None, tile=16)
    for bands, hidden in (
        (["red"], [(7, 7), (12, 1)]),
        (["nir08"], [(8, 8), (12, 1)]),
        (["red", "nir08"], [(7, 7), (8, 8), (12, 1)]),
    ):
        for way in WAYS:
            cube = cube_of(tmp_path, item, bands=bands, **way)
            expected = clear_by_hand()
            for place in hidden:
                expected[place] = False
            for band in bands:
                assert (np.isfinite(one_time(cube, band)) == expected).all()


def test_saturation_of_any_band_hides_where_the_platform_is_not_told(tmp_path):
    item = landsat_planetary_computer(tmp_path)
    radsat = full(0, "uint16")
    radsat[7, 7], radsat[8, 8] = 1 << 3, 1 << 0
    write_cog(tmp_path / item["id"] / "qa_radsat.tif", radsat, UTM, "EPSG:32605", None, tile=16)
    item["id"] = "one"
    for field in ("platform", "instruments"):
        del item["properties"][field]
    expected = clear_by_hand()
    expected[7, 7] = expected[8, 8] = False
    assert (np.isfinite(one_time(cube_of(tmp_path, item, bands="red"), "red")) == expected).all()


# ---- several sensors in one cube


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("catalogue", ["pc", "lpdaac"])
def test_hls_of_both_satellites_is_one_cube_of_the_common_bands(tmp_path, catalogue, way):
    s30 = hls(tmp_path, "S30", catalogue)
    l30 = hls(tmp_path, "L30", catalogue, time="2022-07-02T21:00:00Z")
    # another sky for the second: everything but one block is clear
    other = full(0b01000000, "uint8")
    other[10:13, 2:5] = 0b00000010
    write_cog(tmp_path / l30["id"] / f"{l30['id']}.Fmask.tif", other, UTM, "EPSG:32605", 255, tile=16)
    cube = cube_of(tmp_path, s30, l30, bands=["red", "nir08"], **GRID, **way)
    second = np.array([[abs(row - 11) + abs(column - 3) > 3 for column in range(SHAPE[1])] for row in range(SHAPE[0])])
    second[10:13, 2:5] = False
    if way.get("reduce"):
        assert (cube.observations.values == clear_by_hand().astype(int) + second).all()
        np.testing.assert_allclose(cube.nir08.values, np.where(clear_by_hand() | second, 0.35, np.nan), rtol=2e-6)
    else:
        assert cube.sizes["time"] == 2
        np.testing.assert_allclose(cube.nir08.values[0], np.where(clear_by_hand(), 0.35, np.nan), rtol=2e-6)
        np.testing.assert_allclose(cube.nir08.values[1], np.where(second, 0.35, np.nan), rtol=2e-6)
    if catalogue == "pc":
        with pytest.raises(BandError, match=r"No item has the band 'rededge071'; the items have .*'nir08'.*'red'"):
            cube_of(tmp_path, s30, l30, bands="rededge071", **GRID)


def test_broad_and_narrow_infrared_do_not_mix(tmp_path):
    """The Planetary Computer calls HLS L30's B05 "nir": it is Sentinel-2's B8A, not its B08."""
    s30 = hls(tmp_path, "S30", "pc")
    write_cog(tmp_path / "B08.tif", full(3400, "int16"), UTM, "EPSG:32605", -9999, tile=16)
    s30["assets"]["B08"] = {"href": "B08.tif"} | eo("B08", "nir")
    with pytest.raises(BandError, match="The band 'nir' is 'nir08' in item 'HLS.L30.* and 'nir' in item 'HLS.S30"):
        cube_of(tmp_path, s30, hls(tmp_path, "L30", "pc"), bands="nir")


def test_broad_and_narrow_infrared_do_not_mix_in_a_table(tmp_path):
    """Of each collection an item is looked at, though the first has all bands."""
    broad = hls(tmp_path, "S30", "pc", time="2022-06-30T21:00:00Z")
    write_cog(tmp_path / "B08.tif", full(3400, "int16"), UTM, "EPSG:32605", -9999, tile=16)
    broad["assets"]["B08"] = {"href": "B08.tif"} | eo("B08", "nir")
    write_table(tmp_path / "items.parquet", [broad, hls(tmp_path, "L30", "pc")])
    with pytest.raises(BandError, match="The band 'nir' is 'nir.* and 'nir"):
        open_stac(tmp_path / "items.parquet", bands="nir", reduce="median", **GRID)
    alone = open_stac(tmp_path / "items.parquet", bands="nir", reduce="median", collections="hls2-s30", **GRID)
    assert float(alone.nir.max()) == pytest.approx(0.34)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_each_item_is_masked_by_its_own_sensor(tmp_path, way):
    """Sentinel-2, Landsat and HLS, and one that has no mask, in one call."""
    bare = made(tmp_path, "camera", "mine", {"red": (full(0.2, "float32"), None, eo("red", "red"))}, time="2022-07-04T21:00:00Z")
    items = [landsat_look(tmp_path), sentinel2_cdse(tmp_path), hls(tmp_path, "L30", "pc"), bare]
    for day, item in enumerate(items):
        item["properties"]["datetime"] = f"2022-07-0{day + 1}T21:00:00Z"
    with pytest.warns(MisoxrWarning, match=r"1 of 4 items have no quality band .* such as 'camera' \(unknown\)"):
        cube = cube_of(tmp_path, *items, bands="red", **way)
    if way.get("reduce"):
        assert (cube.observations.values == np.where(clear_by_hand(), 4, 1)).all()
        # of 0.075, 0.15, 0.075, 0.2 the median is 0.1125
        np.testing.assert_allclose(cube.red.values, np.where(clear_by_hand(), 0.1125, 0.2), rtol=2e-6)
        return
    for at, value in enumerate((0.075, 0.15, 0.075)):
        np.testing.assert_allclose(cube.red.values[at], np.where(clear_by_hand(), value, np.nan), rtol=2e-6)
    np.testing.assert_allclose(cube.red.values[3], 0.2, rtol=2e-6)


ACROSS = {
    # what makes an item in a place, its band, and that band's value and clear pixels
    "sentinel-2": (lambda folder, **where: sentinel2_cdse(folder, **where), "red", 0.15, clear_by_hand().sum()),
    "landsat": (lambda folder, **where: landsat_look(folder, **where), "lwir11", 299.39288, clear_by_hand().sum()),
    "hls": (lambda folder, **where: hls(folder, "L30", "pc", **where), "nir08", 0.35, clear_by_hand().sum()),
    "sentinel-1": (lambda folder, **where: radar(folder, "S1A", "ascending", 0.08, where=where), "vv", 0.08, 14 * 16 - 3),
}


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", ACROSS)
def test_across_the_antimeridian(tmp_path, name, way):
    """An item on either side, on one grid: each is masked on its own grid."""
    make, band, value, clear = ACROSS[name]
    items = [make(tmp_path / side, **where) for side, where in (("west", WEST), ("east", EAST))]
    for side, item in zip(("west", "east"), items, strict=True):
        for asset in item["assets"].values():
            asset["href"] = f"{side}/{asset['href']}"
        item["id"] += f"_{side}"
    cube = cube_of(tmp_path, *items, bands=band, bbox=(179.9, 64.7, -179.9, 65.1), crs="EPSG:3338", resolution=10, **way)
    found = one_time(cube, band)
    np.testing.assert_allclose(found[np.isfinite(found)], value, rtol=2e-6)
    # nine pixels of 10 m for each clear one of 30 m, of either item
    assert np.isfinite(found).sum() / 9 == pytest.approx(2 * clear, rel=0.03)
    assert way.get("reduce") or cube.sizes["time"] == 1


def test_both_satellites_of_hls_across_the_antimeridian(tmp_path):
    west, east = hls(tmp_path, "S30", "pc", name="60WXA", **WEST), hls(tmp_path, "L30", "pc", name="01WCR", **EAST)
    cube = cube_of(tmp_path, west, east, bands=["red", "nir08"], crs="EPSG:3338", resolution=10)
    red, nir = cube.red.values, cube.nir08.values
    np.testing.assert_allclose(red[np.isfinite(red)], 0.075, rtol=2e-6)
    np.testing.assert_allclose(nir[np.isfinite(nir)], 0.35, rtol=2e-6)
    assert (np.isfinite(red) == np.isfinite(nir)).all()
    assert len(red) == 2  # each satellite's is an observation of its own
    assert np.isfinite(red).sum() / 9 == pytest.approx(2 * clear_by_hand().sum(), rel=0.03)
    assert cube.sizes["x"] < 2000


def test_a_table_masks_as_its_items_do(tmp_path):
    items = [
        hls(tmp_path, "S30", "pc"),
        hls(tmp_path, "L30", "pc", time="2022-07-02T21:00:00Z"),
        landsat_planetary_computer(tmp_path),
    ]
    write_collection(tmp_path / "items.json", items)
    write_table(tmp_path / "items.parquet", items)
    ask = {"bands": ["red", "nir08"], "reduce": "median", "chunks": 7, **GRID}
    for options in ({}, {"snow": True}, {"mask": lambda bits: bits % 2 == 0}):
        one, other = (open_stac(tmp_path / file, **ask, **options).compute() for file in ("items.json", "items.parquet"))
        for name in ("red", "nir08", "observations"):
            xr.testing.assert_equal(one[name], other[name])
        assert int(one.observations.max()) == 3  # of two solar days, and two sensors on the first
