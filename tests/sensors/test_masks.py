"""Clear-sky masks of random quality bands equal a plain definition, pixel by pixel, however they are stored and cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from misoxr.errors import AssetError
from misoxr.sensors.masks import FMASK, MARGIN, MASKS, QA_PIXEL, SCL, Sky, clear_sky, saturated
from misoxr.sensors.sensor import Mask


def plain(values: np.ndarray, mask: Mask, snow: bool, fill: int) -> np.ndarray:
    """Each pixel by itself: what it says, and whether a cloud that is wide enough is at most three steps away."""
    height, width = values.shape
    names = {place: told(int(values[place]), mask) for place in np.ndindex(values.shape)}
    cloudy = {place for place, found in names.items() if found & set(mask.clouds) and values[place] != fill}
    core = {
        (row, column)
        for row, column in cloudy
        if all(
            other in cloudy or not (0 <= other[0] < height and 0 <= other[1] < width)
            for other in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
        )
    }
    clear = np.ones(values.shape, bool)
    for place, found in names.items():
        near = any(abs(place[0] - row) + abs(place[1] - column) <= 3 for row, column in core)
        hidden = found & {*mask.clouds, *mask.hides, *([] if snow or mask.snow is None else [mask.snow])}
        known = mask.bits or bool(found)
        clear[place] = known and not near and not hidden and values[place] != fill
    return clear


def told(value: int, mask: Mask) -> set[str]:
    """The names of a value: digits of its binary form, or its code."""
    if not mask.bits:
        return {name for name, code in mask.names.items() if code == value}
    digits = f"{value:064b}"[::-1]
    return {name for name, bit in mask.names.items() if digits[bit] == "1"}


FILLS = {"scl": 0, "qa_pixel": 1, "fmask": 255}


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_masks_are_what_each_pixel_and_its_neighbours_say(data):
    mask = data.draw(st.sampled_from([SCL, QA_PIXEL, FMASK]))
    fill, snow = FILLS[mask.asset], data.draw(st.booleans())
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    codes = [fill, *data.draw(st.lists(st.integers(0, 13 if mask is SCL else 255), min_size=1, max_size=4))]
    codes.append(9 if mask is SCL else 1 << mask.names["cloud"])
    shape = data.draw(st.integers(1, 18)), data.draw(st.integers(1, 18))
    values = rng.choice(codes, shape).astype(data.draw(st.sampled_from(["uint8", "int16", "uint16", "int32", ">u2"])))
    if data.draw(st.booleans()):
        values[2:8, 3:9] = codes[-1]
    expected = plain(values, mask, snow, fill)
    assert (clear_sky(values, mask, snow, values == fill) == expected).all()
    # a part with its margin is the part of the whole
    top, left = (int(rng.integers(0, length)) for length in shape)
    rows, columns = (slice(max(first - MARGIN, 0), first + 3 + MARGIN) for first in (top, left))
    part = clear_sky(values[rows, columns], mask, snow, values[rows, columns] == fill)
    inner = part[top - rows.start : top - rows.start + 3, left - columns.start : left - columns.start + 3]
    assert (inner == expected[top : top + 3, left : left + 3]).all()


def test_the_highest_bit_of_a_signed_band():
    mask = Mask("qa", {"cloud": 15}, hides=("cloud",))
    assert clear_sky(np.array([[-32768, 0]], "int16"), mask).tolist() == [[False, True]]
    assert clear_sky(np.array([[255, 0]], "uint8"), mask).tolist() == [[True, True]]  # it has no such bit


def test_saturated_bands_are_bits_by_their_numbers():
    mask = saturated("qa_radsat", {3, 4, 10})
    values = np.array([[0, 0b100, 0b1000, 0b10000, 1 << 9, 0b1100]], "uint16")
    assert clear_sky(values, mask).tolist() == [[True, False, False, True, False, False]]
    assert Sky(mask).nodata((0.0, 4.0)) == ()  # every value is an observation


def test_bits_are_whole_numbers():
    with pytest.raises(AssetError, match="holds float32, and bits are whole numbers"):
        Sky(QA_PIXEL).clear(np.zeros((2, 2), "float32"))
    assert Sky(SCL).clear(np.full((2, 2), 4, "float32")).all()


def test_nodata_of_a_mask_are_what_is_declared_and_its_own_fill():
    assert Sky(FMASK).nodata((0.0,)) == (0.0, 255)
    assert Sky(Mask("qa", {"cloud": 0})).nodata((7.0,)) == (7.0,)
    assert {mask.asset: mask.fill for mask in MASKS.values()} == {"scl": (0,), "qa_pixel": (1,), "fmask": (255,)}
