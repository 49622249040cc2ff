"""Training windows: around labelled points and from anywhere, drawn as batches with the points to query."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from misoxr.cube.augment import AUGMENTATIONS, augmented, augmented_points
from misoxr.cube.cutouts import PointCutouts
from misoxr.cube.scaling import Scaling, valid_pixels
from misoxr.grid.geobox import locations
from misoxr.points.labelled import Labelled
from misoxr.spec import ModelSpec
from misoxr.spec.components import Augmentation
from misoxr.training.disks import DRAWS, drawn

__all__ = ["Draw", "Pool", "TrainingWindows"]

MET = 2048
"""The least number of windows from which is estimated how often training meets each label."""

Array = npt.NDArray[np.float32]
Batch = dict[str, Any]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Draw:
    """How training windows are drawn.

    Attributes
    ----------
    size : int
        Windows a batch.
    unlabelled : float
        Share of the windows that come from anywhere and carry no label.
    labels : int
        Labelled points queried in a window, at most; places that are left are filled with random points.
    random, regular : int
        Further points of a window, without labels: drawn uniformly, and on a square lattice.
    augment : {"none", "mirror", "flips", "dihedral"}
        Whether windows are mirrored east to west (what aspect says of sun and cold holds in a mirror image, and not upside down),
        also north to south, or also rotated by quarters.
    power : float
        A point is drawn with weight 1/(class count)^power: 0 draws them alike. A label that counts less is drawn, and counted, as much less.
        Labels in the windows around them are met as they lie.
    jitter : float
        Standard deviation, pixels, by which labelled points are moved; none leaves its window.
    """

    size: int
    unlabelled: float
    labels: int
    random: int
    regular: int
    augment: Augmentation
    power: float
    jitter: float = 0.0


@dataclass(frozen=True)
class Pool:
    """Pixels that a teacher answered.

    Attributes
    ----------
    first : array (cutout + 1,)
        The first pixel of each cutout; a cutout's pixels follow each other.
    rows, columns : array (pixel,)
        Positions in the cube, at the pixels' centres.
    answers : mapping of str to array (pixel, output)
        By task (pixel, output): the probability of the second class, probabilities of the classes, or values; of members (pixel, member, output).
    radius : array (pixel,)
        Of training points, the radius of the disk that holds their place, in pixels; 0 where it is known.
    """

    first: Integers
    rows: Floats
    columns: Floats
    answers: Mapping[str, Array]
    radius: Floats

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class TrainingWindows:
    """Batches of scaled windows with the points to query in them: those with labels, or with a pool those that a teacher answered.

    Where a model has members, ``drawn`` has the labels (point, member) that each of them learns from.
    """

    spec: ModelSpec
    scaling: Scaling
    cutouts: PointCutouts
    labelled: Labelled
    geobox: GeoBox
    pool: Pool | None = None
    drawn: Mapping[str, Floats] | None = None

    def of_members(self, draws: Sequence[Integers]) -> Self:
        """Return the windows of a model's members, each of which learns from its own draw of the points."""
        met = np.stack([np.isin(np.arange(len(self.labelled)), drawn) for drawn in draws], axis=-1)
        return replace(self, drawn={name: np.where(met, values[:, None], np.nan) for name, values in self.labelled.labels.items()})

    def draw(self, points: Integers, weights: Floats, draw: Draw, rng: np.random.Generator) -> Batch:
        """Draw a training batch around some of the points."""
        free = int(rng.binomial(draw.size, draw.unlabelled)) if len(self.cutouts.file) > self.cutouts.labelled else 0
        free = min(free, draw.size - 1)
        chosen = rng.choice(points, size=draw.size - free, p=weights)
        parts = [self._around(point, points, draw, rng) for point in chosen]
        parts += [self._anywhere(draw, rng) for _ in range(free)]
        return self._batch(parts)

    def _around(self, point: int, points: Integers, draw: Draw, rng: np.random.Generator) -> dict[str, Any]:
        """Draw a window around a point, and the labelled points in it."""
        start, index, xy = self._placed(point, points, draw, rng)
        return self._window(int(self.cutouts.cutout[point]), start, index, xy, draw, rng)

    def _placed(
        self, point: int, points: Integers, draw: Draw, rng: np.random.Generator
    ) -> tuple[tuple[int, int], Integers, Floats]:
        """Place a window around a point, its centre moved by up to a quarter of its side, and choose labelled points in it."""
        cutouts, cutout = self.cutouts, int(self.cutouts.cutout[point])
        shift = rng.uniform(-0.25, 0.25, 2) * cutouts.size
        start = cutouts.first(cutout, (cutouts.rows[point] + shift[0], cutouts.columns[point] + shift[1]))
        index, xy = cutouts.inside(points, cutout, start)
        # The point itself first, then others by chance.
        order = np.argsort(np.where(index == point, -1.0, rng.random(len(index))))[: draw.labels]
        return start, index[order], xy[order]

    def _anywhere(self, draw: Draw, rng: np.random.Generator) -> dict[str, Any]:
        cutouts = self.cutouts
        cutout = int(rng.integers(cutouts.labelled, len(cutouts.file)))
        if self.pool is not None:  # a place without a pixel of the pool would teach nothing
            answered = cutouts.labelled + np.flatnonzero(np.diff(self.pool.first)[cutouts.labelled :])
            cutout = int(rng.choice(answered)) if len(answered) else cutout
        centre = [
            first + rng.uniform(0, length)
            for first, length in zip(cutouts.file.starts[cutout], cutouts.file.shape[1:], strict=True)
        ]
        start = cutouts.first(cutout, (centre[0], centre[1]))
        return self._window(cutout, start, np.empty(0, "int64"), np.empty((0, 2)), draw, rng)

    def _window(
        self, cutout: int, start: tuple[int, int], index: Integers, xy: Floats, draw: Draw, rng: np.random.Generator
    ) -> dict[str, Any]:
        """Cut a window with its labelled points, or those of the pool, add unlabelled ones up to the number, and augment it."""
        answers: Mapping[str, Any] = self.drawn or self.labelled.labels
        radius = self.labelled.radius
        if self.pool is not None:
            index, xy = self._answered(self.pool, cutout, start, draw.labels, rng)
            answers, radius = self.pool.answers, self.pool.radius
        if draw.jitter:
            xy = np.clip(xy + draw.jitter * rng.standard_normal(xy.shape) * 2 / self.cutouts.size, -1, 1)
        disks = np.flatnonzero(radius[index] > 0)
        others = np.empty((0, DRAWS - 1, 2))
        if len(disks):
            valid = valid_pixels(self.spec, self.cutouts.window(cutout, start))
            places = drawn(xy[disks], radius[index[disks]] * 2 / self.cutouts.size, valid, rng)
            xy[disks], others = places[:, 0], places[:, 1:]
        side = round(draw.regular**0.5)
        axis = -1 + (2 * np.arange(side) + 1) / max(side, 1)
        lattice = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
        filling = rng.uniform(-1, 1, (draw.labels - len(index) + draw.random, 2))
        part = self._part(cutout, start, index, np.concatenate([xy, filling, lattice]), answers)
        mirror = draw.augment != "none" and bool(rng.random() < 0.5)
        ways = sorted({quarters for _, quarters in AUGMENTATIONS[draw.augment]})
        quarters = ways[rng.integers(len(ways))] if len(ways) > 1 else 0
        return part | {
            "window": augmented(part["window"], self.spec, mirror, quarters),
            "points": augmented_points(part["points"], mirror, quarters),
            "disks": disks,
            "places": augmented_points(others.reshape(-1, 2), mirror, quarters).reshape(others.shape),
            "places_at": self._at(others, cutout, start),
        }

    def _answered(
        self, pool: Pool, cutout: int, start: tuple[int, int], most: int, rng: np.random.Generator
    ) -> tuple[Integers, Floats]:
        """Draw pixels of the pool that lie in a window, and their x and y in it."""
        mine = np.arange(pool.first[cutout], pool.first[cutout + 1])
        origin = self.cutouts.file.starts[cutout] + start
        at = np.stack([pool.columns[mine] - origin[1], pool.rows[mine] - origin[0]], axis=-1) * 2 / self.cutouts.size - 1
        inside = np.flatnonzero((np.abs(at) <= 1).all(axis=-1))
        chosen = rng.permutation(inside)[:most]
        return mine[chosen], at[chosen]

    def _part(
        self, cutout: int, start: tuple[int, int], index: Integers, points: Floats, answers: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Gather what belongs to one window: its pixels, its points (N, [x, y]), the labels of the first of them, and more."""
        cutouts = self.cutouts
        window = cutouts.window(cutout, start)
        at = (points[:, ::-1] + 1) / 2 * cutouts.size  # row and column in the window
        row, column = np.clip(at.astype(int), 0, cutouts.size - 1).T
        counts = {}
        for name, values in ({} if self.pool is not None else self.labelled.weights).items():
            counts[name] = np.ones(len(points))
            counts[name][: len(index)] = values[index]
        labels = {}
        for name, values in answers.items():
            labels[name] = np.full((len(points), *values.shape[1:]), np.nan)
            labels[name][: len(index)] = values[index]
        valid = valid_pixels(self.spec, window[:, row, column])
        return {
            "window": window,
            "points": points,
            "labels": labels,
            "counts": counts,
            "valid": valid,
            "at": self._at(points, cutout, start),
        }

    def _at(self, points: Floats, cutout: int, start: tuple[int, int]) -> Floats:
        """Return the row and column in the cube of points (..., [x, y]) of a window."""
        at: Floats = (points[..., ::-1] + 1) / 2 * self.cutouts.size + start + self.cutouts.file.starts[cutout]
        return at

    def _batch(self, parts: list[dict[str, Any]]) -> Batch:
        """Scale windows together: inputs (B, channel, size, size), and points, labels, locations and validity (B, N)."""
        inputs = self.scaling.apply(self.spec, np.stack([part["window"] for part in parts], axis=1))
        batch: Batch = {
            "inputs": {name: np.ascontiguousarray(values.swapaxes(0, 1)) for name, values in inputs.items()},
            "points": np.stack([part["points"] for part in parts]).astype("float32"),
            "labels": {name: np.stack([part["labels"][name] for part in parts]) for name in self.labelled.labels},
            "valid": np.stack([part["valid"] for part in parts]),
        }
        counts = {name: np.stack([part["counts"][name] for part in parts]) for name in parts[0]["counts"]}
        batch |= {"counts": counts} if counts else {}
        if self.spec.location is not None:
            batch["location"] = self._located(np.stack([part["at"] for part in parts]))
        disks = [number * len(part["points"]) + part["disks"] for number, part in enumerate(parts) if "disks" in part]
        if sum(map(len, disks)):
            batch["disks"] = {
                "of": np.concatenate(disks),
                "points": np.concatenate([part["places"] for part in parts]).astype("float32"),
            }
            if self.spec.location is not None:
                batch["disks"]["location"] = self._located(np.concatenate([part["places_at"] for part in parts]))
        return batch

    def _located(self, at: Floats) -> Array:
        """Scale rows and columns of the cube (..., 2) as locations."""
        assert self.spec.location is not None
        return locations(self.geobox, at[..., 0], at[..., 1], self.spec.location).astype("float32")

    def centred(self, points: Integers) -> Batch:
        """Return the batch of windows centred on the points, one query each: at the place as it is told, with labels that are certain."""
        cutouts, parts = self.cutouts, []
        for point in points:
            cutout = int(cutouts.cutout[point])
            start = cutouts.first(cutout, (cutouts.rows[point], cutouts.columns[point]))
            index, xy = cutouts.inside(np.array([point]), cutout, start)
            parts.append(self._part(cutout, start, index, xy, self.labelled.scored))
        return self._batch(parts)

    def balance(self, points: Integers, power: float) -> Floats:
        """Probability of drawing each point: what its label counts/(class count)^power, averaged over the tasks it has a label of."""
        weights = []
        for task in self.spec.tasks:
            labels = self.labelled.labels[task.name][points]
            count = self.labelled.weights.get(task.name, np.ones(len(self.labelled)))[points]
            weight = np.where(np.isfinite(labels), count, np.nan)
            if task.kind != "regression":
                _, position = np.unique(labels, return_inverse=True, equal_nan=True)
                counts = np.bincount(position, np.where(np.isfinite(labels), count, 1.0))
                weight = weight * (np.nansum(weight) / counts[position]) ** power
            weights.append(weight)
        mean = np.nanmean(weights, axis=0)
        share: Floats = mean / mean.sum()
        return share

    def shares(self, points: Integers, draw: Draw, seed: int) -> dict[str, Floats]:
        """Return the share of each class among what training meets of a task: labels, or a teacher's answers."""
        if self.pool is None:
            return self.label_shares(points, self.met(points, draw, seed))
        found = {}
        for task in (task for task in self.spec.tasks if task.kind != "regression"):
            mean = self.pool.answers[task.name].reshape(-1, task.outputs).mean(axis=0, dtype="float64")
            found[task.name] = np.array([1 - mean[0], mean[0]]) if task.kind == "binary" else mean
        return found

    def label_shares(self, points: Integers, met: Floats | None = None) -> dict[str, Floats]:
        """Return the share of each class among labels of a task, each counted as often as it is met; once by default."""
        found = {}
        for task in (task for task in self.spec.tasks if task.kind != "regression"):
            labels = self.labelled.labels[task.name][points]
            known = np.isfinite(labels)
            often, count = met, self.labelled.weights.get(task.name)
            if count is not None:
                often = count[points] if met is None else met * count[points]
            counts = np.bincount(labels[known].astype(int), None if often is None else often[known], minlength=len(task.classes))
            found[task.name] = counts / max(counts.sum(), 1e-12)
        return found

    def met(self, points: Integers, draw: Draw, seed: int) -> Floats:
        """Share of each point among the labels that training meets: points that are drawn, and those in the windows around them."""
        rng, weights = np.random.default_rng([seed, 2]), self.balance(points, draw.power)
        met = np.zeros(len(self.labelled))
        for _ in range(math.ceil(MET / len(points))):
            for point, weight in zip(points, weights, strict=True):
                met[self._placed(point, points, draw, rng)[1]] += weight
        share: Floats = met[points] / met.sum()
        return share
