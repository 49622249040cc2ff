"""Stratified estimators: against published figures, formulas by hand, and simulated samples of known maps."""

import numpy as np
import pytest

from misoxr.errors import SpecError
from misoxr.sampling.estimators import Cells, checked_level, design_weights, limits, ratio, variance
from misoxr.sampling.means import Seen, estimated
from tests.sampling.places import COUNTS, PIXELS

SAMPLES = 1000


def by_class(counts):
    """Counts (..., map, reference) as cells of strata that are the map's classes (..., stratum, pair)."""
    classes = counts.shape[-1]
    cells = np.zeros((*counts.shape[:-1], classes, classes))
    for at in range(classes):
        cells[..., at, at, :] = counts[..., at, :]
    return cells.reshape(*counts.shape[:-1], classes**2)


def figures(classes):
    """The sets above and below the line of areas, user's and producer's accuracies, and overall accuracy."""
    mapped, reference = np.divmod(np.arange(classes**2), classes)
    own = np.arange(classes)[:, None]
    right, every = (mapped == own) & (reference == own), np.ones((classes, classes**2), bool)
    above = [reference == own, right, right, (mapped == reference)[None]]
    return np.concatenate(above), np.concatenate([every, mapped == own, reference == own, every[:1]])


@pytest.mark.parametrize("known", ["areas", "total", "nothing"])
def test_the_published_example_comes_out_to_the_digit(known):
    """Olofsson et al. 2014, tables 8 to 10; by each way to weigh strata, since pixels are equal."""
    cells, areas = Cells.of_counts(by_class(COUNTS), 0.09), PIXELS * 0.09
    given = {"areas": {"areas": areas}, "total": {"total": areas.sum()}, "nothing": {}}[known]
    found = ratio(cells, design_weights(cells, PIXELS, **given), *figures(4), separate=known == "areas")
    reach = 1.96 * np.sqrt(found.variance)
    np.testing.assert_array_equal((found.value[:4] * areas.sum()).round(), [21_158, 11_686, 285_770, 581_386])
    np.testing.assert_array_equal((reach[:4] * areas.sum()).round(), [6_158, 3_756, 15_510, 16_282])
    expected = [0.880, 0.733, 0.927, 0.963, 0.749, 0.847, 0.935, 0.962, 0.947]
    np.testing.assert_array_equal(found.value[4:].round(3), expected)
    np.testing.assert_array_equal(reach[4:].round(3), [0.074, 0.101, 0.040, 0.021, 0.213, 0.254, 0.034, 0.018, 0.018])


def test_ratios_are_the_formulas_of_olofsson_where_strata_are_classes():
    rng = np.random.default_rng(1)
    counts, sizes = rng.integers(2, 60, (3, 3)), np.array([4e4, 3e5, 1e5])
    cells = Cells.of_counts(by_class(counts))
    found = ratio(cells, design_weights(cells, sizes), *figures(3), separate=False)
    many, share = counts.sum(1), counts / counts.sum(1, keepdims=True)
    weights, within = sizes / sizes.sum(), share * (1 - share) / (many - 1)[:, None]
    users, total = share.diagonal(), sizes @ share
    producers = sizes * users / total
    np.testing.assert_allclose(found.value, [*(weights @ share), *users, *producers, weights @ users])
    others = [
        sizes[j] ** 2 * (1 - producers[j]) ** 2 * within[j, j]
        + producers[j] ** 2 * sum(sizes[i] ** 2 * within[i, j] for i in range(3) if i != j)
        for j in range(3)
    ]
    expected = [*(weights**2 @ within), *within.diagonal(), *(np.array(others) / total**2), weights**2 @ within.diagonal()]
    np.testing.assert_allclose(found.variance, expected)


def test_intervals_of_a_known_map_cover_its_areas():
    """Stratified samples without replacement, as many as the issue asks for; truth is what the population holds."""
    rng, drawn = np.random.default_rng(2), np.array([120, 100, 250])
    population = np.array([[42_000, 5_000, 3_000], [6_000, 20_000, 4_000], [9_000, 12_000, 199_000]])
    sizes, truth = population.sum(1), population.sum(0) / population.sum()
    draws = zip(population, drawn, strict=True)
    counts = np.stack([rng.multivariate_hypergeometric(row, many, SAMPLES) for row, many in draws], axis=1)
    cells = Cells.of_counts(by_class(counts))
    found = ratio(cells, design_weights(cells, sizes, areas=sizes), *figures(3), separate=True)
    ends = limits("share", found.value, np.sqrt(found.variance), 0.95)
    right = population.diagonal()
    every = [*truth, *(right / sizes), *(right / population.sum(0)), right.sum() / population.sum()]
    covered = ((ends["share_lower"] <= every) & (every <= ends["share_upper"])).mean(0)
    assert ((covered > 0.93) & (covered < 0.97)).all(), covered
    np.testing.assert_allclose(found.value.mean(0), every, rtol=0.02)


@pytest.mark.parametrize("separate", [True, False])
def test_intervals_cover_where_pixels_differ_in_area(separate):
    """Pixels of one class are larger, as in the south of a map in degrees; areas are shares of the area, not of the pixels."""
    rng, drawn = np.random.default_rng(3), 150
    area, sizes = rng.uniform(0.5, 1.5, 20_000), np.array([12_000, 8_000])
    stratum = np.repeat([0, 1], sizes)
    reference = (rng.random(20_000) < np.where(stratum == 0, 0.2, 0.1) + 0.5 * (area - 0.5)).astype(int)
    truth, areas = area[reference == 1].sum() / area.sum(), np.bincount(stratum, area)
    at = np.stack(
        [np.concatenate([rng.choice(np.flatnonzero(stratum == h), drawn, replace=False) for h in (0, 1)]) for _ in range(SAMPLES)]
    )
    cell = (np.arange(SAMPLES)[:, None] * 2 + stratum[at]) * 2 + reference[at]
    parts = (np.bincount(cell.ravel(), area[at.ravel()] ** power, SAMPLES * 4).reshape(SAMPLES, 2, 2) for power in range(3))
    cells = Cells(*parts)
    weights = design_weights(cells, sizes, areas=areas) if separate else design_weights(cells, sizes, total=area.sum())
    found = ratio(cells, weights, np.array([[False, True]]), np.ones((1, 2), bool), separate=separate)
    away = np.abs(found.value - truth) / np.sqrt(found.variance)
    assert 0.93 < (away < 1.96).mean() < 0.97
    assert found.value.mean() == pytest.approx(truth, abs=0.002)
    assert found.value.std() == pytest.approx(np.sqrt(found.variance.mean()), rel=0.06)
    assert abs(reference.mean() - truth) > 0.03  # what counting sites alone would give


def test_a_stratum_of_one_site_has_no_variance():
    assert np.isnan(variance(np.array([5.0, 1.0]), np.zeros(2), np.zeros(2), np.ones(2)))


def test_levels_are_shares():
    for level in (0, 1, 95, True, "0.95"):
        with pytest.raises(SpecError, match=r"level is .*such as 0\.95"):
            checked_level(level)


def drawn_samples(noise, sites=100, samples=SAMPLES):
    """Samples of a quantity and of a map of it, stratified; and the true mean and the map's."""
    rng = np.random.default_rng(4)
    sizes = np.array([30_000, 10_000])
    stratum = np.repeat([0, 1], sizes)
    truth = rng.gamma(2.0, 5.0, 40_000) * np.where(stratum == 0, 1.0, 2.0)
    mapped = 2.0 + 1.3 * truth + noise * truth.std() * rng.standard_normal(40_000)
    weights = sizes / (sites / 2)
    for _ in range(samples):
        at = np.concatenate(
            [rng.choice(sizes[0], sites // 2, replace=False), sizes[0] + rng.choice(sizes[1], sites // 2, replace=False)]
        )
        yield Seen(truth[at], mapped[at], np.ones(sites), stratum[at], weights), truth.mean(), mapped.mean()


def simulated(noise, samples=SAMPLES):
    """Coverage of the 95 % intervals and mean standard error of each estimator."""
    out = {name: [] for name in ("prediction_powered", "difference", "sample")}
    everywhere = np.ones(100, bool)
    for seen, truth, mapped in drawn_samples(noise, samples=samples):
        for name, one in estimated(seen, everywhere, mapped).items():
            ends = limits("mean", np.array(one.mean), np.array(one.standard_error), 0.95, degrees_of_freedom=one.degrees_of_freedom)
            out[name].append((ends["mean_lower"] <= truth <= ends["mean_upper"], one.standard_error, one.mean - truth))
    return {name: np.array(found, float).mean(0) for name, found in out.items()}


def test_prediction_powered_intervals_are_narrower_where_the_map_is_good_and_still_cover():
    found = simulated(noise=0.3)
    for name, (covered, _, off) in found.items():
        assert 0.93 < covered < 0.97, (name, covered)
        assert abs(off) < 0.15, name
    assert found["prediction_powered"][1] < 0.35 * found["sample"][1]
    assert found["prediction_powered"][1] < 0.85 * found["difference"][1]  # the map is 1.3 times as steep as the truth


def test_prediction_powered_intervals_are_as_wide_as_the_plain_ones_where_the_map_is_bad():
    found = simulated(noise=8.0, samples=200)
    assert found["prediction_powered"][1] < 1.01 * found["sample"][1] < found["difference"][1] / 5
    assert found["prediction_powered"][0] > 0.9
