"""The methods by which sites are chosen among candidates."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr.cube.decode import is_class
from misoxr.cube.join import is_direction
from misoxr.errors import BandError
from misoxr.sampling.coverage import clustered, take_farthest, take_nearest
from misoxr.sampling.ground import positions
from misoxr.sampling.latin import annealed
from misoxr.sampling.spacing import Spacing
from misoxr.sampling.variables import ranks, standardised, uncertainty

__all__ = ["METHODS", "Chosen", "Method", "Pool", "shared"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Method = Literal["kmeans", "clhs", "uncertainty", "random"]
Chosen = tuple[list[int], dict[str, Any]]
"""The candidates that were chosen, those that matter most first, and what the method tells of them."""

STRATA = 5
"""Strata of what is not known."""


@dataclass(frozen=True)
class Pool:
    """Candidates, and points that exist.

    Attributes
    ----------
    ds : Dataset
        Where their values are from.
    names, weights : sequence of str
        Variables that choose, and those that weigh.
    values, known : mapping of str to array
        Values of the candidates, (pixel,) or (layer, pixel), and of the pixels that hold points that exist.
    xy, there : array
        Places of both; points that exist may lie beyond the map.
    toll : array
        Rank of each candidate's cost, 0 to 1, times its weight.
    spacing : Spacing
        Which candidates are free.
    box : GeoBox
        The map's grid.
    """

    ds: xr.Dataset
    names: Sequence[str]
    weights: Sequence[str]
    values: Mapping[str, Any]
    known: Mapping[str, Any]
    xy: Floats
    there: Floats
    toll: Floats
    spacing: Spacing
    box: GeoBox

    def features(self, names: Sequence[str]) -> tuple[Floats, Floats]:
        """Return covariates of the candidates and of points that exist and have all, (pixel, feature)."""
        directions = [name for name in names if is_direction(name, self.ds[name])]
        values, known = ({name: own[name] for name in names} for own in (self.values, self.known))
        features, others = standardised(values, known, directions)
        return features, others[np.isfinite(others).all(axis=1)]

    def unknown(self, names: Sequence[str]) -> Floats:
        """Return how little is known at the candidates, 0 to 1: the mean of the ranks of what tells it."""
        return np.asarray(np.mean([ranks(uncertainty(name, self.values[name])) for name in names], axis=0))


def _kmeans(pool: Pool, n: int, random: np.random.Generator) -> Chosen:
    for name in pool.names:
        if is_class(name, pool.ds[name]):
            raise BandError(f"Variable {name!r} holds classes, which have no distances; leave it out, or use method='clhs'.")
    features, fixed = pool.features(pool.names)
    weights = pool.unknown(pool.weights) if pool.weights else np.ones(len(features))
    clusters = clustered(features, n, fixed, weights, random)
    sites, numbers = take_nearest(clusters, np.arange(len(features)), pool.spacing, pool.toll)
    share = clusters.share[numbers]
    if len(sites) < n:  # least distances leave none to some centres
        covered = np.concatenate([fixed, features[sites]])
        sites += take_farthest(features, covered, weights, pool.spacing, pool.toll, n - len(sites))
        share = np.append(share, np.full(len(sites) - len(share), np.nan))
    return sites, {"share": share} | ({"uncertainty": weights[sites]} if pool.weights else {})


def _clhs(pool: Pool, n: int, random: np.random.Generator) -> Chosen:
    classes = [name for name in pool.names if is_class(name, pool.ds[name])]
    others = [name for name in pool.names if name not in classes]
    whole = np.logical_and.reduce([np.isfinite(np.atleast_2d(pool.known[name])).all(axis=0) for name in pool.names])
    codes = []
    for name in classes:
        both = np.concatenate([pool.values[name], pool.known[name][whole]])
        codes.append(np.unique(both, return_inverse=True)[1].ravel())
    features = np.empty((len(pool.xy) + int(whole.sum()), 0))
    if others:
        known = {name: np.asarray(own)[..., whole] for name, own in pool.known.items()}
        directions = [name for name in others if is_direction(name, pool.ds[name])]
        own, fixed = standardised({name: pool.values[name] for name in others}, known, directions)
        features = np.concatenate([own, fixed])
    tolls = pool.toll * max(1, features.shape[1] + len(classes))
    return annealed(features, codes, n, pool.spacing, tolls, random).tolist(), {}


def _uncertainty(pool: Pool, n: int, random: np.random.Generator) -> Chosen:
    unknown = pool.unknown(pool.names)
    cuts = np.unique(np.quantile(unknown, np.arange(1, STRATA) / STRATA))
    strata = np.unique(np.searchsorted(cuts, unknown), return_inverse=True)[1].ravel()  # equal values share one; none is empty
    wanted = shared(n, np.bincount(strata, unknown).astype("float64"), np.bincount(strata))
    where, there = positions(pool.xy, pool.box), positions(pool.there, pool.box)
    sites: list[int] = []
    for stratum in reversed(range(len(wanted))):
        own = np.flatnonzero((strata == stratum) & pool.spacing.free)
        if wanted[stratum] and len(own):
            clusters = clustered(where[own], min(int(wanted[stratum]), len(own)), there, np.ones(len(own)), random)
            sites += take_nearest(clusters, own, pool.spacing, pool.toll)[0]
    if len(sites) < n:  # least distances leave none to some centres
        sites += take_farthest(where, np.concatenate([there, where[sites]]), unknown, pool.spacing, pool.toll, n - len(sites))
    sites.sort(key=lambda at: -unknown[at])
    return sites, {"stratum": strata[sites] + 1, "uncertainty": unknown[sites]}


def shared(n: int, amounts: Floats, most: Integers) -> Integers:
    """Share n sites in proportion to amounts, by the largest remainder, and no more to a stratum than there are."""
    got = np.zeros(len(amounts), dtype="int64")
    while got.sum() < min(n, most.sum()):
        room = got < most
        ideal = np.where(room, amounts, 0.0)
        ideal = (n - got.sum()) * ideal / ideal.sum() if ideal.sum() > 0 else (n - got.sum()) * room / room.sum()
        more = np.minimum(np.floor(ideal).astype("int64"), most - got)
        if not more.any():
            last = np.argsort(-np.where(room, ideal, -1.0), kind="stable")[: n - got.sum()]
            more[last] = room[last]
        got += more
    return got


def _random(pool: Pool, n: int, random: np.random.Generator) -> Chosen:
    pool.spacing.take_in_order(range(len(pool.xy)), n)
    return list(pool.spacing.taken), {}


METHODS: dict[str, Callable[[Pool, int, np.random.Generator], Chosen]] = {
    "kmeans": _kmeans,
    "clhs": _clhs,
    "uncertainty": _uncertainty,
    "random": _random,
}
