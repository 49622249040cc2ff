"""Find the stores that a lazy dataset is read from."""

import os
from collections.abc import Iterator
from typing import Any

import xarray as xr
import zarr

__all__ = ["reads_from"]


def reads_from(ds: xr.Dataset, store: str) -> bool:
    """Return whether a lazy dataset is read from the Zarr store at an address; False where there is none."""
    try:
        place = _place(zarr.open_group(store, mode="r", use_consolidated=False))
    except (FileNotFoundError, ValueError):
        return False
    return any(_place(array).startswith(f"{place}/") for array in _arrays(ds))


def _arrays(ds: xr.Dataset) -> "Iterator[zarr.Array[Any]]":
    """Yield the Zarr arrays that a dataset's graph begins with, as xarray opens them."""
    for variable in ds.variables.values():
        layers = variable.data.__dask_graph__().layers if variable.chunks is not None else {}
        for name, layer in layers.items():
            if str(name).startswith("original-"):
                for node in layer.values():
                    found: Any = getattr(node, "value", node)
                    while not isinstance(found, zarr.Array | None):
                        found = getattr(found, "array", getattr(found, "_array", None))
                    if found is not None:
                        yield found


def _place(node: "zarr.Array[Any] | zarr.Group") -> str:
    """Return where a node lies: the path on its file system, whose kind goes before."""
    store: Any = node.store
    if hasattr(store, "root"):
        return f"{os.path.realpath(store.root)}/{node.path}".rstrip("/")
    return f"{type(getattr(store, 'fs', store)).__name__}:{getattr(store, 'path', '')}/{node.path}".rstrip("/")
