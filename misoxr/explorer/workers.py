"""Threads that answer the newest request first, and drop those that nobody waits for any more."""

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from misoxr.clusters import cores

__all__ = ["Workers"]

_LOG = logging.getLogger(__name__)


class _Request(NamedTuple):
    work: Callable[[Callable[[], bool]], None]
    dropped: Callable[[], None]


class Workers:
    """A few threads, which live as long as there is work.

    Parameters
    ----------
    count : int, optional
        Threads; by default as many as cores, from two to four.
    """

    def __init__(self, count: int | None = None) -> None:
        self._count = count or min(4, max(2, cores()))
        self._waiting: dict[str, _Request] = {}
        self._running: set[str] = set()
        self._busy = 0
        self._lock = threading.Lock()

    def submit(self, name: str, work: Callable[[Callable[[], bool]], None], dropped: Callable[[], None] = lambda: None) -> None:
        """Let a request be worked on: ``work`` is called with what tells whether it is still wanted, or else ``dropped``."""
        with self._lock:
            self._waiting[name] = _Request(work, dropped)
            if self._busy < self._count:
                self._busy += 1
                threading.Thread(target=self._work, name="misoxr-explore", daemon=True).start()

    def drop(self, name: str) -> None:
        """Drop a request: one that waits is never begun, and one in work learns of it."""
        with self._lock:
            self._running.discard(name)
            request = self._waiting.pop(name, None)
        if request is not None:
            request.dropped()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._busy -= 1
                    return
                name, request = self._waiting.popitem()  # the newest
                self._running.add(name)
            try:
                request.work(partial(self._is_running, name))
            except Exception:  # an answer that cannot be sent ends no other
                _LOG.exception("A request of a map's page failed.")
            finally:
                with self._lock:
                    self._running.discard(name)

    def _is_running(self, name: str) -> bool:
        return name in self._running
