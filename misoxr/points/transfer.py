"""Transfer labels between tasks: a soil order tells of permafrost where points with both labels say so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt

from misoxr.points.censoring import observed, scored
from misoxr.spec import Task

__all__ = ["Transfer", "transfer_labels", "transferred", "transfers"]

Floats = npt.NDArray[np.float64]
LEAST = 30
"""Points with both labels that a table needs."""
GROUPS = 5
"""Groups of about equal size that a regression's values are sorted into."""
FULL = 10.0
"""Points of a group that are half believed."""
PRIOR = 1.0
"""Points that each group is given beforehand, with labels as all points have them: a group of two or three says little."""


@dataclass(frozen=True)
class Transfer:
    """What the label of one task tells of another's: a table of the points that have both.

    Attributes
    ----------
    source, target : str
        The tasks.
    edges : tuple of float
        Values that part the groups of a source that is a regression; empty where its classes are the groups.
    labels : tuple of float
        For each group of the source, the target's label: its most frequent class, or the mean of a regression.
    weights : tuple of float
        For each group, how certain that label is, from 0 (no better than without the source) to 1.
    points : tuple of int
        For each group, the number of points with both labels.
    """

    source: str
    target: str
    edges: tuple[float, ...]
    labels: tuple[float, ...]
    weights: tuple[float, ...]
    points: tuple[int, ...]

    @classmethod
    def fit(cls, source: Task, target: Task, labels: Mapping[str, Floats]) -> "Transfer | None":
        """Count the points that have both labels; None where they are too few."""
        told, wanted = labels[source.name], labels[target.name]
        both = np.isfinite(told) & np.isfinite(wanted)
        if both.sum() < LEAST:
            return None
        edges: tuple[float, ...] = ()
        if source.kind == "regression":
            edges = tuple(np.unique(np.quantile(told[both], np.arange(1, GROUPS) / GROUPS)).tolist())
        count = len(edges) + 1 if source.kind == "regression" else len(source.classes)
        groups, values = _groups(told[both], edges), wanted[both]
        found = [_told(values[groups == group], values, target) for group in range(count)]
        sizes = tuple(int((groups == group).sum()) for group in range(count))
        return cls(source.name, target.name, edges, tuple(one for one, _ in found), tuple(one for _, one in found), sizes)

    def apply(self, told: Floats) -> tuple[Floats, Floats]:
        """Return labels and their weights for the source's labels, NaN and 0 where there is none."""
        known = np.isfinite(told)
        groups = _groups(np.where(known, told, 0.0), self.edges)
        weights = np.where(known, np.array(self.weights)[groups], 0.0)
        return np.where(weights > 0, np.array(self.labels)[groups], np.nan), weights

    def to_dict(self) -> dict[str, Any]:
        """Return the table as JSON values."""
        return {
            "source": self.source,
            "target": self.target,
            "edges": list(self.edges),
            "labels": list(self.labels),
            "weights": [round(weight, 4) for weight in self.weights],
            "points": list(self.points),
        }


def _groups(told: Floats, edges: Sequence[float]) -> npt.NDArray[np.intp]:
    return np.searchsorted(edges, told, side="right") if edges else told.astype(np.intp)


def _told(values: Floats, everywhere: Floats, target: Task) -> tuple[float, float]:
    """Return a group's label and how much less uncertain it is there than among all points: of entropy, or of variance."""
    if target.kind == "regression":
        share = PRIOR / (len(values) + PRIOR)
        mean = float(everywhere.mean() if not len(values) else (1 - share) * values.mean() + share * everywhere.mean())
        spread = np.concatenate([values, everywhere]), np.repeat([1.0, PRIOR / len(everywhere)], [len(values), len(everywhere)])
        variance = float(np.average((spread[0] - mean) ** 2, weights=spread[1]))
        return mean, _gain(variance * len(values) / max(len(values) - 1, 1), float(everywhere.var())) * _evidence(values)
    shares = np.bincount(everywhere.astype(int), minlength=len(target.classes)) / len(everywhere)
    counts = np.bincount(values.astype(int), minlength=len(target.classes)) + PRIOR * shares
    # Few points look more certain than they are: Miller 1955 corrects the entropy by (classes - 1) / 2n.
    missed = ((shares > 0).sum() - 1) / (2 * max(len(values), 1))
    return float(counts.argmax()), _gain(_entropy(counts / counts.sum()) + missed, _entropy(shares)) * _evidence(values)


def _evidence(values: Floats) -> float:
    """Return how far a group's points are believed, from 0 for none to 1 for many."""
    return len(values) / (len(values) + FULL)


def _gain(left: float, whole: float) -> float:
    return max(0.0, 1 - left / whole) if whole > 0 else 0.0


def _entropy(shares: Floats) -> float:
    return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())


def transfers(tasks: Sequence[Task], labels: Mapping[str, Floats], counts: Mapping[str, Floats] | None = None) -> list[Transfer]:
    """Return the tables of all pairs of tasks that some point lacks the one label of and has the other.

    Labels that count less than 1 take no part.

    Parameters
    ----------
    tasks : sequence of Task
        The tasks.
    labels : mapping of str to array (point,)
        Codes or values by task, NaN where unknown (:func:`misoxr.points.encode`).
    counts : mapping of str to array (point,), optional
        What the labels of a task count, where some count less than 1.
    """
    sure, found = scored(labels, counts or {}), []
    for source, target in permutations(tasks, 2):
        wanting = np.isfinite(sure[source.name]) & ~np.isfinite(labels[target.name])
        table = Transfer.fit(source, target, sure) if wanting.any() else None
        if table is not None and max(table.weights) > 0:
            found.append(table)
    return found


def transferred(
    labels: Mapping[str, Floats], tables: Sequence[Transfer], counts: Mapping[str, Floats] | None = None
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Fill missing labels by tables, each from the source that tells it most certainly.

    A label that counts less than 1 stays, and tells nothing: a table holds for labels that are certain.

    Returns
    -------
    labels, weights : dict of str to array (point,)
        Weights are 1 for labels of a point's own, or what they count, less for those transferred, and 0 where there is none.
    """
    sure = scored(labels, counts or {})
    filled = {name: values.copy() for name, values in labels.items()}
    weights = {name: np.isfinite(values) * (counts or {}).get(name, 1.0) for name, values in labels.items()}
    for table in tables:
        values, certain = table.apply(sure[table.source])
        better = ~np.isfinite(labels[table.target]) & (certain > weights[table.target])
        filled[table.target][better] = values[better]
        weights[table.target][better] = certain[better]
    return filled, weights


def transfer_labels(points: gpd.GeoDataFrame, tasks: Sequence[Task]) -> gpd.GeoDataFrame:
    """Give points the labels that their other labels tell: of permafrost by the soil order, say.

    A table counts the points that have both labels. For each class of the one task it names the most frequent class of the other. Its weight
    says how certain that is: the share of the entropy (for a regression, of the variance) that the class takes away, less where few points
    tell so. It is 0 where the class tells nothing, and near 1 where many points agree. :func:`misoxr.training.fit.fit` does the same by itself (``transfer="auto"``).

    Parameters
    ----------
    points : GeoDataFrame
        Points with columns of labels, named after tasks. A pair of tasks needs 30 points with both labels. Where there is a column "depth",
        right-censored labels tell nothing, and weigh the share of the task's depth that was seen.
    tasks : sequence of Task
        The tasks, of any kind. The values of a regression are sorted into five groups.

    Returns
    -------
    GeoDataFrame
        The points with missing labels filled where they are told, classes by their names, and a column ``<task>_weight`` for each task. The tables are in
        ``attrs["transfer"]``.

    Raises
    ------
    PointsError
        If no task has a label, or a label is not a class of its task.

    Warns
    -----
    MisoxrWarning
        If labels are right-censored.

    Examples
    --------
    >>> filled = misoxr.points.transfer_labels(points, [misoxr.spec.PERMAFROST, misoxr.spec.TAXONOMY])
    >>> certain = filled[filled.permafrost_weight > 0.5]
    """
    labels, counts, _ = observed(points, tasks, "weight")
    tables = transfers(tasks, labels, counts)
    filled, weights = transferred(labels, tables, counts)
    out = points.copy()
    for task in tasks:
        values = filled[task.name]
        if task.kind != "regression":  # all by name: names beside codes would be refused
            values = np.array([task.classes[int(code)] if np.isfinite(code) else None for code in values], dtype=object)
        out[task.name] = values
        out[f"{task.name}_weight"] = weights[task.name]
    out.attrs["transfer"] = [table.to_dict() for table in tables]
    return out
