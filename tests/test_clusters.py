"""Work that cores share."""

import threading

import pytest

from misoxr import clusters


@pytest.fixture
def three(monkeypatch):
    monkeypatch.setattr(clusters, "cores", lambda: 3)


def test_large_work_is_shared_and_each_item_is_met_once(three):
    together, seen = threading.Barrier(3, timeout=60), []

    def work(item):
        together.wait()  # passes where three threads work at once
        seen.append(item)

    clusters.shared_out(work, range(9), clusters.LARGE)
    assert sorted(seen) == list(range(9))


def test_small_work_begins_no_thread(three):
    seen = []
    clusters.shared_out(lambda item: seen.append((item, threading.get_ident())), range(4), clusters.LARGE - 1)
    assert seen == [(item, threading.get_ident()) for item in range(4)]


def test_nothing_is_shared_of_nothing(three):
    clusters.shared_out(pytest.fail, [], clusters.LARGE)


def test_the_first_items_error_is_told(three):
    def work(item):
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 0"):
        clusters.shared_out(work, range(4), clusters.LARGE)
