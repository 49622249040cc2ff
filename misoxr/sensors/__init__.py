"""A sensor's rules: which asset a band is, how its counts become reflectance, kelvin or classes, and where the sky is clear.

``known`` has sensors and products by name, ``sentinel2`` the rules of Sentinel-2, and ``masks`` the clear-sky masks. ``declared`` reads what an
item says of itself; ``bands`` finds assets by name, ``decoding`` turns counts into values, and ``item_fields`` checks an item's JSON.
"""
