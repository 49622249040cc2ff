"""Plans of a write, recipes of training and splitters in a notebook: short tables."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from misoxr.points.folds import BlockKFold, ClusterKFold, KFold, LeaveOneRegionOut, PredefinedFolds, Splitter
from misoxr.points.knndm import KNNDM
from misoxr.reprs.cards import HTML, bold, card, code, fold, line, pairs, shown, table
from misoxr.spec import Recipe

if TYPE_CHECKING:
    from misoxr.io.plan import Plan

__all__ = ["plan", "recipe", "splitter"]


def plan(found: "Plan") -> HTML:
    """Return the plan of a write as a card."""
    told = found.described()
    untimed = (
        [line("Nothing was computed: plan() with timed=True also tells time and memory.", soft=True)]
        if found.seconds is None
        else []
    )
    rows = [(name, words) for name, words in told.items() if name != "blocks"]
    return card("Plan", told["blocks"], pairs(rows), *untimed)


def recipe(found: Recipe) -> HTML:
    """Return the settings of training as a card, those that are no defaults in bold."""
    defaults = {field.name: field.default for field in fields(found)}
    rows = []
    for name, default in defaults.items():
        value = getattr(found, name)
        told = shown(_words(value))
        rows.append(
            (code(name), bold(told) if value != default else told, "" if value == default else f"default {_words(default)}")
        )
    length = f"{found.steps:,} steps" if found.steps else f"{found.max_epochs:,} epoch{'s' * (found.max_epochs != 1)}"
    kept = {"last": "the last epoch is kept", "loss": "the epoch with the least validation loss is kept"}
    end = kept.get(found.criterion, "the epoch with the greatest validation accuracy is kept")
    title = f"{length}, batches of {found.batch_size}, learning rate {found.learning_rate:g}; {end}"
    changed = [row for row in rows if row[2]]
    parts = (
        [table(("changed", "", ""), changed)] if changed else [line("All settings are the defaults of small models.", soft=True)]
    )
    return card("Recipe", title, *parts, fold("All settings", table(("setting", "value", ""), rows)))


def _words(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---- splitters


def splitter(found: Splitter) -> HTML:
    """Return a splitter as a card: what it does in a line, and its parameters."""
    told = next((words for kind, words in _LINES.items() if type(found) is kind), lambda _: "folds of points")
    buffer = f" Training points nearer than {found.buffer:g} to a test point are left out." if found.buffer else ""
    values = {field.name: getattr(found, field.name) for field in fields(found)}  # type: ignore[arg-type]
    rows = [(code(name), _parameter(value)) for name, value in values.items()]
    hint = line("Lengths are in units of the coordinates.", code("splitter.plot(points, image)"), "draws the folds.", soft=True)
    return card(type(found).__name__, "", line(f"{told(found)}.{buffer}"), fold("Parameters", pairs(rows), hint))


def _parameter(value: Any) -> str:
    return f"{len(value):,} of them" if hasattr(value, "__len__") and not isinstance(value, str) else str(value)


_LINES: Mapping[type[Splitter], Callable[[Any], str]] = {
    KFold: lambda one: f"{one.n_splits} folds of points drawn at random: test points have training points near them",
    BlockKFold: lambda one: (
        f"{one.n_splits} folds of whole square blocks with a side of {one.size:g}, about as many points in each"
    ),
    ClusterKFold: lambda one: (
        f"{one.n_splits} folds of whole clusters: points of different folds lie more than {one.distance:g} apart"
    ),
    LeaveOneRegionOut: lambda one: (
        f"One fold for each of {len(one.regions)} regions that holds points: it tests a region, and learns from the others"
    ),
    PredefinedFolds: lambda one: f"{len(one.folds)} folds as they were given",
    KNNDM: lambda one: (
        f"{one.n_splits} folds whose test points lie as far from training points as {len(one.targets):,} targets from the points"
    ),
}
"""What each splitter does, in words."""
