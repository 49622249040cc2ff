"""Splitting by where points lie: whole blocks, balanced, repeatable."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from misoxr.errors import MisoxrWarning, PointsError
from misoxr.folds import BlockKFold, separate


def clustered(n: int = 2000, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 100_000, (60, 2))
    return centres[rng.integers(0, 60, n)] + rng.normal(0, 1500, (n, 2))


def blocks_of(xy: np.ndarray, size: float) -> list[tuple[float, float]]:
    return [tuple(block) for block in np.floor(xy / size)]


coordinates = st.integers(2, 80).flatmap(lambda n: arrays("float64", (n, 2), elements=st.floats(-5e4, 5e4)))


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BlockKFold(0), "side is 0"),
        (lambda: BlockKFold(1000, n_splits=1), "1 folds"),
        (lambda: list(BlockKFold(1e6).split(clustered())), "lie in . blocks of 1e.06, too few for 5 folds; use smaller"),
        (lambda: list(BlockKFold(1e3).split(np.zeros((5, 3)))), r"shape \(5, 3\)"),
        (lambda: separate(np.full((5, 2), np.nan), fraction=0.2, size=10, seed=0), "finite coordinates"),
        (lambda: separate(clustered(), fraction=1.0, size=10, seed=0), "leaves one side empty"),
        (lambda: separate(clustered(), fraction=0.2, size=-1, seed=0), "must be positive"),
        (lambda: separate(np.ones((5, 2)), fraction=0.2, size=1, seed=0), "at one place"),
        (lambda: separate(np.ones((1, 2)), fraction=0.2, size=1, seed=0), "at one place"),
    ],
)
def test_splits_that_cannot_be_made_are_refused(call, message):
    with pytest.raises(PointsError, match=message):
        call()
