"""Windows around labelled points: read from the lazy cube once, and drawn as batches for training."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import dask.array as da
import geopandas as gpd
import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from misoxr.errors import MisoxrWarning
from misoxr.grid import locations
from misoxr.points import encode, place
from misoxr.scaling import Scaling
from misoxr.spec import ModelSpec

__all__ = ["Labelled", "Samples", "Windows", "mirrored", "read_samples"]

Array = npt.NDArray[np.float32]
Batch = dict[str, Any]
Integers = npt.NDArray[np.int64]

LARGE = 8e9
"""Bytes of tiles above which reading them is announced."""


@dataclass(frozen=True)
class Samples:
    """Tiles of raw bands that hold every window around the points.

    Attributes
    ----------
    tiles : list of array
        Raw bands (band, row, column), up to twice a window's side.
    tile : array (point,)
        The tile of each point.
    rows, columns : array (point,)
        Fractional pixel positions in the tile, a centre at +0.5.
    size : int
        Side of a window, pixels.
    """

    tiles: list[Array]
    tile: Integers
    rows: npt.NDArray[np.float64]
    columns: npt.NDArray[np.float64]
    size: int

    def window(self, point: int, jitter: tuple[float, float] = (0.0, 0.0)) -> tuple[Array, tuple[int, int]]:
        """Cut the window around a point, its centre moved by ``jitter`` pixels where the tile leaves room.

        Returns
        -------
        array
            Raw bands (band, size, size), NaN beyond a dataset smaller than a window.
        (int, int)
            Row and column of the window's first pixel in the tile.
        """
        tile = self.tiles[self.tile[point]]
        start = [
            int(np.clip(round(centre + shift - self.size / 2), 0, max(0, length - self.size)))
            for centre, shift, length in zip((self.rows[point], self.columns[point]), jitter, tile.shape[1:], strict=True)
        ]
        window = tile[:, start[0] : start[0] + self.size, start[1] : start[1] + self.size]
        missing = [(0, self.size - length) for length in window.shape[1:]]
        return np.pad(window, ((0, 0), *missing), constant_values=np.nan), (start[0], start[1])

    def inside(self, candidates: Integers, start: tuple[int, int]) -> tuple[Integers, Array]:
        """Return which candidates (points of one tile) lie in the window at ``start``, and their x and y in -1..1 of it."""
        y = (self.rows[candidates] - start[0]) * 2 / self.size - 1
        x = (self.columns[candidates] - start[1]) * 2 / self.size - 1
        inside = (np.abs(y) <= 1) & (np.abs(x) <= 1)
        return candidates[inside], np.stack([x, y], axis=-1)[inside].astype("float32")

    def values(self) -> Array:
        """Return the raw bands (band, point) of each point's own pixel."""
        at = zip(self.tile, self.rows.astype(int), self.columns.astype(int), strict=True)
        return np.stack([self.tiles[tile][:, row, column] for tile, row, column in at], axis=1)

    def only(self, mask: npt.NDArray[np.bool_]) -> Self:
        """Return the samples of some of the points."""
        return type(self)(self.tiles, self.tile[mask], self.rows[mask], self.columns[mask], self.size)

    def pixels(self, count: int, rng: np.random.Generator) -> Array:
        """Draw raw pixels (band, pixel) with any valid band from the tiles, about ``count`` in all."""
        each = max(1, count // len(self.tiles))
        drawn = [tile.reshape(len(tile), -1)[:, rng.integers(0, tile[0].size, each)] for tile in self.tiles]
        pixels: Array = np.concatenate(drawn, axis=1)
        return pixels[:, np.isfinite(pixels).any(axis=0)]


def read_samples(bands: da.Array, rows: npt.ArrayLike, columns: npt.ArrayLike, size: int) -> Samples:
    """Read the tiles around points; every chunk of the cube is computed at most once.

    Parameters
    ----------
    bands : dask array
        Raw bands (band, y, x).
    rows, columns : array_like (point,)
        Fractional pixel positions.
    size : int
        Side of a window, pixels.
    """
    positions = np.stack([np.asarray(rows, dtype="float64"), np.asarray(columns, dtype="float64")], axis=-1)
    cells, tile = np.unique((positions // size).astype("int64"), axis=0, return_inverse=True)
    # A point lies in the middle half of its tile, so a window around it has room to move by a quarter and more.
    starts = np.clip(cells * size - size // 2, 0, np.maximum(0, np.array(bands.shape[1:]) - 2 * size))
    needed = len(starts) * bands.shape[0] * int(np.prod(np.minimum(2 * size, bands.shape[1:]))) * 4
    if needed > LARGE:
        warnings.warn(
            f"The windows around {len(positions)} points take {needed / 1e9:.1f} GB of memory; use fewer points, fewer bands or "
            "smaller windows where that is too much.",
            MisoxrWarning,
            stacklevel=3,
        )
    lazy = [bands[:, row : row + 2 * size, column : column + 2 * size] for row, column in starts]
    tiles = list(da.compute(*lazy))
    tile = tile.reshape(-1)
    inside = positions - starts[tile]
    return Samples(tiles, tile, inside[:, 0], inside[:, 1], size)


def mirrored(bands: Array, spec: ModelSpec) -> Array:
    """Mirror raw bands (band, y, x) east to west, and with them the compass directions of circular bands.

    North stays north: what aspect says of sun and cold holds in the mirror image, as it would not upside down.
    """
    out = bands[..., ::-1].copy()
    for index, band in enumerate(spec.bands):
        if band.kind == "circular":
            out[index] = np.where(out[index] >= 0, (360.0 - out[index]) % 360.0, out[index])
    return out


@dataclass(frozen=True)
class Labelled:
    """Points of a cube with at least one label."""

    rows: npt.NDArray[np.float64]
    columns: npt.NDArray[np.float64]
    xy: npt.NDArray[np.float64]
    labels: Mapping[str, npt.NDArray[np.float64]]

    @classmethod
    def of(cls, points: gpd.GeoDataFrame, spec: ModelSpec, geobox: GeoBox) -> Self:
        """Place points on the grid and encode their labels."""
        placed, rows, columns = place(points, geobox)
        labels = encode(placed, spec.tasks)
        known = np.any([np.isfinite(values) for values in labels.values()], axis=0)
        xy = np.stack([placed.geometry.x, placed.geometry.y], axis=-1)[known]
        return cls(rows[known], columns[known], xy, {name: values[known] for name, values in labels.items()})

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, mask: npt.NDArray[np.bool_]) -> Self:
        """Return some of the points."""
        labels = {name: values[mask] for name, values in self.labels.items()}
        return type(self)(self.rows[mask], self.columns[mask], self.xy[mask], labels)

    def joined(self, other: Self) -> Self:
        """Return these points and the others behind them."""
        labels = {name: np.concatenate([values, other.labels[name]]) for name, values in self.labels.items()}
        rows, columns = np.concatenate([self.rows, other.rows]), np.concatenate([self.columns, other.columns])
        return type(self)(rows, columns, np.concatenate([self.xy, other.xy]), labels)


@dataclass(frozen=True)
class Windows:
    """Batches of scaled windows with the points to query in them."""

    spec: ModelSpec
    scaling: Scaling
    samples: Samples
    labelled: Labelled
    geobox: GeoBox

    def batch(self, windows: list[Array], queries: list[tuple[Integers, Array]]) -> Batch:
        """Scale windows (band, size, size) together, and flatten their queries (point indices, x and y) to one list."""
        inputs = self.scaling.apply(self.spec, np.stack(windows, axis=1))
        index = np.concatenate([points for points, _ in queries])
        batch: Batch = {
            "inputs": {name: np.ascontiguousarray(values.swapaxes(0, 1)) for name, values in inputs.items()},
            "sample": np.repeat(np.arange(len(queries)), [len(points) for points, _ in queries]),
            "points": np.concatenate([xy for _, xy in queries]),
            "labels": {name: values[index] for name, values in self.labelled.labels.items()},
        }
        if self.spec.location is not None:
            scaled = locations(self.geobox, self.labelled.rows[index], self.labelled.columns[index], self.spec.location)
            batch["location"] = scaled.astype("float32")
        return batch

    def draw(self, points: Integers, weights: npt.NDArray[np.float64], size: int, rng: np.random.Generator) -> Batch:
        """Draw a training batch around some of the points."""
        windows, queries = [], []
        for point in rng.choice(points, size=size, p=weights):
            jitter = rng.uniform(-0.25, 0.25, 2) * self.samples.size
            window, start = self.samples.window(point, (jitter[0], jitter[1]))
            neighbours = points[self.samples.tile[points] == self.samples.tile[point]]
            index, xy = self.samples.inside(neighbours, start)
            if rng.random() < 0.5:
                window, xy = mirrored(window, self.spec), xy * np.array([-1, 1], dtype="float32")
            windows.append(window)
            queries.append((index, xy))
        return self.batch(windows, queries)

    def centred(self, points: Integers) -> Batch:
        """Return the batch of windows centred on the points, one query each."""
        cut = [(np.array([point]), *self.samples.window(point)) for point in points]
        return self.batch([window for _, window, _ in cut], [self.samples.inside(point, start) for point, _, start in cut])

    def balance(self, points: Integers) -> npt.NDArray[np.float64]:
        """Probability of drawing each point: 1/sqrt(class count), averaged over the tasks it has a label of."""
        weights = []
        for task in self.spec.tasks:
            labels = self.labelled.labels[task.name][points]
            weight = np.where(np.isfinite(labels), 1.0, np.nan)
            if task.kind != "regression":
                codes, position, counts = np.unique(labels, return_inverse=True, return_counts=True, equal_nan=True)
                weight = weight * np.sqrt(np.isfinite(labels).sum() / counts[position])
            weights.append(weight)
        mean = np.nanmean(weights, axis=0)
        share: npt.NDArray[np.float64] = mean / mean.sum()
        return share
