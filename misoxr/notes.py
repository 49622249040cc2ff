"""Warnings: one a call of the user's, at the user's line, however deep in the package they come from."""

import os
import sys
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from misoxr.errors import MisoxrWarning

__all__ = ["flush", "gathered", "note"]

P = ParamSpec("P")
R = TypeVar("R")

_HERE = f"{Path(__file__).parent}{os.sep}"
_notes: ContextVar[dict[str, bool] | None] = ContextVar("misoxr_notes", default=None)
"""What the call in progress has to say, and whether it has said it; None outside of calls."""


def note(message: str) -> None:
    """Warn at the user's line; within a call that gathers, once and together with what else it has to say."""
    notes = _notes.get()
    if notes is None:
        _warn(message)
    else:
        notes.setdefault(message, False)


def flush() -> None:
    """Warn now of what has been gathered: before hours of work, whose user would learn of it too late."""
    notes = _notes.get() or {}
    words = [message for message, said in notes.items() if not said]
    notes.update(dict.fromkeys(words, True))
    if words:
        _warn("\n".join(words))


def gathered(function: Callable[P, R]) -> Callable[P, R]:
    """Let a verb give one warning, at its end; within another verb's call, the other gives it.

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
            for message, said in (_notes.get() or {}).items():
                if not said:
                    error.add_note(message)
            raise
        finally:
            _notes.reset(token)

    return verb


def _warn(message: str) -> None:
    """Warn at the first frame outside this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, MisoxrWarning, stacklevel=level)
