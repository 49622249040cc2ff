"""Twenty kills: a map is written by processes that are killed at random moments and started again, and compared byte by byte.

    python benchmarks/kills.py [--kills 20] [--seed 0]
    python benchmarks/kills.py --verbs 200 [--seed 0]

With --verbs, so many random kills hit all verbs of tests/harness.py, each at a random file operation. The next call must give the whole result.
Otherwise the map is that of tests/writer.py. A line of JSON at the end: kills, blocks computed in all over blocks of the map, and whether the bytes are equal.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def main(kills: int, seed: int) -> None:
    """Run, and print."""
    from misoxr.io.zarr import to_zarr
    from misoxr.records.ledger import COMPLETE, Ledger, progress_of
    from tests.io.test_zarr import bytes_of
    from tests.writer import BLOCKS, noted, slow_map

    rng = random.Random(seed)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as name:
        directory, count, rounds, again = Path(name), 0, 0, 0
        to_zarr(slow_map(directory / "one.log"), directory / "whole.zarr", progress=False)
        equal = True
        while count < kills:
            rounds += 1
            store, log = directory / f"{rounds}.zarr", directory / f"{rounds}.log"
            ledger = Ledger(progress_of(str(store)))
            while not ledger.has(COMPLETE):
                recorded, before = set(ledger.done()), len(noted(log))
                signs = set(Path(ledger.uri).glob("writers/*"))
                process = subprocess.Popen([sys.executable, "-m", "tests.writer", store, log, "0.3"], cwd=ROOT, env=environment)
                if count < kills:
                    # libraries take seconds to load; moments are drawn from the first sign of life on, before the store is laid out
                    while process.poll() is None and set(Path(ledger.uri).glob("writers/*")) <= signs:
                        time.sleep(0.005)
                    end = time.monotonic() + rng.uniform(0.0, 4.0)
                    while time.monotonic() < end and process.poll() is None:
                        time.sleep(0.005)
                if count < kills and process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                    count += 1
                process.wait()
                computed = [block[1:] for block in noted(log)[before:]]
                assert not recorded & set(computed), "a block that was recorded was computed again"
            again += len(noted(log))
            equal &= bytes_of(store) == bytes_of(directory / "whole.zarr")
            print(f"map {rounds}: {count} kills, {len(noted(log))} blocks computed for {BLOCKS}, equal {equal}", flush=True)
    print(json.dumps({"kills": count, "computed": again / (rounds * BLOCKS), "equal": equal}))


def kill_verbs(kills: int, seed: int) -> None:
    """Kill verbs that write at random file operations, run each again, and print."""
    from tests.harness import host

    rng, wrong, killed = random.Random(seed), [], 0
    with tempfile.TemporaryDirectory() as name, host(Path(name)) as forks:
        whole = {verb: forks.run(verb, Path(name) / verb, "count") for verb in forks.verbs}
        for number in range(kills):
            verb = rng.choice(forks.verbs)
            moment = rng.randint(1, whole[verb]["count"])
            try:
                killed += forks.hit(verb, Path(name) / str(number), "kill", moment, whole[verb]["digest"])
            except AssertionError as error:
                wrong.append(str(error))
                print(error, flush=True)
    print(json.dumps({"runs": kills, "killed": killed, "seed": seed, "wrong": len(wrong)}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbs", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.verbs:
        kill_verbs(arguments.verbs, arguments.seed)
    else:
        main(arguments.kills, arguments.seed)
