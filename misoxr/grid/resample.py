"""Resample rasters onto a grid by georeferencing, the same for any chunks."""

import math
from functools import lru_cache, partial
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
from misoxr.grid.geobox import assign, extent, geobox_of, same_grid
from misoxr.grid.halo import in_blocks
from misoxr.grid.longitude import columns_of_turn, near, transformer

__all__ = ["RESAMPLINGS", "covers", "on_grid", "pixel_ratio"]

RESAMPLINGS = ("nearest", "bilinear", "average")

EDGE = 1e-6
"""How near to a pixel's edge a position counts as beyond it, in pixels."""
SAMPLES = 32
"""Points along a pixel's side at which an average is taken in another CRS, at the most."""
FINEST = 2.0**26
"""Parts of a column to which positions on a raster that goes round are rounded."""

Floats = npt.NDArray[np.float64]
Values = npt.NDArray[np.float32]
Span = tuple[int, int]


class Frame(NamedTuple):
    """The part of a grid that a task needs; small, because it is sent."""

    affine: Affine
    crs: str
    turn: float | None
    shape: tuple[int, int]

    @property
    def goes_round(self) -> bool:
        """Return whether the raster goes round the Earth, so that its last column's neighbour is the first."""
        return self.turn == self.shape[1]


def on_grid(source: xr.DataArray, geobox: GeoBox, resampling: str, chunks: tuple[int, int]) -> xr.DataArray:
    """Put a raster on a grid by georeferencing, lazily; an equal grid is joined as it is.

    The result does not depend on the chunks of either grid, to the last bit. (GDAL's warper approximates positions, and
    scales its kernels, block by block.)

    Parameters
    ----------
    source : DataArray
        Dimensions y and x with a CRS; NaN is nodata. Longitudes may be of any turn; a raster that goes once round the Earth has no
        edge in the west and the east.
    geobox : GeoBox
        The target grid.
    resampling : {"nearest", "bilinear", "average"}
        "bilinear" weighs the valid ones of the four nearest pixels, and leaves the raster's nodata where they are; "average"
        is the mean of the valid pixels under a target pixel, by their areas in it. In another CRS it is taken at 2 points of each pixel along an
        axis, and at no more than 32 x 32 points.
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
    data = _blocks(in_blocks(source).transpose("y", "x").data, box, geobox, resampling, chunks)
    kept = {name: coord for name, coord in source.coords.items() if not {"y", "x"} & set(coord.dims)}
    out = xr.DataArray(data, dims=("y", "x"), coords=kept, attrs=dict(source.attrs), name=source.name)
    return assign(out, geobox)  # type: ignore[no-any-return]


def pixel_ratio(box: GeoBox, geobox: GeoBox) -> float:
    """Return how many pixels of a raster the middle pixel of a grid spans along its longer side."""
    row, column, frame = geobox.shape.y / 2, geobox.shape.x / 2, _frame(box)
    rows, columns = np.array([row, row, row + 1]), np.array([column, column + 1, column])
    down, across = _positions(frame, _frame(geobox), rows, columns)
    return max(float(np.abs(part).max()) for part in (down[1:] - down[0], near(across[1:] - across[0], 0.0, frame.turn)))


def covers(box: GeoBox, geobox: GeoBox) -> bool:
    """Return whether a raster holds the centres of all pixels along the edges of a grid; at most some 1000 of each edge are looked at."""
    frame, along = _frame(box), [np.unique(np.linspace(0, size - 1, 1025).round()) + 0.5 for size in geobox.shape]
    edges = [np.meshgrid(along[0], along[1][[0, -1]]), np.meshgrid(along[0][[0, -1]], along[1])]
    rows, columns = (np.concatenate([edge[at].ravel() for edge in edges]) for at in (0, 1))
    found = _positions(frame, _frame(geobox), rows, columns)
    inside = [(at > -EDGE) & (at < size + EDGE) for at, size in zip(found, frame.shape, strict=True)]
    return bool(inside[0].all() and (frame.goes_round or inside[1].all()))


def _blocks(data: da.Array, box: GeoBox, geobox: GeoBox, resampling: str, chunks: tuple[int, int]) -> da.Array:
    """One task for each block of the grid, fed with the chunks of the raster that it meets."""
    blocks = da.core.normalize_chunks(chunks, tuple(geobox.shape))
    edges = [np.cumsum((0, *sizes)) for sizes in data.chunks]
    name = f"on-grid-{tokenize(data.name, str(box), str(geobox), resampling, blocks)}"
    samples = min(max(2 * math.ceil(pixel_ratio(box, geobox) - 1e-3), 2), SAMPLES)
    frame, target = _frame(box), _frame(geobox)
    work = partial(_block, frame=frame, target=target, samples=samples, resampling=resampling)
    graph: dict[Any, Any] = {}
    for (i, rows), (j, columns) in product(*(enumerate(pairwise(np.cumsum((0, *sizes)).tolist())) for sizes in blocks)):
        window = _window(frame, target, rows, columns)
        if window is None:
            graph[name, i, j] = (np.full, (rows[1] - rows[0], columns[1] - columns[0]), np.float32(np.nan))
            continue
        (top, down), (left, across) = (_meeting(edge, span) for edge, span in zip(edges, window, strict=True))
        middle = sum(window[1]) / 2 if frame.goes_round else frame.shape[1] / 2
        pieces = ((data.name, k, m) for k in down for m in across)
        graph[name, i, j] = (work, rows, columns, (top, left), middle, len(across), *pieces)
    layers = HighLevelGraph.from_collections(name, graph, dependencies=(data,))  # type: ignore[arg-type]
    return da.Array(layers, name, chunks=blocks, dtype="float32")


def _meeting(edges: npt.NDArray[np.int64], span: Span) -> tuple[int, list[int]]:
    """Return the pixel at which the chunks begin that a span of pixels meets, and these; a span may run on beyond the edges, round the Earth."""
    length, chunks = int(edges[-1]), []
    start = at = span[0] - span[0] % length + int(edges[np.searchsorted(edges, span[0] % length, side="right") - 1])
    while at < span[1]:
        chunks.append(int(np.searchsorted(edges, at % length, side="right")) - 1)
        at += int(edges[chunks[-1] + 1] - edges[chunks[-1]])
    return start, chunks


@lru_cache(maxsize=256)
def _spelt(text: str) -> str:
    """Return a CRS as its code, where it has one, else as WKT. Kept, for a code is searched for in the whole database."""
    crs = pyproj.CRS(text)
    short = ":".join(crs.to_authority(min_confidence=100) or ())
    return short if short and pyproj.CRS(short) == crs else str(crs.to_wkt())


def _frame(box: GeoBox) -> Frame:
    return Frame(
        box.affine,
        _spelt(str(box.crs)),
        columns_of_turn(str(box.crs), box.affine.a, int(box.shape.x)),
        (int(box.shape.y), int(box.shape.x)),
    )


def _window(frame: Frame, target: Frame, rows: Span, columns: Span) -> tuple[Span, Span] | None:
    """Return the rows and columns of a raster that a block of the grid needs, or None where they do not meet."""
    points = np.meshgrid(np.linspace(*rows, 17), np.linspace(*columns, 17), indexing="ij")
    spans = []
    found_rows, found_columns = _positions(frame, target, points[0], points[1])
    for values, size, endless in ((found_rows, frame.shape[0], False), (found_columns, frame.shape[1], frame.goes_round)):
        finite = values[np.isfinite(values)]
        if not finite.size:
            return None
        if endless:
            finite = near(finite, finite[finite.size // 2], size)
        elif finite.max() <= 0 or finite.min() >= size:
            return None
        # Curved edges bulge between the 17 points by less than a hundredth of the span.
        margin = 2 + 0.01 * np.ptp(finite)
        first, last = math.floor(finite.min() - margin), math.ceil(finite.max() + margin)
        spans.append((first, last) if endless else (max(first, 0), min(last, size)))
    return spans[0], spans[1]


def _positions(frame: Frame, target: Frame, rows: Floats, columns: Floats) -> tuple[Floats, Floats]:
    """Return the fractional pixel (row, column) in a raster of fractional pixels of the grid; not finite where there is none."""
    x, y = target.affine.a * columns + target.affine.c, target.affine.e * rows + target.affine.f
    forward = None if frame.crs == target.crs else transformer(target.crs, frame.crs)
    if forward is not None:
        x, y = forward.transform(x, y)
    found_rows, found_columns = (y - frame.affine.f) / frame.affine.e, (x - frame.affine.c) / frame.affine.a
    found_columns = near(found_columns, frame.shape[1] / 2, frame.turn)
    # Rounded, so that a turn more or less, which blocks at the seam add, changes no bit.
    return found_rows, np.round(found_columns * FINEST) / FINEST if frame.goes_round else found_columns


def _block(
    rows: Span,
    columns: Span,
    corner: Span,
    middle: float,
    across: int,
    *pieces: npt.NDArray[Any],
    frame: Frame,
    target: Frame,
    samples: int,
    resampling: str,
) -> Values:
    """Resample the chunks of a raster, ``across`` of them side by side from pixel ``corner``, to a block of the grid.

    Columns are those within half a turn of ``middle``.
    """
    values = np.block([list(pieces[at : at + across]) for at in range(0, len(pieces), across)]).astype("float32", copy=False)
    values[~np.isfinite(values)] = np.nan
    if resampling != "average":
        centres = np.meshgrid(np.arange(*rows) + 0.5, np.arange(*columns) + 0.5, indexing="ij")
        found = _positions(frame, target, centres[0], centres[1])
        look_up = _bilinear if resampling == "bilinear" else _nearest
        return look_up(values, found[0] - corner[0], near(found[1], middle, frame.turn) - corner[1])
    corners = np.meshgrid(np.arange(rows[0], rows[1] + 1.0), np.arange(columns[0], columns[1] + 1.0), indexing="ij")
    found = _positions(frame, target, corners[0], corners[1])
    if frame.crs == target.crs:  # rows and columns of the grid lie along those of the raster
        wide = target.affine.a / frame.affine.a
        left = near(found[1][0, :-1] + wide / 2, middle, frame.turn) - corner[1] - wide / 2
        return _mean(values, (found[0][:-1, 0] - corner[0], found[0][1:, 0] - corner[0]), (left, left + wide))
    total = np.zeros((rows[1] - rows[0], columns[1] - columns[0]))
    count = np.zeros(total.shape, dtype="int32")
    for down, right in product((np.arange(samples) + 0.5) / samples, repeat=2):
        row, column = _between(found[0], down, right, None), _between(found[1], down, right, frame.turn)
        sample = _nearest(values, row - corner[0], near(column, middle, frame.turn) - corner[1])
        valid = ~np.isnan(sample)
        total[valid] += sample[valid]
        count += valid
    with np.errstate(invalid="ignore"):
        return (total / count).astype("float32")


def _mean(values: Values, rows: tuple[Floats, Floats], columns: tuple[Floats, Floats]) -> Values:
    """Average the valid pixels between rows and columns, by their areas there."""
    valid = ~np.isnan(values)
    total, area = np.where(valid, values, np.float32(0)), valid
    for axis, (first, last) in enumerate((rows, columns)):
        total, area = (_sums(part, axis, np.minimum(first, last), np.maximum(first, last)) for part in (total, area))
    with np.errstate(invalid="ignore"):
        return np.where(area > EDGE**2, total / area, np.nan).astype("float32")


def _sums(values: npt.NDArray[Any], axis: int, first: Floats, last: Floats) -> Floats:
    """Sum values along an axis from one position to another, those at the ends by their share. The order does not depend on the block."""
    size = values.shape[axis]
    begin, end = (np.clip(_snapped(part), 0, size) for part in (first, last))
    pixel = np.floor(begin).astype("int64")
    out = np.zeros((len(first), values.shape[1]) if axis == 0 else (values.shape[0], len(first)))
    for step in range(int(np.ceil(end - pixel).max(initial=0))):
        at = pixel + step
        share = np.maximum(np.minimum(at + 1, end) - np.maximum(at, begin), 0)
        out += values.take(np.minimum(at, size - 1), axis) * (share[:, None] if axis == 0 else share)
    return out


def _snapped(positions: Floats) -> Floats:
    """Put positions that are on a pixel's edge but for rounding onto it."""
    whole = np.round(positions)
    return np.where(np.abs(positions - whole) < EDGE, whole, positions)


def _between(corners: Floats, down: float, right: float, turn: float | None) -> Floats:
    """Interpolate values at pixels' corners to one place inside every pixel, the shorter way round."""
    corner = corners[:-1, :-1]
    east, south, both = (near(part - corner, 0.0, turn) for part in (corners[:-1, 1:], corners[1:, :-1], corners[1:, 1:]))
    return np.asarray(corner + (1 - down) * right * east + down * ((1 - right) * south + right * both), dtype="float64")


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
