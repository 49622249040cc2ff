"""What a cross-validation compares: estimators by name, with settings and specification."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import geopandas as gpd
import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr.cube.presets import of_tasks, spec_for
from misoxr.errors import SpecError
from misoxr.estimators.baselines import Baseline, embeds, is_baseline, note_threshold, prepared_baseline, trains
from misoxr.points.censoring import check_censored
from misoxr.spec import ModelSpec, Recipe, Task
from misoxr.training.embedded import OF_BOTH, network_spec, prepared_embedded
from misoxr.training.settings import check_room, prepared

__all__ = ["check_models", "common_tasks", "estimators_of", "specs_of"]

LABELS = {"censored", "tolerance"}
"""Settings of the labels that all models learn, which training checks with the points."""
OF_ALL = {"transfer", *LABELS}
"""Settings of networks and baselines alike."""
SIDES = ("calibrate", "progress")
"""Keyword arguments of fit that nothing can be wrong with."""
ELSEWHERE = ("device", "devices", "precision")
"""Those that only a cluster's workers can tell about."""


def estimators_of(estimators: Any, settings: Mapping[str, Any], own: Sequence[str]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Give each estimator a name and its settings; what trains a network also takes the common settings.

    Parameters
    ----------
    estimators : estimator, list or mapping
        As for :func:`misoxr.evaluation.cross_validate.cross_validate`.
    settings : mapping
        The common settings.
    own : sequence of str
        Arguments that are none of a network, for who misspells one.
    """
    if not isinstance(estimators, Mapping):
        several = estimators if isinstance(estimators, list) else [estimators]
        names = [_name(_pair(one)[0]) for one in several]
        if len(set(names)) < len(names):
            raise SpecError(f"Two of the models are named alike: {names}. Give a mapping with a name for each.")
        estimators = dict(zip(names, several, strict=True))
    out = {}
    for name, one in estimators.items():
        estimator, options = _pair(one)
        trained = trains(estimator)
        common = {key: value for key, value in settings.items() if (trained and key != "like") or key in _taken(estimator)}
        out[str(name)] = (estimator, {**common, **options})
    for name, options in (*((name, options) for name, (_, options) in out.items()), ("all", settings)):
        refused = sorted({"seed", "directory", "resume"} & options.keys())
        if refused:
            raise SpecError(f"{refused} of {name!r} cannot be set here: give seeds= and store=, and every fold has its own.")
        if "tasks" in options:
            raise SpecError(
                f"tasks of {name!r} cannot be set apart: models that are compared learn the same; give cross_validate tasks=."
            )
        if not isinstance(options.get("val"), Real | None):
            raise SpecError(
                f"val of {name!r} is a {type(options['val']).__name__}, whose points may be test points of a fold; give a fraction."
            )
    untaken = settings.keys() - {key for estimator, _ in out.values() for key in _taken(estimator)} - OF_ALL
    if "like" in untaken:
        raise SpecError(f"like gives baselines their bands and tasks, and there is none among {list(out)}; leave it out.")
    if untaken and not any(trains(estimator) for estimator, _ in out.values()):
        raise SpecError(
            f"The settings {sorted(untaken)} are for networks, and there is none among {list(out)}; leave them out. "
            f"cross_validate itself takes {list(own)}."
        )
    return out


def _taken(estimator: Any) -> set[str]:
    """Return the common settings that an estimator takes which trains no network; a trained one embeds somewhere."""
    if is_baseline(estimator):
        return OF_ALL | {"like"}
    return OF_ALL | set(OF_BOTH) if embeds(estimator) else OF_ALL


def _pair(one: Any) -> tuple[Any, Mapping[str, Any]]:
    """Return an estimator and its own settings."""
    if not isinstance(one, tuple):
        return one, {}
    if len(one) != 2 or not isinstance(one[1], Mapping):
        raise SpecError(f"{one!r} is no pair (estimator, settings); give a list or a mapping of several models.")
    return one[0], one[1]


def _name(estimator: Any) -> str:
    if isinstance(estimator, str):
        return estimator
    if isinstance(estimator, ModelSpec):
        return estimator.name
    return (
        f"{type(estimator.estimator).__name__} ({estimator.features})"
        if isinstance(estimator, Baseline)
        else type(estimator).__name__
    )


def specs_of(
    estimators: Mapping[str, tuple[Any, Any]], ds: xr.Dataset, points: gpd.GeoDataFrame, tasks: Sequence[str | Task] | None = None
) -> dict[str, ModelSpec]:
    """Return every model's specification; baselines see the bands they are told, those of the first network, or a preset's."""
    specs = {name: _spec(estimator, ds, points, tasks) for name, (estimator, _) in estimators.items() if not is_baseline(estimator)}
    told = {
        name: options["like"] for name, (estimator, options) in estimators.items() if is_baseline(estimator) and "like" in options
    }
    for name, like in told.items():
        if not isinstance(like, ModelSpec):
            raise SpecError(f"like of {name!r} is {like!r}; give a ModelSpec.")
    told = {name: of_tasks(like, tasks) for name, like in told.items()}
    if len(specs) + len(told) < len(estimators):
        like = next(iter([*specs.values(), *told.values()]), None) or spec_for("miso-nano", ds, points, tasks)
        told = {name: like for name in estimators if name not in specs} | told
    # Members are heads of a network, and a baseline has none.
    return {name: specs[name] if name in specs else replace(told[name], members=1) for name in estimators}


def _spec(estimator: Any, ds: xr.Dataset, points: gpd.GeoDataFrame, tasks: Sequence[str | Task] | None) -> ModelSpec:
    """Return the specification of a network, or of the one whose embedding an estimator sees."""
    if embeds(estimator):
        return network_spec(estimator, ds, points, tasks)
    return of_tasks(estimator, tasks) if isinstance(estimator, ModelSpec) else spec_for(estimator, ds, points, tasks)


def common_tasks(specs: Mapping[str, ModelSpec]) -> tuple[Task, ...]:
    """Return the tasks, which must be the same but for how they are learnt and drawn."""
    if not specs:
        raise SpecError("There are no models to compare; give one or more.")
    (first, spec), *others = specs.items()
    told = {name: [(task.name, task.kind, task.classes, task.depth) for task in one.tasks] for name, one in specs.items()}
    for name, _ in others:
        if told[name] != told[first]:
            raise SpecError(f"Models to be compared need the same tasks; {first!r} has {told[first]} and {name!r} {told[name]}.")
    return spec.tasks


def check_models(
    estimators: Mapping[str, tuple[Any, Any]],
    specs: Mapping[str, ModelSpec],
    seeds: Sequence[int],
    geobox: GeoBox,
    *,
    elsewhere: bool,
) -> dict[str, Recipe]:
    """Refuse models that are known to fail, before others are fitted, and return the recipes of networks."""
    recipes, untold = {}, (*SIDES, *(ELSEWHERE if elsewhere else ()))
    for name, (estimator, given) in estimators.items():
        check_censored(given.get("censored", "drop"))
        options = {key: value for key, value in given.items() if key not in LABELS}
        if not isinstance(estimator, str | ModelSpec):
            note_threshold(estimator if isinstance(estimator, Baseline) else Baseline(estimator), specs[name].tasks)
        if embeds(estimator):
            prepared_embedded(estimator, specs[name], seed=max(seeds, default=0), **options)
            _refuse_taught(name, estimator)
            if not trains(estimator):
                continue
        if is_baseline(estimator):
            prepared_baseline(
                estimator, specs[name], seed=max(seeds, default=0), **{k: v for k, v in options.items() if k != "like"}
            )
        else:
            known = {k: v for k, v in options.items() if k not in untold}
            recipes[name], _ = prepared(specs[name], seed=min(seeds, default=0), **known)
            check_room(specs[name], geobox)
    return recipes


def _refuse_taught(name: str, estimator: Baseline) -> None:
    """Refuse a trained network that knows labels: they may be those of test points."""
    known = 0 if trains(estimator) else estimator.network.record.get("points", 0)
    if known:
        raise SpecError(
            f"The network of {name!r} was trained on {known} labelled points, and its embeddings would tell of test points what their labels "
            "are. Give its specification, with which each fold trains its own: network=model.spec."
        )
