"""Add sets and intervals of a chosen coverage to a map, or to answers at points, lazily."""

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.base import tokenize
from dask.delayed import delayed

from misoxr.cube.variables import FILL
from misoxr.errors import SpecError, note
from misoxr.grid.halo import part_of
from misoxr.mapping.provenance import with_coverage
from misoxr.model.conformal import Conformal, check_coverage, draws
from misoxr.spec import Task

if TYPE_CHECKING:
    from misoxr.estimators.embedded import EmbeddedModel
    from misoxr.estimators.pixel_model import PixelModel
    from misoxr.model.checkpoint import Model

__all__ = ["errors_of", "refuse_several", "with_sets"]

Array = npt.NDArray[Any]
SLAB = 2**16
"""Pixels that are compared with the calibration points at once."""
_OUT = "layer of sets"
"""Index of what follows from the answers; no dimension of a task is called so."""
HOLDS = {
    "": "all points together",
    "class": "the points of each class",
    "region": "the points of each region; beyond all regions for all together",
}


def refuse_several(coverage: Any, count: int) -> None:
    """Refuse a coverage of an average of models, whose errors are not known."""
    if coverage is not None:
        raise SpecError(
            f"coverage is {coverage!r}, and the average of {count} models has no calibration scores; give one model of with_conformal(scores). "
            "A model with members (fit(members=5)) is one, and its sets are of the members' mean."
        )


def errors_of(model: "Model | PixelModel | EmbeddedModel", tasks: Sequence[Task], coverage: Any) -> Conformal | None:
    """Return what a model knows of its errors, None where no coverage is asked for; refuse a coverage that it cannot answer."""
    if coverage is None:
        return None
    wanted, errors = check_coverage(coverage), model.conformal
    if errors is None:
        raise SpecError(
            f"coverage is {wanted:g}, and the model has no calibration scores: give it those of a cross-validation, model.with_conformal(scores)."
        )
    missing = [task.name for task in tasks if task.name not in errors.tasks]
    if missing:
        raise SpecError(
            f"coverage is {wanted:g}, and the model has no calibration scores of {missing}; name the other tasks, tasks={list(errors.tasks)}."
        )
    return errors


def with_sets(answers: xr.Dataset, errors: Conformal, tasks: Sequence[Task], coverage: Any) -> xr.Dataset:
    """Add sets of classes and intervals of values to answers, lazily.

    Parameters
    ----------
    answers : Dataset
        Over (y, x), or along "point" with the coordinates x and y; with ``spatial_ref``.
    errors : Conformal
        What is known of the model's errors.
    tasks : sequence of Task
        Those that are answered.
    coverage : float
        Between 0 and 1.

    Returns
    -------
    Dataset
        The answers, and beside them ``<task>_set`` (class, ...) bool, ``<task>_set_size`` uint8, ``<task>_credibility`` and ``<task>_confidence``
        float32; of regressions ``<task>_lower`` and ``<task>_upper``.
    """
    coverage = float(coverage)
    added: dict[str, xr.DataArray] = {}
    carried = delayed(errors, name=f"conformal-{tokenize(errors)}", traverse=False)  # once in the graph
    crs = str(answers.spatial_ref.attrs["crs_wkt"])
    for task in tasks:
        _tell_few(errors, task, coverage)
        placed = errors.by_of(task) == "region" or (task.kind != "regression" and errors.method != "plain")
        layers = _layers(answers, task, placed, errors=carried, coverage=coverage, crs=crs)
        attrs = _attributes(errors, task, coverage)
        make = _interval if task.kind == "regression" else _set
        added |= make(layers, answers, task, attrs)
    out = answers.assign(added)
    for array in (out[name] for name in added):
        if {"y", "x"} <= set(array.dims):
            array.attrs["grid_mapping"] = "spatial_ref"
    out.attrs = with_coverage(answers.attrs, coverage, {"method": errors.method, "by": errors.by, **errors.about})
    return out


def _layers(answers: xr.Dataset, task: Task, placed: bool, **told: Any) -> da.Array:
    """Lay out what follows from the answers to a task and, if it counts, from where they are: (layer, ...)."""
    array = answers[task.name if task.kind == "regression" else f"{task.name}_probability"]
    dims = [str(dim) for dim in array.dims if dim != task.dim]
    data = array.data.rechunk({0: -1}) if task.kind == "multiclass" else array.data
    given: list[Any] = [data, ([task.dim] if task.kind == "multiclass" else []) + dims]
    if placed:
        chunks = dict(zip(dims, data.chunks[-len(dims) :], strict=True))
        for name in ("y", "x"):
            dim = name if name in dims else "point"
            given += [da.from_array(np.asarray(answers[name].values, dtype="float64"), chunks[dim]), [dim]]
    count = 2 if task.kind == "regression" else len(task.classes) + 3
    kind = array.dtype if task.kind == "regression" else np.dtype("float32")
    layers: da.Array = da.blockwise(
        _intervals if task.kind == "regression" else _sets,
        [_OUT, *dims],
        *given,
        new_axes={_OUT: count},
        concatenate=True,
        dtype=kind,
        meta=np.empty((0,) * (1 + len(dims)), kind),
        task=task,
        **told,
    )
    return layers


def _set(layers: da.Array, answers: xr.Dataset, task: Task, attrs: dict[str, Any]) -> dict[str, xr.DataArray]:
    """Name the layers of classes, size, credibility and confidence."""
    count, words = len(task.classes), task.long_name or task.name
    dims = answers[task.name].dims
    coordinate = xr.Variable(task.class_dim, np.asarray(task.classes, dtype=object), {"long_name": f"class of {task.name}"})
    held = da.map_blocks(_as_held, part_of(layers, slice(0, count)), dtype=bool, meta=np.empty((0,) * layers.ndim, bool))
    size = da.map_blocks(_as_size, part_of(layers, count), dtype="uint8", meta=np.empty((0,) * (layers.ndim - 1), "uint8"))
    flags = {
        "flag_values": np.arange(count + 1, dtype="uint8"),
        "flag_meanings": " ".join(["empty", "1_class", *(f"{number}_classes" for number in range(2, count + 1))]),
        "_FillValue": np.uint8(FILL),
    }
    names, share = task.conformal, f"{100 * attrs['coverage']:g} %"
    set_attrs = {
        "long_name": f"whether the class is in the {share} prediction set of {words}",
        "ancillary_variables": names[1],
        **attrs,
    }
    found = {
        names[0]: xr.DataArray(held, dims=(task.class_dim, *dims), coords={task.class_dim: coordinate}, attrs=set_attrs),
        names[1]: xr.DataArray(
            size, dims=dims, attrs={"long_name": f"classes in the {share} prediction set of {words}", **flags, **attrs}
        ),
    }
    for name, at, long_name in (
        (names[2], count + 1, f"credibility of {words}: greatest p-value of a class"),
        (names[3], count + 2, f"confidence in {words}: 1 less the second greatest p-value"),
    ):
        found[name] = xr.DataArray(part_of(layers, at), dims=dims, attrs={"long_name": long_name, "units": "1", **attrs})
    return found


def _interval(layers: da.Array, answers: xr.Dataset, task: Task, attrs: dict[str, Any]) -> dict[str, xr.DataArray]:
    """Name the layers of an interval's ends."""
    found, share = {}, f"{100 * attrs['coverage']:g} %"
    for at, (name, end) in enumerate(zip(task.conformal, ("lower", "upper"), strict=True)):
        long_name = f"{end} end of the {share} prediction interval of {task.long_name or task.name}"
        own = {"long_name": long_name, "units": task.units, **attrs}
        found[name] = xr.DataArray(part_of(layers, at), dims=answers[task.name].dims, attrs=own)
    return found


def _attributes(errors: Conformal, task: Task, coverage: float) -> dict[str, Any]:
    """Say what a set or interval promises, to whom, and by which points."""
    about = errors.about
    attrs: dict[str, Any] = {
        "coverage": coverage,
        "coverage_holds_for": HOLDS[errors.by_of(task)],
        "conformal_method": "absolute error" if task.kind == "regression" else errors.method,
        "calibration_points": round(errors.tasks[task.name].all.points),
        "calibration_folds": str(about.get("cv", "")),
    }
    if about.get("simulated"):
        attrs |= {"simulated": 1, "comment": "Simulated: the calibration points come from a simulator, not from measurements."}
    return attrs


def _tell_few(errors: Conformal, task: Task, coverage: float) -> None:
    """Warn of groups with too few points for a coverage."""
    needed, names = ceil(coverage / (1 - coverage) - 1e-9), errors.groups_of(task)
    ranked = [errors.ranked(task, group) for group in range(len(names))]
    few = {name: round(one.points) for name, one in zip(names, ranked, strict=True) if one.rank(coverage) > one.points}
    if not few:
        return
    by = errors.by_of(task)
    there = f"{few['']}" if by == "" else f"fewer for {few}"
    what = (
        "intervals are infinite"
        if task.kind == "regression"
        else "these classes are in every set"
        if by == "class"
        else "sets hold all classes"
    )
    note(
        f"A coverage of {coverage:g} of {task.name!r} needs {needed} calibration points, and there are {there}: {what}{' there' * (by == 'region')}."
    )


# ---- blocks


def _sets(values: Array, *places: Array, errors: Conformal, task: Task, coverage: float, crs: str) -> Array:
    """Return sets, their size, credibility and confidence: (class, ...) or, of a binary task, (...) -> (class + 3, ...), NaN where there is no answer."""
    shape, count = values.shape[-_axes(values, task) :], len(task.classes)
    flat = values.reshape(-1, int(np.prod(shape)))
    out = np.full((count + 3, flat.shape[1]), np.nan, dtype="float32")
    valid = np.flatnonzero(np.isfinite(flat).all(axis=0))
    for start in range(0, len(valid), SLAB):
        mine = valid[start : start + SLAB]
        some = flat[:, mine].T.astype("float64")  # (point, output)
        probability = np.concatenate([1 - some, some], axis=1) if task.kind == "binary" else some
        x, y = _at(places, shape, mine)
        region = _region(errors, task, x, y, crs)
        draw = draws(x, y, crs) if errors.method != "plain" else None
        held, p_values = errors.sets(task, probability, coverage, region, draw)
        greatest = np.partition(p_values, count - 2, axis=1)
        out[:count, mine], out[count, mine] = held.T, held.sum(axis=1)
        out[count + 1, mine], out[count + 2, mine] = greatest[:, -1], 1 - greatest[:, -2]
    return out.reshape(-1, *shape)


def _intervals(values: Array, *places: Array, errors: Conformal, task: Task, coverage: float, crs: str) -> Array:
    """Return the ends of intervals: (...) -> (2, ...), NaN where there is no answer."""
    flat = values.ravel()
    out = np.full((2, flat.size), np.nan, dtype=values.dtype)
    valid = np.flatnonzero(np.isfinite(flat))
    for start in range(0, len(valid), SLAB):
        mine = valid[start : start + SLAB]
        widths = errors.half_widths(task, len(mine), coverage, _region(errors, task, *_at(places, values.shape, mine), crs))
        middle = flat[mine].astype("float64")
        out[0, mine], out[1, mine] = middle - widths, middle + widths
    return out.reshape(2, *values.shape)


def _axes(values: Array, task: Task) -> int:
    return values.ndim - (task.kind == "multiclass")


def _at(places: Sequence[Array], shape: tuple[int, ...], mine: npt.NDArray[np.intp]) -> tuple[Any, Any]:
    """Return x and y of some pixels or points of a block; nothing where it does not matter."""
    if not places:
        return None, None
    y, x = places
    if len(shape) == 1:
        return x[mine], y[mine]
    rows, columns = np.unravel_index(mine, shape)
    return x[columns], y[rows]


def _region(errors: Conformal, task: Task, x: Any, y: Any, crs: str) -> npt.NDArray[np.intp] | None:
    return errors.polygons.at(x, y, crs) if errors.polygons is not None and errors.by_of(task) == "region" else None


def _as_held(layers: Array) -> npt.NDArray[np.bool_]:
    return np.asarray(layers == 1)


def _as_size(layer: Array) -> npt.NDArray[np.uint8]:
    return np.where(np.isnan(layer), FILL, layer).astype("uint8")
