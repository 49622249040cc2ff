"""Maps in Zarr: how a dataset is laid out, with CF and GeoZarr georeferencing, and opened again as it was."""

import json
import os
import warnings
from collections.abc import Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from odc.geo.geobox import GeoBox
from zarr.abc.store import Store

from misoxr.errors import MisoxrWarning, StoreError
from misoxr.grid import assign, geobox_of
from misoxr.ledger import COMPLETE, PLAN, Block, Ledger, system_of
from misoxr.maps import coded

if TYPE_CHECKING:
    from icechunk import Repository

__all__ = ["RECORD", "Layout", "fill_of", "lay_out", "layout_of", "note_masked", "open_maps", "packed", "progress_of"]

FINGERPRINT = "misoxr_fingerprint"
"""Attribute of a store that tells which records are its own."""
TILE = 512
"""Side of the chunks that readers load, pixels; a block of several is one shard."""
BLOCK = 2048
"""Side of the blocks of what is in memory, pixels."""
STEP = 1 / 254
"""Step of packed probabilities: at most half of it, 0.00197, is lost."""
_PACKED = {"dtype": "uint8", "scale_factor": STEP, "_FillValue": np.uint8(255), "fill_value": np.uint8(255)}

SIDECAR = "provenance"
"""Group whose attributes hold the provenance: zarr warns of files in a store that are no part of its hierarchy."""
RECORD = "progress"
"""Group of a repository whose array ``blocks`` says which blocks are done, and whose attributes are the plan."""

_CONVENTIONS = [
    {"uuid": uuid, "name": f"{name}:", "spec_url": f"https://github.com/zarr-conventions/{name}/blob/v0.1/README.md"}
    for name, uuid in (
        ("proj", "f17cb550-5864-4468-aeb7-f3180cfb622f"),
        ("spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4"),
    )
]


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
            If a variable of integers has no fill value.
        """
        variable = self.ds[name]
        fill = fill_of(variable)
        if fill is None:
            raise StoreError(
                f"The variable {name!r} ({variable.dtype}) has no _FillValue, so nodata cannot stand in for what cannot be read; "
                "give it one, or write with on_error='raise'."
            )
        return fill


def fill_of(variable: xr.DataArray | xr.Variable) -> Any:
    """Return what stands where nothing is known: NaN in floats, and in integers their fill value, None where they have none."""
    if np.issubdtype(variable.dtype, np.floating):
        return np.nan
    return variable.attrs.get("_FillValue", variable.encoding.get("_FillValue"))


def layout_of(ds: xr.Dataset, *, compact: bool = False) -> Layout:
    """Lay a dataset out in blocks, which are its chunks.

    Raises
    ------
    GridError
        If it has no regular grid or CRS.
    """
    geobox = geobox_of(ds)
    attrs = {**{key: value for key, value in ds.attrs.items() if key != FINGERPRINT}, **_geozarr(geobox)}
    out = assign(_uniform(coded(ds)), geobox)
    out.attrs = attrs
    blocked = tuple(
        str(name)
        for name, array in out.data_vars.items()
        if {"y", "x"} <= set(array.dims) and array.dtype.kind in "fiub" and array.chunks
    )
    block = tuple(out[blocked[0]].chunksizes[dim][0] for dim in ("y", "x")) if blocked else geobox.shape.yx
    return Layout(out, (int(block[0]), int(block[1])), blocked, compact)


def lay_out(layout: Layout, store: str | Store, fingerprint: str) -> None:
    """Write all of a store but its blocks."""
    out = layout.ds.assign_attrs({FINGERPRINT: fingerprint})
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
    out.to_zarr(store, mode="w", zarr_format=3, consolidated=False, compute=False, encoding=encoding, safe_chunks=False)
    if provenance is not None:
        beside = xr.Dataset(attrs=json.loads(provenance))
        beside.to_zarr(store, group=SIDECAR, mode="w", zarr_format=3, consolidated=False)


def _tiling(array: xr.DataArray, block: tuple[int, int]) -> dict[str, Any]:
    """Chunks that readers load, and shards that blocks write whole, where a block has several of them."""
    whole = tuple(max(sizes) for sizes in array.data.chunks)
    if not all(side > TILE and side % TILE == 0 for side in block):
        return {"chunks": whole}
    inner = tuple(TILE if dim in ("y", "x") else side for dim, side in zip(array.dims, whole, strict=True))
    return {"chunks": inner, "shards": whole}


def packed(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Pack probabilities into bytes: 254 steps, and 255 for NaN."""
    steps = np.rint(np.clip(values, 0.0, 1.0) / STEP)
    return np.where(np.isnan(values), 255, steps).astype("uint8")


def note_masked(group: zarr.Group, layout: Layout, errors: Mapping[Block, str]) -> None:
    """Note in a store the blocks that nodata stand in for, and why."""
    if errors:
        group.attrs["masked_blocks"] = [
            {"block": list(block), "rows": list(rows), "columns": list(columns), "error": error}
            for block, error in sorted(errors.items())
            for rows, columns in [layout.spans(block)]
        ]
    elif "masked_blocks" in group.attrs:
        del group.attrs["masked_blocks"]


def progress_of(uri: str) -> str:
    """Return where the records of a store lie."""
    return f"{uri.rstrip('/')}.progress"


def open_maps(store: "str | os.PathLike[str] | Store | Repository") -> xr.Dataset:
    """Open a map lazily, with class maps as uint8 codes (plain xarray would turn them into floats).

    Parameters
    ----------
    store : str, path, Store or Repository
        What :func:`to_zarr` wrote; of an Icechunk repository, the latest commit of the branch ``main``, of one of its sessions,
        ``session.store``.

    Returns
    -------
    Dataset
        Probabilities float32 with NaN, class maps uint8 with 255 where there is no valid input; the provenance, as JSON, in
        ``attrs["provenance"]``.

    Raises
    ------
    StoreError
        If there is no such store, or it cannot be read.
    """
    place = _readable(store)
    name = place if isinstance(place, str) else type(place).__name__
    try:
        maps: xr.Dataset = xr.open_zarr(place, consolidated=False, mask_and_scale=False)
    except OSError as error:
        raise StoreError(f"There is no store of maps at {name} ({error}); give what to_zarr wrote to.") from error
    if not maps.data_vars:
        what = f"is a pyramid; open one of its levels, such as {name}/0" if "multiscales" in maps.attrs else "holds no variables"
        raise StoreError(f"The store {name} {what}.")
    # Maps that plain xarray wrote again have lost the group.
    with suppress(FileNotFoundError):
        beside = xr.open_zarr(place, group=SIDECAR, consolidated=False).attrs
        maps.attrs["provenance"] = json.dumps(beside, sort_keys=True)
    maps.attrs.pop(FINGERPRINT, None)
    packed = [key for key, variable in maps.data_vars.items() if "scale_factor" in variable.attrs]
    for key in packed:
        maps[key].attrs["scale_factor"] = np.float32(maps[key].attrs["scale_factor"])  # its type is that of what is decoded
    maps = maps.assign(xr.decode_cf(maps[packed]).data_vars) if packed else maps
    for variable in maps.variables.values():
        if np.issubdtype(variable.dtype, np.floating):
            variable.attrs.pop("_FillValue", None)  # NaN, which needs no words
    written = _written_of_unfinished(place)
    if written is not None:
        warnings.warn(
            f"The store {name} is not finished: {written} of its blocks are written, and the others are nodata. "
            "to_zarr, called as before, does what is left.",
            MisoxrWarning,
            stacklevel=2,
        )
    return maps


def _readable(store: "str | os.PathLike[str] | Store | Repository") -> str | Store:
    """Return an address, or what zarr reads from: of a repository, its branch main."""
    if hasattr(store, "readonly_session"):
        return cast(Store, store.readonly_session("main").store)
    if isinstance(store, Store):
        return store
    if not isinstance(store, str | os.PathLike):
        raise StoreError(f"Maps are not opened from a {type(store).__name__}; give a path, a URL, a Repository, or session.store.")
    uri = os.fspath(store)
    system_of(uri)  # tells what is wrong with a URL
    return uri


def _written_of_unfinished(place: str | Store) -> int | None:
    """Count the blocks of a store that is not written to its end; a store without records says nothing of it."""
    if isinstance(place, str):
        ledger = Ledger(progress_of(place))
        return len(ledger.done()) if ledger.has(PLAN) and not ledger.has(COMPLETE) else None
    with suppress(FileNotFoundError, KeyError):
        done: Any = zarr.open_array(place, path=f"{RECORD}/blocks", mode="r")[...]
        return None if np.all(done) else int(np.count_nonzero(done))
    return None


def _uniform(ds: xr.Dataset) -> xr.Dataset:
    """Give every variable chunks of one size (the first along each axis), as Zarr needs, each chunk written by one task."""
    sizes: dict[Hashable, int] = {}
    for variable in ds.data_vars.values():
        for dim, chunks in variable.chunksizes.items():
            sizes[dim] = max(sizes.get(dim, 0), max(chunks))
    return ds.chunk(sizes or {"y": BLOCK, "x": BLOCK})


def _encoding(variable: xr.Variable, *, data: bool) -> dict[str, Any]:
    """Missing floats are NaN; integers keep the fill value they have."""
    if np.issubdtype(variable.dtype, np.floating):
        return {"_FillValue": np.array(np.nan, dtype=variable.dtype)[()]} if data else {}
    fill = fill_of(variable)
    own = {key: value for key, value in variable.encoding.items() if key == "_FillValue"}
    return own | ({} if fill is None else {"fill_value": fill})  # so that a block that is not written yet is nodata


def _geozarr(geobox: GeoBox) -> dict[str, Any]:
    """Attributes of the GeoZarr conventions proj and spatial."""
    assert geobox.crs is not None
    bounds = geobox.boundingbox
    attrs: dict[str, Any] = {
        "zarr_conventions": _CONVENTIONS,
        "proj:wkt2": geobox.crs.to_wkt(),
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": [float(value) for value in tuple(geobox.affine)[:6]],
        "spatial:bbox": [bounds.left, bounds.bottom, bounds.right, bounds.top],
        "spatial:shape": [int(geobox.shape.y), int(geobox.shape.x)],
        "spatial:registration": "pixel",
    }
    if geobox.crs.epsg:
        attrs["proj:code"] = f"EPSG:{geobox.crs.epsg}"
    return attrs
