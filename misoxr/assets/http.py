"""HTTP requests that are tried again until the answer is whole, within limits of tries, time and bytes.

The one place where http(s) requests are retried: ranges of assets, documents of catalogues and searches all go through
:func:`http_session`, and nothing above or below it retries. (urllib3's own Retry does not see a body that breaks off.)
What one answer may take is bounded by :mod:`misoxr.assets.connections`, byte by byte.
"""

import math
import os
import re
import time
from collections.abc import Mapping
from random import uniform
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3.exceptions import ConnectTimeoutError, InvalidHeader, MaxRetryError, NewConnectionError
from urllib3.util.retry import Retry

from misoxr.assets.connections import Bound, bounded, pools
from misoxr.assets.hrefs import HTTP, redact, redirected, without_secrets
from misoxr.assets.inside import Reach, Refused
from misoxr.errors import AssetError, CatalogError

__all__ = ["DOCUMENT", "Unanswered", "follow", "http_session", "megabytes", "patience", "seconds"]

CONNECT = 10.0
"""Seconds to connect."""
STALL = 30.0
"""Seconds without a byte after which a server has stalled: object stores answer in less than one, searches in a few."""
PATIENCE = 120.0
"""Seconds for a request with all its tries and pauses: longer than most throttling, short enough for a task to fail in time."""
TRIES = 8
"""Tries of a request: where one in five fails, one in 400,000 fails for good; a state is some 100,000."""
CONNECTIONS = 3
"""Tries where no connection is made at all: a mistyped host should not cost minutes."""
PAUSE, LONGEST_PAUSE = 0.5, 15.0
"""Seconds before the second try, and at most; doubled from try to try, less up to a half at random, so that workers spread."""
RETRY_AFTER = 60.0
"""Seconds that a server's own Retry-After is followed, at most."""
REDIRECTS = 5
DOCUMENT = 64.0
"""Megabytes of a body that was not asked for by its range, such as a catalogue's JSON."""
ERROR = 1 << 16
"""Bytes that are read of the body of an answer which is no success."""
OVERHEAD = 1 << 20
"""Bytes that headers and the marks of chunks may take beside a body, and as much again as the body."""
PART = 1 << 16
"""Bytes of a body that are read at a time."""
CARRIED = (
    "accept",
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "proxy-authorization",
    "range",
    "user-agent",
)
"""Headers that a redirect to another origin takes along; the others may hold keys."""


class Unanswered(OSError):
    """No whole answer came; the text says what the server did, and how often it was asked."""


class _Final(OSError):
    """What comes is not what was asked for, and another try would bring the same."""


def seconds(name: str, default: float) -> float:
    """Return seconds from the environment.

    Raises
    ------
    CatalogError
        If the variable is not a number above 0.
    """
    return _positive(name, default, "seconds")


def megabytes(name: str, default: float) -> int:
    """Return a bound in bytes from the environment, where it stands in megabytes.

    Raises
    ------
    CatalogError
        If the variable is not a number above 0.
    """
    return math.ceil(_positive(name, default, "megabytes") * 1e6)


def _positive(name: str, default: float, unit: str) -> float:
    text = os.environ.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise CatalogError(f"The environment variable {name}={text!r} is not a number of {unit} above 0.")
    return value


def patience() -> float:
    """Return how many seconds a request may take with all its tries, pauses and redirects."""
    return seconds("MISOXR_HTTP_PATIENCE", PATIENCE)


def http_session(end: float = math.inf, most: int | None = None, reach: Reach | None = None) -> requests.Session:
    """Return a session that tries again; proxies and netrc come from the environment.

    ``MISOXR_HTTP_TIMEOUT`` is how many seconds a server may send nothing (by default 30), and ``MISOXR_HTTP_PATIENCE`` how many
    a request may take with all its tries, pauses and redirects (120).

    Parameters
    ----------
    end : float, optional
        When all of its requests have to be over, by :func:`time.monotonic`.
    most : int, optional
        Bytes that a body may have where no range is asked for; ``MISOXR_DOCUMENT_MB`` by default.
    reach : Reach, optional
        Where its requests may go. By default the first one's address is the user's own, and no other may be inside unless that is.
    """
    session, reach = _Session(end), reach or Reach()
    for scheme in HTTP:
        session.mount(f"{scheme}://", PatientAdapter(most, reach))
    return session


class _Session(requests.Session):
    """Follows safe redirects only, all within one request's time; and looks proxies up once for each host, which takes as long as a fast answer."""

    def __init__(self, end: float) -> None:
        super().__init__()
        self.max_redirects = REDIRECTS
        self.headers["Accept-Encoding"] = "identity"
        self._settings: dict[str, Any] = {}
        self._patience, self._end = patience(), end

    def merge_environment_settings(self, url: Any, *args: Any, **options: Any) -> Any:
        origin = urljoin(url, "/")
        if origin not in self._settings:
            self._settings[origin] = super().merge_environment_settings(url, *args, **options)
        return self._settings[origin]

    def send(self, request: Any, **options: Any) -> Any:
        if not isinstance(options.get("timeout"), _Until):  # redirects come with that of the first request
            options["timeout"] = _Until(min(time.monotonic() + self._patience, self._end))
        try:
            return super().send(request, **options)
        except Refused as error:
            raise AssetError(
                f"it is refused: from outside, {redact(request.url)!r} leads to this machine or into a private network ({error}). "
                "If that is right, open it by its own address, or the catalogue with allow_private=True"
            ) from None

    def get_redirect_target(self, resp: Any) -> str | None:
        target = super().get_redirect_target(resp)
        if target is not None:
            redirected(resp.url, target)
        return target

    def rebuild_auth(self, prepared_request: Any, response: Any) -> None:
        if self.should_strip_auth(response.request.url, prepared_request.url):
            for name in [name for name in prepared_request.headers if name.lower() not in CARRIED]:
                del prepared_request.headers[name]
        super().rebuild_auth(prepared_request, response)


class _Until(float):
    """When a request has to be over, by :func:`time.monotonic`; requests hands it on as a timeout."""


class PatientAdapter(HTTPAdapter):
    """Sends requests until the answer is whole; answers come with their body read.

    Tried again are 408, 429 and 5xx, stalls, lost connections, bodies that break off, and other bytes than the range asked for.
    """

    def __init__(self, most: int | None = None, reach: Reach | None = None) -> None:
        super().__init__(max_retries=0)
        self.reach = reach or Reach()
        self.stall = seconds("MISOXR_HTTP_TIMEOUT", STALL)
        self.patience = patience()
        self.most = megabytes("MISOXR_DOCUMENT_MB", DOCUMENT) if most is None else most

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Have connections made that end when they have to."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = pools(self.poolmanager.pool_classes_by_scheme)

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        """Have connections to a proxy made that end when they have to."""
        known = len(self.proxy_manager)
        manager = super().proxy_manager_for(*args, **options)
        if len(self.proxy_manager) > known:
            manager.pool_classes_by_scheme = pools(manager.pool_classes_by_scheme)
        return manager

    def send(self, request: Any, *args: Any, **options: Any) -> Any:
        """Send a request, and return its whole answer; the adapter's own timeouts hold.

        Raises
        ------
        Unanswered
            If there is no whole answer within the bounds of tries, time and bytes.
        Refused
            If the address is inside, and the session may not go there.
        """
        if select_proxy(request.url, options.get("proxies")):
            self.reach.named(urlsplit(request.url).hostname or "")
        given = options.get("timeout")
        options |= {"stream": True}
        request.headers["Accept-Encoding"] = "identity"
        start = time.monotonic()
        end, tries, limit = given if isinstance(given, _Until) else start + self.patience, 0, TRIES
        fault: str | None = None
        while True:
            tries, asked, left = tries + 1, None, end - time.monotonic()
            try:
                answer = self._whole(request, end, options)
                fault, asked = _fault(request, answer), answer.headers.get("Retry-After")
            except _Final as error:
                fault, limit = str(error), 0
            except (requests.ConnectionError, requests.Timeout) as error:
                limit = CONNECTIONS if _unconnected(error) else TRIES
                # A try that patience cuts short tells less than the one before it.
                fault = fault if fault is not None and left < self.stall else _said(error, self.stall, left)
            except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError) as error:
                fault = f"its server's answer breaks off ({_root(error)})"
            if fault is None:
                return answer
            wait = _pause(tries, asked)
            if tries >= limit or time.monotonic() + wait >= end:
                break
            time.sleep(wait)
        raise Unanswered(f"{fault}; tried {tries} time{'s' * (tries > 1)} in {time.monotonic() - start:.0f} s")

    def _whole(self, request: Any, end: float, options: Mapping[str, Any]) -> Any:
        """Send a request once, and read its answer's body."""
        left = max(end - time.monotonic(), 0.01)
        options = {**options, "timeout": (min(CONNECT, left), min(self.stall, left))}
        asked = _asked(request)
        most = self.most if asked is None else asked[1] + 1 - asked[0]
        bound = Bound(end, self.stall, 2 * max(most, ERROR) + OVERHEAD, self.reach)
        try:
            with bounded(bound):
                answer = super().send(request, **options)
                try:
                    body = self._body(answer, most, asked)
                finally:
                    answer.close()
        except requests.RequestException:
            if bound.broken is None:
                raise
        if bound.broken is not None:
            raise _Final(bound.broken)
        answer._content, answer._content_consumed = body, True
        return answer

    def _body(self, answer: Any, most: int, asked: tuple[int, int] | None) -> bytes:
        """Return the body of an answer, unless it is already known not to be what was asked for."""
        encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
        if not answer.ok or answer.is_redirect:
            # what it says of its failure, or the beginning of it
            return next(answer.iter_content(ERROR), b"") if encoding in ("", "identity") else b""
        if encoding not in ("", "identity"):
            raise _Final(f"its server sends the encoding {encoding[:40]!r}, which was not accepted")
        length = answer.headers.get("Content-Length", "")
        if asked is not None and (answer.status_code != 206 or _given(answer, *asked) is None):
            return b""  # a whole file, or another range, is not wanted
        if length.isdigit() and int(length[:30]) > most:
            raise _Final(self._told(most, asked))
        parts: list[bytes] = []
        size = 0
        for part in answer.iter_content(PART):
            parts.append(part)
            size += len(part)
            if size > most:
                raise _Final(self._told(most, asked))
        return b"".join(parts)

    def _told(self, most: int, asked: tuple[int, int] | None) -> str:
        if asked is not None:
            return f"its server sends more than the {most} bytes asked for"
        remedy = "; where that is right, raise MISOXR_DOCUMENT_MB" if most == self.most else ""
        return f"its server sends more than {most / 1e6:g} MB, the most that is read{remedy}"


def _asked(request: Any) -> tuple[int, int] | None:
    """Return the first and last byte that a request asks for."""
    asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
    return None if asked is None else (int(asked[1]), int(asked[2]))


def _given(answer: Any, first: int, last: int) -> int | None:
    """Return how many bytes an answer's range has, None where it is not the one asked for."""
    given = re.fullmatch(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})", answer.headers.get("Content-Range", ""))
    if given is None or (int(given[1]), int(given[2])) != (first, min(last, int(given[3]) - 1)):
        return None
    return int(given[2]) + 1 - first


def _fault(request: Any, answer: Any) -> str | None:
    """Return what is wrong with an answer that another try may mend."""
    status, length, headers = answer.status_code, len(answer.content), answer.headers
    if status in (408, 429) or status >= 500:
        return f"its server answers {status}"
    asked = _asked(request)
    if asked and status == 206:
        first, last = asked
        given = _given(answer, first, last)
        if given is None:
            return f"its server sent the range {headers.get('Content-Range', '')[:80]!r}, asked for bytes {first}-{last}"
        expected = given
    elif status == 200 and not asked and headers.get("Content-Length", "").isdigit():
        expected = int(headers["Content-Length"][:30])
    else:
        return None
    return None if length == expected else f"its server sent {length} bytes of {expected}"


def _pause(tries: int, asked: str | None) -> float:
    """Return how long to wait after so many tries: as long as the server asks, else longer each time."""
    if asked is not None:
        try:
            return min(Retry().parse_retry_after(asked), RETRY_AFTER) + uniform(0, PAUSE)
        except InvalidHeader:
            pass
    return min(PAUSE * 2.0 ** (tries - 1), LONGEST_PAUSE) * uniform(0.5, 1)


def _root(error: BaseException) -> str:
    """Return the text of the innermost error; those around it name the address with its query."""
    inner = next((arg for arg in (getattr(error, "reason", None), *error.args) if isinstance(arg, BaseException)), None)
    return without_secrets(error) if inner is None else _root(inner)


def _said(error: BaseException, stall: float, left: float) -> str:
    if isinstance(error, requests.ConnectTimeout):
        return "its server does not let connect"
    if isinstance(error, requests.Timeout) or "Read timed out" in str(error):
        if left < stall:
            return f"its server had not answered when patience ended ({max(left, 0):.2g} s later)"
        return f"its server stalls (nothing for {stall:g} s)"
    return f"the connection fails ({_root(error)})"


def _unconnected(error: requests.RequestException) -> bool:
    """Whether no connection was made."""
    cause = error.args[0] if error.args else None
    return isinstance(cause, MaxRetryError) and isinstance(cause.reason, NewConnectionError | ConnectTimeoutError)


def follow(session: requests.Session, href: str, headers: Mapping[str, str] | None = None) -> requests.Response:
    """Get an address, and follow only the redirects that an asset may take.

    Raises
    ------
    AssetError
        If a redirect is refused, or there are too many.
    Unanswered
        If no whole answer comes.
    """
    try:
        return session.get(href, headers=headers)
    except requests.TooManyRedirects:
        pass
    raise AssetError(f"it is refused: it redirects more than {REDIRECTS} times")
