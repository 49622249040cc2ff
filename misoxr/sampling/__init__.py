"""Where to sample next, and samples for validation.

``sites`` chooses sites, by way of ``candidates`` (pixels drawn from a map of any size), ``ground`` (areas, roads, costs), ``variables`` (covariates and
what is not known), and the ``methods``: ``coverage`` (k-means) and ``latin`` (Latin hypercubes), with ``spacing`` between sites.
"""

from misoxr.sampling.sites import next_sites

__all__ = ["next_sites"]
