"""A class map beside its reference: sites counted by stratum, region and pair of classes, and what the map holds of each class."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from misoxr.errors import PointsError, SpecError, did_you_mean, note
from misoxr.grid.layers import flat
from misoxr.sampling.classes import Legend, classes_named, plain, reference_classes
from misoxr.sampling.counts import Ground, class_sums, read_once
from misoxr.sampling.estimators import Cells, degrees_of_freedom, design_weights, drawn_shares, note_few
from misoxr.sampling.reference import Sites, agree, sites_of
from misoxr.spec.numbers import by_name, is_number

__all__ = ["ASSUMED", "DRAWN", "Compared", "from_map", "from_matrix"]

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.intp]

OLOFSSON = "stratified by the map's classes (Olofsson et al. 2014)"
STEHMAN = "stratified by other strata than the map's classes (Stehman 2014)"
AFTERWARDS = "stratified afterwards by the map's classes"
SUMS = ("all", "total", "totals", "sum", "sums", "margin", "margins")
"""Names of what is no class, but the sum of all."""
DRAWN = "sites were drawn at random within strata"
ASSUMED = "ASSUMED, not known: sites were drawn at random"


@dataclass(frozen=True)
class Compared:
    """Counts of sites, and of pixels.

    Attributes
    ----------
    names : tuple of str
        The classes: the map's, then others of the reference.
    regions : tuple of str
        The regions; one, "", without polygons.
    pixels, area : ndarray, shape (region, class)
        What the map holds; areas in m2.
    counted : Cells
        Sites (region, stratum, pair of classes).
    weights : ndarray, shape (stratum,)
        How much area each sampled square metre stands for.
    drawn : ndarray, shape (stratum,)
        Share of each stratum's pixels that were sampled; 0 where it is not known, or small.
    separate : bool
        Whether areas of strata are met exactly.
    estimator, assumption : str
        What is computed, and what makes it hold.
    """

    names: tuple[str, ...]
    regions: tuple[str, ...]
    pixels: Floats
    area: Floats
    counted: Cells
    weights: Floats
    drawn: Floats
    separate: bool
    estimator: str
    assumption: str

    def __post_init__(self) -> None:
        if self.kept.sum() < 2:
            raise SpecError(
                f"Map and reference have one class only, {self.names[int(self.kept.argmax())]!r}: there is nothing to estimate."
            )
        few = int(((self.counted.sites.sum((0, 2)) < 2) & (self.drawn < 1)).sum())
        if few:
            note(
                f"{few} of {len(self.weights)} strata have one site only, so there are no standard errors; visit at least two of each."
            )
        if sure := self._agreeing():
            note(
                f"All visited sites of strata agree: {', '.join(sure[:10])}{', ...' if len(sure) > 10 else ''}. So nothing tells how these strata vary, "
                "and intervals of what lies in them alone have no length. Of n sites that agree, up to 3/n of a stratum may be otherwise "
                "(rule of three, at 95 %); visit more of them."
            )
        if self.by_region:
            note_few({self.regions[at]: int(self.sites(at)) for at in self.shown})

    def _agreeing(self) -> list[str]:
        """Name the strata of which all sites, two or more, are the same pair of classes, and which were not visited whole."""
        seen = self.counted.sites.sum(0)  # (stratum, pair)
        alike = ((seen > 0).sum(1) == 1) & (seen.sum(1) > 1) & (self.drawn < 1)
        mapped, _ = self.pairs
        classes = mapped[:-1][seen.argmax(1)]
        own = self.separate and len(set(classes)) == len(classes)  # strata are the map's classes
        return [
            f"{self.names[classes[at]] if own else f'number {at + 1}'} ({seen[at].sum():.0f} sites)" for at in np.flatnonzero(alike)
        ]

    @property
    def by_region(self) -> bool:
        """Whether there are polygons."""
        return self.regions != ("",)

    @property
    def assumed(self) -> bool:
        """Whether it is only assumed that sites were drawn at random."""
        return self.assumption == ASSUMED

    @property
    def shown(self) -> list[int]:
        """The regions to tell of: all that have a name, and the rest where there is any."""
        last = len(self.regions) - 1
        return [at for at in range(len(self.regions)) if at < last or not self.by_region or self.pixels[last].any()]

    @cached_property
    def kept(self) -> npt.NDArray[np.bool_]:
        """The classes that the map or the reference has."""
        _, reference = self.pairs
        seen = self.counted.sites.sum((0, 1))
        return np.asarray((self.pixels.sum(0) > 0) | [(seen[reference[:-1] == at]).sum() > 0 for at in range(len(self.names))])

    @cached_property
    def pairs(self) -> tuple[Numbers, Numbers]:
        """The map's and the reference's class of each cell; -1 of the last one, which holds what lies outside a region."""
        count = len(self.names)
        mapped, reference = np.divmod(np.arange(count**2), count)
        return np.append(mapped, -1), np.append(reference, -1)

    @property
    def outside(self) -> npt.NDArray[np.bool_]:
        """Which cell holds what lies outside a region."""
        return self.pairs[0] < 0

    def cells(self, region: int) -> tuple[Cells, Floats]:
        """Return the sites of a region by stratum and pair of classes, those outside it behind them; and the weights of strata."""
        parts = (np.append(part[region], (part.sum(0) - part[region]).sum(-1, keepdims=True), axis=-1) for part in self.counted)
        return Cells(*parts), self.weights

    def sites(self, region: int, which: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.int64]:
        """Return the number of sites in a region, or of each of several sets of cells (set, cell)."""
        count = self.counted.sites[region].sum(0).astype("int64")
        return np.asarray(count.sum() if which is None else (which[:, :-1] * count).sum(-1))

    def degrees_of_freedom(self, region: int, which: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64] | None:
        """Return those of each of several sets of cells (set, cell) in a region; None for the whole map, whose intervals are normal."""
        if not self.by_region:
            return None
        return degrees_of_freedom(np.einsum("hc,ec->eh", self.counted.sites[region], which[:, :-1].astype("float64")))

    def index(self, region: int) -> pd.Index:
        """Return the index of a table of the classes of a region."""
        names = [name for name, kept in zip(self.names, self.kept, strict=True) if kept]
        if not self.by_region:
            return pd.Index(names, name="class")
        return pd.MultiIndex.from_product([[self.regions[region]], names], names=["region", "class"])


def from_map(array: xr.DataArray, reference: Any, by: Any, assume_random: bool) -> Compared:
    """Compare a map with reference sites: the map is read once, chunk by chunk."""
    array = flat(array)
    legend, ground = Legend.of(array), Ground.of(array, by)
    sites = sites_of(reference, legend.name, ground.geobox, assume_random).seen()
    sums, codes, region = read_once(class_sums(array.data, legend, ground), array.data, ground, sites.rows, sites.columns)
    legend.refuse(int(sums[0, :, -1].sum()))
    mapped = legend.numbers(codes).astype(np.intp)
    valid = mapped < len(legend.names)
    sites = sites.check_on_map(valid)
    mapped, region = mapped[valid], region[valid]
    labels, names = reference_classes(sites.labels, legend)
    pixels, area = (np.zeros((len(ground.names), len(names))) for _ in range(2))
    pixels[:, : len(legend.names)] = sums[0, :, :-2]
    area[:, : len(legend.names)] = ground.areas.metres(sums[1, :, :-2])
    drawn = _strata(sites, mapped, legend, pixels.sum(0))
    cells = _cells(
        drawn, region, mapped * len(names) + labels, ground.areas.at(sites.rows, sites.columns), len(ground.names), len(names) ** 2
    )
    whole = Cells(*(part.sum(0) for part in cells))
    if drawn.classes is None:
        weights = design_weights(whole, drawn.sizes, total=area.sum())
    else:
        weights = design_weights(whole, drawn.sizes, areas=area.sum(0)[drawn.classes])
    how = AFTERWARDS if assume_random else STEHMAN if drawn.classes is None else OLOFSSON
    shares = np.zeros(len(drawn.sizes)) if assume_random else drawn_shares(whole, drawn.sizes)
    made = ASSUMED if assume_random else DRAWN
    return Compared(names, ground.names, pixels, area, cells, weights, shares, drawn.classes is not None, how, made)


@dataclass(frozen=True)
class _Strata:
    """The stratum of each site, the pixels of each stratum, and the map's class that each is, where they are these."""

    stratum: Numbers
    sizes: Floats
    classes: Numbers | None


def _strata(sites: Sites, mapped: Numbers, legend: Legend, pixels: Floats) -> _Strata:
    """Find out whether strata are the map's classes, and check their sizes against the map.

    Raises
    ------
    PointsError
        If a class of the map has no site, or sizes differ from the map.
    """
    named = None if sites.sizes is None else classes_named(sites.strata, legend)
    by_class = sites.sizes is None or (named is not None and bool((named[sites.stratum] == mapped).all()))
    if not by_class and sites.sizes is not None:
        if named is not None:
            other = int((named[sites.stratum] != mapped).sum())
            note(
                f"At {other} of {len(sites)} sites the map has another class than their stratum: strata are taken to be those of another map. "
                "If they were drawn from this one, check the coordinates of the sites."
            )
        if not agree(sites.sizes.sum(), pixels.sum()):
            raise PointsError(
                f"The strata hold {sites.sizes.sum():,.0f} pixels (sites divided by inclusion_probability), and the map {pixels.sum():,.0f} with "
                "a class. Give a map of the area that was sampled, and keep sites without a label in the table."
            )
        return _Strata(sites.stratum, sites.sizes, None)
    own = np.flatnonzero(pixels > 0)
    absent = [f"{legend.names[at]} ({pixels[at]:,.0f} pixels)" for at in np.setdiff1d(own, mapped)]
    if absent:
        raise PointsError(
            f"Classes of the map have no site: {', '.join(absent)}. Their area cannot be corrected: visit sites there, or merge them with others."
        )
    if sites.sizes is not None and named is not None:
        for stratum, size in zip(named, sites.sizes, strict=True):
            if not agree(size, pixels[stratum]):
                raise PointsError(
                    f"The stratum {legend.names[stratum]!r} holds {size:,.0f} pixels (sites divided by inclusion_probability), and the map "
                    f"{pixels[stratum]:,.0f}. Give the map that sites were drawn from, and keep sites without a label in the table."
                )
    return _Strata(np.searchsorted(own, mapped), pixels[own], own)


def _cells(drawn: _Strata, region: Numbers, pair: Numbers, area: Floats, regions: int, pairs: int) -> Cells:
    """Count sites by region, stratum and pair of classes."""
    shape = regions, len(drawn.sizes), pairs
    index = np.ravel_multi_index((region, drawn.stratum, pair), shape)
    return Cells(
        *(np.bincount(index, area**power, minlength=int(np.prod(shape))).reshape(shape).astype("float64") for power in range(3))
    )


def from_matrix(matrix: Any, pixels: Any, pixel_area: float | None) -> Compared:
    """Take counts of sites by the map's class (rows, the strata) and the reference's (columns).

    Raises
    ------
    SpecError
        If they are no counts, classes do not fit or are sums of the others, or a stratum has no site.

    Warns
    -----
    MisoxrWarning
        If the reference has classes that the map lacks.
    """
    table = _table(matrix)
    names = (*table.index, *_only_seen(table))
    sizes = _sizes(pixels, list(table.index))
    if pixel_area is None or not is_number(pixel_area) or not 0 < pixel_area < np.inf:
        raise SpecError(f"pixel_area is {pixel_area!r}; give the area of a pixel in m2, such as 900.")
    counts = table.reindex(columns=list(names), fill_value=0).to_numpy("float64")
    empty = [name for name, size, count in zip(table.index, sizes, counts.sum(1), strict=True) if size > 0 and count == 0]
    if empty:
        raise SpecError(f"Strata have no site in matrix: {empty}. Visit sites there, or merge strata.")
    more = [name for name, size, count in zip(table.index, sizes, counts.sum(1), strict=True) if 0 < size < count]
    if more:
        raise SpecError(f"Strata have more sites in matrix than pixels: {more}. Give the number of pixels of each, not shares.")
    own = np.flatnonzero(sizes > 0)
    if (counts.sum(1)[sizes == 0] > 0).any():
        raise SpecError("Strata without pixels have sites in matrix; give the pixels of each.")
    cells = np.zeros((1, len(own), len(names), len(names)))
    cells[0, np.arange(len(own)), own] = counts[own]
    counted = Cells.of_counts(cells.reshape(1, len(own), -1), float(pixel_area))
    held = np.zeros((1, len(names)))
    held[0, : len(sizes)] = sizes
    whole = Cells(*(part[0] for part in counted))
    weights = design_weights(whole, sizes[own], areas=sizes[own] * pixel_area)
    shares = drawn_shares(whole, sizes[own])
    return Compared(names, ("",), held, held * pixel_area, counted, weights, shares, True, OLOFSSON, DRAWN)


def _table(matrix: Any) -> pd.DataFrame:
    """Return counts as a table, its classes named by text: columns as the rows that are the same class."""
    if isinstance(matrix, xr.DataArray) and matrix.ndim == 2 and set(matrix.dims) & set(matrix.coords):
        matrix = matrix.to_pandas()
    table = matrix if isinstance(matrix, pd.DataFrame) else pd.DataFrame(np.asarray(matrix))
    if not isinstance(matrix, pd.DataFrame) and (np.ndim(matrix) != 2 or len(set(np.shape(matrix))) != 1):
        raise SpecError(
            f"matrix has the shape {np.shape(matrix)}; give as many rows (map) as columns (reference), or a DataFrame with names."
        )
    spelt = {plain(name): str(name).strip() for name in (*table.columns, *table.index)}
    rows, columns = ([spelt[plain(name)] for name in names] for names in (table.index, table.columns))
    table = pd.DataFrame(table.to_numpy(), rows, columns)
    if table.index.has_duplicates or table.columns.has_duplicates or not len(table):
        raise SpecError(f"matrix has the rows {list(table.index)} and columns {list(table.columns)}; name each class once.")
    values = table.apply(pd.to_numeric, errors="coerce").to_numpy("float64")
    if not (np.isfinite(values) & (values >= 0) & (values == np.floor(values))).all():
        raise SpecError("matrix holds other than counts; give whole numbers of sites, from 0.")
    counts = pd.DataFrame(values, table.index, table.columns)
    _refuse_sums(counts)
    return counts


def _refuse_sums(counts: pd.DataFrame) -> None:
    """Refuse a margin: a row or column that is the sum of the others, and is called so."""
    found = {}
    for axis, table in (("index", counts), ("columns", counts.T)):
        named = [name for name in table.index if name.casefold() in SUMS and len(table) > 2]
        if sums := [name for name in named if (table.drop(index=name).sum() == table.loc[name]).all()]:
            found[axis] = sums[0]
    if found:
        told = ", ".join(f"{axis}={name!r}" for axis, name in found.items())
        raise SpecError(
            f"matrix has the sums of the others in {told}, which are no class; drop them: matrix = matrix.drop({told})."
        )


def _only_seen(counts: pd.DataFrame) -> list[str]:
    """Return the classes of the reference that the map lacks, which are told.

    Raises
    ------
    SpecError
        If one is a class of the map in another spelling, or no column is a row.
    """
    rows, others = list(counts.index), [name for name in counts.columns if name not in counts.index]
    bare = {_bare(name): name for name in rows}
    if near := {name: bare[_bare(name)] for name in others if _bare(name) in bare}:
        raise SpecError(f"The columns of matrix are no rows in this spelling; rename them: matrix = matrix.rename(columns={near}).")
    if len(others) == len(counts.columns):
        raise SpecError(f"matrix has the rows {rows} and columns {others}; name the map's and the reference's classes alike.")
    if others:
        near_one = next((found for name in others if (found := did_you_mean(name, rows))), "")
        note(
            f"The reference has classes that the map lacks: {others}; the map has {rows}. They get an area, as omitted from the map.{near_one}"
        )
    return others


def _bare(name: str) -> str:
    """Return a name without case, blanks and hyphens."""
    return re.sub(r"[\s_-]", "", name).casefold()


def _sizes(pixels: Any, names: Sequence[str]) -> Floats:
    """Return the pixels of each stratum, in the order of the matrix."""
    if pixels is None:
        raise SpecError(f"matrix is given without pixels; give the map's pixels of each of {names}.")
    pixels = by_name(pixels, "pixels")
    if isinstance(pixels, Mapping):
        known = {plain(name): value for name, value in pixels.items()}
        if set(known) != {plain(name) for name in names}:
            raise SpecError(
                f"pixels are of {sorted(map(str, known))}, and the rows of matrix {sorted(names)}; give those of each row."
            )
        pixels = [known[plain(name)] for name in names]
    sizes = np.asarray(pixels, "float64")
    if sizes.shape != (len(names),) or not (np.isfinite(sizes) & (sizes >= 0)).all() or not sizes.any():
        raise SpecError(f"pixels is {pixels!r}; give a number for each of the {len(names)} rows of matrix.")
    return sizes
