"""Fitting a network or a scikit-learn estimator to labelled points.

``fit`` trains a network: ``settings`` checks them, ``windows`` reads training windows (``cutouts`` on a disk), ``batches`` draws them, and ``loop`` runs
the epochs. ``baselines`` fits scikit-learn estimators, ``pixel_model`` maps them, ``estimator_files`` saves them. ``presets`` builds a model for a cube.
"""
