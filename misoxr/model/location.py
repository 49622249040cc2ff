"""The location encoder: a coordinate's grid-cell encoding, and a residual network on it."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from misoxr.spec import LocationSpec

__all__ = ["LocationEncoder"]


class LocationEncoder(nn.Module):
    """Embed scaled locations: an encoding, then Linear-ReLU, three residual blocks and Linear-ReLU, as in arXiv 2506.17302.

    "grid" takes sine and cosine of coordinate x frequency (no 2 pi), with wavelengths in geometric progression; "theory" the
    same of the location's projections on three directions 120 degrees apart (Mai et al. 2020); "nerf" the raw coordinates, and
    sine and cosine of 2^k pi x coordinate (Mildenhall et al. 2020).

    Parameters
    ----------
    spec : LocationSpec
        Encoding, frequencies and dropout.
    width : int
        Width of the embedding.
    """

    frequency: Tensor

    def __init__(self, spec: LocationSpec, width: int) -> None:
        super().__init__()
        self.encoding = spec.encoding
        count = spec.frequencies
        frequency = (
            np.pi * 2.0 ** np.arange(count) if spec.encoding == "nerf" else 1 / np.geomspace(spec.shortest, spec.longest, count)
        )
        self.register_buffer("frequency", torch.from_numpy(frequency.astype("float32")), persistent=False)
        self.entry = nn.Linear({"grid": 4 * count, "theory": 6 * count, "nerf": 4 * count + 2}[spec.encoding], width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.exit = nn.Linear(width, width)
        self.dropout = nn.Dropout(spec.dropout)

    def encode(self, location: Tensor) -> Tensor:
        """Encode locations (N, 2) as (N, size).

        The order is (coordinate, frequency, [sine, cosine]) for "grid", (frequency, direction, [sine, cosine]) for "theory",
        and the raw coordinates, then (octave, coordinate, [sine, cosine]) for "nerf".
        """
        location = location.to(self.frequency.dtype)
        if self.encoding == "theory":
            directions = location.new_tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]])
            # As a fused multiply-add rounds it: angles of thousands of radians show the last bit.
            along, across = location[..., :1] * directions[:, 0], location[..., 1:].double() * directions[:, 1]
            location = (along + across).to(location.dtype)  # (N, 3)
        angle = location[..., None] * self.frequency  # (N, coordinate, frequency)
        if self.encoding != "grid":
            angle = angle.transpose(-1, -2)
        waves = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-3)
        return torch.cat([location, waves], dim=-1) if self.encoding == "nerf" else waves

    def forward(self, location: Tensor) -> Tensor:
        """Embed locations (N, 2) in -1..1 as (N, width)."""
        x = F.relu(self.entry(self.encode(location)))
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = norm(x + self.dropout(F.relu(block(x))))
        return F.relu(self.exit(x))
