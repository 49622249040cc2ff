"""Find STAC items: in an API, in a static catalogue, or in hand."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from misoxr.assets.hrefs import is_remote, redact, resolve
from misoxr.assets.inside import names_inside
from misoxr.errors import AssetError, CatalogError, MisoxrError, did_you_mean
from misoxr.paths import expanded
from misoxr.sensors.item_fields import checked, in_json, name_of
from misoxr.stac.filters import Filters, time_of
from misoxr.stac.found import Found, Walk, content_of, features_of, is_http, json_of, links_of, self_link, short
from misoxr.stac.search import answered, asked, guarded, refuse_query, searched

__all__ = ["Modifier", "find", "modified"]

Modifier = Callable[[Any], Any]


def find(catalog: Any, filters: Filters, modifier: Modifier | None = None, allow_private: bool = False) -> list[Found]:
    """Return the items of a catalogue that pass the filters, each once, in order of time and id.

    Parameters
    ----------
    catalog : str, path, pystac or pystac-client object, or iterable of pystac.Item or dict
        See :func:`misoxr.open_stac`.
    filters : Filters
        Part of the search of an API, and applied here to every item.
    modifier : callable, optional
        Takes a ``pystac.Item``, changes it or returns a changed one.
    allow_private : bool, optional
        Whether links and assets may lie on this machine or in a private network though the catalogue does not.

    Raises
    ------
    CatalogError
        If the catalogue cannot be reached or read, cannot do what is asked, or nothing passes.
    """
    opens = isinstance(catalog, str | os.PathLike)
    found = _opened(expanded(catalog), filters, allow_private) if opens else _given(catalog, filters, allow_private)
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


def _opened(location: str, filters: Filters, allow_private: bool) -> Iterator[Found]:
    """Yield items of the API or the static catalogue at an address or path."""
    local = not is_remote(location)
    if local:
        location = os.path.realpath(expanded(location.removeprefix("file://")))
    walk = _walk(location, allow_private or local)
    with walk.session() as session:
        walk.document()
        document = json_of(location, session)
        if document.get("conformsTo") or any(link.get("rel") == "search" for link in links_of(document)):
            yield from searched(location, filters, session, walk)
            return
        refuse_query(filters, f"The static catalogue {redact(location)}")
        yield from _walked(location, document, os.path.dirname(location) if local else None, session, walk)


def _walk(location: str, inside: bool) -> Walk:
    """Return the bounds of reading a catalogue, which may lead inside where its own address does."""
    return Walk(location, inside or (None if is_http(location) else False))


def _walked(location: str, document: dict[str, Any], root: str | None, session: Any, walk: Walk) -> Iterator[Found]:
    """Yield items of a static catalogue, following child and item links below the directory of its first document."""
    top = root or location.rpartition("/")[0] + "/"
    waiting, seen = [location], {location}
    while waiting:
        place = waiting.pop()
        if place != location:
            walk.document()
        part = document if place == location else json_of(place, session)
        kind = part.get("type")
        if kind == "Feature":
            yield walk.found(part, place, root)
        elif kind == "FeatureCollection":
            for item in features_of(part):
                yield walk.found(item, self_link(item) or place, root)
        elif kind not in ("Catalog", "Collection"):
            raise CatalogError(
                f"{redact(place)} has the type {kind!r}; it is no STAC catalogue, collection, item or item collection."
            )
        for link in links_of(part) if kind in ("Catalog", "Collection") else ():
            if link.get("rel") in ("child", "item"):
                target = _inside(str(link.get("href")), place, root, top)
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)
        walk.waiting(len(waiting))


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


def _given(catalog: Any, filters: Filters, allow_private: bool) -> Iterator[Found]:
    """Yield the items of objects: a client or a collection of one is searched, a search carried out, a catalogue walked."""
    import pystac
    import pystac_client

    if isinstance(catalog, pystac_client.ItemSearch):
        refuse_query(filters, "A search")
        client = catalog.client
        href = str((client and client.get_self_href()) or catalog.url)
        walk = _walk(href, allow_private)
        with guarded(catalog, href, walk):
            yield from answered(catalog, href, walk)
        return
    client = catalog.get_root() if isinstance(catalog, pystac_client.CollectionClient) else catalog
    if isinstance(client, pystac_client.Client) and client.conforms_to(pystac_client.ConformanceClasses.ITEM_SEARCH):
        if client is not catalog:
            filters = replace(filters, collections=(catalog.id,))
        href = str(client.get_self_href())
        walk = _walk(href, allow_private)
        with guarded(client, href, walk):
            yield from asked(client, href, filters, walk)
        return
    refuse_query(filters, "Items in hand")
    if isinstance(catalog, pystac.Catalog):
        walk = _walk(str(catalog.get_self_href() or catalog.id), allow_private)
        items = _members(catalog, walk)
        yield from _in_hand(items, bool(walk.reach.inside))
        return
    yield from _in_hand([catalog] if isinstance(catalog, pystac.Item) else catalog, allow_private)


def _members(catalog: Any, walk: Walk) -> list[Any]:
    """Return the items of a pystac catalogue, and of those below it."""
    try:
        with warnings.catch_warnings(), _reading(catalog, walk):
            warnings.filterwarnings("ignore", "Falling back to pystac")  # what a client that cannot search does
            return list(_below(catalog, walk))
    except MisoxrError:
        raise
    except Exception as error:  # of pystac, and of what it reads with
        cause = error.__cause__ or error.__context__
        fault = short(cause if isinstance(cause, MisoxrError) else error)
    raise CatalogError(f"The catalogue {catalog.id!r} has links that cannot be followed: {fault}.")


def _below(catalog: Any, walk: Walk) -> Iterator[Any]:
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
            walk.counted()
            walk.document()
            yield item
        for child in part.get_children():
            waiting.append(child)
            walk.document()


@contextmanager
def _reading(catalog: Any, walk: Walk) -> Iterator[None]:
    """Have a pystac catalogue that reads its links in pystac's own way, which knows no bound, read them in ours."""
    from pystac.stac_io import DefaultStacIO

    root = catalog.get_root() or catalog
    given, top = getattr(root, "_stac_io", None), str(catalog.get_self_href() or "")
    if given is not None and type(given) is not DefaultStacIO:
        yield
        return

    class Bounded(DefaultStacIO):
        def read_text_from_href(self, href: str, *_: Any, **__: Any) -> str:
            if is_remote(top) and not is_http(href):
                raise CatalogError(f"The catalogue {redact(top)} links to {redact(href)!r}, which is refused: it is not http(s).")
            if is_http(href):
                walk.decide(href, session)
            return content_of(href, session).decode()

    with walk.session() as session:
        root._stac_io = Bounded()
        try:
            yield
        finally:
            root._stac_io = given


def _in_hand(items: Any, inside: bool) -> Iterator[Found]:
    """Yield items given as objects.

    They may come from anywhere, so their assets may lie inside only where the item itself does, by its own link. Local files need more: they
    are read beside an item that a file at its place holds, as a stranger may write any link.
    """
    if isinstance(items, Mapping):
        if items.get("type") in ("Catalog", "Collection"):
            raise CatalogError(f"The catalogue is a {items['type']} as a mapping; give its address or path, or a pystac object.")
        items = features_of(items) if "features" in items else [items]
    if not isinstance(items, Iterable) or isinstance(items, bytes):
        raise CatalogError(
            f"The catalogue is a {type(items).__name__}; give an address, a path, STAC items, or an object of pystac or pystac-client."
        )
    for item in items:
        if hasattr(item, "to_dict") and hasattr(item, "get_self_href"):
            plain = in_json(item.to_dict(include_self_link=False, transform_hrefs=False))
            base = item.get_self_href()
        elif isinstance(item, Mapping):
            plain = in_json(item)
            base = self_link(plain)
        else:
            raise CatalogError(f"The catalogue holds a {type(item).__name__}; give an address, a path, or STAC items.")
        local = base is not None and not is_remote(base) and _lies_at(checked(plain), base)
        root = os.path.dirname(os.path.realpath(base)) if local and base else None
        yield Found(plain, base, root, inside or local or names_inside(base))


def _lies_at(item: Mapping[str, Any], path: str) -> bool:
    """Whether the file at an item's local self link holds this item.

    An item from elsewhere may claim to lie anywhere, to have what is beside read; so the file has to name the same assets.
    """
    path = os.path.realpath(path.removeprefix("file://"))
    if not path.endswith((".json", ".geojson")) or not os.path.isfile(path):
        return False
    kept, folder = checked(json_of(path)), os.path.dirname(path)
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

    name = name_of(found.item)
    try:
        item = pystac.Item.from_dict(found.item, preserve_dict=True)
    except Exception as error:  # pystac's own are of several kinds
        raise CatalogError(f"Item {name!r} cannot be given to the modifier: pystac does not read it ({short(error)}).") from error
    try:
        changed = modifier(item)
        changed = item if changed is None else changed
        if not isinstance(changed, pystac.Item):
            raise CatalogError(f"it returned a {type(changed).__name__}, and has to return the item, or nothing")
        plain = changed.to_dict(include_self_link=False, transform_hrefs=False)
    except Exception as error:
        told = error if isinstance(error, CatalogError) else f"it raised {short(error)}"
        raise CatalogError(f"The modifier failed at item {name!r}: {told}.") from error
    return replace(found, item=plain)
