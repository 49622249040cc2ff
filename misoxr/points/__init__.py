"""Labelled points: from a file to checked labels, and to folds.

``read`` reads them and places them on a grid, by way of ``files`` (what is opened), ``readers`` (coordinates, cells) and ``labels``
(classes by name or code). ``labelled`` has them as models learn from them: ``censoring`` judges absences by depth, ``years`` match dates. ``transfer`` fills labels
that others tell, and ``reports`` counts them. ``folds`` and ``knndm`` have the splitters of cross-validation, ``clusters`` what they share, and
``splits`` what verbs take. ``polygons`` are regions in a file.
"""

from misoxr.points.read import read_points
from misoxr.points.reports import duplicates, report
from misoxr.points.transfer import transfer_labels

__all__ = ["duplicates", "read_points", "report", "transfer_labels"]
