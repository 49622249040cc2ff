"""Train a network on labelled points of a datacube: checks, windows, validation blocks, the loop, and calibration."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr._version import __version__
from misoxr.cube.check import check, check_dataset, named
from misoxr.cube.cutouts import PointCutouts, read_cutouts
from misoxr.cube.presets import lacking, of_tasks, spec_for
from misoxr.cube.scaling import Scaling, note_counts, valid_pixels
from misoxr.errors import SpecError, flush, gathered, note
from misoxr.estimators.baselines import Transfers, embeds, is_baseline
from misoxr.estimators.embedded import EmbeddedModel
from misoxr.estimators.fitting import fit_estimator, refuse_unseen
from misoxr.estimators.pixel_model import PixelModel
from misoxr.grid.geobox import locations
from misoxr.model.calibration import Calibration, fit_temperature
from misoxr.model.checkpoint import Model
from misoxr.model.files import fetch, read_state
from misoxr.model.inference import logits_at
from misoxr.model.network import Miso
from misoxr.model.pretrained import Pretrained, encoders_of
from misoxr.model.published import load_backbone
from misoxr.paths import expanded
from misoxr.points.censoring import Censored, check_censored
from misoxr.points.labelled import Labelled
from misoxr.points.read import read_points, simulated
from misoxr.points.years import Years
from misoxr.records.bars import Bar, spoken
from misoxr.spec import ModelSpec, Task
from misoxr.spec.components import check_flags
from misoxr.spec.numbers import is_number
from misoxr.training.batches import draw_of
from misoxr.training.embedded import fit_embedded
from misoxr.training.loop import centre, run, standardised
from misoxr.training.members import resampled
from misoxr.training.runs import FIT, ONE_AT_A_TIME, begin, file_hash, seeded
from misoxr.training.settings import check_held, check_room, described, held_out, prepared
from misoxr.training.teaching import anywhere, names_of, taught, teachers_of
from misoxr.training.windows import TrainingWindows

__all__ = ["fit", "spec_for"]


@gathered
def fit(
    ds: xr.Dataset,
    estimator: Any,
    points: gpd.GeoDataFrame,
    *,
    tasks: Sequence[str | Task] | None = None,
    val: float | gpd.GeoDataFrame | None = None,
    seed: int = 0,
    teacher: Any = "auto",
    transfer: Transfers = "auto",
    censored: Censored = "drop",
    tolerance: int | None = None,
    members: int | None = None,
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
) -> Model | PixelModel | EmbeddedModel:
    """Train a model or a baseline on labelled points of a datacube.

    Windows around the points are read from the cube once, chunk by chunk, to a temporary file. A training step takes windows around
    points drawn at random and queries the labelled points in them. Some points, in blocks apart from the others, validate the model; a
    temperature for each task is fitted on them, so that probabilities are calibrated.

    A small network has a teacher: an estimator is fitted to the training points, and answers pixels of the whole cube. The network learns these
    answers beside the few labels, which alone it would remember. It sees more than its teacher.

    Parameters
    ----------
    ds : Dataset
        The cube, as for :func:`misoxr.mapping.predict.predict`; lazy or not, of any size. Or yearly composites: bands over (time, y, x) with
        one time in each year. Points then need a date, and are seen in the composite of the nearest year.
    estimator : ModelSpec, str, Baseline or scikit-learn estimator
        What to fit. A preset's name ("miso-nano", "miso-small", "miso-base") builds a specification for the cube and the points
        (:func:`misoxr.cube.presets.spec_for`); give a :class:`misoxr.ModelSpec` to choose every part. A baseline is given by name
        ("rf-11", "rf-neighbourhood", ...), as a :class:`misoxr.estimators.baselines.Baseline` or as a scikit-learn estimator; it learns from
        all points, and of the arguments below it takes ``tasks``, ``seed``, ``transfer``, ``scaling`` and ``like``. One that sees a network's embedding
        takes those of the network that it trains.
    points : GeoDataFrame
        From :func:`misoxr.read_points`, with a column of labels for each task, named after it. Points without valid imagery are left
        out with a warning. Columns "depth" and "accuracy", in metres, are heeded: see ``censored`` and the notes.
    tasks : sequence of str or Task, optional
        What to learn, by the columns of the labels, such as ``["soc"]``: of a preset's name by default "permafrost" and "taxonomy", as far as the
        points have them; of a specification all of its tasks. See :func:`misoxr.cube.presets.spec_for` for what columns tell.
    val : float or GeoDataFrame, optional
        Share of the points that validate, in whole blocks of four by four windows; or the validation points themselves. By default 0.2 without
        a teacher. With one all points teach, since a block may hold most points of a rare class; temperatures are then those of the teacher,
        fitted on its answers at points of blocks that it was not fitted to.
    seed : int, optional
        Seed of weights, windows and validation blocks. The same seed gives the same model on the same machine, for any number of
        ``workers``.
    teacher : {"auto", None}, str, Baseline, scikit-learn estimator or list of these, optional
        What a network learns from. Several teachers are averaged. "auto" is "vote-neighbourhood" for small networks
        (:func:`misoxr.estimators.baselines.baseline`), and None for those of the published width. None: the labels themselves.
    transfer : {"auto", False}, optional
        Whether teachers and baselines also learn labels that a point's other labels tell, such as permafrost by the soil order
        (:func:`misoxr.points.transfer_labels`). Estimators learn them by their certainty; those whose ``fit`` takes no weights do not.
    censored : {"drop", "weight", "keep"}, optional
        What becomes of labels that are right-censored: "absent", by an observation that stopped above the depth that the task speaks of
        (``Task.depth``; 1 m for the preset's permafrost). "drop" leaves them out. "weight" counts each by the share of that depth that was
        seen, and judges by none of them; a network with a teacher learns a mixture of the label and the teacher's answer. "keep" takes them as
        they stand. "present" holds at any depth. A warning says how many are treated so, and how many have no depth.
    tolerance : int, optional
        Of yearly composites, the years between a point's date and its composite, at the most; 5 by default. Points that are dated farther from
        all composites, or not at all, are left out with a warning.
    members : int, optional
        Number of members, as the specification says by default (1). They share the encoders and differ in their heads. Each head has a draw of the
        training points: whole square blocks of four by four windows, as many as there are, with replacement; blocks are halved until there are
        ten. A class of which fewer than two points are drawn gets others of its points. With a teacher, each head learns from one that is
        fitted to its draw, and from the draw's labels. Without, it learns the labels of its draw, each point once, however often it was drawn.
        Maps are the mean of the members, and have the spread between them: ``<task>_std`` or ``<task>_entropy``. The encoders learn from the
        points of all members, so the spread is too small. For members that share nothing, fit with several seeds and give ``predict`` the list.
    scaling : Scaling or {"whiten", "log", "standard"}, optional
        How bands become inputs: fitted on pixels of the windows (:meth:`misoxr.cube.scaling.Scaling.fit`), "whiten" by default, or a
        scaling in hand, such as a published one. Baselines take bands as they are by default.
    like : ModelSpec, optional
        Bands and tasks of a baseline; those of a preset by default.
    pretrained : mapping of str to str or path, optional
        Weights to begin with, by modality: what :func:`misoxr.training.pretrain.pretrain` returned, for any encoder, or path or URL of a
        SatlasPretrain Swin-V2 or a SimMIM Swin, for backbones of that kind (:func:`misoxr.model.published.load_backbone`). Weights of
        ``pretrain`` bring their scaling, and another ``scaling`` is refused. Of the others, the first layer is taken over where it fits
        the bands and the scaling does not mix them, as "whiten" does.
    calibrate : bool, optional
        Fit a temperature for each task: on the validation points, with the model's answers, which are the mean where it has members; without
        validation points, with a teacher's answers.
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
        Say in a line what is done, and show one progress bar. The line is also in the model's record, as "summary".
    **settings
        Fields of :class:`misoxr.Recipe`: ``max_epochs``, ``steps``, ``patience``, ``criterion``, ``batch_size``, ``learning_rate``,
        ``min_learning_rate``, ``warmup_learning_rate``, ``warmup``, ``weight_decay``, ``clip``, ``layer_decay``,
        ``freeze``, ``label_smoothing``, ``class_weight``, ``noise``, ``dropout``, ``ema``, ``unlabelled``, ``labels``,
        ``random``, ``regular``, ``augment``, ``power`` and ``jitter``. Their defaults depend on the architecture
        (:meth:`misoxr.Recipe.of`).

    Returns
    -------
    Model, PixelModel or EmbeddedModel
        The network, with what it was trained on in ``record``; or the fitted baseline; or that of an embedding. ``predict`` takes each, and ``save`` writes it.

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
    CheckpointError
        If pretrained weights cannot be read, or do not fit the bands and the encoder.

    Notes
    -----
    A point whose accuracy is more than half a pixel is asked at four places of its disk in each step, drawn uniformly from the part of it that
    lies in the window and has valid input. The mean of the four answers, of probabilities or of values, meets the label. Teachers, baselines,
    validation and scores ask at the place as it is told.

    Training is run by pytorch-lightning. With ``unlabelled`` above 0, windows come from the whole cube. Imagery of places held out for
    testing may then be among them, though never a label; so it is with the pixels that the scaling is fitted on.

    References
    ----------
    arXiv 2506.17302 for the losses and the published recipe. Breiman 1996, "Bagging predictors", for members that learn from draws; here blocks
    are drawn.

    Examples
    --------
    >>> model = image.miso.fit("miso-nano", points, max_epochs=1, progress=False)
    >>> model.save("model.safetensors")
    >>> forest = image.miso.fit("rf-neighbourhood", points, tasks=["permafrost"])
    """
    check_dataset(ds)
    check_flags(calibrate=calibrate, resume=resume, progress=progress)
    check_censored(censored)
    if not isinstance(directory, str | os.PathLike | None):
        raise SpecError(f"directory is {directory!r}; give a path.")
    if is_baseline(estimator) or embeds(estimator):
        ours: dict[str, Any] = {
            "val": val,
            "teacher": teacher,
            "members": members,
            "pretrained": pretrained,
            "calibrate": calibrate,
            "directory": directory,
            "resume": resume,
            "device": device,
        }
        ours |= {"devices": devices, "precision": precision, "workers": workers, "progress": progress}
        ours |= {
            "tasks": tasks,
            "seed": seed,
            "scaling": scaling,
            "like": like,
            "transfer": transfer,
            "censored": censored,
            "tolerance": tolerance,
            **settings,
        }
        return (
            fit_embedded(ds, estimator, points, fit, **ours) if embeds(estimator) else fit_estimator(ds, estimator, points, **ours)
        )
    points = read_points(points)
    spec = of_tasks(estimator, tasks) if isinstance(estimator, ModelSpec) else spec_for(estimator, ds, points, tasks)
    hard: dict[str, Any] = {"device": device, "devices": devices, "precision": precision, "workers": workers}
    told = {"val": val, "teacher": teacher, "transfer": transfer, "scaling": scaling, "like": like, "pretrained": pretrained}
    spec = spec if members is None else replace(spec, members=members)
    recipe, hardware = prepared(spec, seed=seed, **told, **hard, **settings)
    seed, teachers = int(seed), teachers_of(teacher, spec, seed=int(seed) % 2**32)
    years = Years.of(named(ds, spec), spec, tolerance)
    geobox = check(years.cubes[0], spec)
    check_room(spec, geobox)
    _warn_elsewhere(spec, geobox)
    # Read once: what the record tells of is what was learnt from, and a server is not asked again.
    files = {name: fetch(source) for name, source in (pretrained or {}).items()}
    own = encoders_of(spec, pretrained or {}, files)
    labelled = Labelled.of(points, spec, geobox, censored, years=years)
    held = None
    if not (val is None or is_number(val)):
        # Nothing is learnt from validation points, and censored ones tell nothing for certain.
        judging: Censored = "keep" if censored == "keep" else "drop"
        held = Labelled.of(read_points(val), spec, geobox, judging, years=years, what="validation points")
    if held is not None:
        _warn_of_shared(labelled, held)
    both = labelled if held is None else labelled.joined(held)
    size = spec.windows.size
    # As many cutouts from anywhere as there are around points, so that both are seen equally often.
    free = 1.0 if recipe.unlabelled else 0.0
    # Nothing is locked while a cluster is asked to read, which may be busy with fits that wait for the lock.
    least = anywhere(teachers, recipe, spec, geobox)
    places = both.rows, both.columns, size
    bar = Bar(spec.name, "steps", shown=progress, stage="reading windows")
    read = read_cutouts(years.stacked(spec), *places, unlabelled=free, least=least, seed=seed, layer=both.layer, say=bar.stage)
    with bar, read as cutouts, ONE_AT_A_TIME:
        data, seen = _windows(spec, cutouts, both, geobox, scaling, own, seed)
        mask = (np.arange(len(both)) >= len(labelled))[seen]
        spared = bool(teachers) and recipe.criterion == "last" and val is None
        if held is None:
            mask = held_out(spec, data.labelled.xy, val, seed, spared=spared)
        sure = data.labelled.scored
        judged = {name: np.where(mask, sure[name], values) for name, values in data.labelled.labels.items()}
        check_held(spec, judged, mask, recipe.criterion, spared=spared)
        train, check_points = np.flatnonzero(~mask), np.flatnonzero(mask)
        draws: list[Any] = []
        if spec.members > 1:
            own_labels = {name: values[train] for name, values in data.labelled.labels.items()}
            block = 4 * spec.windows.size * spec.pixel_size  # as for validation
            draws = resampled(spec.tasks, own_labels, data.labelled.xy[train], spec.members, size=block, seed=seed)
        lessons = None
        if teachers:
            fitting = calibrate and not len(check_points)
            told_of: dict[str, Any] = {"transfer": transfer, "calibrate": fitting, "draws": draws, "say": bar.stage}
            lessons = taught(data, train, teachers, seed=seed % 2**32, **told_of)
            data = lessons.data
        elif draws:
            data = data.of_members([train[drawn] for drawn in draws])
        line = described(
            spec,
            recipe,
            names_of(teacher) if teachers else [],
            data.scaling,
            pretrained or {},
            {} if lessons is None else lessons.record,
            len(train),
            len(check_points),
            data.labelled.only(train),
            lacking(ds) if isinstance(estimator, str) else (),
        )
        bar.say(line)
        standardisation = standardised(data, train)
        with seeded(seed):
            network = Miso(spec)
            centre(network, spec.tasks)
            stems = _pretrain(network, spec, data.scaling, pretrained or {}, files, own)
            sources = {
                name: {"source": os.fspath(source), "sha256": hashlib.sha256(files[name]).hexdigest(), "stem": stems[name]}
                for name, source in (pretrained or {}).items()
            }
            run_of = {
                "recipe": asdict(recipe),
                "seed": seed,
                "hardware": [hardware.devices, hardware.precision],
                "pretrained": sources,
            }
            if lessons is not None and data.pool is not None:
                run_of["teacher"] = dict(lessons.record) | {"answers": _hash_of(data.pool.answers)}
            if standardisation:  # of a run that goes on: its heads answer in these units alone
                run_of["standardisation"] = {name: found.to_dict() for name, found in standardisation.items()}
            folder = None if directory is None else Path(expanded(directory))
            if folder is not None:
                begin(folder, _about(data, mask, run_of), FIT, resume=resume)
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
                bar=bar,
            )
        network.load_state_dict(dict(result.weights))
        shares = data.shares(train, draw_of(recipe), seed) if lessons is None else lessons.shares
        calibration: Mapping[str, Calibration] = {}
        if calibrate and lessons is not None and not len(check_points):
            calibration = lessons.calibration
        elif calibrate:
            bar.stage("calibrating")
            calibration = _calibrated(network.eval(), data, check_points, hardware.device)
        bar.end(f"epoch {result.best_epoch + 1} is the best, {spoken(bar.seconds)}" if len(check_points) else spoken(bar.seconds))
    record = {
        "summary": line,
        "recipe": json.loads(json.dumps(asdict(recipe))),  # as a checkpoint gives it back
        "seed": seed,
        "best_epoch": result.best_epoch,
        "training": result.losses,
        "validation": result.history,
        "prevalence": _prevalence(spec, shares, balanced=recipe.class_weight == "balanced"),
        "label_prevalence": _prevalence(spec, data.label_shares(train)),
        "points": len(train),
        "validation_points": len(check_points),
        "censored": dict(labelled.censored),
        "disks": int((data.labelled.radius[train] > 0).sum()),
        "years": years.counted(data.labelled.layer[train]),
        "pretrained": sources,
        "teacher": {} if lessons is None else dict(lessons.record),
        "misoxr_version": __version__,
        **simulated(ds, points),
    }
    return Model(spec, data.scaling, network.cpu(), record, calibration, standardisation)


def _warn_elsewhere(spec: ModelSpec, geobox: GeoBox) -> None:
    """Warn of a cube that lies beside the extent of the model's locations, such as Alaska, which specifications have by default."""
    if spec.location is None:
        return
    rows, columns = np.meshgrid(np.linspace(0, geobox.shape.y, 5), np.linspace(0, geobox.shape.x, 5))
    if (np.abs(locations(geobox, rows.ravel(), columns.ravel(), spec.location)) > 1 + 1e-6).any(axis=1).all():
        note(
            f"The cube lies outside the extent {spec.location.extent} ({spec.location.crs}) of the model's locations, so their encoding tells little "
            f"of it. Give the specification the cube's own: location=misoxr.spec.LocationSpec({str(geobox.crs)!r}, {tuple(round(float(edge), 3) for edge in geobox.boundingbox)})."
        )


def _windows(
    spec: ModelSpec,
    cutouts: PointCutouts,
    points: Labelled,
    geobox: GeoBox,
    scaling: Any,
    own: Mapping[str, Pretrained],
    seed: int,
) -> tuple[TrainingWindows, Any]:
    """Return the windows of points with imagery, and which of the points these are; encoders that are pre-trained have ``own`` scalings."""
    # A point without imagery would teach a label of nothing; the map has no value there either.
    seen = valid_pixels(spec, cutouts.values())
    refuse_unseen(seen)
    points, cutouts = points.only(seen), cutouts.only(seen)
    if not isinstance(scaling, Scaling):
        pixels = cutouts.pixels(200_000, np.random.default_rng(seed))
        note_counts(spec, pixels)
        scaling = Scaling.fit(spec, pixels, scaling or "whiten")
        scaling = replace(scaling, modalities={**scaling.modalities, **{name: one.scaling for name, one in own.items()}})
    return TrainingWindows(spec, scaling, cutouts, points, geobox), seen


def _warn_of_shared(points: Labelled, held: Labelled) -> None:
    """Warn of validation points that are training points: they choose the epoch, and the temperature is fitted on them."""
    shared = {tuple(place) for place in points.xy} & {tuple(place) for place in held.xy}
    if shared:
        words = f"{len(shared)} places are among both the points and the validation points, which tell nothing new then; drop them from one."
        note(words)


def _about(data: TrainingWindows, mask: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run is of: its settings, points and imagery."""
    labels = hashlib.sha256(b"".join(values.tobytes() for _, values in sorted(data.labelled.labels.items())))
    labels.update(data.labelled.xy.tobytes() + mask.tobytes())
    for values in (*(values for _, values in sorted(data.labelled.weights.items())), data.labelled.radius, data.labelled.layer):
        labels.update(values.tobytes() if values.any() else b"")
    return {
        "spec": data.spec.to_dict(),
        "scaling": data.scaling.to_dict(),
        "points": labels.hexdigest(),
        "imagery": file_hash(data.cutouts.file.path),
        "grid": repr(data.geobox),
        **settings,
    }


def _hash_of(answers: Mapping[str, Any]) -> str:
    return hashlib.sha256(b"".join(values.tobytes() for _, values in sorted(answers.items()))).hexdigest()


def _prevalence(spec: ModelSpec, shares: Mapping[str, Any], *, balanced: bool = False) -> dict[str, Any]:
    """Return the classes' shares as a record has them; alike where losses are balanced."""
    found: dict[str, Any] = {}
    for task in spec.tasks:
        if task.kind == "regression":
            continue
        share = (shares[task.name] > 0) / (shares[task.name] > 0).sum() if balanced else shares[task.name]
        found[task.name] = float(share[1]) if task.kind == "binary" else dict(zip(task.classes, share.tolist(), strict=True))
    return found


def _calibrated(network: Miso, data: TrainingWindows, held: Any, device: str) -> dict[str, Calibration]:
    """Fit each task's temperature on the validation points."""
    batches = (data.centred(held[start : start + 32]) for start in range(0, len(held), 32))
    logits = logits_at(network.to(device), ((batch["inputs"], batch["points"][:, 0]) for batch in batches), device)
    return {
        task.name: Calibration(fit_temperature(task, logits[task.name], data.labelled.scored[task.name][held]))
        for task in data.spec.tasks
        if task.kind != "regression"
    }


def _pretrain(
    network: Miso,
    spec: ModelSpec,
    scaling: Scaling,
    sources: Mapping[str, str | os.PathLike[str]],
    files: Mapping[str, bytes],
    own: Mapping[str, Pretrained],
) -> dict[str, bool]:
    """Fill encoders with weights that were trained before, and return by modality whether the first layer was taken."""
    stems: dict[str, bool] = {}
    for modality in (modality for modality in spec.modalities if modality.name in sources):
        # Whitening mixes the bands: no channel is a band that the first layer of others knows.
        mixed = scaling.modalities[modality.name].whiten is not None and modality.name not in own
        stem = False if mixed else "auto"
        name = modality.name
        source = own[name] if name in own else read_state(sources[name], files[name])
        stems[name] = load_backbone(network.encoders[name], modality, source, stem=stem)  # type: ignore[arg-type]
    return stems
