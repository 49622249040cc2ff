"""From a STAC item's JSON to a scene: its time, grids, and for each band what a worker needs to read it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby as runs
from reprlib import repr as short
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyproj
import shapely
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from misoxr.errors import AssetError, CatalogError
from misoxr.stac.assets import CLEAR, Asset, transformer
from misoxr.stac.bands import CLASSIFICATION, Named, named_assets
from misoxr.stac.catalog import Found
from misoxr.stac.declared import Content, content_of
from misoxr.stac.fields import name_of
from misoxr.stac.filters import footprint_of, time_of
from misoxr.stac.hrefs import resolve
from misoxr.stac.sensors import surface_of

__all__ = ["Moment", "Scene", "moments_of", "scenes_of", "transformed"]

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
        Longitude and latitude.
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

    def solar_day(self) -> pd.Timestamp:
        """Return the date in mean solar time at the middle of the item."""
        box = self.footprint.bounds
        longitude = (box[0] + box[2]) / 2 if box[2] - box[0] < 180 else 180.0
        return (self.time + pd.Timedelta(hours=longitude / 15)).normalize()

    def finest(self) -> GeoBox | None:
        """Return the grid with the smallest pixels among those of the bands."""
        boxes = [box for band, box in self.grids.items() if band != CLEAR]
        return min(boxes, key=lambda box: abs(box.affine.a), default=None)

    def extent(self, crs: str, margin: float = 0.0) -> BaseGeometry:
        """Return what the item covers in another CRS, grown by a margin in that CRS's units."""
        finest = self.finest()
        source: Any = "EPSG:4326" if finest is None else str(finest.crs)
        outline = shapely.box(*self.footprint.bounds) if finest is None else shapely.box(*finest.boundingbox.bbox)
        try:
            return transformed(outline, source, crs).buffer(margin, join_style="mitre")
        except CatalogError as error:
            raise CatalogError(f"Item {self.id!r}: {error}") from error


@dataclass(frozen=True)
class Moment:
    """The items that make one time, in the order in which they fill it."""

    time: pd.Timestamp
    scenes: tuple[Scene, ...]


def transformed(area: BaseGeometry, source: str, target: str) -> BaseGeometry:
    """Return an area in another CRS; edges are followed, not only corners."""
    forward = transformer(source, target)
    if forward is None:
        return area
    west, south, east, north = area.bounds
    dense = shapely.segmentize(area, max(east - west, north - south) / 50 or 1.0)
    moved = shapely.transform(dense, lambda xy: np.column_stack(forward.transform(xy[:, 0], xy[:, 1])))
    if not np.isfinite(shapely.get_coordinates(moved)).all():
        raise CatalogError(
            f"The area {tuple(round(float(value), 4) for value in area.bounds)} in {source} does not lie within {target}; "
            "choose another crs, or a smaller area."
        )
    return moved


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


def moments_of(scenes: Iterable[Scene], groupby: str | None) -> list[Moment]:
    """Group scenes into times, in order of time and id."""

    def day(scene: Scene) -> Any:
        return (scene.time, scene.id, scene.collection) if groupby is None else scene.solar_day()

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
    extent, footprint = scene.extent("EPSG:4326").bounds, scene.footprint.bounds
    if not shapely.box(*extent).intersects(shapely.box(*footprint)):
        raise CatalogError(
            f"Item {name!r} has a grid within {extent} and a footprint within {footprint}, in degrees; its metadata contradict each other."
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
    return Asset(name, band, href, found.root, kind, content.encoding)


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
