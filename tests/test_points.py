"""Points: reading them from anywhere, encoding labels, placing them, reading pixels at them."""

import dask.array as da
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import xarray as xr
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from misoxr.errors import BandError, MisoxrWarning, PointsError
from misoxr.grid import assign
from misoxr.points import encode, place, read_points, sample
from misoxr.spec import PERMAFROST, TAXONOMY, Task

DEPTH = Task("depth", "regression")
BOX = GeoBox((40, 50), Affine(10, 0, 300_000, 0, -10, 1_500_000), "EPSG:3338")


def table(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({"x": [300_005.0, 300_255.0, 300_495.0], "y": [1_499_995.0, 1_499_805.0, 1_499_605.0], **columns})


def frame(crs: str | None = "EPSG:3338", **columns: object) -> gpd.GeoDataFrame:
    plain = table(**columns)
    return gpd.GeoDataFrame(plain.drop(columns=["x", "y"]), geometry=gpd.points_from_xy(plain.x, plain.y), crs=crs)


LABELS = {"permafrost": "pf1m", "taxonomy": "tax_order"}


def labelled(**options: object) -> gpd.GeoDataFrame:
    return frame(**options, pf1m=[0, 1, None], tax_order=["Gelisols", None, "Histosols"], site=["a", "b", "c"])


@pytest.mark.parametrize("ending", ["gpkg", "geojson", "shp", "parquet"])
def test_files_of_points_are_read_with_their_crs(tmp_path, ending):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    points = labelled().to_crs("EPSG:4326" if ending == "geojson" else "EPSG:3338")
    path = tmp_path / f"pedons.{ending}"
    points.to_parquet(path) if ending == "parquet" else points.to_file(path)
    found = read_points(path, labels=LABELS)
    assert found.crs == points.crs
    assert {"permafrost", "taxonomy", "site"} <= set(found.columns)
    assert not {"pf1m", "tax_order"} & set(found.columns)
    np.testing.assert_allclose(found.geometry.x, points.geometry.x, rtol=1e-7)
    codes = encode(found, [PERMAFROST, TAXONOMY])
    np.testing.assert_array_equal(codes["permafrost"], [0, 1, np.nan])
    np.testing.assert_array_equal(codes["taxonomy"], [2, np.nan, 3])


def test_parquet_without_geometry_is_a_table(tmp_path):
    pytest.importorskip("pyarrow")
    table(pf1m=[1, 0, 1]).to_parquet(tmp_path / "points.parquet")
    found = read_points(tmp_path / "points.parquet", crs=3338, labels={"permafrost": "pf1m"})
    assert list(found.geometry.x) == list(table().x)


def test_tables_are_read_by_their_columns(tmp_path):
    table(pf1m=[1, 0, ""]).to_csv(tmp_path / "points.csv", index=False)
    found = read_points(str(tmp_path / "points.csv"), crs="EPSG:3338", labels={"permafrost": "pf1m"})
    np.testing.assert_array_equal(encode(found, [PERMAFROST])["permafrost"], [1, 0, np.nan])
    assert list(found.geometry.x) == list(table().x)

    degrees = read_points(pd.DataFrame({"Lon": [-150.0], "LAT": [64.0]}))
    assert degrees.crs.to_epsg() == 4326
    assert (degrees.geometry.x[0], degrees.geometry.y[0]) == (-150.0, 64.0)

    named = read_points(table().rename(columns={"x": "east", "y": "north"}), crs=3338, x="east", y="north")
    assert named.crs.to_epsg() == 3338
    assert read_points(pd.DataFrame({"longitude": [-150], "latitude": [64]}), crs="EPSG:4269").crs.to_epsg() == 4269


def test_labels_are_renamed_and_the_rest_is_kept():
    source = labelled()
    found = read_points(source, labels={"permafrost": "pf1m"})
    assert list(found["permafrost"].dropna()) == [0, 1]
    assert "tax_order" in found.columns
    assert "pf1m" in source.columns  # the caller's table is untouched
    assert set(read_points(labelled(), labels={"pf1m": "pf1m"}).columns) == set(labelled().columns)
    swapped = read_points(labelled(), labels={"site": "pf1m", "pf1m": "site"})
    assert list(swapped["pf1m"]) == ["a", "b", "c"]
    twice = read_points(labelled(), labels={"a": "pf1m", "b": "pf1m"})
    assert twice["a"].equals(twice["b"])


def polygons() -> gpd.GeoDataFrame:
    points = labelled()
    return points.set_geometry(points.buffer(5))


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (lambda: labelled(crs=None), {}, 'no CRS; say which it is, for example crs="EPSG:4326"'),
        (lambda: table(), {}, "no CRS"),
        (lambda: labelled(), {"crs": "EPSG:4326"}, "says otherwise"),
        (lambda: labelled(), {"labels": {"peat": "peat_bin"}}, r"no column \['peat_bin'\]; the columns are \['pf1m'"),
        (lambda: labelled(), {"labels": {"site": "pf1m"}}, r"columns \['site'\] already"),
        (lambda: table(), {"x": "east", "y": "north"}, r"no column \['east', 'north'\]"),
        (lambda: table(), {"x": "x"}, "need two columns"),
        (lambda: pd.DataFrame({"a": [1]}), {}, "hold no lon/lat or x/y"),
        (lambda: labelled().iloc[:0], {}, "no points"),
        (polygons, {}, r"\['Polygon'\], not points; .*representative_point"),
        (
            lambda: labelled().set_geometry([shapely.Point(), None, shapely.Point(1, 2)]).set_crs(3338),
            {},
            "2 of 3 points have no coord",
        ),
        (lambda: table().assign(x=[1.0, None, 2.0]), {"crs": 3338}, "1 of 3 points have no coordinates"),
        (lambda: table().assign(x=["1", "2", "3 m"]), {"crs": 3338}, "not all numbers"),
        (lambda: "/nowhere/pedons.gpkg", {}, "'/nowhere/pedons.gpkg' cannot be read"),
        (lambda: "/nowhere/pedons.csv", {}, "cannot be read"),
    ],
)
def test_points_that_cannot_be_used_are_refused(source, options, message):
    with pytest.raises(PointsError, match=message):
        read_points(source(), **options)


@pytest.mark.parametrize(
    "values",
    [
        ["present", "absent", None],
        [1, 0, np.nan],
        pd.array([1, 0, None], "Int64"),
        pd.array([True, False, None], "boolean"),
        pd.Categorical(["present", "absent", None]),
        [np.True_, 0.0, pd.NA],
        [" present ", "absent", " "],
    ],
)
def test_binary_labels_come_as_names_codes_or_booleans(values):
    np.testing.assert_array_equal(encode(frame(permafrost=values), [PERMAFROST])["permafrost"], [1, 0, np.nan])


@given(st.lists(st.one_of(st.none(), st.integers(0, 6)), min_size=1), st.booleans())
def test_class_names_and_codes_mean_the_same(codes, named):
    expected = np.array([np.nan if code is None else code for code in codes])
    values = [code if code is None or not named else TAXONOMY.classes[code] for code in codes]
    points = pd.DataFrame({"taxonomy": pd.Series(values, dtype="object"), "permafrost": 1})
    np.testing.assert_array_equal(encode(points, [TAXONOMY, PERMAFROST])["taxonomy"], expected)


def test_a_task_without_a_column_is_unknown_and_numbers_are_kept():
    codes = encode(frame(depth=[0.5, None, -3]), [PERMAFROST, DEPTH])
    assert np.isnan(codes["permafrost"]).all()
    np.testing.assert_array_equal(codes["depth"], [0.5, np.nan, -3])


@pytest.mark.parametrize(
    ("columns", "task", "message"),
    [
        (
            {"taxonomy": ["Gelisols", "Ultisols", "Ultisols"]},
            TAXONOMY,
            r"2 labels of 'taxonomy' are unknown \('Ultisols'\); .*Andisols",
        ),
        ({"taxonomy": [0, 7, -1]}, TAXONOMY, r"2 labels of 'taxonomy' are unknown \(-1, 7\)"),
        ({"taxonomy": [True, 1, 2]}, TAXONOMY, r"1 labels .*\(True\)"),
        ({"permafrost": [0, 0.5, 2]}, PERMAFROST, r"2 labels of 'permafrost' are unknown \(0.5, 2.0\)"),
        ({"permafrost": ["yes", "present", "1"]}, PERMAFROST, "2 labels .*'1', 'yes'"),
        ({"depth": [1.0, float("inf"), 2]}, DEPTH, r"1 labels of 'depth' are unknown \(inf\); the task takes numbers"),
        ({"depth": ["12 cm", 3, 4]}, DEPTH, r"1 labels .*'12 cm'"),
        ({"taxonomy": [None] * 3}, TAXONOMY, r"No point has a label of \['taxonomy'\]; the columns are .*labels=\{task: column\}"),
        ({"tax_order": ["Gelisols"] * 3}, TAXONOMY, "No point has a label"),
    ],
)
def test_unknown_labels_are_named(columns, task, message):
    with pytest.raises(PointsError, match=message):
        encode(frame(**columns), [task])


def test_points_are_placed_in_pixels_of_the_grid():
    points, rows, columns = place(labelled().to_crs("EPSG:4326"), BOX)
    assert points.crs.to_epsg() == 3338
    np.testing.assert_allclose(rows, [0.5, 19.5, 39.5], atol=1e-4)
    np.testing.assert_allclose(columns, [0.5, 25.5, 49.5], atol=1e-4)
    assert list(points["site"]) == ["a", "b", "c"]


def test_points_outside_are_left_out_with_a_warning():
    smaller = BOX[5:40, 0:45]
    with pytest.warns(MisoxrWarning, match="2 of 3 points lie outside the cube"):
        points, rows, columns = place(labelled(), smaller)
    assert list(points["site"]) == ["b"]
    assert (len(rows), len(columns)) == (1, 1)


def test_points_that_all_lie_outside_are_refused_with_both_extents():
    far = GeoBox((10, 10), Affine(10, 0, 0, 0, -10, 100), "EPSG:3338")
    with pytest.raises(PointsError, match=r"All 3 points .*\(300005, 1499605, 300495, 1499995\) and the cube \(0, 0, 100, 100\)"):
        place(labelled(), far)
    swapped = gpd.GeoDataFrame(geometry=gpd.points_from_xy([64.0], [-150.0]), crs="EPSG:4326")  # latitude first
    with pytest.raises(PointsError, match="All 1 points lie outside"):
        place(swapped, BOX)
    with pytest.raises(PointsError, match="no CRS"):
        place(labelled(crs=None), BOX)


def test_pixels_are_read_from_the_chunks_that_hold_points_only():
    read = []

    def block(block_info=None):
        at = block_info[None]["chunk-location"]
        read.append(at)
        (top, bottom), (left, right) = block_info[None]["array-location"]
        return np.arange(top, bottom)[:, None] * 100.0 + np.arange(left, right)

    lazy = da.map_blocks(block, chunks=((10,) * 4, (10,) * 5), dtype="float64", meta=np.empty((0, 0)))
    ds = assign(xr.Dataset({"a": (("y", "x"), lazy), "b": (("x", "y"), -lazy.T)}), BOX)
    rows, columns = np.array([39.9, 0.5, 33.2, 0.1]), np.array([0.5, 49.99, 9.7, 40.0])
    found = sample(ds, ["b", "a"], rows, columns)
    expected = np.floor(rows) * 100 + np.floor(columns)
    assert found.dtype == "float32"
    np.testing.assert_array_equal(found, np.stack([-expected, expected], axis=1))
    assert set(read) == {(3, 0), (0, 4)}
    np.testing.assert_array_equal(sample(ds.compute(), ["b", "a"], rows, columns), found)
    with pytest.raises(BandError, match=r"lacks \['c'\]; it has \['a', 'b'\]"):
        sample(ds, ["a", "c"], rows, columns)
