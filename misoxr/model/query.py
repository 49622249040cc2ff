"""The implicit query: a stage's cells answer at any point of the window (after LIIF, Chen et al. 2021).

In its default, continuous form, offsets keep their axes and the four neighbours are weighted bilinearly, so that the answer
never jumps where a point passes from one set of neighbours to the next. The published form, for the authors' checkpoints,
mixes the axes of the offsets and weights by them, and jumps.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Cells", "Neighbours", "Query", "neighbours"]


class Neighbours(NamedTuple):
    """The four cells around each point.

    Attributes
    ----------
    cell : Tensor
        (4, N) row-major index of the cell, clamped to the window.
    offset : Tensor
        (4, N, 2) (point - cell centre) * (width, height).
    weight : Tensor
        (4, N) weight, summing to 1; bilinear in the continuous form.
    """

    cell: Tensor
    offset: Tensor
    weight: Tensor


def neighbours(points: Tensor, height: int, width: int, mode: str = "continuous", dtype: torch.dtype | None = None) -> Neighbours:
    """Find the four cells around each point.

    Parameters
    ----------
    points : Tensor
        (N, 2), x and y in -1..1 of the window.
    height, width : int
        Cells along y and x; cell i of n has its centre at -1 + (2 i + 1) / n.
    mode : {"continuous", "published"}
        The published form measures x from the cell's y and y from the cell's x, and weights by 1 / (|dx dy| + 1e-9).
    dtype : dtype, optional
        Precision of offsets and weights; that of the points by default.
    """
    dtype = dtype or points.dtype
    x, y = points.unbind(-1)
    if mode == "published":
        (column, beside), (row, over) = _published(x, width), _published(y, height)
        offsets = _crossed((y - beside) * height, (x - over) * width)
        share = 1 / (offsets[0].mul(offsets[1]).abs() + 1e-9)
        column, row = _crossed(column, row)
        return Neighbours(row * width + column, torch.stack(offsets[::-1], -1).to(dtype), (share / share.sum(dim=0)).to(dtype))
    across, down = _along(x, width, dtype), _along(y, height, dtype)
    (column, row), offsets, weights = (_crossed(*pair) for pair in zip(across, down, strict=True))
    return Neighbours(row * width + column, torch.stack(offsets, -1), weights[0] * weights[1])


def _crossed(across: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Pair what is known of two columns and two rows (2, N) at the four cells between them (4, N): first the upper two."""
    pair = torch.broadcast_tensors(across[None], down[:, None])
    return pair[0].flatten(0, 1), pair[1].flatten(0, 1)


def _along(position: Tensor, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Find the two cells around positions (N,) along an axis of so many cells: their numbers, offsets and weights (2, N)."""
    position = (position + 1) / 2 * count - 0.5  # in cells, a centre at a whole number
    low = position.floor()
    fraction = (position - low).to(dtype)
    cell = torch.stack([low, low + 1]).clamp(0, count - 1)
    return cell.long(), ((position - cell) * 2).to(dtype), torch.stack([1 - fraction, fraction])


def _published(position: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Find the two cells around positions (N,) as published: their numbers and centres (2, N)."""
    nearest = (torch.stack([position - 1 / count, position + 1 / count]) + 1e-6).clamp(-1 + 1e-6, 1 - 1e-6)
    cell = ((nearest + 1) / 2 * count - 0.5).round()
    return cell.long(), -1 + (2 * cell + 1) / count


class Cells(NamedTuple):
    """What a stage answers from: its cells (B, h, w, hidden) after the first layer's part, and the last two layers as one."""

    values: Tensor
    weight: Tensor
    bias: Tensor


class Query(nn.Module):
    """Query of one stage: an MLP on [cell feature, offset] for four cells, averaged, then a linear layer and a norm.

    Three identities keep it exact and cheap. The first layer is linear in [feature, offset], so its part on the feature is
    computed once a cell (:meth:`project`). The MLP's last layer is linear and the weights sum to 1, so it comes after the
    average, once a point and not four times; and there it meets the layer after it, with which it is multiplied into one.

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

    def project(self, feature: Tensor) -> Cells:
        """Apply all that does not depend on the point to a stage's feature (B, h, w, C)."""
        values = F.linear(feature, self.first.weight[:, : self.channels], self.first.bias)
        bias = F.linear(self.third.bias, self.output.weight, self.output.bias)
        return Cells(values, self.output.weight @ self.third.weight, bias)

    def forward(self, cells: Cells, around: Neighbours) -> Tensor:
        """Answer at points.

        Parameters
        ----------
        cells : Cells
            From :meth:`project`.
        around : Neighbours
            The cells around each of N points, among all cells of the batch.

        Returns
        -------
        Tensor
            (N, width)
        """
        # The rows are gathered as an embedding: on a CPU that is six times faster than indexing.
        hidden = F.embedding(around.cell, cells.values.flatten(0, 2))  # (4, N, hidden)
        part = self.first.weight[:, self.channels :].to(hidden.dtype)
        offset, weight = around.offset.to(hidden.dtype), around.weight.to(hidden.dtype)[..., None]
        # A product of two columns is ten times faster on a CPU than the columns broadcast one by one.
        hidden.flatten(0, 1).addmm_(offset.flatten(0, 1), part.T)
        hidden = F.relu(self.second(F.relu(hidden, inplace=True)), inplace=True)
        # A chain of four is eight times faster here than einsum, which goes by as many products as there are points.
        mean = hidden[0] * weight[0]
        for corner in (1, 2, 3):
            mean = torch.addcmul(mean, hidden[corner], weight[corner])
        return self.norm(F.linear(mean, cells.weight, cells.bias))  # type: ignore[no-any-return]
