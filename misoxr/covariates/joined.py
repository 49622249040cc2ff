"""Join the covariates of a DEM to an image: computed on the DEM's own grid and whole extent, then put on the image's grid."""

import os
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr.covariates.degrees import moved
from misoxr.covariates.dem import is_in_degrees, opened
from misoxr.covariates.moving import checked_radius
from misoxr.covariates.position import Moments, position_moments, values_of
from misoxr.covariates.relief import terrain
from misoxr.cube.check import check_dataset
from misoxr.cube.join import Raster, add, layers_of
from misoxr.errors import BandError, did_you_mean, flush, gathered, note
from misoxr.grid.geobox import extent, geobox_of
from misoxr.grid.longitude import transformer

__all__ = ["add_terrain"]

RELIEF = ("aspect", "max_curvature", "slope", "topographic_position_index")
WATER = ("stream_power_index", "wetness_index")
"""The presets' terrain covariates beside the elevation: what is lazy, and what is computed."""
MANY = 10**8
"""Cells of a DEM from which one more pass over it takes long."""
SOME = 2_000_000
"""Cells of a DEM whose hydrology takes seconds, and room in memory."""
SHIFTED = 0.01
"""How far cells of two rasters that count as the same may lie apart, in cells."""


@gathered
def add_terrain(
    ds: xr.Dataset,
    dem: Raster,
    radius: int = 4,
    hydrology: str | os.PathLike[str] | xr.Dataset | None = None,
    moments: Moments | None = None,
) -> xr.Dataset:
    """Add the presets' seven terrain covariates of a DEM to an image, on its grid.

    All are computed on the DEM's own grid and whole extent, and then resampled as :func:`misoxr.cube.join.add` does: averaged where the DEM's cells
    are less than half the image's pixels, bilinear otherwise, and nearest for ``aspect``. A DEM in degrees is first moved to the image's CRS,
    with square cells of the same area.

    Parameters
    ----------
    ds : Dataset
        The image, with dimensions y and x and a CRS.
    dem : path, URL, DataArray or Dataset
        Elevations, as for :func:`misoxr.covariates.terrain`; in a projected CRS, or in degrees. It should reach beyond the image: water comes from
        afar, and windows at its edges are nodata.
    radius : int, optional
        Radius of windows and discs, in cells of the DEM.
    hydrology : path, URL or Dataset, optional
        What ``misoxr.covariates.hydrology`` has made of this DEM, or of a larger one that it was cut from, with ``stream_power_index`` and
        ``wetness_index``. Grids are compared, elevations are not. By default it is computed now, from the whole DEM.
    moments : Moments, optional
        What standardises ``topographic_position_index``, from :func:`misoxr.covariates.position_moments`. By default they are
        computed with the hydrology. Beside ready-made hydrology they are a part of the graph, and each batch of blocks that is computed reads
        the whole DEM once more.

    Returns
    -------
    Dataset
        The image with ``aspect`` (degree, clockwise from the image's grid north, -1 where flat), ``elevation`` (m), ``max_curvature`` (m-1), ``slope`` (degree),
        ``topographic_position_index`` (1), ``stream_power_index`` (m2) and ``wetness_index`` (1): float32 (y, x), lazy.

    Raises
    ------
    GridError
        If the DEM does not overlap the image, has no CRS or an irregular grid; or is in degrees and cannot be moved to the image's CRS.
    BandError
        If a name is taken, the DEM's units are not known, or ``hydrology`` lacks a variable.
    AssetError
        If a file or store cannot be opened.
    SpecError
        If ``radius`` or ``moments`` are none.

    Warns
    -----
    MisoxrWarning
        If the hydrology of more than two million cells is computed; if a large DEM is read again and again for want of ``moments``; if the DEM has no units, or a metre of its CRS
        is far from a metre on the ground; if the DEM or the hydrology does not cover the image; or if the hydrology is on another grid than the DEM.

    Examples
    --------
    >>> imagery = image[["red", "green", "blue", "nir"]]
    >>> with_terrain = imagery.miso.add_terrain("dem.tif", hydrology="hydrology.zarr")
    """
    geobox = geobox_of(check_dataset(ds))
    taken = [name for name in ("elevation", *RELIEF, *WATER) if name in ds.variables]
    if taken:
        raise BandError(f"The dataset has {taken} already; drop them first: ds.drop_vars({taken}).")
    radius = checked_radius(radius)
    if moments is not None:
        values_of(moments, radius)
    water = None if hydrology is None else _water(hydrology)
    elevation = opened(dem)
    source = moved(elevation, ds)
    first = "dem = misoxr.covariates.moved(dem, image), then " if is_in_degrees(geobox_of(elevation)) else ""
    out = add(ds, elevation=source)  # before anything is computed: what does not overlap is refused here
    if water is None:
        water = _computed(source, first)
        moments = moments or position_moments(source, radius=radius)
    elif moments is None and source.size > MANY:
        note(
            f"The DEM has {source.size:,} cells, and the whole of it is read for every batch of blocks that is computed. Compute its moments once: "
            f"{first}add_terrain(dem, moments=misoxr.covariates.position_moments(dem), ...)."
        )
    for array in water.values():
        _note_other_grid(geobox_of(array), geobox_of(source))
    relief = terrain(source, radius=radius, moments=moments)
    out = add(out, relief=relief[list(RELIEF)])
    out["aspect"] = _turned(out["aspect"], geobox, geobox_of(source))
    rasters: dict[str, Any] = {**water}
    return add(out, **rasters)


def _water(hydrology: Any) -> dict[str, xr.DataArray]:
    """Return the variables of ready-made hydrology that are joined."""
    found = layers_of("hydrology", hydrology)
    missing = [name for name in WATER if name not in found]
    if missing:
        raise BandError(
            f"The hydrology has {list(found)} and lacks {missing}; give what misoxr.covariates.hydrology makes.{did_you_mean(missing[0], map(str, found))}"
        )
    return {name: found[name] for name in WATER}


def _note_other_grid(water: GeoBox, dem: GeoBox) -> None:
    """Warn where the cells of ready-made hydrology are not those of the DEM, or of a larger one that it was cut from."""
    ours, theirs = dem.affine, water.affine
    lengths = np.abs([theirs.a / ours.a, theirs.e / ours.e])
    shifts = np.array([(theirs.c - ours.c) / ours.a, (theirs.f - ours.f) / ours.e])
    apart = max(np.abs(lengths - 1).max() * max(*water.shape, *dem.shape), np.abs(shifts - shifts.round()).max())
    if water.crs != dem.crs or apart > SHIFTED:
        note(
            f"The cells of the hydrology, which covers {extent(water)}, are not those of the DEM, which covers {extent(dem)}: it was made from "
            "another one. Compute it from this DEM: misoxr.covariates.hydrology(dem).",
            about="cells of hydrology",
        )


def _computed(elevation: xr.DataArray, first: str) -> dict[str, xr.DataArray]:
    from misoxr.covariates.water import hydrology

    cells = " x ".join(map(str, elevation.shape))
    if elevation.size > SOME:
        note(
            f"Hydrology, and what standardises topographic_position_index, is computed from the whole DEM ({cells} cells), and kept in memory. "
            f"To compute it once: {first}add_terrain(dem, hydrology=misoxr.covariates.hydrology(dem, store=...))."
        )
        flush()
    return _water(hydrology(elevation))


def _turned(aspect: xr.DataArray, image: GeoBox, source: GeoBox) -> xr.DataArray:
    """Count directions from the image's grid north instead of the DEM's."""
    if transformer(str(image.crs), str(source.crs)) is None:
        return aspect
    affine = image.affine
    y = affine.f + affine.e * (np.arange(image.shape.y) + 0.5)
    x = affine.c + affine.a * (np.arange(image.shape.x) + 0.5)
    work = partial(_turn, step=abs(affine.e), image=str(image.crs), source=str(source.crs))
    if aspect.chunks is None:
        return aspect.copy(data=work(aspect.data, y, x))
    high, wide = aspect.data.chunks
    lines = (da.from_array(y, chunks=(high,)), "y", da.from_array(x, chunks=(wide,)), "x")
    data = da.blockwise(work, "yx", aspect.data, "yx", *lines, dtype="float32", meta=np.empty((0, 0), "float32"))
    return aspect.copy(data=data)


def _turn(aspect: npt.NDArray[np.float32], y: Any, x: Any, *, step: float, image: str, source: str) -> npt.NDArray[np.float32]:
    forward = transformer(image, source)
    if forward is None or not aspect.size:
        return aspect
    east, north = np.meshgrid(x, y)
    west_east, south_north = (
        np.subtract(*ends)
        for ends in zip(forward.transform(east, north + step / 2), forward.transform(east, north - step / 2), strict=True)
    )
    turned = ((aspect - np.degrees(np.arctan2(west_east, south_north))) % 360).astype("float32")
    turned[turned >= 360] = 0
    return np.where(aspect < 0, aspect, turned)
