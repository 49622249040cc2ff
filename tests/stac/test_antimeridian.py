"""A scene at 180 degrees, or at Greenwich, gives what it gives elsewhere: catalogue to numbers, with rasters and points joined."""

import copy
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyproj
import pytest
import shapely
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from servers import stac_api

from misoxr.grid.footprints import split
from misoxr.grid.geobox import assign, geobox_of, locations, pixels
from misoxr.grid.longitude import circle_of
from misoxr.grid.resample import on_grid
from misoxr.points.read import coordinates, place, read_points, regions_of
from misoxr.points.reports import duplicates
from misoxr.spec import LocationSpec
from misoxr.stac import open_stac, search
from misoxr.stac.filters import Filters, area_of
from tests.stac_scenes import make_item, write_cog, write_collection

ELSEWHERE = -120.0
"""A meridian between two zones of UTM, as 180 degrees and Greenwich are."""
LATITUDE = 52.0
STYLES = ("-180..180", "0..360", "beyond in the east", "beyond in the west", "in two parts")


def local(meridian: float) -> str:
    """A CRS that looks the same about each meridian."""
    return f"+proj=laea +lat_0={LATITUDE} +lon_0={meridian} +datum=WGS84 +units=m"


def zones(meridian: float) -> tuple[str, str]:
    last = int((meridian + 180) // 6) % 60 or 60
    return f"EPSG:{32600 + last}", f"EPSG:{32601 + last % 60}"


def scenes(directory: Path, meridian: float) -> list[dict[str, Any]]:
    """Two tiles of one overpass, both across a meridian, one in the zone west of it and one in that east of it, and a later one."""
    noon = pd.Timestamp("2020-07-01T12:30:00") - pd.Timedelta(hours=meridian / 15)
    made = []
    for at, (crs, before, day) in enumerate(zip([*zones(meridian), zones(meridian)[0]], (1000, 300, 900), (0, 0, 1), strict=True)):
        x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(meridian, LATITUDE)
        origin = round(x, -1) - before, round(y, -1) + 600
        time = f"{noon + pd.Timedelta(days=day, seconds=10 * at):%Y-%m-%dT%H:%M:%SZ}"
        made.append(make_item(directory, f"scene-{at}", time, origin=origin, crs=crs, seed=at))
    return made


def written(item: dict[str, Any], style: str) -> dict[str, Any]:
    """An item whose footprint and box are written in another way."""
    item = copy.deepcopy(item)
    longitude, latitude = np.array(item["geometry"]["coordinates"][0]).T
    longitude = np.unwrap(longitude, period=360)
    longitude -= 360 * np.floor((longitude.mean() + 180) / 360)
    way = {"-180..180": lambda x: (x + 180) % 360 - 180, "0..360": lambda x: x % 360}
    moved = way.get(style, lambda x: x + {"beyond in the east": 360, "beyond in the west": -360}.get(style, 0))(longitude)
    shape = shapely.Polygon(np.column_stack([moved, latitude]))
    if style == "in two parts":
        shape = split(area_of(None, shape))
    item["geometry"] = shapely.geometry.mapping(shape)
    item["bbox"] = [float(moved.min()), latitude.min(), 0.0, float(moved.max()), latitude.max(), 100.0]
    return item


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[float, tuple[Path, list[dict[str, Any]]]]:
    places = {}
    for meridian in (ELSEWHERE, 180.0, 0.0):
        directory = tmp_path_factory.mktemp("scenes")
        places[meridian] = directory, scenes(directory, meridian)
    return places


def area(meridian: float, form: str) -> dict[str, Any]:
    """A square about a meridian, drawn in several ways."""
    box = shapely.box(-700, -500, 800, 400)
    series = geopandas.GeoSeries([box.segmentize(100)], crs=local(meridian))
    if form == "in a CRS":
        return {"intersects": series}
    if form == "moved to degrees":
        return {"intersects": series.to_crs("EPSG:4326")}
    west, east = meridian - 0.01, meridian + 0.01
    wrapped = tuple((side + 180) % 360 - 180 for side in (west, east))
    return {
        "bbox": {"bbox": (wrapped[0], LATITUDE - 0.005, wrapped[1], LATITUDE + 0.004)},
        "bbox of 0..360": {"bbox": (west % 360, LATITUDE - 0.005, east % 360, LATITUDE + 0.004)},
        "box in the turn before": {"intersects": shapely.box(west - 360, LATITUDE - 0.005, east - 360, LATITUDE + 0.004)},
    }[form]


def opened(directory: Path, items: list[dict[str, Any]], meridian: float, form: str, style: str, **options: Any) -> xr.Dataset:
    path = write_collection(directory / "items.json", [written(item, style) for item in items])
    asked = {"bands": ["red", "swir16"], "crs": local(meridian), "resolution": 20, "chunks": 32, **area(meridian, form), **options}
    return open_stac(path, **asked).compute()


@pytest.mark.parametrize("meridian", [180.0, 0.0])
@pytest.mark.parametrize(
    ("form", "style"),
    [
        ("in a CRS", "-180..180"),
        ("moved to degrees", "in two parts"),
        ("bbox", "0..360"),
        ("bbox of 0..360", "beyond in the west"),
        ("box in the turn before", "beyond in the east"),
    ],
)
def test_a_scene_gives_what_it_gives_elsewhere(made, meridian, form, style):
    options = {"engine": "odc"} if style == "in two parts" else {"reduce": "median"}
    alike = form if form in ("in a CRS", "moved to degrees") else "bbox"
    expected = opened(*made[ELSEWHERE], ELSEWHERE, alike, "-180..180", **options)
    here = opened(*made[meridian], meridian, form, style, **options)
    assert here.sizes == expected.sizes
    assert "reduce" in options or here.sizes["time"] == 2
    assert np.isfinite(expected.red).mean() > 0.5
    for name in ("x", "y", "red", "swir16"):
        np.testing.assert_allclose(here[name].values, expected[name].values, rtol=1e-4, atol=1e-3)


def test_footprints_however_they_are_written_are_found(made):
    for meridian in (180.0, 0.0):
        directory, items = made[meridian]
        for style in STYLES:
            path = write_collection(directory / "items.json", [written(item, style) for item in items])
            for side in (-0.004, 0.004):
                box = shapely.box(*(shapely.Point(meridian + side, LATITUDE).buffer(0.001).bounds))
                image = open_stac(path, bands="red", mask=None, reduce="median", crs=local(meridian), resolution=20, intersects=box)
                assert len(image.attrs["stac_item_ids"]) == 3
                assert np.isfinite(image.red).all()


def test_a_server_is_asked_for_what_every_server_knows(made):
    for asked, boxes in (
        ({"bbox": (179.9, 51, -179.9, 53)}, [(179.9, 51, 180, 53), (-180, 51, -179.9, 53)]),
        ({"intersects": shapely.box(359, 51, 361, 53)}, [(-1, 51, 1, 53)]),
        ({"bbox": (190, 51, 200, 53)}, [(-170, 51, -160, 53)]),
        ({"bbox": (-180, 51, 180, 53)}, [(-180, 51, 180, 53)]),
        ({"intersects": shapely.box(0, 51, 360, 53)}, [(-180, 51, 180, 53)]),
        ({"intersects": shapely.Point(181, 52)}, [(-179, 52, -179, 52)]),
    ):
        given = search._where(Filters(area=area_of(asked.get("bbox"), asked.get("intersects"))))
        if len(boxes) == 1 and "bbox" in given:
            assert given == {"bbox": pytest.approx(list(boxes[0]))}
        else:
            parts = shapely.get_parts(shapely.geometry.shape(given["intersects"]))
            assert sorted(part.bounds for part in parts) == [pytest.approx(box) for box in sorted(boxes)]
    directory, items = made[180.0]
    path = write_collection(directory / "api.json", [written(item, "in two parts") for item in items])
    with stac_api(path) as api:
        for form in ("in a CRS", "bbox", "box in the turn before"):
            cube = open_stac(api, bands="red", mask=None, crs=local(180.0), resolution=20, engine="odc", **area(180.0, form))
            assert cube.sizes["time"] == 2
            assert len(cube.attrs["stac_item_ids"]) == 3


def degree_tiles(directory: Path, meridian: float, turns: int) -> Path:
    """Two tiles in degrees that touch at a meridian, at noon there, their grids and footprints in some turn."""
    values = np.random.default_rng(0).integers(1000, 5000, (40, 60)).astype("uint16")
    noon = pd.Timestamp("2020-07-01T12:00:00") - pd.Timedelta(hours=meridian / 15)
    items = []
    for at, west in enumerate((meridian - 0.3, meridian)):
        west = (west + 180) % 360 - 180 + 360 * turns
        item = make_item(directory, f"{meridian:g}-{turns}-{at}", f"{noon:%Y-%m-%dT%H:%M:%SZ}", size=(8, 8))
        transform = Affine(0.01, 0, west, 0, -0.01, LATITUDE + 0.2)
        write_cog(directory / item["id"] / "red.tif", values[:, 30 * at : 30 * at + 30], transform, "EPSG:4326")
        item["properties"]["proj:epsg"] = 4326
        item["assets"]["red"] |= {"proj:transform": list(transform)[:6], "proj:shape": [40, 30]}
        item["geometry"] = shapely.geometry.mapping(shapely.box(west, LATITUDE - 0.2, west + 0.3, LATITUDE + 0.2))
        items.append(item)
    return write_collection(directory / f"{meridian:g}-{turns}.json", items)


@pytest.mark.parametrize("options", [{"reduce": "median"}, {"engine": "odc"}, {}], ids=["composite", "odc", "stackstac"])
def test_tiles_in_degrees_have_no_gap_between_them(tmp_path, options):
    """The grid may be of any turn, and so may be the tiles; without a grid it is the one over both."""
    read = {"bands": "red", "mask": None, "chunks": 16, **options}
    expected = open_stac(degree_tiles(tmp_path, ELSEWHERE, 0), **read).red.squeeze().values
    assert expected.shape == (40, 60)
    assert np.isfinite(expected).all()
    for meridian, turns, ours in ((180.0, 0, 0), (180.0, 1, -1), (-180.0, 0, 1), (0.0, 0, 0), (0.0, 1, 0), (0.0, 0, 1)):
        path = degree_tiles(tmp_path, meridian, turns)
        grid = GeoBox((40, 60), Affine(0.01, 0, meridian - 0.3 + 360 * ours, 0, -0.01, LATITUDE + 0.2), "EPSG:4326")
        on_the_grid = open_stac(path, geobox=grid, **read)
        np.testing.assert_allclose(on_the_grid.red.squeeze().values, expected, rtol=1e-5)
        assert geobox_of(on_the_grid) == grid
        alone = open_stac(path, **read)
        np.testing.assert_allclose(alone.red.squeeze().values, expected, rtol=1e-5)
        again = open_stac(path, like=alone, **read)
        np.testing.assert_allclose(again.red.squeeze().values, expected, rtol=1e-5)


# ---- what is joined


@settings(max_examples=200, deadline=None)
@given(
    middle=st.floats(-180, 180),
    turns=st.tuples(st.integers(-2, 2), st.integers(-2, 2)),
    at=st.lists(st.floats(-170, 170), min_size=1, max_size=5),
    crs=st.sampled_from(["EPSG:4326", "EPSG:3857", "EPSG:6933"]),
)
def test_pixels_of_points_are_those_of_any_turn(middle, turns, at, crs):
    degree = circle_of(crs).turn / 360
    grid = GeoBox((10, 20), Affine(0.1 * degree, 0, (middle + 360 * turns[0]) * degree, 0, -1, 50), crs)
    _, columns = pixels(grid, (middle + 1 + np.array(at) + 360 * turns[1]) * degree, np.full(len(at), 45.0))
    np.testing.assert_allclose(columns, 10 + 10 * np.array(at), atol=1e-6)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:32660"])
@pytest.mark.parametrize("turns", [-1, 0, 1])
def test_points_lie_on_a_cube_across_180(crs, turns):
    middle, north, pixel = {
        "EPSG:4326": (180.0, 54.0, 0.01),
        "EPSG:3857": (20_037_508.3, 6.9e6, 1000.0),
        "EPSG:32660": (705_000.0, 5.9e6, 1000.0),
    }[crs]
    cube = GeoBox((400, 100), Affine(pixel, 0, middle - 50 * pixel, 0, -pixel, north), crs)
    points = pd.DataFrame({"lon": np.array([179.9, -179.9]) + 360 * turns, "lat": [52.0, 52.0]})
    placed, rows, columns = place(read_points(points), cube)
    assert len(placed) == 2
    x, _, _ = coordinates(points, cube)
    np.testing.assert_allclose(x, cube.affine.c + pixel * columns)
    assert 0 < np.diff(columns)[0] < 30


def test_points_share_pixels_and_regions_whatever_their_turn():
    points = read_points(
        pd.DataFrame({"lon": [190.0, -170.0, 179.0, -181.0, 10.0], "lat": [52.0] * 5, "permafrost": [1, 0, 1, 1, 0]})
    )
    cube = GeoBox((20, 400), Affine(0.1, 0, 160, 0, -0.1, 53), "EPSG:4326")
    with pytest.warns(match="1 of 5 points lie outside"):
        shared = duplicates(points, cube)
    assert list(shared["count"]) == [2, 2]
    assert list(shared["permafrost"]) == [True, False]
    corners = {"naive": [(170, 50), (-160, 50), (-160, 60), (170, 60)], "beyond": [(530, 50), (560, 50), (560, 60), (530, 60)]}
    for shape in corners.values():
        regions = geopandas.GeoDataFrame({"name": ["Bering"]}, geometry=[shapely.Polygon(shape)], crs="EPSG:4326")
        groups, names = regions_of(points, regions, "name")
        assert list(groups) == ["Bering"] * 4 + ["none"]
        assert names == ["Bering", "none"]


def test_locations_run_on_across_the_antimeridian():
    spec = LocationSpec("EPSG:4326", (170.0, 50.0, 190.0, 60.0))
    grid = GeoBox((10, 10), Affine(1, 0, -185, 0, -1, 60), "EPSG:4326")
    x = locations(grid, 5, np.arange(10), spec)[..., 0]
    np.testing.assert_allclose(x, -0.5 + 0.1 * np.arange(10))


def test_rasters_of_either_convention_join_a_cube_across_180(made):
    directory, items = made[180.0]
    path = write_collection(directory / "items.json", items)
    image = open_stac(path, bands="red", mask=None, reduce="median", crs=local(180.0), resolution=20, **area(180.0, "bbox"))
    found = []
    for west in (-180.0, 0.0):
        box = GeoBox((400, 3600), Affine(0.1, 0, west, 0, -0.1, 70), "EPSG:4326")
        longitude = np.deg2rad(west + 0.1 * (np.arange(3600) + 0.5))
        world = assign(xr.DataArray(np.tile(np.sin(longitude), (400, 1)), dims=("y", "x"), attrs={"units": "1"}), box)
        found.append(on_grid(world, geobox_of(image), "bilinear", (30, 30)).values)
        x, _ = pyproj.Transformer.from_crs(local(180.0), "EPSG:4326", always_xy=True).transform(*np.meshgrid(image.x, image.y))
        np.testing.assert_allclose(found[-1], np.sin(np.deg2rad(x)), atol=1e-5)
    np.testing.assert_allclose(*found, atol=1e-6)
