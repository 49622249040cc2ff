"""The methods by which sites are chosen among candidates: which variables they look at, what becomes of these, and what each method does."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr
from odc.geo.geobox import GeoBox
from scipy.stats import rankdata

from misoxr.cube.decode import is_class
from misoxr.cube.join import is_direction
from misoxr.cube.reductions import COUNTED
from misoxr.cube.variables import APPLICABILITY
from misoxr.errors import BandError, did_you_mean, note
from misoxr.sampling.searches import Spacing, annealed, clustered, take_farthest, take_nearest
from misoxr.sampling.stratified import allocated
from misoxr.spec import COVARIATES, SENTINEL2

__all__ = ["METHODS", "Chosen", "Method", "Pool", "covariates_of", "is_degrees", "ranks", "uncertainties_of"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Method = Literal["kmeans", "clhs", "uncertainty", "random"]
Chosen = tuple[list[int], dict[str, Any]]
"""The candidates that were chosen, those that matter most first, and what the method tells of them."""

EARTH = 6_371_008.8
"""Mean radius of the Earth, m."""
STRATA = 5
"""Strata of what is not known."""
ROUNDING = 1e-6
"""Deviation, relative to the values, that is rounding."""
KINDS = ("_entropy", "_set_size", "_std", "_probability")
"""What tells how little is known of a task, from the best on."""
ENDINGS = (
    *("_probability", "_entropy", "_std", "_location", "_location_probability"),
    *("_set", "_set_size", "_credibility", "_confidence", "_lower", "_upper"),
)
"""What the variables that stand beside a task's answer are called."""
BESIDE = (*APPLICABILITY, "excluded")
"""Variables of a map that belong to no task."""
COVARIATE_NAMES = {band.name for band in (*SENTINEL2, *COVARIATES)}
"""Names that are no answer of a model."""
KNOWING = ("_confidence", "_credibility", "local_point_density")
"""Variables that are large where much is known."""


def covariates_of(ds: xr.Dataset, by: Sequence[str] | None) -> list[str]:
    """Return the covariates: those named, or all continuous variables over y and x that are no answer of a model and no count of observations.

    Raises
    ------
    BandError
        If one is missing, or there is none.
    """
    if by is not None:
        return _known(ds, by)
    mapped = {*_tasks(ds), *_told(ds)}
    answers = mapped | {f"{task}{end}" for task in mapped for end in ENDINGS} | set(BESIDE)
    found = [
        name
        for name, array in _maps(ds).items()
        if name not in answers
        and {*array.dims} <= {"feature", "time", "y", "x"}
        and not is_class(name, array)
        and array.dtype.kind in "fiu"
        and array.attrs.get("standard_name") != COUNTED["standard_name"]
    ]
    if not found:
        raise BandError(
            f"There are no covariates among {list(_maps(ds))}; name them in by=, or give the image beside the map: image.merge(maps)."
        )
    _refuse_times(ds, found)
    unknown = [name for name in found if name not in COVARIATE_NAMES]
    if unknown and not _told(ds) and (len(unknown) < len(found) or mapped or set(BESIDE) & set(_maps(ds))):
        note(f"Sites are chosen by {found}. If a mapped value is among {unknown}, name the covariates without it: by=[...].")
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
        _refuse_times(ds, found)
        return found
    for name in _known(ds, by):
        if is_class(name, ds[name]) and not name.endswith("_set_size"):
            raise BandError(
                f"Variable {name!r} holds classes, which have no order; give what tells how sure they are, such as {name}_probability."
            )
    return list(by)


def _maps(ds: xr.Dataset) -> dict[str, xr.DataArray]:
    return {str(name): array for name, array in ds.data_vars.items() if {"y", "x"} <= set(array.dims)}


def _refuse_times(ds: xr.Dataset, names: Sequence[str]) -> None:
    """Raise where variables have several times."""
    several = [name for name in names if "time" in ds[name].dims]
    if several:
        raise BandError(f"Variables {several} have time ({ds.sizes['time']} steps); composite first: image.miso.composite().")


def _told(ds: xr.Dataset) -> set[str]:
    """Return the tasks that the provenance of a map tells of."""
    try:
        held = json.loads(ds.attrs.get("provenance", "{}"))
        models = [one["model"] for one in held.get("models", [held])]
        return {str(task["name"]) for model in models for task in model["tasks"]}
    except (AttributeError, KeyError, TypeError, ValueError):  # another one's, or none
        return set()


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
    _refuse_times(ds, by)
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
    penalty : array
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
    penalty: Floats
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
    sites, numbers = take_nearest(clusters, np.arange(len(features)), pool.spacing, pool.penalty)
    share = clusters.share[numbers]
    if len(sites) < n:  # least distances leave none to some centres
        covered = np.concatenate([fixed, features[sites]])
        sites += take_farthest(features, covered, weights, pool.spacing, pool.penalty, n - len(sites))
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
    penalties = pool.penalty * max(1, features.shape[1] + len(classes))
    return annealed(features, codes, n, pool.spacing, penalties, random).tolist(), {}


def _uncertainty(pool: Pool, n: int, random: np.random.Generator) -> Chosen:
    unknown = pool.unknown(pool.names)
    cuts = np.unique(np.quantile(unknown, np.arange(1, STRATA) / STRATA))
    strata = np.unique(np.searchsorted(cuts, unknown), return_inverse=True)[1].ravel()  # equal values share one; none is empty
    sizes = np.bincount(strata)
    wanted = allocated(n, np.bincount(strata, unknown).astype("float64"), np.zeros(len(sizes), "int64"), sizes)
    where, there = positions(pool.xy, pool.box), positions(pool.there, pool.box)
    sites: list[int] = []
    for stratum in reversed(range(len(wanted))):
        own = np.flatnonzero((strata == stratum) & pool.spacing.free)
        if wanted[stratum] and len(own):
            others = np.concatenate([there, where[sites]])
            clusters = clustered(where[own], min(int(wanted[stratum]), len(own)), others, np.exp(-pool.penalty[own]), random)
            sites += take_nearest(clusters, own, pool.spacing, pool.penalty)[0]
    if len(sites) < n:  # least distances leave none to some centres
        sites += take_farthest(where, np.concatenate([there, where[sites]]), unknown, pool.spacing, pool.penalty, n - len(sites))
    sites.sort(key=lambda at: -unknown[at])
    return sites, {"stratum": strata[sites] + 1, "uncertainty": unknown[sites]}


def is_degrees(box: GeoBox) -> bool:
    """Return whether a map is in degrees."""
    return bool(box.crs is not None and box.crs.geographic)


def positions(xy: Floats, box: GeoBox) -> Floats:
    """Return coordinates whose distances are lengths: x and y, or, of degrees, those of points on a sphere, m."""
    if not is_degrees(box):
        return xy
    longitude, latitude = np.deg2rad(xy.T)
    around = np.cos(latitude)
    return EARTH * np.column_stack([around * np.cos(longitude), around * np.sin(longitude), np.sin(latitude)])


def _random(pool: Pool, n: int, random: np.random.Generator) -> Chosen:
    pool.spacing.take_in_order(range(len(pool.xy)), n)
    return list(pool.spacing.taken), {}


METHODS: dict[str, Callable[[Pool, int, np.random.Generator], Chosen]] = {
    "kmeans": _kmeans,
    "clhs": _clhs,
    "uncertainty": _uncertainty,
    "random": _random,
}
