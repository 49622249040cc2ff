"""Fetch files from paths and URLs once, cache them by the hash of their content, and read them without unpickling."""

import hashlib
import json
import os
import pickle
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import platformdirs

from misoxr.errors import CheckpointError
from misoxr.paths import expanded

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ESTIMATOR_HEADER", "ESTIMATOR_SCHEMA", "cache", "fetch", "holds_estimators", "put", "read_state", "sha256_of", "write"]

_VALIDATORS = ("ETag", "etag", "sha256", "LastModified", "Last-Modified", "last_modified", "mtime", "blob_id")
"""What file systems of fsspec tell of a file's version."""
ESTIMATOR_HEADER, ESTIMATOR_SCHEMA = "misoxr.json", "schema.json"
"""Members of a skops file of estimators: what misoxr writes beside them, and what skops writes of them."""
_WRAPPERS = ("state_dict", "model_state_dict", "model")


def cache(kind: str) -> Path:
    """Return a folder of the local cache: ``MISOXR_CACHE``, or the user's cache directory."""
    return Path(expanded(os.environ.get("MISOXR_CACHE") or platformdirs.user_cache_dir("misoxr"))) / kind


def write(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, also where the machine stops, or other processes write it, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def put(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file to a path or fsspec URL; a local file appears only when it is complete."""
    uri = expanded(path)
    if "://" not in uri:
        write(Path(uri), data)
        return
    with fsspec.open(uri, "wb") as file:
        file.write(data)


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
    try:
        return Path(uri).read_bytes() if "://" not in uri else _remote(uri)
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
        cached = cache("files") / known.read_text()
        data = cached.read_bytes() if cached.exists() else b""
        if hashlib.sha256(data).hexdigest() == cached.name:
            return data
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
