"""Check the indices within fitted estimators from a file: scikit-learn follows them without checking their bounds.

skops checks which types a file holds, not what is in them. A tree whose nodes point outside of it would read foreign memory, or end
the process, at its first answer.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

__all__ = ["check_indices", "parts"]


def parts(value: Any) -> Iterator[Any]:
    """Yield an object and all that it holds: attributes, items of containers, and of arrays of objects."""
    seen, waiting = {id(value): value}, [value]
    while waiting:
        one = waiting.pop()
        yield one
        for held in _held(one):
            if id(held) not in seen:
                seen[id(held)] = held
                waiting.append(held)


def _held(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple | set):
        return list(value)
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, np.ndarray):
        return value.ravel().tolist() if value.dtype == object else []
    return [] if isinstance(value, type) else list(getattr(value, "__dict__", {}).values())


def check_indices(estimator: Any) -> None:
    """Refuse an estimator with an index out of bounds.

    Raises
    ------
    ValueError
        If a tree's nodes, or a neighbour search's, point outside of it.
    """
    from sklearn.neighbors import BallTree, KDTree
    from sklearn.tree._tree import Tree

    for part in parts(estimator):
        tree = getattr(part, "tree_", None)
        if isinstance(tree, Tree) and getattr(part, "n_features_in_", tree.n_features) != tree.n_features:
            raise ValueError(f"a tree of {tree.n_features} features in an estimator of {part.n_features_in_}")
        if isinstance(part, Tree):
            _check_nodes(part.children_left, part.children_right, part.children_left == -1, part.feature, part.n_features)
            _check(len(part.value) == part.node_count, "a tree with values of other nodes")
        elif type(part).__name__ == "TreePredictor":
            nodes, known = part.nodes, len(part.raw_left_cat_bitsets)
            _check_nodes(nodes["left"], nodes["right"], nodes["is_leaf"] != 0, nodes["feature_idx"], None)
            _check(bool((nodes["bitset_idx"][nodes["is_categorical"] != 0] < known).all()), "a tree with unknown categories")
        elif isinstance(getattr(part, "_predictors", None), list):
            _check_boosted(part)
        elif isinstance(part, KDTree | BallTree):
            _check_search(*part.__getstate__()[:4], balls=isinstance(part, BallTree))


def _check(fits: bool, what: str) -> None:
    if not fits:
        raise ValueError(what)


def _check_nodes(left: Any, right: Any, leaf: Any, feature: Any, features: int | None) -> None:
    """Refuse children that are not further on, which are none or make a circle, and features that are none."""
    _check(len(left) > 0, "a tree without nodes")
    inner, count = np.flatnonzero(~leaf), len(left)
    for children in (left, right):
        below = children[inner].astype("int64")
        _check(bool(((below > inner) & (below < count)).all()), "a tree whose nodes point outside of it")
    asked = feature[inner].astype("int64")
    _check(bool((asked >= 0).all() and (features is None or (asked < features).all())), "a tree that asks for unknown features")


def _check_boosted(estimator: Any) -> None:
    """Refuse boosted trees that ask for more features than the estimator is given."""
    known = int(estimator.n_features_in_)
    for tree in (tree for stage in estimator._predictors for tree in stage):
        inner = tree.nodes[tree.nodes["is_leaf"] == 0]
        _check(bool((inner["feature_idx"] < known).all()), "a tree that asks for unknown features")
    categorical = estimator._bin_mapper.is_categorical_
    _check(len(categorical) == known, "bins of other features")


def _check_search(points: Any, index: Any, nodes: Any, bounds: Any, *, balls: bool) -> None:
    """Refuse a tree of neighbours whose nodes hold points that are none, or lack their children."""
    count, inner = len(points), np.flatnonzero(nodes["is_leaf"] == 0)
    _check(bounds.shape == (1 if balls else 2, len(nodes), points.shape[1]), "a search tree with bounds of other nodes")
    _check(len(index) == count and bool(((index >= 0) & (index < count)).all()), "a search tree of points that are none")
    start, end = nodes["idx_start"], nodes["idx_end"]
    _check(bool(((start >= 0) & (start <= end) & (end <= count)).all()), "a search tree of points that are none")
    _check(bool((2 * inner + 2 < len(nodes)).all()), "a search tree whose nodes point outside of it")
