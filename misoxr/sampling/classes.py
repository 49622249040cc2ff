"""Class maps: their legend, their pixels as numbers of classes, and labels of a reference in the same numbers."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from misoxr.cube.decode import flags_of
from misoxr.cube.presets import MISSING
from misoxr.cube.variables import FILL, class_fills
from misoxr.errors import BandError, PointsError, SpecError, did_you_mean, note
from misoxr.points.readers import is_missing, number_of
from misoxr.spec.words import flag_word

__all__ = ["Legend", "classes_named", "has_classes", "plain", "reference_classes"]

Numbers = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Legend:
    """The classes of a map.

    Attributes
    ----------
    name : str
        Name of the map.
    names : tuple of str
        Names of the classes.
    codes : tuple of int
        What stands for each in the map.
    fills : tuple of float
        What stands for nodata, beside NaN.
    """

    name: str
    names: tuple[str, ...]
    codes: tuple[int, ...]
    fills: tuple[float, ...] = (FILL,)

    @classmethod
    def of(cls, array: xr.DataArray) -> "Legend":
        """Read the classes of a map from its attributes.

        Raises
        ------
        SpecError
            If it has no name, no ``flag_values`` and ``flag_meanings``, or as many of one as not of the other.
        BandError
            If it does not hold numbers, or codes are none.
        """
        if array.name is None:
            raise SpecError("The map has no name, so its column of the reference is not known; name it: map.rename('permafrost').")
        name = str(array.name)
        if not has_classes(array):
            raise SpecError(
                f"The map {name!r} has no flag_values and flag_meanings, so its classes are not known. For a map of classes, write them: "
                'map.assign_attrs(flag_values=[0, 1], flag_meanings="absent present"). For a map of values, use misoxr.sampling.mean.'
            )
        if array.dtype.kind not in "iuf":
            raise BandError(f"The map {name!r} holds {array.dtype}; give class codes, as uint8 with 255 for nodata.")
        values, words = flags_of(array)
        if len(values) != len(words) or len(set(values)) != len(values) or len(set(words)) != len(words):
            raise SpecError(f"The map {name!r} has flag_values {values} and flag_meanings {words}; give each class one of each.")
        return cls(name, tuple(words), tuple(values), class_fills(name, array))

    def numbers(self, block: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
        """Return the number of each pixel's class; behind them ``len(names)`` for nodata, and one more for what is no class."""
        count = len(self.codes)
        if block.dtype == np.uint8:
            table = np.full(256, count + 1, "uint16")
            for number, code in [*enumerate(self.codes), *((count, fill) for fill in self.fills)]:
                if 0 <= code <= 255:
                    table[int(code)] = number
            return np.asarray(table[block])
        order = np.argsort(self.codes)
        known = np.asarray(self.codes)[order]
        at = np.minimum(np.searchsorted(known, block), count - 1)
        found = np.where(known[at] == block, order[at], count + 1)
        found[np.isin(block, self.fills) | (np.isnan(block) if block.dtype.kind == "f" else False)] = count
        return found.astype("uint16")

    def known(self) -> tuple[dict[Any, int], dict[Any, int]]:
        """Return the numbers of classes by their names, and by their codes; numbers that are names are no codes."""
        by_name: dict[Any, int] = {name: at for at, name in enumerate(self.names)}
        numbers = {number: at for at, name in enumerate(self.names) if (number := number_of(name)) is not None}
        return by_name | numbers, {} if numbers else {Decimal(code): at for at, code in enumerate(self.codes)}

    def refuse(self, count: int) -> None:
        """Raise where pixels hold what is no class.

        Raises
        ------
        BandError
            If there are any.
        """
        if count:
            raise BandError(
                f"{count} pixels of the map {self.name!r} hold none of its classes {dict(zip(self.codes, self.names, strict=True))}. "
                "Was it averaged, or is its nodata not declared (attribute _FillValue)? Classes are resampled by the nearest or the most frequent."
            )


def has_classes(array: xr.DataArray) -> bool:
    """Return whether an array is a class map, by its attributes."""
    return {"flag_values", "flag_meanings"} <= set(array.attrs)


def reference_classes(column: pd.Series, legend: Legend) -> tuple[Numbers, tuple[str, ...]]:
    """Return labels as numbers of classes, -1 where missing, and the names of all classes: the map's, then others of the reference.

    Labels are names (a space may stand for "_"), or the map's codes. Where classes are named by numbers, numbers are names. True and False are
    the codes 1 and 0 of two classes.

    Raises
    ------
    PointsError
        If there is no label, labels are names and codes, a number is no code, or no label is a class of the map; if labels are True and False and
        the codes are not 0 and 1; or if texts seem to stand for missing.

    Warns
    -----
    MisoxrWarning
        If the reference has classes that the map lacks.
    """
    known = f"the map {legend.name!r} has the classes {dict(zip(legend.codes, legend.names, strict=True))}"
    if set(legend.codes) != {0, 1} and any(isinstance(value, bool | np.bool_) for value in column):
        raise PointsError(f"Labels of {legend.name!r} are True and False, and {known}. Write classes as the map has them.")
    labels = [None if is_missing(value) else plain(value) for value in column]
    seen = list(dict.fromkeys(label for label in labels if label is not None))
    if not seen:
        raise PointsError(f"No site has a label in the column {legend.name!r}; fill in what was seen there.")
    by_name, by_code = legend.known()
    named, coded = ({label for label in seen if label in known} for known in (by_name, by_code))
    others = [label for label in seen if label not in named | coded]
    if missing := [label for label in others if label in MISSING]:
        raise PointsError(
            f"{labels.count(missing[0])} labels of {legend.name!r} are the text {missing[0]!r}, which seems to stand for missing. Make it missing: "
            f"reference[{legend.name!r}] = reference[{legend.name!r}].replace({missing[0]!r}, None). If it is a class, give it another name."
        )
    alike = [label for label in others if str(label).casefold() in {name.casefold() for name in legend.names}]
    if alike:
        raise PointsError(
            f"Labels of the reference are {_shown(alike)}, and {known}. Write upper and lower case as the map has it."
        )
    near = next((found for one in others if (found := did_you_mean(str(one), legend.names))), "")
    if any(isinstance(label, Decimal) for label in others) or not named | coded:
        raise PointsError(f"Labels of the reference are {_shown(others)}, and {known}. Write classes as the map has them.{near}")
    if coded and named | set(others):
        both = f"names, such as {_shown(named | set(others))}, and codes, such as {_shown(coded)}"
        raise PointsError(f"Labels of {legend.name!r} are {both}. Write all as names.")
    if others:
        told = f"The reference has classes that the map lacks: {_shown(others)}; {known}"
        note(f"{told}. They get an area, as omitted from the map.{near}")
    more = {label: len(legend.names) + at for at, label in enumerate(sorted(map(str, others)))}
    number = {**by_code, **by_name, **more}
    return np.array([-1 if label is None else number[label] for label in labels], np.intp), (*legend.names, *more)


def classes_named(values: Iterable[Any], legend: Legend) -> Numbers | None:
    """Return the numbers of classes that values name, by name or code; None where one is no class."""
    by_name, by_code = legend.known()
    known = {**by_code, **by_name}
    labels = [plain(value) for value in values]
    return np.array([known[label] for label in labels], np.intp) if all(label in known for label in labels) else None


def plain(value: Any) -> str | Decimal:
    """Return a label as a number where it is one, also as text, else as a class map spells names."""
    number = Decimal(int(value)) if isinstance(value, bool | np.bool_) else number_of(value)
    return number if number is not None else flag_word(value)


def _shown(labels: Iterable[Any]) -> list[Any]:
    return sorted(map(str, labels))[:10]
