"""Search among candidates: feature-space coverage by k-means, conditioned Latin hypercubes by simulated annealing, and least distances between sites.

References
----------
Brus 2019, "Sampling for digital soil mapping: a tutorial supported by R scripts", Geoderma 338, 464-480: sites are the pixels nearest to the
centres of k-means, and sites that exist are centres that stay. Zhdanov 2019, "Diverse mini-batch active learning", arXiv 1901.05954: pixels weigh as
much as they are uncertain. Arthur and Vassilvitskii 2007, "k-means++", SODA, for the first centres. Minasny and McBratney 2006, "A conditioned Latin
hypercube method for sampling in the presence of ancillary information", Computers & Geosciences 32, 1378-1388; iterations and cooling are those of the R package clhs.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

__all__ = ["Clusters", "Hypercube", "Spacing", "annealed", "clustered", "nearest", "take_farthest", "take_nearest"]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

ROUNDING = 1e-9
"""Share of the least distance by which two sites may be nearer: pixels that are as far apart as asked for are far enough."""
STARTS, STEPS = 2, 40
"""How often k-means begins anew, and how often its centres move, at most."""
STILL = 1e-4
"""Relative gain below which centres stay."""
LEARNT, EACH = 15_000, 100
"""Pixels that centres are placed by, the first ones, or as many for each centre if these are more."""
CELLS = 2**22
"""Distances in memory at once."""
ITERATIONS = 10_000
"""Swaps that are tried."""
COOLING, CYCLE = 0.95, 10
"""Factor of the temperature, which begins at 1, after so many swaps."""
WORST = 0.5
"""How often one of the worst sites is swapped, and not any."""


class Spacing:
    """Candidates, of which those that are chosen rule out their neighbours.

    Parameters
    ----------
    xy : array
        Where candidates are, (candidate, 2).
    least : float or None
        Least distance between sites.
    existing : array
        Where sites are that exist, (site, 2): they rule out their neighbours from the beginning.
    """

    def __init__(self, xy: Floats, least: float | None, existing: Floats) -> None:
        self.xy, self.least = xy, None if least is None else least * (1 - ROUNDING)
        self.free: Mask = np.ones(len(xy), dtype=bool)
        self.tree = None if least is None else cKDTree(xy)
        if self.least is not None and len(existing):
            self.free = np.isinf(cKDTree(existing).query(xy, distance_upper_bound=self.least)[0])
        self.taken: list[int] = []

    def take(self, at: int) -> None:
        """Choose a candidate."""
        self.taken.append(int(at))
        self.free[at] = False
        if self.tree is not None and self.least is not None:
            self.free[self.tree.query_ball_point(self.xy[at], self.least)] = False

    def take_in_order(self, order: Iterable[int], count: int) -> None:
        """Choose the first candidates that are free, until there are so many sites."""
        for at in order:
            if len(self.taken) >= count:
                return
            if self.free[at]:
                self.take(int(at))


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


def take_nearest(clusters: Clusters, pixels: Indices, spacing: Spacing, penalty: Floats) -> tuple[list[int], list[int]]:
    """Choose the free pixel nearest to each centre, from the centre with the greatest share on; a centre may find none.

    Parameters
    ----------
    clusters : Clusters
        Of these pixels.
    pixels : array
        Their numbers among the candidates of ``spacing``.
    spacing : Spacing
        The candidates; it takes the sites.
    penalty : array
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
            sites.append(int(pixels[own[np.argmin(squares / _above_zero(squares.mean()) + penalty[pixels[own]])]]))
            numbers.append(number)
            spacing.take(sites[-1])
    return sites, numbers


def take_farthest(features: Floats, there: Floats, weights: Floats, spacing: Spacing, penalty: Floats, count: int) -> list[int]:
    """Choose free candidates one after the other, each where the weighted squared distance to all sites is greatest.

    Parameters
    ----------
    features, there : array
        Of candidates and of sites, (pixel, feature).
    weights, spacing, penalty
        Of the candidates, as in :func:`clustered` and :func:`take_nearest`.
    count : int
        How many to choose; fewer where none is free any more.
    """
    sites: list[int] = []
    squares = nearest(features, there)[1] if len(there) else np.ones(len(features))
    while len(sites) < count and spacing.free.any():
        free = np.flatnonzero(spacing.free)
        gain = weights[free] * squares[free]
        sites.append(int(free[np.argmax(gain / _above_zero(gain.max()) - penalty[free])]))
        spacing.take(sites[-1])
        squares = np.minimum(squares, ((features - features[sites[-1]]) ** 2).sum(axis=1))
    return sites


def _above_zero(value: float) -> float:
    return max(float(value), float(np.finfo(float).tiny))


class Hypercube:
    """How well sites cover the strata of covariates: sums that one swap changes a little.

    Parameters
    ----------
    features : array
        Continuous covariates of the candidates, then of the sites that exist: (candidate, covariate), standardised.
    classes : sequence of array
        Codes 0, 1, ... of each covariate of classes, (candidate,).
    candidates : int
        How many of them are candidates: strata and correlations are those of these.
    sites : array
        Numbers of the first sites, with those that exist.
    """

    def __init__(self, features: Floats, classes: Sequence[Integers], candidates: int, sites: Sequence[int]) -> None:
        self.count, chosen = len(sites), np.asarray(sites, dtype=np.intp)
        here = features[:candidates]
        cuts = np.quantile(here, np.linspace(0, 1, self.count + 1)[1:-1], axis=0)  # (stratum - 1, covariate)
        strata = [np.searchsorted(cut, own, side="right") for cut, own in zip(cuts.T, features.T, strict=True)]
        self.strata = np.stack(strata, axis=1) if strata else np.empty((len(features), 0), np.intp)
        self.columns = np.arange(features.shape[1])
        self.counts = np.zeros((features.shape[1], self.count))
        np.add.at(self.counts, (self.columns, self.strata[chosen]), 1)
        self.classes = list(classes)
        self.shares = [np.bincount(own[:candidates], minlength=own.max() + 1) / candidates for own in self.classes]
        self.held = [np.bincount(own[chosen], minlength=len(share)) for own, share in zip(self.classes, self.shares, strict=True)]
        self.features = features
        self.target = _correlations(here.sum(axis=0), here.T @ here, candidates)
        self.sums, self.products = features[chosen].sum(axis=0), features[chosen].T @ features[chosen]

    def objective(self) -> float:
        """Return what is made small: departures from one site a stratum, from the shares of classes, and from the correlations."""
        strata = float(np.abs(self.counts - 1).sum())
        classes = sum(float(np.abs(held / self.count - share).sum()) for held, share in zip(self.held, self.shares, strict=True))
        return strata + classes + float(np.abs(_correlations(self.sums, self.products, self.count) - self.target).sum())

    def crowding(self, sites: Integers) -> Floats:
        """Return how many sites share the strata of each site, summed over covariates."""
        return np.asarray(self.counts[self.columns, self.strata[sites]].sum(axis=1), dtype="float64")

    def swap(self, old: int, new: int) -> None:
        """Take one site for another."""
        for at, by in ((old, -1), (new, 1)):
            self.counts[self.columns, self.strata[at]] += by
            self.sums = self.sums + by * self.features[at]
            self.products = self.products + by * np.outer(self.features[at], self.features[at])
            for own, held in zip(self.classes, self.held, strict=True):
                held[own[at]] += by


def _correlations(sums: Floats, products: Floats, count: int) -> Floats:
    """Return correlations from sums and products; 0 with what does not vary."""
    means = sums / count
    covariance = products / count - np.outer(means, means)
    spread = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    scale = np.outer(spread, spread)
    return np.where(scale > 1e-9, covariance / np.where(scale > 1e-9, scale, 1.0), 0.0)


def annealed(
    features: Floats,
    classes: Sequence[Integers],
    count: int,
    spacing: Spacing,
    penalty: Floats,
    random: np.random.Generator,
) -> Integers:
    """Choose sites by a conditioned Latin hypercube, and return their numbers; fewer where least distances leave no more.

    Parameters
    ----------
    features, classes
        As for :class:`Hypercube`; the candidates are those of ``spacing``, and the sites that exist come behind.
    count : int
        How many sites to choose.
    spacing : Spacing
        The candidates. It takes the first sites, drawn at random.
    penalty : array
        What each candidate costs, in parts of the objective: one for each covariate and site that stands where another is.
    random : Generator
        For the first sites, and the swaps.
    """
    candidates = len(spacing.xy)
    free = spacing.free.copy()
    spacing.take_in_order(random.permutation(candidates), count)
    sites = np.array(spacing.taken, dtype=np.int64)
    spare = np.flatnonzero(free)
    if len(sites) < count or len(spare) == count:
        return sites
    cube = Hypercube(features, classes, candidates, [*sites.tolist(), *range(candidates, len(features))])
    now, temperature = cube.objective() + float(penalty[sites].sum()), 1.0
    for step in range(ITERATIONS):
        at = _site_to_leave(cube, sites, penalty, random)
        old, new = int(sites[at]), int(spare[random.integers(len(spare))])
        if (sites == new).any() or not _apart(spacing, sites, at, new):
            continue
        cube.swap(old, new)
        sites[at] = new
        after = cube.objective() + float(penalty[sites].sum())
        if after <= now or random.random() < np.exp((now - after) / temperature):
            now = after
        else:
            cube.swap(new, old)
            sites[at] = old
        if (step + 1) % CYCLE == 0:
            temperature = max(temperature * COOLING, 1e-12)
    return sites


def _site_to_leave(cube: Hypercube, sites: Integers, penalty: Floats, random: np.random.Generator) -> int:
    if random.random() < WORST:
        crowding = cube.crowding(sites) + penalty[sites]
        return int(random.choice(np.flatnonzero(crowding == crowding.max())))
    return int(random.integers(len(sites)))


def _apart(spacing: Spacing, sites: Integers, at: int, new: int) -> bool:
    if spacing.least is None:
        return True
    steps = spacing.xy[np.delete(sites, at)] - spacing.xy[new]
    return bool(((steps**2).sum(axis=1) >= spacing.least**2).all())
