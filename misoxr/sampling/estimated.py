"""Areas of classes and accuracies of a class map, from reference sites that were drawn at random, with their standard errors."""

from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr

from misoxr.errors import SpecError, gathered
from misoxr.sampling.compared import Compared, from_map, from_matrix
from misoxr.sampling.counts import checked_unit
from misoxr.sampling.estimators import checked_level, limits, ratio

__all__ = ["accuracy", "areas"]

ACCURACIES = ("users", "producers")


@gathered
def areas(
    map: xr.DataArray | None = None,
    reference: gpd.GeoDataFrame | None = None,
    level: float = 0.95,
    *,
    by: gpd.GeoDataFrame | None = None,
    assume_random: bool = False,
    matrix: Any = None,
    pixels: Any = None,
    pixel_area: float | None = None,
    unit: str = "km2",
) -> pd.DataFrame:
    """Estimate the area of each class, and the accuracies of a class map, from reference sites.

    Pixels are counted block by block, and the map is read once. Sites correct what the map leaves out and puts in.

    Parameters
    ----------
    map : DataArray, optional
        A class map (y, x) with ``flag_values`` and ``flag_meanings``, such as ``maps.permafrost``; lazy, of any size. Its name is that of the
        reference's column.
    reference : GeoDataFrame, optional
        Sites, as :func:`misoxr.sampling.stratified` draws them. A column named as the map holds what was seen: names or codes. ``stratum`` and
        ``inclusion_probability`` tell how each site was drawn. Keep the rows of sites that were not visited, with an empty label.
    level : float, optional
        Of the intervals.
    by : GeoDataFrame, optional
        Polygons, such as permafrost zones. Areas are those within each. They are named by a column "name", or by the index without one.
    assume_random : bool, optional
        Take sites without ``stratum`` and ``inclusion_probability`` as drawn at random, stratified afterwards by the map's classes. The result says so.
    matrix : DataFrame or array, optional
        Instead of a map and sites: counts of sites, with the map's classes as rows and the reference's as columns. Strata are the map's classes.
        Names go before the order. Leave sums of rows and columns out.
    pixels : sequence, mapping or Series, optional
        Pixels of each class in the map, with ``matrix``.
    pixel_area : float, optional
        Area of a pixel, m2, with ``matrix``.
    unit : {"km2", "ha", "m2"}, optional
        Unit of the areas.

    Returns
    -------
    DataFrame
        A row for each class that the map or the reference has; with ``by``, for each region and class, and a region "none" for the rest.
        ``pixels`` and ``mapped_area`` are counted; ``area``, ``area_se``, ``area_lower`` and ``area_upper`` are estimated; as are ``users`` (of what is mapped
        as the class, the share that is right) and ``producers`` (of what is the class, the share that is mapped), which have the same endings. A column
        ``assumed_random`` is there where that was assumed. In ``attrs``: ``overall`` accuracy with the same endings, ``level``, ``unit``, the number of
        ``sites``, the ``estimator`` and the ``assumption``; with ``by``, ``overall`` and ``sites`` are mappings by region.

    Raises
    ------
    PointsError
        If the reference is no probability sample, its probabilities do not fit the map, a class of the map or a stratum has no site, sites lie outside the
        map or on its nodata, or labels are no classes.
    SpecError
        If the map has no classes, arguments contradict each other, or there is one class only.
    GridError, BandError
        If the map has no grid or CRS, or holds what is no class.

    Warns
    -----
    MisoxrWarning
        If sites have no label, the reference has classes that the map lacks, a stratum has one site only or its sites all agree, a region has fewer
        than 10, or sites are assumed to be random.

    Notes
    -----
    Where strata are the map's classes, these are the estimators of Olofsson et al. (2014); elsewhere those of Stehman (2014), for means and ratios
    of indicator variables. Areas are true ones on the ellipsoid. Where pixels differ in area, sites count by the area of their pixel. The estimators then
    meet the area of each stratum exactly if strata are the map's classes (separate ratio estimator), and that of the whole map otherwise (combined). Areas
    within polygons are the estimated share of the polygon times its area. Intervals are those of the normal distribution, and end at 0 and at
    the whole. They are too short for classes with few sites: where all agree, they have no length. Intervals by region are Student's, with as many degrees of freedom
    as the region has sites, less the strata that these are of. Where more than 5 % of a stratum was sampled, its variance is multiplied by the share
    that was not (finite population correction); below, strata are taken to be much larger than their samples.

    References
    ----------
    Olofsson et al. 2014, Remote Sensing of Environment 148, 42-57. Stehman 2014, International Journal of Remote Sensing 35, 4923-4939. Cochran 1977,
    Sampling techniques, chapter 6 (ratio estimators).

    Examples
    --------
    >>> counts = [[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]]
    >>> pixels = [200_000, 150_000, 3_200_000, 6_450_000]
    >>> table = misoxr.sampling.areas(matrix=counts, pixels=pixels, pixel_area=900, unit="ha")
    """
    checked_level(level)
    divisor = checked_unit(unit)
    if matrix is not None and pixel_area is None:
        raise SpecError(
            "matrix is given without pixel_area; give the area of a pixel in m2, such as 900, or take misoxr.sampling.accuracy."
        )
    found = _compared(map, reference, by, assume_random, matrix, pixels, pixel_area)
    table = pd.concat([_areas(found, region, level, divisor) for region in found.shown])
    return _with_attributes(found, table, level, unit=unit)


@gathered
def accuracy(
    map: xr.DataArray | None = None,
    reference: gpd.GeoDataFrame | None = None,
    level: float = 0.95,
    *,
    by: gpd.GeoDataFrame | None = None,
    assume_random: bool = False,
    matrix: Any = None,
    pixels: Any = None,
) -> pd.DataFrame:
    """Estimate the overall, user's and producer's accuracies of a class map from reference sites.

    :func:`misoxr.sampling.areas` gives them beside the areas, of one pass over the map.

    Parameters
    ----------
    map, reference, level, by, assume_random, matrix, pixels : optional
        As for :func:`misoxr.sampling.areas`.

    Returns
    -------
    DataFrame
        The columns ``users`` and ``producers`` of :func:`misoxr.sampling.areas`, with ``_se``, ``_lower`` and ``_upper``, and its ``attrs``, but for the unit.

    Raises
    ------
    PointsError, SpecError, GridError, BandError
        As :func:`misoxr.sampling.areas`.

    Warns
    -----
    MisoxrWarning
        As :func:`misoxr.sampling.areas`.

    Examples
    --------
    >>> table = misoxr.sampling.accuracy(matrix=[[45, 5], [10, 40]], pixels=[300_000, 700_000])
    >>> overall, error = table.attrs["overall"], table.attrs["overall_se"]
    """
    checked_level(level)
    found = _compared(map, reference, by, assume_random, matrix, pixels, 1.0 if matrix is not None else None)
    table = pd.concat([_accuracies(found, region, level) for region in found.shown])
    return _with_attributes(found, table, level)


def _compared(
    array: xr.DataArray | None, reference: Any, by: Any, assume_random: bool, matrix: Any, pixels: Any, pixel_area: float | None
) -> Compared:
    """Compare a map with its reference, or take a matrix of counts: one of the two."""
    if matrix is None:
        extra = [name for name, value in (("pixels", pixels), ("pixel_area", pixel_area)) if value is not None]
        if extra:
            raise SpecError(f"{' and '.join(extra)} go with matrix=; of a map, pixels and their areas are counted.")
        if array is None or reference is None:
            raise SpecError("Give a map and its reference, or matrix= with pixels=.")
        return from_map(array, reference, by, assume_random)
    if array is not None or reference is not None or by is not None or assume_random:
        raise SpecError("matrix= goes without a map, reference, by and assume_random; give one or the other.")
    return from_matrix(matrix, pixels, pixel_area)


def _areas(found: Compared, region: int, level: float, divisor: float) -> pd.DataFrame:
    """Return the areas and accuracies of one region."""
    whole, kept = found.area[region].sum() / divisor, found.kept
    _, reference = found.pairs
    inside = ~found.outside[None]
    share, error, freedom = _ratio(found, region, reference == np.arange(len(found.names))[:, None], inside)
    table = pd.DataFrame({"pixels": found.pixels[region].astype("int64"), "mapped_area": found.area[region] / divisor})
    estimated = limits("area", share * whole, error * whole, level, whole, degrees_of_freedom=freedom)
    return table.assign(**estimated)[kept].set_axis(found.index(region)).join(_accuracies(found, region, level))


def _ratio(found: Compared, region: int, above: Any, below: Any) -> tuple[Any, Any, Any]:
    """Return ratios of a region, their standard errors (NaN below two sites), and degrees of freedom (None: normal)."""
    cells, weights = found.cells(region)
    share = ratio(cells, weights, above, below, separate=found.separate, drawn=found.drawn)
    error = np.where(found.sites(region, below) > 1, np.sqrt(share.variance), np.nan)
    return share.value, error, found.degrees_of_freedom(region, below)


def _accuracies(found: Compared, region: int, level: float) -> pd.DataFrame:
    """Return the user's and producer's accuracies of one region."""
    mapped, reference = found.pairs
    classes = np.arange(len(found.names))[:, None]
    columns: dict[str, Any] = {}
    for name, below in zip(ACCURACIES, (mapped == classes, reference == classes), strict=True):
        share, error, freedom = _ratio(found, region, (mapped == classes) & (reference == classes), below)
        columns |= limits(name, share, error, level, 1.0, degrees_of_freedom=freedom)
    table = pd.DataFrame(columns)[found.kept].set_axis(found.index(region))
    return table.assign(assumed_random=True) if found.assumed else table


def _overall(found: Compared, region: int, level: float) -> dict[str, float]:
    mapped, reference = found.pairs
    share, error, freedom = _ratio(found, region, ((mapped == reference) & ~found.outside)[None], ~found.outside[None])
    return {
        name: float(value[0]) for name, value in limits("overall", share, error, level, 1.0, degrees_of_freedom=freedom).items()
    }


def _with_attributes(found: Compared, table: pd.DataFrame, level: float, **more: str) -> pd.DataFrame:
    """Say in the attributes what holds for all classes."""
    overall = {found.regions[region]: _overall(found, region, level) for region in found.shown}
    sites = {found.regions[region]: int(found.sites(region)) for region in found.shown}
    by_name: dict[str, Any] = {
        name: {region: values[name] for region, values in overall.items()} for name in next(iter(overall.values()))
    }
    every = {**by_name, "sites": sites}
    own: dict[Any, Any] = {name: values if found.by_region else next(iter(values.values())) for name, values in every.items()}
    table.attrs = {**own, "level": level, "estimator": found.estimator, "assumption": found.assumption}
    table.attrs.update(more)
    return table
