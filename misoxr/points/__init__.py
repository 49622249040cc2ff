"""Labelled points: from a file to checked labels, and to folds.

``read`` reads and checks them, by way of ``readers`` (formats, coordinates, cells) and ``labels`` (classes by name or code).
``folds`` has the splitters of cross-validation, ``clusters`` the grouping of points that they share.
"""

from misoxr.points.read import duplicates, read_points, report

__all__ = ["duplicates", "read_points", "report"]
