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
    """Where a variable comes from, as long as the variable's data have this name."""

    reader: ReadsParts
    layer: int
    name: str


def source_of(ds: xr.Dataset, names: Sequence[str]) -> tuple[ReadsParts, dict[str, int]] | None:
    """Return what reads the variables, and their layers; None where they were changed, or come from several or from elsewhere."""
    readers: dict[int, ReadsParts] = {}
    layers: dict[str, int] = {}
    for name in names:
        source = ds[name].encoding.get(SOURCE)
        if isinstance(source, Source) and source.name == getattr(ds[name].data, "name", None):
            readers[id(source.reader)] = source.reader
            layers[name] = source.layer
    return (next(iter(readers.values())), layers) if len(readers) == 1 else None
