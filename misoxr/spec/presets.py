"""The named models, and the bands, tasks and extent of the paper."""

from collections.abc import Mapping
from typing import Any

from misoxr.spec.components import Band, EncoderSpec, LocationSpec, Task, WindowSpec

__all__ = ["ALASKA", "BASELINES", "COVARIATES", "PERMAFROST", "PRESETS", "SENTINEL2", "SOIL_ORDERS", "TAXONOMY"]

SENTINEL2 = tuple(
    Band(name) for name in ("red", "green", "blue", "rededge071", "rededge075", "rededge078", "nir", "swir16", "swir22")
)
"""The paper's Sentinel-2 bands by their STAC common names, as reflectance."""

COVARIATES = (
    Band("aspect", "degree", "circular"),
    Band("elevation", "m"),
    Band("max_curvature", "m-1"),
    Band("slope", "degree"),
    Band("stream_power_index", "1"),
    Band("wetness_index", "1"),
    Band("topographic_position_index", "m"),
    Band("annual_precipitation", "mm"),
    Band("summer_warmth_index", "degC"),
    Band("january_minimum_temperature", "degC"),
)
"""The paper's ten terrain and climate covariates."""

SOIL_ORDERS = ("Andisols", "Entisols", "Gelisols", "Histosols", "Inceptisols", "Mollisols", "Spodosols")

PERMAFROST = Task(
    "permafrost", "binary", ("absent", "present"), ("#d8c08c", "#2b6ca3"), long_name="near-surface permafrost (within 1 m)"
)

TAXONOMY = Task(
    "taxonomy",
    "multiclass",
    SOIL_ORDERS,
    ("#b5446e", "#e6b655", "#4c86b8", "#5d3a1a", "#c98a5a", "#5a8f4e", "#9a86b0"),
    dim="taxon",
    long_name="soil order",
)

ALASKA = LocationSpec("EPSG:3338", (-2199995.0, 5.0, 1500005.0, 2400005.0))
"""The published location extent: Alaska in Alaska Albers."""

_PUBLISHED_HIDDEN = ((256, 512), (256, 512), (512, 1024), (1024, 1024))
_SMALL_HIDDEN = ((96, 96), (96, 96), (128, 128), (128, 128))
_NANO = EncoderSpec(
    "resnet18",
    ((64, 32),) * 4,
    {
        "layers": [1, 1, 1, 1],
        "channels": [32, 64, 96, 128],
        "stem_type": "deep",
        "stem_width": 16,
        "norm_layer": "groupnorm1",
    },
    stages=(0, 1, 2, 3),
)

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "miso-base": {
        "sat": EncoderSpec("swinv2_base_window8_256", _PUBLISHED_HIDDEN, {"img_size": 256}),
        "cov": EncoderSpec("swin_base_patch4_window7_224", _PUBLISHED_HIDDEN, {"img_size": 256, "window_size": 8}),
        "windows": WindowSpec(256, 256, 224, ramp=16),
        "width": 1024,
        "contrast": True,
    },
    "miso-small": {
        "sat": EncoderSpec("swinv2_tiny_window8_256", _SMALL_HIDDEN, {"img_size": 256}),
        "cov": EncoderSpec("swin_tiny_patch4_window7_224", _SMALL_HIDDEN, {"img_size": 256, "window_size": 8}),
        "windows": WindowSpec(256, 256, 224, ramp=16),
        "width": 256,
    },
    "miso-nano": {
        "sat": _NANO,
        "cov": _NANO,
        "windows": WindowSpec(64, 64, 56),
        "width": 64,
    },
}

BASELINES = (
    "rf-11",
    "rf-11-balanced",
    "rf-neighbourhood",
    "logistic-neighbourhood",
    "vote-neighbourhood",
    "boosting-neighbourhood",
    "rf-coordinates",
)
"""Names of baselines, which :mod:`misoxr.training` builds; they stand here so that a name that is no preset is compared with them, too."""
