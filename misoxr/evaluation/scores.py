"""Out-of-fold predictions of several models, and every score that follows from them."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any, Self

import numpy as np
import pandas as pd

from misoxr.errors import PointsError, gathered, note
from misoxr.evaluation.files import from_parquet, to_parquet
from misoxr.evaluation.profile import error_profile
from misoxr.evaluation.tables import arrays_of, fold_errors, in_words, mean_answers
from misoxr.metrics import class_scores, confusion, reliability, scores
from misoxr.model.files import put
from misoxr.spec import Task

__all__ = ["SHOWN", "Scores", "compared", "stacked"]

KEYS = ["model", "seed", "fold", "task"]
SHOWN = {
    "binary": ("roc_auc", "pr_auc", "recall", "macro_f1"),
    "multiclass": ("accuracy", "macro_recall", "macro_f1"),
    "regression": ("rmse", "r2"),
}
"""Metrics of :meth:`Scores.summary`."""


@dataclass(frozen=True)
class Scores:
    """What :func:`misoxr.evaluation.cross_validate.cross_validate` found: predictions at every test point, from which all scores follow.

    Attributes
    ----------
    predictions : DataFrame
        One row for each model, seed, fold, task and test point that has the task's label.

        - ``model``, ``seed``, ``fold``, ``task``: which answer it is.
        - ``point``: the point's index among those given. ``x``, ``y``: its place in the cube's CRS. ``region``: its region.
        - ``truth``: class code or value.
        - ``p0``, ``p1``, ...: the classes' probabilities. Binary tasks have that of the second class in ``p0``, and regressions their value.
        - ``seconds``: the time that the fold took.
    tasks : tuple of Task
        The tasks.
    about : mapping
        The folds, how far their test points lie from training points, the seeds, how many points, their CRS, misoxr's version, whether anything
        was simulated, and hashes of what the models are.

    Examples
    --------
    >>> scores = image.miso.cross_validate(["rf-11", "rf-coordinates"], points, cv=misoxr.BlockKFold(500, 3))
    >>> table = scores.to_dataframe()
    >>> difference = scores.compare("rf-11", "rf-coordinates", "macro_f1", "permafrost")
    >>> scores.save("scores.parquet")
    """

    predictions: pd.DataFrame
    tasks: tuple[Task, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        words = "SIMULATED; " if self.about.get("simulated") else ""
        told = f"Scores ({words}cv={self.about.get('cv')}, pooled over folds)\n{self.summary().to_string(float_format='%.3f')}"
        differences = self.differences()
        if differences.empty:
            return told
        return (
            f"{told}\nLess the best baseline: differences in each fold, averaged, with their standard error over folds (not those of the pooled scores)\n"
            f"{in_words(differences).to_string()}"
        )

    @property
    def models(self) -> list[str]:
        """Names of the models, in the order given."""
        return list(dict.fromkeys(self.predictions["model"]))

    def task(self, name: str | None = None) -> Task:
        """Return a task by its name; without one, the only task."""
        known = {task.name: task for task in self.tasks}
        if name is None and len(known) == 1:
            return self.tasks[0]
        if name not in known:
            raise PointsError(f"Name one of the tasks {sorted(known)}; {name!r} is none of them.")
        return known[name]

    def to_dataframe(self) -> pd.DataFrame:
        """Return all scores as a tidy table.

        Returns
        -------
        DataFrame
            ``model``, ``seed``, ``cv``, ``fold`` (a number, or "pooled" over all folds), ``region`` ("all", or a region, pooled),
            ``task``, ``metric``, ``class`` (empty for scores of the whole task), ``value``, and ``points``, the number of labelled
            test points. Metrics as in :func:`misoxr.metrics.scores` and :func:`misoxr.metrics.class_scores`.
        """
        return self._table.copy()

    @cached_property
    def _table(self) -> pd.DataFrame:
        rows = []
        for keys, part in self.predictions.groupby(KEYS, sort=False):
            rows.append(self._scored(part, dict(zip(KEYS, keys, strict=True)) | {"region": "all"}))
        for keys, part in self.predictions.groupby(["model", "seed", "task"], sort=False):
            named = dict(zip(("model", "seed", "task"), keys, strict=True)) | {"fold": "pooled"}
            rows.append(self._scored(part, named | {"region": "all"}))
            for region, inside in part.groupby("region", sort=True):
                rows.append(self._scored(inside, named | {"region": region}))
        table = pd.concat(rows, ignore_index=True)
        table.insert(2, "cv", str(self.about.get("cv", "")))
        return table[["model", "seed", "cv", "fold", "region", "task", "metric", "class", "value", "points"]]

    def _scored(self, part: pd.DataFrame, named: Mapping[str, Any]) -> pd.DataFrame:
        task = self.task(named["task"])
        truth, answers = arrays_of(part, task)
        records: list[Any] = [{"metric": name, "class": "", "value": value} for name, value in scores(task, truth, answers).items()]
        if task.kind != "regression":
            by_class = class_scores(task, truth, answers).reset_index().melt("class", var_name="metric")
            records += by_class.to_dict("records")
        return pd.DataFrame(records).assign(points=len(part), **named)

    def summary(self) -> pd.DataFrame:
        """Return the main scores, pooled over folds and averaged over seeds: a row for each model, with its
        numbers of folds, seeds and points, and the mean of the seconds that a fold took.
        """
        rows = []
        for model, part in self.predictions.groupby("model", sort=False):
            row: dict[str, Any] = {
                "folds": part["fold"].nunique(),
                "seeds": part["seed"].nunique(),
                "points": part["point"].nunique(),
                "seconds": part.groupby(["seed", "fold"])["seconds"].first().mean(),
            }
            for task in self.tasks:
                mine = part[part["task"] == task.name]
                each = [scores(task, *arrays_of(one, task)) for _, one in mine.groupby("seed", sort=False)]
                row |= {
                    f"{task.name} {metric}": float(np.mean([found[metric] for found in each]))
                    for metric in SHOWN[task.kind]
                    if each
                }
            rows.append(pd.Series(row, name=model))
        return pd.DataFrame(rows).astype({"folds": int, "seeds": int, "points": int})

    def errors(self, metric: str, task: str | None = None) -> pd.Series:
        """Return the standard error of a score over folds, by model; a fold's seeds are averaged first.

        Folds share training points, so it is somewhat too small. It is NaN where there is one fold.

        Parameters
        ----------
        metric : str
            Name of a score, such as "macro_f1".
        task : str, optional
            Name of a task; the only one by default.

        Raises
        ------
        PointsError
            If there is no such task or score.

        Examples
        --------
        >>> error = scores.errors("macro_f1", "taxonomy")["miso-nano"]
        """
        return fold_errors(self.whole(metric, task)).reindex(self.models)

    def averaged(self, each: int | None = None) -> Self:
        """Return the scores of seeds averaged: probabilities are the mean over a model's seeds, and their times add up.

        Parameters
        ----------
        each : int, optional
            So many seeds at a time, in their order; what is left over is dropped. The first average is called seed 0, the next 1, and
            so on, and each compares with one seed of another model. By default all seeds are averaged, and the seed is "mean".

        Raises
        ------
        PointsError
            If a model has fewer seeds.
        """
        whole = self.predictions.assign(seed="mean")
        if each is not None:
            numbers = []
            for model, mine in self.predictions.groupby("model", sort=False):
                at, seeds = pd.factorize(mine["seed"])
                if not 1 <= each <= len(seeds):
                    raise PointsError(f"{model!r} has {len(seeds)} seeds, so {each} cannot be averaged at a time.")
                numbers.append(pd.Series(at // each, mine.index)[at < len(seeds) // each * each])
            number = pd.concat(numbers)
            whole = self.predictions.loc[number.index].assign(seed=number).sort_index()
        return type(self)(mean_answers(whole), self.tasks, self.about)

    def with_mean(self, *models: str) -> Self:
        """Return these scores, and beside them those of the mean answer of several models, as ``predict([one, other])`` gives it.

        Nothing is fitted. The mean stands as a model of its own, such as "miso-nano + rf-neighbourhood", for the folds and seeds that all of
        the models have. It is no baseline, and its times add up.

        Parameters
        ----------
        *models : str
            Names of two models or more.

        Raises
        ------
        PointsError
            If there are fewer, a model is not among these, or they have no fold and seed in common.

        Examples
        --------
        >>> scores = image.miso.cross_validate(["rf-11", "rf-coordinates"], points, cv=misoxr.BlockKFold(500, 3))
        >>> scores.with_mean("rf-11", "rf-coordinates").models
        ['rf-11', 'rf-coordinates', 'rf-11 + rf-coordinates']
        """
        self._require(*models)
        if len(set(models)) < 2:
            raise PointsError(f"A mean is of two models or more; {list(models)} were named.")
        mine = self.predictions[self.predictions["model"].isin(models)]
        common = mine.groupby(["seed", "fold", "task", "point"])["model"].transform("nunique") == len(set(models))
        if not common.any():
            raise PointsError(f"{list(models)} have no fold and seed in common, so there is no mean of them.")
        mean = mean_answers(mine[common].assign(model=" + ".join(dict.fromkeys(models))))
        return type(self)(pd.concat([self.predictions, mean], ignore_index=True), self.tasks, self.about)

    def _require(self, *models: str) -> None:
        for model in models:
            if model not in self.models:
                raise PointsError(f"There is no model {model!r} among the scores; there are {self.models}.")

    def compare(self, one: str, other: str, metric: str, task: str | None = None) -> pd.Series:
        """Compare two models by a score, in pairs of the same fold and seed.

        Parameters
        ----------
        one, other : str
            Names of the models.
        metric : str
            Name of a score, such as "macro_f1".
        task : str, optional
            Name of a task; the only one by default.

        Returns
        -------
        Series
            Summary of the differences, one minus other (:func:`misoxr.evaluation.scores.compared`): the mean, and its standard errors over pairs and over folds.

        Raises
        ------
        PointsError
            If a model, task or score is not among these, or the models have no fold and seed in common.
        """
        self._require(one, other)
        whole = self.whole(metric, task)
        found = whole[whole["fold"] != "pooled"].set_index(["fold", "seed", "model"])["value"].unstack("model")
        if not found[[one, other]].notna().all(axis=1).any():
            seeds = [sorted(map(str, whole[whole["model"] == model]["seed"].unique())) for model in (one, other)]
            raise PointsError(
                f"{one!r} and {other!r} have no pair of fold and seed with a score {metric!r}; their seeds are {seeds[0]} and {seeds[1]}."
            )
        return compared(found[one] - found[other])

    def differences(self) -> pd.DataFrame:
        """Compare every model with the best baseline, metric by metric, in pairs of the same fold and seed.

        Returns
        -------
        DataFrame
            A row for each model that is no baseline, task and metric of :meth:`summary`: ``model``, ``task``, ``metric``, ``baseline`` (the one
            with the best pooled score in this metric), and ``difference``, ``standard_error``, ``fold_error`` and ``pairs`` as in
            :meth:`compare`. Empty where there is no baseline, or nothing else.

        Examples
        --------
        >>> scores = image.miso.cross_validate(["rf-11", "rf-neighbourhood"], points, cv=3)
        >>> table = scores.differences()  # empty here: there are baselines alone
        """
        baselines = [model for model in self.models if model in self.about.get("baselines", ())]
        others = [model for model in self.models if model not in baselines]
        scored, rows = self.summary().loc[baselines], []
        shown = [(task, metric) for task in self.tasks for metric in SHOWN[task.kind]] if baselines else []
        for task, metric in shown:
            column = scored[f"{task.name} {metric}"].dropna()
            if column.empty:
                continue
            best = str(column.idxmin() if metric == "rmse" else column.idxmax())
            for model in others:
                with suppress(PointsError):  # no fold and seed in common
                    found = self.compare(model, best, metric, task.name)
                    rows.append({"model": model, "task": task.name, "metric": metric, "baseline": best, **found.to_dict()})
        return pd.DataFrame(rows)

    def whole(self, metric: str | None = None, task: str | None = None) -> pd.DataFrame:
        """Return the part of :meth:`to_dataframe` about whole tasks and all points: of one task, and of one metric where it is named."""
        name, table = self.task(task).name, self._table
        mine = table[(table["task"] == name) & (table["class"] == "") & (table["region"] == "all")]
        if metric is None:
            return mine.copy()
        if metric not in set(mine["metric"]):
            raise PointsError(f"There is no score {metric!r} of {name!r}; there are {list(mine['metric'].unique())}.")
        return mine[mine["metric"] == metric].copy()

    def confusion(self, model: str, task: str | None = None) -> pd.DataFrame:
        """Return a model's confusion matrix, counts over all folds and seeds (:func:`misoxr.metrics.confusion`)."""
        return confusion(self.task(task), *self._of(model, task))

    def reliability(self, model: str, task: str | None = None, bins: int = 10) -> pd.DataFrame:
        """Return a model's reliability curve over all folds and seeds (:func:`misoxr.metrics.reliability`)."""
        return reliability(self.task(task), *self._of(model, task), bins)

    @gathered
    def error_profile(
        self,
        dissimilarity: pd.Series,
        metric: str | None = None,
        task: str | None = None,
        name: str | None = None,
        window: int | None = None,
    ) -> pd.DataFrame:
        """Score a model in moving windows over the dissimilarity of test points: what score to expect where a map is so unlike these.

        Parameters
        ----------
        dissimilarity : Series
            By point, of the same points and folds (:func:`misoxr.uncertainty.training_dissimilarity`). Points without one are left out. There
            is a warning if it was computed with another ``cv``.
        metric : {"error", "accuracy", "macro_f1", "macro_recall", "brier", "rmse", "mae", "r2"}, optional
            By default "error", the share of wrong classes, and "rmse" of a regression.
        task, name : str, optional
            Names of a task and a model; the only ones by default.
        window : int, optional
            Points of a window. By default a tenth of all, but at least 20 and at most half of them.

        Returns
        -------
        DataFrame
            A row for each of up to 50 windows: ``dissimilarity`` (the mean in it), ``score``, ``standard_error`` (as if its points were independent),
            ``points``, and ``fitted``, the scores made monotone by isotonic regression. Windows overlap, so neighbouring rows resemble each other.
            ``np.interp(values, profile.dissimilarity, profile.fitted)`` is the score to expect elsewhere.

        Raises
        ------
        PointsError
            If the model or task is not among these, points are not in the series, or there are fewer than 20.
        SpecError
            If metric or window is not valid.

        References
        ----------
        ``errorProfiles`` of the R package CAST 1.1, which fits shape-constrained splines instead.

        Examples
        --------
        >>> cv = misoxr.BlockKFold(500, 3)
        >>> scores, forest = image.miso.cross_validate("rf-11", points, cv=cv), image.miso.fit("rf-11", points)
        >>> dissimilarity = misoxr.uncertainty.training_dissimilarity(image, forest, points, cv=cv)
        >>> profile = scores.error_profile(dissimilarity, task="permafrost")
        """
        if name is None and len(self.models) != 1:
            raise PointsError(f"There are scores of {self.models}; name one, such as name={self.models[0]!r}.")
        found, chosen = self.task(task), name or self.models[0]
        self._require(chosen)
        theirs, own = getattr(dissimilarity, "attrs", {}).get("cv"), str(self.about.get("cv"))
        if theirs not in (None, own):
            note(f"The dissimilarity was computed with cv={theirs}, and the scores with cv={own}. Give both the same folds.")
        mine = self.predictions[(self.predictions["model"] == chosen) & (self.predictions["task"] == found.name)]
        table = error_profile(mine, found, arrays_of, dissimilarity, metric, window)
        table.attrs["model"] = chosen
        return table

    def _of(self, model: str, task: str | None) -> tuple[Any, Any]:
        if model not in self.models:
            raise PointsError(f"There is no model {model!r} among the scores; there are {self.models}.")
        mine = self.predictions[(self.predictions["model"] == model) & (self.predictions["task"] == self.task(task).name)]
        return arrays_of(mine, self.task(task))

    def _repr_html_(self) -> str:
        """Show the scores in a notebook: a table for each task, with errors, baselines and differences."""
        # Pictures know scores, and scores know no pictures: they are looked up by name, as pandas does.
        return str(import_module("misoxr.reprs.scores").scores(self))

    def plot(self, metric: str | None = None, task: str | None = None, ax: Any = None) -> Any:
        """Draw a score of every model, with its standard error over folds.

        Parameters
        ----------
        metric : str, optional
            Name of a score; macro F1 (regressions: r2) by default.
        task : str, optional
            Name of a task; the first by default.
        ax : matplotlib.axes.Axes, optional
            Where to draw.

        Returns
        -------
        matplotlib.axes.Axes
            A bar for each model, the mean of its pooled scores, and a dot for each fold and seed.

        Raises
        ------
        PointsError
            If there is no such task or metric.

        Examples
        --------
        >>> axes = scores.plot("macro_f1", "taxonomy")
        """
        return import_module("misoxr.plot.scores").comparison(self, metric, task, ax)

    def plot_reliability(self, models: str | Sequence[str] | None = None, task: str | None = None, bins: int = 10) -> Any:
        """Draw how often predictions came true against their probability, and how many there are of each.

        Parameters
        ----------
        models : str or sequence of str, optional
            Names of models; all by default.
        task : str, optional
            Name of a task with classes; the first by default.
        bins : int, optional
            Number of bins of equal width.

        Returns
        -------
        matplotlib.figure.Figure
            The legend has each model's expected calibration error.

        Raises
        ------
        PointsError
            If there is no such model or task, or the task is a regression.

        Examples
        --------
        >>> figure = scores.plot_reliability(["miso-nano", "rf-neighbourhood"], "permafrost")
        """
        return import_module("misoxr.plot.scores").reliability(self, models, task, bins)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write predictions and what they are about to a Parquet file, a path or fsspec URL."""
        put(path, to_parquet(self.predictions, self.tasks, self.about))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote.

        Raises
        ------
        StoreError
            If the file cannot be read, or is none of misoxr's scores.
        """
        return cls(*from_parquet(path))

    @classmethod
    def joined(cls, parts: Sequence[pd.DataFrame], tasks: Sequence[Task], about: Mapping[str, Any]) -> Self:
        """Put the predictions of folds together."""
        return cls(stacked(parts), tuple(tasks), about)


def compared(differences: pd.Series) -> pd.Series:
    """Summarise differences between two models.

    Parameters
    ----------
    differences : Series
        One for each fold and seed, the levels of its index; missing ones play no part.

    Returns
    -------
    Series
        ``difference``, their mean; ``standard_error`` of it over ``pairs`` of fold and seed, as if these were independent; and
        ``fold_error``, its standard error over folds, a fold's seeds averaged first (NaN for one fold). Pairs of one fold share its test
        and training points, so with several seeds the first is too small; folds share training points, so both are somewhat.

    Examples
    --------
    >>> summary = compared(pd.Series([0.1, 0.2], pd.MultiIndex.from_tuples([(0, 0), (1, 0)], names=["fold", "seed"])))
    """
    known = differences.dropna()
    folds = known.groupby("fold").mean()
    errors = {name: one.std(ddof=1) / len(one) ** 0.5 for name, one in (("standard_error", known), ("fold_error", folds))}
    return pd.Series({"difference": known.mean(), **errors, "pairs": len(known)})


def stacked(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Stack tables of the same columns; missing values stay missing."""
    return pd.DataFrame({name: np.concatenate([part[name].to_numpy() for part in parts]) for name in parts[0]})
