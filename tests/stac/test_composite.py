"""Composites of a catalogue's items: every reduction against NumPy on the time cube, and composites by year."""

import asyncio
import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rustac
import xarray as xr

from misoxr.cube.reductions import reduce_time
from misoxr.cube.season import season_years
from misoxr.errors import BandError, CatalogError, MisoxrWarning
from misoxr.grid.sources import source_of
from misoxr.stac import composite as module
from misoxr.stac import open_stac
from tests.conftest import make_model, tiny_spec
from tests.sensor_items import radar, write_table
from tests.stac_scenes import SIZE, make_item, plain_item, write_collection

BANDS = ["red", "nir", "swir16"]
GRID = {"bands": BANDS, "crs": "EPSG:32605", "resolution": 10}
TIMES = {
    "a": "2019-12-20T21:00:00Z",
    "b": "2020-01-05T21:00:00Z",
    "c": "2020-07-01T21:00:00Z",
    "d": "2020-07-10T21:00:00Z",
    "e": "2020-12-31T23:30:00Z",  # in Alaska, this and the next are one day
    "f": "2021-01-01T00:30:00Z",
    "g": "2021-07-05T21:00:00Z",
}
WINTER, SUMMER = ("12-01", "02-28"), ("06-20", "08-20")


@pytest.fixture(scope="module")
def catalogs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same items as JSON and as a table, each with clouds of its own, and one that lacks a band."""
    directory = tmp_path_factory.mktemp("items")
    items = []
    for seed, (name, time) in enumerate(TIMES.items()):
        scl = np.full((SIZE[0] // 2, SIZE[1] // 2), 4, dtype="uint8")
        top, left = np.random.default_rng(seed).integers(0, 40, 2)
        scl[top : top + 15, left : left + 25] = 9
        items.append(make_item(directory, name, time, seed=seed, scl=scl))
    del items[3]["assets"]["swir16"]

    async def write() -> None:
        await rustac.write(str(directory / "items.parquet"), items)

    asyncio.run(write())
    return {"json": write_collection(directory / "items.json", items), "table": directory / "items.parquet"}


pytestmark = pytest.mark.filterwarnings("ignore:1 of .* items lack the band:misoxr.errors.MisoxrWarning")


@pytest.fixture(scope="module")
def times(catalogs) -> np.ndarray:
    """The time cube, (time, band, y, x)."""
    with pytest.warns(MisoxrWarning, match="lack the band"):
        return open_stac(catalogs["json"], **GRID).to_array().values.swapaxes(0, 1)


@pytest.mark.filterwarnings("ignore:All-NaN|Mean of empty:RuntimeWarning")
@pytest.mark.parametrize("method", ["median", "mean", "count", "p10", "p99"])
def test_a_reduction_is_numpys_on_the_time_cube(catalogs, times, method):
    numpys = {
        "median": lambda: np.nanmedian(times.astype("float64"), axis=0),
        "mean": lambda: np.nanmean(times.astype("float64"), axis=0),
        "count": lambda: (~np.isnan(times)).sum(axis=0),
    }
    expected = numpys.get(method, lambda: np.nanpercentile(times.astype("float64"), float(method[1:]), axis=0))()
    found = open_stac(catalogs["json"], reduce=method, chunks={"y": 90, "x": 160}, **GRID).compute()
    np.testing.assert_allclose(found[BANDS].to_array(), expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found.observations, np.isfinite(times).any(axis=1).sum(axis=0))
    assert {str(found[band].dtype) for band in BANDS} == {"uint16" if method == "count" else "float32"}


def test_a_geometric_median_is_that_of_the_time_cube(catalogs, times, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", 200_000)  # a block in several strips
    found = open_stac(catalogs["json"], reduce="geomedian", chunks=100, **GRID).compute()
    np.testing.assert_allclose(found[BANDS].to_array(), reduce_time(times, "geomedian"), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found.observations, np.isfinite(times).any(axis=1).sum(axis=0))
    whole = ~np.isnan(times).any(axis=1)
    assert (np.isnan(found.red) == ~whole.any(axis=0)).all()
    one = np.argwhere(whole.sum(axis=0) == 1)[0]
    at = whole[:, one[0], one[1]].argmax()
    np.testing.assert_array_equal(found[BANDS].to_array()[:, one[0], one[1]], times[at, :, one[0], one[1]])


def test_counts_say_that_they_are_counts(catalogs):
    counts = open_stac(catalogs["json"], reduce="count", **GRID)
    assert counts.red.attrs["standard_name"] == "number_of_observations"
    assert counts.red.attrs["units"] == "1"
    spec = tiny_spec()
    spec = replace(spec, modalities=spec.modalities[:1], pixel_size=10.0)
    with pytest.raises(BandError, match="'red' holds numbers of observations and no values"):
        counts.miso.predict(make_model(spec), device="cpu")


@pytest.mark.parametrize("catalogue", ["json", "table"])
def test_zero_power_in_decibels_is_no_observation(tmp_path, catalogue):
    """Files of -inf, -12 and -10 dB: two observations, whichever way they are reduced."""
    items = [
        radar(tmp_path, f"S{day}", "ascending", value, f"2022-07-0{day}T17:00:00Z", unit="dB")
        for day, value in enumerate((-np.inf, -12, -10), 1)
    ]
    path = write_collection(tmp_path / "items.json", items)
    if catalogue == "table":
        path = tmp_path / "items.parquet"
        write_table(path, items)
    grid = {"bands": ["vv", "vh"], "crs": "EPSG:32605", "resolution": 30}
    cube = open_stac(path, **grid)
    assert np.isfinite(cube.vv[1:, 5, 5]).all()
    assert np.isnan(cube.vv[0]).all()
    for method, expected in {"mean": -11, "median": -11, "p1": -11.98, "count": 2, "geomedian": None}.items():
        for found in (open_stac(path, reduce=method, **grid), cube.miso.composite(method=method)):
            assert found.observations[5, 5] == 2
            value = float(found.vv[5, 5])
            assert np.isfinite(value) if expected is None else value == pytest.approx(expected, abs=1e-5)


# ---- by year


@pytest.mark.parametrize("source", ["json", "table"])
@pytest.mark.parametrize(
    ("season", "years", "days"),
    [
        (None, None, ["2019-01-01", "2020-01-01", "2021-01-01"]),
        (WINTER, None, ["2019-12-01", "2020-12-01"]),
        (SUMMER, [2020, 2021], ["2020-06-20", "2021-06-20"]),
    ],
)
@pytest.mark.parametrize("method", ["median", "geomedian"])
def test_by_year_is_a_call_for_each_year(catalogs, no_compute, source, season, years, days, method):
    asked = GRID | {"reduce": method, "season": season, "chunks": 160}
    with no_compute():
        yearly = open_stac(catalogs[source], by="year", years=years, **asked)
    assert list(yearly.time.values) == list(pd.DatetimeIndex(days).as_unit("ns"))
    assert yearly.time.dtype == "datetime64[ns]"
    assert yearly.red.dims == ("time", "y", "x")
    assert yearly.red.chunks[0] == (1,) * len(days)
    computed = yearly.compute()
    for at, day in enumerate(days):
        alone = {key: value for key, value in asked.items() if key not in ("crs", "resolution")}
        one = open_stac(catalogs[source], years=int(day[:4]), like=yearly, **alone).compute()
        for name in (*BANDS, "observations"):
            np.testing.assert_array_equal(computed[name][at], one[name])
            assert computed[name].dtype == one[name].dtype
            assert computed[name].attrs == one[name].attrs
    assert (computed.observations.max(("y", "x")) > 0).all()


def test_a_task_for_each_block_and_year(catalogs):
    yearly = open_stac(catalogs["json"], reduce="median", by="year", chunks=64, **GRID)
    reads = [key for key in dict(yearly.__dask_graph__()) if key[0].startswith("composite-")]
    assert len(reads) == 3 * math.ceil(SIZE[0] / 64) * math.ceil(SIZE[1] / 64) == math.prod(yearly.red.data.numblocks)
    one = dict(yearly.isel(time=1).red.data.__dask_graph__().cull(yearly.isel(time=1).red.__dask_keys__()))
    assert len([key for key in one if key[0].startswith("composite-")]) == len(reads) / 3


def test_the_seasons_of_yearly_composites_are_found_again(catalogs):
    yearly = open_stac(catalogs["json"], reduce="median", by="year", season=WINTER, **GRID).compute()
    assert yearly.time.attrs["season"] == " to ".join(WINTER)
    again = yearly.miso.composite(season=WINTER, years=2020)
    for name in BANDS:
        np.testing.assert_array_equal(again[name], yearly[name][1])
    np.testing.assert_array_equal(
        again.observations, yearly.observations[1].where(yearly[BANDS].isel(time=1).to_array().notnull().any("variable"), 0)
    )


@pytest.mark.parametrize("source", ["json", "table"])
@pytest.mark.parametrize(
    "asked",
    [
        {"season": SUMMER, "years": range(2018, 2023)},
        {"season": WINTER, "years": [2018, 2019, 2020]},
        {"groupby": None},  # a solar day over new year is one time of a cube
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["p90", "geomedian"])
def test_by_year_is_that_of_the_time_cube(catalogs, source, asked, method):
    chosen = {name: asked[name] for name in ("season", "years") if name in asked}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", MisoxrWarning)
        yearly = open_stac(catalogs[source], reduce=method, by="year", **asked, **GRID)
    cube = open_stac(catalogs["json"], like=yearly, bands=BANDS, **asked)
    with warnings.catch_warnings(record=True) as again:
        warnings.simplefilter("always", MisoxrWarning)
        composed = cube.miso.composite(method=method, by="year", **chosen)
    lines = [[line for one in some for line in str(one.message).split("\n")] for some in (told, again)]
    notes = [[line for line in some if "lack the band" not in line] for some in lines]  # items may lack one, cubes do not
    assert notes[0] == notes[1]
    assert len(notes[0]) == ("years" in asked)
    xr.testing.assert_identical(yearly.time.drop_vars("spatial_ref"), composed.time.drop_vars("spatial_ref"))
    yearly, composed = yearly.compute(), composed.compute()
    for name in (*BANDS, "observations"):
        assert yearly[name].dims == composed[name].dims
        assert yearly[name].dtype == composed[name].dtype
        np.testing.assert_allclose(yearly[name], composed[name], rtol=0, atol=1e-6)


def test_years_are_told_apart_at_once(catalogs, monkeypatch):
    """A hundred thousand items have as many times: each must not cost a call of pandas."""
    calls = []

    def counted(times: Any, season: Any) -> np.ndarray:
        calls.append(len(times))
        return season_years(times, season)

    monkeypatch.setattr(module, "season_years", counted)
    open_stac(catalogs["json"], reduce="median", by="year", **GRID)
    assert calls == [len(TIMES)]


def test_years_without_items_are_left_out_and_told(catalogs):
    with pytest.warns(MisoxrWarning, match=r"Nothing is of the years \[2018, 2022\]; they are left out\."):
        yearly = open_stac(catalogs["json"], reduce="median", by="year", years=range(2018, 2023), **GRID)
    assert list(yearly.time.dt.year) == [2019, 2020, 2021]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"by": "year"}, "by='year' reduces the times of each year, and reduce is None; name a reduction"),
        ({"by": "month", "reduce": "mean"}, r"by='month' is unknown; use one of \(None, 'year'\)"),
        ({"reduce": "p100"}, "reduce='p100' is unknown; leave it out, or use 'median', .* a percentile from 'p1' to 'p99'"),
        ({"reduce": "geomedain"}, 'Did you mean "geomedian"'),
        ({"reduce": ["mean"]}, "is unknown"),
    ],
)
def test_what_is_no_reduction_is_refused(asked: Mapping[str, Any], words: str):
    with pytest.raises(CatalogError, match=words):
        open_stac("http://127.0.0.1:1/", **asked)


def test_a_geometric_median_of_several_units_is_refused(tmp_path):
    values = np.full((8, 8), 300, "uint16")
    assets = {
        "red": (values, {"eo:bands": [{"common_name": "red"}], "raster:bands": [{"scale": 0.0001, "offset": 0}]}),
        "lst": (values, {"raster:bands": [{"scale": 1, "offset": 0, "unit": "kelvin"}]}),
    }
    item = plain_item(tmp_path, "a", "2020-07-01T21:00:00Z", assets, collection="other")
    path = write_collection(tmp_path / "items.json", [item])
    with pytest.raises(BandError, match="'geomedian' measures one distance over all bands.*'lst': 'K'"):
        open_stac(path, bands=["red", "lst"], reduce="geomedian", mask=None)
    assert float(open_stac(path, bands=["lst"], reduce="geomedian", mask=None).lst.max()) == 300


# ---- a model on yearly composites


def test_a_year_is_mapped_as_its_own_composite(catalogs, tmp_path):
    spec = tiny_spec()
    model = make_model(replace(spec, modalities=spec.modalities[:1], pixel_size=10.0))
    asked = GRID | {"bands": ["red", "nir"], "reduce": "median", "chunks": 80}
    yearly = open_stac(catalogs["json"], by="year", **asked)
    with pytest.raises(BandError, match=r"\('time', 'y', 'x'\).*or take one of its 3 times: ds.isel\(time=-1\)"):
        yearly.miso.predict(model, device="cpu")
    maps = [yearly.isel(time=at).miso.predict(model, device="cpu") for at in (0, 1)]
    reads = [key for key in dict(maps[1].permafrost_probability.__dask_graph__()) if key[0].startswith("composite-")]
    assert len(reads) == math.prod(yearly.red.data.numblocks[1:])  # each block once, with its halo
    each = xr.concat(maps, yearly.time[:2])
    each.miso.to_zarr(tmp_path / "maps.zarr", progress=False)
    stored = xr.open_zarr(tmp_path / "maps.zarr", decode_coords="all")
    assert stored.permafrost_probability.dims == ("time", "y", "x")
    assert (stored.time.values == yearly.time.values[:2]).all()
    alone = open_stac(catalogs["json"], years=2020, **asked).compute().chunk({"y": 80, "x": 80}).miso.predict(model, device="cpu")
    np.testing.assert_array_equal(stored.permafrost_probability[1], alone.permafrost_probability)


def test_a_part_of_a_yearly_composite_that_is_not_a_year_is_read_as_it_is(catalogs):
    yearly = open_stac(catalogs["json"], reduce="median", by="year", chunks=80, **GRID)
    for changed in (yearly.red * 2, yearly.red[:, ::-1], yearly.red[1, ::-1], yearly.red[1, :, 5:], yearly.red, yearly.red[[1, 0]]):
        assert source_of(changed.to_dataset(name="red"), ["red"]) is None
    for at in (0, 1, 2, -1):
        reader, layers = source_of(yearly.isel(time=at), BANDS)
        assert layers == {"red": 0, "nir": 1, "swir16": 2}
        assert {moment.time.year for moment in reader.items.moments} == {2019 + at % 3}
    mixed = yearly.isel(time=0).assign(nir=yearly.nir[1])
    assert source_of(mixed, ["red", "nir"]) is None


def test_yearly_composites_are_stored_joined_and_read_again(catalogs, tmp_path):
    yearly = open_stac(catalogs["json"], reduce="mean", by="year", chunks=64, **GRID)
    joined = yearly.miso.add(slope=(yearly.red[0] * 0).assign_attrs(units="degree"))
    assert joined.slope.dims == ("y", "x")
    joined.miso.to_zarr(tmp_path / "yearly.zarr", progress=False)
    stored = xr.open_zarr(tmp_path / "yearly.zarr", decode_coords="all", chunks={})
    for name in (*BANDS, "observations"):
        np.testing.assert_array_equal(stored[name], yearly[name])
    assert (stored.time.values == yearly.time.values).all()
    all_years = stored.miso.composite(method="mean")
    np.testing.assert_array_equal(all_years.observations, yearly.observations.sum("time"))
