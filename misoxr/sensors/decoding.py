"""Turn the counts of a file into values: by the item, by the file's tags, then by a product known by name.

Each of scale, offset and nodata is looked up for itself. Where nothing tells, integers are refused; floats are what they are.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from misoxr.errors import AssetError
from misoxr.sensors.known import UNITLESS
from misoxr.sensors.sensor import Counts
from misoxr.spec.numbers import alike

__all__ = ["Encoding", "Stored", "codes", "decoded", "missing"]

Floats = npt.NDArray[np.float32]

DECIBELS = frozenset({"db", "decibel", "decibels"})
"""Spellings of decibels."""
LEAST_POWER = -1.0
"""Power below it is something else: noise that was taken off leaves a few hundredths below zero, decibels of land are -30 to -5."""
LARGEST_REFLECTANCE = 10.0
"""Reflectance beyond it is counts, or undeclared nodata: snow, clouds and glint stay far below."""
_AS_DECIBELS = 'if it is in decibels, write "unit": "dB" into the item\'s "raster:bands" with modifier='
EXACT = 2**24
"""Whole numbers beyond it are not exact in float32."""


@dataclass(frozen=True)
class Stored:
    """A file's own scale, offset, nodata and type.

    Attributes
    ----------
    dtype : dtype
        Their type.
    scale, offset : float
        1 and 0 where the file has none.
    nodata : float, optional
        Its nodata value.
    units : str, optional
        Its units.
    """

    dtype: np.dtype[Any]
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    units: str | None = None

    @classmethod
    def of(cls, raster: Any) -> Self:
        """Return the scale, offset, nodata and type of an open raster's one band."""
        nodata = None if raster.nodata is None else float(raster.nodata)
        if raster.dtypes[0].startswith("complex"):
            raise AssetError(f"it holds {raster.dtypes[0]}, and real numbers are expected")
        return cls(np.dtype(raster.dtypes[0]), float(raster.scales[0]), float(raster.offsets[0]), nodata, raster.units[0] or None)


@dataclass(frozen=True)
class Encoding:
    """The scale, offset, nodata and units of a file's counts, by its item and product.

    Attributes
    ----------
    scale, offset : float, optional
        As the item declares them; None leaves them to the file, then to the product.
    nodata : tuple of float
        As the item declares it.
    data_type : str, optional
        As the item declares it.
    usual : Counts, optional
        How the product encodes whole numbers, where it is known.
    reflectance : bool
        Whether values are labelled reflectance.
    """

    scale: float | None = None
    offset: float | None = None
    nodata: tuple[float, ...] = ()
    data_type: str | None = None
    usual: Counts | None = None
    reflectance: bool = False

    def counts(self, stored: Stored) -> Counts:
        """Return how a file's numbers are decoded.

        A file's own nodata value is never a measurement, whatever the item declares beside it.

        Raises
        ------
        AssetError
            If nothing tells the scale, or the item describes another file.
        """
        floats, usual = stored.dtype.kind == "f", self.usual
        power = usual is not None and usual.power
        usual_nodata = usual.nodata if usual is not None and (usual.floats or not floats) else ()
        if power and str(stored.units or "").strip().lower() in DECIBELS:
            raise AssetError(f"its file tells the units {stored.units!r}, and its product is in power; {_AS_DECIBELS}")
        if floats and self.scale is not None and str(self.data_type).startswith(("int", "uint")):
            raise AssetError(
                f"its item declares {self.data_type} with the scale {self.scale:g}, and the file holds {stored.dtype}; correct the item's "
                "data_type or scale with modifier="
            )
        scale = _first(self.scale, None if stored.scale == 1 else stored.scale)
        if floats and scale is None and not (usual is not None and usual.floats):
            scale, usual = 1.0, None
        plain = stored.offset != 0 or str(stored.units or "").lower() not in UNITLESS
        scale = _first(scale, usual.scale if usual else None, 1.0 if plain else None)
        if scale is None:
            raise AssetError(
                f"it holds {stored.dtype}, and neither the item, nor the file, nor a known product tells its scale and offset. Write them "
                'into the item\'s asset with modifier=, as "raster:bands": [{"scale": 0.0001, "offset": 0}] (a scale of 1 where the '
                "numbers are what they are), or into the file's tags"
            )
        if not (scale and np.isfinite(scale)):
            raise AssetError(f"it tells the scale {scale:g}, and a value is counts * scale + offset; correct its tags")
        offset = _first(self.offset, stored.offset or None, usual.offset if usual else None, 0.0)
        if offset is not None and np.isnan(offset):
            raise AssetError(
                "its processing baseline, 99.99, is one of a processor of one's own, and tells no offset. Write scale and offset into the "
                'item\'s asset with modifier=, as "raster:bands": [{"scale": 0.0001, "offset": -0.1}]'
            )
        if offset is not None and np.isinf(offset):
            raise AssetError(f"it tells the offset {offset:g}, and a value is counts * scale + offset; correct its tags")
        if usual is not None and usual.units == "1" and abs(offset or 0.0) > 1:
            raise AssetError(
                f"it tells the offset {offset:g} of a reflectance, which is counts * scale + offset; correct its tags, or write "
                '"raster:bands" into the item\'s asset with modifier='
            )
        return Counts(scale, offset or 0.0, self._nodata(stored) or usual_nodata, power=power)

    def refuse_counts(self, stored: Stored, values: Floats) -> None:
        """Refuse floats whose scale nothing tells, and that are no reflectance, though they would be labelled so.

        Raises
        ------
        AssetError
            If a value is far beyond any reflectance, as counts are.
        """
        told = self.scale is not None or stored.scale != 1 or (self.usual is not None and self.usual.floats)
        if not self.reflectance or stored.dtype.kind != "f" or told:
            return
        beyond = np.abs(values, where=np.isfinite(values), out=np.zeros_like(values)) > LARGEST_REFLECTANCE
        if beyond.any():
            raise AssetError(
                f"it holds {stored.dtype} of {values[beyond][0]:g} as a reflectance, and nothing tells their scale. Write it into the item's "
                'asset with modifier=, as "raster:bands": [{"scale": 0.0001, "offset": 0}], or describe the sensor by '
                'Counts(..., floats=True); if it stands for nodata, write "nodata" there'
            )

    def code_nodata(self, stored: Stored) -> tuple[float, ...]:
        """Return the nodata values of codes of classes."""
        return self._nodata(stored) or (self.usual.nodata if self.usual is not None else ())

    def _nodata(self, stored: Stored) -> tuple[float, ...]:
        return (*self.nodata, *(() if stored.nodata is None else (stored.nodata,)))


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def decoded(values: npt.NDArray[Any], counts: Counts, hidden: npt.NDArray[np.bool_] | None = None) -> Floats:
    """Return values from counts, NaN for nodata, where they are hidden, and for what is infinite, such as zero power in decibels.

    Raises
    ------
    AssetError
        If they are said to be power, and are as negative as decibels are.

    Notes
    -----
    The offset in counts keeps whole numbers exact: (DN - 1000) * 1e-4 is then the same number as (DN without offset) * 1e-4.
    """
    native = values.dtype.newbyteorder("=")
    exact = native == np.float32 or native.itemsize <= 2
    numbers = values.astype("float32" if exact else "float64")
    if (counts.scale, counts.offset) != (1.0, 0.0):
        numbers += numbers.dtype.type(counts.offset / counts.scale)
        numbers *= numbers.dtype.type(counts.scale)
    with np.errstate(over="ignore"):
        out = numbers.astype("float32", copy=False)
    nothing = missing(values, counts.nodata, hidden)
    if nothing is not None:
        out[nothing] = np.nan
    _drop_infinite(out)
    if counts.power and (out < LEAST_POWER).any():
        raise AssetError(f"it holds {np.nanmin(out):g}, and backscatter in power is not negative; {_AS_DECIBELS}")
    return out


def codes(values: npt.NDArray[Any], nodata: Iterable[float], hidden: npt.NDArray[np.bool_] | None = None) -> Floats:
    """Return codes of classes unchanged, NaN for nodata, where they are hidden, and for what is infinite.

    Raises
    ------
    AssetError
        If a code is too large for float32.
    """
    nothing = missing(values, nodata, hidden)
    out = values.astype("float32")
    if values.dtype.kind in "iu" and values.dtype.itemsize > 2 and not (out == values)[True if nothing is None else ~nothing].all():
        raise AssetError(f"it holds codes that float32 does not hold, such as {values.max()}; the largest that is safe is {EXACT}")
    if nothing is not None:
        out[nothing] = np.nan
    _drop_infinite(out)
    return out


def _drop_infinite(values: Floats) -> None:
    infinite = np.isinf(values)
    if infinite.any():  # rare, and a mask that holds nothing takes as long as all else
        values[infinite] = np.nan


def missing(
    values: npt.NDArray[Any], nodata: Iterable[float], hidden: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.bool_] | None:
    """Return where values are hidden, or one of the nodata values, compared as they are stored, and floats in single precision; None where none can be."""
    found = hidden
    for value in nodata:
        if values.dtype.kind == "f":
            with np.errstate(over="ignore", invalid="ignore"):
                same = alike(values, value)
        elif _fits(value, values.dtype):
            same = values == int(value)
        else:
            continue
        found = same if found is None else found | same
    return found


def _fits(value: float, dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "b":
        return value in (0, 1)
    return bool(dtype.kind in "iu" and float(value).is_integer() and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max)
