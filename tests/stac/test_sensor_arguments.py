"""Masks by name and by function, sensors of one's own, and what is answered to names that are not there."""

import copy
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
from dask.base import tokenize

from misoxr.errors import AssetError, BandError, CatalogError, MisoxrWarning
from misoxr.sensors import SENSORS, Counts, Mask, Sensor
from misoxr.sensors.known import sensor_of
from misoxr.stac.composite import ItemsInHand
from misoxr.stac.found import Found
from misoxr.stac.items import Moment, Wanted, scenes_of
from tests.sensor_items import (
    QUALITY,
    SHAPE,
    UTM,
    WAYS,
    clear_by_hand,
    cube_of,
    eo,
    full,
    hls,
    landsat_look,
    landsat_planetary_computer,
    made,
    one_time,
    radar,
    raster,
    sentinel2_cdse,
)
from tests.stac_scenes import write_cog

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


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("mask", ["auto", "qa_pixel"])
def test_saturation_hides_with_and_without_a_mask_of_clouds(tmp_path, mask, way):
    """Named or not, and where a description has no other mask: then clouds are told to stay."""
    item = landsat_planetary_computer(tmp_path)
    radsat = full(0, "uint16")
    radsat[7, 7], radsat[8, 8] = 1 << 3, 1 << 4  # bands 4 and 5
    write_cog(tmp_path / item["id"] / "qa_radsat.tif", radsat, UTM, "EPSG:32605", None, tile=16)
    expected = clear_by_hand()
    expected[7, 7] = False
    found = cube_of(tmp_path, item, bands="red", mask=mask, **way)
    assert (np.isfinite(one_time(found, "red")) == expected).all()
    if mask != "auto":
        return
    del item["assets"]["qa_pixel"]
    own = replace(SENSORS["landsat-c2-l2"], name="mine", mask=None, bands={"B4": "red"})
    with pytest.warns(MisoxrWarning, match="1 of 1 items have no quality band that is known"):
        alone = cube_of(tmp_path, item, bands="red", sensor=own, **way)
    expected = np.ones(SHAPE, bool)
    expected[7, 7] = False
    assert (np.isfinite(one_time(alone, "red")) == expected).all()


def test_snow_is_refused_where_it_does_nothing(tmp_path):
    item = landsat_look(tmp_path)
    for mask, told in ((lambda bits: bits > 0, "a function as mask"), (None, "mask=None")):
        with pytest.raises(CatalogError, match=f"snow=True does nothing with {told}; leave it away"):
            cube_of(tmp_path, item, bands="red", mask=mask, snow=True)


@pytest.mark.parametrize(("mask", "remedy"), [("auto", "Pass mask=None to"), ("scl", "Pass mask='auto', or mask=None to")])
def test_the_remedy_of_a_missing_mask_is_another_one(tmp_path, mask, remedy):
    item = sentinel2_cdse(tmp_path)
    del item["assets"]["SCL_20m"]
    with pytest.raises(CatalogError, match=f"no quality band 'scl' for mask='{mask}'.*'sentinel-2-l2a'. {remedy} use it unmasked"):
        cube_of(tmp_path, item, bands="red", mask=mask)


# ---- floats, and what other sensors' rules must not touch


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("known", [True, False])
def test_counts_in_floats_are_never_labelled_reflectance(tmp_path, known, way):
    """By a product whose scale is of whole numbers, and by an item that tells floats and no scale."""
    fields = eo("red", "red") | ({} if known else raster(data_type="float32"))
    counts = full(5000, "float32")
    counts[3, 3] = np.nan
    item = made(tmp_path, "one", "mine", {"red": (counts, None, fields)})
    drone = Sensor("drone", counts={"reflectance": Counts(1e-4, nodata=(0,))}) if known else None
    ask = {"bands": "red", "sensor": drone, "mask": None, **way}
    with pytest.raises(AssetError, match=r"holds float32 of 5000 as a reflectance, .*\"raster:bands\": .*floats=True"):
        cube_of(tmp_path, item, **ask).compute()
    expected = np.where(np.isnan(counts), np.nan, 0.5)
    told = Sensor("drone", counts={"reflectance": Counts(1e-4, nodata=(0,), floats=True)})
    np.testing.assert_allclose(one_time(cube_of(tmp_path, item, **ask | {"sensor": told}), "red"), expected, rtol=1e-6)
    item["assets"]["red"] |= raster(scale=1e-4, offset=0)
    np.testing.assert_allclose(one_time(cube_of(tmp_path, item, **ask), "red"), expected, rtol=1e-6)


def test_reflectance_in_floats_stays(tmp_path):
    """Snow and glint are above 1, noise below 0; what the item says is nodata is none."""
    values = full(1.6, "float32")
    values[0, :3] = -0.02, 9.5, -9999
    item = made(tmp_path, "one", "mine", {"red": (values, None, eo("red", "red") | raster(nodata=-9999, data_type="float32"))})
    np.testing.assert_array_equal(
        cube_of(tmp_path, item, bands="red", mask=None).red[0, 0, :4], np.float32([-0.02, 9.5, np.nan, 1.6])
    )


@pytest.mark.parametrize("collection", ["landsat-c2-l2", "landsat-c2-l2-harmonized", "my-landsat-harmonized", "hls2-l30"])
@pytest.mark.parametrize("flag", [True, False])
def test_sentinel2s_offset_is_taken_off_sentinel2_only(tmp_path, collection, flag):
    declared = eo("OLI_B4", "red") | raster(nodata=0, data_type="uint16", scale=2.75e-5, offset=-0.2)
    properties = {"platform": "landsat-9"} | ({"earthsearch:boa_offset_applied": True} if flag else {})
    item = made(tmp_path, "one", collection, {"red": (full(10_000, "uint16"), 0, declared)}, properties=properties)
    np.testing.assert_allclose(one_time(cube_of(tmp_path, item, bands="red", mask=None), "red"), 0.075, rtol=1e-6)
    declared = eo("B04", "red") | raster(nodata=0, data_type="uint16", scale=1e-4, offset=-0.1)
    item = made(
        tmp_path, "two", "mine-harmonized", {"red": (full(1500, "uint16"), 0, declared)}, properties={"platform": "sentinel-2a"}
    )
    np.testing.assert_allclose(one_time(cube_of(tmp_path, item, bands="red", mask=None), "red"), 0.15, rtol=1e-6)


@pytest.mark.parametrize("collection", ["landsat-c2ard-ta", "landsat-c2ard-bt", "landsat-c2l2alb-ta", "landsat-c2l2alb-bt"])
def test_landsats_top_of_atmosphere_is_not_level_2(tmp_path, collection):
    item = landsat_look(tmp_path)
    item |= {"collection": collection, "id": f"LC09_AK_006003_20220701_20220703_02_{collection[-2:].upper()}"}
    with pytest.raises(AssetError, match="nor a known product tells its scale and offset"):
        cube_of(tmp_path, item, bands="red").compute()
    item["assets"]["red"] |= raster(scale=1e-4, offset=0)
    assert cube_of(tmp_path, item, bands="red").red.attrs.get("standard_name") == "toa_bidirectional_reflectance"
    for other in ("landsat-c2ard-sr", "landsat-c2ard-st", "landsat-c2l2alb-sr", "landsat-c2-l2-tanana"):
        item["collection"], item["id"] = other, "LC09_AK_006003_20220701_20220703_02"
        assert sensor_of(item).name == "landsat-c2-l2"


# ---- what tells items apart


def test_the_token_is_of_what_skies_mean(tmp_path):
    """Items share a few skies. Equal ones that are separate give the same token, and exchanged ones another."""
    items = [landsat_planetary_computer(tmp_path), hls(tmp_path, "S30", "pc")]
    found = [Found(item, None, str(tmp_path)) for item in items * 3]

    def moments(scenes):
        return [Moment(scene.time, (scene,)) for scene in scenes]

    scenes = scenes_of(found, Wanted(("red",)))
    skies = {id(part.sky) for scene in scenes for part in (scene.assets["clear"], scene.assets["clear"].beside) if part}
    assert len(skies) == 3  # clouds of both sensors, and saturation of one
    token = ItemsInHand(moments(scenes)).token
    apart = [moments(scenes_of([one], Wanted(("red",))))[0] for one in found]
    assert ItemsInHand(apart).token == token
    first, second = (scene.assets["clear"] for scene in scenes[:2])
    changed = [replace(scenes[0], assets=scenes[0].assets | {"clear": replace(first, sky=second.sky)}), *scenes[1:]]
    assert ItemsInHand(moments(changed)).token != token


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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Counts(0.0), "Counts have the scale 0.0; a value is counts"),
        (lambda: Counts(float("nan")), "Counts have the scale nan"),
        (lambda: Counts("1e-4"), "Counts have the scale '1e-4'"),
        (lambda: Counts(1e-4, None), "Counts have the offset None"),
        (lambda: Counts(nodata=0), r"Counts have nodata=0; give a tuple of numbers, such as \(0,\)"),
        (lambda: Counts(nodata=("0",)), r"Counts have nodata=\('0',\)"),
        (lambda: Mask("q", ["cloud"]), r"mask 'q' has names=\['cloud'\]; give the bit or code of each"),
        (lambda: Mask("q", {"cloud": "3"}), "mask 'q' has names="),
        (lambda: Mask("q", {"cloud": 3}, clouds="cloud"), r"mask 'q' has clouds='cloud'; give a tuple"),
        (lambda: Mask("q", {"cloud": 3}, fill=255), r"mask 'q' has fill=255; give a tuple of whole numbers"),
        (lambda: Mask(None, {}), "A mask has the asset None"),
        (lambda: Sensor("drone", bands=None), "sensor 'drone' has bands=None; give a mapping of a key to a common name"),
        (lambda: Sensor("drone", bands={"b1": 1}), r"has bands\['b1'\]=1; give a common name"),
        (lambda: Sensor("drone", counts=[Counts()]), "has counts=.*; give a mapping of a name to a misoxr.sensors.Counts"),
        (lambda: Sensor("drone", flags={"cover": 1}), r"has flags\['cover'\]=1; give a tuple of"),
        (lambda: Sensor("drone", files="red"), "has files='red', which finds no key; put its part in brackets"),
        (lambda: Sensor("drone", collections=None), "has collections=None; give their names"),
        (lambda: Sensor("drone", saturation=Mask("q", {})), "has saturation=.*; give the key of a band"),
        (lambda: Sensor("drone", offset=-0.1), "has offset=-0.1; give a function of an item, or Counts with an offset"),
    ],
)
def test_a_bad_part_of_a_description_is_refused_when_it_is_made(make, message):
    with pytest.raises(CatalogError, match=message):
        make()


def test_descriptions_never_change():
    """They are shared by all calls. They are pickled and copied as what they are."""
    bands = {"B4": "red"}
    own = Sensor("drone", bands=bands, mask=Mask("q", {"cloud": 0}, clouds=("cloud",)))
    bands["B4"] = "nir"
    assert own.bands == {"b4": "red"}
    for table in (SENSORS["hls-s30"].bands, SENSORS["hls-s30"].counts, own.bands, own.flags, own.mask.names):
        with pytest.raises(TypeError, match="does not support item assignment"):
            table["b4"] = "BROKEN"
    for same in (pickle.loads(pickle.dumps(own)), copy.deepcopy(own), replace(own)):
        assert same == own
        assert tokenize(same) == tokenize(own)


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
