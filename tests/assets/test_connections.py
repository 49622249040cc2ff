"""Answers that do not end, that are larger than asked for, or packed: each is over in time, in little memory, and says why."""

import json
import subprocess
import sys
import threading
import time
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from misoxr.assets import http
from misoxr.assets.read import Asset, Reader
from misoxr.errors import AssetError, CatalogError, MisoxrError, PointsError
from misoxr.points import read_points
from misoxr.stac import open_stac
from tests.strangers import dripped, stranger, whole

GRID = GeoBox((64, 64), Affine(10, 0, 5e5, 0, -10, 7.2e6), "EPSG:32605")
RANGE = b"HTTP/1.1 206 P\r\nContent-Range: bytes 0-65535/99999999\r\n"


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISOXR_HTTP_TIMEOUT", "0.5")
    monkeypatch.setenv("MISOXR_HTTP_PATIENCE", "1")
    monkeypatch.setattr(http, "PAUSE", 0.02)


def asset(address: str) -> None:
    with Reader(GRID) as reader:
        reader.read(Asset("a", "red", f"{address}/a.tif"))


def catalogue(address: str) -> None:
    open_stac(f"{address}/c.json", bands="red")


def table(address: str) -> None:
    open_stac(f"{address}/items.parquet", bands="red")


def points(address: str) -> None:
    read_points(f"{address}/p.geojson")


READS = {asset: AssetError, catalogue: CatalogError, table: CatalogError, points: PointsError}
DRIPS = {
    "body": lambda head, send: dripped(
        send, (RANGE if "Range:" in head else b"HTTP/1.1 200 OK\r\n") + b"Content-Length: 65536\r\n\r\n"
    ),
    "chunks": lambda head, send: dripped(
        send, (RANGE if "Range:" in head else b"HTTP/1.1 200 OK\r\n") + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"
    ),
    "trailers": lambda _, send: dripped(
        send, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"A: b\r\n"
    ),
    "status": lambda _, send: dripped(send, b"HTTP", b"/"),
    "headers": lambda _, send: dripped(send, b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "interim answers": lambda _, send: dripped(send, b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "an error": lambda _, send: dripped(send, b"HTTP/1.1 404 No\r\nContent-Length: 60000\r\n\r\n"),
    "redirects": lambda head, send: (time.sleep(0.4), send(whole(b"", "302 F", f"Location: {head.split()[1]}x"))),
    "slow redirects": lambda head, send: dripped(send, f"HTTP/1.1 302 F\r\nLocation: {head.split()[1]}x\r\nX: ".encode()),
}


@pytest.mark.parametrize("drip", DRIPS)
@pytest.mark.parametrize("read", READS, ids=lambda read: read.__name__)
def test_every_request_ends_in_time(read, drip):
    raised: list[Any] = []

    def run() -> None:
        try:
            read(address)
        except Exception as error:
            raised.append(error)

    with stranger(DRIPS[drip]) as address:
        thread = threading.Thread(target=run, daemon=True)
        start = time.monotonic()
        thread.start()
        thread.join(15)
        assert not thread.is_alive()
    assert time.monotonic() - start < 1 + 2
    # what is whole before its trailers end may be taken
    assert raised or drip == "trailers"
    assert all(isinstance(error, READS[read]) for error in raised), raised


LANDING = {
    "type": "Catalog",
    "stac_version": "1.0.0",
    "id": "api",
    "description": "",
    "conformsTo": ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"],
}


ITEM = {
    "type": "Feature",
    "stac_version": "1.0.0",
    "id": "i",
    "collection": "c",
    "properties": {"datetime": "2020-07-01T00:00:00Z"},
    "geometry": {"type": "Point", "coordinates": [-150, 65]},
    "assets": {},
    "links": [],
}


def endless(kind: str) -> Any:
    """A catalogue without end, each answer of which comes at once."""
    asked: list[str] = []

    def answer(head: str, send: Any) -> None:
        asked.append(head)
        address = "http://" + next(line for line in head.splitlines() if line.lower().startswith("host:")).split()[1]
        links = [{"rel": "search", "href": f"{address}/search", "type": "application/geo+json", "method": "GET"}]
        document: Any = {**LANDING, "links": links}
        if kind == "walk":
            document = {key: value for key, value in LANDING.items() if key != "conformsTo"}
            document["links"] = [{"rel": "child", "href": f"./{len(asked)}-{number}.json"} for number in range(3)]
        elif "search" in head.split()[1]:
            item = {**ITEM, "id": f"i{len(asked)}"}
            document = {
                "type": "FeatureCollection",
                "features": [item],
                "links": [{"rel": "next", "href": f"{address}/search?{len(asked)}"}],
            }
        send(whole(json.dumps(document).encode(), "200 OK", "Content-Type: application/json"))

    return answer


@pytest.mark.parametrize("kind", ["walk", "search"])
def test_catalogues_without_end_are_given_up(kind, monkeypatch):
    from misoxr.stac import found

    # each answer comes at once: a busy machine is not taken for a server that stalls
    monkeypatch.setenv("MISOXR_HTTP_TIMEOUT", "20")
    with stranger(endless(kind)) as address:
        start = time.monotonic()
        with pytest.raises(
            CatalogError,
            match=r"not read to its end after 1 s.*raise MISOXR_CATALOG_PATIENCE|patience|cannot be reached|did not answer",
        ):
            catalogue(address)
        assert time.monotonic() - start < 1 + 5
        monkeypatch.setattr(found, "DOCUMENTS", 20)
        monkeypatch.setenv("MISOXR_CATALOG_PATIENCE", "30")
        with pytest.raises(CatalogError, match=r"has more than 20 documents or pages\. Narrow the search"):
            catalogue(address)
        monkeypatch.setenv("MISOXR_CATALOG_PATIENCE", "0.01")
        with pytest.raises(CatalogError, match=r"not read to its end after 0\.01 s|cannot be reached|did not answer"):
            catalogue(address)


def test_a_server_that_patience_cuts_short_is_not_said_to_stall_for_longer(monkeypatch):
    monkeypatch.setenv("MISOXR_HTTP_TIMEOUT", "20")
    monkeypatch.setenv("MISOXR_HTTP_PATIENCE", "0.3")
    with (
        stranger(lambda _, send: (time.sleep(2), send(whole(b"{}")))) as address,
        pytest.raises(OSError, match=r"^its server had not answered when patience ended \(0\.3 s later\); tried 1 time in 0 s$"),
    ):
        http.http_session().get(address)


def test_a_catalogue_of_pystac_is_bounded_too():
    import pystac

    def deeper(head: str, send: Any) -> None:
        number = int("".join(filter(str.isdigit, head.split()[1])) or 0)
        links = [{"rel": "child", "href": f"./{number + 1}.json"}]
        kept = {key: value for key, value in LANDING.items() if key != "conformsTo"}
        send(whole(json.dumps({**kept, "id": f"c{number}", "links": links}).encode()))

    with stranger(deeper) as address:
        found = pystac.Catalog("mine", "", href=f"{address}/catalog.json")
        found.add_link(pystac.Link("child", f"{address}/0.json"))
        start = time.monotonic()
        with pytest.raises(CatalogError, match="not read to its end after 1 s|links that cannot be followed"):
            open_stac(found, bands="red")
        assert time.monotonic() - start < 1 + 2


@pytest.mark.parametrize("href", ["file:///etc/hostname", "/etc/hostname"])
def test_an_api_leads_to_no_file_of_ours(href):
    """Its links lead pystac-client, which would open files."""

    def answer(head: str, send: Any) -> None:
        address = "http://" + next(line for line in head.splitlines() if line.lower().startswith("host:")).split()[1]
        document: Any = {**LANDING, "links": [{"rel": "search", "href": f"{address}/search", "type": "application/geo+json"}]}
        if "search" in head.split()[1]:
            document = {"type": "FeatureCollection", "features": [ITEM], "links": [{"rel": "next", "href": href}]}
        send(whole(json.dumps(document).encode()))

    with stranger(answer) as address, pytest.raises(CatalogError, match="links to '.*', which is refused"):
        catalogue(address)


# ---- size, each in a process of its own, whose memory is its own

MEASURE = """
import sys
from tests.assets.test_connections import READS, MisoxrError
def most():
    return next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
read = next(read for read in READS if read.__name__ == sys.argv[1])
for address in ["http://127.0.0.1:9", *sys.argv[2:]]:
    before = most()
    try:
        read(address)
        print("read", 0)
    except MisoxrError as error:
        print(str(error).replace("\\n", " "), most() - before, sep="|")
"""
MB = 100


def flood(head: str, send: Any, begin: bytes) -> None:
    send(begin)
    for _ in range(MB):
        send(bytes(1 << 20))


def packed() -> bytes:
    pack = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join([pack.compress(bytes(1 << 20)) for _ in range(MB)] + [pack.flush()])


FLOODS = {
    "a range that goes on": lambda head, send: flood(head, send, RANGE + b"Connection: close\r\n\r\n"),
    "a length that is larger": lambda head, send: flood(head, send, RANGE + f"Content-Length: {MB << 20}\r\n\r\n".encode()),
    "the whole instead": lambda head, send: flood(head, send, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"),
    "a packed body": lambda _, send: send(RANGE + f"Content-Encoding: gzip\r\nContent-Length: {len(BOMB)}\r\n\r\n".encode() + BOMB),
    "another packed body": lambda _, send: send(
        f"HTTP/1.1 200 OK\r\nContent-Encoding: deflate, gzip\r\nContent-Length: {len(BOMB)}\r\n\r\n".encode() + BOMB
    ),
    "an error's packed body": lambda _, send: send(
        f"HTTP/1.1 404 No\r\nContent-Encoding: gzip\r\nContent-Length: {len(BOMB)}\r\n\r\n".encode() + BOMB
    ),
    "an error that goes on": lambda head, send: flood(head, send, b"HTTP/1.1 403 No\r\nConnection: close\r\n\r\n"),
    "a header that goes on": lambda head, send: flood(head, send, b"HTTP/1.1 200 OK\r\nX: "),
    "a chunk's mark that goes on": lambda head, send: flood(head, send, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
}
BOMB = packed()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells how much memory was used")
@pytest.mark.parametrize("read", READS, ids=lambda read: read.__name__)
def test_no_more_is_read_than_was_asked_for(read, monkeypatch):
    for name in ("MISOXR_DOCUMENT_MB", "MISOXR_POINTS_MB"):
        monkeypatch.setenv(name, "5")
    monkeypatch.setenv("MISOXR_HTTP_PATIENCE", "5")
    with ExitStack() as servers:
        addresses = [servers.enter_context(stranger(answer)) for answer in FLOODS.values()]
        command = [sys.executable, "-c", MEASURE, read.__name__, *addresses]
        run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    told = dict(zip(FLOODS, run.stdout.splitlines()[1:], strict=True))  # the first has what the libraries take
    assert all(int(line.rpartition("|")[2]) < 60 for line in told.values()), told


def test_what_is_too_large_or_packed_is_told_at_once():
    answer = lambda _, send: send(whole(bytes(6_000_000)))  # noqa: E731
    with stranger(answer) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISOXR_DOCUMENT_MB", "5")
        with pytest.raises(
            CatalogError, match="sends more than 5 MB, the most that is read; where that is right, raise MISOXR_DOCUMENT_MB"
        ):
            catalogue(address)
    with (
        stranger(lambda _, send: send(whole(b"", "200 OK", "Content-Encoding: br"))) as address,
        pytest.raises(CatalogError, match="sends the encoding 'br', which was not accepted; tried 1 time "),
    ):
        catalogue(address)


def test_only_plain_bytes_are_asked_for():
    heads: list[str] = []

    def answer(head: str, send: Any) -> None:
        heads.append(head)
        send(whole(b"{}"))

    with stranger(answer) as address:
        for read in READS:
            with pytest.raises(MisoxrError):
                read(address)
    assert heads
    assert all("accept-encoding: identity\r\n" in head.lower() and "gzip" not in head for head in heads)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, '{"type": "Feature", "id": "a", "x": ' + "[" * 500 + "]" * 500 + "}"]
)
def test_json_that_is_nested_too_deep(text, tmp_path):
    (tmp_path / "c.json").write_text(text)
    with stranger(lambda _, send: send(whole(text.encode()))) as address:
        for place in (tmp_path / "c.json", f"{address}/c.json"):
            with pytest.raises(CatalogError, match="nested too deep|within each other"):
                open_stac(place, bands="red")
        with pytest.raises(PointsError):
            read_points(f"{address}/p.json")
