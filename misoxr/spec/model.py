"""What a model is, as a frozen value: modalities, tasks, windows, losses; and the presets."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from numbers import Integral, Real
from reprlib import repr as short
from types import UnionType
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from misoxr.errors import SpecError, did_you_mean
from misoxr.spec.components import Band, EncoderSpec, LocationSpec, LossSpec, Modality, Task, WindowSpec, check

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


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything that decides a network's shape and how it meets a datacube.

    Attributes
    ----------
    name : str
        A name for people.
    modalities : tuple of Modality
        The inputs, in order; none for a model that knows the location alone.
    tasks : tuple of Task
        The outputs, in order.
    pixel_size : float
        Pixel size of the cubes the model reads, in units of their CRS (metres).
    windows : WindowSpec
        Default windows.
    width : int
        Width of embeddings; the head narrows to half of it.
    location : LocationSpec or None
        The location branch; None leaves it out.
    query : {"continuous", "published"}
        Form of the implicit query (:func:`misoxr.model.query.neighbours`); "published" is for the authors' checkpoints.
    losses : LossSpec
        What training minimises beside the tasks' own losses.
    """

    name: str
    modalities: tuple[Modality, ...]
    tasks: tuple[Task, ...]
    pixel_size: float
    windows: WindowSpec
    width: int
    location: LocationSpec | None = None
    query: Literal["continuous", "published"] = "continuous"
    losses: LossSpec = field(default_factory=LossSpec)

    def __post_init__(self) -> None:
        check(bool(self.modalities or self.location), "A model needs at least one modality, or a location branch.")
        check(bool(self.tasks), "A model needs at least one task.")
        check(self.pixel_size > 0, f"The pixel size is {self.pixel_size}; it must be positive.")
        check(self.width >= 2, f"The width is {self.width}; a head narrows to half of it, so it must be 2 or more.")
        check(
            not self.modalities or any(modality.required for modality in self.modalities),
            "At least one modality must be required.",
        )
        for what, names in (
            ("band", [band.name for band in self.bands]),
            ("task", [task.name for task in self.tasks]),
            ("modality", [modality.name for modality in self.modalities]),
        ):
            check(len(set(names)) == len(names), f"A {what} stands twice in the model: {short(names)}.")
        check(self.query in ("continuous", "published"), f"Unknown query {self.query!r}; use 'continuous' or 'published'.")
        embeddings = [m.name for m in self.modalities] + ["visual"] * bool(self.modalities) + ["location"] * bool(self.location)
        unknown = sorted({name for *pair, _ in self.losses.contrast for name in pair} - set(embeddings))
        check(not unknown, f"The contrast names {unknown}; the model's embeddings are {embeddings}. Give other losses=LossSpec(…).")

    @property
    def bands(self) -> tuple[Band, ...]:
        """All bands, modality after modality."""
        return tuple(band for modality in self.modalities for band in modality.bands)

    def summary(self) -> str:
        """Return name, inputs and outputs in a line."""
        inputs = [f"{modality.name} ({len(modality.bands)} bands)" for modality in self.modalities] or ["location"]
        return f"{self.name!r}: {', '.join(inputs)} -> {', '.join(task.name for task in self.tasks)}"

    def task(self, name: str) -> Task:
        """Return the task of that name."""
        for task in self.tasks:
            if task.name == name:
                return task
        names = [task.name for task in self.tasks]
        raise SpecError(f"The model has no task {name!r}; it has {names}.{did_you_mean(str(name), names)}")

    def to_dict(self) -> dict[str, Any]:
        """Return the specification as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild a specification from :meth:`to_dict`.

        Raises
        ------
        SpecError
            If a key is unknown or missing, or a value does not fit.
        """
        spec = build(cls, values)
        assert isinstance(spec, cls)
        return spec

    @classmethod
    def preset(
        cls,
        name: str,
        *,
        sat: Sequence[Band | str] | None = None,
        cov: Sequence[Band | str] | None = None,
        tasks: Sequence[Task] | None = None,
        pixel_size: float = 10.0,
        location: LocationSpec | None = None,
        losses: LossSpec | None = None,
    ) -> Self:
        """Build one of the named models.

        Parameters
        ----------
        name : {"miso-base", "miso-small", "miso-nano"}
            ``miso-base`` is the published architecture (Swin-V2-B and Swin-B, 211 M parameters), ``miso-small`` the same with
            tiny Swins, ``miso-nano`` a small residual pyramid that trains in minutes on a laptop.
        sat, cov : sequence of Band or str, optional
            Imagery and covariate bands; the nine Sentinel-2 bands and ten covariates of the paper by default.
            An empty sequence leaves the modality out.
        tasks : sequence of Task, optional
            Near-surface permafrost and soil order by default.
        pixel_size : float, optional
            Pixel size in units of the CRS, metres.
        location : LocationSpec, optional
            Extent of the location encoder; Alaska in EPSG:3338 by default.
        losses : LossSpec, optional
            By default the paper's: a tenth of the contrast between imagery and location, and between imagery and covariates.

        References
        ----------
        arXiv 2506.17302 for the architecture and the default bands.
        """
        parts = PRESETS.get(name) if isinstance(name, str) else None
        if parts is None:
            raise SpecError(
                f"Unknown preset {name!r}; use one of {sorted(PRESETS)}, or, where models are fitted, a baseline of "
                f"misoxr.training.baselines.BASELINES.{did_you_mean(str(name), PRESETS)}"
            )
        bands = {"sat": _bands(SENTINEL2 if sat is None else sat), "cov": _bands(COVARIATES if cov is None else cov)}
        modalities = [Modality(key, value, parts[key], required=key == "sat") for key, value in bands.items() if value]
        check(bool(modalities), "A model built from a preset needs at least one modality; give bands for sat or cov.")
        if not any(modality.required for modality in modalities):
            modalities = [replace(modality, required=True) for modality in modalities]
        return cls(
            name=name,
            modalities=tuple(modalities),
            tasks=(PERMAFROST, TAXONOMY) if tasks is None else tuple(tasks),
            pixel_size=float(pixel_size),
            windows=parts["windows"],
            width=parts["width"],
            location=location or ALASKA,
            losses=_losses([modality.name for modality in modalities]) if losses is None else losses,
        )


def _losses(modalities: Sequence[str]) -> LossSpec:
    """Return the published contrast, as far as the modalities are there."""
    pairs = [("visual", "location", 0.1)]
    if {"sat", "cov"} <= set(modalities):
        pairs.append(("sat", "cov", 0.1))
    return LossSpec(contrast=tuple(pairs))


def _bands(bands: Iterable[Band | str]) -> tuple[Band, ...]:
    """Take names as the known bands of that name, or as bands without units."""
    known = {band.name: band for band in (*SENTINEL2, *COVARIATES)}
    return tuple(band if isinstance(band, Band) else known.get(band, Band(band)) for band in bands)


LONGEST = 4096
"""Values in a list of a specification, at the most: bands, tasks, stages, or rows of a whitening matrix."""


def build(hint: Any, value: Any) -> Any:
    """Build a value of the hinted type from JSON values, which may come from anywhere.

    Numbers stay as they are written, so that a specification is written again as it was read.

    Raises
    ------
    SpecError
        If a value is not of its type, or a number is not finite in single precision; a key is unknown or missing; or a
        dataclass refuses its values.
    """
    kind = get_origin(hint) or hint
    if kind in (Union, UnionType):
        inner = [arg for arg in get_args(hint) if arg is not type(None)]
        return None if value is None else build(inner[0], value)
    if kind is tuple:
        args = get_args(hint)
        check(isinstance(value, (list, tuple)), f"A list is needed where {short(value)} stands.")
        check(len(value) <= LONGEST, f"A list of {len(value)} values stands where {LONGEST} are the most.")
        check(args[-1] is Ellipsis or len(args) == len(value), f"{len(args)} values are needed where {short(value)} stands.")
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        return tuple(build(kind, item) for kind, item in zip(inner, value, strict=True))
    if kind in _JSON:
        accepts, what = _JSON[kind]
        check(accepts(value), f"{what} is needed where {short(value)} stands.")
    elif is_dataclass(kind):
        return _build_dataclass(kind, value)
    return value


_hints = lru_cache(get_type_hints)


def _build_dataclass(kind: Any, value: Any) -> Any:
    name, hints = kind.__name__, _hints(kind)
    check(isinstance(value, Mapping), f"{name} is built from a mapping, not from {short(value)}.")
    unknown = set(value) - {f.name for f in fields(kind)}
    check(not unknown, f"{name} has no {short(sorted(unknown, key=str))}; was it written by a newer misoxr?")
    parts = {}
    for key, item in value.items():
        try:
            parts[key] = build(hints[key], item)
        except SpecError as error:
            raise SpecError(f"{name} cannot be built: {key}: {error}") from error
    try:
        return kind(**parts)
    except TypeError as error:
        raise SpecError(f"{name} cannot be built: {error}.") from error


def _is_number(value: Any, kind: type, largest: float) -> bool:
    """Whether a value is a number of a kind within bounds; NaN is within none, and true and false are no numbers."""
    return isinstance(value, kind) and not isinstance(value, bool) and -largest <= value <= largest  # type: ignore[operator]


def _is_text(value: Any) -> bool:
    """Whether a value is text that can be written: JSON may hold halves of surrogate pairs."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


_JSON: Mapping[Any, tuple[Callable[[Any], bool], str]] = {
    str: (_is_text, "Text"),
    Literal: (_is_text, "Text"),
    bool: (lambda value: isinstance(value, bool), "True or false"),
    int: (lambda value: _is_number(value, Integral, 2**31), "A whole number"),
    float: (lambda value: _is_number(value, Real, 3.4e38), "A finite number"),
    Mapping: (lambda value: isinstance(value, Mapping) and all(map(_is_text, value)), "A mapping"),
}
"""What a scalar is in JSON, by its type, and in words."""


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
