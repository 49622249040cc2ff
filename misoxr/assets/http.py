"""HTTP requests that are tried again until the answer is whole, within limits of tries and time.

The one place where http(s) requests are retried: ranges of assets, documents of catalogues and searches all go through
:func:`http_session`, and nothing above or below it retries. (urllib3's own Retry does not see a body that breaks off.)
"""

import os
import re
import time
from collections.abc import Mapping
from random import uniform
from typing import Any
from urllib.parse import urljoin

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ConnectTimeoutError, InvalidHeader, MaxRetryError, NewConnectionError
from urllib3.util.retry import Retry

from misoxr.assets.hrefs import HTTP, redirected
from misoxr.errors import AssetError, CatalogError

__all__ = ["Unanswered", "follow", "http_session", "seconds", "without_query"]

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
PART = 1 << 16
"""Bytes of a body that are read at a time; in between, the time is checked."""


class Unanswered(OSError):
    """No whole answer came; the text says what the server did, and how often it was asked."""


def seconds(name: str, default: float) -> float:
    """Return seconds from the environment.

    Raises
    ------
    CatalogError
        If the variable is not a number above 0.
    """
    text = os.environ.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise CatalogError(f"The environment variable {name}={text!r} is not a number of seconds above 0.")
    return value


def http_session() -> requests.Session:
    """Return a session that tries again; proxies and netrc come from the environment.

    ``MISOXR_HTTP_TIMEOUT`` is how many seconds a server may send nothing (by default 30), and ``MISOXR_HTTP_PATIENCE`` how many
    a request may take with all its tries and pauses (120).
    """
    session = _Session()
    for scheme in HTTP:
        session.mount(f"{scheme}://", PatientAdapter())
    return session


class _Session(requests.Session):
    """Looks proxies up in the environment once for each host, which takes as long as a fast answer."""

    def __init__(self) -> None:
        super().__init__()
        self._settings: dict[str, Any] = {}

    def merge_environment_settings(self, url: Any, *args: Any, **options: Any) -> Any:
        origin = urljoin(url, "/")
        if origin not in self._settings:
            self._settings[origin] = super().merge_environment_settings(url, *args, **options)
        return self._settings[origin]


class PatientAdapter(HTTPAdapter):
    """Sends requests until the answer is whole; answers come with their body read.

    Tried again are 408, 429 and 5xx, stalls, lost connections, bodies that break off, and other bytes than the range asked for.
    """

    def __init__(self) -> None:
        super().__init__(max_retries=0)
        self.stall = seconds("MISOXR_HTTP_TIMEOUT", STALL)
        self.patience = seconds("MISOXR_HTTP_PATIENCE", PATIENCE)

    def send(self, request: Any, *args: Any, **options: Any) -> Any:
        """Send a request, and return its whole answer; the adapter's own timeouts hold.

        Raises
        ------
        Unanswered
            If there is no whole answer within the bounds of tries and time.
        """
        options |= {"stream": True}
        start = time.monotonic()
        end, tries, limit = start + self.patience, 0, TRIES
        while True:
            tries, asked = tries + 1, None
            try:
                answer = self._whole(request, end, options)
                fault, asked = _fault(request, answer), answer.headers.get("Retry-After")
            except (requests.ConnectionError, requests.Timeout) as error:
                fault, limit = _said(error, self.stall), CONNECTIONS if _unconnected(error) else TRIES
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
        answer = super().send(request, **options)
        parts = []
        # a whole file in answer to a range is not wanted
        if answer.status_code != 200 or "Range" not in request.headers:
            for part in answer.iter_content(PART):
                parts.append(part)
                if time.monotonic() > end:
                    answer.close()
                    raise requests.exceptions.ChunkedEncodingError(f"not whole after {self.patience:g} s")
        answer.close()
        answer._content, answer._content_consumed = b"".join(parts), True
        return answer


def _fault(request: Any, answer: Any) -> str | None:
    """Return what is wrong with an answer that another try may mend."""
    status, length, headers = answer.status_code, len(answer.content), answer.headers
    if status in (408, 429) or status >= 500:
        return f"its server answers {status}"
    asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
    if asked and status == 206:
        given = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("Content-Range", ""))
        first, last = int(asked[1]), int(asked[2])
        if given is None or (int(given[1]), int(given[2])) != (first, min(last, int(given[3]) - 1)):
            return f"its server sent the range {headers.get('Content-Range')!r}, asked for bytes {first}-{last}"
        expected = int(given[2]) + 1 - first
    elif status == 200 and not asked and headers.get("Content-Length", "").isdigit() and "Content-Encoding" not in headers:
        expected = int(headers["Content-Length"])
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
    return without_query(error) if inner is None else _root(inner)


def _said(error: BaseException, stall: float) -> str:
    if isinstance(error, requests.ConnectTimeout):
        return "its server does not let connect"
    if isinstance(error, requests.Timeout) or "Read timed out" in str(error):
        return f"its server stalls (nothing for {stall:g} s)"
    return f"the connection fails ({_root(error)})"


def _unconnected(error: requests.RequestException) -> bool:
    """Whether no connection was made."""
    cause = error.args[0] if error.args else None
    return isinstance(cause, MaxRetryError) and isinstance(cause.reason, NewConnectionError | ConnectTimeoutError)


def without_query(error: BaseException) -> str:
    """Return an error's text without the query strings of addresses, which may hold a signature."""
    return re.sub(r"\?[^\s'\")]+", "?...", str(error))


def follow(session: requests.Session, href: str, headers: Mapping[str, str] | None = None) -> requests.Response:
    """Get an address, and follow only the redirects that an asset may take.

    Raises
    ------
    AssetError
        If a redirect is refused, or there are too many.
    Unanswered
        If no whole answer comes.
    """
    for _ in range(REDIRECTS + 1):
        answer = session.get(href, headers=headers, allow_redirects=False)
        if not answer.is_redirect:
            return answer
        href = redirected(href, answer.headers["Location"])
    raise AssetError(f"it is refused: it redirects more than {REDIRECTS} times")
