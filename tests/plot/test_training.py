"""The training curve shows what the record tells, and nothing of a record that is not as training writes it."""

from dataclasses import replace

import matplotlib
import numpy as np
import pytest

from misoxr.errors import SpecError
from misoxr.plot.history import History

matplotlib.use("Agg")

RECORD = {
    "training": [{"loss": 2.0}, {"loss": 1.5}, {"loss": 1.2}],
    "validation": [{"loss": 1.9, "accuracy": 0.5}, {"loss": 1.4, "accuracy": 0.7}, {"loss": 1.6, "accuracy": 0.6}],
    "best_epoch": 1,
}


@pytest.fixture(autouse=True)
def _closed():
    yield
    matplotlib.pyplot.close("all")


def test_losses_accuracy_and_the_best_epoch_are_drawn(model):
    axes = replace(model, record=RECORD).plot()
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines) == ["training loss", "validation loss", "best epoch, kept: 2"]
    np.testing.assert_allclose(lines["training loss"].get_xydata(), [[1, 2.0], [2, 1.5], [3, 1.2]])
    assert list(lines["best epoch, kept: 2"].get_xdata()) == [2, 2]
    accuracy = next(one for one in axes.figure.axes if one.get_ylabel() == "accuracy").lines[0]
    np.testing.assert_allclose(accuracy.get_ydata(), [0.5, 0.7, 0.6])


def test_without_validation_the_last_epoch_is_kept(model):
    axes = replace(model, record={**RECORD, "validation": [], "best_epoch": 2, "simulated": 1}).plot()
    assert [line.get_label() for line in axes.get_lines()] == ["training loss", "last epoch, kept: 3"]
    assert axes.get_title().startswith("SIMULATED")
    assert len(axes.figure.axes) == 1


def test_a_model_without_losses_is_refused(model):
    with pytest.raises(SpecError, match="has no losses"):
        model.plot()


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"training": "losses", "validation": 3, "best_epoch": "first"},
        {"training": [1, None, {"loss": "low"}], "validation": {"loss": 1}, "best_epoch": True},
        {"training": [{"loss": float("nan")}, {"loss": True}, {"loss": 10**400}], "best_epoch": -1},
    ],
)
def test_records_of_others_tell_nothing(record):
    assert History.of(record) == History([], [], [], None)
