"""Map a model over a datacube, lazily: one task for each chunk with its halo."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from misoxr.cube.check import check, named
from misoxr.cube.stack import chunks_of, stack, stack_with_halo
from misoxr.cube.variables import variables
from misoxr.errors import SpecError, gathered, note
from misoxr.estimators.pixel_model import PixelModel
from misoxr.grid.geobox import assign, lattice_offset, locations
from misoxr.grid.windows import Axis, Plan, plan
from misoxr.mapping.ensemble import averaged, joined
from misoxr.mapping.load import opened
from misoxr.mapping.provenance import attributes
from misoxr.spec import ModelSpec, Task, WindowSpec
from misoxr.spec.components import check_flags
from misoxr.spec.numbers import is_number, is_whole

if TYPE_CHECKING:
    from misoxr.model.checkpoint import Address, Model
    from misoxr.model.field import Positions, Source

__all__ = ["predict"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Job:
    """What each block's task carries: the model's address and settings, never weights."""

    address: "Address"
    plan: Plan
    geobox: GeoBox
    location: bool
    device: str
    precision: str
    batch_size: int | None
    compiled: bool

    def settings(self) -> dict[str, Any]:
        """Return what the bytes of an answer depend on beside model, windows and input; torch runs on one thread a core."""
        names = ("device", "precision", "batch_size", "compiled")
        return {name: getattr(self, name) for name in names} | {"threads": 1}

    def answer(self, source: "Source", positions: "Positions") -> Array:
        """Answer at positions: (layer, N), NaN where there is no valid input."""
        from misoxr.model.checkpoint import resolve  # here: a map by fitted estimators needs no torch
        from misoxr.model.field import blend, from_location
        from misoxr.model.inference import choose_device, choose_precision, inference

        device = choose_device(self.device)
        precision = choose_precision(self.precision, device)
        model = resolve(self.address, device, precision, compiled=self.compiled)
        mask = source.wanted(model.spec, positions)
        heads = []
        with inference(device, precision, self.batch_size) as run:
            if model.spec.modalities:
                heads.append(joined(blend(model, source, self.plan, positions, mask, run), model.spec))
            if self.location or not model.spec.modalities:
                heads.append(from_location(model, self.geobox, positions, mask, run))
        if self.location and not model.spec.modalities:
            heads *= 2
        answers: Array = np.concatenate(heads)
        return answers


@dataclass(frozen=True)
class Edges:
    """Where the chunks of one axis begin and end, how far their windows reach, and which positions they answer.

    Attributes
    ----------
    edges : tuple of int
        First pixel of each chunk, and the end.
    axis : Axis
        The windows.
    step : float
        Distance of the positions, in pixels; the first lies half a step from the dataset's edge.
    """

    edges: tuple[int, ...]
    axis: Axis
    step: float = 1.0

    @cached_property
    def halo(self) -> int:
        """Pixels beyond a chunk that its windows reach, at the most; 0 for a single chunk, which has all there is."""
        spans = list(zip(self.edges, self.edges[1:], strict=False))
        reach = [(self.axis.halo(*span), span) for span in spans]
        return 0 if len(spans) == 1 else max(max(start - low, high - stop) for (low, high), (start, stop) in reach)

    @property
    def spans(self) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Each chunk, and with its halo, as far as the dataset goes."""
        chunks = zip(self.edges, self.edges[1:], strict=False)
        return [((start, stop), (max(0, start - self.halo), min(self.edges[-1], stop + self.halo))) for start, stop in chunks]

    def origin(self, chunk: int) -> int:
        """First pixel of a chunk's data with halo."""
        return max(0, self.edges[chunk] - self.halo)

    @cached_property
    def marks(self) -> tuple[int, ...]:
        """First position of each chunk, and the end: a position belongs to the chunk it lies in."""
        # Of the positions as they are computed, so that none is rounded beyond its chunk.
        return tuple(int(mark) for mark in np.searchsorted(self._along(0, ceil(self.edges[-1] / self.step) + 1), self.edges))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Positions of each chunk."""
        return tuple(int(size) for size in np.diff(self.marks))

    def positions(self, chunk: int) -> Floats:
        """Positions of a chunk, in fractional pixels."""
        return self._along(self.marks[chunk], self.marks[chunk + 1])

    def _along(self, first: int, stop: int) -> Floats:
        return np.asarray((np.arange(first, stop, dtype="float64") + 0.5) * self.step)


@gathered
def predict(
    ds: xr.Dataset,
    model: "Model | PixelModel | str | os.PathLike[str] | Sequence[Any]",
    *,
    tasks: Sequence[str] | None = None,
    windows: WindowSpec | None = None,
    resolution: float | None = None,
    location: bool = False,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    compile: bool = False,
) -> xr.Dataset:
    """Map a model over a datacube, lazily: nothing is computed before the result is.

    Parameters
    ----------
    ds : Dataset
        The model's bands as variables (y, x), with units and a CRS. Chunks of 1024 to 4096 pixels serve best; smaller ones than a window are
        merged.
    model : Model, PixelModel, str, path or list of these
        A model or a fitted estimator, or the path or URL of its file (:func:`misoxr.load`). Several are averaged, and the spread between them is
        added (:func:`misoxr.mapping.ensemble.averaged`); so it is with the members of one model.
    tasks : sequence of str, optional
        The tasks to map; all by default.
    windows : WindowSpec, optional
        Other windows than the model's own.
    resolution : float, optional
        Pixel size of the map in units of the CRS, finer or coarser than the cube's. The map has the answers at the new pixels' centres. For
        averages over coarse pixels, map at the cube's resolution and reduce with ``coarsen``.
    location : bool, optional
        Add ``<task>_location_probability`` (regressions: ``<task>_location``): the answer of the location head, which sees coordinates alone.
    device : str, optional
        A torch device; "auto" takes CUDA where the block runs on a machine that has it.
    precision : {"auto", "float32", "bfloat16", "float64"}, optional
        "auto" is bfloat16 on CUDA and float32 on a CPU. "float64" is for checks, and gives float64.
    batch_size : int, optional
        Windows encoded at once. By default 8 on a CPU, and on CUDA what fits into free memory; it is halved where CUDA runs out of memory.
    compile : bool, optional
        Compile the queries and heads with ``torch.compile``, once in each process. Needs a C++ compiler on a CPU.

    Returns
    -------
    Dataset
        Lazy, on the grid of ``ds`` or with ``resolution``. ``<task>_probability`` float32, (y, x) for binary tasks and (class, y, x) for
        multiclass ones; the class map ``<task>`` (y, x) uint8, 255 where there is no valid input; ``<task>`` float32 for regressions. NaN where
        a required modality has no valid band.

    Raises
    ------
    BandError
        If a band is missing or in units that cannot be converted.
    GridError
        If the cube has no regular grid or CRS, or another pixel size than the model.
    CheckpointError
        If the file cannot be read.
    SpecError
        If a task, window, resolution, device, precision or batch size is not valid.

    Notes
    -----
    On one kind of CPU the results are the same to the byte for the same batch size and chunks. CUDA has not been run by the authors of this
    package.

    References
    ----------
    arXiv 2506.17302, with the query's axes and weights corrected.

    Examples
    --------
    >>> maps = image.miso.predict(model)
    >>> maps = image.miso.predict("model.safetensors", tasks=["permafrost"])
    >>> maps = image.miso.predict([model, "model.safetensors"])  # their mean, and the spread between them
    """
    settings = Settings(tasks, windows, location, device, precision, batch_size, compile)
    if isinstance(model, list | tuple):
        return averaged([predict(ds, one, resolution=resolution, **settings.arguments()) for one in model])
    found = opened(model)
    if isinstance(found, PixelModel):
        return _predict_pixels(ds, found, settings, resolution)
    cube, job, chosen = prepared(ds, found, settings)
    layers, geobox = _map(cube, job, found.spec, resolution)
    out: xr.Dataset = assign(variables(layers, ("y", "x"), found.spec, chosen, location=location), geobox)
    out.attrs = attributes(ds, found, job.plan.y.spec, job.settings())
    return out


def _predict_pixels(ds: xr.Dataset, model: PixelModel, settings: "Settings", resolution: float | None) -> xr.Dataset:
    if resolution is not None:
        raise SpecError(f"resolution is {resolution!r}, and a model of pixels answers at the cube's own; leave it out.")
    bands, geobox, chosen = pixel_bands(ds, model, settings)
    answered = replace(model.spec, tasks=tuple(chosen))
    layers = model.layers(bands, geobox, chosen)
    out: xr.Dataset = assign(variables(layers, ("y", "x"), answered, chosen, location=False), geobox)
    out.attrs = attributes(ds, model, None)
    return out


@dataclass(frozen=True)
class Settings:
    """What :func:`predict` and :func:`misoxr.mapping.predict_at.predict_at` have in common."""

    tasks: Sequence[str] | None
    windows: WindowSpec | None
    location: bool
    device: str
    precision: str
    batch_size: int | None
    compiled: bool

    def __post_init__(self) -> None:
        check_flags(location=self.location, compile=self.compiled)
        for name in ("device", "precision"):
            if not isinstance(getattr(self, name), str):
                raise SpecError(f"{name} is {getattr(self, name)!r}; give text, such as 'auto'.")

    def arguments(self) -> dict[str, Any]:
        """Return them as keyword arguments."""
        arguments = {field.name: getattr(self, field.name) for field in fields(self)}
        arguments["compile"] = arguments.pop("compiled")
        return arguments

    def tasks_of(self, spec: ModelSpec) -> list[Task]:
        """Return the tasks that are asked for, in the model's order."""
        if isinstance(self.tasks, str):
            raise SpecError(f"tasks is {self.tasks!r}; give a list of names, [{self.tasks!r}].")
        if not isinstance(self.tasks, Sequence | np.ndarray | None):
            raise SpecError(f"tasks is {self.tasks!r}; give a list of names, such as {[task.name for task in spec.tasks]}.")
        if self.tasks is not None and not len(self.tasks):
            raise SpecError(f"tasks is empty; name some of {[task.name for task in spec.tasks]}, or leave it out for all.")
        asked = list(spec.tasks) if self.tasks is None else [spec.task(name) for name in self.tasks]
        return [task for task in spec.tasks if task in asked]


def pixel_bands(ds: xr.Dataset, model: PixelModel, settings: Settings) -> tuple[da.Array, GeoBox, list[Task]]:
    """Check a cube against a model of pixels, and return its stacked bands, its grid and the tasks."""
    given = [name for name in ("windows", "location", "batch_size", "compiled") if getattr(settings, name)]
    given += [name for name in ("device", "precision") if getattr(settings, name) != "auto"]
    if given:
        raise SpecError(f"{given} are settings of a network, and this is a model of pixels; leave them out.")
    ds = named(ds, model.spec)
    geobox = check(ds, model.spec)
    return stack(ds, model.spec), geobox, settings.tasks_of(model.spec)


def prepared(ds: xr.Dataset, model: "Model", settings: Settings) -> tuple[xr.Dataset, Job, list[Task]]:
    """Check everything that metadata tell, and return the cube by its names, the blocks' job and the tasks."""
    from misoxr.model.inference import choose_device, choose_precision

    spec, chosen = model.spec, settings.tasks_of(model.spec)
    if settings.location and spec.location is None:
        raise SpecError("location=True needs a model with a location branch, and this one has none.")
    size: Any = settings.batch_size
    if size is not None and (not is_whole(size) or int(size) < 1):
        raise SpecError(f"The batch size is {settings.batch_size!r}; it must be a whole number, 1 or more.")
    if not isinstance(settings.windows, WindowSpec | None):
        raise SpecError(
            f"windows is {settings.windows!r}; give a WindowSpec, such as dataclasses.replace(model.spec.windows, stride=…)."
        )
    choose_precision(settings.precision, "cpu")
    device = settings.device if settings.device == "auto" else choose_device(settings.device)
    ds = named(ds, spec)
    geobox = check(ds, spec)
    if settings.location:
        _warn_outside(geobox, spec)
    job = Job(
        address=model.address(),
        plan=_plan(geobox, spec, settings.windows),
        geobox=geobox,
        location=settings.location,
        device=device,
        precision=settings.precision,
        batch_size=None if size is None else int(size),
        compiled=settings.compiled,
    )
    return ds, job, chosen


def _warn_outside(geobox: GeoBox, spec: ModelSpec) -> None:
    assert spec.location is not None
    rows, columns = np.meshgrid([0, geobox.shape.y], [0, geobox.shape.x])
    if np.abs(locations(geobox, rows, columns, spec.location)).max() > 1 + 1e-6:
        note(
            f"The cube reaches beyond the extent {spec.location.extent} ({spec.location.crs}) of the model's locations, where its "
            "location head has learnt nothing."
        )


def _plan(geobox: GeoBox, spec: ModelSpec, windows: WindowSpec | None) -> Plan:
    windows = windows or spec.windows
    if windows.input_size != spec.windows.input_size:
        raise SpecError(f"The model reads inputs of {spec.windows.input_size} pixels; windows.input_size is {windows.input_size}.")
    shape = geobox.shape.y, geobox.shape.x
    if spec.modalities and min(shape) < windows.size:
        note(
            f"The cube has {shape[0]} x {shape[1]} pixels, less than a window of {windows.size}; it is padded with the network's zero."
        )
    return plan(shape, windows, lattice_offset(geobox))


def layers_of(spec: ModelSpec, job: Job) -> int:
    """Count the layers of a block: the tasks' outputs, members' spread in each task, and the location head's where it is asked for."""
    return spec.outputs * (2 if job.location else 1) + (len(spec.tasks) if spec.members > 1 else 0)


def dtype_of(job: Job) -> str:
    return "float64" if job.precision == "float64" else "float32"


def _map(ds: xr.Dataset, job: Job, spec: ModelSpec, resolution: float | None) -> tuple[da.Array, GeoBox]:
    """Lay the blocks of a map out: every chunk with the halo its windows reach into, and one task that predicts it."""
    step = _step(job, resolution)
    axes = job.plan.y, job.plan.x
    # A chunk below a window would need neighbours of neighbours; merged chunks also feed the network better.
    merged = [da.overlap.ensure_minimum_chunksize(axis.size, sizes) for axis, sizes in zip(axes, chunks_of(ds, spec), strict=True)]
    y, x = (Edges((0, *np.cumsum(sizes).tolist()), axis, step) for sizes, axis in zip(merged, axes, strict=True))
    overlapped = stack_with_halo(ds, spec, y.spans, x.spans)
    layers: da.Array = da.map_blocks(
        _map_block,
        overlapped,
        job=job,
        y=y,
        x=x,
        chunks=((layers_of(spec, job),), y.sizes, x.sizes),
        dtype=dtype_of(job),
        meta=np.empty((0, 0, 0), dtype_of(job)),
    )
    if resolution is None:
        return layers, job.geobox
    affine = job.geobox.affine
    finer = Affine(affine.a * step, affine.b, affine.c, affine.d, affine.e * step, affine.f)
    return layers, GeoBox(layers.shape[1:], finer, job.geobox.crs)


def _step(job: Job, resolution: Any) -> float:
    """Return the map's pixel size in pixels of the cube."""
    if resolution is None:
        return 1.0
    if not is_number(resolution):
        raise SpecError(f"resolution is {resolution!r}; give a number, in units of the CRS.")
    step = float(resolution) / abs(job.geobox.affine.a)
    longest = min(job.plan.y.size, job.plan.x.size)
    if not 0 < step <= longest:
        most = longest * abs(job.geobox.affine.a)
        raise SpecError(f"The resolution is {resolution:g}; it must be above 0 and at most a window, {most:g} in units of the CRS.")
    return step


def _map_block(bands: Array, job: Job, y: Edges, x: Edges, block_id: tuple[int, int, int]) -> Array:
    """Predict one block: raw bands with halo (band, y, x) -> (layer, y, x), NaN where there is no valid input."""
    from misoxr.model.field import Block, Grid

    _, row, column = block_id
    positions = Grid(y.positions(row), x.positions(column))
    answers = job.answer(Block(bands, (y.origin(row), x.origin(column))), positions)
    return answers.reshape(-1, len(positions.rows), len(positions.columns))
