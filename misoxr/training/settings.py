"""Check the settings of a training before a cube is read: recipe, hardware, room, and validation points."""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from odc.geo.geobox import GeoBox

from misoxr.cube.scaling import METHODS, ModalityScaling, Scaling
from misoxr.errors import GridError, PointsError, SpecError, did_you_mean
from misoxr.estimators.baselines import check_transfer
from misoxr.estimators.fitting import check_labels
from misoxr.model.devices import choose_device, choose_precision
from misoxr.model.pretrained import encoders_of
from misoxr.model.published import check_backbone
from misoxr.points.folds import separate
from misoxr.points.labelled import Labelled
from misoxr.spec import ModelSpec, Recipe
from misoxr.spec.numbers import is_number, is_whole
from misoxr.training.loop import Hardware
from misoxr.training.teaching import teachers_of

__all__ = ["VAL", "check_held", "check_room", "check_scaling", "check_seed", "described", "held_out", "prepared"]

ARGUMENTS = [
    "estimator",
    "points",
    "tasks",
    "val",
    "seed",
    "teacher",
    "transfer",
    "censored",
    "tolerance",
    "members",
    "scaling",
    "like",
    "pretrained",
    "calibrate",
    "directory",
    "resume",
    "device",
    "devices",
    "precision",
    "workers",
    "progress",
]
"""Arguments of :func:`misoxr.training.fit.fit` beside the recipe's, for those who misspell one."""


_WAYS = {
    "none": "as they lie",
    "mirror": "mirrored at random",
    "flips": "flipped at random",
    "dihedral": "flipped and rotated at random",
}

VAL = 0.2
"""Fraction of the points that is held out for validation by default."""


def check_room(spec: ModelSpec, geobox: GeoBox) -> None:
    """Refuse a cube that is smaller than one of the network's windows: there is nothing to learn from nodata."""
    size, (height, width) = spec.windows.size, geobox.shape
    if min(height, width) < size:
        raise GridError(
            f"The cube has {height} x {width} pixels, less than a window of {spec.name!r}, {size} x {size}; give a larger cube, or a "
            "ModelSpec with smaller windows=WindowSpec(…)."
        )


def prepared(
    spec: ModelSpec,
    *,
    val: Any = None,
    seed: Any = 0,
    teacher: Any = "auto",
    transfer: Any = "auto",
    members: Any = None,
    scaling: Any = None,
    like: Any = None,
    pretrained: Mapping[str, Any] | None = None,
    device: str = "auto",
    devices: int = 1,
    precision: str = "auto",
    workers: int = 0,
    **settings: Any,
) -> tuple[Recipe, Hardware]:
    """Return a network's recipe and hardware; refuse what is known to fail, before a cube is read."""
    if like is not None:
        raise SpecError("like gives a baseline its bands and tasks, and a network has its own; leave it out.")
    if pretrained is not None and not isinstance(pretrained, Mapping):
        raise SpecError(f"pretrained is {pretrained!r}; give the weights of each modality, such as {{'sat': path}}.")
    for name in settings.keys() - Recipe.__dataclass_fields__.keys():
        if hint := did_you_mean(name, ARGUMENTS):
            raise SpecError(f"fit has no argument {name!r}.{hint}")
    check_transfer(transfer)
    if members is not None:
        spec = replace(spec, members=members)
    taught = bool(teachers_of(teacher, spec))
    recipe = Recipe.of(spec, taught=taught, **settings)
    _check_settings(recipe, spec, val, seed, scaling, pretrained, taught=taught)
    return recipe, _hardware(device, devices, precision, workers)


def _check_settings(
    recipe: Recipe,
    spec: ModelSpec,
    val: Any,
    seed: Any,
    scaling: Scaling | str | None,
    pretrained: Mapping[str, Any] | None,
    *,
    taught: bool,
) -> None:
    names = [modality.name for modality in spec.modalities]
    if not names:
        raise SpecError(f"Model {spec.name!r} has no modality to train; give one with bands, such as a preset.")
    unknown = sorted(set(recipe.freeze) - set(names))
    if unknown:
        raise SpecError(f"freeze names {unknown}; the model's modalities are {names}.")
    check_seed(seed)
    if isinstance(val, bool):
        raise SpecError(f"val is {val!r}; give a fraction of the points, such as 0.2, or the validation points.")
    if is_number(val) and not 0 < float(val) < 1:
        raise PointsError(f"A validation fraction of {val:g} leaves one side empty; use one between 0 and 1.")
    check_scaling(scaling, spec)
    if set(pretrained or {}) - set(names):
        raise SpecError(
            f"pretrained names {sorted(set(pretrained or {}) - set(names))}; the model's modalities are {sorted(names)}."
        )
    own = encoders_of(spec, pretrained or {})
    for name, one in own.items():
        kept = scaling.modalities[name] == one.scaling if isinstance(scaling, Scaling) else len(own) < len(names)
        if scaling is not None and not kept:  # a name goes for the modalities that bring no scaling
            raise SpecError(
                f"scaling is {scaling if isinstance(scaling, str) else 'given'!r}, and the pre-trained weights of {name!r} hold for the scaling "
                "in their file; leave scaling out, or pre-train with it."
            )
    for modality in spec.modalities:
        if modality.name in (pretrained or {}) and modality.name not in own:
            check_backbone(modality)
    if recipe.criterion == "accuracy" and all(task.kind == "regression" for task in spec.tasks):
        raise SpecError("criterion='accuracy' needs a task with classes, and all are regressions; use criterion='loss'.")
    if recipe.unlabelled and not spec.losses.contrast and not taught:
        raise SpecError(
            f"unlabelled is {recipe.unlabelled}, and the model has neither a teacher nor contrast to learn from windows without labels; "
            "set unlabelled=0, or give it a teacher or losses=LossSpec(contrast=…)."
        )


def check_seed(seed: Any) -> None:
    """Refuse a seed that is no whole number, or negative."""
    if not is_whole(seed) or int(seed) < 0:
        raise SpecError(f"The seed is {seed!r}; it must be a whole number, 0 or more.")


def check_scaling(scaling: Any, spec: ModelSpec) -> None:
    """Refuse what is neither the name of a scaling nor a scaling for the model's modalities."""
    if not isinstance(scaling, Scaling | str | None) or (isinstance(scaling, str) and scaling not in METHODS):
        raise SpecError(
            f"Unknown scaling {scaling!r}; use one of {METHODS}, or a Scaling in hand.{did_you_mean(str(scaling), METHODS)}"
        )
    if isinstance(scaling, Scaling):
        scaling.check(spec)


def _hardware(device: str, devices: int, precision: str, workers: int) -> Hardware:
    if not all(is_whole(count) for count in (devices, workers)) or devices < 1 or workers < 0:
        raise SpecError(f"devices is {devices!r} and workers {workers!r}; use 1 or more devices, and 0 or more workers.")
    if devices > 1 and hasattr(sys, "ps1"):
        raise SpecError(
            f"devices={devices} starts processes, which an interactive session cannot; run fit in a script, or use devices=1."
        )
    target = choose_device(device)
    if precision == "float64":
        raise SpecError("Training in float64 is not supported; use precision='float32', 'bfloat16' or 'auto'.")
    kinds = {torch.float32: "32-true", torch.bfloat16: "bf16-mixed"}
    return Hardware(target, devices, kinds[choose_precision(precision, target)], workers)


def described(
    spec: ModelSpec,
    recipe: Recipe,
    teachers: Sequence[str],
    scaling: Scaling,
    pretrained: Collection[str],
    lessons: Mapping[str, Any],
    points: int,
    held: int,
    learners: Labelled | None = None,
    lacking: Sequence[str] = (),
) -> str:
    """Say in a line what a training does, also what nobody asked for: points, teachers, transfer, inputs and steps."""
    parts = [f"{spec.name} learns {' and '.join(task.name for task in spec.tasks)} from "]
    if teachers:
        answer = "answers" if len(teachers) == 1 else "answer"
        parts[0] += f"what {' and '.join(teachers)} {answer} at {_counted(lessons['pixels'], 'pixel')}, and from "
    parts[0] += f"the labels of {_counted(points, 'point')}"
    moved = {(table["source"], table["target"]) for one in lessons.get("estimators", ()) for table in one["transfer"]}
    parts += [f"labels of {target} are filled by {source}" for source, target in sorted(moved)]
    parts += [f"{_counted(held, 'point')} validate{'s' if held == 1 else ''}"] if held else []
    parts += [] if learners is None else [*_unseen(spec, learners), *_honest(learners)]
    parts += [f"{spec.members} members"] if spec.members > 1 else []
    begun = [modality.name for modality in spec.modalities if modality.name in pretrained]
    parts += [f"pre-trained weights of {' and '.join(begun)}"] if begun else []
    parts += [_inputs(spec, scaling)]
    parts += [f"without {', '.join(lacking)}, which the cube lacks"] if lacking else []
    length = _counted(recipe.steps, "step") if recipe.steps else _counted(recipe.max_epochs, "epoch")
    parts += [f"{length} with batches of {_counted(recipe.batch_size, 'window')}, {_WAYS[recipe.augment]}"]
    return "; ".join(parts) + "."


def _unseen(spec: ModelSpec, learners: Labelled) -> list[str]:
    """Say which classes have no label: a model hardly ever answers them."""
    found = []
    for task in spec.tasks:
        codes = learners.labels[task.name]
        absent = [name for code, name in enumerate(task.classes) if not (codes == code).any()]
        found += [f"no label of {task.name} is {', '.join(absent[:-1])}{' or ' * (len(absent) > 1)}{absent[-1]}"] if absent else []
    return found


def _honest(learners: Labelled) -> list[str]:
    """Say which labels are censored, and which places are asked over a disk."""
    treated = {"drop": "left out", "weight": "weighted", "keep": "taken as they stand"}
    found = [
        f"{_counted(one['censored'], 'censored label')} of {name} {'is' if one['censored'] == 1 else 'are'} {treated[one['rule']]}"
        for name, one in learners.censored.items()
        if one["censored"]
    ]
    asked = int((learners.radius > 0).sum())
    return found + (
        [f"{_counted(asked, 'point')} {'is' if asked == 1 else 'are'} asked over the disk of the accuracy"] if asked else []
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _inputs(spec: ModelSpec, scaling: Scaling) -> str:
    """Say how bands become inputs, modality by modality where these differ."""
    found: dict[str, list[str]] = {}
    for modality in spec.modalities:
        found.setdefault(_scaled_as(scaling.modalities[modality.name]), []).append(modality.name)
    if len(found) == 1:
        return f"inputs are {next(iter(found))}"
    return "inputs are " + ", ".join(f"{how} ({' and '.join(names)})" for how, names in found.items())


def _scaled_as(scaling: ModalityScaling) -> str:
    if scaling.whiten is not None:
        return "whitened"
    if any(scaling.log):
        return "logarithms"
    untouched = not any(scaling.shift) and all(scale == 1 for scale in scaling.scale)
    return "as they are" if untouched else "standardised"


def held_out(spec: ModelSpec, xy: Any, val: float | None, seed: int, *, spared: bool) -> Any:
    """Return which points, (point, [x, y]), a fraction holds out for validation: whole blocks of four windows.

    By default, none of points that are ``spared``: a teacher calibrates, and the last epoch is kept.
    """
    if val is None and spared:
        return np.zeros(len(xy), dtype=bool)
    return separate(xy, fraction=VAL if val is None else float(val), size=4 * spec.windows.size * spec.pixel_size, seed=seed)


def check_held(spec: ModelSpec, labels: Mapping[str, Any], held: Any, criterion: str, *, spared: bool) -> None:
    """Refuse validation points that leave nothing to learn of a task, or by which no epoch can be chosen."""
    if held.all() or not (held.any() or spared):
        raise PointsError(f"There are {(~held).sum()} training and {held.sum()} validation points; both are needed. Change val.")
    for task in spec.tasks:
        known = np.isfinite(labels[task.name])
        check_labels(task, labels[task.name][known])
        check_labels(task, labels[task.name][known & ~held], f" when {held.sum()} points are held for validation (val, seed)")
    told = [labels[task.name][held] for task in spec.tasks if task.kind != "regression"]
    if criterion == "accuracy" and not any(np.isfinite(values).any() for values in told):
        raise PointsError(
            f"None of the {held.sum()} validation points has a label of a class, by which criterion='accuracy' chooses the epoch; "
            "change val, or use criterion='loss'."
        )
