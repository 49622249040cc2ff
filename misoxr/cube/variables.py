"""Name what a map holds: variables, class maps, their coordinates and CF attributes."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from misoxr.cube.decode import coding_of, flags_of
from misoxr.errors import SpecError
from misoxr.grid.halo import part_of
from misoxr.metrics import most_probable
from misoxr.spec import ModelSpec, Task
from misoxr.spec.words import flag_word

__all__ = [
    "APPLICABILITY",
    "FILL",
    "Answer",
    "answers_in",
    "class_fills",
    "class_map",
    "conformal_in",
    "entropy",
    "layers_by_flag",
    "spread",
    "variables",
]

Array = npt.NDArray[np.float32]
FILL = 255
"""Fill value of class maps."""
APPLICABILITY = ("applicable", "dissimilarity_index", "local_point_density")
"""Maps of where a model is to be believed, which belong to no task."""


def class_fills(name: Hashable, array: xr.DataArray) -> tuple[float, ...]:
    """Return what stands for nodata in a class map, beside NaN: whole numbers that declare none have 255 for it, unless that is a class."""
    usual = () if array.dtype.kind == "f" or FILL in flags_of(array)[0] else (float(FILL),)
    return coding_of(name, array).nodata or usual


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
    attrs: dict[str, Any] = {"long_name": words + (task.long_name or task.name), "units": task.units} | _depth(task)
    if task.kind != "multiclass":
        return xr.DataArray(part_of(layers, 0), dims=dims, attrs=attrs)
    coordinate = xr.Variable(task.dim, np.asarray(task.classes, dtype=object), {"long_name": f"class of {task.name}"})
    return xr.DataArray(layers, dims=(task.dim, *dims), coords={task.dim: coordinate}, attrs=attrs)


def _depth(task: Task) -> dict[str, float]:
    """Return the attribute that tells down to which depth a task's labels hold, in m; none where it has none."""
    return {} if task.depth is None else {"depth": task.depth}


def _classes(probability: xr.DataArray, task: Task) -> xr.DataArray:
    """Return the most probable class (binary: probability of 0.5 or more), uint8, 255 where there is no valid input."""
    data = probability.data if task.kind == "binary" else part_of(probability.data, 0)
    attrs: dict[str, Any] = {
        "long_name": task.long_name or task.name,
        "flag_values": np.arange(len(task.classes), dtype="uint8"),
        "flag_meanings": " ".join(flag_word(name) for name in task.classes),
    }
    if task.colors:
        attrs["flag_colors"] = " ".join(task.colors)
    # In the attributes: in the encoding it would say that the codes are masked floats, as rioxarray understands it.
    attrs["_FillValue"] = np.uint8(FILL)
    return class_map(probability, xr.DataArray(data, dims=probability.dims[-data.ndim :], attrs=attrs))


def class_map(probability: xr.DataArray, like: xr.DataArray) -> xr.DataArray:
    """Return the class map of other probabilities, with the codes and attributes of one that is there.

    Raises
    ------
    SpecError
        As :func:`layers_by_flag`.
    """
    flags = np.array(flags_of(like)[0], "int64")
    order, fill = np.argsort(flags), int(like.attrs.get("_FillValue", FILL))
    layers, listed = layers_by_flag(probability, like), np.arange(len(flags))
    drop = list(range(layers.ndim - like.ndim))
    if drop and (order != listed).any():  # of two that are as probable, that of the greater code is taken
        layers = layers.isel({layers.dims[0]: order})
    kind = np.result_type(like.dtype if like.dtype.kind in "iu" else "uint8", np.min_scalar_type(fill))
    meta, codes = np.empty((0,) * like.ndim, kind), flags[order].astype(kind)
    about: Any = {"codes": codes, "fill": fill, "binary": not drop}
    return like.copy(data=da.map_blocks(_most_probable, da.asarray(layers.data), **about, drop_axis=drop, dtype=kind, meta=meta))


def layers_by_flag(probability: xr.DataArray, like: xr.DataArray) -> xr.DataArray:
    """Return the probabilities of a class map's classes (class, ...) in the order in which the map lists its flags.

    Names along the class dimension tell the layers' classes. Layers without names, or with numbers, stand in the order of the codes. Without a class
    dimension, probabilities are those of the greater of two codes, and stay as they are.

    Parameters
    ----------
    probability : DataArray
        With the dimensions of the map, in any order, and those of the classes.
    like : DataArray
        The class map, with ``flag_values`` and mostly ``flag_meanings``.

    Raises
    ------
    SpecError
        If the layers are not those of the classes.
    """
    flags, names = flags_of(like)
    dims = [dim for dim in probability.dims if dim not in like.dims]
    layers = probability.transpose(*dims, *like.dims)
    many = layers.sizes[dims[0]] if dims else 2
    own = _names_along(layers, dims[0]) if len(dims) == 1 and dims[0] in layers.coords else None
    if len(dims) > 1 or many != len(flags) or (isinstance(own, list) and names and set(own) != set(names)):
        told = f"the classes {own}" if isinstance(own, list) else f"dimensions {dict(probability.sizes)}"
        raise SpecError(
            f"{probability.name} has {told}, and {like.name!r} the classes {names or flags}; give one layer for each class, named as in "
            "flag_meanings, or that of the second of two."
        )
    if not dims:
        return layers
    if isinstance(own, list) and names:
        places = [own.index(name) for name in names]
    else:
        numbers = np.arange(many) if own is None or isinstance(own, list) else own
        places = np.argsort(numbers)[np.argsort(np.argsort(flags))].tolist()
    return layers if places == list(range(many)) else layers.isel({dims[0]: places})


def _names_along(layers: xr.DataArray, dim: Hashable) -> list[str] | npt.NDArray[Any]:
    """Return the names of layers as flags spell them, or their numbers."""
    values = layers[dim].values
    return values if values.dtype.kind in "iufb" else [flag_word(value) for value in values]


def _most_probable(probability: Array, *, codes: npt.NDArray[Any], fill: int, binary: bool) -> npt.NDArray[Any]:
    first = probability if binary else probability[0]
    return np.where(np.isnan(first), codes.dtype.type(fill), codes[most_probable(probability, None if binary else 0)])
