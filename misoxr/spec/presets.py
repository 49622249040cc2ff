"""The named models, and the bands, tasks and extent of the paper."""

from collections.abc import Mapping, Sequence
from typing import Any

from misoxr.spec.components import Band, EncoderSpec, LocationSpec, Modality, Task, WindowSpec, check
from misoxr.spec.numbers import is_whole

__all__ = ["ALASKA", "BASELINES", "COVARIATES", "PERMAFROST", "PRESETS", "SENTINEL2", "SOIL_ORDERS", "TAXONOMY", "embedding"]

SENTINEL2 = tuple(
    Band(name) for name in ("red", "green", "blue", "rededge071", "rededge075", "rededge078", "nir", "swir16", "swir22")
)
"""The paper's Sentinel-2 bands by their STAC common names, as reflectance."""

COVARIATES = (
    Band("aspect", "degree", "circular"),
    Band("elevation", "m"),
    Band("max_curvature", "m-1"),
    Band("slope", "degree"),
    Band("stream_power_index", "m2"),
    Band("wetness_index", "1"),
    Band("topographic_position_index", "1"),
    Band("annual_precipitation", "mm"),
    Band("summer_warmth_index", "degC month"),
    Band("january_minimum_temperature", "degC"),
)
"""The paper's ten terrain and climate covariates.

The stream power index is an area times a slope, the topographic position index is the standardised one of several scales, and the summer
warmth index is the sum of the monthly means above 0 degC.
"""

SOIL_ORDERS = ("Andisols", "Entisols", "Gelisols", "Histosols", "Inceptisols", "Mollisols", "Spodosols")

PERMAFROST = Task(
    "permafrost",
    "binary",
    ("absent", "present"),
    ("#d8c08c", "#2b6ca3"),
    long_name="near-surface permafrost (within 1 m)",
    depth=1.0,
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


def embedding(name: str, bands: int | Sequence[str], *, encoder: EncoderSpec | None = None, required: bool = False) -> Modality:
    """Make a modality of an embedding from elsewhere, such as AlphaEarth's or TESSERA's: the components of one unit vector.

    The components enter the network as they are: no logarithm, no standardisation, no whitening. Vectors of zeros are nodata, and vectors
    whose length is far from 1 are refused when they are read.

    Parameters
    ----------
    name : str
        Name of the modality, and what the names of its variables begin with.
    bands : int or sequence of str
        Number of components, for variables ``<name>_0``, ``<name>_1``, ..., as ``ds.miso.add(<name>=...)`` names those of an array over
        (feature, y, x); or the names of the variables, in order.
    encoder : EncoderSpec, optional
        What reads them; that of "miso-nano" by default.
    required : bool, optional
        Whether a pixel without the embedding is nodata in every output.

    Returns
    -------
    Modality
        With bands of the kind "component".

    Raises
    ------
    SpecError
        If there are no components, fewer than two, or something else than names or a number.

    Examples
    --------
    >>> from misoxr.spec import embedding
    >>> alphaearth = embedding("alphaearth", 64)
    >>> wider = replace(spec, modalities=(*spec.modalities, alphaearth))
    """
    if is_whole(bands):
        names = [f"{name}_{number}" for number in range(int(bands))]  # type: ignore[arg-type]
    else:
        several = isinstance(bands, Sequence) and not isinstance(bands, str) and all(isinstance(one, str) for one in bands)
        check(several, f"bands is {bands!r}; give the number of components, or the names of their variables.")
        names = list(bands)  # type: ignore[arg-type]
    check(len(names) > 1, f"The embedding {name!r} has {len(names)} components; a unit vector has 2 or more.")
    return Modality(name, tuple(Band(one, kind="component") for one in names), encoder or _NANO, required=required)
