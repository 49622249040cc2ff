"""Average the answers of several models, and add the spread between them."""

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from misoxr.cube.variables import class_map
from misoxr.errors import SpecError
from misoxr.mapping.provenance import joint_attributes

__all__ = ["averaged"]


def averaged(answers: Sequence[xr.Dataset]) -> xr.Dataset:
    """Average what several models answered on one grid or at the same points, lazily.

    Parameters
    ----------
    answers : sequence of Dataset
        Answers of :func:`misoxr.mapping.predict.predict` or :func:`misoxr.mapping.predict_at.predict_at`, with the same variables.

    Returns
    -------
    Dataset
        Means of probabilities and values; class maps of the mean probabilities; and the spread: ``<task>_std``, the standard
        deviation between the models (population), of binary tasks and regressions, and ``<task>_entropy``, the entropy of the
        mean probabilities in nats, of multiclass tasks. NaN where any model has no answer.

    Raises
    ------
    SpecError
        If there is none, or they differ in variables or classes.

    Examples
    --------
    >>> both = averaged([image.miso.predict(model), image.miso.predict("model.safetensors")])
    """
    if not answers:
        raise SpecError("There are no models to average; give one or more.")
    first, *others = answers
    for other in others:
        if _classes(other) != _classes(first) or any(other[name].sizes != first[name].sizes for name in first.data_vars):
            raise SpecError(
                f"The models answer {_classes(first)} and {_classes(other)}; only models with the same tasks and classes can be "
                "averaged. Name common tasks with tasks=."
            )
    out = first.copy()
    for name, variable in first.data_vars.items():
        if variable.dtype.kind != "f":
            continue
        layers = da.stack([answer[name].data for answer in answers])
        # In float64: the sum of values with an offset is rounded by more than they deviate from each other.
        out[name] = variable.copy(data=layers.mean(axis=0, dtype="float64").astype(variable.dtype))
        task = str(name).removesuffix("_probability")
        if str(name).endswith("_location_probability"):
            continue
        if f"{task}_probability" == name and variable.ndim > first[task].ndim:
            out[f"{task}_entropy"] = _entropy(out[name], task)
        else:
            words = {"long_name": f"standard deviation of {variable.attrs.get('long_name', name)} between {len(answers)} models"}
            out[f"{task}_std"] = variable.copy(data=layers.std(axis=0, dtype="float64").astype(variable.dtype)).assign_attrs(words)
        if f"{task}_probability" == name:
            out[task] = class_map(out[name], first[task])
    out.attrs = joint_attributes([answer.attrs for answer in answers])
    return out


def _classes(answer: xr.Dataset) -> dict[str, Any]:
    """Return the classes of every variable, empty where it has none."""
    found: dict[str, Any] = {}
    for name, variable in answer.data_vars.items():
        coordinates = [variable[dim].values.tolist() for dim in variable.dims[:1] if variable[dim].dtype.kind in "OUT"]
        found[str(name)] = coordinates or variable.attrs.get("flag_meanings", "")
    return found


def _entropy(probability: xr.DataArray, task: str) -> xr.DataArray:
    values: Any = da.map_blocks(
        _entropy_of,
        probability.data,
        drop_axis=0,
        dtype=probability.dtype,
        meta=np.empty((0,) * (probability.ndim - 1), probability.dtype),
    )
    attrs = {"long_name": f"entropy of the mean probabilities of {task}", "units": "1"}
    return xr.DataArray(values, dims=probability.dims[1:], attrs=attrs)


def _entropy_of(probability: Any) -> Any:
    return -(probability * np.log(np.clip(probability, 1e-12, None))).sum(axis=0)
