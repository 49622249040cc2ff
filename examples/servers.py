"""Loopback servers for the examples and tests: files with range requests, and a real STAC API.

Both run as processes of their own, because a server inside the process that reads from it can stall GDAL.
"""

import argparse
import json
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOST = "127.0.0.1"


class RangeHandler(SimpleHTTPRequestHandler):
    """Serve files below a directory, whole or one byte range at a time, and redirect the paths it is told to."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    """Headers and body are two writes; waiting to join them costs up to 40 ms an answer."""

    def __init__(self, *args, redirects: Mapping[str, str], log: Path | None, latency: float = 0.0, **kwargs):
        self.redirects, self.log, self.latency = redirects, log, latency
        super().__init__(*args, **kwargs)

    def do_GET(self):
        time.sleep(self.latency)
        location = self.redirects.get(self.path)
        if location is not None:
            self._answer(302, b"", {"Location": location})
            return
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        stop = min(int(asked[2]) + 1, size) if asked and asked[2] else size
        if start >= size > 0:
            self._answer(416, b"", {"Content-Range": f"bytes */{size}"})
            return
        with path.open("rb") as file:
            file.seek(start)
            body = file.read(stop - start)
        extra = {"Content-Range": f"bytes {start}-{stop - 1}/{size}"} if asked else {}
        self._answer(206 if asked else 200, body, {"Accept-Ranges": "bytes", "Content-Type": self.guess_type(path), **extra})

    do_HEAD = do_GET

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]):
        if self.log:
            sent = 0 if self.command == "HEAD" else len(body)
            with self.log.open("a") as file:
                file.write(f"{self.command} {self.path} {self.headers.get('Range', '')} {status} {sent}\n")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        """Stay silent: the caller's output is the example's."""


@contextmanager
def range_server(
    directory: str | Path, redirects: Mapping[str, str] | None = None, log: Path | None = None, latency: float = 0.0
) -> Iterator[str]:
    """Serve a directory over HTTP with range requests, and yield its address.

    ``redirects`` maps a path such as "/a.tif" to the location it is redirected to; ``log`` names a file that gets one line
    per request: method, path, range, status and bytes; each answer waits for ``latency``, seconds.
    """
    command = [sys.executable, str(Path(__file__).resolve()), str(directory), "--redirects", json.dumps(dict(redirects or {}))]
    command += ["--latency", str(latency)] + (["--log", str(log)] if log else [])
    with announced(command) as address:
        yield address


@contextmanager
def announced(command: list[str]) -> Iterator[str]:
    """Run a server whose first line of output is its address, and yield that."""
    with _process(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        address = process.stdout.readline().decode().strip()
        if not address:
            raise RuntimeError(f"The server did not start: {' '.join(command)}")
        yield address


@contextmanager
def stac_api(items: str | Path, timeout: float = 60.0) -> Iterator[str]:
    """Serve an item collection (JSON) through rustac's STAC API, and yield its address."""
    executable = shutil.which("rustac", path=sysconfig.get_path("scripts")) or shutil.which("rustac")
    if executable is None:
        raise RuntimeError("The STAC API needs rustac; install it with: pip install rustac")
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    address = f"http://{HOST}:{port}"
    command = [executable, "serve", "--addr", f"{HOST}:{port}", "--create-collections", str(items)]
    with _process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _wait(address, process, timeout)
        yield address


@contextmanager
def _process(command: list[str], **streams) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(command, **streams)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _wait(address: str, process: subprocess.Popen, timeout: float) -> None:
    """Return once the address answers."""
    end = time.monotonic() + timeout
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"Nothing answers at {address} (exit status {process.poll()}): {error}") from error
            time.sleep(0.05)


def main() -> None:
    """Serve until the parent ends the process; the first line of output is the address."""
    parser = argparse.ArgumentParser(description="Serve a directory over HTTP with range requests.")
    parser.add_argument("directory")
    parser.add_argument("--redirects", type=json.loads, default={})
    parser.add_argument("--log", type=Path)
    parser.add_argument("--latency", type=float, default=0.0)
    serve(partial(RangeHandler, **vars(parser.parse_args())))


def serve(handler) -> None:
    """Serve on a free port until the process ends; the first line of output is the address."""
    server = ThreadingHTTPServer((HOST, 0), handler)
    server.daemon_threads = True
    print(f"http://{HOST}:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
