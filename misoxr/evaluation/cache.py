"""The cache of a cross-validation: the answers of each model, seed and fold, and a fingerprint of what they belong to."""

import glob
import hashlib
import io
import json
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr
from fsspec.implementations.local import LocalFileSystem

from misoxr._version import __version__
from misoxr.errors import SpecError, StoreError, note, require
from misoxr.estimators.baselines import Baseline
from misoxr.grid.geobox import geobox_of
from misoxr.model.files import sha256_of
from misoxr.paths import expanded, scratch, settle, writing
from misoxr.points.read import encode

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
