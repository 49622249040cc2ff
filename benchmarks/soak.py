"""Two writers of one map at once, under kills, stops, wrong clocks, full disks and damaged files, for as long as you like: no pixel may be wrong.

    python benchmarks/soak.py [--minutes 60] [--seed 0]

Each round has a store of its own. Two processes, which take each other for other machines, write it with ``to_zarr``; every second round replaces an older map.
One that ends without having finished is started anew. The clock of each is wrong by up to an hour. Faults are drawn at random: a kill at some moment or some
file operation, a stop that outlasts the lease, a disk that is full from some file operation on. When the map is finished and nobody writes any more, all pixels
are compared. Then files of the store are damaged, and the same call is made again. A C compiler is needed. A line of JSON at the end.
"""

import argparse
import collections
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

LIMIT = 1.0
"""Seconds of a lease."""
MOMENTS = 400
"""File operations among which a fault is drawn."""
MOST = 120.0
"""Seconds after which a round is hung."""


def write(store: Path, offset: float, pause: float, *, replace: bool) -> None:
    """Write the map of a round."""
    import dask

    from misoxr.io.zarr import to_zarr

    with dask.config.set(scheduler="sync"):
        to_zarr(cube(store, offset, pause), store, overwrite=replace, progress=False)


def cube(store: Path, offset: float, pause: float):
    """Two variables of 30 blocks, each of which takes a while."""
    from tests.writer import slow_cube

    return slow_cube(store.with_suffix(".log"), pause) + offset


def started(
    shim: ctypes.CDLL, store: Path, rng: random.Random, arguments: tuple[float, float], fault: int, *, replace: bool
) -> int:
    """Fork a writer, on what looks like a machine of its own, with a clock and a fault of its own."""
    skew, moment, name = rng.uniform(-3600, 3600), rng.randint(1, MOMENTS), f"machine {rng.random()}"
    process = os.fork()
    if process:
        return process
    from misoxr.errors import MisoxrError
    from misoxr.io import zarr
    from misoxr.records import writers
    from misoxr.records.ledger import Ledger

    now = time.time
    time.time = lambda: now() + skew
    writers._machine = lambda: name
    zarr.Ledger = lambda *args, **options: Ledger(*args, limit=LIMIT, **options)
    try:
        shim.fault_arm(str(store).encode(), fault, moment)
        write(store, *arguments, replace=replace)
    except MisoxrError:
        os._exit(3)
    except BaseException:
        traceback.print_exc()
        os._exit(4)
    os._exit(0)


def round_of(shim: ctypes.CDLL, store: Path, rng: random.Random, told: collections.Counter[str]) -> None:
    """Have a map written under faults until it is finished, compare it, damage it, and have it mended."""
    arguments, replace = (float(rng.randint(0, 9)), rng.choice((0.0, 0.02))), rng.random() < 0.5
    if replace:
        write(store, 100.0, 0.0, replace=False)
    alive, stopped, finished, end = set[int](), dict[int, float](), False, time.monotonic() + MOST
    while alive or not finished:
        while len(alive) < 2 and not finished:
            fault = rng.choice((0, 0, 2, 3))
            told["full disks"] += fault == 3
            alive.add(started(shim, store, rng, arguments, fault, replace=replace))
        time.sleep(rng.uniform(0, 0.3))
        victim, chance = rng.choice(sorted(alive)), rng.random()
        if chance < 0.05:
            os.kill(victim, signal.SIGKILL)
        elif chance < 0.15 and victim not in stopped:
            os.kill(victim, signal.SIGSTOP)
            stopped[victim] = time.monotonic() + rng.uniform(0, 3 * LIMIT)
            told["stops"] += 1
        for process in [one for one, until in stopped.items() if time.monotonic() > until]:
            os.kill(process, signal.SIGCONT)
            del stopped[process]
        for process in sorted(alive):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                told[{0: "finished", 3: "errors of the package", -9: "kills"}.get(code, "other errors")] += 1
                finished |= code == 0
                alive.discard(process)
                stopped.pop(process, None)
        if time.monotonic() > end:
            told["hung"] += 1
            for process in alive:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
            return
    told["wrong pixels"] += wrong(store, arguments)
    for file in rng.sample(chunks(store), rng.randint(0, 3)):
        damage(file, rng)
        told["damaged files"] += 1
    write(store, *arguments, replace=False)
    told["wrong pixels"] += wrong(store, arguments)


def chunks(store: Path) -> list[Path]:
    """Return the files of all chunks."""
    return sorted(path for path in store.glob("*/c/**/*") if path.is_file())


def damage(file: Path, rng: random.Random) -> None:
    """Remove a file, cut it off, or flip one of its bits."""
    data, at = file.read_bytes(), rng.random()
    if at < 0.3:
        file.unlink()
    elif at < 0.5:
        file.write_bytes(data[: rng.randrange(len(data))])
    else:
        byte = rng.randrange(len(data))
        file.write_bytes(data[:byte] + bytes([data[byte] ^ 1 << rng.randrange(8)]) + data[byte + 1 :])


def wrong(store: Path, arguments: tuple[float, float]) -> int:
    """Count pixels that are not what was to be written."""
    from misoxr.io.layout import open_maps

    found, right = open_maps(store).compute(), cube(store, *arguments).compute()
    return sum(int((found[name].values != right[name].values).sum()) for name in right.data_vars)


def main(minutes: float, seed: int, library: str) -> None:
    """Run, and print."""
    import tests.conftest  # noqa: F401

    shim = ctypes.CDLL(library)
    shim.fault_arm.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.c_long)
    rng, told, end = random.Random(seed), collections.Counter[str](), time.monotonic() + 60 * minutes
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        while time.monotonic() < end:
            told["rounds"] += 1
            round_of(shim, Path(name) / f"{told['rounds']}.zarr", rng, told)
            for left in Path(name).iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            if told["rounds"] % 20 == 0:
                print(dict(told), flush=True)
    expected = (
        "finished",
        "kills",
        "stops",
        "full disks",
        "damaged files",
        "errors of the package",
        "other errors",
        "hung",
        "wrong pixels",
    )
    print(json.dumps({"minutes": minutes, "seed": seed, "rounds": told["rounds"], **{key: told[key] for key in expected}}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shim", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.shim:
        main(given.minutes, given.seed, given.shim)
    else:
        with tempfile.TemporaryDirectory() as folder:
            built = f"{folder}/shim.so"
            subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-w", "-o", built, ROOT / "tests/shim.c", "-ldl"], check=True)
            again = [sys.executable, *sys.argv, "--shim", built]
            sys.exit(subprocess.run(again, env=os.environ | {"LD_PRELOAD": built}, check=False).returncode)
