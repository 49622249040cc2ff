"""How a network was trained, as its record tells: the losses of each epoch."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any, Self

__all__ = ["History"]

MOST = 5_000
"""Epochs that are read: a record may come from a file of others."""


@dataclass(frozen=True)
class History:
    """Losses and accuracy by epoch, NaN where they are not known.

    Attributes
    ----------
    training : list of float
        Mean training loss.
    validation, accuracy : list of float
        Loss and accuracy of the validation points; empty where nothing validated.
    best : int or None
        The epoch whose weights were kept, from 0.
    """

    training: list[float]
    validation: list[float]
    accuracy: list[float]
    best: int | None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """Read a model's record; what is not as training writes it is left out."""
        training = _column(record.get("training"), "loss")
        validation, accuracy = (_column(record.get("validation"), name) for name in ("loss", "accuracy"))
        best, count = record.get("best_epoch"), max(len(training), len(validation))
        known = isinstance(best, int) and not isinstance(best, bool) and 0 <= best < count
        return cls(training, validation, accuracy, best if known else None)

    @property
    def epochs(self) -> int:
        """Number of epochs that are told of."""
        return max(len(self.training), len(self.validation))


def _column(epochs: Any, name: str) -> list[float]:
    """Return a number of each epoch; nothing where there is none in all of them."""
    if not isinstance(epochs, list | tuple):
        return []
    values = [_number(epoch.get(name)) if isinstance(epoch, Mapping) else nan for epoch in epochs[:MOST]]
    return values if any(map(isfinite, values)) else []


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return nan
    try:
        return float(value) if isfinite(value) else nan
    except OverflowError:
        return nan
