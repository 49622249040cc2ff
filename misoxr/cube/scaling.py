"""Scale bands to network inputs: channels, and the scaling that training fits and prediction repeats."""

from collections.abc import Mapping, Sized
from dataclasses import asdict, dataclass, replace
from reprlib import repr as short
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from misoxr.clusters import shared_out
from misoxr.cube.units import ORIGINS, canonical
from misoxr.errors import BandError, CheckpointError, SpecError, note
from misoxr.spec import SENTINEL2, Band, Modality, ModelSpec
from misoxr.spec.build import build
from misoxr.spec.numbers import in_full, is_rounding

__all__ = [
    "METHODS",
    "REFLECTANCE",
    "USUAL_FILLS",
    "ModalityScaling",
    "Scaling",
    "channels",
    "fill_beyond",
    "is_far",
    "limits_beside_fills",
    "note_counts",
    "refuse_fill",
    "refuse_fills_of",
    "valid_pixels",
]

Array = npt.NDArray[np.float32]

REFLECTANCE = (*(band.name for band in SENTINEL2), "nir08")
"""Bands of imagery that the presets know."""
USUAL_FILLS = (-9999.0, -99999.0, -999.0, -32768.0, -32767.0, 65535.0, float(np.finfo("float32").min), 1e20, 9.969209968386869e36)
"""What writers of rasters put where there are no data."""
FAR = 3
"""Ranges of the other values that lie between them and a fill value."""
METHODS = ("whiten", "log", "standard")
"""How a scaling is fitted."""
RATIOS = ("1", "m2")
"""Units of quantities that are compared by their ratios: reflectances, and areas, which span many powers of ten."""


def channels(modality: Modality, bands: Array) -> Array:
    """Expand raw bands (band, ...) to channels (channel, ...): circular bands become sine and cosine, 0 and 0 where negative, NaN where infinite."""
    out = np.empty((modality.channels, *bands.shape[1:]), dtype="float32")
    at = 0
    for band, values in zip(modality.bands, bands, strict=True):
        if band.kind == "circular":
            angle, here = np.deg2rad(values), out[at : at + 2]
            with np.errstate(invalid="ignore"):
                np.sin(angle, out=here[0])
                np.cos(angle, out=here[1])
            here *= (values >= 0) | ~np.isfinite(values)
        else:
            out[at] = values
        at += band.channels
    return out


def valid_pixels(spec: ModelSpec, bands: Array) -> npt.NDArray[np.bool_]:
    """Return where every required modality has at least one valid band, from raw bands (band, ...)."""
    valid = np.ones(bands.shape[1:], dtype=bool)
    at = 0
    for modality in spec.modalities:
        if modality.required:
            valid &= _any_finite(bands[at : at + len(modality.bands)])
        at += len(modality.bands)
    return valid


def _any_finite(bands: Array) -> npt.NDArray[np.bool_]:
    """Return where some of the bands (band, ...) are finite; those after the first are looked at only where that is not all."""
    found: npt.NDArray[np.bool_] = np.isfinite(bands[0])
    for band in bands[1:]:
        if found.all():
            break
        found |= np.isfinite(band)
    return found


@dataclass(frozen=True)
class ModalityScaling:
    """Scaling of one modality's channels: clip, logarithm, standardise, whiten.

    A channel becomes ``(f(clip(value)) - shift) / scale`` with ``f`` the natural logarithm where ``log``, 0 where it is
    missing; the channels are then mixed by ``whiten`` where it is given.

    Attributes
    ----------
    lower, upper, shift, scale : tuple of float
        One value per channel.
    log : tuple of bool
        Whether the channel's logarithm is taken.
    whiten : tuple of tuple of float or None
        Matrix (channel, channel).
    """

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    log: tuple[bool, ...]
    shift: tuple[float, ...]
    scale: tuple[float, ...]
    whiten: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        if any(abs(scale) < np.finfo("float32").tiny for scale in self.scale):
            raise SpecError(
                f"The scales are {short(self.scale)}, and one is 0 in single precision; give scales that values can be divided by."
            )
        limits = list(zip(self.lower, self.upper, self.log, strict=False))
        if any(lower > upper or (log and lower <= 0) for lower, upper, log in limits):
            raise SpecError(f"Limits cross, or leave values without a logarithm; (lower, upper, log) are {short(limits)}.")

    def apply(self, values: Array) -> Array:
        """Scale channels (channel, y, x) to network input of the same shape, 0 where they are missing: NaN or infinite."""
        lower, upper, shift, scale = (
            np.asarray(part, dtype="float32").reshape(-1, *[1] * (values.ndim - 1))
            for part in (self.lower, self.upper, self.shift, self.scale)
        )
        out = np.clip(values, lower, upper)
        np.copyto(out, np.nan, where=np.isinf(values))
        for channel in np.flatnonzero(self.log):
            np.log(out[channel], out=out[channel])
        out -= shift
        out /= scale
        np.nan_to_num(out, copy=False, nan=0.0)
        if self.whiten is not None:
            out = np.tensordot(np.asarray(self.whiten, dtype="float32"), out, axes=1)
        return out

    def refuse_fills(self, modality: Modality, bands: Array) -> None:
        """Refuse usual fill values in raw bands (band, ...), far from the limits of their channels."""
        limits = iter(zip(self.lower, self.upper, strict=True))
        ends = [[next(limits) for _ in range(band.channels)][0] for band in modality.bands]
        # A channel without limits is none.
        limited = [at for at, band in enumerate(modality.bands) if band.kind == "linear" and ends[at][1] > ends[at][0]]

        def refuse(at: int) -> None:
            _refuse_beyond(modality.bands[at], bands[at], *ends[at], "a block")

        shared_out(refuse, limited, bands.nbytes)

    @classmethod
    def from_dict(cls, values: Any, modality: Modality) -> Self:
        """Rebuild a scaling from JSON values and check that it fits a modality.

        Raises
        ------
        CheckpointError
            If a value cannot be used, or the scaling has another number of channels.
        """
        try:
            scaling = build(cls, values)
        except SpecError as error:
            raise CheckpointError(f"The scaling of modality {modality.name!r} cannot be read. {error}") from error
        assert isinstance(scaling, cls)
        parts: list[Sized] = [scaling.scale, scaling.shift, scaling.log, scaling.lower, scaling.upper]
        parts += [] if scaling.whiten is None else [scaling.whiten, *scaling.whiten]
        for part in parts:
            if len(part) != modality.channels:
                raise CheckpointError(
                    f"The scaling of modality {modality.name!r} has {len(part)} channels, the model {modality.channels}."
                )
        return scaling

    def known_pixels(self, modality: Modality, bands: Array) -> npt.NDArray[np.bool_]:
        """Return where all bands of a modality that the scaling knows are valid, from raw bands (band, ...)."""
        varies = iter(upper > lower for lower, upper in zip(self.lower, self.upper, strict=True))
        # A band without data was fitted as a constant; it says nothing of a pixel.
        known = [any([next(varies) for _ in range(band.channels)]) for band in modality.bands]
        found = np.isfinite(bands)[known]
        return np.logical_and.reduce(found, axis=0) if any(known) else np.zeros(bands.shape[1:], dtype=bool)


@dataclass(frozen=True)
class Scaling:
    """The scaling of every modality of a model, as kept in its checkpoint.

    Examples
    --------
    >>> scaling = Scaling.fit(spec, np.random.default_rng(0).random((len(spec.bands), 500)))
    """

    modalities: Mapping[str, ModalityScaling]

    def apply(self, spec: ModelSpec, bands: Array) -> dict[str, Array]:
        """Scale raw bands (band, y, x) in the order of ``spec.bands`` to network inputs (channel, y, x) by modality.

        Raises
        ------
        BandError
            If a band has a usual fill value, far from what was learnt from: clipped to its limits, it would pass for data.
        """
        inputs, at = {}, 0
        self.refuse_fills(spec, bands)
        for modality in spec.modalities:
            part = bands[at : at + len(modality.bands)]
            inputs[modality.name] = self.modalities[modality.name].apply(channels(modality, part))
            at += len(modality.bands)
        return inputs

    def refuse_fills(self, spec: ModelSpec, bands: Array) -> None:
        """Refuse raw bands (band, ...) with a usual fill value, far from what was learnt from; see :meth:`apply`."""
        at = 0
        for modality in spec.modalities:
            self.modalities[modality.name].refuse_fills(modality, bands[at : at + len(modality.bands)])
            at += len(modality.bands)

    def check(self, spec: ModelSpec) -> None:
        """Refuse a model with modalities that this scaling does not have."""
        names = [modality.name for modality in spec.modalities]
        if lacking := sorted(set(names) - set(self.modalities)):
            raise SpecError(f"The scaling lacks {lacking}; the model's modalities are {names}.")

    @classmethod
    def fit(cls, spec: ModelSpec, bands: Array, method: str = "whiten") -> Self:
        """Fit a scaling on unlabelled pixels.

        Channels are clipped to their 0.1 and 99.9 percentiles, and standardised. With "log" and "whiten", positive ratios (units
        "1", such as reflectance) and areas ("m2") become logarithms before; with "whiten", channels are then decorrelated by PCA whitening,
        modality by modality. A channel without data, or whose deviation is rounding of its values, enters as 0 for good. The components
        of a unit vector are left as they are by every method.

        Parameters
        ----------
        spec : ModelSpec
            The model.
        bands : array
            Raw values (band, pixel), NaN where missing.
        method : {"whiten", "log", "standard"}
            How far to go.

        Raises
        ------
        BandError
            If a band has no valid pixel, or a usual fill value that nothing declares.
        SpecError
            If the method is not known.
        """
        if method not in METHODS:
            raise SpecError(f"Unknown scaling {method!r}; use one of {METHODS}, or a Scaling in hand.")
        modalities, at = {}, 0
        bands = np.where(np.isinf(bands), np.float32(np.nan), bands)
        for modality in spec.modalities:
            part = bands[at : at + len(modality.bands)]
            for band, values in zip(modality.bands, part, strict=True):
                refuse_fill(band, values)
                if modality.required and not np.isfinite(values).any():
                    raise BandError(
                        f"Band {band.name!r} has no valid pixel in the windows that are learnt from; give a cube with data there."
                    )
            modalities[modality.name] = _fit_modality(modality, channels(modality, part), method)
            at += len(modality.bands)
        return cls(modalities)

    def to_dict(self) -> dict[str, Any]:
        """Return the scaling as JSON values."""
        return {name: asdict(scaling) for name, scaling in self.modalities.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], spec: ModelSpec) -> Self:
        """Rebuild a scaling from :meth:`to_dict` and check that it fits the model.

        Raises
        ------
        CheckpointError
            If a modality is missing or not the model's, a value cannot be used, or a scaling has another number of channels.
        """
        unknown = sorted(set(values) - {modality.name for modality in spec.modalities})
        if unknown:
            raise CheckpointError(f"The scaling has the modalities {short(unknown)}, which the model does not have.")
        modalities = {}
        for modality in spec.modalities:
            modalities[modality.name] = ModalityScaling.from_dict(values.get(modality.name), modality)
        return cls(modalities)


def refuse_fill(band: Band, values: Array) -> None:
    """Refuse values of a band (pixel,) of which some are a usual fill value, far from all others: nothing has told that they are missing.

    Raises
    ------
    BandError
        If there are such values.
    """
    if band.kind != "linear":
        return
    if limits := limits_beside_fills(values):
        _refuse_beyond(band, values, *limits, "the pixels that are learnt from")


def limits_beside_fills(values: Array) -> tuple[float, float] | None:
    """Return the least and the greatest of values that are no usual fill value; None where there are none."""
    known = values[np.isfinite(values) & ~np.isin(values, np.array(USUAL_FILLS, "float32"))]
    return (float(known.min()), float(known.max())) if len(known) else None


def fill_beyond(values: Array, low: float, high: float) -> tuple[float, float] | None:
    """Return a usual fill value that lies far beyond two limits, and the share of the values that it has; None where none is among them."""
    least, most = np.fmin.reduce(values, axis=None, initial=np.inf), np.fmax.reduce(values, axis=None, initial=-np.inf)
    for fill in USUAL_FILLS:
        if not is_far(fill, low, high) or not least <= np.float32(fill) <= most:
            continue
        is_fill = values == np.float32(fill)
        if is_fill.any():
            return fill, float(is_fill.mean())
    return None


def refuse_fills_of(spec: ModelSpec, ranges: Mapping[str, tuple[float, float]], bands: Array) -> None:
    """Refuse raw bands (band, ...) with a usual fill value, far from the ranges that were learnt from, by name.

    Raises
    ------
    BandError
        If a band has such a value.
    """
    for band, values in zip(spec.bands, bands, strict=True):
        low, high = ranges.get(band.name, (0.0, 0.0))
        if band.kind == "linear" and low < high:
            _refuse_beyond(band, values, low, high, "a block")


def note_counts(spec: ModelSpec, bands: Array) -> None:
    """Warn of bands of reflectance that are learnt from, (band, pixel), whose values are mostly above 2: they are counts.

    Warns
    -----
    MisoxrWarning
        If there are any.
    """
    for band, values in zip(spec.bands, bands, strict=True):
        known = values[np.isfinite(values)] if band.name in REFLECTANCE and band.units == "1" else values[:0]
        if len(known) and np.median(known) > 2:
            note(
                f"{band.name} is {np.median(known):.4g} in the median, which is no reflectance (0 to 1): the values are counts. Divide those of Sentinel-2 "
                "by 10000, and take 0.1 off from processing baseline 04.00 on. A map of a cube in other units would be wrong.",
                about="counts as reflectance",
            )
            return


def is_far(fill: float, low: float, high: float) -> bool:
    """Return whether a fill value lies far from values between two limits, or is negative where they are not."""
    far = FAR * (high - low)
    return not low - far <= fill <= high + far or fill < 0 <= low


def _refuse_beyond(band: Band, values: Array, low: float, high: float, where: str) -> None:
    """Refuse usual fill values that lie far beyond what a band holds."""
    if found := fill_beyond(values, low, high):
        fill, share = found
        raise BandError(
            f"Band {band.name!r} is {in_full(fill)} in {share:.2%} of {where}, and {low:g} to {high:g} elsewhere. If it is nodata, declare it where the "
            f"raster is read: raster.rio.write_nodata({in_full(fill)}), or ds[{band.name!r}] = ds[{band.name!r}].where(ds[{band.name!r}] != {in_full(fill)})."
        )


def _fit_modality(modality: Modality, values: Array, method: str) -> ModalityScaling:
    """Fit one modality on channels (channel, pixel)."""
    if modality.is_vector:  # a component lies within -1 and 1 by what it is; what differs between components is what they tell
        each = len(modality.bands)
        return ModalityScaling((-1.0,) * each, (1.0,) * each, (False,) * each, (0.0,) * each, (1.0,) * each)
    bands = [band for band in modality.bands for _ in range(band.channels)]
    fitted = [_fit_channel(band, channel, log=method != "standard") for band, channel in zip(bands, values, strict=True)]
    lower, upper, log, shift, scale = zip(*fitted, strict=True)
    plain = ModalityScaling(lower, upper, log, shift, scale)
    if method != "whiten":
        return plain
    standard = plain.apply(values).astype("float64")
    # Each channel counts alike: pixels where it is missing are 0, and must not make the others look small.
    length = np.linalg.norm(standard, axis=1, keepdims=True)
    standard /= np.where(length > 0, length, 1.0)
    variances, axes = np.linalg.eigh(standard @ standard.T)
    # The first of the largest entries is positive: of two bands both are, and rounding must not tell which.
    size = np.abs(axes)
    axes *= np.sign(axes[(size > 0.999 * size.max(axis=0)).argmax(axis=0), np.arange(len(axes))])
    # A floor keeps nearly constant directions, which hold noise alone, from being blown up.
    whiten = axes.T / np.sqrt(np.maximum(variances, 1e-3 * max(variances.max(), 1e-12)))[:, None]
    rows = [tuple(float(value) for value in row) for row in whiten[::-1]]
    return replace(plain, whiten=tuple(rows))


def _fit_channel(band: Band, values: Array, *, log: bool) -> tuple[float, float, bool, float, float]:
    """Return limits, whether the logarithm is taken, shift and scale of one channel (pixel,) of a band."""
    # Clipped to 0 for good: what training never saw must not enter a map, nor rounding as if it were a signal.
    held = 0.0, 0.0, False, 0.0, 1.0
    values = values[np.isfinite(values)]
    if not len(values):
        return held
    lower, upper = (float(limit) for limit in np.percentile(values, [0.1, 99.9]))
    log = log and band.kind == "linear" and band.units in RATIOS and lower > 0
    clipped = np.clip(values.astype("float64"), lower, upper)
    clipped = np.log(clipped) if log else clipped
    shift, deviation = float(clipped.mean()), float(clipped.std())
    # What a channel was made of is rounded, too: a value, its logarithm, an angle, or a temperature in other units.
    origin = 2 * np.pi if band.kind == "circular" else 1.0 if log else ORIGINS.get(canonical(band.units), 0.0)
    if is_rounding(deviation, max(origin, float(np.abs(clipped).max())), "float32"):
        return held
    return lower, upper, log, shift, deviation
