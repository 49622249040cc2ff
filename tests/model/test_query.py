"""The implicit query: equal to its definition, continuous everywhere, with its axes in place."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from misoxr.model.query import Query, neighbours

CHANNELS, HIDDEN, WIDTH = 6, (10, 12), 8
STEP = 1e-6
"""Half a window is 1: a millimetre in a window of 2 km."""


def make_query(seed: int = 0) -> Query:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Query(CHANNELS, HIDDEN, WIDTH)


def make_feature(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, CHANNELS, generator=torch.Generator().manual_seed(seed))


def answer(query: Query, feature: Tensor, points: Tensor, sample: Tensor | None = None) -> Tensor:
    sample = torch.zeros(len(points), dtype=torch.long) if sample is None else sample
    _, height, width, _ = feature.shape
    near = neighbours(points.double(), height, width)
    with torch.no_grad():
        return query(query.project(feature), near._replace(cell=near.cell + sample * (height * width)))


def plain(query: Query, feature: Tensor, points: Tensor, sample: Tensor) -> Tensor:
    """The definition, one point and one neighbour at a time: MLP([feature, offset]), weighted, output layer, norm."""
    _, height, width, _ = feature.shape
    centres_y = [-1 + (2 * i + 1) / height for i in range(height)]
    centres_x = [-1 + (2 * i + 1) / width for i in range(width)]
    answers = []
    for (x, y), b in zip(points.double().tolist(), sample.tolist(), strict=True):
        rows = sorted(range(-1, height + 1), key=lambda i: abs(y - (-1 + (2 * i + 1) / height)))[:2]
        columns = sorted(range(-1, width + 1), key=lambda i: abs(x - (-1 + (2 * i + 1) / width)))[:2]
        total = torch.zeros(WIDTH)
        for row in rows:
            for column in columns:
                r, c = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
                share_y = 1 - abs(y - (-1 + (2 * row + 1) / height)) * height / 2
                share_x = 1 - abs(x - (-1 + (2 * column + 1) / width)) * width / 2
                offset = torch.tensor([(x - centres_x[c]) * width, (y - centres_y[r]) * height])
                values = torch.cat([feature[b, r, c], offset.float()])
                values = torch.relu(query.first(values))
                values = torch.relu(query.second(values))
                total = total + share_x * share_y * query.third(values)
        answers.append(query.norm(query.output(total)))
    return torch.stack(answers)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7), (1, 3), (1, 1)])
def test_equals_the_definition(height, width):
    query, feature = make_query(), make_feature(3, height, width)
    points = torch.rand(40, 2, generator=torch.Generator().manual_seed(2)) * 2 - 1
    sample = torch.arange(40) % 3
    with torch.no_grad():
        expected = plain(query, feature, points, sample)
    got = answer(query, feature, points, sample)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)
    assert got.std(dim=0).min() > 0.01, "a constant answer would equal anything"


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7)])
def test_centres_borders_and_corners_equal_the_definition(height, width):
    query, feature = make_query(), make_feature(1, height, width)
    x, y = (torch.linspace(-1, 1, 2 * n + 1) for n in (width, height))  # borders and centres in turn, and the window's edges
    points = torch.cartesian_prod(x, y)
    got = answer(query, feature, points)
    assert got.isfinite().all()
    with torch.no_grad():
        expected = plain(query, feature, points, torch.zeros(len(points), dtype=torch.long))
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)


def test_a_cell_centre_answers_from_its_cell_alone():
    query, feature = make_query(), make_feature(1, 4, 4)
    centre = torch.tensor([[-1 + 3 / 4, -1 + 5 / 4]])  # column 1, row 2
    before = answer(query, feature, centre)
    others = make_feature(1, 4, 4, seed=5)
    others[0, 2, 1] = feature[0, 2, 1]
    torch.testing.assert_close(answer(query, others, centre), before, atol=1e-5, rtol=0)
    swapped = feature.transpose(1, 2)
    assert (answer(query, swapped, centre) - before).abs().max() > 1e-2


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 9), m=st.integers(1, 9), data=st.data())
def test_a_millimetre_never_makes_a_difference(n, m, data):
    """Across cell borders, cell centres and the clamped edges, in any direction."""
    query, feature = make_query(), make_feature(1, n, m, seed=n * 10 + m)

    def place(cells):
        special = st.integers(0, 2 * cells).map(lambda i: -1 + i / cells)
        return st.one_of(special, st.floats(-1, 1, width=32))

    points = torch.tensor([[data.draw(place(m)), data.draw(place(n))] for _ in range(8)], dtype=torch.float32)
    angle = data.draw(st.floats(0, 2 * np.pi))
    step = torch.tensor([np.cos(angle), np.sin(angle)], dtype=torch.float32) * STEP
    one, other = (points - step / 2).clamp(-1, 1), (points + step / 2).clamp(-1, 1)
    difference = (answer(query, feature, one) - answer(query, feature, other)).abs().max()
    assert difference < 3e-5


def test_the_tolerance_would_show_a_jump():
    """With nearest neighbours alone, as before the weights were corrected, a border makes a visible step."""
    query, feature = make_query(), make_feature(1, 4, 4)
    index, offset, weight = neighbours(torch.tensor([[-0.5 - 1e-6, 0.1], [-0.5 + 1e-6, 0.1]]), 4, 4)
    nearest = weight.argmax(dim=0)
    cells = query.project(feature).values.flatten(0, 2)
    with torch.no_grad():
        answers = []
        for point, neighbour in enumerate(nearest):
            hidden = torch.relu(cells[index[neighbour, point]] + query.first.weight[:, CHANNELS:] @ offset[neighbour, point])
            answers.append(query.norm(query.output(query.third(torch.relu(query.second(hidden))))))
    assert (answers[0] - answers[1]).abs().max() > 1e-2


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 1000))
def test_weights_sum_to_one_and_stay_in_the_window(height, width, seed):
    points = torch.rand(50, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    index, offset, weight = neighbours(points, height, width)
    torch.testing.assert_close(weight.sum(dim=0), torch.ones(50), atol=1e-5, rtol=0)
    assert (weight >= 0).all()
    assert index.min() >= 0
    assert index.max() < height * width
    assert offset.abs().max() <= 2 + 1e-4


@pytest.mark.parametrize("axis", ["x", "y"])
def test_axes_do_not_mix(axis):
    """What varies along one axis alone gives an answer that varies along that axis alone."""
    query = make_query()
    with torch.no_grad():
        query.first.weight[:, CHANNELS:] = 0  # the offsets vary along both axes whatever the feature does
    line = make_feature(6)
    feature = line.expand(1, 6, 6, CHANNELS) if axis == "x" else line[:, None].expand(6, 6, CHANNELS)[None]
    ticks = torch.linspace(-1, 1, 23)
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    out = answer(query, feature, torch.stack([x, y], -1).reshape(-1, 2)).reshape(23, 23, WIDTH)
    still, moving = (0, 1) if axis == "x" else (1, 0)
    assert out.diff(dim=still).abs().max() < 1e-5
    assert out.diff(dim=moving).abs().max() > 1e-2


@pytest.mark.parametrize("axis", [0, 1])
def test_offsets_follow_their_own_axis(axis):
    """With one feature everywhere and the other offset's weights at 0, the answer varies along its axis alone."""
    query = make_query()
    with torch.no_grad():
        query.first.weight[:, CHANNELS + 1 - axis] = 0
    feature = make_feature(1).expand(1, 6, 6, CHANNELS)
    ticks = torch.linspace(-0.9, 0.9, 23)
    grid = torch.meshgrid(ticks, ticks, indexing="ij")  # grid[0] runs down, grid[1] to the right
    out = answer(query, feature, torch.stack([grid[1], grid[0]], -1).reshape(-1, 2)).reshape(23, 23, WIDTH)
    still, moving = (0, 1) if axis == 0 else (1, 0)
    assert out.diff(dim=still).abs().max() < 1e-5
    assert out.diff(dim=moving).abs().max() > 1e-3


def test_samples_of_a_batch_do_not_mix():
    query, feature = make_query(), make_feature(3, 4, 5)
    points = torch.rand(9, 2, generator=torch.Generator().manual_seed(3)) * 2 - 1
    sample = torch.tensor([2, 0, 1] * 3)
    together = answer(query, feature, points, sample)
    alone = torch.cat([answer(query, feature[b][None], point[None]) for b, point in zip(sample, points, strict=True)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
