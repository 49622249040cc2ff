"""Bring checkpoints to workers that share no file system with the client: each host fetches a copy beside the store."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
from distributed import WorkerPlugin
from filelock import FileLock

from misoxr.errors import CheckpointError, StoreError, note
from misoxr.model.checkpoint import cached_at
from misoxr.paths import write
from misoxr.records.writers import system_of, unreachable

__all__ = ["staged"]


class KeepsModel(WorkerPlugin):
    """Has a checkpoint in the host's cache before a worker begins, also on workers that join later."""

    def __init__(self, uri: str, sha256: str) -> None:
        self.uri, self.sha256 = uri, sha256
        # A scheduler keeps one of a name: another store's lies elsewhere, and another writer's is taken away at another time.
        self.name = f"misoxr-model-{uri}-{uuid4().hex}"

    def setup(self, worker: Any) -> None:
        """Fetch it, unless another process of the host has."""
        keep(self.uri, self.sha256)


def keep(uri: str, sha256: str) -> Path:
    """Have a checkpoint in the local cache under its hash; of the processes of a host one fetches it.

    Raises
    ------
    CheckpointError
        If what lies at the address has another hash.
    """
    path = cached_at(sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            note(f"The cached checkpoint {path} is damaged, and is fetched again.")
            path.unlink()
        if not path.exists():
            with fsspec.open(uri, "rb") as file:
                data = file.read()
            found = hashlib.sha256(data).hexdigest()
            if found != sha256:
                raise CheckpointError(f"The checkpoint {uri} has changed: its SHA-256 is {found}, expected {sha256}.")
            write(path, data)
    return path


@contextmanager
def staged(client: Any, records: str, hashes: list[str]) -> Iterator[None]:
    """Put checkpoints beside a store's records, and have every worker's host fetch them, those that join until the end, too.

    Raises
    ------
    StoreError
        If the records lie where workers elsewhere cannot read them.
    """
    with ExitStack() as ends:
        for sha256 in hashes:
            path = cached_at(sha256)
            if not path.exists():
                continue  # loaded from an address that workers reach themselves
            uri = f"{records}/models/{sha256}.safetensors"
            _put(path, uri)
            plugin = KeepsModel(uri, sha256)
            ends.callback(_forget, client, plugin.name)  # first: it stays registered where it fails on a worker
            client.register_plugin(plugin)
        yield


def _put(path: Path, uri: str) -> None:
    """Copy a checkpoint to an address, unless it is there."""
    try:
        system, place = system_of(uri)
        if not system.exists(place):
            system.makedirs(place.rsplit("/", 1)[0], exist_ok=True)
            system.put_file(str(path), place)
    except unreachable() as error:
        raise StoreError(f"The checkpoint cannot be put beside the store, {uri}: {error}") from error


def _forget(client: Any, name: str) -> None:
    """Unregister a plugin. A cluster that is gone keeps nothing, and what ended the write is to be told, not that."""
    with suppress(Exception):
        client.unregister_worker_plugin(name)


def lacking(client: Any, hashes: list[str]) -> list[str]:
    """Return the addresses of workers whose cache lacks any of the checkpoints."""

    def has() -> bool:
        return all(cached_at(sha256).exists() for sha256 in hashes)

    return sorted(address for address, found in client.run(has).items() if not found)


def elsewhere(client: Any) -> bool:
    """Whether any worker runs on another machine than the client."""
    from distributed.utils import get_ip

    hosts = {worker["host"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()}
    return not hosts <= {"127.0.0.1", "localhost", "::1", get_ip()}
