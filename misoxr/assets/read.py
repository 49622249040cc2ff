"""Read one asset onto a block of a grid: open it, decode it, mask clouds, and resample it by georeferencing.

Where a pixel's value comes from never depends on the block it is read in: reading a block gives what reading the whole and
cutting gives. GDAL only decodes; resampling is done here, because GDAL's warper approximates positions block by block.
"""

import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from misoxr.assets.hrefs import redact, resolve, without_secrets
from misoxr.assets.http import http_session
from misoxr.assets.inside import Reach
from misoxr.assets.remote import open_raster
from misoxr.assets.sampling import Indices, Sampling, Window, sampling_of, stretches
from misoxr.errors import AssetError
from misoxr.sensors.decoding import Encoding, Stored, codes, decoded, missing
from misoxr.sensors.masks import SCL, Sky

__all__ = ["CLEAR", "Asset", "PatchUrl", "Reader"]

Floats = npt.NDArray[np.float32]
PatchUrl = Callable[[str], str]

STRIP = 1 << 23
"""Pixels of a raster that are read at once, about; a few arrays of them are held at a time. Finer rasters are read strip by strip."""
WINDOW = 10**10
"""Pixels of a raster that may be read for a block: a minute's or two of decoding."""

CLEAR = "clear"
"""Name under which the clear-sky mask, 1 where the quality band is clear and 0 elsewhere, is read like a band."""


@dataclass(frozen=True)
class Asset:
    """All that a worker needs to read one band of one item.

    Attributes
    ----------
    item, band : str
        Named in errors.
    href : str
        Checked by :func:`misoxr.assets.hrefs.resolve`.
    root : str, optional
        Directory of the local catalogue, where it is local.
    kind : {"numbers", "classes", "clear"}
        ``"clear"`` turns a quality band into the clear-sky mask.
    encoding : Encoding
        What the item tells of the file's numbers.
    inside : bool, optional
        Whether it may lie on this machine or in a private network. By default the address is the user's own; redirects of it go inside
        only where it is inside itself.
    sky : Sky
        What a quality band means; of any other it tells nothing.
    beside : Asset, optional
        Another quality band, which has to be clear as well.
    """

    item: str
    band: str
    href: str
    root: str | None = None
    kind: Literal["numbers", "classes", "clear"] = "numbers"
    encoding: Encoding = Encoding()
    inside: bool | None = field(default=None, repr=False)
    sky: Sky = field(default=Sky(SCL), repr=False, hash=False)
    beside: "Asset | None" = None


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
    whole : GeoBox, optional
        The grid that the block is of; by default the block itself.
    """

    geobox: GeoBox
    patch_url: PatchUrl | None = None
    whole: GeoBox | None = None
    _samplings: dict[tuple[Any, ...], Sampling | None] = field(default_factory=dict)
    _sessions: dict[bool | None, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for session in self._sessions.values():
            session.close()

    def _session(self, inside: bool | None) -> Any:
        """Return the connections of assets that may, or may not, lie inside."""
        with self._lock:
            if inside not in self._sessions:
                self._sessions[inside] = http_session(reach=Reach(inside))
            return self._sessions[inside]

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
        values = self._read(asset)
        return values if asset.beside is None else np.minimum(values, self.read(asset.beside))

    def _read(self, asset: Asset) -> Floats:
        with _named(asset):
            address = partial(self._address, asset)
            with open_raster(address(), self._session(asset.inside), address) as raster:
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
            return resolve(self.patch_url(asset.href), root=asset.root)
        except AssetError:
            raise
        except Exception as error:
            fault = f"{type(error).__name__}: {without_secrets(error, asset.href)}"
        # not from its error, whose text may hold what it signs with
        raise AssetError(f"patch_url raised {fault}")

    def _resampled(self, asset: Asset, raster: Any) -> Floats:
        decode, sample = {"numbers": (_numbers, _bilinear), "classes": (_codes, _nearest), "clear": (_clear, _nearest)}[asset.kind]
        sampling = self._sampling(raster, whole=asset.kind == "classes")
        if sampling is None:
            return np.full(self.geobox.shape.yx, np.nan, dtype="float32")
        (top, bottom), (left, right) = sampling.window.rows, sampling.window.columns
        if (bottom - top) * (right - left) > WINDOW:
            raise AssetError(
                f"it has {bottom - top} x {right - left} pixels in a block of {self.geobox.shape.y} x {self.geobox.shape.x}, and at most "
                f"{WINDOW:,} are read for one; use smaller chunks, or a coarser raster"
            )
        high = STRIP // (right - left) // sampling.shrink * sampling.shrink or sampling.shrink
        if bottom - top <= high:
            values = decode(raster, asset, sampling.window)
            return sample(values if sampling.shrink == 1 else _averaged(values, sampling.shrink), sampling)
        if sampling.shrink == 1:
            return _strips(partial(decode, raster, asset), sample, sampling, high)
        averaged = [
            _averaged(decode(raster, asset, sampling.window._replace(rows=(first, min(first + high, bottom)))), sampling.shrink)
            for first in range(top, bottom, high)
        ]
        return sample(np.concatenate(averaged), sampling)

    def _sampling(self, raster: Any, whole: bool) -> Sampling | None:
        """Return how to sample a raster; ``whole`` leaves its pixels as they are where the block's are larger."""
        place = (raster.crs.to_wkt(), raster.transform, raster.shape)
        with self._lock:
            if (place, whole) not in self._samplings:
                self._samplings[place, whole] = sampling_of(self.geobox, self.whole or self.geobox, *place, shrinks=not whole)
            return self._samplings[place, whole]


@contextmanager
def _named(asset: Asset) -> Any:
    """Name item and band in what goes wrong."""
    try:
        yield
    except AssetError as error:
        raise AssetError(f"Item {asset.item!r}, band {asset.band!r}, {redact(asset.href)}: {error}.") from error
    except MemoryError as error:
        raise AssetError(
            f"Item {asset.item!r}, band {asset.band!r}, {redact(asset.href)}: it takes more memory than there is; use smaller chunks."
        ) from error


class _Raw(NamedTuple):
    """Values as a file holds them, where its own mask hides them, and the slices that cut the margin off."""

    values: npt.NDArray[Any]
    hidden: npt.NDArray[np.bool_] | None
    inner: tuple[slice, slice]


def _raw(raster: Any, window: Window, margin: int = 0) -> _Raw:
    """Read a window and a margin around it, as far as the raster goes."""
    (top, bottom), (left, right) = window.rows, window.columns
    rows = max(top - margin, 0), min(bottom + margin, raster.height)
    columns = left - margin, right + margin
    if not window.goes_round:
        columns = max(columns[0], 0), min(columns[1], raster.width)
    windows = [(rows, part) for part in stretches(*columns, raster.width)]
    values = _beside([raster.read(1, window=part) for part in windows])
    masked = any(flag.name == "per_dataset" for flag in raster.mask_flag_enums[0])
    hidden = _beside([raster.read_masks(1, window=part) == 0 for part in windows]) if masked else None
    return _Raw(values, hidden, (slice(top - rows[0], bottom - rows[0]), slice(left - columns[0], right - columns[0])))


def _beside(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _numbers(raster: Any, asset: Asset, window: Window) -> Floats:
    stored = Stored.of(raster)
    raw = _raw(raster, window)
    values = decoded(raw.values, asset.encoding.counts(stored), raw.hidden)
    asset.encoding.refuse_counts(stored, values)
    return values


def _codes(raster: Any, asset: Asset, window: Window) -> Floats:
    nodata = asset.encoding.code_nodata(Stored.of(raster))
    raw = _raw(raster, window)
    return codes(raw.values, nodata, raw.hidden)


def _clear(raster: Any, asset: Asset, window: Window) -> Floats:
    """Return 1 where the sky is clear, 0 elsewhere, and NaN where nothing was observed."""
    raw = _raw(raster, window, asset.sky.margin)
    nothing = missing(raw.values, asset.sky.nodata(asset.encoding.code_nodata(Stored.of(raster))), raw.hidden)
    clear = asset.sky.clear(raw.values, nothing).astype("float32")
    if nothing is not None:
        clear[nothing] = np.nan
    return np.asarray(clear[raw.inner])


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


def _strips(
    decode: Callable[[Window], Floats], sample: Callable[[Floats, Sampling], Floats], sampling: Sampling, high: int
) -> Floats:
    """Read and sample a raster in strips of rows: each pixel of the block is of the strip that holds its centre."""
    (top, bottom), shape = sampling.window.rows, np.broadcast_shapes(sampling.rows.shape, sampling.columns.shape)
    result = np.full(shape, np.nan, dtype="float32")
    inside = np.broadcast_to(sampling.inside, shape)
    for first in range(0, bottom - top, high):
        here = np.broadcast_to((sampling.rows >= first) & (sampling.rows < first + high), shape) & inside
        lines = np.flatnonzero(here.any(axis=1))
        if not lines.size:
            continue
        # a row of neighbours above and below
        begin, end = max(first - 1, 0), min(first + high + 1, bottom - top)
        values = decode(sampling.window._replace(rows=(top + begin, top + end)))
        np.copyto(result, _scattered(sample(values, _part(sampling, lines, begin, end)), lines, shape), where=here)
    return result


def _scattered(values: Floats, lines: Indices, shape: tuple[int, ...]) -> Floats:
    """Return values of some lines of a block as a block."""
    result = np.full(shape, np.nan, dtype="float32")
    result[lines] = values
    return result


def _part(sampling: Sampling, lines: Indices, begin: int, end: int) -> Sampling:
    """Return the sampling of some lines of a block, from a strip of the raster's rows; what lies in others is moved to its edge."""

    def of(array: Any) -> Any:
        return array[lines] if array.shape[0] > 1 else array

    def rows(index: Indices) -> Indices:
        local: Indices = np.clip(of(index) - begin, 0, end - begin - 1)
        return local

    around = sampling.around
    if around is not None:
        above, below, before, after, down, along = around
        around = rows(above), rows(below), of(before), of(after), of(down), of(along)
    return replace(sampling, inside=of(sampling.inside), rows=rows(sampling.rows), columns=of(sampling.columns), around=around)


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
