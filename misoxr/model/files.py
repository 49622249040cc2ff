"""Fetch files from paths and URLs once, cache them by the hash of their content, and read them without unpickling."""

import hashlib
import json
import os
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import fsspec

from misoxr.errors import CheckpointError, MisoxrError, StoreError, note
from misoxr.paths import cache, expanded, write

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ESTIMATOR_HEADER",
    "ESTIMATOR_SCHEMA",
    "check_tensors",
    "fetch",
    "holds_estimators",
    "is_intact",
    "put",
    "read_state",
    "sealed",
    "sha256_of",
    "with_header",
]

_VALIDATORS = ("ETag", "etag", "sha256", "LastModified", "Last-Modified", "last_modified", "mtime", "blob_id")
"""What file systems of fsspec tell of a file's version."""
ESTIMATOR_HEADER, ESTIMATOR_SCHEMA = "misoxr.json", "schema.json"
"""Members of a skops file of estimators: what misoxr writes beside them, and what skops writes of them."""
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_NO_HASH = "0" * 64
"""What stands where a checksum will, while it is computed."""
_SEAL = b"sha256:"
ENDINGS = (".safetensors", ".skops", ".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".onnx")
"""Of names of files that hold models."""
_ARCHIVE_END = b"PK\x05\x06"


def put(path: str | os.PathLike[str], data: bytes, ending: str = "") -> None:
    """Write a file to a path or fsspec URL; a local file appears only when it is complete.

    Parameters
    ----------
    path : str or path
        Where to write.
    data : bytes
        What the file is to hold.
    ending : str, optional
        What names of such files end in. A warning tells where a name ends as another format's.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    uri = expanded(path)
    given = PurePath(uri).suffix.lower()
    if ending and given in ENDINGS and given != ending:
        note(
            f"{uri} is named as {given[1:]} and holds {ending[1:]}. misoxr.load reads it by its content; other programs go by the name. "
            f"Call it {PurePath(uri).stem}{ending}."
        )
    if "://" not in uri:
        write(Path(uri), data)
        return
    try:
        with fsspec.open(uri, "wb") as file:
            file.write(data)
    except OSError as error:
        raise StoreError(f"{uri} cannot be written ({error}); give another address.") from error


def fetch(uri: str | os.PathLike[str]) -> bytes:
    """Read a file by local path or URL (http(s)://, s3://, hf://, ... of fsspec).

    A remote file is cached under the hash of its content, and not fetched again while the server reports
    the same version of it (ETag, time or hash). A server that reports none is asked for the file each time.

    Raises
    ------
    CheckpointError
        If the file cannot be read.
    """
    uri = expanded(uri)
    if "://" not in uri and Path(uri).is_dir():
        raise CheckpointError(f"{uri} is a directory, and a model is a file; misoxr.open_maps reads maps.")
    try:
        return Path(uri).read_bytes() if "://" not in uri else _remote(uri)
    except MisoxrError:
        raise  # the cache cannot be written
    except Exception as error:
        # Remote file systems raise errors of their own: of credentials, of bodies cut short, of servers.
        hint = " Credentials and options are those of fsspec's configuration, such as FSSPEC_S3_ANON=true." * uri.startswith(
            "s3://"
        )
        raise CheckpointError(f"The file {uri} cannot be read: {type(error).__name__}: {error}.{hint}") from error


def sha256_of(uri: str | os.PathLike[str]) -> str:
    """Return the hash of a file's content (:func:`fetch`)."""
    return hashlib.sha256(fetch(uri)).hexdigest()


def _remote(uri: str) -> bytes:
    system, path = fsspec.core.url_to_fs(uri)
    info = system.info(path)
    version = [str(info[key]) for key in (*_VALIDATORS, "size") if info.get(key) is not None]
    named = any(info.get(key) is not None for key in _VALIDATORS)
    known = cache("urls") / hashlib.sha256(json.dumps([uri, version]).encode()).hexdigest()
    if named and known.exists():
        # the name of a copy that is gone, or that a damaged record tells, is of no file
        cached = cache("files") / re.sub(r"[^0-9a-f]", "", known.read_text(errors="replace"))
        data = cached.read_bytes() if cached.is_file() else b""
        if hashlib.sha256(data).hexdigest() == cached.name:
            return data
        note(f"The cached copy of {uri} is damaged or gone, and is fetched again.")
    data = bytes(system.cat_file(path))
    if named:
        digest = hashlib.sha256(data).hexdigest()
        write(cache("files") / digest, data)
        write(known, digest.encode())
    return data


def read_state(source: str | os.PathLike[str] | Mapping[str, Any], data: bytes | None = None) -> "dict[str, Tensor]":
    """Return the tensors of a state dict in hand, or of a ``.pth`` or ``.safetensors`` file (:func:`fetch`), or of its bytes in hand.

    Pickled files are read with ``weights_only=True``. A state dict inside another under "state_dict", "model_state_dict" or
    "model" is taken out, and a common prefix "module." dropped.

    Raises
    ------
    CheckpointError
        If the file cannot be read, or holds anything but tensors by name.
    """
    import torch  # here: fitted estimators are read without it

    name = "given" if isinstance(source, Mapping) else os.fspath(source)
    state: Any = source if isinstance(source, Mapping) else _unpacked(fetch(source) if data is None else data, name)
    for key in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"The checkpoint {name} holds {type(state).__name__}, not weights by name.")
    try:
        tensors = {str(key): _dense(torch.as_tensor(value)) for key, value in state.items()}
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"The checkpoint {name} holds values that are no tensors of weights: {error}.") from error
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def _dense(value: "Tensor") -> "Tensor":
    """Refuse what pickles of weights may hold beside arrays of real numbers."""
    import torch

    # is_nested comes first: a nested tensor has no size to look at
    if value.is_nested or value.is_meta or value.layout != torch.strided or value.is_complex() or value.is_quantized:
        raise ValueError(f"one is {value.layout} of {value.dtype} on {value.device}, and dense real numbers are needed")
    return value


def _unpacked(data: bytes, name: str) -> Any:
    import io

    import torch
    from safetensors.torch import load as parse

    # By its content: names of downloads carry queries, and hubs rename files. A safetensors file begins with a length.
    pickled = data[:2] == b"PK" or data[:1] == b"\x80"
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True) if pickled else parse(data)
    except Exception as error:
        # Damaged bytes lead the reader of pickles anywhere. Torch's own text advises to unpickle, which runs what the file says.
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and "Weights only" in str(error):
            what = f", such as {refused[1]}," if refused else ","
            why = f"holds more than weights{what} and that is never unpickled. Save its state dict alone: torch.save(model.state_dict(), path)"
        else:
            why = f"is damaged ({type(error).__name__}: {str(error).partition(chr(10))[0]}); copy it again"
        raise CheckpointError(f"The checkpoint {name} ({len(data)} bytes) {why}.") from error


def holds_estimators(data: bytes) -> bool:
    """Return whether a file's bytes are estimators that skops has written, whole or damaged."""
    return data[:2] == b"PK" and (ESTIMATOR_HEADER.encode() in data[:64] or ESTIMATOR_SCHEMA.encode() in data[-(2**16) :])


# ---- checksums


def with_header(serialise: Callable[..., bytes], state: "Mapping[str, Tensor]", key: str, header: Mapping[str, Any]) -> bytes:
    """Return a safetensors file of weights, and a header that holds the checksum of all bytes beside the checksum's own."""
    # One metadata key alone: safetensors does not keep the order of several, and the hash would change.
    data = serialise(state, {key: json.dumps({**header, "checksum": _NO_HASH}, sort_keys=True)})
    start = _at(data, _NO_HASH)
    return b"".join((data[:start], hashlib.sha256(data).hexdigest().encode(), data[start + 64 :]))


def check_tensors(data: bytes, header: str, name: str) -> None:
    """Refuse a safetensors file whose bytes changed after it was written; older files have no checksum.

    Raises
    ------
    CheckpointError
        If its checksum is not that of its bytes.
    """
    try:
        told = json.loads(header)["checksum"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return  # an older file, or none of ours: who builds the header tells
    told, found = str(told), hashlib.sha256()
    start = _at(data, told) if re.fullmatch("[0-9a-f]{64}", told) else -1
    for part in (memoryview(data)[: max(start, 0)], _NO_HASH.encode(), memoryview(data)[start + 64 :]):
        found.update(part)
    if start < 0 or found.hexdigest() != told:
        raise CheckpointError(f"The checkpoint {name} is damaged: its checksum differs from its content. Copy or save it again.")


def _at(data: bytes, checksum: str) -> int:
    """Return where the checksum stands, as JSON in the JSON of the file's header; -1 where it does not."""
    label = b'\\"checksum\\": \\"'
    at = data.find(label + checksum.encode())
    return at if at < 0 else at + len(label)


def sealed(archive: bytes) -> bytes:
    """Return a zip archive with the checksum of its bytes as its comment."""
    head = archive[:-2] + (len(_SEAL) + 64).to_bytes(2, "little")
    return head + _SEAL + hashlib.sha256(head).hexdigest().encode()


def is_intact(archive: bytes) -> bool:
    """Return whether a zip archive has the checksum of its bytes, or never had one."""
    end = archive.rfind(_ARCHIVE_END) + 22
    if end == len(archive):
        return archive[-2:] == b"\0\0"
    return archive[end:] == _SEAL + hashlib.sha256(archive[:end]).hexdigest().encode()
