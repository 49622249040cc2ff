"""Every verb that writes is killed, and left without room, at some of its file operations: the next call gives the whole result."""

import os
import random
import shutil
from collections.abc import Iterator

import pytest

from tests.harness import Host, host

SEED = int(os.environ.get("MISOXR_KILLS_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
MOMENTS = int(os.environ.get("MISOXR_KILLS", "2"))
"""Moments for each verb and fault."""
VERBS = [
    "Model.address",
    "Model.save",
    "PixelModel.save",
    "copied",
    "cross_validate",
    "fetch",
    "fit",
    "fit across disks",
    "pretrain",
    "to_cog",
]
VERBS += ["to_pyramid", "to_pyramid over another", "to_zarr", "to_zarr over another"]

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@pytest.fixture(scope="module")
def forks(tmp_path_factory) -> Iterator[Host]:
    with host(tmp_path_factory.mktemp("host")) as found:
        assert found.verbs == VERBS
        yield found


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_is_killed_or_has_no_room_gives_all_the_next_time(forks, tmp_path, verb):
    print("MISOXR_KILLS_SEED", SEED)
    rng = random.Random(f"{SEED} {verb}")
    whole = forks.run(verb, tmp_path / "whole", "count")
    for number, fault in enumerate(["kill", "full"] * MOMENTS):
        forks.hit(verb, tmp_path / str(number), fault, rng.randint(1, whole["count"]), whole["digest"])
