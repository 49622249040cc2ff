"""Means and totals from a map and sites: by hand, by polygons, in degrees, for any chunks, and bad input."""

import warnings

import dask
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from misoxr.errors import BandError, MisoxrWarning, PointsError, SpecError
from misoxr.grid.geobox import assign
from misoxr.sampling import mean
from misoxr.sampling.means import Seen, estimated
from tests.sampling.places import sites

SHAPE = (80, 60)


def carbon(crs="EPSG:3338", pixel=30.0, origin=(300_000.0, 1_500_000.0), dtype="float32"):
    """A map of a quantity, with nodata, its truth, and two strata."""
    rng = np.random.default_rng(7)
    truth = rng.gamma(3.0, 4.0, SHAPE) + np.linspace(0, 20, SHAPE[0])[:, None]
    mapped = (2 + 0.8 * truth + rng.standard_normal(SHAPE)).astype(dtype)
    mapped[:5, :5] = np.nan
    box = GeoBox(SHAPE, Affine(pixel, 0, origin[0], 0, -pixel, origin[1]), crs)
    array = assign(xr.DataArray(mapped, dims=("y", "x"), name="soc", attrs={"units": "kg m-2"}), box)
    strata = np.where(np.arange(SHAPE[0])[:, None] < 30, 0, 1) + np.zeros(SHAPE, int)
    return array, truth, np.where(np.isnan(mapped), -1, strata)


def drawn(array, truth, strata, many=(40, 25)):
    rng = np.random.default_rng(8)
    at = np.concatenate([rng.choice(np.flatnonzero(strata == h), n, replace=False) for h, n in enumerate(many)])
    rows, columns = np.unravel_index(at, SHAPE)
    chance = np.repeat([n / (strata == h).sum() for h, n in enumerate(many)], many)
    return sites(array, rows, columns, truth[rows, columns], np.repeat(["upper", "lower"], many), chance), rows, columns


def test_estimates_are_as_by_hand():
    array, truth, strata = carbon()
    reference, rows, columns = drawn(array, truth, strata)
    table = mean(array, reference)
    weights = np.array([(strata == h).sum() for h in (0, 1)]) / (strata >= 0).sum()
    stratum, f, y = strata[rows, columns], array.values[rows, columns].astype(float), truth[rows, columns]
    parts = [np.cov(y[stratum == h], f[stratum == h]) / (stratum == h).sum() for h in (0, 1)]
    share = sum(w**2 * p[0, 1] for w, p in zip(weights, parts, strict=True)) / sum(
        w**2 * p[1, 1] for w, p in zip(weights, parts, strict=True)
    )
    for name, lam in (("prediction_powered", share), ("difference", 1.0), ("sample", 0.0)):
        left = [(y - lam * f)[stratum == h] for h in (0, 1)]
        expected = lam * np.nanmean(array.values.astype(float)) + sum(w * one.mean() for w, one in zip(weights, left, strict=True))
        error = np.sqrt(sum(w**2 * one.var(ddof=1) / len(one) for w, one in zip(weights, left, strict=True)))
        np.testing.assert_allclose(table.loc[name, ["mean", "mean_se", "lambda"]], [expected, error, lam], rtol=1e-9)
        np.testing.assert_allclose(table.loc[name, "total"], expected * 900 * (strata >= 0).sum())
    assert table.mean_se.iloc[0] < table.mean_se.iloc[1] < table.mean_se.iloc[2]
    assert table.attrs["map_mean"] == pytest.approx(np.nanmean(array.values.astype(float)), rel=1e-12)
    assert (table.attrs["total_units"], table.attrs["sites"]) == ("kg", 65)
    inside = (table.mean_lower < truth[strata >= 0].mean()) & (truth[strata >= 0].mean() < table.mean_upper)
    assert inside.all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_chunks_give_the_same_bytes(dtype):
    array, truth, strata = carbon("EPSG:3857", origin=(300_000.0, 7_500_000.0), dtype=dtype)
    reference, *_ = drawn(array, truth, strata)
    first = mean(array, reference)
    for chunks in ({"y": 7, "x": 60}, {"y": 33, "x": 13}):
        with dask.config.set(scheduler="synchronous"):
            other = mean(array.chunk(chunks), reference)
        pd.testing.assert_frame_equal(other, first, check_exact=True)
        assert other.attrs == first.attrs


def test_means_are_by_area_where_pixels_differ():
    array, truth, strata = carbon("EPSG:4326", pixel=0.2, origin=(-160.0, 74.0))
    reference, *_ = drawn(array, truth, strata)
    table, area = mean(array, reference), np.cos(np.deg2rad(array.y.values))[:, None] * (strata >= 0)
    assert table.attrs["map_mean"] == pytest.approx(np.nansum(array.values * area) / area.sum(), rel=1e-3)
    assert abs(np.nanmean(array.values) / table.attrs["map_mean"] - 1) > 0.02
    assert abs(table.loc["prediction_powered", "mean"] - (truth * area).sum() / area.sum()) < 3 * table.mean_se.iloc[0]


def test_regions_have_means_of_their_own():
    array, truth, strata = carbon()
    reference, rows, columns = drawn(array, truth, strata)
    west, middle, south, north = float(array.x[0]) - 99, float(array.x[29]) + 15, float(array.y[-1]) - 99, float(array.y[0]) + 99
    boxes = [shapely.box(west, south, middle, north), shapely.box(0, 0, 1, 1)]
    table = mean(
        array, reference, by=gpd.GeoDataFrame({"name": ["west", "far"]}, geometry=boxes, crs=array.spatial_ref.attrs["crs_wkt"])
    )
    assert list(table.index.unique("region")) == ["west", "far", "none"]
    assert table.loc["far", ["mean", "mean_se"]].isna().all(axis=None)
    here, lam = columns < 30, table.loc[("west", "prediction_powered"), "lambda"]
    weight = 1 / reference.inclusion_probability.to_numpy()
    left = truth[rows, columns] - lam * array.values[rows, columns].astype(float)
    expected = lam * np.nanmean(array.values[:, :30].astype(float)) + np.average(left[here], weights=weight[here])
    assert table.loc[("west", "prediction_powered"), "mean"] == pytest.approx(expected)
    deviations, stratum = np.where(here, left - np.average(left[here], weights=weight[here]), 0.0), strata[rows, columns]
    spread = sum((weight[stratum == h][0]) ** 2 * (stratum == h).sum() * deviations[stratum == h].var(ddof=1) for h in (0, 1))
    assert table.loc[("west", "prediction_powered"), "mean_se"] == pytest.approx(np.sqrt(spread) / weight[here].sum())


def test_a_probability_gives_a_share_of_the_area():
    array, truth, strata = carbon()
    probability = (array / 60).clip(0, 1).rename("frozen").assign_attrs(units="1")
    seen = (np.random.default_rng(9).random(SHAPE) < probability.fillna(0).values).astype(int)
    reference, rows, columns = drawn(array, truth, strata)
    table = mean(probability, reference.rename(columns={"soc": "frozen"}).assign(frozen=seen[rows, columns]))
    assert table.attrs["total_units"] == "m2"
    assert abs(table.loc["prediction_powered", "mean"] - seen[strata >= 0].mean()) < 3 * table.mean_se.iloc[0]


def frozen(labels):
    """A probability, what was seen at 65 sites, and the same as numbers, NaN at the first, which was not visited."""
    array, truth, strata = carbon()
    probability = (array / 60).clip(0, 1).rename("frozen_probability").assign_attrs(units="1")
    reference, *_ = drawn(array, truth, strata)
    seen = (reference.soc > 15).to_numpy().astype(int)
    names = pd.Series(np.array(labels, object)[seen])
    names[0] = None
    return probability, reference.drop(columns="soc").assign(frozen=names), np.where(np.arange(65) == 0, np.nan, seen)


@pytest.mark.parametrize("labels", [("absent", "present"), (0, 1), ("0", "1"), (False, True)])
@pytest.mark.filterwarnings("ignore:1 of 65 sites have no label")
def test_a_probability_takes_the_labels_of_its_task_and_a_site_without_one_is_not_absent(labels):
    probability, reference, numbers = frozen(labels)
    table = mean(probability, reference)
    pd.testing.assert_frame_equal(table, mean(probability, reference.assign(frozen_probability=numbers)))
    assert table.attrs["sites"] == 64


@pytest.mark.filterwarnings("ignore:1 of 65 sites have no label")
def test_a_probability_takes_other_names_of_classes():
    probability, reference, numbers = frozen(("never thawed", "thawed_once"))
    table = mean(probability, reference, classes=("never_thawed", "thawed once"))
    pd.testing.assert_frame_equal(table, mean(probability, reference.assign(frozen_probability=numbers)))
    with pytest.raises(PointsError, match=r"Labels of 'frozen' are .*'never thawed'.*classes="):
        mean(probability, reference)
    with pytest.raises(SpecError, match="classes is 'present'; give the names of two classes"):
        mean(probability, reference, classes="present")
    with pytest.raises(SpecError, match="classes belongs to the probability of a binary task"):
        mean(probability, reference.assign(frozen_probability=numbers), classes=("a", "b"))


def test_intervals_of_shares_end_at_0_and_1():
    array, truth, strata = carbon()
    probability = (array * 0 + 0.02).rename("frozen_probability")
    reference, *_ = drawn(array, truth, strata)
    seen = reference.rename(columns={"soc": "frozen_probability"}).assign(frozen_probability=1.0 * (np.arange(65) == 3))
    with pytest.warns(MisoxrWarning, match="one value, or one difference from the map: lower"):
        table = mean(probability, seen)
    assert (table[["mean_lower", "total_lower"]] == 0).all(axis=None)
    assert (table.mean_upper < 0.2).all()
    values = mean(array, reference.assign(soc=-reference.soc))
    assert (values.mean_lower < 0).all()


def test_sizes_of_strata_count_where_much_of_them_was_sampled():
    array, truth, strata = carbon()
    many = (500, 20)  # 28 % and 0.7 %
    reference, rows, columns = drawn(array, truth, strata, many)
    y, stratum, sizes = truth[rows, columns], strata[rows, columns], np.array([(strata == h).sum() for h in (0, 1)])
    spread = sizes**2 * np.array([y[stratum == h].var(ddof=1) / many[h] for h in (0, 1)])
    spread[0] *= 1 - many[0] / sizes[0]
    assert mean(array, reference).loc["sample", "mean_se"] == pytest.approx(np.sqrt(spread.sum()) / sizes.sum())


def seen_at(count, strata=2):
    rng = np.random.default_rng(3)
    mapped = rng.random(count)
    return Seen(2 * mapped + rng.random(count), mapped, np.ones(count), np.arange(count) % strata, np.full(strata, 100.0))


def test_lambda_is_1_with_few_sites():
    few, enough = (estimated(seen_at(count), np.ones(count, bool), 0.5)["prediction_powered"] for count in (14, 15))
    assert (few.lam, few.degrees_of_freedom) == (1.0, 12)
    assert few == estimated(seen_at(14), np.ones(14, bool), 0.5)["difference"]
    assert enough.lam > 1.2
    assert enough.degrees_of_freedom == 12


def test_a_region_has_the_degrees_of_freedom_of_its_own_sites():
    here = np.arange(100) < 6
    found = estimated(seen_at(100), here, 0.5)
    assert [one.degrees_of_freedom for one in found.values()] == [3, 4, 4]
    found = estimated(seen_at(100, strata=25), here, 0.5)
    assert [one.degrees_of_freedom for one in found.values()] == [1, 1, 1]


def test_regions_with_few_sites_are_told():
    array, truth, strata = carbon()
    reference, _, columns = drawn(array, truth, strata)
    west, south, north = (float(one) for one in (array.x[0] - 99, array.y[-1] - 99, array.y[0] + 99))
    count = int((columns < 5).sum())
    assert 1 < count < 10
    edge = float(array.x[4]) + 15
    strip = gpd.GeoDataFrame({"name": ["strip"]}, geometry=[shapely.box(west, south, edge, north)], crs="EPSG:3338")
    with pytest.warns(MisoxrWarning, match=rf"Regions have fewer than 10 sites: strip \({count}\)"):
        mean(array, reference, by=strip)


def test_what_has_no_mean_is_refused():
    array, truth, strata = carbon()
    reference, *_ = drawn(array, truth, strata)
    with pytest.raises(SpecError, match=r"'soc' holds classes, which have no mean; take misoxr\.sampling\.areas"):
        mean(array.assign_attrs(flag_values=[0], flag_meanings="a"), reference)
    with pytest.raises(BandError, match="holds int64; give floats"):
        mean(array.fillna(0).astype("int64"), reference)
    with pytest.raises(SpecError, match="The map has no name"):
        mean(array.rename(None), reference)
    with pytest.raises(PointsError, match="Values of 'soc' are no numbers, such as 'much'"):
        mean(array, reference.assign(soc="much"))
    with pytest.raises(PointsError, match="no probability sample"):
        mean(array, reference.drop(columns="stratum"))
    with pytest.raises(PointsError, match=r"The strata hold 9,550 pixels .*, and the map 4,775 with a value"):
        mean(array, reference.assign(inclusion_probability=reference.inclusion_probability / 2))
    with pytest.raises(PointsError, match="65 of 65 sites lie on nodata"):
        mean(array.where(False), reference)
    plain = reference.drop(columns=["stratum", "inclusion_probability"])
    with pytest.warns(MisoxrWarning, match="assume_random=True"):
        table = mean(array, plain, assume_random=True)
    assert table.assumed_random.all()
    assert table.loc["sample", "mean"] == pytest.approx(plain.soc.mean())


@pytest.mark.parametrize("fill", [-9999.0, 9999.0, -99.0])
def test_fill_values_of_sites_are_refused(fill):
    array, truth, strata = carbon()
    reference, *_ = drawn(array, truth, strata)
    reference.loc[reference.index[:4], "soc"] = fill
    with pytest.raises(
        PointsError, match=rf"4 of 65 values of 'soc' at the sites are {fill:g}, .*reference\['soc'\]\.replace\({fill:g}, float"
    ):
        mean(array, reference)


@pytest.mark.parametrize("chunks", [None, {"y": 7, "x": 60}, {"y": 33, "x": 13}])
def test_fill_values_of_the_map_are_refused(chunks):
    array, truth, strata = carbon()
    reference, rows, _ = drawn(array, truth, strata)
    array[-1] = -9999.0
    array = array if chunks is None else array.chunk(chunks)
    with pytest.raises(BandError, match=r"'soc' is -9999 in 1\.26% of its pixels, and .* elsewhere\. .*map\.where\(map != -9999\)"):
        mean(array, reference)


def test_values_like_fill_values_are_kept_where_others_are_near():
    array, truth, strata = carbon()
    reference, *_ = drawn(array, truth, strata)
    array[-1, 0] = -99.0
    wide = array.where(array != array.max(), 200.0) - 100
    assert mean(wide, reference.assign(soc=reference.soc - 100)).notna().all(axis=None)


@pytest.mark.parametrize("key", ["_FillValue", "nodata", "missing_value"])
def test_nodata_of_the_map_counts_in_every_spelling(key):
    array, truth, strata = carbon()
    reference, *_ = drawn(array, truth, strata)
    expected = mean(array, reference)
    told = array.fillna(-1).assign_attrs({**array.attrs, key: -1.0})
    pd.testing.assert_frame_equal(mean(told, reference), expected)
    assert mean(told, reference).attrs == expected.attrs


@pytest.mark.parametrize("told", ["truth", "difference"])
def test_strata_whose_sites_all_agree_are_told(told):
    """Their variance is 0 in the sample, and not on the ground."""
    array, truth, strata = carbon()
    truth = np.where(strata == 0, {"truth": 3.0, "difference": array.values}[told], truth)
    reference, *_ = drawn(array, truth + 1e-8 * np.random.default_rng(0).normal(size=truth.shape), strata)  # of rounding alone
    with pytest.warns(MisoxrWarning, match=r"one value, or one difference from the map: upper\. So nothing tells .*Visit more"):
        mean(array, reference)


def test_sites_that_share_a_pixel_are_told():
    array, truth, strata = carbon()
    reference, *_ = drawn(array, truth, strata)
    plain = reference.drop(columns=["stratum", "inclusion_probability"])
    with pytest.warns(MisoxrWarning, match="130 of 130 sites share a pixel"):
        mean(array, pd.concat([plain, plain]), assume_random=True)


@pytest.mark.parametrize(
    ("units", "total"),
    [
        ("kg m-2", "kg"),
        ("kg m^-2", "kg"),
        ("kg m**-2", "kg"),
        ("kg/m2", "kg"),
        ("kg / m^2", "kg"),
        ("kg m⁻²", "kg"),
        ("kg/m²", "kg"),
        ("m-2", "1"),
        ("W m-2 K-1", "W K-1"),
        ("1", "m2"),
        ("m", "m m2"),
        ("kg m-3", "kg m-3 m2"),
        ("kg/m3", "kg/m3 m2"),
        ("kg/m2/a", "kg/m2/a m2"),
    ],
)
def test_what_is_per_square_metre_loses_that_in_the_total(units, total):
    array, truth, strata = carbon()
    reference, *_ = drawn(array, truth, strata)
    assert mean(array.assign_attrs(units=units), reference).attrs["total_units"] == total


@pytest.mark.parametrize(("value", "shown"), [(np.inf, "inf"), (True, "True"), ("4,5", "'4,5'")])
def test_values_that_are_no_numbers_are_shown_as_they_are_written(value, shown):
    array, truth, strata = carbon()
    reference, *_ = drawn(array, truth, strata)
    wrong = reference.assign(soc=[value, *reference.soc[1:]] if isinstance(value, str) else value)
    with pytest.raises(PointsError, match=f"are no numbers, such as {shown}; write numbers"):
        mean(array, wrong)


def test_a_map_in_half_precision_gives_no_other_warning():
    array, truth, strata = carbon()
    reference, *_ = drawn(array, truth, strata)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = mean(array.astype("float16"), reference)
    assert found.loc["difference", "mean"] == pytest.approx(mean(array, reference).loc["difference", "mean"], rel=1e-3)
