"""A process on what looks like another machine that writes a cube. ``python -m tests.elsewhere STORE LOG LIMIT [FAILS]``

With FAILS, block (1, 1) cannot be read, and becomes nodata.
"""

import sys
from pathlib import Path

import dask
import numpy as np

from tests.writer import Note, slow_cube


class Fails(Note):
    """A block whose server goes away while it is read."""

    def __call__(self, block: np.ndarray, block_id: tuple[int, int]) -> np.ndarray:
        from misoxr.errors import AssetError

        if block_id != (1, 1):
            return block
        super().__call__(block, block_id)
        raise AssetError("Item 'a', band 'red': the connection fails; read it again.")


def main(store: str, log: str, limit: float, *, fails: bool) -> None:
    """Write, one block after the other."""
    from misoxr.io import writers, zarr

    writers._machine = lambda: "elsewhere"
    ledger = zarr.Ledger
    zarr.Ledger = lambda *args, **options: ledger(*args, limit=limit, **options)
    ds = slow_cube(Path(log), 0.2)
    if fails:
        ds = ds.assign(red=ds.red.copy(data=ds.nir.data.map_blocks(Fails(log, 0.5), token="fails", dtype="f4", meta=np.empty((0, 0), "f4"))))
    with dask.config.set(scheduler="sync"):
        zarr.to_zarr(ds, store, progress=False, on_error="mask" if fails else "raise")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), fails=len(sys.argv) > 4)
