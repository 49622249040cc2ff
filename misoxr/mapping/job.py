"""The job of each block: what is checked before a graph is built, how blocks are laid out, and what a block's task does."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from math import ceil, floor
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from misoxr.cube.check import check, named
from misoxr.cube.stack import chunks_of, stack_with_halo
from misoxr.errors import SpecError, note
from misoxr.grid.geobox import lattice_offset, locations
from misoxr.grid.halo import shared
from misoxr.grid.windows import Axis, Plan, plan
from misoxr.mapping.ranges import Ranges
from misoxr.spec import ModelSpec, Task, WindowSpec
from misoxr.spec.components import check_flags
from misoxr.spec.numbers import is_number, is_whole

if TYPE_CHECKING:
    from misoxr.model.checkpoint import Address, Model
    from misoxr.model.field import Positions, Source

__all__ = ["Job", "Settings", "dtype_of", "laid_out", "layers_of", "plan_of", "prepared"]

SIDE = 256
"""Pixels of which the side of a block is a multiple where blocks are cut, unless they are smaller."""

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
    embeds: bool = False
    ranges: Ranges = field(default_factory=lambda: Ranges(()), compare=False)

    def settings(self) -> dict[str, Any]:
        """Return what the bytes of an answer depend on beside model, windows and input; torch runs on one thread a core."""
        names = ("device", "precision", "batch_size", "compiled")
        return {name: getattr(self, name) for name in names} | {"threads": 1}

    def answer(self, source: "Source", positions: "Positions") -> Array:
        """Answer at positions, or embed them: (layer, N), NaN where there is no valid input."""
        from misoxr.model.checkpoint import resolve  # here: a map by fitted estimators needs no torch
        from misoxr.model.devices import choose_device, choose_precision
        from misoxr.model.field import answer_positions

        device = choose_device(self.device)
        precision = choose_precision(self.precision, device)
        model = resolve(self.address, device, precision, compiled=self.compiled)
        located = self.geobox if self.location or not model.spec.modalities else None
        settings: dict[str, Any] = {"device": device, "precision": precision, "batch_size": self.batch_size}
        answers: Array = answer_positions(model, source, self.plan, positions, geobox=located, embeds=self.embeds, **settings)
        # Of a model that sees locations alone, both heads are one.
        return np.concatenate([answers, answers]) if self.location and not model.spec.modalities else answers


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
    inner : tuple of int
        Where blocks of the answer begin and end, of which a chunk may hold several; the chunks' edges by default.
    """

    edges: tuple[int, ...]
    axis: Axis
    step: float = 1.0
    inner: tuple[int, ...] = ()

    @property
    def blocks(self) -> tuple[int, ...]:
        """First pixel of each block, and the end."""
        return self.inner or self.edges

    @cached_property
    def chunks(self) -> tuple[int, ...]:
        """The chunk in which each block lies."""
        return tuple(bisect_right(self.edges, first) - 1 for first in self.blocks[:-1])

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

    def origin(self, block: int) -> int:
        """First pixel of a block's data, its chunk with halo."""
        return max(0, self.edges[self.chunks[block]] - self.halo)

    @cached_property
    def marks(self) -> tuple[int, ...]:
        """First position of each block, and the end: a position belongs to the block it lies in."""
        # Of the positions as they are computed, so that none is rounded beyond its block.
        return tuple(int(mark) for mark in np.searchsorted(self._along(0, ceil(self.edges[-1] / self.step) + 1), self.blocks))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Positions of each block."""
        return tuple(int(size) for size in np.diff(self.marks))

    def positions(self, block: int) -> Floats:
        """Positions of a block, in fractional pixels."""
        return self._along(self.marks[block], self.marks[block + 1])

    def _along(self, first: int, stop: int) -> Floats:
        return np.asarray((np.arange(first, stop, dtype="float64") + 0.5) * self.step)


@dataclass(frozen=True)
class Settings:
    """Arguments that :func:`misoxr.mapping.predict.predict` and other verbs of a model have in common."""

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


def prepared(ds: xr.Dataset, model: "Model", settings: Settings) -> tuple[xr.Dataset, Job, list[Task]]:
    """Check everything that metadata tell, and return the cube by its names, the blocks' job and the tasks."""
    from misoxr.model.devices import choose_device, choose_precision

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
        plan=plan_of(geobox, spec, settings.windows),
        geobox=geobox,
        location=settings.location,
        device=device,
        precision=settings.precision,
        batch_size=None if size is None else int(size),
        compiled=settings.compiled,
        ranges=Ranges.of(spec, model.scaling),
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


def plan_of(geobox: GeoBox, spec: ModelSpec, windows: WindowSpec | None) -> Plan:
    """Return the windows over a grid: a model's own, or others of the same input size."""
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
    """Count the layers of a block."""
    return spec.layers(location=job.location, embeds=job.embeds)


def dtype_of(job: Job) -> str:
    """Return the type of a block's values."""
    return "float64" if job.precision == "float64" else "float32"


def laid_out(
    ds: xr.Dataset, job: Job, spec: ModelSpec, resolution: float | None, *, longest: int | None = None
) -> tuple[da.Array, GeoBox]:
    """Lay the blocks of a map out: every chunk with the halo its windows reach into, and one task that predicts it.

    Blocks with a side of more than ``longest`` positions are cut, so that many layers fit into memory.
    """
    step = _step(job, resolution)
    most = None if longest is None else longest * step
    if most is not None and most < 1:
        least = abs(job.geobox.affine.a) / longest if longest else 0
        raise SpecError(
            f"The resolution is {resolution:g}, and a pixel of the cube would hold more positions than a block may; use {least:.3g} or more."
        )
    y, x = (_edges(sizes, axis, step, most) for sizes, axis in zip(chunks_of(ds, spec), (job.plan.y, job.plan.x), strict=True))
    overlapped = stack_with_halo(ds, spec, y.spans, x.spans)
    if y.inner or x.inner:
        overlapped = shared(overlapped, {1: y.chunks, 2: x.chunks})
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


def _edges(sizes: tuple[int, ...], axis: Axis, step: float, most: float | None) -> Edges:
    """Merge chunks along an axis that are below a window, and cut blocks to one length where one has more than so many pixels."""
    # A chunk below a window would need neighbours of neighbours; merged chunks also feed the network better.
    merged = da.overlap.ensure_minimum_chunksize(axis.size, sizes)
    if most is None or max(merged) <= most:
        return Edges((0, *np.cumsum(merged).tolist()), axis, step)
    longest, length = floor(most) // SIDE * SIDE or floor(most), sum(sizes)
    side = ceil(max(merged) / ceil(max(merged) / longest))  # stores need one length: as long as can be, and parts of the chunks
    inner = (*range(0, length, side), length)
    several = side * ceil(axis.size / side)  # blocks below a window share a chunk
    starts = [start for start in range(0, length, several) if start == 0 or length - start >= axis.size]
    return Edges((*starts, length), axis, step, inner)


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

    job.ranges.look(bands)
    _, row, column = block_id
    positions = Grid(y.positions(row), x.positions(column))
    answers = job.answer(Block(bands, (y.origin(row), x.origin(column))), positions)
    return answers.reshape(-1, len(positions.rows), len(positions.columns))
