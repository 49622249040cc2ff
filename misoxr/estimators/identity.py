"""What a model is, whatever it was fitted to: by it, a fitted model finds its rows among scores."""

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

from misoxr.estimators.baselines import embeds, is_baseline, prepared_baseline
from misoxr.estimators.embedded import EmbeddedModel
from misoxr.estimators.pixel_model import PixelModel
from misoxr.spec import ModelSpec

if TYPE_CHECKING:
    from misoxr.model.checkpoint import Model

__all__ = ["identity", "identity_of"]

_SEED = re.compile(r"(, )?random_state=(\d+|None)")


def identity(what: Any, spec: ModelSpec) -> str:
    """Return a hash of what is to be fitted, without its seed.

    Parameters
    ----------
    what : ModelSpec, str, Baseline or scikit-learn estimator
        As :func:`misoxr.training.fit.fit` takes it.
    spec : ModelSpec
        The specification that it gets; of an estimator that sees a network's embedding, the network's.
    """
    if embeds(what):
        return _hash("embedding", _seedless(repr(what.estimator)), spec.to_dict() | {"members": 1})
    if not is_baseline(what):
        return _hash("network", spec.to_dict())
    chosen = prepared_baseline(what, spec)
    return _estimators(repr(chosen.estimator), str(chosen.features), spec)


def identity_of(fitted: "Model | PixelModel | EmbeddedModel") -> str:
    """Return the hash of what was fitted, as :func:`identity` does before."""
    words = str(fitted.record.get("estimator", ""))
    if isinstance(fitted, PixelModel):
        return _estimators(words, fitted.features, fitted.spec)
    if isinstance(fitted, EmbeddedModel):
        return _hash("embedding", _seedless(words), fitted.spec.to_dict())
    return _hash("network", fitted.spec.to_dict())


def _estimators(words: str, features: str, spec: ModelSpec) -> str:
    """Of estimators, bands and tasks alone count: encoders and windows play no part."""
    return _hash("pixels", _seedless(words), features, [band.name for band in spec.bands], [task.name for task in spec.tasks])


def _seedless(words: str) -> str:
    return _SEED.sub("", words)


def _hash(*told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
