"""Units: their spellings, and conversions into the units that a model takes."""

import re
from collections.abc import Mapping

import numpy as np

from misoxr.errors import BandError
from misoxr.spec import Band

__all__ = ["ORIGINS", "canonical", "conversion", "factor_and_summand"]


_TEMPERATURES = ("degc", "c", "°c", "℃", "celsius", "degreecelsius", "degcelsius", "degreec", "cel")
_FAHRENHEITS = ("degf", "°f", "fahrenheit", "degreefahrenheit", "degfahrenheit", "degreef")
_KELVINS = ("kelvin", "k", "degk", "degreek", "degreekelvin")


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
    **dict.fromkeys(_TEMPERATURES, "degC"),
    **dict.fromkeys(_FAHRENHEITS, "degF"),
    **dict.fromkeys(_KELVINS, "K"),
    # Sums of temperatures above a threshold are sums of differences, which kelvins and degrees have in common.
    **dict.fromkeys((f"{one}{sign}month" for one in (*_TEMPERATURES, *_KELVINS) for sign in ("", "-")), "degC month"),
    **dict.fromkeys(("m2", "m²", "sqm", "squaremetre", "squaremeter", "metre2", "meter2"), "m2"),
    **dict.fromkeys(("km2", "km²", "sqkm", "squarekilometre", "squarekilometer"), "km2"),
    **dict.fromkeys(("ha", "hectare"), "ha"),
    **dict.fromkeys(("in", "inch", "inches"), "in"),
    **dict.fromkeys(("ft", "feet", "foot"), "ft"),
    **dict.fromkeys(("usft", "us-ft", "ftus", "ussurveyfoot", "ussurveyfeet", "footus"), "ftUS"),
    **dict.fromkeys(("dm", "decimeter", "decimetre"), "dm"),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), "cm"),
    **dict.fromkeys(("km", "kilometer", "kilometre"), "km"),
    **dict.fromkeys(("%", "percent"), "%"),
}
"""Units by their spellings: small letters, without blanks, dots, underscores, signs of powers and products and the plural's s."""


_UNKNOWN = ("", "none", "null", "nan", "n/a", "na", "unknown", "?")
"""Texts that stand for unknown units."""


_ANGLES = ("degree", "radian", "gon")


_QUANTITIES: Mapping[str, tuple[str, float, float]] = {
    "m": ("length", 1.0, 0.0),
    "mm": ("length", 0.001, 0.0),
    "dm": ("length", 0.1, 0.0),
    "cm": ("length", 0.01, 0.0),
    "km": ("length", 1000.0, 0.0),
    "in": ("length", 0.0254, 0.0),
    "ft": ("length", 0.3048, 0.0),
    "ftUS": ("length", 1200 / 3937, 0.0),
    "m2": ("area", 1.0, 0.0),
    "km2": ("area", 1e6, 0.0),
    "ha": ("area", 1e4, 0.0),
    "1": ("ratio", 1.0, 0.0),
    "%": ("ratio", 0.01, 0.0),
    "degree": ("angle", 1.0, 0.0),
    "radian": ("angle", 180.0 / np.pi, 0.0),
    "gon": ("angle", 0.9, 0.0),
    "K": ("temperature", 1.0, 0.0),
    "degC": ("temperature", 1.0, 273.15),
    "degF": ("temperature", 5 / 9, 459.67 * 5 / 9),
}
"""By units, their quantity, and the factor and summand that turn values into those of its first units."""


ORIGINS = {
    units: max(abs(summand - other) for of, _, other in _QUANTITIES.values() if of == quantity)
    for units, (quantity, _, summand) in _QUANTITIES.items()
    if quantity == "temperature"
}
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
    known = factor_and_summand(have, want)
    if known is not None:
        return known
    if band.kind == "circular" and have in _SYNONYMS.values() and have not in _ANGLES:
        return None
    raise BandError(f"Band {band.name!r} is in {found!r} and the model takes {band.units!r}; {_remedy(have, want)}")


def factor_and_summand(have: str, want: str) -> tuple[float, float] | None:
    """Return what turns values in units into others, both in their usual spelling; None where nothing is known to."""
    if have == want:
        return 1.0, 0.0
    if (have, want) == ("1", "DN"):
        return 10_000.0, 0.0
    (quantity, factor, summand), (other, per, less) = (_QUANTITIES.get(one, (one, 1.0, 0.0)) for one in (have, want))
    return (factor / per, (summand - less) / per) if quantity == other else None


def _remedy(have: str, want: str) -> str:
    """Say what to do about units that cannot be converted."""
    if (have, want) == ("DN", "1"):
        return "raw counts may carry the offset of processing baseline 04.00, so open them with misoxr.open_stac and set its units attribute."
    if {have, want} <= set(_SYNONYMS.values()):
        return (
            "these are units of different quantities. Join the quantity that the model has learnt from, or fit a model to this one. "
            "If the values are right, correct the units attribute."
        )
    return "convert the band and set its units attribute."


def canonical(units: str) -> str:
    """Return the usual spelling of units."""
    plain = re.sub(r"[\s_^.*·]", "", units.lower())
    one = plain.replace("degrees", "degree")
    single = one.removesuffix("s") if len(one) > 3 else one  # "ms" is no metre
    return next((_SYNONYMS[text] for text in (plain, one, single) if text in _SYNONYMS), units.strip())
