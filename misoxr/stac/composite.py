"""Composites in time: one task for each spatial block reads, masks, merges and reduces the items that meet it."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import groupby as runs
from typing import Any, Protocol, Self

import dask.array as da
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
import xarray as xr
from dask.base import tokenize
from dask.layers import ArrayBlockwiseDep
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from misoxr.assets.hrefs import is_remote, redact
from misoxr.assets.read import CLEAR, Asset, PatchUrl, Reader
from misoxr.cube.reductions import reduce_time, reduction_of
from misoxr.cube.season import TIME, first_days, note_without, season_years
from misoxr.grid.footprints import footprint, meeting
from misoxr.grid.halo import part_of
from misoxr.grid.sources import SOURCE, Source, Span
from misoxr.sensors.masks import Sky
from misoxr.stac.items import Moment, Scene

__all__ = ["OBSERVATIONS", "Composite", "Items", "ItemsInHand", "reduce_block"]

Floats = npt.NDArray[np.float32]
Clear = npt.NDArray[np.bool_] | None
"""Where an item is clear; None where it is not masked."""
_Shown = tuple[Asset, Clear]
Season = tuple[str, str] | None
Times = tuple[tuple[Mapping[str, Asset], ...], ...]
"""For each time its items; for each item its assets by band, and the quality band as ``"clear"``."""

EDGE = 2
"""Pixels by which a block's outline is widened when it looks for its items."""
AT_ONCE = 800_000_000
"""Bytes that a task may hold of all times; larger blocks are reduced strip by strip. Twice as many where all bands are reduced at once."""
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

    def by_year(self, season: Season) -> "Mapping[int, Items]":
        """Return the items of each year, in order, as :func:`misoxr.cube.season.season_years` counts them."""


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
        skies, places = _distinct(part.sky for _, part in parts)
        told = (f"{at} {place} {_without_signature(part)}" for (at, part), place in zip(parts, places, strict=True))
        return str(tokenize("\n".join(told), skies))

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

    def by_year(self, season: Season) -> dict[int, "ItemsInHand"]:
        """Return the items of each year, in order; a solar day over new year has some of either."""
        years = season_years(pd.DatetimeIndex([scene.time for _, scene in self._scenes]), season).tolist()
        members: dict[tuple[int, int], list[Scene]] = {}
        for year, (at, scene) in zip(years, self._scenes, strict=True):
            members.setdefault((year, at), []).append(scene)
        parts: dict[int, list[Moment]] = {year: [] for year in sorted(set(years))}
        for (year, _), scenes in members.items():
            parts[year].append(Moment(scenes[0].time, tuple(scenes)))
        return {year: ItemsInHand(moments) for year, moments in parts.items()}


def _distinct(skies: Iterable[Sky]) -> tuple[list[Sky], list[int]]:
    """Return skies that differ, and the place of each among them."""
    found: list[Sky] = []
    known: dict[int, int] = {}
    places = []
    for sky in skies:
        if id(sky) not in known:
            known[id(sky)] = next((at for at, other in enumerate(found) if other == sky), len(found))
            found += [sky] if known[id(sky)] == len(found) else []
        places.append(known[id(sky)])
    return found, places


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
        Of :func:`misoxr.cube.reductions.reduce_time`.
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
        return _laid_out((self,), rows, columns, "byx")

    @property
    def token(self) -> str:
        """What tells this composite from others."""
        return str(tokenize(self.items.token, self.bands, self.target, self.method, self.patch_url))

    def dataset(
        self, size: tuple[int, int], by: str | None = None, season: Season = None, years: Sequence[int] | None = None
    ) -> xr.Dataset:
        """Return the composite in chunks of a size, (y, x); or by year, (time, y, x), in a task for each block and year.

        Parameters
        ----------
        size : (int, int)
            Sides of a chunk along y and x.
        by : {None, "year"}
            Whether there is a time for each year.
        season, years : optional
            What the items were searched by. Years without items are left out, with a warning.
        """
        rows, columns = (_spans(length, side) for length, side in zip(self.target.shape.yx, size, strict=True))
        if by is None:
            return self._named((self,), self.layers(rows, columns))
        # Items that cover an interval are of the year in which it starts, which may be none of those asked for.
        found = {year: items for year, items in self.items.by_year(season).items() if not years or year in years}
        parts = {year: replace(self, items=items) for year, items in found.items()}
        note_without(years, parts)
        several = tuple(parts.values())
        yearly = self._named(several, _laid_out(several, rows, columns, "btyx"))
        told = TIME | {"season": " to ".join(season or ("01-01", "12-31"))}
        return yearly.assign_coords(time=("time", first_days(parts, season), told))

    def _named(self, readers: tuple["Composite", ...], layers: da.Array) -> xr.Dataset:
        """Return layers, (layer, y, x) or (layer, time, y, x), as variables that know what reads them."""
        variables = {}
        for at, name in enumerate((*self.bands, OBSERVATIONS)):
            data = part_of(layers, at).astype("uint16" if name == OBSERVATIONS else reduction_of(self.method).dtype)
            source = Source(readers, at, data.name, data.shape)
            variables[name] = xr.Variable(("time", "y", "x")[-data.ndim :], data, encoding={SOURCE: source})
        return xr.Dataset(variables)


def _spans(length: int, size: int) -> list[Span]:
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def _laid_out(composites: tuple[Composite, ...], rows: Sequence[Span], columns: Sequence[Span], dims: str) -> da.Array:
    """Lay the layers of a composite out, "byx", or those of several by time, "btyx": a task for each block and time."""
    first = composites[0]
    token = str(tokenize([one.token for one in composites], rows, columns, dims))
    layers: da.Array = da.blockwise(
        partial(_layers, bands=first.bands, method=first.method, patch_url=first.patch_url, whole=first.target),
        dims,
        _Blocks(composites, rows, columns, token, timed="t" in dims),
        dims[1:],
        new_axes={"b": len(first.bands) + 1},
        name=f"composite-{token}",
        align_arrays=False,
        dtype="float32",
        meta=np.empty((0,) * len(dims), "float32"),
    )
    return layers


class _Blocks(ArrayBlockwiseDep):
    """What each task gets: the items that meet its block, looked up when the task is made, and the block."""

    def __init__(
        self, composites: tuple[Composite, ...], rows: Sequence[Span], columns: Sequence[Span], token: str, *, timed: bool
    ) -> None:
        sizes = tuple(tuple(stop - start for start, stop in spans) for spans in (rows, columns))
        super().__init__(((1,) * len(composites), *sizes) if timed else sizes)
        self.composites, self.rows, self.columns, self.token = composites, rows, columns, token

    def __dask_tokenize__(self) -> str:
        """Dask asks for it with every band, and would else pickle all items each time."""
        return self.token

    def __getitem__(self, place: tuple[int, ...]) -> tuple[Times, GeoBox, bool]:
        *time, row, column = place
        composite = self.composites[time[0] if time else 0]
        (top, bottom), (left, right) = self.rows[row], self.columns[column]
        block = composite.target[top:bottom, left:right]
        return composite.items.meeting(footprint(block, EDGE)), block, bool(time)


def _layers(
    given: tuple[Times, GeoBox, bool], bands: tuple[str, ...], method: str, patch_url: PatchUrl | None, whole: GeoBox
) -> Floats:
    times, block, timed = given
    layers = reduce_block(times=times, bands=bands, block=block, method=method, patch_url=patch_url, whole=whole)
    return layers[:, None] if timed else layers


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
        Of :func:`misoxr.cube.reductions.reduce_time`.
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
    together = reduction_of(method).together
    groups = [tuple(bands)] if together else [(band,) for band in bands]
    each = max(len(times), 1) * width * (4 * len(groups[0]) + 2)  # float32 values, and two masks
    strip = max(1, AT_ONCE * (1 + together) // each)
    result = np.empty((len(bands) + 1, height, width), dtype="float32")
    for top in range(0, height, strip):
        rows = slice(top, min(top + strip, height))
        _reduce(result[:, rows], times, groups, block[rows, :], method, patch_url, whole)
    return result


def _reduce(
    result: Floats,
    times: Sequence[Sequence[Mapping[str, Asset]]],
    groups: Sequence[tuple[str, ...]],
    block: GeoBox,
    method: str,
    patch_url: PatchUrl | None,
    whole: GeoBox,
) -> None:
    """Fill the result of a block, group by group of bands: first all times are read side by side, then the rows reduced side by side."""
    seen = np.zeros((len(times), *block.shape.yx), dtype=bool)
    values = np.empty((len(times), len(groups[0]), *block.shape.yx), dtype="float32")
    with Reader(block, patch_url, whole) as reader, ThreadPoolExecutor(READERS) as pool:

        def read(place: int, index: int, shown: Sequence[list[_Shown]]) -> None:
            for layer, some in zip(values[place], shown, strict=True):
                layer[...] = _merged(reader, some)
                seen[index] |= np.isfinite(layer)

        def reduced(count: int, top: int) -> npt.NDArray[Any]:
            return reduce_time(values[:count, :, top : top + SLAB], method)

        skies = list(pool.map(partial(_skies, reader), times))
        first = 0
        for group in groups:
            shown = {index: [_shown(band, *both) for band in group] for index, both in enumerate(zip(times, skies, strict=True))}
            there = {index: some for index, some in shown.items() if any(some)}
            list(pool.map(read, range(len(there)), there, there.values()))
            parts = list(pool.map(partial(reduced, len(there)), range(0, block.shape.y, SLAB)))
            result[first : first + len(group)] = np.concatenate(parts, axis=1)
            first += len(group)
    result[-1] = seen.sum(axis=0, dtype="uint16")


def _skies(reader: Reader, items: Sequence[Mapping[str, Asset]]) -> list[Clear]:
    """Return where each item of a time is clear."""
    return [reader.read(item[CLEAR]) == 1 if CLEAR in item else None for item in items]


def _shown(band: str, items: Sequence[Mapping[str, Asset]], skies: Sequence[Clear]) -> list[_Shown]:
    """Return a band's assets of one time, and where each is clear; what is clear nowhere is left out, and never read."""
    return [
        (item[band], clear) for item, clear in zip(items, skies, strict=True) if band in item and (clear is None or clear.any())
    ]


def _merged(reader: Reader, shown: Sequence[_Shown]) -> Floats | np.float32:
    """Return one band of one time, merged from its items; NaN where there is none."""
    merged: Floats | None = None
    for asset, clear in shown:
        values = reader.read(asset)
        if clear is not None:
            np.copyto(values, np.nan, where=~clear)
        merged = values if merged is None else np.where(np.isnan(merged), values, merged)
    return np.float32(np.nan) if merged is None else merged
