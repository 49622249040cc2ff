"""Find an item's asset for each band: by its common names, by its keys, then by its instrument's names."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from misoxr.errors import BandError, CatalogError, did_you_mean
from misoxr.sensors.item_fields import name_of
from misoxr.sensors.known import OPTICAL, sensor_of
from misoxr.sensors.sensor import Sensor, short_key

__all__ = ["Named", "check_bands", "named_assets"]

PICTURES = {"visual", "overview", "thumbnail", "metadata"}
"""Roles of assets that are no band, unless one asks for their key."""
BROADER: Mapping[str, tuple[str, ...]] = {"rededge": ("rededge071", "rededge075", "rededge078", "nir08"), "nir": ("nir08",)}
"""Common names that the EO extension has split since, or that catalogues use broadly, and what they stand for."""


@dataclass(frozen=True)
class Named:
    """An asset, and the names under which it can be asked for.

    Attributes
    ----------
    key, short : str
        The asset's key, and the same without what spellings differ in.
    own, label : str, optional
        Common name and name of its band, as the item gives them; None where it has none, or several bands.
    usual : str, optional
        Common name that the item's instrument has for this key.
    picture, jpeg : bool
        Whether it is a picture or metadata by its roles; whether it is JPEG 2000.
    pixel : float
        Pixel size, as far as it declares one.
    """

    key: str
    short: str
    own: str | None
    label: str | None
    usual: str | None
    picture: bool
    jpeg: bool
    pixel: float

    @property
    def common(self) -> str | None:
        """Common name: the item's own, unless the instrument knows a narrower one."""
        return self.usual if self.own is None or self.usual in BROADER.get(self.own, ()) else self.own

    def rank(self, band: str, short: str, usual: str | None = None) -> tuple[float, ...] | None:
        """Return how well the asset fits a band, its short key, and its instrument's common name for it, smaller is better; None where it does not.

        GeoTIFF goes before JPEG 2000; then the common name, key, band's name, another spelling of the key, and the instrument's; fine pixels first.
        """
        fits = (
            *(self.own == band, self.key == band, self.label == band, self.short == short),
            self.common is not None and self.common in (band, usual),
        )
        if True not in fits or (self.picture and self.short != short):
            return None
        return int(self.jpeg), fits.index(True), self.pixel


def named_assets(item: Mapping[str, Any], bands: Iterable[str], sensor: Sensor | None = None) -> dict[str, Named]:
    """Return the asset of each band that the item has.

    Parameters
    ----------
    item : mapping
        The item.
    bands : iterable of str
        Common names or keys.
    sensor : Sensor, optional
        The item's; it is found by default.

    Raises
    ------
    BandError
        If several assets have a name, and are not the same band in several forms.
    """
    sensor = sensor or sensor_of(item)
    candidates, chosen = _candidates(item, sensor), {}
    for band in bands:
        short = short_key(band)
        ranked = [(rank, one) for one in candidates if (rank := one.rank(band, short, sensor.bands.get(short))) is not None]
        least = min((rank for rank, _ in ranked), default=None)
        best = sorted((one for rank, one in ranked if rank == least), key=lambda one: one.key)
        if len({one.label or one.short for one in best}) > 1:
            keys = [one.key for one in best]
            raise BandError(
                f"Item {name_of(item)!r} has several bands {band!r}, in the assets {keys}; give the key of one of them."
            )
        if best:
            chosen[band] = best[0]
    return chosen


def check_bands(
    items: Sequence[Mapping[str, Any]],
    found: Sequence[Mapping[str, str | None]],
    bands: Sequence[str],
    asked: Sensor | None = None,
) -> None:
    """Check that each band is there, and one and the same in all items.

    Parameters
    ----------
    items : sequence of mapping
        The items.
    found : sequence of mapping
        For each item, the common names of the bands that it has, by the names that were asked for.
    bands : sequence of str
        What was asked for.
    asked : Sensor, optional
        What the user says that the items are of.

    Raises
    ------
    BandError
        If no item has a band, or a name means different bands.
    """
    for band in bands:
        if not any(band in names for names in found):
            have = sorted({name for item in items for name in _available(item, sensor_of(item, asked))})
            raise BandError(
                f"No item has the band {band!r}; the items have {have}.{did_you_mean(band, have)} Name those that you want: bands=[...].{_among(items, band)}"
            )
        first: dict[str, str] = {}
        for item, names in zip(items, found, strict=True):
            common = names.get(band)
            if common is not None:
                first.setdefault(common, name_of(item))
        if len(first) > 1:
            both = " and ".join(f"{common!r} in item {name!r}" for common, name in list(first.items())[:2])
            raise BandError(f"The band {band!r} is {both}; ask for these common names.")


def _among(items: Iterable[Mapping[str, Any]], band: str) -> str:
    """Return a hint where a band stands among others in one asset that is no picture, else nothing."""
    for item in items:
        for key, asset in item["assets"].items():
            for field in ("bands", "eo:bands"):
                names = [{_text([one], "common_name"), _text([one], "name")} for one in _bands_of(asset, field)]
                at = next((number for number, both in enumerate(names, 1) if band in both), None)
                if at is not None and len(names) > 1 and not PICTURES.intersection(asset.get("roles") or ()):
                    return (
                        f" It is the {at}. of {len(names)} bands of the asset {key!r} in item {name_of(item)!r}, and an asset is read as one band: give each "
                        f"an asset of its own, such as a file of gdal_translate -b {at}."
                    )
    return ""


def _available(item: Mapping[str, Any], sensor: Sensor) -> set[str]:
    """Return the keys and common names by which an item's bands can be asked for."""
    bands = [one for one in _candidates(item, sensor) if not one.picture]
    return {name for one in bands for name in (one.key, one.common) if name}


def _candidates(item: Mapping[str, Any], sensor: Sensor) -> list[Named]:
    """Return an item's assets, but for those that are no bands of its sensor."""
    assets = item.get("assets")
    if not isinstance(assets, Mapping):
        raise CatalogError(f"Item {name_of(item)!r} has no assets.")
    found = [_candidate(key, asset, sensor) for key, asset in assets.items()]
    if not sensor.asides:
        return found
    aside = re.compile(sensor.asides, re.IGNORECASE)
    return [one for one in found if not any(aside.search(name) for name in (one.short, one.label) if name)]


def _candidate(key: str, asset: Mapping[str, Any], sensor: Sensor) -> Named:
    listed = [bands for bands in map(partial(_bands_of, asset), ("bands", "eo:bands")) if bands]
    one = all(len(asset.get(field) or ()) <= 1 for field in ("bands", "eo:bands"))
    parts = [bands[0] for bands in listed] if one else []
    own, label = _text(parts + [asset] * one, "common_name"), _text(parts, "name")
    short = short_key(_in_file(asset, sensor) or key)
    roles = asset.get("roles")
    return Named(
        key=key,
        short=short,
        own=own,
        label=label,
        usual=_usual(sensor, short, short_key(label or "")) if one else None,
        picture=bool(roles and PICTURES.intersection(roles)),
        jpeg="jp2" in f"{key} {asset.get('type')} {asset.get('href')}".lower(),
        pixel=_pixel(asset),
    )


def _bands_of(asset: Mapping[str, Any], field: str) -> list[Mapping[str, Any]]:
    """Return what an asset says of its bands, but for mere names."""
    return [band for band in asset.get(field) or () if isinstance(band, Mapping)]


def _usual(sensor: Sensor, key: str, label: str) -> str | None:
    """Return the common name that a sensor has for a key or a band's name, which may be one itself."""
    known = key in sensor.bands.values() or ("reflectance" in sensor.counts and key in OPTICAL)
    return sensor.bands.get(key) or sensor.bands.get(label) or (key if known else None)


def _in_file(asset: Mapping[str, Any], sensor: Sensor) -> str | None:
    """Return the name of a band that stands in an asset's address, where its sensor's catalogues only number assets."""
    found = re.search(sensor.files, str(asset.get("href")), re.IGNORECASE) if sensor.files else None
    return found[1] if found else None


def _text(parts: Iterable[Mapping[str, Any]], field: str) -> str | None:
    """Return the first text of a field, as the EO extension or STAC 1.1 spell it."""
    for part in parts:
        value = part.get(f"eo:{field}") or part.get(field)
        if isinstance(value, str) and value:
            return value
    return None


def _pixel(asset: Mapping[str, Any]) -> float:
    """Return the pixel size that an asset declares, if any."""
    transform = asset.get("proj:transform") or ()
    for size in (transform[0] if transform else None, asset.get("gsd"), *(band.get("gsd") for band in _bands_of(asset, "bands"))):
        if isinstance(size, int | float) and 0 < size < 1e9:
            return float(size)
    return 0.0
