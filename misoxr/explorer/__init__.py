"""The interactive map: pan and zoom maps of any size, in a notebook or from a script.

``notebook`` and ``served`` show an ``atlas``, which answers a page's requests: the colours of a tile, what lies under a click, what a view would
read. Below it are ``layers`` (what is drawn, with its legend and overviews), ``blocks`` (what is read, and kept) and ``tiles`` (from the tiles of a
web map to pixels of a grid). ``requests`` answers the newest request first, and ``page`` puts the page together from the files in ``static``.
"""
