"""Scores against their definitions, written out by hand, and against scikit-learn's."""

import sys
import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from misoxr.cube.variables import class_map
from misoxr.errors import MissingDependencyError, PointsError
from misoxr.metrics import class_scores, confusion, predicted_codes, reliability, scores
from misoxr.spec import PERMAFROST, TAXONOMY, Task

metrics = pytest.importorskip("sklearn.metrics")
DEPTH = Task("depth", "regression")
DRAINAGE = Task("drainage", "multiclass", ("dry", "moist", "wet"))
THREE = ("precision", "recall", "f1")
SHARED = {
    "accuracy", "balanced_accuracy", "macro_precision", "macro_recall", "macro_f1", "micro_precision", "micro_recall", "micro_f1",
    "weighted_precision", "weighted_recall", "weighted_f1", "roc_auc", "pr_auc", "brier", "brier_skill", "log_loss", "ece",
}  # fmt: skip


def later(probability):
    """The most probable class of each point, and of equal ones the later."""
    return np.array([max(range(len(row)), key=lambda code: (row[code], code)) for row in probability])


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def drawn(seed: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Truth and probabilities (point, class): few points or many, some or all classes, sharp or vague, with ties or without."""
    rng = np.random.default_rng(seed)
    n = int(rng.choice([1, 2, 5, 30, 200]))
    truth = rng.choice(rng.choice(classes, rng.integers(1, classes + 1), replace=False), n)
    probability = rng.dirichlet(np.full(classes, rng.choice([0.05, 0.5, 5.0])), n)
    if seed % 3 == 1:  # ties, and probabilities on the edges of bins
        probability = rng.multinomial(10, probability) / 10
    if seed % 3 == 2:  # certain
        probability = np.eye(classes)[probability.argmax(axis=1)]
    return truth.astype(float), probability


def naive_brier_skill(truth: np.ndarray, probability: np.ndarray) -> tuple[float, float]:
    brier = reference = 0.0
    for code, given_ in zip(truth, probability, strict=True):
        for k, value in enumerate(given_):
            brier += (value - (k == code)) ** 2 / len(truth)
            reference += (np.mean(truth == k) - (k == code)) ** 2 / len(truth)
    return brier, 1 - brier / reference if len(set(truth)) > 1 else np.nan


def naive_ece(stated: np.ndarray, true: np.ndarray) -> float:
    total = 0.0
    for k in range(10):
        inside = [i for i, p in enumerate(stated) if k / 10 < p <= (k + 1) / 10 or (k == 0 and p == 0)]
        if inside:
            gap = sum(stated[i] for i in inside) / len(inside) - sum(bool(true[i]) for i in inside) / len(inside)
            total += abs(gap) * len(inside) / len(stated)
    return total


def averages(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Scikit-learn's averages, macro over the classes that occur in the truth."""
    functions = dict(zip(THREE, (metrics.precision_score, metrics.recall_score, metrics.f1_score), strict=True))
    wanted = {"accuracy": metrics.accuracy_score(truth, predicted)}
    for name, function in functions.items():
        wanted[f"macro_{name}"] = function(truth, predicted, average="macro", labels=np.unique(truth), zero_division=0)
        wanted[f"micro_{name}"] = function(truth, predicted, average="micro", zero_division=0)
        wanted[f"weighted_{name}"] = function(truth, predicted, average="weighted", zero_division=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes predicted and not in the truth
        wanted["balanced_accuracy"] = metrics.balanced_accuracy_score(truth, predicted)
    return wanted


@pytest.mark.parametrize("seed", range(60))
def test_binary_scores_are_scikit_learn_s(seed):
    truth, probability = drawn(seed, 2)
    probability = probability[:, 1]
    predicted = (probability >= 0.5).astype(float)
    found = scores(PERMAFROST, truth, probability)
    wanted = averages(truth, predicted)
    positive, one_class = truth.any(), len(set(truth)) == 1
    nothing = not positive and not predicted.any()
    wanted["precision"] = np.nan if nothing else metrics.precision_score(truth, predicted, zero_division=0)
    wanted["recall"] = metrics.recall_score(truth, predicted, zero_division=np.nan)
    wanted["f1"] = np.nan if nothing else metrics.f1_score(truth, predicted, zero_division=0)
    wanted["roc_auc"] = np.nan if one_class else metrics.roc_auc_score(truth, probability)
    wanted["pr_auc"] = metrics.average_precision_score(truth, probability) if positive else np.nan
    wanted["brier"] = metrics.brier_score_loss(truth, probability, pos_label=1)
    wanted["brier_skill"] = naive_brier_skill(truth, np.stack([1 - probability, probability], axis=1))[1]
    wanted["log_loss"] = metrics.log_loss(truth, probability, labels=[0, 1])
    wanted["ece"] = naive_ece(probability, truth == 1)
    assert set(found) == SHARED | set(THREE)
    assert found == pytest.approx(wanted, nan_ok=True, abs=1e-12)


@pytest.mark.parametrize("seed", range(60))
def test_multiclass_scores_are_scikit_learn_s(seed):
    truth, probability = drawn(seed, 7)
    predicted = later(probability).astype(float)
    found = scores(TAXONOMY, truth, probability)
    wanted = averages(truth, predicted)
    areas = [metrics.roc_auc_score(truth == k, probability[:, int(k)]) for k in set(truth) if len(set(truth)) > 1]
    wanted["roc_auc"] = np.mean(areas) if areas else np.nan
    wanted["pr_auc"] = np.mean([metrics.average_precision_score(truth == k, probability[:, int(k)]) for k in set(truth)])
    wanted["brier"], wanted["brier_skill"] = naive_brier_skill(truth, probability)
    wanted["log_loss"] = metrics.log_loss(truth, probability, labels=range(7))
    wanted["ece"] = naive_ece(probability.max(axis=1), predicted == truth)
    assert set(found) == SHARED
    assert found == pytest.approx(wanted, nan_ok=True, abs=1e-12)
    if len(set(truth)) == 7:
        assert found["roc_auc"] == pytest.approx(metrics.roc_auc_score(truth, probability, multi_class="ovr"))


@pytest.mark.parametrize("task", [PERMAFROST, TAXONOMY], ids=lambda task: task.kind)
@pytest.mark.parametrize("seed", range(30))
def test_class_scores_are_scikit_learn_s_of_one_class_against_the_rest(task, seed):
    truth, probability = drawn(seed, len(task.classes))
    found = class_scores(task, truth, probability if task.kind == "multiclass" else probability[:, 1])
    predicted = later(probability) if task.kind == "multiclass" else (probability[:, 1] >= 0.5).astype(int)
    if task.kind == "binary":  # 1 - p ties small probabilities, -p does not
        probability = np.stack([-probability[:, 1], probability[:, 1]], axis=1)
    assert tuple(found.index) == task.classes
    assert found.index.name == "class"
    assert list(found.columns) == [*THREE, "roc_auc", "pr_auc", "support", "predicted"]
    for k, name in enumerate(task.classes):
        mine, hit, row = truth == k, predicted == k, found.loc[name]
        assert (row["support"], row["predicted"]) == (mine.sum(), hit.sum())
        wanted = {
            "precision": metrics.precision_score(mine, hit, zero_division=0) if mine.any() or hit.any() else np.nan,
            "recall": metrics.recall_score(mine, hit, zero_division=0) if mine.any() else np.nan,
            "f1": metrics.f1_score(mine, hit, zero_division=0) if mine.any() or hit.any() else np.nan,
            "roc_auc": metrics.roc_auc_score(mine, probability[:, k]) if 0 < mine.sum() < len(truth) else np.nan,
            "pr_auc": metrics.average_precision_score(mine, probability[:, k]) if mine.any() else np.nan,
        }
        assert dict(row[list(wanted)]) == pytest.approx(wanted, nan_ok=True)


@pytest.mark.parametrize("task", [PERMAFROST, TAXONOMY], ids=lambda task: task.kind)
@pytest.mark.parametrize("seed", range(10))
def test_confusion_counts_every_class(task, seed):
    truth, probability = drawn(seed, len(task.classes))
    found = confusion(task, truth, probability if task.kind == "multiclass" else probability[:, 1])
    predicted = later(probability) if task.kind == "multiclass" else (probability[:, 1] >= 0.5).astype(int)
    wanted = np.zeros((len(task.classes),) * 2, dtype=int)
    for i, j in zip(truth.astype(int), predicted, strict=True):
        wanted[i, j] += 1
    names = list(task.classes)
    expected = pd.DataFrame(wanted, pd.Index(names, name="truth"), pd.Index(names, name="predicted"))
    pd.testing.assert_frame_equal(found, expected)


def test_binary_scores():
    truth = np.array([1, 1, 1, 0, 0, 0, 0, np.nan])
    probability = np.array([0.9, 0.8, 0.3, 0.6, 0.2, 0.1, 0.4, np.nan])
    found = scores(PERMAFROST, truth, probability)
    assert found["accuracy"] == pytest.approx(5 / 7)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 3 / 4) / 2)
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["roc_auc"] == pytest.approx(10 / 12)
    assert found["pr_auc"] == pytest.approx((1 + 1 + 3 / 5) / 3)
    assert found["brier"] == pytest.approx((0.01 + 0.04 + 0.49 + 0.36 + 0.04 + 0.01 + 0.16) / 7)
    assert found["brier_skill"] == pytest.approx(1 - found["brier"] / (3 / 7 * 4 / 7))


def test_scores_that_are_not_defined_are_nan_and_all_others_finite():
    absent = scores(PERMAFROST, [0, 0, 0], [0.1, 0.2, 0.9])
    assert {name for name, value in absent.items() if np.isnan(value)} == {"recall", "roc_auc", "pr_auc", "brier_skill"}
    assert absent["balanced_accuracy"] == pytest.approx(2 / 3)
    assert (absent["precision"], absent["f1"]) == (0, 0)
    nothing = scores(PERMAFROST, [0], [0.0])
    undefined = {"precision", "recall", "f1", "roc_auc", "pr_auc", "brier_skill"}
    assert {name for name, value in nothing.items() if np.isnan(value)} == undefined
    present = scores(PERMAFROST, [1, 1], [0.1, 0.9])
    assert {name for name, value in present.items() if np.isnan(value)} == {"roc_auc", "brier_skill"}
    assert present["pr_auc"] == 1
    certain = scores(PERMAFROST, [0, 1], [1.0, 0.0])
    assert np.isfinite(list(certain.values())).all()
    one = scores(TAXONOMY, [3], np.eye(7)[[2]])
    assert {name for name, value in one.items() if np.isnan(value)} == {"roc_auc", "brier_skill"}
    assert np.isinf(list(one.values())).sum() == 0


def test_a_class_missing_from_truth_or_predictions():
    found = class_scores(TAXONOMY, [0, 0, 1, 1], np.eye(7)[[0, 2, 0, 0]])
    wanted = pd.DataFrame(
        {
            "precision": [1 / 3, 0, 0, np.nan],
            "recall": [0.5, 0, np.nan, np.nan],
            "f1": [0.4, 0, 0, np.nan],
            "roc_auc": [0.25, 0.5, np.nan, np.nan],
            "pr_auc": [0.5 * 1 / 3 + 0.5 * 2 / 4, 0.5, np.nan, np.nan],
            "support": [2, 2, 0, 0],
            "predicted": [3, 0, 1, 0],
        },
        index=pd.Index(TAXONOMY.classes[:4], name="class"),
    )
    pd.testing.assert_frame_equal(found.iloc[:4], wanted, check_dtype=False)


def test_small_probabilities_rank_in_both_classes():
    found = class_scores(PERMAFROST, [0, 1, 0], [1e-20, 2e-20, 0.5])
    assert found["roc_auc"].tolist() == [0.5, 0.5]
    assert class_scores(PERMAFROST, [0, 1], [1e-20, 2e-20])["roc_auc"].tolist() == [1, 1]


def test_multiclass_scores_are_means_over_the_classes_that_occur():
    truth = np.array([0, 0, 0, 2, 2, 5, np.nan])
    predicted = np.array([0, 0, 2, 2, 4, 5, 0])
    found = scores(TAXONOMY, truth, np.eye(7)[predicted])
    recall, precision = np.array([2 / 3, 1 / 2, 1]), np.array([1, 1 / 2, 1])
    f1 = 2 * recall * precision / (recall + precision)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["balanced_accuracy"] == found["macro_recall"] == pytest.approx(recall.mean())
    assert found["macro_precision"] == pytest.approx(precision.mean())
    assert found["macro_f1"] == pytest.approx(f1.mean())
    assert found["weighted_f1"] == pytest.approx((f1 * [3, 2, 1]).sum() / 6)
    assert found["micro_f1"] == pytest.approx(4 / 6)
    assert found["brier"] == pytest.approx(2 * 2 / 6)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=40))
def test_multiclass_scores_stay_between_nought_and_one(pairs):
    truth, predicted = np.array(pairs).T
    found = scores(TAXONOMY, truth, np.eye(7)[predicted])
    skill = found.pop("brier_skill")
    assert not skill > 1
    assert 0 <= found.pop("brier") <= 2
    assert 0 <= found.pop("log_loss") < 37
    assert np.isnan(found.pop("roc_auc")) == (len(set(truth)) == 1)
    assert all(0 <= value <= 1 for value in found.values())
    assert (found["macro_f1"] == 1) == (truth == predicted).all()


@pytest.mark.parametrize("seed", range(10))
def test_regression_scores_are_scikit_learn_s(seed):
    rng = np.random.default_rng(seed)
    truth, predicted = rng.normal(3, 2, (2, rng.integers(2, 50)))
    wanted = {
        "rmse": metrics.root_mean_squared_error(truth, predicted),
        "mae": metrics.mean_absolute_error(truth, predicted),
        "r2": metrics.r2_score(truth, predicted),
        "bias": predicted.mean() - truth.mean(),
    }
    assert scores(DEPTH, [np.nan, *truth], [9.0, *predicted]) == pytest.approx(wanted)


def test_regression_scores():
    found = scores(DEPTH, [1.0, 2.0, 3.0, np.nan], [1.0, 3.0, 1.0, 9.0])
    assert found == pytest.approx({"rmse": np.sqrt(5 / 3), "mae": 1.0, "r2": 1 - 5 / 2, "bias": -1 / 3})
    assert np.isnan(scores(DEPTH, [2.0, 2.0], [1.0, 2.0])["r2"])
    assert np.isnan(scores(DEPTH, [0.1 + 0.2, 0.3], [0.3, 0.4])["r2"]), "equal but for rounding"
    assert scores(DEPTH, [1e9, 1e9 + 1, 1e9 + 2], [1e9, 1e9 + 1, 1e9 + 4])["r2"] == pytest.approx(-1)
    single = scores(DEPTH, [2.0], [5.0])
    assert np.isnan(single.pop("r2"))
    assert single == {"rmse": 3, "mae": 3, "bias": 3}


@pytest.mark.parametrize("bins", [1, 4, 10])
def test_reliability_is_scikit_learn_s_curve_with_the_empty_bins(bins):
    calibration = pytest.importorskip("sklearn.calibration")
    rng = np.random.default_rng(1)
    probability = rng.random(300) ** 4
    truth = (rng.random(300) < probability).astype(float)
    probability[probability > 0.75] = 0.7
    found = reliability(PERMAFROST, [*truth, np.nan], [*probability, 0.9], bins)
    assert list(found.columns) == ["lower", "upper", "probability", "frequency", "count"]
    assert len(found) == bins
    assert found["lower"].tolist() == [k / bins for k in range(bins)]
    assert found["upper"].tolist() == [(k + 1) / bins for k in range(bins)]
    assert found["count"].sum() == 300
    assert (found["count"] == 0).tolist() == found["probability"].isna().tolist() == found["frequency"].isna().tolist()
    assert (found["count"] == 0).any() == (bins > 1)
    frequency, mean = calibration.calibration_curve(truth, probability, n_bins=bins)
    np.testing.assert_allclose(found["frequency"].dropna(), frequency)
    np.testing.assert_allclose(found["probability"].dropna(), mean)


def test_reliability_puts_an_edge_into_the_bin_below():
    found = reliability(PERMAFROST, [0, 0, 1, 1, 1], [0.0, 0.3, 0.6, 0.7, 1.0])
    assert found["count"].tolist() == [1, 0, 1, 0, 0, 1, 1, 0, 0, 1]
    assert found["frequency"].dropna().tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("trees", [10, 20, 30])
def test_shares_of_trees_stay_in_their_bin_in_single_precision(trees):
    """A forest's probabilities are k/10, and maps and predictions have them as float32: some round up, and some down."""
    votes = np.arange(trees + 1)
    for probability in ((votes / trees).astype("float32"), votes / trees, np.mean([votes / trees] * 3, axis=0, dtype="float32")):
        found = reliability(PERMAFROST, votes % 2, probability)
        assert found["count"].tolist() == [trees // 10 + 1, *[trees // 10] * 9]
        exact = scores(PERMAFROST, votes % 2, votes / trees)["ece"]
        assert scores(PERMAFROST, votes % 2, probability)["ece"] == pytest.approx(exact, abs=1e-6)
    above = reliability(PERMAFROST, votes % 2, np.clip(votes / trees + 1e-6, 0, 1))
    assert above["count"].tolist()[0] == trees // 10


def test_multiclass_reliability_is_of_the_confidence():
    probability = np.array([[0.85, 0.15, 0, 0, 0, 0, 0], [0.1, 0.9, 0, 0, 0, 0, 0], [0.25, 0.25, 0.5, 0, 0, 0, 0]])
    found = reliability(TAXONOMY, [0, 0, 2], probability)
    assert found["count"].tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 2, 0]
    assert found["probability"].dropna().tolist() == pytest.approx([0.5, 0.875])
    assert found["frequency"].dropna().tolist() == [1, 0.5]
    assert scores(TAXONOMY, [0, 0, 2], probability)["ece"] == pytest.approx(0.5 / 3 + 2 / 3 * 0.375)


def test_probabilities_that_are_off_by_rounding_are_taken():
    truth = [0, 1, 1]
    found = scores(PERMAFROST, truth, [-1e-7, 1 + 1e-7, 0.75])
    assert found == scores(PERMAFROST, truth, [0.0, 1.0, 0.75])
    rounded = np.eye(7)[[0, 1, 2]] * 0.995
    found, exact = scores(TAXONOMY, [0, 1, 2], rounded), scores(TAXONOMY, [0, 1, 2], np.eye(7)[[0, 1, 2]])
    assert found["log_loss"] == exact["log_loss"]


@pytest.mark.parametrize(
    ("task", "truth", "probability", "message"),
    [
        (PERMAFROST, [np.nan, np.nan], [0.1, 0.2], "None of 2 points has a label of 'permafrost'"),
        (PERMAFROST, [], [], "None of 0 points"),
        (PERMAFROST, [0, 1], [0.1], r"shape \(1,\)"),
        (PERMAFROST, 1, 0.1, r"shape \(\)"),
        (TAXONOMY, [0, 1], [0.1, 0.2], r"need \(2, 7\)"),
        (PERMAFROST, [0, 1, np.nan], [np.nan, 0.2, np.nan], "1 of 2 labelled points have no prediction"),
        (TAXONOMY, [0, 1], np.full((2, 7), np.nan), "2 of 2 labelled points"),
        (PERMAFROST, [0, 2, 255], [0.1, 0.2, 0.3], "2 labels of 'permafrost' are no class code, 2 the first; use 0 to 1"),
        (PERMAFROST, [0.5, 1], [0.1, 0.2], "0.5 the first"),
        (PERMAFROST, [-1, 1], [0.1, 0.2], "-1 the first"),
        (PERMAFROST, [np.inf, 1], [0.1, 0.2], "inf the first"),
        (TAXONOMY, [7], np.eye(7)[[0]], "use 0 to 6"),
        (PERMAFROST, [0, 1], [-0.1, 0.2], "reach from -0.1 to 0.2, outside 0 to 1"),
        (PERMAFROST, [0, 1], [0.1, 3.5], "apply the sigmoid"),
        (TAXONOMY, [0, 1], np.eye(7)[[0, 1]] * 1.5, "outside 0 to 1"),
        (TAXONOMY, [0, 1], np.full((2, 7), 0.5), "sum to 3.5 at a point"),
    ],
)
def test_what_cannot_be_scored_is_refused(task, truth, probability, message):
    for function in (scores, class_scores, confusion, reliability):
        with pytest.raises(PointsError, match=message):
            function(task, truth, probability)


def test_what_no_regression_can_be_scored_by_is_refused():
    with pytest.raises(PointsError, match="1 labels of 'depth' are infinite"):
        scores(DEPTH, [1.0, np.inf], [1.0, 2.0])
    for function in (class_scores, confusion, reliability):
        with pytest.raises(PointsError, match="'depth' is a regression and has no classes; use scores"):
            function(DEPTH, [1.0], [1.0])
    with pytest.raises(PointsError, match="bins is 0; give 1 or more"):
        reliability(PERMAFROST, [0, 1], [0.1, 0.9], 0)


def test_without_scikit_learn_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'misoxr\[train\]'"):
        scores(PERMAFROST, [0, 1], [0.1, 0.9])


def test_of_two_classes_as_probable_the_later_counts_as_in_maps():
    equal = np.array([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [0.4, 0.2, 0.4], [0.25, 0.5, 0.25]], dtype="float32")
    np.testing.assert_array_equal(predicted_codes(DRAINAGE, equal), [1, 2, 2, 1])
    maps = class_map(
        xr.DataArray(equal.T, dims=("drainage_class", "x")).chunk(),
        xr.DataArray(np.zeros(4, "uint8"), dims="x", attrs={"flag_values": np.arange(3)}),
    )
    np.testing.assert_array_equal(maps, predicted_codes(DRAINAGE, equal))
    assert scores(DRAINAGE, [1, 2, 2, 1], equal)["accuracy"] == 1
    assert np.trace(confusion(DRAINAGE, [1, 2, 2, 1], equal)) == 4
    assert reliability(DRAINAGE, [1, 2, 2, 1], equal).frequency.dropna().eq(1).all()
    half = np.array([0.5, np.nextafter(np.float32(0.5), np.float32(0))], dtype="float32")
    maps = class_map(
        xr.DataArray(half, dims="x").chunk(), xr.DataArray(np.zeros(2, "uint8"), dims="x", attrs={"flag_values": np.arange(2)})
    )
    np.testing.assert_array_equal(maps, predicted_codes(PERMAFROST, half))
    np.testing.assert_array_equal(maps, [1, 0])
