"""Hrefs are data from outside: which of them are opened, and how, so that an item can never reach what it should not.

The rules: only the schemes http(s), s3, gs, az and abfs(s); local paths only below the directory of a local catalogue; no GDAL
virtual path, driver prefix or inline XML; no redirect to another scheme, or from elsewhere to this machine's network; and only the
GeoTIFF and JPEG 2000 drivers see the bytes. Over HTTP, GDAL reads through :class:`RemoteFile`, because its own client follows
redirects that cannot be checked.
"""

import io
import ipaddress
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit
from uuid import uuid4

from misoxr.errors import AssetError

__all__ = ["RemoteFile", "follow", "http_session", "is_remote", "open_raster", "redact", "resolve"]

HTTP = ("http", "https")
CLOUD = ("s3", "gs", "az", "abfs", "abfss")
REDIRECTS = 5
BLOCK = 1 << 16
"""Bytes of an HTTP file are fetched in blocks of this size: one request brings a COG's header, small tiles come together."""
TIMEOUT = (10.0, 60.0)
"""Seconds to connect, and to wait for bytes."""

GDAL_ENV = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": str(BLOCK),
    "GDAL_PAM_ENABLED": "NO",
    "VSI_CACHE": "TRUE",
}
"""GDAL options under which assets are read: no sibling files, few and patient requests."""

_PREFIX = re.compile(r"^[A-Za-z][A-Za-z0-9_+.\-]*:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BUCKET = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$")
_SIGNATURES = {
    "GTiff": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
    "JP2OpenJPEG": (b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
}


def is_remote(href: str) -> bool:
    """Whether the href has one of the remote schemes."""
    return href.partition(":")[0].strip().lower() in (*HTTP, *CLOUD)


def redact(href: str) -> str:
    """Return the href without what may be a secret: user name, password, query and fragment."""
    if "://" not in href:
        return href
    try:
        parts = urlsplit(href)
    except ValueError:
        return f"{href.partition('://')[0]}://..."
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def resolve(href: str, base: str | None = None, root: str | None = None) -> str:
    """Return an href in full, if it may be opened.

    Parameters
    ----------
    href : str
        As an item, or a function that signs, gives it.
    base : str, optional
        Address or path of the document that holds the href; relative hrefs start from there.
    root : str, optional
        Directory of the local catalogue. Without it no local path is opened.

    Raises
    ------
    AssetError
        If the scheme is refused, the path leaves the catalogue's directory, or the href is an instruction to GDAL.
    """
    if not isinstance(href, str) or not href or _CONTROL.search(href) or href.lstrip().startswith("<"):
        raise AssetError(f"The href {href!r} is refused: it is not an address of a file.")
    if href.lower().startswith("/vsi"):
        raise AssetError(f"The href {redact(href)!r} is refused: it names a GDAL virtual file system.")
    try:
        if base is not None and is_remote(base) and not _PREFIX.match(href):
            href = _joined(base, href)
        scheme, host = urlsplit(href).scheme.lower(), urlsplit(href).hostname
        _ = (host or "").encode("idna"), urlsplit(href).port, href.encode()  # what cannot be asked for is refused here
    except ValueError as error:
        raise AssetError(f"The href {redact(href)!r} is refused: it is no address that can be asked for ({error}).") from error
    if scheme in HTTP and host:
        return href
    if scheme in CLOUD:
        gdal_path(href)
        return href
    if scheme == "file" and href.startswith("file://"):
        parts = urlsplit(href)
        if parts.netloc not in ("", "localhost") or parts.query:
            raise AssetError(f"The href {href!r} is refused: a file address has no host and no query.")
        return _local(unquote(parts.path), None, root, href)
    if _PREFIX.match(href):
        raise AssetError(
            f"The href {redact(href)!r} is refused: {scheme or href.partition(':')[0]!r} is none of the schemes that are opened "
            f"({', '.join((*HTTP, *CLOUD))}, and local paths inside a local catalogue)."
        )
    return _local(href, base, root, href)


def _joined(base: str, href: str) -> str:
    """Join a relative href to a remote base; urljoin knows only http among the schemes used here."""
    scheme = urlsplit(base).scheme
    stand_in = urljoin("http" + base[len(scheme) :], href)
    return scheme + stand_in[len("http") :]


def _local(path: str, base: str | None, root: str | None, href: str) -> str:
    if root is None:
        raise AssetError(
            f"The href {href!r} is refused: it is a local path, and the catalogue is not a local one. Local files are read "
            "only from below the directory of a catalogue that is opened by its local path."
        )
    start = os.path.dirname(base) if base is not None and not is_remote(base) else root
    real, top = os.path.realpath(os.path.join(start, path)), os.path.realpath(root)
    if "/vsi" in f"{path}\n{real}".lower().replace("\\", "/"):
        raise AssetError(f"The href {href!r} is refused: it names a GDAL virtual file system.")
    if not Path(real).is_relative_to(top):
        raise AssetError(f"The href {href!r} is refused: it leads out of the catalogue's directory {top!r}, to {real!r}.")
    return real


def gdal_path(href: str) -> tuple[str, dict[str, str]]:
    """Return GDAL's path of an object in a bucket, and the options it needs.

    Raises
    ------
    AssetError
        If bucket or key have a form that could mean anything else.
    """
    parts = urlsplit(href)
    account: dict[str, str] = {}
    container, _, host = parts.netloc.rpartition("@")
    if parts.scheme.lower() in ("abfs", "abfss") and container:
        bucket, account = container, {"AZURE_STORAGE_ACCOUNT": host.partition(".")[0]}
    else:
        bucket = parts.netloc
    segments = unquote(parts.path).strip("/").split("/")
    if parts.query or parts.fragment or not _BUCKET.match(bucket) or {"", ".", ".."} & set(segments):
        raise AssetError(f"The href {redact(href)!r} is refused: write it as {parts.scheme}://bucket/path, without a query.")
    system = {"s3": "vsis3", "gs": "vsigs"}.get(parts.scheme.lower(), "vsiaz")
    return f"/{system}/{bucket}/{'/'.join(segments)}", account


def http_session() -> Any:
    """Return a requests session that retries what is worth retrying; proxies and netrc come from the environment."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util.retry import Retry

    retry = Retry(total=3, connect=1, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False)
    session = requests.Session()
    session.headers["Accept-Encoding"] = "identity"
    for scheme in HTTP:
        session.mount(f"{scheme}://", HTTPAdapter(max_retries=retry))
    return session


class RemoteFile:
    """A file over HTTP range requests, each redirect checked.

    Parameters
    ----------
    href : str
        An http or https address.
    session : requests.Session
        Used by one thread at a time.
    """

    def __init__(self, href: str, session: Any) -> None:
        self._href, self._session = href, session
        self._blocks: dict[int, bytes] = {}
        self._size = 0
        self.error: AssetError | None = None

    def size(self) -> int:
        """Return the file's size, bytes."""
        self.read(0, 1)
        return self._size

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from ``start`` to ``stop``; nothing after an error, which is kept because GDAL drops exceptions."""
        try:
            return b"" if self.error or stop <= start else self._read(start, stop)
        except AssetError as error:
            self.error = error
        except OSError as error:
            self.error = AssetError(f"it cannot be read: {_without_query(error)}")
        return b""

    def _read(self, start: int, stop: int) -> bytes:
        if not self._blocks:
            self._fetch(0, 0)
        stop = min(stop, self._size)
        if stop <= start:
            return b""
        first, last = start // BLOCK, (stop - 1) // BLOCK
        missing = [index for index in range(first, last + 1) if index not in self._blocks]
        if missing:
            self._fetch(missing[0], missing[-1])
        data = b"".join(self._blocks[index] for index in range(first, last + 1))
        return data[start - first * BLOCK : stop - first * BLOCK]

    def _fetch(self, first: int, last: int) -> None:
        """Fetch the blocks from ``first`` to ``last`` in one request."""
        start = first * BLOCK
        data = self._request(start, (last + 1) * BLOCK - 1)
        for index in range(first, last + 1):
            self._blocks[index] = data[index * BLOCK - start : (index + 1) * BLOCK - start]

    def _request(self, start: int, stop: int) -> bytes:
        for _ in range(REDIRECTS + 1):
            headers = {"Range": f"bytes={start}-{stop}"}
            with self._session.get(self._href, headers=headers, allow_redirects=False, timeout=TIMEOUT, stream=True) as answer:
                if answer.is_redirect:
                    self._href = _redirected(self._href, answer.headers["Location"])
                    continue
                total = answer.headers.get("Content-Range", "").rpartition("/")[2]
                if answer.status_code != 206 or not total.isdigit():
                    why = "its server does not answer range requests" if answer.ok else f"its server answers {answer.status_code}"
                    raise AssetError(f"it cannot be read: {why}")
                content = b"".join(answer.iter_content(1 << 20))
            self._size = int(total)
            if len(content) != min(stop + 1, self._size) - start:
                raise AssetError(f"it cannot be read: its server sent {len(content)} bytes of {stop + 1 - start}")
            return content
        raise AssetError(f"it is refused: it redirects more than {REDIRECTS} times")


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


def _without_query(error: BaseException) -> str:
    """Return an error's text without the query strings of addresses, which may hold a signature."""
    return re.sub(r"\?[^\s'\")]+", "?...", str(error))


def follow(session: Any, href: str) -> Any:
    """Get an address, and follow only the redirects that an asset may take.

    Raises
    ------
    AssetError
        If a redirect is refused, or there are too many.
    """
    for _ in range(REDIRECTS + 1):
        answer = session.get(href, allow_redirects=False, timeout=TIMEOUT)
        if not answer.is_redirect:
            return answer
        href = _redirected(href, answer.headers["Location"])
    raise AssetError(f"it is refused: it redirects more than {REDIRECTS} times")


def _redirected(href: str, location: str) -> str:
    """Return where a redirect leads, if it may be followed."""
    target = urljoin(href, location)
    here, there = urlsplit(href), urlsplit(target)
    if there.scheme.lower() != here.scheme.lower() or not there.hostname:
        raise AssetError(
            f"it is refused: it redirects to another scheme, {redact(target)!r}. "
            "If that address is right, put it into the catalogue, or rewrite the href with patch_url"
        )
    if there.hostname != here.hostname and _is_internal(there.hostname) and not _is_internal(here.hostname or ""):
        raise AssetError(f"it is refused: it redirects from outside into a private network, to {redact(target)!r}")
    return target


def _is_internal(host: str) -> bool:
    """Whether a host name leads to this machine or a private network."""
    try:
        addresses = {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return not all(ipaddress.ip_address(address).is_global for address in addresses)


@contextmanager
def open_raster(href: str, session: Any) -> Iterator[Any]:
    """Open a GeoTIFF or JPEG 2000 file for reading, and nothing else.

    Parameters
    ----------
    href : str
        From :func:`resolve`.
    session : requests.Session
        For http(s); see :func:`http_session`.

    Yields
    ------
    rasterio.DatasetReader

    Raises
    ------
    AssetError
        If the file cannot be read, or is of another format.
    """
    import rasterio
    from rasterio.errors import RasterioError

    scheme = urlsplit(href).scheme.lower()
    path, options = gdal_path(href) if scheme in CLOUD else (href, {})
    remote = RemoteFile(href, session) if scheme in HTTP else None
    try:
        with rasterio.Env(**GDAL_ENV, **options):
            if remote is not None:
                driver = _driver(remote.read(0, 12), remote.error)
                # GDAL never sees the address: it asks for a name that leads nowhere but to this file
                with rasterio.open(f"{uuid4().hex}/asset", driver=driver, opener=partial(_handle, remote)) as dataset:
                    yield dataset
                if remote.error is not None:
                    raise remote.error
            else:
                with rasterio.open(path, driver=_driver_of(path)) as dataset:
                    yield dataset
    except (RasterioError, OSError) as error:
        if isinstance(error, AssetError):
            raise
        raise (remote and remote.error) or AssetError(f"it cannot be read: {error}") from error


def _handle(file: RemoteFile, *_: object, **__: object) -> _Handle:
    """Open a handle; GDAL's name and mode say nothing that is not known."""
    return _Handle(file)


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
