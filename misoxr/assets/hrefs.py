"""Decide which hrefs are opened, and how: an item must not reach private files or networks.

The rules: only the schemes http(s), s3, gs, az and abfs(s); local paths only below the directory of a local catalogue; no GDAL
virtual path, driver prefix or inline XML; no redirect to another scheme; and only the GeoTIFF and JPEG 2000 drivers see the bytes.
Over HTTP, GDAL reads through :class:`~misoxr.assets.remote.RemoteFile`, because its own client follows redirects that cannot be
checked. Whether an address is inside is looked at where a connection is made, by :mod:`misoxr.assets.inside`.
"""

import os
import re
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from misoxr.errors import AssetError

__all__ = ["CLOUD", "HTTP", "gdal_path", "is_remote", "redact", "redirected", "resolve", "without_secrets"]

HTTP = ("http", "https")
CLOUD = ("s3", "gs", "az", "abfs", "abfss")

_PREFIX = re.compile(r"^[A-Za-z][A-Za-z0-9_+.\-]*:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NAMED = re.compile(
    r"(\b[\w.-]*(?:password|passwd|pwd|secret|token|credential|signature|api[_-]?key|sig|x-amz-[\w-]+))=[^\s&;,'\")]+",
    re.IGNORECASE,
)
"""Values that are named as secrets, such as in connection strings."""
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*:/+[^\s'\"<>)]*")
_USER = re.compile(r"^[^/]*@")
_NESTED = re.compile(r"(:/+)[^/]*@")
"""Users and passwords of an address, and of those within it."""
_BUCKET = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$")
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}(\.[a-z0-9.\-]+)?")
"""An account of Azure, and what may follow it; it becomes a part of a host's name."""


def is_remote(href: str) -> bool:
    """Whether the href has one of the remote schemes."""
    return href.partition(":")[0].strip().lower() in (*HTTP, *CLOUD)


def redact(href: str) -> str:
    """Return the href without what may be a secret: user name, password, query and fragment."""
    text = _NAMED.sub(r"\1=...", _CONTROL.sub(" ", re.split(r"\?|%3f", str(href), maxsplit=1, flags=re.IGNORECASE)[0]))
    begin = re.search(r":/+", text)
    if begin is None:
        return text
    text = text.partition("#")[0]
    # a slash in a password ends the host too early, and what is left of it is no port
    rest = text[begin.end() :]
    host = rest.partition("/")[0]
    if "@" in host or not re.search(r":(?!\d*$)", host):
        return text[: begin.end()] + _USER.sub("", _NESTED.sub(r"\1", rest))
    return text[: begin.end()] + (rest.rpartition("@")[2] if "@" in rest else re.sub(r":[^/]*", ":...", rest, count=1))


def without_secrets(told: object, *addresses: object) -> str:
    """Return a text, or an error's, without what may be a secret.

    Left out are queries, user names and passwords of addresses, values named as secrets, and all of these parts of the addresses.
    """
    text = str(told)
    for address in addresses:
        for secret in _secrets(str(address)):
            text = text.replace(secret, "...")
    text = _ADDRESS.sub(lambda found: redact(found[0]) + "?..." * ("?" in found[0]), text)
    text = re.sub(r"\?[^\s'\")>]+", "?...", text)
    return _NAMED.sub(r"\1=...", text)


def _secrets(address: str) -> list[str]:
    """Return the parts of an address that may be secrets, the longest first, as they stand and decoded."""
    rest, _, query = address.partition("?")
    user = re.search(r":/+([^?#]*)@", rest)
    found = [query, *re.split("[&;]", query), *(pair.partition("=")[2] for pair in re.split("[&;]", query))]
    found += [user[1], *user[1].split(":", 1)] if user else []
    found += [unquote(part) for part in found]
    return sorted({part for part in found if len(part) > 2}, key=len, reverse=True)


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
        raise AssetError(f"The href {redact(href)!r} is refused: it is not an address of a file.")
    if href.lower().startswith("/vsi"):
        raise AssetError(f"The href {redact(href)!r} is refused: it names a GDAL virtual file system.")
    known = True
    try:
        if base is not None and is_remote(base) and not _PREFIX.match(href):
            href = _joined(base, href)
        scheme, host = urlsplit(href).scheme.lower(), urlsplit(href).hostname
        _ = (host or "").encode("idna"), urlsplit(href).port, href.encode()  # what cannot be asked for is refused here
    except ValueError:  # whose text may hold a part of the address
        known = False
    if not known:
        raise AssetError(f"The href {redact(href)!r} is refused: it is no address that can be asked for.")
    if scheme in HTTP and host:
        return href
    if scheme in CLOUD:
        gdal_path(href)
        return href
    if scheme == "file" and href.startswith("file://"):
        parts = urlsplit(href)
        if parts.netloc not in ("", "localhost") or parts.query:
            raise AssetError(f"The href {redact(href)!r} is refused: a file address has no host and no query.")
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
            f"The href {redact(href)!r} is refused: it is a local path, and the catalogue is not a local one. Local files are read "
            "only from below the directory of a catalogue that is opened by its local path."
        )
    start = os.path.dirname(base) if base is not None and not is_remote(base) else root
    real, top = os.path.realpath(os.path.join(start, path)), os.path.realpath(root)
    if "/vsi" in f"{path}\n{real}".lower().replace("\\", "/"):
        raise AssetError(f"The href {redact(href)!r} is refused: it names a GDAL virtual file system.")
    if not Path(real).is_relative_to(top):
        raise AssetError(f"The href {redact(href)!r} is refused: it leads out of the catalogue's directory {top!r}, to {real!r}.")
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
    known = not account or _ACCOUNT.fullmatch(host) is not None
    if not known or parts.query or parts.fragment or not _BUCKET.match(bucket) or {"", ".", ".."} & set(segments):
        raise AssetError(f"The href {redact(href)!r} is refused: write it as {parts.scheme}://bucket/path, without a query.")
    system = {"s3": "vsis3", "gs": "vsigs"}.get(parts.scheme.lower(), "vsiaz")
    return f"/{system}/{bucket}/{'/'.join(segments)}", account


def redirected(href: str, location: str) -> str:
    """Return where a redirect leads.

    Raises
    ------
    AssetError
        If it leads to another scheme, or is no address.
    """
    try:
        target = urljoin(href, location)
        here, there = urlsplit(href), urlsplit(target)
        _ = there.port, (there.hostname or "").encode("idna")
    except ValueError:
        raise AssetError(f"it is refused: it redirects to {redact(location)!r}, which is no address") from None
    if there.scheme.lower() != here.scheme.lower() or not there.hostname:
        raise AssetError(
            f"it is refused: it redirects to another scheme, {redact(target)!r}. "
            "If that address is right, put it into the catalogue, or rewrite the href with patch_url"
        )
    return target
