"""Fit estimators on a network's embedding at the points: with a trained network, or cross-fitted with networks trained on the way."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr._version import __version__
from misoxr.cube.check import check, named
from misoxr.cube.cutouts import cutouts_of
from misoxr.cube.presets import of_tasks, spec_for
from misoxr.cube.stack import stack
from misoxr.errors import PointsError, SpecError
from misoxr.estimators.baselines import Baseline, idle, prepared_baseline, trains
from misoxr.estimators.embedded import EmbeddedModel, Pair, embedding_spec
from misoxr.estimators.fitting import check_labels, fit_table, refuse_unseen
from misoxr.estimators.identity import estimators_sha256
from misoxr.estimators.pixel_model import PixelModel
from misoxr.grid.geobox import lattice_offset
from misoxr.grid.windows import plan
from misoxr.model.checkpoint import Model, resolve
from misoxr.model.devices import choose_device, choose_precision
from misoxr.model.field import Crops, Scatter, answer_positions
from misoxr.points.censoring import Censored, observed
from misoxr.points.folds import separate
from misoxr.points.labelled import Labelled
from misoxr.points.read import place, read_points, simulated
from misoxr.points.years import Years, by_layer
from misoxr.spec import ModelSpec, Task
from misoxr.spec.numbers import is_number

__all__ = ["OF_BOTH", "fit_embedded", "halves", "network_spec", "prepared_embedded"]

OF_BOTH = ("device", "precision", "progress")
"""Settings of training that also hold where a trained network only embeds."""


def network_spec(
    chosen: Baseline, ds: xr.Dataset, points: gpd.GeoDataFrame, tasks: Sequence[str | Task] | None = None
) -> ModelSpec:
    """Return the specification of the network whose embedding a baseline sees."""
    network = chosen.network
    if isinstance(network, ModelSpec):
        return of_tasks(network, tasks)
    if not isinstance(network, Model):
        return spec_for(network, ds, points, tasks)
    if tasks is not None:
        raise SpecError(
            f"tasks is given, and the network {network.spec.name!r} is trained: estimators on its embedding learn its own tasks, "
            f"{[task.name for task in network.spec.tasks]}. Leave tasks out, or give a specification: network=model.spec."
        )
    return network.spec


def prepared_embedded(
    chosen: Baseline, spec: ModelSpec, *, seed: Any = 0, transfer: Any = "auto", like: Any = None, **settings: Any
) -> Baseline:
    """Return a baseline as it sees the bands of an embedding; refuse what is known to fail, before a cube is read.

    The settings of a network that is trained are left for :func:`misoxr.training.settings.prepared` to check.
    """
    if not spec.modalities:
        raise SpecError(
            f"Model {spec.name!r} sees coordinates alone and has no embedding of imagery; give a model with modalities."
        )
    if like is not None:
        raise SpecError("like gives a baseline its bands and tasks, and an embedding's are the network's; leave it out.")
    if not trains(chosen):
        idly = {name for name, value in settings.items() if idle(name, value) or (name == "scaling" and value is None)}
        given = sorted(settings.keys() - idly - set(OF_BOTH))
        if given:
            raise SpecError(
                f"The settings {given} are of training, and the network {spec.name!r} is trained; leave them out, or give its "
                "specification to train it anew: network=model.spec."
            )
    elif not (settings.get("val") is None or is_number(settings["val"])):
        raise SpecError("val is a table, whose points an estimator may learn from, too; give a fraction of the points.")
    plain = replace(chosen, features="pixel", network=None)
    return prepared_baseline(plain, embedding_spec(spec), seed=seed, transfer=transfer)


def fit_embedded(
    ds: xr.Dataset,
    chosen: Baseline,
    points: gpd.GeoDataFrame,
    train: Callable[..., Any],
    *,
    tasks: Sequence[str | Task] | None = None,
    seed: int = 0,
    transfer: Any = "auto",
    like: ModelSpec | None = None,
    censored: Censored = "drop",
    tolerance: int | None = None,
    **settings: Any,
) -> EmbeddedModel:
    """Fit estimators on an embedding, as :func:`misoxr.training.fit.fit` does, which takes the same arguments.

    Parameters
    ----------
    chosen : Baseline
        With ``features="embedding"``.
    train : callable
        :func:`misoxr.training.fit.fit`, which trains networks.
    """
    points = read_points(points)
    spec = network_spec(chosen, ds, points, tasks)
    plain = prepared_embedded(chosen, spec, seed=seed, transfer=transfer, like=like, **settings)
    years = Years.of(named(ds, spec), spec, tolerance)
    geobox = check(years.cubes[0], spec)
    run: dict[str, Any] = {name: settings[name] for name in ("device", "precision") if name in settings}

    def fitted(network: Model, mine: gpd.GeoDataFrame) -> Pair:
        told: dict[str, Any] = {"seed": seed, "transfer": transfer, "censored": censored, **run}
        return Pair(network, _fit_estimators(years, geobox, network, plain, mine, **told))

    if not trains(chosen):
        pairs = [fitted(chosen.network, points)]
    else:
        placed, _, _ = place(points, geobox)
        xy = np.stack([placed.geometry.x, placed.geometry.y], axis=-1)
        pairs = []
        learnt = observed(placed, spec.tasks, censored)
        for number, held in enumerate(halves(spec, xy, learnt.labels, seed)):
            told = _in_folder(settings, number)
            try:
                network = train(
                    ds, spec, placed[~held], seed=seed, transfer=transfer, censored=censored, tolerance=tolerance, **told
                )
                pairs.append(fitted(network, placed[held]))
            except PointsError as error:
                raise PointsError(_told_of_halves(held, error)) from error
    record = {
        "estimator": repr(chosen.estimator),
        "regressor": None if chosen.regressor is None else repr(chosen.regressor),
        "estimators_sha256": estimators_sha256(chosen, spec.tasks),
        "features": "embedding",
        "cross_fitted": len(pairs) > 1,
        "points": sum(pair.estimators.record["points"] for pair in pairs),
        "censored": [pair.estimators.record["censored"] for pair in pairs],
        "networks": [{"sha256": pair.network.sha256, "training": dict(pair.network.record)} for pair in pairs],
        "misoxr_version": __version__,
        **simulated(ds, points),
    }
    return EmbeddedModel.of(pairs, record)


def halves(spec: ModelSpec, xy: Any, labels: Mapping[str, Any], seed: int) -> tuple[npt.NDArray[np.bool_], ...]:
    """Part points in two, by whole blocks, for cross-fitting: the estimators' points, of the first pair and of the second.

    Parameters
    ----------
    xy : array (point, 2)
        Where they lie, in the CRS of the cube.
    labels : mapping of str to array (point,)
        Codes or values by task, NaN where unknown.

    Raises
    ------
    PointsError
        If nothing can be learnt of a task in one half.
    """
    half = separate(xy, fraction=0.5, size=4 * spec.windows.size * spec.pixel_size, seed=seed)
    for held in (half, ~half):
        try:
            for task in spec.tasks:
                known = labels[task.name][held]
                check_labels(task, known[np.isfinite(known)])
        except PointsError as error:
            raise PointsError(_told_of_halves(held, error)) from error
    return half, ~half


def _told_of_halves(held: npt.NDArray[np.bool_], error: PointsError) -> str:
    return (
        f"An embedding is cross-fitted: the network learns from {(~held).sum()} of the {len(held)} points, and the estimators "
        f"from the other {held.sum()}, and then the other way round. With one half: {error}"
    )


def _in_folder(settings: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return settings with a directory of its own for each network."""
    directory = settings.get("directory")
    return dict(settings) if directory is None else {**settings, "directory": Path(os.fspath(directory)) / f"network{number}"}


def _fit_estimators(
    years: Years,
    geobox: GeoBox,
    network: Model,
    plain: Baseline,
    points: gpd.GeoDataFrame,
    *,
    seed: int,
    transfer: Any,
    censored: Censored = "drop",
    device: str = "auto",
    precision: str = "auto",
) -> PixelModel:
    """Fit estimators on a network's embedding at points."""
    labelled = Labelled.of(points, network.spec, geobox, censored, years=years)

    def seen_in(number: int, mine: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        places = labelled.rows[mine], labelled.columns[mine]
        return _embedded(years.cubes[number], geobox, network, *places, device, precision)

    embedding = by_layer(labelled.layer, seen_in)
    seen: npt.NDArray[np.bool_] = np.asarray(np.isfinite(embedding).all(axis=0))
    refuse_unseen(seen)
    table = np.concatenate([embedding, seen[None]]).astype("float32")
    fitted = fit_table(
        plain,
        embedding_spec(network.spec),
        table,
        labelled.labels,
        None,
        seed=seed % 2**32,
        transfer=transfer,
        weights=labelled.weights,
    )
    return replace(fitted, record={**fitted.record, "censored": dict(labelled.censored)})


def _embedded(
    cube: xr.Dataset, geobox: GeoBox, network: Model, rows: Any, columns: Any, device: str, precision: str
) -> npt.NDArray[np.float32]:
    """Embed points as a map does, by the windows around them: (feature, point), NaN where there is no valid input."""
    spec, target = network.spec, choose_device(device)
    kind = choose_precision(precision, target)
    windows = plan((geobox.shape.y, geobox.shape.x), spec.windows, lattice_offset(geobox))
    positions = Scatter(rows, columns)
    starts = positions.windows(windows)
    with cutouts_of(stack(cube, spec), starts, spec.windows.size) as cutouts:
        source = Crops(dict(zip(starts, cutouts.open(), strict=True)))
        model = resolve(network.address(), target, kind)
        return answer_positions(model, source, windows, positions, device=target, precision=kind, embeds=True)
