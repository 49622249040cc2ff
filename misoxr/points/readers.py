"""What tables of points hold: coordinates, and cells of one value each."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from functools import partial
from numbers import Real
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
from pyproj import CRS
from pyproj.exceptions import CRSError

from misoxr.cube.scaling import USUAL_FILLS, is_far
from misoxr.cube.units import canonical
from misoxr.errors import PointsError, note
from misoxr.spec.numbers import in_full, is_number

__all__ = [
    "FILLS",
    "Depth",
    "agreed",
    "as_points",
    "dates",
    "depth_of",
    "depths",
    "is_missing",
    "lengths",
    "located",
    "number_of",
    "refuse_fills",
    "renamed",
    "require_columns",
    "require_once",
    "settled",
    "with_crs",
]

LONGITUDE_LATITUDE = (
    ("lon", "lat"),
    ("longitude", "latitude"),
    ("long", "lat"),
    ("lng", "lat"),
    ("decimallongitude", "decimallatitude"),  # Darwin Core's
)
"""Names of columns that are taken to be degrees in EPSG:4326, whatever their case."""

AUTHORS_XY = ("x_3338", "y_3338")
"""Columns of EPSG:3338 coordinates in the MISO authors' point file."""

LISTS = (list, tuple, set, np.ndarray)

FILLS = (*USUAL_FILLS, -99.0, -999.9, 9999.0, 99999.0)
"""What stands for unknown in tables of values."""
LENGTH_FILLS = (*FILLS, 999.0)
"""What stands for unknown among depths and accuracies."""

METRES = {"m": 1.0, "dm": 0.1, "cm": 0.01, "mm": 0.001, "ft": 0.3048, "in": 0.0254, "inch": 0.0254, "inches": 0.0254}
"""Metres in each unit of a depth."""
DEEPEST, LIKELY = 3000.0, 10.0
"""Metres that no observation of the ground is deeper than, and the depth from which a unit has to be told: deeper pits are in cm."""


def located(table: pd.DataFrame, x: str | None, y: str | None, crs: Any, *, records: bool = False) -> gpd.GeoDataFrame:
    """Return a table as points with a CRS.

    Parameters
    ----------
    table : DataFrame
        Points, or a table with coordinates in columns.
    x, y : str or None
        Columns of coordinates, which go before a geometry.
    crs : optional
        CRS where the table tells none.
    records : bool, optional
        Whether the table is a JSON list of records; its columns x_3338 and y_3338 go before others.

    Raises
    ------
    PointsError
        If there are no coordinates, they do not hold a number everywhere, or the CRS is missing or contradicts the table.
    """
    if x is None and y is None and isinstance(table, gpd.GeoDataFrame):
        return _on_earth(with_crs(table, crs))
    if x is None and y is None and records and set(AUTHORS_XY) <= set(table.columns):
        return with_crs(_from_columns(table, *AUTHORS_XY, "EPSG:3338"), crs)
    return _on_earth(with_crs(_from_columns(table, x, y, crs), crs))


def _on_earth(points: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Refuse latitudes beyond the poles, and longitudes of more than one turn and a half, such as a fill value of -9999."""
    west, south, east, north = points.total_bounds
    for what, low, high, most in (("Latitudes", south, north, 90), ("Longitudes", west, east, 540)):
        if points.crs.is_geographic and max(-low, high) > most:
            why = "do some stand for missing" if max(-low, high) > 540 else "are x and y swapped"
            raise PointsError(f"{what} reach from {low:.10g} to {high:.10g} degrees; {why}, or is the CRS another?")
    return points


def _from_columns(table: pd.DataFrame, x: str | None, y: str | None, crs: Any) -> gpd.GeoDataFrame:
    if (x is None) != (y is None):
        raise PointsError(f"Coordinates need two columns; x is {x!r} and y is {y!r}.")
    is_degrees = False
    if x is not None and y is not None:
        require_columns(table, [x, y])
    else:
        x, y, is_degrees = _coordinates_of(table, crs)
        crs = "EPSG:4326" if is_degrees and crs is None else crs
    try:
        coordinates = [pd.to_numeric(agreed(table[name])[0]).to_numpy(dtype="float64") for name in (x, y)]
    except (ValueError, TypeError) as error:
        raise PointsError(f"The coordinates in columns {x!r} and {y!r} are not all numbers: {error}.") from error
    if (
        is_degrees
        and _is_projected(crs)
        and all((np.abs(one) <= most).all() for one, most in zip(coordinates, (180, 90), strict=True))
    ):
        raise PointsError(
            f"The columns {x!r} and {y!r} hold degrees, by their names and values, and crs={crs!r} is not in degrees. Leave crs out, and move the "
            f"points with points.to_crs({crs!r}). If they are in its units, name them: x={x!r}, y={y!r}."
        )
    missing = ~np.isfinite(coordinates).all(axis=0)
    if missing.any():
        raise PointsError(
            f"{int(missing.sum())} of {len(table)} points have no coordinates in {x!r} and {y!r}; drop those rows first."
        )
    if isinstance(table, gpd.GeoDataFrame):
        table = pd.DataFrame(table.drop(columns=table.active_geometry_name))
    return with_crs(gpd.GeoDataFrame(table, geometry=gpd.points_from_xy(*coordinates)), crs)


def _coordinates_of(table: pd.DataFrame, crs: Any) -> tuple[str, str, bool]:
    """Return the columns of coordinates, and whether these are degrees by their names; x and y go first in a projected CRS."""
    pairs = (("x", "y"), *LONGITUDE_LATITUDE) if _is_projected(crs) else (*LONGITUDE_LATITUDE, ("x", "y"))
    known: dict[str, list[str]] = {}
    for name in table.columns:
        known.setdefault(str(name).strip().lower(), []).append(name)
    found = next((pair for pair in pairs if set(pair) <= known.keys()), None)
    if found is None:
        raise PointsError(f"The columns {list(table.columns)} hold no lon/lat or x/y; name the coordinates with x= and y=.")
    several = [known[name] for name in found if len(known[name]) > 1]
    if several:
        raise PointsError(f"The columns {several[0]} may each be the coordinate; keep one, or name the coordinates with x= and y=.")
    return known[found[0]][0], known[found[1]][0], found in LONGITUDE_LATITUDE


def _is_projected(crs: Any) -> bool:
    try:
        return crs is not None and CRS.from_user_input(crs).is_projected
    except CRSError as error:
        raise PointsError(f"crs={crs!r} is not known; give one such as 'EPSG:4326'.") from error


def with_crs(points: gpd.GeoDataFrame, crs: Any) -> gpd.GeoDataFrame:
    """Return the points with a CRS: their own, or ``crs`` where they carry none.

    Raises
    ------
    PointsError
        If there is no geometry, no CRS, or the two contradict each other.
    """
    if points.active_geometry_name is None:
        raise PointsError(f"The table has columns {list(points.columns)} and no geometry; set one, or name x= and y=.")
    if points.crs is None:
        if crs is None:
            raise PointsError(
                'The points carry no CRS; say which it is: points = points.set_crs("EPSG:4326") for degrees, or read_points(..., crs="EPSG:4326").'
            )
        try:
            return points.set_crs(crs)
        except CRSError as error:
            raise PointsError(f"crs={crs!r} is not known; give one such as 'EPSG:4326'.") from error
    if crs is not None and points.crs != crs:
        raise PointsError(f"The points are in {points.crs.name} and crs={crs!r} says otherwise; leave crs out.")
    return points


def require_columns(table: pd.DataFrame, names: Sequence[str]) -> None:
    """Raise PointsError where a column is missing, or there are several of its name."""
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise PointsError(f"There is no column {missing}; the columns are {list(table.columns)}.")
    require_once(table, names)


def require_once(table: pd.DataFrame, names: Iterable[Any]) -> None:
    """Raise PointsError where several columns have one of the names."""
    for name in names:
        if (count := int((table.columns == name).sum())) > 1:
            raise PointsError(
                f"There are {count} columns {name!r}; keep one, such as the first: points = points.loc[:, ~points.columns.duplicated()]."
            )


def renamed(points: gpd.GeoDataFrame, names: Mapping[str, str]) -> gpd.GeoDataFrame:
    """Rename columns, given by their new name; one column may take several names.

    Raises
    ------
    PointsError
        If a column is missing, or a new name is taken.
    """
    require_columns(points, list(names.values()))
    taken = [new for new, column in names.items() if new != column and new in points.columns and new not in names.values()]
    if taken:
        raise PointsError(
            f"The points have columns {taken} already, which the new names would overwrite; drop or rename them first."
        )
    columns = {new: points[column] for new, column in names.items()}
    return points.drop(columns=list(set(names.values()))).assign(**columns)


def as_points(points: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Return points, also where they are multipoints of one point each, as GIS programs save them.

    Raises
    ------
    PointsError
        If a geometry is empty or no point.
    """
    empty = points.geometry.isna() | points.geometry.is_empty
    if empty.any():
        raise PointsError(f"{int(empty.sum())} of {len(points)} points have no coordinates; drop those rows first.")
    kinds = sorted(set(points.geom_type) - {"Point"})
    if kinds == ["MultiPoint"] and (shapely.get_num_geometries(points.geometry) == 1).all():
        single = gpd.GeoSeries(shapely.get_geometry(points.geometry, 0), points.index, crs=points.crs)
        return points.assign(**{points.active_geometry_name: single})
    if kinds:
        raise PointsError(
            f"The geometries are {kinds}, not points; take one point of each with geometry.representative_point() of geopandas."
        )
    return points


def is_missing(value: Any) -> bool:
    """Return whether a cell is empty: None, NaN, NA, NaT or blank text."""
    if isinstance(value, str):
        return not value.strip()
    return not isinstance(value, LISTS) and bool(pd.isna(value))


def agreed(column: pd.Series) -> tuple[pd.Series, npt.NDArray[np.bool_]]:
    """Bring each list in a column, the observations of one place, to the one value that its known members share.

    Returns
    -------
    Series
        The column, missing where known members differ; untouched where it holds no list.
    ndarray of bool, shape (point,)
        True where they differ.
    """
    if not any(isinstance(value, LISTS) for value in column):
        return column, np.zeros(len(column), dtype=bool)
    values, differ = [], []
    for value in column:
        known = [item for item in _members(value) if not is_missing(item)]
        differ.append(any(_bare(item) != _bare(known[0]) for item in known))
        values.append(known[0] if known and not differ[-1] else None)
    return pd.Series(values, index=column.index, name=column.name), np.array(differ, dtype=bool)


def _members(value: Any) -> Iterable[Any]:
    if isinstance(value, np.ndarray):
        return np.ravel(value).tolist()
    return value if isinstance(value, LISTS) else [value]


def number_of(value: Any) -> Decimal | None:
    """Return the number that is written, exactly: 1, 1.0 and "1.0" are one, and 0.1 is in any precision; None for anything else."""
    if not isinstance(value, str | Real | Decimal) or "_" in str(value):
        return None
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _bare(value: Any) -> Any:
    """Return a value without its type's spelling."""
    number = number_of(value)
    return number if number is not None else value.strip() if isinstance(value, str) else value


def settled(points: gpd.GeoDataFrame, tasks: list[str], roles: Mapping[str, str], unit: str | None = None) -> gpd.GeoDataFrame:
    """Bring labels, dates, accuracies and depths to one value a point, and drop points that lose their last label by it.

    Parameters
    ----------
    points : GeoDataFrame
        Points with columns named after tasks and roles.
    tasks : list of str
        The columns of labels.
    roles : mapping of str to str
        The names that "date", "accuracy", "depth" and "id" had in the source.
    unit : str, optional
        Unit of the depths, where it is told.

    Raises
    ------
    PointsError
        If a value is no date, no accuracy or no depth, no point is left, or there are several columns of a task's name.

    Warns
    -----
    MisoxrWarning
        If observations of one place differ.
    """
    require_once(points, tasks)
    single = {name: agreed(points[name]) for name in (*tasks, *(role for role in roles if role != "id"))}
    columns = {name: column for name, (column, _) in single.items()}
    for role, read in (("date", dates), ("accuracy", lengths), ("depth", partial(_likely_depths, unit=unit))):
        if role in roles:
            columns[role] = read(columns[role].rename(roles[role]))  # an error names the source's column
    points = points.assign(**columns)
    counts = {name: int(differ.sum()) for name, (_, differ) in single.items() if differ.any()}
    if not counts:
        return points
    lost = np.any([single[task][1] for task in tasks] or [np.zeros(len(points), dtype=bool)], axis=0)
    for task in tasks:
        lost &= [is_missing(value) for value in columns[task]]
    words = ", ".join(f"{count} of {name!r}" for name, count in counts.items())
    words = f"Observations of one place differ and are set to missing: {words}."
    if lost.all():
        raise PointsError(f"{words} No point is left with a label; settle the labels of each place first.")
    note(f"{words} {lost.sum()} of {len(points)} points are left without a label and dropped.")
    return points[~lost]


def dates(column: pd.Series) -> pd.Series:
    """Read dates: datetimes, text in ISO 8601, or whole numbers of years (1 January); a period counts by its first day.

    Returns
    -------
    Series of datetime64
        In UTC where the column names time zones.

    Raises
    ------
    PointsError
        If a known value is no such date; other notations are refused, since day and month could be confused.
    """
    if pd.api.types.is_datetime64_any_dtype(column):
        return column if column.dt.tz is None else column.dt.tz_convert("UTC").dt.tz_localize(None)
    texts = pd.Series([_date(value) for value in column], index=column.index, dtype=object)
    found = pd.to_datetime(texts, format="ISO8601", errors="coerce", utc=True).dt.tz_localize(None)
    remedy = "write them as 2015-07-01 or 2015, or convert them with pandas.to_datetime(..., format=...) first"
    _refuse(column, found.isna().to_numpy(), "dates", remedy)
    return found


def _date(value: Any) -> Any:
    """Return what pandas reads as the date that is meant: not the ns of a bare number, nor the time at which "now" is read."""
    if isinstance(value, str):
        return value.strip() if value.strip()[:1].isdigit() else None
    if isinstance(value, datetime.date | np.datetime64):
        return value
    if isinstance(value, pd.Period):
        return value.start_time
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool) and float(value).is_integer():
        return str(int(value))
    return None


def lengths(column: pd.Series) -> pd.Series:
    """Read lengths in metres as floats, NaN where missing.

    Raises
    ------
    PointsError
        If a known value is no number, not finite, or negative, or some are a usual fill value, far beyond the others.
    """
    numbers = _numbers(column)
    _refuse(
        column,
        ~(np.isfinite(numbers) & (numbers >= 0)),
        "lengths in metres",
        "give numbers from 0, or set them to missing; rename the column if it is something else",
    )
    refuse_fills(numbers, str(column.name), f"values of column {column.name!r}", LENGTH_FILLS, is_length=True)
    return pd.Series(numbers, index=column.index, name=column.name)


def refuse_fills(
    values: npt.NDArray[np.float64],
    column: str,
    what: str,
    fills: Sequence[float] = FILLS,
    *,
    table: str = "points",
    is_length: bool = False,
) -> None:
    """Refuse usual fill values that lie far beyond all other values: learnt from, they would move every answer.

    Parameters
    ----------
    values : ndarray
        Values, NaN where missing.
    column : str
        Their column, and ``table`` the name of its table, for the remedy.
    what : str
        What the values are, in words.
    fills : sequence of float
        What is taken for a fill value.
    is_length : bool
        Whether the values are lengths: they may lie anywhere from 0, and fill values stand for unknown without others, too.

    Raises
    ------
    PointsError
        If there are such values.
    """
    others = values[np.isfinite(values) & ~np.isin(values, fills)]
    if not len(others) and not is_length:
        return
    low, high = (float(others.min()), float(others.max())) if len(others) else (0.0, 0.0)
    for fill in fills:
        count = int((values == fill).sum())
        if count and is_far(fill, 0.0 if is_length else low, high):
            beside = f", and the others {low:g} to {high:g}" if len(others) else ""
            raise PointsError(
                f"{count} of {len(values)} {what} are {in_full(fill)}{beside}. If it stands for unknown, make it missing: "
                f"{table}[{column!r}] = {table}[{column!r}].replace({in_full(fill)}, float('nan'))."
            )


Depth = str | float | tuple[str | float, str]
"""A column of depths, or one depth of all points: in metres, or with its unit."""


def depth_of(depth: Depth | None) -> tuple[str | float | None, str | None]:
    """Return the column of depths, or the depth of all points, and the unit where it is told.

    Raises
    ------
    PointsError
        If it is neither a column nor a number, or the unit is not known.
    """
    what, unit = depth if isinstance(depth, tuple) and len(depth) == 2 else (depth, None)
    if not (what is None or isinstance(what, str) or is_number(what)) or (unit is not None and not isinstance(unit, str)):
        raise PointsError(
            f'depth is {depth!r}; give a column, a number of metres, or either with its unit, such as ("depth", "cm").'
        )
    if unit is not None and canonical(unit) not in METRES:
        raise PointsError(f"The unit of depth is {unit!r}; it must be one of {list(METRES)}.")
    return what, unit


def _likely_depths(column: pd.Series, unit: str | None) -> pd.Series:
    """Read depths in a unit; without one, refuse those that are metres of no pit."""
    found = depths(column, METRES[canonical(unit or "m")])
    deep = found.to_numpy() > LIKELY
    if unit is None and deep.any():
        raise PointsError(
            f"{int(deep.sum())} depths of column {column.name!r} are above {LIKELY:g} m, for example {found[deep].iloc[0]:g}. "
            f'Say their unit: depth=({column.name!r}, "cm"), or "m" if they are metres.'
        )
    if found.isna().any():
        note(f"{int(found.isna().sum())} of {len(found)} points have no depth.")
    return found


def depths(column: pd.Series, metres: float = 1.0) -> pd.Series:
    """Read depths as metres, positive downwards, NaN where missing.

    Parameters
    ----------
    metres : float, optional
        Metres in a unit of the column.

    Raises
    ------
    PointsError
        If a known value is no number, not finite, negative, or deeper than anybody has observed the ground; or if some are a usual fill
        value, far beyond the others.
    """
    written = _numbers(column)
    numbers = written * metres
    fits = np.isfinite(numbers) & (numbers >= 0) & (numbers <= DEEPEST)
    _refuse(
        column,
        ~fits,
        "depths",
        f"give numbers from 0 to {DEEPEST / metres:g}, positive downwards, or set them to missing; rename the column if it is something else",
    )
    refuse_fills(written, str(column.name), f"depths of column {column.name!r}", LENGTH_FILLS, is_length=True)
    return pd.Series(numbers, index=column.index, name=column.name)


def _numbers(column: pd.Series) -> npt.NDArray[np.float64]:
    """Return the numbers of a column, NaN where there is none: True and False are none."""
    truths = np.array([isinstance(value, bool | np.bool_) for value in column], dtype=bool)
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype="float64", na_value=np.nan)
    return np.where(truths, np.nan, numbers)


def _refuse(column: pd.Series, invalid: npt.NDArray[np.bool_], what: str, remedy: str) -> None:
    known = np.array([not is_missing(value) for value in column], dtype=bool)
    wrong = column[invalid & known].tolist()
    if wrong:
        raise PointsError(f"{len(wrong)} values of column {column.name!r} are not {what}, for example {wrong[0]!r}; {remedy}.")
