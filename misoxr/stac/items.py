"""From a STAC item's JSON to a scene: its time, grids, and for each band what a worker needs to read it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby as runs
from reprlib import repr as short
from typing import Any, Literal

import pandas as pd
import pyproj
import shapely
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from misoxr.areas import DEGREES, footprint, meets, moved
from misoxr.errors import AssetError, BandError, CatalogError, GridError
from misoxr.longitude import near
from misoxr.stac.assets import CLEAR, Asset
from misoxr.stac.catalog import Found
from misoxr.stac.fields import name_of
from misoxr.stac.filters import footprint_of, time_of
from misoxr.stac.hrefs import resolve

__all__ = ["Moment", "Scene", "moments_of", "scenes_of", "solar_days"]

KEYS: Mapping[str, tuple[str, ...]] = {
    "coastal": ("B01",),
    "blue": ("B02",),
    "green": ("B03",),
    "red": ("B04",),
    "rededge071": ("B05", "rededge1"),
    "rededge075": ("B06", "rededge2"),
    "rededge078": ("B07", "rededge3"),
    "nir": ("B08",),
    "nir08": ("B8A",),
    "nir09": ("B09",),
    "swir16": ("B11",),
    "swir22": ("B12",),
    CLEAR: ("scl", "SCL"),
}
"""Asset keys that well-known Sentinel-2 catalogues use, by common name."""

PICTURES = {"visual", "overview", "thumbnail", "metadata"}
"""Roles of assets that are no band."""

LARGEST = 10**10
"""Pixels of an asset beyond which its metadata are taken for wrong."""
EDGE = 1e9
"""Coordinates beyond which a grid is not on Earth, in metres, feet or degrees."""


@dataclass(frozen=True)
class Scene:
    """One item.

    Attributes
    ----------
    id, collection : str
        As in the catalogue.
    time : Timestamp
        UTC, without a zone.
    footprint : shapely geometry
        Degrees, as :mod:`misoxr.areas` has them.
    assets : mapping of str to Asset
        By band; a band that the item lacks is not there.
    grids : mapping of str to GeoBox
        By band, where the item has projection metadata.
    surface : bool
        Whether reflectance is that of the surface (Level-2A).
    simulated : str, optional
        Version of the simulator, if the item is simulated.
    """

    id: str
    collection: str | None
    time: pd.Timestamp
    footprint: BaseGeometry
    assets: Mapping[str, Asset]
    grids: Mapping[str, GeoBox]
    surface: bool
    simulated: str | None

    def solar_day(self, meridian: float) -> pd.Timestamp:
        """Return the date in mean solar time at the middle of the item; see :func:`solar_days`."""
        west, _, east, _ = self.footprint.bounds
        day: pd.Timestamp = solar_days(self.time, (west + east) / 2, meridian)
        return day

    def finest(self) -> GeoBox | None:
        """Return the grid with the smallest pixels among those of the bands."""
        boxes = [box for band, box in self.grids.items() if band != CLEAR]
        return min(boxes, key=lambda box: abs(box.affine.a), default=None)

    @cached_property
    def outline(self) -> BaseGeometry:
        """What the item covers by its grid, else by its footprint, in degrees."""
        finest = self.finest()
        try:
            return self.footprint if finest is None else footprint(finest)
        except GridError as error:
            raise CatalogError(f"Item {self.id!r}: {error}") from error

    def extent(self, crs: str) -> BaseGeometry:
        """Return what the item covers in another CRS."""
        finest = self.finest()
        try:
            if finest is None:
                return moved(self.footprint, DEGREES, crs)
            return moved(shapely.box(*finest.boundingbox.bbox), str(finest.crs), crs)
        except GridError as error:
            raise CatalogError(f"Item {self.id!r}: {error}") from error


@dataclass(frozen=True)
class Moment:
    """The items that make one time, in the order in which they fill it."""

    time: pd.Timestamp
    scenes: tuple[Scene, ...]


def solar_days(times: Any, longitude: Any, meridian: float) -> Any:
    """Return the dates in mean solar time at longitudes.

    They are counted on from a meridian, half a turn to either side of it, across 180 degrees as elsewhere: tiles of one overpass
    of the Aleutians are of one day. With the calendar's date line, they would be of two.
    """
    return (times + pd.to_timedelta(near(longitude, meridian, 360.0) / 15, unit="h")).normalize()


def scenes_of(found: Iterable[Found], bands: Sequence[str], mask: Literal["scl"] | None) -> list[Scene]:
    """Parse items.

    Raises
    ------
    CatalogError
        If an item's metadata make no sense, or it has no scene classification and ``mask="scl"``; names the item.
    BandError
        If no item has a band.
    AssetError
        If an href is refused.
    """
    wanted = [*bands, CLEAR] if mask == "scl" else list(bands)
    keys = [_keys(one.item, wanted) for one in found]
    for band in bands:
        if not any(band in per_item for per_item in keys):
            have = sorted({name for one in found for name in _available(one.item)})
            raise BandError(f"No item has the band {band!r}; the items have {have}.")
    return [_scene(one, per_item, mask) for one, per_item in zip(found, keys, strict=True)]


def moments_of(scenes: Iterable[Scene], groupby: str | None, meridian: float) -> list[Moment]:
    """Group scenes into times, in order of time and id; solar days are counted on from a meridian."""

    def day(scene: Scene) -> Any:
        return (scene.time, scene.id, scene.collection) if groupby is None else scene.solar_day(meridian)

    ordered = sorted(scenes, key=lambda scene: (day(scene), scene.time, scene.id))
    groups = (tuple(group) for _, group in runs(ordered, key=day))
    return [Moment(group[0].time, group) for group in groups]


def _scene(found: Found, keys: Mapping[str, str], mask: str | None) -> Scene:
    item, name = found.item, name_of(found.item)
    properties: Mapping[str, Any] = item.get("properties") or {}
    if mask == "scl" and CLEAR not in keys:
        raise CatalogError(f"Item {name!r} has no scene classification (asset 'scl'); pass mask=None to use it unmasked.")
    grids = {band: _grid(item, item["assets"][key]) for band, key in keys.items()}
    level = str(properties.get("processing:level") or properties.get("s2:product_type") or item.get("collection"))
    simulated = properties.get("misoxr:simulator_version", "unknown") if properties.get("misoxr:simulated") else None
    scene = Scene(
        id=name,
        collection=item.get("collection"),
        time=time_of(item),
        footprint=footprint_of(item),
        assets={band: _asset(found, band, key) for band, key in keys.items()},
        grids={band: box for band, box in grids.items() if box is not None},
        surface="2a" in level.lower(),
        simulated=str(simulated) if simulated else None,
    )
    covers, says = scene.outline.bounds, scene.footprint.bounds
    if not meets(shapely.box(*covers), shapely.box(*says)):
        raise CatalogError(
            f"Item {name!r} has a grid within {covers} and a footprint within {says}, in degrees; its metadata contradict each other."
        )
    return scene


# ---- which asset is which band


def _keys(item: Mapping[str, Any], bands: Iterable[str]) -> dict[str, str]:
    """Return the asset key of each band that the item has."""
    chosen = {}
    for band in bands:
        ranked = [(rank, key) for key, asset in _assets(item).items() if (rank := _rank(band, key, asset)) is not None]
        if ranked:
            chosen[band] = min(ranked)[1]
    return chosen


def _assets(item: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    assets = item.get("assets")
    if not isinstance(assets, Mapping):
        raise CatalogError(f"Item {name_of(item)!r} has no assets.")
    return assets


def _rank(band: str, key: str, asset: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return how well an asset fits a band, smaller is better: by common name, by key, by a well-known key; JPEG 2000 last."""
    if PICTURES & set(asset.get("roles") or ()):
        return None
    matches = (_common_names(asset) == [band], key == band, key.removesuffix("-jp2") == band or key in KEYS.get(band, ()))
    if not any(matches):
        return None
    jpeg = "jp2" in f"{key} {asset.get('type')} {asset.get('href')}".lower()
    return int(jpeg), matches.index(True)


def _common_names(asset: Mapping[str, Any]) -> list[str | None]:
    listed = asset.get("bands") or asset.get("eo:bands") or [asset]
    names = [entry.get("common_name") or entry.get("eo:common_name") for entry in listed]
    return [name if isinstance(name, str) else None for name in names]


def _available(item: Mapping[str, Any]) -> set[str]:
    """Return the names of the bands an item has."""
    listed = {name for asset in _assets(item).values() for name in _common_names(asset)[:1] if len(_common_names(asset)) == 1}
    return {name for name in {*listed, *KEYS} if name and name != CLEAR and name in _keys(item, [name])}


# ---- what is known about an asset


def _entry(asset: Mapping[str, Any], *names: str) -> Any:
    """Return the first value of these names that the asset's one band, or the asset itself, declares."""
    listed = [*(asset.get("bands") or ())[:1], *(asset.get("raster:bands") or ())[:1], asset]
    for part in listed:
        for name in names:
            if part.get(name) is not None:
                return part[name]
    return None


def _asset(found: Found, band: str, key: str) -> Asset:
    item, asset = found.item, found.item["assets"][key]
    name = name_of(item)
    try:
        href = resolve(asset.get("href"), found.base, found.root)
    except AssetError as error:
        raise AssetError(f"Item {name!r}, band {band!r}: {error}") from error
    nodata = _entry(asset, "nodata")
    number = None if nodata is None else _number(nodata, name, "nodata")
    if band == CLEAR:
        return Asset(name, band, href, found.root, kind="clear", nodata=number)
    scale, offset = _scaling(item, asset)
    return Asset(name, band, href, found.root, scale=scale, offset=offset, nodata=number)


def _scaling(item: Mapping[str, Any], asset: Mapping[str, Any]) -> tuple[float, float]:
    """Return scale and offset from counts to reflectance.

    Since processing baseline 04.00 Sentinel-2 counts are 1000 too high, unless the catalogue has taken that off. Earth Search
    declares the offset in ``raster:bands`` whether or not it did, so its flag decides over that (its issues 9 and 66).
    """
    properties, name = item.get("properties") or {}, name_of(item)
    taken_off = properties.get("earthsearch:boa_offset_applied") is True
    scale, offset = _entry(asset, "raster:scale", "scale"), _entry(asset, "raster:offset", "offset")
    if scale is not None or offset is not None:
        factor = 1.0 if scale is None else _number(scale, name, "scale")
        if not 1e-30 < abs(factor) < 1e30:
            raise CatalogError(f"Item {name!r} declares the scale {scale!r}; reflectance is counts * scale + offset.")
        return factor, 0.0 if taken_off or offset is None else _finite(offset, name, "offset")
    if str(_entry(asset, "data_type")).startswith("float"):
        return 1.0, 0.0
    return 1e-4, -0.1 if not taken_off and _baseline(properties, name) >= 4 else 0.0


def _baseline(properties: Mapping[str, Any], name: str) -> float:
    """Return the processing baseline as a number; 0 where the item has none."""
    value = properties.get("s2:processing_baseline")
    return 0.0 if value is None else _finite(str(value).lstrip("N"), name, "s2:processing_baseline")


def _number(value: Any, name: str, what: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise CatalogError(f"Item {name!r} declares the {what} {short(value)}, which is no number.") from error


def _finite(value: Any, name: str, what: str) -> float:
    number = _number(value, name, what)
    if not abs(number) < 1e30:
        raise CatalogError(f"Item {name!r} declares the {what} {value!r}; a finite number is needed.")
    return number


def _grid(item: Mapping[str, Any], asset: Mapping[str, Any]) -> GeoBox | None:
    """Return an asset's grid from the projection extension; what the asset says goes before what the item says."""
    name, properties = name_of(item), item.get("properties") or {}
    transform, shape = (asset.get(key) or properties.get(key) for key in ("proj:transform", "proj:shape"))
    crs = _crs(asset, name) or _crs(properties, name)
    if crs is None or not transform or not shape:
        return None
    try:
        affine, (height, width) = Affine(*(float(value) for value in transform[:6])), (int(length) for length in shape)
        edges = affine.c, affine.f, affine.c + affine.a * width, affine.f + affine.e * height
        valid = height > 0 and width > 0 and height * width <= LARGEST and affine.b == affine.d == 0
        valid = valid and min(affine.a, -affine.e) > 1e-9 and all(abs(edge) <= EDGE for edge in edges)
    except (TypeError, ValueError, OverflowError):
        valid = False
    if not valid:
        raise CatalogError(
            f"Item {name!r} declares proj:transform={short(transform)} and proj:shape={short(shape)}; "
            "a north-up transform of finite numbers and a shape of two positive ones, of a raster on Earth, are needed."
        )
    return GeoBox((height, width), affine, crs)


def _crs(fields: Mapping[str, Any], name: str) -> CRS | None:
    """Return the CRS that the projection extension declares."""
    epsg = fields.get("proj:epsg")
    declared = fields.get("proj:code") or (f"EPSG:{epsg}" if epsg else None) or fields.get("proj:wkt2")
    try:
        if declared is None and isinstance(fields.get("proj:projjson"), Mapping):
            declared = pyproj.CRS.from_json_dict(dict(fields["proj:projjson"])).to_wkt()
        return None if declared is None else CRS(declared)
    except (ValueError, TypeError, RuntimeError) as error:
        raise CatalogError(f"Item {name!r} declares a CRS that cannot be read: {short(declared)}.") from error
