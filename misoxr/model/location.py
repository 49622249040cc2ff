"""The location encoder: a coordinate's grid-cell encoding, and a residual network on it."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from misoxr.spec import LocationSpec

__all__ = ["LocationEncoder"]


class LocationEncoder(nn.Module):
    """Embed scaled locations.

    The grid-cell encoding takes sine and cosine of coordinate x frequency (no 2 pi), with wavelengths in geometric
    progression; then Linear-ReLU, three residual blocks and Linear-ReLU, as in arXiv 2506.17302.

    Parameters
    ----------
    spec : LocationSpec
        Frequencies and dropout.
    width : int
        Width of the embedding.
    """

    frequency: Tensor

    def __init__(self, spec: LocationSpec, width: int) -> None:
        super().__init__()
        wavelengths = np.geomspace(spec.shortest, spec.longest, spec.frequencies)
        self.register_buffer("frequency", torch.from_numpy((1.0 / wavelengths).astype("float32")), persistent=False)
        self.entry = nn.Linear(4 * spec.frequencies, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.exit = nn.Linear(width, width)
        self.dropout = nn.Dropout(spec.dropout)

    def encode(self, location: Tensor) -> Tensor:
        """Encode locations (N, 2) as (N, 4 * frequencies): by coordinate, frequency, [sine, cosine]."""
        angle = location.float()[..., None] * self.frequency  # (N, 2, F)
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-3)

    def forward(self, location: Tensor) -> Tensor:
        """Embed locations (N, 2) in -1..1 as (N, width)."""
        x = F.relu(self.entry(self.encode(location)))
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = norm(x + self.dropout(F.relu(block(x))))
        return F.relu(self.exit(x))
