"""Replace a store: the new one is written beside it, and moved into its place when it is finished."""

import os
import time
from collections.abc import Callable
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from misoxr.errors import StoreError
from misoxr.io.layout import progress_of
from misoxr.io.ledger import COMPLETE, PLAN, POLL, Ledger, system_of
from misoxr.paths import expanded

__all__ = ["aside", "located", "move", "put_in_place", "refuse_busy", "settle"]

ASIDE = ".new"
MOVING = "moving"
"""Record that the old store is gone, and the new one on its way."""


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


def settle(uri: str) -> None:
    """Put a store in place that was finished by a process that died before it did."""
    ledger = Ledger(progress_of(aside(uri)))
    if ledger.has(COMPLETE) or ledger.has(MOVING):
        with ledger.alive():
            put_in_place(uri, lambda: None, ledger)


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
        for place in (path, progress_of(path)):
            if system.exists(place):
                system.rm(place, recursive=True)
        ledger.create(MOVING, True)
    if system.exists(new):
        move(system, new, path)
    try:
        _move_records(system, progress_of(new), progress_of(path))
    finally:
        old.clear("leases", "writers")  # where they moved along, this writer would look alive
    ledger.clear()
    old.clear(MOVING)


def _move_records(system: Any, source: str, target: str) -> None:
    """Move records; where they go one by one, the claim to move them stays, and what tells that they are moving goes last."""
    if isinstance(system, LocalFileSystem):
        os.replace(source, target)
        return
    names = [path[len(source) + 1 :] for path in system.find(source)]
    for name in sorted(names, key=lambda name: (name == MOVING, name)):
        if name.partition("/")[0] not in ("leases", "writers"):
            system.mv(f"{source}/{name}", f"{target}/{name}")


def move(system: Any, source: str, target: str) -> None:
    """Move a directory; in a bucket there are none, but files of that beginning."""
    if isinstance(system, LocalFileSystem):
        os.replace(source, target)
        return
    for path in system.find(source):
        system.mv(path, target + path[len(source) :])
