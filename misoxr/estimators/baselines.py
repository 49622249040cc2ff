"""Baselines: fit scikit-learn estimators on the same cube and points as the network."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

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
from misoxr.cube.presets import spec_for
from misoxr.cube.scaling import METHODS, Scaling
from misoxr.cube.stack import stack
from misoxr.errors import BandError, PointsError, SpecError, did_you_mean, gathered, note, require
from misoxr.estimators.catalogue import FEATURES, classifier_and_regressor
from misoxr.estimators.pixel_model import PixelModel
from misoxr.points.labelled import Labelled
from misoxr.points.read import read_points, simulated
from misoxr.points.transfer import transferred, transfers
from misoxr.spec import ModelSpec, Task
from misoxr.spec.numbers import is_whole
from misoxr.spec.presets import BASELINES, PRESETS
from misoxr.spec.standardisation import Standardisation

__all__ = [
    "Baseline",
    "PixelModel",
    "baseline",
    "Transfers",
    "check_labels",
    "check_transfer",
    "embeds",
    "fit_baseline",
    "fit_estimator",
    "fit_table",
    "idle",
    "is_balanced",
    "is_baseline",
    "prepared_baseline",
    "refuse_unseen",
    "trains",
]

Floats = npt.NDArray[np.float64]
Transfers = Literal["auto", False]


@dataclass(frozen=True)
class Baseline:
    """A scikit-learn estimator, and what it sees of a cube.

    Attributes
    ----------
    estimator : object
        A classifier, or a regressor for regressions; one copy is fitted for each task.
    features : {"pixel", "neighbourhood", "coordinates", "embedding"}
        The pixel's bands; these, and their mean and standard deviation over 5 x 5 and 15 x 15 pixels; x and y alone; or the embedding of
        a network (``ds.miso.embed``).
    scaling : {"none", "standard", "log", "whiten"}
        Whether bands are taken as they are, or scaled first as the network's are (:meth:`misoxr.cube.scaling.Scaling.fit`).
    regressor : object, optional
        What regressions get where the estimator is a classifier.
    network : Model, ModelSpec or str, optional
        The network of ``features="embedding"``. A trained one is taken as it is. Of a specification or a preset's name, ``fit`` trains
        networks, with the settings that it takes for these.

    Notes
    -----
    A network knows the points it has learnt from, and its embeddings of these look easier to tell apart than those of others. So ``fit``
    cross-fits an embedding: the training points are parted in two, by whole blocks. A network learns from one half, and the estimators
    learn from its embeddings at the other half, which it has not seen; and the other way round. The answer is the mean of both pairs. It
    takes two trainings, each on half of the points. Within each pair, all features that an estimator learns from are out of sample; a map
    is then made by both pairs, also at the training points. In ``cross_validate``, all of this happens within a fold's training points.

    With a trained network, the estimators learn from its embeddings at all points, those it has seen among them. ``cross_validate`` refuses
    a network that was trained on labelled points, since some may be test points of a fold. It cannot tell for published weights.

    References
    ----------
    Chernozhukov et al. 2018, "Double/debiased machine learning for treatment and structural parameters", The Econometrics Journal 21, for
    cross-fitting.

    Examples
    --------
    >>> from sklearn.ensemble import ExtraTreesClassifier
    >>> trees = Baseline(ExtraTreesClassifier(20), features="neighbourhood", scaling="whiten")
    >>> model = image.miso.fit(trees, points)
    >>> trees = Baseline(ExtraTreesClassifier(20), features="embedding", network="miso-nano")
    >>> model = image.miso.fit(trees, points, steps=4, progress=False)
    """

    estimator: Any
    features: Features | Literal["embedding"] = "pixel"
    scaling: str = "none"
    regressor: Any = None
    network: Any = None

    def __post_init__(self) -> None:
        kinds = (*get_args(Features), "embedding")
        if self.features not in kinds:
            raise SpecError(f"features is {self.features!r}; use one of {kinds}.")
        self._check_network()
        if self.scaling not in ("none", *METHODS):
            raise SpecError(f"scaling is {self.scaling!r}; use 'none' or one of {METHODS}.")
        if self.features == "coordinates" and self.scaling != "none":
            raise SpecError(f"scaling is {self.scaling!r}, and coordinates alone have no bands to scale; leave it out.")
        for one in (self.estimator, *([] if self.regressor is None else [self.regressor])):
            if isinstance(one, type):
                raise SpecError(f"{one.__name__} is a class; give an estimator, {one.__name__}().")
            if not all(hasattr(one, name) for name in ("fit", "predict", "get_params")):
                raise SpecError(f"{one!r} is no scikit-learn estimator: it has no fit, predict and get_params.")

    def _check_network(self) -> None:
        """Refuse a network without an embedding that is asked for, the other way round, and what is no network."""
        if self.features != "embedding":
            if self.network is not None:
                raise SpecError(f"network is given, and features is {self.features!r}; leave it out, or use features='embedding'.")
            return
        if self.scaling != "none":
            raise SpecError(f"scaling is {self.scaling!r}, and an embedding has no bands to scale; leave it out.")
        if isinstance(self.network, ModelSpec) or (isinstance(self.network, str) and self.network in PRESETS):
            return
        if isinstance(self.network, type(None) | str):
            raise SpecError(
                f"features='embedding' needs a network, and it is {self.network!r}; give one of {list(PRESETS)}, a ModelSpec, or a Model, such "
                f"as misoxr.load reads.{did_you_mean(str(self.network), PRESETS)}"
            )
        from misoxr.model.checkpoint import Model  # with torch, which other estimators do without

        if not isinstance(self.network, Model):
            raise SpecError(f"network is a {type(self.network).__name__}; give a Model, a ModelSpec, or one of {list(PRESETS)}.")

    def estimator_of(self, task: Task) -> Any:
        """Return what is fitted to a task."""
        return self.estimator if task.kind != "regression" or self.regressor is None else self.regressor


def baseline(name: str, *, seed: int = 0) -> Baseline:
    """Return a baseline by its name.

    Parameters
    ----------
    name : str
        - "rf-11": the paper's Random Forest on a pixel's values (253 trees, depth 16, min_samples_split 5). "rf-11-balanced" balances the
          classes, and "rf-coordinates" sees x and y alone. With ``transfer=False`` it learns what the paper's learns.
        - "rf-neighbourhood": the balanced forest on the whitened pixel and its neighbourhood. On the same features, "logistic-neighbourhood" is
          a logistic regression (standardised, C = 0.02, balanced), "vote-neighbourhood" the mean of both, and "boosting-neighbourhood" boosted
          trees (HistGradientBoosting, balanced).

        Regressions get the regressor of the same kind, with squared errors: forest, ridge regression (alpha = 50), vote, boosted trees.
    seed : int, optional
        Seed of the estimator.

    References
    ----------
    arXiv 2506.17302.

    Examples
    --------
    >>> forest = baseline("rf-neighbourhood", seed=1)
    """
    if name not in BASELINES:
        raise SpecError(f"Unknown baseline {name!r}; use one of {list(BASELINES)}.{did_you_mean(name, BASELINES)}")
    features, scaling = FEATURES.get(name, ("neighbourhood", "whiten"))
    classifier, regressor = classifier_and_regressor(name, seed)
    return Baseline(classifier, features, scaling, regressor)  # type: ignore[arg-type]


def is_baseline(what: Any) -> bool:
    """Return whether an estimator is a baseline: by name, as a Baseline, or as an estimator of scikit-learn.

    What sees a network's embedding is none: it takes the network with it.
    """
    return what in BASELINES if isinstance(what, str) else not (isinstance(what, ModelSpec) or embeds(what))


def embeds(what: Any) -> bool:
    """Return whether an estimator sees the embedding of a network."""
    return isinstance(what, Baseline) and what.features == "embedding"


def trains(what: Any) -> bool:
    """Return whether to fit an estimator is to train a network: itself, or one whose embedding it sees."""
    return isinstance(what.network, ModelSpec | str) if embeds(what) else not is_baseline(what)


_OF_NETWORKS: Mapping[str, tuple[Any, ...]] = {
    "teacher": ("auto",),
    "members": (None, 1),
    "val": (None,),
    "pretrained": (None,),
    "calibrate": (True,),
    "directory": (None,),
    "resume": (True,),
    "device": ("auto",),
    "devices": (1,),
    "precision": ("auto",),
    "workers": (0,),
    "progress": (True, False),
}
"""Arguments of :func:`misoxr.training.fit.fit` that an estimator has no use for, and the values that say nothing."""


def idle(name: str, value: Any) -> bool:
    """Return whether an argument of :func:`misoxr.training.fit.fit` for networks says nothing to an estimator."""
    return any(_alike(value, one) for one in _OF_NETWORKS.get(name, ()))


def _alike(value: Any, other: Any) -> bool:
    """Return whether two values are of one kind and equal; whole numbers are one kind, and True and 1 are two."""
    if is_whole(value) or is_whole(other):
        return is_whole(value) and is_whole(other) and int(value) == int(other)
    return isinstance(value, type(other)) and bool(value == other)


@gathered
def fit_estimator(
    ds: xr.Dataset,
    estimator: Any,
    points: gpd.GeoDataFrame,
    *,
    seed: int = 0,
    scaling: Scaling | str | None = None,
    like: ModelSpec | None = None,
    transfer: Transfers = "auto",
    **settings: Any,
) -> PixelModel:
    """Fit an estimator as :func:`misoxr.training.fit.fit` does, which takes the same arguments; torch is not needed."""
    check_dataset(ds)
    points = read_points(points)
    like = like or spec_for("miso-nano", ds, points)
    given = {name: value for name, value in settings.items() if not idle(name, value)}
    prepared_baseline(estimator, like, seed=seed, scaling=scaling, transfer=transfer, **given)
    return fit_baseline(ds, estimator, points, like, seed=seed, scaling=scaling, transfer=transfer)


def fit_baseline(
    ds: xr.Dataset,
    estimator: Any,
    points: gpd.GeoDataFrame,
    spec: ModelSpec,
    *,
    seed: int = 0,
    scaling: Scaling | str | None = None,
    transfer: Transfers = "auto",
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
    transfer : {"auto", False}, optional
        Whether labels that others tell are learnt, too (:func:`misoxr.points.transfer_labels`), by estimators whose ``fit`` takes weights.

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
    ds = named(ds, spec)
    geobox = check(ds, spec)
    labelled, bands = Labelled.of(points, spec, geobox), stack(ds, spec)
    fitted = (
        method if isinstance(method, Scaling) else None if method == "none" else _fit_scaling(spec, bands, labelled, method, seed)
    )
    (found,) = computed(features_at(cast(Features, chosen.features), fitted, spec, bands, geobox, labelled.rows, labelled.columns))
    refuse_unseen(found[-1] > 0)
    model = fit_table(chosen, spec, found, labelled.labels, fitted, seed=seed, transfer=transfer)
    scaled_as = method if isinstance(method, str) else "given"
    return replace(model, record={**model.record, "scaling": scaled_as, **simulated(ds, points)})


def fit_table(
    chosen: Baseline,
    spec: ModelSpec,
    found: npt.NDArray[np.float32],
    labels: Mapping[str, Floats],
    scaling: Scaling | None,
    *,
    seed: int,
    transfer: Transfers = "auto",
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
    """
    table, valid = found[:-1].T, found[-1] > 0
    table = np.where(np.isfinite(table), table, np.nan)
    with np.errstate(all="ignore"):
        fill = np.nan_to_num([np.nanmedian(column) if np.isfinite(column).any() else 0.0 for column in table[valid].T])
    table = np.where(np.isfinite(table), table, fill)
    own = {name: np.where(valid, values, np.nan) for name, values in labels.items()}
    tables = transfers(spec.tasks, own) if transfer else []
    filled, weights = transferred(own, tables)
    estimators, standardisation, learnt = {}, {}, set()
    for task in spec.tasks:
        check_labels(task, own[task.name][np.isfinite(own[task.name])])
        argument = _weight_argument(chosen.estimator_of(task))
        values = filled[task.name] if argument else own[task.name]
        learnt |= {task.name} if argument else set()
        known = np.isfinite(values)
        if task.kind == "regression":
            # Units must not count: estimators have tolerances and penalties, and trees break ties by the last digits.
            standardisation[task.name] = Standardisation.fit(own[task.name][np.isfinite(own[task.name])])
            values = standardisation[task.name].apply(values).astype("float32")
        estimator = require("sklearn.base", "train").clone(chosen.estimator_of(task))
        estimator.set_params(**_params(estimator, "random_state", int(seed)))
        learnt_values = values[known] if task.kind == "regression" else values[known].astype(int)
        weighted = {}
        if argument and (weights[task.name][known] < 1).any():
            weighted[argument] = _balanced(estimator, learnt_values, weights[task.name][known])
        estimator.fit(table[known], learnt_values, **weighted)
        estimator.set_params(**_params(estimator, "n_jobs", 1))  # Dask's threads share the cores
        estimators[task.name] = estimator
    record = {
        "estimator": repr(chosen.estimator),
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
    if inside:  # a vote hands on what it is given
        return "sample_weight" if all(_weight_argument(one) == "sample_weight" for one in inside) else None
    has = require("sklearn.utils.validation", "train").has_fit_parameter
    return "sample_weight" if has(estimator, "sample_weight") else None


def _params(estimator: Any, name: str, value: Any) -> dict[str, Any]:
    """Return a parameter of an estimator and of those within it, as far as they have it, with a value."""
    return {key: value for key in estimator.get_params() if key == name or key.endswith(f"__{name}")}


def prepared_baseline(
    estimator: Any, spec: ModelSpec, *, seed: Any = 0, scaling: Any = None, transfer: Any = "auto", **settings: Any
) -> Baseline:
    """Return an estimator as a Baseline; refuse what is known to fail, before a cube is read."""
    if settings:
        hint = did_you_mean(min(settings), ("seed", "scaling", "like", "transfer"))
        raise SpecError(f"A baseline has no settings {sorted(settings)}; it takes seed, scaling, like and transfer alone.{hint}")
    check_transfer(transfer)
    if not isinstance(spec, ModelSpec):
        raise SpecError(f"like is {spec!r}; give a ModelSpec, such as misoxr.cube.presets.spec_for makes for a cube and points.")
    if not is_whole(seed) or not 0 <= int(seed) < 2**32:
        raise SpecError(f"The seed is {seed!r}; scikit-learn takes whole numbers from 0 to 2**32 - 1.")
    known = baseline(estimator, seed=int(seed)) if isinstance(estimator, str) else estimator
    found = known if isinstance(known, Baseline) else Baseline(known)
    if embeds(found):
        raise SpecError("The estimator sees a network's embedding: fit it with ds.miso.fit; it teaches no network.")
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
        if is_classifier(found.estimator_of(task)) == (task.kind == "regression"):
            kind = "regressor" if task.kind == "regression" else "classifier"
            raise SpecError(f"{found.estimator_of(task)!r} does not fit task {task.name!r}, a {task.kind}; give a {kind}.")
    return found


def check_transfer(transfer: Any) -> None:
    """Refuse what says neither that labels are transferred nor that they are not."""
    if transfer is not False and transfer != "auto":
        raise SpecError(f"transfer is {transfer!r}; use 'auto' or False.")


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
