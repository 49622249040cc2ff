"""Augmentation: windows padded, mirrored and rotated, with the points in them and the directions that their bands tell."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from misoxr.spec import ModelSpec
from misoxr.spec.components import Augmentation

__all__ = ["AUGMENTATIONS", "augmented", "augmented_points", "padded"]

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

AUGMENTATIONS: Mapping[Augmentation, tuple[tuple[bool, int], ...]] = MappingProxyType(
    {
        "none": ((False, 0),),
        "mirror": ((False, 0), (True, 0)),
        "flips": ((False, 0), (True, 0), (False, 2), (True, 2)),
        "dihedral": tuple((mirror, quarters) for quarters in range(4) for mirror in (False, True)),
    }
)
"""By name, what is done to windows: whether they are mirrored east to west, and by how many quarters they are then rotated."""


def padded(bands: Array, size: int) -> Array:
    """Pad a window (band, y, x) with nodata to its size, where the dataset is smaller."""
    missing = [(0, size - length) for length in bands.shape[1:]]
    return np.pad(bands, ((0, 0), *missing), constant_values=np.nan) if any(pad for _, pad in missing) else bands


def augmented(bands: Array, spec: ModelSpec, mirror: bool, quarters: int) -> Array:
    """Mirror raw bands (band, y, x) east to west, then rotate them anticlockwise, and with them the directions of circular bands."""
    if not mirror and quarters % 4 == 0:
        return bands
    out = np.rot90(bands[..., ::-1] if mirror else bands, quarters, axes=(1, 2)).copy()
    for index, band in enumerate(spec.bands):
        if band.kind == "circular":
            # Degrees clockwise from north: a quarter anticlockwise takes 90 away.
            angle = (360.0 - out[index] if mirror else out[index]) - 90.0 * quarters
            out[index] = np.where(out[index] >= 0, angle % 360.0, out[index])
    return out


def augmented_points(points: Floats, mirror: bool, quarters: int) -> Floats:
    """Move points (N, [x, y]) in -1..1 of a window, y downwards, as :func:`augmented` moves its pixels."""
    out = points * np.array([-1.0, 1.0]) if mirror else points
    for _ in range(quarters % 4):
        out = np.stack([out[:, 1], -out[:, 0]], axis=-1)
    return out
