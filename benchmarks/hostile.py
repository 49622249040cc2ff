"""What strangers can cost: seconds until a hostile server is given up, and memory above an honest input's.

    python benchmarks/hostile.py

Servers: each drips an answer, or leads on and on, with 1 s of patience. Answers: each sends or unpacks to 150 MB or more, where 5 MB are allowed. Tables of items
and rasters: each unpacks to far more than it is. The honest input of each has the same rows, or the same grid. Needs Linux. The cases are those of the tests. The
last lines have the greatest figures.
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "examples")]

PATIENCE = 1.0
HURRY = {"MISOXR_HTTP_TIMEOUT": "0.5", "MISOXR_HTTP_PATIENCE": str(PATIENCE)}
SMALL = {"MISOXR_DOCUMENT_MB": "5", "MISOXR_POINTS_MB": "5", "MISOXR_HTTP_PATIENCE": "5"}


def servers() -> float:
    """Seconds beyond patience until each reader gives each server up; the greatest."""
    from misoxr.assets import http
    from misoxr.errors import MisoxrError
    from tests.assets.test_connections import DRIPS, READS
    from tests.strangers import stranger

    most = 0.0
    with patch.dict(os.environ, HURRY), patch.object(http, "PAUSE", 0.02):
        for name, drip in DRIPS.items():
            for read in READS:
                with stranger(drip) as address:
                    start = time.monotonic()
                    try:
                        read(address)
                        ended = "is read"
                    except MisoxrError as error:
                        ended = type(error).__name__
                    beyond = time.monotonic() - start - PATIENCE
                print(f"{name}, {read.__name__}: {ended} after {PATIENCE + beyond:.2f} s", flush=True)
                most = max(most, beyond)
    return most


def child(code: str, *arguments: str, **environment: str) -> list[str]:
    """Run code in a process of its own, whose memory is its own."""
    command = [sys.executable, "-c", code, *arguments]
    paths = os.pathsep.join(sys.path[:3])
    run = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths, **environment}
    )
    return run.stdout.splitlines()


def answers() -> int:
    """Megabytes that each answer takes beyond what a refused connection takes; the greatest."""
    from tests.assets.test_connections import FLOODS, MEASURE, READS
    from tests.strangers import stranger

    most = 0
    for read in READS:
        with ExitStack() as stack:
            addresses = [stack.enter_context(stranger(answer)) for answer in FLOODS.values()]
            lines = child(MEASURE, read.__name__, *addresses, **SMALL)[1:]
        for name, line in zip(FLOODS, lines, strict=True):
            grown = int(line.rpartition("|")[2])
            print(f"{name}, {read.__name__}: {grown} MB", flush=True)
            most = max(most, grown)
    return most


def tables(directory: Path) -> int:
    """Megabytes beyond an honest table of as many rows; the greatest."""
    from tests.stac.test_table_copy import LARGE, MEASURE, written

    def grown(**columns) -> int:
        path = written(directory / "items.parquet", **columns)
        return int(child(MEASURE, str(path), MISOXR_CACHE=str(directory / "cache"))[-1])

    honest, most = grown(), 0
    for kind, column in LARGE.items():
        more = grown(more=column()) - honest
        print(f"a table, {kind}: {more} MB beyond the honest one's {honest}", flush=True)
        most = max(most, more)
    return most


def rasters(directory: Path) -> int:
    """Megabytes beyond a raster of the grid's own pixels; the greatest."""
    from tests.assets.test_read import FINE, SPARSE, sparse

    def grown(side: int, tile: int, pixel: float, size: float) -> int:
        sparse(directory, side, tile, pixel)
        return int(child(FINE, str(directory), "large.tif", str(size), GDAL_CACHEMAX="64")[-1])

    honest, most = grown(1024, 512, 10, 10), 0
    for side, tile, pixel, size, _ in SPARSE:
        more = grown(side, tile, pixel, size) - honest
        print(f"a raster of {side}² pixels in tiles of {tile}²: {more} MB beyond the honest one's {honest}", flush=True)
        most = max(most, more)
    return most


if __name__ == "__main__":
    print(f"seconds beyond patience, at most: {servers():.2f}")
    with tempfile.TemporaryDirectory() as place:
        print(f"MB, at most: answers {answers()}, tables {tables(Path(place))}, rasters {rasters(Path(place))}")
