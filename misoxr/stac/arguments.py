"""Check the arguments of ``open_stac``, in all forms in which people give them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from misoxr.assets.read import CLEAR
from misoxr.cube.reductions import unknown
from misoxr.errors import BandError, CatalogError, GridError, did_you_mean
from misoxr.spec import SENTINEL2
from misoxr.spec.numbers import is_number, is_whole

__all__ = ["band_names", "box_of", "chunk_sizes", "collection_names", "crs_of", "pixel_size", "refuse_reduction", "refuse_unknown"]

BLOCK = 1024
"""Default chunk, pixels."""


def refuse_unknown(name: str, value: Any, known: Sequence[str | None]) -> None:
    """Refuse a value that is not among the known ones.

    Raises
    ------
    CatalogError
        If it is none.
    """
    if value is not None and not isinstance(value, str) or value not in known:
        hint = did_you_mean(value, filter(None, known)) if isinstance(value, str) else ""
        raise CatalogError(f"{name}={value!r} is unknown; use one of {tuple(known)}.{hint}")


def refuse_reduction(reduce: Any, by: Any) -> None:
    """Refuse a reduction that is unknown, and years without one.

    Raises
    ------
    CatalogError
        If it is one of these.
    """
    remedy = None if reduce is None else unknown(reduce)
    if remedy:
        raise CatalogError(f"reduce={reduce!r} is unknown; leave it out, or {remedy}")
    refuse_unknown("by", by, (None, "year"))
    if by is not None and reduce is None:
        raise CatalogError(
            f"by={by!r} reduces the times of each year, and reduce is None; name a reduction, such as reduce='median'."
        )


def band_names(bands: str | Iterable[str] | None) -> list[str]:
    """Return the names of bands; the nine of Sentinel-2 by default."""
    names: list[Any] = [band.name for band in SENTINEL2] if bands is None else [bands] if isinstance(bands, str) else _listed(bands)
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names) or CLEAR in names:
        raise BandError(f"bands={bands!r} is empty, or names a band twice, or {CLEAR!r}; give common names such as 'red'.")
    return [str(name) for name in names]


def collection_names(collections: Any) -> tuple[str, ...] | None:
    """Return the names of collections, given by name or as pystac's."""
    if collections is None:
        return None
    listed = [collections] if isinstance(collections, str) or hasattr(collections, "id") else _listed(collections)
    names = tuple(getattr(one, "id", one) for one in listed)
    if not names or not all(isinstance(name, str) for name in names):
        raise CatalogError(f"collections={collections!r} is not one or several names; leave it away to look in all.")
    return tuple(str(name) for name in names)


def box_of(bbox: Any) -> tuple[float, ...] | None:
    """Return west, south, east and north as numbers, with heights between them where they are given."""
    if bbox is None:
        return None
    values = _listed(bbox)
    if len(values) not in (4, 6) or not all(_is_number(value) for value in values):
        raise CatalogError(f"bbox={bbox!r} is not four numbers, (west, south, east, north) in degrees; give an area as intersects.")
    return tuple(float(value) for value in values)


def crs_of(crs: Any) -> Any:
    """Return a CRS as odc-geo reads it, a code as a number of Python's."""
    return int(crs) if isinstance(crs, Integral) else crs


def pixel_size(resolution: Any) -> float | None:
    """Return the side of square pixels, given as a number, or as a pair in any order and with any signs.

    Raises
    ------
    GridError
        If it is no positive number, or pixels are not square.
    """
    if resolution is None or _is_number(resolution):
        return None if resolution is None else float(resolution)
    sides = [resolution.x, resolution.y] if hasattr(resolution, "x") and hasattr(resolution, "y") else _listed(resolution)
    if len(sides) != 2 or not all(_is_number(side) for side in sides):
        raise GridError(f"resolution={resolution!r} is not a number of the CRS's units, such as 10.")
    if abs(sides[0]) != abs(sides[1]):
        raise GridError(f"resolution={resolution!r} makes pixels that are not square; give one number, or the grid as geobox.")
    return float(abs(sides[0]))


def chunk_sizes(chunks: Any) -> dict[str, int]:
    """Return chunk sizes along y and x, -1 for the whole axis.

    Raises
    ------
    CatalogError
        If a size is none, or a key is another than "y" and "x".
    """
    pair = isinstance(chunks, list | tuple) and len(chunks) == 2
    given = dict(zip("yx", chunks, strict=True)) if pair else chunks if isinstance(chunks, Mapping) else {"y": chunks, "x": chunks}
    sizes = {key: BLOCK if size is None or (isinstance(size, str) and size == "auto") else size for key, size in given.items()}
    unknown = [key for key in sizes if key not in ("y", "x")]
    if unknown or not all(_is_size(size) for size in sizes.values()):
        hint = did_you_mean(str(unknown[0]), ("y", "x")) if unknown else ""
        raise CatalogError(
            f"chunks={chunks!r}: give pixels along 'y' and 'x', such as {{'y': 1024, 'x': 1024}}, (1024, 1024) or 1024; a time is a chunk.{hint}"
        )
    return {"y": BLOCK, "x": BLOCK} | {key: int(size) for key, size in sizes.items()}


def _is_size(value: Any) -> bool:
    return is_whole(value) and (int(value) > 0 or int(value) == -1)


def _is_number(value: Any) -> bool:
    plain = value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value
    return is_number(plain) and not math.isnan(plain)


def _listed(values: Any) -> list[Any]:
    """Return what is iterable as a list, anything else as a list of itself."""
    return list(values) if isinstance(values, Iterable) and not isinstance(values, str | bytes) else [values]
