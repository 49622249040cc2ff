"""Sensors without clouds: radar in power or decibels and by its orbits, elevation in metres, and classes of land cover."""

import warnings

import numpy as np
import pytest
from affine import Affine

from misoxr.errors import AssetError, BandError, CatalogError, MisoxrWarning
from misoxr.stac import open_stac
from tests.sensor_items import GRID, WAYS, cube_of, full, made, one_time, radar, raster, sentinel2_cdse, write_table
from tests.stac_scenes import write_collection


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
    # medians of 0.02 and 0.06; of 0.04; of all three; the optical item is an observation of its own, though of the first day
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MisoxrWarning)  # some lack a band
        for orbit, value, count in (("ascending", 0.04, 3), ("descending", 0.04, 2), ("both", 0.04, 4)):
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
