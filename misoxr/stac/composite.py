"""Composites in time, one task per spatial block: it reads, masks, merges and reduces the items that meet it, band by band."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby as runs
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import shapely
import xarray as xr
from dask.base import tokenize
from dask.delayed import delayed
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from misoxr.cube import reduce_time
from misoxr.stac.assets import CLEAR, Asset, PatchUrl, Reader
from misoxr.stac.items import Moment, Scene

__all__ = ["composite", "outline", "reduce_block"]

Floats = npt.NDArray[np.float32]

EDGE = 2
"""Pixels by which an item's outline is widened when blocks look for their items."""


def outline(scene: Scene, target: GeoBox) -> BaseGeometry:
    """Return what an item covers in the grid's CRS, a little widened."""
    return scene.extent(str(target.crs), EDGE * target.affine.a)


def composite(
    moments: Sequence[Moment],
    names: Sequence[str],
    target: GeoBox,
    size: tuple[int, int],
    method: str,
    patch_url: PatchUrl | None,
) -> xr.Dataset:
    """Build the lazy (y, x) dataset: one task per block, with the items that meet it and no others."""
    scenes = [(index, scene) for index, moment in enumerate(moments) for scene in moment.scenes]
    tree = shapely.STRtree([outline(scene, target) for _, scene in scenes])
    step = partial(reduce_block, bands=tuple(names), method=method, patch_url=patch_url)
    token = tokenize([(index, scene.assets) for index, scene in scenes], step, target, size)
    blocks: dict[str, list[list[da.Array]]] = {name: [] for name in (*names, "observations")}
    for top in range(0, target.shape.y, size[0]):
        for rows in blocks.values():
            rows.append([])
        for left in range(0, target.shape.x, size[1]):
            block = target[top : min(top + size[0], target.shape.y), left : min(left + size[1], target.shape.x)]
            met = np.sort(tree.query(shapely.box(*block.boundingbox.bbox), predicate="intersects"))
            members = runs((scenes[index] for index in met), key=lambda entry: entry[0])
            times = [tuple(scene.assets for _, scene in group) for _, group in members]
            # a partial is not searched for other tasks, as arguments would be: there may be thousands of records
            task = delayed(partial(step, times=times, block=block), traverse=False)(dask_key_name=f"composite-{token}-{top}-{left}")
            for name, rows in blocks.items():
                dtype = "uint16" if name == "observations" else "float32"
                rows[-1].append(da.from_delayed(task[name], block.shape.yx, dtype, meta=np.empty((0, 0), dtype)))
    return xr.Dataset({name: (("y", "x"), da.block(rows)) for name, rows in blocks.items()})


def reduce_block(
    *,
    times: Sequence[Sequence[Mapping[str, Asset]]],
    bands: Sequence[str],
    block: GeoBox,
    method: str,
    patch_url: PatchUrl | None,
) -> dict[str, npt.NDArray[Any]]:
    """Read, mask, merge and reduce one block, band by band.

    Parameters
    ----------
    times : sequence of sequence of mapping
        For each time its items; for each item its assets by band, and the classification as ``"clear"``.
    bands : sequence of str
        Bands of the result.
    block : GeoBox
        The block.
    method : str
        Of :func:`misoxr.cube.reduce_time`.
    patch_url : callable, optional
        See :func:`open_stac`.

    Returns
    -------
    dict of str to ndarray
        float32 (y, x) for each band, and uint16 ``observations``.
    """
    result: dict[str, npt.NDArray[Any]] = {}
    with Reader(block, patch_url) as reader:
        skies = [[reader.read(item[CLEAR]) == 1 if CLEAR in item else None for item in items] for items in times]
        seen = np.zeros((len(times), *block.shape.yx), dtype=bool)
        for band in bands:
            layers = []
            for index, (items, clear) in enumerate(zip(times, skies, strict=True)):
                layer = _merged(reader, band, items, clear)
                if layer is not None:
                    seen[index] |= np.isfinite(layer)
                    layers.append(layer)
            empty = np.full(block.shape.yx, np.nan, dtype="float32")
            result[band] = reduce_time(np.stack(layers), method) if layers else empty
    result["observations"] = seen.sum(axis=0, dtype="uint16")
    return result


def _merged(
    reader: Reader, band: str, items: Sequence[Mapping[str, Asset]], skies: Sequence[npt.NDArray[np.bool_] | None]
) -> Floats | None:
    """Return one band of one time, merged from its items; None where nothing is clear, and nothing is read then."""
    merged: Floats | None = None
    for item, clear in zip(items, skies, strict=True):
        if band not in item or (clear is not None and not clear.any()):
            continue
        values = reader.read(item[band])
        if clear is not None:
            values = np.where(clear, values, np.float32(np.nan))
        merged = values if merged is None else np.where(np.isnan(merged), values, merged)
    return merged
