"""What objects show of themselves in a notebook, as HTML without scripts and requests.

``scores`` shows a cross-validation, ``models`` networks and fitted estimators with their training ``curves``, ``datasets`` what ``ds.miso`` can do, and
``tables`` plans, recipes and splitters. ``cards`` has what all are made of, and their style.
"""
