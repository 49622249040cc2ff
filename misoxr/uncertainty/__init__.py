"""What a map does not know, and where it does not hold.

``conformal`` fits sets and intervals that hold the truth with a chosen probability, and checks them against other points. ``applicability`` has the area of
applicability: ``space`` lays out what is compared, ``training`` has the training points and their figures, ``nearest`` the distances,
compiled, and ``importance`` the weights of bands by permutation.
"""

from misoxr.uncertainty.applicability import training_dissimilarity
from misoxr.uncertainty.conformal import calibrated, evaluated

__all__ = ["calibrated", "evaluated", "training_dissimilarity"]
