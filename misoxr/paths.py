"""Paths as users write them: ``~`` is the home directory."""

import os

__all__ = ["expanded"]


def expanded(address: str | os.PathLike[str]) -> str:
    """Return an address as text: ``~`` is the home directory, as in a shell, and a URL stays as it is."""
    text = os.fspath(address)
    return text if "://" in text else os.path.expanduser(text)
