"""A process on what looks like another machine that writes a cube. ``python -m tests.elsewhere STORE LOG LIMIT raise|mask``"""

import sys
from dataclasses import dataclass
from pathlib import Path

import dask
import numpy as np
import xarray as xr

from tests.writer import Note, slow_cube


@dataclass(frozen=True)
class Server(Note):
    """What one block is read from."""

    goes_away: bool

    def __call__(self, block: np.ndarray, block_id: tuple[int, int]) -> np.ndarray:
        from misoxr.errors import AssetError

        if block_id == (1, 1) and self.goes_away:
            super().__call__(block, block_id)
            raise AssetError("Item 'a', band 'red': the connection fails; read it again.")
        return block


def served_cube(log: Path, pause: float = 0.0, *, goes_away: bool = False) -> xr.Dataset:
    """The slow cube, of whose block (1, 1) the server may go away while it is read."""
    ds = slow_cube(log)
    red = ds.nir.data.map_blocks(Server(str(log), pause, goes_away), token="served", dtype="f4", meta=np.empty((0, 0), "f4"))
    return ds.assign(red=ds.red.copy(data=red))


def main(store: str, log: str, limit: float, on_error: str) -> None:
    """Write, one block after the other."""
    from misoxr.io import zarr
    from misoxr.records import writers

    writers._machine = lambda: "elsewhere"
    ledger = zarr.Ledger
    zarr.Ledger = lambda *args, **options: ledger(*args, limit=limit, **options)
    ds = slow_cube(Path(log), 0.3) if on_error == "raise" else served_cube(Path(log), 0.5, goes_away=True)
    with dask.config.set(scheduler="sync"):
        zarr.to_zarr(ds, store, progress=False, on_error=on_error)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4])
