"""The README's code runs: on small SIMULATED data, under the names that it gives."""

from pathlib import Path

import pytest

from tests.docs.guides import run

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(1800)  # it trains networks, maybe beside other tests on few cores
@pytest.mark.filterwarnings("default::misoxr.errors.MisoxrWarning")
def test_the_code_of_the_readme_runs(here, data):
    run(ROOT / "README.md", data)
