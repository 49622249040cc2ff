"""Reports: what maps show and are worth, in one file of HTML.

``report`` writes it: ``given`` looks at what goes into it, ``thinned`` reads maps of any size, ``pictures``, ``tables``, ``scored`` and ``sections``
make its parts, and ``page`` the whole. ``pictures`` and ``thinned`` also tell :mod:`misoxr.plot` of colours and sizes.
"""
