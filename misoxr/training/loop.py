"""The training loop: batches by seed and step, losses, schedule, validation, and resuming."""

import copy
import logging
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from misoxr.errors import SpecError, require
from misoxr.model.losses import contrasts, joint, learnt, total_loss
from misoxr.model.network import Members, Miso
from misoxr.paths import workspace, writing
from misoxr.records.bars import Bar
from misoxr.spec import ModelSpec, Recipe, Task
from misoxr.spec.components import check
from misoxr.spec.standardisation import Standardisation
from misoxr.training.batches import StepOrder, TrainingBatches, ValidationBatches, draw_of
from misoxr.training.disks import Disks, averaged
from misoxr.training.runs import FIT, read
from misoxr.training.windows import Batch, Integers, TrainingWindows

require("pytorch_lightning", "train")
import pytorch_lightning as lightning  # noqa: E402

from misoxr.training.progress import StepsShown  # noqa: E402
from misoxr.training.states import WholeStates, loggers, states  # noqa: E402

__all__ = ["Hardware", "Result", "centre", "run", "standardised"]


@dataclass(frozen=True)
class Hardware:
    """The hardware of training: kind and number of devices, precision, and processes that prepare windows."""

    device: str
    devices: int
    precision: str
    workers: int


@dataclass(frozen=True)
class Result:
    """The weights of the best epoch, and of every epoch its validation and the means of its training losses."""

    weights: Mapping[str, Tensor]
    history: list[dict[str, float]]
    best_epoch: int
    losses: list[dict[str, float]]


class _Loop(lightning.LightningModule):
    """The steps of training and validation, and the weights of the best epoch."""

    def __init__(
        self,
        network: Miso,
        spec: ModelSpec,
        recipe: Recipe,
        steps: int,
        weights: Mapping[str, Tensor],
        seed: int,
        standardisation: Mapping[str, Standardisation] | None = None,
        *,
        validates: bool = True,
    ):
        super().__init__()
        self.network, self.spec, self.recipe, self.seed = network, spec, recipe, seed
        self.standardisation, self.validates = dict(standardisation or {}), validates
        self.total_steps = steps * recipe.max_epochs
        for name in recipe.freeze:  # before devices share the network: all of them wait for every gradient
            network.encoders[name].backbone.requires_grad_(False)
        self.weights = nn.ParameterDict({name: nn.Parameter(w, requires_grad=False) for name, w in weights.items()})
        self.average = copy.deepcopy(network).requires_grad_(False)
        self.followed: list[tuple[list[Tensor], list[Tensor]]] = []
        self.checked: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
        self.history: list[dict[str, float]] = []
        self.losses: list[dict[str, float]] = []
        self.sums: dict[str, Tensor] = {}
        self.best: dict[str, Tensor] = {}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout and noise by step, so that a resumed run goes on as it would have."""
        step = [self.seed, self.current_epoch, batch_idx, self.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(step).generate_state(1)[0]))

    def on_train_epoch_start(self) -> None:
        """Frozen backbones do not drop out, and losses are summed anew."""
        self.sums = {}
        for name in self.recipe.freeze:
            self.network.encoders[name].backbone.eval()  # type: ignore[union-attr]

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Losses of the visual and the location head, and of the contrast, on noisy windows."""
        losses = self.spec.losses
        inputs = {name: values + self.recipe.noise * torch.randn_like(values) for name, values in batch["inputs"].items()}
        count = batch["points"].shape[1]
        labels = {name: values.flatten(0, 1) for name, values in batch["labels"].items()}
        sample = torch.arange(len(batch["points"]), device=self.device).repeat_interleave(count)
        points, location = batch["points"].flatten(0, 1), batch["location"].flatten(0, 1) if "location" in batch else None
        counts = {name: values.flatten(0, 1).float() for name, values in batch.get("counts", {}).items()}
        known = None
        if not losses.contrast:
            # Points without labels are there for contrast alone.
            known = torch.stack([values.isfinite()[..., None].flatten(1).any(-1) for values in labels.values()]).any(dim=0)
            labels, counts = ({name: values[known] for name, values in of.items()} for of in (labels, counts))
            sample, points, location = sample[known], points[known], None if location is None else location[known]
        cells = self.network.project(inputs)
        embedded = self.network.embed(cells, sample, points)
        logits = self.network.answer(self._dropped(embedded["visual"]))
        disks = Disks.of_batch(batch, known)
        if disks is not None:
            others = self.network.answer(self._dropped(self.network.embed(cells, disks.sample, disks.points)["visual"]))
            logits = averaged(self.spec.tasks, logits, others, disks.of, self.standardisation)
        loss = self._of_members(logits, labels, counts)
        self._told("loss", loss)
        if location is not None:
            embedded["location"] = self.network.embed_location(location)
            # Locations have one head: it learns what any member does, of a teacher the mean.
            joint = labels if self.spec.members == 1 else {name: values.nanmean(dim=1) for name, values in labels.items()}
            logits = self.network.answer_location(embedded["location"])
            if disks is not None and disks.location is not None:
                others = self.network.answer_location(self.network.embed_location(disks.location))
                logits = averaged(self.spec.tasks, logits, others, disks.of, self.standardisation)
            located = self._own(logits, joint, counts)
            self._told("location_loss", located)
            loss = loss + losses.location * located
        if losses.contrast:
            shaped = {name: values.unflatten(0, (-1, count)) for name, values in embedded.items()}
            drawn = contrasts(losses, shaped, batch["valid"])
            self._told("contrast_loss", drawn)
            loss = loss + drawn
        return loss

    def _told(self, name: str, loss: Tensor) -> None:
        """Log a loss of a step, and add it to the epoch's."""
        value = loss.detach()
        self.log(name, value)
        # On the device: to read a number back at every step would wait for it.
        self.sums[name] = self.sums[name] + value.double() if name in self.sums else value.double()

    def _dropped(self, visual: Tensor) -> Tensor:
        """Drop some of an embedding out, where the recipe says so."""
        return functional.dropout(visual, self.recipe.dropout) if self.recipe.dropout else visual

    def _of_members(self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor], counts: Mapping[str, Tensor]) -> Tensor:
        """Mean loss of the members, each by labels of its own."""
        members = self.spec.members
        if members == 1:
            return self._own(logits, labels, counts)
        pairs = [[{name: values[:, member] for name, values in of.items()} for of in (logits, labels)] for member in range(members)]
        return torch.stack([self._own(one, mine, counts) for one, mine in pairs]).mean()

    def _own(self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor], counts: Mapping[str, Tensor]) -> Tensor:
        recipe, spec = self.recipe, self.spec
        weights = dict(self.weights)
        return total_loss(
            spec.tasks, logits, labels, recipe.label_smoothing, weights, spec.losses.focus, self.standardisation, counts
        )

    def on_train_batch_end(self, *_: Any) -> None:
        """Follow the weights with their moving average, which begins at the first step's."""
        # The lists are made once, on the device: to walk through both networks at every step takes longer than a small step.
        if not self.followed:
            both = [list(network.state_dict(keep_vars=True).values()) for network in (self.average, self.network)]
            pairs = [(mean, value.detach()) for mean, value in zip(*both, strict=True)]
            for kind in (True, False):
                chosen = [pair for pair in pairs if pair[0].is_floating_point() == kind]
                self.followed.append(([mean for mean, _ in chosen], [value for _, value in chosen]))
        (means, values), (counts, others) = self.followed
        torch._foreach_lerp_(means, values, 1.0 if self.global_step <= 1 else 1 - self.recipe.ema)
        if counts:
            torch._foreach_copy_(counts, others)

    def validation_step(self, batch: Batch, _: int) -> None:
        """Answer one point a window with the averaged weights; where there are members, as a map does, by their mean answer."""
        network = self.average
        sample = torch.arange(len(batch["points"]), device=self.device)
        logits = network(network.project(batch["inputs"]), sample, batch["points"][:, 0])
        if self.spec.members > 1:
            logits = {task.name: joint(task, logits[task.name], self.standardisation.get(task.name)) for task in self.spec.tasks}
        self.checked.append((logits, {name: values[:, 0] for name, values in batch["labels"].items()}))

    def validated(self) -> dict[str, float]:
        """Return the loss of all validation points, and their accuracy, a mean over tasks with classes."""
        logits, labels = (
            {name: torch.cat([part[name] for part in parts]) for name in parts[0]} for parts in zip(*self.checked, strict=True)
        )
        right = []
        for task in self.spec.tasks:
            known = labels[task.name].isfinite()
            if task.kind != "regression" and bool(known.any()):
                answers = logits[task.name].argmax(-1) if task.kind == "multiclass" else (logits[task.name][:, 0] > 0)
                right.append(float((answers == labels[task.name])[known].float().mean()))
        loss = total_loss(self.spec.tasks, logits, labels, focus=self.spec.losses.focus, standardisation=self.standardisation)
        return {"loss": float(loss), "accuracy": float(np.mean(right)) if right else math.nan}

    def on_validation_epoch_end(self) -> None:
        """Keep the averaged weights where they are the best so far, and stop where they have not been for long."""
        means = self.validated()
        self.checked.clear()
        self.history.append(means)
        self.log_dict({f"val_{name}": value for name, value in means.items()}, prog_bar=True)
        if _best(self.history, self.recipe) == len(self.history) - 1:
            self.best = copy.deepcopy(self.average.state_dict())
        self._stop_if_stale()

    def on_train_epoch_end(self) -> None:
        """Note the epoch's mean losses, on all devices, and keep the averaged weights of the last epoch where nothing validates."""
        steps = max(int(self.trainer.num_training_batches), 1)
        means = {name: torch.as_tensor(self.all_gather(total)).mean() / steps for name, total in self.sums.items()}
        self.losses.append({name: float(value) for name, value in means.items()})
        if not self.validates:
            self.best = copy.deepcopy(self.average.state_dict())

    def on_train_start(self) -> None:
        """End at once where a resumed run had ended."""
        self._stop_if_stale()

    def _stop_if_stale(self) -> None:
        if not self.validates:
            return
        best = _best(self.history, self.recipe)
        self.trainer.should_stop = len(self.history) - 1 - max(best, 0) >= self.recipe.patience

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what validation found, and the losses."""
        checkpoint["misoxr"] = {"history": self.history, "best": self.best, "losses": self.losses}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what validation had found, and the losses, which older states do not have."""
        self.history, self.best = checkpoint["misoxr"]["history"], checkpoint["misoxr"]["best"]
        self.losses = checkpoint["misoxr"].get("losses", [{} for _ in self.history])

    def configure_optimizers(self) -> Any:
        """AdamW, and a cosine with warm-up, step by step."""
        recipe = self.recipe
        groups = _groups(self.network, recipe)
        optimiser = torch.optim.AdamW(groups, recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
        rising = int(recipe.warmup * self.total_steps)
        schedule = CosineLRScheduler(
            optimiser,
            t_initial=self.total_steps - rising,
            lr_min=recipe.min_learning_rate,
            warmup_t=rising,
            warmup_lr_init=recipe.warmup_learning_rate,
            warmup_prefix=True,
            t_in_epochs=False,
        )
        schedule.step_update(0)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip, also in bfloat16, where Lightning refuses to for fused optimisers: no gradients are scaled there."""
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.network.parameters(), gradient_clip_val)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Tell timm's schedule the step."""
        scheduler.step_update(self.global_step)


def _best(history: list[dict[str, float]], recipe: Recipe) -> int:
    """Return the best epoch so far, the latest of equals; -1 where there is none."""
    sign = {"loss": 1.0, "accuracy": -1.0, "last": 0.0}[recipe.criterion]
    what = "accuracy" if recipe.criterion == "accuracy" else "loss"
    values = [sign * epoch[what] if np.isfinite([epoch["loss"], epoch[what]]).all() else math.inf for epoch in history]
    finite = [value for value in values if value < math.inf]
    return len(values) - 1 - values[::-1].index(min(finite)) if finite else -1


def _groups(network: Miso, recipe: Recipe) -> list[dict[str, Any]]:
    """Gather parameters by learning rate: a backbone's blocks learn the slower, the earlier they stand."""
    scales: dict[str, float] = {}
    for name, encoder in network.encoders.items():
        blocks: dict[str, int] = {}
        names = [key for key, _ in encoder.backbone.named_parameters()]  # type: ignore[union-attr]
        for key in names:
            blocks.setdefault(_block(key), len(blocks))
        check(
            recipe.layer_decay == 1 or len(blocks) > 2,
            f"layer_decay is {recipe.layer_decay}, and the blocks of {name!r}'s backbone cannot be recognised from the names of its weights, "
            f"such as {names[-1]!r}; leave it at 1.",
        )
        for key in names:
            scales[f"encoders.{name}.backbone.{key}"] = recipe.layer_decay ** (len(blocks) - blocks[_block(key)])
    groups: dict[float, list[nn.Parameter]] = {}
    for key, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(scales.get(key, 1.0), []).append(parameter)
    # timm's schedule multiplies by lr_scale.
    return [{"params": parameters, "lr_scale": scale} for scale, parameters in sorted(groups.items())]


def _block(key: str) -> str:
    """Return the block of a backbone that a parameter belongs to, by the numbers in its name; the stem is the first."""
    match = re.match(r"(layers?_?\d+\.(?:blocks\.)?\d+|layers?_?\d+|stages?[_.]?\d+\.(?:blocks\.)?\d+)", key)
    return match[0] if match else "stem"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's notes on devices and products, and its advice on workers, whose number is the caller's."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C be what it is everywhere else: Lightning ends the process instead, silently."""
    try:
        yield
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


def _one_thread_of_numpy() -> AbstractContextManager[Any]:
    """Keep NumPy, which draws batches, to one thread: its others would spin while torch's work. A library that torch shares is left alone."""
    controller = ThreadpoolController()
    own = [
        one["filepath"]
        for one in controller.info()
        if one["user_api"] == "blas" and ("numpy" in one["filepath"] or "scipy" in one["filepath"])
    ]
    return controller.select(filepath=own).limit(limits=1)  # type: ignore[no-any-return]


def run(
    network: Miso,
    data: TrainingWindows,
    train: Integers,
    held: Integers,
    recipe: Recipe,
    hardware: Hardware,
    *,
    seed: int,
    standardisation: Mapping[str, Standardisation] | None = None,
    directory: Path | None = None,
    bar: Bar | None = None,
) -> Result:
    """Train a network in place.

    Parameters
    ----------
    data : TrainingWindows
        Batches around the points.
    train, held : array
        The points to learn from, and to validate with.
    standardisation : mapping of str to Standardisation, optional
        How the labels of regressions are learnt (:func:`standardised`).
    directory : Path, optional
        Where the state after every epoch (``last.ckpt``) and the logs go. A state that lies there is taken up.
    bar : Bar, optional
        Where steps are counted; nothing is shown by default.
    """
    bar = Bar(data.spec.name, "steps", shown=False) if bar is None else bar
    steps = steps_of(recipe, len(train), hardware.devices)
    weights = _weights(data, train, recipe, seed)
    loop = _Loop(network, data.spec, recipe, steps, weights, seed, standardisation, validates=len(held) > 0)
    with _quiet(), workspace() as temporary:
        # Processes of their own hand the result over in a file.
        folder = directory or (temporary if hardware.devices > 1 else None)
        last = None if folder is None else folder / FIT.state
        trainer = lightning.Trainer(
            accelerator="gpu" if hardware.device.startswith("cuda") else "cpu",
            devices=_devices(hardware),
            strategy="ddp_spawn" if hardware.devices > 1 else "auto",
            precision=hardware.precision,  # type: ignore[arg-type]
            max_epochs=recipe.max_epochs,
            gradient_clip_val=recipe.clip or None,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            logger=loggers(directory),
            log_every_n_steps=max(1, min(50, steps)),
            callbacks=[StepsShown(bar, steps), *([] if folder is None else [states(folder)])],
            plugins=[WholeStates()],
            enable_checkpointing=folder is not None,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        steps_loader = DataLoader(
            TrainingBatches(data, train, recipe, seed),
            batch_size=None,
            sampler=StepOrder(steps),
            num_workers=hardware.workers,
            persistent_workers=hardware.workers > 0,
        )
        checks_loader = DataLoader(ValidationBatches(data, held), batch_size=None) if len(held) else None
        if hardware.devices > 1:
            bar.hand_over()
        with _interruptible(), _one_thread_of_numpy(), writing(folder or temporary, alone=False):
            trainer.fit(loop, steps_loader, checks_loader, ckpt_path=last if last and last.exists() else None, weights_only=True)
        history, best, losses = loop.history, loop.best, loop.losses
        if hardware.devices > 1 and last is not None:
            kept = read(last)["misoxr"]
            history, best, losses = kept["history"], kept["best"], kept["losses"]
    if len(held) == 0:
        if not best or not all(bool(values.isfinite().all()) for values in best.values()):
            raise SpecError(f"Training diverged: weights are not finite. Lower learning_rate ({recipe.learning_rate}).")
        return Result(best, history, recipe.max_epochs - 1, losses)
    if not best:
        found = [epoch["loss"] for epoch in history]
        raise SpecError(f"Training diverged: the validation loss was {found}. Lower learning_rate ({recipe.learning_rate}).")
    return Result(best, history, _best(history, recipe), losses)


def steps_of(recipe: Recipe, points: int, devices: int) -> int:
    """Return the steps of an epoch on each device: so many in all, or as many as show about all points."""
    if recipe.steps:
        return math.ceil(recipe.steps / (recipe.max_epochs * devices))
    return math.ceil(points / (recipe.batch_size * (1 - recipe.unlabelled) * devices))


def _devices(hardware: Hardware) -> Any:
    index = torch.device(hardware.device).index
    return [index] if hardware.devices == 1 and index is not None else hardware.devices


def standardised(data: TrainingWindows, points: Integers) -> dict[str, Standardisation]:
    """Fit how the labels of each regression are learnt on some of the points, so that their units do not count."""
    regressions = [task for task in data.spec.tasks if task.kind == "regression"]
    labels = {task.name: learnt(task, torch.from_numpy(data.labelled.labels[task.name][points])) for task in regressions}
    return {name: Standardisation.fit(values.numpy()) for name, values in labels.items()}


def centre(network: Miso, tasks: Sequence[Task]) -> None:
    """Let the heads of regressions begin at the mean of the labels, which is 0 as they are learnt."""
    branches = [branch for name in ("heads", "location_heads") if (branch := getattr(network, name, None)) is not None]
    for head in (branch[task.name] for branch in branches for task in tasks if task.kind == "regression"):
        for one in head.members if isinstance(head, Members) else [head]:
            nn.init.zeros_(one[-1].bias)  # type: ignore[index]


def _weights(data: TrainingWindows, points: Integers, recipe: Recipe, seed: int) -> dict[str, Tensor]:
    """Return, where asked, the weights of classes: 1/share, as often as their labels are met, with a mean of 1 (0 without a label)."""
    weights: dict[str, Tensor] = {}
    if recipe.class_weight != "balanced":
        return weights
    for name, shares in data.shares(points, draw_of(recipe), seed).items():
        inverse = np.where(shares > 0, 1 / np.maximum(shares, 1e-12) / (shares > 0).sum(), 0.0)
        weights[name] = torch.from_numpy(inverse.astype("float32"))
    return weights
