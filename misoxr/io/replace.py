"""Go on with a store, or replace it: the new one is written beside it, and moved into its place when it is finished."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from misoxr.errors import StoreError
from misoxr.paths import expanded, restore, retire
from misoxr.records.ledger import PLAN, Ledger, progress_of
from misoxr.records.writers import POLL, move_through, system_of

__all__ = [
    "aside",
    "differences",
    "end_move",
    "forget",
    "located",
    "move",
    "put_in_place",
    "refuse_busy",
    "refuse_different",
]

ASIDE = ".new"
MOVING = "moving"
"""Record that the old store is gone, and the new one on its way."""
MOST = 4
"""Differences that an error tells of."""
INPUT = "input."
"""Begins the differences of what the variables are computed from, told by hashes."""


def located(store: str | os.PathLike[str]) -> tuple[str, Any, str]:
    """Return a store's address, absolute where it is local, and its place on a file system.

    Raises
    ------
    StoreError
        If it is no path or URL, or nothing that is installed serves it.
    """
    if not isinstance(store, str | os.PathLike):
        raise StoreError(f"The store is a {type(store).__name__}; give a path or a URL.")
    uri = expanded(store).rstrip("/")
    system, path = system_of(uri)
    return (path if isinstance(system, LocalFileSystem) else uri), system, path


def aside(uri: str) -> str:
    """Return where the store is written that is to replace another."""
    return f"{uri}{ASIDE}"


def refuse_busy(uri: str, ledger: Ledger) -> None:
    """Refuse to remove what a living process writes to.

    Raises
    ------
    StoreError
        If there is one.
    """
    if ledger.busy():
        raise StoreError(f"Another process writes to the store {uri}, which is to be replaced; wait until it has ended, or end it.")


def forget(uri: str) -> None:
    """Forget the records of a store that is to be removed; of who was taken for dead wrongly, nothing arrives from now on.

    Raises
    ------
    StoreError
        If a living process writes to it.
    """
    ledger = Ledger(progress_of(uri))
    refuse_busy(uri, ledger)
    ledger.forget()


def end_move(uri: str) -> None:
    """Put a store in place that was finished by a process that died before it did."""
    ledger = Ledger(progress_of(aside(uri)))
    if ledger.has(MOVING) or ledger.finished():
        with ledger.alive():
            put_in_place(uri, lambda: None, ledger)
    system, path = system_of(uri)
    if isinstance(system, LocalFileSystem):
        restore(Path(path))


def put_in_place(uri: str, finish: Callable[[], None], ledger: Ledger) -> None:
    """Finish a store, and put it in the old one's place: one of its writers does it, and the others wait.

    Parameters
    ----------
    uri : str
        The old store's address.
    finish : callable
        Called by the writer that does it.
    ledger : Ledger
        The new store's, whose records move with it.
    """
    while ledger.has(PLAN) or ledger.has(MOVING):
        if ledger.take("place"):
            finish()
            _move(uri, ledger)
            return
        time.sleep(POLL)


def _move(uri: str, ledger: Ledger) -> None:
    system, path = system_of(uri)
    new, old = aside(path), Ledger(progress_of(uri))
    if not ledger.has(MOVING):
        refuse_busy(uri, old)
        if ledger.own is not None:  # at once: of what is removed file by file, readers would find a part
            retire(Path(path), partial(move_through, ledger.own))
        ledger.check()
        old.forget()
        if ledger.own is None and system.exists(path):
            ledger.check()
            system.rm(path, recursive=True)
        ledger.create(MOVING, True, flush=True)
    if system.exists(new):  # in one step on a disk: on its way by the writer's directory it might be lost
        move(system, new, path)
    try:
        _move_records(system, progress_of(new), progress_of(path))
    finally:
        old.clear("layout", "leases", "writers", "ended")  # where they moved along, this writer would look alive
    ledger.clear()
    old.clear(MOVING)
    if isinstance(system, LocalFileSystem):
        restore(Path(path))


def _move_records(system: Any, source: str, target: str) -> None:
    """Move records; where they go one by one, the claim to move them stays, and what tells that they are moving goes last."""
    if isinstance(system, LocalFileSystem):
        os.replace(source, target)
        return
    names = [path[len(source) + 1 :] for path in system.find(source)]
    for name in sorted(names, key=lambda name: (name == MOVING, name)):
        if name.partition("/")[0] not in ("layout", "leases", "writers", "ended"):
            system.mv(f"{source}/{name}", f"{target}/{name}")


def move(system: Any, source: str, target: str) -> None:
    """Move a directory; in a bucket there are none, but files of that beginning."""
    if isinstance(system, LocalFileSystem):
        os.replace(source, target)
        return
    for path in system.find(source):
        system.mv(path, target + path[len(source) :])


# ---- what is refused


def differences(found: Any, plan: Mapping[str, Any]) -> list[str]:
    """Return in what a plan differs from the one that was recorded."""
    return list(_differences(found, json.loads(json.dumps(plan))))


def refuse_different(store: str, different: list[str]) -> None:
    """Refuse to resume a store that was written with other input or settings.

    Raises
    ------
    StoreError
        If there are differences; it names the first of them.
    """
    if any(line.startswith("format") for line in different):
        raise StoreError(
            f"{store} was begun by another version of misoxr, whose records differ, so it cannot be resumed. What is written can "
            "be opened; give another path, or overwrite=True to replace it."
        )
    different = [line for line in different if not line.startswith("fingerprint")]
    # All enters the names of the graph: they say something only where nothing else differs.
    plain = [line for line in different if not line.startswith(INPUT)]
    plain.sort(key=lambda line: line.startswith("attributes"))  # some of them tell of the model, which tells more of itself
    if not different:
        return
    told = plain or [line.removeprefix(INPUT).partition(" was ")[0] for line in different]
    more = f"; and {len(told) - MOST} more" if len(told) > MOST else ""
    what = "other values" if plain else "other input, where a file that was written again counts as another"
    raise StoreError(
        f"{store} exists, and was written with {what}: {'; '.join(told[:MOST])}{more}. Call with the same input, model and "
        "settings to resume; give another path, or overwrite=True to replace it."
    )


def _differences(one: Any, other: Any, at: str = "") -> Iterator[str]:
    """Yield in what two plans differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from _differences(one.get(key), other.get(key), f"{at}.{key}" if at else str(key))
    elif one != other:
        texts = json.dumps(one), json.dumps(other)
        begin = max(len(os.path.commonprefix(texts)) - 20, 0)
        was, now = (_short(text, begin) for text in texts)
        yield f"{at} was {was} and is {now}"


def _short(text: str, begin: int, most: int = 60) -> str:
    """Return a text, or of a long one the part that begins somewhere, which is where two differ."""
    if len(text) <= most:
        return text
    part = text[begin : begin + most]
    return f"{'…' if begin else ''}{part}{'…' if begin + most < len(text) else ''}"
