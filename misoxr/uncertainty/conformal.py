"""Fit conformal sets and intervals to the scores of a cross-validation, and check them against those of other points."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd

from misoxr.cube.units import canonical
from misoxr.errors import PointsError, SpecError, did_you_mean, gathered, note
from misoxr.estimators.identity import identity_of
from misoxr.metrics import check_codes
from misoxr.model.conformal import By, Conformal, Method, TaskScores, check_coverage, draws, nonconformity
from misoxr.points.polygons import polygons_of
from misoxr.spec import Task

if TYPE_CHECKING:
    from misoxr.estimators.embedded import EmbeddedModel
    from misoxr.estimators.pixel_model import PixelModel
    from misoxr.evaluation.scores import Scores
    from misoxr.grid.polygons import Polygons
    from misoxr.model.checkpoint import Model

__all__ = ["calibrated", "evaluated", "with_conformal"]

Fitted = TypeVar("Fitted", "Model", "PixelModel", "EmbeddedModel")
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]

SPATIAL = ("BlockKFold", "ClusterKFold", "KNNDM", "LeaveOneRegionOut")
"""Folds of places that lie apart: what is known of scores that do not tell distances."""
APART = 2.0
"""How much farther from training points than from the nearest point test points lie, of spatial folds."""
REMEDY = (
    "Use folds of whole clusters, misoxr.ClusterKFold(distance), where distance is about how far the map's pixels lie from their nearest point, in "
    "units of the cube's CRS."
)


@gathered
def with_conformal(fitted: Fitted, scores: "Scores", name: str | None = None, by: Any = None, method: Method = "plain") -> Fitted:
    """Return a model with what a cross-validation tells of its errors, for sets and intervals of any coverage.

    Parameters
    ----------
    fitted : Model, PixelModel or EmbeddedModel
        A fitted model. Where it has members, sets are of their mean probability, as the scores are.
    scores : Scores
        Answers of :func:`misoxr.evaluation.cross_validate.cross_validate` at points that the models of the folds had not seen, from spatial folds as
        far apart as the map reaches from the training points.
    name : str, optional
        The model's name among the scores; by default the one of the same specification (networks), or of the same estimator with all its
        parameters but seeds, features, scaling and bands. Seeds are pooled: each is the score of one fitted model, as is mapped, and the number of points is that of one seed.
    by : {None, "class"} or GeoDataFrame, optional
        For whom the coverage holds: for all points; for the points of each class, however common it is; or for each region of polygons,
        named by a column "name", by their index without one. Beyond all polygons it holds as for all points.
    method : {"plain", "aps", "raps"}, optional
        How classes are scored (:func:`misoxr.model.conformal.nonconformity`). "plain" gives the smallest sets on average. "aps" and "raps" give
        larger sets where the model is in doubt, and break ties at random, the same for each place whenever it is asked for.

    Returns
    -------
    Model, PixelModel or EmbeddedModel
        Of the same kind. The scores stand in its file, and its ``sha256`` is another.

    Raises
    ------
    PointsError
        If the model is not found among the scores, no task of it is, a task has labels of one class only, or there are polygons and no point lies in
        one or the scores do not tell where points lie.
    SpecError
        If an argument is not valid, or the model's probabilities were moved to another prevalence.

    Warns
    -----
    MisoxrWarning
        If half of the test points lie nearer to a training point than twice the distance of neighbours, a task has no scores, a class or region has no points,
        ``name`` is of another specification than the model, or polygons overlap.

    Examples
    --------
    >>> scores = image.miso.cross_validate("rf-11", points, cv=misoxr.BlockKFold(500, 3))
    >>> forest = image.miso.fit("rf-11", points).with_conformal(scores, by="class")
    """
    _check_scores(scores)
    tasks = [task for task in fitted.spec.tasks if task.name in {one.name for one in scores.tasks}]
    if not tasks:
        raise PointsError(
            f"The scores are of the tasks {_names(scores.tasks)}, and the model has {_names(fitted.spec.tasks)}; give its own."
        )
    _refuse_shifted(fitted, tasks)
    found = _calibrated(scores, _name_of(scores, fitted, name), tasks, by, method)
    missing = [task.name for task in fitted.spec.tasks if task.name not in found.tasks]
    if missing:
        note(f"The scores have no points of {missing}: predict(coverage=) then needs tasks=, without these.")
    return replace(fitted, conformal=found)


@gathered
def calibrated(scores: "Scores", name: str | None = None, by: Any = None, method: Method = "plain") -> Conformal:
    """Fit sets and intervals to scores alone, without a model.

    Parameters
    ----------
    scores : Scores
        As for :func:`misoxr.uncertainty.conformal.with_conformal`.
    name : str, optional
        The model's name among the scores; the only one by default.
    by, method : optional
        As for :func:`misoxr.uncertainty.conformal.with_conformal`.

    Returns
    -------
    Conformal
        For :func:`misoxr.uncertainty.evaluated`.

    Raises
    ------
    PointsError, SpecError
        As for :func:`misoxr.uncertainty.conformal.with_conformal`.

    Examples
    --------
    >>> scores = image.miso.cross_validate("rf-11", points, cv=misoxr.BlockKFold(500, 3))
    >>> found = misoxr.uncertainty.calibrated(scores, method="aps")
    """
    _check_scores(scores)
    return _calibrated(scores, _only(scores, name), scores.tasks, by, method)


def evaluated(
    model: "Conformal | Model | PixelModel | EmbeddedModel", scores: "Scores", coverage: float = 0.9, name: str | None = None
) -> pd.DataFrame:
    """Compare the sets and intervals that a calibrated model gives at other points with the truth.

    Parameters
    ----------
    model : Conformal, Model, PixelModel or EmbeddedModel
        From :func:`misoxr.uncertainty.conformal.with_conformal` or :func:`misoxr.uncertainty.calibrated`.
    scores : Scores
        Answers at other points than it was calibrated on, such as those of ``cross_validate(…, cv=[(train, remote)])``, all in the CRS of
        the calibration.
    coverage : float, optional
        The coverage that is asked for.
    name : str, optional
        The model's name among these scores; by default the one it was calibrated as, or the only one.

    Returns
    -------
    DataFrame
        Indexed by ``task`` and ``class``: each class that occurs, and "all". The columns are

        - ``points``: rows of the scores, those of all seeds,
        - ``coverage``: share of them whose set or interval holds the truth,
        - ``size``: mean number of classes in the set, or width of the interval,
        - ``empty``: share of empty sets.

        A level ``region`` stands between the two where the coverage holds by region, or the scores have regions
        (``cross_validate(regions=)``): "all", and each region that has points. "none" is that of points in no region. ``attrs`` tell
        the coverage that was asked for. At the points of the calibration itself it holds by construction.

    Raises
    ------
    SpecError
        If the model is not calibrated, or the coverage is not between 0 and 1.
    PointsError
        If the model or its tasks are not among the scores, or in other units.

    Examples
    --------
    >>> near, far = (image.miso.cross_validate("rf-11", points, cv=misoxr.BlockKFold(size, 3)) for size in (300, 600))
    >>> table = misoxr.uncertainty.evaluated(misoxr.uncertainty.calibrated(near), far)
    """
    _check_scores(scores)
    found = model if isinstance(model, Conformal) else getattr(model, "conformal", None)
    if not isinstance(found, Conformal):
        raise SpecError(
            f"{type(model).__name__} has no calibration scores; give one of with_conformal(scores), or calibrated(scores)."
        )
    wanted, told = check_coverage(coverage), found.about.get("name")
    rows = _rows(scores, _only(scores, told if name is None and told in scores.models else name))
    parts = {}
    for task in scores.tasks:
        mine = _of_task(rows, task)
        if task.name in found.tasks and len(mine):
            _check_units(task, dict(found.about.get("units") or {}).get(task.name, task.units), "calibration scores are")
            parts[task.name] = _evaluated(found, task, mine, wanted, scores.about)
    if not parts:
        raise PointsError(f"The scores have no points of {list(found.tasks)}, which the model is calibrated for.")
    table = pd.concat(parts, names=["task"])
    table.attrs = {"coverage_asked_for": wanted, "method": found.method, "by": found.by or "all points"}
    return table


def _evaluated(found: Conformal, task: Task, rows: pd.DataFrame, coverage: float, about: Mapping[str, Any]) -> pd.DataFrame:
    """Return the table of a task, by class; by region and class where there are regions."""
    x, y = _places(rows)
    truth, values = _truth(rows), _answers(task, rows)
    region = None if found.by_of(task) != "region" else _regions(found.polygons, rows, about)
    if task.kind == "regression":
        widths = found.half_widths(task, len(rows), coverage, region)
        covered, sizes, names = np.abs(truth - values[:, 0]) <= widths, 2 * widths, np.full(len(rows), "all")
    else:
        held = found.sets(task, values, coverage, region, draws(x, y, str(about.get("crs") or ""))).held
        codes = truth.astype(np.intp)
        covered, sizes, names = held[np.arange(len(rows)), codes], held.sum(axis=1), np.asarray(task.classes, dtype=object)[codes]
    table = pd.DataFrame({"covered": covered, "size": sizes, "empty": sizes == 0, "class": names})
    inside = _named(found, rows, region)
    if inside is None:
        return _by_class(table, task)
    groups = {"all": table, **{name: table[inside == name] for name in sorted(set(inside))}}
    parts: pd.DataFrame = pd.concat({name: _by_class(part, task) for name, part in groups.items()}, names=["region"])
    return parts


def _by_class(table: pd.DataFrame, task: Task) -> pd.DataFrame:
    groups = [("all", table), *([] if task.kind == "regression" else [(one, table[table["class"] == one]) for one in task.classes])]
    told = {
        one: {"points": len(part), "coverage": part["covered"].mean(), "size": part["size"].mean(), "empty": part["empty"].mean()}
        for one, part in groups
        if len(part)
    }
    return pd.DataFrame.from_dict(told, orient="index").astype({"points": int}).rename_axis("class")


def _named(found: Conformal, rows: pd.DataFrame, region: Integers | None) -> npt.NDArray[Any] | None:
    """Return the name of the region of each row: that of the calibration, else that of the scores; None without regions."""
    if region is not None:
        assert found.polygons is not None
        return np.asarray([*found.polygons.names, "none"], dtype=object)[region]
    told = rows["region"].to_numpy(dtype=object)
    return None if pd.isna(told).all() else told.astype(str).astype(object)


# ---- from scores


def _check_scores(scores: Any) -> None:
    if not all(hasattr(scores, one) for one in ("predictions", "tasks", "about", "models")):
        raise PointsError(
            f"The scores are a {type(scores).__name__}; give what ds.miso.cross_validate returned, or Scores.load reads."
        )


def _calibrated(scores: "Scores", name: str, tasks: Sequence[Task], by: Any, method: Method) -> Conformal:
    if method not in get_args(Method):
        raise SpecError(f"method is {method!r}; use one of {get_args(Method)}.{did_you_mean(str(method), get_args(Method))}")
    if not (by is None or isinstance(by, gpd.GeoDataFrame | gpd.GeoSeries) or (isinstance(by, str) and by == "class")):
        raise SpecError(
            f"by is {by if isinstance(by, str) else type(by).__name__!r}; use None, 'class', or a GeoDataFrame of polygons."
        )
    if all(task.kind == "regression" for task in tasks) and (method != "plain" or isinstance(by, str)):
        raise SpecError(
            f"{_names(tasks)} are values and have no classes; leave out method= and by='class'. Polygons may be given as by=."
        )
    polygons = None if by is None or isinstance(by, str) else polygons_of(by)
    kind: By = "" if by is None else "region" if polygons is not None else "class"
    rows = _rows(scores, name)
    about = {
        "name": name,
        "cv": str(scores.about.get("cv", "")),
        "seeds": int(rows["seed"].nunique()),
        "distance": dict(scores.about.get("distance") or {}),
        "simulated": bool(scores.about.get("simulated")),
        "units": {task.name: task.units for task in tasks if task.kind == "regression"},
    }
    empty = Conformal({}, method, kind, polygons, about)
    of = {}
    for task in tasks:
        mine = _of_task(rows, task)
        mine = mine.iloc[np.flatnonzero(np.isfinite(_answers(task, mine)).all(axis=1))]
        if len(mine):
            of[task.name] = _task_scores(empty, task, scores, mine)
    if not of:
        raise PointsError(
            f"The scores of {name!r} have no points of {[task.name for task in tasks]}; they are of {_names(scores.tasks)}."
        )
    _tell_doubts(scores.about)
    found = replace(empty, tasks=of)
    _tell_groups(found, [task for task in tasks if task.name in of])
    return found


def _task_scores(like: Conformal, task: Task, scores: "Scores", rows: pd.DataFrame) -> TaskScores:
    theirs = next(one for one in scores.tasks if one.name == task.name)
    if (theirs.kind, theirs.classes) != (task.kind, task.classes):
        raise PointsError(
            f"The scores have the {theirs.kind} task {task.name!r} of {theirs.classes}, and the model a {task.kind} one of {task.classes}; give its own."
        )
    _check_units(theirs, task.units, "model is")
    truth, values, each = _truth(rows), _answers(task, rows), len(rows) / rows["point"].nunique()
    groups = np.zeros(len(rows), dtype=np.intp)
    if task.kind == "regression":
        found = np.abs(truth - values[:, 0])
    else:
        check_codes(task, truth)
        codes = truth.astype(np.intp)
        if len(np.unique(codes)) < 2:
            only = task.classes[codes[0]]
            raise PointsError(
                f"All {len(rows)} calibration points of {task.name!r} are {only!r}; give scores of two classes or more."
            )
        found = nonconformity(values, like.method, draws(*_places(rows), str(scores.about.get("crs") or "")))[
            np.arange(len(rows)), codes
        ]
        groups = codes if like.by == "class" else groups
    if like.by == "region":
        groups = _regions(like.polygons, rows, scores.about)
        if (groups < 0).all():
            raise PointsError(
                f"None of the {len(rows)} calibration points of {task.name!r} lies in a polygon; check the CRS of the polygons."
            )
    return TaskScores(found, groups, each)


def _check_units(theirs: Task, units: str, whose: str) -> None:
    """Refuse scores of a regression in other units: errors in them are other numbers."""
    if theirs.kind == "regression" and canonical(theirs.units) != canonical(units):
        raise PointsError(
            f"The scores have {theirs.name!r} in {theirs.units!r}, and the {whose} in {units!r}. Cross-validate with labels in {units!r}."
        )


def _rows(scores: "Scores", name: str) -> pd.DataFrame:
    table = scores.predictions
    return table[table["model"] == name]


def _of_task(rows: pd.DataFrame, task: Task) -> pd.DataFrame:
    return rows.loc[rows["task"] == task.name]


def _truth(rows: pd.DataFrame) -> Floats:
    return rows["truth"].to_numpy(dtype="float64")


def _answers(task: Task, rows: pd.DataFrame) -> Floats:
    """Return the probabilities of all classes, or values: (row, class) or (row, 1)."""
    values = rows[[f"p{k}" for k in range(task.outputs)]].to_numpy(dtype="float64")
    return np.concatenate([1 - values, values], axis=1) if task.kind == "binary" else values


def _places(rows: pd.DataFrame) -> tuple[Any, Any]:
    """Return what ties are broken by: coordinates, or the rows' numbers in scores from before they had any."""
    return (rows["x"].to_numpy(), rows["y"].to_numpy()) if {"x", "y"} <= set(rows) else (np.arange(len(rows)), np.zeros(len(rows)))


def _regions(polygons: "Polygons | None", rows: pd.DataFrame, about: Mapping[str, Any]) -> Integers:
    if not {"x", "y"} <= set(rows) or not about.get("crs"):
        raise PointsError(
            "The scores do not tell where their points lie; run cross_validate once more (with the same store=, no fold is run again)."
        )
    assert polygons is not None
    return polygons.at(rows["x"].to_numpy(), rows["y"].to_numpy(), str(about["crs"]))


# ---- which model


def _only(scores: "Scores", name: str | None) -> str:
    """Return a model's name among the scores; without one, the only model's."""
    if name is None and len(scores.models) == 1:
        return scores.models[0]
    if name not in scores.models:
        asked = "Name one of them" if name is None else f"There is no model {name!r} among the scores"
        raise PointsError(f"{asked}: name= is one of {scores.models}.{did_you_mean(str(name), scores.models)}")
    return name


def _name_of(scores: "Scores", fitted: Any, name: str | None) -> str:
    """Return the name, among the scores, of what was fitted."""
    known = scores.about.get("identities")
    if name is not None:
        chosen = _only(scores, name)
        if isinstance(known, Mapping) and known.get(chosen, identity_of(fitted)) != identity_of(fitted):
            note(
                f"The scores of {chosen!r} are of another specification than {fitted!r}: the coverage holds for that one, and not for this "
                "model. Without name=, the scores of the model's own specification are taken."
            )
        return chosen
    if not isinstance(known, Mapping):
        raise PointsError(
            f"The scores are of an earlier misoxr and do not tell what their models are; give name=, one of {scores.models}."
        )
    mine = [one for one in scores.models if known.get(one) == identity_of(fitted)]
    if len(mine) != 1:
        several = f"{mine} have" if mine else f"None of {scores.models} has"
        raise PointsError(f"{several} the specification of {fitted!r}; give name=, the one that stands for it.")
    if "mean" in set(_rows(scores, mine[0])["seed"]):
        raise PointsError(
            f"The scores of {mine[0]!r} are means over seeds, and one model errs more; give those of cross_validate itself. With name= they are taken."
        )
    return mine[0]


def _refuse_shifted(fitted: Any, tasks: Sequence[Task]) -> None:
    """Refuse probabilities that were moved after the scores: they are not those of the scores."""
    calibration = getattr(fitted, "calibration", {})
    moved = [task.name for task in tasks if task.name in calibration and any(calibration[task.name].bias)]
    if moved:
        raise SpecError(
            f"The model's probabilities of {moved} were moved to another prevalence, and those of the scores were not; calibrate the model as it was "
            'before with_prevalence. Sets of with_conformal(scores, by="class") hold for any prevalence as they are.'
        )


# ---- what is told


def _names(tasks: Sequence[Task]) -> list[str]:
    return [task.name for task in tasks]


def _tell_doubts(about: Mapping[str, Any]) -> None:
    """Warn of folds whose test points lie among training points."""
    cv, distance = str(about.get("cv", "")), about.get("distance") or {}
    if distance and distance["least"] == 0:
        note(
            f"Some points of the folds ({cv}) lie at a training point's own place: errors there are too small, and the coverage holds only beside "
            f"training points. {REMEDY}"
        )
    elif distance["median"] < APART * distance["between"] if distance else not cv.startswith(SPATIAL):
        far = (
            f"half of their test points lie within {distance['median']:.4g} of a training point, and half of all points within "
            f"{distance['between']:.4g} of another"
            if distance
            else "how far apart they are is not known"
        )
        note(
            f"The folds ({cv}) are not spatial: {far}. The coverage then holds among the points, and not in places that are farther from all of them. "
            + REMEDY
        )


def _tell_groups(found: Conformal, tasks: Sequence[Task]) -> None:
    """Warn of classes and regions without points, and of points in no region."""
    for task in tasks:
        names, groups = found.groups_of(task), found.tasks[task.name].groups
        if found.by_of(task) == "":
            continue
        empty = [name for code, name in enumerate(names) if not (groups == code).any()]
        if empty and found.by == "class":
            note(f"No calibration point of {task.name!r} is of {empty}: every set holds these classes, and credibility is 1.")
        elif empty:
            what = "every interval is infinite" if task.kind == "regression" else "every set holds all classes"
            note(f"No calibration point of {task.name!r} lies in the regions {empty}: {what} there.")
        outside = int((groups < 0).sum())
        if outside:
            note(
                f"{outside} of {len(groups)} calibration points of {task.name!r} lie in no region; they count only where no region is."
            )
