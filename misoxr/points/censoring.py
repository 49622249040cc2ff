"""Right-censored labels: an observation that stopped above the depth that a task speaks of, and found nothing, is no absence."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from misoxr.errors import SpecError, did_you_mean, note
from misoxr.points.read import encode
from misoxr.points.readers import LIKELY, depths, require_once
from misoxr.spec import Task

__all__ = ["Censored", "Observed", "check_censored", "known_column", "observed", "scored", "stopped_above"]

Floats = npt.NDArray[np.float64]
Censored = Literal["drop", "weight", "keep"]
NEAR = 1e-3
"""Metres by which an observation may miss a task's depth: those of 39.37 in reach 1 m."""


class Observed(NamedTuple):
    """Labels as they may be learnt.

    Attributes
    ----------
    labels : dict of str to array (point,)
        Codes or values by task, NaN where unknown or dropped.
    weights : dict of str to array (point,)
        Of tasks with weighted labels, what each point's counts; no other task is among them.
    record : dict of str to dict
        Of tasks with depths: the rule, the depth, and how many labels are censored, or are of an unknown depth.
    """

    labels: dict[str, Floats]
    weights: dict[str, Floats]
    record: dict[str, dict[str, Any]]


def check_censored(censored: Any) -> None:
    """Refuse what is no rule for censored labels."""
    if censored not in get_args(Censored):
        hint = did_you_mean(str(censored), get_args(Censored))
        raise SpecError(f"censored is {censored!r}; use one of {get_args(Censored)}.{hint}")


def known_column(points: pd.DataFrame, name: str, tasks: Sequence[Task]) -> bool:
    """Return whether points have a column that says something of the observation, and is no task's label; several are an error."""
    require_once(points, [name])
    return name in points.columns and all(task.name != name for task in tasks)


def stopped_above(depth: Floats, task: Task) -> npt.NDArray[np.bool_]:
    """Return which observations stopped above the depth that a task speaks of; none of unknown depth."""
    if task.depth is None:
        return np.zeros(len(depth), dtype=bool)
    stopped: npt.NDArray[np.bool_] = depth < task.depth - NEAR
    return stopped


def observed(points: pd.DataFrame, tasks: Sequence[Task], censored: Censored = "drop", *, what: str = "points") -> Observed:
    """Encode labels as :func:`misoxr.points.read.encode` does, and treat those that are right-censored.

    A label is censored if it is a task's first class ("absent") and the observation stopped above the task's depth. What was found, was
    found, whatever the depth. Labels of an unknown depth are taken as they stand.

    Parameters
    ----------
    points : DataFrame
        With labels, and a column "depth" in metres, where depths are known.
    tasks : sequence of Task
        The tasks; those without a depth are not affected.
    censored : {"drop", "weight", "keep"}
        Leave censored labels out; weigh them by the share of the task's depth that was seen; or take them as they stand.
    what : str, optional
        What a warning calls the points.

    Raises
    ------
    PointsError
        As :func:`misoxr.points.read.encode`; or if a depth is no depth.
    SpecError
        If the rule is unknown.

    Warns
    -----
    MisoxrWarning
        If labels are left out or weighted, or have no depth while others have one; or if depths seem to be cm.
    """
    check_censored(censored)
    labels, weights, record = encode(points, tasks), {}, {}
    deep = [task for task in tasks if task.depth is not None]
    if not deep or not known_column(points, "depth", tasks):
        return Observed(labels, {}, {})
    depth = depths(points["depth"]).to_numpy()
    if (known := depth[np.isfinite(depth)]).size and np.median(known) > LIKELY:
        note(
            f"Half of the depths are above {np.median(known):g} m. If they are cm, nothing is taken for censored that is: read them with "
            'read_points(points, depth=("depth", "cm")).',
            about=f"depths of {what}",
        )
    for task in deep:
        values = labels[task.name]
        absent = values == 0
        stopped = absent & stopped_above(depth, task)
        untold = int((absent & np.isnan(depth)).sum())
        record[task.name] = {"rule": censored, "depth": task.depth, "censored": int(stopped.sum()), "without_depth": untold}
        _note(task, censored, int(stopped.sum()), untold, what)
        if censored == "drop":
            labels[task.name] = np.where(stopped, np.nan, values)
        elif censored == "weight" and stopped.any():
            weights[task.name] = np.where(stopped, depth / float(task.depth or 1), 1.0)
            labels[task.name] = np.where(weights[task.name] > 0, values, np.nan)
    return Observed(labels, weights, record)


def _note(task: Task, censored: Censored, stopped: int, untold: int, what: str) -> None:
    """Say once a call how many labels are censored, and how many cannot be judged."""
    name = task.classes[0]
    words = []
    if stopped and censored != "keep":
        treated = "are left out" if censored == "drop" else "weigh as much as the share of it that was seen"
        words.append(
            f"Of the {what}, {stopped} labels {name!r} of {task.name!r} are censored: the observations stopped above {task.depth:g} m (column "
            f"'depth') and found nothing. They {treated} (censored={censored!r})."
        )
    if untold and censored != "keep":
        words.append(
            f"Of the {what}, {untold} labels {name!r} of {task.name!r} have no depth (column 'depth'), and are taken to hold down to {task.depth:g} m."
        )
    if words:
        note(" ".join(words), about=f"censored {task.name} of {what}")


def scored(labels: Mapping[str, Floats], weights: Mapping[str, Floats]) -> dict[str, Floats]:
    """Return the labels that are true for certain, by which a model may be judged: NaN where one weighs less."""
    return {name: np.where(weights[name] < 1, np.nan, values) if name in weights else values for name, values in labels.items()}
