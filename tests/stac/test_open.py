import copy
import json
import math
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import dask
import geopandas
import numpy as np
import pandas as pd
import pyproj
import pystac
import pystac_client
import pytest
import rasterio
import shapely
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from servers import range_server, stac_api

from misoxr.cube.reductions import reduce_time
from misoxr.errors import AssetError, BandError, CatalogError, GridError, MisoxrWarning, SpecError
from misoxr.grid.geobox import geobox_of
from misoxr.stac import open_stac, search
from misoxr.stac.target import area_on
from tests.conftest import make_model, tiny_spec
from tests.stac_scenes import ORIGIN, SIZE, make_item, write_collection

BANDS = ["red", "nir", "swir16"]
CLOUDED = slice(20, 30), slice(40, 50)
"""Pixels of the classification that are cloud at every time."""


@dataclass(frozen=True)
class Service:
    files: str
    api: str
    directory: Path
    log: Path


def cloudy(seed: int) -> np.ndarray:
    scl = np.full((SIZE[0] // 2, SIZE[1] // 2), 4, dtype="uint8")
    scl[CLOUDED] = 9
    top, left = np.random.default_rng(seed).integers(0, 40, 2)
    scl[top : top + 15, left : left + 20] = 8
    return scl


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Five items over two orbits and three years behind an API and a file server; one is before baseline 04.00, four after."""
    directory, log = tmp_path_factory.mktemp("stac"), tmp_path_factory.mktemp("log") / "requests"
    east = ORIGIN[0] + 400, ORIGIN[1] - 300
    with range_server(directory, log=log) as files:
        prefix = f"{files}/"
        items = [
            make_item(directory, "a", "2020-07-01T21:00:00Z", seed=0, scl=cloudy(0), prefix=prefix),
            make_item(directory, "b", "2020-07-01T21:00:14Z", seed=1, scl=cloudy(1), prefix=prefix, origin=east, baseline="05.00"),
            make_item(
                directory, "c", "2021-08-01T21:00:00Z", seed=2, scl=cloudy(2), prefix=prefix, baseline="05.00", raise_counts=1000
            ),
            make_item(
                directory, "d", "2022-06-20T00:00:01Z", seed=3, scl=cloudy(3), prefix=prefix, baseline="05.09", raise_counts=1000
            ),
            make_item(directory, "e", "2022-12-31T21:00:00Z", seed=4, scl=cloudy(4), prefix=prefix, collection="winter"),
        ]
        write_collection(directory / "items.json", items)
        with stac_api(directory / "items.json") as api:
            yield Service(files, api, directory, log)


given = partial(open_stac, allow_private=True)
"""For items in hand, which count as from outside, over the server of files on this machine."""


def items_of(service: Service) -> list[dict[str, Any]]:
    return json.loads((service.directory / "items.json").read_text())["features"]


def ids(cube: xr.Dataset) -> list[str]:
    return cube.attrs["stac_item_ids"]


# ---- the cube and the composite


def test_nothing_is_computed_or_read_while_opening(service, no_compute):
    before = service.log.read_text() if service.log.exists() else ""
    with no_compute():
        for options in ({}, {"engine": "odc"}, {"reduce": "median"}):
            cube = open_stac(service.api, bands=BANDS, **options)
            assert all(dask.is_dask_collection(variable.data) for variable in cube.data_vars.values())
    assert (service.log.read_text() if service.log.exists() else "") == before


def test_the_dataset_says_what_it_is(service):
    cube = open_stac(f"{service.api}?token=secret", collections="sentinel-2-l2a", bands=BANDS)
    assert list(cube.data_vars) == BANDS
    assert cube.red.dims == ("time", "y", "x")
    assert {str(variable.dtype) for variable in cube.data_vars.values()} == {"float32"}
    assert cube.red.attrs["units"] == "1"
    assert cube.red.attrs["standard_name"] == "surface_bidirectional_reflectance"
    assert ids(cube) == ["a", "b", "c", "d"]
    assert cube.attrs["stac_collections"] == ["sentinel-2-l2a"]
    assert "secret" not in str(cube.attrs)
    assert "simulated" not in cube.attrs
    box = geobox_of(cube)
    assert box.crs.epsg == 32605
    assert box.affine == Affine(10, 0, ORIGIN[0], 0, -10, ORIGIN[1])
    assert box.shape.yx == (128 + 30, 160 + 40)
    times = pd.DatetimeIndex(cube.time.values)
    assert list(times) == list(pd.to_datetime(["2020-07-01T21:00:00", "2021-08-01T21:00:00", "2022-06-20T00:00:01"]))


@pytest.mark.parametrize("options", [{}, {"crs": "EPSG:3338", "resolution": 20}, {"mask": None}, {"groupby": None}], ids=str)
def test_engines_and_the_composite_agree_whatever_the_chunks(service, options):
    one = open_stac(service.api, bands=BANDS, chunks=64, **options).compute()
    other = open_stac(service.api, bands=BANDS, chunks={"y": 101, "x": -1}, engine="odc", **options).compute()
    composite = open_stac(service.api, bands=BANDS, chunks={"y": 77, "x": 50}, reduce="median", **options).compute()
    assert one.sizes == other.sizes
    assert np.isfinite(one.red).mean() > 0.3
    for band in BANDS:
        np.testing.assert_allclose(one[band], other[band], rtol=0, atol=1e-6)
        np.testing.assert_allclose(composite[band], reduce_time(one[band].values, "median"), rtol=0, atol=1e-6)
    seen = np.isfinite(one.to_array().values).any(axis=0).sum(axis=0)
    np.testing.assert_array_equal(composite.observations, seen)
    assert composite.observations.dtype == "uint16"


def test_a_pixel_that_is_always_clouded_is_nan(service):
    composite = open_stac(service.api, collections="sentinel-2-l2a", bands=BANDS, reduce="median", years=[2021, 2022]).compute()
    rows, columns = (slice(2 * part.start + 2, 2 * part.stop) for part in CLOUDED)
    clouded = composite.isel(y=rows, x=columns)
    assert np.isnan(clouded[BANDS].to_array()).all()
    assert (clouded.observations == 0).all()
    unmasked = open_stac(service.api, collections="sentinel-2-l2a", bands=BANDS, reduce="median", mask=None).compute()
    assert np.isfinite(unmasked[BANDS].isel(y=rows, x=columns).to_array()).all()


def test_a_solar_day_is_one_time_and_the_earlier_item_goes_first(service):
    days = open_stac(service.api, bands="red", mask=None, datetime="2020").red.compute()
    items = open_stac(service.api, bands="red", mask=None, datetime="2020", groupby=None).red.compute()
    assert (len(days), len(items)) == (1, 2)
    first, second = items.values
    assert (np.isfinite(first) & np.isfinite(second) & (first != second)).any()
    np.testing.assert_array_equal(days.values[0], np.where(np.isnan(first), second, first))


def test_solar_days_follow_the_sun_not_utc(tmp_path):
    """An hour to midnight UTC and an hour past it are one afternoon in Alaska."""
    times = ["2020-07-01T23:30:00Z", "2020-07-02T00:30:00Z", "2020-07-02T20:00:00Z"]
    items = [make_item(tmp_path, f"i{n}", time, seed=n) for n, time in enumerate(times)]
    cube = open_stac(write_collection(tmp_path / "items.json", items), bands="red")
    assert list(pd.DatetimeIndex(cube.time.values)) == list(pd.to_datetime(["2020-07-01T23:30", "2020-07-02T20:00"]))


def test_a_block_reads_only_the_items_that_meet_it(service):
    far = make_item(
        service.directory, "far", "2020-07-03T21:00:00Z", origin=(ORIGIN[0] + 3000, ORIGIN[1]), prefix=f"{service.files}/"
    )
    items = [*items_of(service)[:1], far]
    cube = given(items, bands=["red", "nir"], reduce="median", chunks=160)
    graph = dict(cube.__dask_graph__())
    blocks = [key for key in graph if key[0].startswith("composite-")]
    assert len(blocks) == math.prod(cube.red.data.numblocks)
    for key in blocks:
        assert len(pickle.dumps(graph[key])) < 5000
    before = len(service.log.read_text().splitlines())
    part = cube.isel(x=slice(0, 160)).compute()
    asked = service.log.read_text().splitlines()[before:]
    assert {line.split()[1].split("/")[1] for line in asked} == {"a"}
    assert np.isfinite(part.red).any()


def test_a_map_reads_each_block_of_a_composite_once_with_its_halo(service):
    """Chunks beside a block are not read for the sake of its halo, and the map is that of the composite in memory."""
    spec = tiny_spec()
    spec = replace(spec, modalities=spec.modalities[:1])
    image = given(items_of(service), bands=["red", "nir"], reduce="median", chunks=48)
    spec = replace(spec, pixel_size=10.0)
    model = make_model(spec)
    lazy = image.miso.add(slope=image.red * 0).miso.predict(model, device="cpu")
    graph = lazy.permafrost_probability.__dask_graph__()
    reads = [key for key in dict(graph) if key[0].startswith("composite-")]
    assert len(reads) == math.prod(image.red.data.numblocks)
    in_memory = image.compute().chunk({"y": 48, "x": 48}).miso.predict(model, device="cpu")
    np.testing.assert_array_equal(lazy.permafrost_probability, in_memory.permafrost_probability)


def test_a_changed_band_is_no_longer_the_composites(service):
    spec = tiny_spec()
    spec = replace(spec, modalities=spec.modalities[:1], pixel_size=10.0)
    image = given(items_of(service), bands=["red", "nir"], reduce="median", chunks=64)
    model = make_model(spec)
    for changed in (image.assign(red=(image.red * 2).assign_attrs(units="1")), image.isel(y=slice(10, 90)), image.chunk({"y": 40})):
        expected = changed.compute().chunk({"y": 64, "x": 64}).miso.predict(model, device="cpu").permafrost_probability
        np.testing.assert_allclose(changed.miso.predict(model, device="cpu").permafrost_probability, expected, atol=1e-5)


def test_a_large_block_is_reduced_strip_by_strip(service, monkeypatch):
    from misoxr.stac import composite

    whole = given(items_of(service), bands=["red", "nir"], reduce="median").compute()
    monkeypatch.setattr(composite, "AT_ONCE", 40_000)
    xr.testing.assert_identical(given(items_of(service), bands=["red", "nir"], reduce="median").compute(), whole)


def test_items_with_and_without_the_offset_give_the_same_reflectance(tmp_path):
    cases: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
        "before": ({"baseline": "03.00"}, {}, 0),
        "none": ({"baseline": None}, {}, 0),
        "after": ({"baseline": "04.00"}, {}, 1000),
        "taken-off": ({"baseline": "05.00", "properties": {"earthsearch:boa_offset_applied": True}}, {}, 0),
        "not-taken-off": ({"baseline": "05.00", "properties": {"earthsearch:boa_offset_applied": False}}, {}, 1000),
        "declared": ({"baseline": "03.00"}, {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}, 1000),
        "declared-zero": ({"baseline": "05.00"}, {"raster:bands": [{"scale": 0.0001, "offset": 0}]}, 0),
        "declared-and-taken-off": (
            {"baseline": "05.00", "properties": {"earthsearch:boa_offset_applied": True}},
            {"raster:bands": [{"nodata": 0, "scale": 0.0001, "offset": -0.1}]},
            0,
        ),
        "stac-1.1": (
            {"baseline": "05.00"},
            {"bands": [{"eo:common_name": "red", "raster:scale": 0.0001, "raster:offset": -0.1}]},
            1000,
        ),
        "only-nodata": ({"baseline": "05.00"}, {"raster:bands": [{"nodata": 0}]}, 1000),
    }
    items = []
    for day, (name, (fields, asset, raised)) in enumerate(cases.items()):
        item = make_item(tmp_path, name, f"2022-07-{day + 1:02d}T21:00:00Z", raise_counts=raised, seed=3, **fields)
        item["assets"]["red"].update(asset)
        items.append(item)
    cube = open_stac(write_collection(tmp_path / "items.json", items), bands="red").red.compute()
    assert len(cube) == len(cases)
    assert 0.15 < float(cube[0].mean()) < 0.35
    for name, values in zip(cases, cube.values, strict=True):
        np.testing.assert_allclose(values, cube.values[0], rtol=0, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("options", [{}, {"engine": "odc"}, {"reduce": "median"}], ids=str)
def test_two_readings_of_one_file_do_not_share_a_task(service, options):
    item = items_of(service)[0]
    shifted = copy.deepcopy(item)
    shifted["assets"]["red"]["raster:bands"] = [{"scale": 0.0001, "offset": 0.5}]
    one, other = dask.compute(*(given([each], bands="red", **options).red for each in (item, shifted)))
    assert np.isfinite(one).any()
    np.testing.assert_allclose(other, one + 0.5, rtol=0, atol=1e-6)


def test_bands_are_found_by_common_name_then_key_and_jpeg_last(tmp_path):
    item = make_item(tmp_path, "a")
    assets = item["assets"]
    good = assets["red"]
    assets["a-jp2"] = {**good, "href": "nowhere.jp2", "type": "image/jp2"}
    assets["aaa"] = {**good, "href": "nowhere.tif", "roles": ["overview"]}
    assets["visual"] = {
        "href": "nowhere.tif",
        "eo:bands": [{"common_name": "red"}, {"common_name": "green"}, {"common_name": "blue"}],
    }
    assets["B08"] = {key: value for key, value in assets.pop("nir").items() if key != "eo:bands"}
    assets["rededge1"] = {**good, "eo:bands": [{"common_name": "rededge"}]}
    assets["SCL"] = assets.pop("scl")
    path = write_collection(tmp_path / "items.json", [item])
    cube = open_stac(path, bands=["red", "nir", "rededge071"]).compute()
    assert np.isfinite(cube.red).any()
    np.testing.assert_array_equal(cube.rededge071, cube.red)
    with pytest.raises(
        BandError,
        match=r"has the band 'green'; the items have \['B08', 'SCL', 'a-jp2', 'nir', 'red', 'rededge071', 'rededge1', 'swir16', 'visual'\]",
    ):
        open_stac(path, bands="green")


def test_a_band_that_some_items_lack_is_nan_there_and_says_so(tmp_path):
    items = [make_item(tmp_path, name, f"2020-07-0{day}T21:00:00Z") for day, name in enumerate("ab", 1)]
    del items[1]["assets"]["nir"]
    path = write_collection(tmp_path / "items.json", items)
    for engine in ("stackstac", "odc"):
        with pytest.warns(MisoxrWarning, match="1 of 2 items lack the band 'nir', such as 'b'"):
            cube = open_stac(path, bands=["red", "nir"], engine=engine).compute()
        assert np.isfinite(cube.red).any(["y", "x"]).all()
        assert list(np.isfinite(cube.nir).any(["y", "x"]).values) == [True, False]


def test_simulated_items_are_named_so(tmp_path):
    item = make_item(tmp_path, "a", properties={"misoxr:simulated": True, "misoxr:simulator_version": "1"})
    attrs = open_stac(write_collection(tmp_path / "items.json", [item]), bands="red").attrs
    assert (attrs["simulated"], attrs["simulator_version"]) == (1, "1")


# ---- the grid


def test_grids(service):
    options = {"bands": "red", "collections": "sentinel-2-l2a"}
    given = GeoBox((40, 50), Affine(20, 0, ORIGIN[0] + 300, 0, -20, ORIGIN[1] - 100), "EPSG:32605")
    by_box = open_stac(service.api, geobox=given, **options)
    assert geobox_of(by_box) == given
    assert geobox_of(open_stac(service.api, like=by_box, **options)) == given
    named = by_box.rename(y="lat", x="lon")
    assert geobox_of(open_stac(service.api, like=named, **options)) == given
    albers = geobox_of(open_stac(service.api, crs="EPSG:3338", resolution=25, **options))
    assert albers.crs.epsg == 3338
    assert albers.affine.a == -albers.affine.e == 25
    assert albers.affine.c % 25 == albers.affine.f % 25 == 0
    own = open_stac(service.api, bands="swir16", collections="sentinel-2-l2a")
    assert geobox_of(own).affine == Affine(20, 0, ORIGIN[0] + 5, 0, -20, ORIGIN[1] - 5)


def test_an_area_is_searched_and_is_the_extent(service):
    to_degrees = pyproj.Transformer.from_crs("EPSG:32605", "EPSG:4326", always_xy=True)
    west, north = ORIGIN
    corner = shapely.box(west + 103, north - 407, west + 297, north - 111)
    area = shapely.transform(corner, lambda xy: np.column_stack(to_degrees.transform(xy[:, 0], xy[:, 1])))
    expected = Affine(10, 0, west + 100, 0, -10, north - 110)
    forms = [
        {"intersects": area},
        {"intersects": shapely.geometry.mapping(area)},
        {"intersects": {"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(area)}},
        {"intersects": geopandas.GeoSeries([corner], crs="EPSG:32605")},
        {"intersects": geopandas.GeoDataFrame(geometry=[area])},
    ]
    for source in (service.api, items_of(service)):
        for form in forms:
            box = geobox_of(open_stac(source, bands="red", collections="sentinel-2-l2a", **form))
            assert box.affine == expected
            assert box.shape.yx == (30, 20)
            assert ids(open_stac(source, bands="red", **form)) == ["a", "c", "d", "e"]
    by_box = open_stac(service.api, bands="red", bbox=area.bounds)
    assert ids(by_box) == ["a", "c", "d", "e"]
    assert geobox_of(by_box).affine.c <= expected.c


def test_a_grid_across_the_antimeridian_is_searched_there(tmp_path):
    origin, crs = (-2_200_000.0, 500_000.0), "EPSG:3338"
    item = make_item(tmp_path, "a", origin=origin, crs=crs)
    path = write_collection(tmp_path / "items.json", [item])
    box = GeoBox((128, 160), Affine(10, 0, origin[0], 0, -10, origin[1]), crs)
    assert item["bbox"][0] > 160
    assert np.isfinite(open_stac(path, bands="red", geobox=box).red.compute()).any()
    across = GeoBox((500, 1000), Affine(1000, 0, -2_400_000.0, 0, -1000, 700_000.0), crs)
    west, _, east, _ = area_on(across).bounds
    assert 160 < west < 180
    assert 180 < east < 200
    cube = open_stac(path, bands="red", geobox=across, reduce="median").red.compute()
    assert np.isfinite(cube).any()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"crs": "EPSG:3338"}, GridError, "needs a resolution"),
        ({"resolution": -5}, GridError, "not a positive number"),
        ({"crs": "EPSG:4326", "resolution": 1e-12}, GridError, "is the resolution"),
        (
            {"crs": "EPSG:4326", "resolution": 20},
            GridError,
            "20 degrees, and the area is .* less than a pixel. Give a projected crs",
        ),
        ({"crs": "EPSG:999999", "resolution": 5}, GridError, "cannot be read"),
        ({"geobox": "EPSG:3338"}, GridError, "is a str"),
        (
            {"geobox": GeoBox((2, 2), Affine(1, 0, 0, 0, 1, 0), "EPSG:3338")},
            GridError,
            r"not north-up: its transform is \(1.0, .*sortby.*flipy",
        ),
        ({"geobox": GeoBox((2, 2), Affine(1, 0, 0, 0, -1, 0), None)}, GridError, "has no CRS"),
        ({"geobox": GeoBox((2, 2), Affine(1, 0, 0, 0, -1, 0), "EPSG:3338"), "crs": 3338}, GridError, "given twice"),
        ({"geobox": GeoBox((2, 2), Affine(1, 0, 9e6, 0, -1, 0), "EPSG:32605")}, CatalogError, "No item matches|meets the grid"),
        ({"bbox": (0, 0, 1, 1), "intersects": shapely.box(0, 0, 1, 1)}, CatalogError, "Both bbox and intersects"),
        ({"bbox": (5, 10, 6, 9)}, CatalogError, r"is not \(west, south, east, north\)"),
        ({"intersects": 5}, CatalogError, "give a GeoDataFrame"),
        (
            {"bands": "ultraviolet"},
            BandError,
            r"No item has the band 'ultraviolet'; the items have \['nir', 'red', 'scl', 'swir16'\]",
        ),
        ({"bands": []}, BandError, "is empty"),
        ({"chunks": {"time": 1}}, CatalogError, "give pixels along 'y' and 'x'"),
        ({"reduce": "mode"}, CatalogError, "reduce='mode' is unknown"),
        ({"engine": "gdal"}, CatalogError, "engine='gdal' is unknown"),
        ({"engine": "stackstak"}, CatalogError, r"engine='stackstak' is unknown; .* Did you mean .stackstac.\?"),
        ({"mask": "slc"}, CatalogError, r"Did you mean .scl.\?"),
        ({"groupby": "solarday"}, CatalogError, r"Did you mean .solar_day.\?"),
        ({"bands": "rad"}, BandError, r"Did you mean .red.\?"),
        ({"chunks": {"Y": 512}}, CatalogError, r"Did you mean .y.\?"),
        ({"resolution": (10, 20)}, GridError, "not square"),
        ({"years": 20}, CatalogError, "20 is not a year"),
        ({"season": ("06-20", "02-30")}, SpecError, "02-30"),
        ({"datetime": "last summer"}, CatalogError, "is not a date"),
        ({"collections": "landsat"}, CatalogError, "No item matches: collections=.*landsat"),
        ({"datetime": "1999"}, CatalogError, "No item matches: datetime='1999-01-01"),
    ],
    ids=str,
)
def test_calls_that_make_no_sense(service, options, error, message):
    with pytest.raises(error, match=message):
        open_stac(service.api, **{"bands": "red", **options})


# ---- finding items


def test_the_same_filters_hold_everywhere(service):
    sources = [service.api, str(service.directory / "items.json"), f"{service.files}/items.json"]
    sources += [items_of(service), pystac.ItemCollection.from_file(service.directory / "items.json")]
    cases = [
        ({}, "abcde"),
        ({"collections": "winter"}, "e"),
        ({"collections": ["winter", "sentinel-2-l2a"]}, "abcde"),
        ({"datetime": "2020-07/2021"}, "abc"),
        ({"datetime": (None, "2021-08-01")}, "abc"),
        ({"datetime": "2021-08-01T21:00:00Z"}, "c"),
        ({"years": 2022}, "de"),
        ({"years": [2020, 2022], "season": ("06-20", "08-20")}, "abd"),
        ({"season": ("07-01", "07-31")}, "ab"),
        ({"years": [2022], "season": ("12-01", "02-15")}, "e"),
        ({"years": [2021], "season": ("02-29", "08-20")}, "c"),
        ({"years": range(2020, 2023), "season": ("06-20", "08-20"), "datetime": "2021/.."}, "cd"),
    ]
    for source in sources:
        for options, expected in cases:
            assert "".join(ids(open_stac(source, bands="red", **options))) == expected, (source, options)


def test_objects_of_pystac_are_catalogues_too(service, tmp_path):
    items = [pystac.Item.from_dict(item) for item in items_of(service)]
    whole = pystac.Catalog("top", "")
    nested = pystac.Catalog("nested", "")
    nested.add_items(item.clone() for item in items[:3])
    whole.add_child(nested)
    whole.add_items(item.clone() for item in items[3:])
    for source in (whole, pystac.ItemCollection(items), tuple(items)):
        assert "".join(ids(open_stac(source, bands="red"))) == "abcde"
        assert "".join(ids(open_stac(source, bands="red", collections="winter"))) == "e"
    assert ids(open_stac(items[0], bands="red")) == ["a"]
    assert np.isfinite(given(items[0], bands="red").red.compute()).any()
    for source in (items[0], nested, whole):
        with pytest.raises(CatalogError, match="cannot be queried"):
            open_stac(source, bands="red", query={"eo:cloud_cover": {"lt": 20}})


def test_clients_are_searched_and_searches_carried_out(service, monkeypatch):
    client = pystac_client.Client.open(service.api)
    asked = []
    search = pystac_client.Client.search
    monkeypatch.setattr(pystac_client.Client, "search", lambda self, **kwargs: asked.append(kwargs) or search(self, **kwargs))
    options = {"bands": "red", "years": [2020, 2022], "season": ("06-20", "08-20")}
    assert "".join(ids(open_stac(client, **options))) == "abd"
    assert len(asked) == 2  # the search is the API's, not ours of all that it has
    winter = client.get_collection("winter")
    assert ids(open_stac(winter, bands="red")) == ["e"]
    assert asked[-1]["collections"] == ["winter"]
    for found in (client.search(collections=["sentinel-2-l2a"]), client.search(max_items=4, sortby="datetime")):
        assert set(ids(open_stac(found, bands="red", datetime="2020"))) <= set("ab")
    found = client.search(collections=["sentinel-2-l2a"], datetime="2020")
    assert ids(open_stac(found, bands="red")) == ids(open_stac(found.item_collection(), bands="red")) == ["a", "b"]
    with pytest.raises(CatalogError, match="A search cannot be queried"):
        open_stac(found, bands="red", query={"eo:cloud_cover": {"lt": 20}})
    with pytest.raises(CatalogError, match=r"127.0.0.1:9/search did not answer the search"):
        open_stac(pystac_client.ItemSearch("http://127.0.0.1:9/search"), bands="red")


def test_a_client_of_a_static_catalogue_is_walked(tmp_path, service, recwarn):
    item = items_of(service)[0]
    item["links"] = []
    (tmp_path / "a.json").write_text(json.dumps(item))
    top = {
        "type": "Catalog",
        "id": "top",
        "stac_version": "1.0.0",
        "description": "",
        "links": [{"rel": "item", "href": "./a.json"}],
    }
    (tmp_path / "catalog.json").write_text(json.dumps(top))
    for source in (pystac_client.Client.open(str(tmp_path / "catalog.json")), pystac.Catalog.from_file(tmp_path / "catalog.json")):
        recwarn.clear()
        assert ids(open_stac(source, bands="red")) == ["a"]
        assert not [one for one in recwarn if "Falling back" in str(one.message)]
    empty = pystac_client.Client("id", "d", href="http://127.0.0.1:9/")
    with pytest.raises(CatalogError, match="No item matches"):
        open_stac(empty, bands="red")
    broken = pystac.Catalog.from_dict({**top, "links": [{"rel": "item", "href": "http://127.0.0.1:9/a.json"}]})
    with pytest.raises(CatalogError, match="The catalogue 'top' has links that cannot be followed"):
        open_stac(broken, bands="red")


@pytest.mark.parametrize("source", [5, None, b"a.json", ["a.json"], {"type": "Catalog", "id": "x"}, {"a": 1}, len], ids=repr)
def test_what_is_no_catalogue(source):
    with pytest.raises(CatalogError, match=r"The catalogue is a|The catalogue holds a|An item has the id None"):
        open_stac(source, bands="red")


def test_a_misspelt_collection_is_named(service):
    with pytest.raises(CatalogError, match=r"There are items of \['sentinel-2-l2a', 'winter'\]. Did you mean .sentinel-2-l2a.\?"):
        open_stac(items_of(service), bands="red", collections="sentinel2-l2a")


def test_arguments_in_other_forms(service):
    items = items_of(service)
    expected = open_stac(items, bands="red", years=2020, crs="EPSG:32605", resolution=20, chunks=64)
    forms = {
        "years": np.int64(2020),
        "resolution": (20, 20),
        "chunks": (np.int64(64), 64),
        "crs": np.int64(32605),
        "bands": np.array(["red"]),
    }
    for form in ({}, *({name: value} for name, value in forms.items()), {"years": None, "datetime": np.datetime64("2020")}):
        asked = {"bands": "red", "years": 2020, "crs": "EPSG:32605", "resolution": 20, "chunks": 64, **form}
        cube = open_stac(items, **asked)
        assert geobox_of(cube) == geobox_of(expected)
        assert cube.red.chunks == expected.red.chunks
        assert ids(cube) == ids(expected)
    assert open_stac(items, bands="red", chunks="auto").red.chunks == open_stac(items, bands="red").red.chunks
    with pytest.raises(CatalogError, match=r"modifier='sign' is a str; give a function"):
        open_stac(items, bands="red", modifier="sign")


def test_pages_are_followed_and_items_come_once(service, monkeypatch):
    monkeypatch.setattr(search, "PAGE", 2)
    assert ids(open_stac(service.api, bands="red")) == list("abcde")
    twice = [*items_of(service), *items_of(service)]
    assert ids(open_stac(twice, bands="red")) == list("abcde")


def test_one_interval_is_asked_per_year(service, monkeypatch):
    import pystac_client

    asked = []
    search = pystac_client.Client.search
    monkeypatch.setattr(
        pystac_client.Client, "search", lambda self, **kwargs: asked.append(kwargs["datetime"]) or search(self, **kwargs)
    )
    open_stac(service.api, bands="red", years=[2020, 2022], season=("11-15", "02-29"))
    assert asked == ["2020-11-15T00:00:00.000Z/2021-03-01T23:59:59.999Z", "2022-11-15T00:00:00.000Z/2023-03-01T23:59:59.999Z"]


def test_an_api_that_cannot_query_is_not_asked(service):
    sources = {service.api: "does not conform to the query extension", str(service.directory / "items.json"): "cannot be queried"}
    for source, message in [*sources.items(), (items_of(service), "cannot be queried")]:
        with pytest.raises(CatalogError, match=message):
            open_stac(source, bands="red", query={"eo:cloud_cover": {"lt": 20}})


def test_static_catalogues_are_walked_below_their_root(tmp_path, service):
    root = tmp_path / "catalogue"
    (root / "july").mkdir(parents=True)
    item = make_item(root / "july", "a")
    (root / "july" / "a.json").write_text(json.dumps(item))
    link = {"stac_version": "1.0.0", "description": ""}
    july = {
        "type": "Collection",
        "id": "july",
        "links": [{"rel": "item", "href": "./a.json"}, {"rel": "parent", "href": "../catalog.json"}],
    }
    (root / "july" / "collection.json").write_text(json.dumps({**link, **july}))
    top = {
        "type": "Catalog",
        "id": "top",
        "links": [{"rel": "child", "href": "july/collection.json"}, {"rel": "self", "href": "./catalog.json"}],
    }
    path = root / "catalog.json"
    path.write_text(json.dumps({**link, **top}))
    expected = open_stac(root / "july" / "a.json", bands="red").red.compute()
    assert np.isfinite(expected).any()
    with range_server(root) as address:
        for source in (path, str(path), f"file://{path}", f"{address}/catalog.json"):
            cube = open_stac(source, bands="red")
            assert ids(cube) == ["a"]
            np.testing.assert_array_equal(cube.red.compute(), expected)
        (tmp_path / "elsewhere.json").write_text(json.dumps(item))
        for href, message in [
            ("../elsewhere.json", "leads out of the catalogue"),
            (f"{address}/july/a.json", "outside of the catalogue"),
            ("ftp://example.org/a.json", "is refused"),
        ]:
            top["links"] = [{"rel": "item", "href": href}]
            path.write_text(json.dumps({**link, **top}))
            with pytest.raises(CatalogError, match=message):
                open_stac(path, bands="red")
        top["links"] = [{"rel": "item", "href": f"{service.files}/items.json"}]
        path.write_text(json.dumps({**link, **top}))
        with pytest.raises(CatalogError, match="outside of the catalogue"):
            open_stac(f"{address}/catalog.json", bands="red")
        top["links"] = [{"rel": "item", "href": "%2e%2e/elsewhere.json"}]
        path.write_text(json.dumps({**link, **top}))
        with pytest.raises(CatalogError, match="outside of the catalogue"):
            open_stac(f"{address}/catalog.json", bands="red")
    redirects = {"/catalog.json": "ftp://127.0.0.1/catalog.json"}
    with range_server(root, redirects=redirects) as address, pytest.raises(CatalogError, match="redirects to another scheme"):
        open_stac(f"{address}/catalog.json", bands="red")


def test_modifier_and_patch_url_sign(service):
    items = copy.deepcopy(items_of(service)[:1])
    for asset in items[0]["assets"].values():
        asset["href"] = asset["href"].replace("/a/", "/unsigned/")

    def in_place(item: pystac.Item) -> None:
        for asset in item.assets.values():
            asset.href = asset.href.replace("/unsigned/", "/a/")

    def returned(item: pystac.Item) -> pystac.Item:
        changed = item.clone()
        in_place(changed)
        return changed

    expected = given(items_of(service)[:1], bands="red").red.compute()
    for modifier in (in_place, returned):
        np.testing.assert_array_equal(given(items, bands="red", modifier=modifier).red.compute(), expected)
    calls = []

    def patch(href: str) -> str:
        calls.append(href)
        return href.replace("/unsigned/", "/a/")

    for options in ({}, {"engine": "odc"}, {"reduce": "median"}):
        calls.clear()
        cube = given(items, bands="red", patch_url=patch, **options).red
        assert not calls
        np.testing.assert_array_equal(cube.compute().squeeze(), expected.squeeze())
        assert calls
    with pytest.raises(CatalogError, match="has to return the item"):
        given(items, bands="red", modifier=lambda item: "signed")


@pytest.mark.parametrize("options", [{}, {"engine": "odc"}, {"reduce": "median"}], ids=str)
def test_an_asset_that_cannot_be_read_is_named(service, options):
    items = copy.deepcopy(items_of(service)[:1])
    items[0]["assets"]["red"]["href"] += ".gone?sig=secret"
    with pytest.raises(AssetError, match="Item 'a', band 'red'.*answers 404") as error:
        given(items, bands="red", **options).compute()
    assert "secret" not in str(error.value)


# ---- catalogues and items that are refused


def test_a_catalogue_that_cannot_be_reached(tmp_path):
    for source in ("http://127.0.0.1:9/stac", tmp_path / "absent.json"):
        with pytest.raises(CatalogError, match="cannot be reached or read"):
            open_stac(source, bands="red")
    (tmp_path / "text.json").write_text("no JSON")
    with pytest.raises(CatalogError, match="cannot be reached or read"):
        open_stac(tmp_path / "text.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(CatalogError, match="holds a JSON list"):
        open_stac(tmp_path / "list.json")
    (tmp_path / "other.json").write_text('{"type": "Topology"}')
    with pytest.raises(CatalogError, match="has the type 'Topology'"):
        open_stac(tmp_path / "other.json")
    with pytest.raises(CatalogError, match="holds a int"):
        open_stac([5])


def alter(item: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a copy with properties, or with "band.field" of an asset, changed; None takes away."""
    item = copy.deepcopy(item)
    for name, value in changes.items():
        band, _, key = name.rpartition("__")
        fields = item["assets"][band] if band else item["properties"]
        key = key.replace("proj_", "proj:").replace("raster_", "raster:")
        if value is None:
            del fields[key]
        else:
            fields[key] = value
    return item


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"red__href": "/etc/passwd"}, AssetError, "Item 'a', band 'red': .*is refused"),
        ({"red__href": "ftp://example.org/a.tif"}, AssetError, "Item 'a', band 'red': .*'ftp' is none of the schemes"),
        ({"red__href": "/vsicurl/http://example.org/a.tif"}, AssetError, "GDAL virtual"),
        ({"datetime": None}, CatalogError, "Item 'a' has the datetime None"),
        ({"datetime": "soon"}, CatalogError, "Item 'a' has the datetime 'soon'"),
        ({"proj_epsg": None}, CatalogError, "Item 'a' lacks projection metadata"),
        ({"red__proj_shape": None}, CatalogError, "Item 'a' lacks projection metadata"),
        ({"proj_epsg": 999999}, CatalogError, "Item 'a' declares a CRS"),
        ({"red__proj_shape": [-5, 5]}, CatalogError, "Item 'a' declares proj:transform"),
        ({"red__proj_shape": [10**12, 5]}, CatalogError, "Item 'a' declares proj:transform"),
        ({"red__proj_transform": [10, 0, float("nan"), 0, -10, 0]}, CatalogError, "Item 'a' declares proj:transform"),
        ({"red__proj_transform": [0, 0, 0, 0, 0, 0]}, CatalogError, "Item 'a' declares proj:transform"),
        ({"red__raster_bands": [{"scale": 0}]}, CatalogError, "Item 'a' declares the scale 0"),
        ({"red__raster_bands": [{"offset": "much"}]}, CatalogError, "Item 'a' declares the offset 'much'"),
        ({"s2:processing_baseline": "new"}, CatalogError, "Item 'a' declares the s2:processing_baseline 'ew'|'new'"),
    ],
    ids=str,
)
def test_items_that_are_refused_by_name(service, changes, error, message):
    item = alter(items_of(service)[0], **changes)
    with pytest.raises(error, match=message):
        open_stac([item], bands="red")


def test_items_in_several_crs_need_a_target(service, tmp_path):
    crs, origin = "EPSG:32606", (215_000.0, 7_215_000.0)
    other = make_item(service.directory, "utm6", "2020-07-05T21:00:00Z", origin=origin, crs=crs, prefix=f"{service.files}/")
    items = [items_of(service)[0], other]
    with pytest.raises(CatalogError, match=r"several CRS, \['EPSG:32605', 'EPSG:32606'\]"):
        given(items, bands="red")
    cube = given(items, bands="red", crs="EPSG:3338", resolution=20).red.compute()
    assert np.isfinite(cube).any(["y", "x"]).all()


def test_missing_projection_metadata_matter_only_where_the_grid_follows_from_them(service):
    item = alter(items_of(service)[0], proj_epsg=None)
    expected = given(items_of(service)[:1], bands="red")
    for engine in ("stackstac", "odc"):
        cube = given([item], bands="red", geobox=geobox_of(expected), engine=engine)
        np.testing.assert_array_equal(cube.red.compute(), expected.red.compute())


def test_a_missing_classification_is_an_error(service):
    item = copy.deepcopy(items_of(service)[0])
    del item["assets"]["scl"]
    with pytest.raises(CatalogError, match="Item 'a' of 'sentinel-2-l2a' has no quality band 'scl' for mask='auto'; .* mask=None"):
        given([item], bands="red")
    assert np.isfinite(given([item], bands="red", mask=None).red.compute()).any()


def test_items_in_hand_read_local_files_only_beside_themselves(tmp_path):
    item = make_item(tmp_path, "a")
    (tmp_path / "a.json").write_text(json.dumps(item))
    assert np.isfinite(open_stac([pystac.Item.from_file(tmp_path / "a.json")], bands="red").red.compute()).any()
    with pytest.raises(AssetError, match="catalogue is not a local one"):
        open_stac([item], bands="red")
    item["assets"]["red"]["href"] = "../outside.tif"
    (tmp_path / "a.json").write_text(json.dumps(item))
    with pytest.raises(AssetError, match="leads out of"):
        open_stac([pystac.Item.from_file(tmp_path / "a.json")], bands="red")


def test_items_that_went_through_pandas_are_items(service):
    """A column of codes is one of floats where an item lacks it, and what is missing is NaN; lists are arrays, and times no text."""
    items, expected = items_of(service), given(items_of(service), bands=["red", "nir"], reduce="median")
    for item in items:
        item["properties"] |= {"eo:cloud_cover": float("nan"), "proj:shape": np.nan, "end_datetime": pd.NaT, "proj:epsg": 32605.0}
        item["properties"].pop("proj:code", None)
        item["properties"]["datetime"] = pd.Timestamp(item["properties"]["datetime"])
        item["bbox"] = np.array(item["bbox"])
        for asset in item["assets"].values():
            asset |= {key: np.array(asset[key]) for key in ("proj:transform", "proj:shape") if key in asset}
            asset["proj:epsg"] = float("nan")
    xr.testing.assert_equal(given(items, bands=["red", "nir"], reduce="median").compute(), expected.compute())


def test_a_grid_without_code_needs_the_other_engine(service):
    crs = pyproj.CRS("EPSG:3338").to_dict() | {"lat_0": 51}
    box = GeoBox((50, 50), Affine(100, 0, 0, 0, -100, 0), pyproj.CRS(crs).to_wkt())
    x, y = pyproj.Transformer.from_crs("EPSG:32605", pyproj.CRS(crs), always_xy=True).transform(*ORIGIN)
    box = GeoBox((50, 50), Affine(100, 0, round(x), 0, -100, round(y)), pyproj.CRS(crs).to_wkt())
    with pytest.raises(GridError, match="engine='odc'"):
        open_stac(service.api, bands="red", geobox=box)
    cube = open_stac(service.api, bands="red", geobox=box, engine="odc").red.compute()
    composite = open_stac(service.api, bands="red", geobox=box, reduce="median").red.compute()
    np.testing.assert_allclose(reduce_time(cube.values, "median"), composite, atol=1e-6)
    assert np.isfinite(composite).any()


@pytest.mark.parametrize(("down", "right"), [(-1, 1), (1, -1), (-1, -1)])
def test_rasters_with_south_above_or_east_on_the_left_are_where_they_are(tmp_path, down, right):
    """As the projection extension tells them, too."""
    item = make_item(tmp_path, "a")
    plain = open_stac(
        write_collection(tmp_path / "plain.json", [item]), bands="red", mask=None, crs="EPSG:32605", resolution=10
    ).compute()
    asset, path = item["assets"]["red"], tmp_path / "a" / "red.tif"
    with rasterio.open(path) as file:
        values, profile, bounds = file.read(1)[::down, ::right], file.profile, file.bounds
    transform = Affine(
        10 * right, 0, bounds.left if right > 0 else bounds.right, 0, -10 * down, bounds.top if down > 0 else bounds.bottom
    )
    with rasterio.open(path, "w", **(profile | {"driver": "GTiff", "transform": transform})) as file:
        file.write(values, 1)
    asset["proj:transform"] = list(transform)[:6]
    turned = open_stac(
        write_collection(tmp_path / "turned.json", [item]), bands="red", mask=None, crs="EPSG:32605", resolution=10
    ).compute()
    xr.testing.assert_allclose(turned, plain)
