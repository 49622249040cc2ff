"""What a band's attributes say, of the contents of all items that have it."""

from collections.abc import Sequence
from typing import Any

from misoxr.errors import CatalogError
from misoxr.sensors.declared import Content
from misoxr.sensors.sensor import Flags

__all__ = ["attributes_of"]


def attributes_of(name: str, contents: Sequence[tuple[Content, bool | None]]) -> dict[str, Any]:
    """Return a band's attributes: those of a reflectance, of classes, or only units where all items tell the same.

    Parameters
    ----------
    name : str
        The band's.
    contents : sequence of (Content, bool or None)
        What each item holds, and whether its reflectance is that of the surface.

    Raises
    ------
    CatalogError
        If the items hold different things.
    """
    units = {content.units for content, _ in contents}
    kinds = {content.kind for content, _ in contents}
    if len(kinds) > 1 or len(units) > 1:
        told = sorted(unit or "untold" for unit in units)
        raise CatalogError(
            f"The items hold different things as band {name!r}: {sorted(kinds)} in units {told}; open their collections one by one, or write "
            '"unit" into the items\' "raster:bands" with modifier=.'
        )
    if kinds == {"classes"}:
        return {"long_name": f"{name} classes"} | _flags(next((content.flags for content, _ in contents if content.flags), ()))
    attrs: dict[str, Any] = {} if None in units else {"units": units.pop()}
    if kinds != {"reflectance"}:
        return attrs | {"long_name": name}
    attrs["long_name"] = f"{name} reflectance"
    surface = {told for _, told in contents}
    if len(surface) == 1 and None not in surface:
        attrs["standard_name"] = f"{'surface' if surface.pop() else 'toa'}_bidirectional_reflectance"
    return attrs


def _flags(flags: Flags) -> dict[str, Any]:
    """Return classes as CF writes them."""
    if not flags:
        return {}
    masks = {"flag_masks": [mask for mask, _, _ in flags]} if any(mask for mask, _, _ in flags) else {}
    return masks | {"flag_values": [code for _, code, _ in flags], "flag_meanings": " ".join(words for _, _, words in flags)}
