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
    token = _OFF.set(_OFF.get() | {owner})
    try:
        yield
    finally:
        _OFF.reset(token)


def is_off(owner: object) -> bool:
    """Whether the edits of ``owner`` are turned off here."""
    return owner in _OFF.get()
