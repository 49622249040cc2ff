"""Open STAC imagery as a lazy cube or composite: the stages of :func:`open_stac`, in order."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import dask.array as da
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from misoxr._version import __version__
from misoxr.assets.hrefs import redact
from misoxr.assets.read import CLEAR, PatchUrl
from misoxr.cube.reductions import COUNTED, reduction_of, refuse_units
from misoxr.cube.season import in_season
from misoxr.errors import BandError, CatalogError, gathered, note
from misoxr.grid import geobox as grid
from misoxr.grid.footprints import DEGREES, bounds_of, footprint, meets
from misoxr.sensors import Sensor
from misoxr.sensors.attributes import attributes_of
from misoxr.sensors.bands import check_bands
from misoxr.sensors.known import refuse_unmatched, sensor_named
from misoxr.sensors.masks import MASKS
from misoxr.stac.arguments import (
    band_names,
    box_of,
    chunk_sizes,
    collection_names,
    crs_of,
    pixel_size,
    refuse_reduction,
    refuse_unknown,
)
from misoxr.stac.catalog import find
from misoxr.stac.composite import EDGE, OBSERVATIONS, Composite, ItemsInHand
from misoxr.stac.dates import interval_of, years_of
from misoxr.stac.engines import ENGINES
from misoxr.stac.filters import Filters, area_of
from misoxr.stac.item_table import ItemTable, boxes_of, is_table, open_table
from misoxr.stac.items import Moment, Scene, Wanted, moments_of, of_orbit, scenes_of
from misoxr.stac.target import area_on, given_grid, meridian_of, target_grid

__all__ = ["open_stac"]

Floats = npt.NDArray[np.float32]

BLOCKS = 500_000
"""Blocks beyond which a graph is too long for Dask: six times Alaska at 10 m in default chunks."""


@gathered
def open_stac(
    catalog: Any,
    *,
    collections: str | Sequence[str] | None = None,
    bbox: Sequence[float] | None = None,
    intersects: Any = None,
    like: xr.Dataset | xr.DataArray | GeoBox | None = None,
    geobox: GeoBox | None = None,
    datetime: Any = None,
    years: int | str | Iterable[Any] | None = None,
    season: tuple[str, str] | None = None,
    bands: str | Sequence[str] | None = None,
    crs: Any = None,
    resolution: float | Sequence[float] | None = None,
    chunks: int | Literal["auto"] | tuple[int, int] | Mapping[str, int] | None = None,
    reduce: str | None = None,
    by: Literal["year"] | None = None,
    sensor: str | Sensor | None = None,
    mask: Literal["auto", "scl", "qa_pixel", "fmask"] | Callable[[npt.NDArray[Any]], npt.NDArray[np.bool_]] | None = "auto",
    snow: bool = False,
    orbit: Literal["ascending", "descending", "both"] | None = None,
    engine: Literal["stackstac", "odc"] = "stackstac",
    groupby: Literal["solar_day"] | None = "solar_day",
    query: Any = None,
    modifier: Callable[[Any], Any] | None = None,
    patch_url: PatchUrl | None = None,
    allow_private: bool = False,
) -> xr.Dataset:
    """Open imagery of a STAC catalogue, lazily: reflectance, other quantities and classes.

    Only the catalogue's JSON is read before the result is computed.

    Parameters
    ----------
    catalog : str, path, object of pystac or pystac-client, or iterable of pystac.Item or dict
        One of:

        - the address of a STAC API;
        - the address or path of a static catalogue, collection, item or item collection. Its links are followed below its own directory;
        - a table of items (stac-geoparquet, ``.parquet``), of which a composite reads only the items that a block needs;
        - a ``pystac_client.Client`` or its collection, which is searched, or an ``ItemSearch``;
        - a ``pystac.Catalog`` or ``Collection``, or items in hand.

        Local files are read only from below the directory of a catalogue opened by its local path, or beside an item in hand whose self
        link is local.
    collections : str or sequence of str, optional
        Names of collections.
    bbox : (west, south, east, north), optional
        Area to search and to cover, in degrees. West lies east of east where the area crosses the antimeridian. Longitudes may be of
        0..360, too.
    intersects : GeoDataFrame, GeoSeries, shapely geometry or GeoJSON mapping, optional
        Area of any shape to search; the result covers its bounds. Without a CRS it is in longitude and latitude. Across the antimeridian it
        may go on beyond 180, be in two parts, or jump from 180 to -180.
    like : Dataset, DataArray or GeoBox, optional
        Take this object's grid.
    geobox : odc.geo.geobox.GeoBox, optional
        Take this grid.
    datetime : str, date, datetime, Period, datetime64, pair of these, slice or index of times, optional
        A moment or an interval in UTC, such as "2020-06/2020-08". Days, months and years are whole. Times at midnight without a zone are
        whole days, too. Items that cover an interval are found where it meets this one, and have the time of its start.
    years, season : optional
        One or several years, and the first and last day of the season, ("MM-DD", "MM-DD"), both inclusive, in UTC. A season may wrap over
        new year; it belongs to the year it starts in.
    bands : str or sequence of str, optional
        STAC common names or keys of assets; the nine of ``misoxr.spec.SENTINEL2`` by default. A key such as B05 stands for a common name
        only for the item's own sensor. Items without any of the bands are left out, with a warning.
    crs : str, int or CRS, optional
        CRS of the result; the items' by default.
    resolution : float or pair of equal floats, optional
        Pixel size in units of the CRS; pixel edges are then multiples of it. The smallest pixels of the bands by default.
    chunks : int, pair along (y, x), mapping of {"y", "x"} to int, or "auto", optional
        Chunk size in pixels, 1024 by default; -1 is the whole axis.
    reduce : {None, "median", "mean", "geomedian", "count", "p1" to "p99"}
        ``None`` gives dimensions (time, y, x). Else the valid values of all times are reduced, (y, x): to their median, mean, a percentile, the
        geometric median of all bands, or ``"count"``, their number (uint16), each as in :func:`misoxr.cube.reductions.reduce_time`. Beside
        them, ``observations`` is the number of times with a valid value in any band; a geometric median takes only times with all of them.
        One task reads, masks and reduces one block. Bands of classes are refused, and for a geometric median bands of several units.
    by : {None, "year"}
        ``"year"`` gives one composite for each year that has items, (time, y, x), one task for each block and year. A time is the first day of
        the year's season. A season that wraps over new year is of the year it starts in.
    sensor : str or misoxr.sensors.Sensor, optional
        What the items are of: a name among ``misoxr.sensors.SENSORS``, or a description of your own. By default each item is known by its
        collection, its id, or its platform; so items of several sensors make one cube.
    mask : {"auto", "scl", "qa_pixel", "fmask", None} or callable
        What hides clouds, in all bands. ``"auto"`` is the mask of each item's sensor, and none where the sensor has none. A name is that of a
        quality band: Sentinel-2's scene classification, and the bits of Landsat Collection 2 and of HLS. Clouds and their shadows are
        cleaned of specks and grown by two of its pixels. A pixel of twice their size or more is clear only where all of them in it are: for a coarse grid
        of broken clouds, open finer pixels and ``coarsen`` them. Where the sensor tells what is saturated, as Landsat does, ``"auto"`` and the name of its mask hide that in these bands, too.
        A callable takes a block of the quality band of the item's sensor, and returns True where it is clear. It sees 64 pixels around the block,
        and must be picklable to run on a cluster.
    snow : bool, optional
        Whether snow counts as clear. Masks by name and ``"auto"`` hide it by default; a function decides itself.
    orbit : {"ascending", "descending", "both"}, optional
        Which radar items to take. By default there must be one direction of flight only: each sees slopes from another side.
    engine : {"stackstac", "odc"}
        Library that builds the time cube. The numbers are the same. A composite needs neither.
    groupby : {"solar_day", None}
        Make one time of the items of one solar day and sensor, and of radar's one direction of flight, the earlier item first where they
        overlap; or keep each item a time. Solar days are counted from the meridian in the grid's middle.
    query : mapping or list of str, optional
        Passed to an API that conforms to the query extension.
    modifier : callable, optional
        Takes each ``pystac.Item``, and changes it or returns a changed one.
    patch_url : callable, optional
        Takes an href when it is read, and returns the one to read: for signatures that expire. It must be picklable to run on a cluster.
    allow_private : bool, optional
        Whether links and assets may lead to this machine or into a private network. By default they may only where the catalogue itself
        is opened from there. Items in hand, and those of tables, count as from outside unless their own link (``self``) names such an address. The workers keep to it, too.

    Returns
    -------
    Dataset
        One float32 variable for each band, NaN where nothing is valid, with dimensions (y, x) or (time, y, x). Reflectance has the units "1".
        Other quantities have their units where they are known; classes have ``flag_values`` and ``flag_meanings``.

    Raises
    ------
    CatalogError
        If the catalogue cannot be reached, cannot do what is asked, holds no matching item, or its items cannot make a cube; if a sensor or
        mask is unknown, or not the items'.
    BandError
        If no item has a band, a name is that of several bands, classes would be reduced, or a geometric median would mix units.
    GridError
        If the grid is contradictory.
    AssetError
        If an item's href is refused. When computing: if an address is refused, an asset cannot be read, or the scale of its whole numbers is unknown.

    Notes
    -----
    Scale, offset and nodata are looked up one by one, for each item: in the item, then in the file's own tags, then by the sensor
    (``misoxr.sensors.SENSORS``). A scale of 1 with an offset of 0, which many
    tools write where they know nothing, is taken only where neither the file nor a known product says otherwise. Write missing metadata into the items by ``modifier``, as ``raster:bands``.

    Since processing baseline 04.00, Sentinel-2's offset is -0.1. The baseline is found in any of its spellings. The offset is 0 where the catalogue
    says that it has taken the offset off, and where no baseline is named.

    Bands of other pixel sizes are resampled by georeferencing: quantities bilinearly, classes by the nearest pixel.

    Examples
    --------
    >>> image = misoxr.open_stac(
    ...     catalog,
    ...     collections=["sentinel-2-l2a"],
    ...     intersects=area,
    ...     years=range(2019, 2024),
    ...     season=("06-20", "08-20"),
    ...     reduce="median",
    ...     crs="EPSG:3338",
    ...     resolution=10,
    ... )
    """
    names, sizes = band_names(bands), chunk_sizes(chunks)
    if not callable(mask):
        refuse_unknown("mask", mask, ("auto", *MASKS, None))
    if not isinstance(snow, bool):
        raise CatalogError(f"snow={snow!r} is neither True nor False.")
    if snow and (mask is None or callable(mask)):
        raise CatalogError(
            f"snow=True does nothing with {'mask=None' if mask is None else 'a function as mask'}; leave it away, or use a mask by name or 'auto'."
        )
    wanted = Wanted(tuple(names), sensor_named(sensor), mask, snow)
    for name, value, known in (
        ("orbit", orbit, (None, "ascending", "descending", "both")),
        ("groupby", groupby, ("solar_day", None)),
        ("engine", engine, tuple(ENGINES)),
    ):
        refuse_unknown(name, value, known)
    refuse_reduction(reduce, by)
    if not isinstance(allow_private, bool):
        raise CatalogError(f"allow_private={allow_private!r} is neither True nor False.")
    _refuse_no_functions(modifier=modifier, patch_url=patch_url)
    crs, resolution, bbox = crs_of(crs), pixel_size(resolution), box_of(bbox)
    target = given_grid(geobox, like, crs, resolution)
    filters = _filters(collections, bbox, intersects, target, datetime, years, season, query)
    table = open_table(catalog, filters, wanted, groupby, modifier, allow_private, orbit) if is_table(catalog) else None
    if table is not None and reduce is not None:
        target = target or _table_grid(table, filters.area, crs, resolution)
        table, described, counts = table.on(target, meridian_of(target)).described()
        _refuse_contents(described, names, reduce)
        _tell_unmasked(described, mask, counts)
        composite = Composite(table, tuple(names), target, reduce, patch_url)
        cube = composite.dataset(_chunk_size(sizes, target), by, filters.season, filters.years)
        listed = {"stac_item_count": len(table.rows), "stac_items_token": table.token}
        return _described(grid.assign(cube, target), catalog, described, listed)
    found = find(catalog, filters, modifier, allow_private) if table is None else table.found()
    refuse_unmatched((one.item for one in found), wanted.sensor)
    scenes = scenes_of(found, wanted)
    check_bands([one.item for one in found], [scene.names for scene in scenes], names, wanted.sensor)
    scenes = of_orbit(scenes, orbit)
    if reduce is not None:
        _refuse_contents(scenes, names, reduce)
    if target is None:
        target = target_grid([scene for scene in scenes if scene.assets], filters.area, crs, resolution)
    moments = moments_of(_on_grid(scenes, names, target), groupby, meridian_of(target))
    used = [scene for moment in moments for scene in moment.scenes]
    _tell_unmasked(used, mask)
    size = _chunk_size(sizes, target)
    if reduce is None:
        cube = _cube(moments, names, target, size, engine, patch_url)
    else:
        composite = Composite(ItemsInHand(moments), tuple(names), target, reduce, patch_url)
        cube = composite.dataset(size, by, filters.season, filters.years)
    return _described(grid.assign(cube, target), catalog, used, {"stac_item_ids": [scene.id for scene in used]})


# ---- what is asked for


def _refuse_no_functions(**functions: Any) -> None:
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise CatalogError(f"{name}={function!r} is a {type(function).__name__}; give a function.")


def _filters(
    collections: Any, bbox: Any, intersects: Any, target: GeoBox | None, datetime: Any, years: Any, season: Any, query: Any
) -> Filters:
    in_season(pd.DatetimeIndex([]), season)
    area = area_of(bbox, intersects)
    if area is None and target is not None:
        area = area_on(target)
    return Filters(
        collections=collection_names(collections),
        area=area,
        interval=interval_of(datetime),
        years=years_of(years),
        season=None if season is None else (season[0], season[1]),
        query=query,
    )


def _chunk_size(sizes: Mapping[str, int], target: GeoBox) -> tuple[int, int]:
    """Return chunk sizes along y and x, at most the grid's own."""
    rows, columns = (
        length if sizes[dim] == -1 else min(sizes[dim], length) for dim, length in zip("yx", target.shape.yx, strict=True)
    )
    blocks = math.ceil(target.shape.y / rows) * math.ceil(target.shape.x / columns)
    if blocks > BLOCKS:
        raise CatalogError(
            f"The grid {target.shape.yx} in chunks of {(rows, columns)} makes {blocks:,} blocks; at most {BLOCKS:,} are allowed."
        )
    return rows, columns


def _refuse_contents(scenes: Sequence[Scene], names: Sequence[str], reduce: str) -> None:
    """Refuse to reduce classes: a median of codes is no code; and one distance over several units, which would depend on them."""
    contents = {name: [scene.contents[name] for scene in scenes if name in scene.contents] for name in names}
    classes = [name for name, some in contents.items() if any(content.kind == "classes" for content in some)]
    if classes:
        raise BandError(
            f"The bands {classes} hold classes, and reduce={reduce!r} of classes is no class. Leave them out, or open them without reduce."
        )
    if reduction_of(reduce).together:
        refuse_units({name: content.units for name, some in contents.items() for content in some[:1]}, reduce)


def _tell_unmasked(scenes: Sequence[Scene], mask: Any, counts: Iterable[int] | None = None) -> None:
    """Warn of reflectance whose clouds nothing hides, though masks are wanted; each scene may stand for several items."""
    counted = list(zip(scenes, [1] * len(scenes) if counts is None else counts, strict=True))
    bare = [
        (scene, count)
        for scene, count in counted
        if not scene.masked and any(one.kind == "reflectance" for one in scene.contents.values())
    ]
    if mask is not None and bare:
        note(
            f"{sum(count for _, count in bare)} of {sum(count for _, count in counted)} items have no quality band that is known, so their clouds are not masked, such as "
            f"{bare[0][0].id!r} ({bare[0][0].sensor.name}); mask=None says that this is meant."
        )


# ---- which items make which time


def _on_grid(scenes: Sequence[Scene], names: Sequence[str], target: GeoBox) -> list[Scene]:
    """Return the scenes that have any of the bands and meet the grid; warn once of what they lack."""
    whole = footprint(target, EDGE)
    kept = [scene for scene in scenes if scene.assets and meets(whole, scene.outline)]
    if not kept:
        raise CatalogError(
            f"None of the {len(scenes)} items that match meets the grid; its bounds in {target.crs} are {tuple(target.boundingbox.bbox)}."
        )
    lacking = {name: [scene.id for scene in kept if name not in scene.assets] for name in names}
    for name, without in lacking.items():
        if len(without) == len(kept):
            raise BandError(f"None of the {len(kept)} items on the grid has the band {name!r}.")
    told = [f"{len(ids)} of {len(kept)} items lack the band {name!r}, such as {ids[0]!r}" for name, ids in lacking.items() if ids]
    empty = [scene.id for scene in scenes if not scene.assets]
    if empty:
        told.append(f"{len(empty)} of {len(scenes)} items have none of the bands and are left out, such as {empty[0]!r}")
    if told:
        note(f"{'; '.join(told)}.")
    return kept


def _table_grid(table: ItemTable, area: BaseGeometry | None, crs: Any, resolution: float | None) -> GeoBox:
    """Return the grid for a table's items, which are too many to ask for theirs."""
    if crs is None or resolution is None:
        raise CatalogError("A composite of a table of items needs a grid: give crs and resolution, geobox or like.")
    return target_grid(table.scenes([0]), area or shapely.box(*bounds_of(boxes_of(table.boxes), DEGREES)), crs, resolution)


# ---- the cube


def _cube(
    moments: Sequence[Moment],
    names: Sequence[str],
    target: GeoBox,
    size: tuple[int, int],
    engine: str,
    patch_url: PatchUrl | None,
) -> xr.Dataset:
    """Build the lazy (time, y, x) dataset."""
    scenes = [scene for moment in moments for scene in moment.scenes]
    masked = np.array([CLEAR in scene.assets for scene in scenes])
    read = [*names, CLEAR] if masked.any() else list(names)
    layers = ENGINES[engine](scenes, read, target, size, patch_url)
    members = tuple(len(moment.scenes) for moment in moments)
    if not masked.all() and masked.any():
        always = da.from_array(~masked[:, None, None], chunks=(1, 1, 1))
        layers[CLEAR] = da.where(always, np.float32(1), layers[CLEAR])
    merged = {}
    for name in names:
        arrays = [layer.rechunk({0: members}) for layer in (layers[name], layers.get(CLEAR)) if layer is not None]
        shape = ((1,) * len(moments), *arrays[0].chunks[1:])
        merged[name] = da.map_blocks(_first_valid, *arrays, chunks=shape, dtype="float32", meta=np.empty((0, 0, 0), "float32"))
    times = pd.DatetimeIndex([moment.time for moment in moments]).as_unit("ns")
    variables = {name: (("time", "y", "x"), values) for name, values in merged.items()}
    return xr.Dataset(variables, coords={"time": ("time", times, {"standard_name": "time"})})


def _first_valid(values: Floats, clear: Floats | None = None) -> Floats:
    """Merge items (item, y, x) into one time (1, y, x): each pixel is the first that is valid, and clear."""
    if clear is not None:
        values = np.where(clear == 1, values, np.float32(np.nan))
    merged: Floats = values[0]
    for layer in values[1:]:
        merged = np.where(np.isnan(merged), layer, merged)
    return merged[None]


# ---- what the result says of itself


def _described(cube: xr.Dataset, catalog: Any, scenes: Sequence[Scene], listed: Mapping[str, Any]) -> xr.Dataset:
    """Add units, names and provenance: what all scenes have in common, and which they are."""
    for name, variable in cube.data_vars.items():
        if name == OBSERVATIONS:
            variable.attrs |= COUNTED | {"long_name": "number of times with a valid value"}
        elif variable.dtype == "uint16":
            variable.attrs |= COUNTED | {"long_name": f"{name}: number of valid values"}
        else:
            here = [scene for scene in scenes if name in scene.contents]
            variable.attrs |= attributes_of(str(name), [(scene.contents[str(name)], scene.surface) for scene in here])
    cube.attrs |= {
        **listed,
        "stac_collections": sorted({scene.collection for scene in scenes if scene.collection}),
        "misoxr_version": __version__,
    }
    if isinstance(catalog, str | os.PathLike):
        cube.attrs["stac_catalog"] = redact(os.fspath(catalog))
    simulated = sorted({scene.simulated for scene in scenes if scene.simulated})
    if simulated:
        cube.attrs |= {"simulated": 1, "simulator_version": ", ".join(simulated)}
    return cube
