"""Settings of pre-training on unlabelled windows."""

from dataclasses import dataclass, fields
from typing import Any, Self, get_args

from misoxr.errors import did_you_mean
from misoxr.spec.components import Augmentation, check
from misoxr.spec.model import ModelSpec
from misoxr.spec.numbers import is_number, is_whole
from misoxr.spec.recipe import Recipe

__all__ = ["Pretraining"]


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Settings of pre-training.

    Attributes
    ----------
    steps : int
        Steps in all.
    batch_size : int
        Windows a step.
    learning_rate : float
        The greatest learning rate of AdamW. A fifth of the steps rises to it, and a cosine falls after. By default it is that of
        :meth:`misoxr.Recipe.of` for the architecture.
    weight_decay : float
        Weight decay of AdamW.
    share : float
        Share of a window's patches that are masked, in each modality by itself.
    patch : int
        Side of a patch, in pixels of the window. By default it is four cells of the encoder's first stage.
    points : int
        Pixels of a window that are asked in each modality, at the most.
    cross : float
        Weight of the loss of the other modalities' bands, beside that of the masked bands; 0 leaves it out. It has no effect on a model of one
        modality.
    augment : {"none", "mirror", "flips", "dihedral"}
        How windows are changed at random, as in :class:`misoxr.Recipe`.
    every : int
        Steps after which the state is written and the mean loss recorded.

    Examples
    --------
    >>> settings = misoxr.spec.Pretraining.of(misoxr.ModelSpec.preset("miso-nano"), steps=200)
    """

    steps: int = 1000
    batch_size: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    share: float = 0.6
    patch: int | None = None
    points: int = 256
    cross: float = 1.0
    augment: Augmentation = "mirror"
    every: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "points", "every", *(["patch"] if self.patch is not None else [])):
            value = getattr(self, name)
            check(is_whole(value) and value >= 1, f"{name} is {value!r}; give a whole number, 1 or more.")
        for name in ("learning_rate", "weight_decay", "share", "cross"):
            check(is_number(getattr(self, name)), f"{name} is {getattr(self, name)!r}; give a number.")
        check(self.learning_rate > 0, f"learning_rate is {self.learning_rate}; it must be positive.")
        check(0 < self.share < 1, f"share is {self.share}; it must be more than 0 and less than 1.")
        for name in ("weight_decay", "cross"):
            check(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; it must be 0 or more.")
        check(self.augment in get_args(Augmentation), f"augment is {self.augment!r}; use one of {get_args(Augmentation)}.")

    @classmethod
    def of(cls, spec: ModelSpec, **changes: Any) -> Self:
        """Return the settings of a model by its architecture, with changes.

        Raises
        ------
        SpecError
            If a setting is not known or out of range.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(changes.keys() - set(known))
        hint = did_you_mean(unknown[0], known) if unknown else ""
        check(not unknown, f"Pre-training has no settings {unknown}; it has {sorted(known)}.{hint}")
        # NumPy's numbers are no JSON.
        plain = {key: value.item() if getattr(value, "shape", None) == () else value for key, value in changes.items()}
        settings = cls(**{"learning_rate": Recipe.of(spec).learning_rate, **plain})
        size = spec.windows.size
        check(
            settings.patch is None or settings.patch < size,
            f"patch is {settings.patch}, and a window of {spec.name!r} has {size} pixels a side; give fewer.",
        )
        return settings
