"""Yearly composites: a cube with one time a year, and the year whose composite a point is matched to.

A time is the first day of a year's season, and its attribute ``season`` tells the season: "11-01 to 02-28".
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import dask.array as da
import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from misoxr.cube.season import Days, days_of, first_days
from misoxr.cube.stack import stack
from misoxr.errors import PointsError, SpecError, note
from misoxr.points.readers import dates, require_once
from misoxr.spec import ModelSpec
from misoxr.spec.numbers import is_whole

__all__ = ["TOLERANCE", "Years", "by_layer", "date_of"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
LATE = 10
"""The month from which a season that is not told is taken to go over new year."""
TOLERANCE = 5
"""Years between the date of a point and the composite it is matched to, at the most, where nothing else is said."""


@dataclass(frozen=True)
class Years:
    """The cube of each year; or one cube without a year, for all points.

    Attributes
    ----------
    cubes : tuple of Dataset
        Cubes over (y, x), by year.
    years : tuple of int
        Their years, ascending; empty for a cube without times.
    tolerance : int
        Years between the date of a point and the composite it is matched to, at the most.
    season : (str, str)
        First and last day of each year's season, "MM-DD". One that ends before it begins goes over new year, and is of the year it begins in.
    """

    cubes: tuple[xr.Dataset, ...]
    years: tuple[int, ...] = ()
    tolerance: int = TOLERANCE
    season: tuple[str, str] = ("01-01", "12-31")

    @classmethod
    def of(cls, ds: xr.Dataset, spec: ModelSpec, tolerance: int | None = None) -> Self:
        """Part a cube by years, where a model's bands have a time in each; any other cube stays whole.

        Raises
        ------
        SpecError
            If the tolerance is no whole number from 0, or is given for a cube without yearly composites; or if the season of its times is none.

        Warns
        -----
        MisoxrWarning
            If the times do not tell their season, and are so late in the year that it seems to go over new year.
        """
        if tolerance is not None and (not is_whole(tolerance) or tolerance < 0):
            raise SpecError(f"tolerance is {tolerance!r}; give a whole number of years, 0 or more.")
        timed = any("time" in ds[band.name].dims for band in spec.bands if band.name in ds.data_vars)
        days = _days_of(ds) if timed else None
        if days is None or not len(days.year) or len(set(days.year)) < len(days.year):
            if tolerance is not None:
                raise SpecError(f"tolerance is {tolerance} years, and the cube has no time in each year; leave it out.")
            return cls((ds,))
        order = np.argsort(days.year)
        cubes = tuple(ds.isel(time=int(number), drop=True) for number in order)
        years = tuple(int(days.year[number]) for number in order)
        return cls(
            cubes, years, TOLERANCE if tolerance is None else int(tolerance), _season_of(days, ds["time"].attrs.get("season"))
        )

    def stacked(self, spec: ModelSpec) -> list[da.Array]:
        """Stack a model's bands of each year (:func:`misoxr.cube.stack.stack`)."""
        return [stack(cube, spec) for cube in self.cubes]

    def counted(self, layer: Integers) -> dict[str, int]:
        """Return how many points are matched to each year, as a record has it."""
        return {str(year): int((layer == number).sum()) for number, year in enumerate(self.years)}

    def matched(self, date: Any, count: int, *, what: str = "points") -> Integers:
        """Return the number of the cube that each point is matched to, by the nearest year, the earlier of two; -1 for none.

        The year of a date is the calendar year. Where the season goes over new year, it is the year of the season that the date lies in, or of
        the nearest.

        Parameters
        ----------
        date : array_like or None
            Dates of the points, as :func:`misoxr.read_points` reads them; or one of all.
        count : int
            Number of points.
        what : str, optional
            What a warning calls the points.

        Raises
        ------
        PointsError
            If the points have no dates, or another number of them, or none is near enough.

        Warns
        -----
        MisoxrWarning
            If some have no date, or are too far from every composite.
        """
        if not self.years:
            return np.zeros(count, dtype="int64")
        span = f"of the years {', '.join(map(str, self.years))}"
        if date is None:
            raise PointsError(
                f"The cube has composites {span}, and the points have no dates. Name their column with read_points(date=…), or take one "
                "year, such as ds.isel(time=-1)."
            )
        if np.ndim(date) and np.shape(date) != (count,):
            raise PointsError(
                f"date has the shape {np.shape(date)}, and there are {count} {what}; give a date for each, or one for all."
            )
        year = np.broadcast_to(self._years_of(dates(pd.Series(np.ravel(date), name="date"))), count)
        apart = np.abs(year[:, None] - np.array(self.years))
        near = (apart.min(axis=1) <= self.tolerance) & np.isfinite(year)
        far, untold = int((np.isfinite(year) & ~near).sum()), int(np.isnan(year).sum())
        words = f"{untold} of {count} {what} have no date, and {far} are dated more than {self.tolerance} years from the composites {span}"
        if not near.any():
            raise PointsError(f"{words}. None is left; give other years, or a greater tolerance=.")
        if far or untold:
            note(f"{words}. They are left out.", about=f"years of {what}")
        return np.where(near, np.nan_to_num(apart, nan=np.inf).argmin(axis=1), -1).astype("int64")

    def _years_of(self, days: pd.Series) -> Floats:
        """Return the years that days belong to, NaN where one is missing."""
        year: Floats = days.dt.year.to_numpy(dtype="float64", na_value=np.nan)
        first, last = self.season
        if first > last:
            known = np.isfinite(year)
            several = year[known].astype(int).tolist()
            after, before = days[known] - first_days(several, (last, last)), first_days(several, (first, first)) - days[known]
            year[known] -= (after <= before).to_numpy()
        return year


def _days_of(ds: xr.Dataset) -> Days | None:
    """Return the days of a cube's times, None where they are no dates, or some are missing."""
    try:
        return days_of(ds) if "time" in ds.coords else None
    except SpecError:
        return None


def _season_of(times: Days, told: Any) -> tuple[str, str]:
    """Return the season that times of composites tell, or what is taken for it: by the calendar, or over new year."""
    if told is not None:
        found = re.fullmatch(r"(\S+) to (\S+)", str(told))
        if not found:
            raise SpecError(f'The season of the cube\'s times is {told!r}; write its days, such as "11-01 to 02-28".')
        for day in found.groups():
            first_days([2000], (day, day))  # refuses what is no day
        return found[1], found[2]
    starts = sorted({f"{month:02d}-{day:02d}" for month, day in zip(times.month, times.day, strict=True)})
    if starts == ["12-31"] or int(starts[0][:2]) < LATE:
        return "01-01", "12-31"
    note(
        f"The cube's composites start in {starts[0]} and do not tell when their season ends. It is taken to go over new year: a point of "
        f'January belongs to the year before. If not so, write its days: ds.time.attrs["season"] = "{starts[0]} to {starts[0][:2]}-30".',
        about="season of the cube",
    )
    return starts[0], "01-01"


def date_of(points: Mapping[str, Any] | pd.DataFrame | xr.Dataset) -> Any:
    """Return the dates of points, None where they have none; several columns of them are an error."""
    if "date" not in points:
        return None
    if isinstance(points, pd.DataFrame):
        require_once(points, ["date"])
    found = points["date"]
    return np.array(found, dtype=object) if isinstance(found, list | tuple) else np.asarray(found)  # else NaN would be text


def by_layer(layer: Integers, function: Callable[[int, npt.NDArray[np.intp]], npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Put together what a function returns, (…, point), for the number of each layer and its points."""
    groups = [(int(number), np.flatnonzero(layer == number)) for number in np.unique(layer)]
    parts = [function(number, mine) for number, mine in groups]
    if len(parts) == 1:
        return parts[0]
    whole = np.empty((*parts[0].shape[:-1], len(layer)), parts[0].dtype)
    for (_, mine), part in zip(groups, parts, strict=True):
        whole[..., mine] = part
    return whole
