"""Teach a network: estimators that are fitted to the points answer pixels of the whole cube, from which the network learns."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox

from misoxr.cube.features import features_in, reach_of
from misoxr.cube.scaling import Scaling
from misoxr.errors import PointsError, SpecError
from misoxr.estimators.baselines import Baseline, Transfers, prepared_baseline
from misoxr.estimators.fitting import fit_table, is_balanced
from misoxr.estimators.pixel_model import PixelModel
from misoxr.model.calibration import Calibration, fit_temperature
from misoxr.points.clusters import blocks_of, dealt
from misoxr.spec import PRESETS, ModelSpec, Recipe, Task
from misoxr.training.windows import Array, Integers, Pool, TrainingWindows

__all__ = ["Taught", "anywhere", "names_of", "taught", "teachers_of"]

AUTO = "vote-neighbourhood"
"""The teacher of small models."""
ANYWHERE, SIZE = 600, 64
"""Cutouts from anywhere in the cube for a teacher to answer in, where windows have so many pixels a side; fewer of larger ones."""
COVER = 4
"""The most cutouts from anywhere, in cutouts that would tile the cube."""
POOL, EACH = 80_000, 32
"""Pixels that a teacher answers in all, and in each cutout at the least."""
OWN = 2
"""How often each training point's own labels stand among these."""


@dataclass(frozen=True)
class Taught:
    """What teachers leave to a network: windows with a pool of their answers, their calibration, the classes' shares, and a record."""

    data: TrainingWindows
    calibration: Mapping[str, Calibration]
    shares: Mapping[str, Any]
    record: Mapping[str, Any]


def teachers_of(teacher: Any, spec: ModelSpec, *, seed: int = 0) -> list[Baseline]:
    """Return a network's teachers; refuse what is none, before a cube is read.

    "auto" is the vote of a forest and a logistic regression for models of less than the published width, and none for others.
    """
    if teacher is None or (isinstance(teacher, str) and teacher == "auto" and spec.width >= 1024):
        return []
    several = _several(teacher)
    if not several:
        raise SpecError("teacher is an empty list; give estimators, or None.")
    for one in several:
        if isinstance(one, bool):
            raise SpecError(f"teacher is {one}; give an estimator or a baseline's name, or None to learn from the labels alone.")
        if isinstance(one, ModelSpec) or (isinstance(one, str) and one in PRESETS):
            name = one if isinstance(one, str) else one.name
            raise SpecError(f"teacher is the network {name!r}; give an estimator of scikit-learn, or the name of a baseline.")
    return [prepared_baseline(one, spec, seed=seed) for one in several]


def _several(teacher: Any) -> list[Any]:
    several = list(teacher) if isinstance(teacher, list | tuple) else [teacher]
    return [AUTO if isinstance(one, str) and one == "auto" else one for one in several]


def names_of(teacher: Any) -> list[str]:
    """Return what people call a network's teachers."""
    estimators = [one.estimator if isinstance(one, Baseline) else one for one in _several(teacher)]
    return [one if isinstance(one, str) else type(one).__name__ for one in estimators]


def anywhere(teachers: Sequence[Baseline], recipe: Recipe, spec: ModelSpec, geobox: GeoBox) -> int:
    """Return how many cutouts from anywhere teachers need, at the least."""
    if not teachers or not recipe.unlabelled:
        return 0
    size = spec.windows.size
    tiles = math.prod(math.ceil(length / (2 * size)) for length in geobox.shape)
    return min(math.ceil(ANYWHERE * min(1.0, (SIZE / size) ** 2)), COVER * tiles)


def taught(
    data: TrainingWindows,
    train: Integers,
    teachers: Sequence[Baseline],
    *,
    seed: int,
    transfer: Transfers = "auto",
    calibrate: bool = True,
    draws: Sequence[Integers] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Taught:
    """Fit teachers on the training points, and have them answer a pool of pixels.

    Parameters
    ----------
    data : TrainingWindows
        Windows around the points, and from anywhere.
    train : array
        The points to learn from; no other label is looked at.
    teachers : sequence of Baseline
        Their answers are averaged.
    seed : int
        Seed of estimators and pool.
    transfer : {"auto", False}
        As for :func:`misoxr.estimators.fitting.fit_baseline`.
    calibrate : bool
        Whether to fit temperatures, for which teachers are fitted five times more.
    draws : sequence of array, optional
        By member, which of the training points its own teachers are fitted to; one model with all of them by default.
    say : callable, optional
        Is told in words what is done.
    """
    say("fitting the teacher")
    scalings = {method: _scaling(data, method, seed) for method in {teacher.scaling for teacher in teachers}}
    points = data.cutouts.cutout[train], data.labelled.rows[train], data.labelled.columns[train]
    learners = data.labelled.only(train)
    labels = learners.labels
    tables = [_features(data, one, scalings[one.scaling], *points) for one in teachers]

    def fitted(chosen: Any) -> list[PixelModel]:
        own, pairs = learners.only(chosen), zip(teachers, tables, strict=True)
        return [
            fit_table(
                one,
                data.spec,
                table[:, chosen],
                own.labels,
                scalings[one.scaling],
                seed=seed,
                transfer=transfer,
                weights=own.weights,
            )
            for one, table in pairs
        ]

    members = [fitted(chosen) for chosen in draws or [np.arange(len(train))]]
    say("asking the teacher")
    pixels = _pixels(data, max(reach_of(teacher.features) for teacher in teachers), seed)
    answers, valid = _answers(data, members, *pixels)
    known = _known(data, train, points, members, draws)
    told = _bounded(data.spec, np.concatenate([answers[valid], *[known] * OWN]), labels)
    exact = np.zeros(int(valid.sum()))
    places = [[*(part[valid] for part in pixels), exact], *[[*points, learners.radius]] * OWN]
    pool = _pool(data, places, told)
    classes = [task for task in data.spec.tasks if task.kind != "regression"]
    say("calibrating the teacher")
    foretold = _foretold(data, train, labels, tables, fitted) if calibrate and classes else {}
    sure = learners.scored
    calibration = {task.name: _calibrated(task, foretold[task.name], sure[task.name]) for task in classes if foretold}
    shares = {task.name: _prior(teachers, task, labels[task.name], learners.weights.get(task.name)) for task in classes}
    record = {"estimators": _records(members), "pixels": int(valid.sum())}
    return Taught(replace(data, pool=pool), calibration, shares, record)


def _records(members: Sequence[Sequence[PixelModel]]) -> list[dict[str, Any]]:
    """Return the records of all teachers; where there are members, with the number of the member that each teaches."""
    several = len(members) > 1
    return [({"member": number} if several else {}) | dict(one.record) for number, models in enumerate(members) for one in models]


def _prior(teachers: Sequence[Baseline], task: Task, labels: Any, weights: Any) -> Any:
    """Return the shares of classes that teachers take for granted: alike where they are balanced, else those of the labels."""
    known = np.isfinite(labels)
    counts = np.bincount(labels[known].astype(int), None if weights is None else weights[known], minlength=len(task.classes))
    parts = [
        (counts > 0) / (counts > 0).sum() if is_balanced(one.estimator_of(task)) else counts / counts.sum() for one in teachers
    ]
    return np.mean(parts, axis=0)


def _pool(data: TrainingWindows, places: Sequence[Sequence[Any]], answers: Array) -> Pool:
    """Order pixels (cutout, row, column and radius, part after part) and their answers by cutout."""
    cutout, rows, columns, radius = (np.concatenate(parts) for parts in zip(*places, strict=True))
    order = np.argsort(cutout, kind="stable")
    first = np.searchsorted(cutout[order], np.arange(len(data.cutouts.file) + 1))
    return Pool(first, rows[order], columns[order], _by_task(data.spec, answers[order]), radius[order])


def _known(
    data: TrainingWindows,
    train: Integers,
    points: tuple[Integers, Any, Any],
    members: Sequence[Sequence[PixelModel]],
    draws: Sequence[Integers],
) -> Array:
    """Return what is taught at the training points: their labels, and the teachers' answers where there is none.

    A member is taught the labels of its own draw. Labels that count less than 1 are mixed with the teachers' answers. (point, output), or
    (point, member, output).
    """
    answers, _ = _answers(data, members, *points)
    met = np.stack([np.isin(np.arange(len(train)), drawn) for drawn in draws], axis=1) if draws else True
    for task, told in zip(data.spec.tasks, _by_task(data.spec, answers).values(), strict=True):
        labels = data.labelled.labels[task.name][train].reshape(-1, *[1] * (told.ndim - 1))
        sure = (labels == np.arange(task.outputs)) if task.kind == "multiclass" else labels
        whole = np.isfinite(labels) & np.expand_dims(met, -1) if draws else np.isfinite(labels)
        if task.name in data.labelled.weights:
            count = data.labelled.weights[task.name][train].reshape(labels.shape)
            sure = np.where(count < 1, count * sure + (1 - count) * told, sure)
        told[:] = np.where(whole, sure, told)
    return answers


def _bounded(spec: ModelSpec, answers: Array, labels: Mapping[str, Any]) -> Array:
    """Keep the values of regressions within those of the labels: a linear teacher goes on beyond, even to values without a logarithm."""
    ends = [
        (np.nanmin(labels[task.name]), np.nanmax(labels[task.name])) if task.kind == "regression" else (0, 1) for task in spec.tasks
    ]
    low, high = np.repeat(ends, [task.outputs for task in spec.tasks], axis=0).T
    return np.clip(answers, low, high).astype("float32")


def _foretold(
    data: TrainingWindows,
    train: Integers,
    labels: Mapping[str, Any],
    tables: Sequence[Array],
    fitted: Callable[[Any], list[PixelModel]],
) -> dict[str, Array]:
    """Return what teachers answer at points of blocks that they were not fitted to.

    NaN where too few labels are left to fit them, and where the label is of a class that none of these has: they cannot answer it.
    """
    size = 4 * data.spec.windows.size * data.spec.pixel_size
    answers = np.full((len(train), data.spec.outputs), np.nan, "float32")
    for test in _blocks(data.labelled.xy[train], size):
        with suppress(PointsError, ValueError):  # estimators have bounds of their own on the number of points
            models = fitted(np.flatnonzero(~test))
            answers[test] = np.mean([m.answer(t[:-1, test].T) for m, t in zip(models, tables, strict=True)], axis=0)
        for task, answered in zip(data.spec.tasks, _by_task(data.spec, answers).values(), strict=True):
            if task.kind != "regression":
                answered[test & ~np.isin(labels[task.name], labels[task.name][~test])] = np.nan
    return _by_task(data.spec, answers)


def _blocks(xy: Any, size: float, count: int = 5) -> list[Any]:
    """Part points in sets of whole square blocks, which are halved until there are enough: a mask of each set's points."""
    blocks, counts = blocks_of(xy, size, least=count)
    numbers = dealt(blocks, min(count, len(counts)), seed=0)
    return [numbers == number for number in np.unique(numbers)]


def _calibrated(task: Task, answers: Array, labels: Any) -> Calibration:
    """Fit a task's temperature on probabilities (point, output), where there are any."""
    bounded = np.clip(answers.astype("float64"), 1e-6, 1 - 1e-6)
    logits = np.log(bounded) if task.kind == "multiclass" else np.log(bounded) - np.log1p(-bounded)
    return Calibration(fit_temperature(task, logits, np.where(np.isfinite(logits[:, 0]), labels, np.nan)))


def _by_task(spec: ModelSpec, answers: Array) -> dict[str, Array]:
    """Part columns (..., output) by task."""
    ends = np.cumsum([0, *(task.outputs for task in spec.tasks)]).tolist()
    return {task.name: answers[..., start:stop] for task, start, stop in zip(spec.tasks, ends, ends[1:], strict=False)}


def _scaling(data: TrainingWindows, method: str, seed: int) -> Scaling | None:
    if method == "none":
        return None
    return Scaling.fit(data.spec, data.cutouts.pixels(200_000, np.random.default_rng(seed)), method)


def _features(data: TrainingWindows, teacher: Any, scaling: Scaling | None, cutout: Integers, rows: Any, columns: Any) -> Array:
    """Return a teacher's features (feature + 1, pixel) of pixels in cutouts."""
    kind, order = teacher.features, np.argsort(cutout, kind="stable")
    parts = []
    for mine in np.split(order, np.flatnonzero(np.diff(cutout[order])) + 1):
        row, column = (np.floor(part[mine]).astype("int64") for part in (rows, columns))
        squares = data.cutouts.squares(int(cutout[mine[0]]), row, column, reach_of(kind))
        parts.append(features_in(kind, scaling, data.spec, squares, data.geobox, row, column))
    table = np.concatenate(parts, axis=1)
    found = np.empty_like(table)
    found[:, order] = table
    return found


def _pixels(data: TrainingWindows, reach: int, seed: int) -> tuple[Integers, Any, Any]:
    """Draw pixels in every cutout, but for those whose neighbourhood the cutout does not hold: cutout, row and column of their centres."""
    file, rng = data.cutouts.file, np.random.default_rng([seed, 3])
    each = max(EACH, -(-POOL // len(file)))
    drawn = []
    for start, length, whole in zip(file.starts.T, file.shape[1:], data.geobox.shape, strict=True):
        low = np.where(start > 0, start + reach, start)
        high = np.where(start + length < whole, start + length - reach, start + length)
        low, high = np.where(high > low, low, start), np.where(high > low, high, start + length)
        drawn.append(rng.integers(low[:, None], high[:, None], (len(file), each)).ravel() + 0.5)
    return np.repeat(np.arange(len(file)), each), drawn[0], drawn[1]


def _answers(
    data: TrainingWindows, members: Sequence[Sequence[PixelModel]], cutout: Integers, rows: Any, columns: Any
) -> tuple[Array, Any]:
    """Return what each member's teachers answer at pixels in the mean, and which pixels have valid input.

    (pixel, member, output); (pixel, output) of a single member.
    """
    total = np.full((len(members), len(cutout), data.spec.outputs), np.nan)
    valid = np.ones(len(cutout), dtype=bool)
    for number, one in enumerate(members[0]):  # all members' have the same features
        table = _features(data, one, one.scaling, cutout, rows, columns)
        valid = table[-1] > 0
        for member, models in enumerate(members):
            if valid.any():
                answered = models[number].answer(table[:-1, valid].T) / len(models)
                total[member, valid] = answered if number == 0 else total[member, valid] + answered
    answers = total.astype("float32")
    return answers[0] if len(members) == 1 else np.moveaxis(answers, 0, 1), valid
