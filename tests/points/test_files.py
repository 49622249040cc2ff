"""Which files of points are opened, by what; and what an error tells of their addresses."""

import contextlib
import gzip
import http.server
import json
import shutil
import sqlite3
import threading
import traceback
import zipfile
from collections.abc import Iterator
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from servers import range_server

from misoxr.errors import MisoxrWarning, PointsError
from misoxr.points import read_points

ENDINGS = ["gpkg", "geojson", "shp", "fgb", "csv", "parquet", "json"]


def saved(directory: Path, ending: str) -> Path:
    """Two points in a format."""
    points = gpd.GeoDataFrame({"pf": [0, 1]}, geometry=gpd.points_from_xy([-150, -151], [64, 65]), crs=4326)
    path = directory / f"pedons.{ending}"
    if ending == "parquet":
        pytest.importorskip("pyarrow")
        points.to_parquet(path)
    elif ending == "csv":
        path.write_text("lon,lat,pf\n-150,64,0\n-151,65,1\n")
    elif ending == "json":
        path.write_text(json.dumps([{"lon": -150, "lat": 64, "pf": 0}, {"lon": -151, "lat": 65, "pf": 1}]))
    else:
        points.to_file(path)
    return path


def packed(path: Path) -> Path:
    """A zip archive of a file, and of those of its name."""
    archive = path.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for part in path.parent.glob(f"{path.stem}.*"):
            if part != archive:
                file.write(part, f"folder/{part.name}")
    return archive


def right(found: gpd.GeoDataFrame) -> None:
    assert found.crs.to_epsg() == 4326
    np.testing.assert_allclose(np.stack([found.geometry.x, found.geometry.y]), [[-150, -151], [64, 65]])
    assert list(found["pf"]) == [0, 1]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_is_read_from_disks_archives_and_servers(tmp_path, ending):
    path = saved(tmp_path, ending)
    right(read_points(path))
    right(read_points(path.as_uri()))
    right(read_points(packed(path)))
    with range_server(tmp_path) as address:
        right(read_points(f"{address}/{path.with_suffix('.zip').name}?sig=1"))
        if ending != "shp":
            right(read_points(f"{address}/{path.name}?sig=1"))
    if ending in ("csv", "geojson", "json"):
        (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        right(read_points(f"{path}.gz"))


def test_formats_are_known_by_content(tmp_path):
    path = saved(tmp_path, "gpkg")
    right(read_points(shutil.copy(path, tmp_path / "named.shp")))
    right(read_points(shutil.copy(saved(tmp_path, "geojson"), tmp_path / "named.gpkg")))


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """A table of ours, an address in our network, and what it was asked."""
    (tmp_path / "ours").mkdir()
    secret = tmp_path / "ours" / "secret.csv"
    secret.write_text("lon,lat,password\n-150,65,hunter2\n")
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield secret, f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()


def instructions(secret: Path, address: str) -> dict[str, str]:
    """Texts by which GDAL opens something else."""

    def vrt(source: str) -> str:
        return (
            f'<OGRVRTDataSource><OGRVRTLayer name="secret"><SrcDataSource>{source}</SrcDataSource><GeometryType>wkbPoint</GeometryType>'
            '<LayerSRS>EPSG:4326</LayerSRS><GeometryField encoding="PointFromColumns" x="lon" y="lat"/></OGRVRTLayer></OGRVRTDataSource>'
        )

    streamed = {"type": "gdal_streamed_alg", "command_line": f"gdal vector pipeline read {secret}"}
    point = {"type": "Feature", "properties": streamed, "geometry": {"type": "Point", "coordinates": [-150, 64]}}
    link = {"type": "link", "properties": {"href": f"{address}/crs", "type": "ogcwkt"}}
    return {
        "vrt": vrt(str(secret)),
        "vrt of an address": vrt(f"/vsicurl/{address}/secret.csv"),
        "vrt after a space": f"  \n{vrt(str(secret))}",
        "algorithm": json.dumps(streamed),
        "algorithm, then points": json.dumps(streamed)[:-1] + ', "type": "FeatureCollection", "features": 3}',
        "linked CRS": json.dumps({"type": "FeatureCollection", "features": [point], "crs": link}),
        "address as CRS": json.dumps(
            {"type": "FeatureCollection", "features": [point], "crs": {"type": "name", "properties": {"name": f"{address}/crs"}}}
        ),
        "file as CRS": json.dumps(
            {"type": "FeatureCollection", "features": [point], "crs": {"type": "name", "properties": {"name": str(secret)}}}
        ),
        "wfs": f"<OGRWFSDataSource><URL>{address}/wfs</URL></OGRWFSDataSource>",
        "gml": f'<?xml version="1.0"?><gml:FeatureCollection xmlns:gml="http://www.opengis.net/gml" a="{address}/x.xsd"/>',
    }


@pytest.mark.parametrize("ending", [*ENDINGS, "vrt", "gz", "zip"])
def test_a_file_that_is_an_instruction_opens_nothing(tmp_path, ours, ending):
    secret, address, asked = ours
    for number, text in enumerate(instructions(secret, address).values()):
        path = tmp_path / f"{number}.{ending}"
        path.write_text(text)
        if ending == "gz":
            path.write_bytes(gzip.compress(text.encode()))
        if ending == "zip":
            for inner in ("gpkg", "shp", "geojson", "vrt"):
                with zipfile.ZipFile(path, "w") as file:
                    file.writestr(f"a.{inner}", text)
                with pytest.raises(PointsError):
                    read_points(path)
        else:
            with pytest.raises(PointsError):
                read_points(path)
    assert not asked


def test_names_that_are_instructions_open_nothing(tmp_path, ours, monkeypatch):
    secret, address, asked = ours
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.write(secret, "secret.csv")
    names = [
        f"/vsicurl/{address}/a.csv",
        f"CSV:{secret}",
        f"WFS:{address}",
        f"/vsizip/{tmp_path}/a.zip/secret.csv",
        "PG:host=127.0.0.1",
    ]
    names += [
        f"zip://{tmp_path}/a.zip!secret.csv",
        f"zip://secret.csv::{tmp_path}/a.zip",
        f"vrt://{secret}",
        f"GeoJSON:{address}/a",
    ]
    names += [
        f"simplecache::{address}/a.csv",
        f"ftp://127.0.0.1/{secret}",
        f"zip+{address}/a.zip",
        f"OGR_VRT:{secret}",
        "/dev/zero",
    ]
    for name in names:
        with pytest.raises(PointsError):
            read_points(name)
    assert not asked


def test_a_database_that_is_no_geopackage_is_refused(tmp_path):
    for name in ("a.gpkg", "a.sqlite"):
        with sqlite3.connect(tmp_path / name) as base:
            base.execute("create table points (lon, lat)")
        with pytest.raises(PointsError, match="are refused: their bytes are none of GeoPackage"):
            read_points(tmp_path / name)


def test_archives_are_unpacked_within_a_bound(tmp_path, monkeypatch):
    monkeypatch.setenv("MISOXR_POINTS_MB", "1")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"lon,lat\n" + b"1,2\n" * 10**6))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.csv", b"lon,lat\n" + b"1,2\n" * 10**6)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        for number in range(1001):
            file.writestr(f"{number}.txt", b"")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as file:
        file.writestr("a.zip", (tmp_path / "a.zip").read_bytes())
    for name, message in {
        "a.csv.gz": "more than 1 MB.*raise MISOXR_POINTS_MB",
        "a.zip": "more than 1 MB",
        "b.zip": "1001",
        "c.zip": "none",
    }.items():
        with pytest.raises(PointsError, match=message):
            read_points(tmp_path / name)


@pytest.mark.parametrize("form", ["file", "directory", "archive", "server"])
def test_parquet_is_unpacked_within_a_bound(tmp_path, monkeypatch, form):
    """30 KB of a file that unpack to 30 MB."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"lon": [1.0] * 100, "lat": [2.0] * 100, "pf": ["x" * 100_000] * 100})
    path = tmp_path / "p.parquet"
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(3):
            writer.write_table(table)
    assert path.stat().st_size < 2e5
    with contextlib.ExitStack() as servers:
        source: str | Path = path
        if form == "directory":
            source = tmp_path / "all.parquet"
            source.mkdir()
            shutil.move(path, source / "part.parquet")
        elif form == "archive":
            source = packed(path)
        elif form == "server":
            source = f"{servers.enter_context(range_server(tmp_path))}/p.parquet"
        monkeypatch.setenv("MISOXR_POINTS_MB", "20")
        with pytest.raises(PointsError, match="unpack to more than 20 MB, .* MISOXR_POINTS_MB bounds large ones"):
            read_points(source)
        monkeypatch.setenv("MISOXR_POINTS_MB", "40")
        assert len(read_points(source)) == 300


def everything(error: BaseException | None) -> str:
    """The messages of an error and of all that led to it, as a log may hold them."""
    if error is None:
        return ""
    return "".join([*traceback.format_exception_only(error), everything(error.__cause__), everything(error.__context__)])


@pytest.mark.parametrize("ending", ["csv", "json", "gpkg", "parquet", "zip"])
def test_no_secret_of_an_address_is_told(tmp_path, ending):
    (tmp_path / f"damaged.{ending}").write_bytes(b"PAR1" if ending == "parquet" else b"PK\x03\x04" if ending == "zip" else b"\x00")
    with range_server(tmp_path, {f"/moved.{ending}": "ftp://u:SECRET@127.0.0.1/a?SECRET"}) as server:
        inside = server.replace("http://", "http://u:SECRET@")
        addresses = [f"http://u:SECRET@127.0.0.1:9/p.{ending}?sig=SECRET", f"{inside}/none.{ending}?sig=SECRET&x=SECRET2"]
        addresses += [
            f"{inside}/damaged.{ending}?sig=SECRET",
            f"{inside}/moved.{ending}?sig=SECRET",
            f"s3://u:SECRET@b/p.{ending}?SECRET",
        ]
        addresses += [
            f"ftp://u:SECRET@h/a.{ending}",
            f"http://[SECRET/a.{ending}",
            "PG:host=127.0.0.1 password=SECRET",
            "x.csv?sig=SECRET",
        ]
        for address in addresses:
            with pytest.raises(PointsError) as error:
                read_points(address)
            if "[" not in address:
                assert "SECRET" not in everything(error.value), address


def written(tmp_path: Path, text: str | bytes, name: str = "pedons.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_none_is_a_word_and_other_words_are_missing(tmp_path):
    path = written(tmp_path, "lon,lat,ice\n-150,64,None\n-151,65,Low\n-152,66,NA\n-153,66,\n-154,66,null\n")
    found = read_points(path)["ice"]
    assert list(found.dropna()) == ["None", "Low"]
    path = written(tmp_path, "lon,lat,soc\n-150,64,1.5\n-151,65,NaN\n")
    assert read_points(path)["soc"].dtype == "float64"


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["001", "010", "9"], ["001", "010", "9"]),
        (["1.1", "1.10", "2"], ["1.1", "1.10", "2"]),
        (["20200000000000000000001", "1", "2"], ["20200000000000000000001", "1", "2"]),
        (["3", "2", "10"], [3, 2, 10]),
        (["3", "", "10"], [3.0, "", 10.0]),
        (["a", "b", "007"], ["a", "b", "007"]),
    ],
)
@pytest.mark.parametrize("name", ["site", "id"])
def test_ids_of_a_csv_stay_as_they_are_written(tmp_path, ids, expected, name):
    rows = "".join(f"{one},-150,64\n" for one in ids)
    found = read_points(written(tmp_path, f"{name},lon,lat\n{rows}"), id=None if name == "id" else name)
    assert ["" if pd.isna(one) else one for one in found["id"]] == expected


@pytest.mark.parametrize(
    "text",
    [
        "lon,lat,pf\n-150,64,0,\n-151,65,1,\n",
        "lon,lat,pf\n-150,64,0,,\n-151,65,1,,\n",
        "lon,lat,pf,\n-150,64,0,\n-151,65,1,\n",
        "lon, lat, pf\n-150, 64, 0\n-151, 65, 1\n",
        " lon , lat ,pf \n-150,64,0\n-151,65,1\n",
        '"lon","lat","pf"\n"1",-150,64,0\n"2",-151,65,1\n',  # as R writes names of rows
        "\ufefflon,lat,pf\n-150,64,0\n-151,65,1\n",
    ],
)
def test_columns_stay_in_their_places(tmp_path, text):
    right(read_points(written(tmp_path, text)))


SEMICOLONS = "site;lon;lat\nGröße;-150,5;64,5\nb;-151,25;65\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "lon;lat\n-150.5;64\n",
            r"separated by ';', not by ','\. Read them with pandas\.read_csv\(path, sep=';'\), and give",
        ),
        ("a.csv", SEMICOLONS, r"pandas\.read_csv\(path, sep=';', decimal=','\)"),
        (
            "a.csv",
            SEMICOLONS.encode("latin-1"),
            r"by ',', and in Latin-1, not in UTF-8\. .*\(path, sep=';', decimal=',', encoding='latin-1'\)",
        ),
        ("a.csv", "lon\tlat\n-150\t64\n", r"separated by '\\t'.*sep='\\t'\)"),
        ("a.tsv", "lon,lat\n-150,64\n", r"separated by ',', not by '\\t'.*sep=','\)"),
        ("a.csv", "lon,lat,soil\n-150,64,Größe\n".encode("latin-1"), r"in Latin-1, not in UTF-8.*encoding='latin-1'\)"),
        ("a.csv", b"lon,lat,soil\n" + b"-150,64,a\n" * 10**5 + b"-150,64,\xf6\n", r"in Latin-1.*encoding='latin-1'\)"),
        ("a.csv", "lon,lat,soil\n-150,64,Größe\n".encode("utf-16"), r"in UTF-16.*encoding='utf-16'\)"),
        ("a.csv", "lon,lat,soc\n-150,64,1,5,2\n-150,64,1,5,2\n", "have 3 columns, and a line of 5 values"),
        ("a.csv", "lon,lat ,lat\n-150,64,64\n", "columns that differ by blanks alone"),
        (
            "a.geojsonl",
            '{"type": "Feature"}\n' * 2,
            r"more than one JSON value\. .* geopandas\.read_file\(path\), .*lines=True\), and give",
        ),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", r"workbook of Excel.*pandas\.read_excel\(path\)"),
    ],
)
def test_tables_in_another_form_are_told_with_the_line_that_reads_them(tmp_path, name, content, message):
    with pytest.raises(PointsError, match=message):
        read_points(written(tmp_path, content, name))


def test_several_columns_of_a_name_are_told(tmp_path):
    path = written(tmp_path, "lon,lat,pf,pf,,\n-150,64,0,1,,\n-151,65,1,1,,\n")
    with pytest.warns(MisoxrWarning, match=r"several columns \['pf'\]: the first is taken\. Rename those"):
        right(read_points(path))


def test_separators_in_words_are_no_separators(tmp_path):
    right(read_points(written(tmp_path, 'lon,lat,pf,"a;b;c;d;e"\n-150,64,0,"1;2"\n-151,65,1,"3|4|5|6|7"\n')))


def test_workbooks_are_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "e.xlsx", "w") as file:
        file.writestr("xl/workbook.xml", "<x/>")
    with pytest.raises(PointsError, match=r"workbook of Excel.*pandas\.read_excel\(path\)"):
        read_points(tmp_path / "e.xlsx")


def test_ids_of_features_give_way_to_a_property(tmp_path):
    points = gpd.GeoDataFrame({"site": ["a", "b"]}, geometry=gpd.points_from_xy([-150, -151], [64, 65]), crs=4326)
    path = written(tmp_path, points.to_json(), "pedons.geojson")
    assert list(read_points(path, id="site")["id"]) == ["a", "b"]
    assert list(read_points(path)["id"]) == ["0", "1"]


def test_a_geopackage_of_several_layers_is_refused_and_a_table_beside_is_none(tmp_path):
    points = gpd.GeoDataFrame({"pf": [0, 1]}, geometry=gpd.points_from_xy([-150, -151], [64, 65]), crs=4326)
    path = tmp_path / "two.gpkg"
    pd.DataFrame({"style": ["red"]}).pipe(gpd.GeoDataFrame).to_file(path, layer="layer_styles")
    points.to_file(path, layer="pedons")
    right(read_points(path))
    points.to_file(path, layer="old")
    with pytest.raises(
        PointsError, match=r"2 layers: \['pedons', 'old'\]\. Read one with geopandas\.read_file\(path, layer='pedons'\)"
    ):
        read_points(path)
