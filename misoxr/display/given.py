"""What is given to a report beside the maps: whether it belongs to them, told before anything is computed."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr.cube.decode import decoded, flags_of
from misoxr.display.scored import mapped_model
from misoxr.errors import BandError, GridError, PointsError, SpecError, did_you_mean
from misoxr.evaluation.scores import Scores
from misoxr.grid.geobox import extent, geobox_of, same_grid
from misoxr.spec import Task
from misoxr.spec.words import flag_word

__all__ = ["Tables", "applicable_of", "bands_of", "classes_of", "model_of", "tables_of", "tasks_of"]

Tables = pd.DataFrame | Mapping[str, pd.DataFrame]
"""A table, or tables by the maps that they are of."""
_NO_TASK = ("excluded", "applicable")
"""Maps with flags that are no task."""
_NO_CLASS = ("all", "nodata")
"""Rows that are of no class."""


def classes_of(maps: xr.Dataset) -> dict[str, list[str]]:
    """Return the class maps and the names of their classes, as ``flag_meanings`` spells them."""
    return {name: names for name, names in _flags(maps).items() if name not in _NO_TASK}


def _flags(maps: xr.Dataset) -> dict[str, list[str]]:
    return {str(name): flags_of(one)[1] for name, one in maps.data_vars.items() if "flag_meanings" in one.attrs}


def tasks_of(maps: xr.Dataset, scores: Scores) -> list[Task]:
    """Return the tasks of scores that are mapped.

    Raises
    ------
    PointsError
        If there is none, or a task has other classes than its map.
    """
    if not isinstance(scores, Scores):
        raise PointsError(f"scores is a {type(scores).__name__}; give what cross_validate returns, or misoxr.Scores.load.")
    classes, tasks = classes_of(maps), [task for task in scores.tasks if task.name in maps.data_vars]
    if not tasks:
        raise PointsError(
            f"The scores are of the tasks {[task.name for task in scores.tasks]}, and the maps are {list(maps.data_vars)}: none of these is "
            "scored. Give the scores of the mapped tasks."
        )
    for task in tasks:
        ours, theirs = classes.get(task.name, []), [flag_word(name) for name in task.classes]
        if ours != theirs:
            raise PointsError(
                f"The scores of {task.name!r} are of the classes {theirs}, and its map of {ours}; give the scores of the mapped classes."
            )
    return tasks


def model_of(maps: xr.Dataset, scores: Scores, model: str | None) -> tuple[str, bool]:
    """Return the model that is shown, and whether it is known to have made the maps.

    Raises
    ------
    PointsError
        If it is not among the scores.
    """
    if model is None:
        return mapped_model(maps, scores)
    if model not in scores.models:
        raise PointsError(
            f"There is no model {model!r} among the scores; there are {scores.models}.{did_you_mean(model, scores.models)}"
        )
    return model, True


def applicable_of(maps: xr.Dataset, given: xr.Dataset | None, box: GeoBox) -> xr.Dataset:
    """Return the maps with what is given of their applicability.

    Raises
    ------
    GridError
        If it lies on another grid.
    SpecError
        If it lacks ``applicable``, or the maps have it, too.
    """
    if given is None:
        return maps
    if not isinstance(given, xr.Dataset) or "applicable" not in given:
        found = list(given.data_vars) if isinstance(given, xr.Dataset) else type(given).__name__
        raise SpecError(f"applicability is {found} and has no 'applicable'; give what image.miso.applicability returns.")
    twice = [str(name) for name in given.data_vars if name in maps.data_vars]
    if twice:
        raise SpecError(f"{twice} are both in the maps and in applicability=; give them once.")
    if not same_grid(geobox_of(given), box):
        raise GridError(
            f"applicability covers {extent(geobox_of(given))} with {given.sizes['y']} x {given.sizes['x']} pixels, and the maps {extent(box)} with "
            f"{box.shape.y} x {box.shape.x}; compute it on the maps' grid."
        )
    return maps.assign({name: array.variable for name, array in given.data_vars.items() if {"y", "x"} <= set(array.dims)})


def bands_of(image: xr.Dataset | None, box: GeoBox) -> dict[str, xr.DataArray]:
    """Return red, green and blue as reflectance; nothing without an image.

    Raises
    ------
    BandError
        If one is missing, or the image has several times.
    GridError
        If the image is in another CRS, or beside the maps.
    """
    if image is None:
        return {}
    if not isinstance(image, xr.Dataset):
        raise BandError(f"image is a {type(image).__name__}; give a Dataset with red, green and blue.")
    missing = [name for name in ("red", "green", "blue") if name not in image]
    if missing:
        raise BandError(
            f"True colour needs red, green and blue; {missing} are missing. Leave image out, or rename three bands to these."
        )
    if image["red"].ndim != 2:
        raise BandError(f"red has the dimensions {image['red'].dims}; give one image (y, x), such as image.miso.composite().")
    other = geobox_of(image)
    ours, theirs = box.boundingbox, other.boundingbox
    beside = theirs.left >= ours.right or theirs.right <= ours.left or theirs.bottom >= ours.top or theirs.top <= ours.bottom
    if other.crs != box.crs or beside:
        raise GridError(
            f"The image covers {extent(other)}, and the maps {extent(box)}; give an image of the maps' area in their CRS."
        )
    return {name: decoded(name, image[name]) for name in ("red", "green", "blue")}


# ---- tables


def tables_of(maps: xr.Dataset, what: str, given: Tables | None) -> dict[str, pd.DataFrame]:
    """Return tables by the map that each is of.

    A table with a level ``task`` in its index, as of several maps, is taken apart, and its tasks that are not mapped are left out.

    Raises
    ------
    SpecError
        If a table is none, or is of no map, or of one of several, or of other classes than its map.
    """
    if given is None:
        return {}
    known = [str(name) for name in maps.data_vars]
    if isinstance(given, pd.DataFrame):
        if "task" not in given.index.names:
            return {_map_of(maps, what, given): given}
        tasks = list(dict.fromkeys(given.index.get_level_values("task")))
        found = {str(task): _of(given, task) for task in tasks if task in maps.data_vars}
        if not found:
            raise SpecError(f"{what} is of the tasks {tasks}, and the maps are {known}; give the table of these maps.")
    elif isinstance(given, Mapping) and all(isinstance(one, pd.DataFrame) for one in given.values()):
        found = {str(name): frame for name, frame in given.items()}
        for name in found:
            if name not in known:
                raise SpecError(f"{what} has a table of {name!r}, and the maps are {known}.{did_you_mean(name, known)}")
    else:
        raise SpecError(f"{what} is a {type(given).__name__}; give a DataFrame, or a mapping of the maps' names to DataFrames.")
    flags = _flags(maps)
    for name, frame in found.items():
        if name in flags and not _belongs(frame, flags[name]):
            raise SpecError(
                f"{what} of {name!r} has the classes {_labels(frame)}, and its map has {flags[name]}; give the table of this map."
            )
    return found


def _of(frame: pd.DataFrame, task: Any) -> pd.DataFrame:
    """Return the part of a table that is of a task."""
    part: pd.DataFrame = frame[frame.index.get_level_values("task") == task].droplevel("task")
    part.attrs = dict(frame.attrs)
    return part


def _map_of(maps: xr.Dataset, what: str, frame: pd.DataFrame) -> str:
    """Return the map that a table is of: the only one that has its classes."""
    classes = classes_of(maps)
    fitting = [name for name, names in classes.items() if _belongs(frame, names)]
    if len(fitting) == 1:
        return fitting[0]
    remedy = "give a mapping of a map's name to its table, such as {'permafrost': table}"
    if fitting:
        raise SpecError(f"{what} has the classes {_labels(frame)} of several maps, {fitting}; {remedy}.")
    raise SpecError(
        f"{what} has the rows {_labels(frame)}, and the class maps have {classes}; give tables of these maps, or {remedy}."
    )


def _belongs(frame: pd.DataFrame, names: list[str]) -> bool:
    """Whether a table may be of a map of some classes. What was seen on the ground alone may be any class: it has no pixels, or no user's accuracy."""
    mapped = (
        frame["pixels"] > 0 if "pixels" in frame else frame["users"].notna() if "users" in frame else pd.Series(True, frame.index)
    )
    labels = _labels(frame[mapped.to_numpy()] if mapped.any() else frame)
    return bool(labels) and set(labels) <= set(names)


def _labels(frame: pd.DataFrame) -> list[str]:
    """Return the classes that a table has rows of, as ``flag_meanings`` spells them."""
    level = "class" if "class" in frame.index.names else -1
    found = dict.fromkeys(flag_word(label) for label in frame.index.get_level_values(level))
    return [label for label in found if label not in _NO_CLASS]
