"""Composites in time: one task for each spatial block reads, masks, merges and reduces the items that meet it."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import groupby as runs
from typing import Any, Protocol, Self

import dask.array as da
import numpy as np
import numpy.typing as npt
import shapely
import xarray as xr
from dask.base import tokenize
from dask.layers import ArrayBlockwiseDep
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from misoxr.assets.hrefs import is_remote, redact
from misoxr.assets.read import CLEAR, Asset, PatchUrl, Reader
from misoxr.cube.composite import reduce_time
from misoxr.cube.sources import SOURCE, Source, Span
from misoxr.grid.footprints import footprint, meeting
from misoxr.grid.halo import part_of
from misoxr.stac.items import Moment, Scene

__all__ = ["Composite", "Items", "ItemsInHand", "reduce_block"]

Floats = npt.NDArray[np.float32]
Clear = npt.NDArray[np.bool_] | None
"""Where an item is clear; None where it is not masked."""
_Shown = tuple[Asset, Clear]
Times = tuple[tuple[Mapping[str, Asset], ...], ...]
"""For each time its items; for each item its assets by band, and the quality band as ``"clear"``."""

EDGE = 2
"""Pixels by which a block's outline is widened when it looks for its items."""
AT_ONCE = 800_000_000
"""Bytes that a task may hold of all times; larger blocks are reduced strip by strip."""
READERS = 4
"""Threads in which a task reads, so that it does not wait for one answer after the other."""
SLAB = 64
"""Rows that are reduced at a time; their values are copied once or twice."""
OBSERVATIONS = "observations"


class Items(Protocol):
    """Items that can be asked which of them meet a block."""

    @property
    def token(self) -> str:
        """What tells these items from others."""

    def meeting(self, block: BaseGeometry) -> Times:
        """Return the assets of the items that meet a block, given as its outline in degrees, by time."""


@dataclass(frozen=True)
class ItemsInHand:
    """Scenes in memory.

    Attributes
    ----------
    moments : sequence of Moment
        The times.
    """

    moments: Sequence[Moment]

    @cached_property
    def token(self) -> str:
        """What tells these items from others; signatures do not."""
        assets = [(at, asset) for at, scene in self._scenes for asset in scene.assets.values()]
        parts = [(at, part) for at, asset in assets for part in (asset, asset.beside) if part is not None]
        skies = {id(part.sky): part.sky for _, part in parts}
        return str(tokenize([(at, _without_signature(part)) for at, part in parts], list(skies.values())))

    @cached_property
    def _scenes(self) -> list[tuple[int, Scene]]:
        return [(at, scene) for at, moment in enumerate(self.moments) for scene in moment.scenes]

    @cached_property
    def _tree(self) -> shapely.STRtree:
        return shapely.STRtree([scene.outline for _, scene in self._scenes])

    def meeting(self, block: BaseGeometry) -> Times:
        """Return the assets of the items that meet a block, by time."""
        met = meeting(self._tree, block)
        members = runs((self._scenes[at] for at in met), key=lambda entry: entry[0])
        return tuple(tuple(scene.assets for _, scene in group) for _, group in members)


def _without_signature(asset: Asset) -> str:
    href = redact(asset.href) if is_remote(asset.href) else asset.href
    return repr(replace(asset, href=href, beside=None))


@dataclass(frozen=True)
class Composite:
    """A composite of items on a grid, of which any part can be asked for: lazily, and without the rest.

    Attributes
    ----------
    items : Items
        What it is made of.
    bands : tuple of str
        Its bands.
    target : GeoBox
        Its grid.
    method : str
        Of :func:`misoxr.cube.composite.reduce_time`.
    patch_url : callable, optional
        See :func:`misoxr.open_stac`.
    """

    items: Items
    bands: tuple[str, ...]
    target: GeoBox
    method: str
    patch_url: PatchUrl | None

    def __deepcopy__(self, memo: Any) -> Self:
        """It never changes; xarray copies what a variable's encoding holds."""
        return self

    def layers(self, rows: Sequence[Span], columns: Sequence[Span]) -> da.Array:
        """Return the bands, and the number of observations behind them: (layer, y, x), float32, a task for each chunk.

        Parameters
        ----------
        rows, columns : sequence of (int, int)
            What the chunks cover; they may overlap, as blocks with a halo do.
        """
        token = tokenize(self.items.token, self.bands, self.target, self.method, self.patch_url, rows, columns)
        read = partial(_layers, bands=self.bands, method=self.method, patch_url=self.patch_url, whole=self.target)
        count = len(self.bands) + 1
        layers: da.Array = da.blockwise(
            read,
            "byx",
            _Blocks(self, rows, columns, token),
            "yx",
            new_axes={"b": count},
            name=f"composite-{token}",
            align_arrays=False,
            dtype="float32",
            meta=np.empty((0, 0, 0), "float32"),
        )
        return layers

    def dataset(self, size: tuple[int, int]) -> xr.Dataset:
        """Return the composite in chunks of a size."""
        rows, columns = (_spans(length, side) for length, side in zip(self.target.shape.yx, size, strict=True))
        layers = self.layers(rows, columns)
        variables = {}
        for at, name in enumerate((*self.bands, OBSERVATIONS)):
            data = part_of(layers, at).astype("uint16" if name == OBSERVATIONS else "float32")
            variables[name] = xr.Variable(("y", "x"), data, encoding={SOURCE: Source(self, at, data.name)})
        return xr.Dataset(variables)


def _spans(length: int, size: int) -> list[Span]:
    return [(start, min(start + size, length)) for start in range(0, length, size)]


class _Blocks(ArrayBlockwiseDep):
    """What each task gets: the items that meet its block, looked up when the task is made, and the block."""

    def __init__(self, composite: Composite, rows: Sequence[Span], columns: Sequence[Span], token: str) -> None:
        super().__init__(tuple(tuple(stop - start for start, stop in spans) for spans in (rows, columns)))
        self.composite, self.rows, self.columns, self.token = composite, rows, columns, token

    def __dask_tokenize__(self) -> str:
        """Dask asks for it with every band, and would else pickle all items each time."""
        return self.token

    def __getitem__(self, place: tuple[int, ...]) -> tuple[Times, GeoBox]:
        (top, bottom), (left, right) = self.rows[place[0]], self.columns[place[1]]
        block = self.composite.target[top:bottom, left:right]
        return self.composite.items.meeting(footprint(block, EDGE)), block


def _layers(given: tuple[Times, GeoBox], bands: tuple[str, ...], method: str, patch_url: PatchUrl | None, whole: GeoBox) -> Floats:
    times, block = given
    return reduce_block(times=times, bands=bands, block=block, method=method, patch_url=patch_url, whole=whole)


def reduce_block(
    *,
    times: Sequence[Sequence[Mapping[str, Asset]]],
    bands: Sequence[str],
    block: GeoBox,
    method: str,
    patch_url: PatchUrl | None,
    whole: GeoBox,
) -> Floats:
    """Read, mask, merge and reduce one block, band by band, in a few threads.

    Parameters
    ----------
    times : sequence of sequence of mapping
        For each time its items; for each item its assets by band, and the quality band as ``"clear"``.
    bands : sequence of str
        Bands of the result.
    block : GeoBox
        The block.
    method : str
        Of :func:`misoxr.cube.composite.reduce_time`.
    patch_url : callable, optional
        See :func:`open_stac`.
    whole : GeoBox
        The grid that the block is of.

    Returns
    -------
    ndarray of float32, shape (band + 1, y, x)
        The bands, and behind them the number of times with a valid value in any band.
    """
    height, width = block.shape.yx
    strip = max(1, AT_ONCE // (max(len(times), 1) * width * 6))  # float32 values, and two masks
    result = np.empty((len(bands) + 1, height, width), dtype="float32")
    for top in range(0, height, strip):
        rows = slice(top, min(top + strip, height))
        _reduce(result[:, rows], times, bands, block[rows, :], method, patch_url, whole)
    return result


def _reduce(
    result: Floats,
    times: Sequence[Sequence[Mapping[str, Asset]]],
    bands: Sequence[str],
    block: GeoBox,
    method: str,
    patch_url: PatchUrl | None,
    whole: GeoBox,
) -> None:
    """Fill the result of a block: band by band, first all times are read side by side, then the rows reduced side by side."""
    seen = np.zeros((len(times), *block.shape.yx), dtype=bool)
    values = np.empty((len(times), *block.shape.yx), dtype="float32")
    with Reader(block, patch_url, whole) as reader, ThreadPoolExecutor(READERS) as pool:

        def read(place: int, index: int, shown: Sequence[_Shown]) -> None:
            values[place] = _merged(reader, shown)
            seen[index] |= np.isfinite(values[place])

        def reduced(count: int, top: int) -> Floats:
            return reduce_time(values[:count, top : top + SLAB], method)

        skies = list(pool.map(partial(_skies, reader), times))
        for at, band in enumerate(bands):
            shown = {index: _shown(band, *both) for index, both in enumerate(zip(times, skies, strict=True))}
            there = {index: some for index, some in shown.items() if some}
            list(pool.map(read, range(len(there)), there, there.values()))
            result[at] = np.concatenate(list(pool.map(partial(reduced, len(there)), range(0, block.shape.y, SLAB))))
    result[-1] = seen.sum(axis=0, dtype="uint16")


def _skies(reader: Reader, items: Sequence[Mapping[str, Asset]]) -> list[Clear]:
    """Return where each item of a time is clear."""
    return [reader.read(item[CLEAR]) == 1 if CLEAR in item else None for item in items]


def _shown(band: str, items: Sequence[Mapping[str, Asset]], skies: Sequence[Clear]) -> list[_Shown]:
    """Return a band's assets of one time, and where each is clear; what is clear nowhere is left out, and never read."""
    return [
        (item[band], clear) for item, clear in zip(items, skies, strict=True) if band in item and (clear is None or clear.any())
    ]


def _merged(reader: Reader, shown: Sequence[_Shown]) -> Floats:
    """Return one band of one time, merged from its items."""
    merged: Floats | None = None
    for asset, clear in shown:
        values = reader.read(asset)
        if clear is not None:
            np.copyto(values, np.nan, where=~clear)
        merged = values if merged is None else np.where(np.isnan(merged), values, merged)
    assert merged is not None
    return merged
