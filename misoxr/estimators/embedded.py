"""Fitted estimators that see a network's embedding, with the network, and their file."""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self

from misoxr.errors import CheckpointError, SpecError
from misoxr.estimators.baselines import no_prevalence
from misoxr.estimators.pixel_model import PixelModel
from misoxr.model.conformal import Conformal, Method, with_scores
from misoxr.model.files import is_intact, put, sealed
from misoxr.spec import Band, LossSpec, Modality, ModelSpec
from misoxr.spec.numbers import is_whole

if TYPE_CHECKING:
    from misoxr.model.checkpoint import Model

__all__ = ["EmbeddedModel", "Pair", "embedding_spec", "holds_embedded"]

HEADER = "misoxr-embedded.json"
"""First member of a file: how many pairs there are, and the record."""
MOST = 16
"""Pairs in a file, at the most."""


class Pair(NamedTuple):
    """A network, and estimators that were fitted to its embedding."""

    network: "Model"
    estimators: PixelModel


def embedding_spec(spec: ModelSpec) -> ModelSpec:
    """Return what estimators of a network's embedding see: bands ``embedding_0``, ``embedding_1``, ... instead of the network's."""
    bands = tuple(Band(f"embedding_{number}") for number in range(spec.width))
    modality = Modality("embedding", bands, spec.modalities[0].encoder)
    return replace(spec, modalities=(modality,), location=None, losses=LossSpec(), members=1)


@dataclass(frozen=True, repr=False)
class EmbeddedModel:
    """Estimators that answer from a network's embedding, wherever a :class:`misoxr.Model` does; what ``fit`` makes of a
    :class:`misoxr.estimators.baselines.Baseline` with ``features="embedding"``.

    Attributes
    ----------
    spec : ModelSpec
        Bands, pixel size, windows and tasks: the network's, with one member, since estimators answer and not the network's heads.
    pairs : tuple of Pair
        A network and the estimators on its embedding; two where these were cross-fitted. The answer is the mean of the pairs' answers.
    record : mapping
        How they were fitted.
    conformal : Conformal or None
        What is known of its errors, for ``predict(fitted, coverage=…)``.
    sha256 : str
        SHA-256 of the record, of what is known of errors and of the parts' hashes: the same for the same file, and not the file's own.

    Raises
    ------
    SpecError
        If networks and estimators do not belong together.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> chosen = Baseline(LogisticRegression(max_iter=200), features="embedding", network=model)
    >>> fitted = image.miso.fit(chosen, points)
    >>> fitted.save("embedded.zip")
    >>> maps = image.miso.predict("embedded.zip")
    """

    spec: ModelSpec
    pairs: tuple[Pair, ...]
    record: Mapping[str, Any] = field(default_factory=dict)
    conformal: Conformal | None = None

    def __post_init__(self) -> None:
        """Refuse networks of other specifications, and estimators that see anything but an embedding."""
        if not self.pairs:
            raise SpecError("There is no network; give one pair of a network and its estimators, or more.")
        for number, (network, estimators) in enumerate(self.pairs):
            if not network.spec.modalities or replace(network.spec, members=1) != self.spec:
                raise SpecError(
                    f"Network {number} is {network.spec.summary()}, and the model {self.spec.summary()}; give networks of one kind."
                )
            if estimators.spec != embedding_spec(self.spec) or estimators.features != "pixel" or estimators.scaling is not None:
                scaled = "unscaled" if estimators.scaling is None else "scaled"
                raise SpecError(
                    f"Estimators {number} see {scaled} features {estimators.features!r} of {len(estimators.spec.bands)} bands, and not the "
                    f"{self.spec.width} features of the embedding as they are; fit them with ds.miso.fit."
                )

    @classmethod
    def of(cls, pairs: Collection[Pair], record: Mapping[str, Any]) -> Self:
        """Join pairs of networks and estimators, which tell the specification."""
        found = tuple(pairs)
        return cls(replace(found[0].network.spec, members=1), found, record)

    def __repr__(self) -> str:
        """What it is, reads and answers, in a line."""
        several = f", {len(self.pairs)} networks" if len(self.pairs) > 1 else ""
        return f"<misoxr.EmbeddedModel {self.record.get('estimator', '')} on {self.spec.width} features of {self.spec.summary()}{several}>"

    def _repr_html_(self) -> str:
        """Show in a notebook what it reads and answers, and how it was fitted."""
        return str(import_module("misoxr.reprs.models").embedded(self))  # by name: it stands on a higher floor

    def __dask_tokenize__(self) -> str:
        """What a graph does depends on what the file would hold."""
        return self.sha256

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the record, of what is known of errors, and of the hashes of networks and estimators."""
        hashes = [[network.sha256, estimators.sha256] for network, estimators in self.pairs]
        told = [hashes, dict(self.record), *([] if self.conformal is None else [self.conformal.sha256])]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def to_bytes(self) -> bytes:
        """Return the file's bytes, as :meth:`save` writes them."""
        file, header = io.BytesIO(), {"pairs": len(self.pairs), "record": dict(self.record)}
        header |= {} if self.conformal is None else {"conformal": self.conformal.to_dict()}
        with zipfile.ZipFile(file, "w") as archive:
            members = {HEADER: json.dumps(header, sort_keys=True).encode()}
            for number, (network, estimators) in enumerate(self.pairs):
                members |= {f"{number}.safetensors": network.to_bytes(), f"{number}.skops": estimators.to_bytes()}
            for name, content in members.items():
                archive.writestr(zipfile.ZipInfo(name), content)  # stored, and without a time: the same bytes each time
        return sealed(file.getvalue())

    def with_prevalence(self, **shares: Any) -> NoReturn:
        """Refuse: estimators take shares of the classes for granted that they do not tell, so their probabilities cannot be moved to others.

        Raises
        ------
        SpecError
            Always.
        """
        raise no_prevalence(self.record.get("estimator", "the estimator"))

    def with_conformal(self, scores: Any, name: str | None = None, by: Any = None, method: Method = "plain") -> Self:
        """Return the model with what a cross-validation tells of its errors; see :func:`misoxr.uncertainty.conformal.with_conformal`."""
        return with_scores(self, scores, name, by, method)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write networks and estimators to a path or fsspec URL, as one file: a zip archive of their own files.

        :func:`misoxr.load` reads it, and ``predict`` takes the path.

        Raises
        ------
        SpecError
            If an estimator holds what skops cannot write, such as a lambda.
        """
        put(path, self.to_bytes(), ".zip")

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "", trusted: Collection[str] = ()) -> Self:
        """Build what :meth:`save` wrote from a file's bytes (:func:`misoxr.load`); ``name`` stands in errors.

        Raises
        ------
        CheckpointError
            If the file is damaged or contradicts itself, or a part of it cannot be read.
        """
        from misoxr.model.checkpoint import Model  # with torch, which other estimators do without

        members = _members(data, name)
        try:
            header = json.loads(members.pop(HEADER))
            count, record, errors = header["pairs"], dict(header["record"]), header.get("conformal")
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise CheckpointError(
                f"The header of {name} cannot be read ({type(error).__name__}: {error}); save it again."
            ) from error
        if not is_whole(count) or not 1 <= count <= MOST:
            raise CheckpointError(f"The header of {name} tells of {count!r} networks, and there are 1 to {MOST}; save it again.")
        wanted = {f"{number}.{kind}" for number in range(count) for kind in ("safetensors", "skops")}
        if set(members) != wanted:
            raise CheckpointError(f"{name} tells of {count} networks and holds {sorted(members)}; copy or save it again.")
        pairs = tuple(
            Pair(
                Model.from_bytes(members[f"{number}.safetensors"], f"{name}/{number}.safetensors"),
                PixelModel.from_bytes(members[f"{number}.skops"], f"{name}/{number}.skops", trusted),
            )
            for number in range(count)
        )
        try:
            whole = cls.of(pairs, record)
            return whole if errors is None else replace(whole, conformal=Conformal.from_dict(errors, whole.spec))
        except (SpecError, CheckpointError, IndexError) as error:
            raise CheckpointError(
                f"The networks and estimators in {name} do not belong together ({error}); save it again."
            ) from error


def holds_embedded(data: bytes) -> bool:
    """Return whether a file's bytes are of an :class:`EmbeddedModel`, whole or damaged."""
    return data[:2] == b"PK" and HEADER.encode() in data[:64]


def _members(data: bytes, name: str) -> dict[str, bytes]:
    """Return an archive's members, which take no more memory than the archive has bytes."""
    try:
        if not is_intact(data):
            raise ValueError("its checksum differs from its content")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = archive.infolist()
            if any(one.compress_type != zipfile.ZIP_STORED for one in found) or sum(one.file_size for one in found) > len(data):
                raise ValueError("its members are compressed, and those of misoxr are not")
            return {one.filename: archive.read(one) for one in found}
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{name} ({len(data)} bytes) is damaged ({error}); copy or save it again.") from error
