"""Stratified estimators of ratios of totals, from sums over strata. Leading dimensions may hold many samples at once.

Every figure of a table of areas and accuracies is such a ratio (Stehman 2014):

- area: the area of a class, over the area of all;
- user's accuracy: the area that is right, over what is mapped as the class;
- producer's accuracy: the area that is right, over what is the class in truth.

Where strata are the map's classes and pixels are equal, these are the estimators of Olofsson et al. (2014).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

from misoxr.errors import SpecError, note
from misoxr.spec.numbers import is_number

__all__ = [
    "Cells",
    "Ratio",
    "checked_level",
    "degrees_of_freedom",
    "design_weights",
    "drawn_shares",
    "limits",
    "note_few",
    "ratio",
    "variance",
]

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

LARGE = 0.05
"""Sampled share of a stratum above which its size counts (Cochran 1977, Sampling techniques, 2.6)."""
FEW = 10
"""Sites of a region below which its interval is told to be poor."""


class Cells(NamedTuple):
    """A sample, counted by stratum and by what the sites are (cells, such as pairs of a map's class and the reference's).

    Attributes
    ----------
    sites : array (..., stratum, cell)
        Their number.
    area : array (..., stratum, cell)
        Sum of their pixels' areas.
    squares : array (..., stratum, cell)
        Sum of the squares of these.
    """

    sites: Floats
    area: Floats
    squares: Floats

    @classmethod
    def of_counts(cls, count: npt.ArrayLike, pixel: float = 1.0) -> "Cells":
        """Return cells of sites whose pixels have one area."""
        count = np.asarray(count, "float64")
        return cls(count, count * pixel, count * pixel**2)


class Ratio(NamedTuple):
    """Estimates (..., figure) and their variances; NaN where they are not defined."""

    value: Floats
    variance: Floats


def design_weights(cells: Cells, sizes: npt.ArrayLike, *, areas: npt.ArrayLike | None = None, total: float | None = None) -> Floats:
    """Return how much area each sampled square metre stands for, by stratum (..., stratum).

    Parameters
    ----------
    cells : Cells
        The sample.
    sizes : array (stratum,)
        Pixels of the strata.
    areas : array (stratum,), optional
        True areas of the strata, where they are known: each is met exactly (separate ratio estimator).
    total : float, optional
        True area of all strata together, where theirs are not known: it is met exactly (combined ratio estimator). Sizes then say how large
        the strata are beside each other.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        if areas is not None:
            return np.asarray(np.asarray(areas) / cells.area.sum(-1))
        plain = np.asarray(sizes) / cells.sites.sum(-1)
        return np.asarray(plain if total is None else plain * (total / (plain * cells.area.sum(-1)).sum(-1, keepdims=True)))


def drawn_shares(cells: Cells, sizes: npt.ArrayLike) -> Floats:
    """Return the share of each stratum's pixels that was sampled, (..., stratum): for :func:`variance`, and 0 where it is 5 % or less."""
    share = np.minimum(cells.sites.sum(-1) / np.asarray(sizes, "float64"), 1.0)
    return np.where(share > LARGE, share, 0.0)


def ratio(cells: Cells, weights: Floats, above: Flags, below: Flags, *, separate: bool, drawn: npt.ArrayLike = 0.0) -> Ratio:
    """Estimate ratios of the areas of two sets of cells.

    Parameters
    ----------
    cells : Cells
        The sample.
    weights : array (..., stratum)
        From :func:`design_weights`.
    above, below : array of bool (figure, cell)
        Which cells are counted above and below the line.
    separate : bool
        Whether the areas of strata are met exactly, so that deviations are from the mean of a stratum.
    drawn : array (..., stratum), optional
        From :func:`drawn_shares`.

    Notes
    -----
    V(R) = sum over strata of w_h^2 n_h (1 - f_h) s_h^2 / X^2. s_h^2 is the variance within a stratum of a (y - R x), a pixel's area times what is
    above less R times what is below. f_h is the share that was drawn. With equal pixels and f_h = 0 this is Stehman's
    W_h^2 (s_y^2 + R^2 s_x^2 - 2 R s_xy) / n_h / X^2.
    """
    top, bottom = (np.einsum("...h,...hc,ec->...e", weights, cells.area, which.astype("float64")) for which in (above, below))
    with np.errstate(invalid="ignore", divide="ignore"):
        value = top / bottom
    figure = above - value[..., None] * below  # (..., figure, cell)
    sums = np.einsum("...hc,...ec->...eh", cells.area, figure)
    squares = np.einsum("...hc,...ec->...eh", cells.squares, figure**2)
    if separate:
        # of areas times deviations from the stratum's mean by area: their sum is 0
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = sums / cells.area.sum(-1)[..., None, :]
        both = np.einsum("...hc,...ec->...eh", cells.squares, figure)
        squares = squares - 2 * mean * both + mean**2 * cells.squares.sum(-1)[..., None, :]
        sums = np.zeros_like(squares)
    drawn = np.asarray(drawn)[..., None, :] if np.ndim(drawn) else drawn
    found = variance(cells.sites.sum(-1)[..., None, :], sums, squares, weights[..., None, :], drawn)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Ratio(value, found / bottom**2)


def variance(count: Floats, sums: Floats, squares: Floats, weights: Floats, drawn: npt.ArrayLike = 0.0) -> Floats:
    """Return the variance of a sum over strata (the last axis) of weights times sums.

    Each stratum counts by the share that was not drawn. NaN where a stratum has one site, and is larger.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        within = np.maximum(squares - sums**2 / count, 0.0) / np.where(count > 1, count - 1, np.nan)
        left = 1 - np.asarray(drawn, "float64")
        return np.asarray(np.where(left > 0, weights**2 * count * left * within, 0.0).sum(-1))


def degrees_of_freedom(sites: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the degrees of freedom of a domain from its sites by stratum (..., stratum): sites less strata that occur, at least 1."""
    sites = np.asarray(sites, "int64")
    return np.asarray(np.maximum(sites.sum(-1) - (sites > 0).sum(-1), 1))


def note_few(sites: Mapping[str, int]) -> None:
    """Warn of regions whose few sites make their intervals poor."""
    few = [f"{name} ({count})" for name, count in sites.items() if 0 < count < FEW]
    if few:
        note(
            f"Regions have fewer than {FEW} sites: {', '.join(few[:10])}{', ...' if len(few) > 10 else ''}. Their intervals hold less often "
            "than they say; merge regions, or visit more sites there."
        )


def checked_level(level: Any) -> None:
    """Raise SpecError where a level of intervals is none."""
    if not is_number(level) or not 0 < level < 1:
        raise SpecError(f"level is {level!r}; give the share of intervals that hold the truth, such as 0.95.")


def limits(
    name: str,
    value: Floats,
    error: Floats,
    level: float,
    whole: float | None = None,
    *,
    degrees_of_freedom: npt.NDArray[np.int64] | int | None = None,
) -> dict[str, Floats]:
    """Return columns: estimates, their standard errors, and the ends of their intervals; of shares of a whole, within 0 and it.

    Intervals are those of the normal distribution, or of Student's with so many degrees of freedom.
    """
    reach = error * (ndtri((1 + level) / 2) if degrees_of_freedom is None else stdtrit(degrees_of_freedom, (1 + level) / 2))
    lower, upper = value - reach, value + reach
    if whole is not None:
        lower, upper = np.clip(lower, 0.0, whole), np.clip(upper, 0.0, whole)
    return {name: value, f"{name}_se": error, f"{name}_lower": lower, f"{name}_upper": upper}
