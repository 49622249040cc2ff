"""A composite in one task a block, against the median of the time cube: time and tasks; and the memory that a large block takes.

    python benchmarks/composite.py
    python benchmarks/composite.py --reductions

Cube and composite read the same simulated items over HTTP from a server on this machine, side by side in one run. Then one block of 2048 x
2048 pixels of ten bands at 100 dates is made in a process of its own, whose greatest size is told, libraries included. The last line is JSON.
With ``--reductions``, such a block of six bands is made by every reduction, one after the other, and seconds, CPU seconds and sizes are told side by side.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
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
SIX = ("blue", "green", "red", "nir", "swir16", "swir22")
REDUCTIONS = ("median", "mean", "p10", "count", "geomedian")


def large_block(address: str, bands: Sequence[str], reduce: str, answers: "multiprocessing.SimpleQueue[dict[str, float]]") -> None:
    """Make one block of many dates, and tell time and memory."""
    from streaming import items

    at_rest = greatest()
    start, busy = time.perf_counter(), time.process_time()
    cube = misoxr.open_stac(items(address, BLOCK, DATES, bands), bands=bands, reduce=reduce, chunks=BLOCK, allow_private=True)
    block = cube.compute(scheduler="synchronous")
    assert all(np.isfinite(block[band]).mean() > 0.99 for band in bands)
    seconds = {"block_s": time.perf_counter() - start, "block_cpu_s": time.process_time() - busy}
    answers.put({**seconds, "block_gb": greatest(), "libraries_gb": at_rest})


def memory(bands: Sequence[str], reductions: Sequence[str]) -> Iterator[dict[str, float]]:
    """Yield time and greatest size of a process that makes one large block, for each reduction."""
    from streaming import write

    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name, range_server(Path(name)) as address:
        write(Path(name), BLOCK, DATES, "deflate", bands, files=4)
        for reduce in reductions:
            answers = spawn.SimpleQueue()
            process = spawn.Process(target=large_block, args=(address, bands, reduce, answers))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit("the large block failed")
            yield answers.get()


def side_by_side() -> None:
    """Make a block by every reduction, and print seconds and sizes."""
    rows = {}
    print(f"a block of {BLOCK} x {BLOCK} pixels, {len(SIX)} bands, {DATES} dates")
    for reduce, found in zip(REDUCTIONS, memory(SIX, REDUCTIONS), strict=True):
        rows[reduce] = found
        print(f"{reduce:12s}{found['block_s']:8.1f} s{found['block_cpu_s']:8.1f} s CPU{found['block_gb']:8.2f} GB", flush=True)
    print(json.dumps({f"{reduce}_{key}": value for reduce, found in rows.items() for key, value in found.items()}))


def main() -> None:
    """Run both, check that they agree, and print the ratios; or make a block by every reduction."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reductions", action="store_true", help="make one large block by every reduction")
    if parser.parse_args().reductions:
        side_by_side()
        return
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
    large = next(memory(TEN, ["median"]))
    print(f"a block of {BLOCK} x {BLOCK} pixels: " + ", ".join(f"{key} {value:.2f}" for key, value in large.items()))
    print(json.dumps({**large, "speedup": cube_s / block_s, "task_ratio": cube_tasks / block_tasks, "max_abs_diff": difference}))


if __name__ == "__main__":
    main()
