"""How far pixels are from the nearest training point, and how many are near: exact, compiled, a few pixels at a time.

Features are standardised and turned to their principal axes, which leaves distances as they are. Distances then grow fast along the first
axes, and most training points are given up early: those that are neither nearest nor within the limit, whatever the other axes add.
No sum is expanded, so that distances of 0 come out as 0. Every sum has one order, so that results are the same bits for any blocks.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from misoxr.covariates.flow import compiled

__all__ = ["nearest", "turned"]

TILE = 32
"""Pixels compared at once, side by side in the processor's registers."""

Floats = npt.NDArray[np.float64]


@compiled
def turned(values: Any, first: int, mean: Floats, factor: Floats, axes: Floats, out: Floats) -> None:
    """Standardise features of a few pixels, and turn them to other axes.

    Parameters
    ----------
    values : ndarray (feature, pixel)
        Features of all pixels.
    first : int
        The first pixel that is asked for. Beyond the last one, the last is repeated.
    mean, factor : ndarray (feature,)
        What is taken from a feature, and what it is then multiplied by.
    axes : ndarray (axis, feature)
        Directions of length 1.
    out : ndarray (axis, pixel)
        Filled in.
    """
    features, last = values.shape[0], values.shape[1] - 1
    standard = np.empty(out.shape[1])
    for axis in range(out.shape[0]):
        for pixel in range(out.shape[1]):
            out[axis, pixel] = 0.0
    for feature in range(features):
        for pixel in range(out.shape[1]):
            standard[pixel] = (np.float64(values[feature, min(first + pixel, last)]) - mean[feature]) * factor[feature]
        for axis in range(out.shape[0]):
            part = axes[axis, feature]
            for pixel in range(out.shape[1]):
                out[axis, pixel] += part * standard[pixel]


@compiled
def nearest(
    values: Any,
    mean: Floats,
    factor: Floats,
    axes: Floats,
    table: Floats,
    limit: float,
    least: Floats,
    count: Floats,
) -> None:
    """Find the squared distance of pixels to the nearest of some points, and how many are nearer than a limit.

    Parameters
    ----------
    values : ndarray (feature, pixel)
        Features of pixels, none of them missing.
    mean, factor, axes : ndarray
        As for :func:`turned`.
    table : ndarray (point, axis)
        The points, standardised and turned.
    limit : float
        Square of the distance below which points are counted.
    least, count : ndarray (pixel,)
        Filled in.
    """
    pixels, (points, length) = values.shape[1], table.shape
    tile, total = np.empty((length, TILE)), np.empty(TILE)
    best, bound, near = np.empty(TILE), np.empty(TILE), np.empty(TILE)
    first_point = 0  # the nearest of the pixel before: it is near, too, and others are given up sooner
    for start in range(0, pixels, TILE):
        turned(values, start, mean, factor, axes, tile)
        for p in range(TILE):
            best[p], near[p] = 0.0, 0.0
        for axis in range(length):
            other = table[first_point, axis]
            for p in range(TILE):
                step = tile[axis, p] - other
                best[p] += step * step
        for p in range(TILE):
            best[p] *= 1.0 + 1e-12  # above the same distance in another order of its sum, which replaces it
            bound[p] = max(best[p], limit)
        for point in range(points):
            for p in range(TILE):
                total[p] = 0.0
            axis = 0
            while axis < length:
                if length - axis >= 4:
                    a, b, c, d = table[point, axis], table[point, axis + 1], table[point, axis + 2], table[point, axis + 3]
                    for p in range(TILE):
                        i, j, k, m = tile[axis, p] - a, tile[axis + 1, p] - b, tile[axis + 2, p] - c, tile[axis + 3, p] - d
                        total[p] += (i * i + j * j) + (k * k + m * m)
                    axis += 4
                else:
                    other = table[point, axis]
                    for p in range(TILE):
                        step = tile[axis, p] - other
                        total[p] += step * step
                    axis += 1
                if axis < length:
                    within = 0
                    for p in range(TILE):
                        within += 1 if total[p] <= bound[p] else 0
                    if within == 0:
                        break
            else:
                if total[0] <= best[0]:
                    first_point = point
                for p in range(TILE):
                    best[p] = min(best[p], total[p])
                    bound[p] = max(best[p], limit)
                    near[p] += 1.0 if total[p] < limit else 0.0
        for p in range(min(TILE, pixels - start)):
            least[start + p], count[start + p] = best[p], near[p]
