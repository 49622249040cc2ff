"""What a sensor is: its collections, its bands, how its counts become values, and how its quality bits tell a clear sky."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
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
        Whether nodata holds for files of floats, too.

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
        If clouds, hides or snow are not among the names, or a bit is none.

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
        unknown = sorted({*self.clouds, *self.hides, *([self.snow] if self.snow else [])}.difference(self.names))
        if unknown:
            raise CatalogError(f"The mask {self.asset!r} has no {unknown}; its names are {sorted(self.names)}.")
        if self.bits and not all(0 <= bit < 64 for bit in self.names.values()):
            raise CatalogError(f"The mask {self.asset!r} has the bits {dict(self.names)}; bits are counted from 0 to 63.")

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
        named: Any = self.collections
        object.__setattr__(self, "collections", (named,) if isinstance(named, str) else tuple(named))
        for table in ("bands", "counts", "flags"):
            shortened = {short_key(key): value for key, value in getattr(self, table).items()}
            object.__setattr__(self, table, shortened)
        for key, value in (*((f"counts[{key!r}]", one) for key, one in self.counts.items()), ("mask", self.mask)):
            if not isinstance(value, (Mask, type(None)) if key == "mask" else Counts):
                raise CatalogError(
                    f"The sensor {self.name!r} has {key}={value!r}; give a misoxr.sensors.{'Mask' if key == 'mask' else 'Counts'}."
                )
        for name in ("pattern", "asides", "files"):
            try:
                re.compile(getattr(self, name))
            except (re.error, TypeError) as error:
                raise CatalogError(
                    f"The sensor {self.name!r} has {name}={getattr(self, name)!r}, which is no regular expression: {error}."
                ) from error


@lru_cache(maxsize=4096)
def short_key(key: str) -> str:
    """Return an asset key in short: lower case, without leading zeros, format and pixel size."""
    short = re.sub(r"([-_]jp2|[-_]\d+m|\.tiff?|\.jp2)+$", "", key.strip().lower())
    return re.sub(r"^(?:s[rt]_)?b(?:and)?_?0?(\d+a?)$", r"b\1", short)
