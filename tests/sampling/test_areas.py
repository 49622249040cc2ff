"""Areas and accuracies of a map from its reference: published figures, other strata, polygons, unequal pixels, and bad input."""

import dask.array as da
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import xarray as xr
from scipy.special import stdtrit

import misoxr
from misoxr.errors import BandError, GridError, MisoxrWarning, PointsError, SpecError
from misoxr.sampling import accuracy, areas
from tests.sampling.places import CLASSES, COUNTS, PIXELS, class_map, published, sites

ENDINGS = ("", "_se", "_lower", "_upper")


@pytest.fixture(scope="module")
def example():
    return published()


def check_published(table, names=CLASSES):
    assert list(table.index) == list(names)
    np.testing.assert_array_equal(table.area.round(), [21_158, 11_686, 285_770, 581_386])
    np.testing.assert_array_equal((1.96 * table.area_se).round(), [6_158, 3_756, 15_510, 16_282])
    np.testing.assert_array_equal(table.users.round(3), [0.880, 0.733, 0.927, 0.963])
    np.testing.assert_array_equal((1.96 * table.users_se).round(3), [0.074, 0.101, 0.040, 0.021])
    np.testing.assert_array_equal(table.producers.round(3), [0.749, 0.847, 0.935, 0.962])
    np.testing.assert_array_equal((1.96 * table.producers_se).round(3), [0.213, 0.254, 0.034, 0.018])
    assert round(table.attrs["overall"], 3) == 0.947
    assert round(1.96 * table.attrs["overall_se"], 3) == 0.018
    np.testing.assert_allclose(table.mapped_area, [18_000, 13_500, 288_000, 580_500])
    np.testing.assert_allclose(table.area_upper - table.area, 1.959964 * table.area_se, rtol=1e-5)
    assert table.attrs["sites"] == 640


def test_the_published_example_comes_out_from_its_counts():
    check_published(areas(matrix=COUNTS, pixels=PIXELS, pixel_area=900, unit="ha"), ("0", "1", "2", "3"))
    matrix = pd.DataFrame(COUNTS, CLASSES, CLASSES)
    by_name = dict(zip(CLASSES[::-1], PIXELS[::-1], strict=True))
    shuffled = matrix[list(CLASSES[::-1])]
    check_published(areas(matrix=shuffled, pixels=by_name, pixel_area=900, unit="ha"))


def test_the_published_example_comes_out_from_a_map(example, no_compute):
    array, reference = example
    with no_compute():
        lazy = array.chunk({"y": 128, "x": 200})
    table = areas(lazy, reference, unit="ha")
    check_published(table)
    assert table.attrs["estimator"].endswith("(Olofsson et al. 2014)")
    assert "assumed_random" not in table
    codes = reference.assign(cover=[CLASSES.index(name) for name in reference.cover])
    codes.stratum = [CLASSES.index(name) for name in codes.stratum]
    check_published(areas(array, codes, unit="ha"))
    plain = accuracy(array, reference)
    pd.testing.assert_frame_equal(plain, table[list(plain)])
    assert plain.attrs == {key: value for key, value in table.attrs.items() if key != "unit"}


def test_any_chunks_floats_and_other_crs_of_sites_give_the_same(example):
    array, reference = example
    first = areas(array, reference)
    floats = array.where(array < 255).astype("float32").assign_attrs(array.attrs)
    for other in (array.chunk({"y": 33, "x": 500}), floats.chunk({"y": 400, "x": 77})):
        pd.testing.assert_frame_equal(areas(other, reference.to_crs("EPSG:4326")), first, check_exact=True)


def test_each_chunk_is_read_once(example):
    array, reference = example
    read = []

    def chunk(block_info=None):
        read.append(tuple(block_info[None]["chunk-location"]))
        (top, bottom), (left, right) = block_info[None]["array-location"]
        return array.values[top:bottom, left:right]

    data = da.map_blocks(chunk, chunks=((250, 150), (300, 200)), dtype="uint8", meta=np.empty((0, 0), "uint8"))
    areas(array.copy(data=data), reference, by=halves(array))
    assert sorted(read) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def halves(array):
    """The left half, and a part of the right one."""
    west, east, south, north = (float(one) for one in (array.x[0], array.x[-1], array.y[-1], array.y[0]))
    middle = (west + east) / 2
    boxes = [shapely.box(west - 1e4, south - 1e4, middle, north + 1e4), shapely.box(middle, south - 1e4, east - 1e4, north + 1e4)]
    return gpd.GeoDataFrame(geometry=boxes, index=["left", "right"], crs=array.spatial_ref.attrs["crs_wkt"])


def landscape(crs="EPSG:3338", seed=5, **grid):
    """A map, its truth, and strata that are neither, of pixels some of which have no class."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, (120, 100), p=[0.5, 0.3, 0.2])
    mapped = np.where(rng.random(truth.shape) < 0.75, truth, rng.choice(3, truth.shape))
    mapped[:3, :50] = 255
    strata = np.where(np.arange(120)[:, None] < 40, 0, np.where(truth == 2, 1, 2))
    return class_map(mapped, ("dry", "moist", "wet"), name="drainage", crs=crs, **grid), truth, strata


def drawn(array, truth, strata, many=(60, 50, 80), seed=6):
    """A stratified sample of it."""
    rng, flat = np.random.default_rng(seed), np.where(array.values.ravel() == 255, -1, strata.ravel())
    at = [rng.choice(np.flatnonzero(flat == h), n, replace=False) for h, n in enumerate(many)]
    rows, columns = np.unravel_index(np.concatenate(at), array.shape)
    names, chances = np.repeat(["north", "wet ground", "others"], many), [n / (flat == h).sum() for h, n in enumerate(many)]
    labels = np.array(["dry", "moist", "wet"])[truth[rows, columns]]
    return sites(array, rows, columns, labels, names, np.repeat(chances, many)), rows, columns


def brute(pixel, above, below, stratum, sizes, total):
    """Stehman's ratio by loops over sites, sites counted by area, scaled to a known total."""
    weights = {h: sizes[h] / (stratum == h).sum() for h in sizes}
    scale = total / sum(weights[h] * a for h, a in zip(stratum, pixel, strict=True))
    y, x = (sum(scale * weights[h] * a * one for h, a, one in zip(stratum, pixel, which, strict=True)) for which in (above, below))
    spread = 0.0
    for h, weight in weights.items():
        mine = (pixel * (above - y / x * below))[stratum == h]
        spread += (scale * weight) ** 2 * len(mine) * mine.var(ddof=1)
    return y / x, np.sqrt(spread) / x


@pytest.mark.parametrize(
    ("crs", "grid"), [("EPSG:3338", {}), ("EPSG:4326", {"pixel": 0.1, "height": 0.2, "origin": (-160.0, 72.0)})]
)
def test_strata_that_are_not_the_classes_are_as_by_hand(crs, grid):
    array, truth, strata = landscape(crs, **grid)
    reference, rows, columns = drawn(array, truth, strata)
    table = areas(array, reference, unit="m2")
    assert table.attrs["estimator"].endswith("(Stehman 2014)")
    pixel = np.full(len(rows), 900.0) if crs == "EPSG:3338" else np.cos(np.deg2rad(array.y.values[rows]))
    whole = table.mapped_area.sum()
    stratum, mapped, seen = reference.stratum.to_numpy(), array.values[rows, columns], truth[rows, columns]
    sizes = {h: (stratum == h).sum() / reference.inclusion_probability[stratum == h].iloc[0] for h in set(stratum)}
    for code, name in enumerate(("dry", "moist", "wet")):
        right = (mapped == code) & (seen == code)
        for column, above, below in (
            ("area", seen == code, seen >= 0),
            ("users", right, mapped == code),
            ("producers", right, seen == code),
        ):
            share, error = brute(pixel, above.astype(float), below.astype(float), stratum, sizes, whole)
            by = whole if column == "area" else 1.0
            np.testing.assert_allclose(
                table.loc[name, [column, f"{column}_se"]], [share * by, error * by], rtol=2e-3 if grid else 1e-9
            )
    assert table.area.sum() == pytest.approx(whole)


def test_strata_that_are_the_classes_under_other_names_give_the_same(example):
    """Stehman's estimators are Olofsson's there."""
    array, reference = example
    other = reference.assign(stratum=["stratum " + name for name in reference.stratum])
    found, expected = areas(array, other, unit="ha"), areas(array, reference, unit="ha")
    check_published(found)
    assert found.attrs["estimator"] != expected.attrs["estimator"]
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.filterwarnings("ignore:Regions overlap:misoxr.errors.MisoxrWarning")
def test_areas_by_polygons_are_shares_of_what_the_map_holds_there():
    array, truth, strata = landscape()
    reference, rows, columns = drawn(array, truth, strata)
    by = pd.concat(
        [halves(array), gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], index=["far"], crs=array.spatial_ref.attrs["crs_wkt"])]
    )
    west, south, _, north = by.geometry["right"].bounds
    by.loc["right", "geometry"] = shapely.box(west, south, float(array.x[79]) + 1, north)
    table = areas(array, reference, by=by, unit="ha")
    assert list(table.index.unique("region")) == ["left", "right", "far", "none"]
    inside, valid = columns < 50, array.values < 255
    stratum, seen = reference.stratum.to_numpy(), truth[rows, columns]
    sizes = {h: (stratum == h).sum() / reference.inclusion_probability[stratum == h].iloc[0] for h in set(stratum)}
    here = valid[:, :50].sum() * 0.09
    share, error = brute(
        np.ones(len(rows)), ((seen == 1) & inside).astype(float), inside.astype(float), stratum, sizes, valid.sum()
    )
    np.testing.assert_allclose(table.loc[("left", "moist"), ["area", "area_se"]], [here * share, here * error])
    assert table.loc["left"].area.sum() == pytest.approx(here)
    assert table.loc["left"].pixels.sum() == valid[:, :50].sum()
    assert table.attrs["sites"] == {
        "left": inside.sum(),
        "right": ((columns >= 50) & (columns < 80)).sum(),
        "far": 0,
        "none": (columns >= 80).sum(),
    }
    assert table.loc["far"].drop(columns=["pixels", "mapped_area"]).isna().all(axis=None)
    assert np.isnan(table.attrs["overall"]["far"])
    mapped = array.values[rows, columns]
    expected = brute(
        np.ones(len(rows)), ((mapped == seen) & inside).astype(float), inside.astype(float), stratum, sizes, valid.sum()
    )
    assert (table.attrs["overall"]["left"], table.attrs["overall_se"]["left"]) == pytest.approx(expected)


def test_sites_that_were_not_drawn_are_refused_or_said_to_be_assumed(example):
    array, reference = example
    plain = reference.drop(columns=["stratum", "inclusion_probability"])
    with pytest.raises(PointsError, match=r"no probability sample.*roads are not, pass assume_random=True"):
        areas(array, plain)
    with pytest.raises(PointsError, match="no probability sample"):
        areas(array, reference.drop(columns="stratum"))
    with pytest.warns(MisoxrWarning, match="taken to be drawn at random, as assume_random=True says"):
        table = areas(array, plain, assume_random=True, unit="ha")
    check_published(table)  # the classes are the strata afterwards
    assert table.assumed_random.all()
    assert table.attrs["assumption"].startswith("ASSUMED")
    assert accuracy_assumed(array, plain).assumed_random.all()
    with pytest.raises(SpecError, match=r"tells how it was drawn, in \['stratum', 'inclusion_probability'\]"):
        areas(array, reference, assume_random=True)


def accuracy_assumed(array, plain):
    with pytest.warns(MisoxrWarning, match="assume_random"):
        return accuracy(array, plain, assume_random=True)


def test_a_class_that_the_map_lacks_gets_an_area(example):
    array, reference = example
    labels = reference.cover.where(reference.index % 40 != 3, "burnt ground")
    with pytest.warns(MisoxrWarning, match=r"classes that the map lacks: \['burnt_ground'\]"):
        table = areas(array, reference.assign(cover=labels), unit="ha")
    row = table.loc["burnt_ground"]
    assert (row.pixels, row.mapped_area, row.producers) == (0, 0, 0)
    assert row.area > 2 * row.area_se > 0
    assert np.isnan(row.users)
    assert table.area.sum() == pytest.approx(900_000)


def test_sites_without_a_label_are_left_out_with_a_word(example):
    array, reference = example
    labels = reference.cover.where(reference.index % 10 != 3, None)
    with pytest.warns(MisoxrWarning, match="64 of 640 sites have no label in 'cover' and are left out"):
        table = areas(array, reference.assign(cover=labels), unit="ha")
    assert table.attrs["sites"] == 576
    assert table.area.sum() == pytest.approx(900_000)
    dropped = reference[reference.index % 10 != 3]
    with pytest.raises(
        PointsError, match=r"The stratum 'deforestation' holds 3,5\d\d pixels.*and the map 4,000.*keep sites without a label"
    ):
        areas(array, dropped)


def test_strata_with_one_site_have_areas_and_no_errors(example):
    array, reference = example
    one = reference[(reference.stratum != "gain") | (reference.index == 80)].copy()
    one.loc[one.stratum == "gain", "inclusion_probability"] = 1 / 3000
    with pytest.warns(MisoxrWarning, match="1 of 4 strata have one site only"):
        table = areas(array, one)
    assert table.area.notna().all()
    assert table[["area_se", "area_lower", "area_upper"]].isna().all(axis=None)
    assert np.isnan(table.attrs["overall_se"])


BAD = {
    "no site in a class": (lambda r: r[r.stratum != "gain"], r"Classes of the map have no site: gain \(3,000 pixels\)"),
    "no label in a stratum": (
        lambda r: r.assign(cover=r.cover.where(r.stratum != "gain", None)),
        r"Strata have no site with a label in 'cover': \['gain'\]",
    ),
    "outside": (lambda r: r.set_geometry(r.translate(2e5)), r"sites lie outside the map, such as 0; it covers"),
    "probability 0": (lambda r: r.assign(inclusion_probability=0.0), r"'inclusion_probability' of 640 sites is not above 0"),
    "probability 2": (lambda r: r.assign(inclusion_probability=2), "at most 1, such as 2"),
    "probability missing": (lambda r: r.assign(inclusion_probability=None), "of 640 sites is not above 0"),
    "uneven": (
        lambda r: r.assign(inclusion_probability=r.inclusion_probability * np.where(r.index % 2, 1, 1.1)),
        "have other probabilities",
    ),
    "stratum missing": (lambda r: r.assign(stratum=None), "640 sites have no 'stratum'"),
    "other names": (
        lambda r: r.assign(cover="Wald"),
        r"Labels of the reference are \['Wald'\], and the map 'cover' has the classes",
    ),
    "other codes": (lambda r: r.assign(cover=np.arange(640) % 4 + 1), r"Labels of the reference are \['4'\]"),
    "names and codes": (lambda r: r.assign(cover=["gain", 2] * 320), r"names, such as \['gain'\], and codes, such as \['2'\]"),
    "no label": (lambda r: r.assign(cover=np.nan), "have no label|no site with a label"),
    "no column": (lambda r: r.rename(columns={"cover": "label"}), r"There is no column \['cover'\]"),
    "no geometry": (lambda r: pd.DataFrame(r.drop(columns="geometry")), "The reference is a DataFrame"),
    "nothing": (lambda r: r.iloc[:0], "The reference has 0 sites"),
    "other sizes": (
        lambda r: r.assign(inclusion_probability=r.inclusion_probability / 2),
        "The stratum 'deforestation' holds 8,000 pixels",
    ),
    "other sizes of other strata": (
        lambda r: r.assign(inclusion_probability=r.inclusion_probability / 2, stratum="s" + r.stratum),
        "The strata hold 400,000 pixels .*, and the map 200,000",
    ),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("ignore::misoxr.errors.MisoxrWarning")
def test_a_reference_that_does_not_fit_is_refused(name, example):
    array, reference = example
    change, words = BAD[name]
    with pytest.raises((PointsError, SpecError), match=words):
        areas(array, change(reference))


def test_sites_on_nodata_are_refused_or_left_out(example):
    array, reference = example
    column = int(np.searchsorted(array.x.values, reference.geometry.x.iloc[0]))
    row = int(np.searchsorted(-array.y.values, -reference.geometry.y.iloc[0]))
    hole = array.copy(data=array.values.copy())
    hole[row, column] = 255
    with pytest.raises(PointsError, match="1 of 640 sites lie on nodata of the map, such as 0"):
        areas(hole, reference)
    plain = reference.drop(columns=["stratum", "inclusion_probability"])
    with pytest.warns(MisoxrWarning, match="1 of 640 sites lie on nodata of the map and are left out"):
        assert areas(hole, plain, assume_random=True).attrs["sites"] == 639


def test_a_map_that_is_none_is_refused(example):
    array, reference = example
    with pytest.raises(SpecError, match="no flag_values and flag_meanings"):
        areas(array.drop_attrs(), reference)
    with pytest.raises(SpecError, match="The map has no name"):
        areas(array.rename(None), reference)
    with pytest.raises(SpecError, match="The map is a Dataset; give one variable"):
        areas(array.to_dataset(), reference)
    with pytest.raises(BandError, match="hold none of its classes"):
        areas(array.where(array != 3, 9).astype("uint8"), reference)
    with pytest.raises(GridError):
        areas(
            array.drop_vars("spatial_ref").drop_attrs().assign_attrs(flag_values=[0, 1, 2, 3], flag_meanings=" ".join(CLASSES)),
            reference,
        )
    alone = class_map(np.zeros((20, 20)), ("dry", "wet"))
    same = sites(alone, [1, 2, 3], [1, 2, 3], ["dry"] * 3, "dry", 3 / 400)
    with pytest.raises(SpecError, match="one class only, 'dry'"):
        areas(alone, same)
    both = areas(alone, same.assign(cover=["dry", "dry", "wet"]))
    assert both.area.to_dict() == pytest.approx({"dry": 0.24, "wet": 0.12})


def test_counts_that_are_none_are_refused():
    good = {"matrix": COUNTS, "pixels": PIXELS, "pixel_area": 900}
    for change, words in (
        ({"pixel_area": None}, "matrix is given without pixel_area"),
        ({"pixel_area": -1}, "pixel_area is -1"),
        ({"pixels": None}, "matrix is given without pixels"),
        ({"pixels": PIXELS[:3]}, "give a number for each of the 4 rows"),
        ({"matrix": COUNTS[:3]}, r"matrix has the shape \(3, 4\)"),
        ({"matrix": COUNTS - 1}, "matrix holds other than counts"),
        ({"matrix": COUNTS * [[1], [0], [1], [1]]}, r"Strata have no site in matrix: \['1'\]"),
        ({"matrix": [[3]], "pixels": [5]}, "one class only"),
        ({"level": 95}, "level is 95"),
        ({"unit": "acre"}, "unit is 'acre'"),
        ({"assume_random": True}, "matrix= goes without a map"),
    ):
        with pytest.raises(SpecError, match=words):
            areas(**{**good, **change})
    array, reference = class_map(np.zeros((20, 20)), ("dry", "wet")), None
    with pytest.raises(SpecError, match="Give a map and its reference"):
        areas(array, reference)
    with pytest.raises(SpecError, match="pixels go with matrix="):
        areas(array, array, pixels=PIXELS)


def test_the_module_is_reached_from_the_package():
    assert misoxr.sampling.areas is areas


def test_intervals_by_region_are_students_and_few_sites_are_told(example):
    array, reference = example
    table = areas(array, reference, by=halves(array))
    sites = table.attrs["sites"]["left"]
    reach = (table.area_upper - table.area).loc["left"]["gain"] / table.area_se.loc["left"]["gain"]
    assert reach == pytest.approx(stdtrit(sites - 4, 0.975))
    few = reference.sample(frac=1, random_state=1).groupby("stratum").head(4)
    few["inclusion_probability"] *= 4 / few.stratum.map(reference.stratum.value_counts())
    with pytest.warns(MisoxrWarning, match=r"Regions have fewer than 10 sites: left"):
        areas(array, few, by=halves(array))


def test_sizes_of_strata_count_where_much_of_them_was_sampled():
    counts, pixels = np.array([[45, 5], [10, 40]]), np.array([100, 10_000])
    table = accuracy(matrix=counts, pixels=pixels)
    own = np.sqrt([0.9 * 0.1 / 49 * (1 - 50 / 100), 0.8 * 0.2 / 49])
    np.testing.assert_allclose(table.users_se, own)
    with pytest.raises(SpecError, match=r"more sites in matrix than pixels: \['0', '1'\].*not shares"):
        accuracy(matrix=counts, pixels=[0.3, 0.7])


def test_pixels_of_classes_may_have_spaces_in_their_names():
    matrix = pd.DataFrame([[45, 5], [10, 40]], ["moist_tundra", "dry"], ["moist_tundra", "dry"])
    accuracy(matrix=matrix, pixels={"moist tundra": 1000, "dry": 10_000})


def named_counts():
    names = ["bog", "fen", "heath"]
    return pd.DataFrame([[20, 3, 1], [2, 25, 3], [0, 4, 26]], names, names)


def test_counts_and_pixels_go_by_their_names_whatever_holds_them():
    counts, pixels = named_counts(), pd.Series({"heath": 700, "bog": 100, "fen": 200})
    expected = areas(matrix=counts, pixels=[100, 200, 700], pixel_area=400)
    turned = xr.DataArray(counts[["heath", "bog", "fen"]], dims=("map", "reference"))
    for matrix in (counts.rename(columns={"fen": "fen "}), turned, counts.iloc[::-1]):
        for held in (pixels, pixels.to_dict(), pixels.to_xarray()):
            table = areas(matrix=matrix, pixels=held, pixel_area=400)
            pd.testing.assert_frame_equal(table.loc[expected.index], expected)
    numbered = counts.set_axis([1, 2, 3]).set_axis(["1", "2.0", 3.0], axis=1)
    assert areas(matrix=numbered, pixels={1: 100, 2: 200, 3: 700}, pixel_area=400).area.tolist() == expected.area.tolist()


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (named_counts().rename(columns={"fen": "Fen"}), r"matrix = matrix.rename\(columns=\{'Fen': 'fen'\}\)"),
        (named_counts().assign(All=named_counts().sum(axis=1)), r"matrix = matrix.drop\(columns='All'\)"),
        (named_counts().T.assign(Total=named_counts().sum()).T, r"matrix = matrix.drop\(index='Total'\)"),
        (pd.crosstab([*"aabb"], [*"abbb"], margins=True), r"drop\(index='All', columns='All'\)"),
        (named_counts().set_axis(range(3), axis=1), r"the rows \['bog', 'fen', 'heath'\] and columns \['0', '1', '2'\]"),
        (named_counts().rename(columns={"fen": "bog "}), "name each class once"),
    ],
    ids=["spelling", "columns", "rows", "both", "unnamed", "twice"],
)
def test_columns_that_are_no_class_are_refused(matrix, words):
    with pytest.raises(SpecError, match=words):
        areas(matrix=matrix, pixels=[100, 200, 700][: len(matrix)], pixel_area=400)


def test_classes_that_only_the_reference_has_are_told_and_names_may_be_those_of_sums():
    with pytest.warns(
        MisoxrWarning, match=r"classes that the map lacks: \['water', 'all'\]; the map has \['bog', 'fen', 'heath'\]"
    ):
        table = areas(matrix=named_counts().assign(water=[1, 0, 0], all=[0, 0, 1]), pixels=[100, 200, 700], pixel_area=400)
    assert table.area["water"] > 0


def test_a_name_that_occurs_twice_in_a_series_is_refused():
    with pytest.raises(SpecError, match="pixels has 'fen' twice in its index"):
        areas(matrix=named_counts(), pixels=pd.Series([1, 2, 3], ["bog", "fen", "fen"]), pixel_area=400)


def test_a_stratum_of_one_pixel_that_was_visited_has_no_error():
    table = accuracy(matrix=[[1, 0], [10, 40]], pixels=[1, 10_000])
    assert np.isfinite(table.attrs["overall_se"])


def test_strata_whose_sites_all_agree_are_told():
    with pytest.warns(MisoxrWarning, match=r"All visited sites of strata agree: 0 \(45 sites\).*no length.*up to 3/n"):
        table = areas(matrix=[[45, 0], [10, 40]], pixels=[300_000, 700_000], pixel_area=900)
    assert table.users_se.iloc[0] == 0 < table.users_se.iloc[1]


def test_a_column_that_a_shapefile_cut_is_told(example):
    array, reference = example
    with pytest.raises(PointsError, match=r"rename\(columns=\{'inclusion_': 'inclusion_probability'\}\)"):
        areas(array, reference.rename(columns={"inclusion_probability": "inclusion_"}))


def test_sites_that_share_a_pixel_are_told(example):
    """A place that stands in the table twice would count as two."""
    array, reference = example
    twice = pd.concat([reference, reference[:3]], ignore_index=True).drop(columns=["stratum", "inclusion_probability"])
    with pytest.warns(
        MisoxrWarning, match="6 of 643 sites share a pixel of the map with another, such as 0.*Keep one row of each place"
    ):
        areas(array, twice, assume_random=True)
    moved = reference.assign(geometry=[reference.geometry.iloc[0], *reference.geometry[:-1]])
    with pytest.warns(MisoxrWarning, match="2 of 640 sites share a pixel"):
        areas(array, moved)
