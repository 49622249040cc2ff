"""Labels that other labels tell: by how many points, how surely, and never against a label of a point's own."""

import geopandas as gpd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from misoxr.errors import MisoxrWarning
from misoxr.points import transfer_labels
from misoxr.points.read import encode
from misoxr.points.transfer import Transfer, transferred, transfers
from misoxr.spec import PERMAFROST, TAXONOMY, Task

CARBON = Task("carbon", "regression")
GELISOLS, HISTOSOLS, MOLLISOLS = (TAXONOMY.classes.index(name) for name in ("Gelisols", "Histosols", "Mollisols"))


def made(counts, lacking=()):
    """Permafrost and taxonomy of points, by how many there are of each pair, and orders of points without permafrost."""
    pairs = [pair for pair, count in counts.items() for _ in range(count)] + [(np.nan, order) for order in lacking]
    permafrost, taxonomy = np.array(pairs, dtype=float).T
    return {"permafrost": permafrost, "taxonomy": taxonomy}


def test_a_soil_order_tells_of_permafrost_by_its_certainty():
    labels = made({(1, GELISOLS): 40, (0, MOLLISOLS): 40, (1, HISTOSOLS): 10, (0, HISTOSOLS): 10}, [GELISOLS, MOLLISOLS, HISTOSOLS])
    filled, weights = transferred(labels, transfers([PERMAFROST, TAXONOMY], labels))
    assert filled["permafrost"][-3:-1].tolist() == [1, 0]
    assert (weights["permafrost"][-3:-1] > 0.6).all()
    assert weights["permafrost"][-1] < 0.01
    assert (weights["permafrost"][:-3] == 1).all()
    np.testing.assert_array_equal(filled["permafrost"][:-3], labels["permafrost"][:-3])


def test_what_tells_nothing_is_not_transferred():
    """Where nearly all points have permafrost, an order that has as much tells nothing of it."""
    labels = made({(1, GELISOLS): 90, (0, GELISOLS): 10, (1, MOLLISOLS): 90, (0, MOLLISOLS): 10}, [GELISOLS, MOLLISOLS])
    assert transfers([PERMAFROST, TAXONOMY], labels) == []


def test_a_class_that_no_point_with_both_labels_has_tells_nothing():
    labels = made({(1, GELISOLS): 40, (0, MOLLISOLS): 40}, [HISTOSOLS])
    filled, weights = transferred(labels, transfers([PERMAFROST, TAXONOMY], labels))
    assert np.isnan(filled["permafrost"][-1])
    assert weights["permafrost"][-1] == 0


def test_few_points_with_both_labels_tell_nothing():
    labels = made({(1, GELISOLS): 14, (0, MOLLISOLS): 15}, [GELISOLS])
    assert transfers([PERMAFROST, TAXONOMY], labels) == []


@pytest.mark.parametrize(("count", "weight"), [(1, 0.01), (2, 0.05), (5, 0.2)])
def test_a_few_points_do_not_outweigh_all_others(count, weight):
    """One point with both labels may tell hundreds that lack the one."""
    labels = made({(1, GELISOLS): 42, (0, GELISOLS): 18, (1, HISTOSOLS): count}, [HISTOSOLS] * 500)
    _, weights = transferred(labels, transfers([PERMAFROST, TAXONOMY], labels))
    assert (weights["permafrost"][-500:] < weight).all()


def test_a_label_that_counts_less_tells_nothing_and_is_not_told():
    """What is not sure of itself makes no other label sure; it stays, by its own weight."""
    labels = made({(1, GELISOLS): 40, (0, MOLLISOLS): 40})
    labels = {
        name: np.concatenate([values, added]) for (name, values), added in zip(labels.items(), [[0, 0], [np.nan] * 2], strict=True)
    }
    labels = {name: np.concatenate([labels[name], [added]]) for name, added in (("permafrost", 0), ("taxonomy", GELISOLS))}
    counts = {"permafrost": np.array([1.0] * 80 + [1.0, 0.1, 0.1])}
    tables = transfers([PERMAFROST, TAXONOMY], labels, counts)
    assert [(table.source, table.target, sum(table.points)) for table in tables] == [("permafrost", "taxonomy", 80)]
    filled, weights = transferred(labels, tables, counts)
    assert filled["taxonomy"][80] == MOLLISOLS
    assert weights["taxonomy"][80] > 0.6
    assert np.isnan(filled["taxonomy"][81])
    assert weights["taxonomy"][81] == 0
    assert filled["permafrost"][82] == 0
    np.testing.assert_array_equal(weights["permafrost"], counts["permafrost"])


def test_tasks_that_have_nothing_to_do_with_each_other_tell_next_to_nothing():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(50):
        labels = {"permafrost": rng.integers(0, 2, 120).astype(float), "taxonomy": rng.integers(0, 7, 120).astype(float)}
        labels["permafrost"][:60] = np.nan
        found.append(transferred(labels, transfers([PERMAFROST, TAXONOMY], labels))[1]["permafrost"][:60].mean())
    assert np.mean(found) < 0.03


def test_two_points_of_a_class_are_less_certain_than_forty():
    labels = made({(1, GELISOLS): 40, (0, MOLLISOLS): 40, (1, HISTOSOLS): 2}, [GELISOLS, HISTOSOLS])
    (table,) = transfers([PERMAFROST, TAXONOMY], labels)
    assert table.weights[HISTOSOLS] < table.weights[GELISOLS]
    assert table.points[HISTOSOLS] == 2


@pytest.mark.parametrize(("source", "target"), [(CARBON, PERMAFROST), (PERMAFROST, CARBON)])
def test_regressions_tell_and_are_told(source, target):
    rng = np.random.default_rng(0)
    permafrost = rng.integers(0, 2, 200).astype(float)
    labels = {"permafrost": permafrost, "carbon": 20 + 10 * permafrost + rng.standard_normal(200)}
    truth = labels[target.name][:50].copy()
    labels[target.name][:50] = np.nan
    filled, weights = transferred(labels, transfers([source, target], labels))
    assert (weights[target.name][:50] > 0).mean() > 0.7
    told = weights[target.name][:50] > 0
    assert np.abs(filled[target.name][:50][told] - truth[told]).mean() < (0.1 if target is PERMAFROST else 1.5)


def test_the_table_of_a_regression_has_groups_of_about_equal_size():
    labels = {"permafrost": np.arange(100.0) // 50, "carbon": np.arange(100.0)}
    table = Transfer.fit(CARBON, PERMAFROST, labels)
    assert table.points == (20,) * 5
    assert table.labels == (0, 0, 0, 1, 1) or table.labels == (0, 0, 1, 1, 1)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_own_labels_stay_and_weights_are_shares(data):
    count = data.draw(st.integers(1, 80))
    draw = lambda top: np.array(data.draw(st.lists(st.sampled_from([*range(top), np.nan]), min_size=count, max_size=count)), float)  # noqa: E731
    labels = {"permafrost": draw(2), "taxonomy": draw(7), "carbon": draw(5)}
    tasks = [PERMAFROST, TAXONOMY, CARBON]
    filled, weights = transferred(labels, transfers(tasks, labels))
    for task in tasks:
        own = np.isfinite(labels[task.name])
        np.testing.assert_array_equal(filled[task.name][own], labels[task.name][own])
        assert (weights[task.name][own] == 1).all()
        assert ((weights[task.name] >= 0) & (weights[task.name] <= 1)).all()
        np.testing.assert_array_equal(np.isfinite(filled[task.name]), weights[task.name] > 0)


def test_points_get_names_weights_and_the_table():
    points = gpd.GeoDataFrame(
        {
            "permafrost": [True] * 30 + [False] * 30 + [None, None],
            "taxonomy": ["Gelisols"] * 30 + ["Mollisols"] * 30 + ["Gelisols", None],
            "site": range(62),
        },
        geometry=gpd.points_from_xy(range(62), range(62)),
        crs="EPSG:3338",
    )
    filled = transfer_labels(points, [PERMAFROST, TAXONOMY])
    assert filled.permafrost.iloc[60] == "present"
    assert filled.permafrost.iloc[61] is None
    assert filled.taxonomy.iloc[61] is None
    assert filled.permafrost_weight.iloc[60] > 0.6
    assert filled.permafrost_weight.iloc[61] == 0
    assert set(filled.permafrost.iloc[:60]) == {"present", "absent"}
    np.testing.assert_array_equal(encode(filled, [PERMAFROST])["permafrost"][:60], [1.0] * 30 + [0.0] * 30)
    assert list(filled.site) == list(range(62))
    assert "permafrost_weight" not in points
    (table,) = filled.attrs["transfer"]
    assert (table["source"], table["target"], sum(table["points"])) == ("taxonomy", "permafrost", 60)


def test_points_that_stopped_above_the_depth_tell_nothing():
    """By hand: of the last three, "absent" down to 1.5 m tells an order; down to 0.1 m it does not; "present" does at any depth."""
    points = gpd.GeoDataFrame(
        {
            "permafrost": ["present"] * 30 + ["absent"] * 30 + ["absent", "absent", "present"],
            "taxonomy": ["Gelisols"] * 30 + ["Mollisols"] * 30 + [None] * 3,
            "depth": [1.5] * 60 + [1.5, 0.1, 0.1],
        },
        geometry=gpd.points_from_xy(range(63), range(63)),
        crs="EPSG:3338",
    )
    with pytest.warns(MisoxrWarning, match="1 labels 'absent' of 'permafrost' are censored"):
        filled = transfer_labels(points, [PERMAFROST, TAXONOMY])
    assert filled.taxonomy.tolist()[60:] == ["Mollisols", None, "Gelisols"]
    assert filled.taxonomy_weight.iloc[61] == 0
    assert filled.permafrost.tolist() == points.permafrost.tolist()
    np.testing.assert_allclose(filled.permafrost_weight, [1.0] * 61 + [0.1, 1.0])
