"""Baselines: fit scikit-learn estimators on the same cube and points as the network."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

import dask.array as da
import geopandas as gpd
import numpy as np
import numpy.typing as npt
import xarray as xr

from misoxr._version import __version__
from misoxr.clusters import computed
from misoxr.cube.check import check, check_dataset, named
from misoxr.cube.features import Features, features_at
from misoxr.cube.scaling import METHODS, Scaling
from misoxr.cube.stack import stack
from misoxr.errors import BandError, PointsError, SpecError, did_you_mean, gathered, note, require
from misoxr.points.read import read_points, simulated
from misoxr.spec import ModelSpec, Task
from misoxr.spec.numbers import is_whole
from misoxr.spec.standardisation import Standardisation
from misoxr.training.pixel_model import PixelModel
from misoxr.training.presets import spec_for
from misoxr.training.windows import Labelled, read_cutouts

__all__ = [
    "BASELINES",
    "Baseline",
    "PixelModel",
    "baseline",
    "check_labels",
    "fit_baseline",
    "fit_estimator",
    "is_baseline",
    "prepared_baseline",
    "refuse_unseen",
]

Floats = npt.NDArray[np.float64]
BASELINES = ("rf-11", "rf-11-balanced", "rf-neighbourhood", "rf-coordinates")
"""Baselines with a name."""


@dataclass(frozen=True)
class Baseline:
    """A scikit-learn estimator, and what it sees of a cube.

    Attributes
    ----------
    estimator : object
        A classifier, or a regressor for regressions; one copy is fitted for each task.
    features : {"pixel", "neighbourhood", "coordinates"}
        The pixel's bands; these, and their mean and standard deviation over 5 x 5 and 15 x 15 pixels; or x and y alone.
    scaling : {"none", "standard", "log", "whiten"}
        Whether bands are taken as they are, or scaled first as the network's are (:meth:`misoxr.cube.scaling.Scaling.fit`).

    Examples
    --------
    >>> from sklearn.ensemble import ExtraTreesClassifier
    >>> trees = Baseline(ExtraTreesClassifier(20), features="neighbourhood", scaling="whiten")
    >>> model = image.miso.fit(trees, points)
    """

    estimator: Any
    features: Features = "pixel"
    scaling: str = "none"

    def __post_init__(self) -> None:
        if self.features not in get_args(Features):
            raise SpecError(f"features is {self.features!r}; use one of {get_args(Features)}.")
        if self.scaling not in ("none", *METHODS):
            raise SpecError(f"scaling is {self.scaling!r}; use 'none' or one of {METHODS}.")
        if self.features == "coordinates" and self.scaling != "none":
            raise SpecError(f"scaling is {self.scaling!r}, and coordinates alone have no bands to scale; leave it out.")
        if isinstance(self.estimator, type):
            raise SpecError(f"{self.estimator.__name__} is a class; give an estimator, {self.estimator.__name__}().")
        if not all(hasattr(self.estimator, name) for name in ("fit", "predict", "get_params")):
            raise SpecError(f"{self.estimator!r} is no scikit-learn estimator: it has no fit, predict and get_params.")


def baseline(name: str, *, seed: int = 0) -> Baseline:
    """Return a baseline by its name.

    Parameters
    ----------
    name : {"rf-11", "rf-11-balanced", "rf-neighbourhood", "rf-coordinates"}
        "rf-11" is the paper's Random Forest on a pixel's values (253 trees, depth 16, min_samples_split 5); the others are the
        same with balanced classes; balanced, on the pixel and its neighbourhood; and on coordinates alone, the control.
    seed : int, optional
        Seed of the forest.

    References
    ----------
    arXiv 2506.17302.

    Examples
    --------
    >>> forest = baseline("rf-neighbourhood", seed=1)
    """
    if name not in BASELINES:
        raise SpecError(f"Unknown baseline {name!r}; use one of {list(BASELINES)}.")
    ensemble = require("sklearn.ensemble", "train")
    weight = "balanced" if name in ("rf-11-balanced", "rf-neighbourhood") else None
    forest = ensemble.RandomForestClassifier(
        253, max_depth=16, min_samples_split=5, n_jobs=-1, random_state=seed, class_weight=weight
    )
    kinds: dict[str, Features] = {"rf-neighbourhood": "neighbourhood", "rf-coordinates": "coordinates"}
    return Baseline(forest, kinds.get(name, "pixel"))


def is_baseline(what: Any) -> bool:
    """Return whether an estimator is a baseline: by name, as a Baseline, or as an estimator of scikit-learn."""
    return what in BASELINES if isinstance(what, str) else not isinstance(what, ModelSpec)


_OF_NETWORKS: Mapping[str, Any] = {
    "val": None,
    "pretrained": None,
    "calibrate": True,
    "directory": None,
    "resume": True,
    "device": "auto",
    "devices": 1,
    "precision": "auto",
    "workers": 0,
    "progress": True,
}
"""Arguments of :func:`misoxr.training.fit.fit` that an estimator has no use for, and what says nothing."""


@gathered
def fit_estimator(
    ds: xr.Dataset,
    estimator: Any,
    points: gpd.GeoDataFrame,
    *,
    seed: int = 0,
    scaling: Scaling | str | None = None,
    like: ModelSpec | None = None,
    **settings: Any,
) -> PixelModel:
    """Fit an estimator as :func:`misoxr.training.fit.fit` does, which takes the same arguments; torch is not needed."""
    check_dataset(ds)
    points = read_points(points)
    like = like or spec_for("miso-nano", ds, points)
    idle = {name for name in settings.keys() & _OF_NETWORKS if _OF_NETWORKS[name] is settings[name] or name == "progress"}
    given = {name: value for name, value in settings.items() if name not in idle}
    prepared_baseline(estimator, like, seed=seed, scaling=scaling, **given)
    return fit_baseline(ds, estimator, points, like, seed=seed, scaling=scaling)


def fit_baseline(
    ds: xr.Dataset,
    estimator: Any,
    points: gpd.GeoDataFrame,
    spec: ModelSpec,
    *,
    seed: int = 0,
    scaling: Scaling | str | None = None,
) -> PixelModel:
    """Fit a scikit-learn estimator on labelled points of a datacube, one copy for each task.

    Parameters
    ----------
    ds : Dataset
        The cube, as for :func:`misoxr.mapping.predict.predict`.
    estimator : Baseline, str or estimator
        A baseline or its name (:func:`baseline`), or an estimator, which then sees the pixel's values.
    points : GeoDataFrame
        As for :func:`misoxr.training.fit.fit`. Points without valid imagery are left out with a warning.
    spec : ModelSpec
        Bands and tasks; its encoders play no part.
    seed : int, optional
        Seed of everything in the estimator that takes a ``random_state``, and of the pixels that a scaling is fitted on.
    scaling : Scaling or str, optional
        Scaling of a named baseline, or one in hand.

    Raises
    ------
    PointsError
        If a task has no label, or a classifier's task labels of one class only.
    SpecError
        If a classifier meets a regression, or a regressor classes.
    """
    base = require("sklearn.base", "train")
    chosen = prepared_baseline(estimator, spec, seed=seed, scaling=scaling)
    method = chosen.scaling if scaling is None else scaling
    points = read_points(points)
    ds = named(ds, spec)
    geobox = check(ds, spec)
    labelled, bands = Labelled.of(points, spec, geobox), stack(ds, spec)
    fitted = (
        method if isinstance(method, Scaling) else None if method == "none" else _fit_scaling(spec, bands, labelled, method, seed)
    )
    (found,) = computed(features_at(chosen.features, fitted, spec, bands, geobox, labelled.rows, labelled.columns))
    table = found.T
    valid = table[:, -1] > 0
    refuse_unseen(valid)
    table = np.where(np.isfinite(table), table, np.nan)[:, :-1]
    with np.errstate(all="ignore"):
        fill = np.nan_to_num([np.nanmedian(column) if np.isfinite(column).any() else 0.0 for column in table[valid].T])
    filled = np.where(np.isfinite(table), table, fill)
    estimators, standardisation = {}, {}
    for task in spec.tasks:
        labels = labelled.labels[task.name]
        known = valid & np.isfinite(labels)
        check_labels(task, labels[known])
        if task.kind == "regression":
            # Units must not count: estimators have tolerances and penalties, and trees break ties by the last digits.
            standardisation[task.name] = Standardisation.fit(labels[known])
            labels = standardisation[task.name].apply(labels).astype("float32")
        fitting = base.clone(chosen.estimator)
        fitting.set_params(**_params(fitting, "random_state", int(seed)))
        fitting.fit(filled[known], labels[known] if task.kind == "regression" else labels[known].astype(int))
        fitting.set_params(**_params(fitting, "n_jobs", 1))  # Dask's threads share the cores
        estimators[task.name] = fitting
    record = {
        "estimator": repr(chosen.estimator),
        "features": chosen.features,
        "scaling": method if isinstance(method, str) else "given",
        "points": int(valid.sum()),
        "misoxr_version": __version__,
        **simulated(ds, points),
    }
    missing = tuple(float(value) for value in fill)
    return PixelModel(spec, estimators, chosen.features, fitted, missing, record, standardisation)


def _params(estimator: Any, name: str, value: Any) -> dict[str, Any]:
    """Return a parameter of an estimator and of those within it, as far as they have it, with a value."""
    return {key: value for key in estimator.get_params() if key == name or key.endswith(f"__{name}")}


def prepared_baseline(estimator: Any, spec: ModelSpec, *, seed: Any = 0, scaling: Any = None, **settings: Any) -> Baseline:
    """Return an estimator as a Baseline; refuse what is known to fail, before a cube is read."""
    if settings:
        hint = did_you_mean(min(settings), ("seed", "scaling", "like"))
        raise SpecError(f"A baseline has no settings {sorted(settings)}; it takes seed, scaling and like alone.{hint}")
    if not isinstance(spec, ModelSpec):
        raise SpecError(
            f"like is {spec!r}; give a ModelSpec, such as misoxr.training.presets.spec_for makes for a cube and points."
        )
    if not is_whole(seed) or not 0 <= int(seed) < 2**32:
        raise SpecError(f"The seed is {seed!r}; scikit-learn takes whole numbers from 0 to 2**32 - 1.")
    known = baseline(estimator, seed=int(seed)) if isinstance(estimator, str) else estimator
    found = known if isinstance(known, Baseline) else Baseline(known)
    if isinstance(scaling, str):
        replace(found, scaling=scaling)  # refuses what it cannot be
    elif isinstance(scaling, Scaling):
        if found.features == "coordinates":
            raise SpecError("coordinates alone have no bands to scale; leave scaling out.")
        scaling.check(spec)
    elif scaling is not None:
        raise SpecError(f"scaling is {scaling!r}; use 'none', one of {METHODS}, or a Scaling in hand.")
    is_classifier = require("sklearn.base", "train").is_classifier
    for task in spec.tasks:
        if is_classifier(found.estimator) == (task.kind == "regression"):
            kind = "regressor" if task.kind == "regression" else "classifier"
            raise SpecError(f"{found.estimator!r} does not fit task {task.name!r}, a {task.kind}; give a {kind}.")
    return found


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


def _fit_scaling(spec: ModelSpec, bands: da.Array, labelled: Labelled, method: str, seed: int) -> Scaling:
    """Fit the network's scaling on the pixels that the network's would be fitted on."""
    with read_cutouts(bands, labelled.rows, labelled.columns, spec.windows.size) as cutouts:
        return Scaling.fit(spec, cutouts.pixels(200_000, np.random.default_rng(seed)), method)
