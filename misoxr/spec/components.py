"""The components of a model's specification: bands, encoders, modalities, tasks, windows, locations and losses."""

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from reprlib import repr as short
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pyproj

from misoxr.errors import SpecError
from misoxr.spec.numbers import is_number, is_whole
from misoxr.spec.words import flag_word

__all__ = [
    "Augmentation",
    "Band",
    "EncoderSpec",
    "LocationSpec",
    "LossSpec",
    "Modality",
    "Task",
    "WindowSpec",
    "check",
    "check_flags",
    "hints_of",
    "in_order",
    "keep_tuples",
]


def check(condition: bool, message: str) -> None:
    """Raise a :class:`~misoxr.errors.SpecError` with the message unless the condition holds."""
    if not condition:
        raise SpecError(message)


def check_flags(**flags: Any) -> None:
    """Refuse flags that are neither True nor False."""
    for name, value in flags.items():
        check(isinstance(value, bool), f"{name} is {value!r}; give True or False.")


def keep_tuples(spec: Any) -> None:
    """Keep what stands in an order (a list, an array, a Series) as tuples in a specification whose hints say so; see :func:`in_order`."""
    for name, hint in hints_of(spec.__class__).items():
        value = getattr(spec, name)
        if any(get_origin(one) is tuple for one in (hint, *get_args(hint))) and value is not None:
            object.__setattr__(spec, name, in_order(f"{name} of {type(spec).__name__}", value))


@lru_cache
def hints_of(kind: Hashable) -> dict[str, Any]:
    """Return the types of a dataclass's fields, by their names."""
    return get_type_hints(kind)


def in_order(what: str, value: Any) -> tuple[Any, ...]:
    """Return values that stand in an order as a tuple, those within them as well, with Python's own numbers and text.

    Raises
    ------
    SpecError
        If they are text, a set, a mapping, or no sequence at all.
    """
    fits = isinstance(value, Iterable) and not isinstance(value, (str, bytes, set, frozenset, Mapping))
    check(fits, f"{what} is {short(value)}; give the values in their order, as a tuple or a list.")
    plain = value.tolist() if hasattr(value, "tolist") else np.asarray(value).tolist() if hasattr(value, "__array__") else value
    check(
        isinstance(plain, Iterable) and not isinstance(plain, str),
        f"{what} is {plain!r}; give several values, as a tuple or a list.",
    )
    return tuple(map(partial(_plain, what), plain))


def _plain(what: str, value: Any) -> Any:
    """Return a value as Python has it, and as a tuple where it is several in an order."""
    if isinstance(value, (list, tuple)) or hasattr(value, "__array__"):
        return value.item() if isinstance(value, np.generic) else in_order(what, value)
    return value


@dataclass(frozen=True)
class Band:
    """One input variable of a model.

    Attributes
    ----------
    name : str
        Name of the variable in the dataset; STAC common names for imagery.
    units : str
        Units in which the model takes the band: ``"1"`` is reflectance, ``"DN"`` raw counts.
    kind : {"linear", "circular", "component"}
        A circular band (aspect, in degrees) enters as sine and cosine. Values below 0 mean "no direction" and enter as 0, 0. A component is
        one of a unit vector's, such as an embedding's (:func:`misoxr.spec.embedding`): it enters as it is, without logarithm,
        standardisation or whitening.
    aliases : tuple of str
        Other names under which the dataset may have the band.
    valid_min : float or None
        Values below it, in the band's units, are nodata, as NaN is.

    Examples
    --------
    >>> band = Band("ndvi", "1")
    >>> aspect = Band("aspect", "degree", "circular")
    """

    name: str
    units: str = "1"
    kind: Literal["linear", "circular", "component"] = "linear"
    aliases: tuple[str, ...] = ()
    valid_min: float | None = None

    def __post_init__(self) -> None:
        keep_tuples(self)
        kinds = ("linear", "circular", "component")
        check(self.kind in kinds, f"Band {self.name!r} is of kind {self.kind!r}; use one of {kinds}.")
        check(
            self.kind != "component" or self.units == "1",
            f"Band {self.name!r} is a component of a unit vector and has the units {self.units!r}; leave them '1'.",
        )

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

    Examples
    --------
    >>> encoder = EncoderSpec("resnet18", ((64, 32),) * 3, stages=(1, 2, 3))
    """

    backbone: str
    hidden: tuple[tuple[int, int], ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        keep_tuples(self)
        check(all(width >= 1 for pair in self.hidden for width in pair), f"The query's widths {self.hidden} must be 1 or more.")
        leaves = list(_leaves(self.options))
        # More would not be a network but a way to fill the memory: options may come from a file of others.
        check(len(leaves) <= 100, f"{self.backbone!r} has {len(leaves)} options; at most 100 are allowed.")
        for value in leaves:
            fits = not isinstance(value, int | float) or -(2**14) <= value <= 2**14
            check(fits, f"An option of {self.backbone!r} is {value}; give numbers of at most {2**14}.")


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the values that stand in nested JSON."""
    if isinstance(value, (Mapping, list, tuple)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(part)
    else:
        yield value


@dataclass(frozen=True)
class Modality:
    """Bands that one encoder reads together.

    Attributes
    ----------
    name : str
        ``"sat"`` and ``"cov"`` in the paper.
    bands : tuple of Band
        The bands, in the order of the encoder's channels; components of one unit vector stand alone.
    encoder : EncoderSpec
        The encoder that reads them.
    required : bool
        Whether a pixel with no valid band of this modality is nodata in every output.

    Examples
    --------
    >>> imagery = Modality("sat", (Band("red"), Band("nir")), EncoderSpec("pyramid", ((64, 32),) * 4))
    """

    name: str
    bands: tuple[Band, ...]
    encoder: EncoderSpec
    required: bool = True

    def __post_init__(self) -> None:
        keep_tuples(self)
        check(bool(self.bands), f"Modality {self.name!r} has no bands.")
        kinds = {band.kind for band in self.bands}
        check(
            "component" not in kinds or len(kinds) == 1,
            f"Modality {self.name!r} mixes components of a unit vector with bands of the kinds {sorted(kinds - {'component'})}; give "
            "these a modality of their own.",
        )

    @property
    def is_vector(self) -> bool:
        """Whether the bands are the components of a unit vector."""
        return self.bands[0].kind == "component"

    @property
    def channels(self) -> int:
        """Number of network channels."""
        return sum(band.channels for band in self.bands)


TAKEN = ("x", "y", "spatial_ref", "time", "band", "point", "geometry")
"""Names of coordinates, which no task may have."""


@dataclass(frozen=True)
class Task:
    """What a model predicts.

    Attributes
    ----------
    name : str
        Name of the output variable and of the label column; none that maps have already, such as "x" or "time".
    kind : {"binary", "multiclass", "regression"}
        Binary tasks give one probability (of ``classes[1]``), multiclass tasks one per class.
    classes : tuple of str
        Class names, in the order of their codes 0, 1, ... "very wet" and "very_wet" are one name.
    colors : tuple of str
        Colours of the classes in maps, as ``#rrggbb``.
    dim : str
        Dimension of a multiclass task's probabilities; ``<name>_class`` by default.
    long_name : str
        Words for plots.
    units : str
        Units of a regression's values.
    loss : {"", "bce", "cross_entropy", "focal", "mse", "mse_log1p"}
        What training minimises: binary cross-entropy, cross-entropy and mean squared error by default. "focal" is for classes;
        with "mse_log1p" a regression is learnt as log(1 + value), and its answers are values again.
    depth : float or None
        Of binary tasks, the depth in metres down to which the label speaks: "absent" says that nothing is there down to it. An observation
        that stopped above it and found nothing is right-censored (``censored`` of :func:`misoxr.training.fit.fit`).

    Examples
    --------
    >>> drainage = Task("drainage", "multiclass", ("dry", "moist", "wet"), long_name="drainage class")
    >>> carbon = Task("soc", "regression", units="kg m-2", loss="mse_log1p")
    """

    name: str
    kind: Literal["binary", "multiclass", "regression"]
    classes: tuple[str, ...] = ()
    colors: tuple[str, ...] = ()
    dim: str = ""
    long_name: str = ""
    units: str = "1"
    loss: str = ""
    depth: float | None = None

    def __post_init__(self) -> None:
        keep_tuples(self)
        for what, name in (("name", self.name), ("dim", self.dim)):
            check(
                name not in TAKEN,
                f"The task's {what} is {name!r}, which is a coordinate of maps or of points ({', '.join(TAKEN)}). Give the task, and the column "
                "of its labels, another name.",
            )
        check(
            "/" not in self.name, f"The task's name {self.name!r} has a slash, which would make folders in a store; leave it out."
        )
        check(
            self.kind in ("binary", "multiclass", "regression"),
            f"Task {self.name!r} is of unknown kind {self.kind!r}; use 'binary', 'multiclass' or 'regression'.",
        )
        check(
            self.kind != "binary" or len(self.classes) == 2,
            f"Task {self.name!r} is binary and needs two classes, not {self.classes}.",
        )
        check(
            self.kind != "multiclass" or 2 < len(self.classes) < 255,
            f"Task {self.name!r} is multiclass and needs 3 to 254 classes.",
        )
        check(self.kind != "regression" or not self.classes, f"Task {self.name!r} is a regression and has no classes.")
        check(
            all(isinstance(name, str) for name in self.classes),
            f"The classes of task {self.name!r} are {self.classes}; give their names as text, such as {tuple(map(str, self.classes))}.",
        )
        names = {flag_word(name) for name in self.classes}
        check(
            len(names) == len(self.classes),
            f"Task {self.name!r} names a class twice: {self.classes}; maps write blanks as '_'. Rename one.",
        )
        check(
            len(self.colors) in (0, len(self.classes)),
            f"Task {self.name!r} has {len(self.classes)} classes and {len(self.colors)} colors.",
        )
        known = _LOSSES[self.kind]
        check(
            self.loss in ("", *known),
            f"Task {self.name!r} ({self.kind}) has the unknown loss {self.loss!r}; use one of {list(known)}, or '' for {known[0]!r}.",
        )
        check(
            self.depth is None or (self.kind == "binary" and is_number(self.depth) and 0 < self.depth < math.inf),
            f"The depth of task {self.name!r} ({self.kind}) is {self.depth!r}; give a binary task metres above 0, or None.",
        )
        if self.kind == "multiclass" and not self.dim:
            object.__setattr__(self, "dim", f"{self.name}_class")
        if not self.loss:
            object.__setattr__(self, "loss", known[0])

    @property
    def outputs(self) -> int:
        """Number of the head's outputs, and of layers in the map."""
        return len(self.classes) if self.kind == "multiclass" else 1

    @property
    def beside(self) -> tuple[str, ...]:
        """Names that a map may have beside the task's own: probabilities and the classes' dimension, spread, the location head's answer, and sets
        or intervals.
        """
        if self.kind == "regression":
            return f"{self.name}_std", f"{self.name}_location", *self.conformal
        spread = f"{self.name}_entropy" if self.kind == "multiclass" else f"{self.name}_std"
        return f"{self.name}_probability", spread, self.class_dim, f"{self.name}_location_probability", *self.conformal

    @property
    def class_dim(self) -> str:
        """Dimension of the classes: of a multiclass task's probabilities, and of sets."""
        return self.dim or f"{self.name}_class"

    @property
    def conformal(self) -> tuple[str, ...]:
        """Names of what ``predict(coverage=…)`` adds: an interval's ends, or a set, its size, credibility and confidence."""
        ends = ("lower", "upper") if self.kind == "regression" else ("set", "set_size", "credibility", "confidence")
        return tuple(f"{self.name}_{end}" for end in ends)


_LOSSES = {"binary": ("bce", "focal"), "multiclass": ("cross_entropy", "focal"), "regression": ("mse", "mse_log1p")}
"""Losses of each kind of task, the default first."""

Taper = Literal["cosine", "linear", "gaussian"]
Augmentation = Literal["none", "mirror", "flips", "dihedral"]
Anchor = Literal["crs", "dataset"]

LARGEST = 8192
"""Side of the largest window, pixels."""


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
    tta : {"none", "mirror", "flips", "dihedral"}
        Test-time augmentation: the answer is the mean over changed windows. "mirror" adds the window mirrored east to west (2 in all),
        "flips" also north to south (4), "dihedral" also rotations by quarters (8); prediction takes as many times longer. Train with
        the same ``Recipe.augment``: a network answers badly what it has never seen. Temperatures are fitted without it, and a mean
        is less sure of itself.

    Examples
    --------
    >>> windows = misoxr.WindowSpec(256, 256, 224, ramp=16)
    >>> slower = misoxr.WindowSpec(64, 64, 56, tta="flips")
    """

    size: int = 256
    input_size: int = 256
    stride: int = 224
    taper: Taper = "cosine"
    anchor: Anchor = "crs"
    ramp: int | None = None
    tta: Augmentation = "none"

    def __post_init__(self) -> None:
        for name in ("size", "input_size", "stride"):
            value = getattr(self, name)
            check(is_whole(value), f"{name} of the windows is {value!r}; give a whole number of pixels.")
        check(self.size >= 2, f"A window of {self.size} pixels is too small; use 2 or more.")
        check(self.input_size >= 2, f"An input of {self.input_size} pixels is too small; use 2 or more.")
        largest = max(self.size, self.input_size)
        check(largest <= LARGEST, f"A window of {largest} pixels is too large for any memory; use at most {LARGEST}.")
        check(
            1 <= self.stride <= self.size,
            f"A stride of {self.stride} with windows of {self.size} pixels leaves gaps; use 1 to {self.size}.",
        )
        check(self.taper in get_args(Taper), f"Unknown taper {self.taper!r}; use one of {get_args(Taper)}.")
        check(self.tta in get_args(Augmentation), f"Unknown tta {self.tta!r}; use one of {get_args(Augmentation)}.")
        check(self.anchor in get_args(Anchor), f"Unknown anchor {self.anchor!r}; use one of {get_args(Anchor)}.")
        check(
            self.taper == "gaussian" or self.stride < self.size,
            f"A stride of {self.stride} equal to the size leaves no overlap for the {self.taper} taper; use a smaller stride.",
        )
        check(
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
        How a location becomes numbers; see ``misoxr.model.encoder.LocationEncoder``.

    Examples
    --------
    >>> location = LocationSpec("EPSG:3338", image.rio.bounds())
    """

    crs: str
    extent: tuple[float, float, float, float]
    frequencies: int = 64
    shortest: float = 0.0005
    longest: float = 2.0
    dropout: float = 0.1
    encoding: Literal["grid", "theory", "nerf"] = "grid"

    def __post_init__(self) -> None:
        keep_tuples(self)
        check(
            self.encoding in ("grid", "theory", "nerf"),
            f"Unknown location encoding {self.encoding!r}; use 'grid', 'theory' or 'nerf'.",
        )
        octaves = 64 if self.encoding == "nerf" else 4096  # the last of more octaves would not be finite
        check(
            1 <= self.frequencies <= octaves,
            f"{self.frequencies} frequencies do not go with {self.encoding!r}; use 1 to {octaves}.",
        )
        check(
            all(1e-12 <= length <= 1e12 for length in (self.shortest, self.longest)),
            f"The wavelengths {self.shortest} to {self.longest} make no encoding; the extent is 2 long.",
        )
        check(0 <= self.dropout < 1, f"dropout is {self.dropout}; it must be at least 0 and less than 1.")
        _check_crs(self.crs)
        west, south, east, north = self.extent
        check(west < east and south < north, f"The location extent {self.extent} is empty; give (west, south, east, north).")


def _check_crs(crs: str) -> None:
    try:
        pyproj.CRS(crs)
    except pyproj.exceptions.CRSError as error:
        raise SpecError(f"The CRS {crs!r} of the locations cannot be read; write it as 'EPSG:3338'.") from error


@dataclass(frozen=True)
class LossSpec:
    """What training minimises beside the tasks' own losses.

    Attributes
    ----------
    contrast : tuple of (str, str, float)
        Pairs of embeddings that are drawn together by symmetric InfoNCE, and the weight of each pair. Embeddings are "visual" (all
        modalities together), "location", and the modalities by their names.
    temperature : float
        Divides the cosine similarities of the contrast.
    location : float
        Weight of the location head's own loss.
    focus : float
        Exponent of the focal loss.

    Examples
    --------
    >>> losses = misoxr.LossSpec(contrast=(("visual", "location", 0.1), ("sat", "cov", 0.1)))
    """

    contrast: tuple[tuple[str, str, float], ...] = ()
    temperature: float = 0.1
    location: float = 1.0
    focus: float = 2.0

    def __post_init__(self) -> None:
        keep_tuples(self)
        check(self.temperature > 0, f"The temperature of the contrast is {self.temperature}; it must be positive.")
        weights = [weight for *_, weight in self.contrast]
        check(
            all(weight >= 0 for weight in (*weights, self.location)),
            f"Weights of losses are 0 or more; contrast has {weights} and location {self.location}.",
        )
        check(self.focus >= 0, f"The focal exponent is {self.focus}; it must be 0 or more.")
