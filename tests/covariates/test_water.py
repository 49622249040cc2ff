"""Hydrology: SAGA's own output, plain definitions of every formula, and the same bits for any chunks and after any stop."""

import heapq
import math
import os
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import rioxarray  # noqa: F401  which gives .rio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from scipy.ndimage import binary_erosion, gaussian_filter

import misoxr
from misoxr.covariates import hydrology, tiles, water
from misoxr.errors import StoreError
from misoxr.grid.geobox import assign

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "data" / "terrain_golden.npz"
NAMES = ["catchment_area", "stream_power_index", "wetness_index"]
AROUND = [step for step in product((-1, 0, 1), repeat=2) if step != (0, 0)]


def dem_of(z, pixel=10.0, ascending=False):
    y = -pixel if not ascending else pixel
    box = GeoBox(z.shape, Affine(pixel, 0, 300_000, 0, y, 1_500_000), "EPSG:3338")
    return assign(xr.DataArray(z, dims=("y", "x"), attrs={"units": "m"}), box)


def rough(shape, seed=0, smooth=1.5):
    """A slope with hills, pits, a lake, an edge and a hole of nodata."""
    rng = np.random.default_rng(seed)
    z = 30 * gaussian_filter(rng.standard_normal(shape), smooth) + 40 * gaussian_filter(rng.standard_normal(shape), 6)
    z = (z + 0.3 * np.add.outer(np.arange(shape[0]), np.arange(shape[1]))).astype("float32")
    z[shape[0] // 3 : shape[0] // 2, shape[1] // 4 : shape[1] // 2] = z.mean()  # flat
    z[shape[0] // 2 : shape[0] // 2 + 4, -12:-7] = np.nan
    z[:5, :3] = np.nan
    return z


def spiral(side, width=3):
    """A valley that winds inward and falls all the way, between walls: the river crosses the same borders again and again."""
    z = np.full((side, side), 1000.0)
    row, column, step, at = 1, 1, 0, 0
    length = side - 3
    bottom = 900.0
    moves = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    while length > 0:
        for _ in range(length):
            z[row, column] = bottom = bottom - 0.01
            row, column = row + moves[at][0], column + moves[at][1]
        at, step = (at + 1) % 4, step + 1
        length -= width if step % 2 == 1 and step > 1 else 0
    z[row, column] = bottom - 0.01
    return z + gaussian_filter(np.random.default_rng(1).random(z.shape), 0.7) * (z == 1000.0)


def same(one, other):
    for name in NAMES:
        np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=name)


# ---- plain definitions


def cells(z):
    return [tuple(cell) for cell in np.argwhere(~np.isnan(z))]


def near(z, cell):
    """Yield a cell's neighbours and the distance to them, in cells."""
    for step in AROUND:
        row, column = cell[0] + step[0], cell[1] + step[1]
        if 0 <= row < z.shape[0] and 0 <= column < z.shape[1] and not np.isnan(z[row, column]):
            yield (row, column), math.hypot(*step)


def plain_area(z, c):
    area = np.where(np.isnan(z), np.nan, c * c)
    for cell in sorted(cells(z), key=lambda cell: -z[cell]):
        lower = [(other, math.atan((z[cell] - z[other]) / (c * far)) ** 1.1) for other, far in near(z, cell) if z[other] < z[cell]]
        for other, share in lower:
            area[other] += area[cell] * share / sum(weight for _, weight in lower)
    return area


def plain_slope(z, c):
    """Central differences; one-sided where one neighbour is missing, 0 where both are."""
    padded = np.pad(z, 1, constant_values=np.nan)
    parts = []
    for before, after in ((padded[:-2, 1:-1], padded[2:, 1:-1]), (padded[1:-1, :-2], padded[1:-1, 2:])):
        both, first, last = (after - before) / 2, z - before, after - z
        parts.append(np.where(np.isfinite(both), both, np.where(np.isfinite(first), first, np.where(np.isfinite(last), last, 0))))
    return np.where(np.isnan(z), np.nan, np.arctan(np.hypot(*parts) / c))


def threes(values):
    """Return the 3 x 3 cells around each, beside each other along the first axis."""
    padded = np.pad(values, 1, constant_values=np.nan)
    return np.stack([padded[r : r + values.shape[0], k : k + values.shape[1]] for r, k in product(range(3), repeat=2)])


def plain_wetness(z, c):
    area, beta = plain_area(z, c), plain_slope(z, c)
    d = 10**beta
    suction = (1 / d) ** np.exp(d)
    raised = area.copy()
    while True:
        before = raised.copy()
        raised = np.fmax(raised, suction * np.nanmax(np.where(np.isnan(threes(raised)), -1, threes(raised)), axis=0))
        raised[np.isnan(z)] = np.nan
        if np.array_equal(before, raised, equal_nan=True):
            break
    anywhere = (threes(raised) > threes(area)).any(0)
    with np.errstate(all="ignore"):
        count = np.isfinite(threes(raised)).sum(0)
        smooth = np.where(anywhere, np.nansum(threes(raised), axis=0) / count, raised)
    return np.log(smooth / c / np.tan(beta + math.radians(0.01)))


def plain_power(z, c):
    """The area by the tangent of the steepest facet, for cells with 8 neighbours."""
    area, out = plain_area(z, c), np.full(z.shape, np.nan)
    for cell in cells(z):
        if len(list(near(z, cell))) < 8:
            continue
        best = 0.0
        for down, right in product((-1, 1), repeat=2):
            z2 = z[cell[0] + down, cell[1] + right]
            for z1 in (z[cell[0] + down, cell[1]], z[cell[0], cell[1] + right]):
                s1, s2 = (z[cell] - z1) / c, (z1 - z2) / c
                angle = math.atan2(s2, s1)
                if angle < 0:
                    best = max(best, s1)
                elif angle > math.pi / 4:
                    best = max(best, (z[cell] - z2) / (c * math.sqrt(2)))
                else:
                    best = max(best, math.hypot(s1, s2))
        out[cell] = area[cell] * best
    return out


def plain_filled(z, c, fall=1e-5):
    """A priority flood that begins at edges and beside nodata."""
    level = np.full(z.shape, np.nan)
    queue = [(z[cell], cell) for cell in cells(z) if len(list(near(z, cell))) < 8]
    heapq.heapify(queue)
    while queue:
        height, cell = heapq.heappop(queue)
        if not np.isnan(level[cell]):
            continue
        level[cell] = height
        for other, far in near(z, cell):
            if np.isnan(level[other]):
                heapq.heappush(queue, (max(z[other], height + fall * c * far), other))
    return level


# ---- the formulas


@pytest.mark.parametrize("chunk", [None, 64])
def test_hydrology_is_sagas(chunk):
    golden = np.load(GOLDEN)
    dem = dem_of(golden["dem"], float(golden["cell"]))
    found = hydrology(dem if chunk is None else dem.chunk({"y": chunk, "x": chunk}), progress=False)
    inside = binary_erosion(np.isfinite(golden["dem"]), np.ones((3, 3)))
    for name, theirs in zip(NAMES, ["catchment_area", "stream_power_index", "saga_wetness_index"], strict=True):
        ours, saga = found[name].values.astype("float64"), golden[theirs].astype("float64")
        assert np.isfinite(ours[inside]).all()
        both = inside & np.isfinite(saga)
        assert both.sum() > 38_000
        np.testing.assert_allclose(ours[both], saga[both], rtol=2e-6, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("pixel", [2.5, 90.0])
@pytest.mark.parametrize("ascending", [False, True])
def test_hydrology_is_what_the_definitions_say(pixel, ascending):
    z = rough((47, 61))
    found = hydrology(dem_of(z, pixel, ascending).chunk({"y": 32, "x": 40}), progress=False)
    z = z.astype("float64")
    inside = binary_erosion(np.isfinite(z), np.ones((3, 3)))
    np.testing.assert_allclose(found.catchment_area, plain_area(z, pixel), rtol=1e-6)
    np.testing.assert_allclose(found.wetness_index, plain_wetness(z, pixel), rtol=2e-6)
    np.testing.assert_allclose(found.stream_power_index.values[inside], plain_power(z, pixel)[inside], rtol=1e-6)
    assert {name: found[name].attrs["units"] for name in NAMES} == dict(zip(NAMES, ["m2", "m2", "1"], strict=True))
    assert all(found[name].dtype == "float32" for name in NAMES)


def test_a_filled_dem_drains_to_its_edges_and_nodata():
    z = rough((47, 61)).astype("float64")
    level = plain_filled(z, 10.0)
    assert (level > z + 1).sum() > 20  # there was something to fill
    outlets = np.array([[not np.isnan(z[i, j]) and len(list(near(z, (i, j)))) < 8 for j in range(61)] for i in range(47)])
    pits = [
        cell for cell in cells(level) if not outlets[cell] and not any(level[other] < level[cell] for other, _ in near(level, cell))
    ]
    assert not pits
    found = hydrology(dem_of(z).chunk({"y": 32, "x": 32}), filled=True, progress=False)
    np.testing.assert_allclose(found.catchment_area, plain_area(level, 10.0), rtol=1e-6)
    np.testing.assert_allclose(found.wetness_index, plain_wetness(level, 10.0), rtol=2e-6)
    assert found.attrs["pits"] == "filled"


def test_nothing_but_a_plane_nodata_or_a_row():
    plane = hydrology(dem_of(np.full((20, 30), 7.0)), progress=False)
    assert (plane.catchment_area == 100).all()
    assert (plane.stream_power_index == 0).all()
    np.testing.assert_allclose(plane.wetness_index, math.log(10 / math.tan(math.radians(0.01))), rtol=1e-6)
    nothing = hydrology(dem_of(np.full((20, 30), np.nan)), progress=False, filled=True)
    assert all(np.isnan(nothing[name]).all() for name in NAMES)
    row = hydrology(dem_of(np.array([[5.0, 4.0, 3.0, 3.5]])), progress=False)
    np.testing.assert_array_equal(row.catchment_area, [[100, 200, 400, 100]])
    assert np.isnan(row.stream_power_index).all()


# ---- any chunks


@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_any_chunks_give_the_same_bits(seed, filled):
    dem = dem_of(rough((150, 190), seed, smooth=1.5 + 2 * seed))
    whole = hydrology(dem.chunk({"y": 150, "x": 190}), filled=filled, progress=False)
    for chunks in ({"y": 32, "x": 32}, {"y": (50, 70, 30), "x": (100, 90)}, {"y": 1, "x": 190}):
        same(whole, hydrology(dem.chunk(chunks), filled=filled, progress=False))
    same(whole, hydrology(dem, filled=filled, progress=False))


def test_chunks_that_are_joined_give_the_same_bits(tmp_path, monkeypatch):
    dem = dem_of(rough((150, 190)))
    whole = hydrology(dem.chunk({"y": 150, "x": 190}), filled=True, progress=False)
    monkeypatch.setattr(tiles, "MOST", 8)  # as many as 8 tiles are few here
    for chunks in ({"y": 32, "x": 32}, {"y": 1, "x": 190}, {"y": 40, "x": 20}):
        stored = hydrology(dem.chunk(chunks), store=tmp_path / f"{chunks['y']}.zarr", filled=True, progress=False)
        same(whole, stored)
        rows, columns = (-(-whole // size) for whole, size in zip(dem.shape, stored.catchment_area.data.chunksize, strict=True))
        assert rows * columns <= 4  # windows of 2 x 2 tiles


def test_a_river_that_winds_through_all_blocks_arrives():
    z = spiral(128)
    whole, parts = (hydrology(dem_of(z).chunk({"y": side, "x": side}), progress=False) for side in (128, 32))
    same(whole, parts)
    np.testing.assert_allclose(parts.catchment_area, plain_area(z, 10.0), rtol=1e-6)
    valley = z < 950
    assert valley.sum() > 3000
    lowest = np.unravel_index(np.argmin(z), z.shape)
    assert parts.catchment_area.values[lowest] > 0.5 * 100 * valley.sum()  # all of the valley, and of its walls half


def test_a_lake_that_winds_through_all_blocks_is_as_wet_everywhere():
    z = np.where(spiral(96) < 950, 900.0, 1000.0)
    z[1, 1] = 899.0
    whole, parts = (hydrology(dem_of(z).chunk({"y": side, "x": side}), progress=False) for side in (96, 32))
    same(whole, parts)
    np.testing.assert_allclose(parts.wetness_index, plain_wetness(z, 10.0), rtol=2e-6)


# ---- stores


def test_a_store_opens_with_its_grid_and_is_not_computed_twice(tmp_path):
    dem = dem_of(rough((60, 70))).chunk({"y": 32, "x": 32})
    place = tmp_path / "hydrology.zarr"
    stored = hydrology(dem, store=place, progress=False)
    expected = hydrology(dem, progress=False)
    for found in (stored, xr.open_zarr(place), misoxr.open_maps(place)):
        same(expected, found)
        assert found.rio.crs == "EPSG:3338"
        assert found.rio.transform() == dem.rio.transform()
    assert [path.name for path in tmp_path.iterdir()] == ["hydrology.zarr"]
    assert stored.catchment_area.chunks is not None
    before = (place / "zarr.json").stat().st_mtime_ns
    same(expected, hydrology(dem, store=place, progress=False))
    with pytest.raises(StoreError, match="overwrite=True"):
        hydrology(dem, store=place, filled=True, progress=False)
    assert (place / "zarr.json").stat().st_mtime_ns == before
    filled = hydrology(dem, store=place, filled=True, overwrite=True, progress=False)
    same(hydrology(dem, filled=True, progress=False), filled)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("opening", [str, lambda path: xr.open_zarr(path, decode_coords="all", chunks={})])
def test_elevations_that_changed_in_place_are_another_dem(tmp_path, monkeypatch, finished, opening):
    z, path, place = rough((60, 70)), tmp_path / "dem.zarr", tmp_path / "hydrology.zarr"
    z[-6:, -6:] = 7.0
    dem = dem_of(z).chunk({"y": 32, "x": 32})
    dem.to_dataset(name="elevation").to_zarr(path, consolidated=False)
    with monkeypatch.context() as patch:
        if not finished:
            patch.setattr(water, "_raise", stopped)
            with pytest.raises(KeyboardInterrupt):
                hydrology(opening(str(path)), store=place, progress=False)
        else:
            hydrology(opening(str(path)), store=place, progress=False)
    last = xr.Dataset({"elevation": (("y", "x"), z[-2:, -2:] + 1)})  # the last window alone
    last.to_zarr(path, region={"y": slice(58, 60), "x": slice(68, 70)}, consolidated=False)
    with pytest.raises(StoreError, match="not of this DEM" if finished else "another DEM"):
        hydrology(opening(str(path)), store=place, progress=False)
    # of the elevations as they were, whatever they are called now
    if finished:
        before = (place / "zarr.json").stat().st_mtime_ns
        same(hydrology(dem, progress=False), hydrology(dem.copy(deep=True) + 0.0, store=place, progress=False))
        assert (place / "zarr.json").stat().st_mtime_ns == before
    found = hydrology(opening(str(path)), store=place, overwrite=True, progress=False)
    z[-2:, -2:] += 1
    same(hydrology(dem_of(z), progress=False), found)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["dem.zarr", "hydrology.zarr"]


def test_what_was_begun_goes_on_with_the_dem_as_it_was(tmp_path, monkeypatch):
    z, place, records = rough((60, 70)), tmp_path / "hydrology.zarr", tmp_path / "hydrology.zarr.hydrology"
    dem = dem_of(z).chunk({"y": 32, "x": 32})
    with monkeypatch.context() as patch:
        patch.setattr(water, "_raise", stopped)
        with pytest.raises(KeyboardInterrupt):
            hydrology(dem, store=place, progress=False)
    torn = sorted(records.glob("elevation/*"))[-1]  # as a power loss may leave it
    torn.write_bytes(torn.read_bytes()[:100])
    other = z.copy()
    other[-1, -1] += 1  # in the tile that is torn: nothing on the disk differs from the other DEM
    with pytest.raises(StoreError, match="another DEM"):
        hydrology(dem_of(other).chunk({"y": 32, "x": 32}), store=place, progress=False)
    visited = []
    drain = water._drain
    monkeypatch.setattr(water, "_drain", lambda *args: visited.append(args) or drain(*args))
    same(hydrology(dem, progress=False), hydrology(dem, store=place, progress=False))
    assert len([args for args in visited if args[0].ledger.uri == str(records)]) == 0  # catchment areas were there


def stopped(*args):
    raise KeyboardInterrupt


def test_stores_that_are_no_place_on_a_disk_or_hold_other_things_are_refused(tmp_path):
    dem = dem_of(rough((40, 40)))
    with pytest.raises(StoreError, match="to_zarr"):
        hydrology(dem, store="s3://bucket/hydrology.zarr", progress=False)
    (tmp_path / "notes").mkdir()
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="notes exists"):
            hydrology(dem, store=tmp_path / "notes", overwrite=overwrite, progress=False)


def failing(z, broken):
    """A lazy DEM that cannot be read while a file is there."""

    def part(values):
        if broken.exists():
            raise OSError("the disk of the DEM is gone")
        return values

    return dem_of(da.from_array(z, chunks=32, name="dem").map_blocks(part, dtype=z.dtype, name="part", meta=z[:0, :0]))


def test_an_error_of_the_dem_comes_through_and_the_next_call_goes_on(tmp_path):
    z, broken = rough((96, 96)), tmp_path / "broken"
    broken.touch()
    dem = failing(z, broken)
    with pytest.raises(OSError, match="is gone"):
        hydrology(dem, store=tmp_path / "h.zarr", progress=False)
    broken.unlink()
    same(hydrology(dem_of(z), progress=False), hydrology(dem, store=tmp_path / "h.zarr", progress=False))


RUN = """
import sys, xarray as xr, misoxr
dem = xr.open_zarr(sys.argv[1], decode_coords="all", chunks={})
misoxr.covariates.hydrology(dem, store=sys.argv[2], filled=True)
"""


@pytest.mark.parametrize("layer", ["catchment_area", "modified_catchment_area"])
def test_a_killed_run_goes_on_where_it_stopped(tmp_path, capfd, layer):
    rough_dem = dem_of(rough((224, 224))).chunk({"y": 32, "x": 32}).to_dataset(name="elevation")
    rough_dem.to_zarr(tmp_path / "dem.zarr")
    records, place = tmp_path / "h.zarr.hydrology", tmp_path / "h.zarr"
    command = [sys.executable, "-c", RUN, tmp_path / "dem.zarr", place]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})
    while process.poll() is None and len(list(records.glob(f"{layer}/*"))) < 20:
        time.sleep(0.001)
    process.send_signal(signal.SIGSTOP)
    dem = xr.open_zarr(str(tmp_path / "dem.zarr"), decode_coords="all", chunks={})
    try:
        with pytest.raises(StoreError, match="Another process"):
            hydrology(dem, store=place, filled=True)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not place.exists()
    with pytest.raises(StoreError, match="another DEM"):
        hydrology(dem + 1, store=place, filled=True)
    torn = sorted(records.glob("catchment_area/*"))[7]  # as a power loss may leave it
    torn.write_bytes(torn.read_bytes()[:100])
    capfd.readouterr()
    found = hydrology(dem, store=place, filled=True)
    said = capfd.readouterr().err
    assert "comparing the DEM" in said  # which was not copied again, nor filled
    assert "elevation" not in said
    assert "filled" not in said
    assert "catchment area" in said
    assert not records.exists()
    same(hydrology(rough_dem, filled=True, progress=False), found)
    same(found, misoxr.open_maps(place))


def test_what_was_begun_with_other_settings_is_begun_anew_where_that_is_asked_for(tmp_path):
    z, broken = rough((96, 96)), tmp_path / "broken"
    broken.touch()
    dem = failing(z, broken)
    with pytest.raises(OSError, match="is gone"):
        hydrology(dem, store=tmp_path / "h.zarr", progress=False)
    broken.unlink()
    with pytest.raises(StoreError, match="another DEM"):
        hydrology(dem, store=tmp_path / "h.zarr", filled=True, progress=False)
    found = hydrology(dem, store=tmp_path / "h.zarr", filled=True, overwrite=True, progress=False)
    same(hydrology(dem_of(z), filled=True, progress=False), found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["h.zarr"]
