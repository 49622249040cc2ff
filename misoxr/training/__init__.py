"""Fitting a network or a scikit-learn estimator to labelled points.

``fit`` trains a network: ``presets`` builds it for a cube, ``settings`` are checked, ``windows`` reads training windows (``cutouts`` on a disk),
``batches`` draws them, ``loop`` runs the epochs, and ``teaching`` lets estimators teach it. ``baselines`` fits scikit-learn estimators, ``catalogue``
has those with a name, ``pixel_model`` maps them, and ``slabs`` shares pixels between cores. ``estimator_files`` saves and reads them, and
``estimator_indices`` checks what was read.
"""
