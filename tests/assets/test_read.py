import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from servers import range_server

from misoxr.assets import read as reading
from misoxr.assets.hrefs import gdal_path, redact, redirected, resolve
from misoxr.assets.http import http_session
from misoxr.assets.read import Asset, Reader
from misoxr.assets.remote import RemoteFile
from misoxr.errors import AssetError
from misoxr.sensors.decoding import Encoding
from misoxr.sensors.sensor import Counts
from tests.stac_scenes import counts, write_cog

WEST, NORTH = 500_000.0, 7_200_000.0
COUNTS = Encoding(scale=1e-4, nodata=(0.0,))


def read(asset: Asset, geobox: GeoBox, **options: object) -> np.ndarray:
    with Reader(geobox, **options) as reader:
        return reader.read(asset)


def grid(shape: tuple[int, int], size: float = 10, crs: str = "EPSG:32605", shift: float = 0) -> GeoBox:
    """A grid whose first corner is the scenes' own, in any CRS, moved by ``shift``."""
    x, y = pyproj.Transformer.from_crs("EPSG:32605", crs, always_xy=True).transform(WEST, NORTH)
    return GeoBox(shape, Affine(size, 0, round(x) + shift, 0, -size, round(y) + shift), crs)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("assets")
    write_cog(path / "ten.tif", counts((128, 160), 1), Affine(10, 0, WEST, 0, -10, NORTH), "EPSG:32605")
    write_cog(path / "twenty.tif", counts((64, 80), 2), Affine(20, 0, WEST + 5, 0, -20, NORTH - 5), "EPSG:32605")
    scl = np.full((64, 80), 4, dtype="uint8")
    scl[20:30, 30:45], scl[40, 40], scl[0:4, 76:], scl[:, :3], scl[50:52, 10:30] = 9, 8, 3, 0, 11
    write_cog(path / "scl.tif", scl, Affine(20, 0, WEST + 5, 0, -20, NORTH - 5), "EPSG:32605")
    return path


def local(directory: Path, name: str, kind: str = "numbers", **told: object) -> Asset:
    return Asset("item", "red", str(directory / name), str(directory), kind, replace(COUNTS, **told))


# ---- hrefs


@pytest.mark.parametrize(
    "href",
    [
        "/vsicurl/http://example.org/a.tif",
        "/vsizip//tmp/a.zip/a.tif",
        "/VSIMEM/a.tif",
        "vrt:///etc/passwd",
        "<VRTDataset></VRTDataset>",
        " <VRTDataset/>",
        "GTIFF_DIR:1:/tmp/a.tif",
        'HDF5:"/tmp/a.h5"://a',
        "ftp://example.org/a.tif",
        "zip+https://example.org/a.zip!a.tif",
        "data:image/tiff;base64,AAAA",
        "file:///etc/passwd",
        "file://example.org/share/a.tif",
        "/etc/passwd",
        "a.tif",
        "https:///a.tif",
        "http://example.org/a\n.tif",
        "s3://bucket/../other/a.tif",
        "s3://bucket/a.tif?x=/vsimem/",
        "s3://buck et/a.tif",
        "",
        None,
        7,
    ],
)
def test_hrefs_that_are_refused_without_a_local_catalogue(href):
    with pytest.raises(AssetError, match="is refused"):
        resolve(href, None, None)


@pytest.mark.parametrize(
    ("href", "base", "expected"),
    [
        ("https://example.org/a.tif?sig=1", None, "https://example.org/a.tif?sig=1"),
        ("./a.tif", "https://example.org/x/item.json", "https://example.org/x/a.tif"),
        ("../a.tif", "s3://bucket/x/y/item.json", "s3://bucket/x/a.tif"),
        ("s3://bucket/a b.tif", "https://example.org/item.json", "s3://bucket/a b.tif"),
        ("abfss://data@account.dfs.core.windows.net/x/a.tif", None, "abfss://data@account.dfs.core.windows.net/x/a.tif"),
    ],
)
def test_hrefs_that_are_opened(href, base, expected):
    assert resolve(href, base, None) == expected


def test_buckets_as_gdal_names_them():
    assert gdal_path("s3://bucket/x/a%20b.tif") == ("/vsis3/bucket/x/a b.tif", {})
    assert gdal_path("gs://bucket/a.tif") == ("/vsigs/bucket/a.tif", {})
    azure = gdal_path("abfs://data@account.dfs.core.windows.net/x/a.tif")
    assert azure == ("/vsiaz/data/x/a.tif", {"AZURE_STORAGE_ACCOUNT": "account"})


def test_local_hrefs_stay_below_the_catalogue(tmp_path):
    inside, outside = tmp_path / "catalogue", tmp_path / "outside.tif"
    (inside / "deep").mkdir(parents=True)
    outside.touch()
    (inside / "a.tif").touch()
    os.symlink(outside, inside / "link.tif")
    os.symlink(tmp_path, inside / "up")
    base, root = str(inside / "deep" / "item.json"), str(inside)
    assert resolve("../a.tif", base, root) == str((inside / "a.tif").resolve())
    assert resolve((inside / "a.tif").as_uri(), base, root) == str((inside / "a.tif").resolve())
    for href in (
        "../../outside.tif",
        "../link.tif",
        "../up/outside.tif",
        str(outside),
        outside.as_uri(),
        "../..%2foutside.tif/../../../x",
    ):
        with pytest.raises(AssetError, match="leads out of the catalogue's directory"):
            resolve(href, base, root)


SECRETS = [
    "https://me:SECRET@example.org/a.tif?sig=SECRET#x",
    "https://me:SEC/SECRET@example.org/a.tif",
    "https://example.org:SECRET/a.tif",
    "red.tif?sig=SECRET",
    "http:/example.org/a.tif?sig=SECRET",
    "/vsicurl/https://me:SECRET@example.org/a.tif",
    "/vsicurl?token=SECRET&url=https://example.org",
    "https://example.org/a.tif\n?sig=SECRET",
    "https://[example.org/a.tif?sig=SECRET",
    "ftp://me:SECRET@example.org/a.tif",
    "file:///a.tif?sig=SECRET",
    "s3://key:SECRET@bucket/a.tif?x",
    "<x>?SECRET",
    "PG:host=h password=SECRET",
]


def everything(error: BaseException | None) -> str:
    """The messages of an error and of all that led to it, as a log may hold them."""
    return "" if error is None else f"{error!r}{everything(error.__cause__)}{everything(error.__context__)}"


def test_secrets_are_left_out_of_messages():
    assert redact("https://me:word@example.org/a.tif?sig=secret#x") == "https://example.org/a.tif"
    assert redact("https://example.org:80/v@1/a.tif") == "https://example.org:80/v@1/a.tif"
    assert redact("/data/a#1.tif") == "/data/a#1.tif"


@pytest.mark.parametrize("href", SECRETS)
def test_refusals_and_signing_functions_tell_no_secret(href, tmp_path):
    def fails(_: str) -> str:
        raise KeyError(f"no account for {href}")

    asset = Asset("item", "red", "https://127.0.0.1:9/a.tif")
    steps = [
        lambda: resolve(href, None, str(tmp_path)),
        lambda: redirected("http://127.0.0.1:9/a.tif", f"ftp:{href}"),
        lambda: read(asset, grid((8, 8)), patch_url=fails),
    ]
    if not href.startswith("https://me"):  # which may be opened
        steps.append(lambda: read(asset, grid((8, 8)), patch_url=lambda _: href))
    for step in steps:
        assert "SECRET" not in refusal(step)


def refusal(step) -> str:
    """What an error tells, "" where there is none."""
    try:
        step()
    except AssetError as error:
        return everything(error)
    return ""


# ---- reading over HTTP


@pytest.fixture(scope="module")
def served(directory: Path) -> Iterator[str]:
    secret = directory.parent / "secret.tif"
    write_cog(secret, np.full((64, 64), 777, dtype="uint16"), Affine(10, 0, WEST, 0, -10, NORTH), "EPSG:32605")
    (directory / "trap.tif").write_text(
        f'<VRTDataset rasterXSize="64" rasterYSize="64"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
        f"<SourceFilename>{secret}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    (directory / "short.tif").write_bytes((directory / "ten.tif").read_bytes()[:3000])
    redirects = {
        "/file.tif": secret.as_uri(),
        "/ftp.tif": "ftp://127.0.0.1/ten.tif",
        "/https.tif": "https://127.0.0.1/ten.tif",
        "/moved.tif": "/ten.tif",
        "/loop.tif": "/loop.tif",
    }
    with range_server(directory, redirects) as address:
        yield address


def remote(served: str, name: str) -> Asset:
    return Asset("item-1", "red", f"{served}/{name}", encoding=COUNTS)


def test_http_and_local_files_give_the_same(served, directory):
    expected = read(local(directory, "ten.tif"), grid((128, 160)))
    assert np.isfinite(expected).mean() > 0.9
    for name in ("ten.tif", "moved.tif"):
        np.testing.assert_array_equal(read(remote(served, name), grid((128, 160))), expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file.tif", "redirects to another scheme"),
        ("ftp.tif", "redirects to another scheme"),
        ("https.tif", "redirects to another scheme"),
        ("loop.tif", "redirects more than"),
        ("trap.tif", "neither GeoTIFF nor JPEG 2000"),
        ("short.tif", "cannot be read"),
        ("absent.tif", "answers 404"),
    ],
)
def test_what_comes_over_http_is_refused_by_name(served, name, message):
    with pytest.raises(AssetError, match=rf"Item 'item-1', band 'red'.*{message}"):
        read(remote(served, name), grid((128, 160)))


def test_the_trap_is_one(directory, served):
    """Without the rules GDAL does read the local file through the VRT; should that end, the test above proves nothing."""
    with rasterio.open(directory / "trap.tif") as file:
        assert file.read(1).max() == 777


def test_a_local_vrt_is_refused_too(served, directory):
    with pytest.raises(AssetError, match="neither GeoTIFF nor JPEG 2000"):
        read(local(directory, "trap.tif"), grid((8, 8)))


def test_patch_url_is_applied_at_reading_and_checked(served, directory):
    asset = remote(served, "unsigned.tif")
    signed = read(asset, grid((8, 8)), patch_url=lambda href: href.replace("unsigned", "ten") + "?sig=secret")
    np.testing.assert_array_equal(signed, read(local(directory, "ten.tif"), grid((8, 8))))
    with pytest.raises(AssetError, match="is refused"):
        read(asset, grid((8, 8)), patch_url=lambda _: str(directory / "ten.tif"))
    with pytest.raises(AssetError) as error:
        read(asset, grid((8, 8)), patch_url=lambda href: href + "?sig=secret")
    assert "secret" not in str(error.value)


def test_few_requests(directory, tmp_path):
    """A COG's header and a few small tiles come in one request, another window's tiles do not."""
    log = tmp_path / "log"
    with range_server(directory, log=log) as address:
        read(Asset("item", "red", f"{address}/ten.tif", encoding=COUNTS), grid((128, 160)))
    assert len(log.read_text().splitlines()) <= 3


# ---- where values come from


GRIDS = {
    "aligned": grid((120, 150)),
    "larger than the raster": grid((150, 190), shift=-100),
    "half a pixel off": grid((120, 150), shift=5),
    "another size": grid((90, 100), size=13),
    "coarser": grid((20, 25), size=60, shift=-20),
    "another CRS": grid((140, 140), crs="EPSG:3338"),
    "another CRS, coarser": grid((40, 40), size=35, crs="EPSG:3338"),
    "degrees": GeoBox((100, 120), Affine(2e-4, 0, -153.0, 0, -1e-4, 64.92), "EPSG:4326"),
}


@pytest.mark.parametrize("name", GRIDS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_block_is_a_cut_of_the_whole(directory, name, data):
    box = GRIDS[name]
    top, left = (data.draw(st.integers(0, length - 1)) for length in box.shape.yx)
    bottom, right = (data.draw(st.integers(low + 1, length)) for low, length in zip((top, left), box.shape.yx, strict=True))
    for file, kind in (("ten.tif", "numbers"), ("twenty.tif", "numbers"), ("scl.tif", "clear"), ("scl.tif", "classes")):
        asset = local(directory, file, kind=kind)
        whole = read(asset, box)
        assert np.isfinite(whole).any()
        part = read(asset, box[top:bottom, left:right])
        np.testing.assert_array_equal(np.isnan(part), np.isnan(whole[top:bottom, left:right]))
        np.testing.assert_allclose(part, whole[top:bottom, left:right], rtol=0, atol=2e-7)


@pytest.mark.parametrize("name", GRIDS)
def test_a_plane_keeps_its_place(directory, name):
    """Bilinear interpolation and averaging reproduce a plane, so every pixel shows the place it claims to be at."""
    rows, columns = np.mgrid[:128, :160] + 0.5
    x, y = WEST + 10 * columns, NORTH - 10 * rows
    plane = ((x - WEST) + 2 * (NORTH - y)).astype("float32")
    write_cog(directory / "plane.tif", plane, Affine(10, 0, WEST, 0, -10, NORTH), "EPSG:32605", nodata=None)
    box = GRIDS[name]
    got = read(local(directory, "plane.tif", scale=None, nodata=()), box)
    centres = np.meshgrid(
        box.affine.c + box.affine.a * (np.arange(box.shape.x) + 0.5), box.affine.f + box.affine.e * (np.arange(box.shape.y) + 0.5)
    )
    east, north = pyproj.Transformer.from_crs(str(box.crs), "EPSG:32605", always_xy=True).transform(*centres)
    expected = (east - WEST) + 2 * (NORTH - north)
    edge = 60 if "coarser" in name else 10
    inner = (east > WEST + edge) & (east < WEST + 1600 - edge) & (north < NORTH - edge) & (north > NORTH - 1280 + edge)
    assert inner.sum() > 100
    assert np.isfinite(got[inner]).all()
    assert np.abs(got - expected)[inner].max() < 0.05
    outside = (east < WEST) | (east > WEST + 1600) | (north > NORTH) | (north < NORTH - 1280)
    assert np.isnan(got[outside]).all() or "coarser" in name


def test_an_equal_grid_is_read_as_it_is(directory):
    with rasterio.open(directory / "ten.tif") as file:
        source = file.read(1)
    expected = np.where(source == 0, np.nan, source * np.float32(1e-4)).astype("float32")
    np.testing.assert_array_equal(read(local(directory, "ten.tif"), grid((128, 160))), expected)


def test_offset_and_scale_give_the_same_number(directory):
    with rasterio.open(directory / "ten.tif") as file:
        source = file.read(1)
    raised = np.where(source == 0, 0, source + 1000).astype("uint16")
    write_cog(directory / "raised.tif", raised, Affine(10, 0, WEST, 0, -10, NORTH), "EPSG:32605")
    for box in (grid((128, 160)), GRIDS["another CRS"]):
        plain = read(local(directory, "ten.tif"), box)
        np.testing.assert_allclose(read(local(directory, "raised.tif", offset=-0.1), box), plain, rtol=0, atol=1e-7)


def test_nodata_does_not_bleed(directory):
    values = np.full((64, 64), 5000, dtype="uint16")
    values[:, :32] = 0
    write_cog(directory / "half.tif", values, Affine(20, 0, WEST + 5, 0, -20, NORTH - 5), "EPSG:32605")
    got = read(local(directory, "half.tif"), grid((128, 128)))
    valid = got[np.isfinite(got)]
    assert valid.size > 0
    np.testing.assert_allclose(valid, 0.5, atol=1e-6)
    x = WEST + 10 * (np.arange(128) + 0.5)
    np.testing.assert_array_equal(np.isnan(got[64]), (x < WEST + 5 + 640) | (x >= WEST + 5 + 1280))


def test_declared_nodata_goes_before_the_files(directory):
    asset = local(directory, "ten.tif")
    with rasterio.open(directory / "ten.tif") as file:
        value = int(file.read(1)[60, 60])
    assert np.isfinite(read(asset, grid((128, 160)))[60, 60])
    assert np.isnan(read(local(directory, "ten.tif", nodata=(value,)), grid((128, 160)))[60, 60])


@pytest.mark.parametrize("kind", ["numbers", "classes", "clear"])
def test_what_a_files_own_mask_hides_is_missing(directory, kind):
    values, shown = np.full((64, 80), 4, dtype="uint8"), np.ones((64, 80), dtype=bool)
    values[:10], shown[:10] = 0, False
    place = {"crs": "EPSG:32605", "transform": Affine(20, 0, WEST, 0, -20, NORTH)}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            directory / "masked.tif", "w", driver="GTiff", count=1, height=64, width=80, dtype="uint8", tiled=True, **place
        ) as file,
    ):
        file.write(values, 1)
        file.write_mask(shown)
    got = read(local(directory, "masked.tif", kind, nodata=()), grid((64, 80), size=20))
    np.testing.assert_array_equal(np.isnan(got), ~shown)


def test_what_is_hidden_is_not_judged(directory):
    """Neither power below zero nor a code that is too large, under a mask."""
    place = {"crs": "EPSG:32605", "transform": Affine(20, 0, WEST, 0, -20, NORTH)}
    for name, kind, values in (("power", "numbers", np.float32([0.1, -9999])), ("code", "classes", np.uint32([4, 2**32 - 1]))):
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(
                directory / f"{name}.tif", "w", driver="GTiff", count=1, height=16, width=32, dtype=values.dtype, **place
            ) as file,
        ):
            file.write(np.repeat(values, 256).reshape(16, 32), 1)
            file.write_mask(np.repeat([True, False], 256).reshape(16, 32))
        usual = Counts(1.0, 0.0, (), power=kind == "numbers", floats=True)
        got = read(local(directory, f"{name}.tif", kind, nodata=(), scale=None, usual=usual), grid((16, 32), size=20))
        np.testing.assert_array_equal(np.isnan(got), np.repeat([False, True], 256).reshape(16, 32))


def test_nodata_with_fewer_digits_is_missing(directory):
    values = np.full((64, 80), 0.2, dtype="float32")
    values[:10], values[10:20] = np.finfo("float32").min, np.float32(-9999.9)
    write_cog(directory / "digits.tif", values, Affine(20, 0, WEST, 0, -20, NORTH), "EPSG:32605")
    got = read(local(directory, "digits.tif", scale=None, nodata=(-3.402823e38, -9999.9)), grid((64, 80), size=20))
    np.testing.assert_array_equal(np.isnan(got).any(axis=1), np.arange(64) < 20)


def test_clouds_grow_and_specks_do_not(directory):
    own = GeoBox((64, 80), Affine(20, 0, WEST + 5, 0, -20, NORTH - 5), "EPSG:32605")
    clear = read(local(directory, "scl.tif", kind="clear"), own)
    assert np.isnan(clear[:, :3]).all()
    assert (clear[20:30, 30:45] == 0).all()
    assert (clear[[18, 31], 37] == 0).all()
    assert (clear[[17, 32], 37] == 1).all()
    assert clear[40, 40] == 0
    assert clear[40, 39] == clear[39, 40] == 1
    assert (clear[0:4, 74:] == 0)[:, 2:].all()
    assert (clear[50:52, 10:30] == 0).all()
    assert (clear[[49, 52], 20] == 1).all()


def test_a_raster_elsewhere_is_all_missing(directory):
    assert np.isnan(read(local(directory, "ten.tif"), grid((5, 5), shift=1e6))).all()


def test_rasters_that_cannot_be_placed(directory):
    with rasterio.open(
        directory / "nowhere.tif",
        "w",
        driver="GTiff",
        count=1,
        height=8,
        width=8,
        dtype="uint8",
        transform=Affine(1, 0, 5, 0, -1, 5),
    ) as file:
        file.write(np.ones((8, 8), dtype="uint8"), 1)
    with rasterio.open(
        directory / "three.tif",
        "w",
        driver="GTiff",
        count=3,
        height=8,
        width=8,
        dtype="uint8",
        crs="EPSG:32605",
        transform=Affine(1, 0, 5, 0, -1, 5),
    ) as file:
        file.write(np.ones((3, 8, 8), dtype="uint8"))
    with pytest.raises(AssetError, match="has no CRS"):
        read(local(directory, "nowhere.tif"), grid((5, 5)))
    with pytest.raises(AssetError, match="has 3 bands"):
        read(local(directory, "three.tif"), grid((5, 5)))


# ---- rasters finer than the grid


@pytest.mark.parametrize("kind", ["numbers", "classes", "clear"])
@pytest.mark.parametrize("block", ["coarse", "finer", "moved", "coarse and moved"])
def test_strips_give_what_the_whole_gives(directory, kind, block, monkeypatch):
    box = {
        "coarse": grid((12, 10), 75, shift=-33),
        "finer": grid((90, 120), 7, shift=13),
        "moved": grid((90, 120), 13, "EPSG:3338"),
        "coarse and moved": grid((14, 15), 95, "EPSG:3338", -300),
    }[block]
    asset = local(directory, "ten.tif" if kind == "numbers" else "scl.tif", kind)
    whole = read(asset, box)
    assert np.isfinite(whole).any()
    for pixels in (1, 300, 2000):
        monkeypatch.setattr(reading, "STRIP", pixels)
        # where a strip has no missing pixel, weights are not made up: a last digit may differ, as between blocks
        np.testing.assert_allclose(read(asset, box), whole, rtol=1e-6)


FINE = """
import sys
import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from misoxr.assets.read import Asset, Reader
from misoxr.errors import AssetError
from misoxr.sensors.decoding import Encoding
from misoxr.sensors.sensor import Counts
def most():
    return next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
def read(name, shape, size):
    with Reader(GeoBox(shape, Affine(size, 0, 5e5, 0, -size, 7.2e6), "EPSG:32605")) as reader:
        return reader.read(Asset("a", "red", f"{sys.argv[1]}/{name}", sys.argv[1], encoding=Encoding(scale=1.0)))
read("small.tif", (8, 8), 10)
before = most()
try:
    print(int(np.isfinite(read(sys.argv[2], (110, 110), float(sys.argv[3]))).sum()))
except AssetError as error:
    print(error)
print(most() - before)
"""


SPARSE = [
    (10980, 512, 10, 1000, "12100"),  # a tile of Sentinel-2 on a grid of 1 km
    (40_000, 16_384, 0.04, 10, "Item 'a', band 'red', .*its tiles of 16384 x 16384 uint8 are larger than 256 MB"),
    (1_000_000, 1024, 0.0016, 10, "Item 'a', band 'red', .*at most 10,000,000,000 are read for one; use smaller chunks"),
]


def sparse(directory: Path, side: int, tile: int, pixel: float) -> None:
    """Write a raster without a tile in it, and a small one."""
    options = {"driver": "GTiff", "count": 1, "crs": "EPSG:32605", "tiled": True, "compress": "deflate", "SPARSE_OK": True}
    for name, length, block in (("small.tif", 64, 64), ("large.tif", side, tile)):
        options |= {"transform": Affine(pixel, 0, WEST, 0, -pixel, NORTH), "blockxsize": block, "blockysize": block}
        with rasterio.open(directory / name, "w", height=length, width=length, dtype="uint8", **options):
            pass


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells how much memory was used")
@pytest.mark.parametrize(("side", "tile", "pixel", "size", "said"), SPARSE)
def test_a_raster_much_finer_than_the_grid_takes_little_memory(tmp_path, side, tile, pixel, size, said):
    sparse(tmp_path, side, tile, pixel)
    command = [sys.executable, "-c", FINE, str(tmp_path), "large.tif", str(size)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "GDAL_CACHEMAX": "64"})
    told, grown = run.stdout.strip().rsplit("\n", 1)
    assert re.search(said, told)
    assert int(grown) < 500


def test_what_a_file_says_of_its_tiles_is_bounded():
    """Place and length of a tile are what the file says; nothing is asked for."""
    for ask in (lambda file: file.read_ranges([0], [10**9]), lambda file: file.read(0, 10**9)):
        file = RemoteFile("http://127.0.0.1:9/a.tif", http_session())
        file._size, file._blocks = 10**12, {0: b""}
        ask(file)
        assert "at most 256000000 are read" in str(file.error)
