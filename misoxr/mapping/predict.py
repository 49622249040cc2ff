"""Map a model over a datacube, lazily: one task for each chunk with its halo."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask.array as da
import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr.cube.check import check, named
from misoxr.cube.stack import stack
from misoxr.cube.variables import variables
from misoxr.errors import SpecError, gathered
from misoxr.estimators.embedded import EmbeddedModel
from misoxr.estimators.pixel_model import PixelModel
from misoxr.grid.geobox import assign
from misoxr.mapping.embed import embedding_of, mean_of, prepared_pairs
from misoxr.mapping.ensemble import averaged
from misoxr.mapping.exclude import masks_of, without
from misoxr.mapping.job import Settings, laid_out, prepared
from misoxr.mapping.load import opened
from misoxr.mapping.provenance import attributes
from misoxr.mapping.ranges import Ranges
from misoxr.mapping.sets import errors_of, refuse_several, with_sets
from misoxr.spec import Task, WindowSpec

if TYPE_CHECKING:
    from misoxr.model.checkpoint import Model

__all__ = ["pixel_bands", "predict"]


@gathered
def predict(
    ds: xr.Dataset,
    model: "Model | PixelModel | EmbeddedModel | str | os.PathLike[str] | Sequence[Any]",
    *,
    tasks: Sequence[str] | None = None,
    windows: WindowSpec | None = None,
    resolution: float | None = None,
    location: bool = False,
    coverage: float | None = None,
    exclude: Mapping[str, xr.DataArray] | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    compile: bool = False,
) -> xr.Dataset:
    """Map a model over a datacube, lazily: nothing is computed before the result is.

    Parameters
    ----------
    ds : Dataset
        The model's bands as variables (y, x), with units and a CRS. Chunks of 1024 to 4096 pixels serve best; smaller ones than a window are
        merged.
    model : Model, PixelModel, EmbeddedModel, str, path or list of these
        A model or a fitted estimator, or the path or URL of its file (:func:`misoxr.load`). Several are averaged, and the spread between them is
        added (:func:`misoxr.mapping.ensemble.averaged`); so it is with the members of one model.
    tasks : sequence of str, optional
        The tasks to map; all by default.
    windows : WindowSpec, optional
        Other windows than the model's own.
    resolution : float, optional
        Pixel size of the map in units of the CRS, finer or coarser than the cube's. The map has the answers at the new pixels' centres. For
        averages over coarse pixels, map at the cube's resolution and reduce with ``coarsen``.
    location : bool, optional
        Add ``<task>_location_probability`` (regressions: ``<task>_location``): the answer of the location head, which sees coordinates alone.
    coverage : float, optional
        Add sets of classes and intervals of values that hold the truth with this probability, between 0 and 1, by what a model knows of its own
        errors (``model.with_conformal(scores)``).
    exclude : mapping of str to DataArray, optional
        Boolean masks by their reasons, such as ``{"water": cover == 80}``, on any grid with a CRS. Every output is nodata where one holds at the
        nearest pixel, and ``excluded`` (y, x) uint8 tells which: the number of the first that holds, 0 for none, with ``flag_meanings``.
        Windows still see what lies under the masks.
    device : str, optional
        A torch device; "auto" takes CUDA where the block runs on a machine that has it.
    precision : {"auto", "float32", "bfloat16", "float64"}, optional
        "auto" is bfloat16 on CUDA and float32 on a CPU. "float64" is for checks, and gives float64.
    batch_size : int, optional
        Windows encoded at once. By default 1, 2 or 4 for each core of a CPU, by their size, and on CUDA what fits into free memory; it is halved
        where CUDA runs out of memory, and then the points that are answered at once.
    compile : bool, optional
        Compile the queries and heads with ``torch.compile``, once in each process. Needs a C++ compiler on a CPU.

    Returns
    -------
    Dataset
        Lazy, on the grid of ``ds`` or with ``resolution``. ``<task>_probability`` float32, (y, x) for binary tasks and (class, y, x) for
        multiclass ones; the class map ``<task>`` (y, x) uint8, 255 where there is no valid input; ``<task>`` float32 for regressions. NaN where
        a required modality has no valid band.

        With ``coverage``, their attributes tell what the coverage holds for:

        - ``<task>_set`` (class, y, x) bool: whether each class is in the set. The dimension of binary tasks is ``<task>_class``.
        - ``<task>_set_size`` (y, x) uint8: 0 is an empty set, 255 where there is no valid input.
        - ``<task>_credibility`` (y, x) float32: the greatest p-value of a class.
        - ``<task>_confidence`` (y, x) float32: 1 less the second greatest.
        - ``<task>_lower`` and ``<task>_upper`` of regressions: ends of the interval, in the task's units.

    Raises
    ------
    BandError
        If a band is missing or in units that cannot be converted, or a mask is not boolean.
    GridError
        If the cube has no regular grid or CRS, or another pixel size than the model; or a mask has no CRS, or does not overlap the map.
    CheckpointError
        If the file cannot be read.
    SpecError
        If a task, window, resolution, device, precision, batch size, coverage or reason is not valid; or the model has no calibration scores for
        a coverage, or there are several models.

    Warns
    -----
    MisoxrWarning
        When the map is computed, once: if bands lie far outside the range that the model's scaling was fitted on, in a tenth of a block's pixels
        or more. If a mask does not cover the map: nothing is left out beyond it. If there are too few calibration points for a coverage: sets then hold all
        classes, and intervals are infinite.

    Notes
    -----
    Windows see what lies around a pixel, so the map of a cropped cube is not the crop of the map. For a part, cut the answer. Only the blocks
    that it meets are computed: ``image.miso.predict(model).isel(y=slice(0, 512))``.

    On one kind of CPU the results are the same to the byte for the same batch size and chunks. CUDA has not been run by the authors of this
    package.

    References
    ----------
    arXiv 2506.17302, with the query's axes and weights corrected.

    Examples
    --------
    >>> maps = image.miso.predict(model)
    >>> maps = image.miso.predict("model.safetensors", tasks=["permafrost"])
    >>> maps = image.miso.predict([model, "model.safetensors"])  # their mean, and the spread between them
    >>> maps = image.miso.predict(model, exclude={"highland": image.elevation > 800, "steep": image.slope > 40})
    """
    masks = masks_of(exclude)
    settings = Settings(tasks, windows, location, device, precision, batch_size, compile)
    if isinstance(model, list | tuple):
        refuse_several(coverage, len(model))
        maps = averaged([predict(ds, one, resolution=resolution, **settings.arguments()) for one in model])
    else:
        found = opened(model)
        errors = errors_of(found, settings.tasks_of(found.spec), coverage)
        maps = _predict(ds, found, settings, resolution)
        maps = maps if errors is None else with_sets(maps, errors, settings.tasks_of(found.spec), coverage)
    return without(maps, masks) if masks else maps


def _predict(
    ds: xr.Dataset, found: "Model | PixelModel | EmbeddedModel", settings: Settings, resolution: float | None
) -> xr.Dataset:
    if isinstance(found, PixelModel):
        return _predict_pixels(ds, found, settings, resolution)
    if isinstance(found, EmbeddedModel):
        return _predict_embedded(ds, found, settings, resolution)
    cube, job, chosen = prepared(ds, found, settings)
    layers, geobox = laid_out(cube, job, found.spec, resolution)
    out: xr.Dataset = assign(
        variables(layers, ("y", "x"), found.spec, chosen, location=settings.location, members=found.spec.members), geobox
    )
    out.attrs = attributes(ds, found, job.plan.y.spec, job.settings())
    return out


def _predict_pixels(ds: xr.Dataset, model: PixelModel, settings: Settings, resolution: float | None) -> xr.Dataset:
    if resolution is not None:
        raise SpecError(f"resolution is {resolution!r}, and a model of pixels answers at the cube's own; leave it out.")
    bands, geobox, chosen = pixel_bands(ds, model, settings)
    answered = replace(model.spec, tasks=tuple(chosen))
    layers = model.layers(Ranges.of(model.spec, model.scaling, model.ranges).watched(bands), geobox, chosen)
    out: xr.Dataset = assign(variables(layers, ("y", "x"), answered, chosen, location=False), geobox)
    out.attrs = attributes(ds, model, None)
    return out


def _predict_embedded(ds: xr.Dataset, model: EmbeddedModel, settings: Settings, resolution: float | None) -> xr.Dataset:
    pairs, chosen = prepared_pairs(ds, model, settings)
    seen = [embedding_of(cube, job, model.spec, resolution) for cube, job, _ in pairs]
    geobox = seen[0][1]
    layers = mean_of([one.layers(features, geobox, chosen) for (features, _), (*_, one) in zip(seen, pairs, strict=True)])
    answered = replace(model.spec, tasks=tuple(chosen))
    out: xr.Dataset = assign(variables(layers, ("y", "x"), answered, chosen, location=False), geobox)
    out.attrs = attributes(ds, model, pairs[0][1].plan.y.spec, pairs[0][1].settings())
    return out


def pixel_bands(ds: xr.Dataset, model: PixelModel, settings: Settings) -> tuple[da.Array, GeoBox, list[Task]]:
    """Check a cube against a model of pixels, and return its stacked bands, its grid and the tasks."""
    given = [name for name in ("windows", "location", "batch_size", "compiled") if getattr(settings, name)]
    given += [name for name in ("device", "precision") if getattr(settings, name) != "auto"]
    if given:
        raise SpecError(f"{given} are settings of a network, and this is a model of pixels; leave them out.")
    ds = named(ds, model.spec)
    geobox = check(ds, model.spec)
    return stack(ds, model.spec), geobox, settings.tasks_of(model.spec)
