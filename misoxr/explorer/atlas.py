"""The atlas of a page: its layers, and answers to its requests."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor, isfinite
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyproj
import xarray as xr

from misoxr.display.given import bands_of
from misoxr.display.thinned import as_drawn, levels_of, names_in
from misoxr.errors import MisoxrError, SpecError, did_you_mean, require
from misoxr.explorer.blocks import Blocks, Raster
from misoxr.explorer.layers import Layer, Level, composite_of, lattice, layers_of, rasters_of
from misoxr.explorer.tiles import DEEPEST, Tile
from misoxr.grid.geobox import geobox_of
from misoxr.io.layout import fill_of
from misoxr.spec.numbers import is_whole

__all__ = ["Answer", "Atlas", "atlas_of"]

Answer = tuple[dict[str, Any], bytes]
"""What a request is answered: words and numbers as JSON takes them, and a PNG image or nothing."""
BESIDE = "beside: "
"""What the names of layers of maps beside others begin with."""
VIEW = (640, 1280)
"""Rows and columns of a usual view, pixels: what it would read tells whether it is thinned."""
FEW, SHARE, MANY = 16, 0.05, 64
"""Blocks that a view may compute: so many, or this share of all blocks, but never more than the last."""
QUICK = (400, 64_000_000)
"""Blocks and bytes that a view may read of what is stored, which takes a second or two."""
OSM = "https://tile.openstreetmap.org/{z}/{x}/{y}.png"
_CREDIT = "© OpenStreetMap contributors"


def always() -> bool:
    """Say that an answer is wanted."""
    return True


@dataclass(frozen=True)
class Atlas:
    """Maps as layers of a page.

    Attributes
    ----------
    layers : mapping of str to Layer
        By their names.
    blocks : Blocks
        Where they are read.
    about : dict
        What the page is told of them first.
    sets : mapping of str to Layer
        Prediction sets (class, y, x), which are not drawn, and told where one clicks.
    """

    layers: Mapping[str, Layer]
    blocks: Blocks
    about: dict[str, Any]
    sets: Mapping[str, Layer]

    def answer(self, request: Mapping[str, Any], wanted: Callable[[], bool] = always) -> Answer | None:
        """Answer a request of a page; errors are answers, too. None where it is no longer wanted.

        Parameters
        ----------
        request : mapping
            ``kind`` is "tile" (``layer, z, x, y``), "legend" (``layer``), "view" (``layer, z`` and ``west, south, east, north`` in degrees) or "click"
            (``lon, lat`` in degrees).
        wanted : callable, optional
            Tells between blocks whether somebody still waits for the answer.
        """
        kinds = {"tile": self._tile, "legend": self._legend, "view": self._view, "click": self._click}
        try:
            answer = kinds[str(request["kind"])](request, wanted)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, MisoxrError):
                return {"error": str(error)}, b""
            return {"error": f"The request {dict(request)} cannot be answered ({error!r})."}, b""
        except Exception as error:  # of whatever computes or reads a block: the page tells it
            return {"error": str(error) or repr(error)}, b""
        return answer if wanted() else None

    # ---- answers

    def _tile(self, request: Mapping[str, Any], wanted: Callable[[], bool]) -> Answer:
        tile = Tile(*(int(request[part]) for part in "zxy"))
        if not (0 <= tile.zoom <= DEEPEST and 0 <= tile.column < 2**tile.zoom and 0 <= tile.row < 2**tile.zoom):
            raise ValueError("there is no such tile")
        layer = self.layers[str(request["layer"])]
        level = layer.level(tile.zoom)
        rows, columns = level.ground.under(tile)
        inside = np.isfinite(rows)
        if not inside.any():
            return {}, b""
        few = set(lattice(level.rasters[0])) if is_thinned(level, tile.zoom) else None
        values, known = layer.values(
            level,
            rows[inside].astype("int64"),
            columns[inside].astype("int64"),
            wanted=lambda row, column: few is None or (row, column) in few,
            go_on=wanted,
        )
        return {}, layer.picture(values, known, inside) if wanted() else b""

    def _legend(self, request: Mapping[str, Any], wanted: Callable[[], bool]) -> Answer:
        layer = self.layers[str(request["layer"])]
        return {"title": layer.title, "unit": layer.unit, "key": layer.key()}, b""

    def _view(self, request: Mapping[str, Any], wanted: Callable[[], bool]) -> Answer:
        layer, zoom = self.layers[str(request["layer"])], int(request["z"])
        west, south, east, north = (float(request[part]) for part in ("west", "south", "east", "north"))
        level = layer.level(min(max(zoom, 0), DEEPEST))
        if not is_thinned(level, zoom):
            return {"note": ""}, b""
        meeting, raster = _meeting(level, (west, south, east, north)), level.rasters[0]
        size = meeting * sum(one.block_bytes for one in level.rasters)
        remedy = "Zoom in to see all" + ("." if len(layer.levels) > 1 else ", or give a pyramid (maps.miso.to_pyramid).")
        return {
            "note": f"This view would read {meeting:,} of {raster.count:,} blocks ({_bytes(size)}). {len(lattice(raster)):,} blocks of the map "
            f"are drawn, and the others are hatched. {remedy}",
            "blocks": meeting,
        }, b""

    def _click(self, request: Mapping[str, Any], wanted: Callable[[], bool]) -> Answer:
        lon, lat = float(request["lon"]), float(request["lat"])
        if not (isfinite(lon) and abs(lat) <= 90):
            raise ValueError("there is no such place")
        lon = lon - 360.0 * floor((lon + 180) / 360)
        found: dict[str, Any] = {"lon": lon, "lat": lat, "x": None, "y": None, "values": {}}
        for beside in (False, True):
            layers = {name: one for name, one in self.layers.items() if name.startswith(BESIDE) is beside}
            if not layers:
                continue
            own = rasters_of(layers)
            sets = {name: one for name, one in self.sets.items() if name.startswith(BESIDE) is beside}
            place, values = _told({**own, **{str(one.variable.name): one for one in sets.values()}}, lon, lat)
            found |= {"beside": values} if beside else {**place, "values": values}
        return found, b""


def is_thinned(level: Level, zoom: int) -> bool:
    """Whether a usual view would read so many blocks that only a few are drawn."""
    raster = level.rasters[0]
    if raster.count <= FEW:
        return False
    wide = 1
    for scale, length, edges in zip(level.ground.scale(zoom), VIEW, (raster.rows, raster.columns), strict=True):
        block = int(np.diff(edges).max())
        wide *= min(len(edges) - 1, int(scale * length / block) + 1)
    may = min(MANY, max(FEW, int(SHARE * raster.count)))
    if all(one.is_stored for one in level.rasters):
        may = max(may, min(QUICK[0], QUICK[1] // sum(one.block_bytes for one in level.rasters)))
    return wide > may


def _meeting(level: Level, view: tuple[float, float, float, float]) -> int:
    """Return how many blocks a view meets."""
    ours = level.ground.bounds
    shift = 360.0 * round(((ours[0] + ours[2]) - (view[0] + view[2])) / 720)
    west, east = max(ours[0], view[0] + shift), min(ours[2], view[2] + shift)
    south, north = max(ours[1], view[1]), min(ours[3], view[3])
    if west >= east or south >= north:
        return 0
    places = [level.ground.at(lon, lat) for lon in np.linspace(west, east, 17) for lat in np.linspace(south, north, 17)]
    known = np.array([place for place in places if np.isfinite(place).all()])
    if not len(known):
        return 0
    (top, left), (bottom, right) = known.min(axis=0), known.max(axis=0)
    return level.rasters[0].meeting((top, bottom), (left, right))


def _bytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{max(size / 1e6, 0.1):,.1f} MB"


def _told(layers: Mapping[str, Layer], lon: float, lat: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return x and y of a place, and what variables say there; nothing outside of the map."""
    ground = next(iter(layers.values())).levels[0].ground
    row, column = ground.at(lon, lat)
    height, width = ground.box.shape.yx
    if not (0 <= row < height and 0 <= column < width):
        return {}, {}
    x, y = ground.place(lon, lat)
    values = {name: _said(layer, floor(row), floor(column)) for name, layer in layers.items()}
    return {"x": x, "y": y}, values


def _said(layer: Layer, row: int, column: int) -> Any:
    """Return what a variable says of a pixel: a class's name, a number, True or False, numbers by class, or the classes of a set; None without a value."""
    array, raster = layer.variable, layer.levels[0].rasters[0]
    found, _ = layer.blocks.at(raster, np.array([row]), np.array([column]))
    values, fill = found[..., 0], fill_of(array)
    if array.ndim == 3:
        if array.dtype.kind == "b":
            return [name for name, held in zip(layer.classes, values.tolist(), strict=True) if held]
        return {name: _number(value) for name, value in zip(layer.classes, values.tolist(), strict=True)}
    value = None if fill is not None and values == fill else _number(values.item())
    if value is None or "flag_meanings" not in array.attrs:
        return value
    legend = layer.legend
    codes = list(legend.codes or ())
    return legend.names[codes.index(int(value))] if value in codes else value


def _number(value: Any) -> Any:
    return value if isinstance(value, bool | int) else float(f"{value:.7g}") if isfinite(value) else None


# ---- what an atlas is made of


def atlas_of(
    maps: xr.Dataset,
    *,
    image: xr.Dataset | None = None,
    variables: Sequence[str] | None = None,
    beside: xr.Dataset | str | None = None,
    pyramid: str | os.PathLike[str] | None = None,
    basemap: bool | str | None = None,
    height: int = 500,
) -> Atlas:
    """Lay out maps as layers of a page, without reading them; the parameters are those of :func:`misoxr.explorer.notebook.explore`."""
    require("matplotlib", "plot")
    if not is_whole(height) or not 100 <= height <= 5000:
        raise SpecError(f"height is {height!r}; give whole pixels from 100 to 5000.")
    variables = names_in(variables)
    maps, beside = as_drawn(maps), as_drawn(beside) if isinstance(beside, xr.Dataset) else beside
    box, blocks = geobox_of(maps), Blocks()
    overviews = [] if pyramid is None else levels_of(maps, pyramid)[1:]
    layers = layers_of(maps, overviews, blocks, variables)
    own = maps if {"red", "green", "blue"} <= set(maps.data_vars) and maps["red"].ndim == 2 else None
    layers |= composite_of(bands_of(image if image is not None else own, box), blocks)
    first, other = _first(layers), ""
    sources = [maps, *([image] if image is not None else [])]
    if isinstance(beside, xr.Dataset):
        second = layers_of(beside, [], blocks, None, BESIDE)
        layers |= second
        other = f"{BESIDE}{first}" if f"{BESIDE}{first}" in second else _first(second)
        sources.append(beside)
    elif isinstance(beside, str):
        if beside not in layers:
            raise SpecError(f"beside is {beside!r}, and the layers are {list(layers)}.{did_you_mean(beside, list(layers))}")
        other = beside
    elif beside is not None:
        raise SpecError(f"beside is a {type(beside).__name__}; give other maps as a Dataset, or the name of a layer.")
    for layer in layers.values():
        if "flag_meanings" in layer.variable.attrs and not layer.is_composite:
            layer.legend  # noqa: B018  tells what is wrong with it
    about = _about(layers, first, other, basemap, int(height), simulated=any(bool(one.attrs.get("simulated")) for one in sources))
    sets = _sets(maps, layers, blocks) | (_sets(beside, layers, blocks, BESIDE) if isinstance(beside, xr.Dataset) else {})
    return Atlas(layers, blocks, {**about, "title": _title(maps)}, sets)


def _first(layers: Mapping[str, Layer]) -> str:
    """Return the name of the layer that is shown first: a task's classes, where there are some."""
    tasks = [
        name for name, layer in layers.items() if "flag_meanings" in layer.variable.attrs and layer.group == layer.variable.name
    ]
    return next(iter(tasks or layers))


def _sets(maps: xr.Dataset, layers: Mapping[str, Layer], blocks: Blocks, side: str = "") -> dict[str, Layer]:
    """Return prediction sets, of the tasks that are shown, as layers that are not drawn."""
    found = {}
    for name, array in maps.data_vars.items():
        task = f"{side}{str(name).removesuffix('_set')}"
        if str(name).endswith("_set") and array.dtype.kind == "b" and array.ndim == 3 and task in layers:
            held, like = array.transpose(..., "y", "x"), layers[task]
            level = replace(like.levels[0], rasters=(Raster.of(held),))
            found[f"{side}{name}"] = replace(like, name=f"{side}{name}", variable=held, levels=[level])
    return found


def _title(maps: xr.Dataset) -> str:
    told = str(maps.attrs.get("title") or "")
    return told if 0 < len(told) < 120 and "\n" not in told else "Maps"


def _about(
    layers: Mapping[str, Layer], first: str, other: str, basemap: bool | str | None, height: int, *, simulated: bool
) -> dict[str, Any]:
    """Return what a page is told first."""
    grounds = list({id(layer.levels[0].ground): layer.levels[0].ground for layer in layers.values()}.values())
    ground = grounds[0]
    crs = pyproj.CRS(str(ground.box.crs))
    unit = {"metre": " m", "degree": "°"}.get(crs.axis_info[0].unit_name, f" {crs.axis_info[0].unit_name}") if crs.axis_info else ""
    return {
        "layers": [{"name": name, "group": _group(name, layer)} for name, layer in layers.items()],
        "layer": first,
        "other": other or next((name for name in layers if name != first), first),
        "compare": "swipe" if other else "off",
        "bounds": ground.bounds,
        "outlines": [one.outline.round(7).tolist() for one in grounds if one.bounds[2] - one.bounds[0] < 360],
        "deepest": min(DEEPEST, ground.fitting() + 5),
        "basemap": _basemap(basemap),
        "height": height,
        "simulated": simulated,
        "crs": crs.name,
        "unit": unit,
    }


def _group(name: str, layer: Layer) -> str:
    side = "beside: " if name.startswith(BESIDE) else ""
    return f"{side}{layer.group or 'where to believe them'}"


def _basemap(given: bool | str | None) -> dict[str, str] | None:
    """Return the address of a basemap's tiles, and whom to credit."""
    if given is None or given is False:
        return None
    if given is True:
        return {"url": OSM, "credit": _CREDIT}
    parts = urlsplit(given) if isinstance(given, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not all(f"{{{axis}}}" in str(given) for axis in "zxy"):
        raise SpecError(
            f"basemap is {given!r}; give True for OpenStreetMap, or the address of web Mercator tiles, such as "
            "'https://tiles.example.org/{z}/{x}/{y}.png'."
        )
    return {"url": given, "credit": parts.hostname or ""}
