"""Covariates that are computed from rasters: terrain and hydrology from a DEM, climate from monthly normals.

``dem`` reads a DEM. ``relief`` has terrain, by way of ``moving`` (windows), ``quadric`` (slope, aspect, curvatures) and ``position`` (topographic
position). ``water`` has hydrology, by way of ``flow`` (what one block of a DEM does), ``wetness``, ``tiles`` (layers on the disk) and ``results``.
``normals`` has climate, by way of ``months``. ``joined`` puts them on an image's grid, and ``degrees`` moves DEMs in degrees (``moved``).
"""

from misoxr.covariates.degrees import moved
from misoxr.covariates.normals import climate
from misoxr.covariates.position import Moments, position_moments
from misoxr.covariates.relief import terrain
from misoxr.covariates.water import hydrology

__all__ = ["Moments", "climate", "hydrology", "moved", "position_moments", "terrain"]
