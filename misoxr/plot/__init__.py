"""Pictures with matplotlib: maps, folds, scores, reliability and training curves.

``figures`` puts the maps of a dataset side by side, ``panels`` draws each, ``sets`` prediction sets, and ``cartography`` scale, north and axes;
``folds`` draws folds on the map, ``scores`` a comparison of models and reliability, ``training`` a model's losses, which ``history`` reads from its record.
``canvas`` makes figures, and ``shown`` has them shown once.
"""

from misoxr.plot.panels import classes, probability, true_colour, values

__all__ = ["classes", "probability", "true_colour", "values"]
