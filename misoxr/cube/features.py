"""Features of scikit-learn estimators: a pixel's bands, focal statistics of its neighbourhood, or its coordinates.

Features are (feature + 1, ...), NaN where missing; the last one is 1 where there is valid input, and 0 elsewhere.
"""

from functools import partial
from typing import Any, Literal

import dask.array as da
import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from misoxr.clusters import computed
from misoxr.cube.scaling import Scaling, valid_pixels
from misoxr.spec import ModelSpec
from misoxr.spec.numbers import is_rounding

__all__ = [
    "SIDES",
    "Features",
    "feature_names",
    "features",
    "features_at",
    "features_in",
    "reach_of",
    "scaled",
    "squares_at",
    "values_at",
    "width",
]

Array = npt.NDArray[np.float32]
Features = Literal["pixel", "neighbourhood", "coordinates"]
SIDES = (5, 15)
"""Sides of the squares whose means and standard deviations are a pixel's neighbourhood."""


def features(kind: Features, scaling: Scaling | None, spec: ModelSpec, bands: da.Array, geobox: GeoBox) -> da.Array:
    """Return the features of stacked bands (band, y, x), lazily: (feature + 1, y, x)."""
    valid = _blockwise(partial(_valid, spec=spec), bands, 1)
    if kind == "coordinates":
        x, y = _coordinates(geobox, *(np.arange(length) for length in bands.shape[1:]))
        high, wide = bands.chunks[1:]
        lines = (da.from_array(x[None], chunks=(1, wide)), da.from_array(y[:, None], chunks=(high, 1)))
        grids = (da.broadcast_to(line, bands.shape[1:], chunks=(high, wide)) for line in lines)
        placed: da.Array = da.concatenate([da.stack(list(grids)), valid]).rechunk({0: -1})
        return placed
    seen = _blockwise(partial(scaled, spec=spec, scaling=scaling), bands, _channels(scaling, spec))
    around = []
    if kind == "neighbourhood":
        around = [_overlapping(partial(_around, side=side), seen, side // 2) for side in SIDES]
    both: da.Array = da.concatenate([seen, *around, valid]).rechunk({0: -1})
    return both


def features_at(
    kind: Features,
    scaling: Scaling | None,
    spec: ModelSpec,
    bands: da.Array,
    geobox: GeoBox,
    rows: npt.ArrayLike,
    columns: npt.ArrayLike,
) -> da.Array:
    """Return what :func:`features` has at the pixels that hold positions, lazily and from the pixels around them alone.

    Parameters
    ----------
    rows, columns : array_like (point,)
        Fractional positions in the cube, a pixel's centre at +0.5; all inside.

    Returns
    -------
    dask array (feature + 1, point)
    """
    row, column = (np.floor(np.asarray(part)).astype("int64") for part in (rows, columns))
    around = squares_at(bands, row, column, reach_of(kind))
    own = 0 if kind == "coordinates" else width(kind, scaling, spec)
    table: da.Array = da.map_blocks(
        partial(_table, kind=kind, scaling=scaling, spec=spec),
        around,
        drop_axis=[1, 2],
        chunks=(around.chunks[0], (own + 1,)),
        dtype="float32",
        meta=np.empty((0, 0), "float32"),
    ).T
    if kind != "coordinates":
        return table
    placed = da.from_array(np.stack(_coordinates(geobox, row, column)), chunks=(2, around.chunks[0]))
    both: da.Array = da.concatenate([placed, table]).rechunk({0: -1})
    return both


def reach_of(kind: str) -> int:
    """Return how many pixels around its own a pixel's features are made of."""
    return max(SIDES) // 2 if kind == "neighbourhood" else 0


def features_in(
    kind: Features,
    scaling: Scaling | None,
    spec: ModelSpec,
    squares: Array,
    geobox: GeoBox,
    rows: npt.ArrayLike,
    columns: npt.ArrayLike,
) -> Array:
    """Compute what :func:`features_at` has from squares of raw bands (point, side, side, band): (feature + 1, point).

    The squares reach :func:`reach_of` pixels to each side, NaN beyond the cube.
    """
    table = _table(squares, kind, scaling, spec).T
    if kind != "coordinates":
        return table
    row, column = (np.floor(np.asarray(part)).astype("int64") for part in (rows, columns))
    return np.concatenate([np.stack(_coordinates(geobox, row, column)), table]).astype("float32")


def values_at(bands: da.Array, rows: npt.ArrayLike, columns: npt.ArrayLike) -> Array:
    """Compute layers (layer, y, x) at the pixels that hold positions, in the chunks that hold them only: (layer, point)."""
    row, column = (np.floor(np.asarray(part)).astype("int64") for part in (rows, columns))
    (picked,) = computed(bands.vindex[:, row, column])
    values: Array = picked.T
    return values


def width(kind: Features, scaling: Scaling | None, spec: ModelSpec) -> int:
    """Return how many features there are."""
    if kind == "coordinates":
        return 2
    return _channels(scaling, spec) * (1 + 2 * len(SIDES) if kind == "neighbourhood" else 1)


def feature_names(kind: Features, scaling: Scaling | None, spec: ModelSpec) -> tuple[str, ...]:
    """Return what features are called: bands, or a modality's channels where they are scaled; and behind them their moments in squares.

    These are ``<name>_mean_5``, ``<name>_std_5`` and so on, of squares of 5 x 5 and 15 x 15 pixels.
    """
    if kind == "coordinates":
        return "x", "y"
    own = [band.name for band in spec.bands]
    if scaling is not None:
        own = [f"{modality.name}_{number}" for modality in spec.modalities for number in range(modality.channels)]
    around = [f"{name}_{moment}_{side}" for side in SIDES for moment in ("mean", "std") for name in own]
    return *own, *(around if kind == "neighbourhood" else ())


def _channels(scaling: Scaling | None, spec: ModelSpec) -> int:
    return len(spec.bands) if scaling is None else sum(modality.channels for modality in spec.modalities)


def _blockwise(function: Any, bands: da.Array, channels: int) -> da.Array:
    chunks = ((channels,), *bands.chunks[1:])
    found: da.Array = da.map_blocks(function, bands, chunks=chunks, dtype="float32", meta=np.empty((0,) * 3, "float32"))
    return found


def _overlapping(function: Any, bands: da.Array, reach: int) -> da.Array:
    """Apply a function, which gives each band twice, to blocks that reach into each other."""
    blocks = da.overlap.overlap(bands, {1: reach, 2: reach}, "none")
    found: da.Array = da.overlap.trim_internal(_blockwise(function, blocks, 2 * len(bands)), {1: reach, 2: reach}, "none")
    return found


def squares_at(bands: da.Array, row: Any, column: Any, reach: int) -> da.Array:
    """Gather the square of pixels around each of N pixels, lazily: (N, side, side, band), NaN beyond the cube."""
    offset = np.arange(-reach, reach + 1)
    rows, columns = np.broadcast_arrays(row[:, None, None] + offset[:, None], column[:, None, None] + offset)
    height, width = bands.shape[1:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    found = bands.vindex[:, rows.clip(0, height - 1), columns.clip(0, width - 1)]
    found = found.rechunk((max(1, 2**20 // (bands.shape[0] * len(offset) ** 2)), -1, -1, -1))
    there = da.from_array(inside[..., None], chunks=(found.chunks[0], -1, -1, -1))
    squares: da.Array = da.where(there, found, np.float32(np.nan))
    return squares


def _table(squares: Array, kind: Features, scaling: Scaling | None, spec: ModelSpec) -> Array:
    """Turn squares (N, side, side, band) into features (N, feature + 1); of coordinates, the last one alone."""
    bands, reach = np.moveaxis(squares, -1, 0), squares.shape[1] // 2
    valid = _valid(bands[..., reach, reach], spec)
    if kind == "coordinates":
        return valid.T
    seen = scaled(bands, spec, scaling)
    parts = [seen[..., reach, reach]]
    if kind == "neighbourhood":
        for side in SIDES:
            part = slice(reach - side // 2, reach + side // 2 + 1)
            parts += _moments(seen[..., part, part])
    return np.concatenate([*parts, valid]).T.astype("float32")


def _valid(bands: Array, spec: ModelSpec) -> Array:
    return valid_pixels(spec, bands)[None].astype("float32")


def _coordinates(geobox: GeoBox, rows: Any, columns: Any) -> tuple[Any, Any]:
    affine = geobox.affine
    return affine.c + affine.a * (columns + 0.5), affine.f + affine.e * (rows + 0.5)


def scaled(bands: Array, spec: ModelSpec, scaling: Scaling | None) -> Array:
    """Scale as for the network, where there is a scaling; a pixel without any band stays missing."""
    if scaling is None:
        return np.where(np.isfinite(bands), bands, np.nan)
    scaled = np.concatenate(list(scaling.apply(spec, bands).values()))
    scaled[:, ~np.isfinite(bands).any(axis=0)] = np.nan
    return scaled


def _moments(squares: Array) -> list[Array]:
    """Mean and standard deviation of the valid pixels of squares (..., side, side), NaN where there is none."""
    valid = np.isfinite(squares)
    values, count = np.where(valid, squares, 0.0).astype("float64"), valid.sum((-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = values.sum((-2, -1)) / count
        squares = (np.where(valid, values - mean[..., None, None], 0.0) ** 2).sum((-2, -1))
        return [mean, _spread(mean, squares, count)]


def _spread(mean: Any, squares: Any, count: Any) -> Any:
    """Standard deviation from a mean, a sum of squared deviations and a count; 0 where it is rounding of the values."""
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt(squares / count)
    return np.where(is_rounding(spread, np.abs(mean), "float32"), 0.0, spread)


def _around(bands: Array, side: int) -> Array:
    """Means (band, y, x) and, behind them, standard deviations of the valid pixels in the square around each; NaN where none is."""
    reach = side // 2
    out = np.empty((2, *bands.shape), "float32")
    for values, means, spreads in zip(
        np.pad(bands, [(0, 0), (reach, reach), (reach, reach)], constant_values=np.nan), *out, strict=True
    ):
        valid = np.isfinite(values)
        moments = valid.astype("float64"), np.where(valid, values, 0.0).astype("float64"), np.zeros(values.shape)
        for _ in range(2):  # down, then across
            moments = tuple(part.T for part in _in_windows(moments, side))
        count, mean, squares = moments
        mean[count == 0] = np.nan
        means[...], spreads[...] = mean, _spread(mean, squares, count)
    return out.reshape(-1, *bands.shape[1:])


Moments = tuple[Any, Any, Any]
"""Counts, means, and sums of squared deviations from these."""


def _in_windows(moments: Moments, side: int) -> Moments:
    """Merge the moments of each ``side`` rows that follow each other, from those of half as many."""
    if side == 1:
        return moments
    half = side // 2
    part = _in_windows(moments, half)
    both = _merged(_rows(part, None, -half), _rows(part, half, None))
    return both if side % 2 == 0 else _merged(_rows(both, None, -1), _rows(moments, side - 1, None))


def _rows(moments: Moments, start: int | None, stop: int | None) -> Moments:
    count, mean, squares = (part[start:stop] for part in moments)
    return count, mean, squares


def _merged(one: Moments, other: Moments) -> Moments:
    """Merge moments of pixels that are apart, without squares of the values themselves: these leave nothing of small deviations.

    References
    ----------
    Chan et al. 1983, "Algorithms for computing the sample variance", The American Statistician 37, 242-247.
    """
    count, step = one[0] + other[0], other[1] - one[1]
    share = other[0] / np.maximum(count, 1.0)
    return count, one[1] + step * share, one[2] + other[2] + step**2 * one[0] * share
