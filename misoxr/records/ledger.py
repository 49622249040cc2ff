"""The ledger of a store: its plan, which blocks are done and which are claimed, as small files beside the store."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from misoxr.errors import StoreError
from misoxr.records.writers import POLL, Writer, ended, remove_through

__all__ = ["COMPLETE", "FORMAT", "PLAN", "Block", "Ledger", "in_order", "progress_of"]

Block = tuple[int, int]
"""Row and column of a block among the blocks of a store."""

FORMAT = 3
"""Of plans and records. The first told nothing of coordinates, tables and attributes; the second's records named no plan."""
PLAN, COMPLETE = "plan.json", "complete"


def progress_of(uri: str) -> str:
    """Return where the records of a store lie."""
    return f"{uri.rstrip('/')}.progress"


@dataclass(eq=False)
class Ledger(Writer):
    """The records of one store, as one writer sees them.

    A block is done when its record is there, whatever lies in the store. Records lie in a directory that the plan names: those of
    another plan, or of none, do not count.

    A writer claims a block by creating a lease that nobody else can create. Leases count as long as their writer lives. The claim on a
    dead writer's block is a lease of the next generation, so that of several who want it one gets it.

    Attributes
    ----------
    edition : str or None
        What the plan calls the directories of its records, once it is agreed on; None for who looks at whatever plan is there.
    """

    edition: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave connections behind, and what was seen of others."""
        return Ledger, (self.uri, self.limit, self.owner, self.edition)

    # ---- the plan

    def plan(self) -> dict[str, Any] | None:
        """Return the plan; None where there is none.

        Raises
        ------
        StoreError
            If it is damaged.
        """
        system, path = self._at
        try:
            found = json.loads(system.cat_file(f"{path}/{PLAN}"))
        except FileNotFoundError:
            return None
        except ValueError:
            found = None
        is_plan = isinstance(found, dict) and isinstance(found.get("fingerprint"), str)
        if not is_plan or (found.get("format") == FORMAT and not isinstance(found.get("edition"), str)):
            raise self.damaged(f"{PLAN} is no plan")
        return dict(found)

    def damaged(self, how: str) -> StoreError:
        """Return the error that says that the records are damaged."""
        store = self.uri.removesuffix(".progress")
        return StoreError(
            f"The records {self.uri} of the store {store} are damaged: {how}. Which blocks are written is not known any more. Write the "
            "store anew with overwrite=True, or remove it and the records by hand."
        )

    def agree(self, plan: Mapping[str, Any], lay_out: Callable[[], None]) -> dict[str, Any]:
        """Lay the store out once, whoever comes first, and return the plan that it has; records are this plan's from now on."""
        while (found := self.plan()) is None:
            if not self.take("layout"):
                time.sleep(POLL)
                continue
            if self.plan() is None:
                lay_out()
                edition = f"{plan['fingerprint'][:16]}-{uuid4().hex[:16]}"  # a plan may be laid out again
                self.create(PLAN, {**plan, "edition": edition}, flush=True)
        self.edition = found.pop("edition", None)
        return found

    def current(self) -> bool:
        """Whether the plan that was agreed on is still there."""
        return (self.plan() or {}).get("edition") == self.edition

    def check(self) -> None:
        """Refuse to go on for dead, or with another plan, in a bucket."""
        super().check()
        if self.own is None and self.edition is not None and not self.current():
            raise ended(self.uri)

    def _directory(self, of: str) -> str:
        """Return where the plan's records or leases lie."""
        return f"{of}/{self.edition or (self.plan() or {}).get('edition')}"

    def finish(self) -> None:
        """Record that all is done."""
        self._put(COMPLETE, self.edition, flush=True)

    def finished(self) -> bool:
        """Whether all that the plan wants is done."""
        edition = self.read(COMPLETE)
        return edition is not None and (self.plan() or {}).get("edition") == edition

    # ---- blocks

    def done(self) -> dict[Block, str]:
        """Return the blocks of the plan that are done, and how: "written" or "masked"."""
        names = sorted(self._names(self._directory("blocks")))  # of a block that has both records, "written" counts: data win
        return {_block(name): name.rsplit(".", 1)[-1] for name in names if name.endswith((".written", ".masked"))}

    def complete(self, block: Block, error: str | None = None) -> None:
        """Record that a block is written, or with an error that it became nodata.

        A record is not flushed: one that is lost costs a block. What it tells of was flushed before it, and a file system keeps the
        order of names (ext4 and XFS do), so a record outlives no chunk. ``misoxr.check`` finds what another one loses.
        """
        self.check()
        name = self._name("blocks", block)
        if error is not None and self.has(f"{name}.written"):
            return
        record = {"writer": self.owner, "edition": self.edition, "error": error}
        self._put(f"{name}.{'written' if error is None else 'masked'}", record)
        if error is None:
            self.clear(f"{name}.masked")

    def withdraw(self, block: Block) -> None:
        """Have a block computed again."""
        for name in (COMPLETE, *(f"{self._name('blocks', block)}.{how}" for how in ("written", "masked"))):
            if self.own is None:
                self.clear(name)
            else:
                remove_through(self.own, Path(self._at[1], name))

    def masked(self) -> dict[Block, str]:
        """Return the blocks that became nodata, and why."""
        names = {block: f"{self._name('blocks', block)}.masked" for block, how in self.done().items() if how == "masked"}
        return {block: (self.read(name) or {}).get("error") or "" for block, name in names.items()}

    def _name(self, of: str, block: Block) -> str:
        return f"{self._directory(of)}/{block[0]}.{block[1]}"

    def claim(self, blocks: Iterable[Block], most: int) -> list[Block]:
        """Claim blocks, at most so many, in their order; those that others work on are left to them."""
        directory = self._directory("leases")
        held, alive = self._generations(directory), _Remembered(self._lives)
        mine: list[Block] = []
        for block in blocks:
            if len(mine) == most:
                break
            name = f"{block[0]}.{block[1]}"
            if self._claimed(f"{directory}/{name}", held.get(name), alive) and not self.has(
                f"{self._name('blocks', block)}.written"
            ):
                mine.append(block)
        return mine

    def take(self, name: str) -> bool:
        """Claim something that one writer does for all; False where another does it."""
        return self._claimed(f"leases/{name}", self._generations("leases").get(name), self._lives)

    def _claimed(self, lease: str, generation: int | None, alive: Callable[[str], bool]) -> bool:
        """Claim what a lease is of whose last generation is known."""
        if generation is not None:
            last = f"{lease}.{generation}"
            owner = self.read(last)
            if owner == self.owner:
                return True
            if owner is None and not self.has(last):
                return False  # forgotten meanwhile: who looks again finds what is there now
            if alive(str(owner)):
                return False
            self._end(str(owner))
        return self.create(f"{lease}.{0 if generation is None else generation + 1}", self.owner)

    def _generations(self, directory: str) -> dict[str, int]:
        """Return the last generation of each name that was ever claimed."""
        last: dict[str, int] = {}
        for entry in self._names(directory):
            name, _, generation = entry.rpartition(".")
            if generation.isdigit():
                last[name] = max(last.get(name, -1), int(generation))
        return last

    # ---- the end

    def close(self) -> None:
        """Remove leases and dead writers, of which nobody has a need when all is done."""
        for owner in self._names("writers"):
            if owner != self.owner and not self._lives(owner):
                self._end(owner)
        self.clear("layout", "leases")

    def forget(self) -> None:
        """Remove all records, the plan last: a kill on the way leaves records that count, or a plan that is forgotten again."""
        for owner in self._names("writers"):
            self._end(owner)
        for name in sorted(self._names()):
            if name != PLAN:
                self.clear(name)
        self.clear()


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


def in_order(shape: Sequence[int], side: int = 8) -> list[Block]:
    """Return all blocks in squares of neighbours, which share what they read."""
    blocks = [(row, column) for row in range(shape[0]) for column in range(shape[1])]
    return sorted(blocks, key=lambda block: (block[0] // side, block[1] // side, block))
