"""Labelled points as a model learns from them: placed on a cube's grid, with codes or values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import geopandas as gpd
import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from misoxr.points.read import encode, place
from misoxr.spec import ModelSpec

__all__ = ["Labelled"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Labelled:
    """Points of a cube with at least one label."""

    rows: Floats
    columns: Floats
    xy: Floats
    labels: Mapping[str, Floats]

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
