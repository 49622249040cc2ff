"""Simulated ground: noise by spectral synthesis, hills cut by streams, a wide main valley, and what is measured on them.

Distances are metres, so that the pixel size changes the detail and not the landscape's scale.
"""

import heapq
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

__all__ = ["Floats", "Terrain", "generator", "gradient", "noise", "smooth", "terrain", "wander"]

Floats = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_ROUTING = 80.0  # m: cells of the final drainage network
_EROSION = 160.0  # m: cells of the terrain while rivers cut it
_MARGIN = 16  # cells of erosion beyond each edge, so that the fixed border is never seen


def generator(seed: int, name: str) -> np.random.Generator:
    """Return the random stream of one named part, so that parts do not depend on the order they are drawn in."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def noise(seed: int, name: str, shape: tuple[int, int], pixel: float, longest: float, shortest: float, beta: float = 3.0) -> Floats:
    """Return a Gaussian random field of mean 0 and variance 1, by spectral synthesis.

    Parameters
    ----------
    seed, name
        The random stream.
    shape : (int, int)
        Rows and columns.
    pixel : float
        Pixel size, m.
    longest, shortest : float
        Wavelengths (m) between which power falls as wavenumber ** -beta.
    beta : float
        Exponent of the power spectrum; 3 is rough terrain (Voss 1988, "The Science of Fractal Images").
    """
    rows, columns = (fft.next_fast_len(n + int(longest / pixel), real=True) for n in shape)  # the margin stops wrapping around
    spectrum = fft.rfft2(generator(seed, name).standard_normal((rows, columns), dtype="float32"))
    k2 = np.add.outer(fft.fftfreq(rows, pixel) ** 2, fft.rfftfreq(columns, pixel) ** 2).astype("float32")
    spectrum *= (k2 + longest**-2) ** (-beta / 4) * np.exp(-0.5 * k2 * shortest**2)
    spectrum[0, 0] = 0
    field = fft.irfft2(spectrum, (rows, columns))
    return np.asarray(field[: shape[0], : shape[1]] / field.std(), dtype="float32")


def smooth(field: Floats, metres: float, pixel: float) -> Floats:
    """Return the field under a Gaussian of that standard deviation, approximated by three running means."""
    width = max(1, round((12 * (metres / pixel) ** 2 / 3 + 1) ** 0.5)) | 1
    for _ in range(3):
        field = ndimage.uniform_filter(field, width, mode="nearest")
    return field


@dataclass(frozen=True)
class Terrain:
    """The ground, as (y, x) float32 fields.

    Attributes
    ----------
    elevation : array
        Metres.
    slope, aspect : array
        Degrees, from 3 x 3 pixels (Horn 1981); aspect clockwise from north, -1 where flat.
    curvature : array
        Largest curvature of the surface, convex positive, m-1 (Wood 1996).
    position : array
        Elevation less the mean within about 100 m, m.
    area : array
        Specific catchment area, m2 per m of contour.
    channel : array
        Distance from the main river's channel, m.
    lowland : array
        0 in the uplands to 1 in the main valley.
    water : array of bool
        River and lakes.
    """

    elevation: Floats
    slope: Floats
    aspect: Floats
    curvature: Floats
    position: Floats
    area: Floats
    channel: Floats
    lowland: Floats
    water: Mask
    pixel: float

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.elevation.shape[0], self.elevation.shape[1]

    @property
    def wetness(self) -> Floats:
        """Topographic wetness index, ln(a / tan b) (Beven & Kirkby 1979)."""
        return np.log(self.area / np.tan(np.radians(np.maximum(self.slope, 0.3))))

    @property
    def stream_power(self) -> Floats:
        """Stream power index, m2: the catchment area, not the specific one, by tan b; as the presets and ``hydrology`` have it."""
        return self.area * self.pixel * np.tan(np.radians(self.slope))

    def smooth(self, field: Floats, metres: float) -> Floats:
        """Return a field averaged over its neighbourhood."""
        return smooth(field, metres, self.pixel)


def wander(seed: int, name: str, x: Floats, waves: Mapping[int, float]) -> Floats:
    """Return a smooth random line: a sum of sines of given wavelength and amplitude, m."""
    phases = generator(seed, name).uniform(0, 2 * np.pi, len(waves))
    line = sum(a * np.sin(2 * np.pi * x / w + p) for (w, a), p in zip(waves.items(), phases, strict=True))
    return np.asarray(line, dtype="float32")


def _fill(z: Doubles, base: Mask) -> Doubles:
    """Return the surface with its pits filled, falling everywhere towards the base (priority flood, Barnes et al. 2014)."""
    wide = z.shape[1] + 2
    level = np.pad(z, 1).ravel().tolist()
    seen = np.pad(base, 1, constant_values=True).ravel().tolist()
    heap = [(level[i], i) for i in np.flatnonzero(np.pad(base, 1).ravel()).tolist()]
    heapq.heapify(heap)
    while heap:
        low, i = heapq.heappop(heap)
        for step in (-wide - 1, -wide, -wide + 1, -1, 1, wide - 1, wide, wide + 1):
            j = i + step
            if not seen[j]:
                seen[j] = True
                level[j] = max(level[j], low + 1e-3)
                heapq.heappush(heap, (level[j], j))
    return np.reshape(level, (-1, wide))[1:-1, 1:-1]


def _route(z: Doubles, base: Mask, cell: float) -> tuple[Doubles, list[int], list[int]]:
    """Return the filled surface, the cell that each cell drains to (D8; -1 at the base), and the cells from low to high."""
    surface = _fill(z, base)
    rows, columns = z.shape
    pad = np.pad(surface, 1, constant_values=np.inf)
    steps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    falls = [(surface - pad[1 + i : 1 + i + rows, 1 + j : 1 + j + columns]) / (cell * np.hypot(i, j)) for i, j in steps]
    best = np.array([i * columns + j for i, j in steps])[np.argmax(falls, axis=0)]
    receiver = np.where(base, -1, np.arange(z.size).reshape(z.shape) + best)
    return surface, receiver.ravel().tolist(), np.argsort(surface, axis=None, kind="stable").tolist()


def _accumulate(receiver: list[int], order: list[int], cell: float) -> Doubles:
    """Return the catchment area of every cell, m2."""
    area = [cell * cell] * len(receiver)
    for i in reversed(order):
        if receiver[i] >= 0:
            area[receiver[i]] += area[i]
    return np.array(area)


def _erode(z: Doubles, uplift: Doubles, base: Mask, cell: float) -> Doubles:
    """Let streams cut the surface: implicit stream power (Braun & Willett 2013) with hillslope diffusion."""
    for _ in range(18):
        surface, receiver, order = _route(z, base, cell)
        cut = (0.2 * _accumulate(receiver, order, cell) ** 0.45 / cell).tolist()
        height = (surface + uplift).ravel().tolist()
        for i in order:
            if receiver[i] >= 0:
                height[i] = (height[i] + cut[i] * height[receiver[i]]) / (1 + cut[i])
        z = np.where(base, z, ndimage.gaussian_filter(np.reshape(height, z.shape), 0.55))
    return z


def _reach(height: float) -> float:
    """Return by how much the main valley is narrower where the area is small."""
    return min(1.0, height / 20_000)


def _middle(seed: int, x: Floats, height: float) -> Floats:
    """Return y of the main valley's middle, m.

    The valley crosses the area from east to west, so that eastern and western folds hold the same landforms.
    """
    reach = _reach(height)
    return wander(seed, "valley", x, {23_000: 1300 * reach, 9_000: 500 * reach, 4_300: 200 * reach}) - 0.6 * height


def _uplands(seed: int, x: Floats, y: Floats, cell: float, height: float) -> tuple[Floats, Floats]:
    """Return how far up from the main valley a place lies (0..1), and the distance from the valley's middle, m."""
    reach = _reach(height)
    distance = np.abs(y[:, None] - _middle(seed, x, height)[None, :])
    ragged = 1 + 0.35 * noise(seed, "valley walls", (y.size, x.size), cell, 5_000, 800)
    edge = 1600 * reach * np.clip(ragged, 0.4, 2)
    return 1 - np.exp(-((np.maximum(distance - edge, 0) / (3500 * reach)) ** 1.3)), distance


def _bedrock(seed: int, shape: tuple[int, int], pixel: float) -> tuple[Floats, Floats]:
    """Return elevation (m) cut by streams, and the lowland (0..1), on the pixel grid."""
    step = max(1, round(_EROSION / pixel))
    cell = step * pixel
    coarse = -(-shape[0] // step) + 2 * _MARGIN, -(-shape[1] // step) + 2 * _MARGIN
    y, x = (sign * cell * (np.arange(n, dtype="float32") - _MARGIN) for n, sign in zip(coarse, (-1, 1), strict=True))
    upland, distance = _uplands(seed, x, y, cell, shape[0] * pixel)
    rough = noise(seed, "bedrock", coarse, cell, 9_000, 300, 3.4)
    floor = 125 + 0.0006 * x[None, :] + 0.002 * distance
    start = floor + upland * (140 + 60 * rough)
    base = distance < 1.5 * cell
    base[[0, -1]], base[:, [0, -1]] = True, True
    uplift = 24.0 * upland * np.clip(1 + 0.5 * noise(seed, "uplift", coarse, cell, 12_000, 2_000), 0.15, None)
    z = _erode(start.astype("float64"), uplift.astype("float64"), base, cell)
    z = np.maximum(z, floor) + 4 * np.exp(-np.maximum(z - floor, 0) / 8)
    fields = [field[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN].astype("float32") for field in (z, 1 - upland)]
    fine = [_refine(field, step, 3, shape) for field in fields]
    return fine[0], np.clip(fine[1], 0, 1)


def _refine(field: Floats, step: int, order: Literal[1, 3], shape: tuple[int, ...]) -> Floats:
    """Return a coarse field on the pixel grid, by splines of that order."""
    fine = ndimage.zoom(np.asarray(field, dtype="float32"), step, order=order, mode="nearest", grid_mode=True)
    return fine[: shape[0], : shape[1]]


def _channel(seed: int, shape: tuple[int, int], pixel: float) -> Floats:
    """Return the distance (m) from the channel that meanders along the middle of the main valley."""
    x, height = pixel * np.arange(shape[1], dtype="float32"), shape[0] * pixel
    middle, reach = _middle(seed, x, height), _reach(height)
    bends = {5_200: 420 * reach, 2_600: 300 * reach, 1_300: 110 * reach}
    y = -pixel * np.arange(shape[0], dtype="float32")
    lines = [middle + wander(seed, name, x, bends) for name in ("channel", "side channel")]
    dry = np.ones(shape, dtype=bool)
    for line, width in zip(lines, (110, 55), strict=True):
        steep = np.sqrt(1 + np.gradient(line, pixel) ** 2)
        dry &= np.abs(y[:, None] - line[None, :]) > np.maximum(width * steep, pixel)
    return np.asarray(ndimage.distance_transform_edt(dry, sampling=pixel), dtype="float32")


def _drainage(z: Floats, channel: Floats, pixel: float) -> Floats:
    """Return specific catchment area, m2 / m.

    Flow is accumulated (D8) over cells of about 80 m and spread over their neighbourhood; what the cells cannot resolve is
    taken from the hollows and ridges of the pixels, so that the field is a plausible index and not an exact routing.
    """
    step = max(1, round(_ROUTING / pixel))
    rows, columns = (-(-n // step) for n in z.shape)
    padded = np.pad(z, ((0, rows * step - z.shape[0]), (0, columns * step - z.shape[1])), mode="edge")
    coarse = padded.reshape(rows, step, columns, step).mean((1, 3), dtype="float64")
    near = np.pad(channel, ((0, rows * step - z.shape[0]), (0, columns * step - z.shape[1])), mode="edge")
    base = near.reshape(rows, step, columns, step).min((1, 3)) <= 0
    base[[0, -1]], base[:, [0, -1]] = True, True
    _, receiver, order = _route(coarse, base, step * pixel)
    log = np.log(_accumulate(receiver, order, step * pixel) / (step * pixel)).reshape(rows, columns)
    spread = np.maximum(log, ndimage.gaussian_filter(log, 0.8)).astype("float32")
    fine = _refine(ndimage.gaussian_filter(spread, 0.5), step, 1, z.shape)
    hollow = np.clip((smooth(z, 60, pixel) - z) / 1.5, -1.5, 1.5)
    return np.asarray(np.exp(np.maximum(fine + hollow, math.log(pixel))))


def gradient(z: Floats, pixel: float) -> tuple[Floats, Floats]:
    """Return dz/dx (eastward) and dz/dy (northward) from 3 x 3 pixels (Horn 1981)."""
    east = ndimage.correlate1d(ndimage.correlate1d(z, [-1, 0, 1], 1, mode="nearest"), [1, 2, 1], 0, mode="nearest")
    north = ndimage.correlate1d(ndimage.correlate1d(z, [1, 0, -1], 0, mode="nearest"), [1, 2, 1], 1, mode="nearest")
    return east / (8 * pixel), north / (8 * pixel)


def _curvature(z: Floats, pixel: float) -> Floats:
    """Return the largest curvature, convex positive: the larger eigenvalue of the negative Hessian."""
    xx = -ndimage.correlate1d(z, [1, -2, 1], 1, mode="nearest") / pixel**2
    yy = -ndimage.correlate1d(z, [1, -2, 1], 0, mode="nearest") / pixel**2
    xy = ndimage.correlate1d(ndimage.correlate1d(z, [-1, 0, 1], 1, mode="nearest"), [-1, 0, 1], 0, mode="nearest") / (4 * pixel**2)
    return np.asarray((xx + yy) / 2 + np.hypot((xx - yy) / 2, xy))


def terrain(shape: tuple[int, int], pixel: float, seed: int) -> Terrain:
    """Return terrain by spectral synthesis, cut by streams, with a wide main valley.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns; the first row is the northernmost.
    pixel : float
        Pixel size, m.
    seed : int
        Seed of every random stream.
    """
    z, lowland = _bedrock(seed, shape, pixel)
    relief = 0.12 + np.clip(1 - lowland, 0, 1)
    z = z + relief * (
        7 * noise(seed, "knolls", shape, pixel, 900, 120, 3.2) + 1.4 * noise(seed, "ground", shape, pixel, 130, 40, 2.5)
    )
    channel = _channel(seed, shape, pixel)
    lakes = noise(seed, "lakes", shape, pixel, 1_200, 150, 4.5) + 1.2 * (lowland - 1) > 1.75
    lakes &= (channel > 250) & (lowland > 0.75)
    z = z + (smooth(z, 200, pixel) - 3 - z) * np.exp(-channel / 60)  # banks, not cliffs
    z = np.where(lakes, ndimage.uniform_filter(z, 9) - 1, z).astype("float32")
    east, north = gradient(z, pixel)
    slope = np.degrees(np.arctan(np.hypot(east, north)))
    aspect = np.where(slope < 0.1, -1, np.degrees(np.arctan2(-east, -north)) % 360)
    width = max(3, round(180 / pixel) | 1)
    return Terrain(
        elevation=z,
        slope=slope,
        aspect=aspect.astype("float32"),
        curvature=_curvature(z, pixel),
        position=z - ndimage.uniform_filter(z, width, mode="nearest"),
        area=_drainage(z, channel, pixel),
        channel=channel,
        lowland=lowland,
        water=(channel <= 0) | lakes,
        pixel=pixel,
    )
