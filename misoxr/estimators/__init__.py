"""scikit-learn estimators on a datacube: fitted to points, mapped, saved and read.

``baselines`` says what they see of a cube, and ``catalogue`` has those with a name. ``fitting`` fits them, ``pixel_model`` maps them, and ``embedded``
maps those that see a network's embedding. ``slabs`` shares pixels between cores. ``files`` saves and reads them, ``indices`` checks
what was read, and ``identity`` tells which are of one kind.
"""
