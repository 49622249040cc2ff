"""Items that must not be mixed: passes, sensors, power and decibels; the same in hand and in tables, whichever item comes first."""

import warnings

import numpy as np
import pytest
from affine import Affine

from misoxr.errors import CatalogError, MisoxrWarning
from misoxr.sensors import Counts, Mask, Sensor
from misoxr.stac import open_stac
from tests.sensor_items import GRID, QUALITY, UTM, full, hls, made, radar, raster, write_table
from tests.stac_scenes import write_collection

MEAN = {"reduce": "mean", **GRID}


@pytest.fixture(params=["hand", "table"])
def opened(request, tmp_path):
    """Open items as JSON, or as a table."""

    def open_items(*items, **options):
        path = tmp_path / ("items.json" if request.param == "hand" else "items.parquet")
        (write_collection if request.param == "hand" else write_table)(path, list(items))
        return open_stac(path, **options)

    open_items.table = request.param == "table"
    return open_items


def optical(folder, name="S2A_1", **more):
    """An item that is of no sensor by its collection."""
    return made(
        folder, name, "my-backscatter", {"red": (full(0.2, "float32"), None, {"eo:bands": [{"common_name": "red"}]})}, **more
    )


@pytest.mark.parametrize("told", ["platform", "constellation", "instruments", "id"])
def test_radar_of_any_collection_is_known_by_what_tells_it(tmp_path, opened, told):
    where = {"collection": "my-backscatter", "unit": "dB"}
    items = [
        optical(tmp_path, time="2022-06-01T17:00:00Z", properties={"platform": "sentinel-2a"}),
        radar(tmp_path, "pass-1", "ascending", -5.0, "2022-07-01T17:00:00Z", **where),
        radar(tmp_path, "pass-2", "descending", -15.0, "2022-07-02T17:00:00Z", **where),
    ]
    for at, item in enumerate(items[1:]):
        for key in ("platform", "constellation"):
            item["properties"].pop(key)
        if told == "id":
            item["id"] = f"S1A_IW_GRDH_2022070{at}T170000_02A1B2_rtc"
        else:
            item["properties"][told] = ["c-sar", "Sentinel-1"] if told == "instruments" else "SENTINEL-1A"
    ask = {"bands": ["vv", "red"], "mask": None, **MEAN}
    with pytest.raises(CatalogError, match=r"several orbits: ascending \(1\), descending \(1\)"):
        opened(*items, **ask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MisoxrWarning)  # some lack a band
        for orbit, value, count in (("ascending", -5, 2), ("descending", -15, 2), ("both", -10, 3)):
            cube = opened(*items, orbit=orbit, **ask)
            assert float(cube.vv[8, 8]) == pytest.approx(value)
            assert int(cube.observations[8, 8]) == count


def test_a_modifier_tells_what_items_are(tmp_path, opened):
    items = [
        radar(tmp_path, f"pass-{at}", orbit, 0.1, f"2022-07-0{at}T17:00:00Z", collection="mine")
        for at, orbit in ((1, "ascending"), (2, "descending"))
    ]
    for item in items:
        for key in ("platform", "constellation"):
            item["properties"].pop(key)

    def tell(item):
        item.properties["platform"] = "sentinel-1a"

    assert float(opened(*items, bands="vv", **MEAN).vv[8, 8]) == pytest.approx(0.1)
    with pytest.raises(CatalogError, match="several orbits"):
        opened(*items, bands="vv", modifier=tell, **MEAN)


@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("other", [{"unit": "dB"}, {"unit": "1", "collection": "mine"}])
def test_decibels_and_power_are_never_mixed(tmp_path, opened, first, other):
    """In a product that is in power, and in one of which nothing is known: there numbers beside decibels are what no one tells."""
    rest = {"collection": "mine"} if "collection" in other else {}
    items = [
        radar(tmp_path, f"S1A_{at}", "ascending", value, f"2022-07-0{at + 1}T17:00:00Z", **rest)
        for at, value in enumerate((0.08, 0.09, 0.1))
    ]
    items[first] = radar(tmp_path, "S1A_other", "ascending", -11.0, f"2022-07-0{first + 1}T17:00:00Z", unit="dB", **rest)
    with pytest.raises(CatalogError, match=r"different things as band 'vv'.*\['(1|dB)', '(dB|untold)'\].*\"unit\""):
        opened(*items, bands="vv", **MEAN)


def test_what_lies_off_the_grid_is_not_mixed(tmp_path, opened):
    away = {"transform": Affine(30, 0, UTM.c + 30_000, 0, -30, UTM.f)}
    items = [
        radar(tmp_path, "S1A_0", "ascending", 0.08, "2022-07-01T17:00:00Z"),
        radar(tmp_path, "S1A_1", "ascending", -11.0, "2022-07-02T17:00:00Z", unit="dB", where=away),
    ]
    cube = opened(*items, bands="vv", **MEAN)
    assert cube.vv.attrs["units"] == "1"
    assert float(cube.vv[8, 8]) == pytest.approx(0.08)


def test_a_table_refuses_what_it_did_not_look_at(tmp_path):
    """A modifier may make of any item what its columns do not tell; it is found when the item is read."""
    items = [radar(tmp_path, f"S1A_{at}", "ascending", 0.08, f"2022-07-0{at + 1}T17:00:00Z") for at in range(3)]
    write_table(tmp_path / "items.parquet", items)

    def tell(item):
        if item.id == "S1A_2":
            item.assets["vv"].extra_fields["raster:bands"] = [{"unit": "dB"}]

    cube = open_stac(tmp_path / "items.parquet", bands="vv", modifier=tell, **MEAN)
    with pytest.raises(
        CatalogError, match="Item 'S1A_2' holds numbers in units dB as band 'vv', and other items of the table numbers in units 1"
    ):
        cube.compute()


def test_items_without_a_mask_are_told_wherever_they_stand(tmp_path, opened):
    red = {"red": (full(0.2, "float32"), None, {"eo:bands": [{"common_name": "red"}]})}
    scl = {"scl": (QUALITY["scl"], 0, {})}
    items = [
        made(tmp_path, f"one-{at}", "mine", red | (scl if at != 1 else {}), time=f"2022-07-0{at + 1}T21:00:00Z") for at in range(3)
    ]
    with pytest.warns(MisoxrWarning, match="1 of 3 items have no quality band that is known.*'one-1'"):
        opened(*items, bands="red", **MEAN)


def test_passes_of_one_solar_day_are_observations_of_their_own(tmp_path, opened):
    """At 153 degrees west, 17:00 and 04:00 of the next day in UTC are of one solar day. Means are worked out by hand."""
    items = [
        radar(tmp_path, "S1A_1", "descending", 0.1, "2022-07-01T17:00:00Z"),
        radar(tmp_path, "S1A_2", "ascending", 0.3, "2022-07-02T04:00:00Z"),
        radar(tmp_path, "S1A_3", "ascending", 0.5, "2022-07-02T04:00:25Z"),  # the frame behind it, below it
    ]
    cube = opened(*items, bands="vv", orbit="both", **MEAN)
    assert (float(cube.vv[8, 8]), int(cube.observations[8, 8])) == (pytest.approx(0.2), 2)
    cube = opened(*items, bands="vv", orbit="both", groupby=None, **MEAN)
    assert (float(cube.vv[8, 8]), int(cube.observations[8, 8])) == (pytest.approx(0.3), 3)
    cube = opened(*items, bands="vv", orbit="both", **GRID)
    assert cube.time.dt.hour.values.tolist() == [17, 4]
    np.testing.assert_allclose(cube.vv[:, 8, 8], [0.1, 0.3], rtol=1e-6)


def test_sensors_of_one_solar_day_are_observations_of_their_own(tmp_path, opened):
    items = [hls(tmp_path, "S30", "pc"), hls(tmp_path, "L30", "pc", time="2022-07-01T21:30:00Z")]
    items += [optical(tmp_path, "a"), optical(tmp_path, "b", time="2022-07-01T20:00:00Z")]
    items[3]["collection"] = "another"
    cube = opened(*items, bands="red", mask=None, **MEAN)
    assert int(cube.observations[8, 8]) == 4
    # 750 counts of both, and 0.2 of two sensors that are not known
    assert float(cube.red[8, 8]) == pytest.approx((0.075 * 2 + 0.2 * 2) / 4)


TWICE = {
    "baselines": [
        f"S2B_MSIL2A_20220701T213529_{rest}" for rest in ("N0212_R086_T05WNR_20220702T003500", "N0500_R086_T05WNR_20230502T003500")
    ],
    "numbers": ["S2B_5WNR_20220701_0_L2A", "S2B_5WNR_20220701_1_L2A"],
    "real time": ["LC09_L2SP_067015_20220701_02_RT", "LC09_L2SP_067015_20220701_02_T1"],
    "dates": [f"LC09_L2SP_067015_20220701_{day}_02_T1_SR" for day in ("20220703", "20230405")],
}


@pytest.mark.parametrize("names", TWICE.values(), ids=TWICE)
@pytest.mark.parametrize("first", [0, 1])
def test_of_a_scene_that_was_processed_again_the_new_one_goes_first(tmp_path, opened, names, first):
    # a time may change by some milliseconds
    moments = ("2022-07-01T21:35:29.100Z", "2022-07-01T21:35:29.102Z")
    red = {"eo:bands": [{"common_name": "red"}]}
    items = [
        made(tmp_path, name, "mine", {"red": (full(value, "float32"), None, red)}, time=time)
        for name, value, time in zip(names, (0.1, 0.2), moments if first else moments[::-1], strict=True)
    ]
    ways = [{"reduce": "mean"}] if opened.table else [{"reduce": "mean"}, {}, {"engine": "odc"}]
    for way in ways:
        cube = opened(*(items if first else items[::-1]), bands="red", mask=None, **GRID, **way)
        np.testing.assert_allclose(cube.red, 0.2, rtol=1e-6)
    both = opened(*items, bands="red", mask=None, groupby=None, **MEAN)
    np.testing.assert_allclose(both.red, 0.15, rtol=1e-6)


def test_a_description_of_no_item_is_refused(tmp_path, opened):
    mine = Sensor(
        "drone", collections="flights", mask=Mask("quality", {"cloud": 0}, clouds=("cloud",)), counts={"reflectance": Counts(1e-4)}
    )
    assets = {"red": (full(5000, "uint16"), None, raster(scale=1e-4) | {"eo:bands": [{"common_name": "red"}]})}
    item = made(tmp_path, "one", "drone-flights", assets | {"quality": (full(1, "uint8"), None, {})})
    for sensor in (mine, Sensor("drone", pattern="^flights")):
        with pytest.raises(
            CatalogError, match=r"No item is of sensor='drone'.*the items are of the collections \['drone-flights'\]"
        ):
            opened(item, bands="red", sensor=sensor, **MEAN)
    for sensor in (
        Sensor("drone", collections="drone-flights", mask=mine.mask),
        Sensor("drone", pattern=r"-flights\b", mask=mine.mask),
    ):
        assert np.isnan(opened(item, bands="red", sensor=sensor, **MEAN).red).all()
