"""Mean and total of a quantity over a map, from reference sites that were drawn at random and from the map beside them."""

from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from misoxr.errors import BandError, PointsError, SpecError, gathered, note
from misoxr.points.readers import number_of
from misoxr.sampling.classes import has_classes
from misoxr.sampling.compared import ASSUMED, DRAWN
from misoxr.sampling.counts import Ground, flat, mean_of, read_once, value_sums
from misoxr.sampling.estimators import Cells, checked_level, expansion, limits, variance
from misoxr.sampling.reference import Sites, agree, sites_of

__all__ = ["Estimate", "Seen", "estimated", "mean", "tuned"]

Floats = npt.NDArray[np.float64]

ESTIMATORS = ("prediction_powered", "difference", "sample")


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
    """

    truth: Floats
    mapped: Floats
    area: Floats
    stratum: npt.NDArray[np.intp]
    weights: Floats


class Estimate(NamedTuple):
    """A mean, its standard error, the share of the map in it (lambda), and the degrees of freedom of its error."""

    mean: float
    error: float
    share: float
    freedom: int


@gathered
def mean(
    map: xr.DataArray,
    reference: gpd.GeoDataFrame,
    level: float = 0.95,
    *,
    by: gpd.GeoDataFrame | None = None,
    assume_random: bool = False,
) -> pd.DataFrame:
    """Estimate the mean and total of a quantity, from a map of it and reference sites.

    Sites correct the map's mean, and the map makes the sites' interval shorter, as far as it tells what sites show. The map is read once, block by block.

    Parameters
    ----------
    map : DataArray
        A map of values (y, x), such as ``maps.soc``; lazy, of any size. Its name is that of the reference's column. It may also be a probability, with a column of
        0 and 1: the mean is then the share of the area.
    reference : GeoDataFrame
        Sites with the values seen, and ``stratum`` and ``inclusion_probability``, as for :func:`misoxr.sampling.areas`.
    level : float, optional
        Of the intervals.
    by : GeoDataFrame, optional
        Polygons, as for :func:`misoxr.sampling.areas`.
    assume_random : bool, optional
        Take sites without ``stratum`` and ``inclusion_probability`` as drawn at random from the whole map. The result says so.

    Returns
    -------
    DataFrame
        A row for each estimator; with ``by``, for each region and estimator. "prediction_powered": the map's mean times lambda, and the sites' mean of what
        then is left (power-tuned: lambda makes the variance least). "difference": lambda is 1. "sample": lambda is 0, the sites alone. Columns
        ``mean``, ``mean_se``, ``mean_lower``, ``mean_upper``; ``total``, mean times area, with the same endings; and ``lambda``. A column ``assumed_random`` is there where
        that was assumed. In ``attrs``: ``map_mean``, ``area`` (m2) and ``sites``, by region with ``by``; ``units`` and ``total_units``; ``level`` and ``assumption``.

    Raises
    ------
    PointsError
        As :func:`misoxr.sampling.areas`, or if a value is no number.
    SpecError
        If the map holds classes, or arguments contradict each other.
    GridError, BandError
        If the map has no grid or CRS, or no value.

    Warns
    -----
    MisoxrWarning
        As :func:`misoxr.sampling.areas`.

    Notes
    -----
    Means are weighted by true areas. Strata may be any; their pixels follow from ``inclusion_probability``. Intervals are Student's with as many degrees of
    freedom as sites less strata, one less for the tuned estimator. Lambda is that of all sites, also by region. The map's values must not come from a model
    that learnt from these sites: it would know them better than the rest.

    References
    ----------
    Difference estimator: Särndal, Swensson & Wretman 1992, Model assisted survey sampling, 6.3. Prediction-powered inference: Angelopoulos et al. 2023, Science
    382, 669-674; power-tuned: Angelopoulos, Duchi & Zrnic 2024, arXiv 2311.01453. There the map's mean is itself a sample's; here it is of all pixels, and exact.

    Examples
    --------
    >>> at = np.random.default_rng(0).choice(image.slope.size, 30, replace=False)
    >>> rows, columns = np.unravel_index(at, image.slope.shape)
    >>> places = gpd.points_from_xy(image.x[columns], image.y[rows], crs="EPSG:3338")
    >>> drawn = {"slope": 5.0 + image.slope.values[rows, columns], "stratum": "all", "inclusion_probability": 30 / image.slope.size}
    >>> table = misoxr.sampling.mean(image.slope, gpd.GeoDataFrame(drawn, geometry=places))
    """
    checked_level(level)
    array = flat(map)
    _check(array)
    name, ground = str(array.name), Ground.of(array, by)
    sites = sites_of(reference, name, ground.geobox, assume_random).seen()
    sums, mapped, region = read_once(value_sums(array.data, ground), array.data, ground, sites.rows, sites.columns)
    valid = np.isfinite(mapped)
    seen, region = _seen(sites.check_on_map(valid), mapped[valid].astype("float64"), ground, sums), region[valid]
    few = int((np.bincount(seen.stratum) < 2).sum())
    if few:
        note(
            f"{few} of {len(seen.weights)} strata have one site only, so there are no standard errors; visit at least two of each."
        )
    table = _by_region(seen, region, sums, ground, level)
    table.attrs |= {**_units(array), "level": level, "assumption": ASSUMED if assume_random else DRAWN}
    return table.assign(assumed_random=True) if assume_random else table


def tuned(seen: Seen) -> float:
    """Return the lambda that makes the variance of the prediction-powered mean least; 0 where the map is the same at all sites."""
    weight = seen.area * seen.weights[seen.stratum]
    truth, mapped = (seen.area * (one - (weight * one).sum() / weight.sum()) for one in (seen.truth, seen.mapped))
    own, both, apart = (_spread(values, seen.stratum, seen.weights) for values in (mapped, truth + mapped, truth - mapped))
    return float((both - apart) / (4 * own)) if own > 0 else 0.0  # a covariance is a difference of variances


def _spread(values: Floats, stratum: npt.NDArray[np.intp], weights: Floats) -> float:
    """Return the variance of the sum over strata of weights times sums."""
    count, sums = np.bincount(stratum).astype("float64"), np.bincount(stratum, values)
    deviations = values - (sums / count)[stratum]
    return float(variance(count, np.zeros_like(sums), np.bincount(stratum, deviations**2).astype("float64"), weights))


def _check(array: xr.DataArray) -> None:
    if array.name is None:
        raise SpecError("The map has no name, so its column of the reference is not known; name it: map.rename('soc').")
    if has_classes(array):
        raise SpecError(f"The map {array.name!r} holds classes, which have no mean; take misoxr.sampling.areas.")
    if array.dtype.kind != "f":
        raise BandError(f"The map {array.name!r} holds {array.dtype}; give floats, with NaN for nodata.")


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
        raise PointsError(
            f"Values of {sites.labels.name!r} are no numbers, such as {sites.labels.iloc[numbers.index(None)]!r}; write numbers."
        )
    area, many = ground.areas.at(sites.rows, sites.columns), len(sites.strata)
    cells = Cells(*(np.bincount(sites.stratum, area**power, minlength=many)[:, None].astype("float64") for power in range(3)))
    sizes = np.array([pixels]) if sites.sizes is None else sites.sizes
    weights = expansion(cells, sizes, total=float(ground.areas.metres(sums[1].sum())))
    return Seen(np.array(numbers, "float64"), mapped, area, sites.stratum, weights)


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
    lam, bottom, several = tuned(seen), weight[here].sum(), int(here.sum()) > 1
    freedom = len(weight) - len(seen.weights)
    out = {}
    for name, share, lost in zip(ESTIMATORS, (lam, 1.0, 0.0), (1, 0, 0), strict=True):
        if not here.any():
            out[name] = Estimate(np.nan, np.nan, share, 1)
            continue
        left = seen.truth - share * seen.mapped
        mean = (weight * left)[here].sum() / bottom
        spread = _spread(np.where(here, seen.area * (left - mean), 0.0), seen.stratum, seen.weights) if several else np.nan
        out[name] = Estimate(mean + share * map_mean, np.sqrt(spread) / bottom, share, max(freedom - lost, 1))
    return out


def _by_region(seen: Seen, region: npt.NDArray[np.intp], sums: Any, ground: Ground, level: float) -> pd.DataFrame:
    """Return the estimates of every region that has a name, and of the rest where there is any."""
    last, areas, tables = len(ground.names) - 1, ground.areas.metres(sums[1, :, 0]), []
    about: dict[str, dict[str, Any]] = {"map_mean": {}, "area": {}, "sites": {}}
    for at, name in enumerate(ground.names):
        if name and at == last and not sums[0, at, 0]:
            continue
        mean, here = mean_of(sums[2, at, 0], sums[1, at, 0]), region == at
        tables.append(_table(estimated(seen, here, mean), areas[at], level, name))
        for key, value in (("map_mean", mean), ("area", float(areas[at])), ("sites", int(here.sum()))):
            about[key][name] = value
    table = pd.concat(tables)
    table.attrs = {key: values if ground.regions is not None else values[""] for key, values in about.items()}
    return table


def _table(found: dict[str, Estimate], area: float, level: float, region: str) -> pd.DataFrame:
    """Return means and totals of one region as a table."""
    rows = []
    for one in found.values():
        mean, error = np.array(one.mean), np.array(one.error)
        columns = limits("mean", mean, error, level, freedom=one.freedom)
        columns |= limits("total", mean * area, error * area, level, freedom=one.freedom)
        rows.append({name: float(value) for name, value in columns.items()} | {"lambda": one.share})
    index = pd.Index(found, name="estimator")
    return pd.DataFrame(rows, pd.MultiIndex.from_product([[region], index], names=["region", "estimator"]) if region else index)


def _units(array: xr.DataArray) -> dict[Any, Any]:
    """Return the units of the mean, and of the total: what is per square metre loses that, anything else is times square metres."""
    units = str(array.attrs.get("units", ""))
    parts = units.split()
    total = " ".join(part for part in parts if part != "m-2") if "m-2" in parts else f"{units} m2".removeprefix("1 ")
    return {"units": units, "total_units": (total or "1").strip()}
