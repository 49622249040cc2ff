"""A cube in hand: composites in time, rasters joined to it, and one stack of a model's bands.

``composite``, ``reductions``, ``season`` and ``join`` make an image, and ``presets`` builds a model's specification for it. ``check``, ``decode``, ``units``, ``stack`` and ``scaling`` bring its bands to a model.
``cutouts`` keeps parts on a disk. ``augment`` mirrors and rotates windows, ``features`` has what a scikit-learn estimator
sees, and ``variables`` names what a map holds.
"""
