"""Move a DEM in degrees to a projected CRS, on a grid with cells about as large as its own."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from misoxr.covariates.dem import is_in_degrees, opened
from misoxr.cube.join import Raster
from misoxr.errors import GridError, gathered
from misoxr.grid.geobox import extent, geobox_of
from misoxr.grid.halo import BLOCK
from misoxr.grid.longitude import circle_of, near, transformer
from misoxr.grid.resample import on_grid

__all__ = ["moved"]

NODES = 65
"""Rows and columns of points at which a DEM's place in the other CRS is looked up."""
UNEVEN = 2.0
"""How many times longer a step on the ground may come out in one place of the other CRS than in another."""
GROWN = 10
"""How many times its own cells a moved DEM may have."""


@gathered
def moved(dem: Raster, like: xr.Dataset | xr.DataArray) -> xr.DataArray:
    """Move a DEM in degrees to an image's CRS, whole and lazily, as ``add_terrain`` does.

    Give the result to :func:`misoxr.covariates.hydrology`, :func:`misoxr.covariates.position_moments` and
    :func:`misoxr.covariates.terrain`, which need cells in metres.

    Parameters
    ----------
    dem : path, URL, DataArray or Dataset
        As for :func:`misoxr.covariates.terrain`, but in degrees. A DEM in a projected CRS stays where it is.
    like : Dataset or DataArray
        The image, with dimensions y and x and a projected CRS.

    Returns
    -------
    DataArray (y, x)
        ``elevation`` in m, lazy, NaN as nodata: bilinear, with square cells whose area is that of the DEM's own.

    Raises
    ------
    GridError
        If the image is in degrees, too, or the DEM covers more than its CRS is made for.
    BandError, AssetError, SpecError
        If the DEM cannot be read, as :func:`misoxr.covariates.terrain`.

    Examples
    --------
    >>> dem = misoxr.covariates.moved("dem.tif", image)
    >>> moments = misoxr.covariates.position_moments(dem)
    """
    elevation, image = opened(dem), geobox_of(like)
    box = geobox_of(elevation)
    if not is_in_degrees(box):
        return elevation
    if is_in_degrees(image):
        raise GridError(
            "The image and the DEM are both in degrees, and terrain needs cells in metres. Reproject the DEM to a projected CRS first, "
            'for example with dem.rio.reproject("EPSG:3338").'
        )
    x, y, lat = _nodes(box, image)
    steps = np.array(box.shape) / (NODES - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        down = np.hypot(np.diff(x, axis=0), np.diff(y, axis=0))[:, 1:-1]
        across = np.hypot(np.diff(x, axis=1), np.diff(y, axis=1))[1:-1]
        # A node's step to the south, and the one to the east over the length of its parallel: both by the same angle on the ground.
        scales = [down / abs(steps[0] * box.affine.e), across / abs(steps[1] * box.affine.a) / np.cos(np.radians(lat[1:-1, :-1]))]
    lengths = np.concatenate([scale.ravel() for scale in scales])
    size = math.sqrt(np.median(down) / steps[0] * np.median(across) / steps[1])
    edges = np.array([x.min(), -y.max(), x.max(), -y.min()]) / size
    many = (edges[2] - edges[0]) * (edges[3] - edges[1])
    if not np.isfinite(edges).all() or not lengths.max() < UNEVEN * lengths.min() or many > GROWN * elevation.size + 1e4:
        raise GridError(
            f"The DEM covers {extent(box)}, more than the image's CRS {image.crs} is made for. Cut it to the surroundings of the image, "
            f"{extent(image)}, first."
        )
    west, north = np.floor(edges[:2]).astype(int).tolist()
    east, south = np.ceil(edges[2:]).astype(int).tolist()
    target = GeoBox((south - north, east - west), Affine(size, 0, west * size, 0, -size, -north * size), image.crs)
    return on_grid(elevation, target, "bilinear", (BLOCK, BLOCK))


def _nodes(box: GeoBox, image: GeoBox) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], Any]:
    """Return x and y in the image's CRS of nodes over a DEM, edges included, and their latitudes."""
    rows, columns = (np.linspace(0, size, NODES) for size in box.shape)
    down, across = np.meshgrid(rows, columns, indexing="ij")
    lon, lat = box.affine.c + box.affine.a * across, box.affine.f + box.affine.e * down
    forward, circle = transformer(str(box.crs), str(image.crs)), circle_of(str(image.crs))
    x, y = (lon, lat) if forward is None else forward.transform(lon, lat)
    middle = (NODES // 2, NODES // 2)
    return near(np.asarray(x), x[middle], circle.turn if circle else None), np.asarray(y), lat
