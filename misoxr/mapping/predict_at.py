"""Answer at any coordinates of a datacube, lazily: chunks are read once, and only around the points."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import dask.array as da
import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from dask.delayed import delayed
from odc.geo.geobox import GeoBox

from misoxr.cube.check import named
from misoxr.cube.stack import stack
from misoxr.cube.variables import variables
from misoxr.errors import PointsError, gathered, note
from misoxr.estimators.embedded import EmbeddedModel
from misoxr.estimators.pixel_model import PixelModel
from misoxr.grid.geobox import assign, pixels
from misoxr.grid.windows import Cut, cuts
from misoxr.mapping.embed import mean_of, prepared_pairs
from misoxr.mapping.ensemble import averaged
from misoxr.mapping.job import Job, Settings, dtype_of, layers_of, prepared
from misoxr.mapping.load import opened
from misoxr.mapping.predict import pixel_bands
from misoxr.mapping.provenance import attributes
from misoxr.mapping.sets import errors_of, refuse_several, with_sets
from misoxr.points.read import coordinates
from misoxr.points.years import Years, date_of
from misoxr.spec import ModelSpec, WindowSpec

if TYPE_CHECKING:
    from misoxr.model.checkpoint import Model
    from misoxr.model.field import Scatter, Window

__all__ = ["gather", "predict_at"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]


@gathered
def predict_at(
    ds: xr.Dataset,
    model: "Model | PixelModel | EmbeddedModel | str | os.PathLike[str] | Sequence[Any]",
    points: gpd.GeoDataFrame | pd.DataFrame | xr.Dataset | Mapping[str, Any],
    *,
    crs: Any = None,
    tolerance: int | None = None,
    tasks: Sequence[str] | None = None,
    windows: WindowSpec | None = None,
    location: bool = False,
    coverage: float | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    compile: bool = False,
) -> xr.Dataset:
    """Answer at any coordinates of a datacube, not only at pixel centres, lazily.

    The cube is read chunk by chunk, and only around the points. At pixel centres the answers are those of the map.

    Parameters
    ----------
    ds : Dataset
        As for :func:`misoxr.mapping.predict.predict`. Or yearly composites: bands over (time, y, x) with one time in each year. Points then need
        a date, and are answered from the composite of the nearest year.
    model : Model, PixelModel, EmbeddedModel, str, path or list of these
        As for :func:`misoxr.mapping.predict.predict`.
    points : GeoDataFrame, DataFrame, Dataset or mapping
        Where to answer: points; a table with columns as :func:`misoxr.read_points` takes them; or one-dimensional ``x`` and ``y``, in the CRS of
        the cube by default; a Dataset, such as other answers, may tell its own. Dates are in a column "date", or ``date`` beside ``x`` and ``y``, of each or one of all.
    crs : optional
        CRS of the points, where they carry none.
    tolerance : int, optional
        Of yearly composites, the years between a point's date and its composite, at the most; 5 by default. Other points have no answer.
    tasks, windows, location, coverage, device, precision, batch_size, compile : optional
        As for :func:`misoxr.mapping.predict.predict`.

    Returns
    -------
    Dataset
        Lazy, along "point" in the order given, with the variables of a map, and the coordinates ``x`` and ``y`` in the CRS of the cube. NaN outside
        the cube, and where the pixel that holds the point has no valid input.

    Raises
    ------
    PointsError
        If there are no points, they have no CRS or no coordinates, or all lie outside the cube.
    BandError, GridError, CheckpointError, SpecError
        As for :func:`misoxr.mapping.predict.predict`.

    Warns
    -----
    MisoxrWarning
        If some points lie outside the cube, have no date, or are too far from all composites in time.

    Examples
    --------
    >>> answers = image.miso.predict_at(model, points).compute()
    >>> answers = image.miso.predict_at(model, {"x": x, "y": y})  # in the cube's CRS
    """
    settings = Settings(tasks, windows, location, device, precision, batch_size, compile)
    if isinstance(model, list | tuple):
        refuse_several(coverage, len(model))
        several = [predict_at(ds, one, points, crs=crs, tolerance=tolerance, **settings.arguments()) for one in model]
        return averaged(several)
    found = opened(model)
    errors = errors_of(found, settings.tasks_of(found.spec), coverage)
    years = Years.of(named(ds, found.spec), found.spec, tolerance)
    first = _asked(years.cubes[0], found, settings)
    geobox = first.geobox
    x, y, index = coordinates(points, geobox, crs)
    inside, rows, columns = _inside(geobox, x, y)
    layer = years.matched(date_of(points) if years.years else None, len(rows))
    parts = []
    for number, cube in enumerate(years.cubes):
        mine = inside[layer[inside] == number]
        if len(mine):
            one = first if number == 0 else _asked(cube, found, settings)
            parts.append((number, one.answer(mine, rows, columns)))
    if not parts:
        raise PointsError(f"None of {len(rows)} points lies in the cube and is dated near one of its years {list(years.years)}.")
    layers = parts[0][1]
    for number, part in parts[1:]:
        layers = da.where(layer == number, part, layers)
    out = variables(layers, ("point",), first.spec, first.tasks, location=location, members=first.members)
    reference = assign(ds[[]], geobox)
    place = {name: xr.Variable("point", values, reference[name].attrs) for name, values in (("x", x), ("y", y))}
    out = out.assign_coords({"point": index, **place, "spatial_ref": reference.spatial_ref})
    out.attrs = attributes(ds, found, first.windows)
    return out if errors is None else with_sets(out, errors, first.tasks, coverage)


class _Asked(NamedTuple):
    """A model that is prepared for a cube: its grid, the tasks, what is answered, and how to answer points that lie inside."""

    geobox: GeoBox
    tasks: Any
    spec: ModelSpec
    windows: WindowSpec | None
    members: int
    answer: Callable[[Integers, Floats, Floats], da.Array]


def _asked(ds: xr.Dataset, found: Any, settings: Settings) -> _Asked:
    """Prepare a model of any kind. What answers takes the points inside, and rows and columns of all: (layer, point), NaN elsewhere."""
    if isinstance(found, PixelModel):
        bands, geobox, chosen = pixel_bands(ds, found, settings)

        def by_pixel(inside: Integers, rows: Floats, columns: Floats) -> da.Array:
            return _spread(found.layers_at(bands, geobox, rows[inside], columns[inside], chosen), inside, len(rows))

        return _Asked(geobox, chosen, replace(found.spec, tasks=tuple(chosen)), None, 1, by_pixel)
    if isinstance(found, EmbeddedModel):
        pairs, chosen = prepared_pairs(ds, found, settings)
        geobox = pairs[0][1].geobox

        def by_pairs(inside: Integers, rows: Floats, columns: Floats) -> da.Array:
            seen = [gather(stack(cube, found.spec), job, found.spec, inside, rows, columns) for cube, job, _ in pairs]
            return mean_of([one.layers(features, geobox, chosen) for features, (*_, one) in zip(seen, pairs, strict=True)])

        return _Asked(geobox, chosen, replace(found.spec, tasks=tuple(chosen)), pairs[0][1].plan.y.spec, 1, by_pairs)
    cube, job, chosen = prepared(ds, found, settings)

    def by_network(inside: Integers, rows: Floats, columns: Floats) -> da.Array:
        return gather(stack(cube, found.spec), job, found.spec, inside, rows, columns)

    return _Asked(job.geobox, chosen, found.spec, job.plan.y.spec, found.spec.members, by_network)


def _inside(geobox: GeoBox, x: Floats, y: Floats) -> tuple[Integers, Floats, Floats]:
    """Return which points lie in the cube, and the fractional rows and columns of all."""
    rows, columns = pixels(geobox, x, y)
    inside = np.flatnonzero((rows >= 0) & (rows < geobox.shape.y) & (columns >= 0) & (columns < geobox.shape.x))
    if not len(inside):
        raise PointsError(f"All {len(rows)} points lie outside the cube; check their CRS and the cube's extent.")
    if len(inside) < len(rows):
        words = f"{len(rows) - len(inside)} of {len(rows)} points lie outside the cube, and have no answer."
        note(words)
    return inside, rows, columns


def _spread(answers: da.Array, at: Integers, count: int) -> da.Array:
    """Put answers (layer, inside point) at all points, NaN elsewhere: ``at`` is the place of each in the whole."""
    nothing = da.full((answers.shape[0], 1), np.nan, dtype=answers.dtype)
    index = np.full(count, answers.shape[1])
    index[at] = np.arange(len(at))
    placed: da.Array = da.concatenate([answers, nothing], axis=1).rechunk(-1)[:, index]
    return placed


def gather(bands: da.Array, job: Job, spec: ModelSpec, inside: Integers, rows: Floats, columns: Floats) -> da.Array:
    """Lay the answers at points out: a task that cuts the windows from each chunk, and one that answers its points."""
    from misoxr.model.field import Scatter  # here: fitted estimators need no torch

    edges = [np.cumsum([0, *sizes]) for sizes in bands.chunks[1:]]
    chunk = [np.searchsorted(edge, part[inside], side="right") - 1 for edge, part in zip(edges, (rows, columns), strict=True)]
    number = chunk[0] * len(edges[1]) + chunk[1]
    order = np.argsort(number, kind="stable")
    groups = np.split(inside[order], np.flatnonzero(np.diff(number[order])) + 1)
    asked = [Scatter(rows[group], columns[group]) for group in groups]
    # A chunk gives copies of its parts of windows, and is let go: slices would hold all of it until the last of them is used.
    chunks: dict[tuple[int, int], dict[int, list[Cut]]] = {}
    for index, positions in enumerate(asked):
        for window in positions.windows(job.plan):
            for place, cut in cuts(edges, window, (job.plan.y.size, job.plan.x.size)):
                chunks.setdefault(place, {}).setdefault(index, []).append(cut)
    blocks = bands.to_delayed()
    pieces: list[list[Any]] = [[] for _ in asked]
    for place, wanted in chunks.items():
        part = delayed(partial(_cut, wanted=wanted), pure=False)(blocks[0, *place])
        for index in wanted:
            pieces[index].append(part[index])
    shape = layers_of(spec, job)
    parts = [
        da.from_delayed(
            delayed(partial(_point_block, job=job, positions=positions), pure=False)(mine),
            (shape, len(positions)),
            dtype_of(job),
        )
        for mine, positions in zip(pieces, asked, strict=True)
    ]
    return _spread(da.concatenate(parts, axis=1), inside[order], len(rows))


def _cut(bands: Array, wanted: Mapping[int, Sequence[Cut]]) -> dict[int, list[tuple[Cut, Array]]]:
    return {index: [(cut, bands[:, *cut.here].copy()) for cut in mine] for index, mine in wanted.items()}


def _point_block(pieces: Sequence[Sequence[tuple[Cut, Array]]], job: Job, positions: "Scatter") -> Array:
    """Put windows together from their parts in chunks, and answer the points among them: (layer, N)."""
    from misoxr.model.field import Crops

    windows: dict[Window, Array] = {}
    for cut, part in chain.from_iterable(pieces):
        shape = (len(part), job.plan.y.size, job.plan.x.size)
        windows.setdefault(cut.window, np.empty(shape, part.dtype))[:, *cut.there] = part
    return job.answer(Crops(windows), positions)
