"""What a model is, as a frozen value: its inputs, outputs, windows and losses."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from reprlib import repr as short
from typing import Any, Literal, Self

from misoxr.errors import SpecError, did_you_mean
from misoxr.spec.build import build
from misoxr.spec.components import Band, LocationSpec, LossSpec, Modality, Task, WindowSpec, check, in_order, keep_tuples
from misoxr.spec.numbers import is_whole
from misoxr.spec.presets import ALASKA, BASELINES, COVARIATES, PERMAFROST, PRESETS, SENTINEL2, TAXONOMY

__all__ = ["ModelSpec"]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything that decides a network's shape, and which cubes it reads.

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
        Form of the implicit query (``misoxr.model.query.neighbours``); "published" is for the authors' checkpoints.
    losses : LossSpec
        What training minimises beside the tasks' own losses.
    members : int
        Heads of each task, which share the encoders; each learns from a draw of the points of its own. Answers are their mean.

    Examples
    --------
    >>> spec = misoxr.ModelSpec.preset("miso-nano", cov=["elevation", "slope"], pixel_size=20)
    >>> spec = replace(spec, windows=misoxr.WindowSpec(64, 64, 48))
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
    members: int = 1

    def __post_init__(self) -> None:
        keep_tuples(self)
        check(bool(self.modalities or self.location), "A model needs at least one modality, or a location branch.")
        check(bool(self.tasks), "A model needs at least one task.")
        strange = [task for task in self.tasks if not isinstance(task, Task)]
        check(
            not strange,
            f"{strange[:1]} is no task; give misoxr.spec.Task objects, such as misoxr.spec.PERMAFROST, or Task(name, 'multiclass', classes).",
        )
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
            check(len(set(names)) == len(names), f"A {what} appears twice in the model: {short(names)}.")
        for one in self.tasks:
            clash = next((task.name for task in self.tasks if task.name in one.beside), None)
            check(
                clash is None,
                f"A map of the task {one.name!r} has {clash!r}, which is a task's name, too; give that task another name.",
            )
            other = next((task for task in self.tasks if _at_odds(one, task)), one)
            check(
                other is one,
                f"The tasks {one.name!r} and {other.name!r} have different classes along one dimension, {one.class_dim!r}. "
                "Give one of them another dim=.",
            )
        whole = is_whole(self.members) and self.members >= 1
        check(whole, f"members is {self.members!r}; it must be a whole number, 1 or more.")
        check(
            self.members == 1 or bool(self.modalities), "Members are heads of the imagery, and this model sees the location alone."
        )
        check(self.query in ("continuous", "published"), f"Unknown query {self.query!r}; use 'continuous' or 'published'.")
        embeddings = [m.name for m in self.modalities] + ["visual"] * bool(self.modalities) + ["location"] * bool(self.location)
        unknown = sorted({name for *pair, _ in self.losses.contrast for name in pair} - set(embeddings))
        check(not unknown, f"The contrast names {unknown}; the model's embeddings are {embeddings}. Give other losses=LossSpec(…).")

    @property
    def bands(self) -> tuple[Band, ...]:
        """All bands, modality after modality."""
        return tuple(band for modality in self.modalities for band in modality.bands)

    @property
    def outputs(self) -> int:
        """Numbers that a member answers at a point: all tasks' together."""
        return sum(task.outputs for task in self.tasks)

    def layers(self, *, location: bool = False, embeds: bool = False) -> int:
        """Count the layers of a map: the tasks' outputs, members' spread in each task, and the location head's outputs; or an embedding."""
        if embeds:
            return self.width
        return self.outputs * (2 if location else 1) + (len(self.tasks) if self.members > 1 else 0)

    def summary(self) -> str:
        """Return name, inputs and outputs as one line of text."""
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
            tiny Swins, ``miso-nano`` a network of small ResNets that trains in minutes on a laptop.
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
            For ``miso-base`` the paper's by default: a tenth of the contrast between imagery and location, and between imagery and covariates.
            The others have none, and are taught (:func:`misoxr.training.fit.fit`); contrast beside a teacher made them worse.

        References
        ----------
        arXiv 2506.17302 for the architecture and the default bands.
        """
        parts = PRESETS.get(name) if isinstance(name, str) else None
        if isinstance(name, str) and name in BASELINES:
            raise SpecError(
                f"{name!r} is a baseline, which has no specification: give it bands and tasks of a preset, spec = ModelSpec.preset('miso-nano', ...), "
                f"and fit({name!r}, points, like=spec)."
            )
        if parts is None:
            raise SpecError(
                f"Unknown preset {name!r}; use one of {sorted(PRESETS)}, or, where models are fitted, one of the baselines "
                f"{list(BASELINES)}.{did_you_mean(str(name), (*PRESETS, *BASELINES))}"
            )
        bands = {"sat": _bands("sat", SENTINEL2 if sat is None else sat), "cov": _bands("cov", COVARIATES if cov is None else cov)}
        modalities = [Modality(key, value, parts[key], required=key == "sat") for key, value in bands.items() if value]
        check(bool(modalities), "A model built from a preset needs at least one modality; give bands for sat or cov.")
        if not any(modality.required for modality in modalities):
            modalities = [replace(modality, required=True) for modality in modalities]
        return cls(
            name=name,
            modalities=tuple(modalities),
            tasks=(PERMAFROST, TAXONOMY) if tasks is None else in_order("tasks", tasks),
            pixel_size=float(pixel_size),
            windows=parts["windows"],
            width=parts["width"],
            location=location or ALASKA,
            losses=_losses(parts, modalities) if losses is None else losses,
        )


def _at_odds(one: Task, other: Task) -> bool:
    """Return whether two tasks have classes of their own along one dimension: a map could not hold both."""
    return "regression" not in (one.kind, other.kind) and one.class_dim == other.class_dim and one.classes != other.classes


def _losses(parts: Mapping[str, Any], modalities: Sequence[Modality]) -> LossSpec:
    """Return the published contrastive loss for the published model's modalities, and none for others."""
    if not parts.get("contrast"):
        return LossSpec()
    pairs = [("visual", "location", 0.1)]
    if {"sat", "cov"} <= {modality.name for modality in modalities}:
        pairs.append(("sat", "cov", 0.1))
    return LossSpec(contrast=tuple(pairs))


def _bands(what: str, bands: Iterable[Band | str]) -> tuple[Band, ...]:
    """Turn names into bands: known ones with their units, others without."""
    known = {band.name: band for band in (*SENTINEL2, *COVARIATES)}
    given = in_order(what, list(bands) if isinstance(bands, Mapping) else bands)  # a dataset's variables are a mapping
    return tuple(band if isinstance(band, Band) else known.get(band, Band(band)) for band in given)
