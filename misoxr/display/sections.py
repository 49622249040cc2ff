"""Sections of a report on coverage, applicability, areas and provenance, as HTML."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from misoxr.display.page import folded, paragraph
from misoxr.display.tables import decimals_for, facts, number, table

__all__ = ["applicability", "coverage", "estimates", "outside", "overall", "provenance"]

LONGEST = 200_000
"""Characters of each part of a provenance that are shown."""
SETTINGS = ("space", "threshold", "mean_distance", "training_points", "training_sha256")
"""What the area of applicability follows from, as its attributes tell."""
_AREAS = ("mapped_area", "area", "counted", "expected")
_ACCURACIES = ("users", "producers")
_WORDS = {"users": "user's accuracy", "producers": "producer's accuracy"}
_ENDS = {"_se": "standard error", "_lower": "from", "_upper": "to"}


def outside(counts: Any) -> float:
    """Return the share of a map outside the area of applicability, from its pixels by code; NaN where it has none."""
    total = int(counts[0]) + int(counts[1])
    return int(counts[0]) / total if total else float("nan")


def applicability(counts: Any, *attributes: Mapping[Any, Any]) -> str:
    """Return how much of a map lies outside the area of applicability, and what its attributes say that it follows from."""
    share = outside(counts)
    rows = {"inside": (int(counts[1]), 1 - share), "outside": (int(counts[0]), share)}
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["pixels", "share of the map"]).rename_axis(
        "area of applicability"
    )
    told = next((attrs for attrs in attributes if "threshold" in attrs), {})
    settings = [(name.replace("_", " "), _plain(told[name])) for name in SETTINGS if name in told]
    words = (
        f"{number(100 * share, 1)} % of the map lies outside the area of applicability. The ground there is less like the training points "
        "than they are like each other, and the scores of a cross-validation do not hold."
    )
    return paragraph(words) + table(frame, "Pixels with valid input, counted block by block", decimals=4) + facts(settings)


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return f"{value:.5g}" if isinstance(value, float) else value if isinstance(value, int | str) else str(value)


# ---- coverage, areas, accuracies


def overall(attrs: Mapping[Any, Any]) -> str:
    """Return the overall accuracy of a table's attributes in words; none where there is none, or several."""
    found = attrs.get("overall")
    if not isinstance(found, int | float):
        return ""
    words = f"Overall accuracy: {number(float(found))}"
    if "overall_se" in attrs:
        words += f" ± {number(float(attrs['overall_se']))} (standard error)"
    if {"overall_lower", "overall_upper"} <= set(attrs):
        words += f", {number(float(attrs['overall_lower']))} to {number(float(attrs['overall_upper']))}"
    return f"{words}."


def estimates(frame: pd.DataFrame, name: str, what: str) -> str:
    """Return a table of areas, accuracies or coverages, with what its attributes tell.

    Areas and accuracies of one table stand apart. Attributes by region are a table of their own.
    """
    attrs = frame.attrs
    level = f"; intervals of {float(attrs['level']):.0%}" if "level" in attrs else ""
    unit = f", {attrs['unit']}" if attrs.get("unit") else ""
    accuracies = [column for column in frame.columns if str(column).startswith(_ACCURACIES)]
    others = [column for column in frame.columns if column not in accuracies]
    both = bool(accuracies) and any(str(column).startswith(_AREAS) for column in others)
    if both:
        parts = _shown(frame[others], f"{name}: {what}{unit}{level}") + _shown(frame[accuracies], f"{name}: accuracy{level}")
    else:
        parts = _shown(frame, f"{name}: {what}{'' if accuracies else unit}{level}")
    words = overall(attrs)
    regions = {str(key): value for key, value in attrs.items() if isinstance(value, Mapping)}
    if regions:
        columns = {key: value if isinstance(value, Mapping) else {} for key, value in regions.items()}
        parts += _shown(pd.DataFrame(columns).rename_axis("region"), f"{name}: by region")
    own = {
        "unit",
        "level",
        "map",
        "task",
        *regions,
        *(("overall", "overall_se", "overall_lower", "overall_upper") if words else ()),
    }
    told = [(str(key).replace("_", " "), _plain(value)) for key, value in attrs.items() if key not in own]
    return parts + (paragraph(words) if words else "") + (facts(told) if told else "")


def coverage(frame: pd.DataFrame, name: str) -> str:
    """Return how often prediction sets held the truth: by class, and by region where the table has regions."""
    what = "coverage of prediction sets"
    if "region" not in frame.index.names or "class" not in frame.index.names:
        return estimates(frame, name, what)
    regions, classes = (frame.index.get_level_values(level) for level in ("region", "class"))
    by_region, by_class = frame[classes == "all"].droplevel("class"), frame[regions == "all"].droplevel("region")
    if by_region.empty or by_class.empty:
        return estimates(frame, name, what)  # another table than evaluated gives
    by_class.attrs = {}  # told once, below the other table
    if list(by_class.index) == ["all"]:  # a regression, which the other table tells of
        return estimates(by_region, name, f"{what} by region")
    return estimates(by_class, name, f"{what} by class, in all regions") + estimates(
        by_region, name, f"{what} by region, of all classes"
    )


def _shown(frame: pd.DataFrame, caption: str) -> str:
    names = [one or ("class" if frame.index.nlevels == 1 else "") for one in frame.index.names]
    headers = {column: _header(str(column)) for column in frame.columns}
    return table(frame.rename_axis(names), caption, decimals=_decimals(frame), columns=headers)


def _header(column: str) -> str:
    stem, end = _split(column)
    words = _WORDS.get(stem, stem.replace("_", " "))
    return f"{words}, {_ENDS[end]}" if end else words


def _split(column: str) -> tuple[str, str]:
    end = next((end for end in _ENDS if column.endswith(end)), "")
    return column.removesuffix(end), end


def _decimals(frame: pd.DataFrame) -> dict[Any, int]:
    """Return the decimals of each column: areas have the same, as have a quantity, its error and its limits; shares have three."""
    groups: dict[str, list[Any]] = {}
    for column in frame.columns:
        if pd.api.types.is_float_dtype(frame[column]):
            stem, _ = _split(str(column))
            groups.setdefault("area" if stem in _AREAS else stem, []).append(column)
    places: dict[Any, int] = {}
    for stem, columns in groups.items():
        values = frame[columns].to_numpy(dtype="float64").ravel()
        shares = stem != "area" and not (np.abs(values) > 1).any()
        places |= dict.fromkeys(columns, 3 if shares else decimals_for(values))
    return places


# ---- provenance


def provenance(maps: xr.Dataset) -> str:
    """Return the maps' attributes and variables, and their provenance to unfold."""
    own = [(str(key), _plain(value)) for key, value in maps.attrs.items() if key != "provenance"]
    rows = [
        (str(one.attrs.get("long_name", "")), str(one.attrs.get("units", "")), str(one.dtype), ", ".join(map(str, one.dims)))
        for one in maps.data_vars.values()
    ]
    index = pd.Index(list(map(str, maps.data_vars)), name="variable")
    variables = table(pd.DataFrame(rows, index, ["what it is", "units", "type", "dimensions"]), "Variables of the maps")
    try:
        found = json.loads(maps.attrs.get("provenance", "{}"))
    except (TypeError, ValueError):
        found = {"provenance": str(maps.attrs["provenance"])}
    parts: Sequence[tuple[Any, Any]] = list(found.items()) if isinstance(found, dict) else [("provenance", found)]
    return facts(own) + variables + "".join(folded(str(key), _json(value)) for key, value in parts)


def _json(value: Any) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    left = len(text) - LONGEST
    cut = f"\n… {left:,} more characters are left out; the maps' attribute provenance has all." if left > 0 else ""
    return f"<pre>{escape(text[:LONGEST], quote=False)}{cut}</pre>"
