"""Connections whose answers end: within a time and a number of bytes, whatever the server sends, and however slowly.

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
    broken : str, optional
        What ended the try, if the bound did.
    """

    end: float
    stall: float
    most: int
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
    """Mixed into a connection: its answers are counted, and it connects in time however many addresses its server has."""

    response_class = _Answer

    def _new_conn(self: Any) -> socket.socket:
        bound = _bound.get()
        if bound is not None:
            self.socket_options = _Options(self.socket_options or (), bound.end)
        made: socket.socket = super()._new_conn()  # type: ignore[misc]
        return made


class _Options(list[Any]):
    """Options of a socket, which are set before each address is tried: the one place between two addresses."""

    def __init__(self, options: Any, end: float) -> None:
        super().__init__(options)
        self.end = end

    def __iter__(self) -> Iterator[Any]:
        if time.monotonic() > self.end:
            raise TimeoutError("none of its addresses lets connect in time")
        return super().__iter__()


def pools(known: Mapping[str, Any]) -> dict[str, type]:
    """Return urllib3's classes of pools, by scheme, with connections that hold to the bound."""
    return {scheme: _holding(pool) for scheme, pool in known.items()}


@cache
def _holding(pool: Any) -> type:
    return type(pool.__name__, (pool,), {"ConnectionCls": type("Connection", (_Connects, pool.ConnectionCls), {})})
