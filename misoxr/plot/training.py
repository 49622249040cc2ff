"""Draw a network's training curve."""

from typing import TYPE_CHECKING, Any

from misoxr.errors import SpecError, require
from misoxr.plot.canvas import axes_of, plain
from misoxr.plot.history import History

if TYPE_CHECKING:
    from misoxr.model.checkpoint import Model

__all__ = ["curve"]


def curve(model: "Model", ax: Any = None) -> Any:
    """Draw the losses of a model's training by epoch, and the accuracy of its validation, with the epoch that was kept.

    Parameters
    ----------
    model : Model
        From ``fit``, or a checkpoint.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure of pyplot.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    SpecError
        If the model's record has no losses, as of published checkpoints.
    """
    history = History.of(model.record)
    if not history.epochs:
        raise SpecError(
            f"The record of the model {model.spec.name!r} has no losses; models that fit trained have them, and published checkpoints do not."
        )
    axis = axes_of(ax, (6.4, 3.6))
    for values, words, color in (
        (history.training, "training loss", "#8a8a8a"),
        (history.validation, "validation loss", "#1f4e66"),
    ):
        if values:
            axis.plot(range(1, len(values) + 1), values, "o-", color=color, markersize=3, label=words)
    lines = list(axis.get_lines())
    axis.set(xlabel="epoch", ylabel="loss")
    axis.xaxis.set_major_locator(require("matplotlib.ticker", "plot").MaxNLocator(integer=True))
    if history.best is not None:
        words = "best epoch" if history.validation else "last epoch"
        kept = axis.axvline(
            history.best + 1, color="#c0392b", linestyle="--", linewidth=1, label=f"{words}, kept: {history.best + 1}"
        )
        lines.append(kept)
    if history.accuracy:
        beside = axis.twinx()
        epochs = range(1, len(history.accuracy) + 1)
        lines += beside.plot(epochs, history.accuracy, "s:", color="#d08a1d", markersize=3, label="validation accuracy")
        beside.set(ylabel="accuracy", ylim=(0, 1))
    axis.legend(
        lines,
        [line.get_label() for line in lines],
        fontsize=8,
        frameon=False,
        loc="upper center",
        ncols=2,
        bbox_to_anchor=(0.5, -0.18),
    )
    simulated = "SIMULATED; " if model.record.get("simulated") else ""
    axis.set_title(plain(f"{simulated}{model.spec.name}: training"), fontsize=10)
    return axis
