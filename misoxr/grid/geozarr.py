"""Attributes of the GeoZarr conventions proj, spatial and multiscales, version 0.1."""

from collections.abc import Mapping, Sequence
from typing import Any

from odc.geo.geobox import GeoBox

__all__ = ["georeferenced", "pyramid", "unreferenced"]

_VERSION = "v0.1"


def _convention(name: str, uuid: str, description: str) -> dict[str, str]:
    return {
        "uuid": uuid,
        "name": name,
        "schema_url": f"https://raw.githubusercontent.com/zarr-conventions/{name}/refs/tags/{_VERSION}/schema.json",
        "spec_url": f"https://github.com/zarr-conventions/{name}/blob/{_VERSION}/README.md",
        "description": description,
    }


_PROJ = _convention("proj", "f17cb550-5864-4468-aeb7-f3180cfb622f", "Coordinate reference system information for geospatial data")
_SPATIAL = _convention("spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information")
_MULTISCALES = _convention("multiscales", "d35379db-88df-4056-af3a-620245f8e347", "Multiscale layout of zarr datasets")
_OURS = {convention["uuid"] for convention in (_PROJ, _SPATIAL, _MULTISCALES)}
_REGISTERED = "zarr_conventions"


def unreferenced(attrs: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return attributes without those of the three conventions, which another grid makes stale; other conventions stay."""
    kept = {key: value for key, value in attrs.items() if not _is_convention(key)}
    registered = attrs.get(_REGISTERED, [])
    others = [one for one in registered if not (isinstance(one, Mapping) and one.get("uuid") in _OURS)]
    return kept | ({_REGISTERED: others} if others else {})


def _is_convention(key: Any) -> bool:
    return str(key).startswith(("proj:", "spatial:")) or key in (_REGISTERED, "multiscales")


def georeferenced(attrs: Mapping[Any, Any], geobox: GeoBox) -> dict[Any, Any]:
    """Return attributes with those of the conventions proj and spatial for a grid."""
    assert geobox.crs is not None
    bounds = geobox.boundingbox
    kept = unreferenced(attrs)
    found: dict[Any, Any] = {
        **kept,
        _REGISTERED: [*kept.get(_REGISTERED, []), _PROJ, _SPATIAL],
        "proj:wkt2": geobox.crs.to_wkt(),
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": [float(value) for value in tuple(geobox.affine)[:6]],
        "spatial:bbox": [bounds.left, bounds.bottom, bounds.right, bounds.top],
        "spatial:shape": [int(geobox.shape.y), int(geobox.shape.x)],
        "spatial:registration": "pixel",
    }
    if geobox.crs.epsg:
        found["proj:code"] = f"EPSG:{geobox.crs.epsg}"
    return found


def pyramid(levels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the attributes of a pyramid by those of its levels, from fine to coarse, each half as fine as the one before.

    What differs from level to level, transform and shape, stands with the level alone.
    """
    first = levels[0]
    layout: list[dict[str, Any]] = [
        {"asset": str(level), **{key: attrs[key] for key in ("spatial:shape", "spatial:transform")}}
        for level, attrs in enumerate(levels)
    ]
    for level, entry in enumerate(layout[1:]):
        entry |= {"derived_from": str(level), "transform": {"scale": [2.0, 2.0], "translation": [0.0, 0.0]}}
    return {
        **{key: value for key, value in first.items() if key not in ("spatial:shape", "spatial:transform")},
        _REGISTERED: [*first[_REGISTERED], _MULTISCALES],
        "multiscales": {"layout": layout, "resampling_method": "average"},
    }
