"""The visual encoder of one modality: a timm backbone, and a query on each of its stages."""

from collections.abc import Mapping
from functools import reduce
from typing import Any

import timm
import torch
from torch import Tensor, nn

import misoxr.model.pyramid  # noqa: F401  (timm knows it from here on)
from misoxr.errors import SpecError
from misoxr.model.query import Cells, Neighbours, Query
from misoxr.spec import EncoderSpec, Modality

__all__ = ["Encoder", "Shape", "shape_of"]

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
