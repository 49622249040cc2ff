"""Average the answers of several models, and add the spread between them."""

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from misoxr.cube.units import canonical
from misoxr.cube.variables import answers_in, class_map, conformal_in, entropy, spread
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
        mean probabilities in nats, of multiclass tasks. NaN where any model has no answer. Sets and intervals are those of one model, and are
        left out.

        A model counts once, however many members it has: one of five members counts as much as one without. Where models have members,
        the variances within the models count, too, and a model without members has none.

    Raises
    ------
    SpecError
        If there is none, or they differ in variables, classes, units or depth, or answer at other places.

    Examples
    --------
    >>> both = averaged([image.miso.predict(model), image.miso.predict("model.safetensors")])
    """
    if not answers:
        raise SpecError("There are no models to average; give one or more.")
    answers = [answer.drop_vars(conformal_in(answer)) for answer in answers]
    within = [{one.spread for one in answers_in(answer)} & set(answer.data_vars) for answer in answers]
    first, *others = [answer.drop_vars(found) for answer, found in zip(answers, within, strict=True)]
    for other in others:
        _check_places(first, other)
        if _classes(other) != _classes(first) or any(other[name].sizes != first[name].sizes for name in first.data_vars):
            raise SpecError(
                f"The models answer {_classes(first)} and {_classes(other)}; only models with the same tasks and classes can be "
                "averaged. Name common tasks with tasks=."
            )
        for name, variable in first.data_vars.items():
            units = [one.attrs.get("units") for one in (variable, other[name])]
            if None not in units and len({canonical(str(one)) for one in units}) > 1:
                raise SpecError(
                    f"The models answer {name!r} in {units[0]!r} and in {units[1]!r}; only answers in the same units can be averaged. Fit the models "
                    "to labels in the same units."
                )
            depths = [one.attrs.get("depth") for one in (variable, other[name])]
            if None not in depths and len(set(map(str, depths))) > 1:  # text, where a GeoTIFF tells it
                raise SpecError(
                    f"The models answer {name!r} within {depths[0]} m and within {depths[1]} m of the surface; only answers for the same depth can be "
                    "averaged."
                )
    out, tasks = first.copy(), {one.name: one for one in answers_in(first)}
    for name, variable in first.data_vars.items():
        if variable.dtype.kind != "f":
            continue
        layers = da.stack([answer[name].data for answer in answers])
        # In float64: the sum of values with an offset is rounded by more than they deviate from each other.
        out[name] = variable.copy(data=layers.mean(axis=0, dtype="float64").astype(variable.dtype))
        if str(name) not in tasks:
            continue
        task, _, beside = tasks[str(name)]
        if beside == f"{task}_entropy":
            out[beside] = entropy(_entropy(out[name]), task)
        else:
            # Models that are means of members differ within themselves, too: the variances add up.
            own = [answer[beside].data ** 2 for answer, found in zip(answers, within, strict=True) if beside in found]
            variance = layers.var(axis=0, dtype="float64") + sum(own) / len(answers)
            between = f"between {'and within ' if own else ''}{len(answers)} models"
            out[beside] = spread(variable, task, between).copy(data=(variance**0.5).astype(variable.dtype))
        if name != task:
            out[task] = class_map(out[name], first[task])
    out.attrs = joint_attributes([answer.attrs for answer in answers])
    return out


def _check_places(first: xr.Dataset, other: xr.Dataset) -> None:
    """Refuse answers at other pixels or points, or at the same ones in another order."""
    for name in [name for name in ("y", "x") if name in first.coords and name in other.coords]:
        own, theirs = first[name].values, other[name].values
        if own.shape == theirs.shape and not np.allclose(own, theirs, rtol=1e-9, atol=1e-6):
            raise SpecError(
                f"The models answer at other places: their {name!r} differ, or are in another order. Average answers on one grid, or at the same points "
                "in the same order."
            )


def _classes(answer: xr.Dataset) -> dict[str, Any]:
    """Return the classes of every variable, empty where it has none."""
    found: dict[str, Any] = {}
    for name, variable in answer.data_vars.items():
        coordinates = [variable[dim].values.tolist() for dim in variable.dims[:1] if variable[dim].dtype.kind in "OUT"]
        found[str(name)] = coordinates or variable.attrs.get("flag_meanings", "")
    return found


def _entropy(probability: xr.DataArray) -> xr.DataArray:
    values: Any = da.map_blocks(
        _entropy_of,
        probability.data,
        drop_axis=0,
        dtype=probability.dtype,
        meta=np.empty((0,) * (probability.ndim - 1), probability.dtype),
    )
    return xr.DataArray(values, dims=probability.dims[1:])


def _entropy_of(probability: Any) -> Any:
    return -(probability * np.log(np.clip(probability, 1e-12, None))).sum(axis=0)
