"""Tables of items: read row by row, and the same as the items themselves."""

import asyncio
import json
import shutil

import numpy as np
import pytest
import rustac
import shapely
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from misoxr.errors import CatalogError
from misoxr.grid.footprints import split
from misoxr.stac import open_stac
from misoxr.stac.filters import area_of
from misoxr.stac.item_table import ItemTable
from tests.stac_scenes import ORIGIN, make_item, write_collection

GRID = {"crs": "EPSG:32605", "resolution": 10}
BANDS = ["red", "nir"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The same items as JSON and as a table: three times, two places, one item without an asset, one of another collection."""
    directory = tmp_path_factory.mktemp("items")
    east = (ORIGIN[0] + 1600, ORIGIN[1])
    items = [
        make_item(directory, "a", "2020-07-01T21:00:00Z", seed=0, baseline="04.00", raise_counts=1000),
        make_item(directory, "b", "2020-07-01T21:10:00Z", seed=1, origin=east),
        make_item(directory, "c", "2020-07-11T21:00:00Z", seed=2),
        make_item(directory, "d", "2021-07-02T21:00:00Z", seed=3, origin=east),
        make_item(directory, "e", "2021-12-02T21:00:00Z", seed=4),
        make_item(directory, "f", "2021-07-05T21:00:00Z", seed=5, collection="other"),
    ]
    del items[3]["assets"]["swir16"]

    async def write() -> None:
        await rustac.write(str(directory / "items.parquet"), items)

    asyncio.run(write())
    return write_collection(directory / "items.json", items), directory / "items.parquet"


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"collections": "sentinel-2-l2a", "years": [2020, 2021], "season": ("06-01", "08-31")},
        {"datetime": "2020"},
        {"groupby": None, "mask": None},
        {"intersects": {"type": "Point", "coordinates": [-152.99, 64.9185]}, "like": None},
    ],
)
def test_a_table_gives_what_its_items_give(tables, asked):
    asked = {key: value for key, value in asked.items() if value is not None or key in ("groupby", "mask")}
    one, other = (open_stac(path, bands=BANDS, reduce="median", chunks=64, **GRID, **asked) for path in tables)
    grid = one if "intersects" in asked else other
    other = open_stac(tables[1], bands=BANDS, reduce="median", chunks=64, like=grid, **asked)
    one = open_stac(tables[0], bands=BANDS, reduce="median", chunks=64, like=grid, **asked)
    for name in (*BANDS, "observations"):
        xr.testing.assert_equal(one[name].compute(), other[name].compute())
    assert float(other.observations.max()) > 0
    assert other.attrs["stac_item_count"] <= 6


@pytest.mark.parametrize("bounds", ["across", "around", "beyond"])
@pytest.mark.parametrize(
    ("crs", "origin"),
    [("EPSG:32601", (357_200.0, 7_200_000.0)), ("EPSG:32660", (641_200.0, 7_200_000.0)), ("EPSG:32601", (166_050.0, 450_000.0))],
    ids=["zone 1", "zone 60", "near the equator"],
)
def test_items_across_the_antimeridian_are_found_on_either_side(tmp_path, crs, origin, bounds):
    times = ("2020-07-01T13:00:00Z", "2020-07-02T11:00:00Z")  # one solar day at 180 degrees, two at 0
    items = [make_item(tmp_path, f"item-{at}", time, origin=origin, crs=crs, seed=at) for at, time in enumerate(times)]
    for item in items:
        longitude, latitude = np.array(item["geometry"]["coordinates"][0]).T
        west, east = float((longitude % 360).min()), float((longitude % 360).max() - 360)
        south, north = float(latitude.min()), float(latitude.max())
        assert 179.9 < west < 180 < east + 360 < 180.1
        across = [west, south, east, north]
        item["geometry"] = shapely.geometry.mapping(split(area_of(across, None)))
        item["bbox"] = {"across": across, "around": [-180.0, south, 180.0, north], "beyond": [west - 360, south, east, north]}[
            bounds
        ]

    async def write() -> None:
        await rustac.write(str(tmp_path / "items.parquet"), items)

    asyncio.run(write())
    paths = write_collection(tmp_path / "items.json", items), tmp_path / "items.parquet"
    whole = GeoBox((128, 160), Affine(10, 0, origin[0], 0, -10, origin[1]), crs)
    searches = [{}, {"bbox": across}]
    searches += [{"bbox": side} for side in ((west, south, 180, north), (-180, south, east, north))]
    searches += [{"intersects": shapely.box(*search["bbox"])} for search in searches[2:]]
    asked = [(whole, search) for search in searches] + [(whole[:, :40], {}), (whole[:, 120:], {})]
    for grid, search in asked:
        one, other = (open_stac(path, bands="red", reduce="median", geobox=grid, **search).compute() for path in paths)
        for name in ("red", "observations"):
            xr.testing.assert_equal(one[name], other[name])
        assert int(other.observations.max()) == 1  # one time
        assert other.attrs["stac_item_count"] == 2
    if bounds == "across":
        with pytest.raises(CatalogError, match="None of the 2 items of the table matches"):
            open_stac(paths[1], bands="red", reduce="median", geobox=whole, bbox=(0, south, 10, north))


def written(path, item):
    """Write an item as a collection of JSON, or as a table."""
    if path.suffix == ".json":
        return write_collection(path, [item])

    async def write() -> None:
        await rustac.write(str(path), [item])

    asyncio.run(write())
    return path


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"datetime": "2021-06/2021-08"}, True),
        ({"datetime": "2021-07-01"}, True),
        ({"years": 2021, "season": ("06-20", "08-20")}, True),
        ({"years": 2020, "season": ("06-20", "08-20")}, False),
        ({"datetime": "2022"}, False),
        ({"season": ("11-01", "12-31")}, False),
        ({"datetime": "2021-10"}, False),  # the end at midnight is that of the day before
        ({"season": ("10-01", "10-31")}, False),
        ({"season": ("09-30", "10-31")}, True),
    ],
)
@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_an_item_that_covers_an_interval_is_found_where_it_meets_what_is_asked_for(tmp_path, asked, found, kind):
    item = make_item(tmp_path, "a", "2021-02-01T00:00:00Z", seed=0)
    item["properties"] |= {"datetime": None, "start_datetime": "2021-02-01T00:00:00Z", "end_datetime": "2021-10-01T00:00:00Z"}
    path = written(tmp_path / f"items.{kind}", item)
    if not found:
        with pytest.raises(CatalogError, match=r"No item matches|None of the 1 items"):
            open_stac(path, bands=BANDS, **GRID, **asked)
        return
    cube = open_stac(path, bands=BANDS, **GRID, **asked)
    assert cube.time.values.astype("datetime64[D]").astype(str).tolist() == ["2021-02-01"]


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_an_open_end_is_after_all_that_is_asked_for(tmp_path, kind):
    item = make_item(tmp_path, "a", "2021-02-01T00:00:00Z", seed=0)
    item["properties"] |= {"datetime": None, "start_datetime": "2021-02-01T00:00:00Z", "end_datetime": "9999-12-31T23:59:59Z"}
    path = written(tmp_path / f"items.{kind}", item)
    for asked in ({"datetime": "2090"}, {"years": [2021, 2030], "season": ("06-01", "06-30")}, {"season": ("01-01", "01-02")}):
        assert open_stac(path, bands=BANDS, **GRID, **asked).sizes["time"] == 1
    with pytest.raises(CatalogError, match=r"No item matches|None of the 1 items"):
        open_stac(path, bands=BANDS, **GRID, datetime="2020")


def test_codes_and_times_as_other_tools_write_them(tables, tmp_path):
    """Codes are floats where a row lacks one, and databases write times without the minutes of their zone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(tables[1])
    rows = table.num_rows
    told = [name for name in table.column_names if name in ("proj:code", "proj:epsg", "datetime")]
    table = table.drop_columns(told).append_column("proj:epsg", pa.array([32605.0] * (rows - 1) + [float("nan")]))
    times = [f"{time:%Y-%m-%d %H:%M:%S}+00" for time in pq.read_table(tables[1])["datetime"].to_pylist()]
    pq.write_table(table.append_column("datetime", pa.array(times)), tmp_path / "items.parquet")
    for folder in "abcdef":
        shutil.copytree(tables[1].parent / folder, tmp_path / folder)
    asked = {"bands": BANDS, "datetime": "2020"}
    xr.testing.assert_equal(open_stac(tmp_path / "items.parquet", **asked).compute(), open_stac(tables[1], **asked).compute())


def test_time_cubes_come_from_tables_too(tables):
    one, other = (open_stac(path, bands="red", datetime="2020", **GRID) for path in tables)
    xr.testing.assert_equal(one.red.compute(), other.red.compute())


def test_only_the_items_of_a_block_are_read(tables, monkeypatch):
    read: list[int] = []
    found = ItemTable._found
    monkeypatch.setattr(ItemTable, "_found", lambda self, row: (read.append(row), found(self, row))[1])
    image = open_stac(tables[1], bands=BANDS, reduce="median", chunks=64, **GRID)
    assert set(read) == {0, 3, 5}  # one item of each collection and set of assets, for what the result says of itself
    image.red.isel(x=slice(-64, None)).compute()
    assert set(read) == {0, 1, 3, 5}  # the two in the east and those


def test_a_changed_table_is_copied_anew(tables, tmp_path):
    table = tmp_path / "items.parquet"
    shutil.copy(tables[1], table)
    first = open_stac(table, bands="red", reduce="median", **GRID)
    items = json.loads(tables[0].read_text())["features"][:2]

    async def write() -> None:
        await rustac.write(str(table), items)

    asyncio.run(write())
    second = open_stac(table, bands="red", reduce="median", **GRID)
    assert (first.attrs["stac_item_count"], second.attrs["stac_item_count"]) == (6, 2)
    assert first.red.data.name != second.red.data.name


def test_what_is_wrong_with_a_table_is_said(tables, tmp_path):
    import pandas as pd

    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no table")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    for name, words in (("broken", "cannot be read"), ("other", "lacks the columns"), ("missing", "cannot be read")):
        with pytest.raises(CatalogError, match=words):
            open_stac(tmp_path / f"{name}.parquet", bands="red", reduce="median", **GRID)
    with pytest.raises(CatalogError, match="None of the 6 items of the table matches"):
        open_stac(tables[1], bands="red", reduce="median", datetime="1999", **GRID)
    with pytest.raises(CatalogError, match="give crs and resolution"):
        open_stac(tables[1], bands="red", reduce="median")
    with pytest.raises(CatalogError, match="cannot be queried"):
        open_stac(tables[1], bands="red", reduce="median", query={"a": 1}, **GRID)
    far = open_stac(tables[0], bands="red", **GRID)
    far = far.assign_coords(x=far.x + 1e6)
    with pytest.raises(CatalogError, match="None of the 6 items"):
        open_stac(tables[1], bands="red", reduce="median", like=far)
