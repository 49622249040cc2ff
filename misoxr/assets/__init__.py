"""Windows of raster assets, read over HTTP range requests, from S3 or from a disk.

``read`` reads a window onto a grid, with ``sampling`` for the pixels; ``remote`` and ``http`` fetch bytes and try again, over
``connections`` that end in time. ``hrefs`` says which addresses are allowed, and what of them is told; ``inside`` which of them
lie in a private network. ``parquet`` unpacks tables within bounds.
"""
