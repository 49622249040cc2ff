"""Verbs that write files, killed or left without room at any file operation, in forks of one process that has imported all they need.

A new verb is a line in ``VERBS``. ``python -m tests.harness SHIM`` is that process; see :class:`Host`.
"""

import ctypes
import faulthandler
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FAULTS = {"count": 1, "kill": 2, "full": 3}
"""What the shim does: count operations, kill at one of them, or have no room from one of them on."""


@dataclass(frozen=True)
class Verb:
    """What writes, in a directory of its own, and gives a digest of the result; and what lies there before."""

    run: Callable[[Path], str]
    before: Callable[[Path], Any] = lambda _: None


def digest(path: Path) -> str:
    """Hash a file, or the files of a directory, without the fingerprint of what they were computed from: of a pyramid's levels, it is a time."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = hashlib.sha256()
    for file in files:
        if file.is_file():
            content = re.sub(rb'"(misoxr_fingerprint|(\d+/)?zarr\.json)": "\w+"', b"", file.read_bytes())
            found.update(f"{file.relative_to(path)}\0".encode() + content)
    return found.hexdigest()


def without_checksum(data: bytes) -> bytes:
    """Return the bytes of a safetensors file as they were before files had checksums: what is changed in it is then found by what it is."""
    length = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + length])
    headers = {key: json.loads(text) for key, text in table["__metadata__"].items()}
    plain = {key: {name: value for name, value in header.items() if name != "checksum"} for key, header in headers.items()}
    table["__metadata__"] = {key: json.dumps(header, sort_keys=True) for key, header in plain.items()}
    text = json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def verbs() -> dict[str, Verb]:
    """Make inputs, and the verbs that write them."""
    import dask
    import geopandas as gpd
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq
    from sklearn.linear_model import LogisticRegression

    from misoxr.estimators.baselines import Baseline
    from misoxr.evaluation import cross_validate  # noqa: F401
    from misoxr.io import pyramid  # noqa: F401
    from misoxr.model.files import fetch
    from misoxr.points.folds import BlockKFold
    from misoxr.stac.table_copy import copied
    from misoxr.training import fit, loop, pretrain  # noqa: F401
    from tests.conftest import make_cube, make_model, tiny_spec

    spec = tiny_spec()
    cube, old = (make_cube((96, 96), spec.bands, seed=seed).chunk({"y": 48, "x": 48}) for seed in (0, 1))
    maps, older = (ds[["red", "elevation"]] for ds in (cube, old))
    model, other = (make_model(spec, seed) for seed in (0, 1))
    rng = np.random.default_rng(5)
    rows, columns = rng.integers(0, 96, (2, 200))
    bright = cube.red.values[rows, columns]
    labels = {"permafrost": (bright > np.median(bright)) * 1.0, "taxonomy": np.where(bright > 0.2, "Gelisols", "Histosols")}
    places = gpd.points_from_xy(300_010 + 20.0 * columns, 1_499_990 - 20.0 * rows)
    points = gpd.GeoDataFrame(labels, geometry=places, crs="EPSG:3338")
    control = Baseline(LogisticRegression(), "coordinates")
    still = {"progress": False}
    quick = {"teacher": None, "seed": 3, "device": "cpu", "max_epochs": 3, "patience": 3, "steps": 6, **still}
    steps = {"steps": 6, "every": 2, "batch_size": 4, "points": 40, "windows": 8, "device": "cpu", **still}
    row = {"id": "a", "datetime": "2020-07-01T00:00:00Z", "bbox": [0.0, 0.0, 1.0, 1.0], "assets": {"red": {"href": "a.tif"}}}

    def written(verb: str, ds: Any, place: Path, name: str, **options: Any) -> str:
        getattr(ds.miso, verb)(place / name, **options, **still)
        return digest(place / name)

    def saved(model: Any, place: Path) -> str:
        model.save(place / "model.file")
        return digest(place / "model.file")

    def fitted(estimator: Any, **options: Any) -> Any:
        return cube.miso.fit(estimator, points, **{**still, **options})

    def fitted_across(place: Path) -> str:
        """Fit with temporary files on another disk than the run's: what is moved from there is copied."""
        shared = Path("/dev/shm") if Path("/dev/shm").is_dir() else place / "tmp"
        tempfile.tempdir = str(shared / f"misoxr-harness-{hashlib.sha256(str(place).encode()).hexdigest()[:16]}")
        Path(tempfile.tempdir).mkdir(exist_ok=True)
        found = fitted(spec, directory=place / "run", **quick).sha256
        shutil.rmtree(tempfile.tempdir)
        return found

    def encoders(place: Path) -> str:
        return "".join(digest(path) for path in cube.miso.pretrain(spec, place / "run", **steps).values())

    def scores(place: Path) -> str:
        cv = BlockKFold(600, n_splits=3)
        found = cube.miso.cross_validate({"control": control}, points, cv=cv, store=place / "cv", **still)
        return hashlib.sha256(pd.util.hash_pandas_object(found.predictions.drop(columns="seconds")).values.tobytes()).hexdigest()

    def fetched(place: Path) -> str:
        return hashlib.sha256(fetch(f"file://{place}/remote")).hexdigest()

    def table(place: Path) -> None:
        pq.write_table(pa.Table.from_pylist([{**row, "id": f"i{number}"} for number in range(3000)]), place / "items.parquet")

    with dask.config.set(scheduler="sync"):  # threads would not be there after a fork
        forest = fitted(control)
    replaced = {"overwrite": True}
    return {
        "to_zarr": Verb(lambda place: written("to_zarr", maps, place, "a.zarr")),
        "to_zarr over another": Verb(
            lambda place: written("to_zarr", maps, place, "a.zarr", **replaced),
            lambda place: written("to_zarr", older, place, "a.zarr"),
        ),
        "to_pyramid": Verb(lambda place: written("to_pyramid", maps, place, "a.zarr", levels=1, **replaced)),
        "to_pyramid over another": Verb(
            lambda place: written("to_pyramid", maps, place, "a.zarr", levels=1, **replaced),
            lambda place: written("to_pyramid", older, place, "a.zarr", levels=1),
        ),
        "to_cog": Verb(lambda place: written("to_cog", maps, place, "cog", **replaced)),
        "fit": Verb(lambda place: fitted(spec, directory=place / "run", **quick).sha256),
        "fit across disks": Verb(fitted_across),
        "pretrain": Verb(encoders),
        "cross_validate": Verb(scores),
        "Model.save": Verb(lambda place: saved(model, place), lambda place: saved(other, place)),
        "PixelModel.save": Verb(lambda place: saved(forest, place)),
        "Model.address": Verb(lambda place: digest(Path(model.address().uri))),
        "fetch": Verb(fetched, lambda place: (place / "remote").write_bytes(model.to_bytes())),
        "copied": Verb(lambda place: digest(Path(copied(str(place / "items.parquet")))), table),
    }


# ---- the process that forks


def child(shim: ctypes.CDLL, verb: Verb, place: Path, fault: str | None, moment: int) -> dict[str, Any]:
    """Run a verb, and tell how it ended."""
    import dask

    from misoxr.errors import MisoxrError, MisoxrWarning

    os.environ["MISOXR_CACHE"], tempfile.tempdir = str(place / "cache"), str(place / "tmp")
    if not (place / "tmp").exists():
        (place / "tmp").mkdir(parents=True)
        with dask.config.set(scheduler="sync"):
            verb.before(place)
    with dask.config.set(scheduler="sync"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MisoxrWarning)
        if fault:
            shim.fault_arm(str(place).encode(), FAULTS[fault], moment)
        try:
            found = {"digest": verb.run(place)}
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}", "ours": isinstance(error, MisoxrError)}
        count = shim.fault_count()
        shim.fault_arm(b"", 0, 0)
    return {**found, "count": count, "notes": [str(one.message) for one in caught if issubclass(one.category, MisoxrWarning)]}


def serve(shim: str) -> None:
    """Answer requests, a line of JSON each, by forks."""
    library = ctypes.CDLL(shim)
    library.fault_arm.argtypes, library.fault_count.restype = (ctypes.c_char_p, ctypes.c_int, ctypes.c_long), ctypes.c_long
    warnings.simplefilter("ignore")
    known = verbs()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    print(json.dumps(sorted(known)), file=answers)
    for line in sys.stdin:
        name, place, fault, moment = json.loads(line)
        reading, writing = os.pipe()
        process = os.fork()
        if not process:
            os.close(reading)
            faulthandler.dump_traceback_later(300, exit=True)  # a fork that hangs
            os.write(writing, json.dumps(child(library, known[name], Path(place), fault, moment)).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            found = pipe.read()
        _, status = os.waitpid(process, 0)
        print(found.decode() if found else json.dumps({"signal": os.waitstatus_to_exitcode(status)}), file=answers)


# ---- who asks it


@dataclass(frozen=True)
class Host:
    """The process that forks: ``verbs`` are the names that it knows."""

    process: Any
    verbs: list[str]

    def run(self, verb: str, place: Path, fault: str | None = None, moment: int = 0) -> dict[str, Any]:
        """Run a verb in a directory: what it gave, the package's error, or the signal that ended it."""
        self.process.stdin.write(json.dumps([verb, str(place), fault, moment]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def hit(self, verb: str, place: Path, fault: str, moment: int, whole: str) -> bool:
        """Run a verb with a fault, and again without: the result is that of a run without a fault, and nothing is left lying about.

        Return whether the fault came before the verb had ended.
        """
        words = f"{verb}, {fault} at operation {moment}"
        first = self.run(verb, place, fault, moment)
        if fault == "kill":
            assert first.get("signal") == -9 or first.get("digest") == whole, f"{words}: {first}"
        else:
            assert first.get("ours") or first.get("digest") == whole, f"{words}: {first}"
        second = self.run(verb, place)
        assert second.get("digest") == whole, f"{words}, and again: {second}"
        left = [str(path.relative_to(place)) for path in place.rglob("*") if path.name.endswith((".scratch", ".retired", ".part"))]
        assert not left, f"{words}: {left} is left"
        shutil.rmtree(place)
        return "digest" not in first


@contextmanager
def host(directory: Path) -> Iterator[Host]:
    """Compile the shim in a directory, and start the process with it."""
    shim = directory / "shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-w", "-o", shim, ROOT / "tests" / "shim.c", "-ldl"], check=True)
    environment = os.environ | {"LD_PRELOAD": str(shim), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.harness", shim],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Host(process, json.loads(process.stdout.readline()))
        finally:
            process.stdin.close()


if __name__ == "__main__":
    serve(sys.argv[1])
