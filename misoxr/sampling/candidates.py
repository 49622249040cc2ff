"""Draw pixels from a map of any size at random: in one pass, block by block, and the same ones for any chunks.

Each pixel has a random number that is a hash of its place and of the seed. Those with the least numbers are drawn: a simple random
sample without replacement, whichever block is looked at first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.delayed import delayed
from odc.geo.geobox import GeoBox

from misoxr.clusters import computed
from misoxr.cube.decode import decoded
from misoxr.errors import BandError
from misoxr.grid.halo import in_blocks
from misoxr.sampling.ground import Area

__all__ = ["Drawn", "drawn", "hashed", "key_of", "layer_of", "least", "read"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Layer = npt.NDArray[np.float32]

SPLIT = 8
"""Blocks whose draws are merged at once along each axis."""


@dataclass(frozen=True)
class Drawn:
    """Pixels that were drawn, and pixels that were asked for.

    Attributes
    ----------
    valid : int
        Number of pixels that could have been drawn.
    each : array
        Number of valid pixels of each layer, (layer,).
    index : array
        Number of each pixel that was drawn, row * columns + column, from the least hash to the greatest.
    hashes : array
        These hashes.
    values : tuple of array
        Its values, of each layer (pixel,) or (layer, pixel).
    known, known_values
        The same of the pixels that were asked for, in the order of their numbers; NaN where they have no value.
    """

    valid: int
    each: Integers
    index: Integers
    hashes: Hashes
    values: tuple[Layer, ...]
    known: Integers
    known_values: tuple[Layer, ...]


@dataclass(frozen=True)
class Question:
    """What every block is asked; sent to workers once.

    Attributes
    ----------
    count : int
        Pixels to draw, at most.
    key : int
        Of the hash.
    box : GeoBox
        The map's grid.
    area : Area or None
        Where pixels are drawn.
    places : array
        Numbers of pixels whose values are asked for, and that are not drawn; sorted.
    """

    count: int
    key: int
    box: GeoBox
    area: Area | None = None
    places: Integers = field(default_factory=lambda: np.empty(0, "int64"))


def layer_of(name: Any, array: xr.DataArray) -> xr.DataArray:
    """Return a variable as lazy float32 values with NaN as nodata, (y, x) or (layer, y, x).

    Raises
    ------
    BandError
        If it has other dimensions, or holds no numbers.
    """
    others = [dim for dim in array.dims if dim not in ("y", "x")]
    if not {"y", "x"} <= set(array.dims) or len(others) > 1:
        raise BandError(
            f"Variable {name!r} has dimensions {array.dims}; give one over (y, x), or (class, y, x): select or reduce the others first."
        )
    return decoded(name, in_blocks(array.transpose(*others, "y", "x")))


def drawn(layers: Sequence[xr.DataArray], question: Question) -> Drawn:
    """Draw pixels that are valid in all layers, and compute: each chunk is read once.

    Parameters
    ----------
    layers : sequence of DataArray
        Lazy, (y, x) or (layer, y, x), of one grid; NaN is nodata.
    question : Question
        What to draw.
    """
    (found,) = computed(_lazily(layers, question), of=layers[0].data)
    assert isinstance(found, Drawn)
    return found


def read(layers: Mapping[str, xr.DataArray], question: Question) -> tuple[Drawn, dict[str, Layer], dict[str, Layer]]:
    """Draw pixels, and return them, and the layers' values by name: of those that were drawn, and of those that were asked for."""
    found = drawn(list(layers.values()), question)
    return found, dict(zip(layers, found.values, strict=True)), dict(zip(layers, found.known_values, strict=True))


def _lazily(layers: Sequence[xr.DataArray], question: Question) -> da.Array:
    first = layers[0].data
    rows, columns = first.chunks[-2:]
    arrays: list[Any] = [da.arange(sum(rows), chunks=(rows,)), "y", da.arange(sum(columns), chunks=(columns,)), "x"]
    for at, layer in enumerate(layers):
        whole = layer.data.rechunk({layer.ndim - 2: rows, layer.ndim - 1: columns} | ({0: -1} if layer.ndim == 3 else {}))
        arrays += [whole, ((f"layer {at}",) if layer.ndim == 3 else ()) + ("y", "x")]
    parts = da.blockwise(
        _block,
        ("y", "x"),
        *[tuple(index) if isinstance(index, str) else index for index in arrays],
        question=delayed(question, pure=True),
        concatenate=True,
        adjust_chunks={"y": lambda _: 1, "x": lambda _: 1},
        dtype=object,
        meta=np.empty((0, 0), object),
    )
    merge = partial(_merged, count=question.count)
    found: da.Array = da.reduction(
        parts,
        chunk=_kept,
        combine=merge,
        aggregate=merge,
        axis=(0, 1),
        concatenate=False,
        split_every={0: SPLIT, 1: SPLIT},
        dtype=object,
        meta=np.empty((), object),
    )
    return found


def _block(rows: Integers, columns: Integers, *layers: Layer, question: Question) -> Drawn:
    """Draw from one block."""
    each, valid = [], np.ones((len(rows), len(columns)), bool)
    for layer in layers:
        here = np.isfinite(layer) if layer.ndim == 2 else np.isfinite(layer).all(axis=0)
        each.append(int(here.sum()))
        valid &= here
    if question.area is not None:
        valid &= question.area.holds(question.box, rows, columns)
    flat = [layer.reshape(*layer.shape[:-2], -1) for layer in layers]
    width = question.box.shape.x
    known, asked = _asked(question.places, rows, columns, width)
    valid.ravel()[asked] = False
    at = np.flatnonzero(valid)
    index = rows[at // len(columns)] * width + columns[at % len(columns)]
    hashes = hashed(index, question.key)
    chosen = least(hashes, question.count)
    values, known_values = (tuple(layer[..., places] for layer in flat) for places in (at[chosen], asked))
    return Drawn(len(at), np.array(each, "int64"), index[chosen], hashes[chosen], values, known, known_values)


def _asked(places: Integers, rows: Integers, columns: Integers, width: int) -> tuple[Integers, Integers]:
    """Return which of the places lie in a block, and where in it."""
    row, column = places // width, places % width
    inside = (row >= rows[0]) & (row <= rows[-1]) & (column >= columns[0]) & (column <= columns[-1])
    return places[inside], ((row - rows[0]) * len(columns) + column - columns[0])[inside]


def _kept(part: Any, axis: Any, keepdims: bool) -> Any:
    return part


def _merged(parts: Any, axis: Any = None, keepdims: bool = True, *, count: int) -> Any:
    """Merge draws, in nested lists, into one: of all, the pixels with the least hashes."""
    if not isinstance(parts, list | Drawn):
        return parts  # Dask asks what comes of an empty array
    several = _flat(parts)
    hashes = np.concatenate([one.hashes for one in several])
    chosen = least(hashes, count)
    order = np.argsort(known := np.concatenate([one.known for one in several]))
    return Drawn(
        sum(one.valid for one in several),
        np.sum([one.each for one in several], axis=0),
        np.concatenate([one.index for one in several])[chosen],
        hashes[chosen],
        _picked([one.values for one in several], chosen),
        known[order],
        _picked([one.known_values for one in several], order),
    )


def _flat(parts: Any) -> list[Drawn]:
    return [parts] if isinstance(parts, Drawn) else [one for part in parts for one in _flat(part)]


def _picked(parts: Sequence[tuple[Layer, ...]], where: Any) -> tuple[Layer, ...]:
    """Return the values of each layer, of several draws, at places among all."""
    return tuple(np.concatenate(own, axis=-1)[..., where] for own in zip(*parts, strict=True))


def hashed(index: Integers, key: int) -> Hashes:
    """Return the random numbers of pixels: no two of them are alike.

    References
    ----------
    SplitMix64: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", OOPSLA.
    """
    with np.errstate(over="ignore"):
        z = (index.astype("uint64") + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
        z ^= z >> np.uint64(30)
        z *= np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        z *= np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return z


def key_of(seed: int) -> int:
    """Return the key of a seed's hash."""
    return int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])


def least(hashes: Hashes, count: int) -> npt.NDArray[np.intp]:
    """Return where the least hashes are, from the least on."""
    near = np.argpartition(hashes, count)[:count] if len(hashes) > count else np.arange(len(hashes))
    order: npt.NDArray[np.intp] = near[np.argsort(hashes[near])]
    return order
