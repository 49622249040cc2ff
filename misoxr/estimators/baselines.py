"""Baselines: scikit-learn estimators, and what they see of a cube."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from misoxr.cube.features import Features
from misoxr.cube.scaling import METHODS, Scaling
from misoxr.errors import SpecError, did_you_mean, note, require
from misoxr.estimators.catalogue import FEATURES, classifier_and_regressor
from misoxr.spec import ModelSpec, Task
from misoxr.spec.numbers import is_whole
from misoxr.spec.presets import BASELINES, PRESETS

__all__ = [
    "Baseline",
    "Transfers",
    "baseline",
    "check_like",
    "check_transfer",
    "embeds",
    "idle",
    "is_baseline",
    "no_prevalence",
    "note_threshold",
    "prepared_baseline",
    "trains",
]

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
    standardises : bool
        Whether a regressor learns standardised labels: True of named baselines alone (:func:`baseline`), whose answers then do not depend on
        units. Any other regressor learns the labels themselves, and so does one that is put into a named baseline.

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
    standardises: bool = field(default=False, init=False, repr=False, compare=False)

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
            if lacking := [name for name in ("fit", "predict", "get_params") if not _offers(one, name)]:
                raise SpecError(f"{one!r} is no scikit-learn estimator: it has no {' and no '.join(lacking)}.")

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


def _offers(estimator: Any, method: str) -> bool:
    """Return whether an estimator has a method. A stack, also within a pipeline or a search, shows its predict once it is fitted."""
    if hasattr(estimator, method) or method != "predict" or not hasattr(estimator, "get_params"):
        return hasattr(estimator, method)
    base = require("sklearn.base", "train")
    return bool(base.is_classifier(estimator) or base.is_regressor(estimator))


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

        Regressions get the regressor of the same kind, with squared errors: forest, ridge regression (alpha = 50), vote, boosted trees. It
        learns standardised labels, so its answers do not depend on units.
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
    found = Baseline(classifier, features, scaling, regressor)  # type: ignore[arg-type]
    object.__setattr__(found, "standardises", True)
    return found


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


def prepared_baseline(
    estimator: Any, spec: ModelSpec, *, seed: Any = 0, scaling: Any = None, transfer: Any = "auto", **settings: Any
) -> Baseline:
    """Return an estimator as a Baseline; refuse what is known to fail, before a cube is read."""
    if settings:
        hint = did_you_mean(min(settings), ("seed", "scaling", "like", "transfer"))
        raise SpecError(f"A baseline has no settings {sorted(settings)}; it takes seed, scaling, like and transfer alone.{hint}")
    check_transfer(transfer)
    check_like(spec)
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


def note_threshold(chosen: Baseline, tasks: Iterable[Task]) -> None:
    """Warn of classifiers that have probabilities and a threshold of their own: maps and scores tell classes by probabilities alone."""
    for task in tasks:
        one = chosen.estimator_of(task)
        by_probability = hasattr(one, "predict_proba") or not hasattr(one, "predict")  # a stack shows both once it is fitted
        if task.kind == "binary" and by_probability and (name := _thresholded(one)):
            note(
                f"{name} has a threshold of its own, which is not used: maps and scores of {task.name!r} are cut at a probability of 0.5. "
                f"Cut the map yourself, such as maps.{task.name}_probability >= 0.3.",
                about=f"threshold of {name} for {task.name}",
            )


def _thresholded(estimator: Any) -> str | None:
    """Return the name of what moves the threshold of a classifier: itself, or the one within that answers for it."""
    selection, features = require("sklearn.model_selection", "train"), require("sklearn.feature_selection", "train")
    search = require("sklearn.model_selection._search", "train")
    if isinstance(estimator, selection.TunedThresholdClassifierCV):
        return type(estimator).__name__
    if isinstance(estimator, selection.FixedThresholdClassifier):
        usual = ("auto",) if estimator.response_method == "decision_function" else ("auto", 0.5)
        return None if estimator.threshold in usual else type(estimator).__name__
    if getattr(estimator, "steps", None):
        return _thresholded(estimator.steps[-1][1])
    answers = isinstance(estimator, search.BaseSearchCV | features.RFE)
    inner = estimator.estimator if answers else getattr(estimator, "final_estimator", None)
    return None if inner is None else _thresholded(inner)


def no_prevalence(estimator: Any) -> SpecError:
    """Return the error of fitted estimators whose probabilities are to be moved to other shares of the classes."""
    return SpecError(
        f"{estimator} has no with_prevalence: it takes shares of the classes for granted that an estimator does not tell. Fit a network, or an "
        "estimator whose class_weight has the shares of your area: Baseline(RandomForestClassifier(class_weight={0: 0.7, 1: 0.3}), …)."
    )


def check_like(like: Any) -> None:
    """Refuse what cannot tell a baseline its bands and tasks."""
    if not isinstance(like, ModelSpec):
        raise SpecError(f"like is {like!r}; give a ModelSpec, such as misoxr.cube.presets.spec_for makes for a cube and points.")


def check_transfer(transfer: Any) -> None:
    """Refuse what says neither that labels are transferred nor that they are not."""
    if transfer is not False and transfer != "auto":
        raise SpecError(f"transfer is {transfer!r}; use 'auto' or False.")
