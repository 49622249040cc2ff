"""From scores to calibrated models: which rows are theirs, what is told of folds, classes and regions, and what other points say."""

import json
import warnings
from dataclasses import replace

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import misoxr
from misoxr.errors import CheckpointError, MisoxrWarning, PointsError, SpecError
from misoxr.estimators.baselines import Baseline
from misoxr.estimators.embedded import EmbeddedModel, Pair, embedding_spec
from misoxr.estimators.identity import estimators_sha256, identity, identity_of
from misoxr.estimators.pixel_model import PixelModel
from misoxr.evaluation.scores import Scores
from misoxr.model.calibration import Calibration
from misoxr.model.checkpoint import Model
from misoxr.spec import PERMAFROST, TAXONOMY, ModelSpec
from misoxr.uncertainty import calibrated, evaluated
from tests.conftest import make_model, tiny_spec
from tests.training.test_fit import scene  # noqa: F401
from tests.uncertainty.made import CARBON, make_scores

MIDDLE = 300_500.0
HALVES = gpd.GeoDataFrame(
    geometry=[shapely.box(0, 0, MIDDLE, 2e6), shapely.box(MIDDLE, 0, 4e5, 2e6)], index=["west", "east"], crs="EPSG:3338"
)


@pytest.fixture(autouse=True)
def _no_warning():
    """Whatever is told is asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", MisoxrWarning)
        yield


@pytest.fixture(scope="module")
def scores(model):
    return make_scores(300, identities={"m": identity_of(model)})


# ---- which rows


def test_a_model_finds_its_own_rows_among_the_scores(scene):  # noqa: F811
    """Whatever the seed: of the estimators that were compared, each fitted one is one."""
    cube, points = scene
    points = points[:120].dropna()
    forms = {"logistic": LogisticRegression(max_iter=50), "control": Baseline(LogisticRegression(), "coordinates"), "rf": "rf-11"}
    found = cube.miso.cross_validate(forms, points, cv=misoxr.BlockKFold(800, 2), seeds=(0, 1), progress=False)
    assert {"x", "y"} <= set(found.predictions)
    at = points.geometry.loc[found.predictions.point]
    np.testing.assert_array_equal(found.predictions[["x", "y"]], np.stack([at.x, at.y], axis=-1))
    assert found.about["distance"]["least"] > 0
    assert found.about["distance"]["between"] < found.about["distance"]["median"]
    like = ModelSpec.preset("miso-nano", sat=["red", "nir"], cov=["aspect", "elevation"], pixel_size=20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, estimator in forms.items():
            fitted = cube.miso.fit(estimator, points, seed=5, like=like).with_conformal(found, by="class")
            assert fitted.conformal.about["name"] == name
            assert round(fitted.conformal.tasks["permafrost"].all.points) == len(points)
            assert fitted.conformal.tasks["permafrost"].each == 2
        other = cube.miso.fit(LogisticRegression(C=3), points, like=like)
    with pytest.raises(PointsError, match=r"None of \['logistic', 'control', 'rf'\] has the specification of .*; give name="):
        other.with_conformal(found)
    whole = json.loads(json.dumps(found.about))
    assert Scores(found.predictions, found.tasks, whole).averaged().predictions[["x", "y"]].notna().all(axis=None)


def test_networks_and_embeddings_are_known_by_their_specification(model, spec):
    assert identity(spec, spec) == identity_of(model)
    assert identity(spec, spec) != identity(spec, replace(spec, members=2)) == identity_of(make_model(tiny_spec(members=2)))
    on = Baseline(LogisticRegression(), "embedding", network=spec)
    rules = PixelModel(embedding_spec(spec), {task.name: None for task in spec.tasks})
    embedded = EmbeddedModel(spec, (Pair(model, rules),), {"estimators_sha256": estimators_sha256(on, spec.tasks)})
    assert identity(on, spec) == identity_of(embedded) != identity_of(model)


def forest(trees, **params):
    """Trees deep within others: their words would be cut."""
    members = [(name, LogisticRegression(C=number + 0.123456789, max_iter=1000)) for number, name in enumerate("abcdefghij")]
    inner = make_pipeline(StandardScaler(), RandomForestClassifier(trees, **params))
    return VotingClassifier([*members, ("inner", inner), *((name.upper(), one) for name, one in members)], voting="soft")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (forest(11), forest(999)),
        (Baseline(LogisticRegression(), scaling="none"), Baseline(LogisticRegression(), scaling="whiten")),
        (Baseline(LogisticRegression()), Baseline(LogisticRegression(), "neighbourhood")),
        (Baseline(LogisticRegression(), regressor=Ridge(1)), Baseline(LogisticRegression(), regressor=Ridge(2))),
        (LogisticRegression(class_weight={0: 1, 1: 2}), LogisticRegression(class_weight={0: 1, 1: 3})),
        (LogisticRegression(C=2), Ridge(2)),
        (CalibratedClassifierCV(LogisticRegression(), cv=KFold(2)), CalibratedClassifierCV(LogisticRegression(), cv=KFold(3))),
        (make_pipeline(FunctionTransformer(np.sqrt), Ridge()), make_pipeline(FunctionTransformer(np.log), Ridge())),
        (
            make_pipeline(FunctionTransformer(lambda x: x + 1), Ridge()),
            make_pipeline(FunctionTransformer(lambda x: x + 2), Ridge()),
        ),
    ],
)
def test_estimators_that_differ_anywhere_are_two(spec, one, other):
    both = (CARBON, TAXONOMY)
    first, second = (estimators_sha256(what if isinstance(what, Baseline) else Baseline(what), both) for what in (one, other))
    if isinstance(one, Baseline) and one.regressor is None:
        first, second = identity(one, spec), identity(other, spec)
    assert first != second


def test_a_seed_is_no_part_of_an_estimator(spec):
    plain, seeded = LogisticRegression(solver="saga"), LogisticRegression(random_state=0, solver="saga")
    assert identity(plain, spec) == identity(seeded, spec) == identity(Baseline(seeded, regressor=Ridge()), spec)  # no regression
    assert identity(forest(11), spec) == identity(forest(11, random_state=3), spec) == identity(forest(np.int64(11)), spec)
    assert identity(plain, spec, "whiten") == identity(Baseline(plain, scaling="whiten"), spec) != identity(plain, spec)


def test_scores_of_another_scaling_are_not_the_models(spec):
    chosen = Baseline(LogisticRegression(), scaling="none")
    record = {"estimators_sha256": estimators_sha256(chosen, spec.tasks), "scaling": "whiten"}
    fitted = PixelModel(spec, {task.name: None for task in spec.tasks}, record=record)
    with pytest.raises(PointsError, match=r"None of \['m'\] has the specification of"):
        fitted.with_conformal(make_scores(300, identities={"m": identity(chosen, spec)}))
    fitted.with_conformal(make_scores(300, identities={"m": identity(chosen, spec, "whiten")}))


def test_a_name_that_is_not_clear_is_an_error_that_lists_the_names(model, scores):
    with pytest.raises(PointsError, match=r"no model 'mm' among the scores: name= is one of \['m'\]. Did you mean \"m\""):
        model.with_conformal(scores, "mm")
    twice = replace(
        scores,
        predictions=pd.concat([scores.predictions, scores.predictions.assign(model="n")]),
        about=scores.about | {"identities": {k: identity_of(model) for k in "mn"}},
    )
    with pytest.raises(PointsError, match=r"\['m', 'n'\] have the specification of .*give name="):
        model.with_conformal(twice)
    assert model.with_conformal(twice, "n").conformal.about["name"] == "n"
    other = replace(scores, about=scores.about | {"identities": {"m": "of another"}})
    with pytest.warns(MisoxrWarning, match="scores of 'm' are of another specification than .*: the coverage holds for that one"):
        model.with_conformal(other, "m")
    before = replace(scores, about={key: value for key, value in scores.about.items() if key != "identities"})
    with pytest.raises(PointsError, match=r"of an earlier misoxr.*give name=, one of \['m'\]"):
        model.with_conformal(before)
    model.with_conformal(before, "m")
    with pytest.raises(PointsError, match="Name one of them"):
        calibrated(twice)
    with pytest.raises(PointsError, match="are means over seeds"):
        model.with_conformal(replace(scores, predictions=scores.predictions.assign(seed="mean")))
    with pytest.raises(PointsError, match="scores are a DataFrame; give what ds.miso.cross_validate returned"):
        model.with_conformal(scores.predictions)


@pytest.mark.parametrize("options", [{"method": "best"}, {"method": None}, {"by": "classes"}, {"by": ["class"]}, {"by": 3}])
def test_options_that_are_none_are_refused(model, scores, options):
    with pytest.raises(SpecError, match=f"{next(iter(options))} is .*; use"):
        model.with_conformal(scores, **options)


# ---- seeds


def test_seeds_are_pooled(model):
    """Two seeds that answer alike are as one; where they differ, both count."""
    one = make_scores(80, tasks=(PERMAFROST,))
    again = one.predictions.assign(seed=1)
    alike = calibrated(replace(one, predictions=pd.concat([one.predictions, again])))
    assert alike.tasks["permafrost"].all.points == 80
    assert alike.tasks["permafrost"].all.quantile(0.9) == calibrated(one).tasks["permafrost"].all.quantile(0.9)
    apart = calibrated(replace(one, predictions=pd.concat([one.predictions, again.assign(p0=1 - again.p0)])))
    both = np.sort(np.concatenate([calibrated(one).tasks["permafrost"].scores, 1 - calibrated(one).tasks["permafrost"].scores]))
    assert apart.tasks["permafrost"].all.quantile(0.9) == pytest.approx(both[2 * int(np.ceil(81 * 0.9)) - 1], abs=1e-7)


# ---- what is told


RANDOM = {"least": 5.0, "median": 90.0, "between": 80.0}


@pytest.mark.parametrize(
    ("cv", "distance", "words"),
    [
        (
            "KFold(n_splits=5, random_state=0, buffer=0.0)",
            RANDOM,
            r"\(KFold.*are not spatial: half of their test points lie within 90 of",
        ),
        ("KFold(n_splits=5, random_state=0, buffer=0.0)", {}, "are not spatial: how far apart they are is not known"),
        ("PredefinedFolds(folds=<5>, buffer=0.0)", RANDOM, "are not spatial"),
        ("GroupKFold(n_splits=5)", RANDOM, "are not spatial"),
        ("BlockKFold(size=1)", RANDOM, r"half of all points within 80 of another"),
        ("ClusterKFold(distance=10)", RANDOM | {"least": 0.0}, "at a training point's own place"),
    ],
)
def test_folds_that_are_not_spatial_are_told_once(model, scores, cv, distance, words):
    with pytest.warns(MisoxrWarning, match=words) as told:
        model.with_conformal(replace(scores, about=scores.about | {"cv": cv, "distance": distance}), "m")
    assert len(told) == 1


@pytest.mark.parametrize(
    ("cv", "distance"),
    [
        ("ClusterKFold(distance=10)", {"least": 11.0, "median": 160.0, "between": 80.0}),
        ("BlockKFold(size=10)", {}),
        ("KNNDM(targets=<9>)", {}),
        ("LeaveOneRegionOut(regions=<9>)", {}),
        ("PredefinedFolds(folds=<5>, buffer=0.0)", {"least": 300.0, "median": 900.0, "between": 80.0}),
        ("KFold(n_splits=5, random_state=0, buffer=500.0)", {"least": 500.0, "median": 900.0, "between": 80.0}),
    ],
)
def test_folds_that_are_spatial_need_no_words(model, scores, cv, distance):
    model.with_conformal(replace(scores, about=scores.about | {"cv": cv, "distance": distance}), "m")


def test_classes_tasks_and_regions_without_points_are_told(model, scores):
    rare = replace(scores, predictions=scores.predictions.query("task == 'permafrost' or truth != 3"))
    with pytest.warns(MisoxrWarning, match=r"No calibration point of 'taxonomy' is of \['Histosols'\]: every set holds these"):
        model.with_conformal(rare, by="class")
    model.with_conformal(rare)
    with pytest.warns(MisoxrWarning, match=r"The scores have no points of \['taxonomy'\]: predict\(coverage=\) then needs tasks="):
        model.with_conformal(replace(scores, predictions=scores.predictions.query("task == 'permafrost'")))
    far = pd.concat([HALVES.iloc[:1], gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], index=["far"], crs=3338)])
    with pytest.warns(
        MisoxrWarning,
        match=r"(?s)lies in the regions \['far'\]: every set holds all.*of 300 calibration points of 'taxonomy' lie in no region",
    ):
        found = model.with_conformal(scores, by=far).conformal
    west = scores.predictions.query("task == 'taxonomy'").x <= MIDDLE
    np.testing.assert_array_equal(found.tasks["taxonomy"].groups, np.where(west, 0, -1))


def test_what_cannot_be_calibrated_is_an_error(model, scores):
    table = scores.predictions
    with pytest.raises(PointsError, match="All .* calibration points of 'permafrost' are 'present'; give scores of two classes"):
        model.with_conformal(replace(scores, predictions=table.query("task != 'permafrost' or truth == 1")))
    with pytest.raises(PointsError, match=r"have no points of \['permafrost', 'taxonomy'\]"):
        model.with_conformal(replace(scores, predictions=table.assign(p0=np.nan)))
    with pytest.raises(PointsError, match=r"of the tasks \['carbon'\], and the model has \['permafrost', 'taxonomy'\]"):
        model.with_conformal(make_scores(9, tasks=(CARBON,)))
    with pytest.raises(PointsError, match="None of the 300 calibration points of 'permafrost' lies in a polygon; check the CRS"):
        model.with_conformal(scores, by=HALVES.set_crs(32606, allow_override=True))
    with pytest.raises(PointsError, match="do not tell where their points lie; run cross_validate once more"):
        model.with_conformal(replace(scores, predictions=table.drop(columns=["x", "y"])), by=HALVES)
    with pytest.raises(PointsError, match="carry no CRS"):
        model.with_conformal(scores, by=HALVES.set_crs(None, allow_override=True))
    turned = replace(TAXONOMY, classes=TAXONOMY.classes[::-1])
    with pytest.raises(PointsError, match="The scores have the multiclass task 'taxonomy' of .*; give its own"):
        make_model(tiny_spec(tasks=(PERMAFROST, turned))).with_conformal(scores, "m")


def test_probabilities_that_were_moved_fit_no_scores(model, scores):
    moved = replace(model, calibration={"permafrost": Calibration(1.5, (0.3,))})
    with pytest.raises(SpecError, match=r"probabilities of \['permafrost'\] were moved to another prevalence.*by=\"class\""):
        moved.with_conformal(scores, "m")
    replace(model, calibration={"permafrost": Calibration(1.5)}).with_conformal(scores, "m")
    known = replace(model, record={"prevalence": {"permafrost": 0.5}})
    assert known.with_prevalence(permafrost=0.3).calibration["permafrost"].bias
    with pytest.raises(SpecError, match="calibration scores of 'permafrost', which do not fit.*before with_conformal"):
        known.with_conformal(scores, "m").with_prevalence(permafrost=0.3)


# ---- files


@pytest.mark.parametrize(
    "by", [None, "class", HALVES.set_geometry(HALVES.segmentize(10_000)).to_crs(4326)], ids=["all", "class", "regions"]
)
def test_models_keep_it_in_their_files(model, scores, by, tmp_path):
    found = model.with_conformal(scores, by=by, method="aps")
    found.save(tmp_path / "model.safetensors")
    again = misoxr.load(tmp_path / "model.safetensors")
    assert again.conformal.to_dict() == found.conformal.to_dict()
    assert again.sha256 == found.sha256 != model.sha256
    assert Model.from_bytes(model.to_bytes()).conformal is None
    assert b"conformal" not in model.to_bytes()
    pd.testing.assert_frame_equal(evaluated(again, make_scores(500, 1)), evaluated(found, make_scores(500, 1)))


def test_estimators_keep_it_in_their_files(scene, model, scores, spec, tmp_path):  # noqa: F811
    cube, points = scene
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = cube.miso.fit(LogisticRegression(max_iter=20), points[:80], like=spec)
        on = cube.miso.fit(Baseline(LogisticRegression(max_iter=20), "embedding", network=model), points[:80])
    for name, one in (("pixels.skops", fitted), ("embedded.zip", on)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MisoxrWarning)  # the scores are another model's
            found = one.with_conformal(scores, "m", by=HALVES)
        found.save(tmp_path / name)
        again = misoxr.load(tmp_path / name)
        assert again.conformal.to_dict() == found.conformal.to_dict()
        assert again.sha256 == found.sha256 != one.sha256
        plain = type(one).from_bytes(one.to_bytes())
        assert plain.conformal is None
        assert plain.sha256 == one.sha256


def test_a_damaged_part_of_a_file_is_refused(model, scores, tmp_path):
    """What stands in each kind of file is built strictly (tests of the value change each of its parts)."""
    broken = replace(model.with_conformal(scores).conformal, method="best")
    with pytest.raises(CheckpointError, match="contradicts itself"):
        Model.from_bytes(replace(model, conformal=broken).to_bytes())
    rules = PixelModel(
        embedding_spec(model.spec), {task.name: LogisticRegression().fit(np.eye(16)[:2], [0, 1]) for task in model.spec.tasks}
    )
    whole = EmbeddedModel(model.spec, (Pair(model, rules),), conformal=broken)
    for one in (replace(rules, conformal=broken), whole):
        with pytest.raises(CheckpointError, match="contradicts itself"):
            type(one).from_bytes(one.to_bytes())


# ---- other points


def test_other_points_tell_the_coverage(model):
    """Of exchangeable points 90 % are covered, within 4 standard errors of 2,000 calibration and 6,000 other points."""
    near, far = make_scores(2000, 2, (PERMAFROST, TAXONOMY, CARBON)), make_scores(6000, 3, (PERMAFROST, TAXONOMY, CARBON))
    error = np.sqrt(0.09 * (1 / 2000 + 1 / 6000))
    for method in ("plain", "aps", "raps"):
        table = evaluated(calibrated(near, method=method), far)
        assert (abs(table.loc[(slice(None), "all"), "coverage"] - 0.9) < 4 * error).all()
        assert table.loc[("taxonomy", "all"), "points"] == 6000
        assert table.loc["taxonomy"].points[1:].sum() == 6000
    by_class = evaluated(calibrated(near, by="class"), far, 0.8)
    assert (by_class.coverage > 0.73).all()
    assert by_class.loc[("taxonomy", "all"), "size"] < table.loc[("taxonomy", "all"), "size"]
    width = 2 * calibrated(near).tasks["carbon"].all.quantile(0.9)
    assert table.loc[("carbon", "all"), "size"] == pytest.approx(width)
    assert list(table) == ["points", "coverage", "size", "empty"]


def test_scores_in_other_units_are_refused():
    other = replace(CARBON, units="g m-2")
    near = make_scores(300, 2, (PERMAFROST, CARBON))
    far = replace(near, tasks=(PERMAFROST, other))
    with pytest.raises(
        PointsError, match="The scores have 'carbon' in 'g m-2', and the model is in 'kg m-2'. Cross-validate with labels in"
    ):
        make_model(tiny_spec(tasks=(PERMAFROST, CARBON))).with_conformal(far, "m")
    with pytest.raises(PointsError, match="The scores have 'carbon' in 'g m-2', and the calibration scores are in 'kg m-2'"):
        evaluated(calibrated(near), far)


def test_coverage_by_region_and_its_errors(model, scores):
    """East of the middle all truths are turned round: a quantile of its own covers there, too."""
    both = [make_scores(2000, seed, (PERMAFROST,)) for seed in (4, 5)]
    for one in both:
        east = one.predictions.x > MIDDLE
        one.predictions.loc[east, "truth"] = 1 - one.predictions.truth[east]
    near, far = both
    east = far.predictions.x > MIDDLE
    named = replace(far, predictions=far.predictions.assign(region=np.where(east, "east", "west")))
    covered = {}
    for name, by, other in (("all", None, named), ("regions", HALVES, far)):
        table = evaluated(calibrated(near, by=by), other).loc["permafrost"]
        assert table.index.names == ["region", "class"]
        regions = [one for one in dict.fromkeys(table.index.get_level_values("region")) if one != "all"]
        covered[name] = [table.loc[(one, "all"), "coverage"] for one in regions]
        counts = [table.loc[(one, "all"), "points"] for one in regions]
        assert counts == [east.sum(), (~east).sum()]
        assert table.loc[("all", "all"), "points"] == len(far.predictions)
    assert abs(covered["all"][0] - covered["all"][1]) > 0.1
    assert max(abs(one - 0.9) for one in covered["regions"]) < 0.04
    with pytest.raises(SpecError, match="Model has no calibration scores"):
        evaluated(model, far)
    with pytest.raises(PointsError, match="have no points of"):
        evaluated(calibrated(near), make_scores(20, tasks=(CARBON,)))
    with pytest.raises(SpecError, match="between 0 and 1"):
        evaluated(calibrated(near), far, 90)
    assert evaluated(calibrated(near), far, 0.8).attrs["coverage_asked_for"] == 0.8
    values = make_scores(40, tasks=(CARBON,))
    for options in ({"method": "aps"}, {"by": "class"}):
        with pytest.raises(SpecError, match="have no classes"):
            calibrated(values, **options)
