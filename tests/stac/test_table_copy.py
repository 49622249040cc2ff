"""Tables that unpack to far more than they are: refused in little memory, and nothing is left of them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from servers import range_server

from misoxr.assets import parquet
from misoxr.errors import CatalogError
from misoxr.stac import table_copy
from misoxr.stac.table_copy import copied

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROWS = 2000
MEASURE = """
import sys
import pyarrow.parquet
from misoxr.errors import CatalogError
from misoxr.stac.table_copy import copied
def most():
    return next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = most()
try:
    copied(sys.argv[1])
except CatalogError as error:
    print(error)
print(most() - before)
"""


def written(path: Path, rows: int = ROWS, **columns: Any) -> Path:
    plain = {
        "id": [f"i{row}" for row in range(rows)],
        "datetime": ["2020-07-01T00:00:00Z"] * rows,
        "bbox": [[0.0, 0.0, 1.0, 1.0]] * rows,
    }
    assets = [{"red": {"href": f"https://example.org/{row}.tif"}} for row in range(rows)]
    pq.write_table(pa.table({**plain, "assets": assets, **columns}), path, compression="zstd")
    return path


TEXT = "x" * 250_000
LARGE = {
    "texts": lambda: pa.array([TEXT] * ROWS),
    "late texts": lambda: pa.array(["x"] * 100 + [TEXT] * (ROWS - 100)),
    "texts in objects": lambda: pa.array([{"title": TEXT}] * ROWS),
    "bytes": lambda: pa.array([bytes(250_000)] * ROWS),
    "late texts of 20 MB": lambda: pa.array(["x"] * (ROWS - 20) + [TEXT * 80] * 20),
    "a list": lambda: pa.array([[]] * (ROWS - 1) + [[0] * 40_000_000], pa.list_(pa.int8())),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MISOXR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tables"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells how much memory was used")
@pytest.mark.parametrize("kind", LARGE)
def test_what_unpacks_to_far_more_is_refused_in_little_memory(tmp_path, cache, kind):
    path = written(tmp_path / "items.parquet", more=LARGE[kind]())
    assert path.stat().st_size < 1e6
    run = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    assert "unpacks to more than" in run.stdout
    assert "MISOXR_TABLE_MB" in run.stdout
    assert int(run.stdout.split()[-1]) < 300
    assert not list(cache.iterdir())


def test_rows_of_an_honest_table_are_unpacked_many_at_once(tmp_path):
    """Its columns hold a lot together, and no value is large."""
    hrefs = {f"more{band}": [f"{band}/{row}".ljust(400, "x") for row in range(ROWS)] for band in range(9)}
    path = written(tmp_path / "items.parquet", **hrefs)
    with path.open("rb") as file:
        found = list(parquet.unpacked(file, pq.ParquetFile(file), 10**9, CatalogError("")))
    assert min(batch.num_rows for batch in found[:-1]) >= 64
    assert pa.Table.from_batches(found).equals(pq.read_table(path))


def test_small_batches_are_copied_as_one(tmp_path, monkeypatch):
    expected = pq.read_table(written(tmp_path / "items.parquet", rows=200))
    monkeypatch.setattr(parquet, "AT_WORST", 1)
    found = pa.ipc.open_file(copied(str(tmp_path / "items.parquet")))
    assert found.num_record_batches == 1
    assert found.read_all().equals(expected)


def test_a_table_of_a_server_is_fetched_in_pieces(tmp_path, monkeypatch, cache):
    expected = pq.read_table(written(tmp_path / "items.parquet"))
    monkeypatch.setattr(table_copy, "PIECE", 5000)
    with range_server(tmp_path, {"/moved.parquet?sig=secret": "/items.parquet"}, tmp_path / "log") as address:
        found = copied(f"{address}/moved.parquet?sig=secret")
        assert pa.ipc.open_file(found).read_all().equals(expected)
        asked = (tmp_path / "log").read_text().count("GET /items.parquet bytes=")
        assert asked > 2
        assert copied(f"{address}/moved.parquet?sig=secret") == found
        assert (tmp_path / "log").read_text().count("GET /items.parquet bytes=") == asked + 1
        with pytest.raises(CatalogError, match=r"The table .*/none.parquet cannot be read \(AssetError: .* answers 404") as error:
            copied(f"{address}/none.parquet?sig=secret")
        assert "secret" not in str(error.value)
        monkeypatch.setenv("MISOXR_TABLE_MB", "0.01")
        written(tmp_path / "items.parquet", rows=ROWS + 1)
        with pytest.raises(CatalogError, match="unpacks to more than"):
            copied(f"{address}/items.parquet")
    assert len(list(cache.iterdir())) == 1
