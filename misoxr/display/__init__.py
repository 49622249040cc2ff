"""Pictures and reports: ``maps`` draws imagery, probabilities and class maps; ``scores`` draws a comparison of models.

``report`` writes what maps show and are worth into one file of HTML: ``given`` looks at what goes into it, ``thinned`` reads maps of any size,
``pictures``, ``tables``, ``scored`` and ``sections`` make its parts, and ``page`` the whole.
"""
