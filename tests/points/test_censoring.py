"""Depths of observations, and labels that are right-censored by them."""

import warnings
from dataclasses import replace

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from misoxr.errors import MisoxrWarning, PointsError, SpecError
from misoxr.points.censoring import observed
from misoxr.points.labelled import Labelled
from misoxr.points.read import read_points
from misoxr.points.reports import report
from misoxr.spec import PERMAFROST, TAXONOMY, ModelSpec, Task
from tests.conftest import tiny_spec

DEPTHS = [0.4, 0.4, 1.0, 0.25, np.nan, np.nan, 2.0]
LABELS = ["absent", "present", "absent", None, "absent", "present", "absent"]
CENSORED = [0]
"""By hand: the first stopped at 0.4 m and found nothing. The second found ice, the third reached 1 m, the fourth says nothing."""


def frame(**columns):
    count = len(next(iter(columns.values())))
    places = gpd.points_from_xy(300_005 + 20.0 * np.arange(count), np.full(count, 1_499_995.0))
    return gpd.GeoDataFrame(columns, geometry=places, crs="EPSG:3338")


def depths_of(values, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_points(frame(dug=values), **options)["depth"].tolist()


@pytest.mark.parametrize(
    ("values", "depth", "metres"),
    [
        ([0.3, 1, "1.5"], "dug", [0.3, 1, 1.5]),
        ([30, 100, 250], ("dug", "cm"), [0.3, 1, 2.5]),
        ([30, 100, 250], ("dug", "Centimetres"), [0.3, 1, 2.5]),
        ([1, 2, 3], ("dug", "ft"), [0.3048, 0.6096, 0.9144]),
        ([39.37, 12, 0], ("dug", "inches"), [0.999998, 0.3048, 0]),
        ([12, 60, 600], ("dug", "m"), [12, 60, 600]),  # boreholes, whose unit is told
        ([[0.5, 0.5], 1, 2], "dug", [0.5, 1, 2]),
        ([5, 6, 7], 1.2, [1.2] * 3),
        ([5, 6, 7], (90, "cm"), [0.9] * 3),
    ],
)
def test_depths_are_metres(values, depth, metres):
    np.testing.assert_allclose(depths_of(values, depth=depth), metres, rtol=1e-12)


def test_depths_that_are_missing_are_told():
    with pytest.warns(MisoxrWarning, match=r"1 of 2 points have no depth"):
        assert np.isnan(read_points(frame(dug=[None, 0.5]), depth="dug")["depth"].iloc[0])
    with pytest.warns(MisoxrWarning, match=r"differ and are set to missing: 1 of 'depth'"):
        assert np.isnan(read_points(frame(dug=[[0.5, 0.9], 0.5]), depth="dug")["depth"].iloc[0])


@pytest.mark.parametrize(
    ("values", "depth", "message"),
    [
        (
            [0.5, 45, 120],
            "dug",
            r"2 depths of column 'dug' are above 10 m, for example 45. Say their unit: depth=\('dug', \"cm\"\), or",
        ),
        ([-0.5, 1, 1], "dug", "1 values of column 'dug' are not depths, for example -0.5; give numbers from 0 to 3000, positive"),
        ([4e5, 1, 1], ("dug", "cm"), "not depths, for example 400000.0; give numbers from 0 to 300000"),
        (["0-30", "deep", 1], "dug", "2 values .* '0-30'"),
        ([np.inf, 1, 1], "dug", "not depths, for example inf"),
        ([True, False, True], "dug", "3 values of column 'dug' are not depths, for example True; give numbers"),
        (pd.array([True, None, 1.5], "object"), "dug", "1 values of column 'dug' are not depths, for example True"),
        (pd.array([True, None, False], "boolean"), ("dug", "cm"), "2 values of column 'dug' are not depths, for example True"),
        ([1, 1, 1], ("dug", "fathoms"), "unit of depth is 'fathoms'; it must be one of"),
        ([1, 1, 1], True, "depth is True; give a column, a number of metres"),
        ([1, 1, 1], ("dug", 5), "give a column, a number"),
        ([1, 1, 1], "hole", r"no column \['hole'\]"),
    ],
)
def test_depths_that_cannot_be_are_refused(values, depth, message):
    with pytest.raises(PointsError, match=message):
        read_points(frame(dug=values), depth=depth)


def test_one_depth_does_not_replace_a_column():
    with pytest.raises(PointsError, match="a column 'depth' already; name it, depth='depth'"):
        read_points(frame(depth=[0.5]), depth=1.0)
    assert read_points(frame(depth=[50]), depth=("depth", "cm"))["depth"].tolist() == [0.5]


def test_a_label_may_be_called_depth():
    """A task of that name has labels, and no observation's depth."""
    depth, points = Task("depth", "regression"), frame(permafrost=[0, 1], depth=[0.2, -3.0])
    found = observed(points, [PERMAFROST, depth])
    assert found.labels["permafrost"].tolist() == [0, 1]
    assert found.record == {}


def test_an_observation_that_stopped_above_the_depth_and_found_nothing_is_no_absence():
    points = frame(permafrost=LABELS, depth=DEPTHS)
    with pytest.warns(MisoxrWarning) as told:
        found = observed(points, [PERMAFROST, TAXONOMY])
    np.testing.assert_array_equal(found.labels["permafrost"], [np.nan, 1, 0, np.nan, 0, 1, 0])
    assert found.weights == {}
    assert found.record == {"permafrost": {"rule": "drop", "depth": 1.0, "censored": 1, "without_depth": 1}}
    assert len(told) == 1
    assert "1 labels 'absent' of 'permafrost' are censored: the observations stopped above 1 m (column 'depth')" in str(
        told[0].message
    )
    assert "1 labels 'absent' of 'permafrost' have no depth (column 'depth'), and are taken to hold down to 1 m" in str(
        told[0].message
    )


def test_censored_labels_weigh_the_share_that_was_seen():
    points = frame(permafrost=[0, 0, 0, 1, 0, None], depth=[0.4, 0.0, 1.0, 0.4, np.nan, 0.4])
    with pytest.warns(MisoxrWarning, match="2 labels .* They weigh as much as the share"):
        found = observed(points, [PERMAFROST], "weight")
    np.testing.assert_array_equal(found.labels["permafrost"], [0, np.nan, 0, 1, 0, np.nan])  # nothing was seen of the second
    np.testing.assert_allclose(found.weights["permafrost"][[0, 2, 3, 4]], [0.4, 1, 1, 1])


def test_censored_labels_can_stand():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = observed(frame(permafrost=LABELS, depth=DEPTHS), [PERMAFROST], "keep")
    np.testing.assert_array_equal(found.labels["permafrost"], [0, 1, 0, np.nan, 0, 1, 0])
    assert found.record["permafrost"]["censored"] == 1


@pytest.mark.parametrize("task", [replace(PERMAFROST, depth=None), replace(PERMAFROST, depth=0.3)])
def test_the_depth_is_the_tasks(task):
    """Without one nothing is censored; nor is an observation of 0.4 m where the task speaks of 0.3 m."""
    points = frame(permafrost=LABELS[:4], depth=DEPTHS[:4])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert observed(points, [task]).labels["permafrost"][:3].tolist() == [0, 1, 0]


def test_a_millimetre_is_no_matter():
    """39.37 inches are 0.999998 m."""
    points = read_points(frame(permafrost=[0, 0], dug=[39.37, 39.0]), depth=("dug", "in"))
    with pytest.warns(MisoxrWarning, match="1 labels"):
        np.testing.assert_array_equal(observed(points, [PERMAFROST]).labels["permafrost"], [0, np.nan])


def test_depths_that_seem_to_be_centimetres_are_told():
    """A file may have a column of this name that nobody has declared."""
    with pytest.warns(
        MisoxrWarning, match="Half of the depths are above 90 m. If they are cm, nothing is taken for censored that is"
    ):
        assert observed(frame(permafrost=[0, 1, 0], depth=[60, 90, 120]), [PERMAFROST]).record["permafrost"]["censored"] == 0


def test_no_depths_no_censoring():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert observed(frame(permafrost=[0, 1]), [PERMAFROST]).record == {}


def test_rules_and_depths_of_tasks_are_checked():
    with pytest.raises(SpecError, match="censored is 'wieght'; use one of .*Did you mean \"weight\""):
        observed(frame(permafrost=[0]), [PERMAFROST], "wieght")
    for depth in (0, -1.0, True, float("nan"), float("inf"), "1 m"):
        with pytest.raises(SpecError, match="The depth of task 'permafrost'"):
            replace(PERMAFROST, depth=depth)
    with pytest.raises(SpecError, match=r"The depth of task 'soc' \(regression\) is 1.0; give a binary task"):
        Task("soc", "regression", depth=1.0)
    with pytest.raises(PointsError, match="1 values of column 'depth' are not depths"):
        observed(frame(permafrost=[0], depth=["a metre"]), [PERMAFROST])


def test_a_specification_keeps_the_depth():
    spec = tiny_spec(tasks=(PERMAFROST,))
    assert ModelSpec.from_dict(spec.to_dict()).task("permafrost").depth == 1.0
    before = spec.to_dict()
    del before["tasks"][0]["depth"]  # as a checkpoint from before has it
    assert ModelSpec.from_dict(before).task("permafrost").depth is None


BOX = GeoBox((40, 50), Affine(20, 0, 300_000, 0, -20, 1_500_000), "EPSG:3338")


@pytest.mark.filterwarnings("ignore::misoxr.errors.MisoxrWarning")
def test_points_keep_their_weights_and_disks():
    """Of 20 m pixels, an accuracy of 10 m is half of one, and asks nothing more."""
    accuracy = [10.0, 10.5, np.nan, 100.0]
    points = frame(permafrost=[0, 0, 1, 0], depth=[0.5, 1.5, 0.1, 0.25], accuracy=accuracy)
    spec = tiny_spec(tasks=(PERMAFROST,))
    found = Labelled.of(points, spec, BOX, "weight")
    np.testing.assert_allclose(found.radius, [0, 0.525, 0, 5])
    np.testing.assert_allclose(found.weights["permafrost"], [0.5, 1, 1, 0.25])
    np.testing.assert_array_equal(found.scored["permafrost"], [np.nan, 0, 1, np.nan])
    dropped = Labelled.of(points, spec, BOX)
    np.testing.assert_allclose(dropped.radius, [0.525, 0])
    both = found.joined(dropped)
    np.testing.assert_allclose(both.weights["permafrost"], [0.5, 1, 1, 0.25, 1, 1])
    np.testing.assert_allclose(both.only(np.array([3, 4])).radius, [5, 0.525])
    with pytest.raises(PointsError, match="not lengths in metres"):
        Labelled.of(points.assign(accuracy="good"), spec, BOX)
    with pytest.raises(PointsError, match="4 values of column 'accuracy' are not lengths in metres, for example True"):
        Labelled.of(points.assign(accuracy=True), spec, BOX)
    with pytest.raises(PointsError, match="All labels are censored"):
        Labelled.of(points.iloc[[0, 3]], spec, BOX)


def test_a_report_counts_what_is_censored():
    table = report(frame(permafrost=LABELS, depth=DEPTHS), "permafrost")
    counts = table[table.by == "depth"].set_index("group")["count"]
    assert counts.to_dict() == {"censored": 1, "not censored": 4, "unknown": 1}
    assert (report(frame(permafrost=LABELS), "permafrost").by != "depth").all()


def test_depths_survive_a_file(tmp_path):
    read_points(frame(permafrost=[0, 1], dug=[40, 150]), depth=("dug", "cm")).to_file(tmp_path / "points.gpkg")
    again = read_points(tmp_path / "points.gpkg")
    pd.testing.assert_series_equal(again["depth"], pd.Series([0.4, 1.5], name="depth"))
