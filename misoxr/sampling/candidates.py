"""Draw pixels from a map of any size at random: in one pass, block by block, and the same ones for any chunks.

Each pixel has a random number that is a hash of its place and of the seed. Those with the least numbers are drawn: a simple random
sample without replacement, whichever block is looked at first.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import pyproj
import xarray as xr
from dask.delayed import delayed
from odc.geo.geobox import GeoBox

from misoxr.clusters import computed
from misoxr.cube.decode import decoded
from misoxr.errors import BandError
from misoxr.grid.footprints import DEGREES
from misoxr.grid.halo import in_blocks
from misoxr.grid.longitude import near
from misoxr.sampling.regions import Regions
from misoxr.spec.numbers import mixed

__all__ = [
    "Drawn",
    "Hashes",
    "Integers",
    "Layer",
    "Question",
    "SITES",
    "VALIDATION",
    "centres",
    "degrees_of",
    "hashed",
    "key_of",
    "layer_of",
    "least",
    "least_of_each",
    "over_blocks",
    "read",
    "strips",
]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Layer = npt.NDArray[np.float32]

SITES, VALIDATION = 0, 1
"""Purposes of a sample: places to learn from, and to validate."""
STRIP = 2**20
"""Pixels that have hashes at once."""
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
    width : int
        Columns of the map.
    places : array
        Numbers of pixels whose values are asked for, and that are not drawn; sorted.
    """

    count: int
    key: int
    width: int
    places: Integers


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


def read(
    layers: Mapping[str, xr.DataArray], question: Question, area: Regions | None = None
) -> tuple[Drawn, dict[str, Layer], dict[str, Layer]]:
    """Draw pixels that are valid in all layers, and compute: each chunk is read once.

    Parameters
    ----------
    layers : mapping of str to DataArray
        Lazy, (y, x) or (layer, y, x), of one grid; NaN is nodata.
    question : Question
        What to draw.
    area : Regions, optional
        Where pixels are drawn; everywhere without.

    Returns
    -------
    tuple
        What was drawn, and the layers' values by name: of the pixels that were drawn, and of those that were asked for.
    """
    arrays = [layer.data for layer in layers.values()]
    merge = partial(_merged, count=question.count)
    lazy = over_blocks(_block, arrays, merge, area, question=delayed(question, pure=True, traverse=False))
    (found,) = computed(lazy)
    assert isinstance(found, Drawn)
    return found, dict(zip(layers, found.values, strict=True)), dict(zip(layers, found.known_values, strict=True))


def over_blocks(function: Any, arrays: Sequence[da.Array], merge: Any, area: Regions | None = None, **about: Any) -> da.Array:
    """Let a function look at each block, and merge what it finds, a few blocks at once.

    Parameters
    ----------
    function : callable
        Takes numbers of rows and columns, which pixels lie in the area (None without one), and a block of each array; returns one object.
    arrays : sequence of dask array
        (y, x) or (layer, y, x); blocks are chunks of the first.
    merge : callable
        Takes a list of such objects, and returns one.
    area : Regions, optional
        Where to look.
    **about
        Passed on to the function.
    """
    rows, columns = arrays[0].chunks[-2:]
    places = [da.arange(sum(sizes), chunks=(sizes,), dtype="int64") for sizes in (rows, columns)]
    inside = None if area is None else area.lazily(*places) < len(area.names) - 1
    given: list[Any] = [places[0], ("y",), places[1], ("x",), inside, None if inside is None else ("y", "x")]
    for at, array in enumerate(arrays):
        sizes = {array.ndim - 2: rows, array.ndim - 1: columns} | ({0: -1} if array.ndim == 3 else {})
        given += [array.rechunk(sizes), (f"layer {at}", "y", "x") if array.ndim == 3 else ("y", "x")]
    options: Any = {"dtype": object, "meta": np.empty((0, 0), object), "adjust_chunks": {"y": 1, "x": 1}}
    parts = da.blockwise(function, ("y", "x"), *given, **about, concatenate=True, **options)
    last: Any = {"axis": (0, 1), "concatenate": False, "split_every": {0: SPLIT, 1: SPLIT}}
    merging = partial(_merging, merge=merge)
    found: da.Array = da.reduction(
        parts, chunk=_kept, combine=merging, aggregate=merging, dtype=object, meta=np.empty((), object), **last
    )
    return found


def _kept(part: Any, axis: Any, keepdims: bool) -> Any:
    return part


def _merging(parts: Any, axis: Any = None, keepdims: bool = True, *, merge: Any) -> Any:
    # Dask asks what comes of an empty array, too.
    return parts if isinstance(parts, np.ndarray) else merge(list(_flat(parts)))


def _flat(parts: Any) -> Iterator[Any]:
    if isinstance(parts, list):
        for part in parts:
            yield from _flat(part)
    else:
        yield parts


def _block(rows: Integers, columns: Integers, inside: npt.NDArray[np.bool_] | None, *layers: Layer, question: Question) -> Drawn:
    """Draw from one block, strip by strip."""
    parts = []
    for strip in strips(layers[0].shape):
        own = None if inside is None else inside[strip]
        parts.append(_strip(rows[strip], columns, own, [layer[..., strip, :] for layer in layers], question))
    return _merged(parts, question.count)


def _strip(rows: Integers, columns: Integers, inside: Any, layers: Sequence[Layer], question: Question) -> Drawn:
    each, valid = [], np.ones((len(rows), len(columns)), bool) if inside is None else inside.copy()
    for layer in layers:
        here = np.isfinite(layer) if layer.ndim == 2 else np.isfinite(layer).all(axis=0)
        each.append(int(here.sum()))
        valid &= here
    known, asked = _asked(question.places, rows, columns, question.width)
    valid.ravel()[asked] = False
    at = np.flatnonzero(valid)
    index = rows[at // len(columns)] * question.width + columns[at % len(columns)]
    hashes = hashed(index, question.key)
    chosen = least(hashes, question.count)
    values, known_values = (
        tuple(layer[..., places // len(columns), places % len(columns)] for layer in layers) for places in (at[chosen], asked)
    )
    return Drawn(len(at), np.array(each, "int64"), index[chosen], hashes[chosen], values, known, known_values)


def _asked(places: Integers, rows: Integers, columns: Integers, width: int) -> tuple[Integers, Integers]:
    """Return which of the places lie in a block, and where in it."""
    row, column = places // width, places % width
    inside = (row >= rows[0]) & (row <= rows[-1]) & (column >= columns[0]) & (column <= columns[-1])
    return places[inside], ((row - rows[0]) * len(columns) + column - columns[0])[inside]


def _merged(several: Sequence[Drawn], count: int) -> Drawn:
    """Merge draws: of all, the pixels with the least hashes."""
    hashes = np.concatenate([one.hashes for one in several])
    chosen = least(hashes, count)
    order = np.argsort(known := np.concatenate([one.known for one in several]))
    return Drawn(
        sum(one.valid for one in several),
        np.asarray(np.sum([one.each for one in several], axis=0)),
        np.concatenate([one.index for one in several])[chosen],
        hashes[chosen],
        _picked([one.values for one in several], chosen),
        known[order],
        _picked([one.known_values for one in several], order),
    )


def _picked(parts: Sequence[tuple[Layer, ...]], where: Any) -> tuple[Layer, ...]:
    """Return the values of each layer, of several draws, at places among all."""
    return tuple(np.concatenate(own, axis=-1)[..., where] for own in zip(*parts, strict=True))


def hashed(index: Integers, key: int) -> Hashes:
    """Return the random numbers of pixels: no two of them are alike."""
    with np.errstate(over="ignore"):
        return mixed(index.astype("uint64") * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key))


def key_of(seed: int, purpose: int) -> int:
    """Return the key of a seed's hash; samples of one seed for different purposes have nothing to do with each other."""
    return int(np.random.SeedSequence([seed, purpose]).generate_state(1, np.uint64)[0])


def least(hashes: Hashes, count: int) -> npt.NDArray[np.intp]:
    """Return where the least hashes are, from the least on."""
    near = np.argpartition(hashes, count)[:count] if len(hashes) > count else np.arange(len(hashes))
    order: npt.NDArray[np.intp] = near[np.argsort(hashes[near])]
    return order


def least_of_each(groups: Integers, hashes: Hashes, count: int) -> npt.NDArray[np.intp]:
    """Return where the least hashes of each group are: by group, from the least on."""
    own = [np.flatnonzero(groups == group) for group in np.flatnonzero(np.bincount(groups))]
    return np.concatenate([np.empty(0, np.intp), *[places[least(hashes[places], count)] for places in own]])


def strips(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield rows of a block that have few pixels together."""
    high = max(1, STRIP // max(shape[-1], 1))
    yield from (slice(first, min(first + high, shape[-2])) for first in range(0, shape[-2], high))


def centres(index: Integers, box: GeoBox) -> Floats:
    """Return the centres of numbered pixels, (pixel, [x, y])."""
    rows, columns = index // box.shape.x, index % box.shape.x
    affine = box.affine
    return np.column_stack([affine.c + affine.a * (columns + 0.5), affine.f + affine.e * (rows + 0.5)])


def degrees_of(xy: Floats, box: GeoBox) -> tuple[Floats, Floats]:
    """Return longitude, -180 to 180, and latitude (EPSG:4326) of places on a grid."""
    lon, lat = pyproj.Transformer.from_crs(str(box.crs), DEGREES, always_xy=True).transform(*xy.T)
    return near(lon, 0.0, 360.0), np.asarray(lat, dtype="float64")
