"""Mean and total of a quantity over a map, from reference sites that were drawn at random and from the map beside them."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from misoxr.cube.decode import decoded
from misoxr.cube.scaling import is_far
from misoxr.errors import BandError, PointsError, SpecError, gathered, note
from misoxr.grid.layers import flat
from misoxr.points.readers import FILLS, is_missing, number_of, refuse_fills
from misoxr.sampling.classes import Legend, classes_named, has_classes, plain
from misoxr.sampling.compared import ASSUMED, DRAWN
from misoxr.sampling.counts import Ground, fills_in, mean_of, read_once, value_sums
from misoxr.sampling.estimators import (
    Cells,
    checked_level,
    degrees_of_freedom,
    design_weights,
    drawn_shares,
    limits,
    note_few,
    variance,
)
from misoxr.sampling.reference import Sites, agree, sites_of
from misoxr.spec.numbers import in_full

__all__ = ["Estimate", "Seen", "estimated", "mean", "tuned"]

Floats = npt.NDArray[np.float64]

ESTIMATORS = ("prediction_powered", "difference", "sample")
TUNED = 15
"""Sites from which lambda is estimated; with fewer it is 1."""
PROBABILITY = "_probability"
"""What the name of a probability adds to that of its task."""
_PER_AREA = re.compile(r"(?<!\S)m(?:\*\*|\^)?-2(?!\S)|\s*/\s*m(?:\*\*|\^)?2(?!\S)|(?<!\S)m⁻²(?!\S)|\s*/\s*m²(?!\S)")
"""Per square metre, as units are written."""
CLASSES = ("absent", "present")
"""Classes of a binary task, by default."""


class Seen(NamedTuple):
    """What was seen at sites, beside the map's values there.

    Attributes
    ----------
    truth, mapped, area : ndarray, shape (site,)
        Values of the reference and the map, and the areas of pixels.
    stratum : ndarray of int, shape (site,)
        The stratum of each.
    weights : ndarray, shape (stratum,)
        How much area each sampled square metre stands for.
    drawn : ndarray, shape (stratum,), or float
        Share of each stratum's pixels that were sampled; 0 where it is not known, or small.
    """

    truth: Floats
    mapped: Floats
    area: Floats
    stratum: npt.NDArray[np.intp]
    weights: Floats
    drawn: Floats | float = 0.0


class Estimate(NamedTuple):
    """A mean, its standard error, the weight of the map in it (lambda), and the degrees of freedom of its error."""

    mean: float
    standard_error: float
    lam: float
    degrees_of_freedom: int


@gathered
def mean(
    map: xr.DataArray,
    reference: gpd.GeoDataFrame,
    level: float = 0.95,
    *,
    by: gpd.GeoDataFrame | None = None,
    assume_random: bool = False,
    classes: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Estimate the mean and total of a quantity, from a map of it and reference sites.

    Sites correct the map's mean, and the map makes the sites' interval shorter, as far as it tells what sites show. The map is read once, block by block.

    Parameters
    ----------
    map : DataArray
        A map of values (y, x), such as ``maps.soc``; lazy, of any size. Its name is that of the reference's column. It may also be the probability of a binary
        task, such as ``maps.permafrost_probability``: the mean is then the share of the area with its second class.
    reference : GeoDataFrame
        Sites with the values seen, and ``stratum`` and ``inclusion_probability``, as for :func:`misoxr.sampling.areas`. For a probability, the task's column
        serves, such as ``permafrost``: names or codes of the classes. Leave it empty where a site was not visited.
    level : float, optional
        Of the intervals.
    by : GeoDataFrame, optional
        Polygons, as for :func:`misoxr.sampling.areas`.
    assume_random : bool, optional
        Take sites without ``stratum`` and ``inclusion_probability`` as drawn at random from the whole map. The result says so.
    classes : sequence of str, optional
        Names of the two classes of a binary task, the one that the probability is of last: ("absent", "present") by default.

    Returns
    -------
    DataFrame
        A row for each estimator; with ``by``, for each region and estimator:

        - "prediction_powered": the map's mean times lambda, and the sites' mean of what then is left. Lambda makes the variance least; it is 1 below 15 sites.
        - "difference": lambda is 1.
        - "sample": lambda is 0, the sites alone.

        Columns are ``mean``, ``mean_se``, ``mean_lower``, ``mean_upper``; ``total``, mean times area, with the same endings; and ``lambda``. A column
        ``assumed_random`` is there where that was assumed. ``attrs`` has ``map_mean``, ``area`` (m2) and ``sites``, by region with ``by``; ``units``,
        ``total_units``, ``level`` and ``assumption``.

    Raises
    ------
    PointsError
        As :func:`misoxr.sampling.areas`, or if a value is no number, or a label none of the two classes; or if values of sites are a usual
        fill value, such as -9999, far from all others.
    SpecError
        If the map holds classes, or arguments contradict each other.
    GridError, BandError
        If the map has no grid or CRS, or no value, or a usual fill value, far from all others.

    Warns
    -----
    MisoxrWarning
        As :func:`misoxr.sampling.areas`; and if all sites of a stratum have one value, or one difference from the map.

    Notes
    -----
    Means are weighted by true areas. Strata may be any; their pixels follow from ``inclusion_probability``. Intervals are Student's. They have as many degrees of
    freedom as the region has sites, less the strata that these are of, and one less for an estimated lambda. Lambda is that of all sites, also by region. With
    fewer than 15 sites it would be estimated badly, and intervals would be too short. Intervals of shares end at 0 and 1. Where more than 5 % of a stratum
    was sampled, its variance is multiplied by the share that was not (finite population correction). The map's values must not come from a model that learnt
    from these sites: it would know them better than the rest.

    References
    ----------
    Difference estimator: Särndal, Swensson & Wretman 1992, Model assisted survey sampling, 6.3. Prediction-powered inference: Angelopoulos et al. 2023, Science
    382, 669-674; power-tuned: Angelopoulos, Duchi & Zrnic 2024, arXiv 2311.01453. There the map's mean is itself a sample's; here it is of all pixels, and exact.

    Examples
    --------
    >>> at = np.random.default_rng(0).choice(image.slope.size, 30, replace=False)
    >>> rows, columns = np.unravel_index(at, image.slope.shape)
    >>> places = gpd.points_from_xy(image.x[columns], image.y[rows], crs="EPSG:3338")
    >>> drawn = {"slope": 5.0 + 0.9 * image.slope.values[rows, columns], "stratum": "all", "inclusion_probability": 30 / image.slope.size}
    >>> table = misoxr.sampling.mean(image.slope, gpd.GeoDataFrame(drawn, geometry=places))
    """
    checked_level(level)
    array = flat(map)
    _check(array)
    array = decoded(array.name, array, array.dtype.name)
    name, ground = str(array.name), Ground.of(array, by)
    reference = _with_shares(reference, map, name, classes)
    sites = sites_of(reference, name, ground.geobox, assume_random).seen()
    lazy = value_sums(array.data, ground), array.data, ground, sites.rows, sites.columns
    sums, mapped, region, fills = read_once(*lazy, fills_in(array.data, FILLS))
    _refuse_fills(name, fills, int(sums[0].sum()))
    valid = np.isfinite(mapped)
    seen, region = _seen(sites.check_on_map(valid), mapped[valid].astype("float64"), ground, sums), region[valid]
    few = int(((np.bincount(seen.stratum) < 2) & (seen.drawn < 1)).sum())
    if few:
        note(
            f"{few} of {len(seen.weights)} strata have one site only, so there are no standard errors; visit at least two of each."
        )
    if sure := [str(sites.strata[at]) for at in _agreeing(seen)]:
        note(
            f"All visited sites of strata have one value, or one difference from the map: {', '.join(sure[:10])}{', ...' if len(sure) > 10 else ''}. "
            "So nothing tells how these strata vary, and intervals are too short, or have no length. Visit more of their sites."
        )
    table = _by_region(seen, region, sums, ground, level, _is_share(array, seen))
    table.attrs |= {**_units(array), "level": level, "assumption": ASSUMED if assume_random else DRAWN}
    return table.assign(assumed_random=True) if assume_random else table


def _agreeing(seen: Seen) -> npt.NDArray[np.intp]:
    """Return the strata of two sites or more that all have one value, or one difference from the map, and were not visited whole."""
    rows = pd.DataFrame({"value": seen.truth, "difference": seen.truth - seen.mapped}).groupby(seen.stratum)
    rounding = 1e-6 * np.abs(np.concatenate([seen.truth, seen.mapped])).max()  # a map may be in single precision
    alike = (rows.max() - rows.min() <= rounding).any(axis=1) & (rows.size() > 1)
    return np.asarray(np.flatnonzero(alike & (np.broadcast_to(seen.drawn, len(seen.weights)) < 1)), np.intp)


def tuned(seen: Seen) -> float:
    """Return the lambda that makes the variance of the prediction-powered mean least; 0 where the map is the same at all sites."""
    weight = seen.area * seen.weights[seen.stratum]
    truth, mapped = (seen.area * (one - (weight * one).sum() / weight.sum()) for one in (seen.truth, seen.mapped))
    own, both, apart = (_spread(values, seen) for values in (mapped, truth + mapped, truth - mapped))
    return float((both - apart) / (4 * own)) if own > 0 else 0.0  # a covariance is a difference of variances


def _spread(values: Floats, seen: Seen) -> float:
    """Return the variance of the sum over strata of weights times sums."""
    count, sums = np.bincount(seen.stratum).astype("float64"), np.bincount(seen.stratum, values)
    deviations = values - (sums / count)[seen.stratum]
    squares = np.bincount(seen.stratum, deviations**2).astype("float64")
    return float(variance(count, np.zeros_like(sums), squares, seen.weights, seen.drawn))


def _with_shares(reference: Any, array: xr.DataArray, name: str, classes: Any) -> Any:
    """Return a reference with a column of 0 and 1 for a probability, from the labels of its binary task; missing ones stay missing.

    Raises
    ------
    PointsError
        If a label is none of the two classes.
    SpecError
        If ``classes`` are no two names, or the map is no such probability.
    """
    task = name.removesuffix(PROBABILITY)
    if classes is not None and (isinstance(classes, str) or len(set(classes)) != 2 or len(classes) != 2):
        raise SpecError(f"classes is {classes!r}; give the names of two classes, the one that the probability is of last.")
    known = isinstance(reference, gpd.GeoDataFrame) and name not in reference and task != name and task in reference
    several = any(one.size == 1 and one.dtype.kind in "OU" for one in array.coords.values())
    if not known or several:
        if classes is not None:
            raise SpecError(
                f"classes belongs to the probability of a binary task and the labels of that; {name!r} is no such map, or has a column. "
                "Leave it out."
            )
        return reference
    legend = Legend(task, tuple(str(plain(name)) for name in classes or CLASSES), (0, 1))
    there = np.array([not is_missing(value) for value in reference[task]], bool)
    numbers = classes_named(reference[task][there], legend)
    if numbers is None:
        raise PointsError(
            f"Labels of {task!r} are {sorted(map(str, reference[task][there].unique()))[:10]}, and {name!r} is the probability of "
            f"{legend.names[1]!r} beside {legend.names[0]!r}. Name the two classes, the one that it is of last: classes=(..., ...)."
        )
    share = np.full(len(reference), np.nan)
    share[there] = numbers
    return reference.assign(**{name: share})


def _is_share(array: xr.DataArray, seen: Seen) -> bool:
    """Return whether map and reference are shares: a probability by its name, or without units, and 0 or 1 at all sites."""
    named = str(array.name).endswith(PROBABILITY) or str(array.attrs.get("units", "1")) in ("", "1")
    return named and bool(np.isin(seen.truth, (0, 1)).all() and ((seen.mapped >= 0) & (seen.mapped <= 1)).all())


def _check(array: xr.DataArray) -> None:
    if array.name is None:
        raise SpecError("The map has no name, so its column of the reference is not known; name it: map.rename('soc').")
    if has_classes(array):
        raise SpecError(f"The map {array.name!r} holds classes, which have no mean; take misoxr.sampling.areas.")
    if array.dtype.kind != "f":
        raise BandError(f"The map {array.name!r} holds {array.dtype}; give floats, with NaN for nodata.")


def _refuse_fills(name: str, found: Floats, pixels: int) -> None:
    """Refuse usual fill values in a map, far from all its other values."""
    *counts, low, high = found.tolist()
    for fill, count in zip(FILLS, counts, strict=True):
        if count and low <= high and is_far(fill, low, high):
            raise BandError(
                f"The map {name!r} is {in_full(fill)} in {count / pixels:.2%} of its pixels, and {low:g} to {high:g} elsewhere. If it is nodata, make "
                f"it missing: map.where(map != {in_full(fill)})."
            )


def _seen(sites: Sites, mapped: Floats, ground: Ground, sums: Any) -> Seen:
    """Return values at sites, and how much area each stands for."""
    pixels = int(sums[0].sum())
    if sites.sizes is not None and not agree(sites.sizes.sum(), pixels):
        raise PointsError(
            f"The strata hold {sites.sizes.sum():,.0f} pixels (sites divided by inclusion_probability), and the map {pixels:,} with a value. "
            "Give a map of the area that was sampled, and keep sites without a value in the table."
        )
    numbers = [number_of(value) for value in sites.labels]
    if None in numbers:
        wrong = sites.labels.iloc[numbers.index(None)]
        raise PointsError(
            f"Values of {sites.labels.name!r} are no numbers, such as {repr(wrong) if isinstance(wrong, str) else wrong}; write numbers."
        )
    refuse_fills(
        np.array(numbers, "float64"), str(sites.labels.name), f"values of {sites.labels.name!r} at the sites", table="reference"
    )
    area, many = ground.areas.at(sites.rows, sites.columns), len(sites.strata)
    cells = Cells(*(np.bincount(sites.stratum, area**power, minlength=many)[:, None].astype("float64") for power in range(3)))
    sizes = np.array([pixels]) if sites.sizes is None else sites.sizes
    weights = design_weights(cells, sizes, total=float(ground.areas.metres(sums[1].sum())))
    drawn = 0.0 if sites.sizes is None else drawn_shares(cells, sizes)
    return Seen(np.array(numbers, "float64"), mapped, area, sites.stratum, weights, drawn)


def estimated(seen: Seen, here: npt.NDArray[np.bool_], map_mean: float) -> dict[str, Estimate]:
    """Return the mean of a region by each estimator.

    Parameters
    ----------
    seen : Seen
        All sites.
    here : ndarray of bool, shape (site,)
        Those in the region.
    map_mean : float
        The map's mean in the region.
    """
    weight = seen.area * seen.weights[seen.stratum]
    few, bottom, several = len(weight) < TUNED, weight[here].sum(), int(here.sum()) > 1
    freedom = int(degrees_of_freedom(np.bincount(seen.stratum[here])))
    out = {}
    for name, lam, lost in zip(ESTIMATORS, (1.0 if few else tuned(seen), 1.0, 0.0), (not few, 0, 0), strict=True):
        if not here.any():
            out[name] = Estimate(np.nan, np.nan, lam, 1)
            continue
        left = seen.truth - lam * seen.mapped
        mean = (weight * left)[here].sum() / bottom
        spread = _spread(np.where(here, seen.area * (left - mean), 0.0), seen) if several else np.nan
        out[name] = Estimate(mean + lam * map_mean, np.sqrt(spread) / bottom, lam, max(freedom - lost, 1))
    return out


def _by_region(seen: Seen, region: npt.NDArray[np.intp], sums: Any, ground: Ground, level: float, is_share: bool) -> pd.DataFrame:
    """Return the estimates of every region that has a name, and of the rest where there is any."""
    last, areas, tables = len(ground.names) - 1, ground.areas.metres(sums[1, :, 0]), []
    about: dict[str, dict[str, Any]] = {"map_mean": {}, "area": {}, "sites": {}}
    for at, name in enumerate(ground.names):
        if name and at == last and not sums[0, at, 0]:
            continue
        mean, here = mean_of(sums[2, at, 0], sums[1, at, 0]), region == at
        tables.append(_table(estimated(seen, here, mean), areas[at], level, name, is_share))
        for key, value in (("map_mean", mean), ("area", float(areas[at])), ("sites", int(here.sum()))):
            about[key][name] = value
    if ground.regions is not None:
        note_few(about["sites"])
    table = pd.concat(tables)
    table.attrs = {key: values if ground.regions is not None else values[""] for key, values in about.items()}
    return table


def _table(found: dict[str, Estimate], area: float, level: float, region: str, is_share: bool) -> pd.DataFrame:
    """Return means and totals of one region as a table."""
    rows = []
    for one in found.values():
        mean, error, freedom = np.array(one.mean), np.array(one.standard_error), one.degrees_of_freedom
        columns = limits("mean", mean, error, level, 1.0 if is_share else None, degrees_of_freedom=freedom)
        columns |= limits("total", mean * area, error * area, level, area if is_share else None, degrees_of_freedom=freedom)
        rows.append({name: float(value) for name, value in columns.items()} | {"lambda": one.lam})
    index = pd.Index(found, name="estimator")
    return pd.DataFrame(rows, pd.MultiIndex.from_product([[region], index], names=["region", "estimator"]) if region else index)


def _units(array: xr.DataArray) -> dict[Any, Any]:
    """Return the units of the mean, and of the total: what is per square metre loses that, anything else is times square metres."""
    units = str(array.attrs.get("units", ""))
    parts = _PER_AREA.split(units)
    total = " ".join(filter(None, map(str.strip, parts))) if len(parts) > 1 else f"{units} m2".removeprefix("1 ")
    return {"units": units, "total_units": (total or "1").strip()}
