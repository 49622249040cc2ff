"""Decode stored variables into physical values: scale, offset and nodata, as float32 with NaN.

How values are stored is told by attributes or encoding, in several spellings. This is the only place that reads them.
"""

import math
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from misoxr.errors import BandError, SpecError, note
from misoxr.spec import COVARIATES, SENTINEL2
from misoxr.spec.numbers import alike
from misoxr.spec.words import flag_word

__all__ = [
    "PLAIN",
    "RANGES",
    "XARRAYS",
    "Coding",
    "as_meant",
    "coding_of",
    "decode",
    "decoded",
    "flags_of",
    "is_class",
    "is_guessed",
    "is_told",
    "is_whole",
    "may_lack",
    "meant_type",
    "note_unapplied",
    "plain_key",
    "refuse_counts",
    "scale_of",
    "unit_vectors",
]

Array = npt.NDArray[Any]

FILLS = ("fillvalue", "missingvalue")
"""Attributes whose nodata values xarray moves to the encoding when it decodes; keys without case and punctuation."""
NODATA = (*FILLS, "nodata", "nodatavalue", "nodatavals", "nodatavalues")
SCALES = ("scalefactor", "scales", "scale")
OFFSETS = ("addoffset", "offsets", "offset")
XARRAYS = ("scale_factor", "add_offset")
"""What xarray calls them, in attributes and in the encoding."""
VALID = ("validrange", "validmin", "validmax")
"""Attributes that tell which values are valid."""
RANGES = (*VALID, "actualrange")
"""Attributes in stored units, which are stale once values are scaled."""
ABSENT = ("", "none", "null", "nan", "na", "n/a")
"""What stands for no value in text."""

LISTED = re.compile(r"""[\[(](['"]|[^\[\]()]*[\])]\s*$)""")
"""The names of classes as Python writes a list. Names, too, may begin with a bracket, such as pandas' "(0, 10]"."""
_CLASS_KEYS = re.compile(
    r"(?!(n|num|number_of)_)(.*[_:])?(flag_(values|masks|meanings|colors|names|descriptions)|classes|bitfields|categories|class_\d+(_names?)?"
    r"|(class(es|ification)?|categor(y|ies))_?(names?|values?|labels?|colou?rs?|codes?|meanings?|descriptions?|definitions?|map|palette|table|legend))",
    re.IGNORECASE,
)
"""Attributes that list classes. Others have such words, too: a scene's category, or how much of it is unclassified."""
_FLAG_NAMES = {"scl", "fmask", "qa", "qa60", "mask", "flag", "flags", "class", "classes", "classification"}
_MAP_NAMES = {
    *("landcover", "landuse", "lulc", "lccs", "nlcd", "cdl", "worldcover", "corine"),
    *("biome", "ecoregion", "geology", "lithology", "landform"),
}
_MEASURES = {"probability", "prob", "fraction", "share", "percent", "confidence", "score", "count", "density"}
_QUANTITIES = {
    *("depth", "thickness", "height", "elevation", "slope", "age", "length", "width"),
    *("mean", "std", "temperature", "entropy", "distance", "area"),
}
"""What is measured of a map's units: the depth of a geology is no class, the flag of a depth is one."""
_MORE_QUANTITIES = {
    *(
        "dem",
        "dtm",
        "dsm",
        "srtm",
        "altitude",
        "curvature",
        "ndvi",
        "evi",
        "savi",
        "ndwi",
        "ndmi",
        "lst",
        "t2m",
        "temp",
        "tmean",
        "tmin",
        "tmax",
        "tavg",
    ),
    *(
        "prec",
        "precip",
        "precipitation",
        "rainfall",
        "pressure",
        "humidity",
        "radiation",
        "speed",
        "days",
        "population",
        "treecover",
        "canopy",
    ),
    *("biomass", "carbon", "soc", "ph", "clay", "sand", "silt", "ice"),
}
"""What names of measured whole numbers have beside those."""
_CODED = {
    "code",
    "codes",
    "id",
    "ids",
    "zone",
    "zones",
    "group",
    "regime",
    "type",
    "types",
    "position",
    "unit",
    "units",
    "category",
    "rank",
}
"""Words of codes: a temperature regime is no temperature."""
_BAND_NAMES = re.compile(r"b(and)?_?\d+a?|red|green|blue|coastal|pan|nir\w*|swir\w*|rededge\w*|[vh][vh]", re.IGNORECASE)


class Coding(NamedTuple):
    """How measurements are stored: ``stored * scale + offset``, and nodata values.

    Attributes
    ----------
    nodata : tuple of float
        Values that mean nodata, as they stand among the values.
    scale, offset : float
        Factor and summand that turn stored values into physical ones.
    turned : bool
        Whether integers are to be read with a sign where their type has none, and without where it has one.
    valid : (float, float), optional
        Least and greatest of the integers that are values, as they are read; others mean nodata.
    """

    nodata: tuple[float, ...] = ()
    scale: float = 1.0
    offset: float = 0.0
    turned: bool = False
    valid: tuple[float, float] | None = None


PLAIN = Coding()


def coding_of(name: Hashable, array: xr.DataArray) -> Coding:
    """Read how a variable is stored.

    Attributes hold what has not been applied to the values yet. Encoding holds what has been: its scale is never applied again,
    and its nodata values, which may have been filled in again, are those that a store would read as nodata.

    Raises
    ------
    BandError
        If the variable holds no numbers, or what an attribute says of them is no number, or several where one is needed.
    """
    kind = array.dtype.kind
    if kind not in "fiub":
        raise BandError(f"Variable {name!r} holds {array.dtype} and not numbers; leave it out, or convert it: .astype('float32').")
    if kind == "b":
        return PLAIN
    found = _told(name, array, lambda key: plain_key(key) in NODATA or _tells_scale(array, key))
    kept = _kept(name, array)
    applied = _scaling(name, kept)
    is_scaled = kind == "f" and applied != (1.0, 0.0)
    of_class = is_class(name, array)
    scale, offset = (1.0, 0.0) if is_scaled or of_class else _scaling(name, found)
    if _stored(array).kind == "f" and (scale, offset) != (1.0, 0.0):
        keys = [key for key in array.attrs if _tells_scale(array, key)]
        note(
            f"{name!r} holds floats and has the attributes {keys}: it is taken for not yet scaled, and multiplied by {scale:g}, plus {offset:g}. "
            f"That is right after raster.where(...). If it is scaled already, as after raster * {scale:g}, remove them from it and from others like it: "
            f"for key in {keys}: del ds[{name!r}].attrs[key].",
            about=f"floats that are multiplied by {scale:g}, plus {offset:g}",
        )
    nodata: list[float] = [] if is_scaled else [value for key in FILLS for value in kept[key]]
    for key in found.keys() & set(NODATA):
        # What others than xarray call nodata is scaled by xarray as the rest is.
        factor, summand = applied if is_scaled and key not in FILLS else (1, 0)
        nodata += [value * factor + summand for value in found[key]]
    turned = kind in "iu" and str(array.attrs.get("_Unsigned", "")).lower() == {"i": "true", "u": "false"}[kind]
    valid = None if of_class else _valid(name, array, turned=turned, scaled=(scale, offset) != (1.0, 0.0))
    return Coding(tuple(sorted({value for value in nodata if not math.isnan(value)})), scale, offset, turned, valid)


def scale_of(name: Hashable, array: xr.DataArray, *, spelt: tuple[str, ...] = ()) -> tuple[float, float]:
    """Return the scale and offset that attributes tell and nobody has applied, of classes, too; of those ``spelt`` so, where some are given.

    Raises
    ------
    BandError
        As :func:`coding_of`.
    """
    if array.dtype.kind == "f" and _scaling(name, _kept(name, array)) != (1.0, 0.0):
        return 1.0, 0.0
    return _scaling(name, _told(name, array, lambda key: key in spelt if spelt else _tells_scale(array, key)))


def _kept(name: Hashable, array: xr.DataArray) -> dict[str, list[float]]:
    """Return the numbers of the encoding, by their plain names."""
    return {plain_key(key): list(_numbers(name, key, array.encoding.get(key))) for key in (*XARRAYS, "_FillValue", "missing_value")}


def _told(name: Hashable, array: xr.DataArray, wanted: Callable[[Hashable], bool]) -> dict[str, list[float]]:
    """Return the numbers of the attributes that are wanted, by their plain names."""
    found: dict[str, list[float]] = {}
    for key, value in array.attrs.items():
        if wanted(key):
            found.setdefault(plain_key(key), []).extend(_numbers(name, key, _of_band(array, value)))
    return found


def _valid(name: Hashable, array: xr.DataArray, *, turned: bool, scaled: bool) -> tuple[float, float] | None:
    """Return the range of valid integers. Of floats it may be stale, as whoever scales them leaves it; with a fraction it is of scaled values."""
    if array.dtype.kind not in "iu":
        return None
    meant = meant_type(array.dtype, turned=turned)
    limits = np.iinfo(meant)
    ends: list[float] = [limits.min, limits.max]
    for key, value in array.attrs.items():
        if plain_key(key) not in VALID:
            continue
        with suppress(BandError):  # words
            given = list(_numbers(name, key, value))
            if scaled and any(isinstance(number, float) for number in given):
                continue
            numbers = [as_meant(number, array.dtype, meant) if turned else number for number in given]
            if any(number is None or math.isnan(number) for number in numbers):
                continue
            if plain_key(key) == "validrange" and len(numbers) == 2:
                ends = [number for number in numbers if number is not None]
            elif len(numbers) == 1 and numbers[0] is not None and plain_key(key) != "validrange":
                ends[plain_key(key) == "validmax"] = numbers[0]
    return None if ends[0] > ends[1] or (ends[0] <= limits.min and ends[1] >= limits.max) else (ends[0], ends[1])


def meant_type(dtype: np.dtype[Any], *, turned: bool) -> np.dtype[Any]:
    """Return the type that integers are meant in: with a sign instead of without, and the other way round, where they are turned."""
    return np.dtype(f"{ {'i': 'u', 'u': 'i'}[dtype.kind] if turned else dtype.kind }{dtype.itemsize}")


def as_meant(value: float, stored: np.dtype[Any], meant: np.dtype[Any]) -> int | None:
    """Return a whole number in the type that integers are meant in: -1 is 255 to who reads bytes without a sign. None where it is in neither type."""
    if not (math.isfinite(value) and value == int(value)):
        return None
    ours, theirs = np.iinfo(meant), np.iinfo(stored)
    if ours.min <= value <= ours.max:
        return int(value)
    return (int(value) - ours.min) % 2**ours.bits + ours.min if theirs.min <= value <= theirs.max else None


def _scaling(name: Hashable, found: Mapping[str, list[float]]) -> tuple[float, float]:
    """Return scale and offset, under whichever of their names they stand."""
    parts = [1.0, 0.0]
    for at, keys in enumerate((SCALES, OFFSETS)):
        for key in keys:
            values = found.get(key)
            if values:
                parts[at] = float(values[0])
                if len(set(values)) > 1 or not math.isfinite(parts[at]) or parts[0] == 0:
                    raise BandError(f"Variable {name!r} has the {key} {values}; set the attribute to one number, this band's own.")
    return parts[0], parts[1]


def _tells_scale(array: xr.DataArray, key: Hashable) -> bool:
    """Whether an attribute holds scale or offset; "scale" of floats, or as text, may be anything, such as a map's scale."""
    if plain_key(key) in ("scale", "offset"):
        return array.dtype.kind in "iu" and not isinstance(array.attrs[key], str)
    return plain_key(key) in (*SCALES, *OFFSETS)


def plain_key(key: Hashable) -> str:
    """Return an attribute's name without case and punctuation, as names are listed here."""
    return re.sub(r"[\W_]", "", str(key)).lower()


def _of_band(array: xr.DataArray, value: Any) -> Any:
    """Return a band's own of the values that a file of several bands lists, where the variable tells which band it was."""
    band = array.coords.get("band")
    if isinstance(value, tuple | list) and band is not None and band.ndim == 0 and band.dtype.kind in "iu":
        return value[int(band) - 1] if 1 <= int(band) <= len(value) else value
    return value


def _numbers(name: Hashable, key: Hashable, value: Any) -> Iterator[float]:
    """Yield the numbers of an attribute: one, several, as text, or none."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        for text in re.split(r"[\s,;{}()\[\]]+", value):
            if text.lower() not in ABSENT:
                try:
                    yield int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
                except ValueError:
                    raise BandError(f"Variable {name!r} has {key} {value!r}, which is no number; correct the attribute.") from None
    elif isinstance(value, np.ndarray | tuple | list):
        for item in np.ravel(value).tolist() if isinstance(value, np.ndarray) else value:
            yield from _numbers(name, key, item)
    elif isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        yield value.item() if isinstance(value, np.generic) else value


def flags_of(array: xr.DataArray) -> tuple[list[int], list[str]]:
    """Return the codes of a class map's flags and the names of its classes, without blanks; empty where none are told.

    CF writes codes as numbers, and names as one text. In tags of GeoTIFFs codes are text, too; people also write lists of names.

    Raises
    ------
    BandError
        If a code is no whole number.
    """
    values = array.attrs.get("flag_values", ())
    if isinstance(values, str):
        values = re.sub(r"(?i)(?<=\d)u?[bsl]\b", "", values)  # CDL's types
    elif not isinstance(values, bytes):
        listed = np.ravel(np.asarray(values, dtype=object)).tolist()
        values = [int(one) if isinstance(one, bool | np.bool_) else one for one in listed]
    codes = list(_numbers(array.name, "flag_values", values))
    if not all(math.isfinite(code) and code == int(code) for code in codes):
        raise BandError(f"Variable {array.name!r} has flag_values {values!r}; codes of classes are whole numbers.")
    told = np.ravel(np.asarray(array.attrs.get("flag_meanings", ""), dtype=object)).tolist()
    if len(told) == 1:
        told = _names(told[0].decode(errors="replace") if isinstance(told[0], bytes) else str(told[0] or ""), len(codes))
    return [int(code) for code in codes], [flag_word(name) for name in told]


def _names(text: str, count: int) -> list[str]:
    """Part a text into names of classes: by commas with blanks behind them, by blanks, or by commas, whichever gives so many."""
    if LISTED.match(text):
        quoted = [name for _, name in re.findall(r"""(['"])(.*?)\1""", text)]
        if len(quoted) == count:
            return quoted
        text = re.sub(r"['\"()\[\]]", "", text)
    parts = [re.split(mark, text.strip(" ,;")) for mark in (r"[,;]\s+", r"\s+", r"[,;]")]
    return next((names for names in parts if len(names) == count and all(names)), text.split())


def decode(values: Array, coding: Coding, dtype: str = "float32") -> Array:
    """Turn stored values into physical ones, floats with NaN as nodata; what needs nothing is given back as it is."""
    stored = values.dtype
    if coding.turned:
        values = values.view(meant_type(stored, turned=True).newbyteorder(stored.byteorder))
    if coding == PLAIN:
        return values.astype(dtype, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        if (coding.scale, coding.offset) == (1.0, 0.0):
            out = values.astype(dtype)
        else:
            out = (values.astype("float64") * coding.scale + coding.offset).astype(dtype)
        for value in coding.nodata:
            out[_is(values, value, stored)] = np.nan
        if coding.valid is not None:
            out[(values < coding.valid[0]) | (values > coding.valid[1])] = np.nan
    return out


def _is(values: Array, value: float, stored: np.dtype[Any]) -> Any:
    """Return where values equal a nodata value, which may be written as they are stored, or as they are meant."""
    if values.dtype.kind == "f":
        return alike(values, value)
    number = as_meant(value, stored, values.dtype)
    return False if number is None else values == number


def decoded(name: Hashable, array: xr.DataArray, dtype: str = "float32") -> xr.DataArray:
    """Return a variable as floats in physical values with NaN as nodata, lazily, without the attributes that told of its storage.

    Raises
    ------
    BandError
        As :func:`coding_of`; and where values are read, of codes of classes that are too large for floats.
    """
    coding = coding_of(name, array)
    data = array.data
    if coding != PLAIN or array.dtype != np.dtype(dtype):
        work = partial(decode, coding=coding, dtype=dtype)
        if array.dtype.kind in "iu" and array.dtype.itemsize > 2 and is_class(name, array):
            work = partial(_codes, work, str(name))
        data = work(data) if array.chunks is None else data.map_blocks(work, dtype=dtype, meta=np.empty((0,) * array.ndim, dtype))
    out = array.copy(data=data)
    is_scaled = (coding.scale, coding.offset) != (1.0, 0.0)
    gone = {*NODATA, "unsigned", *(RANGES if is_scaled else ())}
    out.attrs = {key: value for key, value in array.attrs.items() if not (plain_key(key) in gone or _tells_scale(array, key))}
    out.encoding = {}
    return out


def _codes(work: Callable[[Array], Array], name: str, values: Array) -> Array:
    """Decode codes of classes, none of which may become its neighbour."""
    out = work(values)
    most = 2 ** (np.finfo(out.dtype).nmant + 1)
    large = np.abs(out) >= most
    if large.any():
        raise BandError(
            f"Variable {name!r} holds classes, and the code {values[large][0]}; {out.dtype} tells codes apart below {most}. Number the classes anew, "
            "from 0. If it is a measurement, give it a name of one."
        )
    return out


def note_unapplied(ds: xr.Dataset, names: Iterable[Hashable]) -> None:
    """Warn of whole numbers whose nodata or scale the dataset tells in place of them, as ``to_dataset("band")`` leaves a file's attributes.

    Warns
    -----
    MisoxrWarning
        If there are any. Nothing of it is applied.
    """
    idle = dict.fromkeys(("scalefactor", "scales"), 1.0) | dict.fromkeys(("addoffset", "offsets"), 0.0)
    told = {}
    for key, value in ds.attrs.items():
        plain = plain_key(key)
        with suppress(BandError):  # words
            numbers = [number for number in _numbers("", key, value) if math.isfinite(number)] if plain in {*NODATA, *idle} else []
            if any(number != idle.get(plain) for number in numbers):
                told[key] = value
    is_nodata = any(plain_key(key) in NODATA for key in told)
    bare = [
        name
        for name in (names if told else ())
        # Classes are never scaled.
        if ds[name].dtype.kind in "iu" and (is_nodata or not is_class(name, ds[name])) and coding_of(name, ds[name]) == PLAIN
    ]
    if bare:
        note(
            f"{bare} hold whole numbers, and the dataset has the attributes {told}, as raster.to_dataset('band') leaves them. They are not applied to "
            "these bands. Open the file with mask_and_scale=True, or write them down: "
            f"for name in {bare}: ds[name].attrs.update({{key: ds.attrs[key] for key in {list(told)}}}).",
            about="storage that the dataset tells",
        )


def may_lack(name: Hashable, array: xr.DataArray) -> bool:
    """Return whether a variable can be missing."""
    coding = coding_of(name, array)
    return array.dtype.kind == "f" or bool(coding.nodata) or coding.valid is not None


def is_class(name: Hashable, array: xr.DataArray) -> bool:
    """Return whether values are classes: by flags, type or name, or because they are bytes without units."""
    return is_told(name, array) or (_stored(array).itemsize == 1 and is_guessed(name, array))


def is_guessed(name: Hashable, array: xr.DataArray) -> bool:
    """Return whether values may be codes: whole numbers without units, whose name is not that of a quantity."""
    names = {one for band in (*SENTINEL2, *COVARIATES) for one in (band.name, *band.aliases)}
    words = _words(name)
    measured = words & (_QUANTITIES | _MORE_QUANTITIES | _MEASURES) and not words & _CODED
    return not (measured or name in names or _BAND_NAMES.fullmatch(str(name))) and is_whole(name, array)


def is_told(name: Hashable, array: xr.DataArray) -> bool:
    """Return whether flags, the type bool, or a name such as "scl" or "land_cover" say that values are classes."""
    words = _words(name)
    mapped = (words & _MAP_NAMES or {"land", "cover"} <= words) and not words & _QUANTITIES
    named = (words & _FLAG_NAMES or mapped) and not words & _MEASURES
    return bool(named) or array.dtype.kind == "b" or any(_CLASS_KEYS.fullmatch(str(key)) for key in array.attrs)


def _words(name: Hashable) -> set[str]:
    """Return the words of a variable's name."""
    return {word for word in re.split(r"[\W_]+", str(name).lower()) if word}


def is_whole(name: Hashable, array: xr.DataArray) -> bool:
    """Return whether a variable is stored as whole numbers without scale and units, which may be codes."""
    return "units" not in array.attrs and _counts(name, array)


def _stored(array: xr.DataArray) -> np.dtype[Any]:
    """Return the type in which the variable lies in its file."""
    stored: np.dtype[Any] = np.dtype(array.encoding.get("rasterio_dtype", array.encoding.get("dtype", array.dtype)))
    return stored


ALPHAEARTH = Coding((-128.0,))
"""How AlphaEarth's files hold embeddings: whole numbers, whose squares are the values, and -128 for nodata."""


def refuse_counts(name: Hashable, array: xr.DataArray) -> None:
    """Refuse a component of a unit vector that is stored as whole numbers without a scale: no value within -1 and 1 is told by them.

    Raises
    ------
    BandError
        If it is.
    """
    if _counts(name, array):
        raise BandError(
            f"Variable {name!r} holds whole numbers ({_stored(array)}) without a scale, and is a component of a unit vector. Set its scale_factor, "
            f"or decode the whole embedding with misoxr.cube.decode.unit_vectors: {_BY_CODING}."
        )


_BY_CODING = "coding='linear' for values in proportion to what is stored (TESSERA), coding='alphaearth' for AlphaEarth's squares"
"""What the codings of :func:`unit_vectors` are for, in errors."""


def _counts(name: Hashable, array: xr.DataArray) -> bool:
    """Return whether a variable is stored as whole numbers without a scale. A scale of 1 is none: rioxarray notes it where a file tells nothing."""
    if _stored(array).kind not in "iub":
        return False
    # Where the bands of a file have several scales, rioxarray applies them and notes none.
    applied = array.dtype.kind == "f" and "rasterio_dtype" in array.encoding
    several = applied and any(key not in {*array.encoding, *array.attrs} for key in XARRAYS)
    return not several and _scaling(name, _kept(name, array)) == scale_of(name, array) == (1.0, 0.0)


def unit_vectors(array: xr.DataArray, coding: str | None = None) -> xr.DataArray:
    """Decode an embedding that is stored as whole numbers, and bring its vectors to unit length, lazily.

    Parameters
    ----------
    array : DataArray
        The embedding (feature, y, x) or (band, y, x), as stored or decoded by xarray.
    coding : {"linear", "alphaearth"}, optional
        What stored values mean. It must be given for whole numbers without a scale; others are "linear". "linear": value = scale x stored + offset, by the attributes; a scale that all components of a pixel share, such as the one that
        TESSERA keeps for each pixel, need not be known, since vectors come out in length 1. "alphaearth": value = sign(stored) x
        (stored / 127.5)^2, and -128 is nodata, as in the GeoTIFFs of AlphaEarth Foundations.

    Returns
    -------
    DataArray
        (feature, y, x) float32, one chunk along feature; NaN where any component is missing or all are 0.

    Raises
    ------
    BandError
        If the array has other dimensions, or no numbers; if it holds whole numbers without a scale, and no coding is given; or with
        "alphaearth", if it is decoded already.
    SpecError
        If the coding is not known.

    References
    ----------
    The read-me of ``gs://alphaearth_foundations`` for its coding. TESSERA (arXiv 2506.20380) stores int8 and, in a file beside, a scale for
    each pixel; what the lengths of its vectors tell is given up here.

    Examples
    --------
    >>> from misoxr.cube.decode import unit_vectors
    >>> stored = image[["red", "green", "blue"]].to_dataarray("band")
    >>> image = image.miso.add(colour=unit_vectors(stored))  # colour_0, colour_1 and colour_2
    """
    if coding not in (None, "linear", "alphaearth"):
        raise SpecError(f"Unknown coding {coding!r}; use 'linear' or 'alphaearth'.")
    first = next((dim for dim in ("feature", "band") if dim in array.dims), None)
    if first is None or set(array.dims) != {first, "y", "x"}:
        raise BandError(f"The embedding has the dimensions {array.dims}; give an array over (feature, y, x) or (band, y, x).")
    stored = array.transpose(first, "y", "x")
    name = array.name or "embedding"
    if coding == "alphaearth" and _stored(array).kind != "i":
        raise BandError(
            f"The embedding holds {_stored(array)}, and AlphaEarth's stored values are int8. Give these, or leave coding out for decoded values."
        )
    if coding is None and _counts(name, stored):
        raise BandError(f"The embedding holds whole numbers ({_stored(array)}) without a scale; tell their coding: {_BY_CODING}.")
    how = ALPHAEARTH if coding == "alphaearth" else coding_of(name, stored)
    work = partial(_directions, coding=how, squared=coding == "alphaearth")
    if stored.chunks is None:
        data = work(stored.data)
    else:
        whole = stored.chunk({first: -1, "y": "auto", "x": "auto"}).data  # no longer the file's, which holds one band a chunk
        data = whole.map_blocks(work, dtype="float32", meta=np.empty((0, 0, 0), "f4"))
    coords = {key: value for key, value in stored.coords.items() if first not in value.dims and key != first}
    out = xr.DataArray(data, dims=("feature", "y", "x"), coords=coords, name=array.name)
    kept = {key: array.attrs[key] for key in ("grid_mapping",) if key in array.attrs}
    out.attrs = {"long_name": f"{name}, unit vectors", "units": "1", **kept}
    return out.assign_coords(feature=np.arange(out.sizes["feature"]))


def _directions(stored: Array, coding: Coding, *, squared: bool) -> npt.NDArray[np.float32]:
    """Decode vectors (feature, y, x), and divide them by their lengths."""
    values = decode(stored, coding)
    if squared:
        values = np.sign(values) * (values / np.float32(127.5)) ** 2
    length = np.sqrt(np.einsum("f...,f...->...", values, values, dtype="float64"))
    with np.errstate(invalid="ignore", divide="ignore"):
        out: npt.NDArray[np.float32] = (values / np.where(length > 0, length, np.nan)).astype("float32")
    return out
