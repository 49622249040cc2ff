"""A composite in one task a block, against the median of the time cube: time and tasks; and the memory that a large block takes.

    python benchmarks/composite.py

Cube and composite read the same simulated items over HTTP from a server on this machine, side by side in one run. Then one block of 2048 x
2048 pixels of ten bands at 100 dates is made in a process of its own, whose greatest size is told, libraries included. The last line is JSON.
"""

import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import misoxr
from misoxr import simulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from servers import range_server, stac_api
from state import greatest

SHAPE = (1024, 1024)
BLOCK, DATES = 2048, 100
TEN = ("blue", "green", "red", "rededge071", "rededge075", "rededge078", "nir", "nir08", "swir16", "swir22")


def large_block(address: str, answers: "multiprocessing.SimpleQueue[dict[str, float]]") -> None:
    """Make one block of many dates, and tell time and memory."""
    from streaming import items

    at_rest = greatest()
    start = time.perf_counter()
    cube = misoxr.open_stac(items(address, BLOCK, DATES, TEN), bands=TEN, reduce="median", chunks=BLOCK, allow_private=True)
    block = cube.compute(scheduler="synchronous")
    assert all(np.isfinite(block[band]).mean() > 0.99 for band in TEN)
    answers.put({"block_s": time.perf_counter() - start, "block_gb": greatest(), "libraries_gb": at_rest})


def memory() -> dict[str, float]:
    """Greatest size of a process that makes one large block."""
    from streaming import write

    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name, range_server(Path(name)) as address:
        write(Path(name), BLOCK, DATES, "deflate", TEN, files=4)
        answers = spawn.SimpleQueue()
        process = spawn.Process(target=large_block, args=(address, answers))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit("the large block failed")
        return answers.get()


def main() -> None:
    """Run both, check that they agree, and print the ratios."""
    with tempfile.TemporaryDirectory() as directory, range_server(directory) as files:
        items = simulate.write(directory, shape=SHAPE, n_points=10, base_url=f"{files}/").items
        with stac_api(items) as api:
            options = {"collections": ["sentinel-2-l2a-simulated"], "crs": "EPSG:3338", "resolution": 20, "chunks": 512}
            rows = {}
            for name in ("cube, then composite", "reduce='median'"):
                start = time.perf_counter()
                reduced = name.startswith("reduce")
                lazy = misoxr.open_stac(api, reduce="median" if reduced else None, **options)
                lazy = lazy if reduced else lazy.miso.composite()
                tasks = len(dict(lazy.__dask_graph__()))
                rows[name] = (lazy.compute(), time.perf_counter() - start, tasks)
                print(f"{name:24s}{rows[name][1]:8.1f} s{tasks:10d} tasks")
    (cube, cube_s, cube_tasks), (block, block_s, block_tasks) = rows.values()
    difference = max(float(np.nanmax(np.abs(cube[name].values - block[name].values))) for name in ("red", "swir22"))
    large = memory()
    print(f"a block of {BLOCK} x {BLOCK} pixels: " + ", ".join(f"{key} {value:.2f}" for key, value in large.items()))
    print(json.dumps({**large, "speedup": cube_s / block_s, "task_ratio": cube_tasks / block_tasks, "max_abs_diff": difference}))


if __name__ == "__main__":
    main()
