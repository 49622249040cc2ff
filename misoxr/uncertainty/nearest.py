"""How far pixels are from the nearest training point, and how many are near: exact, compiled, a few pixels at a time.

The product of a pixel's and a point's features, less half the square of the point's length, is the greater the nearer they are. In float32, with a bound of its
rounding, it tells which points may be the nearest, and which are within the limit for certain or perhaps. Where it does not tell, the distance is
computed in float64, by the plain formula: results are the same bits for any blocks and processors, and 0 for the same features.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from misoxr.covariates.flow import compiled

__all__ = ["nearest"]

TILE = 128
"""Pixels that are compared with a point at once: enough for the processor to take several in one step, few enough for its cache."""
ROUNDING = 2.0**-23
"""Twice the greatest share that one operation in float32 is off."""

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


@compiled
def nearest(values: Array, mean: Floats, factor: Floats, table: Floats, limit: float, least: Floats, count: Floats) -> None:
    """Find the squared distance of pixels to the nearest of some points, and how many are nearer than a limit.

    Parameters
    ----------
    values : ndarray (feature, pixel)
        Features of pixels, none of them missing.
    mean, factor : ndarray (feature,)
        What is taken from a feature, and what it is then multiplied by.
    table : ndarray (point, feature)
        The points' features, standardised so.
    limit : float
        Square of the distance below which points are counted.
    least, count : ndarray (pixel,)
        Filled in.
    """
    features, pixels = values.shape
    points = len(table)
    coarse, half = np.empty(table.shape, np.float32), np.empty(points, np.float32)
    longest = 0.0
    for point in range(points):
        length = 0.0
        for feature in range(features):
            coarse[point, feature] = table[point, feature]
            length += table[point, feature] ** 2
        half[point] = -0.5 * length
        longest = max(longest, length**0.5)
    tile, tile32 = np.empty((TILE, features)), np.empty((features, TILE), np.float32)
    product, cut = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    counted, nearer = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    square, best, near = np.empty(TILE), np.empty(TILE), np.empty(TILE)
    last = 0  # the nearest of the pixels before: it is near, too, and most others are passed over at once
    for start in range(0, pixels, TILE):
        for p in range(TILE):
            square[p], near[p] = 0.0, 0.0
            for feature in range(features):
                value = (np.float64(values[feature, min(start + p, pixels - 1)]) - mean[feature]) * factor[feature]
                tile[p, feature], tile32[feature, p] = value, value
                square[p] += value * value
            best[p] = _squared(tile[p], table[last])
            rounding = (features + 8) * ROUNDING * (square[p] ** 0.5 + longest) ** 2
            nearer[p] = 0.5 * (square[p] - best[p]) - rounding
            cut[p] = min(nearer[p], 0.5 * (square[p] - limit) - rounding)
            counted[p] = 0.5 * (square[p] - limit) + rounding
        for point in range(points):
            if _products(tile32, coarse[point], half[point], product, cut) == 0:
                continue
            for p in range(TILE):
                if product[p] < cut[p]:
                    continue
                if counted[p] <= product[p] < nearer[p]:  # within the limit for certain, and not the nearest
                    near[p] += 1.0
                    continue
                distance = _squared(tile[p], table[point])
                if distance < limit:
                    near[p] += 1.0
                if distance < best[p]:
                    best[p], last = distance, point
                    rounding = (features + 8) * ROUNDING * (square[p] ** 0.5 + longest) ** 2
                    nearer[p] = 0.5 * (square[p] - distance) - rounding
                    cut[p] = min(nearer[p], 0.5 * (square[p] - limit) - rounding)
        for p in range(min(TILE, pixels - start)):
            least[start + p], count[start + p] = best[p], near[p]


@njit(inline="always")
def _squared(one: Any, other: Any) -> Any:
    total = 0.0
    for feature in range(len(one)):
        step = one[feature] - other[feature]
        total += step * step
    return total


@njit(fastmath={"contract"})
def _products(tile: Any, point: Any, first: Any, product: Any, cut: Any) -> Any:
    """Multiply the features of pixels with a point's, and count the pixels that may be near. What is no number may be, too."""
    for p in range(TILE):
        product[p] = first
    features = len(point)
    feature = 0
    while features - feature >= 4:
        a, b, c, d = point[feature], point[feature + 1], point[feature + 2], point[feature + 3]
        for p in range(TILE):
            product[p] += (tile[feature, p] * a + tile[feature + 1, p] * b) + (tile[feature + 2, p] * c + tile[feature + 3, p] * d)
        feature += 4
    for rest in range(feature, features):
        for p in range(TILE):
            product[p] += tile[rest, p] * point[rest]
    within = 0
    for p in range(TILE):
        within += 0 if product[p] < cut[p] else 1
    return within
