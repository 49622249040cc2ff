"""Topographic position: a cell's elevation less the mean of the disc around it, at one scale and at two.

At two scales, each is standardised by its mean and standard deviation over the whole raster. These moments are a reduction in the graph,
or given.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import numpy.typing as npt

from misoxr.clusters import computed
from misoxr.covariates.dem import cell_of, opened
from misoxr.covariates.moving import Doubles, Floats, by_rows, checked_radius, filled, in_windows
from misoxr.cube.join import Raster
from misoxr.errors import SpecError, gathered
from misoxr.grid.geobox import geobox_of
from misoxr.grid.halo import in_blocks
from misoxr.spec.numbers import is_number

__all__ = ["Moments", "lazy_moments", "multi_scale", "position_moments", "positions", "values_of"]

SMALL = 1
"""The smaller scale, cells."""
ROUNDING = 1e-13
"""Differences from the mean that are rounding, relative to the elevation."""


class Moments(NamedTuple):
    """Mean and standard deviation (population) of a raster's topographic position at two scales, m.

    Attributes
    ----------
    radius : int
        The greater scale, in cells; the smaller one is 1.
    small_mean, small_deviation : float
        At the smaller scale.
    large_mean, large_deviation : float
        At the greater one.
    """

    radius: int
    small_mean: float
    small_deviation: float
    large_mean: float
    large_deviation: float


@gathered
def position_moments(dem: Raster, *, radius: int = 4) -> Moments:
    """Compute the moments that standardise the multi-scale topographic position of a whole DEM.

    They depend on the raster's extent. Compute them once from the whole DEM, and give them to :func:`misoxr.covariates.terrain` for parts of
    it, or wherever terrain is computed in several goes, as ``to_zarr`` does.

    Parameters
    ----------
    dem : path, URL, DataArray or Dataset
        As for :func:`misoxr.covariates.terrain`; read once, chunk by chunk.
    radius : int, optional
        The greater scale, in cells.

    Returns
    -------
    Moments
        A named tuple of numbers: the radius, and mean and standard deviation (m) at either scale.

    Raises
    ------
    GridError, BandError, AssetError, SpecError
        As :func:`misoxr.covariates.terrain`.

    Examples
    --------
    >>> moments = misoxr.covariates.position_moments("dem.tif")
    >>> terrain = misoxr.covariates.terrain("dem.tif", moments=moments)
    """
    radius = checked_radius(radius)
    elevation = opened(dem)
    cell_of(geobox_of(elevation))
    (values,) = computed(lazy_moments(positions(filled(in_blocks(elevation).data, radius), radius)))
    return Moments(radius, *(float(value) for value in values))


def values_of(moments: Any, radius: int) -> da.Array:
    """Return given moments as an array of 4, or refuse what is none for this radius."""
    if not isinstance(moments, Moments) or not all(is_number(value) and math.isfinite(value) for value in moments):
        raise SpecError(f"moments is {moments!r}; give what misoxr.covariates.position_moments returns for the whole DEM.")
    if moments.radius != radius:
        raise SpecError(
            f"moments are of a radius of {moments.radius} cells, and radius is {radius}; give those of the same radius."
        )
    if min(moments.small_deviation, moments.large_deviation) < 0:
        raise SpecError(f"moments is {moments!r}; a standard deviation is not below 0.")
    given: da.Array = da.from_array(np.array(moments[1:], "float64"), chunks=-1)
    return given


def positions(cells: da.Array, radius: int) -> da.Array:
    """Return the topographic position at the scales of 1 cell and of a radius, m: (2, y, x), lazily.

    The disc has the cells whose centres lie within the radius, counted in cells, and the cell itself. At edges and beside nodata it is what
    there is of it.
    """
    return in_windows(partial(_positions, radius=radius), cells, radius, 2)


def _positions(z: Doubles, radius: int) -> Doubles:
    inner = radius - SMALL
    near = z[inner : z.shape[0] - inner, inner : z.shape[1] - inner]
    return np.stack([_above_mean(near, SMALL), _above_mean(z, radius)])


def _above_mean(z: Doubles, radius: int) -> Doubles:
    """Return cells less the mean of the disc around them."""
    here = np.isfinite(z)
    whole = bool(here.all())
    total = _disc(z if whole else np.where(here, z, 0.0), radius)
    count = _disc(np.ones((2 * radius + 1,) * 2), radius) if whole else _disc(here.astype("float64"), radius)
    middle = z[radius : z.shape[0] - radius, radius : z.shape[1] - radius]
    with np.errstate(invalid="ignore", divide="ignore"):
        # The sum of equal cells is their number times one of them, so that a plain is level.
        above = (middle * count - total) / count
        above[np.abs(above) <= ROUNDING * np.abs(middle)] = 0.0
    return above


def _disc(z: Doubles, radius: int) -> Doubles:
    """Return the sums over the discs around cells: of rows whose length is that of the disc there."""
    high, wide = (length - 2 * radius for length in z.shape)
    out = np.zeros((high, wide))
    line = z[:, radius : radius + wide].copy()
    half = 0
    for at in range(radius, -1, -1):  # from the disc's ends, which are short, to its middle
        while half < math.isqrt(radius**2 - at**2):
            half += 1
            line += z[:, radius - half : radius - half + wide]
            line += z[:, radius + half : radius + half + wide]
        out += line[radius - at : radius - at + high]
        if at:
            out += line[radius + at : radius + at + high]
    return out


def lazy_moments(positions: da.Array) -> da.Array:
    """Return mean and standard deviation at both scales, (4,), as a reduction in the graph."""
    counts = tuple((1,) * many for many in positions.numblocks[1:])
    parts = da.map_blocks(_parts, positions, chunks=((5,), *counts), dtype="float64", meta=np.empty((0, 0, 0)))
    found: da.Array = da.reduction(
        parts,
        chunk=_kept,
        combine=_merged,
        aggregate=_moments,
        axis=(1, 2),
        dtype="float64",
        split_every=16,
        meta=np.empty((0,)),
    )
    return found


def _parts(block: Floats) -> Doubles:
    """Return the number of a block's cells, and at both scales their mean and sum of squared deviations: (5, 1, 1)."""
    values = block.astype("float64")
    here = np.isfinite(values[0])
    count = int(here.sum())
    out = [float(count)]
    for scale in values:
        found = scale[here]
        mean = float(found.mean()) if count else 0.0
        out += [mean, float(((found - mean) ** 2).sum())]
    return np.reshape(out, (5, 1, 1))


def _kept(parts: Doubles, axis: Any, keepdims: bool) -> Doubles:
    return parts


def _merged(parts: Doubles, axis: Any = None, keepdims: bool = True) -> Doubles:
    """Merge the moments of blocks (5, ...) into one (5, 1, 1), as Chan et al. 1983 do."""
    count, *moments = parts.reshape(5, -1)
    total = count.sum()
    out = [total]
    for mean, squares in (moments[:2], moments[2:]):
        middle = (count * mean).sum() / max(total, 1.0)
        out += [middle, squares.sum() + (count * (mean - middle) ** 2).sum()]
    return np.reshape(out, (5, 1, 1))


def _moments(parts: Doubles, axis: Any, keepdims: bool) -> Doubles:
    count, *moments = _merged(parts).ravel().tolist()
    return np.array([moments[0], math.sqrt(moments[1] / max(count, 1)), moments[2], math.sqrt(moments[3] / max(count, 1))])


def multi_scale(positions: da.Array, moments: da.Array) -> da.Array:
    """Return the topographic position of two scales, (y, x), unit 1, lazily: the greater scale's, or the smaller one's where it is larger."""
    found: da.Array = da.blockwise(
        _multi_scale, "yx", positions, "lyx", moments, "m", concatenate=True, dtype="float32", meta=np.empty((0, 0), "float32")
    )
    return found


def _multi_scale(positions: Floats, moments: npt.NDArray[np.float64]) -> Floats:
    return by_rows(positions, function=partial(_greater, moments=moments))


def _greater(positions: Floats, moments: npt.NDArray[np.float64]) -> Doubles:
    small, large = (
        (scale.astype("float64") - mean) / deviation if deviation > 0 else scale * 0.0
        for scale, mean, deviation in zip(positions, moments[::2], moments[1::2], strict=True)
    )
    greater: Doubles = np.where(np.abs(small) > np.abs(large), small, large)
    return greater
