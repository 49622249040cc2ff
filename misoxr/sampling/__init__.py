"""Where to sample next, samples for validation, and how much there is.

``sites`` chooses sites, by its ``methods``, which use ``searches``; ``stratified`` draws a probability sample. Both take ``candidates``: pixels drawn from a map of any size.
``estimated`` has areas and accuracies of classes from reference sites, ``means`` those of values, and ``mapped`` what a map alone tells. They stand on
``counts`` (a map, block by block), ``classes`` (legends), ``regions`` (polygons on a grid), ``reference`` (sites), ``compared`` (both) and ``estimators``.
"""

from misoxr.sampling.estimated import accuracy, areas
from misoxr.sampling.mapped import area
from misoxr.sampling.means import mean
from misoxr.sampling.sites import next_sites
from misoxr.sampling.stratified import sample_size, stratified

__all__ = ["accuracy", "area", "areas", "mean", "next_sites", "sample_size", "stratified"]
