"""Bars: one line outside of notebooks, nothing in red within them, and an end that tells what happened."""

import pickle
import queue
import sys
import types

import pytest
from tqdm import notebook
from tqdm.std import tqdm

from misoxr.records import bars
from misoxr.records.bars import Bar, each, spoken

CELL = """
import sys
sys.modules["ipywidgets"] = None  # as if it were not installed
from misoxr.records.bars import Bar
with Bar("fit", "steps", stage="reading windows") as bar:
    bar.say("a line above")
    bar.begin(3)
    for _ in range(3):
        bar.update()
    bar.end("epoch 2 is the best")
"""


def lines(text):
    """Return the lines that a terminal shows in the end."""
    return [line.rpartition("\r")[2].rstrip() for line in text.split("\n")][:-1]


def test_a_bar_is_one_line_outside_of_notebooks(capsys, monkeypatch):
    monkeypatch.setattr(bars, "INTERVAL", 0.0)
    with Bar("to_zarr", "blocks", stage="planning") as bar:
        bar.stage("looking at what is there")
        bar.begin(4, 1)
        bar.update()
        bar.tell("loss 0.3")
        bar.reach(4, 4)
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = lines(err)
    assert line.startswith("to_zarr: 100%")
    assert "4/4 blocks" in line
    assert line.endswith(", loss 0.3]")
    assert "to_zarr, planning" in err
    assert "to_zarr, looking at what is there" in err


def test_a_bar_that_is_not_shown_prints_nothing(capsys):
    with Bar("to_zarr", "blocks", shown=False, stage="planning") as bar:
        bar.begin(2)
        bar.update()
        bar.tell("loss")
        bar.say("a line")
        bar.end("done")
    assert list(each("ab", "files", "files", shown=False)) == ["a", "b"]
    assert "".join(capsys.readouterr()) == ""


def test_a_bar_that_ends_early_counted_all_there_was(capsys):
    with Bar("fit", "steps") as bar:
        bar.begin(10)
        bar.update(6)
        bar.end("epoch 3 is the best")
    (line,) = lines(capsys.readouterr().err)
    assert line.startswith("fit, epoch 3 is the best: 100%")
    assert "6/6 steps" in line


def test_an_error_before_anything_is_counted_leaves_no_bar(capsys):
    with pytest.raises(ValueError, match="told"), Bar("fit", "steps", stage="reading windows"):
        raise ValueError("told")
    assert capsys.readouterr().err.rpartition("\r")[2].strip() == ""


def test_the_time_of_a_bar_is_that_of_all_of_it(monkeypatch):
    with Bar("to_zarr", "blocks", shown=True, stage="planning") as bar:
        start = bar._bar.start_t
        bar._bar.start_t = start - 100.0
        bar.begin(4, 1)
        assert bar._bar.format_dict["elapsed"] >= 100
        assert bar._bar.initial == 1


def test_another_process_opens_a_bar_of_its_own(capsys):
    with Bar("fit", "steps") as bar:
        other = pickle.loads(pickle.dumps(bar))
        other.update()
        assert other._bar is None
        bar.hand_over()
        assert bar._bar is None


@pytest.mark.parametrize(
    ("kernel", "widgets", "made", "place"),
    [
        (False, True, tqdm, "stderr"),
        (True, True, notebook.tqdm, "stdout"),
        (True, False, tqdm, "stdout"),
    ],
)
def test_a_notebook_has_a_widget_or_a_line_that_is_not_red(kernel, widgets, made, place, monkeypatch):
    shell = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=object() if kernel else None))
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setattr(notebook, "IProgress", object if widgets else None)
    assert bars._class() == (made, getattr(sys, place))


def test_a_kernel_without_widgets_shows_one_line_and_nothing_in_red(tmp_path):
    manager = pytest.importorskip("jupyter_client.manager")
    pytest.importorskip("ipykernel")
    kernel, client = manager.start_new_kernel(kernel_name="python3", cwd=str(tmp_path), env=_environment())
    found = {"stdout": "", "stderr": ""}
    kinds = set()
    try:
        asked = client.execute(CELL)
        while True:
            message = client.get_iopub_msg(timeout=30)
            if message["parent_header"].get("msg_id") != asked:
                continue
            kinds.add(message["msg_type"])
            if message["msg_type"] == "stream":
                found[message["content"]["name"]] += message["content"]["text"]
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
    except queue.Empty:
        pytest.fail(f"the kernel did not answer; so far {found}")
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
    assert kinds == {"status", "execute_input", "stream"}, found
    assert found["stderr"] == ""
    above, line = lines(found["stdout"])
    assert above == "a line above"
    assert line.startswith("fit, epoch 2 is the best: 100%")


def _environment():
    import os
    from pathlib import Path

    import misoxr

    root = str(Path(misoxr.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (83, "83 s"), (96, "1.6 min"), (720, "12 min"), (9_000, "2.5 h"), (200_000, "2.3 d")]
)
def test_times_are_said_in_the_unit_that_fits(seconds, words):
    assert spoken(seconds) == words
