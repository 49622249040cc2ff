"""Fitting a network to labelled points.

``fit`` trains it: ``settings`` are checked, ``windows`` cuts training windows, ``batches`` draws them, ``loop`` runs the epochs, and ``progress``
shows them. ``disks`` asks at several places where one is not known for certain. ``teaching`` lets estimators teach it, ``members`` draws the points
of each member, and ``embedded`` fits estimators to a network's embedding. ``pretrain`` trains encoders before, on windows that ``masking`` cuts and
masks; ``runs`` keeps its state, and ``states`` that of ``loop``.
"""
