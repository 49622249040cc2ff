"""Build frozen values from JSON, strictly: the JSON may come from a stranger."""

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from reprlib import repr as short
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import numpy.typing as npt

from misoxr.errors import SpecError
from misoxr.spec.components import check, hints_of
from misoxr.spec.numbers import is_number, is_whole

__all__ = ["array_of", "build", "text_of"]

LONGEST = 4096
"""Values in a list of a specification, at the most: bands, tasks, stages, or rows of a whitening matrix."""


def build(hint: Any, value: Any) -> Any:
    """Build a value of the hinted type from JSON values, which may come from anywhere.

    Numbers stay as they are written, so that a specification is written again as it was read.

    Raises
    ------
    SpecError
        If a value is not of its type, or a number is not finite in single precision; a key is unknown or missing; or a
        dataclass refuses its values.
    """
    kind = get_origin(hint) or hint
    if kind in (Union, UnionType):
        inner = [arg for arg in get_args(hint) if arg is not type(None)]
        return None if value is None else build(inner[0], value)
    if kind is tuple:
        args = get_args(hint)
        check(isinstance(value, (list, tuple)), f"A list is expected, not {short(value)}.")
        check(len(value) <= LONGEST, f"A list has {len(value)} values; at most {LONGEST} are allowed.")
        check(args[-1] is Ellipsis or len(args) == len(value), f"{len(args)} values are expected, not {short(value)}.")
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        return tuple(build(kind, item) for kind, item in zip(inner, value, strict=True))
    if kind in _JSON:
        accepts, what = _JSON[kind]
        check(accepts(value), f"{what} is expected, not {short(value)}.")
    elif is_dataclass(kind):
        return _build_dataclass(kind, value)
    return value


def _build_dataclass(kind: Any, value: Any) -> Any:
    name, hints = kind.__name__, hints_of(kind)
    check(isinstance(value, Mapping), f"{name} is built from a mapping, not from {short(value)}.")
    unknown = set(value) - {f.name for f in fields(kind)}
    check(not unknown, f"{name} has no {short(sorted(unknown, key=str))}; was it written by an older or newer misoxr?")
    parts = {}
    for key, item in value.items():
        try:
            parts[key] = build(hints[key], item)
        except SpecError as error:
            raise SpecError(f"{name} cannot be built: {key}: {error}") from error
    try:
        return kind(**parts)
    except TypeError as error:
        raise SpecError(f"{name} cannot be built: {error}.") from error


def _is_text(value: Any) -> bool:
    """Return whether a value is text that can be written. JSON may hold halves of surrogate pairs, which cannot."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


_JSON: Mapping[Any, tuple[Callable[[Any], bool], str]] = {
    str: (_is_text, "Text"),
    Literal: (_is_text, "Text"),
    bool: (lambda value: isinstance(value, bool), "True or false"),
    int: (lambda value: is_whole(value) and -(2**31) <= value <= 2**31, "A whole number"),
    float: (lambda value: is_number(value) and -3.4e38 <= value <= 3.4e38, "A finite number"),
    Mapping: (lambda value: isinstance(value, Mapping) and all(map(_is_text, value)), "A mapping"),
}
"""What a scalar is in JSON, by its type, and in words."""


def text_of(array: npt.NDArray[Any]) -> str:
    """Return the bytes of an array in one dimension as text, exactly and in little-endian order; :func:`array_of` reads them."""
    return base64.b64encode(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()).decode()


def array_of(text: Any, dtype: str) -> npt.NDArray[Any]:
    """Return the array, in one dimension and of the type given, whose bytes stand in a text.

    Raises
    ------
    SpecError
        If it is no text of whole numbers of this type, or a float is not finite.
    """
    kind = np.dtype(dtype).newbyteorder("<")
    try:
        array = np.frombuffer(base64.b64decode(text, validate=True), kind).astype(dtype)
    except (TypeError, ValueError, binascii.Error) as error:
        raise SpecError(f"Numbers of {dtype} cannot be read from {short(text)}: {error}.") from error
    check(kind.kind != "f" or bool(np.isfinite(array).all()), f"Numbers of {dtype} are not finite in {short(text)}.")
    return array
