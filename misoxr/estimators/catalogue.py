"""Baselines with a name: forests, a logistic regression, their vote and boosted trees, for classes and for regressions."""

from typing import Any

from misoxr.errors import require

__all__ = ["FEATURES", "classifier_and_regressor"]

TREES = 253
"""Trees of the paper's forest."""

FEATURES = {"rf-11": ("pixel", "none"), "rf-11-balanced": ("pixel", "none"), "rf-coordinates": ("coordinates", "none")}
"""Features and scaling of a baseline; the others see the whitened neighbourhood."""


def classifier_and_regressor(name: str, seed: int) -> tuple[Any, Any]:
    """Return the classifier and the regressor of a baseline."""
    kind = name.partition("-")[0]
    balanced = None if name in ("rf-11", "rf-coordinates") else "balanced"
    if kind == "rf":
        return _forests(seed, balanced)
    if kind == "boosting":
        ensemble = require("sklearn.ensemble", "train")
        made = ensemble.HistGradientBoostingClassifier, ensemble.HistGradientBoostingRegressor
        return made[0](random_state=seed, class_weight=balanced, early_stopping=False), made[1](
            random_state=seed, early_stopping=False
        )
    return _standardised(*(_linear() if kind == "logistic" else _votes(seed)))


def _forests(seed: int, weight: str | None) -> tuple[Any, Any]:
    """The paper's Random Forest (arXiv 2506.17302)."""
    ensemble = require("sklearn.ensemble", "train")
    settings = {"n_estimators": TREES, "max_depth": 16, "min_samples_split": 5, "n_jobs": -1, "random_state": seed}
    return ensemble.RandomForestClassifier(**settings, class_weight=weight), ensemble.RandomForestRegressor(**settings)


def _linear() -> tuple[Any, Any]:
    linear = require("sklearn.linear_model", "train")
    return linear.LogisticRegression(C=0.02, class_weight="balanced", max_iter=1000), linear.Ridge(alpha=50.0)


def _votes(seed: int) -> tuple[Any, Any]:
    ensemble = require("sklearn.ensemble", "train")
    pairs = [list(zip(("forest", "linear"), both, strict=True)) for both in zip(_forests(seed, "balanced"), _linear(), strict=True)]
    return ensemble.VotingClassifier(pairs[0], voting="soft"), ensemble.VotingRegressor(pairs[1])


def _standardised(*made: Any) -> tuple[Any, ...]:
    """Put a scaler before estimators: a linear model weighs features by their units."""
    pipeline, scaler = require("sklearn.pipeline", "train").Pipeline, require("sklearn.preprocessing", "train").StandardScaler
    return tuple(pipeline([("scaler", scaler()), ("estimator", one)]) for one in made)
