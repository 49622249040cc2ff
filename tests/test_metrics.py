"""Scores against their definitions, written out by hand."""

import sys
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from misoxr.errors import MissingDependencyError, PointsError
from misoxr.metrics import scores
from misoxr.spec import PERMAFROST, TAXONOMY, Task

pytest.importorskip("sklearn")
DEPTH = Task("depth", "regression")


def test_binary_scores():
    truth = np.array([1, 1, 1, 0, 0, 0, 0, np.nan])
    probability = np.array([0.9, 0.8, 0.3, 0.6, 0.2, 0.1, 0.4, np.nan])
    found = scores(PERMAFROST, truth, probability)
    assert set(found) == {"accuracy", "balanced_accuracy", "precision", "recall", "f1", "roc_auc", "pr_auc"}
    assert found["accuracy"] == pytest.approx(5 / 7)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 3 / 4) / 2)
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["roc_auc"] == pytest.approx(10 / 12)
    assert found["pr_auc"] == pytest.approx((1 + 1 + 3 / 5) / 3)


def test_one_class_has_no_roc_auc_and_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        absent = scores(PERMAFROST, [0, 0, 0], [0.1, 0.2, 0.9])
        present = scores(PERMAFROST, [1, 1], [0.1, 0.9])
    assert np.isnan(absent["roc_auc"])
    assert np.isnan(absent["pr_auc"])
    assert absent["balanced_accuracy"] == pytest.approx(2 / 3)
    assert (absent["precision"], absent["recall"]) == (0, 0)
    assert np.isnan(present["roc_auc"])
    assert present["pr_auc"] == 1


def test_multiclass_scores_are_means_over_the_classes_that_occur():
    truth = np.array([0, 0, 0, 2, 2, 5, np.nan])
    predicted = np.array([0, 0, 2, 2, 4, 5, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = scores(TAXONOMY, truth, np.eye(7)[predicted])
    recall, precision = np.array([2 / 3, 1 / 2, 1]), np.array([1, 1 / 2, 1])
    f1 = 2 * recall * precision / (recall + precision)
    assert set(found) == {
        "accuracy", "balanced_accuracy", "macro_precision", "macro_recall", "macro_f1", "weighted_f1", "micro_f1"
    }  # fmt: skip
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["balanced_accuracy"] == found["macro_recall"] == pytest.approx(recall.mean())
    assert found["macro_precision"] == pytest.approx(precision.mean())
    assert found["macro_f1"] == pytest.approx(f1.mean())
    assert found["weighted_f1"] == pytest.approx((f1 * [3, 2, 1]).sum() / 6)
    assert found["micro_f1"] == pytest.approx(4 / 6)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=40))
def test_multiclass_scores_stay_between_nought_and_one(pairs):
    truth, predicted = np.array(pairs).T
    found = scores(TAXONOMY, truth, np.eye(7)[predicted])
    assert all(0 <= value <= 1 for value in found.values())
    assert (found["macro_f1"] == 1) == (truth == predicted).all()


def test_regression_scores():
    found = scores(DEPTH, [1.0, 2.0, 3.0, np.nan], [1.0, 3.0, 1.0, 9.0])
    assert found == {"rmse": pytest.approx(np.sqrt(5 / 3)), "mae": pytest.approx(1.0), "r2": pytest.approx(1 - 5 / 2)}
    assert np.isnan(scores(DEPTH, [2.0, 2.0], [1.0, 2.0])["r2"])


@pytest.mark.parametrize(
    ("task", "truth", "probability", "message"),
    [
        (PERMAFROST, [np.nan, np.nan], [0.1, 0.2], "None of 2 points has a label of 'permafrost'"),
        (PERMAFROST, [], [], "None of 0 points"),
        (PERMAFROST, [0, 1], [0.1], r"shape \(1,\)"),
        (TAXONOMY, [0, 1], [0.1, 0.2], r"need \(2, 7\)"),
        (PERMAFROST, [0, 1, np.nan], [np.nan, 0.2, np.nan], "1 of 2 labelled points have no prediction"),
        (TAXONOMY, [0, 1], np.full((2, 7), np.nan), "2 of 2 labelled points"),
    ],
)
def test_what_cannot_be_scored_is_refused(task, truth, probability, message):
    with pytest.raises(PointsError, match=message):
        scores(task, truth, probability)


def test_without_scikit_learn_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'misoxr\[train\]'"):
        scores(PERMAFROST, [0, 1], [0.1, 0.9])
