"""Hydrology of a DEM: catchment area, stream power index and wetness index, the same for any blocks."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from misoxr.clusters import computed
from misoxr.covariates import flow, wetness
from misoxr.covariates.dem import cell_of, opened
from misoxr.covariates.results import (
    ELEVATIONS,
    FINGERPRINT,
    NAMES,
    check_replaceable,
    described,
    fingerprint_of,
    forget,
    kept,
    opened_results,
    place_of,
    written,
)
from misoxr.covariates.tiles import Tiles, Visit, settled, side_of
from misoxr.cube.join import Raster
from misoxr.errors import GridError, MisoxrError, StoreError, gathered
from misoxr.grid.geobox import geobox_of
from misoxr.paths import workspace
from misoxr.records.bars import each
from misoxr.records.ledger import Block, Ledger

__all__ = ["hydrology"]

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

SQUARE = 1e-3
"""Largest difference of a pixel's sides, by its side."""
FALL = 1e-5
"""Least slope, m by m, at which a filled DEM falls to its outlets."""
DEM, FILLED, AREA, RAISED = "elevation", "filled", "catchment_area", "modified_catchment_area"
"""Layers on the disk."""
COMPARING = "comparing the DEM"
"""What a progress bar says where a DEM is read again."""


@gathered
def hydrology(
    dem: Raster,
    *,
    store: str | os.PathLike[str] | None = None,
    filled: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> xr.Dataset:
    """Compute catchment area, stream power index and wetness index of a DEM, block by block.

    Water crosses blocks. Each block hands down what is known of it, and is visited again when a neighbour has news. So every cell gets its
    catchment area once, from all that lies above it, and any blocks give the same. Memory holds a few blocks. The rest lies on the disk
    meanwhile: 24 bytes for each cell of the DEM, 32 where it is filled.

    Parameters
    ----------
    dem : path, DataArray or Dataset
        Elevation over y and x, with square pixels, in a projected CRS. NaN is nodata. Its chunks are the blocks; a DEM without
        chunks is cut into blocks of 2048 pixels. Small chunks of a large DEM are joined, up to about that size. Give whole catchments: water
        from beyond the DEM is not known.
    store : path, optional
        A Zarr store on a disk, which is there once it is complete. What is computed meanwhile lies in ``<store>.hydrology``, and the same call
        goes on from there. The DEM is read again then, and where the store is complete, to see that its elevations are the same. By default results are in memory, and the rest is in the directory for temporary files.
    filled : bool, optional
        Fill pits first, up to a surface that falls to its outlets by 1 cm in 1 km. Outlets are cells at edges and beside nodata. All results
        are then those of the filled DEM. By default pits and flats keep their water, as the paper's authors had it.
    overwrite : bool, optional
        Replace a store that exists, and what was begun with another DEM or other settings.
    progress : bool, optional
        Show progress bars of blocks.

    Returns
    -------
    Dataset
        On the DEM's grid, float32 (y, x), NaN where the DEM is: ``catchment_area`` in m2, by multiple flow directions;
        ``stream_power_index`` in m2, the catchment area times the tangent of the steepest slope; ``wetness_index`` (1), SAGA's. It is lazy where
        there is a store.

    Raises
    ------
    GridError
        If the DEM has no CRS, no regular grid, or pixels that are not square, or is in degrees.
    BandError, AssetError, SpecError
        If it cannot be opened, or holds no elevations; see :func:`misoxr.covariates.terrain`.
    StoreError
        If the store exists and is of another DEM or of other settings, another process computes it, or it cannot be written.

    Notes
    -----
    The formulas are those of SAGA 8.5: multiple flow directions after Freeman (1991), with a convergence of 1.1; the maximum triangle slope of
    Tarboton (1997); the wetness index of Böhner and Selige (2006), with a suction of 10, the local slope and an offset of 0.01 degree. Pits
    fill as in Planchon and Darboux (2002).

    Cells at edges of the DEM and beside nodata have fewer neighbours. Their slopes are those of the neighbours that are there. The stream power
    index is NaN where no facet of three cells is whole.

    Examples
    --------
    >>> water = misoxr.covariates.hydrology(image[["elevation"]], progress=False)
    >>> water = misoxr.covariates.hydrology(image[["elevation"]], store="water.zarr", filled=True, progress=False)
    """
    z = opened(dem)
    cell, shape = _cell(z), (z.sizes["y"], z.sizes["x"])
    side, pits = side_of(shape, z.chunks), "filled" if filled else "kept"
    if store is None:
        with workspace() as directory, kept(directory / "layers", "") as ledger:
            tiles = Tiles(ledger, shape, side)
            _copied(tiles, z, overwrite=False, progress=progress)
            data = {name: np.empty(shape, "float32") for name in NAMES}
            _compute(tiles, cell, data, filled=filled, progress=progress)
        return described(data, z, pits)
    place, fingerprint = place_of(store), fingerprint_of(z, side, pits)
    records = place.with_name(f"{place.name}.hydrology")
    if not overwrite and place.exists():
        results = opened_results(place, fingerprint, lambda: _hash(Tiles(Ledger(str(records)), shape, side), z, progress=progress))
    else:
        check_replaceable(place)
        with kept(records, fingerprint, overwrite=overwrite) as ledger:
            tiles = Tiles(ledger, shape, side)
            elevations = _copied(tiles, z, overwrite=overwrite, progress=progress)
            with written(place, z, side, pits, {FINGERPRINT: fingerprint, ELEVATIONS: elevations}) as arrays:
                _compute(tiles, cell, arrays, filled=filled, progress=progress)
        results = opened_results(place, fingerprint, lambda: elevations)
    forget(records, fingerprint)
    return results


def _cell(z: xr.DataArray) -> float:
    """Return the side of a DEM's cells, m."""
    cell = cell_of(geobox_of(z))
    down, across = abs(cell.down), abs(cell.across)
    if abs(down - across) > SQUARE * across:
        raise GridError(
            f"The DEM's pixels are {across:g} m by {down:g} m, and hydrology needs square ones; resample it first, for example with "
            f"dem.rio.reproject(dem.rio.crs, resolution={min(down, across):g}) of rioxarray."
        )
    return across


def _compute(tiles: Tiles, side: float, into: Any, *, filled: bool, progress: bool) -> None:
    """Go through the stages that are not done yet, and write the results; cells have a side in m."""
    ground = FILLED if filled else DEM
    visits: dict[str, Visit] = {FILLED: partial(_fill, tiles, side)} if filled else {}
    visits |= {AREA: partial(_drain, tiles, ground, side), RAISED: partial(_raise, tiles, ground, side)}
    for layer, visit in visits.items():
        if not tiles.is_done(layer):
            settled(tiles, visit, layer.replace("_", " "), progress=progress)
            tiles.set_done(layer)
    for window in each(tiles.apart(), "hydrology, indices", "blocks", shown=progress):
        z_here, area, raised = (tiles.read(window, 1, layer) for layer in (ground, AREA, RAISED))
        if np.isnan(area[~np.isnan(z_here)]).any():
            raise MisoxrError("Cells got no catchment area, which is an error of misoxr; please report it.")
        found = wetness.indices(z_here, area, raised, side)
        for name, values in zip(NAMES, (area[1:-1, 1:-1], *found), strict=True):
            into[name][tiles.slices(window)] = values.astype("float32")


# ---- elevations: what is in a DEM, whatever it is called


def _copied(tiles: Tiles, z: xr.DataArray, *, overwrite: bool, progress: bool) -> str:
    """Put the elevations on the disk, where they are those of what was begun before, and return their hash."""
    tiles.is_done(DEM)  # which removes what a power loss cut off
    before = tiles.told(DEM)
    found: list[str] = []
    for window, values, told in _elevations(tiles, z, DEM if before is None else COMPARING, progress=progress):
        if before is not None and before[len(found)] != told:
            if not overwrite:
                raise StoreError(
                    f"{tiles.ledger.uri} was begun with another DEM: the elevations have changed since. Give the same, another store, or "
                    "overwrite=True to begin anew."
                )
            tiles.forget(FILLED, AREA, RAISED)
            tiles.reopen(DEM)
            before = None
        tiles.write(DEM, window, values)
        found.append(told)
    tiles.set_done(DEM, found)
    return _joined(found)


def _hash(tiles: Tiles, z: xr.DataArray, *, progress: bool) -> str:
    """Return the hash of the elevations."""
    return _joined(told for *_, told in _elevations(tiles, z, COMPARING, progress=progress))


def _elevations(tiles: Tiles, z: xr.DataArray, words: str, *, progress: bool) -> Iterator[tuple[Block, Floats, str]]:
    """Read the DEM once, as it may be costly to compute: windows, their elevations, and hashes of these."""
    for window in each(tiles.apart(), f"hydrology, {words}", "blocks", shown=progress):
        (read,) = computed(z[tiles.slices(window)].data)
        values = np.asarray(read, "float64") + 0.0  # one zero, not two
        values[np.isnan(values)] = np.nan  # one NaN, of many
        yield window, values, hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()[:16]


def _joined(hashes: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


# ---- visits: what is done in a window, and for which tiles that is news


def _fill(tiles: Tiles, side: float, window: Block) -> Counts:
    """Lower the surface, from endless, to what lets water out as far as that is known."""
    z = tiles.read(window, 1, DEM)
    upside_down = -tiles.read(window, 1, FILLED, fill=np.inf)
    upside_down[np.isnan(z)] = np.nan
    flow.outlets(z, upside_down)
    news: Counts = flow.spread(upside_down, -z, FALL * side, tiles.side)
    tiles.write(FILLED, window, -upside_down[1:-1, 1:-1])
    return news


def _drain(tiles: Tiles, ground: str, side: float, window: Block) -> Counts:
    """Give cells their catchment area, where all that lies above them is known."""
    area = tiles.read(window, 1, AREA)
    news: Counts = flow.accumulate(tiles.read(window, 2, ground), area, side, tiles.side)
    tiles.write(AREA, window, area[1:-1, 1:-1])
    return news


def _raise(tiles: Tiles, ground: str, side: float, window: Block) -> Counts:
    """Raise areas to what their neighbours' areas allow, as far as these are known."""
    raised = tiles.read(window, 1, RAISED, AREA)
    news: Counts = flow.spread(raised, wetness.suction(tiles.read(window, 2, ground), side), 0.0, tiles.side)
    tiles.write(RAISED, window, raised[1:-1, 1:-1])
    return news
