"""A bit that flips, or an end that is lost, is found in every kind of file: by an error, or by a note and the right result."""

import contextlib
import io
import os
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

import misoxr
from misoxr.errors import CheckpointError, MisoxrWarning, StoreError
from misoxr.estimators.baselines import Baseline
from misoxr.evaluation.cache import Cache, Unit
from misoxr.io.staging import keep as fetched_by_workers
from misoxr.model.checkpoint import Model, cached_at
from misoxr.model.files import fetch
from misoxr.model.pretrained import Pretrained
from misoxr.paths import cache
from misoxr.training.runs import FIT, keep, look
from tests.conftest import tiny_spec
from tests.harness import without_checksum
from tests.training.test_fit import few, scene  # noqa: F401

SEED = int(os.environ.get("MISOXR_FLIPS_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
FLIPS = int(os.environ.get("MISOXR_FLIPS", "30"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MISOXR_CACHE", str(tmp_path / "cache"))


def damages(data: bytes, name: str) -> Any:
    """Yield the bytes with a bit flipped, each somewhere else, and with the end cut off."""
    print("MISOXR_FLIPS_SEED", SEED)
    rng = random.Random(f"{SEED} {name}")
    for _ in range(FLIPS):
        at, bit = rng.randrange(len(data)), rng.randrange(8)
        yield f"bit {bit} of byte {at}", data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
    length = rng.randrange(len(data))
    yield f"cut to {length} bytes", data[:length]


def refused(path: Path, read: Callable[[Path], Any]) -> None:
    """Expect an error of checkpoints for every damage."""
    data = path.read_bytes()
    read(path)
    for what, other in damages(data, path.name):
        path.write_bytes(other)
        with contextlib.suppress(CheckpointError):
            read(path)
            pytest.fail(f"{path.name} with {what} is read")


def made_again(find: Callable[[], Path], use: Callable[[], Any], expected: Any, words: str) -> None:
    """Expect a note and the right result for every damage."""
    assert use() == expected
    data = find().read_bytes()
    for what, other in damages(data, words):
        find().write_bytes(other)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", MisoxrWarning)
            assert use() == expected, what
        assert any("damaged" in str(one.message) for one in caught), what
        with warnings.catch_warnings():
            warnings.simplefilter("error", MisoxrWarning)
            assert use() == expected


def test_a_model(model, tmp_path):
    model.save(tmp_path / "model.safetensors")
    refused(tmp_path / "model.safetensors", Model.load)


def test_a_model_of_before_has_no_checksum_and_is_read_as_ever(model, tmp_path):
    (tmp_path / "old.safetensors").write_bytes(without_checksum(model.to_bytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Model.load(tmp_path / "old.safetensors").spec == model.spec


def test_an_encoder(model, tmp_path):
    spec, modality = model.spec, model.spec.modalities[0]
    sides = {"size": spec.windows.size, "input_size": spec.windows.input_size}
    weights = model.network.encoders[modality.name].state_dict()
    own = model.scaling.modalities[modality.name]
    one = Pretrained(modality, spec.width, spec.query, own, spec.pixel_size, sides, weights)
    (tmp_path / "encoder.safetensors").write_bytes(one.to_bytes())
    refused(tmp_path / "encoder.safetensors", Pretrained.load)


@pytest.mark.parametrize("features", ["pixel", "embedding"])
def test_estimators(few, model, features, tmp_path):  # noqa: F811
    cube, points = few
    network = model if features == "embedding" else None
    cube.miso.fit(Baseline(LogisticRegression(), features, network=network), points).save(tmp_path / "fitted.zip")
    refused(tmp_path / "fitted.zip", misoxr.load)


def test_a_state_of_training_and_the_one_before_it(tmp_path):
    about, states = {"seed": 0}, [{"step": 0}, {"step": 1}]
    (tmp_path / "run.json").write_text('{"seed": 0}')
    for state in states:
        keep(tmp_path, FIT, state)
    last, before = tmp_path / FIT.state, tmp_path / FIT.before
    data = last.read_bytes(), before.read_bytes()
    assert look(tmp_path, about, FIT, resume=True) == states[1]
    for what, other in damages(data[0], "state"):
        last.write_bytes(other)
        before.write_bytes(data[1])
        with pytest.warns(MisoxrWarning, match="goes on from the state before it"):
            assert look(tmp_path, about, FIT, resume=True) == states[0], what
        assert last.read_bytes() == data[1]
        last.write_bytes(other)
        with pytest.raises(StoreError, match="is damaged .*give another directory, or resume=False"):
            look(tmp_path, about, FIT, resume=True)


def test_a_cached_fold(tmp_path):
    folds = Cache(tmp_path, {"models": {"m": {}}})
    answers, unit = pd.DataFrame({"test": [0, 1], "p0": [0.25, 0.5]}), Unit("m", 0, 0)

    def use() -> list[float]:
        found = folds.read(unit)
        if found is None:
            folds.write(unit, answers)
        return list((answers if found is None else found)["p0"])

    made_again(lambda: next(tmp_path.glob("*.parquet")), use, [0.25, 0.5], "fold")


def test_a_cached_model(model):
    made_again(lambda: cached_at(model.sha256), lambda: Model.load(model.address().uri).sha256, model.sha256, "address")


def test_a_model_that_workers_fetched(model, tmp_path):
    model.save(tmp_path / "staged")
    uri = f"file://{tmp_path}/staged"
    use = lambda: Model.load(fetched_by_workers(uri, model.sha256)).sha256  # noqa: E731
    made_again(lambda: cached_at(model.sha256), use, model.sha256, "keep")


@pytest.mark.parametrize("kind", ["files", "urls"])
def test_a_cached_download(tmp_path, kind):
    (tmp_path / "remote").write_bytes(bytes(range(256)) * 9)
    use = lambda: fetch(f"file://{tmp_path}/remote")  # noqa: E731
    made_again(lambda: next(cache(kind).iterdir()), use, bytes(range(256)) * 9, kind)


def test_a_cached_table(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from misoxr.stac.table_copy import copied

    rows = [{"id": f"i{n}", "datetime": "2020-07-01", "bbox": [0.0, 0.0, 1.0, 1.0], "assets": {"red": "a"}} for n in range(99)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "items.parquet")
    use = lambda: pa.ipc.open_file(io.BytesIO(Path(copied(str(tmp_path / "items.parquet"))).read_bytes())).read_all().to_pylist()  # noqa: E731
    made_again(lambda: next(cache("tables").glob("*.arrow")), use, rows, "table")


def test_a_fit_goes_on_from_the_state_before_a_damaged_one(tmp_path, few):  # noqa: F811
    cube, points = few
    options = {"teacher": None, "device": "cpu", "max_epochs": 3, "patience": 3, "steps": 6, "progress": False}
    spec, place = tiny_spec(), tmp_path / "run"
    whole = cube.miso.fit(spec, points, directory=place, **options).sha256
    state = (place / FIT.state).read_bytes()
    (place / FIT.state).write_bytes(state[:99] + bytes([state[99] ^ 1]) + state[100:])
    with pytest.warns(MisoxrWarning, match="goes on from the state before it"):
        assert cube.miso.fit(spec, points, directory=place, **options).sha256 == whole
