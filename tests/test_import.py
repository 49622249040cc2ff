"""What importing costs, and what the package shows."""

import subprocess
import sys

import pytest

import misoxr

HEAVY = (
    "torch",
    "timm",
    "rasterio",
    "rioxarray",
    "stackstac",
    "odc.stac",
    "sklearn",
    "matplotlib",
    "pytorch_lightning",
    "scipy.stats",
    "numba",
    "geopandas",
    "zarr",
    "dask.array",
    "requests",
)


def test_import_loads_little_beside_xarray():
    code = f"import sys, misoxr; print([name for name in {HEAVY!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_public_name_is_there():
    assert all(getattr(misoxr, name) is not None for name in misoxr.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Modell'"):
        misoxr.Modell  # noqa: B018


def test_names_that_are_imported_later_are_completed_and_reached():
    shown = "set(dir(misoxr)) >= {*misoxr.__all__, 'metrics', 'simulate'}"
    code = f"import misoxr; print({shown}, misoxr.simulate.landscape.__name__, misoxr.metrics.scores.__name__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "landscape", "scores"]


@pytest.mark.parametrize(
    "name", ["covariates", "metrics", "plot", "points", "sampling", "sensors", "simulate", "spec", "uncertainty"]
)
def test_modules_that_the_docs_call_by_name_are_reached_from_the_package(name):
    code = f"import misoxr; print(misoxr.{name}.__name__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"misoxr.{name}"


def test_missing_extras_are_named():
    from misoxr.errors import MissingDependencyError, require

    with pytest.raises(MissingDependencyError, match=r"pip install 'misoxr\[plot\]'"):
        require("no_such_module", "plot")
