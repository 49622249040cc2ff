"""The rules of Sentinel-2: since processing baseline 04.00 counts are 1000 too high, unless the catalogue has taken that off.

Catalogues spell the baseline in many ways: as a property of any namespace, within a product's name, or as the processing extension's version.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from misoxr.errors import CatalogError
from misoxr.sensors.item_fields import name_of

__all__ = ["left_on", "offset_of", "taken_off"]

OFFSET = -0.1
"""Reflectance of what baseline 04.00 and later add to counts."""
STEP = 1e-4
"""Reflectance of a count."""
OWN = 99
"""Baselines from here on are of processors of one's own (Sen2Cor writes 99.99), which may add the offset or not."""

_SEPARATORS = re.compile(r"[-_. ]")
_HARMONIZED = re.compile(r"harmoni[sz]ed", re.IGNORECASE)
_PRODUCT = re.compile(r"(?<![A-Z0-9])S2[A-D]?_\w*?_N(\d\d)\.?(\d\d)(?!\d)", re.IGNORECASE)


def taken_off(item: Mapping[str, Any]) -> bool:
    """Return whether the catalogue says that it has taken the offset off, by a flag or by its collection's name."""
    flags = _flags(item)
    return "true" in flags or (not flags and bool(_HARMONIZED.search(str(item.get("collection")))))


def left_on(item: Mapping[str, Any]) -> bool:
    """Return whether the catalogue says that counts of a baseline with the offset still have it."""
    return "false" in _flags(item) and not taken_off(item) and offset_of(item) < 0


def _flags(item: Mapping[str, Any]) -> list[str]:
    return [str(value).lower() for _, value in _named(item, "boaoffsetapplied")]


def offset_of(item: Mapping[str, Any]) -> float:
    """Return the offset of an item's reflectance; 0 where it names no baseline, NaN where its baseline tells nothing.

    Raises
    ------
    CatalogError
        If it names a baseline or an offset that is no number.
    """
    if taken_off(item):
        return 0.0
    for key, value in _named(item, "boaaddoffset"):
        try:
            return float(value) * STEP
        except (TypeError, ValueError) as error:
            raise CatalogError(f"Item {name_of(item)!r} declares the {key} {value!r}; a number of counts is needed.") from error
    baseline = _baseline(item) or 0.0
    if baseline >= OWN:
        return float("nan")
    return 0.0 if baseline < 4 else OFFSET


def _baseline(item: Mapping[str, Any]) -> float | None:
    """Return the processing baseline, such as 5.09, from where an item tells it first."""
    for key, value in _named(item, "processingbaseline"):
        number = _number(value)
        if number is None:
            raise CatalogError(f"Item {name_of(item)!r} declares the {key} {value!r}; a baseline such as '05.09' is needed.")
        return number
    for text in _texts(item):
        named = _PRODUCT.search(text)
        if named:
            return int(named[1]) + int(named[2]) / 100
    return _number(_properties(item).get("processing:version"))


def _number(value: Any) -> float | None:
    """Return a baseline spelt as "05.09", "N0509", "0509", 5.09 or 509 as 5.09; None where it is none of these."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, int) and value >= 100:
        value = f"{value:04d}"
    spelt = re.fullmatch(r"\s*N?(\d{1,2})(?:\.(\d{1,2})|(\d\d))?\s*", str(value), re.IGNORECASE)
    if spelt is None:
        return None
    return int(spelt[1]) + float(f"0.{spelt[2] or spelt[3] or 0}")


def _texts(item: Mapping[str, Any]) -> Iterator[str]:
    """Yield where a product's name may stand: the item's id, its properties, and its assets' addresses."""
    yield name_of(item)
    yield from (value for value in _properties(item).values() if isinstance(value, str))
    yield from (str(asset.get("href")) for asset in (item.get("assets") or {}).values())


def _properties(item: Mapping[str, Any]) -> Mapping[str, Any]:
    return item.get("properties") or {}


def _named(item: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    """Yield properties of a name, whatever their namespace, and whether words are set off by lines or capitals."""
    for key, value in _properties(item).items():
        if value is not None and key.lower().endswith(name[-6:]) and _SEPARATORS.sub("", key.rpartition(":")[2]).lower() == name:
            yield key, value
