"""What a model is, as frozen values: bands, modalities, tasks, windows, and the presets."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from types import UnionType
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from misoxr.errors import SpecError

__all__ = [
    "ALASKA",
    "COVARIATES",
    "PERMAFROST",
    "SENTINEL2",
    "SOIL_ORDERS",
    "TAXONOMY",
    "Band",
    "EncoderSpec",
    "LocationSpec",
    "Modality",
    "ModelSpec",
    "Task",
    "WindowSpec",
]


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise SpecError(message)


@dataclass(frozen=True)
class Band:
    """One input variable of a model.

    Attributes
    ----------
    name : str
        Name of the variable in the dataset; STAC common names for imagery.
    units : str
        Units in which the model takes the band: ``"1"`` is reflectance, ``"DN"`` raw counts.
    kind : {"linear", "circular"}
        A circular band (aspect, in degrees) enters as sine and cosine. Values below 0 mean "no direction" and enter as 0, 0.
    aliases : tuple of str
        Other names under which the dataset may have the band.
    valid_min : float or None
        Values below it, in the band's units, are nodata, as NaN is.
    """

    name: str
    units: str = "1"
    kind: Literal["linear", "circular"] = "linear"
    aliases: tuple[str, ...] = ()
    valid_min: float | None = None

    def __post_init__(self) -> None:
        _check(self.kind in ("linear", "circular"), f"Band {self.name!r} is of kind {self.kind!r}; use 'linear' or 'circular'.")

    @property
    def channels(self) -> int:
        """Number of network channels the band becomes."""
        return 2 if self.kind == "circular" else 1


@dataclass(frozen=True)
class EncoderSpec:
    """A timm backbone with ``features_only``, and the implicit query on each of its stages.

    Attributes
    ----------
    backbone : str
        Name of a timm model that supports ``features_only``.
    options : mapping
        Further keyword arguments of ``timm.create_model`` (JSON values only).
    hidden : tuple of (int, int)
        Widths of the two hidden layers of the query's MLP, one pair per stage used.
    stages : tuple of int or None
        Which of the backbone's feature maps are queried; all of them by default.
    """

    backbone: str
    hidden: tuple[tuple[int, int], ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Modality:
    """Bands that one encoder reads together.

    Attributes
    ----------
    name : str
        ``"sat"`` and ``"cov"`` in the paper.
    bands : tuple of Band
        The bands, in the order of the encoder's channels.
    encoder : EncoderSpec
        The encoder that reads them.
    required : bool
        Whether a pixel with no valid band of this modality is nodata in every output.
    """

    name: str
    bands: tuple[Band, ...]
    encoder: EncoderSpec
    required: bool = True

    def __post_init__(self) -> None:
        _check(bool(self.bands), f"Modality {self.name!r} has no bands.")

    @property
    def channels(self) -> int:
        """Number of network channels."""
        return sum(band.channels for band in self.bands)


@dataclass(frozen=True)
class Task:
    """What a model predicts.

    Attributes
    ----------
    name : str
        Name of the output variable and of the label column.
    kind : {"binary", "multiclass", "regression"}
        Binary tasks give one probability (of ``classes[1]``), multiclass tasks one per class.
    classes : tuple of str
        Class names, in the order of their codes 0, 1, ...
    colors : tuple of str
        Colours of the classes in maps, as ``#rrggbb``.
    dim : str
        Dimension of a multiclass task's probabilities; ``<name>_class`` by default.
    long_name : str
        Words for plots.
    units : str
        Units of a regression's values.
    """

    name: str
    kind: Literal["binary", "multiclass", "regression"]
    classes: tuple[str, ...] = ()
    colors: tuple[str, ...] = ()
    dim: str = ""
    long_name: str = ""
    units: str = "1"

    def __post_init__(self) -> None:
        _check(self.kind in ("binary", "multiclass", "regression"), f"Task {self.name!r} is of unknown kind {self.kind!r}.")
        _check(
            self.kind != "binary" or len(self.classes) == 2,
            f"Task {self.name!r} is binary and needs two classes, not {self.classes}.",
        )
        _check(
            self.kind != "multiclass" or 2 < len(self.classes) < 255,
            f"Task {self.name!r} is multiclass and needs 3 to 254 classes.",
        )
        _check(self.kind != "regression" or not self.classes, f"Task {self.name!r} is a regression and has no classes.")
        _check(len(set(self.classes)) == len(self.classes), f"Task {self.name!r} names a class twice: {self.classes}.")
        _check(
            len(self.colors) in (0, len(self.classes)),
            f"Task {self.name!r} has {len(self.classes)} classes and {len(self.colors)} colors.",
        )
        if self.kind == "multiclass" and not self.dim:
            object.__setattr__(self, "dim", f"{self.name}_class")

    @property
    def outputs(self) -> int:
        """Number of the head's outputs, and of layers in the map."""
        return len(self.classes) if self.kind == "multiclass" else 1


Taper = Literal["cosine", "linear", "gaussian"]
Anchor = Literal["crs", "dataset"]


@dataclass(frozen=True)
class WindowSpec:
    """The windows that a model sees, in pixels of the dataset.

    Attributes
    ----------
    size : int
        Side of a window, pixels.
    input_size : int
        Side of the encoder's input, to which a window is resized bilinearly.
    stride : int
        Distance between the windows of the lattice, pixels.
    taper : {"cosine", "linear", "gaussian"}
        Weight of a window's pixels. Cosine and linear ramps rise from 0 to 1 in the middle of the overlap of two windows, and
        what lies outside the ramp is not asked for; "gaussian" is the published window, which does not reach 0.
    ramp : int or None
        Length of the ramps, pixels; None stands for the whole overlap, ``size - stride``. With 0 a window answers alone up to
        the middle of its overlap, and the map has seams.
    anchor : {"crs", "dataset"}
        Whether the lattice is anchored in the CRS, or at the dataset's corner as published.
    """

    size: int = 256
    input_size: int = 256
    stride: int = 224
    taper: Taper = "cosine"
    anchor: Anchor = "crs"
    ramp: int | None = None

    def __post_init__(self) -> None:
        _check(self.size >= 2, f"A window of {self.size} pixels is too small; use 2 or more.")
        _check(self.input_size >= 2, f"An input of {self.input_size} pixels is too small; use 2 or more.")
        _check(
            1 <= self.stride <= self.size,
            f"A stride of {self.stride} with windows of {self.size} pixels leaves gaps; use 1 to {self.size}.",
        )
        _check(self.taper in get_args(Taper), f"Unknown taper {self.taper!r}; use one of {get_args(Taper)}.")
        _check(self.anchor in get_args(Anchor), f"Unknown anchor {self.anchor!r}; use one of {get_args(Anchor)}.")
        _check(
            self.taper == "gaussian" or self.stride < self.size,
            f"A stride of {self.stride} equal to the size leaves no overlap for the {self.taper} taper; use a smaller stride.",
        )
        _check(
            self.ramp is None or (self.taper != "gaussian" and 0 <= self.ramp <= self.size - self.stride),
            f"A ramp of {self.ramp} pixels does not go with the {self.taper} taper, windows of {self.size} and a stride of "
            f"{self.stride}; use None, or with a cosine or linear taper 0 to {self.size - self.stride}.",
        )


@dataclass(frozen=True)
class LocationSpec:
    """The location encoder and the extent its coordinates are scaled by.

    Attributes
    ----------
    crs : str
        CRS of the extent; locations are transformed to it.
    extent : tuple of float
        West, south, east and north, in units of the CRS. x is scaled to -1..1 from west to east, y from north to south.
    frequencies : int
        Number of wavelengths, geometric from ``shortest`` to ``longest``; with "nerf" the number of octaves.
    shortest, longest : float
        Wavelengths, in units of the scaled coordinates.
    dropout : float
        Dropout of the encoder's layers in training.
    encoding : {"grid", "theory", "nerf"}
        How a location becomes numbers; see :class:`misoxr.model.location.LocationEncoder`.
    """

    crs: str
    extent: tuple[float, float, float, float]
    frequencies: int = 64
    shortest: float = 0.0005
    longest: float = 2.0
    dropout: float = 0.1
    encoding: Literal["grid", "theory", "nerf"] = "grid"

    def __post_init__(self) -> None:
        _check(
            self.encoding in ("grid", "theory", "nerf"),
            f"Unknown location encoding {self.encoding!r}; use 'grid', 'theory' or 'nerf'.",
        )
        west, south, east, north = self.extent
        _check(west < east and south < north, f"The location extent {self.extent} is empty; give (west, south, east, north).")


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
    """

    name: str
    modalities: tuple[Modality, ...]
    tasks: tuple[Task, ...]
    pixel_size: float
    windows: WindowSpec
    width: int
    location: LocationSpec | None = None
    query: Literal["continuous", "published"] = "continuous"

    def __post_init__(self) -> None:
        _check(bool(self.modalities or self.location), "A model needs at least one modality, or a location branch.")
        _check(bool(self.tasks), "A model needs at least one task.")
        _check(self.pixel_size > 0, f"The pixel size is {self.pixel_size}; it must be positive.")
        _check(
            not self.modalities or any(modality.required for modality in self.modalities),
            "At least one modality must be required.",
        )
        for what, names in (
            ("band", [band.name for band in self.bands]),
            ("task", [task.name for task in self.tasks]),
            ("modality", [modality.name for modality in self.modalities]),
        ):
            _check(len(set(names)) == len(names), f"A {what} stands twice in the model: {names}.")
        _check(self.query in ("continuous", "published"), f"Unknown query {self.query!r}; use 'continuous' or 'published'.")

    @property
    def bands(self) -> tuple[Band, ...]:
        """All bands, modality after modality."""
        return tuple(band for modality in self.modalities for band in modality.bands)

    def task(self, name: str) -> Task:
        """Return the task of that name."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise SpecError(f"The model has no task {name!r}; it has {[t.name for t in self.tasks]}.")

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
        spec = _build(cls, values)
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

        References
        ----------
        arXiv 2506.17302 for the architecture and the default bands.
        """
        try:
            parts = _PRESETS[name]
        except KeyError:
            raise SpecError(f"Unknown preset {name!r}; use one of {sorted(_PRESETS)}.") from None
        bands = {"sat": _bands(SENTINEL2 if sat is None else sat), "cov": _bands(COVARIATES if cov is None else cov)}
        modalities = [Modality(key, value, parts[key], required=key == "sat") for key, value in bands.items() if value]
        _check(bool(modalities), "A model built from a preset needs at least one modality; give bands for sat or cov.")
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
        )


def _bands(bands: Iterable[Band | str]) -> tuple[Band, ...]:
    """Take names as the known bands of that name, or as bands without units."""
    known = {band.name: band for band in (*SENTINEL2, *COVARIATES)}
    return tuple(band if isinstance(band, Band) else known.get(band, Band(band)) for band in bands)


def _build(hint: Any, value: Any) -> Any:
    """Build a value of the hinted type from JSON values."""
    if get_origin(hint) in (Union, UnionType):
        inner = [arg for arg in get_args(hint) if arg is not type(None)]
        return None if value is None else _build(inner[0], value)
    if is_dataclass(hint) and isinstance(hint, type):
        hints = get_type_hints(hint)
        _check(isinstance(value, Mapping), f"{hint.__name__} is built from a mapping, not from {value!r}.")
        unknown = set(value) - {f.name for f in fields(hint)}
        _check(not unknown, f"{hint.__name__} has no {sorted(unknown)}; was it written by a newer misoxr?")
        try:
            return hint(**{key: _build(hints[key], item) for key, item in value.items()})
        except TypeError as error:
            raise SpecError(f"{hint.__name__} cannot be built: {error}.") from error
    if get_origin(hint) is tuple:
        args = get_args(hint)
        _check(isinstance(value, (list, tuple)), f"A list is needed where {value!r} stands.")
        _check(args[-1] is Ellipsis or len(args) == len(value), f"{len(args)} values are needed where {value!r} stands.")
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        return tuple(_build(kind, item) for kind, item in zip(inner, value, strict=True))
    return value


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
    {"layers": [1, 1, 1, 1], "channels": [32, 64, 96, 128], "norm_layer": "groupnorm"},
    stages=(0, 1, 2, 3),
)

_PRESETS: Mapping[str, Mapping[str, Any]] = {
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
