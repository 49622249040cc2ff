"""The area of applicability: where pixels are like the training points, and how far the points are from each other."""

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import dask.array as da
import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from dask.delayed import delayed

from misoxr.cube.check import named
from misoxr.cube.variables import FILL
from misoxr.errors import BandError, SpecError, did_you_mean, gathered, note
from misoxr.estimators.embedded import EmbeddedModel
from misoxr.estimators.pixel_model import PixelModel
from misoxr.estimators.slabs import in_slabs
from misoxr.grid.geobox import assign, geobox_of
from misoxr.grid.halo import part_of
from misoxr.mapping.exclude import masks_of, without
from misoxr.mapping.load import opened
from misoxr.mapping.provenance import attributes
from misoxr.points.read import place, read_points
from misoxr.points.splits import folds_of, read_for, splitter_of, told_apart
from misoxr.points.years import Years, by_layer, date_of
from misoxr.spec.numbers import by_name, is_number
from misoxr.uncertainty.importance import permutation
from misoxr.uncertainty.space import Layers, Space, check_space, layers_of
from misoxr.uncertainty.training import Training, listed

if TYPE_CHECKING:
    from misoxr.model.checkpoint import Model

__all__ = ["applicability", "training_dissimilarity"]

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

NUMBER = "misoxr:number"
"""Column that follows points while some are left out."""
REFERENCES = "Meyer & Pebesma 2021, doi:10.1111/2041-210X.13650; R package CAST 1.1"


@gathered
def applicability(
    ds: xr.Dataset,
    model: "Model | PixelModel | EmbeddedModel | str | os.PathLike[str]",
    points: gpd.GeoDataFrame,
    *,
    cv: Any = None,
    space: Space = "bands",
    weights: Mapping[str, float] | str | None = None,
    exclude: Mapping[str, xr.DataArray] | None = None,
) -> xr.Dataset:
    """Map where a model is to be believed, lazily: how unlike the training points each pixel is.

    The features of the points' pixels are read at once; nothing else is computed before the result is. All points with valid bands count,
    labelled or not.

    Parameters
    ----------
    ds : Dataset
        The cube, as for :func:`misoxr.mapping.predict.predict`.
    model : Model, PixelModel, EmbeddedModel, str or path
        A model or a fitted estimator, or its file. It tells which bands count.
    points : GeoDataFrame
        The points that it was trained on.
    cv : splitter, int or list, optional
        The folds of its cross-validation, as for :func:`misoxr.evaluation.cross_validate.cross_validate`. A point is then compared with the training
        points of the fold that tests it. Without folds, or where no fold tests it, a point is compared with all others.
    space : {"bands", "neighbourhood", "embedding"}, optional
        What is compared: the pixel's bands in the model's units, directions as their sine and cosine; the bands with their means and standard
        deviations in squares of 5 and 15 pixels, scaled as the model scales, as the forests of neighbourhoods see them; or the network's embedding.
    weights : mapping, Series or "permutation", optional
        Weights of all features by name (of bands in that space), by which they are multiplied once they are standardised. Negative ones are 0.
        "permutation" weighs bands by what the model loses when a band's values are exchanged between labelled points (Notes).
    exclude : mapping of str to DataArray, optional
        Masks of what is left out, such as water, as for :func:`misoxr.mapping.predict.predict`. Give the same ones to both.

    Returns
    -------
    Dataset
        Lazy, on the grid of ``ds``, NaN (255) where a feature or all bands of a required modality are missing:

        - ``dissimilarity_index`` (y, x) float32: the distance to the nearest training point, over the points' mean distance to each other;
        - ``local_point_density`` (y, x) float32: how many training points are nearer than the threshold. Whole numbers; floats since pyramids
          average them, and their nodata is NaN;
        - ``applicable`` (y, x) uint8: 1 where the index is at most the threshold, else 0.

        Attributes of the dataset and its variables: ``threshold`` (in units of the index), ``mean_distance`` (in standard deviations),
        ``space``, ``cv``, ``training_points``, how many count, and ``weights`` as JSON, where there are any. With ``exclude``, also ``excluded``.

    Raises
    ------
    PointsError
        If fewer than three points have valid bands, all lie outside the cube or have the same features, or folds do not fit them.
    SpecError
        If the model sees no bands, or has no embedding; or space, weights or cv are not valid.
    BandError, GridError, CheckpointError
        As for :func:`misoxr.mapping.predict.predict`.

    Warns
    -----
    MisoxrWarning
        If points lie outside the cube or lack a band, or features do not vary between the points; these are left out.

    Notes
    -----
    Features are standardised by the points' mean and standard deviation (n - 1). The threshold is Q75 + 1.5 (Q75 - Q25) of the points' own
    dissimilarities, at most the greatest of them. A point that several folds test has the mean of theirs. Several points in one pixel all
    count, as in CAST: without folds each is 0 from the others, which lowers the threshold. Distances are exact, in float64.

    The permutation importance of a band is the loss of skill (Brier skill score, or r2 of a regression, averaged over the tasks) at labelled points.
    Networks are asked over windows around at most 200 of the points, and whole windows exchange the band. The points are those that the model was
    trained on, so a band that it has learnt by heart looks important, too.

    References
    ----------
    Meyer & Pebesma 2021, "Predicting into unknown space? Estimating the area of applicability of spatial prediction models", Methods in Ecology and
    Evolution 12, doi:10.1111/2041-210X.13650; as the R package CAST 1.1 has it. Local point density: Schumacher et al. 2025, Geoscientific Model
    Development 18, in CAST.

    Examples
    --------
    >>> applies = image.miso.applicability(model, points, cv=misoxr.BlockKFold(500, 3))
    >>> maps = maps.merge(applies)
    >>> inside = maps.permafrost.where(maps.applicable == 1)
    """
    found, masks = _one(model), masks_of(exclude)
    trained = _trained(ds, found, points, cv, space, weights)
    layers = layers_of(ds, found, space)
    compared = _laid_out(layers, trained.training)
    out: xr.Dataset = assign(xr.Dataset(_variables(compared, trained.told)), layers.geobox)
    settings = {"applicability": trained.told | {"weights": trained.weights}}
    out.attrs = attributes(ds, found, layers.windows, settings) | trained.told
    out.attrs |= {"title": "area of applicability", "references": REFERENCES}
    return without(out, masks) if masks else out


@gathered
def training_dissimilarity(
    ds: xr.Dataset,
    model: "Model | PixelModel | EmbeddedModel | str | os.PathLike[str]",
    points: gpd.GeoDataFrame,
    cv: Any = None,
    space: Space = "bands",
    weights: Mapping[str, float] | str | None = None,
) -> pd.Series:
    """Return how unlike the others each training point is, as the area of applicability sees it.

    Parameters
    ----------
    ds : Dataset
        The cube, as for :func:`misoxr.uncertainty.applicability.applicability`. Also yearly composites, bands over (time, y, x): each point is then seen in the
        composite of the year that it is dated nearest to.
    model, points, cv, space, weights
        As for :func:`misoxr.uncertainty.applicability.applicability`.

    Returns
    -------
    Series
        The dissimilarity index of each point, in the order given, NaN where it does not count. Its index is that of the points, as the column
        ``point`` of :class:`misoxr.Scores`. Attributes as of the map.

    Raises
    ------
    PointsError, SpecError, BandError, GridError, CheckpointError
        As for :func:`misoxr.uncertainty.applicability.applicability`.

    Examples
    --------
    >>> cv = misoxr.BlockKFold(500, 3)
    >>> dissimilarity = misoxr.uncertainty.training_dissimilarity(image, model, points, cv=cv)
    """
    trained = _trained(ds, _one(model), points, cv, space, weights)
    values = np.full(len(trained.every), np.nan)
    values[trained.places] = trained.training.dissimilarity
    out = pd.Series(values, trained.every, name="dissimilarity_index")
    out.attrs = dict(trained.told.items())
    return out


def _one(model: Any) -> Any:
    """Return the model, or that of a file; refuse several, whose bands or embeddings may differ."""
    if isinstance(model, list | tuple):
        raise SpecError(f"There are {len(model)} models; give one, by whose bands and points the others are judged, too.")
    return opened(model)


class _Trained(NamedTuple):
    """Training points in their space: their figures, what attributes tell of them, where they stand among all, and the weights."""

    training: Training
    told: dict[str, Any]
    places: npt.NDArray[np.intp]
    every: pd.Index
    weights: dict[str, float] | None


def _trained(ds: xr.Dataset, model: Any, points: Any, cv: Any, space: Space, weights: Any) -> _Trained:
    """Read the features of all points that have them, and measure how far apart the points are."""
    check_space(space)
    weights = by_name(weights, "weights")
    _check_weights(weights, space)
    every = told_apart(read_points(points) if cv is None else read_for(points, cv))
    years = Years.of(named(ds, model.spec), model.spec)
    first = layers_of(years.cubes[0], model, space)
    given = None if weights is None or isinstance(weights, str) else _given(weights, tuple(dict.fromkeys(first.weighed)))
    placed, rows, columns = place(every.assign(**{NUMBER: np.arange(len(every))}), geobox_of(years.cubes[0]))
    layer = years.matched(date_of(placed), len(placed))

    def seen(number: int, mine: npt.NDArray[np.intp]) -> Array:
        layers = first if number <= 0 else layers_of(years.cubes[number], model, space)
        return layers.at(rows[mine], columns[mine])

    values = by_layer(np.maximum(layer, 0), seen)
    usable = _usable(first, values) & (layer >= 0)
    places = placed[NUMBER].to_numpy()[usable]
    folds = [] if cv is None else folds_of(cv, every.to_crs(placed.crs), places)
    if isinstance(weights, str):
        given = permutation(years.cubes, model, placed[usable], rows[usable], columns[usable], layer[usable])
    factors = np.ones(len(first.names)) if given is None else np.array([given[name] for name in first.weighed])
    training = Training.of(first.names, values[: len(first.names), usable], factors, folds)
    told = {
        "space": space,
        "cv": "none" if cv is None else repr(splitter_of(cv)),
        "training_points": len(places),
        "mean_distance": training.mean_distance,
        "threshold": training.threshold,
        "training_sha256": training.sha256,
    }
    told |= {} if given is None else {"weights": json.dumps(given)}
    return _Trained(training, told, places, every.index, given)


def _usable(layers: Layers, values: Array) -> npt.NDArray[np.bool_]:
    """Return which points have all features that any point has, and warn of the others."""
    valid = layers.is_valid(values)
    features = np.isfinite(values[: len(layers.names)])
    if not valid.any():
        raise BandError(f"None of the {len(valid)} points lies where the cube has a valid pixel; give a cube with data there.")
    there: npt.NDArray[np.bool_] = np.asarray(features[:, valid].any(axis=1))
    usable: npt.NDArray[np.bool_] = valid & features[there].all(axis=0)
    if not usable.all():
        gaps = [name for name, here, row in zip(layers.names, there, features, strict=True) if here and not row[valid].all()]
        words = f" ({listed(gaps)})" if gaps else ""
        note(f"{(~usable).sum()} of {len(usable)} points lack valid bands{words}, and are left out.")
    return usable


def _check_weights(weights: Any, space: str) -> None:
    """Refuse weights that are neither a mapping nor found by permutation."""
    if isinstance(weights, str):
        if weights != "permutation":
            raise SpecError(
                f"weights is {weights!r}; give a mapping of weights, or 'permutation'.{did_you_mean(weights, ['permutation'])}"
            )
        if space != "bands":
            raise SpecError(
                f"weights='permutation' weighs bands, and space is {space!r}; use space='bands', or give weights by feature."
            )
    elif not isinstance(weights, Mapping | None):
        raise SpecError(f"weights is a {type(weights).__name__}; give a mapping such as {{'red': 1.0}}, or 'permutation'.")


def _given(weights: Mapping[str, float], names: tuple[str, ...]) -> dict[str, float]:
    """Return given weights of all features, negative ones as 0."""
    unknown, missing = [name for name in weights if name not in names], [name for name in names if name not in weights]
    if unknown:
        raise SpecError(f"weights has {listed(unknown)}; the features are {listed(names)}.{did_you_mean(unknown[0], names)}")
    if missing:
        raise SpecError(f"weights lacks {listed(missing)}; give each feature a weight, 0 for one that is not to count.")
    wrong = {name: value for name, value in weights.items() if not is_number(value) or not np.isfinite(float(value))}
    if wrong:
        raise SpecError(f"The weights {wrong} are no numbers; give each feature a number, 0 or more.")
    negative = [name for name in names if weights[name] < 0]
    if negative:
        note(f"The weights of {listed(negative)} are negative, and are taken for 0.")
    return {name: max(0.0, float(weights[name])) for name in names}


def _laid_out(layers: Layers, training: Training) -> da.Array:
    """Compare every pixel, lazily: (3, y, x)."""
    compared: da.Array = da.map_blocks(
        _compared,
        layers.layers,
        training=delayed(training, name=f"training-{training.sha256}", traverse=False),  # once, as one key of the graph
        is_valid=layers.is_valid,
        chunks=((3,), *layers.layers.chunks[1:]),
        dtype="float32",
        meta=np.empty((0, 0, 0), "float32"),
    )
    return compared


def _compared(block: Array, training: Training, is_valid: Any) -> Array:
    """Compare one block (layer, y, x) with the training points: index, density, and whether it is inside (3, y, x)."""
    out = np.full((3, *block.shape[1:]), np.nan, dtype="float32")
    answers, seen = out.reshape(3, -1), block.reshape(len(block), -1)
    mask = is_valid(block).ravel()
    for at in training.layers:
        mask &= np.isfinite(seen[at])

    def answer(pixels: npt.NDArray[np.intp]) -> None:
        answers[:, pixels] = training.answer(seen[:, pixels])

    in_slabs(answer, np.flatnonzero(mask))
    return out


def _variables(compared: da.Array, told: Mapping[str, Any]) -> dict[str, xr.DataArray]:
    """Name what was compared, with CF attributes."""
    codes = da.map_blocks(_codes, part_of(compared, 2), dtype="uint8", meta=np.empty((0, 0), "uint8"))
    flags = {"flag_values": np.arange(2, dtype="uint8"), "flag_meanings": "outside inside", "flag_colors": "#d73027 #1a9850"}
    found: dict[str, tuple[da.Array, dict[str, Any]]] = {
        "dissimilarity_index": (
            part_of(compared, 0),
            {"long_name": "dissimilarity index: distance to the nearest training point over their mean distance", "units": "1"},
        ),
        "local_point_density": (
            part_of(compared, 1),
            {"long_name": "local point density: training points nearer than the threshold", "units": "1"},
        ),
        "applicable": (codes, {"long_name": "area of applicability", **flags, "_FillValue": np.uint8(FILL)}),
    }
    return {name: xr.DataArray(data, dims=("y", "x"), attrs=attrs | dict(told)) for name, (data, attrs) in found.items()}


def _codes(inside: Array) -> npt.NDArray[np.uint8]:
    return np.where(np.isnan(inside), FILL, inside).astype("uint8")
