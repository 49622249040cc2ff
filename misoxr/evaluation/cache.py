"""The cache of a cross-validation: the answers of each model, seed and fold, and a fingerprint of what they belong to."""

import hashlib
import json
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import fsspec
import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr

from misoxr._version import __version__
from misoxr.errors import SpecError, StoreError, require
from misoxr.estimators.baselines import Baseline
from misoxr.grid.geobox import geobox_of
from misoxr.model.files import sha256_of

__all__ = ["Cache", "Unit", "digest", "fingerprint"]

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


def fingerprint(
    ds: xr.Dataset, estimators: Any, specs: Any, imagery: Mapping[str, str], points: gpd.GeoDataFrame, labels: Any, folds: Any
) -> dict[str, Any]:
    """Describe a run by its points, labels, folds and grid, and each model by its specification, settings and imagery.

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
    common = {
        "points": digest(xy, *(values for _, values in sorted(labels.items()))),
        "folds": digest(*(part for fold in folds for part in fold)),
        "grid": repr(geobox_of(ds)),
        "version": __version__,
    }
    return json.loads(json.dumps({**common, "models": models}))  # type: ignore[no-any-return]


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
        self.system, self.root = fsspec.core.url_to_fs(os.fspath(path))
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
        self.system.pipe_file(f"{file}.part", content)
        self.system.mv(f"{file}.part", file)

    def _path(self, unit: Unit) -> str:
        """Where a unit's answers lie: those of other settings lie elsewhere, whatever two runs at once make of run.json."""
        name = re.sub(r"[^\w.-]+", "_", unit.model)
        return f"{self.root}/{name}-{self.known[unit.model][:12]}-seed{unit.seed}-fold{unit.fold}.parquet"

    def read(self, unit: Unit) -> pd.DataFrame | None:
        """Return what was found for a unit, or None."""
        if self.system is None or not self.system.exists(path := self._path(unit)):
            return None
        try:
            with self.system.open(path, "rb") as file:
                return pd.read_parquet(file)
        except (OSError, ValueError) as error:  # pyarrow's are ValueErrors
            raise StoreError(f"{path} is damaged ({error}); delete it, and the fold will be run again.") from error

    def write(self, unit: Unit, answers: pd.DataFrame) -> None:
        """Keep what was found for a unit; a file appears only when it is complete."""
        if self.system is None:
            return
        path = self._path(unit)
        with self.system.open(f"{path}.part", "wb") as file:
            answers.to_parquet(file, index=False)
        self.system.mv(f"{path}.part", path)
