"""Of which sensor each row of a table of items is, and which rows declare the same of their assets: found by whole columns."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from misoxr.sensors.declared import COMMON, DATA_TYPE, OFFSET, SCALE, UNITS
from misoxr.sensors.known import INSTRUMENTS, LEVELS, SENTINEL2, is_known, refuse_unmatched, sensor_of
from misoxr.sensors.sensor import Sensor

__all__ = ["descriptions", "row_sensors"]

Integers = npt.NDArray[np.intp]

TELLING = (*INSTRUMENTS, *LEVELS)
"""Properties that tell an item's sensor."""
BANDS = ("bands", "raster:bands", "eo:bands")
"""Fields of an asset that hold lists of bands."""
FIELDS = (*SCALE, *OFFSET, *DATA_TYPE, *UNITS, "name", "common_name", "eo:common_name")
"""Fields of an asset or band that tell what its numbers are."""


def row_sensors(
    table: Any, rows: Integers, asked: Sensor | None, item_of: Callable[[int], Mapping[str, Any]] | None = None
) -> tuple[Integers, list[Sensor]]:
    """Return of which sensor each row is, as its place in a list of sensors.

    Parameters
    ----------
    table : pyarrow.Table
        The table.
    rows : ndarray of int
        Which of its rows.
    asked : Sensor, optional
        What the user says that they are of.
    item_of : callable, optional
        Returns the item of a row; by default it is made of the columns that tell a sensor.

    Raises
    ------
    CatalogError
        If the sensor that is asked for is not the items', or no item is of it.

    Notes
    -----
    A sensor is found once for all rows with the same collection, platform and instruments. An id counts where the collection is not known.
    Its numbers are cut to two digits then, as no sensor's pattern looks at more.
    """
    columns = {name: _plain(table.column(name), rows) for name in ("collection", *TELLING) if name in table.column_names}
    ids, count = _plain(table.column("id"), rows), len(rows)
    collections = columns.get("collection", np.full(count, None))
    if asked is not None and asked.pattern:
        named = ids
    else:
        known = np.array([is_known(name) for name in pd.unique(collections)], bool)[
            pd.factorize(collections, use_na_sentinel=False)[0]
        ]
        named = np.full(count, "", object)
        named[~known] = (
            pd.Series(ids[~known], dtype=object).astype(str).str.replace(r"(?<=\d\d)\d+", "0", regex=True).to_numpy(object)
        )
    parts = [pd.factorize(values, use_na_sentinel=False)[0] for values in (named, *columns.values())]
    is_sentinel2 = np.zeros(count, bool)
    for name in table.column_names:
        if name.startswith(SENTINEL2):
            is_sentinel2 |= table.column(name).is_valid().to_numpy()[rows]
    codes = _together([*parts, is_sentinel2.astype(np.intp)], count)
    items, of = [], []
    for at in np.unique(codes, return_index=True)[1]:
        told = {name: values[at] for name, values in columns.items() if name != "collection" and values[at] is not None}
        item = {
            "id": ids[at],
            "collection": collections[at],
            "properties": told | ({SENTINEL2[0]: True} if is_sentinel2[at] else {}),
        }
        items.append(item if item_of is None else item_of(int(rows[at])))
        of.append(sensor_of(items[-1], asked))
    refuse_unmatched(items, asked)
    sensors = {sensor.name: sensor for sensor in of}
    place = {name: at for at, name in enumerate(sensors)}
    return np.array([place[sensor.name] for sensor in of], np.intp)[codes], list(sensors.values())


def descriptions(table: Any, rows: Integers) -> Integers:
    """Return a number for each row that rows share whose items have the same assets, and declare the same of their numbers.

    Parameters
    ----------
    table : pyarrow.Table
        The table.
    rows : ndarray of int
        Which of its rows.
    """
    parts = [_codes(table.column(name)) for name in COMMON if name in table.column_names]
    for asset in _fields(table.column("assets")).values():
        parts.append(asset.is_valid().to_numpy().astype(np.intp))
        fields = _fields(asset)
        parts += [_codes(fields[name]) for name in FIELDS if name in fields]
        parts += [codes for name in BANDS if name in fields for codes in _first_band(fields[name])]
    return _together([codes[rows] for codes in parts], len(rows))


def _together(parts: list[Integers], count: int) -> Integers:
    """Return a number for each row that rows share which share all of theirs."""
    codes: Integers = np.zeros(count, np.intp)
    for part in parts:
        least, most = (int(part.min()), int(part.max())) if count else (0, 0)
        if most > least:
            codes = pd.factorize(codes * (most - least + 1) + (part - least))[0].astype(np.intp)
    return codes


def _plain(column: Any, rows: Integers) -> npt.NDArray[np.object_]:
    """Return a column's values as text, None where there is none; those of lists are joined."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = pc.binary_join(column, " ")
    values = column.to_pandas().astype(object)
    return np.asarray(values.where(values.notna(), None).to_numpy(object)[rows])


def _fields(column: Any) -> dict[str, Any]:
    """Return the fields of a column of objects, each a column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_struct(column.type):
        return {}
    return {column.type.field(at).name: pc.struct_field(column, [at]) for at in range(column.type.num_fields)}


def _first_band(column: Any) -> Iterator[Integers]:
    """Yield what the first band of each row's list declares."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return
    lists = column.combine_chunks()
    parents, first = np.unique(pc.list_parent_indices(lists).to_numpy(zero_copy_only=False), return_index=True)
    for name, values in _fields(pc.list_flatten(lists)).items():
        if name in FIELDS:
            codes: Integers = np.full(len(lists), -1, np.intp)
            codes[parents] = _codes(values)[first]
            yield codes


def _codes(column: Any) -> Integers:
    """Return a number for each value of a column, -1 where there is none; lists and objects are taken for one value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_nested(column.type) or pa.types.is_null(column.type):
        return np.asarray(
            column.is_valid().to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.is_valid().to_numpy(),
            np.intp,
        )
    encoded = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = pa.concat_arrays(encoded.chunks)
    return np.asarray(pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False), np.intp)
