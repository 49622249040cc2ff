"""Units: their spellings, and conversions into the units that a model takes."""

import re
from collections.abc import Mapping

import numpy as np

from misoxr.errors import BandError
from misoxr.spec import Band

__all__ = ["ORIGINS", "canonical", "conversion"]


_SYNONYMS = {
    **dict.fromkeys(("", "1", "dimensionless", "reflectance", "unitless", "-"), "1"),
    **dict.fromkeys(("dn", "counts", "count"), "DN"),
    **dict.fromkeys(("degree", "deg", "°", "arcdegree", "degreetrue", "degreet", "degt", "degtrue", "°t", "truedegree"), "degree"),
    **dict.fromkeys(("radian", "rad"), "radian"),
    **dict.fromkeys(("gon", "grad", "gradian"), "gon"),
    **dict.fromkeys(("m", "meter", "metre", "masl"), "m"),
    **dict.fromkeys(("m-1", "1/m", "permetre", "permeter", "/m"), "m-1"),
    **dict.fromkeys(("mm", "millimeter", "millimetre", "mm/year", "mm/yr", "mm/a", "mmyr-1", "mmyear-1", "mma-1"), "mm"),
    **dict.fromkeys(("kgm-2", "kg/m2"), "mm"),
    **dict.fromkeys(("degc", "c", "°c", "celsius", "degreecelsius", "degreec", "cel"), "degC"),
    **dict.fromkeys(("kelvin", "k", "degk", "degreekelvin"), "K"),
    **dict.fromkeys(("ft", "feet", "foot"), "ft"),
    **dict.fromkeys(("usft", "us-ft", "ftus", "ussurveyfoot", "ussurveyfeet"), "ftUS"),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), "cm"),
    **dict.fromkeys(("km", "kilometer", "kilometre"), "km"),
    **dict.fromkeys(("%", "percent"), "%"),
}
"""Units by their spellings: small letters, without blanks, underscores, signs of powers and the plural's s."""


_UNKNOWN = ("", "none", "null", "nan", "n/a", "na", "unknown", "?")
"""Texts that stand for unknown units."""


_ANGLES = ("degree", "radian", "gon")


_CONVERSIONS: Mapping[tuple[str, str], tuple[float, float]] = {
    ("1", "DN"): (10_000.0, 0.0),
    ("%", "1"): (0.01, 0.0),
    ("radian", "degree"): (180.0 / np.pi, 0.0),
    ("gon", "degree"): (0.9, 0.0),
    ("K", "degC"): (1.0, -273.15),
    ("degC", "K"): (1.0, 273.15),
    ("m", "mm"): (1000.0, 0.0),
    ("cm", "mm"): (10.0, 0.0),
    ("ft", "m"): (0.3048, 0.0),
    ("ftUS", "m"): (1200 / 3937, 0.0),
    ("cm", "m"): (0.01, 0.0),
    ("km", "m"): (1000.0, 0.0),
}


ORIGINS = {units: abs(summand) for (_, units), (_, summand) in _CONVERSIONS.items() if summand}
"""By units, how far their zero lies from that of others which values may have had before."""


def conversion(found: object, band: Band) -> tuple[float, float] | None:
    """Return factor and summand that turn values in the units found into the band's units.

    None where units are unknown, and where those of a direction are not an angle: tools copy an elevation's metres to the aspect.

    Raises
    ------
    BandError
        If the units cannot be converted.
    """
    text = (found.decode(errors="replace") if isinstance(found, bytes) else "" if found is None else str(found)).strip()
    have, want = canonical(text), canonical(band.units)
    if text.lower() in _UNKNOWN and band.kind == "component":
        return 1.0, 0.0  # components of a unit vector have no units to tell
    if text.lower() in _UNKNOWN:
        # A ratio's units are often written as an empty text.
        return (1.0, 0.0) if found is not None and not text and want == "1" else None
    if have == want:
        return 1.0, 0.0
    if (have, want) in _CONVERSIONS:
        return _CONVERSIONS[have, want]
    if band.kind == "circular" and have in _SYNONYMS.values() and have not in _ANGLES:
        return None
    hint = (
        "raw counts may carry the offset of processing baseline 04.00, so open them with misoxr.open_stac"
        if (have, want) == ("DN", "1")
        else "convert the band"
    )
    raise BandError(f"Band {band.name!r} is in {found!r} and the model takes {band.units!r}; {hint} and set its units attribute.")


def canonical(units: str) -> str:
    """Return the usual spelling of units."""
    plain = re.sub(r"[\s_^]|\*\*", "", units.lower())
    one = plain.replace("degrees", "degree")
    one = one.removesuffix("s") if len(one) > 3 else one  # "ms" is no metre
    return _SYNONYMS.get(plain) or _SYNONYMS.get(one) or units.strip()
