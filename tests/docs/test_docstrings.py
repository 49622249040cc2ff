"""The examples of the reference's docstrings run: every public name has one. They state no output, for none is compared."""

import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(set(re.findall(r"^   (misoxr\.[\w.]+)$", (ROOT / "docs/reference/api.md").read_text(), re.MULTILINE)))
assert len(NAMES) > 50, "the names of api.md are not found"  # pytest would skip a test without names
WITHOUT = {"misoxr.model.published.load_backbone", "misoxr.simulate.Simulation"}
"""What needs weights that are not public; and what only ``simulate.write`` returns."""

SETUP = """
from dataclasses import replace
import geopandas as gpd, numpy as np, pandas as pd, xarray as xr
import misoxr
from misoxr import metrics, simulate
from misoxr.cube.scaling import Scaling
from misoxr.evaluation.scores import compared
from misoxr.mapping.ensemble import averaged
from misoxr.model.calibration import Calibration, fit_temperature, prevalence_bias
from misoxr.model.conformal import nonconformity
from misoxr.spec import PERMAFROST, Band, EncoderSpec, LocationSpec, Modality, Task
from misoxr.spec.standardisation import Standardisation
from misoxr.estimators.baselines import Baseline, baseline
from misoxr.cube.presets import spec_for

image = xr.open_zarr("cube.zarr", decode_coords="all", chunks={})
cube = image.drop_vars("spatial_ref").expand_dims(time=pd.to_datetime(["2019-07-01", "2023-08-01"])).assign_coords(spatial_ref=image.spatial_ref)
points = misoxr.read_points("pedons.gpkg", labels={"permafrost": "pf1m", "taxonomy": "tax_order"})
model = misoxr.load("model.safetensors")
spec, maps = model.spec, image.miso.predict(model)
area, catalog = gpd.read_file("tanana.gpkg"), "https://earth-search.aws.element84.com/v1"
x, y = image.x.values[:3], image.y.values[:3]
"""


def documented(name):
    module, found = name, None
    while found is None:
        module = module.rpartition(".")[0]
        try:
            found = import_module(module)
        except ModuleNotFoundError:
            continue
    for part in name.removeprefix(f"{module}.").split("."):
        found = getattr(found, part)
    return found.__doc__


@pytest.mark.filterwarnings("default::misoxr.errors.MisoxrWarning")
@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_docstring_runs(name, here, data):
    examples = doctest.DocTestParser().get_examples(documented(name))
    if name in WITHOUT:
        pytest.skip("it has no example") if not examples else pytest.fail("it has an example now")
    assert examples, "it has no example"
    assert not any(example.want for example in examples), "it states an output, which nothing compares"
    names = {}
    exec(data.here(SETUP), names)
    if any("dem.tif" in example.source for example in examples):
        names["image"] = names["image"].drop_vars(["elevation", "slope"])
    for example in examples:
        exec(data.here(example.source), names)
