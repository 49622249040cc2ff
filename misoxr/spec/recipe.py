"""Settings of training: the published recipe, and one for small models from scratch."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any, Literal, Self, get_args

from misoxr.errors import did_you_mean
from misoxr.spec.components import Augmentation, check, keep_tuples
from misoxr.spec.model import ModelSpec
from misoxr.spec.numbers import is_number, is_whole

__all__ = ["Recipe"]

Criterion = Literal["loss", "accuracy", "last"]
ClassWeight = Literal["none", "balanced"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of training; the defaults train small models from scratch.

    A small model learns most while the learning rate falls, and is overconfident long before it stops improving. So the defaults
    run to the end of a short schedule and keep its last epoch. A temperature is fitted afterwards.

    Attributes
    ----------
    max_epochs : int
        Epochs; in one, about as many labelled windows are seen as there are training points.
    steps : int
        Steps in all, on all devices together, spread evenly over the epochs, with one or more in each; 0 counts the points, as
        ``max_epochs`` says.
    patience : int
        Epochs without a better validation after which training ends. It has no effect where the last epoch is kept.
    criterion : {"loss", "accuracy", "last"}
        Which epoch is kept: the one with the least validation loss, the one with the greatest validation accuracy (mean over the
        tasks with classes), or the last one, at the end of the schedule.
    batch_size : int
        Windows in each step on each device.
    learning_rate, min_learning_rate, warmup_learning_rate : float
        Learning rates of AdamW: the greatest, the last and the first.
    warmup : float
        Share of the steps with a rising learning rate; a cosine falls after.
    weight_decay : float
        Weight decay of AdamW.
    clip : float
        Norm to which gradients are clipped; 0 does not clip.
    layer_decay : float
        Factor of the learning rate from one block of a backbone to the block before it.
    freeze : tuple of str
        Modalities whose backbones keep their weights.
    label_smoothing : float
        Share of a label's weight that is spread over all classes.
    class_weight : {"none", "balanced"}
        Whether losses are weighted by 1/class count.
    noise : float
        Standard deviation of the noise added to scaled inputs.
    dropout : float
        Share of the visual embedding that is left out at random before its heads; contrast and the location's heads see all.
    ema : float
        Decay of the moving average of the weights that is validated and returned; 0 takes the weights themselves.
    unlabelled : float
        Share of windows that come from anywhere in the cube without a label. What learns from them is contrast and, with a teacher, all tasks.
    labels : int
        Labelled points queried in a window, at most; with a teacher, pixels that it answered.
    random, regular : int
        Unlabelled points queried in a window, drawn uniformly and on a square lattice; only contrast sees them.
    augment : {"none", "mirror", "flips", "dihedral"}
        How windows are changed at random in training: "mirror" mirrors them east to west, "flips" also north to south, and "dihedral"
        also rotates them by quarters. Aspect changes with them.
    power : float
        Points are drawn with weight 1/(class count)^power; up to ``labels`` others in the windows around them are learnt as they lie.
    jitter : float
        Standard deviation, in pixels, by which labelled points are moved each time they are drawn: a label holds for its
        neighbourhood too, and positions are known to some metres only.

    Examples
    --------
    >>> recipe = misoxr.Recipe.of(misoxr.ModelSpec.preset("miso-base"), max_epochs=10)
    >>> model = image.miso.fit("miso-nano", points, max_epochs=1, augment="flips")
    """

    max_epochs: int = 6
    steps: int = 0
    patience: int = 6
    criterion: Criterion = "last"
    batch_size: int = 16
    learning_rate: float = 2e-3
    min_learning_rate: float = 1e-6
    warmup_learning_rate: float = 8e-5
    warmup: float = 0.3
    weight_decay: float = 0.05
    clip: float = 1.0
    layer_decay: float = 1.0
    freeze: tuple[str, ...] = ()
    label_smoothing: float = 0.05
    class_weight: ClassWeight = "none"
    noise: float = 0.03
    dropout: float = 0.0
    ema: float = 0.98
    unlabelled: float = 0.0
    labels: int = 32
    random: int = 0
    regular: int = 16
    augment: Augmentation = "mirror"
    power: float = 0.5
    jitter: float = 0.0

    def __post_init__(self) -> None:
        keep_tuples(self)
        numbers = {field.name: getattr(self, field.name) for field in fields(self) if field.type in (int, float)}
        for name, value in numbers.items():
            check(is_number(value), f"{name} is {value!r}; give a number.")
        for name in ("max_epochs", "steps", "patience", "batch_size", "labels", "random", "regular"):
            check(is_whole(numbers[name]), f"{name} is {numbers[name]!r}; give a whole number.")
        for name in ("max_epochs", "patience", "batch_size", "labels"):
            check(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be 1 or more.")
        for name in ("learning_rate", "layer_decay"):
            check(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; it must be positive.")
        for name in (
            "steps",
            "min_learning_rate",
            "warmup_learning_rate",
            "weight_decay",
            "clip",
            "noise",
            "random",
            "regular",
            "power",
            "jitter",
        ):
            check(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; it must be 0 or more.")
        for name in ("label_smoothing", "dropout", "ema", "unlabelled", "warmup"):
            check(0 <= getattr(self, name) < 1, f"{name} is {getattr(self, name)}; it must be at least 0 and less than 1.")
        side = round(self.regular**0.5)
        check(side**2 == self.regular, f"regular is {self.regular}; a lattice needs a square number, such as {side**2}.")
        for name, known in (("augment", Augmentation), ("criterion", Criterion), ("class_weight", ClassWeight)):
            value = getattr(self, name)
            check(value in get_args(known), f"{name} is {value!r}; use one of {get_args(known)}.")
        check(isinstance(self.freeze, tuple), f"freeze is {self.freeze!r}; give a tuple of modalities, such as ('sat',).")

    def _repr_html_(self) -> str:
        """Show the settings in a notebook, those that are no defaults in bold."""
        return str(import_module("misoxr.reprs.tables").recipe(self))  # by name: it stands on a higher floor

    @classmethod
    def of(cls, spec: ModelSpec, *, taught: bool = False, **changes: Any) -> Self:
        """Return the recipe of a model by its architecture, with changes.

        With ``taught``, a small model has a teacher: it takes 600 steps however many points there are, half of the windows come from anywhere,
        and inputs are noisier. Where all bands are reflectance, ratios or counts (units "1" or "DN"), windows are also rotated ("dihedral"), and
        it takes 1500 steps: from imagery alone, a network learns more slowly what its teacher knows.

        Swin backbones of the published width have the published recipe (arXiv 2506.17302): AdamW, cosine with warm-up, 40 epochs,
        batches of 32, half of the windows unlabelled where there is contrast, 5 labels, 10 random and 36 regular points a
        window, early stopping on accuracy. Smaller Swins have the small models' with a lower learning rate and 20 epochs.

        Raises
        ------
        SpecError
            If a setting is not known or out of range.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(changes.keys() - known)
        check(
            not unknown,
            f"Training has no settings {unknown}; it has {sorted(known)}.{did_you_mean(unknown[0], known) if unknown else ''}",
        )
        defaults: dict[str, Any] = {}
        if any(modality.encoder.backbone.startswith("swin") for modality in spec.modalities):
            defaults = dict(_PUBLISHED) if spec.width >= 1024 else {"learning_rate": 5e-4, "max_epochs": 20}
        if taught and spec.width < 1024:
            defaults |= TAUGHT
            # Reflectance and counts alone: nothing says which way a slope faces.
            defaults |= TAUGHT_BY_IMAGERY if all(band.units in ("1", "DN") for band in spec.bands) else {}
            # Who asks for a number of epochs alone has them counted by the points.
            defaults |= {"steps": 0} if "max_epochs" in changes else {}
        elif not spec.losses.contrast and not taught:
            defaults.pop("unlabelled", None)
        if "criterion" in defaults and all(task.kind == "regression" for task in spec.tasks):
            defaults["criterion"] = "loss"
        # NumPy's numbers are no JSON.
        plain = {key: value.item() if getattr(value, "shape", None) == () else value for key, value in changes.items()}
        return cls(**{**defaults, **plain})


TAUGHT: Mapping[str, Any] = {"steps": 600, "batch_size": 8, "label_smoothing": 0.0, "unlabelled": 0.5, "noise": 0.1}
"""What teaching changes."""
TAUGHT_BY_IMAGERY: Mapping[str, Any] = {"steps": 1500, "augment": "dihedral"}
"""What it changes besides, where there is imagery alone."""

_PUBLISHED: Mapping[str, Any] = {
    "max_epochs": 40,
    "patience": 11,
    "criterion": "accuracy",
    "batch_size": 32,
    "learning_rate": 5e-5,
    "min_learning_rate": 5e-6,
    "warmup_learning_rate": 5e-7,
    "warmup": 0.125,
    "weight_decay": 0.01,
    "label_smoothing": 0.0,
    "noise": 0.0,
    "dropout": 0.0,
    "ema": 0.0,
    "unlabelled": 0.5,
    "labels": 5,
    "random": 10,
    "regular": 36,
    "augment": "none",
    "power": 0.0,
    "jitter": 0.0,
}
