"""Reductions in time: median, mean, percentiles, count and geometric median of a block; what is not finite is missing."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from misoxr.cube.units import canonical
from misoxr.errors import BandError, SpecError, did_you_mean, note

__all__ = ["COUNTED", "Reduction", "reduce_time", "reduction_of", "refuse_units", "unknown"]

Cube = npt.NDArray[np.float32]
Image = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

TOLERANCE = 1e-7
"""Length of the last step of a geometric median, relative to the observations' mean distance from their mean."""
STEPS = 200
"""Most steps of a geometric median."""
NEAREST = 5
"""Every so many steps, the nearest observation is tried: it may be the geometric median itself."""
FEW = 0.7
"""Share of pixels that are left from which on they are searched without the others."""
SAME = 1e-13
"""Rounding: an observation as near is where the estimate is, relative as the tolerance; as little pull on it by each is none."""
SLAB = 100_000
"""Values that a geometric median is worked out of at a time; they stay in the processor's cache."""


def _percentile(values: Cube, percent: int) -> Image:
    """Infinity and NaN sort last, so ranks follow from the count of valid values (np.nanpercentile takes ten times as long).

    A pixel's values lie beside each other for the sort: many times of them sort in half the time.
    """
    ordered = np.array(np.moveaxis(values, 0, -1), order="C")  # a copy, which is sorted
    ordered.sort(axis=-1)
    if (ordered[..., 0] == -np.inf).any():  # rare, so that others do not pay for it
        ordered[ordered == -np.inf] = np.nan
        ordered.sort(axis=-1)
    count = np.count_nonzero(np.isfinite(values), axis=0)
    last = np.maximum(count - 1, 0)
    rank, rest = np.divmod(last * percent, 100)
    low, high = (np.take_along_axis(ordered, at[..., None], axis=-1)[..., 0] for at in (rank, np.minimum(rank + 1, last)))
    part = rest / 100
    with np.errstate(invalid="ignore"):  # infinity times 0
        found = np.where(rest == 0, low, low * (1 - part) + high * part)
    return np.asarray(np.where(count, found, np.nan), dtype="float32")


def _mean(values: Cube) -> Image:
    valid = np.isfinite(values)
    total = np.where(valid, values, 0).sum(axis=0, dtype="float64")
    count = valid.sum(axis=0)
    return np.asarray(np.where(count, total / np.maximum(count, 1), np.nan), dtype="float32")


def _count(values: Cube) -> Image:
    return np.asarray(np.count_nonzero(np.isfinite(values), axis=0), dtype="uint16")


# ---- the geometric median


def _geomedian(values: Cube) -> Image:
    """Return the point (band, y, x) with the least sum of distances to the observations (time, band, y, x) of each pixel.

    Only observations with all bands count. What does not converge is NaN, and a warning tells.
    """
    times, bands, height, width = values.shape
    if bands == 1:
        return _percentile(values, 50)
    found = np.empty(values.shape[1:], dtype="float32")
    lost, side = 0, max(1, SLAB // (times * bands))
    for row in range(height):
        for left in range(0, width, side):
            part = values[:, :, row, left : left + side].transpose(2, 0, 1)
            found[:, row, left : left + side], failed = _centres(np.array(part, dtype="float64", order="C"))
            lost += failed
    if lost:
        note(f"Pixels whose geometric median did not converge in {STEPS} steps are NaN; take a median there.")
    return found


def _centres(points: Doubles) -> tuple[Image, int]:
    """Return the geometric medians (band, pixel) of points (pixel, time, band), which are changed, and how many did not converge."""
    valid: Mask = np.asarray(np.isfinite(points).all(axis=-1))
    count = valid.sum(axis=-1)
    points[~valid] = 0
    middle = points.sum(axis=1) / np.maximum(count, 1)[:, None]
    points -= middle[:, None]
    points[~valid] = 0
    spread = np.sqrt(np.einsum("pnb,pnb->pn", points, points)).sum(axis=-1) / np.maximum(count, 1)
    shift, done = _search(points, valid, spread)
    centre = np.where((done & (count > 0))[:, None], middle + shift, np.nan)
    return centre.T.astype("float32"), int((~done).sum())


def _search(points: Doubles, valid: Mask, spread: Doubles) -> tuple[Doubles, Mask]:
    """Go from the mean, which is 0, to the geometric median: by Newton's steps, and where one leads up, by Weiszfeld's instead.

    A step of Weiszfeld's never leads up, but its length says little of the way that is left. The length of Newton's does, and ends the search.
    """
    found, done = np.zeros(points[:, 0].shape), np.zeros(len(points), bool)
    rows, tried = np.arange(len(points)), np.zeros(points[:, 0].shape)
    least, downward = np.full(len(points), np.inf), tried  # the least sum of distances so far, and where Weiszfeld leads from there
    for step in range(1, STEPS + 1):
        here = _view(points, valid, spread, tried)
        better = here.total <= least * (1 + 1e-12)
        short = ~here.on_one & (np.linalg.norm(here.newton, axis=-1) <= TOLERANCE * spread)
        ends = better & (here.is_centre | short) & ~done[rows]  # once: a pixel's answer does not depend on those beside it
        found[rows[ends]] = (tried + here.newton)[ends]
        done[rows[ends]] = True
        least = np.where(better, here.total, least)
        onward = here.nearest if step % NEAREST == 0 else tried + here.newton
        further = tried + here.weiszfeld
        tried, downward = (np.where(better[:, None], to, downward) for to in (onward, further))
        left = ~done[rows]
        if not left.any():
            break
        if left.mean() < FEW:
            rows, points, valid, spread = rows[left], points[left], valid[left], spread[left]
            tried, least, downward = tried[left], least[left], downward[left]
    return found, done


class _View(NamedTuple):
    """What a place among the observations of its pixel tells: the sum of distances, where to go, and the observation beside it."""

    total: Doubles
    on_one: Mask
    is_centre: Mask
    weiszfeld: Doubles
    newton: Doubles
    nearest: Doubles


def _view(points: Doubles, valid: Mask, spread: Doubles, place: Doubles) -> _View:
    """Look from a place (pixel, band) at points (pixel, time, band). Where it is an observation, the rule of Vardi and Zhang holds."""
    away = points - place[:, None]
    distance = np.sqrt(np.einsum("pnb,pnb->pn", away, away))
    apart = valid & (distance > SAME * spread[:, None])
    weight = np.divide(1, distance, out=np.zeros_like(distance), where=apart)
    pull = np.matmul(weight[:, None], away)[:, 0]
    weights = weight.sum(axis=-1)
    strength, here = np.linalg.norm(pull, axis=-1), (valid & ~apart).sum(axis=-1)
    is_centre = strength <= here + SAME * valid.sum(axis=-1)  # also between two, where nothing pulls
    weights = np.where(is_centre, 1, weights)  # there may be none
    weiszfeld = np.where(is_centre, 0, 1 - here / np.maximum(strength, 1e-300))[:, None] * pull / weights[:, None]
    scaled = away * (weight * np.sqrt(weight))[..., None]
    bend = -np.matmul(scaled.transpose(0, 2, 1), scaled)
    side = np.arange(bend.shape[1])
    bend[:, side, side] += weights[:, None] * (1 + 1e-12)
    on_one = here > 0
    newton = np.where(on_one[:, None], weiszfeld, np.linalg.solve(bend, pull[..., None])[..., 0])
    newton[is_centre] = 0
    nearest = points[np.arange(len(points)), np.where(valid, distance, np.inf).argmin(axis=-1)]
    return _View((distance * valid).sum(axis=-1), on_one, is_centre, weiszfeld, newton, nearest)


# ---- by name


class Reduction(NamedTuple):
    """How a cube is reduced in time.

    Attributes
    ----------
    work : callable
        Takes values (time, ..., y, x), and returns (..., y, x).
    together : bool
        Whether all bands are reduced at once, (time, band, y, x), as one depends on the others.
    empty : float
        What stands where there is no time at all.
    dtype : str
        Of the result.
    """

    work: Callable[[Cube], Image]
    together: bool = False
    empty: float = np.nan
    dtype: str = "float32"


METHODS: Mapping[str, Reduction] = MappingProxyType(
    {
        "median": Reduction(partial(_percentile, percent=50)),
        "mean": Reduction(_mean),
        "geomedian": Reduction(_geomedian, together=True),
        "count": Reduction(_count, empty=0, dtype="uint16"),
    }
    | {f"p{percent}": Reduction(partial(_percentile, percent=percent)) for percent in range(1, 100)}
)
"""How a cube is reduced in time, by name."""
COUNTED = {"standard_name": "number_of_observations", "units": "1"}
"""Attributes of counts, which are no values of the band."""
KNOWN = "'median', 'mean', 'geomedian', 'count', or a percentile from 'p1' to 'p99'"
"""What there is, in an error."""


def unknown(method: Any) -> str | None:
    """Say what there is instead of a method that is unknown; None where it is known."""
    if isinstance(method, str) and method in METHODS:
        return None
    return f"use {KNOWN}.{did_you_mean(str(method), METHODS)}"


def reduction_of(method: Any) -> Reduction:
    """Return the reduction of a name.

    Raises
    ------
    SpecError
        If it is unknown.
    """
    remedy = unknown(method)
    if remedy:
        raise SpecError(f"Unknown method {method!r} to reduce time; {remedy}")
    return METHODS[method]


def refuse_units(units: Mapping[str, Any], method: str) -> None:
    """Refuse to reduce bands of several units at once: what is the least sum of distances would depend on them.

    Raises
    ------
    BandError
        If there are several, or some bands have none.
    """
    found = {name: None if one is None else canonical(str(one)) for name, one in units.items()}
    if len(set(found.values())) > 1:
        raise BandError(
            f"{method!r} measures one distance over all bands, and these have the units {found}; reduce bands of one unit at a time, "
            "or write missing units down."
        )


def reduce_time(values: Cube, method: str) -> Image:
    """Reduce a block over its first axis, time; NaN and infinity are missing.

    Parameters
    ----------
    values : ndarray of float32, shape (time, ..., y, x); for "geomedian" (time, band, y, x)
        Values, NaN where nothing was observed. They are left as they are.
    method : {"median", "mean", "geomedian", "count", "p1" to "p99"}
        How to reduce, see Notes.

    Returns
    -------
    ndarray, shape (..., y, x)
        float32, NaN where no time is valid; "count" uint16.

    Raises
    ------
    SpecError
        If the method is unknown, or "geomedian" gets no bands.

    Notes
    -----
    Medians and percentiles are interpolated linearly between the two nearest ranks, as ``np.nanpercentile`` does. ``"count"`` is the number
    of valid times, 0 where there is none.

    The geometric median of all bands is the point with the least sum of Euclidean distances to a pixel's observations. An observation
    that lacks a band does not count. The search is Weiszfeld's iteration, made quicker by Newton's steps, in float64. It ends when a step is below 1e-7 of the
    observations' mean distance from their mean, or at an observation that is the point itself. Pixels that take more than 200 steps are NaN, with a
    warning. Of one band it is the median. If all observations lie on one line and their number is even, any point between the middle two
    is one.

    References
    ----------
    Weiszfeld (1937), Tohoku Math. J. 43; Vardi and Zhang (2000), PNAS 97, 1423-1426, for an estimate that is an observation; Roberts et al.
    (2017), IEEE TGRS 55, 6254-6264, for composites.

    Examples
    --------
    >>> from misoxr.cube.reductions import reduce_time
    >>> low = reduce_time(np.random.default_rng(0).random((20, 64, 64), dtype="float32"), "p10")
    """
    reduction = reduction_of(method)
    if reduction.together and values.ndim < 4:
        raise SpecError(f"The values have the shape {values.shape}, and {method!r} needs all bands: (time, band, y, x).")
    if len(values) == 0:
        return np.full(values.shape[1:], reduction.empty, dtype=reduction.dtype)
    return reduction.work(values)
