"""How much there is, from a map and from sites that were drawn at random.

``estimated`` has areas and accuracies of classes, ``means`` those of values, and ``mapped`` what a map alone tells. They stand on ``counts`` (a map, block
by block), ``classes``, ``regions``, ``reference`` (sites), ``compared`` (both) and ``estimators``.
"""

from misoxr.sampling.estimated import accuracy, areas
from misoxr.sampling.mapped import area
from misoxr.sampling.means import mean

__all__ = ["accuracy", "area", "areas", "mean"]
