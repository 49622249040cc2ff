"""Items of every known sensor, written as its catalogues write them: their physical values, and clouds masked by their own bits.

Expected values are worked out by hand: counts * scale + offset, and masks pixel by pixel.
"""

import asyncio
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rustac
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from misoxr.errors import AssetError, BandError, CatalogError, MisoxrWarning
from misoxr.sensors import SENSORS, Counts, Mask, Sensor
from misoxr.stac import open_stac
from tests.stac_scenes import ORIGIN, outline, write_cog, write_collection

WAYS: list[dict[str, Any]] = [{}, {"engine": "odc"}, {"reduce": "median"}]
SHAPE = (14, 16)
UTM = Affine(30, 0, ORIGIN[0] + 10, 0, -30, ORIGIN[1])


def full(value: float, dtype: str) -> np.ndarray:
    return np.full(SHAPE, value, dtype)


def made(
    directory: Path,
    name: str,
    collection: str,
    assets: Mapping[str, tuple[np.ndarray, float | None, Mapping[str, Any]]],
    *,
    time: str | None = "2022-07-01T21:00:00Z",
    properties: Mapping[str, Any] | None = None,
    crs: str = "EPSG:32605",
    transform: Affine = UTM,
    projection: bool = True,
) -> dict[str, Any]:
    """Write an item's files, and return it; each asset is its values, its file's nodata, and its fields."""
    written = {}
    for key, (values, nodata, fields) in assets.items():
        path = fields.get("path", f"{key}.tif")
        write_cog(directory / name / path, values, transform, crs, nodata, tile=16)
        written[key] = {"href": f"{name}/{path}", **{field: value for field, value in fields.items() if field != "path"}}
    grid = {"proj:code": crs, "proj:transform": list(transform)[:6], "proj:shape": list(SHAPE)} if projection else {}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": name,
        "collection": collection,
        **_outline(transform, crs),
        "properties": {"datetime": time, **grid, **(properties or {})},
        "links": [],
        "assets": written,
    }


def _outline(transform: Affine, crs: str) -> dict[str, Any]:
    size = SHAPE[0] * abs(transform.e) / 10, SHAPE[1] * transform.a / 10
    if crs != "EPSG:4326":
        return outline((transform.c, transform.f), (int(size[0]), int(size[1])), crs)
    west, north = transform.c, transform.f
    east, south = west + SHAPE[1] * transform.a, north + SHAPE[0] * transform.e
    ring = [[west, north], [west, south], [east, south], [east, north], [west, north]]
    return {"geometry": {"type": "Polygon", "coordinates": [ring]}, "bbox": [west, south, east, north]}


def cube_of(directory: Path, *items: dict[str, Any], **options: Any) -> xr.Dataset:
    return open_stac(write_collection(directory / "items.json", list(items)), **options)


def write_table(path: Path, items: list[dict[str, Any]]) -> None:
    async def write() -> None:
        await rustac.write(str(path), items)

    asyncio.run(write())


def one_time(cube: xr.Dataset, band: str) -> np.ndarray:
    values = cube[band].values
    return values[0] if values.ndim == 3 else values


# ---- quality bands: what is in them, and what the mask is, pixel by pixel


def sky(clear: int, clouds: int, lone: int, snow: int, fill: int, other: int, dtype: str) -> tuple[np.ndarray, dict[str, Any]]:
    """A quality band with a block of cloud, a lone cloud, snow, fill and something else that hides itself."""
    values = full(clear, dtype)
    values[2:5, 2:5] = clouds
    values[9, 4] = lone
    values[11, 11:13] = snow
    values[0:3, 14:16] = fill
    values[6, 13] = other
    return values, {"snow": (slice(11, 12), slice(11, 13))}


def clear_by_hand(snow: bool = False) -> np.ndarray:
    """The mask of :func:`sky`: the block of 3 x 3 has one pixel whose four neighbours are cloud; it grows by three steps along the axes."""
    clear = np.ones(SHAPE, bool)
    clear[2:5, 2:5] = False
    for row in range(SHAPE[0]):
        for column in range(SHAPE[1]):
            if abs(row - 3) + abs(column - 3) <= 3:
                clear[row, column] = False
    clear[9, 4] = False
    clear[11, 11:13] = snow
    clear[0:3, 14:16] = False
    clear[6, 13] = False
    return clear


QUALITY = {
    # vegetation; cloud of high probability; cirrus; snow; no data; unclassified
    "scl": sky(4, 9, 10, 11, 0, 7, "uint8")[0],
    # clear and of low confidences; cloud and its confidence; shadow; snow; fill; dilated cloud
    "qa_pixel": sky(21824, 22280, 23888, 30048, 1, 21826, "uint16")[0],
    # aerosol of two bits and water among them; cloud; shadow; snow; fill, all bits; beside a cloud
    "fmask": sky(0b01100000, 0b11000010, 0b01001000, 0b01010000, 255, 0b11000100, "uint8")[0],
}


def test_what_the_bits_of_these_values_are():
    """Values of USGS's table, LSDS-1619 table 6-3, and of the HLS user guide, table 9."""
    assert [value >> 3 & 1 for value in (21824, 22280, 23888, 30048)] == [0, 1, 0, 0]
    assert (23888 >> 4 & 1, 30048 >> 5 & 1, 21826 >> 1 & 1, 21824 >> 6 & 1) == (1, 1, 1, 1)


# ---- the items


def eo(name: str, common: str | None = None) -> dict[str, Any]:
    return {"roles": ["data"], "eo:bands": [{"name": name, **({"common_name": common} if common else {})}]}


def raster(**fields: Any) -> dict[str, Any]:
    return {"raster:bands": [fields]}


def sentinel2_earth_search(directory: Path, **where: Any) -> dict[str, Any]:
    assets = {
        "red": (full(2500, "uint16"), 0, eo("red", "red") | raster(nodata=0, data_type="uint16", scale=0.0001, offset=-0.1)),
        "nir08": (full(3700, "uint16"), 0, eo("nir08", "nir08") | raster(nodata=0, data_type="uint16", scale=0.0001, offset=-0.1)),
        "scl": (QUALITY["scl"], 0, raster(nodata=0, data_type="uint8")),
    }
    properties = {"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": False, "platform": "sentinel-2b"}
    return made(directory, "S2B_5WNR_20220701_0_L2A", "sentinel-2-c1-l2a", assets, properties=properties, **where)


def sentinel2_planetary_computer(directory: Path) -> dict[str, Any]:
    assets = {
        "B04": (full(2500, "uint16"), 0, eo("B04", "red")),
        "B8A": (full(3700, "uint16"), 0, eo("B8A", "rededge")),
        "SCL": (QUALITY["scl"], 0, {"roles": ["data"]}),
    }
    return made(
        directory,
        "S2B_MSIL2A_20220701T213529_R086_T05WNR_20220702T003500",
        "sentinel-2-l2a",
        assets,
        properties={"s2:processing_baseline": "04.00"},
    )


def sentinel2_cdse(directory: Path, **where: Any) -> dict[str, Any]:
    assets = {
        "B04_10m": (
            full(2500, "uint16"),
            0,
            {"bands": [{"name": "B04", "eo:common_name": "red"}], "raster:scale": 0.0001, "raster:offset": -0.1, "nodata": 0},
        ),
        "B8A_20m": (
            full(3700, "uint16"),
            0,
            {"bands": [{"name": "B8A", "eo:common_name": "nir08"}], "raster:scale": 0.0001, "raster:offset": -0.1, "nodata": 0},
        ),
        "SCL_20m": (QUALITY["scl"], 0, {"roles": ["data"]}),
    }
    return made(
        directory,
        "S2B_MSIL2A_20220701T213529_N0400_R086_T05WNR_20220702T003500",
        "sentinel-2-l2a",
        assets,
        properties={"processing:version": "04.00"},
        **where,
    )


def landsat_planetary_computer(directory: Path, **where: Any) -> dict[str, Any]:
    """As stactools and the Planetary Computer write it: scale, offset and nodata declared."""
    declared = raster(nodata=0, data_type="uint16", scale=2.75e-05, offset=-0.2)
    assets = {
        "red": (full(10_000, "uint16"), 0, eo("OLI_B4", "red") | declared),
        "nir08": (full(20_000, "uint16"), 0, eo("OLI_B5", "nir08") | declared),
        "lwir11": (full(44_000, "uint16"), 0, eo("TIRS_B10", "lwir11") | raster(nodata=0, data_type="uint16", unit="kelvin", scale=0.00341802, offset=149.0)),
        "qa_pixel": (QUALITY["qa_pixel"], 1, {"roles": ["cloud", "cloud-shadow"]} | raster(data_type="uint16", unit="bit index", nodata=1)),
        "qa_radsat": (full(0, "uint16"), None, {"roles": ["saturation"]} | raster(data_type="uint16", unit="bit index")),
    }  # fmt: skip
    properties = {
        "platform": "landsat-9",
        "instruments": ["oli", "tirs"],
        "landsat:collection_number": "02",
        "landsat:correction": "L2SP",
    }
    return made(directory, "LC09_L2SP_067015_20220701_02_T1", "landsat-c2-l2", assets, properties=properties, **where)


def landsat_look(directory: Path, **where: Any) -> dict[str, Any]:
    """As USGS writes it: neither scale, nor offset, nor nodata."""
    assets = {
        "red": (full(10_000, "uint16"), 0, eo("B4", "red") | {"path": "SR_B4.TIF"}),
        "nir08": (full(20_000, "uint16"), 0, eo("B5", "nir08") | {"path": "SR_B5.TIF"}),
        "lwir11": (full(44_000, "uint16"), 0, eo("B10", "lwir11") | {"path": "ST_B10.TIF"}),
        "qa_pixel": (
            QUALITY["qa_pixel"],
            None,
            {"roles": ["cloud", "cloud-shadow", "snow-ice", "water-mask"], "path": "QA_PIXEL.TIF"},
        ),
    }
    return made(
        directory,
        "LC09_L2SP_067015_20220701_20220703_02_T1_SR",
        "landsat-c2l2-sr",
        assets,
        properties={"platform": "LANDSAT_9", "instruments": ["OLI", "TIRS"]},
        **where,
    )


def landsat_files(directory: Path) -> dict[str, Any]:
    """Files of one's own, keyed as USGS names them."""
    assets = {
        "SR_B3.TIF": (full(10_000, "uint16"), 0, {}),
        "SR_B4.TIF": (full(20_000, "uint16"), 0, {}),
        "ST_B6.TIF": (full(44_000, "uint16"), 0, {}),
        "QA_PIXEL.TIF": (QUALITY["qa_pixel"], None, {}),
    }
    return made(directory, "LE07_L2SP_067015_20220701_20220703_02_T1", "my-landsat", assets)


def hls(directory: Path, sensor: str, catalogue: str, name: str = "05WNR.2022182T213529", **options: Any) -> dict[str, Any]:
    """As the Planetary Computer and LP DAAC write it; both declare nothing of the numbers, and names of bands differ."""
    keys = {"S30": ("B04", "B8A"), "L30": ("B04", "B05")}[sensor]
    names = {"B04": "red", "B05": "nir"}  # the Planetary Computer's B8A has no common name
    collection = {"pc": f"hls2-{sensor.lower()}", "lpdaac": f"HLS{sensor}_2.0", "numbered": f"HLS{sensor}_2.0"}[catalogue]
    identity = f"HLS.{sensor}.T{name}.v2.0"
    assets = {}
    for at, (key, counts) in enumerate(zip((*keys, "Fmask", "SZA"), (750, 3500, None, 4100), strict=True)):
        values = QUALITY["fmask"] if counts is None else full(counts, "int16")
        nodata = {"Fmask": 255, "SZA": None}.get(key, -9999)
        fields = {"path": f"{identity}.{key}.tif"} | (eo(key, names.get(key)) if catalogue == "pc" else {})
        assets[f"download_{at}" if catalogue == "numbered" else key] = (values, nodata, fields)
    properties = {"platform": {"S30": "sentinel-2b", "L30": "landsat-8"}[sensor]} if catalogue == "pc" else {}
    return made(directory, identity, collection, assets, properties=properties, projection=catalogue == "pc", **options)


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
GRID = {"geobox": GeoBox(SHAPE, UTM, "EPSG:32605")}
"""CMR items have no projection metadata."""


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


WEST = {"crs": "EPSG:32660", "transform": Affine(30, 0, 641_400, 0, -30, 7_200_000)}
EAST = {"crs": "EPSG:32601", "transform": Affine(30, 0, 358_100, 0, -30, 7_200_000)}
"""Either side of 180 degrees, in other zones."""


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
    red, nir = one_time(cube, "red"), one_time(cube, "nir08")
    np.testing.assert_allclose(red[np.isfinite(red)], 0.075, rtol=2e-6)
    np.testing.assert_allclose(nir[np.isfinite(nir)], 0.35, rtol=2e-6)
    assert (np.isfinite(red) == np.isfinite(nir)).all()
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
        assert int(one.observations.max()) == 2  # of two solar days


# ---- radar, elevation, classes


def radar(
    directory: Path,
    name: str,
    orbit: str | None,
    value: float,
    time: str = "2022-07-01T17:00:00Z",
    collection: str = "sentinel-1-rtc",
    where: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    values = full(value, "float32")
    values[0, :3] = -32768
    fields = {"roles": ["data"]} | raster(nodata=-32768, data_type="float32", spatial_resolution=10.0, **more)
    properties = {"platform": "SENTINEL-1A", "constellation": "Sentinel-1", **({"sat:orbit_state": orbit} if orbit else {})}
    return made(
        directory,
        name,
        collection,
        {"vv": (values, None, fields), "vh": (values / 4, None, fields)},
        time=time,
        properties=properties,
        **(where or {}),
    )


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_backscatter_in_power(tmp_path, way):
    item = radar(tmp_path, "S1A_IW_GRDH_1SDV_20220701T170000_rtc", "ascending", 0.08)
    for declared in (True, False):
        if not declared:
            for asset in item["assets"].values():
                del asset["raster:bands"]
        with warnings.catch_warnings():
            warnings.simplefilter("error", MisoxrWarning)  # radar needs no mask
            cube = cube_of(tmp_path, item, bands=["vv"], **way)
        expected = full(0.08, "float32")
        expected[0, :3] = np.nan
        np.testing.assert_allclose(one_time(cube, "vv"), expected, rtol=1e-6)
        assert cube.vv.attrs["units"] == "1"


def test_decibels_are_told_from_power(tmp_path):
    power = radar(tmp_path, "S1A_1", "ascending", 0.08)
    decibels = radar(tmp_path, "S1A_2", "ascending", -11.0, "2022-07-02T17:00:00Z", unit="dB")
    cube = cube_of(tmp_path, decibels, bands="vv")
    assert cube.vv.attrs["units"] == "dB"
    values = one_time(cube, "vv")
    assert np.isnan(values[0, :3]).all()
    assert (values[1:] == -11).all()
    with pytest.raises(CatalogError, match=r"different things as band 'vv'.*\['1', 'dB'\]"):
        cube_of(tmp_path, power, decibels, bands="vv")
    untold = radar(tmp_path, "S1A_3", "ascending", -11.0)
    with pytest.raises(AssetError, match=r"holds -11, and backscatter in power is not negative; .*\"unit\": \"dB\""):
        cube_of(tmp_path, untold, bands="vv").compute()


@pytest.mark.parametrize("table", [False, True])
def test_ascending_and_descending_are_never_mixed_silently(tmp_path, table):
    times = [f"2022-07-0{day}T17:00:00Z" for day in (1, 2, 3)]
    items = [
        radar(tmp_path, f"S1A_{at}", orbit, 0.02 * (at + 1), times[at])
        for at, orbit in enumerate(("ascending", "descending", "ascending"))
    ]
    items.append(sentinel2_cdse(tmp_path))  # whose orbit makes no difference
    items[-1]["properties"]["sat:orbit_state"] = "descending"
    path = write_collection(tmp_path / "items.json", items)
    if table:
        path = tmp_path / "items.parquet"
        write_table(path, items)
    ask = {"bands": ["vv", "red"], "reduce": "median", **GRID}
    with pytest.raises(CatalogError, match=r"several orbits: ascending \(2\), descending \(1\).*pass orbit='ascending' or"):
        open_stac(path, **ask)
    # medians of 0.02 and 0.06; of 0.04; of all three
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MisoxrWarning)  # some lack a band
        for orbit, value, count in (("ascending", 0.04, 2), ("descending", 0.04, 2), ("both", 0.04, 3)):
            cube = open_stac(path, orbit=orbit, **ask)
            assert float(cube.vv[8, 8]) == pytest.approx(value)
            assert int(cube.observations[8, 8]) == count
            assert float(cube.red[8, 8]) == pytest.approx(0.15)
        only = open_stac(path, orbit="descending", **ask | {"bands": "vv", "reduce": None}) if not table else None
    if only is not None:
        assert only.sizes["time"] == 1
    del items[1]
    write_collection(tmp_path / "one.json", items)
    with pytest.raises(CatalogError, match=r"None of the 2 radar items is of orbit='descending'; they are ascending \(2\)"):
        open_stac(tmp_path / "one.json", **ask, orbit="descending")
    with pytest.raises(CatalogError, match=r"orbit='up' is unknown; use one of \(None, 'ascending', 'descending', 'both'\)"):
        open_stac(tmp_path / "one.json", **ask, orbit="up")


def test_radar_that_does_not_tell_its_orbit_is_not_mixed_with_radar_that_does(tmp_path):
    items = [radar(tmp_path, "S1A_1", None, 0.02), radar(tmp_path, "S1A_2", "ascending", 0.04, "2022-07-02T17:00:00Z")]
    with pytest.raises(CatalogError, match=r"several orbits: ascending \(1\), unknown \(1\)"):
        cube_of(tmp_path, *items, bands="vv")
    assert float(cube_of(tmp_path, *items, bands="vv", orbit="ascending").vv[0, 8, 8]) == pytest.approx(0.04)


DEGREES = 0.001


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("key", ["data", "elevation"])
def test_elevation_in_metres_across_the_antimeridian(tmp_path, key, way):
    """Tiles of degrees on either side, as the Copernicus DEM has them: floats, neither scale nor nodata declared; the sea is 0."""
    tiles = []
    for name, west, height in (("N65_00_E179", 180 - 16 * DEGREES, 0.0), ("N65_00_W180", -180.0, 812.5)):
        assets = {"data": (full(height, "float32"), None, {"roles": ["data"], "title": name})}
        where = {"crs": "EPSG:4326", "transform": Affine(DEGREES, 0, west, 0, -DEGREES, 65.5)}
        tiles.append(
            made(tmp_path, f"Copernicus_DSM_COG_10_{name}_00_DEM", "cop-dem-glo-30", assets, time="2021-04-22T00:00:00Z", **where)
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error", MisoxrWarning)
        cube = cube_of(tmp_path, *tiles, bands=key, bbox=(179.99, 65.49, -179.99, 65.5), crs="EPSG:32601", resolution=50, **way)
    values = one_time(cube, key)
    assert cube[key].attrs["units"] == "m"
    assert set(np.unique(values)) >= {0.0, 812.5}
    assert np.isfinite(values).mean() > 0.9
    assert (values[:, :3] == 0).sum() > 0
    assert (values[:, -3:] == 812.5).sum() > 0


def test_arctic_dem(tmp_path):
    """As PGC writes it: nothing is told of the numbers, and of its dates and counts none is a band."""
    heights = full(120.25, "float32")
    heights[4, 4] = -9999
    where = {"crs": "EPSG:3413", "transform": Affine(32, 0, -2_000_000, 0, -32, 500_000)}
    assets = {"dem": (heights, None, {}), "mindate": (full(20120401, "int32"), None, {})}
    item = made(tmp_path, "58_05_32m_v4.1", "arcticdem-mosaics-v4.1-32m", assets, **where)
    cube = cube_of(tmp_path, item, bands="elevation")
    expected = full(120.25, "float32")
    expected[4, 4] = np.nan
    np.testing.assert_array_equal(one_time(cube, "elevation"), expected)
    assert cube.elevation.attrs["units"] == "m"
    with pytest.raises(BandError, match=r"No item has the band 'mindate'; the items have \['dem', 'elevation'\]"):
        cube_of(tmp_path, item, bands="mindate")


@pytest.mark.parametrize("way", WAYS[:2], ids=str)
@pytest.mark.parametrize("declared", [True, False])
def test_land_cover_is_classes_across_the_antimeridian(tmp_path, declared, way):
    """Of a year, of several satellites: neither the instruments nor the interval make it imagery of theirs."""
    tiles = []
    for name, west, code in (("N63E177", 180 - 16 * DEGREES, 100), ("N63W180", -180.0, 80)):
        codes = full(code, "uint8")
        codes[5, 5] = 0
        classes = [{"value": 80, "description": "Permanent water bodies"}, {"value": 100, "description": "Moss and lichen"}]
        fields = raster(nodata=0, data_type="uint8") | {"classification:classes": classes} if declared else {}
        properties = {
            "start_datetime": "2021-01-01T00:00:00Z",
            "end_datetime": "2021-12-31T23:59:59Z",
            "instruments": ["c-sar", "msi"],
        }
        properties |= {"platform": "sentinel-1a, sentinel-1b, sentinel-2a, sentinel-2b"}
        where = {"crs": "EPSG:4326", "transform": Affine(DEGREES, 0, west, 0, -DEGREES, 65.5)}
        item = made(
            tmp_path,
            f"ESA_WorldCover_10m_2021_v200_{name}",
            "esa-worldcover",
            {"map": (codes, None, fields)},
            time=None,
            properties=properties,
            **where,
        )
        tiles.append(item)
    ask = {"bbox": (179.99, 65.49, -179.99, 65.5), "crs": "EPSG:32601", "resolution": 50}
    with warnings.catch_warnings():
        warnings.simplefilter("error", MisoxrWarning)
        cube = cube_of(tmp_path, *tiles, bands="land_cover", **ask, **way)
    values = one_time(cube, "land_cover")
    assert set(np.unique(values[np.isfinite(values)])) == {80, 100}
    meanings = dict(zip(cube.land_cover.attrs["flag_values"], cube.land_cover.attrs["flag_meanings"].split(), strict=True))
    assert meanings[80].lower() == "permanent_water_bodies"
    assert len(meanings) == (2 if declared else 11)
    assert "units" not in cube.land_cover.attrs
    with pytest.raises(BandError, match=r"\['land_cover'\] hold classes, and reduce='median'"):
        cube_of(tmp_path, *tiles, bands="land_cover", reduce="median", **ask)


# ---- masks by name and by function


def test_a_function_sees_the_bits_and_a_margin_so_that_blocks_agree(tmp_path):
    """It dilates as it likes; blocks of 5 pixels give what one block gives."""
    from scipy.ndimage import binary_dilation

    def own(bits: np.ndarray) -> np.ndarray:
        assert bits.dtype == np.uint16
        return ~binary_dilation((bits >> 3 & 1).astype(bool), iterations=4)

    cloud = np.zeros(SHAPE, bool)
    cloud[2:5, 2:5] = True
    expected = np.ones(SHAPE, bool)
    for row, column in np.argwhere(cloud):
        for other in np.ndindex(SHAPE):
            if abs(other[0] - row) + abs(other[1] - column) <= 4:
                expected[other] = False
    expected[0:3, 14:16] = False  # fill stays fill
    for way in WAYS:
        for chunks in (5, 16):
            cube = cube_of(tmp_path, landsat_look(tmp_path), bands="red", mask=own, chunks=chunks, **way)
            assert (np.isfinite(one_time(cube, "red")) == expected).all()


def test_masks_do_not_depend_on_blocks(tmp_path):
    rng = np.random.default_rng(0)
    item = landsat_look(tmp_path)
    bits = np.where(rng.random(SHAPE) < 0.5, 22280, 21824).astype("uint16")
    write_cog(tmp_path / item["id"] / "QA_PIXEL.TIF", bits, UTM, "EPSG:32605", None, tile=16)
    whole = cube_of(tmp_path, item, bands="red").compute()
    for way in WAYS:
        parts = cube_of(tmp_path, item, bands="red", chunks=3, **way)
        np.testing.assert_array_equal(one_time(parts, "red"), whole.red.values[0])


def test_a_function_that_returns_no_mask_is_told(tmp_path):
    for function, message in (
        (lambda bits: bits, r"mask returned uint16 of shape .* return True where it is clear"),
        (lambda bits: np.bool_(True), r"mask returned bool of shape \(\)"),
        (lambda bits: 1 / 0, "mask raised ZeroDivisionError"),
    ):
        with pytest.raises(AssetError, match=message):
            cube_of(tmp_path, landsat_look(tmp_path), bands="red", mask=function).compute()


def test_other_masks_are_other_graphs(tmp_path):
    """The names of Dask's tasks tell masks apart, and not signatures."""
    names = set()
    for options in ({}, {"snow": True}, {"mask": None}, {"mask": lambda bits: bits > 0}, {"mask": lambda bits: bits > 1}):
        names.add(cube_of(tmp_path, landsat_planetary_computer(tmp_path), bands="red", reduce="median", **options).red.data.name)
    assert len(names) == 5
    cube = cube_of(tmp_path, landsat_planetary_computer(tmp_path), bands="red", reduce="median")
    assert cube.red.data.name in names
    pickle.loads(pickle.dumps(cube.red.data.dask))


# ---- what is not there


def test_wrong_and_unknown_names_are_answered_with_what_there_is(tmp_path):
    item = landsat_look(tmp_path)
    with pytest.raises(
        CatalogError,
        match=r"sensor='landsat-c2-l3' is unknown; use one of \['arcticdem', .*'sentinel-2-l2a'\].*Did you mean .landsat-c2-l2.",
    ) as told:
        cube_of(tmp_path, item, bands="red", sensor="landsat-c2-l3")
    assert all(repr(name) in str(told.value) for name in SENSORS)
    with pytest.raises(CatalogError, match=r"sensor=9 is unknown; use one of"):
        cube_of(tmp_path, item, bands="red", sensor=9)
    with pytest.raises(
        CatalogError,
        match=r"of 'landsat-c2l2-sr' is of the sensor 'landsat-c2-l2', not 'sentinel-2-l2a'.*give one of \['arcticdem'",
    ):
        cube_of(tmp_path, item, bands="red", sensor="sentinel-2-l2a")
    with pytest.raises(CatalogError, match=r"mask='qa' is unknown; use one of \('auto', 'scl', 'qa_pixel', 'fmask', None\)"):
        cube_of(tmp_path, item, bands="red", mask="qa")
    with pytest.raises(
        CatalogError,
        match=r"has no quality band 'scl' for mask='scl'; its quality bands are \['qa_pixel'\], its sensor is 'landsat-c2-l2'",
    ):
        cube_of(tmp_path, item, bands="red", mask="scl")
    del item["assets"]["qa_pixel"]
    with pytest.raises(CatalogError, match=r"no quality band 'qa_pixel' for mask='auto'; its quality bands are \[\].* mask=None"):
        cube_of(tmp_path, item, bands="red")
    with pytest.raises(
        CatalogError,
        match=r"'S1A_1'.* no quality band for mask=a function; its quality bands are \[\], its sensor is 'sentinel-1-rtc'",
    ):
        cube_of(tmp_path, radar(tmp_path, "S1A_1", "ascending", 0.1), bands="vv", mask=lambda bits: bits > 0)
    with pytest.raises(CatalogError, match="snow='yes' is neither True nor False"):
        cube_of(tmp_path, item, bands="red", snow="yes")


@pytest.mark.parametrize("key", ["SZA", "SAA", "view_zenith", "sunAzimuthAngles", "dates"])
def test_angles_and_dates_of_observation_are_no_bands(tmp_path, key):
    item = hls(tmp_path, "S30", "pc")
    item["assets"][key] = item["assets"].pop("SZA")
    item["assets"][key]["eo:bands"] = [{"name": key}]
    with pytest.raises(BandError, match=rf"No item has the band '{key}'; the items have \['B04', 'B8A', 'Fmask', 'nir08', 'red'\]"):
        cube_of(tmp_path, item, bands=key)


# ---- sensors of one's own, and of nobody


MINE = Sensor(
    "drone",
    bands={"Band_1": "red", "Band_2": "nir"},
    counts={"reflectance": Counts(1 / 32768, nodata=(65535,))},
    mask=Mask("Quality", {"cloud": 0, "haze": 1}, clouds=("cloud",), hides=("haze",)),
    surface=True,
)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_sensor_of_ones_own(tmp_path, way):
    red = full(8192, "uint16")
    red[13, 13] = 65535
    quality = full(0, "uint8")
    quality[2:5, 2:5], quality[9, 4], quality[6, 13] = 1, 1, 2
    item = made(tmp_path, "flight", "drones", {"band_1": (red, None, {}), "quality": (quality, None, {})})
    cube = cube_of(tmp_path, item, bands="red", sensor=MINE, **way)
    expected = clear_by_hand(snow=True)
    expected[0:3, 14:16], expected[13, 13] = True, False
    np.testing.assert_allclose(one_time(cube, "red"), np.where(expected, 0.25, np.nan))
    assert cube.red.attrs["standard_name"] == "surface_bidirectional_reflectance"
    with pytest.raises(BandError, match=r"No item has the band 'green'; the items have \['band_1', 'quality', 'red'\]"):
        cube_of(tmp_path, item, bands="green", sensor=MINE, **way)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_sensor_of_ones_own_beside_those_that_are_known(tmp_path, way):
    """A description with collections is for their items; a known one, changed, is for those that it is for."""
    red = {"band_1": (full(8192, "uint16"), None, {}), "quality": (full(0, "uint8"), None, {})}
    items = [made(tmp_path, "flight", "drones", red, time="2022-07-01T21:00:00Z"), landsat_look(tmp_path)]
    items[1]["properties"]["datetime"] = "2022-07-02T21:00:00Z"
    cube = cube_of(tmp_path, *items, bands="red", sensor=replace(MINE, collections=("Drones",)), **way)
    if way.get("reduce"):
        np.testing.assert_allclose(cube.red.values, np.where(clear_by_hand(), (0.25 + 0.075) / 2, 0.25), rtol=2e-6)
    else:
        np.testing.assert_allclose(cube.red.values[0], 0.25)
        np.testing.assert_allclose(cube.red.values[1], np.where(clear_by_hand(), 0.075, np.nan), rtol=2e-6)
    unmasked = replace(SENSORS["landsat-c2-l2"], mask=None)
    del items[1]["assets"]["qa_pixel"]
    with pytest.warns(MisoxrWarning, match="1 of 1 items have no quality band"):
        bare = cube_of(tmp_path, items[1], bands="red", sensor=unmasked, **way)
    np.testing.assert_allclose(one_time(bare, "red"), 0.075, rtol=2e-6)


def test_a_description_that_makes_no_sense_is_refused():
    with pytest.raises(CatalogError, match=r"mask 'qa' has no \['clouds'\]; its names are \['cloud'\]"):
        Mask("qa", {"cloud": 0}, clouds=("clouds",))
    with pytest.raises(CatalogError, match="bits are counted from 0 to 63"):
        Mask("qa", {"cloud": 64})
    with pytest.raises(CatalogError, match="A sensor has the name ''"):
        Sensor("")
    with pytest.raises(CatalogError, match=r"The sensor 'drone' has counts\['red'\]=0.0001; give a misoxr.sensors.Counts"):
        Sensor("drone", counts={"red": 0.0001})
    with pytest.raises(CatalogError, match=r"The sensor 'drone' has mask='scl'; give a misoxr.sensors.Mask"):
        Sensor("drone", mask="scl")
    with pytest.raises(CatalogError, match=r"has pattern='\(', which is no regular expression"):
        Sensor("drone", pattern="(")


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_anything_else_opens_by_its_keys_as_item_or_file_declare(tmp_path, way):
    assets = {
        "soil_moisture": (full(250, "int16"), -1, raster(scale=0.001, offset=0.05, unit="m3/m3")),
        "red": (full(0.2, "float32"), None, eo("red", "red")),
    }
    item = made(tmp_path, "one", "mine", assets)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MisoxrWarning)
        cube = cube_of(tmp_path, item, bands="soil_moisture", **way)
    np.testing.assert_allclose(one_time(cube, "soil_moisture"), 0.3, rtol=1e-6)
    assert cube.soil_moisture.attrs["units"] == "m3/m3"


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_quality_band_of_an_unknown_sensor_is_known_by_its_key(tmp_path, way):
    """``scl`` and ``qa_pixel`` mean the same everywhere; ``fmask`` is bits in HLS only: here are Digital Earth's classes, 1 of them valid."""
    red = {"red": (full(0.2, "float32"), None, eo("red", "red"))}
    for key, masked in (("SCL", "scl"), ("QA_PIXEL", "qa_pixel")):
        item = made(tmp_path, key, "mine", red | {key: (QUALITY[masked], None, {})})
        cube = cube_of(tmp_path, item, bands="red", **way)
        assert (np.isfinite(one_time(cube, "red")) == clear_by_hand()).all()
    item = made(tmp_path, "digital-earth", "mine", red | {"fmask": (full(1, "uint8"), None, {})})
    with pytest.warns(MisoxrWarning, match="clouds are not masked, such as 'digital-earth'"):
        cube = cube_of(tmp_path, item, bands="red", **way)
    assert np.isfinite(one_time(cube, "red")).all()
    assert "flag_values" not in cube_of(tmp_path, item, bands="fmask", mask=None).fmask.attrs


def test_quality_bands_are_classes_that_say_what_they_mean(tmp_path):
    items = {"Fmask": hls(tmp_path, "L30", "pc"), "qa_pixel": landsat_look(tmp_path)}
    for key, item in items.items():
        band = cube_of(tmp_path, item, bands=key, mask=None)[key]
        cloud = band.attrs["flag_meanings"].split().index("cloud")
        bit = {"Fmask": 2, "qa_pixel": 8}[key]  # bits 1 and 3
        assert (band.attrs["flag_masks"][cloud], band.attrs["flag_values"][cloud]) == (bit, bit)
        assert "units" not in band.attrs
        assert (np.unique(band.values[np.isfinite(band.values)]) % 1 == 0).all()


def test_kelvin_in_any_spelling_is_one_unit(tmp_path):
    items = [landsat_planetary_computer(tmp_path), landsat_look(tmp_path)]
    cube = cube_of(tmp_path, *items, bands="lwir11", groupby=None)
    assert cube.lwir11.attrs["units"] == "K"
    np.testing.assert_allclose(cube.lwir11.values, np.where(clear_by_hand(), 299.39288, np.nan)[None].repeat(2, 0), rtol=1e-6)
    celsius = hls(tmp_path, "L30", "pc")
    write_cog(tmp_path / "B10.tif", full(2650, "int16"), UTM, "EPSG:32605", -9999, tile=16)
    celsius["assets"]["B10"] = {"href": "B10.tif"} | eo("B10", "lwir11")
    np.testing.assert_allclose(np.nanmax(cube_of(tmp_path, celsius, bands="lwir11").lwir11.values), 26.5)
    with pytest.raises(CatalogError, match=r"different things as band 'lwir11'.*\['K', 'degC'\]"):
        cube_of(tmp_path, *items, celsius, bands="lwir11")


def test_every_collection_belongs_to_one_sensor():
    named = [name.lower() for sensor in SENSORS.values() for name in sensor.collections]
    assert len(named) == len(set(named))
    for sensor in SENSORS.values():
        assert pickle.loads(pickle.dumps(sensor)) == sensor
