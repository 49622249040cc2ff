"""A cube in hand: composites in time, rasters joined to it, and one stack of a model's bands.

``composite``, ``season`` and ``join`` make an image, and ``presets`` builds a model's specification for it. ``check``, ``decode``, ``units``, ``stack`` and ``scaling`` bring its bands to a model.
``sources`` is what reads its own parts with a halo, and ``cutouts`` keeps parts on a disk. ``augment`` mirrors and rotates windows, ``features`` has what a scikit-learn estimator
sees, and ``variables`` names what a map holds.
"""
