"""Name what a map holds: variables, class maps, their coordinates and CF attributes."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from misoxr.grid.halo import part_of
from misoxr.metrics import most_probable
from misoxr.spec import ModelSpec, Task

__all__ = ["APPLICABILITY", "FILL", "Answer", "answers_in", "class_map", "conformal_in", "entropy", "spread", "variables"]

Array = npt.NDArray[np.float32]
FILL = 255
"""Fill value of class maps."""
APPLICABILITY = ("applicable", "dissimilarity_index", "local_point_density")
"""Maps of where a model is to be believed, which belong to no task."""


class Answer(NamedTuple):
    """What a map holds of a task: the names of its probabilities or values, and of the spread that may stand beside them."""

    task: str
    name: str
    spread: str


def variables(
    layers: da.Array, dims: Sequence[Hashable], spec: ModelSpec, chosen: Sequence[Task], *, location: bool, members: int = 1
) -> xr.Dataset:
    """Name layers (layer, *dims): probabilities, classes and values of the chosen tasks.

    Behind them lie the spread of each task, where the layers are a mean of several ``members``, and what the location head answers. The
    members of the specification do not count: estimators answer by one, whatever network they belong to.
    """
    data: dict[str, xr.DataArray] = {}
    located = spec.outputs + (len(spec.tasks) if members > 1 else 0)
    at = 0
    for number, task in enumerate(spec.tasks):
        own = slice(at, at + task.outputs)
        at += task.outputs
        if task not in chosen:
            continue
        if task.kind == "regression":
            data[task.name] = _layer(part_of(layers, own), dims, task, "")
        else:
            probability = _layer(part_of(layers, own), dims, task, "probability of ")
            data[f"{task.name}_probability"] = probability
            data[task.name] = _classes(probability, task)
        if members > 1:
            differing = xr.DataArray(part_of(layers, spec.outputs + number), dims=dims)
            if task.kind == "multiclass":
                data[f"{task.name}_entropy"] = entropy(differing, task.name)
            else:
                answered = data[task.name if task.kind == "regression" else f"{task.name}_probability"]
                data[f"{task.name}_std"] = spread(differing.assign_attrs(answered.attrs), task.name, f"between {members} members")
        if location:
            beside = part_of(layers, slice(own.start + located, own.stop + located))
            kind, words = ("", "") if task.kind == "regression" else ("_probability", "probability of ")
            data[f"{task.name}_location{kind}"] = _layer(beside, dims, task, f"location head's {words}")
    return xr.Dataset(data)


def spread(answers: xr.DataArray, task: str, of: str) -> xr.DataArray:
    """Say in the attributes that values are the standard deviation of a task's answers, and of what, such as "between 2 models"."""
    return answers.assign_attrs(long_name=f"standard deviation of {answers.attrs.get('long_name', task)} {of}")


def entropy(values: xr.DataArray, task: str) -> xr.DataArray:
    """Say in the attributes that values are the entropy of a task's mean probabilities."""
    return values.assign_attrs(long_name=f"entropy of the mean probabilities of {task}", units="1")


def answers_in(maps: xr.Dataset) -> list[Answer]:
    """Return what a map holds of each task, but for the location head's answers, and sets and intervals.

    Names alone do not tell: ``carbon_std`` may be the spread of a task ``carbon``, or a task. No task has the name of another's spread
    (:class:`misoxr.ModelSpec`), so the kinds of the variables tell.
    """
    names = list(map(str, maps.data_vars))
    found = []
    for name in names:
        if "flag_meanings" in maps[name].attrs and (probability := f"{name}_probability") in names:
            several = maps[probability].ndim > maps[name].ndim
            found.append(Answer(name, probability, f"{name}_entropy" if several else f"{name}_std"))
    ends = ("location_probability", "set", "set_size", "credibility", "confidence")
    taken = {name for one in found for name in (*one, *(f"{one.task}_{end}" for end in ends))}
    values = [name for name in names if name not in (*taken, *APPLICABILITY) and "flag_meanings" not in maps[name].attrs]
    beside = {f"{name}_{end}" for name in values for end in ("std", "location", "lower", "upper")}
    return found + [Answer(name, name, f"{name}_std") for name in values if name not in beside]


def conformal_in(maps: xr.Dataset) -> list[str]:
    """Return the names of what a map holds of sets and intervals: they tell of one model, and are not averaged."""
    ends = ("set", "set_size", "credibility", "confidence", "lower", "upper")
    names = [f"{one.task}_{end}" for one in answers_in(maps) for end in ends]
    return [name for name in names if name in maps.data_vars and "coverage" in maps[name].attrs]


def _layer(layers: da.Array, dims: Sequence[Hashable], task: Task, words: str) -> xr.DataArray:
    attrs: dict[str, Any] = {"long_name": words + (task.long_name or task.name), "units": task.units}
    if task.kind != "multiclass":
        return xr.DataArray(part_of(layers, 0), dims=dims, attrs=attrs)
    coordinate = xr.Variable(task.dim, np.asarray(task.classes, dtype=object), {"long_name": f"class of {task.name}"})
    return xr.DataArray(layers, dims=(task.dim, *dims), coords={task.dim: coordinate}, attrs=attrs)


def _classes(probability: xr.DataArray, task: Task) -> xr.DataArray:
    """Return the most probable class (binary: probability of 0.5 or more), uint8, 255 where there is no valid input."""
    data = probability.data if task.kind == "binary" else part_of(probability.data, 0)
    attrs: dict[str, Any] = {
        "long_name": task.long_name or task.name,
        "flag_values": np.arange(len(task.classes), dtype="uint8"),
        "flag_meanings": " ".join(name.replace(" ", "_") for name in task.classes),
    }
    if task.colors:
        attrs["flag_colors"] = " ".join(task.colors)
    # In the attributes: in the encoding it would say that the codes are masked floats, as rioxarray understands it.
    attrs["_FillValue"] = np.uint8(FILL)
    return class_map(probability, xr.DataArray(data, dims=probability.dims[-data.ndim :], attrs=attrs))


def class_map(probability: xr.DataArray, like: xr.DataArray) -> xr.DataArray:
    """Return the class map of other probabilities, with the attributes of one that is there."""
    drop = list(range(probability.ndim - like.ndim))
    meta = np.empty((0,) * like.ndim, "uint8")
    codes = da.map_blocks(_most_probable, probability.data, binary=not drop, drop_axis=drop, dtype="uint8", meta=meta)
    return like.copy(data=codes)


def _most_probable(probability: Array, *, binary: bool) -> npt.NDArray[np.uint8]:
    first = probability if binary else probability[0]
    return np.where(np.isnan(first), FILL, most_probable(probability, None if binary else 0)).astype("uint8")
