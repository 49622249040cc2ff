"""Maps and images over y and x alone, in chunks, north up and from west to east."""

from typing import TypeVar

import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from misoxr.errors import SpecError
from misoxr.grid.geobox import assign, geobox_of, located
from misoxr.grid.halo import in_blocks

__all__ = ["flat", "north_up", "one_of", "squeezed"]

Layers = TypeVar("Layers", xr.DataArray, xr.Dataset)


def squeezed(array: Layers) -> Layers:
    """Drop dimensions of length 1, but for y and x."""
    return array.squeeze([dim for dim in array.dims if dim not in ("y", "x") and array.sizes[dim] == 1], drop=True)


def one_of(ds: xr.Dataset) -> str:
    """Say for an error how one of several layers is selected, where maps have some; nothing where they have none."""
    for name, array in ds.data_vars.items():
        others = [str(dim) for dim in array.dims if dim not in ("y", "x")]
        if others and {"y", "x"} <= set(array.dims):
            return f" {name!r} has dimensions {array.dims}: select one layer, such as maps.isel({others[0]}=0)."
    return ""


def flat(array: xr.DataArray, what: str = "The map") -> xr.DataArray:
    """Return a map over y and x, in chunks.

    Raises
    ------
    SpecError
        If it is no array, or has other dimensions.
    """
    if not isinstance(array, xr.DataArray):
        raise SpecError(f"{what} is a {type(array).__name__}; give one variable of it, such as maps.permafrost.")
    array = squeezed(located(array))
    if set(array.dims) != {"y", "x"}:
        raise SpecError(f"{what} has dimensions {array.dims}, not (y, x); select one of the others first.")
    return in_blocks(array.transpose("y", "x"))


def north_up(obj: Layers) -> Layers:
    """Turn a map so that rows run from north to south and columns from west to east, lazily: pixels have the same numbers in any orientation."""
    box = geobox_of(obj)
    affine, (height, width) = box.affine, box.shape
    turned = {"y": affine.e > 0, "x": affine.a < 0}
    if not any(turned.values()):
        return obj
    left = affine.c + min(affine.a * width, 0.0)
    top = affine.f + max(affine.e * height, 0.0)
    flipped = obj.isel({dim: slice(None, None, -1) for dim, turn in turned.items() if turn})
    found: Layers = assign(flipped, GeoBox(box.shape, Affine(abs(affine.a), 0.0, left, 0.0, -abs(affine.e), top), box.crs))
    return found
