"""Legends of class maps, their pixels as numbers of classes, and labels in the same numbers."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from misoxr.errors import BandError, MisoxrWarning, PointsError, SpecError
from misoxr.sampling.classes import Legend, classes_named, reference_classes


def legend(codes=(10, 20), names="trees very_wet", dtype="uint8", **attrs):
    flags = {"flag_values": list(codes), "flag_meanings": names}
    return Legend.of(xr.DataArray(np.zeros((2, 2), dtype), dims=("y", "x"), name="cover", attrs=flags | attrs))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_pixels_become_numbers_of_classes_nodata_and_what_is_no_class(dtype):
    found = legend(codes=(20, 10), dtype=dtype).numbers(np.array([[10, 20], [255, 7]], dtype))
    nodata = 3 if dtype == "float32" else 2  # floats have NaN for nodata
    np.testing.assert_array_equal(found, [[1, 0], [nodata, 3]])
    if dtype == "float32":
        np.testing.assert_array_equal(legend().numbers(np.array([np.nan, 10.5, np.inf, -np.inf], dtype)), [2, 3, 3, 3])


def test_nodata_is_what_the_map_declares():
    assert legend(_FillValue=np.uint8(0)).numbers(np.array([0, 255], "uint8")).tolist() == [2, 3]
    assert legend(codes=(0, 255)).numbers(np.array([0, 255, 9], "uint8")).tolist() == [0, 1, 3]
    assert legend(codes=(-1, 300), dtype="int16").numbers(np.array([-1, 300, 255], "int16")).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["trees", "very wet", None, " very_wet "], [0, 1, -1, 1]),
        ([10, 20, np.nan, 10], [0, 1, -1, 0]),
        (["10", "20.0", "", "10"], [0, 1, -1, 0]),
    ],
)
def test_labels_are_names_or_codes(labels, expected):
    numbers, names = reference_classes(pd.Series(labels, name="cover"), legend())
    assert (numbers.tolist(), names) == (expected, ("trees", "very_wet"))


def test_classes_named_by_numbers_are_not_taken_for_codes():
    named = legend(codes=(0, 1, 2), names="1 2 3")
    assert reference_classes(pd.Series([1, 2.0, "3"]), named)[0].tolist() == [0, 1, 2]
    with pytest.raises(PointsError, match=r"Labels of the reference are \['0'\]"):
        reference_classes(pd.Series([0, 1, 2]), named)


def test_truths_are_codes():
    assert reference_classes(pd.Series([True, False]), legend(codes=(0, 1), names="absent present"))[0].tolist() == [1, 0]


def test_a_misspelt_class_is_told():
    with pytest.warns(MisoxrWarning, match='lacks: .*treees.* Did you mean "trees"'):
        numbers, names = reference_classes(pd.Series(["trees", "treees"]), legend())
    assert (numbers.tolist(), names[-1]) == ([0, 2], "treees")


def test_strata_are_classes_only_if_all_are():
    assert classes_named(["very wet", 10], legend()).tolist() == [1, 0]
    assert classes_named(["trees", "north"], legend()) is None


def test_a_legend_that_contradicts_itself_is_refused():
    with pytest.raises(SpecError, match="give each class one of each"):
        legend(names="trees")
    with pytest.raises(SpecError, match="give each class one of each"):
        legend(names="trees trees")
    with pytest.raises(BandError, match="holds bool"):
        legend(dtype="bool")


@pytest.mark.parametrize("where", ["encoding", "attrs"])
def test_nodata_counts_wherever_it_stands(where):
    array = xr.DataArray(np.array([[0, 1, 2]], "uint8"), dims=("y", "x"), name="cover")
    array.attrs = {"flag_values": [1, 2], "flag_meanings": "dry wet"}
    getattr(array, where)["_FillValue" if where == "encoding" else "nodata"] = 0
    legend = Legend.of(array)
    np.testing.assert_array_equal(legend.numbers(array.values), [[2, 0, 1]])
    np.testing.assert_array_equal(legend.numbers(array.values.astype("int16")), [[2, 0, 1]])


def test_a_class_in_other_case_is_refused():
    """One capital letter would make a class of its own, and an area for it."""
    with pytest.raises(PointsError, match=r"\['Trees'\].*upper and lower case"):
        reference_classes(pd.Series(["trees", "Trees"]), legend())


def test_truths_are_no_codes_but_0_and_1():
    for codes, names in (((1, 2), "absent present"), ((0, 1, 2), "dry moist wet")):
        with pytest.raises(PointsError, match="are True and False, and the map 'cover' has"):
            reference_classes(pd.Series([True, True, None]), legend(codes=codes, names=names))


@pytest.mark.parametrize("text", ["nan", "<NA>", "None", "NA"])
def test_texts_for_missing_are_no_classes(text):
    with pytest.raises(PointsError, match=rf"1 labels of 'cover' are the text '{text}', which seems to stand for missing"):
        reference_classes(pd.Series(["trees", "very_wet", text]), legend())
    assert reference_classes(pd.Series(["None", "trees"]), legend(names="trees None"))[0].tolist() == [1, 0]
