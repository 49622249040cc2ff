"""How busy a card is kept: pixels a second, share of its peak, and what host, transfers and reading cost.

    python benchmarks/gpu.py [--presets miso-nano miso-small miso-base] [--side 4096] [--device cuda] [--store DIR]
    python benchmarks/gpu.py --sleeping

Random weights and smooth noise; two tasks. A row for each preset and precision, of one block in memory:

- pixels a second, the best of three; and the arithmetic of queries and heads over the time, as a share of a large product's in that precision;
- beside the network: share of the time that is left where the network does nothing and answers 0, on the host and on the card;
- transfers: share of the time that the block takes to the card and its answer back;
- memory: the most that is allocated for a block, its batches as large as fits; error: the greatest difference in probability from float32;
- halved: the same block with a quarter of the memory of batches, which are halved then; the greatest difference, and how much longer it takes.

Then a store of 16 blocks is mapped by two threads of one process: "busy" is the share of the time in which the device is held for computing. At last two
processes share the card: their pixels a second together, over those of one.

``--sleeping`` needs no card: reading a block sleeps for 0.2 s, and computing one for 0.2 s with the device held. Two threads take little more than half of
the time of one, if a block is read while another is computed. The last line is JSON.
"""

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dask
import dask.array as da
import numpy as np
import torch
import xarray as xr
from predict import noise, random_model
from query import remaining

from misoxr.grid.windows import plan
from misoxr.model import field
from misoxr.model.checkpoint import Model, resolve
from misoxr.model.devices import choose_device, choose_precision, fetch, send
from misoxr.model.network import Miso
from misoxr.spec import PERMAFROST, TAXONOMY, ModelSpec

READ, COMPUTE, BLOCKS = 0.2, 0.2, 12


def peak(device: str, precision: torch.dtype) -> float:
    """Measure a large product: operations a second, the best of ten."""
    side = 8192 if device != "cpu" else 1024
    one = torch.randn(side, side, device=device, dtype=precision)
    times = []
    for _ in range(11):
        waited(device)
        start = time.perf_counter()
        one @ one
        waited(device)
        times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times[1:])


def waited(device: str) -> None:
    """Wait for what a device was given to do."""
    if device != "cpu":
        torch.cuda.synchronize(device)


class Block:
    """A block in memory, and how it is answered."""

    def __init__(self, preset: str, side: int, device: str) -> None:
        self.spec = ModelSpec.preset(preset, tasks=(PERMAFROST, TAXONOMY))
        small = noise(self.spec, (min(side, 512), min(side, 512)))
        self.model = random_model(self.spec, small)
        repeat = -(-side // small.sizes["y"])
        bands = np.stack([small[band.name].values for band in self.spec.bands])
        self.bands = np.tile(bands, (1, repeat, repeat))[:, :side, :side].copy()
        self.side, self.device = side, device
        self.plan = plan((side, side), self.spec.windows)

    def answer(self, precision: str) -> np.ndarray:
        """Answer the block."""
        kind = choose_precision(precision, self.device)
        model: Model = resolve(self.model.address(), self.device, kind)
        lines = np.arange(self.side) + 0.5
        source = field.Block(self.bands, (0, 0))
        return field.answer_positions(model, source, self.plan, field.Grid(lines, lines), device=self.device, precision=kind)

    def seconds(self, precision: str, rounds: int = 3) -> float:
        """Least time of some rounds after a first."""
        times = []
        for _ in range(rounds + 1):
            start = time.perf_counter()
            self.answer(precision)
            times.append(time.perf_counter() - start)
        return min(times[1:])

    @property
    def arithmetic(self) -> float:
        """Operations of queries and heads on the block."""
        windows = self.spec.windows
        ramp = windows.size - windows.stride if windows.ramp is None else windows.ramp
        with torch.device("meta"):
            each = 2 * remaining(Miso(self.spec))
        return each * self.side**2 * ((windows.stride + ramp) / windows.stride) ** 2


@contextmanager
def doing_nothing(tasks: Any) -> Iterator[None]:
    """Let networks do nothing, and answer 0."""
    project, forward = Miso.project, Miso.forward
    Miso.project = lambda self, inputs: {}
    Miso.forward = lambda self, cells, sample, points: {
        task.name: torch.zeros(len(points), task.outputs, device=points.device) for task in tasks
    }
    try:
        yield
    finally:
        Miso.project, Miso.forward = project, forward


def row(block: Block, precision: str) -> dict[str, float]:
    """Measure one preset in one precision."""
    device, cuda = block.device, block.device != "cpu"
    seconds, answers = block.seconds(precision), block.answer(precision)
    found = {"pixels_a_second": block.side**2 / seconds}
    found["share_of_peak"] = block.arithmetic / seconds / peak(device, choose_precision(precision, device))
    with doing_nothing(block.spec.tasks):
        found["beside_network_share"] = block.seconds(precision) / seconds
    start = time.perf_counter()
    there = send(device, [block.bands])[0]
    fetch(there[: block.spec.outputs] + 0)
    found["transfer_share"] = (time.perf_counter() - start) / seconds
    found["error"] = float(np.nanmax(np.abs(answers - block.answer("float32"))))
    if cuda:
        found |= halved(block, precision, answers, seconds)
    return {name: float(f"{value:.3g}") for name, value in found.items()}


def halved(block: Block, precision: str, answers: np.ndarray, seconds: float) -> dict[str, float]:
    """Measure the memory of a block, and answer it with less."""
    device = block.device
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    block.answer(precision)
    most = torch.cuda.max_memory_allocated(device)
    # Of what is not halved: the bands, the sum and the answer, once more as they are joined.
    fixed = before + block.bands.nbytes + 4 * answers.nbytes
    allowed = fixed + max(most - fixed, 0) / 4
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / torch.cuda.get_device_properties(device).total_memory), device)
    found = {"memory_gb": most / 1e9}
    try:
        start = time.perf_counter()
        found["halved_difference"] = float(np.nanmax(np.abs(answers - block.answer(precision))))
        found["halved_times"] = (time.perf_counter() - start) / seconds
    except torch.OutOfMemoryError:  # told as it is: what is not halved needed more
        found["halved_difference"] = float("nan")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    return found


def from_store(block: Block, directory: Path, threads: int = 2) -> dict[str, float]:
    """Map a store of 16 blocks by threads: pixels a second, and the share of the time in which the device computes."""
    side = block.side
    data = {
        band.name: (("y", "x"), da.from_array(values, chunks=side // 4))
        for band, values in zip(block.spec.bands, block.bands, strict=True)
    }
    small = noise(block.spec, (side, side))
    cube = small.assign({name: (dims, values, small[name].attrs) for name, (dims, values) in data.items()})
    cube.drop_encoding().to_zarr(directory / "cube.zarr", mode="w", consolidated=False)
    opened = xr.open_zarr(directory / "cube.zarr", decode_coords="all", chunks={}, consolidated=False)
    held, inference = [], field.inference

    @contextmanager
    def timed(*args: Any) -> Iterator[Any]:
        with inference(*args) as run:
            start = time.perf_counter()
            yield run
            held.append(time.perf_counter() - start)

    maps = opened.miso.predict(block.model, device=block.device)
    with patch.object(field, "inference", timed), dask.config.set(scheduler="threads", num_workers=threads):
        maps.permafrost_probability.isel(y=slice(side // 4), x=slice(side // 4)).compute()  # loads the model
        held.clear()
        start = time.perf_counter()
        maps.miso.to_zarr(directory / "maps.zarr", progress=False, overwrite=True)
        seconds = time.perf_counter() - start
    return {"store_pixels_a_second": float(f"{side**2 / seconds:.3g}"), "busy": round(sum(held) / seconds, 3)}


def _work(preset: str, side: int, device: str, ready: Any, answers: Any) -> None:
    block = Block(preset, side, device)
    block.answer("auto")
    ready.wait()
    start = time.perf_counter()
    for _ in range(3):
        block.answer("auto")
    answers.put((start, time.perf_counter()))


def two_processes(preset: str, side: int, device: str) -> float:
    """Pixels a second of two processes together over those of one."""
    spawn = multiprocessing.get_context("spawn")
    rates = []
    for count in (1, 2):
        ready, answers = spawn.Barrier(count), spawn.Queue()
        mine = [spawn.Process(target=_work, args=(preset, side, device, ready, answers)) for _ in range(count)]
        for one in mine:
            one.start()
        times = [answers.get(timeout=1800) for _ in mine]
        for one in mine:
            one.join()
        rates.append(count / (max(stop for _, stop in times) - min(start for start, _ in times)))
    return round(rates[1] / rates[0], 2)


def sleeping() -> None:
    """Show that a block is read while another is computed: neither takes a core here, and the device is held for one of them."""
    spec = ModelSpec.preset("miso-nano", tasks=(PERMAFROST, TAXONOMY))
    side = spec.windows.size
    cube = noise(spec, (side, side * BLOCKS))
    model = random_model(spec, cube)

    def slow(values: np.ndarray) -> np.ndarray:
        time.sleep(READ / len(spec.bands))
        return values

    cube = cube.chunk({"x": side}).map(
        lambda band: band.copy(data=band.data.map_blocks(slow, dtype=band.dtype, meta=band.data._meta))
    )
    holding = threading.Lock()

    def computed(*args: Any, **options: Any) -> None:
        assert holding.acquire(blocking=False), "the device is held by one thread at a time"
        time.sleep(COMPUTE)
        holding.release()

    times = {}
    for threads in (1, 2):
        maps = cube.miso.predict(model, device="cpu")
        with patch.object(field, "_add_windows", computed), dask.config.set(scheduler="threads", num_workers=threads):
            start = time.perf_counter()
            maps.permafrost_probability.compute()
            times[threads] = time.perf_counter() - start
    print(
        f"{BLOCKS} blocks, {READ} s to read and {COMPUTE} s to compute each: one thread {times[1]:.2f} s, two threads {times[2]:.2f} s"
    )
    print(json.dumps({"overlap": round(times[1] / times[2], 2), "busy": round(BLOCKS * COMPUTE / times[2], 2)}))


def main(presets: list[str], side: int, device: str, store: Path | None) -> None:
    """Measure and print."""
    warnings.simplefilter("ignore")
    device = choose_device(device)
    card = torch.cuda.get_device_name(device) if device != "cpu" else f"a CPU of {torch.get_num_threads()} cores"
    print(f"{card}, torch {torch.__version__}; a block of {side} x {side} pixels, two tasks")
    table: dict[str, Any] = {"card": card}
    for preset in presets:
        block = Block(preset, side, device)
        for precision in ("bfloat16", "float32") if device != "cpu" else ("float32",):
            table[f"{preset} {precision}"] = row(block, precision)
            print(f"{preset} {precision}: {table[f'{preset} {precision}']}", flush=True)
        with tempfile.TemporaryDirectory(dir=store) as directory:
            table[f"{preset} store"] = from_store(block, Path(directory))
        table[f"{preset} two processes"] = two_processes(preset, side, device)
        print(f"{preset}: {table[f'{preset} store']}; two processes {table[f'{preset} two processes']} times one", flush=True)
    print(json.dumps(table))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--presets", nargs="+", default=["miso-nano", "miso-small", "miso-base"])
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--store", type=Path, help="where the store is written; a temporary directory by default")
    parser.add_argument("--sleeping", action="store_true")
    given = parser.parse_args()
    if given.sleeping:
        warnings.simplefilter("ignore")
        sleeping()
    else:
        main(given.presets, given.side, given.device, given.store)
