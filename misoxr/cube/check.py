"""Check a cube against a model, by its metadata."""

from collections.abc import Hashable, Iterable
from typing import Any

import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr.cube.decode import note_unapplied
from misoxr.cube.reductions import COUNTED
from misoxr.errors import BandError, GridError, did_you_mean, note
from misoxr.grid.geobox import geobox_of
from misoxr.spec import ModelSpec

__all__ = ["along", "check", "check_dataset", "named"]


def check_dataset(ds: Any) -> xr.Dataset:
    """Return the Dataset, or refuse what is none."""
    if isinstance(ds, xr.Dataset):
        return ds
    remedy = ", such as array.to_dataset(name=...)" if isinstance(ds, xr.DataArray) else ""
    raise GridError(f"The cube is a {type(ds).__name__}; give a Dataset with a variable for each band{remedy}.")


def along(ds: xr.Dataset, names: Iterable[str]) -> str:
    """Say how to give each band a variable of its own, where some of the names lie along a dimension of one variable; else nothing."""
    for name, array in ds.data_vars.items():
        for dim in set(array.dims) & set(array.coords):
            if {str(value) for value in array.coords[dim].values.tolist()} & set(names):
                rest = f".merge(ds.drop_vars({name!r}))" if len(ds.data_vars) > 1 else ""
                return f" {name!r} has them along {dim!r}; give each a variable of its own: ds[{name!r}].to_dataset({dim!r}){rest}."
    return ""


def _renaming(ds: xr.Dataset, dims: tuple[Hashable, ...]) -> str:
    """Say how two dimensions of other names become y and x, where the dataset has neither of these."""
    if len(dims) != 2 or {"y", "x"} & set(ds.dims):
        return ""
    first, last = sorted(dims, key=lambda dim: str(dim).lower().startswith(("x", "lon", "east", "col")))
    return f"if these are its rows and columns, ds.rename({{{first!r}: 'y', {last!r}: 'x'}}); else "


def named(ds: xr.Dataset, spec: ModelSpec) -> xr.Dataset:
    """Return the dataset with a model's bands under the model's names, where it has them under an alias.

    Their dimensions of length 1, such as the ``band`` of rioxarray, are dropped; the time, which may be a year, stays.
    """
    here = check_dataset(ds).data_vars
    found = {alias: band.name for band in spec.bands if band.name not in here for alias in band.aliases[::-1] if alias in here}
    renamed = ds.rename_vars(found)
    dims = {dim for band in spec.bands if band.name in renamed.data_vars for dim in renamed[band.name].dims}
    return renamed.squeeze([dim for dim in dims - {"time", "y", "x"} if ds.sizes[dim] == 1], drop=True)


def check(ds: xr.Dataset, spec: ModelSpec) -> GeoBox:
    """Check by the metadata that a dataset can feed a model, and return its grid.

    Raises
    ------
    BandError
        If a band of a required modality or a component of a vector is missing, or a band has dimensions other than y and x, or holds no numbers.
    GridError
        If the grid is irregular, carries no CRS, is not north-up, is not in metres, or has another pixel size than the model.

    Warns
    -----
    MisoxrWarning
        If bands of a modality that is not required are missing.
    """
    needed = [band.name for modality in spec.modalities if modality.required for band in modality.bands]
    missing = [name for name in needed if name not in ds.data_vars]
    if missing:
        raise BandError(
            f"The dataset lacks {missing}, which the model needs; it has {list(ds.data_vars)}.{did_you_mean(missing[0], map(str, ds.data_vars))}"
            f"{along(ds, missing) or ' Rename its variables, or join the rasters with ds.miso.add.'}"
        )
    _refuse_parts(ds, spec)
    for band in spec.bands:
        dims = ds[band.name].dims if band.name in ds.data_vars else ("y", "x")
        if "time" in dims:
            raise BandError(
                f"Band {band.name!r} has dimensions {dims}; reduce the time with ds.miso.composite first, with by='year' to one "
                f"time a year, or take one of its {ds.sizes['time']} times: ds.isel(time=-1)."
            )
        others = [dim for dim in dims if dim not in ("y", "x")]
        if others and {"y", "x"} <= set(dims):
            raise BandError(
                f"Band {band.name!r} has dimensions {dims}; take one of the {ds.sizes[others[0]]} layers along {others[0]!r}, such as "
                f"ds.isel({others[0]}=0, drop=True), or give each a variable of its own."
            )
        if set(dims) != {"y", "x"}:
            raise BandError(
                f"Band {band.name!r} has dimensions {dims}; all bands must share one grid (y, x): {_renaming(ds, dims)}join it with ds.miso.add."
            )
        if band.name in ds.data_vars and ds[band.name].dtype.kind not in "fiub":
            raise BandError(
                f"Band {band.name!r} holds {ds[band.name].dtype}, which are no numbers; make it floats, with NaN for nodata: "
                f'ds[{band.name!r}] = ds[{band.name!r}].astype("float32").'
            )
        if band.name in ds.data_vars and ds[band.name].attrs.get("standard_name") == COUNTED["standard_name"]:
            raise BandError(
                f"Band {band.name!r} holds numbers of observations and no values of the band; reduce it by another method than 'count'."
            )
    note_unapplied(ds, [band.name for band in spec.bands if band.name in ds.data_vars])
    geobox = geobox_of(ds)
    # A specification made for this very dataset has its pixel size, in whatever units.
    own = abs(abs(geobox.affine.a) / spec.pixel_size - 1) <= 1e-3
    pixels = "pixels in metres" if own else f"pixels of {spec.pixel_size:g} m"
    line = f"ds.rio.reproject(ds.rio.estimate_utm_crs(){'' if own else f', resolution={spec.pixel_size:g}'})"
    if geobox.crs is not None and geobox.crs.geographic:
        raise GridError(
            f"The dataset is in degrees ({geobox.crs.proj.name}), the wrong CRS for {pixels}; "
            f"reproject it to a projected CRS, such as UTM: {line}."
        )
    if geobox.affine.e > 0 or geobox.affine.a < 0:
        raise GridError(
            "The dataset is not north-up (y must descend and x ascend), and a model would see it mirrored; "
            'sort it with ds.sortby("y", ascending=False).sortby("x").'
        )
    axis = geobox.crs.proj.axis_info[0] if geobox.crs is not None else None
    if axis is not None and axis.unit_conversion_factor != 1:
        raise GridError(
            f"The dataset's CRS counts in {axis.unit_name}, the wrong CRS for {pixels}; "
            f"reproject it to one in metres, such as UTM: {line}."
        )
    for size in (abs(geobox.affine.a), abs(geobox.affine.e)):
        if abs(size / spec.pixel_size - 1) > 1e-3:
            raise GridError(
                f"The dataset's pixels are {size:g} m, and the model reads pixels of {spec.pixel_size:g} m; "
                "open the imagery at the model's resolution, or train a model for this one."
            )
    absent = [band.name for band in spec.bands if band.name not in ds.data_vars]
    if absent:
        note(
            f"The dataset lacks the optional bands {absent} of the model, so they are missing at every pixel. Join them with ds.miso.add under these names."
        )
    return geobox


def _refuse_parts(ds: xr.Dataset, spec: ModelSpec) -> None:
    """Refuse some components of a unit vector without the others: they are no vector of length 1."""
    for modality in spec.modalities:
        missing = [band.name for band in modality.bands if band.name not in ds.data_vars]
        if modality.is_vector and 0 < len(missing) < len(modality.bands):
            raise BandError(
                f"The dataset lacks {len(missing)} of the {len(modality.bands)} components of {modality.name!r}, such as {missing[0]!r}; "
                "join all with ds.miso.add, or leave all out."
            )
