"""Load a network's checkpoint or fitted estimators from a file."""

import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from misoxr.errors import SpecError
from misoxr.estimators.embedded import EmbeddedModel, holds_embedded
from misoxr.estimators.pixel_model import PixelModel
from misoxr.model.files import fetch, holds_estimators
from misoxr.spec import PRESETS
from misoxr.spec.presets import BASELINES

if TYPE_CHECKING:
    from misoxr.model.checkpoint import Model

__all__ = ["load", "opened"]


def load(path: str | os.PathLike[str], *, trusted: Collection[str] = ()) -> "Model | PixelModel | EmbeddedModel":
    """Load a network or fitted estimators from a file. The file's content says which, not its name.

    A network is a safetensors file, and fitted estimators are a skops file; those of a network's embedding are a zip file of both. Nothing is
    unpickled. A skops file may hold types of a list
    (``misoxr.estimators.files.ALLOWED``): scikit-learn's own, and values of NumPy and Python.

    Parameters
    ----------
    path : str or path
        A path, or a URL of fsspec (http(s)://, s3://, file://, hf://, ...).
    trusted : collection of str, optional
        Further types that a skops file may hold, as "module.name", such as "lightgbm.sklearn.LGBMClassifier". A type runs code of its own when it
        is loaded. Name only types that you have looked up, in files whose writer you know.

    Returns
    -------
    Model, PixelModel or EmbeddedModel
        What ``predict`` and ``predict_at`` take; they take the path, too.

    Raises
    ------
    CheckpointError
        If the file cannot be read, is damaged or not one of misoxr's, or holds a type that is not allowed.

    Warns
    -----
    MisoxrWarning
        If estimators were written with another version of scikit-learn.

    Examples
    --------
    >>> model = misoxr.load("model.safetensors")
    """
    if isinstance(trusted, str) or not all(isinstance(name, str) for name in trusted):
        raise SpecError(f'trusted is {trusted!r}; give a list of names, such as ["lightgbm.sklearn.LGBMClassifier"].')
    data, name = fetch(path), os.fspath(path)
    if holds_embedded(data):
        return EmbeddedModel.from_bytes(data, name, trusted)
    if holds_estimators(data):
        return PixelModel.from_bytes(data, name, trusted)
    from misoxr.model.checkpoint import Model  # with torch, which estimators do without

    return Model.from_bytes(data, name)


def opened(model: Any) -> "Model | PixelModel | EmbeddedModel":
    """Return a model or fitted estimators as they are, or from their file."""
    if isinstance(model, str) and model in (*PRESETS, *BASELINES) and not os.path.exists(model):
        raise SpecError(f"{model!r} must be trained first: model = ds.miso.fit({model!r}, points).")
    if isinstance(model, PixelModel | EmbeddedModel):
        return model
    if isinstance(model, str | os.PathLike):
        return load(model)
    from misoxr.model.checkpoint import Model

    if not isinstance(model, Model):
        raise SpecError(
            f"{type(model).__name__} is no model of misoxr: an estimator does not tell which bands it has learnt from. Fit it with "
            "ds.miso.fit(estimator, points), and predict with what that returns."
        )
    return model
