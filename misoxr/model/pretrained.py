"""Encoders that were pre-trained on a datacube, and their files: safetensors, with bands, encoder and scaling in the header."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save as serialise
from torch import Tensor

from misoxr.cube.scaling import ModalityScaling
from misoxr.errors import CheckpointError, SpecError
from misoxr.model.files import fetch
from misoxr.spec import Modality, ModelSpec
from misoxr.spec.build import build

__all__ = ["Pretrained", "scalings_of"]

_KEY = "misoxr-pretrained"
"""Name of the header in the file's metadata."""
_SCHEMA = "1"


@dataclass(frozen=True)
class _Header:
    """What stands beside the weights, as JSON."""

    schema: str
    modality: Modality
    width: int
    query: Literal["continuous", "published"]
    scaling: Mapping[str, Any]
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pretrained:
    """An encoder that was pre-trained, with what its weights hold for.

    Attributes
    ----------
    modality : Modality
        Bands and backbone.
    width : int
        Width of the encoder's answers.
    query : {"continuous", "published"}
        Form of the implicit query.
    scaling : ModalityScaling
        How the bands became inputs.
    weights : mapping of str to Tensor
        Those of :class:`misoxr.model.encoder.Encoder`: backbone, queries and norm.
    record : mapping
        How it was trained: settings, losses and package version.

    Examples
    --------
    >>> weights = image.miso.pretrain("miso-nano", "runs/encoders", steps=2, progress=False)
    >>> losses = misoxr.model.pretrained.Pretrained.load(weights["sat"]).record["losses"]
    """

    modality: Modality
    width: int
    query: str
    scaling: ModalityScaling
    weights: Mapping[str, Tensor]
    record: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the file's bytes."""
        header: dict[str, Any] = {"schema": _SCHEMA, "modality": asdict(self.modality), "width": self.width, "query": self.query}
        header |= {"scaling": asdict(self.scaling), "record": dict(self.record)}
        state = {key: value.detach().cpu().contiguous() for key, value in self.weights.items()}
        return serialise(state, {_KEY: json.dumps(header, sort_keys=True)})

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> Self:
        """Read a file by path or URL (http(s)://, s3://, hf://).

        Raises
        ------
        CheckpointError
            If it cannot be read, or ``pretrain`` did not write it.
        """
        found = cls.found(source)
        if found is None:
            raise CheckpointError(f"{os.fspath(source)} was not written by pretrain; give one of the files that it returned.")
        return found

    @classmethod
    def found(cls, source: str | os.PathLike[str]) -> Self | None:
        """Read a file as :meth:`load` does; None for one that ``pretrain`` did not write.

        Raises
        ------
        CheckpointError
            If it cannot be read, or is damaged.
        """
        data, name = fetch(source), os.fspath(source)
        text = _header_of(data)
        if text is None:
            return None
        try:
            header = build(_Header, json.loads(text))
            weights = parse(data)
        except (SafetensorError, SpecError, ValueError, KeyError, RecursionError) as error:
            raise CheckpointError(f"The pre-trained weights {name} are damaged ({error}); copy or train them again.") from error
        if header.schema != _SCHEMA:
            raise CheckpointError(
                f"The pre-trained weights {name} have the form {header.schema!r}, and this misoxr reads {_SCHEMA!r}; install the other version."
            )
        scaling = ModalityScaling.from_dict(header.scaling, header.modality)
        return cls(header.modality, header.width, header.query, scaling, weights, header.record)

    def check(self, modality: Modality) -> None:
        """Refuse a modality that reads other bands, or reads them with another encoder.

        Raises
        ------
        CheckpointError
            If the bands, their units or kinds, the backbone, its options or the widths of the queries differ.
        """
        pairs = {"bands": (_bands(self.modality), _bands(modality))}
        theirs, ours = (json.loads(json.dumps(asdict(one.encoder))) for one in (self.modality, modality))
        pairs |= {f"encoder {name}": (theirs[name], ours[name]) for name in ours}
        _refuse(pairs, modality.name)

    def check_model(self, spec: ModelSpec, name: str) -> None:
        """Refuse a model that the weights do not fit as those of one modality: :meth:`check`, the width and the form of the query."""
        self.check(next(modality for modality in spec.modalities if modality.name == name))
        _refuse({"width": (self.width, spec.width), "query": (self.query, spec.query)}, name)


def _bands(modality: Modality) -> list[str]:
    return [f"{band.name} ({band.units}{', circular' if band.kind == 'circular' else ''})" for band in modality.bands]


def _refuse(pairs: Mapping[str, tuple[Any, Any]], name: str) -> None:
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise CheckpointError(
                f"The pre-trained weights of {name!r} do not fit: they have {what} {theirs}, and the model has {ours}. "
                "Pre-train this model, or give fit the ModelSpec that was pre-trained."
            )


def _header_of(data: bytes) -> str | None:
    """Return the header of pre-trained weights; None where a file has none, or is no safetensors file."""
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8 or data[8:9] != b"{":
        return None
    try:
        text = json.loads(data[8 : 8 + length])["__metadata__"][_KEY]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return str(text)


def scalings_of(spec: ModelSpec, sources: Mapping[str, str | os.PathLike[str]]) -> dict[str, ModalityScaling]:
    """Return the scalings of those sources that ``pretrain`` wrote, by modality: their weights hold for inputs that are scaled so.

    Raises
    ------
    CheckpointError
        If a file cannot be read, or does not fit the model.
    """
    found = {name: Pretrained.found(source) for name, source in sources.items()}
    for name, own in found.items():
        if own is not None:
            own.check_model(spec, name)
    return {name: own.scaling for name, own in found.items() if own is not None}
