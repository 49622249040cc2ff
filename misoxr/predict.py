"""Maps from a datacube, lazily: each Dask chunk is predicted with its halo, by windows that belong to the ground."""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr._version import __version__
from misoxr.cube import check
from misoxr.errors import MisoxrWarning, SpecError
from misoxr.grid import assign, lattice_offset, locations
from misoxr.model.checkpoint import Address, Model, resolve
from misoxr.model.inference import choose_device, choose_precision, inference, locate, query_grid
from misoxr.scaling import stack, valid_pixels
from misoxr.spec import ModelSpec, Task, WindowSpec
from misoxr.windows import Axis, Plan, plan

__all__ = ["FILL", "predict"]

Array = npt.NDArray[np.float32]
FILL = 255
"""Fill value of class maps."""


@dataclass(frozen=True)
class Job:
    """What every block's task carries: an address and settings, never weights."""

    address: Address
    plan: Plan
    device: str
    precision: str
    batch_size: int | None
    geobox: GeoBox | None


@dataclass(frozen=True)
class Edges:
    """Where the chunks of one axis begin and end, and how far their windows reach."""

    edges: tuple[int, ...]
    axis: Axis

    def span(self, chunk: int) -> tuple[int, int]:
        """First and last + 1 pixel of a chunk."""
        return self.edges[chunk], self.edges[chunk + 1]

    @cached_property
    def halo(self) -> int:
        """Pixels beyond a chunk that its windows reach, at the most; 0 for a single chunk, which has all there is."""
        spans = [self.span(chunk) for chunk in range(len(self.edges) - 1)]
        reach = [(self.axis.halo(*span), span) for span in spans]
        return 0 if len(spans) == 1 else max(max(start - low, high - stop) for (low, high), (start, stop) in reach)

    def origin(self, chunk: int) -> int:
        """First pixel of a chunk's data with halo."""
        return max(0, self.edges[chunk] - self.halo)


@dataclass(frozen=True)
class Block:
    """One chunk of the map, and where its data with halo begin."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    origin: tuple[int, int]

    @property
    def inside(self) -> tuple[slice, slice]:
        """The chunk in its data with halo."""
        return (
            slice(self.rows[0] - self.origin[0], self.rows[1] - self.origin[0]),
            slice(self.columns[0] - self.origin[1], self.columns[1] - self.origin[1]),
        )


def predict(
    ds: xr.Dataset,
    model: Model | str | os.PathLike[str],
    *,
    tasks: Sequence[str] | None = None,
    windows: WindowSpec | None = None,
    location: bool = False,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
) -> xr.Dataset:
    """Map a model over a datacube. Nothing is computed before the result is.

    Parameters
    ----------
    ds : Dataset
        The model's bands as variables (y, x), with units and a CRS. Dask chunks smaller than a window are merged; chunks
        of 1024 to 4096 pixels serve best.
    model : Model, str or path
        A model, or the path or URL of its checkpoint.
    tasks : sequence of str, optional
        The tasks to map; all by default.
    windows : WindowSpec, optional
        Other windows than the model's own.
    location : bool, optional
        Add ``<task>_location_probability`` (regressions: ``<task>_location``) of the location head: no imagery enters it.
    device : str, optional
        A torch device; "auto" takes CUDA where the block runs on a machine that has it.
    precision : {"auto", "float32", "bfloat16"}, optional
        "auto" is bfloat16 on CUDA and float32 on CPU.
    batch_size : int, optional
        Windows encoded at once; 8 on CPU and 64 on CUDA by default.

    Returns
    -------
    Dataset
        Lazy, on the grid of ``ds``. ``<task>_probability`` float32, (y, x) for binary tasks and (class, y, x) for
        multiclass ones; the class map ``<task>`` (y, x) uint8, 255 where there is no valid input; ``<task>`` float32 for
        regressions. NaN where a required modality has no valid band.

    Raises
    ------
    BandError
        If a band is missing or in units that cannot be converted.
    GridError
        If the cube has no regular grid or CRS, or another pixel size than the model's.
    CheckpointError
        If the checkpoint cannot be read.
    SpecError
        If a task, window, device, precision or batch size is not valid.

    References
    ----------
    arXiv 2506.17302, with the query's axes and weights corrected.
    """
    model = model if isinstance(model, Model) else Model.load(model)
    spec = model.spec
    if tasks is not None and not len(tasks):
        raise SpecError(f"tasks is empty; name some of {[task.name for task in spec.tasks]}, or leave it out for all.")
    chosen = [spec.task(name) for name in tasks] if tasks is not None else list(spec.tasks)
    if location and spec.location is None:
        raise SpecError("location=True needs a model with a location branch, and this one has none.")
    if batch_size is not None and batch_size < 1:
        raise SpecError(f"The batch size is {batch_size}; it must be 1 or more.")
    choose_precision(precision, "cpu")
    geobox = check(ds, spec)
    job = Job(
        address=model.address(),
        plan=_plan(geobox, spec, windows),
        device=device if device == "auto" else choose_device(device),
        precision=precision,
        batch_size=batch_size,
        geobox=geobox if location else None,
    )
    maps = _map_blocks(stack(ds, spec), job, spec)
    out: xr.Dataset = assign(_variables(maps, spec, chosen, location=location), geobox)
    out.attrs = _attributes(ds, model, job.plan.y.spec)
    return out


def _plan(geobox: GeoBox, spec: ModelSpec, windows: WindowSpec | None) -> Plan:
    windows = windows or spec.windows
    if windows.input_size != spec.windows.input_size:
        raise SpecError(f"The model reads inputs of {spec.windows.input_size} pixels; windows.input_size is {windows.input_size}.")
    shape = geobox.shape.y, geobox.shape.x
    if min(shape) < windows.size:
        warnings.warn(
            f"The cube has {shape[0]} x {shape[1]} pixels, less than a window of {windows.size}; it is padded with the network's zero.",
            MisoxrWarning,
            stacklevel=4,
        )
    return plan(shape, windows, lattice_offset(geobox))


def _map_blocks(bands: da.Array, job: Job, spec: ModelSpec) -> da.Array:
    """Lay the blocks out: every chunk with the halo its windows reach into, and one task that predicts it."""
    axes = job.plan.y, job.plan.x
    # A chunk below a window would need neighbours of neighbours; merged chunks also feed the network better.
    merged = [da.overlap.ensure_minimum_chunksize(axis.size, sizes) for axis, sizes in zip(axes, bands.chunks[1:], strict=True)]
    y, x = (Edges(tuple(int(edge) for edge in np.cumsum([0, *sizes])), axis) for sizes, axis in zip(merged, axes, strict=True))
    overlapped = da.overlap.overlap(bands.rechunk((bands.chunks[0], *merged)), depth={0: 0, 1: y.halo, 2: x.halo}, boundary="none")
    maps: da.Array = da.map_blocks(
        _block,
        overlapped,
        job=job,
        y=y,
        x=x,
        chunks=((_layers(spec, job),), *merged),
        dtype="float32",
        meta=np.empty((0, 0, 0), "float32"),
    )
    return maps


def _layers(spec: ModelSpec, job: Job) -> int:
    """Count the layers of a block: the tasks' outputs, and those of the location head where it is asked for."""
    return sum(task.outputs for task in spec.tasks) * (2 if job.geobox is not None else 1)


def _block(bands: Array, job: Job, y: Edges, x: Edges, block_id: tuple[int, int, int]) -> Array:
    """Predict one block: raw bands with halo (band, y, x) -> (layer, y, x), float32, NaN where there is no valid input."""
    device = choose_device(job.device)
    model = resolve(job.address, device)
    block = Block(y.span(block_id[1]), x.span(block_id[2]), (y.origin(block_id[1]), x.origin(block_id[2])))
    valid = valid_pixels(model.spec, bands[:, *block.inside])
    if not valid.any():
        return np.full((_layers(model.spec, job), *valid.shape), np.nan, dtype="float32")
    with inference(device, choose_precision(job.precision, device)):
        out = _blend(model, bands, job, block, valid, device)
        if job.geobox is not None and model.spec.location is not None:
            centres = np.ix_(np.arange(*block.rows) + 0.5, np.arange(*block.columns) + 0.5)
            scaled = locations(job.geobox, centres[0], centres[1], model.spec.location)
            out = np.concatenate([out, locate(model.network, model.spec, scaled, device)])
    out[:, ~valid] = np.nan
    return out


def _blend(model: Model, bands: Array, job: Job, block: Block, valid: npt.NDArray[np.bool_], device: str) -> Array:
    """Average the windows that meet a block by their weights; a window is queried only inside the block."""
    total: Array = np.zeros((sum(task.outputs for task in model.spec.tasks), *valid.shape), dtype="float32")
    weights: Array = np.zeros(valid.shape, dtype="float32")
    inputs = model.scaling.apply(model.spec, bands)
    pieces = [Piece.cut(job.plan, window, block) for window in job.plan.windows(block.rows, block.columns)]
    pieces = [piece for piece in pieces if valid[piece.inside].any()]
    size = job.batch_size or (64 if device.startswith("cuda") else 8)
    for start in range(0, len(pieces), size):
        batch = pieces[start : start + size]
        crops = {name: np.stack([piece.crop(values) for piece in batch]) for name, values in inputs.items()}
        answers = query_grid(model.network, model.spec, crops, [piece.points for piece in batch], device)
        for piece, answer in zip(batch, answers, strict=True):
            total[:, *piece.inside] += answer * piece.weight
            weights[piece.inside] += piece.weight
    np.divide(total, weights, out=total, where=weights > 0)
    return total


@dataclass(frozen=True)
class Piece:
    """The part of a window inside a block.

    Attributes
    ----------
    source : (slice, slice)
        The window in the block's data with halo.
    size : int
        Side to which the window is padded, where the dataset is smaller.
    inside : (slice, slice)
        The part in the block.
    points : (array, array)
        y and x of the part's pixel centres, in -1..1 of the window.
    weight : array
        Weight of the part's pixels (row, column).
    """

    source: tuple[slice, slice]
    size: int
    inside: tuple[slice, slice]
    points: tuple[Array, Array]
    weight: Array

    @classmethod
    def cut(cls, plan: Plan, window: tuple[int, int], block: Block) -> Self:
        """Cut a window, given by its first pixel, to a block."""
        source, inside, points, weights = [], [], [], []
        for axis, start, (first, last), origin in zip(
            (plan.y, plan.x), window, (block.rows, block.columns), block.origin, strict=True
        ):
            low, high = max(start, first), min(start + axis.size, last)
            centres = np.arange(low, high) + 0.5
            source.append(slice(start - origin, start - origin + axis.size))
            inside.append(slice(low - first, high - first))
            points.append(((centres - start) * (2 / axis.spec.size) - 1).astype("float32"))
            weights.append(axis.weight(start, centres))
        weight = np.outer(*weights).astype("float32")
        return cls((source[0], source[1]), plan.y.spec.size, (inside[0], inside[1]), (points[0], points[1]), weight)

    def crop(self, values: Array) -> Array:
        """Cut the window (channel, size, size) from scaled values (channel, y, x)."""
        window = values[:, *self.source]
        missing = [(0, self.size - length) for length in window.shape[1:]]
        return np.pad(window, ((0, 0), *missing)) if any(after for _, after in missing) else window


def _variables(maps: da.Array, spec: ModelSpec, chosen: Sequence[Task], *, location: bool) -> xr.Dataset:
    """Name the layers of the map: probabilities, classes and values of the chosen tasks."""
    data: dict[str, xr.DataArray] = {}
    outputs = sum(task.outputs for task in spec.tasks)
    at = 0
    for task in spec.tasks:
        layers = slice(at, at + task.outputs)
        at += task.outputs
        if task not in chosen:
            continue
        if task.kind == "regression":
            data[task.name] = _layer(maps[layers], task, "")
        else:
            probability = _layer(maps[layers], task, "probability of ")
            data[f"{task.name}_probability"] = probability
            data[task.name] = _classes(probability, task)
        if location:
            beside = maps[layers.start + outputs : layers.stop + outputs]
            kind, words = ("", "") if task.kind == "regression" else ("_probability", "probability of ")
            data[f"{task.name}_location{kind}"] = _layer(beside, task, f"location head's {words}")
    return xr.Dataset(data)


def _layer(layers: da.Array, task: Task, words: str) -> xr.DataArray:
    attrs: dict[str, Any] = {"long_name": words + (task.long_name or task.name), "units": task.units}
    if task.kind != "multiclass":
        return xr.DataArray(layers[0], dims=("y", "x"), attrs=attrs)
    coordinate = xr.Variable(task.dim, np.asarray(task.classes, dtype=object), {"long_name": f"class of {task.name}"})
    return xr.DataArray(layers, dims=(task.dim, "y", "x"), coords={task.dim: coordinate}, attrs=attrs)


def _classes(probability: xr.DataArray, task: Task) -> xr.DataArray:
    """Return the most probable class (binary: probability of 0.5 or more), uint8, 255 where there is no valid input."""
    drop = () if task.kind == "binary" else (0,)
    codes = da.map_blocks(_most_probable, probability.data, drop_axis=drop, dtype="uint8", meta=np.empty((0, 0), "uint8"))
    attrs: dict[str, Any] = {
        "long_name": task.long_name or task.name,
        "flag_values": np.arange(len(task.classes), dtype="uint8"),
        "flag_meanings": " ".join(name.replace(" ", "_") for name in task.classes),
    }
    if task.colors:
        attrs["flag_colors"] = " ".join(task.colors)
    classes = xr.DataArray(codes, dims=("y", "x"), attrs=attrs)
    classes.encoding["_FillValue"] = np.uint8(FILL)
    return classes


def _most_probable(probability: Array) -> npt.NDArray[np.uint8]:
    layers = probability if probability.ndim == 3 else np.stack([1 - probability, probability])
    # Ties go to the later class, so that a binary probability of exactly one half is "present".
    codes = len(layers) - 1 - np.argmax(layers[::-1], axis=0)
    return np.where(np.isnan(layers[0]), FILL, codes).astype("uint8")


def _attributes(ds: xr.Dataset, model: Model, windows: WindowSpec) -> dict[str, Any]:
    """Provenance: the whole of it as JSON, which `to_zarr` moves beside the map, and its hash."""
    provenance = {
        "misoxr_version": __version__,
        "model_sha256": model.sha256,
        "model": model.spec.to_dict(),
        "training": dict(model.record),
        "windows": asdict(windows),
        "input": {key: _plain(value) for key, value in ds.attrs.items()},
    }
    text = json.dumps(provenance, sort_keys=True)
    attrs: dict[str, Any] = {
        "Conventions": "CF-1.11",
        "title": f"{model.spec.name}: " + ", ".join(task.long_name or task.name for task in model.spec.tasks),
        "source": f"misoxr {__version__}, model {model.spec.name}, SHA-256 {model.sha256}",
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
