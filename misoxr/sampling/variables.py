"""Which variables of a dataset are covariates, and which tell what a map does not know; and the features that they become."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy.stats import rankdata

from misoxr.cube.decode import is_class
from misoxr.errors import BandError, did_you_mean

__all__ = ["covariates_of", "ranks", "standardised", "uncertainties_of", "uncertainty"]

Floats = npt.NDArray[np.float64]

ROUNDING = 1e-6
"""Deviation, relative to the values, that is rounding."""
KINDS = ("_entropy", "_set_size", "_std", "_probability")
"""What tells how little is known of a task, from the best on."""
ENDINGS = (
    *("_probability", "_entropy", "_std", "_location", "_location_probability"),
    *("_set", "_set_size", "_credibility", "_confidence", "_lower", "_upper"),
)
"""What the variables that stand beside a task's answer are called."""
BESIDE = ("dissimilarity_index", "local_point_density", "applicable", "excluded")
"""Variables of a map that belong to no task."""
KNOWING = ("_confidence", "_credibility", "local_point_density")
"""Variables that are large where much is known."""


def covariates_of(ds: xr.Dataset, by: Sequence[str] | None) -> list[str]:
    """Return the covariates: those named, or all continuous variables over y and x that are no answer of a model.

    Raises
    ------
    BandError
        If one is missing, or there is none.
    """
    if by is not None:
        return _known(ds, by)
    answers = set(_tasks(ds)) | {name for task in _tasks(ds) for name in (f"{task}{end}" for end in ENDINGS)} | set(BESIDE)
    found = [
        name
        for name, array in _maps(ds).items()
        if name not in answers
        and {*array.dims} <= {"feature", "y", "x"}
        and not is_class(name, array)
        and array.dtype.kind in "fiu"
    ]
    if not found:
        raise BandError(
            f"There are no covariates among {list(_maps(ds))}; name them in by=, or give the image beside the map: image.merge(maps)."
        )
    return found


def uncertainties_of(ds: xr.Dataset, by: Sequence[str] | None) -> list[str]:
    """Return the variables that tell what is not known: those named, or the dissimilarity and one for each task.

    Raises
    ------
    BandError
        If one is missing or tells no such thing, or there is none.
    """
    names = list(_maps(ds))
    if by is None:
        found = [name for name in ("dissimilarity_index",) if name in names]
        for task in _tasks(ds):
            found += [name for name in (f"{task}{kind}" for kind in KINDS) if name in names][:1]
        if not found:
            raise BandError(
                f"Nothing among {names} tells what the map does not know. Give a map with probabilities, "
                "<task>_entropy, <task>_std, <task>_set_size or dissimilarity_index, or name a variable in by=."
            )
        return found
    for name in _known(ds, by):
        if is_class(name, ds[name]) and not name.endswith("_set_size"):
            raise BandError(
                f"Variable {name!r} holds classes, which have no order; give what tells how sure they are, such as {name}_probability."
            )
    return list(by)


def _maps(ds: xr.Dataset) -> dict[str, xr.DataArray]:
    return {str(name): array for name, array in ds.data_vars.items() if {"y", "x"} <= set(array.dims)}


def _tasks(ds: xr.Dataset) -> list[str]:
    """Return the tasks that a map answers: class maps with probabilities, and values that have a spread or bounds beside them."""
    names = list(_maps(ds))
    return [
        name
        for name in names
        if ("flag_meanings" in ds[name].attrs and f"{name}_probability" in names)
        or any(f"{name}{end}" in names for end in ("_std", "_lower", "_upper"))
    ]


def _known(ds: xr.Dataset, by: Sequence[str]) -> list[str]:
    names = list(_maps(ds))
    for name in by:
        if name not in names:
            raise BandError(f"The dataset has no variable {name!r} over y and x; it has {names}.{did_you_mean(str(name), names)}")
    return list(by)


def uncertainty(name: str, values: npt.NDArray[np.float32]) -> Floats:
    """Return how little is known at pixels, from a variable (pixel,) or (class, pixel): greater is less, in no unit.

    A probability becomes 1 - the greatest. An empty set, which holds no class, counts more than the largest.
    """
    wide = np.asarray(values, dtype="float64")
    if name.endswith("_probability"):
        return np.asarray(1 - (np.maximum(wide, 1 - wide) if wide.ndim == 1 else wide.max(axis=0)), dtype="float64")
    if wide.ndim == 2:
        raise BandError(f"Variable {name!r} has a value for each class, and is no probability; give one value a pixel.")
    if name.endswith("_set_size"):
        return np.where(wide == 0, wide.max(initial=0) + 1, wide)
    return -wide if name.endswith(KNOWING) else wide


def ranks(values: Any) -> Floats:
    """Return which share of the pixels has less, 0 to 1; equal values have equal ranks."""
    return np.asarray((rankdata(values) - 0.5) / max(len(values), 1), dtype="float64")


def standardised(values: Mapping[str, Any], known: Mapping[str, Any], directions: Sequence[str]) -> tuple[Floats, Floats]:
    """Return features of pixels, and of those that are known: (pixel, feature), with mean 0 and deviation 1 over the former.

    A direction, in degrees, is its sine and cosine, which count half each; below 0 it is none, and both are 0. What does not vary is left out.

    Parameters
    ----------
    values, known : mapping of str to array
        By covariate, (pixel,) or (feature, pixel).
    directions : sequence of str
        Which of them are directions.

    Raises
    ------
    BandError
        If nothing varies.
    """
    columns, others = [], []
    for name, own in values.items():
        for one, other in zip(np.atleast_2d(own), np.atleast_2d(known[name]), strict=True):
            pairs = zip(_parts(one, name in directions), _parts(other, name in directions), strict=True)
            for part, beside in pairs:
                mean, deviation = part.mean(), part.std()
                if deviation > ROUNDING * max(abs(mean), np.finfo("float32").tiny):
                    scale = deviation * (2**0.5 if name in directions else 1.0)
                    columns.append((part - mean) / scale)
                    others.append((beside - mean) / scale)
    if not columns:
        raise BandError(f"The covariates {list(values)} have the same values at all pixels; give some that vary.")
    return np.stack(columns, axis=1), np.stack(others, axis=1)


def _parts(values: Any, direction: bool) -> list[Floats]:
    wide = np.asarray(values, dtype="float64")
    if not direction:
        return [wide]
    angle = np.deg2rad(wide)
    return [np.where(wide < 0, 0.0, part) for part in (np.sin(angle), np.cos(angle))]
