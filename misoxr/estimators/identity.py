"""What a model is, whatever it was fitted to: by it, a fitted model finds its rows among scores."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.base import tokenize

from misoxr.cube.scaling import Scaling
from misoxr.estimators.baselines import Baseline, embeds, is_baseline, prepared_baseline
from misoxr.estimators.embedded import EmbeddedModel
from misoxr.estimators.pixel_model import PixelModel
from misoxr.spec import ModelSpec, Task

if TYPE_CHECKING:
    from misoxr.model.checkpoint import Model

__all__ = ["estimators_sha256", "identity", "identity_of"]

SEED = "random_state"


def identity(what: Any, spec: ModelSpec, scaling: Scaling | str | None = None) -> str:
    """Return a hash of what is to be fitted, without its seed.

    Parameters
    ----------
    what : ModelSpec, str, Baseline or scikit-learn estimator
        As :func:`misoxr.training.fit.fit` takes it.
    spec : ModelSpec
        The specification that it gets; of an estimator that sees a network's embedding, the network's.
    scaling : Scaling or str, optional
        What :func:`misoxr.training.fit.fit` is given as the scaling of a baseline; by default its own.
    """
    if embeds(what):
        return _hash("embedding", estimators_sha256(what, spec.tasks), spec.to_dict() | {"members": 1})
    if not is_baseline(what):
        return _hash("network", spec.to_dict())
    chosen = prepared_baseline(what, spec)
    method = chosen.scaling if scaling is None else scaling.to_dict() if isinstance(scaling, Scaling) else scaling
    return _pixels(estimators_sha256(chosen, spec.tasks), str(chosen.features), method, spec)


def identity_of(fitted: "Model | PixelModel | EmbeddedModel") -> str:
    """Return the hash of what was fitted, as :func:`identity` does before."""
    estimators = str(fitted.record.get("estimators_sha256", ""))
    if isinstance(fitted, PixelModel):
        method = fitted.record.get("scaling")
        given = fitted.scaling.to_dict() if method == "given" and fitted.scaling is not None else method
        return _pixels(estimators, fitted.features, given, fitted.spec)
    if isinstance(fitted, EmbeddedModel):
        return _hash("embedding", estimators, fitted.spec.to_dict())
    return _hash("network", fitted.spec.to_dict())


def estimators_sha256(chosen: Baseline, tasks: Sequence[Task]) -> str:
    """Return a hash of what is fitted to each task: classes of estimators and all their parameters, without seeds."""
    return _hash({task.name: _told(chosen.estimator_of(task)) for task in tasks})


def _pixels(estimators: str, features: str, scaling: Any, spec: ModelSpec) -> str:
    """Of estimators, bands and tasks alone count: encoders and windows play no part."""
    return _hash("pixels", estimators, features, scaling, [band.name for band in spec.bands], [task.name for task in spec.tasks])


def _told(value: Any) -> Any:
    """Return a value as JSON has it; of an estimator its class and parameters, and those of estimators within it."""
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return [getattr(value, "__module__", ""), value.__qualname__, tokenize(value) if "<" in value.__qualname__ else ""]
    if hasattr(value, "get_params"):
        found = value.get_params(deep=False)
        return [_told(type(value)), {name: _told(one) for name, one in found.items() if name != SEED}]
    if isinstance(value, Mapping):
        return {"mapping": sorted(([_told(key), _told(one)] for key, one in value.items()), key=repr)}
    if isinstance(value, list | tuple):
        return [_told(one) for one in value]
    if isinstance(value, np.generic):
        return _told(value.item())
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return [_told(type(value)), tokenize(value)]  # arrays, splitters and whatever else an estimator takes


def _hash(*told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
