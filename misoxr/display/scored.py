"""What a cross-validation tells in a report: folds, scores and baselines, confusion and reliability, as HTML."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from math import isfinite
from typing import Any

import pandas as pd
import xarray as xr

from misoxr.display.page import paragraph
from misoxr.display.tables import facts, number, table
from misoxr.evaluation.scores import SHOWN, Scores
from misoxr.spec import Task

__all__ = ["Scored", "mapped_model"]

MAIN = {"binary": "macro_f1", "multiclass": "macro_f1", "regression": "r2"}
"""The metric that stands for a task where there is room for one."""


def mapped_model(maps: xr.Dataset, scores: Scores) -> tuple[str, bool]:
    """Return the model of the scores that made the maps, and True; or another to show, and False.

    The identity that maps have in their provenance, and scores of each model, tells (:mod:`misoxr.estimators.identity`). Names do not: they are
    only the first choice of what to show, before the first model that is no baseline.
    """
    made, known = _made(maps.attrs.get("provenance")), _mapping(scores.about, "identities")
    own = {one.get("identity") for one in made}
    found = [model for model in scores.models if len(own) == 1 and known.get(model) in own - {None}]
    if len(found) == 1:
        return found[0], True
    baselines = scores.about.get("baselines", ())
    names = [str(_mapping(one, "model").get("name")) for one in made if "estimator" not in _mapping(one, "training")]
    choice = [*found, *names, *(model for model in scores.models if model not in baselines), *scores.models]
    return next(model for model in choice if model in scores.models), False


def _made(provenance: Any) -> list[Mapping[str, Any]]:
    """Return what a provenance tells of each model that made the maps."""
    try:
        found = json.loads(provenance)
    except (TypeError, ValueError):
        return []
    several = found.get("models", [found]) if isinstance(found, dict) else []
    return [one for one in several if isinstance(one, dict)]


def _mapping(found: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = found.get(key)
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class Scored:
    """Scores of mapped tasks, and the model that stands for all where there is room for one.

    Attributes
    ----------
    scores : Scores
        Of all models.
    tasks : sequence of Task
        The mapped ones.
    model : str
        Name among the scores.
    named : bool
        Whether it is known to have made the maps.
    """

    scores: Scores
    tasks: Sequence[Task]
    model: str
    named: bool

    @cached_property
    def summary(self) -> pd.DataFrame:
        """The scores' own."""
        return self.scores.summary().rename_axis("model")

    @cached_property
    def differences(self) -> pd.DataFrame:
        """The scores' own, of the mapped tasks."""
        found = self.scores.differences()
        return found[found["task"].isin([task.name for task in self.tasks])] if len(found) else found

    def key(self) -> list[str]:
        """Return the main score of each task in a sentence."""
        said = []
        for task in self.tasks:
            metric = MAIN[task.kind]
            value = self.summary[f"{task.name} {metric}"][self.model]
            doubt = "" if self.named else ", not known to be the maps' own model"
            words = f"{task.name}: {metric} of {number(float(value))} in cross-validation ({self.model}{doubt})"
            found = self.differences
            for one in [] if found.empty else found.to_dict("records"):
                if (one["model"], one["task"], one["metric"]) == (self.model, task.name, metric):
                    error = f" ± {number(one['fold_error'])}" if isfinite(one["fold_error"]) else ""
                    words += f", {one['difference']:+.3f}{error} against the best baseline, {one['baseline']}"
            said.append(f"{words}.")
        return said

    def tables(self) -> str:
        """Return folds, scores of all models, differences to the best baseline, and scores by fold and region."""
        about = self.scores.about
        told = facts(
            [
                ("Folds", about.get("cv", "")),
                ("Points", about.get("points")),
                ("Seeds", ", ".join(map(str, dict.fromkeys(self.scores.predictions["seed"])))),
                ("Data", "SIMULATED" if about.get("simulated") else "not marked as simulated"),
            ]
        )
        fits = table(
            self.summary[["folds", "seeds", "points", "seconds"]], "Models, and the mean time that a fold took", rows=self._marked
        )
        parts = [paragraph(self._who), told, fits, *map(self._of, self.tasks), self._ahead(), self._by("fold")]
        if self.scores.predictions["region"].notna().any():
            parts.append(self._by("region"))
        return "".join(parts)

    @property
    def _who(self) -> str:
        """Return what is known of the model that is shown."""
        if self.named:
            return f"{self.model} is the model that made the maps."
        return f"The scores shown are those of {self.model}. It is not known to be the model that made the maps."

    def _marked(self, model: Any) -> str:
        return f"{model} (baseline)" if model in self.scores.about.get("baselines", ()) else str(model)

    def _of(self, task: Task) -> str:
        """Return the scores of a task, with the best of each in bold."""
        shown = self.summary[[f"{task.name} {metric}" for metric in SHOWN[task.kind]]].set_axis([*SHOWN[task.kind]], axis=1)
        best = [
            (model, metric)
            for metric in shown
            for model in shown.index[shown[metric] == (shown[metric].min() if metric == "rmse" else shown[metric].max())]
        ]
        caption = (
            f"{task.name}: scores at points that a model has not seen, pooled over folds and averaged over seeds; the best in bold"
        )
        return table(shown, caption, bold=best, rows=self._marked)

    def _ahead(self) -> str:
        if self.differences.empty:
            return paragraph("There is no baseline beside another model, so no difference tells what the model adds.")
        columns = {
            "task": "task",
            "metric": "metric",
            "baseline": "baseline",
            "difference": "difference",
            "fold_error": "standard error over folds",
            "standard_error": "standard error over pairs",
            "pairs": "pairs of fold and seed",
        }
        shown = self.differences.set_index("model")[list(columns)].astype({"pairs": int})
        return table(shown, "Less the best baseline of each score: means of the differences in each fold", columns=columns)

    def _by(self, what: str) -> str:
        """Return the model's main scores by fold or region."""
        whole = self.scores.to_dataframe()
        mine = whole[(whole["model"] == self.model) & (whole["class"] == "")]
        mine = mine[(mine["region"] == "all") & (mine["fold"] != "pooled")] if what == "fold" else mine[mine["region"] != "all"]
        columns: dict[str, Any] = {}
        for task in self.tasks:
            one = mine[(mine["task"] == task.name) & (mine["metric"] == MAIN[task.kind])].groupby(what, sort=True)
            columns[f"{task.name} points"] = one["points"].first().astype("Int64")
            columns[f"{task.name} {MAIN[task.kind]}"] = one["value"].mean()
        return table(pd.DataFrame(columns).rename_axis(what), f"Scores of {self.model} by {what}, averaged over seeds")

    def quality(self) -> str:
        """Return the model's confusion matrix and reliability of each task of classes; nothing where there is none."""
        found = "".join(f"<h3>{escape(task.name)}</h3>{self._quality(task)}" for task in self.tasks if task.kind != "regression")
        return found if self.named or not found else paragraph(self._who) + found

    def _quality(self, task: Task) -> str:
        counts = self.scores.confusion(self.model, task.name).rename_axis("truth")
        words = f"{task.name}: points by their true class (rows) and the class that {self.model} predicted (columns)"
        matrix = table(counts, words, bold=[(name, name) for name in task.classes])
        found = self.scores.reliability(self.model, task.name)
        of = f"of {task.classes[1]}" if task.kind == "binary" else "of the predicted class"
        bins = [f"{low:.1f} to {high:.1f}" for low, high in zip(found["lower"], found["upper"], strict=True)]
        shown = found.set_index(pd.Index(bins, name="bin"))[["probability", "frequency", "count"]].astype({"count": int})
        names = {"probability": "mean probability", "frequency": "share that came true", "count": "points"}
        numbers = table(shown, f"{task.name}: reliability of the probability {of}", columns=names)
        return f'{matrix}<div class="beside">{_diagram(found, f"{task.name}, {self.model}: probability {of}")}{numbers}</div>'


def _diagram(curve: pd.DataFrame, words: str) -> str:
    """Draw how often predictions came true against their probability, as SVG."""
    known = curve[curve["count"] > 0]
    most = max(int(known["count"].max()), 1)
    values = known[["probability", "frequency", "count"]].to_numpy(dtype="float64")
    at = [(40 + 240 * p, 270 - 240 * f, 2.5 + 5 * (n / most) ** 0.5) for p, f, n in values]
    path = " ".join(f"{'L' if number else 'M'}{x:.1f} {y:.1f}" for number, (x, y, _) in enumerate(at))
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>' for x, y, r in at)
    ticks = "".join(
        f'<line x1="{40 + 240 * t}" y1="270" x2="{40 + 240 * t}" y2="274"/><text x="{40 + 240 * t}" y="286" text-anchor="middle">{t:g}</text>'
        f'<line x1="36" y1="{270 - 240 * t}" x2="40" y2="{270 - 240 * t}"/><text x="32" y="{274 - 240 * t}" text-anchor="end">{t:g}</text>'
        for t in (0, 0.25, 0.5, 0.75, 1)
    )
    label = escape(f"Reliability diagram of {words}; the table beside it has its numbers. Points are larger where there are more.")
    return (
        f'<svg class="plot" viewBox="0 0 300 306" role="img" aria-label="{label}"><path d="M40 30V270H280"/>'
        f'<path d="M40 270L280 30" stroke-dasharray="4 4"/>{ticks}<path class="drawn" d="{path}"/>{dots}'
        '<text x="160" y="302" text-anchor="middle">mean probability</text><text x="40" y="18">share that came true</text></svg>'
    )
