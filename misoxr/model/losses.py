"""Losses of labelled points; a missing label is NaN and costs nothing."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from misoxr.spec import Task

__all__ = ["contrast", "task_loss", "total_loss"]


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


def contrast(one: Tensor, other: Tensor, temperature: float = 0.1) -> Tensor:
    """Symmetric InfoNCE between two embeddings of the same points: the sum of both directions' cross-entropies.

    Parameters
    ----------
    one, other : Tensor
        (B, N, C); normalised here. A point's positive is the other embedding of the same sample and point, its negatives are
        those of the batch's other samples at the same point index.
    temperature : float
        Divides the cosine similarity.

    References
    ----------
    van den Oord et al. 2018, as used in arXiv 2506.17302.
    """
    one, other = F.normalize(one.float(), dim=-1).transpose(0, 1), F.normalize(other.float(), dim=-1).transpose(0, 1)
    similarity = one @ other.transpose(1, 2) / temperature  # (N, B, B)
    target = torch.arange(similarity.shape[-1], device=one.device).expand(len(similarity), -1)
    return F.cross_entropy(similarity.transpose(1, 2), target) + F.cross_entropy(similarity, target)
