"""Tables of items (stac-geoparquet): hundreds of thousands of them, of which only those that a block needs are ever read."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import groupby as runs
from pathlib import Path
from typing import Any, Literal

import fsspec
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
import shapely.geometry
from dask.base import tokenize
from fsspec.implementations.local import LocalFileSystem
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from misoxr.cube import in_season
from misoxr.errors import CatalogError, require
from misoxr.paths import expanded
from misoxr.stac.assets import transformer
from misoxr.stac.catalog import Found, Modifier, modified
from misoxr.stac.composite import Times, outline
from misoxr.stac.filters import Filters, area_of
from misoxr.stac.hrefs import is_remote, redact
from misoxr.stac.items import Scene, scenes_of

__all__ = ["ItemTable", "is_table", "open_table"]

SUFFIXES = (".parquet", ".geoparquet")
BATCH = 2048
"""Items that are copied at once."""
ALONG = 5
"""Points along each side of a bounding box by which it is followed into another CRS."""
FIELDS = ("type", "stac_version", "stac_extensions", "id", "geometry", "bbox", "links", "assets", "collection")
"""Columns that are an item's own fields; the others are its properties."""
NEEDED = ("id", "bbox", "datetime")

Integers = npt.NDArray[np.intp]


def is_table(catalog: Any) -> bool:
    """Whether a catalogue is the address or path of a table."""
    return isinstance(catalog, str | os.PathLike) and os.fspath(catalog).lower().endswith(SUFFIXES)


@dataclass(frozen=True)
class ItemTable:
    """The items of a table that pass the filters, in order of their times.

    Attributes
    ----------
    uri : str
        Address or path of the table.
    copy : str
        Its copy in the local cache, as Arrow's own format: rows are read from it without the rest.
    rows : ndarray of int
        Which rows pass, in order of day, time and id.
    times : ndarray of int
        For each, the number of its time: items of a solar day are one.
    boxes : ndarray of float, shape (item, 4)
        West, south, east and north, degrees.
    bands, mask, modifier
        As for :func:`misoxr.open_stac`.
    target : GeoBox, optional
        The grid whose blocks will ask.
    """

    uri: str
    copy: str
    rows: Integers
    times: Integers
    boxes: npt.NDArray[np.float64]
    bands: tuple[str, ...]
    mask: Literal["scl"] | None
    modifier: Modifier | None
    target: GeoBox | None = None
    _kept: dict[int, Scene] = field(default_factory=dict, repr=False, compare=False)

    def on(self, target: GeoBox) -> "ItemTable":
        """Return the items whose boxes meet a grid, to be asked by its blocks."""
        whole = replace(self, target=target)
        met = np.sort(whole._tree.query(shapely.box(*target.boundingbox.bbox), predicate="intersects"))
        if not len(met):
            raise CatalogError(
                f"None of the {len(self.rows)} items that match meets the grid, {tuple(target.boundingbox.bbox)} in {target.crs}."
            )
        return replace(whole, rows=self.rows[met], times=self.times[met], boxes=self.boxes[met], _kept={})

    @cached_property
    def token(self) -> str:
        """What tells these items from others: the table's content, and which rows of it."""
        return str(tokenize(Path(self.copy).name, self.rows, self.times, self.bands, self.mask, self.modifier))

    @cached_property
    def _tree(self) -> shapely.STRtree:
        assert self.target is not None
        return shapely.STRtree(_moved(self.boxes, str(self.target.crs), self.target))

    def meeting(self, box: BaseGeometry) -> Times:
        """Return the assets of the items that meet a box, by time; they are read now."""
        assert self.target is not None
        met = np.sort(self._tree.query(box, predicate="intersects"))
        # boxes in degrees are wider than what they hold
        here = [
            (int(self.times[at]), scene)
            for at, scene in zip(met, self.scenes(met), strict=True)
            if outline(scene, self.target).intersects(box)
        ]
        return tuple(tuple(scene.assets for _, scene in group) for _, group in runs(here, key=lambda entry: entry[0]))

    def scenes(self, places: Iterable[int]) -> list[Scene]:
        """Read items by their places among those that pass. The last ones stay at hand: blocks beside each other share most."""
        wanted = [int(at) for at in places]
        missing = [at for at in wanted if at not in self._kept]
        found = [self._found(int(self.rows[at])) for at in missing]
        if found:
            self._kept.update(zip(missing, scenes_of(found, self.bands, self.mask), strict=True))
        scenes = [self._kept[at] for at in wanted]
        for at in list(self._kept)[: max(0, len(self._kept) - max(4 * len(wanted), 1000))]:
            del self._kept[at]
        return scenes

    def _found(self, row: int) -> Found:
        item = _item(_opened(self.copy).slice(row, 1).to_pylist()[0])
        local = not is_remote(self.uri)
        link = next((str(link.get("href")) for link in item.get("links") or () if link.get("rel") == "self"), "")
        found = Found(item, link if is_remote(link) else self.uri, os.path.dirname(os.path.realpath(self.uri)) if local else None)
        return found if self.modifier is None else modified(found, self.modifier)


def open_table(
    catalog: str | os.PathLike[str],
    filters: Filters,
    bands: Sequence[str],
    mask: Literal["scl"] | None,
    groupby: str | None,
    modifier: Modifier | None = None,
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
    copy = _copied(uri)
    index = _index(copy, uri)
    keep = np.ones(len(index), bool)
    if filters.collections is not None:
        keep &= index["collection"].isin(filters.collections).to_numpy()
    start, end = filters.interval
    keep &= (index["time"] >= start).to_numpy() if start is not None else True
    keep &= (index["time"] <= end).to_numpy() if end is not None else True
    keep &= in_season(pd.DatetimeIndex(index["time"]), filters.season, filters.years)
    sides = ["west", "south", "east", "north"]
    if filters.area is not None:
        keep &= shapely.intersects(_areas(index[sides].to_numpy()), filters.area)
    if not keep.any():
        raise CatalogError(
            f"None of the {len(index)} items of the table matches: {filters}. Widen the search, or check the names of the collections."
        )
    chosen = index[keep]
    middle = np.where((chosen.east - chosen.west).between(0, 180, "left"), (chosen.west + chosen.east) / 2, 180.0)
    day = (chosen.time + pd.to_timedelta(middle / 15, unit="h")).dt.normalize()
    chosen = chosen.assign(day=day if groupby else chosen.time).sort_values(["day", "time", "id"], kind="stable")
    times = pd.factorize(chosen.day)[0] if groupby else np.arange(len(chosen))
    rows = chosen.index.to_numpy(np.intp)
    return ItemTable(uri, copy, rows, times.astype(np.intp), chosen[sides].to_numpy("float64"), tuple(bands), mask, modifier)


def _copied(uri: str) -> str:
    """Return the path of a table's copy in the local cache, made once for each version of it."""
    require("pyarrow", "parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq
    from platformdirs import user_cache_dir

    try:
        system, path = fsspec.core.url_to_fs(uri)
        info = system.info(path)
        version = [uri if not isinstance(system, LocalFileSystem) else os.path.realpath(path)]
        version += [str(info.get(key)) for key in ("size", "mtime", "ETag", "etag", "LastModified", "Last-Modified")]
        folder = Path(expanded(os.environ.get("MISOXR_CACHE") or user_cache_dir("misoxr"))) / "tables"
        copy = folder / f"{hashlib.sha256(repr(version).encode()).hexdigest()}.arrow"
        if copy.exists():
            return str(copy)
        folder.mkdir(parents=True, exist_ok=True)
        with system.open(path, "rb") as file, tempfile.NamedTemporaryFile(dir=folder, delete=False) as aside:
            table = pq.ParquetFile(file)
            missing = [name for name in (*NEEDED, "assets") if name not in table.schema_arrow.names]
            if missing:
                raise CatalogError(f"The table {redact(uri)} lacks the columns {missing}; it must be stac-geoparquet.")
            with pa.ipc.new_file(aside, table.schema_arrow) as writer:
                for batch in table.iter_batches(BATCH):
                    writer.write_batch(batch)
        os.replace(aside.name, copy)
    except (OSError, pa.ArrowException) as error:
        raise CatalogError(f"The table {redact(uri)} cannot be read ({error}); it must be stac-geoparquet.") from error
    return str(copy)


@lru_cache(maxsize=4)
def _opened(copy: str) -> Any:
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(copy)).read_all()


def _index(copy: str, uri: str) -> pd.DataFrame:
    """Return id, collection, time and bounding box of every row."""
    table = _opened(copy)
    count = table.num_rows
    plain = table.select(
        [name for name in ("id", "datetime", "start_datetime", "collection") if name in table.column_names]
    ).to_pandas()
    time = pd.to_datetime(plain["datetime"], utc=True, errors="coerce")
    if "start_datetime" in plain:
        time = time.fillna(pd.to_datetime(plain["start_datetime"], utc=True, errors="coerce"))
    box = {key: np.array(column, dtype="float64") for key, column in _corners(table, count).items()}
    _narrow(box, table)
    index = pd.DataFrame({"id": plain["id"].astype(str), "time": time.dt.tz_localize(None).astype("datetime64[ns]"), **box})
    index["collection"] = plain["collection"].astype(object) if "collection" in plain else None
    lacking = {"datetime": index.time.isna().to_numpy(), "bbox": ~np.isfinite(index[list(box)].to_numpy()).all(axis=1)}
    for what, bad in lacking.items():
        if bad.any():
            raise CatalogError(
                f"{int(bad.sum())} of {count} items of {redact(uri)} have no {what}, such as {index.id.to_numpy()[bad][0]!r}."
            )
    return index


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


def _narrow(box: Mapping[str, npt.NDArray[np.float64]], table: Any) -> None:
    """Give boxes from -180 to 180 the sides of what they hold, where that lies about the antimeridian: no grid is far from them otherwise."""
    wide = np.flatnonzero(box["east"] - box["west"] > 180)
    for row in wide if "geometry" in table.column_names else ():
        shape = table.column("geometry")[int(row)].as_py()
        if isinstance(shape, bytes):
            longitude = shapely.get_coordinates(shapely.from_wkb(shape))[:, 0] % 360
            if longitude.min() < 180 < longitude.max() and np.ptp(longitude) < 180:
                box["west"][row], box["east"][row] = longitude.min(), longitude.max() - 360


def _areas(boxes: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Return boxes in degrees as areas: two on either side of the antimeridian, where west lies east of east."""
    areas = np.asarray(shapely.box(*boxes.T))
    across = boxes[:, 0] > boxes[:, 2]
    areas[across] = [area_of(box, None) for box in boxes[across]]
    return areas


def _moved(boxes: npt.NDArray[np.float64], crs: str, target: GeoBox) -> npt.NDArray[Any]:
    """Return what boxes in degrees cover in another CRS, as boxes a little wider."""
    forward = transformer("EPSG:4326", crs)
    if forward is None:
        return _areas(boxes)
    west, south, east, north = boxes.T
    along = np.linspace(0, 1, ALONG)
    u, v = (part.ravel() for part in np.meshgrid(along, along))
    wide = east - west + np.where(east < west, 360, 0)  # across the antimeridian, west lies east of east
    x, y = forward.transform(west[:, None] + wide[:, None] * u, south[:, None] + (north - south)[:, None] * v)
    x, y = (np.where(np.isfinite(part), part, np.nan) for part in (x, y))
    finite: Any = np.isfinite(x)
    known = finite.any(axis=1)[:, None]
    x, y = np.where(known, x, 1e30), np.where(known, y, 1e30)  # what lies outside the CRS meets nothing
    low, high = ((np.nanmin(x, axis=1), np.nanmin(y, axis=1)), (np.nanmax(x, axis=1), np.nanmax(y, axis=1)))
    margin = [0.05 * (b - a) + 2 * abs(target.affine.a) for a, b in zip(low, high, strict=True)]  # edges bulge between the points
    # -180 to 180 may be an item on the antimeridian: its outline tells
    margin = [np.where(wide > 180, 1e30, one) for one in margin]
    return np.asarray(shapely.box(low[0] - margin[0], low[1] - margin[1], high[0] + margin[0], high[1] + margin[1]))


def _item(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as the item it was made from."""
    item: dict[str, Any] = {key: _plain(row[key]) for key in FIELDS if row.get(key) is not None}
    if isinstance(item.get("geometry"), bytes):
        item["geometry"] = shapely.geometry.mapping(shapely.from_wkb(item["geometry"]))
    if isinstance(item.get("bbox"), Mapping):
        item["bbox"] = [item["bbox"][key] for key in ("xmin", "ymin", "xmax", "ymax")]
    item["properties"] = {key: _plain(value) for key, value in row.items() if key not in FIELDS and value is not None}
    return {"type": "Feature", **item}


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: without what other rows have and this one lacks, and times as text."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value.isoformat() if hasattr(value, "isoformat") else value
