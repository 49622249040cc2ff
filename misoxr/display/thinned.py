"""What a report draws of maps of any size: pixels thinned block by block, or a coarser level of a pyramid, and what that takes."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import ceil, sqrt
from typing import Any

import dask.array as da
import dask.base
import numpy as np
import xarray as xr

from misoxr.cube.check import check_dataset
from misoxr.cube.decode import coding_of, decoded, is_class
from misoxr.cube.variables import APPLICABILITY, answers_in, class_fills
from misoxr.display.pictures import GREATEST
from misoxr.errors import BandError, GridError, SpecError, StoreError
from misoxr.grid.geobox import extent, geobox_of, located, same_grid
from misoxr.grid.halo import in_blocks
from misoxr.grid.layers import one_of, squeezed
from misoxr.io.layout import fill_of, open_maps
from misoxr.io.plan import plan

__all__ = [
    "Drawing",
    "as_drawn",
    "counted",
    "drawn",
    "groups_of",
    "level_of",
    "levels_of",
    "names_in",
    "read",
    "refuse_long",
    "same_scale",
    "side_of",
    "step_of",
    "thin",
    "thinning",
]

SIDE = 900
"""Rows or columns of a picture, at most."""
PIXELS = 5_500_000
"""Pixels of all pictures together, at most: a pixel takes a byte, four thirds in text, and not all compress."""
PATIENCE = 120.0
"""Seconds that the maps may take to be read or computed, as a timed block tells."""
BLOCKS = 4
"""Blocks that are not worth to be timed."""
_LAST = ("excluded", *APPLICABILITY)
_ENDS = (
    *("probability", "std", "entropy", "location", "location_probability"),
    *("set", "set_size", "credibility", "confidence", "lower", "upper"),
)
"""What the names of a task's other maps end in."""


@dataclass(frozen=True)
class Drawing:
    """A map to be drawn, thinned, and in words how."""

    array: xr.DataArray
    note: str


def names_in(variables: Any) -> list[str] | None:
    """Return the names of variables that are to be drawn, of one or several; None where all are.

    Raises
    ------
    SpecError
        If they are no names, or there is none.
    """
    if variables is None:
        return None
    found = [variables] if isinstance(variables, str) or not isinstance(variables, Iterable) else list(variables)
    if not found or not all(isinstance(name, str) for name in found):
        raise SpecError(f"variables is {variables!r}; give the name of a variable, or several names, or leave it out for all.")
    return [str(name) for name in found]


def as_drawn(maps: xr.Dataset, variables: Sequence[str] | None = None) -> xr.Dataset:
    """Return maps as they are drawn: without dimensions of length 1, on y and x, and as values where nodata or a scale are told; of some ``variables`` alone.

    Raises
    ------
    BandError
        If what an attribute says of them is no number.
    GridError
        If the maps are no Dataset.
    """
    maps = squeezed(located(check_dataset(maps)))
    meant = {}
    for name, array in maps.data_vars.items():
        drawn = variables is None or name in variables
        if not drawn or array.dtype.kind not in "fiu" or not {"y", "x"} <= set(array.dims):
            continue
        coding, whole = coding_of(name, array), array.dtype.kind != "f"
        if whole and is_class(name, array):
            ends = np.iinfo(array.dtype)
            told = class_fills(name, array) if "flag_meanings" in array.attrs else coding.nodata
            fills = [value for value in told if ends.min <= value <= ends.max]
            if fills and "_FillValue" not in array.attrs:
                meant[name] = array.assign_attrs(_FillValue=array.dtype.type(fills[0]))
        elif coding.nodata or (coding.scale, coding.offset) != (1.0, 0.0):
            meant[name] = decoded(name, array, "float32" if whole else array.dtype.name)
    return maps.assign(meant)


def groups_of(maps: xr.Dataset) -> dict[str, list[str]]:
    """Return the names of the maps that a report draws, by task: its classes or values first, then what is said of them.

    Raises
    ------
    BandError
        If there is no map.
    """
    names = [str(name) for name, array in maps.data_vars.items() if _is_drawn(array)]
    if not names:
        raise BandError(f"There is no map (y, x) among {list(maps.data_vars)}; give what predict or open_maps gives.{one_of(maps)}")
    own = [name for name in names if name not in _LAST]
    flagged = [name for name in own if "flag_meanings" in maps[name].attrs]
    beside = {f"{task}_{end}": task for task in flagged for end in _ENDS if f"{task}_{end}" not in flagged}
    values = [one.task for one in answers_in(maps) if one.task not in beside]
    tasks = [name for name in own if name in flagged or name in values]
    beside |= {f"{task}_{end}": task for task in tasks for end in _ENDS if f"{task}_{end}" not in tasks}
    groups: dict[str, list[str]] = {task: [task] for task in tasks}
    for name in own:
        if name not in tasks:
            groups.setdefault(beside.get(name, name), []).append(name)
    last = [name for name in _LAST if name in names]
    return groups | ({"": last} if last else {})


def _is_drawn(array: xr.DataArray) -> bool:
    """Whether an array is a map of one band, or the probabilities of classes."""
    if array.dtype.kind not in "fiub" or not {"y", "x"} <= set(array.dims):
        return False
    return array.ndim == 2 or (array.ndim == 3 and str(array.name).endswith("_probability"))


def same_scale(name: str, names: Sequence[str]) -> list[str]:
    """Return the maps that are compared with one another: a quantity and the ends of its intervals."""
    base = name.removesuffix("_lower").removesuffix("_upper")
    return [other for other in (base, f"{base}_lower", f"{base}_upper") if other in names]


def side_of(count: int) -> int:
    """Return how many rows or columns each of so many pictures may have."""
    return min(SIDE, int(sqrt(PIXELS / max(count, 1))))


def drawn(maps: xr.Dataset, names: Sequence[str], side: int, note: str = "") -> dict[str, Drawing]:
    """Return maps thinned to so many rows and columns, lazily where they are lazy; of several classes, the greatest probability."""
    drawings = {}
    for name in names:
        array = thin(maps[name], side)
        told = " ".join(filter(None, [note, thinning(maps[name], side)]))
        if array.ndim == 3:
            (dim,) = (str(dim) for dim in array.dims if dim not in ("y", "x"))
            words = str(array.attrs.get("long_name", name))
            array = array.max(dim, keep_attrs=True).assign_attrs(long_name=f"{GREATEST}{words}")
        drawings[name] = Drawing(array.transpose("y", "x"), told)
    return drawings


def thin(array: xr.DataArray, side: int) -> xr.DataArray:
    """Return every n-th pixel, so that no side is longer; blocks that were read for it are not held."""
    step = step_of(array, side)
    few = array.isel(y=slice(None, None, step), x=slice(None, None, step))
    # A slice of a block holds the whole of it in memory, a copy does not.
    return few if few.chunks is None else few.copy(data=few.data.map_blocks(np.array, dtype=few.dtype))


def thinning(array: xr.DataArray, side: int) -> str:
    """Return in words how :func:`thin` thins; nothing where every pixel is drawn."""
    step = step_of(array, side)
    return f"One pixel in {step} along each side is drawn." if step > 1 else ""


def step_of(array: xr.DataArray, side: int) -> int:
    """Return how many pixels there are from one that is drawn to the next."""
    return max(1, ceil(max(array.sizes["y"], array.sizes["x"]) / side))


def levels_of(maps: xr.Dataset, pyramid: str | os.PathLike[str]) -> list[xr.Dataset]:
    """Return the levels of a pyramid, the finest first.

    Raises
    ------
    GridError
        If the pyramid is of another grid than the maps.
    SpecError
        If it is no path.
    StoreError
        If it cannot be read, or is of other maps on the same grid.
    """
    if not isinstance(pyramid, str | os.PathLike):
        raise SpecError(f"pyramid is a {type(pyramid).__name__}; give the path of what maps.miso.to_pyramid wrote.")
    box, found = geobox_of(maps), open_maps(f"{os.fspath(pyramid)}/0")
    if not same_grid(geobox_of(found), box):
        raise GridError(
            f"The pyramid {os.fspath(pyramid)} covers {extent(geobox_of(found))} with {found.sizes['y']} x {found.sizes['x']} pixels, and the "
            f"maps {extent(box)} with {box.shape.y} x {box.shape.x}; give the pyramid that was made of these maps."
        )
    ours, theirs = (one.attrs.get("provenance_sha256") for one in (maps, found))
    if ours and theirs and ours != theirs:
        raise StoreError(
            f"The pyramid {os.fspath(pyramid)} has the provenance {theirs}, and the maps {ours}; give the pyramid that was made of these maps."
        )
    levels = [found]
    with suppress(StoreError):  # it has no coarser level
        while min(levels[-1].sizes["y"], levels[-1].sizes["x"]) > 1:
            levels.append(open_maps(f"{os.fspath(pyramid)}/{len(levels)}"))
    return levels


def level_of(maps: xr.Dataset, pyramid: str | os.PathLike[str], side: int) -> tuple[xr.Dataset, str]:
    """Return the coarsest level of a pyramid that is as fine as the pictures, and what it is in words; its errors are those of :func:`levels_of`."""
    levels = levels_of(maps, pyramid)
    fine = [at for at, one in enumerate(levels) if not at or max(one.sizes["y"], one.sizes["x"]) >= side]
    level, found = fine[-1], levels[fine[-1]]
    size = abs(geobox_of(found).affine.a)
    return found, f"Level {level} of a pyramid, with pixels of {size:g}." if level else ""


def counted(array: xr.DataArray) -> xr.DataArray:
    """Count the pixels of each code of a map (y, x), block by block: lazily, (code) of 256; what is nodata or no code counts as 255."""
    blocks = in_blocks(array).data
    fill = fill_of(array)
    counts = da.map_blocks(
        _count,
        blocks,
        fill=fill,
        chunks=((1,) * blocks.numblocks[0], (1,) * blocks.numblocks[1], (256,)),
        new_axis=2,
        dtype="int64",
    )
    return xr.DataArray(counts.sum(axis=(0, 1)), dims="code")


def _count(values: Any, fill: Any) -> Any:
    codes = np.where(np.isfinite(values), values, 255).astype("int64")
    codes = codes if fill is None or not np.isfinite(fill) else np.where(values == fill, 255, codes)
    return np.bincount(np.where((codes < 0) | (codes > 255), 255, codes).ravel(), minlength=256)[None, None]


def refuse_long(parts: Mapping[str, xr.DataArray]) -> None:
    """Refuse maps that would take long to be read or computed, as one timed block tells; small ones and those in memory are not timed.

    Raises
    ------
    StoreError
        If they would.
    """
    lazy = xr.Dataset({name: array for name, array in parts.items() if array.chunks is not None})
    if max((array.data.npartitions for array in lazy.data_vars.values()), default=0) <= BLOCKS:
        return
    found = plan(lazy)
    if found.seconds is not None and found.seconds > PATIENCE:
        raise StoreError(
            f"To draw {list(lazy)} takes about {found.seconds / 60:,.1f} minutes here, for all their blocks are read or computed "
            f"({found.blocks[0] * found.blocks[1]:,} blocks, {found.block_seconds:,.1f} s each). If they are not written yet, write them with "
            "maps.miso.to_zarr and report on what misoxr.open_maps gives. If they are, write a pyramid with maps.miso.to_pyramid and give "
            "pyramid=, which the pictures are then drawn from."
        )


def read(drawings: Mapping[str, Drawing], counts: Mapping[str, xr.DataArray]) -> tuple[dict[str, Drawing], dict[str, Any]]:
    """Compute what is drawn and counted in one go, so that each block is read once; return it in memory."""
    names, other = list(drawings), list(counts)
    arrays = dask.base.compute(*[drawings[name].array for name in names], *[counts[name] for name in other])
    pictures = {name: replace(drawings[name], array=array.load()) for name, array in zip(names, arrays, strict=False)}
    return pictures, {name: array.values for name, array in zip(other, arrays[len(names) :], strict=True)}
