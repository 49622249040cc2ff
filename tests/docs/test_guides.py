"""The code of every how-to guide runs, block after block.

Blocks under ``% not run: reason`` are left out: what needs a machine that the tests do not have.
"""

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


def test_every_guide_has_code_and_few_blocks_are_left_out():
    assert all(list(blocks(path)) for path in GUIDES)
    reasons = [reason for path in GUIDES for _, _, reason in blocks(path) if reason is not None]
    assert len(reasons) <= LEFT_OUT, reasons
    assert all(reasons)


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/**/*.md")), ids=lambda path: path.stem)
def test_python_blocks_outside_the_guides_are_python(path):
    for line, code, _ in blocks(path):
        compile("\n" * (line - 1) + code, str(path), "exec")
