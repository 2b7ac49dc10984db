"""The estimate of the time left, on a clock set by hand, and the rise of memory."""

import pytest
import torch

from liveedit.evaluate.peak_memory import PeakMemory
from liveedit.evaluate.progress import Clock


@pytest.fixture
def work(clock):
    """An estimate of the time left, and pieces of work that take as long as is said."""
    made = Clock()

    def work(kind, editor, count, seconds):
        with made.measuring(kind, editor, count):
            clock.move(seconds)

    made.work = work
    return made


def test_nothing_is_guessed_before_it_was_measured(work):
    work.left.update({("edit", "a"): 4, ("probe", "a"): 10})
    assert work.seconds_left() is None
    work.work("edit", "a", 2, 6.0)
    assert work.seconds_left() is None
    work.work("probe", "a", 1, 0.5)
    assert work.seconds_left() == pytest.approx(2 * 3.0 + 9 * 0.5)


def test_an_editor_yet_to_begin_takes_the_mean_of_the_others(work):
    work.left.update({("edit", "a"): 3, ("edit", "b"): 1, ("edit", "c"): 10})
    work.work("edit", "a", 3, 3.0)
    work.work("edit", "b", 1, 5.0)
    assert work.seconds_left() == pytest.approx(10 * 8.0 / 4)
    work.work("edit", "c", 1, 7.0)
    assert work.seconds_left() == pytest.approx(9 * 7.0)


def test_nothing_left_takes_no_time(work):
    assert work.seconds_left() == 0
    work.left["edit", "a"] = 0
    assert work.seconds_left() == 0


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
