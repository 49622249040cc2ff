"""The cache of a cross-validation: the answers of each model, seed and fold, and a fingerprint of what they belong to."""

import glob
import hashlib
import io
import json
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask.array as da
import fsspec
import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from fsspec.implementations.local import LocalFileSystem
from odc.geo.geobox import GeoBox

from misoxr._version import __version__
from misoxr.cube.cutouts import cutouts_of
from misoxr.cube.features import reach_of
from misoxr.errors import SpecError, StoreError, note, require
from misoxr.estimators.baselines import Baseline, baseline, is_baseline
from misoxr.grid.geobox import geobox_of
from misoxr.model.files import sha256_of
from misoxr.paths import expanded, scratch, settle, writing
from misoxr.points.read import encode

__all__ = ["Cache", "Unit", "digest", "fingerprint", "imagery_sha256", "reach_seen", "squares_seen"]

Integers = npt.NDArray[np.int64]
AT_ONCE = 2**26
"""Bytes of imagery that are hashed at once."""
SAME = ("workers", "progress")
"""Settings that change no result."""


@dataclass(frozen=True)
class Unit:
    """One model, seed and fold."""

    model: str
    seed: int
    fold: int


def digest(*arrays: Any) -> str:
    """Return a hash of arrays."""
    found = hashlib.sha256()
    for array in map(np.ascontiguousarray, arrays):
        found.update(f"{array.dtype}{array.shape}".encode())  # or what one ends with could be what the next begins with
        found.update(array.tobytes())
    return found.hexdigest()


def reach_seen(estimator: Any, options: Mapping[str, Any]) -> int | None:
    """Return how many pixels around a point's own an estimator sees; None where it sees windows, as networks do, and what scales bands."""
    if not is_baseline(estimator):
        return None
    chosen = (
        baseline(estimator) if isinstance(estimator, str) else estimator if isinstance(estimator, Baseline) else Baseline(estimator)
    )
    scaling = chosen.scaling if options.get("scaling") is None else options["scaling"]
    return None if isinstance(scaling, str) and scaling != "none" else reach_of(chosen.features)


def squares_seen(rows: Any, columns: Any, layer: Any, geobox: GeoBox, reach: int | None, size: int) -> tuple[Integers, int]:
    """Return squares of pixels that hold all that a model sees of points: layer and first pixel of each (square, 3), and their side.

    Parameters
    ----------
    rows, columns : array (point,)
        Fractional pixels of the points.
    layer : array (point,)
        Their years.
    reach : int or None
        As :func:`reach_seen` has it. Within it, a square is around each point's pixel. For windows, squares tile all windows that hold a
        point, and the cutouts that training reads around it (:func:`misoxr.cube.cutouts.read_cutouts`).
    size : int
        Side of a window, pixels.
    """
    pixel = np.floor(np.stack([rows, columns], axis=-1)).astype("int64")
    lengths = np.array([geobox.shape.y, geobox.shape.x])
    side = size if reach is None else 2 * reach + 1
    if reach is None:
        steps = np.array([(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)])
        # A cutout at the cube's end begins two windows before it.
        first = np.minimum((pixel[:, None] // size + steps) * size, lengths - np.where(steps < 0, 2 * size, size))
    else:
        first = np.minimum(pixel - reach, lengths - side)[:, None]
    own = np.broadcast_to(np.asarray(layer)[:, None, None], (*first.shape[:2], 1))
    return np.unique(np.concatenate([own, first.clip(0)], axis=-1).reshape(-1, 3), axis=0), side


def imagery_sha256(bands: Sequence[da.Array], squares: Integers, side: int) -> str:
    """Return a hash of all pixels of squares, as :func:`squares_seen` has them, whatever the chunks; each chunk is read once."""
    found = hashlib.sha256(digest(squares).encode())
    with cutouts_of(bands, squares[:, 1:], side, squares[:, 0]) as cutouts:
        each = max(1, AT_ONCE // (4 * int(np.prod(cutouts.shape))))
        for start in range(0, len(cutouts), each):
            found.update(np.ascontiguousarray(cutouts.open()[start : start + each]).tobytes())
    return found.hexdigest()


def fingerprint(
    ds: xr.Dataset, estimators: Any, specs: Any, imagery: Mapping[str, str], points: gpd.GeoDataFrame, labels: Any, folds: Any
) -> dict[str, Any]:
    """Describe a run by its points, labels, folds and grid, and each model by its specification, settings and imagery.

    Labels are those that are scored, and all that points have: a model may learn from censored ones, which are never scored.

    Raises
    ------
    SpecError
        If a model holds what no other process can be told, such as a lambda.
    """
    models = {}
    for name, (estimator, options) in estimators.items():
        settings = {key: value for key, value in options.items() if key not in ("like", *SAME)}
        if settings.get("pretrained"):  # what lies at an address may change
            settings["pretrained"] = {key: sha256_of(uri) for key, uri in settings["pretrained"].items()}
        models[name] = {"spec": specs[name].to_dict(), "imagery": imagery[name]}
        try:
            models[name] |= {"model": _hash(estimator), "settings": {key: _hash(value) for key, value in sorted(settings.items())}}
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise SpecError(
                f"{name!r} cannot be described in a store ({error}); give functions and classes that a module defines, or no store."
            ) from error
    xy = np.stack([points.geometry.x, points.geometry.y])
    learnt = encode(points, next(iter(specs.values())).tasks)  # models that are compared have the same tasks
    both = (values for of in (labels, learnt) for _, values in sorted(of.items()))
    common = {
        "points": digest(xy, *both, *_observation(points)),
        "folds": digest(*(part for fold in folds for part in fold)),
        "grid": repr(geobox_of(ds)),
        "version": __version__,
    }
    return json.loads(json.dumps({**common, "models": models}))  # type: ignore[no-any-return]


def _observation(points: gpd.GeoDataFrame) -> list[Any]:
    """Return what the points tell of how they were observed, from which models learn, too."""
    known = [points[name] for name in ("accuracy", "date", "depth") if name in points.columns]
    return [pd.util.hash_pandas_object(column.astype(str), index=False).to_numpy() for column in known]


def _hash(value: Any) -> str:
    """Return a hash that another process finds, too; an estimator's as it is before it is fitted."""
    base = require("sklearn.base", "train")
    if isinstance(value, Baseline):
        told = {one.name: getattr(value, one.name) for one in fields(value)}
        told["network"] = getattr(value.network, "sha256", value.network)  # of a trained one, its weights by their hash
        value = {name: base.clone(one) if hasattr(one, "get_params") else one for name, one in told.items()}
    elif hasattr(value, "get_params"):
        value = base.clone(value)
    return str(require("joblib", "train").hash(value))


class Cache:
    """A directory of predictions, a file for each unit; nothing without a path."""

    def __init__(self, path: str | os.PathLike[str] | None, fingerprint: Mapping[str, Any]) -> None:
        self.system = None
        if path is None:
            return
        require("pyarrow.parquet", "parquet")
        self.system, self.root = fsspec.core.url_to_fs(expanded(path))
        try:
            self.system.makedirs(self.root, exist_ok=True)
        except OSError as error:
            raise StoreError(f"The store {path} cannot be made ({error}); give another place.") from error
        file, models = f"{self.root}/run.json", {}
        if self.system.exists(file):
            try:
                known = json.loads(self.system.cat_file(file))
            except ValueError as error:
                raise StoreError(f"{file} is damaged ({error}); give another store.") from error
            differing = sorted(key for key in fingerprint if key != "models" and known.get(key) != fingerprint[key])
            models = known.get("models", {})
            differing += [f"model {name!r}" for name, one in fingerprint["models"].items() if models.get(name, one) != one]
            if differing:
                raise StoreError(f"The store {path} holds folds of another {', '.join(differing)}; give another store.")
        common = {key: value for key, value in fingerprint.items() if key != "models"}
        texts = {name: json.dumps([common, name, one]) for name, one in fingerprint["models"].items()}
        self.known = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
        content = json.dumps({**fingerprint, "models": {**models, **fingerprint["models"]}}, indent=1).encode()
        self._put("run.json", content)

    def _name(self, unit: Unit) -> str:
        """What the name of a unit's file begins with: those of other settings lie elsewhere, whatever two runs at once make of run.json."""
        name = re.sub(r"[^\w.-]+", "_", unit.model)
        return f"{name}-{self.known[unit.model][:12]}-seed{unit.seed}-fold{unit.fold}"

    def read(self, unit: Unit) -> pd.DataFrame | None:
        """Return what was found for a unit, or None. A file ends with the checksum of its content; one that is damaged is removed."""
        if self.system is None:
            return None
        for path in sorted(self.system.glob(f"{glob.escape(self.root)}/{self._name(unit)}-*.parquet")):
            try:
                data = self.system.cat_file(path)
            except FileNotFoundError:  # another run removed it
                continue
            if path.endswith(f"-{_checksum(data)}.parquet"):
                return pd.read_parquet(io.BytesIO(data))
            note(f"The cached fold {path} is damaged, and is run again.")
            self.system.rm_file(path)
        return None

    def write(self, unit: Unit, answers: pd.DataFrame) -> None:
        """Keep what was found for a unit; a file appears only when it is complete."""
        if self.system is None:
            return
        file = io.BytesIO()
        answers.to_parquet(file, index=False)
        self._put(self._name(unit), file.getvalue(), f"-{_checksum(file.getvalue())}.parquet")

    def _put(self, name: str, data: bytes, ending: str = "") -> None:
        """Write a file whole or not at all. What is left of a killed run is found by the name without its ending."""
        assert self.system is not None
        place = f"{self.root}/{name}{ending}"
        if isinstance(self.system, LocalFileSystem):
            with scratch(Path(self.root) / name) as aside, writing(Path(place), needed=len(data)):
                aside.write_bytes(data)
                settle(aside, Path(place))
            return
        try:
            part = f"{place}.{uuid4().hex}.part"  # other runs may write it, too
            self.system.pipe_file(part, data)
            self.system.mv(part, place)
        except OSError as error:
            raise StoreError(f"{place} cannot be written ({error}); give another store.") from error


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
