"""One asset of one item, read onto a block of a grid as numbers: opened safely, decoded, resampled by georeferencing.

Where a pixel's value comes from never depends on the block it is read in: reading a block gives what reading the whole and
cutting gives. GDAL only decodes; resampling is done here, because GDAL's warper approximates positions block by block.
"""

import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyproj
from affine import Affine
from odc.geo.geobox import GeoBox

from misoxr.errors import AssetError
from misoxr.stac.decoding import Encoding, Stored, codes, decoded, missing
from misoxr.stac.hrefs import redact, resolve
from misoxr.stac.http import http_session, without_query
from misoxr.stac.remote import open_raster

__all__ = ["CLEAR", "Asset", "PatchUrl", "Reader", "transformer"]

Floats = npt.NDArray[np.float32]
PatchUrl = Callable[[str], str]

CLEAR = "clear"
"""Name under which the clear-sky mask, 1 where the scene classification is clear and 0 elsewhere, is read like a band."""

CLEAR_CLASSES = (4, 5, 6)
"""Vegetation, bare ground, water; not 11, snow."""
CLOUD_CLASSES = (3, 8, 9, 10)
"""Cloud shadow, cloud of medium and high probability, cirrus."""
OPENING, DILATION = 1, 2
"""Pixels of the classification (20 m): clouds thinner than the opening do not grow; the others grow by the dilation."""
LATTICE = 16
"""Positions in another CRS are exact every so many pixels and linear between: 0.5 mm off at 10 m, 5 m at 1 km pixels."""


@dataclass(frozen=True)
class Asset:
    """What a worker needs to read one band of one item.

    Attributes
    ----------
    item, band : str
        Named in errors.
    href : str
        Checked by :func:`misoxr.stac.hrefs.resolve`.
    root : str, optional
        Directory of the local catalogue, where it is local.
    kind : {"numbers", "classes", "clear"}
        ``"clear"`` turns a scene classification into the clear-sky mask.
    encoding : Encoding
        What the item tells of the file's numbers.
    """

    item: str
    band: str
    href: str
    root: str | None = None
    kind: Literal["numbers", "classes", "clear"] = "numbers"
    encoding: Encoding = Encoding()


Indices = npt.NDArray[np.intp]
Positions = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sampling:
    """Which pixels of a raster a block's pixels come from. Arrays broadcast to the block's shape.

    Attributes
    ----------
    window : (int, int, int, int)
        First and last + 1 row and column to read.
    shrink : int
        So many of the raster's pixels are averaged first, along each axis; indices count the averaged ones.
    inside : ndarray of bool
        Whether the pixel's centre lies in the raster.
    rows, columns : ndarray of intp
        The raster's pixel that holds the centre.
    around : tuple, optional
        Rows above and below, columns left and right of the centre, and its distance from the first of each; None where every
        centre is the centre of a pixel of the raster.
    """

    window: tuple[int, int, int, int]
    shrink: int
    inside: npt.NDArray[np.bool_]
    rows: Indices
    columns: Indices
    around: tuple[Indices, Indices, Indices, Indices, Floats, Floats] | None


@dataclass
class Reader:
    """Reads assets onto one block, in any threads; positions and connections are shared between the assets it reads.

    Attributes
    ----------
    geobox : GeoBox
        The block.
    patch_url : callable, optional
        Takes an href and returns the one to read, for signatures that expire; the result is checked like any other. It is called when
        an asset is opened, and again where the server then refuses.
    """

    geobox: GeoBox
    patch_url: PatchUrl | None = None
    _samplings: dict[tuple[Any, ...], Sampling | None] = field(default_factory=dict)
    _session: Any = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        self._session = http_session()
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def read(self, asset: Asset) -> Floats:
        """Read one asset.

        Returns
        -------
        ndarray of float32, shape (y, x)
            Numbers, resampled bilinearly, or codes of classes or the clear-sky mask, nearest; NaN where there is no valid pixel. Where
            the block's pixels are at least twice as large, whole numbers of the raster's pixels are averaged first, but for codes.

        Raises
        ------
        AssetError
            If the href is refused or cannot be read; names item and band.
        """
        with _named(asset):
            address = partial(self._address, asset)
            with open_raster(address(), self._session, address) as raster:
                if raster.crs is None:
                    raise AssetError("it has no CRS")
                if raster.count != 1:
                    raise AssetError(f"it has {raster.count} bands, and one is expected")
                return self._resampled(asset, raster)

    def _address(self, asset: Asset) -> str:
        """Return the address to read an asset from, signed now."""
        if self.patch_url is None:
            return asset.href
        try:
            signed = self.patch_url(asset.href)
        except Exception as error:
            raise AssetError(f"patch_url raised {type(error).__name__}: {without_query(error)}") from error
        return resolve(signed, root=asset.root)

    def _resampled(self, asset: Asset, raster: Any) -> Floats:
        decode, sample = {"numbers": (_numbers, _bilinear), "classes": (_codes, _nearest), "clear": (_clear, _nearest)}[asset.kind]
        sampling = self._sampling(raster, whole=asset.kind == "classes")
        if sampling is None:
            return np.full(self.geobox.shape.yx, np.nan, dtype="float32")
        values = decode(raster, asset, sampling.window)
        return sample(values if sampling.shrink == 1 else _averaged(values, sampling.shrink), sampling)

    def _sampling(self, raster: Any, whole: bool) -> Sampling | None:
        """Return how to sample a raster; ``whole`` leaves its pixels as they are where the block's are larger."""
        place = (raster.crs.to_wkt(), raster.transform, raster.shape)
        with self._lock:
            if (place, whole) not in self._samplings:
                rows, columns, shrink = _positions(self.geobox, *place)
                at = (rows * shrink, columns * shrink, 1) if whole else (rows, columns, shrink)
                self._samplings[place, whole] = _sampling(*at, raster.shape)
            return self._samplings[place, whole]


@lru_cache(maxsize=256)
def transformer(source: str, target: str) -> pyproj.Transformer | None:
    """Return what transforms coordinates, (x, y) in both; None where the two CRS are one. Kept, for it takes long to build."""
    one, other = pyproj.CRS(source), pyproj.CRS(target)
    return None if one.equals(other, ignore_axis_order=True) else pyproj.Transformer.from_crs(one, other, always_xy=True)


@contextmanager
def _named(asset: Asset) -> Any:
    """Name item and band in what goes wrong."""
    try:
        yield
    except AssetError as error:
        raise AssetError(f"Item {asset.item!r}, band {asset.band!r}, {redact(asset.href)}: {error}.") from error


def _positions(geobox: GeoBox, wkt: str, transform: Affine, shape: tuple[int, int]) -> tuple[Positions, Positions, int]:
    """Return where a block's pixel centres lie in a raster that is shrunk so far that no pixel is skipped.

    Fractional rows and columns of the shrunk raster, a centre at +0.5, (y, 1) and (1, x) in the raster's own CRS, else (y, x);
    and how far the raster is shrunk.
    """
    back = transformer(str(geobox.crs), wkt)
    x, y = (
        np.asarray(start + size * (np.arange(length) + 0.5), dtype="float64")
        for start, size, length in (
            (geobox.affine.c, geobox.affine.a, geobox.shape.x),
            (geobox.affine.f, geobox.affine.e, geobox.shape.y),
        )
    )
    if back is None and transform.b == transform.d == 0:
        size = abs(geobox.affine.a / transform.a), abs(geobox.affine.e / transform.e)
        return _shrunk((y[:, None] - transform.f) / transform.e, (x[None, :] - transform.c) / transform.a, min(size))
    step = LATTICE * abs(geobox.affine.a), LATTICE * abs(geobox.affine.e)
    first = int(np.floor(x.min() / step[0])), int(np.floor(y.min() / step[1]))
    count = int(np.floor(x.max() / step[0])) - first[0] + 2, int(np.floor(y.max() / step[1])) - first[1] + 2
    # the lattice is anchored in the CRS, so that every block interpolates between the same exact positions
    east, north = np.meshgrid(*(step[axis] * (first[axis] + np.arange(count[axis])) for axis in (0, 1)))
    nodes = (east, north) if back is None else back.transform(east, north)
    columns, rows = (np.where(np.isfinite(part), part, np.nan) for part in _apply(~transform, *nodes))
    along, down = (np.asarray(axis / s - f, dtype="float64") for axis, s, f in zip((x, y), step, first, strict=True))
    ratio = _ratio(geobox, back, transform, shape)
    return _shrunk(_between(rows, along, down), _between(columns, along, down), ratio)


def _apply(transform: Affine, x: Any, y: Any) -> tuple[Any, Any]:
    return transform.a * x + transform.b * y + transform.c, transform.d * x + transform.e * y + transform.f


def _shrunk(rows: Positions, columns: Positions, ratio: float) -> tuple[Positions, Positions, int]:
    """Return positions in the shrunk raster; rounded, so that a tie falls the same way in every block."""
    shrink = max(1, int(ratio + 1e-3)) if np.isfinite(ratio) else 1
    return np.round(rows / shrink, 6), np.round(columns / shrink, 6), shrink


def _between(nodes: Positions, x: Positions, y: Positions) -> Positions:
    """Interpolate values at the nodes of a lattice linearly to (y, x)."""
    i, j = np.floor(y).astype(int), np.floor(x).astype(int)
    v, u = (y - i)[:, None], x - j
    along = nodes[:, j] * (1 - u) + nodes[:, j + 1] * u
    return np.asarray(along[i] * (1 - v) + along[i + 1] * v)


def _ratio(geobox: GeoBox, back: pyproj.Transformer | None, transform: Affine, shape: tuple[int, int]) -> float:
    """Return the size of the grid's pixels in pixels of the raster, at the raster's middle whatever the block."""
    row, column = shape[0] / 2, shape[1] / 2
    corners = np.array([(column, row), (column + 1, row), (column, row + 1)]).T
    east, north = _apply(transform, *corners)
    x, y = (east, north) if back is None else back.transform(east, north, direction="INVERSE")
    across = np.hypot((x[1] - x[0]) / geobox.affine.a, (y[1] - y[0]) / geobox.affine.e)
    down = np.hypot((x[2] - x[0]) / geobox.affine.a, (y[2] - y[0]) / geobox.affine.e)
    return float(1 / max(across, down))


def _sampling(rows: Positions, columns: Positions, shrink: int, shape: tuple[int, int]) -> Sampling | None:
    """Return what to read, and how to sample it, for positions in a raster of this shape; None where all lie outside."""
    axes = []
    inside = np.ones((1, 1), dtype=bool)
    for positions, length in ((rows, shape[0]), (columns, shape[1])):
        count = -(-length // shrink)
        within = (positions >= 0) & (positions < count)
        inside = inside & within
        if not within.any():
            return None
        low, high = positions[within].min(), positions[within].max()
        first, last = max(int(np.floor(low - 0.5)), 0), min(int(np.ceil(high - 0.5)) + 1, count)
        # what lies outside is moved to the edge, and masked
        local = np.clip(np.where(within, positions, first), 0, count) - first
        axes.append((first, last, local))
    (top, bottom, i), (left, right, j) = axes
    window = top * shrink, min(bottom * shrink, shape[0]), left * shrink, min(right * shrink, shape[1])
    (above, below, down), (before, after, along) = _neighbours(i, bottom - top), _neighbours(j, right - left)
    around = (above, below, before, after, down, along) if down.any() or along.any() else None
    return Sampling(window, shrink, inside, np.floor(i).astype(np.intp), np.floor(j).astype(np.intp), around)


def _neighbours(positions: Positions, length: int) -> tuple[Indices, Indices, Floats]:
    """Return the pixels whose centres lie before and after each position, and its distance from the first, pixels."""
    first = np.floor(positions - 0.5)
    distance = (positions - 0.5 - first).astype("float32")
    before, after = (np.clip(first + step, 0, length - 1).astype(np.intp) for step in (0, 1))
    return before, after, distance


def _raw(raster: Any, window: tuple[int, int, int, int], margin: int = 0) -> tuple[npt.NDArray[Any], tuple[slice, slice]]:
    """Read a window and a margin around it, as far as the raster goes; and the slices that cut the margin off."""
    top, bottom, left, right = window
    rows = max(top - margin, 0), min(bottom + margin, raster.height)
    columns = max(left - margin, 0), min(right + margin, raster.width)
    values = raster.read(1, window=(rows, columns))
    return values, (slice(top - rows[0], bottom - rows[0]), slice(left - columns[0], right - columns[0]))


def _numbers(raster: Any, asset: Asset, window: tuple[int, int, int, int]) -> Floats:
    counts = asset.encoding.counts(Stored.of(raster))
    return decoded(_raw(raster, window)[0], counts)


def _codes(raster: Any, asset: Asset, window: tuple[int, int, int, int]) -> Floats:
    nodata = asset.encoding.code_nodata(Stored.of(raster))
    return codes(_raw(raster, window)[0], nodata)


def _clear(raster: Any, asset: Asset, window: tuple[int, int, int, int]) -> Floats:
    """Return 1 where the classification is clear and no cloud is near, 0 elsewhere, NaN where there is none.

    Clouds are cleaned and grown on the classification's own grid: those that survive an opening grow; a lone cloudy pixel hides
    itself only. (A pixel of any class but the clear ones is never clear.)
    """
    from scipy.ndimage import binary_dilation, binary_erosion

    values, inner = _raw(raster, window, margin=2 * OPENING + DILATION)
    cloud = np.isin(values, CLOUD_CLASSES)
    core = binary_erosion(cloud, iterations=OPENING, border_value=1)
    grown = binary_dilation(core, iterations=OPENING + DILATION) if core.any() else core
    clear = (np.isin(values, CLEAR_CLASSES) & ~grown).astype("float32")
    nothing = missing(values, asset.encoding.code_nodata(Stored.of(raster)))
    if nothing is not None:
        clear[nothing] = np.nan
    return np.asarray(clear[inner])


def _averaged(values: Floats, shrink: int) -> Floats:
    """Average squares of valid pixels; the window starts at a whole square, and may end inside one."""
    height, width = (-(-length // shrink) for length in values.shape)
    padded = np.full((height * shrink, width * shrink), np.nan, dtype="float32")
    padded[: values.shape[0], : values.shape[1]] = values
    squares = padded.reshape(height, shrink, width, shrink)
    valid = np.isfinite(squares)
    count = valid.sum(axis=(1, 3))
    total = np.where(valid, squares, 0).sum(axis=(1, 3), dtype="float64")
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype("float32")


def _nearest(values: Floats, sampling: Sampling) -> Floats:
    """Return the value of the pixel that holds each centre; NaN outside."""
    rows, columns = sampling.rows, sampling.columns
    separate = rows.shape[1:] == columns.shape[:1] == (1,)  # (y, 1) and (1, x)
    taken = values[_cut(rows[:, 0])][:, _cut(columns[0])] if separate else values[rows, columns]
    return taken if sampling.inside.all() else np.where(sampling.inside, taken, np.float32(np.nan))


def _cut(index: Indices) -> Indices | slice:
    """Return consecutive indices as a slice, which copies nothing."""
    consecutive = (np.diff(index) == 1).all()
    return slice(int(index[0]), int(index[-1]) + 1) if consecutive else index


def _bilinear(values: Floats, sampling: Sampling) -> Floats:
    """Interpolate between valid pixel centres, their weights made up to 1; NaN where the pixel that holds the centre is."""
    holder = _nearest(values, sampling)
    if sampling.around is None:
        return holder
    above, below, before, after, down, along = sampling.around
    valid = np.isfinite(values)
    everywhere = bool(valid.all())
    filled = values if everywhere else np.where(valid, values, np.float32(0))
    total, weights = np.zeros(holder.shape, dtype="float32"), np.zeros(holder.shape, dtype="float32")
    for rows, row_weight in ((above, 1 - down), (below, down)):
        for columns, column_weight in ((before, 1 - along), (after, along)):
            weight = row_weight * column_weight
            total += filled[rows, columns] * weight
            if not everywhere:
                weights += valid[rows, columns] * weight
    if not everywhere:
        with np.errstate(invalid="ignore", divide="ignore"):
            total /= weights
    total[np.isnan(holder)] = np.nan
    return total
