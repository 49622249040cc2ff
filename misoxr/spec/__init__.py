"""Frozen values that say what a model is and how it is trained.

``components`` has bands, tasks, encoders and windows; ``model`` the whole :class:`ModelSpec`; ``presets`` the named models and the paper's bands;
``recipe`` the settings of training, ``pretraining`` those before it; ``build`` reads them from JSON; ``standardisation`` scales a regression's labels; ``numbers`` says what a
number is, and what is rounding; ``words`` spells names of classes.
"""

from misoxr.spec.components import Band, EncoderSpec, LocationSpec, LossSpec, Modality, Task, WindowSpec
from misoxr.spec.model import ModelSpec
from misoxr.spec.presets import ALASKA, COVARIATES, PERMAFROST, PRESETS, SENTINEL2, SOIL_ORDERS, TAXONOMY, embedding
from misoxr.spec.pretraining import Pretraining
from misoxr.spec.recipe import Recipe

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
    "Pretraining",
    "Recipe",
    "Task",
    "WindowSpec",
    "embedding",
]
