"""Reading from servers that fail, refuse, stall and break off."""

import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from servers import announced, range_server

from misoxr.assets import http
from misoxr.assets.read import Asset, Reader
from misoxr.assets.remote import open_raster
from misoxr.errors import AssetError, CatalogError
from misoxr.sensors.decoding import Encoding
from misoxr.stac import open_stac
from tests.conftest import make_model, tiny_spec
from tests.faults import FAULTS, faulty_server
from tests.stac_scenes import ORIGIN, SIZE, make_item, write_cog, write_collection

BANDS = ["red", "nir", "swir16"]
WHOLE = GeoBox(SIZE, Affine(10, 0, ORIGIN[0], 0, -10, ORIGIN[1]), "EPSG:32605")


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stalls are given up soon, and pauses are short."""
    monkeypatch.setenv("MISOXR_HTTP_TIMEOUT", "0.4")
    monkeypatch.setattr(http, "PAUSE", 0.02)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three items, and a raster whose windows are many requests."""
    path = tmp_path_factory.mktemp("files")
    for seed in range(3):
        scl = np.full((SIZE[0] // 2, SIZE[1] // 2), 4, dtype="uint8")
        scl[20 * seed : 20 * seed + 15, 10:40] = 9
        make_item(path, f"i{seed}", seed=seed, scl=scl)
    noise = np.random.default_rng(0).integers(1, 5000, (512, 512)).astype("uint16")
    write_cog(path / "large.tif", noise, Affine(10, 0, ORIGIN[0], 0, -10, ORIGIN[1]), "EPSG:32605")
    return path


def items(directory: Path, address: str) -> list[dict[str, Any]]:
    made = directory.parent / f"{directory.name}-items"
    return [make_item(made, f"i{seed}", f"202{seed}-07-01T21:00:00Z", seed=seed, prefix=f"{address}/") for seed in range(3)]


def read(address: str, **options: Any) -> np.ndarray:
    with Reader(WHOLE, **options) as reader:
        return reader.read(Asset("item-1", "red", address, encoding=Encoding(scale=1e-4)))


def everything(error: BaseException | None) -> str:
    """The messages of an error and of all that led to it, as a log may hold them."""
    if error is None:
        return ""
    return "".join([*traceback.format_exception_only(error), everything(error.__cause__), everything(error.__context__)])


# ---- each fault, and how long it takes to give up


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_tried_again(directory, fault, tmp_path):
    log = tmp_path / "log"
    with range_server(directory) as address:
        expected = read(f"{address}/i0/red.tif")
    with faulty_server(directory, rate=1, kinds=[fault], runs=2, log=log) as address:
        start = time.monotonic()
        np.testing.assert_array_equal(read(f"{address}/i0/red.tif"), expected)
        lasted = time.monotonic() - start
    assert np.isfinite(expected).any()
    if fault.startswith("429"):  # a second each, though a date is whole seconds
        assert lasted > (1.9 if fault == "429" else 0.2)
        assert log.read_text().count(" 429 ") == 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("503", "its server answers 503; tried 8 times"),
        ("429", r"its server answers 429; tried \d times"),
        ("reset", r"the connection fails \(.*\); tried 8 times"),
        ("stall", r"its server stalls \(nothing for 0.4 s\); tried \d times"),
        ("stall-in-body", r"its server stalls \(nothing for 0.4 s\); tried \d times"),
        ("truncated", r"its server's answer breaks off \(.*\); tried 8 times"),
        ("short", r"its server sent \d+ bytes of \d+; tried 8 times"),
        ("other-range", r"its server sent the range 'bytes 10-\d+/\d+', asked for bytes 0-65535; tried 8 times"),
    ],
)
def test_giving_up_is_bounded_and_says_why(directory, fault, message, monkeypatch):
    monkeypatch.setenv("MISOXR_HTTP_PATIENCE", "4")
    with faulty_server(directory, rate=1, kinds=[fault]) as address:
        start = time.monotonic()
        with pytest.raises(
            AssetError, match=rf"Item 'item-1', band 'red', {address}/i0/red.tif: it cannot be read: {message}"
        ) as error:
            read(f"{address}/i0/red.tif?token=secret")
        assert time.monotonic() - start < 4 + 2
    assert "secret" not in everything(error.value)


def test_a_long_retry_after_is_not_waited_for_beyond_patience(monkeypatch):
    assert http._pause(1, "3600") <= http.RETRY_AFTER + http.PAUSE
    assert http._pause(1, "Thu, 01 Jan 1970 00:00:00 GMT") <= http.PAUSE
    assert http._pause(1, "soon") <= http.PAUSE
    waits = [http._pause(tries, None) for tries in range(1, 40)]
    assert max(waits) <= http.LONGEST_PAUSE
    assert http._pause(5, None) >= 8 * http.PAUSE


def test_no_server_is_told_soon():
    start = time.monotonic()
    with pytest.raises(AssetError, match=r"the connection fails \(.*refused\); tried 3 times"):
        read("http://127.0.0.1:9/a.tif?token=secret")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("value", ["soon", "0", "-1", "inf", "nan"])
def test_times_that_are_none(monkeypatch, value):
    monkeypatch.setenv("MISOXR_HTTP_PATIENCE", value)
    with pytest.raises(CatalogError, match=f"MISOXR_HTTP_PATIENCE='{value}' is not a number of seconds"):
        http.http_session()


# ---- composites and maps


def composite(items: list[dict[str, Any]]) -> xr.Dataset:
    with dask.config.set(scheduler="threads", num_workers=4):
        return open_stac(items, bands=BANDS, reduce="median", chunks=64, allow_private=True).load()


def predicted(cube: xr.Dataset) -> xr.Dataset:
    """A map of random weights; the covariates are made up."""
    spec = tiny_spec(pixel_size=10)
    made = {band.name: (cube.red * 0 + 1).assign_attrs(units=band.units) for band in spec.bands if band.name not in cube}
    return cube.assign(made).chunk(y=64, x=64).miso.predict(make_model(spec), device="cpu").load()


def test_a_composite_and_its_map_are_the_same_from_a_bad_server(directory, tmp_path):
    log = tmp_path / "log"
    with range_server(directory) as address:
        expected = composite(items(directory, address))
    with faulty_server(directory, rate=0.2, seed=1, log=log) as address:
        got = composite(items(directory, address))
    answered = log.read_text().splitlines()
    assert sum(" 503 " in line or " 429 " in line for line in answered) > 3
    for name in (*BANDS, "observations"):
        assert np.isfinite(expected[name]).any()
        assert got[name].values.tobytes() == expected[name].values.tobytes()
    one, other = predicted(expected), predicted(got)
    assert float(one.permafrost_probability.std()) > 0
    for name in one.data_vars:
        assert other[name].values.tobytes() == one[name].values.tobytes()


def test_an_asset_that_always_fails_is_named_within_the_bound(directory, monkeypatch):
    monkeypatch.setenv("MISOXR_HTTP_PATIENCE", "3")
    with faulty_server(directory, rate=1, below="/i1/nir") as address:
        made = items(directory, address)
        start = time.monotonic()
        with pytest.raises(
            AssetError, match=r"Item 'i1', band 'nir', .*/i1/nir\.tif: it cannot be read: .*tried \d times? in \d s"
        ):
            composite(made)
        # each of the blocks under way may use its patience, once what comes before that asset is read
        assert time.monotonic() - start < 3 + 10


# ---- catalogues


CATALOGUE_FAULTS = ("503", "429", "reset", "stall", "stall-in-body", "truncated")


@pytest.mark.parametrize("fault", CATALOGUE_FAULTS)
def test_catalogues_and_searches_are_tried_again(directory, fault, tmp_path):
    with faulty_server(tmp_path, rate=1, kinds=[fault], runs=2) as address:
        write_collection(tmp_path / "items.json", items(directory, address))
        core = "https://api.stacspec.org/v1.0.0/core"
        landing = {"type": "Catalog", "stac_version": "1.0.0", "id": "api", "description": "", "links": []}
        landing["conformsTo"] = [core, core.replace("core", "item-search")]
        for rel, name, method in [("root", "api.json", "GET"), ("self", "api.json", "GET"), ("search", "items.json", "POST")]:
            landing["links"].append({"rel": rel, "href": f"{address}/{name}", "method": method, "type": "application/json"})
        (tmp_path / "api.json").write_text(json.dumps(landing))
        for name in ("items.json", "api.json"):
            assert open_stac(f"{address}/{name}", bands="red").attrs["stac_item_ids"] == ["i0", "i1", "i2"]


def test_a_catalogue_that_always_fails(directory, monkeypatch):
    monkeypatch.setenv("MISOXR_HTTP_PATIENCE", "3")
    with faulty_server(directory, rate=1, kinds=["503"]) as address:
        start = time.monotonic()
        with pytest.raises(CatalogError, match=r"cannot be reached or read \(.*its server answers 503; tried 8 times") as error:
            open_stac(f"{address}/items.json?token=secret", bands="red")
        assert time.monotonic() - start < 3 + 2
    assert "secret" not in everything(error.value)


# ---- signatures that expire


EXPIRY = 2.0


def sign(href: str) -> str:
    return f"{href}?token={time.time()}"


def test_hrefs_are_signed_when_they_are_read(directory):
    with range_server(directory) as address:
        expected = composite(items(directory, address))

    def modifier(item: Any) -> None:
        for asset in item.assets.values():
            asset.href = sign(asset.href)

    with faulty_server(directory, expiry=EXPIRY) as address:
        options = {"bands": BANDS, "reduce": "median", "chunks": 64, "allow_private": True}
        late = open_stac(items(directory, address), **options, patch_url=sign)
        early = open_stac(items(directory, address), **options, modifier=modifier)
        time.sleep(EXPIRY + 0.1)
        xr.testing.assert_identical(late.load().drop_attrs(), expected.drop_attrs())
        with pytest.raises(AssetError, match=r"Item 'i\d', band .*tif: it cannot be read: its server answers 403\.$") as error:
            early.load()
    assert "token" not in everything(error.value)


def test_a_token_that_expires_while_an_asset_is_read_is_renewed(directory):
    tokens = []

    def renew() -> str:
        tokens.append(time.time())
        return f"{address}/large.tif?token={tokens[-1]}"

    with rasterio.open(directory / "large.tif") as file:
        expected = file.read(1)
    with (
        faulty_server(directory, expiry=EXPIRY) as address,
        http.http_session() as session,
        open_raster(renew(), session, renew) as raster,
    ):
        time.sleep(EXPIRY + 0.1)
        np.testing.assert_array_equal(raster.read(1), expected)
    assert len(tokens) == 2


def test_a_refusal_is_signed_anew_once(directory):
    asked = []

    def patch(href: str) -> str:
        asked.append(href)
        return f"{href}?token={0 if len(asked) == 1 else time.time()}"

    with faulty_server(directory, expiry=60) as address:
        assert np.isfinite(read(f"{address}/i0/red.tif", patch_url=patch)).any()
        assert len(asked) == 2
        asked.clear()
        with pytest.raises(AssetError, match=r"Item 'item-1', band 'red', .*i0/red\.tif: .* answers 403") as error:
            read(f"{address}/i0/red.tif", patch_url=lambda href: f"{href}?token={asked.append(href) or -len(asked)}")
        assert len(asked) == 2
    assert "token" not in everything(error.value)


def test_a_signing_function_that_fails_is_named(directory):
    def patch(href: str) -> str:
        raise KeyError("no account")

    with pytest.raises(AssetError, match="Item 'item-1', band 'red'.*patch_url raised KeyError: 'no account'"):
        read("http://127.0.0.1:9/a.tif", patch_url=patch)


# ---- buckets, which GDAL's own client reads


READ_S3 = """
import sys
from odc.geo.geobox import GeoBox
from misoxr.assets.read import Asset, Reader
from misoxr.sensors.decoding import Encoding
from misoxr.assets.remote import open_raster
from tests.stac.test_failing_servers import WHOLE
with Reader(WHOLE) as reader:
    sys.stdout.buffer.write(reader.read(Asset("item-1", "red", "s3://bucket/i0/red.tif", encoding=Encoding(scale=1e-4))).tobytes())
"""
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
MOTO = """
import sys, time
from pathlib import Path
import boto3
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
address = "http://{}:{}".format(*server.get_host_and_port())
client = boto3.client("s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret")
client.create_bucket(Bucket="bucket")
client.upload_file(sys.argv[1], "bucket", "i0/red.tif")
print(address, flush=True)
time.sleep(600)
"""


def read_s3(address: str, keys: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    """Read in a process of its own, because GDAL keeps credentials."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {"AWS_S3_ENDPOINT": address.removeprefix("http://"), "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE"}
    environment |= {"CPL_AWS_EC2_API_ROOT_URL": "disabled", **keys}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    return subprocess.run([sys.executable, "-c", READ_S3], capture_output=True, env=environment, timeout=250)


def test_an_asset_in_a_bucket(directory):
    with range_server(directory) as address:
        expected = read(f"{address}/i0/red.tif")
    with announced([sys.executable, "-c", MOTO, str(directory / "i0" / "red.tif")]) as address:
        run = read_s3(address, KEYS)
        assert run.stdout == expected.tobytes(), run.stderr.decode()
        refused = read_s3(address, {})
    assert refused.returncode != 0
    assert b"Item 'item-1', band 'red', s3://bucket/i0/red.tif: it cannot be read" in refused.stderr


def test_a_bucket_that_is_busy(directory, tmp_path):
    """The file server takes any credentials."""
    os.symlink(directory, tmp_path / "bucket")
    with range_server(directory) as address:
        expected = read(f"{address}/i0/red.tif")
    with faulty_server(tmp_path, rate=1, kinds=["503", "429", "stall"], runs=3, seed=2, log=tmp_path / "log") as address:
        run = read_s3(address, KEYS)
    assert run.stdout == expected.tobytes(), run.stderr.decode()
    assert sum(" 503 " in line or " 429 " in line for line in (tmp_path / "log").read_text().splitlines()) == 2
