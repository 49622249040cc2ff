"""One tree of exceptions. A message says the fact, the value and the remedy."""

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType

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
    "require",
]


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
