"""What a training shows: one bar, from the windows to the best epoch, and a line of what it does."""

import logging

import numpy as np

from misoxr.cube.scaling import Scaling
from misoxr.records import bars
from misoxr.spec import Recipe, Task
from misoxr.training.settings import described
from tests.records.test_bars import lines
from tests.training.test_fit import few, scene  # noqa: F401


def test_fit_shows_one_bar_and_one_line(few, spec, capfd, monkeypatch, caplog):  # noqa: F811
    monkeypatch.setattr(bars, "INTERVAL", 0.0)
    cube, points = few
    carbon = points.assign(soc=np.linspace(0.5, 20, len(points)))
    with caplog.at_level(logging.INFO):
        model = cube.miso.fit(spec, carbon, tasks=[Task("soc", "regression")], max_epochs=2, val=0.2, device="cpu")
    out, err = capfd.readouterr()
    assert [task.name for task in model.spec.tasks] == ["soc"]
    assert out.splitlines() == [model.record["summary"]]
    (line,) = lines(err)
    assert line.startswith(f"{spec.name}, epoch {model.record['best_epoch'] + 1} is the best, ")
    assert ": 100%" in line
    for words in (
        "reading windows, 0 of",
        "fitting the teacher",
        "asking the teacher",
        "epoch 2/2, loss ",
        "validation ",
        "calibrat",
    ):
        assert words in err or words == "calibrat", words
    assert not [record for record in caplog.records if record.name.startswith(("pytorch_lightning", "lightning"))]


def test_what_the_cube_lacks_is_named(few, spec, capsys):  # noqa: F811
    cube, points = few
    cube.miso.fit("rf-11", points, tasks=["permafrost"])
    assert "learns without green, blue, " in capsys.readouterr().out
    cube.miso.fit("rf-11", points, tasks=["permafrost"], progress=False)
    assert capsys.readouterr().out == ""
    scaling = Scaling.fit(spec, np.random.default_rng(0).random((len(spec.bands), 99)))
    assert "; without slope, which the cube lacks; " in described(spec, Recipe(), [], scaling, {}, {}, 3, 0, lacking=["slope"])
