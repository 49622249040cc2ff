"""Feature-space coverage: sites from which no pixel is far, in a space of features, by k-means.

References
----------
Brus 2019, "Sampling for digital soil mapping: a tutorial supported by R scripts", Geoderma 338, 464-480: sites are the pixels nearest to the
centres of k-means, and sites that exist are centres that stay. Zhdanov 2019, "Diverse mini-batch active learning", arXiv 1901.05954: pixels weigh as
much as they are uncertain. Arthur and Vassilvitskii 2007, "k-means++", SODA, for the first centres.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from misoxr.sampling.spacing import Spacing

__all__ = ["Clusters", "clustered", "nearest", "take_farthest", "take_nearest"]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

STARTS, STEPS = 2, 40
"""How often k-means begins anew, and how often its centres move, at most."""
STILL = 1e-4
"""Relative gain below which centres stay."""
LEARNT, EACH = 15_000, 100
"""Pixels that centres are placed by, the first ones, or as many for each centre if these are more."""
CELLS = 2**22
"""Distances in memory at once."""


class Clusters(NamedTuple):
    """What k-means found.

    Attributes
    ----------
    labels : array
        Number of each pixel's centre, -1 for pixels that are nearer to a fixed one.
    squares : array
        Squared distance to it.
    share : array
        Share of the pixels' weights that each centre has, (centre,).
    spread : float
        Weighted mean of the squares: what k-means makes small.
    """

    labels: Indices
    squares: Floats
    share: Floats
    spread: float


def nearest(features: Floats, centres: Floats) -> tuple[Indices, Floats]:
    """Return the nearest centre of each pixel and the squared distance to it: features (pixel, feature), centres (centre, feature)."""
    labels, squares = np.empty(len(features), np.intp), np.empty(len(features))
    lengths = (centres**2).sum(axis=1)
    step = max(1, CELLS // max(len(centres), 1))
    for start in range(0, len(features), step):
        part = features[start : start + step]
        apart = lengths - 2 * part @ centres.T  # (pixel, centre)
        found = apart.argmin(axis=1)
        labels[start : start + step] = found
        squares[start : start + step] = apart[np.arange(len(part)), found] + (part**2).sum(axis=1)
    return labels, np.maximum(squares, 0.0)


def clustered(features: Floats, count: int, fixed: Floats, weights: Floats, random: np.random.Generator) -> Clusters:
    """Place centres by k-means, beside fixed ones.

    Parameters
    ----------
    features : array
        Of the pixels, (pixel, feature), in random order: the first 15,000 or more place the centres, to which all are then dealt.
    count : int
        Number of centres to place.
    fixed : array
        Centres that stay where they are, (centre, feature); there may be none.
    weights : array
        Weight of each pixel, not negative.
    random : Generator
        For the first centres.
    """
    held = nearest(features, fixed)[1] if len(fixed) else np.full(len(features), np.inf)
    some = slice(max(LEARNT, EACH * count))
    part = features[some], held[some], weights[some]
    found = [_moved(part[0], _first(part[0], count, *part[1:], random), *part[1:]) for _ in range(STARTS)]
    centres = min(found, key=lambda one: one[1])[0]
    labels, squares, spread = _dealt(features, centres, held, weights)
    return Clusters(labels, squares, _sums(labels, weights, count) / _above_zero(weights.sum()), spread)


def _first(features: Floats, count: int, held: Floats, weights: Floats, random: np.random.Generator) -> Floats:
    """Draw the first centres, by the squared distance to those that are there (k-means++)."""
    squares, drawn = held.copy(), []
    for _ in range(count):
        share = weights * np.where(np.isinf(squares), 1.0, squares)
        total = np.cumsum(share if share.sum() > 0 else np.ones(len(share)))
        drawn.append(min(int(np.searchsorted(total, random.random() * total[-1], side="right")), len(total) - 1))
        squares = np.minimum(squares, ((features - features[drawn[-1]]) ** 2).sum(axis=1))
    return features[drawn]


def _moved(features: Floats, centres: Floats, held: Floats, weights: Floats) -> tuple[Floats, float]:
    """Move centres to the means of their pixels, until they stay (Lloyd); return them and the spread that is left."""
    before = np.inf
    for _ in range(STEPS):
        labels, squares, spread = _dealt(features, centres, held, weights)
        if spread >= before * (1 - STILL):
            break
        before, moved = spread, centres.copy()
        total = _sums(labels, weights, len(centres))
        full = total > 0
        for at, part in enumerate(features.T):
            moved[full, at] = _sums(labels, weights * part, len(centres))[full] / total[full]
        # A centre without pixels begins anew at one that is worst covered.
        empty = np.flatnonzero(~full)
        moved[empty] = features[np.argsort(-weights * squares, kind="stable")[: len(empty)]]
        centres = moved
    return centres, spread


def _dealt(features: Floats, centres: Floats, held: Floats, weights: Floats) -> tuple[Indices, Floats, float]:
    """Return labels, squared distances and their mean, of pixels among centres and fixed ones."""
    labels, squares = nearest(features, centres)
    own = squares < held
    squares = np.where(own, squares, held)
    return np.where(own, labels, -1), squares, float(weights @ squares) / _above_zero(weights.sum())


def _sums(labels: Indices, values: Floats, count: int) -> Floats:
    return np.asarray(np.bincount(labels + 1, values, count + 1)[1:], dtype="float64")


def take_nearest(clusters: Clusters, pixels: Indices, spacing: Spacing, toll: Floats) -> tuple[list[int], list[int]]:
    """Choose the free pixel nearest to each centre, from the centre with the greatest share on; a centre may find none.

    Parameters
    ----------
    clusters : Clusters
        Of these pixels.
    pixels : array
        Their numbers among the candidates of ``spacing``.
    spacing : Spacing
        The candidates; it takes the sites.
    toll : array
        What each candidate costs, beside its squared distance in units of its cluster's mean.

    Returns
    -------
    tuple of list
        Numbers of the candidates that were chosen, and of their centres.
    """
    sites, numbers = [], []
    order = np.argsort(clusters.labels, kind="stable")
    ends = np.searchsorted(clusters.labels[order], np.arange(len(clusters.share) + 1))
    for number in np.argsort(-clusters.share, kind="stable").tolist():
        own = order[ends[number] : ends[number + 1]]
        own = own[spacing.free[pixels[own]]]
        if len(own):
            squares = clusters.squares[own]
            sites.append(int(pixels[own[np.argmin(squares / _above_zero(squares.mean()) + toll[pixels[own]])]]))
            numbers.append(number)
            spacing.take(sites[-1])
    return sites, numbers


def take_farthest(features: Floats, there: Floats, weights: Floats, spacing: Spacing, toll: Floats, count: int) -> list[int]:
    """Choose free candidates one after the other, each where the weighted squared distance to all sites is greatest.

    Parameters
    ----------
    features, there : array
        Of candidates and of sites, (pixel, feature).
    weights, spacing, toll
        Of the candidates, as in :func:`clustered` and :func:`take_nearest`.
    count : int
        How many to choose; fewer where none is free any more.
    """
    sites: list[int] = []
    squares = nearest(features, there)[1] if len(there) else np.ones(len(features))
    while len(sites) < count and spacing.free.any():
        free = np.flatnonzero(spacing.free)
        gain = weights[free] * squares[free]
        sites.append(int(free[np.argmax(gain / _above_zero(gain.max()) - toll[free])]))
        spacing.take(sites[-1])
        squares = np.minimum(squares, ((features - features[sites[-1]]) ** 2).sum(axis=1))
    return sites


def _above_zero(value: float) -> float:
    return max(float(value), float(np.finfo(float).tiny))
