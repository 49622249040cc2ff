"""From a STAC item's JSON to a scene: its time, grids, and for each band what a worker needs to read it."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
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
from misoxr.sensors.bands import Named, named_assets
from misoxr.sensors.declared import Content, content_of
from misoxr.sensors.item_fields import name_of
from misoxr.sensors.known import UNKNOWN, sensor_of, surface_of
from misoxr.sensors.masks import BY_KEY, MASKS, Sky, saturated
from misoxr.sensors.sensor import Mask, Sensor
from misoxr.stac.filters import footprint_of, time_of
from misoxr.stac.found import Found

__all__ = [
    "ORBIT",
    "UNTOLD",
    "Moment",
    "Scene",
    "Wanted",
    "directions",
    "moments_of",
    "of_orbit",
    "scenes_of",
    "solar_days",
    "source_of",
]

ORBIT, UNTOLD = "sat:orbit_state", "unknown"
"""Property that tells the direction of flight, and what stands for it where it is not there."""
LARGEST = 10**10
"""Pixels of an asset beyond which its metadata are taken for wrong."""
EDGE = 1e9
"""Coordinates beyond which a grid is not on Earth, in metres, feet or degrees."""


@dataclass(frozen=True)
class Wanted:
    """What is wanted of items.

    Attributes
    ----------
    bands : tuple of str
        Common names or keys.
    sensor : Sensor, optional
        What the user says that they are of.
    mask : str or callable, optional
        See :func:`misoxr.open_stac`.
    snow : bool
        Whether snow is kept.
    """

    bands: tuple[str, ...]
    sensor: Sensor | None = None
    mask: str | Callable[[Any], Any] | None = "auto"
    snow: bool = False


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
    sensor : Sensor
        What it is of.
    orbit : str
        "ascending" or "descending", or "unknown" where it does not tell.
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
    sensor: Sensor
    orbit: str

    @property
    def masked(self) -> bool:
        """Whether something hides its clouds; where a band is saturated tells nothing of them."""
        clear = self.assets.get(CLEAR)
        return clear is not None and clear.sky.mask.asset != self.sensor.saturation

    @property
    def source(self) -> str:
        """What it was seen by, and from which side: see :func:`source_of`."""
        return source_of(self.sensor, self.collection, self.orbit)

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


def source_of(sensor: Sensor, collection: str | None, orbit: str) -> str:
    """Return what tells observations of one day apart: the sensor, its collection where that is unknown, and a radar's direction of flight."""
    name = f"{sensor.name} {collection}" if sensor.name == UNKNOWN.name else sensor.name
    return f"{name} {orbit}" if sensor.orbits else name


def scenes_of(found: Iterable[Found], wanted: Wanted) -> list[Scene]:
    """Parse items; one that has none of the bands is a scene without assets.

    Raises
    ------
    CatalogError
        If an item's metadata make no sense, it is of another sensor than is wanted, or lacks the mask that is; names the item.
    BandError
        If several of an item's assets have a band's name.
    AssetError
        If an href is refused.
    """
    skies = _Skies()
    return [_scene(one, sensor_of(one.item, wanted.sensor), wanted, skies) for one in found]


def directions(orbits: Iterable[str], orbit: str | None) -> set[str]:
    """Return which directions of flight are taken of those that radar items have: they see slopes from other sides.

    Parameters
    ----------
    orbits : iterable of str
        Of each radar item.
    orbit : {None, "ascending", "descending", "both"}
        None: there must be one direction only.

    Raises
    ------
    CatalogError
        If there are several and none is chosen, or none is of the one that is.
    """
    counts = Counter(orbits)
    told = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))
    if orbit is None and len(counts) > 1:
        raise CatalogError(
            f"The radar items are of several orbits: {told}. These see slopes from other sides; pass orbit='ascending' or 'descending', "
            "or 'both' to mix them."
        )
    if counts and orbit not in (None, "both", *counts):
        raise CatalogError(f"None of the {counts.total()} radar items is of orbit={orbit!r}; they are {told}.")
    return set(counts) if orbit in (None, "both") else {str(orbit)}


def of_orbit(scenes: Sequence[Scene], orbit: str | None) -> list[Scene]:
    """Return the scenes of one direction of flight; those of sensors for which it makes no difference stay."""
    kept = directions((scene.orbit for scene in scenes if scene.sensor.orbits), orbit)
    return [scene for scene in scenes if not scene.sensor.orbits or scene.orbit in kept]


def moments_of(scenes: Iterable[Scene], groupby: str | None, meridian: float) -> list[Moment]:
    """Group scenes into times, in order of time and id; solar days are counted on from a meridian.

    Of one day, each sensor and each direction of a radar's flight makes a time of its own: they are observations that differ. Of one
    second, the last id fills it first: ids end with version and date of processing, so that a scene which was processed again is the new one.
    """

    def day(scene: Scene) -> Any:
        return scene.time if groupby is None else scene.solar_day(meridian)

    groups: dict[Any, list[Scene]] = {}
    ordered = sorted(scenes, key=lambda scene: scene.id, reverse=groupby is not None)
    for scene in sorted(ordered, key=lambda scene: (day(scene), scene.time.floor("s"))):
        key = (scene.time, scene.id, scene.collection) if groupby is None else (day(scene), scene.source)
        groups.setdefault(key, []).append(scene)
    return [Moment(group[0].time, tuple(group)) for group in groups.values()]


class _Skies:
    """What quality bands mean, each once: hundreds of thousands of items share a few."""

    def __init__(self) -> None:
        self.known: dict[Any, Sky] = {}

    def clouds(self, mask: Mask, wanted: Wanted) -> Sky:
        """Return the sky of a mask, as it is wanted."""
        # a mask lives as long as its sky, so that its id is its own
        sky = self.known.setdefault(id(mask), Sky(mask, wanted.snow, wanted.mask if callable(wanted.mask) else None))
        assert sky.mask is mask
        return sky

    def saturation(self, key: str, numbers: frozenset[int]) -> Sky:
        """Return the sky of bands that are saturated."""
        if (key, numbers) not in self.known:
            self.known[key, numbers] = Sky(saturated(key, set(numbers)))
        return self.known[key, numbers]


def _scene(found: Found, sensor: Sensor, wanted: Wanted, skies: _Skies) -> Scene:
    item, name = found.item, name_of(found.item)
    properties: Mapping[str, Any] = item.get("properties") or {}
    named = named_assets(item, dict.fromkeys((*wanted.bands, *_quality(sensor))), sensor)
    chosen = {band: named[band] for band in wanted.bands if band in named}
    contents = {band: content_of(item, one, sensor) for band, one in chosen.items()}
    assets = {band: _asset(found, band, one, contents[band]) for band, one in chosen.items()}
    hiding = _hiding(item, sensor, wanted, named, skies, {one.common for one in chosen.values()}) if chosen else []
    for key, sky in reversed(hiding):
        beside = assets.get(CLEAR)
        asset = _asset(found, CLEAR if key == hiding[0][0] else key, named[key], content_of(item, named[key], sensor))
        chosen[CLEAR], assets[CLEAR] = named[key], replace(asset, kind="clear", sky=sky, beside=beside)
    grids = {band: _grid(item, item["assets"][one.key]) for band, one in chosen.items()}
    simulated = properties.get("misoxr:simulator_version", "unknown") if properties.get("misoxr:simulated") else None
    orbit = properties.get(ORBIT)
    scene = Scene(
        id=name,
        collection=item.get("collection"),
        time=time_of(item),
        footprint=footprint_of(item),
        assets=assets,
        grids={band: box for band, box in grids.items() if box is not None},
        names={band: chosen[band].common for band in contents},
        contents=contents,
        surface=surface_of(item, sensor),
        simulated=str(simulated) if simulated else None,
        sensor=sensor,
        orbit=orbit.lower() if isinstance(orbit, str) else UNTOLD,
    )
    covers, says = scene.outline.bounds, scene.footprint.bounds
    if scene.outline.is_empty or scene.footprint.is_empty:
        raise CatalogError(
            f"Item {name!r} has a grid or a footprint that covers nothing; see its proj:transform, proj:shape and geometry."
        )
    if not meets(shapely.box(*covers), shapely.box(*says)):
        raise CatalogError(
            f"Item {name!r} has a grid within {covers} and a footprint within {says}, in degrees; its metadata contradict each other."
        )
    return scene


def _quality(sensor: Sensor) -> list[str]:
    """Return the keys of what may tell a clear sky."""
    own = [sensor.mask.asset if sensor.mask else None, sensor.saturation]
    return list(dict.fromkeys((*MASKS, *filter(None, own))))


def _mask(item: Mapping[str, Any], sensor: Sensor, wanted: Wanted, named: Mapping[str, Named]) -> Mask | None:
    """Return the mask of an item: the one that is asked for, its sensor's, or that of a quality band which is known by its key."""
    if wanted.mask is None:
        return None
    own = sensor.mask or next((mask for key, mask in BY_KEY.items() if key in named), None)
    mask = own if wanted.mask == "auto" or callable(wanted.mask) else MASKS[wanted.mask]
    if mask is not None and mask.asset in named:
        return mask
    if mask is None and wanted.mask == "auto":
        return None
    have = [key for key in _quality(sensor) if key in named and key != sensor.saturation]
    other = "" if wanted.mask == "auto" else "mask='auto', or "
    asked = repr(wanted.mask) if isinstance(wanted.mask, str) else "a function"
    raise CatalogError(
        f"Item {name_of(item)!r} of {item.get('collection')!r} has no quality band{f' {mask.asset!r}' if mask else ''} for mask={asked}; its "
        f"quality bands are {have}, its sensor is {sensor.name!r}. Pass {other}mask=None to use it unmasked."
    )


def _hiding(
    item: Mapping[str, Any], sensor: Sensor, wanted: Wanted, named: Mapping[str, Named], skies: _Skies, commons: set[str | None]
) -> list[tuple[str, Sky]]:
    """Return the quality bands that hide, and what they mean: clouds, then what is saturated in the bands that are asked for."""
    mask, key = _mask(item, sensor, wanted, named), sensor.saturation
    hiding = [] if mask is None else [(mask.asset, skies.clouds(mask, wanted))]
    if key is None or key not in named or not (wanted.mask == "auto" or (isinstance(wanted.mask, str) and mask is sensor.mask)):
        return hiding
    numbered = {short: int(short[1:]) for short in sensor.bands if short[:1] == "b" and short[1:].isdigit()}
    numbers = {number for short, number in numbered.items() if sensor.bands[short] in commons}
    # where the platform does not tell which band has which number, any of them counts
    return [*hiding, (key, skies.saturation(key, frozenset(numbers if numbered else range(1, 10))))]


def _asset(found: Found, band: str, named: Named, content: Content) -> Asset:
    name, asset = name_of(found.item), found.item["assets"][named.key]
    try:
        href = resolve(asset.get("href"), found.base, found.root)
    except AssetError as error:
        raise AssetError(f"Item {name!r}, band {band!r}: {error}") from error
    kind: Literal["classes", "numbers"] = "classes" if content.kind == "classes" else "numbers"
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
        (west, east), (south, north) = (
            sorted((affine.c, affine.c + affine.a * width)),
            sorted((affine.f, affine.f + affine.e * height)),
        )
        valid = height > 0 and width > 0 and height * width <= LARGEST and affine.b == affine.d == 0
        valid = valid and min(abs(affine.a), abs(affine.e)) > 1e-9 and all(abs(edge) <= EDGE for edge in (west, east, south, north))
    except (TypeError, ValueError, OverflowError):
        valid = False
    if not valid:
        raise CatalogError(
            f"Item {name!r} declares proj:transform={short(transform)} and proj:shape={short(shape)}; "
            "an unrotated transform of finite numbers and a shape of two positive ones, of a raster on Earth, are needed."
        )
    # Rasters may have south above or east on the left; the grid tells only where they lie, and the file itself is read as it is.
    return GeoBox((height, width), Affine(abs(affine.a), 0, west, 0, -abs(affine.e), north), crs)


def _crs(fields: Mapping[str, Any], name: str) -> CRS | None:
    """Return the CRS that the projection extension declares."""
    epsg = str(fields.get("proj:epsg") or "").strip().upper().removeprefix("EPSG:").removesuffix(".0")
    declared = fields.get("proj:code") or (f"EPSG:{epsg}" if epsg else None) or fields.get("proj:wkt2")
    try:
        if declared is None and isinstance(fields.get("proj:projjson"), Mapping):
            declared = pyproj.CRS.from_json_dict(dict(fields["proj:projjson"])).to_wkt()
        return None if declared is None else CRS(declared)
    except (ValueError, TypeError, RuntimeError) as error:
        raise CatalogError(f"Item {name!r} declares a CRS that cannot be read: {short(declared)}.") from error
