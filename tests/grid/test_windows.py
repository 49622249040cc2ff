"""Windows: every pixel covered, the lattice on the ground, weights continuous and never zero together."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from misoxr.grid.windows import plan
from misoxr.spec import WindowSpec

GOLDEN = Path(__file__).parents[1] / "data" / "golden.safetensors"


@st.composite
def specs(
    draw: st.DrawFn, tapers: tuple[str, ...] = ("cosine", "linear", "gaussian"), anchors: tuple[str, ...] = ("crs", "dataset")
):
    size = draw(st.integers(2, 40))
    taper = draw(st.sampled_from(tapers))
    stride = draw(st.integers(1, size if taper == "gaussian" else size - 1))
    ramp = None if taper == "gaussian" else draw(st.one_of(st.none(), st.integers(0, size - stride)))
    return WindowSpec(size, size, stride, taper, draw(st.sampled_from(anchors)), ramp)


lengths = st.integers(1, 130)
offsets = st.integers(-1000, 1000)


@given(specs(), lengths, lengths, offsets, offsets)
def test_windows_cover_every_pixel_and_stay_inside(spec, height, width, top, left):
    windows = plan((height, width), spec, (top, left))
    for axis, length in ((windows.y, height), (windows.x, width)):
        covered = np.zeros(length, dtype=int)
        for start in axis.starts:
            assert start >= 0
            assert start + axis.size <= length
            covered[start : start + axis.size] += 1
        assert covered.min() >= 1
        assert axis.starts[0] == 0
        assert axis.starts[-1] + axis.size == length
        assert max(np.diff(axis.starts), default=0) <= spec.stride
        assert list(axis.starts) == sorted(set(axis.starts))


@given(specs(anchors=("crs",)), lengths, offsets, st.integers(0, 60), st.integers(0, 60))
def test_a_larger_dataset_has_the_same_inner_windows(spec, length, offset, before, after):
    small = {start + offset for start in plan((length, 1), spec, (offset, 0)).y.starts}
    edges = {offset, offset + max(length - spec.size, 0)}
    large = {start + offset - before for start in plan((length + before + after, 1), spec, (offset - before, 0)).y.starts}
    assert small - edges <= large
    on_lattice = {start for start in large if start % spec.stride == 0 and offset <= start and start + spec.size <= offset + length}
    assert on_lattice <= small


@given(specs(), lengths, offsets)
def test_weights_never_vanish_together_at_a_pixel_centre(spec, length, offset):
    axis = plan((length, 1), spec, (offset, 0)).y
    centres = np.arange(length) + 0.5
    total = np.zeros(length)
    for start in axis.starts:
        inside = (centres > start) & (centres < start + axis.size)
        weight = axis.weight(start, centres[inside])
        assert (weight >= 0).all()
        total[inside] += weight
    assert total.min() > (1e-4 if spec.taper == "gaussian" else 0.49)


@given(specs(tapers=("cosine", "linear")), lengths, offsets)
def test_weights_are_continuous_and_fall_to_zero_at_inner_borders(spec, length, offset):
    axis = plan((length, 1), spec, (offset, 0)).y
    ramp = spec.size - spec.stride if spec.ramp is None else spec.ramp
    for start in axis.starts:
        end = start + axis.size
        assert axis.weight(start, np.array([start]))[0] == pytest.approx(1.0 if start == 0 else 0.0, abs=1e-12)
        assert axis.weight(start, np.array([end]))[0] == pytest.approx(1.0 if end == length else 0.0, abs=1e-12)
        fine = np.linspace(start, end, 997)
        if ramp:
            steps = np.abs(np.diff(axis.weight(start, fine)))
            assert steps.max() <= 1.6 * (fine[1] - fine[0]) / ramp + 1e-12


@given(specs(), lengths, offsets, st.data())
def test_meeting_and_halo_hold_exactly_the_windows_of_a_block(spec, length, offset, data):
    axis = plan((length, 1), spec, (offset, 0)).y
    start = data.draw(st.integers(0, length - 1))
    stop = data.draw(st.integers(start + 1, length))
    fine = np.linspace(start, stop, 16 * (stop - start) + 1)[:-1]
    needed = {s for s in axis.starts if (axis.weight(s, fine) > 0).any()}
    found = axis.meeting(start, stop)
    assert needed <= set(found)
    assert all(axis.support(s)[0] < stop and axis.support(s)[1] > start for s in found)
    first, last = axis.halo(start, stop)
    assert (first, last) == (found[0], found[-1] + axis.size)
    assert first <= start
    assert last >= stop


def test_a_short_ramp_leaves_the_borders_of_windows_out():
    axis = plan((512, 1), WindowSpec(64, 64, 48, ramp=4)).y
    assert axis.support(48) == (54.0, 106.0)
    assert axis.weight(48, [54, 56, 58, 80, 102, 104, 106]) == pytest.approx([0, 0.5, 1, 1, 1, 0.5, 0])
    asked = sum((axis.weight(start, np.arange(512) + 0.5) > 0).sum() for start in axis.starts)
    assert asked == 512 + 4 * (len(axis.starts) - 1)


def test_without_a_ramp_each_pixel_has_one_window():
    axis = plan((300, 1), WindowSpec(64, 64, 48, ramp=0), (7, 0)).y
    total = sum(axis.weight(start, np.arange(300) + 0.5) for start in axis.starts)
    np.testing.assert_array_equal(total, 1.0)


def test_windows_of_a_block_are_the_product_of_both_axes():
    windows = plan((100, 70), WindowSpec(16, 16, 12), (5, 3))
    assert windows.y.starts == (0, 7, 19, 31, 43, 55, 67, 79, 84)
    # The window at 7 hands over to the one at 19 up to pixel 23, the one at 31 to the one at 43 from pixel 43 on.
    assert set(windows.windows((20, 40), (0, 12))) == {(row, column) for row in (7, 19, 31) for column in (0, 9)}


def test_a_dataset_smaller_than_a_window_has_one_window_of_full_weight():
    axis = plan((7, 300), WindowSpec(64, 64, 48), (11, 0)).y
    assert axis.starts == (0,)
    assert axis.size == 7
    np.testing.assert_array_equal(axis.weight(0, np.arange(7) + 0.5), 1.0)


def test_the_published_tile_has_the_published_windows():
    windows = plan((375, 375), WindowSpec(250, 256, 125, "gaussian", "dataset"), (17, 4))
    assert windows.y.starts == windows.x.starts == (0, 125)
    tile = plan((5000, 5000), WindowSpec(250, 256, 125, "gaussian", "dataset"))
    assert len(tile.y.starts) * len(tile.x.starts) == 1521


def test_the_gaussian_taper_is_the_published_window():
    from safetensors.numpy import load_file

    golden = load_file(GOLDEN)["blend.gaussian250"]
    axis = plan((250, 250), WindowSpec(250, 256, 125, "gaussian")).y
    weight = axis.weight(0, np.arange(250) + 0.5)
    np.testing.assert_allclose(np.outer(weight, weight), golden, rtol=1e-6)
