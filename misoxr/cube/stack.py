"""Stack a model's bands into one lazy array in its order and units, with or without the windows' halo."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.base import annotate

from misoxr.clusters import shared_out
from misoxr.cube.decode import PLAIN, Coding, coding_of, decode, refuse_counts
from misoxr.cube.scaling import REFLECTANCE
from misoxr.cube.units import conversion
from misoxr.errors import BandError, note
from misoxr.grid.halo import MANY, with_halo
from misoxr.grid.sources import Span, source_of
from misoxr.spec import Band, ModelSpec

__all__ = ["chunks_of", "stack", "stack_with_halo"]

Array = npt.NDArray[Any]
LONGEST = 1.5
"""Greatest length of a vector that is taken for a unit vector."""
Reach = tuple[Span, Span]
"""A chunk along an axis, and what it holds with its halo."""


def chunks_of(ds: xr.Dataset, spec: ModelSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the chunks along y and x in which a model's bands are stacked: those of the first lazy band."""
    present = [ds[name] for name in _present(ds, spec)] or [a for a in ds.values() if {"y", "x"} <= set(a.dims)]
    lazy = next((array for array in present if array.chunks is not None), None)
    chunks = ("auto", "auto") if lazy is None else tuple(lazy.variable.chunksizes[dim] for dim in ("y", "x"))
    rows, columns = da.core.normalize_chunks(chunks, (ds.sizes["y"], ds.sizes["x"]), dtype="float64")
    return rows, columns


def stack(ds: xr.Dataset, spec: ModelSpec) -> da.Array:
    """Stack a model's bands in its order and units: a lazy float32 array (band, y, x), one chunk along band.

    Nodata, scale and offset that attributes tell of are honoured (:mod:`misoxr.cube.decode`). Bands that are missing (of a modality
    that is not required) are NaN, and so are values below a band's ``valid_min``, and unit vectors of zeros. A model without bands
    gets the dataset's chunks with none in them. NumPy-backed data are chunked as Dask sees fit.

    Raises
    ------
    BandError
        If units cannot be converted, a band holds no numbers, or a component of a unit vector whole numbers without a scale; and where
        values are read, if vectors that should be of length 1 are much longer.

    Warns
    -----
    MisoxrWarning
        If bands have no units.
    """
    chunks = chunks_of(ds, spec)
    names = _present(ds, spec)
    layers = [da.asarray(ds[name].transpose("y", "x").data).rechunk(chunks) for name in names]
    return _stacked(layers, list(range(len(layers))), [coding_of(name, ds[name]) for name in names], ds, spec, chunks)


def stack_with_halo(ds: xr.Dataset, spec: ModelSpec, y: Sequence[Reach], x: Sequence[Reach]) -> da.Array:
    """Stack a model's bands as :func:`stack` does, in chunks that reach into each other.

    Bands that come from something that reads its own parts (:mod:`misoxr.grid.sources`) are read so, nothing twice; others take what they need from the chunks beside.

    Parameters
    ----------
    y, x : sequence of Reach
        For each chunk, its own pixels and those it is to hold, as (first, last + 1) each.
    """
    names = _present(ds, spec)
    source = source_of(ds, names)
    layers: list[da.Array] = []
    order: dict[str, int] = {}
    chunks = tuple(tuple(stop - start for _, (start, stop) in axis) for axis in (y, x))
    if source is not None:
        reader, at = source
        layers.append(reader.layers([span for _, span in y], [span for _, span in x]))
        order |= at
    codings = [coding_of(name, ds[name]) for name in names]
    rest = [name for name in names if name not in order]
    if rest:
        own = tuple(tuple(stop - start for (start, stop), _ in axis) for axis in (y, x))
        held = [da.asarray(ds[name].transpose("y", "x").data).rechunk(own) for name in rest]
        bands = _together(held, [codings[names.index(name)] for name in rest])
        depth = {
            0: 0,
            **{at + 1: max(max(own[0] - span[0], span[1] - own[1]) for own, span in axis) for at, axis in enumerate((y, x))},
        }
        before = sum(len(layer) for layer in layers)
        layers.append(with_halo(bands, depth))
        order |= {name: before + at for at, name in enumerate(rest)}
    left = [PLAIN if name in rest else coding for name, coding in zip(names, codings, strict=True)]
    return _stacked(layers, [order[name] for name in names], left, ds, spec, chunks)


def _present(ds: xr.Dataset, spec: ModelSpec) -> list[str]:
    return [band.name for band in spec.bands if band.name in ds.data_vars]


def _together(layers: Sequence[da.Array], codings: Sequence[Coding]) -> da.Array:
    """Decode and stack (y, x) to (layer, y, x) block by block: Dask's own stack spells every block out, of however large a map."""
    # Before it looks which blocks are asked for, Dask would make the tasks of all to fuse those that read; an annotation keeps it from that.
    apart = annotate(misoxr="many blocks") if layers[0].npartitions > MANY else nullcontext()
    with apart:
        together: da.Array = da.map_blocks(
            partial(_stack_blocks, codings=tuple(codings)),
            *layers,
            new_axis=0,
            chunks=((len(layers),), *layers[0].chunks),
            dtype="float32",
            meta=np.empty((0, 0, 0), "float32"),
        )
    return together


def _stack_blocks(*blocks: Array, codings: Sequence[Coding]) -> Array:
    out: Array = np.empty((len(blocks), *blocks[0].shape), dtype="float32")

    def put(at: int) -> None:
        out[at] = decode(blocks[at], codings[at])

    shared_out(put, range(len(blocks)), out.nbytes)
    return out


def _stacked(
    layers: Sequence[da.Array], order: Sequence[int], codings: Sequence[Coding], ds: xr.Dataset, spec: ModelSpec, chunks: Any
) -> da.Array:
    """Put layers in a model's order and units; bands that are missing are NaN."""
    place = {name: (at, coding) for name, at, coding in zip(_present(ds, spec), order, codings, strict=True)}
    taken, untold = [], []
    for band in spec.bands:
        at, coding = place.get(band.name, (None, PLAIN))
        units = (1.0, 0.0) if at is None else conversion(ds[band.name].attrs.get("units"), band)
        if at is not None and band.kind == "component":
            refuse_counts(band.name, ds[band.name])
        if units is None:
            untold.append(band)
        taken.append(_Taken(at, coding, *(units or (1.0, 0.0)), band.valid_min))
    if untold:
        _note_units(ds, untold)
    shape = ((len(taken),), *chunks)
    if not layers:
        nothing: da.Array = da.full(tuple(map(sum, shape)), np.nan, dtype="float32", chunks=shape)
        return nothing
    vectors = _vectors(spec)
    as_they_are = [_Taken(at, PLAIN, 1.0, 0.0, None) for at in range(len(taken))]
    only = layers[0] if len(layers) == 1 else None
    if only is not None and only.dtype == "float32" and only.shape[:-2] == (len(taken),) and taken == as_they_are and not vectors:
        return only
    planar = layers[0].ndim == 2
    stacked: da.Array = da.map_blocks(
        partial(
            _take, plan=_Layout(tuple(taken), vectors)
        ),  # one argument: Dask 2025.1 orders several by chance when it names the graph
        *layers,
        **({"new_axis": 0} if planar else {}),
        chunks=shape,
        dtype="float32",
        meta=np.empty((0, 0, 0), "float32"),
    )
    return stacked


def _note_units(ds: xr.Dataset, bands: Sequence[Band]) -> None:
    """Warn once of all bands without units, or with units that such values cannot have."""
    names = [band.name for band in bands]
    told = {name: ds[name].attrs["units"] for name in names if ds[name].attrs.get("units")}
    words = f" (but for {told}, which are no units of such values)" if told else ""
    units = [band.units for band in bands]
    counts = (
        " If reflectance stands as counts, divide it by 10000 first." if any(band.name in REFLECTANCE for band in bands) else ""
    )
    note(
        f"Bands {names} have no units{words} and are taken to be in {repr(units[0]) if len(set(units)) == 1 else units}. Write them down: "
        f'ds["{names[0]}"].attrs["units"] = "{bands[0].units}".{counts}'
    )


class _Taken(NamedTuple):
    """Which layer a band is, how it is stored, and how it comes into the model's units."""

    layer: int | None
    coding: Coding
    factor: float
    summand: float
    valid_min: float | None


class _Vector(NamedTuple):
    """A modality that is a unit vector: its name, and where its components stand among a model's bands."""

    name: str
    first: int
    stop: int


def _vectors(spec: ModelSpec) -> tuple[_Vector, ...]:
    ends = np.cumsum([0, *(len(modality.bands) for modality in spec.modalities)]).tolist()
    spans = zip(spec.modalities, ends, ends[1:], strict=False)
    return tuple(_Vector(modality.name, *span) for modality, *span in spans if modality.is_vector)


class _Layout(NamedTuple):
    """How the layers of a block become a model's bands: each of them, and which together are vectors."""

    bands: tuple[_Taken, ...]
    vectors: tuple[_Vector, ...]


def _take(*blocks: Array, plan: _Layout) -> Array:
    layers = [layer for block in blocks for layer in (block if block.ndim == 3 else block[None])]
    out: Array = np.empty((len(plan.bands), *layers[0].shape), dtype="float32")

    def put(band: int) -> None:
        values, (at, coding, factor, summand, least) = out[band], plan.bands[band]
        values[...] = np.nan if at is None else decode(layers[at], coding)
        if at is not None and (factor, summand) != (1.0, 0.0):
            values[...] = values * np.float32(factor) + np.float32(summand)
        if at is not None and least is not None:
            values[~(values >= np.float32(least))] = np.nan

    shared_out(put, range(len(plan.bands)), out.nbytes)
    for vector in plan.vectors:
        _check_length(out[vector.first : vector.stop], vector.name)
    return out


def _check_length(vectors: Array, name: str) -> None:
    """Refuse vectors (component, y, x) that are much longer than 1; those of zeros have no direction, and become nodata.

    Resampling makes them shorter, and quantisation hardly longer. Each vector is judged by itself, so that chunks do not matter.
    """
    length = np.sqrt(np.einsum("c...,c...->...", vectors, vectors))
    vectors[:, length == 0] = np.nan
    too_long = length[length > LONGEST]
    if too_long.size:
        raise BandError(
            f"The vectors of {name!r} have lengths up to {too_long.max():.3g}, and those of an embedding 1: they may be stored counts, or "
            "have an undeclared nodata value. Decode what is stored with misoxr.cube.decode.unit_vectors, with coding='linear' or "
            "coding='alphaearth'."
        )
