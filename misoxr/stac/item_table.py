"""Tables of items (stac-geoparquet): hundreds of thousands of them, of which only those that a block needs are ever read."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from itertools import groupby as runs
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
import shapely.geometry
from dask.base import tokenize
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from misoxr.assets.hrefs import is_remote, redact
from misoxr.assets.inside import Reach, names_inside
from misoxr.cube.season import in_season, season_years
from misoxr.errors import CatalogError, MisoxrError
from misoxr.grid.footprints import as_read, footprint, meeting, meets, turned
from misoxr.paths import expanded
from misoxr.sensors.bands import check_bands
from misoxr.sensors.rows import descriptions, row_sensors
from misoxr.sensors.sensor import Sensor
from misoxr.stac.catalog import Modifier, modified
from misoxr.stac.composite import EDGE, Times
from misoxr.stac.filters import OPEN, Filters
from misoxr.stac.found import Found, is_http, item_of_row, self_link, short
from misoxr.stac.items import ORBIT, UNTOLD, Scene, Wanted, directions, scenes_of, solar_days, source_of
from misoxr.stac.table_copy import copied

__all__ = ["ItemTable", "boxes_of", "is_table", "open_table"]

SUFFIXES = (".parquet", ".geoparquet")
SAMPLE = 100
"""Items that are looked at where the first lacks a band: one that none of them has is not there."""
COLUMNS = {
    "id": {"text"},
    "collection": {"text", "nothing"},
    "datetime": {"times", "text", "nothing"},
    "start_datetime": {"times", "text", "nothing"},
    ORBIT: {"text", "nothing"},
    "bbox": {"boxes", "nothing"},
    "assets": {"objects"},
}
"""What columns hold by which items are found."""

Integers = npt.NDArray[np.intp]


def is_table(catalog: Any) -> bool:
    """Whether a catalogue is the address or path of a table."""
    return isinstance(catalog, str | os.PathLike) and os.fspath(catalog).lower().endswith(SUFFIXES)


@dataclass(frozen=True)
class ItemTable:
    """The items of a table that pass the filters, in order of time and id; those that make one time, in the order in which they fill it.

    Attributes
    ----------
    uri : str
        Address or path of the table.
    copy : str
        Its copy in the local cache, as Arrow's own format: rows are read from it without the rest.
    rows : ndarray of int
        Which rows pass.
    moments : ndarray of datetime64
        When each was taken.
    boxes : ndarray of float, shape (item, 4)
        West, south, east and north, degrees; east lies beyond 180 across the antimeridian.
    collections : ndarray of str
        Of which collection each is.
    sources : ndarray of str
        What each was seen by: see :func:`misoxr.stac.items.source_of`.
    wanted : Wanted
        What is wanted of them.
    groupby, modifier
        As for :func:`misoxr.open_stac`.
    inside : bool
        Whether assets may lie on this machine or in a private network.
    times : ndarray of int, optional
        For each that meets a grid, the number of its time there: items of a solar day and source are one.
    holds : mapping of str to (str, str or None), optional
        Kind and units that each band has to be of, in all items.
    """

    uri: str
    copy: str
    rows: Integers
    moments: npt.NDArray[np.datetime64]
    boxes: npt.NDArray[np.float64]
    collections: npt.NDArray[np.object_]
    sources: npt.NDArray[np.object_]
    wanted: Wanted
    groupby: str | None
    modifier: Modifier | None
    inside: bool
    times: Integers | None = None
    holds: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    _kept: dict[int, Scene] = field(default_factory=dict, repr=False, compare=False)

    def on(self, target: GeoBox, meridian: float) -> "ItemTable":
        """Return the items whose boxes meet a grid, in order of their times there; solar days are counted on from a meridian."""
        met = meeting(self._tree, footprint(target, EDGE))
        if not len(met):
            raise CatalogError(
                f"None of the {len(self.rows)} items that match meets the grid, {tuple(target.boundingbox.bbox)} in {target.crs}."
            )
        times = np.arange(len(met))
        if self.groupby:
            days = solar_days(pd.DatetimeIndex(self.moments[met]), self.boxes[met][:, [0, 2]].mean(axis=1), meridian)
            order = np.argsort(days, kind="stable")
            sources = pd.factorize(self.sources[met[order]])[0]
            times = pd.factorize(pd.factorize(days[order])[0] * (sources.max() + 1) + sources)[0].astype(np.intp)
            together = np.argsort(times, kind="stable")
            met, times = met[order][together], times[together]
        here = {name: getattr(self, name)[met] for name in ("rows", "moments", "boxes", "collections", "sources")}
        return replace(self, **here, times=times, _kept={})

    def by_year(self, season: tuple[str, str] | None) -> dict[int, "ItemTable"]:
        """Return the items of each year, in order, as :func:`misoxr.cube.season.season_years` counts them."""
        assert self.times is not None
        of = season_years(pd.DatetimeIndex(self.moments), season)
        parts = {int(year): of == year for year in np.unique(of)}
        return {
            year: replace(
                self, rows=self.rows[here], moments=self.moments[here], boxes=self.boxes[here], times=self.times[here], _kept={}
            )
            for year, here in parts.items()
        }

    @cached_property
    def token(self) -> str:
        """What tells these items from others: the table's content, and which rows of it."""
        return str(tokenize(Path(self.copy).name, self.rows, self.times, self.wanted, self.modifier))

    @cached_property
    def _tree(self) -> shapely.STRtree:
        # edges bulge over boxes that were made from corners
        margin = 0.05 * (self.boxes[:, 2:] - self.boxes[:, :2])
        return shapely.STRtree(boxes_of(np.hstack([self.boxes[:, :2] - margin, self.boxes[:, 2:] + margin])))

    def meeting(self, block: BaseGeometry) -> Times:
        """Return the assets of the items that meet a block, by time; they are read now."""
        assert self.times is not None
        met = meeting(self._tree, block)
        # boxes in degrees are wider than what they hold
        here = [
            (int(self.times[at]), scene) for at, scene in zip(met, self.scenes(met), strict=True) if meets(block, scene.outline)
        ]
        return tuple(tuple(scene.assets for _, scene in group) for _, group in runs(here, key=lambda entry: entry[0]))

    def scenes(self, places: Iterable[int]) -> list[Scene]:
        """Read items by their places among those that pass. The last ones stay at hand: blocks beside each other share most.

        Raises
        ------
        CatalogError
            If a band is not what it is in the items that were described: that is never mixed.
        """
        wanted = [int(at) for at in places]
        missing = [at for at in wanted if at not in self._kept]
        found = [self._found(int(self.rows[at])) for at in missing]
        if found:
            read = scenes_of(found, self.wanted)
            self._refuse_others(read)
            self._kept.update(zip(missing, read, strict=True))
        scenes = [self._kept[at] for at in wanted]
        for at in list(self._kept)[: max(0, len(self._kept) - max(4 * len(wanted), 1000))]:
            del self._kept[at]
        return scenes

    def _refuse_others(self, scenes: Iterable[Scene]) -> None:
        for scene in scenes:
            for band, content in scene.contents.items():
                kind, units = self.holds.get(band, (content.kind, content.units))
                if (kind, units) != (content.kind, content.units):
                    raise CatalogError(
                        f"Item {scene.id!r} holds {content.kind} in units {content.units or 'untold'} as band {band!r}, and other items of the "
                        f'table {kind} in units {units or "untold"}. Leave one kind out, or write "unit" into "raster:bands" with modifier=.'
                    )

    def found(self) -> list[Found]:
        """Read all items that pass, as they stand in the table."""
        return [self._found(int(row)) for row in self.rows]

    def described(self) -> tuple["ItemTable", list[Scene], Integers]:
        """Read what tells what the bands are: the first item of each collection, sensor and description, and how many items are like it.

        Of many descriptions, a few are taken. Where no such item has a band, more are looked at, spread evenly. All items of the table that
        is returned then have to hold what these do.

        Raises
        ------
        BandError
            If none of these has a band, or a name means different bands.
        """
        with _reading(self.uri, "its assets are of other types"):
            told = descriptions(_opened(self.copy), self.rows)
        kinds = pd.factorize(pd.MultiIndex.from_arrays([self.collections, self.sources, told]))[0]
        _, places, counts = np.unique(kinds, return_index=True, return_counts=True)
        largest = np.sort(np.argsort(-counts, kind="stable")[:SAMPLE])
        places, counts = places[largest], counts[largest]
        scenes = self.scenes(places)
        if not all(any(band in scene.names for scene in scenes) for band in self.wanted.bands):
            more = np.setdiff1d(np.linspace(0, len(self.rows) - 1, SAMPLE).astype(int), places)
            places, counts = np.append(places, more), np.append(counts, np.zeros(len(more), np.intp))
            scenes = self.scenes(places)
        items = [self._found(int(self.rows[at])).item for at in places]
        check_bands(items, [scene.names for scene in scenes], self.wanted.bands, self.wanted.sensor)
        holds = {band: (content.kind, content.units) for scene in scenes for band, content in scene.contents.items()}
        return replace(self, holds=holds, _kept=self._kept), scenes, counts

    def _found(self, row: int) -> Found:
        return _found(self.uri, self.copy, row, self.modifier, self.inside)


def _found(uri: str, copy: str, row: int, modifier: Modifier | None, inside: bool) -> Found:
    """Read an item by its row."""
    with _reading(uri, f"its row {row} is no item"):
        item = item_of_row(_opened(copy).slice(row, 1).to_pylist()[0])
    root = None if is_remote(uri) else os.path.dirname(os.path.realpath(uri))
    own = self_link(item)
    found = Found(item, own or uri, root, inside or (not is_http(uri) and names_inside(own)))
    return found if modifier is None else modified(found, modifier)


def open_table(
    catalog: str | os.PathLike[str],
    filters: Filters,
    wanted: Wanted,
    groupby: str | None,
    modifier: Modifier | None = None,
    allow_private: bool = False,
    orbit: str | None = None,
) -> ItemTable:
    """Open a table, and find the items that pass by their collections, times and bounding boxes.

    Raises
    ------
    CatalogError
        If it cannot be read, lacks a column that is needed, cannot be queried, or nothing passes.
    """
    uri = expanded(catalog).removeprefix("file://")
    if filters.query is not None:
        raise CatalogError(f"The table {redact(uri)} cannot be queried; filter it yourself instead of query={filters.query!r}.")
    reach = Reach(allow_private or (None if is_http(uri) else False))
    copy = copied(uri, reach)
    with _reading(uri, "its columns are of other types"):
        index = _index(copy, uri)
    keep = np.ones(len(index), bool)
    if filters.collections is not None:
        keep &= index["collection"].isin(filters.collections).to_numpy()
    long = (index["end"] > index["time"]).to_numpy()
    start, end = filters.interval
    keep &= (index["end"] >= start).to_numpy() if start is not None else True
    keep &= (index["time"] <= end).to_numpy() if end is not None else True
    keep &= long | in_season(pd.DatetimeIndex(index["time"]), filters.season, filters.years)
    long &= keep
    keep[long] = np.array([filters.meets(*both) for both in index.loc[long, ["time", "end"]].itertuples(index=False)], dtype=bool)
    sides = ["west", "south", "east", "north"]
    if filters.area is not None:
        boxes = boxes_of(index[sides].to_numpy())
        keep &= np.any([shapely.intersects(boxes, area) for area in turned(filters.area)], axis=0)
    if not keep.any():
        raise CatalogError(
            f"None of the {len(index)} items of the table matches: {filters}. Widen the search, or check the names of the collections."
        )
    # as moments_of has it: of one second, the last id goes first
    found = index[keep].assign(second=index["time"].dt.floor("s") if groupby else index["time"])
    found = found.sort_values(["second", "id"], ascending=[True, not groupby], kind="stable").drop(columns="second")
    reading = partial(_found, uri, copy, modifier=modifier, inside=bool(reach.inside))
    item_of = None if modifier is None else lambda row: reading(row).item
    with _reading(uri, "its columns are of other types"):
        sensors = row_sensors(_opened(copy), found.index.to_numpy(np.intp), wanted.sensor, item_of)
    chosen = _of_orbit(found, *sensors, orbit)
    rows, moments, boxes = chosen.index.to_numpy(np.intp), chosen.time.to_numpy(), chosen[sides].to_numpy("float64")
    collections, sources = (chosen[name].astype(str).to_numpy(object) for name in ("collection", "source"))
    return ItemTable(uri, copy, rows, moments, boxes, collections, sources, wanted, groupby, modifier, bool(reach.inside))


def _of_orbit(index: pd.DataFrame, of: Integers, sensors: Sequence[Sensor], orbit: str | None) -> pd.DataFrame:
    """Return the rows of one direction of flight, with what each was seen by; those of sensors for which it makes no difference stay."""
    differs = np.array([sensor.orbits for sensor in sensors], bool)[of]
    kept = directions(index["orbit"][differs], orbit)
    keys = pd.MultiIndex.from_arrays([of, index["collection"].astype(str), index["orbit"]])
    codes, distinct = pd.factorize(keys)
    sources = np.array([source_of(sensors[place], collection, way) for place, collection, way in distinct], object)
    return index.assign(source=sources[codes])[~differs | index["orbit"].isin(kept).to_numpy()]


@contextmanager
def _reading(uri: str, what: str) -> Iterator[None]:
    """Name the table in what Arrow, pandas and shapely raise of it."""
    try:
        yield
    except MisoxrError:
        raise
    except Exception as error:  # each of them has its own
        raise CatalogError(
            f"The table {redact(uri)} cannot be read: {what} ({short(error)}); it must be stac-geoparquet."
        ) from error


@lru_cache(maxsize=4)
def _opened(copy: str) -> Any:
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(copy)).read_all()


def _index(copy: str, uri: str) -> pd.DataFrame:
    """Return id, collection, time and bounding box of every row."""
    table = _opened(copy)
    for name, kinds in COLUMNS.items():
        if name in table.column_names and not _kind(table.schema.field(name).type) & kinds:
            raise CatalogError(
                f"The table {redact(uri)} has the column {name!r} of the type {str(table.schema.field(name).type)[:80]}; "
                f"it must be stac-geoparquet, where that holds {' or '.join(sorted(kinds - {'nothing'}))}."
            )
    count = table.num_rows
    plain = table.select(
        [name for name in ("id", "datetime", "start_datetime", "end_datetime", "collection", ORBIT) if name in table.column_names]
    ).to_pandas()
    time = end = pd.to_datetime(plain["datetime"], utc=True, errors="coerce")
    if "start_datetime" in plain:
        time = time.fillna(pd.to_datetime(plain["start_datetime"], utc=True, errors="coerce"))
    if "end_datetime" in plain:
        end = end.fillna(pd.to_datetime(plain["end_datetime"], utc=True, errors="coerce"))
    end = end.clip(upper=OPEN.tz_localize("UTC"))  # as end_of has it for items
    end = (end - pd.to_timedelta((end == end.dt.normalize()).astype("int64"), unit="ns")).where(end > time, time)
    box = {key: np.array(column, dtype="float64") for key, column in _corners(table, count).items()}
    _straighten(box, table)
    index = pd.DataFrame(
        {
            "id": plain["id"].astype(str),
            **{name: one.dt.tz_localize(None).astype("datetime64[ns]") for name, one in (("time", time), ("end", end))},
            **box,
        }
    )
    index["collection"] = plain["collection"].astype(object) if "collection" in plain else None
    index["orbit"] = (
        plain[ORBIT].astype(object).where(plain[ORBIT].notna(), UNTOLD).astype(str).str.lower() if ORBIT in plain else UNTOLD
    )
    lacking = {"datetime": index.time.isna().to_numpy(), "bbox": ~np.isfinite(index[list(box)].to_numpy()).all(axis=1)}
    for what, bad in lacking.items():
        if bad.any():
            raise CatalogError(
                f"{int(bad.sum())} of {count} items of {redact(uri)} have no {what}, such as {index.id.to_numpy()[bad][0]!r}."
            )
    return index


def _kind(kind: Any) -> set[str]:
    """Return what a column of a type holds."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    if pa.types.is_struct(kind):
        sides = [kind.field(at) for at in range(kind.num_fields)]
        boxes = {"xmin", "ymin", "xmax", "ymax"} <= {side.name for side in sides} and all(
            "numbers" in _kind(side.type) for side in sides
        )
        return {"objects", *(["boxes"] if boxes else [])}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return {"lists", *(["boxes"] if {"numbers", "nothing"} & _kind(kind.value_type) else [])}
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return {"numbers"}
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return {"times"}
    return {"nothing"} if pa.types.is_null(kind) else {"text"} if "string" in str(kind) else set()


def _corners(table: Any, count: int) -> dict[str, Any]:
    """Return west, south, east and north of a column of structs, or of lists of numbers."""
    import pyarrow as pa

    column = table.column("bbox").combine_chunks()
    if pa.types.is_struct(column.type):
        return {
            name: column.field(key)
            for name, key in zip(("west", "south", "east", "north"), ("xmin", "ymin", "xmax", "ymax"), strict=True)
        }
    values = np.array(
        [[box[0], box[1], box[len(box) // 2], box[len(box) // 2 + 1]] if box else [np.nan] * 4 for box in column.to_pylist()]
    )
    return dict(zip(("west", "south", "east", "north"), values.reshape(count, 4).T, strict=True))


def _straighten(box: Mapping[str, npt.NDArray[np.float64]], table: Any) -> None:
    """Bring boxes to areas that begin in -180..180, and go on beyond 180 across the antimeridian.

    Boxes from -180 to 180 get the sides of what they hold: no grid is far from them otherwise.
    """
    west, east = box["west"], box["east"]
    east += np.where(east < west, 360 * np.ceil((west - east) / 360), 0)
    for row in np.flatnonzero(east - west > 180) if "geometry" in table.column_names else ():
        shape = table.column("geometry")[int(row)].as_py()
        if isinstance(shape, bytes):
            west[row], _, east[row], _ = as_read(shapely.from_wkb(shape)).bounds
    finite = np.isfinite(west)
    shift = -360 * np.floor((west[finite] + 180) / 360)
    west[finite] += shift
    east[finite] += shift


def boxes_of(sides: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Return boxes of their sides: west, south, east and north in (item, 4)."""
    return np.asarray(shapely.box(*sides.T))
