"""Report on labelled points: counts by class, region and year, and points that share a pixel."""

from collections.abc import Mapping, Sequence

import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr.errors import PointsError
from misoxr.grid.geobox import geobox_of
from misoxr.points.censoring import stopped_above
from misoxr.points.labels import named
from misoxr.points.read import LABELS, place, read_points, regions_of
from misoxr.points.readers import dates, depths, require_columns, require_once
from misoxr.spec import Task

__all__ = ["duplicates", "report"]


def duplicates(
    points: gpd.GeoDataFrame, geobox: GeoBox | xr.Dataset, tasks: Sequence[Task | str] | str | None = None
) -> pd.DataFrame:
    """Find the pixels of a grid that hold several points.

    Parameters
    ----------
    points : GeoDataFrame
        Points, as :func:`misoxr.read_points` takes them.
    geobox : GeoBox or Dataset
        The grid, or a cube on it; points outside it are left out with a warning.
    tasks : sequence of Task or str, optional
        Label columns to compare; "permafrost" and "taxonomy" where they are columns by default.

    Returns
    -------
    DataFrame
        A row for each such pixel: its row and column in the grid, the count of its points, and in a column for each task whether
        the known labels agree.

    Raises
    ------
    PointsError
        If a column is missing, the points carry no CRS, or none lies inside the grid.

    Examples
    --------
    >>> shared = misoxr.points.duplicates(points, image)
    """
    placed, rows, columns = place(read_points(points), geobox if isinstance(geobox, GeoBox) else geobox_of(geobox))
    labels = {_name(task): named(placed[_name(task)], task) for task in _chosen(placed, tasks)}
    cells = pd.DataFrame({"row": np.floor(rows).astype("int64"), "column": np.floor(columns).astype("int64")})
    pixel = cells.groupby(["row", "column"])
    table = cells.assign(count=pixel["row"].transform("size"))
    for name, words in labels.items():
        table[name] = words.groupby([cells["row"], cells["column"]]).transform("nunique") <= 1
    shared = table[table["count"] > 1].drop_duplicates(["row", "column"])
    return shared.sort_values(["row", "column"], ignore_index=True)


def report(
    points: gpd.GeoDataFrame,
    tasks: Sequence[Task | str] | str | None = None,
    *,
    regions: gpd.GeoDataFrame | None = None,
    region: str | None = None,
    geobox: GeoBox | xr.Dataset | None = None,
) -> pd.DataFrame:
    """Count labelled points by class, region and year.

    Parameters
    ----------
    points : GeoDataFrame
        Points, as :func:`misoxr.read_points` takes them.
    tasks : sequence of Task or str, optional
        Label columns to count; "permafrost" and "taxonomy" where they are columns by default.
    regions : GeoDataFrame, optional
        Polygons by which to count too, in any CRS. A point in several counts for the first.
    region : str, optional
        Column that names the regions; by default "name", and their index without one.
    geobox : GeoBox or Dataset, optional
        Grid, or a cube on it, in whose pixels duplicates are looked for (:func:`duplicates`).

    Returns
    -------
    DataFrame
        Columns "by", "task", "group" and "count". By "class": all classes of a task, and labels that are none of them, as they
        stand; "value" is any value of a regression. By "depth", if there is a column "depth" and the task speaks of one: labels that are
        "censored", "not censored", or "unknown", where an absence has no depth. By "region": all regions, and "none" for points in none. By "year", if there
        is a column "date": years, and "unknown". By "duplicate pixel", if there is a grid: "points sharing a pixel", of the task
        "all", and "conflicting labels", pixels in which known labels differ. Counts by class, region and year are of points with
        a label of the task.

    Raises
    ------
    PointsError
        If a column or a CRS is missing, dates cannot be read, or no point lies in the regions or on the grid.

    Examples
    --------
    >>> counts = misoxr.points.report(points)
    """
    points = read_points(points)
    require_once(points, ["depth", "date"])
    chosen = _chosen(points, tasks)
    if not chosen:
        raise PointsError(
            f"The points have columns {list(points.columns)} and none named 'permafrost' or 'taxonomy'; name others with tasks=."
        )
    if regions is None and region is not None:
        raise PointsError(f"region is {region!r} and there are no regions; give both, or neither.")
    labels = {_name(task): named(points[_name(task)], task) for task in chosen}
    rows = [row for task in chosen for row in _by_class(task, labels[_name(task)])]
    if "depth" in points.columns and "depth" not in labels:
        rows += [
            row for task in chosen if isinstance(task, Task) and task.depth for row in _by_depth(task, labels[task.name], points)
        ]
    if regions is not None:
        rows += _by_group("region", labels, *regions_of(points, regions, region))
    if "date" in points.columns:
        years = pd.Series([f"{year:.0f}" for year in dates(points["date"]).dt.year], dtype=object).replace("nan", "unknown")
        rows += _by_group("year", labels, years, sorted(years.unique()))  # digits sort before letters
    if geobox is not None:
        shared = duplicates(points, geobox, chosen)
        rows.append(("duplicate pixel", "all", "points sharing a pixel", int(shared["count"].sum())))
        rows += [("duplicate pixel", name, "conflicting labels", int((~shared[name]).sum())) for name in labels]
    return pd.DataFrame(rows, columns=["by", "task", "group", "count"])


def _chosen(points: gpd.GeoDataFrame, tasks: Sequence[Task | str] | str | None) -> list[Task | str]:
    if tasks is None:
        return [task for name, task in LABELS.items() if name in points.columns]
    tasks = [tasks] if isinstance(tasks, str) else tasks
    require_columns(points, [_name(task) for task in tasks])
    return [LABELS.get(task, task) if isinstance(task, str) else task for task in tasks]


def _name(task: Task | str) -> str:
    return task if isinstance(task, str) else task.name


def _by_class(task: Task | str, labels: pd.Series) -> list[tuple[str, str, str, int]]:
    if isinstance(task, Task) and task.kind == "regression":
        return _by_group("class", {task.name: labels}, pd.Series("value", index=labels.index), ["value"])
    classes = [] if isinstance(task, str) else list(task.classes)
    others = sorted(set(labels.dropna()) - set(classes))
    return _by_group("class", {_name(task): labels}, labels, classes + others)


def _by_depth(task: Task, labels: pd.Series, points: gpd.GeoDataFrame) -> list[tuple[str, str, str, int]]:
    """Count the labels that are right-censored."""
    depth, absent = depths(points["depth"]).to_numpy(), (labels == task.classes[0]).to_numpy()
    found = np.where(absent & stopped_above(depth, task), "censored", np.where(absent & np.isnan(depth), "unknown", "not censored"))
    return _by_group("depth", {task.name: labels}, pd.Series(found), ["censored", "not censored", "unknown"])


def _by_group(by: str, labels: Mapping[str, pd.Series], groups: pd.Series, order: Sequence[str]) -> list[tuple[str, str, str, int]]:
    """Count the labelled points of each task in each group."""
    counts = {name: groups[words.notna()].value_counts() for name, words in labels.items()}
    return [(by, name, group, int(count.get(group, 0))) for name, count in counts.items() for group in order]
