"""The network in PyTorch, without xarray and Dask: its layers, losses, files, calibration and inference.

``network`` is MISO, made of ``encoder``, ``pyramid``, ``location`` and ``query``; ``losses`` what training minimises. ``checkpoint``
is a model and its file, ``published`` reads the authors' weights, ``inference`` runs windows and ``field`` answers at any coordinate.
"""
