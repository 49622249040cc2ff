"""Labels as codes: a class by its name, whatever the type, and an error where a label may be two things."""

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from misoxr.errors import PointsError, SpecError
from misoxr.points.read import encode, read_points
from misoxr.points.reports import report
from misoxr.spec import PERMAFROST, TAXONOMY, Task

DRAINAGE = Task("drainage", "multiclass", ("1", "2", "3", "4"))

SPELLINGS = {
    "int64": lambda labels: np.array(labels),
    "int8": lambda labels: np.array(labels, "int8"),
    "uint16": lambda labels: np.array(labels, "uint16"),
    "float64": lambda labels: np.array(labels, "float64"),
    "float32": lambda labels: np.array(labels, "float32"),
    "text": lambda labels: [str(label) for label in labels],
    "text of floats": lambda labels: [f"{label:.1f}" for label in labels],
    "padded text": lambda labels: [f" {label} " for label in labels],
    "text with zeros": lambda labels: [f"{label:02d}" for label in labels],
    "decimals": lambda labels: [Decimal(label) for label in labels],
    "Int64": lambda labels: pd.array(labels, "Int64"),
    "Float32": lambda labels: pd.array(labels, "Float32"),
    "string": lambda labels: pd.array([str(label) for label in labels], "string"),
    "categories of ints": lambda labels: pd.Categorical(labels),
    "categories of floats": lambda labels: pd.Categorical(np.array(labels, "float32")),
    "categories of text": lambda labels: pd.Categorical([str(label) for label in labels]),
    "mixed": lambda labels: [(label, str(label), float(label), np.int8(label))[at % 4] for at, label in enumerate(labels)],
}


def encoded(task: Task, labels: object) -> np.ndarray:
    return encode(pd.DataFrame({task.name: labels}), [task])[task.name]


@settings(max_examples=200, deadline=None)
@given(
    st.permutations(["0", "1", "2", "3", "7"]),
    st.lists(st.sampled_from([0, 1, 2, 3, 7]), min_size=1),
    st.sampled_from(sorted(SPELLINGS)),
)
def test_a_class_named_by_a_number_is_told_by_its_name(classes, labels, spelling):
    """Whatever the order of the classes, and the type of the labels: the code is the place of the name."""
    task = Task("state", "multiclass", tuple(classes))
    expected = [classes.index(str(label)) for label in labels]
    np.testing.assert_array_equal(encoded(task, SPELLINGS[spelling](labels)), expected)


@settings(max_examples=200, deadline=None)
@given(
    st.permutations(TAXONOMY.classes),
    st.lists(st.sampled_from(TAXONOMY.classes), min_size=1),
    st.sampled_from(["object", "string", "category"]),
)
def test_the_order_of_classes_moves_codes_alone(classes, labels, kind):
    task = replace(TAXONOMY, classes=tuple(classes))
    codes = encoded(task, pd.Series(labels, dtype=kind))
    assert [classes[int(code)] for code in codes] == labels


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([1, 0, None], [0, 1, np.nan]),
        ([1.0, 0.0, np.nan], [0, 1, np.nan]),
        (["1", "0", None], [0, 1, np.nan]),
        (["1.0", "0", ""], [0, 1, np.nan]),
        ([True, False, None], [0, 1, np.nan]),
        (pd.array([True, False, None], "boolean"), [0, 1, np.nan]),
        (pd.array([1, 0, None], "Int8"), [0, 1, np.nan]),
        (pd.Categorical([1, 0, None]), [0, 1, np.nan]),
    ],
)
def test_binary_classes_named_by_numbers_in_either_order(labels, expected):
    """Of classes "1" and "0" the second is "0"; of classes "0" and "1" codes are as they look."""
    np.testing.assert_array_equal(encoded(Task("thawed", "binary", ("1", "0")), labels), expected)
    other = [np.nan if np.isnan(code) else 1 - code for code in expected]
    np.testing.assert_array_equal(encoded(Task("thawed", "binary", ("0", "1")), labels), other)


@pytest.mark.parametrize("kind", [bool, object, "boolean", str, "string"])
def test_booleans_are_the_classes_that_say_so(kind):
    labels = pd.Series([True, False, True]).astype(kind)
    for classes, expected in ((("no", "yes"), [1, 0, 1]), (("True", "False"), [0, 1, 0]), (("absent", "present"), [1, 0, 1])):
        np.testing.assert_array_equal(encoded(Task("thawed", "binary", classes), labels), expected)
    three = Task("thawed", "multiclass", ("unknown", "FALSE", "TRUE"))
    np.testing.assert_array_equal(encoded(three, labels), [2, 1, 2])


def test_numbers_are_told_exactly():
    """Decimals in single precision, and whole numbers beyond those that floats tell apart."""
    depth = Task("depth", "multiclass", ("0.1", "0.25", "1e3"))
    np.testing.assert_array_equal(encoded(depth, np.array([1000, 0.1, 0.25], "float32")), [2, 0, 1])
    units = Task("unit", "multiclass", ("9007199254740993", "9007199254740992", "-1"))
    np.testing.assert_array_equal(encoded(units, [9007199254740993, -1, 9007199254740992]), [0, 2, 1])


@pytest.mark.parametrize("labels", [[1, 2], ["1", "2"], ["1.0", "2"], np.array([1.0, 2.0]), pd.Categorical([1, 2])])
def test_classes_that_are_one_number_are_refused_with_their_labels(labels):
    task = Task("state", "multiclass", ("1", "1.0", "2"))
    with pytest.raises(
        PointsError, match=r"label .* of 'state' is the name of several of the classes \['1', '1.0', '2'\].*give the task"
    ):
        encoded(task, labels)
    np.testing.assert_array_equal(encoded(task, [2, "2.0"]), [2, 2])


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], ["0", "1", "2", "3"], [0.0, 1.0, 2.0, np.nan]])
def test_codes_of_classes_named_by_numbers_are_refused(labels):
    """0 is a code and no name; taken as names, all others would be the class before the one that is meant."""
    with pytest.raises(
        PointsError,
        match=r"1 labels of 'drainage' are unknown \(.*0.*\); .*\['1', '2', '3', '4'\], and numbers are their names.*Write codes",
    ):
        encoded(DRAINAGE, labels)
    with pytest.raises(PointsError, match=r"1 labels of 'depth' are unknown \(1\)"):
        encoded(Task("depth", "multiclass", ("none", "0", "50")), ["none", 50, 1])


@pytest.mark.parametrize(
    ("labels", "task"), [(["Gelisols", 3], TAXONOMY), (["2", "Gelisols"], TAXONOMY), (["present", True], PERMAFROST)]
)
def test_names_and_codes_in_one_column_are_refused(labels, task):
    message = rf"Labels of '{task.name}' are names, such as .*, and codes, such as .*; the classes are .*{task.classes[0]}.*Write all labels as names"
    with pytest.raises(PointsError, match=message):
        encoded(task, labels)


def test_regressions_take_numbers_in_any_type():
    task = Task("soc", "regression")
    for labels in (
        [1, "2.5", None],
        pd.array([1.0, 2.5, None], "Float32"),
        ["1", "25e-1", ""],
        [Decimal(1), Decimal("2.5"), pd.NA],
    ):
        np.testing.assert_array_equal(encoded(task, labels), [1, 2.5, np.nan])
    with pytest.raises(PointsError, match=r"3 labels .*'1_000', 'inf', True"):
        encoded(task, ["1_000", "inf", True])


def test_names_of_classes_are_text():
    with pytest.raises(
        SpecError, match=r"classes of task 'state' are \(1, 2, 3\); give their names as text, such as \('1', '2', '3'\)"
    ):
        Task("state", "multiclass", (1, 2, 3))
    with pytest.raises(SpecError, match="names a class twice"):
        Task("state", "binary", ("dry", "dry "))


def test_accents_written_in_two_ways_are_one_class():
    """Programs write é as one character, or as e and an accent: both look alike."""
    one, two = "\u00e9t\u00e9", "e\u0301te\u0301"
    for task in (Task("state", "binary", ("sec", one)), Task("state", "binary", ("sec", two))):
        np.testing.assert_array_equal(encoded(task, [one, "sec", two, None]), [1, 0, 1, np.nan])
    with pytest.raises(SpecError, match="names a class twice"):
        Task("state", "multiclass", ("sec", one, two))


def test_reading_and_reporting_keep_the_names(tmp_path):
    """A column of a CSV with a gap comes as floats, with the names of its task all the same."""
    table = pd.DataFrame({"lon": [-150.0, -149.0, -148.0], "lat": 65.0, "class": ["1", "3", None]})
    table.to_csv(tmp_path / "points.csv", index=False)
    points = read_points(tmp_path / "points.csv", labels={"drainage": "class"})
    np.testing.assert_array_equal(encoded(DRAINAGE, points.drainage), [0, 2, np.nan])
    found = report(points, [DRAINAGE])
    assert dict(zip(found["group"], found["count"], strict=True)) == {"1": 1, "2": 0, "3": 1, "4": 0}
    lists = table.assign(**{"class": [[1, "1.0"], ["3", 3.0], [1, 1]]})
    np.testing.assert_array_equal(encoded(DRAINAGE, read_points(lists, labels={"drainage": "class"}).drainage), [0, 2, 0])
