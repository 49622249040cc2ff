"""A simulated landscape with known truth, and labelled points on it, for demonstrations and for measuring models.

Nothing here is Alaska: every object and file says that it is simulated, and by which version of the simulator.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from scipy import sparse

from misoxr.errors import GridError, PointsError
from misoxr.grid.geobox import assign, geobox_of, pixels
from misoxr.metrics import scores
from misoxr.paths import expanded
from misoxr.simulate import nature
from misoxr.simulate.granules import ACQUISITIONS, Acquisition, write_covariates, write_granules
from misoxr.simulate.nature import GELISOLS, SIMULATOR_VERSION
from misoxr.simulate.terrain import Terrain, generator, terrain
from misoxr.spec import COVARIATES, PERMAFROST, SENTINEL2, SOIL_ORDERS, TAXONOMY, Task

__all__ = ["SIMULATOR_VERSION", "TRUTH", "Simulation", "bayes_scores", "landscape", "points", "write"]

CRS = "EPSG:3338"
ORIGIN = 280_000.0, 1_680_000.0
"""Default x and y of the upper left corner, near the Tanana."""
SMALLEST = 64
"""Rows and columns that a landscape has at least."""
TRUTH = ("permafrost_probability", "permafrost", "taxonomy_probability", "taxonomy", "surface")
"""Variables of a landscape that no model may see."""

PERMAFROST_NOISE, TAXONOMY_NOISE, JITTER = 0.03, 0.04, 8.0
"""Share of permafrost labels that are wrong, share of orders drawn at random, standard deviation of a point's position (m)."""
PERMAFROST_LABELLED, TAXONOMY_LABELLED = 0.40, 0.86
"""Shares of points with each label, as in the data of the paper; every point has one of them."""


@dataclass(frozen=True)
class Simulation:
    """Where :func:`misoxr.simulate.write` put what it wrote.

    Attributes
    ----------
    directory : Path
        The directory.
    items : Path
        STAC items, a GeoJSON FeatureCollection.
    covariates : dict of str to Path
        A COG per covariate, by name.
    points : Path
        Labelled points, a GeoPackage.
    truth : Path
        The variables of ``TRUTH``, a Zarr store.
    """

    directory: Path
    items: Path
    covariates: dict[str, Path]
    points: Path
    truth: Path


def landscape(
    shape: tuple[int, int] = (1800, 1800),
    *,
    pixel_size: float = 20.0,
    seed: int = 0,
    origin: tuple[float, float] = ORIGIN,
) -> xr.Dataset:
    """Simulate a landscape, its covariates and clear-sky reflectance, and the truth beneath them.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns, 64 or more.
    pixel_size : float
        Pixel size, m. Noise is drawn pixel by pixel: another size or shape is another landscape.
    seed : int
        Seed of every random stream.
    origin : (float, float)
        x and y of the upper left corner in EPSG:3338, m.

    Returns
    -------
    Dataset
        Dimensions (y, x), in memory: the ten covariates and nine bands of ``misoxr.spec``, in its units, and the truth:
        ``permafrost_probability`` and ``taxonomy_probability`` (taxon, y, x), which no model can beat; ``permafrost`` and
        ``taxonomy``, drawn from them pixel by pixel; and ``surface`` (0 ground, 1 water, 2 snow).

    Raises
    ------
    GridError
        If the area is too small or the pixel size not positive.

    Examples
    --------
    >>> land = simulate.landscape((96, 96), pixel_size=20.0)
    """
    if min(shape) < SMALLEST or not 1 <= pixel_size <= 200:
        raise GridError(
            f"A landscape of {shape[0]} x {shape[1]} pixels of {pixel_size} m cannot be simulated; "
            f"take {SMALLEST} or more rows and columns, and pixels of 1 to 200 m."
        )
    ground = terrain(shape, pixel_size, seed)
    northing = np.float32(origin[1]) - pixel_size * np.arange(shape[0], dtype="float32")
    climate = nature.climate(ground, northing, seed)
    place = nature.setting(ground, climate["summer_warmth_index"], seed)
    shares = nature.cover(ground, place, seed)
    units = {band.name: band.units for band in (*SENTINEL2, *COVARIATES)}
    fields = {**_terrain_covariates(ground), **climate, **nature.reflectance(ground, place, shares, seed)}
    data: dict[str, Any] = {
        name: (("y", "x"), fields[name].astype("float32", copy=False), {"units": unit, "simulated": 1})
        for name, unit in units.items()
    }
    frozen = nature.permafrost(place, ground.water)
    data |= _truth(frozen, nature.orders(place, frozen), seed)
    surface = np.select([ground.water, shares["snow"] > 0.5], [1, 2], 0).astype("uint8")
    flags = {"flag_values": [0, 1, 2], "flag_meanings": "ground water snow"}
    data["surface"] = (("y", "x"), surface, {"long_name": "surface", **flags, "simulated": 1})
    geobox = GeoBox(shape, Affine(pixel_size, 0, origin[0], 0, -pixel_size, origin[1]), CRS)
    marks = {"simulated": 1, "simulator_version": SIMULATOR_VERSION, "seed": seed}
    dataset = xr.Dataset(data, coords={"taxon": list(SOIL_ORDERS)}, attrs={"title": "simulated landscape", **marks})
    placed: xr.Dataset = assign(dataset, geobox)
    return placed


def _terrain_covariates(ground: Terrain) -> dict[str, npt.NDArray[Any]]:
    return {
        "aspect": ground.aspect,
        "elevation": ground.elevation,
        "max_curvature": ground.curvature,
        "slope": ground.slope,
        "stream_power_index": ground.stream_power,
        "wetness_index": ground.wetness,
        "topographic_position_index": _standard(ground.position),
    }


def _standard(field: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a field less its mean, over its deviation in the whole landscape, as the paper's position index has it."""
    wide = field.astype("float64")
    return np.asarray((wide - wide.mean()) / wide.std())


def _truth(frozen: npt.NDArray[Any], orders: npt.NDArray[Any], seed: int) -> dict[str, Any]:
    """Return the probabilities and one landscape drawn from them; a drawn Gelisol always has permafrost."""
    gelisol = SOIL_ORDERS.index("Gelisols")
    random = generator(seed, "draw")
    drawn = random.random(frozen.shape, dtype="float32") < frozen
    described = random.random(frozen.shape, dtype="float32") < GELISOLS
    level = random.random(frozen.shape, dtype="float32") * (1 - orders[gelisol])
    order = np.zeros(frozen.shape, dtype="uint8")
    passed = np.zeros(frozen.shape, dtype="float32")
    others = [code for code in range(len(SOIL_ORDERS)) if code != gelisol]
    for code, following in zip(others, others[1:], strict=False):
        passed += orders[code]
        order[level >= passed] = following
    order[drawn & described] = gelisol
    return {
        "permafrost_probability": (("y", "x"), frozen.astype("float32"), _chance(PERMAFROST)),
        "permafrost": (("y", "x"), drawn.astype("uint8"), _flags(PERMAFROST)),
        "taxonomy_probability": (("taxon", "y", "x"), orders.astype("float32"), _chance(TAXONOMY)),
        "taxonomy": (("y", "x"), order, _flags(TAXONOMY)),
    }


def _chance(task: Task) -> dict[str, Any]:
    return {"long_name": f"probability of {task.long_name}, simulated truth", "units": "1", "simulated": 1}


def _flags(task: Task) -> dict[str, Any]:
    return {
        "long_name": f"{task.long_name}, simulated truth",
        "flag_values": list(range(len(task.classes))),
        "flag_meanings": " ".join(task.classes),
        "flag_colors": " ".join(task.colors),
        "simulated": 1,
    }


def points(truth: xr.Dataset, n: int = 4000, *, seed: int = 0) -> gpd.GeoDataFrame:
    """Sample labelled points from a landscape, clustered along access corridors as soil surveys are.

    Parameters
    ----------
    truth : Dataset
        From :func:`landscape`.
    n : int
        Number of points.
    seed : int
        Seed of the sampling, apart from the landscape's.

    Returns
    -------
    GeoDataFrame
        In the landscape's CRS: ``permafrost`` (0, 1, or NaN where unknown), ``taxonomy`` (name of an order, or None),
        ``cluster`` (number of the visit), ``access`` ("road", "river" or "air"), ``simulated`` and ``simulator_version``.

    Notes
    -----
    Roads and a river are least-cost ways over the terrain; seven in eight visits start from one, the others fly. Labels are read
    at the true place from the drawn landscape, then 3 % of permafrost labels are turned and 4 % of orders drawn at random;
    recorded positions are off by 8 m (standard deviation). 40 % have a permafrost label and 86 % an order. None lies on
    water or snow.

    Examples
    --------
    >>> sites = simulate.points(simulate.landscape((96, 96)), 50)
    """
    if n < 1:
        raise PointsError(f"{n} points were asked for; ask for at least 1.")
    geobox = geobox_of(truth)
    random = generator(seed, "points")
    rows, columns, cluster, access = _visits(truth, n, random)
    i, j = rows.astype(int), columns.astype(int)
    frozen = truth["permafrost"].values[i, j] ^ (random.random(n) < PERMAFROST_NOISE)
    order = truth["taxonomy"].values[i, j]
    order = np.where(random.random(n) < TAXONOMY_NOISE, random.integers(0, len(SOIL_ORDERS), n), order)
    described = random.random(n) < TAXONOMY_LABELLED
    probed = random.random(n) < (PERMAFROST_LABELLED + TAXONOMY_LABELLED - 1) / TAXONOMY_LABELLED
    x, y = geobox.affine.c + geobox.affine.a * columns, geobox.affine.f + geobox.affine.e * rows
    west, south, east, north = geobox.boundingbox.bbox
    x = np.clip(x + random.normal(0, JITTER, n), west + 0.5, east - 0.5)
    y = np.clip(y + random.normal(0, JITTER, n), south + 0.5, north - 0.5)
    frame = gpd.GeoDataFrame(
        {
            "permafrost": np.where(probed | ~described, frozen.astype(float), np.nan),
            "taxonomy": np.array([*SOIL_ORDERS, None], dtype=object)[np.where(described, order, -1)],
            "cluster": cluster,
            "access": access,
            "simulated": True,
            "simulator_version": SIMULATOR_VERSION,
        },
        geometry=gpd.points_from_xy(x, y),
        crs=str(geobox.crs),
    )
    frame.attrs.update(simulated=1, simulator_version=SIMULATOR_VERSION, seed=seed)
    return frame


def _visits(truth: xr.Dataset, n: int, random: np.random.Generator) -> tuple[npt.NDArray[Any], ...]:
    """Return fractional rows and columns, cluster numbers and access of n points on dry ground."""
    pixel = abs(geobox_of(truth).affine.a)
    shape = truth["elevation"].shape
    ways = _corridors(truth, pixel, random)
    kinds = np.array(["road"] * (len(ways) - 1) + ["river", "air"], dtype=object)
    visits = max(4, n // 20)
    share = np.array([len(way) for way in ways], dtype=float)
    share[-1] /= 2  # boats are rarer than cars
    which = random.choice(len(ways) + 1, visits, p=[*(0.88 * share / share.sum()), 0.12])
    centres = random.uniform(0, 1, (visits, 2)) * shape
    for number, way in enumerate(ways):
        mine = which == number
        centres[mine] = way[random.integers(0, len(way), mine.sum())]
    centres += np.where(which < len(ways), 500 / pixel, 0)[:, None] * random.normal(0, 1, (visits, 2))
    ground = truth["surface"].values == 0
    found: list[npt.NDArray[Any]] = []
    clusters: list[npt.NDArray[Any]] = []
    while sum(map(len, found)) < n:
        cluster = random.integers(0, visits, 2 * n)
        place = centres[cluster] + random.normal(0, 250 / pixel, (2 * n, 2))
        inside = np.flatnonzero((np.minimum(place, shape - place) > 0).all(1))
        kept = inside[ground[tuple(place[inside].astype(int).T)]]
        found.append(place[kept])
        clusters.append(cluster[kept])
    place, cluster = np.concatenate(found)[:n], np.concatenate(clusters)[:n]
    return place[:, 0], place[:, 1], cluster, kinds[which[cluster]]


def _corridors(truth: xr.Dataset, pixel: float, random: np.random.Generator) -> list[npt.NDArray[Any]]:
    """Return least-cost ways across the area as (row, column) of pixels: two roads east, three roads north, a river last."""
    step = max(1, round(300 / pixel))
    z = truth["elevation"].values[step // 2 :: step, step // 2 :: step].astype(float)
    rows, columns = z.shape
    uphill = 1 + (np.hypot(*np.gradient(z, step * pixel)) / 0.06) ** 2
    ends = [(random.integers(int(a * rows), int(b * rows) + 1, 2), 1) for a, b in ((0.05, 0.4), (0.6, 0.9))]
    ends += [(random.integers(int(a * columns), int(b * columns) + 1, 2), 0) for a, b in ((0.05, 0.3), (0.35, 0.65), (0.7, 0.9))]
    ways = []
    for (start, stop), eastward in ends:
        first, last = (start * columns, stop * columns + columns - 1) if eastward else (start, (rows - 1) * columns + stop)
        ways.append(_cheapest(uphill, first, last))
    low = [int(z[:, column].argmin()) for column in (0, -1)]
    ways.append(_cheapest(np.exp(np.clip((z - z.min()) / 40, 0, 12)), low[0] * columns, low[1] * columns + columns - 1))
    return [np.stack(np.divmod(way, columns), 1) * step + step / 2 for way in ways]


def _cheapest(cost: npt.NDArray[Any], first: int, last: int) -> npt.NDArray[Any]:
    """Return the cells of the cheapest way between two cells of a grid (Dijkstra)."""
    rows, columns = cost.shape
    cell = np.arange(cost.size).reshape(rows, columns)
    pairs = [(cell[:, :-1], cell[:, 1:]), (cell[:-1], cell[1:]), (cell[:-1, :-1], cell[1:, 1:]), (cell[:-1, 1:], cell[1:, :-1])]
    one, other = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    length = np.concatenate([np.full(pair[0].size, 1.0 if k < 2 else 2**0.5) for k, pair in enumerate(pairs)])
    weight = length * (cost.ravel()[one] + cost.ravel()[other]) / 2
    graph = sparse.coo_array((weight, (one, other)), shape=(cost.size, cost.size)).tocsr()
    _, before = sparse.csgraph.dijkstra(graph, False, [first], True)
    way = [last]
    while way[-1] != first:
        way.append(int(before[0, way[-1]]))
    return np.array(way)


def bayes_scores(truth: xr.Dataset, where: gpd.GeoDataFrame | npt.NDArray[np.bool_]) -> dict[str, float]:
    """Score the true probabilities themselves: what no model can beat by more than chance.

    Parameters
    ----------
    truth : Dataset
        From :func:`landscape`, or the truth that :func:`write` left.
    where : GeoDataFrame or array of bool
        Labelled points, scored with their noise; or a (y, x) mask, scored against the drawn landscape without.

    Returns
    -------
    dict of float
        ``permafrost_roc_auc``, ``taxonomy_accuracy`` and ``taxonomy_macro_f1`` (mean over the orders that occur among
        the labels), as :func:`misoxr.metrics.scores` gives them. The most probable order is best in accuracy; for macro F1 it is close to the best.

    Raises
    ------
    PointsError
        If points lie outside the landscape, a mask has another shape, or there is no label to score.

    Examples
    --------
    >>> land = simulate.landscape((96, 96))
    >>> best = simulate.bayes_scores(land, simulate.points(land, 200))
    """
    shape = truth["permafrost"].shape
    if isinstance(where, gpd.GeoDataFrame):
        geometry = where.geometry.to_crs(str(geobox_of(truth).crs))
        i, j = (np.floor(part).astype(int) for part in pixels(geobox_of(truth), geometry.x.values, geometry.y.values))
        outside = int(((i < 0) | (j < 0) | (i >= shape[0]) | (j >= shape[1])).sum())
        if outside:
            raise PointsError(f"{outside} of {len(where)} points lie outside the landscape; leave them out.")
        frozen = where["permafrost"].to_numpy(dtype=float)
        codes = where["taxonomy"].map({name: code for code, name in enumerate(SOIL_ORDERS)}).fillna(-1).to_numpy(dtype=int)
    else:
        if np.shape(where) != shape:
            raise PointsError(f"The mask has shape {np.shape(where)} and the landscape {shape}; give them the same shape.")
        i, j = np.nonzero(where)
        frozen, codes = truth["permafrost"].values[i, j].astype(float), truth["taxonomy"].values[i, j].astype(int)
    likely = np.where(codes >= 0, codes.astype(float), np.nan)
    permafrost = scores(PERMAFROST, frozen, truth["permafrost_probability"].values[i, j])
    taxonomy = scores(TAXONOMY, likely, truth["taxonomy_probability"].values[:, i, j].T)
    return {
        "permafrost_roc_auc": permafrost["roc_auc"],
        "taxonomy_accuracy": taxonomy["accuracy"],
        "taxonomy_macro_f1": taxonomy["macro_f1"],
    }


def write(
    directory: str | os.PathLike[str],
    *,
    shape: tuple[int, int] = (1800, 1800),
    pixel_size: float = 20.0,
    seed: int = 0,
    origin: tuple[float, float] = ORIGIN,
    n_points: int = 4000,
    acquisitions: Sequence[Acquisition] = ACQUISITIONS,
    base_url: str | None = None,
) -> Simulation:
    """Simulate a landscape and write it as files: images, covariates, points and truth.

    Parameters
    ----------
    directory : path
        Made if missing; files of the same names are replaced.
    shape, pixel_size, seed, origin
        As in :func:`landscape`.
    n_points : int
        As in :func:`points`, which takes the same seed.
    acquisitions : sequence of Acquisition
        When the satellite passed, and how its images are encoded: six passes in the summers of 2019 to 2023 by default,
        before and after processing baseline 04.00.
    base_url : str, optional
        Address at which the directory is served; hrefs start with it. By default they are relative to the items.

    Returns
    -------
    Simulation
        The paths of what was written.

    Examples
    --------
    >>> written = simulate.write("simulated", shape=(96, 96), n_points=50)
    """
    folder = Path(expanded(directory))
    folder.mkdir(parents=True, exist_ok=True)
    truth = landscape(shape, pixel_size=pixel_size, seed=seed, origin=origin)
    items = write_granules(folder, truth, acquisitions, seed=seed, base_url=base_url)
    covariates = write_covariates(folder / "covariates", truth)
    table = folder / "points.gpkg"
    table.unlink(missing_ok=True)
    points(truth, n_points, seed=seed).to_file(table, driver="GPKG", layer="simulated_points")
    store = folder / "truth.zarr"
    kept = truth[list(TRUTH)].assign_coords(taxon=("taxon", np.array(SOIL_ORDERS, dtype=object)))
    chunks = {name: tuple(min(512, size) if dim != "taxon" else size for dim, size in kept[name].sizes.items()) for name in TRUTH}
    encoding = {name: {"chunks": value} for name, value in chunks.items()}
    kept.to_zarr(store, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
    return Simulation(folder, items, covariates, table, store)
