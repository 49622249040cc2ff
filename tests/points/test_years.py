"""Yearly composites: points are matched to the nearest year, and learnt from and answered in it."""

import warnings
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from sklearn.linear_model import LogisticRegression

from misoxr.cube.composite import composite
from misoxr.cube.cutouts import read_cutouts
from misoxr.cube.scaling import Scaling
from misoxr.errors import BandError, MisoxrWarning, PointsError, SpecError
from misoxr.estimators.baselines import Baseline
from misoxr.evaluation.cross_validate import cross_validate
from misoxr.grid.geobox import geobox_of
from misoxr.points.folds import KFold
from misoxr.points.labelled import Labelled
from misoxr.points.years import Years
from misoxr.spec import PERMAFROST, TAXONOMY
from misoxr.training.windows import TrainingWindows
from tests.conftest import make_cube, tiny_spec

YEARS = (2017, 2020, 2023)
QUICK = {"teacher": None, "progress": False, "device": "cpu", "max_epochs": 1, "seed": 2}
LOGISTIC = Baseline(LogisticRegression(max_iter=200))


@pytest.fixture(scope="module")
def spec():
    return tiny_spec(tasks=(PERMAFROST, TAXONOMY))


@pytest.fixture(scope="module")
def cubes(spec):
    return [make_cube((64, 80), spec.bands, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def yearly(cubes, spec):
    """Imagery by year, in any order, in the middle of each season; covariates have no time."""
    imagery = [band.name for band in spec.modalities[0].bands]
    times = pd.to_datetime([f"{year}-07-20" for year in YEARS])
    moving = xr.concat([cube[imagery] for cube in cubes], dim=pd.Index(times, name="time"), coords="minimal", compat="override")
    return moving.merge(cubes[0].drop_vars(imagery)).isel(time=[2, 0, 1])


def of_year(cubes, spec, number):
    imagery = [band.name for band in spec.modalities[0].bands]
    return cubes[0].assign({name: cubes[number][name] for name in imagery})


@pytest.fixture(scope="module")
def points(cubes):
    """Points of all years, some at the same places; labels follow from the imagery of their own year."""
    rng = np.random.default_rng(4)
    rows, columns, number = rng.integers(0, 64, 90), rng.integers(0, 80, 90), rng.integers(0, 3, 90)
    red = np.stack([cube.red.values for cube in cubes])[number, rows, columns]
    date = pd.to_datetime([f"{year}-09-01" for year in np.array(YEARS)[number]])
    labels = {"permafrost": (red > np.median(red)) * 1.0, "taxonomy": np.where(rng.random(90) < 0.8, "Gelisols", "Histosols")}
    places = gpd.points_from_xy(300_010 + 20.0 * columns, 1_499_990 - 20.0 * rows)
    return gpd.GeoDataFrame({**labels, "date": date}, geometry=places, crs="EPSG:3338")


def matched(dates, yearly, spec, tolerance=None):
    years = Years.of(yearly, spec, tolerance)
    numbers = years.matched(np.array(dates, dtype=object), len(dates))
    return [years.years[number] if number >= 0 else None for number in numbers]


@pytest.mark.parametrize(
    ("date", "tolerance", "year"),
    [
        ("2020-01-01", None, 2020),
        ("2018-12-31", None, 2017),
        ("2019-01-01", None, 2020),
        ("2012-06-01", None, 2017),
        ("2011-12-31", None, None),
        ("1952-07-01", 70, 2017),
        ("2021", 0, None),
        (2023, 0, 2023),
        (None, 70, None),
    ],
)
def test_the_nearest_year_within_a_tolerance(yearly, spec, date, tolerance, year):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert matched([date, "2020-07-01"], yearly, spec, tolerance) == [year, 2020]


@pytest.mark.parametrize(
    "day", [SimpleNamespace, partial(datetime, tzinfo=UTC), lambda year, month, day: f"{year}-{month:02}-{day:02}"]
)
def test_times_of_any_kind_are_years(yearly, spec, day):
    times = np.array([day(year=time.year, month=time.month, day=time.day) for time in yearly.indexes["time"]], dtype=object)
    assert matched(["2020-01-01", "2023"], yearly.assign_coords(time=("time", times)), spec) == [2020, 2023]


def test_of_two_years_the_earlier(yearly, spec):
    assert matched(["2020-05-05", "2018-05-05"], yearly.isel(time=[0, 1]), spec) == [2017, 2017]  # 2017 and 2023; 2020 is amid
    assert Years.of(yearly, spec).years == YEARS


@pytest.mark.parametrize(
    ("season", "dates", "years"),
    [
        (
            "11-01 to 02-28",
            ["2019-01-15", "2019-11-01", "2019-02-28T18:00", 2020, "2020-06-29", "2020-07-02"],
            [18, 19, 18, 19, 19, 20],
        ),
        ("12-01 to 02-29", ["2019-03-01", "2020-02-29", "2019-12-31", "2019-07-16", "2019-07-17"], [18, 19, 19, 18, 19]),
        ("07-01 to 06-30", ["2019-06-30", "2019-07-01"], [18, 19]),
        ("06-20 to 08-20", ["2019-01-15", 2020, "2020-12-31"], [19, 20, 20]),
        ("11-01 to 11-30", ["2019-01-15", "2019-11-15"], [19, 19]),
        ("01-01 to 12-31", ["2019-01-01", "2019-12-31"], [19, 19]),
    ],
)
def test_a_season_over_new_year_is_of_the_year_it_starts_in(yearly, spec, season, dates, years):
    """By hand: 2020-06-29 is 122 days after 28 February and 125 before 1 November; 2020-07-02 is 125 and 122."""
    first = season[:5]
    times = xr.Variable("time", pd.to_datetime([f"{year}-{first}" for year in (2020, 2018, 2019)]), {"season": season})
    assert matched(dates, yearly.assign_coords(time=times), spec) == [2000 + year for year in years]


def test_composites_tell_their_season_and_stores_keep_it(yearly, spec, tmp_path):
    """Two winters of a time cube: 2019-01-15 is in the one that starts in 2018, after a store, too."""
    times = pd.to_datetime(["2018-11-20", "2019-02-20", "2019-12-20"])
    winters = composite(yearly.assign_coords(time=times), ("11-01", "02-28"), by="year")
    winters.miso.to_zarr(tmp_path / "winters.zarr")
    for cube in (winters, xr.open_zarr(tmp_path / "winters.zarr", decode_coords="all")):
        assert cube.time.attrs["season"] == "11-01 to 02-28"
        assert matched(["2019-01-15", "2019-12-01"], cube, spec, 0) == [2018, 2019]
    assert composite(yearly, by="year").time.attrs["season"] == "01-01 to 12-31"


def test_winters_that_do_not_tell_their_season_are_taken_to_go_over_new_year(yearly, spec):
    late = yearly.assign_coords(time=pd.to_datetime(["2020-11-01", "2018-11-01", "2019-11-01"]))
    with pytest.warns(MisoxrWarning, match=r"start in 11-01 .* over new year.*ds.time.attrs\[\"season\"\] = \"11-01 to 11-30\""):
        assert matched(["2019-01-15", "2019-12-15"], late, spec) == [2018, 2019]
    for day in ("01-01", "12-31"):  # as resample(time="YS") and "YE" write years
        whole = yearly.assign_coords(time=pd.to_datetime([f"{year}-{day}" for year in (2020, 2018, 2019)]))
        assert matched(["2019-01-15", "2019-12-15"], whole, spec) == [2019, 2019]
    for wrong in ("winter", "11-01", "11-01 to 02-30", 5):
        late.time.attrs["season"] = wrong
        with pytest.raises(SpecError, match="02-30" if "02-30" in str(wrong) else "The season of the cube's times is .* such as"):
            Years.of(late, spec)


def test_years_that_have_the_time_of_their_end_are_told_by_bounds(yearly, spec):
    ends = pd.to_datetime([f"{year + 1}-01-01" for year in yearly.time.dt.year.values])
    ds = yearly.assign_coords(time=("time", ends, {"bounds": "time_bnds"}))
    ds = ds.assign(time_bnds=(("time", "nv"), np.stack([ends - pd.DateOffset(years=1), ends], axis=1)))
    assert Years.of(ds, spec).years == YEARS


def test_points_that_belong_to_no_year_are_told(yearly, spec):
    years = Years.of(yearly, spec)
    words = "1 of 4 points have no date, and 2 are dated more than 5 years from the composites of the years 2017, 2020, 2023"
    with pytest.warns(MisoxrWarning, match=f"{words}. They are left out"):
        assert years.matched(["1952", None, "2023", "1999"], 4).tolist() == [-1, -1, 2, -1]
    with pytest.raises(
        PointsError, match="2 are dated more than 5 years .* None is left; give other years, or a greater tolerance="
    ):
        years.matched(["1952", "1960"], 2)
    with pytest.raises(
        PointsError, match=r"composites of the years 2017, 2020, 2023, and the points have no dates.*read_points\(date="
    ):
        years.matched(None, 2)


@pytest.mark.filterwarnings("ignore::misoxr.errors.MisoxrWarning")
def test_labels_of_another_time_are_none(yearly, spec, points):
    """Who has a label has no year, and who has a year has no label."""
    late = points.assign(date="1952-07-01", taxonomy=None).iloc[:2]
    late.loc[late.index[1], ["permafrost", "date"]] = [np.nan, "2020-07-01"]
    words = "None of the 1 labelled points is dated near a year of the cube"
    years = Years.of(yearly, spec)
    with pytest.raises(PointsError, match=words):
        Labelled.of(late, spec, geobox_of(yearly), years=years)


def test_cubes_without_years_stay_whole(yearly, cubes, spec):
    assert Years.of(cubes[0], spec).cubes == (cubes[0],)
    assert Years.of(cubes[0], spec).matched(None, 3).tolist() == [0, 0, 0]
    twice = yearly.assign_coords(time=pd.to_datetime(["2023-07-01", "2023-08-01", "2020-07-01"]))
    assert Years.of(twice, spec).years == ()
    numbered = yearly.assign_coords(time=[1, 2, 3])
    assert Years.of(numbered, spec).years == ()
    beside = cubes[0].assign(observations=yearly.red.isnull())  # no band of the model
    assert Years.of(beside, spec).years == ()
    with pytest.raises(SpecError, match="tolerance is 3 years, and the cube has no time in each year"):
        Years.of(cubes[0], spec, 3)
    for wrong in (-1, 1.5, True, "5"):
        with pytest.raises(SpecError, match="give a whole number of years"):
            Years.of(yearly, spec, wrong)


def test_windows_hold_the_imagery_and_the_points_of_one_year(yearly, cubes, spec, points):
    years = Years.of(yearly.chunk({"time": 1, "y": 20, "x": 30}), spec)
    labelled = Labelled.of(points, spec, geobox_of(yearly), years=years)
    assert [YEARS[number] for number in labelled.layer] == points.date.dt.year.tolist()
    stacked, places = years.stacked(spec), (labelled.rows, labelled.columns)
    with read_cutouts(stacked, *places, 16, unlabelled=1.0, layer=labelled.layer) as cutouts:
        red = np.stack([cube.red.values for cube in cubes])
        rows, columns = (part.astype(int) for part in places)
        np.testing.assert_array_equal(cutouts.values()[0], red[labelled.layer, rows, columns])
        for number in range(len(cutouts.file)):
            (row, column), layer = cutouts.file.starts[number], cutouts.layers[number]
            np.testing.assert_array_equal(cutouts.file.open()[number, 0], red[layer, row : row + 32, column : column + 32])
        assert set(cutouts.layers[cutouts.labelled :]) == {0, 1, 2}
        for point in range(len(labelled)):
            cutout = int(cutouts.cutout[point])
            index, _ = cutouts.inside(np.arange(len(labelled)), cutout, cutouts.first(cutout, (rows[point], columns[point])))
            assert point in index
            assert set(labelled.layer[index]) == {labelled.layer[point]}
        scaling = Scaling.fit(spec, cutouts.pixels(500, np.random.default_rng(0)))
        data = TrainingWindows(spec, scaling, cutouts, labelled, geobox_of(yearly))
        batch = data.centred(np.arange(90))
        np.testing.assert_array_equal(batch["labels"]["permafrost"][:, 0], points.permafrost)


def test_points_of_one_year_are_learnt_as_from_its_composite_alone(yearly, cubes, spec, points):
    one = points[points.date.dt.year == 2020]
    whole = yearly.miso.fit(spec, one, **QUICK)
    alone = of_year(cubes, spec, 1).miso.fit(spec, one, **QUICK)
    assert whole.record["years"] == {"2017": 0, "2020": whole.record["points"], "2023": 0}
    assert alone.record["years"] == {}
    for name, values in whole.network.state_dict().items():
        torch.testing.assert_close(values, alone.network.state_dict()[name], rtol=0, atol=0)


def test_an_estimator_learns_each_point_from_its_year(yearly, cubes, spec, points):
    """The years side by side in one cube, with the points of each moved to it, are the same table."""
    model = yearly.miso.fit(LOGISTIC, points, like=spec, transfer=False)
    assert sum(model.record["years"].values()) == 90
    parts = []
    for number in range(3):
        cube = of_year(cubes, spec, number)
        parts.append(cube.assign_coords(x=cube.x + 1600.0 * number))
    wide = xr.concat(parts, dim="x").drop_vars("spatial_ref").assign_coords(spatial_ref=cubes[0].spatial_ref)
    wide.spatial_ref.attrs.pop("GeoTransform", None)
    east = 1600.0 * ((points.date.dt.year - 2017) // 3)
    moved = points.set_geometry(gpd.points_from_xy(points.geometry.x + east, points.geometry.y), crs=3338)
    beside = wide.miso.fit(LOGISTIC, moved, like=spec, transfer=False)
    for name in ("permafrost", "taxonomy"):
        np.testing.assert_allclose(model.estimators[name].coef_, beside.estimators[name].coef_, rtol=1e-6)


@pytest.mark.parametrize("kind", ["network", "estimator"])
def test_points_are_answered_in_their_year(yearly, cubes, spec, points, kind):
    what, options = (spec, QUICK) if kind == "network" else (LOGISTIC, {"like": spec})
    model = yearly.miso.fit(what, points, **options)
    run = {"device": "cpu"} if kind == "network" else {}
    late = points.assign(date=points.date.where(points.index != 3, pd.Timestamp("1952-07-01")))
    with pytest.warns(MisoxrWarning, match="1 are dated more than 5 years"):
        answers = yearly.miso.predict_at(model, late, **run).compute()
    assert answers.permafrost_probability.dtype == "float32"
    assert np.isnan(answers.permafrost_probability.values[3])
    assert answers.permafrost.values[3] == 255
    for number in range(3):
        mine = np.flatnonzero((points.date.dt.year == YEARS[number]) & (points.index != 3))
        alone = of_year(cubes, spec, number).miso.predict_at(model, points.iloc[mine], **run).compute()
        np.testing.assert_allclose(answers.permafrost_probability.values[mine], alone.permafrost_probability, atol=1e-6)
    first = points.iloc[[0]]
    mapping = {"x": first.geometry.x, "y": first.geometry.y, "date": first.date}
    one = yearly.miso.predict_at(model, mapping, **run).compute()
    np.testing.assert_allclose(one.permafrost_probability, answers.permafrost_probability.values[:1], atol=1e-6)
    with pytest.raises(PointsError, match="the points have no dates"):
        yearly.miso.predict_at(model, points[["geometry"]], **run)
    three = points.iloc[:3]
    xy = {"x": three.geometry.x, "y": three.geometry.y}
    for dates in (["2020-07-01"] * 2, ["2020-07-01"], []):
        with pytest.raises(
            PointsError, match=rf"date has the shape \({len(dates)},\), and there are 3 points; give a date for each"
        ):
            yearly.miso.predict_at(model, {**xy, "date": dates}, **run)
    with pytest.raises(PointsError, match="1 values of column 'date' are not dates"):
        yearly.miso.predict_at(model, {**xy, "date": "July"}, **run)
    with pytest.warns(MisoxrWarning, match="1 of 3 points have no date"):
        yearly.miso.predict_at(model, {**xy, "date": ["2020-07-01", np.nan, 2020]}, **run)
    each = yearly.miso.predict_at(model, {**xy, "date": ["2020-07-01"] * 3}, **run).compute()
    for one_date in ("2020-07-01", 2020, pd.Timestamp("2020-07-01"), np.datetime64("2020-07-01")):
        xr.testing.assert_identical(yearly.miso.predict_at(model, {**xy, "date": one_date}, **run).compute(), each)


def test_models_are_compared_on_the_years_of_their_points(yearly, spec, points):
    """Labels follow from the imagery of each point's year: who sees it answers well, who sees another year's does not."""
    late = points.assign(date=points.date.where(points.index != 3, pd.Timestamp("1952-07-01")))
    options = {"cv": KFold(3), "progress": False}
    with pytest.warns(MisoxrWarning) as told:
        scores = cross_validate(yearly, {"logistic": LOGISTIC}, late, **options)
    assert sum("1 are dated more than 5 years" in str(one.message) for one in told) == 1
    assert set(scores.predictions.point) == set(points.index) - {3}
    wrong = cross_validate(yearly.isel(time=[0]), {"logistic": LOGISTIC}, points, tolerance=10, **options)
    found = [one.summary().loc["logistic", "permafrost roc_auc"] for one in (scores, wrong)]
    assert found[0] > 0.8 > 0.7 > found[1]
    with pytest.raises(SpecError, match="Models differ in tolerance"):
        cross_validate(yearly, {"a": LOGISTIC, "b": (LOGISTIC, {"tolerance": 3})}, points, **options)
    with pytest.raises(PointsError, match="more than 0 years .* None is left"):
        cross_validate(yearly, {"b": (LOGISTIC, {"tolerance": 0})}, points.assign(date="2018-01-01"), **options)


def test_an_embedding_is_learnt_by_year(yearly, spec, points):
    estimator = Baseline(LogisticRegression(max_iter=50), features="embedding", network=spec)
    model = yearly.miso.fit(estimator, points, **QUICK)
    assert [sum(one["training"]["years"].values()) for one in model.record["networks"]]
    answers = yearly.miso.predict_at(model, points, device="cpu").compute()
    assert np.isfinite(answers.permafrost_probability).all()


def test_validation_points_have_years_too(yearly, spec, points):
    model = yearly.miso.fit(spec, points.iloc[:70], val=points.iloc[70:], **QUICK)
    assert sum(model.record["years"].values()) == model.record["points"]
    assert model.record["validation_points"] == 20
    taught = yearly.miso.fit(spec, points, progress=False, device="cpu", steps=2, batch_size=2)
    assert taught.record["teacher"]["pixels"] > 0


def test_maps_are_of_one_year(yearly, spec, points):
    model = yearly.miso.fit(LOGISTIC, points, like=spec)
    with pytest.raises(BandError, match=r"with by='year' to one time a year, or take one of its \d times: ds.isel\(time=-1\)"):
        yearly.miso.predict(model)
    assert yearly.isel(time=-1).miso.predict(model).permafrost.dims == ("y", "x")
