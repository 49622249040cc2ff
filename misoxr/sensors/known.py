"""Which sensor an item is of, and what that tells of its bands.

An item is known by its collection, then by names of its collection and id, then by its platform. An item's own metadata go before what its
sensor says. What no sensor tells is not known, and never assumed.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Any

from misoxr.errors import CatalogError, did_you_mean
from misoxr.sensors.item_fields import name_of
from misoxr.sensors.optical import OPTICAL_SENSORS, PLATFORMS
from misoxr.sensors.others import OTHER_SENSORS, RADAR
from misoxr.sensors.sensor import Counts, Sensor
from misoxr.sensors.sentinel2 import offset_of

__all__ = [
    "CODES",
    "INSTRUMENTS",
    "LEVELS",
    "OPTICAL",
    "SENSORS",
    "SENTINEL2",
    "UNITLESS",
    "UNKNOWN",
    "is_known",
    "is_sentinel2",
    "refuse_unmatched",
    "sensor_named",
    "sensor_of",
    "surface_of",
    "usual_counts",
]

_REDDEST = {"rededge", "rededge071", "rededge075", "rededge078", "nir", "nir08", "nir09", "cirrus", "swir16", "swir22"}
OPTICAL = frozenset({"coastal", "blue", "green", "green05", "yellow", "red", "pan", *_REDDEST})
"""Common names of the EO extension whose values are reflectance."""
COUNTS = frozenset({"dn", "digital number", "digital numbers", "digital_number", "count", "counts"})
"""Units that say that numbers are yet to be scaled."""
UNITLESS = frozenset({"", "1", "-", "none", "unitless", "dimensionless", "reflectance", *COUNTS})
"""Spellings of no units."""
CODES = frozenset(
    {"bit", "bits", "bit index", "bitfield", "class", "classes", "category", "categories", "flag", "flags", "code", "codes", "rank"}
)
"""Units that say that numbers are codes."""

SENSORS: Mapping[str, Sensor] = MappingProxyType({sensor.name: sensor for sensor in (*OTHER_SENSORS, *OPTICAL_SENSORS)})
"""Sensors by name, in the order in which their patterns are looked for."""
UNKNOWN = Sensor("unknown")
"""What an item of no sensor that is known is of."""

_BY_COLLECTION = {name.lower(): sensor for sensor in SENSORS.values() for name in sensor.collections}
SENTINEL2 = ("s2:", "sentinel2:", "sentinel-2:")
"""Namespaces of properties that only Sentinel-2 items have."""
LEVELS = ("processing:level", "s2:product_type", "product:type")
"""Properties that tell the level of processing."""
INSTRUMENTS = ("platform", "constellation", "instruments")
"""Properties that tell the instrument."""


@cache
def _names(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_TOP = _names(r"(?<![a-z])l[- ]?1|level[- ]?1|msil?1|(?<![a-z])toa(?![a-z])|landsat\S*[-_](ta|bt)(?![a-z0-9])")
_SURFACE = _names(r"(?<![a-z])l[- ]?2|level[- ]?2|msil?2|(?<![a-z])(boa|sr)(?![a-z])")


def sensor_named(sensor: Any) -> Sensor | None:
    """Return a sensor given by its name, by one of its collections, or as a description.

    Raises
    ------
    CatalogError
        If it is none of these; lists the sensors that are known.
    """
    if sensor is None or isinstance(sensor, Sensor):
        return sensor
    if isinstance(sensor, str):
        found = SENSORS.get(sensor.lower()) or _BY_COLLECTION.get(sensor.lower())
        if found is not None:
            return found
    hint = did_you_mean(sensor, SENSORS) if isinstance(sensor, str) else ""
    raise CatalogError(
        f"sensor={sensor!r} is unknown; use one of {sorted(SENSORS)}, or describe your own as a misoxr.sensors.Sensor.{hint}"
    )


def sensor_of(item: Mapping[str, Any], asked: Sensor | None = None) -> Sensor:
    """Return the sensor of an item, with its bands where they depend on the platform.

    Parameters
    ----------
    item : mapping
        The item.
    asked : Sensor, optional
        What the user says that it is. A description of the user's own is for the items of its collections, or for all.

    Raises
    ------
    CatalogError
        If the item is of another known sensor than the user says.
    """
    found = _product_of(item)
    if asked is not None and SENSORS.get(asked.name) is asked:
        if found is not None and found is not asked:
            raise CatalogError(
                f"Item {name_of(item)!r} of {item.get('collection')!r} is of the sensor {found.name!r}, not {asked.name!r}. Leave sensor "
                f"away, or give one of {sorted(SENSORS)}, or a description of your own."
            )
        found = asked
    elif asked is not None and _is_for(item, asked):
        found = asked
    platform = _platform_of(item)
    if found is None:
        return platform or UNKNOWN
    return found if found.bands or platform is None else replace(found, bands=platform.bands)


def is_known(collection: Any) -> bool:
    """Whether a collection's name alone tells its sensor."""
    return isinstance(collection, str) and collection.lower() in _BY_COLLECTION


def refuse_unmatched(items: Iterable[Mapping[str, Any]], asked: Sensor | None) -> None:
    """Refuse a description that is of none of the items: it would change nothing.

    Raises
    ------
    CatalogError
        If no item is of it; lists their collections.
    """
    if asked is None or SENSORS.get(asked.name) is asked:
        return
    found = set()
    for item in items:
        if _is_for(item, asked):
            return
        found.add(str(item.get("collection")))
    if found:
        raise CatalogError(
            f"No item is of sensor={asked.name!r}, which has collections={list(asked.collections)} and pattern={asked.pattern!r}; the items "
            f"are of the collections {sorted(found)}. Name one of these, or leave both away for all items."
        )


def is_sentinel2(item: Mapping[str, Any], sensor: Sensor) -> bool:
    """Whether the rules of Sentinel-2's offset hold for an item: by its product, or by its platform where the product is not known."""
    if sensor.name in SENSORS and sensor.offset is None:
        return False
    platform = _platform_of(item)
    return sensor.offset is offset_of or (platform is not None and platform.name == "sentinel-2")


def _is_for(item: Mapping[str, Any], asked: Sensor) -> bool:
    """Whether a description of the user's own is of an item."""
    return not (asked.collections or asked.pattern) or _is_named(item, asked)


def _product_of(item: Mapping[str, Any]) -> Sensor | None:
    collection = item.get("collection")
    if is_known(collection):
        return _BY_COLLECTION[str(collection).lower()]
    found = next((sensor for sensor in SENSORS.values() if _is_named(item, sensor)), None)
    if found is None and _is_sentinel2(item.get("properties") or {}):
        return SENSORS["sentinel-2-l1c" if _told_surface(item) is False else "sentinel-2-l2a"]
    return found


def _is_named(item: Mapping[str, Any], sensor: Sensor) -> bool:
    """Whether an item's collection is one of a sensor, or its collection or id is named after it."""
    names = [word for word in (item.get("collection"), item.get("id")) if isinstance(word, str)]
    if str(item.get("collection")).lower() in map(str.lower, sensor.collections):
        return True
    return bool(sensor.pattern and _names(sensor.pattern).search(" ".join(names)))


def _platform_of(item: Mapping[str, Any]) -> Sensor | None:
    """Return the instrument that an item is named after."""
    properties = item.get("properties") or {}
    told = [item.get("collection"), item.get("id")]
    for value in map(properties.get, INSTRUMENTS):
        told += value if isinstance(value, list | tuple) else [value]
    text = " ".join(word for word in told if isinstance(word, str))
    if _is_sentinel2(properties):
        text += " sentinel-2"
    return next((sensor for sensor in (*PLATFORMS, RADAR) if _names(sensor.pattern).search(text)), None)


def _is_sentinel2(properties: Mapping[str, Any]) -> bool:
    return any(key.startswith(SENTINEL2) for key in properties)


def usual_counts(sensor: Sensor, item: Mapping[str, Any], common: str | None, short: str) -> Counts | None:
    """Return how an item's sensor encodes a band, by its common name or short key; None where it is not known."""
    counts = sensor.counts.get(common or "") or sensor.counts.get(short)
    if counts is None and common in OPTICAL:
        counts = sensor.counts.get("reflectance")
        if counts is not None:
            counts = replace(counts, units="1", offset=sensor.offset(item) if sensor.offset else counts.offset)
    return counts


def surface_of(item: Mapping[str, Any], sensor: Sensor | None = None) -> bool | None:
    """Return whether an item's reflectance is that of the surface, or of the top of the atmosphere; None where nothing tells."""
    surface = (sensor or sensor_of(item)).surface
    return surface if surface is not None else _told_surface(item)


def _told_surface(item: Mapping[str, Any]) -> bool | None:
    properties = item.get("properties") or {}
    levels = [
        f"L{level}" if re.match(r"\d", str(level)) else str(level) for level in map(properties.get, LEVELS) if level is not None
    ]
    for told in (*levels, str(item.get("collection")), str(item.get("id"))):
        for pattern, surface in ((_TOP, False), (_SURFACE, True)):
            if pattern.search(told):
                return surface
    return None
