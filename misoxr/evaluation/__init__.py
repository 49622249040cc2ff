"""Cross-validation: models, folds and seeds in, a table of scores out.

``cross_validate`` runs the folds; ``estimators`` says what is compared, ``cache`` keeps finished folds on a disk, ``pace`` tells how long the rest
takes. ``scores`` has every score that follows from the predictions, ``files`` their file, ``tables`` what is reckoned from them, and ``profile``
scores them by how unlike the training points their points are.
"""
