"""The code of every how-to guide runs, block after block.

Blocks under ``% not run: reason`` are left out: what needs a machine that the tests do not have.
"""

import re
from pathlib import Path

import pytest

from tests.docs.guides import blocks, run

ROOT = Path(__file__).resolve().parents[2]
GUIDES = sorted(path for path in ROOT.glob("docs/how-to/*.md") if path.name != "index.md")
LEFT_OUT = 4
"""Blocks that are left out, at the most, in all."""


@pytest.mark.filterwarnings("default::misoxr.errors.MisoxrWarning")
@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_the_code_of_a_guide_runs(path, here, data):
    run(path, data)


def test_every_python_block_of_a_guide_is_seen():
    """Whatever fences it stands in."""
    for path in GUIDES:
        assert len(list(blocks(path))) == len(re.findall(r"[`~:]{3,}\s*\{?[\w-]*\s*\{?py(thon|con)?\b", path.read_text())), (
            path.name
        )


def test_a_block_that_fails_is_told_by_its_line(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\none = 1\n```\n\n```python\none.two\n```\n")
    with pytest.raises(AttributeError) as error:
        run(page, data)
    assert (Path(str(error.traceback[-1].path)).name, error.traceback[-1].lineno) == ("page.md", 7)


def test_what_stands_for_something_else_here_occurs(data):
    pages = "".join(path.read_text() for path in [ROOT / "README.md", *GUIDES])
    assert [text for text in data.texts if text not in pages] == []


def test_every_guide_has_code_and_few_blocks_are_left_out():
    assert all(list(blocks(path)) for path in GUIDES)
    reasons = [reason for path in GUIDES for _, _, reason in blocks(path) if reason is not None]
    assert len(reasons) <= LEFT_OUT, reasons
    assert all(reasons)


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/**/*.md")), ids=lambda path: path.stem)
def test_python_blocks_outside_the_guides_are_python(path):
    for line, code, _ in blocks(path):
        compile("\n" * (line - 1) + code, str(path), "exec")
