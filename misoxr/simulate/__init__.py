"""A simulated landscape with known truth, for demonstrations and for measuring models. Nothing here is Alaska.

``terrain`` makes the ground, and ``nature`` what lives on it. ``world`` is the landscape with its points, truth and scores; ``granules`` writes it as
Sentinel-2 passes and STAC items.
"""

from misoxr.simulate.nature import SIMULATOR_VERSION
from misoxr.simulate.world import TRUTH, Simulation, bayes_scores, landscape, points, write

__all__ = ["SIMULATOR_VERSION", "TRUTH", "Simulation", "bayes_scores", "landscape", "points", "write"]
