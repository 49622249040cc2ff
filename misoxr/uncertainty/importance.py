"""Weights of bands: what a model loses of its skill when points exchange a band."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import xarray as xr

from misoxr.clusters import computed
from misoxr.cube.cutouts import cutouts_of
from misoxr.cube.features import features_in, reach_of, squares_at
from misoxr.cube.stack import stack
from misoxr.errors import PointsError, SpecError
from misoxr.estimators.embedded import EmbeddedModel
from misoxr.estimators.pixel_model import PixelModel
from misoxr.grid.geobox import geobox_of
from misoxr.grid.windows import plan
from misoxr.mapping.job import Job, Settings, prepared
from misoxr.metrics import scores
from misoxr.points.censoring import observed
from misoxr.points.years import by_layer
from misoxr.spec import Task

__all__ = ["permutation"]

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Answer = Callable[[Array], Array]
"""Answers (output, point) from what is around points (point, band, row, column)."""

MOST = {"estimators": 1000, "network": 200}
"""Labelled points that are asked, at the most."""
REPEATS = {"estimators": 3, "network": 1}
"""How often each band is exchanged."""
BYTES = 2**28
"""What the windows around points take in memory, at the most."""
FEW = 20
"""Points of which the skill is hardly noise, at the least."""


def permutation(
    cubes: Sequence[xr.Dataset], model: Any, points: gpd.GeoDataFrame, rows: Floats, columns: Floats, layer: npt.NDArray[np.int64]
) -> dict[str, float]:
    """Weigh the bands of a model by the skill that it loses when labelled points exchange them, drawn with a fixed seed.

    The cube is read once. Estimators see each point's pixel or square, and networks one window centred on the point, within the cube; what is
    exchanged is a band of the whole square or window.

    Parameters
    ----------
    cubes : sequence of Dataset
        The cube of each year, or one.
    model : Model, PixelModel or EmbeddedModel
        The model.
    points : GeoDataFrame
        Points in the cube's CRS, with labels, which all have all bands.
    rows, columns, layer : array (point,)
        Their places, and the number of their cube.

    Returns
    -------
    dict of str to float
        The loss by band: of the Brier skill score, or r2 of a regression, averaged over the tasks; 0 where nothing is lost.

    Raises
    ------
    PointsError
        If no point or too few have labels, or no band matters.
    SpecError
        If the model's estimators see coordinates alone.
    """
    if isinstance(model, PixelModel) and model.features == "coordinates":
        raise SpecError(f"{model!r} sees coordinates, and no band matters to it; leave weights out, or give a mapping.")
    labels = observed(points, model.spec.tasks, "drop").labels
    known = np.flatnonzero(np.any([np.isfinite(values) for values in labels.values()], axis=0))
    if len(known) < FEW:
        raise PointsError(
            f"{len(known)} points have labels and valid bands; {FEW} or more tell which bands matter. Give weights as a mapping."
        )
    kind, rng = "estimators" if isinstance(model, PixelModel) else "network", np.random.default_rng(0)
    each = 4 * len(model.spec.bands) * model.spec.windows.size**2 if kind == "network" else 1
    chosen = np.sort(rng.permutation(known)[: max(FEW, min(MOST[kind], BYTES // each))])
    around, answer = (_squares if kind == "estimators" else _windows)(cubes, model, rows[chosen], columns[chosen], layer[chosen])
    truth = {name: values[chosen] for name, values in labels.items()}
    whole, found = _skill(model.spec.tasks, truth, answer(around)), {}
    for number, band in enumerate(model.spec.bands):
        own, lost = around[:, number].copy(), []
        for _ in range(REPEATS[kind]):
            around[:, number] = own[rng.permutation(len(own))]
            skill = _skill(model.spec.tasks, truth, answer(around))
            lost.append(np.mean([whole[name] - skill[name] for name in whole]))
        around[:, number] = own
        found[band.name] = max(0.0, float(np.mean(lost)))
    if not any(found.values()):
        raise PointsError(f"No band matters to the model at {len(chosen)} labelled points; give weights as a mapping, or none.")
    return found


def _skill(tasks: Sequence[Task], truth: dict[str, Floats], answers: Array) -> dict[str, float]:
    """Return the skill in each task in which it is defined."""
    found, at = {}, 0
    for task in tasks:
        mine, at = answers[at : at + task.outputs], at + task.outputs
        if not np.isfinite(truth[task.name]).any():
            continue
        told = scores(task, truth[task.name], mine.T if task.kind == "multiclass" else mine[0])
        found[task.name] = told["r2" if task.kind == "regression" else "brier_skill"]
    found = {name: value for name, value in found.items() if np.isfinite(value)}
    if not found:
        raise PointsError(
            "The labels of each task are all the same, and no skill is lost; give points of several classes or values."
        )
    return found


def _squares(cubes: Sequence[xr.Dataset], model: PixelModel, rows: Floats, columns: Floats, layer: Any) -> tuple[Array, Answer]:
    """Read the squares of pixels that estimators see around points, and return what answers from them."""
    spec, geobox = model.spec, geobox_of(cubes[0])

    def read(number: int, mine: npt.NDArray[np.intp]) -> Array:
        row, column = (np.floor(part[mine]).astype("int64") for part in (rows, columns))
        (squares,) = computed(squares_at(stack(cubes[number], spec), row, column, reach_of(model.features)))
        return np.moveaxis(squares, 0, -1)  # (row, column, band, point)

    def answer(around: Array) -> Array:
        table = features_in(model.features, model.scaling, spec, np.moveaxis(around, 1, -1), geobox, rows, columns)
        return model.answer(table[:-1].T).T

    return np.ascontiguousarray(np.moveaxis(by_layer(layer, read), (3, 2), (0, 1))), answer


def _windows(cubes: Sequence[xr.Dataset], model: Any, rows: Floats, columns: Floats, layer: Any) -> tuple[Array, Answer]:
    """Read a network's windows around points, and return what answers from them: each window its own point."""
    spec, shape = model.spec, geobox_of(cubes[0]).shape
    size = spec.windows.size
    starts = np.stack(
        [np.clip(np.round(part - size / 2), 0, max(0, length - size)) for part, length in zip((rows, columns), shape, strict=True)],
        axis=-1,
    ).astype("int64")
    with cutouts_of([stack(cube, spec) for cube in cubes], starts, size, layer) as cutouts:
        around: Array = np.array(cutouts.open())
    jobs = [(_apart(cubes[0], network, len(rows)), estimators) for network, estimators in _networks(model)]
    first = size * np.arange(len(rows))  # the windows lie below each other, and none is blended with another

    def answer(windows: Array) -> Array:
        from misoxr.model.field import Crops, Scatter  # here: fitted estimators need no torch

        source = Crops(dict(zip([(int(row), 0) for row in first], windows, strict=True)))
        positions = Scatter(rows - starts[:, 0] + first, columns - starts[:, 1])
        parts = [job.answer(source, positions) for job, _ in jobs]
        answers = [
            part[: spec.outputs] if estimators is None else estimators.answer(part.T).T
            for part, (_, estimators) in zip(parts, jobs, strict=True)
        ]
        mean: Array = np.mean(answers, axis=0)
        return mean

    return around, answer


def _networks(model: Any) -> list[tuple[Any, PixelModel | None]]:
    return [(pair.network, pair.estimators) for pair in model.pairs] if isinstance(model, EmbeddedModel) else [(model, None)]


def _apart(cube: xr.Dataset, network: Any, count: int) -> Job:
    """Return the job of a network over so many windows that do not overlap, one below the other."""
    _, job, _ = prepared(cube, network, Settings(None, None, False, "auto", "auto", None, False))
    windows = network.spec.windows
    own = replace(
        windows, stride=windows.size, taper="gaussian", ramp=None, anchor="dataset"
    )  # each has weight within itself alone
    return replace(job, plan=plan((count * windows.size, windows.size), own))
