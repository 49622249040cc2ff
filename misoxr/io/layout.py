"""The layout of a Zarr store: arrays, attributes and georeferencing; and opening it again."""

import json
import os
import warnings
from collections.abc import Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from zarr.abc.store import Store

from misoxr.errors import StoreError, note
from misoxr.grid.geobox import assign, code_of, geobox_of
from misoxr.grid.geozarr import georeferenced, unreferenced
from misoxr.grid.halo import BLOCK
from misoxr.io.check import (
    COMPRESSORS,
    SUMS,
    done_of_unfinished,
    metadata_faults,
)
from misoxr.io.codes import READ, as_codes, float_classes, read_from, with_known_codes
from misoxr.io.origins import Files, name_errors, readable
from misoxr.io.storable import numbers, spelt, storable
from misoxr.records.ledger import Block

if TYPE_CHECKING:
    from icechunk import Repository

__all__ = [
    "FINGERPRINT",
    "MASKED",
    "OWN",
    "Layout",
    "consolidate",
    "fill_of",
    "lay_out",
    "layout_of",
    "open_maps",
    "packed",
    "with_masked",
]

FINGERPRINT, MASKED = "misoxr_fingerprint", "masked_blocks"
"""Attributes of a store: which records are its own, and which blocks became nodata."""
ORDER = "misoxr_variables"
"""Attribute with the names of a store's variables in their order: stores list them by the alphabet."""
OWN = (FINGERPRINT, SUMS, ORDER)
"""Attributes that hold for one store alone."""
TILE = 512
"""Side of the chunks that readers load, pixels; a block of several is one shard."""
STEP = 1 / 254
"""Step of packed probabilities: at most half of it, 0.00197, is lost."""
ROUNDING = 1e-5
"""How far beyond 0 and 1 the rounding of a float may put a probability."""
_PACKED = {"dtype": "uint8", "scale_factor": STEP, "_FillValue": np.uint8(255), "fill_value": np.uint8(255)}

SIDECAR = "provenance"
"""Group whose attributes hold the provenance: zarr warns of files in a store that are no part of its hierarchy."""


@dataclass(frozen=True)
class Layout:
    """How a dataset becomes a store.

    Attributes
    ----------
    ds : Dataset
        In chunks of one size, with the attributes that the store gets.
    block : (int, int)
        Rows and columns of a block: one shard, where a block has several of the chunks that readers load.
    blocked : tuple of str
        Variables that are written block by block; the others go with the layout.
    compact : bool
        Whether probabilities are packed into a byte.
    """

    ds: xr.Dataset
    block: tuple[int, int]
    blocked: tuple[str, ...]
    compact: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Number of blocks along y and x."""
        return -(-self.ds.sizes["y"] // self.block[0]), -(-self.ds.sizes["x"] // self.block[1])

    def spans(self, block: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """First row and the one behind the last, and columns alike, of a block."""
        rows, columns = (
            (at * side, min((at + 1) * side, self.ds.sizes[dim])) for at, side, dim in zip(block, self.block, "yx", strict=True)
        )
        return rows, columns

    def is_packed(self, name: str) -> bool:
        """Whether a variable is stored as bytes."""
        return self.compact and name.endswith("_probability") and np.issubdtype(self.ds[name].dtype, np.floating)

    def nodata(self, name: str) -> Any:
        """What stands where nothing is known.

        Raises
        ------
        StoreError
            If a variable of integers has no fill value, or one of True and False none beside it that tells where it is nodata.
        """
        variable = self.ds[name]
        if variable.dtype.kind == "b" and variable.attrs.get("ancillary_variables") in self.ds:
            return False  # a set is empty there, and its size has a fill value
        fill = fill_of(variable)
        if fill is None:
            raise StoreError(
                f"The variable {name!r} ({variable.dtype}) has no _FillValue, so nodata cannot stand in for what cannot be read; "
                "give it one, or write with on_error='raise'."
            )
        return fill


def fill_of(variable: xr.DataArray | xr.Variable) -> Any:
    """Return a variable's nodata value: NaN for floats, the fill value of integers, None where they have none."""
    return np.nan if np.issubdtype(variable.dtype, np.floating) else variable.attrs.get("_FillValue")


def layout_of(ds: xr.Dataset, *, compact: bool = False) -> Layout:
    """Lay a dataset out in blocks, which are its chunks.

    Raises
    ------
    GridError
        If it has no regular grid or CRS.
    StoreError
        If a store has no place for a variable's name, or values are yet to be scaled.
    """
    geobox = geobox_of(ds)
    out = assign(_uniform(storable(with_known_codes(ds))), geobox)
    out.attrs = georeferenced({key: value for key, value in out.attrs.items() if key not in (*OWN, MASKED)}, geobox)
    blocked = tuple(
        str(name)
        for name, array in out.data_vars.items()
        if {"y", "x"} <= set(array.dims) and array.dtype.kind in "fiub" and array.chunks
    )
    block = tuple(out[blocked[0]].variable.chunksizes[dim][0] for dim in ("y", "x")) if blocked else geobox.shape.yx
    return Layout(out, (int(block[0]), int(block[1])), blocked, compact)


def lay_out(layout: Layout, store: str | Store, fingerprint: str) -> None:
    """Write all of a store but its blocks."""
    out = layout.ds.assign_attrs({FINGERPRINT: fingerprint, ORDER: [str(name) for name in layout.ds.data_vars]})
    kept = out.drop_vars(layout.blocked).compute()
    out = out.assign(kept.data_vars).assign_coords(kept.coords)
    provenance = out.attrs.pop("provenance", None) if "provenance_sha256" in out.attrs else None
    # An entry for every variable: what the encoding keeps of another file (chunks, packing) would not fit this one.
    encoding = {name: _encoding(variable, data=name in out.data_vars) for name, variable in out.variables.items()}
    for name in layout.blocked:
        array = out[name]
        # Never computed: one chunk, so that its graph is small.
        out[name] = array.copy(data=da.zeros(array.shape, dtype=array.dtype, chunks=array.shape))
        encoding[name] |= _tiling(array, layout.block) | (_PACKED if layout.is_packed(name) else {})
    out.attrs = spelt(out.attrs)
    for variable in out.variables.values():
        variable.attrs = spelt(variable.attrs)
    out.to_zarr(store, mode="w", zarr_format=3, consolidated=False, compute=False, encoding=encoding, safe_chunks=False)
    if provenance is not None:
        beside = xr.Dataset(attrs=spelt(json.loads(provenance)))
        beside.to_zarr(store, group=SIDECAR, mode="w", zarr_format=3, consolidated=False)


def _tiling(array: xr.DataArray, block: tuple[int, int]) -> dict[str, Any]:
    """Chunks that readers load, and shards that blocks write whole, where a block has several of them."""
    whole = tuple(max(sizes) for sizes in array.data.chunks)
    if not all(side > TILE and side % TILE == 0 for side in block):
        return {"chunks": whole}
    inner = tuple(TILE if dim in ("y", "x") else side for dim, side in zip(array.dims, whole, strict=True))
    return {"chunks": inner, "shards": whole}


def packed(values: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    """Pack a block of probabilities into bytes: 254 steps, and 255 for NaN.

    Raises
    ------
    StoreError
        If a value is no probability.
    """
    valid = values[~np.isnan(values)]
    least, most = (valid.min(), valid.max()) if valid.size else (0.0, 1.0)
    if least < -ROUNDING or most > 1 + ROUNDING:
        raise StoreError(
            f"compact=True packs probabilities, 0 to 1, and {name!r} holds values from {least:g} to {most:g}. Begin the store anew with "
            f"overwrite=True and compact=False, or with probabilities (percent / 100), or under a name that does not end in _probability."
        )
    steps = np.rint(np.clip(values, 0.0, 1.0) / STEP)
    return np.where(np.isnan(values), 255, steps).astype("uint8")


def consolidate(store: str | Store) -> None:
    """Gather the metadata of a finished store in one place, where plain xarray looks for them."""
    place = zarr.open_group(store, mode="r+", use_consolidated=False).store
    if place.supports_consolidated_metadata:
        with warnings.catch_warnings():
            # Zarr says that the format does not specify it; xarray warns where it is missing.
            warnings.filterwarnings("ignore", "Consolidated metadata", zarr.errors.ZarrUserWarning)
            zarr.consolidate_metadata(store, zarr_format=3)


def with_masked(attrs: Mapping[str, Any], layout: Layout, errors: Mapping[Block, str]) -> dict[str, Any]:
    """Return a store's attributes with the blocks that became nodata, and why."""
    masked = [
        {"block": list(block), "rows": list(rows), "columns": list(columns), "error": error}
        for block, error in sorted(errors.items())
        for rows, columns in [layout.spans(block)]
    ]
    return {key: value for key, value in attrs.items() if key != MASKED} | ({MASKED: masked} if masked else {})


def open_maps(store: "str | os.PathLike[str] | Store | Repository", *, codes: bool = False) -> xr.Dataset:
    """Open a map lazily.

    Parameters
    ----------
    store : str, path, Store or Repository
        A store that :func:`misoxr.io.zarr.to_zarr` wrote. Of an Icechunk repository, the latest commit of the branch ``main`` is opened; of one
        of its sessions, give ``session.store``.
    codes : bool, optional
        Give class maps as uint8 codes, 255 where there is no valid input. By default they are float32 with NaN there, as plain ``xr.open_zarr``
        has them, so that means and areas count valid pixels alone. Either is written as codes again.

    Returns
    -------
    Dataset
        Probabilities float32 with NaN, and class maps with their flags. ``attrs["provenance"]`` has the provenance, and
        ``attrs["masked_blocks"]`` the blocks that could not be read, both as JSON.

    Raises
    ------
    StoreError
        If there is no such store, or it cannot be read.

    Examples
    --------
    >>> maps.miso.to_zarr("maps.zarr")
    >>> maps = misoxr.open_maps("maps.zarr")
    >>> share = maps.permafrost.mean()  # of the pixels with valid input
    """
    place = readable(store)
    name = place if isinstance(place, str) else type(place).__name__
    remedy = f"misoxr.check({name!r}) tells what is damaged; to_zarr, called as the map was written, or a copy mends it."
    try:
        maps: xr.Dataset = xr.open_zarr(place, consolidated=False, mask_and_scale=False)
    except OSError as error:
        raise StoreError(f"There is no store of maps at {name} ({error}); give a store that to_zarr wrote.") from error
    except Exception as error:  # of whatever reads metadata and coordinates
        raise StoreError(f"The store {name} cannot be opened ({error!r}). {remedy}") from error
    changed = [fault.path for fault in metadata_faults(Files(place))] if isinstance(place, str) else []
    if changed:
        note(f"Metadata of the store {name} are not what was written: {', '.join(changed)}. {remedy}")
    if not maps.data_vars:
        what = f"is a pyramid; open one of its levels, such as {name}/0" if "multiscales" in maps.attrs else "holds no variables"
        raise StoreError(f"The store {name} {what}.")
    # Maps that plain xarray wrote again have lost the group.
    with suppress(FileNotFoundError):
        beside = xr.open_zarr(place, group=SIDECAR, consolidated=False).attrs
        maps.attrs["provenance"] = json.dumps(numbers(beside), sort_keys=True)
    name_errors(maps, name)
    maps = _decoded(maps, codes=codes)
    maps = _in_order(maps, maps.attrs.get(ORDER))
    reference = maps.variables.get("spatial_ref")
    if reference is not None and reference.shape == () and reference.dtype.kind in "iu":
        maps = maps.assign_coords(spatial_ref=reference.copy(data=code_of(int(reference.values))))
    own = {key: value for key, value in maps.attrs.items() if key not in OWN}
    maps.attrs = unreferenced({key: value if key == "provenance" else numbers(value) for key, value in own.items()})
    if MASKED in maps.attrs:
        maps.attrs[MASKED] = json.dumps(maps.attrs[MASKED])  # text, which netCDF holds, too
    written = done_of_unfinished(place)
    if written is not None:
        note(
            f"The store {name} is not finished: {len(written)} of its blocks are written, and the others are nodata. "
            "to_zarr, called as before, does what is left."
        )
    return maps


def _in_order(maps: xr.Dataset, order: Any) -> xr.Dataset:
    """Return a dataset with its variables in the order in which they were written, as far as the store tells it."""
    names = [name for name in ([order] if isinstance(order, str) else order or ()) if name in maps.data_vars]
    others = [name for name in maps.data_vars if name not in names]
    return maps.drop_vars([*names, *others]).assign({name: maps[name] for name in (*names, *others)})


def _decoded(maps: xr.Dataset, *, codes: bool) -> xr.Dataset:
    """Return what a store holds as what it stands for; integers that are no classes keep their type and fill value."""
    stored = {name: variable for name, variable in maps.data_vars.items() if _is_encoded(variable, codes=codes)}
    for variable in stored.values():
        if "scale_factor" in variable.attrs and variable.dtype.itemsize <= 2:
            variable.attrs["scale_factor"] = np.float32(variable.attrs["scale_factor"])  # its type is that of what is decoded
    maps = maps.assign(xr.decode_cf(maps[list(stored)]).data_vars) if stored else maps
    for name, one in maps.variables.items():
        if one.dtype.kind == "f":
            one.attrs.pop("_FillValue", None)  # NaN, which needs no words
        one.attrs = numbers(one.attrs)
        if name in maps.data_vars and one.dtype.kind in "fiub":
            read = read_from(maps[name]) if "flag_values" in one.attrs else None
            one.encoding = {READ: read} if read else {}  # what else it says holds for this store, not for another file
    return maps.assign({name: as_codes(maps[name]) for name in float_classes(maps)}) if codes else maps


def _is_encoded(variable: xr.DataArray, *, codes: bool) -> bool:
    """Whether what is stored of a variable is to be decoded."""
    fill = variable.attrs.get("_FillValue")
    if variable.dtype.kind == "f":
        return "scale_factor" in variable.attrs or (fill is not None and bool(np.isfinite(fill)))
    return "scale_factor" in variable.attrs or ("flag_values" in variable.attrs and fill is not None and not codes)


def _uniform(ds: xr.Dataset) -> xr.Dataset:
    """Give every map chunks of one size (the largest along each axis), as Zarr needs, each chunk written by one task."""
    maps = ds[[name for name, variable in ds.data_vars.items() if {"y", "x"} <= set(variable.dims)]]
    sizes: dict[Hashable, int] = {}
    for variable in maps.data_vars.values():
        for dim, chunks in variable.variable.chunksizes.items():  # those of its coordinates may differ
            sizes[dim] = max(sizes.get(dim, 0), max(chunks))
    return ds.assign(maps.chunk(sizes or {"y": BLOCK, "x": BLOCK}).data_vars)


def _encoding(variable: xr.Variable, *, data: bool) -> dict[str, Any]:
    """Chunks are all written, with checksums. Missing floats are NaN; integers keep the fill value they have."""
    own = {"compressors": COMPRESSORS, "write_empty_chunks": True}
    if np.issubdtype(variable.dtype, np.floating):
        return own | ({"_FillValue": np.array(np.nan, dtype=variable.dtype)[()]} if data else {})
    fill = fill_of(variable)
    return own if fill is None else own | {"fill_value": fill}  # so that a block that is not written yet is nodata
