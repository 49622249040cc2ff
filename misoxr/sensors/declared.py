"""Read what an item declares of an asset's numbers: scale, offset, nodata, units and classes, in any spelling."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from reprlib import repr as short
from typing import Any, Literal

from misoxr.errors import CatalogError
from misoxr.sensors.bands import Named
from misoxr.sensors.decoding import Encoding
from misoxr.sensors.item_fields import mappings, name_of
from misoxr.sensors.known import CODES, OPTICAL, UNITLESS, is_sentinel2, sensor_of, usual_counts
from misoxr.sensors.masks import BY_KEY
from misoxr.sensors.sensor import Counts, Flags, Mask, Sensor, short_key
from misoxr.sensors.sentinel2 import left_on, taken_off

__all__ = ["COMMON", "DATA_TYPE", "OFFSET", "SCALE", "UNITS", "Content", "content_of"]

SCALE = ("raster:scale", "scale", "scale_factor")
OFFSET = ("raster:offset", "offset", "add_offset")
NODATA = ("nodata", "raster:nodata", "file:nodata", "nodata_value", "nodatavals", "_FillValue")
DATA_TYPE = ("data_type", "raster:data_type", "file:data_type")
UNITS = ("unit", "raster:unit", "file:unit", "units")
COMMON = (
    *("raster:scale", "raster:offset", *NODATA),
    *("data_type", "raster:data_type", "file:data_type", "unit", "raster:unit", "file:unit"),
)
"""Properties of an item that hold for all its assets."""
LARGEST = 1.0
"""A scale or an offset of reflectance beyond it is one of something else."""

_CLASSES = re.compile(
    r"(?:^|[-_. ])(?:scl|fmask|\w*mask|qa[-_]?(?:pixel|radsat|aerosol|60)|qc|bqa|cloud[-_]?qa|flags|land[-_]?cover|lulc|worldcover|cdl|nlcd|"
    r"classification|class(?:es)?)(?:$|[-_. ])|^qa$",
    re.IGNORECASE,
)
"""Names of assets that hold classes or bits."""
_ROLES = {"classification", "land-cover", "cloud-shadow", "snow-ice", "land-water", "water-mask", "data-mask", "saturation"}
"""Roles of assets that hold classes or bits."""
_COVERS = re.compile(r"land[-_]?cover|lulc|worldcover|\bcdl\b|usda-cdl|nlcd", re.IGNORECASE)

_SPELT = {"db": "dB", "decibel": "dB", "decibels": "dB", "kelvin": "K", "kelvins": "K"}
_SPELT |= dict.fromkeys(("meter", "meters", "metre", "metres"), "m")
"""Units whose spelling differs between catalogues."""
_POWER = frozenset({"power", "linear", "linear power", "intensity"})
"""Units that say that backscatter is in power."""


@dataclass(frozen=True)
class Content:
    """What a band holds.

    Attributes
    ----------
    kind : {"reflectance", "numbers", "classes"}
        ``"numbers"`` are whatever they are.
    encoding : Encoding
        How they are decoded.
    units : str, optional
        Units of the decoded numbers, where they are told.
    flags : tuple
        Classes, where they are told: see :data:`misoxr.sensors.sensor.Flags`.
    """

    kind: Literal["reflectance", "numbers", "classes"]
    encoding: Encoding
    units: str | None = None
    flags: Flags = ()


def content_of(item: Mapping[str, Any], band: Named, sensor: Sensor | None = None) -> Content:
    """Return what an asset holds, by its item and sensor.

    Parameters
    ----------
    item : mapping
        The item.
    band : Named
        The asset.
    sensor : Sensor, optional
        The item's; it is found by default.

    Raises
    ------
    CatalogError
        If what the item declares makes no sense.
    """
    asset, name, sensor = item["assets"][band.key], name_of(item), sensor or sensor_of(item)
    own = _parts(asset)
    parts = [*own, _common(item)]
    nodata = tuple(_number(value, name, "nodata") for value in _values(_first(parts, NODATA)))
    data_type, units = str(_first(parts, DATA_TYPE)), _first(parts, UNITS)
    units = units if isinstance(units, str) and units.lower() not in UNITLESS else None
    units = None if units is None else _SPELT.get(units.strip().lower(), units)
    usual = usual_counts(sensor, item, band.common, band.short)
    if units is not None and usual is not None and usual.power and units.strip().lower() in _POWER:
        units = None
    if units is not None and usual is not None and usual.units == "1":
        # what has other units is not what the product's scale is for
        usual = Counts(nodata=usual.nodata, floats=usual.floats)
    declared = any(_listed(own, field) for field in ("classification:classes", "classification:bitfields", "file:values"))
    declared |= units is not None and units.strip().lower() in CODES
    numbers = band.common in OPTICAL or units is not None or bool(usual and usual.units) or data_type.startswith("float")
    mask, flags = _mask_in(band, sensor), sensor.flags.get(band.common or "") or sensor.flags.get(band.short) or ()
    if declared or flags or mask is not None or (not numbers and _named_as_classes(item, band)):
        if usual is None and mask is not None:
            usual = Counts(nodata=tuple(map(float, mask.fill or ())))
        return Content("classes", Encoding(nodata=nodata, usual=usual), flags=_flags(own) or flags or (mask.flags if mask else ()))
    optical = band.common in OPTICAL and units is None
    scale, offset = _scaling(parts, name, optical)
    plain = scale == 1 and offset in (None, 0)
    told = usual is not None and usual.units == "1" or scale not in (None, 1) or data_type.startswith("float")
    if usual is None and (plain or units is not None):
        usual = Counts()
    if plain:
        scale = offset = None  # tools write this where they know nothing, so the file or the product may know more
    if optical and is_sentinel2(item, sensor):
        if taken_off(item):
            offset = 0.0
        elif offset == 0 and left_on(item):
            offset = None  # a catalogue's template says 0 of every item; the baseline tells
    reflectance = optical and (told or usual is None)
    encoding = Encoding(scale, offset, nodata, data_type, usual, reflectance)
    if reflectance:
        return Content("reflectance", encoding, "1")
    return Content("numbers", encoding, units or (usual.units if usual else None))


# ---- scale and offset


def _scaling(parts: list[Mapping[str, Any]], name: str, reflectance: bool) -> tuple[float | None, float | None]:
    """Return scale and offset as the item declares them; None where it does not."""
    scale, offset = _first(parts, SCALE), _first(parts, OFFSET)
    factor = None if scale is None else _number(scale, name, "scale")
    if factor is not None and not 1e-30 < abs(factor) < 1e30:
        raise CatalogError(f"Item {name!r} declares the scale {scale!r}; a value is counts * scale + offset.")
    summand = None if offset is None else _number(offset, name, "offset")
    if summand is not None and not abs(summand) < 1e30:
        raise CatalogError(f"Item {name!r} declares the offset {offset!r}; a finite number is needed.")
    if reflectance and (abs(summand or 0.0) > LARGEST or (factor or 0.0) > LARGEST):
        raise CatalogError(
            f"Item {name!r} declares the scale {scale} and the offset {offset} of a reflectance, which is counts * scale + offset, "
            'such as 0.0001 and -0.1. Correct them with modifier=, in "raster:bands".'
        )
    return factor, summand


def _number(value: Any, name: str, what: str) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise CatalogError(f"Item {name!r} declares the {what} {short(value)}, which is no number.") from error


# ---- where it stands


def _parts(asset: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return where an asset declares what its one band is, the nearest first."""
    listed = [asset.get(field) for field in ("bands", "raster:bands", "eo:bands")]
    return [*(bands[0] for bands in listed if bands and mappings(bands)), asset]


def _common(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what an item's properties declare for all its assets."""
    properties = item.get("properties") or {}
    return {key: properties.get(key) for key in COMMON}


def _first(parts: list[Mapping[str, Any]], names: tuple[str, ...]) -> Any:
    """Return the first value of these names that is given."""
    return next((part[name] for part in parts for name in names if _is_told(part.get(name))), None)


def _values(value: Any) -> Iterator[Any]:
    """Yield one value, or those of a list."""
    yield from filter(_is_told, value if isinstance(value, list | tuple) else [value])


def _is_told(value: Any) -> bool:
    return value is not None and not (isinstance(value, str) and value.strip().lower() in ("", "none", "null"))


# ---- classes


def _mask_in(band: Named, sensor: Sensor) -> Mask | None:
    """Return what an asset's bits or codes mean, where it is the quality band of its sensor, or of a mask that is known by its key."""
    own = sensor.mask
    return own if own is not None and short_key(own.asset) == band.short else BY_KEY.get(band.short)


def _named_as_classes(item: Mapping[str, Any], band: Named) -> bool:
    """Whether an asset is named as classes or bits are: itself, its role or its collection."""
    named = any(_CLASSES.search(name) for name in (band.key, band.short, band.label) if name)
    roles = item["assets"][band.key].get("roles") or ()
    return named or bool(_ROLES.intersection(roles)) or bool(_COVERS.search(str(item.get("collection"))))


def _listed(parts: list[Mapping[str, Any]], field: str) -> list[Mapping[str, Any]]:
    value = _first(parts, (field,))
    return list(value) if value and mappings(value) else []


def _flags(parts: list[Mapping[str, Any]]) -> Flags:
    """Return the classes that an asset declares."""
    found = [
        (_mask(bits), int(one["value"]) << int(bits["offset"]), f"{_word(bits)} {_word(one)}")
        for bits in _listed(parts, "classification:bitfields")
        for one in _inner(bits)
        if _is_bit(bits) and _is_code(one.get("value"))
    ]
    found += [(0, int(one["value"]), _word(one)) for one in _listed(parts, "classification:classes") if _is_code(one.get("value"))]
    found += [
        (0, int(code), _word(one)) for one in _listed(parts, "file:values") for code in _values(one.get("values")) if _is_code(code)
    ]
    return tuple((mask, code, re.sub(r"\s+", "_", words.strip())) for mask, code, words in found)


def _inner(bits: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    classes = bits.get("classes")
    return list(classes) if classes and mappings(classes) else []


def _mask(bits: Mapping[str, Any]) -> int:
    return ((1 << int(bits.get("length") or 1)) - 1) << int(bits["offset"])


def _is_bit(bits: Mapping[str, Any]) -> bool:
    offset, length = bits.get("offset", -1), bits.get("length", 1)
    return _is_code(offset) and _is_code(length) and 0 <= int(offset) < 64 and 0 < int(length) < 64


def _is_code(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53 and float(value).is_integer()


def _word(one: Mapping[str, Any]) -> str:
    """Return what a class or field is called."""
    for field in ("name", "title", "description", "summary"):
        if isinstance(one.get(field), str) and one[field].strip():
            return str(one[field])
    return f"class {one.get('value', '')}"
