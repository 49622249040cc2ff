"""Results of hydrology as datasets and stores, and the records of those that are not finished."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from misoxr._version import __version__
from misoxr.cube.join import mark_of
from misoxr.errors import StoreError
from misoxr.grid.geobox import assign, geobox_of
from misoxr.grid.geozarr import georeferenced, unreferenced
from misoxr.paths import expanded, scratch, settle, writing
from misoxr.records.ledger import Ledger

__all__ = [
    "ELEVATIONS",
    "FINGERPRINT",
    "NAMES",
    "check_replaceable",
    "described",
    "fingerprint_of",
    "forget",
    "kept",
    "opened_results",
    "place_of",
    "written",
]

_ATTRIBUTES = {
    "catchment_area": {"long_name": "catchment area, by multiple flow directions", "units": "m2"},
    "stream_power_index": {"long_name": "stream power index: catchment area times tangent of slope", "units": "m2"},
    "wetness_index": {"long_name": "SAGA wetness index", "units": "1"},
}
NAMES = tuple(_ATTRIBUTES)
"""Variables, in the order in which they are computed."""
FINGERPRINT = "misoxr_hydrology"
"""Attribute of a store: of which grid and settings it is."""
ELEVATIONS = "misoxr_hydrology_elevations"
"""Attribute of a store: the hash of the elevations."""


def described(data: Mapping[str, Any], z: xr.DataArray, pits: str) -> xr.Dataset:
    """Return results over y and x on a DEM's grid, with their names and units, and where they come from."""
    arrays = {name: (("y", "x"), data[name], attrs) for name, attrs in _ATTRIBUTES.items()}
    attrs = {"misoxr_version": __version__, "pits": pits} | mark_of(z.attrs)
    out: xr.Dataset = assign(xr.Dataset(arrays, attrs=attrs), geobox_of(z))
    return out


def fingerprint_of(z: xr.DataArray, side: tuple[int, int], pits: str) -> str:
    """Return a hash of all but the elevations that must be the same for two runs to make one store.

    What Dask calls a DEM does not count: a store that was written to in place is called what it was called before.
    """
    box = geobox_of(z)
    grid = [str(box.crs), *(float(value) for value in tuple(box.affine)[:6]), *box.shape.yx]
    plan = [__version__, grid, side, pits]
    return hashlib.sha256(json.dumps(plan).encode()).hexdigest()


def place_of(store: str | os.PathLike[str]) -> Path:
    """Return where a store lies on the disk.

    Raises
    ------
    StoreError
        If it is elsewhere.
    """
    text = expanded(store)
    if "://" in text:
        raise StoreError(
            f"Hydrology is computed on a disk, and {text} is none; leave store out, and write with .miso.to_zarr({text!r})."
        )
    return Path(text).absolute()


@contextmanager
def kept(directory: Path, fingerprint: str, *, overwrite: bool = False) -> Iterator[Ledger]:
    """Keep records in a directory, those of a run before if it is there; it is removed at the end, unless an error comes.

    Raises
    ------
    StoreError
        If what lies there is of another DEM or of other settings, or another process works on it.
    """
    ledger = Ledger(str(directory))
    with writing(directory, alone=False):
        if ledger.busy():
            raise StoreError(f"Another process computes hydrology in {directory}; wait for it, or give another store.")
        begun = ledger.plan()
        if begun is not None and begun["fingerprint"] != fingerprint:
            if not overwrite:
                raise StoreError(
                    f"{directory} was begun with another DEM, blocks, settings or version of misoxr; give the same, another store, or "
                    "overwrite=True to begin anew."
                )
            ledger.forget()
        with ledger.alive():
            ledger.agree({"fingerprint": fingerprint}, lambda: None)
            if ledger.busy():
                raise StoreError(f"Another process began hydrology in {directory} at the same time; call it once.")
            yield ledger
            ledger.forget()


def forget(directory: Path, fingerprint: str) -> None:
    """Remove the records of a finished store, which a process left that was killed between its last two steps."""
    ledger = Ledger(str(directory))
    if (ledger.plan() or {}).get("fingerprint") == fingerprint and not ledger.busy():
        ledger.forget()


def check_replaceable(place: Path) -> None:
    """Refuse to replace what is no store.

    Raises
    ------
    StoreError
        If there is something else.
    """
    if place.exists() and not (place / "zarr.json").exists():
        raise StoreError(f"{place} exists and is no Zarr v3 store, so it is not replaced; give another path.")


@contextmanager
def written(place: Path, z: xr.DataArray, side: tuple[int, int], pits: str, marks: Mapping[str, str]) -> Iterator[Any]:
    """Give the arrays of a new store to write to; it comes to its place, whole, at the end, unless an error comes."""
    chunks = tuple(min(2 * one, whole) for one, whole in zip(side, z.shape, strict=True))
    out = described({name: da.zeros(z.shape, chunks=chunks, dtype="float32") for name in NAMES}, z, pits)
    out.attrs = georeferenced(out.attrs, geobox_of(z)) | dict(marks)
    codecs = {"compressors": (ZstdCodec(), Crc32cCodec()), "write_empty_chunks": True}
    encoding = {name: {"chunks": chunks, "_FillValue": np.float32(np.nan), **codecs} for name in NAMES}
    with scratch(place, directory=True) as aside, warnings.catch_warnings():
        # Zarr says that the format does not specify consolidated metadata; xarray warns where they are missing.
        warnings.filterwarnings("ignore", "Consolidated metadata", zarr.errors.ZarrUserWarning)
        out.to_zarr(aside / "zarr", mode="w", zarr_format=3, consolidated=True, compute=False, encoding=encoding)
        yield zarr.open_group(aside / "zarr", mode="r+")
        settle(aside / "zarr", place)


def opened_results(place: Path, fingerprint: str, elevations: Callable[[], str]) -> xr.Dataset:
    """Open a finished store lazily; the hash of the elevations is asked for where all else is right.

    Raises
    ------
    StoreError
        If it is no such store, or of another DEM or of other settings.
    """
    try:
        out: xr.Dataset = xr.open_zarr(place, consolidated=False, decode_coords="all")
    except Exception as error:  # of whatever reads metadata
        raise StoreError(f"{place} exists and cannot be opened ({error}); give another path, or overwrite=True.") from error
    if out.attrs.get(FINGERPRINT) != fingerprint or out.attrs.get(ELEVATIONS) != elevations():
        raise StoreError(
            f"The store {place} exists, and is not of this DEM, its blocks, these settings and this version of misoxr; give another path, "
            "or overwrite=True to replace it."
        )
    out.attrs = {key: value for key, value in unreferenced(out.attrs).items() if key not in (FINGERPRINT, ELEVATIONS)}
    return assign(out, geobox_of(out))  # type: ignore[no-any-return]
