"""Build a preset's specification for a cube, and points where there are any."""

import difflib
from dataclasses import replace

import geopandas as gpd
import xarray as xr

from misoxr.cube.check import check_dataset
from misoxr.cube.decode import is_class
from misoxr.errors import SpecError, note
from misoxr.grid.geobox import geobox_of
from misoxr.spec import COVARIATES, PERMAFROST, SENTINEL2, TAXONOMY, Band, LocationSpec, ModelSpec, Task

__all__ = ["bands_for", "spec_for"]


def spec_for(name: str, ds: xr.Dataset, points: gpd.GeoDataFrame | None = None) -> ModelSpec:
    """Build a preset's specification for a cube, and points where there are any.

    The preset takes those of its default bands that the cube has, ``nir08`` in place of ``nir`` where the cube has no other near infrared
    (Landsat, HLS), the tasks that the points have columns for, the cube's pixel size, and the cube's extent for locations. Without points it has the default tasks: encoders that are pre-trained know no task.

    Raises
    ------
    SpecError
        If the cube has none of the bands, or the points none of the tasks.

    Examples
    --------
    >>> spec = spec_for("miso-nano", image, points)
    """
    geobox = geobox_of(check_dataset(ds))
    imagery, covariates = bands_for(ds)
    known = {band.name for band in (*imagery, *covariates)}
    others = {name: array for name, array in ds.data_vars.items() if name not in known and {"y", "x"} <= set(array.dims)}
    unused = [str(name) for name, array in others.items() if array.dtype.kind == "f" and not is_class(name, array)]
    if unused:
        note(
            f"{unused} are none of a preset's bands {sorted(known)} and are not used. Rename them, or give a ModelSpec with bands "
            "of your own: misoxr.ModelSpec.preset(name, cov=[...])."
        )
    bounds = geobox.boundingbox
    extent = (float(bounds.left), float(bounds.bottom), float(bounds.right), float(bounds.top))
    return ModelSpec.preset(
        name,
        sat=[band for band in imagery if band.name in ds.data_vars],
        cov=[band for band in covariates if band.name in ds.data_vars],
        tasks=None if points is None else _tasks(points),
        pixel_size=abs(float(geobox.affine.a)),
        location=LocationSpec(str(geobox.crs), extent),
    )


def bands_for(ds: xr.Dataset) -> tuple[list[Band], list[Band]]:
    """Return imagery and covariates that the presets can read of a cube, whether it has them or not."""
    return [_near_infrared(band, ds) for band in SENTINEL2], list(COVARIATES)


def _near_infrared(band: Band, ds: xr.Dataset) -> Band:
    """Return the narrow near infrared, which Landsat and HLS have, in place of Sentinel-2's wide one where a cube has no other."""
    return replace(band, name="nir08") if band.name == "nir" and "nir" not in ds and "nir08" in ds else band


def _tasks(points: gpd.GeoDataFrame) -> list[Task]:
    """Return the default tasks that points have columns for; warn of columns that may be meant for others."""
    tasks = [task for task in (PERMAFROST, TAXONOMY) if task.name in points]
    if not tasks:
        raise SpecError(
            f"The points have columns {list(points.columns)} and none named 'permafrost' or 'taxonomy'; name the labels with "
            "misoxr.read_points(..., labels={'permafrost': column}), or give a ModelSpec with tasks of your own."
        )
    for missing in sorted({PERMAFROST.name, TAXONOMY.name} - {task.name for task in tasks}):
        near = [name for name in map(str, points.columns) if difflib.get_close_matches(missing, [name.lower()], cutoff=0.8)]
        if near:
            words = f"The column {near[0]!r} is not {missing!r}, which the model does not learn then; rename it if it was meant."
            note(words)
    return tasks
