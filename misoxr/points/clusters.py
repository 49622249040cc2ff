"""Group points by where they lie, in blocks or chained clusters, and deal groups to folds."""

from collections.abc import Sequence
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import shapely
import xarray as xr
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from misoxr.errors import PointsError, note
from misoxr.grid.footprints import as_read
from misoxr.grid.longitude import circle_of, near

__all__ = ["blocks_of", "chained", "check_crs", "coordinates_of", "dealt", "merged", "polygon_of"]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


def check_crs(crs: Any, what: str, *, projected: bool) -> None:
    """Refuse points without a CRS, and those in degrees where distances count."""
    if crs is None:
        raise PointsError(f"The {what} carry no CRS; set it with set_crs.")
    if projected and crs.is_geographic:
        raise PointsError(f"The {what} are in degrees ({crs.name}) and distances need a projected CRS; move them with to_crs.")


def coordinates_of(points: Any, crs: Any = None) -> Floats:
    """Return x and y (point, 2) of an array or of points, these in their own projected CRS or moved to the one given."""
    if isinstance(points, (gpd.GeoDataFrame, gpd.GeoSeries)):
        check_crs(points.crs, "points", projected=crs is None)
        geometry = np.asarray((points if crs is None else points.to_crs(crs)).geometry)
        placed = (shapely.get_type_id(geometry) == shapely.GeometryType.POINT) & ~shapely.is_empty(geometry)
        points = np.full((len(geometry), 2), np.nan)
        points[placed] = shapely.get_coordinates(geometry[placed])
    if isinstance(points, xr.Dataset):
        raise PointsError(
            "A Dataset is no list of places; give coordinates (point, 2), such as its pixel centres: "
            "np.stack(np.meshgrid(ds.x, ds.y), axis=-1).reshape(-1, 2)."
        )
    xy = np.asarray(points, dtype="float64")
    if xy.ndim != 2 or xy.shape[1] != 2 or not len(xy):
        remedy = "" if not hasattr(points, "columns") else " A table has none that are known: give misoxr.read_points(table)."
        raise PointsError(f"Points are split by coordinates of shape (point, 2); these have shape {xy.shape}.{remedy}")
    if missing := int((~np.isfinite(xy).all(axis=1)).sum()):
        raise PointsError(f"{missing} of {len(xy)} points have no finite coordinates; drop them (only points have any).")
    return xy


def blocks_of(xy: npt.ArrayLike, size: float, least: int = 1) -> tuple[Indices, Indices]:
    """Return the number of each point's block, and the number of points in each block.

    Blocks are halved until there are at least so many, or as many as there are places.
    """
    points = coordinates_of(xy)
    least = min(least, len(np.unique(points, axis=0))) if least > 1 else 1
    while True:
        _, blocks, counts = np.unique(np.floor(points / size), axis=0, return_inverse=True, return_counts=True)
        if len(counts) >= least:
            return blocks.ravel(), counts
        size /= 2


def polygon_of(xy: Floats, polygons: npt.NDArray[Any], crs: Any, names: Any = ()) -> Indices:
    """Return the place of the first polygon that holds each point (point, [x, y]), -1 for points in none.

    Where x is a longitude, points and polygons may be of any turn, and polygons may jump from 180 to -180. Where the polygons have names, a
    warning tells how many points lie in polygons of several names.
    """
    circle = circle_of(crs.to_wkt())
    copies = [xy]
    if circle is not None:
        xy = np.column_stack([near(xy[:, 0], circle.west + circle.turn / 2, circle.turn), xy[:, 1]])
        copies = [xy + (by, 0) for by in (0.0, circle.turn)]
        polygons = np.array([as_read(polygon, circle, boxes=True) for polygon in polygons])
    first, pairs = np.full(len(xy), len(polygons)), []
    for copy in copies:
        # Polygons are asked for points, not points for polygons: so each polygon is indexed once.
        rows, points = shapely.STRtree(np.asarray(shapely.points(copy))).query(polygons, predicate="intersects")
        np.minimum.at(first, points, rows)
        pairs.append((rows, points, copy))
    if len(names):
        _note_several(first, polygons, np.asarray(names, dtype=object), pairs)
    return np.where(first < len(polygons), first, -1)


def _note_several(
    first: Indices, polygons: npt.NDArray[Any], names: npt.NDArray[Any], pairs: Sequence[tuple[Any, Any, Any]]
) -> None:
    """Warn of points within polygons of several names, of pairs (polygon, point) and the points' coordinates; borders are no overlap."""
    found = []
    for rows, points, xy in pairs:
        others = names[rows] != names[first[points]]
        rows, points = rows[others], points[others]
        places = np.asarray(shapely.points(xy[points]))
        within = [shapely.contains_properly(polygons[one], places) for one in (rows, first[points])]
        found += list(zip(points[within[0] & within[1]], rows[within[0] & within[1]], strict=True))
    if found:
        point, row = found[0]
        note(
            f"Regions overlap: {len({one for one, _ in found})} of {len(first)} points lie in several, such as {names[first[point]]!r} and "
            f"{names[row]!r}, and count for the first. Give regions that do not overlap, or put the one that is to count first."
        )


def dealt(groups: Indices, n_splits: int, seed: int | None) -> Indices:
    """Return folds of whole groups, dealt from the fullest to the emptiest, each to the fold with the fewest points so far."""
    counts = np.bincount(groups)
    if len(counts) < n_splits:
        several = "s" * (len(counts) != 1)
        raise PointsError(f"There are only {len(counts)} point{several}, too few for {n_splits} folds; use fewer folds.")
    order = np.arange(len(counts)) if seed is None else np.random.default_rng(seed).permutation(len(counts))
    fold_of, filled = np.empty(len(counts), dtype=np.intp), np.zeros(n_splits, dtype="int64")
    for group in order[np.argsort(-counts[order], kind="stable")]:
        fold_of[group] = filled.argmin()
        filled[fold_of[group]] += counts[group]
    return fold_of[groups]


def chained(xy: Floats, distance: float) -> Indices:
    """Return the cluster of each point: the points that steps of at most a distance join."""
    # Any two points of a cell this small are within the distance, and cells are joined by nearest neighbours, so that pairs of
    # points are never listed. A few points of each cell ask first, which settles most pairs of cells.
    cell, counts = blocks_of(xy, side := 0.7 * distance)
    starts, order = np.cumsum(counts) - counts, np.argsort(cell, kind="stable")
    centres = np.floor(xy[order[starts]] / side)
    # A third coordinate, far apart for each cell, lets one tree find the nearest point of one cell.
    tree = cKDTree(np.column_stack([xy, cell * 4 * distance]))
    joined, clusters = np.empty((0, 2), dtype=np.intp), np.arange(len(counts))
    pairs = cKDTree(centres).query_pairs(2.9, output_type="ndarray")  # (pair, 2), cells at most two steps apart
    pairs = np.take_along_axis(pairs, np.argsort(counts[pairs], axis=1), axis=1)  # the emptier cell asks
    for most in (16, len(xy)):
        pairs = pairs[clusters[pairs[:, 0]] != clusters[pairs[:, 1]]]
        asking = np.minimum(counts[pairs[:, 0]], most)
        pair = np.repeat(np.arange(len(pairs)), asking)  # (query,)
        rank = np.arange(len(pair)) - np.repeat(np.cumsum(asking) - asking, asking)
        asked = np.column_stack([xy[order[starts[pairs[pair, 0]] + rank]], pairs[pair, 1] * 4 * distance])
        gap, _ = tree.query(asked, distance_upper_bound=1.01 * distance)
        joined = np.concatenate([joined, pairs[pair[gap <= distance]]])
        graph = coo_array((np.ones(len(joined)), joined.T), shape=(len(counts), len(counts)))
        clusters = connected_components(graph, directed=False)[1].astype(np.intp)
    return clusters[cell]


def merged(xy: Floats, clusters: Indices, n_splits: int) -> Indices:
    """Return folds of whole clusters: a large one is a fold, the others are dealt in turn along the first principal axis."""
    counts, centred = np.bincount(clusters), xy - xy.mean(axis=0)
    along = np.bincount(clusters, centred @ np.linalg.svd(centred, full_matrices=False)[2][0]) / counts
    large = np.flatnonzero(counts * n_splits >= len(xy))  # n_splits of them at most
    small = np.setdiff1d(np.argsort(along), large, assume_unique=True)
    folds = np.empty(len(counts), dtype=np.intp)
    folds[large], folds[small] = np.arange(len(large)), np.resize(np.arange(len(large), n_splits), len(small))
    return folds[clusters]
