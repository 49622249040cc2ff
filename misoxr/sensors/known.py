"""Sensors and products that are known by name: their asset keys, scale, offset and nodata.

Two tables, for two questions. An *instrument* tells what ``B05`` is; a *product* tells what a count of 10000 is. An item's own metadata go before
either. What is not in the tables is not known, and never assumed.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from misoxr.sensors.sentinel2 import offset_of

__all__ = ["CODES", "OPTICAL", "UNITLESS", "Counts", "instrument_keys", "short_key", "surface_of", "usual_counts"]

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


@dataclass(frozen=True)
class Counts:
    """How counts become values: counts * scale + offset, and which counts are nodata."""

    scale: float = 1.0
    offset: float = 0.0
    nodata: tuple[float, ...] = ()
    units: str | None = None


@dataclass(frozen=True)
class Product:
    """A product known by the names of its collections or items.

    Attributes
    ----------
    names : pattern
        Of a collection or an item.
    counts : mapping
        How counts become numbers, by common name or short key; ``"reflectance"`` holds for all optical bands.
    surface : bool, optional
        Whether reflectance is that of the surface; None where items tell.
    offset : callable, optional
        Returns the offset of an item's reflectance, where it differs between items.
    """

    names: re.Pattern[str]
    counts: Mapping[str, Counts]
    surface: bool | None = None
    offset: Callable[[Mapping[str, Any]], float] | None = None


def _names(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_MSI = {"b1": "coastal", "b2": "blue", "b3": "green", "b4": "red", "b5": "rededge071", "b6": "rededge075", "b7": "rededge078"}
_MSI |= {"b8": "nir", "b8a": "nir08", "b9": "nir09", "b10": "cirrus", "b11": "swir16", "b12": "swir22"}
_MSI |= {"rededge1": "rededge071", "rededge2": "rededge075", "rededge3": "rededge078"}
_OLI = {"b1": "coastal", "b2": "blue", "b3": "green", "b4": "red", "b5": "nir08", "b6": "swir16", "b7": "swir22"}
_TM = {"b1": "blue", "b2": "green", "b3": "red", "b4": "nir08", "b5": "swir16", "b6": "lwir", "b7": "swir22"}

INSTRUMENTS: tuple[tuple[re.Pattern[str], Mapping[str, str]], ...] = (
    (_names(r"hls\w*?[-._ ]?l30"), _OLI | {"b9": "cirrus", "b10": "lwir11", "b11": "lwir12"}),
    (_names(r"hls\w*?[-._ ]?s30|sentinel[-_ ]?s?2|\bs2[a-d]?(?![a-z0-9])|\bs2msi|\bmsi\b"), _MSI),
    (
        _names(r"landsat[-_ ]?[89](?!\d)|\bl[co]0[89](?!\d)|\bls[89](?![a-z0-9])|\boli\b"),
        _OLI | {"b8": "pan", "b9": "cirrus", "b10": "lwir11", "b11": "lwir12"},
    ),
    (_names(r"landsat[-_ ]?[4-7](?!\d)|\bl[te]0[4-7](?!\d)|\bls[4-7](?![a-z0-9])|\betm\b|\btm\b"), _TM),
)
"""What short asset keys mean, by what collection, item, platform, constellation or instruments are named; the first that fits counts."""

_HEIGHT = Counts(units="m")

PRODUCTS: tuple[Product, ...] = (
    Product(  # HLS
        _names(r"hls\w*?[-._ ]?[sl]30"),
        {
            "reflectance": Counts(1e-4, 0.0, (-9999.0,), "1"),
            "lwir11": Counts(0.01, 0.0, (-9999.0,), "degC"),
            "lwir12": Counts(0.01, 0.0, (-9999.0,), "degC"),
            "fmask": Counts(nodata=(255.0,)),
        },
        surface=True,
    ),
    Product(  # Sentinel-2
        _names(r"(sentinel[-_ ]?s?2|\bs2)\S*(l1c|l2a|msi[12][ac])"),
        {
            "reflectance": Counts(1e-4, 0.0, (0.0,), "1"),
            "aot": Counts(1e-3, 0.0, (0.0,), "1"),
            "wvp": Counts(1e-3, 0.0, (0.0,), "cm"),
            "cloud": Counts(units="%"),
            "snow": Counts(units="%"),
            "scl": Counts(nodata=(0.0,)),
        },
        offset=offset_of,
    ),
    Product(  # Landsat Collection 2, level 2
        _names(r"landsat[-_ ]?c2[-_ ]?(l2|ard)|\bls[4-9]_s[rt]\b|\bl[cte]0[4-9]_l2s[pr]_\S*_02_"),
        {
            "reflectance": Counts(2.75e-5, -0.2, (0.0,), "1"),
            "lwir": Counts(0.00341802, 149.0, (0.0,), "K"),
            "lwir11": Counts(0.00341802, 149.0, (0.0,), "K"),
            "qa_pixel": Counts(nodata=(1.0,)),
        },
        surface=True,
    ),
    Product(  # elevation
        _names(r"cop(ernicus)?[-_]?dem|nasadem|alos[-_]?dem|3dep[-_]?seamless|arctic[-_]?dem"),
        {"data": _HEIGHT, "elevation": _HEIGHT, "dem": _HEIGHT},
    ),
)
"""Products in the order in which they are looked for."""

_SENTINEL2 = ("s2:", "sentinel2:", "sentinel-2:")
"""Namespaces of properties that only Sentinel-2 items have."""
_LEVELS = ("processing:level", "s2:product_type", "product:type")
_TOP = _names(r"(?<![a-z])l[- ]?1|level[- ]?1|msil?1|(?<![a-z])toa(?![a-z])")
_SURFACE = _names(r"(?<![a-z])l[- ]?2|level[- ]?2|msil?2|(?<![a-z])(boa|sr)(?![a-z])")


@lru_cache(maxsize=4096)
def short_key(key: str) -> str:
    """Return an asset key in short: lower case, without leading zeros, format and pixel size."""
    short = re.sub(r"([-_]jp2|[-_]\d+m)+$", "", key.strip().lower())
    return re.sub(r"^(?:s[rt]_)?b(?:and)?_?0?(\d+a?)$", r"b\1", short)


def instrument_keys(item: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the common names of an item's short asset keys, where its instrument is known."""
    properties = item.get("properties") or {}
    told = [item.get("collection"), item.get("id"), *(properties.get(key) for key in ("platform", "constellation"))]
    instruments = properties.get("instruments")
    told += instruments if isinstance(instruments, list | tuple) else [instruments]
    text = " ".join(word for word in told if isinstance(word, str))
    if _is_sentinel2(properties):
        text += " sentinel-2"
    return next((keys for names, keys in INSTRUMENTS if names.search(text)), {})


def usual_counts(item: Mapping[str, Any], common: str | None, short: str) -> Counts | None:
    """Return how an item's product encodes a band, by its common name or short key; None where it is not known."""
    product = _product_of(item)
    if product is None:
        return None
    counts = product.counts.get(common or "") or product.counts.get(short)
    if counts is None and common in OPTICAL:
        counts = product.counts.get("reflectance")
        counts = replace(counts, offset=product.offset(item)) if counts and product.offset else counts
    return counts


def _product_of(item: Mapping[str, Any]) -> Product | None:
    text = " ".join(word for word in (item.get("collection"), item.get("id")) if isinstance(word, str))
    if _is_sentinel2(item.get("properties") or {}):
        text += " sentinel-2-l2a"
    return next((product for product in PRODUCTS if product.names.search(text)), None)


def _is_sentinel2(properties: Mapping[str, Any]) -> bool:
    return any(key.startswith(_SENTINEL2) for key in properties)


def surface_of(item: Mapping[str, Any]) -> bool | None:
    """Return whether an item's reflectance is that of the surface, or of the top of the atmosphere; None where nothing tells."""
    product = _product_of(item)
    if product is not None and product.surface is not None:
        return product.surface
    properties = item.get("properties") or {}
    levels = [
        f"L{level}" if re.match(r"\d", str(level)) else str(level) for level in map(properties.get, _LEVELS) if level is not None
    ]
    for told in (*levels, str(item.get("collection")), str(item.get("id"))):
        for pattern, surface in ((_TOP, False), (_SURFACE, True)):
            if pattern.search(told):
                return surface
    return None
