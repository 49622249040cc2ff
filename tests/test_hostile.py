"""Input from strangers: damaged and malicious checkpoints and STAC items are refused with an error of the package, and nothing else."""

import base64
import copy
import io
import json
import os
import pickle
import resource
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from misoxr.calibration import Calibration
from misoxr.errors import CheckpointError, MisoxrError
from misoxr.model.checkpoint import Model
from misoxr.model.files import read_state
from misoxr.parts import EncoderSpec
from misoxr.scaling import Scaling
from misoxr.spec import ModelSpec
from tests.conftest import make_model, tiny_spec

FUZZ = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))

# ---- JSON that is nearly right

NUMBERS = [0, 1, -1, 2, 7, 0.5, 10**5, 10**9, 2**63, 10**400, 1e-320, 1e30, 1e308, float("nan"), float("inf"), float("-inf")]
NONSENSE = [
    None,
    True,
    False,
    "",
    "x",
    "9",
    "é",
    "\ud800",
    "a/b",
    "a.b",
    "<x>",
    [],
    {},
    [[]],
    [None],
    {"": 1},
    {"x": {"x": []}},
    "y" * 10**4,
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
PLACE = st.integers(0, 2**16)
CHANGE = st.tuples(PLACE, st.sampled_from([("put", value) for value in NUMBERS]))
CHANGE |= st.tuples(PLACE, st.sampled_from([("put", value) for value in NONSENSE]))
CHANGE |= st.tuples(PLACE, st.tuples(st.just("put"), JSON))
CHANGE |= st.tuples(PLACE, st.tuples(st.just("copy"), PLACE))
CHANGE |= st.tuples(PLACE, st.sampled_from([("drop",), ("double",), ("nest",)]))
CHANGES = st.lists(CHANGE, min_size=1, max_size=3)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """The containers and keys of all values that stand in JSON."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


def changed(document: Any, changes: list[tuple[int, tuple[Any, ...]]]) -> Any:
    """A copy of a JSON document with values put, dropped, doubled, nested, or copied from elsewhere."""
    document = copy.deepcopy(document)
    for place, (how, *what) in changes:
        all_places = list(places(document))
        if not all_places:
            break
        parent, key = all_places[place % len(all_places)]
        if how == "put":
            parent[key] = copy.deepcopy(what[0])
        elif how == "copy":
            other, source = all_places[what[0] % len(all_places)]
            parent[key] = copy.deepcopy(other[source])
        elif how == "drop":
            del parent[key]
        elif how == "nest":
            parent[key] = [parent[key]]
        else:
            parent[key] = [parent[key]] * 2 if not isinstance(parent[key], list) else parent[key] * 2
    return document


def only(error: type[Exception], step: Callable[[], Any], *, silent: bool = True) -> Any:
    """What a step gives, or None after an error of this kind; any other error, or a warning, comes through."""
    with warnings.catch_warnings():
        warnings.simplefilter("error" if silent else "ignore")
        try:
            return step()
        except error:
            return None


# ---- checkpoints


@pytest.fixture(scope="module")
def small() -> Model:
    """A model with every part that a checkpoint can have, as small as can be."""
    encoder = EncoderSpec("pyramid", ((4, 4),) * 2, {"channels": [8, 8], "depths": [1, 1], "groups": 2})
    spec = tiny_spec()
    spec = replace(
        spec,
        width=8,
        modalities=tuple(replace(modality, encoder=encoder) for modality in spec.modalities),
        location=replace(spec.location, frequencies=4),
    )
    model = make_model(spec)
    record = {"seed": 1, "prevalence": {"permafrost": 0.4, "taxonomy": dict.fromkeys(spec.task("taxonomy").classes, 1 / 7)}}
    return Model(spec, model.scaling, model.network, record, {"permafrost": Calibration(1.5, (0.1,))})


def parts(data: bytes) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """A checkpoint's own header, and its weights."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"]["misoxr"]), load(data)


def works(model: Model) -> None:
    """Ask a model for all that it promises."""
    repr(model)
    for task in model.spec.tasks:
        only(MisoxrError, partial(model.with_prevalence, **{task.name: 0.3}))
    network, spec = model.network, model.spec
    outputs = {task.name: task.outputs for task in spec.tasks}
    with torch.inference_mode():
        if spec.modalities:
            side = min(spec.windows.input_size, 64)
            network.side = side
            cells = network.project({m.name: torch.zeros(1, m.channels, side, side) for m in spec.modalities})
            answers = network(cells, torch.zeros(3, dtype=torch.long), torch.zeros(3, 2))
            assert {name: answer.shape for name, answer in answers.items()} == {name: (3, count) for name, count in outputs.items()}
        if spec.location:
            located = network.locate(torch.zeros(3, 2))
            assert {name: answer.shape for name, answer in located.items()} == {name: (3, count) for name, count in outputs.items()}
    again = ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert (again, Scaling.from_dict(model.scaling.to_dict(), again)) == (spec, model.scaling)


@settings(FUZZ, max_examples=400)
@given(changes=CHANGES)
def test_any_header_gives_a_model_or_an_error_of_checkpoints(small, changes):
    header, state = parts(small._bytes)
    damaged = save(state, {"misoxr": json.dumps(changed(header, changes))})
    found = only(CheckpointError, lambda: Model.from_bytes(damaged, "damaged"))
    if found is not None:
        works(found)


FLIP = st.tuples(st.just("flip"), st.integers(0, 2**20), st.integers(1, 255))
CUT = st.tuples(st.just("cut"), st.integers(0, 2**20), st.integers(1, 5000))
SPLICE = st.tuples(
    st.just("splice"), st.integers(0, 2**20), st.binary(max_size=40) | st.sampled_from([b'{"a":', b"[" * 4000, b"\xff"])
)
ANYWHERE = st.lists(FLIP | CUT | SPLICE, min_size=1, max_size=4)


def damaged(data: bytes, changes: list[tuple[str, int, Any]], begin: int) -> bytes:
    """A copy of a file with bytes flipped, cut out and put in; half of the changes come within its first bytes."""
    found = bytearray(data)
    for how, place, what in changes:
        place %= max(1, min(begin, len(found)) if place % 2 else len(found))
        if how == "flip" and found:
            found[place] ^= what
        elif how == "cut":
            del found[place : place + what]
        elif how == "splice":
            found[place:place] = what
    return bytes(found)


@settings(FUZZ, max_examples=400)
@given(changes=ANYWHERE)
def test_any_bytes_give_a_model_or_an_error_of_checkpoints(small, changes):
    data = small._bytes
    found = damaged(data, changes, 8 + int.from_bytes(data[:8], "little"))
    model = only(CheckpointError, lambda: Model.from_bytes(found, "damaged"))
    if model is not None:
        works(model)


@settings(FUZZ, max_examples=400)
@given(changes=CHANGES)
def test_any_table_of_weights_gives_a_model_or_an_error_of_checkpoints(small, changes):
    data = small._bytes
    length = int.from_bytes(data[:8], "little")
    table = json.dumps(changed(json.loads(data[8 : 8 + length]), changes)).encode()
    model = only(
        CheckpointError, lambda: Model.from_bytes(len(table).to_bytes(8, "little") + table + data[8 + length :], "damaged")
    )
    if model is not None:
        works(model)


@settings(FUZZ, max_examples=400)
@given(data=st.binary(max_size=300) | st.binary(max_size=60).map(lambda head: len(head).to_bytes(8, "little") + head))
def test_bytes_of_anything_are_no_checkpoint(data):
    with pytest.raises(CheckpointError):
        Model.from_bytes(data, "noise")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda spec: spec.update(width=2**20), "no network of the weights in the file"),
        (lambda spec: spec["location"].update(frequencies=4096), "instead of"),
        (lambda spec: spec["location"].update(frequencies=10**9), "use 1 to 4096"),
        (lambda spec: spec["modalities"][0]["encoder"].update(hidden=[[2**30, 2**30]] * 2), "no network of the weights"),
        (lambda spec: spec["modalities"][0]["encoder"]["options"].update(channels=[8, 10**9]), "numbers of at most"),
        (lambda spec: spec["modalities"][0]["encoder"]["options"].update(channels=[8, 16384]), "no network of the weights"),
        (lambda spec: spec["modalities"][0]["encoder"]["options"].update(depths=[1, 16384]), "no network of the weights"),
        (lambda spec: spec["modalities"][0]["encoder"]["options"].update(depths=[1] * 10**6), "100 are the most"),
        (
            lambda spec: spec["modalities"][0]["encoder"].update(backbone="eva02_enormous_patch14_clip_224", options={}),
            "no network of the weights",
        ),
        (lambda spec: spec["windows"].update(size=10**6, input_size=10**6), "too large"),
        (lambda spec: spec.update(tasks=spec["tasks"] * 10**5), "4096 are the most"),
    ],
)
def test_giant_layers_are_refused_before_they_are_there(small, change, message):
    header, state = parts(small._bytes)
    change(header["spec"])
    damaged = save(state, {"misoxr": json.dumps(header)})
    before, start = peak(), time.monotonic()
    with pytest.raises(CheckpointError, match=message) as error:
        Model.from_bytes(damaged, "giant")
    assert peak() - before < 200e6
    assert time.monotonic() - start < 30
    assert len(str(error.value)) < 10_000


def peak() -> int:
    """The most memory that this process has had, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ---- pickles


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def disguised(marker: Path) -> dict[str, bytes]:
    """A pickle that leaves a file behind, in the files that a checkpoint may look like."""
    plain, state = pickle.dumps(Trap(marker)), {"geo_out.4.bias": Trap(marker), "geo_out.4.weight": torch.zeros(2)}
    new, old = io.BytesIO(), io.BytesIO()
    torch.save(state, new)
    torch.save(state, old, _use_new_zipfile_serialization=False)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("archive/data.pkl", plain)
        file.writestr("archive/version", b"3")
    scripted = zipped.getvalue().replace(b"version", b"constan")
    return {
        "pickle": plain,
        "pickle of protocol 0": pickle.dumps(Trap(marker), protocol=0),
        "torch": new.getvalue(),
        "torch before 1.6": old.getvalue(),
        "zip": zipped.getvalue(),
        "zip of a script": scripted,
        "header of safetensors": len(plain).to_bytes(8, "little") + plain,
        "header of safetensors with bytes of weights": len(plain).to_bytes(8, "little") + plain + bytes(64),
        "text in the header": save({"geo_out.4.bias": torch.zeros(1)}, {"misoxr": base64.b64encode(plain).decode()}),
        "text of protocol 0 in the header": save({"a": torch.zeros(1)}, {"misoxr": pickle.dumps(Trap(marker), 0).decode()}),
        "after a checkpoint's end": save({"geo_out.4.bias": torch.zeros(1)}) + plain,
    }


@pytest.mark.parametrize("kind", disguised(Path("absent")))
@pytest.mark.parametrize("read", [Model.load, Model.from_published])
def test_a_payload_is_refused_and_never_run(tmp_path, kind, read):
    marker = tmp_path / "ran"
    for name in ("model.pth", "model.safetensors", "model.ckpt"):
        (tmp_path / name).write_bytes(disguised(marker)[kind])
        with pytest.raises(CheckpointError):
            read(tmp_path / name)
        assert not marker.exists()
    pickle.loads(pickle.dumps(Trap(marker)))
    assert marker.exists(), "the trap itself must work"


@settings(FUZZ, max_examples=400)
@given(changes=ANYWHERE, old=st.booleans())
def test_any_pickled_weights_give_tensors_or_an_error_of_checkpoints(changes, old):
    file = io.BytesIO()
    state = {"model": {"a.weight": torch.arange(12.0).reshape(3, 4)[:, ::2], "b": torch.zeros(2, dtype=torch.int64)}, "epoch": 3}
    torch.save(state, file, _use_new_zipfile_serialization=not old)
    path = Path(tempfile.gettempdir()) / f"misoxr-{os.getpid()}.pth"
    try:
        path.write_bytes(damaged(file.getvalue(), changes, 400))
        found = only(CheckpointError, lambda: read_state(path), silent=False)
    finally:
        path.unlink()
    for value in (found or {}).values():
        assert value.numel() < 10**6
        value.double().sum().item()
