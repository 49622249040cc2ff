"""Covariates that are computed from rasters: terrain and hydrology from a DEM, climate from monthly normals.

``dem`` opens a DEM. ``relief`` has terrain, by way of ``quadric`` (slope, aspect, curvatures) and ``position`` (topographic position).
``water`` has hydrology, by way of ``flow`` (what one block of a DEM does), ``wetness``, ``tiles`` (layers on the disk) and ``results``.
``normals`` has climate. ``joined`` puts them on an image's grid.
"""

from misoxr.covariates.water import hydrology

__all__ = ["hydrology"]
