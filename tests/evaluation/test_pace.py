"""The time left of a cross-validation: each model by its own pace."""

import pandas as pd

from misoxr.evaluation.cache import Unit
from misoxr.evaluation.pace import in_turns, time_left

UNITS = [Unit(model, 0, fold) for model in ("miso", "forest") for fold in range(4)]


def found(**seconds):
    """Answers of the first folds of models, which took so long."""
    out = dict.fromkeys(UNITS)
    for model, times in seconds.items():
        out |= {Unit(model, 0, fold): pd.DataFrame({"seconds": [taken]}) for fold, taken in enumerate(times)}
    return out


def test_a_network_counts_for_what_it_takes():
    assert time_left(found(miso=[300], forest=[3])) == "about 15 min left"  # 3 x 300 s and 3 x 3 s, not 6 x 150 s
    assert time_left(found(miso=[300, 300, 300, 300], forest=[3])) == "about 9 s left"
    assert time_left(found(miso=[290, 310], forest=[3] * 4)) == "about 10 min left"


def test_what_is_not_known_is_said():
    assert time_left(found()) == "time left not known yet"
    assert time_left(found(forest=[3])) == "more than 9 s left"
    assert time_left(found(miso=[1] * 4, forest=[1] * 4)) == "0 s left"


def test_workers_share_it_and_the_last_one_takes_its_time():
    assert time_left(found(miso=[300], forest=[3]), at_once=2) == "about 7.6 min left"
    assert time_left(found(miso=[300], forest=[3]), at_once=100) == "about 5.0 min left"


def test_the_first_round_has_each_model():
    assert [unit.model for unit in in_turns(UNITS)] == ["miso", "forest"] * 4
