"""A report says what the objects say, belongs to its maps, reads no more than it draws, and asks nobody for anything."""

import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from PIL import Image as image_module

import misoxr
from misoxr.display import thinned
from misoxr.display.pictures import Ground, indices_of, legend_of
from misoxr.display.scored import mapped_model
from misoxr.errors import BandError, GridError, PointsError, SpecError, StoreError
from misoxr.evaluation.scores import Scores
from misoxr.grid.geobox import assign
from misoxr.io import origins
from misoxr.spec import PERMAFROST, Task

SOILS = Task(
    "soil",
    "multiclass",
    ("Typic Gelisol", "Inceptisol", "Entisol"),
    ("#4c86b8", "#5d3a1a", "#e6b655"),
    dim="kind",
    long_name="soil order",
)
SHAPE = (40, 60)


def box_of(shape, size=20.0, crs="EPSG:3338"):
    return GeoBox(shape, Affine(size, 0, 300_000, 0, -size, 1_500_000), crs)


def flags(task):
    return {
        "long_name": task.long_name,
        "flag_values": np.arange(len(task.classes), dtype="uint8"),
        "flag_meanings": " ".join(name.replace(" ", "_") for name in task.classes),
        "flag_colors": " ".join(task.colors),
        "_FillValue": np.uint8(255),
    }


def make_maps(shape=SHAPE, **attrs):
    """Maps of two tasks and a quantity, with what may stand beside them, in memory."""
    rng = np.random.default_rng(0)
    frozen, kinds = rng.random(shape).astype("float32"), rng.dirichlet(np.ones(3), shape).astype("float32").transpose(2, 0, 1)
    frozen[:4], kinds[:, :4] = np.nan, np.nan
    gone = np.isnan(frozen)
    maps = xr.Dataset(
        {
            "permafrost_probability": (("y", "x"), frozen, {"long_name": "probability of permafrost", "units": "1"}),
            "permafrost": (("y", "x"), np.where(gone, 255, frozen >= 0.5).astype("uint8"), flags(PERMAFROST)),
            "soil_probability": (("kind", "y", "x"), kinds, {"long_name": "probability of soil order"}),
            "soil": (("y", "x"), np.where(gone, 255, kinds.argmax(0)).astype("uint8"), flags(SOILS)),
            "soil_set": (("kind", "y", "x"), kinds > 0.2),
            "soil_set_size": (("y", "x"), np.where(gone, 255, (kinds > 0.2).sum(0)).astype("uint8"), {"_FillValue": np.uint8(255)}),
            "carbon": (("y", "x"), 10 * frozen, {"long_name": "carbon to 1 m", "units": "kg m-2"}),
            "carbon_upper": (("y", "x"), 12 * frozen, {"long_name": "upper end of carbon", "units": "kg m-2"}),
        }
    )
    provenance = json.dumps({"identity": "of the network", "model": {"name": "miso-nano"}, "training": {"seed": 7}})
    maps.attrs = {"title": "miso-nano: permafrost, soil", "model_sha256": "ab" * 32, "provenance": provenance, **attrs}
    return assign(maps, box_of(shape))


def make_applicability(shape=SHAPE):
    where = np.random.default_rng(1).choice(np.array([0, 1, 1, 255], "uint8"), shape)
    attrs = {
        "flag_values": np.array([0, 1], "uint8"),
        "flag_meanings": "outside inside",
        "_FillValue": np.uint8(255),
        "threshold": 0.52872,
    }
    found = xr.Dataset(
        {
            "applicable": (("y", "x"), where, attrs),
            "dissimilarity_index": (("y", "x"), np.where(where == 255, np.nan, where).astype("float32")),
        }
    )
    return assign(found, box_of(shape))


@cache
def make_scores(tasks=(PERMAFROST, SOILS), **about):
    rng, rows = np.random.default_rng(2), []
    for model in ("rf-11", "miso-nano"):
        for point in range(60):
            for task in tasks:
                answers = rng.dirichlet(np.ones(3)) if task is SOILS else [rng.random(), np.nan, np.nan]
                key = {"model": model, "seed": 0, "fold": point % 2, "task": task.name, "point": point}
                truth = (point * 7) % len(task.classes)
                rows.append(
                    {
                        **key,
                        "region": ("north", "south")[point % 4 // 2],
                        "truth": truth,
                        **{f"p{k}": a for k, a in enumerate(answers)},
                    }
                )
    predictions = pd.DataFrame(rows).assign(seconds=1.5)
    about = {"identities": {"rf-11": "of the forest", "miso-nano": "of the network"}, "baselines": ["rf-11"], **about}
    return Scores(predictions, tuple(tasks), {"cv": "ClusterKFold(10000, 2)", "points": 60, **about})


def make_areas(names=SOILS.classes):
    index = pd.Index(names, name="class")
    areas = pd.DataFrame(
        {"area": [211.582, 1168.61, 28.5], "area_se": [6.1, 3.7, 15.5], "area_lower": [199.6, 1161.3, -1.9]}, index
    )
    areas.attrs = {"level": 0.95, "unit": "km2"}
    accuracy = pd.DataFrame({"users": [0.88, 0.733, np.nan], "users_se": [0.038, 0.051, np.nan]}, index)
    accuracy.attrs = {"overall": 0.947, "overall_se": 0.009}
    return areas, accuracy


class Page(HTMLParser):
    """The tables of a page by their captions, as rows of text and of what is bold, and its tags and texts."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.bold, self.tags, self.text, self._open = {}, {}, [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self._rows, self._strong = [], []
        elif tag == "tr":
            self._rows.append([])
            self._strong.append([])
        elif tag in ("caption", "th", "td"):
            self._open, self._said, self._is_bold = tag, "", False
        elif tag == "strong":
            self._is_bold = True

    def handle_data(self, data):
        self.text.append(data)
        if self._open:
            self._said += data

    def handle_endtag(self, tag):
        if tag == "caption":
            self._caption = self._said
        elif tag in ("th", "td"):
            self._rows[-1].append(self._said)
            self._strong[-1].append(self._is_bold)
        elif tag == "table":
            self.tables[self._caption], self.bold[self._caption] = self._rows, self._strong
        if tag in ("caption", "th", "td"):
            self._open = None

    def table(self, words, of="tables"):
        """Return the table whose caption has some words, by row and column, or what is bold in it."""
        ((caption, rows),) = [(caption, rows) for caption, rows in self.tables.items() if words in caption]
        index, columns = [row[0] for row in rows[1:]], rows[0][1:]
        return pd.DataFrame([row[1:] for row in getattr(self, of)[caption][1:]], index=index, columns=columns)


def told(values, decimals):
    return [f"{value:,.{decimals}f}" if np.isfinite(value) else "–" for value in values]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A report with all that can be given, and its page."""
    path, (areas, accuracy) = tmp_path_factory.mktemp("report") / "report.html", make_areas()
    maps = make_maps()
    image = assign(xr.Dataset({name: maps.carbon.variable / 20 for name in ("red", "green", "blue")}), box_of(SHAPE))
    index = pd.MultiIndex.from_product([["soil"], [*SOILS.classes, "all"]], names=["task", "class"])
    coverage = pd.DataFrame({"points": [20, 20, 20, 60], "coverage": [0.91, 0.87, 0.9, 0.895], "size": 1.5}, index)
    tables = {"coverage": coverage, "areas": areas, "accuracy": accuracy}
    maps.miso.report(path, scores=make_scores(simulated=True), applicability=make_applicability(), image=image, **tables)
    return path, Page(path.read_text())


def test_its_tables_are_the_objects(full):
    page, scores = full[1], make_scores(simulated=True)
    summary, seen = scores.summary(), []
    for words, prefix in (("Models, and", ""), ("permafrost: scores", "permafrost "), ("soil: scores", "soil ")):
        shown = page.table(words)
        assert list(shown.index) == ["rf-11 (baseline)", "miso-nano"]
        for name in shown:
            values = summary[prefix + name]
            assert list(shown[name]) == ([f"{value:,}" for value in values] if values.dtype.kind == "i" else told(values, 3))
            seen.append(prefix + name)
            best = (values == values.max()) if prefix else [False, False]
            assert list(page.table(words, "bold")[name]) == list(best)
    assert seen == list(summary)
    differences, shown = scores.differences(), page.table("Less the best baseline")
    assert list(shown["difference"]) == told(differences["difference"], 3)
    assert list(shown["standard error over folds"]) == told(differences["fold_error"], 3)
    for task in (PERMAFROST, SOILS):
        counts = scores.confusion("miso-nano", task.name)
        shown = page.table(f"{task.name}: points by their true class")
        assert shown.replace(",", "", regex=True).astype(int).to_numpy().tolist() == counts.to_numpy().tolist()
        assert (list(shown.index), list(shown.columns)) == (list(task.classes), list(task.classes))
        curve, shown = scores.reliability("miso-nano", task.name), page.table(f"{task.name}: reliability")
        assert list(shown["share that came true"]) == told(curve["frequency"], 3)
        assert list(shown["points"]) == [f"{count:,}" for count in curve["count"]]
    by_region = scores.to_dataframe().query(
        "model == 'miso-nano' and region == 'north' and metric == 'macro_f1' and task == 'soil'"
    )["value"]
    assert page.table("by region").loc["north", "soil macro_f1"] == f"{by_region.mean():.3f}"


def test_its_areas_coverage_and_share_of_applicability_are_the_objects(full):
    page, (areas, accuracy) = full[1], make_areas()
    shown = page.table("soil: area, km2; intervals of 95%")
    assert list(shown.index) == list(SOILS.classes)
    for name, words in {"area": "area", "area_se": "area, standard error", "area_lower": "area, from"}.items():
        assert list(shown[words]) == told(areas[name], 0)
    assert list(page.table("soil: accuracy")["user's accuracy"]) == told(accuracy["users"], 3)
    assert "Overall accuracy: 0.947 ± 0.009 (standard error)." in page.text
    assert list(page.table("coverage of prediction sets")["coverage"]) == ["0.910", "0.870", "0.900", "0.895"]
    where = make_applicability().applicable.values
    outside, inside = int((where == 0).sum()), int((where == 1).sum())
    shown = page.table("Pixels with valid input")
    assert list(shown["pixels"]) == [f"{inside:,}", f"{outside:,}"]
    assert shown.loc["outside", "share of the map"] == f"{outside / (inside + outside):.4f}"
    assert any(f"{100 * outside / (inside + outside):.1f} % of the map lies outside" in words for words in page.text)
    assert "0.52872" in page.text


def test_it_asks_nobody_for_anything(full):
    path, page = full
    text = path.read_text()
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert attrs.get(name, "#").startswith(("#", "data:")), (tag, attrs)
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed", "video"}
    assert "url(" not in text
    assert "@import" not in text
    assert "https://" not in text
    assert len(text) < 1_000_000


def test_every_picture_has_a_text_a_legend_and_a_name(full):
    page = full[1]
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    names = [
        "red, green, blue",
        "permafrost",
        "permafrost_probability",
        "soil",
        "soil_probability",
        "soil_set_size",
        "carbon",
        "carbon_upper",
    ]
    assert [words for words in page.text if words in names] >= names[:1]
    assert len(pictures) == len(names) + 2
    assert all(len(attrs["alt"]) > 20 for attrs in pictures)
    counts = (make_maps().soil == 0).mean()
    (soil,) = [attrs["alt"] for attrs in pictures if attrs["alt"].startswith("Map of soil order:")]
    assert f"Typic_Gelisol {float(counts):.0%}" in soil
    assert "no data 10%" in soil
    assert {"Typic_Gelisol", "no data", "carbon to 1 m, kg m-2", "probability of permafrost"} <= set(page.text)


def test_the_model_of_the_maps_is_shown_and_baselines_are_marked(full, tmp_path):
    assert "miso-nano is the model that made the maps." in full[1].text
    maps = make_maps(provenance="{}")
    scores = make_scores((SOILS,))
    maps.miso.report(tmp_path / "other.html", scores=scores)
    text = Page((tmp_path / "other.html").read_text()).text
    words = "The scores shown are those of miso-nano. It is not known to be the model that made the maps."
    assert text.count(words) == 2  # with the scores, and with confusion and reliability
    assert any("(miso-nano, not known to be the maps' own model)" in one for one in text)
    maps.miso.report(tmp_path / "named.html", scores=scores, model="rf-11")
    assert Page((tmp_path / "named.html").read_text()).table("soil: points").to_numpy().astype(int).sum() == 60


def made_by(*parts):
    return make_maps(provenance=json.dumps({"models": parts} if len(parts) > 1 else parts[0]))


FOREST = {"identity": "of the forest", "model": {"name": "miso-nano"}, "training": {"estimator": "RandomForestClassifier()"}}
NETWORK = {"identity": "of the network", "model": {"name": "miso-nano"}, "training": {}}
CHANGED = {"identity": "of another network", "model": {"name": "miso-nano"}, "training": {}}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([FOREST], ("rf-11", True)),
        ([FOREST, FOREST], ("rf-11", True)),
        ([FOREST, NETWORK], ("miso-nano", False)),
        ([CHANGED], ("miso-nano", False)),
        ([FOREST | {"identity": "of another forest"}], ("miso-nano", False)),
        ([{key: value for key, value in NETWORK.items() if key != "identity"}], ("miso-nano", False)),
    ],
)
def test_the_identity_tells_which_model_made_the_maps(parts, expected):
    assert mapped_model(made_by(*parts), make_scores()) == expected


def test_scores_without_identities_or_with_the_same_one_twice_do_not_tell_the_model():
    found = make_scores()
    same = {"rf-11": "of the forest", "miso-nano": "of the forest"}
    before, twice = (replace(found, about=found.about | {"identities": one}) for one in (None, same))
    assert mapped_model(made_by(NETWORK), before) == ("miso-nano", False)
    assert mapped_model(made_by(FOREST), twice) == ("rf-11", False)


@pytest.mark.parametrize("where", ["maps", "scores", "nowhere"])
def test_what_is_simulated_is_said_on_top(where, tmp_path):
    maps = make_maps(**({"simulated": 1} if where == "maps" else {}))
    maps.miso.report(tmp_path / "report.html", scores=make_scores((PERMAFROST,), simulated=where == "scores"))
    assert ("SIMULATED." in Page((tmp_path / "report.html").read_text()).text) == (where != "nowhere")


def test_every_text_of_the_maps_is_escaped(tmp_path):
    evil = '<script>alert("1")</script>'
    maps = make_maps(title=evil, source=evil, comment=evil, provenance=json.dumps({"training": {evil: evil}}))
    maps["soil"].attrs |= {"flag_meanings": f"{evil} b c", "long_name": evil}
    maps["carbon"].attrs["units"] = evil
    maps = maps.assign_attrs({evil: evil}).rename(carbon_upper=f"{evil}_probability")
    areas = pd.DataFrame({"area": [1.0]}, index=pd.Index([evil], name=evil))
    areas.attrs = {"unit": evil, evil: evil}
    maps.miso.report(tmp_path / "report.html", areas=areas, title=f"{evil}$style")
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 10
    assert not [attrs for _, attrs in page.tags if set(attrs) & {"onerror", "onload"}]
    assert f"{evil}$style" in "".join(page.text)


def test_colours_are_colours(tmp_path):
    maps = make_maps()
    maps["soil"].attrs["flag_colors"] = "red;background:url(//x) #fff #000"
    with pytest.raises(BandError, match="colour of 'soil' cannot be read"):
        maps.miso.report(tmp_path / "report.html")
    maps["soil"].attrs["flag_colors"] = "#ffffff"
    with pytest.raises(BandError, match="1 flag_colors"):
        maps.miso.report(tmp_path / "report.html")


def other_areas():
    return make_areas(("Mollisol", "Inceptisol", "Entisol"))[0]


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"scores": make_scores((Task("drainage", "binary", ("dry", "wet")),))}, PointsError, "none of these is scored"),
        ({"scores": make_scores((Task("permafrost", "binary", ("no", "yes")),))}, PointsError, "of the classes"),
        ({"scores": make_scores(), "model": "rf-12"}, PointsError, "no model 'rf-12'"),
        ({"scores": pd.DataFrame()}, PointsError, "a DataFrame"),
        ({"model": "rf-11"}, SpecError, "names a model of scores="),
        ({"applicability": make_applicability((30, 60))}, GridError, "compute it on the maps' grid"),
        ({"applicability": make_applicability()[["dissimilarity_index"]]}, SpecError, "has no 'applicable'"),
        ({"areas": other_areas()}, SpecError, "and the class maps have"),
        ({"areas": {"soil": other_areas()}}, SpecError, "has the classes \\['Mollisol', 'Inceptisol', 'Entisol'\\], and its map has"),
        ({"accuracy": {"sail": other_areas()}}, SpecError, 'mean "soil"'),
        ({"coverage": 0.9}, SpecError, "a float"),
        ({"title": 5}, SpecError, "title is 5; give a text"),
        ({"pyramid": 5}, SpecError, "pyramid is a int"),
        ({"overwrite": "no"}, SpecError, "overwrite is 'no'; give True or False"),
        ({"image": assign(xr.Dataset({"red": (("y", "x"), np.zeros(SHAPE))}), box_of(SHAPE))}, BandError, "are missing"),
        ({"image": assign(xr.Dataset({b: (("y", "x"), np.zeros(SHAPE)) for b in ("red", "green", "blue")}), box_of(SHAPE, 20.0, "EPSG:32606"))}, GridError, "in their CRS"),
    ],
)  # fmt: skip
def test_what_does_not_belong_to_the_maps_is_refused_before_anything_is_computed(given, error, words, tmp_path, no_compute):
    lazy = make_maps().chunk({"y": 20, "x": 20})
    with no_compute(), pytest.raises(error, match=words):
        lazy.miso.report(tmp_path / "report.html", **given)
    assert not list(tmp_path.iterdir())


def test_classes_that_were_seen_on_the_ground_alone_are_told(tmp_path):
    areas, accuracy = make_areas(("Typic_Gelisol", "Inceptisol", "Histosol"))
    areas["pixels"] = [10, 20, 0]
    make_maps().miso.report(tmp_path / "report.html", areas=areas, accuracy=accuracy)
    page = Page((tmp_path / "report.html").read_text())
    assert list(page.table("soil: area").index) == list(areas.index)
    areas["pixels"] = [10, 20, 1]
    with pytest.raises(SpecError, match="has the rows"):
        make_maps().miso.report(tmp_path / "other.html", areas=areas)


def test_tables_by_task_and_by_region_are_taken_apart(tmp_path):
    index = [
        ("west", "soil", "Entisol"),
        ("east", "soil", "Entisol"),
        ("west", "permafrost", "absent"),
        ("west", "permafrost", "nodata"),
    ]
    areas = pd.DataFrame({"pixels": [3, 4, 5, 6]}, pd.MultiIndex.from_tuples(index, names=["region", "task", "class"]))
    areas.attrs = {"unit": "km2", "overall": {"west": 0.9, "east": 0.8}, "sites": {"west": 10, "east": 20}}
    make_maps().miso.report(tmp_path / "report.html", areas=areas)
    page = Page((tmp_path / "report.html").read_text())
    assert page.tables["soil: area, km2"] == [["region", "class", "pixels"], ["west", "Entisol", "3"], ["east", "Entisol", "4"]]
    assert page.tables["permafrost: area, km2"][1:] == [["west", "absent", "5"], ["west", "nodata", "6"]]
    assert page.tables["soil: by region"] == [["region", "overall", "sites"], ["west", "0.900", "10"], ["east", "0.800", "20"]]


def test_coverage_by_region_and_class_makes_a_table_of_each(tmp_path):
    rows = {
        ("permafrost", "all", "all"): 0.9,
        ("permafrost", "all", "absent"): 0.92,
        ("permafrost", "all", "present"): 0.81,
        ("permafrost", "north", "all"): 0.95,
        ("permafrost", "north", "present"): 0.96,
        ("permafrost", "none", "all"): 0.7,
        ("carbon", "all", "all"): 0.88,
        ("carbon", "north", "all"): 0.87,
    }
    index = pd.MultiIndex.from_tuples(rows, names=["task", "region", "class"])
    make_maps().miso.report(tmp_path / "report.html", coverage=pd.DataFrame({"coverage": list(rows.values())}, index))
    tables, what = Page((tmp_path / "report.html").read_text()).tables, "coverage of prediction sets by"
    found = {name: rows for name, rows in tables.items() if "coverage" in name}
    assert found == {
        f"permafrost: {what} class, in all regions": [
            ["class", "coverage"],
            ["all", "0.900"],
            ["absent", "0.920"],
            ["present", "0.810"],
        ],
        f"permafrost: {what} region, of all classes": [
            ["region", "coverage"],
            ["all", "0.900"],
            ["north", "0.950"],
            ["none", "0.700"],
        ],
        f"carbon: {what} region": [["region", "coverage"], ["all", "0.880"], ["north", "0.870"]],
    }


def test_applicability_is_given_once(tmp_path):
    maps = make_maps().assign(make_applicability().data_vars)
    with pytest.raises(SpecError, match="both in the maps and in applicability="):
        maps.miso.report(tmp_path / "report.html", applicability=make_applicability())
    maps.miso.report(tmp_path / "report.html")
    assert "Where do the scores hold?" in (tmp_path / "report.html").read_text()


def test_a_dataset_without_maps_is_refused(tmp_path):
    with pytest.raises(BandError, match="no map"):
        make_maps()[["soil_set"]].miso.report(tmp_path / "report.html")


def test_a_file_that_exists_is_replaced_only_on_request(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("mine")
    maps = make_maps()[["carbon"]]
    with pytest.raises(StoreError, match="overwrite=True"):
        maps.miso.report(path)
    assert path.read_text() == "mine"
    maps.miso.report(path, overwrite=True, title="Carbon of a valley")
    assert "<h1>Carbon of a valley</h1>" in path.read_text()
    with pytest.raises(StoreError, match="is a directory"):
        maps.miso.report(tmp_path, overwrite=True)
    maps.miso.report("memory://reports/report.html")
    with pytest.raises(StoreError, match="overwrite=True"):
        maps.miso.report("memory://reports/report.html")


# ---- large maps


def counting(shape, chunks, seconds=0.0):
    """A lazy class map and a list of the blocks that were computed of it."""
    computed = []

    def block(block_info=None):
        place = tuple(block_info[None]["chunk-location"])
        computed.append(place)
        time.sleep(seconds)
        return np.full(block_info[None]["chunk-shape"], sum(place) % 3, "uint8")

    sizes = tuple((chunks,) * (side // chunks) for side in shape)
    data = da.map_blocks(block, chunks=sizes, dtype="uint8", meta=np.empty((0, 0), "uint8"))
    maps = assign(xr.Dataset({"soil": (("y", "x"), data, flags(SOILS))}), box_of(shape))
    return maps.assign(applicable=xr.where(maps.soil == 255, 255, maps.soil > 0).astype("uint8")), computed


def test_a_large_map_is_thinned_and_each_block_read_once(tmp_path):
    maps, computed = counting((4000, 6000), 1000)
    path = tmp_path / "report.html"
    maps.miso.report(path)
    assert len(computed) == len(set(computed)) + 1  # the block that is timed
    assert "One pixel in 7 along each side is drawn." in path.read_text()
    shown = Page(path.read_text()).table("Pixels with valid input")["pixels"]
    inside = int((maps.soil > 0).sum())
    assert list(shown) == [f"{inside:,}", f"{4000 * 6000 - inside:,}"]
    assert path.stat().st_size < 300_000
    narrow = thinned.drawn(xr.Dataset({"a": (("y", "x"), np.zeros((6000, 5)))}), ["a"], 900)["a"]
    assert (narrow.array.shape, narrow.note) == ((858, 1), "One pixel in 7 along each side is drawn.")


def test_maps_stand_with_their_task():
    names = ["soil", "permafrost_probability", "soil_std", "applicable_1990", "applicable", "carbon", "carbon_lower", "excluded"]
    maps = xr.Dataset({name: (("y", "x"), np.zeros((2, 2))) for name in names})
    assert thinned.groups_of(maps) == {
        "soil": ["soil", "soil_std"],
        "permafrost_probability": ["permafrost_probability"],
        "applicable_1990": ["applicable_1990"],
        "carbon": ["carbon", "carbon_lower"],
        "": ["excluded", "applicable"],
    }


def test_tasks_whose_names_begin_alike_stand_apart():
    maps = make_maps()
    maps["soil_depth"], maps["soil_depth_std"], maps["soil_entropy"] = (maps.carbon,) * 3
    groups = thinned.groups_of(maps)
    assert groups["soil"] == ["soil", "soil_probability", "soil_set_size", "soil_entropy"]
    assert groups["soil_depth"] == ["soil_depth", "soil_depth_std"]
    assert list(groups) == ["permafrost", "soil", "carbon", "soil_depth"]
    assert thinned.groups_of(maps.drop_vars("soil_probability"))["soil"] == ["soil", "soil_set_size", "soil_entropy"]


def test_lazy_maps_that_take_long_are_refused_with_what_to_do(tmp_path, monkeypatch):
    maps, computed = counting((600, 600), 100, 0.05)
    monkeypatch.setattr(thinned, "PATIENCE", 0.5)
    with pytest.raises(StoreError, match=r"about 0\.\d minutes here.*36 blocks.*write them with maps.miso.to_zarr"):
        maps.miso.report(tmp_path / "report.html")
    assert len(computed) == 1
    maps.isel(y=slice(200), x=slice(200)).miso.report(tmp_path / "report.html")  # so few are not timed


def test_pictures_come_from_a_pyramid_without_reading_the_maps(tmp_path, monkeypatch):
    maps, _ = counting((2048, 2048), 512)
    maps = maps[["soil"]].assign(carbon=maps.soil.astype("float32").assign_attrs(units="kg m-2"))
    maps.assign_attrs(provenance_sha256="aa").miso.to_pyramid(tmp_path / "pyramid.zarr", levels=2, progress=False)
    read, get = [], origins.Named.__getitem__
    monkeypatch.setattr(origins.Named, "__getitem__", lambda self, key: read.append(self.store) or get(self, key))
    finest = misoxr.open_maps(tmp_path / "pyramid.zarr/0")
    finest.miso.report(tmp_path / "report.html", pyramid=tmp_path / "pyramid.zarr")
    assert {os.path.basename(store) for store in read} == {"1"}
    text = (tmp_path / "report.html").read_text()
    assert "Level 1 of a pyramid, with pixels of 40. One pixel in 2" in text
    with pytest.raises(GridError, match="give the pyramid that was made of these maps"):
        finest.isel(y=slice(100)).miso.report(tmp_path / "other.html", pyramid=tmp_path / "pyramid.zarr")
    with pytest.raises(StoreError, match="has the provenance aa, and the maps bb"):
        finest.assign_attrs(provenance_sha256="bb").miso.report(tmp_path / "other.html", pyramid=tmp_path / "pyramid.zarr")


def test_pictures_of_many_maps_are_smaller(tmp_path):
    noise = np.random.default_rng(0).random((900, 900)).astype("float32")
    maps = assign(xr.Dataset({f"v{k}": (("y", "x"), noise) for k in range(12)}), box_of((900, 900)))
    maps.miso.report(tmp_path / "report.html")
    assert 1e6 < (tmp_path / "report.html").stat().st_size < 10e6
    assert thinned.side_of(1) == 900
    assert thinned.side_of(40) ** 2 * 40 * 4 / 3 < 8e6


@pytest.mark.parametrize(
    ("crs", "size", "width"),
    [("EPSG:3338", 1000.0, 100e3), ("EPSG:4326", 0.01, 0.5 * 111e3), ("EPSG:2225", 1000.0, 100e3 * 0.3048006)],
)
def test_a_scale_bar_is_in_metres_in_any_crs(crs, size, width):
    top = 60.5 if crs == "EPSG:4326" else 2e6
    ground = Ground.of(GeoBox((100, 100), Affine(size, 0, 0, 0, -size, top), crs))
    assert ground.width == pytest.approx(width, rel=0.01)
    share, words = ground.scale()
    assert 0.1 < share <= 1 / 3
    assert share * ground.width == pytest.approx(float(words.split()[0]) * 1000)


def test_north_is_up_and_east_right():
    values = np.arange(6).reshape(2, 3)
    turned = Ground.of(GeoBox((2, 3), Affine(-20, 0, 60, 0, 20, 0), "EPSG:3338")).upright(values)
    assert turned.tolist() == values[::-1, ::-1].tolist()


# ---- in a browser

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"


def browse(profile, url, *options):
    command = [CHROMIUM, *QUIET.split(), f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND", *options, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def asked_for(log):
    """Return the hosts that a page's log names, but for those that the browser itself asks at every start."""
    hosts = set(re.findall(r'"url":"(?:https?|wss?)://([^/":]+)', log.read_text()))
    return {host for host in hosts if not host.endswith(".google.com")}


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")
def test_a_browser_shows_it_and_asks_for_nothing(full, tmp_path):
    path, page = full
    log, shot, other = tmp_path / "net.json", tmp_path / "page.png", tmp_path / "other.html"
    assert Page(browse(tmp_path / "one", path.as_uri(), "--dump-dom")).tables == page.tables
    browse(tmp_path / "two", path.as_uri(), f"--log-net-log={log}", f"--screenshot={shot}", "--window-size=900,1400")
    assert asked_for(log) == set()
    other.write_text('<img src="http://example.invalid/a.png">')
    browse(tmp_path / "three", other.as_uri(), f"--log-net-log={log}", f"--screenshot={shot.with_name('other.png')}")
    assert asked_for(log) == {"example.invalid"}  # the log would have told
    pixels = np.asarray(image_module.open(shot).convert("RGB"))
    assert pixels.shape == (1400, 900, 3)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100


def test_as_many_classes_are_drawn_as_a_picture_has_colours():
    def classes(count):
        flags = {"flag_values": np.arange(count, dtype="int16"), "flag_meanings": " ".join(f"c{at}" for at in range(count))}
        return xr.DataArray(np.arange(count, dtype="int16")[None], dims=("y", "x"), name="wrb", attrs=flags)

    most = classes(255)
    np.testing.assert_array_equal(indices_of(most, legend_of(most))[0], np.arange(255))
    with pytest.raises(BandError, match="'wrb' has 256 classes, and a picture has colours for 255"):
        legend_of(classes(256))
