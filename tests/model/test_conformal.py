"""Scores, quantiles, p-values and sets against their definitions, their coverage, and what a file holds of them."""

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import misoxr
from misoxr.errors import CheckpointError, SpecError
from misoxr.model.conformal import Conformal, Ranked, TaskScores, check_coverage, draws, nonconformity
from misoxr.points.polygons import polygons_of
from misoxr.spec import PERMAFROST, TAXONOMY, Task
from tests.conftest import tiny_spec
from tests.points.test_polygons import regions

pytestmark = pytest.mark.filterwarnings("ignore:Regions overlap:misoxr.errors.MisoxrWarning")

DRAINAGE = Task("drainage", "multiclass", ("dry", "moist", "wet"))
CARBON = Task("carbon", "regression")


def test_scores_by_hand():
    """The three classes' probabilities, largest first, are .5, .3 and .2; half of its own belongs to each score."""
    probability, half = np.array([[0.2, 0.5, 0.3]]), np.array([0.5])
    np.testing.assert_allclose(nonconformity(probability, "plain"), [[0.8, 0.5, 0.7]])
    np.testing.assert_allclose(nonconformity(probability, "aps", half), [[0.9, 0.25, 0.65]])
    np.testing.assert_allclose(nonconformity(probability, "raps", half), [[1.0, 0.25, 0.65]])  # the third class costs .1 more
    np.testing.assert_allclose(nonconformity(probability, "aps", [1.0]), [[1.0, 0.5, 0.8]])


def test_of_equal_probabilities_the_later_class_comes_first():
    """As in class maps, where one half is "present"."""
    np.testing.assert_allclose(nonconformity([[0.4, 0.2, 0.4]], "aps", [0.0]), [[0.4, 0.8, 0.0]])


@pytest.mark.parametrize("points", [1, 9, 19, 20, 57, 100])
@pytest.mark.parametrize("coverage", [0.07, 0.5, 0.57, 0.9, 0.95, 0.99])
def test_the_quantile_is_the_ceil_of_n_plus_1_by_coverage(points, coverage):
    """Compared with whole numbers: the rank is the least k with 100 k >= (n + 1) 100 coverage."""
    scores = np.random.default_rng(points).random(points)
    rank = next(k for k in range(1, points + 2) if 100 * k >= (points + 1) * round(100 * coverage))
    wanted = np.sort(scores)[rank - 1] if rank <= points else np.inf
    found = Ranked(np.sort(scores))
    assert found.quantile(coverage) == wanted
    # A score is at most the quantile where its p-value is large enough, at the scores themselves and between them.
    asked = np.concatenate([scores, np.random.default_rng(1).random(50), [0.0, 1.0]])
    np.testing.assert_array_equal(found.p_values(asked) > 1 - coverage + 1e-9, asked <= wanted)


def test_the_least_coverage_still_has_the_best_point():
    assert Ranked(np.array([0.1, 0.2, 0.3])).quantile(1e-12) == 0.1


def test_pooled_seeds_count_as_one():
    """Every score twice: quantiles and p-values of one."""
    scores = np.sort(np.random.default_rng(0).random(37))
    once, twice = Ranked(scores), Ranked(np.repeat(scores, 2), 2.0)
    asked = np.random.default_rng(1).random(100)
    np.testing.assert_allclose(twice.p_values(asked), once.p_values(asked))
    for coverage in (0.3, 0.5, 0.9, 0.99):
        assert twice.quantile(coverage) == once.quantile(coverage)
        np.testing.assert_array_equal(twice.p_values(asked) > 1 - coverage + 1e-9, asked <= once.quantile(coverage))


@pytest.mark.parametrize("points", [7, 9, 19, 57])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_sets_intervals_and_p_values_of_differing_seeds_have_one_rule(points, seeds):
    """A class is held up to the score of place seeds * rank of all, which an interval reaches as well, and where p is above 1 - coverage."""
    rng = np.random.default_rng(points * seeds)
    errors = rng.integers(0, 1000, points * seeds) / 1024  # exact, as 1 - p is then
    groups, asked = np.zeros(points * seeds, int), np.arange(1025) / 1024
    found = Conformal({name: TaskScores(errors, groups, seeds) for name in ("permafrost", "carbon")})
    for coverage in (0.07, 0.3, 0.5, 0.8, 0.9):
        rank = int(np.ceil((points + 1) * coverage - 1e-9))
        wanted = np.sort(errors)[seeds * rank - 1] if rank <= points else np.inf
        held, p_values = found.sets(PERMAFROST, np.stack([asked, 1 - asked], axis=1), coverage)
        np.testing.assert_array_equal(held[:, 1], asked <= wanted)
        np.testing.assert_array_equal(held, p_values > 1 - coverage + 1e-9)
        assert found.half_widths(CARBON, 1, coverage)[0] == wanted


def test_ties_are_broken_evenly_and_always_alike():
    x, y = np.meshgrid(300_010 + 20.0 * np.arange(300), 1_499_990 - 20.0 * np.arange(300))
    found = draws(x, y)
    np.testing.assert_array_equal(found[17:19, 5], draws(x[17:19, 5], y[17:19, 5]))
    np.testing.assert_array_equal(found, draws(x + 1e-7, y))
    assert 0 <= found.min() < 1e-3 < 0.999 < found.max() < 1
    counts = np.histogram(found, 20, (0, 1))[0]
    assert (np.square(counts - 4500) / 4500).sum() < 45  # chi-squared of 19 degrees: above 45 once in 1,500
    for one, other in ((found[:, 1:], found[:, :-1]), (found[1:], found[:-1])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.02


def test_ties_in_degrees_are_broken_for_each_pixel_on_one_circle():
    """Pixels of 20 m are 1.8e-4 degrees apart, and 190 degrees are -170."""
    x, y = np.meshgrid(-170 + 1.8e-4 * np.arange(40), 65 + 1.8e-4 * np.arange(40))
    found = draws(x, y, "EPSG:4326")
    assert len(np.unique(found)) == 1600
    np.testing.assert_array_equal(found, draws(x + 1e-10, y, "OGC:CRS84"))
    whole = np.array([-180.0, -170.0, 0.5])
    np.testing.assert_array_equal(draws(whole, 0 * whole, "EPSG:4326"), draws(whole + 360, 0 * whole, "EPSG:4326"))
    assert draws(-170, 60, "EPSG:3338") != draws(190, 60, "EPSG:3338")


def sample(rng, n, count=3):
    """Probabilities and classes drawn by them, with many ties as forests have them."""
    logits = rng.normal(0, 1.5, (n, count))
    probability = np.round(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), 1)
    probability /= probability.sum(axis=1, keepdims=True)
    truth = (probability.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=count - 1)
    return probability, truth


def conformal(task, probability, truth, method="plain", by="", draw=None, groups=None):
    scores = nonconformity(probability, method, draw)[np.arange(len(truth)), truth]
    groups = truth if by == "class" else np.zeros(len(truth), int) if groups is None else groups
    polygons = polygons_of(regions()) if by == "region" else None
    return Conformal({task.name: TaskScores(scores, np.asarray(groups), 1.0)}, method, by, polygons)


@pytest.mark.parametrize("method", ["plain", "aps", "raps"])
def test_exchangeable_points_are_covered(method):
    """Over 400 draws of 99 calibration and 50 other points, 80 % are covered, within 4 standard errors (about .008)."""
    rng, hits = np.random.default_rng(7), []
    for _ in range(400):
        probability, truth = sample(rng, 149)
        draw = rng.random(149)
        found = conformal(DRAINAGE, probability[:99], truth[:99], method, draw=draw[:99])
        held = found.sets(DRAINAGE, probability[99:], 0.8, draw=draw[99:]).held
        hits.append(held[np.arange(50), truth[99:]].mean())
    error = np.std(hits) / 20
    assert np.mean(hits) > 0.8 - 4 * error
    if method == "aps":  # randomised: it is exact; 1 - p of rounded numbers has ties, which are all in the set
        assert np.mean(hits) < 0.8 + 4 * error + 1 / 100


def test_each_class_is_covered_by_a_quantile_of_its_own():
    """A class that the model hardly sees is covered less than others by one quantile, and as well by its own."""
    rng = np.random.default_rng(3)
    probability, truth = sample(rng, 40_000)
    probability[truth == 2] = probability[truth == 2] * [1, 1, 0.1]
    probability /= probability.sum(axis=1, keepdims=True)
    here, there = slice(0, 4000), slice(4000, None)
    covered = {}
    for by in ("", "class"):
        held = conformal(DRAINAGE, probability[here], truth[here], by=by).sets(DRAINAGE, probability[there], 0.9).held
        mine = held[np.arange(36_000), truth[there]]
        covered[by] = [mine[truth[there] == code].mean() for code in range(3)]
    assert min(covered["class"]) > 0.88
    assert covered[""][2] < 0.8


def test_a_class_without_points_is_always_in_the_set():
    probability, truth = sample(np.random.default_rng(0), 300)
    known = truth < 2
    found = conformal(DRAINAGE, probability[known], truth[known], by="class").sets(DRAINAGE, probability, 0.9)
    assert found.held[:, 2].all()
    assert (found.p_values[:, 2] == 1).all()
    assert not found.held[:, :2].all()


def test_intervals_reach_as_far_as_the_quantile_of_errors():
    errors = np.arange(1.0, 20.0)  # 1 to 19: ceil(20 * .8) = 16
    found = Conformal({"carbon": TaskScores(errors, np.zeros(19, int))}, "aps", "class")
    assert found.by_of(CARBON) == ""
    np.testing.assert_array_equal(found.half_widths(CARBON, 3, 0.8), [16, 16, 16])
    np.testing.assert_array_equal(found.half_widths(CARBON, 2, 0.96), [np.inf, np.inf])


def test_regions_have_points_of_their_own_and_the_rest_all():
    errors, groups = np.concatenate([np.arange(1.0, 10), 10 * np.arange(1.0, 10), [1000.0]]), [0] * 9 + [1] * 9 + [-1]
    found = Conformal({"carbon": TaskScores(errors, np.array(groups))}, "plain", "region", polygons_of(regions()))
    np.testing.assert_array_equal(found.half_widths(CARBON, 3, 0.9, np.array([0, 1, -1])), [9, 90, 90])


@pytest.fixture
def whole():
    rng = np.random.default_rng(0)
    tasks = {name: TaskScores(rng.random(20), rng.integers(-1, 2, 20), 2.0) for name in ("permafrost", "taxonomy")}
    return Conformal(tasks, "aps", "region", polygons_of(regions()), {"name": "m", "cv": "ClusterKFold(10)", "seeds": 2})


def test_what_a_file_holds_is_exact(whole):
    spec = tiny_spec(tasks=(PERMAFROST, TAXONOMY))
    again = Conformal.from_dict(copy.deepcopy(whole.to_dict()), spec)
    assert again.to_dict() == whole.to_dict()
    assert again.sha256 == whole.sha256
    for name, one in whole.tasks.items():
        np.testing.assert_array_equal(again.tasks[name].scores, one.scores)
        np.testing.assert_array_equal(again.tasks[name].groups, one.groups)
    other = {
        **whole.tasks,
        "taxonomy": TaskScores(whole.tasks["taxonomy"].scores + 1e-16 + 1e-9, whole.tasks["taxonomy"].groups, 2.0),
    }
    assert Conformal(other, whole.method, whole.by, whole.polygons, whole.about).sha256 != whole.sha256
    assert "aps by region: permafrost (10 points)" in repr(whole)


NAN = "AAAAAAAA+H8="
"""NaN in float64, as a file would hold it."""


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("about"),
        lambda d: d.update(more=1),
        lambda d: d.update(method="best"),
        lambda d: d.update(method=["aps"]),
        lambda d: d.update(by="all"),
        lambda d: d.update(by="class"),
        lambda d: d.update(polygons=None),
        lambda d: d.update(polygons=[]),
        lambda d: d.update(about=3),
        lambda d: d.update(tasks={}),
        lambda d: d.update(tasks=[]),
        lambda d: d["tasks"].update(lakes=d["tasks"]["taxonomy"]),
        lambda d: d["tasks"].update(taxonomy=None),
        lambda d: d["tasks"]["taxonomy"].pop("each"),
        lambda d: d["tasks"]["taxonomy"].update(each="2"),
        lambda d: d["tasks"]["taxonomy"].update(each=0.5),
        lambda d: d["tasks"]["taxonomy"].update(each=1e9),
        lambda d: d["tasks"]["taxonomy"].update(scores="AAAA"),
        lambda d: d["tasks"]["taxonomy"].update(scores="!"),
        lambda d: d["tasks"]["taxonomy"].update(scores=""),
        lambda d: d["tasks"]["taxonomy"].update(scores=[0.1]),
        lambda d: d["tasks"]["taxonomy"].update(scores=NAN * 0 + NAN, groups="AAAAAA=="),
        lambda d: d["tasks"]["taxonomy"].update(groups="AAAAAA=="),
        lambda d: d["tasks"]["taxonomy"].update(scores="AAAAAAAAAAA=", groups="CQAAAA==", each=1),
    ],
)
def test_what_contradicts_itself_is_refused(whole, change):
    values = copy.deepcopy(whole.to_dict())
    change(values)
    with pytest.raises(CheckpointError):
        Conformal.from_dict(values, tiny_spec(tasks=(PERMAFROST, TAXONOMY)))


def test_what_is_no_mapping_is_refused():
    for values in (None, [], "text", 3):
        with pytest.raises(CheckpointError):
            Conformal.from_dict(values, tiny_spec())


def test_what_a_file_holds_needs_no_cube_and_no_table():
    """The package itself imports xarray for its accessor, and so its place is taken."""
    code = (
        "import sys, types; package = types.ModuleType('misoxr'); package.__path__ = [sys.argv[1]]; sys.modules['misoxr'] = package\n"
        "import misoxr.model.conformal\n"
        "sys.exit(' '.join({'xarray', 'dask', 'geopandas', 'pandas', 'torch'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(Path(misoxr.__file__).parent)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_coverage_lies_between_0_and_1():
    assert check_coverage(np.float32(0.5)) == 0.5
    for wrong in (0, 1, -1, 2, None, "0.9", True, np.nan, [0.9]):
        with pytest.raises(SpecError, match="between 0 and 1"):
            check_coverage(wrong)
