"""Pre-train a network's encoders on unlabelled windows of a datacube: checks, windows, the loop, and the files."""

import inspect
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from odc.geo.geobox import GeoBox
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn
from torch.utils.data import DataLoader

from misoxr._version import __version__
from misoxr.cube.check import check, check_dataset, named
from misoxr.cube.cutouts import PointCutouts, read_cutouts
from misoxr.cube.presets import spec_for
from misoxr.cube.scaling import Scaling, valid_pixels
from misoxr.cube.stack import stack
from misoxr.errors import BandError, SpecError, did_you_mean, flush, gathered, note
from misoxr.model.devices import choose_device, choose_precision
from misoxr.model.network import Miso
from misoxr.model.pretrained import Pretrained
from misoxr.paths import expanded, write
from misoxr.points.read import simulated
from misoxr.records.bars import Bar
from misoxr.spec import LossSpec, ModelSpec, Pretraining
from misoxr.spec.components import check_flags
from misoxr.spec.numbers import is_whole
from misoxr.training.masking import MaskedWindows, Reconstruction, patch_of
from misoxr.training.runs import ONE_AT_A_TIME, PRETRAINING, begin, damaged, file_hash, keep, look, seeded
from misoxr.training.settings import check_room, check_scaling, check_seed

__all__ = ["pretrain"]

WINDOWS, LEAST, SIZE = 600, 200, 64
"""Cutouts that are read where windows have so many pixels a side; fewer of larger windows, but no less than the second number."""
COVER = 4
"""The most cutouts, in cutouts that would tile the cube."""
WARMUP, BEGIN, END = 0.2, 0.04, 0.001
"""Share of the steps with a rising learning rate; the first and the last rate, in shares of the greatest."""
CLIP = 1.0
"""Norm to which gradients are clipped."""


@gathered
def pretrain(
    ds: xr.Dataset,
    spec: ModelSpec | str,
    directory: str | os.PathLike[str],
    *,
    windows: int | None = None,
    scaling: Scaling | str | None = None,
    seed: int = 0,
    resume: bool = True,
    device: str = "auto",
    precision: str = "auto",
    workers: int = 0,
    progress: bool = True,
    **settings: Any,
) -> dict[str, Path]:
    """Pre-train a network's encoders on unlabelled windows of a datacube.

    Random patches of a window are masked. Each encoder predicts the bands of its own modality there, and those of the other modalities. It so
    learns what the landscape looks like from all of the cube, and no label is needed. ``fit(pretrained=...)`` begins with these encoders.

    Parameters
    ----------
    ds : Dataset
        The cube, as for :func:`misoxr.mapping.predict.predict`; lazy or not, of any size.
    spec : ModelSpec or str
        The model. A preset's name ("miso-nano", "miso-small", "miso-base") builds a specification for the cube. ``fit`` builds the same encoders
        for it from that name.
    directory : path
        Where the state of the run and the encoders go.
    windows : int, optional
        Places that are read from anywhere in the cube, each twice a window's side. By default 600 where windows have 64 pixels a side, and
        fewer of larger windows, but no less than 200; never more than cover the cube four times.
    scaling : Scaling or {"whiten", "log", "standard"}, optional
        How bands become inputs, as for ``fit``. The encoders keep it, and ``fit`` takes it from them.
    seed : int, optional
        Seed of weights, windows and masks. The same seed gives the same encoders on the same machine, for any number of ``workers``.
    resume : bool, optional
        Continue a run that lies in ``directory``. The result is that of a run without a stop.
    device : str, optional
        A torch device; "auto" takes CUDA where there is one.
    precision : {"auto", "float32", "bfloat16"}, optional
        "auto" mixes bfloat16 in on CUDA, and is float32 on a CPU.
    workers : int, optional
        Processes that prepare windows; 0 prepares them in the training process.
    progress : bool, optional
        Show a progress bar.
    **settings
        Fields of :class:`misoxr.spec.Pretraining`: ``steps``, ``batch_size``, ``learning_rate``, ``weight_decay``, ``share``, ``patch``,
        ``points``, ``cross``, ``augment`` and ``every``.

    Returns
    -------
    dict of str to Path
        By modality, the file of its encoder, for ``fit(pretrained=...)``. Modalities of which the cube has no band are left out. :class:`misoxr.model.pretrained.Pretrained` reads it.

    Raises
    ------
    BandError, GridError
        If the cube lacks bands, has another grid than the specification asks for, is smaller than a window, or no window holds valid pixels.
    SpecError
        If a setting is unknown or out of range, the run in ``directory`` is of other settings or another cube, or training diverges.
    StoreError
        If the temporary directory has no room for the windows, or ``directory`` cannot be read or written.

    Warns
    -----
    MisoxrWarning
        If the cube lacks optional bands. A modality without any is not pre-trained.

    Notes
    -----
    Windows are read once, chunk by chunk, to a temporary file. Imagery of places that are held out for testing may be among them; no label is.

    References
    ----------
    Xie et al. 2022, SimMIM: A Simple Framework for Masked Image Modeling, with which arXiv 2506.17302 pre-trains on covariates.

    Examples
    --------
    >>> weights = image.miso.pretrain("miso-nano", "runs/encoders", steps=2, progress=False)
    >>> model = image.miso.fit("miso-nano", points, pretrained=weights, steps=2, progress=False)
    """
    check_dataset(ds)
    check_flags(resume=resume, progress=progress)
    spec = spec if isinstance(spec, ModelSpec) else spec_for(spec, ds)
    chosen = _checked(spec, directory, windows, scaling, seed, workers, settings)
    device = choose_device(device)
    if precision == "float64":
        raise SpecError("Training in float64 is not supported; use precision='float32', 'bfloat16' or 'auto'.")
    kind, seed = choose_precision(precision, device), int(seed)
    ds, whole = named(ds, spec), spec.modalities
    geobox = check(ds, spec)
    check_room(spec, geobox)
    spec, scaling = _present(ds, spec, scaling)
    count = _count(spec, geobox) if windows is None else int(windows)
    folder = Path(expanded(directory))
    with ONE_AT_A_TIME, seeded(seed):
        network = Miso(spec)
        learner = Reconstruction(network, spec)
    chosen = replace(chosen, patch=chosen.patch or patch_of(network, spec))
    about = {"settings": asdict(chosen), "seed": seed, "windows": count}
    run_of = {**about, "model": _model_of(spec), "precision": str(kind), "grid": repr(geobox)}
    if isinstance(scaling, Scaling):
        run_of["scaling"] = scaling.to_dict()
    look(folder, run_of, PRETRAINING, resume=resume)  # what is known to fail is told before the imagery is read
    bar = Bar(f"pretrain {spec.name}", "steps", shown=progress, stage="reading windows")
    read = read_cutouts(stack(ds, spec), [], [], spec.windows.size, least=count, seed=seed, say=bar.stage)
    with bar, read as cutouts, ONE_AT_A_TIME:
        useful = _useful(spec, cutouts)
        if not isinstance(scaling, Scaling):
            scaling = Scaling.fit(spec, cutouts.pixels(200_000, np.random.default_rng(seed)), scaling or "whiten")
        run_of |= {"scaling": scaling.to_dict(), "imagery": file_hash(cutouts.file.path)}
        state = begin(folder, run_of, PRETRAINING, resume=resume, old=tuple(_file_of(modality.name) for modality in whole))
        flush()
        data = MaskedWindows(spec, scaling, cutouts, useful, chosen, seed)
        with seeded(seed):
            losses = _train(learner, data, folder, state, device, kind, int(workers), bar)
    record = {**about, "losses": losses, "misoxr_version": __version__, **simulated(ds, pd.DataFrame())}
    return _saved(network, spec, scaling, record, folder)


ARGUMENTS = [name for name in inspect.signature(pretrain).parameters if name not in ("ds", "settings")]
"""Its arguments beside the settings, for who misspells one."""


def _checked(
    spec: ModelSpec, directory: Any, windows: Any, scaling: Any, seed: Any, workers: Any, settings: Mapping[str, Any]
) -> Pretraining:
    """Return the settings; refuse what is known to fail, before a cube is read."""
    if not spec.modalities:
        raise SpecError(f"Model {spec.name!r} has no modality to pre-train; give one with bands, such as a preset.")
    if not isinstance(directory, str | os.PathLike):
        raise SpecError(f"directory is {directory!r}; give a path.")
    if windows is not None and not (is_whole(windows) and windows >= 1):
        raise SpecError(f"windows is {windows!r}; give a whole number, 1 or more, or leave it out.")
    if not is_whole(workers) or workers < 0:
        raise SpecError(f"workers is {workers!r}; use 0 or more.")
    check_seed(seed)
    check_scaling(scaling, spec)
    own = [field.name for field in fields(Pretraining)]
    for name in settings.keys() - set(own):
        if hint := did_you_mean(name, [*own, *ARGUMENTS]):
            raise SpecError(f"pretrain has no argument {name!r}.{hint}")
    return Pretraining.of(spec, **settings)


def _count(spec: ModelSpec, geobox: GeoBox) -> int:
    """Return how many cutouts are read by default."""
    size = spec.windows.size
    tiles = math.prod(math.ceil(length / (2 * size)) for length in geobox.shape)
    return min(max(LEAST, math.ceil(WINDOWS * min(1.0, (SIZE / size) ** 2))), COVER * tiles)


def _present(ds: xr.Dataset, spec: ModelSpec, scaling: Any) -> tuple[ModelSpec, Any]:
    """Leave modalities out of which the cube has no band, since their encoders would learn nothing."""
    kept = tuple(one for one in spec.modalities if any(band.name in ds.data_vars for band in one.bands))
    absent = [one.name for one in spec.modalities if one not in kept]
    if not kept:
        raise BandError(f"The dataset has no band of {absent}; join imagery with ds.miso.add.")
    if absent:
        note(
            f"The dataset has no band of {absent}, whose encoders are not pre-trained and not returned. Join the bands with ds.miso.add."
        )
        spec = replace(spec, modalities=kept, losses=LossSpec())
        if isinstance(scaling, Scaling):
            scaling = Scaling({one.name: scaling.modalities[one.name] for one in kept})
    return spec, scaling


def _useful(spec: ModelSpec, cutouts: PointCutouts) -> Any:
    """Return the cutouts that hold a valid pixel; refuse a modality that has none in any of them."""
    useful, seen = np.zeros(len(cutouts.file), dtype=bool), np.zeros(len(spec.bands), dtype=bool)
    for cutout, bands in enumerate(cutouts.file.open()):
        valid = valid_pixels(spec, bands)
        useful[cutout] = valid.any()
        seen |= np.isfinite(bands[:, valid]).any(axis=1)
    if not useful.any():
        raise BandError(f"None of the {len(useful)} windows holds a valid pixel; give a cube with data, or more windows.")
    at = 0
    for modality in spec.modalities:
        if not seen[at : at + len(modality.bands)].any():
            raise BandError(
                f"None of the {len(useful)} windows holds a valid value of {modality.name!r}, whose encoder would learn nothing; give more windows, "
                "or leave its bands out of the cube."
            )
        at += len(modality.bands)
    return np.flatnonzero(useful)


def _model_of(spec: ModelSpec) -> dict[str, Any]:
    """Return what encoders depend on: neither tasks, nor locations, nor losses."""
    whole = spec.to_dict()
    return {name: whole[name] for name in ("modalities", "pixel_size", "width", "query")} | _sides_of(spec)


def _sides_of(spec: ModelSpec) -> dict[str, int]:
    return {name: getattr(spec.windows, name) for name in ("size", "input_size")}


def _file_of(modality: str) -> str:
    return f"{modality}.safetensors"


def _train(
    network: Reconstruction,
    data: MaskedWindows,
    folder: Path,
    state: Mapping[str, Any] | None,
    device: str,
    precision: torch.dtype,
    workers: int,
    bar: Bar,
) -> list[dict[str, float]]:
    """Train from a state on, or from the beginning, and return the mean losses of each part of the run."""
    settings, kind = data.settings, device.split(":")[0]
    network.to(device).train()
    optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    schedule = _schedule(optimiser, settings)
    done, history = 0, []
    if state is not None:
        try:
            network.load_state_dict(state["network"])
            optimiser.load_state_dict(state["optimiser"])
            done, history = int(state["step"]), list(state["losses"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise damaged(folder, f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}") from error
    loader = DataLoader(data, batch_size=None, sampler=range(done, settings.steps), num_workers=workers)
    sums: dict[str, Any] = {}
    bar.begin(settings.steps, done)
    for step, batch in enumerate(loader, start=done):
        # Dropout goes by the step, so that a resumed run goes on as it would have.
        torch.manual_seed(int(np.random.SeedSequence([data.seed, step]).generate_state(1)[0]))
        schedule.step_update(step)
        with torch.autocast(kind, torch.bfloat16, enabled=precision == torch.bfloat16):
            losses = network({part: {name: value.to(device) for name, value in of.items()} for part, of in batch.items()})
        optimiser.zero_grad()
        (losses["masked"] + settings.cross * losses["crossed"]).backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimiser.step()
        sums = {name: sums.get(name, 0.0) + value.detach() for name, value in losses.items()}
        bar.update()
        if (step + 1) % settings.every and step + 1 < settings.steps:
            continue
        length = step % settings.every + 1
        means = {name: float(value) / length for name, value in sums.items()}
        if not all(map(math.isfinite, means.values())):
            raise SpecError(
                f"Pre-training diverged before step {step + 1}: {means}. Lower learning_rate ({settings.learning_rate})."
            )
        history, sums = [*history, {"step": step + 1, **means}], {}
        bar.tell(", ".join(f"{name} {value:.3g}" for name, value in means.items()))
        kept = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1, "losses": history}
        keep(folder, PRETRAINING, kept)
    return history


def _schedule(optimiser: torch.optim.Optimizer, settings: Pretraining) -> CosineLRScheduler:
    rising = int(WARMUP * settings.steps)
    return CosineLRScheduler(
        optimiser,
        t_initial=settings.steps - rising,
        lr_min=END * settings.learning_rate,
        warmup_t=rising,
        warmup_lr_init=BEGIN * settings.learning_rate,
        warmup_prefix=True,
        t_in_epochs=False,
    )


def _saved(network: Miso, spec: ModelSpec, scaling: Scaling, record: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Write each encoder beside the run's state."""
    found = {}
    for modality in spec.modalities:
        weights = network.encoders[modality.name].state_dict()
        own = scaling.modalities[modality.name]
        one = Pretrained(modality, spec.width, spec.query, own, spec.pixel_size, _sides_of(spec), weights, record)
        found[modality.name] = folder / _file_of(modality.name)
        write(found[modality.name], one.to_bytes())
    return found
