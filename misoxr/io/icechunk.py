"""Write maps to an Icechunk repository: a batch of blocks, and the record of them, in one commit."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import zarr

from misoxr._version import __version__
from misoxr.errors import AssetError, StoreError, require
from misoxr.io.blocks import AT_ONCE, Runner, graph_of, put_nodata, start
from misoxr.io.check import COMPRESSORS, RECORD, with_empty_chunks
from misoxr.io.layout import Layout, lay_out, packed, with_masked
from misoxr.io.replace import differences, refuse_different
from misoxr.records.bars import Bar
from misoxr.records.ledger import Block, in_order

if TYPE_CHECKING:
    from icechunk import Repository, Session

__all__ = ["to_repository"]

MAIN, ASIDE = "main", "main.new"
"""Branches of a map, and of the one that is to replace it."""
WRITTEN, MASKED = 1, 2
"""What the record says of a block that is done."""

Array = npt.NDArray[Any]


def to_repository(
    repo: "Repository",
    layout: Layout,
    plan: Mapping[str, Any],
    runner: Runner,
    bar: Bar,
    *,
    overwrite: bool,
    resume: bool,
    mask: bool,
) -> None:
    """Write a dataset to the root of a repository, or do what is left; see :func:`misoxr.io.zarr.to_zarr`.

    Raises
    ------
    StoreError
        If it is no repository, or holds something else; if others commit to the same part of it; or if it cannot be written.
    """
    if not hasattr(repo, "writable_session"):
        raise StoreError(
            f"Maps are not written to a {type(repo).__name__}; give a path, a URL (which obstore serves after obstore.fsspec.register), or an "
            "icechunk.Repository."
        )
    icechunk = require("icechunk", "icechunk")
    try:
        main = repo.lookup_branch(MAIN)
        exists = _holds_anything(repo, MAIN)
        branch = ASIDE if exists and overwrite else MAIN
        if branch == ASIDE and not _is_begun(repo, main, plan):
            repo.create_branch(ASIDE, main)
            _lay_out(repo, ASIDE, layout, plan)
        elif not exists:
            _lay_out(repo, MAIN, layout, plan)
        elif branch == MAIN:
            _agree(repo, plan, resume=resume)
        _write(repo, branch, layout, runner, bar, mask=mask)
        if branch == ASIDE:
            _put_in_place(repo, main)
    except (icechunk.ConflictError, icechunk.RebaseFailedError) as error:
        raise StoreError(
            "Another writer has committed to the same part of the repository meanwhile, so this batch is not: let one process write at a "
            "time, with a Dask client where it should be many machines. All commits stay valid; the same call does what is left."
        ) from error
    except icechunk.IcechunkError as error:
        raise StoreError(
            f"The repository cannot be written ({error}). All commits stay valid; when the cause is mended, the same call does what is left."
        ) from error


# ---- beginning


def _holds_anything(repo: "Repository", branch: str) -> bool:
    try:
        zarr.open(repo.readonly_session(branch).store, mode="r")
    except FileNotFoundError:
        return False
    return True


def _recorded(repo: "Repository", branch: str) -> dict[str, Any] | None:
    """Return the plan of the map that a branch holds; None where it is none that was written here."""
    try:
        record = zarr.open_group(repo.readonly_session(branch).store, path=RECORD, mode="r", use_consolidated=False)
    except FileNotFoundError:
        return None
    return record.attrs.asdict()


def _agree(repo: "Repository", plan: Mapping[str, Any], *, resume: bool) -> None:
    """Refuse what is not to be gone on with."""
    found = _recorded(repo, MAIN)
    remedy = "give another repository, or overwrite=True to replace it; the old one stays in the history"
    if found is None:
        raise StoreError(f"The repository holds other data in its branch main; {remedy}.")
    if not resume:
        raise StoreError(f"The map in the repository exists, and resume=False; {remedy}.")
    refuse_different("The map in the repository", differences(found, plan))


def _is_begun(repo: "Repository", main: str, plan: Mapping[str, Any]) -> bool:
    """Whether a map that is to replace main's was begun with this plan; one that was begun otherwise is given up."""
    if ASIDE not in repo.list_branches():
        return False
    if repo.lookup_branch(ASIDE) != main and (_recorded(repo, ASIDE) or {}).get("fingerprint") == plan["fingerprint"]:
        if all(snapshot.id != main for snapshot in repo.ancestry(branch=ASIDE)):
            raise _moved()
        return True
    repo.delete_branch(ASIDE)
    return False


def _put_in_place(repo: "Repository", main: str) -> None:
    """Have main go on with the commits of the map that replaces it."""
    if repo.lookup_branch(MAIN) != main:
        raise _moved()
    repo.reset_branch(MAIN, repo.lookup_branch(ASIDE), from_snapshot_id=main)
    repo.delete_branch(ASIDE)


def _moved() -> StoreError:
    return StoreError(
        f"Others have committed to the branch {MAIN} since {ASIDE} was begun, which is to replace it. To replace their commits, too, reset "
        f"{MAIN} to {ASIDE} when that is finished; to begin anew, delete {ASIDE} and call again."
    )


def _lay_out(repo: "Repository", branch: str, layout: Layout, plan: Mapping[str, Any]) -> None:
    session = repo.writable_session(branch)
    lay_out(layout, session.store, plan["fingerprint"])
    record = zarr.create_group(session.store, path=RECORD, attributes=dict(plan))
    # One chunk, so that of two writers of one map the second one's commit always conflicts.
    record.create_array("blocks", shape=layout.shape, chunks=layout.shape, dtype="uint8", fill_value=0, compressors=COMPRESSORS)
    _commit(session, f"misoxr {__version__}: layout of {layout.shape[0] * layout.shape[1]} blocks")


# ---- batches


@dataclass(frozen=True, eq=False)
class Draft:
    """A session before its commit. Tasks of this process write to it; those of another to a fork, which comes back to be merged."""

    session: "Session"

    def __reduce__(self) -> tuple[Any, ...]:
        from icechunk.session import ForkSession

        return Draft, (self.session if isinstance(self.session, ForkSession) else self.session.fork(),)

    def __dask_tokenize__(self) -> str:
        """A cluster compares tasks of one name."""
        return str(self.session.snapshot_id)

    def put(self, values: Array, name: str, region: tuple[slice, ...], pack: bool) -> "Draft":
        """Write a part of a variable."""
        group: Any = zarr.open_group(self.session.store, mode="r+", use_consolidated=False)
        with_empty_chunks(group[name])[region] = packed(values, name) if pack else values
        return self

    def gather(self, drafts: Sequence["Draft"]) -> "Draft":
        """Merge what was written to forks."""
        forks: dict[int, Any] = {id(draft.session): draft.session for draft in drafts if draft.session is not self.session}
        self.session.merge(*forks.values())
        return self


@dataclass(frozen=True)
class Batch:
    """Where the blocks of one commit are written."""

    layout: Layout
    draft: Draft

    @property
    def name(self) -> str:
        """The commit before: forks of one session cannot be merged into another."""
        return str(self.draft.session.snapshot_id)

    @property
    def put(self) -> Callable[[Array, str, tuple[slice, ...], bool], Draft]:
        """Write a part of a variable."""
        return self.draft.put

    def end(self, block: Block) -> Callable[[Sequence[Draft]], Draft]:
        """Bring together what was written of a block."""
        return self.draft.gather


def _write(repo: "Repository", branch: str, layout: Layout, runner: Runner, bar: Bar, *, mask: bool) -> None:
    """Write blocks and commit them with their record, batch by batch, until all are done."""
    graph, order, enough = graph_of(layout), in_order(layout.shape), (WRITTEN, MASKED) if mask else (WRITTEN,)
    while True:
        batch = Batch(layout, Draft(repo.writable_session(branch)))
        done = _record(batch)[...]
        left = [block for block in order if done[block] not in enough]
        bar.reach(len(order) - len(left), len(order))
        if not left:
            return
        drafts: dict[Block, Draft] = {}
        failed: dict[Block, AssetError] = {}
        ended = partial(_note, drafts, failed, bar, mask)
        # All that is begun is waited for before a commit: with several blocks for each thread, threads wait little.
        with suppress(AssetError):  # raised below, when what ended before it is committed
            start(batch, graph, left[: max(AT_ONCE, 4 * runner.threads())], runner, ended)
            runner.wait(ended, everything=True)
        batch.draft.gather(list(drafts.values()))
        if drafts or mask:
            _commit_blocks(batch, list(drafts), failed if mask else {})
        if failed and not mask:
            raise next(iter(failed.values()))


def _note(drafts: dict[Block, Draft], failed: dict[Block, AssetError], bar: Bar, mask: bool, block: Block, outcome: Any) -> None:
    """Note how a block ended; one that failed ends the batch, unless it is to be masked."""
    if isinstance(outcome, AssetError):
        failed[block] = outcome
        if not mask:
            raise outcome
    else:
        drafts[block] = outcome
    bar.update()


def _record(batch: Batch) -> Any:
    return zarr.open_group(batch.draft.session.store, path=RECORD, mode="r+", use_consolidated=False)["blocks"]


def _commit_blocks(batch: Batch, written: Sequence[Block], masked: Mapping[Block, AssetError]) -> None:
    """Commit blocks with their record, and nodata for those that could not be read."""
    session, record = batch.draft.session, _record(batch)
    done = record[...]
    for block in written:
        done[block] = WRITTEN
    for block in masked:
        put_nodata(batch, block)
        done[block] = MASKED
    record[...] = done
    group = zarr.open_group(session.store, mode="r+", use_consolidated=False)
    noted: Any = group.attrs.get("masked_blocks", [])
    errors = {tuple(entry["block"]): entry["error"] for entry in noted} | {block: str(error) for block, error in masked.items()}
    still = {block: error for block, error in errors.items() if done[block] == MASKED}
    group.attrs.put(with_masked(group.attrs.asdict(), batch.layout, still))
    _commit(session, f"misoxr {__version__}: {np.count_nonzero(done)} of {done.size} blocks")


def _commit(session: "Session", message: str) -> None:
    """Commit; what others committed to other parts of the repository meanwhile is no conflict."""
    icechunk = require("icechunk", "icechunk")
    session.commit(message, rebase_with=icechunk.ConflictDetector())
