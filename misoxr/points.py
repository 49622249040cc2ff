"""Labelled points: reading them, encoding their labels, and placing them on a grid."""

import os
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import dask.array as da
import dask.base
import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr.errors import BandError, MisoxrWarning, PointsError
from misoxr.grid import extent, pixels
from misoxr.spec import Task

__all__ = ["coordinates", "encode", "place", "read_points", "sample"]

Floats = npt.NDArray[np.float64]

LONGITUDE_LATITUDE = (("lon", "lat"), ("longitude", "latitude"))
"""Names of columns that are taken to be degrees in EPSG:4326."""


def read_points(
    source: gpd.GeoDataFrame | pd.DataFrame | str | os.PathLike[str],
    *,
    crs: Any = None,
    labels: Mapping[str, str] | None = None,
    x: str | None = None,
    y: str | None = None,
) -> gpd.GeoDataFrame:
    """Read labelled points.

    Parameters
    ----------
    source : GeoDataFrame, DataFrame, path or URL
        Points, or a table with coordinates in columns; GeoPackage, GeoJSON, Shapefile, (Geo)Parquet or CSV.
    crs : optional
        CRS of the points where the source names none. Columns "lon" and "lat" are EPSG:4326 by default.
    labels : mapping of task to column, optional
        Columns to rename to the tasks they label. Other columns are kept.
    x, y : str, optional
        Columns of the coordinates; "lon"/"lat", "longitude"/"latitude" or "x"/"y" by default.

    Returns
    -------
    GeoDataFrame
        One point a row, in its own CRS, with a column for each task named in ``labels``.

    Raises
    ------
    PointsError
        If the source cannot be read or is empty, has no CRS, geometries other than points, or lacks a column.
    """
    table = source if isinstance(source, pd.DataFrame) else _read(os.fspath(source))
    if len(table) == 0:
        raise PointsError("There are no points: the table has 0 rows.")
    points = table if isinstance(table, gpd.GeoDataFrame) and x is None and y is None else _from_columns(table, x, y, crs)
    points = _renamed(_with_crs(points, crs), labels or {})
    empty = points.geometry.isna() | points.geometry.is_empty
    if empty.any():
        raise PointsError(f"{int(empty.sum())} of {len(points)} points have no coordinates; drop those rows first.")
    kinds = sorted(set(points.geom_type) - {"Point"})
    if kinds:
        raise PointsError(
            f"The geometries are {kinds}, not points; take one point of each with geometry.representative_point() of geopandas."
        )
    return points


def _read(path: str) -> pd.DataFrame:
    ending = os.path.splitext(path)[1].lower()
    try:
        if ending == ".csv":
            return pd.read_csv(path)
        if ending in (".parquet", ".geoparquet"):
            try:
                return gpd.read_parquet(path)  # type: ignore[no-any-return]
            except ValueError:  # a table without GeoParquet's metadata
                return pd.read_parquet(path)
        return gpd.read_file(path)  # type: ignore[no-any-return]
    except ImportError:
        raise
    except Exception as error:  # GDAL, pyarrow and pandas each have their own
        raise PointsError(f"The points {path!r} cannot be read: {error}") from error


def _from_columns(table: pd.DataFrame, x: str | None, y: str | None, crs: Any) -> gpd.GeoDataFrame:
    if (x is None) != (y is None):
        raise PointsError(f"Coordinates need two columns; x is {x!r} and y is {y!r}.")
    if x is not None and y is not None:
        _require_columns(table, [x, y])
    else:
        known = {str(name).lower(): name for name in table.columns}
        found = next(((a, b) for a, b in (*LONGITUDE_LATITUDE, ("x", "y")) if a in known and b in known), None)
        if found is None:
            raise PointsError(f"The columns {list(table.columns)} hold no lon/lat or x/y; name the coordinates with x= and y=.")
        if crs is None and found in LONGITUDE_LATITUDE:
            crs = "EPSG:4326"
        x, y = known[found[0]], known[found[1]]
    try:
        coordinates = [pd.to_numeric(table[name]).to_numpy(dtype="float64") for name in (x, y)]
    except (ValueError, TypeError) as error:
        raise PointsError(f"The coordinates in columns {x!r} and {y!r} are not all numbers: {error}.") from error
    missing = ~np.isfinite(coordinates).all(axis=0)
    if missing.any():
        raise PointsError(
            f"{int(missing.sum())} of {len(table)} points have no coordinates in {x!r} and {y!r}; drop those rows first."
        )
    if isinstance(table, gpd.GeoDataFrame):
        table = pd.DataFrame(table.drop(columns=table.active_geometry_name))
    return gpd.GeoDataFrame(table, geometry=gpd.points_from_xy(*coordinates), crs=crs)


def _with_crs(points: gpd.GeoDataFrame, crs: Any) -> gpd.GeoDataFrame:
    if points.active_geometry_name is None:
        raise PointsError(f"The table has columns {list(points.columns)} and no geometry; set one, or name x= and y=.")
    if points.crs is None:
        if crs is None:
            raise PointsError('The points carry no CRS; say which it is, for example crs="EPSG:4326" for degrees.')
        return points.set_crs(crs)
    if crs is not None and points.crs != crs:
        raise PointsError(f"The points are in {points.crs.name} and crs={crs!r} says otherwise; leave crs out.")
    return points


def _require_columns(table: pd.DataFrame, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise PointsError(f"There is no column {missing}; the columns are {list(table.columns)}.")


def _renamed(points: gpd.GeoDataFrame, labels: Mapping[str, str]) -> gpd.GeoDataFrame:
    _require_columns(points, list(labels.values()))
    taken = [task for task, column in labels.items() if task != column and task in points.columns and task not in labels.values()]
    if taken:
        raise PointsError(f"The points have columns {taken} already, which labels would overwrite; drop or rename them first.")
    columns = {task: points[column] for task, column in labels.items()}
    return points.drop(columns=list(set(labels.values()))).assign(**columns)


def encode(points: pd.DataFrame, tasks: Sequence[Task]) -> dict[str, Floats]:
    """Encode the labels of each task as numbers, NaN where unknown.

    Parameters
    ----------
    points : DataFrame
        Columns named after tasks. Classes stand as names or codes 0, 1, ... (for binary tasks also as booleans).
    tasks : sequence of Task
        The tasks; one without a column is unknown everywhere.

    Returns
    -------
    dict of ndarray, shape (point,)
        Class codes, or values of a regression.

    Raises
    ------
    PointsError
        If a label is no known class or number, or no task has any label.
    """
    labels = {
        task.name: _codes(points[task.name], task) if task.name in points.columns else np.full(len(points), np.nan)
        for task in tasks
    }
    if not any(np.isfinite(values).any() for values in labels.values()):
        raise PointsError(
            f"No point has a label of {[task.name for task in tasks]}; the columns are {list(points.columns)}. "
            "Name the label columns with read_points(..., labels={task: column})."
        )
    return labels


def _codes(column: pd.Series, task: Task) -> Floats:
    values = [None if pd.isna(value) or (isinstance(value, str) and not value.strip()) else value for value in column]
    codes = np.array([np.nan if value is None else _code(value, task) for value in values], dtype="float64")
    unknown = [value for value, code in zip(values, codes, strict=True) if value is not None and not np.isfinite(code)]
    if unknown:
        kinds = sorted({repr(value) for value in unknown})
        known = f"the classes are {list(task.classes)} or their codes from 0" if task.classes else "the task takes numbers"
        more = ", ..." if len(kinds) > 10 else ""
        raise PointsError(
            f"{len(unknown)} labels of {task.name!r} are unknown ({', '.join(kinds[:10])}{more}); {known}. "
            "Rename those labels, or set them to missing."
        )
    return codes


def _code(value: Hashable, task: Task) -> float:
    """Return the code of one label, NaN where it is unknown."""
    if isinstance(value, str):
        name = value.strip()
        return float(task.classes.index(name)) if name in task.classes else np.nan
    if isinstance(value, (bool, np.bool_)):
        return float(value) if task.kind == "binary" else np.nan
    if not isinstance(value, (int, float, np.integer, np.floating)):
        return np.nan
    number = float(value)
    return number if task.kind == "regression" or number in range(len(task.classes)) else np.nan


def coordinates(
    points: gpd.GeoDataFrame | pd.DataFrame | xr.Dataset | Mapping[str, Any], geobox: GeoBox, crs: Any = None
) -> tuple[Floats, Floats, npt.NDArray[Any]]:
    """Return x and y of points in the CRS of a grid, and their index.

    Parameters
    ----------
    points : GeoDataFrame, DataFrame, Dataset or mapping
        Points; a table as for :func:`read_points`; or ``x`` and ``y``, one-dimensional.
    geobox : GeoBox
        The grid.
    crs : optional
        CRS of the points where they carry none; for ``x`` and ``y`` the grid's by default.

    Raises
    ------
    PointsError
        If there are no points, or their coordinates or CRS are missing.
    """
    if not isinstance(points, pd.DataFrame):
        if not {"x", "y"} <= set(points):
            raise PointsError(f"The points have {list(points)}; give x and y, a table or a GeoDataFrame.")
        arrays = [np.asarray(points[name]) for name in ("x", "y")]
        if arrays[0].ndim != 1 or arrays[0].shape != arrays[1].shape:
            raise PointsError(
                f"x has the shape {arrays[0].shape} and y {arrays[1].shape}; points need two lists of one length "
                "(for a grid, use predict with resolution=)."
            )
        points = pd.DataFrame({"x": arrays[0], "y": arrays[1]})
        crs = str(geobox.crs) if crs is None else crs
    moved = read_points(points, crs=crs).to_crs(str(geobox.crs))
    return moved.geometry.x.to_numpy(), moved.geometry.y.to_numpy(), moved.index.to_numpy()


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
    moved = _with_crs(points, None).to_crs(str(geobox.crs))
    with np.errstate(invalid="ignore"):  # points that have no place in the CRS are infinite
        rows, columns = pixels(geobox, moved.geometry.x, moved.geometry.y)
    inside = (rows >= 0) & (rows < geobox.shape.y) & (columns >= 0) & (columns < geobox.shape.x)
    outside = len(moved) - int(inside.sum())
    if outside == len(moved):
        bounds = ", ".join(f"{value:.10g}" for value in moved.total_bounds)
        raise PointsError(
            f"All {outside} points lie outside the cube: they cover ({bounds}) and the cube {extent(geobox)}. "
            "Check the CRS of the points, and open the cube over their area."
        )
    if outside:
        warnings.warn(f"{outside} of {len(moved)} points lie outside the cube and are left out.", MisoxrWarning, stacklevel=2)
    return moved[inside], rows[inside], columns[inside]


def sample(ds: xr.Dataset, bands: Sequence[str], rows: npt.ArrayLike, columns: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Read the pixels that hold points, from the chunks that hold them only.

    Parameters
    ----------
    ds : Dataset
        Bands (y, x).
    bands : sequence of str
        Names of the bands.
    rows, columns : array_like, shape (point,)
        Fractional pixels inside the dataset, as :func:`place` gives them.

    Returns
    -------
    ndarray of float32, shape (point, band)

    Raises
    ------
    BandError
        If a band is missing.
    """
    missing = [name for name in bands if name not in ds.data_vars]
    if missing:
        raise BandError(f"The dataset lacks {missing}; it has {list(ds.data_vars)}.")
    row, column = (np.floor(np.asarray(part)).astype("int64") for part in (rows, columns))
    arrays = [ds[name].transpose("y", "x").data for name in bands]
    picked = [array.vindex[row, column] if isinstance(array, da.Array) else np.asarray(array)[row, column] for array in arrays]
    return np.stack(dask.base.compute(*picked), axis=-1).astype("float32", copy=False)
