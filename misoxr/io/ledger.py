"""The ledger of a store: which blocks are done and which are claimed, as small files beside the store."""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

__all__ = [
    "COMPLETE",
    "LEASE",
    "PLAN",
    "Block",
    "Ledger",
    "differences",
    "in_order",
    "refuse_different",
    "system_of",
    "unreachable",
]

Block = tuple[int, int]
"""Row and column of a block among the blocks of a store."""

LEASE = 300.0
"""Seconds after which a writer on another machine that gives no sign of life is taken for dead."""
PLAN, COMPLETE = "plan.json", "complete"
MOST = 4
"""Differences that an error tells of."""
POLL = 0.2
"""Seconds between looks at whether another writer has laid the store out."""


def _host() -> str:
    """Name what a process number is unique on: the machine, or the container."""
    with suppress(OSError):
        return f"{socket.gethostname()}/{os.stat('/proc/self/ns/pid').st_ino}"
    return socket.gethostname()


def _born(pid: int) -> str | None:
    """Return when a process of this machine was started; None where there is none of that number."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:  # no /proc: a number that is in use again is taken for the same process
        return ""
    except PermissionError:
        return ""
    except OSError:
        return None


@dataclass(frozen=True)
class Ledger:
    """The records of one store, as one writer sees them.

    A block is done when its record is there, whatever lies in the store. A writer claims a block by creating a lease that nobody else
    can create; leases count as long as their writer lives: its process where that is on this machine, else its sign of life. The
    claim on a dead writer's block is a lease of the next generation, so that of several who want it one gets it.

    Attributes
    ----------
    uri : str
        Directory of the records, path or fsspec URL.
    limit : float
        Seconds without a sign of life after which a writer elsewhere is dead.
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

    def __getstate__(self) -> dict[str, Any]:
        """Leave connections behind."""
        return {"uri": self.uri, "limit": self.limit, "owner": self.owner}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

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

    def create(self, name: str, content: Any) -> bool:
        """Create a file with its content at once; False where it is there already."""
        system, path = self._at
        target, data = f"{path}/{name}", json.dumps(content, sort_keys=True).encode()
        try:
            if isinstance(system, LocalFileSystem):
                _create_local(Path(target), data)
            elif _is_obstore(type(system)):
                _create_obstore(system, target, data)
            else:
                system.pipe_file(target, data, mode="create")
        except FileExistsError:
            return False
        return True

    def _replace(self, name: str, content: Any) -> None:
        system, path = self._at
        target, data = f"{path}/{name}", json.dumps(content, sort_keys=True).encode()
        if not isinstance(system, LocalFileSystem):
            system.pipe_file(target, data)
            return
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        aside = Path(f"{target}.{self.owner}")
        aside.write_bytes(data)
        aside.replace(target)

    def _names(self, directory: str) -> list[str]:
        system, path = self._at
        with suppress(FileNotFoundError):
            return [entry.rsplit("/", 1)[-1] for entry in system.ls(f"{path}/{directory}", detail=False)]
        return []

    def clear(self, *names: str) -> None:
        """Remove files and directories, or with no names all of them."""
        system, path = self._at
        for target in [f"{path}/{name}" for name in names] or [path]:
            with suppress(FileNotFoundError):
                system.rm(target, recursive=True)

    # ---- the plan

    def agree(self, plan: Mapping[str, Any], lay_out: Callable[[], None]) -> list[str]:
        """Lay the store out once, whoever comes first, and return in what its plan differs from this writer's."""
        while (found := self.read(PLAN)) is None:
            if not self.take("layout"):
                time.sleep(POLL)
                continue
            if self.read(PLAN) is None:
                lay_out()
                self.create(PLAN, plan)
        return differences(found, plan)

    # ---- blocks

    def done(self) -> dict[Block, str]:
        """Return the blocks that are done, and how: "written" or "masked"."""
        return {_block(name): name.rsplit(".", 1)[-1] for name in self._names("blocks") if name.endswith((".written", ".masked"))}

    def complete(self, block: Block, error: str | None = None) -> None:
        """Record that a block is written, or with an error that it became nodata."""
        record = {"writer": self.owner, "fingerprint": (self.read(PLAN) or {}).get("fingerprint"), "error": error}
        row, column = block
        self._replace(f"blocks/{row}.{column}.{'written' if error is None else 'masked'}", record)
        if error is None:
            self.clear(f"blocks/{row}.{column}.masked")

    def masked(self) -> dict[Block, str]:
        """Return the blocks that became nodata, and why."""
        done = self.done()
        names = {block: f"blocks/{block[0]}.{block[1]}.masked" for block, how in sorted(done.items()) if how == "masked"}
        return {block: (self.read(name) or {}).get("error") or "" for block, name in names.items()}

    def claim(self, blocks: Iterable[Block], most: int) -> list[Block]:
        """Claim blocks, at most so many, in their order; those that others work on are left to them."""
        held, alive = self._generations(), _Remembered(self._lives)
        mine: list[Block] = []
        for block in blocks:
            if len(mine) == most:
                break
            name = f"{block[0]}.{block[1]}"
            if self._claimed(name, held.get(name), alive) and not self.has(f"blocks/{name}.written"):
                mine.append(block)
        return mine

    def take(self, name: str) -> bool:
        """Claim something that one writer does for all; False where another does it."""
        return self._claimed(name, self._generations().get(name))

    def _claimed(self, name: str, generation: int | None, alive: Callable[[str], bool] | None = None) -> bool:
        """Claim a name whose last lease is of a generation."""
        if generation is not None:
            owner = str(self.read(f"leases/{name}.{generation}"))
            if owner == self.owner:
                return True
            if (alive or self._lives)(owner):
                return False
        return self.create(f"leases/{name}.{0 if generation is None else generation + 1}", self.owner)

    def _generations(self) -> dict[str, int]:
        """Return the last generation of each name that was ever claimed."""
        last: dict[str, int] = {}
        for entry in self._names("leases"):
            name, _, generation = entry.rpartition(".")
            if generation.isdigit():
                last[name] = max(last.get(name, -1), int(generation))
        return last

    # ---- signs of life

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Give signs of life until the end."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(self.limit / 3):
                with suppress(Exception):  # the next one may come through, and a missed one costs nothing but work done twice
                    self._sign()

        self._sign()
        thread = threading.Thread(target=beat, daemon=True, name="misoxr-sign-of-life")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            with suppress(*unreachable()):
                self.clear(f"writers/{self.owner}")

    def _sign(self) -> None:
        sign = {"host": _host(), "pid": os.getpid(), "born": _born(os.getpid()), "until": time.time() + self.limit}
        self._replace(f"writers/{self.owner}", sign)

    def busy(self) -> bool:
        """Whether another writer is alive."""
        return any(owner != self.owner and self._lives(owner) for owner in self._names("writers"))

    def _lives(self, owner: str) -> bool:
        sign = self.read(f"writers/{owner}")
        if not isinstance(sign, dict):
            return False
        if sign.get("host") == _host():
            return _born(int(sign["pid"])) == sign.get("born")
        return float(sign["until"]) > time.time()


class _Remembered(dict[str, bool]):
    """Answers of a function, each asked for once."""

    def __init__(self, function: Callable[[str], bool]) -> None:
        self._function = function

    def __call__(self, key: str) -> bool:
        if key not in self:
            self[key] = self._function(key)
        return self[key]


def _block(name: str) -> Block:
    row, column = name.split(".")[:2]
    return int(row), int(column)


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


def _create_local(path: Path, data: bytes) -> None:
    """Create a file that appears with all its content, or raise FileExistsError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        aside.write_bytes(data)
        os.link(aside, path)
    finally:
        aside.unlink(missing_ok=True)


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
    plain = [line for line in different if not line.startswith("input")] or different
    plain.sort(key=lambda line: line.startswith("attributes"))  # some of them tell of the model, which tells more of itself
    if plain:
        more = f"; and {len(plain) - MOST} more" if len(plain) > MOST else ""
        raise StoreError(
            f"{store} exists, and was written with other values: {'; '.join(plain[:MOST])}{more}. Call with the same input, model and "
            "settings to resume; give another path, or overwrite=True to replace it."
        )


def _differences(one: Any, other: Any, at: str = "") -> Iterator[str]:
    """Yield in what two plans differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from _differences(one.get(key), other.get(key), f"{at}.{key}" if at else str(key))
    elif one != other:
        yield f"{at} was {_short(one)} and is {_short(other)}"


def _short(value: Any, most: int = 60) -> str:
    text = json.dumps(value)
    return text if len(text) <= most else f"{text[:most]}…"


def in_order(shape: Sequence[int], side: int = 8) -> list[Block]:
    """Return all blocks in squares of neighbours, which share what they read."""
    blocks = [(row, column) for row in range(shape[0]) for column in range(shape[1])]
    return sorted(blocks, key=lambda block: (block[0] // side, block[1] // side, block))
