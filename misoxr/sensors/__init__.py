"""A sensor's rules: which asset a band is, how its counts become reflectance, kelvin, metres or classes, and where the sky is clear.

``sensor`` says what a :class:`Sensor` is, ``optical`` and ``others`` describe the known ones, and ``known`` finds an item's. ``masks`` has the
clear-sky masks, ``sentinel2`` the offsets of Sentinel-2. ``declared`` reads what an item says of itself; ``bands`` finds assets by name,
``decoding`` turns counts into values, ``attributes`` says what came of it, and ``item_fields`` checks an item's JSON.
``rows`` finds the sensors of a table of items.
"""

from misoxr.sensors.known import SENSORS
from misoxr.sensors.sensor import Counts, Mask, Sensor

__all__ = ["SENSORS", "Counts", "Mask", "Sensor"]
