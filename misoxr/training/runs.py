"""What trainings share: one at a time, seeded, and a directory that a killed run leaves whole."""

import io
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from misoxr.errors import SpecError, StoreError

__all__ = ["ONE_AT_A_TIME", "begin", "keep", "put", "seeded"]

ONE_AT_A_TIME = threading.Lock()
"""Trainings in one process would draw from torch's random numbers in turns, and no longer repeat themselves."""

_ABOUT, _STATE = "pretraining.json", "pretraining.pt"


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, and leave the user's random numbers as they were."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def put(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, also where the machine stops.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error}); give another directory.") from error


def begin(directory: Path, about: Mapping[str, Any], *, resume: bool) -> dict[str, Any] | None:
    """Make the directory of a pre-training, or return the state of the one that lies there.

    Parameters
    ----------
    directory : Path
        Where it goes.
    about : mapping
        What the result depends on, as JSON values.
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
    file, state = directory / _ABOUT, directory / _STATE
    if resume and file.exists() and state.exists():
        try:
            found = json.loads(file.read_text())
            kept: dict[str, Any] = torch.load(state, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises whatever it meets in what is cut off
            raise StoreError(f"The run in {directory} is damaged ({error!r}); give another directory, or resume=False.") from error
        differing = [f"{key}{_values(found.get(key), about[key])}" for key in sorted(about) if found.get(key) != about[key]]
        if differing:
            raise SpecError(
                f"The run in {directory} has another {', '.join(differing)}; give another directory, or resume=False to start anew."
            )
        return kept
    try:
        directory.mkdir(parents=True, exist_ok=True)
        state.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"The run cannot be kept in {directory} ({error}); give another directory.") from error
    put(file, json.dumps(about, indent=1, sort_keys=True).encode())
    return None


def _values(found: Any, wanted: Any) -> str:
    """Tell two values that are short enough to be read."""
    short = all(isinstance(value, str | int | float | None) and len(str(value)) < 40 for value in (found, wanted))
    return f" ({found!r} there, {wanted!r} here)" if short else ""


def keep(directory: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a run in its directory."""
    file = io.BytesIO()
    torch.save(dict(state), file)
    put(directory / _STATE, file.getvalue())
