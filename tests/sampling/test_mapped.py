"""Pixels counted, and expected areas: of any chunks, in any CRS, by polygons."""

import dask
import dask.array as da
import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import pytest
import shapely
import xarray as xr

import misoxr  # noqa: F401
from misoxr.errors import BandError, GridError, PointsError, SpecError
from tests.sampling.places import class_map

SHAPE = (90, 110)


def maps_of(name="permafrost", seed=0, **grid):
    """A binary map with nodata, its probabilities beside, and a map of three classes."""
    rng = np.random.default_rng(seed)
    probability = rng.random(SHAPE).astype("float32")
    probability[:4, :7] = np.nan
    several = rng.dirichlet(np.ones(3), SHAPE).astype("float32").transpose(2, 0, 1)
    several[:, 5, 5] = np.nan
    binary = class_map(np.where(np.isnan(probability), 255, probability >= 0.5), ("absent", "present"), name=name, **grid)
    order = class_map(
        np.where(np.isnan(several[0]), 255, several.argmax(0)), ("Gelisols", "Histosols", "others"), name="order", **grid
    )
    maps = binary.to_dataset().assign(order=order)
    maps[f"{name}_probability"] = ("y", "x"), probability
    maps["order_probability"] = ("taxon", "y", "x"), several
    maps[f"{name}_std"] = ("y", "x"), probability
    return maps


def zones(maps, halves=("west", "east")):
    """Two polygons, the left and the right part of a map, without its last columns."""
    west, east = float(maps.x[0]), float(maps.x[-1])
    south, north = sorted([float(maps.y[0]), float(maps.y[-1])])
    middle, last = west + 0.5 * (east - west), west + 0.9 * (east - west)
    boxes = [shapely.box(west - 1e3, south - 1e3, middle, north + 1e3), shapely.box(middle, south - 1e3, last, north + 1e3)]
    return gpd.GeoDataFrame({"name": list(halves)}, geometry=boxes, crs=maps.spatial_ref.attrs["crs_wkt"])


def test_pixels_and_probabilities_are_summed_by_class(no_compute):
    maps = maps_of()
    with no_compute():
        lazy = maps.chunk({"y": 40, "x": 30})
    table = lazy.miso.area()
    assert table.attrs == {"unit": "km2"}
    codes, probability = maps.permafrost.values, maps.permafrost_probability.values.astype(float)
    for code, name in enumerate(("absent", "present")):
        row = table.loc["permafrost", name]
        assert row.pixels == (codes == code).sum()
        assert row.counted == pytest.approx(row.pixels * 900 / 1e6, rel=1e-12)
        expected = np.nansum(probability if code else 1 - probability) * 900 / 1e6
        assert row.expected == pytest.approx(expected, rel=1e-7)
        assert row.share == pytest.approx(row.pixels / (codes < 255).sum())
    nothing = table.loc["permafrost", "nodata"]
    assert (nothing.pixels, np.isnan(nothing.expected), np.isnan(nothing.share)) == (28, True, True)
    expected = np.nansum(maps.order_probability.values.astype(float), axis=(1, 2)) * 900 / 1e6
    np.testing.assert_allclose(table.loc["order", "expected"].iloc[:3], expected, rtol=1e-7)
    assert list(table.index.unique("task")) == ["permafrost", "order"]


@pytest.mark.parametrize("crs", ["EPSG:3338", "EPSG:3857"])
def test_any_chunks_and_scheduler_give_the_same_bytes(crs):
    maps = maps_of(crs=crs, origin=(300_000.0, 7_500_000.0))
    by = zones(maps)
    first = maps.miso.area(by=by)
    for chunks, scheduler in (
        ({"y": 40, "x": 30}, "threads"),
        ({"y": (1, 88, 1), "x": -1}, "synchronous"),
        ({"y": 7, "x": 110}, "threads"),
    ):
        with dask.config.set(scheduler=scheduler):
            pd.testing.assert_frame_equal(maps.chunk(chunks).miso.area(by=by), first, check_exact=True)


def test_maps_as_open_maps_gives_them_count_the_same():
    maps = maps_of()
    floats = maps.assign(
        {
            name: maps[name].where(maps[name] < 255).astype("float32").assign_attrs(maps[name].attrs)
            for name in ("permafrost", "order")
        }
    )
    pd.testing.assert_frame_equal(floats.miso.area(), maps.miso.area(), check_exact=True)


def test_each_chunk_is_read_once():
    maps, read = maps_of(), []

    def chunk(block_info=None):
        read.append(tuple(block_info[None]["chunk-location"]))
        (top, bottom), (left, right) = block_info[None]["array-location"]
        return maps.permafrost.values[top:bottom, left:right]

    data = da.map_blocks(chunk, chunks=((50, 40), (60, 50)), dtype="uint8", meta=np.empty((0, 0), "uint8"))
    lazy = maps.permafrost.copy(data=data).to_dataset()
    lazy.miso.area(by=zones(maps))
    assert sorted(read) == [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("crs", "pixel", "origin"),
    [("EPSG:3857", 3000.0, (-16_500_000.0, 10_500_000.0)), ("EPSG:4326", 0.05, (176.0, 71.0)), ("EPSG:4326", 0.05, (-150.0, 68.0))],
)
def test_areas_are_those_on_the_ellipsoid(crs, pixel, origin):
    maps = maps_of(crs=crs, pixel=pixel, origin=origin)
    table = maps[["permafrost"]].miso.area(unit="ha")
    steps = np.linspace(0, 1, 2000)
    left, top = origin
    x = left + pixel * SHAPE[1] * np.concatenate([steps, np.ones(2000), 1 - steps, np.zeros(2000)])
    y = top - pixel * SHAPE[0] * np.concatenate([np.zeros(2000), steps, np.ones(2000), 1 - steps])
    degrees = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    whole = abs(pyproj.Geod(ellps="WGS84").polygon_area_perimeter(*degrees)[0]) / 1e4
    assert table.counted.sum() == pytest.approx(whole, rel=1e-6)
    flat = table.pixels.sum() * pixel**2 / 1e4
    assert crs == "EPSG:4326" or flat > 5 * whole


def test_polygons_take_the_pixels_whose_centres_they_hold():
    maps = maps_of()
    by = zones(maps).to_crs("EPSG:4326")
    by.geometry = by.geometry.segmentize(0.001)
    table = maps.miso.area(by=by)
    x = (maps.x.values - float(maps.x[0])) / (float(maps.x[-1]) - float(maps.x[0]))
    parts = {"west": x < 0.5, "east": (x > 0.5) & (x < 0.9), "none": x > 0.9}
    assert list(table.index.unique("region")) == list(parts)
    for name, columns in parts.items():
        for code, kind in enumerate(("absent", "present")):
            assert table.loc[(name, "permafrost", kind), "pixels"] == (maps.permafrost.values[:, columns] == code).sum()
    whole = maps.miso.area()
    np.testing.assert_allclose(table.counted.groupby(["task", "class"]).sum().sort_index(), whole.counted.sort_index())


@pytest.mark.filterwarnings("ignore:Regions overlap:misoxr.errors.MisoxrWarning")
def test_polygons_on_pixel_centres_are_the_same_for_any_chunks_and_the_first_counts():
    maps = maps_of()[["permafrost"]]
    x, y = maps.x.values, maps.y.values
    slanted = shapely.Polygon([(x[3], y[80]), (x[60], y[80]), (x[90], y[20]), (x[3], y[3])])
    by = gpd.GeoDataFrame(geometry=[slanted, shapely.box(x[20], y[70], x[100], y[10]), None, slanted], crs="EPSG:3338").dropna()
    by.index = ["b", "a", "b"]
    first = maps.miso.area(by=by)
    for side in (7, 30, 64):
        pd.testing.assert_frame_equal(maps.chunk({"y": side, "x": side}).miso.area(by=by), first, check_exact=True)
    slanted_alone = maps.miso.area(by=by.iloc[:1])
    pd.testing.assert_frame_equal(first.loc[["b"]], slanted_alone.loc[["b"]])
    assert first.loc["a"].pixels.sum() < 81 * 61


def test_longitudes_of_any_turn_meet_polygons_across_180_degrees():
    maps = maps_of(crs="EPSG:4326", pixel=0.05, origin=(177.0, 68.0))[["permafrost"]]
    across = shapely.Polygon([(179, 60), (-179, 60), (-179, 70), (179, 70)])  # as people write it
    by = gpd.GeoSeries([across], index=["across"], crs="EPSG:4326")
    table = maps.miso.area(by=by)
    x = maps.x.values
    assert table.loc["across"].pixels.sum() == ((x > 179) & (x < 181)).sum() * SHAPE[0]
    turned = maps.assign_coords(x=maps.x.values - 360)
    turned.spatial_ref.attrs.pop("GeoTransform")
    pd.testing.assert_series_equal(turned.miso.area(by=by).pixels, table.pixels)


def test_other_class_maps_are_counted_and_values_are_not():
    maps = maps_of().drop_vars(["order", "order_probability"])
    maps["excluded"] = class_map(np.zeros(SHAPE), ("not_excluded", "water"))
    maps["soc"] = maps.permafrost_probability * 10
    table = maps.miso.area()
    assert list(table.index.unique("task")) == ["permafrost", "excluded"]
    assert np.isnan(table.loc["excluded", "expected"]).all()
    with pytest.raises(SpecError, match=r"no class map over y and x among \['soc'\].*misoxr\.sampling\.mean"):
        maps[["soc"]].miso.area()


def test_what_cannot_be_counted_is_refused():
    maps = maps_of()
    averaged = maps.assign(permafrost=(maps.permafrost * 0.5).assign_attrs(maps.permafrost.attrs))
    with pytest.raises(BandError, match=r"pixels of the map 'permafrost' hold none of its classes .*Was it averaged"):
        averaged.miso.area()
    with pytest.raises(SpecError, match="permafrost_probability has dimensions"):
        maps.assign(permafrost_probability=maps.order_probability).miso.area()
    with pytest.raises(SpecError, match=r"unit is 'acre'; give one of \['km2', 'ha', 'm2'\]"):
        maps.miso.area(unit="acre")
    with pytest.raises(SpecError, match="by is a list; give polygons"):
        maps.miso.area(by=[1])
    with pytest.raises(PointsError, match="carry no CRS"):
        maps.miso.area(by=zones(maps).set_crs(None, allow_override=True))
    with pytest.raises(PointsError, match="give polygons"):
        maps.miso.area(by=zones(maps).set_geometry(zones(maps).centroid))
    with pytest.raises(PointsError, match="called 'none'"):
        maps.miso.area(by=zones(maps, ("none", "east")))
    with pytest.raises(GridError, match="No polygon of by meets the map"):
        maps.miso.area(by=zones(maps).translate(1e6))
    with pytest.raises(GridError):
        maps.drop_vars("spatial_ref").miso.area()


def test_one_time_is_none():
    maps = maps_of()
    expected = maps.miso.area()
    pd.testing.assert_frame_equal(maps.expand_dims(time=[2020]).miso.area(), expected)
    with pytest.raises(SpecError, match=r"select one layer, such as maps\.isel\(time=0\)"):
        xr.concat([maps, maps], "time").miso.area()
    dated = maps.assign(permafrost_probability=maps.permafrost_probability.expand_dims(time=[2020]))
    pd.testing.assert_frame_equal(dated.miso.area(), expected)


def test_expectations_go_by_the_names_of_classes_and_by_codes():
    maps = maps_of().assign_coords(taxon=["Gelisols", "Histosols", "others"])
    expected = maps.miso.area().expected
    for other in (maps.isel(taxon=[2, 0, 1]), maps.transpose("y", "x", "taxon"), maps.isel(taxon=[1, 0, 2]).chunk({"taxon": 1})):
        np.testing.assert_array_equal(other.miso.area().expected, expected)
    listed = maps.copy()
    flags = {"flag_values": np.array([2, 0, 1], "uint8"), "flag_meanings": "others Gelisols Histosols"}
    listed["order"] = maps.order.assign_attrs(flags)
    listed["permafrost"] = maps.permafrost.assign_attrs(flag_values=np.array([1, 0], "uint8"), flag_meanings="present absent")
    for other in (listed, listed.isel(taxon=[1, 2, 0]), listed.drop_vars("taxon"), listed.assign_coords(taxon=[1, 2, 3])):
        assert other.miso.area().expected.drop("nodata", level="class").to_dict() == pytest.approx(
            expected.drop("nodata", level="class").to_dict(), rel=1e-6
        )


def test_probabilities_of_other_classes_are_refused():
    maps = maps_of().assign_coords(taxon=["Gelisols", "Histosols", "Spodosols"])
    with pytest.raises(
        SpecError, match=r"order_probability has the classes \[.*'Spodosols'\], and 'order' the classes \[.*'others'\]"
    ):
        maps.miso.area()


def test_nodata_and_scale_of_probabilities_are_read():
    maps = maps_of()
    expected = maps.miso.area()
    plain = maps.permafrost_probability
    filled = plain.fillna(-1).assign_attrs(plain.attrs, _FillValue=-1.0)
    percent = (plain * 100).round().fillna(255).astype("uint8").assign_attrs(plain.attrs, scale_factor=0.01, _FillValue=255)
    for other, close in ((filled, 1e-9), (percent, 0.02)):
        found = maps.assign(permafrost_probability=other).miso.area()
        pd.testing.assert_frame_equal(found, expected, rtol=close)
