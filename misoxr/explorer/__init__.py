"""The interactive map: pan and zoom maps of any size, in a notebook or from a script.

``notebook`` (a ``widget``) and ``served`` show an ``atlas``, which answers a page's requests: a tile's colours, what lies under a click, what a view
would read. Below it are ``layers`` (what is drawn, with legends and overviews), ``blocks`` (what is read, and kept) and ``tiles`` (from tiles of a web
map to pixels of a grid). ``workers`` answer the newest request first. ``page`` puts the page together from the files in ``static``.
"""
