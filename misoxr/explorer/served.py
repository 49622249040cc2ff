"""Explore a stored map from a script: the page of the notebook, served to this machine's browsers alone."""

import json
import os
import secrets
import threading
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, urlsplit

import xarray as xr

from misoxr.errors import SpecError, StoreError, gathered
from misoxr.explorer.atlas import Answer, Atlas, atlas_of
from misoxr.explorer.layers import COMPOSITE
from misoxr.explorer.page import html, policy, script, style
from misoxr.explorer.workers import Workers
from misoxr.io.layout import open_maps
from misoxr.spec.numbers import is_whole

if TYPE_CHECKING:
    from icechunk import Repository
    from zarr.abc.store import Store

__all__ = ["Served", "explore"]

HOST = "127.0.0.1"
START = 'import { serve } from "./map.js";\nserve(document.getElementById("map"));\n'


class Served:
    """A map that is served on 127.0.0.1; :func:`misoxr.explore` makes it.

    Attributes
    ----------
    url : str
        The page's address; a part of it is drawn at random, so that other users of the machine do not know it.
    clicked : dict
        What the last click told.

    Examples
    --------
    >>> maps.miso.to_zarr("maps.zarr", progress=False)
    >>> with misoxr.explore("maps.zarr", open_browser=False, wait=False) as served:
    ...     print(served.url)
    """

    def __init__(self, atlas: Atlas, port: int = 0) -> None:
        self.atlas, self.workers = atlas, Workers()
        self.clicked: dict[str, Any] = {}
        self.path = f"/{secrets.token_urlsafe(9)}/"
        if not is_whole(port):
            raise SpecError(f"port is {port!r}; give a whole number, or leave it out to take a free one.")
        try:
            self._server = ThreadingHTTPServer((HOST, port), _handler(self))
        except (OSError, OverflowError) as error:
            raise SpecError(f"Port {port} of {HOST} cannot be used ({error}); leave port= out to take a free one.") from error
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self.url = f"http://{HOST}:{self.port}{self.path}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="misoxr-served", daemon=True)
        self._thread.start()

    def answer(self, request: dict[str, str]) -> Answer | None:
        """Answer a request of the page in turn, the newest first; None where it was dropped."""
        done, found = threading.Event(), list[Answer | None]()

        def work(wanted: Any) -> None:
            try:
                found.append(self.atlas.answer(request, wanted))
            finally:
                done.set()

        self.workers.submit(request["id"], work, done.set)
        done.wait()
        answer = found[0] if found else None
        if answer is not None and request.get("kind") == "click" and "error" not in answer[0]:
            self.clicked = answer[0]
        return answer

    def wait(self) -> None:
        """Serve until Ctrl-C."""
        with suppress(KeyboardInterrupt):
            while self._thread.is_alive():
                self._thread.join(0.5)
        self.close()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _handler(served: Served) -> type[BaseHTTPRequestHandler]:
    """Return what handles requests: GET of the page's own paths, from browsers that were given this address."""
    files: dict[str, tuple[Callable[[], str], str]] = {
        "": (lambda: html(served.atlas.about["title"], served.atlas.about), "text/html"),
        "map.js": (script, "text/javascript"),
        "start.js": (lambda: START, "text/javascript"),
        "map.css": (style, "text/css"),
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def handle(self) -> None:
            with suppress(ConnectionError):  # the page was closed
                super().handle()

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            # Another site's name that leads to this machine is not ours: its scripts must not read the map.
            if self.headers.get("Host") not in {f"{HOST}:{served.port}", f"localhost:{served.port}"}:
                return self._send(HTTPStatus.FORBIDDEN, b"", "text/plain")
            name = parts.path.removeprefix(served.path) if parts.path.startswith(served.path) else None
            if name in files:
                text, kind = files[name]
                return self._send(HTTPStatus.OK, text().encode(), f"{kind}; charset=utf-8")
            request = dict(parse_qsl(parts.query))
            if name == "drop" and "id" in request:
                served.workers.drop(request["id"])
                return self._send(HTTPStatus.OK, b"{}", "application/json")
            if name == "ask" and "id" in request:
                words, image = served.answer(request) or ({"dropped": True}, b"")
                if image:
                    return self._send(HTTPStatus.OK, image, "image/png")
                return self._send(HTTPStatus.OK, json.dumps(words).encode(), "application/json")
            return self._send(HTTPStatus.NOT_FOUND, b"", "text/plain")

        def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
            self.send_response(status)
            for key, value in {
                "Content-Type": kind,
                "Content-Length": str(len(body)),
                "Content-Security-Policy": policy(served.atlas.about),
                "Cross-Origin-Resource-Policy": "same-origin",
                "X-Content-Type-Options": "nosniff",
                "Cache-Control": "no-store",
            }.items():
                self.send_header(key, value)
            self.end_headers()
            with suppress(ConnectionError):  # the page no longer wants it
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing of requests."""

    return Handler


@gathered
def explore(
    store: "str | os.PathLike[str] | Store | Repository",
    *,
    port: int = 0,
    open_browser: bool = True,
    wait: bool = True,
    image: xr.Dataset | None = None,
    variables: Sequence[str] | None = None,
    beside: "xr.Dataset | str | os.PathLike[str] | None" = None,
    pyramid: str | os.PathLike[str] | None = None,
    basemap: bool | str | None = None,
    height: int = 700,
) -> Served:
    """Show a stored map of any size in a browser, to pan and zoom, as ``maps.miso.explore()`` does in a notebook.

    The page is served on 127.0.0.1, to this machine alone, until Ctrl-C. Its address is printed.

    Parameters
    ----------
    store : str, path, Store or Repository
        As :func:`misoxr.open_maps` takes it, or a pyramid of ``to_pyramid``.
    port : int, optional
        By default a free one.
    open_browser : bool, optional
        Open the page in the browser.
    wait : bool, optional
        Serve until Ctrl-C. With False return at once; the page is served until ``close()`` or the end of the program.
    image, variables, basemap : optional
        As for :func:`misoxr.explorer.notebook.explore`.
    beside : Dataset, str or path, optional
        What to compare with: the name of a layer, other maps, or a store of them.
    pyramid : str or path, optional
        What ``to_pyramid`` wrote of these maps, where the store is not a pyramid itself.
    height : int, optional
        Pixels of the screen.

    Returns
    -------
    Served
        With ``url``, ``clicked`` (as the widget's) and ``close()``.

    Raises
    ------
    BandError
        If there is no map to draw, its classes and colours do not go together, or the image lacks red, green or blue.
    GridError
        If maps have no regular grid or CRS, or a rotated one, or the image or the pyramid lies on another.
    SpecError
        If there are no such variables or layers, the port cannot be used, or an argument is none of these.
    StoreError
        If there is no such store, or it cannot be read.
    MissingDependencyError
        If matplotlib is missing (extra ``plot``).

    Examples
    --------
    >>> maps.miso.to_zarr("maps.zarr", progress=False)
    >>> served = misoxr.explore("maps.zarr", open_browser=False, wait=False)
    >>> served.close()
    """
    maps, levels = _opened(store)
    if isinstance(beside, os.PathLike) or (isinstance(beside, str) and not _is_layer(beside, maps)):
        beside = open_maps(beside, codes=True)
    options: Any = {"variables": variables, "basemap": basemap, "height": height}
    served = Served(atlas_of(maps, image=image, beside=beside, pyramid=pyramid or levels, **options), port)
    print(f"The map is shown at {served.url}{' until Ctrl-C' if wait else ''}", flush=True)
    if open_browser:
        webbrowser.open(served.url)
    if wait:
        served.wait()
    return served


def _opened(store: "str | os.PathLike[str] | Store | Repository") -> tuple[xr.Dataset, str | None]:
    """Return a store's maps; of a pyramid its finest level, and its address."""
    try:
        return open_maps(store, codes=True), None
    except StoreError as error:
        if not isinstance(store, str | os.PathLike) or "is a pyramid" not in str(error):
            raise
        return open_maps(f"{os.fspath(store)}/0", codes=True), os.fspath(store)


def _is_layer(name: str, maps: xr.Dataset) -> bool:
    """Whether text is meant to be the name of a layer, and not a store's address."""
    return name == COMPOSITE or name.partition(": ")[0] in maps
