"""Write maps to cloud-optimised GeoTIFFs."""

import os
import re
import uuid
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
import xarray as xr
import zarr
from dask.system import CPU_COUNT
from fsspec.implementations.local import LocalFileSystem
from rasterio._err import CPLE_BaseError
from rasterio.dtypes import check_dtype

from misoxr.cube.decode import flags_of
from misoxr.cube.join import is_direction
from misoxr.errors import BandError, GridError, MisoxrError, SpecError, StoreError
from misoxr.grid.geobox import assign, geobox_of, with_mappings
from misoxr.grid.geozarr import unreferenced
from misoxr.io.codes import codes_of, float_classes, with_all_codes, with_known_codes
from misoxr.io.layout import fill_of, open_maps
from misoxr.io.replace import located
from misoxr.io.storable import storable
from misoxr.io.zarr import write
from misoxr.paths import scratch, settle, workspace
from misoxr.records.bars import Bar

__all__ = ["chosen_maps", "as_stored", "is_map", "to_cog", "naming"]

_CACHE = 64 * 2**20
"""What GDAL keeps of tiles, bytes, and twice what it copies or reduces at once: by default, they are shares of the machine's memory
and too little for several bands, whose tiles are then read several times."""
_GDAL = {"GDAL_CACHEMAX": _CACHE, "GDAL_SWATH_SIZE": _CACHE // 2, "GDAL_OVR_CHUNK_MAX_SIZE": _CACHE // 2}
_LEFT_OUT = {"provenance", "_FillValue", "grid_mapping"}
"""Attributes that are no tags: the whole provenance is JSON of many kilobytes; its hash stays."""
_COLOR = re.compile("#[0-9a-fA-F]{6}")


def to_cog(
    ds: xr.Dataset,
    directory: str | os.PathLike[str],
    *,
    variables: Sequence[str] | None = None,
    classes: str = "mode",
    blocksize: int = 512,
    overwrite: bool = False,
    progress: bool = True,
) -> list[str]:
    """Compute maps block by block and write each to a cloud-optimised GeoTIFF, ``<directory>/<variable>.tif``.

    All variables are computed together into a temporary store in the directory. GDAL makes the files from it, so nothing is computed twice and
    no map is ever in memory whole. Each file appears under its name when it is complete.

    Parameters
    ----------
    ds : Dataset
        Lazy or not, on a grid with CRS: maps (y, x), or of several bands (class, y, x).
    directory : str or path
        A local path or a URL of fsspec (``s3://...``), created if it is missing. Dask workers must reach it, too.
    variables : sequence of str, optional
        Which variables; by default all with dimensions y and x. True and False are written as 1 and 0, in uint8.
    classes : {"mode", "nearest"}, optional
        How GDAL makes overviews of class maps and other integers. Overviews of other maps are means of valid pixels. Directions, such as
        ``aspect``, take the nearest.
    blocksize : int, optional
        Side of the tiles in pixels, a multiple of 16 of at least 128. Overviews go on until the map fits into a tile.
    overwrite : bool, optional
        Replace files that exist, each once the new one is complete. Otherwise a file that exists is an error.
    progress : bool, optional
        Show progress bars.

    Returns
    -------
    list of str
        Paths or URLs of the files, in the order of the variables.

    Raises
    ------
    BandError
        If a variable is missing, or a GeoTIFF cannot hold its values or colours.
    GridError
        If the dataset has no regular grid or CRS, or a variable is not (y, x) or (band, y, x).
    SpecError
        If ``classes`` or ``blocksize`` is not valid.
    StoreError
        If a file exists, or the directory cannot be written.

    Notes
    -----
    Attributes of the dataset and the variable become tags of the file, so simulated maps say so. The palette of class maps is their
    ``flag_colors``; the names are in the tag ``flag_meanings``.

    Examples
    --------
    >>> paths = maps.miso.to_cog("geotiffs", variables=["permafrost_probability"])
    """
    if classes not in ("mode", "nearest"):
        raise SpecError(f"classes is {classes!r}; it must be 'mode' or 'nearest'.")
    if blocksize < 128 or blocksize % 16:
        raise SpecError(f"The block size is {blocksize}; it must be a multiple of 16 of at least 128, such as 512.")
    if os.fspath(directory).lower().endswith((".tif", ".tiff")):
        raise StoreError(f"{os.fspath(directory)!r} is named as a file, and each variable gets one of its own: give a directory.")
    maps = as_stored(chosen_maps(ds, variables))
    for array in maps.values():
        _palette(array)  # tells what is wrong with it
    uri, system, path = located(directory)
    there = [f"{name}.tif" for name in maps if system.exists(f"{path}/{name}.tif")]
    if there and not overwrite:
        raise StoreError(f"{there} exist in {uri}; give another directory, or overwrite=True to replace them.")
    bar = Bar("to_cog", "blocks", shown=progress, stage="planning")
    with bar, naming(uri), _scratch(uri, system, path) as (stage, files):
        write(maps, stage, bar)
        stored = zarr.open_group(stage, mode="r", use_consolidated=False)
        maps = _with_all_codes(maps, stage)
        for name in maps:
            bar.stage(f"writing {name}.tif")
            file = files / f"{name}.tif"
            with rasterio.Env(**_GDAL):
                _write(file, maps, name, stored[str(name)], classes, blocksize)
            if isinstance(system, LocalFileSystem):
                settle(file, Path(path) / file.name)
            else:
                system.put_file(str(file), f"{path}/{file.name}")
                file.unlink()
        bar.stage()
    return [f"{uri}/{name}.tif" for name in maps]


# What a map is


def chosen_maps(ds: xr.Dataset, variables: Sequence[str] | None) -> xr.Dataset:
    """Return the chosen maps, with y and x last."""
    if isinstance(variables, str):
        raise BandError(f"variables is {variables!r}; give a list of names, [{variables!r}].")
    ds = with_mappings(ds)
    there = [name for name, array in ds.data_vars.items() if is_map(array)]
    missing = [name for name in variables or () if name not in ds.data_vars]
    if missing:
        raise BandError(f"The dataset has no variables {missing}; its maps are {there}.")
    names = there if variables is None else list(variables)
    if not names:
        raise BandError(f"There is no map (y, x) among {list(ds.data_vars)}; give what predict or open_maps gives.")
    for name in names:
        if not is_map(ds[name]) or ds[name].ndim > 3:
            raise GridError(
                f"{name!r} has dimensions {tuple(ds[name].dims)}; a map has (y, x), or one more before them. Choose one with "
                "isel, or leave it out."
            )
        if ds[name].dtype.kind != "b" and not check_dtype(ds[name].dtype.name):
            raise BandError(f"{name!r} is {ds[name].dtype}, which GDAL does not know; turn it into uint8 or float32.")
    return ds[names].transpose(..., "y", "x")


def as_stored(maps: xr.Dataset) -> xr.Dataset:
    """Return maps as a store holds them, on their grid."""
    geobox = geobox_of(maps)
    out = assign(storable(with_known_codes(maps), keeps_ranges=False), geobox)
    out.attrs = unreferenced(out.attrs)
    return out  # type: ignore[no-any-return]


def _with_all_codes(maps: xr.Dataset, stage: str) -> xr.Dataset:
    """Return maps with lazy class maps of floats as codes, where what is stored of them is codes."""
    floats = float_classes(maps)
    stored = with_all_codes(open_maps(stage)[floats]) if floats else {}
    codes = {name: array for name, array in stored.items() if array.dtype.kind in "iu"}
    return maps.assign(
        {name: maps[name].copy(data=array.data).assign_attrs(_FillValue=fill_of(array)) for name, array in codes.items()}
    )


def _palette(array: xr.DataArray) -> dict[int, tuple[int, ...]]:
    """Return the colours of a class map's codes; none where it has none, or is not of one band in uint8."""
    (codes, names), colors = flags_of(array), _words(array.attrs.get("flag_colors", "")).split()
    if len(names) != len(codes) or len(colors) not in (0, len(codes)) or not all(map(_COLOR.fullmatch, colors)):
        raise BandError(
            f"{array.name!r} has flag_values {codes}, flag_meanings {names} and flag_colors {colors}; give a name for each value, and "
            "for each or none a colour as #rrggbb."
        )
    if array.dtype != "uint8" or array.ndim > 2:
        return {}
    return {code: tuple(bytes.fromhex(color[1:])) for code, color in zip(codes, colors, strict=False)}


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, np.ndarray | list | tuple) else str(value)


# GeoTIFFs


def _write(file: Path, maps: xr.Dataset, name: Hashable, pixels: Any, classes: str, side: int) -> None:
    """Write a stored map to a GeoTIFF, tile by tile, with all that is known of it, and let GDAL make a cloud-optimised one of that."""
    array, box, plain = maps[name], geobox_of(maps), file.with_suffix(".plain.tif")
    palette, are_codes = _palette(array), array.dtype.kind in "iu" and pixels.dtype.kind == "f"
    bands = array[array.dims[0]].values if array.ndim == 3 else [array.attrs.get("long_name", name)]
    kind = "uint8" if array.dtype.kind == "b" else array.dtype.name  # GDAL knows no truth
    image = {"height": box.shape.y, "width": box.shape.x, "count": len(bands), "dtype": kind, "nodata": fill_of(array)}
    tiles = {"tiled": True, "blockxsize": side, "blockysize": side, "compress": "deflate", "zlevel": 1, "bigtiff": "if_safer"}
    with rasterio.open(plain, "w", driver="GTiff", crs=str(box.crs), transform=box.affine, **image, **tiles) as target:
        attrs = {**maps.attrs, **array.attrs} | ({"flag_meanings": flags_of(array)[1]} if "flag_meanings" in array.attrs else {})
        target.update_tags(**{str(key): _words(value) for key, value in attrs.items() if key not in _LEFT_OUT})
        target.descriptions = [str(band) for band in bands]
        target.units = [_words(array.attrs.get("units", ""))] * len(bands)
        if palette:
            target.write_colormap(1, palette)
        for _, window in target.block_windows(1):
            rows, columns = window.toslices()
            part = codes_of(pixels[..., rows, columns], str(name)) if are_codes else pixels[..., rows, columns]
            target.write(part.reshape(len(bands), *part.shape[-2:]).astype(kind, copy=False), window=window)
        tags = {key for key, value in target.tags().items() if value}  # empty ones are not written
    _check_written(plain, tags)
    options = {"COMPRESS": "DEFLATE", "PREDICTOR": "YES", "BIGTIFF": "IF_SAFER", "NUM_THREADS": CPU_COUNT, "BLOCKSIZE": side}
    how = classes if array.dtype.kind != "f" else "nearest" if is_direction(name, array) else "average"
    rasterio.shutil.copy(plain, file, driver="COG", OVERVIEW_RESAMPLING=how.upper(), **options)
    _check_written(file, tags)
    plain.unlink()


def _check_written(file: Path, tags: set[str]) -> None:
    """Read all tiles of all levels, and the tags: of a disk that was full for a while, GDAL tells nowhere else.

    Tiles are deflated, with checksums. One that could not be written has no place in the file, and would be nodata.
    """
    with rasterio.open(file) as made:
        levels = [None, *range(len(made.overviews(1)))]
        whole = made.tags().keys() >= tags
        for level in levels:
            with rasterio.open(file, **({} if level is None else {"overview_level": level})) as image:
                for (row, column), window in image.block_windows(1):
                    image.read(window=window)
                    place = f"BLOCK_OFFSET_{column}_{row}"
                    whole &= all(made.get_tag_item(place, "TIFF", bidx=band, ovr=level) for band in made.indexes)
    if not whole:
        raise OSError(f"{file.name} lacks tiles or tags that GDAL could not write; make room there, or give another directory")


# Where it goes


@contextmanager
def naming(uri: str) -> Iterator[None]:
    """Name the address in errors of writing."""
    try:
        yield
    except MisoxrError:
        raise
    except (OSError, CPLE_BaseError) as error:
        raise StoreError(f"{uri} cannot be written: {error}") from error


@contextmanager
def _scratch(uri: str, system: Any, path: str) -> Iterator[tuple[str, Path]]:
    """Give a store in the directory, which workers reach, and a local directory for files that are not complete yet."""
    if isinstance(system, LocalFileSystem):
        system.makedirs(path, exist_ok=True)
        with scratch(Path(path) / "cog", directory=True) as files:
            yield f"{files}/maps.zarr", files
        return
    aside = f".{uuid.uuid4().hex}"
    system.makedirs(f"{path}/{aside}", exist_ok=True)
    try:
        with workspace() as files:
            yield f"{uri}/{aside}/maps.zarr", files
    finally:
        if system.exists(f"{path}/{aside}"):
            system.rm(f"{path}/{aside}", recursive=True)


def is_map(array: xr.DataArray) -> bool:
    """Whether an array lies on the pixel grid."""
    return {"y", "x"} <= set(array.dims)
