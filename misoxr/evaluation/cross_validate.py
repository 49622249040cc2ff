"""Cross-validate on a datacube: fit each model on each fold and seed, and gather the answers at test points."""

import gc
import inspect
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import replace
from itertools import product
from pickle import PicklingError, dumps, loads
from typing import Any

import dask.array as da
import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from scipy.spatial import cKDTree

from misoxr._version import __version__
from misoxr.clusters import cores, here, holds_futures, is_closed, kept, take_share, while_open
from misoxr.cube.check import check, named
from misoxr.cube.features import values_at
from misoxr.cube.scaling import valid_pixels
from misoxr.errors import (
    BandError,
    MisoxrError,
    PointsError,
    SpecError,
    did_you_mean,
    flush,
    gathered,
    heard,
    note,
    overheard,
    require,
)
from misoxr.estimators.baselines import embeds, is_baseline, trains
from misoxr.estimators.embedded import EmbeddedModel
from misoxr.estimators.identity import identity
from misoxr.evaluation.cache import Cache, Unit, fingerprint, imagery_sha256, reach_seen, squares_seen
from misoxr.evaluation.estimators import check_models, common_tasks, estimators_of, specs_of
from misoxr.evaluation.pace import in_turns, time_left
from misoxr.evaluation.scores import Scores, stacked
from misoxr.grid.geobox import geobox_of
from misoxr.mapping.predict_at import predict_at
from misoxr.model.checkpoint import Model, forget
from misoxr.points.censoring import Censored, observed
from misoxr.points.read import encode, place, regions_of, simulated
from misoxr.points.splits import folds_of, read_for, splitter_of, told_apart
from misoxr.points.years import Years, by_layer, date_of
from misoxr.records.bars import Bar
from misoxr.spec import ModelSpec, Recipe, Task
from misoxr.spec.components import check_flags
from misoxr.spec.numbers import is_whole
from misoxr.training.embedded import halves
from misoxr.training.fit import fit
from misoxr.training.settings import check_held, held_out
from misoxr.training.teaching import teachers_of

__all__ = ["cross_validate"]

Indices = npt.NDArray[np.intp]
NUMBER = "misoxr:number"
"""Column that follows points while some are left out."""


@gathered
def cross_validate(
    ds: xr.Dataset,
    estimators: Any,
    points: gpd.GeoDataFrame,
    *,
    cv: Any = 5,
    tasks: Sequence[str | Task] | None = None,
    seeds: int | Sequence[int] = (0,),
    regions: gpd.GeoDataFrame | None = None,
    region: str | None = None,
    store: str | os.PathLike[str] | None = None,
    client: Any = None,
    n_jobs: int | None = None,
    progress: bool = True,
    **settings: Any,
) -> Scores:
    """Fit and score models on folds of labelled points.

    Each model is fitted on the labels of a fold's training points alone, with each seed; its validation and calibration use these points, too. It
    then answers at the fold's test points. With ``unlabelled`` above 0, imagery without labels comes from the whole cube.

    Parameters
    ----------
    ds : Dataset
        The cube, as for :func:`misoxr.mapping.predict.predict`. A persisted cube is fetched from its cluster whole.
    estimators : estimator, list or mapping
        What to compare: names of presets or baselines ("miso-nano", "rf-11"), specifications, baselines or scikit-learn estimators. A mapping
        gives them names. A pair (estimator, dict) has settings of its own, for :func:`misoxr.training.fit.fit`.
    points : GeoDataFrame
        As for :func:`misoxr.training.fit.fit`. Points outside the cube, or without valid imagery, are left out with a warning.
    cv : splitter, int or list, optional
        One of misoxr's splitters (:class:`misoxr.ClusterKFold`) or of others', which get x and y (point, 2) alone; or a list of folds. A
        number stands for that many random folds, which say little of remote places. Coordinates are in the cube's CRS.
    tasks : sequence of str or Task, optional
        What all models learn, as for :func:`misoxr.training.fit.fit`.
    seeds : int or sequence of int, optional
        Seeds of the models; each model is fitted once with each. A number stands for that many, from 0.
    regions : GeoDataFrame, optional
        Polygons for scores by region, such as permafrost zones, in their own CRS. Where they overlap, the first counts; a point in none is in the
        region "none".
    region : str, optional
        Column with the regions' names; by default "name", and their index without one.
    store : path or URL, optional
        Directory for the predictions of each fold, as Parquet. Folds that are there are not run again, if points, folds, models, settings and the
        imagery around the points are the same. Of the imagery, all that a model sees of the points is compared: for an estimator that takes bands
        as they are, the pixel, or 15 x 15 pixels for "neighbourhood"; for all others, every pixel of the windows around the points, which are read
        once more for it. What networks and teachers draw from elsewhere in the cube is not compared.
    client : distributed.Client, optional
        A Dask cluster that runs the folds, one in each task.
    n_jobs : int, optional
        Number of folds to run at once on this machine, each in a process of its own, with its share of the cores; -1 runs one on each core. By default they run one after
        another here. Processes end with the call. Each needs about 1 GB for its libraries; a cube in memory is copied once, for all of them.
    progress : bool, optional
        Show one bar: the fits that are done (a model, seed and fold each), cached ones among them, what runs now, and the time left by each model's own pace.
    **settings
        Further settings of :func:`misoxr.training.fit.fit` for the networks, except ``tasks``, ``seed``, ``directory`` and a table of validation points.
        ``transfer``, ``censored`` and ``tolerance`` also hold for baselines, so that all learn the same labels, and ``like`` for baselines alone. Right-censored labels are never scored, unless
        ``censored="keep"`` is given here; a model's own ``censored`` says only what it learns.

    Returns
    -------
    Scores
        Predictions at all test points, and the scores that follow from them. Printed, it also tells how far each network is ahead of the best
        baseline (:meth:`misoxr.Scores.differences`).

    Raises
    ------
    PointsError
        If there are too few points or clusters for the folds, a fold lacks labels to learn from, given folds would shift because points are
        dropped, or regions do not overlap the points.
    GridError
        If the cube is smaller than a network's window.
    SpecError
        If models differ in tasks, have the same name, or a setting is unknown; with ``n_jobs``, if a process is ended from outside, or a model
        cannot be sent to one.
    StoreError
        If the store holds folds of other points, folds or settings, or a damaged file.

    Examples
    --------
    >>> scores = image.miso.cross_validate(["rf-11", "rf-coordinates"], points, cv=misoxr.BlockKFold(1_000))
    >>> table = scores.to_dataframe()
    >>> difference = scores.compare("rf-11", "rf-coordinates", "macro_f1", "permafrost")
    """
    check_flags(progress=progress)
    if not isinstance(store, str | os.PathLike | None):
        raise SpecError(f"store is {store!r}; give a path or a URL.")
    if client is not None and not hasattr(client, "submit"):
        raise SpecError(f"client is {client!r}; give a distributed.Client.")
    if is_closed(client):
        raise SpecError("The client is closed; give one that runs, or leave client out to compute here.")
    processes = _processes(n_jobs, client)
    for name in settings:
        if name not in NETWORKS and (hint := did_you_mean(name, (*OWN, *NETWORKS))):
            raise SpecError(f"cross_validate has no argument {name!r}.{hint}")
    chosen = estimators_of(estimators, settings, OWN)
    seeds = _seeds(seeds)
    points = read_for(points, cv)
    specs = specs_of(chosen, ds, points, tasks)
    tasks = common_tasks(specs)
    recipes = check_models(chosen, specs, seeds, geobox_of(ds), elsewhere=client is not None)
    points = told_apart(points)
    rules: set[Censored] = {options.get("censored", "drop") for _, options in chosen.values()}
    apart = {options.get("tolerance") for _, options in chosen.values()}
    if len(apart) > 1:
        raise SpecError("Models differ in tolerance, and would learn from other points; give it to cross_validate itself.")
    scoring: Censored = "keep" if settings.get("censored") == "keep" else "drop"
    tolerance = apart.pop()
    placed, labels, usable = _usable(ds, specs, points, tasks, scoring, learnt=rules, tolerance=tolerance)
    folds = folds_of(cv, points.to_crs(placed.crs), usable)
    _check_folds(folds, tasks, labels)
    for name, recipe in recipes.items():
        _check_validation(name, specs[name], recipe, *chosen[name], seeds, folds, placed, labels)
    parts = _regions(placed, regions, region)
    units = [Unit(name, seed, fold) for name in chosen for seed in seeds for fold in range(len(folds))]
    if not units:
        raise SpecError(
            f"There is nothing to run: {len(chosen)} models, {len(seeds)} seeds and {len(folds)} folds; give one or more of each."
        )
    imagery = {} if store is None else _imagery(ds, chosen, specs, placed, tolerance)
    cache = Cache(store, {} if store is None else fingerprint(ds, chosen, specs, imagery, placed, labels, folds))
    found = {unit: cache.read(unit) for unit in units}
    flush()
    todo = in_turns([unit for unit in units if found[unit] is None])

    def arguments(unit: Unit) -> tuple[Any, ...]:
        (estimator, options), spec = chosen[unit.model], specs[unit.model]
        if is_baseline(estimator):
            what = estimator, {**options, "like": spec}
        elif embeds(estimator):  # of a preset's name the specification, as for all points
            what = replace(estimator, network=spec) if trains(estimator) else estimator, {"progress": False, **options}
        else:
            what = spec, {"progress": False, **options}
        return *what, placed, *folds[unit.fold], unit.seed

    processes = max(1, min(processes, len(todo)))
    at_once = max(1, sum(client.nthreads().values())) if hasattr(client, "nthreads") else processes
    with Bar("cross_validate", "fits", shown=progress) as bar:
        bar.begin(len(units), len(units) - len(todo), told=True)
        bar.tell(time_left(found, at_once))
        for unit, answers in _run(todo, ds, arguments, client, processes, bar.stage):
            found[unit] = answers
            cache.write(unit, answers)
            bar.tell(time_left(found, at_once), now=False)
            bar.update()
        bar.stage()
    about = {
        "cv": repr(splitter_of(cv)),
        "seeds": seeds,
        "points": len(placed),
        "censored": scoring,
        "baselines": [name for name, (estimator, _) in chosen.items() if is_baseline(estimator)],
        "misoxr_version": __version__,
        "simulated": bool(simulated(ds, points)),
        "identities": {name: _identity(specs[name], *chosen[name]) for name in chosen},
        "distance": _distances(placed, folds),
        "crs": placed.crs.to_wkt(),
    }
    tables = [_tidy(answers, unit, tasks, labels, parts, placed) for unit, answers in found.items() if answers is not None]
    return Scores.joined(tables, tasks, about)


NETWORKS = {*inspect.signature(fit).parameters, *Recipe.__dataclass_fields__}
"""Settings of networks."""
OWN = [name for name in inspect.signature(cross_validate).parameters if name not in ("ds", "settings")]
"""Its arguments, for who misspells one."""


def _seeds(seeds: Any) -> list[int]:
    """Return the seeds, each once."""
    if is_whole(seeds):
        return list(range(int(seeds)))
    several = list(seeds) if isinstance(seeds, Sequence | np.ndarray) and not isinstance(seeds, str) else [seeds]
    if not all(is_whole(seed) and int(seed) >= 0 for seed in several) or len(set(several)) < len(several):
        raise SpecError(f"seeds is {seeds!r}; give a number of seeds, or different whole numbers from 0.")
    return [int(seed) for seed in several]


def _usable(
    ds: xr.Dataset,
    specs: Mapping[str, ModelSpec],
    points: gpd.GeoDataFrame,
    tasks: Sequence[Task],
    scoring: Censored,
    *,
    learnt: set[Censored],
    tolerance: int | None,
) -> tuple[gpd.GeoDataFrame, dict[str, Any], Indices]:
    """Return the points that every model can answer, with a label, in the cube's CRS; the labels to score; and where they stand among all.

    Points whose labels are all censored are among them where a model learns from these.
    """
    numbered = points.assign(**{NUMBER: np.arange(len(points))})
    placed, rows, columns = place(numbered, geobox_of(ds))
    labels = observed(placed.drop(columns=NUMBER), tasks, scoring).labels
    told = labels if learnt == {"drop"} else encode(placed.drop(columns=NUMBER), tasks)
    usable = np.any([np.isfinite(values) for values in told.values()], axis=0)
    read: dict[Any, Any] = {}
    for spec in specs.values():
        years = Years.of(named(ds, spec), spec, tolerance)
        check(years.cubes[0], spec)
        layer = years.matched(date_of(placed), len(placed))
        usable &= layer >= 0
        if spec.bands not in read:
            read[spec.bands] = _values(years.stacked(spec), layer.clip(0), rows, columns)
        usable &= valid_pixels(spec, read[spec.bands])
    if not usable.any():
        raise BandError(f"None of the {len(placed)} points has a label and lies where the cube has a valid pixel.")
    if not usable.all():
        words = f"{(~usable).sum()} of {len(placed)} points have no label, or no valid imagery, and are left out."
        note(words)
    places = placed[NUMBER].to_numpy()[usable]
    return placed[usable].drop(columns=NUMBER), {name: values[usable] for name, values in labels.items()}, places


def _imagery(
    ds: xr.Dataset, chosen: Mapping[str, Any], specs: Mapping[str, ModelSpec], points: gpd.GeoDataFrame, tolerance: int | None
) -> dict[str, str]:
    """Return for each model a hash of all pixels that it sees of the points."""
    geobox, found, keys = geobox_of(ds), {}, {}
    _, rows, columns = place(points, geobox)
    for name, spec in specs.items():
        reach = reach_seen(*chosen[name])
        keys[name] = spec.bands, reach, spec.windows.size if reach is None else None
        if keys[name] not in found:  # models that see the same share it
            years = Years.of(named(ds, spec), spec, tolerance)
            layer = years.matched(date_of(points), len(points))
            squares = squares_seen(rows, columns, layer, geobox, reach, spec.windows.size)
            found[keys[name]] = imagery_sha256(years.stacked(spec), *squares)
    return {name: found[key] for name, key in keys.items()}


def _values(bands: Sequence[da.Array], layer: Any, rows: Any, columns: Any) -> Any:
    """Compute each year's bands at the pixels that hold the positions of that year: (band, point)."""
    return by_layer(layer, lambda number, mine: values_at(bands[number], rows[mine], columns[mine]))


def _check_folds(folds: Sequence[tuple[Indices, Indices]], tasks: Sequence[Task], labels: Mapping[str, Any]) -> None:
    """Refuse folds that leave nothing to learn of a task, before hours are spent on others."""
    for number, (train, _) in enumerate(folds):
        for task in tasks:
            known = labels[task.name][train]
            known = known[np.isfinite(known)]
            if not len(known):
                raise PointsError(f"The training points of fold {number} have no label of {task.name!r}; use other folds.")
            if task.kind != "regression" and len(np.unique(known)) < 2:
                only = task.classes[int(known[0])]
                raise PointsError(
                    f"The {len(known)} training labels of {task.name!r} in fold {number} are all {only!r}; use other folds, or points."
                )


def _check_validation(
    name: str,
    spec: ModelSpec,
    recipe: Recipe,
    estimator: Any,
    options: Mapping[str, Any],
    seeds: Sequence[int],
    folds: Sequence[tuple[Indices, Indices]],
    points: gpd.GeoDataFrame,
    labels: Mapping[str, Any],
) -> None:
    """Refuse validation points that leave a network nothing to learn, or nothing to choose an epoch by; and such halves of cross-fitting."""
    xy = np.stack([points.geometry.x, points.geometry.y], axis=-1)
    val, spared = (
        options.get("val"),
        bool(teachers_of(options.get("teacher", "auto"), spec)) and recipe.criterion == "last" and options.get("val") is None,
    )
    for seed, (number, (train, _)) in product(seeds, enumerate(folds)):
        mine = {task: values[train] for task, values in labels.items()}
        try:
            parts = halves(spec, xy[train], mine, seed) if embeds(estimator) else (np.zeros(len(train), dtype=bool),)
            for other in parts:  # points that a network's estimators learn from, and it does not
                learnt = {task: values[~other] for task, values in mine.items()}
                held = held_out(spec, xy[train][~other], val, seed, spared=spared)
                check_held(spec, learnt, held, recipe.criterion, spared=spared)
        except PointsError as error:
            raise PointsError(f"In fold {number} of {name!r}, seed {seed}: {error}") from error


def _identity(spec: ModelSpec, estimator: Any, options: Mapping[str, Any]) -> str:
    members = options.get("members")
    return identity(estimator, spec if members is None else replace(spec, members=members), options.get("scaling"))


def _distances(points: gpd.GeoDataFrame, folds: Sequence[tuple[Indices, Indices]]) -> dict[str, float]:
    """Return how far test points lie from the nearest training point of their fold, and all points from the nearest other: least and medians."""
    xy = np.stack([points.geometry.x, points.geometry.y], axis=-1)
    found = np.concatenate([np.asarray(cKDTree(xy[train]).query(xy[test])[0]) for train, test in folds])
    others = np.asarray(cKDTree(xy).query(xy, k=2)[0])[:, 1]
    return {"least": float(found.min()), "median": float(np.median(found)), "between": float(np.median(others))}


def _regions(points: gpd.GeoDataFrame, regions: gpd.GeoDataFrame | None, column: str | None) -> npt.NDArray[Any]:
    """Return the region of each point, "none" for those in no polygon; None each without regions."""
    if regions is None:
        if column is not None:
            raise PointsError(f"region is {column!r} and there are no regions; give both, or neither.")
        return np.full(len(points), None, dtype=object)
    groups, names = regions_of(points, regions, column)
    taken = [name for name, most in (("all", 0), ("none", 1)) if names.count(name) > most]
    if taken:
        raise PointsError(f"A region is named {taken[0]!r}, as all points are in the scores, or those in no region; rename it.")
    return groups.to_numpy()


def _processes(n_jobs: Any, client: Any) -> int:
    """Return how many processes of this machine run folds; 1 is this process."""
    if n_jobs is None:
        return 1
    if not is_whole(n_jobs) or (int(n_jobs) < 1 and int(n_jobs) != -1):
        raise SpecError(f"n_jobs is {n_jobs!r}; give the number of folds to run at once, or -1 for one on each core.")
    if client is not None:
        raise SpecError(f"n_jobs is {n_jobs} beside a client, whose workers run the folds; leave n_jobs out.")
    # joblib also knows the limits of a container.
    return min(cores(), require("joblib", "train").cpu_count()) if int(n_jobs) == -1 else int(n_jobs)


def _run(
    units: Sequence[Unit], ds: xr.Dataset, arguments: Any, client: Any, processes: int, say: Callable[[str], None]
) -> Iterator[tuple[Unit, Any]]:
    """Run the units, here, in processes beside this one or on a cluster, and yield each with its answers as it is done; say which one runs."""
    if not units:
        return

    def held() -> xr.Dataset:
        """The cube, as a fold can read it by itself: not from workers of a cluster, as what is persisted."""
        return ds.compute() if holds_futures(ds) else ds

    if client is None and processes > 1:
        yield from _beside(units, held(), arguments, processes, say)
        return
    if client is None:
        cube = held()
        for unit in units:
            say(f"{unit.model}, seed {unit.seed}, fold {unit.fold}")
            try:
                answers = _answers(cube, *arguments(unit))
            except Exception as error:
                error.add_note(_where(unit))
                raise
            yield unit, answers
        return
    from distributed import as_completed

    closed = SpecError(
        "The client was closed before all folds were done. Start one, and call again: with store=, folds that are done are kept."
    )
    with while_open(client, closed):
        cube = kept(client, held)  # not sent along with each fold
        futures = {client.submit(_answers, cube, *arguments(unit), pure=False): unit for unit in units}
        for future, answers in as_completed(futures, with_results=True):
            yield futures[future], answers


def _beside(
    units: Sequence[Unit], cube: xr.Dataset, arguments: Any, processes: int, say: Callable[[str], None]
) -> Iterator[tuple[Unit, Any]]:
    """Run the units in processes of this machine, which share its cores, and yield each with its answers as it is done."""
    loky = require("joblib.externals.loky", "train")
    parallel = require("joblib", "train").Parallel(processes, backend="loky", return_as="generator_unordered")
    say(f"{processes} folds at once")
    share = max(1, cores() // processes)
    runs = parallel((_sent, (share, unit, cube, *arguments(unit)), {}) for unit in units)
    before: set[Any] = set()
    try:
        for unit, answers, notes, foreign in runs:
            heard(notes, foreign, before)
            yield unit, answers
    except loky.process_executor.TerminatedWorkerError as error:
        raise SpecError(
            f"A process that ran a fold was ended from outside, most likely because memory ran out: there were {processes} at once. "
            "Give a smaller n_jobs. With store=, the folds that are done are kept."
        ) from error
    except (BrokenExecutor, PicklingError) as error:
        raise SpecError(
            f"A model cannot be sent to another process ({error}). Define it in a module that can be imported, or leave n_jobs out."
        ) from error
    except Exception as error:
        notes, foreign = error.__dict__.pop("overheard", ({}, ()))
        heard(notes, foreign, before)
        raise
    finally:  # workers would stay for minutes, and hold their libraries and the cube
        runs.close()
        loky.get_reusable_executor(reuse=True).shutdown()


def _sent(share: int, unit: Unit, *arguments: Any) -> tuple[Any, ...]:
    """Return a unit, and its answers by a share of the cores, with what there is to say: nobody reads the warnings of this process."""
    take_share(share)
    try:
        return unit, *overheard(_answers, *arguments)
    except Exception as error:
        error.add_note(_where(unit))
        try:
            loads(dumps(error))
        except Exception:  # an error of others that cannot travel; its words can
            told = MisoxrError(f"{type(error).__name__}: {error}")
            told.__dict__.update(overheard=error.__dict__.get("overheard", ({}, [])), __notes__=[_where(unit)])
            raise told from None
        raise
    finally:
        gc.collect()  # a cycle would hold the cube's shared memory


def _where(unit: Unit) -> str:
    return f"It was raised by {unit.model!r}, seed {unit.seed}, fold {unit.fold}."


def _answers(
    ds: xr.Dataset, what: Any, options: Mapping[str, Any], points: gpd.GeoDataFrame, train: Indices, test: Indices, seed: int
) -> pd.DataFrame:
    """Fit on the training points of a fold, and answer at its test points: columns (task, output), a row for each test point."""
    start = time.perf_counter()
    model = fit(ds, what, points.iloc[train], seed=seed, **options)
    # Labels stay behind: where to answer is all that a model is told of the test points.
    hardware = {name: options[name] for name in ("device", "precision") if name in options}
    places = points.iloc[test][[points.geometry.name, *(["date"] if "date" in points else [])]]
    answers = predict_at(ds, model, places, tolerance=options.get("tolerance"), **hardware).compute(**here())
    if isinstance(model, Model):
        forget(model)  # nobody asks for a fold's network again
    elif isinstance(model, EmbeddedModel) and trains(what):
        for pair in model.pairs:
            forget(pair.network)
    columns: dict[str, Any] = {}
    for task in model.spec.tasks:
        values = answers[task.name if task.kind == "regression" else f"{task.name}_probability"]
        table = values.transpose("point", ...).to_numpy().reshape(len(test), -1)
        columns |= {f"{task.name}:{k}": table[:, k] for k in range(task.outputs)}
    return pd.DataFrame({"test": test, **columns, "seconds": time.perf_counter() - start})


def _tidy(
    answers: pd.DataFrame, unit: Unit, tasks: Sequence[Task], labels: Mapping[str, Any], regions: Any, points: gpd.GeoDataFrame
) -> pd.DataFrame:
    parts = []
    test = answers["test"].to_numpy()
    widest = max(task.outputs for task in tasks)
    for task in tasks:
        truth = labels[task.name][test]
        known = np.isfinite(truth)
        values = {f"p{k}": answers[f"{task.name}:{k}"].to_numpy()[known] if k < task.outputs else np.nan for k in range(widest)}
        there = points.iloc[test[known]]
        base = {"model": unit.model, "seed": unit.seed, "fold": unit.fold, "task": task.name, "point": there.index}
        base |= {"x": there.geometry.x.to_numpy(), "y": there.geometry.y.to_numpy(), "region": regions[test][known]}
        parts.append(pd.DataFrame({**base, "truth": truth[known], **values, "seconds": answers["seconds"].iloc[0]}))
    return stacked(parts)
