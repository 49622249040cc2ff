"""Maps and point answers from a datacube, lazily: each Dask chunk with its halo, by windows that belong to the ground."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from math import ceil
from typing import Any

import dask.array as da
import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from affine import Affine
from dask.delayed import delayed
from odc.geo.geobox import GeoBox

from misoxr.cube import check, named
from misoxr.errors import MisoxrWarning, PointsError, SpecError
from misoxr.grid import assign, lattice_offset, pixels
from misoxr.maps import attributes, variables
from misoxr.model.checkpoint import Address, Model, resolve
from misoxr.model.field import Block, Crops, Grid, Positions, Scatter, Source, Window, blend, from_location
from misoxr.model.inference import choose_device, choose_precision, inference
from misoxr.points import coordinates
from misoxr.scaling import stack
from misoxr.spec import ModelSpec, Task, WindowSpec
from misoxr.windows import Axis, Plan, plan

__all__ = ["predict", "predict_at"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Job:
    """What every block's task carries: an address and settings, never weights."""

    address: Address
    plan: Plan
    geobox: GeoBox
    location: bool
    device: str
    precision: str
    batch_size: int | None
    compiled: bool

    def answer(self, source: Source, positions: Positions) -> Array:
        """Answer at positions: (layer, N), NaN where there is no valid input."""
        device = choose_device(self.device)
        precision = choose_precision(self.precision, device)
        model = resolve(self.address, device, precision, compiled=self.compiled)
        mask = source.wanted(model.spec, positions)
        heads = []
        with inference(device, precision) as run:
            if model.spec.modalities:
                heads.append(blend(model, source, self.plan, positions, mask, run, self.batch_size))
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

    def origin(self, chunk: int) -> int:
        """First pixel of a chunk's data with halo."""
        return max(0, self.edges[chunk] - self.halo)

    @cached_property
    def marks(self) -> tuple[int, ...]:
        """First position of each chunk, and the end: a position belongs to the chunk it lies in."""
        return tuple(ceil(edge / self.step - 0.5) for edge in self.edges)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Positions of each chunk."""
        return tuple(int(size) for size in np.diff(self.marks))

    def positions(self, chunk: int) -> Floats:
        """Positions of a chunk, in fractional pixels."""
        positions = np.arange(self.marks[chunk], self.marks[chunk + 1], dtype="float64") + 0.5
        return np.asarray(positions * self.step)


def predict(
    ds: xr.Dataset,
    model: Model | str | os.PathLike[str],
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
    resolution : float, optional
        Pixel size of the map in units of the CRS, finer or coarser than the cube's, whose it is by default. The field is taken
        at the new pixels' centres, as :func:`predict_at` does; the map's first corner is the cube's. For averages over
        coarse pixels, map at the cube's resolution and reduce with ``coarsen``.
    location : bool, optional
        Add ``<task>_location_probability`` (regressions: ``<task>_location``) of the location head: no imagery enters it.
    device : str, optional
        A torch device; "auto" takes CUDA where the block runs on a machine that has it.
    precision : {"auto", "float32", "bfloat16", "float64"}, optional
        "auto" is bfloat16 on CUDA and float32 on CPU. "float64" is for checks, and gives float64.
    batch_size : int, optional
        Windows encoded at once; 8 on CPU, and on CUDA what fits in free memory, by default. Where CUDA runs out of memory,
        it is halved.
    compile : bool, optional
        Compile the network with ``torch.compile``, once per process; needs a C++ compiler on a CPU.

    Returns
    -------
    Dataset
        Lazy, on the grid of ``ds`` or the one with ``resolution``. ``<task>_probability`` float32, (y, x) for binary tasks and
        (class, y, x) for multiclass ones; the class map ``<task>`` (y, x) uint8, 255 where there is no valid input; ``<task>``
        float32 for regressions. NaN where a required modality has no valid band.

    Raises
    ------
    BandError
        If a band is missing or in units that cannot be converted.
    GridError
        If the cube has no regular grid or CRS, or another pixel size than the model's.
    CheckpointError
        If the checkpoint cannot be read.
    SpecError
        If a task, window, resolution, device, precision or batch size is not valid.

    Notes
    -----
    On a CPU the results are the same to the byte for the same batch size and chunks. CUDA has not been run by the authors of
    this package.

    References
    ----------
    arXiv 2506.17302, with the query's axes and weights corrected.
    """
    settings = Settings(tasks, windows, location, device, precision, batch_size, compile)
    model, bands, job, chosen = _prepared(ds, model, settings)
    layers, geobox = _map(bands, job, model.spec, resolution)
    out: xr.Dataset = assign(variables(layers, ("y", "x"), model.spec, chosen, location=location), geobox)
    out.attrs = attributes(ds, model, job.plan.y.spec)
    return out


def predict_at(
    ds: xr.Dataset,
    model: Model | str | os.PathLike[str],
    points: gpd.GeoDataFrame | pd.DataFrame | xr.Dataset | Mapping[str, Any],
    *,
    crs: Any = None,
    tasks: Sequence[str] | None = None,
    windows: WindowSpec | None = None,
    location: bool = False,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    compile: bool = False,
) -> xr.Dataset:
    """Answer a model at any coordinates of a datacube, not only at pixel centres. Nothing is computed before the result is.

    The cube is read chunk by chunk, and only around the points.

    Parameters
    ----------
    ds : Dataset
        As for :func:`predict`.
    model : Model, str or path
        As for :func:`predict`.
    points : GeoDataFrame, DataFrame, Dataset or mapping
        Where to answer: points; a table with columns as :func:`misoxr.points.read_points` takes them; or ``x`` and ``y`` as
        one-dimensional DataArrays or arrays, by default in the CRS of the cube.
    crs : optional
        CRS of the points, where they carry none.
    tasks, windows, location, device, precision, batch_size, compile
        As for :func:`predict`.

    Returns
    -------
    Dataset
        Lazy, along "point" in the order given, with the variables of :func:`predict`, and coordinates ``x`` and ``y`` in the
        CRS of the cube. NaN where the pixel that holds the point has no valid input, and outside the cube.

    Raises
    ------
    PointsError
        If there are no points, they carry no CRS or no coordinates, or all lie outside the cube.
    BandError, GridError, CheckpointError, SpecError
        As for :func:`predict`.

    Warns
    -----
    MisoxrWarning
        If some points lie outside the cube.
    """
    settings = Settings(tasks, windows, location, device, precision, batch_size, compile)
    model, bands, job, chosen = _prepared(ds, model, settings)
    x, y, index = coordinates(points, job.geobox, crs)
    layers = _gather(bands, job, model.spec, *pixels(job.geobox, x, y))
    out = variables(layers, ("point",), model.spec, chosen, location=location)
    reference = assign(ds[[]], job.geobox)
    place = {name: xr.Variable("point", values, reference[name].attrs) for name, values in (("x", x), ("y", y))}
    out = out.assign_coords({"point": index, **place, "spatial_ref": reference.spatial_ref})
    out.attrs = attributes(ds, model, job.plan.y.spec)
    return out


@dataclass(frozen=True)
class Settings:
    """What :func:`predict` and :func:`predict_at` have in common."""

    tasks: Sequence[str] | None
    windows: WindowSpec | None
    location: bool
    device: str
    precision: str
    batch_size: int | None
    compiled: bool


def _prepared(ds: xr.Dataset, model: Model | str | os.PathLike[str], settings: Settings) -> tuple[Model, da.Array, Job, list[Task]]:
    """Check everything that metadata tell, and return the model, its stacked bands, the blocks' job and the tasks."""
    model = model if isinstance(model, Model) else Model.load(model)
    spec, tasks = model.spec, settings.tasks
    if tasks is not None and not len(tasks):
        raise SpecError(f"tasks is empty; name some of {[task.name for task in spec.tasks]}, or leave it out for all.")
    chosen = [spec.task(name) for name in tasks] if tasks is not None else list(spec.tasks)
    if settings.location and spec.location is None:
        raise SpecError("location=True needs a model with a location branch, and this one has none.")
    if settings.batch_size is not None and settings.batch_size < 1:
        raise SpecError(f"The batch size is {settings.batch_size}; it must be 1 or more.")
    choose_precision(settings.precision, "cpu")
    device = settings.device if settings.device == "auto" else choose_device(settings.device)
    ds = named(ds, spec)
    geobox = check(ds, spec)
    job = Job(
        address=model.address(),
        plan=_plan(geobox, spec, settings.windows),
        geobox=geobox,
        location=settings.location,
        device=device,
        precision=settings.precision,
        batch_size=settings.batch_size,
        compiled=settings.compiled,
    )
    return model, stack(ds, spec), job, chosen


def _plan(geobox: GeoBox, spec: ModelSpec, windows: WindowSpec | None) -> Plan:
    windows = windows or spec.windows
    if windows.input_size != spec.windows.input_size:
        raise SpecError(f"The model reads inputs of {spec.windows.input_size} pixels; windows.input_size is {windows.input_size}.")
    shape = geobox.shape.y, geobox.shape.x
    if spec.modalities and min(shape) < windows.size:
        warnings.warn(
            f"The cube has {shape[0]} x {shape[1]} pixels, less than a window of {windows.size}; it is padded with the network's zero.",
            MisoxrWarning,
            stacklevel=5,
        )
    return plan(shape, windows, lattice_offset(geobox))


def _layers(spec: ModelSpec, job: Job) -> int:
    """Count the layers of a block: the tasks' outputs, and those of the location head where it is asked for."""
    return sum(task.outputs for task in spec.tasks) * (2 if job.location else 1)


def _dtype(job: Job) -> str:
    return "float64" if job.precision == "float64" else "float32"


def _map(bands: da.Array, job: Job, spec: ModelSpec, resolution: float | None) -> tuple[da.Array, GeoBox]:
    """Lay the blocks of a map out: every chunk with the halo its windows reach into, and one task that predicts it."""
    step = _step(job, resolution)
    axes = job.plan.y, job.plan.x
    # A chunk below a window would need neighbours of neighbours; merged chunks also feed the network better.
    merged = [da.overlap.ensure_minimum_chunksize(axis.size, sizes) for axis, sizes in zip(axes, bands.chunks[1:], strict=True)]
    y, x = (Edges((0, *np.cumsum(sizes).tolist()), axis, step) for sizes, axis in zip(merged, axes, strict=True))
    overlapped = da.overlap.overlap(bands.rechunk((bands.chunks[0], *merged)), depth={0: 0, 1: y.halo, 2: x.halo}, boundary="none")
    layers: da.Array = da.map_blocks(
        _map_block,
        overlapped,
        job=job,
        y=y,
        x=x,
        chunks=((_layers(spec, job),), y.sizes, x.sizes),
        dtype=_dtype(job),
        meta=np.empty((0, 0, 0), _dtype(job)),
    )
    if resolution is None:
        return layers, job.geobox
    affine = job.geobox.affine
    finer = Affine(affine.a * step, affine.b, affine.c, affine.d, affine.e * step, affine.f)
    return layers, GeoBox(layers.shape[1:], finer, job.geobox.crs)


def _step(job: Job, resolution: float | None) -> float:
    """Return the map's pixel size in pixels of the cube."""
    if resolution is None:
        return 1.0
    step = resolution / abs(job.geobox.affine.a)
    longest = min(job.plan.y.size, job.plan.x.size)
    if not 0 < step <= longest:
        most = longest * abs(job.geobox.affine.a)
        raise SpecError(f"The resolution is {resolution:g}; it must be above 0 and at most a window, {most:g} in units of the CRS.")
    return step


def _map_block(bands: Array, job: Job, y: Edges, x: Edges, block_id: tuple[int, int, int]) -> Array:
    """Predict one block: raw bands with halo (band, y, x) -> (layer, y, x), NaN where there is no valid input."""
    _, row, column = block_id
    positions = Grid(y.positions(row), x.positions(column))
    answers = job.answer(Block(bands, (y.origin(row), x.origin(column))), positions)
    return answers.reshape(-1, len(positions.rows), len(positions.columns))


def _gather(bands: da.Array, job: Job, spec: ModelSpec, rows: Floats, columns: Floats) -> da.Array:
    """Lay the answers at points out: a task that cuts the windows from each chunk, and one that answers its points."""
    height, width = bands.shape[1:]
    inside = np.flatnonzero((rows >= 0) & (rows < height) & (columns >= 0) & (columns < width))
    if not len(inside):
        raise PointsError(f"All {len(rows)} points lie outside the cube; check their CRS and the cube's extent.")
    if len(inside) < len(rows):
        words = f"{len(rows) - len(inside)} of {len(rows)} points lie outside the cube, and have no answer."
        warnings.warn(words, MisoxrWarning, stacklevel=4)
    edges = [np.cumsum([0, *sizes]) for sizes in bands.chunks[1:]]
    chunk = [np.searchsorted(edge, part[inside], side="right") - 1 for edge, part in zip(edges, (rows, columns), strict=True)]
    number = chunk[0] * len(edges[1]) + chunk[1]
    order = np.argsort(number, kind="stable")
    groups = np.split(inside[order], np.flatnonzero(np.diff(number[order])) + 1)
    asked = [Scatter(rows[group], columns[group]) for group in groups]
    # A chunk gives copies of its parts of windows, and is let go: slices would hold all of it until the last of them is used.
    cuts: dict[tuple[int, int], dict[int, list[Cut]]] = {}
    for index, positions in enumerate(asked):
        for window in positions.windows(job.plan):
            for place, cut in _cuts(edges, window, job.plan):
                cuts.setdefault(place, {}).setdefault(index, []).append(cut)
    blocks = bands.to_delayed()
    pieces: list[list[Any]] = [[] for _ in asked]
    for place, wanted in cuts.items():
        part = delayed(partial(_cut, cuts=wanted), pure=False)(blocks[0, *place])
        for index in wanted:
            pieces[index].append(part[index])
    shape = _layers(spec, job)
    parts = [
        da.from_delayed(
            delayed(partial(_point_block, job=job, positions=positions), pure=False)(mine),
            (shape, len(positions)),
            _dtype(job),
        )
        for mine, positions in zip(pieces, asked, strict=True)
    ]
    nothing = da.full((shape, 1), np.nan, dtype=_dtype(job))
    at = np.full(len(rows), len(inside))
    at[inside[order]] = np.arange(len(inside))
    answers: da.Array = da.concatenate([*parts, nothing], axis=1).rechunk(-1)[:, at]
    return answers


@dataclass(frozen=True)
class Cut:
    """The part of a window in a chunk: where it lies in the chunk, and in the window."""

    window: Window
    here: tuple[slice, slice]
    there: tuple[slice, slice]


def _cuts(edges: Sequence[npt.NDArray[Any]], window: Window, plan: Plan) -> Iterator[tuple[tuple[int, int], Cut]]:
    """Yield the chunks (row, column) that a window meets, and its part in each."""
    spans = []
    for edge, start, axis in zip(edges, window, (plan.y, plan.x), strict=True):
        stop = start + axis.size
        first, last = np.searchsorted(edge, start, side="right") - 1, np.searchsorted(edge, stop, side="left")
        spans.append([(int(k), max(start, edge[k]), min(stop, edge[k + 1]), int(edge[k])) for k in range(first, last)])
    for row, top, bottom, north in spans[0]:
        for column, left, right, west in spans[1]:
            here = slice(top - north, bottom - north), slice(left - west, right - west)
            there = slice(top - window[0], bottom - window[0]), slice(left - window[1], right - window[1])
            yield (row, column), Cut(window, here, there)


def _cut(bands: Array, cuts: Mapping[int, Sequence[Cut]]) -> dict[int, list[tuple[Cut, Array]]]:
    return {index: [(cut, bands[:, *cut.here].copy()) for cut in mine] for index, mine in cuts.items()}


def _point_block(pieces: Sequence[Sequence[tuple[Cut, Array]]], job: Job, positions: Scatter) -> Array:
    """Put windows together from their parts in chunks, and answer the points among them: (layer, N)."""
    windows: dict[Window, Array] = {}
    for cut, part in chain.from_iterable(pieces):
        shape = (len(part), job.plan.y.size, job.plan.x.size)
        windows.setdefault(cut.window, np.empty(shape, part.dtype))[:, *cut.there] = part
    return job.answer(Crops(windows), positions)
