"""Sensors without clouds: radar, elevation and land cover, as their catalogues write them."""

from misoxr.sensors.sensor import Counts, Sensor

__all__ = ["OTHER_SENSORS", "RADAR"]

_POWER = Counts(nodata=(-32768.0,), units="1", power=True, floats=True)
_POLARIZATIONS = ("vv", "vh", "hh", "hv")
_RTC = Sensor(
    "sentinel-1-rtc",
    ("sentinel-1-rtc", "sentinel1-rtc-aws"),
    r"(sentinel[-_ ]?1|\bs1[a-d]?(?![a-z0-9]))\S*(rtc|gamma0|nrb)|opera\S*rtc[-_]s1",
    bands={name: pair for pair in _POLARIZATIONS for name in (pair, f"gamma0_{pair}")},
    counts=dict.fromkeys(_POLARIZATIONS, _POWER),
    orbits=True,
)
"""Gamma0 in power, unless an item declares the unit dB."""
RADAR = Sensor("sentinel-1", pattern=r"sentinel[-_ ]?1(?!\d)|\bs1[a-d]?(?![a-z0-9])", orbits=True)
"""Radar whose product is not known."""

_HEIGHT = Counts(nodata=(-32768.0, -32767.0, -9999.0, -99999.0, -999999.0), units="m", floats=True)
"""No land lies as deep: such values are nodata, whether a file tells it or not."""
_GLO = Sensor(
    "cop-dem",
    ("cop-dem-glo-30", "cop-dem-glo-90", "cop-dem-glo-30-dged-cog", "cop-dem-glo-90-dged-cog"),
    r"cop(ernicus)?[-_]?dem",
    bands={"data": "elevation", "elevation": "elevation", "dem": "elevation"},
    counts={"elevation": _HEIGHT},
)
_ARCTIC = Sensor(
    "arcticdem",
    ("arcticdem-mosaics-v4.1-2m", "arcticdem-mosaics-v4.1-10m", "arcticdem-mosaics-v4.1-32m", "arcticdem-strips-s2s041-2m"),
    r"arctic[-_]?dem",
    bands={"dem": "elevation"},
    counts={"elevation": _HEIGHT},
    asides=r"^(min|max)date$",
)
_DEM = Sensor(
    "elevation",
    ("nasadem", "alos-dem", "3dep-seamless"),
    r"nasadem|alos[-_]?dem|3dep[-_]?seamless",
    bands={"data": "elevation", "elevation": "elevation", "dem": "elevation"},
    counts={"elevation": _HEIGHT},
)

_COVER = (
    *(
        (10, "tree_cover"),
        (20, "shrubland"),
        (30, "grassland"),
        (40, "cropland"),
        (50, "built-up"),
        (60, "bare_or_sparse_vegetation"),
    ),
    *(
        (70, "snow_and_ice"),
        (80, "permanent_water_bodies"),
        (90, "herbaceous_wetland"),
        (95, "mangroves"),
        (100, "moss_and_lichen"),
    ),
)
_FLAGS = tuple((0, code, name) for code, name in _COVER)
_WORLDCOVER = Sensor(
    "esa-worldcover",
    ("esa-worldcover",),
    r"esa[-_ ]?world[-_ ]?cover",
    bands={"map": "land_cover", "esa_worldcover_10m_map": "land_cover"},
    counts={"land_cover": Counts(nodata=(0.0,))},
    flags={"land_cover": _FLAGS},
)

OTHER_SENSORS = (_WORLDCOVER, _RTC, _GLO, _ARCTIC, _DEM)
