"""Join rasters to a cube: files, stores and arrays, put on its grid."""

import os
import re
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr.cube.check import check_dataset
from misoxr.cube.decode import decoded, is_guessed, is_told, note_unapplied
from misoxr.cube.season import with_middles
from misoxr.errors import AssetError, BandError, GridError, SpecError, did_you_mean, gathered, note
from misoxr.grid.geobox import assign, crs_of, extent, geobox_of, located, with_mappings
from misoxr.grid.halo import BLOCK
from misoxr.grid.resample import RESAMPLINGS, covers, on_grid, pixel_ratio
from misoxr.paths import expanded

__all__ = ["Raster", "add", "chunks_of_image", "is_direction", "layers_of", "mark_of", "note_uncovered", "open_raster", "smooth"]

_NETCDF = (".nc", ".nc4", ".cdf")
_DIRECTIONS = re.compile(r"aspect|(?<!bi)direction(?!al)|azimuth|bearing|heading")
_NO_DIRECTIONS = re.compile(
    r"\b(area|capacity|components?|cos|cosine|count|density|entropy|lower|probability|sd|sin|sine|std|strength|upper)\b|\b(depth|distance|height|length|speed|temperature|thickness)\s*[,;(]"
)
"""What is measured along a direction, or told of one: an area that drains by flow directions, a component of the wind, a sine."""

Raster = str | os.PathLike[str] | xr.DataArray | xr.Dataset


@gathered
def add(ds: xr.Dataset, resampling: str | Mapping[str, str] = "auto", **rasters: Raster) -> xr.Dataset:
    """Join rasters to a dataset on its grid, lazily.

    Parameters
    ----------
    ds : Dataset
        The image, with dimensions y and x and a CRS.
    resampling : str or mapping of name to str, optional
        "nearest", "bilinear" or "average", for all rasters or by name. "auto" takes nearest for classes and compass directions, average where a
        raster's pixel is less than half the image's, and bilinear otherwise. Whole numbers without units are taken for classes, with a warning,
        unless their name is that of a quantity, such as ``elevation``.
    **rasters : path, URL, DataArray or Dataset
        A raster file: its band becomes ``name``, several become ``name_<description or number>``. Or a Zarr store ending in ``.zarr``, a NetCDF file, or data in
        hand: a DataArray becomes ``name``, one over (feature, y, x), such as an embedding, ``name_0``, ``name_1``, ..., and a Dataset's
        variables over y and x keep their names. Nodata, scale and offset in the attributes are applied. Dimensions
        called latitude and longitude are rows and columns; without a CRS, their degrees are those of EPSG:4326.

    Returns
    -------
    Dataset
        The image with the new variables (y, x), float32 with NaN as nodata, in the image's chunks. It is marked as simulated where a raster is.

    Raises
    ------
    GridError
        If a raster has no CRS, no y and x, an irregular grid, or does not overlap the image; or a resampling is unknown.
    BandError
        If a name is taken or cannot be stored, or a variable has dimensions other than y and x, or holds no numbers.
    AssetError
        If a file or store cannot be opened.
    SpecError
        If a raster is nothing of the kind, or ``resampling`` names none of them.

    Warns
    -----
    MisoxrWarning
        If a raster does not cover the image: it is nodata beyond.

    Examples
    --------
    >>> image = image.miso.add(elevation="dem.tif", slope="slope.tif")
    """
    geobox = geobox_of(check_dataset(ds))
    _check_resampling(resampling)
    sizes = chunks_of_image(ds)
    layers = [(label, name, array) for label, raster in rasters.items() for name, array in layers_of(label, raster).items()]
    if isinstance(resampling, Mapping):
        _refuse_unknown(resampling, [*rasters, *(str(name) for _, name, _ in layers)])
    joined: dict[Hashable, xr.Variable] = {}
    for label, name, array in layers:
        if name in ds.variables or name in joined:
            raise BandError(
                f"The dataset has a variable {name!r} already, as it has when a line runs twice; join the raster under another name, or drop "
                f"that one before: ds.drop_vars({str(name)!r})."
            )
        _check_name(name)
        asked = resampling if isinstance(resampling, str) else resampling.get(str(name), resampling.get(label, "auto"))
        joined[name] = _joined(name, array, geobox, asked, sizes)
    mark = mark_of(ds.attrs, *(array.attrs for _, _, array in layers))
    return assign(ds.assign(joined).assign_attrs(mark), geobox)  # type: ignore[no-any-return]


def _check_resampling(resampling: Any) -> None:
    if isinstance(resampling, xr.Dataset | xr.DataArray | os.PathLike):
        raise SpecError(f"A {type(resampling).__name__} was given without a name; name each raster: ds.miso.add(elevation=...).")
    if not isinstance(resampling, str | Mapping):
        raise SpecError(f"resampling is {resampling!r}; give one of {('auto', *RESAMPLINGS)}, or a mapping of names to them.")
    for name, method in resampling.items() if isinstance(resampling, Mapping) else [("all", resampling)]:
        if method not in ("auto", *RESAMPLINGS):
            hint = did_you_mean(str(method), RESAMPLINGS)
            raise GridError(f"Unknown resampling {method!r} of {name!r}; use 'auto' or one of {RESAMPLINGS}.{hint}")


def _refuse_unknown(resampling: Mapping[str, str], names: Sequence[str]) -> None:
    for name in resampling:
        if name not in names:
            raise SpecError(
                f"resampling names {name!r}, which is none of the rasters {sorted(set(names))}.{did_you_mean(name, names)}"
            )


def _check_name(name: Hashable) -> None:
    if not isinstance(name, str) or _kept(name) != name or not name:
        raise BandError(
            f"The raster has a variable {name!r}, a name that a store cannot keep; rename it, for example to {_kept(str(name)) or 'band'!r}."
        )


def _kept(name: str) -> str:
    """Return a name without slashes and blanks, which stores cannot hold."""
    return re.sub(r"[\s/\\\x00-\x1f]+", "_", name.strip()).lstrip(".")


def chunks_of_image(ds: xr.Dataset) -> Mapping[str, tuple[int, ...]] | None:
    """Return the chunks along y and x of the first lazy variable, or None where all are in memory."""
    lazy = (array.variable.chunksizes for array in ds.data_vars.values() if array.chunks is not None)
    return next(({dim: sizes[dim] for dim in ("y", "x")} for sizes in lazy if {"y", "x"} <= set(sizes)), None)


def mark_of(*attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the mark of what is simulated, and the simulator's version, of the first that is marked; nothing where all is measured."""
    for attrs in attributes:
        if str(attrs.get("simulated", "")).lower() not in ("", "0", "0.0", "false", "none", "nan"):
            version = attrs.get("simulator_version")
            return {"simulated": 1} | ({"simulator_version": str(version)} if version else {})
    return {}


def note_uncovered(name: Hashable, box: GeoBox, geobox: GeoBox) -> None:
    """Warn where a raster does not cover a grid; once for rasters of one extent."""
    if not covers(box, geobox):
        note(
            f"The raster {name!r} covers {extent(box)}, and the image {extent(geobox)}: it is nodata beyond. Give one of the whole area.",
            about=f"what covers {extent(box)}",
        )


def layers_of(label: str, raster: Any) -> dict[Hashable, xr.DataArray]:
    """Return a raster's variables by the names they are to have, each with its CRS and the mark of what is simulated, lazily.

    Raises
    ------
    SpecError, BandError, GridError, AssetError
        As :func:`add`.
    """
    if isinstance(raster, str | os.PathLike):
        raster = open_raster(label, os.fspath(raster))
    if isinstance(raster, xr.Dataset | xr.DataArray):
        raster = located(raster)
    if isinstance(raster, xr.Dataset):
        raster = with_middles(with_mappings(raster))
        box = geobox_of(raster)
        mark = mark_of(raster.attrs)
        maps = {
            name: assign(array.assign_attrs(mark), box) for name, array in raster.data_vars.items() if {"y", "x"} & set(array.dims)
        }
        if not maps:
            raise BandError(f"The raster {label!r} has the variables {list(raster.data_vars)}, and none over y and x.")
        note_unapplied(raster, maps)
        return {name: band for own, array in maps.items() for name, band in _bands(own, array).items()}
    if not isinstance(raster, xr.DataArray):
        remedy = (
            "name each of several rasters: add(one=..., other=...), and join tiles before, with rioxarray.merge.merge_arrays"
            if isinstance(raster, list | tuple)
            else "values alone have no grid"
        )
        raise SpecError(
            f"The raster {label!r} is a {type(raster).__name__}; give a path, or a DataArray or Dataset with y, x and a CRS; {remedy}."
        )
    return _bands(label, raster)


def _bands(label: Hashable, raster: xr.DataArray) -> dict[Hashable, xr.DataArray]:
    """Return the bands of an array as a file has them, or the features of an embedding, by name."""
    if "feature" in raster.dims and "band" not in raster.dims:
        raster = raster if "feature" in raster.coords else raster.assign_coords(feature=range(raster.sizes["feature"]))
        raster = raster.rename(feature="band")
    if "band" not in raster.dims:
        return {label: _flat(raster)}
    names = _band_names(raster)
    return {label if len(names) == 1 else f"{label}_{name}": _flat(_band(raster, at)) for at, name in enumerate(names)}


def _flat(raster: xr.DataArray) -> xr.DataArray:
    """Return a raster without dimensions of length 1, such as the one time of an item; their coordinates stay."""
    return raster.squeeze([dim for dim in raster.dims if dim not in ("y", "x") and raster.sizes[dim] == 1])


def open_raster(label: str, path: str) -> xr.Dataset | xr.DataArray:
    """Open a raster file, a Zarr store or a NetCDF file, lazily; ``label`` is the argument it was given as.

    Raises
    ------
    AssetError
        If it cannot be opened.
    GridError
        If it holds several grids.
    """
    import rioxarray

    blocks = {"band": 1, "y": BLOCK, "x": BLOCK}
    local = expanded(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Failed to open Zarr store with consolidated metadata", RuntimeWarning)
            warnings.filterwarnings("ignore", "(Scales|Offsets) differ across bands")  # each band is given its own
            if local.rstrip("/").endswith(".zarr"):
                return xr.open_zarr(local, decode_coords="all")  # type: ignore[no-any-return]
            if local.lower().endswith(_NETCDF):
                return _open_netcdf(local)
            raster = rioxarray.open_rasterio(local, chunks=blocks, mask_and_scale=True, lock=False)
    except (OSError, ValueError, ImportError) as error:  # Zarr's and fsspec's own are among them
        hint = did_you_mean(label, ["resampling"])
        if local.lower().endswith(_NETCDF) and "engine" in str(error):
            hint = " Files of NetCDF 4 are read by h5netcdf: pip install 'misoxr[netcdf]'."
        raise AssetError(f"The raster {path} cannot be opened: {error}{hint}") from error
    if isinstance(raster, list):
        raise GridError(f"{path} holds {len(raster)} rasters of different grids; open the one you mean and give it as a Dataset.")
    return raster


def _open_netcdf(path: str) -> xr.Dataset:
    """Open a NetCDF file in chunks of one time and many pixels: its own may be of the whole file."""
    with xr.open_dataset(path, decode_coords="all") as found:
        chunks = {dim: 1 if "time" in found[dim].dims or str(dim).lower() in ("time", "month") else BLOCK for dim in found.sizes}
    return xr.open_dataset(path, decode_coords="all", chunks=chunks)


def _band_names(raster: xr.DataArray) -> list[str]:
    """Return what the bands of a file are called: their descriptions where all have their own, else their numbers."""
    count = raster.sizes["band"]
    described = raster.attrs.get("long_name")
    listed = described if isinstance(described, tuple | list) and len(described) == count else [None] * count
    numbers = raster["band"].values if "band" in raster.coords else range(1, count + 1)
    names = [_kept(str(text)) if text else "" for text in listed]
    names = [name or _kept(str(number)) for name, number in zip(names, numbers, strict=True)]
    return [name if names.count(name) == 1 else f"{name}_{number}" for name, number in zip(names, numbers, strict=True)]


def _band(raster: xr.DataArray, at: int) -> xr.DataArray:
    """Select one band, with its own of the attributes that list one value for each band."""
    one = raster.isel(band=at, drop=True)
    listed = {key: value for key, value in raster.attrs.items() if isinstance(value, tuple | list)}
    one.attrs.update({key: value[at] for key, value in listed.items() if len(value) == raster.sizes["band"]})
    one.attrs = {key: value for key, value in one.attrs.items() if value is not None}
    return one


def _joined(
    name: Hashable, array: xr.DataArray, geobox: GeoBox, asked: str, sizes: Mapping[str, tuple[int, ...]] | None
) -> xr.Variable:
    """Put one layer on the grid, in the image's chunks; in memory where both the image and the layer are."""
    if set(array.dims) != {"y", "x"}:
        raise BandError(f"Variable {name!r} has dimensions {array.dims}, not (y, x); rename, select or reduce the others first.")
    if crs_of(array) is None:
        raise GridError(
            f'Raster {name!r} carries no CRS. Write one, for example with raster.rio.write_crs("EPSG:3338") of rioxarray.'
        )
    method = _resampling(name, array, geobox) if asked == "auto" else asked
    block = (BLOCK, BLOCK) if sizes is None else (max(sizes["y"]), max(sizes["x"]))
    out = on_grid(decoded(name, array), geobox, method, block)
    note_uncovered(name, geobox_of(array), geobox)
    if sizes is not None:
        out = out.chunk({"y": sizes["y"], "x": sizes["x"]})
    elif array.chunks is None:
        out = out.load()
    return out.transpose("y", "x").variable


def _resampling(name: Hashable, array: xr.DataArray, geobox: GeoBox) -> str:
    if is_direction(name, array):
        return "nearest"
    if is_told(name, array):
        _note_flags(name, array, smooth(geobox_of(array), geobox))
        return "nearest"
    if is_guessed(name, array):
        note(
            f"{name!r} holds whole numbers without units and is taken for classes, of which the nearest is taken. If it is measured, write so: "
            f'raster.attrs["units"] = "1". Or choose: add(..., resampling={{{str(name)!r}: {smooth(geobox_of(array), geobox)!r}}}).'
        )
        return "nearest"
    return smooth(geobox_of(array), geobox)


def _note_flags(name: Hashable, array: xr.DataArray, otherwise: str) -> None:
    """Warn of floats that were worked out of classes and kept their flags, where a share of a pixel would be an average."""
    flags = [key for key in array.attrs if str(key).startswith("flag_")]
    stored = {"dtype", "rasterio_dtype"} & set(array.encoding)
    if flags and array.dtype.kind == "f" and not stored and otherwise == "average":
        note(
            f"{name!r} holds floats and has {flags}, and is taken for classes, of which the nearest is taken. If it is a share, as after "
            f"(classes == 10).astype('float32'), remove these attributes, or choose: add(..., resampling={{{str(name)!r}: 'average'}})."
        )


def is_direction(name: Hashable, array: xr.DataArray) -> bool:
    """Return whether values are compass directions, of which 359 and 1 have no middle."""
    # By the name: DEM tools write a direction's units in many ways, not at all, or copy the elevation's.
    plain = [str(one).lower().replace("_", " ") for one in (name, *map(array.attrs.get, ("standard_name", "long_name")))]
    return any(_DIRECTIONS.search(one) and not _NO_DIRECTIONS.search(one) for one in plain)


def smooth(box: GeoBox, geobox: GeoBox) -> str:
    """Return how a quantity comes from a raster to a grid: "average" where pixels are less than half the grid's, else "bilinear"."""
    return "average" if pixel_ratio(box, geobox) > 2 else "bilinear"
