"""Fitted scikit-learn estimators that are mapped pixel by pixel, and their file."""

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from typing import Any, NoReturn, Self, get_args

import cloudpickle
import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.base import tokenize
from dask.delayed import delayed
from odc.geo.geobox import GeoBox

from misoxr.cube.features import Features, features, features_at, scaled, width
from misoxr.cube.scaling import Scaling, refuse_fills_of, valid_pixels
from misoxr.errors import CheckpointError, MisoxrError, SpecError, require
from misoxr.estimators.baselines import no_prevalence
from misoxr.estimators.files import pack, unpack
from misoxr.estimators.slabs import in_slabs
from misoxr.model.conformal import Conformal, Method, with_scores
from misoxr.model.files import put
from misoxr.points.folds import briefly
from misoxr.spec import ModelSpec, Task
from misoxr.spec.build import build
from misoxr.spec.numbers import is_number
from misoxr.spec.standardisation import Standardisation

__all__ = ["PixelModel"]

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class PixelModel:
    """Fitted estimators of the tasks, which answer pixel by pixel wherever a :class:`misoxr.Model` does.

    Attributes
    ----------
    spec : ModelSpec
        Bands, pixel size and tasks; its encoders play no part.
    estimators : mapping of str to object
        A fitted scikit-learn estimator by task; a classifier's classes are codes.
    features : {"pixel", "neighbourhood", "coordinates"}
        As in :class:`misoxr.estimators.baselines.Baseline`.
    scaling : Scaling or None
        The bands' scaling; None takes them as they are.
    fill : tuple of float
        Values that missing features are given; 0 where there are fewer.
    record : mapping
        How it was fitted.
    standardisation : mapping of str to Standardisation
        By task, how the labels of a regression were learnt by a named baseline; answers come in the labels' units. Other estimators learn the
        labels themselves, and have none.
    conformal : Conformal or None
        What is known of its errors, for ``predict(forest, coverage=…)``.

    Examples
    --------
    >>> forest = image.miso.fit("rf-11", points)
    >>> forest.save("forest.skops")
    >>> maps = image.miso.predict("forest.skops")
    """

    spec: ModelSpec
    estimators: Mapping[str, Any]
    features: Features = "pixel"
    scaling: Scaling | None = None
    fill: tuple[float, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    standardisation: Mapping[str, Standardisation] = field(default_factory=dict)
    conformal: Conformal | None = None

    def __repr__(self) -> str:
        """What it is, reads and answers, in a line."""
        tasks = ", ".join(task.name for task in self.spec.tasks)
        known = (
            "" if self.conformal is None else f"; with sets or intervals from {briefly(self.conformal.about.get('cv', 'scores'))}"
        )
        return f"<misoxr.PixelModel {self.title}: {self.features} ({len(self.spec.bands)} bands) -> {tasks}{known}>"

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """The limits of the bands at the training points, by name, where the record has them."""
        known = self.record.get("ranges")
        items = known.items() if isinstance(known, Mapping) else ()
        return {str(name): (float(ends[0]), float(ends[1])) for name, ends in items if _is_pair(ends)}

    @property
    def title(self) -> str:
        """The name by which it was asked for, and its estimator."""
        only_values = all(task.kind == "regression" for task in self.spec.tasks)
        estimator = str((only_values and self.record.get("regressor")) or self.record.get("estimator", ""))
        name = self.record.get("name")
        return f"{name} ({estimator.partition('(')[0]})" if name else estimator

    def _repr_html_(self) -> str:
        """Show in a notebook what it reads and answers, and how it was fitted."""
        return str(import_module("misoxr.reprs.models").pixels(self))  # by name: it stands on a higher floor

    def __dask_tokenize__(self) -> str:
        """What a graph does depends on what the file would hold, in whichever process it was fitted or loaded."""
        return self.sha256

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file that :meth:`save` writes; where skops cannot write it, of its pickle, which nothing unpickles."""
        try:
            data = self.to_bytes()
        except SpecError:
            data = cloudpickle.dumps((self._header(), self.estimators))
        return hashlib.sha256(data).hexdigest()

    def _header(self) -> dict[str, Any]:
        return {
            "spec": self.spec.to_dict(),
            "features": self.features,
            "scaling": None if self.scaling is None else self.scaling.to_dict(),
            "fill": list(self.fill),
            "standardisation": {name: found.to_dict() for name, found in self.standardisation.items()},
            "record": dict(self.record),
            "sklearn_version": require("sklearn", "train").__version__,
            **({} if self.conformal is None else {"conformal": self.conformal.to_dict()}),
        }

    def to_bytes(self) -> bytes:
        """Return the bytes of the file that :meth:`save` writes."""
        return pack(self._header(), self.estimators)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimators to a path or fsspec URL, by skops; a local file appears only when it is complete.

        :func:`misoxr.load` reads it, and ``predict`` takes the path. Estimators of the same fit give the same bytes.

        Raises
        ------
        SpecError
            If an estimator holds what skops cannot write, such as a lambda.
        """
        put(path, self.to_bytes(), ".skops")

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "", trusted: Collection[str] = ()) -> Self:
        """Build fitted estimators from a file's bytes (:func:`misoxr.load`); ``name`` stands in errors.

        Raises
        ------
        CheckpointError
            If the file is damaged, contradicts itself, or holds a type that is not allowed.
        """
        values, estimators = unpack(data, name, trusted)
        try:
            header = build(_Header, values)
            spec: ModelSpec = header.spec
            scaling = None if header.scaling is None else Scaling.from_dict(header.scaling, spec)
            learnt_as = {task: Standardisation.from_dict(found, spec.task(task)) for task, found in header.standardisation.items()}
            conformal = Conformal.from_dict(header.conformal, spec) if header.conformal else None
            model = cls(spec, estimators, header.features, scaling, header.fill, header.record, learnt_as, conformal)
            model._check()
        except MisoxrError as error:
            raise CheckpointError(f"The header of {name} does not fit what it holds: {error}") from error
        model.__dict__["sha256"] = hashlib.sha256(data).hexdigest()
        return model

    def with_prevalence(self, **shares: Any) -> NoReturn:
        """Refuse: estimators take shares of the classes for granted that they do not tell, so their probabilities cannot be moved to others.

        Raises
        ------
        SpecError
            Always.
        """
        raise no_prevalence(self.record.get("estimator", "the estimator"))

    def with_conformal(self, scores: Any, name: str | None = None, by: Any = None, method: Method = "plain") -> Self:
        """Return the estimators with what a cross-validation tells of their errors; see :func:`misoxr.uncertainty.conformal.with_conformal`."""
        return with_scores(self, scores, name, by, method)

    def _check(self) -> None:
        """Refuse estimators that cannot answer their tasks from their features."""
        if self.features not in get_args(Features):
            raise CheckpointError(f"features is {self.features!r}; those known are {get_args(Features)}.")
        names, columns = [task.name for task in self.spec.tasks], width(self.features, self.scaling, self.spec)
        if list(self.estimators) != names:
            raise CheckpointError(f"there are estimators of {list(self.estimators)} for the tasks {names}.")
        if len(self.fill) not in (0, columns):
            raise CheckpointError(f"there are {len(self.fill)} values for {columns} features.")
        for task in self.spec.tasks:
            try:
                nothing = self._filled(np.full((1, columns), np.nan, "float32"))
                answer = _outputs(self.estimators[task.name], task, nothing, self.standardisation)
            except Exception as error:  # an estimator of others raises what it likes
                raise CheckpointError(
                    f"the estimator of {task.name!r} does not answer ({type(error).__name__}: {error})."
                ) from error
            if answer.shape != (1, task.outputs):
                raise CheckpointError(f"the estimator of {task.name!r} answers {answer.shape[1:]}, and not {task.outputs} values.")

    def layers(self, bands: da.Array, geobox: GeoBox, tasks: Sequence[Task]) -> da.Array:
        """Map stacked bands (band, y, x), lazily, to the outputs of tasks (layer, y, x), NaN where there is no valid input."""
        if self.features == "pixel":  # a block's task reads the bands, and sees slabs of them: a copy of all would be as large
            return self._lazily(bands, tasks, raw=True)
        return self._lazily(features(self.features, self.scaling, self.spec, bands, geobox), tasks)

    def layers_at(
        self, bands: da.Array, geobox: GeoBox, rows: npt.ArrayLike, columns: npt.ArrayLike, tasks: Sequence[Task]
    ) -> da.Array:
        """Answer, lazily, at the pixels that hold positions: (layer, point), as :meth:`layers` has them."""
        return self._lazily(features_at(self.features, self.scaling, self.spec, bands, geobox, rows, columns), tasks)

    def _lazily(self, seen: da.Array, tasks: Sequence[Task], *, raw: bool = False) -> da.Array:
        """Answer from features (feature + 1, ...), the last of which is 1 where there is valid input; or from ``raw`` bands."""
        asked = replace(
            self,
            spec=replace(self.spec, tasks=tuple(tasks)),
            estimators={task.name: self.estimators[task.name] for task in tasks},
            conformal=None,
        )
        # Their hash would take another packing; what they are follows from the whole.
        token = tokenize(self.sha256, list(asked.estimators))
        asked.__dict__["sha256"] = token
        # The estimators ride along once, as one key of the graph.
        layers: da.Array = da.map_blocks(
            _answer,
            seen,
            model=delayed(asked, name=f"estimators-{token}"),
            raw=raw,
            chunks=((sum(task.outputs for task in tasks),), *seen.chunks[1:]),
            dtype="float32",
            meta=np.empty((0,) * seen.ndim, "f4"),
        )
        return layers

    def answer(self, table: Array) -> Array:
        """Answer from features (pixel, feature): (pixel, output)."""
        table = self._filled(table)
        parts = [_outputs(self.estimators[task.name], task, table, self.standardisation) for task in self.spec.tasks]
        answers: Array = np.concatenate(parts, axis=1).astype("float32")
        return answers

    def _filled(self, table: Array) -> Array:
        """Return a copy of features (pixel, feature), row by row in memory, with what is missing filled."""
        fill = np.zeros(table.shape[1], "float32")
        fill[: len(self.fill)] = self.fill
        filled = np.array(table, order="C")
        np.copyto(filled, fill, where=~np.isfinite(filled))
        return filled


def _is_pair(ends: Any) -> bool:
    """Whether a record holds two numbers."""
    return isinstance(ends, Sequence) and len(ends) == 2 and all(is_number(end) for end in ends)


@dataclass(frozen=True)
class _Header:
    """What stands beside the estimators in a file, as JSON."""

    spec: ModelSpec
    features: str
    sklearn_version: str
    scaling: Mapping[str, Any] | None = None
    fill: tuple[float, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    standardisation: Mapping[str, Any] = field(default_factory=dict)
    conformal: Mapping[str, Any] = field(default_factory=dict)


def _outputs(estimator: Any, task: Task, table: Array, standardisation: Mapping[str, Standardisation]) -> Floats:
    if task.kind == "regression":
        values = np.asarray(_asked(estimator, "predict", table), dtype="float64").reshape(-1, 1)
        answers: Floats = standardisation.get(task.name, Standardisation()).invert(values)
        return answers
    full = np.zeros((len(table), len(task.classes)))
    codes = np.asarray(estimator.classes_).astype(int)
    if hasattr(estimator, "predict_proba"):
        full[:, codes] = _asked(estimator, "predict_proba", table)
    else:
        full[np.arange(len(table)), np.asarray(estimator.predict(table)).astype(int)] = 1.0
    return full[:, 1:] if task.kind == "binary" else full


def _asked(estimator: Any, method: str, table: Array) -> Any:
    """Return what an estimator answers, a forest tree by tree, also in a pipeline or a vote, to the same bits.

    scikit-learn sets the process's filters of warnings anew for every tree of a forest, and several threads that do so leave none.
    """
    forest = require("sklearn.ensemble._forest", "train")
    if type(estimator) is require("sklearn.pipeline", "train").Pipeline and len(estimator) > 1:
        return _asked(estimator[-1], method, estimator[:-1].transform(table))
    if type(estimator).__name__ in ("VotingClassifier", "VotingRegressor") and estimator.weights is None:
        return np.mean([_asked(one, method, table) for one in estimator.estimators_], axis=0)
    base = forest.ForestRegressor if method == "predict" else forest.ForestClassifier
    if getattr(type(estimator), method) is not getattr(base, method, None) or estimator.n_outputs_ > 1:
        return getattr(estimator, method)(table)
    total, table = 0.0, table.astype("float32", copy=False)  # the type in which forests compare
    for tree in estimator.estimators_:
        total += getattr(tree, method)(table, check_input=False)
    return total / len(estimator.estimators_)


def _answer(block: Array, model: PixelModel, *, raw: bool) -> Array:
    """Answer one block: features and, last, the mask (feature + 1, ...), or ``raw`` bands (band, ...) -> (layer, ...)."""
    outputs = model.spec.outputs
    out = np.full((outputs, *block.shape[1:]), np.nan, dtype="float32")
    answers = out.reshape(outputs, -1)
    mask = valid_pixels(model.spec, block) if raw else block[-1] > 0
    seen = (block if raw else block[:-1]).reshape(-1, mask.size)
    plain = model.features == "pixel" and model.scaling is None  # a scaling refuses what it is given

    def answer(pixels: npt.NDArray[np.intp]) -> None:
        table = seen[:, pixels]
        if plain:
            refuse_fills_of(model.spec, model.ranges, table)
        table = scaled(table, model.spec, model.scaling) if raw else table
        answers[:, pixels] = model.answer(table.T).T

    in_slabs(answer, np.flatnonzero(mask))
    return out
