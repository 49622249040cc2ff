"""The spaces in which pixels are compared with training points: bands, neighbourhoods, or a network's embedding."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr.clusters import computed
from misoxr.cube.check import check, named
from misoxr.cube.features import feature_names, features, features_at, values_at
from misoxr.cube.scaling import Scaling, channels, refuse_fill, valid_pixels
from misoxr.cube.stack import stack
from misoxr.errors import SpecError, did_you_mean
from misoxr.estimators.embedded import EmbeddedModel
from misoxr.estimators.pixel_model import PixelModel
from misoxr.mapping.embed import embedding_of
from misoxr.mapping.job import Settings, prepared
from misoxr.mapping.predict_at import gather
from misoxr.spec import ModelSpec, WindowSpec

__all__ = ["Layers", "Space", "check_space", "layers_of"]

Array = npt.NDArray[np.float32]
Space = Literal["bands", "neighbourhood", "embedding"]
PLAIN = Settings(None, None, False, "auto", "auto", None, False)
"""Settings of a network that nothing is said of."""


@dataclass(frozen=True)
class Layers:
    """A space laid out over a cube.

    Attributes
    ----------
    names : tuple of str
        Names of the features.
    geobox : GeoBox
        The cube's grid.
    layers : dask array (layer, y, x)
        The features, lazily; there may be a mask behind them.
    is_valid : callable
        Returns where a block of them has valid input, (y, x), or pixels of it (pixel,).
    at : callable
        Computes the features (feature, point) and the mask (point,) of the pixels that hold positions, from these alone.
    windows : WindowSpec or None
        The network's windows, where the space is made by one.
    bands : tuple of str
        What each feature is weighed as: the band of a sine and a cosine; by default the feature itself.
    """

    names: tuple[str, ...]
    geobox: GeoBox
    layers: da.Array
    is_valid: Callable[[Array], npt.NDArray[np.bool_]]
    at: Callable[[Any, Any], Array]
    windows: WindowSpec | None = None
    bands: tuple[str, ...] = ()

    @property
    def weighed(self) -> tuple[str, ...]:
        """What each feature is weighed as."""
        return self.bands or self.names


def check_space(space: Any) -> None:
    """Refuse a space that is not known."""
    if space not in get_args(Space):
        raise SpecError(f"space is {space!r}; use one of {get_args(Space)}.{did_you_mean(str(space), get_args(Space))}")


def layers_of(ds: xr.Dataset, model: Any, space: Space) -> Layers:
    """Lay a space out over a cube of (y, x), lazily.

    Raises
    ------
    BandError, GridError
        As for :func:`misoxr.mapping.predict.predict`.
    SpecError
        If the model has no bands, or no embedding where one is asked for.
    """
    spec = model.spec
    if not spec.bands:
        raise SpecError(f"Model {spec.name!r} sees coordinates alone, so no pixel is unlike another; give a model of bands.")
    if space == "embedding":
        return _embedded(ds, model)
    cube = named(ds, spec)
    geobox = check(cube, spec)
    bands = stack(cube, spec)
    if space == "bands":
        return _by_band(spec, geobox, bands)
    scaling = _scaling_of(model)
    kind: Literal["neighbourhood"] = "neighbourhood"

    def at(rows: Any, columns: Any) -> Array:
        (found,) = computed(features_at(kind, scaling, spec, bands, geobox, rows, columns))
        table: Array = found
        if scaling is None:  # a scaling refuses what it is given
            _refuse_fills(spec, table[: len(spec.bands)])
        return table

    return Layers(feature_names(kind, scaling, spec), geobox, features(kind, scaling, spec, bands, geobox), _is_marked, at)


def _by_band(spec: ModelSpec, geobox: GeoBox, bands: da.Array) -> Layers:
    """Lay the bands of a model out, in its units; directions as sine and cosine, for 359 degrees are near to 1."""
    if all(band.kind != "circular" for band in spec.bands):
        names = tuple(band.name for band in spec.bands)
        return Layers(names, geobox, bands, partial(valid_pixels, spec), partial(_bands_at, spec, bands))
    pairs = [(band.name, suffix) for band in spec.bands for suffix in (("_sin", "_cos") if band.kind == "circular" else ("",))]
    seen = da.map_blocks(
        _channels, bands, spec=spec, chunks=((len(pairs),), *bands.chunks[1:]), dtype="float32", meta=np.empty((0, 0, 0), "float32")
    )
    names = tuple(f"{name}{suffix}" for name, suffix in pairs)

    def at(rows: Any, columns: Any) -> Array:
        return _channels(_bands_at(spec, bands, rows, columns), spec)

    return Layers(names, geobox, seen, partial(_has_channels, spec=spec), at, bands=tuple(name for name, _ in pairs))


def _bands_at(spec: ModelSpec, bands: da.Array, rows: Any, columns: Any) -> Array:
    """Compute bands (band, point) at positions, without usual fill values."""
    values = values_at(bands, rows, columns)
    _refuse_fills(spec, values)
    return values


def _refuse_fills(spec: ModelSpec, values: Array) -> None:
    """Refuse usual fill values in bands (band, point) of valid points: distances between points would follow from these alone."""
    for band, own in zip(spec.bands, values[:, valid_pixels(spec, values)], strict=True):
        refuse_fill(band, own)


def _channels(bands: Array, spec: ModelSpec) -> Array:
    """Return the channels (channel, ...) of raw bands (band, ...), modality after modality."""
    parts, first = [], 0
    for modality in spec.modalities:
        parts.append(channels(modality, bands[first : first + len(modality.bands)]))
        first += len(modality.bands)
    return np.concatenate(parts)


def _has_channels(block: Array, spec: ModelSpec) -> npt.NDArray[np.bool_]:
    """Return where every required modality has at least one valid channel, as :func:`misoxr.cube.scaling.valid_pixels` does of bands."""
    valid, first = np.ones(block.shape[1:], dtype=bool), 0
    for modality in spec.modalities:
        if modality.required:
            valid &= np.isfinite(block[first : first + modality.channels]).any(axis=0)
        first += modality.channels
    return valid


def _scaling_of(model: Any) -> Scaling | None:
    """Return a model's scaling of its bands; of estimators on embeddings, the first network's."""
    found: Scaling | None = (model.pairs[0].network if isinstance(model, EmbeddedModel) else model).scaling
    return found


def _embedded(ds: xr.Dataset, model: Any) -> Layers:
    """Lay the embedding of a network out, or those of several behind each other."""
    if isinstance(model, PixelModel):
        raise SpecError(f"{model!r} has no embedding: it is made of estimators; use space='bands' or space='neighbourhood'.")
    networks = [pair.network for pair in model.pairs] if isinstance(model, EmbeddedModel) else [model]
    found = [(*prepared(ds, network, PLAIN)[:2], network.spec) for network in networks]
    parts = [embedding_of(cube, job, spec)[0] for cube, job, spec in found]
    layers = parts[0] if len(parts) == 1 else da.concatenate(parts).rechunk({0: -1})
    job = found[0][1]

    def at(rows: Any, columns: Any) -> Array:
        row, column = (np.floor(np.asarray(part)) + 0.5 for part in (rows, columns))  # as the map has them: at the pixels' centres
        every = np.arange(len(row))
        seen = [gather(stack(cube, spec), replace(one, embeds=True), spec, every, row, column) for cube, one, spec in found]
        table: Array = np.concatenate(computed(*seen))
        return table

    names = tuple(f"embedding_{number}" for number in range(layers.shape[0]))
    return Layers(names, job.geobox, layers, _is_complete, at, job.plan.y.spec)


def _is_marked(block: Array) -> npt.NDArray[np.bool_]:
    """Return where the layer behind all features says that there is valid input."""
    marked: npt.NDArray[np.bool_] = block[-1] > 0
    return marked


def _is_complete(block: Array) -> npt.NDArray[np.bool_]:
    return np.ones(block.shape[1:], dtype=bool)  # an embedding is NaN elsewhere
