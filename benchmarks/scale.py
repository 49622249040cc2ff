"""Scale: memory as the area grows, what Dask costs, what resuming costs, and how large a graph is handed over.

    python benchmarks/scale.py [memory] [workers] [resume] [checksums] [graph] [overhead] [state]

All of them by default, which takes about an hour on 2 cores; the machine should do nothing else. Imagery is noise made block by block.

memory: greatest size of a worker process (LocalCluster, 2 processes of a thread) while miso-nano maps 1, 4, 16 and 64 times 512 x 512 pixels in
chunks of 256. workers: blocks a second with 1 and 2 worker processes. resume: time of a write that is stopped half-way and resumed, over that of
one that is not. checksums: processor time of ``to_zarr`` with checksums over that without, of a map of miso-nano and of noise that is in memory, and gigabytes
(before compression) a second of processor time that a second call of ``to_zarr``, which finds nothing to do, and ``check`` read. graph: tasks and bytes of the largest graph handed to a scheduler for 370,000 x 240,000 pixels in chunks of 1,024. overhead:
time of ``to_zarr`` of one chunk of 2,048 x 2,048 pixels with miso-small, over that of a bare loop over the same windows that writes nothing.
state: see state.py. One line of JSON at the end.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

sys.path.insert(0, str(Path(__file__).resolve().parent))


def noise(block_info: Any = None, block: Any = None, seed: int = 0) -> np.ndarray:
    """Make a block of smooth reflectance that follows from its place."""
    (top, bottom), (left, right) = block_info[None]["array-location"]
    rows, columns = np.ogrid[top:bottom, left:right]
    return (0.2 + 0.15 * np.sin(rows / (7 + seed)) * np.cos(columns / (11 + seed))).astype("float32")


def model_of(preset: str) -> Any:
    """A model with random weights."""
    import torch

    from misoxr.cube.scaling import Scaling
    from misoxr.model.checkpoint import Model
    from misoxr.model.network import Miso
    from misoxr.spec import ModelSpec

    torch.manual_seed(0)
    spec = ModelSpec.preset(preset, cov=())
    pixels = np.random.default_rng(0).uniform(0.01, 0.4, (len(spec.bands), 5000)).astype("float32")
    return Model(spec, Scaling.fit(spec, pixels), Miso(spec))


def image(shape: tuple[int, int], chunk: int, model: Any) -> xr.Dataset:
    """Imagery for a model, of which nothing is in memory."""
    from misoxr.grid.geobox import assign

    variables = {}
    for seed, band in enumerate(model.spec.bands):
        data = da.map_blocks(partial(noise, seed=seed), chunks=da.core.normalize_chunks(chunk, shape), dtype="float32")
        variables[band.name] = (("y", "x"), data, {"units": band.units})
    return assign(xr.Dataset(variables), GeoBox(shape, Affine(10, 0, 0, 0, -10, 2_400_000), "EPSG:3338"))


def greatest(pid: int | str = "self") -> float:
    """Return the greatest size that a process had in memory, GB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e6


def on_workers(side: int, count: int, directory: str) -> tuple[float, float]:
    """Map a square with worker processes; return their greatest size, GB, and blocks a second."""
    from distributed import Client, LocalCluster

    model = model_of("miso-nano")
    options = {"n_workers": count, "threads_per_worker": 1, "processes": True, "dashboard_address": None, "memory_limit": 0}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        maps = image((side, side), 256, model).miso.predict(model)
        client.run(model_of, "miso-nano")  # libraries loaded
        start = time.perf_counter()
        maps.miso.to_zarr(f"{directory}/{side}-{count}.zarr", client=client, progress=False)
        seconds = time.perf_counter() - start
        return max(client.run(greatest).values()), (side // 256) ** 2 / seconds


def memory(directory: str) -> dict[str, float]:
    """Greatest size of a worker at 1, 4, 16 and 64 times the area."""
    sizes = {times: on_workers(512 * int(times**0.5), 2, directory)[0] for times in (1, 4, 16, 64)}
    print("memory of a worker, GB: " + ", ".join(f"{times} x {size:.3f}" for times, size in sizes.items()), flush=True)
    return {"memory_ratio": sizes[64] / sizes[4]}


def workers(directory: str) -> dict[str, float]:
    """Blocks a second with one and two processes."""
    rates = {count: on_workers(1536, count, f"{directory}/w{count}")[1] for count in (1, 2)}
    print(f"blocks a second: {rates[1]:.2f} with 1 process, {rates[2]:.2f} with 2", flush=True)
    return {"workers_speedup": rates[2] / rates[1]}


class Stopped(Exception):
    """Stands for an interruption."""


def resume(directory: str) -> dict[str, float]:
    """Time of a write that is stopped half-way and resumed, over that of one that is not."""
    from dask.callbacks import Callback

    model = model_of("miso-nano")
    maps = image((1024, 1024), 256, model).miso.predict(model)
    maps.isel(y=slice(0, 256), x=slice(0, 256)).compute()  # the model is loaded

    def timed(store: str) -> float:
        start = time.perf_counter()
        maps.miso.to_zarr(store, progress=False)
        return time.perf_counter() - start

    whole = timed(f"{directory}/whole.zarr")
    finished = 0

    def stop(key: Any, *_: Any) -> None:
        nonlocal finished
        finished += isinstance(key, tuple) and key[0] == "block"
        if finished == 8:
            raise Stopped

    start = time.perf_counter()
    try:
        with Callback(posttask=stop):
            maps.miso.to_zarr(f"{directory}/stopped.zarr", progress=False)
    except Stopped:
        pass
    first = time.perf_counter() - start
    second, nothing = timed(f"{directory}/stopped.zarr"), timed(f"{directory}/stopped.zarr")
    print(
        f"whole {whole:.1f} s; stopped after 8 of 16 blocks {first:.1f} s, resumed {second:.1f} s; nothing left {nothing:.2f} s",
        flush=True,
    )
    return {"resume_cost": (first + second) / whole - 1, "nothing_left_s": nothing}


def checksums(directory: str) -> dict[str, float]:
    """Processor time with checksums over that without, in turns, each the least of several; and the pace of looking for damage."""
    import misoxr
    from misoxr.grid.geobox import assign

    noise = np.random.default_rng(0).uniform(0, 1, (4096, 4096)).astype("float32")
    copied = assign(xr.Dataset({"noise": (("y", "x"), noise)}), GeoBox(noise.shape, Affine(10, 0, 3e5, 0, -10, 1.5e6), "EPSG:3338"))
    copied = copied.chunk({"y": 1024, "x": 1024})
    model = model_of("miso-nano")
    predicted = image((512, 512), 256, model).miso.predict(model)
    predicted.isel(y=slice(0, 256), x=slice(0, 256)).compute()  # the model is loaded
    found = {
        "checksums_of_a_map": _with_over_without(predicted, f"{directory}/map", 5),
        "checksums_of_a_copy": _with_over_without(copied, f"{directory}/copy", 15),
    }
    for name, work in {
        "again": lambda: copied.miso.to_zarr(f"{directory}/copy.2.zarr", progress=False),
        "check": lambda: misoxr.check(f"{directory}/copy.2.zarr"),
    }.items():
        found[f"{name}_gb_s"] = noise.nbytes / 1e9 / min(_seconds(work) for _ in range(5))
    return found


def _seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _with_over_without(maps: xr.Dataset, store: str, turns: int) -> float:
    import shutil
    from unittest.mock import patch

    from misoxr.io.check import COMPRESSORS

    times: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(turns):
        for count in (1, 2) if turn % 2 else (2, 1):
            path = f"{store}.{count}.zarr"
            for old in (path, f"{path}.progress"):
                shutil.rmtree(old, ignore_errors=True)
            with patch("misoxr.io.layout.COMPRESSORS", COMPRESSORS[:count]):
                times[count].append(_seconds(lambda path=path: maps.miso.to_zarr(path, progress=False)))
    print(f"{store}: without {sorted(times[1])} s, with {sorted(times[2])} s", flush=True)
    return min(times[2]) / min(times[1])


def graph(directory: str) -> dict[str, float]:
    """Tasks and bytes of the largest graph of 64 blocks of a state, from a cube."""
    import cloudpickle
    from dask.highlevelgraph import HighLevelGraph

    from misoxr.io.blocks import AT_ONCE, Target, batch_of
    from misoxr.io.layout import layout_of
    from misoxr.records.ledger import Ledger, in_order

    model = model_of("miso-nano")
    layout = layout_of(image((240_000, 370_000), 1024, model).miso.predict(model))
    target = Target(f"{directory}/state.zarr", layout, Ledger(f"{directory}/state.progress"))
    whole = HighLevelGraph.merge(*(layout.ds[name].data.__dask_graph__() for name in layout.blocked))
    blocks = in_order(layout.shape)
    start = time.perf_counter()
    sizes = []
    for first in (0, len(blocks) // 2, len(blocks) - AT_ONCE):
        tasks, _ = batch_of(target, whole, blocks[first : first + AT_ONCE], shared=True)
        sizes.append((len(tasks), len(cloudpickle.dumps(tasks))))
    seconds = (time.perf_counter() - start) / len(sizes)
    most = max(count for count, _ in sizes), max(size for _, size in sizes)
    print(f"{len(blocks):,} blocks; {AT_ONCE} of them: {most[0]:,} tasks, {most[1]:,} bytes, made in {seconds:.2f} s", flush=True)
    return {"graph_tasks": most[0], "graph_bytes": most[1]}


def overhead(directory: str) -> dict[str, float]:
    """Time of a map over that of a bare loop over the same windows, each the least of two."""
    from misoxr.grid.windows import plan
    from misoxr.model.checkpoint import resolve
    from misoxr.model.field import Block, Grid, answer_positions

    model = model_of("miso-small")
    cube = image((2048, 2048), 2048, model).compute().chunk({"y": 2048, "x": 2048})
    maps = cube.miso.predict(model)
    loaded = resolve(model.address(), "cpu")
    bands = np.stack([cube[band.name].values for band in model.spec.bands])
    positions = Grid(np.arange(2048) + 0.5, np.arange(2048) + 0.5)
    windows = plan((2048, 2048), model.spec.windows)

    def bare() -> None:
        answer_positions(loaded, Block(bands, (0, 0)), windows, positions, device="cpu")

    times: dict[str, list[float]] = {"bare": [], "dask": []}
    for turn in range(2):
        for name, work in (
            ("bare", bare),
            ("dask", lambda turn=turn: maps.miso.to_zarr(f"{directory}/{turn}.zarr", progress=False)),
        ):
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    print(", ".join(f"{name} {' '.join(f'{t:.1f}' for t in found)} s" for name, found in times.items()), flush=True)
    return {"dask_overhead": min(times["dask"]) / min(times["bare"]) - 1}


def state(directory: str) -> dict[str, float]:
    """Time to the first block of a state, from a cube."""
    from state import first_block, zarr_cube

    spawn = multiprocessing.get_context("spawn")
    answers = spawn.SimpleQueue()
    process = spawn.Process(target=first_block, args=("zarr", str(zarr_cube(Path(directory))), answers))
    process.start()
    process.join()
    found = answers.get()
    print(", ".join(f"{key} {value:.2f}" for key, value in found.items()), flush=True)
    return {"state_first_block_s": found["block_s"]}


PARTS: dict[str, Callable[[str], dict[str, float]]] = {
    "graph": graph,
    "state": state,
    "resume": resume,
    "checksums": checksums,
    "memory": memory,
    "workers": workers,
    "overhead": overhead,
}


def main(parts: list[str]) -> None:
    """Run, and print."""
    result: dict[str, float] = {}
    for part in parts or PARTS:
        with tempfile.TemporaryDirectory() as directory, dask.config.set(scheduler="threads"):
            Path(directory, "w1").mkdir()
            Path(directory, "w2").mkdir()
            result |= PARTS[part](directory)
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    main(parser.parse_args().parts)
