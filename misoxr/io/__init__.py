"""Stores: Zarr, Icechunk, GeoTIFFs and pyramids, written block by block and resumed after a stop.

``zarr``, ``icechunk``, ``geotiff`` and ``pyramid`` write; ``plan`` tells what a write will take. Below them are ``layout`` (arrays, attributes,
opening), ``blocks`` (Dask tasks) and ``codes`` (class maps). ``check`` finds what is missing or damaged, and ``mend`` mends it. ``storable`` makes a
dataset fit for Zarr, ``replace`` puts a new store in an old one's place, ``origins`` knows the files of stores and the arrays that a dataset is read
from, and ``staging`` brings checkpoints to workers.
"""
