"""The verbs of ``ds.miso`` take what the functions behind them take, and tell as much."""

import inspect
import re
from dataclasses import fields

import pytest

from misoxr.accessor import MisoAccessor
from misoxr.covariates.joined import add_terrain
from misoxr.cube.composite import composite
from misoxr.cube.join import add
from misoxr.display.report import report
from misoxr.evaluation.cross_validate import cross_validate
from misoxr.explorer.notebook import explore
from misoxr.io.geotiff import to_cog
from misoxr.io.plan import plan
from misoxr.io.pyramid import to_pyramid
from misoxr.io.zarr import to_zarr
from misoxr.mapping.embed import embed
from misoxr.mapping.predict import predict
from misoxr.mapping.predict_at import predict_at
from misoxr.plot.figures import plot
from misoxr.sampling.mapped import area
from misoxr.spec import Pretraining, Recipe
from misoxr.training.fit import fit
from misoxr.training.pretrain import pretrain
from misoxr.training.settings import ARGUMENTS
from misoxr.uncertainty.applicability import applicability

FUNCTIONS = [
    add,
    add_terrain,
    applicability,
    area,
    composite,
    cross_validate,
    embed,
    explore,
    fit,
    plan,
    plot,
    predict,
    predict_at,
    pretrain,
    report,
    to_cog,
    to_pyramid,
    to_zarr,
]
VERBS = [name for name in vars(MisoAccessor) if not name.startswith("_")]


def arguments(function):
    """Return name, kind and default of every argument but the first."""
    return [(one.name, one.kind, one.default) for one in inspect.signature(function).parameters.values()][1:]


def described(docstring):
    """Return the names in the headers of a docstring's parameters, such as ``x, y : array, optional``."""
    section = re.split(r"\n\n.*\n-+\n", docstring.split("\nParameters\n----------\n")[1])[0]
    headers = [line.partition(" : ")[0] for line in section.splitlines() if line and not line.startswith(" ")]
    return {name.lstrip("*") for header in headers for name in header.split(", ")}


def test_every_verb_is_here():
    assert sorted(VERBS) == [function.__name__ for function in FUNCTIONS]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_verb_takes_the_arguments_of_its_function(function):
    assert arguments(getattr(MisoAccessor, function.__name__)) == arguments(function)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_verb_has_the_whole_docstring_of_its_function(function):
    told, whole = (inspect.getdoc(one) for one in (getattr(MisoAccessor, function.__name__), function))
    assert told.splitlines()[0] == whole.splitlines()[0]
    assert len(whole) - 900 < len(told) < len(whole)
    assert "\nds : " not in told
    assert "\nmaps : " not in told
    assert described(told) == {name for name, _, _ in arguments(function)}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_verb_has_an_example(function):
    assert "Examples\n--------\n>>> " in inspect.getdoc(getattr(MisoAccessor, function.__name__))


def test_misspelt_arguments_of_fit_are_compared_with_all_it_has():
    assert [name for name, kind, _ in arguments(fit) if kind is not inspect.Parameter.VAR_KEYWORD] == list(ARGUMENTS)


def test_the_settings_of_fit_are_named():
    told = inspect.getdoc(MisoAccessor.fit)
    assert [field.name for field in fields(Recipe) if f"``{field.name}``" not in told] == []


def test_the_settings_of_pretrain_are_named():
    told = inspect.getdoc(MisoAccessor.pretrain)
    assert [field.name for field in fields(Pretraining) if f"``{field.name}``" not in told] == []
