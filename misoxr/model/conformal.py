"""Conformal prediction: sets of classes, and intervals, that hold the truth with a chosen probability.

- It is written by hand, because it is a sort and a quantile.
- The scores of the calibration points stand in the checkpoint, so that any coverage can be asked later.
- A block of a map needs one binary search for each pixel and class.
- The tests compare quantiles, sets and p-values with their definitions. Of one seed, ``crepes`` 0.9 gives the same p-values.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib import import_module
from typing import Any, Literal, NamedTuple, Self, TypeVar, get_args

import numpy as np
import numpy.typing as npt
import pyproj

from misoxr.errors import CheckpointError, SpecError
from misoxr.grid.longitude import Circle, circle_of, near
from misoxr.grid.polygons import Polygons
from misoxr.spec import ModelSpec, Task
from misoxr.spec.build import array_of, build, text_of
from misoxr.spec.numbers import is_number, mixed

__all__ = ["By", "Conformal", "Method", "Ranked", "TaskScores", "check_coverage", "draws", "nonconformity", "with_scores"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.intp]
Method = Literal["plain", "aps", "raps"]
By = Literal["", "class", "region"]
Fitted = TypeVar("Fitted")

PENALTY, FREE = 0.1, 2
"""Of RAPS: what each class beyond so many more probable ones adds to the score."""
MILLI, FINE = 1e3, 1e8
"""Steps in a unit of length, and in a degree, by which places are told apart where ties are broken."""
DEGREES = 360.0
SLACK = 1e-9
"""What a product of a count and a coverage may be off by rounding."""


def check_coverage(coverage: Any) -> float:
    """Return a coverage; refuse what lies not between 0 and 1."""
    if not is_number(coverage) or not 0 < coverage < 1:
        raise SpecError(f"coverage is {coverage!r}; give a number between 0 and 1, such as 0.9.")
    return float(coverage)


def with_scores(fitted: Fitted, scores: Any, name: str | None, by: Any, method: Method) -> Fitted:
    """Return a model of any kind with what scores tell of its errors (:func:`misoxr.uncertainty.conformal.with_conformal`)."""
    # Scores stand on a higher floor than models, so what reads them is looked up by name, as pandas does for pictures.
    return import_module("misoxr.uncertainty.conformal").with_conformal(fitted, scores, name, by, method)  # type: ignore[no-any-return]


# ---- arithmetic


def nonconformity(probability: npt.ArrayLike, method: Method, draw: npt.ArrayLike | None = None) -> Floats:
    """Return how little each class conforms to its probability.

    Parameters
    ----------
    probability : array_like, shape (point, class)
        Probabilities of the classes.
    method : {"plain", "aps", "raps"}
        "plain" is 1 - p. "aps" is the sum of the probabilities of all more probable classes, and a random share of the class's own; of equal
        ones, the later class counts as the more probable, as in class maps. "raps" adds 0.1 for each class but two that is more probable.
    draw : array_like, shape (point,), optional
        The shares, 0 to 1, of "aps" and "raps" (``draws`` of this module).

    Returns
    -------
    array, shape (point, class)
        Scores, float64.

    References
    ----------
    Sadinle et al. 2019, "Least ambiguous set-valued classifiers with bounded error levels", JASA 114, for "plain". Romano et al. 2020,
    arXiv 2006.02544, for "aps". Angelopoulos et al. 2021, arXiv 2009.14193, for "raps"; its two numbers are fixed here, and not tuned.

    Examples
    --------
    >>> scores = nonconformity([[0.2, 0.5, 0.3]], "aps", draw=[0.5])
    """
    values: Floats = np.asarray(probability, dtype="float64")
    if method == "plain":
        return np.asarray(1.0 - values)
    shares = np.asarray(draw, dtype="float64")[:, None]
    order = (
        values.shape[1] - 1 - np.argsort(-values[:, ::-1], axis=1, kind="stable")
    )  # (point, rank), the most probable class first
    ranked = np.take_along_axis(values, order, axis=1)
    found = np.cumsum(ranked, axis=1) - ranked + shares * ranked
    if method == "raps":
        found += PENALTY * np.maximum(0, np.arange(1, values.shape[1] + 1) - FREE)
    scores = np.empty_like(found)
    np.put_along_axis(scores, order, found, axis=1)
    return scores


def draws(x: npt.ArrayLike, y: npt.ArrayLike, crs: str = "") -> Floats:
    """Return a number of 0 to 1 for each place, evenly spread and the same wherever and whenever it is asked for.

    Ties of randomised scores are broken by it. It is a hash (splitmix64) of the coordinates, which are rounded to about a millimetre.

    Parameters
    ----------
    x, y : array_like
        Coordinates. A longitude may be of any turn.
    crs : str, optional
        Their CRS: degrees are rounded to 1e-8, other units to a thousandth. Without one, x and y are plain numbers.
    """
    steps, circle = _steps(crs)
    across, up = (np.nan_to_num(np.asarray(part, dtype="float64")) for part in (x, y))
    if circle is not None:
        across = near(across, circle.west + circle.turn / 2, circle.turn)
    with np.errstate(over="ignore", invalid="ignore"):
        one, other = (np.rint(part * steps).astype("int64") for part in (across, up))
        found = mixed(mixed(one.view("uint64")) ^ other.view("uint64"))
    return np.asarray((found >> np.uint64(11)).astype("float64") / 2.0**53)


@lru_cache(maxsize=64)
def _steps(crs: str) -> tuple[float, Circle | None]:
    """Return in how many steps a unit of a CRS is told apart, and the circle that its x runs on."""
    circle = circle_of(crs) if crs else None
    return FINE * DEGREES / circle.turn if circle is not None and pyproj.CRS(crs).is_geographic else MILLI, circle


@dataclass(frozen=True, eq=False)
class Ranked:
    """Scores of calibration points, in ascending order.

    Attributes
    ----------
    scores : array (row,)
        Sorted.
    each : float
        Rows for each point: as many as the seeds that are pooled.
    """

    scores: Floats
    each: float = 1.0

    @property
    def points(self) -> float:
        """How many points there are."""
        return len(self.scores) / self.each

    def p_values(self, scores: Floats) -> Floats:
        """Return the share of points that conform no better than a score, the one that is asked for among them.

        Of several seeds, a point that is so for some counts whole: a p-value is above 1 - coverage where the score is at most the quantile.
        """
        below = np.searchsorted(self.scores, scores, side="left") / self.each
        return np.asarray((self.points + 1 - np.floor(below + SLACK)) / (self.points + 1))

    def rank(self, coverage: float) -> int:
        """Return the place of the quantile among the points in order, from 1: ceil((n + 1) coverage). Above n, it is infinite."""
        return max(1, math.ceil((self.points + 1) * coverage - SLACK))

    def quantile(self, coverage: float) -> float:
        """Return the quantile of the scores, infinite where there are too few points for the coverage.

        Of k seeds it is the score of place k times the rank among all. A class is in a set where its score is at most this.
        """
        at = math.ceil(self.rank(coverage) * self.each - SLACK)
        return float(self.scores[at - 1]) if at <= len(self.scores) else math.inf


class Sets(NamedTuple):
    """Which classes are in the set of each point, and how well each class conforms: both (point, class)."""

    held: Bools
    p_values: Floats


# ---- what a checkpoint holds


@dataclass(frozen=True, eq=False)
class TaskScores:
    """Scores of a task's calibration points.

    Attributes
    ----------
    scores : array (row,)
        Of the true class (:func:`misoxr.model.conformal.nonconformity`); of a regression, the absolute error in the task's units.
    groups : array of int (row,)
        The group that each is compared with: its class, its region (-1 for none), or 0 for all.
    each : float
        Rows for each point.
    """

    scores: Floats
    groups: Integers
    each: float = 1.0

    @cached_property
    def all(self) -> Ranked:
        """All points."""
        return Ranked(np.sort(self.scores), self.each)

    def of(self, group: int) -> Ranked:
        """Return the points of a group."""
        return Ranked(np.sort(self.scores[self.groups == group]), self.each)

    def to_dict(self) -> dict[str, Any]:
        """Return them as JSON values, exactly."""
        return {"scores": text_of(self.scores), "groups": text_of(self.groups.astype("int32")), "each": self.each}

    @classmethod
    def from_dict(cls, values: Any, count: int) -> Self:
        """Rebuild scores from :meth:`to_dict`, with groups of -1 to ``count`` - 1.

        Raises
        ------
        CheckpointError
            If a key is missing or unknown, or a value cannot be used.
        """
        if not isinstance(values, Mapping) or set(values) != {"scores", "groups", "each"}:
            found = sorted(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
            raise CheckpointError(f"Calibration scores have scores, groups and each, not {found}; save the model again.")
        try:
            scores, groups = array_of(values["scores"], "float64"), array_of(values["groups"], "int32").astype(np.intp)
            each = float(build(float, values["each"]))
        except SpecError as error:
            raise CheckpointError(f"Calibration scores cannot be read. {error}") from error
        if not len(scores) or len(groups) != len(scores) or not ((groups >= -1) & (groups < count)).all():
            raise CheckpointError(
                f"{len(scores)} calibration scores have {len(groups)} groups of -1 to {count - 1}; save the model again."
            )
        if not 1 <= each <= len(scores):
            raise CheckpointError(f"{each:g} of {len(scores)} calibration scores belong to each point; save the model again.")
        return cls(scores, groups, each)


@dataclass(frozen=True, eq=False)
class Conformal:
    """What a model knows of its own errors at points it had not learnt from: from it follow sets and intervals of any coverage.

    ``model.with_conformal(scores)`` makes it; it stands in the model's file.

    Attributes
    ----------
    tasks : mapping of str to TaskScores
        Scores by task.
    method : {"plain", "aps", "raps"}
        How classes are scored (:func:`misoxr.model.conformal.nonconformity`).
    by : {"", "class", "region"}
        For whom the coverage holds: for all points, for each class, or for each region.
    polygons : Polygons or None
        The regions.
    about : mapping
        Where the scores come from: the model's name among them, folds, seeds, number of points, whether they are simulated.

    Notes
    -----
    A set holds the classes whose score is at most the quantile of rank ``ceil((n + 1) coverage)`` among the n calibration points. Then the truth is
    in it with at least this probability, if pixels are like these points. In places that are farther from all training points
    than the folds were, nothing follows. An interval reaches as far to either side of the value as this quantile of the absolute errors.

    A class's p-value is the share of calibration points, itself counted among them, that conform no better. Credibility is the greatest p-value:
    near 0, no class conforms. Confidence is 1 less the second greatest: near 1, all other classes can be ruled out.

    References
    ----------
    Vovk et al. 2005, "Algorithmic Learning in a Random World". Lei et al. 2018, "Distribution-free predictive inference for regression", JASA 113.

    Examples
    --------
    >>> scores = image.miso.cross_validate("rf-11", points, cv=misoxr.BlockKFold(500, 3))
    >>> forest = image.miso.fit("rf-11", points).with_conformal(scores)
    >>> maps = image.miso.predict(forest, coverage=0.9)
    """

    tasks: Mapping[str, TaskScores]
    method: Method = "plain"
    by: By = ""
    polygons: Polygons | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        points = ", ".join(f"{name} ({one.all.points:.0f} points)" for name, one in self.tasks.items())
        return f"<misoxr.Conformal {self.method}{' by ' * bool(self.by)}{self.by}: {points}>"

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of what a file holds of it."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def __dask_tokenize__(self) -> str:
        """What a graph does depends on what a file would hold."""
        return self.sha256

    def by_of(self, task: Task) -> By:
        """Return for whom a task's coverage holds: values have no classes."""
        return "" if self.by == "class" and task.kind == "regression" else self.by

    def groups_of(self, task: Task) -> tuple[str, ...]:
        """Return the names of a task's groups; one without a name for all points."""
        if self.by_of(task) == "region":
            assert self.polygons is not None
            return self.polygons.names
        return task.classes if self.by_of(task) == "class" else ("",)

    @cached_property
    def _ranked(self) -> dict[tuple[str, int], Ranked]:
        return {}

    def ranked(self, task: Task, group: int) -> Ranked:
        """Return the calibration points of a group in order; all of them beyond all regions (group -1), and where there is one group."""
        if self.by_of(task) == "" or group < 0:
            return self.tasks[task.name].all
        key = task.name, group
        if key not in self._ranked:
            self._ranked[key] = self.tasks[task.name].of(group)
        return self._ranked[key]

    def _parts(self, task: Task, count: int, region: Integers | None) -> Iterator[tuple[Ranked, Any, Any]]:
        """Yield each group's calibration points, and the points and classes that are compared with them."""
        by, every = self.by_of(task), slice(None)
        if by == "class":
            yield from ((self.ranked(task, code), every, slice(code, code + 1)) for code in range(len(task.classes)))
        elif by == "region":
            assert region is not None
            yield from ((self.ranked(task, int(group)), region == group, every) for group in np.unique(region))
        elif count:
            yield self.tasks[task.name].all, every, every

    def sets(
        self, task: Task, probability: Floats, coverage: float, region: Integers | None = None, draw: Floats | None = None
    ) -> Sets:
        """Return the set of each point, and the classes' p-values.

        Parameters
        ----------
        task : Task
            A binary or multiclass task.
        probability : array, shape (point, class)
            Of all classes, two of a binary task; finite.
        coverage : float
            Between 0 and 1.
        region : array of int, shape (point,), optional
            Where the coverage holds by region, the region of each.
        draw : array, shape (point,), optional
            Of "aps" and "raps", what breaks ties (``draws`` of this module).
        """
        scores = nonconformity(probability, self.method, draw)
        held, p_values = np.zeros(scores.shape, dtype=bool), np.empty(scores.shape)
        for ranked, rows, columns in self._parts(task, len(scores), region):
            mine = scores[rows, columns]
            p_values[rows, columns], held[rows, columns] = ranked.p_values(mine), mine <= ranked.quantile(coverage)
        return Sets(held, p_values)

    def half_widths(self, task: Task, count: int, coverage: float, region: Integers | None = None) -> Floats:
        """Return how far the interval of each point reaches to either side of a regression's value, (point,)."""
        widths = np.empty(count)
        for ranked, rows, _ in self._parts(task, count, region):
            widths[rows] = ranked.quantile(coverage)
        return widths

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, exactly."""
        return {
            "tasks": {name: one.to_dict() for name, one in self.tasks.items()},
            "method": self.method,
            "by": self.by,
            "polygons": None if self.polygons is None else self.polygons.to_dict(),
            "about": dict(self.about),
        }

    @classmethod
    def from_dict(cls, values: Any, spec: ModelSpec) -> Self:
        """Rebuild it from :meth:`to_dict`, for the tasks of a specification.

        Raises
        ------
        CheckpointError
            If a key is missing or unknown, a value cannot be used, or it does not fit the tasks.
        """
        wanted = {"tasks", "method", "by", "polygons", "about"}
        if not isinstance(values, Mapping) or set(values) != wanted:
            found = sorted(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
            raise CheckpointError(
                f"What is known of a model's errors has {sorted(wanted)}, not {found}; was it written by another misoxr?"
            )
        method, by, tasks, about = (values[name] for name in ("method", "by", "tasks", "about"))
        fits = method in get_args(Method) and by in get_args(By) and isinstance(tasks, Mapping) and isinstance(about, Mapping)
        if not fits or not tasks or (by == "region") != (values["polygons"] is not None):
            raise CheckpointError("What is known of a model's errors contradicts itself; save the model again.")
        polygons = None if values["polygons"] is None else Polygons.from_dict(values["polygons"])
        empty = cls({}, method, by, polygons, dict(about))
        try:
            of = {name: TaskScores.from_dict(one, len(empty.groups_of(spec.task(name)))) for name, one in tasks.items()}
        except SpecError as error:
            raise CheckpointError(f"What is known of a model's errors is of other tasks. {error}") from error
        return cls(of, method, by, polygons, dict(about))
