"""The pixel grid: where pixels lie, and which pixels a window, a chunk or an area covers.

``geobox`` finds a dataset's grid, ``resample`` puts rasters on it, ``windows`` plans the model's windows and ``halo`` lets chunks reach
into each other; ``sources`` is what reads its own parts with a halo. ``longitude`` and ``footprints`` handle areas on either side of 180 degrees and of Greenwich.
``geozarr`` writes a grid into the attributes of a store, and ``pixel_areas`` has the true areas of its pixels. ``polygons`` are regions with names, and
``layers`` turns maps into one orientation.
"""
