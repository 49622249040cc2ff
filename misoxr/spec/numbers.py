"""Numbers among arguments, of which True and False are none, and numbers by name; deviations that are rounding; and hashes."""

from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt

from misoxr.errors import SpecError

__all__ = ["alike", "by_name", "in_full", "is_number", "is_rounding", "is_whole", "mixed"]

STEPS = 4
"""Steps between neighbouring floats, within which a deviation is rounding: a value goes through a few operations before it is met."""
ENDLESS = 1e30
"""Nothing measured is as large. Nodata values beyond it are often written with fewer digits than the values have."""
SAME = 5e-7
"""Relative difference of floats that are the same number in single precision."""


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number, Python's or NumPy's."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether a value is a real number, Python's or NumPy's."""
    return isinstance(value, Real) and not isinstance(value, bool)


def in_full(number: float) -> str:
    """Write a number with all its digits, such as "-9999": a line with a rounded fill value would not find it."""
    return repr(float(number)).removesuffix(".0")


def by_name(values: Any, what: str) -> Any:
    """Return a Series by its index, or an array along one dimension by its coordinate, as a mapping; anything else as it is.

    Raises
    ------
    SpecError
        If a name occurs twice.
    """
    # By what they have: neither pandas nor xarray is imported here, for the network knows none of them.
    if hasattr(values, "to_series") and len(getattr(values, "dims", ())) == 1 and values.dims[0] in values.coords:
        values = values.to_series()
    if not hasattr(values, "index") or not hasattr(values, "to_dict") or values.ndim != 1:
        return values
    if values.index.has_duplicates:
        raise SpecError(f"{what} has {values.index[values.index.duplicated()][0]!r} twice in its index; give each name once.")
    return values.to_dict()


def is_rounding(deviation: npt.ArrayLike, size: npt.ArrayLike, dtype: str) -> Any:
    """Return whether a deviation is no larger than rounding explains, for values of a given size and type.

    Parameters
    ----------
    deviation : array_like
        Standard deviations, or other differences.
    size : array_like
        Magnitude of the values that deviate, in the same units.
    dtype : {"float32", "float64"}
        The type with the coarsest steps that the values went through.
    """
    info = np.finfo(dtype)
    return np.asarray(deviation) <= np.maximum(STEPS * float(info.eps) * np.asarray(size), float(info.tiny))


def alike(values: npt.NDArray[np.floating[Any]], value: float) -> Any:
    """Return which floats are a nodata value, however many digits it was written with."""
    if abs(value) >= ENDLESS:
        return np.abs(values) >= ENDLESS
    return np.abs(values - np.asarray(value, values.dtype)) <= abs(value) * SAME


def mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return hashes of 64-bit numbers: no two of them are alike.

    References
    ----------
    SplitMix64: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", OOPSLA.
    """
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))
