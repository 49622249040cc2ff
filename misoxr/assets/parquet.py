"""Rows of Parquet files, as many at once as may be unpacked: these may unpack to a thousand times their size."""

from collections.abc import Iterator
from typing import Any

from misoxr.errors import MisoxrError

__all__ = ["AT_ONCE", "BATCH", "most_of", "unpacked"]

BATCH, PART = 2048, 128
"""Rows that are worth a batch, and those that are unpacked at once: late ones may be a thousand times as wide as the first."""
AT_ONCE = 16_000_000
"""Bytes that these may take, by what the first rows take."""
AT_WORST = 64_000_000
"""Bytes that a column of these may take, where each value is all that its dictionary holds. Writers end a dictionary at about a megabyte."""
PEEK = 16
"""Rows that are looked at first, of each group."""
FOLDS, BESIDE = 200, 64_000_000
"""How many times its size a file may unpack to, beside some bytes: those of honest tables do so some 20 times."""


def most_of(size: int, most: int) -> int:
    """Return how many bytes a file of a size may unpack to, of those that are allowed at all."""
    return min(most, FOLDS * size + BESIDE)


def unpacked(file: Any, table: Any, most: int, refusal: MisoxrError) -> Iterator[Any]:
    """Yield record batches of a ``pyarrow.parquet.ParquetFile``.

    Parameters
    ----------
    file : file-like
        What the table was opened from.
    table : pyarrow.parquet.ParquetFile
        The table.
    most : int
        Bytes that they may take in all.
    refusal : MisoxrError
        What is raised where they take more.
    """
    total = 0
    # all before any row: rows may be read ahead while others are yielded
    dictionaries = [_largest_dictionary(file, table.metadata.row_group(at)) for at in range(table.num_row_groups)]
    for at, dictionary in enumerate(dictionaries):
        group = table.metadata.row_group(at)
        columns = [group.column(index) for index in range(group.num_columns)]
        packed = sum(max(column.total_uncompressed_size, 0) for column in columns)
        values = sum(max(column.num_values, 0) for column in columns)
        if max(packed, 8 * values, 8 * group.num_rows) > most:
            raise refusal
        worst = max(1, min(PART, AT_WORST // max(dictionary, 1)))
        first = next(table.iter_batches(min(PEEK, worst), row_groups=[at]), None)
        if first is None:
            continue
        width = first.nbytes // max(first.num_rows, 1) + 1
        for batch in table.iter_batches(max(1, min(worst, AT_ONCE // width)), row_groups=[at]):
            total += batch.nbytes
            if total > most:
                raise refusal
            yield batch


def _largest_dictionary(file: Any, group: Any) -> int:
    """Return the bytes that the largest dictionary of a row group unpacks to, by the headers of the pages themselves."""
    starts = (group.column(index).dictionary_page_offset for index in range(group.num_columns))
    return max((_page_size(file, start) for start in starts if start), default=0)


def _page_size(file: Any, start: int) -> int:
    """Return how many bytes a page unpacks to: the second field of its header, in Thrift's compact protocol."""
    file.seek(start)
    head = file.read(16)
    if head[:1] != b"\x15" or head[2:3] != b"\x15":  # two fields of 32 bits; the kind of a page is one byte
        return 0
    size = 0
    for place, byte in enumerate(head[3:8]):
        size |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            break
    return size >> 1  # zigzag; what is negative is refused when it is read
