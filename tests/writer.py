"""A process that writes a map slowly: to be killed, and to write beside others. ``python -m tests.writer STORE LOG PAUSE [ROWS]``"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import dask
import numpy as np
import xarray as xr

SIZE, CHUNK = (80, 96), 16
BLOCKS = 30


def slow_map(log: Path, pause: float = 0.0, rows: int = CHUNK) -> xr.Dataset:
    """A predicted map of 5 x 6 blocks (2 x 6 of 40 rows), each of which takes a while and is noted in a log when it is computed."""
    from misoxr.mapping.predict import predict
    from tests.conftest import make_cube, make_model, tiny_spec

    spec = tiny_spec()
    cube = make_cube(SIZE, spec.bands).chunk({"y": rows, "x": CHUNK})
    maps = predict(cube, make_model(spec), device="cpu")
    noted = maps.permafrost_probability.data.map_blocks(
        Note(str(log), pause), token="noted", dtype="float32", meta=np.empty((0, 0), "f4")
    )
    return maps.assign(permafrost_probability=maps.permafrost_probability.copy(data=noted))


def slow_cube(log: Path, pause: float = 0.0) -> xr.Dataset:
    """As many blocks without a model: two variables of plain numbers."""
    import dask.array as da
    from affine import Affine
    from odc.geo.geobox import GeoBox

    from misoxr.grid.geobox import assign

    values = np.arange(SIZE[0] * SIZE[1], dtype="float32").reshape(SIZE)
    noted = da.from_array(values, chunks=CHUNK).map_blocks(
        Note(str(log), pause), token="noted", dtype="float32", meta=values[:0, :0]
    )
    data = {"red": (("y", "x"), noted), "nir": (("y", "x"), noted + 1)}
    return assign(xr.Dataset(data), GeoBox(SIZE, Affine(20, 0, 3e5, 0, -20, 1.5e6), "EPSG:3338"))


@dataclass(frozen=True)
class Note:
    """Notes a block in a log after a pause; neither makes another map of it."""

    log: str
    pause: float

    def __dask_tokenize__(self) -> str:
        return "note"

    def __call__(self, block: np.ndarray, block_id: tuple[int, int]) -> np.ndarray:
        time.sleep(self.pause)
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{os.getpid()} {block_id[0]} {block_id[1]}\n".encode())
        os.close(descriptor)
        return block


def noted(log: Path) -> list[tuple[int, int, int]]:
    """Process, row and column of each block that was computed."""
    return [tuple(map(int, line.split())) for line in log.read_text().splitlines()] if log.exists() else []


def write(store: str, log: Path, pause: float, rows: int = CHUNK) -> None:
    """Write the slow map."""
    from misoxr.io.zarr import to_zarr

    dask.config.set(num_workers=2)
    to_zarr(slow_map(log, pause, rows), store, progress=False)


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), *map(int, sys.argv[4:]))
