"""Trust in maps: the area of applicability.

``applicability`` has the verbs. ``space`` lays out what is compared, ``training`` has the training points and their figures, ``nearest`` the
distances, compiled, and ``importance`` the weights of bands by permutation.
"""

from misoxr.uncertainty.applicability import training_dissimilarity

__all__ = ["training_dissimilarity"]
