"""What makes a picture a map: its extent in kilometres or degrees, a scale bar, and an arrow to true north."""

from dataclasses import dataclass
from math import atan2, cos, degrees, radians, sin
from typing import Any

import numpy as np
import pyproj
from odc.geo.geobox import GeoBox

from misoxr.display.pictures import Ground
from misoxr.errors import require

__all__ = ["Frame", "furnish", "true_north"]

TURN = 10.0
"""Degrees by which true north may differ between the middle of a map and its corners where one arrow stands for all of it."""
STEP = 1e-4
"""Degrees along a meridian by which its direction is told."""
SPREAD = 1.1
"""Ratio of the lengths of a degree of longitude, at a map's two ends, beyond which no scale bar holds."""


@dataclass(frozen=True)
class Frame:
    """Where a map lies in a picture.

    Attributes
    ----------
    left, right, bottom, top : float
        Edges, in kilometres or degrees; of a grid with rows to the north, as of others, ``bottom`` is the south.
    unit : float
        Length of a kilometre, or of a degree, in units of the CRS.
    geographic : bool
        Whether the CRS is in degrees.
    """

    left: float
    right: float
    bottom: float
    top: float
    unit: float
    geographic: bool

    @classmethod
    def of(cls, box: GeoBox) -> "Frame":
        """Measure a grid."""
        geographic = box.crs is not None and bool(box.crs.geographic)
        axes = box.crs.proj.axis_info if box.crs is not None else []
        unit = 1.0 if geographic or not axes else 1000.0 / axes[0].unit_conversion_factor
        west, south, east, north = (float(edge) / unit for edge in box.boundingbox)
        return cls(west, east, south, north, unit, geographic)

    @property
    def aspect(self) -> float:
        """Length of a unit upwards in units sideways."""
        return 1 / max(cos(radians((self.bottom + self.top) / 2)), 1e-3) if self.geographic else 1.0

    @property
    def ratio(self) -> float:
        """Width by height of the picture."""
        return (self.right - self.left) / ((self.top - self.bottom) * self.aspect)

    def size(self, wide: float, beside: float) -> tuple[float, float]:
        """Return width and height, in inches, of a picture of the map that is so wide, with room for a legend beside it."""
        ratio = min(max(self.ratio, 0.4), 2.5)
        across = wide * min(ratio, 1.3) / 1.3
        return across + beside, across / ratio + 0.8

    def apply(self, axis: Any) -> None:
        """Give axes the map's limits, its proportions and its units."""
        axis.set(xlim=(self.left, self.right), ylim=(self.bottom, self.top), aspect=self.aspect)
        words = ("longitude (°)", "latitude (°)") if self.geographic else ("x (km)", "y (km)")
        axis.set(xlabel=words[0], ylabel=words[1])
        locator = require("matplotlib.ticker", "plot").MaxNLocator
        axis.xaxis.set_major_locator(locator(4 if self.ratio > 0.7 else 2))
        axis.yaxis.set_major_locator(locator(5))
        axis.ticklabel_format(useOffset=False, style="plain")
        axis.tick_params(labelsize=8)

    @property
    def has_one_scale(self) -> bool:
        """Whether a scale bar holds all over the map: not where degrees of longitude are of other lengths at its ends."""
        if not self.geographic:
            return True
        lengths = [max(cos(radians(latitude)), 1e-3) for latitude in (self.bottom, self.top)]
        return max(lengths) / min(lengths) <= SPREAD


def furnish(axis: Any, box: GeoBox) -> None:
    """Draw a scale bar and an arrow to true north into axes, each where one holds for the whole map."""
    white = [require("matplotlib.patheffects", "plot").withStroke(linewidth=3, foreground="white")]
    common = {"path_effects": white, "zorder": 5}
    if Frame.of(box).has_one_scale:
        share, words = Ground.of(box).scale()
        bar = {"color": "black", "linewidth": 2.5, "solid_capstyle": "butt", "label": "_scale", "transform": axis.transAxes}
        axis.plot([0.04, 0.04 + share], [0.05, 0.05], **bar, **common)
        above = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 8}
        axis.annotate(words, (0.04 + share / 2, 0.05), (0, 3), **above, **common)
    angle = true_north(box)
    if angle is not None:
        # In points around the letter: axes may be of any proportions, and the arrow turns.
        letter = _near_corner(axis, -16, -30)
        axis.annotate("N", (0, 0), xycoords=letter, ha="center", va="center", fontsize=8, weight="bold", **common)
        across, up = sin(radians(angle)), cos(radians(angle))
        style = {"arrowstyle": "-|>", "color": "black", "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0, "path_effects": white}
        places = {"xy": (22 * across, 22 * up), "xytext": (8 * across, 8 * up), "xycoords": letter, "textcoords": letter}
        axis.annotate("", **places, arrowprops=style, zorder=5, gid=f"north {angle:.1f}")


def _near_corner(axis: Any, across: float, up: float) -> Any:
    """Return the transform of points (1/72 inch) from a place so many points from the upper right corner of axes."""
    transforms = require("matplotlib.transforms", "plot")
    inches = transforms.Affine2D().translate(across, up).scale(1 / 72) + axis.figure.dpi_scale_trans
    return inches + transforms.ScaledTranslation(1, 1, axis.transAxes)


def true_north(box: GeoBox) -> float | None:
    """Return the direction of true north on a grid, degrees clockwise from the top of the picture.

    None where one arrow would not do: where the CRS is in degrees, whose axes tell, or not known; and where the direction in a corner differs from that in the
    middle by more than 10 degrees, as around a pole and on maps of a whole state.
    """
    if box.crs is None or box.crs.geographic or box.crs.proj.geodetic_crs is None:
        return None
    left, bottom, right, top = box.boundingbox
    x = np.array([(left + right) / 2, left, left, right, right])
    y = np.array([(bottom + top) / 2, bottom, top, bottom, top])
    there = pyproj.Transformer.from_crs(box.crs.proj, box.crs.proj.geodetic_crs, always_xy=True)
    longitude, latitude = there.transform(x, y)
    x1, y1 = there.transform(longitude, np.asarray(latitude) - STEP, direction="INVERSE")
    x2, y2 = there.transform(longitude, np.minimum(np.asarray(latitude) + STEP, 90), direction="INVERSE")
    angles = [degrees(atan2(east, north)) for east, north in zip(np.subtract(x2, x1), np.subtract(y2, y1), strict=True)]
    turns = [abs((angle - angles[0] + 180) % 360 - 180) for angle in angles[1:]]
    return angles[0] if np.isfinite(angles).all() and max(turns) <= TURN else None
