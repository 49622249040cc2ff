"""What a catalogue's bands mean: which asset a band is, and how its counts become reflectance, kelvin or classes.

``known`` has a sensor's rules by its name and ``sentinel2`` those of Sentinel-2; ``declared`` reads what an item says of itself.
``bands`` finds assets by name, ``decoding`` turns counts into values, ``item_fields`` checks an item's JSON.
"""
