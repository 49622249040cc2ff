"""Frozen values that say what a model is and how it is trained."""

from misoxr.spec.components import Band, EncoderSpec, LocationSpec, LossSpec, Modality, Task, WindowSpec
from misoxr.spec.model import ALASKA, COVARIATES, PERMAFROST, PRESETS, SENTINEL2, SOIL_ORDERS, TAXONOMY, ModelSpec, build

__all__ = [
    "ALASKA",
    "COVARIATES",
    "PERMAFROST",
    "PRESETS",
    "SENTINEL2",
    "SOIL_ORDERS",
    "TAXONOMY",
    "Band",
    "EncoderSpec",
    "LocationSpec",
    "LossSpec",
    "Modality",
    "ModelSpec",
    "Task",
    "WindowSpec",
    "build",
]
