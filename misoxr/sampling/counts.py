"""Count a map block by block: pixels, true areas, and sums of probabilities or values, by region and class.

All sums are of whole numbers, which Python adds without end or rounding. So they are the same for any chunks, scheduler and order.
"""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr.clusters import computed
from misoxr.errors import GridError, SpecError
from misoxr.grid.geobox import geobox_of
from misoxr.grid.pixel_areas import PARTS, PixelAreas
from misoxr.sampling.classes import Legend
from misoxr.sampling.regions import Regions, regions_on

__all__ = ["UNITS", "Ground", "checked_unit", "class_sums", "fills_in", "mean_of", "read_once", "value_sums"]

Array = npt.NDArray[Any]

UNITS = {"km2": 1e6, "ha": 1e4, "m2": 1.0}
"""Square metres of each unit of area."""
PIECE = 2**20
"""Pixels that are summed at once: so many parts of an area are a whole number that a float64 holds exactly."""
DIGITS = 24
"""Binary digits of a float32."""
LEAST = 200
"""Sums of values are whole numbers of 2 ** -LEAST."""
POWERS = 512
"""Powers of two that values may have, half of them negative."""


def checked_unit(unit: Any) -> float:
    """Return the square metres of a unit of area.

    Raises
    ------
    SpecError
        If it is not known.
    """
    if unit not in UNITS:
        raise SpecError(f"unit is {unit!r}; give one of {list(UNITS)}.")
    return UNITS[unit]


class Ground(NamedTuple):
    """A map's grid, the areas of its pixels, and the regions on it."""

    geobox: GeoBox
    areas: PixelAreas
    regions: Regions | None

    @classmethod
    def of(cls, array: xr.DataArray | xr.Dataset, by: Any = None) -> "Ground":
        """Return the grid of a map, and put regions on it.

        Raises
        ------
        GridError, SpecError, PointsError
            As :func:`misoxr.grid.geobox.geobox_of` and :func:`misoxr.sampling.regions.regions_on`.
        """
        geobox = geobox_of(array)
        return cls(geobox, PixelAreas.of(geobox), None if by is None else regions_on(by, geobox))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the regions; the last is what lies in none. One, "", where there are no regions."""
        return ("",) if self.regions is None else self.regions.names

    def places(self, array: da.Array) -> tuple[da.Array, da.Array, da.Array | None]:
        """Return the rows and columns of a map's pixels, and their regions (y, x), in the map's chunks."""
        rows, columns = (
            da.arange(size, chunks=(sizes,), dtype="int64") for size, sizes in zip(array.shape[-2:], array.chunks[-2:], strict=True)
        )
        return rows, columns, None if self.regions is None else self.regions.lazily(rows, columns)


def class_sums(codes: da.Array, legend: Legend, ground: Ground, probability: da.Array | None = None) -> da.Array:
    """Count a class map, lazily.

    Parameters
    ----------
    codes : dask array (y, x)
        The map.
    legend : Legend
        Its classes.
    ground : Ground
        Its grid.
    probability : dask array, optional
        (y, x) of the class with the greater of two codes, or (class, y, x) in the order of the legend.

    Returns
    -------
    dask array of object, (3, region, class + 2)
        Pixels; their area and expected area, in parts of the largest pixel. Behind the classes are nodata and what is no class.
    """
    rows, columns, regions = ground.places(codes)
    shape = (3, len(ground.names), len(legend.names) + 2)
    arrays: list[Any] = [codes, "yx", rows, "y", columns, "x", regions, None if regions is None else "yx"]
    if probability is not None:
        probability = probability.rechunk({0: -1}) if probability.ndim == 3 else probability
        arrays += [probability, "cyx" if probability.ndim == 3 else "yx"]
    return _summed(_class_sums, arrays, shape, legend=legend, areas=ground.areas)


def value_sums(values: da.Array, ground: Ground) -> da.Array:
    """Sum a map of values, lazily.

    Returns
    -------
    dask array of object, (3, region, 1)
        Pixels with a value; their area in parts of the largest pixel; and the sum of value times area, see :func:`mean_of`.
    """
    rows, columns, regions = ground.places(values)
    arrays: list[Any] = [values, "yx", rows, "y", columns, "x", regions, None if regions is None else "yx"]
    return _summed(_value_sums, arrays, (3, len(ground.names), 1), areas=ground.areas)


def fills_in(values: da.Array, fills: Sequence[float]) -> da.Array:
    """Count fill values in a map, lazily.

    Returns
    -------
    dask array of float, (fill + 2,)
        Pixels with each; then the least and the greatest of all others, infinite where there are none.
    """
    many = len(fills) + 2
    parts = da.blockwise(
        _block_fills,
        "yxl",
        values,
        "yx",
        fills=fills,
        new_axes={"l": many},
        adjust_chunks={"y": 1, "x": 1},
        dtype="float64",
        meta=np.empty((0,) * 3),
    )
    options: Any = {"axis": (0, 1), "dtype": "float64", "split_every": 16, "meta": np.empty(0)}
    total: da.Array = da.reduction(parts, chunk=_same, combine=_fills_joined, aggregate=_fills_joined, **options)
    return total


def read_once(
    sums: da.Array, array: da.Array, ground: Ground, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp], *more: da.Array
) -> tuple[Any, ...]:
    """Compute the sums of a map, and with them its values at pixels, the regions of these, and what more is lazy."""
    *_, regions = ground.places(array)
    at = da.zeros(len(rows), dtype=np.intp) if regions is None else regions.vindex[rows, columns]
    found, values, of, *others = computed(sums, array.vindex[rows, columns], at, *more)
    return found, values, of.astype(np.intp), *others


def mean_of(total: int, parts: int) -> float:
    """Return the mean value of an area: of a sum of values, and of areas."""
    return math.nan if parts == 0 else float(Fraction(int(total) * PARTS, int(parts) * 2**LEAST))


def _summed(function: Any, arrays: list[Any], shape: tuple[int, int, int], **about: Any) -> da.Array:
    """Let a function sum each block (1, 1, *shape), and add the blocks up."""
    meta = np.empty((0,) * 5, object)
    new = dict(zip("lmn", shape, strict=True))
    parts = da.blockwise(
        function,
        "yxlmn",
        *arrays,
        **about,
        shape=shape,
        new_axes=new,
        adjust_chunks={"y": 1, "x": 1},
        concatenate=True,
        dtype=object,
        meta=meta,
    )
    options: Any = {"axis": (0, 1), "dtype": object, "split_every": 16, "meta": np.empty((0,) * 3, object)}
    total: da.Array = da.reduction(parts, chunk=_same, combine=_added, aggregate=_added, **options)
    return total


def _same(parts: Array, axis: Any, keepdims: bool) -> Array:
    return parts


def _added(parts: Array, axis: Any, keepdims: bool) -> Array:
    return np.asarray(parts.sum(axis=axis, keepdims=keepdims))


def _class_sums(
    codes: Array,
    rows: Array,
    columns: Array,
    regions: Array | None,
    probability: Array | None = None,
    *,
    legend: Legend,
    areas: PixelAreas,
    shape: tuple[int, int, int],
) -> Array:
    out = np.zeros(shape, object)
    _, many, kinds = shape
    for high, wide in _pieces(codes.shape):
        number = legend.numbers(codes[high, wide])
        region = np.zeros(number.shape, np.intp) if regions is None else regions[high, wide].astype(np.intp)
        index = (region * kinds + number).ravel()
        pixels, parts = _counted(index, None, many, kinds), _parts(areas, rows[high], columns[wide], number < kinds - 2)
        out[0] += pixels
        out[1] += pixels * PARTS if parts is None else _counted(index, parts.ravel(), many, kinds)
        if probability is not None:
            layers = probability[..., high, wide]
            both = layers if layers.ndim == 3 else (1 - layers, layers)[:: 1 if legend.codes[0] < legend.codes[-1] else -1]
            for at, layer in enumerate(both):
                whole = np.rint(np.nan_to_num(layer.astype("float64")) * (PARTS if parts is None else parts))
                out[2, :, at] += _counted(region.ravel(), whole.ravel(), many, 1)[:, 0]
    return out[None, None]


def _value_sums(
    values: Array, rows: Array, columns: Array, regions: Array | None, *, areas: PixelAreas, shape: tuple[int, int, int]
) -> Array:
    out = np.zeros(shape, object)
    for high, wide in _pieces(values.shape):
        here = values[high, wide].astype("float64")
        valid = np.isfinite(here)
        which = np.zeros(int(valid.sum()), np.intp) if regions is None else regions[high, wide][valid].astype(np.intp)
        pixels, parts = _counted(which, None, shape[1], 1), _parts(areas, rows[high], columns[wide], valid)
        out[0] += pixels
        out[1] += pixels * PARTS if parts is None else _counted(which, parts[valid], shape[1], 1)
        weighted = here[valid] if parts is None else here[valid] * (parts[valid] / PARTS)
        coarse = weighted.astype("float32")
        out[2, :, 0] += _added_up(which, coarse, shape[1]) + _added_up(which, (weighted - coarse).astype("float32"), shape[1])
    return out[None, None]


def _block_fills(values: Array, *, fills: Sequence[float]) -> Array:
    known = values[np.isfinite(values)]
    counts = np.zeros(len(fills))
    low, high = known.min(initial=np.inf), known.max(initial=-np.inf)
    with np.errstate(over="ignore"):  # in half precision, large ones are infinite, and none of the values
        own = np.asarray(fills, values.dtype)
    for at, fill in enumerate(own):
        if low <= fill <= high:
            is_fill = known == fill
            counts[at] = is_fill.sum()
            known = known[~is_fill] if counts[at] else known
    ends = known.min(initial=np.inf), known.max(initial=-np.inf)
    return np.array([*counts, *ends], "float64")[None, None]


def _fills_joined(parts: Array, axis: Any, keepdims: bool) -> Array:
    ends = parts[..., -2:-1].min(axis=axis, keepdims=keepdims), parts[..., -1:].max(axis=axis, keepdims=keepdims)
    return np.concatenate([parts[..., :-2].sum(axis=axis, keepdims=keepdims), *ends], axis=-1)


def _pieces(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and columns of pieces of a block that have few pixels."""
    high = max(1, PIECE // max(shape[1], 1))
    for top in range(0, shape[0], high):
        yield from ((slice(top, top + high), slice(left, left + PIECE)) for left in range(0, shape[1], PIECE))


def _parts(areas: PixelAreas, rows: Array, columns: Array, valid: Array) -> Array | None:
    """Return the areas of pixels in parts of the largest; None where all are equal."""
    if areas.even:
        return None
    parts = np.broadcast_to(areas.parts(rows[:, None], columns[None]), valid.shape)
    nowhere = np.isnan(parts)
    if (nowhere & valid).any():
        raise GridError("Pixels of the map with a value do not lie on Earth, by the map's CRS; cut the map to where they do.")
    return np.where(nowhere, 0.0, parts)


def _counted(index: Array, weights: Array | None, many: int, kinds: int) -> Array:
    """Return how many pixels, or whole parts of area, belong to each region and class, as Python's integers."""
    found = np.bincount(index, weights, minlength=many * kinds)
    whole = np.array([int(one) for one in found], object)
    return whole.reshape(many, kinds)


def _added_up(which: Array, values: npt.NDArray[np.float32], many: int) -> Array:
    """Return the exact sum of float32 in each region, as a whole number of 2 ** -LEAST: power by power of two."""
    if not values.any():
        return np.zeros(many, object)
    mantissa, power = np.frexp(values)
    index = which * POWERS + (power + POWERS // 2)
    found = np.bincount(index, np.ldexp(mantissa.astype("float64"), DIGITS), minlength=many * POWERS).reshape(many, POWERS)
    out = np.zeros(many, object)
    for region, at in np.argwhere(found):
        out[region] += int(found[region, at]) << int(at) - POWERS // 2 - DIGITS + LEAST
    return out
