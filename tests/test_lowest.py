"""The versions that `make test-lowest` installs are those that pyproject.toml declares."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
UNTESTED = {"torch"}
"""Too large to be installed twice."""


def declared() -> dict[str, Version]:
    """The minimum of each direct dependency, those of extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "all" for line in lines]
    found = {}
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        (minimum,) = [limit.version for limit in requirement.specifier if limit.operator == ">="]
        found[canonicalize_name(requirement.name)] = Version(minimum)
    return found


def test_the_lowest_versions_are_those_declared():
    lines = (ROOT / "tests" / "lowest.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert list(pinned) == sorted(pinned)
    assert {name: Version(version) for name, version in pinned.items()} == {
        name: version for name, version in declared().items() if name not in UNTESTED
    }
