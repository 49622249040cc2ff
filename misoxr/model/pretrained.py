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
from misoxr.model.files import check_tensors, fetch, with_header
from misoxr.spec import Modality, ModelSpec
from misoxr.spec.build import build
from misoxr.spec.numbers import is_number, is_whole

__all__ = ["Pretrained", "encoders_of", "holds_encoder"]

_KEY, _MODELS = "misoxr-pretrained", "misoxr"
"""Name of the header in the file's metadata, and of that of a whole model."""
_SCHEMA = "2"


@dataclass(frozen=True)
class _Header:
    """What stands beside the weights, as JSON."""

    schema: str
    modality: Modality
    width: int
    query: Literal["continuous", "published"]
    scaling: Mapping[str, Any]
    pixel_size: float
    sides: Mapping[str, int]
    record: Mapping[str, Any] = field(default_factory=dict)
    checksum: str = ""


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
    pixel_size : float
        Pixel size of the cube, metres.
    sides : mapping
        Sides of a window: ``size``, pixels of the cube, and ``input_size``, pixels that the encoder sees.
    weights : mapping of str to Tensor
        Those of the encoder: backbone, queries and norm.
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
    pixel_size: float
    sides: Mapping[str, int]
    weights: Mapping[str, Tensor]
    record: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the file's bytes."""
        header: dict[str, Any] = {"schema": _SCHEMA, "modality": asdict(self.modality), "width": self.width, "query": self.query}
        header |= {"scaling": asdict(self.scaling), "record": dict(self.record)}
        header |= {"pixel_size": self.pixel_size, "sides": dict(self.sides)}
        state = {key: value.detach().cpu().contiguous() for key, value in self.weights.items()}
        return with_header(serialise, state, _KEY, header)

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
    def found(cls, source: str | os.PathLike[str], data: bytes | None = None) -> Self | None:
        """Read a file, or its bytes in hand, as :meth:`load` does; None for one that ``pretrain`` did not write.

        Raises
        ------
        CheckpointError
            If it cannot be read, or is damaged.
        """
        data, name = fetch(source) if data is None else data, os.fspath(source)
        text = _header_of(data)
        if text is None and _MODELS in _metadata(data):
            raise CheckpointError(
                f"{name} is a whole model that misoxr saved, with heads that have learnt from labels, and pretrained= takes single encoders; give "
                "those that ds.miso.pretrain returns. misoxr.load reads the model for maps."
            )
        if text is None and any('"checksum": ' in str(value) for value in _metadata(data).values()):
            raise CheckpointError(
                f"The pre-trained weights {name} are damaged: their header has no name. Copy or train them again."
            )
        if text is None:
            return None
        check_tensors(data, text, name)
        try:
            values = json.loads(text)
            schema = values.get("schema") if isinstance(values, dict) else None
            if isinstance(schema, str) and schema != _SCHEMA:
                raise CheckpointError(
                    f"The pre-trained weights {name} have the form {schema!r}, and this misoxr reads {_SCHEMA!r}; train them again, or install "
                    "the other version."
                )
            header = build(_Header, values)
            sides = dict(header.sides)
            if sides.keys() != {"size", "input_size"} or not all(is_whole(side) and side > 0 for side in sides.values()):
                raise ValueError(f"the sides of its windows are {sides}")
            if not is_number(header.pixel_size) or not header.pixel_size > 0:
                raise ValueError(f"its pixel size is {header.pixel_size}")
            scaling = ModalityScaling.from_dict(header.scaling, header.modality)
            weights = parse(data)
        except (SafetensorError, SpecError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"The pre-trained weights {name} are damaged ({error}); copy or train them again.") from error
        return cls(header.modality, header.width, header.query, scaling, header.pixel_size, sides, weights, header.record)

    def check(self, modality: Modality) -> None:
        """Refuse a modality that reads other bands, or reads them with another encoder.

        Raises
        ------
        CheckpointError
            If anything of the bands differs, or the backbone, its options or the widths of the queries.
        """
        pairs: dict[str, tuple[Any, Any]] = {"bands": (_bands(self.modality), _bands(modality))}
        if pairs["bands"][0] == pairs["bands"][1]:
            for own, other in zip(self.modality.bands, modality.bands, strict=True):
                stored, wanted = (json.loads(json.dumps(asdict(band))) for band in (own, other))
                # An alias tells where a band is found, and nothing of its values.
                pairs |= {f"{key} of {own.name!r}": (stored[key], wanted[key]) for key in wanted if key != "aliases"}
        theirs, ours = (json.loads(json.dumps(asdict(one.encoder))) for one in (self.modality, modality))
        pairs |= {f"encoder {name}": (theirs[name], ours[name]) for name in ours}
        _refuse(pairs, modality.name)

    def check_model(self, spec: ModelSpec, name: str) -> None:
        """Refuse a model that the weights do not fit as those of one modality: :meth:`check`, width, form of the query, pixel size and windows."""
        self.check(next(modality for modality in spec.modalities if modality.name == name))
        _refuse({"width": (self.width, spec.width), "query": (self.query, spec.query)}, name)
        near = abs(self.pixel_size / spec.pixel_size - 1) <= 1e-3  # as a cube's pixels are compared
        sizes = ("", "") if near else (f"{self.pixel_size:g} m", f"{spec.pixel_size:g} m")
        windows = {key: getattr(spec.windows, key) for key in self.sides}
        _refuse({"pixels of": sizes, **{f"windows of {key}": (self.sides[key], windows[key]) for key in windows}}, name)


def _bands(modality: Modality) -> list[str]:
    return [f"{band.name} ({band.units})" for band in modality.bands]


def _refuse(pairs: Mapping[str, tuple[Any, Any]], name: str) -> None:
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise CheckpointError(
                f"The pre-trained weights of {name!r} do not fit: they have {what} {theirs}, and the model has {ours}. "
                "Pre-train this model, or give fit the ModelSpec that was pre-trained."
            )


def _header_of(data: bytes) -> str | None:
    """Return the header of pre-trained weights; None where a file has none, or is no safetensors file."""
    metadata = _metadata(data)
    return str(metadata[_KEY]) if _KEY in metadata else None


def _metadata(data: bytes) -> Mapping[str, Any]:
    """Return what stands in the header of a safetensors file; nothing of other files."""
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8 or data[8:9] != b"{":
        return {}
    try:
        found = json.loads(data[8 : 8 + length]).get("__metadata__")
    except (ValueError, AttributeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def holds_encoder(data: bytes) -> bool:
    """Return whether a file's bytes are of an encoder that ``pretrain`` wrote, whole or damaged."""
    return _KEY in _metadata(data)


def encoders_of(
    spec: ModelSpec, sources: Mapping[str, str | os.PathLike[str]], files: Mapping[str, bytes] | None = None
) -> dict[str, Pretrained]:
    """Return the encoders of those sources that ``pretrain`` wrote, by modality: their weights hold for inputs that are scaled as theirs.

    Parameters
    ----------
    files : mapping of str to bytes, optional
        What the sources hold, where it was read before.

    Raises
    ------
    CheckpointError
        If a file cannot be read, or does not fit the model; or if it is a whole model of misoxr's.
    """
    found = {name: Pretrained.found(source, (files or {}).get(name)) for name, source in sources.items()}
    for name, own in found.items():
        if own is not None:
            own.check_model(spec, name)
    return {name: own for name, own in found.items() if own is not None}
