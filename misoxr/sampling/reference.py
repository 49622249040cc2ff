"""Reference sites: where they lie on a map, how they were drawn, and whether that was at random."""

from dataclasses import dataclass, replace
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
from odc.geo.geobox import GeoBox

from misoxr.errors import PointsError, SpecError, note
from misoxr.grid.geobox import extent, pixels
from misoxr.points.readers import as_points, is_missing, require_columns, with_crs

__all__ = ["PROBABILITY", "STRATUM", "Sites", "agree", "sites_of"]

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.intp]

STRATUM, PROBABILITY = "stratum", "inclusion_probability"
"""Columns that tell how sites were drawn."""
ROUNDED = 1e-3
"""Relative difference of two sizes of a stratum that is rounding of the probabilities."""


@dataclass(frozen=True)
class Sites:
    """Sites on a map.

    Attributes
    ----------
    rows, columns : ndarray of int, shape (site,)
        Their pixels.
    labels : Series
        What was seen at each.
    strata : tuple
        The strata: values of the column; one, "all", where sites count as drawn at random from everywhere.
    stratum : ndarray of int, shape (site,)
        The stratum of each.
    sizes : ndarray, shape (stratum,), or None
        Pixels of each stratum, from the probabilities; None where sites only count as drawn at random.
    """

    rows: Numbers
    columns: Numbers
    labels: pd.Series
    strata: tuple[Any, ...]
    stratum: Numbers
    sizes: Floats | None

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, mask: npt.NDArray[np.bool_]) -> "Sites":
        """Return some of the sites; the strata keep their sizes."""
        return replace(self, rows=self.rows[mask], columns=self.columns[mask], labels=self.labels[mask], stratum=self.stratum[mask])

    def seen(self) -> "Sites":
        """Return the sites with a label.

        Raises
        ------
        PointsError
            If a stratum has none.

        Warns
        -----
        MisoxrWarning
            If some have none, or several lie in one pixel.
        """
        missing = np.array([is_missing(value) for value in self.labels], bool)
        if missing.any():
            note(
                f"{missing.sum()} of {len(self)} sites have no label in {self.labels.name!r} and are left out. This is right only if "
                "they are like the others of their stratum."
            )
        empty = [self.strata[at] for at in np.setdiff1d(np.arange(len(self.strata)), self.stratum[~missing])]
        if empty:
            raise PointsError(
                f"Strata have no site with a label in {self.labels.name!r}: {empty[:10]}. Visit some of their sites, or merge strata."
            )
        seen = self.only(~missing)
        shared = pd.MultiIndex.from_arrays([seen.rows, seen.columns]).duplicated(keep=False)
        if shared.any():
            note(
                f"{shared.sum()} of {len(seen)} sites share a pixel of the map with another, such as {seen.labels.index[shared][0]}. Each counts as drawn on "
                "its own: if they are one place, intervals are too short. Keep one row of each place."
            )
        return seen

    def check_on_map(self, valid: npt.NDArray[np.bool_]) -> "Sites":
        """Return the sites where the map has an answer: all of a probability sample, some of others.

        Raises
        ------
        PointsError
            If sites of a probability sample lie on nodata, or all sites do.

        Warns
        -----
        MisoxrWarning
            If sites that only count as drawn at random are left out.
        """
        gone = int((~valid).sum())
        if gone and (self.sizes is not None or gone == len(self)):
            raise PointsError(
                f"{gone} of {len(self)} sites lie on nodata of the map, such as {self.labels.index[~valid][0]}: they were not drawn from "
                "it. Give the map that they were drawn from, or one that is valid wherever that is."
            )
        if gone:
            note(f"{gone} of {len(self)} sites lie on nodata of the map and are left out.")
        return self.only(valid)


def sites_of(reference: Any, name: str, geobox: GeoBox, assume_random: bool) -> Sites:
    """Place reference sites on a map, and read how they were drawn.

    Raises
    ------
    SpecError
        If the reference is no GeoDataFrame, or ``assume_random`` contradicts it.
    PointsError
        If a column is missing, sites are no probability sample, probabilities are none or differ within a stratum, or sites lie outside.

    Warns
    -----
    MisoxrWarning
        If sites that only count as drawn at random lie outside and are left out, and that they count so.
    """
    if not isinstance(reference, gpd.GeoDataFrame):
        raise SpecError(
            f"The reference is a {type(reference).__name__}; give sites as a GeoDataFrame (misoxr.read_points reads files)."
        )
    if not len(reference):
        raise PointsError("The reference has 0 sites; give at least two of each stratum.")
    drawn = [column for column in (STRATUM, PROBABILITY) if column in reference]
    require_columns(reference, [name, *drawn])
    if assume_random and drawn:
        raise SpecError(f"The reference tells how it was drawn, in {drawn}; leave out assume_random=True, or drop these columns.")
    if PROBABILITY[:10] in reference and PROBABILITY not in reference:  # as Shapefiles cut it
        raise PointsError(
            f"The reference has a column {PROBABILITY[:10]!r}: its Shapefile cut {PROBABILITY!r}. Rename it, "
            f"reference.rename(columns={{{PROBABILITY[:10]!r}: {PROBABILITY!r}}}), or keep sites in a GeoPackage."
        )
    if not assume_random and len(drawn) < 2:
        raise PointsError(
            f"The reference has no column {STRATUM!r} and {PROBABILITY!r} both, so it is no probability sample that is known. Intervals hold "
            "for sites drawn at random: misoxr.sampling.stratified draws them. To take these sites as drawn at random, which pedons along "
            "roads are not, pass assume_random=True."
        )
    points = as_points(with_crs(reference, None)).to_crs(str(geobox.crs))
    with np.errstate(invalid="ignore"):
        rows, columns = pixels(geobox, points.geometry.x, points.geometry.y)
        inside = (rows >= 0) & (rows < geobox.shape.y) & (columns >= 0) & (columns < geobox.shape.x)
    outside = int((~inside).sum())
    if outside and (outside == len(points) or not assume_random):
        raise PointsError(
            f"{outside} of {len(points)} sites lie outside the map, such as {points.index[~inside][0]}; it covers {extent(geobox)}. "
            "Give the map that they were drawn from, and check the CRS of both."
        )
    strata, stratum, sizes = (("all",), np.zeros(len(points), np.intp), None) if assume_random else _strata(reference)
    whole = np.floor(np.where(inside, rows, 0)).astype(np.intp), np.floor(np.where(inside, columns, 0)).astype(np.intp)
    found = Sites(*whole, reference[name], strata, stratum, sizes)
    if assume_random:
        note(
            "The sites are taken to be drawn at random, as assume_random=True says. Where they were not, estimates and intervals are wrong."
        )
        if outside:
            note(f"{outside} of {len(points)} sites lie outside the map and are left out.")
    return found.only(np.asarray(inside))


def _strata(reference: gpd.GeoDataFrame) -> tuple[tuple[Any, ...], Numbers, Floats]:
    """Return strata, that of each site, and their pixels: as many as their sites, divided by the probability of each."""
    column = reference[STRATUM]
    if column.isna().any():
        raise PointsError(f"{int(column.isna().sum())} sites have no {STRATUM!r}; fill in the stratum that each was drawn from.")
    stratum, strata = pd.factorize(column)
    chances = pd.to_numeric(reference[PROBABILITY], errors="coerce").to_numpy("float64")
    wrong = ~((chances > 0) & (chances <= 1))
    if wrong.any():
        raise PointsError(
            f"{PROBABILITY!r} of {int(wrong.sum())} sites is not above 0 and at most 1, such as {reference[PROBABILITY].to_numpy()[wrong][0]}; "
            "give the share of the stratum's pixels that were drawn."
        )
    by = pd.Series(chances).groupby(stratum)
    uneven = (by.max() / by.min() - 1).to_numpy() > ROUNDED
    if uneven.any():
        at = int(np.flatnonzero(uneven)[0])
        raise PointsError(
            f"Sites of the stratum {strata[at]!r} have other probabilities ({by.min()[at]:g} to {by.max()[at]:g}); within a stratum they are "
            "equal. Give each probability a stratum of its own."
        )
    return tuple(strata), stratum.astype(np.intp), (by.size() / by.mean()).to_numpy("float64")


def agree(drawn: float, counted: float) -> bool:
    """Return whether two sizes, in pixels, are one, but for the rounding of probabilities."""
    return abs(drawn - counted) <= max(ROUNDED * counted, 0.5)
