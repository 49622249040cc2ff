"""What others write: items, documents and tables whose fields are of other types than STAC says. There is a cube, or an error of the package."""

import copy
import json
import random
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from shapely.geometry import shape

from misoxr.errors import CatalogError, MisoxrError
from misoxr.stac import open_stac
from tests.stac_scenes import make_item
from tests.strangers import stranger, whole

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

SEED = 7
GRID = {"crs": "EPSG:32605", "resolution": 10}
VALUES: list[Any] = [
    *(
        None,
        True,
        0,
        -1,
        7,
        1.5,
        float("nan"),
        float("inf"),
        10**400,
        "",
        "x",
        "2020",
        [],
        [None],
        [1],
        ["a"],
        [[1]],
        [{}],
        {},
        {"a": 1},
    ),
    *({"a": []}, {"": None}, "\ud800", [1, 2, 3, 4, 5, 6], ["1", "2", "3", "4"]),
]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISOXR_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An item with all fields that are read, in both spellings of bands."""
    more = {"platform": "sentinel-2a", "instruments": ["msi"], "proj:code": "EPSG:32605", "start_datetime": "2020-07-01T21:00:00Z"}
    more |= {"earthsearch:boa_offset_applied": False, "processing:level": "L2A", "gsd": 10}
    item = make_item(tmp_path_factory.mktemp("items"), "mine", prefix="https://example.org/", properties=more)
    item["links"] = [{"rel": "self", "href": "https://example.org/mine.json"}]
    band = {"scale": 1e-4, "offset": -0.1, "nodata": 0, "data_type": "uint16", "unit": "1"}
    classes = [{"value": 4, "name": "vegetation", "description": "green"}]
    bits = [{"offset": 0, "length": 2, "classes": [{"value": 1, "name": "cloud"}]}]
    item["assets"]["red"]["raster:bands"] = [band]
    item["assets"]["nir"]["bands"] = [
        {"name": "B08", "eo:common_name": "nir", "raster:scale": 1e-4, "raster:offset": 0, "nodata": 0}
    ]
    item["assets"]["scl"] |= {"classification:classes": classes, "classification:bitfields": bits}
    return item


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all fields, and of the first two entries of each list."""
    for key in list(value) if isinstance(value, dict) else range(min(len(value), 2)) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(value[key], (*path, key))


def put(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    document = copy.deepcopy(document)
    part = document
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return document


def opened(catalog: Any, **options: Any) -> Any:
    """A cube, None after an error of the package; any other error comes through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return open_stac(catalog, bands=["red", "nir"], **options)
        except MisoxrError:
            return None


OPTIONS: list[dict[str, Any]] = [
    {},
    {"reduce": "median"},
    {"engine": "odc"},
    {"mask": None, "bbox": [-153.1, 64.5, -152, 65.5], "years": 2020},
    {"modifier": lambda item: None},
    {**GRID, "collections": "sentinel-2-l2a"},
]


def test_a_field_of_any_type_gives_a_cube_or_an_error_of_the_package(good):
    dice = random.Random(SEED)
    assert opened(good) is not None
    cubes = 0
    for path in places(good):
        for value in dice.sample(VALUES, 7):
            options = dice.choice(OPTIONS)
            try:
                cube = opened([put(good, path, value)], **options)
            except Exception as error:
                raise AssertionError(f"{path} = {value!r} with {options}") from error
            if cube is not None:
                cubes += 1
                assert set(cube.data_vars) - {"observations"} == {"red", "nir"}
                assert cube.sizes["y"] * cube.sizes["x"] < 10**9
    assert cubes > 100  # what is not read may be anything


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("assets", "red", "bands"), "B04", "asset 'red' has 'bands' as a str, where STAC has a list of objects"),
        (("assets", "red", "href"), 7, "asset 'red' has 'href' as a int, where STAC has text"),
        (("properties", "datetime"), 7, "has the datetime 7"),
        (("bbox",), "1,2,3,4", "has 'bbox' as a str, where STAC has a list of numbers"),
        (("assets", "red", "proj:transform"), ["a"] * 6, r"declares proj:transform=\['a'"),
        (("type",), 5, "Item 'mine'"),
    ],
    ids=str,
)
def test_the_item_and_its_field_are_named(good, path, value, message):
    with pytest.raises(CatalogError, match=f"Item 'mine'.*{message}" if path != ("type",) else message):
        open_stac([put(good, path, value)], bands="red", modifier=lambda item: None if path == ("type",) else item)


# ---- documents of a catalogue


def test_documents_of_any_type(good):
    """Landing pages, pages of a search and static catalogues."""
    dice = random.Random(SEED)
    core = "https://api.stacspec.org/v1.0.0/core"
    plain = {"stac_version": "1.0.0", "id": "top", "description": ""}
    with stranger(
        lambda head, send: send(whole(json.dumps(served.get(head.split()[1].partition("?")[0], {})).encode()))
    ) as address:
        link = {"rel": "search", "href": f"{address}/search", "type": "application/geo+json", "method": "GET"}
        page = {
            "type": "FeatureCollection",
            "features": [good],
            "links": [{"rel": "next", "href": f"{address}/more", "method": "GET"}],
        }
        honest = {
            "/api": {**plain, "type": "Catalog", "conformsTo": [core, core.replace("core", "item-search")], "links": [link]},
            "/search": page,
            "/c.json": {
                **plain,
                "type": "Catalog",
                "links": [{"rel": "child", "href": "./d.json"}, {"rel": "item", "href": "./i.json"}],
            },
            "/d.json": {**page, "links": []},
            "/i.json": {**good, "id": "other"},
            "/more": {"type": "FeatureCollection", "features": []},
        }
        served = honest
        assert opened(f"{address}/api", reduce="median") is not None
        assert opened(f"{address}/c.json", reduce="median") is not None
        for name, start in (("/api", "/api"), ("/search", "/api"), ("/c.json", "/c.json"), ("/d.json", "/c.json")):
            shallow = [path for path in places(honest[name]) if len(path) < 4 and path[:2] != ("features", 0)]
            for path in [*shallow, ("features",), ("features", 0)][: len(shallow) + 2 * ("features" in honest[name])]:
                for value in dice.sample(VALUES, 6):
                    served = {**honest, name: put(honest[name], path, value)}
                    try:
                        opened(f"{address}{start}", reduce="median")
                    except Exception as error:
                        raise AssertionError(f"{name}: {path} = {value!r}") from error


# ---- tables


COLUMNS = {
    "nothing": pa.nulls(2),
    "numbers": pa.array([1, 2**62]),
    "floats": pa.array([1.5, float("nan")]),
    "half floats": pa.array(np.ones(2, "float16")),
    "text": pa.array(["a", "b"]),
    "text of numbers": pa.array(["1", "2"]),
    "truth": pa.array([True, None]),
    "bytes": pa.array([b"a", b"\x00\xff"]),
    "fixed bytes": pa.array([b"ab"] * 2, pa.binary(2)),
    "times": pa.array([datetime(2020, 7, 1)] * 2),
    "times far off": pa.array([10**15] * 2, pa.timestamp("s")),
    "durations": pa.array([1, 2], pa.duration("ns")),
    "decimals": pa.array([1, 2], pa.decimal128(10, 2)),
    "times of a day": pa.array([1, 2], pa.time64("us")),
    "short lists": pa.array([[1], []]),
    "lists of text": pa.array([["1", "2", "3", "4"]] * 2),
    "lists of nothing": pa.array([[None] * 4] * 2, pa.list_(pa.float64())),
    "lists of lists": pa.array([[[1]], None]),
    "objects": pa.array([{"a": 1}] * 2),
    "a box of text": pa.array([dict.fromkeys(("xmin", "ymin", "xmax", "ymax"), "a")] * 2),
    "assets of numbers": pa.array([{"red": {"href": 7}}] * 2),
    "assets of text": pa.array([{"red": "x"}] * 2),
    "links of numbers": pa.array([[{"rel": 1, "href": 2}], [None]]),
    "maps": pa.array([[("a", 1)]] * 2, pa.map_(pa.string(), pa.int64())),
    "codes of text": pa.array(["a", "b"]).dictionary_encode(),
}


@pytest.fixture(scope="module")
def table(good) -> Any:
    rows = []
    for name, year in (("a", 2020), ("b", 2021)):
        fields = {key: good[key] for key in ("type", "stac_version", "collection", "bbox", "links", "assets")}
        time = {"datetime": f"{year}-07-01T21:00:00Z"}
        rows.append({**fields, "id": name, "geometry": shapely.to_wkb(shape(good["geometry"])), **good["properties"], **time})
    return pa.Table.from_pylist(rows)


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_of_any_type_gives_a_cube_or_an_error_of_the_package(table, kind, tmp_path):
    for name in ("type", "id", "collection", "bbox", "assets", "links", "geometry", "datetime", "start_datetime", "proj:epsg"):
        path = tmp_path / f"{name.replace(':', '')}.parquet"
        pq.write_table(table.set_column(table.column_names.index(name), name, COLUMNS[kind]), path)
        for options in ({"reduce": "median", **GRID}, {"years": 2020, "bbox": [-154, 60, -150, 70]}):
            try:
                opened(path, **options)
            except Exception as error:
                raise AssertionError(f"{name} holds {kind}, with {options}") from error


@pytest.mark.parametrize(
    ("column", "kind", "message"),
    [
        (
            "bbox",
            "numbers",
            "items.parquet has the column 'bbox' of the type int64; it must be stac-geoparquet, where that holds boxes",
        ),
        ("bbox", "lists of text", "the column 'bbox' of the type list"),
        ("datetime", "numbers", "the column 'datetime' of the type int64; .* holds text or times"),
        ("assets", "text", "the column 'assets' of the type string; .* holds objects"),
        ("geometry", "bytes", r"items.parquet cannot be read: its row \d is no item \(.*; it must be stac-geoparquet"),
        ("datetime", "times far off", "items.parquet cannot be read: its columns are of other types"),
        ("links", "numbers", "Item 'a' has 'links' as a int"),
    ],
)
def test_the_table_and_its_column_are_named(table, column, kind, message, tmp_path):
    pq.write_table(table.set_column(table.column_names.index(column), column, COLUMNS[kind]), tmp_path / "items.parquet")
    with pytest.raises(CatalogError, match=message):
        open_stac(tmp_path / "items.parquet", bands="red")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"hello", b"{}", None, "cut"])
def test_what_is_no_table(table, content, tmp_path):
    path = tmp_path / "items.parquet"
    if content is None:
        path.mkdir()
    else:
        pq.write_table(table, path)
        path.write_bytes(path.read_bytes()[:-40] if content == "cut" else content)
    with pytest.raises(CatalogError, match=r"items.parquet cannot be read .*; it must be stac-geoparquet"):
        open_stac(path, bands="red")


# ---- functions of the user


def test_an_error_of_a_modifier_says_whose_it_is(good, table, tmp_path):
    def modifier(item: Any) -> None:
        item.assets["no such"]

    pq.write_table(table, tmp_path / "items.parquet")
    for source, name in (([good], "mine"), (tmp_path / "items.parquet", "a")):
        with pytest.raises(CatalogError, match=f"The modifier failed at item '{name}': it raised KeyError: 'no such'") as error:
            open_stac(source, bands="red", modifier=modifier)
        assert isinstance(error.value.__cause__, KeyError)


@pytest.mark.parametrize("value", [7, {}, [], float("nan")])
def test_what_a_modifier_leaves_is_looked_at_too(good, value):
    def leaves(item: Any) -> None:
        item.assets["red"].href = value

    def returns(item: Any) -> Any:
        return value

    with pytest.raises(MisoxrError, match="'mine'.*('href'|is refused)"):
        open_stac([good], bands="red", modifier=leaves)
    with pytest.raises(CatalogError, match=f"at item 'mine': it returned a {type(value).__name__}, and has to return the item"):
        open_stac([good], bands="red", modifier=returns)
