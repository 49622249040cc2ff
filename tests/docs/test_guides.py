"""The code of every how-to guide and of the README runs, block after block.

Blocks under ``<!-- not run: reason -->`` (in MyST, ``% not run: reason``) are left out: what needs a machine that the tests do not have.
"""

import re
import shutil
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDES = sorted(path for path in ROOT.glob("docs/how-to/*.md") if path.name != "index.md")
PAGES = [ROOT / "README.md", *GUIDES]
BLOCK = re.compile(r"(?:^(?:%|<!--) not run: (?P<reason>[^\n]*)\n)?^```python\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)
LEFT_OUT = 6
"""Blocks that are left out, at the most, in all."""

matplotlib.use("Agg")


def blocks(path):
    """Yield each block's first line, code, and the reason why it is not run."""
    text = path.read_text()
    for found in BLOCK.finditer(text):
        yield text[: found.start("code")].count("\n") + 1, found["code"], found["reason"]


@pytest.mark.filterwarnings("default::misoxr.errors.MisoxrWarning")
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_code_of_a_page_runs(path, here, data):
    if 'to_zarr("cube.zarr")' in path.read_text():  # it makes its own
        shutil.rmtree("cube.zarr")
    names = {"__name__": "__main__"}
    for line, code, reason in blocks(path):
        if reason is None:
            source = "\n" * (line - 1) + data.here(code)
            exec(compile(source, str(path), "exec"), names)
    client = names.get("client")
    if client is not None:
        client.close()


def test_every_guide_has_code_and_few_blocks_are_left_out():
    assert all(list(blocks(path)) for path in GUIDES)
    reasons = [reason for path in PAGES for _, _, reason in blocks(path) if reason is not None]
    assert len(reasons) <= LEFT_OUT, reasons
    assert all(reasons)


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/**/*.md")), ids=lambda path: path.stem)
def test_python_blocks_outside_the_guides_are_python(path):
    for line, code, _ in blocks(path):
        compile("\n" * (line - 1) + code, str(path), "exec")
