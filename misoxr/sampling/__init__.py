"""Where to sample next, and samples for validation.

``sites`` chooses sites, by its ``methods``, which use ``searches``; ``stratified`` draws a probability sample. Both take ``candidates``: pixels drawn from a map of any size.
``classes`` has the legends of class maps, and ``regions`` puts polygons on a grid.
"""

from misoxr.sampling.sites import next_sites
from misoxr.sampling.stratified import sample_size, stratified

__all__ = ["next_sites", "sample_size", "stratified"]
