"""Provenance of a map: model, training, windows and input, as JSON and CF attributes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from misoxr._version import __version__
from misoxr.estimators.embedded import EmbeddedModel
from misoxr.estimators.identity import identity_of
from misoxr.estimators.pixel_model import PixelModel
from misoxr.spec import WindowSpec

if TYPE_CHECKING:
    from misoxr.model.checkpoint import Model

__all__ = ["attributes", "joint_attributes", "with_coverage", "with_reasons"]


def attributes(
    ds: xr.Dataset,
    model: "Model | PixelModel | EmbeddedModel",
    windows: WindowSpec | None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Provenance: the whole of it as JSON, which `to_zarr` moves beside the map, and its hash."""
    provenance = {
        "misoxr_version": __version__,
        "model_sha256": model.sha256,
        "identity": identity_of(model),
        "model": model.spec.to_dict(),
        "training": dict(model.record),
        "windows": None if windows is None else asdict(windows),
        "settings": dict(settings or {}),
        "input": {key: _plain(value) for key, value in ds.attrs.items()},
    }
    if not isinstance(model, PixelModel | EmbeddedModel) and model.calibration:
        provenance["calibration"] = {name: found.to_dict() for name, found in model.calibration.items()}
    text = json.dumps(provenance, sort_keys=True)
    name = _estimators(model) if isinstance(model, PixelModel | EmbeddedModel) else model.spec.name
    attrs: dict[str, Any] = {
        "Conventions": "CF-1.11",
        "title": f"{name}: " + ", ".join(task.long_name or task.name for task in model.spec.tasks),
        "source": f"misoxr {__version__}, model {name}, SHA-256 {model.sha256}",
        "references": "arXiv 2506.17302",
        "model_sha256": model.sha256,
        "provenance_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "provenance": text,
    }
    if ds.attrs.get("simulated") or model.record.get("simulated"):
        attrs["simulated"] = 1
        version = ds.attrs.get("simulator_version") or model.record.get("simulator_version")
        if version:
            attrs["simulator_version"] = str(version)
        attrs["comment"] = "Simulated: imagery or labels come from a simulator, not from measurements."
    return attrs


def _estimators(model: PixelModel | EmbeddedModel) -> str:
    """Return what was fitted, in words: of regressions the regressor, where the estimator is a classifier."""
    told = model.record.get("estimator", "scikit-learn estimator")
    regressor = model.record.get("regressor") or told
    names = dict.fromkeys(str(regressor if task.kind == "regression" else told) for task in model.spec.tasks)
    return " and ".join(" ".join(name.split()) for name in names)


def joint_attributes(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Attributes of the average of several models' answers: the first one's, with the provenance of all."""
    text = json.dumps({"models": [json.loads(part["provenance"]) for part in parts]}, sort_keys=True)
    hashes = [part["model_sha256"] for part in parts]
    marked = next((part for part in parts if part.get("simulated")), {})
    marks = {key: marked[key] for key in ("simulated", "simulator_version", "comment") if key in marked}
    return (
        dict(parts[0])
        | marks
        | {
            "title": f"mean of {len(parts)} models; {parts[0]['title']}",
            "source": f"misoxr {__version__}, models with SHA-256 {', '.join(hashes)}",
            "model_sha256": " ".join(hashes),
            "provenance_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "provenance": text,
        }
    )


def with_reasons(attrs: Mapping[str, Any], reasons: Sequence[str]) -> dict[str, Any]:
    """Attributes of a map of which something was left out: its provenance also names why."""
    return _with(attrs, excluded=list(reasons))


def with_coverage(attrs: Mapping[str, Any], coverage: float, errors: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of answers with sets and intervals: their provenance also names the coverage, and what the model's errors are known from."""
    return _with(attrs, coverage=coverage, conformal=dict(errors))


def _with(attrs: Mapping[str, Any], **told: Any) -> dict[str, Any]:
    text = json.dumps({**json.loads(attrs["provenance"]), **told}, sort_keys=True)
    return {**attrs, "provenance_sha256": hashlib.sha256(text.encode()).hexdigest(), "provenance": text}


def _plain(value: Any) -> Any:
    """Turn an attribute into JSON values."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value) or not isinstance(value, str | int | float | None):
        return str(value)
    return value
