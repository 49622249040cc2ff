"""Make figures and axes, and say what matplotlib cannot take."""

from collections.abc import Mapping
from typing import Any

from misoxr.errors import SpecError, did_you_mean, require

__all__ = ["axes_of", "grid_of", "plain"]


def grid_of(rows: int, columns: int, options: Mapping[str, Any], given: Mapping[str, Any], known: list[str]) -> tuple[Any, Any]:
    """Return a figure that is shown once, and its axes (row, column).

    Parameters
    ----------
    rows, columns : int
        Of the axes.
    options, given : mapping
        Our arguments of ``matplotlib.pyplot.subplots``, and the caller's, which win.
    known : list of str
        What the caller's function takes itself.

    Raises
    ------
    SpecError
        If matplotlib does not know an argument.
    """
    pyplot = require("matplotlib.pyplot", "plot")
    shown = require("misoxr.plot.shown", "plot").ShownOnce
    try:
        return pyplot.subplots(rows, columns, squeeze=False, **{"FigureClass": shown, **options, **given})  # type: ignore[no-any-return]
    except (AttributeError, TypeError, ValueError) as error:
        raise SpecError(
            f"matplotlib.pyplot.subplots cannot take {dict(given)} ({error}); plot itself takes {', '.join(known)}."
            f"{did_you_mean(next(iter(given), ''), known)}"
        ) from error


def axes_of(ax: Any, size: tuple[float, float]) -> Any:
    """Return the axes that are given, or those of a new figure of pyplot of a size in inches."""
    if ax is not None:
        return ax
    return require("matplotlib.pyplot", "plot").subplots(figsize=size, layout="compressed")[1]


def plain(text: Any) -> str:
    """Return a text as matplotlib draws it letter by letter: dollars would begin a formula, which fails where it is none."""
    return str(text).replace("$", r"\$")
