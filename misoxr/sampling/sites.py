"""Choose where to sample next: sites that cover the covariates, or lie where a map does not know."""

from collections.abc import Mapping, Sequence
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pyproj
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr.cube.decode import decoded, is_class
from misoxr.cube.join import mark_of
from misoxr.cube.scaling import fill_beyond, limits_beside_fills
from misoxr.errors import BandError, GridError, PointsError, SpecError, did_you_mean, gathered, note
from misoxr.grid.geobox import beside, crs_of, extent, geobox_of, located, pixels
from misoxr.grid.halo import in_blocks
from misoxr.grid.layers import north_up, squeezed
from misoxr.grid.resample import on_grid
from misoxr.points.clusters import coordinates_of
from misoxr.sampling.candidates import SITES, Drawn, Layer, Question, centres, degrees_of, key_of, layer_of, read
from misoxr.sampling.methods import METHODS, Method, Pool, covariates_of, is_degrees, ranks, uncertainties_of
from misoxr.sampling.regions import Regions, regions_on
from misoxr.sampling.searches import Spacing
from misoxr.spec.numbers import in_full, is_number, is_whole

__all__ = ["next_sites"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

CANDIDATES = 50_000
"""Pixels of which sites are chosen, by default."""
COST = "a raster's cost"
"""Key of the cost among the layers; no variable has this name."""


@gathered
def next_sites(
    maps: xr.Dataset,
    n: int,
    *,
    method: Method | None = None,
    by: str | Sequence[str] | None = None,
    weight: str | Sequence[str] | None = None,
    existing: gpd.GeoDataFrame | None = None,
    least_distance: float | None = None,
    cost: "xr.DataArray | gpd.GeoDataFrame | None" = None,
    cost_weight: float = 1.0,
    within: gpd.GeoDataFrame | None = None,
    candidates: int = CANDIDATES,
    random_state: int = 0,
) -> gpd.GeoDataFrame:
    """Choose sites for the next field season, from a map or an image of any size: it is read once, block by block.

    Sites are chosen among pixels that are drawn at random from all that are valid: the same ones for any chunks, scheduler and direction of y.

    Parameters
    ----------
    maps : Dataset
        Covariates, a map, or both (``image.merge(maps)``), over y and x with a CRS; lazy or in memory. Pixels that are NaN, or the fill
        value of a class map, in any variable that is used are never chosen, nor are those that ``excluded`` leaves out.
    n : int
        Number of sites.
    method : {"kmeans", "clhs", "uncertainty", "random"}, optional
        By default "uncertainty" where the dataset tells what is not known, and neither ``by`` nor ``weight`` is given; else "kmeans". "kmeans" is feature-space coverage: sites are the pixels nearest to centres of k-means of the standardised covariates, and existing
        points are centres that stay. "clhs" is a conditioned Latin hypercube: each quantile of each covariate has one site, counting existing points,
        and covariates have the map's correlations. "uncertainty" puts more sites where less is known: 5 strata of it get sites in
        proportion to it, and within each stratum they are spread over space, away from existing points. "random" is the baseline.
    by : str or sequence of str, optional
        The variables that choose. For "uncertainty", what tells how little is known: by default ``dissimilarity_index`` and, for each task, the
        first there is of ``<task>_entropy``, ``<task>_set_size``, ``<task>_std``, and 1 - the greatest of ``<task>_probability``; of
        several, the mean of their ranks counts. For the others, the covariates: by default all continuous variables that are no answer of a model and no count of observations. A note names
        them where a mapped value may be among them. "clhs"
        takes classes, too, if they are named. A variable (feature, y, x), such as an embedding, counts as many.
    weight : str or sequence of str, optional
        For "kmeans": pixels weigh as much as they are uncertain by these variables, as in ``by`` of "uncertainty" (the share of pixels that are less so).
    existing : GeoDataFrame, optional
        Points that have been sampled already, in any CRS. Their pixels are not chosen.
    least_distance : float, optional
        Least distance between sites, and from existing points, in units of the CRS, which must be projected.
    cost : DataArray or GeoDataFrame, optional
        A raster of what it costs to get to a pixel, on any grid with a CRS; where it is NaN, no site is chosen. Or roads, or other places to start from: the
        distance to the nearest one is the cost, in units of the map's CRS, which must be projected.
    cost_weight : float, optional
        How much cost counts against the method's own objective; 0 leaves the choice as it is. Costs enter by their ranks, 0 to 1, so that their
        units do not matter. "kmeans" and "uncertainty" choose the pixel with the least sum of squared distance to its centre, over the
        cluster's mean, and weighted cost; for the latter's centres, pixels weigh exp(-weighted cost). "clhs" adds the weighted costs of all
        sites, times the number of covariates, to its objective. Of "random", cost only leaves out pixels where it is NaN.
    within : GeoDataFrame, optional
        Polygons, in any CRS, to stay in.
    candidates : int, optional
        Pixels to draw, of which sites are chosen.
    random_state : int, optional
        Seed of all that is drawn.

    Returns
    -------
    GeoDataFrame
        ``n`` pixel centres in the CRS of the map. Of "kmeans" and "uncertainty", sites that matter most come first. Columns:

        - ``site``: from 1.
        - ``stratum`` ("uncertainty"): 1 is where most is known.
        - ``uncertainty`` ("uncertainty", or "kmeans" with ``weight``): 0 to 1.
        - ``share`` ("kmeans"): the share of the candidates' weight that is nearest to the site's centre.
        - ``cost``, where it is given.
        - the variables that chose, with their values.
        - ``lon`` and ``lat``: degrees, EPSG:4326.

        ``.attrs`` has the method, its variables, the seed, and the numbers of pixels and candidates.

    Raises
    ------
    SpecError
        If an argument is not valid, or does not belong to the method.
    BandError
        If a variable is missing or cannot be used, or none tells what the method needs; or if a variable or the cost has a usual fill value,
        such as -9999, far from all others.
    GridError
        If there is no regular grid or CRS, a cost raster has no CRS or does not overlap, or distances are asked for in degrees.
    PointsError
        If fewer pixels are valid than sites are asked for, or fewer fit at the least distance (it says how many); if points,
        polygons or roads have no CRS, are empty or of other geometries, or the area lies elsewhere.

    Warns
    -----
    MisoxrWarning
        If a variable has less than half as many valid pixels as the best one, or a mapped value may be among the covariates.

    References
    ----------
    "kmeans": Brus 2019, Geoderma 338, 464-480; weighed as in Zhdanov 2019, arXiv 1901.05954. "clhs": Minasny and McBratney 2006, Computers & Geosciences
    32, 1378-1388, with the cost of Roudier et al. 2012. Compact strata in space: Walvoort et al. 2010, Computers & Geosciences 36, 1261-1267.

    Examples
    --------
    >>> sites = misoxr.sampling.next_sites(image, 20, existing=points, least_distance=100)
    >>> sites = misoxr.sampling.next_sites(maps, 20, method="uncertainty", existing=points)
    """
    _check_numbers(n, least_distance, cost_weight, candidates, random_state)
    ds = squeezed(located(_dataset(maps)))
    if method is None:
        method = _method(ds, by is not None or weight is not None)
    names, weights = _variables(ds, method, _listed("by", by), _listed("weight", weight))
    ds = north_up(ds)
    box = geobox_of(ds)
    by_road = isinstance(cost, gpd.GeoDataFrame | gpd.GeoSeries)
    if least_distance is not None or by_road:
        _refuse_degrees(box)
    there = np.empty((0, 2)) if existing is None else _places(existing, box)
    layers = {name: layer_of(name, ds[name]) for name in dict.fromkeys([*names, *weights])}
    if "excluded" in ds:
        layers["excluded"] = layer_of("excluded", ds["excluded"].where(ds["excluded"] == 0))
    if cost is not None and not by_road:
        sides = next(iter(layers.values())).variable.chunksizes
        layers[COST] = _cost_layer(cost, box, (max(sides["y"]), max(sides["x"])))
    roads = _roads(cost, box) if by_road else None
    area = None if within is None else _area(within, box)
    numbers = _numbers(there, box)
    if len(there) and not len(numbers):
        note(f"None of the {len(there)} existing points lies on the map, which covers {extent(box)}; check their CRS.")
    question = Question(candidates, key_of(random_state, SITES), box.shape.x, numbers)
    found, values, known = read(layers, question, area)
    _refuse_few(found, n, list(layers))
    _refuse_fills(ds, values, known)
    _say_what_lacks(found, list(layers))
    xy = centres(found.index, box)
    price = values.get(COST) if roads is None else _distances(roads, xy)
    penalty = np.zeros(len(xy)) if price is None else cost_weight * ranks(price)
    pool = Pool(ds, names, weights, values, known, xy, there, penalty, Spacing(xy, least_distance, there), box)
    sites, told = METHODS[method](pool, n, np.random.default_rng([random_state, 1]))
    if len(sites) < n:
        raise PointsError(_too_few(len(sites), n, least_distance, len(xy)))
    beside = {} if price is None else {"cost": np.asarray(price, dtype="float64")[sites]}
    settings = {"method": method, "by": names, **({"weight": weights} if weights else {}), "random_state": random_state}
    table = _table(pool, sites, told | beside)
    table.attrs = settings | {"valid_pixels": found.valid, "candidates": len(xy)} | mark_of(ds.attrs)
    return table


def _dataset(maps: Any) -> xr.Dataset:
    if isinstance(maps, xr.DataArray):
        raise SpecError(f"maps is a DataArray; give a Dataset, such as array.to_dataset(name={str(maps.name or 'name')!r}).")
    if not isinstance(maps, xr.Dataset):
        raise SpecError(f"maps is a {type(maps).__name__}; give a Dataset with dimensions y and x and a CRS.")
    return maps


def _method(ds: xr.Dataset, named: bool) -> Method:
    """Return the method where none is named: the one that taught most in the experiments, if the dataset has what it needs."""
    if named:
        return "kmeans"
    try:
        uncertainties_of(ds, None)
    except BandError:
        return "kmeans"
    return "uncertainty"


def _check_numbers(n: Any, least_distance: Any, cost_weight: Any, candidates: Any, random_state: Any) -> None:
    for name, value, least in (("n", n, 1), ("candidates", candidates, 1), ("random_state", random_state, 0)):
        if not is_whole(value) or value < least:
            raise SpecError(f"{name} is {value!r}; give a whole number of {least} or more.")
    if n > candidates:
        raise SpecError(
            f"n is {n} and candidates is {candidates}; give at least as many candidates as sites, better a hundred times."
        )
    if least_distance is not None and not (is_number(least_distance) and 0 < least_distance < np.inf):
        raise SpecError(f"least_distance is {least_distance!r}; give a length above 0 in units of the CRS, or leave it out.")
    if not is_number(cost_weight) or not 0 <= cost_weight < np.inf:
        raise SpecError(f"cost_weight is {cost_weight!r}; give a number of 0 or more.")


def _listed(argument: str, names: Any) -> list[str] | None:
    if names is None:
        return None
    found = [names] if isinstance(names, str) else names
    if not isinstance(found, list | tuple) or not found or not all(isinstance(name, str) for name in found):
        raise SpecError(f"{argument} is {names!r}; give the name of a variable, or several names.")
    return list(dict.fromkeys(found))


def _variables(ds: xr.Dataset, method: str, by: Sequence[str] | None, weight: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Return the variables that choose, and those that weigh."""
    if method not in METHODS:
        raise SpecError(f"Unknown method {method!r}; use one of {tuple(METHODS)}.{did_you_mean(str(method), METHODS)}")
    if weight is not None and method != "kmeans":
        raise SpecError(f"weight belongs to method='kmeans', and method is {method!r}; leave it out.")
    names = uncertainties_of(ds, by) if method == "uncertainty" else covariates_of(ds, by)
    return names, [] if weight is None else uncertainties_of(ds, weight)


def _refuse_degrees(box: GeoBox) -> None:
    if is_degrees(box):
        raise GridError(
            f"The map is in degrees ({pyproj.CRS(str(box.crs)).name}), which are no lengths; leave out least_distance and roads, or give a map in a "
            'projected CRS, such as "EPSG:3338".'
        )


def _refuse_few(found: Drawn, n: int, names: Sequence[str]) -> None:
    """Refuse a map with fewer valid pixels than sites, and say what leaves so few."""
    if found.valid >= n:
        return
    least = int(np.argmin(found.each))
    raise PointsError(
        f"Only {found.valid} pixels can be chosen, and n is {n}: a site needs all of {list(names)}, the area of within, and a pixel without an "
        f"existing point. Fewest pixels, {found.each[least]}, have {names[least]!r}; name others in by=, or ask for fewer sites."
    )


def _refuse_fills(ds: xr.Dataset, drawn: Mapping[str, Layer], known: Mapping[str, Layer]) -> None:
    """Refuse usual fill values, far from all other values: sites would be chosen on pixels without data. Codes of classes may be any."""
    own = [np.atleast_2d(layer) for name, layer in known.items() if name not in (COST, "excluded")]
    whole = np.logical_and.reduce([np.isfinite(layer).all(axis=0) for layer in own])
    for name in drawn:
        if name != COST and is_class(name, ds[name]):
            continue
        values = np.concatenate([drawn[name], known[name][..., whole]], axis=-1)
        limits = limits_beside_fills(values)
        found = None if limits is None else fill_beyond(values, *limits)
        if limits is None or found is None:
            continue
        (low, high), (fill, share) = limits, found
        what, raster = ("The cost", "cost") if name == COST else (f"Variable {name!r}", f"maps[{name!r}]")
        raise BandError(
            f"{what} is {in_full(fill)} in {share:.2%} of the pixels that were drawn, and {low:g} to {high:g} elsewhere. If it is nodata, make it "
            f"missing: {raster} = {raster}.where({raster} != {in_full(fill)})."
        )


def _say_what_lacks(found: Drawn, names: Sequence[str]) -> None:
    """Tell of variables that leave few pixels, beside the one that has most."""
    counts = {name: int(count) for name, count in zip(names, found.each, strict=True) if name != COST}
    best = max(counts, key=lambda name: counts[name])
    poor = [f"{name!r} ({count:,})" for name, count in counts.items() if 2 * count < counts[best]]
    if poor:
        note(
            f"{found.valid:,} pixels can be chosen: few have {', '.join(poor)}, and {counts[best]:,} have {best!r}. Is a band cloudy? "
            "Leave it out of by=, or give a fuller composite."
        )


def _too_few(count: int, n: int, least_distance: float | None, candidates: int) -> str:
    return (
        f"Only {count} of {n} sites fit at a least distance of {least_distance:g} among {candidates} candidates; "
        "ask for fewer sites, for a smaller least_distance, or for more candidates."
    )


def _table(pool: Pool, sites: Sequence[int], told: dict[str, Any]) -> gpd.GeoDataFrame:
    """Return sites as a table, with the values that chose them."""
    xy = pool.xy[list(sites)]
    lon, lat = degrees_of(xy, pool.box)
    columns: dict[str, Any] = {"site": np.arange(1, len(sites) + 1), **told}
    for name in dict.fromkeys([*pool.names, *pool.weights]):
        own = pool.values[name][..., list(sites)]
        several = {f"{name}_{at}": part for at, part in enumerate(own)} if own.ndim == 2 else {name: own}
        columns |= {key: part.astype("float64") for key, part in several.items() if key not in columns}
    columns |= {"lon": lon, "lat": lat}
    return gpd.GeoDataFrame(columns, geometry=gpd.points_from_xy(xy[:, 0], xy[:, 1]), crs=str(pool.box.crs))


def _area(polygons: Any, box: GeoBox) -> Regions:
    """Check an area to stay in, and put it on a map's grid."""
    if not isinstance(polygons, gpd.GeoDataFrame | gpd.GeoSeries):
        raise PointsError(f"within is a {type(polygons).__name__}; give a GeoDataFrame of polygons.")
    if polygons.crs is None:
        raise PointsError("The polygons of within carry no CRS; set it with set_crs.")
    geometry = [one for one in polygons.geometry if one is not None and not one.is_empty]
    kinds = sorted({one.geom_type for one in geometry})
    if not geometry or not set(kinds) <= {"Polygon", "MultiPolygon"}:
        raise PointsError(f"within holds {', '.join(kinds) or 'nothing'}; give polygons of the area to stay in.")
    try:
        return regions_on(gpd.GeoDataFrame({"name": ["within"] * len(geometry)}, geometry=geometry, crs=polygons.crs), box)
    except GridError as error:
        raise GridError(
            f"The area of within does not meet the map, which covers {extent(box)}; give an area on the map, and check its CRS."
        ) from error


def _places(points: Any, box: GeoBox) -> Floats:
    """Return where points are in a map's CRS, on its side of the Earth: (point, [x, y])."""
    if not isinstance(points, gpd.GeoDataFrame | gpd.GeoSeries):
        raise PointsError(f"existing is a {type(points).__name__}; give a GeoDataFrame of points, or leave it out.")
    if points.crs is None:
        raise PointsError("The points of existing carry no CRS; set it with set_crs.")
    if not len(points):
        return np.empty((0, 2))
    xy = coordinates_of(points, str(box.crs))
    return np.column_stack([beside(box, xy[:, 0]), xy[:, 1]])


def _numbers(xy: Floats, box: GeoBox) -> Integers:
    """Return the numbers of the pixels that hold places, sorted, each once; places beyond the map have none."""
    row, column = (np.floor(part).astype("int64") for part in pixels(box, xy[:, 0], xy[:, 1]))
    inside = (row >= 0) & (row < box.shape.y) & (column >= 0) & (column < box.shape.x)
    return np.unique(row[inside] * box.shape.x + column[inside])


def _roads(roads: Any, box: GeoBox) -> shapely.STRtree:
    """Return roads, or other places to start from, in a map's CRS."""
    if roads.crs is None:
        raise PointsError("The roads of cost carry no CRS; set it with set_crs.")
    here = roads.geometry.to_crs(str(box.crs))
    found = [one for one in here if one is not None and not one.is_empty]
    if not found:
        raise PointsError("The roads of cost hold no geometry; give some, or a raster of costs.")
    return shapely.STRtree(found)


def _distances(roads: shapely.STRtree, xy: Floats) -> Floats:
    """Return the distance of places to the nearest road."""
    points = np.asarray(shapely.points(xy), dtype=object)
    _, found = roads.query_nearest(points, return_distance=True, all_matches=False)
    return np.asarray(found, dtype="float64")


def _cost_layer(cost: Any, box: GeoBox, chunks: tuple[int, int]) -> xr.DataArray:
    """Return a raster of costs on a map's grid, by the nearest pixel, lazily."""
    if not isinstance(cost, xr.DataArray):
        raise SpecError(f"cost is a {type(cost).__name__}; give a DataArray with y, x and a CRS, or a GeoDataFrame of roads.")
    flat = squeezed(located(cost))
    if set(flat.dims) != {"y", "x"}:
        raise BandError(f"The raster of costs has dimensions {flat.dims}, not (y, x); select or reduce the others first.")
    if crs_of(flat) is None:
        raise GridError(
            'The raster of costs carries no CRS. Write one, for example with cost.rio.write_crs("EPSG:3338") of rioxarray.'
        )
    return on_grid(decoded("cost", in_blocks(flat)), box, "nearest", chunks).transpose("y", "x")
