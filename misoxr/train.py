"""Supervised training on labelled points of a datacube: all tasks at once, labels missing where unknown."""

import copy
import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, IterableDataset

from misoxr._version import __version__
from misoxr.cube import check, named
from misoxr.errors import BandError, MisoxrWarning, PointsError, SpecError, require
from misoxr.folds import separate
from misoxr.grid import geobox_of
from misoxr.model.checkpoint import Model
from misoxr.model.inference import choose_device
from misoxr.model.losses import total_loss
from misoxr.model.miso import Miso
from misoxr.model.published import load_backbone
from misoxr.points import read_points
from misoxr.samples import Batch, Integers, Labelled, Windows, read_samples
from misoxr.scaling import Scaling, stack, valid_pixels
from misoxr.spec import COVARIATES, PERMAFROST, SENTINEL2, TAXONOMY, LocationSpec, ModelSpec, Task

require("pytorch_lightning", "train")
import pytorch_lightning as lightning  # noqa: E402

__all__ = ["fit", "spec_for"]


def spec_for(name: str, ds: xr.Dataset, points: gpd.GeoDataFrame) -> ModelSpec:
    """Build a preset for a cube and points at hand.

    The preset takes those of its default bands that the cube has, the tasks that the points have columns for, the cube's
    pixel size, and the cube's extent for locations.

    Raises
    ------
    SpecError
        If the cube has none of the bands, or the points none of the tasks.
    """
    geobox = geobox_of(ds)
    known = {band.name for band in (*SENTINEL2, *COVARIATES)}
    unused = [str(name) for name, array in ds.data_vars.items() if name not in known and array.dtype.kind == "f"]
    if unused:
        warnings.warn(
            f"{unused} are none of a preset's bands {sorted(known)} and are not used. Rename them, or give a ModelSpec with bands "
            "of your own: misoxr.ModelSpec.preset(name, cov=[...]).",
            MisoxrWarning,
            stacklevel=3,
        )
    tasks = [task for task in (PERMAFROST, TAXONOMY) if task.name in points]
    if not tasks:
        raise SpecError(
            f"The points have columns {list(points.columns)} and none named 'permafrost' or 'taxonomy'; name the labels with "
            "misoxr.read_points(..., labels={'permafrost': column}), or give a ModelSpec with tasks of your own."
        )
    bounds = geobox.boundingbox
    extent = (float(bounds.left), float(bounds.bottom), float(bounds.right), float(bounds.top))
    return ModelSpec.preset(
        name,
        sat=[band for band in SENTINEL2 if band.name in ds],
        cov=[band for band in COVARIATES if band.name in ds],
        tasks=tasks,
        pixel_size=abs(float(geobox.affine.a)),
        location=LocationSpec(str(geobox.crs), extent),
    )


@dataclass(frozen=True)
class Settings:
    """How the loop runs; kept in the checkpoint's record."""

    max_epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    noise: float
    ema: float
    seed: int

    def __post_init__(self) -> None:
        for name in ("max_epochs", "patience", "batch_size"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        if not self.learning_rate > 0:
            raise SpecError(f"learning_rate is {self.learning_rate}; it must be positive.")
        for name in ("label_smoothing", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise SpecError(f"{name} is {getattr(self, name)}; it must be at least 0 and less than 1.")


def fit(
    ds: xr.Dataset,
    spec: ModelSpec | str,
    points: gpd.GeoDataFrame,
    *,
    val: float | gpd.GeoDataFrame = 0.2,
    max_epochs: int = 20,
    patience: int = 5,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.05,
    label_smoothing: float = 0.05,
    noise: float = 0.03,
    ema: float = 0.98,
    seed: int = 0,
    pretrained: Mapping[str, str | os.PathLike[str]] | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Model:
    """Train a model on labelled points of a datacube, and return it at its best epoch.

    Windows around the points are read from the cube once. A step takes windows around points drawn with weight
    1/sqrt(class count), moved by up to a quarter window and mirrored east to west, and queries every training point in
    them. The epoch with the least loss on a spatially separate validation set is kept.

    Parameters
    ----------
    ds : Dataset
        The cube, as for :func:`misoxr.predict.predict`; lazy or not.
    spec : ModelSpec or str
        A specification, or the name of a preset, which is then built for the cube and the points (:func:`spec_for`).
    points : GeoDataFrame
        As :func:`misoxr.points.read_points` takes them; label columns are named after tasks. Points without valid imagery
        are left out with a warning.
    val : float or GeoDataFrame, optional
        Fraction of points held out for validation in whole spatial blocks of four windows, or the validation points.
    max_epochs : int, optional
        Epochs; in one, as many windows are seen as there are training points.
    patience : int, optional
        Epochs without a lesser loss on the validation set after which training ends.
    batch_size : int, optional
        Windows a step.
    learning_rate, weight_decay : float, optional
        Of AdamW; one cycle with warm-up and cosine decay.
    label_smoothing : float, optional
        Share of a label's weight that is spread over all classes.
    noise : float, optional
        Standard deviation of the noise added to scaled inputs.
    ema : float, optional
        Decay of the moving average of the weights that is validated and returned.
    seed : int, optional
        Seed of weights, windows and validation blocks: the same seed gives the same model on the same machine.
    pretrained : mapping of str to str or path, optional
        Weights to begin with, by modality: a path or URL of a SatlasPretrain Swin-V2 or SimMIM Swin, for backbones of that kind
        (:func:`misoxr.model.published.load_backbone`). The first layer is taken where it fits the bands.
    device : str, optional
        A torch device; "auto" takes CUDA where there is one.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    Model

    Raises
    ------
    BandError, GridError
        If the cube does not fit the specification, or is empty around the points.
    PointsError
        If no point lies in the cube or carries a label, or a label is not a class of its task.
    SpecError
        If a setting is out of range, or training diverges.

    Notes
    -----
    Trained by pytorch-lightning. The recipe is this package's, not the paper's: it trains small models from scratch.
    """
    settings = Settings(max_epochs, patience, batch_size, learning_rate, weight_decay, label_smoothing, noise, ema, seed)
    points = read_points(points)
    spec = spec_for(spec, ds, points) if isinstance(spec, str) else spec
    if not spec.modalities:
        raise SpecError(f"Model {spec.name!r} has no modality to train; give one with bands, such as a preset.")
    ds = named(ds, spec)
    geobox, target = check(ds, spec), choose_device(device)
    labelled = Labelled.of(points, spec, geobox)
    held = None if isinstance(val, float | int) else Labelled.of(read_points(val), spec, geobox)
    both = labelled if held is None else labelled.joined(held)
    samples = read_samples(stack(ds, spec), both.rows, both.columns, spec.windows.size)
    # A point without imagery would teach a label of nothing; the map has no value there either.
    seen = valid_pixels(spec, samples.values())
    if not seen.any():
        raise BandError(f"None of the {len(seen)} points lies where the cube has a valid pixel; give a cube with data there.")
    if not seen.all():
        words = f"{(~seen).sum()} of {len(seen)} points lie where the cube has no valid imagery, and are left out."
        warnings.warn(words, MisoxrWarning, stacklevel=3)
    mask = np.arange(len(both)) >= len(labelled)
    labelled, samples, mask = both.only(seen), samples.only(seen), mask[seen]
    if held is None:
        mask = separate(labelled.xy, fraction=float(val), size=4 * spec.windows.size * spec.pixel_size, seed=seed)
    scaling = Scaling.fit(spec, samples.pixels(200_000, np.random.default_rng(seed)))
    data = Windows(spec, scaling, samples, labelled, geobox)
    train, held_out = np.flatnonzero(~mask), np.flatnonzero(mask)
    if not len(train) or not len(held_out):
        raise PointsError(f"There are {len(train)} training and {len(held_out)} validation points; both are needed. Change val.")
    with _seeded(seed):
        network = Miso(spec)
        stems = _pretrain(network, spec, pretrained or {})
        steps, checks = _Steps(data, train, settings), _Checks(data, held_out)
        record = _run(network, steps, checks, settings, target, progress=progress)
    record |= {
        "pretrained": {name: {"source": os.fspath(source), "stem": stems[name]} for name, source in (pretrained or {}).items()}
    }
    record |= {"points": len(train), "validation_points": len(held_out), "misoxr_version": __version__}
    return Model(spec, scaling, network.cpu(), record | _simulated(ds, points))


def _pretrain(network: Miso, spec: ModelSpec, sources: Mapping[str, str | os.PathLike[str]]) -> dict[str, bool]:
    """Fill backbones with weights that were trained elsewhere, and return by modality whether the first layer was taken."""
    modalities = {modality.name: modality for modality in spec.modalities}
    unknown = sorted(sources.keys() - modalities.keys())
    if unknown:
        raise SpecError(f"pretrained names {unknown}; the model's modalities are {sorted(modalities)}.")
    return {name: load_backbone(network.encoders[name], modalities[name], source) for name, source in sources.items()}  # type: ignore[arg-type]


def _simulated(ds: xr.Dataset, points: gpd.GeoDataFrame) -> dict[str, Any]:
    """Return the mark of simulated imagery or labels, and the simulator's version."""
    columns = {name: points[name].iloc[0] for name in ("simulated", "simulator_version") if name in points}
    marks = {**columns, **points.attrs, **ds.attrs}
    if not marks.get("simulated"):
        return {}
    version = marks.get("simulator_version")
    return {"simulated": 1} | ({"simulator_version": str(version)} if version else {})


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


class _Steps(IterableDataset[Batch]):
    """An epoch of training batches; epochs continue one random stream."""

    def __init__(self, data: Windows, points: Integers, settings: Settings) -> None:
        self.data, self.points, self.settings = data, points, settings
        self.weights = data.balance(points)
        self.rng = np.random.default_rng(settings.seed)

    def __len__(self) -> int:
        return max(1, math.ceil(len(self.points) / self.settings.batch_size))

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(len(self)):
            yield self.data.draw(self.points, self.weights, self.settings.batch_size, self.rng)


class _Checks(IterableDataset[Batch]):
    """The validation batches, always the same."""

    def __init__(self, data: Windows, points: Integers, size: int = 32) -> None:
        self.data, self.points, self.size = data, points, size

    def __len__(self) -> int:
        return math.ceil(len(self.points) / self.size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.points), self.size):
            yield self.data.centred(self.points[start : start + self.size])


class _Loop(lightning.LightningModule):
    """The steps of training and validation, and the weights of the best epoch."""

    def __init__(self, network: Miso, tasks: tuple[Task, ...], settings: Settings, steps: int) -> None:
        super().__init__()
        self.network, self.tasks, self.settings = network, tasks, settings
        self.total_steps = steps * settings.max_epochs
        self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.ema), use_buffers=True)
        self.losses: list[tuple[float, int]] = []
        self.history: list[float] = []
        self.best: dict[str, Tensor] = {}

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Loss of the visual and the location head on noisy windows."""
        inputs = {name: values + self.settings.noise * torch.randn_like(values) for name, values in batch["inputs"].items()}
        loss = self.visual_loss(self.network, inputs, batch, self.settings.label_smoothing)
        if "location" not in batch:
            return loss
        logits = self.network.locate(batch["location"])
        return loss + total_loss(self.tasks, logits, batch["labels"], self.settings.label_smoothing)

    def visual_loss(self, network: Any, inputs: Mapping[str, Tensor], batch: Batch, smoothing: float = 0.0) -> Tensor:
        """Loss of the visual head."""
        logits = network(network.project(inputs), batch["sample"], batch["points"])
        return total_loss(self.tasks, logits, batch["labels"], smoothing)

    def on_train_batch_end(self, *_: Any) -> None:
        """Follow the weights with their moving average."""
        self.average.update_parameters(self.network)

    def validation_step(self, batch: Batch, _: int) -> None:
        """Loss of the averaged weights."""
        loss = self.visual_loss(self.average.module, batch["inputs"], batch)
        self.losses.append((float(loss), len(batch["sample"])))

    def on_validation_epoch_end(self) -> None:
        """Keep the averaged weights where they are the best so far."""
        self.history.append(sum(loss * count for loss, count in self.losses) / sum(count for _, count in self.losses))
        self.losses.clear()
        self.log("val_loss", self.history[-1], prog_bar=True)
        if self.history[-1] <= min((loss for loss in self.history if math.isfinite(loss)), default=-math.inf):
            self.best = copy.deepcopy(self.average.module.state_dict())
        losses = [loss if math.isfinite(loss) else math.inf for loss in self.history]
        self.trainer.should_stop = len(losses) - 1 - losses.index(min(losses)) >= self.settings.patience

    def configure_optimizers(self) -> Any:
        """AdamW in one cycle."""
        rate = self.settings.learning_rate
        optimiser = torch.optim.AdamW(self.network.parameters(), rate, weight_decay=self.settings.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=self.total_steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's notes on devices and products, and its advice on workers: windows are cut in this process on purpose."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            yield
    finally:
        logger.setLevel(level)


def _run(network: Miso, steps: _Steps, checks: _Checks, settings: Settings, device: str, *, progress: bool) -> dict[str, Any]:
    """Train the network in place, leave it at its best epoch, and return the record."""
    with _quiet():
        loop = _Loop(network, steps.data.spec.tasks, settings, len(steps))
        trainer = lightning.Trainer(
            accelerator="gpu" if device.startswith("cuda") else "cpu",
            devices=[torch.device(device).index or 0] if device.startswith("cuda") else 1,
            max_epochs=settings.max_epochs,
            gradient_clip_val=1.0,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress,
        )
        trainer.fit(loop, DataLoader(steps, batch_size=None), DataLoader(checks, batch_size=None))
    if not loop.best:
        raise SpecError(
            f"Training diverged: the validation loss was {loop.history}. Lower learning_rate ({settings.learning_rate})."
        )
    network.load_state_dict(loop.best)
    return {"settings": asdict(settings), "best_epoch": int(np.nanargmin(loop.history)), "validation_loss": loop.history}
