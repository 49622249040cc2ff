"""Leave water, glaciers or built-up land out of a map: masks on its grid become nodata, with the reason in a variable."""

from collections.abc import Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from misoxr.cube.variables import FILL
from misoxr.errors import BandError, GridError, SpecError, note
from misoxr.grid.geobox import crs_of, extent, geobox_of, located
from misoxr.grid.halo import BLOCK
from misoxr.grid.layers import squeezed
from misoxr.grid.resample import covers, on_grid
from misoxr.mapping.provenance import with_reasons
from misoxr.spec.words import flag_word

__all__ = ["NAME", "masks_of", "without"]

Array = npt.NDArray[Any]
NAME = "excluded"
"""The variable that tells why a pixel has no answer."""
KEPT = "not_excluded"
"""What it tells of the others."""
_COLORS = ("#4f81bd", "#b7dee8", "#c0504d", "#9bbb59", "#8064a2", "#f79646", "#7f7f7f", "#c4bd97")


def masks_of(exclude: Any) -> dict[str, xr.DataArray]:
    """Check masks by their metadata, and return them by their reasons, each over (y, x) with a CRS; none where there are none.

    Raises
    ------
    SpecError
        If they are no mapping of reasons to arrays, or a reason is no word, is given twice, or says that nothing is left out.
    BandError
        If a mask is not boolean, or has dimensions other than y and x.
    GridError
        If a mask has no CRS.
    """
    if exclude is None:
        return {}
    if not isinstance(exclude, Mapping) or not exclude:
        raise SpecError(
            f'exclude is {_short(exclude)}; give masks by their reasons, such as {{"water": raster == 80}}, or leave it out.'
        )
    if len(exclude) >= FILL:
        raise SpecError(f"exclude has {len(exclude)} masks; at most {FILL - 1} are told apart.")
    masks: dict[str, xr.DataArray] = {}
    for reason, mask in exclude.items():
        word = flag_word(reason) if isinstance(reason, str) else ""
        if not word or word in masks:
            raise SpecError(f"exclude has the reason {reason!r}; give each mask a name of its own, such as 'water'.")
        if word == KEPT:
            raise SpecError(
                f"exclude has the reason {reason!r}, which stands for pixels with an answer; name it after what is left out."
            )
        masks[word] = _mask(word, mask)
    return masks


def _mask(reason: str, mask: Any) -> xr.DataArray:
    if not isinstance(mask, xr.DataArray):
        raise SpecError(
            f"The mask {reason!r} is {_short(mask)}; give a boolean DataArray with y, x and a CRS, such as raster == 80."
        )
    if mask.dtype != np.dtype(bool):
        raise BandError(
            f"The mask {reason!r} holds {mask.dtype} and not True and False: compare its values with what is to be left out, such as raster == 80."
        )
    flat: xr.DataArray = squeezed(located(mask))
    if set(flat.dims) != {"y", "x"}:
        raise BandError(
            f"The mask {reason!r} has dimensions {flat.dims}, not (y, x); select or reduce the others first, such as by any()."
        )
    if crs_of(flat) is None:
        raise GridError(
            f'The mask {reason!r} carries no CRS. Write one, for example with mask.rio.write_crs("EPSG:3338") of rioxarray.'
        )
    return flat


def _short(value: Any) -> str:
    return repr(value) if isinstance(value, str | int | float | dict | None) and not value else f"a {type(value).__name__}"


def without(maps: xr.Dataset, masks: Mapping[str, xr.DataArray]) -> xr.Dataset:
    """Write nodata where masks say so, lazily, and add why: ``excluded``, the number of the first mask that holds, 0 for none.

    Parameters
    ----------
    maps : Dataset
        From :func:`misoxr.mapping.predict.predict`, lazy.
    masks : mapping of str to DataArray
        From :func:`masks_of`. Each is put on the map's grid by the nearest pixel.

    Raises
    ------
    GridError
        If a mask does not overlap the map, or has no regular grid.
    SpecError
        If a task is called ``excluded``.

    Warns
    -----
    MisoxrWarning
        If a mask does not cover the map: nothing is left out beyond it.
    """
    if NAME in maps.data_vars:
        raise SpecError(
            f"A task of the model is called {NAME!r}, as the reasons of exclude= are; leave out exclude=, or the task by tasks=."
        )
    geobox = geobox_of(maps)
    chunks = next(array for array in maps.data_vars.values() if array.chunks is not None).variable.chunksizes
    sizes = chunks["y"], chunks["x"]
    layers = []
    for reason, mask in masks.items():
        lazy = mask if mask.chunks is not None else mask.chunk({"y": BLOCK, "x": BLOCK})
        if not covers(geobox_of(lazy), geobox):
            note(
                f"The mask {reason!r} covers {extent(geobox_of(lazy))}, and the map {extent(geobox)}: nothing is left out beyond the mask. "
                "Give one of the whole area."
            )
        put = on_grid(lazy, geobox, "nearest", (max(sizes[0]), max(sizes[1]))).transpose("y", "x")
        layers.append(put.data.rechunk(sizes))
    codes = da.map_blocks(_reasons, *layers, dtype="uint8", meta=np.empty((0, 0), "uint8"))
    out = maps.assign({name: _masked(array, codes) for name, array in maps.data_vars.items()})
    out[NAME] = xr.DataArray(codes, dims=("y", "x"), attrs=_attributes(list(masks)) | {"grid_mapping": "spatial_ref"})
    out.attrs = with_reasons(maps.attrs, list(masks))
    return out


def _masked(array: xr.DataArray, codes: da.Array) -> xr.DataArray:
    """Return a variable (..., y, x) with nodata where there is a reason: NaN, its fill value, or False where it has none."""
    fill = np.nan if array.dtype.kind == "f" else array.attrs.get("_FillValue", 0)
    meta = np.empty((0,) * array.ndim, array.dtype)
    return array.copy(data=da.map_blocks(_without, array.data, codes, fill=fill, dtype=array.dtype, meta=meta))


def _without(values: Array, codes: npt.NDArray[np.uint8], fill: Any) -> Array:
    return np.where(codes > 0, values.dtype.type(fill), values)


def _reasons(*masks: Array) -> npt.NDArray[np.uint8]:
    """Return the number of the first mask that holds at a pixel, 0 where none does; NaN lies beyond a mask."""
    codes = np.zeros(masks[0].shape, "uint8")
    for code in range(len(masks), 0, -1):
        codes[masks[code - 1] == 1] = code
    return codes


def _attributes(reasons: Sequence[str]) -> dict[str, Any]:
    return {
        "long_name": "why a pixel was left out of the map",
        "flag_values": np.arange(len(reasons) + 1, dtype="uint8"),
        "flag_meanings": " ".join([KEPT, *reasons]),
        "flag_colors": " ".join(["#ffffff", *(_COLORS[at % len(_COLORS)] for at in range(len(reasons)))]),
        "_FillValue": np.uint8(FILL),
    }
