"""Inputs of a map that lie far outside what a model has learnt from, such as counts that stand for reflectance."""

import itertools
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Self
from uuid import uuid4

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.base import tokenize

from misoxr.clusters import in_task
from misoxr.cube.scaling import Scaling, valid_pixels
from misoxr.errors import MisoxrWarning, note
from misoxr.spec import ModelSpec

__all__ = ["FAR", "SHARE", "Ranges"]

FAR, SHARE = 1.0, 0.1
"""A value is far outside where it is beyond the limits by more than their distance; it is told where so many pixels of a block have such."""
LEAST, MOST = 100, 4096
"""Pixels that tell something, at the least, and about how many of a block are looked at."""

Array = npt.NDArray[Any]


class Range(NamedTuple):
    """The limits of a band in training, its 0.1 and 99.9 percentiles, and its place among the bands."""

    place: int
    name: str
    low: float
    high: float


class Ranges:
    """The ranges of a model's bands in training. It warns once, of the first block of a map of which much that is mapped lies far outside.

    It travels with the tasks of a map. Copies, as workers of a cluster have them, warn once a process, and the client shows it.
    """

    def __init__(self, bands: tuple[Range, ...], spec: ModelSpec | None = None) -> None:
        self.bands, self.spec, self._map = bands, spec, uuid4().hex
        self._calls: Iterator[int] | None = itertools.count()

    @classmethod
    def of(cls, spec: ModelSpec, scaling: Scaling | None, known: Mapping[str, Any] | None = None) -> Self:
        """Return the ranges that a scaling was fitted on, or without one those that are known by the bands' names.

        Directions, vectors and bands without limits have none.
        """
        limits = dict(known or {})
        for modality in spec.modalities if scaling is not None else ():
            one, channel = scaling.modalities[modality.name], 0  # type: ignore[union-attr]
            for band in modality.bands:
                limits[band.name] = one.lower[channel], one.upper[channel]
                channel += band.channels
        found = []
        for place, band in enumerate(spec.bands):
            low, high = limits.get(band.name, (np.nan, np.nan))
            if band.kind == "linear" and np.isfinite([low, high]).all() and low < high:
                found.append(Range(place, band.name, float(low), float(high)))
        return cls(tuple(found), spec)

    def __dask_tokenize__(self) -> Any:
        """Whether it has warned is no part of a map."""
        return tokenize(self.bands)

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what counts in this process alone."""
        return {**self.__dict__, "_calls": None}

    def watched(self, bands: da.Array) -> da.Array:
        """Return raw bands (band, y, x) as they are, each block of which is looked at when it is computed."""
        if not self.bands:
            return bands
        seen: da.Array = da.map_blocks(_passed, bands, ranges=self, dtype=bands.dtype, meta=bands._meta)
        return seen

    def look(self, values: Array) -> None:
        """Look at some pixels of raw bands (band, y, x), and warn where many lie far outside."""
        if not self.bands:
            return
        step = max(1, int((values[0].size / MOST) ** 0.5))
        seen = values[:, ::step, ::step]
        seen = seen if self.spec is None else seen[:, valid_pixels(self.spec, seen)]
        beyond = [(one, *self._beyond(one, seen[one.place])) for one in self.bands]
        told = [(one, share, value) for one, share, value in beyond if share > SHARE]
        if told and self._is_first():
            _warn(_words(told))

    @staticmethod
    def _beyond(one: Range, values: Array) -> tuple[float, float]:
        """Return the share of valid pixels that lie far outside, and their median."""
        values = values[np.isfinite(values)]
        far = FAR * (one.high - one.low)
        out = values[(values < one.low - far) | (values > one.high + far)]
        return (len(out) / len(values), float(np.median(out))) if len(out) and len(values) >= LEAST else (0.0, 0.0)

    def _is_first(self) -> bool:
        # Threads share the counter: only one of them gets the first number.
        return next(_calls(self._map) if self._calls is None else self._calls) == 0


def _passed(values: Array, ranges: Ranges) -> Array:
    ranges.look(values)
    return values


@lru_cache(maxsize=64)
def _calls(of: str) -> Iterator[int]:
    """Count how often a process that has copies alone was to warn of a map."""
    return itertools.count()


def _words(told: list[tuple[Range, float, float]]) -> str:
    first, _, value = max(told, key=lambda one: one[1])
    names, share = [one.name for one, *_ in told], max(share for _, share, _ in told)
    return (
        f"{names} lie far outside what the model has learnt from, in up to {share:.0%} of the pixels of a block: {first.name!r} is {value:.4g} there, "
        f"and was {first.low:.4g} to {first.high:.4g} in training. The map is not to be believed there. Check the units, scale and offset of the cube: "
        "reflectance may stand as counts."
    )


def _warn(message: str) -> None:
    """Warn here, or, in a worker of a cluster, where its client is."""
    if in_task():
        from distributed import warn

        warn(message, MisoxrWarning)
    else:
        note(message)
