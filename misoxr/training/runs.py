"""What trainings share: one at a time, seeded, and a directory that a killed run leaves whole."""

import hashlib
import io
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from misoxr.errors import SpecError, StoreError, note
from misoxr.model.files import is_intact, sealed
from misoxr.paths import scratch, settle, write, writing

__all__ = ["FIT", "ONE_AT_A_TIME", "PRETRAINING", "Files", "begin", "damaged", "file_hash", "keep", "look", "read", "seeded"]

ONE_AT_A_TIME = threading.Lock()
"""Trainings in one process would draw from torch's random numbers in turns, and no longer repeat themselves."""


class Files(NamedTuple):
    """Names of a run's files in its directory, and the parts that its state must have."""

    about: str
    state: str
    parts: tuple[str, ...] = ()

    @property
    def before(self) -> str:
        """Name of the state before the last one."""
        return f"{self.state}.before"


FIT = Files("run.json", "last.ckpt")
PRETRAINING = Files("pretraining.json", "pretraining.pt", ("network", "optimiser", "step", "losses"))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, and leave the user's random numbers as they were."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def look(directory: Path, about: Mapping[str, Any], files: Files, *, resume: bool) -> dict[str, Any] | None:
    """Make the directory of a run, or return the state of the one that lies there; nothing that is intact is changed in it.

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
    file, states = directory / files.about, [directory / files.state, directory / files.before]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise StoreError(f"The state of training cannot be kept in {directory} ({error}); give another directory.") from error
    if not (resume and file.exists() and any(state.exists() for state in states)):
        return None
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise damaged(directory, repr(error)) from error
    kept = _last(directory, files)
    if not isinstance(found, dict):
        raise damaged(directory, f"{file.name} holds a {type(found).__name__} and no settings")
    missing = sorted(set(files.parts) - set(kept)) if isinstance(kept, dict) else sorted(files.parts) or ["a state"]
    if missing:
        raise damaged(directory, f"{files.state} lacks {missing}")
    differing = [f"{key}{_changes(found.get(key), about[key])}" for key in sorted(about) if found.get(key) != about[key]]
    if differing:
        raise SpecError(
            f"The run in {directory} has another {', '.join(differing)}; give another directory, or resume=False to start anew."
        )
    return dict(kept)


def _last(directory: Path, files: Files) -> Any:
    """Return the last state of a run; where it is damaged, the one before it takes its place."""
    place, before = directory / files.state, directory / files.before
    try:
        return read(place)
    except Exception as error:  # torch raises whatever it meets in what is cut off
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise damaged(directory, repr(error)) from error  # it may be whole, so it is not replaced
        try:
            kept = read(before)
        except Exception:
            raise damaged(directory, repr(error)) from error
    note(f"{place} is damaged or gone; the training goes on from the state before it.")
    with writing(directory):
        os.replace(before, place)
    return kept


def begin(
    directory: Path, about: Mapping[str, Any], files: Files, *, resume: bool, old: tuple[str, ...] = ()
) -> dict[str, Any] | None:
    """Begin a run as :func:`look` finds it: one that starts anew removes the state that lies there, and its ``old`` results."""
    state = look(directory, about, files, resume=resume)
    if state is not None:
        return state
    with writing(directory):
        for name in (files.before, files.state, *old):
            (directory / name).unlink(missing_ok=True)
    write(directory / files.about, json.dumps(about, indent=1, sort_keys=True).encode())
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
    """Write the state of a run in its directory, whole and with a checksum; the one before it stays, too."""
    file, place = io.BytesIO(), directory / files.state
    torch.save(dict(state), file)
    data = sealed(file.getvalue())
    with scratch(place) as aside, writing(place, needed=len(data)):
        aside.write_bytes(data)
        settle(aside, place, before=directory / files.before)


def read(state: Path) -> Any:
    """Read a state.

    Raises
    ------
    ValueError
        If its bytes changed after it was written. Torch raises errors of many kinds where it is no state.
    """
    data = state.read_bytes()
    if not is_intact(data):
        raise ValueError(f"the checksum of {state.name} differs from its content")
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
