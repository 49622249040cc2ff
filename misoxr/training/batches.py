"""Batches for the loop: each training batch follows from the seed and its step alone; validation batches are always the same."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from misoxr.spec import Recipe
from misoxr.training.windows import Batch, Draw, Integers, TrainingWindows

__all__ = ["Step", "StepOrder", "TrainingBatches", "ValidationBatches", "draw_of"]


Step = tuple[int, int, int]
"""Epoch, step in it, and device."""


def draw_of(recipe: Recipe) -> Draw:
    """Return how a recipe draws windows."""
    names = ("unlabelled", "labels", "random", "regular", "augment", "power", "jitter")
    return Draw(recipe.batch_size, **{name: getattr(recipe, name) for name in names})


class TrainingBatches(Dataset[Batch]):
    """Training batches: each follows from the seed and its step alone, whichever process draws it."""

    def __init__(self, data: TrainingWindows, points: Integers, recipe: Recipe, seed: int) -> None:
        self.data, self.points, self.seed = data, points, seed
        self.draw = draw_of(recipe)
        self.weights = data.balance(points, recipe.power)

    def __getitem__(self, step: Step) -> Batch:
        return self.data.draw(self.points, self.weights, self.draw, np.random.default_rng([self.seed, *step]))


class StepOrder(Sampler[Step]):
    """The steps of an epoch on this device."""

    def __init__(self, steps: int) -> None:
        self.steps, self.epoch = steps, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning tells the epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Step]:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        return ((self.epoch, step, rank) for step in range(self.steps))


class ValidationBatches(Dataset[Batch]):
    """The validation batches, always the same."""

    def __init__(self, data: TrainingWindows, points: Integers, size: int = 32) -> None:
        self.data, self.points, self.size = data, points, size

    def __len__(self) -> int:
        return math.ceil(len(self.points) / self.size)

    def __getitem__(self, index: int) -> Batch:
        return self.data.centred(self.points[index * self.size : (index + 1) * self.size])
