"""Which classes prediction sets hold, as a class map that can be drawn."""

import numpy as np
import numpy.typing as npt
import xarray as xr

from misoxr.display.pictures import NODATA, legend_of
from misoxr.display.thinned import thin
from misoxr.errors import require
from misoxr.spec.words import flag_word

__all__ = ["combined", "is_set"]

MOST = 8
"""Sets that have a colour of their own, the most common ones."""


def is_set(array: xr.DataArray) -> bool:
    """Whether an array tells of each class whether it is in a prediction set (class, y, x)."""
    return array.dtype.kind == "b" and array.ndim == 3 and str(array.name).endswith("_set")


def combined(maps: xr.Dataset, name: str, side: int) -> xr.DataArray:
    """Return prediction sets as a class map in memory: a code for each set that occurs, and one for all rare ones.

    Parameters
    ----------
    maps : Dataset
        With ``<task>_set`` (class, y, x), and, where it is nodata, ``<task>_set_size``; ``<task>`` has the classes' colours.
    name : str
        Of the set.
    side : int
        Rows or columns, at the most.
    """
    array = maps[name]
    (dim,) = (str(one) for one in array.dims if one not in ("y", "x"))
    held = thin(array, side).compute().transpose("y", "x", dim)
    task, labels = name.removesuffix("_set"), [str(one) for one in array[dim].values]
    found, codes, counts = np.unique(held.values.reshape(-1, len(labels)), axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MOST]
    place = np.full(len(found), len(order), "int64")
    place[order] = np.arange(len(order))
    shown = place[codes.ravel()].reshape(held.shape[:2])
    if f"{name}_size" in maps:
        sizes = thin(maps[f"{name}_size"], side).compute().transpose("y", "x").values
        shown = np.where(np.isfinite(sizes) & (sizes != NODATA), shown, NODATA)
    own = _colours(maps, task, len(labels))
    names = [", ".join(np.asarray(labels)[row]) or "no class" for row in found[order]]
    colors = [_mixed(own[row]) for row in found[order]]
    if len(found) > len(order):
        names, colors = [*names, "other sets"], [*colors, "#777777"]
    attrs = {
        "long_name": f"prediction set of {maps[task].attrs.get('long_name', task) if task in maps else task}",
        "flag_values": list(range(len(names))),
        "flag_meanings": " ".join(flag_word(one) for one in names),
        "flag_colors": " ".join(colors),
        "_FillValue": np.uint8(NODATA),
    }
    return xr.DataArray(shown.astype("uint8"), dims=("y", "x"), coords={"y": held.y, "x": held.x}, attrs=attrs, name=name)


def _colours(maps: xr.Dataset, task: str, count: int) -> npt.NDArray[np.float64]:
    """Return the colours of a task's classes (class, 3), of 0 to 1."""
    if task in maps and "flag_meanings" in maps[task].attrs and len(legend := legend_of(maps[task]).colors) == count:
        return np.asarray(legend / 255)
    tab20 = require("matplotlib", "plot").colormaps["tab20"]
    return np.array([tab20(at % 20)[:3] for at in range(count)])


def _mixed(colours: npt.NDArray[np.float64]) -> str:
    """Return the mean colour of a set's classes, paler where there are several; white where there is none."""
    if not len(colours):
        return "#ffffff"
    pale = 1 - 0.85 ** (len(colours) - 1)
    mean = colours.mean(axis=0) * (1 - pale) + pale
    return "#" + bytes(int(round(value * 255)) for value in mean).hex()
