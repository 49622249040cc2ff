"""Covariates that are computed from rasters: terrain and hydrology from a DEM, climate from monthly normals.

``relief`` has terrain, by way of ``quadric`` (slope, aspect, curvatures) and ``position`` (topographic position). ``water`` has hydrology, by way of
``flow`` (what one block of a DEM does) and ``wetness``. ``normals`` has climate, by way of ``months``. ``joined`` puts them on an image's grid.
"""

from misoxr.covariates.normals import climate

__all__ = ["climate"]
