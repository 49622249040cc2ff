"""What is found in a catalogue: items, and the documents that hold them; and what reading one may take."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import shapely
import shapely.geometry

from misoxr.assets.hrefs import CLOUD, HTTP, is_remote, redact, without_secrets
from misoxr.assets.http import DOCUMENT, follow, http_session, megabytes, patience, seconds
from misoxr.assets.inside import Reach
from misoxr.errors import CatalogError
from misoxr.sensors.item_fields import checked, is_nan, mappings

__all__ = ["Found", "Walk", "content_of", "features_of", "is_http", "item_of_row", "json_of", "links_of", "self_link", "short"]

DOCUMENTS = 100_000
"""Documents of a static catalogue, or pages of a search, that are read."""
ITEMS = 1_000_000
"""Items of a catalogue that are looked at; more than these are read from a table only."""
LINKS = 1_000_000
"""Links of a static catalogue that wait to be followed."""
DEPTH = 64
"""Objects and lists within each other in an item; those of STAC's extensions are a dozen."""
FIELDS = ("type", "stac_version", "stac_extensions", "id", "geometry", "bbox", "links", "assets", "collection")
"""Columns that are an item's own fields; the others are its properties."""
MISREAD = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, NotImplementedError)
"""What reading JSON raises."""


@dataclass(frozen=True)
class Found:
    """An item as JSON with fields of their types.

    Attributes
    ----------
    item : dict
        The item.
    base : str, optional
        Address it was read from.
    root : str, optional
        The catalogue's directory, where that is local.
    inside : bool
        Whether its assets may lie on this machine or in a private network.
    """

    item: dict[str, Any]
    base: str | None
    root: str | None
    inside: bool = False

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


class Walk:
    """What reading a catalogue may take in all, time, documents, items and links; and where it may lead.

    Parameters
    ----------
    location : str
        Address, path or name of the catalogue.
    inside : bool, optional
        Whether it may lead inside; None lets its own address decide. See :class:`misoxr.assets.inside.Reach`.
    """

    def __init__(self, location: str, inside: bool | None) -> None:
        self.address, self.location, self.documents, self.items = location, redact(location), 0, 0
        self.reach = Reach(inside)
        self.patience = seconds("MISOXR_CATALOG_PATIENCE", patience())
        self.end = time.monotonic() + self.patience

    def session(self) -> Any:
        """Return a session for its documents."""
        return http_session(self.end, reach=self.reach)

    def is_own(self, href: str) -> bool:
        """Whether an address is of the catalogue's own origin: scheme, host and port."""
        return _origin(href) == _origin(self.address)

    def decide(self, href: str, session: Any) -> None:
        """Before a link leads to another origin, have the catalogue's own address decide whether links may lead inside."""
        if self.reach.inside is None and not self.is_own(href):
            with suppress(OSError):
                session.get(self.address)
            self.reach.inside = bool(self.reach.inside)

    def counted(self) -> None:
        """Count an item."""
        self.items += 1
        self._refuse(self.items > ITEMS, f"{ITEMS:,} items")

    def found(self, item: Any, base: str | None, root: str | None = None) -> Found:
        """Count an item, and return it."""
        self.counted()
        return Found(item, base, root, bool(self.reach.inside))

    def document(self) -> None:
        """Count a document or page; raise where there are too many, or the time is over."""
        self.documents += 1
        if time.monotonic() > self.end:
            raise CatalogError(
                f"The catalogue {self.location} is not read to its end after {self.patience:g} s, {self.documents - 1} documents and "
                f"{self.items} items. Narrow the search, raise MISOXR_CATALOG_PATIENCE (seconds), or use a table of items."
            )
        self._refuse(self.documents > DOCUMENTS, f"{DOCUMENTS:,} documents or pages")

    def waiting(self, links: int) -> None:
        """Look at how many links wait."""
        self._refuse(links > LINKS, f"{LINKS:,} links that wait to be followed")

    def _refuse(self, more: bool, than: str) -> None:
        if more:
            raise CatalogError(f"The catalogue {self.location} has more than {than}. Narrow the search, or use a table of items.")


def _origin(href: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(href)
    return parts.scheme.lower(), parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme.lower())


def is_http(location: str) -> bool:
    """Whether an address is one of http(s)."""
    return location.lower().startswith(tuple(f"{scheme}://" for scheme in HTTP))


def json_of(location: str, session: Any = None) -> dict[str, Any]:
    """Return the JSON at an address or path."""
    try:
        document = json.loads(content_of(location, session))
    except (*MISREAD, ImportError) as error:
        fault = short(error, location)
    else:
        if isinstance(document, dict):
            return document
        raise CatalogError(f"{redact(location)} holds a JSON {type(document).__name__}, not a STAC object.")
    # not from its error, whose text may hold a secret of the address
    raise CatalogError(
        f"The catalogue {redact(location)} cannot be reached or read ({fault}). "
        "Check the address and the network; it must be a STAC API, or STAC JSON."
    )


def content_of(location: str, session: Any) -> bytes:
    """Return the content of an address or path, up to the bound of a document."""
    if is_http(location):
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


def short(error: BaseException, *addresses: str) -> str:
    """Return an error's text without what may be a secret."""
    if isinstance(error, RecursionError):
        return "its JSON is nested too deep"
    return f"{type(error).__name__}: {without_secrets(error, *addresses)[:300]}"


def self_link(item: Mapping[str, Any]) -> str | None:
    """Return the remote address that an item gives itself."""
    for link in links_of(item):
        if link.get("rel") == "self" and is_remote(str(link.get("href"))):
            return str(link["href"])
    return None


def links_of(document: Any) -> list[Any]:
    """Return the links of an item or catalogue, none where they are not as STAC has them."""
    links = document.get("links") if isinstance(document, Mapping) else None
    return list(links) if mappings(links) and links else []


def features_of(collection: Mapping[str, Any]) -> list[Any]:
    """Return the items of an item collection."""
    features = collection.get("features") or []
    if not mappings(features):
        raise CatalogError("The item collection's 'features' are not a list of items.")
    return list(features)


def item_of_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table's row as the item it was made from."""
    item: dict[str, Any] = {key: _plain(row[key]) for key in FIELDS if row.get(key) is not None}
    if isinstance(item.get("geometry"), bytes):
        item["geometry"] = shapely.geometry.mapping(shapely.from_wkb(item["geometry"]))
    if isinstance(item.get("bbox"), Mapping):
        item["bbox"] = [item["bbox"][key] for key in ("xmin", "ymin", "xmax", "ymax")]
    item["properties"] = {key: _plain(value) for key, value in row.items() if not (key in FIELDS or value is None or is_nan(value))}
    return {"type": "Feature", **item}


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: without what other rows have and this one lacks, and times as text."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items() if not (entry is None or is_nan(entry))}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value.isoformat() if hasattr(value, "isoformat") else value
