import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from misoxr.grid.longitude import Circle, circle_of, columns_of_turn, gathered, near

DEGREES = Circle(360.0, -180.0)


@pytest.mark.parametrize(
    ("crs", "turn"),
    [
        ("EPSG:4326", 360),
        ("EPSG:4269", 360),
        ("EPSG:4807", 400),  # grads, from Paris
        ("EPSG:3857", 40_075_016.69),
        ("EPSG:3832", 40_075_016.69),  # its middle is 150 degrees
        ("EPSG:6933", 34_735_060.89),
        ("EPSG:3338", None),
        ("EPSG:32601", None),
        ("EPSG:3413", None),
        ("ESRI:54008", None),  # sinusoidal: equal steps, but of another length on each parallel
    ],
)
def test_where_x_is_a_longitude(crs, turn):
    circle = circle_of(crs)
    if turn is None:
        assert circle is None
    else:
        assert circle.turn == pytest.approx(turn)
        assert circle.west == pytest.approx(-turn / 2)


def test_columns_of_a_turn():
    assert columns_of_turn("EPSG:4326", 0.25, 1440) == 1440
    assert columns_of_turn("EPSG:4326", 0.0083333, 43200) == 43200  # few digits
    assert columns_of_turn("EPSG:4326", 0.25, 1441) == 1440  # the first column stands twice
    assert columns_of_turn("EPSG:4326", 0.25, 1439) == 1440
    assert columns_of_turn("EPSG:3338", 30, 100) is None


@given(st.floats(-1000, 1000), st.floats(-1000, 1000))
def test_near_is_within_half_a_turn(x, middle):
    moved = near(x, middle, 360.0)
    assert -180 <= moved - middle <= 180
    assert abs(np.remainder(moved - x + 180, 360) - 180) < 1e-9
    assert near(x, middle, None) == x


@given(
    st.lists(st.tuples(st.integers(-900, 900), st.integers(0, 60)), min_size=1, max_size=5),
    st.lists(st.integers(-3, 3), min_size=5),
)
@example([(0, 0), (174, 13), (-174, 0)], [0] * 5)  # one runs on over 180 degrees, and ends beyond another
def test_intervals_lie_side_by_side_however_they_are_written(intervals, turns):
    west, width = np.array(intervals, dtype="float64").T
    found = []
    for shift in (0, 360.0 * np.array(turns[: len(west)])):
        moved = west + shift + gathered(west + shift, west + shift + width, DEGREES)
        assert -180 <= moved.min() < 180
        found.append(moved)
    np.testing.assert_array_equal(*found)
    extent = (moved + width).max() - moved.min()
    # no other place to cut the circle makes them shorter
    for cut in moved:
        there = cut + np.remainder(west - cut, 360)
        assert extent <= (there + width).max() - cut
