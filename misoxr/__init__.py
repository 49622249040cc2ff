"""Continuous maps of permafrost and soil taxonomy from satellite imagery: the MISO model on xarray and Dask."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from misoxr import accessor as _accessor
from misoxr._version import __version__
from misoxr.spec import LossSpec, ModelSpec, Recipe, WindowSpec

if TYPE_CHECKING:
    from misoxr import covariates as covariates
    from misoxr import metrics as metrics
    from misoxr import plot as plot
    from misoxr import sampling as sampling
    from misoxr import simulate as simulate
    from misoxr import uncertainty as uncertainty
    from misoxr.evaluation.scores import Scores
    from misoxr.explorer.served import explore
    from misoxr.io.check import check
    from misoxr.io.layout import open_maps
    from misoxr.mapping.load import load
    from misoxr.model.checkpoint import Model
    from misoxr.points.folds import BlockKFold, ClusterKFold, KFold, LeaveOneRegionOut, PredefinedFolds
    from misoxr.points.knndm import KNNDM
    from misoxr.points.read import read_points
    from misoxr.stac import open_stac

__all__ = [
    "KNNDM",
    "BlockKFold",
    "ClusterKFold",
    "KFold",
    "LeaveOneRegionOut",
    "LossSpec",
    "Model",
    "ModelSpec",
    "PredefinedFolds",
    "Recipe",
    "Scores",
    "WindowSpec",
    "__version__",
    "check",
    "explore",
    "load",
    "open_maps",
    "open_stac",
    "read_points",
]

del _accessor


_LATER = {
    **dict.fromkeys(("BlockKFold", "ClusterKFold", "KFold", "LeaveOneRegionOut", "PredefinedFolds"), "misoxr.points.folds"),
    "KNNDM": "misoxr.points.knndm",
    "Model": "misoxr.model.checkpoint",
    "Scores": "misoxr.evaluation.scores",
    "check": "misoxr.io.check",
    "explore": "misoxr.explorer.served",
    "load": "misoxr.mapping.load",
    "open_maps": "misoxr.io.layout",
    "open_stac": "misoxr.stac",
    "read_points": "misoxr.points.read",
}
_MODULES = ("covariates", "metrics", "plot", "points", "sampling", "sensors", "simulate", "uncertainty")
"""Modules for users that nothing here imports."""


def __getattr__(name: str) -> Any:
    """Import what is heavy only when it is asked for."""
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    if name in _MODULES:
        return import_module(f"misoxr.{name}")
    raise AttributeError(f"module 'misoxr' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name also what is imported later, for completion."""
    return sorted({*globals(), *__all__, *_MODULES})
