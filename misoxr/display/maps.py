"""Draw maps: imagery in true colour, probabilities, and classes with a legend."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from misoxr.cube.decode import decoded
from misoxr.errors import BandError, SpecError, did_you_mean, require
from misoxr.grid.geobox import geobox_of

__all__ = ["classes", "plot", "probability", "true_colour"]

_SIDE = 800


def _coarse(array: xr.DataArray) -> xr.DataArray:
    """Take every n-th pixel, so that a picture never loads more than it shows."""
    step = max(1, max(array.sizes["y"], array.sizes["x"]) // _SIDE)
    return array.isel(y=slice(None, None, step), x=slice(None, None, step))


def _extent(array: xr.DataArray) -> tuple[float, float, float, float]:
    """Left edge, right edge, edge of the last row and edge of the first, in kilometres."""
    box = geobox_of(array)
    affine, (rows, columns) = box.affine, box.shape.yx
    edges = affine.c, affine.c + affine.a * columns, affine.f + affine.e * rows, affine.f
    return edges[0] / 1000, edges[1] / 1000, edges[2] / 1000, edges[3] / 1000


def true_colour(ds: xr.Dataset, axis: Any) -> None:
    """Draw red, green and blue, each stretched between its 2 and 98 percentiles."""
    missing = [name for name in ("red", "green", "blue") if name not in ds]
    if missing:
        raise BandError(f"True colour needs red, green and blue; {missing} are missing.")
    rgb = np.stack([decoded(name, _coarse(ds[name])).values for name in ("red", "green", "blue")], axis=-1)
    low, high = np.nanpercentile(rgb, [2, 98], axis=(0, 1))
    axis.imshow(np.nan_to_num(np.clip((rgb - low) / (high - low), 0, 1), nan=1.0), extent=_extent(ds["red"]))


def probability(array: xr.DataArray, axis: Any) -> None:
    """Draw a probability from 0 to 1, with a colour bar."""
    image = axis.imshow(_coarse(array).values, extent=_extent(array), cmap="RdYlBu", vmin=0, vmax=1)
    axis.figure.colorbar(image, ax=axis, shrink=0.7, label=array.attrs.get("long_name", array.name))


def classes(array: xr.DataArray, axis: Any) -> None:
    """Draw a class map in the colours of its attributes, with a legend of the classes."""
    colors = require("matplotlib.colors", "plot")
    patches = require("matplotlib.patches", "plot")
    names = str(array.attrs["flag_meanings"]).split()
    rgb = [colors.to_rgb(color) for color in _colours(array, len(names))]
    coarse = _coarse(array)
    codes: npt.NDArray[np.int64] = np.nan_to_num(coarse.values.astype("float64"), nan=255).astype("int64")
    table = np.ones((256, 3))
    table[: len(names)] = rgb
    axis.imshow(table[codes], extent=_extent(array), interpolation="nearest")
    handles = [patches.Patch(color=color, label=name) for color, name in zip(rgb, names, strict=True)]
    axis.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8)


def _colours(array: xr.DataArray, count: int) -> Sequence[Any]:
    if "flag_colors" in array.attrs:
        return str(array.attrs["flag_colors"]).split()
    colormap = require("matplotlib", "plot").colormaps["tab20"]
    return [colormap(index % 20) for index in range(count)]


def plot(maps: xr.Dataset, *, image: xr.Dataset | None = None, **figure: Any) -> Any:
    """Draw the maps of a dataset side by side: binary probabilities, class maps, and the imagery where it is given.

    Parameters
    ----------
    maps : Dataset
        From ``predict`` or :func:`misoxr.open_maps`.
    image : Dataset, optional
        With red, green and blue, for a panel in true colour.
    **figure
        Passed on to ``matplotlib.pyplot.subplots``.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    BandError
        If there are neither probabilities nor class maps.
    SpecError
        If matplotlib does not know an argument.

    Examples
    --------
    >>> figure = maps.miso.plot(image=image)
    """
    if not isinstance(image, xr.Dataset | None):
        raise BandError(f"image is a {type(image).__name__}; give a Dataset with red, green and blue.")
    pyplot = require("matplotlib.pyplot", "plot")
    probabilities = [array for name, array in maps.items() if str(name).endswith("_probability") and array.ndim == 2]
    # A binary class map says less than its probability, so only maps of several classes are drawn.
    several = [array for array in maps.values() if len(str(array.attrs.get("flag_meanings", "")).split()) > 2]
    if not probabilities + several:
        raise BandError(
            f"There is no probability and no class map among {list(maps.data_vars)}; plot what predict or open_maps gives, and "
            "regressions with xarray's own plot."
        )
    panels = ([image] if image is not None else []) + probabilities + several
    options = {"figsize": (6 * len(panels), 5), "layout": "constrained", **figure}
    try:
        canvas, axes = pyplot.subplots(1, len(panels), squeeze=False, **options)
    except (AttributeError, TypeError, ValueError) as error:
        raise SpecError(
            f"matplotlib.pyplot.subplots cannot take {figure} ({error}); plot itself takes image.{did_you_mean(next(iter(figure)), ['image'])}"
        ) from error
    for panel, axis in zip(panels, axes[0], strict=True):
        if isinstance(panel, xr.Dataset):
            true_colour(panel, axis)
            axis.set_title("true colour")
        else:
            (classes if "flag_meanings" in panel.attrs else probability)(panel, axis)
            axis.set_title(str(panel.attrs.get("long_name", panel.name)))
        axis.set(xlabel="x (km)", ylabel="y (km)")
    if maps.attrs.get("simulated"):
        canvas.suptitle("Simulated landscape", fontsize=10)
    return canvas
