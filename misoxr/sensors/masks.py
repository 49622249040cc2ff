"""Clear-sky masks: which pixels of a quality band are clear, with clouds cleaned of specks and grown."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from misoxr.errors import AssetError
from misoxr.sensors.sensor import Mask

__all__ = ["BY_KEY", "FMASK", "MARGIN", "MASKS", "QA_PIXEL", "SCL", "Sky", "clear_sky", "saturated"]

Booleans = npt.NDArray[np.bool_]

OPENING, DILATION = 1, 2
"""Pixels of the quality band: clouds thinner than the opening do not grow; the others grow by the dilation."""
MARGIN = 2 * OPENING + DILATION
"""Pixels around a window on which its mask depends."""
OWN_MARGIN = 64
"""Pixels around a window that a function of the user's own sees."""

_SCL = (
    *("no_data", "saturated_or_defective", "dark_area", "cloud_shadow", "vegetation", "not_vegetated", "water", "unclassified"),
    *("cloud_medium_probability", "cloud_high_probability", "thin_cirrus", "snow_or_ice"),
)
SCL = Mask(
    "scl",
    {name: code for code, name in enumerate(_SCL)},
    clouds=("cloud_shadow", "cloud_medium_probability", "cloud_high_probability", "thin_cirrus"),
    hides=("no_data", "saturated_or_defective", "dark_area", "unclassified"),
    snow="snow_or_ice",
    bits=False,
    fill=(0,),
)
"""Sentinel-2's scene classification."""
QA_PIXEL = Mask(
    "qa_pixel",
    {"fill": 0, "dilated_cloud": 1, "cirrus": 2, "cloud": 3, "cloud_shadow": 4, "snow": 5, "clear": 6, "water": 7},
    clouds=("cirrus", "cloud", "cloud_shadow"),
    hides=("fill", "dilated_cloud"),
    snow="snow",
    fill=(1,),
)
"""Quality of pixels of Landsat Collection 2 (USGS, LSDS-1619 and LSDS-1618)."""
FMASK = Mask(
    "fmask",
    {"cirrus": 0, "cloud": 1, "adjacent_to_cloud": 2, "cloud_shadow": 3, "snow": 4, "water": 5},
    clouds=("cirrus", "cloud", "cloud_shadow"),
    hides=("adjacent_to_cloud",),
    snow="snow",
    fill=(255,),
)
"""Quality of pixels of HLS 2.0 (HLS product user guide)."""
MASKS: Mapping[str, Mask] = MappingProxyType({mask.asset: mask for mask in (SCL, QA_PIXEL, FMASK)})
"""What ``open_stac(mask=...)`` names."""
BY_KEY: Mapping[str, Mask] = MappingProxyType({mask.asset: mask for mask in (SCL, QA_PIXEL)})
"""Masks of bands that mean the same wherever they have this key. ``fmask`` is bits in HLS, and classes elsewhere."""


@dataclass(frozen=True)
class Sky:
    """What a worker needs to turn a quality band into a clear-sky mask.

    Attributes
    ----------
    mask : Mask
        What its values mean.
    snow : bool
        Whether snow is kept.
    own : callable, optional
        Takes a block of the band's values and returns where they are clear, instead of the mask.
    """

    mask: Mask
    snow: bool = False
    own: Callable[[npt.NDArray[Any]], Any] | None = None

    @property
    def margin(self) -> int:
        """Pixels around a window on which its mask may depend."""
        return MARGIN if self.own is None else OWN_MARGIN

    def nodata(self, declared: tuple[float, ...]) -> tuple[float, ...]:
        """Return the values that are no observation, those that item or file declare among them."""
        fill = self.mask.fill
        return declared if fill is None else () if not fill else (*declared, *fill)

    def clear(self, values: npt.NDArray[Any], nothing: Booleans | None = None) -> Booleans:
        """Return where a block of the band, with a margin, is clear.

        Raises
        ------
        AssetError
            If it holds no bits where bits are expected, or a function of the user's own returns no mask.
        """
        if self.own is not None:
            return _own(self.own, values)
        if self.mask.bits and values.dtype.kind not in "iu":
            raise AssetError(f"it holds {values.dtype}, and bits are whole numbers")
        return clear_sky(values, self.mask, self.snow, nothing)


def clear_sky(values: npt.NDArray[Any], mask: Mask, snow: bool = False, nothing: Booleans | None = None) -> Booleans:
    """Return where a quality band is clear and no cloud is near.

    Clouds that survive an opening grow; a lone cloudy pixel hides itself only.

    Parameters
    ----------
    values : ndarray of int, shape (y, x)
        The band on its own grid, with a margin of :data:`MARGIN` pixels where there are any.
    mask : Mask
        What its values mean.
    snow : bool, optional
        Whether snow is kept.
    nothing : ndarray of bool, shape (y, x), optional
        Where nothing was observed. It is not clear, and does not grow, though all its bits may be set.
    """
    from scipy.ndimage import binary_dilation, binary_erosion

    cloud = mask.where(values, mask.clouds)
    hidden = mask.where(values, mask.hides if snow or mask.snow is None else (*mask.hides, mask.snow))
    if nothing is not None:
        cloud &= ~nothing
        hidden |= nothing
    core = binary_erosion(cloud, iterations=OPENING, border_value=1)
    grown = binary_dilation(core, iterations=OPENING + DILATION) if core.any() else core
    clear = ~(cloud | hidden | grown)
    if not mask.bits:
        clear &= np.isin(values, list(mask.names.values()))
    return np.asarray(clear)


def saturated(asset: str, numbers: set[int]) -> Mask:
    """Return the mask of a band whose bit n - 1 tells that band n is saturated; bit 9 tells a dropped pixel."""
    names = {f"band_{number}": number - 1 for number in sorted(numbers) if number < 10}
    return Mask(asset, names | {"dropped": 9}, hides=(*names, "dropped"), fill=())


def _own(function: Callable[[npt.NDArray[Any]], Any], values: npt.NDArray[Any]) -> Booleans:
    """Return what a function of the user's own says of a block."""
    try:
        clear = np.asarray(function(values))
    except Exception as error:  # of any kind
        raise AssetError(f"mask raised {type(error).__name__}: {error}") from error
    if clear.dtype != bool or clear.shape != values.shape:
        raise AssetError(
            f"mask returned {clear.dtype} of shape {clear.shape} for a block of shape {values.shape}; return True where it is clear"
        )
    return clear
