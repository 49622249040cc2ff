"""Inference and training on a device, without one: torch's fake tensors know a device "cuda", and refuse to mix it with the CPU.

They have shapes and no values. What reads the memory of a device is patched, and autocast stays float32 there.
"""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from misoxr.cube.scaling import Scaling
from misoxr.grid.geobox import geobox_of
from misoxr.grid.windows import plan
from misoxr.model import checkpoint, devices, field, inference
from misoxr.model.checkpoint import Model
from misoxr.model.network import Miso
from misoxr.spec import ALASKA, PERMAFROST, TAXONOMY, LossSpec, ModelSpec, Task, WindowSpec
from misoxr.spec.recipe import Recipe
from misoxr.training import loop
from tests.conftest import make_cube, make_model, tiny_spec

DEVICE = "cuda:0"


class Transfers(TorchDispatchMode):
    """Counts the copies between the host and the device."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        # A copy to another device, by whatever name: what comes out is elsewhere than the last tensor that went in.
        given = [one for one in args if isinstance(one, torch.Tensor)]
        if given and isinstance(out, torch.Tensor) and given[-1].device != out.device and given[-1].numel() > 1:
            self.count[f"to {out.device.type}"] += 1
        return out


def without_memory(monkeypatch):
    """Let a device tell of memory that it does not have: a window takes 1 MB, and 205 fit."""
    told = {"reset_peak_memory_stats": None, "memory_allocated": 0, "max_memory_allocated": 2**20, "empty_cache": None}
    for name, value in (told | {"memory_reserved": 0, "mem_get_info": (2**28, 2**34)}).items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    devices._TAKEN.clear()


@pytest.fixture
def cuda(monkeypatch):
    """Give a device that is none, and what is carried to it and back."""
    monkeypatch.setattr(devices, "_stream", lambda device: type("Stream", (), {"synchronize": lambda self: None})())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    without_memory(monkeypatch)
    monkeypatch.setattr(devices, "choose_device", lambda device: DEVICE)
    monkeypatch.setattr(torch.__future__, "_overwrite_module_params_on_conversion", True)
    transfers = Transfers()

    def fetched(answers):
        assert answers.device.type == "cuda"
        answers.cpu()
        return np.zeros(tuple(answers.shape), "float64" if answers.dtype == torch.float64 else "float32")

    monkeypatch.setattr(field, "fetch", fetched)
    monkeypatch.setattr(inference, "fetch", fetched)

    @contextmanager
    def entered():
        # What counts stands above what makes tensors fake: it sees the copies as they are asked for.
        with FakeTensorMode(allow_non_fake_inputs=True), transfers:
            yield transfers

    return entered


def move(model, precision=torch.float32):
    """Move a model to the device, as a process does when it loads it."""
    model.network.requires_grad_(False).to(DEVICE, precision)
    model.inputs.to(DEVICE)


def holed(cube):
    """The cube without imagery in some pixels, scattered and in a corner."""
    gone = np.random.default_rng(0).random(cube.red.shape) < 0.1
    gone[:30, :30] = True
    return cube.where(~cube.red.copy(data=gone)).assign_attrs(cube.attrs)


TINY = tiny_spec(tasks=(PERMAFROST, TAXONOMY, Task("soc", "regression", loss="mse_log1p")), location=ALASKA)
SPECS = {
    "tiny": TINY,
    "members": replace(TINY, members=3),
    "dihedral": replace(TINY, windows=replace(TINY.windows, tta="dihedral")),
    "published": replace(TINY, query="published", windows=WindowSpec(16, 16, 8, "gaussian")),
    "resized": replace(TINY, windows=WindowSpec(24, 16, 18)),
}
ONCE = {"to cuda": 1, "to cpu": 1}


@pytest.mark.parametrize(
    ("kind", "precision", "holes"),
    [
        *product(["tiny"], ["float32", "float64"], [False, True]),
        *[
            ("members", "float32", True),
            ("dihedral", "float32", True),
            ("published", "float64", False),
            ("published", "float32", True),
        ],
        ("resized", "float32", False),
    ],
)
def test_a_block_goes_to_the_device_once_and_its_answer_comes_back_once(cuda, monkeypatch, kind, precision, holes):
    model = make_model(SPECS[kind])
    cube = make_cube((96, 90), model.spec.bands)
    maps = (holed(cube) if holes else cube).miso.predict(model, device="cuda", precision=precision, location=kind != "members")
    monkeypatch.setattr(checkpoint, "resolve", lambda *_, **__: model)
    with cuda() as transfers:
        move(model, devices.choose_precision(precision, DEVICE))
        transfers.count.clear()
        found = maps.permafrost_probability.compute(scheduler="synchronous")
    assert found.dtype == ("float64" if precision == "float64" else "float32")
    assert transfers.count == ONCE
    assert np.isnan(found.values[:30, :30]).all() == holes


def test_points_and_embeddings_go_there_once_and_come_back_once(cuda, monkeypatch):
    model = make_model(TINY)
    cube = make_cube((96, 90), model.spec.bands)
    x, y = (np.random.default_rng(0).uniform(float(axis.min()), float(axis.max()), 50) for axis in (cube.x, cube.y))
    verbs = [
        cube.miso.predict_at(model, {"x": x, "y": y}, device="cuda", location=True).permafrost_probability,
        cube.miso.embed(model, device="cuda").embedding,
    ]
    monkeypatch.setattr(checkpoint, "resolve", lambda *_, **__: model)
    with cuda() as transfers:
        move(model)
        for lazy in verbs:
            transfers.count.clear()
            assert np.isfinite(lazy.compute(scheduler="synchronous")).all()
            assert transfers.count == ONCE


@pytest.mark.parametrize("preset", ["miso-nano", "miso-small", "miso-base"])
def test_presets_stay_on_the_device(cuda, preset):
    """Their weights are not drawn: those of the largest take seconds."""
    spec = ModelSpec.preset(preset, tasks=(PERMAFROST, TAXONOMY), location=ALASKA)
    side = 2 * spec.windows.stride
    cube = make_cube((side, side), spec.bands)
    bands = np.stack([cube[band.name].values for band in spec.bands])
    scaling = Scaling.fit(spec, bands.reshape(len(bands), -1))
    positions = field.Grid(np.arange(side) + 0.5, np.arange(side) + 0.5)
    with checkpoint._Undrawn():
        model = Model(spec, scaling, Miso(spec))
    with cuda() as transfers:
        move(model)
        transfers.count.clear()
        windows = plan((side, side), spec.windows)
        found = field.answer_positions(model, field.Block(bands, (0, 0)), windows, positions, device=DEVICE, geobox=geobox_of(cube))
    assert found.shape == (2 * spec.outputs, side * side)
    assert transfers.count == ONCE


def test_a_tensor_that_was_left_behind_is_found(cuda, monkeypatch):
    """The tests above fail where something is not on the device."""
    model = make_model(TINY)
    cube = make_cube((48, 48), model.spec.bands)
    maps = cube.miso.predict(model, device="cuda")
    monkeypatch.setattr(checkpoint, "resolve", lambda *_, **__: model)
    model.inputs.to("cpu")
    with cuda():
        model.network.requires_grad_(False).to(DEVICE)  # and the scaling not
        with pytest.raises(RuntimeError, match="device"):
            maps.permafrost_probability.compute(scheduler="synchronous")


@pytest.mark.parametrize("batch_size", [None, 8])
def test_windows_and_points_that_do_not_fit_are_halved(cuda, monkeypatch, batch_size):
    model = make_model(replace(TINY, location=None))
    cube = make_cube((34, 34), model.spec.bands)
    maps = cube.miso.predict(model, device="cuda", batch_size=batch_size)
    monkeypatch.setattr(checkpoint, "resolve", lambda *_, **__: model)
    project, forward, sizes, points = Miso.project, Miso.forward, [], []

    def crowded(network, inputs):
        sizes.append(len(inputs["sat"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return project(network, inputs)

    def narrow(network, cells, sample, xy):
        points.append(len(xy))
        if points[-1] > 100:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return forward(network, cells, sample, xy)

    monkeypatch.setattr(Miso, "project", crowded)
    with cuda():
        move(model)
        expected = maps.permafrost_probability.compute(scheduler="synchronous")
        assert max(sizes) > 2
        assert sizes[-1] <= 2
        monkeypatch.setattr(Miso, "forward", narrow)
        found = maps.permafrost_probability.compute(scheduler="synchronous")
        assert max(points) > 100
        assert points[-1] <= 64
        assert found.shape == expected.shape
        monkeypatch.setattr(Miso, "forward", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("for a single point")))
        with pytest.raises(torch.OutOfMemoryError):
            maps.permafrost_probability.compute(scheduler="synchronous")


# ---- values: a CPU plays the device, without a pool and in batches, as a card is worked with


class Played(inference.Run):
    """A run on the CPU that says it is one on a card."""

    @property
    def kind(self):
        return "cuda"


@pytest.fixture
def played(monkeypatch):
    """Give what answers on the CPU as on a card."""
    without_memory(monkeypatch)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())

    @contextmanager
    def held(device, precision, batch_size=None, room=0):
        yield Played("cpu", precision, 1, None, batch_size, room)

    def answer(*args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(field, "inference", held)
            return field.answer_positions(*args, device="cpu", precision=torch.float64, **options)

    return answer


def exact(spec):
    """A model in float64, whose answers differ by rounding alone."""
    model = make_model(spec)
    model.network.requires_grad_(False).double()
    return model


def scene(spec, shape=(37, 41)):
    """A block of a cube with holes, its windows, and the crossings of all rows and columns."""
    cube = make_cube(shape, spec.bands)
    bands = np.stack([cube[band.name].values for band in spec.bands])
    bands[:, np.random.default_rng(0).random(shape) < 0.3] = np.nan
    return cube, bands, plan(shape, spec.windows), field.Grid(*(np.arange(side) + 0.5 for side in shape))


@pytest.mark.parametrize("kind", [*SPECS])
@pytest.mark.parametrize("batch_size", [None, 8])
def test_batches_give_what_the_groups_of_a_cpu_give(played, kind, batch_size):
    spec = SPECS[kind]
    model = exact(spec)
    cube, bands, windows, positions = scene(spec)
    given = (model, field.Block(bands, (0, 0)), windows, positions)
    expected = field.answer_positions(*given, device="cpu", precision=torch.float64, geobox=geobox_of(cube))
    np.testing.assert_allclose(played(*given, batch_size=batch_size, geobox=geobox_of(cube)), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("of a card"), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")])
@pytest.mark.parametrize("batch_size", [None, 8])
def test_halved_windows_and_points_give_the_same(played, monkeypatch, batch_size, error):
    spec = replace(TINY, location=None)
    model = exact(spec)
    _, bands, windows, positions = scene(spec)
    given = (model, field.Block(bands, (0, 0)), windows, positions)
    expected = field.answer_positions(*given, device="cpu", precision=torch.float64)
    project, forward, sizes = Miso.project, Miso.forward, []

    def crowded(network, inputs):
        sizes.append(len(inputs["sat"]))
        if sizes[-1] > 2:
            raise error
        return project(network, inputs)

    def narrow(network, cells, sample, xy):
        if len(xy) > 100:
            raise error
        return forward(network, cells, sample, xy)

    monkeypatch.setattr(Miso, "project", crowded)
    monkeypatch.setattr(Miso, "forward", narrow)
    np.testing.assert_allclose(played(*given, batch_size=batch_size), expected, rtol=1e-9, atol=1e-9)
    assert max(sizes) > 2
    monkeypatch.setattr(Miso, "forward", lambda *_: (_ for _ in ()).throw(ValueError("another")))
    with pytest.raises(ValueError, match="another"):
        played(*given, batch_size=batch_size)


def test_what_a_window_takes_is_measured_once_and_room_is_left_for_the_next_block(played, monkeypatch):
    model = exact(replace(TINY, location=None))
    _, bands, windows, positions = scene(model.spec)
    sizes, project = [], Miso.project
    monkeypatch.setattr(Miso, "project", lambda network, inputs: sizes.append(len(inputs["sat"])) or project(network, inputs))
    given = (model, field.Block(bands, (0, 0)), windows, positions)
    played(*given)
    first, every = sizes[0], sum(sizes)
    assert first == 1
    sizes.clear()
    played(*given)
    assert sizes == [every], "all at once, for what one takes is known"
    sizes.clear()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (5 * 2**20 + 1.25 * bands.nbytes + 2**18, 2**34))
    played(*given)
    assert sizes[0] == 4, "0.8 of 5 MB, beside what the next block takes"
    sizes.clear()
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda *_: 2.5 * 2**20)
    played(*given)
    assert sizes[0] == 6, "what torch keeps, and has given to nobody, is free"


def test_arrays_are_sent_as_bytes_one_behind_another():
    arrays = [
        np.arange(5, dtype="float32"),
        np.zeros((0, 3)),
        np.arange(6).reshape(2, 3).T,
        np.array([True, False]),
        np.arange(3, dtype="int32"),
    ]
    buffer, parts = devices.packed(arrays, pin=False)
    assert all(part.bytes.start % 16 == 0 for part in parts)
    for array, tensor in zip(arrays, devices.unpacked(buffer, parts), strict=True):
        np.testing.assert_array_equal(tensor.numpy(), array)
        assert tensor.numpy().dtype == array.dtype


def test_a_device_holds_two_blocks_however_many_threads_there_are(monkeypatch):
    held, most = [], []

    def computed(*_, **__):
        held.append(1)
        most.append(len(held))
        time.sleep(0.05)
        held.pop()
        return np.zeros((9, 37 * 41), "float32")

    monkeypatch.setattr(field, "_computed", computed)
    model = make_model(replace(TINY, location=None))
    _, bands, windows, positions = scene(model.spec)
    with ThreadPoolExecutor(6) as pool:
        jobs = [
            pool.submit(field.answer_positions, model, field.Block(bands, (0, 0)), windows, positions, device=DEVICE)
            for _ in range(6)
        ]
        assert [job.result().shape for job in jobs] == [(9, 37 * 41)] * 6
    assert max(most) == 2


def test_windows_around_points_are_sent_in_parts_of_a_bounded_size(monkeypatch):
    spec = replace(TINY, location=None)
    model = make_model(spec)
    _, bands, windows, _ = scene(spec, (96, 90))
    rng = np.random.default_rng(1)
    positions = field.Scatter(rng.uniform(0, 96, 60), rng.uniform(0, 90, 60))
    crops = {(row, column): bands[:, row : row + 16, column : column + 16] for row, column in positions.windows(windows)}
    expected = field.answer_positions(model, field.Crops(crops), windows, positions, device="cpu")
    sizes, array = [], field.Crops.array
    monkeypatch.setattr(field, "PART", 5 * next(iter(crops.values())).nbytes)
    monkeypatch.setattr(field.Crops, "array", lambda self, some: sizes.append(len(some)) or array(self, some))
    found = field.answer_positions(model, field.Crops(crops), windows, positions, device="cpu")
    assert max(sizes) == 4
    assert sum(sizes) > 20
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("members", [1, 3])
def test_training_steps_and_calibration_stay_on_the_device(cuda, members):
    # Without contrast, points without labels are left out first, and fake labels do not tell how many there are.
    spec = replace(TINY, members=members, losses=LossSpec(contrast=(("visual", "location", 0.1), ("sat", "cov", 0.1))))
    network = make_model(spec).network
    rng = np.random.default_rng(1)
    trained = loop._Loop(network, spec, Recipe.of(spec, taught=False), 1, {}, 0)
    labels = {"permafrost": rng.integers(0, 2, (6, 4)), "taxonomy": rng.integers(0, 7, (6, 4)), "soc": rng.uniform(1, 9, (6, 4))}
    batch = {
        "inputs": {one.name: rng.normal(size=(6, one.channels, 16, 16)) for one in spec.modalities},
        "points": rng.uniform(-1, 1, (6, 4, 2)),
        "labels": {name: np.repeat(values[..., None], members, 2) if members > 1 else values for name, values in labels.items()},
        "location": rng.uniform(-1, 1, (6, 4, 2)),
    }
    windows = {name: values.astype("float32") for name, values in batch["inputs"].items()}

    def there(values):
        if isinstance(values, dict):
            return {name: there(one) for name, one in values.items()}
        return torch.from_numpy(values.astype("float32")).to(DEVICE)

    with cuda() as transfers:
        trained.to(DEVICE)
        batch = there(batch) | {"valid": torch.ones((6, 4), dtype=torch.bool, device=DEVICE)}
        trained.log = lambda *_, **__: None
        transfers.count.clear()
        assert trained.training_step(batch, 0).device.type == "cuda"  # a backward step asks for a card
        assert not transfers.count
        logits = inference.logits_at(network, [(windows, rng.uniform(-1, 1, (6, 2)))], DEVICE)
    assert {name: values.shape[0] for name, values in logits.items()} == dict.fromkeys(labels, 6)
