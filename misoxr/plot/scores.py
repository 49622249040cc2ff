"""Draw scores: a comparison of models, and how often their probabilities come true."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from misoxr.errors import PointsError
from misoxr.plot.canvas import axes_of, grid_of, plain
from misoxr.points.folds import briefly

if TYPE_CHECKING:
    from misoxr.evaluation.scores import Scores

__all__ = ["comparison", "reliability"]

IN_UNITS = ("rmse", "mae", "bias")
"""Scores that are in the units of the task."""


def comparison(found: "Scores", metric: str | None = None, task: str | None = None, ax: Any = None) -> Any:
    """Draw a score of every model: a bar for the mean of the pooled scores with its standard error over folds, and a dot for each fold and seed.

    Parameters
    ----------
    found : Scores
        From :func:`misoxr.evaluation.cross_validate.cross_validate`.
    metric : str, optional
        Name of a score; macro F1 (regressions: r2) by default.
    task : str, optional
        Name of a task; the first by default.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure of pyplot.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    PointsError
        If there is no such task or metric.
    """
    chosen = found.task(task or found.tasks[0].name)
    metric = metric or ("r2" if chosen.kind == "regression" else "macro_f1")
    table, errors = found.whole(metric, chosen.name), found.errors(metric, chosen.name)
    axis = axes_of(ax, (7, 0.6 * len(found.models) + 1.4))
    baselines = found.about.get("baselines", ())
    for at, model in enumerate(found.models):
        mine = table[table["model"] == model]
        pooled = mine[mine["fold"] == "pooled"]["value"].mean()
        axis.barh(at, pooled, color="#d5d5d5" if model in baselines else "#9fb8c8", height=0.6)
        dots = mine[mine["fold"] != "pooled"]["value"]
        axis.plot(dots, [at] * len(dots), "o", color="#1f4e66", markersize=4, alpha=0.6)
        if pd.notna(errors[model]):
            axis.errorbar(pooled, at, xerr=errors[model], color="black", capsize=4, linewidth=1.4, zorder=4)
    words = "SIMULATED labels; " if found.about.get("simulated") else ""
    names = [f"{model} (baseline)" if model in baselines else model for model in found.models]
    names = [textwrap.fill(plain(name), 40) for name in names]
    unit = f", {chosen.units}" if metric in IN_UNITS and chosen.units not in ("", "1") else ""
    axis.set(yticks=range(len(names)), yticklabels=names, xlabel=plain(f"{metric} of {chosen.name}{unit}"))
    title = textwrap.fill(plain(f"{words}{briefly(found.about.get('cv', ''))}"), 70)
    others = [one.name for one in found.tasks if one.name != chosen.name]
    also = f"\nalso scored: {plain(', '.join(others))}" if others and task is None else ""
    axis.set_title(
        f"{title}\nbars: pooled, with the standard error over folds\ndots: folds and seeds{also}", fontsize=9, loc="left"
    )
    axis.invert_yaxis()
    return axis


def reliability(found: "Scores", models: str | Sequence[str] | None = None, task: str | None = None, bins: int = 10) -> Any:
    """Draw how often predictions came true against their probability, and below how many there are of each.

    Parameters
    ----------
    found : Scores
        From :func:`misoxr.evaluation.cross_validate.cross_validate`.
    models : str or sequence of str, optional
        Names of models; all by default.
    task : str, optional
        Name of a task with classes; the first by default.
    bins : int, optional
        Number of bins, of equal width.

    Returns
    -------
    matplotlib.figure.Figure
        The legend has each model's expected calibration error of these bins: the mean distance from the diagonal, weighted by points.

    Raises
    ------
    PointsError
        If there is no such model or task, or the task is a regression.
    """
    named = [one for one in found.tasks if one.kind != "regression"]
    if task is None and not named:
        raise PointsError(
            f"The tasks {[one.name for one in found.tasks]} are regressions, which have no probabilities; draw scores.plot()."
        )
    chosen = found.task(task or named[0].name)
    asked = found.models if models is None else [models] if isinstance(models, str) else list(models)
    curves = {model: found.reliability(model, chosen.name, bins) for model in asked}
    options = {"figsize": (5.2, 6.2), "layout": "constrained", "sharex": True, "gridspec_kw": {"height_ratios": [3, 1]}}
    canvas, axes = grid_of(2, 1, options, {}, [])
    upper, lower = axes[:, 0]
    upper.plot([0, 1], [0, 1], linestyle="--", color="#8a8a8a", linewidth=1, label="as stated")
    for at, (model, curve) in enumerate(curves.items()):
        color, known = f"C{at % 10}", curve[curve["count"] > 0]
        gap = float(((curve["probability"] - curve["frequency"]).abs() * curve["count"]).sum() / max(curve["count"].sum(), 1))
        upper.plot(
            known["probability"], known["frequency"], "o-", color=color, markersize=4, label=f"{plain(model)}: ECE {gap:.3f}"
        )
        middle = (curve["lower"] + curve["upper"]) / 2
        width = 0.9 / bins / len(curves)
        lower.bar(middle + (at - (len(curves) - 1) / 2) * width, curve["count"], width=width, color=color)
    of = f"probability of {chosen.classes[1]}" if chosen.kind == "binary" else "probability of the predicted class"
    upper.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="share that came true")
    lower.set(xlabel=plain(of), ylabel="predictions")
    canvas.legend(*upper.get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside lower center", ncols=2)
    words = "SIMULATED labels; " if found.about.get("simulated") else ""
    upper.set_title(textwrap.fill(plain(f"{words}{chosen.name}: {briefly(found.about.get('cv', ''))}"), 70), fontsize=9)
    return canvas
