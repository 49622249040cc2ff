"""What objects show of themselves: all that they should tell, nothing that runs or asks for anything, and no text that is HTML."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import misoxr
from misoxr.evaluation.scores import Scores
from misoxr.io.plan import Plan
from misoxr.model.calibration import Calibration
from misoxr.model.conformal import Conformal, TaskScores
from misoxr.reprs import cards
from misoxr.spec import COVARIATES, PERMAFROST, SENTINEL2, Task
from tests.conftest import make_cube, make_model, tiny_spec
from tests.display.test_report import make_maps, make_scores

HOSTILE = "<script>alert(1)</script>\"' onload=x <b>"
LARGEST = 20_000
VOID = {"meta", "br", "img", "path", "line", "rect", "circle", "polyline"}


class Card(HTMLParser):
    """The tags, texts and tables of a card; refuses what is not closed, or might run or ask for something."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.rows, self.said, self.folds = [], [], [], [], {}
        self.feed(text)
        assert self.open == [], "a tag is not closed"
        assert len(text.encode()) < LARGEST
        assert not {tag for tag, _ in self.tags} & {
            "script",
            "iframe",
            "object",
            "embed",
            "link",
            "img",
            "form",
            "base",
            "meta",
            "a",
        }
        for _, attrs in self.tags:
            assert not [name for name in attrs if name.startswith("on") or name in ("src", "href", "srcset")]
        assert not re.search(r"url\(|@import|https?:", text)
        self.text = " ".join("".join(self.said).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
        self.said.append(" ")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.said.append(" ")

    def handle_data(self, data):
        if self.open[-1:] == ["style"]:
            return
        self.said.append(data)
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, name):
        """Return the cells of the first row that has a name at its head, with ordinary blanks."""
        return next(
            [cell.replace("\xa0", " ").replace("\u2011", "-") for cell in row[1:]] for row in self.rows if row[0].strip() == name
        )


def card(what):
    return Card(what._repr_html_())


# ---- scores


@pytest.fixture(scope="module")
def scores():
    return make_scores(simulated=True)


def test_scores_are_a_table_for_each_task_with_errors(scores):
    found = card(scores)
    network = found.row("miso-nano")
    summary, error = scores.summary(), scores.errors("macro_f1", "permafrost")["miso-nano"]
    assert network[3] == f"{summary['permafrost macro_f1']['miso-nano']:.3f} ± {error:.3f}"
    assert network[0] == f"{summary['permafrost roc_auc']['miso-nano']:.3f}", "its folds have one class each, so there is no error"
    baseline = found.row("rf-11 baseline")
    assert len(baseline) == len(network) == 5
    assert "SIMULATED" in found.text
    assert "ClusterKFold(10000, 2): 2 folds, 60 test points (60 labels of permafrost, 60 labels of soil), 1 seed" in found.text


def test_the_best_is_bold_and_its_difference_to_the_best_baseline_is_told(scores):
    text = scores._repr_html_()
    summary = scores.summary()
    best = summary["soil accuracy"].max()
    assert re.search(rf"<b>{best:.3f}&nbsp;±&nbsp;\d\.\d{{3}}</b>", text)
    (one,) = scores.differences().query("task == 'permafrost' and metric == 'macro_f1'").to_dict("records")
    assert card(scores).row("miso-nano")[-1] == f"{one['difference']:+.3f} ± {one['fold_error']:.3f}"
    alone = Scores(scores.predictions[scores.predictions["model"] == "rf-11"], scores.tasks, scores.about)
    assert "less best baseline" not in alone._repr_html_()


def test_the_least_error_of_a_regression_is_the_best():
    carbon = Task("carbon", "regression", units="kg m-2")
    rows = [
        {
            "model": model,
            "seed": 0,
            "fold": point % 2,
            "task": "carbon",
            "point": point,
            "region": None,
            "truth": float(point),
            "p0": point + off,
        }
        for model, off in (("near", 0.1), ("far", 3.0))
        for point in range(12)
    ]
    found = Scores(pd.DataFrame(rows).assign(seconds=1.0), (carbon,))._repr_html_()
    assert "<b>0.100" in found
    assert "<b>3.000" not in found
    assert "carbon, kg m-2" in found


def test_no_number_breaks_and_long_names_keep_in_one_piece(scores):
    long = "miso-nano and rf-neighbourhood of all the seeds and of the members that there are, averaged"
    renamed = Scores(scores.predictions.replace({"model": {"miso-nano": long}}), scores.tasks, scores.about)._repr_html_()
    assert f'title="{long}"' in renamed
    assert ".misoxr table td{" in renamed
    assert "white-space:nowrap" in renamed
    assert not re.search(r"\d ± \d", renamed)


# ---- models


@pytest.fixture(scope="module")
def trained():
    """A model with all that a record may tell."""
    rng = np.random.default_rng(0)
    record = {
        "summary": "miso-nano learns permafrost and taxonomy from the labels of 240 points.",
        "training": [{"loss": 2.0}, {"loss": 1.5}, {"loss": 1.25}],
        "validation": [{"loss": 1.9, "accuracy": 0.5}, {"loss": 1.4, "accuracy": 0.7}, {"loss": 1.6, "accuracy": 0.6}],
        "best_epoch": 1,
        "points": 1240,
        "validation_points": 60,
        "seed": 3,
        "misoxr_version": "0.1",
        "teacher": {"estimators": [{"estimator": "VotingClassifier()"}], "pixels": 100},
        "simulated": 1,
    }
    errors = {name: TaskScores(rng.random(80), np.zeros(80, int)) for name in ("permafrost", "taxonomy")}
    conformal = Conformal(errors, about={"cv": "ClusterKFold(10000, 4)"})
    calibration = {"permafrost": Calibration(1.31), "taxonomy": Calibration(0.87)}
    return replace(make_model(tiny_spec()), record=record, calibration=calibration, conformal=conformal)


def test_a_model_tells_inputs_outputs_training_calibration_and_provenance(trained):
    found = card(trained)
    count = sum(parameter.numel() for parameter in trained.network.parameters())
    for words in (
        f"{count:,} parameters",
        "SIMULATED",
        "Inputs: 4 bands, pixels of 20 m",
        "aspect (degree) elevation (m)",
        "2 of 2 inputs as logarithms, whitened",
        "Windows of 16 pixels",
        "Training: 3 epochs",
        "learns permafrost and taxonomy from the labels of 240 points",
        trained.sha256,
        "Folds: ClusterKFold(10000, 4)",
        "down to 1 m",
    ):
        assert words in found.text, words
    assert found.row("points") == ["1,240"]
    assert found.row("best validation") == ["loss 1.400, accuracy 0.700"]
    assert found.row("teacher") == ["VotingClassifier()"]
    temperature, quantiles = (next(row for row in found.rows if row[0] == "permafrost" and len(row) == size) for size in (3, 6))
    assert temperature[1] == "1.310"
    assert quantiles[4] == f"{trained.conformal.tasks['permafrost'].all.quantile(0.9):.3g}"
    colours = re.findall(r'style="background:(#[0-9a-f]{6})"', trained._repr_html_())
    assert colours == [*PERMAFROST.colors, *trained.spec.task("taxonomy").colors]


def test_the_training_curve_is_drawn_small(trained):
    found = card(trained)
    lines = [attrs["points"].split() for tag, attrs in found.tags if tag == "polyline"]
    assert [len(line) for line in lines] == [3, 3]
    heights = [float(place.split(",")[1]) for place in lines[0]]
    assert heights == sorted(heights), "losses fall, so the line does"
    assert "kept: epoch 2" in found.text
    long = replace(trained, record={"training": [{"loss": 1 / (1 + epoch)} for epoch in range(4000)], "best_epoch": 3999})
    assert len(max((attrs["points"] for tag, attrs in card(long).tags if tag == "polyline"), key=len).split()) <= 121


def test_a_model_without_a_record_says_so(model):
    found = card(model)
    assert "The record has no losses" in found.text
    assert "not calibrated" in found.text
    assert "SIMULATED" not in found.text


def test_fitted_estimators_tell_what_they_are(spec):
    from sklearn.linear_model import LogisticRegression

    from misoxr.estimators.embedded import EmbeddedModel, Pair, embedding_spec
    from misoxr.estimators.pixel_model import PixelModel

    codes = np.arange(40) % 2
    estimators = {"permafrost": LogisticRegression().fit(np.random.default_rng(0).random((40, 4)), codes)}
    small = replace(spec, tasks=(PERMAFROST,))
    forest = PixelModel(small, estimators, record={"estimator": "LogisticRegression()", "points": 40, "simulated": 1})
    found = card(forest)
    for words in ("PixelModel", "LogisticRegression", "from the pixel's values", "as they are", "SIMULATED", "absent present"):
        assert words in found.text, words
    network = make_model(small)
    on_embedding = {"permafrost": LogisticRegression().fit(np.random.default_rng(0).random((40, small.width)), codes)}
    pair = Pair(network, PixelModel(embedding_spec(small), on_embedding, record={"points": 40}))
    found = card(EmbeddedModel.of([pair], {"estimator": "LogisticRegression()"}))
    assert "from 16 features of miso-nano" in found.text
    assert found.row("0")[1] == "40"


# ---- hostile texts


@pytest.mark.parametrize("place", ["record", "band", "task", "class", "color", "nested"])
def test_no_text_of_a_checkpoint_is_html(place, trained):
    spec, record = trained.spec, dict(trained.record)
    first, task = spec.modalities[0], spec.tasks[1]
    if place == "record":
        record |= {
            "summary": HOSTILE,
            HOSTILE: HOSTILE,
            "seed": HOSTILE,
            "points": HOSTILE,
            "best_epoch": HOSTILE,
            "teacher": {"estimators": [{"name": HOSTILE}]},
        }
        record |= {"training": [{"loss": HOSTILE}], "validation": HOSTILE, "misoxr_version": "x" * 10**6}
    elif place == "nested":
        deep = HOSTILE
        for _ in range(100):
            deep = {HOSTILE: [deep]}
        record["pretrained"] = deep
    elif place == "band":
        spec = replace(
            spec,
            modalities=(
                replace(first, bands=tuple(replace(band, name=f"{band.name}{HOSTILE}") for band in first.bands)),
                *spec.modalities[1:],
            ),
        )
    else:
        changed = {
            "task": {"long_name": HOSTILE, "units": HOSTILE},
            "class": {"classes": tuple(f"{number}{HOSTILE}" for number in range(7))},
            "color": {"colors": ('red"><script>', "url(http://x)", "#12345", "expression(1)", "#abc", "teal", "#A0b1C2")},
        }[place]
        spec = replace(spec, tasks=(spec.tasks[0], replace(task, **changed)))
    text = replace(trained, spec=spec, record=record)._repr_html_()
    Card(text)
    assert "<script" not in text
    if place == "color":
        assert re.findall(r'style="background:([^"]*)"', text)[2:] == ["#abc", "teal", "#A0b1C2"]


def test_no_text_of_a_dataset_or_of_scores_is_html(scores):
    cube = make_cube((20, 20), SENTINEL2[:3])
    hostile = cube.rename(red=HOSTILE).assign_attrs(source=HOSTILE)
    hostile["green"].attrs["units"] = HOSTILE
    maps = make_maps(source=HOSTILE, provenance_sha256="x").rename(soil=HOSTILE)
    about = {**scores.about, "cv": HOSTILE, "baselines": [HOSTILE]}
    renamed = Scores(scores.predictions.replace({"model": {"rf-11": HOSTILE}}), scores.tasks, about)
    for what in (hostile.miso, maps.miso, renamed, misoxr.Recipe(freeze=(HOSTILE,))):
        text = what._repr_html_()
        Card(text)
        assert "<script" not in text
        assert "&lt;script&gt;" in text


def test_texts_are_escaped_unless_they_are_html_made_here():
    assert cards.line("<b>", cards.bold("<i>")) == "<div>&lt;b&gt; <b>&lt;i&gt;</b></div>"
    assert cards.chip("x", "javascript:alert(1)") == '<span class="mx-chip">x</span>'
    assert len(cards.table(("a",), [[HOSTILE * 1000]] * 1000)) < LARGEST


# ---- plans, recipes and splitters


def test_a_plan_is_a_table():
    plan = Plan((2, 3), (64, 64), 40, 2_000_000, 7, 0.5, 3.0, 4_000_000, 5_000_000)
    found = card(plan)
    assert "6 blocks of 64 x 64 pixels" in found.text
    assert {row[0]: row[1] for row in found.rows}["time"].startswith("about 3.0 s")
    assert str(plan).splitlines() == list(plan.described().values())
    assert "timed=True" in card(Plan((1, 1), (64, 64), None, 10, 2)).text


def test_a_recipe_shows_what_is_no_default():
    recipe = misoxr.Recipe(max_epochs=3, noise=0.1)
    found = card(recipe)
    assert found.row("noise") == ["0.1", "default 0.03"]
    assert found.text.count("default ") == 4, "two changes, told at the top and among all"
    assert "<b>0.1</b>" in recipe._repr_html_()
    assert "All settings are the defaults" in card(misoxr.Recipe()).text


ZONES = gpd.GeoDataFrame({"name": ["west", "east"]}, geometry=gpd.GeoSeries.from_xy([0, 1], [0, 1]).buffer(0.5), crs="EPSG:3338")


@pytest.mark.parametrize(
    ("splitter", "words"),
    [
        (misoxr.KFold(3), "3 folds of points drawn at random"),
        (
            misoxr.BlockKFold(500, 4, buffer=100),
            "square blocks with a side of 500, about as many points in each. Training points nearer than 100",
        ),
        (misoxr.ClusterKFold(10_000), "5 folds of whole clusters: points of different folds lie more than 10000 apart"),
        (misoxr.LeaveOneRegionOut(ZONES), "One fold for each of 2 regions"),
        (misoxr.PredefinedFolds([([0], [1]), ([1], [0])]), "2 folds as they were given"),
        (misoxr.KNNDM(np.zeros((30, 2))), "as far from training points as 30 targets"),
    ],
)
def test_a_splitter_says_in_a_line_what_it_does(splitter, words):
    found = card(splitter)
    assert words in found.text
    assert found.text.startswith(type(splitter).__name__)


# ---- ds.miso


def test_an_image_tells_what_can_be_fitted_and_what_is_missing(no_compute):
    image = make_cube((96, 96), (*SENTINEL2, *COVARIATES[:8])).drop_vars("swir22").chunk(y=32, x=32)
    with no_compute():
        text, found = repr(image.miso), card(image.miso)
    assert text.startswith("<misoxr: image>\ngrid: 96 rows x 96 columns of 20 m, EPSG:3338")
    assert "imagery: red, green, blue, rededge071, rededge075, rededge078, nir, swir16; missing: swir22" in text
    assert "missing: summer_warmth_index, january_minimum_temperature" in text
    assert "miso-nano: can be fitted, without 1 band of imagery and 2 covariates" in text
    assert "miso-base: cannot be fitted: its windows are 256 x 256 pixels, and the dataset has 96 x 96" in text
    assert "lazy, in chunks of 32 x 32 pixels" in text
    assert "missing covariates: add(climate=misoxr.covariates.climate(…)) adds those of the climate\n" in text
    assert found.row("imagery")[1].split() == ["swir22"]
    assert "elevation (m)" in found.row("covariates")[0]
    assert ".cross_validate" in found.text


def test_a_grid_that_no_model_reads_is_told(no_compute):
    image = make_cube((96, 96), SENTINEL2)
    south = image.sortby("y")
    with no_compute():
        assert "miso-nano: cannot be fitted: The dataset is not north-up" in repr(south.miso)
        bare = repr(image.drop_vars("spatial_ref").miso)
        assert "grid: The dataset carries no CRS" in bare
        assert "verbs" not in bare
        assert "no raster" in repr(xr.Dataset().miso)
        strange = make_cube((96, 96), SENTINEL2[:1]).rename(red="ndvi")
        assert "none of its bands is here" in repr(strange.miso)
        assert "other variables: ndvi" in repr(strange.miso)


def test_times_decide_what_a_cube_is(no_compute):
    image = make_cube((96, 96), SENTINEL2[:3]).chunk(y=48)
    months = image.expand_dims(time=pd.to_datetime(["2019-07-01", "2019-08-01"]))
    years = image.expand_dims(time=pd.to_datetime(["2019-07-01", "2020-07-01"]))
    with no_compute():
        assert repr(months.miso).startswith("<misoxr: time cube>")
        assert "miso-nano: can be fitted once composite() has reduced the times" in repr(months.miso)
        assert "time: 2 times, 2019-07-01 to 2019-08-01" in repr(months.miso)
        assert repr(years.miso).startswith("<misoxr: yearly composites>")
        assert "composite" in card(months.miso).text


def test_maps_tell_their_tasks_and_verbs(model, spec, no_compute):
    with no_compute():
        maps = make_cube((40, 40), spec.bands).chunk(y=20).miso.predict(model, device="cpu")
        text, found = repr(maps.miso), card(maps.miso)
    assert text.startswith("<misoxr: maps>")
    assert "tasks: permafrost, taxonomy" in text
    assert "verbs: plot, explore, report, area, plan, to_zarr, to_cog, to_pyramid" in text
    assert "missing" not in text
    assert f"SHA-256 {model.sha256}" in found.text
    json.loads(maps.attrs["provenance"])
    assert "SIMULATED" in card(maps.assign_attrs(simulated=1).miso).text


# ---- in a browser


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no Chromium")
def test_a_browser_shows_every_card_in_the_colours_of_its_page(tmp_path, trained, scores):
    selenium = pytest.importorskip("selenium.webdriver")
    image = make_cube((96, 96), SENTINEL2)
    shown = [scores, trained, misoxr.Recipe(), misoxr.BlockKFold(500), image.miso, Plan((2, 3), (64, 64), 40, 10, 7)]
    page = tmp_path / "page.html"
    style = ":root{--jp-content-font-color0:rgb(1,2,3)} td,th{white-space:normal;text-align:right} body{width:500px}"
    page.write_text(f"<meta charset=utf-8><style>{style}</style>{''.join(one._repr_html_() for one in shown)}")
    options = selenium.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    browser = selenium.Chrome(options=options)
    try:
        browser.get(page.as_uri())
        sizes = browser.execute_script(
            "return [...document.querySelectorAll('.misoxr')].map(c => [c.scrollWidth, c.clientWidth, getComputedStyle(c).color])"
        )
        numbers = browser.execute_script(
            "return [...document.querySelectorAll('td.mx-n')].filter(c => c.clientHeight && c.getClientRects()[0].height > 30).length"
        )
        curve = browser.execute_script("return document.querySelector('svg').getBoundingClientRect().height")
        closed = browser.execute_script("return [...document.querySelectorAll('details')].filter(d => !d.open).length")
    finally:
        browser.quit()
    assert len(sizes) == len(shown)
    assert all(inner <= outer and color == "rgb(1, 2, 3)" for inner, outer, color in sizes), "wide tables scroll within the card"
    assert numbers == 0, "no number is on two lines"
    assert 100 < curve < 250
    assert closed >= 5
