"""Points whose place is known to some metres: asked at several places of the disk that holds them, and their answers averaged."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from misoxr.model.losses import joint
from misoxr.spec import Task
from misoxr.spec.standardisation import Standardisation

__all__ = ["DRAWS", "Disks", "averaged", "drawn"]

DRAWS = 4
"""Places of a disk that are asked in a step."""
TRIES = 8
"""Candidates for each of these: of the box around a disk, the disk takes more than three quarters, and invalid pixels some of these."""

Floats = npt.NDArray[np.float64]


def drawn(xy: Floats, radius: Floats, valid: npt.NDArray[np.bool_], rng: np.random.Generator) -> Floats:
    """Draw places uniformly from the parts of disks that lie in a window and on its valid pixels: (point, place, [x, y]).

    Parameters
    ----------
    xy : array (point, [x, y])
        Centres, in -1..1 of the window.
    radius : array (point,)
        In the same units.
    valid : array (size, size)
        Where the window has valid input. Where nothing of a disk has, its centre is asked.
    """
    low, high = (np.clip(xy + way * radius[:, None], -1, 1)[:, None] for way in (-1, 1))
    found = rng.uniform(low, high, (len(xy), TRIES * DRAWS, 2))
    size = len(valid)
    column, row = np.moveaxis(np.clip(((found + 1) / 2 * size).astype(int), 0, size - 1), -1, 0)
    fits = (((found - xy[:, None]) ** 2).sum(-1) <= radius[:, None] ** 2) & valid[row, column]
    first = np.argsort(~fits, axis=1, kind="stable")[:, :DRAWS]
    places = np.take_along_axis(found, first[..., None], axis=1)
    return np.where(np.take_along_axis(fits, first, axis=1)[..., None], places, xy[:, None])


class Disks(NamedTuple):
    """The places of a batch's uncertain points beside the one that stands among its points.

    Attributes
    ----------
    of : Tensor (U,)
        Which of the batch's points they belong to.
    sample : Tensor (U * (DRAWS - 1),)
        Their windows.
    points : Tensor (U * (DRAWS - 1), 2)
        x and y in -1..1 of the window.
    location : Tensor (U * (DRAWS - 1), 2) or None
        Scaled locations.
    """

    of: Tensor
    sample: Tensor
    points: Tensor
    location: Tensor | None

    @classmethod
    def of_batch(cls, batch: Mapping[str, Any], known: Tensor | None) -> Self | None:
        """Return the disks of a batch, of which only the ``known`` points are asked; None where there is none."""
        if "disks" not in batch:
            return None
        found, count = batch["disks"], batch["points"].shape[1]
        of, kept = found["of"], torch.ones_like(found["of"], dtype=torch.bool)
        if known is not None:
            kept = known[of]
        sample = (of[kept] // count).repeat_interleave(DRAWS - 1)
        location = found["location"][kept].flatten(0, 1) if "location" in found else None
        own = of[kept] if known is None else (known.cumsum(0) - 1)[of[kept]]
        return cls(own, sample, found["points"][kept].flatten(0, 1), location)


def averaged(
    tasks: Sequence[Task],
    logits: Mapping[str, Tensor],
    others: Mapping[str, Tensor],
    of: Tensor,
    standardisation: Mapping[str, Standardisation],
) -> dict[str, Tensor]:
    """Put the mean answer over a disk where that of its first place stands: of probabilities, or of a regression's values.

    The label holds for one place of the disk, and nobody knows which: its likelihood is the mean of the places' likelihoods. A mean of losses
    would ask every place of the disk to bear the label.

    Parameters
    ----------
    logits : mapping of str to Tensor
        (N, outputs), or (N, member, outputs), by task.
    others : mapping of str to Tensor
        The same at the other places of the disks, one disk after another.
    of : Tensor
        (U,) which of the N each disk is.
    """
    found = {}
    for task in tasks:
        first, rest = logits[task.name].float(), others[task.name].float()
        places = torch.cat([first[of][:, None], rest.unflatten(0, (len(of), DRAWS - 1))], dim=1)
        found[task.name] = first.index_copy(0, of, joint(task, places, standardisation.get(task.name)))
    return found
