"""Scores are drawn with their errors, and reliability with how many predictions it rests on."""

import matplotlib
import numpy as np
import pandas as pd
import pytest

from misoxr.errors import PointsError
from misoxr.evaluation.scores import Scores
from misoxr.metrics import scores as metrics_of
from misoxr.spec import PERMAFROST, Task

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _closed():
    yield
    matplotlib.pyplot.close("all")


@pytest.fixture(scope="module")
def found():
    rng = np.random.default_rng(0)
    rows = [
        {"model": model, "seed": seed, "fold": fold, "task": "permafrost", "point": point, "region": None, "truth": point % 2}
        for model in ("miso", "rf-11")
        for seed in (0, 1)
        for fold in (0, 1, 2)
        for point in range(6 * fold, 6 * fold + 6)
    ]
    predictions = pd.DataFrame(rows).assign(p0=rng.random(len(rows)), seconds=1.0)
    return Scores(predictions, (PERMAFROST,), {"cv": "KFold(3)", "simulated": True, "baselines": ["rf-11"]})


def test_scores_are_compared_in_bars_with_errors_and_dots(found):
    axis = found.plot("recall")
    assert [text.get_text() for text in axis.get_yticklabels()] == ["miso", "rf-11 (baseline)"]
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in dots] == [6, 6]
    assert axis.get_title("left").startswith("SIMULATED")
    assert axis.get_xlabel() == "recall of permafrost"
    by_fold = found.whole("recall").query("fold != 'pooled' and model == 'miso'").groupby("fold")["value"].mean()
    expected = by_fold.std(ddof=1) / 3**0.5
    assert found.errors("recall")["miso"] == pytest.approx(expected)
    bar = [one for one in axis.containers if hasattr(one, "has_xerr")][0]
    (segment,) = bar.lines[2][0].get_segments()
    assert np.ptp(segment[:, 0]) == pytest.approx(2 * expected)
    with pytest.raises(PointsError, match="no score 'f7'"):
        found.plot("f7")


def test_a_score_in_the_task_s_units_says_so(found):
    carbon = Task("soc", "regression", units="kg m-2")
    axis = Scores(found.predictions.assign(task="soc"), (carbon,), found.about).plot("rmse")
    assert axis.get_xlabel() == "rmse of soc, kg m-2"
    assert Scores(found.predictions.assign(task="soc"), (carbon,), found.about).plot("r2").get_xlabel() == "r2 of soc"


def test_one_fold_has_no_error(found):
    one = Scores(found.predictions[found.predictions["fold"] == 0], found.tasks, found.about)
    assert one.errors("recall").isna().all()
    axis = one.plot("recall")
    assert not [bar for bar in axis.containers if hasattr(bar, "has_xerr")]


def test_reliability_is_drawn_with_its_counts_and_error(found):
    figure = found.plot_reliability("miso", bins=10)
    upper, lower = figure.axes
    curve = found.reliability("miso")
    known = curve[curve["count"] > 0]
    (line,) = [line for line in upper.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(line.get_xydata(), known[["probability", "frequency"]])
    np.testing.assert_allclose([bar.get_height() for bar in lower.patches], curve["count"])
    truth, answers = (found.predictions.query("model == 'miso'")[name].to_numpy(float) for name in ("truth", "p0"))
    assert f"ECE {metrics_of(PERMAFROST, truth, answers)['ece']:.3f}" in line.get_label()
    assert len([line for line in found.plot_reliability().axes[0].lines if line.get_marker() == "o"]) == 2
    with pytest.raises(PointsError, match="no model 'forest'"):
        found.plot_reliability("forest")


def test_regressions_have_no_reliability(found):
    carbon = Task("permafrost", "regression")
    with pytest.raises(PointsError, match="are regressions"):
        Scores(found.predictions, (carbon,)).plot_reliability()
