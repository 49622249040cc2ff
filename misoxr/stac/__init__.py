"""From a STAC catalogue to a lazy cube or composite: :func:`open_stac`.

``open`` is the way through: ``arguments``, ``catalog`` (by ``search`` in an API) and ``item_table`` (by ``table_copy``) give items as
``found`` has them, ``filters`` and ``dates`` choose among them, ``target`` finds the grid, ``items`` what to read for each block; ``composite`` and ``engines`` build the Dask graph.
"""

from misoxr.stac.open import open_stac

__all__ = ["open_stac"]
