"""Errors and warnings. A message says what is wrong, the value and the remedy. A call gives one warning, at the user's line."""

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from difflib import get_close_matches
from functools import wraps
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

__all__ = [
    "AssetError",
    "BandError",
    "CatalogError",
    "CheckpointError",
    "GridError",
    "MisoxrError",
    "MisoxrWarning",
    "MissingDependencyError",
    "PointsError",
    "SpecError",
    "StoreError",
    "did_you_mean",
    "flush",
    "gathered",
    "heard",
    "note",
    "overheard",
    "require",
]


P = ParamSpec("P")
R = TypeVar("R")
Foreign = tuple[type[Warning], str, str, int]
"""Category, message, file and line of a warning that is not ours."""

_HERE = f"{Path(__file__).parent}{os.sep}"
_notes: ContextVar[dict[str, tuple[str, bool]] | None] = ContextVar("misoxr_notes", default=None)
"""What the call in progress has to say, by what it is about, and whether it has said it; None outside of calls."""


class MisoxrError(Exception):
    """Base of every error that misoxr raises on purpose."""


class SpecError(MisoxrError, ValueError):
    """A model, window, band or task specification contradicts itself."""


class GridError(MisoxrError, ValueError):
    """A dataset has no usable pixel grid, or two grids differ."""


class BandError(MisoxrError, ValueError):
    """A band is missing, empty, or in units that cannot be converted."""


class PointsError(MisoxrError, ValueError):
    """Labelled points cannot be read or do not fit the cube."""


class CatalogError(MisoxrError, ValueError):
    """A STAC catalogue cannot be searched, or its items cannot make a cube."""


class AssetError(MisoxrError, OSError):
    """An asset is refused, or cannot be read."""


class CheckpointError(MisoxrError, ValueError):
    """A checkpoint is damaged, or belongs to another specification."""


class StoreError(MisoxrError, OSError):
    """A map cannot be written to its store."""


class MissingDependencyError(MisoxrError, ImportError):
    """An optional dependency is needed and absent."""


class MisoxrWarning(UserWarning):
    """Base of every warning that misoxr issues."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say how to install it.

    Parameters
    ----------
    module : str
        Name of the module to import.
    extra : str
        The extra of this package that brings it.

    Raises
    ------
    MissingDependencyError
        If the module cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"This step needs {module!r}, which is not installed ({error}). Install it with: pip install 'misoxr[{extra}]'"
        ) from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``' Did you mean "x"?'`` for the known name that is nearest, or "" where none is near."""
    by_small = {str(one).lower(): str(one) for one in known}
    found = get_close_matches(str(name).lower(), by_small, n=1)
    return f' Did you mean "{by_small[found[0]]}"?' if found else ""


def note(message: str, about: str | None = None) -> None:
    """Warn at the user's line. A call decorated with :func:`gathered` gives all its warnings as one, at its end.

    It says one thing ``about`` a matter, the first: the folds of a cross-validation would say it again with numbers of their own.
    """
    notes = _notes.get()
    if notes is None:
        _warn(message)
    else:
        notes.setdefault(about or message, (message, False))


def flush() -> None:
    """Give the gathered warnings now, before work that takes hours."""
    notes = _notes.get() or {}
    words = [message for message, said in notes.values() if not said]
    notes.update({about: (message, True) for about, (message, _) in notes.items()})
    if words:
        _warn("\n".join(words))


def gathered(function: Callable[P, R]) -> Callable[P, R]:
    """Let a verb give its warnings as one, at its end. Within another verb's call, the outer verb gives it.

    A call that fails tells in its error what it had to say.
    """

    @wraps(function)
    def verb(*args: P.args, **kwargs: P.kwargs) -> R:
        if _notes.get() is not None:
            return function(*args, **kwargs)
        token = _notes.set({})
        try:
            result = function(*args, **kwargs)
            flush()
            return result
        except Exception as error:
            for message, said in (_notes.get() or {}).values():
                if not said:
                    error.add_note(message)
            raise
        finally:
            _notes.reset(token)

    return verb


def overheard(function: Callable[..., R], *args: Any) -> tuple[R, dict[str, str], list[Foreign]]:
    """Call a function in a process whose warnings nobody reads, and return them beside its result.

    Returns the result, what there is to say by what it is about, and the warnings of others, each once. Who waits for the process gives
    them to ``heard``. An error takes them along.
    """
    failed, token = None, _notes.set({})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = function(*args)
        except Exception as error:
            failed = error
        notes = {about: message for about, (message, _) in (_notes.get() or {}).items()}
    _notes.reset(token)
    others = [one for one in caught if not issubclass(one.category, MisoxrWarning)]
    foreign = list(dict.fromkeys((one.category, str(one.message), one.filename, one.lineno) for one in others))
    if failed is not None:
        failed.__dict__["overheard"] = notes, foreign
        raise failed
    return result, notes, foreign


def heard(notes: Mapping[str, str], foreign: Iterable[Foreign], before: set[Foreign]) -> None:
    """Say what another process had to say; of the warnings of others, those that were not given before."""
    for about, message in notes.items():
        note(message, about)
    for one in foreign:
        if one not in before:
            before.add(one)
            category, message, filename, line = one
            warnings.warn_explicit(message, category, filename, line)


def _warn(message: str) -> None:
    """Warn at the first frame outside this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, MisoxrWarning, stacklevel=level)
