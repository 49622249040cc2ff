"""The encoders: of the windows of one modality, a timm backbone with a query on each of its stages; and of locations.

Among the backbones is a small residual pyramid for training from scratch on few labels: timm knows it as "pyramid" once this is imported.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import timm
import torch
from timm.models import register_model
from timm.models._features import FeatureInfo
from torch import Tensor, nn
from torch.nn import functional as F

from misoxr.errors import SpecError
from misoxr.model.query import Cells, Neighbours, Query
from misoxr.spec import EncoderSpec, LocationSpec, Modality

__all__ = ["Encoder", "LocationEncoder", "Pyramid", "Shape", "pyramid", "shape_of"]

Shape = tuple[int, int]

_OUTSIDE = {"cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"}


def _backbone(spec: EncoderSpec, channels: int) -> Any:
    """Build the timm backbone. A specification may come from a file of others, so it can name no hub and no further file."""
    options = dict(spec.options)
    if spec.stages is not None:
        options["out_indices"] = spec.stages
    if not timm.is_model(spec.backbone):
        raise SpecError(f"timm has no model {spec.backbone!r}; choose one of timm.list_models().")
    if _OUTSIDE & options.keys():
        raise SpecError(
            f"The options {sorted(_OUTSIDE & options.keys())} of {spec.backbone!r} read weights from elsewhere; drop them."
        )
    try:
        return timm.create_model(spec.backbone, pretrained=False, features_only=True, in_chans=channels, **options)
    except (RuntimeError, TypeError, ValueError, ArithmeticError, AssertionError, LookupError, AttributeError) as error:
        raise SpecError(f"timm cannot build {spec.backbone!r} with features_only and {options}: {error}") from error


def shape_of(cells: Cells) -> Shape:
    """Return the number of a stage's cells along y and x."""
    return cells.values.shape[1], cells.values.shape[2]


class Encoder(nn.Module):
    """A timm backbone with ``features_only`` and the implicit query of its stages, summed.

    Parameters
    ----------
    modality : Modality
        Bands and backbone.
    width : int
        Width of the answer.
    """

    def __init__(self, modality: Modality, width: int) -> None:
        super().__init__()
        spec = modality.encoder
        backbone = _backbone(spec, modality.channels)
        widths: list[int] = backbone.feature_info.channels()
        # Convolutions are a quarter faster with the channels last, on a CPU and on CUDA.
        self.backbone = backbone.to(memory_format=torch.channels_last)
        if len(widths) != len(spec.hidden):
            raise SpecError(
                f"{spec.backbone!r} has {len(widths)} stages and the query {len(spec.hidden)} pairs of widths; give one per stage."
            )
        stages = zip(widths, spec.hidden, strict=True)
        self.queries = nn.ModuleList(Query(channels, hidden, width) for channels, hidden in stages)
        self.norm = nn.LayerNorm(width)
        self.channels_last = str(getattr(backbone, "output_fmt", "NCHW")).endswith("NHWC")

    def project(self, image: Tensor) -> list[Cells]:
        """Encode images (B, C, H, W) to the cells of each stage."""
        features = self.backbone(image.contiguous(memory_format=torch.channels_last))
        if not self.channels_last:
            features = [feature.permute(0, 2, 3, 1) for feature in features]
        return [query.project(feature) for query, feature in zip(self.queries, features, strict=True)]  # type: ignore[operator]

    def forward(self, cells: list[Cells], around: Mapping[Shape, Neighbours]) -> Tensor:
        """Answer from the cells of :meth:`project` at points, by the shapes of the stages: (N, width)."""
        answers = (query(cell, around[shape_of(cell)]) for query, cell in zip(self.queries, cells, strict=True))
        return self.norm(reduce(torch.add, answers))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Two convolutions and a residual, which is all there is at the beginning."""

    def __init__(self, channels: int, width: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(groups, width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(groups, width)
        self.act = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.GroupNorm(groups, width))
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))
        return self.act(out + self.shortcut(x))  # type: ignore[no-any-return]


class Pyramid(nn.Module):
    """Residual stages at strides of 2, 4, 8, ..., without pooling: the first has half the input's resolution.

    Groups of a few channels keep the level of a band, which a norm of each channel takes away, and need no statistics of batches.

    Parameters
    ----------
    in_chans : int
        Bands.
    channels : sequence of int
        Channels of each stage.
    depths : sequence of int
        Blocks of each stage.
    groups : int
        Groups of the norms.
    out_indices : sequence of int, optional
        Stages that are given, all by default; those after the last of them are not built.
    """

    def __init__(
        self,
        in_chans: int,
        channels: Sequence[int] = (32, 48, 64, 96),
        depths: Sequence[int] = (2, 2, 2, 2),
        groups: int = 8,
        out_indices: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if len(channels) != len(depths):
            raise ValueError(f"there are channels for {len(channels)} stages and depths for {len(depths)}")
        if min(depths) < 1:
            raise ValueError(f"the depths are {list(depths)}; a stage has one block or more")
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, channels[0], 3, 2, 1, bias=False), nn.GroupNorm(groups, channels[0]), nn.ReLU(inplace=True)
        )
        chosen = tuple(range(len(channels)) if out_indices is None else (index % len(channels) for index in out_indices))
        before, stages = channels[0], []
        for index, (width, depth) in enumerate(zip(channels[: max(chosen) + 1], depths, strict=False)):
            sizes = [(before, width, 2 if index else 1), *[(width, width, 1)] * (depth - 1)]
            stages.append(nn.Sequential(*(_Block(*size, groups) for size in sizes)))
            before = width
        self.stages = nn.ModuleList(stages)
        info = [
            {"num_chs": width, "reduction": 2 ** (index + 1), "module": f"stages.{index}"} for index, width in enumerate(channels)
        ]
        self.feature_info = FeatureInfo(info, chosen)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features (B, channels, h, w) of the stages asked for."""
        x, found = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return [found[index] for index in self.feature_info.out_indices]


@register_model
def pyramid(pretrained: bool = False, features_only: bool = True, in_chans: int = 3, **options: Any) -> Pyramid:
    """Build the pyramid; there are no weights to begin with."""
    if pretrained or not features_only:
        raise ValueError("the pyramid has no pretrained weights and gives features only")
    # timm always tells where weights would come from.
    sources = {"cache_dir", "pretrained_cfg", "pretrained_cfg_overlay"}
    return Pyramid(in_chans, **{name: value for name, value in options.items() if name not in sources})


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
