"""Map a network's embedding over a datacube, lazily: what its heads see of every pixel."""

import os
from collections.abc import Sequence
from dataclasses import replace
from math import isqrt
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr.errors import SpecError, gathered
from misoxr.estimators.embedded import EmbeddedModel
from misoxr.estimators.pixel_model import PixelModel
from misoxr.grid.geobox import assign
from misoxr.mapping.job import Job, Settings, dtype_of, laid_out, prepared
from misoxr.mapping.load import opened
from misoxr.mapping.provenance import attributes
from misoxr.spec import ModelSpec, Task, WindowSpec

if TYPE_CHECKING:
    from misoxr.model.checkpoint import Model

__all__ = ["embed", "embedding_of", "mean_of", "prepared_pairs"]

LARGEST = 2**28
"""Bytes of a block, at the most."""


@gathered
def embed(
    ds: xr.Dataset,
    model: "Model | str | os.PathLike[str]",
    *,
    windows: WindowSpec | None = None,
    resolution: float | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
) -> xr.Dataset:
    """Map a network's embedding over a datacube, lazily: the features of every pixel that its heads answer from.

    Other estimators can learn from them, and similar places have similar ones. They are blended over windows as the answers of ``predict``
    are. A head's answer to a blended embedding is near the map's, and not the same where windows overlap.

    Parameters
    ----------
    ds : Dataset
        As for :func:`misoxr.mapping.predict.predict`. A block of an embedding is at most 256 MiB: larger chunks are cut (of 64 features,
        those above 1024 x 1024 positions; of 1024 features, those above 256 x 256). Windows that reach over the edges of blocks are encoded
        once for each block, so smaller blocks take longer.
    model : Model, str or path
        One network, or the path or URL of its file.
    windows, resolution, device, precision, batch_size : optional
        As for :func:`misoxr.mapping.predict.predict`.

    Returns
    -------
    Dataset
        Lazy, on the grid of ``ds`` or with ``resolution``: ``embedding`` (feature, y, x) float32 (float64 with that precision), of
        ``model.spec.width`` features without units. NaN where a required modality has no valid band.

    Raises
    ------
    SpecError
        If the model is no network, there are several, or it sees coordinates alone; or an argument is not valid.
    BandError, GridError, CheckpointError
        As for :func:`misoxr.mapping.predict.predict`.

    References
    ----------
    arXiv 2506.17302: the embedding is the answer of its visual mapper.

    Examples
    --------
    >>> embedded = image.miso.embed(model)
    >>> embedded.miso.to_zarr("embedding.zarr")
    >>> image = image.miso.add(embedding=embedded.embedding)  # embedding_0, embedding_1, ... beside the other bands
    """
    if isinstance(model, list | tuple):
        raise SpecError(f"There are {len(model)} models; give one. Embeddings of different networks cannot be averaged.")
    found = opened(model)
    if isinstance(found, EmbeddedModel):
        raise SpecError(
            f"{found!r} has estimators on embeddings of {len(found.pairs)} networks; give one of these: fitted.pairs[0].network."
        )
    if isinstance(found, PixelModel):
        raise SpecError(
            f"{found!r} has no embedding: it is made of estimators; give a network, such as fit('miso-nano', points) makes."
        )
    cube, job, _ = prepared(ds, found, Settings(None, windows, False, device, precision, batch_size, False))
    layers, geobox = embedding_of(cube, job, found.spec, resolution)
    attrs = {"long_name": f"embedding of {found.spec.name}", "units": "1"}
    features = xr.Variable("feature", np.arange(found.spec.width), {"long_name": "feature of the embedding"})
    array = xr.DataArray(layers, dims=("feature", "y", "x"), coords={"feature": features}, attrs=attrs)
    out: xr.Dataset = assign(xr.Dataset({"embedding": array}), geobox)
    out.attrs = attributes(ds, found, job.plan.y.spec, job.settings())
    out.attrs["title"] = f"{found.spec.name}: embedding ({found.spec.width} features)"
    return out


def embedding_of(ds: xr.Dataset, job: Job, spec: ModelSpec, resolution: Any = None) -> tuple[da.Array, GeoBox]:
    """Lay a network's embedding out, (feature, y, x), from the job of a map and a cube with the model's names; and return its grid."""
    if not spec.modalities:
        raise SpecError(
            f"Model {spec.name!r} sees coordinates alone and has no embedding of imagery; give a model with modalities."
        )
    longest = isqrt(LARGEST // (np.dtype(dtype_of(job)).itemsize * spec.width))
    return laid_out(ds, replace(job, embeds=True), spec, resolution, longest=longest)


def prepared_pairs(
    ds: xr.Dataset, model: EmbeddedModel, settings: Settings
) -> tuple[list[tuple[xr.Dataset, Job, PixelModel]], list[Task]]:
    """Check a cube against each network of estimators on embeddings, and return its cube, job and estimators; and the tasks."""
    given = [name for name in ("location", "compiled") if getattr(settings, name)]
    if given:
        words = ["compile" if name == "compiled" else name for name in given]
        raise SpecError(f"{words} are settings of a network's heads, and estimators answer instead of these; leave them out.")
    found = [(*prepared(ds, pair.network, settings)[:2], pair.estimators) for pair in model.pairs]
    return [(cube, replace(job, embeds=True), estimators) for cube, job, estimators in found], settings.tasks_of(model.spec)


def mean_of(parts: Sequence[da.Array]) -> da.Array:
    """Average what several pairs of network and estimators answer, block by block."""
    if len(parts) == 1:
        return parts[0]
    mean: da.Array = da.map_blocks(_mean, *parts, dtype="float32", meta=np.empty((0,) * parts[0].ndim, "float32"))
    return mean


def _mean(*blocks: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    mean: npt.NDArray[np.float32] = np.mean(blocks, axis=0, dtype="float64").astype("float32")
    return mean
