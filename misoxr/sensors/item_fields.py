"""Check the types of the fields of an item's JSON, which may come from a stranger."""

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd

from misoxr.errors import CatalogError

__all__ = ["checked", "in_json", "is_nan", "mappings", "name_of"]


def name_of(item: Mapping[str, Any]) -> str:
    """Return an item's id."""
    name = item.get("id")
    if not isinstance(name, str) or not name:
        raise CatalogError(f"An item has the id {name!r}; every STAC item needs one.")
    return name


def checked(item: Any) -> dict[str, Any]:
    """Return an item whose fields, as far as they are read, are of their types; what is absent or null is checked where it is needed.

    Raises
    ------
    CatalogError
        If a field is of another type; names the item.
    """
    if not _is_object(item):
        raise CatalogError(f"The catalogue holds a {type(item).__name__} where an item should stand.")
    name = name_of(item)
    _check(f"Item {name!r}", item, _ITEM)
    _check(f"Item {name!r}", item.get("properties") or {}, _PROJECTION)
    for key, asset in (item.get("assets") or {}).items():
        _check(f"Item {name!r}, asset {key!r}", asset, _ASSET)
    return dict(item)


def in_json(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item in hand with what NumPy and pandas hold as JSON has it: in its own fields, its properties and its assets."""
    plain = {key: _in_json(value) for key, value in item.items()}
    if _is_object(plain.get("properties")):
        plain["properties"] = {key: _in_json(value) for key, value in plain["properties"].items()}
    assets: Any = plain.get("assets")
    if _is_object(assets) and all(map(_is_object, assets.values())):
        plain["assets"] = {key: {field: _in_json(value) for field, value in asset.items()} for key, asset in assets.items()}
    return plain


def _in_json(value: Any) -> Any:
    """Return an array as a list, a time as text, and what is missing as None."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind != "M":
        value = value.tolist()
    if is_nan(value):
        return None
    return pd.Timestamp(value).isoformat() if isinstance(value, datetime | np.datetime64) else value


def is_nan(value: Any) -> bool:
    """Whether a value is what pandas has where there is none."""
    return value is pd.NaT or (isinstance(value, float) and math.isnan(value))


def mappings(values: Any) -> bool:
    """Whether values are a list of JSON objects."""
    return isinstance(values, list | tuple) and all(map(_is_object, values))


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_epsg(value: Any) -> bool:
    whole = isinstance(value, Integral) or (isinstance(value, float) and value.is_integer())  # of a column that lacks some
    return (whole or isinstance(value, str)) and not isinstance(value, bool)


def _check(what: str, fields: Mapping[str, Any], types: Iterable[tuple[str, Callable[[Any], bool], str]]) -> None:
    for field, fits, words in types:
        value = fields.get(field)
        if value is not None and not fits(value):
            raise CatalogError(f"{what} has {field!r} as a {type(value).__name__}, where STAC has {words}.")


_PROJECTION = (
    ("proj:epsg", _is_epsg, "a code"),
    ("proj:code", _is_text, "text"),
    ("proj:wkt2", _is_text, "text"),
    ("proj:projjson", _is_object, "an object"),
    ("proj:transform", _is_list, "a list of numbers"),
    ("proj:shape", _is_list, "a list of numbers"),
)
_ITEM = (
    ("collection", _is_text, "text"),
    ("properties", _is_object, "an object"),
    ("geometry", _is_object, "an object"),
    ("bbox", _is_list, "a list of numbers"),
    ("links", mappings, "a list of objects"),
    ("assets", lambda value: _is_object(value) and mappings(list(value.values())), "an object of objects"),
)
_ASSET = (
    *_PROJECTION,
    ("href", _is_text, "text"),
    ("roles", lambda value: _is_list(value) and all(map(_is_text, value)), "a list of text"),
    ("bands", mappings, "a list of objects"),
    ("eo:bands", mappings, "a list of objects"),
    ("raster:bands", mappings, "a list of objects"),
)
