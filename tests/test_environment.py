"""What other tools read of the project agrees with pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from misoxr import __version__

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = {"dask": "dask-core", "torch": "pytorch", "matplotlib": "matplotlib-base"}
"""Names of packages on conda-forge, where they are others."""


def needs(lines):
    """Return the lowest version of each package."""
    return {found[1]: found[3] for line in lines if (found := re.fullmatch(r"([\w-]+)(\[.*])? ?>=([\d.]+)", line))}


def test_conda_users_get_what_pip_users_get():
    extras = PROJECT["optional-dependencies"]
    ours = needs([*PROJECT["dependencies"], *(line for name, lines in extras.items() if name != "all" for line in lines)])
    lines = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    theirs = needs(line for line in lines if isinstance(line, str))
    assert theirs.pop("python") == PROJECT["requires-python"].removeprefix(">=")
    assert theirs == {CONDA.get(name, name): version for name, version in ours.items()}


def test_the_citation_names_the_version_that_is_here():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__


@pytest.mark.parametrize("path", sorted([*ROOT.glob(".github/**/*.yml"), ROOT / ".readthedocs.yaml"]), ids=lambda path: path.name)
def test_what_services_read_is_yaml_and_calls_targets_that_exist(path):
    text = path.read_text()
    assert isinstance(yaml.safe_load(text), dict)
    targets = {name for listed in re.findall(r"target: \[(.*)]", text) for name in listed.split(", ")}
    targets |= set(re.findall(r"run: make ([\w-]+)", text))
    known = set(re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text()))
    assert targets <= known
