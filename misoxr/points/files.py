"""Files of points from anywhere: fetched, unpacked, and opened by what their bytes are, never by what they tell to open.

GDAL opens some texts as instructions, which lead to other files of this machine or to addresses of its network. So it sees only
GeoPackages, Shapefiles and FlatGeobufs, each under a name of ours, with the files that belong to it. The other formats are not read by GDAL.
"""

import codecs
import contextlib
import csv
import gzip
import io
import json
import os
import re
import shutil
import warnings
import zipfile
from collections import Counter
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
from misoxr.errors import PointsError, StoreError, note, require
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
SHEET = "The points {!r} are a workbook of Excel or the like. Read its sheet with pandas.read_excel(path), and give the table."
NA_WORDS = (
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("<NA>", "N/A", "NA", "NULL", "NaN", "n/a", "nan", "null"),
)
"""Cells of a CSV that are missing: those of pandas without "None", which is a class of ground ice."""
SEPARATORS = ",;\t|"
"""What may stand between the values of a line."""
NOT_UTF8 = "in Latin-1, not in UTF-8"
SEEN = 2**16
"""Bytes of a CSV by which its form is judged."""

_GEOPACKAGE = (b"GPKG", b"GP10", b"GP11")
_CRS = re.compile(r"urn:ogc:def:crs:\w+:[\w.]*:\w+|\w+:\w+", re.ASCII)
"""Names of CRS in old GeoJSON; GDAL would also follow links."""


def read_file(source: str, identity: str = "id") -> tuple[pd.DataFrame, bool]:
    """Read a file of points or a table, and tell whether it was a JSON list of records.

    Parameters
    ----------
    source : str
        A path, or an address of http(s), s3, gs, az, abfs or hf.
    identity : str, optional
        Column that identifies the points. In a CSV its numbers stay text where they are written otherwise than numbers are, such as "001".

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
            return _read(path, named, aside, name, identity)
        except (ImportError, PointsError, StoreError):
            raise
        except Exception as error:  # GDAL, pyarrow and pandas each have their own
            fault = "it is nested too deep" if isinstance(error, RecursionError) else without_secrets(error, source).strip()
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


def _read(path: Path, named: str, aside: Path, name: str, identity: str) -> tuple[pd.DataFrame, bool]:
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
        return _read_plain(aside / "unzipped", ending, aside, name, identity)
    if head.startswith(b"PK\x03\x04"):
        member, ending = _member(path, aside, name)
        return _read_plain(member, ending, aside, name, identity)
    return _read_plain(path, ending, aside, name, identity)


def _read_plain(path: Path, ending: str, aside: Path, name: str, identity: str) -> tuple[pd.DataFrame, bool]:
    """Read a file that is not packed."""
    with path.open("rb") as file:
        head = file.read(100)
        file.seek(0)
        if head.startswith(b"PAR1"):
            return _parquet(file), False
        kind = _kind(head)
        if kind is not None:
            ours = _under_a_name_of_ours(path, kind, aside)
            return gpd.read_file(ours, layer=_layer(ours, name) if kind == ".gpkg" else None), False
        if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
            raise PointsError(SHEET.format(name))
        if ending in (".csv", ".tsv"):
            return _separated(file, "," if ending == ".csv" else "\t", name, identity), False
        if ending in (".json", ".geojson") or head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{":
            return _json(_loaded(file, name), name, identity)
    raise PointsError(
        f"The points {name!r} are refused: their bytes are none of GeoPackage, GeoJSON, Shapefile, FlatGeobuf, Parquet or a zip archive of "
        "one, and their name does not end in .csv, .tsv or .json. Open other formats with geopandas.read_file, and give the table."
    )


def _separated(file: Any, separator: str, name: str, identity: str) -> pd.DataFrame:
    """Read a CSV or TSV."""
    lines = _first_lines(file, separator, name)

    def read(**options: Any) -> pd.DataFrame:
        file.seek(0)
        options = {"sep": separator, "skipinitialspace": True, "na_values": list(NA_WORDS), "keep_default_na": False, **options}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)  # of empty values behind the last separator
            with contextlib.suppress(UnicodeDecodeError):
                found: pd.DataFrame = pd.read_csv(file, **options)
                return found
        raise _in_another_form(name, [NOT_UTF8], ["encoding='latin-1'"])

    table, options = read(), {}
    if len(table) and not isinstance(table.index, pd.RangeIndex):
        many = len(lines[0])
        if not any(value.strip() for line in lines[1:] for value in line[many:]):  # each line ends with a separator
            options["index_col"] = False
            table = read(**options)
        elif table.index.nlevels > 1 or not table.index.is_unique:  # no names of rows, as R writes them
            raise PointsError(
                f"The points {name!r} have {many} columns, and a line of {max(map(len, lines))} values. Name every column, and write decimals "
                "with a point."
            )
    names = {column: str(column).strip() for column in table.columns}
    if len(set(names.values())) < len(names):
        raise PointsError(f"The points {name!r} have columns that differ by blanks alone: {list(names)}. Rename all but one.")
    several = [bare for bare, count in Counter(value.strip() for value in lines[0]).items() if bare and count > 1]
    if several:
        note(f"The points {name!r} have several columns {several}: the first is taken. Rename those of which another is meant.")
    for column, bare in names.items():
        if bare == identity and pd.api.types.is_numeric_dtype(table[column]):
            text = read(**options, dtype={column: str})[column]
            if not all(map(_is_written, text, table[column])):
                table[column] = text
    return table.rename(columns=names)


def _is_written(text: Any, number: Any) -> bool:
    """Return whether a cell is how its number is usually written: "001" is not, nor is "1.10"."""
    if not isinstance(text, str):
        return True
    return text.strip() in (str(number), f"{number:.0f}")


def _first_lines(file: Any, separator: str, name: str) -> list[list[str]]:
    """Return the values of a CSV's first lines; refuse another encoding or separator."""
    file.seek(0)
    head = file.read(SEEN)
    encoding, found, options = "utf-8-sig", [], []
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding, found, options = "utf-16", ["in UTF-16, not in UTF-8"], ["encoding='utf-16'"]
    else:
        try:
            codecs.getincrementaldecoder("utf-8")().decode(head)
        except UnicodeDecodeError:
            encoding, found, options = "latin-1", [NOT_UTF8], ["encoding='latin-1'"]
    text = head.decode(encoding, errors="replace")

    def split(by: str) -> list[list[str]]:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=by, skipinitialspace=True) if row]
        return rows[:-1] if len(head) == SEEN and len(rows) > 2 else rows

    lines = split(separator)
    for other in SEPARATORS.replace(separator, "") if len(lines) > 1 else "":
        rows = split(other)
        if len(rows) > 1 and len(rows[1]) >= len(rows[0]) > len(lines[0]):
            found.insert(0, f"separated by {other!r}, not by {separator!r}")
            commas = any(re.fullmatch(r"[-+]?\d+,\d+", value.strip()) for row in rows[1:] for value in row)
            options = [f"sep={other!r}", *(["decimal=','"] if commas else []), *options]
            break
    if found:
        raise _in_another_form(name, found, options)
    return lines


def _in_another_form(name: str, found: list[str], options: list[str]) -> PointsError:
    return PointsError(
        f"The points {name!r} seem to be {', and '.join(found)}. Read them with pandas.read_csv(path, {', '.join(options)}), and give the table."
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


def _layer(path: Path, name: str) -> str | None:
    """Return the layer of a GeoPackage that has places; refuse several."""
    layers = gpd.list_layers(path)
    places = list(layers["name"][layers["geometry_type"].notna()]) or list(layers["name"])
    if len(places) > 1:
        raise PointsError(
            f"The points {name!r} have {len(places)} layers: {places[:20]}. Read one with geopandas.read_file(path, layer={places[0]!r}), and give "
            "the table."
        )
    return places[0] if places else None


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
    if {"xl/workbook.xml", "xl/workbook.bin", "content.xml"} & {one.filename for one in files}:
        raise PointsError(SHEET.format(name))
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


def _loaded(file: Any, name: str) -> Any:
    """Return what a JSON file holds; refuse several values, one a line."""
    try:
        return json.load(file)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        raise PointsError(
            f"The points {name!r} hold more than one JSON value. Read GeoJSON by lines with geopandas.read_file(path), and records by lines with "
            "pandas.read_json(path, lines=True), and give the table."
        ) from error


def _json(content: Any, name: str, identity: str) -> tuple[pd.DataFrame, bool]:
    """Return GeoJSON as points, and a list of records as a table."""
    if isinstance(content, Mapping) and content.get("type") in ("FeatureCollection", "Feature"):
        features = content.get("features") if content["type"] == "FeatureCollection" else [content]
        if not isinstance(features, list) or not all(isinstance(feature, dict) for feature in features):
            raise PointsError(f"The GeoJSON {name!r} has 'features' that are no list of points.")
        return _features(features, _crs(content.get("crs"), name), identity), False
    if not isinstance(content, list) or not all(isinstance(record, dict) for record in content):
        kinds = sorted({type(item).__name__ for item in content}) if isinstance(content, list) else []
        what = f"a list of {', '.join(kinds)}" if kinds else f"a {type(content).__name__}"
        raise PointsError(
            f"The JSON {name!r} holds {what}, not points; give a GeoJSON FeatureCollection, or a list of records with "
            "lon and lat (or x_3338 and y_3338)."
        )
    return pd.DataFrame(content), True


def _features(features: list[dict[str, Any]], crs: str, identity: str) -> gpd.GeoDataFrame:
    """Return features as a table, with their own ids where no property is asked for; an object among the properties is its text."""
    rows = [
        {key: json.dumps(value) if isinstance(value, dict) else value for key, value in (feature.get("properties") or {}).items()}
        for feature in features
    ]
    table = pd.DataFrame(rows, index=range(len(features)))
    if identity == "id" and "id" not in table and features and all("id" in feature for feature in features):
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
