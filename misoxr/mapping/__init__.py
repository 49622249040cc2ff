"""Models over a cube, lazily: maps, and answers at points.

``predict`` maps a model chunk by chunk, ``embed`` maps what its heads see, and ``predict_at`` answers at any coordinates; ``job`` is what each
block's task does, and ``ranges`` tells of inputs unlike those of training. ``ensemble`` averages several models, ``exclude`` leaves masks out,
``sets`` adds sets and intervals, ``load`` reads a model or estimator from its file, and ``provenance`` writes down where a map comes from.
"""
