"""Open rasters: over HTTP through :class:`RemoteFile`, in buckets and on disks through GDAL."""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import numpy as np
import requests

from misoxr.assets.hrefs import CLOUD, HTTP, gdal_path, without_secrets
from misoxr.assets.http import CONNECT, PAUSE, STALL, follow, seconds
from misoxr.errors import AssetError

__all__ = ["RemoteFile", "open_raster"]

BLOCK = 1 << 16
"""Bytes of a header are fetched in blocks of this size, so one request brings a COG's; gaps up to it between tiles are read along."""
SPAN = 1 << 25
"""Bytes of tiles that are fetched in one request, about."""
KEPT = 1 << 28
"""Bytes of a file's blocks that are kept; those fetched first go first."""
TILE = 256_000_000
"""Bytes of a tile, decoded, and of what is read at once: one strip of a Sentinel-2 band has 241 MB."""
BUCKET_RETRIES = 4
"""GDAL bounds no total: five tries of 30 s and the pauses between are less than three minutes."""
EXPIRED = (401, 403)
"""What a server answers when a signature has expired."""

_SIGNATURES = {
    "GTiff": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
    "JP2OpenJPEG": (b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
}


def gdal_env() -> dict[str, str]:
    """Return GDAL's options: no sibling files; and for buckets, which its own client reads, few and patient requests.

    That client tries 429, 500, 502 to 504 and timeouts again, waiting twice as long each time. It ends a try by its whole time, for
    it does not try again what it finds too slow. GDAL 3.10 neither follows Retry-After nor tries lost connections and broken bodies again.
    """
    return {
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "GDAL_HTTP_MAX_RETRY": str(BUCKET_RETRIES),
        "GDAL_HTTP_RETRY_DELAY": str(PAUSE),
        "GDAL_HTTP_CONNECTTIMEOUT": f"{CONNECT:.0f}",
        "GDAL_HTTP_TIMEOUT": f"{max(seconds('MISOXR_HTTP_TIMEOUT', STALL), 1):.0f}",
        "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
        "GDAL_INGESTED_BYTES_AT_OPEN": str(BLOCK),
        "GDAL_PAM_ENABLED": "NO",
        "VSI_CACHE": "TRUE",
    }


class RemoteFile:
    """A file over HTTP range requests, each redirect checked.

    GDAL drops exceptions, so the first error is kept in ``error``, and nothing is read after it.

    Parameters
    ----------
    href : str
        An http or https address.
    session : requests.Session
        From :func:`misoxr.assets.http.http_session`; several files, each of one thread, may share it.
    renew : callable, optional
        Returns the address signed anew. It is called where the server refuses (401, 403), once a request.
    """

    def __init__(self, href: str, session: requests.Session, renew: Callable[[], str] | None = None) -> None:
        self._href, self._session = href, session
        self._renew = renew or (lambda: href)
        self._blocks: dict[int, bytes] = {}
        self._size = 0
        self.error: AssetError | None = None

    def size(self) -> int:
        """Return the file's size, bytes."""
        self.read(0, 1)
        return self._size

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from ``start`` to ``stop``, by whole blocks, which are kept."""
        if not self._blocks:
            self._fetch(0, 0)
        stop = min(stop, self._size)
        if self.error or stop <= start:
            return b""
        first, last = start // BLOCK, (stop - 1) // BLOCK
        missing = [index for index in range(first, last + 1) if index not in self._blocks]
        if missing:
            self._fetch(missing[0], missing[-1])
        data = b"".join(self._blocks.get(index, b"") for index in range(first, last + 1))
        for index in list(self._blocks)[: max(0, len(self._blocks) - KEPT // BLOCK)]:
            del self._blocks[index]
        return data[start - first * BLOCK : stop - first * BLOCK]

    def read_ranges(self, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Return several ranges, such as a window's tiles, in one request where they nearly touch; zeros after an error."""
        spans: list[tuple[int, int]] = []
        for start, size in sorted(zip(offsets, sizes, strict=True)):
            if spans and start - spans[-1][1] <= BLOCK and max(spans[-1][1], start + size) - spans[-1][0] <= SPAN:
                spans[-1] = spans[-1][0], max(spans[-1][1], start + size)
            else:
                spans.append((start, start + size))
        parts = [(start, self._span(start, stop)) for start, stop in spans]
        ranges = []
        for offset, size in zip(offsets, sizes, strict=True):
            start, part = next(one for one in reversed(parts) if one[0] <= offset)
            ranges.append(part[offset - start : offset - start + size])
        if any(len(data) != size for data, size in zip(ranges, sizes, strict=True)):
            self.error = self.error or AssetError("it cannot be read: it ends before its tiles do")
            return [bytes(size) for size in sizes]
        return ranges

    def _span(self, start: int, stop: int) -> bytes:
        """Return bytes from the blocks that are there, else from the server."""
        if all(index in self._blocks for index in range(start // BLOCK, (stop - 1) // BLOCK + 1)):
            return self.read(start, stop)
        return self._bytes(start, min(stop, self._size))

    def _fetch(self, first: int, last: int) -> None:
        """Fetch the blocks from ``first`` to ``last`` in one request."""
        start = first * BLOCK
        data = self._bytes(start, (last + 1) * BLOCK)
        for index in range(first, last + 1):
            self._blocks[index] = data[index * BLOCK - start : (index + 1) * BLOCK - start]

    def _bytes(self, start: int, stop: int) -> bytes:
        """Return bytes from the server; nothing after an error."""
        if stop - start > TILE and self.error is None:
            self.error = AssetError(f"it is refused: a tile or header of it has {stop - start} bytes, and at most {TILE} are read")
        try:
            return b"" if self.error or stop <= start else self._request(start, stop)
        except AssetError as error:
            self.error = error
        except OSError as error:
            self.error = AssetError(f"it cannot be read: {without_secrets(error)}")
        return b""

    def _request(self, start: int, stop: int) -> bytes:
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        answer = follow(self._session, self._href, headers)
        if answer.status_code in EXPIRED:
            fresh = self._renew()
            if fresh != self._href:
                answer = follow(self._session, fresh, headers)
                self._href = fresh
        if answer.status_code != 206:
            why = "its server does not answer range requests" if answer.ok else f"its server answers {answer.status_code}"
            raise AssetError(f"it cannot be read: {why}")
        size = int(answer.headers["Content-Range"].rpartition("/")[2])
        if self._size not in (0, size):
            raise AssetError(f"it cannot be read: it changed from {self._size} to {size} bytes meanwhile")
        self._href, self._size = str(answer.url), size
        return answer.content


class _Handle(io.RawIOBase):
    """One of GDAL's handles on a remote file, with a position of its own."""

    def __init__(self, file: RemoteFile) -> None:
        self._file, self._position = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position}
        self._position = offset + (self._file.size() if whence == io.SEEK_END else start[whence])
        return self._position

    def read(self, size: int = -1) -> bytes:
        stop = self._file.size() if size < 0 else self._position + size
        data = self._file.read(self._position, stop)
        self._position += len(data)
        return data

    def get_byte_ranges(self, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        return self._file.read_ranges(offsets, sizes)


class _Directory:
    """What rasterio asks for files (registered as its ``MultiByteRangeResourceContainer``): one remote file, whatever its name."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file

    def open(self, path: str, mode: str = "r", **_: object) -> _Handle:
        return _Handle(self._file)

    def isfile(self, path: str) -> bool:
        return True

    def isdir(self, path: str) -> bool:
        return False

    def ls(self, path: str) -> list[str]:
        return []

    def mtime(self, path: str) -> int:
        return 0

    def size(self, path: str) -> int:
        return self._file.size()

    def rm(self, path: str) -> None:
        raise OSError("remote files are only read")


@contextmanager
def open_raster(href: str, session: requests.Session, renew: Callable[[], str] | None = None) -> Iterator[Any]:
    """Open a GeoTIFF or JPEG 2000 file for reading, and nothing else.

    Parameters
    ----------
    href : str
        From :func:`misoxr.assets.hrefs.resolve`.
    session : requests.Session
        For http(s); see :func:`misoxr.assets.http.http_session`.
    renew : callable, optional
        See :class:`RemoteFile`.

    Yields
    ------
    rasterio.DatasetReader

    Raises
    ------
    AssetError
        If the file cannot be read, or is of another format.
    """
    import rasterio
    from rasterio.abc import MultiByteRangeResourceContainer
    from rasterio.errors import RasterioError

    MultiByteRangeResourceContainer.register(_Directory)
    scheme = urlsplit(href).scheme.lower()
    path, options = gdal_path(href) if scheme in CLOUD else (href, {})
    remote = RemoteFile(href, session, renew) if scheme in HTTP else None
    try:
        with rasterio.Env(**gdal_env(), **options):
            if remote is not None:
                driver = _driver(remote.read(0, 12), remote.error)
                # GDAL never sees the address: it asks for a name that leads nowhere but to this file
                with rasterio.open(f"{uuid4().hex}/asset", driver=driver, opener=_Directory(remote)) as dataset:
                    yield _checked(dataset)
                if remote.error is not None:
                    raise remote.error
            else:
                with rasterio.open(path, driver=_driver_of(path)) as dataset:
                    yield _checked(dataset)
    except (RasterioError, OSError) as error:
        if isinstance(error, AssetError):
            raise
        raise (remote and remote.error) or AssetError(f"it cannot be read: {without_secrets(error, href)}") from error


def _checked(raster: Any) -> Any:
    """Return a raster whose tiles may be decoded: GDAL holds some of them whole."""
    for (height, width), kind in zip(raster.block_shapes, raster.dtypes, strict=True):
        if height * width * (4 if kind.startswith("complex_") else np.dtype(kind).itemsize) > TILE:
            raise AssetError(
                f"it is refused: its tiles of {height} x {width} {kind} are larger than {TILE / 1e6:.0f} MB; write it anew with smaller ones"
            )
    return raster


def _driver_of(path: str) -> str:
    """Return the driver for a local file by its first bytes, for an object in a bucket by its name."""
    if path.startswith("/vsi"):
        return "JP2OpenJPEG" if path.lower().endswith((".jp2", ".j2k")) else "GTiff"
    with open(path, "rb") as file:
        return _driver(file.read(12), None)


def _driver(head: bytes, error: AssetError | None) -> str:
    """Return the driver for a file's first bytes: the formats that are read are known by their signature."""
    if error is not None:
        raise error
    for driver, signatures in _SIGNATURES.items():
        if head.startswith(signatures):
            return driver
    raise AssetError("it is refused: its bytes are neither GeoTIFF nor JPEG 2000")
