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

from misoxr.assets.hrefs import resolve
from misoxr.assets.read import CLEAR, Asset
from misoxr.errors import AssetError, CatalogError, GridError
from misoxr.grid.footprints import DEGREES, footprint, meets, moved
from misoxr.grid.longitude import near
from misoxr.sensors.bands import CLASSIFICATION, Named, named_assets
from misoxr.sensors.declared import Content, content_of
from misoxr.sensors.item_fields import name_of
from misoxr.sensors.known import surface_of
from misoxr.stac.filters import footprint_of, time_of
from misoxr.stac.found import Found

__all__ = ["Moment", "Scene", "moments_of", "scenes_of", "solar_days"]

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
        Degrees, as :mod:`misoxr.grid.footprints` has them.
    assets : mapping of str to Asset
        By band; a band that the item lacks is not there.
    grids : mapping of str to GeoBox
        By band, where the item has projection metadata.
    names : mapping of str to str
        Common name of each band, where it is known.
    contents : mapping of str to Content
        What each band holds.
    surface : bool, optional
        Whether reflectance is that of the surface (True) or of the top of the atmosphere; None where nothing tells.
    simulated : str, optional
        Version of the simulator, if the item is simulated.
    """

    id: str
    collection: str | None
    time: pd.Timestamp
    footprint: BaseGeometry
    assets: Mapping[str, Asset]
    grids: Mapping[str, GeoBox]
    names: Mapping[str, str | None]
    contents: Mapping[str, Content]
    surface: bool | None
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
    """Parse items; one that has none of the bands is a scene without assets.

    Raises
    ------
    CatalogError
        If an item's metadata make no sense, or it has no scene classification and ``mask="scl"``; names the item.
    BandError
        If several of an item's assets have a band's name.
    AssetError
        If an href is refused.
    """
    return [_scene(one, named_assets(one.item, dict.fromkeys((*bands, CLASSIFICATION))), bands, mask) for one in found]


def moments_of(scenes: Iterable[Scene], groupby: str | None, meridian: float) -> list[Moment]:
    """Group scenes into times, in order of time and id; solar days are counted on from a meridian."""

    def day(scene: Scene) -> Any:
        return (scene.time, scene.id, scene.collection) if groupby is None else scene.solar_day(meridian)

    ordered = sorted(scenes, key=lambda scene: (day(scene), scene.time, scene.id))
    groups = (tuple(group) for _, group in runs(ordered, key=day))
    return [Moment(group[0].time, group) for group in groups]


def _scene(found: Found, named: Mapping[str, Named], bands: Sequence[str], mask: str | None) -> Scene:
    item, name = found.item, name_of(found.item)
    properties: Mapping[str, Any] = item.get("properties") or {}
    chosen = {band: named[band] for band in bands if band in named}
    contents = {band: content_of(item, one) for band, one in chosen.items()}
    assets = {band: _asset(found, band, one, contents[band]) for band, one in chosen.items()}
    if mask == "scl" and chosen:
        if CLASSIFICATION not in named:
            raise CatalogError(f"Item {name!r} has no scene classification (asset 'scl'); pass mask=None to use it unmasked.")
        chosen[CLEAR] = named[CLASSIFICATION]
        assets[CLEAR] = _asset(found, CLEAR, chosen[CLEAR], content_of(item, chosen[CLEAR]))
    grids = {band: _grid(item, item["assets"][one.key]) for band, one in chosen.items()}
    simulated = properties.get("misoxr:simulator_version", "unknown") if properties.get("misoxr:simulated") else None
    scene = Scene(
        id=name,
        collection=item.get("collection"),
        time=time_of(item),
        footprint=footprint_of(item),
        assets=assets,
        grids={band: box for band, box in grids.items() if box is not None},
        names={band: chosen[band].common for band in contents},
        contents=contents,
        surface=surface_of(item),
        simulated=str(simulated) if simulated else None,
    )
    covers, says = scene.outline.bounds, scene.footprint.bounds
    if not meets(shapely.box(*covers), shapely.box(*says)):
        raise CatalogError(
            f"Item {name!r} has a grid within {covers} and a footprint within {says}, in degrees; its metadata contradict each other."
        )
    return scene


def _asset(found: Found, band: str, named: Named, content: Content) -> Asset:
    name, asset = name_of(found.item), found.item["assets"][named.key]
    try:
        href = resolve(asset.get("href"), found.base, found.root)
    except AssetError as error:
        raise AssetError(f"Item {name!r}, band {band!r}: {error}") from error
    kind: Literal["clear", "classes", "numbers"]
    kind = "clear" if band == CLEAR else "classes" if content.kind == "classes" else "numbers"
    return Asset(name, band, href, found.root, kind, content.encoding, found.inside)


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
    epsg = str(fields.get("proj:epsg") or "").strip().upper().removeprefix("EPSG:")
    declared = fields.get("proj:code") or (f"EPSG:{epsg}" if epsg else None) or fields.get("proj:wkt2")
    try:
        if declared is None and isinstance(fields.get("proj:projjson"), Mapping):
            declared = pyproj.CRS.from_json_dict(dict(fields["proj:projjson"])).to_wkt()
        return None if declared is None else CRS(declared)
    except (ValueError, TypeError, RuntimeError) as error:
        raise CatalogError(f"Item {name!r} declares a CRS that cannot be read: {short(declared)}.") from error
