"""Specifications: round trips, presets, and refusals."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from misoxr.errors import SpecError
from misoxr.spec import (
    ALASKA,
    COVARIATES,
    PERMAFROST,
    TAXONOMY,
    Band,
    EncoderSpec,
    LocationSpec,
    LossSpec,
    ModelSpec,
    Recipe,
    Task,
    WindowSpec,
)

PRESETS = ("miso-base", "miso-small", "miso-nano")


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("cov", [None, ()])
def test_presets_survive_json(name, cov):
    spec = ModelSpec.preset(name, cov=cov, pixel_size=20)
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@given(
    st.integers(3, 300).flatmap(lambda size: st.tuples(st.just(size), st.integers(2, 512), st.integers(1, size - 1))),
    st.sampled_from(["cosine", "linear", "gaussian"]),
    st.floats(0.1, 1e4),
    st.lists(st.text("abcdefgh", min_size=1), min_size=1, max_size=6, unique=True),
    st.booleans(),
)
def test_any_specification_survives_json(window, taper, pixel_size, bands, located):
    spec = replace(
        ModelSpec.preset(
            "miso-nano", sat=bands, cov=[Band("slope_", "degree", "circular")], tasks=[TAXONOMY], pixel_size=pixel_size
        ),
        windows=WindowSpec(*window, taper),
        location=ALASKA if located else None,
        losses=LossSpec((("visual", "sat", 0.5),), temperature=0.2),
    )
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_presets_take_the_papers_inputs_and_tasks():
    spec = ModelSpec.preset("miso-base")
    assert [len(modality.bands) for modality in spec.modalities] == [9, 10]
    assert [modality.required for modality in spec.modalities] == [True, False]
    assert spec.modalities[1].channels == 11  # aspect enters as sine and cosine
    assert spec.task("taxonomy").outputs == 7
    assert spec.task("permafrost").outputs == 1
    assert spec.losses.contrast == (("visual", "location", 0.1), ("sat", "cov", 0.1))
    assert ModelSpec.preset("miso-nano", sat=()).modalities[0].required
    assert ModelSpec.preset("miso-base", cov=()).losses.contrast == (("visual", "location", 0.1),)
    assert ModelSpec.preset("miso-nano").losses.contrast == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(colour="red"), "ModelSpec has no .*colour"),
        (lambda d: d["windows"].update(padding=3), "WindowSpec has no .*padding"),
        (lambda d: d["modalities"][0]["bands"][0].update(scale=1), "Band has no .*scale"),
        (lambda d: d.pop("tasks"), "ModelSpec cannot be built: .*tasks"),
        (lambda d: d.update(pixel_size="ten"), "ModelSpec cannot be built: pixel_size: A finite number is expected, not 'ten'"),
        (lambda d: d.update(query="cubic"), "Unknown query 'cubic'"),
        (lambda d: d.update(windows=3), "WindowSpec is built from a mapping, not from 3"),
        (lambda d: d.update(tasks=7), "list is expected, not 7"),
        (lambda d: d["location"].update(extent=[0, 1, 2]), "4 values are expected"),
        (lambda d: d["windows"].update(stride=1000), "leaves gaps"),
        (
            lambda d: d["windows"].update(turns="flips"),
            r"WindowSpec has no \['turns'\]; was it written by an older or newer misoxr",
        ),
        (lambda d: d.update(width=True), "width: A whole number is expected, not True"),
        (lambda d: d.update(width=2**40), "width: A whole number is expected"),
        (lambda d: d.update(pixel_size=float("nan")), "pixel_size: A finite number is expected, not nan"),
    ],
)
def test_a_dict_that_does_not_fit_is_refused(change, message):
    values = json.loads(json.dumps(ModelSpec.preset("miso-nano").to_dict()))
    change(values)
    with pytest.raises(SpecError, match=message):
        ModelSpec.from_dict(values)


def of_tasks(name, kind, other):
    classes = {"binary": ("no", "yes"), "multiclass": ("a", "b", "c")}.get(kind, ())
    return ModelSpec.preset("miso-nano", tasks=(Task(other, "regression"), Task(name, kind, classes)))


def test_tasks_may_have_names_that_no_map_makes_of_another():
    assert [task.name for task in of_tasks("soil", "multiclass", "soil_std").tasks] == ["soil_std", "soil"]
    assert [task.name for task in of_tasks("carbon", "regression", "carbon_entropy").tasks] == ["carbon_entropy", "carbon"]


def test_tasks_of_the_same_classes_may_have_one_dimension():
    tasks = TAXONOMY, replace(TAXONOMY, name="subsoil")
    assert ModelSpec.preset("miso-nano", tasks=tasks).tasks == tasks


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ModelSpec.preset("miso-huge"), r"Unknown preset 'miso-huge'; use one of \['miso-base'"),
        (lambda: ModelSpec.preset("rf-neighborhood"), r"the baselines \['rf-11', .*Did you mean .rf-neighbourhood"),
        (lambda: ModelSpec.preset("miso-nano", sat=["red", "red"]), "appears twice"),
        (lambda: ModelSpec.preset("miso-nano", sat=(), cov=()), "at least one modality"),
        (lambda: ModelSpec.preset("miso-nano", tasks=()), "at least one task"),
        (lambda: of_tasks("carbon", "regression", "carbon_std"), r"map of the task 'carbon' has 'carbon_std'.*another name"),
        (lambda: of_tasks("carbon", "regression", "carbon_location"), "has 'carbon_location'"),
        (lambda: of_tasks("ice", "binary", "ice_std"), "has 'ice_std'"),
        (lambda: of_tasks("ice", "binary", "ice_probability"), "has 'ice_probability'"),
        (lambda: of_tasks("ice", "binary", "ice_location_probability"), "has 'ice_location_probability'"),
        (lambda: of_tasks("soil", "multiclass", "soil_entropy"), "has 'soil_entropy'"),
        (lambda: of_tasks("soil", "multiclass", "soil_class"), "has 'soil_class'"),
        (
            lambda: ModelSpec.preset("miso-nano", tasks=(TAXONOMY, Task("relief", "multiclass", ("a", "b", "c"), dim="taxon"))),
            "tasks 'taxonomy' and 'relief' have different classes along one dimension, 'taxon'. Give one of them another dim=",
        ),
        (lambda: ModelSpec.preset("miso-nano", pixel_size=0), "must be positive"),
        (lambda: ModelSpec.preset("miso-nano").task("peat"), "no task 'peat'"),
        (lambda: WindowSpec(64, 64, 64), "no overlap"),
        (lambda: WindowSpec(1, 64, 1), "too small"),
        (lambda: WindowSpec(64, 64, 32, "hann"), "Unknown taper"),
        (lambda: WindowSpec(64, 64, 32, anchor="chunk"), "Unknown anchor"),
        (lambda: Band("aspect", "degree", "round"), "kind 'round'"),
        (lambda: Task("ice", "binary", ("a", "b", "c")), "needs two classes"),
        (lambda: Task("ice", "multiclass", ("a", "b")), "3 to 254"),
        (lambda: Task("ice", "ordinal"), "unknown kind"),
        (lambda: Task("ice", "multiclass", ("very wet", "very_wet", "dry")), "names a class twice: .*maps write blanks as '_'"),
        (lambda: Task("ice", "multiclass", ("a", "b", "c"), dim="x"), "The task's dim is 'x', which is a coordinate"),
        (lambda: Task("ice", "regression", loss="bce"), r"unknown loss 'bce'; use one of \['mse', 'mse_log1p'\]"),
        (lambda: replace(TAXONOMY, loss="ce"), r"unknown loss 'ce'; use one of \['cross_entropy', 'focal'\]"),
        (lambda: LossSpec(temperature=0), "must be positive"),
        (lambda: LossSpec((("sat", "cov", -1.0),)), "0 or more"),
        (lambda: LossSpec(focus=-1), "focal exponent"),
        (lambda: replace(ModelSpec.preset("miso-base"), location=None), r"names \['location'\]; the model's .*LossSpec"),
        (lambda: replace(PERMAFROST, colors=("#fff",)), "2 classes and 1 colors"),
        (lambda: LocationSpec("EPSG:3338", (5, 0, 1, 9)), "empty"),
    ],
)
def test_contradictions_are_refused(build, message):
    with pytest.raises(SpecError, match=message):
        build()


@pytest.mark.parametrize("name", ["x", "y", "spatial_ref", "time", "band", "point", "geometry"])
def test_a_task_has_no_name_of_a_coordinate(name):
    with pytest.raises(SpecError, match=f"The task's name is '{name}', which is a coordinate of maps or of points .*another name"):
        Task(name, "regression")


def test_names_are_no_tasks():
    with pytest.raises(SpecError, match=r"\['permafrost'\] is no task; give misoxr.spec.Task objects"):
        ModelSpec.preset("miso-nano", tasks=["permafrost"])


@pytest.mark.parametrize("kind", [list, np.array, pd.Index, pd.Series, pd.Categorical, tuple])
def test_whatever_stands_in_an_order_is_a_tuple(kind):
    task = Task("drainage", "multiclass", kind(["dry", "moist", "wet"]))
    assert task == Task("drainage", "multiclass", ("dry", "moist", "wet"))
    assert hash(task) == hash(Task("drainage", "multiclass", ("dry", "moist", "wet")))


def test_what_stands_in_other_values_is_a_tuple_too():
    assert LossSpec(contrast=[["visual", "location", 0.1]]) == LossSpec(contrast=(("visual", "location", 0.1),))
    encoder = EncoderSpec("resnet18", [np.array([3, 4])], stages=[np.int64(2)])
    assert (encoder.hidden, encoder.stages) == (((3, 4),), (2,))
    assert json.dumps([encoder.hidden, encoder.stages]) == "[[[3, 4]], [2]]"
    assert Task("a", "multiclass", xr.DataArray(["b", "c", "d"])).classes == ("b", "c", "d")
    assert LocationSpec("EPSG:3338", np.arange(4.0)).extent == (0.0, 1.0, 2.0, 3.0)
    assert ModelSpec.preset("miso-nano", cov={"slope": 1, "elevation": 2}).modalities[1].bands == tuple(
        band for name in ("slope", "elevation") for band in COVARIATES if band.name == name
    )


@pytest.mark.parametrize(
    "build",
    [
        lambda: Task("drainage", "multiclass", "abc"),
        lambda: Task("drainage", "multiclass", {"dry", "moist", "wet"}),
        lambda: Task("drainage", "multiclass", {"dry": 0, "moist": 1, "wet": 2}),
        lambda: Task("drainage", "multiclass", np.array("abc")),
        lambda: EncoderSpec("resnet18", ((3, 4),), stages=np.array(2)),
        lambda: Band("red", aliases="B04"),
        lambda: Recipe(freeze="sat"),
        lambda: ModelSpec.preset("miso-nano", sat="red"),
        lambda: ModelSpec.preset("miso-nano", tasks=PERMAFROST),
    ],
)
def test_what_stands_in_no_order_is_refused(build):
    with pytest.raises(SpecError, match="give (the values in their order|several values), as a tuple or a list"):
        build()
