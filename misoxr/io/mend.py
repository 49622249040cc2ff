"""Mend what is missing or damaged in a store: metadata from their copies, tables and coordinates anew; of chunks, have blocks computed again."""

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Any

import zarr
from zarr.storage import MemoryStore

from misoxr.errors import StoreError, note
from misoxr.io.check import (
    COPY,
    DAMAGED,
    METADATA,
    MISSING,
    UNREADABLE,
    Fault,
    chunk_fault,
    chunk_faults,
    is_summed,
    metadata_faults,
    sound_copies,
    with_empty_chunks,
)
from misoxr.io.layout import Layout, lay_out
from misoxr.io.origins import Files, Index, ZarrArray, block_of, file_of, meeting
from misoxr.records.ledger import Block, Ledger

__all__ = ["forget_damaged", "lost", "mend_layout", "remove_damaged"]


def remove_damaged(files: Files, array: ZarrArray, region: tuple[slice, ...]) -> None:
    """Remove files that are damaged where a region is to be written: zarr reads those of which it writes a part."""
    for index in meeting(array, region):
        if chunk_fault(files, array, index) is not None:
            files.remove(file_of(array, index))


def lost(target: str, file: str, what: str) -> StoreError:
    """Return the error that metadata are damaged of which there is no copy."""
    return StoreError(
        f"The file {file} of the store {target} is damaged: {what}. Put it back from a copy. Where there is none, move the store away and "
        "write it anew; what misoxr.open_maps still reads of it can be written to another path."
    )


def _restored(files: Files, blocked: Collection[str]) -> Iterator[Fault]:
    """Write metadata again from their copies in the root, and yield what was wrong with them.

    Raises
    ------
    StoreError
        If there is no sound copy.
    """
    for fault in metadata_faults(files, sealed=_has_sums(files, blocked)):
        if fault.state != COPY:  # copies are gathered when the store is finished
            copy = None if fault.path == METADATA else sound_copies(files).get(fault.path)
            if copy is None:
                raise lost(str(files), fault.path, fault.detail)
            files.write(fault.path, json.dumps(copy, indent=2).encode())
        yield fault


def _has_sums(files: Files, blocked: Collection[str]) -> bool:
    """Whether a store was laid out with checksums."""
    for name in blocked:
        with suppress(Exception):  # what cannot be opened is told by its hash
            return is_summed(zarr.open_array(files.place, path=name, mode="r"))
    return True


def _wrong_files(files: Files, array: ZarrArray, wanted: Callable[[Index], bool] | None = None) -> dict[Index, str]:
    """Return the chunks of an array that are missing or damaged, and their files.

    Raises
    ------
    StoreError
        If one cannot be read.
    """
    found = {}
    for index, fault in chunk_faults(files, array, wanted):
        if fault.state == UNREADABLE:
            raise StoreError(
                f"The file {fault.path} of the store {files} cannot be read: {fault.detail}. When the cause is mended, the same call does what is left."
            )
        if fault.state in (MISSING, DAMAGED):
            found[index] = fault.path
    return found


def mend_layout(files: Files, layout: Layout, fingerprint: str) -> bool:
    """Write metadata, coordinates and tables again that are missing or damaged; return whether any was.

    Raises
    ------
    StoreError
        If metadata are damaged of which there is no copy.
    """
    mended = [fault.path for fault in _restored(files, layout.blocked)]
    spare: Any = None
    for name in sorted(set(map(str, layout.ds.variables)) - set(layout.blocked)):
        array = zarr.open_array(files.place, path=name, mode="r+")
        wrong = _wrong_files(files, array)
        if wrong:
            if spare is None:
                spare = MemoryStore()
                lay_out(layout, spare, fingerprint)
            for file in wrong.values():
                files.remove(file)
            with_empty_chunks(array)[...] = zarr.open_array(spare, path=name, mode="r")[...]
        mended += wrong.values()
    if mended:
        note(f"Files of the store {files} were missing or damaged, and are written again: {', '.join(mended)}.")
    return bool(mended)


def forget_damaged(files: Files, layout: Layout, ledger: Ledger, before: Collection[Block]) -> bool:
    """Forget that blocks are done of which a chunk is missing or damaged, of those done before this call; return whether there are any.

    The files stay until they are written again, so that no reader takes damage for nodata.
    """
    wrong = dict[Block, str]()
    for name in layout.blocked if before else ():
        array = zarr.open_array(files.place, path=name, mode="r")
        block = block_of(array)
        for index, file in _wrong_files(files, array, lambda index, block=block: block(index) in before).items():  # type: ignore[misc]
            if chunk_fault(files, array, index) is not None:  # still: another writer may have mended it
                wrong.setdefault(block(index), file)
                ledger.withdraw(block(index))
    if wrong:
        note(
            f"Of the store {files}, chunks of {len(wrong)} blocks were missing or damaged, such as {next(iter(wrong.values()))}; these "
            "blocks are computed again."
        )
    return bool(wrong)
