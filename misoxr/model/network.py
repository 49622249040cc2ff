"""MISO: visual encoders with implicit queries, a location encoder, mappers, and a head per task (arXiv 2506.17302)."""

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from misoxr.errors import SpecError
from misoxr.model.encoder import Encoder, LocationEncoder, Shape, shape_of
from misoxr.model.query import Cells, Neighbours, neighbours
from misoxr.spec import ModelSpec

__all__ = ["Members", "Miso", "around", "resized"]


def mapper(width: int) -> nn.Sequential:
    """Linear-GELU-Linear-LayerNorm."""
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width))


def head(width: int, outputs: int) -> nn.Sequential:
    """Linear-GELU-Linear-GELU-Linear, narrowing to half the width."""
    return nn.Sequential(
        nn.Linear(width, width), nn.GELU(), nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, outputs)
    )


class Members(nn.Module):
    """Heads of one task that differ in what they learned: embeddings (N, width) -> (N, member, outputs).

    They share the first layer of :func:`head`: it takes two thirds of a head's work, and each has two layers of its own.
    """

    def __init__(self, width: int, outputs: int, members: int) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(width, width), nn.GELU())
        self.members = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, outputs)) for _ in range(members)
        )

    def forward(self, embedding: Tensor) -> Tensor:
        """Answer by all of them: logits (N, member, outputs)."""
        shared = self.shared(embedding)
        return torch.stack([one(shared) for one in self.members], dim=-2)


def _by_name(modules: Mapping[str, nn.Module]) -> nn.ModuleDict:
    try:
        return nn.ModuleDict(modules)
    except KeyError as error:
        raise SpecError(
            f"No task and no modality can have this name, for torch's modules have an attribute of it ({error.args[0]}); choose another."
        ) from error


def resized(windows: Tensor, side: int) -> Tensor:
    """Resize windows (B, C, H, W) to the encoders' input, as published: bilinear, corners not aligned, no antialiasing."""
    if windows.shape[-2:] == (side, side):
        return windows
    return F.interpolate(windows, size=(side, side), mode="bilinear", align_corners=False)


def around(stages: Iterable[Cells], sample: Tensor, points: Tensor, query: str) -> dict[Shape, Neighbours]:
    """Find the cells around points (N, 2) of the windows ``sample`` (N,), by the shapes of stages: those of one shape share them."""
    found = {}
    for (height, width), dtype in {shape_of(cells): cells.values.dtype for cells in stages}.items():
        near = neighbours(points, height, width, query, dtype)
        found[height, width] = near._replace(cell=near.cell + sample * (height * width))
    return found


class Miso(nn.Module):
    """The network of a specification, with random weights.

    Parameters
    ----------
    spec : ModelSpec
        Modalities, tasks and widths.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        width = spec.width
        self.side = spec.windows.input_size
        self.query = spec.query
        self.encoders = _by_name({m.name: Encoder(m, width) for m in spec.modalities})
        self.mappers = _by_name({m.name: mapper(width) for m in spec.modalities})
        if spec.modalities:
            self.visual_mapper = mapper(width)
            several = partial(Members, members=spec.members) if spec.members > 1 else head
            self.heads = _by_name({task.name: several(width, task.outputs) for task in spec.tasks})
        self.location_encoder = LocationEncoder(spec.location, width) if spec.location else None
        if spec.location:
            self.location_mapper = mapper(width)
            self.location_heads = _by_name({task.name: head(width, task.outputs) for task in spec.tasks})
        self._begin()

    def _begin(self) -> None:
        """Draw the weights of queries, mappers and heads so that signals keep their strength through them (He et al. 2015).

        Between the backbone and an answer lie a dozen linear layers; torch's own draw lets signals fade in each, and training
        stands still for hundreds of steps.
        """
        parts = [*(encoder.queries for encoder in self.encoders.values()), *self.mappers.values()]
        parts += [self.visual_mapper, *self.heads.values()] if hasattr(self, "heads") else []
        for module in (module for part in parts for module in part.modules()):  # type: ignore[union-attr]
            if isinstance(module, nn.Linear):
                # Biases stay as torch draws them: without, a norm may meet a vector of nothing but 0, and the field a cliff.
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.parameters()).dtype

    def project(self, inputs: Mapping[str, Tensor]) -> dict[str, list[Cells]]:
        """Encode windows (B, C, H, W) by modality to the cells that points are answered from.

        Windows of another size than the encoders' input are resized (:func:`resized`).
        """
        return {name: encoder.project(resized(inputs[name], self.side)) for name, encoder in self.encoders.items()}  # type: ignore[operator]

    def embed(self, cells: Mapping[str, list[Cells]], sample: Tensor, points: Tensor) -> dict[str, Tensor]:
        """Embed points of the windows.

        Parameters
        ----------
        cells : mapping of str to list of Cells
            From :meth:`project`.
        sample : Tensor
            (N,) the window of each point.
        points : Tensor
            (N, 2), x and y in -1..1 of its window, of at least the network's precision.

        Returns
        -------
        dict of str to Tensor
            (N, width) of each modality by its name, and of all together as "visual".
        """
        near = around((cell for stages in cells.values() for cell in stages), sample, points, self.query)
        embedded = {name: self.mappers[name](encoder(cells[name], near)) for name, encoder in self.encoders.items()}
        first, *others = embedded.values()
        return embedded | {"visual": self.visual_mapper(sum(others, start=first))}

    def forward(self, cells: Mapping[str, list[Cells]], sample: Tensor, points: Tensor) -> dict[str, Tensor]:
        """Answer at points of the windows (see :meth:`embed`): logits (N, outputs) by task, (N, member, outputs) of several members."""
        return self.answer(self.embed(cells, sample, points)["visual"])

    def answer(self, visual: Tensor) -> dict[str, Tensor]:
        """Answer from visual embeddings (N, width): logits (N, outputs) by task, (N, member, outputs) of several members."""
        return {name: task_head(visual) for name, task_head in self.heads.items()}

    def embed_location(self, location: Tensor) -> Tensor:
        """Embed scaled locations (N, 2) as (N, width)."""
        assert self.location_encoder is not None, "the model has no location branch"
        return self.location_mapper(self.location_encoder(location))  # type: ignore[no-any-return]

    def answer_location(self, embedding: Tensor) -> dict[str, Tensor]:
        """Answer from embeddings of locations (N, width): logits (N, outputs) by task."""
        return {name: task_head(embedding) for name, task_head in self.location_heads.items()}

    def locate(self, location: Tensor) -> dict[str, Tensor]:
        """Answer from scaled locations (N, 2) alone: logits (N, outputs) by task."""
        return self.answer_location(self.embed_location(location))
