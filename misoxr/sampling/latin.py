"""Conditioned Latin hypercube: sites that have each covariate's distribution, and the covariates' correlations, by simulated annealing.

References
----------
Minasny and McBratney 2006, "A conditioned Latin hypercube method for sampling in the presence of ancillary information", Computers & Geosciences
32, 1378-1388. Roudier, Hewitt and Beaudette 2012, "A conditioned Latin hypercube sampling algorithm incorporating operational constraints", in
Digital Soil Assessments and Beyond, for the cost of sites. Iterations and cooling are those of the R package clhs.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from misoxr.sampling.spacing import Spacing

__all__ = ["Hypercube", "annealed"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

ITERATIONS = 10_000
"""Swaps that are tried."""
COOLING, CYCLE = 0.95, 10
"""Factor of the temperature, which begins at 1, after so many swaps."""
WORST = 0.5
"""How often one of the worst sites is swapped, and not any."""


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
    toll: Floats,
    random: np.random.Generator,
    iterations: int = ITERATIONS,
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
    toll : array
        What each candidate costs, in parts of the objective: one for each covariate and site that stands where another is.
    random : Generator
        For the first sites, and the swaps.
    iterations : int, optional
        Swaps that are tried.
    """
    candidates = len(spacing.xy)
    free = spacing.free.copy()
    spacing.take_in_order(random.permutation(candidates), count)
    sites = np.array(spacing.taken, dtype=np.int64)
    spare = np.flatnonzero(free)
    if len(sites) < count or len(spare) == count:
        return sites
    cube = Hypercube(features, classes, candidates, [*sites.tolist(), *range(candidates, len(features))])
    now, temperature = cube.objective() + float(toll[sites].sum()), 1.0
    for step in range(iterations):
        at = _site_to_leave(cube, sites, toll, random)
        old, new = int(sites[at]), int(spare[random.integers(len(spare))])
        if (sites == new).any() or not _apart(spacing, sites, at, new):
            continue
        cube.swap(old, new)
        sites[at] = new
        after = cube.objective() + float(toll[sites].sum())
        if after <= now or random.random() < np.exp((now - after) / temperature):
            now = after
        else:
            cube.swap(new, old)
            sites[at] = old
        if (step + 1) % CYCLE == 0:
            temperature = max(temperature * COOLING, 1e-12)
    return sites


def _site_to_leave(cube: Hypercube, sites: Integers, toll: Floats, random: np.random.Generator) -> int:
    if random.random() < WORST:
        crowding = cube.crowding(sites) + toll[sites]
        return int(random.choice(np.flatnonzero(crowding == crowding.max())))
    return int(random.integers(len(sites)))


def _apart(spacing: Spacing, sites: Integers, at: int, new: int) -> bool:
    if spacing.least is None:
        return True
    steps = spacing.xy[np.delete(sites, at)] - spacing.xy[new]
    return bool(((steps**2).sum(axis=1) >= spacing.least**2).all())
