"""How the package is laid out: few modules beside the packages, each with words to steer by, and what is private stays inside."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

import misoxr

ROOT = Path(misoxr.__file__).parent
PACKAGES = sorted(path.parent for path in ROOT.glob("*/__init__.py"))
MODULES = sorted(ROOT.glob("**/*.py"))


def dotted(path):
    return ".".join(("misoxr", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def imports(path):
    """Yield the module and the name of every import of ours, also of those within functions and for types."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("misoxr"):
            yield from ((node.module, alias.name) for alias in node.names)


def test_at_most_6_modules_lie_beside_the_packages_and_14_in_one():
    assert len([path for path in ROOT.glob("*.py") if path.name != "__init__.py"]) <= 6
    assert {path.name: count for path in PACKAGES if (count := len(list(path.glob("*.py"))) - 1) > 14} == {}
    assert not list(ROOT.glob("*/*/*.py"))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_names_its_modules_in_its_docstring(package):
    words = ast.get_docstring(ast.parse((package / "__init__.py").read_text()))
    assert len(words.splitlines()) <= 7
    assert len(words.split("\n\n")[0]) <= 140
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    assert {name for name in modules if f"``{name}``" not in words} == set()


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_what_is_private_is_not_imported_from_elsewhere(path):
    own = dotted(path).split(".")[1:2]
    for module, name in imports(path):
        if module.count(".") and name != "__version__":
            assert not name.startswith("_"), f"{module}.{name}"
        if module.split(".")[1:2] not in ([], own, ["_version"]):
            source = import_module(module)
            offered = name in getattr(source, "__all__", ()) or not hasattr(source, name)
            is_module = (ROOT / Path(*module.split(".")[1:]) / f"{name}.py").exists()
            assert offered or is_module, f"{name} is not in __all__ of {module}"
