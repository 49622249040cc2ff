"""A simulated landscape with known truth, for demonstrations and for measuring models. Nothing here is Alaska."""

from misoxr.simulate.nature import SIMULATOR_VERSION
from misoxr.simulate.world import TRUTH, Simulation, bayes_scores, landscape, points, write

__all__ = ["SIMULATOR_VERSION", "TRUTH", "Simulation", "bayes_scores", "landscape", "points", "write"]
