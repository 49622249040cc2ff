"""Windows with masked patches, and the network that predicts what was masked from what is left."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from misoxr.cube.augment import AUGMENTATIONS, augmented
from misoxr.cube.cutouts import PointCutouts
from misoxr.cube.scaling import Scaling
from misoxr.model.network import Miso, around, resized
from misoxr.spec import ModelSpec, Pretraining

__all__ = ["CELLS", "MaskedWindows", "Reconstruction", "masks", "patch_of"]

Array = npt.NDArray[np.float32]
Batch = dict[str, Any]
Flags = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]

CELLS = 4
"""Side of a patch by default, in cells of the encoder's first stage."""


def patch_of(network: Miso, spec: ModelSpec) -> int:
    """Return the default side of a patch, in pixels of a window: so many cells of the first stage, at most half of the window."""
    first: int = max(encoder.backbone.feature_info.reduction()[0] for encoder in network.encoders.values())  # type: ignore[union-attr,operator]
    size = spec.windows.size
    return max(1, min(round(CELLS * first * size / spec.windows.input_size), size // 2))


def masks(count: int, size: int, patch: int, share: float, rng: np.random.Generator) -> Flags:
    """Mask a share of the patches of each of so many windows: (count, size, size), True where masked.

    At least one patch of a window is masked, and one is not.
    """
    side = math.ceil(size / patch)
    masked = min(max(1, round(share * side**2)), side**2 - 1)
    order = rng.random((count, side**2)).argsort(axis=1).argsort(axis=1)
    grid = (order < masked).reshape(count, side, side)
    flags: Flags = grid.repeat(patch, axis=1).repeat(patch, axis=2)[:, :size, :size]
    return np.ascontiguousarray(flags)


@dataclass(frozen=True)
class MaskedWindows(Dataset[Batch]):
    """Batches of windows from anywhere: each follows from the seed and its step alone, whichever process draws it.

    Attributes
    ----------
    spec, scaling : ModelSpec, Scaling
        Bands, and how they become inputs.
    cutouts : PointCutouts
        Where windows are cut from.
    chosen : array
        The cutouts that hold a valid pixel.
    settings : Pretraining
        With a patch.
    seed : int
        Seed of all draws.
    """

    spec: ModelSpec
    scaling: Scaling
    cutouts: PointCutouts
    chosen: Integers
    settings: Pretraining
    seed: int

    def __getitem__(self, step: int) -> Batch:
        """Draw the batch of a step.

        Returns
        -------
        dict
            By modality: ``inputs`` (B, channel, size, size), ``masks`` and ``valid`` (B, size, size), and ``pixels`` (window, row and column; N),
            those that are asked, all valid.
        """
        rng = np.random.default_rng([self.seed, 4, step])
        settings, size = self.settings, self.spec.windows.size
        bands = np.stack([self._window(rng) for _ in range(settings.batch_size)], axis=1)
        batch: Batch = {"inputs": {}, "masks": {}, "valid": {}, "pixels": {}}
        for name, values in self.scaling.apply(self.spec, bands).items():
            batch["inputs"][name] = np.ascontiguousarray(values.swapaxes(0, 1))
        at = 0
        for modality in self.spec.modalities:
            part = bands[at : at + len(modality.bands)]
            at += len(modality.bands)
            valid = self.scaling.modalities[modality.name].known_pixels(modality, part)
            batch["valid"][modality.name] = valid
            batch["masks"][modality.name] = masks(settings.batch_size, size, self._patch, settings.share, rng)
            batch["pixels"][modality.name] = _pixels(valid, settings.points, rng)
        return batch

    @property
    def _patch(self) -> int:
        assert self.settings.patch is not None
        return self.settings.patch

    def _window(self, rng: np.random.Generator) -> Array:
        cutout = int(rng.choice(self.chosen))
        room = [max(0, length - self.spec.windows.size) for length in self.cutouts.file.shape[1:]]
        window = self.cutouts.window(cutout, (int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))))
        ways = AUGMENTATIONS[self.settings.augment]
        return augmented(window, self.spec, *ways[int(rng.integers(len(ways)))])


def _pixels(valid: Flags, most: int, rng: np.random.Generator) -> Integers:
    """Draw valid pixels of each window: window, row and column (3, N)."""
    found = []
    for window, flags in enumerate(valid):
        chosen = rng.permutation(np.flatnonzero(flags))[:most]
        found.append(np.stack([np.full(len(chosen), window), *np.unravel_index(chosen, flags.shape)]))
    return np.concatenate(found, axis=1).astype("int64")


def _mean(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Average losses over those that count, which the second of each pair tells."""
    losses, count = (torch.stack(values) for values in zip(*parts, strict=True))
    mean: Tensor = losses.sum() / count.sum().clamp(min=1)
    return mean


class Reconstruction(nn.Module):
    """Encoders that see windows with masked patches, and a light decoder that predicts bands at pixels.

    A masked pixel is replaced by a token that is learnt, so any backbone will do. An encoder is asked at pixels as points are asked, by its
    implicit queries, which are pre-trained with it. A head predicts the scaled bands of every modality there.

    Parameters
    ----------
    network : Miso
        Its encoders are trained in place.
    spec : ModelSpec
        Modalities and width.

    References
    ----------
    Xie et al. 2022, SimMIM, for random patches, a light head and the L1 loss on what is masked.
    """

    def __init__(self, network: Miso, spec: ModelSpec) -> None:
        super().__init__()
        self.names = [modality.name for modality in spec.modalities]
        self.channels = [modality.channels for modality in spec.modalities]
        self.side, self.query = network.side, network.query
        self.encoders = network.encoders
        # By order, not by name: torch's lists take any.
        self.tokens = nn.ParameterList(nn.Parameter(torch.zeros(count, 1, 1)) for count in self.channels)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(spec.width, spec.width), nn.GELU(), nn.Linear(spec.width, sum(self.channels)))
            for _ in self.names
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return two losses of a batch of :class:`MaskedWindows`: "masked" and "crossed".

        The first is the mean absolute error of the scaled bands at masked pixels that are valid, a mean over modalities that have any. The second
        is that of each other modality's bands where it is valid, a mean over such pairs; 0 for one modality.
        """
        own: list[tuple[Tensor, Tensor]] = []
        others: list[tuple[Tensor, Tensor]] = []
        for name, answers in self._answers(batch).items():
            window, row, column = batch["pixels"][name]
            for other, answer in zip(self.names, answers, strict=True):
                target = batch["inputs"][other].permute(0, 2, 3, 1)[window, row, column]  # (N, channel)
                counts = batch["masks" if other == name else "valid"][other][window, row, column]
                error = (answer.float() - target).abs().mean(dim=-1) * counts
                (own if other == name else others).append((error.sum() / counts.sum().clamp(min=1), counts.any()))
        return {"masked": _mean(own), "crossed": _mean(others) if others else torch.zeros_like(own[0][0])}

    def _answers(self, batch: Batch) -> dict[str, tuple[Tensor, ...]]:
        """Predict the bands (N, channel) of every modality at the pixels of each."""
        found = {}
        for name, token, head in zip(self.names, self.tokens, self.heads, strict=True):
            encoder: Any = self.encoders[name]
            image = batch["inputs"][name]
            cells = encoder.project(resized(torch.where(batch["masks"][name][:, None], token, image), self.side))
            window, row, column = batch["pixels"][name]
            points = -1 + (2 * torch.stack([column, row], dim=-1) + 1) / image.shape[-1]  # (N, [x, y])
            embedded = encoder(cells, around(cells, window, points, self.query))
            found[name] = head(embedded).split(self.channels, dim=-1)
        return found
