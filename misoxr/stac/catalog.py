"""Find STAC items: in an API, in a static catalogue, or in hand."""

import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import unquote

import shapely
import shapely.geometry

from misoxr.assets.hrefs import CLOUD, HTTP, is_remote, leads_inside, redact, resolve, without_secrets
from misoxr.assets.http import DOCUMENT, follow, http_session, megabytes, patience, seconds
from misoxr.errors import AssetError, CatalogError, MisoxrError, did_you_mean
from misoxr.grid.footprints import split
from misoxr.paths import expanded
from misoxr.sensors.item_fields import checked, mappings, name_of
from misoxr.stac.filters import Filters, rfc3339, time_of

__all__ = ["Found", "Modifier", "find", "modified"]

PAGE = 100
"""Items that an API is asked for at a time."""
DOCUMENTS = 100_000
"""Documents of a static catalogue, or pages of a search, that are read."""
ITEMS = 1_000_000
"""Items of a catalogue that are looked at; more than these are read from a table only."""
LINKS = 1_000_000
"""Links of a static catalogue that wait to be followed."""
DEPTH = 64
"""Objects and lists within each other in an item; those of STAC's extensions are a dozen."""
MISREAD = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, NotImplementedError)
"""What libraries raise of JSON that is not as they expect it."""

Modifier = Callable[[Any], Any]


@dataclass(frozen=True)
class Found:
    """An item as JSON with fields of their types, the address it was read from, and the catalogue's directory where that is local."""

    item: dict[str, Any]
    base: str | None
    root: str | None

    def __post_init__(self) -> None:
        if _is_deep(self.item):
            raise CatalogError(f"An item holds more than {DEPTH} objects and lists within each other; it is no STAC item.")
        object.__setattr__(self, "item", checked(self.item))


def _is_deep(value: Any) -> bool:
    """Whether JSON is nested deeper than any item needs, and than what copies it can follow."""
    level = [value]
    for _ in range(DEPTH):
        level = [
            inner
            for part in level
            if isinstance(part, Mapping | list | tuple)
            for inner in (part.values() if isinstance(part, Mapping) else part)
        ]
    return bool(level)


class _Walk:
    """What reading a catalogue may take in all: time, documents, items and links."""

    def __init__(self, location: str) -> None:
        self.location, self.documents, self.items = redact(location), 0, 0
        self.patience = seconds("MISOXR_CATALOG_PATIENCE", patience())
        self.end = time.monotonic() + self.patience

    def document(self) -> None:
        """Count a document or page; raise where there are too many, or the time is over."""
        self.documents += 1
        if time.monotonic() > self.end:
            raise CatalogError(
                f"The catalogue {self.location} is not read to its end after {self.patience:g} s, {self.documents - 1} documents and "
                f"{self.items} items. Narrow the search, raise MISOXR_CATALOG_PATIENCE (seconds), or use a table of items."
            )
        self._refuse(self.documents > DOCUMENTS, f"{DOCUMENTS:,} documents or pages")

    def item(self) -> None:
        """Count an item."""
        self.items += 1
        self._refuse(self.items > ITEMS, f"{ITEMS:,} items")

    def waiting(self, links: int) -> None:
        """Look at how many links wait."""
        self._refuse(links > LINKS, f"{LINKS:,} links that wait to be followed")

    def _refuse(self, more: bool, than: str) -> None:
        if more:
            raise CatalogError(f"The catalogue {self.location} has more than {than}. Narrow the search, or use a table of items.")


def find(catalog: Any, filters: Filters, modifier: Modifier | None = None) -> list[Found]:
    """Return the items of a catalogue that pass the filters, each once, in order of time and id.

    Parameters
    ----------
    catalog : str, path, pystac or pystac-client object, or iterable of pystac.Item or dict
        See :func:`misoxr.open_stac`.
    filters : Filters
        Part of the search of an API, and applied here to every item.
    modifier : callable, optional
        Takes a ``pystac.Item``, changes it or returns a changed one.

    Raises
    ------
    CatalogError
        If the catalogue cannot be reached or read, cannot do what is asked, or nothing passes.
    """
    found = _opened(expanded(catalog), filters) if isinstance(catalog, str | os.PathLike) else _given(catalog, filters)
    kept: dict[tuple[Any, str], Found] = {}
    seen: set[str] = set()
    for candidate in found:
        seen.add(str(candidate.item.get("collection")))
        if filters.keeps(candidate.item):
            kept.setdefault((candidate.item.get("collection"), name_of(candidate.item)), candidate)
    if not kept:
        others = sorted(seen.difference(filters.collections or seen))
        hint = f" There are items of {others}.{did_you_mean((filters.collections or ('',))[0], others)}" if others else ""
        raise CatalogError(f"No item matches: {filters}. Widen the search, or check the names of the collections.{hint}")
    chosen = sorted(kept.values(), key=lambda one: (time_of(one.item), name_of(one.item)))
    return chosen if modifier is None else [modified(one, modifier) for one in chosen]


def _opened(location: str, filters: Filters) -> Iterator[Found]:
    """Yield items of the API or the static catalogue at an address or path."""
    local = not is_remote(location)
    if local:
        location = os.path.realpath(expanded(location.removeprefix("file://")))
    walk = _Walk(location)
    with http_session(walk.end) as session:
        walk.document()
        document = _json(location, session)
        if document.get("conformsTo") or any(link.get("rel") == "search" for link in _links(document)):
            yield from _searched(location, filters, session, walk)
            return
        _refuse_query(filters, f"The static catalogue {redact(location)}")
        yield from _walked(location, document, os.path.dirname(location) if local else None, session, walk)


def _json(location: str, session: Any = None) -> dict[str, Any]:
    """Return the JSON at an address or path."""
    try:
        document = json.loads(_bytes(location, session))
    except (*MISREAD, ImportError) as error:
        fault = _short(error, location)
    else:
        if isinstance(document, dict):
            return document
        raise CatalogError(f"{redact(location)} holds a JSON {type(document).__name__}, not a STAC object.")
    # not from its error, whose text may hold a secret of the address
    raise CatalogError(
        f"The catalogue {redact(location)} cannot be reached or read ({fault}). "
        "Check the address and the network; it must be a STAC API, or STAC JSON."
    )


def _bytes(location: str, session: Any) -> bytes:
    """Return the content of an address or path, up to the bound of a document."""
    if location.startswith(tuple(f"{scheme}://" for scheme in HTTP)):
        answer = follow(session, location)
        answer.raise_for_status()
        return bytes(answer.content)
    most = megabytes("MISOXR_DOCUMENT_MB", DOCUMENT)
    if location.startswith(tuple(f"{scheme}://" for scheme in CLOUD)):
        import fsspec

        with fsspec.open(location, "rb") as file:
            content = file.read(most + 1)
    else:
        with open(location, "rb") as file:
            content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most / 1e6:g} MB; where that is right, raise MISOXR_DOCUMENT_MB")
    return bytes(content)


def _short(error: BaseException, *addresses: str) -> str:
    """Return an error's text without what may be a secret."""
    if isinstance(error, RecursionError):
        return "its JSON is nested too deep"
    return f"{type(error).__name__}: {without_secrets(error, *addresses)[:300]}"


def _searched(location: str, filters: Filters, session: Any, walk: _Walk) -> Iterator[Found]:
    """Yield items of the STAC API at an address."""
    import pystac_client
    from pystac_client.stac_api_io import StacApiIO

    class Api(StacApiIO):
        """Asks only what may be asked: a link of the API could else lead to a file of this machine, or into its network."""

        def read_text(self, source: Any, *args: Any, **options: Any) -> Any:
            _refuse_inside(location, str(getattr(source, "href", source)))
            return super().read_text(source, *args, **options)

        def request(self, href: str, *args: Any, **options: Any) -> Any:
            _refuse_inside(location, href)
            return super().request(href, *args, **options)

    api = Api()
    api.session = session
    client = _answer(location, lambda: pystac_client.Client.open(location, stac_io=api))
    yield from _asked(client, location, filters, walk)


def _refuse_inside(location: str, href: str) -> None:
    """Raise where a catalogue's link leads to a file, or from outside into a private network."""
    if href == location:
        return
    try:
        refused = not href.lower().startswith(tuple(f"{scheme}://" for scheme in HTTP)) or (
            is_remote(location) and leads_inside(location, href)
        )
    except ValueError:
        refused = True
    if refused:
        raise CatalogError(
            f"The catalogue {redact(location)} links to {redact(href)!r}, which is refused: it is a file, or in a private network. "
            "If that address is right, open it by itself."
        )


def _asked(client: Any, location: str, filters: Filters, walk: _Walk) -> Iterator[Found]:
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
        yield from _answered(_answer(location, partial(client.search, **options)), location, walk)


def _answered(search: Any, location: str, walk: _Walk) -> Iterator[Found]:
    """Yield the items of a search."""
    pages = search.pages_as_dicts()
    while True:
        walk.document()
        page = _answer(location, lambda: next(pages, None))
        if page is None:
            return
        for item in _features(page):
            walk.item()
            yield Found(item, _self_link(item) or location, None)


def _answer(location: str, step: Callable[[], Any]) -> Any:
    """Take a step of a search, and say which API did not answer."""
    from pystac import STACError
    from pystac_client.exceptions import APIError

    try:
        return step()
    except MisoxrError:
        raise
    except (APIError, STACError, *MISREAD) as error:
        fault = _short(error, location)
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


def _refuse_query(filters: Filters, what: str) -> None:
    if filters.query is not None:
        raise CatalogError(f"{what} cannot be queried; filter the items yourself instead of query={filters.query!r}.")


def _self_link(item: Mapping[str, Any]) -> str | None:
    """Return the remote address that an item gives itself."""
    for link in _links(item):
        if link.get("rel") == "self" and is_remote(str(link.get("href"))):
            return str(link["href"])
    return None


def _links(document: Any) -> list[Any]:
    """Return the links of an item or catalogue, none where they are not as STAC has them."""
    links = document.get("links") if isinstance(document, Mapping) else None
    return list(links) if mappings(links) and links else []


def _walked(location: str, document: dict[str, Any], root: str | None, session: Any, walk: _Walk) -> Iterator[Found]:
    """Yield items of a static catalogue, following child and item links below the directory of its first document."""
    top = root or location.rpartition("/")[0] + "/"
    waiting, seen = [location], {location}
    while waiting:
        place = waiting.pop()
        if place != location:
            walk.document()
        part = document if place == location else _json(place, session)
        kind = part.get("type")
        if kind == "Feature":
            walk.item()
            yield Found(part, place, root)
        elif kind == "FeatureCollection":
            for item in _features(part):
                walk.item()
                yield Found(item, _self_link(item) or place, root)
        elif kind not in ("Catalog", "Collection"):
            raise CatalogError(
                f"{redact(place)} has the type {kind!r}; it is no STAC catalogue, collection, item or item collection."
            )
        for link in _links(part) if kind in ("Catalog", "Collection") else ():
            if link.get("rel") in ("child", "item"):
                target = _inside(str(link.get("href")), place, root, top)
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)
        walk.waiting(len(waiting))


def _features(collection: Mapping[str, Any]) -> list[Any]:
    features = collection.get("features") or []
    if not mappings(features):
        raise CatalogError("The item collection's 'features' are not a list of items.")
    return list(features)


def _inside(href: str, place: str, root: str | None, top: str) -> str:
    """Return a link's target, which has to lie below the catalogue's own directory."""
    try:
        target = resolve(href, place, root)
    except AssetError as error:  # which redacts
        raise CatalogError(f"{redact(place)} links to {redact(href)!r}, which is refused: {error}") from error
    if root is None and ("/.." in unquote(target) or not target.startswith(top)) or root is not None and is_remote(target):
        raise CatalogError(
            f"{redact(place)} links to {redact(target)}, outside of the catalogue; links are followed below {redact(top)} only. "
            "Open that catalogue by its own address."
        )
    return target


def _given(catalog: Any, filters: Filters) -> Iterator[Found]:
    """Yield the items of objects: a client or a collection of one is searched, a search carried out, a catalogue walked."""
    import pystac
    import pystac_client

    if isinstance(catalog, pystac_client.ItemSearch):
        _refuse_query(filters, "A search")
        return _answered(catalog, str(catalog.url), _Walk(str(catalog.url)))
    client = catalog.get_root() if isinstance(catalog, pystac_client.CollectionClient) else catalog
    if isinstance(client, pystac_client.Client) and client.conforms_to(pystac_client.ConformanceClasses.ITEM_SEARCH):
        if client is not catalog:
            filters = replace(filters, collections=(catalog.id,))
        href = str(client.get_self_href())
        return _asked(client, href, filters, _Walk(href))
    _refuse_query(filters, "Items in hand")
    if isinstance(catalog, pystac.Catalog):
        return _in_hand(_members(catalog))
    return _in_hand([catalog] if isinstance(catalog, pystac.Item) else catalog)


def _members(catalog: Any) -> list[Any]:
    """Return the items of a pystac catalogue, and of those below it."""
    import pystac

    walk = _Walk(str(catalog.get_self_href() or catalog.id))
    try:
        with warnings.catch_warnings(), _reading(catalog, walk):
            warnings.filterwarnings("ignore", "Falling back to pystac")  # what a client that cannot search does
            return list(_below(catalog, walk))
    except MisoxrError:
        raise
    except (pystac.STACError, *MISREAD) as error:
        fault = _short(error)
    raise CatalogError(f"The catalogue {catalog.id!r} has links that cannot be followed: {fault}.")


def _below(catalog: Any, walk: _Walk) -> Iterator[Any]:
    """Yield the items of a pystac catalogue, and of those below it, each catalogue once."""
    waiting, seen = [catalog], set()
    while waiting:
        part = waiting.pop()
        name = part.get_self_href() or id(part)
        if name in seen:
            continue
        seen.add(name)
        walk.document()
        for item in part.get_items():
            walk.item()
            walk.document()
            yield item
        for child in part.get_children():
            waiting.append(child)
            walk.document()


@contextmanager
def _reading(catalog: Any, walk: _Walk) -> Iterator[None]:
    """Have a pystac catalogue that reads its links in pystac's own way, which knows no bound, read them in ours."""
    from pystac.stac_io import DefaultStacIO

    root = catalog.get_root() or catalog
    given, top = getattr(root, "_stac_io", None), str(catalog.get_self_href() or "")
    if given is not None and type(given) is not DefaultStacIO:
        yield
        return

    class Bounded(DefaultStacIO):
        def read_text_from_href(self, href: str, *_: Any, **__: Any) -> str:
            if is_remote(top):
                _refuse_inside(top, href)
            return _bytes(href, session).decode()

    with http_session(walk.end) as session:
        root._stac_io = Bounded()
        try:
            yield
        finally:
            root._stac_io = given


def _in_hand(items: Any) -> Iterator[Found]:
    """Yield items given as objects; local files only beside an item that says that it is a local file itself."""
    if isinstance(items, Mapping):
        if items.get("type") in ("Catalog", "Collection"):
            raise CatalogError(f"The catalogue is a {items['type']} as a mapping; give its address or path, or a pystac object.")
        items = _features(items) if "features" in items else [items]
    if not isinstance(items, Iterable) or isinstance(items, bytes):
        raise CatalogError(
            f"The catalogue is a {type(items).__name__}; give an address, a path, STAC items, or an object of pystac or pystac-client."
        )
    for item in items:
        if hasattr(item, "to_dict") and hasattr(item, "get_self_href"):
            plain = item.to_dict(include_self_link=False, transform_hrefs=False)
            base = item.get_self_href()
        elif isinstance(item, Mapping):
            plain = dict(item)
            base = _self_link(plain)
        else:
            raise CatalogError(f"The catalogue holds a {type(item).__name__}; give an address, a path, or STAC items.")
        local = base is not None and not is_remote(base) and _lies_at(checked(plain), base)
        yield Found(plain, base, os.path.dirname(os.path.realpath(base)) if local and base is not None else None)


def _lies_at(item: Mapping[str, Any], path: str) -> bool:
    """Whether the file at an item's local self link holds this item.

    An item from elsewhere may claim to lie anywhere, to have what is beside read; so the file has to name the same assets.
    """
    path = os.path.realpath(path.removeprefix("file://"))
    if not path.endswith((".json", ".geojson")) or not os.path.isfile(path):
        return False
    kept, folder = checked(_json(path)), os.path.dirname(path)
    return name_of(kept) == name_of(item) and _local_assets(item, folder) <= _local_assets(kept, folder)


def _local_assets(item: Mapping[str, Any], folder: str) -> set[tuple[str, str]]:
    """Return key and path of an item's local assets."""
    hrefs = [(key, str(asset.get("href"))) for key, asset in (item.get("assets") or {}).items()]
    return {
        (key, os.path.normpath(os.path.join(folder, href.removeprefix("file://")))) for key, href in hrefs if not is_remote(href)
    }


def modified(found: Found, modifier: Modifier) -> Found:
    """Return an item as the caller's function leaves or returns it."""
    import pystac

    try:
        item = pystac.Item.from_dict(found.item, preserve_dict=True)
    except (pystac.STACError, *MISREAD) as error:
        raise CatalogError(
            f"Item {name_of(found.item)!r} cannot be given to the modifier: pystac does not read it ({error})."
        ) from error
    changed = modifier(item)
    changed = item if changed is None else changed
    if not isinstance(changed, pystac.Item):
        raise CatalogError(f"The modifier returned a {type(changed).__name__} for an item; it has to return the item, or nothing.")
    return Found(changed.to_dict(include_self_link=False, transform_hrefs=False), found.base, found.root)
