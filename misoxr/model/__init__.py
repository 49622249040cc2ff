"""The network in PyTorch, without xarray and Dask: its layers, losses, files, calibration and inference.

``network`` is MISO, made of ``encoder`` and ``query``; ``losses`` what training minimises. ``checkpoint`` is a model and its file, ``files`` fetches
files and reads tensors, ``published`` reads the authors' weights, and ``pretrained`` has encoders of ``pretrain``. ``inputs`` scales bands, ``devices``
holds a device and what is sent there, ``inference`` runs windows, ``field`` answers at any coordinate, ``calibration`` has temperatures and shifts to
another prevalence, and ``conformal`` sets and intervals.
"""
