"""Losses of labelled points, and the contrastive loss of embeddings. A missing label is NaN and costs nothing."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from misoxr.spec import LossSpec, Task
from misoxr.spec.standardisation import Standardisation

__all__ = ["contrast", "contrasts", "joint", "learnt", "task_loss", "total_loss"]


def task_loss(
    task: Task,
    logits: Tensor,
    labels: Tensor,
    smoothing: float = 0.0,
    weights: Tensor | None = None,
    focus: float = 2.0,
    standardisation: Standardisation | None = None,
    counts: Tensor | None = None,
) -> Tensor:
    """Mean loss of one task over the points that have its label.

    Parameters
    ----------
    task : Task
        Its ``loss`` says which.
    logits : Tensor
        (N, outputs)
    labels : Tensor
        (N,) class codes or values, NaN where missing. Or (N, outputs) what a teacher answered: a probability of the second class, probabilities of
        the classes, or values.
    smoothing : float
        Label smoothing of classes.
    weights : Tensor, optional
        (class,) weight of each class; the mean is then the weighted one.
    focus : float
        Exponent of the focal loss.
    standardisation : Standardisation, optional
        How a regression's labels are standardised.
    counts : Tensor, optional
        (N,) what each label of a class counts, where they are codes; all alike by default.

    Returns
    -------
    Tensor
        A scalar; 0 where no point has a label.

    References
    ----------
    Lin et al. 2017 for the focal loss.
    """
    # Nothing is selected: how many are known would have to be read from a device, and it would be waited for.
    known, logits = _is_known(labels), logits.float()
    logits = torch.where(
        known[:, None], logits, 0.0
    )  # no number of a point without a label enters a sum, not even by a factor of 0
    counts = None if counts is None else torch.where(known, counts, 0.0)
    labels = torch.where(known.reshape(-1, *[1] * (labels.ndim - 1)), labels, 0.0)
    if task.kind == "regression":
        values = learnt(task, labels.flatten())
        values = (values if standardisation is None else standardisation.apply(values)).float()
        return _mean((logits[:, 0] - values) ** 2, known.float())
    if task.kind == "binary":
        # As a softmax over two classes, of which the first one's logit is 0: the same loss, and one form for all.
        logits = torch.cat([torch.zeros_like(logits), logits], dim=-1)
        labels = torch.cat([1 - labels, labels], dim=-1) if labels.ndim == 2 else labels
    if labels.ndim == 2:
        return _soft_loss(task, logits, labels.float(), known.float()[:, None], smoothing, weights, focus)
    codes = labels.long()
    losses = F.cross_entropy(logits, codes, reduction="none", label_smoothing=smoothing)
    if task.loss == "focal":
        losses = losses * (1 - logits.softmax(-1).gather(1, codes[:, None])[:, 0]) ** focus
    weight = known.float() if weights is None else known * weights[codes]
    return _mean(losses, weight if counts is None else weight * counts)


def _mean(losses: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean, 0 where all weights are 0."""
    total = weight.sum()
    return (losses * weight).sum() / torch.where(total > 0, total, 1.0)


def _soft_loss(
    task: Task, logits: Tensor, shares: Tensor, known: Tensor, smoothing: float, weights: Tensor | None, focus: float
) -> Tensor:
    """Mean cross-entropy to probabilities of classes (N, class), each class by its weight, where they are known (N, 1)."""
    shares = ((1 - smoothing) * shares + smoothing / shares.shape[-1]) * known
    losses = -logits.log_softmax(-1)
    if task.loss == "focal":
        losses = losses * (1 - logits.softmax(-1)) ** focus
    return _mean(losses, shares if weights is None else shares * weights)


def _is_known(labels: Tensor) -> Tensor:
    """Return which points have a label: codes or values (N,), or what a teacher answered (N, outputs)."""
    return labels.isfinite() if labels.ndim == 1 else labels.isfinite().all(-1)


def learnt(task: Task, labels: Tensor) -> Tensor:
    """Return what is standardised of a regression's labels: they themselves, or log(1 + value)."""
    return labels.log1p() if task.loss == "mse_log1p" else labels


def joint(task: Task, logits: Tensor, standardisation: Standardisation | None = None) -> Tensor:
    """Return the logits of what members answer in the mean, as a map has it: (N, member, outputs) -> (N, outputs).

    The mean is taken of probabilities; of a regression of values, in the labels' units, which are not linear in the logits where their
    logarithm is learnt.
    """
    values, several = logits.float(), math.log(logits.shape[1])
    if task.kind == "multiclass":
        return values.log_softmax(-1).logsumexp(1) - several
    if task.kind == "binary":
        return F.logsigmoid(values).logsumexp(1) - F.logsigmoid(-values).logsumexp(1)
    if task.loss != "mse_log1p":
        return values.mean(1)
    standards = standardisation or Standardisation()
    # log(1 + mean of the values) is the log of the mean of their exponentials.
    means: Tensor = standards.apply(standards.invert(values.double()).logsumexp(1) - several)
    return means.float()


def total_loss(
    tasks: Sequence[Task],
    logits: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    smoothing: float = 0.0,
    weights: Mapping[str, Tensor] | None = None,
    focus: float = 2.0,
    standardisation: Mapping[str, Standardisation] | None = None,
    counts: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Sum of the losses of all tasks."""
    weights, standards, counts = weights or {}, standardisation or {}, counts or {}
    losses = []
    for task in tasks:
        name = task.name
        of_labels = weights.get(name), focus, standards.get(name), counts.get(name)
        losses.append(task_loss(task, logits[name], labels[name], smoothing, *of_labels))
    return torch.stack(losses).sum()


def contrast(one: Tensor, other: Tensor, temperature: float = 0.1, valid: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE between two embeddings of the same points: the sum of both directions' cross-entropies.

    Parameters
    ----------
    one, other : Tensor
        (B, N, C); normalised here. A point's positive is the other embedding of the same sample and point, its negatives are
        those of the batch's other samples at the same point index.
    temperature : float
        Divides the cosine similarity.
    valid : Tensor, optional
        (B, N) which points take part; all by default.

    Returns
    -------
    Tensor
        A scalar; 0 where no point takes part.

    References
    ----------
    van den Oord et al. 2018, as used in arXiv 2506.17302.
    """
    one, other = F.normalize(one.float(), dim=-1).transpose(0, 1), F.normalize(other.float(), dim=-1).transpose(0, 1)
    similarity = one @ other.transpose(1, 2) / temperature  # (N, B, B)
    target = torch.arange(similarity.shape[-1], device=one.device).expand(len(similarity), -1)
    if valid is None:
        return F.cross_entropy(similarity.transpose(1, 2), target) + F.cross_entropy(similarity, target)
    valid = valid.T  # (N, B)
    # What is out is nobody's negative, and is not asked.
    similarity = similarity.masked_fill(~(valid[:, :, None] & valid[:, None, :]), -1e9)
    target = target.masked_fill(~valid, -100)
    both = [F.cross_entropy(part, target, reduction="sum") for part in (similarity.transpose(1, 2), similarity)]
    return torch.stack(both).sum() / valid.sum().clamp(min=1)


def contrasts(spec: LossSpec, embedded: Mapping[str, Tensor], valid: Tensor | None = None) -> Tensor:
    """Weighted sum of the contrasts of a specification, from embeddings (B, N, C) by name."""
    losses = [weight * contrast(embedded[one], embedded[other], spec.temperature, valid) for one, other, weight in spec.contrast]
    return torch.stack(losses).sum()
