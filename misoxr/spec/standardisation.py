"""Standardise the labels of a regression."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from misoxr.errors import CheckpointError, SpecError
from misoxr.spec.build import build
from misoxr.spec.components import Task
from misoxr.spec.numbers import is_rounding

__all__ = ["Standardisation"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Standardisation:
    """Labels of a regression as they are learnt: ``(label - shift) / scale``.

    Attributes
    ----------
    shift : float
        Mean of the training labels.
    scale : float
        Their standard deviation; 0 where they are all equal, and so is every answer then.

    Raises
    ------
    SpecError
        If the scale is negative.

    Examples
    --------
    >>> found = Standardisation.fit(np.array([1.0, 2.0, np.nan, 3.0]))
    >>> value = found.invert(found.apply(2.5))
    """

    shift: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale >= 0:
            raise SpecError(f"The scale of labels is {self.scale}; give 0 or more.")

    @classmethod
    def fit(cls, labels: Floats) -> Self:
        """Fit on training labels, NaN where unknown."""
        known = labels[np.isfinite(labels)]
        if not len(known):
            return cls()
        mean, deviation = float(known.mean()), float(known.std())
        equal = is_rounding(deviation, np.abs(known).max(), "float64")
        return cls(mean, 0.0 if equal else deviation)

    def apply(self, labels: Any) -> Any:
        """Standardise labels, an array or a tensor; they are all 0 where those of training were equal."""
        return (labels - self.shift) / self.scale if self.scale else labels * 0.0

    def invert(self, values: Any) -> Any:
        """Turn standardised values, an array or a tensor, back."""
        return values * self.scale + self.shift

    def to_dict(self) -> dict[str, float]:
        """Return the standardisation as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], task: Task) -> Self:
        """Rebuild a standardisation from :meth:`to_dict`.

        Raises
        ------
        CheckpointError
            If the task is no regression, or the values cannot be used.
        """
        if task.kind != "regression":
            raise CheckpointError(f"The labels of {task.name!r} are standardised, and it is {task.kind}; only a regression's are.")
        try:
            found = build(cls, values)
        except SpecError as error:
            raise CheckpointError(f"The standardisation of {task.name!r} cannot be read. {error}") from error
        assert isinstance(found, cls)
        return found
