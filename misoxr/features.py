"""What a pixel's model sees: a pixel's bands, these and their surroundings, or its coordinates; on a map, and at points.

Features are (feature + 1, ...), NaN where missing; the last one is 1 where there is valid input, and 0 elsewhere.
"""

from functools import partial
from typing import Any, Literal

import dask.array as da
import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from misoxr.clusters import computed
from misoxr.scaling import Scaling, valid_pixels
from misoxr.spec import ModelSpec

__all__ = ["SIDES", "Features", "features", "features_at", "scaled", "values_at", "width"]

Array = npt.NDArray[np.float32]
Features = Literal["pixel", "surroundings", "coordinates"]
SIDES = (5, 15)
"""Sides of the squares whose means and standard deviations are a pixel's surroundings."""


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
    parts = [seen]
    if kind == "surroundings":
        parts += [
            da.map_overlap(partial(_around, side=side, spread=spread), seen, depth=(0, side // 2, side // 2), boundary="none")
            for side in SIDES
            for spread in (False, True)
        ]
    both: da.Array = da.concatenate([*parts, valid]).rechunk({0: -1})
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
    reach = max(SIDES) // 2 if kind == "surroundings" else 0
    around = _squares(bands, row, column, reach)
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
    return _channels(scaling, spec) * (1 + 2 * len(SIDES) if kind == "surroundings" else 1)


def _channels(scaling: Scaling | None, spec: ModelSpec) -> int:
    return len(spec.bands) if scaling is None else sum(modality.channels for modality in spec.modalities)


def _blockwise(function: Any, bands: da.Array, channels: int) -> da.Array:
    chunks = ((channels,), *bands.chunks[1:])
    found: da.Array = da.map_blocks(function, bands, chunks=chunks, dtype="float32", meta=np.empty((0,) * 3, "float32"))
    return found


def _squares(bands: da.Array, row: Any, column: Any, reach: int) -> da.Array:
    """Gather the square of pixels around each of N pixels: (N, side, side, band), NaN beyond the cube."""
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
    if kind == "surroundings":
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
        spread = np.sqrt((np.where(valid, values - mean[..., None, None], 0.0) ** 2).sum((-2, -1)) / count)
    return [mean, spread]


def _around(bands: Array, side: int, spread: bool) -> Array:
    """Mean, or standard deviation, of the valid pixels in the square around each pixel; NaN where there is none."""
    from scipy.ndimage import uniform_filter

    valid = np.isfinite(bands)
    values = np.where(valid, bands, 0.0).astype("float64")
    size = (0, side, side)
    share = uniform_filter(valid.astype("float64"), size, mode="constant")
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = uniform_filter(values, size, mode="constant") / share
        if spread:
            square = uniform_filter(values**2, size, mode="constant") / share
            mean = np.sqrt(np.maximum(square - mean**2, 0.0))
    mean[share < 0.5 / side**2] = np.nan
    return mean.astype("float32")
