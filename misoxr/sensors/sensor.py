"""What a sensor is: its collections, its bands, how its counts become values, and how its quality bits tell a clear sky."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from misoxr.errors import CatalogError

__all__ = ["Counts", "Flags", "Mask", "Sensor", "short_key"]

Flags = tuple[tuple[int, int, str], ...]
"""Mask, value and meaning of each class; the mask is 0 where a code is one class as a whole."""


@dataclass(frozen=True)
class Counts:
    """How counts become values: counts * scale + offset, and which counts are nodata.

    Attributes
    ----------
    scale, offset : float
        Of whole numbers.
    nodata : tuple of float
        In counts.
    units : str, optional
        Units of the values; ``"1"`` for reflectance and power.
    power : bool
        Whether values are backscatter in power, which is never as negative as decibels are.
    floats : bool
        Whether scale, offset and nodata hold for files of floats, too.

    Raises
    ------
    CatalogError
        If the scale is 0 or not finite, the offset is infinite, or nodata are no tuple of numbers.

    Examples
    --------
    >>> landsat = misoxr.sensors.Counts(2.75e-5, -0.2, nodata=(0,), units="1")
    """

    scale: float = 1.0
    offset: float = 0.0
    nodata: tuple[float, ...] = ()
    units: str | None = None
    power: bool = False
    floats: bool = False

    def __post_init__(self) -> None:
        if not _is_number(self.scale) or not np.isfinite(self.scale) or self.scale == 0:
            raise CatalogError(f"Counts have the scale {self.scale!r}; a value is counts * scale + offset, such as 0.0001.")
        if not _is_number(self.offset) or np.isinf(self.offset):
            raise CatalogError(f"Counts have the offset {self.offset!r}; a value is counts * scale + offset, such as -0.1.")
        if not isinstance(self.nodata, tuple | list) or not all(map(_is_number, self.nodata)):
            raise CatalogError(f"Counts have nodata={self.nodata!r}; give a tuple of numbers, such as (0,).")
        object.__setattr__(self, "nodata", tuple(self.nodata))


@dataclass(frozen=True)
class Mask:
    """How a quality band tells where the sky is clear. Clouds are cleaned of specks and grown; the rest hides itself only.

    Attributes
    ----------
    asset : str
        Key of the quality band, in any spelling, such as ``"qa_pixel"``.
    names : mapping of str to int
        The bit of each name, or the code where ``bits`` is False.
    clouds : tuple of str
        What is cleaned and grown.
    hides : tuple of str
        What hides itself only.
    snow : str, optional
        What is hidden unless snow is kept.
    bits : bool
        Whether the band holds bits. Codes that have no name are never clear.
    fill : tuple of int, optional
        Values of the whole band that are no observation, beside those that item or file declare; an empty tuple: every value is one.

    Raises
    ------
    CatalogError
        If clouds, hides or snow are not among the names, a bit is none, or a part is of another type than it should be.

    Examples
    --------
    >>> mask = misoxr.sensors.Mask("quality", {"cloud": 0, "haze": 1, "snow": 2}, clouds=("cloud",), hides=("haze",), snow="snow")
    """

    asset: str
    names: Mapping[str, int]
    clouds: tuple[str, ...] = ()
    hides: tuple[str, ...] = ()
    snow: str | None = None
    bits: bool = True
    fill: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.asset, str) or not self.asset:
            raise CatalogError(f"A mask has the asset {self.asset!r}; give the key of its quality band.")
        if not isinstance(self.names, Mapping) or not all(map(_is_whole, self.names.values())):
            raise CatalogError(
                f"The mask {self.asset!r} has names={self.names!r}; give the bit or code of each, such as {{'cloud': 3}}."
            )
        for part in ("clouds", "hides"):
            if not isinstance(getattr(self, part), tuple | list):
                raise CatalogError(f"The mask {self.asset!r} has {part}={getattr(self, part)!r}; give a tuple, such as ('cloud',).")
            object.__setattr__(self, part, tuple(getattr(self, part)))
        if self.fill is not None and not (isinstance(self.fill, tuple | list) and all(map(_is_whole, self.fill))):
            raise CatalogError(
                f"The mask {self.asset!r} has fill={self.fill!r}; give a tuple of whole numbers, such as (255,), or None."
            )
        object.__setattr__(self, "names", MappingProxyType(dict(self.names)))
        unknown = sorted({*self.clouds, *self.hides, *([self.snow] if self.snow else [])}.difference(self.names))
        if unknown:
            raise CatalogError(f"The mask {self.asset!r} has no {unknown}; its names are {sorted(self.names)}.")
        if self.bits and not all(0 <= bit < 64 for bit in self.names.values()):
            raise CatalogError(f"The mask {self.asset!r} has the bits {dict(self.names)}; bits are counted from 0 to 63.")

    def __reduce__(self) -> Any:
        """Views of tables cannot be pickled; what they show can."""
        return _as_made(self)

    @property
    def flags(self) -> Flags:
        """Classes as CF writes them."""
        if self.bits:
            return tuple((1 << bit, 1 << bit, name) for name, bit in self.names.items())
        return tuple((0, code, name) for name, code in self.names.items())

    def where(self, values: npt.NDArray[Any], names: tuple[str, ...]) -> npt.NDArray[np.bool_]:
        """Return where any of the names holds."""
        chosen = [self.names[name] for name in names]
        if not self.bits:
            return np.isin(values, chosen)
        size = values.dtype.itemsize
        unsigned = values.astype(f"u{size}", copy=False)
        return np.asarray((unsigned & unsigned.dtype.type(sum({1 << bit for bit in chosen if bit < 8 * size}))) != 0)


@dataclass(frozen=True)
class Sensor:
    """A sensor's product: where it is found, what its assets are, and how they are read. What an item or file declares goes before it.

    Attributes
    ----------
    name : str
        What ``open_stac(sensor=...)`` calls it.
    collections : tuple of str
        Names of its collections, as catalogues write them; case does not matter.
    pattern : str
        Regular expression of other names of its collections or items; none by default. A description of your own that has neither is that of
        all items.
    bands : mapping of str to str
        Common name of each key, in any spelling such as ``"B4"``, ``"B04"`` or ``"SR_B4"``; empty where they depend on the platform.
    counts : mapping of str to Counts
        By common name or key; ``"reflectance"`` holds for all optical bands.
    flags : mapping of str to Flags
        Classes that items need not declare, by common name or key.
    mask : Mask, optional
        Its clear-sky mask.
    surface : bool, optional
        Whether reflectance is that of the surface; None where items tell.
    saturation : str, optional
        Key of a band whose bit n - 1 tells that band n is saturated.
    asides : str
        Regular expression of keys that are no bands; none by default.
    files : str
        Regular expression that finds a band's key in its address, where assets are only numbered; none by default.
    orbits : bool
        Whether ascending and descending passes differ, as they do for radar.
    offset : callable, optional
        Returns the offset of an item's reflectance, where it differs between items.

    Raises
    ------
    CatalogError
        If it has no name, or a part is of another type than it should be.

    Examples
    --------
    >>> drone = misoxr.sensors.Sensor(
    ...     "drone",
    ...     bands={"band_1": "red", "band_2": "nir"},
    ...     counts={"reflectance": misoxr.sensors.Counts(1 / 32768, nodata=(65535,))},
    ...     mask=misoxr.sensors.Mask("quality", {"cloud": 0, "haze": 1}, clouds=("cloud",), hides=("haze",)),
    ... )
    >>> image = misoxr.open_stac("flights.json", sensor=drone, bands=["red", "nir"])
    """

    name: str
    collections: tuple[str, ...] = ()
    pattern: str = ""
    bands: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, Counts] = field(default_factory=dict)
    flags: Mapping[str, Flags] = field(default_factory=dict)
    mask: Mask | None = None
    surface: bool | None = None
    saturation: str | None = None
    asides: str = ""
    files: str = ""
    orbits: bool = False
    offset: Callable[[Mapping[str, Any]], float] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise CatalogError(f"A sensor has the name {self.name!r}; give it one.")
        for table, one, form in _TABLES:
            if not isinstance(getattr(self, table), Mapping) or not all(isinstance(key, str) for key in getattr(self, table)):
                raise CatalogError(f"The sensor {self.name!r} has {table}={getattr(self, table)!r}; give a mapping of {form}.")
            for key, value in getattr(self, table).items():
                if not isinstance(value, one):
                    raise CatalogError(
                        f"The sensor {self.name!r} has {table}[{key!r}]={value!r}; give {form.partition(' to ')[2]}."
                    )
        if self.mask is not None and not isinstance(self.mask, Mask):
            raise CatalogError(f"The sensor {self.name!r} has mask={self.mask!r}; give a misoxr.sensors.Mask.")
        if not isinstance(self.saturation, str | None):
            raise CatalogError(f"The sensor {self.name!r} has saturation={self.saturation!r}; give the key of a band.")
        if self.offset is not None and not callable(self.offset):
            raise CatalogError(
                f"The sensor {self.name!r} has offset={self.offset!r}; give a function of an item, or Counts with an offset."
            )
        named: Any = self.collections
        if not isinstance(named, str | tuple | list | set | frozenset) or not all(isinstance(one, str) for one in named):
            raise CatalogError(f"The sensor {self.name!r} has collections={named!r}; give their names.")
        object.__setattr__(self, "collections", (named,) if isinstance(named, str) else tuple(named))
        for table, *_ in _TABLES:
            shortened = {short_key(key): value for key, value in getattr(self, table).items()}
            object.__setattr__(self, table, MappingProxyType(shortened))
        for name in ("pattern", "asides", "files"):
            try:
                re.compile(getattr(self, name))
            except (re.error, TypeError) as error:
                raise CatalogError(
                    f"The sensor {self.name!r} has {name}={getattr(self, name)!r}, which is no regular expression: {error}."
                ) from error
        if self.files and not re.compile(self.files).groups:
            raise CatalogError(
                f"The sensor {self.name!r} has files={self.files!r}, which finds no key; put its part in brackets, such as r'_(B\\d+)\\.tif'."
            )

    def __reduce__(self) -> Any:
        """Views of tables cannot be pickled; what they show can."""
        return _as_made(self)


_TABLES: tuple[tuple[str, type, str], ...] = (
    ("bands", str, "a key to a common name"),
    ("counts", Counts, "a name to a misoxr.sensors.Counts"),
    ("flags", tuple, "a name to a tuple of (mask, value, meaning)"),
)
"""Tables of a sensor, and what they hold."""


def _as_made(one: Any) -> tuple[type, tuple[Any, ...]]:
    """Return how an object of dataclass is made again, with plain tables."""
    values = (getattr(one, part.name) for part in fields(one))
    return type(one), tuple(dict(value) if isinstance(value, MappingProxyType) else value for value in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


@lru_cache(maxsize=4096)
def short_key(key: str) -> str:
    """Return an asset key in short: lower case, without leading zeros, format and pixel size."""
    short = re.sub(r"([-_]jp2|[-_]\d+m|\.tiff?|\.jp2)+$", "", key.strip().lower())
    return re.sub(r"^(?:s[rt]_)?b(?:and)?_?0?(\d+a?)$", r"b\1", short)
