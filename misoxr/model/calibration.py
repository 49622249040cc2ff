"""Calibrate a task's logits: a temperature fitted on held-out labels, and a shift to another prevalence."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax

from misoxr.errors import CheckpointError, PointsError, SpecError
from misoxr.metrics import check_codes
from misoxr.spec import Task
from misoxr.spec.build import build
from misoxr.spec.numbers import by_name

__all__ = ["Calibration", "fit_temperature", "prevalence_bias"]

Floats = npt.NDArray[np.floating[Any]]

TEMPERATURES = 0.05, 20.0
"""Bounds of a fitted temperature."""


@dataclass(frozen=True)
class Calibration:
    """Calibrated logits of a task: ``logits / temperature + bias``.

    Attributes
    ----------
    temperature : float
        Above 1 it draws probabilities towards even, below 1 towards 0 and 1 (:func:`fit_temperature`).
    bias : tuple of float
        Added after the division (:func:`prevalence_bias`): one value for a binary task, one per class for a multiclass task,
        empty for none.

    Raises
    ------
    SpecError
        If the temperature is not positive, or a value is not finite.

    References
    ----------
    Guo et al. 2017, "On calibration of modern neural networks", arXiv 1706.04599.

    Examples
    --------
    >>> calibration = Calibration(temperature=1.5)
    >>> probability = calibration.probabilities(PERMAFROST, np.array([[2.0], [-1.0]]))
    """

    temperature: float = 1.0
    bias: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        try:
            usable = all(math.isfinite(value) for value in (self.temperature, *self.bias)) and self.temperature > 0
        except (TypeError, OverflowError):
            usable = False
        if not usable:
            raise SpecError(
                f"A calibration has temperature {self.temperature!r} and bias {self.bias!r}; "
                "give a positive number, and a tuple of finite numbers."
            )
        object.__setattr__(self, "temperature", float(self.temperature))
        object.__setattr__(self, "bias", tuple(float(value) for value in self.bias))

    def apply(self, logits: npt.ArrayLike) -> Floats:
        """Calibrate logits.

        Parameters
        ----------
        logits : array_like, shape (point, output)
            One output for a binary task, one per class for a multiclass task. NaN stays NaN.

        Returns
        -------
        array, shape (point, output)
            In the precision of the logits.

        Raises
        ------
        SpecError
            If the shape does not fit.
        """
        values = np.asarray(logits)
        if values.ndim != 2 or len(self.bias) not in (0, values.shape[1]):
            raise SpecError(
                f"Logits of shape {values.shape} do not fit a calibration with {len(self.bias)} biases; give (point, output)."
            )
        if not np.issubdtype(values.dtype, np.floating):
            values = values.astype("float64")
        divided: Floats = values / self.temperature
        return divided + np.asarray(self.bias, dtype=values.dtype) if self.bias else divided

    def probabilities(self, task: Task, logits: npt.ArrayLike) -> Floats:
        """Return calibrated probabilities.

        Parameters
        ----------
        task : Task
            A binary or multiclass task.
        logits : array_like, shape (point, output)
            As in :meth:`apply`.

        Returns
        -------
        array
            Binary tasks: probability of the second class, (point,). Multiclass: (point, class).

        Raises
        ------
        SpecError
            If the task is a regression, or the logits do not have its number of outputs.
        """
        _refuse_regression(task)
        values = self.apply(logits)
        _check_outputs(task, values)
        found: Floats = expit(values[:, 0]) if task.kind == "binary" else softmax(values, axis=1)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the calibration as JSON values."""
        return {"temperature": self.temperature, "bias": list(self.bias)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], task: Task | None = None) -> Self:
        """Rebuild a calibration from :meth:`to_dict`.

        Parameters
        ----------
        values : mapping
            The JSON values.
        task : Task, optional
            The task it belongs to; the number of biases is checked against it.

        Raises
        ------
        CheckpointError
            If a key is missing or unknown, a value cannot be used, or the number of biases does not fit the task.
        """
        if not isinstance(values, Mapping) or set(values) != {"temperature", "bias"}:
            found = sorted(map(str, values)) if isinstance(values, Mapping) else repr(values)
            raise CheckpointError(f"A calibration has temperature and bias, not {found}; was it written by another misoxr?")
        try:
            calibration = build(cls, values)
        except SpecError as error:
            raise CheckpointError(f"The calibration cannot be read. {error}") from error
        assert isinstance(calibration, cls)
        if task is not None and len(calibration.bias) not in (0, task.outputs):
            raise CheckpointError(
                f"The calibration of {task.name!r} has {len(calibration.bias)} biases, and the task {task.outputs} outputs; "
                "take the calibration that was written with this model."
            )
        return calibration


def fit_temperature(task: Task, logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Fit the temperature with which held-out labels are most likely.

    Parameters
    ----------
    task : Task
        The task.
    logits : array_like, shape (point, output) or (point, member, output)
        Logits at points that took no part in training. Where a model has members, its probabilities are the mean of theirs, so each
        member's logits are divided by the temperature first.
    labels : array_like, shape (point,)
        Class codes, NaN where unknown; those points play no part.

    Returns
    -------
    float
        The most probable temperature of 0.05 to 20, where its logarithm is 0 with a standard deviation of 1 before any label is
        seen: few labels, or labels that are all foretold, do not move it far. Its negative log-likelihood is never above that
        of a temperature of 1. 1 for a regression, and where labels of fewer than two classes are known.

    Raises
    ------
    SpecError
        If the logits do not have the task's number of outputs.
    PointsError
        If the numbers of points differ, a label is no class code, or a labelled point has no logits.

    References
    ----------
    Guo et al. 2017, "On calibration of modern neural networks", arXiv 1706.04599.

    Examples
    --------
    >>> calibration = fit_temperature(PERMAFROST, np.array([[2.0], [-1.0], [0.5]]), np.array([1, 0, 0]))
    """
    if task.kind == "regression":
        return 1.0
    values, codes = _labelled(task, logits, labels)
    if len(np.unique(codes)) < 2:
        return 1.0

    values = values.reshape(len(values), -1, task.outputs)  # (point, member, output)

    def loss(log_temperature: float) -> float:
        return _loss(task, values / math.exp(log_temperature), codes) + log_temperature**2 / (2 * len(codes))

    # The prior may dig a second valley, so the deepest is looked for first.
    steps = np.linspace(math.log(TEMPERATURES[0]), math.log(TEMPERATURES[1]), 61)
    deepest = int(np.argmin([loss(step) for step in steps]))
    bounds = steps[max(0, deepest - 1)], steps[min(len(steps) - 1, deepest + 1)]
    found = float(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)
    # A bounded search never quite reaches a bound, which may be the best; 1 comes first among equals.
    return float(np.clip(math.exp(min((0.0, found, *bounds), key=loss)), *TEMPERATURES))


def prevalence_bias(task: Task, assumed: float | Mapping[str, float], wanted: float | Mapping[str, float]) -> tuple[float, ...]:
    """Return the bias that moves calibrated logits from one prevalence to another.

    Parameters
    ----------
    task : Task
        A binary or multiclass task.
    assumed : float, or mapping of str to float
        Shares of the classes where the model was calibrated (usually those of its labels). Binary tasks: the share of the second
        class. Multiclass: a share for every class by name, with a sum of 1.
    wanted : float, or mapping of str to float
        The same where the map is made.

    Returns
    -------
    tuple of float
        For :class:`Calibration`: one value for a binary task, one per class for a multiclass task.

    Raises
    ------
    SpecError
        If the task is a regression; shares are missing, unknown, negative or do not sum to 1 (within 1e-6); a wanted share is 0
        or 1; or a class is wanted that was never seen.

    Notes
    -----
    By Bayes' rule the posterior odds change as the prior odds do, as long as each class looks the same in both places: the logit
    by ``logit(wanted) - logit(assumed)``, the logits of classes by ``log(wanted / assumed)``. A class of share 0 in both keeps
    bias 0: the model never saw it and there is nothing to correct. To rule a seen class out, want a small share, not 0.

    References
    ----------
    Saerens et al. 2002, "Adjusting the outputs of a classifier to new a priori probabilities", Neural Computation 14, 21-41.

    Examples
    --------
    >>> bias = prevalence_bias(PERMAFROST, 0.5, 0.3)
    """
    _refuse_regression(task)
    if task.kind == "binary":
        return (float(logit(_share(task, "wanted", wanted)) - logit(_share(task, "assumed", assumed))),)
    before, after = _shares(task, "assumed", assumed), _shares(task, "wanted", wanted)
    bias = []
    for name, old, new in zip(task.classes, before, after, strict=True):
        if old == 0 and new > 0:
            raise SpecError(
                f"A share of {new:g} is given for class {name!r}, which was never seen in training; train with it, or give 0."
            )
        if old > 0 and new == 0:
            raise SpecError(f"A share of 0 is given for class {name!r}, which would rule it out; give a small share, such as 1e-4.")
        bias.append(math.log(new / old) if old > 0 else 0.0)
    return tuple(bias)


def _refuse_regression(task: Task) -> None:
    if task.kind == "regression":
        raise SpecError(f"Task {task.name!r} is a regression and has no probabilities; calibrate binary and multiclass tasks.")


def _check_outputs(task: Task, logits: Floats, *, members: bool = False) -> None:
    fits = logits.ndim == 2 or (members and logits.ndim == 3 and logits.shape[1] > 0)
    if not fits or logits.shape[-1] != task.outputs:
        several = f" or (point, member, {task.outputs})" if members else ""
        raise SpecError(f"Logits of {task.name!r} have shape {logits.shape}; give (point, {task.outputs}){several}.")


def _labelled(task: Task, logits: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Return the logits (point, output) or (point, member, output), and class codes (point,), of the points that have a label."""
    values, codes = np.asarray(logits, dtype="float64"), np.asarray(labels, dtype="float64")
    _check_outputs(task, values, members=True)
    if codes.shape != (len(values),):
        raise PointsError(f"Labels of {task.name!r} have shape {codes.shape}, and logits {values.shape}; give one label a point.")
    known = ~np.isnan(codes)
    values, codes = values[known], codes[known]
    check_codes(task, codes)
    missing = ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if missing.any():
        raise PointsError(f"{int(missing.sum())} labelled points have no logits of {task.name!r} (nodata); leave them out first.")
    return values, codes.astype(np.intp)


def _loss(task: Task, logits: Floats, codes: npt.NDArray[np.intp]) -> float:
    """Return the mean negative log-likelihood of the members' mean probabilities, nats, from logits (point, member, output)."""
    if task.kind == "binary":
        each = -np.logaddexp(0, np.where(codes[:, None] == 1, -logits[..., 0], logits[..., 0]))
    else:
        each = log_softmax(logits, axis=-1)[np.arange(len(codes)), :, codes]
    likelihood = np.logaddexp.reduce(each, axis=1) - math.log(logits.shape[1])  # (point,)
    return float(-likelihood.mean())


def _share(task: Task, which: str, value: float | Mapping[str, float]) -> float:
    share = _number(value)
    if not 0 < share < 1:
        raise SpecError(
            f"The {which} share of {task.classes[1]!r} is {value!r}; give a number above 0 and below 1, such as 1e-4 for nearly never."
        )
    return share


def _number(value: Any) -> float:
    """Return a share, NaN where it is no number: the record of a checkpoint may hold anything."""
    try:
        return float(build(float, value))
    except SpecError:
        return math.nan


def _shares(task: Task, which: str, values: float | Mapping[str, float]) -> list[float]:
    """Return the shares in the order of the classes, with a sum of exactly 1."""
    values = by_name(values, f"{which} shares of {task.name!r}")
    if not isinstance(values, Mapping) or set(values) != set(task.classes):
        raise SpecError(f"The {which} shares of {task.name!r} are {values!r}; give one for each of {task.classes}.")
    shares = [_number(values[name]) for name in task.classes]
    total = math.fsum(shares)
    if min(shares) < 0 or not abs(total - 1) <= 1e-6:
        raise SpecError(
            f"The {which} shares of {task.name!r} are {shares}, with a sum of {total:g}; give shares of 0 or more that sum to 1."
        )
    return [share / total for share in shares]
