"""A composite in one task a block, against the median of the time cube: time and tasks, side by side in one run.

    python benchmarks/composite.py

Both read the same simulated items over HTTP from a server on this machine. The last line is JSON.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import misoxr
from misoxr import simulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from servers import range_server, stac_api

SHAPE = (1024, 1024)


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
    print(json.dumps({"speedup": cube_s / block_s, "task_ratio": cube_tasks / block_tasks, "max_abs_diff": difference}))


if __name__ == "__main__":
    main()
