"""The implicit query: a stage's cells answer at any point of the window (after LIIF, Chen et al. 2021).

In its correct, continuous form: offsets keep their axes, and the four neighbours are weighted bilinearly, so that the answer
never jumps where a point passes from one set of neighbours to the next.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Query", "neighbours"]


def neighbours(points: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the four cells around each point.

    Parameters
    ----------
    points : Tensor
        (N, 2), x and y in -1..1 of the window.
    height, width : int
        Cells along y and x; cell i of n has its centre at -1 + (2 i + 1) / n.

    Returns
    -------
    index : Tensor
        (4, N) row-major index of the cell, clamped to the window.
    offset : Tensor
        (4, N, 2) (point - cell centre) * (width, height).
    weight : Tensor
        (4, N) bilinear weight, summing to 1.
    """
    cells = points.new_tensor([width, height])
    position = (points + 1) / 2 * cells - 0.5  # (N, 2) in cells, a centre at a whole number
    low = position.floor()
    fraction = position - low
    index, offset, weight = [], [], []
    for down in (0, 1):
        for right in (0, 1):
            step = points.new_tensor([right, down])
            cell = torch.minimum((low + step).clamp(min=0), cells - 1)
            index.append((cell[:, 1] * width + cell[:, 0]).long())
            offset.append((position - cell) * 2)
            weight.append((step * fraction + (1 - step) * (1 - fraction)).prod(dim=1))
    return torch.stack(index), torch.stack(offset), torch.stack(weight)


class Query(nn.Module):
    """Query of one stage: an MLP on [cell feature, offset] for four cells, averaged, then a linear layer and a norm.

    Two identities keep it exact and cheap. The first layer is linear in [feature, offset], so its part on the feature is
    computed once a cell (:meth:`project`). The last layer is linear and the weights sum to 1, so it comes after the
    average, once a point and not four times.

    Parameters
    ----------
    channels : int
        Channels of the stage.
    hidden : (int, int)
        Widths of the MLP's hidden layers.
    width : int
        Width of the answer.
    """

    def __init__(self, channels: int, hidden: tuple[int, int], width: int) -> None:
        super().__init__()
        self.channels = channels
        self.first = nn.Linear(channels + 2, hidden[0])
        self.second = nn.Linear(hidden[0], hidden[1])
        self.third = nn.Linear(hidden[1], width)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def project(self, feature: Tensor) -> Tensor:
        """Apply the first layer's part on the feature, (B, h, w, C) -> (B, h, w, hidden)."""
        return F.linear(feature, self.first.weight[:, : self.channels], self.first.bias)

    def forward(self, cells: Tensor, sample: Tensor, points: Tensor) -> Tensor:
        """Answer at points.

        Parameters
        ----------
        cells : Tensor
            (B, h, w, hidden) from :meth:`project`.
        sample : Tensor
            (N,) which sample of the batch each point belongs to.
        points : Tensor
            (N, 2), x and y in -1..1 of the window.

        Returns
        -------
        Tensor
            (N, width)
        """
        _, height, width, _ = cells.shape
        index, offset, weight = neighbours(points, height, width)
        index = index + sample * (height * width)
        # The rows are gathered as an embedding: on a CPU that is six times faster than indexing.
        hidden = F.embedding(index, cells.flatten(0, 2))  # (4, N, hidden)
        hidden = F.relu(hidden + F.linear(offset.to(hidden.dtype), self.first.weight[:, self.channels :].to(hidden.dtype)))
        hidden = F.relu(self.second(hidden))
        hidden = (hidden * weight[..., None].to(hidden.dtype)).sum(dim=0)  # (N, hidden)
        return self.norm(self.output(self.third(hidden)))  # type: ignore[no-any-return]
