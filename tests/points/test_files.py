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
import pytest
from servers import range_server

from misoxr.errors import PointsError
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
