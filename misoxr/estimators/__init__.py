"""scikit-learn estimators on a datacube: fitted to points, mapped, saved and read.

``baselines`` fits them, ``catalogue`` has those with a name, ``pixel_model`` maps them, ``embedded`` maps those that see a network's embedding, and
``slabs`` shares pixels between cores. ``files`` saves and reads them, and ``indices`` checks what was read.
"""
