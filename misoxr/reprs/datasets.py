"""What a dataset is, what the verbs of ``ds.miso`` can do with it, and what is missing: told by its metadata alone."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from misoxr.cube.check import check
from misoxr.cube.presets import bands_for
from misoxr.cube.variables import APPLICABILITY, answers_in, conformal_in
from misoxr.errors import MisoxrError
from misoxr.grid.geobox import crs_of, extent, geobox_of
from misoxr.reprs.cards import HTML, card, chips, code, full, joined, pairs, short, table
from misoxr.spec import COVARIATES, PRESETS, Band, ModelSpec

__all__ = ["dataset", "text"]

TERRAIN = 7
"""Of the presets' covariates, how many come first and are of the terrain."""
WRITES = ("plan", "to_zarr", "to_cog", "to_pyramid")
"""Verbs that take any dataset on a grid."""


@dataclass(frozen=True)
class _Sight:
    """What a dataset is, in words.

    Attributes
    ----------
    kind : str
        Image, time cube, yearly composites, maps, or no raster.
    facts : list of (str, str)
        Grid, times, chunks and so on.
    bands : list of (str, list of Band, list of str)
        Of each modality of the presets, the bands that are there, and the names of those that are missing.
    presets : list of (str, str)
        Each preset, and whether it can be fitted.
    others : list of str
        Variables that the presets do not read.
    verbs : list of str
        What applies.
    """

    kind: str
    facts: list[tuple[str, str]]
    bands: list[tuple[str, list[Band], list[str]]]
    presets: list[tuple[str, str]]
    others: list[str]
    verbs: list[str]


def dataset(ds: xr.Dataset) -> str:
    """Return what a dataset is, and what can be done with it, as a card; nothing is computed."""
    sight = _seen(ds)
    parts: list[Any] = [pairs([(name, full(words)) for name, words in sight.facts])]
    if sight.bands:
        rows = [(words, _units(ds, there), chips(missing) if missing else "–") for words, there, missing in sight.bands]
        parts.append(table(("presets read", "here (units)", "missing"), rows, wide=(1, 2)))
    if sight.presets:
        parts.append(table(("preset", ""), [(code(name), full(words)) for name, words in sight.presets], wide=(1,)))
    if sight.others:
        label = "variables" if sight.kind == "maps" else "other variables"
        parts.append(pairs([(label, chips(sight.others))]))
    parts.append(pairs([("verbs", joined([code(f".{name}") for name in sight.verbs], " "))]) if sight.verbs else HTML(""))
    return str(card("ds.miso", sight.kind, *parts, simulated=bool(ds.attrs.get("simulated"))))


def text(ds: xr.Dataset) -> str:
    """Return what a dataset is, and what can be done with it, as lines of text; nothing is computed."""
    sight = _seen(ds)
    lines = [f"<misoxr: {sight.kind}{', SIMULATED' if ds.attrs.get('simulated') else ''}>"]
    lines += [f"{name}: {words}" for name, words in sight.facts]
    for words, there, missing in sight.bands:
        lacking = f"; missing: {', '.join(missing)}" if missing else ""
        lines.append(f"{words}: {', '.join(band.name for band in there) or 'none'}{lacking}")
    lines += [f"{name}: {words}" for name, words in sight.presets]
    lines += [f"{'variables' if sight.kind == 'maps' else 'other variables'}: {', '.join(sight.others)}"] if sight.others else []
    lines += [f"verbs: {', '.join(sight.verbs)}"] if sight.verbs else []
    return "\n".join(short(one, 600) for one in lines)


def _units(ds: xr.Dataset, bands: list[Band]) -> Any:
    """Return bands with the units that they have here."""
    if not bands:
        return "none"
    told = [(band.name, ds[band.name].attrs.get("units")) for band in bands]
    return chips([name if unit in (None, "", "1") else f"{name} ({short(unit, 30)})" for name, unit in told], most=40)


def _seen(ds: xr.Dataset) -> _Sight:
    """Look at a dataset's metadata."""
    grid, fault = _grid(ds)
    imagery, covariates = bands_for(ds)
    sides = [("imagery", imagery), ("covariates", covariates)]
    bands = [
        (words, [one for one in known if one.name in ds.data_vars], [one.name for one in known if one.name not in ds.data_vars])
        for words, known in sides
    ]
    there = [band for _, found, _ in bands for band in found]
    kind = _kind(ds, there)
    facts = [("grid", fault or grid), *_times(ds), ("values", _chunks(ds))]
    names = {band.name for band in there}
    rasters = [str(name) for name, one in ds.data_vars.items() if {"y", "x"} <= set(one.dims) and name not in names]
    if kind == "maps":
        return _Sight(kind, [*facts, *_tasks(ds)], [], [], rasters, [] if fault else _verbs_of_maps(ds))
    if kind.startswith("no raster"):
        return _Sight(kind, facts[:1], [], [], [], [])
    facts += _remedies(bands[1][2])
    presets = [(name, _preset(ds, name, bands, fault)) for name in PRESETS]
    verbs = [] if fault else _verbs_of_image(kind)
    return _Sight(kind, facts, bands, presets, rasters, verbs)


def _grid(ds: xr.Dataset) -> tuple[str, str]:
    """Return the grid in words, or else why there is none."""
    try:
        box = geobox_of(ds)
    except (MisoxrError, ValueError, TypeError) as error:
        return "", short(error, 400)
    crs = box.crs
    axis = crs.proj.axis_info[0].unit_name if crs is not None and crs.proj.axis_info else ""
    unit = {"metre": " m", "degree": "°"}.get(axis, f" {axis}")
    wide, high = abs(box.affine.a), abs(box.affine.e)
    size = f"{wide:g}{unit}" if wide == high else f"{wide:g} x {high:g}{unit}"
    name = (f"EPSG:{crs.epsg}" if crs.epsg else short(crs.proj.name, 60)) if crs is not None else short(crs_of(ds), 60)
    return f"{box.shape.y:,} rows x {box.shape.x:,} columns of {size}, {name}, {extent(box)}", ""


def _times(ds: xr.Dataset) -> list[tuple[str, str]]:
    if "time" not in ds.sizes:
        return []
    count = f"{ds.sizes['time']:,} times"
    days = _days(ds)
    if days is None or not len(days):
        return [("time", count)]
    return [("time", f"{count}, {days.min():%Y-%m-%d} to {days.max():%Y-%m-%d}")]


def _days(ds: xr.Dataset) -> pd.DatetimeIndex | None:
    """Return the times of a cube, where they are an index of dates, which is in memory."""
    index = ds.indexes.get("time")
    return index if isinstance(index, pd.DatetimeIndex) else None


def _chunks(ds: xr.Dataset) -> str:
    """Say whether values are lazy, and how large they are."""
    size = f"{ds.nbytes / 1e9:,.2f} GB" if ds.nbytes >= 1e9 else f"{ds.nbytes / 1e6:,.2f} MB"
    lazy = [one for one in ds.data_vars.values() if one.chunks is not None and {"y", "x"} <= set(one.dims)]
    if not lazy:
        return f"in memory or in files, without chunks; {size}"
    sides = dict(zip(lazy[0].dims, lazy[0].chunks or (), strict=True))
    return f"lazy, in chunks of {max(sides['y']):,} x {max(sides['x']):,} pixels; {size}"


def _kind(ds: xr.Dataset, there: list[Band]) -> str:
    """Say what a dataset is."""
    rasters = [one for one in ds.data_vars.values() if {"y", "x"} <= set(one.dims)]
    if not rasters:
        return "no raster: no variable has dimensions y and x"
    flagged = any("flag_meanings" in one.attrs and one.attrs.get("flag_meanings") for one in rasters)
    if "provenance_sha256" in ds.attrs or (flagged and not there):
        return "maps"
    if not any("time" in one.dims for one in rasters):
        return "image"
    days = _days(ds)
    yearly = days is not None and len(days) > 1 and len(np.unique(days.year)) == len(days)
    return "yearly composites" if yearly else "time cube"


def _preset(ds: xr.Dataset, name: str, bands: list[tuple[str, list[Band], list[str]]], fault: str) -> str:
    """Say whether a preset can be fitted to an image, and what it would lack."""
    (_, sat, no_sat), (_, cov, no_cov) = bands
    if fault:
        return "needs a grid with a CRS"
    if not sat + cov:
        return "cannot be fitted: none of its bands is here; rename your bands, or give a ModelSpec of your own"
    size = PRESETS[name]["windows"].size
    if min(ds.sizes["y"], ds.sizes["x"]) < size:
        return f"cannot be fitted: its windows are {size} x {size} pixels, and the dataset has {ds.sizes['y']} x {ds.sizes['x']}"
    box = geobox_of(ds)
    spec = ModelSpec.preset(name, sat=sat, cov=cov, pixel_size=abs(float(box.affine.a)))
    one = ds.isel(time=0) if "time" in ds.sizes else ds
    try:
        check(one, spec)
    except MisoxrError as error:
        return f"cannot be fitted: {short(error, 300)}"
    counts = ((len(no_sat), "band", " of imagery"), (len(no_cov), "covariate", ""))
    lacking = [f"{count} {word}{'s' * (count != 1)}{of}" for count, word, of in counts if count]
    lead = "can be fitted once composite() has reduced the times" if _kind(ds, sat + cov) == "time cube" else "can be fitted"
    return f"{lead}, without {' and '.join(lacking)}" if lacking else f"{lead}, with all its bands"


def _remedies(missing: list[str]) -> list[tuple[str, str]]:
    """Say where missing covariates come from."""
    terrain, climate = (set(missing) & {band.name for band in some} for some in (COVARIATES[:TERRAIN], COVARIATES[TERRAIN:]))
    ways = ["add_terrain(dem) adds those of the terrain"] if terrain else []
    ways += ["add(climate=misoxr.covariates.climate(…)) adds those of the climate"] if climate else []
    return [("missing covariates", "; ".join(ways))] if ways else []


def _tasks(ds: xr.Dataset) -> list[tuple[str, str]]:
    """Return what maps answer, and which model made them."""
    kinds = {
        "tasks": [one.task for one in answers_in(ds)],
        "sets and intervals": conformal_in(ds),
        "applicability": [name for name in APPLICABILITY if name in ds],
    }
    found = [(kind, ", ".join(names)) for kind, names in kinds.items() if names]
    source = ds.attrs.get("source")
    return [*found, *([("source", short(source, 200))] if source else [])]


def _verbs_of_maps(ds: xr.Dataset) -> list[str]:
    return [
        "plot",
        "explore",
        "report",
        *(["area"] if any("flag_meanings" in one.attrs for one in ds.data_vars.values()) else []),
        *WRITES,
    ]


def _verbs_of_image(kind: str) -> list[str]:
    if kind == "time cube":
        return ["composite", "add", *WRITES]
    learnt = ["fit", "cross_validate", "predict_at"]
    if kind == "yearly composites":
        return ["composite", "add", *learnt, *WRITES]
    return [*learnt, "predict", "applicability", "embed", "pretrain", "add", "add_terrain", *WRITES]
