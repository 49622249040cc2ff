"""Draw a probability sample of a map's pixels, for validation: stratified, without replacement, with exact inclusion probabilities."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr.clusters import computed
from misoxr.cube.join import mark_of
from misoxr.errors import GridError, PointsError, SpecError, did_you_mean, gathered, note
from misoxr.grid.geobox import extent, geobox_of, same_grid
from misoxr.grid.layers import flat, north_up
from misoxr.sampling.candidates import (
    VALIDATION,
    Hashes,
    Integers,
    centres,
    degrees_of,
    hashed,
    key_of,
    least_of_each,
    over_blocks,
    strips,
)
from misoxr.sampling.classes import Legend, plain
from misoxr.spec.numbers import by_name, is_number, is_whole

__all__ = ["allocated", "sample_size", "stratified"]

Floats = npt.NDArray[np.float64]
Allocation = Literal["proportional", "neyman", "equal"]
Accuracy = float | Mapping[str, float]

DESIGN = "stratified simple random sampling of pixels, without replacement"
ROUNDING = 1e-9
"""How far a share of sites may be below a whole number by rounding."""


@gathered
def stratified(
    map: xr.DataArray,
    n: int,
    *,
    allocation: Allocation = "proportional",
    expected_accuracy: Accuracy | None = None,
    strata: xr.DataArray | None = None,
    least: int = 2,
    random_state: int = 0,
) -> gpd.GeoDataFrame:
    """Draw a stratified random sample of a class map's pixels, for validation: the map is read once, block by block.

    Within a stratum, all pixels have the same chance, and every set of them too. The sample is the same for any chunks, scheduler and direction of y.
    Visit all sites, or as many as you can in the order of the table: the first ones are allocated as all are. Keep those without a label in it:
    :func:`misoxr.sampling.areas` needs them. It has nothing to do with what :func:`next_sites` draws by the same seed.

    Parameters
    ----------
    map : DataArray
        A class map (y, x) with ``flag_values`` and ``flag_meanings`` and a CRS: codes with 255 for nodata, as ``predict`` gives it, or floats with
        NaN, as :func:`misoxr.open_maps` does.
    n : int
        Number of sites.
    allocation : {"proportional", "neyman", "equal"}, optional
        How many sites stratum h gets. Fractions are rounded by the largest remainder.

        - "proportional": in proportion to its pixels N_h.
        - "neyman": in proportion to N_h S_h, with S_h = sqrt(U_h (1 - U_h)) of the expected accuracy U_h. The error of the overall accuracy is least.
        - "equal": as many as the others.
    expected_accuracy : float, or mapping or Series of str to float, optional
        For "neyman": user's accuracy that is expected, 0 to 1, of all strata or by the name of each, such as ``areas(...).users``.
    strata : DataArray, optional
        Strata other than the map's classes: a class map on the same grid, such as an older map.
    least : int, optional
        Least number of sites of each stratum that has as many pixels. Standard errors need two.
    random_state : int, optional
        Seed; another one for another sample of the same map.

    Returns
    -------
    GeoDataFrame
        ``n`` pixel centres in the CRS of the map: ``site`` from 1, ``stratum`` and ``map_class`` (names),
        ``inclusion_probability`` (float64; sites over pixels of the stratum), ``lon`` and ``lat`` (degrees, EPSG:4326). ``.attrs`` has
        ``pixels`` and ``sites`` by stratum, ``pixel_area`` (m2 by the CRS; not in degrees, where pixels differ), the design, and the seed.

    Raises
    ------
    SpecError
        If an argument is not valid, an accuracy is missing, n is too small for the strata, or the map's classes are not known.
    PointsError
        If n is larger than the number of pixels.
    GridError
        If there is no regular grid or CRS, or strata lie on another grid.
    BandError
        If pixels hold what is no class.

    Warns
    -----
    MisoxrWarning
        If classes do not occur, all pixels of a stratum are drawn, or pixels of the map have no stratum.

    Notes
    -----
    Pixels are drawn, not areas. On a map in degrees, pixels are smaller towards the poles and have the same chance. Shares of the sample are
    then shares of pixels, and estimates of area weigh each pixel by its area, as :func:`misoxr.sampling.areas` does.

    References
    ----------
    Olofsson et al. 2014, "Good practices for estimating area and assessing accuracy of land change", Remote Sensing of Environment 148, 42-57.

    Examples
    --------
    >>> sample = misoxr.sampling.stratified(maps.taxonomy, 60, allocation="equal")
    """
    _check_numbers(n, allocation, expected_accuracy, least, random_state)
    mapped, other = flat(map, "map"), None if strata is None else flat(strata, "strata")
    legend, mapped = Legend.of(mapped), north_up(mapped)
    other, box = None if other is None else north_up(other), geobox_of(mapped)
    names = legend if other is None else Legend.of(other.rename(other.name or "strata"))
    if other is not None and not same_grid(box, geobox_of(other)):
        raise GridError(
            f"strata cover {extent(geobox_of(other))} and the map {extent(box)}, or have other pixels; put them on the map's grid "
            'first: maps.miso.add("nearest", strata=strata).'
        )
    accuracy = None if expected_accuracy is None else _accuracies(expected_accuracy, names.names)
    found = _drawn(mapped, other, legend, names, n, key_of(random_state, VALIDATION))
    pixels = found.counts[: len(names.names)]
    _say_what_is_there(found, legend, names)
    if n > pixels.sum():
        raise PointsError(f"n is {n} and the map {legend.name!r} has {pixels.sum()} pixels with a class; ask for fewer sites.")
    many = _sites_of(n, pixels, allocation, accuracy, least, names)
    return _table(found, many, legend, names, box, {"allocation": allocation, "random_state": random_state} | mark_of(map.attrs))


def sample_size(map: "xr.DataArray | Mapping[str, float]", expected_accuracy: Accuracy, standard_error: float) -> int:
    """Return how many sites estimate the overall accuracy with a standard error: (sum of W_i S_i / standard error) squared, rounded up.

    Parameters
    ----------
    map : DataArray, or mapping or Series of str to float
        A class map, which is counted block by block, or the shares W_i of its classes by name (or their areas, or pixels).
    expected_accuracy : float, or mapping or Series of str to float
        User's accuracy U_i that is expected, of all classes or by the name of each; S_i = sqrt(U_i (1 - U_i)).
    standard_error : float
        Standard error of the overall accuracy to aim at, such as 0.01.

    Returns
    -------
    int
        Number of sites, where they are allocated in proportion or nearly so.

    Raises
    ------
    SpecError
        If a number is not valid, an accuracy is missing, or all are 0 or 1.

    References
    ----------
    Olofsson et al. 2014, equation 13, after Cochran 1977, equation 5.25.

    Examples
    --------
    >>> n = misoxr.sampling.sample_size({"change": 0.035, "forest": 0.32, "other": 0.645}, {"change": 0.66, "forest": 0.9, "other": 0.95}, 0.01)
    """
    if not is_number(standard_error) or not 0 < standard_error < 1:
        raise SpecError(f"standard_error is {standard_error!r}; give a number between 0 and 1, such as 0.01.")
    map = by_name(map, "map")
    if isinstance(map, Mapping):
        names, shares = tuple(str(name) for name in map), np.array([*map.values()], dtype="float64")
        if not len(names) or not np.isfinite(shares).all() or (shares < 0).any() or not shares.sum() > 0:
            raise SpecError(f"map is {dict(map)!r}; give the share of each class, 0 or more.")
    else:
        mapped = flat(map, "map")
        legend = Legend.of(mapped)
        found = _drawn(mapped, None, legend, legend, 0, 0)
        _say_what_is_there(found, legend, legend)
        names, shares = legend.names, found.counts[: len(legend.names)].astype("float64")
    deviations = _deviations(_accuracies(expected_accuracy, names), names, shares > 0)
    _refuse_sure(shares * deviations)
    return math.ceil((float(shares @ deviations) / float(shares.sum()) / standard_error) ** 2 - ROUNDING)


def allocated(n: int, amounts: Floats, least: Integers, most: Integers) -> Integers:
    """Share n sites in proportion to amounts, with a least and a greatest number for each stratum, by the largest remainder.

    Parameters
    ----------
    n : int
        From the sum of the least numbers to that of the greatest.
    amounts : array
        Not negative.
    least, most : array of int
        For each stratum; a stratum without an amount gets more than its least only where all others are full.
    """
    # A little of everything, for sites that find no room elsewhere.
    weights = most.astype("float64") / max(int(most.sum()), 1)
    weights = amounts / amounts.sum() + 1e-12 * weights if amounts.any() else weights
    low, high = 0.0, float(most.max(initial=0)) / float(weights[most > 0].min(initial=1.0)) + 1.0
    for _ in range(2000):  # the factor by which amounts become sites grows until there are n
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if np.clip(middle * weights, least, most).sum() < n else (low, middle)
    ideal = np.clip(high * weights, least, most)
    got = np.floor(ideal + ROUNDING * np.maximum(ideal, 1.0)).astype("int64")
    order = np.argsort(np.where(got < most, got - ideal, np.inf), kind="stable")
    got[order[: max(n - int(got.sum()), 0)]] += 1
    return got


@dataclass(frozen=True)
class Strata:
    """Pixels by stratum, and those that were drawn.

    Attributes
    ----------
    counts : array
        Pixels of each stratum; behind them those of the map without a stratum, and those that are no stratum.
    wrong : int
        Pixels that hold no class of the map.
    stratum, index, hashes, classes : array
        Of each pixel that was drawn: its stratum, number, hash, and class; by stratum, and from the least hash on.
    """

    counts: Integers
    wrong: int
    stratum: Integers
    index: Integers
    hashes: Hashes
    classes: Integers


def _drawn(mapped: xr.DataArray, other: xr.DataArray | None, legend: Legend, names: Legend, n: int, key: int) -> Strata:
    """Count strata, and draw the n first pixels of each: as many as there may be."""
    arrays = [mapped.data] if other is None else [mapped.data, other.data]
    about: Any = {"legend": legend, "names": names, "count": n, "key": key, "width": mapped.sizes["x"]}
    (found,) = computed(over_blocks(_block, arrays, partial(_merged, count=n), **about))
    assert isinstance(found, Strata)
    return found


def _block(
    rows: Integers,
    columns: Integers,
    inside: None,
    *codes: npt.NDArray[Any],
    legend: Legend,
    names: Legend,
    count: int,
    key: int,
    width: int,
) -> Strata:
    parts = []
    for strip in strips(codes[0].shape):
        classes = legend.numbers(codes[0][strip])
        stratum = classes if len(codes) == 1 else names.numbers(codes[1][strip])
        valid = classes < len(legend.names)
        counts = np.bincount(stratum[valid], minlength=len(names.names) + 2)
        flat = np.flatnonzero(valid & (stratum < len(names.names))) if count else np.empty(0, np.intp)
        index = rows[strip][flat // len(columns)] * width + columns[flat % len(columns)]
        hashes, own = hashed(index, key), stratum.ravel()[flat].astype("int64")
        chosen = least_of_each(own, hashes, count)
        wrong = int((classes == len(legend.names) + 1).sum())
        drawn = classes.ravel()[flat[chosen]].astype("int64")
        parts.append(Strata(counts.astype("int64"), wrong, own[chosen], index[chosen], hashes[chosen], drawn))
    return _merged(parts, count)


def _merged(parts: Sequence[Strata], count: int) -> Strata:
    joined = {name: np.concatenate([getattr(one, name) for one in parts]) for name in ("stratum", "index", "hashes", "classes")}
    chosen = least_of_each(joined["stratum"], joined["hashes"], count)
    counts = np.asarray(np.sum([one.counts for one in parts], axis=0))
    return Strata(counts, sum(one.wrong for one in parts), **{name: own[chosen] for name, own in joined.items()})


def _say_what_is_there(found: Strata, legend: Legend, names: Legend) -> None:
    """Refuse what is no class, and tell classes that do not occur, and pixels without a stratum."""
    legend.refuse(found.wrong)
    names.refuse(int(found.counts[-1]))
    absent = [name for name, count in zip(names.names, found.counts, strict=False) if not count]
    if len(absent) == len(names.names):
        raise PointsError(f"The map {legend.name!r} has no pixel with a class; give one that has.")
    if absent:
        note(f"The strata {absent} have no pixel, and get no site.")
    if found.counts[-2] and names is not legend:
        note(f"{found.counts[-2]} pixels of the map have no stratum and are not sampled: estimates will not hold for them.")


def _check_numbers(n: Any, allocation: Any, expected_accuracy: Any, least: Any, random_state: Any) -> None:
    for name, value, bound in (("n", n, 1), ("least", least, 1), ("random_state", random_state, 0)):
        if not is_whole(value) or value < bound:
            raise SpecError(f"{name} is {value!r}; give a whole number of {bound} or more.")
    if allocation not in get_args(Allocation):
        known = get_args(Allocation)
        raise SpecError(f"Unknown allocation {allocation!r}; use one of {known}.{did_you_mean(str(allocation), known)}")
    if allocation == "neyman" and expected_accuracy is None:
        raise SpecError(
            "allocation='neyman' needs expected_accuracy: one user's accuracy for all strata, such as 0.8, or a mapping by the name of each."
        )
    if allocation != "neyman" and expected_accuracy is not None:
        raise SpecError(f"expected_accuracy belongs to allocation='neyman', and allocation is {allocation!r}; leave it out.")


def _accuracies(expected: Any, names: Sequence[str]) -> Floats:
    """Return the accuracy that is expected of each stratum; NaN where none is named."""
    own, expected = {plain(name): name for name in names}, by_name(expected, "expected_accuracy")
    known = {own.get(plain(name), name): value for name, value in expected.items()} if isinstance(expected, Mapping) else None
    several = dict.fromkeys(names, expected) if known is None else known
    for name, value in several.items():
        if name not in names:
            raise SpecError(f"expected_accuracy names {name!r}, which is none of {list(names)}.{did_you_mean(str(name), names)}")
        if not is_number(value) or not 0 <= value <= 1:
            raise SpecError(f"The expected accuracy of {name!r} is {value!r}; give a number from 0 to 1.")
    return np.array([several.get(name, np.nan) for name in names], dtype="float64")


def _deviations(accuracies: Floats, names: Sequence[str], present: npt.NDArray[np.bool_]) -> Floats:
    """Return S = sqrt(U (1 - U)) of strata that are there, 0 of others."""
    missing = [name for name, value, here in zip(names, accuracies, present, strict=True) if here and np.isnan(value)]
    if missing:
        raise SpecError(f"expected_accuracy lacks {missing}; give one for each stratum that occurs.")
    return np.where(present, np.sqrt(np.nan_to_num(accuracies * (1 - accuracies))), 0.0)


def _refuse_sure(amounts: Floats) -> None:
    """Refuse accuracies that leave no stratum (stratum,) any error."""
    if not amounts.any():
        raise SpecError("expected_accuracy is 0 or 1 in all strata, which leaves nothing to estimate; give what may be wrong.")


def _sites_of(n: int, pixels: Integers, allocation: str, accuracy: Floats | None, least: int, names: Legend) -> Integers:
    """Return the number of sites of each stratum."""
    floor = np.minimum(pixels, least)
    if n < floor.sum():
        raise SpecError(
            f"n is {n}, and {int((pixels > 0).sum())} strata with at least {least} sites each need {floor.sum()}; ask for more sites, or for a smaller least."
        )
    if accuracy is not None:
        amounts = pixels * _deviations(accuracy, names.names, pixels > 0)
        _refuse_sure(amounts)
    else:
        amounts = pixels.astype("float64") if allocation == "proportional" else (pixels > 0).astype("float64")
    many = allocated(n, amounts, floor, pixels)
    whole = [f"{name} ({size})" for name, size, drawn in zip(names.names, pixels, many, strict=True) if size and size == drawn]
    if whole:
        note(f"All pixels of strata are drawn: {', '.join(whole)}. More sites than they have pixels went to the others.")
    return many


def _table(found: Strata, many: Integers, legend: Legend, names: Legend, box: GeoBox, settings: dict[str, Any]) -> gpd.GeoDataFrame:
    starts = np.searchsorted(found.stratum, found.stratum)  # where each pixel's stratum begins
    chosen = np.flatnonzero(np.arange(len(found.stratum)) - starts < many[found.stratum])
    # By the share of its stratum's sites that comes before each, so that any first part of the table keeps the allocation.
    rank = (chosen - starts[chosen] + 0.5) / many[found.stratum[chosen]]
    chosen = chosen[np.lexsort((found.hashes[chosen], rank))]
    stratum, pixels = found.stratum[chosen], found.counts[: len(many)]
    xy = centres(found.index[chosen], box)
    lon, lat = degrees_of(xy, box)
    columns = {
        "site": np.arange(1, len(chosen) + 1),
        "stratum": np.array(names.names, dtype=object)[stratum],
        "inclusion_probability": many[stratum] / pixels[stratum],
        "map_class": np.array(legend.names, dtype=object)[found.classes[chosen]],
        "lon": lon,
        "lat": lat,
    }
    table = gpd.GeoDataFrame(columns, geometry=gpd.points_from_xy(xy[:, 0], xy[:, 1]), crs=str(box.crs))
    here = [at for at, size in enumerate(pixels) if size]
    table.attrs = {
        "map": legend.name,
        "design": DESIGN,
        **settings,
        "pixels": {names.names[at]: int(pixels[at]) for at in here},
        "sites": {names.names[at]: int(many[at]) for at in here},
    }
    if box.crs is not None and not box.crs.geographic:
        unit = float(box.crs.proj.axis_info[0].unit_conversion_factor)
        table.attrs["pixel_area"] = abs(box.affine.a * box.affine.e) * unit**2
    return table
