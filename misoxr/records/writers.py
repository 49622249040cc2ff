"""A writer among others: its files, which arrive unless another took it for dead, and its signs of life."""

import json
import os
import shutil
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import zarr
from fsspec.implementations.local import LocalFileSystem

from misoxr.errors import StoreError
from misoxr.paths import flush as flush_to_disk

__all__ = ["LEASE", "POLL", "Writer", "ended", "move_through", "put_through", "remove_through", "system_of", "unreachable"]

LEASE = 300.0
"""Seconds after which a writer on another machine that gives no sign of life is taken for dead."""
POLL = 0.2
"""Seconds between looks at what another writer does."""


def system_of(uri: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path on it. Listings are never kept: others write here too.

    Raises
    ------
    StoreError
        If nothing that is installed serves it.
    """
    scheme = uri.partition("://")[0].partition("::")[0] if "://" in uri else "file"
    try:
        options = {} if _is_obstore(fsspec.get_filesystem_class(scheme)) else {"use_listings_cache": False}
        system, path = fsspec.core.url_to_fs(uri, **options)
    except (ImportError, ValueError) as error:
        raise StoreError(f"The address {uri} cannot be used ({error}); install what serves it, or give another.") from error
    return system, path


def unreachable() -> tuple[type[Exception], ...]:
    """Return the errors that say that a store cannot be reached or written."""
    obstore = sys.modules.get("obstore.exceptions")  # its errors are no OSErrors; who does not use it need not import it
    return (OSError, zarr.errors.BaseZarrError, *([obstore.BaseError] if obstore else []))


def _is_obstore(kind: type) -> bool:
    """Whether a file system is obstore's, which keeps no listings, and refuses the option not to."""
    return any(base.__module__ == "obstore.fsspec" for base in kind.__mro__)


def _create_obstore(system: Any, path: str, data: bytes) -> None:
    """Create an object, or raise FileExistsError; the file system itself takes no notice of ``mode="create"``."""
    from obstore.exceptions import AlreadyExistsError

    bucket, key = system._split_path(path)
    try:
        system._construct_store(bucket).put(key, data, mode="create")
    except AlreadyExistsError as error:
        raise FileExistsError(path) from error


# ---- files that arrive by way of their writer's directory


def put_through(own: Path, target: Path, data: bytes | memoryview, *, new: bool = False, flush: bool = False) -> None:
    """Put a file in place, whole, by way of its writer's directory.

    Who takes a writer for dead moves its directory away. Nothing that it still tries to put in place arrives then, however long it
    was stopped before: that is one step of the file system, not a look and then a write.

    Parameters
    ----------
    own : Path
        The writer's directory, on the disk of the target.
    target : Path
        The file.
    data : bytes
        Its content.
    new : bool
        Refuse to replace a file.
    flush : bool
        Have the content on the disk before it gets its name, so that a power loss leaves no file that is empty or cut off.

    Raises
    ------
    FileExistsError
        If the file is there, with ``new``.
    StoreError
        If the writer was taken for dead.
    """
    mine = own / uuid4().hex
    try:
        with mine.open("wb") as file:
            file.write(data)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        if target.parent != own:  # which nothing but the writer's beginning makes
            target.parent.mkdir(parents=True, exist_ok=True)
        (os.link if new else os.replace)(mine, target)
    except FileNotFoundError as error:
        if own.exists():
            raise
        raise ended(own.parents[1]) from error
    finally:
        mine.unlink(missing_ok=True)


def remove_through(own: Path, target: Path) -> None:
    """Remove a file, if there is one, by way of its writer's directory; see :func:`put_through`.

    Raises
    ------
    StoreError
        If the writer was taken for dead.
    """
    mine = own / uuid4().hex
    try:
        target.rename(mine)
        mine.unlink(missing_ok=True)
    except FileNotFoundError as error:
        if not own.exists():
            raise ended(own.parents[1]) from error


def move_through(own: Path, source: Path, target: Path) -> None:
    """Move a directory to where there is none, by way of its writer's directory; see :func:`put_through`.

    Raises
    ------
    OSError
        If there is one that is not empty.
    StoreError
        If the writer was taken for dead.
    """
    mine = own / uuid4().hex
    try:
        source.rename(mine)
        mine.rename(target)
    except FileNotFoundError as error:
        raise ended(own.parents[1]) from error


def ended(records: object) -> StoreError:
    """Return the error of a writer that was taken for dead."""
    return StoreError(
        f"Another process took this one for dead, or replaced its store ({records}), so this one writes no more. What it wrote before "
        "stays valid; when no other writes, the same call does what is left."
    )


# ---- writers


def _machine() -> str:
    """Name what a process number is unique on: a machine since it was started, and a container on it."""
    known = []
    for path in ("/etc/machine-id", "/proc/sys/kernel/random/boot_id"):
        with suppress(OSError):
            known.append(Path(path).read_text().strip())
    with suppress(OSError):
        known.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return "/".join(known if len(known) > 1 else [socket.gethostname(), f"{uuid.getnode():x}"])


def _born(pid: int) -> str | None:
    """Return when a process of this machine was started; "" where nothing tells, None where none of that number runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # another user's
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # no /proc: a number that is in use again is taken for the same process
        return ""
    return None if state[0] in "ZX" else state[19]


def _runs(sign: Mapping[str, Any]) -> bool:
    """Whether the process of this machine runs that gave a sign of life."""
    born = _born(int(sign["pid"]))
    return born is not None and (not born or born == sign["born"])


@dataclass(eq=False)
class Writer:
    """One who writes files that others look at, and who may be taken for dead.

    A writer lives as long as its process where that is on this machine; else as long as its sign of life changes. Clocks are not
    compared: who looks on measures with its own how long the sign stayed the same.

    Who is taken for dead is ended first, once and for all. On a disk, all that a writer puts in place goes by way of its directory,
    which is moved away; see :func:`put_through`. In a bucket it is marked, and looks for the mark before each block and record: one
    that is stopped between the look and the write for longer than its limit may write that one object, or the layout.

    Attributes
    ----------
    uri : str
        Directory of the files, path or fsspec URL.
    limit : float
        Seconds without a sign of life after which others take this writer for dead.
    owner : str
        Name of this writer.
    """

    uri: str
    limit: float = LEASE
    owner: str = field(default_factory=lambda: uuid4().hex)

    @cached_property
    def _at(self) -> tuple[Any, str]:
        """The file system and the directory on it."""
        return system_of(self.uri)

    @cached_property
    def _seen(self) -> dict[str, tuple[Any, float]]:
        """The last sign of others, and since when it was seen."""
        return {}

    @cached_property
    def own(self) -> Path | None:
        """The writer's directory, by way of which it writes; None in a bucket."""
        system, path = self._at
        return Path(path, "writers", self.owner) if isinstance(system, LocalFileSystem) else None

    # ---- files

    def read(self, name: str) -> Any:
        """Return what a file says; None where there is none, or it was cut off."""
        system, path = self._at
        try:
            return json.loads(system.cat_file(f"{path}/{name}"))
        except (FileNotFoundError, ValueError):
            return None

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        system, path = self._at
        return bool(system.exists(f"{path}/{name}"))

    def create(self, name: str, content: Any, *, flush: bool = False) -> bool:
        """Create a file with its content at once; False where it is there already."""
        try:
            self._put(name, content, new=True, flush=flush)
        except FileExistsError:
            return False
        return True

    def _put(self, name: str, content: Any, *, new: bool = False, flush: bool = False) -> None:
        system, path = self._at
        target, data = f"{path}/{name}", json.dumps(content, sort_keys=True).encode()
        if self.own is not None:
            put_through(self.own, Path(target), data, new=new, flush=flush)
            if flush:
                flush_to_disk(Path(target).parent)
            return
        self.check()
        if not new:
            system.pipe_file(target, data)
        elif _is_obstore(type(system)):
            _create_obstore(system, target, data)
        else:
            system.pipe_file(target, data, mode="create")

    def _names(self, directory: str = "") -> list[str]:
        system, path = self._at
        with suppress(FileNotFoundError):
            return [entry.rstrip("/").rsplit("/", 1)[-1] for entry in system.ls(f"{path}/{directory}".rstrip("/"), detail=False)]
        return []

    def clear(self, *names: str) -> None:
        """Remove files and directories, or with no names all of them."""
        system, path = self._at
        for target in [f"{path}/{name}" for name in names] or [path]:
            with suppress(FileNotFoundError):
                system.rm(target, recursive=True)

    def check(self) -> None:
        """Refuse to go on for dead, in a bucket; on a disk, nothing would arrive: see :func:`put_through`.

        Raises
        ------
        StoreError
            If another process took this writer for dead.
        """
        if self.own is None and self.has(f"ended/{self.owner}"):
            raise ended(self.uri)

    # ---- signs of life

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Be a writer, and give signs of life, until the end."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(self.limit / 3):
                with suppress(Exception):  # the next one may come through, and a missed one costs nothing but work done twice
                    self._sign()

        self._begin()
        thread = threading.Thread(target=beat, daemon=True, name="misoxr-sign-of-life")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            with suppress(*unreachable()):
                self._end(self.owner)  # what tasks of a cluster still do counts no more

    def _begin(self) -> None:
        """Make the writer's directory, with a sign of life; once, as it is ended without."""
        if self.own is None:
            self._sign()
            return
        new = self.own.parents[1] / "ended" / self.owner
        new.mkdir(parents=True)
        (new / "sign").write_text(json.dumps(self._life()))
        self.own.parent.mkdir(exist_ok=True)
        new.rename(self.own)

    def _sign(self) -> None:
        self._put(f"writers/{self.owner}/sign", self._life())

    def _life(self) -> dict[str, Any]:
        return {"machine": _machine(), "pid": os.getpid(), "born": _born(os.getpid()), "limit": self.limit, "beat": uuid4().hex}

    def _end(self, owner: str) -> None:
        """End a writer: on a disk nothing more of it arrives, in a bucket it finds a mark."""
        system, path = self._at
        if self.own is None:
            if owner != self.owner:
                self.create(f"ended/{owner}", self.owner)
            self.clear(f"writers/{owner}")
            return
        away = Path(path, "ended", uuid4().hex)
        with suppress(FileNotFoundError):  # another ended it, or all records are gone
            away.parent.mkdir(exist_ok=True)
            self.own.with_name(owner).rename(away)
            shutil.rmtree(away, ignore_errors=True)

    def busy(self) -> bool:
        """Whether another writer is alive; the dead are ended. Of one elsewhere it takes its time to tell: it gives a sign, or none."""
        first: dict[str, Any] = {}
        while True:
            waits = False
            for owner in self._names("writers"):
                sign = self.read(f"writers/{owner}/sign") or {}
                if owner == self.owner:
                    continue
                if not self._lives(owner):
                    self._end(owner)
                elif sign.get("machine") == _machine() or first.setdefault(owner, sign) != sign:
                    return True
                else:
                    waits = True
            if not waits:
                return False
            time.sleep(POLL)

    def _lives(self, owner: str) -> bool:
        """Whether a writer here runs, or one elsewhere has given a sign of life within its limit, as this one's clock measures it."""
        sign = self.read(f"writers/{owner}/sign")
        if not isinstance(sign, dict):
            return False
        if sign["machine"] == _machine():
            return _runs(sign)
        beat, since = self._seen.setdefault(owner, (sign["beat"], time.monotonic()))
        if beat != sign["beat"]:
            self._seen[owner] = (sign["beat"], time.monotonic())
            return True
        return time.monotonic() - since < float(sign["limit"])
