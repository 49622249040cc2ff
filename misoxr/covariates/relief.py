"""Terrain covariates of a DEM: slope, aspect, curvatures and topographic position, lazily."""

from collections.abc import Callable
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from misoxr.covariates import position, quadric
from misoxr.covariates.dem import cell_of, opened
from misoxr.covariates.moving import by_rows, checked_radius, filled
from misoxr.covariates.position import Moments
from misoxr.cube.join import Raster, mark_of
from misoxr.errors import gathered
from misoxr.grid.geobox import assign, geobox_of
from misoxr.grid.halo import in_blocks

__all__ = ["terrain"]

WORDS = {
    "elevation": ("m", "elevation"),
    "slope": ("degree", "slope"),
    "aspect": ("degree", "direction of the way down, clockwise from the grid's north; -1 where flat"),
    "max_curvature": ("m-1", "greatest curvature, ridges positive"),
    "min_curvature": ("m-1", "least curvature, ridges positive"),
    "profile_curvature": ("m-1", "curvature along the way down, convex positive"),
    "position_index": ("m", "elevation less its mean"),
    "topographic_position_index": ("1", "topographic position at two scales, standardised over the whole DEM"),
}
"""Units and descriptions of the variables."""


@gathered
def terrain(dem: Raster, *, radius: int = 4, moments: Moments | None = None) -> xr.Dataset:
    """Compute terrain covariates of a DEM, lazily.

    Slope, aspect and curvatures are those of a quadric, fitted by least squares to the (2 radius + 1)² cells around each one. The result
    does not depend on the DEM's chunks.

    Parameters
    ----------
    dem : path, URL, DataArray or Dataset
        Elevations in a projected CRS, y descending or ascending: a raster file or a Zarr store ending in ``.zarr``, which are opened lazily, or
        data in hand. Of several variables, ``elevation`` is taken. Nodata, scale, offset and units are those that its attributes, its
        encoding or a vertical CRS tell of. Cells need not be square: lengths are exact in metres, windows and discs are counted in cells.
    radius : int, optional
        Half the side of the quadric's window and radius of the disc of the topographic position, in cells.
    moments : Moments, optional
        What standardises ``topographic_position_index``, from :func:`misoxr.covariates.position_moments`. By default a reduction over the whole
        of ``dem``, in the graph: the whole of it is then read once more in each computation, of however small a part. Give them for tiles of a larger DEM, where
        maps are written block by block, and for DEMs larger than memory: blocks wait in memory for the reduction (8 bytes a cell).

    Returns
    -------
    Dataset
        On the DEM's grid, float32 (y, x), NaN as nodata:

        - ``elevation`` (m)
        - ``slope`` (degree)
        - ``aspect`` (degree): the way down, clockwise from the grid's north (which may be far from true north), 0 to 360; -1 where flat
        - ``max_curvature``, ``min_curvature``, ``profile_curvature`` (m-1): ridges are positive; profile curvature is 0 where flat
        - ``position_index`` (m): elevation less its mean over the disc
        - ``topographic_position_index`` (1): that of a disc of 1 cell and that of ``radius``, each less its mean and divided by its standard deviation
          over the whole DEM; the greater disc's, but the smaller one's where its absolute value is greater

        Slope, aspect and curvatures are NaN where any cell of the window is missing. The position indices take what there is of the disc.
        Chunks shorter than the radius are joined with those beside them.

    Raises
    ------
    GridError
        If the DEM is in degrees, has no CRS, no y and x, or an irregular grid.
    BandError
        If its units are not known, it has several bands, or other dimensions than y and x.
    AssetError
        If a file cannot be opened.
    SpecError
        If ``radius`` is no whole number of 1 or more, or ``moments`` are none of this radius.

    Warns
    -----
    MisoxrWarning
        If the DEM has no units, or a metre of its CRS is far from a metre on the ground.

    References
    ----------
    Wood 1996, "The geomorphological characterisation of digital elevation models", PhD thesis, University of Leicester. Guisan et al. 1999,
    "GLM versus CCA spatial modeling of plant species distribution", Plant Ecology 143, 107-122. The formulas are those of SAGA 8.5.0.

    Examples
    --------
    >>> terrain = misoxr.covariates.terrain("dem.tif", radius=4)
    >>> slope = terrain.slope.compute()
    """
    radius = checked_radius(radius)
    elevation = opened(dem)
    geobox = geobox_of(elevation)
    cell = cell_of(geobox)
    given = None if moments is None else position.values_of(moments, radius)
    cells = filled(in_blocks(elevation).data, radius)
    gradient, bends = (part(cells, radius, cell) for part in (quadric.gradient, quadric.bends))
    positions = position.positions(cells, radius)
    layers = {
        "elevation": cells.astype("float32"),
        "slope": _each(quadric.slope, gradient),
        "aspect": _each(quadric.aspect, gradient),
        "max_curvature": _each(partial(quadric.curvature, sign=1), bends),
        "min_curvature": _each(partial(quadric.curvature, sign=-1), bends),
        "profile_curvature": _each(quadric.profile_curvature, gradient, bends),
        "position_index": _each(_last, positions),
        "topographic_position_index": position.multi_scale(positions, position.lazy_moments(positions) if given is None else given),
    }
    variables = {name: (("y", "x"), data, _attributes(name, radius)) for name, data in layers.items()}
    return assign(xr.Dataset(variables, attrs=mark_of(elevation.attrs)), geobox)  # type: ignore[no-any-return]


def _each(function: Callable[..., Any], *layers: da.Array) -> da.Array:
    """Apply a function to blocks (layer, y, x) that gives one (y, x)."""
    work = partial(by_rows, function=function)
    found: da.Array = da.map_blocks(work, *layers, drop_axis=0, dtype="float32", meta=np.empty((0, 0), "float32"))
    return found


def _last(positions: Any) -> Any:
    return positions[-1]


def _attributes(name: str, radius: int) -> dict[str, str]:
    units, words = WORDS[name]
    return {"long_name": words if name == "elevation" else f"{words} (radius {radius} cells)", "units": units}
