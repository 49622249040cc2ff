"""Find what is missing or damaged in a store: its metadata, and the chunks of its arrays, by their checksums."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice, product
from typing import TYPE_CHECKING, Any, NamedTuple

import google_crc32c
import numpy as np
import pandas as pd
import zarr
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec, ShardingCodec, ZstdCodec

from misoxr.errors import StoreError, note
from misoxr.io.origins import Files, Index, ZarrArray, block_of, file_of, grid_of, readable, region_of
from misoxr.records.ledger import FORMAT, Block, Ledger, progress_of
from misoxr.records.writers import system_of

if TYPE_CHECKING:
    from icechunk import Repository

__all__ = [
    "COMPRESSORS",
    "COPY",
    "DAMAGED",
    "METADATA",
    "MISSING",
    "RECORD",
    "SUMS",
    "UNREADABLE",
    "Fault",
    "check",
    "chunk_fault",
    "chunk_faults",
    "with_empty_chunks",
    "done_of_unfinished",
    "is_summed",
    "metadata_faults",
    "seal",
    "sound_copies",
]

RECORD = "progress"
"""Group of a repository whose array ``blocks`` says which blocks are done, and whose attributes are the plan."""
COMPRESSORS = (ZstdCodec(), Crc32cCodec())
"""Of every chunk: Zarr's default, and the checksum of what it gives."""
SUMS = "misoxr_metadata_sha256"
"""Attribute of a group: the SHA-256 of its metadata files, and of its own without itself and without copies of others."""
METADATA, COPIES = "zarr.json", "consolidated_metadata"
MISSING, DAMAGED, UNREADABLE, EMPTY = "missing", "damaged", "unreadable", "no file"
COPY, UNFINISHED, UNSUMMED = "damaged copy", "unfinished", "no checksum"
THREADS = 8
"""Files read at once: each of them is in memory whole."""
AT_ONCE = 1024
"""Files that are handed to the threads at once."""


class Fault(NamedTuple):
    """What is wrong with a file of a store, or with several of an array."""

    path: str
    state: str
    detail: str


# ---- metadata


def _sum(metadata: Mapping[str, Any]) -> str:
    """Return the hash of what metadata say, without the copies of others."""
    own = {key: value for key, value in metadata.items() if key != COPIES}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def seal(place: str | Store, attrs: Mapping[str, Any] | None = None) -> None:
    """Write the attributes of a group, by default those it has, with the hashes of all metadata below it and its own."""
    group, files = zarr.open_group(place, mode="r+", use_consolidated=False), Files(place)
    names = [f"{name}/{METADATA}" for name, _ in sorted(group.members(max_depth=None))]
    own = dict(group.attrs.asdict() if attrs is None else attrs)
    own[SUMS] = {name: _sum(files.json(name) or {}) for name in names}
    own[SUMS][METADATA] = _sum({"attributes": own, "zarr_format": 3, "node_type": "group"})
    group.attrs.put(own)


def _copies(root: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the copies of other metadata that a root has, by their files."""
    copies = (root.get(COPIES) or {}).get("metadata", {})
    return {f"{name}/{METADATA}": {key: value for key, value in copy.items() if key != COPIES} for name, copy in copies.items()}


def sound_copies(files: Files) -> dict[str, dict[str, Any]]:
    """Return the copies of other metadata that a store's root has, and whose hashes hold."""
    root = files.json(METADATA) or {}
    sums = root.get("attributes", {}).get(SUMS, {})
    return {name: copy for name, copy in _copies(root).items() if sums.get(name, _sum(copy)) == _sum(copy)}


def metadata_faults(files: Files, *, sealed: bool = False) -> list[Fault]:
    """Return the metadata files of a store that are missing, or not what was written.

    Parameters
    ----------
    files : Files
        Files of the store.
    sealed : bool, optional
        Take it for a fault where there are no hashes.
    """
    try:
        root = files.json(METADATA)
        if root is None:  # stores of Zarr's format 2 have other files, without hashes
            return [] if files.read(".zgroup") is not None else [Fault(METADATA, MISSING, "there is no such file")]
        if root.get("node_type") != "group":
            return [Fault(METADATA, DAMAGED, "it is not that of a group")]
        sums = dict(root.get("attributes", {}).get(SUMS, {}))
        own = sums.pop(METADATA, None)
        if (sums or own or sealed) and _sum({**root, "attributes": {**root["attributes"], SUMS: sums}}) != own:
            return [Fault(METADATA, DAMAGED, f"it is not what was written: the hash in {SUMS} does not hold")]
        copies = {name: _sum(copy) for name, copy in _copies(root).items()}
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        return [Fault(METADATA, DAMAGED, f"it is no metadata of Zarr ({error!r})")]
    wrong = sorted(name for name in sums if copies and copies.get(name) != sums[name])
    faults = [Fault(METADATA, COPY, f"its copies are not what was written: {', '.join(wrong)}")] if wrong else []
    for name in sorted({*copies, *sums}):
        faults += _member(files, name, sums.get(name))
    return faults


def _member(files: Files, name: str, expected: str | None) -> Iterator[Fault]:
    """Yield what is wrong with a metadata file, whose hash may be known."""
    try:
        found = files.json(name)
    except ValueError as error:
        yield Fault(name, DAMAGED, f"it is no metadata of Zarr ({error})")
        return
    if found is None:
        yield Fault(name, MISSING, "there is no such file")
    elif expected is not None and _sum(found) != expected:
        yield Fault(name, DAMAGED, "it is not what was written")


# ---- chunks


def with_empty_chunks(array: ZarrArray) -> ZarrArray:
    """Return an array that also writes chunks that are nodata throughout, so that a chunk without a file is a lost one."""
    return zarr.Array(zarr.AsyncArray(array.metadata, array.store_path, config={"write_empty_chunks": True}))


def _ends_summed(codecs: Any) -> bool:
    """Whether chunks of these codecs end with a checksum."""
    last = codecs[-1] if codecs else None
    if isinstance(last, ShardingCodec):
        return _ends_summed(last.codecs) and isinstance(last.index_codecs[-1], Crc32cCodec) and last.index_location.value == "end"
    return isinstance(last, Crc32cCodec)


def is_summed(array: ZarrArray) -> bool:
    """Whether the chunks of an array have checksums."""
    return array.metadata.zarr_format == 3 and _ends_summed(array.metadata.codecs)


def _holds(data: bytes | memoryview) -> bool:
    return len(data) > 4 and google_crc32c.value(bytes(data[:-4])) == int.from_bytes(data[-4:], "little")


def _is_sound(array: ZarrArray, data: bytes) -> bool:
    """Whether the checksums of a file hold: of a shard, those of its index and of each chunk in it."""
    if not array.shards:
        return _holds(data)
    count = math.prod(shard // chunk for shard, chunk in zip(array.shards, array.chunks, strict=True))
    view, length = memoryview(data), 16 * count + 4
    if len(data) < length or not _holds(view[-length:]):
        return False
    places = np.frombuffer(view[-length:-4], "<u8").reshape(-1, 2)
    inner = places[
        places[:, 0] != np.iinfo("u8").max
    ].tolist()  # at the edges of a map, shards have chunks beyond it, which are not written
    return all(_holds(view[first : first + size]) for first, size in inner)


def chunk_fault(files: Files, array: ZarrArray, index: Index) -> Fault | None:
    """Return what is wrong with a chunk, or a shard, of an array."""
    name = file_of(array, index)
    data = files.read(name)
    if data is None:
        return Fault(name, MISSING if is_summed(array) else EMPTY, "there is no such file")
    if is_summed(array):
        return None if _is_sound(array, data) else Fault(name, DAMAGED, f"its checksum does not hold ({len(data)} bytes)")
    try:
        array[region_of(array, index)]
    except Exception as error:  # of whatever codec; what cannot be read at all has failed above
        return Fault(name, DAMAGED, f"it cannot be decoded ({error})")
    return None


def chunk_faults(files: Files, array: ZarrArray, wanted: Callable[[Index], bool] | None = None) -> Iterator[tuple[Index, Fault]]:
    """Yield what is wrong with the chunks of an array, read by threads.

    Parameters
    ----------
    files : Files
        Files of the store.
    array : zarr.Array
        An array of it.
    wanted : callable, optional
        Says of an index whether it counts; by default all do.
    """
    _, counts = grid_of(array)
    indices = (index for index in product(*map(range, counts)) if wanted is None or wanted(index))

    def fault(index: Index) -> tuple[Index, Fault | None]:
        try:
            return index, chunk_fault(files, array, index)
        except Exception as error:
            return index, Fault(file_of(array, index), UNREADABLE, str(error))

    with ThreadPoolExecutor(THREADS) as pool:
        while some := list(islice(indices, AT_ONCE)):
            for index, found in pool.map(fault, some):
                if found is not None:
                    yield index, found


# ---- the whole store


def check(store: "str | os.PathLike[str] | Store | Repository") -> pd.DataFrame:
    """Read a store and tell what of it is missing or damaged.

    Every file is read once, by several threads. Metadata are compared with their hashes, and chunks with their checksums, which need not be
    decompressed for it. A map that is not finished is checked as far as it is written.

    Parameters
    ----------
    store : str, path, Store or Repository
        A map or a pyramid, as :func:`misoxr.open_maps` takes it; also any other Zarr store.

    Returns
    -------
    DataFrame
        A row for each fault, none where all is sound. ``path`` is the file within the store, ``state`` one of the words below, and ``detail`` says
        more.

        - ``missing``: there is no such file.
        - ``damaged``: the file is not what was written, or cannot be decoded.
        - ``damaged copy``: the copies of other metadata in the root's file, which plain xarray reads, are not what was written.
        - ``unreadable``: the file cannot be read, by an error of the disk or server.
        - ``no file``: an array whose chunks have no checksums lacks files. They may be nodata, or lost.
        - ``no checksum``: an array or group has none. Of its chunks it is only known that they can be decoded.
        - ``unfinished``: not all blocks are written yet.

    Raises
    ------
    StoreError
        If there is no store.

    Examples
    --------
    >>> maps.miso.to_zarr("maps.zarr")
    >>> faults = misoxr.check("maps.zarr")
    >>> assert faults.empty, faults
    """
    place = readable(store)
    files = Files(place)
    faults = metadata_faults(files) if isinstance(place, str) else []
    if isinstance(place, str) and faults and faults[0].state == MISSING and not system_of(place)[0].exists(system_of(place)[1]):
        raise StoreError(f"There is no store at {place}; give the path or URL of one.")
    wrong = {fault.path for fault in faults}
    names, sealed = _names(files)
    if isinstance(place, str) and not sealed and METADATA not in wrong:
        faults.append(Fault(METADATA, UNSUMMED, "metadata have no checksums"))
    done = done_of_unfinished(place)
    if done is not None:
        faults.append(Fault("", UNFINISHED, f"{len(done)} blocks are written"))
    for name in names:
        if f"{name}/{METADATA}" in wrong:
            continue  # how its chunks are to be read is not known
        try:
            node = zarr.open(place, path=name, mode="r")
        except Exception as error:
            faults.append(Fault(f"{name}/{METADATA}", DAMAGED, f"it is no metadata of Zarr ({error!r})"))
            continue
        if isinstance(place, str) and isinstance(node, zarr.Group):  # a level of a pyramid has hashes and copies of its own
            inner = [fault._replace(path=f"{name}/{fault.path}") for fault in metadata_faults(Files(f"{place}/{name}"))]
            faults += [fault for fault in inner if fault.path not in wrong]
        if isinstance(node, zarr.Array) and not name.startswith(f"{RECORD}/"):
            faults += _of_array(files, node, done, sealed=sealed)
    return pd.DataFrame(faults, columns=list(Fault._fields))


def _names(files: Files) -> tuple[list[str], bool]:
    """Return the paths of all arrays and groups of a store that are known, and whether hashes of their metadata are."""
    names: set[str] = set()
    sums: dict[str, str] = {}
    with suppress(Exception):  # told as a fault of the root
        root = files.json(METADATA) or {}
        sums = root.get("attributes", {}).get(SUMS, {})
        names |= {*sums, *_copies(root)} - {METADATA}
    with suppress(Exception):
        names |= {f"{name}/{METADATA}" for name, _ in zarr.open_group(files.place, mode="r").members(max_depth=None)}
    return sorted(name.removesuffix(f"/{METADATA}") for name in names), bool(sums)


def done_of_unfinished(place: str | Store) -> set[Block] | None:
    """Return the blocks that are written of a store that is not; None where it is finished, or has no records."""
    if isinstance(place, str):
        ledger = Ledger(progress_of(place))
        try:
            is_unfinished = (ledger.plan() or {}).get("format") == FORMAT and not ledger.finished()  # earlier ones' records differ
        except StoreError as error:  # that they are damaged, which what is written may not be
            note(str(error))
            return None
        return set(ledger.done()) if is_unfinished else None
    with suppress(FileNotFoundError, KeyError):
        done: Any = zarr.open_array(place, path=f"{RECORD}/blocks", mode="r")[...]
        return None if np.all(done) else {(int(row), int(column)) for row, column in np.argwhere(done)}
    return None


def _of_array(files: Files, array: ZarrArray, done: set[Block] | None, *, sealed: bool) -> Iterator[Fault]:
    """Yield what is wrong with an array's chunks; those that may well have no file are told together."""
    dims, absent = getattr(array.metadata, "dimension_names", None) or (), 0  # those of format 2 are attributes
    block = block_of(array) if done is not None and {"y", "x"} <= set(dims) else None
    if not is_summed(array):
        yield Fault(f"{array.path}/{METADATA}", UNSUMMED, "its chunks have no checksums")
    for index, fault in chunk_faults(files, array):
        if fault.state in (MISSING, EMPTY) and block is not None and block(index) not in (done or ()):
            continue
        if fault.state == EMPTY or (fault.state == MISSING and not sealed):
            absent += 1
        else:
            yield fault
    if absent:
        total = math.prod(grid_of(array)[1])
        yield Fault(array.path, EMPTY, f"{absent} of {total} chunks have no file: they are nodata, or lost")
