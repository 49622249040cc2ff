"""Error profiles: scores by dissimilarity, by hand, monotone, and with errors that name what is missing."""

import numpy as np
import pandas as pd
import pytest

from misoxr.errors import MisoxrWarning, PointsError, SpecError
from misoxr.evaluation.scores import Scores
from misoxr.metrics import scores as scored
from misoxr.spec import PERMAFROST, Task

SOILS = Task("soils", "multiclass", ("a", "b", "c"))
CARBON = Task("carbon", "regression")
COUNT = 120


def made(task, seeds=(0,), models=("forest",), seed=0):
    """Scores whose answers become worse with dissimilarity, and the dissimilarity by the points' names."""
    rng = np.random.default_rng(seed)
    point = np.array([f"p{number:03d}" for number in rng.permutation(COUNT)])
    unlike = rng.uniform(0, 2, COUNT)
    rows = []
    for model in models:
        for one in seeds:
            noise = rng.normal(size=COUNT) * unlike
            if task.kind == "regression":
                truth = rng.normal(size=COUNT)
                answers = {"p0": truth + noise}
            elif task.kind == "binary":
                truth = rng.integers(0, 2, COUNT).astype(float)
                answers = {"p0": 1 / (1 + np.exp(-(2 * truth - 1 + 1.5 * noise)))}
            else:
                truth = rng.integers(0, 3, COUNT).astype(float)
                logits = 2 * np.eye(3)[truth.astype(int)] + rng.normal(size=(COUNT, 3)) * 2 * unlike[:, None]
                share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
                answers = {f"p{k}": share[:, k] for k in range(3)}
            base = {"model": model, "seed": one, "fold": np.arange(COUNT) % 3, "task": task.name, "point": point}
            rows.append(pd.DataFrame({**base, "region": None, "truth": truth, **answers, "seconds": 1.0}))
    series = pd.Series(unlike, point).sample(frac=1, random_state=1)
    series.attrs = {"threshold": 1.2}
    return Scores(pd.concat(rows, ignore_index=True), (task,)), series


@pytest.mark.parametrize(
    ("task", "metric", "way"),
    [
        (PERMAFROST, None, 1),
        (PERMAFROST, "accuracy", -1),
        (SOILS, None, 1),
        (SOILS, "brier", 1),
        (CARBON, None, 1),
        (CARBON, "mae", 1),
    ]
    + [(SOILS, "macro_f1", -1), (SOILS, "macro_recall", -1), (PERMAFROST, "macro_f1", -1), (CARBON, "r2", -1)],
)
def test_windows_are_scored_by_hand_and_the_fit_is_monotone(task, metric, way):
    scores, unlike = made(task)
    profile = scores.error_profile(unlike, metric, window=40)
    assert list(profile) == ["dissimilarity", "score", "standard_error", "points", "fitted"]
    named = metric or ("rmse" if task.kind == "regression" else "error")
    assert profile.attrs == {"metric": named, "task": task.name, "window": 40, "threshold": 1.2, "model": "forest"}
    order = unlike.sort_values().index
    table = scores.predictions.set_index("point")
    for row, first in ((0, 0), (len(profile) - 1, COUNT - 40)):
        mine = table.loc[order[first : first + 40]]
        answers = mine[[f"p{k}" for k in range(task.outputs)]].to_numpy()
        found = scored(task, mine["truth"], answers if task.kind == "multiclass" else answers[:, 0])
        expected = 1 - found["accuracy"] if named == "error" else found[named]
        assert profile["score"].iloc[row] == pytest.approx(expected)
        assert profile["dissimilarity"].iloc[row] == pytest.approx(unlike[mine.index].mean())
    assert (profile["dissimilarity"].diff().dropna() > 0).all()
    assert (way * profile["fitted"].diff().dropna() >= 0).all()
    assert way * (profile["fitted"].iloc[-1] - profile["fitted"].iloc[0]) > 0.1
    assert (profile["standard_error"] > 0).all()
    assert profile["fitted"].mean() == pytest.approx(profile["score"].mean())


def test_standard_errors_are_those_of_repeated_samples(monkeypatch):
    monkeypatch.setattr("misoxr.evaluation.profile.WINDOWS", 2)
    for task, metric in ((PERMAFROST, "error"), (CARBON, "rmse"), (SOILS, "macro_f1")):
        runs = [made(task, seed=seed) for seed in range(40)]
        last = [scores.error_profile(unlike, metric, window=60).iloc[-1] for scores, unlike in runs]
        spread = np.std([one.score for one in last], ddof=1)
        told = np.mean([one.standard_error for one in last])
        assert 0.4 < told / spread < 2.5, (metric, told, spread)


def test_seeds_count_as_one_point_and_others_are_left_out_with_a_warning():
    scores, unlike = made(SOILS, seeds=(0, 1))
    profile = scores.error_profile(unlike)
    assert (profile["points"] == 20).all()
    each = [Scores(part, scores.tasks).error_profile(unlike)["score"] for _, part in scores.predictions.groupby("seed")]
    np.testing.assert_allclose(profile["score"], np.mean(each, axis=0))
    with pytest.warns(MisoxrWarning, match="3 of 120 points have no dissimilarity"):
        shorter = scores.error_profile(unlike.where(unlike > unlike.sort_values().iloc[2]))
    assert shorter["dissimilarity"].iloc[0] > profile["dissimilarity"].iloc[0]


@pytest.mark.parametrize(
    ("error", "words", "change"),
    [
        (PointsError, "is a ndarray; give a Series", lambda s, u: (s, {"dissimilarity": u.to_numpy()})),
        (PointsError, "lacks 5 of 120 points", lambda s, u: (s, {"dissimilarity": u.iloc[5:]})),
        (PointsError, "has points twice", lambda s, u: (s, {"dissimilarity": pd.concat([u, u])})),
        (PointsError, "7 points have scores", lambda s, u: (Scores(s.predictions.iloc[:7], s.tasks), {})),
        (PointsError, "name one", lambda s, u: (made(SOILS, models=("one", "two"))[0], {})),
        (PointsError, "no model 'two'", lambda s, u: (s, {"name": "two"})),
        (PointsError, "Name one of the tasks", lambda s, u: (s, {"task": "carbon"})),
        (SpecError, 'Did you mean "macro_f1"', lambda s, u: (s, {"metric": "macro_f"})),
        (SpecError, "metric is 'bias'", lambda s, u: (made(CARBON)[0], {"metric": "bias"})),
        (SpecError, "5 to 60, half of the 120", lambda s, u: (s, {"window": 61})),
        (SpecError, "window is 10.5", lambda s, u: (s, {"window": 10.5})),
    ],
)
def test_errors_say_what_is_missing(error, words, change):
    scores, unlike = made(SOILS)
    scores, options = change(scores, unlike)
    with pytest.raises(error, match=words):
        scores.error_profile(**{"dissimilarity": unlike, **options})
