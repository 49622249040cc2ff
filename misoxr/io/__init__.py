"""Stores: Zarr, Icechunk, GeoTIFFs and pyramids, written block by block and resumed after a stop.

``zarr``, ``icechunk``, ``geotiff`` and ``pyramid`` write; ``plan`` tells what a write will take. Below them are ``layout`` (arrays, attributes,
opening), ``blocks`` (Dask tasks), ``ledger`` (which blocks are done), ``geozarr`` (georeferencing) and ``codes`` (class maps).
"""
