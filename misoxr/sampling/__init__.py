"""Where to sample next, and samples for validation.

``sites`` chooses sites, by way of ``candidates`` (pixels drawn from a map of any size), ``methods`` and ``searches``. ``regions`` puts polygons on a grid.
"""

from misoxr.sampling.sites import next_sites

__all__ = ["next_sites"]
