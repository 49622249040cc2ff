"""Optical sensors: Sentinel-2, Landsat Collection 2 level 2 and HLS, as their catalogues write them."""

from dataclasses import replace

from misoxr.sensors.masks import FMASK, QA_PIXEL, SCL
from misoxr.sensors.sensor import Counts, Sensor
from misoxr.sensors.sentinel2 import offset_of

__all__ = ["OPTICAL_SENSORS", "PLATFORMS"]

_MSI = {"B1": "coastal", "B2": "blue", "B3": "green", "B4": "red", "B5": "rededge071", "B6": "rededge075", "B7": "rededge078"}
_MSI |= {"B8": "nir", "B8A": "nir08", "B9": "nir09", "B10": "cirrus", "B11": "swir16", "B12": "swir22"}
_MSI |= {"rededge1": "rededge071", "rededge2": "rededge075", "rededge3": "rededge078"}
_OLI = {"B1": "coastal", "B2": "blue", "B3": "green", "B4": "red", "B5": "nir08", "B6": "swir16", "B7": "swir22"}
_OLI_TIRS = _OLI | {"B8": "pan", "B9": "cirrus", "B10": "lwir11", "B11": "lwir12"}
_TM = {"B1": "blue", "B2": "green", "B3": "red", "B4": "nir08", "B5": "swir16", "B6": "lwir", "B7": "swir22"}

_ASIDES = (
    r"^[sv][az]a$|(sun|solar|view|viewing|sensor|incidence).*(azimuth|zenith|angle)|(azimuth|zenith)(mean)?$|(^|[-_ ])angles?$|"
    r"^(acquisition|observation)?[-_ ]?(dates?|dts|doy|times?|timestamps?)$"
)
"""Angles and dates of observation: what was seen is no measure of the ground."""

_L2A = Sensor(
    "sentinel-2-l2a",
    ("sentinel-2-l2a", "sentinel-2-c1-l2a", "sentinel-2-pre-c1-l2a", "sentinel-s2-l2a", "sentinel-s2-l2a-cogs"),
    r"(sentinel[-_ ]?s?2|\bs2)\S*(l2a|msi2a)",
    bands=_MSI,
    counts={
        "reflectance": Counts(1e-4, 0.0, (0.0,), "1"),
        "aot": Counts(1e-3, 0.0, (0.0,), "1"),
        "wvp": Counts(1e-3, 0.0, (0.0,), "cm"),
        "cloud": Counts(units="%"),
        "snow": Counts(units="%"),
    },
    mask=SCL,
    asides=_ASIDES,
    offset=offset_of,
)
_L1C = replace(
    _L2A,
    name="sentinel-2-l1c",
    collections=("sentinel-2-l1c", "sentinel-s2-l1c"),
    pattern=r"(sentinel[-_ ]?s?2|\bs2)\S*(l1c|msi1c)",
    counts={"reflectance": Counts(1e-4, 0.0, (0.0,), "1")},
    mask=None,
)

_KELVIN = Counts(0.00341802, 149.0, (0.0,), "K")
_LANDSAT = Sensor(
    "landsat-c2-l2",
    ("landsat-c2-l2", "landsat-c2l2-sr", "landsat-c2l2-st", "landsat-c2l2alb-sr", "landsat-c2l2alb-st"),
    # of level 2 and ARD, but for top of atmosphere (ta) and brightness temperature (bt)
    r"^(?!.*[-_](ta|toa|bt)(?![a-z0-9])).*?(landsat[-_ ]?c2[-_ ]?(l2|ard[-_]?(sr|st))|\bls[4-9]_s[rt]\b|\bl[cte]0[4-9]_l2s[pr]_\S*_02_)",
    counts={"reflectance": Counts(2.75e-5, -0.2, (0.0,), "1"), "lwir": _KELVIN, "lwir11": _KELVIN},
    mask=QA_PIXEL,
    surface=True,
    saturation="qa_radsat",
    asides=_ASIDES,
)

_CELSIUS = Counts(0.01, 0.0, (-9999.0,), "degC")
_S30 = Sensor(
    "hls-s30",
    ("hls2-s30", "HLSS30_2.0", "HLSS30.v2.0"),
    r"hls\w*?[-._ ]?s30",
    bands=_MSI,
    counts={"reflectance": Counts(1e-4, 0.0, (-9999.0,), "1")},
    mask=FMASK,
    surface=True,
    asides=_ASIDES,
    files=r"hls\.[ls]30\.\S+\.v[\d.]+\.(\w+)\.tif",
)
_L30 = replace(
    _S30,
    name="hls-l30",
    collections=("hls2-l30", "HLSL30_2.0", "HLSL30.v2.0"),
    pattern=r"hls\w*?[-._ ]?l30",
    bands=_OLI | {"B9": "cirrus", "B10": "lwir11", "B11": "lwir12"},
    counts={"reflectance": Counts(1e-4, 0.0, (-9999.0,), "1"), "lwir11": _CELSIUS, "lwir12": _CELSIUS},
)

OPTICAL_SENSORS = (_S30, _L30, _L1C, _L2A, _LANDSAT)

PLATFORMS = (
    Sensor("sentinel-2", pattern=r"sentinel[-_ ]?s?2|\bs2[a-d]?(?![a-z0-9])|\bs2msi|\bmsi\b", bands=_MSI, asides=_ASIDES),
    Sensor(
        "landsat-8-9",
        pattern=r"landsat[-_ ]?[89](?!\d)|\bl[co]0[89](?!\d)|\bls[89](?![a-z0-9])|\boli\b",
        bands=_OLI_TIRS,
        asides=_ASIDES,
    ),
    Sensor(
        "landsat-4-7",
        pattern=r"landsat[-_ ]?[4-7](?!\d)|\bl[te]0[4-7](?!\d)|\bls[4-7](?![a-z0-9])|\betm\b|\btm\b",
        bands=_TM,
        asides=_ASIDES,
    ),
)
"""Instruments whose product is not known: their keys mean something, their counts nothing. Looked for in the platform, too."""
