"""Fit scikit-learn estimators on the same cube and points as the network."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import dask.array as da
import geopandas as gpd
import numpy as np
import numpy.typing as npt
import xarray as xr

from misoxr._version import __version__
from misoxr.clusters import computed
from misoxr.cube.check import check, check_dataset, named
from misoxr.cube.cutouts import read_cutouts
from misoxr.cube.features import Features, features_at
from misoxr.cube.presets import lacking, of_tasks, spec_for
from misoxr.cube.scaling import Scaling, note_counts, refuse_fill
from misoxr.errors import BandError, PointsError, gathered, note, require
from misoxr.estimators.baselines import Baseline, Transfers, check_like, idle, note_threshold, prepared_baseline
from misoxr.estimators.identity import estimators_sha256
from misoxr.estimators.pixel_model import PixelModel
from misoxr.points.censoring import Censored, scored
from misoxr.points.labelled import Labelled
from misoxr.points.read import read_points, simulated
from misoxr.points.transfer import transferred, transfers
from misoxr.points.years import Years, by_layer
from misoxr.spec import ModelSpec, Task
from misoxr.spec.standardisation import Standardisation

__all__ = ["check_labels", "fit_baseline", "fit_estimator", "fit_table", "is_balanced", "refuse_unseen"]

Floats = npt.NDArray[np.float64]
SOME = 10
"""Points that tell the range of a band, at the least."""


@gathered
def fit_estimator(
    ds: xr.Dataset,
    estimator: Any,
    points: gpd.GeoDataFrame,
    *,
    tasks: Sequence[str | Task] | None = None,
    seed: int = 0,
    scaling: Scaling | str | None = None,
    like: ModelSpec | None = None,
    transfer: Transfers = "auto",
    censored: Censored = "drop",
    tolerance: int | None = None,
    **settings: Any,
) -> PixelModel:
    """Fit an estimator as :func:`misoxr.training.fit.fit` does, which takes the same arguments; torch is not needed."""
    check_dataset(ds)
    points = read_points(points)
    if like is None:
        like = spec_for("miso-nano", ds, points, tasks)
        if settings.get("progress") is True and (absent := lacking(ds)):
            print(f"The estimator learns without {', '.join(absent)}, which the cube lacks.", flush=True)
    else:
        check_like(like)
        like = of_tasks(like, tasks)
    given = {name: value for name, value in settings.items() if not idle(name, value)}
    prepared_baseline(estimator, like, seed=seed, scaling=scaling, transfer=transfer, **given)
    labels: Any = {"transfer": transfer, "censored": censored, "tolerance": tolerance}
    return fit_baseline(ds, estimator, points, like, seed=seed, scaling=scaling, **labels)


def fit_baseline(
    ds: xr.Dataset,
    estimator: Any,
    points: gpd.GeoDataFrame,
    spec: ModelSpec,
    *,
    seed: int = 0,
    scaling: Scaling | str | None = None,
    transfer: Transfers = "auto",
    censored: Censored = "drop",
    tolerance: int | None = None,
) -> PixelModel:
    """Fit a scikit-learn estimator on labelled points of a datacube, one copy for each task.

    Parameters
    ----------
    ds : Dataset
        The cube, as for :func:`misoxr.mapping.predict.predict`.
    estimator : Baseline, str or estimator
        A baseline or its name (:func:`misoxr.estimators.baselines.baseline`), or an estimator, which then sees the pixel's values.
    points : GeoDataFrame
        As for :func:`misoxr.training.fit.fit`. Points without valid imagery are left out with a warning.
    spec : ModelSpec
        Bands and tasks; its encoders play no part.
    seed : int, optional
        Seed of everything in the estimator that takes a ``random_state``, and of the pixels that a scaling is fitted on.
    scaling : Scaling or str, optional
        Scaling of a named baseline, or one in hand.
    transfer : {"auto", False}, optional
        Whether labels that others tell are learnt, too (:func:`misoxr.points.transfer_labels`), by estimators whose ``fit`` takes weights.
    censored : {"drop", "weight", "keep"}, optional
        What becomes of labels that are right-censored (:func:`misoxr.points.censoring.observed`).
    tolerance : int, optional
        Years between the date of a point and its yearly composite (:class:`misoxr.points.years.Years`).

    Raises
    ------
    PointsError
        If a task has no label, or a classifier's task labels of one class only.
    SpecError
        If a classifier meets a regression, or a regressor classes.
    """
    chosen = prepared_baseline(estimator, spec, seed=seed, scaling=scaling, transfer=transfer)
    method = chosen.scaling if scaling is None else scaling
    points = read_points(points)
    years = Years.of(named(ds, spec), spec, tolerance)
    geobox = check(years.cubes[0], spec)
    labelled, bands = Labelled.of(points, spec, geobox, censored, years=years), years.stacked(spec)
    fitted = (
        method if isinstance(method, Scaling) else None if method == "none" else _fit_scaling(spec, bands, labelled, method, seed)
    )

    def seen_in(number: int, mine: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        places = labelled.rows[mine], labelled.columns[mine]
        (table,) = computed(features_at(cast(Features, chosen.features), fitted, spec, bands[number], geobox, *places))
        return cast(npt.NDArray[np.float32], table)

    found = by_layer(labelled.layer, seen_in)
    refuse_unseen(found[-1] > 0)
    ranges = {}
    if fitted is None and chosen.features == "pixel":  # a scaling has been fitted on the values themselves
        note_counts(spec, found[:-1, found[-1] > 0])
        for band, values in zip(spec.bands, found[:-1], strict=True):
            seen = values[found[-1] > 0]
            refuse_fill(band, seen)
            known = seen[np.isfinite(seen)]
            if len(known) >= SOME:
                ranges[band.name] = [float(end) for end in np.percentile(known, [0.1, 99.9])]
    model = fit_table(chosen, spec, found, labelled.labels, fitted, seed=seed, transfer=transfer, weights=labelled.weights)
    scaled_as = method if isinstance(method, str) else "given"
    told = {
        "name": estimator if isinstance(estimator, str) else "",
        "scaling": scaled_as,
        "ranges": ranges,
        "censored": dict(labelled.censored),
        "years": years.counted(labelled.layer),
    }
    return replace(model, record={**model.record, **told, **simulated(ds, points)})


def fit_table(
    chosen: Baseline,
    spec: ModelSpec,
    found: npt.NDArray[np.float32],
    labels: Mapping[str, Floats],
    scaling: Scaling | None,
    *,
    seed: int,
    transfer: Transfers = "auto",
    weights: Mapping[str, Floats] | None = None,
) -> PixelModel:
    """Fit a baseline on a table of features.

    Parameters
    ----------
    found : array (feature + 1, point)
        As :func:`misoxr.cube.features.features_at` has them.
    labels : mapping of str to array (point,)
        Codes or values by task, NaN where unknown.
    scaling : Scaling or None
        What the features were scaled with.
    transfer : {"auto", False}
        Whether labels that others tell are learnt, too, by their weight.
    weights : mapping of str to array (point,), optional
        What the labels of a task count, where some count less than 1. Estimators whose ``fit`` takes no weights do not learn these.

    Notes
    -----
    Regressors learn the labels themselves, as float64, so answers are those of scikit-learn on the same features. Named baselines alone learn
    them standardised.
    """
    note_threshold(chosen, spec.tasks)
    table, valid = found[:-1].T, found[-1] > 0
    table = np.where(np.isfinite(table), table, np.nan)
    with np.errstate(all="ignore"):
        fill = np.nan_to_num([np.nanmedian(column) if np.isfinite(column).any() else 0.0 for column in table[valid].T])
    table = np.where(np.isfinite(table), table, fill)
    own = {name: np.where(valid, values, np.nan) for name, values in labels.items()}
    sure = scored(own, weights or {})
    tables = transfers(spec.tasks, own, weights) if transfer else []
    filled, counts = transferred(own, tables, weights)
    estimators, standardisation, learnt = {}, {}, set()
    for task in spec.tasks:
        argument = _weight_argument(chosen.estimator_of(task))
        mine = own[task.name] if argument else sure[task.name]
        check_labels(task, mine[np.isfinite(mine)])
        values = filled[task.name] if argument else sure[task.name]
        learnt |= {task.name} if argument else set()
        known = np.isfinite(values)
        if task.kind == "regression" and chosen.standardises:
            # Units must not count: sums of squares have an end, and trees break ties by the last digits.
            standardisation[task.name] = Standardisation.fit(own[task.name][np.isfinite(own[task.name])])
            values = standardisation[task.name].apply(values).astype("float32")
        estimator = require("sklearn.base", "train").clone(chosen.estimator_of(task))
        estimator.set_params(**_params(estimator, "random_state", int(seed)))
        learnt_values = values[known] if task.kind == "regression" else values[known].astype(int)
        weighted = {}
        if argument and (counts[task.name][known] < 1).any():
            weighted[argument] = _balanced(estimator, learnt_values, counts[task.name][known])
        estimator.fit(table[known], learnt_values, **weighted)
        estimator.set_params(**_params(estimator, "n_jobs", 1))  # Dask's threads share the cores
        estimators[task.name] = estimator
    record = {
        "estimator": repr(chosen.estimator),
        "regressor": None if chosen.regressor is None else repr(chosen.regressor),
        "estimators_sha256": estimators_sha256(chosen, spec.tasks),  # words leave out parts of what is long
        "features": chosen.features,
        "scaling": chosen.scaling,
        "points": int(valid.sum()),
        "transfer": [table.to_dict() for table in tables if table.target in learnt],
        "misoxr_version": __version__,
    }
    return PixelModel(
        replace(spec, members=1),
        estimators,
        cast(Features, chosen.features),
        scaling,
        tuple(fill.tolist()),
        record,
        standardisation,
    )


def is_balanced(estimator: Any) -> bool:
    """Return whether an estimator, and all within it that can, weighs its classes alike."""
    found = [value for key, value in estimator.get_params().items() if key.rpartition("__")[2] == "class_weight"]
    return bool(found) and all(isinstance(value, str) and value == "balanced" for value in found)


def _balanced(estimator: Any, codes: npt.NDArray[Any], weights: Floats) -> Floats:
    """Return weights with which classes count alike, where an estimator is to do so: some count points, and not their weights."""
    if not is_balanced(estimator):
        return weights
    estimator.set_params(**_params(estimator, "class_weight", None))
    totals = np.bincount(codes, weights)
    share: Floats = weights * weights.sum() / ((totals > 0).sum() * totals[codes])
    return share


def _weight_argument(estimator: Any) -> str | None:
    """Return the argument of ``fit`` that takes the weights of points, also where other estimators lie within; None where there is none."""
    steps = getattr(estimator, "steps", None)
    if steps:  # a pipeline hands on what is named after its steps
        inner = _weight_argument(steps[-1][1])
        return None if inner is None else f"{steps[-1][0]}__{inner}"
    inside = [one for _, one in getattr(estimator, "estimators", None) or [] if one != "drop"]
    last = getattr(estimator, "final_estimator", None)
    if inside:  # a vote hands on what it is given, and a stack to its last estimator, too
        inside += [] if last is None else [last]
        return "sample_weight" if all(_weight_argument(one) == "sample_weight" for one in inside) else None
    has = require("sklearn.utils.validation", "train").has_fit_parameter
    return "sample_weight" if has(estimator, "sample_weight") else None


def _params(estimator: Any, name: str, value: Any) -> dict[str, Any]:
    """Return a parameter of an estimator and of those within it, as far as they have it, with a value."""
    return {key: value for key in estimator.get_params() if key == name or key.endswith(f"__{name}")}


def refuse_unseen(seen: npt.NDArray[np.bool_]) -> None:
    """Warn of points where the cube has no valid imagery, and refuse them if they are all."""
    if not seen.any():
        raise BandError(f"None of the {len(seen)} points lies where the cube has a valid pixel; give a cube with data there.")
    if not seen.all():
        words = f"{(~seen).sum()} of {len(seen)} points lie where the cube has no valid imagery, and are left out."
        note(words)


def check_labels(task: Task, labels: Floats, when: str = "") -> None:
    """Refuse labels from which nothing can be learnt: none at all, one class only, or values without a logarithm."""
    if not len(labels):
        raise PointsError(f"No point with valid imagery has a label of {task.name!r}{when}; give points with labels of every task.")
    if task.kind != "regression" and len(np.unique(labels)) < 2:
        only = task.classes[int(labels[0])]
        raise PointsError(f"All {len(labels)} labels of {task.name!r} are {only!r}{when}; give points of two classes or more.")
    info, size = np.finfo("float32"), np.abs(labels).max()
    if task.kind == "regression" and (size > info.max or 0 < size < info.tiny):
        raise PointsError(
            f"The labels of {task.name!r} reach {size:g}, and maps hold values of {info.tiny:.1g} to {info.max:.1g}; give them in other units."
        )
    if task.loss == "mse_log1p" and labels.min() <= -1:
        raise PointsError(
            f"A label of {task.name!r} is {labels.min():g}, and its loss learns log(1 + value); give values above -1, or loss='mse'."
        )


def _fit_scaling(spec: ModelSpec, bands: list[da.Array], labelled: Labelled, method: str, seed: int) -> Scaling:
    """Fit the network's scaling on the pixels that the network's would be fitted on."""
    with read_cutouts(bands, labelled.rows, labelled.columns, spec.windows.size, layer=labelled.layer) as cutouts:
        pixels = cutouts.pixels(200_000, np.random.default_rng(seed))
    note_counts(spec, pixels)
    return Scaling.fit(spec, pixels, method)
