"""Inference: the shapes that enter a network, and with them its bytes, do not depend on the machine."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from misoxr.model import devices, inference
from misoxr.model.network import Miso
from tests.conftest import make_cube


@pytest.fixture(scope="module")
def cube(spec):
    """Several batches of windows, some of whose pixels have no input."""
    made = make_cube((75, 61), spec.bands)
    return made.where((made.x - made.x[0]) + 1.3 * (made.y[0] - made.y) > 300)


def entering(monkeypatch, cores, call):
    """Return the shapes that a network is given with a number of cores, and the answer."""
    seen = []
    project, forward, locate = Miso.project, Miso.forward, Miso.locate

    def projected(network, inputs):
        seen.append(("project", tuple((name, tuple(values.shape)) for name, values in inputs.items())))
        return project(network, inputs)

    def answered(network, cells, sample, points):
        shapes = tuple(tuple(cell.values.shape) for stages in cells.values() for cell in stages)
        seen.append(("forward", shapes, tuple(sample.shape), tuple(points.shape)))
        return forward(network, cells, sample, points)

    def located(network, location):
        seen.append(("locate", tuple(location.shape)))
        return locate(network, location)

    with monkeypatch.context() as patched:
        patched.setattr(devices, "_cores", lambda: cores)
        for name, function in (("project", projected), ("forward", answered), ("locate", located)):
            patched.setattr(Miso, name, function)
        found = call()
    return sorted(seen), found


@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("verb", ["predict", "predict_at"])
def test_what_enters_the_network_does_not_depend_on_cores(cube, model, monkeypatch, verb, batch_size):
    rng = np.random.default_rng(0)
    x, y = (rng.uniform(float(axis.min()), float(axis.max()), 700) for axis in (cube.x, cube.y))
    options = {"device": "cpu", "location": True, "batch_size": batch_size}

    def call():
        maps = (
            cube.miso.predict(model, **options) if verb == "predict" else cube.miso.predict_at(model, {"x": x, "y": y}, **options)
        )
        return maps.compute(scheduler="synchronous")

    call()  # whoever loads a model tries it once
    first, expected = entering(monkeypatch, 1, call)
    assert {name for name, *_ in first} == {"project", "forward", "locate"}
    for cores in (2, 3, 4, 13):
        shapes, found = entering(monkeypatch, cores, call)
        assert shapes == first
        for name in expected.data_vars:
            np.testing.assert_array_equal(found[name].values, expected[name].values)


def test_groups_and_blocks_have_one_size(cube, model, monkeypatch):
    maps = cube.miso.predict(model, device="cpu")
    maps.compute()
    shapes, _ = entering(monkeypatch, 2, maps.compute)
    groups = {entry[1] for entry in shapes if entry[0] == "project"}
    assert {shape[0] for group in groups for _, shape in group} == {inference.group_size(model.spec)}
    assert len(groups) == 1
    points = [entry[-1][0] for entry in shapes if entry[0] == "forward"]
    assert all(count % 64 == 0 for count in points)
    largest = inference.block_size(model.network, "cpu")
    assert sum(count < largest for count in points) <= len(shapes) - len(points), "one block a group is cut short, at the most"


@pytest.mark.parametrize(("side", "size"), [(16, 4), (64, 4), (90, 2), (128, 1), (256, 1)])
def test_groups_fit_a_cores_cache(spec, side, size):
    windows = replace(spec.windows, size=side, input_size=side, stride=side // 2)
    assert inference.group_size(replace(spec, windows=windows)) == size
    assert inference.group_size(replace(spec, windows=windows), 2) == min(size, 2)


def run_on(pool, workers=2):
    return devices.Run("cpu", torch.float32, workers, pool)


def test_who_waits_works_and_results_come_in_order():
    """One thread is held up in the first job: all others are done by the caller, who would only wait for it."""
    caller, begun, others_done, who = threading.get_ident(), threading.Event(), threading.Event(), {}

    def work(item):
        who[item] = threading.get_ident()
        begun.set()
        if who[item] != caller:
            assert others_done.wait(60)
        elif sum(one == caller for one in who.values()) == 3:
            others_done.set()
        return item * 10

    def items():
        """The first job is begun by the pool before others are given."""
        yield 0
        assert begun.wait(60)
        yield from range(1, 12)

    with ThreadPoolExecutor(1) as pool:
        assert list(run_on(pool)(work, items())) == [item * 10 for item in range(12)]
    assert who[0] != caller
    assert sum(one == caller for one in who.values()) >= 3


@pytest.mark.parametrize("failing", [0, 3, 7])
def test_an_error_of_a_job_ends_the_run_and_nothing_goes_on(failing):
    done = []

    def work(item):
        if item == failing:
            raise KeyError("this one")
        done.append(item)

    with pytest.raises(KeyError, match="this one"), ThreadPoolExecutor(1) as pool:
        list(run_on(pool)(work, range(1000)))
    assert len(done) < 30


def test_jobs_that_nobody_waits_for_are_not_begun():
    """The pool is busy until the caller has taken one result, and left: what waits in the pool by then is never done."""
    begun, gone = [], threading.Event()

    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(gone.wait, 60)
        results = run_on(pool)(begun.append, range(1000))
        next(results)
        results.close()
        gone.set()
    assert busy.result()
    assert begun == [0]
