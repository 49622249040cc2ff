"""Train a network on labelled points of a datacube: checks, windows, validation blocks, the loop, and calibration."""

import hashlib
import inspect
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import torch
import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr._version import __version__
from misoxr.cube.check import check, check_dataset, named
from misoxr.cube.scaling import METHODS, Scaling, valid_pixels
from misoxr.cube.stack import stack
from misoxr.errors import GridError, PointsError, SpecError, StoreError, did_you_mean, flush, gathered, note
from misoxr.model.calibration import Calibration, fit_temperature
from misoxr.model.checkpoint import Model
from misoxr.model.files import fetch, sha256_of
from misoxr.model.inference import choose_device, choose_precision, logits_at
from misoxr.model.network import Miso
from misoxr.model.published import load_backbone
from misoxr.paths import expanded
from misoxr.points.folds import separate
from misoxr.points.read import read_points, simulated
from misoxr.spec import ModelSpec, Recipe
from misoxr.spec.components import check_flags
from misoxr.training.baselines import PixelModel, check_labels, fit_estimator, is_baseline, refuse_unseen
from misoxr.training.loop import Hardware, centre, draw_of, run, standardised
from misoxr.training.presets import spec_for
from misoxr.training.windows import Labelled, PointCutouts, TrainingWindows, read_cutouts

__all__ = ["check_held", "check_room", "fit", "held_out", "prepared", "spec_for"]

VAL = 0.2
"""Fraction of the points that is held out for validation by default."""
_ONE_AT_A_TIME = threading.Lock()
"""Trainings in one process would draw from torch's random numbers in turns, and no longer repeat themselves."""


@gathered
def fit(
    ds: xr.Dataset,
    estimator: Any,
    points: gpd.GeoDataFrame,
    *,
    val: float | gpd.GeoDataFrame | None = None,
    seed: int = 0,
    scaling: Scaling | str | None = None,
    like: ModelSpec | None = None,
    pretrained: Mapping[str, str | os.PathLike[str]] | None = None,
    calibrate: bool = True,
    directory: str | os.PathLike[str] | None = None,
    resume: bool = True,
    device: str = "auto",
    devices: int = 1,
    precision: str = "auto",
    workers: int = 0,
    progress: bool = True,
    **settings: Any,
) -> Model | PixelModel:
    """Train a model or a baseline on labelled points of a datacube.

    Windows around the points are read from the cube once, chunk by chunk, to a temporary file. A training step takes windows around
    points drawn at random and queries the labelled points in them. Some points, in blocks apart from the others, validate the model; a
    temperature for each task is fitted on them, so that probabilities are calibrated.

    Parameters
    ----------
    ds : Dataset
        The cube, as for :func:`misoxr.mapping.predict.predict`; lazy or not, of any size.
    estimator : ModelSpec, str, Baseline or scikit-learn estimator
        What to fit. A preset's name ("miso-nano", "miso-small", "miso-base") builds a specification for the cube and the points
        (:func:`misoxr.training.presets.spec_for`); give a :class:`misoxr.ModelSpec` to choose every part. A baseline is given by name
        ("rf-11", "rf-neighbourhood", ...), as a :class:`misoxr.training.baselines.Baseline` or as a scikit-learn estimator; it learns from
        all points, and of the arguments below it takes ``seed``, ``scaling`` and ``like``.
    points : GeoDataFrame
        From :func:`misoxr.read_points`, with a column of labels for each task, named after it. Points without valid imagery are left
        out with a warning.
    val : float or GeoDataFrame, optional
        Share of the points that validate, 0.2 by default, in whole blocks of four by four windows; or the validation points themselves.
    seed : int, optional
        Seed of weights, windows and validation blocks. The same seed gives the same model on the same machine, for any number of
        ``workers``.
    scaling : Scaling or {"whiten", "log", "standard"}, optional
        How bands become inputs: fitted on pixels of the windows (:meth:`misoxr.cube.scaling.Scaling.fit`), "whiten" by default, or a
        scaling in hand, such as a published one. Baselines take bands as they are by default.
    like : ModelSpec, optional
        Bands and tasks of a baseline; those of a preset by default.
    pretrained : mapping of str to str or path, optional
        Weights to begin with, by modality: path or URL of a SatlasPretrain Swin-V2 or a SimMIM Swin, for backbones of that kind
        (:func:`misoxr.model.published.load_backbone`). The first layer is taken over where it fits the bands and the scaling does
        not mix them, as "whiten" does.
    calibrate : bool, optional
        Fit a temperature for each task on the validation points.
    directory : path, optional
        Where to write logs (CSV, and TensorBoard where it is installed) and the state after each epoch.
    resume : bool, optional
        Continue a run that lies in ``directory``. The result is that of a run without a stop.
    device : str, optional
        A torch device; "auto" takes CUDA where there is one.
    devices : int, optional
        Number of devices, one process each, that share a step (DistributedDataParallel).
    precision : {"auto", "float32", "bfloat16"}, optional
        "auto" mixes bfloat16 in on CUDA, and is float32 on a CPU.
    workers : int, optional
        Processes that prepare windows; 0 prepares them in the training process.
    progress : bool, optional
        Show a progress bar.
    **settings
        Fields of :class:`misoxr.Recipe`: ``max_epochs``, ``patience``, ``criterion``, ``batch_size``, ``learning_rate``,
        ``min_learning_rate``, ``warmup_learning_rate``, ``warmup``, ``weight_decay``, ``clip``, ``layer_decay``,
        ``freeze``, ``label_smoothing``, ``class_weight``, ``noise``, ``dropout``, ``ema``, ``unlabelled``, ``labels``,
        ``random``, ``regular``, ``augment``, ``power`` and ``jitter``. Their defaults depend on the architecture
        (:meth:`misoxr.Recipe.of`).

    Returns
    -------
    Model or PixelModel
        The network, with what it was trained on in ``record``; or the fitted baseline. ``predict`` takes either, and ``save`` writes it.

    Raises
    ------
    BandError, GridError
        If the cube lacks bands, has another grid than the specification asks for, is smaller than a window, or is empty around the points.
    PointsError
        If no point lies in the cube or carries a label, a label is not a class of its task, or a task has no training labels, or labels
        of one class only.
    SpecError
        If a setting is unknown or out of range, the run in ``directory`` has other settings, or training diverges.
    StoreError
        If the temporary directory has no room for the windows, or ``directory`` cannot be read.

    Notes
    -----
    Training is run by pytorch-lightning. With ``unlabelled`` above 0, windows come from the whole cube. Imagery of places held out for
    testing may then be among them, though never a label; so it is with the pixels that the scaling is fitted on.

    References
    ----------
    arXiv 2506.17302 for the losses and the published recipe.

    Examples
    --------
    >>> model = image.miso.fit("miso-nano", points, max_epochs=1, progress=False)
    >>> model.save("model.safetensors")
    >>> forest = image.miso.fit("rf-neighbourhood", points)
    """
    check_dataset(ds)
    check_flags(calibrate=calibrate, resume=resume, progress=progress)
    if not isinstance(directory, str | os.PathLike | None):
        raise SpecError(f"directory is {directory!r}; give a path.")
    if is_baseline(estimator):
        ours = {
            "val": val,
            "pretrained": pretrained,
            "calibrate": calibrate,
            "directory": directory,
            "resume": resume,
            "device": device,
        }
        ours |= {"devices": devices, "precision": precision, "workers": workers, "progress": progress}
        return fit_estimator(ds, estimator, points, seed=seed, scaling=scaling, like=like, **ours, **settings)
    points = read_points(points)
    spec = estimator if isinstance(estimator, ModelSpec) else spec_for(estimator, ds, points)
    hard: dict[str, Any] = {"device": device, "devices": devices, "precision": precision, "workers": workers}
    recipe, hardware = prepared(spec, val=val, seed=seed, scaling=scaling, like=like, pretrained=pretrained, **hard, **settings)
    seed = int(seed)
    ds = named(ds, spec)
    geobox = check(ds, spec)
    check_room(spec, geobox)
    labelled = Labelled.of(points, spec, geobox)
    held = None if val is None or isinstance(val, Real) else Labelled.of(read_points(val), spec, geobox)
    if held is not None:
        _warn_of_shared(labelled, held)
    both = labelled if held is None else labelled.joined(held)
    size = spec.windows.size
    # As many cutouts from anywhere as there are around points, so that both are seen equally often.
    free = 1.0 if recipe.unlabelled else 0.0
    # Nothing is locked while a cluster is asked to read, which may be busy with fits that wait for the lock.
    with read_cutouts(stack(ds, spec), both.rows, both.columns, size, unlabelled=free, seed=seed) as cutouts, _ONE_AT_A_TIME:
        data, seen = _windows(spec, cutouts, both, geobox, scaling, seed)
        mask = held_out(spec, data.labelled.xy, val, seed) if held is None else (np.arange(len(both)) >= len(labelled))[seen]
        check_held(spec, data.labelled.labels, mask, recipe.criterion)
        train, check_points = np.flatnonzero(~mask), np.flatnonzero(mask)
        standardisation = standardised(data, train)
        with _seeded(seed):
            network = Miso(spec)
            centre(network, spec.tasks)
            stems = _pretrain(network, spec, data.scaling, pretrained or {})
            sources = {
                name: {"source": os.fspath(source), "sha256": sha256_of(source), "stem": stems[name]}
                for name, source in (pretrained or {}).items()
            }
            run_of = {
                "recipe": asdict(recipe),
                "seed": seed,
                "hardware": [hardware.devices, hardware.precision],
                "pretrained": sources,
            }
            if standardisation:  # of a run that goes on: its heads answer in these units alone
                run_of["standardisation"] = {name: found.to_dict() for name, found in standardisation.items()}
            folder = None if directory is None else _folder(Path(expanded(directory)), data, mask, run_of, resume=resume)
            flush()
            result = run(
                network,
                data,
                train,
                check_points,
                recipe,
                hardware,
                seed=seed,
                standardisation=standardisation,
                directory=folder,
                progress=progress,
            )
        network.load_state_dict(dict(result.weights))
        met = data.met(train, draw_of(recipe), seed)
        calibration = _calibrated(network.eval(), data, check_points, hardware.device) if calibrate else {}
    record = {
        "recipe": json.loads(json.dumps(asdict(recipe))),  # as a checkpoint gives it back
        "seed": seed,
        "best_epoch": result.best_epoch,
        "validation": result.history,
        "prevalence": _shares(data, train, met, balanced=recipe.class_weight == "balanced"),
        "label_prevalence": _shares(data, train, np.ones(len(train))),
        "points": len(train),
        "validation_points": len(check_points),
        "pretrained": sources,
        "misoxr_version": __version__,
        **simulated(ds, points),
    }
    return Model(spec, data.scaling, network.cpu(), record, calibration, standardisation)


OWN = [name for name in inspect.signature(fit).parameters if name not in ("ds", "settings")]
"""Its arguments, for who misspells one."""


def check_room(spec: ModelSpec, geobox: GeoBox) -> None:
    """Refuse a cube that is smaller than one of the network's windows: there is nothing to learn from nodata."""
    size, (height, width) = spec.windows.size, geobox.shape
    if min(height, width) < size:
        raise GridError(
            f"The cube has {height} x {width} pixels, less than a window of {spec.name!r}, {size} x {size}; give a larger cube, or a "
            "ModelSpec with smaller windows=WindowSpec(…)."
        )


def prepared(
    spec: ModelSpec,
    *,
    val: Any = None,
    seed: Any = 0,
    scaling: Any = None,
    like: Any = None,
    pretrained: Mapping[str, Any] | None = None,
    device: str = "auto",
    devices: int = 1,
    precision: str = "auto",
    workers: int = 0,
    **settings: Any,
) -> tuple[Recipe, Hardware]:
    """Return a network's recipe and hardware; refuse what is known to fail, before a cube is read."""
    if like is not None:
        raise SpecError("like gives a baseline its bands and tasks, and a network has its own; leave it out.")
    if pretrained is not None and not isinstance(pretrained, Mapping):
        raise SpecError(f"pretrained is {pretrained!r}; give the weights of each modality, such as {{'sat': path}}.")
    for name in settings.keys() - Recipe.__dataclass_fields__.keys():
        if hint := did_you_mean(name, OWN):
            raise SpecError(f"fit has no argument {name!r}.{hint}")
    recipe = Recipe.of(spec, **settings)
    _check_settings(recipe, spec, val, seed, scaling, pretrained)
    for source in (pretrained or {}).values():
        fetch(source)
    return recipe, _hardware(device, devices, precision, workers)


def _check_settings(
    recipe: Recipe, spec: ModelSpec, val: Any, seed: Any, scaling: Scaling | str | None, pretrained: Mapping[str, Any] | None
) -> None:
    names = [modality.name for modality in spec.modalities]
    if not names:
        raise SpecError(f"Model {spec.name!r} has no modality to train; give one with bands, such as a preset.")
    unknown = sorted(set(recipe.freeze) - set(names))
    if unknown:
        raise SpecError(f"freeze names {unknown}; the model's modalities are {names}.")
    if not isinstance(seed, Integral) or int(seed) < 0:
        raise SpecError(f"The seed is {seed!r}; it must be a whole number, 0 or more.")
    if isinstance(val, Real) and not 0 < float(val) < 1:
        raise PointsError(f"A validation fraction of {val:g} leaves one side empty; use one between 0 and 1.")
    if not isinstance(scaling, Scaling | str | None) or (isinstance(scaling, str) and scaling not in METHODS):
        raise SpecError(
            f"Unknown scaling {scaling!r}; use one of {METHODS}, or a Scaling in hand.{did_you_mean(str(scaling), METHODS)}"
        )
    if isinstance(scaling, Scaling):
        scaling.check(spec)
    if set(pretrained or {}) - set(names):
        raise SpecError(
            f"pretrained names {sorted(set(pretrained or {}) - set(names))}; the model's modalities are {sorted(names)}."
        )
    if recipe.criterion == "accuracy" and all(task.kind == "regression" for task in spec.tasks):
        raise SpecError("criterion='accuracy' needs a task with classes, and all are regressions; use criterion='loss'.")
    if recipe.unlabelled and not spec.losses.contrast:
        raise SpecError(
            f"unlabelled is {recipe.unlabelled} and the model has no contrast to learn from windows without labels; "
            "set unlabelled=0, or give the model losses=LossSpec(contrast=…)."
        )


def _hardware(device: str, devices: int, precision: str, workers: int) -> Hardware:
    if not all(isinstance(count, Integral) for count in (devices, workers)) or devices < 1 or workers < 0:
        raise SpecError(f"devices is {devices!r} and workers {workers!r}; use 1 or more devices, and 0 or more workers.")
    if devices > 1 and hasattr(sys, "ps1"):
        raise SpecError(
            f"devices={devices} starts processes, which an interactive session cannot; run fit in a script, or use devices=1."
        )
    target = choose_device(device)
    if precision == "float64":
        raise SpecError("Training in float64 is not supported; use precision='float32', 'bfloat16' or 'auto'.")
    kinds = {torch.float32: "32-true", torch.bfloat16: "bf16-mixed"}
    return Hardware(target, devices, kinds[choose_precision(precision, target)], workers)


def _windows(
    spec: ModelSpec, cutouts: PointCutouts, points: Labelled, geobox: GeoBox, scaling: Any, seed: int
) -> tuple[TrainingWindows, Any]:
    """Return the windows of points with imagery, and which of the points these are."""
    # A point without imagery would teach a label of nothing; the map has no value there either.
    seen = valid_pixels(spec, cutouts.values())
    refuse_unseen(seen)
    points, cutouts = points.only(seen), cutouts.only(seen)
    if not isinstance(scaling, Scaling):
        scaling = Scaling.fit(spec, cutouts.pixels(200_000, np.random.default_rng(seed)), scaling or "whiten")
    return TrainingWindows(spec, scaling, cutouts, points, geobox), seen


def held_out(spec: ModelSpec, xy: Any, val: float | None, seed: int) -> Any:
    """Return which points, (point, [x, y]), a fraction holds out for validation: whole blocks of four windows."""
    return separate(xy, fraction=VAL if val is None else float(val), size=4 * spec.windows.size * spec.pixel_size, seed=seed)


def check_held(spec: ModelSpec, labels: Mapping[str, Any], held: Any, criterion: str) -> None:
    """Refuse validation points that leave nothing to learn of a task, or by which no epoch can be chosen."""
    if held.all() or not held.any():
        raise PointsError(f"There are {(~held).sum()} training and {held.sum()} validation points; both are needed. Change val.")
    for task in spec.tasks:
        known = np.isfinite(labels[task.name])
        check_labels(task, labels[task.name][known])
        check_labels(task, labels[task.name][known & ~held], f" when {held.sum()} points are held for validation (val, seed)")
    told = [labels[task.name][held] for task in spec.tasks if task.kind != "regression"]
    if criterion == "accuracy" and not any(np.isfinite(values).any() for values in told):
        raise PointsError(
            f"None of the {held.sum()} validation points has a label of a class, by which criterion='accuracy' chooses the epoch; "
            "change val, or use criterion='loss'."
        )


def _warn_of_shared(points: Labelled, held: Labelled) -> None:
    """Warn of validation points that are training points: they choose the epoch, and the temperature is fitted on them."""
    shared = {tuple(place) for place in points.xy} & {tuple(place) for place in held.xy}
    if shared:
        words = f"{len(shared)} places are among both the points and the validation points, which tell nothing new then; drop them from one."
        note(words)


def _folder(directory: Path, data: TrainingWindows, mask: Any, settings: Mapping[str, Any], *, resume: bool) -> Path:
    """Make the directory of a run, or check that the one that lies there is of the same settings, points and imagery."""
    labels = hashlib.sha256(b"".join(values.tobytes() for _, values in sorted(data.labelled.labels.items())))
    labels.update(data.labelled.xy.tobytes() + mask.tobytes())
    run_of = {
        "spec": data.spec.to_dict(),
        "scaling": data.scaling.to_dict(),
        "points": labels.hexdigest(),
        "imagery": _file_hash(data.cutouts.file.path),
        "grid": repr(data.geobox),
        **settings,
    }
    run_of = json.loads(json.dumps(run_of))
    file, state = directory / "run.json", directory / "last.ckpt"
    if resume and file.exists() and state.exists():
        try:
            found = json.loads(file.read_text())
            torch.load(state, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises whatever it meets in what is cut off
            raise StoreError(f"The run in {directory} is damaged ({error!r}); give another directory, or resume=False.") from error
        differing = [key for key in sorted(run_of) if found.get(key) != run_of[key]]
        if differing:
            words = [f"{key}{_changes(found.get(key), run_of[key])}" for key in differing]
            raise SpecError(
                f"The run in {directory} has another {', '.join(words)}; give another directory, or resume=False to start anew."
            )
        return directory
    try:
        directory.mkdir(parents=True, exist_ok=True)
        state.unlink(missing_ok=True)
        file.with_suffix(".part").write_text(json.dumps(run_of, indent=1, sort_keys=True))
        file.with_suffix(".part").replace(file)
    except OSError as error:
        raise StoreError(f"The state of training cannot be kept in {directory} ({error}); give another directory.") from error
    return directory


def _changes(found: Any, wanted: Any) -> str:
    """Tell in what a recipe differs; nothing of what has no names."""
    if not isinstance(found, dict) or set(found) != set(wanted) or any(isinstance(value, dict) for value in wanted.values()):
        return ""
    return f" ({', '.join(f'{key} {found[key]!r} there, {wanted[key]!r} here' for key in wanted if found[key] != wanted[key])})"


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shares(data: TrainingWindows, train: Any, often: Any, *, balanced: bool = False) -> dict[str, Any]:
    """Return the classes' shares among training points, each counted so often; alike where losses are balanced."""
    shares = {}
    for task in data.spec.tasks:
        if task.kind == "regression":
            continue
        labels = data.labelled.labels[task.name][train]
        known = np.isfinite(labels)
        share: Any = np.bincount(labels[known].astype(int), often[known], minlength=len(task.classes))
        if balanced:
            share = (share > 0) * 1.0
        share = share / max(share.sum(), 1e-12)
        shares[task.name] = float(share[1]) if task.kind == "binary" else dict(zip(task.classes, share.tolist(), strict=True))
    return shares


def _calibrated(network: Miso, data: TrainingWindows, held: Any, device: str) -> dict[str, Calibration]:
    """Fit each task's temperature on the validation points."""
    batches = (data.centred(held[start : start + 32]) for start in range(0, len(held), 32))
    logits = logits_at(network.to(device), ((batch["inputs"], batch["points"][:, 0]) for batch in batches), device)
    return {
        task.name: Calibration(fit_temperature(task, logits[task.name], data.labelled.labels[task.name][held]))
        for task in data.spec.tasks
        if task.kind != "regression"
    }


def _pretrain(network: Miso, spec: ModelSpec, scaling: Scaling, sources: Mapping[str, str | os.PathLike[str]]) -> dict[str, bool]:
    """Fill backbones with weights that were trained elsewhere, and return by modality whether the first layer was taken."""
    stems: dict[str, bool] = {}
    for modality in (modality for modality in spec.modalities if modality.name in sources):
        # Whitening mixes the bands: no channel is a band that the first layer knows.
        stem = False if scaling.modalities[modality.name].whiten is not None else "auto"
        stems[modality.name] = load_backbone(network.encoders[modality.name], modality, sources[modality.name], stem=stem)  # type: ignore[arg-type]
    return stems


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
