"""A copy of a table of items in the local cache, as Arrow's own format: fetched, unpacked and written within bounds of bytes.

How many bytes it may unpack to is looked at by :mod:`misoxr.assets.parquet`.
"""

import hashlib
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from misoxr.assets.hrefs import HTTP, redact, without_secrets
from misoxr.assets.http import follow, http_session, megabytes
from misoxr.assets.inside import Reach
from misoxr.assets.parquet import AT_ONCE, BATCH, most_of, unpacked
from misoxr.errors import AssetError, CatalogError, StoreError, note, require
from misoxr.paths import cache, scratch, settle

__all__ = ["copied"]

NEEDED = ("id", "bbox", "datetime", "assets")
PIECE = 1 << 24
"""Bytes of a table that are fetched at a time."""
TABLE = 16_000.0
"""Megabytes that a table may unpack to."""


def copied(uri: str, reach: Reach | None = None) -> str:
    """Return the path of a table's copy, made once for each version of it.

    Parameters
    ----------
    uri : str
        Address or path of the table.
    reach : Reach, optional
        Where its server may lead; see :func:`misoxr.assets.http.http_session`.

    Raises
    ------
    CatalogError
        If the table cannot be fetched or read, lacks a column, or unpacks to more than is allowed.
    StoreError
        If the local cache cannot be written.
    """
    require("pyarrow", "parquet")
    import pyarrow as pa

    try:
        if uri.lower().startswith(tuple(f"{scheme}://" for scheme in HTTP)):
            return _of_server(uri, reach)
        system, path = fsspec.core.url_to_fs(uri)
        info = system.info(path)
        version = [uri if not isinstance(system, LocalFileSystem) else os.path.realpath(path)]
        version += [str(info.get(key)) for key in ("size", "mtime", "ETag", "etag", "LastModified", "Last-Modified")]
        with system.open(path, "rb") as file:
            return _known(version, uri) or _copy(file, version, uri)
    except (CatalogError, StoreError):
        raise
    except (OSError, ValueError, TypeError, RecursionError, MemoryError, OverflowError, ImportError, pa.ArrowException) as error:
        fault = f"{type(error).__name__}: {without_secrets(error, uri)[:300]}"
    # not from its error, whose text may hold a secret of the address
    raise CatalogError(f"The table {redact(uri)} cannot be read ({fault}); it must be stac-geoparquet.")


def _begin(version: list[str]) -> Path:
    """Return what the path of a version's copy begins with; it ends with the checksum of its content."""
    return cache("tables") / hashlib.sha256(repr(version).encode()).hexdigest()


def _known(version: list[str], uri: str) -> str | None:
    """Return the path of a version's copy, where there is one; one that is damaged is removed."""
    begin = _begin(version)
    for copy in begin.parent.glob(f"{begin.name}-*.arrow"):
        if copy.stem.endswith(_checksum(copy, copy.stat().st_mtime_ns)):
            return str(copy)
        note(f"The cached copy of the table {redact(uri)} is damaged, and is made again.")
        copy.unlink(missing_ok=True)
    return None


@lru_cache
def _checksum(copy: Path, _: int) -> str:
    """Return the checksum of a file as it was at a time."""
    with copy.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_server(uri: str, reach: Reach | None) -> str:
    """Return the path of the copy of a table over HTTP, which is fetched piece by piece."""
    most = megabytes("MISOXR_TABLE_MB", TABLE)
    with http_session(reach=reach) as session:
        first, size = _piece(session, uri, 0)
        headers = first.headers
        version = [uri, str(size), headers.get("ETag", ""), headers.get("Last-Modified", "")]
        if known := _known(version, uri):
            return known
        if size > most:
            raise CatalogError(_larger(uri, most))
        with scratch(_begin(version).with_suffix(".parquet")) as aside, aside.open("w+b") as file:
            file.write(first.content)
            while file.tell() < size:
                piece, now = _piece(session, uri, file.tell())
                if now != size:
                    raise AssetError(f"it changed from {size} to {now} bytes meanwhile")
                file.write(piece.content)
            file.seek(0)
            return _copy(file, version, uri)


def _piece(session: Any, uri: str, start: int) -> tuple[Any, int]:
    """Return an answer with a piece of a file, and the file's size."""
    answer = follow(session, uri, {"Range": f"bytes={start}-{start + PIECE - 1}"})
    if answer.status_code != 206:
        why = "its server does not answer range requests" if answer.ok else f"its server answers {answer.status_code}"
        raise AssetError(f"it cannot be fetched: {why}")
    return answer, int(answer.headers["Content-Range"].rpartition("/")[2])


def _copy(file: Any, version: list[str], uri: str) -> str:
    """Unpack a table's rows into its copy, and return the path of that."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    most = most_of(size, megabytes("MISOXR_TABLE_MB", TABLE))
    table = pq.ParquetFile(file)
    missing = [name for name in NEEDED if name not in table.schema_arrow.names]
    if missing:
        raise CatalogError(f"The table {redact(uri)} lacks the columns {missing}; it must be stac-geoparquet.")
    with scratch(_begin(version)) as aside:
        with aside.open("wb") as target, pa.ipc.new_file(target, table.schema_arrow) as writer:
            small: list[Any] = []
            for batch in unpacked(file, table, most, CatalogError(_larger(uri, most))):
                small.append(batch)
                # rows are found faster in few batches
                if sum(one.num_rows for one in small) >= BATCH or sum(one.nbytes for one in small) >= AT_ONCE:
                    writer.write_table(pa.Table.from_batches(small).combine_chunks())
                    small = []
            if small:
                writer.write_table(pa.Table.from_batches(small).combine_chunks())
        copy = _begin(version).with_name(f"{_begin(version).name}-{_checksum(aside, 0)}.arrow")
        settle(aside, copy)
    return str(copy)


def _larger(uri: str, most: int) -> str:
    return (
        f"The table {redact(uri)} unpacks to more than {most / 1e6:.0f} MB, the most for its size. If you trust it, write it anew "
        "with other compression or in several files; MISOXR_TABLE_MB bounds large tables."
    )
