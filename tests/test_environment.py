"""What other tools read of the project agrees with pyproject.toml."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from misoxr import __version__

ROOT = Path(__file__).resolve().parents[1]
WHOLE = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = WHOLE["project"]
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


def test_what_builds_the_documentation_is_installed_by_those_who_only_build_it():
    """Read the Docs installs the extra ``all`` and the group ``docs``, without import-linter and what comes with it."""
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values(), WHOLE["dependency-groups"]["docs"]]
    installed = {re.match(r"[\w-]+", line)[0].replace("-", "_") for lines in groups for line in lines}
    needed = set()
    for path in [ROOT / "docs/conf.py", *ROOT.glob("docs/_ext/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in getattr(node, "names", [])]
            needed |= {name.split(".")[0] for name in names}
    assert needed - sys.stdlib_module_names <= installed


SERVICES = [
    ".github/workflows/checks.yml",
    *map(str, ROOT.glob(".github/ISSUE_TEMPLATE/*.yml")),
    ".readthedocs.yaml",
    ".pre-commit-config.yaml",
]


@pytest.mark.parametrize("path", [ROOT / name for name in SERVICES], ids=lambda path: path.name)
def test_what_services_read_is_yaml_and_calls_targets_that_exist(path):
    text = path.read_text()
    assert isinstance(yaml.safe_load(text), dict)
    targets = {name for listed in re.findall(r"target: \[(.*)]", text) for name in listed.split(", ")}
    targets |= set(re.findall(r"run: make ([\w-]+)", text))
    known = set(re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text()))
    assert targets <= known
