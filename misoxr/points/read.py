"""Read labelled points, encode their labels, and place them on a grid."""

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from odc.geo.geobox import GeoBox
from pyproj import CRS

from misoxr.cube.join import mark_of
from misoxr.errors import PointsError, gathered, note
from misoxr.grid.geobox import beside, crs_of, extent, pixels
from misoxr.paths import expanded
from misoxr.points.clusters import polygon_of
from misoxr.points.files import read_file
from misoxr.points.labels import codes
from misoxr.points.polygons import names_of
from misoxr.points.readers import (
    Depth,
    as_points,
    depth_of,
    located,
    renamed,
    require_columns,
    require_once,
    settled,
    with_crs,
)
from misoxr.spec import PERMAFROST, TAXONOMY, Task

__all__ = ["coordinates", "encode", "place", "read_points", "regions_of", "simulated"]

Floats = npt.NDArray[np.float64]

AUTHORS_LABELS = {"permafrost": "aksdb_pf1m_bin", "taxonomy": "tax_order"}
"""Columns of labels in the MISO authors' point file."""

LABELS = {task.name: task for task in (PERMAFROST, TAXONOMY)}
"""The tasks that columns of these names label, unless others are given."""


@gathered
def read_points(
    source: gpd.GeoDataFrame | pd.DataFrame | str | os.PathLike[str],
    *,
    crs: Any = None,
    labels: Mapping[str, str] | None = None,
    x: str | None = None,
    y: str | None = None,
    date: str | None = None,
    accuracy: str | None = None,
    depth: Depth | None = None,
    id: str | None = None,
) -> gpd.GeoDataFrame:
    """Read labelled points.

    Parameters
    ----------
    source : GeoDataFrame, DataFrame, path or URL
        Points, a table with coordinates in columns, or a file: GeoPackage, GeoJSON, Shapefile, FlatGeobuf, (Geo)Parquet, CSV, one of these
        in a zip archive or compressed by gzip, or the MISO authors' JSON list of records, whose coordinates are x_3338 and y_3338 (EPSG:3338) where it has them.
        In a CSV, cells are missing that are empty, or read "NA", "N/A", "NaN", "NULL" and so on as in pandas. "None" is a value.
    crs : optional
        CRS of the points where the source names none. Columns "lon" and "lat" are EPSG:4326 by default.
    labels : mapping of task to column, optional
        Columns to rename to the tasks they label. Other columns are kept. For the authors' JSON,
        ``{"permafrost": "aksdb_pf1m_bin", "taxonomy": "tax_order"}`` by default, if it has these columns.
    x, y : str, optional
        Columns of the coordinates; "lon"/"lat" (also "long" or "lng"), "longitude"/"latitude", "decimalLongitude"/"decimalLatitude" or "x"/"y" by default, in any case. "x"/"y" go first where ``crs`` is projected.
    date : str, optional
        Column of dates: datetimes, text in ISO 8601, or whole years, which are taken as their 1 January.
    accuracy : str, optional
        Column of the accuracy of the coordinates, in metres: the radius of the disk that holds the place. A network is asked over this disk.
    depth : str, float or tuple, optional
        Column of the depths to which the ground was observed, or one depth of all points: in metres, or with a unit, ``("depth", "cm")``.
        Units are m, dm, cm, mm, ft and in. What was not found down to there may lie below: see ``censored`` of :func:`misoxr.training.fit.fit`.
    id : str, optional
        Column that identifies the points. In a CSV its values stay text where they are not written as numbers are, such as "001".

    Returns
    -------
    GeoDataFrame
        One point in each row, in its own CRS. It has a column for each task named in ``labels``, and columns "date" (datetime64, in
        UTC where the source names time zones), "accuracy" and "depth" (float, metres) and "id" where they are named. Columns of these names
        that the source has already are taken as they stand.

    Raises
    ------
    PointsError
        If the source cannot be read or is empty, has no CRS, or degrees in a projected one, geometries other than points, lacks a column, or holds values that
        are no dates, no accuracies or no depths. Depths without a unit are refused where they are above 10 m, since they may be cm.
        So are accuracies and depths that are a usual fill value, such as 9999, far beyond the others.

    Warns
    -----
    MisoxrWarning
        If a cell is a list of observations that differ. Such a label, date, accuracy or depth becomes missing, and a point that is left
        without any label is dropped. Several rows at one place all stay (:func:`misoxr.points.duplicates` finds them). If points have no depth.

    Examples
    --------
    >>> points = misoxr.read_points("pedons.gpkg", labels={"permafrost": "pf1m", "taxonomy": "tax_order"})
    """
    if not isinstance(source, pd.DataFrame | str | os.PathLike):
        raise PointsError(f"The points are a {type(source).__name__}; give a table, a GeoDataFrame, a path or a URL.")
    if not isinstance(labels, Mapping | None):
        raise PointsError(f"labels is {labels!r}; give the column of each task, such as {{'permafrost': 'pf'}}.")
    known, unit = depth_of(depth)
    named = {"date": date, "accuracy": accuracy, "depth": known if isinstance(known, str) else None, "id": id}
    for name, column in {
        "x": x,
        "y": y,
        **named,
        **{f"labels[{task!r}]": column for task, column in (labels or {}).items()},
    }.items():
        if not isinstance(column, Hashable):
            raise PointsError(f"{name} is {column!r}; give the name of one column.")
    roles = {name: column for name, column in named.items() if column is not None}
    table, records = (
        (source, False) if isinstance(source, pd.DataFrame) else read_file(expanded(source), "id" if id is None else id)
    )
    if len(table) == 0:
        raise PointsError("There are no points: the table has 0 rows.")
    if labels is None:
        labels = {task: column for task, column in AUTHORS_LABELS.items() if records and column in table.columns}
    both = sorted(roles.keys() & labels.keys())
    if both:
        raise PointsError(f"labels and other arguments both fill the columns {both}; give those tasks other names.")
    points = as_points(renamed(located(table, x, y, crs, records=records), {**labels, **roles}))
    if known is not None and "depth" not in roles:
        if "depth" in points.columns:
            raise PointsError(
                f"depth is {depth!r}, and the points have a column 'depth' already; name it, depth='depth', or drop it."
            )
        points, roles = points.assign(depth=float(known)), {**roles, "depth": "depth"}
    tasks = [*labels, *(name for name in LABELS if name in points.columns and name not in labels)]
    return settled(points, tasks, roles, unit)


def encode(points: pd.DataFrame, tasks: Sequence[Task]) -> dict[str, Floats]:
    """Encode the labels of each task as numbers, NaN where unknown.

    Parameters
    ----------
    points : DataFrame
        Columns named after tasks. Classes stand as names, or as codes 0, 1, ... (for binary tasks also as booleans). Where
        classes are named by numbers, numbers are names, in any type: 1, 1.0 and "1.0" are the class "1".
    tasks : sequence of Task
        The tasks; one without a column is unknown everywhere.

    Returns
    -------
    dict of ndarray, shape (point,)
        Class codes, or values of a regression.

    Raises
    ------
    PointsError
        If a label is no known class or number, or the name of several classes; a task's labels are names and codes; a task has
        several columns; or no task has any label.
    """
    require_once(points, [task.name for task in tasks])
    labels = {
        task.name: codes(points[task.name], task) if task.name in points.columns else np.full(len(points), np.nan) for task in tasks
    }
    if not any(np.isfinite(values).any() for values in labels.values()):
        raise PointsError(
            f"No point has a label of {[task.name for task in tasks]}; the columns are {list(points.columns)}. "
            "Name the label columns with read_points(..., labels={task: column})."
        )
    return labels


def coordinates(
    points: gpd.GeoDataFrame | pd.DataFrame | xr.Dataset | Mapping[str, Any], geobox: GeoBox, crs: Any = None
) -> tuple[Floats, Floats, npt.NDArray[Any]]:
    """Return x and y of points in the CRS of a grid, and their index.

    Parameters
    ----------
    points : GeoDataFrame, DataFrame, Dataset or mapping
        Points; a table as for :func:`read_points`; or ``x`` and ``y``, one-dimensional. A Dataset may have a CRS of its own.
    geobox : GeoBox
        The grid.
    crs : optional
        CRS of the points where they carry none; for ``x`` and ``y`` the grid's by default.

    Raises
    ------
    PointsError
        If there are no points, or their coordinates or CRS are missing.
    """
    if isinstance(points, gpd.GeoSeries):
        points = points.to_frame("geometry")
    if not isinstance(points, pd.DataFrame):
        if not isinstance(points, Mapping | xr.Dataset):
            raise PointsError(
                f"The points are a {type(points).__name__}; give a table, a GeoDataFrame (misoxr.read_points reads files), or "
                'a mapping {"x": …, "y": …}.'
            )
        if not ("x" in points and "y" in points):
            raise PointsError(f"The points have {list(points)}; give x and y, a table or a GeoDataFrame.")
        if isinstance(points, xr.Dataset) and points["x"].dims != points["y"].dims:
            raise PointsError(
                f"x lies along {points['x'].dims} and y along {points['y'].dims}, as on a grid; points have both along one dimension. "
                "For a grid, use predict."
            )
        own = crs_of(points) if isinstance(points, xr.Dataset) else None
        if own is not None and crs is not None and CRS(own) != CRS.from_user_input(crs):
            raise PointsError(f"The points are in {CRS(own).name} and crs={crs!r} says otherwise; leave crs out.")
        crs = own if crs is None else crs
        arrays = [np.asarray(points[name]) for name in ("x", "y")]
        if arrays[0].ndim != 1 or arrays[0].shape != arrays[1].shape:
            raise PointsError(
                f"x has the shape {arrays[0].shape} and y {arrays[1].shape}; points need two lists of one length "
                "(for a grid, use predict with resolution=)."
            )
        points = pd.DataFrame({"x": arrays[0], "y": arrays[1]})
        crs = str(geobox.crs) if crs is None else crs
    if not len(points):
        raise PointsError("There are no points: the table has 0 rows.")
    moved = as_points(located(points, None, None, crs)).to_crs(str(geobox.crs))  # labels do not matter
    return beside(geobox, moved.geometry.x), moved.geometry.y.to_numpy(), moved.index.to_numpy()


def place(points: gpd.GeoDataFrame, geobox: GeoBox) -> tuple[gpd.GeoDataFrame, Floats, Floats]:
    """Place points on a grid.

    Parameters
    ----------
    points : GeoDataFrame
        Points with a CRS.
    geobox : GeoBox
        The grid.

    Returns
    -------
    points : GeoDataFrame
        Those inside the grid, in its CRS.
    rows, columns : ndarray, shape (point,)
        Their fractional pixels; a pixel's centre is at +0.5.

    Raises
    ------
    PointsError
        If there are no points, they carry no CRS, or none lies inside.

    Warns
    -----
    MisoxrWarning
        If some lie outside; they are left out.
    """
    if not len(points):
        raise PointsError("There are no points to place on the cube; give at least one.")
    moved = with_crs(points, None).to_crs(str(geobox.crs))
    with np.errstate(invalid="ignore"):  # points that have no place in the CRS are infinite
        rows, columns = pixels(geobox, moved.geometry.x, moved.geometry.y)
    inside = (rows >= 0) & (rows < geobox.shape.y) & (columns >= 0) & (columns < geobox.shape.x)
    outside = len(moved) - int(inside.sum())
    if outside == len(moved):
        raise PointsError(
            f"All {outside} points lie outside the cube: they cover {_bounds(moved)} and the cube {extent(geobox)}. "
            "Check the CRS of the points, and open the cube over their area."
        )
    if outside:
        note(f"{outside} of {len(moved)} points lie outside the cube and are left out.")
    return moved[inside], rows[inside], columns[inside]


def _bounds(shapes: gpd.GeoDataFrame) -> str:
    return f"({', '.join(f'{value:.10g}' for value in shapes.total_bounds)})"


def regions_of(points: gpd.GeoDataFrame, regions: gpd.GeoDataFrame, column: str | None = None) -> tuple[pd.Series, list[str]]:
    """Return the region of each point, by position, and all regions; the first where they overlap, and "none" for points in none.

    Regions are named by a column, by default "name", and by their index without one; rows without a name are no region.
    """
    regions = regions.to_frame("geometry") if isinstance(regions, gpd.GeoSeries) else regions
    if not isinstance(regions, gpd.GeoDataFrame):
        raise PointsError(f"The regions are a {type(regions).__name__}; give a GeoDataFrame (geopandas.read_file reads files).")
    if column is not None:
        require_columns(regions, [column])
    if regions.crs is None:
        raise PointsError("The regions carry no CRS; set it with regions.set_crs(...).")
    names = names_of(regions, column)
    known, words = regions[names.notna().to_numpy()], names.dropna().astype(str).to_numpy()
    moved = points.to_crs(known.crs)  # not the polygons: their edges are straight in their own CRS only
    first = polygon_of(np.stack([moved.geometry.x, moved.geometry.y], axis=-1), np.asarray(known.geometry), known.crs, words)
    if (first < 0).all():
        raise PointsError(
            f"None of {len(points)} points lies in a region: they cover {_bounds(moved)} and the regions {_bounds(known)} in "
            f"{known.crs.name}. Check the CRS of both."
        )
    groups = pd.Series(np.append(words.astype(object), "none")[first])
    return groups, [*dict.fromkeys(words), *(["none"] if (first < 0).any() else [])]


def simulated(ds: xr.Dataset, points: pd.DataFrame) -> dict[str, Any]:
    """Return the mark of simulated imagery or labels, and the simulator's version; nothing for measured ones."""
    columns = {name: points[name].iloc[0] for name in ("simulated", "simulator_version") if name in points}
    return mark_of({**columns, **points.attrs, **ds.attrs})
