"""What lives on simulated ground: climate, permafrost, soil orders, plant cover and reflectance, with their truth known.

Nothing is fitted to Alaska; sizes and units are those of the boreal uplands south of the Yukon.

The weights below were set by hand, in several rounds, until a random forest on a pixel's own values scored clearly better than
chance and clearly worse than the truth, and one that also saw means and spreads of the neighbourhood scored between the two. So
a gain of a model that sees the neighbourhood is expected here by design: its size says how well the model learns what is there to
learn, and nothing about Alaska.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from misoxr.simulate.terrain import Floats, Terrain, generator, gradient, noise, wander
from misoxr.spec import SENTINEL2, SOIL_ORDERS

__all__ = [
    "CLEAR_SUN",
    "GELISOLS",
    "SIMULATOR_VERSION",
    "Setting",
    "climate",
    "cover",
    "incidence",
    "orders",
    "permafrost",
    "reflectance",
    "setting",
]

SIMULATOR_VERSION = "2"
"""Version of the simulated world; the same version, shape, pixel size and seed give the same landscape."""


def climate(ground: Terrain, northing: Floats, seed: int) -> dict[str, Floats]:
    """Return climate normals as smooth as published ones (about 800 m).

    Summers cool with height and latitude; January minima are lowest in valleys, under the inversion.

    Parameters
    ----------
    ground : Terrain
        The terrain.
    northing : array
        y coordinate of each row, m.
    seed : int
        Seed of the anomalies.

    Returns
    -------
    dict of array
        ``annual_precipitation`` (mm), ``summer_warmth_index`` (degC month, the sum of monthly means above 0 degC) and
        ``january_minimum_temperature`` (degC).
    """
    height = (ground.smooth(ground.elevation, 400) - 130) / 1000
    north = ((northing - 1_650_000) / 100_000)[:, None]

    def anomaly(name: str) -> Floats:
        return noise(seed, name, height.shape, ground.pixel, 20_000, 3_000)

    inversion = np.exp(-np.maximum(height, 0) / 0.18)
    return {
        "annual_precipitation": 285 + 240 * height - 15 * north + 12 * anomaly("precipitation"),
        "summer_warmth_index": 46 - 24 * height - 2.5 * north + 0.5 * anomaly("summer"),
        "january_minimum_temperature": -24.5 - 6 * inversion - 2.5 * height - 1.5 * north + 0.3 * anomaly("winter"),
    }


@dataclass(frozen=True)
class Setting:
    """What decides the soil of a place, most of it seen by no instrument, as (y, x) fields.

    Attributes
    ----------
    shade : array
        How far the hillside (about 200 m) faces north: sine of its slope times cosine of its aspect, 1 on a usual north slope.
    steepness : array
        Slope of the hillside, as a tangent.
    hill : array
        Position on the hillside: elevation less the mean within about 500 m, over the local relief; 0 in the middle.
    damp : array
        Wetness of the neighbourhood (about 250 m), standardised.
    cold : array
        Coolness of the summer, standardised.
    burn : array
        Share burnt in the last decades, 0..1, in patches.
    organic : array
        Thickness of the organic layer, 0..1 of its largest.
    young : array
        1 on fresh river sediment to 0.
    fen : array
        Peat kept thawed by groundwater, 0..1.
    ash : array
        Volcanic ash in the topsoil, 0..1.
    """

    shade: Floats
    steepness: Floats
    hill: Floats
    damp: Floats
    cold: Floats
    burn: Floats
    organic: Floats
    young: Floats
    fen: Floats
    ash: Floats


def _sigmoid(value: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(value, -30, 30))))


def _standard(field: Floats) -> Floats:
    return np.asarray((field - field.mean()) / field.std())


def setting(ground: Terrain, warmth: Floats, seed: int) -> Setting:
    """Return each place's setting: of the *hillside*, of which a pixel's own slope, aspect and wetness are noisy signs.

    Parameters
    ----------
    ground : Terrain
        The terrain.
    warmth : array
        Summer warmth index, degC month.
    seed : int
        Seed of fires, fens, ash and deposits.
    """
    shape, pixel = ground.shape, ground.pixel
    hillside, around = ground.smooth(ground.elevation, 130), ground.smooth(ground.elevation, 400)
    east, north = gradient(hillside, pixel)
    steepness = np.hypot(east, north)
    shade = -north / np.sqrt(1 + steepness**2) / 0.16
    relief = np.sqrt(np.maximum(ground.smooth((hillside - around) ** 2, 400), 0)) + 12
    hill = np.clip((hillside - around) / relief, -2, 2)
    damp = _standard(ground.smooth(np.log(ground.area) - 1.2 * np.log(steepness + 0.02), 150))
    cold = _standard(-warmth)
    deposits = ground.lowland * np.exp(-ground.channel / 380) + 0.12 * noise(seed, "bars", shape, pixel, 900, 100)
    young = _sigmoid(6 * (deposits - 0.42))
    fire = _sigmoid((noise(seed, "fire", shape, pixel, 4_500, 600, 4.0) - 0.75) / 0.1)
    burn = fire * (1 - young) * _sigmoid(4 * (1.2 - damp))
    fen = _sigmoid(5 * (noise(seed, "fen", shape, pixel, 2_500, 350, 4.0) + damp - 0.4 * hill - 2.3)) * (1 - young)
    organic = _sigmoid(1.1 * damp - 1.2 * hill + 0.9 * shade - 0.3 * cold - 0.4) * (1 - 0.8 * burn) * (1 - young)
    return Setting(shade, steepness, hill, damp, cold, burn, organic, young, fen, _ash(seed, ground, steepness))


def permafrost(place: Setting, water: npt.NDArray[np.bool_]) -> Floats:
    """Return the probability of near-surface permafrost: a logistic function of the setting, present on about 42 % of the area."""
    force = 1.5 * place.shade - 1.0 * place.hill + 0.5 * place.damp + 4.0 * place.organic + 0.55 * place.cold
    force = force - 1.6 * place.burn - 4.0 * place.young - 3.5 * place.fen
    force = force / force.std()
    return _sigmoid(7.0 * (force - float(np.quantile(force, 0.58)))) * np.where(water, np.float32(0.02), np.float32(1))


def _ash(seed: int, ground: Terrain, steepness: Floats) -> Floats:
    """Return ash of a plume that crossed the area from east to west and stayed where slopes are gentle."""
    rows, columns = steepness.shape
    height = rows * ground.pixel
    x, y = ground.pixel * np.arange(columns, dtype="float32"), ground.pixel * np.arange(rows, dtype="float32")
    axis = 0.24 * height + wander(seed, "plume", x, {40_000: 0.05 * height, 13_000: 0.03 * height})
    across = (y[:, None] - axis[None, :]) / (0.085 * height)
    patchy = 0.7 * noise(seed, "ash", (rows, columns), ground.pixel, 2_500, 300, 3.5)
    return _sigmoid(5 * (1.1 - across**2 + patchy - 2.5 * np.maximum(steepness - 0.2, 0)))


def orders(place: Setting, frozen: Floats) -> Floats:
    """Return the probability of each soil order, (taxon, y, x), in the order of ``SOIL_ORDERS``.

    Permafrost makes Gelisols; the rest is shared by river sediment and rock (Entisols), fens (Histosols), ash (Andisols), warm
    dry south slopes (Mollisols), cool slopes (Spodosols), and Inceptisols.

    Parameters
    ----------
    place : Setting
        The setting.
    frozen : array
        Probability of permafrost.
    """
    p, flat = place, np.exp(-place.steepness / 0.07)
    scores = {
        "Andisols": 5.0 * p.ash,
        "Entisols": np.logaddexp(6.0 * p.young, 14 * (p.steepness - 0.30) + 0.8 * p.hill),
        "Histosols": 1.2 * p.damp - 1.0 * p.hill + 1.6 * flat + 1.5 * p.organic + 4.0 * p.fen - 4 * p.young,
        "Inceptisols": 0.8 * p.burn + 0.5 * p.cold - 0.4 * p.hill,
        "Mollisols": -1.9 * p.shade + 0.7 * p.hill - 1.3 * p.cold - 2 * p.young - 2 * flat,
        "Spodosols": 1.1 * p.shade + 1.4 * p.cold + 0.4 * p.hill - 1.5 * p.burn - 1.5 * flat - 2 * p.ash,
    }
    stack = np.full((len(SOIL_ORDERS), *flat.shape), -np.inf, dtype="float32")
    for name, score in scores.items():
        stack[SOIL_ORDERS.index(name)] = 4.0 * score
    rest = _softmax(stack + _balance(stack[:, ::4, ::4], 1 - frozen[::4, ::4])[:, None, None])
    rest *= 1 - GELISOLS * frozen
    rest[SOIL_ORDERS.index("Gelisols")] = GELISOLS * frozen
    return rest


def _softmax(scores: Floats) -> Floats:
    odds = np.exp(scores - scores.max(0))
    return np.asarray(odds / odds.sum(0))


def _balance(scores: Floats, weight: Floats) -> Floats:
    """Return what to add to each order's score so that the orders share the area without permafrost as in ``_SHARES``."""
    target = np.array([_SHARES.get(name, 0.0) for name in SOIL_ORDERS], dtype="float32")
    offset = np.zeros_like(target)
    for _ in range(60):
        share = (_softmax(scores + offset[:, None, None]) * weight).sum((1, 2)) / weight.sum()
        offset += np.where(target > 0, np.log(np.maximum(target, 1e-6) / np.maximum(share, 1e-6)), 0).clip(-3, 3)
    return offset


GELISOLS = 0.96
"""Share of the ground with permafrost that is described as a Gelisol."""

_SHARES = {"Andisols": 0.15, "Entisols": 0.18, "Histosols": 0.14, "Inceptisols": 0.23, "Mollisols": 0.14, "Spodosols": 0.16}


# Reflectance of pure covers in red, green, blue, red edge 1-3, NIR, SWIR1, SWIR2 (boreal midsummer, of the usual size)
_COVERS = {
    "spruce": (0.025, 0.035, 0.020, 0.055, 0.130, 0.160, 0.180, 0.090, 0.045),
    "birch": (0.030, 0.060, 0.025, 0.090, 0.290, 0.370, 0.400, 0.180, 0.080),
    "shrub": (0.040, 0.060, 0.030, 0.095, 0.230, 0.285, 0.310, 0.190, 0.095),
    "tussock": (0.065, 0.075, 0.040, 0.120, 0.195, 0.225, 0.250, 0.225, 0.130),
    "moss": (0.045, 0.065, 0.030, 0.100, 0.185, 0.215, 0.235, 0.150, 0.075),
    "grass": (0.085, 0.090, 0.055, 0.145, 0.215, 0.245, 0.270, 0.270, 0.175),
    "bare": (0.150, 0.130, 0.105, 0.175, 0.190, 0.200, 0.215, 0.260, 0.220),
    "burnt": (0.060, 0.055, 0.040, 0.085, 0.115, 0.130, 0.150, 0.200, 0.170),
    "water": (0.030, 0.045, 0.045, 0.028, 0.022, 0.020, 0.018, 0.010, 0.006),
    "snow": (0.700, 0.720, 0.740, 0.690, 0.670, 0.650, 0.630, 0.090, 0.060),
}


def cover(ground: Terrain, place: Setting, seed: int) -> dict[str, Floats]:
    """Return the share of each pixel under each cover: by the setting, and by much chance from pixel to pixel.

    Stands differ in age, in patches that say nothing about the soil.

    Parameters
    ----------
    ground, place
        The terrain and the setting.
    seed : int
        Seed of stands and textures.
    """
    shape, pixel = ground.shape, ground.pixel
    scores = _cover_scores(ground, place, seed)
    total = np.zeros(shape, dtype="float32")
    shares = {}
    for name, score in scores.items():
        chance = noise(seed, f"{name} texture", shape, pixel, 120, 25, 1.5)
        shares[name] = np.exp(score + 0.42 * (1 - 0.35 * place.ash) * chance)
        total += shares[name]
    high = (ground.smooth(ground.elevation, 100) - 780) / 110
    snow = _sigmoid(3 * (high - 4.2 + 0.8 * noise(seed, "snow", shape, pixel, 700, 60) + 0.4 * place.shade))
    snow, water = np.where(ground.water, np.float32(0), snow), ground.water.astype("float32")
    total /= 1 - snow - water + 1e-9
    return {**{name: share / total for name, share in shares.items()}, "water": water, "snow": snow}


def _cover_scores(ground: Terrain, place: Setting, seed: int) -> dict[str, Floats]:
    shape, pixel = ground.shape, ground.pixel
    age = noise(seed, "stand age", shape, pixel, 2_000, 200)
    shade = place.shade
    alpine = _sigmoid((ground.smooth(ground.elevation, 100) - 780) / 110)
    steep = np.clip((place.steepness - 0.3) / 0.08, -4, 3)
    bars = noise(seed, "sand", shape, pixel, 800, 80)
    return {
        "spruce": 1.5 + 1.1 * shade + 0.5 * age + 0.6 * place.organic - 4 * alpine - 4 * place.burn - 2 * place.young,
        "birch": 1.1 - 0.7 * shade - 0.8 * age - 2.2 * place.organic - 4 * alpine + 0.4 * place.burn,
        "shrub": 0.3 + 0.3 * age + 1.2 * alpine + 1.3 * place.burn - 0.4 * place.hill + 1.2 * place.young,
        "tussock": -0.8 + 3.6 * place.organic + 0.8 * alpine - 2.0 * place.burn - 2 * place.young,
        "moss": -1.8 + 5.5 * place.fen + 1.6 * place.organic + 1.1 * place.damp - 1.2 * alpine - 2 * place.young,
        "grass": -1.6 - 2.0 * shade + 0.6 * place.hill + 0.6 * alpine - 0.6 * place.damp,
        "bare": np.logaddexp(
            0.7 * steep + 3.0 * alpine - 2.4, 8.0 * place.young * np.exp(-ground.channel / 300) - 3.8 + 1.6 * bars
        ),
        "burnt": -4.0 + 7.5 * place.burn,
    }


def incidence(slope: Floats, aspect: Floats, zenith: float, azimuth: float) -> Floats:
    """Return how a slope is lit against flat ground, softened by light from the sky; all angles in degrees."""
    tilt, facing, sun = np.radians(slope), np.radians(np.maximum(aspect, 0)), math.radians(zenith)
    lit = math.cos(sun) * np.cos(tilt) + math.sin(sun) * np.sin(tilt) * np.cos(math.radians(azimuth) - facing)
    return (np.maximum(lit, 0) + 0.6) / (math.cos(sun) + 0.6)


CLEAR_SUN = 47.0, 172.0
"""Zenith and azimuth of the sun, degrees, in the reflectance of :func:`reflectance`."""


def reflectance(ground: Terrain, place: Setting, shares: Mapping[str, Floats], seed: int) -> dict[str, Floats]:
    """Return surface reflectance of the nine bands on a clear midsummer day.

    Parameters
    ----------
    ground, place, shares
        The terrain, the setting, and the shares of :func:`cover`.
    seed : int
        Seed of the texture that is common to all bands, and of each band's own.
    """
    shape, pixel = ground.shape, ground.pixel
    lit = incidence(ground.slope, ground.aspect, *CLEAR_SUN)
    grain = np.exp(0.10 * noise(seed, "grain", shape, pixel, 80, 20, 1.0) + 0.06 * noise(seed, "vigour", shape, pixel, 1_500, 150))
    speck = place.ash * (0.55 + 0.25 * noise(seed, "ash speckle", shape, pixel, 90, 25, 1.0))
    speck = np.clip(speck, 0, 0.8) * (1 - shares["water"] - shares["snow"]) * 0.35
    bright = (0.16, 0.13, 0.10, 0.19, 0.21, 0.22, 0.24, 0.34, 0.31)
    bands = {}
    for index, band in enumerate(SENTINEL2):
        mixed = np.zeros(shape, dtype="float32")
        for name, share in shares.items():
            mixed += share * _COVERS[name][index]
        mixed = mixed * (1 - speck) + bright[index] * speck
        own = 1 + 0.04 * generator(seed, f"{band.name} grain").standard_normal(shape, dtype="float32")
        bands[band.name] = np.clip(mixed * grain * own * lit, 0.001, 1.0).astype("float32")
    return bands
