"""Build a preset's specification for a cube, and points where there are any; and the tasks that columns of labels tell."""

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr

from misoxr.cube.check import along, check_dataset
from misoxr.cube.decode import is_class
from misoxr.errors import PointsError, SpecError, did_you_mean, note
from misoxr.grid.geobox import geobox_of
from misoxr.spec import COVARIATES, PERMAFROST, SENTINEL2, TAXONOMY, Band, LocationSpec, ModelSpec, Task
from misoxr.spec.words import trimmed

__all__ = ["MISSING", "bands_for", "lacking", "of_tasks", "spec_for"]

MISSING = ("nan", "None", "<NA>", "NaT", "NaN", "NA", "N/A", "n/a", "null", "NULL")
"""Texts that missing values become, by astype(str) and in tables."""
QUANTITY = re.compile(
    r"[-+]?(\d+,\d+|\d{1,3}([.,]\d{3})+([.,]\d+)?|\d+([.,]\d+)?(\s?(mm|cm|dm|km|ft|kg|mg|%|‰|°C?)|\s(m|g|t|ha|K))(\W?(m|cm|dm|ha|kg|g|l|L)\W?\d?){0,3})"
)
"""A number with a decimal comma, with thousands apart, or with a unit. Codes of classes, such as "1a", "2.1.3" and "5-10 cm", are none."""


def spec_for(
    name: str, ds: xr.Dataset, points: gpd.GeoDataFrame | None = None, tasks: Sequence[str | Task] | None = None
) -> ModelSpec:
    """Build a preset's specification for a cube, and points where there are any.

    The preset takes those of its default bands that the cube has, ``nir08`` in place of ``nir`` where the cube has no other near infrared
    (Landsat, HLS), the tasks that the points have columns for, the cube's pixel size, and the cube's extent for locations. Without points it has the default tasks: encoders that are pre-trained know no task.

    Parameters
    ----------
    name : str
        A preset's name.
    ds : Dataset
        The cube.
    points : GeoDataFrame, optional
        The labelled points.
    tasks : sequence of str or Task, optional
        What to learn, by the columns of the labels. "permafrost" and "taxonomy" are the default tasks. Another column with fractions is a
        regression, True and False are a binary task, and three words or more are classes. Give a :class:`misoxr.spec.Task` to say more, such as
        units, or where whole numbers may be a quantity or codes.

    Raises
    ------
    SpecError
        If the cube has none of the bands, or the points none of the tasks; or a column does not tell what its task is.
    PointsError
        If texts of a column that ``tasks`` names seem to be quantities or missing values, or a class in several spellings.

    Warns
    -----
    MisoxrWarning
        If the cube has bands that the preset does not know.

    Examples
    --------
    >>> spec = spec_for("miso-nano", image, points)
    >>> spec = spec_for("miso-nano", image, points, tasks=["permafrost"])
    """
    geobox = geobox_of(check_dataset(ds))
    imagery, covariates = bands_for(ds)
    known = {band.name for band in (*imagery, *covariates)}
    others = {name: array for name, array in ds.data_vars.items() if name not in known and {"y", "x"} <= set(array.dims)}
    unused = [str(name) for name, array in others.items() if array.dtype.kind == "f" and not is_class(name, array)]
    sat, cov = ([band for band in known if band.name in ds.data_vars] for known in (imagery, covariates))
    size, bounds = abs(float(geobox.affine.a)), geobox.boundingbox
    extent = (float(bounds.left), float(bounds.bottom), float(bounds.right), float(bounds.top))
    chosen = None if points is None else _tasks(points) if tasks is None else _asked(tasks, points)
    if not sat + cov:
        if remedy := along(ds, known):
            raise SpecError(f"None of the dataset's variables {list(map(str, ds.data_vars))} is among a preset's bands.{remedy}")
        said = "" if chosen is None else f", tasks=[{', '.join(map(_line, chosen))}]"
        offered = unused or [str(one) for one in others] or ["name"]
        bands = ", ".join(f"misoxr.spec.Band({one!r}, {str(ds.get(one, ds).attrs.get('units', '1'))!r})" for one in offered)
        raise SpecError(
            f"None of the dataset's variables {list(map(str, ds.data_vars))} is among a preset's bands {sorted(known)}. Rename them, or name "
            f"your own with their units: spec = misoxr.ModelSpec.preset({name!r}, sat=[], cov=[{bands}], pixel_size={size:g}{said}, "
            f"location=misoxr.spec.LocationSpec({str(geobox.crs)!r}, {extent})). Then fit(spec, points) trains the network, and fit(estimator, "
            "points, like=spec) an estimator."
        )
    if unused:
        note(
            f"{unused} are none of a preset's bands {sorted(known)} and are not used. Rename them, or give a ModelSpec with bands "
            f"of your own: misoxr.ModelSpec.preset(name, cov=[...], pixel_size={size:g})."
        )
    return ModelSpec.preset(
        name,
        sat=sat,
        cov=cov,
        tasks=chosen,
        pixel_size=size,
        location=LocationSpec(str(geobox.crs), extent),
    )


def _line(task: Task) -> str:
    """Return a task as people write it."""
    if task in (PERMAFROST, TAXONOMY):
        return f"misoxr.spec.{task.name.upper()}"
    return f"misoxr.spec.Task({task.name!r}, {task.kind!r}{f', {task.classes}' if task.classes else ''})"


def bands_for(ds: xr.Dataset) -> tuple[list[Band], list[Band]]:
    """Return imagery and covariates that the presets can read of a cube, whether it has them or not."""
    return [_near_infrared(band, ds) for band in SENTINEL2], list(COVARIATES)


def lacking(ds: xr.Dataset) -> list[str]:
    """Return the bands that the presets know and a cube lacks, which are not learnt from.

    Examples
    --------
    >>> lacking(image.drop_vars("slope"))
    ['slope']
    """
    imagery, covariates = bands_for(ds)
    return [band.name for band in (*imagery, *covariates) if band.name not in ds.data_vars]


def _near_infrared(band: Band, ds: xr.Dataset) -> Band:
    """Return the narrow near infrared, which Landsat and HLS have, in place of Sentinel-2's wide one where a cube has no other."""
    return replace(band, name="nir08") if band.name == "nir" and "nir" not in ds and "nir08" in ds else band


def _tasks(points: gpd.GeoDataFrame) -> list[Task]:
    """Return the default tasks that points have columns for; warn of columns that may be meant for others."""
    tasks = [task for task in (PERMAFROST, TAXONOMY) if task.name in points]
    if not tasks:
        raise SpecError(
            f"The points have columns {list(points.columns)} and none named 'permafrost' or 'taxonomy'; name the labels with "
            "misoxr.read_points(..., labels={'permafrost': column}), or name other columns to learn with tasks=[...]."
        )
    for missing in sorted({PERMAFROST.name, TAXONOMY.name} - {task.name for task in tasks}):
        near = [name for name in map(str, points.columns) if difflib.get_close_matches(missing, [name.lower()], cutoff=0.8)]
        if near:
            words = f"The column {near[0]!r} is not {missing!r}, which the model does not learn then; rename it if it was meant."
            note(words)
    return tasks


def of_tasks(spec: ModelSpec, tasks: Sequence[str | Task] | None) -> ModelSpec:
    """Return a specification with some of its tasks by name, or with others; as it is without any.

    Examples
    --------
    >>> narrower = of_tasks(spec, ["permafrost"])
    """
    if tasks is None:
        return spec
    return replace(spec, tasks=tuple(one if isinstance(one, Task) else spec.task(one) for one in _named(tasks)))


def _asked(tasks: Sequence[str | Task], points: gpd.GeoDataFrame) -> list[Task]:
    """Return the tasks that are asked for, by the columns of their labels."""
    asked = _named(tasks)
    columns = [str(name) for name in points.columns if name != points.geometry.name]
    for one in asked:
        name = one.name if isinstance(one, Task) else one
        if name not in columns:
            raise SpecError(
                f"tasks names {name!r}, and the points have the columns {columns}.{did_you_mean(name, columns)} Name the column with "
                f"misoxr.read_points(..., labels={{{name!r}: column}})."
            )
        if (count := columns.count(name)) > 1:
            raise PointsError(
                f"There are {count} columns {name!r}; keep one, such as the first: points = points.loc[:, ~points.columns.duplicated()]."
            )
    return [one if isinstance(one, Task) else _told_by(points[one], one) for one in asked]


def _named(tasks: Any) -> list[str | Task]:
    """Return what tasks name, each once."""
    if isinstance(tasks, str | Task):
        raise SpecError(f"tasks is {tasks!r}; give a list, such as [{tasks.name if isinstance(tasks, Task) else tasks!r}].")
    if not isinstance(tasks, Sequence) or not tasks or not all(isinstance(one, str | Task) for one in tasks):
        raise SpecError(f"tasks is {tasks!r}; give names of columns with labels, such as ['soc'], or misoxr.spec.Task objects.")
    return list(tasks)


def _refuse_texts(labels: pd.Series, name: str) -> None:
    """Refuse texts that would become classes and seem to be none: missing values, quantities, and a class in several spellings."""
    texts = [label for label in labels if isinstance(label, str) and label.strip()]
    column, otherwise = f"points[{name!r}]", f"If they are classes, give misoxr.spec.Task({name!r}, kind, classes)."
    counts = Counter(trimmed(text) for text in texts)
    for word in MISSING:
        if word in counts:
            raise PointsError(
                f"{counts[word]} labels of {name!r} are the text {word!r}, which seems to stand for missing. Make it missing: {column} = "
                f"{column}.replace({word!r}, float('nan')). {otherwise}"
            )
    quantities = [text for text in texts if QUANTITY.fullmatch(text.strip())]
    if len(quantities) > len(texts) / 2:
        example = quantities[0].strip()
        raise PointsError(
            f"{len(quantities)} of {len(texts)} labels of {name!r} are texts such as {example!r}, which look like quantities. Make them numbers: "
            f"{column} = pandas.to_numeric({column}{_as_number(example)}, errors='coerce'). {otherwise}"
        )
    spellings: dict[str, list[str]] = {}
    for text, _ in counts.most_common():
        spellings.setdefault(re.sub(r"[\s_]+", "", text).casefold(), []).append(text)
    several = {text: same[0] for same in spellings.values() for text in same[1:]}
    if several:
        raw = {text: several[trimmed(text)] for text in sorted(set(texts)) if trimmed(text) in several}
        raise PointsError(
            f"The labels of {name!r} write a class in several ways: {[same for same in spellings.values() if len(same) > 1][:10]}. Write each in "
            f"one: {column} = {column}.replace({raw}). {otherwise}"
        )


def _as_number(text: str) -> str:
    """Return what pandas has to do with a text so that its number is left."""
    point, comma = text.rfind("."), text.rfind(",")
    steps = "" if min(point, comma) < 0 else f".str.replace({'.' if point < comma else ','!r}, '')"
    steps += ".str.replace(',', '.')" if comma > point else ""
    return steps if text.strip("-+.,0123456789") == "" else rf"{steps}.str.extract(r'([-+.\d]+)')[0]"


def _told_by(column: pd.Series, name: str) -> Task:
    """Return the task that a column of labels tells; what it does not tell is not assumed."""
    known = {task.name: task for task in (PERMAFROST, TAXONOMY)}
    if name in known:
        return known[name]
    labels = column.dropna()
    if labels.map(lambda label: isinstance(label, bool | np.bool_)).all() and len(labels):
        return Task(name, "binary", ("no", "yes"))
    numbers = pd.to_numeric(labels.astype(object), errors="coerce")
    if len(labels) and numbers.notna().all():
        if (numbers % 1 != 0).any():
            return Task(name, "regression")
        raise SpecError(
            f"The labels of {name!r} are whole numbers, which may be a quantity or codes of classes; say which: "
            f"tasks=[Task({name!r}, 'regression')], or Task({name!r}, 'multiclass', classes), with misoxr.spec.Task."
        )
    _refuse_texts(labels, name)
    words = sorted({trimmed(label) for label in labels if isinstance(label, str) and label.strip()})
    if len(words) > 2 and numbers.isna().all() and labels.map(lambda label: isinstance(label, str)).all():
        return Task(name, "multiclass", tuple(words))
    if len(words) == 2:
        raise SpecError(
            f"The labels of {name!r} are {words}; say which of them the probability speaks of, as the second one: "
            f"tasks=[Task({name!r}, 'binary', {tuple(words)})], with misoxr.spec.Task."
        )
    if labels.map(lambda label: isinstance(label, pd.Interval)).any():
        raise SpecError(
            f"The labels of {name!r} are intervals, such as {labels.iloc[0]}. Make them words, which are classes: "
            f"points[{name!r}] = points[{name!r}].astype('string')."
        )
    odd = labels[numbers.isna()]
    if 0 < len(odd) < len(labels) / 2:
        raise SpecError(
            f"{len(odd)} of {len(labels)} labels of {name!r} are no numbers, such as {odd.iloc[0]!r}, and the others are. Write them as numbers, or make "
            f"them missing: points[{name!r}] = pandas.to_numeric(points[{name!r}], errors='coerce')."
        )
    raise SpecError(
        f"The labels of {name!r}, such as {labels.iloc[0] if len(labels) else None!r}, tell no task: they are neither numbers, nor True and "
        f"False, nor words of three classes or more. Give misoxr.spec.Task({name!r}, kind, classes)."
    )
