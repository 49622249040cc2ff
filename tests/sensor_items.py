"""Made-up items of known sensors over COGs, written as their catalogues write them, and the mask of their quality bands by hand."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rustac
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from misoxr.stac import open_stac
from tests.stac_scenes import ORIGIN, outline, write_cog, write_collection

WAYS: list[dict[str, Any]] = [{}, {"engine": "odc"}, {"reduce": "median"}]
SHAPE = (14, 16)
UTM = Affine(30, 0, ORIGIN[0] + 10, 0, -30, ORIGIN[1])


def full(value: float, dtype: str) -> np.ndarray:
    return np.full(SHAPE, value, dtype)


def made(
    directory: Path,
    name: str,
    collection: str,
    assets: Mapping[str, tuple[np.ndarray, float | None, Mapping[str, Any]]],
    *,
    time: str | None = "2022-07-01T21:00:00Z",
    properties: Mapping[str, Any] | None = None,
    crs: str = "EPSG:32605",
    transform: Affine = UTM,
    projection: bool = True,
) -> dict[str, Any]:
    """Write an item's files, and return it; each asset is its values, its file's nodata, and its fields."""
    written = {}
    for key, (values, nodata, fields) in assets.items():
        path = fields.get("path", f"{key}.tif")
        write_cog(directory / name / path, values, transform, crs, nodata, tile=16)
        written[key] = {"href": f"{name}/{path}", **{field: value for field, value in fields.items() if field != "path"}}
    grid = {"proj:code": crs, "proj:transform": list(transform)[:6], "proj:shape": list(SHAPE)} if projection else {}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": name,
        "collection": collection,
        **_outline(transform, crs),
        "properties": {"datetime": time, **grid, **(properties or {})},
        "links": [],
        "assets": written,
    }


def _outline(transform: Affine, crs: str) -> dict[str, Any]:
    size = SHAPE[0] * abs(transform.e) / 10, SHAPE[1] * transform.a / 10
    if crs != "EPSG:4326":
        return outline((transform.c, transform.f), (int(size[0]), int(size[1])), crs)
    west, north = transform.c, transform.f
    east, south = west + SHAPE[1] * transform.a, north + SHAPE[0] * transform.e
    ring = [[west, north], [west, south], [east, south], [east, north], [west, north]]
    return {"geometry": {"type": "Polygon", "coordinates": [ring]}, "bbox": [west, south, east, north]}


def cube_of(directory: Path, *items: dict[str, Any], **options: Any) -> xr.Dataset:
    return open_stac(write_collection(directory / "items.json", list(items)), **options)


def write_table(path: Path, items: list[dict[str, Any]]) -> None:
    async def write() -> None:
        await rustac.write(str(path), items)

    asyncio.run(write())


def one_time(cube: xr.Dataset, band: str) -> np.ndarray:
    values = cube[band].values
    return values[0] if values.ndim == 3 else values


# ---- quality bands: what is in them, and what the mask is, pixel by pixel


def sky(clear: int, clouds: int, lone: int, snow: int, fill: int, other: int, dtype: str) -> np.ndarray:
    """A quality band with a block of cloud, a lone cloud, snow, fill and something else that hides itself."""
    values = full(clear, dtype)
    values[2:5, 2:5] = clouds
    values[9, 4] = lone
    values[11, 11:13] = snow
    values[0:3, 14:16] = fill
    values[6, 13] = other
    return values


def clear_by_hand(snow: bool = False) -> np.ndarray:
    """The mask of :func:`sky`: the block of 3 x 3 has one pixel whose four neighbours are cloud; it grows by three steps along the axes."""
    clear = np.ones(SHAPE, bool)
    clear[2:5, 2:5] = False
    for row in range(SHAPE[0]):
        for column in range(SHAPE[1]):
            if abs(row - 3) + abs(column - 3) <= 3:
                clear[row, column] = False
    clear[9, 4] = False
    clear[11, 11:13] = snow
    clear[0:3, 14:16] = False
    clear[6, 13] = False
    return clear


QUALITY = {
    # vegetation; cloud of high probability; cirrus; snow; no data; unclassified
    "scl": sky(4, 9, 10, 11, 0, 7, "uint8"),
    # clear and of low confidences; cloud and its confidence; shadow; snow; fill; dilated cloud
    "qa_pixel": sky(21824, 22280, 23888, 30048, 1, 21826, "uint16"),
    # aerosol of two bits and water among them; cloud; shadow; snow; fill, all bits; beside a cloud
    "fmask": sky(0b01100000, 0b11000010, 0b01001000, 0b01010000, 255, 0b11000100, "uint8"),
}


# ---- the items


def eo(name: str, common: str | None = None) -> dict[str, Any]:
    return {"roles": ["data"], "eo:bands": [{"name": name, **({"common_name": common} if common else {})}]}


def raster(**fields: Any) -> dict[str, Any]:
    return {"raster:bands": [fields]}


def sentinel2_earth_search(directory: Path, **where: Any) -> dict[str, Any]:
    assets = {
        "red": (full(2500, "uint16"), 0, eo("red", "red") | raster(nodata=0, data_type="uint16", scale=0.0001, offset=-0.1)),
        "nir08": (full(3700, "uint16"), 0, eo("nir08", "nir08") | raster(nodata=0, data_type="uint16", scale=0.0001, offset=-0.1)),
        "scl": (QUALITY["scl"], 0, raster(nodata=0, data_type="uint8")),
    }
    properties = {"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": False, "platform": "sentinel-2b"}
    return made(directory, "S2B_5WNR_20220701_0_L2A", "sentinel-2-c1-l2a", assets, properties=properties, **where)


def sentinel2_planetary_computer(directory: Path) -> dict[str, Any]:
    assets = {
        "B04": (full(2500, "uint16"), 0, eo("B04", "red")),
        "B8A": (full(3700, "uint16"), 0, eo("B8A", "rededge")),
        "SCL": (QUALITY["scl"], 0, {"roles": ["data"]}),
    }
    return made(
        directory,
        "S2B_MSIL2A_20220701T213529_R086_T05WNR_20220702T003500",
        "sentinel-2-l2a",
        assets,
        properties={"s2:processing_baseline": "04.00"},
    )


def sentinel2_cdse(directory: Path, **where: Any) -> dict[str, Any]:
    assets = {
        "B04_10m": (
            full(2500, "uint16"),
            0,
            {"bands": [{"name": "B04", "eo:common_name": "red"}], "raster:scale": 0.0001, "raster:offset": -0.1, "nodata": 0},
        ),
        "B8A_20m": (
            full(3700, "uint16"),
            0,
            {"bands": [{"name": "B8A", "eo:common_name": "nir08"}], "raster:scale": 0.0001, "raster:offset": -0.1, "nodata": 0},
        ),
        "SCL_20m": (QUALITY["scl"], 0, {"roles": ["data"]}),
    }
    return made(
        directory,
        "S2B_MSIL2A_20220701T213529_N0400_R086_T05WNR_20220702T003500",
        "sentinel-2-l2a",
        assets,
        properties={"processing:version": "04.00"},
        **where,
    )


def landsat_planetary_computer(directory: Path, **where: Any) -> dict[str, Any]:
    """As stactools and the Planetary Computer write it: scale, offset and nodata declared."""
    declared = raster(nodata=0, data_type="uint16", scale=2.75e-05, offset=-0.2)
    assets = {
        "red": (full(10_000, "uint16"), 0, eo("OLI_B4", "red") | declared),
        "nir08": (full(20_000, "uint16"), 0, eo("OLI_B5", "nir08") | declared),
        "lwir11": (full(44_000, "uint16"), 0, eo("TIRS_B10", "lwir11") | raster(nodata=0, data_type="uint16", unit="kelvin", scale=0.00341802, offset=149.0)),
        "qa_pixel": (QUALITY["qa_pixel"], 1, {"roles": ["cloud", "cloud-shadow"]} | raster(data_type="uint16", unit="bit index", nodata=1)),
        "qa_radsat": (full(0, "uint16"), None, {"roles": ["saturation"]} | raster(data_type="uint16", unit="bit index")),
    }  # fmt: skip
    properties = {
        "platform": "landsat-9",
        "instruments": ["oli", "tirs"],
        "landsat:collection_number": "02",
        "landsat:correction": "L2SP",
    }
    return made(directory, "LC09_L2SP_067015_20220701_02_T1", "landsat-c2-l2", assets, properties=properties, **where)


def landsat_look(directory: Path, **where: Any) -> dict[str, Any]:
    """As USGS writes it: neither scale, nor offset, nor nodata."""
    assets = {
        "red": (full(10_000, "uint16"), 0, eo("B4", "red") | {"path": "SR_B4.TIF"}),
        "nir08": (full(20_000, "uint16"), 0, eo("B5", "nir08") | {"path": "SR_B5.TIF"}),
        "lwir11": (full(44_000, "uint16"), 0, eo("B10", "lwir11") | {"path": "ST_B10.TIF"}),
        "qa_pixel": (
            QUALITY["qa_pixel"],
            None,
            {"roles": ["cloud", "cloud-shadow", "snow-ice", "water-mask"], "path": "QA_PIXEL.TIF"},
        ),
    }
    return made(
        directory,
        "LC09_L2SP_067015_20220701_20220703_02_T1_SR",
        "landsat-c2l2-sr",
        assets,
        properties={"platform": "LANDSAT_9", "instruments": ["OLI", "TIRS"]},
        **where,
    )


def landsat_files(directory: Path) -> dict[str, Any]:
    """Files of one's own, keyed as USGS names them."""
    assets = {
        "SR_B3.TIF": (full(10_000, "uint16"), 0, {}),
        "SR_B4.TIF": (full(20_000, "uint16"), 0, {}),
        "ST_B6.TIF": (full(44_000, "uint16"), 0, {}),
        "QA_PIXEL.TIF": (QUALITY["qa_pixel"], None, {}),
    }
    return made(directory, "LE07_L2SP_067015_20220701_20220703_02_T1", "my-landsat", assets)


def hls(directory: Path, sensor: str, catalogue: str, name: str = "05WNR.2022182T213529", **options: Any) -> dict[str, Any]:
    """As the Planetary Computer and LP DAAC write it; both declare nothing of the numbers, and names of bands differ."""
    keys = {"S30": ("B04", "B8A"), "L30": ("B04", "B05")}[sensor]
    names = {"B04": "red", "B05": "nir"}  # the Planetary Computer's B8A has no common name
    collection = {"pc": f"hls2-{sensor.lower()}", "lpdaac": f"HLS{sensor}_2.0", "numbered": f"HLS{sensor}_2.0"}[catalogue]
    identity = f"HLS.{sensor}.T{name}.v2.0"
    assets = {}
    for at, (key, counts) in enumerate(zip((*keys, "Fmask", "SZA"), (750, 3500, None, 4100), strict=True)):
        values = QUALITY["fmask"] if counts is None else full(counts, "int16")
        nodata = {"Fmask": 255, "SZA": None}.get(key, -9999)
        fields = {"path": f"{identity}.{key}.tif"} | (eo(key, names.get(key)) if catalogue == "pc" else {})
        assets[f"download_{at}" if catalogue == "numbered" else key] = (values, nodata, fields)
    properties = {"platform": {"S30": "sentinel-2b", "L30": "landsat-8"}[sensor]} if catalogue == "pc" else {}
    return made(directory, identity, collection, assets, properties=properties, projection=catalogue == "pc", **options)


GRID = {"geobox": GeoBox(SHAPE, UTM, "EPSG:32605")}
"""CMR items have no projection metadata."""

WEST = {"crs": "EPSG:32660", "transform": Affine(30, 0, 641_400, 0, -30, 7_200_000)}
EAST = {"crs": "EPSG:32601", "transform": Affine(30, 0, 358_100, 0, -30, 7_200_000)}
"""Either side of 180 degrees, in other zones."""


def radar(
    directory: Path,
    name: str,
    orbit: str | None,
    value: float,
    time: str = "2022-07-01T17:00:00Z",
    collection: str = "sentinel-1-rtc",
    where: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    values = full(value, "float32")
    values[0, :3] = -32768
    fields = {"roles": ["data"]} | raster(nodata=-32768, data_type="float32", spatial_resolution=10.0, **more)
    properties = {"platform": "SENTINEL-1A", "constellation": "Sentinel-1", **({"sat:orbit_state": orbit} if orbit else {})}
    return made(
        directory,
        name,
        collection,
        {"vv": (values, None, fields), "vh": (values / 4, None, fields)},
        time=time,
        properties=properties,
        **(where or {}),
    )
