"""Windows around points: where they lie, what they hold, and how they are mirrored."""

import dask.array as da
import geopandas as gpd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from misoxr.grid import geobox_of
from misoxr.samples import Labelled, Windows, mirrored, read_samples
from misoxr.scaling import Scaling
from tests.conftest import make_cube, tiny_spec


def coordinates(height, width):
    """An array whose two bands hold each pixel's row and column."""
    return np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij")).astype("float32")


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(5, 70), st.integers(5, 70)),
    at=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    jitter=st.tuples(st.floats(-4, 4), st.floats(-4, 4)),
)
def test_a_window_holds_its_point_where_it_says(shape, at, jitter):
    row, column = at[0] * shape[0], at[1] * shape[1]
    samples = read_samples(da.from_array(coordinates(*shape), chunks=(2, 9, 11)), [row], [column], 16)
    window, start = samples.window(0, jitter)
    assert window.shape == (2, 16, 16)
    index, xy = samples.inside(np.array([0]), start)
    assert index.tolist() == [0]
    x, y = (xy[0] + 1) / 2 * 16
    i, j = min(int(y), shape[0] - 1, 15), min(int(x), shape[1] - 1, 15)
    assert abs(window[0, i, j] - int(row)) <= 1e-3 or np.isclose(y, round(y), atol=1e-4)
    assert abs(window[1, i, j] - int(column)) <= 1e-3 or np.isclose(x, round(x), atol=1e-4)


def test_every_chunk_is_computed_once():
    calls = []

    def block(block_info=None):
        calls.append(block_info[None]["chunk-location"])
        return np.zeros((1, 20, 20), "float32")

    lazy = da.map_blocks(block, chunks=((1,), (20,) * 3, (20,) * 3), dtype="float32", meta=np.empty((0, 0, 0), "float32"))
    rng = np.random.default_rng(0)
    samples = read_samples(lazy, rng.uniform(0, 60, 100), rng.uniform(0, 60, 100), 8)
    assert len(calls) == len(set(calls)) == 9
    assert all(tile.shape == (1, 16, 16) for tile in samples.tiles)


def test_mirrors_turn_east_to_west_and_keep_north():
    spec = tiny_spec()
    aspect = [band.name for band in spec.bands].index("aspect")
    bands = np.zeros((len(spec.bands), 1, 4), "float32")
    bands[aspect] = [0, 90, 225, -1]
    np.testing.assert_array_equal(mirrored(bands, spec)[aspect], [[-1, 135, 270, 0]])
    np.testing.assert_array_equal(mirrored(mirrored(bands, spec), spec), bands)


@pytest.fixture(scope="module")
def windows():
    spec = tiny_spec()
    cube = make_cube((80, 80), spec.bands)
    box = geobox_of(cube)
    rng = np.random.default_rng(3)
    x, y = rng.uniform(300_000, 301_600, 60), rng.uniform(1_498_400, 1_500_000, 60)
    points = gpd.GeoDataFrame(
        {"permafrost": rng.integers(0, 2, 60), "taxonomy": np.where(rng.random(60) < 0.8, "Gelisols", "Histosols")},
        geometry=gpd.points_from_xy(x, y),
        crs="EPSG:3338",
    )
    labelled = Labelled.of(points, spec, box)
    bands = np.stack([cube[band.name].values for band in spec.bands])
    samples = read_samples(da.from_array(bands), labelled.rows, labelled.columns, 16)
    scaling = Scaling.fit(spec, samples.pixels(5000, rng))
    return Windows(spec, scaling, samples, labelled, box)


def test_batches_hold_every_label_of_their_windows(windows):
    points = np.arange(len(windows.labelled))
    batch = windows.draw(points, windows.balance(points), 8, np.random.default_rng(0))
    assert batch["inputs"]["sat"].shape == (8, 2, 16, 16)
    assert batch["inputs"]["cov"].shape == (8, 3, 16, 16)
    assert set(batch["sample"]) == set(range(8))
    assert len(batch["points"]) == len(batch["sample"]) == len(batch["labels"]["permafrost"]) == len(batch["location"])
    assert np.abs(batch["points"]).max() <= 1


def test_rare_classes_are_drawn_more_often(windows):
    points = np.arange(len(windows.labelled))
    weights = windows.balance(points)
    rare = windows.labelled.labels["taxonomy"] == 3
    assert weights.sum() == pytest.approx(1)
    assert weights[rare].mean() > weights[~rare].mean()


def test_points_without_labels_are_left_out(windows):
    cube = make_cube((80, 80), windows.spec.bands)
    points = gpd.GeoDataFrame(
        {"permafrost": [1, np.nan], "taxonomy": [None, None]}, geometry=gpd.points_from_xy([300_500] * 2, [1_499_500] * 2), crs=3338
    )
    assert len(Labelled.of(points, windows.spec, geobox_of(cube))) == 1
