"""Search a STAC API: it is asked page after page, and leads only where its own address may lead."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import shapely
import shapely.geometry

from misoxr.assets.hrefs import redact
from misoxr.errors import AssetError, CatalogError, MisoxrError
from misoxr.grid.footprints import split
from misoxr.stac.filters import Filters, rfc3339
from misoxr.stac.found import Found, Walk, features_of, is_http, self_link, short

__all__ = ["answered", "asked", "guarded", "refuse_query", "searched"]

PAGE = 100
"""Items that an API is asked for at a time."""
METHODS = ("GET", "POST")
"""Methods of a search."""
KEPT = ("host", "connection", "content-length", "transfer-encoding", "accept-encoding", "range", "expect", "upgrade")
"""Headers that no link may set: what they say is the connection's own."""


def searched(location: str, filters: Filters, session: Any, walk: Walk) -> Iterator[Found]:
    """Yield items of the STAC API at an address."""
    import pystac_client

    api = _api(location, walk, session, session)
    client = _answer(location, lambda: pystac_client.Client.open(location, stac_io=api))
    yield from asked(client, location, filters, walk)


def _api(location: str, walk: Walk, session: Any, plain: Any, modifier: Any = None) -> Any:
    """Return what pystac-client asks with.

    An API's links name methods and headers, and lead anywhere. ``session`` and ``modifier`` may add the user's own headers and keys:
    they serve the origin of ``location`` alone, and ``plain`` the others.
    """
    from pystac_client.exceptions import APIError
    from pystac_client.stac_api_io import StacApiIO

    class Api(StacApiIO):
        def read_text(self, source: Any, *args: Any, **options: Any) -> Any:
            if source != location:
                _refuse_odd(location, str(getattr(source, "href", source)))  # it would open a file
            return super().read_text(source, *args, **options)

        def request(self, href: str, method: Any = None, headers: Any = None, parameters: Any = None) -> Any:
            _refuse_odd(location, href, method)
            own = walk.is_own(href)
            walk.decide(href, session)
            self.session, self._req_modifier = (session, modifier) if own else (plain, None)
            given = {name: text for name, text in (headers or {}).items() if own and str(name).strip().lower() not in KEPT}
            try:
                return super().request(href, method, given, parameters)
            except APIError as error:
                cause = error.__context__
                if not isinstance(cause, AssetError):  # which redacts
                    raise
            raise CatalogError(f"The catalogue {redact(location)} links to {redact(href)!r}, which is refused: {cause}.")

    return Api()


def _refuse_odd(location: str, href: str, method: Any = None) -> None:
    """Raise where a link is no request of a search."""
    if not is_http(href):
        raise CatalogError(f"The catalogue {redact(location)} links to {redact(href)!r}, which is refused: it is not http(s).")
    if method is not None and str(method).upper() not in METHODS:
        raise CatalogError(
            f"The catalogue {redact(location)} links to {redact(href)!r} by the method {str(method)[:20]!r}, which is refused; "
            f"a search takes {' or '.join(METHODS)}."
        )


@contextmanager
def guarded(client: Any, location: str, walk: Walk) -> Iterator[None]:
    """Have a client of pystac-client, or a search of one, ask within bounds; what the user set in its session stays.

    A client that asks in a way of the user's own is left alone.
    """
    from pystac_client.stac_api_io import StacApiIO

    given = client._stac_io
    if type(given) is not StacApiIO:
        yield
        return
    with walk.session() as session, walk.session() as plain:
        for name in ("headers", "auth", "params", "cookies", "verify", "cert", "proxies", "trust_env"):
            setattr(session, name, getattr(given.session, name))
        plain.verify, plain.proxies, plain.trust_env = given.session.verify, given.session.proxies, given.session.trust_env
        client._stac_io = _api(location, walk, session, plain, given._req_modifier)
        try:
            yield
        finally:
            client._stac_io = given


def asked(client: Any, location: str, filters: Filters, walk: Walk) -> Iterator[Found]:
    """Yield what a client finds, page after page, one search per interval of time."""
    _answer(location, lambda: _refuse_what_it_cannot(client, location, filters))
    for interval in filters.intervals():
        options = {
            "collections": None if filters.collections is None else list(filters.collections),
            **_where(filters),
            "datetime": None if interval == (None, None) else rfc3339(interval),
            "query": filters.query,
            "limit": PAGE,
        }
        yield from answered(_answer(location, partial(client.search, **options)), location, walk)


def answered(search: Any, location: str, walk: Walk) -> Iterator[Found]:
    """Yield the items of a search."""
    pages = search.pages_as_dicts()
    while True:
        walk.document()
        page = _answer(location, lambda: next(pages, None))
        if page is None:
            return
        for item in features_of(page):
            yield walk.found(item, self_link(item) or location)


def _answer(location: str, step: Callable[[], Any]) -> Any:
    """Take a step of a search, and say which API did not answer."""
    try:
        return step()
    except MisoxrError:
        raise
    except Exception as error:  # of pystac-client, of pystac, and of what they read with
        fault = short(error, location)
    # not from its error, whose text may hold a secret of the address
    raise CatalogError(f"The STAC API {redact(location)} did not answer the search: {fault}.")


def _where(filters: Filters) -> dict[str, Any]:
    """Return the area as every API takes it: a box within -180..180, else GeoJSON that is split at the antimeridian."""
    if filters.area is None:
        return {}
    area = split(filters.area)
    is_box = area.geom_type == "Polygon" and bool(shapely.equals(area, shapely.envelope(area)))
    return {"bbox": list(area.bounds)} if is_box else {"intersects": shapely.geometry.mapping(area)}


def _refuse_what_it_cannot(client: Any, location: str, filters: Filters) -> None:
    """Raise where the API does not say that it can do what is asked: some answer such a search with nothing."""
    from pystac_client import ConformanceClasses

    if not client.conforms_to(ConformanceClasses.ITEM_SEARCH):
        raise CatalogError(f"{redact(location)} does not conform to STAC item search; give a static catalogue, or the items.")
    if filters.query is not None and not client.conforms_to(ConformanceClasses.QUERY):
        raise CatalogError(
            f"{redact(location)} does not conform to the query extension, so query={filters.query!r} would be ignored or answered "
            "with nothing. Leave query away and filter the items yourself, then pass them to open_stac."
        )


def refuse_query(filters: Filters, what: str) -> None:
    """Raise where a query is asked of what cannot be queried."""
    if filters.query is not None:
        raise CatalogError(f"{what} cannot be queried; filter the items yourself instead of query={filters.query!r}.")
