"""Maps in Zarr: written block by block with CF and GeoZarr georeferencing, and opened again as they were."""

import json
import os
from collections.abc import Hashable
from contextlib import suppress
from typing import Any

import dask.base
import fsspec
import numpy as np
import xarray as xr
from fsspec.implementations.local import LocalFileSystem
from odc.geo.geobox import GeoBox
from tqdm.dask import TqdmCallback

from misoxr.errors import MisoxrError, StoreError
from misoxr.grid import assign, geobox_of

__all__ = ["open_maps", "to_zarr"]

SIDECAR = "provenance"
"""Group whose attributes hold the provenance: zarr warns of files in a store that are no part of its hierarchy."""

_CONVENTIONS = [
    {"uuid": uuid, "name": f"{name}:", "spec_url": f"https://github.com/zarr-conventions/{name}/blob/v0.1/README.md"}
    for name, uuid in (
        ("proj", "f17cb550-5864-4468-aeb7-f3180cfb622f"),
        ("spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4"),
    )
]


def to_zarr(ds: xr.Dataset, store: str | os.PathLike[str], *, overwrite: bool = False, progress: bool = True) -> None:
    """Compute a dataset block by block and write it as a Zarr v3 group.

    The store opens with plain ``xr.open_zarr``, rioxarray and odc-geo with its CRS: CF ``spatial_ref`` and
    ``grid_mapping``, and the GeoZarr ``proj:`` and ``spatial:`` attributes. The provenance goes to the attributes of the
    group ``provenance`` in the store.

    Parameters
    ----------
    ds : Dataset
        Lazy or not, on a grid with CRS.
    store : str or path
        A local path or fsspec URL.
    overwrite : bool, optional
        Replace a Zarr store that is there, once the new one is written beside it; otherwise a store that exists is an error.
    progress : bool, optional
        Show a progress bar.

    Raises
    ------
    StoreError
        If the store exists, is to be replaced and is no Zarr store, or cannot be written.
    GridError
        If the dataset has no regular grid or CRS.
    """
    uri = os.fspath(store).rstrip("/")
    filesystem, path = fsspec.core.url_to_fs(uri)
    uri = path if isinstance(filesystem, LocalFileSystem) else uri
    replace = filesystem.exists(path)
    if replace and not overwrite:
        raise StoreError(f"The store {uri} exists; give another path, or overwrite=True to replace it.")
    if replace and not filesystem.exists(f"{path}/zarr.json"):
        raise StoreError(f"{uri} exists and is no Zarr v3 store, so it is not replaced; give another path.")
    # A store appears under its name when all is written, so an interrupted write is never taken for a map; and what is to be
    # replaced stays until then, because the dataset may be read from it. Object stores, where moving is copying, are
    # written in place.
    aside = replace or isinstance(filesystem, LocalFileSystem)
    target = f"{uri}.new" if aside else uri
    try:
        _write(ds, target, progress=progress)
        if replace:
            filesystem.rm(path, recursive=True)
        if aside:
            filesystem.mv(f"{path}.new", path, recursive=True)
    except MisoxrError:
        raise
    except OSError as error:
        raise StoreError(f"The store {uri} cannot be written: {error}") from error


def _write(ds: xr.Dataset, uri: str, *, progress: bool) -> None:
    geobox = geobox_of(ds)
    attrs = {**ds.attrs, **_geozarr(geobox)}
    provenance = attrs.pop("provenance", None) if "provenance_sha256" in attrs else None
    out = assign(_uniform(ds), geobox)
    out.attrs = attrs
    # An entry for every variable: what the encoding keeps of another file (chunks, packing) would not fit this one.
    encoding = {name: _encoding(variable, data=name in out.data_vars) for name, variable in out.variables.items()}
    write = out.to_zarr(uri, mode="w", zarr_format=3, consolidated=False, compute=False, encoding=encoding)
    if provenance is not None:
        beside = xr.Dataset(attrs=json.loads(provenance))
        beside.to_zarr(uri, group=SIDECAR, mode="w", zarr_format=3, consolidated=False)
    _compute(write, progress=progress)


def open_maps(store: str | os.PathLike[str]) -> xr.Dataset:
    """Open a map lazily, with class maps as uint8 codes (plain xarray would turn them into floats).

    Parameters
    ----------
    store : str or path
        What :func:`to_zarr` wrote.

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
    uri = os.fspath(store)
    try:
        maps: xr.Dataset = xr.open_zarr(uri, consolidated=False, mask_and_scale=False)
    except OSError as error:
        raise StoreError(f"There is no store of maps at {uri} ({error}); give the path that to_zarr wrote to.") from error
    # Maps that plain xarray wrote again have lost the group.
    with suppress(FileNotFoundError):
        beside = xr.open_zarr(uri, group=SIDECAR, consolidated=False).attrs
        maps.attrs["provenance"] = json.dumps(beside, sort_keys=True)
    for variable in maps.variables.values():
        if np.issubdtype(variable.dtype, np.floating):
            variable.attrs.pop("_FillValue", None)  # NaN, which needs no words
    return maps


def _uniform(ds: xr.Dataset) -> xr.Dataset:
    """Give every variable chunks of one size (the first along each axis), as Zarr needs, each chunk written by one task."""
    sizes: dict[Hashable, int] = {}
    for variable in ds.data_vars.values():
        for dim, chunks in variable.chunksizes.items():
            sizes[dim] = max(sizes.get(dim, 0), max(chunks))
    return ds.chunk(sizes) if sizes else ds


def _encoding(variable: xr.Variable, *, data: bool) -> dict[str, Any]:
    """Missing floats are NaN; integers keep the fill value they have."""
    if np.issubdtype(variable.dtype, np.floating):
        return {"_FillValue": np.array(np.nan, dtype=variable.dtype)[()]} if data else {}
    return {key: value for key, value in variable.encoding.items() if key == "_FillValue"}


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


def _compute(write: Any, *, progress: bool) -> None:
    try:
        from distributed import get_client
        from distributed import progress as bar

        client = get_client()
    except (ImportError, ValueError):
        with TqdmCallback(desc="to_zarr", disable=not progress, mininterval=1.0):
            dask.base.compute(write)
        return
    future = client.compute(write)
    if progress:
        bar(future, notebook=False)
    future.result()
