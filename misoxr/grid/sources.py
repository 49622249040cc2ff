"""The protocol of sources that read any part of themselves with a halo, as composites do."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import dask.array as da
import xarray as xr

__all__ = ["SOURCE", "ReadsParts", "Source", "Span", "source_of"]

SOURCE = "misoxr_source"
"""Entry of a variable's encoding that holds its :class:`Source`."""

Span = tuple[int, int]
"""First pixel along an axis, and the one behind the last."""


class ReadsParts(Protocol):
    """A source that reads any part of itself, such as a composite of a catalogue's items."""

    def layers(self, rows: Sequence[Span], columns: Sequence[Span]) -> da.Array:
        """Return all layers (layer, y, x), float32, in one chunk for each pair of spans; spans may overlap, as blocks with a halo do."""


class Source(NamedTuple):
    """Where a variable comes from, as long as its data are those, or one time of them.

    Attributes
    ----------
    readers : tuple of ReadsParts
        What reads it; where it has a time, what reads each.
    layer : int
        Its layer there.
    name : str
        Name of its data.
    shape : tuple of int
        (y, x), or (time, y, x).
    """

    readers: tuple[ReadsParts, ...]
    layer: int
    name: str
    shape: tuple[int, ...]

    def reader_of(self, name: str | None) -> ReadsParts | None:
        """Return what reads the data of a name; None where they are others."""
        if len(self.shape) == 2:
            return self.readers[0] if name == self.name else None
        # The name of a part depends on the whole's and on which it is; of one chunk, it is quickly told.
        whole = da.Array({}, self.name, tuple((length,) for length in self.shape), dtype="float32")
        return next((reader for at, reader in enumerate(self.readers) if whole[at].name == name), None)


def source_of(ds: xr.Dataset, names: Sequence[str]) -> tuple[ReadsParts, dict[str, int]] | None:
    """Return what reads the variables, and their layers; None where they were changed, or come from several or from elsewhere."""
    readers: dict[int, ReadsParts] = {}
    layers: dict[str, int] = {}
    for name in names:
        source = ds[name].encoding.get(SOURCE)
        if isinstance(source, Source):
            reader = source.reader_of(getattr(ds[name].data, "name", None))
            if reader is not None:
                readers[id(reader)] = reader
                layers[name] = source.layer
    return (next(iter(readers.values())), layers) if len(readers) == 1 else None
