"""Switch: turns the edits off for one thread or asyncio task, which others do not notice."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["is_off", "off"]

_OFF: ContextVar[frozenset[object]] = ContextVar("liveedit.off", default=frozenset())
"""The owners of the edits that are turned off in this context."""


@contextmanager
def off(owner: object) -> Iterator[None]:
    """Turn off the edits of ``owner`` within a block; may be nested."""
    before = _OFF.get()
    _OFF.set(before | {owner})
    try:
        yield
    finally:
        _OFF.set(before)  # not by a token: a generator may be left in another context


def is_off(owner: object) -> bool:
    """Whether the edits of ``owner`` are turned off here."""
    return owner in _OFF.get()
