"""STAC imagery: search, lazy cubes, cloud masks, scale and offset by processing baseline, reduction in time."""

from misoxr.stac.open import open_stac

__all__ = ["open_stac"]
