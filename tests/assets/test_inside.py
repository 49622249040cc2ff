"""Where requests go: never from outside to this machine or a private network, by whatever is followed; and what they carry along.

All servers are on this machine. 127.0.0.1 and ::1 are inside, and the other addresses of 127.0.0.0/8 are made to count as outside.
"""

import ipaddress
import json
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pystac
import pystac_client
import pytest
from distributed import Client, LocalCluster
from servers import range_server

from misoxr.assets import inside
from misoxr.assets.hrefs import gdal_path
from misoxr.assets.http import follow, http_session
from misoxr.assets.inside import Reach, is_inside
from misoxr.errors import AssetError, CatalogError, MisoxrError, PointsError
from misoxr.points import read_points
from misoxr.stac import open_stac
from tests.stac_scenes import make_item
from tests.strangers import stranger, whole

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux has all of 127.0.0.0/8 without setting it up"
)

INSIDE = [
    "127.0.0.1",
    "127.9.9.9",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "192.0.0.8",
    "198.18.0.1",
    "192.88.99.1",
    "::1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "::8.8.8.8",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a00:1",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2001:0:1::1",
    "2001:db8::1",
    "4000::1",
]
OUTSIDE = [
    "8.8.8.8",
    "1.1.1.1",
    "172.32.0.1",
    "100.128.0.1",
    "2606:4700::1",
    "2001:4860:4860::8888",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
]


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_inside(address):
    assert is_inside(address)


@pytest.mark.parametrize("address", OUTSIDE)
def test_addresses_outside(address):
    assert not is_inside(address)


# ---- a catalogue from outside


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    blocks = [block for block in inside.INSIDE if block != ipaddress.ip_network("127.0.0.0/8")]
    # Nothing listens at the second, whatever ports other tests have opened at the first.
    monkeypatch.setattr(inside, "INSIDE", (*blocks, ipaddress.ip_network("127.0.0.1/32"), ipaddress.ip_network("127.0.0.9/32")))
    monkeypatch.setenv("MISOXR_CACHE", str(tmp_path_factory.mktemp("cache")))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class Served:
    """What servers at several addresses answer, and what they were asked; ``lead`` is where all of it leads."""

    outside: str
    within: str

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.lead = ""
        self.answers: dict[str, Callable[[str], bytes]] = {}

    def at(self, host: str) -> Any:
        def answer(head: str, send: Any) -> None:
            self.asked.append((host, head))
            path = head.split()[1].partition("?")[0]
            send(self.answers.get(path, lambda _: whole(b"", "404 No"))(self.lead))

        return stranger(answer, host)

    def of(self, host: str) -> list[str]:
        return [head for one, head in self.asked if one == host]


ITEM = {
    "type": "Feature",
    "stac_version": "1.0.0",
    "id": "i",
    "collection": "c",
    "bbox": [-150.1, 64.9, -149.9, 65.1],
    "geometry": {
        "type": "Polygon",
        "coordinates": [[[-150.1, 64.9], [-149.9, 64.9], [-149.9, 65.1], [-150.1, 65.1], [-150.1, 64.9]]],
    },
    "properties": {"datetime": "2020-07-01T00:00:00Z"},
    "links": [],
}


def item(href: str) -> dict[str, Any]:
    fields = {"eo:bands": [{"name": "red", "common_name": "red"}], "raster:bands": [{"scale": 1, "offset": 0, "nodata": 0}]}
    return {**ITEM, "assets": {"red": {"href": href, **fields}}}


def landing(address: str, search: str = "/search") -> dict[str, Any]:
    core = "https://api.stacspec.org/v1.0.0/core"
    link = {
        "rel": "search",
        "href": search if "://" in search else f"{address}{search}",
        "type": "application/geo+json",
        "method": "GET",
    }
    conforms = [core, core.replace("core", "item-search")]
    return {"type": "Catalog", "stac_version": "1.0.0", "id": "api", "description": "", "conformsTo": conforms, "links": [link]}


def page(items: list[Any], *links: Any) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": items, "links": list(links)}


def document(content: Any) -> bytes:
    return whole(json.dumps(content).encode(), "200 OK", "Content-Type: application/json")


def moved(lead: str) -> bytes:
    return whole(b"", "302 F", f"Location: {lead}")


def computed(catalog: Any, **options: Any) -> Any:
    return open_stac(catalog, bands="red", mask=None, crs="EPSG:32605", resolution=500, **options).compute()


def asset(served: Served, address: str, **options: Any) -> None:
    served.answers["/c.json"] = lambda lead: document(page([item(lead)]))
    computed(f"{address}/c.json", **options)


def asset_of_a_composite(served: Served, address: str, **options: Any) -> None:
    asset(served, address, reduce="median", **options)


def asset_redirected(served: Served, address: str, **options: Any) -> None:
    served.answers |= {"/c.json": lambda _: document(page([item(f"{address}/moved.tif")])), "/moved.tif": moved}
    computed(f"{address}/c.json", **options)


def asset_signed(served: Served, address: str, **options: Any) -> None:
    served.answers["/c.json"] = lambda _: document(page([item(f"{address}/a.tif")]))
    computed(f"{address}/c.json", patch_url=lambda _: served.lead, **options)


def catalogue_redirected(served: Served, address: str, **options: Any) -> None:
    served.answers["/c.json"] = moved
    computed(f"{address}/c.json", **options)


def child_redirected(served: Served, address: str, **options: Any) -> None:
    top = {"type": "Catalog", "stac_version": "1.0.0", "id": "c", "links": [{"rel": "child", "href": "./child.json"}]}
    served.answers |= {"/c.json": lambda _: document(top), "/child.json": moved}
    computed(f"{address}/c.json", **options)


def search(served: Served, address: str, **options: Any) -> None:
    served.answers["/api"] = lambda lead: document(landing(address, lead))
    computed(f"{address}/api", **options)


def search_redirected(served: Served, address: str, **options: Any) -> None:
    served.answers |= {"/api": lambda _: document(landing(address)), "/search": moved}
    computed(f"{address}/api", **options)


def next_page(served: Served, address: str, method: str = "GET", **options: Any) -> None:
    link = {"rel": "next", "method": method, "body": {"token": "x"}, "headers": {"X-Aws": "1"}}
    served.answers |= {
        "/api": lambda _: document(landing(address)),
        "/search": lambda lead: document(page([item(f"{address}/a.tif")], {**link, "href": lead})),
    }
    computed(f"{address}/api", **options)


def next_page_posted(served: Served, address: str, **options: Any) -> None:
    next_page(served, address, "POST", **options)


def next_page_of_a_client(served: Served, address: str, **options: Any) -> None:
    served.answers |= {
        "/api": lambda _: document(landing(address)),
        "/search": lambda lead: document(page([item(f"{address}/a.tif")], {"rel": "next", "href": lead})),
    }
    computed(pystac_client.Client.open(f"{address}/api"), **options)


def search_of_a_client(served: Served, address: str, **options: Any) -> None:
    served.answers["/api"] = lambda lead: document(landing(address, lead))
    computed(pystac_client.Client.open(f"{address}/api").search(), **options)


def link_of_pystac(served: Served, address: str, **options: Any) -> None:
    found = pystac.Catalog("mine", "", href=f"{address}/catalog.json")
    found.add_link(pystac.Link("item", served.lead))
    computed(found, **options)


def item_in_hand(served: Served, _: str, **options: Any) -> None:
    computed(item(served.lead), **options)


def item_with_a_link_to_itself(served: Served, address: str, **options: Any) -> None:
    computed({**item(served.lead), "links": [{"rel": "self", "href": f"{address}/item.json"}]}, **options)


def table(served: Served, address: str, **options: Any) -> None:
    made = {key: value for key, value in item(served.lead).items() if key not in ("properties", "geometry")}
    content = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([{**made, **ITEM["properties"]}]), content)
    body = content.getvalue().to_pybytes()
    head = "206 P", f"Content-Range: bytes 0-{len(body) - 1}/{len(body)}"
    served.answers["/t.parquet"] = lambda _: whole(body, *head)
    computed(f"{address}/t.parquet", reduce="median", **options)


def table_redirected(served: Served, address: str, **options: Any) -> None:
    served.answers["/t.parquet"] = moved
    computed(f"{address}/t.parquet", **options)


WAYS = [
    *(
        asset,
        asset_of_a_composite,
        asset_redirected,
        asset_signed,
        catalogue_redirected,
        child_redirected,
        search,
        search_redirected,
    ),
    *(next_page, next_page_posted, next_page_of_a_client, search_of_a_client, link_of_pystac, item_in_hand),
    *(item_with_a_link_to_itself, table, table_redirected),
]


@pytest.fixture
def served(outside) -> Iterator[Served]:
    made = Served()
    with made.at("127.0.0.2") as made.outside, made.at("127.0.0.1") as made.within:
        yield made


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_nothing_from_outside_leads_inside(served, way):
    served.lead = f"{served.within}/latest/meta-data?secret=1"
    with pytest.raises(MisoxrError, match="private network") as error:
        way(served, served.outside)
    assert not served.of("127.0.0.1")
    assert "secret" not in str(error.value)
    assert isinstance(error.value, AssetError) or "is refused" in str(error.value)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_it_does_where_the_user_allows_it(served, way):
    served.lead = f"{served.within}/a.tif"
    with pytest.raises(MisoxrError) as error:
        way(served, served.outside, allow_private=True)
    assert "private network" not in str(error.value)
    assert served.of("127.0.0.1")  # what is not there


@pytest.mark.parametrize("way", [way for way in WAYS if way is not item_in_hand], ids=lambda way: way.__name__)
def test_it_does_where_the_catalogue_is_inside(served, way):
    with served.at("127.0.0.1") as other:
        served.lead = f"{other}/b.tif"
        with pytest.raises(MisoxrError) as error:
            way(served, served.within)
    assert "private network" not in str(error.value)
    assert any("/b.tif" in head for head in served.of("127.0.0.1"))


def test_points_are_not_led_inside(served):
    served.answers["/p.geojson"] = moved
    served.lead = f"{served.within}/p.geojson"
    with pytest.raises(PointsError, match="private network"):
        read_points(f"{served.outside}/p.geojson")
    assert not served.of("127.0.0.1")


@pytest.mark.parametrize(
    "host", ["localhost", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "127.0.0.1.", "[::ffff:127.0.0.1]"]
)
def test_no_spelling_leads_inside(served, host):
    served.lead = f"http://{host}:{urlsplit(served.within).port}/x"
    with pytest.raises(MisoxrError, match="private network|Failed to resolve"):
        asset(served, served.outside)
    assert not served.of("127.0.0.1")


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6")
def test_ipv6(served):
    with ExitStack() as servers:
        try:
            within = servers.enter_context(served.at("::1"))
        except OSError:
            pytest.skip("there is no ::1")
        served.lead = f"{within}/x"
        with pytest.raises(AssetError, match=r"private network \(::1\)"):
            asset(served, served.outside)
        assert not served.of("::1")
        with pytest.raises(AssetError, match="answers 404"):
            asset(served, within)
        assert len(served.of("::1")) == 2


# ---- names


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """What names mean, one answer after the other; the last one stays."""
    known: dict[str, list[list[str]]] = {}
    real = socket.getaddrinfo

    def answer(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host not in known:
            return real(host, port, *args, **options)
        addresses = known[host].pop(0) if len(known[host]) > 1 else known[host][0]
        return [one for address in addresses for one in real(address, port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return known


def test_all_addresses_of_a_name_are_looked_at(served, names):
    names["mixed.example"] = [["127.0.0.2", "127.0.0.1"]]
    port = urlsplit(served.within).port
    served.lead = f"http://mixed.example:{port}/x"
    with pytest.raises(AssetError, match=r"private network \(127.0.0.1\)"):
        asset(served, served.outside)
    assert not served.of("127.0.0.1")


def test_a_name_that_changes_its_meaning_leads_nowhere(served, names):
    """The catalogue's own name means this machine a moment later: both for the connection, and for the question whether it is inside."""
    port = urlsplit(served.outside).port
    served.answers["/c.json"] = lambda _: document(page([item(f"http://turns.example:{urlsplit(served.within).port}/x")]))
    names["turns.example"] = [["127.0.0.2"], ["127.0.0.1"]]
    with pytest.raises(AssetError, match="private network"):
        computed(f"http://turns.example:{port}/c.json")
    names["turns.example"] = [["127.0.0.9", "127.0.0.2"], ["127.0.0.1"]]  # its port is closed at the first
    with pytest.raises(AssetError, match="private network"):
        computed(f"http://turns.example:{port}/c.json")
    assert not served.of("127.0.0.1")
    assert "Host: turns.example" in served.of("127.0.0.2")[0]


def test_the_next_address_is_tried_where_one_lets_not_connect(served, names):
    names["several.example"] = [["127.0.0.3", "127.0.0.2"]]
    with http_session() as session:
        assert follow(session, f"http://several.example:{urlsplit(served.outside).port}/x").status_code == 404


def test_a_connection_that_is_kept_is_of_one_rule(served):
    """Assets that may lie inside, and others, do not share connections."""
    for reach in (Reach(True), Reach(False)):
        with http_session(reach=reach) as session:
            if reach.inside:
                assert follow(session, f"{served.within}/x").status_code == 404
            else:
                with pytest.raises(AssetError, match="private network"):
                    follow(session, f"{served.within}/x")


# ---- what is carried along


KEYS = {"Authorization": "Bearer SECRET", "X-Api-Key": "SECRET"}


def client_of(address: str) -> Any:
    def sign(request: Any) -> Any:
        request.headers["X-Signed"] = "SECRET"
        return request

    return pystac_client.Client.open(f"{address}/api", headers=KEYS, parameters={"key": "SECRET"}, request_modifier=sign)


def test_keys_go_to_the_catalogue_s_own_origin_alone(served):
    """Neither a next page elsewhere nor a redirect to elsewhere gets them."""
    with served.at("127.0.0.3") as elsewhere:
        served.answers |= {
            "/api": lambda _: document(landing(served.outside)),
            "/search": lambda _: document(page([item("https://x.org/a.tif")], {"rel": "next", "href": f"{served.outside}/second"})),
            "/second": lambda _: document(
                page([{**item("https://x.org/a.tif"), "id": "j"}], {"rel": "next", "href": f"{elsewhere}/third"})
            ),
            "/third": lambda _: document(page([{**item("https://x.org/a.tif"), "id": "k"}])),
        }
        for source in (client_of(served.outside), client_of(served.outside).search()):
            found = open_stac(source, bands="red", mask=None, crs="EPSG:32605", resolution=500)
            assert sorted(found.attrs["stac_item_ids"]) == ["i", "j", "k"]
        own, other = served.of("127.0.0.2"), served.of("127.0.0.3")
        assert len(other) == 2
        assert all(head.count("SECRET") >= 4 for head in own)
        assert "SECRET" not in "".join(other)
        served.asked.clear()
        served.answers["/search"] = lambda _: moved(f"{elsewhere}/third")
        open_stac(client_of(served.outside), bands="red", mask=None, crs="EPSG:32605", resolution=500)
        assert len(served.of("127.0.0.3")) == 1
        assert "SECRET" not in "".join(served.of("127.0.0.3"))


def test_the_user_s_client_is_as_it_was(served):
    served.answers |= {
        "/api": lambda _: document(landing(served.outside)),
        "/search": lambda _: document(page([item("https://x.org/a.tif")])),
    }
    client = client_of(served.outside)
    before = client._stac_io
    open_stac(client, bands="red", mask=None, crs="EPSG:32605", resolution=500)
    assert client._stac_io is before
    assert before.session.headers["X-Api-Key"] == "SECRET"


def test_a_link_s_headers(served):
    """They go to the catalogue's own origin, but for those of the connection."""
    headers = {
        "Host": "inner.example",
        "Authorization": "Basic theirs",
        "Cookie": "a=b",
        "X-Page": "2",
        "Transfer-Encoding": "chunked",
    }
    with served.at("127.0.0.3") as elsewhere:
        for address, host in ((served.outside, "127.0.0.2"), (elsewhere, "127.0.0.3")):
            link = {"rel": "next", "href": f"{address}/second", "headers": headers}
            served.answers |= {
                "/api": lambda _: document(landing(served.outside)),
                "/search": lambda _, link=link: document(page([item("https://x.org/a.tif")], link)),
                "/second": lambda _: document(page([{**item("https://x.org/a.tif"), "id": "j"}])),
            }
            served.asked.clear()
            open_stac(f"{served.outside}/api", bands="red", mask=None, crs="EPSG:32605", resolution=500)
            (head,) = (one for one in served.of(host) if "/second" in one)
            assert f"Host: {host}:" in head
            assert "inner.example" not in head
            assert "chunked" not in head
            assert all((text in head) == (address == served.outside) for text in ("Basic theirs", "a=b", "X-Page: 2"))


@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH", "CONNECT", 7])
def test_a_link_may_not_change_what_is_there(served, method):
    served.lead = f"{served.outside}/second"
    with pytest.raises(CatalogError, match=f"by the method '{method}', which is refused"):
        next_page(served, served.outside, method)
    assert not any("/second" in head for head in served.of("127.0.0.2"))


@pytest.mark.parametrize(
    "field",
    [{"headers": 5}, {"headers": {"a": 5}}, {"headers": {"A\r\nB": "c"}}, {"headers": ["a"]}, {"method": "POST", "body": 5}],
)
def test_links_of_other_types(served, field):
    link = {"rel": "next", "href": f"{served.outside}/second", **field}
    served.answers |= {
        "/api": lambda _: document(landing(served.outside)),
        "/search": lambda _: document(page([item("https://x.org/a.tif")], link)),
    }
    with pytest.raises(CatalogError, match="did not answer the search"):
        computed(f"{served.outside}/api")


# ---- proxies, buckets, workers


def test_what_goes_through_a_proxy_is_known_by_its_name(served, monkeypatch):
    """The proxy is the user's own, also inside. What it connects to is looked at as far as this machine knows the name."""
    served.answers |= {
        f"http://far.invalid{path}": answer for path, answer in {"/c.json": lambda _: document(page([item(served.lead)]))}.items()
    }
    monkeypatch.setenv("http_proxy", served.within)
    for lead in (
        "http://127.0.0.1:9/x",
        "http://localhost:9/x",
        "http://2130706433/x",
        "http://printer/x",
        "http://a.internal/x",
        "http://a.localhost/x",
    ):
        served.lead = lead
        served.asked.clear()
        with pytest.raises(AssetError, match="private network"):
            computed("http://far.invalid/c.json")
        assert [head.split()[1] for head in served.of("127.0.0.1")] == ["http://far.invalid/c.json"]
    served.lead = "http://farther.invalid/x"
    with pytest.raises(AssetError, match="answers 404"):
        computed("http://far.invalid/c.json")
    assert any("http://farther.invalid/x" in head for head in served.of("127.0.0.1"))


@pytest.mark.parametrize("account", ["a:80", "evil\\x", "x@y", "-a", "A", "evil%2f"])
def test_an_account_of_azure_is_no_host(account):
    with pytest.raises(AssetError, match="is refused"):
        gdal_path(f"abfs://container@{account}/a.tif")
    assert gdal_path("abfs://container@account1.dfs.core.windows.net/a.tif")[1] == {"AZURE_STORAGE_ACCOUNT": "account1"}


def test_the_rule_reaches_the_workers(forked, tmp_path):
    with (
        range_server(tmp_path) as address,
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        made = make_item(tmp_path, "i", prefix=f"{address}/")
        for options in ({}, {"engine": "odc"}, {"reduce": "median"}):
            with pytest.raises(AssetError, match=r"Item 'i', band '\w+'.*private network \(127\.0\.0\.1\).*allow_private=True"):
                open_stac([made], bands="red", chunks=64, **options).compute()
            cube = open_stac([made], bands="red", chunks=64, allow_private=True, **options).compute()
            assert np.isfinite(cube.red).mean() > 0.9


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_allow_private_is_true_or_false(value):
    with pytest.raises(CatalogError, match=f"allow_private={value!r} is neither True nor False"):
        open_stac([item("https://x.org/a.tif")], bands="red", allow_private=value)
