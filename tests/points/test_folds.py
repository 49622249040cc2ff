"""Splitting by where points lie: blocks, clusters, regions, distances to targets, given folds; balanced, repeatable."""

import json
import re
import tracemalloc

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import wasserstein_distance
from shapely.geometry import Point, box

from misoxr.errors import MisoxrWarning, PointsError
from misoxr.points import knndm as module
from misoxr.points.folds import BlockKFold, ClusterKFold, KFold, LeaveOneRegionOut, PredefinedFolds, separate
from misoxr.points.knndm import KNNDM
from misoxr.points.read import regions_of


def clustered(n: int = 2000, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 100_000, (60, 2))
    return centres[rng.integers(0, 60, n)] + rng.normal(0, 1500, (n, 2))


def blocks_of(xy: np.ndarray, size: float) -> list[tuple[float, float]]:
    return [tuple(block) for block in np.floor(xy / size)]


coordinates = st.integers(2, 80).flatmap(lambda n: arrays("float64", (n, 2), elements=st.floats(-5e4, 5e4)))
whole = st.integers(2, 60).flatmap(lambda n: arrays("int64", (n, 2), elements=st.integers(-40, 40)))
"""Points whose distances are exact, so that ties are ties."""


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.hypot(*np.moveaxis(a[:, None] - b[None], -1, 0).astype("float64"))


def naive_clusters(xy: np.ndarray, distance: float) -> list[int]:
    near, cluster = distances(xy, xy) <= distance, list(range(len(xy)))
    for i, j in zip(*np.nonzero(near), strict=True):
        one, other = cluster[i], cluster[j]
        cluster = [one if c == other else c for c in cluster]
    return cluster


def frame(xy: np.ndarray, crs: str | None = "EPSG:3338") -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(geometry=gpd.points_from_xy(*np.asarray(xy).T), crs=crs)


def held_out(splitter, xy) -> list[list[int]]:
    return [test.tolist() for _, test in splitter.split(xy)]


def quadrants(side: float = 100) -> gpd.GeoDataFrame:
    corners = [(0, 0), (side, 0), (0, side), (side, side)]
    shapes = [box(x, y, x + side, y + side) for x, y in corners]
    return gpd.GeoDataFrame({"name": ["sw", "se", "nw", "ne"]}, geometry=shapes, crs="EPSG:3338")


@pytest.mark.filterwarnings("ignore:Every point is one of the blocks")
@settings(deadline=None)
@given(coordinates, st.integers(2, 6), st.floats(100, 2e4), st.booleans(), st.integers(0, 5))
def test_folds_are_whole_blocks_and_each_point_is_tested_once(xy, n_splits, size, shuffle, seed):
    folds = BlockKFold(size, n_splits, shuffle, seed)
    blocks = blocks_of(xy, size)
    if len(set(blocks)) < n_splits:
        with pytest.raises(PointsError, match="too few for"):
            list(folds.split(xy))
        return
    tested = np.zeros(len(xy), dtype=int)
    for train, test in folds.split(xy):
        assert sorted([*train, *test]) == list(range(len(xy)))
        assert not {blocks[i] for i in train} & {blocks[i] for i in test}
        assert len(test)
        assert len(train)
        tested[test] += 1
    assert (tested == 1).all()


def test_folds_hold_about_as_many_points_each():
    xy = clustered()
    sizes = [len(test) for _, test in BlockKFold(10_000).split(xy)]
    assert max(sizes) - min(sizes) < 0.05 * len(xy)


def test_a_seed_repeats_the_folds_and_another_changes_them():
    xy = np.random.default_rng(0).uniform(0, 1e5, (50, 2))

    def first(seed: int, shuffle: bool = True) -> list[int]:
        return list(next(iter(BlockKFold(5000, 5, shuffle, seed).split(xy)))[1])

    assert first(1) == first(1)
    assert first(1) != first(2)
    assert first(1, shuffle=False) == first(2, shuffle=False)


def test_scikit_learn_takes_the_splitter():
    model_selection = pytest.importorskip("sklearn.model_selection")
    from sklearn.neighbors import KNeighborsClassifier

    xy = clustered(400)
    label = (xy[:, 0] > 50_000).astype(int)
    splitter = BlockKFold(10_000, n_splits=4)
    assert splitter.get_n_splits(xy) == 4
    scores = model_selection.cross_val_score(KNeighborsClassifier(), xy, label, cv=splitter)
    assert len(scores) == 4
    assert scores.mean() > 0.8
    # Neighbours in space tell nothing about noise that is the same within a block, once whole blocks are held out.
    noise = np.array([hash(block) % 2 for block in blocks_of(xy, 10_000)])
    blocked = model_selection.cross_val_score(KNeighborsClassifier(), xy, noise, cv=splitter).mean()
    shuffled = model_selection.cross_val_score(
        KNeighborsClassifier(), xy, noise, cv=model_selection.KFold(4, shuffle=True, random_state=0)
    ).mean()
    assert shuffled > blocked + 0.15


@settings(deadline=None)
@given(coordinates, st.floats(0.01, 0.99), st.floats(100, 2e5), st.integers(0, 5))
@pytest.mark.filterwarnings("ignore:All .* points lie in one block")
def test_a_separate_set_leaves_points_on_both_sides(xy, fraction, size, seed):
    if (xy == xy[0]).all():
        with pytest.raises(PointsError, match="at one place"):
            separate(xy, fraction=fraction, size=size, seed=seed)
        return
    chosen = separate(xy, fraction=fraction, size=size, seed=seed)
    assert chosen.shape == (len(xy),)
    assert 0 < chosen.sum() < len(xy)
    blocks = blocks_of(xy, size)
    if len(set(blocks)) > 1:
        assert not {b for b, c in zip(blocks, chosen, strict=True) if c} & {b for b, c in zip(blocks, chosen, strict=True) if not c}


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_a_separate_set_is_about_the_fraction_asked_for(fraction):
    xy = clustered()
    shares = [separate(xy, fraction=fraction, size=10_000, seed=seed).mean() for seed in range(5)]
    np.testing.assert_allclose(shares, fraction, atol=0.03)
    masks = [separate(xy, fraction=fraction, size=10_000, seed=seed) for seed in (1, 1, 2)]
    assert (masks[0] == masks[1]).all()
    assert (masks[0] != masks[2]).any()


def test_points_of_one_block_are_separated_by_smaller_blocks():
    xy = np.random.default_rng(0).uniform(10, 900, (100, 2))
    with pytest.warns(MisoxrWarning, match="All 100 points lie in one block of 1000; blocks of 500 separate"):
        chosen = separate(xy, fraction=0.25, size=1000, seed=0)
    assert 0 < chosen.sum() < 100


@settings(deadline=None)
@given(whole, st.integers(2, 6), st.integers(0, 5))
def test_random_folds_are_even_and_test_each_point_once(xy, n_splits, seed):
    if len(xy) < n_splits:
        with pytest.raises(PointsError, match="too few for"):
            list(KFold(n_splits, seed).split(xy))
        return
    tested = held_out(KFold(n_splits, seed), xy)
    assert sorted(sum(tested, [])) == list(range(len(xy)))
    assert {len(test) for test in tested} <= {len(xy) // n_splits, -(-len(xy) // n_splits)}
    assert tested == held_out(KFold(n_splits, seed), xy)


@settings(deadline=None)
@given(whole, st.integers(1, 40))
def test_clusters_are_the_points_that_steps_join(xy, distance):
    cluster = naive_clusters(xy, distance)
    count = len(set(cluster))
    with pytest.raises(
        PointsError, match=f"lie in {count} clusters? {distance} apart, too few for {count + 1} folds; use a smaller"
    ):
        list(ClusterKFold(distance, count + 1).split(xy))
    if count > 1:  # as many folds as clusters: each fold is one
        expected = {tuple(np.flatnonzero(np.array(cluster) == c)) for c in cluster}
        assert {tuple(test) for test in held_out(ClusterKFold(distance, count), xy)} == expected


@pytest.mark.filterwarnings("ignore:Every point is one of the clusters")
@settings(deadline=None)
@given(coordinates, st.floats(10, 2e4), st.integers(2, 4), st.booleans(), st.integers(0, 3))
def test_points_of_different_clusters_are_more_than_the_distance_apart(xy, distance, n_splits, shuffle, seed):
    splitter = ClusterKFold(distance, n_splits, shuffle, seed)
    try:
        sides = list(splitter.split(xy))
    except PointsError:
        assert len(set(naive_clusters(xy, distance * (1 + 1e-9)))) < n_splits
        return
    assert sorted(np.concatenate([test for _, test in sides])) == list(range(len(xy)))
    for train, test in sides:
        assert distances(xy[train], xy[test]).min() > distance


def test_lengths_and_targets_in_other_units_are_told():
    xy = np.random.default_rng(0).uniform(0, 50_000, (60, 2))
    with pytest.warns(MisoxrWarning, match=r"Every point is one of the clusters of 0\.1, as points lie .* apart"):
        list(ClusterKFold(0.1).split(xy))
    with pytest.warns(MisoxrWarning, match="Every point is one of the blocks of 0.01"):
        list(BlockKFold(0.01).split(xy))
    with pytest.warns(MisoxrWarning, match="check that the targets are in the CRS of the points"):
        list(KNNDM(xy[:20] + 1e6).split(xy))
    list(ClusterKFold(100).split(xy))  # alone, and yet in the right units


@pytest.mark.parametrize("seed", range(4))
def test_clusters_of_dense_and_sparse_points_are_found(seed):
    rng = np.random.default_rng(seed)
    xy = np.concatenate(
        [rng.uniform(0, 100, (6, 2))[rng.integers(0, 6, 500)] + rng.normal(0, 3, (500, 2)), rng.uniform(0, 300, (200, 2))]
    )
    cluster = naive_clusters(xy, 8)
    tested = held_out(ClusterKFold(8, len(set(cluster))), xy)
    same = {tuple(test) for test in tested} == {tuple(np.flatnonzero(np.array(cluster) == c)) for c in cluster}
    assert same  # a difference of so many would take long to show


@pytest.mark.parametrize("angles", [2 * np.pi, 0])
@pytest.mark.parametrize(
    ("low", "high", "per_pair"), [(1.0001, 1.7, 2), (1.0001, 1.0002, 2), (0.9998, 0.9999, 1), (0.3, 0.9999, 1)]
)
def test_pairs_are_joined_up_to_the_distance_wherever_they_lie(low, high, per_pair, angles):
    rng = np.random.default_rng(0)
    count = 22_500  # so many that some lie in opposite corners of whatever cells
    angle, gap = np.pi / 4 + rng.uniform(0, angles, count), 50 * rng.uniform(low, high, count)
    first = np.stack(np.divmod(np.arange(count), 150), axis=-1) * 300 + rng.uniform(0, 50, (count, 2))
    second = first + gap[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    with pytest.raises(PointsError, match=f"lie in {per_pair * count} clusters"):
        list(ClusterKFold(50, 50_000).split(np.concatenate([first, second])))


def test_one_point_at_the_rim_of_a_crowd_joins_another_crowd():
    crowd, rim, other, far = np.tile([1.0, 1], (100, 1)), [[6.0, 1]], np.tile([15.5, 1], (200, 1)), [[60.0, 1]]
    assert [len(t) for t in held_out(ClusterKFold(10, 2, shuffle=False), np.concatenate([crowd, rim, other, far]))] == [301, 1]
    assert [len(t) for t in held_out(ClusterKFold(10, 3, shuffle=False), np.concatenate([crowd, other, far]))] == [200, 100, 1]


def test_a_crowd_of_points_takes_little_memory():
    rng = np.random.default_rng(0)
    xy = np.concatenate([rng.normal(0, 3000, (20_000, 2)), [[1e6, 0], [2e6, 0]]])
    tracemalloc.start()
    tested = held_out(ClusterKFold(10_000, 3), xy)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sorted(map(len, tested)) == [1, 1, 20_000]
    assert peak < 50e6  # 200 million pairs would take 3.2 GB


SPLITTERS = [
    lambda buffer: KFold(3, buffer=buffer),
    lambda buffer: BlockKFold(10, 3, buffer=buffer),
    lambda buffer: ClusterKFold(2, 3, buffer=buffer),
    lambda buffer: LeaveOneRegionOut(quadrants(50).translate(-50, -50).to_frame("geometry"), buffer=buffer),
    lambda buffer: PredefinedFolds([([0, 2, 4], [1]), ([3, 1], [0, 2])], buffer=buffer),
    lambda buffer: KNNDM([[0, 0], [30, 30]], 3, max_share=1, buffer=buffer),
]


@pytest.mark.filterwarnings("ignore:The targets lie farther")
@settings(deadline=None, max_examples=40)
@pytest.mark.parametrize("make", SPLITTERS)
@given(st.integers(5, 60).flatmap(lambda n: arrays("int64", (n, 2), elements=st.integers(-40, 40))), st.integers(1, 60))
def test_a_buffer_drops_the_training_points_that_are_nearer_and_no_others(make, xy, buffer):
    try:
        if isinstance(make(buffer), KNNDM):  # matches other folds with a buffer than without
            labels, _ = make(buffer).match(xy)
            plain = [(np.flatnonzero(labels != fold), np.flatnonzero(labels == fold)) for fold in range(3)]
        else:
            plain = list(make(0).split(xy))
    except PointsError:
        return
    apart = [(train[distances(xy[train], xy[test]).min(axis=1) >= buffer], test) for train, test in plain]
    if any(not len(train) for train, _ in apart):
        with pytest.raises(PointsError, match=f"A buffer of {buffer} leaves fold . no training points; use a smaller"):
            list(make(buffer).split(xy))
        return
    for got, expected in zip(make(buffer).split(xy), apart, strict=True):
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])


def test_points_are_split_in_their_own_projected_crs():
    xy = clustered(300)
    for splitter in (KFold(), BlockKFold(10_000, buffer=500), ClusterKFold(2000), KNNDM(clustered(50, seed=1))):
        assert held_out(splitter, frame(xy)) == held_out(splitter, xy)
    degrees = frame(xy).to_crs("EPSG:4326")
    for splitter in (KFold(buffer=1), BlockKFold(10_000), ClusterKFold(2000), KNNDM(xy)):
        with pytest.raises(PointsError, match=r"points are in degrees \(WGS 84\) and distances need a projected CRS"):
            list(splitter.split(degrees))
    assert held_out(KFold(), degrees) == held_out(KFold(), xy)  # no distance is measured


def test_each_region_that_holds_points_is_tested_once():
    xy = np.array([[10, 10], [20, 20], [150, 50], [150, 150], [-10, 0], [500, 500]])
    splitter = LeaveOneRegionOut(quadrants(), "name")
    assert held_out(splitter, xy) == [[0, 1], [2], [3]]
    assert [train.tolist() for train, _ in splitter.split(xy)] == [[2, 3, 4, 5], [0, 1, 3, 4, 5], [0, 1, 2, 4, 5]]
    assert splitter.names(xy) == ["sw", "se", "ne"]
    assert splitter.get_n_splits(xy) == 3
    assert LeaveOneRegionOut(quadrants().set_index("name")).names(xy) == ["sw", "se", "ne"]
    # one region suffices where points outside are left to train on
    assert held_out(splitter, xy[[0, 1, 5]]) == [[0, 1]]


def test_regions_of_one_name_are_one_and_the_first_of_overlapping_regions_has_the_point():
    xy = np.array([[10, 10], [150, 50], [10, 150], [150, 150], [100, 100]])
    halves = quadrants().assign(side=["west", "east", "west", "east"])
    splitter = LeaveOneRegionOut(halves, "side")
    assert splitter.names(xy) == ["west", "east"]
    assert held_out(splitter, xy) == [[0, 2, 4], [1, 3]]
    assert held_out(LeaveOneRegionOut(halves.iloc[::-1], "side"), xy) == [[1, 3, 4], [0, 2]]
    # what has no name is no region, and takes no point from those that have one: as in scores by region
    some = pd.concat([halves.assign(side=None), halves.assign(side=["west", None, "west", None])], ignore_index=True)
    assert LeaveOneRegionOut(some, "side").names(xy) == ["west"]
    points = gpd.GeoDataFrame(geometry=gpd.points_from_xy(*xy.T), crs=3338)
    assert regions_of(points, some, "side")[0].tolist() == ["west", "none", "west", "none", "west"]


def test_points_are_moved_to_the_crs_of_the_regions():
    xy = np.random.default_rng(0).uniform(0, 200_000, (100, 2))
    splitter = LeaveOneRegionOut(quadrants(100_000), "name", buffer=5000)
    expected = list(splitter.split(xy))
    for points in (frame(xy), frame(xy).to_crs("EPSG:4326"), frame(xy).to_crs("EPSG:32605")):
        for got, one in zip(splitter.split(points), expected, strict=True):
            assert [side.tolist() for side in got] == [side.tolist() for side in one]
    degrees = LeaveOneRegionOut(quadrants(100_000).to_crs("EPSG:4326"))
    inner = xy[(np.abs(xy - 100_000) > 5000).all(axis=1) & (np.abs(xy - 100_000) < 95_000).all(axis=1)]  # straight edges bend
    assert held_out(degrees, frame(inner)) == held_out(LeaveOneRegionOut(quadrants(100_000)), inner)


def gap_between(xy: np.ndarray, labels: np.ndarray, targets: np.ndarray) -> float:
    """Return the Wasserstein distance of test-to-train and target-to-point distances, the long way."""
    far = distances(xy, xy)
    far[labels[:, None] == labels[None]] = np.inf
    return wasserstein_distance(far.min(axis=1), distances(targets, xy).min(axis=1))


def random_labels(xy: np.ndarray, n_splits: int = 5) -> np.ndarray:
    labels = np.empty(len(xy), dtype=int)
    for fold, test in enumerate(held_out(KFold(n_splits), xy)):
        labels[test] = fold
    return labels


@pytest.mark.parametrize("most", [4000, 60])
def test_clustered_points_are_held_out_as_far_as_sparse_targets_lie(most, monkeypatch):
    monkeypatch.setattr(module, "MOST_CENTRES", most)
    xy, targets = clustered(500), np.random.default_rng(1).uniform(0, 100_000, (400, 2))
    labels, remaining = KNNDM(targets).match(xy)
    assert remaining == pytest.approx(gap_between(xy, labels, targets))
    assert remaining < 0.3 * gap_between(xy, random_labels(xy), targets)
    assert np.bincount(labels).max() <= 0.5 * len(xy)
    assert held_out(KNNDM(targets), xy) == [np.flatnonzero(labels == fold).tolist() for fold in range(5)]


def test_targets_next_to_points_are_matched_no_worse_than_by_random_folds():
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 1000, (300, 2))
    targets = rng.uniform(0, 1000, (300, 2))
    labels, remaining = KNNDM(targets).match(xy)
    assert remaining <= gap_between(xy, random_labels(xy), targets)
    # targets at the points themselves: nothing is nearer than random folds, or as near
    labels, remaining = KNNDM(xy).match(xy)
    assert remaining == pytest.approx(gap_between(xy, labels, xy))
    assert remaining < 1.05 * gap_between(xy, random_labels(xy), xy)


def test_no_fold_is_larger_than_the_share_and_a_seed_repeats_the_match():
    rng = np.random.default_rng(0)
    xy = np.concatenate([rng.normal(0, 10, (160, 2)), rng.uniform(-5000, 5000, (40, 2))])
    targets = rng.uniform(-9000, 9000, (100, 2))
    for share in (0.21, 0.4, 0.9):
        labels, _ = KNNDM(targets, max_share=share).match(xy)
        assert np.bincount(labels).max() <= share * len(xy)
    assert np.bincount(KNNDM(targets, max_share=0.9).match(xy)[0]).max() > 100
    assert (KNNDM(targets).match(xy)[0] == KNNDM(targets).match(xy)[0]).all()


def test_targets_are_moved_to_the_crs_of_the_points():
    xy, targets = clustered(200), np.random.default_rng(1).uniform(0, 100_000, (50, 2))
    _, expected = KNNDM(targets).match(xy)
    for moved in (frame(targets), frame(targets).to_crs("EPSG:4326")):
        assert KNNDM(moved).match(frame(xy))[1] == pytest.approx(expected)
    with pytest.raises(PointsError, match="projected CRS"):  # an array names no CRS to move to
        KNNDM(frame(targets).to_crs("EPSG:4326")).match(xy)


def test_points_of_few_places_are_matched():
    xy = np.repeat([[0.0, 0], [1, 0], [0, 1], [9, 9], [5, 5], [2, 8]], 10, axis=0)
    labels, remaining = KNNDM([[20, 20], [30, 0]]).match(xy)
    assert remaining == pytest.approx(gap_between(xy, labels, np.array([[20, 20], [30, 0]])))
    assert set(labels) == set(range(5))


def test_given_folds_are_kept():
    splitter = PredefinedFolds([([0, 1], [2]), (np.array([2, 3]), [0])])
    assert splitter.get_n_splits() == 2
    assert [(a.tolist(), b.tolist()) for a, b in splitter.split(np.zeros((4, 7)))] == [([0, 1], [2]), ([2, 3], [0])]
    assert [part.dtype.kind for part in next(splitter.split(range(4)))] == ["i", "i"]


def written(path, content) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_folds_are_read_by_identifier(tmp_path):
    folds = {
        "fold_0": {"train": ["a", "b"], "val": ["d"], "test": ["c"]},
        "fold_1": {"train": ["d", "c"], "valid": ["b"], "test": ["a"]},
    }
    splitter = PredefinedFolds.from_json(written(tmp_path / "folds.json", folds), np.array(["c", "b", "a", "d", "b"]))
    assert [(a.tolist(), b.tolist()) for a, b in splitter.split(range(5))] == [([1, 2, 4], [0]), ([0, 3], [2])]
    single = PredefinedFolds.from_json(tmp_path / "folds.json", ["c", "b", "a", "d"], buffer=2.0)
    assert single.buffer == 2
    one = written(tmp_path / "one.json", {"train": [17, "18"], "val": [3], "test": [19.0]})
    for ids in ([17, 18, 19], [17.0, 18.0, 19.0], ["17", "18", "19"]):
        assert [(a.tolist(), b.tolist()) for a, b in PredefinedFolds.from_json(one, ids).split(range(3))] == [([0, 1], [2])]


def test_identifiers_of_other_points_are_skipped_with_one_warning(tmp_path):
    path = written(tmp_path / "folds.json", {"a": {"train": [1, 2, 8], "test": [3, 9]}, "b": {"train": [3, 8], "test": [1]}})
    with pytest.warns(
        MisoxrWarning, match=r"2 of 5 identifiers in '.*folds.json' are not among the 4 points and are skipped"
    ) as caught:
        splitter = PredefinedFolds.from_json(path, [1, 2, 3, 4])
    assert len(caught) == 1
    assert [(a.tolist(), b.tolist()) for a, b in splitter.split(range(4))] == [([0, 1], [2]), ([2], [0])]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"f": {"train": [1, 2], "test": [2, 3]}},
            "f of '.*' has 1 points in both training and test, such as 2; leave them in one",
        ),
        ({"train": [], "test": [2, 3]}, "The fold of '.*' has no training points"),
        ({"f": {"train": [1], "test": []}}, "f of '.*' has no test points"),
        ({"train": [8, 9], "test": [7]}, "3 of 3 identifiers in .* are not among the 3 points, such as '7'; give ids"),
        ({"f": {"train": [1]}}, "holds no folds.*'test'"),
        ([1, 2], "holds no folds"),
        (3, "holds no folds"),
        ({}, "There are no folds"),
        ("{", "holds no folds.*Expecting"),
    ],
)
def test_files_that_hold_no_folds_are_refused(tmp_path, content, message):
    with pytest.raises(PointsError, match=message):
        PredefinedFolds.from_json(written(tmp_path / "folds.json", content), [1, 2, 3])


def test_a_missing_file_and_a_side_without_points_at_hand_are_refused(tmp_path):
    with pytest.raises(PointsError, match=r"nowhere.json' holds no folds.*No such file"):
        PredefinedFolds.from_json(tmp_path / "nowhere.json", [1])
    path = written(tmp_path / "folds.json", {"train": [1, 2], "test": [9]})
    with pytest.warns(MisoxrWarning, match="1 of 3"), pytest.raises(PointsError, match="Fold 0 has no test points"):
        PredefinedFolds.from_json(path, [1, 2])


def test_a_splitter_is_shown_as_it_is_built():
    for splitter in (KFold(4), BlockKFold(1000.5, buffer=3.0), ClusterKFold(1e4, n_splits=3, shuffle=False, random_state=7)):
        assert eval(repr(splitter)) == splitter
    assert repr(BlockKFold(10_000)) == "BlockKFold(size=10000, n_splits=5, shuffle=True, random_state=0, buffer=0.0)"
    assert repr(LeaveOneRegionOut(quadrants(), "name")) == "LeaveOneRegionOut(regions=<4>, column='name', buffer=0.0)"
    assert repr(PredefinedFolds([([0], [1])])) == "PredefinedFolds(folds=<1>, buffer=0.0)"
    knndm = KNNDM(np.zeros((7, 2)), 3, buffer=10)
    assert repr(knndm) == "KNNDM(targets=<7>, n_splits=3, max_share=0.5, random_state=0, buffer=10)"


@pytest.mark.parametrize(
    "splitter",
    [
        KFold(4),
        ClusterKFold(500, 4),
        LeaveOneRegionOut(quadrants(50_000), "name", buffer=100),
        KNNDM(np.random.default_rng(1).uniform(0, 1e5, (50, 2)), 4),
        PredefinedFolds([(range(100), range(100, 200)), (range(200, 400), range(100))] * 2),
    ],
)
def test_scikit_learn_takes_every_splitter(splitter):
    model_selection = pytest.importorskip("sklearn.model_selection")
    from sklearn.neighbors import KNeighborsRegressor

    xy = clustered(400)
    assert splitter.get_n_splits(xy) == 4
    scores = model_selection.cross_val_score(KNeighborsRegressor(), xy, xy[:, 0], cv=splitter)
    listed = model_selection.cross_val_score(KNeighborsRegressor(), xy, xy[:, 0], cv=list(splitter.split(xy)))
    assert len(scores) == 4
    np.testing.assert_array_equal(scores, listed)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BlockKFold(0), "side is 0"),
        (lambda: BlockKFold(1000, n_splits=1), "1 folds"),
        (lambda: list(BlockKFold(1e6).split(clustered())), "lie in . blocks of 1e.06, too few for 5 folds; use smaller"),
        (lambda: list(BlockKFold(1e3).split(np.zeros((5, 3)))), r"shape \(5, 3\)"),
        (lambda: list(BlockKFold(1e3).split(frame(clustered(9), None))), "points carry no CRS; set it with set_crs"),
        (lambda: list(BlockKFold(1e3).split(gpd.GeoSeries([Point(), Point(1, 2)], crs=3338))), "1 of 2 points have no finite"),
        (lambda: list(BlockKFold(1e3).split(quadrants())), "4 of 4 points have no finite coordinates; drop them"),
        (lambda: KFold(1), "1 folds leave nothing"),
        (lambda: KFold(buffer=-1), "buffer is -1; it must be a number, 0 or more"),
        (lambda: KFold(buffer="1km"), "buffer is '1km'; it must be a number"),
        (lambda: KFold(3.0), "3.0 folds leave nothing"),
        (lambda: LeaveOneRegionOut("zones.gpkg"), "regions are a str; give a GeoDataFrame"),
        (lambda: PredefinedFolds(np.zeros(4)), "Fold 0 is .*give a pair of training and test indices"),
        (lambda: KFold(buffer=np.nan), "buffer is nan"),
        (lambda: list(KFold(5).split(np.zeros((3, 2)))), "only 3 points, too few for 5 folds; use fewer folds"),
        (lambda: ClusterKFold(0), "distance between clusters is 0; it must be a positive number"),
        (lambda: ClusterKFold("10km"), "distance between clusters is '10km'; it must be a positive number"),
        (lambda: LeaveOneRegionOut(quadrants()[:0]), r"The 0 regions are of set\(\); give polygons"),
        (lambda: LeaveOneRegionOut(frame(clustered(5))), r"The 5 regions are of {'Point'}; give polygons"),
        (lambda: LeaveOneRegionOut(quadrants().set_crs(None, allow_override=True)), "regions carry no CRS"),
        (lambda: LeaveOneRegionOut(quadrants().to_crs(4326), buffer=9), "regions are in degrees .* need a projected CRS"),
        (lambda: LeaveOneRegionOut(quadrants(), "nom"), "no column 'nom'; the columns are .'name', 'geometry'"),
        (lambda: LeaveOneRegionOut(quadrants()).get_n_splits(), "give get_n_splits the points"),
        (
            lambda: list(LeaveOneRegionOut(quadrants()).split([[500, 600], [700, 800]])),
            r"cover \(500, 600, 700, 800\) and the regions \(0, 0, 200, 200\) in NAD83 / Alaska Albers. Check the CRS",
        ),
        (lambda: list(LeaveOneRegionOut(quadrants(), "name").split([[1, 1], [2, 2]])), "All 2 points lie in region 'sw'"),
        (lambda: KNNDM([[0, 0]], 5, max_share=0.2), "max_share of 0.2 does not suit 5 folds; use more than 0.2, up to 1"),
        (lambda: KNNDM([[0, 0]], 5).match(np.zeros((3, 2))), "only 3 points, too few for 5 folds"),
        (lambda: KNNDM([[0, 0]], 5, buffer=10).match(np.eye(2)[[0, 1] * 5]), "No 5 folds of 10 points keep to .*buffer=10; raise"),
        (lambda: KNNDM(np.zeros((4, 3))).match(clustered(50)), r"shape \(4, 3\)"),
        (lambda: PredefinedFolds([]), "There are no folds"),
        (lambda: PredefinedFolds([([0], [1]), ([], [1])]), "Fold 1 has no training points"),
        (lambda: PredefinedFolds([([0, 3], [3, 1])]), "Fold 0 has 1 points in both training and test, such as 3"),
        (lambda: PredefinedFolds([([True, False], [False, True])]), "Fold 0 is of bool and bool; give indices"),
        (lambda: PredefinedFolds([([0, -3], [1])]), "give indices, integers from 0"),
        (lambda: list(PredefinedFolds([([0, 3], [9])]).split(range(9))), "hold index 9 and there are 9 points"),
        (lambda: separate(np.full((5, 2), np.nan), fraction=0.2, size=10, seed=0), "finite coordinates"),
        (lambda: separate(clustered(), fraction=1.0, size=10, seed=0), "leaves one side empty"),
        (lambda: separate(clustered(), fraction=0.2, size=-1, seed=0), "must be a positive number"),
        (lambda: separate(np.ones((5, 2)), fraction=0.2, size=1, seed=0), "at one place"),
        (lambda: separate(np.ones((1, 2)), fraction=0.2, size=1, seed=0), "at one place"),
    ],
)
def test_splits_that_cannot_be_made_are_refused(call, message):
    with pytest.raises(PointsError, match=message):
        call()


@pytest.mark.parametrize("kind", [BlockKFold, ClusterKFold])
def test_too_few_groups_get_a_length_that_gives_enough(kind):
    xy = np.random.default_rng(0).uniform(0, 1200, (80, 2))
    with pytest.raises(
        PointsError, match=r"80 points, which cover 1,1.* x 1,1.* lie in 1 .* of ([\d.e+]+), which gives (\d+),"
    ) as told:
        list(kind(1e5).split(xy))
    length, count = re.search(r"such as a \w+ of ([\d.e+]+), which gives (\d+),", str(told.value)).groups()
    assert int(count) >= 5
    assert len(list(kind(float(length)).split(xy))) == 5


def test_targets_that_are_a_dataset_get_a_line_that_works():
    ds = xr.Dataset(coords={"y": [30.0, 20.0, 10.0], "x": [5.0, 15.0]})
    xy = np.random.default_rng(0).uniform(0, 30, (40, 2))
    with pytest.raises(PointsError, match="A Dataset is no list of places") as told:
        list(KNNDM(ds, 3).split(xy))
    line = str(told.value).split(": ")[1].removesuffix(".")
    targets = eval(line, {"np": np, "ds": ds})
    assert sorted(map(tuple, targets)) == [(x, y) for x in (5, 15) for y in (10, 20, 30)]
    assert len(list(KNNDM(targets, 3).split(xy))) == 3


def test_a_table_without_places_is_told_to_be_read_first():
    table = pd.DataFrame({"lon": [-150.0, -149.0], "lat": [64.0, 65.0], "permafrost": [0, 1]})
    with pytest.raises(PointsError, match=r"give misoxr\.read_points\(table\)"):
        list(BlockKFold(1000, 2).split(table))
