"""What a map does not know: sets and intervals that hold the truth with a chosen probability.

``conformal`` fits them to the scores of a cross-validation, and checks them against those of other points.
"""

from misoxr.uncertainty.conformal import calibrated, evaluated

__all__ = ["calibrated", "evaluated"]
