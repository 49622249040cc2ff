"""A file server that fails: a seeded share of requests, or all whose path begins with some text, ends badly; and one that wants tokens.

It runs as a process of its own; see :func:`faulty_server`.
"""

import random
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email.utils import formatdate
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from servers import RangeHandler, announced, serve

FAULTS = ("503", "429", "429-date", "reset", "stall", "stall-in-body", "truncated", "short", "other-range")
STALL = 30.0
"""Seconds; far longer than any test waits."""


class Dice:
    """Decides which requests fail, and how; no path fails more than ``runs`` times on end."""

    def __init__(self, rate: float, kinds: Sequence[str], seed: int, below: str, runs: int) -> None:
        self.rate, self.kinds, self.below, self.runs = rate, kinds, below, runs
        self.random, self.lock, self.failed = random.Random(seed), threading.Lock(), {}

    def fault(self, path: str) -> str | None:
        with self.lock:
            bad = path.startswith(self.below) and self.random.random() < self.rate and self.failed.get(path, 0) < self.runs
            self.failed[path] = self.failed.get(path, 0) + 1 if bad else 0
            return self.random.choice(self.kinds) if bad else None


class FaultyHandler(RangeHandler):
    """Serve files, and fail where the dice say so; with ``expiry``, refuse tokens (``?token=<time>``) that are older, seconds."""

    def __init__(self, *args, dice: Dice, expiry: float, **kwargs):
        self.dice, self.expiry, self.fault = dice, expiry, None
        super().__init__(*args, **kwargs)

    def do_GET(self):
        parts = urlsplit(self.path)
        if self.expiry and time.time() - float(parse_qs(parts.query).get("token", ["0"])[0]) > self.expiry:
            self._answer(403, b"expired", {})
            return
        self.fault = self.dice.fault(parts.path)
        if self.fault == "503":
            self._answer(503, b"busy", {})
        elif self.fault in ("429", "429-date"):
            wait = "1" if self.fault == "429" else formatdate(time.time() + 1, usegmt=True)
            self._answer(429, b"slow down", {"Retry-After": wait})
        elif self.fault == "reset":
            self.close_connection = True
        else:
            if self.fault == "stall":
                time.sleep(STALL)
            super().do_GET()

    def _answer(self, status, body, headers):
        fault, headers = self.fault, dict(headers)
        if status == 206 and fault == "short":  # says so
            body = body[: len(body) // 2]
        if status == 206 and fault == "other-range":
            headers["Content-Range"] = headers["Content-Range"].replace("bytes ", "bytes 1")
        if fault not in ("truncated", "stall-in-body"):
            super()._answer(status, body, headers)
            return
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        if fault == "stall-in-body":
            time.sleep(STALL)
        self.close_connection = True

    do_HEAD = do_GET

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()


@contextmanager
def faulty_server(
    directory: Path,
    *,
    rate: float = 0.0,
    kinds: Sequence[str] = FAULTS,
    seed: int = 0,
    below: str = "/",
    runs: int = 10**9,
    expiry: float = 0.0,
    log: Path | None = None,
) -> Iterator[str]:
    """Serve a directory and yield the address; ``rate`` of the requests for paths that begin with ``below`` fail."""
    options = [directory, rate, ",".join(kinds), seed, below, runs, expiry, log or ""]
    with announced([sys.executable, str(Path(__file__).resolve()), *map(str, options)]) as address:
        yield address


def main(directory: str, rate: str, kinds: str, seed: str, below: str, runs: str, expiry: str, log: str) -> None:
    dice = Dice(float(rate), kinds.split(","), int(seed), below, int(runs))
    shared = {"redirects": {}, "log": Path(log) if log else None}
    serve(partial(FaultyHandler, directory=directory, dice=dice, expiry=float(expiry), **shared))


if __name__ == "__main__":
    main(*sys.argv[1:])
