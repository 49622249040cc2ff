"""What to look for in a catalogue: the same filters ask an API and sift the items of a static catalogue."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyproj
import shapely
import shapely.geometry
from odc.geo.geom import Geometry
from pyproj.exceptions import CRSError
from shapely.geometry.base import BaseGeometry

from misoxr.cube.season import in_season
from misoxr.errors import CatalogError, GridError
from misoxr.grid.footprints import DEGREES, as_read, checked, meets, moved
from misoxr.grid.longitude import circle_of
from misoxr.sensors.item_fields import name_of
from misoxr.stac.dates import Interval, days, utc

__all__ = ["OPEN", "Filters", "area_of", "footprint_of", "rfc3339", "time_of"]

OPEN = pd.Timestamp("2200-01-01")
"""The end of intervals that end nowhere."""
MOST_DEGREES = 3600
"""Degrees of longitude that are surely a mistake."""

_MOMENT = re.compile(r"(19|20|21)\d\d-\d\d-\d\d([Tt ]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?)?\s?([Zz]|[+-]\d\d(:?\d\d)?)?", re.ASCII)
"""A date, or date and time, as of RFC 3339; pandas would also read "now", or a day without a year."""


@dataclass(frozen=True)
class Filters:
    """What to look for. Times are UTC without a zone, ``area`` is degrees as :mod:`misoxr.grid.footprints` has them."""

    collections: tuple[str, ...] | None = None
    area: BaseGeometry | None = None
    interval: Interval = (None, None)
    years: tuple[int, ...] | None = None
    season: tuple[str, str] | None = None
    query: Any = None

    def keeps(self, item: Mapping[str, Any]) -> bool:
        """Whether an item passes, by its own metadata."""
        if self.collections is not None and item.get("collection") not in self.collections:
            return False
        if not self.meets(time_of(item), end_of(item)):
            return False
        return self.area is None or meets(self.area, footprint_of(item))

    def meets(self, first: pd.Timestamp, last: pd.Timestamp) -> bool:
        """Whether some of the time from the first moment to the last one is asked for."""
        start, end = self.interval
        if (start is not None and last < start) or (end is not None and first > end):
            return False
        if self.season is None and self.years is None:
            return True
        if last == first:
            return bool(in_season(pd.DatetimeIndex([first]), self.season, self.years)[0])
        # A year and a day have every day of a season; of several years, those asked for count.
        years = self.years or (first.year, first.year + 1)
        begin, stop = max(first, pd.Timestamp(min(years), 1, 1)), min(last, pd.Timestamp(max(years) + 1, 12, 31))
        return bool(in_season(pd.date_range(begin.normalize(), stop.normalize(), freq="D"), self.season, self.years).any())

    def intervals(self) -> list[Interval]:
        """Return the time intervals to ask an API for: one per year, where years are given."""
        if self.years is None:
            return [self.interval]
        first, last = self.season or ("01-01", "12-31")
        spans = []
        for year in self.years:
            begin, end = f"{year}-{first}", f"{year + (last < first)}-{last}"
            # not every year has a 29 February; what the wider interval brings is sifted afterwards
            start, stop = days(begin.replace("-02-29", "-02-28"))[0], days(end.replace("-02-29", "-03-01"))[1]
            spans.append(_overlap((start, stop), self.interval))
        return [span for span in spans if span is not None]

    def __str__(self) -> str:
        parts = {
            "collections": self.collections,
            "area": None if self.area is None else tuple(round(float(value), 5) for value in self.area.bounds),
            "datetime": None if self.interval == (None, None) else rfc3339(self.interval),
            "years": self.years,
            "season": self.season,
            "query": self.query,
        }
        return ", ".join(f"{name}={value!r}" for name, value in parts.items() if value is not None) or "no filter at all"


def time_of(item: Mapping[str, Any]) -> pd.Timestamp:
    """Return an item's time, UTC without a zone; the start where it covers an interval.

    Raises
    ------
    CatalogError
        If it has none, or one before 1900 or after 2199.
    """
    properties = item.get("properties") or {}
    text = properties.get("datetime") or properties.get("start_datetime")
    time = _moment(text)
    if time is None:
        raise CatalogError(
            f"Item {name_of(item)!r} has the datetime {text!r}; a cube needs a time for every item, such as 2020-06-20T21:00:00Z."
        )
    return time


def end_of(item: Mapping[str, Any]) -> pd.Timestamp:
    """Return the end of the interval that an item without a time of its own covers, UTC without a zone; its time where it has one.

    An end at midnight is that of the day before. A year after 2199 stands for an end that is open.
    """
    properties, start = item.get("properties") or {}, time_of(item)
    text = "" if properties.get("datetime") else str(properties.get("end_datetime"))
    end = OPEN if re.match(r"(2[2-9]|[3-9]\d)\d\d-", text) else _moment(text)
    return start if end is None or end <= start else end - pd.Timedelta(int(end == end.normalize()))


def _moment(text: Any) -> pd.Timestamp | None:
    """Return the time that a text tells, UTC without a zone."""
    try:
        time = pd.Timestamp(str(text)) if _MOMENT.fullmatch(str(text)) else None
    except ValueError:
        return None
    return None if time is None or pd.isna(time) else utc(time).as_unit("ns")


def area_of(bbox: Iterable[float] | None, intersects: Any) -> BaseGeometry | None:
    """Return the area asked for, in degrees; beyond 180 where it crosses the antimeridian.

    Parameters
    ----------
    bbox : (west, south, east, north), optional
        Degrees, of any number of turns; west may lie east of east, across the antimeridian. Heights between them are left out.
    intersects : GeoDataFrame, GeoSeries, shapely geometry or GeoJSON mapping, optional
        Longitude and latitude where it carries no CRS. An edge longer than half a turn crosses the antimeridian, unless it is that
        of a box which runs counterclockwise, or of an area taller than 30 degrees.
    """
    if bbox is not None and intersects is not None:
        raise CatalogError("Both bbox and intersects are given; give one of them.")
    if bbox is not None:
        return _box(bbox)
    if intersects is None:
        return None
    area, crs = _shape(intersects)
    if (
        crs == DEGREES
        and not area.is_empty
        and not (max(np.abs(area.bounds[::2])) <= MOST_DEGREES and max(np.abs(area.bounds[1::2])) <= 90)
    ):
        bounds = tuple(round(value, 3) for value in area.bounds)
        raise CatalogError(
            f"The area carries no CRS, and its bounds {bounds} are no degrees; give a GeoSeries or GeoDataFrame with its CRS."
        )
    try:
        circle = circle_of(crs)
        if circle is None:
            return moved(checked(shapely.force_2d(area)), crs, DEGREES)
        return moved(as_read(area, circle, boxes=True, strict=True), crs, DEGREES)
    except GridError as error:
        raise CatalogError(str(error)) from error


def _box(bbox: Iterable[float]) -> BaseGeometry:
    sides = [float(value) for value in bbox]
    if len(sides) == 6:
        sides = [*sides[:2], *sides[3:5]]
    if not (
        len(sides) == 4
        and np.isfinite(sides).all()
        and np.abs(sides[::2]).max() <= MOST_DEGREES
        and -90 <= sides[1] < sides[3] <= 90
    ):
        raise CatalogError(f"The bbox {tuple(sides)} is not (west, south, east, north) in degrees.")
    west, south, east, north = sides
    east = west + (east - west) % 360 if east < west else min(east, west + 360)
    return as_read(shapely.box(west, south, east, north), boxes=True)


def _shape(intersects: Any) -> tuple[BaseGeometry, str]:
    """Return a geometry as it is given, and its CRS."""
    if isinstance(intersects, BaseGeometry):
        return intersects, DEGREES
    if hasattr(intersects, "geometry") and hasattr(intersects.geometry, "union_all"):
        series = intersects.geometry
        crs = DEGREES if series.crs is None else series.crs.to_wkt()
        return shapely.GeometryCollection([part for part in series if part is not None]), crs
    if isinstance(intersects, Geometry):
        return intersects.geom, DEGREES if intersects.crs is None else intersects.crs.to_wkt()
    mapping = getattr(intersects, "__geo_interface__", intersects)
    try:
        # Older GeoJSON names its CRS, as geopandas still does.
        named = mapping.get("crs")
        crs = DEGREES if named is None else pyproj.CRS(named["properties"]["name"]).to_wkt()
        if mapping["type"] == "FeatureCollection":
            parts = [shapely.geometry.shape(one["geometry"]) for one in mapping["features"] if one["geometry"] is not None]
            return shapely.GeometryCollection(parts), crs
        return shapely.geometry.shape(mapping["geometry"] if mapping["type"] == "Feature" else mapping), crs
    except CRSError as error:
        raise CatalogError(
            f"The CRS {named!r} of the GeoJSON cannot be read ({error}); give the area in longitude and latitude."
        ) from error
    except (TypeError, KeyError, AttributeError, ValueError, shapely.errors.ShapelyError) as error:
        raise CatalogError(
            f"intersects is a {type(intersects).__name__}; give a GeoDataFrame, a GeoSeries, a shapely geometry or GeoJSON."
        ) from error


def _overlap(one: Interval, other: Interval) -> Interval | None:
    starts, ends = ([value for value in pair if value is not None] for pair in zip(one, other, strict=True))
    start, end = max(starts, default=None), min(ends, default=None)
    return None if start is not None and end is not None and start > end else (start, end)


def rfc3339(interval: Interval) -> str:
    """Return an interval as a STAC API takes it."""
    return "/".join(".." if moment is None else f"{moment.isoformat(timespec='milliseconds')}Z" for moment in interval)


def footprint_of(item: Mapping[str, Any]) -> BaseGeometry:
    """Return an item's footprint in degrees; beyond 180 where it crosses the antimeridian, however it is written.

    Raises
    ------
    CatalogError
        If it has none, or one that is empty or not on Earth.
    """
    area: BaseGeometry | None = None
    try:
        if item.get("geometry"):
            with np.errstate(invalid="ignore"):
                area = shapely.geometry.shape(item["geometry"])
        else:
            area = _box(item["bbox"])
    except (
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        OverflowError,
        RecursionError,
        shapely.errors.ShapelyError,
    ) as error:
        raise CatalogError(f"Item {name_of(item)!r} has neither a geometry nor a bbox that can be read.") from error
    positions = shapely.get_coordinates(area)
    if area is None or not len(positions) or not (np.abs(positions) <= (MOST_DEGREES, 90)).all():
        raise CatalogError(f"Item {name_of(item)!r} has a footprint that is empty or not in degrees: {str(area)[:200]}.")
    return as_read(area) if item.get("geometry") else area
