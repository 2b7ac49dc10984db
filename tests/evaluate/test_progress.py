"""The estimate of the time left, on a clock set by hand, and the rise of memory."""

import pytest
import torch

from liveedit.evaluate.peak_memory import PeakMemory
from liveedit.evaluate.progress import Clock


@pytest.fixture
def clock(monkeypatch):
    """A clock whose work takes as long as is said."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    made = Clock()

    def work(kind, editor, count, seconds):
        with made.doing(kind, editor, count):
            now[0] += seconds

    made.work = work
    return made


def test_nothing_is_guessed_before_it_was_measured(clock):
    clock.left.update({("edit", "a"): 4, ("ask", "a"): 10})
    assert clock.seconds_left() is None
    clock.work("edit", "a", 2, 6.0)
    assert clock.seconds_left() is None
    clock.work("ask", "a", 1, 0.5)
    assert clock.seconds_left() == pytest.approx(2 * 3.0 + 9 * 0.5)


def test_an_editor_yet_to_begin_takes_the_mean_of_the_others(clock):
    clock.left.update({("edit", "a"): 3, ("edit", "b"): 1, ("edit", "c"): 10})
    clock.work("edit", "a", 3, 3.0)
    clock.work("edit", "b", 1, 5.0)
    assert clock.seconds_left() == pytest.approx(10 * 8.0 / 4)
    clock.work("edit", "c", 1, 7.0)
    assert clock.seconds_left() == pytest.approx(9 * 7.0)


def test_nothing_left_takes_no_time(clock):
    assert clock.seconds_left() == 0
    clock.left["edit", "a"] = 0
    assert clock.seconds_left() == 0


@pytest.mark.skipif(
    "not __import__('pathlib').Path('/proc/self/clear_refs').exists()", reason="Linux alone"
)
def test_memory_that_was_freed_again_is_seen():
    memory = PeakMemory(torch.device("cpu"))
    before = memory.rise()
    block = torch.ones(16 * 2**20)  # 64 MiB
    del block
    assert memory.rise() - before > 48 * 2**20
    assert PeakMemory(torch.device("cpu")).rise() < 16 * 2**20
