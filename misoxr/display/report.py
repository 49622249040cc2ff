"""Write a report: one file of HTML that says what maps show, what they are worth, and where they come from."""

import os
from datetime import UTC, datetime
from html import escape
from typing import Any

import pandas as pd
import pyproj
import xarray as xr
from odc.geo.geobox import GeoBox

from misoxr._version import __version__
from misoxr.display import sections
from misoxr.display.given import Tables, applicable_of, bands_of, model_of, tables_of, tasks_of
from misoxr.display.page import Section, items, page, paragraph
from misoxr.display.pictures import Ground, composite, figure, legend_of
from misoxr.display.scored import Scored
from misoxr.display.tables import facts, number
from misoxr.display.thinned import (
    Drawing,
    as_drawn,
    counted,
    drawn,
    groups_of,
    level_of,
    read,
    refuse_long,
    same_scale,
    side_of,
    thin,
    thinning,
)
from misoxr.errors import SpecError, StoreError, gathered, require
from misoxr.evaluation.scores import Scores
from misoxr.grid.geobox import geobox_of
from misoxr.io.replace import located
from misoxr.model.files import put
from misoxr.spec.components import check_flags

__all__ = ["report"]


@gathered
def report(
    maps: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    scores: Scores | None = None,
    model: str | None = None,
    coverage: Tables | None = None,
    applicability: xr.Dataset | None = None,
    areas: Tables | None = None,
    accuracy: Tables | None = None,
    image: xr.Dataset | None = None,
    pyramid: str | os.PathLike[str] | None = None,
    title: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write what maps show and what they are worth into one file of HTML, which needs no network and no other file.

    Each section is there where its input is given or among the maps. Pictures are drawn from thinned pixels, so the file stays under 10 MB
    for a map of any size. All that is given is compared with the maps before anything is computed.

    Parameters
    ----------
    maps : Dataset
        From ``predict`` or :func:`misoxr.open_maps`, on a grid with CRS. All maps (y, x) are drawn, and of probabilities (class, y, x) the
        greatest.
    path : str or path
        The file, a local path or a URL of fsspec.
    scores : Scores, optional
        Of a cross-validation of the maps' tasks: scores and differences to baselines, confusion, and reliability.
    model : str, optional
        Which of the scores' models made the maps: its confusion and reliability are shown. By default the maps' provenance tells. Where it
        does not, the report shows a model of the same name, or the first that is no baseline. It then says that this is not known to be the maps' own.
    coverage : DataFrame or mapping of task to DataFrame, optional
        How often prediction sets held the true class, as ``misoxr.uncertainty.evaluated`` tells.
    applicability : Dataset, optional
        From ``image.miso.applicability``: ``applicable`` (y, x) on the maps' grid, 1 inside the area of applicability and 0 outside. Leave it out where
        it is among the maps.
    areas, accuracy : DataFrame or mapping of task to DataFrame, optional
        From ``misoxr.sampling``: a row for each class of a class map, and columns such as ``area, area_se, area_lower, area_upper``, or ``users,
        producers``. Their attributes, such as ``unit``, ``level`` and ``overall``, are told, too. Give a mapping where several maps have these classes.
    image : Dataset, optional
        With red, green and blue, for a picture in true colour. It overlaps the maps, in their CRS.
    pyramid : str or path, optional
        What ``to_pyramid`` wrote of these maps. Pictures are drawn from its coarsest level that is fine enough, without reading the maps; those of maps
        that it lacks are drawn as without it.
    title : str, optional
        Heading of the page; by default the maps' title.
    overwrite : bool, optional
        Replace a file that exists, once the new one is complete. Otherwise a file that exists is an error.

    Raises
    ------
    BandError
        If there is no map to draw, its classes and colours do not go together, or the image lacks red, green or blue.
    GridError
        If the maps have no regular grid or CRS, or what is given lies on another.
    PointsError
        If the scores are of other tasks or classes than the maps, or ``model`` is not among them.
    SpecError
        If tables are of other classes than the maps, ``model`` is given without scores, applicability is given twice, or an argument is of
        another kind.
    StoreError
        If the file exists or cannot be written, the pyramid cannot be read or is of other maps, or lazy maps would take more than two minutes to be read or computed.
    MissingDependencyError
        If matplotlib is missing (extra ``plot``), or scikit-learn for scores (extra ``train``).

    Notes
    -----
    Lazy maps are computed once for all pictures, block by block. Where there are more than four blocks, one is timed first.

    Examples
    --------
    >>> maps.miso.report("report.html", image=image, title="Permafrost and soils of the Tanana")
    """
    require("matplotlib", "plot")
    check_flags(overwrite=overwrite)
    if not isinstance(title, str | None):
        raise SpecError(f"title is {title!r}; give a text, or leave it out.")
    uri = _free(path, overwrite=overwrite)
    maps = as_drawn(maps)
    box = geobox_of(maps)
    maps = applicable_of(maps, applicability, box)
    groups = groups_of(maps)
    found = None if scores is None else Scored(scores, tasks_of(maps, scores), *model_of(maps, scores, model))
    if scores is None and model is not None:
        raise SpecError(f"model is {model!r}, and names a model of scores=; give these, too, or leave it out.")
    tables = {what: tables_of(maps, what, one) for what, one in (("coverage", coverage), ("areas", areas), ("accuracy", accuracy))}
    bands = bands_of(image, box)

    pictures, counts = _pictures(maps, groups, bands, pyramid)
    shown = _composite(pictures, None if image is None else geobox_of(image)) + _drawn(pictures, groups, Ground.of(box))
    parts = [Section("maps", "What do the maps show?", shown)]
    parts += _worth(found, tables, counts, _attributes(maps, applicability))
    parts.append(Section("provenance", "Where do the maps come from?", sections.provenance(maps)))

    about = [one.attrs for one in (maps, image, applicability) if one is not None] + ([] if scores is None else [scores.about])
    head = _head(maps, box, simulated=any(bool(one.get("simulated")) for one in about)) + items(_key(found, counts, tables))
    put(uri, page(title or _title(maps, groups), head, parts, f"misoxr {__version__}").encode())


def _free(path: str | os.PathLike[str], *, overwrite: bool) -> str:
    """Return the address of a file that may be written."""
    uri, system, place = located(path)
    if system.isdir(place):
        raise StoreError(f"{uri} is a directory; give a file in it, such as {uri}/report.html.")
    if system.exists(place) and not overwrite:
        raise StoreError(f"{uri} exists; give another path, or overwrite=True to replace it.")
    return uri


def _pictures(
    maps: xr.Dataset, groups: dict[str, list[str]], bands: dict[str, xr.DataArray], pyramid: str | os.PathLike[str] | None
) -> tuple[dict[str, Drawing], Any]:
    """Read what is drawn, and count the pixels by ``applicable``."""
    names = [name for group in groups.values() for name in group]
    side = side_of(len(names) + bool(bands))
    coarse, note = (maps[[]], "") if pyramid is None else level_of(maps, pyramid, side)
    whole = [name for name in names if name not in coarse]
    drawings = drawn(coarse, [name for name in names if name in coarse], side, note) | drawn(maps, whole, side)
    for name in names:
        if "flag_meanings" in maps[name].attrs:
            legend_of(maps[name])  # tells what is wrong with it
    drawings |= {f"image {name}": Drawing(thin(band, side), thinning(band, side)) for name, band in bands.items()}
    counting = [name for name in ("applicable",) if name in names]
    refuse_long({name: maps[name] for name in dict.fromkeys([*whole, *counting])})
    refuse_long(bands)
    pictures, counts = read(drawings, {name: counted(maps[name]) for name in counting})
    return pictures, counts.get("applicable")


def _composite(pictures: dict[str, Drawing], box: GeoBox | None) -> str:
    """Return words on all pictures, and the imagery as a figure, where it has a grid."""
    words = paragraph("North of the grid is up. Every pixel is drawn, unless a note says otherwise.")
    if box is None:
        return words
    red, green, blue = (pictures[f"image {name}"] for name in ("red", "green", "blue"))
    return f'{words}<div class="maps">{composite(red.array, green.array, blue.array, Ground.of(box), red.note)}</div>'


def _drawn(pictures: dict[str, Drawing], groups: dict[str, list[str]], ground: Ground) -> str:
    """Return the maps as figures, by task."""
    parts = []
    for group, names in groups.items():
        figures = []
        for name in names:
            array = pictures[name].array.rename(name)
            beside = [pictures[other].array for other in same_scale(name, names)]
            figures.append(figure(array, legend_of(array, beside), ground, pictures[name].note))
        heading = group or "Where to believe them"
        parts.append(f'<h3>{escape(heading)}</h3><div class="maps">{"".join(figures)}</div>')
    return "".join(parts)


def _worth(
    found: Scored | None, tables: dict[str, dict[str, pd.DataFrame]], counts: Any, attributes: list[dict[Any, Any]]
) -> list[Section]:
    """Return the sections on what maps are worth: those that have something to say."""
    covered = "".join(sections.coverage(frame, name) for name, frame in tables["coverage"].items())
    areas = _tables(tables["areas"], "area") + _tables(tables["accuracy"], "accuracy")
    parts = [
        Section("scores", "How good are they?", "" if found is None else found.tables()),
        Section("quality", "What is mistaken for what, and do the probabilities hold?", "" if found is None else found.quality()),
        Section("coverage", "Do the prediction sets hold the truth?", covered),
        Section(
            "applicability", "Where do the scores hold?", "" if counts is None else sections.applicability(counts, *attributes)
        ),
        Section("areas", "How much is there, and how accurate is it?", areas),
    ]
    return [part for part in parts if part.content]


def _attributes(maps: xr.Dataset, applicability: xr.Dataset | None) -> list[dict[Any, Any]]:
    """Return the attributes that may tell what the area of applicability follows from."""
    own = [maps[name].attrs for name in ("applicable", "dissimilarity_index") if name in maps]
    return [*own, (maps if applicability is None else applicability).attrs]


def _key(found: Scored | None, counts: Any, tables: dict[str, dict[str, pd.DataFrame]]) -> list[str]:
    """Return what a reader wants to know first, in sentences."""
    said = [] if found is None else found.key()
    if counts is not None:
        said.append(f"{number(100 * sections.outside(counts), 1)} % of the map lies outside the area of applicability.")
    for name, frame in (tables["areas"] | tables["accuracy"]).items():
        if words := sections.overall(frame.attrs):
            said.append(f"{name}: {words[0].lower()}{words[1:]}")
    return said


def _title(maps: xr.Dataset, groups: dict[str, list[str]]) -> str:
    """Return the maps' title, unless it is as long as the words for an estimator."""
    told = str(maps.attrs.get("title") or "")
    return told if 0 < len(told) < 120 and "\n" not in told else f"Maps: {', '.join(filter(None, groups))}"


def _tables(tables: dict[str, pd.DataFrame], what: str) -> str:
    return "".join(sections.estimates(frame, name, what) for name, frame in tables.items())


def _head(maps: xr.Dataset, box: GeoBox, *, simulated: bool) -> str:
    """Return what maps are of, and a banner where anything is simulated."""
    crs = pyproj.CRS(str(box.crs))
    west, south, east, north = box.boundingbox
    unit = {"metre": " m", "degree": "°"}.get(crs.axis_info[0].unit_name, f" {crs.axis_info[0].unit_name}")
    height, width = (abs(side) for side in (box.affine.e, box.affine.a))
    code = f" (EPSG:{box.crs.epsg})" if box.crs is not None and box.crs.epsg else ""
    banner = (
        '<p class="banner"><strong>SIMULATED.</strong> Imagery or labels come from a simulator, not from measurements. No figure here says '
        "anything of a real place.</p>"
    )
    told = [
        ("Extent", f"x {west:.10g} to {east:.10g}, y {south:.10g} to {north:.10g}"),
        ("CRS", f"{crs.name}{code}"),
        (
            "Pixels",
            f"{box.shape.y:,} rows x {box.shape.x:,} columns, of {width:g}{unit if width == height else f' x {height:g}{unit}'}",
        ),
        ("Source", maps.attrs.get("source", "not told by the maps")),
        ("Written", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, by misoxr {__version__}"),
    ]
    return (banner if simulated else "") + facts(told)
