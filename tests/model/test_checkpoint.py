"""Checkpoints: one file, the same bytes for the same model, strict on the way in, loaded once per process."""

import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest
import torch
from safetensors.torch import load, save

import misoxr.model.checkpoint as checkpoint
from misoxr.errors import CheckpointError, MisoxrWarning
from misoxr.model.checkpoint import Address, Model, resolve
from misoxr.model.inference import activate
from misoxr.spec import Task
from misoxr.spec.standardisation import Standardisation
from tests.conftest import make_model, tiny_spec
from tests.harness import without_checksum


@pytest.fixture
def path(model: Model, tmp_path: Path) -> Path:
    target = tmp_path / "model.safetensors"
    model.save(target)
    return target


def answers(model: Model) -> torch.Tensor:
    """Probabilities at some points of a window of noise."""
    generator = torch.Generator().manual_seed(0)
    inputs = {m.name: torch.randn(1, m.channels, 16, 16, generator=generator) for m in model.spec.modalities}
    points = torch.rand(30, 2, generator=generator) * 2 - 1
    with torch.no_grad():
        cells = model.network.project(inputs)
        return activate(model.spec, model.network(cells, torch.zeros(30, dtype=torch.long), points))


def rewritten(path: Path, *, header: dict | None = None, drop: str = "", **tensors: torch.Tensor) -> Path:
    """A copy of a checkpoint with some of its tensors, or its header, replaced."""
    data = without_checksum(path.read_bytes())
    state = {**load(data), **tensors}
    state.pop(drop, None)
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    if header is not None:
        metadata = {"misoxr": json.dumps(header)}
    out = path.with_name("rewritten.safetensors")
    out.write_bytes(save(state, metadata))
    return out


def header_of(path: Path) -> dict:
    data = without_checksum(path.read_bytes())
    return json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["misoxr"])


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """Serve a directory over HTTP from a process of its own, on a free port of the loopback."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"port (\d+)", line)
            assert found, line
            yield f"http://127.0.0.1:{found[1]}"
        finally:
            process.terminate()


# Round trip


def test_round_trip(model, path):
    again = Model.load(path)
    assert again.spec == model.spec
    assert again.scaling == model.scaling
    assert again.record == model.record
    assert again.sha256 == model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not again.network.training
    assert torch.equal(answers(again), answers(model))


def test_the_record_comes_along(model, path):
    again = Model(model.spec, model.scaling, model.network, {"seed": 3, "losses": [0.5, 0.25]})
    again.save(path)
    assert Model.load(path).record == {"seed": 3, "losses": [0.5, 0.25]}
    assert again.sha256 != model.sha256


def test_the_standardisation_of_labels_comes_along(tmp_path):
    """And a file of before, without, answers in the units that its labels had then."""
    model = make_model(tiny_spec(tasks=(Task("soc", "regression"),)))
    learnt = replace(model, standardisation={"soc": Standardisation(0.1 + 0.2, 1e-7)})
    learnt.save(tmp_path / "learnt.safetensors")
    again = Model.load(tmp_path / "learnt.safetensors")
    assert again.standardisation == learnt.standardisation
    assert again.sha256 == learnt.sha256 != model.sha256
    header = header_of(tmp_path / "learnt.safetensors")
    assert header.pop("standardisation") == {"soc": {"shift": 0.1 + 0.2, "scale": 1e-7}}
    before = Model.load(rewritten(tmp_path / "learnt.safetensors", header=header))
    assert before.standardisation == {}
    assert replace(before).sha256 == model.sha256


@pytest.mark.parametrize(
    ("standardisation", "message"),
    [
        ({"permafrost": {"shift": 0.0, "scale": 1.0}}, "labels of 'permafrost' are standardised, and it is binary"),
        ({"peat": {"shift": 0.0, "scale": 1.0}}, "no task 'peat'"),
        ({"permafrost": None}, "labels of 'permafrost' are standardised"),
        ([], "A mapping is expected"),
    ],
)
def test_a_standardisation_that_cannot_be(path, standardisation, message):
    header = header_of(path) | {"standardisation": standardisation}
    with pytest.raises(CheckpointError, match=message):
        Model.load(rewritten(path, header=header))


def test_other_weights_have_another_hash(model):
    assert make_model(model.spec, seed=1).sha256 != model.sha256


def test_a_second_save_writes_the_same_bytes(model, path, tmp_path):
    Model.load(path).save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_the_hash_is_the_same_in_another_process():
    """Bytes must not depend on the order of a hash table, which differs between processes."""
    code = "from tests.conftest import make_model, tiny_spec; print(make_model(tiny_spec()).sha256)"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(root)}
    out = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == make_model(tiny_spec()).sha256


def test_directories_are_made_and_strings_taken(model, tmp_path):
    target = tmp_path / "some" / "where" / "m.safetensors"
    model.save(str(target))
    assert Model.load(str(target)).sha256 == model.sha256


def test_save_and_load_by_url(model):
    model.save("memory://models/m.safetensors")
    assert Model.load("memory://models/m.safetensors").sha256 == model.sha256


def test_load_over_http(model, path):
    pytest.importorskip("aiohttp")
    with served(path.parent) as url:
        again = Model.load(f"{url}/{path.name}", sha256=model.sha256)
        with pytest.raises(CheckpointError, match=r"nothing\.safetensors cannot be read"):
            Model.load(f"{url}/nothing.safetensors")
    assert torch.equal(answers(again), answers(model))


def test_a_server_that_is_gone(path):
    pytest.importorskip("aiohttp")
    with served(path.parent) as url:
        pass
    with pytest.raises(CheckpointError, match="cannot be read"):
        Model.load(f"{url}/{path.name}")


def test_a_failed_save_leaves_the_old_file(model, path, monkeypatch):
    before = path.read_bytes()

    def fail(number: int) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk is full"):
        make_model(model.spec, seed=1).save(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_reader_never_sees_half_a_file(model, path, monkeypatch):
    """The bytes are written beside the target, which changes in one step."""
    seen = []
    swap = os.replace

    def watch(source: Path, target: Path) -> None:
        seen.append((source, path.exists()))
        assert Model.load(source).sha256 == model.sha256
        swap(source, target)

    path.unlink()
    monkeypatch.setattr(os, "replace", watch)
    model.save(path)
    ((partial, existed),) = seen
    assert partial.parent == path.parent
    assert partial != path
    assert not existed
    assert [file.name for file in path.parent.iterdir()] == [path.name]


# Damaged and foreign files


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_truncated(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="truncated or no safetensors file"):
        Model.load(path)


def test_missing(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing\.safetensors cannot be read"):
        Model.load(tmp_path / "nothing.safetensors")


def test_no_header(path):
    path.write_bytes(save({"weight": torch.zeros(3)}))
    with pytest.raises(CheckpointError, match="without a misoxr header"):
        Model.load(path)
    path.write_bytes(save({"weight": torch.zeros(3)}, {"format": "pt"}))
    with pytest.raises(CheckpointError, match="without a misoxr header"):
        Model.load(path)


@pytest.mark.parametrize("text", ["{", "[]", "null", '"spec"', '{"spec": 3, "scaling": {}}', '{"spec": {}, "scaling": {}}'])
def test_a_header_that_is_none(path, text):
    path.write_bytes(save(load(path.read_bytes()), {"misoxr": text}))
    with pytest.raises(CheckpointError, match="header of checkpoint"):
        Model.load(path)


def test_a_header_of_a_newer_version(path):
    header = header_of(path)
    header["spec"]["flavour"] = "strange"
    with pytest.raises(CheckpointError, match="flavour.*newer misoxr"):
        Model.load(rewritten(path, header=header))


def test_a_scaling_of_another_model(path):
    header = header_of(path)
    header["scaling"]["sat"]["scale"].append(1.0)
    with pytest.raises(CheckpointError, match="'sat' has 3 channels, the model 2"):
        Model.load(rewritten(path, header=header))


def test_a_header_that_names_another_source_of_weights(path):
    """A header comes from outside, so it may not make timm read files or hubs."""
    header = header_of(path)
    header["spec"]["modalities"][0]["encoder"]["backbone"] = "hf-hub:someone/something"
    with pytest.raises(CheckpointError, match="timm has no model"):
        Model.load(rewritten(path, header=header))


def test_weights_of_another_specification(path):
    with pytest.raises(CheckpointError, match=r"missing \['heads\.taxonomy\.4\.bias'\], not known \[\]"):
        Model.load(rewritten(path, drop="heads.taxonomy.4.bias"))
    with pytest.raises(CheckpointError, match=r"missing \[\], not known \['heads\.peat\.bias'\]"):
        Model.load(rewritten(path, **{"heads.peat.bias": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"heads\.taxonomy\.4\.bias \(5,\) instead of \(7,\)"):
        Model.load(rewritten(path, **{"heads.taxonomy.4.bias": torch.zeros(5)}))


def test_a_specification_of_other_weights(path):
    header = header_of(path)
    header["spec"] = replace(tiny_spec(), width=24).to_dict()
    with pytest.raises(CheckpointError, match="belongs to another specification.*instead of"):
        Model.load(rewritten(path, header=header))


def test_a_file_that_changed(model, path):
    make_model(model.spec, seed=1).save(path)
    with pytest.raises(CheckpointError, match=f"has changed.*expected {model.sha256}"):
        Model.load(path, sha256=model.sha256)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return Path.touch, (self.proof,)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_pickle_is_refused_and_not_run(tmp_path, writer):
    path, proof = tmp_path / "model.pth", tmp_path / "ran"
    if writer == "pickle":
        path.write_bytes(pickle.dumps(Trap(proof)))
    else:
        torch.save({"state": Trap(proof)}, path)
    with pytest.raises(CheckpointError, match="no safetensors file"):
        Model.load(path)
    assert not proof.exists()
    pickle.loads(pickle.dumps(Trap(proof)))
    assert proof.exists(), "the trap itself must work"


# Addresses


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """The checkpoints loaded so far in this test, with an empty memory of earlier ones."""
    checkpoint._LOADED.clear()
    seen: list[str] = []
    load_model = Model.load.__func__

    def count(cls: type[Model], uri: str, **options: str) -> Model:
        seen.append(os.fspath(uri))
        return load_model(cls, uri, **options)

    monkeypatch.setattr(Model, "load", classmethod(count))
    yield seen
    checkpoint._LOADED.clear()


def test_a_model_is_loaded_once_a_process(model, loads):
    address = model.address()
    one, other = resolve(address, "cpu"), resolve(Address(address.uri, address.sha256), "cpu")
    assert one is other
    assert loads == [address.uri]
    assert torch.equal(answers(one), answers(model))
    assert not any(parameter.requires_grad for parameter in one.network.parameters())


def test_an_ensemble_stays_loaded_within_a_budget_of_memory(model, loads, monkeypatch):
    addresses = [make_model(model.spec, seed=seed).address() for seed in range(6)]
    for _ in range(3):
        found = [resolve(address, "cpu") for address in addresses]
    assert len(loads) == 6
    assert not any("_bytes" in one.__dict__ for one in found)
    monkeypatch.setattr(checkpoint, "_CACHED", 2.5 * checkpoint._weight(model))
    resolve(addresses[0], "cpu")
    assert [address for address, *_ in checkpoint._LOADED] == [addresses[5], addresses[0]]


def test_loading_draws_none_of_the_users_random_numbers(model):
    torch.manual_seed(0)
    Model.from_bytes(model._bytes)
    one = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(one, torch.rand(3))


def test_a_model_is_loaded_once_from_many_threads(model, loads):
    address, start = model.address(), Barrier(8)

    def load_one(_: int) -> Model:
        start.wait()
        return resolve(address, "cpu")

    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(load_one, range(8)))
    assert loads == [address.uri]
    assert all(found is models[0] for found in models)


def test_the_address_holds_the_content(model):
    address = model.address()
    assert address.sha256 == model.sha256 == Path(address.uri).stem
    assert hashlib.sha256(Path(address.uri).read_bytes()).hexdigest() == model.sha256
    assert len(pickle.dumps(address)) < 1000
    before = Path(address.uri).stat().st_mtime_ns
    assert model.address() == address
    assert Path(address.uri).stat().st_mtime_ns == before, "a copy that is there is not written again"


def test_a_damaged_copy_is_replaced(model, loads):
    address = model.address()
    Path(address.uri).write_bytes(b"half")
    with pytest.warns(MisoxrWarning, match="is damaged, and is written again"):
        assert resolve(model.address(), "cpu").sha256 == model.sha256


def test_a_file_changed_under_its_address(model, path, loads):
    address = Address(str(path), model.sha256)
    make_model(model.spec, seed=1).save(path)
    with pytest.raises(CheckpointError, match="has changed"):
        resolve(address, "cpu")
