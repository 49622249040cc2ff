"""Points: reading them from anywhere, encoding labels, placing them, reading pixels at them."""

import json

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

from misoxr.cube.features import values_at
from misoxr.cube.presets import spec_for
from misoxr.errors import MisoxrWarning, PointsError
from misoxr.grid.geobox import assign
from misoxr.points.censoring import observed
from misoxr.points.labelled import Labelled
from misoxr.points.read import encode, place, read_points, regions_of
from misoxr.points.reports import duplicates, report
from misoxr.points.years import date_of
from misoxr.spec import PERMAFROST, SENTINEL2, TAXONOMY, Task
from tests.conftest import make_cube, tiny_spec

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
    table(pf1m=[1, 0, ""]).to_csv(tmp_path / "points.tsv.gz", index=False, sep="\t")
    both = [read_points(tmp_path / name, crs=3338) for name in ("points.tsv.gz", "points.csv")]
    pd.testing.assert_frame_equal(*both)
    found = read_points(str(tmp_path / "points.csv"), crs="EPSG:3338", labels={"permafrost": "pf1m"})
    np.testing.assert_array_equal(encode(found, [PERMAFROST])["permafrost"], [1, 0, np.nan])
    assert list(found.geometry.x) == list(table().x)

    degrees = read_points(pd.DataFrame({"Lon": [-150.0], "LAT": [64.0]}))
    assert degrees.crs.to_epsg() == 4326
    assert (degrees.geometry.x[0], degrees.geometry.y[0]) == (-150.0, 64.0)

    named = read_points(table().rename(columns={"x": "east", "y": "north"}), crs=3338, x="east", y="north")
    assert named.crs.to_epsg() == 3338
    assert read_points(pd.DataFrame({"longitude": [-150], "latitude": [64]}), crs="EPSG:4269").crs.to_epsg() == 4269


def test_x_and_y_go_before_degrees_in_a_projected_crs():
    both = table(lon=[-150.0, -149.0, -148.0], lat=64.0)
    assert list(read_points(both, crs="EPSG:3338").geometry.x) == list(table().x)
    assert list(read_points(both).geometry.x) == [-150, -149, -148]
    assert list(read_points(both, crs="EPSG:4269").geometry.x) == [-150, -149, -148]
    degrees = both.drop(columns=["x", "y"])
    with pytest.raises(
        PointsError,
        match=r"'lon' and 'lat' hold degrees, .*crs='EPSG:3338' is not in degrees\. Leave crs out.*to_crs\('EPSG:3338'\)",
    ):
        read_points(degrees, crs="EPSG:3338")
    assert read_points(degrees, crs="EPSG:3338", x="lon", y="lat").crs.to_epsg() == 3338
    metres = table().rename(columns={"x": "lon", "y": "lat"})
    assert list(read_points(metres, crs=3338).geometry.x) == list(table().x)


def test_coordinates_that_stand_twice_are_refused():
    with pytest.raises(PointsError, match=r"columns \['lon', 'LON'\] may each be the coordinate; keep one, or name"):
        read_points(pd.DataFrame({"lon": [-150.0], "LON": [-15.0], "lat": [64.0]}))
    degrees = pd.DataFrame({"lon": [-150.0], "lat": [64.0]})
    with pytest.raises(PointsError, match=r"columns \['lon', 'lon'\] may each"):
        read_points(pd.concat([degrees, degrees[["lon"]]], axis=1))
    assert len(read_points(degrees.assign(X=1.0, x=2.0))) == 1


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
        (lambda: labelled(crs=None), {}, 'no CRS; say which it is: points = points\\.set_crs\\("EPSG:4326"\\)'),
        (lambda: table(), {}, "no CRS"),
        (lambda: labelled(), {"crs": "EPSG:4326"}, "says otherwise"),
        (lambda: labelled(), {"labels": {"peat": "peat_bin"}}, r"no column \['peat_bin'\]; the columns are \['pf1m'"),
        (lambda: labelled(), {"labels": {"site": "pf1m"}}, r"columns \['site'\] already"),
        (lambda: table(), {"x": "east", "y": "north"}, r"no column \['east', 'north'\]"),
        (lambda: table(), {"x": "x"}, "need two columns"),
        (lambda: table(), {"x": ["x"], "y": "y"}, r"x is \['x'\]; give the name of one column"),
        (lambda: labelled(), {"labels": {"peat": ["pf1m"]}}, r"labels\['peat'\] is \['pf1m'\]; give the name of one column"),
        (lambda: labelled(), {"date": ["seen"]}, r"date is \['seen'\]; give the name of one column"),
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
        (
            {"taxonomy": ["gelisol", "HISTOSOLS ", "Mollisols"]},
            TAXONOMY,
            r"2 labels .*replace\(\{'HISTOSOLS ': 'Histosols', 'gelisol': 'Gelisols'\}\)\.$",
        ),
        (
            {"taxonomy": ["gelisol", "rock", "Mollisols"]},
            TAXONOMY,
            r"replace\(\{'gelisol': 'Gelisols'\}\), and set others to missing",
        ),
        ({"taxonomy": [0, 7, -1]}, TAXONOMY, r"2 labels of 'taxonomy' are unknown \(-1, 7\)"),
        ({"taxonomy": [True, 1, 2]}, TAXONOMY, r"1 labels .*\(True\)"),
        ({"permafrost": [0, 0.5, 2]}, PERMAFROST, r"2 labels of 'permafrost' are unknown \(0.5, 2.0\)"),
        ({"permafrost": ["yes", "present", "1"]}, PERMAFROST, r"1 labels .*\('yes'\)"),
        ({"permafrost": ["2", "nan", "0"]}, PERMAFROST, "2 labels .*'2', 'nan'"),
        ({"taxonomy": [1, 2, 7]}, TAXONOMY, "1 labels .*codes seem to begin at 1: subtract 1"),
        ({"depth": [1.0, float("inf"), 2]}, DEPTH, r"1 labels of 'depth' are unknown \(inf\); the task takes numbers"),
        ({"depth": ["12 cm", 3, 4]}, DEPTH, r"1 labels .*'12 cm'"),
        ({"depth": [5.0, 9999, 35]}, DEPTH, "1 of 3 labels of 'depth' are 9999, and the others 5 to 35"),
        ({"depth": [5.0, -99, 35]}, DEPTH, "1 of 3 labels of 'depth' are -99, and the others 5 to 35"),
        ({"depth": [5.0, -999, 3500]}, DEPTH, "1 of 3 labels of 'depth' are -999, and the others 5 to 3500"),
        (
            {"depth": [12.0, -9999, 30]},
            DEPTH,
            r"1 of 3 labels of 'depth' are -9999, and the others 12 to 30.*points\['depth'\].replace\(-9999, float\('nan'\)\)",
        ),
        ({"taxonomy": [None] * 3}, TAXONOMY, r"No point has a label of \['taxonomy'\]; the columns are .*labels=\{task: column\}"),
        ({"tax_order": ["Gelisols"] * 3}, TAXONOMY, "No point has a label"),
    ],
)
def test_unknown_labels_are_named(columns, task, message):
    with pytest.raises(PointsError, match=message):
        encode(frame(**columns), [task])


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (
            [9999, 120, 80],
            {"depth": ("d", "cm")},
            r"1 of 3 depths of column 'd' are 9999, and the others 80 to 120\. .*points\['d'\]",
        ),
        ([999, 120, 999], {"depth": ("d", "cm")}, "2 of 3 depths of column 'd' are 999"),
        ([999, 999, None], {"depth": ("d", "cm")}, r"2 of 3 depths of column 'd' are 999\. If it stands for unknown"),
        ([999, 1.2, 0.8], {"depth": "d"}, "1 of 3 depths of column 'd' are 999"),
        ([9999, 5, 5], {"accuracy": "d"}, "1 of 3 values of column 'd' are 9999, and the others 5 to 5"),
    ],
)
def test_fill_values_of_depths_and_accuracies_are_refused(values, options, message):
    with pytest.raises(PointsError, match=message):
        read_points(frame(d=values), **options)


def test_deep_holes_and_wide_disks_are_kept():
    assert list(read_points(frame(d=[999, 300, 80]), depth=("d", "cm"))["depth"]) == [9.99, 3.0, 0.8]
    assert list(read_points(frame(d=[30.0, 600.0, 1.0]), depth=("d", "m"))["depth"]) == [30.0, 600.0, 1.0]
    assert list(read_points(frame(d=[999, 1000, 301]), accuracy="d")["accuracy"]) == [999, 1000, 301]


def test_values_like_fill_values_are_kept_where_others_are_near():
    values = [-9999.0, -12_000.0, 3_000.0]
    np.testing.assert_array_equal(encode(frame(depth=values), [DEPTH])["depth"], values)
    np.testing.assert_array_equal(encode(frame(depth=[-999.0] * 3), [DEPTH])["depth"], [-999.0] * 3)


def test_points_that_are_none_are_refused():
    lonlat = pd.DataFrame({"lon": [65.0, 66.0], "lat": [-150.0, -149.0], "pf": [0, 1]})
    right = lonlat.rename(columns={"lon": "lat", "lat": "lon"})
    for source, options, message in (
        (lonlat, {}, "Latitudes reach from -150 to -149 degrees; are x and y swapped"),
        (right.assign(lon=[-9999.0, -150.0]), {}, "Longitudes reach from -9999 to -150 degrees; do some stand for missing"),
        ([1, 2], {}, "points are a list; give a table"),
        (right, {"labels": ["pf"]}, r"labels is \['pf'\]; give the column of each task"),
        (right, {"x": "lon", "y": "lat", "crs": "alaska"}, "crs='alaska' is not known"),
    ):
        with pytest.raises(PointsError, match=message):
            read_points(source, **options)


def test_labels_without_a_name_of_their_own_are_settled_too():
    columns = {"lon": [-150.0, -149.0], "lat": [65.0, 66.0], "permafrost": [[0, 1], [1, 1]]}
    with pytest.warns(MisoxrWarning, match="1 of 'permafrost'"):
        assert read_points(pd.DataFrame(columns)).permafrost.tolist() == [1]


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
    rows, columns = np.array([39.9, 0.5, 33.2, 0.1]), np.array([0.5, 49.99, 9.7, 40.0])
    expected = np.floor(rows) * 100 + np.floor(columns)
    np.testing.assert_array_equal(values_at(lazy[None], rows, columns), expected[None])
    assert set(read) == {(3, 0), (0, 4)}


def record(number: int, order: object, frozen: object, **more: object) -> dict[str, object]:
    """One record of the authors' point file; x and y are the truth, lon and lat far away."""
    place = {"lon": -150.0, "lat": 64.0, "x_3338": 300_005.0 + 10 * number, "y_3338": 1_499_995.0}
    return {"id": number, **place, "tax_order": order, "aksdb_pf1m_bin": frozen, **more}


AUTHORS = [
    record(0, "Gelisols", 1),
    record(1, ["Gelisols", "Gelisols"], [1, 1]),
    record(2, ["Gelisols", "Histosols"], 0),  # the order is ambiguous, permafrost is not
    record(3, ["Gelisols", None, float("nan"), " Gelisols"], [1, 0]),
    record(4, None, [1, 0, None]),  # nothing is left
    record(5, ["Gelisols", "Entisols"], [0, 1]),  # nor here
    record(6, None, None),  # never had a label
    record(7, [], [None, float("nan")]),  # nor this one
    record(8, ["Alfisols"], [float("nan"), 0]),
]
AMBIGUOUS = (
    r"Observations of one place differ and are set to missing: 3 of 'permafrost', 2 of 'taxonomy'\. "
    r"2 of 9 points are left without a label and dropped\."
)


def written(path, content: object):
    path.write_text(json.dumps(content))
    return path


def test_the_authors_file_is_read_with_its_lists(tmp_path):
    with pytest.warns(MisoxrWarning, match=AMBIGUOUS) as warned:
        found = read_points(written(tmp_path / "aksdb.json", AUTHORS), id="id")
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert found.crs.to_epsg() == 3338
    assert list(found["id"]) == [0, 1, 2, 3, 6, 7, 8]
    np.testing.assert_array_equal(found.geometry.x, 300_005.0 + 10 * found["id"])
    assert not {"tax_order", "aksdb_pf1m_bin"} & set(found.columns)
    np.testing.assert_array_equal(encode(found, [PERMAFROST])["permafrost"], [1, 1, 0, np.nan, np.nan, np.nan, 0])
    orders = ["Gelisols", "Gelisols", None, "Gelisols", None, None, "Alfisols"]
    assert list(found["taxonomy"].astype(object).where(found["taxonomy"].notna(), None)) == orders
    with pytest.raises(PointsError, match=r"1 labels of 'taxonomy' are unknown \('Alfisols'\)"):
        encode(found, [TAXONOMY])


def test_records_may_lack_columns_and_options_go_before_their_defaults(tmp_path):
    degrees = [{"lon": [-150.0, -150.0], "lat": 64.0, "tax_order": "Gelisols"}, {"lon": -151.0, "lat": 64.5}]
    path = written(tmp_path / "degrees.json", degrees)
    found = read_points(path)
    assert found.crs.to_epsg() == 4326
    assert list(found.geometry.x) == [-150.0, -151.0]
    assert "taxonomy" in found.columns
    assert "permafrost" not in found.columns
    assert "tax_order" in read_points(path, labels={}).columns
    assert "order" in read_points(path, labels={"order": "tax_order"}).columns

    path = written(tmp_path / "aksdb.json", AUTHORS[:2])
    assert read_points(path, crs=3338).crs.to_epsg() == 3338
    assert list(read_points(path, x="lon", y="lat", crs=4326).geometry.y) == [64.0, 64.0]
    with pytest.raises(PointsError, match="Alaska Albers and crs='EPSG:4326' says otherwise"):
        read_points(path, crs="EPSG:4326")
    # Only a list of records is the authors' file: a table keeps its columns.
    assert "tax_order" in read_points(pd.DataFrame(AUTHORS[:2])).columns


@pytest.mark.parametrize("ending", ["json", "geojson"])
def test_geojson_is_read_as_such_and_its_lists_are_lists(tmp_path, ending):
    """Also where a column mixes names and lists, of which GDAL makes text."""
    orders = ["Gelisols", ["Histosols", "Histosols"], ["Gelisols", "Histosols"]]
    features = [
        {"type": "Feature", "properties": properties, "geometry": {"type": "Point", "coordinates": [-150 - number, 64]}}
        for number, properties in enumerate({"tax_order": order, "pf1m": [1, 1], "note": "[1]"} for order in orders)
    ]
    path = written(tmp_path / f"points.{ending}", {"type": "FeatureCollection", "features": features})
    with pytest.warns(MisoxrWarning, match=r"missing: 1 of 'taxonomy'\. 0 of 3 points") as warned:
        found = read_points(path, labels=LABELS)
    assert len(warned) == 1
    assert found.crs.to_epsg() == 4326
    assert list(found.geometry.x) == [-150, -151, -152]
    assert list(found["note"]) == ["[1]"] * 3
    codes = encode(found, [PERMAFROST, TAXONOMY])
    np.testing.assert_array_equal(codes["permafrost"], [1, 1, 1])
    np.testing.assert_array_equal(codes["taxonomy"], [2, 3, np.nan])
    assert "tax_order" in read_points(path).columns


def test_lists_of_any_table_become_one_value_and_texts_are_not_split(tmp_path):
    lists = [np.array([1, 0]), (1.0, 1), {0, None}]
    with pytest.warns(MisoxrWarning, match=r"1 of 'permafrost'\. 1 of 3 points are left"):
        found = read_points(frame(pf1m=lists, tax_order=[["Gelisols", "Histosols"], None, None]), labels={"permafrost": "pf1m"})
    np.testing.assert_array_equal(found["permafrost"], [1, 0])
    assert list(found.index) == [1, 2]
    assert "tax_order" in found.columns

    source = frame(pf1m=[1, 0, None])
    pd.testing.assert_series_equal(read_points(source, labels={"pf1m": "pf1m"})["pf1m"], source["pf1m"])
    texts = read_points(frame(taxonomy=["Gelisols, Histosols", "['Gelisols', 'Gelisols']", None]), labels={"taxonomy": "taxonomy"})
    with pytest.raises(PointsError, match="2 labels of 'taxonomy' are unknown"):
        encode(texts, [TAXONOMY])
    with pytest.raises(PointsError, match=r"1 labels of 'taxonomy' are unknown \(\['Gelisols', 'Gelisols'\]\)"):
        encode(frame(taxonomy=[["Gelisols", "Gelisols"], None, None]), [TAXONOMY])  # not named when read
    with pytest.raises(PointsError, match="1 of 3 points have no coordinates"):
        read_points(table().assign(x=[[1.0, 2.0], 3.0, 4.0]), crs=3338)

    pytest.importorskip("pyarrow")
    frame(tax_order=[["Gelisols", None], ["Histosols"] * 2, None]).to_parquet(tmp_path / "lists.parquet")
    read = read_points(tmp_path / "lists.parquet", labels={"taxonomy": "tax_order"})
    np.testing.assert_array_equal(encode(read, [TAXONOMY])["taxonomy"], [2, 3, np.nan])


@given(st.lists(st.lists(st.one_of(st.none(), st.sampled_from([0, 1])), max_size=4), min_size=1, max_size=5))
def test_a_list_is_the_value_that_its_known_members_share(lists):
    kinds = [set(values) - {None} for values in lists]
    kept = [kind for kind in kinds if len(kind) < 2]
    plain = pd.DataFrame({"x": range(len(lists)), "y": 0.0, "pf1m": pd.Series(lists, dtype=object)})
    if not kept:
        with pytest.raises(PointsError, match="No point is left with a label"):
            read_points(plain, crs=3338, labels={"permafrost": "pf1m"})
        return
    if len(kept) < len(kinds):
        with pytest.warns(MisoxrWarning, match=f"{len(kinds) - len(kept)} of 'permafrost'"):
            found = read_points(plain, crs=3338, labels={"permafrost": "pf1m"})
    else:
        found = read_points(plain, crs=3338, labels={"permafrost": "pf1m"})
    expected = [next(iter(kind), np.nan) for kind in kept]
    np.testing.assert_array_equal(found["permafrost"].astype("float64"), expected)


OPTIONS = {"labels": {"permafrost": "pf1m"}, "date": "seen", "accuracy": "gps", "id": "site"}


@pytest.mark.parametrize("ending", ["csv", "parquet", "gpkg", "geojson"])
def test_dates_accuracies_and_ids_survive_every_format(tmp_path, ending):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    seen = pd.to_datetime(["2015-07-01", None, "2019-08-20"])
    columns = {"pf1m": [1, 0, None], "seen": seen, "gps": [5, None, 30.5], "site": ["a", "b", "c"]}
    path = tmp_path / f"pedons.{ending}"
    if ending == "csv":
        table(**columns).to_csv(path, index=False)
    elif ending == "parquet":
        frame(**columns).to_parquet(path)
    else:
        frame(**columns).to_crs(3338 if ending == "gpkg" else 4326).to_file(path)
    crs = "EPSG:3338" if ending == "csv" else None
    found = read_points(path, crs=crs, **OPTIONS).to_crs("EPSG:32606")
    assert found["date"].dtype.kind == "M"
    assert found["accuracy"].dtype == "float64"
    np.testing.assert_array_equal(found["date"].to_numpy(dtype="datetime64[D]"), seen.to_numpy(dtype="datetime64[D]"))
    np.testing.assert_array_equal(found["accuracy"], [5, np.nan, 30.5])
    assert list(found["id"]) == ["a", "b", "c"]
    assert not {"seen", "gps", "site", "pf1m"} & set(found.columns)
    np.testing.assert_allclose(found.to_crs(3338).geometry.x, table().x, atol=1)
    if ending == "gpkg":
        with pytest.raises(PointsError, match="says otherwise; leave crs out"):
            read_points(path, crs="EPSG:4326")


@pytest.mark.parametrize(
    ("values", "days"),
    [
        ([2015, 1999, 2020], ["2015-01-01", "1999-01-01", "2020-01-01"]),
        ([2015.0, np.nan, 2020.0], ["2015-01-01", "NaT", "2020-01-01"]),
        (["2015", " 2015-07 ", ""], ["2015-01-01", "2015-07-01", "NaT"]),
        ([20150701, "20150702", pd.Timestamp("2015-07-03").date()], ["2015-07-01", "2015-07-02", "2015-07-03"]),
        (["2015-07-01T22:00-08:00", np.datetime64("2015-07-02"), None], ["2015-07-02", "2015-07-02", "NaT"]),
        (pd.to_datetime(["2015-07-01T22:00"] * 3).tz_localize("America/Anchorage"), ["2015-07-02"] * 3),
        ([[2015, 2015], [None, "2016-01-01"], []], ["2015-01-01", "2016-01-01", "NaT"]),
        (pd.PeriodIndex(["2015-07", "2016-01", None], freq="M"), ["2015-07-01", "2016-01-01", "NaT"]),
    ],
)
def test_dates_are_years_iso_8601_or_datetimes(values, days):
    found = read_points(frame(date=values), date="date")["date"]
    assert found.dtype.kind == "M"
    np.testing.assert_array_equal(found.to_numpy(dtype="datetime64[D]"), np.array(days, dtype="datetime64[D]"))


def test_dates_and_accuracies_of_one_place_that_differ_are_missing_and_drop_no_point():
    source = frame(pf1m=[1, 0, 1], seen=[[2015, 2016], 2015, None], gps=[[5, 5], [5, 50], 3])
    with pytest.warns(MisoxrWarning, match=r"missing: 1 of 'date', 1 of 'accuracy'\. 0 of 3 points"):
        found = read_points(source, labels={"permafrost": "pf1m"}, date="seen", accuracy="gps")
    assert list(found["date"].dt.year.fillna(0)) == [0, 2015, 0]
    np.testing.assert_array_equal(found["accuracy"], [5, np.nan, 3])


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            {"seen": ["7/1/2015", "2015", "soon"]},
            {"date": "seen"},
            "2 values of column 'seen' are not dates, for example '7/1/2015'",
        ),
        (
            {"seen": ["today", "now", None]},
            {"date": "seen"},
            "2 values .*'today'; write them as 2015-07-01 or 2015, or .*to_datetime",
        ),
        ({"seen": [5, 2015.5, True]}, {"date": "seen"}, "3 values of column 'seen' are not dates, for example 5;"),
        ({"gps": [-5.0, 3, None]}, {"accuracy": "gps"}, "1 values of column 'gps' are not lengths in metres, for example -5.0;"),
        (
            {"gps": ["10 m", 3, float("inf")]},
            {"accuracy": "gps"},
            "2 values .* example '10 m'; give numbers from 0, or set them to",
        ),
        ({"seen": [2015] * 3}, {"date": "year"}, r"no column \['year'\]"),
        ({"seen": [2015] * 3, "date": 1}, {"date": "seen"}, r"columns \['date'\] already, which the new names would overwrite"),
        ({"a": [1] * 3}, {"labels": {"id": "a"}, "id": "a"}, r"both fill the columns \['id'\]; give those tasks other names"),
        ({"a": [[0, 1]] * 3}, {"labels": {"a": "a"}}, "missing: 3 of 'a'. No point is left with a label; settle"),
    ],
)
def test_columns_that_cannot_be_used_are_refused(columns, options, message):
    with pytest.raises(PointsError, match=message):
        read_points(frame(**columns), **options)


def test_a_column_that_is_there_twice_is_refused_where_it_is_used():
    def twice(name, value):
        points = frame(permafrost=[1, 0, 1], soc=[0.5, 1.5, 2.5])
        return points.assign(**{name: value, "other": value}).rename(columns={"other": name})

    cube, spec = make_cube((8, 8), SENTINEL2), tiny_spec(tasks=(PERMAFROST,))
    for name, use in (
        ("permafrost", read_points),
        ("seen", lambda points: read_points(points, labels={"permafrost": "seen"})),
        ("soc", lambda points: encode(points, [Task("soc", "regression")])),
        ("soc", lambda points: spec_for("miso-nano", cube, points, ["soc"])),
        ("depth", lambda points: observed(points, (PERMAFROST,))),
        ("accuracy", lambda points: Labelled.of(points, spec, BOX)),
        ("date", date_of),
        ("date", report),
        ("zone", lambda points: regions_of(points, points, "zone")),
    ):
        with pytest.raises(PointsError, match=f"There are 2 columns '{name}'; keep one"):
            use(twice(name, 1.0))
    assert len(read_points(twice("note", "x"))) == 3  # is not used


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"lon": 1, "lat": 2}',
            "holds a dict, not points; give a GeoJSON FeatureCollection, or a list of records with lon and lat",
        ),
        ("[1, [2]]", "holds a list of int, list, not points"),
        ("3", "holds a int, not points"),
        ("[]", "There are no points: the table has 0 rows"),
        ('[{"id": 1}]', r"columns \['id'\] hold no lon/lat or x/y"),
        ('[{"x_3338": 1, "y_3338": null}]', "1 of 1 points have no coordinates in 'x_3338' and 'y_3338'"),
        ("[1, 2", "points.json' cannot be read: Expecting"),
        ('{"type": "FeatureCollection", "features": 1}', "points"),
    ],
)
def test_json_of_another_shape_is_refused(tmp_path, text, message):
    path = tmp_path / "points.json"
    path.write_text(text)
    with pytest.raises(PointsError, match=message):
        read_points(path)


def test_a_missing_json_is_refused():
    with pytest.raises(PointsError, match=r"'/nowhere/points.json' cannot be read: .*No such file"):
        read_points("/nowhere/points.json")


def crowd() -> gpd.GeoDataFrame:
    """Six points: three in pixel (0, 0), two in (3, 4), one alone in (20, 20)."""
    x = [300_001, 300_009, 300_005, 300_041, 300_049, 300_205]
    y = [1_499_999, 1_499_991, 1_499_995, 1_499_965, 1_499_965, 1_499_795]
    columns = {
        "permafrost": [1, "present", None, 0, 1, 0],
        "taxonomy": ["Gelisols", "Histosols", "Gelisols", None, "Entisols", "Alfisols"],
        "depth": [0.5, 0.25, None, 1.0, 1, 2.0],
        "date": [2015, 2015, 2015, "2019-08-20", None, None],
    }
    return read_points(gpd.GeoDataFrame(columns, geometry=gpd.points_from_xy(x, y), crs=3338), date="date")


def test_points_that_share_a_pixel_are_found():
    found = duplicates(crowd().to_crs(4326).sample(frac=1, random_state=0), BOX)
    expected = {"row": [0, 3], "column": [0, 4], "count": [3, 2], "permafrost": [True, False], "taxonomy": [False, True]}
    pd.testing.assert_frame_equal(found, pd.DataFrame(expected))
    assert list(duplicates(crowd(), BOX, ["depth", TAXONOMY])["depth"]) == [False, True]
    assert list(duplicates(crowd()[["geometry"]], BOX).columns) == ["row", "column", "count"]
    alone = duplicates(crowd().iloc[[5]], BOX)
    assert (len(alone), list(alone.columns)) == (0, ["row", "column", "count", "permafrost", "taxonomy"])
    with pytest.raises(PointsError, match=r"no column \['peat'\]"):
        duplicates(crowd(), BOX, ["peat"])
    with pytest.warns(MisoxrWarning, match="1 of 6 points lie outside"):
        assert len(duplicates(crowd(), BOX[:10, :10])) == 2


def counts(found: pd.DataFrame, by: str, task: str) -> dict[str, int]:
    part = found[(found["by"] == by) & (found["task"] == task)]
    assert part["group"].is_unique
    return dict(zip(part["group"], part["count"], strict=True))


def test_a_report_counts_by_class_and_year():
    found = report(crowd())
    assert list(found.columns) == ["by", "task", "group", "count"]
    assert set(found["by"]) == {"class", "depth", "year"}
    assert counts(found, "class", "permafrost") == {"absent": 2, "present": 3}
    nothing = dict.fromkeys(TAXONOMY.classes, 0)
    assert counts(found, "class", "taxonomy") == nothing | {"Gelisols": 2, "Histosols": 1, "Entisols": 1, "Alfisols": 1}
    assert counts(found, "year", "permafrost") == {"2015": 2, "2019": 1, "unknown": 2}
    assert counts(found, "year", "taxonomy") == {"2015": 3, "2019": 0, "unknown": 2}
    assert set(report(crowd().drop(columns=["date", "depth"]))["by"]) == {"class"}


def test_a_report_takes_tasks_by_name_or_whole():
    found = report(crowd(), ["permafrost", DEPTH])
    assert set(found["task"]) == {"permafrost", "depth"}
    assert counts(found, "class", "permafrost") == {"absent": 2, "present": 3}
    assert counts(found, "class", "depth") == {"value": 5}
    assert counts(report(crowd(), ["depth"]), "class", "depth") == {"0.25": 1, "0.5": 1, "1": 2, "2": 1}
    assert set(report(crowd()[["taxonomy", "geometry"]])["task"]) == {"taxonomy"}


def zones(crs: int = 3338) -> gpd.GeoDataFrame:
    """Two zones, of which one is in two parts, a corner of the first again, and a nameless one over everything."""
    boxes = [(299_990, 1_499_990, 300_010, 1_500_010), (300_030, 1_499_960, 300_045, 1_499_970)]
    boxes += [(300_045, 1_499_960, 300_060, 1_499_970), (299_990, 1_499_990, 300_010, 1_500_010), (0, 0, 1e6, 2e6), (0, 0, 1, 1)]
    names = ["continuous", "sporadic", "sporadic", "sporadic", None, "isolated"]
    return gpd.GeoDataFrame({"zone": names}, geometry=[shapely.box(*box) for box in boxes], crs=3338).to_crs(crs)


@pytest.mark.filterwarnings("ignore:Regions overlap:misoxr.errors.MisoxrWarning")
@pytest.mark.parametrize("crs", [3338, 4326])
def test_a_report_counts_by_region(crs):
    found = report(crowd(), regions=zones(crs), region="zone")
    assert counts(found, "region", "permafrost") == {"continuous": 2, "sporadic": 2, "isolated": 0, "none": 1}
    assert counts(found, "region", "taxonomy") == {"continuous": 3, "sporadic": 1, "isolated": 0, "none": 1}
    assert "none" not in counts(report(crowd().iloc[:5], regions=zones(crs), region="zone"), "region", "taxonomy")


def test_a_report_counts_points_that_share_a_pixel():
    found = report(crowd(), geobox=BOX)
    cube = assign(xr.Dataset({"red": (("y", "x"), np.zeros(BOX.shape, "float32"))}), BOX)
    pd.testing.assert_frame_equal(report(crowd(), ["permafrost", "taxonomy"], geobox=cube), found)
    assert counts(found, "duplicate pixel", "all") == {"points sharing a pixel": 5}
    assert counts(found, "duplicate pixel", "permafrost") == {"conflicting labels": 1}
    assert counts(found, "duplicate pixel", "taxonomy") == {"conflicting labels": 1}


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (labelled, {}, r"columns \['pf1m', .*\] and none named 'permafrost' or 'taxonomy'; name others with tasks="),
        (crowd, {"tasks": ["peat"]}, r"no column \['peat'\]"),
        (crowd, {"regions": "zones.gpkg"}, "regions are a str; give a GeoDataFrame"),
        (crowd, {"region": "zone"}, "region is 'zone' and there are no regions; give both, or neither"),
        (crowd, {"regions": zones(), "region": "name"}, r"no column \['name'\]; the columns are \['zone', 'geometry'\]"),
        (crowd, {"regions": zones().set_crs(None, allow_override=True), "region": "zone"}, r"regions carry no CRS; .*set_crs"),
        (crowd, {"regions": pd.DataFrame({"zone": ["a"]}), "region": "zone"}, "regions are a DataFrame"),
        (
            crowd,
            {"regions": zones().iloc[[5]], "region": "zone"},
            r"None of 6 points lies in a region: they cover \(300001, 1499795, 300205, 1499999\) and the regions \(0, 0, 1, 1\) in "
            "NAD83 / Alaska Albers. Check the CRS",
        ),
        (lambda: crowd().assign(date="soon"), {}, "6 values of column 'date' are not dates, for example 'soon'"),
        (lambda: crowd().set_crs(None, allow_override=True), {}, "no CRS"),
        (lambda: crowd().iloc[:0], {}, "no points"),
    ],
)
def test_reports_that_cannot_be_made_are_refused(source, options, message):
    with pytest.raises(PointsError, match=message):
        report(source(), **options)


def test_multipoints_of_one_point_are_points(tmp_path):
    points = labelled()
    several = points.set_geometry([shapely.MultiPoint([one]) for one in points.geometry], crs=points.crs)
    several.to_file(tmp_path / "points.gpkg")
    found = read_points(tmp_path / "points.gpkg", labels=LABELS)
    assert found.geom_equals(points.geometry).all()
    assert found.crs == points.crs
    two = several.set_geometry([shapely.MultiPoint([one, (0, 0)]) for one in points.geometry], crs=points.crs)
    with pytest.raises(PointsError, match="'MultiPoint'"):
        read_points(two)


@pytest.mark.parametrize("names", [("Long", "Lat"), ("lng", "lat"), ("decimalLongitude", "decimalLatitude"), ("LON", "LAT")])
def test_usual_names_of_degrees_are_known(names):
    found = read_points(pd.DataFrame({names[1]: [64.5, 65.0], names[0]: [-150.0, -149.0]}))
    assert found.crs == "EPSG:4326"
    assert list(found.geometry.x) == [-150.0, -149.0]
