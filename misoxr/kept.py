"""What cross-validation keeps of a run: the answers of every model, seed and fold, and what they are answers to."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import fsspec
import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr

from misoxr._version import __version__
from misoxr.errors import StoreError, require
from misoxr.grid import geobox_of

__all__ = ["Kept", "Unit", "digest", "fingerprint"]

SAME = ("workers", "progress")
"""Settings that change no result."""


@dataclass(frozen=True)
class Unit:
    """One model, seed and fold."""

    model: str
    seed: int
    fold: int

    @property
    def file(self) -> str:
        """Name of its file in a store."""
        name = re.sub(r"[^\w.-]+", "_", self.model)
        return f"{name}-{hashlib.sha256(self.model.encode()).hexdigest()[:8]}-seed{self.seed}-fold{self.fold}.parquet"


def digest(*arrays: Any) -> str:
    """Return a hash of arrays."""
    found = hashlib.sha256()
    for array in map(np.ascontiguousarray, arrays):
        found.update(f"{array.dtype}{array.shape}".encode())  # or what one ends with could be what the next begins with
        found.update(array.tobytes())
    return found.hexdigest()


def fingerprint(
    ds: xr.Dataset, rivals: Any, specs: Any, imagery: Mapping[Any, str], points: gpd.GeoDataFrame, labels: Any, folds: Any
) -> dict[str, Any]:
    """Tell a run by its points, labels, folds and grid, and each model by its specification, settings and imagery."""
    models = {}
    for name, (rival, options) in rivals.items():
        estimator = getattr(rival, "estimator", rival)
        parts: list[Any] = [type(rival).__name__, rival if isinstance(rival, str) else ""]
        if hasattr(estimator, "get_params"):
            parts += [type(estimator).__name__, sorted(estimator.get_params().items())]
        parts += [getattr(rival, "features", ""), getattr(rival, "scaling", "")]
        settings = sorted((key, value) for key, value in options.items() if key not in ("like", *SAME))
        spec = specs[name]
        models[name] = {"spec": spec.to_dict(), "model": repr(parts), "settings": repr(settings), "imagery": imagery[spec.bands]}
    xy = np.stack([points.geometry.x, points.geometry.y])
    common = {
        "points": digest(xy, *(values for _, values in sorted(labels.items()))),
        "folds": digest(*(part for fold in folds for part in fold)),
        "grid": repr(geobox_of(ds)),
        "version": __version__,
    }
    return json.loads(json.dumps({**common, "models": models}))  # type: ignore[no-any-return]


class Kept:
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
        content = json.dumps({**fingerprint, "models": {**models, **fingerprint["models"]}}, indent=1).encode()
        self.system.pipe_file(f"{file}.part", content)
        self.system.mv(f"{file}.part", file)

    def read(self, unit: Unit) -> pd.DataFrame | None:
        """Return what was found for a unit, or None."""
        path = f"{self.root}/{unit.file}" if self.system is not None else ""
        if self.system is None or not self.system.exists(path):
            return None
        try:
            with self.system.open(path, "rb") as file:
                return pd.read_parquet(file)
        except (OSError, ValueError) as error:  # pyarrow's are ValueErrors
            raise StoreError(f"{path} is damaged ({error}); delete it, and its fold is run again.") from error

    def write(self, unit: Unit, answers: pd.DataFrame) -> None:
        """Keep what was found for a unit; a file appears only when it is complete."""
        if self.system is None:
            return
        path = f"{self.root}/{unit.file}"
        with self.system.open(f"{path}.part", "wb") as file:
            answers.to_parquet(file, index=False)
        self.system.mv(f"{path}.part", path)
