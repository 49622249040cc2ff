"""What a map is called: variables, classes, CF attributes and provenance of predictions."""

import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from misoxr._version import __version__
from misoxr.grid.halo import part_of
from misoxr.spec import ModelSpec, Task, WindowSpec
from misoxr.training.pixel_model import PixelModel

if TYPE_CHECKING:
    from misoxr.model.checkpoint import Model

__all__ = ["FILL", "attributes", "class_map", "joint_attributes", "variables"]

Array = npt.NDArray[np.float32]
FILL = 255
"""Fill value of class maps."""


def variables(layers: da.Array, dims: Sequence[Hashable], spec: ModelSpec, chosen: Sequence[Task], *, location: bool) -> xr.Dataset:
    """Name layers (layer, *dims): probabilities, classes and values of the chosen tasks, and of the location head behind them."""
    data: dict[str, xr.DataArray] = {}
    outputs = sum(task.outputs for task in spec.tasks)
    at = 0
    for task in spec.tasks:
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
        if location:
            beside = part_of(layers, slice(own.start + outputs, own.stop + outputs))
            kind, words = ("", "") if task.kind == "regression" else ("_probability", "probability of ")
            data[f"{task.name}_location{kind}"] = _layer(beside, dims, task, f"location head's {words}")
    return xr.Dataset(data)


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
    layers = np.stack([1 - probability, probability]) if binary else probability
    # Ties go to the later class, so that a binary probability of exactly one half is "present".
    codes = len(layers) - 1 - np.argmax(layers[::-1], axis=0)
    return np.where(np.isnan(layers[0]), FILL, codes).astype("uint8")


def attributes(
    ds: xr.Dataset, model: "Model | PixelModel", windows: WindowSpec | None, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Provenance: the whole of it as JSON, which `to_zarr` moves beside the map, and its hash."""
    provenance = {
        "misoxr_version": __version__,
        "model_sha256": model.sha256,
        "model": model.spec.to_dict(),
        "training": dict(model.record),
        "windows": None if windows is None else asdict(windows),
        "settings": dict(settings or {}),
        "input": {key: _plain(value) for key, value in ds.attrs.items()},
    }
    if not isinstance(model, PixelModel) and model.calibration:
        provenance["calibration"] = {name: found.to_dict() for name, found in model.calibration.items()}
    text = json.dumps(provenance, sort_keys=True)
    name = str(model.record.get("estimator", "scikit-learn estimator")) if isinstance(model, PixelModel) else model.spec.name
    attrs: dict[str, Any] = {
        "Conventions": "CF-1.11",
        "title": f"{name}: " + ", ".join(task.long_name or task.name for task in model.spec.tasks),
        "source": f"misoxr {__version__}, model {name}, SHA-256 {model.sha256}",
        "references": "arXiv 2506.17302",
        "model_sha256": model.sha256,
        "provenance_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "provenance": text,
    }
    if ds.attrs.get("simulated") or model.record.get("simulated"):
        attrs["simulated"] = 1
        version = ds.attrs.get("simulator_version") or model.record.get("simulator_version")
        if version:
            attrs["simulator_version"] = str(version)
        attrs["comment"] = "Simulated: imagery or labels come from a simulator, not from measurements."
    return attrs


def joint_attributes(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Attributes of the average of several models' answers: the first one's, with the provenance of all."""
    text = json.dumps({"models": [json.loads(part["provenance"]) for part in parts]}, sort_keys=True)
    hashes = [part["model_sha256"] for part in parts]
    marked = next((part for part in parts if part.get("simulated")), {})
    marks = {key: marked[key] for key in ("simulated", "simulator_version", "comment") if key in marked}
    return (
        dict(parts[0])
        | marks
        | {
            "title": f"mean of {len(parts)} models; {parts[0]['title']}",
            "source": f"misoxr {__version__}, models with SHA-256 {', '.join(hashes)}",
            "model_sha256": " ".join(hashes),
            "provenance_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "provenance": text,
        }
    )


def _plain(value: Any) -> Any:
    """Turn an attribute into JSON values."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value) or not isinstance(value, str | int | float | None):
        return str(value)
    return value
