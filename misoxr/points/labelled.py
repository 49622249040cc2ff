"""Labelled points as a model learns from them: placed on a cube's grid, with codes or values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import geopandas as gpd
import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from misoxr.errors import PointsError
from misoxr.points.censoring import Censored, known_column, observed, scored
from misoxr.points.read import place
from misoxr.points.readers import lengths
from misoxr.points.years import Years, date_of
from misoxr.spec import ModelSpec

__all__ = ["Labelled"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Labelled:
    """Points of a cube with at least one label.

    Attributes
    ----------
    rows, columns : array (point,)
        Fractional pixels, a centre at +0.5.
    xy : array (point, 2)
        Coordinates in the CRS of the cube.
    labels : mapping of str to array (point,)
        Codes or values by task, NaN where unknown.
    layer : array (point,)
        Which of a cube's years each belongs to (:class:`misoxr.points.years.Years`); 0 without years.
    radius : array (point,)
        Radius, in pixels, of the disk that holds the place; 0 where it is at most half a pixel, or unknown.
    weights : mapping of str to array (point,)
        Of tasks with censored labels that are weighted, what each label counts.
    censored : mapping
        What was censored, and how it was treated (:class:`misoxr.points.censoring.Observed`).
    """

    rows: Floats
    columns: Floats
    xy: Floats
    labels: Mapping[str, Floats]
    layer: Integers
    radius: Floats
    weights: Mapping[str, Floats] = field(default_factory=dict)
    censored: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        points: gpd.GeoDataFrame,
        spec: ModelSpec,
        geobox: GeoBox,
        censored: Censored = "drop",
        *,
        years: Years | None = None,
        what: str = "points",
    ) -> Self:
        """Place points on the grid and encode their labels; what is right-censored is treated by a rule.

        Points that belong to none of the years are left out.
        """
        placed, rows, columns = place(points, geobox)
        labels, weights, record = observed(placed, spec.tasks, censored, what=what)
        layer = np.zeros(len(placed), dtype="int64") if years is None else years.matched(date_of(placed), len(placed), what=what)
        known = np.any([np.isfinite(values) for values in labels.values()], axis=0)
        if not known.any():
            raise PointsError(f"All labels are censored: {record}. Give points that were observed deeper, or censored='weight'.")
        if not (known & (layer >= 0)).any():
            raise PointsError(
                f"None of the {known.sum()} labelled {what} is dated near a year of the cube; give other years, or points."
            )
        radius = np.zeros(len(placed))
        if known_column(placed, "accuracy", spec.tasks):
            radius = np.nan_to_num(lengths(placed["accuracy"]).to_numpy() / abs(geobox.affine.a))
        return cls(
            rows,
            columns,
            np.stack([placed.geometry.x, placed.geometry.y], axis=-1),
            labels,
            layer,
            np.where(radius > 0.5, radius, 0.0),
            weights,
            record,
        ).only(known & (layer >= 0))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def scored(self) -> dict[str, Floats]:
        """The labels that are true for certain, by which a model may be judged."""
        return scored(self.labels, self.weights)

    def only(self, mask: npt.NDArray[Any]) -> Self:
        """Return some of the points."""
        labels, weights = ({name: values[mask] for name, values in of.items()} for of in (self.labels, self.weights))
        own = self.rows[mask], self.columns[mask], self.xy[mask]
        return type(self)(*own, labels, self.layer[mask], self.radius[mask], weights, self.censored)

    def joined(self, other: Self) -> Self:
        """Return these points and the others behind them."""
        both = (self, other)
        labels = {name: np.concatenate([one.labels[name] for one in both]) for name in self.labels}
        weighted = {*self.weights, *other.weights}
        weights = {name: np.concatenate([one.weights.get(name, np.ones(len(one))) for one in both]) for name in weighted}
        rows, columns, xy, layer, radius = (
            np.concatenate([getattr(one, name) for one in both]) for name in ("rows", "columns", "xy", "layer", "radius")
        )
        return type(self)(rows, columns, xy, labels, layer, radius, weights, self.censored)
