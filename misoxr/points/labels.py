"""Encode labels as class codes or values: classes by name, in any type, or by code."""

import re
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from numbers import Real
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from misoxr.errors import PointsError
from misoxr.points.readers import is_missing, number_of, refuse_fills
from misoxr.spec import Task
from misoxr.spec.words import trimmed

__all__ = ["codes", "named"]

Way = Literal["name", "code", "several", "unknown"]
"""How a label tells its class; "several" where it is the name of more than one."""

TRUTHS = dict.fromkeys(("true", "yes", "t", "y"), True) | dict.fromkeys(("false", "no", "f", "n"), False)
"""Names of classes that say what a boolean does."""


class _Legend:
    """The labels that a task knows."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.names = {trimmed(name): code for code, name in enumerate(task.classes)}
        self.truths = {TRUTHS[name.lower()]: code for name, code in self.names.items() if name.lower() in TRUTHS}
        self.numbers: defaultdict[Decimal, list[int]] = defaultdict(list)
        for name, code in self.names.items():
            number = number_of(name)
            if number is not None:
                self.numbers[number].append(code)

    def read(self, value: Any) -> tuple[float, Way]:
        """Return the code of a known label, or the value of a regression, NaN where it tells none, and how it was told."""
        truth = _truth(value)
        if self.task.kind == "regression":
            return (np.nan, "unknown") if truth is not None else (_value(value), "code")
        number = number_of(value) if truth is None else Decimal(truth)
        same = self.numbers.get(number, []) if number is not None else []
        if len(same) > 1:
            return np.nan, "several"
        if isinstance(value, str) and trimmed(value) in self.names:
            return float(self.names[trimmed(value)]), "name"
        if truth is not None and self.truths:
            return (float(self.truths[truth]), "name") if truth in self.truths else (np.nan, "unknown")
        if number is None or (truth is not None and self.task.kind != "binary"):
            return np.nan, "unknown"
        if same:
            return float(same[0]), "name"
        # Where classes are named by numbers, a number that is none of them may be a code, or a class that the legend lacks.
        if self.numbers or number not in range(len(self.task.classes)):
            return np.nan, "unknown"
        return float(number), "code"


def _truth(value: Any) -> bool | None:
    """Return the truth of a boolean, also written as text; None for anything else."""
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return bool(value) if isinstance(value, bool | np.bool_) else None


def _value(value: Any) -> float:
    """Return the value of a regression's label, NaN where it is no number."""
    if isinstance(value, Real):
        return float(value)
    number = number_of(value)
    return np.nan if number is None else float(number)


def _cells(column: pd.Series) -> Iterator[Any]:
    """Yield the cells in the type that they are kept in, None where one is missing."""
    values: Any = column.array
    if isinstance(values, pd.Categorical):
        categories = list(values.categories.array)
        values = [categories[code] if code >= 0 else None for code in values.codes]
    return (None if is_missing(value) else value for value in values)


def codes(column: pd.Series, task: Task) -> npt.NDArray[np.float64]:
    """Return labels as class codes, or as the values of a regression; NaN where missing.

    Raises
    ------
    PointsError
        If a known label is no class of the task, or no number; if it is the name of several classes, as 1 is of "1" and "1.0"; or
        if some labels are names and others codes; or if values of a regression are a usual fill value, far from all others.
    """
    legend, cells = _Legend(task), list(_cells(column))
    read = [(np.nan, None) if value is None else legend.read(value) for value in cells]
    found = np.array([code for code, _ in read], dtype="float64")
    ways: defaultdict[Way, list[Any]] = defaultdict(list)
    for value, (code, way) in zip(cells, read, strict=True):
        if way is not None:
            ways[way if np.isfinite(code) or way == "several" else "unknown"].append(value)
    if ways["several"]:
        label = _plain(ways["several"][0])
        raise PointsError(
            f"The label {label!r} of {task.name!r} is the name of several of the classes {list(task.classes)}, which are one number "
            "in other spellings; give the task classes that are different numbers."
        )
    if ways["unknown"]:
        raise PointsError(_unknown(ways["unknown"], found, legend))
    if task.kind != "regression" and ways["name"] and ways["code"]:
        name, code = (_plain(ways[way][0]) for way in ("name", "code"))
        raise PointsError(
            f"Labels of {task.name!r} are names, such as {name!r}, and codes, such as {code!r}; the classes are "
            f"{list(task.classes)}. Write all labels as names."
        )
    if task.kind == "regression":
        refuse_fills(found, str(column.name), f"labels of {task.name!r}")
    return found


def _unknown(values: list[Any], found: npt.NDArray[np.float64], legend: _Legend) -> str:
    """Say which labels are unknown, and what to do."""
    task, kinds = legend.task, sorted({repr(_plain(value)) for value in values})
    known, remedy = "the task takes numbers", "Rename those labels, or set them to missing"
    if task.classes:
        known = f"the classes are {list(task.classes)} or their codes from 0"
    if {str(len(task.classes)), f"{len(task.classes)}.0"} & set(kinds) and 0 not in found:
        remedy = "The codes seem to begin at 1: subtract 1"
    if near := _near(values, legend):
        column = repr(task.name)
        others = "" if len(near) == len(kinds) else ", and set others to missing"
        remedy = f"Write them as the classes are: points[{column}] = points[{column}].replace({near}){others}"
    if legend.numbers:
        known = f"the classes are {list(task.classes)}, and numbers are their names, not their codes"
        remedy = "Write codes as names, add the classes that are missing, or set those labels to missing"
    more = ", ..." if len(kinds) > 10 else ""
    return f"{len(values)} labels of {task.name!r} are unknown ({', '.join(kinds[:10])}{more}); {known}. {remedy}."


def _near(values: list[Any], legend: _Legend) -> dict[str, str]:
    """Return the classes that labels seem to mean, which differ in case, spaces or the plural alone."""

    def bare(name: str) -> str:
        return re.sub(r"[\W_]", "", name).casefold().removesuffix("s")

    meant: defaultdict[str, set[str]] = defaultdict(set)
    for name in legend.names:
        meant[bare(name)].add(name)
    labels = sorted({value for value in values if isinstance(value, str) and bare(value)})
    if legend.task.kind == "binary":  # the second class is what the task speaks of
        for word, truth in TRUTHS.items():
            meant[bare(word)].add(legend.task.classes[truth])
    return {label: min(meant[bare(label)]) for label in labels if len(meant[bare(label)]) == 1}


def _plain(value: Any) -> Any:
    """Return a label as people write it."""
    return value.item() if isinstance(value, np.generic) else value


def named(column: pd.Series, task: Task | str) -> pd.Series:
    """Return labels in words, None where missing: a known class by its name, whichever way it is written."""
    legend = None if isinstance(task, str) or not task.classes else _Legend(task)

    def words(value: Any) -> str | None:
        if value is None:
            return None
        code = np.nan if legend is None else legend.read(value)[0]
        if legend is not None and np.isfinite(code):
            return legend.task.classes[int(code)]
        return str(int(value)) if isinstance(value, float | np.floating) and float(value).is_integer() else trimmed(str(value))

    return pd.Series([words(value) for value in _cells(column)], dtype=object)
