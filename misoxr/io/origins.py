"""What is read from stores: addresses and files, the chunks of an array, and the arrays that a lazy dataset begins with."""

import asyncio
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from misoxr.errors import StoreError
from misoxr.paths import expanded
from misoxr.records.ledger import Block
from misoxr.records.writers import put_through, remove_through, system_of, unreachable

if TYPE_CHECKING:
    from icechunk import Repository

__all__ = [
    "Disk",
    "Files",
    "Index",
    "ZarrArray",
    "block_of",
    "file_of",
    "grid_of",
    "meeting",
    "name_errors",
    "readable",
    "reads_from",
    "region_of",
    "writable",
]

Index = tuple[int, ...]
"""Of a file among those of an array, along each dimension."""
ZarrArray = Any
"""A ``zarr.Array``, which is generic in what it holds."""


def readable(store: "str | os.PathLike[str] | Store | Repository") -> str | Store:
    """Return an address, or what zarr reads from: of a repository, its branch main.

    Raises
    ------
    StoreError
        If it is none of these, or nothing that is installed serves the address.
    """
    if hasattr(store, "readonly_session"):
        return cast(Store, store.readonly_session("main").store)
    if isinstance(store, Store):
        return store
    if not isinstance(store, str | os.PathLike):
        raise StoreError(f"Maps are not opened from a {type(store).__name__}; give a path, a URL, a Repository, or session.store.")
    uri = expanded(store)
    system_of(uri)  # tells what is wrong with a URL
    return uri


class Disk(LocalStore):
    """A store on a disk, into which all goes by way of its writer's directory; see :func:`misoxr.records.writers.put_through`."""

    def __init__(self, root: str | Path, own: Path, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self._own = own

    def with_read_only(self, read_only: bool = False) -> "Disk":
        """Return the same store, to be read alone or to be written, too."""
        return Disk(self.root, self._own, read_only=read_only)

    async def set(self, key: str, value: Any) -> None:
        """Put a file in place, flushed: a record of it must not outlive it."""
        await asyncio.to_thread(self.set_sync, key, value)

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        """Put a file in place, unless there is one."""
        with suppress(FileExistsError):
            await asyncio.to_thread(self.set_sync, key, value, new=True)

    async def delete(self, key: str) -> None:
        """Remove a file."""
        await asyncio.to_thread(self.delete_sync, key)

    def set_sync(self, key: str, value: Any, *, new: bool = False) -> None:
        """Put a file in place."""
        put_through(self._own, self.root / key, value.as_buffer_like(), new=new, flush=True)

    def delete_sync(self, key: str) -> None:
        """Remove a file."""
        remove_through(self._own, self.root / key)


def writable(uri: str, own: Path | None) -> str | Disk:
    """Return where zarr writes a store, on a disk by way of its writer's directory."""
    return uri if own is None else Disk(uri, own)


@dataclass(frozen=True)
class Files:
    """The files of a store.

    Attributes
    ----------
    place : str or Store
        Address of the store, or what zarr reads from.
    """

    place: str | Store

    @cached_property
    def _at(self) -> tuple[Any, str]:
        return system_of(cast(str, self.place))

    def read(self, name: str) -> bytes | None:
        """Return what a file holds; None where there is none."""
        if isinstance(self.place, Store):
            data = sync(self.place.get(name, default_buffer_prototype()))
            return None if data is None else data.to_bytes()
        system, path = self._at
        try:
            return bytes(system.cat_file(f"{path}/{name}"))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, data: bytes) -> None:
        """Write a file."""
        if isinstance(self.place, Store):
            sync(self.place.set(name, default_buffer_prototype().buffer.from_bytes(data)))
            return
        system, path = self._at
        system.pipe_file(f"{path}/{name}", data)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        if isinstance(self.place, Store):
            sync(self.place.delete(name))
            return
        system, path = self._at
        if system.exists(f"{path}/{name}"):
            system.rm_file(f"{path}/{name}")

    def __str__(self) -> str:
        return str(getattr(self.place, "root", self.place))

    def json(self, name: str) -> dict[str, Any] | None:
        """Return the metadata that a file holds; None where there is none.

        Raises
        ------
        ValueError
            If it holds something else.
        """
        data = self.read(name)
        found = None if data is None else json.loads(data)
        if not isinstance(found, dict | None):
            raise ValueError(f"it holds a {type(found).__name__}")
        return found


# ---- the files of an array, which are its chunks, or shards of several chunks


def grid_of(array: ZarrArray) -> tuple[Index, Index]:
    """Return the shape of what is one file, a chunk or shard, and how many of them there are along each dimension."""
    sizes = array.shards or array.chunks
    return sizes, tuple(math.ceil(length / size) for length, size in zip(array.shape, sizes, strict=True))


def file_of(array: ZarrArray, index: Index) -> str:
    """Return the name of a file of an array, within its store."""
    return f"{array.path}/{array.metadata.encode_chunk_key(index)}"


def region_of(array: ZarrArray, index: Index) -> tuple[slice, ...]:
    """Return which part of an array a file holds."""
    sizes, _ = grid_of(array)
    return tuple(slice(at * size, (at + 1) * size) for at, size in zip(index, sizes, strict=True))


def block_of(array: ZarrArray) -> Callable[[Index], Block]:
    """Return what tells the block of a file of an array of maps."""
    dims = list(array.metadata.dimension_names)
    row, column = dims.index("y"), dims.index("x")
    return lambda index: (index[row], index[column])


def meeting(array: ZarrArray, region: Any) -> Iterator[Index]:
    """Yield the chunks that a selection meets."""
    sizes, counts = grid_of(array)
    parts = (*(region if isinstance(region, tuple) else (region,)), *(slice(None),) * len(sizes))
    along = [
        np.unique(np.arange(length)[part] // size).tolist() for part, length, size in zip(parts, array.shape, sizes, strict=False)
    ]
    yield from product(*along) if all(along) else product(*map(range, counts))


# ---- what a lazy dataset reads


def _holders(ds: xr.Dataset) -> Iterator[Any]:
    """Yield what holds the Zarr arrays that a dataset's graph begins with, as xarray opens them."""
    for variable in ds.variables.values():
        layers = variable.data.__dask_graph__().layers if variable.chunks is not None else {}
        for name, layer in layers.items():
            if str(name).startswith("original-"):
                for node in layer.values():
                    found: Any = getattr(node, "value", node)
                    while found is not None and not isinstance(getattr(found, "_array", None), zarr.Array | Named):
                        found = getattr(found, "array", None)
                    if found is not None:
                        yield found


def _arrays_read(ds: xr.Dataset) -> Iterator[ZarrArray]:
    """Yield the Zarr arrays that a dataset's graph begins with."""
    for holder in _holders(ds):
        yield holder._array.array if isinstance(holder._array, Named) else holder._array


@dataclass(frozen=True, eq=False)
class Named:
    """A Zarr array whose errors say what cannot be read; it is read as xarray does."""

    array: ZarrArray
    store: str
    how: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's."""
        return cast(tuple[int, ...], self.array.shape)

    @property
    def oindex(self) -> "Named":
        """Read by positions along each dimension."""
        return replace(self, how="oindex")

    @property
    def vindex(self) -> "Named":
        """Read by points."""
        return replace(self, how="vindex")

    @property
    def _async_array(self) -> Any:
        return self.array._async_array

    def __getitem__(self, key: Any) -> Any:
        try:
            return (getattr(self.array, self.how) if self.how else self.array)[key]
        except unreachable() as error:
            raise StoreError(
                f"The array {self.array.path!r} of the store {self.store} cannot be read ({error}). When the cause is mended, read it again."
            ) from error
        except Exception as error:
            raise StoreError(
                f"The array {self.array.path!r} of the store {self.store} cannot be read: {self._which(key) or error}. misoxr.check(store) "
                "tells all that is damaged; to_zarr, called as the map was written, computes it again."
            ) from error

    def _which(self, key: Any) -> str:
        """Say which chunk is damaged."""
        for index in meeting(self.array, key):
            try:
                self.array[region_of(self.array, index)]
            except Exception as error:
                return f"{file_of(self.array, index)} is damaged ({error})"
        return ""


def name_errors(ds: xr.Dataset, store: str) -> None:
    """Have errors of a lazy dataset name the store, the array and the chunk; its graph and its names stay the same."""
    for holder in _holders(ds):
        if not isinstance(holder._array, Named):
            holder._array = Named(holder._array, store)


def reads_from(ds: xr.Dataset, store: str) -> bool:
    """Return whether a lazy dataset is read from the Zarr store at an address; False where there is none that can be opened."""
    try:
        place = _place(zarr.open_group(store, mode="r", use_consolidated=False))
    except Exception:  # what is damaged is told by those who write it or read it
        return False
    return any(_place(array).startswith(f"{place}/") for array in _arrays_read(ds))


def _place(node: "zarr.Array[Any] | zarr.Group") -> str:
    """Return where a node lies: the path on its file system, whose kind goes before."""
    store: Any = node.store
    if hasattr(store, "root"):
        return f"{os.path.realpath(store.root)}/{node.path}".rstrip("/")
    return f"{type(getattr(store, 'fs', store)).__name__}:{getattr(store, 'path', '')}/{node.path}".rstrip("/")
