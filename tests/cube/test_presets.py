"""What columns of labels tell of the tasks, and what is not assumed."""

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest

import misoxr
from misoxr.cube.presets import lacking, of_tasks, spec_for
from misoxr.errors import PointsError, SpecError
from misoxr.spec import PERMAFROST, Task
from tests.conftest import make_cube, tiny_spec


@pytest.fixture(scope="module")
def cube():
    return make_cube((64, 64), tiny_spec().bands)


@pytest.fixture(scope="module")
def points():
    count = 12
    return gpd.GeoDataFrame(
        {
            "soc": np.linspace(0.5, 20, count),
            "peat": [True, False] * 6,
            "drainage": ["dry", "moist", "wet "] * 4,
            "ice": ["low", "high"] * 6,
            "code": np.arange(count) % 3,
            "permafrost": [0, 1] * 6,
            "mixed": ["dry", 1.5, None] * 4,
            "nothing": [None] * count,
        },
        geometry=gpd.points_from_xy(np.arange(count), np.arange(count)),
        crs="EPSG:3338",
    )


def test_columns_tell_regressions_classes_and_truths(cube, points):
    told = spec_for("miso-nano", cube, points, tasks=["soc", "peat", "drainage", "permafrost"]).tasks
    drainage = Task("drainage", "multiclass", ("dry", "moist", "wet"))
    assert told == (Task("soc", "regression"), Task("peat", "binary", ("no", "yes")), drainage, PERMAFROST)
    own = Task("code", "regression", units="g kg-1")
    assert spec_for("miso-nano", cube, points, tasks=[own]).tasks == (own,)


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        (["sok"], r"the points have the columns \['soc', .* Did you mean \"soc\"\?"),
        (["code"], r"whole numbers, .*Task\('code', 'regression'\)\], or Task\('code', 'multiclass', classes\)"),
        (["ice"], r"'ice' are \['high', 'low'\]; say which of them"),
        (["mixed"], "tell no task"),
        (["nothing"], "such as None, tell no task"),
        ("soc", r"tasks is 'soc'; give a list, such as \['soc'\]"),
        ([], r"tasks is \[\]; give names of columns"),
        ([3], r"tasks is \[3\]; give names of columns"),
        (["geometry"], "the points have the columns"),
    ],
)
def test_what_columns_do_not_tell_is_not_assumed(cube, points, tasks, told):
    with pytest.raises(SpecError, match=told):
        spec_for("miso-nano", cube, points, tasks=tasks)


def test_a_specification_has_tasks_of_its_own():
    spec = tiny_spec()
    assert of_tasks(spec, None) is spec
    assert of_tasks(spec, ["permafrost"]).tasks == (PERMAFROST,)
    assert of_tasks(spec, [Task("soc", "regression")]).tasks == (Task("soc", "regression"),)
    with pytest.raises(SpecError, match="The model has no task 'soc'"):
        of_tasks(spec, ["soc"])


def test_a_cube_without_a_band_of_the_presets_gets_a_line_that_works(cube, points):
    own = cube[["red", "nir"]].rename(red="ndvi", nir="moisture")
    with pytest.raises(SpecError, match=r"None of the dataset's variables \['ndvi', 'moisture'\].*like=spec") as told:
        spec_for("miso-nano", own, points, ["soc"])
    line = str(told.value).partition("spec = ")[2].partition(". Then")[0]
    spec = eval(line, {"misoxr": misoxr})
    assert [band.name for band in spec.bands] == ["ndvi", "moisture"]
    assert spec.tasks == (Task("soc", "regression"),)
    assert spec.pixel_size == abs(float(own.x[1] - own.x[0]))
    counts = own.astype("uint16")
    with pytest.raises(SpecError, match=r"cov=\[misoxr\.spec\.Band\('ndvi', '1'\), "):
        spec_for("miso-nano", counts, points, ["soc"])
    with pytest.raises(SpecError, match=r"None of the dataset's variables \[\]"):
        spec_for("miso-nano", own.drop_vars(["ndvi", "moisture"]), points, ["soc"])


def test_bands_that_a_cube_lacks_are_named(cube):
    assert {"slope", "green"} <= set(lacking(cube))
    assert not {"red", "nir", "aspect"} & set(lacking(cube))
    assert "nir" not in lacking(cube.rename(nir="nir08"))


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (
            ["Wet", "wet", "Wet ", "dry"],
            r"several ways: \[\['Wet', 'wet'\]\]\. .*replace\(\{'wet': 'Wet'\}\)\. If they are classes, give .*Task",
        ),
        (["very wet", "very_wet ", "very wet", "dry"], r"replace\(\{'very_wet ': 'very wet'\}\)"),
        (
            ["wet", "moist", "dry", "nan"],
            r"3 labels of 'state' are the text 'nan'.*points\['state'\]\.replace\('nan', float\('nan'\)\)\. If",
        ),
        (["None", "Low", "High", None], "the text 'None', which seems to stand for missing.* If they are classes, give"),
        (["wet", "nan", "wet", "wet"], "the text 'nan'"),
        (["12.5", "3.5", "nan", "8.5"], "the text 'nan'"),
        (
            ["12,5", "3,25", "-1,0", "n.d."],
            r"9 of 12 labels of 'state' are texts such as '12,5', .*str\.replace\(',', '\.'\), errors='coerce'\)",
        ),
        (["35 cm", "4cm", "7.5 cm", "none"], r"texts such as '35 cm', which look like quantities.*str\.extract"),
        (["1.234,5", "1.334,5", "2.234,5", "3.234,5"], "look like quantities"),
        (["5 kg m-2", "6 kg m-2", "7 kg/m2", "8 t/ha"], "look like quantities"),
        (["5 %", "10%", "7,5 %", "bare"], "look like quantities"),
    ],
)
def test_texts_that_are_no_classes_are_told(cube, points, labels, told):
    with pytest.raises((PointsError, SpecError), match=told):
        spec_for("miso-nano", cube, points.assign(state=labels * 3), tasks=["state"])


@pytest.mark.parametrize(
    "texts", [["12,5", "3,25"], ["35 cm", "4cm"], ["1.234,5", "2.345,5"], ["1,234.5", "2,345.5"], ["7,5 %", "-8 %"]]
)
def test_the_line_that_makes_numbers_of_texts_works(cube, points, texts):
    points = points.assign(state=[*texts, "n.d."] * 4)
    with pytest.raises(PointsError, match="look like quantities") as told:
        spec_for("miso-nano", cube, points, tasks=["state"])
    exec(str(told.value).partition("numbers: ")[2].partition(". If they")[0], {"points": points, "pandas": pd})
    assert points["state"].notna().sum() == 8
    assert points["state"].iloc[0] == {"12,5": 12.5, "35 cm": 35, "7,5 %": 7.5}.get(texts[0], 1234.5)


@pytest.mark.parametrize(
    "labels",
    [
        ["A1", "A2", "B2t", "2Bw"],
        ["1a", "1b", "2a", "3t"],
        ["1 - dry", "2 - moist", "3 - wet", "none"],
        ["0-5 cm", "5-10 cm", "> 10 cm", "<5"],
        ["1.2.1", "1.2.2", "2.1.1", "3.1.1"],
        ["10YR 3/2", "7.5YR 4/4", "5Y 2/1", "N 3/"],
        ["A", "a1", "B", "C+"],
        ["A+", "A-", "A/B", "AB"],
        ["none", "low", "high", "na"],
        ["1m", "2m", "1g", "3t"],
    ],
)
def test_names_of_classes_with_digits_are_classes(cube, points, labels):
    (task,) = spec_for("miso-nano", cube, points.assign(state=labels * 3), tasks=["state"]).tasks
    assert set(task.classes) == set(labels)


def test_accents_written_in_two_ways_tell_one_class(cube, points):
    texts = ["\u00e9t\u00e9", "e\u0301te\u0301", "sec", "gel"]
    (task,) = spec_for("miso-nano", cube, points.assign(state=texts * 3), tasks=["state"]).tasks
    assert task.classes == ("gel", "sec", "\u00e9t\u00e9")


def test_a_few_labels_that_are_no_numbers_are_told(cube, points):
    censored = points.assign(soc=[*map(str, points.soc[:-1]), "<0.1"])
    with pytest.raises(SpecError, match=r"1 of 12 labels of 'soc' are no numbers, such as '<0.1', .*errors='coerce'"):
        spec_for("miso-nano", cube, censored, ["soc"])


def test_the_line_that_makes_classes_of_intervals_works(cube, points):
    values = np.linspace(0, 29, len(points))
    intervals = points.assign(depth=pd.cut(values, [0, 10, 20, 30]))
    with pytest.raises(SpecError, match=r"are intervals.*astype\('string'\)"):
        spec_for("miso-nano", cube, intervals, tasks=["depth"])
    words = intervals.assign(depth=intervals.depth.astype("string"))
    (task,) = spec_for("miso-nano", cube, words, tasks=["depth"]).tasks
    assert (task.kind, task.classes) == ("multiclass", tuple(words.depth.dropna().unique()))
    assert len(task.classes) == 3


def test_bands_along_a_dimension_are_told(cube, points):
    alone = cube[["red", "nir"]].to_array("band").to_dataset(name="bands")
    with pytest.raises(
        SpecError, match=r"preset's bands\. 'bands' has them along 'band'; .*ds\['bands'\]\.to_dataset\('band'\)\.$"
    ):
        spec_for("miso-nano", alone, points)
    spec_for("miso-nano", alone["bands"].to_dataset("band"), points)
