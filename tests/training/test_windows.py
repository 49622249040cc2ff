"""Windows around points and from anywhere: where they lie, what they hold, how they are augmented, and how they are drawn."""

from dataclasses import replace
from typing import get_args

import dask.array as da
import geopandas as gpd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from misoxr.cube.augment import AUGMENTATIONS, augmented, augmented_points
from misoxr.cube.cutouts import read_cutouts
from misoxr.cube.scaling import Scaling
from misoxr.grid.geobox import geobox_of, locations
from misoxr.points.labelled import Labelled
from misoxr.spec.components import Augmentation
from misoxr.training.windows import Draw, TrainingWindows
from tests.conftest import make_cube, tiny_spec

DRAW = Draw(size=8, unlabelled=0.0, labels=6, random=3, regular=4, augment="dihedral", power=0.5)


def coordinates(height, width):
    """An array whose two bands hold each pixel's row and column."""
    return np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij")).astype("float32")


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(5, 70), st.integers(5, 70)),
    at=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    shift=st.tuples(st.floats(-4, 4), st.floats(-4, 4)),
)
def test_a_window_holds_its_point_where_it_says(shape, at, shift):
    row, column = at[0] * shape[0], at[1] * shape[1]
    with read_cutouts(da.from_array(coordinates(*shape), chunks=(2, 9, 11)), [row], [column], 16) as cutouts:
        start = cutouts.first(0, (cutouts.rows[0] + shift[0], cutouts.columns[0] + shift[1]))
        window = cutouts.window(0, start)
        assert window.shape == (2, 16, 16)
        index, xy = cutouts.inside(np.array([0]), 0, start)
        assert index.tolist() == [0]
        x, y = (xy[0] + 1) / 2 * 16
        i, j = min(int(y), shape[0] - 1, 15), min(int(x), shape[1] - 1, 15)
        assert abs(window[0, i, j] - int(row)) <= 1e-3 or np.isclose(y, round(y), atol=1e-4)
        assert abs(window[1, i, j] - int(column)) <= 1e-3 or np.isclose(x, round(x), atol=1e-4)
        np.testing.assert_array_equal(cutouts.values()[:, 0], [int(row), int(column)])


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("mirror", [False, True])
def test_points_and_directions_turn_with_the_pixels(mirror, quarters):
    spec = tiny_spec()
    names = [band.name for band in spec.bands]
    # Each pixel's aspect points away from the middle of the window, and so it must after any turn.
    axis = (np.arange(8) + 0.5) / 4 - 1
    x, y = np.meshgrid(axis, axis)
    bands = np.zeros((len(names), 8, 8), "float32")
    bands[names.index("aspect")] = np.rad2deg(np.arctan2(x, -y)) % 360
    bands[names.index("red")], bands[names.index("nir")] = x, y
    out = augmented(bands, spec, mirror, quarters)
    difference = (out[names.index("aspect")] - bands[names.index("aspect")] + 180) % 360 - 180
    assert np.abs(difference).max() < 1e-3
    points = np.stack([x.ravel(), y.ravel()], axis=-1)
    moved = augmented_points(points, mirror, quarters)
    at = ((moved + 1) * 4).astype(int)
    np.testing.assert_allclose(out[names.index("red")][at[:, 1], at[:, 0]], points[:, 0], atol=1e-6)
    np.testing.assert_allclose(out[names.index("nir")][at[:, 1], at[:, 0]], points[:, 1], atol=1e-6)


def test_flat_ground_has_no_direction_to_turn():
    spec = tiny_spec()
    aspect = [band.name for band in spec.bands].index("aspect")
    bands = np.zeros((len(spec.bands), 1, 4), "float32")
    bands[aspect] = [0, 90, 225, -1]
    np.testing.assert_array_equal(augmented(bands, spec, True, 0)[aspect], [[-1, 135, 270, 0]])
    np.testing.assert_array_equal(augmented(bands, spec, False, 1)[aspect].ravel(), [-1, 135, 0, 270])


@pytest.fixture(scope="module")
def cube():
    return make_cube((80, 80), tiny_spec().bands)


@pytest.fixture(scope="module")
def windows(cube):
    spec, box = tiny_spec(), geobox_of(cube)
    rng = np.random.default_rng(3)
    x, y = rng.uniform(300_000, 301_600, 60), rng.uniform(1_498_400, 1_500_000, 60)
    points = gpd.GeoDataFrame(
        {"permafrost": rng.integers(0, 2, 60), "taxonomy": np.where(rng.random(60) < 0.8, "Gelisols", "Histosols")},
        geometry=gpd.points_from_xy(x, y),
        crs="EPSG:3338",
    )
    labelled = Labelled.of(points, spec, box)
    bands = np.stack([cube[band.name].values for band in spec.bands])
    with read_cutouts(da.from_array(bands), labelled.rows, labelled.columns, 16, unlabelled=0.3) as cutouts:
        scaling = Scaling.fit(spec, cutouts.pixels(5000, rng))
        yield TrainingWindows(spec, scaling, cutouts, labelled, box)


def drawn(windows, draw=DRAW, seed=0):
    points = np.arange(len(windows.labelled))
    return windows.draw(points, windows.balance(points, draw.power), draw, np.random.default_rng(seed))


def test_batches_hold_windows_points_and_labels(windows):
    batch = drawn(windows)
    assert batch["inputs"]["sat"].shape == (8, 2, 16, 16)
    assert batch["inputs"]["cov"].shape == (8, 3, 16, 16)
    assert batch["points"].shape == batch["location"].shape == (8, 6 + 3 + 4, 2)
    assert batch["labels"]["permafrost"].shape == batch["valid"].shape == (8, 13)
    assert np.isfinite(batch["labels"]["permafrost"][:, 0]).all()  # the point that the window is around
    assert np.isnan(batch["labels"]["permafrost"][:, 6:]).all()
    assert np.abs(batch["points"]).max() <= 1
    assert batch["valid"].all()


@pytest.mark.parametrize("augment", get_args(Augmentation))
def test_windows_are_drawn_in_every_way_to_turn_them(windows, augment):
    """The first two corners of the lattice of unlabelled points tell how a window was turned."""
    batch = drawn(windows, replace(DRAW, size=60, augment=augment))
    assert len({tuple(np.sign(points[-4:-2]).ravel()) for points in batch["points"]}) == len(AUGMENTATIONS[augment])
    assert set(AUGMENTATIONS) == set(get_args(Augmentation))


def test_labels_and_locations_stand_where_their_points_do(windows, cube):
    """The location of each query leads back to a labelled point with that label."""
    spec, labelled = windows.spec, windows.labelled
    known = locations(windows.geobox, labelled.rows, labelled.columns, spec.location)
    batch = drawn(windows, seed=4)
    for name, values in batch["labels"].items():
        for window, slot in zip(*np.nonzero(np.isfinite(values)), strict=True):
            distance = np.abs(known - batch["location"][window, slot]).sum(axis=1)
            assert distance.min() < 1e-6
            assert labelled.labels[name][distance.argmin()] == values[window, slot]


def test_inputs_stand_where_their_points_do(windows):
    """Undone scaling at a labelled query gives the pixel's own red, however the window was turned."""
    raw, scaling = windows.cutouts.values(), windows.scaling.modalities["sat"]
    for seed in range(4):
        batch = drawn(windows, seed=seed)
        known = locations(windows.geobox, windows.labelled.rows, windows.labelled.columns, windows.spec.location)
        for window in range(8):
            point = np.abs(known - batch["location"][window, 0]).sum(axis=1).argmin()
            j, i = np.minimum(((batch["points"][window, 0] + 1) * 8).astype(int), 15)
            found = batch["inputs"]["sat"][window, :, i, j]
            np.testing.assert_allclose(found, scaling.apply(raw[:2, point, None])[:, 0], atol=1e-4)


def test_every_labelled_point_of_a_window_is_asked(windows):
    """Also those that lie in the cutouts of other points."""
    labelled, cutouts = windows.labelled, windows.cutouts
    draw = Draw(size=16, unlabelled=0.0, labels=60, random=0, regular=0, augment="none", power=0.0)
    known = locations(windows.geobox, labelled.rows, labelled.columns, windows.spec.location)
    others = 0
    for seed in range(4):
        batch = drawn(windows, draw, seed)
        for window in range(16):
            asked = np.isfinite(batch["labels"]["permafrost"][window]).sum()
            point = np.abs(known - batch["location"][window, 0]).sum(axis=1).argmin()
            corner = (batch["points"][window, 0, ::-1] + 1) * 8
            row, column = labelled.rows[point] - corner[0], labelled.columns[point] - corner[1]
            down, across = labelled.rows - row, labelled.columns - column
            inside = (np.abs(down - 8) < 7.99) & (np.abs(across - 8) < 7.99)
            assert asked >= inside.sum()
            others += (cutouts.cutout[inside] != cutouts.cutout[point]).sum()
    assert others > 5


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_how_often_labels_are_met_is_told_before_training(windows, power):
    """Half of the points crowd in a corner: their labels come along with whichever of them is drawn."""
    points = np.flatnonzero((windows.labelled.rows < 25) | (windows.labelled.columns > 40))
    draw = replace(DRAW, size=40, power=power)
    weights = windows.balance(points, power)
    batches = [windows.draw(points, weights, draw, np.random.default_rng(seed)) for seed in range(60)]
    met = windows.met(points, draw, 0)
    assert met.sum() == pytest.approx(1)
    for name, values in windows.labelled.labels.items():
        learnt = np.concatenate([batch["labels"][name].ravel() for batch in batches])
        share, drawn_alone = (np.sum(one * values[points]) for one in (met, weights))
        assert np.nanmean(learnt) == pytest.approx(share, abs=0.02)
        if power and name == "taxonomy":
            assert abs(drawn_alone - share) > 0.1  # points drawn by weight alone tell otherwise


def test_unlabelled_windows_carry_no_label(windows):
    from dataclasses import replace

    batch = drawn(windows, replace(DRAW, size=64, unlabelled=0.5), seed=1)
    free = np.isnan(batch["labels"]["permafrost"]).all(axis=1)
    assert 20 < free.sum() < 44
    assert not free[0]


def test_the_same_seed_draws_the_same_batch(windows):
    one, other, third = drawn(windows, seed=5), drawn(windows, seed=5), drawn(windows, seed=6)
    np.testing.assert_array_equal(one["inputs"]["sat"], other["inputs"]["sat"])
    np.testing.assert_array_equal(one["points"], other["points"])
    assert not np.array_equal(one["points"], third["points"])


def test_windows_beside_nodata_tell_where_it_is(cube):
    spec = tiny_spec()
    bands = np.stack([cube[band.name].values for band in spec.bands])
    bands[:2, :, 40:] = np.nan
    points = gpd.GeoDataFrame({"permafrost": [1]}, geometry=gpd.points_from_xy([300_790], [1_499_500]), crs=3338)
    labelled = Labelled.of(points, spec, geobox_of(cube))
    with read_cutouts(da.from_array(bands), labelled.rows, labelled.columns, 16) as cutouts:
        windows = TrainingWindows(
            spec, Scaling.fit(spec, cutouts.pixels(500, np.random.default_rng(0))), cutouts, labelled, geobox_of(cube)
        )
        batch = drawn(windows, Draw(4, 0.0, 1, 50, 0, "none", 0.0))
        cutout = cutouts.file.starts[0, 1]
        assert cutout < 40 < cutout + 32
    assert batch["valid"][:, 0].all()
    assert 0.2 < batch["valid"].mean() < 0.9


def test_rare_classes_are_drawn_more_often(windows):
    points = np.arange(len(windows.labelled))
    weights = windows.balance(points, 0.5)
    rare = windows.labelled.labels["taxonomy"] == 3
    assert weights.sum() == pytest.approx(1)
    assert weights[rare].mean() > weights[~rare].mean()
    np.testing.assert_allclose(windows.balance(points, 0.0), 1 / len(points))


def test_points_without_labels_are_left_out(windows, cube):
    points = gpd.GeoDataFrame(
        {"permafrost": [1, np.nan], "taxonomy": [None, None]}, geometry=gpd.points_from_xy([300_500] * 2, [1_499_500] * 2), crs=3338
    )
    assert len(Labelled.of(points, windows.spec, geobox_of(cube))) == 1


def test_unlabelled_tiles_do_not_depend_on_labels(cube):
    spec = tiny_spec()
    bands = da.from_array(np.stack([cube[band.name].values for band in spec.bands]))
    with (
        read_cutouts(bands, [10.0, 50.0], [10.0, 50.0], 16, unlabelled=2.5, seed=1) as one,
        read_cutouts(bands, [70.0, 20.0], [30.0, 5.0], 16, unlabelled=2.5, seed=1) as other,
    ):
        np.testing.assert_array_equal(one.file.starts[one.labelled :], other.file.starts[other.labelled :])
