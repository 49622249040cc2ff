"""Maps and references that several tests build by hand."""

import geopandas as gpd
import numpy as np
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from misoxr.grid.geobox import assign

COUNTS = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])
CLASSES = ("deforestation", "gain", "stable_forest", "stable_non-forest")
"""The example of Olofsson et al. 2014: rows are the map, columns the reference."""


def class_map(codes, names, *, name="cover", pixel=30.0, origin=(300_000.0, 1_500_000.0), crs="EPSG:3338", height=None):
    """A class map, 255 where there is nothing."""
    box = GeoBox(np.shape(codes), Affine(pixel, 0, origin[0], 0, -(height or pixel), origin[1]), crs)
    attrs = {"flag_values": np.arange(len(names), dtype="uint8"), "flag_meanings": " ".join(names), "_FillValue": np.uint8(255)}
    return assign(xr.DataArray(np.asarray(codes, "uint8"), dims=("y", "x"), name=name, attrs=attrs), box)


def sites(array, rows, columns, labels, stratum=None, probability=None, name=None):
    """A reference at pixels' centres."""
    table = {name or array.name: labels}
    if stratum is not None:
        table |= {"stratum": stratum, "inclusion_probability": probability}
    places = gpd.points_from_xy(array.x.values[columns], array.y.values[rows])
    return gpd.GeoDataFrame(table, geometry=places, crs=array.spatial_ref.attrs["crs_wkt"])


def published():
    """The published example as a map of a fiftieth of its pixels, as large, and a reference that gives its counts."""
    size = PIXELS // 50
    codes = np.repeat(np.arange(4), size).reshape(400, 500)
    array = class_map(np.random.default_rng(0).permuted(codes.ravel()).reshape(codes.shape), CLASSES, pixel=30 * np.sqrt(50))
    at, labels, stratum = [], [], []
    for row, counts in enumerate(COUNTS):
        at.append(np.flatnonzero(array.values == row)[: counts.sum()])
        labels += list(np.repeat(CLASSES, counts))
        stratum += [CLASSES[row]] * counts.sum()
    number = {name: count.sum() / many for name, count, many in zip(CLASSES, COUNTS, size, strict=True)}
    rows, columns = np.unravel_index(np.concatenate(at), array.shape)
    return array, sites(array, rows, columns, labels, stratum, [number[name] for name in stratum])
