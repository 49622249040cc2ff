"""Continuous maps of permafrost and soil taxonomy from satellite imagery: the MISO model on xarray and Dask."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from misoxr import accessor as _accessor
from misoxr._version import __version__
from misoxr.folds import BlockKFold
from misoxr.points import read_points
from misoxr.spec import ModelSpec, WindowSpec
from misoxr.stac import open_stac
from misoxr.store import open_maps

if TYPE_CHECKING:
    from misoxr.model.checkpoint import Model

__all__ = ["BlockKFold", "Model", "ModelSpec", "WindowSpec", "__version__", "open_maps", "open_stac", "read_points"]

del _accessor


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for."""
    if name == "Model":
        return import_module("misoxr.model.checkpoint").Model
    raise AttributeError(f"module 'misoxr' has no attribute {name!r}")
