"""Connections whose answers end, within a time and a number of bytes, and that are made to no address they may not go to.

A socket's timeout begins anew with every byte. So each read from the socket looks at the time that is left, and at the bytes that
came: those of headers, of interim answers, of the marks of chunks and of the body.
"""

import http.client
import io
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from misoxr.assets.inside import Reach

__all__ = ["Bound", "bounded", "pools"]

SLOW = "its server's answer is not whole when patience ends"
DRIPS = 5
"""Reads of an answer after which its server is slow rather than silent."""


@dataclass
class Bound:
    """What one try of a request may take.

    Attributes
    ----------
    end : float
        When it has to be over, by :func:`time.monotonic`.
    stall : float
        Seconds that may pass without a byte.
    most : int
        Bytes that may come; they are counted down.
    reach : Reach
        Where it may go.
    broken : str, optional
        What ended the try, if the bound did.
    """

    end: float
    stall: float
    most: int
    reach: Reach
    broken: str | None = None


_bound: ContextVar[Bound | None] = ContextVar("misoxr_bound", default=None)
"""What the request in progress may take."""


@contextmanager
def bounded(bound: Bound) -> Iterator[None]:
    """Hold the answers that are read in this context to a bound."""
    token = _bound.set(bound)
    try:
        yield
    finally:
        _bound.reset(token)


class _Reads(io.RawIOBase):
    """A socket's bytes, as far as a bound goes."""

    def __init__(self, raw: Any, sock: Any, bound: Bound) -> None:
        self._raw, self._sock, self._bound, self._reads = raw, sock, bound, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._bound.end - time.monotonic()
        if left <= 0:
            self._bound.broken = SLOW
            raise TimeoutError(SLOW)
        if self._bound.most <= 0:
            self._bound.broken = "its server sends more than was asked for"
            raise ConnectionAbortedError(self._bound.broken)
        self._sock.settimeout(min(self._bound.stall, left))
        self._reads += 1
        try:
            count: int | None = self._raw.readinto(buffer)
        except TimeoutError:
            if self._reads > DRIPS and time.monotonic() >= self._bound.end:
                self._bound.broken = SLOW
            raise
        self._bound.most -= count or 0
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """An answer whose bytes are counted."""

    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        bound = _bound.get()
        if bound is not None:
            self.fp = io.BufferedReader(_Reads(self.fp.detach(), sock, bound))


class _Connects:
    """Mixed into a connection: its answers are counted; it goes to addresses that were looked at, in time however many there are."""

    response_class = _Answer

    def _new_conn(self: Any) -> socket.socket:
        bound = _bound.get()
        if bound is None or hasattr(self, "_socks_options"):  # such a proxy may know other names than this machine
            plain: socket.socket = super()._new_conn()  # type: ignore[misc]
            return plain
        # a proxy is where the user has it
        reach = bound.reach if getattr(self, "proxy", None) is None else Reach()
        host = self._dns_host
        fault: NewConnectionError | ConnectTimeoutError = NewConnectionError(self, "It has no address")
        try:
            addresses = reach.addresses(host, self.port)
        except (OSError, UnicodeError) as error:
            raise NewConnectionError(self, f"Failed to resolve {host!r} ({error})") from error
        try:
            for address in addresses:
                self._dns_host = address
                if time.monotonic() > bound.end:
                    raise ConnectTimeoutError(self, "None of its addresses lets connect in time")
                try:
                    made: socket.socket = super()._new_conn()  # type: ignore[misc]
                except (NewConnectionError, ConnectTimeoutError) as error:
                    fault = error
                    continue
                reach.connected(address)
                return made
        finally:
            self._dns_host = host  # which certificates are checked for
        raise fault


def pools(known: Mapping[str, Any]) -> dict[str, type]:
    """Return urllib3's classes of pools, by scheme, with connections that hold to the bound."""
    return {scheme: _holding(pool) for scheme, pool in known.items()}


@cache
def _holding(pool: Any) -> type:
    return type(pool.__name__, (pool,), {"ConnectionCls": type("Connection", (_Connects, pool.ConnectionCls), {})})
