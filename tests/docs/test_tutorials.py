"""The tutorials' notebooks are whole, without outputs, listed, and use public names; ``make tutorials`` executes them."""

import ast
import re
from importlib import import_module
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(ROOT.glob("docs/tutorials/*.ipynb"))
NAMES = ("cluster-and-resume", "field-season", "folds-and-scores", "imagery-to-map", "own-classes", "soil-carbon", "uncertainty")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request) -> nbformat.NotebookNode:
    return nbformat.read(request.param, 4)


def code(notebook) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")


def text(notebook) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_all_are_here():
    assert tuple(path.stem for path in NOTEBOOKS) == NAMES


def test_a_notebook_is_valid_and_holds_no_outputs(notebook):
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_a_notebook_asks_one_question_and_has_a_picture_for_the_gallery(notebook):
    titles = re.findall(r"(?m)^# (.*)$", text(notebook))
    assert len(titles) == 1
    assert titles[0].endswith("?")
    assert "## What next?" in text(notebook)
    assert sum("gallery" in cell.metadata.get("tags", []) for cell in notebook.cells) == 1


def test_a_notebook_that_simulates_says_so(notebook):
    if "simulate" in code(notebook):
        assert "SIMULATED" in notebook.cells[0].source


def test_links_of_a_notebook_lead_to_pages(notebook):
    links = re.findall(r"\]\(([^)#]+)", text(notebook))
    assert links
    assert [link for link in links if "://" not in link and not (ROOT / "docs/tutorials" / link).exists()] == []


@pytest.mark.parametrize("page", ["docs/index.md", "docs/tutorials/index.md"])
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_in_the_gallery_and_in_the_list(path, page):
    assert path.name.removesuffix(".ipynb") in (ROOT / page).read_text()


def test_a_notebook_uses_public_names_alone(notebook):
    """Names of misoxr that it imports, and those it takes from ``misoxr.…``, are public and exist."""
    tree = ast.parse(code(notebook))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "misoxr":
            module = import_module(node.module)
            assert {alias.name for alias in node.names} <= set(getattr(module, "__all__", ())) | {"simulate"}
        if isinstance(node, ast.Attribute) and (name := ast.unparse(node)).startswith("misoxr."):
            found = import_module("misoxr")
            for part in name.split(".")[1:]:
                assert not part.startswith("_"), name
                found = getattr(found, part)
