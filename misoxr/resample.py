"""Putting rasters on a grid by georeferencing: each pixel from its own position alone, whatever the chunks."""

import math
from functools import cache, partial
from itertools import pairwise, product
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import numpy.typing as npt
import pyproj
import xarray as xr
from affine import Affine
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from odc.geo.geobox import GeoBox

from misoxr.errors import GridError
from misoxr.grid import assign, extent, geobox_of, same_grid

__all__ = ["RESAMPLINGS", "on_grid", "pixel_ratio"]

RESAMPLINGS = ("nearest", "bilinear", "average")

EDGE = 1e-6
"""How near to a pixel's edge a position counts as beyond it, in pixels."""

Floats = npt.NDArray[np.float64]
Values = npt.NDArray[np.float32]
Span = tuple[int, int]


class Frame(NamedTuple):
    """What a task needs of a grid, small to send."""

    affine: Affine
    crs: str
    degrees: bool
    shape: tuple[int, int]


def on_grid(source: xr.DataArray, geobox: GeoBox, resampling: str, chunks: tuple[int, int]) -> xr.DataArray:
    """Put a raster on a grid by georeferencing, lazily; an equal grid is joined as it is.

    The result does not depend on the chunks of either grid, to the last bit. (GDAL's warper approximates positions, and
    scales its kernels, block by block.)

    Parameters
    ----------
    source : DataArray
        Dimensions y and x with a CRS; NaN is nodata. Longitudes may run to 360.
    geobox : GeoBox
        The target grid.
    resampling : {"nearest", "bilinear", "average"}
        "bilinear" weighs the valid ones of the four nearest pixels, and leaves the raster's nodata where they are; "average"
        is the mean of the valid pixels under a target pixel, taken at no more than 16 x 16 points of it.
    chunks : (int, int)
        Chunk size of the result along y and x, pixels.

    Returns
    -------
    DataArray
        float32 unless the grids are equal; NaN outside the raster.

    Raises
    ------
    GridError
        If the raster and the grid do not overlap, or the resampling is unknown.
    """
    if resampling not in RESAMPLINGS:
        raise GridError(f"Unknown resampling {resampling!r}; use one of {RESAMPLINGS}.")
    box = geobox_of(source)
    if same_grid(box, geobox):
        return assign(source, geobox)  # type: ignore[no-any-return]
    if _window(_frame(box), _frame(geobox), (0, geobox.shape.y), (0, geobox.shape.x)) is None:
        raise GridError(
            f"The raster covers {extent(box)} and the image {extent(geobox)}: they do not overlap. "
            "Give a raster of the image's area, and check its CRS."
        )
    lazy = source if source.chunks is not None else source.chunk()
    data = _blocks(lazy.transpose("y", "x").data, box, geobox, resampling, chunks)
    kept = {name: coord for name, coord in source.coords.items() if not {"y", "x"} & set(coord.dims)}
    out = xr.DataArray(data, dims=("y", "x"), coords=kept, attrs=dict(source.attrs), name=source.name)
    return assign(out, geobox)  # type: ignore[no-any-return]


def pixel_ratio(box: GeoBox, geobox: GeoBox) -> float:
    """Return how many pixels of a raster the middle pixel of a grid spans along its longer side."""
    row, column = geobox.shape.y / 2, geobox.shape.x / 2
    rows, columns = np.array([row, row, row + 1]), np.array([column, column + 1, column])
    return max(float(np.abs(part[1:] - part[0]).max()) for part in _positions(_frame(box), _frame(geobox), rows, columns))


def _blocks(data: da.Array, box: GeoBox, geobox: GeoBox, resampling: str, chunks: tuple[int, int]) -> da.Array:
    """One task for each block of the grid, fed with the chunks of the raster that it meets."""
    blocks = da.core.normalize_chunks(chunks, tuple(geobox.shape))
    edges = [np.cumsum((0, *sizes)) for sizes in data.chunks]
    name = f"on-grid-{tokenize(data.name, str(box), str(geobox), resampling, blocks)}"
    samples = min(max(2 * math.ceil(pixel_ratio(box, geobox) - 1e-3), 2), 16) if resampling == "average" else 1
    frame, target = _frame(box), _frame(geobox)
    work = partial(_block, frame=frame, target=target, samples=samples, smooth=resampling == "bilinear")
    graph: dict[Any, Any] = {}
    for (i, rows), (j, columns) in product(*(enumerate(pairwise(np.cumsum((0, *sizes)).tolist())) for sizes in blocks)):
        window = _window(frame, target, rows, columns)
        if window is None:
            graph[name, i, j] = (np.full, (rows[1] - rows[0], columns[1] - columns[0]), np.float32(np.nan))
            continue
        down, across = (_meeting(edge, span) for edge, span in zip(edges, window, strict=True))
        corner = int(edges[0][down.start]), int(edges[1][across.start])
        graph[name, i, j] = (work, rows, columns, corner, len(across), *((data.name, k, m) for k in down for m in across))
    layers = HighLevelGraph.from_collections(name, graph, dependencies=(data,))  # type: ignore[arg-type]
    return da.Array(layers, name, chunks=blocks, dtype="float32")


def _meeting(edges: npt.NDArray[np.int64], span: Span) -> range:
    """Return the chunks that a span of pixels meets."""
    return range(int(np.searchsorted(edges, span[0], side="right")) - 1, int(np.searchsorted(edges, span[1], side="left")))


def _frame(box: GeoBox) -> Frame:
    crs = pyproj.CRS(str(box.crs))
    short = ":".join(crs.to_authority(min_confidence=100) or ())
    return Frame(
        box.affine,
        short if short and pyproj.CRS(short) == crs else crs.to_wkt(),
        crs.is_geographic,
        (int(box.shape.y), int(box.shape.x)),
    )


def _window(frame: Frame, target: Frame, rows: Span, columns: Span) -> tuple[Span, Span] | None:
    """Return the rows and columns of a raster that a block of the grid needs, or None where they do not meet."""
    points = np.meshgrid(np.linspace(*rows, 17), np.linspace(*columns, 17), indexing="ij")
    spans = []
    for values, size in zip(_positions(frame, target, points[0], points[1]), frame.shape, strict=True):
        finite = values[np.isfinite(values)]
        if not finite.size or finite.max() <= 0 or finite.min() >= size:
            return None
        # Curved edges bulge between the 17 points by less than a hundredth of the span.
        margin = 2 + 0.01 * np.ptp(finite)
        spans.append((max(math.floor(finite.min() - margin), 0), min(math.ceil(finite.max() + margin), size)))
    return spans[0], spans[1]


@cache
def _transformer(source: str, target: str) -> pyproj.Transformer:
    """Building one takes as long as moving ten thousand points; threads may share it."""
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


def _positions(frame: Frame, target: Frame, rows: Floats, columns: Floats) -> tuple[Floats, Floats]:
    """Return the fractional pixel (row, column) in a raster of fractional pixels of the grid; not finite where there is none."""
    x, y = target.affine.a * columns + target.affine.c, target.affine.e * rows + target.affine.f
    if frame.crs != target.crs:
        x, y = _transformer(target.crs, frame.crs).transform(x, y)
    found_rows, found_columns = (y - frame.affine.f) / frame.affine.e, (x - frame.affine.c) / frame.affine.a
    if frame.degrees:
        # A whole turn from the raster's middle or less: rasters of 0..360 degrees, and those across the antimeridian.
        turn = 360 / abs(frame.affine.a)
        with np.errstate(invalid="ignore"):
            found_columns = found_columns - turn * np.round((found_columns - frame.shape[1] / 2) / turn)
    return found_rows, found_columns


def _block(
    rows: Span,
    columns: Span,
    corner: Span,
    across: int,
    *pieces: npt.NDArray[Any],
    frame: Frame,
    target: Frame,
    samples: int,
    smooth: bool,
) -> Values:
    """Resample the chunks of a raster, ``across`` of them side by side from pixel ``corner``, to a block of the grid."""
    values = np.block([list(pieces[at : at + across]) for at in range(0, len(pieces), across)]).astype("float32", copy=False)
    if samples == 1:
        centres = np.meshgrid(np.arange(*rows) + 0.5, np.arange(*columns) + 0.5, indexing="ij")
        found = _positions(frame, target, centres[0], centres[1])
        return (_bilinear if smooth else _nearest)(values, found[0] - corner[0], found[1] - corner[1])
    corners = np.meshgrid(np.arange(rows[0], rows[1] + 1.0), np.arange(columns[0], columns[1] + 1.0), indexing="ij")
    found = _positions(frame, target, corners[0], corners[1])
    total = np.zeros((rows[1] - rows[0], columns[1] - columns[0]))
    count = np.zeros(total.shape, dtype="int32")
    for down, right in product((np.arange(samples) + 0.5) / samples, repeat=2):
        sample = _nearest(values, _between(found[0], down, right) - corner[0], _between(found[1], down, right) - corner[1])
        valid = ~np.isnan(sample)
        total[valid] += sample[valid]
        count += valid
    with np.errstate(invalid="ignore"):
        return (total / count).astype("float32")


def _between(corners: Floats, down: float, right: float) -> Floats:
    """Interpolate values at pixels' corners to one place inside every pixel."""
    top = corners[:-1, :-1] + right * (corners[:-1, 1:] - corners[:-1, :-1])
    bottom = corners[1:, :-1] + right * (corners[1:, 1:] - corners[1:, :-1])
    return np.asarray(top + down * (bottom - top), dtype="float64")


def _nearest(values: Values, rows: Floats, columns: Floats) -> Values:
    """Look up the pixels that hold the positions; the nudge keeps a position on a pixel's edge from wavering by rounding."""
    rows, columns = rows + EDGE, columns + EDGE
    inside = (rows >= 0) & (rows < values.shape[0]) & (columns >= 0) & (columns < values.shape[1])
    row, column = (np.where(inside, part, 0).astype("int64") for part in (rows, columns))
    return np.where(inside, values[row, column], np.float32(np.nan))


def _bilinear(values: Values, rows: Floats, columns: Floats) -> Values:
    """Weigh the valid ones of the four nearest pixels, where the pixel that holds the position is valid."""
    inside = ~np.isnan(_nearest(values, rows, columns))
    row, column = (np.where(inside, part, 0.5) - 0.5 for part in (rows, columns))
    top, left = np.floor(row), np.floor(column)
    total, weights = np.zeros(rows.shape), np.zeros(rows.shape)
    for down, right in product((0, 1), repeat=2):
        weight = np.abs(1 - down - (row - top)) * np.abs(1 - right - (column - left))
        held_row = np.clip(top + down, 0, values.shape[0] - 1).astype("int64")
        held_column = np.clip(left + right, 0, values.shape[1] - 1).astype("int64")
        neighbour = values[held_row, held_column]
        valid = ~np.isnan(neighbour)
        total[valid] += (weight * neighbour)[valid]
        weights += weight * valid
    with np.errstate(invalid="ignore"):
        return np.where(inside, total / weights, np.nan).astype("float32")
