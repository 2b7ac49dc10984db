"""Prepare what comes next in a thread, while a device works on what came before."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

__all__ = ["ahead"]

Item = TypeVar("Item")
Made = TypeVar("Made")


def ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """The results of ``make`` for each item, in order; the next is made while one is used.

    ``make`` runs in one thread of its own, in the caller's context (patches, for example). What it
    raises is raised in its item's place.
    """
    context = copy_context()
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(1) as thread:
        for item in items:
            waiting.append(thread.submit(context.run, make, item))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        for made in waiting:
            yield made.result()
