"""Draw scores: a comparison of models."""

import textwrap
from typing import TYPE_CHECKING, Any

from misoxr.errors import require

if TYPE_CHECKING:
    from misoxr.evaluation.scores import Scores

__all__ = ["comparison"]


def comparison(found: "Scores", metric: str | None = None, task: str | None = None, ax: Any = None) -> Any:
    """Draw a score of every model: a dot for each fold and seed, and a bar for the mean of the pooled scores.

    Parameters
    ----------
    found : Scores
        From :func:`misoxr.evaluation.cross_validate.cross_validate`.
    metric : str, optional
        Name of a score; macro F1 (regressions: r2) by default.
    task : str, optional
        Name of a task; the first by default.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    PointsError
        If there is no such task or metric.
    """
    pyplot = require("matplotlib.pyplot", "plot")
    chosen = found.task(task or found.tasks[0].name)
    metric = metric or ("r2" if chosen.kind == "regression" else "macro_f1")
    table = found.whole(metric, chosen.name)
    if ax is None:
        _, ax = pyplot.subplots(figsize=(7, 0.6 * len(found.models) + 1.2), layout="constrained")
    for at, model in enumerate(found.models):
        mine = table[table["model"] == model]
        pooled = mine[mine["fold"] == "pooled"]["value"].mean()
        ax.barh(at, pooled, color="#9fb8c8", height=0.6)
        dots = mine[mine["fold"] != "pooled"]["value"]
        ax.plot(dots, [at] * len(dots), "o", color="#1f4e66", markersize=4, alpha=0.7)
    words = "SIMULATED labels; " if found.about.get("simulated") else ""
    ax.set(yticks=range(len(found.models)), yticklabels=found.models, xlabel=f"{metric} of {chosen.name}")
    title = textwrap.fill(f"{words}{found.about.get('cv', '')}", 90)
    ax.set_title(f"{title}\ndots: folds and seeds; bars: pooled", fontsize=9)
    ax.invert_yaxis()
    return ax
