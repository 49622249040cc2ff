"""Files of points from anywhere: fetched, unpacked, and opened by what their bytes are, never by what they tell to open.

GDAL opens some texts as instructions, which lead to other files of this machine or to addresses of its network. So it sees only
GeoPackages, Shapefiles and FlatGeobufs, each under a name of ours, with the files that belong to it. The other formats are not read by GDAL.
"""

import contextlib
import gzip
import json
import os
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec
import geopandas as gpd
import pandas as pd
import shapely.geometry

from misoxr.assets.hrefs import HTTP, redact, without_secrets
from misoxr.assets.http import follow, http_session, megabytes
from misoxr.assets.parquet import most_of, unpacked
from misoxr.errors import PointsError, StoreError, require
from misoxr.paths import workspace, writing

__all__ = ["read_file"]

LARGEST = 2000.0
"""Megabytes of points that are fetched or unpacked."""
SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "abfss", "hf", "memory")
"""Schemes that fsspec opens, beside http(s) and file."""
BESIDE = (".shx", ".dbf", ".prj", ".cpg")
"""Files that belong to a Shapefile."""
MEMBERS = (".shp", ".gpkg", ".fgb", ".geojson", ".parquet", ".geoparquet", ".csv", ".tsv", ".json")
"""Files of a zip archive that may be points, what is taken first."""
MOST_MEMBERS = 1000

_GEOPACKAGE = (b"GPKG", b"GP10", b"GP11")
_CRS = re.compile(r"urn:ogc:def:crs:\w+:[\w.]*:\w+|\w+:\w+", re.ASCII)
"""Names of CRS in old GeoJSON; GDAL would also follow links."""


def read_file(source: str) -> tuple[pd.DataFrame, bool]:
    """Read a file of points or a table, and tell whether it was a JSON list of records.

    Parameters
    ----------
    source : str
        A path, or an address of http(s), s3, gs, az, abfs or hf.

    Raises
    ------
    PointsError
        If the file cannot be read, is of no format that is read, or has more bytes than are allowed.
    StoreError
        If the disk of temporary files is full.
    """
    name = redact(source)
    with workspace() as aside:
        try:
            path, named = _fetched(source, aside)
            return _read(path, named, aside, name)
        except (ImportError, PointsError, StoreError):
            raise
        except Exception as error:  # GDAL, pyarrow and pandas each have their own
            fault = "it is nested too deep" if isinstance(error, RecursionError) else without_secrets(error, source)
            fault = re.sub(rf"{re.escape(str(aside))}[^\s'\"]*", lambda _: name, fault)[:500]
    # not from its error, whose text may hold a secret of the address
    raise PointsError(f"The points {name!r} cannot be read: {fault}")


def _fetched(source: str, aside: Path) -> tuple[Path, str]:
    """Return a local path of a source, and the name that its ending is of."""
    scheme = source.partition("://")[0].lower() if "://" in source else ""
    most = megabytes("MISOXR_POINTS_MB", LARGEST)
    if scheme in ("", "file"):
        named = unquote(urlsplit(source).path) if scheme else source
        if os.path.realpath(named).startswith("/vsi"):
            raise PointsError(f"The points {redact(source)!r} are refused: they are in a GDAL virtual file system.")
        return Path(os.path.realpath(named)), named
    named, path = urlsplit(source).path, aside / "fetched"
    if scheme in HTTP:
        with http_session(most=most) as session:
            answer = follow(session, source)
            if answer.status_code != 200:
                raise PointsError(f"The points {redact(source)!r} cannot be read: their server answers {answer.status_code}.")
            with writing(path, needed=len(answer.content)):
                path.write_bytes(answer.content)
    elif scheme in SCHEMES and "::" not in source:
        with fsspec.open(source, "rb") as file:
            _unpacked(file, path, most)
    else:
        raise PointsError(
            f"The points {redact(source)!r} are refused: {scheme!r} is none of the schemes that are opened "
            f"({', '.join((*HTTP, *SCHEMES))}); fetch the file first."
        )
    return path, named


def _unpacked(file: Any, path: Path, most: int) -> int:
    """Write a stream to a path, up to a bound, and return its bytes."""
    size = 0
    with writing(path, alone=False), path.open("wb") as out:
        while part := file.read(1 << 20):
            size += len(part)
            if size > most:
                raise PointsError(
                    f"The points have more than {most / 1e6:g} MB, the most that is fetched or unpacked; where that is right, raise MISOXR_POINTS_MB."
                )
            out.write(part)
    return size


def _read(path: Path, named: str, aside: Path, name: str) -> tuple[pd.DataFrame, bool]:
    """Read a local file by its first bytes, and by its ending where these tell nothing."""
    ending = os.path.splitext(named.lower().removesuffix(".gz"))[1]
    if path.is_dir() and ending in (".parquet", ".geoparquet"):
        return _parquet(path), False
    if path.exists() and not path.is_file():
        raise PointsError(f"The points {name!r} are no file; give the file itself.")
    with path.open("rb") as file:
        head = file.read(100)
    if head.startswith(b"\x1f\x8b"):
        if named.lower().endswith(".gz.gz"):
            raise PointsError(f"The points {name!r} are packed more than once; unpack them first.")
        with gzip.open(path) as file:
            _unpacked(file, aside / "unzipped", megabytes("MISOXR_POINTS_MB", LARGEST))
        return _read_plain(aside / "unzipped", ending, aside, name)
    if head.startswith(b"PK\x03\x04"):
        member, ending = _member(path, aside, name)
        return _read_plain(member, ending, aside, name)
    return _read_plain(path, ending, aside, name)


def _read_plain(path: Path, ending: str, aside: Path, name: str) -> tuple[pd.DataFrame, bool]:
    """Read a file that is not packed."""
    with path.open("rb") as file:
        head = file.read(100)
        file.seek(0)
        if head.startswith(b"PAR1"):
            return _parquet(file), False
        kind = _kind(head)
        if kind is not None:
            return gpd.read_file(_under_a_name_of_ours(path, kind, aside)), False
        if ending in (".csv", ".tsv"):
            return pd.read_csv(file, sep="," if ending == ".csv" else "\t"), False
        if ending in (".json", ".geojson") or head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{":
            return _json(json.load(file), name)
    raise PointsError(
        f"The points {name!r} are refused: their bytes are none of GeoPackage, GeoJSON, Shapefile, FlatGeobuf, Parquet or a zip archive of "
        "one, and their name does not end in .csv, .tsv or .json. Open other formats with geopandas.read_file, and give the table."
    )


def _kind(head: bytes) -> str | None:
    """Return the ending of the formats that GDAL reads, by a file's first bytes."""
    if head.startswith(b"SQLite format 3\x00") and head[68:72] in _GEOPACKAGE:
        return ".gpkg"
    if head.startswith(b"\x00\x00\x27\x0a"):
        return ".shp"
    return ".fgb" if head.startswith(b"fgb\x03fgb") else None


def _under_a_name_of_ours(path: Path, kind: str, aside: Path) -> Path:
    """Return another path of a file, beside which lies only what belongs to it: GDAL reads meaning into names."""
    place = aside / "points"
    place.mkdir()
    parts = {path: kind}
    if kind == ".shp":
        beside = {one.name.lower(): one for one in path.parent.iterdir() if one.is_file()}
        parts |= {beside[name]: end for end in BESIDE if (name := f"{path.stem}{end}".lower()) in beside}
    for part, end in parts.items():
        try:
            (place / f"points{end}").symlink_to(part)
        except OSError:  # where links are not allowed
            shutil.copyfile(part, place / f"points{end}")
    return place / f"points{kind}"


def _member(path: Path, aside: Path, name: str) -> tuple[Path, str]:
    """Unpack the points of a zip archive, and return their path and ending."""
    place, left = aside / "members", megabytes("MISOXR_POINTS_MB", LARGEST)
    place.mkdir()
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len(entries) > MOST_MEMBERS:
            raise PointsError(f"The archive {name!r} has {len(entries)} files, and at most {MOST_MEMBERS} are looked at.")
        files = [one for one in entries if not one.is_dir() and not one.filename.startswith("__MACOSX")]
        for ending in MEMBERS:
            found = [one for one in files if one.filename.lower().endswith(ending)]
            if len(found) > 1:
                raise PointsError(f"The archive {name!r} has {len(found)} files {ending}; unpack it, and give one of them.")
            if found:
                stem = found[0].filename[: -len(ending)]
                belong = [one for one in files for end in BESIDE if one.filename.lower() == f"{stem}{end}".lower()]
                for one in [*found, *(belong if ending == ".shp" else [])]:
                    with archive.open(one) as file:
                        left -= _unpacked(file, place / f"points{os.path.splitext(one.filename)[1].lower()}", left)
                return place / f"points{ending}", ending
    raise PointsError(f"The archive {name!r} has no points; it holds none of {', '.join(MEMBERS)}.")


def _parquet(source: Any) -> pd.DataFrame:
    """Read a file, or a directory of files, once it is known how much it unpacks to."""
    parts = [source]
    if isinstance(source, Path):
        parts = [one for one in source.rglob("*") if one.is_file() and not one.name.startswith(("_", "."))]
    left = megabytes("MISOXR_POINTS_MB", LARGEST)
    for part in parts:
        left -= _parquet_size(part, left)
    table: pd.DataFrame
    try:
        table = gpd.read_parquet(source)
    except ValueError:  # a table without GeoParquet's metadata
        if hasattr(source, "seek"):
            source.seek(0)
        table = pd.read_parquet(source)
    return table


def _parquet_size(source: Any, left: int) -> int:
    """Return how many bytes a file unpacks to, up to a bound."""
    require("pyarrow", "parquet")
    import pyarrow.parquet as pq

    with contextlib.ExitStack() as opened:
        file = opened.enter_context(source.open("rb")) if isinstance(source, Path) else source
        most = most_of(file.seek(0, os.SEEK_END), left)
        refusal = PointsError(
            f"The points unpack to more than {most / 1e6:.0f} MB, the most for their size. If you trust them, write them anew with other "
            "compression; MISOXR_POINTS_MB bounds large ones."
        )
        file.seek(0)
        size = sum(int(batch.nbytes) for batch in unpacked(file, pq.ParquetFile(file), most, refusal))
        file.seek(0)
    return size


def _json(content: Any, name: str) -> tuple[pd.DataFrame, bool]:
    """Return GeoJSON as points, and a list of records as a table."""
    if isinstance(content, Mapping) and content.get("type") in ("FeatureCollection", "Feature"):
        features = content.get("features") if content["type"] == "FeatureCollection" else [content]
        if not isinstance(features, list) or not all(isinstance(feature, dict) for feature in features):
            raise PointsError(f"The GeoJSON {name!r} has 'features' that are no list of points.")
        return _features(features, _crs(content.get("crs"), name)), False
    if not isinstance(content, list) or not all(isinstance(record, dict) for record in content):
        kinds = sorted({type(item).__name__ for item in content}) if isinstance(content, list) else []
        what = f"a list of {', '.join(kinds)}" if kinds else f"a {type(content).__name__}"
        raise PointsError(
            f"The JSON {name!r} holds {what}, not points; give a GeoJSON FeatureCollection, or a list of records with "
            "lon and lat (or x_3338 and y_3338)."
        )
    return pd.DataFrame(content), True


def _features(features: list[dict[str, Any]], crs: str) -> gpd.GeoDataFrame:
    """Return features as a table; an object among the properties is its text."""
    rows = [
        {key: json.dumps(value) if isinstance(value, dict) else value for key, value in (feature.get("properties") or {}).items()}
        for feature in features
    ]
    table = pd.DataFrame(rows, index=range(len(features)))
    if "id" not in table and features and all("id" in feature for feature in features):
        table.insert(0, "id", [feature["id"] for feature in features])
    shapes = [None if feature.get("geometry") is None else shapely.geometry.shape(feature["geometry"]) for feature in features]
    return gpd.GeoDataFrame(table.drop(columns="geometry", errors="ignore"), geometry=shapes, crs=crs)


def _crs(declared: Any, name: str) -> str:
    """Return the CRS of GeoJSON: degrees, unless it names another as older GeoJSON does."""
    if declared is None:
        return "EPSG:4326"
    code = declared.get("properties", {}).get("name") if isinstance(declared, dict) and declared.get("type") == "name" else None
    if not isinstance(code, str) or not _CRS.fullmatch(code):
        raise PointsError(f"The GeoJSON {name!r} has the CRS {str(declared)[:100]!r}, which is no name such as 'EPSG:3338'.")
    return "EPSG:4326" if code.upper().endswith(("CRS84", ":4326")) else code
