"""Losses of labelled points; a missing label is NaN and costs nothing."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from misoxr.spec import Task

__all__ = ["task_loss", "total_loss"]


def task_loss(task: Task, logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean loss of one task over the points that have its label.

    Parameters
    ----------
    task : Task
        Binary cross-entropy for binary tasks, cross-entropy for multiclass, mean squared error for regression.
    logits : Tensor
        (N, outputs)
    labels : Tensor
        (N,) class codes or values, NaN where missing.
    smoothing : float
        Label smoothing of classes.

    Returns
    -------
    Tensor
        A scalar; 0 where no point has a label.
    """
    known = labels.isfinite()
    if not bool(known.any()):
        return logits.sum() * 0
    logits, labels = logits[known].float(), labels[known]
    if task.kind == "multiclass":
        return F.cross_entropy(logits, labels.long(), label_smoothing=smoothing)
    if task.kind == "regression":
        return F.mse_loss(logits[:, 0], labels.float())
    return F.binary_cross_entropy_with_logits(logits[:, 0], labels.float() * (1 - smoothing) + smoothing / 2)


def total_loss(tasks: Sequence[Task], logits: Mapping[str, Tensor], labels: Mapping[str, Tensor], smoothing: float = 0.0) -> Tensor:
    """Sum of the losses of all tasks."""
    return torch.stack([task_loss(task, logits[task.name], labels[task.name], smoothing) for task in tasks]).sum()
