"""Layers of a map: what is drawn of each variable, from which overview, in which colours."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from misoxr.display.pictures import NODATA, Legend, floats, indices, key, legend_of, png, stretch
from misoxr.display.thinned import groups_of, same_scale
from misoxr.errors import SpecError, did_you_mean
from misoxr.explorer.blocks import Blocks, Raster
from misoxr.explorer.tiles import Ground
from misoxr.grid.geobox import geobox_of
from misoxr.io.layout import fill_of

__all__ = ["COMPOSITE", "Layer", "Level", "classes_of", "composite_of", "lattice", "layers_of", "rasters_of"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
COMPOSITE = "true colour"
"""The layer of red, green and blue."""
CERTAIN = ("_probability", "_credibility", "_confidence")
"""Shares of one, whose colours follow from no values."""
SAMPLE = 128
"""Rows and columns of a block, or of what is in memory, that colours follow from."""
SAMPLED = 4
"""Blocks with valid pixels that colours follow from."""
DRAWN = 16
"""Blocks that are drawn of a view of more than can be read, at most."""
SHARE = 0.04
"""Share of all blocks that are drawn of such a view, at most."""
_UNREAD = np.array([128, 128, 128, 110], "uint8")
"""Red, green, blue and opacity of the hatching where nothing was read."""


@dataclass(frozen=True)
class Level:
    """A variable, or three bands, at one pixel size: the map's own, or an overview's."""

    ground: Ground
    rasters: tuple[Raster, ...]


def lattice(raster: Raster) -> list[tuple[int, int]]:
    """Return rows and columns of a few blocks that lie evenly over a map."""
    (rows, columns), step = raster.shape, 1
    most = max(4, min(DRAWN, int(SHARE * raster.count)))
    while -(-rows // step) * -(-columns // step) > most:
        step += 1
    down, right = (range(min(step // 2, count - 1), count, step) for count in (rows, columns))
    return [(row, column) for row in down for column in right]


@dataclass(frozen=True, eq=False)
class Layer:
    """What is drawn under one name.

    Attributes
    ----------
    name : str
        What the page, and ``layer`` of the widget, call it.
    variable : DataArray
        The map at its own pixel size; of true colour, red.
    group : str
        The task that it belongs to.
    levels : sequence of Level
        The finest first.
    number : int or None
        Which class's probability is drawn; of several classes without a number the greatest.
    same : sequence of Raster
        The coarsest rasters of the maps that share its colour bar.
    blocks : Blocks
        Where blocks are read.
    """

    name: str
    variable: xr.DataArray
    group: str
    levels: Sequence[Level]
    number: int | None
    same: Sequence[Raster]
    blocks: Blocks

    @property
    def title(self) -> str:
        """What it is, in words."""
        words = str(self.variable.attrs.get("long_name") or self.variable.name)
        if self.name == COMPOSITE or self.name.endswith(f": {COMPOSITE}"):
            return "imagery in true colour"
        if self.variable.ndim == 3:
            return f"greatest {words}" if self.number is None else f"{words}: {self.classes[self.number]}"
        return words

    @property
    def unit(self) -> str:
        """Units, where there are any."""
        units = str(self.variable.attrs.get("units", ""))
        return "" if units in ("", "1") or self.is_composite else units

    @property
    def is_composite(self) -> bool:
        """Whether it is red, green and blue."""
        return len(self.levels[0].rasters) == 3

    @property
    def classes(self) -> list[str]:
        """Names of the classes of probabilities (class, y, x)."""
        return classes_of(self.variable)

    def level(self, zoom: int) -> Level:
        """Return the coarsest level whose pixels are no larger than a tile's."""
        found = self.levels[0]
        for one in self.levels[1:]:
            if min(one.ground.scale(zoom)) < 0.99:
                break
            found = one
        return found

    def values(
        self, level: Level, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], **which: Callable[..., bool]
    ) -> tuple[Floats, Bools]:
        """Return what is drawn at pixels, (n,) or (n, 3), NaN where there is no value, and where it is known."""
        fill, parts, known = fill_of(self.variable), [], np.ones(len(rows), bool)
        for raster in level.rasters:
            values, there = self.blocks.at(raster, rows, columns, **which)
            parts.append(self._drawn(values, fill))
            known &= there
        return (np.stack(parts, axis=-1) if self.is_composite else parts[0]), known

    def _drawn(self, values: npt.NDArray[Any], fill: Any) -> Floats:
        out = floats(values, fill)
        if out.ndim == 1:
            return out
        drawn: Floats = np.fmax.reduce(out, axis=0) if self.number is None else out[self.number]
        return drawn

    # ---- colours

    @cached_property
    def legend(self) -> Legend:
        """What colours stand for; of quantities it follows from a few blocks."""
        array = self.variable
        if "flag_meanings" in array.attrs:
            return legend_of(array)
        own = array.isel({dim: slice(0, 0) for dim in array.dims})
        if array.dtype.kind == "b":
            return legend_of(_like(own, np.array([False, True])))
        if str(array.name).endswith(CERTAIN):
            return legend_of(_like(own, np.empty(0, "float32")))
        samples = [_like(own, self._sampled((raster,))) for raster in self.same]
        return legend_of(samples[0], samples)

    @cached_property
    def limits(self) -> tuple[Floats, Floats]:
        """Least and greatest value of red, green and blue that have a shade of their own."""
        return stretch(self._sampled(self.levels[-1].rasters))

    def _sampled(self, rasters: Sequence[Raster]) -> Floats:
        """Return values of a few blocks that have some, (n,) or (n, 3)."""
        fill, found = fill_of(self.variable), []
        for row, column in _spread(lattice(rasters[0])):
            parts = []
            for raster in rasters:
                block = raster.data if raster.in_memory else self.blocks.block(raster, row, column)
                steps = [max(1, size // SAMPLE) for size in block.shape[-2:]]
                thin = block[..., :: steps[0], :: steps[1]]
                parts.append(self._drawn(thin.reshape(*thin.shape[:-2], -1), fill))
            values = np.stack(parts, axis=-1) if self.is_composite else parts[0]
            if np.isfinite(values).any():
                found.append(values)
            if len(found) == SAMPLED:
                break
        empty: Floats = np.empty((0, 3) if self.is_composite else 0)
        return np.concatenate(found) if found else empty

    def key(self) -> str:
        """Return the legend as HTML."""
        if self.is_composite:
            return ""
        return key(self.legend, self.unit, missing=False)

    def picture(self, values: Floats, known: Bools, inside: Bools) -> bytes:
        """Return a tile as PNG.

        Parameters
        ----------
        values : array, shape (n,) or (n, 3)
            Of the pixels inside.
        known : array of bool, shape (n,)
            Which of them were read; the others are hatched.
        inside : array of bool, shape (y, x)
            Pixels that lie on the map.
        """
        if not self.is_composite and known.all():
            numbers = np.full(inside.shape, NODATA, "uint8")
            numbers[inside] = indices(values, self.legend)
            return png(numbers, self.legend.colors)
        rgba = np.zeros((*inside.shape, 4), "uint8")
        rgba[inside] = np.where(known[:, None], self._colours(values), _hatched(inside)[inside])
        return _encoded(rgba)

    def _colours(self, values: Floats) -> npt.NDArray[np.uint8]:
        """Return red, green, blue and opacity of values, (n, 4)."""
        out = np.zeros((len(values), 4), "uint8")
        if self.is_composite:
            low, high = self.limits
            valid = np.isfinite(values).all(axis=-1)
            out[:, :3] = np.rint(np.clip((np.nan_to_num(values) - low) / (high - low), 0, 1) * 255)
        else:
            numbers = indices(values, self.legend)
            palette = np.zeros((256, 3), "uint8")
            palette[: len(self.legend.colors)] = self.legend.colors
            valid = numbers != NODATA
            out[:, :3] = palette[numbers]
        out[:, 3] = np.where(valid, 255, 0)
        return out


def _like(own: xr.DataArray, values: npt.NDArray[Any]) -> xr.DataArray:
    return xr.DataArray(values, dims="pixel", name=own.name, attrs={k: v for k, v in own.attrs.items() if k != "_FillValue"})


def _spread(places: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield places so that the first ones lie far apart: from the middle outwards in large steps."""
    for at in range(len(places)):
        # Steps of 7 reach every place, unless 7 divides their number.
        yield places[(len(places) // 2 + 7 * at) % len(places)] if len(places) % 7 else places[at]


def _hatched(inside: Bools) -> npt.NDArray[np.uint8]:
    rows, columns = np.indices(inside.shape)
    line = np.less((rows + columns) % 8, 1)
    return np.where(line[..., None], _UNREAD, np.zeros(4, "uint8"))


def _encoded(rgba: npt.NDArray[np.uint8]) -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(rgba).save(file, "PNG", compress_level=1)
    return file.getvalue()


def classes_of(array: xr.DataArray) -> list[str]:
    """Return the names of the classes along the first dimension of maps (class, y, x)."""
    (dim,) = (dim for dim in array.dims if dim not in ("y", "x"))
    labels = array.coords[dim].values if dim in array.coords else range(array.sizes[dim])
    return [str(label) for label in labels]


# ---- what layers there are


def layers_of(
    maps: xr.Dataset, overviews: Sequence[xr.Dataset], blocks: Blocks, variables: Sequence[str] | None, side: str = ""
) -> dict[str, Layer]:
    """Return the layers of maps by their names, the classes of a task first.

    Parameters
    ----------
    maps : Dataset
        On a grid with CRS.
    overviews : sequence of Dataset
        The same at larger pixels, finest first; they may lack variables.
    blocks : Blocks
        Where they are read.
    variables : sequence of str or None
        Which maps are layers; by default all.
    side : str
        What names begin with, of maps beside others.

    Raises
    ------
    BandError
        If there is no map.
    SpecError
        If there is no such variable.
    """
    # Stores have no order of their own, and classes are looked at first.
    groups = dict(sorted(groups_of(maps).items(), key=lambda pair: not (pair[0] and "flag_meanings" in maps[pair[0]].attrs)))
    drawn = [name for names in groups.values() for name in names]
    for name in variables or ():
        if name not in drawn:
            raise SpecError(f"variables has {name!r}, and the maps are {drawn}.{did_you_mean(str(name), drawn)}")
    whole = [maps, *overviews]
    grounds = [Ground(geobox_of(one)) for one in whole]
    wanted = drawn if variables is None else [name for name in drawn if name in variables]
    rasters = {name: [Raster.of(one[name]) if name in one else None for one in whole] for name in drawn}
    blocks.share([found for levels in rasters.values() for found in levels[:1] if found is not None])
    layers: dict[str, Layer] = {}
    for group, names in groups.items():
        for name in names:
            if name not in wanted:
                continue
            levels = [Level(ground, (one,)) for ground, one in zip(grounds, rasters[name], strict=True) if one is not None]
            same = [[one for one in rasters[other] if one is not None][-1] for other in same_scale(name, names) or [name]]
            array = maps[name].transpose(..., "y", "x")
            numbers: list[int | None] = [None, *(range(len(classes_of(array))) if array.ndim == 3 else ())]
            for number in numbers:
                own = f"{side}{name}" if number is None else f"{side}{name}: {classes_of(array)[number]}"
                layers[own] = Layer(own, array, group, levels, number, same, blocks)
    return layers


def composite_of(bands: Mapping[str, xr.DataArray], blocks: Blocks, side: str = "") -> dict[str, Layer]:
    """Return red, green and blue as a layer; none without bands."""
    if not bands:
        return {}
    arrays = [bands[name].transpose("y", "x") for name in ("red", "green", "blue")]
    rasters = tuple(Raster.of(array) for array in arrays)
    blocks.share(rasters)
    level = Level(Ground(geobox_of(arrays[0])), rasters)
    return {f"{side}{COMPOSITE}": Layer(f"{side}{COMPOSITE}", arrays[0], "imagery", [level], None, (), blocks)}


def rasters_of(layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """Return the layers that are a variable each, by the variable's name: those of single classes are left out."""
    return {str(layer.variable.name): layer for layer in layers.values() if layer.number is None and not layer.is_composite}
