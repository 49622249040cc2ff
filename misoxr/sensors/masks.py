"""Clear-sky masks: which pixels of a sensor's classification are clear, with clouds cleaned of specks and grown."""

import numpy as np
import numpy.typing as npt

__all__ = ["MARGIN", "clear_sky"]

CLEAR_CLASSES = (4, 5, 6)
"""Of Sentinel-2's scene classification: vegetation, bare ground, water; not 11, snow."""
CLOUD_CLASSES = (3, 8, 9, 10)
"""Cloud shadow, cloud of medium and high probability, cirrus."""
OPENING, DILATION = 1, 2
"""Pixels of the classification (20 m): clouds thinner than the opening do not grow; the others grow by the dilation."""
MARGIN = 2 * OPENING + DILATION
"""Pixels around a window on which its mask depends."""


def clear_sky(codes: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Return where a scene classification is clear and no cloud is near.

    Clouds that survive an opening grow; a lone cloudy pixel hides itself only. A pixel of any class but the clear ones is never clear.

    Parameters
    ----------
    codes : ndarray, shape (y, x)
        Codes on the classification's own grid, with a margin of :data:`MARGIN` pixels where there are any.
    """
    from scipy.ndimage import binary_dilation, binary_erosion

    cloud = np.isin(codes, CLOUD_CLASSES)
    core = binary_erosion(cloud, iterations=OPENING, border_value=1)
    grown = binary_dilation(core, iterations=OPENING + DILATION) if core.any() else core
    clear: npt.NDArray[np.bool_] = np.isin(codes, CLEAR_CLASSES) & ~grown
    return clear
