"""Rows of Parquet files, as many at once as may be unpacked: these may unpack to a thousand times their size."""

from collections.abc import Iterator
from typing import Any

from misoxr.errors import MisoxrError

__all__ = ["AT_ONCE", "BATCH", "most_of", "unpacked"]

BATCH, PART = 2048, 256
"""Rows that are worth a batch, and those that are unpacked at once: late ones may be a thousand times as wide as the first."""
AT_ONCE = 64_000_000
"""Bytes that these may take, by what the first rows take."""
AT_WORST = 500_000_000
"""Bytes that these may take where each value were as large as all that its column holds."""
PEEK = 16
"""Rows that are looked at first, of each group."""
FOLDS, BESIDE = 200, 256_000_000
"""How many times its size a file may unpack to, beside some bytes: those of honest tables do so some 20 times."""


def most_of(size: int, most: int) -> int:
    """Return how many bytes a file of a size may unpack to, of those that are allowed at all."""
    return min(most, FOLDS * size + BESIDE)


def unpacked(table: Any, most: int, refusal: MisoxrError) -> Iterator[Any]:
    """Yield record batches of a ``pyarrow.parquet.ParquetFile``.

    Parameters
    ----------
    table : pyarrow.parquet.ParquetFile
        The file.
    most : int
        Bytes that they may take in all.
    refusal : MisoxrError
        What is raised where they take more.
    """
    total = 0
    for at in range(table.num_row_groups):
        group = table.metadata.row_group(at)
        columns = [group.column(index) for index in range(group.num_columns)]
        packed = sum(max(column.total_uncompressed_size, 0) for column in columns)
        values = sum(max(column.num_values, 0) for column in columns)
        if max(packed, 8 * values, 8 * group.num_rows) > most:
            raise refusal
        worst = max(1, min(PART, AT_WORST // max(packed, 1)))
        first = next(table.iter_batches(min(PEEK, worst), row_groups=[at]), None)
        if first is None:
            continue
        width = first.nbytes // max(first.num_rows, 1) + 1
        for batch in table.iter_batches(max(1, min(worst, AT_ONCE // width)), row_groups=[at]):
            total += batch.nbytes
            if total > most:
                raise refusal
            yield batch
