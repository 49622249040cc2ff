"""What trainings share: one at a time, seeded, and a directory that a killed run leaves whole."""

import hashlib
import io
import json
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from misoxr.errors import SpecError, StoreError
from misoxr.model.files import write

__all__ = ["FIT", "ONE_AT_A_TIME", "PRETRAINING", "Files", "begin", "damaged", "file_hash", "keep", "look", "put", "seeded"]

ONE_AT_A_TIME = threading.Lock()
"""Trainings in one process would draw from torch's random numbers in turns, and no longer repeat themselves."""


class Files(NamedTuple):
    """Names of a run's files in its directory, and the parts that its state must have."""

    about: str
    state: str
    parts: tuple[str, ...] = ()


FIT = Files("run.json", "last.ckpt")
PRETRAINING = Files("pretraining.json", "pretraining.pt", ("network", "optimiser", "step", "losses"))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, and leave the user's random numbers as they were."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def put(path: Path, data: bytes) -> None:
    """Write a file of a run, whole or not at all.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    try:
        write(path, data)
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error}); give another directory.") from error


def look(directory: Path, about: Mapping[str, Any], files: Files, *, resume: bool) -> dict[str, Any] | None:
    """Make the directory of a run, or return the state of the one that lies there; nothing is written or removed in it.

    Parameters
    ----------
    directory : Path
        Where it goes.
    about : mapping
        What the result depends on, as JSON values: all, or what is known so far.
    resume : bool
        Whether a state that lies there is taken up.

    Raises
    ------
    SpecError
        If what lies there is about something else.
    StoreError
        If it is damaged, or the directory cannot be written.
    """
    about = json.loads(json.dumps(about))
    file, state = directory / files.about, directory / files.state
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise StoreError(f"The state of training cannot be kept in {directory} ({error}); give another directory.") from error
    if not (resume and file.exists() and state.exists()):
        return None
    try:
        found = json.loads(file.read_text())
        kept = torch.load(state, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever it meets in what is cut off
        raise damaged(directory, repr(error)) from error
    if not isinstance(found, dict):
        raise damaged(directory, f"{file.name} holds a {type(found).__name__} and no settings")
    missing = sorted(set(files.parts) - set(kept)) if isinstance(kept, dict) else sorted(files.parts) or ["a state"]
    if missing:
        raise damaged(directory, f"{state.name} lacks {missing}")
    differing = [f"{key}{_changes(found.get(key), about[key])}" for key in sorted(about) if found.get(key) != about[key]]
    if differing:
        raise SpecError(
            f"The run in {directory} has another {', '.join(differing)}; give another directory, or resume=False to start anew."
        )
    return dict(kept)


def begin(
    directory: Path, about: Mapping[str, Any], files: Files, *, resume: bool, old: tuple[str, ...] = ()
) -> dict[str, Any] | None:
    """Begin a run as :func:`look` finds it: one that starts anew removes the state that lies there, and its ``old`` results."""
    state = look(directory, about, files, resume=resume)
    if state is not None:
        return state
    try:
        for name in (files.state, *old):
            (directory / name).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"The state of training cannot be kept in {directory} ({error}); give another directory.") from error
    put(directory / files.about, json.dumps(about, indent=1, sort_keys=True).encode())
    return None


def damaged(directory: Path, why: str) -> StoreError:
    """Return the error of a run that cannot be taken up."""
    return StoreError(f"The run in {directory} is damaged ({why}); give another directory, or resume=False.")


def _changes(found: Any, wanted: Any) -> str:
    """Tell in what settings differ, as far as that can be read in a line."""
    if not isinstance(wanted, dict):
        return f" ({found!r} there, {wanted!r} here)" if _is_short(found) and _is_short(wanted) else ""
    if not isinstance(found, dict) or set(found) != set(wanted):
        return ""
    differing = [key for key in wanted if found[key] != wanted[key]]
    if not all(_is_short(values[key]) for key in differing for values in (found, wanted)):
        return ""
    return f" ({', '.join(f'{key} {found[key]!r} there, {wanted[key]!r} here' for key in differing)})"


def _is_short(value: Any) -> bool:
    return isinstance(value, str | int | float | list | None) and len(str(value)) < 40


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a local file, read part by part."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def keep(directory: Path, files: Files, state: Mapping[str, Any]) -> None:
    """Write the state of a run in its directory."""
    file = io.BytesIO()
    torch.save(dict(state), file)
    put(directory / files.state, file.getvalue())
